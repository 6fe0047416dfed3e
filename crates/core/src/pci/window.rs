//! BARs through configuration space: the PCI_CFG capability (4.1.4.9), for where BARs are not mapped.

use super::Host;
use super::bars;
use super::config::{Address, Function};
use crate::registers::{Registers, Width};
use crate::transport::TransportError;
use alloc::sync::Arc;
use core::mem::offset_of;
use spin::Mutex;
use virtio_kit_spec::pci::{Cap, CapType, CfgCap};

/// A function's window, which all its BARs share: they take turns.
pub(super) struct Window {
    host: Arc<dyn Host>,
    at: Address,
    /// Where the capability is.
    cap: u16,
    turn: Mutex<()>,
}

impl Window {
    /// The window of a function, if it has one: every virtio device must (4.1.4.9.1).
    pub(super) fn find(host: &Arc<dyn Host>, at: Address) -> Result<Option<Arc<Self>>, TransportError> {
        let function = Function::new(&**host, at);
        let cap = function.find_capability(|id, at| {
            let virtio =
                id == virtio_kit_spec::pci::CAP_ID_VENDOR && at <= 0x100 - size_of::<CfgCap>() as u16;
            Ok((virtio && CapType(function.read8(at + 3)?) == CapType::PCI_CFG).then_some(at))
        })?;
        Ok(cap.map(|cap| Arc::new(Self { host: host.clone(), at, cap, turn: Mutex::new(()) })))
    }

    /// Points the window at `width` bytes.
    fn select(&self, bar: u8, offset: u32, width: Width) -> Result<Function<'_, dyn Host>, TransportError> {
        let function = Function::new(&*self.host, self.at);
        function.write8(self.cap + offset_of!(Cap, bar) as u16, bar)?;
        function.write32(self.cap + offset_of!(Cap, offset) as u16, offset)?;
        function.write32(self.cap + offset_of!(Cap, length) as u16, width.bytes() as u32)?;
        Ok(function)
    }
}

/// One BAR through the window. An access of 64 bits is two of 32.
pub(super) struct BarWindow {
    window: Arc<Window>,
    bar: u8,
    len: u64,
}

impl BarWindow {
    pub(super) fn new(window: Arc<Window>, bar: u8) -> Result<Self, TransportError> {
        let function = Function::new(&*window.host, window.at);
        let len = match bars::memory_bar(&function, bar)? {
            Some(found) => found.len,
            None => match bars::io_bar(&function, bar)? {
                Some(found) => found.len.into(),
                None => return Err(TransportError::Unsupported("a BAR that is not there")),
            },
        };
        Ok(Self { window, bar, len })
    }

    fn one(&self, offset: u64, width: Width, write: Option<u32>) -> Result<u64, TransportError> {
        const OUTSIDE: TransportError =
            TransportError::Unsupported("a register that the device does not have");
        let end = offset.checked_add(width.bytes()).ok_or(OUTSIDE)?;
        if end > self.len || !offset.is_multiple_of(width.bytes()) {
            return Err(OUTSIDE);
        }
        let offset = u32::try_from(offset).map_err(|_| OUTSIDE)?;
        let _turn = self.window.turn.lock();
        let function = self.window.select(self.bar, offset, width)?;
        let data = self.window.cap + offset_of!(CfgCap, pci_cfg_data) as u16;
        match (write, width) {
            (None, Width::U8) => Ok(function.read8(data)?.into()),
            (None, Width::U16) => Ok(function.read16(data)?.into()),
            (None, _) => Ok(function.read32(data)?.into()),
            (Some(value), Width::U8) => function.write8(data, value as u8).map(|()| 0),
            (Some(value), Width::U16) => function.write16(data, value as u16).map(|()| 0),
            (Some(value), _) => function.write32(data, value).map(|()| 0),
        }
    }
}

impl Registers for BarWindow {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
        if width != Width::U64 {
            return self.one(offset, width, None);
        }
        let low = self.one(offset, Width::U32, None)?;
        Ok(low | self.one(offset + 4, Width::U32, None)? << 32)
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
        if width != Width::U64 {
            return self.one(offset, width, Some(value as u32)).map(|_| ());
        }
        self.one(offset, Width::U32, Some(value as u32))?;
        self.one(offset + 4, Width::U32, Some((value >> 32) as u32)).map(|_| ())
    }
}
