//! A driver's and a device's end of one queue, joined in memory, and a source of chance.
#![allow(dead_code, reason = "each of the test programs that share this uses some of it")]

use std::path::PathBuf;
use virtio_kit::device::{Chain, Queue as DeviceQueue};
use virtio_kit::ring::device::{self, Config};
use virtio_kit::ring::driver::{Options, Queue, RingMemory, Storage as DriverStorage, Used};
use virtio_kit::ring::mem::{HeapMemory, Memory, Region};
use virtio_kit::ring::{self, Arena, DmaBuf};
use virtio_kit_devices::blk::{Finished, Storage};

const SIZE: u16 = 1024;

/// The driver's chains.
type Lists = ring::Chain<Vec<DmaBuf>, Vec<DmaBuf>>;

pub(crate) struct Pair {
    driver: Queue<Lists, ()>,
    pub(crate) device: DeviceQueue,
    pub(crate) arena: Arena,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let arena = Arena::new(HeapMemory::new(64 << 20).unwrap()).unwrap();
        let memory = RingMemory::alloc(&arena, false, SIZE).unwrap();
        let a = memory.addrs();
        let addrs = device::RingAddrs { desc: a.desc.get(), driver: a.driver.get(), device: a.device.get() };
        let driver = Queue::new(memory, DriverStorage::boxed(SIZE), Options::default(), &arena).unwrap();
        let regions = Memory::new([Region::of_arena(&arena)]).unwrap();
        let storage = device::Storage::boxed(SIZE, 512);
        let device = device::Queue::new(Config::fresh(false, SIZE), addrs, regions, None, storage).unwrap();
        Self { driver, device, arena }
    }

    /// A buffer of `len` bytes, `shift` bytes from where it would be aligned.
    pub(crate) fn buffer(&self, len: usize, shift: usize) -> DmaBuf {
        let mut buffer = self.arena.alloc(len + shift).unwrap();
        buffer.set_window(shift..shift + len).unwrap();
        buffer
    }

    /// The device's end of a chain: a header, `readable` and `writable`, and a status byte.
    pub(crate) fn chain(&mut self, readable: Vec<DmaBuf>, writable: Vec<DmaBuf>) -> Chain {
        let mut lists = Lists::new(vec![self.buffer(16, 0)], writable);
        lists.readable.extend(readable);
        lists.writable.push(self.buffer(1, 0));
        self.driver.add_buf(lists, ()).unwrap();
        self.driver.publish();
        self.device.take().unwrap().unwrap()
    }

    /// A chain with `data` to be written, in segments of these lengths.
    pub(crate) fn write_chain(&mut self, data: &[u8], lens: &[usize], shift: usize) -> Chain {
        let mut rest = data;
        let buffers = lens.iter().map(|&len| {
            let mut buffer = self.buffer(len, shift);
            let (now, later) = rest.split_at(len);
            rest = later;
            buffer.write(0, now).unwrap();
            buffer
        });
        let buffers = buffers.collect();
        self.chain(buffers, vec![])
    }

    /// A chain with space to read into, in segments of these lengths.
    pub(crate) fn read_chain(&mut self, lens: &[usize], shift: usize) -> Chain {
        let buffers = lens.iter().map(|&len| self.buffer(len, shift));
        let buffers = buffers.collect();
        self.chain(vec![], buffers)
    }

    /// Completes a chain: what the driver gets.
    pub(crate) fn complete(&mut self, chain: Chain) -> Used<Lists, ()> {
        self.device.complete(chain).unwrap();
        self.device.publish();
        self.driver.get_buf().unwrap().unwrap()
    }

    /// Completes a chain of `read_chain`: the first `len` bytes that the driver gets.
    pub(crate) fn data(&mut self, chain: Chain, len: usize) -> Vec<u8> {
        let used = self.complete(chain);
        assert_eq!(used.written as usize, len, "the used length is what was read");
        let (_status, buffers) = used.chain.writable.split_last().unwrap();
        let mut all = vec![];
        for buffer in buffers {
            let start = all.len();
            all.resize(start + buffer.len(), 0);
            buffer.read(0, &mut all[start..]).unwrap();
        }
        all
    }
}

/// The next finished request.
pub(crate) fn next(storage: &mut dyn Storage) -> Finished {
    loop {
        if let Some(finished) = storage.poll() {
            return finished;
        }
        assert!(storage.pending() > 0);
        storage.wait().unwrap();
    }
}

/// Numbers from a seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// A file that is removed with its handle.
pub(crate) struct TempFile(pub(crate) PathBuf);

impl TempFile {
    pub(crate) fn new(folder: &str, name: &str, content: &[u8]) -> Self {
        let path = PathBuf::from(folder).join(format!("virtio-kit-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
