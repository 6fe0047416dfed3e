//! The queue that drivers use.

use super::add::{Adding, Home, Place, Placed, Tables};
use super::error::{AddError, AddErrorKind, BatchError, Broken, NewError};
use super::memory::{RingAddrs, RingMemory};
use super::ring::{Found, Meta, Ring, UsedSlot};
use super::shutdown::{Quiesced, Shutdown};
use super::storage::{Payload, Storage};
use super::take::Taking;
use super::{packed, split};
use crate::chain::AnyChain;
use crate::mem::{Arena, Domain};
use crate::notify::Barriers;
use crate::store::Store;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};

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
    /// But not if fewer descriptors than this would be left: then they use tables too, so that more of them fit.
    pub keep_free: u16,
}

/// A chain that the device used.
#[derive(Debug)]
pub struct Used<C, T> {
    /// The buffers.
    pub chain: C,
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

/// A virtqueue, driver's side: chains `C` go in with a token of type `T`, and both come back.
///
/// No operation blocks or allocates. A queue that is dropped without [`shutdown`](Self::shutdown) leaks its
/// ring and whatever is in flight, and never frees either under the device.
///
/// Aligned so that no other value shares its cache lines: two ends that are polled on two cores would slow
/// each other down several times.
#[repr(align(128))]
pub struct Queue<C, T> {
    pub(super) ring: Kind,
    state: State,
    in_flight: u16,
    size: u16,
    home: Home,
    direct_up_to: u16,
    keep_free: u16,
    metas: Store<Meta>,
    payloads: Store<MaybeUninit<Payload<C, T>>>,
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

// SAFETY: the areas point into arena memory that the queue owns; everything else is owned data, `Send` if
// tokens are (`Parts` is always).
unsafe impl<C: Send, T: Send> Send for Queue<C, T> {}
// SAFETY: shared access only reads private state and ring words, atomically.
unsafe impl<C: Sync, T: Sync> Sync for Queue<C, T> {}

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

/// The parts of a queue that adding touches.
macro_rules! adding {
    ($queue:expr) => {
        Adding {
            metas: &mut $queue.metas,
            payloads: &mut $queue.payloads,
            in_flight: &mut $queue.in_flight,
            tables: &$queue.tables,
            direct_up_to: $queue.direct_up_to,
            keep_free: $queue.keep_free,
            home: $queue.home,
            size: $queue.size,
        }
    };
}

impl<C: AnyChain, T> Queue<C, T> {
    /// Makes a queue on fresh ring memory. Indirect tables are allocated from `arena`, which must be of the
    /// ring's domain.
    pub fn new(
        memory: RingMemory,
        storage: Storage<C, T>,
        options: Options,
        arena: &Arena,
    ) -> Result<Self, NewError> {
        let size = memory.size;
        let Storage { mut metas, links, payloads } = storage;
        if [metas.len(), links.len(), payloads.len()].iter().any(|&len| len != usize::from(size)) {
            return Err(NewError::StoreTooShort);
        }
        if options.indirect.is_some() && arena.domain() != memory.domain() {
            return Err(NewError::ForeignArena);
        }
        let tables = options.indirect.map(|limits| Tables::new(limits, size, arena)).transpose()?;
        let Options { in_order, event_idx, barriers, .. } = options;
        // SAFETY: the memory moves into the queue beside the areas, and outlives them: it is dropped only
        // after shutdown, with the queue, and leaked otherwise.
        let areas = unsafe { memory.areas() };
        let home = memory.home();
        let (direct_up_to, keep_free) = options.indirect.map_or((size, 0), |i| (i.direct_up_to, i.keep_free));
        // SAFETY: areas of this layout and size, and `links` was measured.
        let mut ring = unsafe {
            match (memory.packed, in_order) {
                (false, false) => Kind::Split(split::AnyOrder::new(areas, size, links, event_idx, barriers)),
                (false, true) => Kind::SplitInOrder(split::InOrder::new(areas, size, event_idx, barriers)),
                (true, false) => Kind::Packed(packed::AnyOrder::new(areas, size, event_idx, barriers)),
                (true, true) => Kind::PackedInOrder(packed::InOrder::new(areas, size, event_idx, barriers)),
            }
        };
        with_ring!(&mut ring, r => r.reset(&mut metas));
        let memory = ManuallyDrop::new(memory);
        let state = State::Running;
        Ok(Self {
            ring,
            state,
            in_flight: 0,
            size,
            home,
            direct_up_to,
            keep_free,
            metas,
            payloads,
            tables,
            memory,
        })
    }

    /// Adds a chain, to be shown to the device by the next [`publish`](Self::publish).
    ///
    /// Never blocks, never allocates. On an error chain and token come back in it.
    #[inline]
    pub fn add_buf(&mut self, chain: C, token: T) -> Result<(), AddError<C, T>> {
        if self.state != State::Running {
            return Err(AddError { kind: self.not_running(), chain, token });
        }
        let mut adding = adding!(self);
        with_ring!(&mut self.ring, r => adding.add(r, chain, token))
    }

    /// Adds chains until `fill` puts none into its [`Place`], or the ring has no descriptor left; how many.
    ///
    /// The layout is matched once for all of them, and each is built where it stays:
    ///
    /// ```
    /// # fn f(queue: &mut virtio_kit_ring::driver::Queue<virtio_kit_ring::Chain<virtio_kit_ring::DmaBuf>, u64>,
    /// #     frames: &mut Vec<virtio_kit_ring::DmaBuf>) {
    /// use virtio_kit_ring::Chain;
    /// let added = queue.add_batch(|place| Some(place.put(Chain::readable(frames.pop()?), 7)));
    /// # }
    /// ```
    ///
    /// On an error the chain at which it happened comes back in it, and those before it stay added.
    #[inline]
    pub fn add_batch(
        &mut self,
        mut fill: impl for<'p> FnMut(Place<'p, C, T>) -> Option<Placed<'p>>,
    ) -> Result<usize, BatchError<C, T>> {
        if self.state != State::Running {
            return Err(BatchError { added: 0, kind: self.not_running(), refused: None });
        }
        let mut adding = adding!(self);
        let mut added = 0;
        with_ring!(&mut self.ring, r => loop {
            match adding.fill(r, &mut fill) {
                Ok(true) => added += 1,
                Ok(false) => return Ok(added),
                Err(e) => return Err(e.in_batch(added)),
            }
        })
    }

    /// Shows the device what was added, once for all of it, and says whether it wants to be notified.
    ///
    /// Nothing is shown once the queue is broken or shut down: its buffers may have been handed back.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.state != State::Running {
            return false;
        }
        with_ring!(&mut self.ring, r => r.publish())
    }

    /// The next chain that the device used, or `None`.
    #[inline]
    pub fn get_buf(&mut self) -> Result<Option<Used<C, T>>, Broken> {
        let mut taking =
            Taking { metas: &mut self.metas, payloads: &mut self.payloads, in_flight: &mut self.in_flight };
        match self.state {
            State::Running => {}
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Ok(None),
        }
        let mut used = UsedSlot::default();
        match with_ring!(&mut self.ring, r => taking.find(r, &mut used)) {
            Found::Nothing => Ok(None),
            // SAFETY: just found.
            Found::One => Ok(Some(unsafe { taking.used(&used) })),
            Found::Broken => Err(self.latch(used)),
        }
    }

    /// Hands up to `max` used chains to `each`; how many there were. The layout is matched once for all.
    #[inline]
    pub fn get_batch(&mut self, max: usize, mut each: impl FnMut(Used<C, T>)) -> Result<usize, Broken> {
        let mut taking =
            Taking { metas: &mut self.metas, payloads: &mut self.payloads, in_flight: &mut self.in_flight };
        match self.state {
            State::Running => {}
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Ok(0),
        }
        let mut got = 0;
        let mut used = UsedSlot::default();
        let found = with_ring!(&mut self.ring, r => loop {
            if got == max {
                return Ok(got);
            }
            let found = taking.find(r, &mut used);
            if found != Found::One {
                break found;
            }
            // SAFETY: just found.
            each(unsafe { taking.used(&used) });
            got += 1;
        });
        if found == Found::Broken {
            return Err(self.latch(used));
        }
        Ok(got)
    }

    #[cold]
    fn latch(&mut self, used: UsedSlot) -> Broken {
        let broken = used.broken.unwrap_or(Broken::NotInFlight { id: used.slot.into() });
        self.state = State::Broken(broken);
        broken
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
    pub fn shutdown(&mut self, _: Quiesced) -> Shutdown<'_, C, T> {
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
        with_ring!(&mut self.ring, r => r.reset(&mut self.metas));
        self.state = State::Running;
        true
    }

    /// The chain in slot `slot` of a stopped queue.
    pub(super) fn take_back(&mut self, slot: u16) -> Option<Payload<C, T>> {
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

impl<C, T> Queue<C, T> {
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
        self.home.domain
    }
}

impl<C, T> Drop for Queue<C, T> {
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

impl<C, T> fmt::Debug for Queue<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("size", &self.size)
            .field("packed", &self.is_packed())
            .field("in_flight", &self.in_flight)
            .field("broken", &self.broken())
            .finish_non_exhaustive()
    }
}
