//! A new device type in both directions, a driver and a device, put together over every layout of rings.
//!
//!     cargo run --package virtio-kit-drivers --example new_device
#![forbid(unsafe_code)]

mod device;
mod driver;

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use virtio_kit::bus::{Bus, Fixed};
use virtio_kit::driver::Found;
use virtio_kit::in_process::{InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, F, Features};
use virtio_kit_linux::clock::MonotonicClock;

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    for layout in [Features::EMPTY, F::IN_ORDER, F::RING_PACKED, F::RING_PACKED | F::IN_ORDER] {
        let flushes = run(layout)?;
        println!("{layout:?}: {flushes} flushes");
    }
    Ok(())
}

/// How often the device was told to make its memory durable.
fn run(layout: Features) -> Result<u32, Box<dyn Error>> {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let device = device::Pmem::new(4 << 30, 1 << 20, move || {
        // Every tenth fails.
        let number = counted.fetch_add(1, Ordering::Relaxed);
        if number % 10 == 9 { Err(std::io::Error::other("the disk is full")) } else { Ok(()) }
    });

    // Driver and device in one program; over another mechanism, the driver is the same and so is the device.
    let arena = Arena::new(HeapMemory::new(1 << 20)?)?;
    let mut options = Options::inline(arena, Arc::new(MonotonicClock));
    options.ring_features |= layout;
    let (transport, _end) = InProcess::new(Box::new(device), options)?;

    // A back-end has found it, and the bus offers it to the driver.
    let (attach, attached) = mpsc::channel();
    let mut bus = Bus::new();
    bus.install_backend(Box::new(Fixed::new([Found::new(Box::new(transport))])));
    bus.register_driver(Arc::new(driver::PmemDriver(move |pmem| attach.send(pmem).unwrap_or_default())))?;
    let mut pmem = attached.try_recv()?;

    assert_eq!(pmem.range(), 4 << 30..(4 << 30) + (1 << 20));
    for number in 0..100 {
        let failed = number % 10 == 9;
        assert_eq!(pmem.flush(LIMIT), if failed { Err(driver::FlushError::Device) } else { Ok(()) });
    }
    Ok(count.load(Ordering::Relaxed))
}

#[cfg(test)]
#[test]
fn driver_and_device_work_together_in_every_layout() {
    main().unwrap();
}
