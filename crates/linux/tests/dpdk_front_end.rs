//! DPDK's `net_virtio_user` as the front-end of a network device of ours that loops back.
//!
//! testpmd has two ports and sends what comes by one out by the other. Our driver is on the first, a `net_vhost`; our
//! device is behind the second. So each frame goes from our driver through DPDK to our device and back the same way.
//! Every frame has a number and a checksum, nothing may be lost and what goes by one queue keeps its order.
//! `VIRTIO_KIT_FRAMES` sets the number of frames of each shape.

mod common;
#[path = "dpdk/frames.rs"]
#[allow(unreachable_pub, reason = "a module of a test")]
mod frames;
#[path = "dpdk/testpmd.rs"]
#[allow(unreachable_pub, reason = "a module of a test")]
mod testpmd;

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use common::served::back_end;
use common::{LONG, TempDir};
use frames::run;
use testpmd::TestPmd;
use virtio_kit::device::{ConfigNotice, Device, DeviceError, Queue, Worker};
use virtio_kit::driver::Found;
use virtio_kit::{DeviceId, F, Features};
use virtio_kit_devices::net::{Buffers, Loopback, Net, Options as NetOptions};
use virtio_kit_drivers::net;
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::back_end::{Listener, Options, Polling, Runner, Source, Threads};
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options as FrontOptions};
use virtio_kit_spec::net::F as NetF;

/// A device, and what its driver has agreed on.
struct Spied<D>(D, Arc<Mutex<Features>>);

impl<D: Device> Device for Spied<D> {
    fn id(&self) -> DeviceId {
        self.0.id()
    }
    fn features(&self) -> Features {
        self.0.features()
    }
    fn queue_count(&self) -> u16 {
        self.0.queue_count()
    }
    fn max_queue_size(&self, index: u16) -> u16 {
        self.0.max_queue_size(index)
    }
    fn max_segments(&self, index: u16) -> u16 {
        self.0.max_segments(index)
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        self.0.read_config(offset, to);
    }
    fn activate(&mut self, features: Features) -> Result<(), DeviceError> {
        *self.1.lock().unwrap() = features;
        self.0.activate(features)
    }
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        self.0.start_queue(index, queue)
    }
    fn reset(&mut self) {
        self.0.reset();
    }
    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        self.0.attach(notice);
    }
    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.0.attach_wakers(wakers);
    }
}

fn frames_per_shape() -> u64 {
    std::env::var("VIRTIO_KIT_FRAMES").map_or(5_000, |n| n.parse().expect("VIRTIO_KIT_FRAMES is a number"))
}

fn shape(packed: bool, in_order: bool, mergeable: bool, pairs: u16) {
    // Each takes all the cores that it can get.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new();
    let agreed = Arc::new(Mutex::new(Features::EMPTY));
    let options = NetOptions { pairs, queue_size: 1024, ..NetOptions::new([2, 0, 0, 0, 0, 9]) };
    let device = Net::new(Loopback::new(Buffers { small: 1024, large: 16 }), options);
    let handle = device.handle();
    let back = back_end(Spied(device, agreed.clone()), Options::default());
    let source = Source::Listener(Listener::bind(dir.join("d")).unwrap());
    let runner = Runner::start(back, source, "loop", Threads::PerQueue, Polling::default()).unwrap();
    let socket = dir.join("s");
    let on = u8::from;
    let port = format!(
        "net_virtio_user0,mac=02:00:00:00:00:07,path={},queues={pairs},cq=1,packed_vq={},in_order={},mrg_rxbuf={}",
        dir.join("d").display(),
        on(packed),
        on(in_order),
        on(mergeable)
    );
    let more = ["-d".into(), "librte_net_virtio.so.23".into(), "--vdev".into(), port];
    let pmd = TestPmd::start(&dir, &socket, pairs, &more);
    let options = FrontOptions { patience: LONG, timeout: LONG, ..FrontOptions::new(DeviceId::NETWORK) };
    let front = FrontEnd::connect(&socket, options).unwrap();
    let options =
        net::Options { pairs, pairs_without_control: true, ..net::Options::new(Arc::new(MonotonicClock)) };
    let (mut net, _device) = net::open(Found::new(Box::new(front)), &options).unwrap();
    let count = frames_per_shape() / u64::from(pairs);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            net.pairs.iter_mut().map(|pair| scope.spawn(move || run(pair, count))).collect();
        for thread in threads {
            if thread.join().is_err() {
                panic!("{:?}\ntestpmd said:\n{}", handle.counters(), pmd.said());
            }
        }
    });
    let agreed = *agreed.lock().unwrap();
    for (feature, wanted) in [(F::RING_PACKED, packed), (F::IN_ORDER, in_order), (NetF::MRG_RXBUF, mergeable)]
    {
        assert_eq!(agreed.contains(feature), wanted, "{feature:?} of {agreed:?}");
    }
    let counters = handle.counters();
    assert_eq!((counters.sent, counters.received), (count * u64::from(pairs), count * u64::from(pairs)));
    let used: Vec<u64> = runner.queues().iter().map(|queue| queue.counters().completed()).collect();
    for pair in 0..usize::from(pairs) {
        assert!(used[2 * pair] >= count && used[2 * pair + 1] == count, "{used:?}");
    }
    println!("{} frames over {pairs} pairs, {agreed:?}: none lost or corrupt", count * u64::from(pairs));
}

macro_rules! shapes {
    ($($name:ident: $packed:literal, $in_order:literal, $mergeable:literal;)*) => {$(
        #[test]
        fn $name() {
            for pairs in [1, 2] {
                shape($packed, $in_order, $mergeable, pairs);
            }
        }
    )*};
}
shapes! {
    split: false, false, false;
    split_mergeable: false, false, true;
    split_in_order: false, true, false;
    split_in_order_mergeable: false, true, true;
    packed: true, false, false;
    packed_mergeable: true, false, true;
    packed_in_order: true, true, false;
    packed_in_order_mergeable: true, true, true;
}
