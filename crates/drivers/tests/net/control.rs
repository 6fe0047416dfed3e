//! Commands, the link, several pairs, the bus.

use super::scripted::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use virtio_kit::Features;
use virtio_kit::bus::{Backend, Bound, Bus, DeviceState, Event, ProbeError};
use virtio_kit::spec::net::F;
use virtio_kit::transport::TransportError;
use virtio_kit_drivers::net::{
    self, BadArgument, Coalesce, ControlError, DataQueue, Duplex, GuestOffloads, HashTypes, Net, NetDriver,
    Offload, Options, Rss, RxMode,
};

const CONTROL: Features = F::CTRL_VQ
    .union(F::CTRL_RX)
    .union(F::CTRL_RX_EXTRA)
    .union(F::CTRL_VLAN)
    .union(F::CTRL_MAC_ADDR)
    .union(F::CTRL_GUEST_OFFLOADS)
    .union(F::GUEST_CSUM)
    .union(F::GUEST_TSO4)
    .union(F::MRG_RXBUF)
    .union(F::GUEST_ANNOUNCE)
    .union(F::NOTF_COAL)
    .union(F::VQ_NOTF_COAL)
    .union(F::MQ)
    .union(F::RSS)
    .union(F::HASH_REPORT)
    .union(F::MAC);

/// A device of four pairs.
fn four_pairs(features: Features) -> Scripted {
    let script = Scripted::new(features);
    script.script().pairs = 4;
    script.script().config.max_virtqueue_pairs = 4.into();
    script
}

type Try = fn(&mut net::ControlQueue) -> Result<(), ControlError>;

const COALESCE: Coalesce = {
    // Fields are little-endian integers whose constructors are constant.
    use zerocopy::little_endian::U32;
    Coalesce { max_packets: U32::new(15), max_usecs: U32::new(10) }
};

#[test]
fn every_command_has_the_bytes_of_the_document_and_its_answer_is_checked() {
    let commands: [(Try, &[u8]); 21] = [
        (|c| c.set_rx_mode(RxMode::Promiscuous, true), &[0, 0, 1]),
        (|c| c.set_rx_mode(RxMode::AllMulticast, false), &[0, 1, 0]),
        (|c| c.set_rx_mode(RxMode::AllUnicast, true), &[0, 2, 1]),
        (|c| c.set_rx_mode(RxMode::NoMulticast, true), &[0, 3, 1]),
        (|c| c.set_rx_mode(RxMode::NoUnicast, true), &[0, 4, 1]),
        (|c| c.set_rx_mode(RxMode::NoBroadcast, true), &[0, 5, 1]),
        (
            |c| c.set_mac_table(&[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], &[[1, 0, 0x5e, 0, 0, 1]]),
            &[1, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1],
        ),
        (|c| c.set_mac_table(&[], &[]), &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (|c| c.set_mac([2, 1, 2, 3, 4, 5]), &[1, 1, 2, 1, 2, 3, 4, 5]),
        (|c| c.add_vlan(0x123), &[2, 0, 0x23, 1]),
        (|c| c.remove_vlan(4095), &[2, 1, 0xff, 0xf]),
        (|c| c.acknowledge_announce(), &[3, 0]),
        (|c| c.set_pairs(3), &[4, 0, 3, 0]),
        (
            |c| {
                let types = HashTypes::TCPV4;
                c.set_rss(&Rss { types, table: &[0, 3], unclassified: 1, tx_queues: 4, key: &[7] })
            },
            &[4, 1, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 3, 0, 4, 0, 1, 7],
        ),
        (|c| c.set_hash(HashTypes::IPV6, &[1, 2]), &[4, 2, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2]),
        (
            |c| c.set_guest_offloads(GuestOffloads::CSUM | GuestOffloads::TSO4),
            &[5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0],
        ),
        (|c| c.set_guest_offloads(GuestOffloads::empty()), &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (|c| c.set_tx_coalescing(COALESCE), &[6, 0, 15, 0, 0, 0, 10, 0, 0, 0]),
        (|c| c.set_rx_coalescing(COALESCE), &[6, 1, 15, 0, 0, 0, 10, 0, 0, 0]),
        (|c| c.set_coalescing(DataQueue::Tx(1), COALESCE), &[6, 2, 3, 0, 0, 0, 15, 0, 0, 0, 10, 0, 0, 0]),
        (|c| c.coalescing(DataQueue::Rx(2)).map(|_| ()), &[6, 3, 4, 0, 0, 0]),
    ];
    for layout in layouts() {
        let script = four_pairs(CONTROL);
        let wanted = Options { pairs: 4, hash_report: true, ..options() };
        let mut opened = open(&script, layout, &wanted);
        assert_eq!(opened.net.features & CONTROL, CONTROL);
        let control = opened.net.control.as_mut().unwrap();
        script.script().result = vec![1; 8];
        let free = opened.arena.free_bytes();
        for (give, bytes) in commands {
            script.script().commands.clear();
            for answer in [Answer::Ack(1), Answer::Ack(2), Answer::Ack(0xff), Answer::Nothing] {
                script.script().answer = answer;
                let expected = match answer {
                    Answer::Ack(1) => ControlError::Refused,
                    Answer::Ack(ack) => ControlError::BadAnswer(ack),
                    _ => ControlError::BadAnswer(0xff),
                };
                assert_eq!(give(control), Err(expected), "{bytes:x?}");
            }
            script.script().answer = Answer::Ack(0);
            assert_eq!(give(control), Ok(()), "{bytes:x?}");
            assert!(script.script().commands.iter().all(|seen| seen == bytes), "{bytes:x?}");
            assert_eq!((script.script().commands.len(), control.in_flight()), (5, 0));
        }
        assert_eq!(opened.arena.free_bytes(), free);
    }
}

// drivernormative:Device Types / Network Device / Device Operation / Control Virtqueue / Notifications Coalescing
#[test]
fn a_result_is_believed_only_as_far_as_it_was_written() {
    let script = Scripted::new(CONTROL);
    let mut opened = open(&script, layouts()[0], &options());
    let control = opened.net.control.as_mut().unwrap();
    for len in 0..8 {
        script.script().result = vec![1; len];
        let short = Err(ControlError::ShortAnswer { written: 1 + len as u32 });
        assert_eq!(control.coalescing(DataQueue::Rx(0)), short);
    }
    script.script().result = vec![15, 0, 0, 0, 10, 0, 0, 0];
    assert_eq!(control.coalescing(DataQueue::Rx(0)), Ok(COALESCE));
    script.script().answer = Answer::Ack(1);
    assert_eq!(control.coalescing(DataQueue::Rx(0)), Err(ControlError::Refused));
    // Queues that the device does not use have no parameters.
    let bad = Err(ControlError::Argument(BadArgument::Pairs { asked: 1, have: 1 }));
    assert_eq!(control.coalescing(DataQueue::Tx(1)), bad);
}

#[test]
fn an_answer_that_never_comes_is_an_error_in_time_and_loses_no_buffer() {
    for layout in layouts() {
        let script = Scripted::new(CONTROL);
        let limit = Duration::from_millis(1);
        let mut opened = open(&script, layout, &Options { control_limit: limit, ..options() });
        let control = opened.net.control.as_mut().unwrap();
        let free = opened.arena.free_bytes();
        script.script().answer = Answer::Never;
        for waiting in 1..=3 {
            assert_eq!(control.set_rx_mode(RxMode::Promiscuous, true), Err(ControlError::Timeout));
            assert_eq!(control.in_flight(), waiting);
        }
        // Two buffers of 64 bytes each: the device may write to them yet.
        assert_eq!(opened.arena.free_bytes(), free - 3 * 128);
        // Late answers are not taken for that of another command.
        script.script().late = 1;
        script.script().answer = Answer::Ack(0);
        assert!(opened.end.run(2).unwrap().unwrap().completed == 3);
        assert_eq!(control.set_rx_mode(RxMode::Promiscuous, false), Ok(()));
        script.script().answer = Answer::Never;
        assert_eq!(control.set_rx_mode(RxMode::Promiscuous, true), Err(ControlError::Timeout));
        // Nor if they come while that waits; with IN_ORDER they come first.
        script.script().answer = Answer::Ack(0);
        assert_eq!(control.set_rx_mode(RxMode::Promiscuous, false), Ok(()));
        while control.in_flight() > 0 {
            assert_eq!(control.set_rx_mode(RxMode::Promiscuous, false), Ok(()));
        }
        assert_eq!((control.in_flight(), opened.arena.free_bytes()), (0, free));
        script.script().answer = Answer::Never;
        let full = loop {
            match control.acknowledge_announce() {
                Err(ControlError::Timeout) => {}
                other => break other,
            }
        };
        assert_eq!(full, Err(ControlError::Full));
        assert_eq!(control.in_flight(), 8);
        script.script().answer = Answer::Ack(0);
        drop(opened.device);
        assert!(matches!(control.acknowledge_announce(), Err(ControlError::Queue(_))));
        assert_eq!(control.in_flight(), 0);
        drop(opened.net);
        assert_eq!(opened.arena.free_bytes(), opened.arena.len());
    }
}

// drivernormative:Device Types / Network Device / Device Operation / Control Virtqueue / Packet Receive Filtering
// drivernormative:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering
// drivernormative:Device Types / Network Device / Device Operation / Control Virtqueue / Offloads State Configuration / Setting Offloads State
#[test]
fn commands_without_their_feature_or_with_impossible_arguments_are_not_given() {
    let script = Scripted::new(F::CTRL_VQ);
    let mut opened = open(&script, layouts()[0], &options());
    let control = opened.net.control.as_mut().unwrap();
    let rss = Rss { types: HashTypes::empty(), table: &[0], unclassified: 0, tx_queues: 1, key: &[] };
    let not = |feature| Err(ControlError::NotNegotiated(feature));
    assert_eq!(control.set_rx_mode(RxMode::Promiscuous, true), not(F::CTRL_RX));
    assert_eq!(control.set_rx_mode(RxMode::AllMulticast, true), not(F::CTRL_RX));
    assert_eq!(control.set_rx_mode(RxMode::AllUnicast, true), not(F::CTRL_RX_EXTRA));
    assert_eq!(control.set_rx_mode(RxMode::NoMulticast, true), not(F::CTRL_RX_EXTRA));
    assert_eq!(control.set_rx_mode(RxMode::NoUnicast, true), not(F::CTRL_RX_EXTRA));
    assert_eq!(control.set_rx_mode(RxMode::NoBroadcast, true), not(F::CTRL_RX_EXTRA));
    assert_eq!(control.set_mac_table(&[], &[]), not(F::CTRL_RX));
    assert_eq!(control.set_mac([2; 6]), not(F::CTRL_MAC_ADDR));
    assert_eq!(control.add_vlan(1), not(F::CTRL_VLAN));
    assert_eq!(control.remove_vlan(1), not(F::CTRL_VLAN));
    assert_eq!(control.acknowledge_announce(), not(F::GUEST_ANNOUNCE));
    assert_eq!(control.set_pairs(1), not(F::MQ));
    assert_eq!(control.set_rss(&rss), not(F::RSS));
    assert_eq!(control.set_hash(HashTypes::IPV4, &[]), not(F::HASH_REPORT));
    assert_eq!(control.set_guest_offloads(GuestOffloads::empty()), not(F::CTRL_GUEST_OFFLOADS));
    assert_eq!(control.set_rx_coalescing(COALESCE), not(F::NOTF_COAL));
    assert_eq!(control.set_tx_coalescing(COALESCE), not(F::NOTF_COAL));
    assert_eq!(control.set_coalescing(DataQueue::Rx(0), COALESCE), not(F::VQ_NOTF_COAL));
    assert_eq!(control.coalescing(DataQueue::Rx(0)), Err(ControlError::NotNegotiated(F::VQ_NOTF_COAL)));
    assert!(script.script().commands.is_empty());

    let script = Scripted::new(CONTROL);
    let mut opened = open(&script, layouts()[0], &options());
    let control = opened.net.control.as_mut().unwrap();
    let bad = |argument| Err(ControlError::Argument(argument));
    let (multicast, unicast) = ([1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]);
    assert_eq!(control.set_mac(multicast), bad(BadArgument::Multicast(multicast)));
    assert_eq!(control.set_mac_table(&[multicast], &[]), bad(BadArgument::Multicast(multicast)));
    assert_eq!(control.set_mac_table(&[], &[unicast]), bad(BadArgument::Unicast(unicast)));
    assert_eq!(control.add_vlan(4096), bad(BadArgument::Vlan(4096)));
    assert_eq!(control.set_pairs(0), bad(BadArgument::Pairs { asked: 0, have: 1 }));
    assert_eq!(control.set_pairs(2), bad(BadArgument::Pairs { asked: 2, have: 1 }));
    let refused = GuestOffloads::TSO6 | GuestOffloads::UFO;
    assert_eq!(
        control.set_guest_offloads(refused | GuestOffloads::CSUM),
        bad(BadArgument::Offloads(refused))
    );
    assert!(script.script().commands.is_empty());
}

#[test]
fn the_link_goes_up_and_down_and_asks_to_be_announced() {
    let script = Scripted::new(CONTROL | F::SPEED_DUPLEX);
    script.script().config.speed = 1000.into();
    script.script().config.duplex = 1;
    let mut opened = open(&script, layouts()[0], &options());
    let link = opened.net.link.clone();
    assert!(link.is_up() && !link.announce() && !link.needs_reset());
    assert_eq!((link.speed(), link.duplex(), link.changes()), (Some(1000), Some(Duplex::FULL), 0));
    script.change(|config| {
        config.status = 2.into();
        config.speed = 10.into();
        config.duplex = 0;
    });
    opened.device.config_changed();
    assert!(!link.is_up() && link.announce());
    assert_eq!((link.speed(), link.duplex(), link.changes()), (Some(10), Some(Duplex::HALF), 1));
    let control = opened.net.control.as_mut().unwrap();
    script.script().answer = Answer::Ack(1);
    assert_eq!(control.acknowledge_announce(), Err(ControlError::Refused));
    assert!(link.announce());
    script.script().answer = Answer::Ack(0);
    assert_eq!(control.acknowledge_announce(), Ok(()));
    assert!(!link.announce());
    // Nonsense is taken as far as it means something.
    script.change(|config| {
        config.status = 0xfff1.into();
        config.speed = 0xffff_fffe.into();
        config.duplex = 7;
    });
    opened.device.config_changed();
    assert!(link.is_up() && !link.announce());
    assert_eq!((link.speed(), link.duplex(), link.changes()), (None, None, 2));
}

#[test]
fn four_pairs_are_used_and_each_frame_goes_through_its_own() {
    for (feature, command) in [(F::MQ, 0), (F::RSS, 1)] {
        let script = four_pairs(F::CTRL_VQ | feature);
        script.script().mirror = true;
        let wanted = Options { pairs: 4, queue_size: 64, ..options() };
        let mut opened = open(&script, layouts()[2], &wanted);
        assert_eq!(opened.net.pairs.len(), 4);
        assert_eq!(opened.net.control.as_ref().unwrap().pairs(), 4);
        let first = script.script().commands[0].clone();
        assert_eq!(first[..2], [4, command]);
        if feature == F::RSS {
            // A table of 128 entries over all four, and the transmit queues.
            assert_eq!((first[6..8].to_vec(), first.len()), (vec![127, 0], 10 + 256 + 3 + 40));
            assert_eq!(first[10..18], [0, 0, 1, 0, 2, 0, 3, 0]);
        }
        std::thread::scope(|scope| {
            for (index, pair) in (0u64..).zip(&mut opened.net.pairs) {
                scope.spawn(move || {
                    for number in 0..500 {
                        let number = number * 4 + index;
                        pair.tx.send_copy(&frame(number, 200), &Offload::default()).unwrap();
                        pair.tx.kick().unwrap();
                        assert!(pair.rx.wait(LIMIT).unwrap());
                        let received = pair.rx.recv().unwrap().unwrap();
                        assert_eq!(bytes(&received.frame), frame(number, 200));
                        pair.rx.recycle(received.frame);
                    }
                });
            }
        });
    }
    // As many as the device has, and as many as are wanted.
    let script = four_pairs(F::CTRL_VQ | F::MQ);
    let opened = open(&script, layouts()[0], &Options { pairs: 9, queue_size: 64, ..options() });
    assert_eq!(opened.net.pairs.len(), 4);
    let script = four_pairs(F::CTRL_VQ | F::MQ);
    let opened = open(&script, layouts()[0], &options());
    // The control queue is behind all that the device has, and nothing needs to be said.
    assert_eq!((opened.net.pairs.len(), script.script().commands.len()), (1, 0));
}

#[test]
fn a_device_that_does_not_take_its_pairs_is_not_driven() {
    for (answer, expected) in [
        (Answer::Ack(1), TransportError::Refused("a control command of the start")),
        (Answer::Never, TransportError::Timeout),
    ] {
        let script = four_pairs(F::CTRL_VQ | F::MQ);
        script.script().answer = answer;
        let (found, arena, _end) = found(script.clone(), layouts()[0]);
        let control_limit = Duration::from_millis(1);
        let wanted = Options { pairs: 2, queue_size: 16, control_limit, ..options() };
        assert_eq!(net::open(found, &wanted).map(|_| ()).unwrap_err(), ProbeError::Transport(expected));
        if answer != Answer::Never {
            assert_eq!(arena.free_bytes(), arena.len());
        }
    }
}

#[test]
fn the_device_is_given_the_address_of_the_options() {
    let script = Scripted::new(F::CTRL_VQ | F::CTRL_MAC_ADDR | F::MAC);
    let mac = Some([2, 9, 9, 9, 9, 9]);
    let opened = open(&script, layouts()[0], &Options { mac, ..options() });
    assert_eq!(script.script().commands, [[1, 1, 2, 9, 9, 9, 9, 9]]);
    assert_eq!(opened.net.info.mac, mac);
    // Its own is not set again, and without the option it is used.
    let opened = open(&Scripted::new(F::MAC), layouts()[0], &options());
    assert_eq!(opened.net.info.mac, Some([2, 0, 0, 0, 0, 7]));
    assert_eq!(open(&Scripted::new(Features::EMPTY), layouts()[0], &options()).net.info.mac, None);
}

/// Tells what it is given.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Vec<Event>>>);

impl Backend for List {
    fn name(&self) -> &str {
        "list"
    }
    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        self.0.lock().unwrap().drain(..).for_each(tell);
    }
}

#[test]
fn the_driver_takes_network_devices_from_a_bus_and_lets_them_go() {
    let taken: Arc<Mutex<Vec<Net>>> = Arc::default();
    let keep = taken.clone();
    let driver = NetDriver::new(options(), move |net| keep.lock().unwrap().push(net));
    let script = Scripted::new(F::MAC);
    let (found, arena, _end) = found(script.clone(), layouts()[0]);
    let list = List::default();
    list.0.lock().unwrap().push(Event::Added(1, found));
    let mut bus = Bus::new();
    let backend = bus.install_backend(Box::new(list.clone()));
    let id = bus.register_driver(Arc::new(driver)).unwrap();
    assert!(bus.devices().eq([(backend, 1, DeviceState::Bound(id))]));
    let mut net = taken.lock().unwrap().pop().unwrap();
    script.change(|config| config.status = 0.into());
    list.0.lock().unwrap().push(Event::ConfigChanged(1));
    bus.poll();
    assert!(!net.link.is_up());
    list.0.lock().unwrap().push(Event::Removed(1));
    bus.poll();
    assert!(net.pairs[0].rx.recv().is_err());
    assert!(net.pairs[0].tx.complete().is_err());
    drop(net);
    assert_eq!(arena.free_bytes(), arena.len());
}
