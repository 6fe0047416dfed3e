//! Packets to the driver (5.10.6.4).

use super::shared::Shared;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use virtio_kit::device::{Chain, Service, Submitted};
use virtio_kit::spec::vsock::Header;
use virtio_kit::vsock::Scratch;
use zerocopy::IntoBytes;

/// Buffers that are taken at a time.
const BATCH: usize = 64;

/// The queue to the driver. Its buffers are taken only while there is something to send; one that is not used after
/// all is kept for the next packet.
pub(super) struct ToDriver {
    shared: Arc<Shared>,
    scratch: Scratch,
    empty: VecDeque<Chain>,
    done: VecDeque<Chain>,
}

impl ToDriver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let room = || VecDeque::with_capacity(BATCH);
        Self { shared, scratch: Scratch::default(), empty: room(), done: room() }
    }
}

impl Service for ToDriver {
    fn submit(&mut self, chain: Chain) -> Submitted {
        self.empty.push_back(chain);
        Submitted::Pending
    }

    fn flush(&mut self) -> Result<(), virtio_kit::device::DeviceError> {
        let Self { shared, scratch, empty, done } = self;
        if empty.is_empty() || !shared.link.has_outgoing() {
            return Ok(());
        }
        // One lock for all of them.
        shared.link.run(scratch, |batch| {
            while let Some(mut chain) = empty.pop_front() {
                // A buffer that holds no payload would hold its connection up.
                let room = chain.writable_len().saturating_sub(Header::SIZE);
                if room == 0 {
                    shared.link.ignore();
                    done.push_back(chain);
                    continue;
                }
                let sent = batch.send(room, |packet, first, second| {
                    // There is room for them.
                    let _ = chain.write(packet.as_bytes());
                    let _ = chain.write(first);
                    let _ = chain.write(second);
                });
                if !sent {
                    empty.push_front(chain);
                    break;
                }
                done.push_back(chain);
            }
        });
        // Among them may have been refusals.
        shared.go_on();
        Ok(())
    }

    fn poll(&mut self) -> Option<Chain> {
        self.done.pop_front()
    }

    fn pending(&self) -> usize {
        self.empty.len() + self.done.len()
    }

    fn waiting(&self) -> usize {
        self.empty.len()
    }

    fn capacity(&self) -> usize {
        if self.shared.link.has_outgoing() { BATCH } else { 0 }
    }

    fn withdraw(&mut self) -> Option<Chain> {
        self.empty.pop_back()
    }
}
