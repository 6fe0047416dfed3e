//! The entropy driver on QEMU's virtio-rng; what it does in each shape of ring is in `qtest_matrix`.

use std::sync::Arc;
use std::time::Duration;
use virtio_kit::driver::Found;
use virtio_kit_drivers::rng::{BlockingRng, Error, Options as Wanted, open};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::qtest::{Machine, Options};

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
