//! The transport on a function made of plain memory.

use super::bars::{MemoryBar, memory_bar, place};
use super::capability::Layout;
use super::config::{COMMAND_BUS_MASTER, Function};
use super::*;
use crate::driver::QueueInterrupt;
use crate::registers::Width;
use crate::registers::tests::Plain;
use crate::transport::{NotifyPosition, QueueSetup, Transport};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use spin::Mutex;
use virtio_kit_ring::mem::HeapMemory;
use virtio_kit_spec::pci::common;
use virtio_kit_spec::{DeviceId, F, Features};

const AT: Address = Address::new(0, 3, 0);
/// Where things are in BAR 4: common configuration at 0, then these.
const NOTIFY: u32 = 0x100;
const ISR: u32 = 0x200;
const DEVICE: u32 = 0x300;
const TABLE: u32 = 0x400;

/// A clock on which every look takes a millisecond.
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A function whose registers keep what is written to them.
struct Fake {
    config: Mutex<Vec<u8>>,
    bar: Arc<Plain>,
    bar_len: u64,
    arena: Arena,
    /// The device never says that it is reset.
    stuck: bool,
    vectors: u16,
}

impl Fake {
    /// Capabilities are (type, bar, offset, length), 20 bytes each, from 0x40 on.
    fn new(caps: &[(u8, u8, u32, u32)], multiplier: u32, vectors: u16) -> Self {
        let mut config = vec![0u8; 256];
        config[..4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
        // A list of capabilities at 0x40; BAR 4 is 64 bits wide and prefetchable.
        (config[6], config[0x34], config[0x20]) = (0x10, 0x40, 0xc);
        for (i, &(kind, bar, offset, length)) in caps.iter().enumerate() {
            let at = 0x40 + 24 * i;
            let next = if i + 1 < caps.len() || vectors > 0 { at as u8 + 24 } else { 0 };
            config[at..at + 5].copy_from_slice(&[9, next, 24, kind, bar]);
            config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&length.to_le_bytes());
            config[at + 16..at + 20].copy_from_slice(&multiplier.to_le_bytes());
        }
        if vectors > 0 {
            let at = 0x40 + 24 * caps.len();
            config[at..at + 4].copy_from_slice(&[0x11, 0, vectors as u8 - 1, 0]);
            config[at + 4..at + 8].copy_from_slice(&(TABLE | 4).to_le_bytes());
        }
        let bar = Plain::new(vec![0; 0x1000]);
        let arena = Arena::new(HeapMemory::new(1 << 16).unwrap()).unwrap();
        Self { config: Mutex::new(config), bar, bar_len: 0x4000, arena, stuck: false, vectors: 2048 }
    }

    fn good(multiplier: u32, vectors: u16) -> Self {
        Self::new(&GOOD, multiplier, vectors)
    }

    /// Sets a 16-bit register of the common configuration.
    fn set16(&self, offset: usize, value: u16) {
        self.bar.bytes.lock()[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        self.bar.bytes.lock()[offset..offset + len].to_vec()
    }
}

const GOOD: [(u8, u8, u32, u32); 4] =
    [(1, 4, 0, 0x40), (2, 4, NOTIFY, 0x40), (3, 4, ISR, 4), (4, 4, DEVICE, 8)];

impl ConfigSpace for Fake {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        let mut value = [0xff; 4];
        if at == AT {
            value = [0; 4];
            let len = width.bytes() as usize;
            value[..len].copy_from_slice(&self.config.lock()[offset.into()..][..len]);
        }
        Ok(u32::from_le_bytes(value))
    }

    fn write(&self, _: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        let mut value = value;
        if offset == 0x20 {
            value = value & !(self.bar_len as u32 - 1) | 0xc;
        } else if (0x10..0x24).contains(&offset) {
            value = 0;
        }
        let len = width.bytes() as usize;
        self.config.lock()[offset.into()..][..len].copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }
}

impl Host for Fake {
    fn map_bar(&self, _: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError> {
        match bar {
            4 if self.stuck => Ok(Arc::new(Stuck(self.bar.clone()))),
            4 => Ok(self.bar.clone()),
            _ => Err(TransportError::Unsupported("another BAR")),
        }
    }
    fn arena(&self, _: Address) -> Arena {
        self.arena.clone()
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(Ticks(AtomicU64::new(0)))
    }
    fn interrupts(&self, _: Address) -> Option<Arc<dyn Interrupts>> {
        Some(Arc::new(Armed(self.vectors)))
    }
}

/// Registers of a device that keeps its status.
struct Stuck(Arc<Plain>);

impl Registers for Stuck {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
        if offset == common::DEVICE_STATUS as u64 { Ok(0x40) } else { self.0.read(offset, width) }
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
        self.0.write(offset, width, value)
    }
}

/// Interrupts of which a machine has only so many.
struct Armed(u16);

impl Interrupts for Armed {
    fn arm(&self, count: u16, _: &Arc<Lines>) -> Result<Vec<Message>, TransportError> {
        if count > self.0 {
            return Err(TransportError::NoMemory);
        }
        Ok((0..count).map(|v| Message { address: 0xfee0_0000, data: 0x40 + u32::from(v) }).collect())
    }
    fn disarm(&self) {}
    fn wait(&self, _: u16, _: Duration) -> Result<bool, TransportError> {
        Ok(false)
    }
}

fn open(fake: &Arc<Fake>, queues: u16) -> PciTransport {
    fake.set16(common::NUM_QUEUES, queues);
    fake.set16(common::QUEUE_SIZE, 16);
    PciTransport::open(fake.clone(), AT).unwrap()
}

fn enable(fake: &Fake, pci: &mut PciTransport) -> Box<dyn crate::transport::Notifier> {
    let buffer = fake.arena.alloc(64).unwrap();
    let addr = buffer.device_addr();
    let addrs = virtio_kit_ring::driver::RingAddrs { desc: addr, driver: addr, device: addr };
    fake.set16(common::QUEUE_ENABLE, 0);
    pci.enable_queue(1, QueueSetup { size: 8, addrs }, Arc::new(QueueInterrupt::new(None))).unwrap()
}

fn find(fake: Fake) -> Result<Layout, TransportError> {
    let host: Arc<dyn Host> = Arc::new(fake);
    Layout::find(&host, AT)
}

// drivernormative:Virtio Transport Options / Virtio Over PCI Bus / Virtio Structure PCI Capabilities
#[test]
fn the_first_usable_capability_of_each_type_is_taken() {
    let mut caps = vec![
        (1, 6, 0, 0x40),     // a reserved BAR
        (1, 2, 0, 0x40),     // a BAR that is not of memory
        (0x77, 4, 0, 0x40),  // a type that does not exist
        (1, 4, 0, 0x30),     // too short
        (2, 4, 0xfff, 0x40), // misaligned
    ];
    caps.extend(GOOD.map(|(kind, bar, offset, length)| (kind, bar, offset, length)));
    // Later ones of the same type do not count.
    caps.truncate(8);
    let layout = find(Fake::new(&caps, 4, 0)).unwrap();
    assert_eq!((layout.common.len(), layout.notify.len(), layout.notify_multiplier), (0x40, 0x40, 4));
    assert!(layout.device.is_none(), "a device without a configuration is whole");
    let beyond = find(Fake::new(&[(1, 4, 0xff0, 0x40)], 0, 0));
    assert!(matches!(beyond, Err(TransportError::Protocol(_))));
}

#[test]
fn a_list_of_capabilities_that_loops_comes_to_an_end() {
    let fake = Fake::good(0, 0);
    fake.config.lock()[0x41] = 0x40;
    assert!(matches!(find(fake), Err(TransportError::Protocol(_))));
    let fake = Fake::good(0, 0);
    fake.config.lock()[0x41] = 0xfc;
    fake.config.lock()[0xfc..].copy_from_slice(&[9, 0xfc, 24, 2]);
    assert!(matches!(find(fake), Err(TransportError::Protocol(_))));
}

#[test]
fn virtio_functions_are_taken_by_their_ids() {
    for (id, good) in [
        ([0xf4, 0x1a, 0x42, 0x10], true),
        // Transitional, with modern capabilities.
        ([0xf4, 0x1a, 1, 0x10], true),
        ([0xf4, 0x1a, 0x40, 0x10], false),
        ([0xf4, 0x1a, 0x80, 0x10], false),
        ([0x86, 0x80, 0x42, 0x10], false),
    ] {
        let fake = Fake::good(0, 0);
        fake.config.lock()[..4].copy_from_slice(&id);
        assert_eq!(PciTransport::open(Arc::new(fake), AT).is_ok(), good);
    }
    let fake = Arc::new(Fake::good(0, 0));
    assert_eq!(open(&fake, 1).identity().device, DeviceId::BLOCK);
    let nothing = PciTransport::open(fake, Address::new(0, 4, 0));
    assert_eq!(nothing.unwrap_err(), TransportError::Disconnected);
}

#[test]
fn notifications_go_to_the_queues_own_register_with_or_without_data() {
    for (multiplier, off, place) in [(4, 3, NOTIFY + 12), (0, 3, NOTIFY), (2, 0, NOTIFY)] {
        let fake = Arc::new(Fake::good(multiplier, 0));
        let mut pci = open(&fake, 2);
        fake.set16(common::QUEUE_NOTIFY_OFF, off);
        let position = NotifyPosition { next: 5, wrap: true, packed: true };
        enable(&fake, &mut pci).notify(position).unwrap();
        assert_eq!(fake.get(place as usize, 4), [1, 0, 0, 0]);
        assert_eq!(fake.bar.seen.lock().last(), Some(&(place.into(), Width::U16)));
        pci.set_driver_features(F::NOTIFICATION_DATA | F::VERSION_1).unwrap();
        enable(&fake, &mut pci).notify(position).unwrap();
        assert_eq!(fake.get(place as usize, 4), [1, 0, 5, 0x80]);
    }
    let fake = Arc::new(Fake::good(0x10, 0));
    let mut pci = open(&fake, 2);
    fake.set16(common::QUEUE_NOTIFY_OFF, 4);
    let addr = fake.arena.alloc(64).unwrap().device_addr();
    let addrs = virtio_kit_ring::driver::RingAddrs { desc: addr, driver: addr, device: addr };
    let setup = QueueSetup { size: 8, addrs };
    let beyond = pci.enable_queue(1, setup, Arc::new(QueueInterrupt::new(None)));
    assert!(matches!(beyond.err(), Some(TransportError::Protocol(_))));
}

#[test]
fn every_queue_gets_a_vector_as_far_as_table_and_machine_go() {
    // (vectors of the table, of the machine) and the vector of queue 1 of 2.
    for (table, machine, vector) in [(8, 8, 2), (2, 8, 1), (8, 2, 1), (1, 8, 0), (8, 1, 0)] {
        let fake = Arc::new(Fake { vectors: machine, ..Fake::good(0, table) });
        let mut pci = open(&fake, 2);
        enable(&fake, &mut pci);
        assert_eq!(fake.get(common::QUEUE_MSIX_VECTOR, 2), [vector, 0]);
        let entry = TABLE as usize + 16 * usize::from(vector);
        assert_eq!(fake.get(entry, 16), [0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0x40 + vector, 0, 0, 0, 0, 0, 0, 0]);
        let control = 0x40 + 24 * 4 + 3;
        assert_eq!(fake.config.lock()[control] & 0xc0, 0x80, "enabled, not masked");
        drop(pci);
        assert_eq!(fake.config.lock()[control] & 0x80, 0);
    }
    let fake = Arc::new(Fake { vectors: 0, ..Fake::good(0, 8) });
    let mut pci = open(&fake, 2);
    let line = enable(&fake, &mut pci);
    assert!(!line.wait(Duration::from_millis(20)).unwrap());
    fake.bar.bytes.lock()[ISR as usize] = 1;
    assert!(line.wait(Duration::from_millis(20)).unwrap(), "polled by the interrupt status");
}

#[test]
fn a_device_that_does_not_reset_is_kept_from_memory_and_no_proof_comes() {
    let fake = Arc::new(Fake { stuck: true, ..Fake::good(0, 0) });
    let mut pci = open(&fake, 1).with_reset_limit(Duration::from_millis(50));
    let bus_master = || Function::new(&*fake, AT).command().unwrap() & COMMAND_BUS_MASTER;
    assert_ne!(bus_master(), 0);
    assert_eq!(pci.reset().unwrap_err(), TransportError::Timeout);
    assert_eq!(bus_master(), 0);
}

#[test]
fn a_queue_is_reset_only_if_that_was_agreed_and_only_in_time() {
    let fake = Arc::new(Fake::good(0, 0));
    let mut pci = open(&fake, 1).with_reset_limit(Duration::from_millis(50));
    assert!(pci.reset().is_ok());
    assert!(pci.allowed_features().contains(F::RING_RESET | F::NOTIFICATION_DATA));
    let never = F::ADMIN_VQ | F::SR_IOV | F::NOTIF_CONFIG_DATA | F::SUSPEND;
    assert!(!pci.allowed_features().intersects(never));
    assert!(matches!(pci.reset_queue(0), Err(TransportError::Unsupported(_))));
    pci.set_driver_features(F::VERSION_1 | F::RING_RESET).unwrap();
    assert_eq!(pci.reset_queue(0).unwrap_err(), TransportError::Timeout);
    assert_eq!(pci.reset_queue(1).unwrap_err(), TransportError::NoQueue(1));
    drop(pci);
    assert_eq!(Function::new(&*fake, AT).command().unwrap() & COMMAND_BUS_MASTER, 0);
    let mut short = GOOD;
    short[0].3 = common::MIN_SIZE as u32;
    let fake = Arc::new(Fake::new(&short, 0, 0));
    assert!(!open(&fake, 1).allowed_features().contains(F::RING_RESET));
}

#[test]
fn features_are_128_bits_and_configuration_ends_where_the_device_says() {
    let fake = Arc::new(Fake::good(0, 0));
    let mut pci = open(&fake, 1);
    fake.bar.bytes.lock()[4..8].copy_from_slice(&[1, 0, 0, 0x80]);
    let words = |word: u128| word | word << 32 | word << 64 | word << 96;
    assert_eq!(pci.device_features().unwrap(), Features::from_bits(words(0x8000_0001)));
    pci.set_driver_features(Features::from_bits(7 << 96)).unwrap();
    assert_eq!(fake.get(common::DRIVER_FEATURE_SELECT, 8), [3, 0, 0, 0, 7, 0, 0, 0]);
    fake.bar.bytes.lock()[DEVICE as usize..][..16].fill(0xaa);
    let mut config = [1; 12];
    pci.read_config(0, &mut config).unwrap();
    assert_eq!(config, [0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0, 0, 0, 0]);
    assert!(pci.write_config(6, &[1, 2]).is_ok() && pci.write_config(7, &[1, 2]).is_err());
}

#[test]
fn bars_are_measured_and_placed_on_their_own_size() {
    let fake = Fake::good(0, 0);
    let function = Function::new(&fake, AT);
    let mut next = 0x1_0000_1000;
    let bar = MemoryBar { number: 4, address: 0x1_0000_4000, len: 0x4000, wide: true };
    assert_eq!(place(&function, &mut next, 1 << 40).unwrap(), [bar]);
    assert_eq!(next, 0x1_0000_8000);
    assert_eq!(memory_bar(&function, 4).unwrap(), Some(bar));
    assert_eq!((memory_bar(&function, 0).unwrap(), memory_bar(&function, 6).unwrap()), (None, None));
    assert_eq!(place(&function, &mut next, 0).unwrap(), [bar], "what has an address keeps it");
    function.write32(0x20, 0).unwrap();
    function.write32(0x24, 0).unwrap();
    assert_eq!(place(&function, &mut next, 0x1_0000_8000).unwrap_err(), TransportError::NoMemory);
}
