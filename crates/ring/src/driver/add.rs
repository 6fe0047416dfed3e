//! Adding a chain.

use super::error::{AddError, AddErrorKind, NewError};
use super::queue::Indirect;
use super::ring::{Cursor, Meta, Ring};
use super::storage::Payload;
use crate::chain::{Chain, Parts};
use crate::mem::{AllocError, Arena, DmaBuf, Domain};
use crate::store::Store;
use crate::words::Area;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::sync::atomic::Ordering::Relaxed;
use virtio_kit_spec::split as split_wire;

/// Where a queue's buffers come from if nothing is said: the arena that its ring is in.
#[derive(Clone, Copy)]
pub(super) struct Home {
    /// The arena, as a number to compare.
    pub(super) arena: usize,
    /// Device address of its first byte.
    pub(super) base: u64,
    pub(super) domain: Domain,
}

/// Indirect tables, one for each slot.
pub(super) struct Tables {
    pub(super) memory: ManuallyDrop<DmaBuf>,
    area: Area,
    base: u64,
    stride: usize,
    limits: Indirect,
}

impl Tables {
    pub(super) fn new(limits: Indirect, size: u16, arena: &Arena) -> Result<Self, NewError> {
        if !(2..=split_wire::MAX_SIZE).contains(&limits.max_parts) {
            return Err(NewError::BadIndirect);
        }
        let stride = size_of::<split_wire::Desc>() * usize::from(limits.max_parts);
        // Where addresses have 32 bits the product may have more.
        let len = stride.checked_mul(size.into()).ok_or(AllocError::TooLarge)?;
        let memory = ManuallyDrop::new(arena.alloc(len)?);
        // SAFETY: aligned to at least 64 bytes; lives as long as the queue, or is leaked.
        let area = unsafe { Area::new(memory.as_ptr()) };
        Ok(Self { area, base: memory.device_addr().get(), memory, stride, limits })
    }
}

/// The parts of a queue that adding touches, borrowed apart from the ring.
pub(super) struct Adding<'q, P, T> {
    pub(super) metas: &'q mut Store<Meta>,
    pub(super) payloads: &'q mut Store<MaybeUninit<Payload<P, T>>>,
    pub(super) in_flight: &'q mut u16,
    pub(super) tables: &'q Option<Tables>,
    /// Chains of more buffers do not go straight into the ring.
    pub(super) direct_up_to: u16,
    /// Nor do chains that leave fewer descriptors free, if they can go another way.
    pub(super) keep_free: u16,
    pub(super) home: Home,
    pub(super) size: u16,
}

impl<P: Parts, T> Adding<'_, P, T> {
    /// Adds what `next` gives; `false` if it gives nothing.
    ///
    /// This is the common way: straight into the ring, all buffers from the queue's own arena. Everything else,
    /// errors among it, is found out on the way and left to [`add_otherwise`](Self::add_otherwise).
    #[inline(always)]
    pub(super) fn add<R: Ring>(
        &mut self,
        ring: &mut R,
        next: impl FnOnce() -> Option<(Chain<P>, T)>,
    ) -> Result<bool, AddError<P, T>> {
        let (room, straight) = (usize::from(ring.room()), usize::from(ring.straight()));
        if room == 0 {
            let Some((chain, token)) = next() else { return Ok(false) };
            return self.add_otherwise(ring, chain, token).map(|()| true);
        }
        let Some((chain, token)) = next() else { return Ok(false) };
        let mut cursor = ring.start();
        let slot = usize::from(cursor.slot());
        debug_assert!(slot < self.payloads.len());
        // SAFETY: a cursor's slot is one of the queue's, and there is a payload for each.
        let place = unsafe { self.payloads.get_unchecked_mut(slot) };
        // Into its slot first, in one move, and looked at there: taken apart in registers and put together again
        // it would cost twice as much.
        let payload = core::hint::black_box(place.write(Payload { chain, token }));
        let count = payload.chain.parts.count();
        let readable = usize::from(payload.chain.readable);
        let direct = usize::from(self.direct_up_to);
        if count != 0
            && count + usize::from(self.keep_free) <= room
            && count <= straight
            && count <= direct
            && readable <= count
        {
            let Home { arena, base, .. } = self.home;
            let mut sums = Sums::default();
            let mut index = 0;
            payload.chain.parts.visit(|buffer| {
                let (its_arena, start, len) = buffer.raw();
                let (addr, more) = (base + u64::from(start), usize::from(index) + 1 < count);
                sums.elsewhere |= its_arena ^ arena;
                sums.total += u64::from(len);
                // Two ways, and not one with a mask: the compiler then follows each place where reading may end
                // by itself, with nothing to compute.
                if usize::from(index) < readable {
                    cursor.put_straight(index, addr, len, 0, more);
                } else {
                    sums.writable += u64::from(len);
                    cursor.put_straight(index, addr, len, R::Cursor::WRITE, more);
                }
                index += 1;
            });
            cursor.stay(index);
            if (sums.elsewhere & !DmaBuf::TAG == 0) & !sums.too_long(count) {
                self.finish(ring, cursor, sums.writable as u32, count as u16);
                return Ok(true);
            }
            ring.abandon(cursor);
        }
        // SAFETY: written above; the slot is not in flight, so nobody else takes it out.
        let Payload { chain, token } = unsafe { self.payloads[slot].assume_init_read() };
        self.add_otherwise(ring, chain, token).map(|()| true)
    }

    /// Chains that go through a table, have buffers of other arenas, or cannot be added.
    #[inline(never)]
    fn add_otherwise<R: Ring>(
        &mut self,
        ring: &mut R,
        chain: Chain<P>,
        token: T,
    ) -> Result<(), AddError<P, T>> {
        let checked = self.check(&chain);
        let (count, writable) = match checked {
            Ok(checked) => checked,
            Err(kind) => return Err(AddError { kind, chain, token }),
        };
        let table = self.tables.as_ref().filter(|t| count <= t.limits.max_parts && ring.room() > 0);
        let keep_free = if table.is_some() { self.keep_free } else { 0 };
        if count <= ring.room().saturating_sub(keep_free).min(self.direct_up_to) {
            let mut cursor = ring.start();
            each_buffer(&chain, |buffer, write, index, more| {
                let flags = if write { R::Cursor::WRITE } else { 0 };
                cursor.put(buffer.device_addr().get(), buffer.len() as u32, flags, index == 0, more);
            });
            self.finish_with(ring, cursor, Payload { chain, token }, writable, count);
            return Ok(());
        }
        let Some(tables) = table else {
            return Err(AddError { kind: AddErrorKind::Full, chain, token });
        };
        let mut cursor = ring.start();
        let table = usize::from(cursor.slot()) * tables.stride;
        each_buffer(&chain, |buffer, write, index, more| {
            let at = table + usize::from(index) * size_of::<split_wire::Desc>();
            let second = R::table_word(buffer.len() as u32, write, index, more);
            // SAFETY: `check` has counted the buffers, and so many entries fit the slot's table.
            unsafe {
                tables.area.store64(at, buffer.device_addr().get(), Relaxed);
                tables.area.store64(at + 8, second, Relaxed);
            }
        });
        let len = u32::from(count) * size_of::<split_wire::Desc>() as u32;
        cursor.put(tables.base + table as u64, len, R::Cursor::INDIRECT, true, false);
        self.finish_with(ring, cursor, Payload { chain, token }, writable, 1);
        Ok(())
    }

    /// Whether the chain can be added at all: how many buffers it has, and how many bytes for writing.
    fn check(&self, chain: &Chain<P>) -> Result<(u16, u32), AddErrorKind> {
        let direct = self.direct_up_to.min(self.size);
        let most = self.tables.as_ref().map_or(direct, |t| t.limits.max_parts.max(direct));
        let count = match chain.parts.count() {
            0 => return Err(AddErrorKind::NoBuffers),
            count if count > usize::from(most) => return Err(AddErrorKind::TooLong),
            count => count as u16,
        };
        let (mut foreign, mut sums) = (false, Sums::default());
        each_buffer(chain, |buffer, write, _, _| {
            foreign |= buffer.domain() != self.home.domain;
            sums.add(buffer.len() as u32, u64::from(!write).wrapping_sub(1));
        });
        match () {
            _ if foreign => Err(AddErrorKind::ForeignBuffer),
            _ if chain.readable > count => Err(AddErrorKind::BadSplit),
            _ if sums.too_long(count.into()) => Err(AddErrorKind::TooLong),
            _ => Ok((count, sums.writable as u32)),
        }
    }

    fn finish_with<R: Ring>(
        &mut self,
        ring: &mut R,
        cursor: R::Cursor,
        payload: Payload<P, T>,
        writable: u32,
        descs: u16,
    ) {
        self.payloads[usize::from(cursor.slot())].write(payload);
        self.finish(ring, cursor, writable, descs);
    }

    /// The chain is in its slot.
    #[inline(always)]
    fn finish<R: Ring>(&mut self, ring: &mut R, cursor: R::Cursor, writable: u32, descs: u16) {
        let (slot, last) = (usize::from(cursor.slot()), cursor.last());
        ring.finish(cursor, descs);
        debug_assert!(slot < self.metas.len());
        // SAFETY: a cursor's slot is one of the queue's, and there is a meta for each.
        unsafe { *self.metas.get_unchecked_mut(slot) = Meta { writable, descs, last } };
        *self.in_flight += 1;
    }
}

/// Shows each buffer with whether the device writes it, its place, and whether another follows.
fn each_buffer<P: Parts>(chain: &Chain<P>, mut see: impl FnMut(&DmaBuf, bool, u16, bool)) {
    let count = chain.parts.count();
    let mut index = 0;
    chain.parts.visit(|buffer| {
        see(buffer, index >= usize::from(chain.readable), index as u16, index + 1 < count);
        index += 1;
    });
}

/// What is found out about a chain's buffers, with a test of all of it at the end instead of one for each.
#[derive(Default)]
struct Sums {
    /// Differs from 0, above the bits of a buffer's size class, if an arena was another.
    elsewhere: usize,
    total: u64,
    writable: u64,
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, len: u32, write: u64) {
        self.total += u64::from(len);
        self.writable += u64::from(len) & write;
    }

    /// Whether the `count` buffers have more bytes than a length can say. A few never do, which the compiler
    /// often sees.
    #[inline(always)]
    fn too_long(&self, count: usize) -> bool {
        const { assert!(3 * DmaBuf::MAX_LEN as u64 <= u32::MAX as u64) };
        count > 3 && self.total > u64::from(u32::MAX)
    }
}
