//! Copying between private memory and memory that others may be writing.
//!
//! Private slices are ordinary Rust memory; the shared end is a pointer, and every access to it is one that
//! tolerates a concurrent writer: an atomic, or an instruction that the compiler cannot see into.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// From here on one string instruction is faster than a loop of words.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LONG: usize = 128;

/// Copies from shared memory into a private slice.
///
/// # Safety
///
/// `from` must be valid for reads of `to.len()` bytes, if perhaps written by others meanwhile.
#[inline]
pub(crate) unsafe fn copy_out(from: NonNull<u8>, to: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if to.len() >= LONG {
        // SAFETY: both ends are valid for the length. The compiler treats the block as reading and writing
        // any memory, byte by byte, so a torn or changing source is not undefined behaviour.
        unsafe { string_copy(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        return;
    }
    let whole = whole_words(from, to.len());
    let (words, bytes) = to.split_at_mut(whole);
    for (i, word) in words.chunks_exact_mut(WORD).enumerate() {
        // SAFETY: inside the range that the caller vouches for, and aligned; an atomic tolerates other writers.
        let value = unsafe { from.add(i * WORD).cast::<AtomicUsize>().as_ref() }.load(Ordering::Relaxed);
        word.copy_from_slice(&value.to_ne_bytes());
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: as above.
        *byte = unsafe { from.add(whole + i).cast::<AtomicU8>().as_ref() }.load(Ordering::Relaxed);
    }
}

const WORD: usize = size_of::<usize>();

/// How many of `len` bytes at `shared` are copied as whole words.
#[inline(always)]
fn whole_words(shared: NonNull<u8>, len: usize) -> usize {
    if (shared.as_ptr() as usize).is_multiple_of(WORD) { len / WORD * WORD } else { 0 }
}

/// Copies a private slice into shared memory.
///
/// # Safety
///
/// `to` must be valid for writes of `from.len()` bytes, if perhaps read and written by others meanwhile.
#[inline]
pub(crate) unsafe fn copy_in(from: &[u8], to: NonNull<u8>) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if from.len() >= LONG {
        // SAFETY: as in `copy_out`.
        unsafe { string_copy(from.as_ptr(), to.as_ptr(), from.len()) };
        return;
    }
    let whole = whole_words(to, from.len());
    let (words, bytes) = from.split_at(whole);
    for (i, word) in words.chunks_exact(WORD).enumerate() {
        let mut value = [0; WORD];
        value.copy_from_slice(word);
        // SAFETY: inside the range that the caller vouches for, and aligned; an atomic tolerates others.
        let target = unsafe { to.add(i * WORD).cast::<AtomicUsize>().as_ref() };
        target.store(usize::from_ne_bytes(value), Ordering::Relaxed);
    }
    for (i, byte) in bytes.iter().enumerate() {
        // SAFETY: as above.
        unsafe { to.add(whole + i).cast::<AtomicU8>().as_ref() }.store(*byte, Ordering::Relaxed);
    }
}

/// Sets shared memory to one byte value.
///
/// # Safety
///
/// `to` must be valid for writes of `len` bytes, if perhaps read and written by others meanwhile.
pub(crate) unsafe fn fill(to: NonNull<u8>, len: usize, value: u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= LONG {
        // SAFETY: the range is valid for writes; see `copy_out` for why others may access it.
        unsafe {
            core::arch::asm!(
                "rep stosb",
                inout("rcx") len => _, inout("rdi") to.as_ptr() => _, in("al") value,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    for i in 0..len {
        // SAFETY: inside the range that the caller vouches for.
        unsafe { to.add(i).cast::<AtomicU8>().as_ref() }.store(value, Ordering::Relaxed);
    }
}

/// # Safety
///
/// Both pointers must be valid for `len` bytes, and the ranges must not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn string_copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the direction flag is clear by the calling convention; ranges are valid by the contract.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_fills_of_every_short_and_some_long_lengths_touch_exactly_their_range() {
        for (len, skew) in (0..300).chain([4096, 65537]).flat_map(|len| (1..=8).map(move |skew| (len, skew)))
        {
            let mut shared = std::vec![7u8; len + skew + 1];
            let source: std::vec::Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            let mut back = std::vec![0u8; len];
            let at = NonNull::from(&mut shared[skew..]).cast::<u8>();
            // SAFETY: `at` is followed by `len` bytes of a live vector.
            unsafe {
                copy_in(&source, at);
                copy_out(at, &mut back);
            }
            assert_eq!(back, source);
            assert_eq!((shared[skew - 1], shared[skew + len]), (7, 7));
            // SAFETY: as above.
            unsafe { fill(NonNull::from(&mut shared[skew..]).cast::<u8>(), len, 9) };
            assert!(shared[skew..skew + len].iter().all(|&b| b == 9));
            assert_eq!((shared[skew - 1], shared[skew + len]), (7, 7));
        }
    }

    extern crate std;
}
