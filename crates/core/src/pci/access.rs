//! The two ways to configuration space that machines have: two I/O ports (CAM), or a piece of memory (ECAM). Others
//! implement [`ConfigSpace`] themselves.

use super::config::{Address, ConfigSpace};
use crate::registers::{Registers, Width};
use crate::transport::TransportError;
use alloc::sync::Arc;
use core::fmt;
use spin::Mutex;

/// I/O ports. Widths are 8, 16 and 32 bits.
pub trait Ports: Send + Sync {
    /// Reads a port.
    fn read(&self, port: u16, width: Width) -> Result<u32, TransportError>;

    /// Writes a port.
    fn write(&self, port: u16, width: Width, value: u32) -> Result<(), TransportError>;
}

/// Configuration space by the ports 0xcf8 and 0xcfc: segment 0, and 256 bytes of each function.
#[derive(Debug)]
pub struct Cam<P> {
    ports: P,
    /// An access takes both ports.
    turn: Mutex<()>,
}

impl<P> Cam<P> {
    /// The port that selects a register.
    pub const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;

    /// Takes the ports over: nobody else may use these two.
    pub fn new(ports: P) -> Self {
        Self { ports, turn: Mutex::new(()) }
    }

    /// What is written to the first port to select a register, and where it is read or written then.
    pub fn select(at: Address, offset: u16) -> (u32, u16) {
        let register = 1 << 31 | u32::from(at.bdf()) << 8 | u32::from(offset & 0xfc);
        (register, Self::DATA + (offset & 3))
    }
}

impl<P: Ports> ConfigSpace for Cam<P> {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        if at.segment != 0 || offset > 0xff {
            return Ok(u32::MAX);
        }
        let (register, port) = Self::select(at, offset);
        let _turn = self.turn.lock();
        self.ports.write(Self::ADDRESS, Width::U32, register)?;
        self.ports.read(port, width)
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        if at.segment != 0 || offset > 0xff {
            return Err(TransportError::Unsupported("configuration space that two ports do not reach"));
        }
        let (register, port) = Self::select(at, offset);
        let _turn = self.turn.lock();
        self.ports.write(Self::ADDRESS, Width::U32, register)?;
        self.ports.write(port, width, value)
    }
}

/// Configuration space mapped into memory: 4096 bytes of each function of some buses of one segment.
#[derive(Clone)]
pub struct Ecam {
    registers: Arc<dyn Registers>,
    segment: u16,
    first_bus: u8,
}

impl Ecam {
    /// `registers` begin with those of function 0 of device 0 on `first_bus`, 1 MiB for each bus, as ACPI's MCFG or
    /// a device tree says.
    pub fn new(registers: Arc<dyn Registers>, segment: u16, first_bus: u8) -> Self {
        Self { registers, segment, first_bus }
    }

    fn offset(&self, at: Address, offset: u16, width: Width) -> Option<u64> {
        let bus = at.bus.checked_sub(self.first_bus)?;
        let function = u64::from(Address { bus, ..at }.bdf()) << 12;
        let register = function + u64::from(offset);
        let inside = offset < 0x1000 && register + width.bytes() <= self.registers.len();
        (at.segment == self.segment && inside).then_some(register)
    }
}

impl fmt::Debug for Ecam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ecam(segment {:#x}, from bus {:#x})", self.segment, self.first_bus)
    }
}

impl ConfigSpace for Ecam {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        match self.offset(at, offset, width) {
            Some(register) => Ok(self.registers.read(register, width)? as u32),
            None => Ok(u32::MAX),
        }
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        let outside = TransportError::Unsupported("configuration space of a bus that is not there");
        let register = self.offset(at, offset, width).ok_or(outside)?;
        self.registers.write(register, width, value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bars::{IoBar, io_bar, memory_bar, place_io};
    use super::super::config::{COMMAND_IO, Function, scan_tree};
    use super::*;
    use crate::registers::tests::Plain;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Two ports in front of one function's bytes.
    #[derive(Default)]
    struct Fake {
        selected: Mutex<u32>,
        seen: Mutex<Vec<(u32, u16, Width)>>,
    }

    impl Ports for Fake {
        fn read(&self, port: u16, width: Width) -> Result<u32, TransportError> {
            self.seen.lock().push((*self.selected.lock(), port, width));
            Ok(0x1af4)
        }
        fn write(&self, port: u16, width: Width, value: u32) -> Result<(), TransportError> {
            if port == Cam::<Self>::ADDRESS {
                assert_eq!(width, Width::U32);
                *self.selected.lock() = value;
            } else {
                self.seen.lock().push((*self.selected.lock(), port, width));
            }
            Ok(())
        }
    }

    #[test]
    fn two_ports_select_a_register_and_reach_it_at_its_own_width() {
        let cam = Cam::new(Fake::default());
        let at = Address::new(2, 3, 1);
        assert_eq!(cam.read(at, 0x3d, Width::U8), Ok(0x1af4));
        cam.write(at, 0x06, Width::U16, 5).unwrap();
        let register = 1 << 31 | 2 << 16 | 3 << 11 | 1 << 8;
        let seen = [(register | 0x3c, 0xcfd, Width::U8), (register | 4, 0xcfe, Width::U16)];
        assert_eq!(*cam.ports.seen.lock(), seen);
        assert_eq!(cam.read(at, 0x100, Width::U32), Ok(u32::MAX));
        assert!(cam.write(Address { segment: 1, ..at }, 0, Width::U32, 0).is_err());
    }

    #[test]
    fn mapped_configuration_space_has_4096_bytes_for_each_function() {
        let plain = Plain::new(vec![0; 2 << 20]);
        let ecam = Ecam::new(plain.clone(), 1, 4);
        let at = Address { segment: 1, ..Address::new(5, 31, 7) };
        ecam.write(at, 0xffc, Width::U32, 0x1234_5678).unwrap();
        assert_eq!(plain.bytes.lock()[(2 << 20) - 4..], [0x78, 0x56, 0x34, 0x12]);
        assert_eq!(ecam.read(at, 0xffe, Width::U16), Ok(0x1234));
        let elsewhere = [Address { segment: 0, ..at }, Address { bus: 3, ..at }, Address { bus: 6, ..at }];
        for at in elsewhere {
            assert_eq!(ecam.read(at, 0, Width::U32), Ok(u32::MAX));
            assert!(ecam.write(at, 0, Width::U32, 0).is_err());
        }
        assert_eq!(ecam.read(at, 0x1000, Width::U32), Ok(u32::MAX));
    }

    /// A mapped space with functions in it: address, and header type.
    fn tree(functions: &[(Address, u8, u8)]) -> Ecam {
        let plain = Plain::new(vec![0xff; 8 << 20]);
        for &(at, kind, secondary) in functions {
            let start = usize::from(at.bdf()) << 12;
            let mut bytes = plain.bytes.lock();
            bytes[start..start + 0x40].fill(0);
            bytes[start..start + 4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
            (bytes[start + 0x0e], bytes[start + 0x19]) = (kind, secondary);
        }
        Ecam::new(plain, 0, 0)
    }

    #[test]
    fn a_scan_goes_behind_bridges_once_each_and_sees_all_functions_of_a_device() {
        let all = [
            (Address::new(0, 1, 0), 0x80, 0),
            (Address::new(0, 1, 5), 0x00, 0),
            // Bridges: to bus 2, there to bus 3, and one that leads back.
            (Address::new(0, 2, 0), 1, 2),
            (Address::new(2, 0, 0), 1, 3),
            (Address::new(2, 1, 0), 1, 0),
            (Address::new(3, 0, 0), 0, 0),
            // Function 1 of a device that says that it has only one; a bus that nothing leads to.
            (Address::new(3, 0, 1), 0, 0),
            (Address::new(5, 0, 0), 0, 0),
        ];
        let mut seen = vec![];
        scan_tree(&tree(&all), 0, 0, |at, _| {
            seen.push(at);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, all[..6].iter().map(|found| found.0).collect::<Vec<_>>());
    }

    /// One function with a BAR of 32 ports at number 1.
    struct IoFunction(Mutex<(u32, u32)>);

    impl ConfigSpace for IoFunction {
        fn read(&self, _: Address, offset: u16, _: Width) -> Result<u32, TransportError> {
            let (bar, command) = *self.0.lock();
            Ok(match offset {
                0x14 => bar | 1,
                4 => command,
                _ => 0,
            })
        }
        fn write(&self, _: Address, offset: u16, _: Width, value: u32) -> Result<(), TransportError> {
            let (bar, command) = &mut *self.0.lock();
            match offset {
                0x14 => {
                    assert_eq!(*command & u32::from(COMMAND_IO), 0, "it decodes nothing meanwhile");
                    *bar = value & 0xffe0;
                }
                4 => *command = value,
                _ => {}
            }
            Ok(())
        }
    }

    #[test]
    fn ports_are_measured_and_placed_on_their_own_size() {
        let space = IoFunction(Mutex::new((0, 0)));
        let function = Function::new(&space, Address::new(0, 0, 0));
        let mut next = 0xc008;
        let bar = IoBar { number: 1, port: 0xc020, len: 32 };
        assert_eq!(place_io(&function, &mut next, 0xd000).unwrap(), [bar]);
        assert_eq!((next, io_bar(&function, 1).unwrap()), (0xc040, Some(bar)));
        assert_eq!(place_io(&function, &mut next, 0).unwrap(), [bar], "what has ports keeps them");
        assert_eq!((io_bar(&function, 0).unwrap(), memory_bar(&function, 1).unwrap()), (None, None));
    }
}
