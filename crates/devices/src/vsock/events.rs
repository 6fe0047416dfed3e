//! Events (5.10.6.7). There is one, and however often it happens before the driver has a buffer for it, it is told once.

use super::shared::Shared;
use alloc::sync::Arc;
use virtio_kit::device::{Chain, Service, Submitted};
use virtio_kit::spec::vsock::{Event, EventId};
use zerocopy::IntoBytes;

/// The event queue. Its buffers are taken only while there is something to tell.
pub(super) struct Events(pub(super) Arc<Shared>);

impl Service for Events {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let event = Event { id: EventId::TRANSPORT_RESET.0.into() };
        // Told or not, if the buffer is too small: the next one may do.
        if self.0.is_event_due() && chain.write(event.as_bytes()).is_ok() {
            self.0.event_told();
        }
        Submitted::Done(chain)
    }

    fn capacity(&self) -> usize {
        usize::from(self.0.is_event_due())
    }
}
