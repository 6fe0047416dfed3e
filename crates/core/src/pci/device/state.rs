//! The function, saved.

use super::common::{Common, QueueRegisters};
use super::signals::InterruptState;
use super::space::SIZE;
use crate::device::{RestoreError, State};
use alloc::vec::Vec;
use virtio_kit_spec::Features;

/// All that a driver, and the firmware before it, have made of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciState {
    /// The device behind it.
    pub machine: State,
    /// Configuration space.
    pub space: [u8; SIZE],
    /// Interrupts.
    pub interrupts: InterruptState,
    /// Which word of offered features is shown.
    pub device_feature_select: u32,
    /// Which word of accepted features is shown and written.
    pub driver_feature_select: u32,
    /// What the driver has written of features; it counts until FEATURES_OK.
    pub driver_features: Features,
    /// Which queue is selected.
    pub queue_select: u16,
    /// The configuration generation as the driver sees it.
    pub generation: u8,
    /// What the driver has written of each queue.
    pub queues: Vec<QueueRegisters>,
}

pub(super) fn save(
    machine: State,
    space: [u8; SIZE],
    interrupts: InterruptState,
    common: &Common,
) -> PciState {
    // A change that the driver has not seen yet is to be seen.
    let generation = common.generation.wrapping_add(u8::from(common.seen != machine.generation));
    PciState {
        machine,
        space,
        interrupts,
        device_feature_select: common.device_word,
        driver_feature_select: common.driver_word,
        driver_features: common.features,
        queue_select: common.queue,
        generation,
        queues: common.queues.clone(),
    }
}

/// The registers of a state, if they agree with the machine's.
pub(super) fn common(state: &PciState, queues: u16) -> Result<Common, RestoreError> {
    let machine = &state.machine;
    if state.queues.len() != usize::from(queues) || machine.queues.len() != usize::from(queues) {
        return Err(RestoreError::QueueCount(state.queues.len()));
    }
    for (queue, set_up) in state.queues.iter().zip(&machine.queues) {
        let size = if queue.size == 0 { set_up.size } else { queue.size };
        if queue.stuck {
            return Err(RestoreError::Register("queue_reset"));
        }
        if set_up.enabled && (queue.addrs != set_up.addrs || size != set_up.size) {
            return Err(RestoreError::Register("a queue's registers"));
        }
    }
    Ok(Common {
        device_word: state.device_feature_select,
        driver_word: state.driver_feature_select,
        features: state.driver_features,
        queue: state.queue_select,
        generation: state.generation,
        seen: machine.generation,
        queues: state.queues.clone(),
    })
}
