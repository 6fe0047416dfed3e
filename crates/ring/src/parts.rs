//! Lists of owned buffers, in whatever shape suits a driver.

use crate::mem::DmaBuf;
use core::fmt;
use core::mem::MaybeUninit;

/// Buffers that one side of a chain owns.
///
/// A queue stores the value itself while the chain is in flight and gives the very same value back, so the
/// list can have whatever shape suits its driver: an array, a tuple, a `Vec`. Implemented for [`DmaBuf`],
/// arrays, `Option`, tuples of up to four, [`Bufs`], and with the `alloc` feature `Vec` and `Box`.
///
/// # Safety
///
/// `visit` must show the same buffers in the same order each time, exactly `count` of them, until the value
/// is next accessed mutably, and neither may panic: a chain half written would stay in the ring. And the value
/// must own the buffers: nobody can take one out, drop it or change its window without exclusive access to it.
pub unsafe trait Parts: Send {
    /// How many buffers there are.
    fn count(&self) -> usize;
    /// Shows every buffer, in order.
    fn visit(&self, see: impl FnMut(&DmaBuf));
}

// SAFETY: one buffer, owned.
unsafe impl Parts for DmaBuf {
    #[inline(always)]
    fn count(&self) -> usize {
        1
    }
    #[inline(always)]
    fn visit(&self, mut see: impl FnMut(&Self)) {
        see(self);
    }
}

// SAFETY: no buffer.
unsafe impl Parts for () {
    #[inline(always)]
    fn count(&self) -> usize {
        0
    }
    #[inline(always)]
    fn visit(&self, _: impl FnMut(&DmaBuf)) {}
}

// SAFETY: the elements own theirs, and are shown in order.
unsafe impl<P: Parts, const N: usize> Parts for [P; N] {
    #[inline(always)]
    fn count(&self) -> usize {
        self.iter().map(P::count).sum()
    }
    #[inline(always)]
    fn visit(&self, mut see: impl FnMut(&DmaBuf)) {
        self.iter().for_each(|p| p.visit(&mut see));
    }
}

// SAFETY: the element, if any, owns its buffers.
unsafe impl<P: Parts> Parts for Option<P> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.as_ref().map_or(0, P::count)
    }
    #[inline(always)]
    fn visit(&self, see: impl FnMut(&DmaBuf)) {
        if let Some(p) = self {
            p.visit(see);
        }
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        // SAFETY: the elements own theirs, and are shown in order.
        unsafe impl<$($name: Parts),+> Parts for ($($name,)+) {
            #[inline(always)]
            fn count(&self) -> usize {
                0 $(+ self.$index.count())+
            }
            #[inline(always)]
            fn visit(&self, mut see: impl FnMut(&DmaBuf)) {
                $(self.$index.visit(&mut see);)+
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

// SAFETY: a vector owns its elements.
#[cfg(feature = "alloc")]
unsafe impl<P: Parts> Parts for alloc::vec::Vec<P> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.iter().map(P::count).sum()
    }
    #[inline(always)]
    fn visit(&self, mut see: impl FnMut(&DmaBuf)) {
        self.iter().for_each(|p| p.visit(&mut see));
    }
}

// SAFETY: a box owns its element.
#[cfg(feature = "alloc")]
unsafe impl<P: Parts> Parts for alloc::boxed::Box<P> {
    #[inline(always)]
    fn count(&self) -> usize {
        (**self).count()
    }
    #[inline(always)]
    fn visit(&self, see: impl FnMut(&DmaBuf)) {
        (**self).visit(see);
    }
}

/// Up to `N` buffers, without a heap.
pub struct Bufs<const N: usize> {
    len: u8,
    buffers: [MaybeUninit<DmaBuf>; N],
}

impl<const N: usize> Bufs<N> {
    /// No buffers.
    pub const fn new() -> Self {
        const { assert!(N <= 255, "at most 255 buffers") };
        Self { len: 0, buffers: [const { MaybeUninit::uninit() }; N] }
    }

    /// Appends a buffer; gives it back if there is no space.
    pub fn push(&mut self, buffer: DmaBuf) -> Result<(), DmaBuf> {
        match self.buffers.get_mut(usize::from(self.len)) {
            Some(place) => {
                place.write(buffer);
                self.len += 1;
                Ok(())
            }
            None => Err(buffer),
        }
    }

    /// Takes the last buffer off.
    pub fn pop(&mut self) -> Option<DmaBuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the first `len` places are initialised, and this one is no longer among them.
        Some(unsafe { self.buffers[usize::from(self.len)].assume_init_read() })
    }

    /// The buffers.
    pub fn as_slice(&self) -> &[DmaBuf] {
        // SAFETY: the first `len` places are initialised.
        unsafe { self.buffers[..usize::from(self.len)].assume_init_ref() }
    }

    /// The buffers, to be read and written.
    pub fn as_mut_slice(&mut self) -> &mut [DmaBuf] {
        // SAFETY: the first `len` places are initialised.
        unsafe { self.buffers[..usize::from(self.len)].assume_init_mut() }
    }
}

impl<const N: usize> Default for Bufs<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for Bufs<N> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<const N: usize> FromIterator<DmaBuf> for Bufs<N> {
    /// # Panics
    ///
    /// If there are more than `N`.
    fn from_iter<I: IntoIterator<Item = DmaBuf>>(buffers: I) -> Self {
        let mut all = Self::new();
        for buffer in buffers {
            assert!(all.push(buffer).is_ok(), "more than {N} buffers");
        }
        all
    }
}

// SAFETY: the first `len` buffers are owned, and shown in order.
unsafe impl<const N: usize> Parts for Bufs<N> {
    #[inline(always)]
    fn count(&self) -> usize {
        usize::from(self.len)
    }
    #[inline(always)]
    fn visit(&self, see: impl FnMut(&DmaBuf)) {
        self.as_slice().iter().for_each(see);
    }
}

impl<const N: usize> fmt::Debug for Bufs<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
