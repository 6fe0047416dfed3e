//! The registers of queues, of both versions.

use super::MmioDevice;
use crate::device::{QueueState, RingAddrs};
use virtio_kit_spec::mmio as at;
use virtio_kit_spec::mmio::legacy;
use virtio_kit_spec::split::LegacyLayout;

/// What a driver has written of a queue. It counts when the queue is enabled, and is out of reach from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Descriptors.
    pub size: u32,
    /// Where the ring is. Halves are written one by one.
    pub addrs: RingAddrs,
    /// Legacy: alignment of the device area.
    pub align: u32,
    /// Legacy: the first page, 0 while the queue is not in use.
    pub page: u32,
    /// A reset goes on: it does for ever if the device keeps chains.
    pub resetting: bool,
    /// The device keeps chains, and so the queue is not out of use.
    pub stuck: bool,
}

/// Puts one half into a register of 64 bits.
fn half(register: &mut u64, high: bool, value: u32) {
    let shift = if high { 32 } else { 0 };
    *register = *register & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
}

impl MmioDevice {
    pub(super) fn write_modern(&self, offset: usize, value: u32) {
        match offset {
            at::QUEUE_READY => self.with_queue(|queue, index| self.set_ready(queue, index, value)),
            at::QUEUE_RESET => self.with_queue(|queue, index| {
                if value == 1 && self.can_reset_queues() && self.engine.is_enabled(index) {
                    queue.stuck |= !self.engine.reset_queue(index);
                    queue.resetting = queue.stuck;
                }
            }),
            at::QUEUE_SIZE | at::QUEUE_DESC_LOW..=at::QUEUE_DEVICE_HIGH => self.with_queue(|queue, index| {
                if self.is_ready(queue, index) {
                    return;
                }
                match offset {
                    at::QUEUE_SIZE => queue.size = value,
                    at::QUEUE_DESC_LOW => half(&mut queue.addrs.desc, false, value),
                    at::QUEUE_DESC_HIGH => half(&mut queue.addrs.desc, true, value),
                    at::QUEUE_DRIVER_LOW => half(&mut queue.addrs.driver, false, value),
                    at::QUEUE_DRIVER_HIGH => half(&mut queue.addrs.driver, true, value),
                    at::QUEUE_DEVICE_LOW => half(&mut queue.addrs.device, false, value),
                    at::QUEUE_DEVICE_HIGH => half(&mut queue.addrs.device, true, value),
                    _ => {}
                }
            }),
            _ => self.write_either(offset, value),
        }
    }

    fn can_reset_queues(&self) -> bool {
        self.engine.machine().accepted().contains(virtio_kit_spec::F::RING_RESET)
    }

    fn set_ready(&self, queue: &mut QueueRegisters, index: u16, value: u32) {
        match value {
            1 if !self.is_ready(queue, index) => _ = self.enable(queue, index),
            0 => queue.stuck |= !self.engine.reset_queue(index),
            _ => {}
        }
    }

    /// A queue that cannot be as it was set up stays out of use, which the driver reads back.
    fn enable(&self, queue: &QueueRegisters, index: u16) -> bool {
        let Ok(size) = u16::try_from(queue.size) else { return false };
        self.engine
            .enable_queue(index, QueueState { size, addrs: queue.addrs, position: None, enabled: true })
    }

    pub(super) fn write_legacy(&self, offset: usize, value: u32) {
        match offset {
            legacy::GUEST_PAGE_SIZE => self.registers.lock().page_size = value,
            at::QUEUE_SIZE | legacy::QUEUE_ALIGN => self.with_queue(|queue, _| {
                if queue.page == 0 && !queue.stuck {
                    *(if offset == at::QUEUE_SIZE { &mut queue.size } else { &mut queue.align }) = value;
                }
            }),
            legacy::QUEUE_PFN => {
                let page_size = self.registers.lock().page_size;
                self.with_queue(|queue, index| self.set_page(queue, index, value, page_size));
            }
            _ => self.write_either(offset, value),
        }
    }

    fn set_page(&self, queue: &mut QueueRegisters, index: u16, page: u32, page_size: u32) {
        if page == 0 {
            queue.stuck |= !self.engine.reset_queue(index);
            queue.page = if queue.stuck { queue.page } else { 0 };
            return;
        }
        if queue.page != 0 || queue.stuck {
            return;
        }
        if let Some(addrs) = legacy_addrs(queue, page, page_size) {
            let set_up = QueueRegisters { addrs, ..*queue };
            if self.enable(&set_up, index) {
                *queue = QueueRegisters { page, ..set_up };
            }
        }
    }
}

/// Where the areas of a legacy ring are (2.7.2); `None` if it cannot be there.
pub(super) fn legacy_addrs(queue: &QueueRegisters, page: u32, page_size: u32) -> Option<RingAddrs> {
    let size = u16::try_from(queue.size).ok().filter(|&size| size <= virtio_kit_spec::split::MAX_SIZE)?;
    let align = queue.align as usize;
    if !page_size.is_power_of_two() || !align.is_power_of_two() || !(4..=1 << 16).contains(&align) {
        return None;
    }
    let layout = LegacyLayout::new(size, align);
    let desc = u64::from(page) * u64::from(page_size);
    let at = |offset: usize| desc.checked_add(offset as u64);
    Some(RingAddrs { desc, driver: at(layout.driver)?, device: at(layout.device)? })
}
