//! Console (5.3).

use zerocopy::little_endian::{U16, U32};

/// Receive queue of port 0 (5.3.2).
pub const RX_QUEUE: u16 = 0;
/// Transmit queue of port 0.
pub const TX_QUEUE: u16 = 1;
/// Control receive queue, with [`F::MULTIPORT`].
pub const CONTROL_RX_QUEUE: u16 = 2;
/// Control transmit queue, with [`F::MULTIPORT`].
pub const CONTROL_TX_QUEUE: u16 = 3;

/// Receive queue of a port; the transmit queue is the next one (5.3.2).
pub const fn port_rx_queue(port: u32) -> u32 {
    if port == 0 { 0 } else { 2 + 2 * port }
}

feature_bits! {
/// Feature bits (5.3.3).
pub enum F {
    /// `cols` and `rows` are valid.
    SIZE = 0 "VIRTIO_CONSOLE_F_SIZE",
    /// Several ports: `max_nr_ports` is valid and there are control queues.
    MULTIPORT = 1 "VIRTIO_CONSOLE_F_MULTIPORT",
    /// `emerg_wr` is valid, at any time.
    EMERG_WRITE = 2 "VIRTIO_CONSOLE_F_EMERG_WRITE",
}
}

wire! {
/// Configuration (5.3.4).
#[doc(alias = "virtio_console_config")]
pub struct Config: 12 {
    /// Width in characters, with [`F::SIZE`].
    pub cols: U16,
    /// Height in characters, with [`F::SIZE`].
    pub rows: U16,
    /// Number of ports, with [`F::MULTIPORT`].
    pub max_nr_ports: U32,
    /// Writing puts out the character in the low byte, with [`F::EMERG_WRITE`], even before initialization.
    pub emerg_wr: U32,
}

/// Control message (5.3.6.2). [`ControlEvent::RESIZE`] is followed by [`Resize`], `PORT_NAME` by the name in UTF-8.
#[doc(alias = "virtio_console_control")]
pub struct Control: 8 {
    /// Port number.
    pub id: U32,
    /// [`ControlEvent`].
    pub event: U16,
    /// Depends on the event.
    pub value: U16,
}

/// New size of a console port, in characters (5.3.6.2). Linux read the two fields in the other order for years.
#[doc(alias = "virtio_console_resize")]
pub struct Resize: 4 {
    /// Width.
    pub cols: U16,
    /// Height.
    pub rows: U16,
}
}

codes! {
/// What a [`Control`] message says (5.3.6.2).
pub struct ControlEvent: u16 {
    /// Driver: ready for control messages, `value` 1, or failed, 0.
    DEVICE_READY = 0 "VIRTIO_CONSOLE_DEVICE_READY",
    /// Device: a new port.
    #[doc(alias = "VIRTIO_CONSOLE_PORT_ADD")]
    DEVICE_ADD = 1 "VIRTIO_CONSOLE_DEVICE_ADD",
    /// Device: a port is gone.
    #[doc(alias = "VIRTIO_CONSOLE_PORT_REMOVE")]
    DEVICE_REMOVE = 2 "VIRTIO_CONSOLE_DEVICE_REMOVE",
    /// Driver: the port is ready, `value` 1, or failed, 0.
    PORT_READY = 3 "VIRTIO_CONSOLE_PORT_READY",
    /// Device: the port is a console.
    CONSOLE_PORT = 4 "VIRTIO_CONSOLE_CONSOLE_PORT",
    /// Device: the console has a new size; [`Resize`] follows.
    RESIZE = 5 "VIRTIO_CONSOLE_RESIZE",
    /// Both: the port is open, `value` 1, or closed, 0.
    PORT_OPEN = 6 "VIRTIO_CONSOLE_PORT_OPEN",
    /// Device: the port has a name, which follows without a NUL.
    PORT_NAME = 7 "VIRTIO_CONSOLE_PORT_NAME",
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use zerocopy::IntoBytes;

    #[test]
    fn field_offsets() {
        assert_eq!([offset_of!(Config, rows), offset_of!(Config, max_nr_ports)], [2, 4]);
        assert_eq!(offset_of!(Config, emerg_wr), 8);
        assert_eq!([offset_of!(Control, event), offset_of!(Control, value)], [4, 6]);
    }

    #[test]
    fn ports_above_0_come_after_the_control_queues() {
        assert_eq!([0, 1, 2].map(port_rx_queue), [0, 4, 6]);
    }

    #[test]
    fn control_message_bytes() {
        let control = Control { id: 1.into(), event: ControlEvent::PORT_OPEN.0.into(), value: 1.into() };
        assert_eq!(control.as_bytes(), [1, 0, 0, 0, 6, 0, 1, 0]);
    }
}
