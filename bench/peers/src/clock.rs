//! A clock that is cheap enough to be read inside a loop.

/// Now, in a unit of its own.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: reading the time-stamp counter has no preconditions.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Now, in a unit of its own.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn ticks() -> u64 {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}
