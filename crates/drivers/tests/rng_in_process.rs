//! The entropy driver on the entropy device, in one program.

mod common;

use common::{LIMIT, StdClock, join, layouts};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use virtio_kit::device::{Chain, DeviceError, Queue, Service, Serving, Submitted, Worker};
use virtio_kit::{DeviceId, F, Features};
use virtio_kit_devices::rng::{Limit, RepeatingSource, Rng as Device, Source};
use virtio_kit_drivers::rng::{BlockingRng, Error, Options, Rng, RngDevice, open};
use virtio_kit_testkit::counting::{CountingAllocator, calls_during};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Gives pieces of a counted stream, of the lengths that it is told; then none.
#[derive(Clone, Default)]
struct Pieces(Arc<Mutex<(VecDeque<usize>, u8)>>);

impl Pieces {
    fn give(&self, lengths: &[usize]) {
        self.0.lock().unwrap().0.extend(lengths);
    }
}

impl Source for Pieces {
    fn poll(&mut self, to: &mut [u8]) -> Result<usize, DeviceError> {
        let (lengths, next) = &mut *self.0.lock().unwrap();
        let Some(first) = lengths.front_mut() else { return Ok(0) };
        let now = to.len().min(*first);
        for byte in &mut to[..now] {
            *byte = *next;
            *next = next.wrapping_add(1);
        }
        *first -= now;
        if *first == 0 {
            lengths.pop_front();
        }
        Ok(now)
    }
}

fn pair(source: impl Source + 'static, ring: Features, options: &Options) -> (Rng, RngDevice) {
    let (found, _end, _) = join(Device::new(source), ring);
    let (rng, device) = open(found, options).unwrap();
    let layout = F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC;
    assert_eq!(rng.features() & layout, ring & layout);
    (rng, device)
}

fn blocking(rng: Rng, limit: Duration) -> BlockingRng {
    BlockingRng::new(rng, StdClock::new(), limit)
}

fn counted(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| at as u8).collect()
}

// drivernormative:Device Types / Entropy Device / Device Operation
// devicenormative:Device Types / Entropy Device / Device Operation
#[test]
fn every_byte_comes_once_and_in_order_in_every_layout() {
    for layout in layouts() {
        let source = Pieces::default();
        let (rng, _device) = pair(source.clone(), layout, &Options { bytes: 100, ..Options::default() });
        let mut rng = blocking(rng, LIMIT);
        let mut from = 0;
        for len in (1..2000).step_by(37) {
            source.give(&[len / 3, len / 7 + 1, len]);
            let mut got = vec![0; len];
            rng.fill(&mut got).unwrap();
            assert_eq!(got, counted(from, len), "{layout:?}");
            from += len;
            // What is left over is not what was asked for: nothing was asked for ahead.
            assert_eq!(rng.get_mut().in_flight(), 0);
            let left: usize = len / 3 + len / 7 + 1;
            from += left;
            source.give(&[256 - left % 256]);
            from += 256 - left % 256;
            let mut skip = vec![0; left + 256 - left % 256];
            rng.fill(&mut skip).unwrap();
        }
    }
}

#[test]
fn what_the_device_has_not_written_is_never_given_out() {
    for layout in layouts() {
        let source = Pieces::default();
        let (found, _end, arena) = join(Device::new(source.clone()), layout);
        // Memory that somebody had before.
        let mut stale = arena.alloc(4096).unwrap();
        stale.fill(0xee);
        drop(stale);
        let (mut rng, _device) = open(found, &Options { requests: 1, ..Options::default() }).unwrap();
        source.give(&[5]);
        assert_eq!(rng.request(64), Ok(64));
        rng.kick().unwrap();
        let mut to = [0xff; 64];
        assert!(rng.wait(LIMIT).unwrap());
        assert_eq!(rng.read(&mut to), Ok(5));
        assert_eq!(to[..5], [0, 1, 2, 3, 4]);
        assert_eq!(to[5..], [0xff; 59]);
        assert_eq!(rng.read(&mut to), Ok(0));
    }
}

#[test]
fn a_device_that_has_nothing_ends_the_wait_in_time_and_its_bytes_are_there_later() {
    let source = Pieces::default();
    let (rng, _device) = pair(source.clone(), Features::EMPTY, &Options::default());
    let mut rng = blocking(rng, Duration::from_millis(5));
    let mut to = [0; 10];
    assert_eq!(rng.fill(&mut to), Err(Error::Timeout(Duration::from_millis(5))));
    assert_eq!(rng.get_mut().in_flight(), 1);
    source.give(&[10]);
    let mut rng = blocking(rng.into_inner(), LIMIT);
    rng.fill(&mut to).unwrap();
    assert_eq!(to[..], counted(0, 10));
}

#[test]
fn a_source_that_fails_makes_the_device_need_a_reset() {
    struct Broken;
    impl Source for Broken {
        fn poll(&mut self, _: &mut [u8]) -> Result<usize, DeviceError> {
            Err(DeviceError::Backend("no entropy"))
        }
    }
    let (rng, mut device) = pair(Broken, Features::EMPTY, &Options::default());
    let mut rng = blocking(rng, Duration::from_millis(5));
    assert!(rng.fill(&mut [0; 8]).is_err());
    assert!(device.device().needs_reset().unwrap());
}

#[test]
fn a_limit_holds_back_what_is_above_it() {
    let clock = StdClock::new();
    let limit = Limit { bytes: 100, period: Duration::from_secs(3600) };
    let device = Device::limited(RepeatingSource::new([1, 2, 3]), limit, clock);
    let (found, _end, _) = join(device, Features::EMPTY);
    let (rng, _device) = open(found, &Options { bytes: 64, ..Options::default() }).unwrap();
    let mut rng = blocking(rng, Duration::from_millis(5));
    rng.fill(&mut [0; 70]).unwrap();
    assert_eq!(rng.fill(&mut [0; 31]), Err(Error::Timeout(Duration::from_millis(5))));
    let clock = StdClock::new();
    let limit = Limit { bytes: 100, period: Duration::from_millis(1) };
    let (found, _end, _) = join(Device::limited(RepeatingSource::new([1]), limit, clock), Features::EMPTY);
    let (rng, _device) = open(found, &Options::default()).unwrap();
    let mut to = [0; 1000];
    blocking(rng, LIMIT).fill(&mut to).unwrap();
    assert_eq!(to, [1; 1000]);
}

/// Remembers that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_future_is_woken_when_bytes_come() {
    for layout in layouts() {
        let source = Pieces::default();
        let (found, end, _) = join(Device::new(source.clone()), layout);
        let (mut rng, _device) = open(found, &Options { bytes: 16, ..Options::default() }).unwrap();
        let mut to = [0; 100];
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        {
            let mut filled = pin!(rng.fill(&mut to));
            assert!(filled.as_mut().poll(&mut cx).is_pending());
            end.run(0).unwrap().unwrap();
            assert!(!woken.0.load(Ordering::Relaxed));
            for _ in 0..100 {
                assert!(filled.as_mut().poll(&mut cx).is_pending());
                source.give(&[1]);
                end.run(0).unwrap().unwrap();
                assert!(woken.0.swap(false, Ordering::Relaxed), "{layout:?}");
            }
            assert_eq!(filled.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
        }
        assert_eq!(to[..], counted(0, 100));
    }
}

/// A device that says it has written so many bytes, and writes none.
struct Liar(usize);

impl virtio_kit::device::Device for Liar {
    fn id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }
    fn features(&self) -> Features {
        Features::EMPTY
    }
    fn queue_count(&self) -> u16 {
        1
    }
    fn read_config(&self, _: usize, to: &mut [u8]) {
        to.fill(0xee);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, _: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        Ok(Box::new(Serving::new(queue, Self(self.0))))
    }
    fn reset(&mut self) {}
}

impl Service for Liar {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        chain.mark_written(0, self.0.min(chain.writable_len())).unwrap();
        Submitted::Done(chain)
    }
}

#[test]
fn a_device_that_gives_nothing_is_given_up_after_a_bounded_number_of_buffers() {
    for layout in layouts() {
        let (found, _end, _) = join(Liar(0), layout);
        let (rng, _device) = open(found, &Options::default()).unwrap();
        let mut rng = blocking(rng, LIMIT);
        let error = rng.fill(&mut [0; 8]).unwrap_err();
        assert_eq!(error, Error::Empty(16));
        assert_eq!(error.to_string(), "the device gave 16 buffers back empty");
        let mut to = [0; 8];
        let mut rng = rng.into_inner();
        let mut filled = pin!(rng.fill(&mut to));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(filled.as_mut().poll(&mut cx), Poll::Ready(Err(Error::Empty(16..)))));
    }
}

#[test]
fn a_device_that_lies_about_what_it_wrote_shows_nobody_what_was_there_before() {
    for layout in layouts() {
        let (found, _end, arena) = join(Liar(usize::MAX), layout);
        let (rng, _device) = open(found, &Options::default()).unwrap();
        let mut rng = blocking(rng, LIMIT);
        // All of the arena's free memory, and so what the requests are made of.
        let mut stale: Vec<_> = std::iter::from_fn(|| arena.alloc(4096).ok()).collect();
        stale.iter_mut().for_each(|buffer| buffer.fill(0xee));
        drop(stale);
        for _ in 0..20 {
            let mut to = [0xff; 10_000];
            rng.fill(&mut to).unwrap();
            assert_eq!(to, [0; 10_000]);
        }
    }
}

#[test]
fn a_removed_device_is_an_error_and_its_buffers_come_back() {
    for layout in layouts() {
        let (found, _end, arena) = join(Device::new(Pieces::default()), layout);
        let free = arena.free_bytes();
        let (mut rng, device) = open(found, &Options::default()).unwrap();
        rng.request(10_000).unwrap();
        rng.kick().unwrap();
        assert!(rng.in_flight() > 0);
        drop(device);
        assert!(matches!(rng.read(&mut [0; 10]), Err(Error::Queue(_))));
        assert_eq!(rng.in_flight(), 0);
        drop(rng);
        assert_eq!(arena.free_bytes(), free);
    }
}

#[test]
fn nothing_allocates_after_the_device_was_opened() {
    for layout in layouts() {
        let (rng, _device) = pair(RepeatingSource::new([5]), layout, &Options::default());
        let mut rng = blocking(rng, LIMIT);
        let mut to = vec![0; 50_000];
        rng.fill(&mut to).unwrap();
        let calls = calls_during(|| (0..20).for_each(|_| rng.fill(&mut to).unwrap()));
        assert_eq!(calls, 0, "{layout:?}");
    }
}

#[test]
fn it_is_a_fallible_generator_of_rand_core() {
    use rand_core::TryRng;
    let (rng, _device) = pair(RepeatingSource::new([1, 2, 3, 4]), F::RING_PACKED, &Options::default());
    let mut rng = blocking(rng, LIMIT);
    assert_eq!(rng.try_next_u32(), Ok(0x0403_0201));
    assert_eq!(rng.try_next_u64(), Ok(0x0403_0201_0403_0201));
    let mut to = [0; 6];
    rng.try_fill_bytes(&mut to).unwrap();
    assert_eq!(to, [1, 2, 3, 4, 1, 2]);
}
