//! Control messages of the device, parsed (5.3.6.2).

use super::NAME_MAX;
use super::state::Size;
use core::fmt;
use virtio_kit::spec::console::{Control, ControlEvent, Resize};
use zerocopy::{FromBytes, IntoBytes};

/// What a device says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Add,
    Remove,
    Console,
    Open(bool),
    Name(&'a str),
    Resize(Size),
}

/// A control message without meaning: it was ignored, and here is why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadMessage {
    /// It has this many bytes, too few for what it says.
    TooShort(usize),
    /// It is about a port beyond those that the device may have.
    UnknownPort(u32),
    /// It is about a port that the device has not added, or has removed.
    NotAdded(u32),
    /// It adds a port that is there.
    Duplicate(u32),
    /// The port's name is not UTF-8.
    NameNotUtf8(u32),
    /// The port's name has this many bytes, more than [`NAME_MAX`].
    NameTooLong(u32, usize),
    /// It says what no device has to say.
    UnknownEvent(u16),
    /// There is no memory for the buffers of the port that it adds; the device has been told.
    NoMemory(u32),
}

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(len) => write!(f, "a control message of {len} bytes is too short"),
            Self::UnknownPort(id) => {
                write!(f, "a control message is about port {id}, beyond the device's ports")
            }
            Self::NotAdded(id) => write!(f, "a control message is about port {id}, which is not there"),
            Self::Duplicate(id) => write!(f, "port {id} was added twice"),
            Self::NameNotUtf8(id) => write!(f, "the name of port {id} is not UTF-8"),
            Self::NameTooLong(id, len) => {
                write!(f, "the name of port {id} has {len} bytes, more than {NAME_MAX}")
            }
            Self::UnknownEvent(event) => write!(f, "a control message has the unknown event {event}"),
            Self::NoMemory(id) => write!(f, "there is no memory for the buffers of port {id}"),
        }
    }
}

impl core::error::Error for BadMessage {}

/// Parses a message: the port's number, and what is said of it.
pub(super) fn parse(bytes: &[u8], rows_first: bool) -> Result<(u32, Message<'_>), BadMessage> {
    let short = BadMessage::TooShort(bytes.len());
    let (control, rest) = Control::read_from_prefix(bytes).map_err(|_| short)?;
    let id = control.id.get();
    let message = match ControlEvent(control.event.get()) {
        ControlEvent::DEVICE_ADD => Message::Add,
        ControlEvent::DEVICE_REMOVE => Message::Remove,
        ControlEvent::CONSOLE_PORT => Message::Console,
        ControlEvent::PORT_OPEN => Message::Open(control.value.get() != 0),
        ControlEvent::PORT_NAME => {
            // The document's names end without a NUL, QEMU's with one.
            let name = rest.strip_suffix(&[0]).unwrap_or(rest);
            if name.len() > NAME_MAX {
                return Err(BadMessage::NameTooLong(id, name.len()));
            }
            Message::Name(core::str::from_utf8(name).map_err(|_| BadMessage::NameNotUtf8(id))?)
        }
        ControlEvent::RESIZE => {
            let (size, _) = Resize::read_from_prefix(rest).map_err(|_| short)?;
            let (cols, rows) = (size.cols.get(), size.rows.get());
            let (cols, rows) = if rows_first { (rows, cols) } else { (cols, rows) };
            Message::Resize(Size { cols, rows })
        }
        ControlEvent(other) => return Err(BadMessage::UnknownEvent(other)),
    };
    Ok((id, message))
}

/// A message to the device.
pub(super) fn to_device(id: u32, event: ControlEvent, value: u16) -> [u8; Control::SIZE] {
    let control = Control { id: id.into(), event: event.0.into(), value: value.into() };
    let mut bytes = [0; Control::SIZE];
    bytes.copy_from_slice(control.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn message(event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn messages_are_told_apart() {
        for (event, value, rest, expected) in [
            (1, 0, &[][..], Message::Add),
            (2, 9, &[1], Message::Remove),
            (4, 1, &[], Message::Console),
            (5, 0, &[80, 0, 24, 0], Message::Resize(Size { cols: 80, rows: 24 })),
            (6, 0, &[], Message::Open(false)),
            (6, 7, &[], Message::Open(true)),
            (7, 1, b"a.b", Message::Name("a.b")),
            (7, 1, b"a.b\0", Message::Name("a.b")),
            (7, 1, b"", Message::Name("")),
        ] {
            assert_eq!(parse(&message(event, value, rest), false), Ok((7, expected)));
        }
        let turned = message(5, 0, &[24, 0, 80, 0]);
        assert_eq!(parse(&turned, true), Ok((7, Message::Resize(Size { cols: 80, rows: 24 }))));
    }

    #[test]
    fn nonsense_is_told_from_messages() {
        for len in 0..8 {
            assert_eq!(parse(&message(1, 0, &[])[..len], false), Err(BadMessage::TooShort(len)));
        }
        for len in 8..12 {
            let whole = message(5, 0, &[80, 0, 24, 0]);
            assert_eq!(parse(&whole[..len], false), Err(BadMessage::TooShort(len)));
        }
        for event in [0, 3, 8, 0xffff] {
            assert_eq!(parse(&message(event, 1, &[]), false), Err(BadMessage::UnknownEvent(event)));
        }
        assert_eq!(parse(&message(7, 1, &[0xff]), false), Err(BadMessage::NameNotUtf8(7)));
        let long = [b'x'; NAME_MAX + 1];
        assert_eq!(parse(&message(7, 1, &long), false), Err(BadMessage::NameTooLong(7, 256)));
        assert!(parse(&message(7, 1, &long[1..]), false).is_ok());
    }
}
