//! What a back-end keeps of each queue: the record of what is in flight, and the dirty log.

use virtio_kit::device::{BadChain, Chain, Position, Queue, Witness};

use super::log::Marker;
use super::record::Record;

pub(super) struct Keeper {
    pub(super) record: Option<Record>,
    pub(super) marker: Option<Marker>,
}

impl Witness for Keeper {
    fn again(&mut self, queue: &mut Queue) -> Result<Option<Chain>, BadChain> {
        self.record.as_mut().map_or(Ok(None), |record| record.again(queue))
    }

    fn taken(&mut self, queue: &Queue, chain: &Chain, before: Position) {
        if let Some(record) = &mut self.record {
            record.taken(queue, chain, before);
        }
    }

    fn put_back(&mut self, queue: &Queue, chain: &Chain) {
        if let Some(record) = &mut self.record {
            record.put_back(queue, chain);
        }
    }

    fn completed(&mut self, queue: &Queue, chain: &Chain) {
        if let Some(marker) = &mut self.marker {
            marker.chain(chain);
        }
        if let Some(record) = &mut self.record {
            record.completed(queue, chain);
        }
    }

    fn publishing(&mut self, _: &Queue, position: Position) {
        if let Some(record) = &mut self.record {
            record.publishing(position);
        }
    }

    fn published(&mut self) {
        if let Some(marker) = &mut self.marker {
            marker.ring();
        }
        if let Some(record) = &mut self.record {
            record.published();
        }
    }
}
