//! The clients: random reads of 4 KiB, so many under way.

use crate::cell::Values;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioBlkQueue, VirtioBlkReqBuf, VirtioBlkTransport,
    VirtioFeatureFlags,
};
use virtio_kit::driver::Found;
use virtio_kit::{DeviceId, DmaBuf, Window};
use virtio_kit_drivers::blk::{self, BlkDevice, BlkQueue};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::front_end::{self, FrontEnd};
use virtio_kit_peers::noise::{process_seconds, thread_seconds};

/// Bytes of a device.
pub(super) const SIZE: u64 = 1 << 30;
const BLOCK: usize = 4096;
const LONG: Duration = Duration::from_secs(5);

/// How a client waits for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Sleeps as soon as there are none.
    Sleep,
    /// Looks for up to so long before that.
    Adaptive(Duration),
    /// Never sleeps.
    Poll,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) depth: usize,
    pub(super) how: How,
    pub(super) queue: u16,
    pub(super) warm: Duration,
    pub(super) time: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            depth: 1,
            how: How::Sleep,
            queue: 512,
            warm: Duration::from_millis(60),
            time: Duration::from_millis(250),
        }
    }
}

/// One front-end with its buffers, by number.
pub(super) trait Client {
    /// Adds a read of each number.
    fn add(&mut self, at: u64, number: u32);
    /// Shows the device what was added; whether it had to be told.
    fn kick(&mut self) -> bool;
    /// Hands out the numbers of completed reads; how many there were.
    fn reap(&mut self, each: impl FnMut(u32)) -> usize;
    /// Waits for completions; how often it slept.
    fn wait(&mut self) -> usize;
}

/// Small and fast, enough for picking places.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Keeps reads under way for the time of warming up and of measuring, and drains them.
pub(super) fn run(client: &mut impl Client, plan: &Plan, device: u32) -> Result<Values, String> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut free: Vec<u32> = (0..plan.depth as u32).collect();
    let (mut busy, mut reads, mut kicks, mut waits) = (0, 0u64, 0u64, 0u64);
    let began = Instant::now();
    let mut from = None;
    let (mut to, mut turn) = (None, 0u32);
    loop {
        turn = turn.wrapping_add(1);
        // Looking at the clock takes time of its own.
        if turn.is_multiple_of(16) || plan.depth == 1 || plan.how != How::Poll {
            let now = began.elapsed();
            if from.is_none() && now >= plan.warm {
                from = Some((now, thread_seconds(), process_seconds(device)));
                (reads, kicks, waits) = (0, 0, 0);
            } else if to.is_none() && now >= plan.warm + plan.time {
                to = Some((now, thread_seconds(), process_seconds(device), reads, kicks, waits));
            }
        }
        if to.is_none() && !free.is_empty() {
            for number in free.drain(..) {
                let at = random.draw() % (SIZE / BLOCK as u64) * BLOCK as u64;
                client.add(at, number);
                busy += 1;
            }
            kicks += u64::from(client.kick());
        }
        let got = client.reap(|number| free.push(number));
        busy -= got;
        reads += got as u64;
        if to.is_some() && busy == 0 {
            break;
        }
        if got == 0 {
            if plan.how == How::Poll {
                std::hint::spin_loop();
                if began.elapsed() > plan.warm + plan.time + LONG {
                    return Err("a read was never completed".into());
                }
            } else {
                waits += client.wait() as u64;
            }
        }
    }
    let (Some((t0, cpu0, dev0)), Some((t1, cpu1, dev1, reads, kicks, waits))) = (from, to) else {
        return Err("the run was too short".into());
    };
    let count = reads.max(1) as f64;
    let (client, device) = ((cpu1 - cpu0) * 1e9 / count, (dev1 - dev0) * 1e9 / count);
    Ok(vec![
        ("ns", (t1 - t0).as_nanos() as f64 / count),
        ("kIOPS", count / (t1 - t0).as_secs_f64() / 1e3),
        ("CPU, ns", client + device),
        ("client CPU, ns", client),
        ("device CPU, ns", device),
        ("kicks", kicks as f64 / count),
        ("sleeps", waits as f64 / count),
    ])
}

/// The `virtio-driver` crate's.
pub(super) struct Theirs {
    // Before the transport, so that it goes first.
    queue: VirtioBlkQueue<'static, u32>,
    notifier: Box<dyn QueueNotifier>,
    done: Arc<EventFd>,
    _transport: Box<VirtioBlkTransport>,
    buffers: *mut u8,
    len: usize,
    _memory: OwnedFd,
}

impl Theirs {
    pub(super) fn new(socket: &Path, plan: &Plan) -> Result<Self, String> {
        let failed = |e: &dyn std::fmt::Display| format!("virtio-driver: {e}");
        let features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
        let path = socket.to_str().ok_or("the socket's path is no text")?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(
            VhostUser::<VirtioBlkConfig, VirtioBlkReqBuf>::new(path, features.bits())
                .map_err(|e| failed(&e))?,
        );
        let queues = VirtioBlkQueue::setup_queues(transport.as_mut(), 1, plan.queue);
        let mut queue = queues.map_err(|e| failed(&e))?.remove(0);
        queue.set_used_notif_enabled(plan.how != How::Poll);
        let len = plan.depth * BLOCK;
        // SAFETY: a fresh memfd, mapped whole; the checks catch failures.
        let (memory, buffers) = unsafe {
            let fd = libc::memfd_create(c"peers".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            let fd = OwnedFd::from_raw_fd(fd);
            assert_eq!(libc::ftruncate(fd.as_raw_fd(), len as i64), 0);
            let flags = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), len, flags, libc::MAP_SHARED, fd.as_raw_fd(), 0);
            assert_ne!(at, libc::MAP_FAILED);
            (fd, at.cast::<u8>())
        };
        transport.map_mem_region(buffers.addr(), len, memory.as_raw_fd(), 0).map_err(|e| failed(&e))?;
        let (notifier, done) = (transport.get_submission_notifier(0), transport.get_completion_fd(0));
        Ok(Self { queue, notifier, done, _transport: transport, buffers, len, _memory: memory })
    }
}

impl Client for Theirs {
    #[inline]
    fn add(&mut self, at: u64, number: u32) {
        // SAFETY: the number's buffer is not in use.
        unsafe {
            let buffer = self.buffers.add(number as usize * BLOCK);
            self.queue.read_raw(at, buffer, BLOCK, number).expect("room");
        }
    }

    #[inline]
    fn kick(&mut self) -> bool {
        let needed = self.queue.avail_notif_needed();
        if needed {
            self.notifier.notify().expect("an event");
        }
        needed
    }

    #[inline]
    fn reap(&mut self, mut each: impl FnMut(u32)) -> usize {
        let mut got = 0;
        for done in self.queue.completions() {
            assert_eq!(done.ret, 0);
            each(done.context);
            got += 1;
        }
        got
    }

    fn wait(&mut self) -> usize {
        // Not a plain read: qemu-storage-daemon makes the event that it is given non-blocking.
        let mut fd = libc::pollfd { fd: self.done.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        assert_eq!(unsafe { libc::poll(&mut fd, 1, 5000) }, 1, "no completion in 5 s");
        self.done.read().expect("an event");
        1
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and the device is idle.
        unsafe { libc::munmap(self.buffers.cast(), self.len) };
    }
}

/// The project's.
pub(super) struct Ours {
    // Before the device, so that the reset gives back what is in flight.
    queue: BlkQueue<DmaBuf, u32>,
    _device: BlkDevice,
    buffers: Vec<Option<DmaBuf>>,
    window: Window,
}

impl Ours {
    pub(super) fn new(socket: &Path, plan: &Plan) -> Result<Self, String> {
        let failed = |e: &dyn std::fmt::Display| format!("virtio-kit: {e}");
        let options = front_end::Options {
            queue_size: plan.queue,
            timeout: LONG,
            patience: LONG,
            ..front_end::Options::new(DeviceId::BLOCK)
        };
        let front = FrontEnd::connect(socket, options).map_err(|e| failed(&e))?;
        let options = blk::Options { queue_size: plan.queue, ..blk::Options::default() };
        let (mut blk, device) = blk::open(Found::new(Box::new(front)), &options).map_err(|e| failed(&e))?;
        let queue: BlkQueue<DmaBuf, u32> = blk.queues.remove(0);
        let buffer = |_| queue.arena().alloc(BLOCK).map(Some);
        let buffers = (0..plan.depth).map(buffer).collect::<Result<_, _>>().map_err(|e| failed(&e))?;
        let most = match plan.how {
            How::Adaptive(most) => most,
            How::Sleep | How::Poll => Duration::ZERO,
        };
        Ok(Self { queue, _device: device, buffers, window: Window::new(most) })
    }
}

impl Client for Ours {
    #[inline]
    fn add(&mut self, at: u64, number: u32) {
        let buffer = self.buffers[number as usize].take().expect("not in use");
        assert!(self.queue.read(at / 512, buffer, number).is_ok());
    }

    #[inline]
    fn kick(&mut self) -> bool {
        self.queue.kick().expect("a device")
    }

    #[inline]
    fn reap(&mut self, mut each: impl FnMut(u32)) -> usize {
        let Self { queue, buffers, .. } = self;
        let got = queue.complete_batch(usize::MAX, |done| {
            assert!(done.result.is_ok());
            buffers[done.token as usize] = done.data;
            each(done.token);
        });
        got.expect("a device")
    }

    fn wait(&mut self) -> usize {
        let before = self.queue.stats().wakeups;
        let began = Instant::now();
        // A notification of what was taken already ends a wait too.
        while !self.queue.wait_looking(LONG, &mut self.window, &MonotonicClock).expect("a device") {
            assert!(began.elapsed() < LONG, "no completion in 5 s");
        }
        (self.queue.stats().wakeups - before) as usize
    }
}
