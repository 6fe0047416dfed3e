//! Each queue on a thread of its own, each driver on another.

use crate::packets::{A, B, C, plain};
use crate::station::{Station, Wish};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use virtio_kit::Features;
use virtio_kit::clock::Clock;
use virtio_kit::in_process::Event;
use virtio_kit::spec::net::{Ack, Class, F as N, RxCommand};
use virtio_kit_devices::net::{Net, Options, Switch, SwitchOptions};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// An event that wakes only who is told: a wake that is lost is not made good by a wait that ends in time.
struct Strict {
    set: Mutex<bool>,
    changed: Condvar,
    over: Arc<AtomicBool>,
}

impl Event for Strict {
    fn set(&self) {
        *self.set.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + LIMIT;
        let mut set = self.set.lock().unwrap();
        while !core::mem::take(&mut *set) {
            if limit.is_zero() || self.over.load(Ordering::Relaxed) {
                return false;
            }
            assert!(Instant::now() < deadline, "a wake was lost");
            set = self.changed.wait_timeout(set, Duration::from_millis(20)).unwrap().0;
        }
        true
    }
}

/// Runs each queue of a device on a thread.
fn serve(station: &Station, over: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let queue = |queue| {
        let (end, over) = (station.end.clone(), over.clone());
        std::thread::spawn(move || end.serve(queue, Duration::ZERO, &over))
    };
    (0..station.end.queue_count()).map(queue).collect()
}

fn station(switch: &Switch, mac: [u8; 6], features: Features, over: &Arc<AtomicBool>) -> Station {
    let event = {
        let over = over.clone();
        move || {
            let (set, changed) = (Mutex::new(false), Condvar::new());
            Arc::new(Strict { set, changed, over: over.clone() }) as Arc<dyn Event>
        }
    };
    let clock = Arc::new(RealClock(Instant::now()));
    let wish = Wish::new(features).buffers(128, &[2048]);
    Station::apart(Net::new(switch.port().unwrap(), Options::new(mac)), wish, clock, Box::new(event))
}

/// Sends numbered frames, never more ahead of what comes from the other side than the switch keeps for it, and
/// receives as many.
fn talk(mut station: Station, to: [u8; 6], from: [u8; 6], frames: u64) -> Station {
    let deadline = Instant::now() + LIMIT;
    let (mut sent, mut received) = (0, 0);
    while sent < frames || received < frames {
        while sent < frames && sent < received + 100 {
            let mut frame = plain(to, from, 60 + (sent % 1400) as usize, sent);
            frame[14..22].copy_from_slice(&sent.to_le_bytes());
            station.send_soon(&frame);
            sent += 1;
        }
        let mut idle = true;
        for frame in station.frames() {
            // What was flooded before the other's address was known is for somebody else.
            if frame[..6] == from && frame[6..12] == to {
                assert_eq!(u64::from_le_bytes(*frame[14..].first_chunk().unwrap()), received);
                assert!(frame[22..] == plain(from, to, frame.len(), received)[22..]);
                received += 1;
                idle = false;
            }
        }
        assert!(Instant::now() < deadline, "{received} frames");
        if idle && received < frames {
            station.rx[0].wait(Duration::from_secs(1)).unwrap();
        }
    }
    station
}

#[test]
fn two_drivers_talk_over_a_switch_in_order_and_without_loss_while_a_third_gives_commands() {
    const FRAMES: u64 = 20_000;
    let switch = Switch::new(SwitchOptions::default(), Arc::new(RealClock(Instant::now())));
    let over = Arc::new(AtomicBool::new(false));
    let merge = N::MRG_RXBUF | N::CTRL_VQ | N::CTRL_RX;
    let [a, b, mut c] = [(A, merge), (B, Features::EMPTY), (C, merge)]
        .map(|(mac, features)| station(&switch, mac, features, &over));
    let threads: Vec<JoinHandle<()>> =
        [&a, &b, &c].into_iter().flat_map(|station| serve(station, &over)).collect();
    let talkers = [(a, B, A), (b, A, B)]
        .map(|(station, to, from)| std::thread::spawn(move || talk(station, to, from, FRAMES)));
    let mut commands = 0u64;
    while talkers.iter().any(|talker| !talker.is_finished()) {
        let on = [(commands & 1) as u8];
        assert_eq!(c.command_and_wait(Class::RX.0, RxCommand::PROMISC.0, &on, LIMIT), Ack::OK);
        drop(c.frames());
        commands += 1;
    }
    let stations = talkers.map(|talker| talker.join().unwrap());
    assert!(commands > 0);
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop((stations, c));
    let counters = switch.counters();
    assert_eq!(counters.switched + counters.flooded, 2 * FRAMES);
}
