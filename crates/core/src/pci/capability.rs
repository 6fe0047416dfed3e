//! Where a device's registers are (4.1.4).

use super::config::{Address, Function};
use super::window::{self, BarWindow};
use super::{ConfigSpace, Host};
use crate::registers::{Registers, Window};
use crate::transport::TransportError;
use alloc::sync::Arc;
use virtio_kit_spec::pci::{CAP_ID_VENDOR, CapType, MAX_BAR, common};
use virtio_kit_spec::pci::{Cap, Cap64, NotifyCap};

/// A device's registers, as its capabilities locate them.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Common configuration (4.1.4.3).
    pub common: Window,
    /// Notifications (4.1.4.4).
    pub notify: Window,
    /// Bytes by which a queue's notification offset is multiplied; 0 if all queues share one register.
    pub notify_multiplier: u32,
    /// Interrupt status (4.1.4.5).
    pub isr: Window,
    /// Configuration of the device type, if it has one (4.1.4.6).
    pub device: Option<Window>,
}

/// One virtio capability, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// What it locates.
    pub kind: CapType,
    /// BAR number; above 5 it is reserved.
    pub bar: u8,
    /// Offset in the BAR.
    pub offset: u32,
    /// Length in the BAR.
    pub length: u32,
    /// The capability's own length, which may be more than is known of it.
    pub cap_len: u8,
    /// Where it is in configuration space.
    pub at: u16,
}

impl Located {
    fn read<C: ConfigSpace + ?Sized>(function: &Function<'_, C>, at: u16) -> Result<Self, TransportError> {
        Ok(Self {
            kind: CapType(function.read8(at + 3)?),
            bar: function.read8(at + 4)?,
            offset: function.read32(at + 8)?,
            length: function.read32(at + 12)?,
            cap_len: function.read8(at + 2)?,
            at,
        })
    }

    /// The registers meant, if the capability can be used: a driver takes the first that can (4.1.4.1).
    fn map(&self, need: &Need, mapped: &mut Mapped<'_>) -> Result<Window, TransportError> {
        let aligned = self.offset.is_multiple_of(need.align);
        if self.bar > MAX_BAR || usize::from(self.cap_len) < need.cap_len || !aligned {
            return Err(TransportError::Protocol("a capability that breaks the rules of its type"));
        }
        if self.length < need.length {
            return Err(TransportError::Protocol("a capability that locates too few registers"));
        }
        let registers = mapped.bar(self.bar)?;
        Window::new(registers, self.offset.into(), self.length.into())
            .ok_or(TransportError::Protocol("a capability that points beyond its BAR"))
    }
}

/// What a capability of some type must have.
struct Need {
    kind: CapType,
    cap_len: usize,
    length: u32,
    align: u32,
}

/// BARs that were mapped already.
struct Mapped<'h> {
    host: &'h Arc<dyn Host>,
    at: Address,
    bars: [Option<Arc<dyn Registers>>; MAX_BAR as usize + 1],
    /// For BARs that are not mapped; looked for at the first of them.
    window: Option<Option<Arc<window::Window>>>,
}

impl<'h> Mapped<'h> {
    fn new(host: &'h Arc<dyn Host>, at: Address) -> Self {
        Self { host, at, bars: [const { None }; 6], window: None }
    }

    fn bar(&mut self, number: u8) -> Result<Arc<dyn Registers>, TransportError> {
        if let Some(registers) = &self.bars[usize::from(number)] {
            return Ok(registers.clone());
        }
        let registers = match self.host.map_bar(self.at, number) {
            Err(error @ TransportError::Unsupported(_)) => self.unmapped(number)?.ok_or(error)?,
            other => other?,
        };
        self.bars[usize::from(number)] = Some(registers.clone());
        Ok(registers)
    }

    /// A BAR through the window in configuration space, if there is one (4.1.4.9).
    fn unmapped(&mut self, number: u8) -> Result<Option<Arc<dyn Registers>>, TransportError> {
        let window = match &self.window {
            Some(window) => window.clone(),
            None => self.window.insert(window::Window::find(self.host, self.at)?).clone(),
        };
        let Some(window) = window else { return Ok(None) };
        match BarWindow::new(window, number) {
            Ok(bar) => Ok(Some(Arc::new(bar))),
            Err(TransportError::Unsupported(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Layout {
    /// Finds the registers of the device at `at`, whose BARs must decode.
    ///
    /// Of each type the first capability that can be used is taken (4.1.4.1). BARs that the host does not map are
    /// reached through the window in configuration space (4.1.4.9).
    pub fn find(host: &Arc<dyn Host>, at: Address) -> Result<Self, TransportError> {
        let function = Function::new(&**host, at);
        let mut mapped = Mapped::new(host, at);
        let need = |kind, cap_len, length, align| Need { kind, cap_len, length, align };
        let cap = size_of::<Cap>();
        let common = need(CapType::COMMON_CFG, cap, common::MIN_SIZE as u32, 4);
        let notify = need(CapType::NOTIFY_CFG, size_of::<NotifyCap>(), 2, 2);
        let isr = need(CapType::ISR_CFG, cap, 1, 1);
        let device = need(CapType::DEVICE_CFG, cap, 1, 4);
        let (common, _) = require(&function, &common, &mut mapped)?;
        let (notify, notify_at) = require(&function, &notify, &mut mapped)?;
        let (isr, _) = require(&function, &isr, &mut mapped)?;
        let device = first_usable(&function, &device, &mut mapped)?.ok().map(|(window, _)| window);
        Ok(Self { common, notify, notify_multiplier: function.read32(notify_at + 16)?, isr, device })
    }
}

/// The shared memory region with an id (2.10, 4.1.4.7); `None` if there is none of it.
pub fn shared_memory(host: &Arc<dyn Host>, at: Address, id: u8) -> Result<Option<Window>, TransportError> {
    let function = Function::new(&**host, at);
    let mut mapped = Mapped::new(host, at);
    let mut why = None;
    let found = function.find_capability(|cap_id, at| {
        if cap_id != CAP_ID_VENDOR || at > 0x100 - size_of::<Cap64>() as u16 {
            return Ok(None);
        }
        let located = Located::read(&function, at)?;
        let long = usize::from(located.cap_len) >= size_of::<Cap64>();
        if located.kind != CapType::SHARED_MEMORY_CFG || !long || function.read8(at + 5)? != id {
            return Ok(None);
        }
        let offset = u64::from(located.offset) | u64::from(function.read32(at + 16)?) << 32;
        let length = u64::from(located.length) | u64::from(function.read32(at + 20)?) << 32;
        if located.bar > MAX_BAR || length == 0 {
            return Ok(None);
        }
        // One that lies elsewhere may be usable.
        match mapped.bar(located.bar).map(|registers| Window::new(registers, offset, length)) {
            Ok(Some(region)) => return Ok(Some(region)),
            Ok(None) => {
                why = Some(TransportError::Protocol("a shared memory region that lies beyond its BAR"))
            }
            Err(error) => why = Some(error),
        }
        Ok(None)
    })?;
    match (found, why) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

fn require(
    function: &Function<'_, dyn Host + '_>,
    need: &Need,
    mapped: &mut Mapped<'_>,
) -> Result<(Window, u16), TransportError> {
    first_usable(function, need, mapped)?
}

/// The first usable capability of a type. Inside: why there is none.
#[allow(clippy::type_complexity, reason = "one failure is the bus's, the other the device's")]
fn first_usable(
    function: &Function<'_, dyn Host + '_>,
    need: &Need,
    mapped: &mut Mapped<'_>,
) -> Result<Result<(Window, u16), TransportError>, TransportError> {
    let mut why = TransportError::Protocol("a capability that every virtio device has is missing");
    let found = function.find_capability(|id, at| {
        if id != CAP_ID_VENDOR || at > 0x100 - size_of::<Cap>() as u16 {
            return Ok(None);
        }
        let located = Located::read(function, at)?;
        if located.kind != need.kind {
            return Ok(None);
        }
        match located.map(need, mapped) {
            Ok(window) => Ok(Some((window, at))),
            Err(error) => {
                why = error;
                Ok(None)
            }
        }
    })?;
    Ok(found.ok_or(why))
}
