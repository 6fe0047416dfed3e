//! The cheapest correct other side for each end under test: a device that completes whatever a driver made available,
//! and a driver that feeds a device. With raw pointers, so that nearly all of a loop's cost is what is measured.

use std::hint::black_box;
use std::sync::atomic::{AtomicU16, Ordering, fence};

const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const PACKED_AVAIL: u16 = 1 << 7;
const PACKED_USED: u16 = 1 << 15;

#[repr(C, align(16))]
#[derive(Clone, Copy, Default)]
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[repr(C, align(16))]
#[derive(Clone, Copy, Default)]
struct PackedDesc {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

/// Where a ring's parts are, as addresses of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring {
    /// Descriptors.
    pub desc: u64,
    /// The driver's area.
    pub driver: u64,
    /// The device's area.
    pub device: u64,
}

/// A word that both ends use.
///
/// # Safety
///
/// `p` must point to an aligned, live word.
#[inline(always)]
unsafe fn atomic<'a>(p: *mut u16) -> &'a AtomicU16 {
    // SAFETY: the caller's promise.
    unsafe { AtomicU16::from_ptr(p) }
}

/// A device on a ring of 256 that completes in order without looking at the buffers, or (with `status`) after writing
/// a zero to the first byte of the last buffer of each chain, as a block device does.
pub enum Device {
    /// On a split ring.
    Split(SplitDevice),
    /// On a packed ring.
    Packed(PackedDevice),
}

impl Device {
    /// Chains of a packed ring have `chain` descriptors.
    pub fn new(packed: bool, ring: Ring, size: u16, chain: u16, status: bool) -> Self {
        if packed {
            Self::Packed(PackedDevice {
                desc: ring.desc as *mut PackedDesc,
                size,
                chain,
                at: 0,
                wrap: true,
                status,
            })
        } else {
            Self::Split(SplitDevice::new(ring, size, status))
        }
    }

    /// Completes everything available with a used length of `len`; how many that were.
    ///
    /// # Safety
    ///
    /// The ring must be live, and a valid one, with chains of the length that the device was made for.
    #[inline(always)]
    pub unsafe fn complete_all(&mut self, len: u32) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Split(device) => device.complete_all(len),
                Self::Packed(device) => device.complete_all(len),
            }
        }
    }
}

/// On a split ring.
pub struct SplitDevice {
    desc: *const Desc,
    avail: *mut u16,
    used: *mut u16,
    size: u16,
    at: u16,
    /// A status is written.
    pub status: bool,
}

impl SplitDevice {
    /// On a fresh ring.
    pub fn new(ring: Ring, size: u16, status: bool) -> Self {
        let Ring { desc, driver, device } = ring;
        Self {
            desc: desc as *const Desc,
            avail: driver as *mut u16,
            used: device as *mut u16,
            size,
            at: 0,
            status,
        }
    }

    /// Completes everything available.
    ///
    /// # Safety
    ///
    /// As [`Device::complete_all`].
    #[inline(always)]
    pub unsafe fn complete_all(&mut self, len: u32) -> usize {
        // SAFETY: the ring is live and valid, so indices below its size are inside, and chains end.
        unsafe {
            let index = atomic(self.avail.add(1)).load(Ordering::Acquire);
            let count = index.wrapping_sub(self.at);
            let used = self.used.add(2).cast::<[u32; 2]>();
            while self.at != index {
                let slot = usize::from(self.at & (self.size - 1));
                let head = self.avail.add(2 + slot).read_volatile();
                if self.status {
                    let mut table = self.desc;
                    let mut desc = *table.add(usize::from(head));
                    if desc.flags & INDIRECT != 0 {
                        table = desc.addr as *const Desc;
                        desc = *table;
                    }
                    while desc.flags & NEXT != 0 {
                        desc = *table.add(usize::from(desc.next));
                    }
                    (desc.addr as *mut u8).write_volatile(0);
                }
                used.add(slot).write_volatile([head.into(), len]);
                self.at = self.at.wrapping_add(1);
            }
            atomic(self.used.add(1)).store(self.at, Ordering::Release);
            count.into()
        }
    }
}

/// Every chain has `chain` descriptors.
pub struct PackedDevice {
    desc: *mut PackedDesc,
    size: u16,
    chain: u16,
    at: u16,
    wrap: bool,
    status: bool,
}

impl PackedDevice {
    #[inline(always)]
    unsafe fn complete_all(&mut self, len: u32) -> usize {
        // SAFETY: the ring is live and valid, and `at` is below its size.
        unsafe {
            let mut count = 0;
            loop {
                let first = self.desc.add(self.at.into());
                let flags_at = &raw mut (*first).flags;
                let flags = atomic(flags_at).load(Ordering::Acquire);
                let (avail, used) = (flags & PACKED_AVAIL != 0, flags & PACKED_USED != 0);
                if avail == used || avail != self.wrap {
                    return count;
                }
                let mut last = self.at + self.chain - 1;
                if last >= self.size {
                    last -= self.size;
                }
                let tail = self.desc.add(last.into());
                if self.status {
                    ((*tail).addr as *mut u8).write_volatile(0);
                }
                (&raw mut (*first).id).write_volatile((*tail).id);
                (&raw mut (*first).len).write_volatile(len);
                fence(Ordering::Release);
                let done = if self.wrap { PACKED_AVAIL | PACKED_USED } else { 0 };
                atomic(flags_at).store(done, Ordering::Relaxed);
                self.at += self.chain;
                if self.at >= self.size {
                    self.at -= self.size;
                    self.wrap = !self.wrap;
                }
                count += 1;
            }
        }
    }
}

/// A driver that offers chains of one shape again and again.
pub enum Driver {
    /// On a split ring.
    Split(SplitDriver),
    /// On a packed ring.
    Packed(PackedDriver),
}

impl Driver {
    /// `ring` is where the ring is in this process; `shape` is each buffer's length and flags; `place` says at which
    /// address of the device's buffer `i` of chain `c` is.
    ///
    /// # Safety
    ///
    /// The ring must have `size` descriptors, and live as long as the driver.
    pub unsafe fn new(
        packed: bool,
        ring: Ring,
        size: u16,
        shape: &[(u32, u16)],
        place: impl Fn(u16, u16) -> u64,
    ) -> Self {
        if packed {
            let bodies = (0..64).map(|c| {
                let body = |i: usize| PackedDesc {
                    addr: place(c, i as u16),
                    len: shape[i].0,
                    id: 0,
                    flags: shape[i].1 | if i + 1 < shape.len() { NEXT } else { 0 },
                };
                (0..shape.len()).map(body).collect()
            });
            Self::Packed(PackedDriver {
                desc: ring.desc as *mut PackedDesc,
                size,
                bodies: bodies.collect(),
                at: 0,
                wrap: true,
                id: 0,
                used_at: 0,
                used_wrap: true,
                used_id: 0,
            })
        } else {
            // SAFETY: the caller's promise.
            Self::Split(unsafe { SplitDriver::new(ring, size, shape, place) })
        }
    }

    /// Makes `n` chains available.
    ///
    /// # Safety
    ///
    /// There must be room for them.
    #[inline(always)]
    pub unsafe fn publish(&mut self, n: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            match self {
                Self::Split(driver) => driver.publish(n),
                Self::Packed(driver) => driver.publish(n),
            }
        }
    }

    /// Takes `n` used chains back.
    ///
    /// # Panics
    ///
    /// If they are not there.
    ///
    /// # Safety
    ///
    /// As [`new`](Self::new).
    #[inline(always)]
    pub unsafe fn reap(&mut self, n: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            match self {
                Self::Split(driver) => driver.reap(n),
                Self::Packed(driver) => driver.reap(n),
            }
        }
    }
}

/// Its chains are laid out once.
pub struct SplitDriver {
    avail: *mut u16,
    used: *mut u16,
    size: u16,
    stride: u16,
    chains: u16,
    next: u16,
    avail_index: u16,
    used_index: u16,
}

impl SplitDriver {
    unsafe fn new(ring: Ring, size: u16, shape: &[(u32, u16)], place: impl Fn(u16, u16) -> u64) -> Self {
        let stride = shape.len() as u16;
        let chains = size / stride;
        for c in 0..chains {
            for (i, &(len, flags)) in shape.iter().enumerate() {
                let i = i as u16;
                let more = i + 1 < stride;
                let at = c * stride + i;
                let desc = Desc {
                    addr: place(c, i),
                    len,
                    flags: flags | if more { NEXT } else { 0 },
                    next: if more { at + 1 } else { 0 },
                };
                // SAFETY: below the size.
                unsafe { (ring.desc as *mut Desc).add(at.into()).write(desc) };
            }
        }
        Self {
            avail: ring.driver as *mut u16,
            used: ring.device as *mut u16,
            size,
            stride,
            chains,
            next: 0,
            avail_index: 0,
            used_index: 0,
        }
    }

    #[inline(always)]
    unsafe fn publish(&mut self, n: usize) {
        for _ in 0..n {
            let slot = usize::from(self.avail_index & (self.size - 1));
            // SAFETY: below the size.
            unsafe { self.avail.add(2 + slot).write_volatile(self.next * self.stride) };
            self.next += 1;
            if self.next == self.chains {
                self.next = 0;
            }
            self.avail_index = self.avail_index.wrapping_add(1);
        }
        // SAFETY: the ring is live.
        unsafe { atomic(self.avail.add(1)).store(self.avail_index, Ordering::Release) };
    }

    #[inline(always)]
    unsafe fn reap(&mut self, n: usize) {
        // SAFETY: the ring is live, and indices are below its size.
        unsafe {
            let index = atomic(self.used.add(1)).load(Ordering::Acquire);
            assert_eq!(usize::from(index.wrapping_sub(self.used_index)), n);
            let used = self.used.add(2) as *const [u32; 2];
            while self.used_index != index {
                black_box(used.add(usize::from(self.used_index & (self.size - 1))).read_volatile());
                self.used_index = self.used_index.wrapping_add(1);
            }
        }
    }
}

/// Its chains are written anew each time, as a packed ring needs. Ids count up.
pub struct PackedDriver {
    desc: *mut PackedDesc,
    size: u16,
    bodies: Vec<Vec<PackedDesc>>,
    at: u16,
    wrap: bool,
    id: u16,
    used_at: u16,
    used_wrap: bool,
    used_id: u16,
}

impl PackedDriver {
    #[inline(always)]
    unsafe fn publish(&mut self, n: usize) {
        let first = (self.at, self.wrap);
        let mut first_flags = 0;
        for turn in 0..n {
            let body = &self.bodies[usize::from(self.id) % self.bodies.len()];
            for (i, desc) in body.iter().enumerate() {
                let wrap = if self.wrap { PACKED_AVAIL } else { PACKED_USED };
                let mut desc = PackedDesc { id: self.id, ..*desc };
                desc.flags |= wrap;
                if turn == 0 && i == 0 {
                    // Shown last; until then it stays as it is.
                    first_flags = desc.flags;
                    desc.flags = if self.wrap { PACKED_USED } else { PACKED_AVAIL };
                }
                // SAFETY: below the size.
                unsafe { self.desc.add(self.at.into()).write_volatile(desc) };
                self.at += 1;
                if self.at == self.size {
                    (self.at, self.wrap) = (0, !self.wrap);
                }
            }
            self.id = self.id.wrapping_add(1) % self.size;
        }
        // SAFETY: below the size.
        let flags = unsafe { &raw mut (*self.desc.add(first.0.into())).flags };
        // SAFETY: the ring is live.
        unsafe { atomic(flags).store(first_flags, Ordering::Release) };
    }

    #[inline(always)]
    unsafe fn reap(&mut self, n: usize) {
        let stride = self.bodies[0].len() as u16;
        let mut got = 0;
        while got < n {
            // SAFETY: below the size.
            let desc = unsafe { self.desc.add(self.used_at.into()) };
            // SAFETY: the ring is live.
            let flags = unsafe { atomic(&raw mut (*desc).flags).load(Ordering::Acquire) };
            let (avail, used) = (flags & PACKED_AVAIL != 0, flags & PACKED_USED != 0);
            assert!(avail == used && used == self.used_wrap, "{got} of {n} chains are used");
            // SAFETY: as above.
            let id = unsafe { (&raw const (*desc).id).read_volatile() };
            // In order, one entry may stand for several chains.
            let count = (id + self.size - self.used_id) % self.size + 1;
            black_box(count);
            self.used_id = (id + 1) % self.size;
            self.used_at += count * stride;
            if self.used_at >= self.size {
                self.used_at -= self.size;
                self.used_wrap = !self.used_wrap;
            }
            got += usize::from(count);
        }
    }
}
