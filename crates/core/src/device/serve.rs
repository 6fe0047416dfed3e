//! Serving a queue: submit and poll.

use super::{DeviceError, Witness};
use alloc::boxed::Box;
use virtio_kit_ring::device::{BadChain, Chain, NewError, Position, Queue, RingAddrs, ServeError, Server};
use virtio_kit_ring::mem::Memory;

/// What became of a submitted chain.
#[derive(Debug)]
pub enum Submitted {
    /// It is done: complete it.
    Done(Chain),
    /// It will come from [`Service::poll`].
    Pending,
}

/// What a device does with the chains of one queue.
pub trait Service: Send {
    /// A run begins: a service whose work comes from elsewhere looks for it here, before chains are taken.
    fn begin_run(&mut self) {}

    /// A run has ended: what was given back is published.
    fn end_run(&mut self) {}

    /// Begins the work of a chain.
    fn submit(&mut self, chain: Chain) -> Submitted;

    /// Hands over to whoever does the work what was submitted since the last time.
    fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// A chain whose work is done, if there is one.
    fn poll(&mut self) -> Option<Chain> {
        None
    }

    /// Chains submitted and not yet given back. Submission pauses at [`capacity`](Self::capacity).
    fn pending(&self) -> usize {
        0
    }

    /// How many of the pending chains wait for something of which the queue's waker tells, and need no polling.
    fn waiting(&self) -> usize {
        0
    }

    /// How many chains may be pending at once.
    fn capacity(&self) -> usize {
        usize::MAX
    }

    /// A pending chain whose work has not begun, the newest of them; it counts as never submitted. A receive
    /// queue that stops gives its driver's empty buffers back to the ring by this, and loses none.
    fn withdraw(&mut self) -> Option<Chain> {
        None
    }

    /// Waits, for a bounded time, until something pending is done. Called when the queue stops, and by
    /// workers that would rather sleep than poll.
    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// What one run of a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Chains taken.
    pub taken: usize,
    /// Chains completed.
    pub completed: usize,
    /// Chains whose work goes on, and has to be polled for.
    pub pending: usize,
    /// The driver wants to be notified.
    pub notify: bool,
}

/// Serves one queue, a piece of work at a time.
pub trait Worker: Send {
    /// Takes what is available, completes what is done, publishes once. Bounded by the queue's size.
    fn run(&mut self) -> Result<Run, DeviceError>;

    /// Asks the driver to notify. `false`, and it will not, if chains wait already: run first.
    fn restart(&mut self) -> bool;

    /// Asks the driver not to notify.
    fn disable(&mut self);

    /// Waits, for a bounded time, until pending work is done.
    fn wait(&mut self) -> Result<(), DeviceError>;

    /// Moves the queue to a changed set of regions, as [`Queue::set_memory`] does. A worker that cannot is busy.
    fn set_memory(
        &mut self,
        addrs: RingAddrs,
        memory: Memory,
        rings: Option<Memory>,
    ) -> Result<(), NewError> {
        let _ = (addrs, memory, rings);
        Err(NewError::Busy)
    }

    /// Whether chains in flight still use a set of regions that was replaced.
    fn uses_old_memory(&self) -> bool {
        false
    }

    /// Has somebody see every chain from now on: before the first run. Chains that their record has from a former
    /// queue are begun again.
    fn attach_witness(&mut self, witness: Box<dyn Witness>) -> Result<(), DeviceError> {
        let _ = witness;
        Err(DeviceError::Backend("the device lets nobody see its chains"))
    }

    /// Ends the work in flight and stops the queue.
    fn stop(self: Box<Self>) -> Stopped;
}

/// How a queue was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Where the ring stands; `next` counts chains in flight as taken, and withdrawn ones as not.
    pub position: Position,
    /// The driver wants to be notified of what was completed last.
    pub notify: bool,
    /// Chains whose work could not be ended. Somebody may still write to their buffers.
    pub in_flight: u16,
}

/// How often in a row a stopping queue waits for a service that says it waited, and gives nothing back.
const FRUITLESS: u32 = 100;

const FOREIGN: DeviceError = DeviceError::Backend("a chain came back to the wrong queue");

/// Submits what is taken, and counts what is done at once.
struct Submitting<'r, S> {
    service: &'r mut S,
    done: &'r mut usize,
}

impl<S: Service> Server for Submitting<'_, S> {
    #[inline(always)]
    fn wants(&self) -> bool {
        self.service.pending() < self.service.capacity()
    }

    #[inline(always)]
    fn serve(&mut self, chain: Chain) -> Option<Chain> {
        match self.service.submit(chain) {
            Submitted::Done(chain) => {
                *self.done += 1;
                Some(chain)
            }
            Submitted::Pending => None,
        }
    }
}

/// A queue and the service of its chains.
pub struct Serving<S> {
    queue: Queue,
    service: S,
    witness: Option<Box<dyn Witness>>,
}

impl<S: Service> Serving<S> {
    /// Serves `queue` with `service`.
    pub fn new(queue: Queue, service: S) -> Self {
        Self { queue, service, witness: None }
    }

    fn complete(&mut self, chain: Chain) -> Result<(), DeviceError> {
        if let Some(witness) = &mut self.witness {
            witness.completed(&self.queue, &chain);
        }
        self.queue.complete(chain).map_err(|_| FOREIGN)
    }
}

impl<S: Service> Serving<S> {
    /// Takes and submits what is available, up to `limit`. A broken rule ends it: what was taken before is still
    /// answered.
    fn take_all(&mut self, limit: usize, run: &mut Run) -> Result<Option<BadChain>, DeviceError> {
        while run.taken < limit {
            let submitting = Submitting { service: &mut self.service, done: &mut run.completed };
            match self.queue.serve(limit - run.taken, submitting) {
                Ok(0) => break,
                Ok(taken) => run.taken += taken,
                Err(ServeError::Broken(error)) => return Ok(Some(error)),
                Err(ServeError::Foreign(_)) => return Err(FOREIGN),
            }
        }
        Ok(None)
    }

    /// The same, with somebody who sees every chain.
    fn take_all_seen(&mut self, limit: usize, run: &mut Run) -> Result<Option<BadChain>, DeviceError> {
        while run.taken < limit && self.service.pending() < self.service.capacity() {
            let before = self.queue.position();
            let chain = match self.queue.take() {
                Ok(Some(chain)) => chain,
                Ok(None) => break,
                Err(error) => return Ok(Some(error)),
            };
            run.taken += 1;
            if let Some(witness) = &mut self.witness {
                witness.taken(&self.queue, &chain, before);
            }
            if let Submitted::Done(chain) = self.service.submit(chain) {
                self.complete(chain)?;
                run.completed += 1;
            }
        }
        Ok(None)
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        let Some(witness) = &mut self.witness else { return self.queue.publish() };
        let position = self.queue.settle();
        witness.publishing(&self.queue, position);
        let notify = self.queue.publish();
        witness.published();
        notify
    }

    /// Begins the chains again that a former queue left behind.
    fn resume(&mut self) -> Result<(), DeviceError> {
        while let Some(witness) = &mut self.witness
            && let Some(chain) = witness.again(&mut self.queue)?
        {
            // It may hold fewer than the service before did.
            while self.service.pending() >= self.service.capacity() {
                self.service.flush()?;
                self.service.wait()?;
                while let Some(chain) = self.service.poll() {
                    self.complete(chain)?;
                }
            }
            if let Submitted::Done(chain) = self.service.submit(chain) {
                self.complete(chain)?;
            }
        }
        self.service.flush()
    }

    fn work(&mut self) -> Result<Run, DeviceError> {
        let mut run = Run::default();
        let limit = usize::from(self.queue.config().size);
        let broken = match self.witness {
            None => self.take_all(limit, &mut run)?,
            Some(_) => self.take_all_seen(limit, &mut run)?,
        };
        self.service.flush()?;
        while let Some(chain) = self.service.poll() {
            self.complete(chain)?;
            run.completed += 1;
        }
        run.pending = self.service.pending().saturating_sub(self.service.waiting());
        run.notify = self.publish();
        match broken {
            Some(error) => Err(error.into()),
            None => Ok(run),
        }
    }

    /// Returns to the ring what the service has not begun.
    fn withdraw(&mut self) {
        while let Some(chain) = self.service.withdraw() {
            if let Some(witness) = &mut self.witness {
                witness.put_back(&self.queue, &chain);
            }
            // A broken queue takes nothing back, and a service may be wrong about what is newest: the driver
            // gets its buffers all the same.
            if let Err(chain) = self.queue.put_back(chain)
                && self.complete(chain).is_err()
            {
                return;
            }
        }
    }
}

impl<S: Service> Worker for Serving<S> {
    fn run(&mut self) -> Result<Run, DeviceError> {
        self.service.begin_run();
        let run = self.work();
        self.service.end_run();
        run
    }

    fn restart(&mut self) -> bool {
        self.queue.restart()
    }

    fn disable(&mut self) {
        self.queue.disable_notifications();
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        if self.service.pending() == 0 { Ok(()) } else { self.service.wait() }
    }

    fn set_memory(
        &mut self,
        addrs: RingAddrs,
        memory: Memory,
        rings: Option<Memory>,
    ) -> Result<(), NewError> {
        self.queue.set_memory(addrs, memory, rings)
    }

    fn uses_old_memory(&self) -> bool {
        self.queue.uses_old_memory()
    }

    fn attach_witness(&mut self, witness: Box<dyn Witness>) -> Result<(), DeviceError> {
        self.witness = Some(witness);
        self.resume()
    }

    fn stop(mut self: Box<Self>) -> Stopped {
        self.withdraw();
        let mut fruitless = 0;
        while self.service.pending() > 0 && fruitless < FRUITLESS {
            // A failure leaves chains out; the queue then keeps their memory for good.
            if self.service.flush().is_err() || self.service.wait().is_err() {
                break;
            }
            fruitless += 1;
            while let Some(chain) = self.service.poll() {
                fruitless = 0;
                if self.complete(chain).is_err() {
                    break;
                }
            }
        }
        let notify = self.publish();
        let (position, in_flight) = self.queue.stop();
        Stopped { position, notify, in_flight }
    }
}
