//! A port that says back what it is told.

use super::backend::{Input, Output, PortBackend, PortLink};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use spin::Mutex;

/// Bytes that wait to be said back.
const ROOM: usize = 64 << 10;

/// A back-end that gives the driver what it has sent.
#[derive(Debug, Default)]
pub struct Echo;

struct Line {
    link: PortLink,
    bytes: Mutex<VecDeque<u8>>,
}

struct Half(Arc<Line>);

impl PortBackend for Echo {
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>) {
        let line = Arc::new(Line { link, bytes: Mutex::new(VecDeque::with_capacity(ROOM)) });
        (Box::new(Half(line.clone())), Box::new(Half(line)))
    }
}

impl Input for Half {
    fn poll(&mut self, to: &mut [u8]) -> usize {
        let (len, was_full) = {
            let mut bytes = self.0.bytes.lock();
            let (len, was_full) = (to.len().min(bytes.len()), bytes.len() == ROOM);
            to.iter_mut().zip(bytes.drain(..len)).for_each(|(to, byte)| *to = byte);
            (len, was_full)
        };
        if was_full {
            self.0.link.output();
        }
        len
    }
}

impl Output for Half {
    fn submit(&mut self, from: &[u8]) -> usize {
        let (len, was_empty) = {
            let mut bytes = self.0.bytes.lock();
            let (len, was_empty) = (from.len().min(ROOM - bytes.len()), bytes.is_empty());
            bytes.extend(&from[..len]);
            (len, was_empty)
        };
        if was_empty && len > 0 {
            self.0.link.input();
        }
        len
    }
}
