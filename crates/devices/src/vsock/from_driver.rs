//! Packets from the driver (5.10.6.4). They are always taken, whatever happens to those to the driver (5.10.6.1), up to
//! the bound on refusals.

use super::shared::Shared;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use virtio_kit::device::{Chain, Service, Submitted};
use virtio_kit::spec::vsock::Header;
use virtio_kit::vsock::{Payload, Scratch};

/// Packets that are taken at a time.
const BATCH: usize = 64;

pub(super) struct FromDriver {
    shared: Arc<Shared>,
    scratch: Scratch,
    taken: VecDeque<Chain>,
    done: VecDeque<Chain>,
}

impl FromDriver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let room = || VecDeque::with_capacity(BATCH);
        Self { shared, scratch: Scratch::default(), taken: room(), done: room() }
    }
}

/// What follows the header in a chain.
struct Rest<'c>(&'c mut Chain);

impl Payload for Rest<'_> {
    fn len(&self) -> usize {
        self.0.readable_left()
    }

    fn read(&mut self, to: &mut [u8]) -> bool {
        self.0.read(to).is_ok()
    }
}

impl Service for FromDriver {
    fn submit(&mut self, chain: Chain) -> Submitted {
        self.taken.push_back(chain);
        Submitted::Pending
    }

    fn flush(&mut self) -> Result<(), virtio_kit::device::DeviceError> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let Self { shared, scratch, taken, done } = self;
        // One lock for all of them.
        shared.link.run(scratch, |batch| {
            while !taken.is_empty() {
                if batch.is_full() {
                    shared.held_up.store(true, Ordering::Release);
                    break;
                }
                let Some(mut chain) = taken.pop_front() else { break };
                match chain.read_value::<Header>() {
                    Ok(packet) => batch.receive(&packet, &mut Rest(&mut chain)),
                    Err(_) => shared.link.ignore(),
                }
                done.push_back(chain);
            }
        });
        Ok(())
    }

    fn poll(&mut self) -> Option<Chain> {
        self.done.pop_front()
    }

    fn pending(&self) -> usize {
        self.taken.len() + self.done.len()
    }

    fn waiting(&self) -> usize {
        self.taken.len()
    }

    fn capacity(&self) -> usize {
        BATCH
    }

    fn withdraw(&mut self) -> Option<Chain> {
        self.taken.pop_back()
    }
}
