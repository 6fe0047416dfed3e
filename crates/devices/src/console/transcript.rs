//! A port in memory.

use super::backend::{Input, Output, PortBackend, PortLink};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use spin::Mutex;

/// What the driver has sent, and what it is to get. Clones share it: one is kept to look at it from the outside.
#[derive(Clone)]
pub struct Transcript(Arc<Inner>);

struct Inner {
    /// Bytes of output that are kept until somebody takes them.
    room: usize,
    text: Mutex<Text>,
}

#[derive(Default)]
struct Text {
    output: Vec<u8>,
    input: VecDeque<u8>,
    link: Option<PortLink>,
}

impl Transcript {
    /// Keeps up to `room` bytes of output until they are taken; a driver that sends more waits.
    pub fn new(room: usize) -> Self {
        Self(Arc::new(Inner { room, text: Mutex::new(Text::default()) }))
    }

    /// Gives the driver bytes.
    pub fn type_in(&self, bytes: &[u8]) {
        let link = {
            let mut text = self.0.text.lock();
            text.input.extend(bytes);
            text.link.clone()
        };
        if let Some(link) = link {
            link.input();
        }
    }

    /// Takes what the driver has sent since the last time.
    pub fn take(&self) -> Vec<u8> {
        let (output, link) = {
            let mut text = self.0.text.lock();
            (core::mem::take(&mut text.output), text.link.clone())
        };
        if let Some(link) = link {
            link.output();
        }
        output
    }

    /// Bytes that the driver has not got yet.
    pub fn untold(&self) -> usize {
        self.0.text.lock().input.len()
    }

    /// Somebody is there now, or nobody is any more.
    pub fn set_connected(&self, connected: bool) {
        let link = self.0.text.lock().link.clone();
        if let Some(link) = link {
            link.set_connected(connected);
        }
    }
}

impl PortBackend for Transcript {
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>) {
        self.0.text.lock().link = Some(link);
        (self.clone(), self)
    }
}

impl Input for Transcript {
    fn poll(&mut self, to: &mut [u8]) -> usize {
        let mut text = self.0.text.lock();
        let len = to.len().min(text.input.len());
        for (to, byte) in to.iter_mut().zip(text.input.drain(..len)) {
            *to = byte;
        }
        len
    }
}

impl Output for Transcript {
    fn submit(&mut self, from: &[u8]) -> usize {
        let mut text = self.0.text.lock();
        let len = from.len().min(self.0.room.saturating_sub(text.output.len()));
        text.output.extend_from_slice(&from[..len]);
        len
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.text.lock();
        write!(f, "Transcript({} bytes sent, {} to come)", text.output.len(), text.input.len())
    }
}
