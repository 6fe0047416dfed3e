//! The MSI-X capability and its table.

use super::config::{ConfigSpace, Function};
use super::{Host, Message};
use crate::registers::Window;
use crate::transport::TransportError;

const CAP_ID: u8 = 0x11;
const CONTROL: u16 = 2;
const TABLE: u16 = 4;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;
const CONTROL_SIZE: u16 = 0x7ff;
const ENTRY: usize = 16;

/// A function's MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msix {
    at: u16,
    /// Vectors that the table has room for, 1 to 2048.
    pub(super) vectors: u16,
    bar: u8,
    offset: u32,
}

impl Msix {
    pub(super) fn find<C: ConfigSpace + ?Sized>(
        function: &Function<'_, C>,
    ) -> Result<Option<Self>, TransportError> {
        function.find_capability(|id, at| {
            if id != CAP_ID {
                return Ok(None);
            }
            let vectors = (function.read16(at + CONTROL)? & CONTROL_SIZE) + 1;
            let table = function.read32(at + TABLE)?;
            Ok(Some(Self { at, vectors, bar: table as u8 & 7, offset: table & !7 }))
        })
    }

    /// Fills the table in and turns MSI-X on, all other vectors masked.
    pub(super) fn enable(
        &self,
        host: &dyn Host,
        function: &Function<'_, dyn Host + '_>,
        messages: &[Message],
    ) -> Result<(), TransportError> {
        let registers = host.map_bar(function.address(), self.bar)?;
        let table = Window::new(registers, self.offset.into(), u64::from(self.vectors) * ENTRY as u64)
            .ok_or(TransportError::Protocol("an MSI-X table that lies beyond its BAR"))?;
        function.write16(self.at + CONTROL, CONTROL_ENABLE | CONTROL_MASK)?;
        for vector in 0..usize::from(self.vectors) {
            let entry = vector * ENTRY;
            if let Some(message) = messages.get(vector) {
                table.write64(entry, message.address)?;
                table.write32(entry + 8, message.data)?;
            }
            table.write32(entry + 12, u32::from(vector >= messages.len()))?;
        }
        function.write16(self.at + CONTROL, CONTROL_ENABLE)
    }

    /// Turns MSI-X off.
    pub(super) fn disable<C: ConfigSpace + ?Sized>(
        &self,
        function: &Function<'_, C>,
    ) -> Result<(), TransportError> {
        function.write16(self.at + CONTROL, 0)
    }
}
