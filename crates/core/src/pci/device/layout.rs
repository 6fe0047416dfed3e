//! What is where in the function's BARs.

use crate::device::SharedMemory;
use virtio_kit_spec::pci::CapType;

/// The registers of virtio.
pub(super) const BAR_REGISTERS: u8 = 0;
/// MSI-X: the table, then what is pending.
pub(super) const BAR_MSIX: u8 = 2;
/// Shared memory regions, which the monitor maps.
pub(super) const BAR_SHARED: u8 = 4;

pub(super) const COMMON: u64 = 0x0000;
pub(super) const COMMON_LEN: u64 = 0x40;
pub(super) const ISR: u64 = 0x1000;
pub(super) const CONFIG: u64 = 0x2000;
pub(super) const CONFIG_LEN: u64 = 0x1000;
pub(super) const NOTIFY: u64 = 0x3000;
/// Bytes of a notification register.
const NOTIFY_LEN: u64 = 4;
/// Bytes of an entry of the MSI-X table.
pub(super) const ENTRY: u64 = 16;

/// The sizes of things that depend on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    queues: u16,
    /// 1 to 2048.
    pub(super) vectors: u16,
    shared_len: u64,
}

impl Layout {
    pub(super) fn new(queues: u16, vectors: u16, regions: &[SharedMemory]) -> Option<Self> {
        let end = |region: &SharedMemory| region.start.checked_add(region.len);
        let ends: Option<alloc::vec::Vec<u64>> = regions.iter().map(end).collect();
        let last = ends?.into_iter().max().unwrap_or(0);
        let shared_len = if last == 0 { 0 } else { last.max(0x1000).checked_next_power_of_two()? };
        Some(Self { queues, vectors: vectors.clamp(1, 2048), shared_len })
    }

    pub(super) fn notify_len(&self) -> u64 {
        NOTIFY_LEN * u64::from(self.queues)
    }

    /// A register of its own for each queue.
    pub(super) fn notify_multiplier(&self) -> u32 {
        NOTIFY_LEN as u32
    }

    /// Which queue's notification register is at an offset.
    pub(super) fn notified(&self, offset: u64) -> Option<u16> {
        let at = offset.checked_sub(NOTIFY).filter(|&at| at < self.notify_len())?;
        at.is_multiple_of(NOTIFY_LEN).then_some((at / NOTIFY_LEN) as u16)
    }

    pub(super) fn pending_at(&self) -> u32 {
        (u32::from(self.vectors) * ENTRY as u32).next_multiple_of(8)
    }

    pub(super) fn pending_len(&self) -> u64 {
        u64::from(self.vectors.div_ceil(64)) * 8
    }

    /// Number and length of each BAR.
    pub(super) fn bars(&self) -> impl Iterator<Item = (u8, u64)> + use<> {
        let registers = (NOTIFY + self.notify_len()).next_power_of_two();
        let msix = (u64::from(self.pending_at()) + self.pending_len()).max(0x1000).next_power_of_two();
        let all = [(BAR_REGISTERS, registers), (BAR_MSIX, msix), (BAR_SHARED, self.shared_len)];
        all.into_iter().filter(|&(_, len)| len != 0)
    }

    /// The capabilities that locate registers: type, offset, length, and their own length.
    pub(super) fn capabilities(&self) -> [(CapType, u32, u32, usize); 4] {
        [
            (CapType::COMMON_CFG, COMMON as u32, COMMON_LEN as u32, 16),
            (CapType::NOTIFY_CFG, NOTIFY as u32, self.notify_len() as u32, 20),
            (CapType::ISR_CFG, ISR as u32, 1, 16),
            (CapType::DEVICE_CFG, CONFIG as u32, CONFIG_LEN as u32, 16),
        ]
    }
}
