//! Interrupts as words of the machine's memory.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use virtio_kit::clock::Clock;
use virtio_kit::pci::{Interrupts, Lines, Message};
use virtio_kit::transport::TransportError;

use super::ram::Ram;
use crate::clock::MonotonicClock;

/// Words that each function has, as many as it can have vectors.
const VECTORS: u16 = 2048;

/// One function's messages: each writes a word of its own, which is not 0 until it is taken note of.
pub(super) struct Words {
    ram: Arc<Ram>,
    first: usize,
    armed: Mutex<Option<(u16, Arc<Lines>)>>,
}

impl Words {
    /// Of the `n`th function.
    pub(super) fn new(ram: Arc<Ram>, n: usize) -> Result<Self, TransportError> {
        let first = n * usize::from(VECTORS);
        if first + usize::from(VECTORS) > Ram::WORDS {
            return Err(TransportError::Unsupported("that many functions"));
        }
        Ok(Self { ram, first, armed: Mutex::new(None) })
    }

    fn armed(&self) -> Option<(u16, Arc<Lines>)> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, vector: u16, lines: &Lines) -> bool {
        let word = self.ram.word(self.first + usize::from(vector));
        // Looking first leaves the cache line with the other end.
        let came = word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0;
        if came {
            lines.fire(vector);
        }
        came
    }

    /// Passes on everything that came in.
    pub(super) fn poll(&self) -> bool {
        let Some((count, lines)) = self.armed() else { return false };
        (0..count).fold(false, |any, vector| self.take(vector, &lines) | any)
    }
}

impl Interrupts for Words {
    fn arm(&self, count: u16, lines: &Arc<Lines>) -> Result<Vec<Message>, TransportError> {
        if count > VECTORS {
            return Err(TransportError::Unsupported("that many interrupt vectors"));
        }
        let message = |vector: u16| {
            let n = self.first + usize::from(vector);
            self.ram.word(n).store(0, Ordering::Release);
            Message { address: Ram::word_address(n), data: u32::from(vector) + 1 }
        };
        let messages = (0..count).map(message).collect();
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((count, lines.clone()));
        Ok(messages)
    }

    fn disarm(&self) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn wait(&self, vector: u16, limit: Duration) -> Result<bool, TransportError> {
        let Some((_, lines)) = self.armed().filter(|(count, _)| vector < *count) else {
            return Ok(false);
        };
        let came = || self.take(vector, &lines).then_some(());
        Ok(MonotonicClock.wait_for(limit, came).is_some())
    }
}
