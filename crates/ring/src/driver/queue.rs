//! The queue that drivers use.

use super::error::{AddError, AddErrorKind, Broken, NewError};
use super::memory::{RingAddrs, RingMemory};
use super::ring::{Cursor, Meta, Ring};
use super::shutdown::{Quiesced, Shutdown};
use super::{packed, split};
use crate::chain::{Chain, Parts};
use crate::mem::{Arena, DmaBuf, Domain};
use crate::notify::Barriers;
use crate::store::Store;
use crate::words::Area;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::sync::atomic::Ordering::Relaxed;
use virtio_kit_spec::{packed as packed_wire, split as split_wire};

/// What a queue was negotiated to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The chains come back in the order in which they were added (IN_ORDER).
    pub in_order: bool,
    /// Notifications are bounded by event indices (EVENT_IDX).
    pub event_idx: bool,
    /// Long chains go into tables of their own (INDIRECT_DESC).
    pub indirect: Option<Indirect>,
    /// The barriers that the device needs.
    pub barriers: Barriers,
}

/// When chains use indirect tables, and how long they may be. Tables are allocated with the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    /// Most buffers of one chain, 2 to 32768. Every slot has a table of 16 bytes times this.
    pub max_parts: u16,
    /// Chains of up to this many buffers go directly into the ring while it has space for them.
    pub direct_up_to: u16,
}

/// A chain that the device used.
#[derive(Debug)]
pub struct Used<P, T> {
    /// The buffers.
    pub chain: Chain<P>,
    /// The token that was added with them.
    pub token: T,
    /// Bytes that the device says it wrote, from the first writable byte on; at most as many as there are.
    pub written: u32,
}

/// Where a ring stands: the indices, and for a packed ring the wrap counters, of both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// Split: next available index. Packed: position of the next available descriptor.
    pub next: u16,
    /// Packed: wrap counter at `next`.
    pub next_wrap: bool,
    /// Split: next used index. Packed: position of the next used descriptor.
    pub used: u16,
    /// Packed: wrap counter at `used`.
    pub used_wrap: bool,
}

/// Private storage of a queue, of at least as many elements as the queue's size each.
pub struct Storage<P, T> {
    pub(super) metas: Store<Meta>,
    pub(super) links: Store<u16>,
    pub(super) payloads: Store<MaybeUninit<Payload<P, T>>>,
}

/// A chain in flight with its token.
pub(super) struct Payload<P, T> {
    pub(super) chain: Chain<P>,
    pub(super) token: T,
}

#[cfg(feature = "alloc")]
impl<P, T> Storage<P, T> {
    /// Storage on the heap.
    pub fn boxed(size: u16) -> Self {
        let size = usize::from(size);
        Self {
            metas: Store::boxed(size, |_| Meta::default()),
            links: Store::boxed(size, |_| 0),
            payloads: Store::boxed(size, |_| MaybeUninit::uninit()),
        }
    }
}

/// Donated storage of a queue, to be put into a static.
pub struct StaticStorage<P, T, const N: usize> {
    metas: [MaybeUninit<Meta>; N],
    links: [MaybeUninit<u16>; N],
    payloads: [MaybeUninit<MaybeUninit<Payload<P, T>>>; N],
}

impl<P, T, const N: usize> StaticStorage<P, T, N> {
    /// Uninitialised storage.
    pub const fn new() -> Self {
        Self {
            metas: [const { MaybeUninit::uninit() }; N],
            links: [const { MaybeUninit::uninit() }; N],
            payloads: [const { MaybeUninit::uninit() }; N],
        }
    }

    /// Donates the storage to a queue.
    pub fn donate(&'static mut self) -> Storage<P, T> {
        Storage {
            metas: Store::in_static(&mut self.metas, |_| Meta::default()),
            links: Store::in_static(&mut self.links, |_| 0),
            payloads: Store::in_static(&mut self.payloads, |_| MaybeUninit::uninit()),
        }
    }
}

impl<P, T, const N: usize> Default for StaticStorage<P, T, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A virtqueue, driver's side: chains of `P` go in with a token of type `T`, and both come back.
///
/// No operation blocks or allocates. A queue that is dropped without [`shutdown`](Self::shutdown) leaks its
/// ring and whatever is in flight, and never frees either under the device.
///
/// Aligned so that no other value shares its cache lines: two ends that are polled on two cores would slow
/// each other down several times.
#[repr(align(128))]
pub struct Queue<P, T> {
    pub(super) ring: Kind,
    state: State,
    in_flight: u16,
    size: u16,
    domain: Domain,
    metas: Store<Meta>,
    payloads: Store<MaybeUninit<Payload<P, T>>>,
    tables: Option<Tables>,
    memory: ManuallyDrop<RingMemory>,
}

pub(super) enum Kind {
    Split(split::AnyOrder),
    SplitInOrder(split::InOrder),
    Packed(packed::AnyOrder),
    PackedInOrder(packed::InOrder),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Broken(Broken),
    Stopped,
}

struct Tables {
    memory: ManuallyDrop<DmaBuf>,
    area: Area,
    base: u64,
    stride: usize,
    limits: Indirect,
}

// SAFETY: the areas point into arena memory that the queue owns; everything else is owned data, `Send` if
// tokens are (`Parts` is always).
unsafe impl<P: Send, T: Send> Send for Queue<P, T> {}
// SAFETY: shared access only reads private state and ring words, atomically.
unsafe impl<P: Sync, T: Sync> Sync for Queue<P, T> {}

/// Runs an operation on the ring, whichever it is.
macro_rules! with_ring {
    ($kind:expr, $ring:ident => $body:expr) => {
        match $kind {
            Kind::Split($ring) => $body,
            Kind::SplitInOrder($ring) => $body,
            Kind::Packed($ring) => $body,
            Kind::PackedInOrder($ring) => $body,
        }
    };
}

impl<P: Parts, T> Queue<P, T> {
    /// Makes a queue on fresh ring memory. Indirect tables are allocated from `arena`, which must be of the
    /// ring's domain.
    pub fn new(
        memory: RingMemory,
        storage: Storage<P, T>,
        options: Options,
        arena: &Arena,
    ) -> Result<Self, NewError> {
        let size = memory.size;
        let Storage { metas, links, payloads } = storage;
        if [metas.len(), links.len(), payloads.len()].iter().any(|&len| len != usize::from(size)) {
            return Err(NewError::StoreTooShort);
        }
        let tables = options.indirect.map(|limits| Tables::new(limits, size, arena)).transpose()?;
        let Options { in_order, event_idx, barriers, .. } = options;
        // SAFETY: the memory moves into the queue beside the areas, and outlives them: it is dropped only
        // after shutdown, with the queue, and leaked otherwise.
        let areas = unsafe { memory.areas() };
        let domain = memory.domain();
        // SAFETY: areas of this layout and size, and `links` was measured.
        let ring = unsafe {
            match (memory.packed, in_order) {
                (false, false) => Kind::Split(split::AnyOrder::new(areas, size, links, event_idx, barriers)),
                (false, true) => Kind::SplitInOrder(split::InOrder::new(areas, size, event_idx, barriers)),
                (true, false) => Kind::Packed(packed::AnyOrder::new(areas, size, links, event_idx, barriers)),
                (true, true) => Kind::PackedInOrder(packed::InOrder::new(areas, size, event_idx, barriers)),
            }
        };
        let memory = ManuallyDrop::new(memory);
        let state = State::Running;
        Ok(Self { ring, state, in_flight: 0, size, domain, metas, payloads, tables, memory })
    }

    /// Adds a chain, to be shown to the device by the next [`publish`](Self::publish).
    ///
    /// Never blocks, never allocates. On an error chain and token come back in it.
    #[inline]
    pub fn add_buf(&mut self, chain: Chain<P>, token: T) -> Result<(), AddError<P, T>> {
        let mut ring = Adding {
            metas: &mut self.metas,
            payloads: &mut self.payloads,
            in_flight: &mut self.in_flight,
            tables: &self.tables,
            domain: self.domain,
            size: self.size,
        };
        if self.state != State::Running {
            return Err(AddError { kind: self.not_running(), chain, token });
        }
        with_ring!(&mut self.ring, r => ring.add(r, chain, token))
    }

    /// Adds chains until `next` gives no more; how many. The layout is matched once for all of them.
    ///
    /// On an error the chain at which it happened comes back in it, and those before it stay added.
    #[inline]
    pub fn add_batch(
        &mut self,
        mut next: impl FnMut() -> Option<(Chain<P>, T)>,
    ) -> Result<usize, (usize, AddError<P, T>)> {
        let mut ring = Adding {
            metas: &mut self.metas,
            payloads: &mut self.payloads,
            in_flight: &mut self.in_flight,
            tables: &self.tables,
            domain: self.domain,
            size: self.size,
        };
        let mut added = 0;
        if self.state != State::Running {
            return match next() {
                Some((chain, token)) => Err((0, AddError { kind: self.not_running(), chain, token })),
                None => Ok(0),
            };
        }
        with_ring!(&mut self.ring, r => {
            while let Some((chain, token)) = next() {
                ring.add(r, chain, token).map_err(|e| (added, e))?;
                added += 1;
            }
        });
        Ok(added)
    }

    /// Shows the device what was added, once for all of it, and says whether it wants to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        with_ring!(&mut self.ring, r => r.publish())
    }

    /// The next chain that the device used, or `None`.
    #[inline]
    pub fn get_buf(&mut self) -> Result<Option<Used<P, T>>, Broken> {
        let mut taking =
            Taking { metas: &mut self.metas, payloads: &mut self.payloads, in_flight: &mut self.in_flight };
        let taken = match self.state {
            State::Running => with_ring!(&mut self.ring, r => taking.take(r)),
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Ok(None),
        };
        if let Err(broken) = taken {
            self.state = State::Broken(broken);
        }
        taken
    }

    /// Hands up to `max` used chains to `each`; how many there were. The layout is matched once for all.
    #[inline]
    pub fn get_batch(&mut self, max: usize, mut each: impl FnMut(Used<P, T>)) -> Result<usize, Broken> {
        let mut taking =
            Taking { metas: &mut self.metas, payloads: &mut self.payloads, in_flight: &mut self.in_flight };
        match self.state {
            State::Running => {}
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Ok(0),
        }
        let mut got = 0;
        let broken = with_ring!(&mut self.ring, r => loop {
            if got == max {
                return Ok(got);
            }
            match taking.take(r) {
                Ok(Some(used)) => each(used),
                Ok(None) => return Ok(got),
                Err(broken) => break broken,
            }
            got += 1;
        });
        self.state = State::Broken(broken);
        Err(broken)
    }

    /// Whether a used chain waits, or the queue's state does.
    pub fn has_used(&self) -> bool {
        match self.state {
            State::Running => with_ring!(&self.ring, r => r.has_used()),
            State::Broken(_) => true,
            State::Stopped => false,
        }
    }

    /// Asks the device not to notify of used chains. A hint: some may come all the same.
    pub fn disable_callbacks(&mut self) {
        with_ring!(&mut self.ring, r => r.disable_callbacks());
    }

    /// Asks the device to notify of the next used chain.
    ///
    /// `false`, and notifications stay off, if used chains wait already: take them first, then try again.
    /// So nothing can come in unnoticed between the last look and the sleep.
    pub fn restart(&mut self) -> bool {
        if self.state != State::Running {
            return false;
        }
        with_ring!(&mut self.ring, r => {
            let waiting = r.enable_callbacks();
            if waiting {
                r.disable_callbacks();
            }
            !waiting
        })
    }

    /// Hands back every chain in flight with its token, and stops the queue.
    ///
    /// What the iterator is not asked for stays in the queue, for another call.
    pub fn shutdown(&mut self, _: Quiesced) -> Shutdown<'_, P, T> {
        self.state = State::Stopped;
        Shutdown::new(self)
    }

    /// Makes a stopped and empty queue as good as new, for a device that has forgotten it (2.6.1.2).
    /// `false` if it is neither.
    pub fn revive(&mut self) -> bool {
        if self.state != State::Stopped || self.in_flight != 0 {
            return false;
        }
        self.memory.clear();
        with_ring!(&mut self.ring, r => r.reset());
        self.state = State::Running;
        true
    }

    /// The chain in slot `slot` of a stopped queue.
    pub(super) fn take_back(&mut self, slot: u16) -> Option<Payload<P, T>> {
        let meta = self.metas.get_mut(usize::from(slot))?;
        if self.state != State::Stopped || meta.descs == 0 {
            return None;
        }
        meta.descs = 0;
        self.in_flight -= 1;
        // SAFETY: `descs` was not 0, so the payload is initialised; now it is 0, so this is the only time.
        Some(unsafe { self.payloads[usize::from(slot)].assume_init_read() })
    }

    #[cold]
    fn not_running(&self) -> AddErrorKind {
        match self.state {
            State::Broken(broken) => AddErrorKind::Broken(broken),
            _ => AddErrorKind::Stopped,
        }
    }

    /// Where the ring stands.
    pub fn position(&self) -> Position {
        with_ring!(&self.ring, r => r.position())
    }

    /// Chains that can be added now if each takes `parts` ring descriptors: free descriptors.
    pub fn room(&self) -> u16 {
        with_ring!(&self.ring, r => r.room())
    }
}

impl<P, T> Queue<P, T> {
    /// Chains in flight.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Descriptors of the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether the layout is packed.
    pub fn is_packed(&self) -> bool {
        matches!(self.ring, Kind::Packed(_) | Kind::PackedInOrder(_))
    }

    /// The error that the queue is latched with, if any.
    pub fn broken(&self) -> Option<Broken> {
        match self.state {
            State::Broken(broken) => Some(broken),
            _ => None,
        }
    }

    /// Whether the queue was shut down.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// Where the device finds the ring.
    pub fn addrs(&self) -> RingAddrs {
        self.memory.addrs()
    }

    /// The domain whose buffers the queue takes.
    pub fn domain(&self) -> Domain {
        self.domain
    }
}

impl<P, T> Drop for Queue<P, T> {
    fn drop(&mut self) {
        if self.state == State::Stopped && self.in_flight == 0 {
            // SAFETY: the device has let go of the queue, and nothing uses the areas after this.
            unsafe {
                ManuallyDrop::drop(&mut self.memory);
                if let Some(tables) = &mut self.tables {
                    ManuallyDrop::drop(&mut tables.memory);
                }
            }
        }
    }
}

impl<P, T> fmt::Debug for Queue<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("size", &self.size)
            .field("packed", &self.is_packed())
            .field("in_flight", &self.in_flight)
            .field("broken", &self.broken())
            .finish_non_exhaustive()
    }
}

impl Tables {
    fn new(limits: Indirect, size: u16, arena: &Arena) -> Result<Self, NewError> {
        if !(2..=split_wire::MAX_SIZE).contains(&limits.max_parts) {
            return Err(NewError::BadIndirect);
        }
        let stride = size_of::<split_wire::Desc>() * usize::from(limits.max_parts);
        let memory = ManuallyDrop::new(arena.alloc(stride * usize::from(size))?);
        // SAFETY: aligned to at least 64 bytes; lives as long as the queue, or is leaked.
        let area = unsafe { Area::new(memory.as_ptr()) };
        Ok(Self { area, base: memory.device_addr().get(), memory, stride, limits })
    }
}

/// The parts of a queue that adding touches, borrowed apart from the ring.
struct Adding<'q, P, T> {
    metas: &'q mut Store<Meta>,
    payloads: &'q mut Store<MaybeUninit<Payload<P, T>>>,
    in_flight: &'q mut u16,
    tables: &'q Option<Tables>,
    domain: Domain,
    size: u16,
}

const _: () = assert!(split_wire::DESC_WRITE == packed_wire::DESC_WRITE);
const _: () = assert!(split_wire::DESC_INDIRECT == packed_wire::DESC_INDIRECT);

impl<P: Parts, T> Adding<'_, P, T> {
    #[inline(always)]
    fn add<R: Ring>(&mut self, ring: &mut R, chain: Chain<P>, token: T) -> Result<(), AddError<P, T>> {
        let count = chain.parts.count();
        let room = usize::from(ring.room());
        let direct_up_to = match self.tables {
            None => room,
            Some(tables) => room.min(tables.limits.direct_up_to.into()),
        };
        if count == 0 || count > direct_up_to {
            return self.add_indirect(ring, chain, token, count);
        }
        let mut cursor = ring.start();
        let mut writing = Writing::new(&chain, count, self.domain);
        chain.parts.visit(|buffer| {
            let (addr, len, flags, more) = writing.see(buffer);
            ring.put(&mut cursor, addr, len, flags, more);
        });
        match writing.writable() {
            Ok(writable) => {
                self.finish(ring, cursor, chain, token, writable, count as u16);
                Ok(())
            }
            Err(kind) => {
                ring.abandon(cursor);
                Err(AddError { kind, chain, token })
            }
        }
    }

    /// The ways of a chain that cannot go straight into the ring: through a table, or back.
    #[inline(never)]
    fn add_indirect<R: Ring>(
        &mut self,
        ring: &mut R,
        chain: Chain<P>,
        token: T,
        count: usize,
    ) -> Result<(), AddError<P, T>> {
        let most = self
            .tables
            .as_ref()
            .map_or(self.size, |t| t.limits.max_parts.max(t.limits.direct_up_to.min(self.size)));
        let kind = match self.tables {
            _ if count == 0 => AddErrorKind::NoBuffers,
            _ if count > usize::from(most) => AddErrorKind::TooLong,
            Some(tables) if count <= tables.limits.max_parts.into() && count > 1 && ring.room() > 0 => {
                let mut cursor = ring.start();
                let mut writing = Writing::new(&chain, count, self.domain);
                let offset = usize::from(cursor.slot) * tables.stride;
                let mut at = offset;
                let mut index = 0;
                chain.parts.visit(|buffer| {
                    let (addr, len, flags, more) = writing.see(buffer);
                    let second = R::table_word(len, flags & split_wire::DESC_WRITE != 0, index, more);
                    // SAFETY: `count` entries fit the slot's table, and `visit` shows no more.
                    unsafe {
                        tables.area.store64(at, addr, Relaxed);
                        tables.area.store64(at + 8, second, Relaxed);
                    }
                    at += 16;
                    index += 1;
                });
                match writing.writable() {
                    Ok(writable) => {
                        let addr = tables.base + offset as u64;
                        ring.put(&mut cursor, addr, count as u32 * 16, split_wire::DESC_INDIRECT, false);
                        self.finish(ring, cursor, chain, token, writable, 1);
                        return Ok(());
                    }
                    Err(kind) => kind,
                }
            }
            _ => AddErrorKind::Full,
        };
        Err(AddError { kind, chain, token })
    }

    #[inline(always)]
    fn finish<R: Ring>(
        &mut self,
        ring: &mut R,
        cursor: Cursor,
        chain: Chain<P>,
        token: T,
        writable: u32,
        descs: u16,
    ) {
        let slot = usize::from(cursor.slot);
        let last = cursor.last;
        ring.finish(cursor, descs);
        self.metas[slot] = Meta { writable, descs, last };
        self.payloads[slot].write(Payload { chain, token });
        *self.in_flight += 1;
    }
}

/// Goes through a chain's buffers once: checks them, and says what their descriptors hold.
struct Writing {
    domain: Domain,
    left: usize,
    readable: usize,
    write_from: usize,
    foreign: bool,
    empty: bool,
    total: u64,
    writable: u64,
}

impl Writing {
    #[inline(always)]
    fn new<P>(chain: &Chain<P>, count: usize, domain: Domain) -> Self {
        let readable = usize::from(chain.readable);
        Self {
            domain,
            left: count,
            readable,
            write_from: count.wrapping_sub(readable),
            foreign: false,
            empty: false,
            total: 0,
            writable: 0,
        }
    }

    /// Address, length, flags, and whether another buffer follows.
    #[inline(always)]
    fn see(&mut self, buffer: &DmaBuf) -> (u64, u32, u16, bool) {
        let len = buffer.len() as u32;
        // `left` counts down from `count`, so the writable part begins when it is `count - readable`.
        let write = self.left <= self.write_from;
        self.left = self.left.wrapping_sub(1);
        self.foreign |= buffer.domain() != self.domain;
        self.empty |= len == 0;
        self.total += u64::from(len);
        self.writable += if write { u64::from(len) } else { 0 };
        (buffer.device_addr().get(), len, if write { split_wire::DESC_WRITE } else { 0 }, self.left != 0)
    }

    /// The writable bytes, if every buffer was in order.
    #[inline(always)]
    fn writable(&self) -> Result<u32, AddErrorKind> {
        let split = self.write_from > usize::from(u16::MAX) && self.readable > 0;
        if !(self.foreign | self.empty | split | (self.total > u64::from(u32::MAX))) {
            return Ok(self.writable as u32);
        }
        Err(match () {
            _ if self.foreign => AddErrorKind::ForeignBuffer,
            _ if self.empty => AddErrorKind::EmptyBuffer,
            _ if split => AddErrorKind::BadSplit,
            _ => AddErrorKind::TooLong,
        })
    }
}

/// The parts of a queue that taking touches, borrowed apart from the ring.
struct Taking<'q, P, T> {
    metas: &'q mut Store<Meta>,
    payloads: &'q mut Store<MaybeUninit<Payload<P, T>>>,
    in_flight: &'q mut u16,
}

impl<P, T> Taking<'_, P, T> {
    #[inline(always)]
    fn take<R: Ring>(&mut self, ring: &mut R) -> Result<Option<Used<P, T>>, Broken> {
        let Some(used) = ring.next_used(self.metas, *self.in_flight)? else { return Ok(None) };
        let slot = usize::from(used.slot);
        let meta = self.metas[slot];
        if used.len > meta.writable {
            return Err(Broken::LengthTooLarge { reported: used.len, writable: meta.writable });
        }
        self.metas[slot].descs = 0;
        ring.release(used.slot, meta);
        *self.in_flight -= 1;
        // SAFETY: the ring vouches that `descs` was not 0, so the payload is initialised; now it is 0, so
        // this is the only time that it is read.
        let Payload { chain, token } = unsafe { self.payloads[slot].assume_init_read() };
        Ok(Some(Used { chain, token, written: used.len }))
    }
}
