//! A device's queue under attack by its driver: tables of named attacks, over every shape.
//!
//! Each attack names the check that it aims at. After it the queue must be latched with exactly the error that
//! the attack predicts, nothing may panic, and chains taken before must still complete.

mod common_way;
mod put_back;
mod races;
mod scene;
mod setup;
mod tolerated;

use scene::{BIG, BIG_LEN, Extra, LIMIT, Scene};
use virtio_kit_ring::device::{BadChain, Queue, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_testkit::raw::flags::{AVAIL, INDIRECT, NEXT, USED, WRITE};
use virtio_kit_testkit::raw::{ForeignDriver, Link, Raw};
use virtio_kit_testkit::{Shape, SharedMemory};

struct Attack {
    name: &'static str,
    aims_at: &'static str,
    /// Attacks, and says what must come of it; `None` if the shape has no such attack.
    run: fn(&mut Scene) -> Option<BadChain>,
    extra: Extra,
}

const fn attack(
    name: &'static str,
    aims_at: &'static str,
    run: fn(&mut Scene) -> Option<BadChain>,
) -> Attack {
    Attack { name, aims_at, run, extra: Extra::Nothing }
}

const fn roomy(name: &'static str, aims_at: &'static str, run: fn(&mut Scene) -> Option<BadChain>) -> Attack {
    Attack { name, aims_at, run, extra: Extra::Roomy }
}

fn conduct(attacks: &[Attack]) {
    for attack in attacks {
        let mut runs = 0;
        for shape in Shape::all() {
            for trips in [0, 1, 3, shape.size.min(8) + 1] {
                let context =
                    format!("{} (aims at {}) on {shape} after {trips}", attack.name, attack.aims_at);
                let outcome = std::panic::catch_unwind(|| {
                    let mut scene = Scene::new(shape, trips, attack.extra);
                    (attack.run)(&mut scene).map(|broken| scene.latched(broken)).is_some()
                });
                runs += u32::from(outcome.unwrap_or_else(|_| panic!("attack failed: {context}")));
            }
        }
        assert!(runs > 0, "{}: no shape was attacked", attack.name);
    }
}

/// A list of buffers that no chain may have.
struct BadList {
    name: &'static str,
    make: fn(&Scene) -> (Vec<Raw>, BadChain),
    extra: Extra,
}

const fn list(name: &'static str, make: fn(&Scene) -> (Vec<Raw>, BadChain)) -> BadList {
    BadList { name, make, extra: Extra::Nothing }
}

fn outside(addr: u64, len: u32) -> (Vec<Raw>, BadChain) {
    (vec![Raw::new(addr, len, WRITE)], BadChain::OutsideMemory { addr, len })
}

const BAD_LISTS: &[BadList] = &[
    list("a buffer of no bytes", |s| (vec![s.read(0)], BadChain::ZeroLength)),
    list("a last buffer of no bytes", |s| (vec![s.read(8), s.write(0)], BadChain::ZeroLength)),
    list("address + length overflow", |_| outside(u64::MAX - 7, 16)),
    list("the last address, and all 2^32 - 1 bytes", |_| outside(u64::MAX, u32::MAX)),
    list("address 0", |_| outside(0, 8)),
    list("one byte before the memory", |s| outside(s.driver.memory().start() - 1, 1)),
    list("a buffer that begins before the memory", |s| outside(s.driver.memory().start() - 4, 8)),
    list("one byte after the memory", |s| outside(s.driver.memory().end(), 1)),
    list("a buffer that straddles the end of the memory", |s| outside(s.driver.memory().end() - 4, 8)),
    list("a buffer that is all of the memory and one byte more", |s| {
        let (start, end) = (s.driver.memory().start(), s.driver.memory().end());
        outside(start, (end - start) as u32 + 1)
    }),
    list("a good buffer of 2^32 - 1 bytes", |s| outside(s.data, u32::MAX)),
    list("a second buffer outside", |s| {
        let addr = s.driver.memory().end() - 1;
        (vec![s.read(8), Raw::new(addr, 2, 0)], BadChain::OutsideMemory { addr, len: 2 })
    }),
    list("a readable buffer after a writable one", |s| {
        (vec![s.write(8), s.read(8)], BadChain::ReadableAfterWritable)
    }),
    list("a readable buffer between writable ones", |s| {
        (vec![s.read(8), s.write(8), s.read(8), s.write(8)], BadChain::ReadableAfterWritable)
    }),
    list("more segments than the device takes", |s| {
        (vec![s.read(8); usize::from(LIMIT) + 1], BadChain::TooLong)
    }),
    BadList {
        name: "2^32 bytes",
        make: |_| (vec![Raw::new(BIG, BIG_LEN, WRITE); 2], BadChain::TooLong),
        extra: Extra::Big,
    },
    BadList {
        name: "2^32 readable bytes, and one more to write",
        make: |s| {
            let mut list = vec![Raw::new(BIG, BIG_LEN, 0); 2];
            list.push(s.write(1));
            (list, BadChain::TooLong)
        },
        extra: Extra::Big,
    },
];

/// Sets NEXT on all but the last.
fn chained(mut list: Vec<Raw>) -> Vec<Raw> {
    let last = list.len() - 1;
    list[..last].iter_mut().for_each(|raw| raw.flags |= NEXT);
    list
}

// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table
// devicenormative:Basic Facilities of a Virtio Device / Message Framing
// devicenormative:Basic Facilities of a Virtio Device / Packed Virtqueues / Scatter-Gather Support
#[test]
fn every_bad_list_of_buffers_latches_the_queue_directly_and_in_a_table() {
    for bad in BAD_LISTS {
        let mut runs = [0, 0];
        for shape in Shape::all() {
            for (trips, in_table) in
                [(0, false), (3, false), (shape.size.min(8), false), (0, true), (3, true)]
            {
                let context = format!("{} on {shape} after {trips}, in a table: {in_table}", bad.name);
                let outcome = std::panic::catch_unwind(|| {
                    let mut scene = Scene::new(shape, trips, bad.extra);
                    let (list, broken) = (bad.make)(&scene);
                    let list = chained(list);
                    if in_table {
                        if !shape.indirect || list.len() > usize::from(shape.size.max(LIMIT)) {
                            return false;
                        }
                        let len = scene.driver.table(scene.table, &list);
                        scene.driver.offer(&[Raw::new(scene.table, len, INDIRECT)]);
                    } else {
                        if list.len() > scene.room() {
                            return false;
                        }
                        scene.driver.offer(&list);
                    }
                    scene.latched(broken);
                    true
                });
                let ran = outcome.unwrap_or_else(|_| panic!("attack failed: {context}"));
                runs[usize::from(in_table)] += u32::from(ran);
            }
        }
        assert!(runs[0] > 0 && runs[1] > 0, "{}: no shape was attacked", bad.name);
    }
}

fn split(s: &Scene) -> Option<()> {
    (!s.shape.packed).then_some(())
}

fn packed(s: &Scene) -> Option<()> {
    s.shape.packed.then_some(())
}

fn indirect(s: &Scene) -> Option<()> {
    s.shape.indirect.then_some(())
}

fn need(s: &Scene, descs: usize) -> Option<()> {
    (s.room() >= descs).then_some(())
}

/// The index at which a split ring's table would have a good descriptor if it went on as far as that.
fn beyond(s: &Scene, flags: u16) -> u16 {
    let index = ((s.data - s.driver.ring().desc) / 16 + 0x80) as u16;
    s.driver.descriptor(index, &Raw::new(s.data, 8, flags), 0, 0);
    index
}

const SPLIT: &[Attack] = &[
    attack("an available index one beyond what fits", "IndexJump", |s| {
        split(s)?;
        let by = s.room() as u16 + 1;
        s.driver.show(s.driver.index().wrapping_add(by));
        Some(BadChain::IndexJump { by })
    }),
    attack("an available index half the index space ahead", "IndexJump", |s| {
        split(s)?;
        s.driver.show(s.driver.index().wrapping_add(0x8000));
        Some(BadChain::IndexJump { by: 0x8000 })
    }),
    attack("an available index that goes back by one", "IndexJump", |s| {
        split(s)?;
        s.driver.show(s.driver.index().wrapping_sub(1));
        Some(BadChain::IndexJump { by: 0xffff })
    }),
    attack("an available index that goes back while more chains are held", "IndexJump", |s| {
        split(s)?;
        need(s, 6)?;
        while s.held.len() < 5 {
            s.driver.offer(&[s.write(8)]);
            s.held.push(s.device.take().unwrap().unwrap());
        }
        s.driver.show(s.driver.index().wrapping_sub(2));
        Some(BadChain::IndexJump { by: 0xfffe })
    }),
    attack("a head beyond the table", "BadIndex", |s| {
        split(s)?;
        s.driver.entry(s.driver.index(), s.shape.size);
        s.driver.show(s.driver.index().wrapping_add(1));
        Some(BadChain::BadIndex { index: s.shape.size })
    }),
    attack("head 65535", "BadIndex", |s| {
        split(s)?;
        s.driver.entry(s.driver.index(), 0xffff);
        s.driver.show(s.driver.index().wrapping_add(1));
        Some(BadChain::BadIndex { index: 0xffff })
    }),
    attack("a link beyond the table", "BadIndex", |s| {
        split(s)?;
        let index = s.shape.size;
        s.driver.offer(&[Raw::new(s.data, 8, NEXT).link(Link::Any(index))]);
        Some(BadChain::BadIndex { index })
    }),
    attack("link 65535", "BadIndex", |s| {
        split(s)?;
        s.driver.offer(&[Raw::new(s.data, 8, NEXT).link(Link::Any(0xffff))]);
        Some(BadChain::BadIndex { index: 0xffff })
    }),
    // What lies there is as good as can be: only its place is wrong.
    attack("a head beyond the table where a good descriptor is", "BadIndex (quickly)", |s| {
        split(s)?;
        let index = beyond(s, 0);
        s.driver.entry(s.driver.index(), index);
        s.driver.show(s.driver.index().wrapping_add(1));
        Some(BadChain::BadIndex { index })
    }),
    attack("a link beyond the table to a good descriptor", "BadIndex (quickly)", |s| {
        split(s)?;
        let index = beyond(s, 0);
        s.driver.offer(&[Raw::new(s.data, 8, NEXT).link(Link::Any(index))]);
        Some(BadChain::BadIndex { index })
    }),
    roomy("a descriptor that is its own next", "Loop", |s| {
        split(s)?;
        s.driver.offer(&[Raw::new(s.data, 8, NEXT).link(Link::Ahead(0))]);
        Some(BadChain::Loop)
    }),
    roomy("a loop of two", "Loop", |s| {
        split(s)?;
        need(s, 2)?;
        let raw = Raw::new(s.data, 8, NEXT | WRITE);
        s.driver.offer(&[raw, raw.link(Link::Ahead(0))]);
        Some(BadChain::Loop)
    }),
    attack("a loop with more segments than the device takes", "Loop or TooLong", |s| {
        split(s)?;
        s.driver.offer(&[Raw::new(s.data, 8, NEXT).link(Link::Ahead(0))]);
        Some(if s.shape.size > LIMIT { BadChain::TooLong } else { BadChain::Loop })
    }),
];

// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table
#[test]
fn every_attack_on_indices_and_links_of_a_split_ring_latches_the_queue_with_its_error() {
    conduct(SPLIT);
}

/// Offers a table of this length at this address.
fn table(s: &mut Scene, addr: u64, len: u32) -> Option<()> {
    indirect(s)?;
    s.driver.offer(&[Raw::new(addr, len, INDIRECT)]);
    Some(())
}

fn bad_length(s: &mut Scene, len: u32) -> Option<BadChain> {
    s.driver.table(s.table, &chained(vec![s.read(8); 3]));
    table(s, s.table, len)?;
    Some(BadChain::BadTableLength { len })
}

const INDIRECTION: &[Attack] = &[
    attack("a table that was not negotiated", "BadIndirect", |s| {
        let len = s.driver.table(s.table, &[s.read(8)]);
        s.driver.offer(&[Raw::new(s.table, len, INDIRECT)]);
        (!s.shape.indirect).then_some(BadChain::BadIndirect)
    }),
    attack("a table in a table", "BadIndirect", |s| {
        let len = s.driver.table(s.table + 64, &[s.read(8)]);
        let outer = s.driver.table(s.table, &[Raw::new(s.table + 64, len, INDIRECT)]);
        table(s, s.table, outer)?;
        Some(BadChain::BadIndirect)
    }),
    attack("a table at the end of a table", "BadIndirect", |s| {
        let inner = Raw::new(s.table, 32, INDIRECT);
        let outer = s.driver.table(s.table, &chained(vec![s.read(8), inner]));
        table(s, s.table, outer)?;
        Some(BadChain::BadIndirect)
    }),
    attack("a table, and then more", "BadIndirect", |s| {
        indirect(s)?;
        let len = s.driver.table(s.table, &[s.read(8)]);
        need(s, 2)?;
        s.driver.offer(&[Raw::new(s.table, len, INDIRECT | NEXT), s.read(8)]);
        Some(BadChain::BadIndirect)
    }),
    attack("a table after a buffer, in a packed ring", "BadIndirect", |s| {
        packed(s).and(indirect(s)).and(need(s, 2))?;
        let len = s.driver.table(s.table, &[s.read(8)]);
        s.driver.offer(&[Raw::new(s.data, 8, NEXT), Raw::new(s.table, len, INDIRECT)]);
        Some(BadChain::BadIndirect)
    }),
    attack("a table of no bytes", "BadTableLength", |s| bad_length(s, 0)),
    attack("half a table entry", "BadTableLength", |s| bad_length(s, 8)),
    attack("a table and a byte", "BadTableLength", |s| bad_length(s, 17)),
    attack("a table of 2^32 - 1 bytes", "BadTableLength", |s| bad_length(s, u32::MAX)),
    attack("a table of 2^32 - 16 bytes", "BadTableLength", |s| bad_length(s, !15)),
    attack("a table longer than queue and device take", "BadTableLength", |s| {
        bad_length(s, 16 * (u32::from(s.shape.size.max(LIMIT)) + 1))
    }),
    attack("a table that runs past the end of memory", "OutsideMemory", |s| {
        let addr = s.driver.memory().end() - 16;
        s.driver.table(addr, &[Raw::new(s.data, 8, NEXT)]);
        table(s, addr, 32)?;
        Some(BadChain::OutsideMemory { addr, len: 16 })
    }),
    attack("a table entry that straddles the end of memory", "OutsideMemory", |s| {
        let addr = s.driver.memory().end() - 8;
        table(s, addr, 16)?;
        Some(BadChain::OutsideMemory { addr, len: 16 })
    }),
    attack("a table in no memory", "OutsideMemory", |s| {
        table(s, 0x1000, 16)?;
        Some(BadChain::OutsideMemory { addr: 0x1000, len: 16 })
    }),
    attack("a table at the last addresses", "OutsideMemory", |s| {
        table(s, u64::MAX - 15, 32)?;
        Some(BadChain::OutsideMemory { addr: u64::MAX - 15, len: 16 })
    }),
    attack("a table entry that is its own next", "Loop", |s| {
        split(s)?;
        let own = Raw::new(s.data, 8, NEXT).link(Link::Any(0));
        let len = s.driver.table(s.table, &[own, own]);
        table(s, s.table, len)?;
        Some(BadChain::Loop)
    }),
    attack("a loop of table entries", "Loop", |s| {
        split(s)?;
        let raw = Raw::new(s.data, 8, NEXT);
        let len = s.driver.table(s.table, &[raw, raw, raw.link(Link::Any(1))]);
        table(s, s.table, len)?;
        Some(BadChain::Loop)
    }),
    attack("a link beyond the end of a table", "BadIndex", |s| {
        split(s)?;
        let raw = Raw::new(s.data, 8, NEXT);
        let len = s.driver.table(s.table, &[raw, raw]);
        table(s, s.table, len)?;
        Some(BadChain::BadIndex { index: 2 })
    }),
    attack("link 65535 in a table", "BadIndex", |s| {
        split(s)?;
        let len = s.driver.table(s.table, &[Raw::new(s.data, 8, NEXT).link(Link::Any(0xffff))]);
        table(s, s.table, len)?;
        Some(BadChain::BadIndex { index: 0xffff })
    }),
];

// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table / Indirect Descriptors
#[test]
fn every_attack_by_indirect_tables_latches_the_queue_with_its_error() {
    conduct(INDIRECTION);
}

#[test]
fn a_table_that_wraps_round_the_address_space_is_outside_memory() {
    for shape in Shape::of_layout(false).filter(|shape| shape.indirect && shape.size == 256) {
        let memory = SharedMemory::new(0x4000_0000, 64 << 10);
        let mut driver = ForeignDriver::new(shape, memory.clone());
        let ends = [0, u64::MAX - 0x1fff].map(|at| SharedMemory::new(at, 0x1000));
        let [low, high] = &ends;
        let all = [&memory, low, high].map(|m| Region::new(m.start(), m.clone()).unwrap());
        let storage = Storage::boxed(shape.size, shape.size + 8);
        let mut device =
            Queue::new(shape.config(), driver.ring(), Memory::new(all).unwrap(), None, storage).unwrap();
        let addr = high.end() - 16;
        // As many entries on as it takes to come to address 0, where there is a good one.
        let on = (0u64.wrapping_sub(addr) / 16) as u16;
        let link = u64::from(8u32) | u64::from(NEXT) << 32 | u64::from(on) << 48;
        high.write64(addr, driver.after_ring());
        high.write64(addr + 8, link);
        low.write64(0, driver.after_ring());
        low.write64(8, 8);
        driver.offer(&[Raw::new(addr, 16 * (u32::from(on) + 1), INDIRECT)]);
        let outside = BadChain::OutsideMemory { addr, len: 16 };
        assert_eq!(device.take().map(|_| ()), Err(outside), "{shape}");
    }
}

const PACKED: &[Attack] = &[
    roomy("a chain that runs into a descriptor that is not available", "Overrun", |s| {
        packed(s)?;
        s.driver.offer(&[Raw::new(s.data, 8, NEXT)]);
        Some(BadChain::Overrun)
    }),
    roomy("a chain that runs into a descriptor of the lap before", "Overrun", |s| {
        packed(s).and(need(s, 3))?;
        let second = (s.driver.at() + 1) % s.shape.size;
        s.driver.write(&[Raw::new(s.data, 8, NEXT), s.read(8)]);
        let at = Raw::new(s.data, 8, 0);
        // The other lap's bits, whichever this one's are.
        let now = s.driver.memory().read16(s.driver.ring().desc + 16 * u64::from(second) + 14);
        s.driver.descriptor(second, &at, 0, (now ^ (AVAIL | USED)) & (AVAIL | USED));
        Some(BadChain::Overrun)
    }),
    roomy("a chain that runs into a descriptor marked used", "Overrun", |s| {
        packed(s).and(need(s, 3))?;
        let second = (s.driver.at() + 1) % s.shape.size;
        s.driver.write(&[Raw::new(s.data, 8, NEXT), s.read(8)]);
        s.driver.descriptor(second, &Raw::new(s.data, 8, 0), 0, AVAIL | USED);
        Some(BadChain::Overrun)
    }),
    roomy("a chain as long as the ring that does not end", "Overrun", |s| {
        packed(s)?;
        let all = vec![Raw::new(s.data, 8, NEXT); s.room()];
        s.driver.offer(&all);
        Some(BadChain::Overrun)
    }),
    roomy("a chain that runs into one that the device has", "Overrun", |s| {
        packed(s)?;
        if s.held.is_empty() {
            return None;
        }
        // One more than there is room for, over the chain that is held.
        let mut all = vec![Raw::new(s.data, 8, NEXT); s.room()];
        all.push(s.read(8));
        s.driver.offer(&all);
        Some(BadChain::Overrun)
    }),
];

// devicenormative:Basic Facilities of a Virtio Device / Packed Virtqueues
#[test]
fn every_attack_on_the_laps_of_a_packed_ring_latches_the_queue_with_its_error() {
    conduct(PACKED);
}

const LONG: &[Attack] = &[Attack {
    name: "2^32 bytes in the region that was hit last",
    aims_at: "TooLong (quickly)",
    run: |s| {
        need(s, 3)?;
        s.driver.offer(&[Raw::new(BIG, 8, WRITE)]);
        s.held.push(s.device.take().unwrap().unwrap());
        s.driver.offer(&chained(vec![Raw::new(BIG, BIG_LEN, WRITE); 2]));
        Some(BadChain::TooLong)
    },
    extra: Extra::Big,
}];

#[test]
fn every_chain_of_too_many_bytes_in_one_region_latches_the_queue() {
    conduct(LONG);
}

const FULL: &[Attack] = &[attack("more chains when every descriptor is in flight", "Overrun", |s| {
    while s.room() > 0 {
        s.driver.offer(&[s.write(8)]);
        s.held.push(s.device.take().unwrap().unwrap());
    }
    assert!(s.device.take().unwrap().is_none());
    assert!(s.device.restart(), "nothing waits");
    s.driver.offer(&[s.write(8)]);
    Some(BadChain::Overrun)
})];

// Else a device that takes until nothing waits, and only then sleeps, would turn in a circle for ever.
#[test]
fn chains_beyond_a_ring_that_is_all_in_flight_latch_the_queue_instead_of_waiting() {
    conduct(FULL);
}
