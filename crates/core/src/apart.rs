//! Keeping what different threads write off each other's cache lines.

use core::ops::{Deref, DerefMut};

/// A value with cache lines of its own: what one queue writes all the time slows no other queue down.
///
/// 128 bytes, since processors fetch lines of 64 in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Apart<T>(pub T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Apart<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
