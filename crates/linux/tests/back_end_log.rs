//! The dirty log: every page that the device writes to is marked, and none while nobody wants to know.

mod common;

use std::os::fd::AsFd;

use common::client::{AVAIL, Client, DATA, DESC, SIZE, USED, addr};
use common::served::{Image, back_end};
use common::{TempDir, until};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_kit_linux::vhost_user::back_end::{Listener, Options, Polling, Runner, Source, Threads};
use virtio_kit_linux::vhost_user::codec::{
    F_LOG_ALL, F_PROTOCOL_FEATURES, LogBase, Request, VRING_F_LOG, VringAddr,
};
use virtio_kit_spec::{F, Features};

/// The pages that are marked.
fn marked(log: impl AsFd) -> Vec<u64> {
    let mut bytes = [0; 64];
    rustix::io::pread(&log, &mut bytes, 0).unwrap();
    (0..512).filter(|page| bytes[page / 8] >> (page % 8) & 1 == 1).map(|page| page as u64).collect()
}

/// A read of 8 KiB to three pages on, with its status in the page after them.
fn read(client: &Client, round: u16, packed: bool) {
    let (status, data) = (DATA + 0x10000, DATA + 0x8000 + 0x800);
    client.write(DATA, &[0; 16]);
    client.write(status, &[0xff]);
    let parts = [(DATA, 16u32, 1u16), (data, 8192, 3), (status, 1, 2)];
    // The first one last, and its flags after all else: the device may be looking.
    for (at, (addr, len, flags)) in parts.into_iter().enumerate().rev() {
        // A packed ring's next chain follows the one before.
        let at = at as u64 + if packed { 3 * u64::from(round) } else { 0 };
        let halves = if packed { [7, flags | 1 << 7] } else { [flags, at as u16 + 1] };
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        halves.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
        client.write(DESC + 16 * at, &bytes[..14]);
        client.write(DESC + 16 * at + 14, &bytes[14..]);
    }
    if !packed {
        client.write(AVAIL + 4 + 2 * u64::from(round), &0u16.to_le_bytes());
        client.write(AVAIL + 2, &(round + 1).to_le_bytes());
    }
    client.kick();
    until("the request", || {
        let mut done = [0];
        rustix::io::pread(&client.memory, &mut done, status).unwrap();
        let mut used = [0; 2];
        let at = if packed { DESC + 16 * 3 * u64::from(round) + 14 } else { USED + 2 };
        rustix::io::pread(&client.memory, &mut used, at).unwrap();
        let used = u16::from_le_bytes(used);
        done == [0] && if packed { used >> 15 == 1 } else { used == round + 1 }
    });
}

#[test]
fn what_the_device_writes_is_marked_while_it_is_asked_for() {
    for packed in [false, true] {
        let (dir, image) = (TempDir::new(), Image::new(1024));
        let source = Source::Listener(Listener::bind(dir.join("s")).unwrap());
        let back = back_end(image.device(1, false), Options::default());
        let runner = Runner::start(back, source, "test", Threads::PerQueue, Polling::default()).unwrap();
        let client = Client::connect(&dir.join("s"));
        let rings = if packed { F::RING_PACKED } else { Features::EMPTY };
        client.agree(rings);
        client.share();
        client.start(packed);
        let log = memfd_create(c"log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&log, SIZE / 4096 / 8 + 8).unwrap();
        let base = LogBase::Area { size: SIZE / 4096 / 8 + 8, offset: 0, fd: Some(log.as_fd()) };
        assert_eq!(client.ask(&Request::SetLogBase(base)), Some(0));
        read(&client, 0, packed);
        assert!(marked(&log).is_empty(), "nobody asked for it yet");
        // As migration does: the log is asked for while the queue runs.
        let features = (F::VERSION_1 | F::INDIRECT_DESC | rings).low() | F_PROTOCOL_FEATURES;
        assert_eq!(client.ask(&Request::SetFeatures(features | F_LOG_ALL)), Some(0));
        let logged = VringAddr { flags: VRING_F_LOG, log: USED, ..addr(DESC, AVAIL, USED) };
        assert_eq!(client.ask(&Request::SetVringAddr(logged)), Some(0));
        read(&client, 1, packed);
        let page = |addr: u64| addr / 4096;
        let ring = if packed { DESC } else { USED };
        let data = page(DATA + 0x8800);
        until("the mark of the ring", || marked(&log).contains(&page(ring)));
        for wanted in [data, data + 1, data + 2, page(DATA + 0x10000)] {
            assert!(marked(&log).contains(&wanted), "page {wanted} of {:?}", marked(&log));
        }
        assert!(!marked(&log).contains(&page(DATA)), "it was only read");
        assert!(!marked(&log).contains(&(data + 3)), "nobody touched it");
        // And off again.
        assert_eq!(client.ask(&Request::SetFeatures(features)), Some(0));
        rustix::io::pwrite(&log, &[0; 64], 0).unwrap();
        read(&client, 2, packed);
        assert!(marked(&log).is_empty());
        drop(client);
        runner.stop();
    }
}
