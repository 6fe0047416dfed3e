//! The clock, and sleeping until a deadline.

use super::interrupts::{TIMER, WAKE};
use super::{apic, cpu, port};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;

/// Nanoseconds of a tick of the time stamp counter, with 32 bits behind the point.
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);
/// Ticks of the local timer in a millisecond.
static TIMER_TICKS: AtomicU64 = AtomicU64::new(0);

const PIT_HZ: u64 = 1_193_182;

/// The old timer's counter, which runs down.
fn pit_now() -> u16 {
    // SAFETY: latches and reads a counter.
    unsafe {
        port::write8(0x43, 0);
        u16::from_le_bytes([port::read8(0x40), port::read8(0x40)])
    }
}

/// What something reads, and when that was. The host may stop this CPU between two instructions, for longer than is to
/// be measured: so the closest of several looks.
fn sample<R>(read: impl Fn() -> R) -> (R, u64) {
    let look = |_| {
        let before = cpu::time_stamp();
        let value = read();
        let after = cpu::time_stamp();
        (after - before, value, after)
    };
    let closest = (0..8).map(look).min_by_key(|look| look.0);
    closest.map(|(_, value, stamp)| (value, stamp)).expect("several looks")
}

/// Measures the time stamp counter and the local timer against the old timer, whose speed is known.
pub fn init() {
    // The old timer comes round every 55 ms. Should this CPU be stopped for that long, a clock would be slow by it: so the
    // fastest of several.
    let (nanoseconds, ticks) = (0..5).map(|_| measure()).max().expect("several measurements");
    NANOSECONDS.store(nanoseconds, Ordering::Relaxed);
    TIMER_TICKS.store(ticks.max(1), Ordering::Relaxed);
}

/// Nanoseconds of a tick, as in [`NANOSECONDS`], and ticks of the local timer in a millisecond.
fn measure() -> (u64, u64) {
    const SPAN: u16 = (PIT_HZ / 500) as u16; // 2 ms
    // SAFETY: sets the old timer to count once from the top; its line is masked.
    unsafe {
        port::write8(0x43, 0x30);
        port::write8(0x40, 0xff);
        port::write8(0x40, 0xff);
    }
    apic::start_timer_masked(u32::MAX);
    let (ticks_before, ticks_began) = sample(apic::timer_now);
    let (before, began) = sample(pit_now);
    while before.wrapping_sub(pit_now()) < SPAN {
        core::hint::spin_loop();
    }
    let (after, ended) = sample(pit_now);
    let (ticks_after, ticks_ended) = sample(apic::timer_now);
    let span = u64::from(before.wrapping_sub(after)) * 1_000_000_000 / PIT_HZ;
    let nanoseconds = ((span << 32) / (ended - began)).max(1);
    let ticks = (u128::from(ticks_before - ticks_after) * 1_000_000) << 32;
    let time = u128::from(ticks_ended - ticks_began) * u128::from(nanoseconds);
    (nanoseconds, (ticks / time.max(1)) as u64)
}

/// Time since the machine was started. All CPUs agree.
pub fn now() -> Duration {
    let scale = NANOSECONDS.load(Ordering::Relaxed);
    Duration::from_nanos(((u128::from(cpu::time_stamp()) * u128::from(scale)) >> 32) as u64)
}

/// Which CPUs are about to sleep, or do.
static SLEEPING: AtomicU64 = AtomicU64::new(0);

/// Sleeps until `done`, or until the time is `deadline`; whether it is done. `done` is asked again after each
/// interrupt, and after each [`wake_others`] on another CPU.
pub fn sleep_until(deadline: Duration, mut done: impl FnMut() -> bool) -> bool {
    let me = 1 << cpu::current();
    loop {
        let off = cpu::interrupts_off();
        SLEEPING.fetch_or(me, Ordering::Relaxed);
        // Either we see what was done, or whoever did it sees that we sleep.
        fence(Ordering::SeqCst);
        let is_done = done();
        let left = deadline.saturating_sub(now());
        if !is_done && !left.is_zero() {
            // The timer cannot count further than a few seconds.
            let left = left.min(Duration::from_secs(1)).as_micros() as u64;
            let ticks = (left * TIMER_TICKS.load(Ordering::Relaxed) / 1000).clamp(1, u32::MAX.into());
            apic::start_timer(TIMER, ticks as u32);
            off.sleep();
        }
        SLEEPING.fetch_and(!me, Ordering::Relaxed);
        if is_done || left.is_zero() {
            return is_done;
        }
    }
}

/// Has whoever sleeps on another CPU look again.
pub fn wake_others() {
    fence(Ordering::SeqCst);
    let sleeping = SLEEPING.load(Ordering::Relaxed) & !(1 << cpu::current());
    (0..cpu::MAX).filter(|n| sleeping & 1 << n != 0).for_each(|n| apic::send(apic::id(n), WAKE.into()));
}

/// Waits without sleeping.
pub fn spin(limit: Duration) {
    let end = now() + limit;
    while now() < end {
        core::hint::spin_loop();
    }
}
