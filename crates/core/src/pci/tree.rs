//! Buses that firmware left alone: their numbers, what bridges let through, and addresses for all BARs.

use super::bars::{self, IoBar, MemoryBar};
use super::config::{Address, COMMAND_BUS_MASTER, COMMAND_IO, COMMAND_MEMORY, ConfigSpace, Function};
use crate::transport::TransportError;
use alloc::vec::Vec;
use core::ops::Range;

/// Addresses that may be given away; they shrink from their start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Addresses of memory. Behind bridges only those below 4 GiB are of use.
    pub memory: Range<u64>,
    /// I/O ports. With none, BARs of ports stay as they are.
    pub ports: Range<u16>,
}

/// A function whose BARs have addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where it is.
    pub at: Address,
    /// Its vendor and device id.
    pub id: (u16, u16),
    /// Its memory BARs.
    pub bars: Vec<MemoryBar>,
    /// Its BARs of I/O ports.
    pub io_bars: Vec<IoBar>,
}

/// Bridges behind bridges that are followed.
const DEEPEST: u8 = 16;
/// A bridge lets through whole units of memory.
const MEMORY_UNIT: u64 = 1 << 20;
/// And whole units of ports.
const PORTS_UNIT: u16 = 1 << 12;

/// Offsets in a bridge's header.
mod header {
    pub(super) const PRIMARY: u16 = 0x18;
    pub(super) const SECONDARY: u16 = 0x19;
    pub(super) const SUBORDINATE: u16 = 0x1a;
    pub(super) const IO_BASE: u16 = 0x1c;
    pub(super) const IO_LIMIT: u16 = 0x1d;
    pub(super) const MEMORY_BASE: u16 = 0x20;
    pub(super) const MEMORY_LIMIT: u16 = 0x22;
    pub(super) const PREFETCH_BASE: u16 = 0x24;
    pub(super) const PREFETCH_LIMIT: u16 = 0x26;
    pub(super) const IO_UPPER: u16 = 0x30;
}

/// Gives addresses to the BARs of all functions that are `wanted`, on a root bus and behind its bridges, and shows those
/// functions.
///
/// A bridge that firmware gave no bus gets one, with a window for what is behind it, of memory that is not prefetched:
/// any BAR may lie in that. A bridge that has a bus keeps all it has, and so do the functions behind it; a BAR that has
/// an address keeps it anywhere.
pub fn place<C: ConfigSpace + ?Sized>(
    space: &C,
    segment: u16,
    root: u8,
    room: &mut Room,
    wanted: impl Fn((u16, u16)) -> bool,
) -> Result<Vec<Placed>, TransportError> {
    let mut walk = Walk { space, segment, room, wanted, last: root, placed: Vec::new() };
    walk.bus(root, 0, true)?;
    Ok(walk.placed)
}

struct Walk<'w, C: ?Sized, W> {
    space: &'w C,
    segment: u16,
    room: &'w mut Room,
    wanted: W,
    /// The highest number of a bus so far.
    last: u8,
    placed: Vec<Placed>,
}

impl<'w, C: ConfigSpace + ?Sized, W: Fn((u16, u16)) -> bool> Walk<'w, C, W> {
    /// One bus and all behind it. `free`: whether we may number and place there.
    fn bus(&mut self, bus: u8, depth: u8, free: bool) -> Result<(), TransportError> {
        let mut functions = Vec::new();
        super::config::scan_bus(self.space, self.segment, bus, |at, id| {
            functions.push((at, id));
            Ok(())
        })?;
        // What firmware has numbered must not be numbered again.
        for &(at, _) in &functions {
            let function = Function::new(self.space, at);
            if function.secondary_bus()?.is_some() {
                self.last = self.last.max(function.read8(header::SUBORDINATE)?);
            }
        }
        for (at, id) in functions {
            let function = Function::new(self.space, at);
            if function.is_endpoint()? {
                if (self.wanted)(id) {
                    self.function(&function, id, free)?;
                }
            } else if let Some(behind) = function.secondary_bus()? {
                self.deeper(depth)?;
                self.bus(behind, depth + 1, false)?;
            } else if free && function.is_bridge()? {
                self.deeper(depth)?;
                self.bridge(&function, depth)?;
            }
        }
        Ok(())
    }

    fn deeper(&self, depth: u8) -> Result<(), TransportError> {
        if depth < DEEPEST { Ok(()) } else { Err(TransportError::Unsupported("bridges nested that deeply")) }
    }

    fn function(
        &mut self,
        function: &Function<'_, C>,
        id: (u16, u16),
        free: bool,
    ) -> Result<(), TransportError> {
        let Room { memory, ports } = &mut *self.room;
        let (mut bars, mut io_bars) = match free {
            true => (bars::place(function, &mut memory.start, memory.end)?, Vec::new()),
            false => (bars::all(function)?, bars::all_io(function)?),
        };
        if free && ports.start < ports.end {
            io_bars = bars::place_io(function, &mut ports.start, ports.end)?;
        }
        // What was not given an address by anybody is of no use.
        bars.retain(|bar| bar.address != 0);
        io_bars.retain(|bar| bar.port != 0);
        self.placed.push(Placed { at: function.address(), id, bars, io_bars });
        Ok(())
    }

    /// Numbers the bus behind a bridge, and opens the bridge for what is placed there.
    fn bridge(&mut self, bridge: &Function<'w, C>, depth: u8) -> Result<(), TransportError> {
        let full = TransportError::Unsupported("more than 256 buses");
        let secondary = self.last.checked_add(1).ok_or(full)?;
        self.last = secondary;
        bridge.write8(header::PRIMARY, bridge.address().bus)?;
        bridge.write8(header::SECONDARY, secondary)?;
        // Accesses to all buses behind it pass, while these are numbered.
        bridge.write8(header::SUBORDINATE, u8::MAX)?;
        // Its own BARs are in front of it.
        bars::place(bridge, &mut self.room.memory.start, self.room.memory.end.min(1 << 32))?;
        self.align()?;
        let (memory, ports) = (self.room.memory.clone(), self.room.ports.clone());
        // Windows of bridges have no more than 32 bits.
        self.room.memory.end = memory.end.min(1 << 32);
        self.bus(secondary, depth + 1, true)?;
        self.align()?;
        self.room.memory.end = memory.end;
        bridge.write8(header::SUBORDINATE, self.last)?;
        let memory = memory.start..self.room.memory.start;
        let ports = ports.start..self.room.ports.start;
        // A window whose limit lies below its base is closed.
        let (base, limit) = if memory.is_empty() {
            (0xfff0, 0)
        } else {
            ((memory.start >> 16) as u16, ((memory.end - 1) >> 16) as u16 & 0xfff0)
        };
        bridge.write16(header::MEMORY_BASE, base)?;
        bridge.write16(header::MEMORY_LIMIT, limit)?;
        bridge.write16(header::PREFETCH_BASE, 0xfff0)?;
        bridge.write16(header::PREFETCH_LIMIT, 0)?;
        let (base, limit) = if ports.is_empty() {
            (0xf0, 0)
        } else {
            ((ports.start >> 8) as u8, ((ports.end - 1) >> 8) as u8 & 0xf0)
        };
        bridge.write32(header::IO_UPPER, 0)?;
        bridge.write8(header::IO_BASE, base)?;
        bridge.write8(header::IO_LIMIT, limit)?;
        bridge.set_command(bridge.command()? | COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER)
    }

    /// To where a window can begin or end.
    fn align(&mut self) -> Result<(), TransportError> {
        let Room { memory, ports } = &mut *self.room;
        let after = memory.start.checked_next_multiple_of(MEMORY_UNIT).filter(|&at| at <= memory.end);
        memory.start = after.ok_or(TransportError::NoMemory)?;
        if ports.start < ports.end {
            let after = ports.start.checked_next_multiple_of(PORTS_UNIT).filter(|&at| at <= ports.end);
            ports.start = after.ok_or(TransportError::NoMemory)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::scan_tree;
    use super::*;
    use crate::registers::Width;
    use alloc::vec;
    use spin::Mutex;

    /// A function: the bridge that it is behind, its place on that bus, its bytes, and which of them can be written.
    struct Node {
        behind: Option<usize>,
        place: (u8, u8),
        bytes: [u8; 64],
        writable: [u8; 64],
    }

    /// Functions that are reached through bridges as these are set.
    #[derive(Default)]
    struct Fake(Mutex<Vec<Node>>);

    impl Fake {
        fn add(&self, behind: Option<usize>, place: (u8, u8), kind: u8) -> usize {
            let (mut bytes, mut writable) = ([0; 64], [0; 64]);
            bytes[..4].copy_from_slice(&[0xf4, 0x1a, if kind == 1 { 1 } else { 0x42 }, 0x10]);
            bytes[0x0e] = kind | 0x80;
            writable[4] = 7;
            if kind == 1 {
                writable[0x18..0x1e].fill(0xff);
                writable[0x20..0x28].fill(0xff);
            }
            let mut nodes = self.0.lock();
            nodes.push(Node { behind, place, bytes, writable });
            nodes.len() - 1
        }

        /// Gives a function a BAR: of memory, 64 bits wide, or of ports.
        fn bar(&self, node: usize, number: usize, len: u32, flags: u8) {
            let node = &mut self.0.lock()[node];
            let at = 0x10 + 4 * number;
            node.bytes[at] = flags;
            node.writable[at..at + 4].copy_from_slice(&(!(len - 1)).to_le_bytes());
            if flags & 4 != 0 {
                node.writable[at + 4..at + 8].fill(0xff);
            }
        }

        fn word(&self, node: usize, at: usize) -> u16 {
            let nodes = self.0.lock();
            u16::from_le_bytes([nodes[node].bytes[at], nodes[node].bytes[at + 1]])
        }
    }

    fn find(nodes: &[Node], at: Address) -> Option<usize> {
        let is_it = |node: &Node| {
            if node.place != (at.device, at.function) {
                return false;
            }
            let Some(mut bridge) = node.behind else { return at.bus == 0 };
            if nodes[bridge].bytes[0x19] != at.bus || at.bus == 0 {
                return false;
            }
            // Every bridge on the way lets it through.
            while let Some(above) = nodes[bridge].behind {
                bridge = above;
                if !(nodes[bridge].bytes[0x19]..=nodes[bridge].bytes[0x1a]).contains(&at.bus) {
                    return false;
                }
            }
            true
        };
        nodes.iter().position(is_it)
    }

    impl ConfigSpace for Fake {
        fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
            let nodes = self.0.lock();
            let Some(node) = find(&nodes, at) else { return Ok(u32::MAX) };
            let mut value = [0; 4];
            let len = width.bytes() as usize;
            value[..len].copy_from_slice(&nodes[node].bytes[offset.into()..][..len]);
            Ok(u32::from_le_bytes(value))
        }

        fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
            let mut nodes = self.0.lock();
            let node = find(&nodes, at).expect("a function that is there");
            let Node { bytes, writable, .. } = &mut nodes[node];
            for (n, byte) in value.to_le_bytes().into_iter().enumerate().take(width.bytes() as usize) {
                let at = usize::from(offset) + n;
                bytes[at] = bytes[at] & !writable[at] | byte & writable[at];
            }
            Ok(())
        }
    }

    fn room() -> Room {
        Room { memory: 0xc000_0000..0xe000_0000, ports: 0xc000..0xf000 }
    }

    #[test]
    fn buses_are_numbered_and_bridges_let_through_what_is_behind_them() {
        let fake = Fake::default();
        let first = fake.add(None, (0, 0), 0);
        fake.bar(first, 4, 0x4000, 4);
        // A bridge with a BAR of its own, a bridge behind it, and functions behind both.
        let outer = fake.add(None, (1, 0), 1);
        fake.bar(outer, 0, 0x100, 4);
        let inner = fake.add(Some(outer), (2, 0), 1);
        let deep = fake.add(Some(inner), (0, 0), 0);
        fake.bar(deep, 4, 0x4000, 4);
        fake.bar(deep, 0, 0x20, 1);
        let shallow = fake.add(Some(outer), (3, 1), 0);
        fake.add(Some(outer), (3, 0), 0);
        fake.bar(shallow, 4, 0x10_0000, 4);
        // And one with nothing behind it.
        let empty = fake.add(None, (1, 1), 1);
        let mut room = room();
        let placed = place(&fake, 0, 0, &mut room, |id| id.1 == 0x1042).unwrap();
        let memory = |n: usize| placed[n].bars.iter().map(|bar| bar.address).collect::<Vec<_>>();
        let at: Vec<_> = placed.iter().map(|placed| placed.at).collect();
        let expected = [(0, 0, 0), (2, 0, 0), (1, 3, 0), (1, 3, 1)];
        assert_eq!(at, expected.map(|(bus, device, function)| Address::new(bus, device, function)));
        assert_eq!(memory(0), [0xc000_0000]);
        // Behind the first bridge's own BAR, on the next whole unit.
        assert_eq!((memory(1), placed[1].io_bars[0].port), (vec![0xc010_0000], 0xc000));
        assert_eq!((memory(2), memory(3)), (vec![], vec![0xc020_0000]));
        let window = |node| [0x18, 0x1a, 0x1c, 0x20, 0x22].map(|at| fake.word(node, at));
        assert_eq!(window(outer), [0x0100, 2, 0xc0c0, 0xc010, 0xc020]);
        assert_eq!(window(inner), [0x0201, 2, 0xc0c0, 0xc010, 0xc010]);
        assert_eq!(window(empty), [0x0300, 3, 0x00f0, 0xfff0, 0]);
        assert_eq!(fake.word(outer, 4) & 7, 7);
        assert_eq!(room, Room { memory: 0xc030_0000..0xe000_0000, ports: 0xd000..0xf000 });
        let mut seen = vec![];
        scan_tree(&fake, 0, 0, |at, _| {
            seen.push(at);
            Ok(())
        })
        .unwrap();
        assert!(at.iter().all(|at| seen.contains(at)), "a scan finds them now");
        // Once more: everything stays.
        assert_eq!(place(&fake, 0, 0, &mut self::room(), |id| id.1 == 0x1042).unwrap(), placed);
    }

    #[test]
    fn too_many_buses_too_deep_ones_and_too_little_room_are_errors() {
        let fake = Fake::default();
        let mut behind = None;
        for _ in 0..40 {
            behind = Some(fake.add(behind, (0, 0), 1));
        }
        let deep = place(&fake, 0, 0, &mut room(), |_| true).unwrap_err();
        assert!(matches!(deep, TransportError::Unsupported(why) if why.contains("nested")), "{deep}");
        let fake = Fake::default();
        for function in 0..8 {
            fake.add(None, (0, function), 1);
        }
        assert!(place(&fake, 0, 0, &mut room(), |_| true).is_ok());
        let fake = Fake::default();
        for place in 0..=255 {
            fake.add(None, (place / 8, place % 8), 1);
        }
        let many = place(&fake, 0, 0, &mut room(), |_| true).unwrap_err();
        assert!(matches!(many, TransportError::Unsupported(why) if why.contains("256")), "{many}");
        let fake = Fake::default();
        let bridge = fake.add(None, (0, 0), 1);
        let function = fake.add(Some(bridge), (0, 0), 0);
        fake.bar(function, 4, 0x20_0000, 4);
        let mut small = Room { memory: 0xc000_0000..0xc010_0000, ports: 0..0 };
        assert_eq!(place(&fake, 0, 0, &mut small, |_| true).unwrap_err(), TransportError::NoMemory);
    }
}
