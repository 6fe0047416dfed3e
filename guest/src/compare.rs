//! Instructions of a block request: this project's driver beside the published crate `virtio-drivers`, on two disks of
//! one machine, in one kernel.
//!
//! QEMU's `-icount shift=0` makes the time stamp counter count instructions. What is counted is what a driver does:
//! adding and notifying, and once the device has answered, taking the answers. While the device works, time passes
//! uncounted, so that nobody's waiting is part of it.

use crate::platform::mmio::Mmio;
use crate::work::Failure;
use crate::x86::{cpu, time};
use crate::{Arena, println};
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::time::Duration;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::mmio::MmioTransport as TheirTransport;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};
use virtio_kit::driver::Found;
use virtio_kit::mmio::{MmioTransport, Place};
use virtio_kit::{DeviceId, DmaBuf, F};
use virtio_kit_drivers::blk;

const ROUNDS: u64 = 200;
const SECTOR: usize = 512;
/// Between two looks for an answer.
const PAUSE: Duration = Duration::from_micros(50);
const LIMIT: Duration = Duration::from_secs(60);

/// Compares on the first two disks at `places`.
pub fn run(mmio: Arc<Mmio>, mut places: Vec<Place>, arena: &Arena) -> Result<(), Failure> {
    places.sort();
    let mut disks = Vec::new();
    for place in places {
        if MmioTransport::open(mmio.clone(), place)?.is_some_and(|t| is_disk(&t)) {
            disks.push(place);
        }
    }
    let [ours, theirs, ..] = disks[..] else { return Err(Failure::from("two disks are needed")) };
    for depth in [1, 16] {
        let ours = self::ours(mmio.clone(), ours, arena, depth)?;
        let theirs = self::theirs(theirs, depth)?;
        println!("compare depth={depth} ours={ours} theirs={theirs}");
    }
    Ok(())
}

fn is_disk(transport: &MmioTransport) -> bool {
    use virtio_kit::transport::Transport;
    transport.identity().device == DeviceId::BLOCK
}

/// Instructions of `work`.
fn count<R>(total: &mut u64, work: impl FnOnce() -> R) -> R {
    let began = cpu::time_stamp();
    let result = work();
    *total += cpu::time_stamp() - began;
    result
}

/// Instructions of taking an answer; looking in vain does not count.
fn answered(total: &mut u64, mut take: impl FnMut() -> Result<Option<()>, Failure>) -> Result<(), Failure> {
    let deadline = time::now() + LIMIT;
    loop {
        let mut cost = 0;
        if count(&mut cost, &mut take)?.is_some() {
            *total += cost;
            return Ok(());
        }
        if time::now() > deadline {
            return Err(Failure::from("a request never completes"));
        }
        time::spin(PAUSE);
    }
}

fn ours(mmio: Arc<Mmio>, place: Place, arena: &Arena, depth: u64) -> Result<u64, Failure> {
    let transport = MmioTransport::open(mmio, place)?.ok_or("the disk is gone")?;
    // What the other driver can do.
    let without = F::RING_PACKED | F::IN_ORDER | F::RING_RESET;
    let options = blk::Options { queue_size: 64, without, ..blk::Options::default() };
    let (mut disk, _device) = blk::open::<DmaBuf, u64>(Found::new(Box::new(transport)), &options)?;
    let queue = disk.queues.first_mut().ok_or("a disk without a queue")?;
    let mut buffers = Vec::new();
    for _ in 0..depth {
        buffers.push(arena.alloc(SECTOR)?);
    }
    let mut total = 0;
    for round in 0..ROUNDS + 1 {
        // The first round warms up.
        if round == 1 {
            total = 0;
        }
        count(&mut total, || {
            for sector in 0..depth {
                let buffer = buffers.pop().ok_or("too few buffers")?;
                queue.read(sector, buffer, sector).map_err(|error| Failure::from(error.kind))?;
            }
            queue.kick()?;
            Ok::<_, Failure>(())
        })?;
        for _ in 0..depth {
            answered(&mut total, || {
                let Some(done) = queue.complete()? else { return Ok(None) };
                done.result?;
                buffers.extend(done.data);
                Ok(Some(()))
            })?;
        }
    }
    Ok(total / ROUNDS / depth)
}

fn theirs(place: Place, depth: u64) -> Result<u64, Failure> {
    let header = NonNull::new(place.start as *mut _).ok_or("a disk at no address")?;
    // SAFETY: the registers of a device that nobody else uses.
    let transport = unsafe { TheirTransport::new(header, place.len as usize) }
        .map_err(|_| Failure::from("their transport refuses the disk"))?;
    let mut disk = VirtIOBlk::<Identity, _>::new(transport)?;
    let mut requests: Vec<(BlkReq, BlkResp, [u8; SECTOR], u16)> = Vec::new();
    requests.resize_with(depth as usize, || (BlkReq::default(), BlkResp::default(), [0; SECTOR], 0));
    let mut total = 0;
    for round in 0..ROUNDS + 1 {
        if round == 1 {
            total = 0;
        }
        count(&mut total, || {
            for (sector, (request, response, data, token)) in requests.iter_mut().enumerate() {
                // SAFETY: nobody touches the three before the request is completed, below.
                *token = unsafe { disk.read_blocks_nb(sector, request, data, response) }?;
            }
            Ok::<_, Failure>(())
        })?;
        for _ in 0..depth {
            answered(&mut total, || {
                let Some(used) = disk.peek_used() else { return Ok(None) };
                let found = requests.iter_mut().find(|(.., token)| *token == used);
                let (request, response, data, token) = found.ok_or("an answer to nothing")?;
                // SAFETY: the three that were given with this token.
                unsafe { disk.complete_read_blocks(*token, request, data, response) }?;
                Ok(Some(()))
            })?;
        }
    }
    Ok(total / ROUNDS / depth)
}

/// Their kernel's part: all memory is at its own address, for devices too.
struct Identity;

// SAFETY: pages come from the heap, which keeps them apart; addresses are the same for the CPU and for devices.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        let memory = NonNull::new(memory).expect("memory for their rings");
        (memory.as_ptr() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: from `dma_alloc`, by the caller's promise.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("an address of a BAR")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * 4096, 4096).expect("a few pages")
}
