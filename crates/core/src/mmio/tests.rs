//! The transport on registers that are only memory, and count how they are accessed.

use super::*;
use crate::bus::{Backend, Event};
use crate::driver::QueueInterrupt;
use crate::registers::Width;
use crate::registers::tests::Plain;
use crate::transport::{Notifier, NotifyPosition, QueueSetup, Transport};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use virtio_kit_ring::driver::RingAddrs;
use virtio_kit_ring::mem::HeapMemory;
use virtio_kit_spec::mmio as at;
use virtio_kit_spec::{DeviceId, F};

struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

struct Fake {
    block: Arc<Plain>,
    arena: Arena,
}

const PLACE: Place = Place { start: 0x1000, len: 0x120, interrupt: 3 };

impl Fake {
    fn new(version: u32) -> Arc<Self> {
        let fake = Self {
            block: Plain::new(vec![0; 0x120]),
            arena: Arena::new(HeapMemory::new(1 << 16).unwrap()).unwrap(),
        };
        fake.set(at::MAGIC_VALUE, at::MAGIC);
        fake.set(at::VERSION, version);
        fake.set(at::DEVICE_ID, 2);
        fake.set(at::VENDOR_ID, 0x1234);
        fake.set(at::QUEUE_SIZE_MAX, 16);
        Arc::new(fake)
    }

    fn set(&self, offset: usize, value: u32) {
        self.block.bytes.lock()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.block.bytes.lock()[offset..offset + 4].try_into().unwrap())
    }
}

impl Host for Fake {
    fn map(&self, start: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError> {
        if start == PLACE.start { Ok(self.block.clone()) } else { Ok(Plain::new(vec![7; len as usize])) }
    }
    fn arena(&self, _: &Place) -> Arena {
        self.arena.clone()
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(Ticks(AtomicU64::new(0)))
    }
}

fn open(fake: &Arc<Fake>) -> MmioTransport {
    MmioTransport::open(fake.clone(), PLACE).unwrap().unwrap()
}

fn enable(fake: &Fake, mmio: &mut MmioTransport) -> Box<dyn Notifier> {
    let addr = fake.arena.alloc(4096).unwrap().device_addr();
    let setup = QueueSetup { size: 8, addrs: RingAddrs { desc: addr, driver: addr, device: addr } };
    fake.set(at::QUEUE_READY, 0);
    fake.set(at::legacy::QUEUE_PFN, 0);
    mmio.enable_queue(1, setup, Arc::new(QueueInterrupt::new(None))).unwrap()
}

// drivernormative:Virtio Transport Options / Virtio Over MMIO / MMIO Device Register Layout
#[test]
fn a_place_is_taken_for_a_device_by_magic_version_and_id() {
    let fake = Fake::new(2);
    assert_eq!(open(&fake).identity().device, DeviceId::BLOCK);
    assert_eq!(open(&fake).identity().vendor, 0x1234);
    fake.set(at::DEVICE_ID, 0);
    assert!(MmioTransport::open(fake.clone(), PLACE).unwrap().is_none(), "an empty place is no error");
    let seen: Vec<_> = fake.block.seen.lock().iter().rev().take(3).rev().copied().collect();
    assert_eq!(seen, [(0, Width::U32), (4, Width::U32), (8, Width::U32)], "and nothing else is touched");
    for (offset, value) in [(at::MAGIC_VALUE, 1), (at::VERSION, 3)] {
        let fake = Fake::new(2);
        fake.set(offset, value);
        assert!(matches!(MmioTransport::open(fake, PLACE), Err(TransportError::Unsupported(_))));
    }
    let short = Place { len: 0xff, ..PLACE };
    assert!(matches!(MmioTransport::open(Fake::new(2), short), Err(TransportError::Unsupported(_))));
}

// drivernormative:Virtio Transport Options / Virtio Over MMIO / MMIO Device Register Layout
#[test]
fn a_kick_is_one_access_with_or_without_data() {
    for version in [1, 2] {
        let fake = Fake::new(version);
        let mut mmio = open(&fake);
        let line = enable(&fake, &mut mmio);
        fake.block.seen.lock().clear();
        line.notify(NotifyPosition { next: 5, wrap: true, packed: true }).unwrap();
        assert_eq!(*fake.block.seen.lock(), [(at::QUEUE_NOTIFY as u64, Width::U32)]);
        assert_eq!(fake.get(at::QUEUE_NOTIFY), 1);
    }
    let fake = Fake::new(2);
    let mut mmio = open(&fake);
    mmio.set_driver_features(F::NOTIFICATION_DATA | F::VERSION_1).unwrap();
    let line = enable(&fake, &mut mmio);
    fake.block.seen.lock().clear();
    line.notify(NotifyPosition { next: 5, wrap: true, packed: true }).unwrap();
    line.notify(NotifyPosition { next: 0x8002, wrap: false, packed: false }).unwrap();
    assert_eq!(*fake.block.seen.lock(), [(at::QUEUE_NOTIFY as u64, Width::U32); 2]);
    assert_eq!(fake.get(at::QUEUE_NOTIFY), 0x8002_0001);
}

#[test]
fn a_legacy_device_has_no_ring_feature_above_bit_31() {
    let fake = Fake::new(1);
    let mut mmio = open(&fake);
    let allowed = mmio.allowed_features();
    assert!(allowed.contains(F::INDIRECT_DESC | F::EVENT_IDX) && allowed.bits() >> 32 == 0);
    assert!(!allowed.contains(F::NOTIFY_ON_EMPTY) && allowed.contains(F::ANY_LAYOUT));
    fake.set(at::DEVICE_FEATURES, u32::MAX);
    assert_eq!(mmio.device_features().unwrap().bits(), u128::from(u32::MAX));
    mmio.reset().unwrap();
    assert_eq!(fake.get(at::legacy::GUEST_PAGE_SIZE), 4096);
    enable(&fake, &mut mmio);
    assert_eq!(fake.get(at::legacy::QUEUE_PFN), fake.arena.device_base().get() as u32 >> 12);
    assert_eq!((fake.get(at::legacy::QUEUE_ALIGN), fake.get(at::QUEUE_SIZE)), (4096, 8));
    assert_eq!(mmio.config_generation().unwrap(), 0);
    let modern = open(&Fake::new(2)).allowed_features();
    assert!(modern.contains(F::RING_PACKED | F::IN_ORDER | F::ACCESS_PLATFORM | F::RING_RESET));
    assert!(!modern.intersects(F::SR_IOV | F::NOTIF_CONFIG_DATA | F::ADMIN_VQ | F::SUSPEND));
}

#[test]
fn a_device_that_shows_64_features_again_and_again_has_64() {
    let fake = Fake::new(2);
    let mut mmio = open(&fake);
    // Registers that are only memory show the same whatever is selected.
    fake.set(at::DEVICE_FEATURES, 5);
    assert_eq!(mmio.device_features().unwrap().bits(), 5 << 32 | 5);
    mmio.set_driver_features(Features::from_low(1 << 32 | 4)).unwrap();
    assert_eq!((fake.get(at::DRIVER_FEATURES_SEL), fake.get(at::DRIVER_FEATURES)), (1, 1));
    mmio.set_driver_features(Features::bit(100)).unwrap();
    assert_eq!((fake.get(at::DRIVER_FEATURES_SEL), fake.get(at::DRIVER_FEATURES)), (3, 16));
}

// drivernormative:Virtio Transport Options / Virtio Over MMIO / MMIO-specific Initialization And Device Operation / Notifications From The Device
#[test]
fn only_interrupts_that_are_known_are_acknowledged_and_all_queues_look() {
    let fake = Fake::new(2);
    let mut mmio = open(&fake);
    let watch = mmio.config_watch();
    let line = enable(&fake, &mut mmio);
    assert!(!line.wait(Duration::from_millis(10)).unwrap());
    fake.set(at::INTERRUPT_STATUS, 0x85);
    assert!(line.wait(Duration::from_millis(10)).unwrap());
    assert_eq!(fake.get(at::INTERRUPT_ACK), 1);
    fake.set(at::INTERRUPT_STATUS, 2);
    assert!(watch.changed().unwrap());
    assert_eq!(fake.get(at::INTERRUPT_ACK), 2);
    fake.set(at::INTERRUPT_STATUS, 0);
    assert!(!watch.changed().unwrap());
}

#[test]
fn shared_memory_regions_are_mapped_and_missing_ones_are_none() {
    let fake = Fake::new(2);
    let mut mmio = open(&fake);
    for missing in [u32::MAX, 0] {
        fake.set(at::SHM_LEN_LOW, missing);
        fake.set(at::SHM_LEN_HIGH, missing);
        assert!(mmio.shared_memory(4).unwrap().is_none());
    }
    assert_eq!(fake.get(at::SHM_SEL), 4);
    fake.set(at::SHM_LEN_LOW, 0x100);
    fake.set(at::SHM_BASE_HIGH, 1);
    let region = mmio.shared_memory(4).unwrap().unwrap();
    assert_eq!((region.len(), region.read8(0xff).unwrap()), (0x100, 7));
    assert!(open(&Fake::new(1)).shared_memory(0).unwrap().is_none());
}

#[test]
fn a_device_that_does_not_reset_gives_no_proof() {
    let fake = Fake::new(2);
    let mut mmio = open(&fake).with_reset_limit(Duration::from_millis(20));
    assert!(mmio.reset().is_ok());
    mmio.set_driver_features(F::VERSION_1 | F::RING_RESET).unwrap();
    // Registers that are only memory keep the 1 that asks for the reset.
    assert_eq!(mmio.reset_queue(0).unwrap_err(), TransportError::Timeout);
    mmio.set_driver_features(F::VERSION_1).unwrap();
    assert!(matches!(mmio.reset_queue(0), Err(TransportError::Unsupported(_))));
}

#[test]
fn a_bus_offers_what_is_there_and_tells_of_changes() {
    let fake = Fake::new(2);
    let mut bus = MmioBus::new(fake.clone(), [PLACE, Place { start: 0x2000, ..PLACE }]);
    let mut events = vec![];
    bus.poll(&mut |event| events.push(event));
    assert!(matches!(&events[..], [Event::Added(0x1000, found)] if found.transport_name() == "mmio"));
    assert!(matches!(bus.failed(), [(Place { start: 0x2000, .. }, TransportError::Unsupported(_))]));
    fake.set(at::INTERRUPT_STATUS, 2);
    let plug = bus.plug();
    plug.remove(0x9000);
    events.clear();
    bus.poll(&mut |event| events.push(event));
    assert!(matches!(events[..], [Event::ConfigChanged(0x1000)]));
    fake.set(at::INTERRUPT_STATUS, 0);
    plug.remove(0x1000);
    events.clear();
    bus.poll(&mut |event| events.push(event));
    assert!(matches!(events[..], [Event::Removed(0x1000)]));
}
