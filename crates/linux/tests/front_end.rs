//! The vhost-user front-end against a scripted back-end: order of messages, data, and everything that a
//! back-end can do wrong.

mod common;

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::backend::{Fault, Script, Served};
use common::{LONG, TempDir, until};
use virtio_kit::driver::{Device, Found, NegotiateError, Used, Virtqueue, VqOptions};
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{Arena, Chain, DmaBuf};
use virtio_kit_linux::vhost_user::codec::{F_PROTOCOL_FEATURES, ProtocolFeatures as P, Request, RequestCode};
use virtio_kit_linux::vhost_user::front_end::{ConnectError, FrontEnd, IMPLEMENTED, Options};
use virtio_kit_ring::driver::{Evidence, Indirect};
use virtio_kit_spec::{DeviceId, F, Features};

type Question = Chain<DmaBuf, DmaBuf>;
type Vq = Virtqueue<Question, u32>;

fn options() -> Options {
    Options { arena_len: 1 << 20, timeout: LONG, queue_size: 16, ..Options::new(DeviceId::BLOCK) }
}

fn connect(script: Script, options: Options) -> (Result<FrontEnd, ConnectError>, Served) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = script.serve(theirs);
    (FrontEnd::over(ours, options), served)
}

fn negotiate(front: FrontEnd) -> Result<virtio_kit::driver::Setup, NegotiateError> {
    Found::new(Box::new(front)).negotiate(Features::EMPTY)
}

fn chain(arena: &Arena, number: u32) -> Question {
    let mut question = arena.alloc(100).unwrap();
    question.fill(number as u8);
    let answer = arena.alloc_zeroed(100).unwrap();
    Chain::new(question, answer)
}

fn add(vq: &mut Vq, arena: &Arena, numbers: std::ops::Range<u32>) {
    for number in numbers {
        vq.add_buf(chain(arena, number), number).unwrap();
    }
}

/// Takes `count` answers, each of which must be the echo of its question.
fn take(vq: &mut Vq, count: usize) -> Result<Vec<u32>, TransportError> {
    let mut tokens = Vec::new();
    let deadline = Instant::now() + LONG;
    while tokens.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} answers", tokens.len());
        match vq.get_buf().unwrap() {
            Some(Used { chain, token, written }) => {
                let answer: [u8; 100] = chain.writable.read_value(0).unwrap();
                assert_eq!((answer, written), ([token as u8; 100], 100));
                tokens.push(token);
            }
            None => {
                vq.wait(LONG)?;
            }
        }
    }
    Ok(tokens)
}

/// A whole life: everything that the other tests need to go wrong.
fn live(front: FrontEnd, queues: u16) -> Result<Features, TransportError> {
    let flat = |error| match error {
        NegotiateError::Transport(error) => error,
        _ => TransportError::Refused("features"),
    };
    let mut setup = negotiate(front).map_err(flat)?;
    let config: [u8; 80] = setup.read_config()?;
    assert_eq!(config[..60], std::array::from_fn::<u8, 60, _>(|i| i as u8));
    assert_eq!(config[60..], [0; 20]);
    let arena = setup.arena().unwrap().clone();
    let mut vqs = Vec::new();
    for index in 0..queues {
        let options = VqOptions {
            indirect: Some(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 }),
            ..VqOptions::default()
        };
        let mut vq: Vq = setup.new_vq(index, options).unwrap();
        // Before the device runs: it has to look of itself.
        add(&mut vq, &arena, 0..3);
        vq.kick().unwrap();
        vqs.push(vq);
    }
    let device = setup.start()?;
    let features = device.features();
    for vq in &mut vqs {
        take(vq, 3)?;
        for round in 0..20 {
            add(vq, &arena, round * 5..round * 5 + 5);
            vq.kick().unwrap();
            let mut got = take(vq, 5)?;
            got.sort();
            assert_eq!(got, Vec::from_iter(round * 5..round * 5 + 5));
        }
    }
    device.reset()?;
    for mut vq in vqs {
        let quiesced = vq.quiesced().unwrap();
        assert_eq!(quiesced.evidence(), Evidence::BackendStopped);
        assert_eq!(vq.shutdown(quiesced).count(), 0);
    }
    Ok(features)
}

#[test]
fn every_layout_echoes_over_every_set_of_protocol_features() {
    let rings = [F::RING_PACKED, F::IN_ORDER, F::EVENT_IDX, F::INDIRECT_DESC];
    let everything = IMPLEMENTED;
    let protocols = [
        everything,
        everything - P::REPLY_ACK,
        everything - P::CONFIGURE_MEM_SLOTS - P::STATUS,
        P::CONFIG,
        P::CONFIG | P::MQ | P::RESET_DEVICE,
    ];
    for mask in 0..16 {
        let ring: Features = (0..4).filter(|bit| mask >> bit & 1 == 1).map(|bit| rings[bit]).collect();
        for protocol in protocols {
            let (front, served) = connect(Script::new(ring, protocol), options());
            let front = front.unwrap();
            let queues = if protocol.contains(P::MQ) { 4 } else { 1 };
            assert_eq!(front.queue_count(), queues);
            assert_eq!(live(front, queues), Ok(ring | F::VERSION_1));
            served.join();
        }
    }
}

#[test]
fn messages_come_in_the_order_that_back_ends_know() {
    use RequestCode::*;
    let (front, served) = connect(Script::new(Features::EMPTY, IMPLEMENTED | P::MTU), {
        Options { reconnect: Some(LONG), ..options() }
    });
    assert_eq!(front.as_ref().unwrap().protocol_features(), IMPLEMENTED - P::INFLIGHT_SHMFD);
    live(front.unwrap(), 1).unwrap();
    let log = served.join();
    let codes: Vec<_> = log.iter().map(|request| RequestCode::from_id(request.id()).unwrap()).collect();
    let at_first = [
        GetFeatures,
        GetProtocolFeatures,
        SetProtocolFeatures,
        GetQueueNum,
        GetMaxMemSlots,
        SetBackendReqFd,
        SetOwner,
        GetStatus,
        SetStatus,
        SetStatus,
        SetFeatures,
        SetStatus,
        GetStatus,
    ];
    assert_eq!(codes[..at_first.len()], at_first);
    let start = [
        AddMemReg,
        SetVringNum,
        SetVringBase,
        SetVringAddr,
        SetVringErr,
        SetVringCall,
        SetVringKick,
        SetVringEnable,
        SetStatus,
        SetVringEnable,
        GetVringBase,
        ResetDevice,
        SetStatus,
        GetStatus,
    ];
    let configs = codes[at_first.len()..].iter().take_while(|code| **code == GetConfig).count();
    // 80 bytes were asked for, and the device has 60.
    assert!(configs > 1);
    assert_eq!(codes[at_first.len() + configs..], start);
    assert!(log.contains(&Request::SetFeatures(F::VERSION_1.low() | F_PROTOCOL_FEATURES)));
}

#[test]
fn a_back_end_without_protocol_features_works_and_is_never_sent_what_they_allow() {
    let mut script = Script::new(F::EVENT_IDX, P::empty());
    script.features &= !F_PROTOCOL_FEATURES;
    let (front, served) = connect(script, options());
    let mut setup = negotiate(front.unwrap()).unwrap();
    assert!(matches!(setup.read_config::<u8>(), Err(TransportError::Unsupported(_))));
    let vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let device = setup.start().unwrap();
    device.reset().unwrap();
    drop(vq);
    let log = served.join();
    let allowed = [1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14];
    assert!(log.iter().all(|request| allowed.contains(&request.id())), "{log:?}");
}

#[test]
fn drivers_never_see_the_bits_of_the_protocol_nor_get_what_it_cannot_carry() {
    let more =
        F::NOTIFICATION_DATA | F::RING_RESET | F::ACCESS_PLATFORM | F::ORDER_PLATFORM | Features::bit(5);
    let (front, _served) = connect(Script::new(more, IMPLEMENTED), options());
    let mut front = front.unwrap();
    let offered = front.device_features().unwrap();
    assert_eq!(offered, more | F::VERSION_1);
    assert_eq!(offered & front.allowed_features(), F::VERSION_1 | Features::bit(5));
    assert!(!front.allowed_features().intersects(Features::bit(26) | Features::bit(30) | Features::bit(64)));
}

#[test]
fn features_that_are_not_offered_or_are_refused_do_not_keep_features_ok() {
    for protocol in [IMPLEMENTED, IMPLEMENTED - P::STATUS] {
        let script = Script::new(Features::EMPTY, protocol).fault(Fault::Nack(RequestCode::SetFeatures));
        let (front, _served) = connect(script, options());
        assert!(matches!(negotiate(front.unwrap()), Err(NegotiateError::Refused)));
        let (front, served) = connect(Script::new(Features::EMPTY, protocol), options());
        let mut front = front.unwrap();
        front.set_driver_features(F::VERSION_1 | Features::bit(7)).unwrap();
        front.set_status(virtio_kit::Status::FEATURES_OK).unwrap();
        assert!(!front.status().unwrap().contains(virtio_kit::Status::FEATURES_OK));
        drop(front);
        assert!(served.join().iter().all(|request| request.id() != 2));
    }
}

/// How many messages a whole life with one queue has.
fn messages(protocol: P) -> usize {
    let (front, served) = connect(Script::new(Features::EMPTY, protocol), options());
    live(front.unwrap(), 1).unwrap();
    served.join().len()
}

/// Lets a back-end fail at every message of a life; it must end with an error, in time.
fn fail_everywhere(fault: fn(usize) -> Fault, timeout: Duration, expected: fn(&TransportError) -> bool) {
    for protocol in [IMPLEMENTED, P::CONFIG] {
        for at in 0..messages(protocol) {
            let script = Script::new(Features::EMPTY, protocol).fault(fault(at));
            let start = Instant::now();
            let (front, served) = connect(script, Options { timeout, ..options() });
            let result = front.map_err(TransportError::from).and_then(|front| live(front, 1));
            assert!(start.elapsed() < timeout + LONG / 2, "message {at}: {:?}", start.elapsed());
            let error = result.expect_err("a life cannot end well");
            assert!(expected(&error), "message {at}: {error:?}");
            served.join();
        }
    }
}

#[test]
fn a_back_end_that_falls_silent_at_any_message_is_given_up_in_time() {
    fail_everywhere(Fault::Silent, Duration::from_millis(60), |error| *error == TransportError::Timeout);
}

#[test]
fn a_back_end_that_hangs_up_at_any_message_is_noticed() {
    fail_everywhere(Fault::Close, LONG, |error| *error == TransportError::Disconnected);
}

#[test]
fn a_back_end_that_hangs_up_within_a_reply_is_noticed() {
    fail_everywhere(Fault::CloseInReply, LONG, |error| *error == TransportError::Disconnected);
}

#[test]
fn garbage_at_any_message_is_an_error_of_the_protocol() {
    fail_everywhere(Fault::Garbage, LONG, |error| matches!(error, TransportError::Protocol(_)));
}

#[test]
fn every_refusal_is_named() {
    use RequestCode::*;
    let connecting = [SetBackendReqFd, SetOwner];
    for code in connecting {
        let script = Script::new(Features::EMPTY, IMPLEMENTED).fault(Fault::Nack(code));
        let error = connect(script, options()).0.unwrap_err();
        assert!(matches!(&error, ConnectError::Nack(_, during) if *during == code.name()), "{error}");
    }
    let living = [
        AddMemReg,
        SetVringNum,
        SetVringBase,
        SetVringAddr,
        SetVringKick,
        SetVringCall,
        SetVringEnable,
        ResetDevice,
    ];
    for code in living {
        let script = Script::new(Features::EMPTY, IMPLEMENTED).fault(Fault::Nack(code));
        let (front, _served) = connect(script, options());
        assert_eq!(live(front.unwrap(), 1), Err(TransportError::Refused(code.name())));
    }
}

#[test]
fn a_back_end_that_lies_about_the_size_of_its_configuration_is_refused() {
    for more in [-1, 1, 8, 100] {
        let script = Script::new(Features::EMPTY, IMPLEMENTED).fault(Fault::ConfigSize(more));
        let (front, _served) = connect(script, options());
        let mut setup = negotiate(front.unwrap()).unwrap();
        assert!(matches!(setup.read_config::<[u8; 8]>(), Err(TransportError::Protocol(_))));
        // And is not asked again.
        assert_eq!(setup.read_config::<[u8; 8]>(), Err(TransportError::Disconnected));
    }
}

#[test]
fn configuration_is_read_from_anywhere_and_written() {
    for len in [1, 60, 255, 256] {
        let mut script = Script::new(Features::EMPTY, IMPLEMENTED);
        script.config = (0..len).map(|i| (i % 251) as u8 + 1).collect();
        let expected = script.config.clone();
        let (front, _served) = connect(script, options());
        let mut front = front.unwrap();
        for (offset, count) in [(0, 600), (0, 1), (3, 20), (59, 2), (255, 2), (256, 8), (1000, 3), (0, 0)] {
            let mut got = vec![0xee; count];
            front.read_config(offset, &mut got).unwrap();
            let want: Vec<u8> =
                (offset..offset + count).map(|i| expected.get(i).copied().unwrap_or(0)).collect();
            assert_eq!(got, want, "{count} bytes at {offset} of {len}");
        }
        front.write_config(0, &[9]).unwrap();
        let mut got = [0];
        front.read_config(0, &mut got).unwrap();
        assert_eq!(got, [9]);
    }
}

#[test]
fn a_change_of_the_configuration_is_announced_and_answered_while_nobody_waits() {
    let mut script = Script::new(Features::EMPTY, IMPLEMENTED);
    script.announce = true;
    let (front, _served) = connect(script, options());
    let front = front.unwrap();
    let notice = front.config_notice();
    let mut setup = negotiate(front).unwrap();
    let _vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    assert_eq!(notice.generation(), 0);
    let mut device = setup.start().unwrap();
    until("the notice", || notice.generation() == 1);
    assert_eq!(device.read_config::<[u8; 4]>(), Ok([0x77; 4]));
}

#[test]
fn a_queue_is_reset_and_enabled_again_while_another_runs() {
    for ring in [F::EVENT_IDX, F::RING_PACKED] {
        let (front, served) = connect(Script::new(ring, IMPLEMENTED), options());
        let mut setup = negotiate(front.unwrap()).unwrap();
        let arena = setup.arena().unwrap().clone();
        let mut first: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
        let mut other: Vq = setup.new_vq(1, VqOptions::default()).unwrap();
        let mut device: Device = setup.start().unwrap();
        for round in 0..3 {
            for vq in [&mut first, &mut other] {
                add(vq, &arena, 0..4);
                vq.kick().unwrap();
                take(vq, 4).unwrap();
            }
            add(&mut first, &arena, 100..100 + round);
            let quiesced = device.reset_vq(&first).unwrap();
            assert_eq!(quiesced.evidence(), Evidence::BackendStopped);
            assert_eq!(first.shutdown(quiesced).count(), round as usize);
            device.enable_vq(&mut first).unwrap();
        }
        device.free_vq(first).unwrap();
        drop(device);
        drop(other);
        served.join();
    }
}

#[test]
fn a_dead_back_end_is_noticed_by_who_waits_and_the_buffers_come_back() {
    let script = Script::new(Features::EMPTY, IMPLEMENTED).fault(Fault::Crash(3, 8));
    let (front, served) = connect(script, options());
    let mut setup = negotiate(front.unwrap()).unwrap();
    let arena = setup.arena().unwrap().clone();
    let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let device = setup.start().unwrap();
    add(&mut vq, &arena, 0..8);
    vq.kick().unwrap();
    let mut got = Vec::new();
    let error = loop {
        while let Some(used) = vq.get_buf().unwrap() {
            got.push(used.token);
        }
        match vq.wait(LONG) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((error, got), (TransportError::Disconnected, vec![0, 1, 2]));
    served.join();
    assert!(matches!(device.reset(), Err(TransportError::Disconnected)));
    let quiesced = vq.quiesced().unwrap();
    assert_eq!(quiesced.evidence(), Evidence::ArenaRetired);
    let mut back: Vec<u32> = vq.shutdown(quiesced).map(|(_, token)| token).collect();
    back.sort();
    assert_eq!(back, [3, 4, 5, 6, 7]);
    assert!(arena.is_retired());
}

#[test]
fn callbacks_run_by_a_dispatcher_on_another_thread() {
    let (front, _served) = connect(Script::new(F::EVENT_IDX, IMPLEMENTED), options());
    let front = front.unwrap();
    let dispatcher = front.dispatcher();
    let mut setup = negotiate(front).unwrap();
    let arena = setup.arena().unwrap().clone();
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    let callback: virtio_kit::driver::Callback = Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        true
    });
    let mut vq: Vq = setup.new_vq(0, VqOptions { callback: Some(callback), ..VqOptions::default() }).unwrap();
    let device = setup.start().unwrap();
    let thread = std::thread::spawn(move || while dispatcher.wait(LONG).is_ok() {});
    for round in 1..=50 {
        add(&mut vq, &arena, 0..1);
        vq.restart();
        vq.kick().unwrap();
        until("the callback", || calls.load(Ordering::Relaxed) >= round);
        assert!(vq.get_buf().unwrap().is_some());
    }
    // Its connection is closed, and the thread ends.
    drop(device);
    thread.join().unwrap();
}

/// A back-end that takes 8, uses 3 and crashes; another that goes on. All 8 must come back, once each.
fn restart(ring: Features, protocol: P) {
    let dir = TempDir::new();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let script = Script::new(ring, protocol);
    let first = script.clone().fault(Fault::Crash(3, 8));
    let second = std::thread::spawn(move || {
        let served = first.serve(listener.accept().unwrap().0);
        served.join();
        let served = script.serve(listener.accept().unwrap().0);
        served.join()
    });
    let front = FrontEnd::connect(&path, Options { reconnect: Some(LONG), ..options() }).unwrap();
    assert!(front.protocol_features().contains(P::INFLIGHT_SHMFD));
    let mut setup = negotiate(front).unwrap();
    let arena = setup.arena().unwrap().clone();
    let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let mut idle: Vq = setup.new_vq(1, VqOptions::default()).unwrap();
    let mut device = setup.start().unwrap();
    add(&mut vq, &arena, 0..8);
    vq.kick().unwrap();
    let mut got = take(&mut vq, 8).unwrap();
    got.sort();
    assert_eq!(got, Vec::from_iter(0..8));
    // And the device is as good as before.
    for vq in [&mut vq, &mut idle] {
        add(vq, &arena, 0..16 - 8);
        vq.kick().unwrap();
        take(vq, 8).unwrap();
    }
    assert!(device.read_config::<[u8; 8]>().is_ok());
    assert_eq!(vq.in_flight(), 0);
    let found = device.reset().unwrap();
    drop(found);
    let log = second.join().unwrap();
    let at = |wanted| log.iter().position(|request| RequestCode::from_id(request.id()) == Some(wanted));
    assert!(at(RequestCode::GetInflightFd).is_none());
    let memory = at(RequestCode::AddMemReg).or(at(RequestCode::SetMemTable));
    assert!(at(RequestCode::SetInflightFd) < memory);
}

#[test]
fn a_restarted_back_end_goes_on_with_what_was_in_flight() {
    for ring in [Features::EMPTY, F::EVENT_IDX, F::RING_PACKED, F::RING_PACKED | F::EVENT_IDX, F::IN_ORDER] {
        restart(ring, IMPLEMENTED | P::INFLIGHT_SHMFD);
        restart(ring, P::MQ | P::CONFIG | P::INFLIGHT_SHMFD);
    }
}

#[test]
fn a_back_end_that_comes_back_with_less_is_not_used() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let script = Script::new(F::EVENT_IDX, IMPLEMENTED);
    let lesser = Script::new(Features::EMPTY, IMPLEMENTED);
    let thread = std::thread::spawn(move || {
        script.fault(Fault::Crash(0, 1)).serve(listener.accept().unwrap().0).join();
        lesser.serve(listener.accept().unwrap().0).join();
    });
    let front = FrontEnd::connect(&path, Options { reconnect: Some(LONG), ..options() }).unwrap();
    let mut setup = negotiate(front).unwrap();
    let arena = setup.arena().unwrap().clone();
    let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let _device = setup.start().unwrap();
    add(&mut vq, &arena, 0..1);
    vq.kick().unwrap();
    assert_eq!(take(&mut vq, 1), Err(TransportError::Disconnected));
    thread.join().unwrap();
}

#[test]
fn a_back_end_that_does_not_come_back_is_given_up_in_time() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let script = Script::new(Features::EMPTY, IMPLEMENTED).fault(Fault::Crash(0, 1));
    let thread = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        drop(listener);
        script.serve(stream).join()
    });
    let window = Duration::from_millis(100);
    let front = FrontEnd::connect(&path, Options { reconnect: Some(window), ..options() }).unwrap();
    let mut setup = negotiate(front).unwrap();
    let arena = setup.arena().unwrap().clone();
    let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let _device = setup.start().unwrap();
    add(&mut vq, &arena, 0..1);
    vq.kick().unwrap();
    let start = Instant::now();
    assert_eq!(take(&mut vq, 1), Err(TransportError::Disconnected));
    assert!(start.elapsed() < LONG / 2);
    assert_eq!(vq.wait(LONG), Err(TransportError::Disconnected));
    thread.join().unwrap();
}

#[test]
fn what_is_wrong_with_a_path_is_said_in_one_line() {
    let dir = TempDir::new();
    let (none, file, dead, silent) =
        (dir.join("none"), dir.join("file"), dir.join("dead"), dir.join("silent"));
    std::fs::write(&file, "text").unwrap();
    drop(UnixListener::bind(&dead).unwrap());
    let _listener = UnixListener::bind(&silent).unwrap();
    let timeout = Duration::from_millis(50);
    let error = |path: &std::path::Path| {
        let error = FrontEnd::connect(path, Options { timeout, ..options() }).unwrap_err();
        let line = error.to_string();
        assert!(!line.contains('\n') && line.contains(path.to_str().unwrap()), "{line}");
        error
    };
    assert!(matches!(error(&none), ConnectError::NoSocket(_)));
    assert!(matches!(error(&file), ConnectError::NotASocket(_)));
    assert!(matches!(error(dir.path()), ConnectError::NotASocket(_)));
    assert!(matches!(error(&dead), ConnectError::Refused(_)));
    assert!(matches!(error(&silent), ConnectError::Timeout(_, "GET_FEATURES")));
    assert!(matches!(error(&dir.join(&"x".repeat(200))), ConnectError::BadPath(_)));
    let bad = Options { queue_size: 3, ..options() };
    assert!(matches!(FrontEnd::connect(&silent, bad), Err(ConnectError::Options(_))));
}

#[test]
fn a_socket_that_appears_late_is_waited_for() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let late = path.clone();
    std::thread::scope(|scope| {
        let front = scope.spawn(|| FrontEnd::connect(&path, Options { patience: LONG, ..options() }));
        let listener = UnixListener::bind(&late).unwrap();
        let served = Script::new(Features::EMPTY, IMPLEMENTED).serve(listener.accept().unwrap().0);
        drop(front.join().unwrap().unwrap());
        served.join();
    });
}

#[test]
fn a_backlog_that_is_full_does_not_hold_connecting_up_for_ever() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    let timeout = Duration::from_millis(50);
    let error = FrontEnd::connect(&path, Options { timeout, ..options() }).unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_, "connect")), "{error}");
}
