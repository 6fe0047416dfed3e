//! Drivers, back-ends, and the matching between them.

mod common;

use common::{List, found};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use virtio_kit::bus::{Bound, Bus, BusError, DeviceMatch, DeviceState, Driver, Event, ProbeError};
use virtio_kit::driver::Evidence;
use virtio_kit::driver::{AddErrorKind, Device, Found, GetError, Virtqueue, VqOptions};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::transport::Identity;
use virtio_kit::{Arena, Chain, DeviceId, DmaBuf, Features, Status};

type Vq = Virtqueue<Chain<DmaBuf>, u32>;

/// Counts what it is asked; keeps the queues of its devices where a test finds them.
#[derive(Default)]
struct Log {
    probed: AtomicUsize,
    removed: AtomicUsize,
    changed: AtomicUsize,
    queues: Mutex<Vec<(Vq, Arena)>>,
}

struct TestDriver {
    table: Vec<DeviceMatch>,
    fail: bool,
    log: Arc<Log>,
}

impl TestDriver {
    fn of(table: impl Into<Vec<DeviceMatch>>) -> (Arc<Self>, Arc<Log>) {
        let log = Arc::new(Log::default());
        (Arc::new(Self { table: table.into(), fail: false, log: log.clone() }), log)
    }
}

struct TestBound {
    device: Device,
    log: Arc<Log>,
}

impl Driver for TestDriver {
    fn name(&self) -> &str {
        "test"
    }
    fn id_table(&self) -> &[DeviceMatch] {
        &self.table
    }
    fn probe(&self, device: Found) -> Result<Box<dyn Bound>, ProbeError> {
        self.log.probed.fetch_add(1, Ordering::SeqCst);
        let mut setup = device.negotiate(Features::EMPTY)?;
        if self.fail {
            return Err(ProbeError::BadConfig("a test"));
        }
        let queue: Vq = setup.new_vq(0, VqOptions::default())?;
        let arena = setup.arena().unwrap().clone();
        let device = setup.start()?;
        self.log.queues.lock().unwrap().push((queue, arena));
        Ok(Box::new(TestBound { device, log: self.log.clone() }))
    }
}

impl Bound for TestBound {
    fn config_changed(&mut self) {
        self.log.changed.fetch_add(1, Ordering::SeqCst);
    }
    fn remove(self: Box<Self>) -> Option<Found> {
        self.log.removed.fetch_add(1, Ordering::SeqCst);
        self.device.reset().ok()
    }
}

fn states(bus: &Bus) -> Vec<DeviceState> {
    bus.devices().map(|(_, _, state)| state).collect()
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

const BLOCK: DeviceMatch = DeviceMatch::id(DeviceId::BLOCK);

#[test]
fn registering_with_no_back_end_is_a_typed_error_and_early_registration_waits_for_one() {
    let mut bus = Bus::new();
    let (driver, log) = TestDriver::of([BLOCK]);
    assert_eq!(bus.register_driver(driver.clone()), Err(BusError::NoBackend));
    bus.register_driver_early(driver);
    assert_eq!(count(&log.probed), 0);
    bus.install_backend(Box::new(List::of([DeviceId::BLOCK, DeviceId::NETWORK])));
    assert_eq!(count(&log.probed), 1);
}

#[test]
fn devices_meet_drivers_whichever_comes_first() {
    let mut bus = Bus::new();
    let list = List::of([DeviceId::BLOCK]);
    bus.install_backend(Box::new(list.clone()));
    assert_eq!(states(&bus), [DeviceState::Unbound]);
    let (driver, log) = TestDriver::of([BLOCK]);
    let id = bus.register_driver(driver).unwrap();
    assert_eq!(states(&bus), [DeviceState::Bound(id)]);
    list.tell(Event::Added(7, found(DeviceId::BLOCK, false).0));
    bus.poll();
    assert_eq!(count(&log.probed), 2);
    list.tell(Event::ConfigChanged(7));
    list.tell(Event::ConfigChanged(99));
    bus.poll();
    assert_eq!(count(&log.changed), 1);
    list.tell(Event::Removed(7));
    bus.poll();
    assert_eq!((count(&log.removed), states(&bus).len()), (1, 1));
}

#[test]
fn several_back_ends_are_there_at_once_and_replacing_one_moves_only_its_devices() {
    let mut bus = Bus::new();
    let old = bus.install_backend(Box::new(List::of([DeviceId::BLOCK; 3])));
    bus.install_backend(Box::new(List::of([DeviceId::BLOCK])));
    let (driver, log) = TestDriver::of([BLOCK]);
    bus.register_driver(driver).unwrap();
    assert_eq!(count(&log.probed), 4);
    let (new, _) = bus.replace_backend(old, Box::new(List::of([DeviceId::BLOCK; 2]))).unwrap();
    assert_eq!((count(&log.removed), count(&log.probed), states(&bus).len()), (3, 6, 3));
    assert_eq!(bus.remove_backend(old).err(), Some(BusError::NoSuchBackend));
    bus.remove_backend(new).unwrap();
    assert_eq!((count(&log.removed), states(&bus).len()), (5, 1));
}

#[test]
fn a_failing_probe_leaves_failed_set_and_does_not_stop_the_others() {
    let (failing, end) = found(DeviceId::BLOCK, false);
    let list = List::default();
    list.tell(Event::Added(0, failing));
    let mut bus = Bus::new();
    bus.install_backend(Box::new(list.clone()));
    let log = Arc::new(Log::default());
    let driver = Arc::new(TestDriver { table: vec![BLOCK], fail: true, log });
    let id = bus.register_driver(driver).unwrap();
    assert_eq!(states(&bus), [DeviceState::Failed(ProbeError::BadConfig("a test"))]);
    assert!(end.status().contains(Status::FAILED));
    bus.unregister_driver(id).unwrap();
    let (driver, log) = TestDriver::of([BLOCK]);
    bus.register_driver(driver).unwrap();
    list.tell(Event::Added(1, found(DeviceId::BLOCK, false).0));
    bus.poll();
    assert_eq!(count(&log.probed), 1);
}

#[test]
fn unregistering_with_requests_in_flight_gives_every_buffer_back_and_frees_the_device_for_another() {
    // A device that answers, one that takes requests and keeps them, and requests that it never saw.
    for (silent, kicked) in [(false, true), (true, true), (true, false)] {
        let list = List::default();
        list.tell(Event::Added(0, found(DeviceId::BLOCK, silent).0));
        let mut bus = Bus::new();
        bus.install_backend(Box::new(list));
        let (driver, log) = TestDriver::of([BLOCK]);
        let id = bus.register_driver(driver).unwrap();
        let (mut queue, arena) = log.queues.lock().unwrap().pop().unwrap();
        for token in 0..20 {
            queue.add_buf(Chain::readable(arena.alloc(8).unwrap()), token).unwrap();
        }
        if kicked {
            queue.kick().unwrap();
        }
        bus.unregister_driver(id).unwrap();
        let mut tokens = vec![];
        while let Ok(Some(used)) = queue.get_buf() {
            tokens.push(used.token);
        }
        assert!(matches!(queue.get_buf(), Err(GetError::Stopped)));
        let quiesced = queue.quiesced().unwrap();
        // A device that keeps what it was given costs the arena: nobody else is given that memory.
        let kept = silent && kicked;
        let evidence = if kept { Evidence::ArenaRetired } else { Evidence::DeviceHalfReturned };
        assert_eq!((quiesced.evidence(), arena.is_retired()), (evidence, kept));
        tokens.extend(queue.shutdown(quiesced).map(|(_, token)| token));
        tokens.sort_unstable();
        assert_eq!(tokens, (0..20).collect::<Vec<_>>());
        let (other, log) = TestDriver::of([BLOCK]);
        bus.register_driver(other).unwrap();
        assert_eq!(count(&log.probed), usize::from(!kept));
    }
}

#[test]
fn a_buffer_of_another_domain_is_refused_and_comes_back() {
    let mut bus = Bus::new();
    bus.install_backend(Box::new(List::of([DeviceId::BLOCK])));
    let (driver, log) = TestDriver::of([BLOCK]);
    bus.register_driver(driver).unwrap();
    let (mut queue, _) = log.queues.lock().unwrap().pop().unwrap();
    let foreign = Arena::new(HeapMemory::new(4096).unwrap()).unwrap();
    let refused = queue.add_buf(Chain::readable(foreign.alloc(8).unwrap()), 99).unwrap_err();
    assert_eq!((refused.kind, refused.token), (AddErrorKind::ForeignBuffer, 99));
}

#[test]
fn id_tables_match_by_every_field_and_by_class_under_a_mask() {
    let device = Identity {
        vendor: 0x1af4,
        device: DeviceId::NETWORK,
        subsystem_vendor: 0x1234,
        subsystem_device: 0x5678,
        class: 0x020000,
    };
    assert!(DeviceMatch::ANY.matches(&device));
    assert!(DeviceMatch::id(DeviceId::NETWORK).matches(&device));
    assert!(!BLOCK.matches(&device));
    assert!(DeviceMatch::id_and_class(DeviceId::NETWORK, 0x020000).matches(&device));
    assert!(!DeviceMatch::id_and_class(DeviceId::NETWORK, 0x020001).matches(&device));
    let network_class = DeviceMatch { class: 0x02ffff, class_mask: 0xff0000, ..DeviceMatch::ANY };
    assert!(network_class.matches(&device));
    for wrong in [
        DeviceMatch { vendor: Some(1), ..DeviceMatch::ANY },
        DeviceMatch { subsystem_vendor: Some(1), ..DeviceMatch::ANY },
        DeviceMatch { subsystem_device: Some(1), ..DeviceMatch::ANY },
    ] {
        assert!(!wrong.matches(&device));
    }
}

#[test]
fn matching_a_thousand_devices_costs_no_more_with_a_hundred_drivers_than_with_one() {
    // Drivers of types that no device has: only an index keeps them out of the way.
    let time = |drivers: u32| {
        let mut bus = Bus::new();
        for i in 0..drivers {
            bus.register_driver_early(TestDriver::of([DeviceMatch::id(DeviceId(1000 + i))]).0);
        }
        let list = List::of(std::iter::repeat_n(DeviceId::BLOCK, 1000));
        let start = Instant::now();
        bus.install_backend(Box::new(list));
        let taken = start.elapsed();
        assert_eq!(states(&bus).len(), 1000);
        taken
    };
    // Medians of several runs: the machine has other things to do.
    let median = |drivers| {
        let mut times: Vec<_> = (0..7).map(|_| time(drivers)).collect();
        times.sort();
        times[3]
    };
    let (one, hundred) = (median(1), median(100));
    assert!(hundred < one * 3, "1 driver: {one:?}, 100 drivers: {hundred:?}");
}
