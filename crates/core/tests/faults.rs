//! Devices that do not do what they should, in front of their state machines: within the deadline there is a typed
//! error, or the driver gets on without.

mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use virtio_kit::bus::ProbeError;
use virtio_kit::driver::{Found, NegotiateError, NewVqError};
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci::config::{COMMAND_BUS_MASTER, Function};
use virtio_kit::pci::{self, PciTransport};
use virtio_kit::spec::mmio as mmio_at;
use virtio_kit::spec::pci::{NO_VECTOR, common as pci_at};
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{Arena, DmaBuf, F, Status};
use virtio_kit_devices::blk::MemoryBackend;
use virtio_kit_drivers::blk::{Options, open};
use wire::{Access, Fault, Irq, MmioHost, PciHostOf, blk, memory, mmio_device, pci_device};

const BASE: u64 = 0x8000_0000;
const LIMIT: Duration = Duration::from_millis(20);

/// The registers that the faults are in, by what they are on both transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Status,
    Generation,
    MaxSize,
    Size,
    QueueReset,
    QueueEnable,
}

fn which(pci: bool, access: &Access) -> Option<Register> {
    let all = if pci {
        [
            (pci_at::DEVICE_STATUS, Register::Status),
            (pci_at::CONFIG_GENERATION, Register::Generation),
            (pci_at::QUEUE_SIZE, Register::MaxSize),
            (pci_at::QUEUE_SIZE, Register::Size),
            (pci_at::QUEUE_RESET, Register::QueueReset),
            (pci_at::QUEUE_ENABLE, Register::QueueEnable),
        ]
    } else {
        [
            (mmio_at::STATUS, Register::Status),
            (mmio_at::CONFIG_GENERATION, Register::Generation),
            (mmio_at::QUEUE_SIZE_MAX, Register::MaxSize),
            (mmio_at::QUEUE_SIZE, Register::Size),
            (mmio_at::QUEUE_RESET, Register::QueueReset),
            (mmio_at::QUEUE_READY, Register::QueueEnable),
        ]
    };
    (access.bar == 0).then(|| all.iter().find(|(at, _)| *at as u64 == access.offset).map(|found| found.1))?
}

/// A fault in what is read from one register.
fn reads(pci: bool, register: Register, fault: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Fault {
    Arc::new(move |access| match which(pci, &access) {
        Some(found) if found == register && access.write.is_none() => fault(),
        _ => None,
    })
}

/// A disk behind a fault, over MMIO or PCI.
fn transport(pci: bool, fault: Fault) -> (Box<dyn Transport>, Arena, MemoryBackend) {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, backend) = blk::disk();
    let transport: Box<dyn Transport> = if pci {
        let mut host = PciHostOf::new(pci_device(disk, memory, |_| ()), arena.clone(), Irq::Messages(8));
        host.fault = fault;
        Box::new(PciTransport::open(Arc::new(host), PciHostOf::AT).unwrap().with_reset_limit(LIMIT))
    } else {
        let mut host = MmioHost::new(mmio_device(disk, memory, |_| ()), arena.clone(), Irq::Line);
        host.fault = fault;
        let opened = MmioTransport::open(Arc::new(host), MmioHost::PLACE).unwrap().unwrap();
        Box::new(opened.with_reset_limit(LIMIT))
    };
    (transport, arena, backend)
}

fn probe(transport: Box<dyn Transport>) -> Result<(), ProbeError> {
    open::<Vec<DmaBuf>, u64>(Found::new(transport), &Options::default()).map(|_| ())
}

#[test]
fn a_device_that_never_resets_is_given_up_in_time() {
    for pci in [false, true] {
        let (transport, ..) = transport(pci, reads(pci, Register::Status, || Some(0x0f)));
        let error = ProbeError::Negotiate(NegotiateError::Transport(TransportError::Timeout));
        assert_eq!(probe(transport), Err(error));
    }
}

#[test]
fn a_device_that_resets_late_is_waited_for() {
    for pci in [false, true] {
        let looks = AtomicU64::new(0);
        let late = move || (looks.fetch_add(1, Ordering::SeqCst) < 500).then_some(0x40);
        let (transport, _, backend) = transport(pci, reads(pci, Register::Status, late));
        let (mut blk, _device) =
            open::<Vec<DmaBuf>, u64>(Found::new(transport), &Options::default()).unwrap();
        blk::exercise(&mut blk.queues[0], &backend, 1);
    }
}

#[test]
fn a_device_that_does_not_reset_at_the_end_costs_its_memory_and_gives_every_request_back() {
    for pci in [false, true] {
        let stuck = Arc::new(AtomicU64::new(0));
        let now = stuck.clone();
        let fault = reads(pci, Register::Status, move || (now.load(Ordering::SeqCst) != 0).then_some(0x0f));
        let (transport, arena, backend) = transport(pci, fault);
        let (mut blk, device) = open::<Vec<DmaBuf>, u64>(Found::new(transport), &Options::default()).unwrap();
        let queue = &mut blk.queues[0];
        blk::exercise(queue, &backend, 1);
        for token in 0..10 {
            queue.read(0, vec![arena.alloc(512).unwrap()], token).unwrap();
        }
        queue.kick().unwrap();
        stuck.store(1, Ordering::SeqCst);
        drop(device);
        assert!(arena.is_retired(), "the device may still write there");
        let mut back = 0;
        while let Ok(Some(_)) = queue.complete() {
            back += 1;
        }
        assert_eq!(back, 10);
    }
}

#[test]
fn a_device_that_refuses_the_features_is_left_with_failed_set() {
    for pci in [false, true] {
        let refused = Arc::new(AtomicU64::new(0));
        let seen = refused.clone();
        let fault: Fault = Arc::new(move |access| {
            if which(pci, &access) != Some(Register::Status) {
                return None;
            }
            match access.write {
                // FEATURES_OK does not reach the device, and so is not there when it is read back.
                Some(status) if status & 8 != 0 => Some(0),
                Some(status) => {
                    seen.store(status, Ordering::SeqCst);
                    None
                }
                None => None,
            }
        });
        let (transport, ..) = transport(pci, fault);
        assert_eq!(probe(transport), Err(ProbeError::Negotiate(NegotiateError::Refused)));
        let failed = Status::from_bits_retain(refused.load(Ordering::SeqCst) as u8);
        assert!(failed.contains(Status::FAILED), "{failed}");
    }
}

#[test]
fn a_queue_of_size_0_is_no_queue() {
    for pci in [false, true] {
        let (transport, ..) = transport(pci, reads(pci, Register::MaxSize, || Some(0)));
        assert_eq!(probe(transport), Err(ProbeError::Queue(NewVqError::NoQueue(0))));
    }
}

#[test]
fn sizes_that_no_ring_can_have_are_cut_or_refused() {
    for pci in [false, true] {
        for size in [3, 0x7fff, 0xffff, 0xffff_ffff] {
            let (transport, ..) = transport(pci, reads(pci, Register::MaxSize, move || Some(size)));
            // Never a panic. On PCI the same register is read back, and what was written is not there.
            match probe(transport) {
                Ok(()) | Err(ProbeError::Queue(NewVqError::Transport(TransportError::Refused(_)))) => {}
                Err(error) => panic!("{size:#x}: {error:?}"),
            }
        }
    }
}

#[test]
fn a_queue_that_does_not_become_enabled_is_an_error() {
    for pci in [false, true] {
        let (transport, ..) = transport(pci, reads(pci, Register::QueueEnable, || Some(0)));
        let error = probe(transport).unwrap_err();
        assert_eq!(
            error,
            ProbeError::Queue(NewVqError::Transport(TransportError::Refused("enabling a queue")))
        );
    }
}

#[test]
fn a_configuration_that_never_settles_is_given_up() {
    for pci in [false, true] {
        let count = AtomicU64::new(0);
        let fault =
            reads(pci, Register::Generation, move || Some(count.fetch_add(1, Ordering::SeqCst) & 0xff));
        let (transport, ..) = transport(pci, fault);
        let error = probe(transport).unwrap_err();
        assert!(matches!(error, ProbeError::Transport(TransportError::Protocol(_))), "{error}");
    }
}

#[test]
fn a_queue_reset_that_never_ends_is_given_up_in_time_and_proves_nothing() {
    for pci in [false, true] {
        let (transport, _, backend) = transport(pci, reads(pci, Register::QueueReset, || Some(1)));
        let (mut blk, mut device) =
            open::<Vec<DmaBuf>, u64>(Found::new(transport), &Options::default()).unwrap();
        assert!(blk.features.contains(F::RING_RESET));
        blk::exercise(&mut blk.queues[0], &backend, 1);
        assert_eq!(device.reset_queue(&blk.queues[0]), Err(TransportError::Timeout));
        assert!(blk.queues[0].complete().unwrap().is_none(), "not stopped");
    }
}

#[test]
fn a_device_that_is_unplugged_reads_as_all_ones_and_is_let_go() {
    for pci in [false, true] {
        let gone = Arc::new(AtomicU64::new(0));
        let now = gone.clone();
        let fault: Fault = Arc::new(move |_| (now.load(Ordering::SeqCst) != 0).then_some(u64::MAX));
        let (transport, arena, backend) = transport(pci, fault);
        let (mut blk, device) = open::<Vec<DmaBuf>, u64>(Found::new(transport), &Options::default()).unwrap();
        blk::exercise(&mut blk.queues[0], &backend, 1);
        blk.queues[0].read(0, vec![arena.alloc(512).unwrap()], 1).unwrap();
        gone.store(1, Ordering::SeqCst);
        blk.queues[0].kick().unwrap();
        assert_eq!(blk.queues[0].wait(LIMIT), Ok(false), "nothing comes, and nobody waits for ever");
        drop(device);
        assert!(blk.queues[0].complete().unwrap().is_some());
    }
}

fn pci_host(irq: Irq, change: impl FnOnce(&mut PciHostOf)) -> (Arc<PciHostOf>, MemoryBackend) {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, backend) = blk::disk();
    let mut host = PciHostOf::new(pci_device(disk, memory, |_| ()), arena, irq);
    change(&mut host);
    (Arc::new(host), backend)
}

#[test]
fn a_capability_that_points_outside_its_bar_is_not_followed() {
    // The first four capabilities are of 16, 20, 16 and 16 bytes from 0x40 on; each has its offset 8 bytes in.
    let lies: [fn(u16, u32) -> u32; 4] = [
        |at, value| if at == 0x48 { 0x10_0000 } else { value },
        |at, value| if at == 0x58 { 0x3ffc } else { value },
        |at, value| if at == 0x6c { u32::MAX } else { value },
        // Too long.
        |at, value| if at == 0x4c { u32::MAX } else { value },
    ];
    for lie in lies {
        let (host, _) = pci_host(Irq::Messages(8), |host| host.lie = lie);
        let error = PciTransport::open(host.clone(), PciHostOf::AT).unwrap_err();
        assert!(matches!(error, TransportError::Protocol(_)), "{error}");
        let function = Function::new(&*host, PciHostOf::AT);
        assert_eq!(function.command().unwrap() & COMMAND_BUS_MASTER, 0, "and it may not reach memory");
    }
}

#[test]
fn vectors_that_cannot_be_set_are_done_without() {
    for (irq, what) in [(Irq::Messages(8), 0), (Irq::Messages(8), 1), (Irq::Messages(8), 2)] {
        let (host, backend) = pci_host(irq, |host| {
            host.fault = Arc::new(move |access| {
                let config = access.offset == pci_at::CONFIG_MSIX_VECTOR as u64;
                let queue = access.offset == pci_at::QUEUE_MSIX_VECTOR as u64;
                let lies = match what {
                    0 => config,
                    1 => queue,
                    // Only the first vector is to be had for queues.
                    _ => {
                        return (access.bar == 0 && queue && access.write.is_some_and(|v| v > 0))
                            .then_some(0);
                    }
                };
                (access.bar == 0 && lies && access.write.is_none()).then_some(NO_VECTOR.into())
            });
        });
        let transport = PciTransport::open(host.clone(), PciHostOf::AT).unwrap();
        blk::drive(transport, &backend, what);
        // With none for queues, the interrupt status is polled; otherwise there were messages.
        assert_eq!(host.side.monitor().sent.load(Ordering::SeqCst) > 0, what != 1);
    }
}

#[test]
fn a_device_that_does_not_reset_may_not_reach_memory_any_more() {
    let (host, _) = pci_host(Irq::Polled, |host| {
        host.fault = reads(true, Register::Status, || Some(0x40));
    });
    let mut transport = PciTransport::open(host.clone(), PciHostOf::AT).unwrap().with_reset_limit(LIMIT);
    assert_eq!(transport.reset().unwrap_err(), TransportError::Timeout);
    let function = Function::new(&*host as &dyn pci::Host, PciHostOf::AT);
    assert_eq!(function.command().unwrap() & COMMAND_BUS_MASTER, 0);
}
