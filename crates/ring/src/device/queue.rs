//! The queue that devices use.

use super::chain::{Chain, Segment, Slot, SlotCell};
use super::error::{BadChain, NewError};
use super::packed::Packed;
use super::ring::{Quick, Ring, Taken, UsedEntry};
use super::split::Split;
use super::storage::Storage;
use super::walk::{Pass, Walk};
use crate::mem::{Memory, Translation};
use crate::notify::Barriers;
use crate::store::Store;
use crate::words::{Area, rare};
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;
use virtio_kit_spec::{packed as packed_wire, split as split_wire};

pub use crate::driver::Position;

/// What a queue was negotiated and configured to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Descriptors of the ring: a power of two for a split ring, at most 32768.
    pub size: u16,
    /// The layout is packed (RING_PACKED).
    pub packed: bool,
    /// Chains are used in the order in which they were made available (IN_ORDER).
    pub in_order: bool,
    /// Notifications are bounded by event indices (EVENT_IDX).
    pub event_idx: bool,
    /// The driver may use indirect tables (INDIRECT_DESC).
    pub indirect: bool,
    /// The barriers that the driver needs.
    pub barriers: Barriers,
    /// Where to start: all 0 (with both wrap counters 1 for a packed ring) after a reset.
    pub position: Position,
}

impl Config {
    /// A queue as it is after a reset, of the given layout and size.
    pub fn fresh(packed: bool, size: u16) -> Self {
        Self { size, packed, position: Position::fresh(packed), ..Self::default() }
    }
}

impl Position {
    /// The position of a new queue: 0, with both wrap counters 1 in a packed ring (2.8.1).
    pub fn fresh(packed: bool) -> Self {
        Self { next: 0, next_wrap: packed, used: 0, used_wrap: packed }
    }
}

/// Addresses of a queue's three areas, as the transport was told them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddrs {
    /// Descriptor table or packed descriptor ring.
    pub desc: u64,
    /// Driver area: available ring, or driver event suppression.
    pub driver: u64,
    /// Device area: used ring, or device event suppression.
    pub device: u64,
}

/// A virtqueue, device's side.
///
/// No operation blocks or allocates. A queue that is dropped while chains are out leaks what they point to,
/// so a chain is valid for as long as it is held.
///
/// Aligned so that no other value shares its cache lines.
#[repr(align(128))]
pub struct Queue {
    ring: Kind,
    state: State,
    /// `stop` or `set_memory` published something that the driver wants to be notified of.
    owed: bool,
    in_flight: u16,
    recent: Translation,
    tables: Translation,
    order: Order,
    slots: ManuallyDrop<Store<SlotCell>>,
    /// Any order: indices of free slots. In order: whether a slot is complete and waits for those before it.
    marks: Store<u16>,
    limit: u16,
    /// Most direct descriptors of a chain: no more than that, or than the ring has.
    direct_limit: u16,
    epoch: u8,
    /// Chains of the memory before this one that are still in flight.
    pinned: u16,
    memory: ManuallyDrop<Memory>,
    /// Where the ring is, if in other regions than the chains.
    rings: ManuallyDrop<Option<Memory>>,
    old: ManuallyDrop<Option<Memory>>,
    segments: ManuallyDrop<Store<MaybeUninit<Segment>>>,
    config: Config,
}

enum Kind {
    Split(Split),
    Packed(Packed),
}

/// Which slot comes next.
enum Order {
    /// Any free one: the last that became free. The field counts those in `marks`.
    Any(u16),
    /// One after the other: `next` to be taken, `oldest` to be used.
    Ring { next: u16, oldest: u16, occupied: u16, batch: Batch },
}

/// Used chains that go into the ring as one entry (2.7.9, 2.8.8): all but the last were filled completely.
#[derive(Clone, Copy, Default)]
struct Batch {
    last: Option<UsedEntry>,
    full: bool,
    chains: u16,
    descs: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Broken(BadChain),
    Stopped,
}

macro_rules! with_ring {
    ($kind:expr, $ring:ident => $body:expr) => {
        match $kind {
            Kind::Split($ring) => $body,
            Kind::Packed($ring) => $body,
        }
    };
}

// Here, since it uses the macro.
mod put_back;
mod take_again;

// SAFETY: areas and slots point into memory that the queue owns or keeps mapped.
unsafe impl Send for Queue {}
// SAFETY: shared access only reads private state and ring words, atomically.
unsafe impl Sync for Queue {}

impl Queue {
    /// Makes a queue over a ring in the driver's memory.
    ///
    /// `rings` is where ring addresses are looked up, if that is another address space than descriptors' (as
    /// in vhost-user).
    pub fn new(
        config: Config,
        addrs: RingAddrs,
        memory: Memory,
        rings: Option<Memory>,
        storage: Storage,
    ) -> Result<Self, NewError> {
        let Config { size, packed, position, .. } = config;
        if size == 0 || size > split_wire::MAX_SIZE || (!packed && !size.is_power_of_two()) {
            return Err(NewError::BadSize(size));
        }
        if !position.is_of(packed, size) {
            return Err(NewError::BadPosition);
        }
        let Storage { slots, order: mut marks, segments, limit } = storage;
        if slots.len() < size.into() || marks.len() < size.into() || limit == 0 {
            return Err(NewError::StoreTooShort);
        }
        let in_order = config.in_order;
        marks.iter_mut().zip(0..).for_each(|(mark, i)| *mark = if in_order { 0 } else { i });
        let ring = Kind::new(&config, position, areas(&config, addrs, rings.as_ref().unwrap_or(&memory))?);
        let order = if config.in_order {
            Order::Ring { next: 0, oldest: 0, occupied: 0, batch: Batch::default() }
        } else {
            Order::Any(size)
        };
        Ok(Self {
            ring,
            state: State::Running,
            owed: false,
            in_flight: 0,
            recent: Translation::NONE,
            tables: Translation::NONE,
            order,
            slots: ManuallyDrop::new(slots),
            marks,
            limit,
            direct_limit: limit.min(size),
            epoch: 0,
            pinned: 0,
            memory: ManuallyDrop::new(memory),
            rings: ManuallyDrop::new(rings),
            old: ManuallyDrop::new(None),
            segments: ManuallyDrop::new(segments),
            config,
        })
    }

    /// The next chain that the driver made available, or `None`.
    #[inline(always)]
    pub fn take(&mut self) -> Result<Option<Chain>, BadChain> {
        if self.state == State::Running
            && let Some(index) = self.free_slot()
        {
            let cell = self.cell(index);
            // SAFETY: a free slot, so no chain points to it.
            let slot = unsafe { &mut *cell.as_ptr() };
            let pass = Pass::new(self.recent, slot, self.direct_limit);
            match with_ring!(&mut self.ring, r => r.take_quickly(pass, slot)) {
                Quick::Taken(taken) => return Ok(Some(self.begin(cell, &taken))),
                Quick::Nothing => return Ok(None),
                Quick::Rare => {}
            }
        }
        self.take_otherwise()
    }

    /// The slot of a number that `free_slot` gave.
    #[inline(always)]
    fn cell(&self, index: u16) -> NonNull<Slot> {
        debug_assert!(usize::from(index) < self.slots.len());
        // SAFETY: numbers of slots are below the queue's size, and there are as many slots; a cell's content is
        // not null.
        unsafe { NonNull::new_unchecked(self.slots.get_unchecked(usize::from(index)).0.get()) }
    }

    /// The slot that the next chain goes into.
    #[inline(always)]
    fn free_slot(&self) -> Option<u16> {
        match &self.order {
            Order::Any(0) => None,
            Order::Any(free) => {
                debug_assert!(usize::from(*free) <= self.marks.len());
                // SAFETY: at most as many are free as the queue has slots, and there is a mark for each.
                Some(unsafe { *self.marks.get_unchecked(usize::from(*free - 1)) })
            }
            Order::Ring { occupied, .. } if *occupied == self.config.size => None,
            Order::Ring { next, .. } => Some(*next),
        }
    }

    /// Chains through tables or in several regions, and everything that is wrong.
    #[inline(never)]
    fn take_otherwise(&mut self) -> Result<Option<Chain>, BadChain> {
        match self.state {
            State::Running => {}
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Ok(None),
        }
        let Some(index) = self.free_slot() else { return self.none_free() };
        let cell = self.cell(index);
        // SAFETY: a free slot, so no chain points to it.
        let slot = unsafe { &mut *cell.as_ptr() };
        let mut walk = Walk::new(
            &self.memory,
            &mut self.recent,
            &mut self.tables,
            slot,
            self.limit,
            self.limit.max(self.config.size),
        );
        let broken = match with_ring!(&mut self.ring, r => r.take(&mut walk)) {
            Ok(None) => return Ok(None),
            Ok(Some(taken)) => match walk.finish() {
                Ok(()) => return Ok(Some(self.begin(cell, &taken))),
                Err(broken) => broken,
            },
            Err(broken) => broken,
        };
        self.state = State::Broken(broken);
        Err(broken)
    }

    /// Hands out a slot that the chain's segments are in.
    #[inline(always)]
    fn begin(&mut self, cell: NonNull<Slot>, taken: &Taken) -> Chain {
        // SAFETY: a free slot, so no chain points to it.
        unsafe { &mut *cell.as_ptr() }.begin(taken.id, taken.descs, self.epoch);
        match &mut self.order {
            Order::Any(free) => *free -= 1,
            Order::Ring { next, occupied, .. } => {
                *next = after(*next, self.config.size);
                *occupied += 1;
            }
        }
        self.in_flight += 1;
        // The slot is from now on the chain's alone.
        Chain(cell)
    }

    /// Every slot is in flight, as many as the ring has descriptors, so nothing more can be available. If it is,
    /// the driver broke the rules; to call it nothing would let a device that takes until none waits do so for
    /// ever.
    #[cold]
    fn none_free(&mut self) -> Result<Option<Chain>, BadChain> {
        if !self.has_available() {
            return Ok(None);
        }
        self.state = State::Broken(BadChain::Overrun);
        Err(BadChain::Overrun)
    }

    /// Completes a chain: its used length is what was written to it. Shown to the driver by the next
    /// [`publish`](Self::publish); with IN_ORDER, when those taken before it are complete too. After
    /// [`stop`](Self::stop) it only frees the slot: the driver is not told.
    ///
    /// A chain of another queue comes back.
    #[inline(always)]
    pub fn complete(&mut self, chain: Chain) -> Result<(), Chain> {
        let first = self.slots.as_ptr() as usize;
        let offset = (chain.0.as_ptr() as usize).wrapping_sub(first);
        let index = offset / size_of::<SlotCell>();
        if index >= self.slots.len() {
            return Err(chain);
        }
        let slot = chain.0;
        // SAFETY: the chain owned the slot, which is of this queue, and is gone.
        let slot = unsafe { &mut *slot.as_ptr() };
        self.in_flight -= 1;
        if slot.epoch != self.epoch {
            self.unpin();
        }
        match &mut self.order {
            Order::Any(free) => {
                self.marks[usize::from(*free)] = index as u16;
                *free += 1;
                if self.state != State::Stopped {
                    let (entry, descs) = (slot.entry(), slot.descs);
                    with_ring!(&mut self.ring, r => r.put_used(entry, 1, descs));
                }
            }
            Order::Ring { oldest, occupied, batch, .. } => {
                if self.state == State::Stopped || index != usize::from(*oldest) {
                    // Not its turn: it waits.
                    self.marks[index] = 1;
                    return Ok(());
                }
                // It goes out, and with it everything after it that is complete, one entry for as many as can be.
                with_ring!(&mut self.ring, r => {
                    let mut slot = &*slot;
                    loop {
                        batch.add(slot.entry(), slot.descs, slot.written == slot.write_len, r);
                        *oldest = after(*oldest, self.config.size);
                        *occupied -= 1;
                        if core::mem::take(&mut self.marks[usize::from(*oldest)]) == 0 {
                            break;
                        }
                        // SAFETY: complete, so its chain is gone.
                        slot = unsafe { &*self.slots[usize::from(*oldest)].0.get() };
                    }
                });
            }
        }
        Ok(())
    }

    /// Shows the driver what was completed, once for all of it, and says whether it wants to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let owed = core::mem::take(&mut self.owed);
        self.publish_now() | owed
    }

    #[inline(always)]
    fn publish_now(&mut self) -> bool {
        if let Order::Ring { batch, .. } = &mut self.order {
            with_ring!(&mut self.ring, r => batch.flush(r));
        }
        with_ring!(&mut self.ring, r => r.publish())
    }

    /// Whether an available chain waits, or the queue's error does.
    pub fn has_available(&self) -> bool {
        match self.state {
            State::Running => with_ring!(&self.ring, r => r.has_available()),
            State::Broken(_) => true,
            State::Stopped => false,
        }
    }

    /// Asks the driver not to notify of available chains. A hint: some may come all the same.
    pub fn disable_notifications(&mut self) {
        with_ring!(&mut self.ring, r => r.disable_notifications());
    }

    /// Asks the driver to notify of the next available chain.
    ///
    /// `false`, and notifications stay off, if chains wait already: take them first, then try again.
    pub fn restart(&mut self) -> bool {
        if self.state != State::Running {
            return false;
        }
        with_ring!(&mut self.ring, r => {
            let waiting = r.enable_notifications();
            if waiting {
                r.disable_notifications();
            }
            !waiting
        })
    }

    /// Moves the queue to a changed set of regions. Chains in flight keep the old one mapped. What was completed
    /// is published; the next [`publish`](Self::publish) says whether the driver wants to be notified of it.
    ///
    /// Fails, with nothing changed, while chains of the memory before are still in flight.
    pub fn set_memory(
        &mut self,
        addrs: RingAddrs,
        memory: Memory,
        rings: Option<Memory>,
    ) -> Result<(), NewError> {
        if self.pinned != 0 {
            return Err(NewError::Busy);
        }
        let areas = areas(&self.config, addrs, rings.as_ref().unwrap_or(&memory))?;
        self.owed |= self.publish_now();
        self.ring = Kind::new(&self.config, self.position(), areas);
        self.pinned = self.in_flight;
        self.epoch = self.epoch.wrapping_add(1);
        (self.recent, self.tables) = (Translation::NONE, Translation::NONE);
        let old = core::mem::replace(&mut *self.memory, memory);
        if self.pinned != 0 {
            // There was none, or `pinned` would not have been 0.
            *self.old = Some(old);
        }
        // Last: undoing a mapping may panic.
        *self.rings = rings;
        Ok(())
    }

    /// Whether chains in flight still use a set of regions that was replaced.
    pub fn uses_old_memory(&self) -> bool {
        self.pinned != 0
    }

    #[cold]
    fn unpin(&mut self) {
        self.pinned -= 1;
        if self.pinned == 0 {
            *self.old = None;
        }
    }

    /// Stops the queue: it yields nothing more, and publishes what was completed and then nothing more. Returns
    /// where it stands, with how many chains are in flight; `next` counts these as taken. One more
    /// [`publish`](Self::publish) says whether the driver wants to be notified of what was published here.
    pub fn stop(&mut self) -> (Position, u16) {
        self.owed |= self.publish_now();
        if self.state == State::Running {
            self.state = State::Stopped;
        }
        (self.position(), self.in_flight)
    }

    /// Where the ring stands.
    pub fn position(&self) -> Position {
        with_ring!(&self.ring, r => r.position())
    }

    /// Chains taken and not completed.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// What the queue was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The error that the queue is latched with, if any.
    pub fn broken(&self) -> Option<BadChain> {
        match self.state {
            State::Broken(broken) => Some(broken),
            _ => None,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            // SAFETY: no chain points to slots, segments or memory, and nothing uses them after this.
            unsafe {
                ManuallyDrop::drop(&mut self.slots);
                ManuallyDrop::drop(&mut self.segments);
                ManuallyDrop::drop(&mut self.memory);
                ManuallyDrop::drop(&mut self.rings);
                ManuallyDrop::drop(&mut self.old);
            }
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("config", &self.config)
            .field("in_flight", &self.in_flight)
            .field("broken", &self.broken())
            .finish_non_exhaustive()
    }
}

impl Kind {
    /// `areas` must be of this layout and size, and stay mapped while the queue lives, as `areas` ensures.
    fn new(config: &Config, position: Position, areas: [Area; 3]) -> Self {
        let Config { size, packed, event_idx, indirect, barriers, .. } = *config;
        // SAFETY: areas of this layout and size; the queue holds the memory that they are in.
        unsafe {
            if packed {
                Self::Packed(Packed::new(areas, size, position, (event_idx, indirect), barriers))
            } else {
                Self::Split(Split::new(areas, size, position, (event_idx, indirect), barriers))
            }
        }
    }
}

impl Slot {
    #[inline(always)]
    fn entry(&self) -> UsedEntry {
        UsedEntry { id: self.id, written: self.written, writable: self.write_len != 0 }
    }
}

impl Batch {
    /// Adds the next used chain: to the entry at hand if everything in that was filled, else to a new one.
    #[inline(always)]
    fn add(&mut self, entry: UsedEntry, descs: u16, full: bool, ring: &mut impl Ring) {
        if !self.full {
            self.flush(ring);
        }
        self.last = Some(entry);
        self.full = full;
        self.chains += 1;
        self.descs += descs;
    }

    #[inline(always)]
    fn flush(&mut self, ring: &mut impl Ring) {
        if let Some(entry) = self.last {
            ring.put_used(entry, self.chains, self.descs);
            *self = Self::default();
        }
    }
}

impl Position {
    /// Whether a queue of this layout and size can stand here.
    fn is_of(&self, packed: bool, size: u16) -> bool {
        if !packed {
            return self.next.wrapping_sub(self.used) <= size;
        }
        let inside = self.next < size && self.used < size;
        let ordered =
            if self.next_wrap == self.used_wrap { self.next >= self.used } else { self.next <= self.used };
        inside && ordered
    }
}

#[inline(always)]
fn after(index: u16, size: u16) -> u16 {
    if index + 1 == size {
        rare();
        return 0;
    }
    index + 1
}

/// The three areas of a ring, each in one region and aligned (2.7, 2.8.10.1).
fn areas(config: &Config, addrs: RingAddrs, memory: &Memory) -> Result<[Area; 3], NewError> {
    let n = config.size;
    let shapes = if config.packed {
        use packed_wire::{DESC_ALIGN, EVENT_ALIGN, EVENT_SIZE, desc_size};
        [(desc_size(n), DESC_ALIGN), (EVENT_SIZE, EVENT_ALIGN), (EVENT_SIZE, EVENT_ALIGN)]
    } else {
        use split_wire::{DESC_ALIGN, DEVICE_ALIGN, DRIVER_ALIGN, desc_size, device_size, driver_size};
        [(desc_size(n), DESC_ALIGN), (driver_size(n), DRIVER_ALIGN), (device_size(n), DEVICE_ALIGN)]
    };
    let find = |addr: u64, (len, align): (usize, usize)| {
        let host =
            memory.contiguous(addr, len as u64).filter(|h| (h.as_ptr() as usize).is_multiple_of(align));
        // SAFETY: mapped for the whole length and aligned; the queue keeps the memory.
        host.map(|h| unsafe { Area::new(h) }).ok_or(NewError::BadArea { addr })
    };
    Ok([find(addrs.desc, shapes[0])?, find(addrs.driver, shapes[1])?, find(addrs.device, shapes[2])?])
}
