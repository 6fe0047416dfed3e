//! The block, saved.

use super::queue::legacy_addrs;
use super::{QueueRegisters, Registers};
use crate::device::{RestoreError, State};
use alloc::vec::Vec;
use virtio_kit_spec::Features;

/// All that a driver has made of a device behind a register block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmioState {
    /// The device behind it.
    pub machine: State,
    /// Which word of offered features is shown.
    pub device_features_select: u32,
    /// Which word of accepted features is written.
    pub driver_features_select: u32,
    /// What the driver has written of features; it counts until FEATURES_OK.
    pub driver_features: Features,
    /// Which queue is selected.
    pub queue_select: u32,
    /// Which shared memory region is selected.
    pub region_select: u32,
    /// Legacy: the guest's page size.
    pub page_size: u32,
    /// Events that the driver has not acknowledged.
    pub interrupt: u32,
    /// What the driver has written of each queue.
    pub queues: Vec<QueueRegisters>,
}

pub(super) fn save(machine: State, registers: &Registers, interrupt: u32) -> MmioState {
    MmioState {
        machine,
        device_features_select: registers.device_word,
        driver_features_select: registers.driver_word,
        driver_features: registers.features,
        queue_select: registers.queue,
        region_select: registers.region,
        page_size: registers.page_size,
        interrupt,
        queues: registers.queues.clone(),
    }
}

/// The registers of a state, if they agree with the machine's.
pub(super) fn registers(state: &MmioState, queues: u16, legacy: bool) -> Result<Registers, RestoreError> {
    let machine = &state.machine;
    if state.queues.len() != usize::from(queues) || machine.queues.len() != usize::from(queues) {
        return Err(RestoreError::QueueCount(state.queues.len()));
    }
    for (queue, set_up) in state.queues.iter().zip(&machine.queues) {
        if queue.stuck || queue.resetting {
            return Err(RestoreError::Register("QueueReset"));
        }
        if legacy && set_up.enabled != (queue.page != 0) {
            return Err(RestoreError::Register("QueuePFN"));
        }
        if set_up.enabled {
            let addrs =
                if legacy { legacy_addrs(queue, queue.page, state.page_size) } else { Some(queue.addrs) };
            if addrs != Some(set_up.addrs) || queue.size != set_up.size.into() {
                return Err(RestoreError::Register("a queue's registers"));
            }
        }
    }
    Ok(Registers {
        device_word: state.device_features_select,
        driver_word: state.driver_features_select,
        features: state.driver_features,
        queue: state.queue_select,
        region: state.region_select,
        page_size: state.page_size,
        queues: state.queues.clone(),
    })
}
