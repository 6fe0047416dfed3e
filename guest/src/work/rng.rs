//! Entropy devices: bytes by interrupts, and as many polled.

use super::{Alarm, Failure, LIMIT, Wait, hex, layout};
use crate::println;
use crate::x86::{interrupts, smp, time};
use alloc::sync::Arc;
use alloc::vec;
use core::task::Poll;
use sha2::{Digest, Sha256};
use virtio_kit_drivers::rng::Rng;

/// Bytes each way.
const BYTES: usize = 2048;
/// Bytes of a request.
const REQUEST: usize = 256;

pub fn work(mut rng: Rng) -> Result<(), Failure> {
    let features = rng.features();
    // On the last CPU, to which nothing ties the device.
    let cpu = smp::count() - 1;
    let task = smp::run_on(cpu, move || {
        let (before, began) = (interrupts::count(), time::now());
        let mut bytes = vec![0; BYTES];
        let (first, others) = bytes.split_at_mut(REQUEST);
        read_by_interrupt(&mut rng, first)?;
        read(&mut rng, others, Wait::Interrupt)?;
        let by_interrupt = interrupts::count() - before;
        let at = bytes.len();
        bytes.resize(at + BYTES, 0);
        read(&mut rng, &mut bytes[at..], Wait::Poll)?;
        let polled = interrupts::count() - before - by_interrupt;
        Ok::<_, Failure>((by_interrupt, polled, time::now() - began, bytes))
    });
    let (by_interrupt, polled, time, bytes) = task.join(LIMIT * 2).ok_or("a CPU does not come back")??;
    let read = hex(&Sha256::digest(&bytes));
    println!(
        "rng rng: {} features={:#x} queues=1 cpus=1 requests={} interrupts={by_interrupt} polled={polled} us={} \
         bytes={} read={read}",
        layout(features),
        features.bits(),
        bytes.len() / REQUEST,
        time.as_micros(),
        bytes.len(),
    );
    Ok(())
}

/// Fills `to` by one request, and by an interrupt, however fast the device is: the queue is ready to wake before the
/// device sees the request.
fn read_by_interrupt(rng: &mut Rng, to: &mut [u8]) -> Result<(), Failure> {
    let alarm = Arc::new(Alarm::default());
    rng.request(to.len())?;
    let mut shown = false;
    let done = alarm.sleep(|cx| {
        let done = rng.poll_read(cx, to);
        if !shown && done.is_pending() {
            shown = true;
            if let Err(error) = rng.kick() {
                return Poll::Ready(Err(error));
            }
        }
        done
    })??;
    read(rng, &mut to[done..], Wait::Interrupt)
}

/// Fills `to` by one request after the other.
fn read(rng: &mut Rng, to: &mut [u8], wait: Wait) -> Result<(), Failure> {
    for part in to.chunks_mut(REQUEST) {
        let deadline = time::now() + LIMIT;
        let mut done = 0;
        rng.request(part.len())?;
        rng.kick()?;
        while done < part.len() {
            done += rng.read(&mut part[done..])?;
            if done < part.len() && rng.in_flight() == 0 {
                // The device may give fewer bytes than were asked for.
                rng.request(part.len() - done)?;
                rng.kick()?;
            }
            if time::now() >= deadline {
                return Err(Failure::from("random bytes never came"));
            }
            if done < part.len() && wait == Wait::Interrupt {
                rng.wait(LIMIT)?;
            }
        }
    }
    Ok(())
}
