//! The entropy driver on QEMU's virtio-rng.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use virtio_kit::driver::Found;
use virtio_kit::{F, Features};
use virtio_kit_drivers::rng::{BlockingRng, Error, Options as Wanted, open};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::qtest::{Machine, Options};

const LIMIT: Duration = Duration::from_secs(30);

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

#[test]
fn known_bytes_come_in_order_and_once_in_every_layout() {
    // What QEMU gives is what is in a pipe's end.
    let path = std::env::temp_dir().join(format!("virtio-kit-qtest-rng-{}", std::process::id()));
    let content: Vec<u8> = (0..1_000_000u32).map(|at| (at * 7 + at / 256) as u8).collect();
    std::fs::File::create(&path).unwrap().write_all(&content).unwrap();
    let mut options = Options::default();
    for bits in 0..8u8 {
        let object = format!("rng-random,id=r{bits},filename={}", path.display());
        options = options.argument("-object").argument(object).virtio(&format!(
            "virtio-rng-pci,rng=r{bits},addr={},packed={},in_order={},event_idx={}",
            bits + 2,
            on(bits & 1 != 0),
            on(bits & 2 != 0),
            on(bits & 4 != 0),
        ));
    }
    let machine = Machine::start(&options).unwrap_or_else(|error| panic!("{error}"));
    std::fs::remove_file(&path).unwrap();
    for bits in 0..8u8 {
        let found = Found::new(Box::new(machine.transport(bits + 2).unwrap()));
        let wanted = Wanted { requests: 16, bytes: 1000, ..Wanted::default() };
        let (rng, _device) = open(found, &wanted).unwrap();
        let pick = |bit, feature| if bits & bit != 0 { feature } else { Features::EMPTY };
        let expected = pick(1, F::RING_PACKED) | pick(2, F::IN_ORDER) | pick(4, F::EVENT_IDX);
        assert_eq!(rng.features() & (F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX), expected);
        let mut rng = BlockingRng::new(rng, Arc::new(MonotonicClock), LIMIT);
        let mut at = 0;
        for len in [1, 4, 32, 999, 1000, 1001, 20_000] {
            let mut got = vec![0; len];
            rng.fill(&mut got).unwrap();
            assert!(got == content[at..at + len], "{bits}: {len} bytes at {at}");
            at += len;
        }
        // QEMU's queue has 8 entries.
        assert!(rng.get_mut().stats().kicks > 0);
    }
}

#[test]
fn a_rate_limit_of_the_device_ends_the_wait_in_time() {
    let limited = "virtio-rng-pci,addr=2,max-bytes=64,period=3600000";
    let machine = Machine::start(&Options::default().virtio(limited)).unwrap();
    let found = Found::new(Box::new(machine.transport(2).unwrap()));
    let (rng, _device) = open(found, &Wanted::default()).unwrap();
    let limit = Duration::from_millis(200);
    let mut rng = BlockingRng::new(rng, Arc::new(MonotonicClock), limit);
    assert_eq!(rng.fill(&mut [0; 1000]), Err(Error::Timeout(limit)));
}
