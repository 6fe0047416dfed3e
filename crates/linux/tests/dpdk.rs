//! Our network driver on DPDK's `net_vhost`, which loops back what it is sent.
//!
//! Every frame has a number and a checksum; at most what the receive ring holds is under way, so that nothing may
//! be lost. `VIRTIO_KIT_FRAMES` sets the number of frames of each shape: 625000 make 10 million of them all.

mod common;
#[path = "dpdk/frames.rs"]
#[allow(unreachable_pub, reason = "a module of a test")]
mod frames;
#[path = "dpdk/testpmd.rs"]
#[allow(unreachable_pub, reason = "a module of a test")]
mod testpmd;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use common::{LONG, TempDir};
use frames::run;
use testpmd::TestPmd;
use virtio_kit::driver::Found;
use virtio_kit::{F, Features};
use virtio_kit_drivers::net;
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};
use virtio_kit_spec::DeviceId;
use virtio_kit_spec::net::F as NetF;

fn frames_per_shape() -> u64 {
    std::env::var("VIRTIO_KIT_FRAMES").map_or(200_000, |n| n.parse().expect("VIRTIO_KIT_FRAMES is a number"))
}

/// One shape of ring and buffers, in a fresh testpmd.
fn shape(packed: bool, in_order: bool, mergeable: bool, pairs: u16) {
    // Each takes all the cores that it can get.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new();
    let socket = dir.join("s");
    let pmd = TestPmd::start(&dir, &socket, pairs, &[]);
    let options = Options { patience: LONG, timeout: LONG, ..Options::new(DeviceId::NETWORK) };
    let front = FrontEnd::connect(&socket, options).unwrap();
    let drop_unless = |wanted, feature| if wanted { Features::EMPTY } else { feature };
    let without = drop_unless(packed, F::RING_PACKED)
        | drop_unless(in_order, F::IN_ORDER)
        | drop_unless(mergeable, NetF::MRG_RXBUF);
    let options = net::Options {
        pairs,
        pairs_without_control: true,
        // Short ones, so that most frames need several.
        buffer_len: if mergeable { 512 } else { 2048 },
        without,
        ..net::Options::new(Arc::new(MonotonicClock))
    };
    let (mut net, device) = net::open(Found::new(Box::new(front)), &options).unwrap();
    for (feature, wanted) in [(F::RING_PACKED, packed), (F::IN_ORDER, in_order), (NetF::MRG_RXBUF, mergeable)]
    {
        assert_eq!(net.features.contains(feature), wanted, "{feature:?} of {:?}", net.features);
    }
    assert_eq!(net.pairs.len(), usize::from(pairs));
    let arena = net.pairs[0].tx.arena().clone();
    let start = Instant::now();
    let count = frames_per_shape() / u64::from(pairs);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            net.pairs.iter_mut().map(|pair| scope.spawn(move || run(pair, count))).collect();
        for thread in threads {
            let counts = match thread.join() {
                Ok(counts) => counts,
                Err(_) => panic!("testpmd said:\n{}", pmd.said()),
            };
            if mergeable {
                assert!(counts.buffers > count * 3 / 2, "{} buffers", counts.buffers);
            } else {
                assert_eq!(counts.buffers, count);
            }
            println!("{} notifications for {count} frames", counts.notifications);
        }
    });
    let (frames, seconds) = (count * u64::from(pairs), start.elapsed().as_secs_f64());
    println!(
        "{frames} frames over {pairs} pairs in {seconds:.1} s, {:?}: none lost or corrupt",
        net.features
    );
    drop(device);
    drop(net);
    assert_eq!(arena.free_bytes(), arena.len());
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
