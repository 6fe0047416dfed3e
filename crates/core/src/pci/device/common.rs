//! The common configuration registers (4.1.4.3).

use super::PciDevice;
use crate::device::{QueueState, RingAddrs};
use crate::registers::Width;
use alloc::vec;
use alloc::vec::Vec;
use virtio_kit_spec::pci::common as at;
use virtio_kit_spec::{F, Features, Status};

/// What a driver has written of a queue. It counts when the queue is enabled, and is out of reach from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Descriptors; 0 for the maximum, while nothing was written.
    pub size: u16,
    /// Where the ring is. Halves are written one by one.
    pub addrs: RingAddrs,
    /// The device keeps chains from before a reset, which therefore goes on for ever.
    pub stuck: bool,
}

/// Registers that the machine behind them does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Common {
    pub(super) device_word: u32,
    pub(super) driver_word: u32,
    pub(super) features: Features,
    pub(super) queue: u16,
    /// The generation as the driver sees it, and the one it stands for.
    pub(super) generation: u8,
    pub(super) seen: u32,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Common {
    pub(super) fn new(queues: u16) -> Self {
        Self {
            device_word: 0,
            driver_word: 0,
            features: Features::EMPTY,
            queue: 0,
            generation: 0,
            seen: 0,
            queues: vec![QueueRegisters::default(); queues.into()],
        }
    }

    /// As after a reset, which the generation survives.
    pub(super) fn clear(&mut self) {
        *self = Self { generation: self.generation, seen: self.seen, ..Self::new(self.queues.len() as u16) };
    }

    /// Another number if the configuration has changed since the last look, however often: 8 bits, counted at
    /// each change, would come round while a driver reads (4.1.4.3.1).
    fn generation(&mut self, changes: u32) -> u8 {
        if changes != self.seen {
            self.seen = changes;
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }
}

/// The width at which a register is accessed; `None` where there is none. Those of 64 bits are, in halves too.
fn width(offset: usize) -> Option<Width> {
    match offset {
        at::DEVICE_FEATURE_SELECT | at::DEVICE_FEATURE | at::DRIVER_FEATURE_SELECT | at::DRIVER_FEATURE => {
            Some(Width::U32)
        }
        at::DEVICE_STATUS | at::CONFIG_GENERATION => Some(Width::U8),
        at::QUEUE_DESC..at::QUEUE_NOTIF_CONFIG_DATA if offset.is_multiple_of(4) => Some(Width::U32),
        at::CONFIG_MSIX_VECTOR..at::QUEUE_DESC | at::QUEUE_NOTIF_CONFIG_DATA..=at::ADMIN_QUEUE_NUM
            if offset.is_multiple_of(2) =>
        {
            Some(Width::U16)
        }
        _ => None,
    }
}

/// Which half of which address is at an offset.
fn half(addrs: &mut RingAddrs, offset: usize) -> (&mut u64, u32) {
    let register = match offset & !7 {
        at::QUEUE_DESC => &mut addrs.desc,
        at::QUEUE_DRIVER => &mut addrs.driver,
        _ => &mut addrs.device,
    };
    (register, if offset & 4 == 0 { 0 } else { 32 })
}

impl PciDevice {
    pub(super) fn read_common(&self, offset: usize, wide: Width) -> u64 {
        match width(offset) {
            Some(width) if width == wide => self.read_register(offset).into(),
            Some(Width::U32) if wide == Width::U64 && (at::QUEUE_DESC..).contains(&offset) => {
                u64::from(self.read_register(offset)) | u64::from(self.read_register(offset + 4)) << 32
            }
            _ => 0,
        }
    }

    fn read_register(&self, offset: usize) -> u32 {
        let mut common = self.common.lock();
        let (index, engine) = (common.queue, &self.engine);
        let queue = common.queues.get(usize::from(index)).copied();
        match offset {
            at::DEVICE_FEATURE_SELECT => common.device_word,
            at::DEVICE_FEATURE => engine.machine().offered().word(common.device_word),
            at::DRIVER_FEATURE_SELECT => common.driver_word,
            at::DRIVER_FEATURE => common.features.word(common.driver_word),
            at::CONFIG_MSIX_VECTOR => engine.signals.config_vector().into(),
            at::NUM_QUEUES => engine.queue_count().into(),
            at::DEVICE_STATUS => engine.status().bits().into(),
            at::CONFIG_GENERATION => common.generation(engine.machine().generation()).into(),
            at::QUEUE_SELECT => index.into(),
            at::QUEUE_SIZE => match queue {
                Some(QueueRegisters { size: 0, .. }) => engine.machine().max_queue_size(index).into(),
                Some(queue) => queue.size.into(),
                None => 0,
            },
            at::QUEUE_MSIX_VECTOR => engine.signals.queue_vector(index).into(),
            at::QUEUE_ENABLE => u32::from(queue.is_some_and(|queue| self.is_enabled(&queue, index))),
            at::QUEUE_NOTIFY_OFF => index.into(),
            at::QUEUE_DESC..at::QUEUE_NOTIF_CONFIG_DATA => queue.map_or(0, |mut queue| {
                let (register, shift) = half(&mut queue.addrs, offset);
                (*register >> shift) as u32
            }),
            at::QUEUE_NOTIF_CONFIG_DATA => index.into(),
            at::QUEUE_RESET => u32::from(queue.is_some_and(|queue| queue.stuck)),
            _ => 0,
        }
    }

    fn is_enabled(&self, queue: &QueueRegisters, index: u16) -> bool {
        queue.stuck || self.engine.is_enabled(index)
    }

    pub(super) fn write_common(&self, offset: usize, wide: Width, value: u64) {
        match width(offset) {
            Some(width) if width == wide => self.write_register(offset, value as u32),
            Some(Width::U32) if wide == Width::U64 && (at::QUEUE_DESC..).contains(&offset) => {
                self.write_register(offset, value as u32);
                self.write_register(offset + 4, (value >> 32) as u32);
            }
            _ => {}
        }
    }

    fn write_register(&self, offset: usize, value: u32) {
        if offset == at::DEVICE_STATUS {
            return self.write_status(Status::from_bits_retain(value as u8));
        }
        let mut common = self.common.lock();
        let (index, engine) = (common.queue, &self.engine);
        match offset {
            at::DEVICE_FEATURE_SELECT => common.device_word = value,
            at::DRIVER_FEATURE_SELECT => common.driver_word = value,
            at::DRIVER_FEATURE => {
                common.features = common.features.with_word(common.driver_word, value);
                engine.machine().set_accepted(common.features);
            }
            at::CONFIG_MSIX_VECTOR => engine.signals.set_config_vector(value as u16),
            at::QUEUE_SELECT => common.queue = value as u16,
            at::QUEUE_MSIX_VECTOR => engine.signals.set_queue_vector(index, value as u16),
            _ => {
                if let Some(queue) = common.queues.get_mut(usize::from(index)) {
                    self.write_queue(queue, index, offset, value);
                }
            }
        }
    }

    fn write_queue(&self, queue: &mut QueueRegisters, index: u16, offset: usize, value: u32) {
        if offset == at::QUEUE_RESET {
            let agreed = self.engine.machine().accepted().contains(F::RING_RESET);
            if value == 1 && agreed && self.engine.is_enabled(index) {
                queue.stuck |= !self.engine.reset_queue(index);
                // As before anything was written; the vector stays (4.1.4.3.1).
                *queue = QueueRegisters { stuck: queue.stuck, ..QueueRegisters::default() };
            }
            return;
        }
        if self.is_enabled(queue, index) {
            return;
        }
        match offset {
            at::QUEUE_SIZE => {
                // A size that cannot be is not kept, which the driver reads back.
                let size = value as u16;
                if size != 0 && size <= self.engine.machine().max_queue_size(index) {
                    queue.size = size;
                }
            }
            at::QUEUE_ENABLE if value == 1 => {
                let size = match queue.size {
                    0 => self.engine.machine().max_queue_size(index),
                    size => size,
                };
                let set_up = QueueState { size, addrs: queue.addrs, position: None, enabled: true };
                self.engine.enable_queue(index, set_up);
            }
            at::QUEUE_DESC..at::QUEUE_NOTIF_CONFIG_DATA => {
                let (register, shift) = half(&mut queue.addrs, offset);
                *register = *register & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
            }
            _ => {}
        }
    }

    fn write_status(&self, status: Status) {
        let runs = self.engine.set_status(status);
        if status == Status::RESET {
            self.engine.signals.reset();
            self.common.lock().clear();
        }
        if runs {
            self.ring_all();
        }
    }
}
