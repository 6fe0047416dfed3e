//! The four drivers on tokio: each is a task, and the runtime sleeps while devices work.
//!
//! Drivers know of no runtime. A device's thread wakes a `core::task::Waker`, which here is tokio's.
//!
//!     cargo run --package virtio-kit-drivers --example async_tokio
#![forbid(unsafe_code)]

extern crate alloc;

mod async_work;
#[path = "async_work/devices.rs"]
mod devices;

use async_work::Outcome;
use devices::Drivers;
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let (drivers, _running) = devices::start().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let all = async { tokio::time::timeout(Duration::from_secs(60), all_four(drivers)).await };
    for (name, bytes) in runtime.block_on(all)?? {
        println!("{name}: {bytes} bytes, as they should be");
    }
    Ok(())
}

async fn all_four(drivers: Drivers) -> Result<Vec<(&'static str, usize)>, Box<dyn Error + Send + Sync>> {
    let Drivers { blk, net, console, rng } = drivers;
    let tasks: [(&str, tokio::task::JoinHandle<Outcome>); 4] = [
        ("blk", tokio::spawn(async_work::blk(blk))),
        ("net", tokio::spawn(async_work::net(net))),
        ("console", tokio::spawn(async_work::console(console))),
        ("rng", tokio::spawn(async_work::rng(rng))),
    ];
    let mut done = Vec::new();
    for (name, task) in tasks {
        done.push((name, task.await??));
    }
    Ok(done)
}

#[cfg(test)]
#[test]
fn all_four_drivers_do_their_work_on_tokio() {
    main().unwrap();
}
