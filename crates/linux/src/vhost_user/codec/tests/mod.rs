//! Tests of the codec: byte layouts, refusals, round trips and hostile streams.

mod features;
mod hostile;
mod layout;
mod refusals;
mod replies;
mod round_trip;
mod sample;

use std::os::fd::{BorrowedFd, OwnedFd};

use proptest::test_runner::{Config, RngSeed};

use super::*;

/// One encoded message with descriptors of its own.
struct Wire {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Wire {
    fn new<'f>(encode: impl FnOnce(&mut Vec<u8>, &mut Vec<BorrowedFd<'f>>) -> Result<(), Error>) -> Self {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        encode(&mut bytes, &mut fds).expect("encodes");
        Self { bytes, fds: fds.iter().map(|fd| fd.try_clone_to_owned().expect("dup")).collect() }
    }

    fn request(request: &Request) -> Self {
        Self::new(|bytes, fds| request.encode(false, bytes, fds))
    }

    fn raw(request: u32, payload: &[u8], fds: usize) -> Self {
        let header = Header { request, reply: false, need_reply: false, size: payload.len() as u32 };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        Self { bytes, fds: (0..fds).map(|_| fd()).collect() }
    }

    fn decode<M: Incoming>(self) -> Result<M, Error> {
        let mut decoder = Decoder::new();
        decoder.feed(&self.bytes, self.fds);
        decoder.next()?.expect("whole").message
    }
}

/// A descriptor that is told apart from every other.
fn fd() -> OwnedFd {
    std::io::pipe().expect("pipe").0.into()
}

/// Debug output in which descriptors are named by what they refer to, not by number.
fn told(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let mut parts = text.split("OwnedFd { fd: ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(' ').expect("a number");
        let target = std::fs::read_link(format!("/proc/self/fd/{number}")).expect("open");
        out += &format!("{} {rest}", target.display());
    }
    out
}

/// Whether the descriptor's other end sees it closed everywhere.
fn closed(writer: &std::io::PipeWriter) -> bool {
    use std::io::Write;
    (&*writer).write(&[1]).is_err()
}

fn config(seed: u64) -> Config {
    Config { failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..Config::default() }
}
