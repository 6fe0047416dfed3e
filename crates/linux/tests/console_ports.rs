//! Ports that end at sockets, pseudo-terminals and pipes, under our driver and device in one program.

mod common;

use common::{LONG, TempDir, until};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use virtio_kit::driver::Found;
use virtio_kit::in_process::{Event as Doorbell, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, F, Features};
use virtio_kit_devices::console::{Console as Device, Handle, Port as Plug};
use virtio_kit_drivers::console::{Blocking, Console, Event, PortReader, PortWriter, open};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::console::{FdPort, PtyPort, SocketPort};
use virtio_kit_linux::event::StdEvent;

/// Runs a device on threads of its own, and a driver here.
fn with_console(device: Device, ring: Features, test: impl FnOnce(Console, Handle)) {
    let handle = device.handle();
    let arena = Arena::new(HeapMemory::new(8 << 20).unwrap()).unwrap();
    let options = Options {
        inline: false,
        ring_features: ring,
        event: Box::new(|| Arc::new(StdEvent::new()) as Arc<dyn Doorbell>),
        ..Options::inline(arena, Arc::new(MonotonicClock))
    };
    let (transport, end) = InProcess::new(Box::new(device), options).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..end.queue_count())
        .map(|queue| {
            let (end, stop) = (end.clone(), stop.clone());
            std::thread::spawn(move || end.serve(queue, Duration::ZERO, &stop))
        })
        .collect();
    let (console, device) = open(Found::new(Box::new(transport)), &Default::default()).unwrap();
    test(console, handle);
    drop(device);
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[track_caller]
fn await_event(console: &mut Console, wanted: Event) {
    let found = console.wait_for(&MonotonicClock, LONG, |_, event| (event == Some(wanted)).then_some(()));
    assert_eq!(found, Ok(Some(())), "{wanted:?}");
}

fn halves(console: &Console, id: u32) -> (Blocking<PortReader>, Blocking<PortWriter>) {
    let port = console.port(id).unwrap();
    port.open().unwrap();
    let (reader, writer) = port.split();
    (reader.blocking(Arc::new(MonotonicClock), LONG), writer.blocking(Arc::new(MonotonicClock), LONG))
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Sends both ways at once, more than fits anywhere on the way.
fn both_ways(
    reader: &mut impl Read,
    writer: &mut (impl Write + Send),
    far: (impl Read + Send, impl Write + Send),
) {
    let sent = text(300_000);
    let (mut far_reader, mut far_writer) = far;
    std::thread::scope(|scope| {
        let sent = &sent;
        scope.spawn(move || {
            writer.write_all(sent).unwrap();
            writer.flush().unwrap();
        });
        scope.spawn(move || {
            far_writer.write_all(sent).unwrap();
            far_writer.flush().unwrap();
        });
        scope.spawn(move || {
            let mut got = vec![0; sent.len()];
            far_reader.read_exact(&mut got).unwrap();
            assert!(got == *sent);
        });
        let mut got = vec![0; sent.len()];
        reader.read_exact(&mut got).unwrap();
        assert!(got == *sent);
    });
}

const LAYOUTS: [Features; 2] = [F::EVENT_IDX, F::RING_PACKED.union(F::IN_ORDER)];

#[test]
fn a_socket_is_connected_and_left_and_connected_again() {
    for ring in LAYOUTS {
        let dir = TempDir::new();
        let path = dir.join("port");
        let device = Device::multiport(2);
        let port = Plug::new(SocketPort::listen(&path).unwrap()).named("socket").disconnected();
        device.handle().plug(1, port).unwrap();
        with_console(device, ring, |mut console, handle| {
            await_event(&mut console, Event::Named(1));
            assert!(!console.ports().next().unwrap().connected);
            for _ in 0..3 {
                let stream = UnixStream::connect(&path).unwrap();
                stream.set_read_timeout(Some(LONG)).unwrap();
                await_event(&mut console, Event::Opened(1));
                let (mut reader, mut writer) = halves(&console, 1);
                let far = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
                both_ways(&mut reader, &mut writer, far);
                (&stream).write_all(b"last words").unwrap();
                drop(stream);
                await_event(&mut console, Event::Closed(1));
                let mut rest = vec![];
                reader.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"last words");
            }
            handle.unplug(1).unwrap();
            await_event(&mut console, Event::Removed(1));
            // The back-end goes with the port.
            until("nobody listens", || UnixStream::connect(&path).is_err());
        });
    }
}

#[test]
fn a_pseudo_terminal_passes_every_byte() {
    for ring in LAYOUTS {
        let pty = PtyPort::open().unwrap();
        let path = pty.path().to_owned();
        with_console(Device::single(pty), ring, |console, _| {
            let (mut reader, mut writer) = halves(&console, 0);
            for _ in 0..3 {
                let open = || File::options().read(true).write(true).open(&path).unwrap();
                both_ways(&mut reader, &mut writer, (open(), open()));
            }
        });
    }
}

#[test]
fn pipes_that_block_do_not_block_the_device() {
    let (input, mut far_writer) = std::io::pipe().unwrap();
    let (mut far_reader, output) = std::io::pipe().unwrap();
    let port = FdPort::new(OwnedFd::from(input), OwnedFd::from(output)).unwrap();
    with_console(Device::single(port), F::RING_PACKED, |console, _| {
        let (mut reader, mut writer) = halves(&console, 0);
        both_ways(&mut reader, &mut writer, (&mut far_reader, &mut far_writer));
        // Nobody reads: the driver is held back, and the port can still be let go of.
        let mut writer = writer.into_inner().blocking(Arc::new(MonotonicClock), Duration::from_millis(20));
        while writer.write(&[1; 4096]).is_ok() {}
        // The other direction goes on.
        far_writer.write_all(b"still here").unwrap();
        let mut got = [0; 10];
        reader.read(&mut got).unwrap();
        assert_eq!(&got, b"still here");
    });
}
