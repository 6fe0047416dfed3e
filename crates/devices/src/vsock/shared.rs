//! What all queues of a device, its registers and its owner know together.

use super::hub::Membership;
use super::{Kinds, Limits, Router};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use portable_atomic::AtomicU64;
use spin::Mutex;
use virtio_kit::device::ConfigNotice;
use virtio_kit::spec::vsock::{EVENT_QUEUE, RX_QUEUE, TX_QUEUE};
use virtio_kit::vsock::Link;

pub(super) struct Shared {
    cid: AtomicU64,
    pub(super) link: Arc<Link>,
    /// The driver is to be told that its connections are gone.
    event_due: AtomicBool,
    /// Packets from the driver wait until refusals have been sent.
    pub(super) held_up: AtomicBool,
    notice: Mutex<Option<Arc<ConfigNotice>>>,
    wakers: Mutex<Vec<Waker>>,
    membership: Mutex<Option<Membership>>,
}

/// What a device without a driver has agreed on.
const NOTHING: Kinds = Kinds { stream: false, seqpacket: false };

impl Shared {
    pub(super) fn new(cid: u64, limits: Limits, router: Arc<dyn Router>) -> Arc<Self> {
        let link = Link::new(limits, NOTHING, router);
        link.set_far(cid);
        Arc::new(Self {
            cid: AtomicU64::new(cid),
            link,
            event_due: AtomicBool::new(false),
            held_up: AtomicBool::new(false),
            notice: Mutex::new(None),
            wakers: Mutex::new(Vec::new()),
            membership: Mutex::new(None),
        })
    }

    pub(super) fn cid(&self) -> u64 {
        self.cid.load(Ordering::Acquire)
    }

    /// The guest has another context id from now on, and knows it once it has been told to look.
    pub(super) fn set_cid(&self, cid: u64) {
        self.cid.store(cid, Ordering::Release);
        self.link.set_far(cid);
        self.announce_reset();
        let notice = self.notice.lock().clone();
        if let Some(notice) = notice {
            notice.changed();
        }
    }

    pub(super) fn attach(&self, notice: Arc<ConfigNotice>) {
        *self.notice.lock() = Some(notice);
    }

    pub(super) fn attach_wakers(&self, wakers: Vec<Waker>) {
        self.link.set_waker(wakers.get(usize::from(RX_QUEUE)).cloned());
        *self.wakers.lock() = wakers;
    }

    pub(super) fn join(&self, membership: Membership) {
        *self.membership.lock() = Some(membership);
    }

    /// The device is gone: nobody reaches its guest by the hub any more.
    pub(super) fn leave(&self) {
        let membership = self.membership.lock().take();
        drop(membership);
    }

    /// Has the hub know the guest by another context id, if it is of one.
    pub(super) fn rename(&self, cid: u64) -> Result<(), super::CidError> {
        match &mut *self.membership.lock() {
            Some(membership) => membership.rename(cid),
            None => Ok(()),
        }
    }

    /// Makes a queue run. Nobody here holds a lock.
    fn wake(&self, queue: u16) {
        let waker = self.wakers.lock().get(usize::from(queue)).cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Packets of the driver can be taken again.
    pub(super) fn go_on(&self) {
        if self.held_up.swap(false, Ordering::AcqRel) {
            self.wake(TX_QUEUE);
        }
    }

    /// There is no driver any more, or none yet: nobody can be reached, and there are no connections.
    pub(super) fn forget_driver(&self) {
        self.link.set_kinds(NOTHING);
        self.link.reset();
        self.event_due.store(false, Ordering::Release);
        self.held_up.store(false, Ordering::Release);
    }

    /// The driver's connections are gone, and it is to be told (5.10.6.7).
    pub(super) fn announce_reset(&self) {
        self.link.reset();
        self.event_due.store(true, Ordering::Release);
        self.go_on();
        self.wake(EVENT_QUEUE);
    }

    pub(super) fn is_event_due(&self) -> bool {
        self.event_due.load(Ordering::Acquire)
    }

    pub(super) fn event_told(&self) {
        self.event_due.store(false, Ordering::Release);
    }
}
