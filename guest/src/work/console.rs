//! Consoles: what goes out on each port comes back from the host, with every bit the other way round; first by
//! interrupts and then polled.

use super::{Alarm, Failure, LIMIT, Wait, layout, pattern};
use crate::platform::clock::TscClock;
use crate::println;
use crate::x86::{interrupts, smp, time};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Poll;
use virtio_kit_drivers::console::{Console, Port};

/// Pieces each way on each port, half of them by interrupts.
const PIECES: u64 = 16;

pub fn work(mut console: Console, seed: u64) -> Result<(), Failure> {
    let features = console.features();
    // On the last CPU, to which nothing ties the device.
    let task = smp::run_on(smp::count() - 1, move || {
        let mut ports = ports(&mut console)?;
        let (before, began) = (interrupts::count(), time::now());
        let mut bytes = talk(&mut ports, seed, 0..PIECES / 2, Wait::Interrupt)?;
        let by_interrupt = interrupts::count() - before;
        bytes += talk(&mut ports, seed, PIECES / 2..PIECES, Wait::Poll)?;
        let polled = interrupts::count() - before - by_interrupt;
        let names: Vec<String> = ports.iter().map(|port| port.name().unwrap_or("console".into())).collect();
        Ok::<_, Failure>((by_interrupt, polled, time::now() - began, bytes, names))
    });
    let (by_interrupt, polled, time, bytes, names) =
        task.join(LIMIT * 2).ok_or("a CPU does not come back")??;
    println!(
        "console console: {} features={:#x} queues={} ports={} cpus=1 requests={} interrupts={by_interrupt} polled={polled} \
         us={} bytes={bytes}",
        layout(features),
        features.bits(),
        // Two for each port, and two by which ports are told of.
        2 * names.len() + 2,
        names.join(","),
        2 * PIECES * names.len() as u64,
        time.as_micros(),
    );
    Ok(())
}

/// All ports at whose other end somebody is, opened: there are two.
fn ports(console: &mut Console) -> Result<Vec<Port>, Failure> {
    let all = |console: &mut Console, _| {
        let found: Vec<u32> = console.ports().filter(|port| port.connected).map(|port| port.id).collect();
        let named = console.ports().all(|port| port.console || port.name.is_some());
        (found.len() == 2 && named).then_some(found)
    };
    let found = console.wait_for(&TscClock, LIMIT, all)?.ok_or("a port is missing")?;
    let mut ports = Vec::new();
    for id in found {
        let port = console.port(id)?;
        port.open()?;
        ports.push(port);
    }
    Ok(ports)
}

/// Sends pieces on all ports in turn, and takes what comes back; the bytes both ways.
fn talk(ports: &mut [Port], seed: u64, pieces: core::ops::Range<u64>, wait: Wait) -> Result<usize, Failure> {
    let mut bytes = 0;
    for number in pieces {
        for port in &mut *ports {
            let mut piece = vec![0; pattern::piece_len(number)];
            pattern::fill(seed, pattern::piece(port.id(), number), &mut piece);
            let mut back = vec![0; piece.len()];
            match wait {
                Wait::Interrupt => by_interrupt(port, &piece, &mut back)?,
                Wait::Poll => polled(port, &piece, &mut back)?,
            }
            if !piece.iter().zip(&back).all(|(&out, &back)| back == !out) {
                return Err(Failure::from("what came back is not what was sent"));
            }
            bytes += piece.len() + back.len();
        }
    }
    Ok(bytes)
}

/// The port is ready to wake before anything is sent.
fn by_interrupt(port: &mut Port, piece: &[u8], back: &mut [u8]) -> Result<(), Failure> {
    let alarm = Arc::new(Alarm::default());
    let (mut sent, mut done) = (0, 0);
    while done < back.len() {
        done += alarm.sleep(|cx| {
            let reader: &mut virtio_kit_drivers::console::PortReader = port.as_mut();
            let got = reader.poll_read(cx, &mut back[done..]);
            if got.is_pending() && sent < piece.len() {
                match port.write(&piece[sent..]) {
                    Ok(count) => sent += count.unwrap_or(0),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            got
        })??;
    }
    Ok(())
}

fn polled(port: &mut Port, piece: &[u8], back: &mut [u8]) -> Result<(), Failure> {
    let deadline = time::now() + LIMIT;
    let (mut sent, mut done) = (0, 0);
    while done < back.len() {
        if sent < piece.len() {
            sent += port.write(&piece[sent..])?.unwrap_or(0);
        }
        done += port.read(&mut back[done..])?.unwrap_or(0);
        if time::now() >= deadline {
            return Err(Failure::from("bytes never came back"));
        }
        core::hint::spin_loop();
    }
    Ok(())
}
