//! Network devices: frames go out and are answered by the host, first by interrupts and then polled.

use super::{Alarm, Failure, LIMIT, Wait, layout, pattern};
use crate::println;
use crate::x86::{interrupts, smp, time};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Poll;
use virtio_kit_drivers::net::{Mac, Net, Offload, Pair};

/// Frames each way.
const FRAMES: u64 = 32;
const HEADER: usize = 14;
/// An ethertype for experiments.
const KIND: [u8; 2] = [0x88, 0xb5];

pub fn work(mut net: Net, seed: u64) -> Result<(), Failure> {
    let features = net.features;
    let mac = net.info.mac.ok_or("a device without an address")?;
    let mut pair = net.pairs.pop().ok_or("a device without queues")?;
    // On the last CPU, to which nothing ties the device.
    let task = smp::run_on(smp::count() - 1, move || {
        let (before, began) = (interrupts::count(), time::now());
        let mut bytes = 0;
        for number in 0..FRAMES {
            bytes += exchange(&mut pair, mac, seed, number, Wait::Interrupt)?;
        }
        let by_interrupt = interrupts::count() - before;
        for number in FRAMES..2 * FRAMES {
            bytes += exchange(&mut pair, mac, seed, number, Wait::Poll)?;
        }
        let polled = interrupts::count() - before - by_interrupt;
        Ok::<_, Failure>((by_interrupt, polled, time::now() - began, bytes))
    });
    let (by_interrupt, polled, time, bytes) = task.join(LIMIT * 2).ok_or("a CPU does not come back")??;
    println!(
        "net net: {} features={:#x} queues=2 cpus=1 requests={} interrupts={by_interrupt} polled={polled} us={} \
         bytes={bytes}",
        layout(features),
        features.bits(),
        4 * FRAMES,
        time.as_micros(),
    );
    Ok(())
}

/// Sends frame `number`, and waits for the same with its addresses exchanged; the bytes both ways.
fn exchange(pair: &mut Pair, mac: Mac, seed: u64, number: u64, wait: Wait) -> Result<usize, Failure> {
    let mut frame = vec![0; HEADER + pattern::frame_len(number)];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..HEADER].copy_from_slice(&KIND);
    pattern::fill(seed, number, &mut frame[HEADER..]);
    let answer = match wait {
        Wait::Interrupt => by_interrupt(pair, &frame)?,
        Wait::Poll => polled(pair, &frame)?,
    };
    let (to, from) = (answer.get(..6), answer.get(6..12));
    if to != Some(&mac) || from != Some(&[0xff; 6]) || answer[12..] != frame[12..] {
        return Err(Failure::from("the answer is not the frame that was sent"));
    }
    Ok(frame.len() + answer.len())
}

fn send(pair: &mut Pair, frame: &[u8]) -> Result<(), Failure> {
    pair.tx.send_copy(frame, &Offload::default())?;
    pair.tx.kick()?;
    Ok(())
}

/// The queue is ready to wake before the frame is sent.
fn by_interrupt(pair: &mut Pair, frame: &[u8]) -> Result<Vec<u8>, Failure> {
    let alarm = Arc::new(Alarm::default());
    let mut sent = false;
    let received = alarm.sleep(|cx| {
        let received = pair.rx.poll_recv(cx);
        if !sent && received.is_pending() {
            sent = true;
            if let Err(error) = send(pair, frame) {
                return Poll::Ready(Err(error));
            }
        }
        received.map_err(Failure::from)
    })??;
    let mut answer = vec![0; received.frame.len()];
    received.frame.copy_to(&mut answer);
    pair.rx.recycle(received.frame);
    Ok(answer)
}

fn polled(pair: &mut Pair, frame: &[u8]) -> Result<Vec<u8>, Failure> {
    send(pair, frame)?;
    let mut answer = vec![0; 2048];
    let deadline = time::now() + LIMIT;
    loop {
        if let Some((len, _)) = pair.rx.recv_copy(&mut answer)? {
            answer.truncate(len);
            return Ok(answer);
        }
        if time::now() >= deadline {
            return Err(Failure::from("a frame was never answered"));
        }
        core::hint::spin_loop();
    }
}
