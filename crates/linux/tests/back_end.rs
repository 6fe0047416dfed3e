//! The vhost-user back-end under this project's own front-end: every layout, every set of protocol features, one
//! front-end after another.

mod common;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::served::{Image, back_end, buffer, exercise, layouts, open, options, serve};
use common::{LONG, TempDir, until};
use virtio_kit::{F, Features};
use virtio_kit_devices::blk::{Blk as Device, MemoryBackend};
use virtio_kit_linux::vhost_user::back_end::{BackEnd, Listener, Options, Polling, Runner, Source, Threads};
use virtio_kit_linux::vhost_user::codec::ProtocolFeatures as P;
use virtio_kit_linux::vhost_user::front_end::{self, FrontEnd};

const SECTORS: u64 = 64 << 10;

fn memory(backend: &MemoryBackend) -> impl Fn(u64, usize) -> Vec<u8> {
    |sector, len| {
        let mut bytes = vec![0; len];
        backend.read(sector * 512, &mut bytes);
        bytes
    }
}

fn ring(ring_features: Features) -> Options {
    Options { ring_features, ..Options::default() }
}

#[test]
fn every_layout_over_every_set_of_protocol_features() {
    let all = front_end::IMPLEMENTED;
    let protocols = [all, all - P::REPLY_ACK, all - P::CONFIGURE_MEM_SLOTS - P::STATUS, P::CONFIG | P::MQ];
    for layout in layouts() {
        for protocol in protocols {
            let backend = MemoryBackend::new(SECTORS * 512);
            let back = back_end(Device::new(backend.clone(), 2), ring(layout));
            let (runner, stream) = serve(back, Threads::PerQueue, Polling::default());
            let front = FrontEnd::over(stream, front_end::Options { protocol, ..options() }).unwrap();
            assert_eq!(front.protocol_features(), protocol - P::INFLIGHT_SHMFD);
            let (mut blk, device) = open(front);
            let rings = F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC;
            assert_eq!(blk.features & rings, layout);
            assert_eq!(blk.queues.len(), 2);
            for (index, queue) in blk.queues.iter_mut().enumerate() {
                exercise(queue, index as u64 * 8192, memory(&backend));
            }
            drop(device);
            drop(blk);
            runner.join();
        }
    }
}

#[test]
fn a_file_is_served_by_every_arrangement_of_threads() {
    for layout in
        [F::EVENT_IDX, F::RING_PACKED | F::EVENT_IDX | F::INDIRECT_DESC, F::RING_PACKED | F::IN_ORDER]
    {
        for threads in [Threads::PerQueue, Threads::One] {
            for polling in [Polling::UpTo(Duration::ZERO), Polling::default(), Polling::Always] {
                let image = Image::new(SECTORS);
                let back = back_end(image.device(4, false), ring(layout));
                let (runner, stream) = serve(back, threads, polling);
                let (blk, device) = open(FrontEnd::over(stream, options()).unwrap());
                std::thread::scope(|scope| {
                    for (index, mut queue) in blk.queues.into_iter().enumerate() {
                        let image = &image;
                        scope.spawn(move || {
                            exercise(&mut queue, index as u64 * 8192, |at, len| image.read(at, len));
                        });
                    }
                });
                let counters = runner.queues()[0].counters().clone();
                assert!(counters.completed() >= 601 && counters.taken() == counters.completed());
                drop(device);
                runner.join();
            }
        }
    }
}

#[test]
fn a_loop_of_ones_own_runs_a_back_end_without_any_thread() {
    let backend = MemoryBackend::new(SECTORS * 512);
    let mut back: BackEnd = back_end(Device::new(backend.clone(), 1), Options::default());
    let (ours, theirs) = UnixStream::pair().unwrap();
    back.connect(theirs).unwrap();
    let driver = std::thread::spawn(move || {
        let (mut blk, _device) = open(FrontEnd::over(ours, options()).unwrap());
        exercise(&mut blk.queues[0], 0, memory(&backend));
    });
    let queue = back.queues()[0].clone();
    let deadline = Instant::now() + LONG;
    let ended = loop {
        assert!(Instant::now() < deadline);
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&back, PollFlags::IN), PollFd::new(&queue, PollFlags::IN)], None).unwrap();
        if let Some(ended) = back.process() {
            break ended;
        }
        queue.sleep(Some(Duration::ZERO));
        while queue.turn() != virtio_kit_linux::vhost_user::back_end::Turn::Idle || !queue.arm() {}
    };
    assert!(ended.is_normal(), "{ended}");
    driver.join().unwrap();
}

#[test]
fn front_ends_come_one_after_another_and_a_stopped_server_leaves_no_socket() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let backend = MemoryBackend::new(SECTORS * 512);
    let back = back_end(Device::new(backend.clone(), 1), Options::default());
    let source = Source::Listener(Listener::bind(&path).unwrap());
    let runner = Runner::start(back, source, "test", Threads::PerQueue, Polling::default()).unwrap();
    for layout in layouts() {
        let features = !(F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC) | layout;
        let front = FrontEnd::connect(&path, front_end::Options { features, ..options() }).unwrap();
        let (mut blk, _device) = open(front);
        exercise(&mut blk.queues[0], 0, memory(&backend));
    }
    // One that hangs up with requests in flight, and never says goodbye.
    let (mut blk, device) = open(FrontEnd::connect(&path, options()).unwrap());
    let data = vec![buffer(&blk.queues[0], 4096, 1)];
    blk.queues[0].write(0, data, 0).unwrap();
    blk.queues[0].kick().unwrap();
    drop(device);
    let (mut blk, _device) = open(FrontEnd::connect(&path, options()).unwrap());
    exercise(&mut blk.queues[0], 0, memory(&backend));
    runner.stop();
    assert!(!path.exists());
    let data = vec![buffer(&blk.queues[0], 4096, 1)];
    blk.queues[0].write(0, data, 0).unwrap();
    blk.queues[0].kick().unwrap();
    assert!(blk.queues[0].wait(LONG).is_err());
}

#[test]
fn a_back_end_that_is_the_client_finds_its_front_end_again_and_again() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let backend = MemoryBackend::new(SECTORS * 512);
    let back = back_end(Device::new(backend.clone(), 1), Options::default());
    let source = Source::Connect(path.clone());
    let runner = Runner::start(back, source, "test", Threads::One, Polling::default()).unwrap();
    for _ in 0..3 {
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let stream = listener.accept().unwrap().0;
        let (mut blk, _device) = open(FrontEnd::over(stream, options()).unwrap());
        exercise(&mut blk.queues[0], 0, memory(&backend));
        std::fs::remove_file(&path).unwrap();
    }
    runner.stop();
}

#[test]
fn a_queue_is_reset_and_goes_on_while_another_runs() {
    for layout in [F::EVENT_IDX, F::RING_PACKED | F::EVENT_IDX, F::RING_PACKED | F::IN_ORDER, F::IN_ORDER] {
        let image = Image::new(SECTORS);
        let back = back_end(image.device(2, false), ring(layout));
        let (runner, stream) = serve(back, Threads::PerQueue, Polling::default());
        let (mut blk, mut device) = open(FrontEnd::over(stream, options()).unwrap());
        for round in 0..5u8 {
            for i in 0..8 {
                let data = vec![buffer(&blk.queues[0], 4096, round)];
                blk.queues[0].write(i * 8, data, i).unwrap();
            }
            blk.queues[0].kick().unwrap();
            // Without waiting for them: what was taken comes to its end all the same.
            device.reset_queue(&blk.queues[0]).unwrap();
            // Done or not, the driver hands back what it had not yet taken off.
            let back = std::iter::from_fn(|| blk.queues[0].complete().unwrap_or(None)).count();
            assert_eq!(back, 8);
            device.restart_queue(&mut blk.queues[0]).unwrap();
            exercise(&mut blk.queues[1], 8192, |at, len| image.read(at, len));
        }
        exercise(&mut blk.queues[0], 0, |at, len| image.read(at, len));
        drop(device);
        runner.join();
    }
}

#[test]
fn a_changed_size_is_announced() {
    let backend = MemoryBackend::new(SECTORS * 512);
    let device = Device::new(backend, 1);
    let resizer = device.resizer();
    let (_runner, stream) = serve(back_end(device, Options::default()), Threads::One, Polling::default());
    let front = FrontEnd::over(stream, options()).unwrap();
    let notice = front.config_notice();
    let (_blk, mut device) = open(front);
    assert_eq!(device.info().unwrap().sectors, SECTORS);
    for more in 1..=3 {
        resizer.resized((SECTORS + more) * 512);
        until("the notice", || u64::from(notice.generation()) >= more);
        assert_eq!(device.info().unwrap().sectors, SECTORS + more);
    }
}

#[test]
fn what_the_driver_may_write_of_the_configuration_is_written_and_nothing_else() {
    let backend = MemoryBackend::new(SECTORS * 512);
    let (_runner, stream) =
        serve(back_end(Device::new(backend, 1), Options::default()), Threads::One, Polling::default());
    let (_blk, mut device) = open(FrontEnd::over(stream, options()).unwrap());
    for on in [false, true, false] {
        device.set_writeback(on).unwrap();
        assert_eq!(device.info().unwrap().writeback, on);
    }
    assert!(device.device().write_config(0, &1u64).is_err());
    assert_eq!(device.info().unwrap().sectors, SECTORS);
}

#[test]
fn a_drivers_choice_of_cache_mode_outlives_the_server() {
    for rings in [F::EVENT_IDX, F::RING_PACKED] {
        let (dir, backend) = (TempDir::new(), MemoryBackend::new(SECTORS * 512));
        let path = dir.join("s");
        let serve = || {
            let source = Source::Listener(Listener::bind(&path).unwrap());
            let back = back_end(Device::new(backend.clone(), 1), ring(rings));
            Runner::start(back, source, "test", Threads::One, Polling::default()).unwrap()
        };
        let runner = serve();
        let options = front_end::Options { reconnect: Some(LONG), ..options() };
        let (mut blk, mut device) = open(FrontEnd::connect(&path, options).unwrap());
        assert!(device.info().unwrap().writeback);
        device.set_writeback(false).unwrap();
        // As good as killed: nothing is left but what the front-end holds.
        runner.stop();
        let runner = serve();
        exercise(&mut blk.queues[0], 0, memory(&backend));
        assert!(!device.info().unwrap().writeback, "{rings:?}");
        // Another driver has its own choice.
        drop((device, blk));
        let (_, mut device) = open(FrontEnd::connect(&path, self::options()).unwrap());
        assert!(device.info().unwrap().writeback);
        drop(device);
        runner.stop();
    }
}
