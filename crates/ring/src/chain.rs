//! What a driver adds to a queue: owned buffers, readable ones first.

use crate::mem::DmaBuf;
use crate::parts::Parts;

/// Owned buffers as the device sees them: those in `readable` for it to read, then those in `writable` for it to
/// write (2.7.4, 2.8.17).
///
/// Which is which is in the type, so nothing is left to check, and nothing to get wrong. A queue whose chains come in
/// several shapes takes [`Either`] of them.
#[derive(Debug)]
pub struct Chain<R, W = ()> {
    /// What the device reads.
    pub readable: R,
    /// What the device writes.
    pub writable: W,
}

impl<R: Parts, W: Parts> Chain<R, W> {
    /// A chain of buffers for the device to read, and to write.
    #[inline(always)]
    pub fn new(readable: R, writable: W) -> Self {
        Self { readable, writable }
    }

    /// The buffers, given back.
    #[inline(always)]
    pub fn into_parts(self) -> (R, W) {
        (self.readable, self.writable)
    }
}

impl<R: Parts> Chain<R> {
    /// A chain of buffers for the device to read only.
    #[inline(always)]
    pub fn readable(readable: R) -> Self {
        Self::new(readable, ())
    }
}

impl<W: Parts> Chain<(), W> {
    /// A chain of buffers for the device to write only.
    #[inline(always)]
    pub fn writable(writable: W) -> Self {
        Self::new((), writable)
    }
}

/// A chain of one shape or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The one shape.
    One(A),
    /// The other.
    Other(B),
}

/// A chain of any shape: what a queue takes, and gives back the very same value of.
///
/// Implemented for [`Chain`] and for [`Either`] of two shapes.
///
/// # Safety
///
/// `visit` must show the same buffers in the same order each time, exactly `count` of them, those for the device to
/// read before those for it to write, until the value is next accessed mutably, and neither may panic: a chain half
/// written would stay in the ring. And the value must own the buffers: nobody can take one out, drop it or
/// change its window without exclusive access to it.
pub unsafe trait AnyChain: Send {
    /// How many buffers there are.
    fn count(&self) -> usize;
    /// Shows every buffer, in order, and whether the device may write it.
    fn visit(&self, see: impl FnMut(&DmaBuf, bool));
}

// SAFETY: what is shown is the parts', which promise the same of themselves.
unsafe impl<R: Parts, W: Parts> AnyChain for Chain<R, W> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.readable.count() + self.writable.count()
    }
    #[inline(always)]
    fn visit(&self, mut see: impl FnMut(&DmaBuf, bool)) {
        self.readable.visit(|buffer| see(buffer, false));
        self.writable.visit(|buffer| see(buffer, true));
    }
}

// SAFETY: what is shown is one chain's, which promises the same of itself.
unsafe impl<A: AnyChain, B: AnyChain> AnyChain for Either<A, B> {
    #[inline(always)]
    fn count(&self) -> usize {
        match self {
            Self::One(chain) => chain.count(),
            Self::Other(chain) => chain.count(),
        }
    }
    #[inline(always)]
    fn visit(&self, see: impl FnMut(&DmaBuf, bool)) {
        match self {
            Self::One(chain) => chain.visit(see),
            Self::Other(chain) => chain.visit(see),
        }
    }
}
