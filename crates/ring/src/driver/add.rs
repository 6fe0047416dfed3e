//! Adding a chain.

use super::error::{AddError, AddErrorKind, NewError};
use super::queue::Indirect;
use super::ring::{Cursor, Meta, Ring};
use super::storage::Payload;
use crate::chain::AnyChain;
use crate::mem::{AllocError, Arena, DmaBuf, Domain};
use crate::store::Store;
use crate::words::{Area, opaque};
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;
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
pub(super) struct Adding<'q, C, T> {
    pub(super) metas: &'q mut Store<Meta>,
    pub(super) payloads: &'q mut Store<MaybeUninit<Payload<C, T>>>,
    pub(super) in_flight: &'q mut u16,
    pub(super) tables: &'q Option<Tables>,
    /// Chains of more buffers do not go straight into the ring.
    pub(super) direct_up_to: u16,
    /// Nor do chains that leave fewer descriptors free, if they can go another way.
    pub(super) keep_free: u16,
    pub(super) home: Home,
    pub(super) size: u16,
}

impl<C: AnyChain, T> Adding<'_, C, T> {
    /// Adds what `fill` puts into its place; `false` if that is nothing, or if there is no descriptor left.
    #[inline(always)]
    pub(super) fn fill<R: Ring>(
        &mut self,
        ring: &mut R,
        fill: impl for<'p> FnOnce(Place<'p, C, T>) -> Option<Placed<'p>>,
    ) -> Result<bool, AddError<C, T>> {
        if ring.straight() == 0 && !again(ring) {
            return Ok(false);
        }
        let cursor = ring.start();
        let place = self.place(&cursor);
        // SAFETY: a place of the queue's, which has it to itself.
        if fill(Place { payload: unsafe { &mut *place.as_ptr() }, brand: PhantomData }).is_none() {
            return Ok(false);
        }
        // SAFETY: `Placed` says that the place was filled in.
        unsafe { self.add_placed(ring, cursor, place) }.map(|()| true)
    }

    /// Adds a chain.
    #[inline(always)]
    pub(super) fn add<R: Ring>(&mut self, ring: &mut R, chain: C, token: T) -> Result<(), AddError<C, T>> {
        if ring.straight() == 0 && !again(ring) {
            return self.add_otherwise(ring, chain, token);
        }
        let cursor = ring.start();
        let place = self.place(&cursor);
        // SAFETY: a place of the queue's, which has it to itself; then just written.
        unsafe {
            (*place.as_ptr()).write(Payload { chain, token });
            self.add_placed(ring, cursor, place)
        }
    }

    /// Where the chain goes that `cursor` is about to write.
    #[inline(always)]
    fn place(&mut self, cursor: &impl Cursor) -> NonNull<MaybeUninit<Payload<C, T>>> {
        let slot = usize::from(cursor.slot());
        debug_assert!(slot < self.payloads.len());
        // SAFETY: a cursor's slot is one of the queue's, and there is a payload for each.
        NonNull::from(unsafe { self.payloads.get_unchecked_mut(slot) })
    }

    /// Adds the chain that is in `place`, which is the cursor's.
    ///
    /// This is the common way: straight into the ring, all buffers from the queue's own arena. Everything else,
    /// errors among it, is found out on the way and left to [`add_otherwise`](Self::add_otherwise).
    ///
    /// # Safety
    ///
    /// The place must have been written, and nothing else may be in it.
    #[inline(always)]
    unsafe fn add_placed<R: Ring>(
        &mut self,
        ring: &mut R,
        mut cursor: R::Cursor,
        place: NonNull<MaybeUninit<Payload<C, T>>>,
    ) -> Result<(), AddError<C, T>> {
        let (direct, keep_free) = (usize::from(self.direct_up_to), usize::from(self.keep_free));
        let Home { arena, base, .. } = self.home;
        // Looked at there: taken apart in registers, and put together again in its place, it would cost twice as much.
        // SAFETY: written, by the caller's promise.
        let payload = unsafe { opaque(place).as_ref().assume_init_ref() };
        let count = payload.chain.count();
        // One test for both bounds, of a number that is often known before a batch begins: never met by chains that
        // do not go straight into the ring.
        let need = count + keep_free + (usize::from(count > direct) << u16::BITS);
        if count != 0 && need <= usize::from(ring.straight()) {
            let mut sums = Sums::default();
            let mut index = 0;
            payload.chain.visit(|buffer, write| {
                let (its_arena, start, len) = buffer.raw();
                let (addr, more) = (base + u64::from(start), usize::from(index) + 1 < count);
                sums.elsewhere |= its_arena ^ arena;
                sums.add(len, write);
                cursor.put_straight(index, addr, len, if write { split_wire::DESC_WRITE } else { 0 }, more);
                index += 1;
            });
            if (sums.elsewhere & !DmaBuf::TAG == 0) & !sums.too_long(count) {
                self.finish(ring, cursor, sums.writable as u32, count as u16);
                return Ok(());
            }
            ring.abandon(cursor, index);
        }
        // SAFETY: written, by the caller's promise; the slot is not in flight, so nobody else takes it out.
        let Payload { chain, token } = unsafe { place.as_ref().assume_init_read() };
        self.add_otherwise(ring, chain, token)
    }

    /// Chains that go through a table, have buffers of other arenas, or cannot be added.
    #[inline(never)]
    fn add_otherwise<R: Ring>(&mut self, ring: &mut R, chain: C, token: T) -> Result<(), AddError<C, T>> {
        ring.stretch();
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
                let flags = if write { split_wire::DESC_WRITE } else { 0 };
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
        cursor.put(tables.base + table as u64, len, split_wire::DESC_INDIRECT, true, false);
        self.finish_with(ring, cursor, Payload { chain, token }, writable, 1);
        Ok(())
    }

    /// Whether the chain can be added at all: how many buffers it has, and how many bytes for writing.
    fn check(&self, chain: &C) -> Result<(u16, u32), AddErrorKind> {
        let direct = self.direct_up_to.min(self.size);
        let most = self.tables.as_ref().map_or(direct, |t| t.limits.max_parts.max(direct));
        let count = match chain.count() {
            0 => return Err(AddErrorKind::NoBuffers),
            count if count > usize::from(most) => return Err(AddErrorKind::TooLong),
            count => count as u16,
        };
        let (mut foreign, mut sums) = (false, Sums::default());
        each_buffer(chain, |buffer, write, _, _| {
            foreign |= buffer.domain() != self.home.domain;
            sums.add(buffer.len() as u32, write);
        });
        match () {
            _ if foreign => Err(AddErrorKind::ForeignBuffer),
            _ if sums.too_long(count.into()) => Err(AddErrorKind::TooLong),
            _ => Ok((count, sums.writable as u32)),
        }
    }

    fn finish_with<R: Ring>(
        &mut self,
        ring: &mut R,
        cursor: R::Cursor,
        payload: Payload<C, T>,
        writable: u32,
        descs: u16,
    ) {
        self.payloads[usize::from(cursor.slot())].write(payload);
        self.finish(ring, cursor, writable, descs);
        ring.stretch();
    }

    /// The chain is in its slot.
    #[inline(always)]
    fn finish<R: Ring>(&mut self, ring: &mut R, cursor: R::Cursor, writable: u32, descs: u16) {
        let (slot, link) = (usize::from(cursor.slot()), cursor.link());
        debug_assert!(slot < self.metas.len());
        // SAFETY: a cursor's slot is one of the queue's, and there is a meta for each.
        let meta = unsafe { self.metas.get_unchecked_mut(slot) };
        ring.finish(cursor, descs, meta.link);
        *meta = Meta { writable, descs, link };
        *self.in_flight += 1;
    }
}

/// Counts the descriptors that go straight anew; whether there are any, or others.
#[cold]
fn again(ring: &mut impl Ring) -> bool {
    ring.stretch();
    ring.room() != 0
}

/// Shows each buffer with whether the device writes it, its place, and whether another follows.
fn each_buffer<C: AnyChain>(chain: &C, mut see: impl FnMut(&DmaBuf, bool, u16, bool)) {
    let count = chain.count();
    let mut index = 0;
    chain.visit(|buffer, write| {
        see(buffer, write, index as u16, index + 1 < count);
        index += 1;
    });
}

/// Where a chain goes that is to be added, with its token.
pub struct Place<'p, C, T> {
    payload: &'p mut MaybeUninit<Payload<C, T>>,
    brand: Brand<'p>,
}

/// Says that a [`Place`] was filled.
pub struct Placed<'p>(Brand<'p>);

/// Invariant, so that what was put into one place cannot stand for another.
type Brand<'p> = PhantomData<fn(&'p ()) -> &'p ()>;

impl<'p, C, T> Place<'p, C, T> {
    /// Puts a chain and its token there.
    #[inline(always)]
    pub fn put(self, chain: C, token: T) -> Placed<'p> {
        self.payload.write(Payload { chain, token });
        Placed(self.brand)
    }
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
    fn add(&mut self, len: u32, write: bool) {
        self.total += u64::from(len);
        if write {
            self.writable += u64::from(len);
        }
    }

    /// Whether the `count` buffers have more bytes than a length can say. A few never do, which the compiler
    /// often sees.
    #[inline(always)]
    fn too_long(&self, count: usize) -> bool {
        const { assert!(3 * DmaBuf::MAX_LEN as u64 <= u32::MAX as u64) };
        count > 3 && self.total > u64::from(u32::MAX)
    }
}
