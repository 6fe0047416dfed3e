//! The memory that pairs of queues are put on.

use crate::memory::SharedMemory;
use crate::rng::Rng;
use crate::shape::{Shape, area_sizes};
use virtio_kit_ring::Arena;
use virtio_kit_ring::device::RingAddrs;
use virtio_kit_ring::mem::{HeapMemory, Memory, Region};

/// Where the memory is, for devices.
const BASE: u64 = 0x10_0000;

/// Memory for pairs of any shape, to be used by one after the other.
pub struct Ground {
    pub(crate) memory: SharedMemory,
    pub(crate) arena: Arena,
    pub(crate) foreign: Arena,
}

impl Ground {
    /// Allocates it.
    ///
    /// # Panics
    ///
    /// Without memory.
    #[allow(clippy::new_without_default, reason = "it takes megabytes")]
    pub fn new() -> Self {
        let memory = SharedMemory::new(BASE, 4 << 20);
        let arena = Arena::new(memory.clone()).expect("good memory");
        let foreign = Arena::new(HeapMemory::new(1 << 16).expect("memory")).expect("good memory");
        Self { memory, arena, foreign }
    }

    /// The arena that queues and buffers come from.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The memory that devices see.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }
}

/// The whole memory: in one region, or in two that meet near where buffers are allocated now. Rings may not lie
/// across the border, nor entries of tables, but buffers may.
pub(crate) fn regions(ground: &Ground, rng: &mut Rng, shape: Shape, ring: RingAddrs) -> Memory {
    let (start, end) = (ground.memory.start(), ground.memory.end());
    let near = ground.arena.alloc(64).expect("space for a buffer").device_addr().get();
    let cut = (near + 16 * rng.within(1, 40) as u64).min(end);
    let inside_ring = [ring.desc, ring.driver, ring.device]
        .into_iter()
        .zip(area_sizes(shape))
        .any(|(addr, len)| addr < cut && cut < addr + len as u64);
    let cut = if inside_ring || rng.one_in(3) { end } else { cut };
    let parts = [(start, cut), (cut, end)].into_iter().filter(|(from, to)| from < to);
    let regions = parts.map(|(from, to)| {
        let part = ground.memory.part((from - start) as usize, (to - from) as usize);
        Region::new(from, part).expect("a good region")
    });
    Memory::new(regions).expect("regions that only meet")
}
