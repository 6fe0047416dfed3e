//! Frames.

use alloc::vec::Vec;
use virtio_kit::ring::mem::{AllocError, OutOfBounds};
use virtio_kit::{Arena, DmaBuf};

/// An owned Ethernet frame in memory that devices reach: one buffer, or several for a long one.
///
/// The first buffer may have *headroom* before the frame. If there is enough for the header of the queue that
/// the frame is sent on, the two are one descriptor. Frames that were received have just that much.
///
/// Reading and writing copy, since a device that was given the frame may still write to it.
#[derive(Debug)]
pub struct Frame {
    /// The window is headroom and frame, from the first byte of the buffer on.
    head: DmaBuf,
    headroom: u32,
    len: u32,
    /// The rest of the frame, whole windows.
    more: Vec<DmaBuf>,
}

impl Frame {
    /// Allocates a frame of `len` bytes with headroom before it, in one buffer. What it holds is what was there
    /// before.
    pub fn alloc(arena: &Arena, headroom: usize, len: usize) -> Result<Self, AllocError> {
        let total = headroom.checked_add(len).ok_or(AllocError::TooLarge)?;
        if len == 0 {
            return Err(AllocError::Empty);
        }
        let head = arena.alloc(total)?;
        Ok(Self { head, headroom: headroom as u32, len: len as u32, more: Vec::new() })
    }

    /// Takes a buffer for a frame of `len` bytes, which begins `headroom` bytes into it, whatever its window was.
    pub fn from_buffer(mut head: DmaBuf, headroom: usize, len: usize) -> Result<Self, OutOfBounds> {
        if len == 0 {
            return Err(OutOfBounds);
        }
        head.set_len(headroom.checked_add(len).ok_or(OutOfBounds)?)?;
        Ok(Self { head, headroom: headroom as u32, len: len as u32, more: Vec::new() })
    }

    /// Appends a buffer: its window is more of the frame.
    pub fn push(&mut self, buffer: DmaBuf) -> Result<(), DmaBuf> {
        match self.len.checked_add(buffer.len() as u32) {
            Some(len) => {
                self.len = len;
                self.more.push(buffer);
                Ok(())
            }
            None => Err(buffer),
        }
    }

    /// What was received: `head` has headroom and some of the frame, `more` the rest.
    pub(super) fn received(head: DmaBuf, headroom: usize, more: Vec<DmaBuf>) -> Self {
        let rest: usize = more.iter().map(DmaBuf::len).sum();
        let len = head.len().saturating_sub(headroom) + rest;
        Self { head, headroom: headroom as u32, len: len as u32, more }
    }

    /// Length in bytes, not 0.
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes before the frame in its first buffer.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.headroom as usize
    }

    /// How many buffers the frame is in.
    #[inline]
    pub fn buffers(&self) -> usize {
        1 + self.more.len()
    }

    /// Bytes of the frame that are in its first buffer.
    fn in_head(&self) -> usize {
        self.head.len() - self.headroom()
    }

    /// Changes the length of a frame in one buffer, within what the buffer holds.
    pub fn set_len(&mut self, len: usize) -> Result<(), OutOfBounds> {
        if len == 0 || !self.more.is_empty() {
            return Err(OutOfBounds);
        }
        self.head.set_len(self.headroom().checked_add(len).ok_or(OutOfBounds)?)?;
        self.len = len as u32;
        Ok(())
    }

    /// The longest that [`set_len`](Self::set_len) can make a frame in one buffer.
    pub fn capacity(&self) -> usize {
        self.head.capacity() - self.headroom()
    }

    /// Copies from the frame, `at` bytes into it, filling `to`.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        if at > self.len() || to.len() > self.len() - at {
            return Err(OutOfBounds);
        }
        if at + to.len() <= self.in_head() {
            return self.head.read(self.headroom() + at, to);
        }
        self.each_piece(at, to.len(), |buffer, from, done, len| buffer.read(from, &mut to[done..done + len]))
    }

    /// Copies `from` into the frame, `at` bytes into it.
    #[inline]
    pub fn write(&mut self, at: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        if at > self.len() || from.len() > self.len() - at {
            return Err(OutOfBounds);
        }
        let head = self.in_head();
        if at + from.len() <= head {
            return self.head.write(self.headroom() + at, from);
        }
        let (mut begin, mut done) = (0, 0);
        let headroom = self.headroom();
        let pieces = core::iter::once((&mut self.head, headroom)).chain(self.more.iter_mut().map(|b| (b, 0)));
        for (buffer, skip) in pieces {
            let end = begin + buffer.len() - skip;
            let here = (at + done).max(begin);
            if here < end && done < from.len() {
                let len = (end - here).min(from.len() - done);
                buffer.write(skip + here - begin, &from[done..done + len])?;
                done += len;
            }
            begin = end;
        }
        Ok(())
    }

    /// Copies the start of the frame; how much, the lesser of its length and that of `to`.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let len = self.len().min(to.len());
        // No more than there is.
        let _ = self.read(0, &mut to[..len]);
        len
    }

    fn each_piece(
        &self,
        at: usize,
        len: usize,
        mut each: impl FnMut(&DmaBuf, usize, usize, usize) -> Result<(), OutOfBounds>,
    ) -> Result<(), OutOfBounds> {
        let (mut begin, mut done) = (0, 0);
        let pieces = core::iter::once((&self.head, self.headroom())).chain(self.more.iter().map(|b| (b, 0)));
        for (buffer, skip) in pieces {
            let end = begin + buffer.len() - skip;
            let here = (at + done).max(begin);
            if here < end && done < len {
                let here_len = (end - here).min(len - done);
                each(buffer, skip + here - begin, done, here_len)?;
                done += here_len;
            }
            begin = end;
        }
        Ok(())
    }

    /// The buffers: the first, with headroom and the start of the frame, and the others.
    pub fn into_buffers(self) -> (DmaBuf, Vec<DmaBuf>) {
        (self.head, self.more)
    }

    /// Takes the frame apart for a chain. With `header` bytes of headroom or more, the window begins so many
    /// before the frame; otherwise with the frame itself.
    #[inline]
    pub(super) fn into_chain(mut self, header: usize) -> (DmaBuf, Vec<DmaBuf>, Shape) {
        let shape = Shape { headroom: self.headroom, len: self.len };
        let skip = if self.headroom() >= header { self.headroom() - header } else { self.headroom() };
        if skip != 0 {
            let end = self.head.len();
            // The window was from 0 to there.
            let _ = self.head.set_window(skip..end);
        }
        (self.head, self.more, shape)
    }

    /// Puts together again what [`into_chain`](Self::into_chain) took apart.
    #[inline]
    pub(super) fn from_chain(mut head: DmaBuf, more: Vec<DmaBuf>, shape: Shape, header: usize) -> Self {
        let headroom = shape.headroom as usize;
        let skip = if headroom >= header { headroom - header } else { headroom };
        if skip != 0 {
            let end = skip + head.len();
            let _ = head.set_len(end);
        }
        Self { head, headroom: shape.headroom, len: shape.len, more }
    }
}

/// What a frame in flight is beside its buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    headroom: u32,
    len: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_kit::ring::mem::HeapMemory;

    fn arena() -> Arena {
        Arena::new(HeapMemory::new(1 << 16).unwrap()).unwrap()
    }

    #[test]
    fn a_frame_in_pieces_reads_and_writes_as_one() {
        let arena = arena();
        let mut frame = Frame::alloc(&arena, 12, 20).unwrap();
        for len in [1, 7, 64] {
            frame.push(arena.alloc(len).unwrap()).unwrap();
        }
        assert_eq!((frame.len(), frame.buffers()), (92, 4));
        let bytes: Vec<u8> = (0..92).collect();
        frame.write(0, &bytes).unwrap();
        for at in 0..=92 {
            for len in 0..=92 - at {
                let mut back = alloc::vec![0; len];
                frame.read(at, &mut back).unwrap();
                assert_eq!(back, bytes[at..at + len]);
                frame.write(at, &back).unwrap();
            }
            assert!(frame.read(at, &mut alloc::vec![0; 93 - at]).is_err());
            assert!(frame.write(at, &alloc::vec![0; 93 - at]).is_err());
        }
        assert!(frame.set_len(10).is_err());
    }

    #[test]
    fn headroom_of_any_size_comes_back_from_a_chain() {
        let arena = arena();
        for headroom in [0, 1, 11, 12, 13, 100] {
            let mut frame = Frame::alloc(&arena, headroom, 50).unwrap();
            frame.write(0, &[7; 50]).unwrap();
            let (head, more, shape) = frame.into_chain(12);
            assert_eq!(head.len(), if headroom >= 12 { 62 } else { 50 });
            let frame = Frame::from_chain(head, more, shape, 12);
            assert_eq!((frame.headroom(), frame.len()), (headroom, 50));
            let mut back = [0; 50];
            frame.read(0, &mut back).unwrap();
            assert_eq!(back, [7; 50]);
        }
    }

    #[test]
    fn no_frame_is_empty_or_longer_than_its_buffer() {
        let arena = arena();
        assert!(Frame::alloc(&arena, 12, 0).is_err());
        assert!(Frame::alloc(&arena, usize::MAX, 1).is_err());
        assert!(Frame::from_buffer(arena.alloc(64).unwrap(), 60, 5).is_err());
        assert!(Frame::from_buffer(arena.alloc(64).unwrap(), usize::MAX, 5).is_err());
        let mut frame = Frame::from_buffer(arena.alloc(64).unwrap(), 10, 54).unwrap();
        assert!(frame.set_len(55).is_err() && frame.set_len(0).is_err());
        assert!(frame.set_len(1).is_ok());
        assert_eq!((frame.len(), frame.capacity()), (1, 54));
    }
}
