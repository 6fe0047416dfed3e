//! The notification primitive: publish, then look.
//!
//! Both questions of a virtqueue have the same shape. After making entries available or used, *publish the
//! index, then look whether the peer wants to be told*. After asking to be told, *publish the request, then
//! look whether something came in meanwhile*. In both, a store of one's own must be globally visible before
//! a load of the peer's word, and the peer does the mirror image. Release and acquire do not order a store
//! before a later load; only a full fence between the two does. Without it both sides can miss each other
//! and the queue stalls for ever (virtio 1.4, 2.7.13.4.1 and 2.8.21.3.1 for the driver; the device has the
//! same race). Every notification decision of this crate, of both roles and both layouts, goes through
//! [`publish_then_look`].

use core::sync::atomic::{self, Ordering};

/// A full fence, between a store of ours and a load of the peer's.
pub trait FullFence {
    /// Orders all earlier stores before all later loads.
    fn full(&self);
}

/// Runs `publish`, a full fence, and `look`, in this order.
///
/// `publish` stores the word that the peer looks at (with release order, so that what it announces is
/// visible first); `look` loads the word that the peer publishes.
#[inline(always)]
pub fn publish_then_look<F: FullFence, R>(fence: &F, publish: impl FnOnce(), look: impl FnOnce() -> R) -> R {
    publish();
    fence.full();
    look()
}

/// Which agents the fences of a queue must order, chosen when the queue starts (6, ORDER_PLATFORM).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Barriers {
    /// The other end is another CPU of a coherent machine: a process, a hypervisor, a thread.
    #[default]
    Smp,
    /// The other end is a device on a bus (ORDER_PLATFORM negotiated): barriers reach the outer domain.
    Device,
}

/// How many full fences queues have had so far. Counted where debug assertions are on, for tests.
#[cfg(debug_assertions)]
#[doc(hidden)]
pub static FULL_FENCES: atomic::AtomicUsize = atomic::AtomicUsize::new(0);

impl FullFence for Barriers {
    #[inline(always)]
    fn full(&self) {
        #[cfg(debug_assertions)]
        FULL_FENCES.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Smp => smp_full(),
            Self::Device => device_full(),
        }
    }
}

impl Barriers {
    /// Orders earlier accesses before a later publishing store, where release order alone does not reach
    /// the device.
    #[inline(always)]
    pub(crate) fn before_publish(self) {
        if self == Self::Device {
            device_full();
        }
    }

    /// Orders an observed index or flag before later loads of what it announced, where acquire order alone
    /// does not reach the device.
    #[inline(always)]
    pub(crate) fn after_observe(self) {
        if self == Self::Device {
            device_full();
        }
    }
}

#[inline(always)]
fn smp_full() {
    // A locked read-modify-write of the own stack orders as `mfence` does for ordinary memory, and is cheaper.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: `or` with 0 changes nothing; the word below the stack pointer is this thread's alone (the
    // red zone, or unused stack where there is none).
    unsafe {
        core::arch::asm!("lock or dword ptr [rsp - 8], 0", options(nostack))
    };
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    atomic::fence(Ordering::SeqCst);
}

#[inline(always)]
fn device_full() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a fence has no other effect.
    unsafe {
        core::arch::asm!("mfence", options(nostack, preserves_flags))
    };
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier has no other effect.
    unsafe {
        core::arch::asm!("dsb sy", options(nostack, preserves_flags))
    };
    #[cfg(all(any(target_arch = "riscv64", target_arch = "riscv32"), not(miri)))]
    // SAFETY: a fence has no other effect.
    unsafe {
        core::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags))
    };
    atomic::fence(Ordering::SeqCst);
}

/// Whether moving an index from `old` to `new` passes the event index `event` (2.7.10, 2.8.10).
///
/// All three run modulo 65536.
#[inline(always)]
pub fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn need_event_is_a_window_test_modulo_65536() {
        assert!(need_event(5, 6, 5));
        assert!(!need_event(5, 5, 5));
        assert!(!need_event(6, 6, 5));
        // The index wraps inside the batch: 65534 -> 0 -> 1.
        assert!(need_event(65535, 1, 65534));
        assert!(need_event(65534, 1, 65534));
        assert!(!need_event(1, 1, 65534));
        assert!(!need_event(65533, 1, 65534));
    }

    #[test]
    fn need_event_agrees_with_the_definition_everywhere_near_the_wrap() {
        for old in [0u16, 1, 100, 65530, 65535] {
            for len in 0..40u16 {
                let new = old.wrapping_add(len);
                for d in 0..80u16 {
                    let event = old.wrapping_sub(20).wrapping_add(d);
                    let passed = (0..len).any(|i| old.wrapping_add(i) == event);
                    assert_eq!(need_event(event, new, old), passed, "{event} {new} {old}");
                }
            }
        }
    }
}
