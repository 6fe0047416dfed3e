//! What the queues of a device, its registers and the program's handle have in common.

use super::counters::{Counters, Tally};
use super::settings::Settings;
use super::steering::Flows;
use super::watched::Watched;
use super::{MacAddress, Options};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use core::task::Waker;
use spin::Mutex;
use virtio_kit::Features;
use virtio_kit::device::ConfigNotice;
use virtio_kit::spec::net::{Config, Duplex, F, LinkStatus, MIN_RSS_TABLE_LENGTH, SPEED_UNKNOWN};

pub(super) struct Shared {
    mac: MacAddress,
    mtu: Option<u16>,
    pub(super) settings: Watched<Settings>,
    pub(super) flows: Flows,
    pub(super) tally: Tally,
    status: AtomicU16,
    speed: AtomicU32,
    duplex: AtomicU8,
    /// GUEST_ANNOUNCE was negotiated.
    announces: AtomicBool,
    /// Receive queues that are in the middle of a run, and go by the settings that they saw at its beginning.
    busy: Box<[AtomicBool]>,
    /// A command waits until they are not.
    command_waits: AtomicBool,
    control: Mutex<Option<Waker>>,
    receiving: Mutex<Receiving>,
    notice: Mutex<Option<Arc<ConfigNotice>>>,
}

/// Which receive queues run.
struct Receiving {
    pairs: Box<[bool]>,
    /// The control queue has started: how many are in use is what the driver says.
    controlled: bool,
}

impl Shared {
    pub(super) fn new(options: &Options) -> Self {
        let (speed, duplex) = options.speed.unwrap_or((SPEED_UNKNOWN, Duplex::UNKNOWN));
        Self {
            mac: options.mac,
            mtu: options.mtu,
            settings: Watched::new(Settings::initial(options.mac, Features::EMPTY)),
            flows: Flows::new(),
            tally: Tally::default(),
            status: AtomicU16::new(LinkStatus::LINK_UP.bits()),
            speed: AtomicU32::new(known_speed(speed)),
            duplex: AtomicU8::new(duplex.0),
            announces: AtomicBool::new(false),
            busy: (0..options.pairs).map(|_| AtomicBool::new(false)).collect(),
            command_waits: AtomicBool::new(false),
            control: Mutex::new(None),
            receiving: Mutex::new(Receiving {
                pairs: (0..options.pairs).map(|_| false).collect(),
                controlled: false,
            }),
            notice: Mutex::new(None),
        }
    }

    pub(super) fn pairs(&self) -> u16 {
        self.busy.len() as u16
    }

    pub(super) fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// What the driver reads (5.1.4).
    pub(super) fn config(&self) -> Config {
        Config {
            mac: self.settings.see().filter.mac,
            status: self.status.load(Ordering::Acquire).into(),
            max_virtqueue_pairs: self.pairs().into(),
            mtu: self.mtu.unwrap_or(0).into(),
            speed: self.speed.load(Ordering::Relaxed).into(),
            duplex: self.duplex.load(Ordering::Relaxed),
            rss_max_key_size: super::hash::KEY as u8,
            rss_max_indirection_table_length: MIN_RSS_TABLE_LENGTH.into(),
            supported_hash_types: super::hash::SUPPORTED.bits().into(),
            supported_tunnel_types: 0.into(),
        }
    }

    /// The driver settled on features, or, with none, was reset.
    pub(super) fn begin(&self, features: Features) {
        self.settings.change(|_| (Settings::initial(self.mac, features), ()));
        self.receiving.lock().controlled = false;
        self.flows.forget();
        self.announces.store(features.contains(F::GUEST_ANNOUNCE), Ordering::Relaxed);
        self.announced();
    }

    pub(super) fn attach(&self, notice: Arc<ConfigNotice>) {
        *self.notice.lock() = Some(notice);
    }

    /// The control queue starts.
    pub(super) fn control_starts(&self, waker: Waker) {
        *self.control.lock() = Some(waker);
        let mut receiving = self.receiving.lock();
        receiving.controlled = true;
        self.use_pairs(1);
    }

    /// A receive queue starts, or has stopped. Over vhost-user the control queue may be the front-end's, and never start
    /// here: the queues in use are then those that run.
    pub(super) fn receives(&self, pair: u16, runs: bool) {
        let mut receiving = self.receiving.lock();
        if let Some(of_pair) = receiving.pairs.get_mut(usize::from(pair)) {
            *of_pair = runs;
        }
        if !receiving.controlled {
            let running = receiving.pairs.iter().take_while(|runs| **runs).count();
            self.use_pairs(running.max(1) as u16);
        }
    }

    fn use_pairs(&self, pairs: u16) {
        if self.settings.see().spread.pairs == pairs {
            return;
        }
        self.settings.change(|settings| {
            let mut settings = settings.clone();
            settings.spread.pairs = pairs;
            (settings, ())
        });
    }

    fn changed(&self) {
        let notice = self.notice.lock().clone();
        if let Some(notice) = notice {
            notice.changed();
        }
    }

    pub(super) fn link_is_up(&self) -> bool {
        self.status.load(Ordering::Relaxed) & LinkStatus::LINK_UP.bits() != 0
    }

    pub(super) fn set_link(&self, up: bool) {
        let bit = LinkStatus::LINK_UP.bits();
        let before = if up {
            self.status.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.status.fetch_and(!bit, Ordering::AcqRel)
        };
        if (before & bit != 0) != up {
            self.changed();
        }
    }

    pub(super) fn announce(&self) -> bool {
        if !self.announces.load(Ordering::Relaxed) {
            return false;
        }
        self.status.fetch_or(LinkStatus::ANNOUNCE.bits(), Ordering::AcqRel);
        self.changed();
        true
    }

    /// The driver has seen that it is to announce itself.
    pub(super) fn announced(&self) {
        self.status.fetch_and(!LinkStatus::ANNOUNCE.bits(), Ordering::AcqRel);
    }

    pub(super) fn set_speed(&self, megabits: u32, duplex: Duplex) {
        self.speed.store(known_speed(megabits), Ordering::Relaxed);
        self.duplex.store(duplex.0, Ordering::Relaxed);
        self.changed();
    }

    pub(super) fn counters(&self) -> Counters {
        self.tally.snapshot()
    }

    /// Receive queue `pair` begins a run: settings are to be looked at after this.
    #[inline]
    pub(super) fn begin_run(&self, pair: u16) {
        // With the change of settings before `is_any_busy`, either this run sees the change or the command the run.
        self.busy[usize::from(pair)].store(true, Ordering::SeqCst);
    }

    /// Receive queue `pair` has published what it did.
    #[inline]
    pub(super) fn end_run(&self, pair: u16) {
        self.busy[usize::from(pair)].store(false, Ordering::SeqCst);
        if self.command_waits.load(Ordering::SeqCst) {
            let control = self.control.lock().clone();
            control.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether a receive queue may still go by settings that were changed before; if so, the control queue is woken
    /// when it does no more.
    pub(super) fn is_any_busy(&self) -> bool {
        let busy = || self.busy.iter().any(|busy| busy.load(Ordering::SeqCst));
        self.command_waits.store(true, Ordering::SeqCst);
        let wait = busy();
        if !wait {
            self.command_waits.store(false, Ordering::SeqCst);
        }
        wait
    }
}

/// What is no speed is the one that means it is unknown (5.1.4).
fn known_speed(megabits: u32) -> u32 {
    if megabits > MAX_SPEED { SPEED_UNKNOWN } else { megabits }
}

/// The highest speed that can be told (5.1.4.1).
const MAX_SPEED: u32 = 0x7fff_ffff;
