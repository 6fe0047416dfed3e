//! A port's data, both ways (5.3.6).

use super::backend::{Input, Output};
use super::state::Shared;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::Ordering;
use virtio_kit::device::{Chain, Service, Submitted};

/// Bytes that are moved at a time.
const PIECE: usize = 4096;

/// Pieces of one chain that are moved in one run.
const BUDGET: usize = 64;

/// The queue to the driver. Its buffers are taken only while input waits.
pub(super) struct Receive {
    shared: Arc<Shared>,
    port: u16,
    input: Option<Box<dyn Input>>,
    piece: Box<[u8]>,
    /// What of the piece is still to go.
    start: usize,
    end: usize,
}

impl Receive {
    pub(super) fn new(shared: Arc<Shared>, port: u16) -> Self {
        let input = shared.place(port).input.take();
        Self { shared, port, input, piece: vec![0; PIECE].into(), start: 0, end: 0 }
    }

    /// Gets the next piece when the last one is gone, if the driver wants it.
    fn refill(&mut self) {
        if self.start == self.end
            && self.shared.place(self.port).open.load(Ordering::Acquire)
            && let Some(input) = &mut self.input
        {
            self.start = 0;
            self.end = input.poll(&mut self.piece).min(PIECE);
        }
    }
}

impl Service for Receive {
    fn begin_run(&mut self) {
        if let Some(input) = self.shared.place(self.port).input.changed() {
            self.input = input;
            (self.start, self.end) = (0, 0);
        }
        self.refill();
    }

    fn submit(&mut self, mut chain: Chain) -> Submitted {
        loop {
            let len = chain.writable_left().min(self.end - self.start);
            if len == 0 {
                return Submitted::Done(chain);
            }
            // There is room for them.
            let _ = chain.write(&self.piece[self.start..self.start + len]);
            self.start += len;
            // Bounded by the buffer; the next one is taken only if there is more.
            self.refill();
        }
    }

    fn capacity(&self) -> usize {
        usize::from(self.start < self.end)
    }

    fn end_run(&mut self) {
        // Only now can the driver see all that came before the end.
        let place = self.shared.place(self.port);
        if place.hung_up.load(Ordering::Acquire)
            && (self.start == self.end || !place.open.load(Ordering::Acquire))
            && place.hung_up.swap(false, Ordering::AcqRel)
        {
            self.shared.tell_connected(self.port);
        }
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        // What was read and not given out is lost with the driver's state, as in a serial line that is reset.
        self.shared.place(self.port).input.put_back(self.input.take());
    }
}

/// The queue from the driver. One buffer is worked on at a time.
pub(super) struct Transmit {
    shared: Arc<Shared>,
    port: u16,
    output: Option<Box<dyn Output>>,
    chain: Option<Chain>,
    piece: Box<[u8]>,
    /// What of the piece is still to go.
    start: usize,
    end: usize,
    /// Whether any of the chain has gone.
    begun: bool,
    /// The output takes no more for now, and will say when it does.
    blocked: bool,
    stopping: bool,
}

impl Transmit {
    pub(super) fn new(shared: Arc<Shared>, port: u16) -> Self {
        let output = shared.place(port).output.take();
        let piece = vec![0; PIECE].into();
        let (begun, blocked, stopping) = (false, false, false);
        Self { shared, port, output, chain: None, piece, start: 0, end: 0, begun, blocked, stopping }
    }

    /// Moves as much of the chain as goes; whether it is through.
    fn work(&mut self) -> bool {
        let Some(chain) = &mut self.chain else { return false };
        let connected = self.shared.place(self.port).connected.load(Ordering::Acquire);
        let Some(output) = self.output.as_mut().filter(|_| connected && !self.stopping) else {
            // Nobody is there: what is sent is lost.
            return true;
        };
        self.blocked = false;
        for _ in 0..BUDGET {
            if self.start == self.end {
                (self.start, self.end) = (0, chain.readable_left().min(PIECE));
                if self.end == 0 || chain.read(&mut self.piece[..self.end]).is_err() {
                    return true;
                }
            }
            let left = self.end - self.start;
            match output.submit(&self.piece[self.start..self.end]).min(left) {
                0 => {
                    self.blocked = true;
                    return false;
                }
                taken => (self.start, self.begun) = (self.start + taken, true),
            }
        }
        false
    }
}

impl Service for Transmit {
    fn begin_run(&mut self) {
        if let Some(output) = self.shared.place(self.port).output.changed() {
            self.output = output;
        }
    }

    fn submit(&mut self, chain: Chain) -> Submitted {
        self.chain = Some(chain);
        (self.start, self.end, self.begun) = (0, 0, false);
        match self.work() {
            true => self.chain.take().map_or(Submitted::Pending, Submitted::Done),
            false => Submitted::Pending,
        }
    }

    fn poll(&mut self) -> Option<Chain> {
        if self.work() { self.chain.take() } else { None }
    }

    fn pending(&self) -> usize {
        usize::from(self.chain.is_some())
    }

    fn waiting(&self) -> usize {
        usize::from(self.blocked && self.chain.is_some())
    }

    fn capacity(&self) -> usize {
        1
    }

    fn withdraw(&mut self) -> Option<Chain> {
        if self.begun {
            // What has gone cannot be taken back, and what has not is not waited for.
            self.stopping = true;
            return None;
        }
        self.chain.take()
    }
}

impl Drop for Transmit {
    fn drop(&mut self) {
        self.shared.place(self.port).output.put_back(self.output.take());
    }
}
