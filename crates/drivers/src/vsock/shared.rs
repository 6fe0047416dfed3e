//! What a device's owner, its sockets and the bus know together.

use super::Error;
use super::receive::{Filled, Receive};
use super::transmit::Transmit;
use alloc::sync::Arc;
use atomic_waker::AtomicWaker;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use core::task::{Context, Poll};
use core::time::Duration;
use portable_atomic::AtomicU64;
use spin::Mutex;
use virtio_kit::clock::Clock;
use virtio_kit::driver::Device;
use virtio_kit::spec::vsock::{Config, Event, EventId, Header};
use virtio_kit::vsock::{Link, Listeners, Payload, Scratch};

/// Whoever is awaited may also be the other queue's business: no wait for one lasts longer than this.
const SLICE: Duration = Duration::from_millis(1);

pub(super) struct Shared {
    pub(super) link: Arc<Link>,
    pub(super) listeners: Listeners,
    pub(super) receive: Mutex<Incoming>,
    pub(super) transmit: Mutex<Transmit>,
    /// Until it is removed.
    pub(super) device: Mutex<Option<Device>>,
    pub(super) cid: AtomicU64,
    /// How often the device has said that connections are gone.
    pub(super) resets: AtomicU32,
    pub(super) needs_reset: AtomicBool,
    /// The configuration is to be read again.
    pub(super) config_changed: AtomicBool,
    /// The task that moves packets.
    pub(super) owner: AtomicWaker,
}

/// The queues from the device.
pub(super) struct Incoming {
    pub(super) packets: Receive,
    pub(super) events: Receive,
    pub(super) scratch: Scratch,
}

/// What follows the header in a buffer.
struct Rest<'b> {
    filled: &'b Filled,
    at: usize,
}

impl Payload for Rest<'_> {
    fn len(&self) -> usize {
        self.filled.len - self.at
    }

    fn read(&mut self, to: &mut [u8]) -> bool {
        let read = to.len() <= self.len() && self.filled.buffer.read(self.at, to).is_ok();
        self.at += if read { to.len() } else { 0 };
        read
    }
}

impl Shared {
    pub(super) fn cid(&self) -> u64 {
        self.cid.load(Ordering::Acquire)
    }

    /// Moves all packets that can be moved; how many came.
    pub(super) fn poll(&self) -> Result<usize, Error> {
        let came = match self.receive.try_lock() {
            Some(mut incoming) => self.take(&mut incoming)?,
            // Somebody else does.
            None => 0,
        };
        self.send()?;
        Ok(came)
    }

    fn take(&self, incoming: &mut Incoming) -> Result<usize, Error> {
        self.failed_if(self.take_all(incoming))
    }

    fn take_all(&self, incoming: &mut Incoming) -> Result<usize, Error> {
        let Incoming { packets, events, scratch } = incoming;
        // First: what comes after a reset is of connections after it.
        let mut reset = self.config_changed.swap(false, Ordering::AcqRel).then_some(false);
        events.take(|filled| {
            for event in filled.iter().filter(|event| event.len >= Event::SIZE) {
                let id = event.buffer.read_value::<Event>(0).map(|event| event.id.get());
                if id == Ok(EventId::TRANSPORT_RESET.0) {
                    reset = Some(true);
                }
            }
        })?;
        if let Some(connections) = reset {
            self.look_again(connections)?;
        }
        let link = &*self.link;
        packets.take(|filled| {
            link.run(scratch, |batch| {
                for packet in filled.iter() {
                    match packet.buffer.read_value::<Header>(0) {
                        Ok(header) if packet.len >= Header::SIZE => {
                            batch.receive(&header, &mut Rest { filled: packet, at: Header::SIZE });
                        }
                        _ => link.ignore(),
                    }
                }
            });
        })
    }

    /// Connections are gone, perhaps, and the context id may be another (5.10.6.7). Listeners go on.
    fn look_again(&self, connections: bool) -> Result<(), Error> {
        let config = match &mut *self.device.lock() {
            Some(device) => device.read_config::<Config>()?,
            None => return Ok(()),
        };
        let cid = config.guest_cid.get() & 0xffff_ffff;
        let before = self.cid.swap(cid, Ordering::AcqRel);
        self.link.set_near(cid);
        if connections || before != cid {
            self.resets.fetch_add(1, Ordering::AcqRel);
            self.link.reset();
        }
        Ok(())
    }

    /// Sends what there is to send, unless somebody else does, who then looks again.
    pub(super) fn send(&self) -> Result<(), Error> {
        loop {
            // What was put into the outbox before is seen by whoever has the queue, after letting go of it.
            fence(Ordering::SeqCst);
            if !self.link.has_outgoing() {
                return Ok(());
            }
            let Some(mut transmit) = self.transmit.try_lock() else { return Ok(()) };
            self.failed_if(transmit.flush(&self.link))?;
            if transmit.is_full() {
                drop(transmit);
                // Whoever moves packets waits for the device to read some.
                self.owner.wake();
                return Ok(());
            }
        }
    }

    /// For those who have something else to return: the device's owner learns of an error by itself.
    pub(super) fn send_what_goes(&self) {
        let _ = self.send();
    }

    /// A device that cannot go on has no connections.
    fn failed_if<R>(&self, result: Result<R, Error>) -> Result<R, Error> {
        if result.is_err() {
            self.link.reset();
        }
        result
    }

    /// Moves packets, after waiting for some for up to `limit` if there are none.
    pub(super) fn wait(&self, clock: &dyn Clock, limit: Duration) -> Result<usize, Error> {
        let Some(mut incoming) = self.receive.try_lock() else {
            // Somebody else waits, and moves what comes.
            clock.relax();
            return Ok(0);
        };
        let mut came = self.take(&mut incoming)?;
        if came == 0 {
            self.send()?;
            if self.link.has_outgoing() {
                if let Some(mut transmit) = self.transmit.try_lock() {
                    self.failed_if(transmit.wait(limit.min(SLICE)))?;
                }
            } else {
                self.failed_if(incoming.packets.wait(limit))?;
            }
            came = self.take(&mut incoming)?;
        }
        drop(incoming);
        self.send()?;
        self.owner.wake();
        Ok(came)
    }

    /// Moves packets until there are none, and has the task woken when there are. Ready only with an error.
    pub(super) fn poll_run(&self, cx: &mut Context<'_>) -> Poll<Error> {
        self.owner.register(cx.waker());
        loop {
            if let Err(error) = self.poll() {
                return Poll::Ready(error);
            }
            let more = self.receive.try_lock().map(|mut incoming| {
                let Incoming { packets, events, .. } = &mut *incoming;
                (packets.poll_come(cx), events.poll_come(cx))
            });
            let room = match self.link.has_outgoing() {
                true => self.transmit.try_lock().map(|mut transmit| transmit.poll_reclaim(cx)),
                false => None,
            };
            let (packets, events) = more.unwrap_or((Poll::Pending, Poll::Pending));
            let all = [packets, events, room.unwrap_or(Poll::Pending)];
            let mut again = false;
            for ready in all {
                match ready {
                    Poll::Ready(Err(error)) => {
                        self.link.reset();
                        return Poll::Ready(error);
                    }
                    Poll::Ready(Ok(())) => again = true,
                    Poll::Pending => {}
                }
            }
            if !again && !self.config_changed.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
    }
}
