//! Our transports on QEMU's: MMIO of both versions, legacy PCI, a window instead of BARs, and a bus of them.

#[allow(unreachable_pub, dead_code, reason = "a module of several tests")]
#[path = "qtest/blk.rs"]
mod blk;
mod common;

use blk::{add_disk, add_file, disk, exercise};
use common::{LONG as LIMIT, TempDir};
use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use virtio_kit::bus::{Bus, DeviceState};
use virtio_kit::clock::Clock;
use virtio_kit::driver::{Evidence, Found, RING_FEATURES, VqOptions};
use virtio_kit::mmio::{MmioBus, MmioTransport, Place};
use virtio_kit::pci::{self, Address, ConfigSpace, Host, LegacyTransport, PciHost, PciTransport};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::ring::driver::Indirect;
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{Arena, Chain, DeviceId, DmaBuf, F, Features};
use virtio_kit_drivers::blk::{BlkDriver, Options as BlkOptions, RequestError};
use virtio_kit_linux::qtest::{Board, Machine, Options};

fn start(options: &Options) -> Machine {
    Machine::start(options).unwrap_or_else(|error| panic!("{error}. ./ci.sh installs what is missing."))
}

fn board(legacy: bool) -> Options {
    Options { board: Board::MicroVm { legacy }, ..Options::default() }
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

/// A layout and its options, as bits: packed, in order, event index, indirect.
#[derive(Clone, Copy)]
struct Shape(u8);

impl Shape {
    fn has(self, bit: u8) -> bool {
        self.0 >> bit & 1 != 0
    }
    fn properties(self) -> String {
        let [packed, in_order, event_idx, indirect] = [0, 1, 2, 3].map(|bit| on(self.has(bit)));
        format!("packed={packed},in_order={in_order},event_idx={event_idx},indirect_desc={indirect}")
    }
    /// What has to come of it, of the features whose choice it is.
    fn features(self) -> Features {
        let all = [F::RING_PACKED, F::IN_ORDER, F::EVENT_IDX, F::INDIRECT_DESC];
        (0u8..4).filter(|&bit| self.has(bit)).map(|bit| all[usize::from(bit)]).collect()
    }
}

const CHOICES: Features = F::RING_PACKED.union(F::IN_ORDER).union(F::EVENT_IDX).union(F::INDIRECT_DESC);

/// The shapes that there are on a legacy interface.
fn legacy_shapes() -> impl Iterator<Item = Shape> {
    (0..4).map(|bits| Shape(bits << 2))
}

/// Disks on a board of MMIO devices, and their places: QEMU fills them from the last one down.
fn mmio_disks(
    dir: &TempDir,
    legacy: bool,
    shapes: &[Shape],
    more: &str,
) -> (Machine, Vec<(Place, String, File, Shape)>) {
    let (mut options, mut files) = (board(legacy), vec![]);
    for &shape in shapes {
        let name = format!("disk{:02}", shape.0);
        let (with_file, file) = add_file(options, dir, &name);
        options =
            with_file.virtio(&format!("virtio-blk-device,{},{}{more}", disk(&name), shape.properties()));
        files.push((name, file, shape));
    }
    let machine = start(&options);
    let mut places = machine.places().to_vec();
    places.sort();
    assert_eq!(places.len(), shapes.len());
    let all = places.into_iter().rev().zip(files);
    let disks = all.map(|(place, (name, file, shape))| (place, name, file, shape)).collect();
    (machine, disks)
}

fn mmio(machine: &Machine, place: Place) -> MmioTransport {
    MmioTransport::open(Arc::new(machine.clone()), place).unwrap().expect("a device")
}

#[test]
fn blk_over_mmio_version_2_in_every_shape() {
    let dir = TempDir::in_memory();
    let shapes: Vec<_> = (0..16).map(Shape).collect();
    let (machine, disks) = mmio_disks(&dir, false, &shapes, "");
    let free = machine.arena().free_bytes();
    for (place, name, file, shape) in &disks {
        let transport = mmio(&machine, *place);
        assert_eq!((transport.name(), transport.legacy()), ("mmio", None));
        let (mut blk, device) = blk::open_on(transport, &BlkOptions::default());
        assert_eq!(blk.features & CHOICES, shape.features(), "{name}");
        assert!(blk.features.contains(F::VERSION_1));
        exercise(&mut blk.queues[0], file, name, shape.has(1));
        drop(device);
        assert!(blk.queues.iter_mut().all(|queue| queue.complete().is_err()));
    }
    assert_eq!(machine.arena().free_bytes(), free);
}

#[test]
fn blk_over_legacy_mmio_in_every_shape_that_it_has() {
    let dir = TempDir::in_memory();
    let shapes: Vec<_> = legacy_shapes().collect();
    let (machine, disks) = mmio_disks(&dir, true, &shapes, "");
    let free = machine.arena().free_bytes();
    for (place, name, file, shape) in &disks {
        let transport = mmio(&machine, *place);
        assert!(transport.legacy().is_some());
        let (mut blk, device) = blk::open_on(transport, &BlkOptions::default());
        assert_eq!(blk.features & RING_FEATURES, shape.features(), "{name}: no bit above 31");
        exercise(&mut blk.queues[0], file, name, false);
        drop(device);
        assert!(blk.queues.iter_mut().all(|queue| queue.complete().is_err()));
    }
    assert_eq!(machine.arena().free_bytes(), free);
}

/// Takes runs of random bytes, all different, the queue reset in between if it can be.
///
/// An in-order queue is used for less than one lap: at the end of the ring QEMU up to 10.0.2 reads beyond its table,
/// and goes on with what it finds there (see [`exercise`]).
fn random_bytes(transport: impl Transport + 'static, choices: Features, seen: &mut HashSet<[u8; 32]>) {
    let found = Found::new(Box::new(transport)).or_legacy();
    assert_eq!(found.identity().device, DeviceId::ENTROPY);
    let mut setup = found.negotiate(Features::EMPTY).unwrap();
    assert_eq!(setup.features() & CHOICES, choices);
    let arena = setup.arena().unwrap().clone();
    let indirect = Some(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 });
    let mut vq =
        setup.new_vq::<Chain<(), DmaBuf>, u32>(0, VqOptions { indirect, ..VqOptions::default() }).unwrap();
    assert!(setup.new_vq::<Chain<(), DmaBuf>, u32>(1, VqOptions::default()).is_err());
    let mut device = setup.start().unwrap();
    let resets = if device.can_reset_queues() { 2 } else { 1 };
    for round in 0..resets {
        for token in 0..if choices.contains(F::IN_ORDER) { 7 } else { 25 } {
            vq.add_buf(Chain::writable(arena.alloc_zeroed(32).unwrap()), token).unwrap();
            vq.kick().unwrap();
            let deadline = Instant::now() + LIMIT;
            let used = loop {
                match vq.get_buf().unwrap() {
                    Some(used) => break used,
                    None => assert!(vq.wait(LIMIT).unwrap() || Instant::now() < deadline),
                }
            };
            assert_eq!((used.token, used.written), (token, 32));
            assert!(seen.insert(used.chain.writable.read_value(0).unwrap()), "the same bytes again");
        }
        if round + 1 < resets {
            let quiesced = match device.reset_vq(&vq) {
                Ok(quiesced) => quiesced,
                // As QEMU up to 10.0.2 does on MMIO: no such register, and the queue goes on.
                Err(TransportError::Refused(_)) if choices.contains(F::IN_ORDER) => return,
                Err(TransportError::Refused(_)) => continue,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(quiesced.evidence(), Evidence::QueueReset);
            assert_eq!(vq.shutdown(quiesced).count(), 0);
            device.enable_vq(&mut vq).unwrap();
        }
    }
}

#[test]
fn random_bytes_over_mmio_of_both_versions_in_every_shape() {
    let mut seen = HashSet::new();
    for legacy in [false, true] {
        let shapes: Vec<_> = if legacy { legacy_shapes().collect() } else { (0..16).map(Shape).collect() };
        let device = |shape: &Shape| format!("virtio-rng-device,{}", shape.properties());
        let options = shapes.iter().fold(board(legacy), |options, shape| options.virtio(&device(shape)));
        let machine = start(&options);
        let mut places = machine.places().to_vec();
        places.sort();
        for (&place, shape) in places.iter().rev().zip(&shapes) {
            random_bytes(mmio(&machine, place), shape.features(), &mut seen);
        }
        let taken = places.iter().map(|place| place.start).min().unwrap();
        let empty = Place { start: taken - 0x200, ..places[0] };
        assert!(MmioTransport::open(Arc::new(machine.clone()), empty).unwrap().is_none(), "an empty slot");
        let nothing = Place { start: 0x10_0000, ..empty };
        let error = MmioTransport::open(Arc::new(machine), nothing).unwrap_err();
        assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    }
}

#[test]
fn random_bytes_over_legacy_pci_in_every_shape_and_with_few_vectors() {
    let (mut options, mut all) = (Options::default(), vec![]);
    for shape in legacy_shapes() {
        for vectors in 0..3 {
            let device = format!(
                "virtio-rng-pci,disable-modern=on,disable-legacy=off,addr={:#x},vectors={vectors},{}",
                all.len() + 2,
                shape.properties(),
            );
            options = options.device(&device);
            all.push(shape);
        }
    }
    let machine = start(&options);
    let mut seen = HashSet::new();
    for (slot, shape) in (2..).zip(all) {
        let at = Address::new(0, slot, 0);
        assert!(PciTransport::open(Arc::new(machine.clone()), at).is_err(), "it has no modern interface");
        let transport = LegacyTransport::open(Arc::new(machine.clone()), at).unwrap();
        assert_eq!(transport.name(), "pci-legacy");
        random_bytes(transport, shape.features(), &mut seen);
    }
}

#[test]
fn blk_over_legacy_pci_in_every_shape_and_with_few_vectors() {
    let dir = TempDir::in_memory();
    let (mut options, mut files) = (Options::default(), vec![]);
    for (n, shape) in legacy_shapes().enumerate() {
        let name = format!("disk{n}");
        let (with_file, file) = add_file(options, &dir, &name);
        options = with_file.device(&format!(
            "virtio-blk-pci,disable-modern=on,disable-legacy=off,{},addr={},vectors={n},num-queues=2,{}",
            disk(&name),
            n + 2,
            shape.properties(),
        ));
        files.push((name, file, shape));
    }
    let machine = start(&options);
    let free = machine.arena().free_bytes();
    for (slot, (name, file, shape)) in (2..).zip(&files) {
        let host: Arc<dyn Host> = Arc::new(machine.clone());
        let (transport, _) = pci::open(host, Address::new(0, slot, 0)).unwrap();
        let wanted = BlkOptions { queues: 2, ..BlkOptions::default() };
        let found = Found::new(transport);
        let (mut blk, device) = virtio_kit_drivers::blk::open::<blk::Data, u64>(found, &wanted).unwrap();
        assert_eq!(blk.features & RING_FEATURES, shape.features(), "{name}");
        for queue in &mut blk.queues {
            exercise(queue, file, name, false);
        }
        drop(device);
        assert!(blk.queues.iter_mut().all(|queue| queue.complete().is_err()));
    }
    assert_eq!(machine.arena().free_bytes(), free);
}

#[test]
fn a_queue_of_an_mmio_device_is_reset_and_starts_again() {
    let dir = TempDir::in_memory();
    let shapes: Vec<_> = (0..4).map(Shape).collect();
    let (machine, disks) = mmio_disks(&dir, false, &shapes, ",num-queues=2");
    for (place, name, file, shape) in &disks {
        let wanted = BlkOptions { queues: 2, ..BlkOptions::default() };
        let (mut blk, mut device) = blk::open_on(mmio(&machine, *place), &wanted);
        let queue = &mut blk.queues[0];
        exercise(queue, file, name, shape.has(1));
        let Ok(()) = device.reset_queue(queue) else {
            // QEMU up to 10.0.2 offers it and has no register for it: nothing is taken for a reset, and the queue goes on.
            assert!(blk.features.contains(F::RING_RESET));
            if !shape.has(1) {
                exercise(queue, file, name, false);
            }
            continue;
        };
        while queue.complete().is_ok_and(|done| done.is_some()) {}
        device.restart_queue(queue).unwrap();
        for i in 0..20 {
            queue.write(i * 8, vec![blk::buffer(queue, 4096, 0xee)], i).unwrap();
        }
        device.reset_queue(queue).unwrap();
        let mut tokens = vec![];
        while let Some(done) = queue.complete().ok().flatten() {
            assert_eq!(done.result, Err(RequestError::Removed));
            tokens.push(done.token);
        }
        tokens.sort_unstable();
        assert_eq!(tokens, (0..20).collect::<Vec<_>>(), "{name}");
        device.restart_queue(queue).unwrap();
        exercise(queue, file, name, shape.has(1));
    }
}

/// A host that maps no BAR: everything goes through the window in configuration space.
struct Unmapped(Machine);

impl ConfigSpace for Unmapped {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        ConfigSpace::read(&self.0, at, offset, width)
    }
    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        ConfigSpace::write(&self.0, at, offset, width, value)
    }
}

impl Host for Unmapped {
    fn map_bar(&self, _: Address, _: u8) -> Result<Arc<dyn Registers>, TransportError> {
        Err(TransportError::Unsupported("mapping"))
    }
    fn arena(&self, _: Address) -> Arena {
        self.0.arena().clone()
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Host::clock(&self.0)
    }
}

// drivernormative:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / PCI configuration access capability
#[test]
fn blk_through_the_window_in_configuration_space() {
    let dir = TempDir::in_memory();
    let (options, file) = add_disk(Options::default(), &dir, "disk", "2", "packed=on");
    let machine = start(&options);
    let transport = PciTransport::open(Arc::new(Unmapped(machine)), Address::new(0, 2, 0)).unwrap();
    let (mut blk, _device) = blk::open_on(transport, &BlkOptions::default());
    exercise(&mut blk.queues[0], &file, "disk", false);
}

#[test]
fn a_bus_finds_functions_and_places_and_one_driver_takes_them_all() {
    let dir = TempDir::in_memory();
    // Modern, transitional and legacy functions, two of them of one device.
    let (options, one) = add_disk(Options::default(), &dir, "one", "2.0", "multifunction=on");
    let (options, two) = add_file(options, &dir, "two");
    let options = options.device(&format!("virtio-blk-pci,{},addr=2.3,disable-legacy=off", disk("two")));
    let (options, three) = add_file(options, &dir, "three");
    let legacy = "disable-legacy=off,disable-modern=on";
    let options = options.device(&format!("virtio-blk-pci,{},addr=3,{legacy}", disk("three")));
    let pc = start(&options.virtio("virtio-rng-pci,addr=4"));
    let (options, four) = add_file(board(false), &dir, "four");
    let options = options.virtio(&format!("virtio-blk-device,{}", disk("four")));
    let microvm = start(&options);

    let taken: Arc<Mutex<Vec<_>>> = Arc::default();
    let attach = taken.clone();
    let driver = BlkDriver::<blk::Data, u64, _>::new(BlkOptions::default(), move |blk| {
        attach.lock().unwrap().push(blk);
    });
    let mut bus = Bus::new();
    bus.install_backend(Box::new(PciHost::new(Arc::new(pc))));
    let id = bus.register_driver(Arc::new(driver)).unwrap();
    let places = microvm.places().to_vec();
    bus.install_backend(Box::new(MmioBus::new(Arc::new(microvm), places)));
    let states: Vec<_> = bus.devices().map(|(_, key, state)| (key, state)).collect();
    let bound = DeviceState::Bound(id);
    assert_eq!(states[..4], [(0x10, bound), (0x13, bound), (0x18, bound), (0x20, DeviceState::Unbound)]);
    assert_eq!((states.len(), states[4].1), (5, bound));
    let mut taken = taken.lock().unwrap();
    let files = [("one", one), ("two", two), ("three", three), ("four", four)];
    let modern = [true, true, false, true];
    for ((blk, (name, file)), modern) in taken.iter_mut().zip(&files).zip(modern) {
        assert_eq!(blk.features.contains(F::VERSION_1), modern, "{name}");
        exercise(&mut blk.queues[0], file, name, false);
    }
}

#[test]
fn devices_behind_bridges_that_firmware_left_alone_are_numbered_placed_and_driven() {
    let dir = TempDir::in_memory();
    // A port with a device, and a port with a bus of the old kind behind it, which has a bridge to one more.
    let options = Options::default()
        .device("pcie-root-port,id=port1,chassis=1,addr=2.0,multifunction=on")
        .device("pcie-root-port,id=port2,chassis=2,addr=2.1")
        .device("pcie-pci-bridge,id=old,bus=port2")
        .device("pci-bridge,id=older,bus=old,chassis_nr=3,addr=1");
    let mut options = options;
    let mut files = vec![];
    let more = [
        ("front", "addr=1,disable-legacy=on", 0),
        ("express", "bus=port1,disable-legacy=on", 1),
        ("conventional", "bus=old,addr=3,disable-legacy=on", 3),
        ("transitional", "bus=older,addr=4,disable-legacy=off", 4),
        ("legacy", "bus=older,addr=5,disable-legacy=off,disable-modern=on", 4),
    ];
    for (name, properties, bus) in more {
        let (with_file, file) = add_file(options, &dir, name);
        options = with_file.device(&format!("virtio-blk-pci,{},{properties},packed=on", disk(name)));
        files.push((name, bus, file));
    }
    let machine = start(&options);
    let buses: Vec<u8> = machine.all_functions().map(|at| at.bus).collect();
    assert_eq!(buses, [0, 1, 3, 4, 4]);

    let taken: Arc<Mutex<Vec<_>>> = Arc::default();
    let attach = taken.clone();
    let driver = BlkDriver::<blk::Data, u64, _>::new(BlkOptions::default(), move |blk| {
        attach.lock().unwrap().push(blk);
    });
    let mut bus = Bus::new();
    bus.install_backend(Box::new(PciHost::new(Arc::new(machine))));
    bus.register_driver(Arc::new(driver)).unwrap();
    let mut taken = taken.lock().unwrap();
    assert_eq!(taken.len(), files.len());
    for (blk, (name, _, file)) in taken.iter_mut().zip(&files) {
        assert_eq!(blk.features.contains(F::VERSION_1), *name != "legacy");
        exercise(&mut blk.queues[0], file, name, false);
    }
}

#[test]
fn a_device_tree_names_places_too_where_there_is_no_acpi() {
    let dir = TempDir::in_memory();
    let (options, file) = add_file(board(false), &dir, "disk");
    let options = options.virtio(&format!("virtio-blk-device,{}", disk("disk"))).virtio("virtio-rng-device");
    let machine = start(&options.argument("-machine").argument("acpi=off"));
    // It may have empty slots too.
    let mut taken = vec![];
    for &place in machine.places() {
        let opened = MmioTransport::open(Arc::new(machine.clone()), place).unwrap();
        taken.extend(opened.map(|transport| (place, transport)));
    }
    assert_eq!(taken.len(), 2, "{:?}", machine.places());
    assert!(taken.iter().all(|(place, _)| place.len == 0x200 && place.interrupt > 0));
    let disk = taken.into_iter().find(|(_, transport)| transport.identity().device == DeviceId::BLOCK);
    let (mut blk, _device) = blk::open_on(disk.unwrap().1, &BlkOptions::default());
    exercise(&mut blk.queues[0], &file, "disk", false);
}
