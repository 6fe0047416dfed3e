//! The console driver on the console device, in one program.

mod common;

use common::{LIMIT, StdClock, join, layouts};
use std::io::{Read, Write};
use std::time::Duration;
use virtio_kit::bus::Bound;
use virtio_kit::in_process::DeviceEnd;
use virtio_kit::spec::console::F as ConsoleF;
use virtio_kit::transport::Transport;
use virtio_kit::{Arena, F, Features};
use virtio_kit_devices::console::{
    Console as Device, Handle, PlugError, Port as Plug, Size as DeviceSize, Transcript,
};
use virtio_kit_drivers::console::{
    Console, ConsoleDevice, Event, Options, Port, PortError, Size, TakeError, emergency_write, open,
};
use virtio_kit_testkit::counting::{CountingAllocator, calls_during};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

struct Pair {
    console: Console,
    device: ConsoleDevice,
    handle: Handle,
    arena: Arena,
    end: DeviceEnd,
}

fn pair_with(device: Device, ring: Features, options: &Options) -> Pair {
    let handle = device.handle();
    let (found, end, arena) = join(device, ring);
    let (console, device) = open(found, options).unwrap();
    let layout = F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC;
    assert_eq!(console.features() & layout, ring & layout);
    Pair { console, device, handle, arena, end }
}

fn pair(device: Device, ring: Features) -> Pair {
    pair_with(device, ring, &Options::default())
}

impl Pair {
    /// Waits for this event, and gives those that came before it.
    #[track_caller]
    fn until(&mut self, wanted: Event) -> Vec<Event> {
        let mut seen = vec![];
        let found = self.console.wait_for(&*StdClock::new(), LIMIT, |_, event| {
            seen.extend(event);
            (event == Some(wanted)).then_some(())
        });
        assert_eq!(found, Ok(Some(())), "{wanted:?} after {seen:?}");
        seen.pop();
        seen
    }

    /// Takes what there is until nothing more comes.
    fn all_events(&mut self) -> Vec<Event> {
        let mut seen = vec![];
        loop {
            match self.console.poll().unwrap() {
                Some(event) => seen.push(event),
                None if self.console.wait(Duration::ZERO).unwrap() => {}
                None => return seen,
            }
        }
    }
}

#[track_caller]
fn read_all(port: &mut Port, len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    let mut done = 0;
    while done < len {
        match port.read(&mut got[done..]).unwrap() {
            Some(more) => done += more,
            None => panic!("only {done} of {len} bytes"),
        }
    }
    got
}

fn text(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

#[test]
fn what_is_written_arrives_and_what_is_typed_is_read_in_every_layout() {
    for layout in layouts() {
        let script = Transcript::new(1 << 20);
        let Pair { console, device: _device, .. } = pair(Device::single(script.clone()), layout);
        assert!(!console.features().contains(ConsoleF::MULTIPORT));
        let mut port = console.port(0).unwrap();
        assert!(port.is_connected() && port.is_console());
        assert_eq!(console.port(0).unwrap_err(), TakeError::Taken(0));
        assert_eq!(console.port(1).unwrap_err(), TakeError::NoPort(1));
        for (round, len) in [1, 10, 4095, 4096, 4097, 30_000, 65_537].into_iter().enumerate() {
            let sent = text(round, len);
            let mut done = 0;
            while done < len {
                done += port.write(&sent[done..]).unwrap().expect("the device takes at once");
            }
            assert!(script.take() == sent, "{layout:?}, {len}");
            script.type_in(&sent);
            assert!(read_all(&mut port, len) == sent, "{layout:?}, {len}");
            assert_eq!(port.read(&mut [0]), Ok(None));
            assert_eq!(script.untold(), 0);
        }
    }
}

// drivernormative:Device Types / Console Device / Device Operation / Multiport Device Operation
// devicenormative:Device Types / Console Device / Device Operation / Multiport Device Operation
#[test]
fn ports_are_announced_named_and_opened_in_every_layout() {
    for layout in layouts() {
        let scripts: Vec<_> = (0..3).map(|_| Transcript::new(1 << 16)).collect();
        let device = Device::multiport(8);
        let handle = device.handle();
        handle
            .plug(0, Plug::new(scripts[0].clone()).console().sized(DeviceSize { cols: 80, rows: 25 }))
            .unwrap();
        handle.plug(3, Plug::new(scripts[1].clone()).named("org.example.log")).unwrap();
        handle.plug(7, Plug::new(scripts[2].clone()).named("späť").disconnected()).unwrap();
        let mut pair = pair(device, layout);
        let seen = pair.all_events();
        assert_eq!(
            seen,
            [
                Event::Added(0),
                Event::Added(3),
                Event::Added(7),
                Event::Console(0),
                Event::Resized(0, Size { cols: 80, rows: 25 }),
                Event::Opened(0),
                Event::Named(3),
                Event::Opened(3),
                Event::Named(7),
            ],
            "{layout:?}"
        );
        // A console port is answered by opening it, the others are opened by whoever takes them.
        assert_eq!([0, 3, 7].map(|id| handle.is_open(id)), [true, false, false]);
        assert_eq!(pair.console.named("org.example.log"), Some(3));
        assert_eq!(pair.console.named("org.example"), None);
        let names: Vec<_> = pair.console.ports().map(|port| (port.id, port.name, port.connected)).collect();
        assert_eq!(
            names,
            [(0, None, true), (3, Some("org.example.log".into()), true), (7, Some("späť".into()), false)]
        );
        let mut log = pair.console.port(3).unwrap();
        scripts[1].type_in(b"early");
        assert_eq!(log.read(&mut [0; 9]), Ok(None), "held back until the port is open");
        log.open().unwrap();
        assert!(handle.is_open(3));
        assert_eq!(read_all(&mut log, 5), b"early");
        assert_eq!(log.write(b"to the log"), Ok(Some(10)));
        assert_eq!(scripts[1].take(), b"to the log");
        assert_eq!(scripts[0].take(), b"");
        let mut other = pair.console.port(7).unwrap();
        assert_eq!(other.write(b"x"), Err(PortError::Closed));
        assert_eq!(other.read(&mut [0]), Err(PortError::Closed));
        scripts[2].set_connected(true);
        pair.until(Event::Opened(7));
        assert_eq!(other.write(b"x"), Ok(Some(1)));
        scripts[2].set_connected(false);
        pair.until(Event::Closed(7));
        assert_eq!(other.write(b"y"), Err(PortError::Closed));
        assert_eq!(scripts[2].take(), b"x");
        drop(log);
        assert!(!handle.is_open(3), "closed when it is dropped");
        assert!(pair.console.port(3).is_ok());
        assert_eq!(handle.ignored(), 0);
    }
}

#[test]
fn ports_come_and_go_while_others_are_in_use() {
    for layout in layouts() {
        let device = Device::multiport(3);
        let mut pair = pair(device, layout);
        let free = pair.arena.free_bytes();
        assert_eq!(pair.all_events(), []);
        for round in 0..20 {
            let (one, two) = (Transcript::new(1 << 16), Transcript::new(1 << 16));
            pair.handle.plug(1, Plug::new(one.clone())).unwrap();
            pair.handle.plug(2, Plug::new(two.clone()).named(format!("round {round}"))).unwrap();
            assert_eq!(pair.handle.plug(1, Plug::new(one.clone())), Err(PlugError::Taken(1)));
            assert_eq!(pair.handle.plug(3, Plug::new(one.clone())), Err(PlugError::Beyond(3)));
            pair.until(Event::Opened(2));
            let (mut a, mut b) = (pair.console.port(1).unwrap(), pair.console.port(2).unwrap());
            a.open().unwrap();
            b.open().unwrap();
            one.type_in(b"never read");
            assert_eq!(b.write(b"hello"), Ok(Some(5)));
            pair.handle.unplug(1).unwrap();
            assert_eq!(pair.handle.unplug(1), Err(PlugError::NoPort(1)));
            pair.until(Event::Removed(1));
            assert_eq!(a.write(b"x"), Err(PortError::Removed));
            assert_eq!(a.read(&mut [0]), Err(PortError::Removed));
            assert_eq!(a.open(), Err(PortError::Removed));
            assert_eq!(pair.console.port(1).unwrap_err(), TakeError::NoPort(1));
            // The other one goes on.
            assert_eq!(b.write(b" again"), Ok(Some(6)));
            assert_eq!(two.take(), b"hello again");
            // A port of the same number is another port, and cannot be had while somebody holds on to the old one.
            let three = Transcript::new(1 << 16);
            pair.handle.plug(1, Plug::new(three.clone())).unwrap();
            pair.until(Event::Opened(1));
            assert_eq!(a.write(b"x"), Err(PortError::Removed));
            assert_eq!(pair.console.port(1).unwrap_err(), TakeError::Taken(1));
            drop(a);
            let mut again = pair.console.port(1).unwrap();
            again.open().unwrap();
            assert_eq!(again.read(&mut [0; 20]), Ok(None), "nothing of the old one");
            three.type_in(b"new");
            assert_eq!(read_all(&mut again, 3), b"new");
            pair.handle.unplug(1).unwrap();
            pair.handle.unplug(2).unwrap();
            pair.until(Event::Removed(2));
            assert_eq!(pair.console.ports().count(), 0);
            let _ = free;
        }
        assert_eq!(pair.handle.ignored(), 0);
    }
}

#[test]
fn a_port_that_goes_and_comes_before_the_driver_looks_is_announced_as_both() {
    let device = Device::multiport(2);
    device.handle().plug(1, Plug::new(Transcript::new(10)).named("old")).unwrap();
    let mut pair = pair(device, Features::EMPTY);
    pair.until(Event::Opened(1));
    pair.handle.unplug(1).unwrap();
    pair.handle.plug(1, Plug::new(Transcript::new(10)).named("new")).unwrap();
    pair.handle.unplug(1).unwrap();
    pair.handle.plug(1, Plug::new(Transcript::new(10)).named("newer")).unwrap();
    let seen = pair.all_events();
    assert!(seen.starts_with(&[Event::Removed(1), Event::Added(1)]), "{seen:?}");
    assert_eq!(pair.console.named("newer"), Some(1));
}

#[test]
fn a_full_output_holds_the_driver_back_and_loses_nothing() {
    for layout in layouts() {
        let script = Transcript::new(100);
        let options = Options { buffers: 4, bytes: 64, ..Options::default() };
        let Pair { console, device: _device, .. } =
            pair_with(Device::single(script.clone()), layout, &options);
        let mut port = console.port(0).unwrap();
        let sent = text(3, 2000);
        let (mut done, mut arrived) = (0, vec![]);
        let mut full = 0;
        while arrived.len() < sent.len() {
            match port.write(&sent[done..]).unwrap() {
                Some(more) if more > 0 => done += more,
                _ => {
                    full += 1;
                    arrived.extend(script.take());
                }
            }
        }
        assert!(arrived == sent && full > 5, "{layout:?}");
        let (_, mut writer) = port.split();
        assert_eq!(writer.is_flushed(), Ok(true));
    }
}

#[test]
fn a_device_that_takes_nothing_ends_a_blocking_write_in_time_and_can_be_removed() {
    for layout in layouts() {
        let script = Transcript::new(10);
        let Pair { console, device, arena, .. } = pair(Device::single(script.clone()), layout);
        let limit = Duration::from_millis(5);
        let mut port = console.port(0).unwrap().blocking(StdClock::new(), limit);
        assert_eq!(port.read(&mut [0]), Err(PortError::Timeout(limit)));
        let all = [7; 1 << 20];
        let mut sent = 0;
        let error = loop {
            match port.write(&all) {
                Ok(more) => sent += more,
                Err(error) => break error,
            }
        };
        assert_eq!(error, PortError::Timeout(limit));
        assert_eq!(port.flush(), Err(PortError::Timeout(limit)));
        assert!(sent > 10);
        drop(device);
        assert!(matches!(port.write(&all), Err(PortError::Queue(_))));
        assert!(matches!(port.read(&mut [0]), Err(PortError::Queue(_))));
        drop((port, console));
        assert_eq!(arena.free_bytes(), arena.len(), "{layout:?}");
    }
}

#[test]
fn a_resize_is_told_by_the_configuration_and_by_a_message() {
    let script = Transcript::new(10);
    let size = |cols, rows| DeviceSize { cols, rows };
    let device = Device::single(script.clone()).with_size(size(80, 24));
    let mut one = pair(device, Features::EMPTY);
    assert!(one.console.features().contains(ConsoleF::SIZE));
    assert_eq!(one.console.size(), Some(Size { cols: 80, rows: 24 }));
    one.handle.resize(0, size(132, 43)).unwrap();
    assert_eq!(one.console.poll(), Ok(None));
    one.device.config_changed();
    assert_eq!(one.console.poll(), Ok(Some(Event::Resized(0, Size { cols: 132, rows: 43 }))));
    assert_eq!(one.console.poll(), Ok(None));
    assert_eq!(one.console.port(0).unwrap().size(), Some(Size { cols: 132, rows: 43 }));
    for rows_first in [false, true] {
        let mut device = Device::multiport(4);
        if rows_first {
            device = device.with_rows_first();
        }
        device.handle().plug(2, Plug::new(script.clone()).console()).unwrap();
        let options = Options { rows_first, ..Options::default() };
        let mut several = pair_with(device, F::RING_PACKED, &options);
        several.until(Event::Opened(2));
        several.handle.resize(2, size(132, 43)).unwrap();
        several.until(Event::Resized(2, Size { cols: 132, rows: 43 }));
        assert_eq!(several.console.port(2).unwrap().size(), Some(Size { cols: 132, rows: 43 }));
        assert_eq!(several.handle.resize(1, size(1, 1)), Err(PlugError::NoPort(1)));
    }
}

// devicenormative:Device Types / Console Device / Device Initialization
#[test]
fn emergency_writes_come_out_in_any_state() {
    let script = Transcript::new(1000);
    let device = Device::single(Transcript::new(10)).with_emergency(script.clone());
    let arena = Arena::new(virtio_kit::ring::mem::HeapMemory::new(1 << 20).unwrap()).unwrap();
    let options = virtio_kit::in_process::Options::inline(arena, StdClock::new());
    let (mut transport, _end) = virtio_kit::in_process::InProcess::new(Box::new(device), options).unwrap();
    emergency_write(&mut transport, b"before ").unwrap();
    assert!(transport.status().unwrap().is_empty());
    let found = virtio_kit::driver::Found::new(Box::new(transport));
    let (console, mut device) = open(found, &Options::default()).unwrap();
    device.emergency_write(b"running").unwrap();
    assert_eq!(script.take(), b"before running");
    drop(console);
    let mut without = pair(Device::single(Transcript::new(10)), Features::EMPTY);
    assert!(without.device.emergency_write(b"x").is_err());
}

#[test]
fn ports_are_streams_of_the_standard_library() {
    let script = Transcript::new(1 << 16);
    let device = Device::multiport(1);
    device.handle().plug(0, Plug::new(script.clone())).unwrap();
    let mut pair = pair(device, F::RING_PACKED | F::IN_ORDER);
    pair.until(Event::Opened(0));
    let port = pair.console.port(0).unwrap();
    port.open().unwrap();
    let (reader, writer) = port.split();
    let mut reader = reader.blocking(StdClock::new(), LIMIT);
    let mut writer = writer.blocking(StdClock::new(), LIMIT);
    writeln!(writer, "{} lines", 2).unwrap();
    writer.flush().unwrap();
    assert_eq!(script.take(), b"2 lines\n");
    script.type_in(b"answer");
    let mut answer = [0; 6];
    Read::read_exact(&mut reader, &mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    script.type_in(b"the rest");
    script.set_connected(false);
    let mut rest = String::new();
    let mut pair = pair;
    pair.until(Event::Closed(0));
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the rest", "what was sent before the end is read, and then the end");
    assert_eq!(Write::write(&mut writer, b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn ports_are_streams_of_embedded_io() {
    use embedded_io::Error;
    let script = Transcript::new(1 << 16);
    let Pair { console, device, .. } = pair(Device::single(script.clone()), Features::EMPTY);
    let mut port = console.port(0).unwrap().blocking(StdClock::new(), Duration::from_millis(5));
    embedded_io::Write::write_all(&mut port, b"abc").unwrap();
    embedded_io::Write::flush(&mut port).unwrap();
    script.type_in(b"def");
    let mut got = [0; 3];
    embedded_io::Read::read_exact(&mut port, &mut got).unwrap();
    assert_eq!((&got, script.take()), (b"def", b"abc".to_vec()));
    assert_eq!(
        embedded_io::Read::read(&mut port, &mut got).unwrap_err().kind(),
        embedded_io::ErrorKind::TimedOut
    );
    drop(device);
}

#[test]
fn futures_of_a_port_are_woken_by_data_room_and_by_its_end() {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake};
    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    for layout in layouts() {
        let script = Transcript::new(100);
        let device = Device::multiport(2);
        device.handle().plug(1, Plug::new(script.clone())).unwrap();
        let options = Options { buffers: 2, bytes: 64, ..Options::default() };
        let mut pair = pair_with(device, layout, &options);
        pair.until(Event::Opened(1));
        let port = pair.console.port(1).unwrap();
        port.open().unwrap();
        let (mut reader, mut writer) = port.split();
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let mut cx = Context::from_waker(&waker);
        let mut to = [0; 10];
        {
            let mut read = pin!(embedded_io_async::Read::read(&mut reader, &mut to));
            assert!(read.as_mut().poll(&mut cx).is_pending());
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
            script.type_in(b"xyz");
            assert_eq!(wakes.0.swap(0, Ordering::Relaxed), 1, "{layout:?}");
            assert_eq!(read.as_mut().poll(&mut cx), Poll::Ready(Ok(3)));
        }
        assert_eq!(to[..3], *b"xyz");
        let sent = text(1, 1000);
        {
            let mut written = pin!(embedded_io_async::Write::write_all(&mut writer, &sent));
            let mut arrived = vec![];
            while written.as_mut().poll(&mut cx).is_pending() {
                wakes.0.store(0, Ordering::Relaxed);
                arrived.extend(script.take());
                assert!(wakes.0.load(Ordering::Relaxed) > 0, "{layout:?}: {}", arrived.len());
            }
            arrived.extend(script.take());
            arrived.extend(script.take());
            arrived.extend(script.take());
            assert_eq!(arrived, sent);
        }
        let mut read = pin!(embedded_io_async::Read::read(&mut reader, &mut to));
        assert!(read.as_mut().poll(&mut cx).is_pending());
        wakes.0.store(0, Ordering::Relaxed);
        script.set_connected(false);
        pair.until(Event::Closed(1));
        assert!(wakes.0.load(Ordering::Relaxed) > 0);
        assert_eq!(read.as_mut().poll(&mut cx), Poll::Ready(Ok(0)));
        let _ = &pair.end;
    }
}

#[test]
fn a_console_waits_for_events_as_a_future() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    let mut pair = pair(Device::multiport(2), Features::EMPTY);
    let mut cx = Context::from_waker(Waker::noop());
    let handle = pair.handle.clone();
    for expected in [Event::Added(1), Event::Named(1), Event::Opened(1)] {
        let mut next = pin!(pair.console.next());
        if expected == Event::Added(1) {
            assert!(next.as_mut().poll(&mut cx).is_pending());
            handle.plug(1, Plug::new(Transcript::new(10)).named("p")).unwrap();
        }
        assert_eq!(next.as_mut().poll(&mut cx), Poll::Ready(Ok(expected)));
    }
}

#[test]
fn nothing_allocates_while_data_moves() {
    for layout in layouts() {
        let script = Transcript::new(1 << 16);
        let Pair { console, device: _device, .. } = pair(Device::single(script.clone()), layout);
        let mut port = console.port(0).unwrap();
        let sent = text(0, 10_000);
        let mut got = vec![0; 10_000];
        let mut round = || {
            let mut calls = calls_during(|| assert_eq!(port.write(&sent), Ok(Some(sent.len()))));
            // The transcript itself allocates.
            script.take();
            script.type_in(&sent);
            calls += calls_during(|| assert_eq!(port.read(&mut got), Ok(Some(sent.len()))));
            calls
        };
        round();
        let mut most = 0;
        for _ in 0..5 {
            most = most.max(round());
        }
        // Growing the transcript is in the device's run.
        assert!(most <= 8, "{layout:?}: {most}");
    }
}

#[test]
fn ports_work_from_threads_while_the_device_runs_on_others() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use virtio_kit::in_process::{Event as Doorbell, InProcess, Options as Joined};
    for ring in [Features::EMPTY, F::EVENT_IDX, F::RING_PACKED | F::EVENT_IDX | F::IN_ORDER] {
        let scripts: Vec<_> = (0..3).map(|_| Transcript::new(1 << 12)).collect();
        let device = Device::multiport(3);
        for (id, script) in scripts.iter().enumerate() {
            device.handle().plug(id as u16, Plug::new(script.clone())).unwrap();
        }
        let arena = Arena::new(virtio_kit::ring::mem::HeapMemory::new(8 << 20).unwrap()).unwrap();
        let options = Joined {
            inline: false,
            ring_features: ring,
            event: Box::new(|| Arc::new(common::Bell::default()) as Arc<dyn Doorbell>),
            ..Joined::inline(arena, StdClock::new())
        };
        let (transport, end) = InProcess::new(Box::new(device), options).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for queue in 0..end.queue_count() {
                let (end, stop) = (end.clone(), &stop);
                scope.spawn(move || end.serve(queue, Duration::ZERO, stop));
            }
            let found = virtio_kit::driver::Found::new(Box::new(transport));
            let (mut console, device) = open(found, &Options::default()).unwrap();
            let all = |console: &mut Console, _| {
                (console.ports().filter(|p| p.connected).count() == 3).then_some(())
            };
            assert_eq!(console.wait_for(&*StdClock::new(), LIMIT, all), Ok(Some(())));
            std::thread::scope(|scope| {
                for (id, script) in scripts.iter().enumerate() {
                    let port = console.port(id as u32).unwrap();
                    port.open().unwrap();
                    let (reader, writer) = port.split();
                    scope.spawn(move || {
                        let mut writer = writer.blocking(StdClock::new(), LIMIT);
                        writer.write_all(&text(id, 200_000)).unwrap();
                        Write::flush(&mut writer).unwrap();
                    });
                    scope.spawn(move || {
                        // An echo at the other end.
                        let mut arrived = vec![];
                        while arrived.len() < 200_000 {
                            let some = script.take();
                            script.type_in(&some);
                            arrived.extend(some);
                            std::thread::yield_now();
                        }
                        assert!(arrived == text(id, 200_000));
                    });
                    scope.spawn(move || {
                        let mut reader = reader.blocking(StdClock::new(), LIMIT);
                        let mut back = vec![0; 200_000];
                        Read::read_exact(&mut reader, &mut back).unwrap();
                        assert!(back == text(id, 200_000));
                    });
                }
            });
            drop(device);
            stop.store(true, Ordering::Relaxed);
        });
    }
}
