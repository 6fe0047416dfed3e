//! The four drivers on an executor of fifty lines, without `std`: what a kernel or firmware would have.
//!
//! Only the devices, which are in this process too, and `main` need an operating system.
//!
//!     cargo run --package virtio-kit-drivers --example async_tiny
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
extern crate std;

mod async_work;
#[path = "async_work/devices.rs"]
mod devices;
#[path = "async_work/executor.rs"]
mod executor;

use alloc::boxed::Box;
use alloc::string::ToString;
use async_work::Outcome;
use core::error::Error;
use devices::{Drivers, start};
use executor::Executor;
use std::println;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let (drivers, _running) = start().map_err(|error| error.to_string())?;
    let Drivers { blk, net, console, rng } = drivers;
    let mut executor: Executor<(&str, Outcome)> = Executor::new();
    executor.spawn(async { ("blk", async_work::blk(blk).await) });
    executor.spawn(async { ("net", async_work::net(net).await) });
    executor.spawn(async { ("console", async_work::console(console).await) });
    executor.spawn(async { ("rng", async_work::rng(rng).await) });
    // A kernel would wait for an interrupt here.
    for (name, outcome) in executor.run(std::thread::yield_now) {
        let bytes = outcome?;
        println!("{name}: {bytes} bytes, as they should be");
    }
    Ok(())
}

#[cfg(test)]
#[test]
fn all_four_drivers_do_their_work_without_std() {
    main().unwrap();
}
