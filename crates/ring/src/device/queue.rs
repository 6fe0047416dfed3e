//! The queue that devices use.

use super::chain::{Chain, Segment, Slot, SlotCell};
use super::error::{BadChain, NewError};
use super::packed::Packed;
use super::ring::{Quick, Ring};
use super::slots::{Any, Line, Slots};
use super::split::Split;
use super::storage::Storage;
use super::walk::{FEW, Walk};
use crate::mem::{Memory, Translation};
use crate::notify::Barriers;
use crate::store::Store;
use crate::words::Area;
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
    ring: Layout,
    order: Order,
    /// What slots are stamped with whose chains complete in the common way; 0, which none has, once the queue is
    /// stopped.
    stamp: usize,
    /// Chains are taken in the common way: the slots have the space for it, acquire order is enough, and the queue is
    /// neither broken nor stopped.
    quick: bool,
    in_flight: u16,
    recent: Translation,
    tables: Translation,
    slots: ManuallyDrop<Store<SlotCell>>,
    state: State,
    /// `stop` or `set_memory` published something that the driver wants to be notified of.
    owed: bool,
    limit: u16,
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

enum Layout {
    Split(Split),
    Packed(Packed),
}

/// The order in which chains are used.
enum Order {
    Any(Any),
    Line(Line),
}

/// How many epochs a stamp can tell apart. Two at most have chains in flight.
const EPOCHS: u8 = 64;
const _: () = assert!(align_of::<SlotCell>() >= EPOCHS as usize);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Broken(BadChain),
    Stopped,
}

macro_rules! with_ring {
    ($layout:expr, $ring:pat => $body:expr) => {
        match $layout {
            Layout::Split($ring) => $body,
            Layout::Packed($ring) => $body,
        }
    };
}

macro_rules! with_slots {
    ($order:expr, $slots:pat => $body:expr) => {
        match $order {
            Order::Any($slots) => $body,
            Order::Line($slots) => $body,
        }
    };
}

// Here, since they use the macros.
mod put_back;
mod serve;
mod take_again;

pub use serve::Server;

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
        let Storage { slots, order: waits, segments, limit } = storage;
        if slots.len() < size.into() || waits.len() < size.into() || limit == 0 {
            return Err(NewError::StoreTooShort);
        }
        let areas = areas(&config, addrs, rings.as_ref().unwrap_or(&memory))?;
        let all = &slots[..usize::from(size)];
        let order =
            if config.in_order { Order::Line(Line::new(all, waits)) } else { Order::Any(Any::new(all)) };
        let ring = Layout::new(areas, &config, position);
        let mut queue = Self {
            ring,
            order,
            stamp: 0,
            quick: limit.min(size) >= FEW && config.barriers == Barriers::Smp,
            in_flight: 0,
            recent: Translation::NONE,
            tables: Translation::NONE,
            slots: ManuallyDrop::new(slots),
            state: State::Running,
            owed: false,
            limit,
            epoch: 0,
            pinned: 0,
            memory: ManuallyDrop::new(memory),
            rings: ManuallyDrop::new(rings),
            old: ManuallyDrop::new(None),
            segments: ManuallyDrop::new(segments),
            config,
        };
        queue.stamp = queue.stamp();
        queue.stamp_idle();
        Ok(queue)
    }

    /// A number that no slot of another queue has, nor one of this queue's memory before: the slots' address, which is
    /// nobody else's for as long as one of them is in flight, with the epoch in the bits that are always 0.
    fn stamp(&self) -> usize {
        self.slots.as_ptr().addr() | usize::from(self.epoch)
    }

    /// Stamps the slots that no chain in flight is in. Those of the others are theirs.
    fn stamp_idle(&mut self) {
        let stamp = self.stamp();
        // SAFETY: slots of the table, which no chain has.
        with_slots!(&self.order, slots => slots.each_idle(|slot| unsafe { (*slot.as_ptr()).stamp = stamp }));
    }

    /// The next chain that the driver made available, or `None`.
    #[inline(always)]
    pub fn take(&mut self) -> Result<Option<Chain>, BadChain> {
        if self.quick
            && let Some(cell) = with_slots!(&self.order, slots => slots.next())
        {
            // SAFETY: a free slot, so no chain points to it.
            let slot = unsafe { &mut *cell.as_ptr() };
            // SAFETY: `quick` only if there is so much space.
            match with_ring!(&mut self.ring, ring => unsafe { ring.take_quickly(&self.recent, slot) }) {
                Quick::Taken => return Ok(Some(self.begin(cell))),
                Quick::Nothing => return Ok(None),
                Quick::Rare => {}
            }
        }
        self.take_otherwise()
    }

    /// Chains through tables or in several regions, and everything that is wrong.
    #[inline(never)]
    fn take_otherwise(&mut self) -> Result<Option<Chain>, BadChain> {
        match self.state {
            State::Running => {}
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Ok(None),
        }
        let Some(cell) = with_slots!(&self.order, slots => slots.next()) else { return self.none_free() };
        // SAFETY: a free slot, so no chain points to it.
        let slot = unsafe { &mut *cell.as_ptr() };
        let table_limit = self.limit.max(self.config.size);
        let mut walk =
            Walk::new(&self.memory, &mut self.recent, &mut self.tables, slot, self.limit, table_limit);
        let broken = match with_ring!(&mut self.ring, ring => ring.take(&mut walk)) {
            Ok(None) => return Ok(None),
            Ok(Some(taken)) => match walk.finish() {
                Ok(()) => {
                    (slot.id, slot.descs) = (taken.id, taken.descs);
                    return Ok(Some(self.begin(cell)));
                }
                Err(broken) => broken,
            },
            Err(broken) => broken,
        };
        self.latch(broken)
    }

    /// Hands out a slot that the chain's segments are in.
    #[inline(always)]
    fn begin(&mut self, cell: NonNull<Slot>) -> Chain {
        // SAFETY: a free slot, so no chain points to it.
        let slot = unsafe { &mut *cell.as_ptr() };
        slot.begin();
        with_slots!(&mut self.order, slots => slots.taken(slots.after(slot)));
        self.in_flight += 1;
        // The slot is from now on the chain's alone.
        Chain(cell)
    }

    #[cold]
    fn latch(&mut self, broken: BadChain) -> Result<Option<Chain>, BadChain> {
        (self.state, self.quick) = (State::Broken(broken), false);
        Err(broken)
    }

    /// Every slot is in flight, as many as the ring has descriptors, so nothing more can be available. If it is,
    /// the driver broke the rules; to call it nothing would let a device that takes until none waits do so for
    /// ever.
    #[cold]
    fn none_free(&mut self) -> Result<Option<Chain>, BadChain> {
        if !self.has_available() {
            return Ok(None);
        }
        self.latch(BadChain::Overrun)
    }

    /// Completes a chain: its used length is what was written to it. Shown to the driver by the next
    /// [`publish`](Self::publish); with IN_ORDER, when those taken before it are complete too. After
    /// [`stop`](Self::stop) it only frees the slot: the driver is not told.
    ///
    /// A chain of another queue comes back.
    #[inline(always)]
    pub fn complete(&mut self, chain: Chain) -> Result<(), Chain> {
        if chain.slot().stamp != self.stamp {
            return self.complete_otherwise(chain);
        }
        // By its stamp the slot is of this queue; it was the chain's, which is gone.
        self.in_flight -= 1;
        with_slots!(&mut self.order, slots => with_ring!(&mut self.ring, ring => slots.complete(chain.0, ring)));
        Ok(())
    }

    /// Chains of another queue, of the memory before, or of a queue that has stopped.
    #[cold]
    #[inline(never)]
    fn complete_otherwise(&mut self, mut chain: Chain) -> Result<(), Chain> {
        if !self.owns(&chain) {
            return Err(chain);
        }
        self.in_flight -= 1;
        self.renew(&mut chain);
        with_slots!(&mut self.order, slots => match self.state {
            State::Stopped => slots.release(chain.0),
            _ => with_ring!(&mut self.ring, ring => slots.complete(chain.0, ring)),
        });
        Ok(())
    }

    /// Whether the chain was taken from this queue.
    fn owns(&self, chain: &Chain) -> bool {
        chain.0.addr().get().wrapping_sub(self.slots.as_ptr().addr()) < size_of_val(&**self.slots)
    }

    /// Shows the driver what was completed, once for all of it, and says whether it wants to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let owed = core::mem::take(&mut self.owed);
        self.publish_now() | owed
    }

    #[inline(always)]
    fn publish_now(&mut self) -> bool {
        with_ring!(&mut self.ring, ring => {
            with_slots!(&mut self.order, slots => slots.flush(ring));
            ring.publish()
        })
    }

    /// Whether an available chain waits, or the queue's error does.
    pub fn has_available(&self) -> bool {
        match self.state {
            State::Running => with_ring!(&self.ring, ring => ring.has_available()),
            State::Broken(_) => true,
            State::Stopped => false,
        }
    }

    /// Asks the driver not to notify of available chains. A hint: some may come all the same.
    pub fn disable_notifications(&mut self) {
        with_ring!(&mut self.ring, ring => ring.disable_notifications());
    }

    /// Asks the driver to notify of the next available chain.
    ///
    /// `false`, and notifications stay off, if chains wait already: take them first, then try again.
    pub fn restart(&mut self) -> bool {
        if self.state != State::Running {
            return false;
        }
        with_ring!(&mut self.ring, ring => {
            let waiting = ring.enable_notifications();
            if waiting {
                ring.disable_notifications();
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
        let position = self.position();
        self.ring = Layout::new(areas, &self.config, position);
        self.pinned = self.in_flight;
        self.epoch = (self.epoch + 1) % EPOCHS;
        if self.state != State::Stopped {
            self.stamp = self.stamp();
        }
        self.stamp_idle();
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

    /// Lets go of the memory before, if the chain, which is about to end, is the last one in it.
    fn renew(&mut self, chain: &mut Chain) {
        let stamp = self.stamp();
        if core::mem::replace(&mut chain.slot_mut().stamp, stamp) != stamp {
            self.unpin();
        }
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
            (self.state, self.quick) = (State::Stopped, false);
            self.stamp = 0;
        }
        (self.position(), self.in_flight)
    }

    /// Where the ring stands.
    pub fn position(&self) -> Position {
        with_ring!(&self.ring, ring => ring.position())
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

impl Layout {
    /// `areas` must be of this layout and size, and stay mapped while the queue lives, as `areas` ensures.
    fn new(areas: [Area; 3], config: &Config, position: Position) -> Self {
        // SAFETY: areas of this layout and size; the queue holds the memory that they are in.
        unsafe {
            if config.packed {
                Self::Packed(Packed::new(areas, config, position))
            } else {
                Self::Split(Split::new(areas, config, position))
            }
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
