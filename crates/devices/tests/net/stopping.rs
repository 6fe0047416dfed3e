//! Receive queues that stop and start where they stood.

use crate::bench::Bench;
use crate::packets::{A, B, Kind, check, leave_segmentation, packet, payload, plain};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use virtio_kit::Features;
use virtio_kit::device::{DeviceError, Slots};
use virtio_kit::spec::net::{Ack, Class, F as N, HeaderHash};
use virtio_kit_devices::net::{
    Backend, Buffers, Frame, Loopback, Net, Options, Receive, Sink, Steering, Transmit,
};
use virtio_kit_testkit::Shape;
use zerocopy::IntoBytes;

const RX: usize = 0;
const TX: usize = 1;
const CONTROL: usize = 2;

fn options() -> Options {
    Options { queue_size: 1024, ..Options::new(A) }
}

fn shapes() -> impl Iterator<Item = Shape> {
    Shape::all().filter(|shape| shape.size >= 8)
}

fn send(bench: &mut Bench, header: &HeaderHash, frame: &[u8]) {
    bench.offer_bytes(TX, &[&header.as_bytes()[..12], frame]);
    assert_eq!(bench.run(TX as u16).map(|run| run.completed), Ok(1));
}

#[test]
fn a_queue_that_stops_with_half_of_a_merged_frame_gives_the_buffers_back_and_goes_on_with_the_frame() {
    for shape in shapes() {
        let device = Net::new(Loopback::new(Buffers::default()), options());
        let mut bench = Bench::new(device, shape, N::MRG_RXBUF, 2);
        let frame = plain(B, A, 300, 3);
        send(&mut bench, &HeaderHash::default(), &frame);
        let first: Vec<(u16, u64)> = (0..2).map(|_| bench.offer_space(RX, 128)).collect();
        // Two of three: taken and held.
        let run = bench.run(RX as u16).unwrap();
        assert_eq!((run.taken, run.completed, run.pending), (2, 0, 0), "{shape}");
        let stopped = bench.stop(RX as u16);
        assert_eq!((stopped.in_flight, stopped.position.next, stopped.position.used), (0, 0, 0), "{shape}");
        assert_eq!(bench.lines[RX].driver.take_used(1), None, "{shape}");
        for &(_, at) in &first {
            assert_eq!(bench.read(RX, at, 128), [0xa5; 128], "nothing was written: {shape}");
        }
        bench.start(RX as u16, Some(stopped.position));
        let last = bench.offer_space(RX, 128);
        assert_eq!(bench.run(RX as u16).map(|run| run.completed), Ok(3), "{shape}");
        let driver = &mut bench.lines[RX].driver;
        let ids = [first[0], first[1], last].map(|(id, _)| u32::from(id));
        // In order, filled buffers share the entry of the one after them.
        let expected = if shape.in_order {
            vec![(ids[2], 56)]
        } else {
            vec![(ids[0], 128), (ids[1], 128), (ids[2], 56)]
        };
        for entry in expected {
            assert_eq!(driver.take_used(1), Some(entry), "{shape}");
        }
        let pieces = [(first[0], 128), (first[1], 128), (last, 56)];
        let bytes = pieces.map(|((_, at), len)| bench.read(RX, at, len)).concat();
        assert!(bytes[12..] == frame, "{shape}");
        assert_eq!(bytes[10..12], [3, 0], "three buffers: {shape}");
    }
}

#[test]
fn a_packet_that_is_half_cut_goes_on_with_its_next_segment() {
    for shape in shapes() {
        let device = Net::new(Loopback::new(Buffers::default()), options());
        let mut bench = Bench::new(device, shape, N::CSUM | N::HOST_TSO4, 2);
        let mut whole = packet(Kind::Tcp4, (1, 2), &payload(1000));
        let header = leave_segmentation(Kind::Tcp4, &mut whole, 300);
        send(&mut bench, &header, &whole);
        let mut all = vec![];
        let mut position = None;
        for segment in 0..4 {
            if segment > 0 {
                bench.start(RX as u16, position);
            }
            let (_, at) = bench.offer_space(RX, 1600);
            assert_eq!(bench.run(RX as u16).map(|run| run.completed), Ok(1), "{shape}");
            let (_, len) = bench.lines[RX].driver.take_used(1).unwrap();
            all.extend(check(&bench.read(RX, at + 12, len as usize - 12)).payload);
            position = Some(bench.stop(RX as u16).position);
        }
        assert!(all == payload(1000), "{shape}");
    }
}

#[test]
fn a_frame_that_waits_for_more_buffers_than_come_makes_room_for_others() {
    let device = Net::new(Loopback::new(Buffers { small: 4, large: 4 }), options());
    let handle = device.handle();
    let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 256 };
    let mut bench = Bench::new(device, shape, N::MRG_RXBUF, 2);
    bench.offer_space(RX, 256);
    send(&mut bench, &HeaderHash::default(), &plain(B, A, 5000, 0));
    assert_eq!(bench.run(RX as u16).map(|run| (run.taken, run.completed)), Ok((1, 0)));
    for n in 1..5 {
        send(&mut bench, &HeaderHash::default(), &plain(B, A, 60, n));
    }
    assert_eq!(bench.run(RX as u16).map(|run| run.completed), Ok(1));
    assert_eq!((handle.counters().receive_no_room, handle.counters().received), (1, 1));
}

#[test]
fn a_frame_of_more_buffers_than_the_ring_has_does_not_hold_it_up() {
    for shape in Shape::all().filter(|shape| shape.size == 8) {
        let device = Net::new(Loopback::new(Buffers::default()), options());
        let handle = device.handle();
        let mut bench = Bench::new(device, shape, N::MRG_RXBUF, 2);
        for _ in 0..8 {
            bench.offer_space(RX, 64);
        }
        send(&mut bench, &HeaderHash::default(), &plain(B, A, 600, 1));
        send(&mut bench, &HeaderHash::default(), &plain(B, A, 60, 2));
        assert_eq!(bench.run(RX as u16).map(|run| run.completed), Ok(2), "{shape}");
        assert_eq!((handle.counters().receive_no_room, handle.counters().received), (1, 1));
    }
}

#[test]
fn no_buffer_is_taken_while_no_frame_waits_and_the_queue_is_woken_when_one_comes() {
    let shape = Shape { packed: true, in_order: false, event_idx: true, indirect: true, size: 8 };
    let device = Net::new(Loopback::new(Buffers::default()), options());
    let mut bench = Bench::new(device, shape, Features::EMPTY, 2);
    bench.offer_space(RX, 2048);
    assert_eq!(bench.run(RX as u16).map(|run| run.taken), Ok(0));
    let wakes = bench.wakes[RX].clone();
    assert_eq!(wakes.count(), 0);
    for n in 0..3 {
        send(&mut bench, &HeaderHash::default(), &plain(B, A, 60, n));
    }
    // Once: it is told again only after it has looked.
    assert_eq!(wakes.count(), 1);
    assert_eq!(bench.run(RX as u16).map(|run| run.completed), Ok(1));
}

#[test]
fn a_run_drops_only_so_many_unwanted_frames_and_asks_for_another() {
    let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 8 };
    let buffers = Buffers { small: 3000, large: 1 };
    let device = Net::new(Loopback::new(buffers), options());
    let handle = device.handle();
    let mut bench = Bench::new(device, shape, N::CTRL_VQ | N::CTRL_RX, 3);
    bench.offer_command(CONTROL, &[Class::RX.0, 0, 0]);
    bench.run(CONTROL as u16).unwrap();
    assert_eq!(bench.answer(CONTROL), Some(Ack::OK));
    bench.run(RX as u16).unwrap();
    for n in 0..1500 {
        send(&mut bench, &HeaderHash::default(), &plain(B, A, 60, n));
        bench.lines[TX].driver.take_used(2);
    }
    assert_eq!(bench.wakes[RX].count(), 1);
    bench.run(RX as u16).unwrap();
    assert_eq!((handle.counters().receive_filtered, bench.wakes[RX].count()), (1024, 2));
    bench.run(RX as u16).unwrap();
    assert_eq!((handle.counters().receive_filtered, bench.wakes[RX].count()), (1500, 2));
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
#[test]
fn a_frame_that_waits_for_a_queue_that_goes_out_of_use_never_gets_there() {
    let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 8 };
    let device = Net::new(Loopback::new(Buffers::default()), Options { pairs: 2, ..options() });
    let handle = device.handle();
    let mut bench = Bench::new(device, shape, N::CTRL_VQ | N::MQ, 5);
    let (rx, tx, control) = (2, 3, 4);
    let set_pairs = |bench: &mut Bench, pairs| {
        bench.offer_command(control, &[Class::MQ.0, 0, pairs, 0]);
        bench.run(control as u16).unwrap();
        assert_eq!(bench.answer(control), Some(Ack::OK));
    };
    set_pairs(&mut bench, 2);
    for wanted in [true, false] {
        bench.offer_bytes(tx, &[&[0; 12], &packet(Kind::Udp4, (1, 2), &payload(9))]);
        assert_eq!(bench.run(tx as u16).map(|run| run.completed), Ok(1));
        if !wanted {
            set_pairs(&mut bench, 1);
        }
        bench.offer_space(rx, 2048);
        assert_eq!(bench.run(rx as u16).map(|run| run.completed), Ok(usize::from(wanted)));
    }
    assert_eq!((handle.counters().received, handle.counters().receive_filtered), (1, 1));
}

/// A source in the middle of whose run something else happens.
#[derive(Clone, Default)]
struct Meddling(Arc<Mutex<Option<Act>>>);

type Act = Box<dyn FnOnce() + Send>;

impl Backend for Meddling {
    fn takes(&self) -> Features {
        Features::EMPTY
    }
    fn attach(&mut self, _: Steering) {}
    fn open_transmit(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Transmit>, DeviceError> {
        Sink::new().open_transmit(pair, waker)
    }
    fn open_receive(&mut self, _: u16, _: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        Ok(Box::new(self.clone()))
    }
    fn reset(&mut self) {}
}

impl Receive for Meddling {
    fn peek(&mut self) -> Option<&mut Frame> {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
        None
    }
    fn release(&mut self) {}
    fn arm(&mut self) -> bool {
        true
    }
    fn is_full(&self) -> bool {
        false
    }
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
#[test]
fn a_command_is_answered_when_no_receive_queue_goes_by_what_was_set_before() {
    let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 8 };
    let meddling = Meddling::default();
    let features = N::CTRL_VQ | N::CTRL_RX;
    let mut bench = Bench::new(Net::new(meddling.clone(), options()), shape, features, 3);
    let command: [&[u8]; 1] = [&[Class::RX.0, 0, 0]];
    bench.offer_command(CONTROL, command[0]);
    let slots: Slots = bench.slots.clone();
    let during = Arc::new(Mutex::new(None));
    let seen = during.clone();
    *meddling.0.lock().unwrap() = Some(Box::new(move || {
        // As another thread would, while the receive queue is in the middle of its run.
        *seen.lock().unwrap() = Some(slots[CONTROL].lock().as_mut().unwrap().run());
    }));
    bench.run(RX as u16).unwrap();
    let run = during.lock().unwrap().take().unwrap().unwrap();
    assert_eq!((run.taken, run.completed), (1, 0), "not before the run has ended");
    assert_eq!(bench.wakes[CONTROL].count(), 1, "and then the control queue is woken");
    assert_eq!(bench.run(CONTROL as u16).map(|run| run.completed), Ok(1));
    assert_eq!(bench.answer(CONTROL), Some(Ack::OK));
    // Between runs it is answered at once.
    bench.offer_command(CONTROL, command[0]);
    assert_eq!(bench.run(CONTROL as u16).map(|run| run.completed), Ok(1));
    assert_eq!(bench.answer(CONTROL), Some(Ack::OK));
}
