//! No allocation for each frame, once everything that is needed was made.

use crate::packets::{A, ALL, B, C, Kind, leave_segmentation, packet, payload, plain};
use crate::station::{HandClock, Station, Wish};
use std::sync::Arc;
use virtio_kit::spec::net::{Ack, Class, F as N, HeaderHash, MqCommand};
use virtio_kit::{Chain, Features};
use virtio_kit_devices::net::{Net, Options, Switch, SwitchOptions};
use virtio_kit_testkit::counting::{CountingAllocator, calls_during};
use zerocopy::IntoBytes;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Sends a frame and receives it everywhere, with buffers that go round.
fn round(stations: &mut [Station], chain: &mut Option<Chain<Vec<virtio_kit::DmaBuf>>>) -> usize {
    stations[0].tx[0].add_buf(chain.take().unwrap(), ()).unwrap();
    stations[0].tx[0].kick().unwrap();
    *chain = Some(stations[0].tx[0].get_buf().unwrap().unwrap().chain);
    let mut received = 0;
    for station in &mut stations[1..] {
        while let Some(used) = station.rx[0].get_buf().unwrap() {
            received += 1;
            station.rx[0].add_buf(used.chain, ()).unwrap();
        }
        station.rx[0].kick().unwrap();
    }
    received
}

#[test]
fn a_switch_forwards_floods_and_cuts_without_allocating() {
    let switch = Switch::new(SwitchOptions::default(), Arc::new(HandClock::default()));
    let host = N::CSUM | N::HOST_TSO4;
    let take = |mac, features| {
        let options = Options { pairs: 2, ..Options::new(mac) };
        Station::new(Net::new(switch.port().unwrap(), options), Wish::new(features).buffers(128, &[2048]))
    };
    let guest = N::MRG_RXBUF | N::CTRL_VQ | N::MQ | N::RSS | N::HASH_REPORT;
    let mut stations = vec![take(A, host), take(B, guest), take(C, Features::EMPTY)];
    let pairs = stations[1].command(Class::MQ.0, MqCommand::VQ_PAIRS_SET.0, &[1, 0]);
    assert_eq!(pairs, Ack::OK);
    stations[1].send(&plain(ALL, B, 60, 1));
    let _ = stations[2].frames();
    let mut whole = packet(Kind::Tcp4, (1, 2), &payload(20_000));
    whole[6..12].copy_from_slice(&A);
    let header = leave_segmentation(Kind::Tcp4, &mut whole, 1400);
    let cases = [
        ("to one port", HeaderHash::default(), plain(B, A, 1514, 1), 1),
        ("to all ports", HeaderHash::default(), plain(ALL, A, 1514, 1), 2),
        (
            "in segments",
            header,
            {
                whole[..6].copy_from_slice(&B);
                whole
            },
            20_000usize.div_ceil(1400),
        ),
    ];
    for (name, header, frame, expected) in cases {
        let bytes = [&header.as_bytes()[..12], &frame].concat();
        let mut buffer = stations[0].arena.alloc(bytes.len()).unwrap();
        buffer.write(0, &bytes).unwrap();
        let mut chain = Some(Chain::readable(vec![buffer]));
        for _ in 0..3 {
            assert_eq!(round(&mut stations, &mut chain), expected, "{name}");
        }
        let calls = calls_during(|| {
            for _ in 0..200 {
                assert_eq!(round(&mut stations, &mut chain), expected, "{name}");
            }
        });
        assert_eq!(calls, 0, "{name}");
    }
}
