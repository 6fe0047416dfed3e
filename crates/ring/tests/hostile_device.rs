//! A driver's queue under attack by its device: a table of named attacks, over every shape.
//!
//! Each attack names the check that it aims at. After it the queue must be latched with exactly the error that
//! the attack predicts, nothing may panic, and shutdown must give back every buffer once.

use std::collections::HashMap;
use virtio_kit_ring::device::RingAddrs;
use virtio_kit_ring::driver::{
    AddErrorKind, Broken, Evidence, Indirect, Options, Queue, Quiesced, RingMemory, Storage, Used,
};
use virtio_kit_ring::mem::DmaMemory;
use virtio_kit_ring::{Arena, Chain, DmaBuf, Domain};
use virtio_kit_testkit::raw::{ForeignDevice, Seen, flags};
use virtio_kit_testkit::{Shape, SharedMemory};

type Buffers = Chain<Vec<DmaBuf>, Vec<DmaBuf>>;
type Driver = Queue<Buffers, u64>;

/// Bytes that the device may write to each chain.
const WRITABLE: u32 = 100;

/// A driver with up to three chains in flight, each of one ring descriptor, and a device to attack it.
struct Scene {
    shape: Shape,
    arena: Arena,
    free_bytes: u64,
    driver: Driver,
    device: ForeignDevice,
    /// What is in flight: the buffers of each token.
    added: HashMap<u64, Vec<u64>>,
    seen: Vec<Seen>,
    next_token: u64,
}

impl Scene {
    /// `trips` chains have been round before, so that laps and indices are not those of a new queue.
    fn new(shape: Shape, trips: u16, read_only: bool) -> Self {
        let memory = SharedMemory::new(0x4000_0000, 256 << 10);
        let arena = Arena::new(memory.clone()).unwrap();
        let free_bytes = arena.free_bytes();
        let ring = RingMemory::alloc(&arena, shape.packed, shape.size).unwrap();
        let options = shape.options(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 });
        let driver = Driver::new(ring, Storage::boxed(shape.size), options, &arena).unwrap();
        let a = driver.addrs();
        let addrs = RingAddrs { desc: a.desc.get(), driver: a.driver.get(), device: a.device.get() };
        let device = ForeignDevice::new(shape, memory, addrs);
        let mut scene = Self {
            shape,
            arena,
            free_bytes,
            driver,
            device,
            added: HashMap::new(),
            seen: vec![],
            next_token: 0,
        };
        for _ in 0..trips {
            scene.add(false);
            scene.driver.publish();
            let seen = scene.device.take().expect("a chain");
            scene.device.complete(seen, 1);
            scene.get().expect("an honest device").expect("a chain");
        }
        for _ in 0..shape.size.min(3) {
            scene.add(read_only);
        }
        scene.driver.publish();
        scene.seen = std::iter::from_fn(|| scene.device.take()).collect();
        assert!(scene.seen.iter().all(|seen| seen.descs == 1));
        scene
    }

    /// Adds a chain that takes one descriptor: of two buffers in a table, or of one.
    fn add(&mut self, read_only: bool) {
        let lens: &[usize] = if self.shape.indirect { &[60, 40] } else { &[100] };
        let buffers: Vec<_> = lens.iter().map(|&len| self.arena.alloc_zeroed(len).unwrap()).collect();
        let token = self.next_token;
        self.next_token += 1;
        self.added.insert(token, buffers.iter().map(|b| b.device_addr().get()).collect());
        let chain = if read_only { Chain::new(buffers, vec![]) } else { Chain::new(vec![], buffers) };
        self.driver.add_buf(chain, token).expect("space");
    }

    fn back(&mut self, chain: &Buffers, token: u64) {
        let addrs = self.added.remove(&token).expect("a token that is in flight, once");
        let buffers = chain.readable.iter().chain(&chain.writable);
        assert!(buffers.map(|b| b.device_addr().get()).eq(addrs), "other buffers");
    }

    fn get(&mut self) -> Result<Option<Used<Buffers, u64>>, Broken> {
        let used = self.driver.get_buf()?;
        if let Some(used) = &used {
            self.back(&used.chain, used.token);
            assert!(used.written <= WRITABLE);
        }
        Ok(used)
    }

    fn ids(&self) -> Vec<u32> {
        self.seen.iter().map(|seen| seen.id.into()).collect()
    }

    /// An id of this queue that is not in flight, if there is one.
    fn free_id(&self) -> Option<u32> {
        (0..u32::from(self.shape.size)).find(|id| !self.ids().contains(id))
    }

    /// Expects the error, and everything that must hold of a latched queue.
    fn latched(mut self, broken: Broken) {
        assert_eq!(self.get().map(|_| ()), Err(broken), "the error");
        assert_eq!(self.driver.broken(), Some(broken));
        assert_eq!(self.driver.get_buf().map(|_| ()), Err(broken), "and again");
        assert_eq!(self.driver.get_batch(9, |_| panic!("a chain from a broken queue")), Err(broken));
        assert!(self.driver.has_used(), "the error waits");
        assert!(!self.driver.restart(), "nothing to sleep for");
        self.driver.disable_callbacks();
        assert!(!self.driver.publish(), "nothing is published");
        let refused = self.driver.add_buf(Chain::new(vec![], vec![]), 999).unwrap_err();
        assert_eq!((refused.kind(), refused.token), (AddErrorKind::Broken(broken), 999));
        let batch = self.driver.add_batch(|_| panic!("asked for a chain")).unwrap_err();
        assert_eq!((batch.added, batch.kind), (0, AddErrorKind::Broken(broken)));
        assert!(batch.refused.is_none());
        self.end();
    }

    /// Everything comes back, once, whatever happened before; and the queue works again after that.
    fn end(mut self) {
        let chains: Vec<_> = self.driver.shutdown(quiesced()).collect();
        for (chain, token) in &chains {
            self.back(chain, *token);
        }
        drop(chains);
        assert!(self.added.is_empty(), "lost: {:?}", self.added.keys());
        assert_eq!(self.driver.shutdown(quiesced()).count(), 0);
        assert!(self.driver.revive());
        let a = self.driver.addrs();
        let addrs = RingAddrs { desc: a.desc.get(), driver: a.driver.get(), device: a.device.get() };
        self.device = ForeignDevice::new(self.shape, self.device.memory().clone(), addrs);
        self.add(false);
        assert!(self.driver.publish());
        let seen = self.device.take().expect("a chain");
        self.device.complete(seen, 1);
        assert_eq!(self.get().unwrap().expect("a chain").written, 1);
        self.driver.shutdown(quiesced());
        let Self { driver, arena, free_bytes, .. } = self;
        drop(driver);
        assert_eq!(arena.free_bytes(), free_bytes, "all memory came back");
    }
}

fn quiesced() -> Quiesced {
    Quiesced::on(Evidence::DeviceReset)
}

/// What an attack leads to.
type Outcome = Option<Broken>;

struct Attack {
    name: &'static str,
    aims_at: &'static str,
    /// Attacks, and says what must come of it; `None` if the shape has no such attack.
    run: fn(&mut Scene) -> Outcome,
}

const fn attack(name: &'static str, aims_at: &'static str, run: fn(&mut Scene) -> Outcome) -> Attack {
    Attack { name, aims_at, run }
}

fn unknown(scene: &mut Scene, id: u32) -> Outcome {
    scene.device.put(id, 1, 1, 1);
    Some(Broken::UnknownId { id })
}

fn too_long(scene: &mut Scene, reported: u32, writable: u32) -> Outcome {
    scene.device.put(scene.ids()[0], reported, 1, 1);
    Some(Broken::LengthTooLarge { reported, writable })
}

/// Completes everything honestly, and has it taken.
fn all_done(scene: &mut Scene) {
    for seen in scene.seen.clone() {
        scene.device.complete(seen, 5);
        assert_eq!(scene.get().unwrap().unwrap().written, 5);
    }
}

// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Used Ring
const ATTACKS: &[Attack] =
    &[
        attack("the first id beyond the table", "UnknownId", |s| unknown(s, s.shape.size.into())),
        attack("id 65535", "UnknownId", |s| unknown(s, 0xffff)),
        attack("an id that is good in its lower 16 bits", "UnknownId (32 bits)", |s| {
            if s.shape.packed { None } else { unknown(s, 0x1_0000 | s.ids()[0]) }
        }),
        attack("id 2^32 - 1", "UnknownId (32 bits)", |s| {
            if s.shape.packed { None } else { unknown(s, u32::MAX) }
        }),
        attack("an id that was never added", "NotInFlight", |s| {
            let id = s.free_id()?;
            s.device.put(id, 1, 1, 1);
            Some(Broken::NotInFlight { id })
        }),
        attack("the same chain twice", "NotInFlight", |s| {
            let seen = s.seen[0];
            s.device.complete(seen, 3);
            assert_eq!(s.get().unwrap().unwrap().written, 3);
            s.device.complete(seen, 3);
            Some(Broken::NotInFlight { id: seen.id.into() })
        }),
        attack("a chain once more after all are done", "NotInFlight, IndexJump", |s| {
            all_done(s);
            let seen = s.seen[0];
            s.device.complete(seen, 3);
            Some(match s.shape.packed {
                true => Broken::NotInFlight { id: seen.id.into() },
                false => Broken::IndexJump { by: 1, in_flight: 0 },
            })
        }),
        attack("a used chain when none is in flight, of a lap that begins", "NotInFlight", |s| {
            all_done(s);
            if !s.shape.packed {
                return None;
            }
            // Used descriptors all along the ring, as if a whole lap had been used.
            (0..s.shape.size).for_each(|_| s.device.put(0, 0, 1, 1));
            Some(Broken::NotInFlight { id: 0 })
        }),
        attack("one byte too many", "LengthTooLarge", |s| too_long(s, WRITABLE + 1, WRITABLE)),
        attack("length 2^32 - 1", "LengthTooLarge", |s| too_long(s, u32::MAX, WRITABLE)),
        attack("length 2^31", "LengthTooLarge", |s| too_long(s, 1 << 31, WRITABLE)),
        attack("one chain too many at once", "IndexJump", |s| {
            if s.shape.packed {
                return None;
            }
            let in_flight = s.driver.in_flight();
            s.device.index(s.device.used().wrapping_add(in_flight + 1));
            Some(Broken::IndexJump { by: in_flight + 1, in_flight })
        }),
        attack("half the index space at once", "IndexJump", |s| {
            if s.shape.packed {
                return None;
            }
            s.device.index(s.device.used().wrapping_add(0x8000));
            Some(Broken::IndexJump { by: 0x8000, in_flight: s.driver.in_flight() })
        }),
        attack("an index that goes back by one", "IndexJump", |s| {
            if s.shape.packed {
                return None;
            }
            s.device.index(s.device.used().wrapping_sub(1));
            Some(Broken::IndexJump { by: 0xffff, in_flight: s.driver.in_flight() })
        }),
        attack("an index that goes back after a chain was used", "IndexJump", |s| {
            if s.shape.packed {
                return None;
            }
            s.device.complete(s.seen[0], 1);
            s.get().unwrap().unwrap();
            s.device.index(s.device.used().wrapping_sub(1));
            Some(Broken::IndexJump { by: 0xffff, in_flight: s.driver.in_flight() })
        }),
        attack("a batch that ends at an id that is not in flight", "NotInFlight (in order)", |s| {
            let id = s.free_id()?;
            if !s.shape.in_order || s.seen.len() < 2 {
                return None;
            }
            s.device.put(id, 1, 2, 2);
            if !s.shape.packed {
                // The index says that the first chain was used, whatever the entry is.
                assert_eq!(s.get().unwrap().unwrap().written, WRITABLE);
            }
            Some(Broken::NotInFlight { id })
        }),
        attack("a batch that ends beyond the table", "UnknownId (in order)", |s| {
            if !s.shape.in_order || s.seen.len() < 2 {
                return None;
            }
            s.device.put(s.shape.size.into(), 1, 2, 2);
            Some(Broken::UnknownId { id: s.shape.size.into() })
        }),
        attack("the second chain alone, before the first", "NotInFlight (in order)", |s| {
            // In a packed ring this is a good batch of two.
            if !s.shape.in_order || s.shape.packed || s.seen.len() < 2 {
                return None;
            }
            let id = s.ids()[1];
            s.device.put(id, 1, 1, 1);
            Some(Broken::NotInFlight { id })
        }),
        attack("a batch whose index goes further than its id", "NotInFlight (in order)", |s| {
            if !s.shape.in_order || s.shape.packed || s.seen.len() < 2 {
                return None;
            }
            let id = s.ids()[0];
            let at = s.device.used();
            s.device.entry(at.wrapping_add(1), id, 1);
            s.device.put(id, 1, 2, 2);
            assert_eq!(s.get().unwrap().unwrap().written, 1);
            Some(Broken::NotInFlight { id })
        }),
        attack("a length too large at the end of a batch", "LengthTooLarge (in order)", |s| {
            if !s.shape.in_order || s.seen.len() < 2 {
                return None;
            }
            s.device.put(s.ids()[1], WRITABLE + 1, 2, 2);
            assert_eq!(s.get().unwrap().unwrap().written, WRITABLE);
            Some(Broken::LengthTooLarge { reported: WRITABLE + 1, writable: WRITABLE })
        }),
    ];

#[test]
fn every_attack_of_a_device_latches_the_queue_with_its_error_and_every_buffer_comes_back() {
    for attack in ATTACKS {
        let mut runs = 0;
        for shape in Shape::all() {
            for trips in [0, 1, 3, shape.size.min(8) + 1] {
                let context =
                    format!("{} (aims at {}) on {shape} after {trips}", attack.name, attack.aims_at);
                let outcome = std::panic::catch_unwind(|| {
                    let mut scene = Scene::new(shape, trips, false);
                    match (attack.run)(&mut scene) {
                        Some(broken) => {
                            scene.latched(broken);
                            true
                        }
                        None => {
                            scene.end();
                            false
                        }
                    }
                });
                runs += u32::from(outcome.unwrap_or_else(|_| panic!("attack failed: {context}")));
            }
        }
        assert!(runs > 0, "{}: no shape was attacked", attack.name);
    }
}

#[test]
fn buffers_come_back_from_shutdown_when_the_queue_broke_in_the_middle_of_a_batch() {
    for shape in Shape::all().filter(|shape| shape.size >= 3) {
        let mut scene = Scene::new(shape, 2, false);
        scene.device.complete(scene.seen[0], 1);
        let broken = unknown(&mut scene, u32::from(shape.size)).unwrap();
        let mut got = vec![];
        assert_eq!(scene.driver.get_batch(usize::MAX, |used| got.push(used)), Err(broken));
        assert_eq!(got.len(), 1);
        scene.back(&got[0].chain, got[0].token);
        drop(got);
        scene.latched(broken);
    }
}

/// Suppression words that are reserved, beyond the ring, or of another lap: none may do harm.
// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / Available Buffer Notification Suppression
#[test]
fn garbage_in_the_devices_suppression_words_is_survived() {
    let garbage = [0, 1, 2, 3, 4, 7, 0x7fff, 0x8000, 0xfffc, 0xffff];
    for shape in Shape::all() {
        let mut scene = Scene::new(shape, 1, false);
        for (word, event) in garbage.iter().flat_map(|&word| garbage.map(|event| (word, event))) {
            for round in 0..3u32 {
                scene.device.suppress(word, event);
                let seen = scene.seen.remove(0);
                scene.device.complete(seen, round);
                assert_eq!(scene.get().unwrap().unwrap().written, round);
                scene.add(false);
                let notify = scene.driver.publish();
                if shape.packed && word & 3 == 3 {
                    assert!(notify, "a reserved value means no suppression");
                }
                if shape.packed && word & 3 == 1 || !shape.packed && !shape.event_idx && word & 1 != 0 {
                    assert!(!notify, "suppressed");
                }
                scene.seen.push(scene.device.take().unwrap());
            }
        }
        scene.end();
    }
}

// The driver keeps its own copy of what it needs (trap 15): the table is never read back.
#[test]
fn a_device_that_overwrites_descriptors_and_the_available_ring_changes_nothing() {
    for shape in Shape::all() {
        // No lap bits, so that nothing looks used in a packed ring.
        for byte in [0x55, 0x00, 0x7f] {
            let mut scene = Scene::new(shape, 2, false);
            for round in 0..2 * u32::from(shape.size.min(9)) {
                scene.device.scribble(byte);
                let seen = scene.seen.remove(0);
                scene.device.complete(seen, round);
                assert_eq!(scene.get().unwrap().unwrap().written, round);
                // What is added next is written in full, into descriptors that are free by the driver's own books.
                scene.add(false);
                scene.driver.publish();
                let next = scene.device.take();
                scene.seen.push(next.expect("a chain"));
            }
            scene.end();
        }
    }
}

#[test]
fn a_batch_ends_where_the_caller_says_however_much_the_device_shows() {
    for shape in Shape::all().filter(|shape| shape.size >= 3) {
        let mut scene = Scene::new(shape, 1, false);
        scene.seen.clone().into_iter().for_each(|seen| scene.device.complete(seen, 1));
        let mut got = vec![];
        assert_eq!(scene.driver.get_batch(2, |used| got.push(used)), Ok(2));
        assert_eq!(scene.driver.get_batch(0, |_| panic!("none was asked for")), Ok(0));
        got.iter().for_each(|used| scene.back(&used.chain, used.token));
        drop(got);
        scene.get().unwrap().unwrap();
        scene.end();
    }
}

#[test]
fn a_device_that_always_shows_more_gives_no_more_than_was_in_flight() {
    for shape in Shape::all() {
        let mut scene = Scene::new(shape, 1, false);
        let (first, in_flight) = (scene.seen[0], scene.seen.len());
        scene.seen.clone().into_iter().for_each(|seen| scene.device.complete(seen, 1));
        let mut got = vec![];
        let device = &mut scene.device;
        let broken = scene.driver.get_batch(usize::MAX, |used| {
            // Always one more than is taken, and for a packed ring a whole lap of them.
            device.put(first.id.into(), 1, 1, 1);
            got.push(used);
        });
        let broken = broken.expect_err("more than was in flight");
        assert_eq!(got.len(), in_flight);
        got.iter().for_each(|used| scene.back(&used.chain, used.token));
        drop(got);
        scene.latched(broken);
    }
}

// Without WRITE the length of a used packed descriptor means nothing (2.8.4).
#[test]
fn a_length_that_cannot_be_is_ignored_in_a_used_packed_descriptor_without_the_write_flag() {
    for shape in Shape::of_layout(true) {
        let mut scene = Scene::new(shape, 1, false);
        scene.device.put_flags(scene.seen[0].id, u32::MAX, 0, scene.seen[0].descs);
        assert_eq!(scene.get().unwrap().unwrap().written, 0);
        scene.end();
    }
}

// vhost-device-console puts there what it has read.
#[test]
fn a_length_of_a_chain_that_is_only_read_says_nothing() {
    for shape in Shape::all() {
        for len in [1, WRITABLE, u32::MAX] {
            let mut scene = Scene::new(shape, 1, true);
            let ids = scene.ids();
            scene.device.put(ids[0], len, 1, 1);
            assert_eq!(scene.get().unwrap().unwrap().written, 0, "{shape}");
            scene.end();
        }
    }
}

// QEMU does not set WRITE in used descriptors, and means the length.
#[test]
fn a_length_that_can_be_is_taken_from_a_used_packed_descriptor_without_the_write_flag() {
    for shape in Shape::of_layout(true) {
        let mut scene = Scene::new(shape, 1, false);
        scene.device.put_flags(scene.seen[0].id, 1, 0, scene.seen[0].descs);
        assert_eq!(scene.get().unwrap().unwrap().written, 1);
        scene.end();
    }
}

#[test]
fn packed_descriptors_with_the_bits_of_another_lap_are_not_used() {
    for shape in Shape::of_layout(true) {
        for trips in [0, 1, 3, shape.size.min(9)] {
            let mut scene = Scene::new(shape, trips, false);
            let at = scene.device.used();
            // In flight: the bits of this lap's availability. Both flipped: available on the next lap.
            let now = scene.device.flags_at(at);
            let used = now | flags::AVAIL | flags::USED;
            let other = if now & flags::AVAIL != 0 { 0 } else { flags::AVAIL | flags::USED };
            assert_ne!(used & (flags::AVAIL | flags::USED), 0);
            for lie in [now, now ^ (flags::AVAIL | flags::USED), other] {
                scene.device.descriptor(at, scene.seen[0].id, 1, lie);
                assert!(!scene.driver.has_used());
                assert!(scene.get().unwrap().is_none(), "{shape}: flags {lie:#x}");
            }
            scene.device.complete(scene.seen[0], 2);
            assert_eq!(scene.get().unwrap().unwrap().written, 2);
            scene.end();
        }
    }
}

// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Reset
#[test]
fn nothing_is_published_once_the_queue_is_shut_down() {
    for shape in Shape::all() {
        let mut scene = Scene::new(shape, 1, false);
        let seen = scene.seen[0];
        scene.device.complete(seen, 1);
        scene.get().unwrap().unwrap();
        scene.add(false);
        let chains: Vec<_> = scene.driver.shutdown(quiesced()).collect();
        chains.iter().for_each(|(chain, token)| scene.back(chain, *token));
        assert!(!scene.driver.publish(), "{shape}: a notification after shutdown");
        assert_eq!(scene.device.take(), None, "{shape}: a chain after its buffers were handed back");
        drop(chains);
        scene.end();
    }
}

// A table's address would mean something else to the device of the queue.
#[test]
fn indirect_tables_of_another_domain_are_refused() {
    for packed in [false, true] {
        let [arena, foreign] =
            [0x10_0000, 0x80_0000].map(|at| Arena::new(SharedMemory::new(at, 1 << 20)).unwrap());
        let ring = RingMemory::alloc(&arena, packed, 8).unwrap();
        let limits = Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 };
        let options = Options { indirect: Some(limits), ..Options::default() };
        let error = Driver::new(ring, Storage::boxed(8), options, &foreign).unwrap_err();
        assert_eq!(error, virtio_kit_ring::driver::NewError::ForeignArena);
    }
}

// A device that uses what it has not been shown gets what it is due; the driver's books stay right.
#[test]
fn a_device_that_uses_chains_before_they_are_published_breaks_the_queue_at_once() {
    for shape in Shape::all().filter(|shape| [8, 1000].contains(&shape.size)) {
        let mut scene = Scene::new(shape, 1, false);
        for seen in scene.seen.clone() {
            scene.device.complete(seen, 1);
            scene.get().unwrap().unwrap();
        }
        // With one chain at a time every ring's ids follow from what came before: the last one is used again, or
        // the next position is.
        let id = if shape.in_order {
            scene.driver.position().next % shape.size
        } else {
            scene.seen.last().unwrap().id
        };
        scene.add(false);
        scene.device.put(id.into(), 1, 1, 1);
        let broken = scene.driver.get_buf().expect_err("a chain that the device was not shown");
        let by_index = Broken::IndexJump { by: 1, in_flight: 0 };
        let expected = if shape.packed { Broken::NotInFlight { id: id.into() } } else { by_index };
        assert_eq!(broken, expected, "{shape}");
        scene.driver.publish();
        let left: Vec<_> = scene.driver.shutdown(quiesced()).collect();
        left.iter().for_each(|(chain, token)| scene.back(chain, *token));
        drop(left);
        scene.end();
    }
}

// A panic in what the caller gives must leave the queue as it is between two chains.
#[test]
fn a_panic_in_the_callers_closure_leaves_the_queue_whole() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    for shape in Shape::all().filter(|shape| shape.size >= 3) {
        let mut scene = Scene::new(shape, 2, false);
        scene.seen.clone().into_iter().for_each(|seen| scene.device.complete(seen, 1));
        let mut got = vec![];
        let batch = catch_unwind(AssertUnwindSafe(|| {
            scene.driver.get_batch(9, |used| {
                got.push(used);
                assert!(got.len() < 2, "the caller's own affair");
            })
        }));
        assert!(batch.is_err());
        got.iter().for_each(|used| scene.back(&used.chain, used.token));
        drop(got);
        scene.get().unwrap().unwrap();
        assert_eq!((scene.driver.in_flight(), scene.driver.room()), (0, shape.size));
        let mut left = 2;
        let batch = catch_unwind(AssertUnwindSafe(|| {
            scene.driver.add_batch(|place| {
                left -= 1;
                assert!(left > 0, "the caller's own affair");
                Some(place.put(Chain::new(vec![], vec![scene.arena.alloc(100).unwrap()]), 77))
            })
        }));
        assert!(batch.is_err());
        assert_eq!((scene.driver.in_flight(), scene.driver.room()), (1, shape.size - 1));
        scene.driver.publish();
        let seen = scene.device.take().unwrap();
        scene.device.complete(seen, 3);
        let used = scene.driver.get_buf().unwrap().unwrap();
        assert_eq!((used.token, used.written), (77, 3));
        drop(used);
        scene.end();
    }
}

/// More memory of a domain.
struct More(SharedMemory, Domain);

// SAFETY: memory of its own, at addresses that nothing else of the domain has.
unsafe impl DmaMemory for More {
    fn base(&self) -> std::ptr::NonNull<u8> {
        DmaMemory::base(&self.0)
    }
    fn len(&self) -> usize {
        DmaMemory::len(&self.0)
    }
    fn device_base(&self) -> u64 {
        self.0.device_base()
    }
    fn domain(&self) -> Domain {
        self.1
    }
}

// In one arena with the ring there is no space for them, so the quick path never has to say so.
#[test]
fn a_chain_of_too_many_bytes_comes_back() {
    for shape in Shape::all().filter(|shape| shape.size >= 8) {
        let mut scene = Scene::new(shape, 1, false);
        let domain = scene.arena.domain();
        let more = Arena::new(More(SharedMemory::new(1 << 40, 1 << 32), domain)).unwrap();
        let buffers = (0..4).map(|_| more.alloc(1 << 30).unwrap()).collect();
        let error = scene.driver.add_buf(Chain::new(vec![], buffers), 5).unwrap_err();
        assert_eq!((error.kind(), error.token), (AddErrorKind::TooLong, 5), "{shape}");
        let mut chain = error.chain;
        chain.writable[3].set_len((1 << 30) - 1).unwrap();
        scene.driver.add_buf(chain, 5).unwrap();
        let chains: Vec<_> = scene.driver.shutdown(quiesced()).collect();
        chains.iter().filter(|(_, token)| *token != 5).for_each(|(chain, token)| scene.back(chain, *token));
        drop(chains);
        scene.end();
    }
}
