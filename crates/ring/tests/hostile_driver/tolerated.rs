//! What looks odd and is allowed: none of it may break a queue.

use crate::chained;
use crate::scene::{BIG, BIG_LEN, Extra, Scene};
use virtio_kit_ring::device::{Queue, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_testkit::raw::flags::{INDIRECT, NEXT, WRITE};
use virtio_kit_testkit::raw::{ForeignDriver, Link, Raw};
use virtio_kit_testkit::{Shape, SharedMemory};

/// Takes and completes the next chain, which must have these lengths; what the driver gets back.
fn round(s: &mut Scene, readable: usize, writable: usize, descs: u16) -> (u32, u32) {
    let mut chain = s.device.take().unwrap().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (readable, writable));
    if writable > 0 {
        chain.write(&[9; 4]).unwrap();
    }
    s.device.complete(chain).unwrap();
    // The held chain is older: with IN_ORDER it has to go first.
    for held in s.held.drain(..) {
        s.device.complete(held).unwrap();
    }
    s.device.publish();
    let mut used = None;
    while let Some(next) = s.driver.take_used(descs) {
        used = used.or(Some(next));
        if !s.shape.packed {
            used = Some(next);
        }
    }
    used.unwrap()
}

// The id is the driver's to choose (2.8.6): the device only gives it back.
#[test]
fn any_buffer_id_of_a_packed_ring_comes_back_as_it_was() {
    for shape in Shape::of_layout(true).filter(|shape| shape.size < 8) {
        for id in [0, 1, shape.size, 0x7fff, 0xffff] {
            let mut s = Scene::new(shape, 2, Extra::Nothing);
            s.driver.offer(&[s.write(8).link(Link::Any(id))]);
            assert_eq!(round(&mut s, 0, 8, 1), (id.into(), 4), "{shape}");
        }
    }
}

#[test]
fn only_the_last_id_of_a_packed_chain_counts() {
    for shape in Shape::of_layout(true).filter(|shape| (2..8).contains(&shape.size)) {
        let mut s = Scene::new(shape, 1, Extra::Nothing);
        s.driver.offer(&[Raw::new(s.data, 8, NEXT).link(Link::Any(77)), s.write(8).link(Link::Any(5))]);
        assert_eq!(round(&mut s, 8, 8, 2), (5, 4), "{shape}");
    }
}

// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table / Indirect Descriptors
#[test]
fn tables_may_be_misaligned_marked_writable_and_hold_one_entry_or_as_many_as_the_queue() {
    for shape in Shape::all().filter(|shape| shape.indirect) {
        for (misalign, flags) in [(0, 0), (1, 0), (8, WRITE), (15, WRITE), (4, 0)] {
            let mut s = Scene::new(shape, 3, Extra::Nothing);
            s.driver.offer(&[Raw::new(s.table + misalign, 32, INDIRECT | flags)]);
            s.driver.table(s.table + misalign, &chained(vec![s.read(7), s.write(5)]));
            round(&mut s, 7, 5, 1);
            assert_eq!(s.device.broken(), None);
        }
        let mut s = Scene::new(shape, 3, Extra::Roomy);
        let all = vec![s.write(4); shape.size.into()];
        let len = s.driver.table(s.table, &chained(all));
        s.driver.offer(&[Raw::new(s.table, len, INDIRECT)]);
        round(&mut s, 0, 4 * usize::from(shape.size), 1);
    }
}

// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table / Indirect Descriptors
#[test]
fn a_split_chain_may_end_in_a_table_after_direct_buffers() {
    for shape in Shape::of_layout(false).filter(|shape| shape.indirect) {
        let mut s = Scene::new(shape, 1, Extra::Nothing);
        let len = s.driver.table(s.table, &chained(vec![s.read(7), s.write(5)]));
        s.driver.offer(&[Raw::new(s.data, 8, NEXT), Raw::new(s.table, len, INDIRECT)]);
        round(&mut s, 15, 5, 2);
    }
}

// In a packed table only WRITE means something (2.8.7): entries follow each other by position.
#[test]
fn links_and_next_flags_in_a_packed_table_are_ignored() {
    for shape in Shape::of_layout(true).filter(|shape| shape.indirect) {
        let mut s = Scene::new(shape, 1, Extra::Nothing);
        let entries = [s.read(7).link(Link::Any(9)), Raw::new(s.data, 5, WRITE | NEXT)];
        let len = s.driver.table(s.table, &entries);
        s.driver.offer(&[Raw::new(s.table, len, INDIRECT)]);
        round(&mut s, 7, 5, 1);
    }
}

#[test]
fn a_chain_may_have_all_of_2_to_the_32_less_one_bytes() {
    for shape in Shape::all().filter(|shape| shape.size >= 2) {
        let mut s = Scene::new(shape, 1, Extra::Big);
        s.driver.offer(&chained(vec![Raw::new(BIG, BIG_LEN, WRITE), Raw::new(BIG, BIG_LEN - 1, WRITE)]));
        round(&mut s, 0, u32::MAX as usize, 2);
    }
}

#[test]
fn packed_descriptors_that_are_used_or_of_another_lap_are_not_taken() {
    for shape in Shape::of_layout(true) {
        for trips in [0, 1, shape.size.min(9)] {
            let mut s = Scene::new(shape, trips, Extra::Nothing);
            let at = s.driver.at();
            let id = s.driver.write(&[s.read(8)]);
            let word = s.driver.ring().desc + 16 * u64::from(at) + 14;
            let good = s.driver.memory().read16(word);
            for lie in [good ^ 0x8000, good ^ 0x0080, good ^ 0x8080] {
                s.driver.memory().write16(word, lie);
                assert!(!s.device.has_available());
                assert!(s.device.take().unwrap().is_none(), "{shape}: flags {lie:#x}");
            }
            s.driver.memory().write16(word, good);
            assert_eq!(s.device.take().unwrap().unwrap().id(), id);
        }
    }
}

// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / Used Buffer Notification Suppression
#[test]
fn garbage_in_the_drivers_suppression_words_is_survived() {
    let garbage = [0, 1, 2, 3, 4, 7, 0x7fff, 0x8000, 0xfffc, 0xffff];
    for shape in Shape::all() {
        let mut s = Scene::new(shape, 1, Extra::Nothing);
        let held: Vec<_> = s.held.drain(..).collect();
        held.into_iter().for_each(|chain| s.device.complete(chain).unwrap());
        for (word, event) in garbage.iter().flat_map(|&word| garbage.map(|event| (word, event))) {
            s.driver.suppress(word, event);
            s.driver.offer(&[s.write(8)]);
            let chain = s.device.take().unwrap().unwrap();
            s.device.complete(chain).unwrap();
            let notify = s.device.publish();
            if shape.packed && word & 3 == 3 {
                assert!(notify, "a reserved value means no suppression");
            }
            if shape.packed && word & 3 == 1 || !shape.packed && !shape.event_idx && word & 1 != 0 {
                assert!(!notify, "suppressed");
            }
        }
    }
}

#[test]
fn a_buffer_may_lie_across_regions_that_meet() {
    for shape in Shape::all() {
        let memory = SharedMemory::new(0x4000_0000, 128 << 10);
        let (start, len) = (memory.start(), (memory.end() - memory.start()) as usize);
        let mut driver = ForeignDriver::new(shape, memory.clone());
        let cut = len - 1001;
        let regions = [(0, cut), (cut, 1001)]
            .map(|(at, len)| Region::new(start + at as u64, memory.part(at, len)).unwrap());
        let regions = Memory::new(regions).unwrap();
        let mut device =
            Queue::new(shape.config(), driver.ring(), regions, None, Storage::boxed(shape.size, 4)).unwrap();
        let addr = start + cut as u64 - 3;
        memory.write_bytes(addr, &[1, 2, 3, 4, 5, 6]);
        driver.offer(&[Raw::new(addr, 6, 0)]);
        let mut chain = device.take().unwrap().unwrap();
        assert_eq!(chain.readable().len(), 2);
        assert_eq!(chain.read_value::<[u8; 6]>().unwrap(), [1, 2, 3, 4, 5, 6]);
        device.complete(chain).unwrap();
    }
}

// In a packed ring that is over descriptors whose use was not published: the driver does harm to itself alone.
#[test]
fn a_driver_that_offers_on_before_anything_is_published_never_makes_the_device_panic() {
    for shape in Shape::all().filter(|shape| [8, 1000].contains(&shape.size)) {
        for gap in [8, 0] {
            let mut s = Scene::new(shape, 1, Extra::Nothing);
            let held: Vec<_> = s.held.drain(..).collect();
            held.into_iter().for_each(|chain| s.device.complete(chain).unwrap());
            for _ in 0..70_000 {
                s.driver.offer(&[s.write(8)]);
                match s.device.take() {
                    Ok(Some(mut chain)) => {
                        chain.write(&[1; 8][gap..]).unwrap();
                        s.device.complete(chain).unwrap();
                    }
                    // In order, what is not published yet is still in flight by the ring's books.
                    Ok(None) | Err(_) => break,
                }
            }
            s.device.publish();
            assert_eq!(s.device.in_flight(), 0);
        }
    }
}
