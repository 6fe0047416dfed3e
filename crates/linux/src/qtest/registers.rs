//! Registers of the machine, by commands.

use std::sync::Arc;

use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;

use super::codec::Command;
use super::link::Link;

/// Registers somewhere in the machine's address space.
pub(super) struct Mapped {
    pub(super) link: Arc<Link>,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Registers for Mapped {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
        self.link.run(&[Command::Read(self.start + offset, width)])
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
        self.link.run(&[Command::Write(self.start + offset, width, value)])?;
        Ok(())
    }
}

/// A run of I/O ports.
pub(super) struct IoPorts {
    pub(super) link: Arc<Link>,
    pub(super) start: u16,
    pub(super) len: u16,
}

impl IoPorts {
    fn port(&self, offset: u64, width: Width) -> Result<u16, TransportError> {
        let inside = offset < self.len.into() && width < Width::U64;
        let port = if inside { self.start.checked_add(offset as u16) } else { None };
        port.ok_or(TransportError::Unsupported("an I/O port that the device does not have"))
    }
}

impl Registers for IoPorts {
    fn len(&self) -> u64 {
        self.len.into()
    }

    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
        self.link.run(&[Command::In(self.port(offset, width)?, width)])
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
        self.link.run(&[Command::Out(self.port(offset, width)?, width, value as u32)])?;
        Ok(())
    }
}
