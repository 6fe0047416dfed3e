//! One connection: a Unix socket, and an end of a connection with the guest.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Waker};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use virtio_kit_devices::vsock::{End, Error, Handle, Kind, ReadEnd, WriteEnd};

use super::wakeups::Wakeup;

/// Longest line with which a program says what it wants: `CONNECT`, a port, a line feed.
const LONGEST_LINE: usize = 32;

/// Pieces that are moved in each direction before others have their turn.
const BUDGET: usize = 16;

/// A Unix socket and what it is for.
pub(super) struct Line {
    socket: OwnedFd,
    kind: Kind,
    stage: Stage,
    waker: Waker,
    wakeup: Arc<Wakeup>,
}

enum Stage {
    /// A program has connected and has not said what it wants.
    Greeting,
    /// The guest has been asked.
    Asked(End),
    Open(Open),
}

struct Open {
    reader: ReadEnd,
    writer: WriteEnd,
    /// Nothing more goes to the program, or comes from it.
    sent_all: bool,
    got_all: bool,
}

/// What is to become of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for its socket or its guest.
    Waits,
    /// There is more to do at once.
    Again,
    /// It is over.
    Over,
}

impl Line {
    /// A program has connected.
    pub(super) fn greeting(socket: OwnedFd, kind: Kind, wakeup: Arc<Wakeup>) -> Self {
        Self { socket, kind, stage: Stage::Greeting, waker: wakeup.waker(), wakeup }
    }

    /// The guest has connected.
    pub(super) fn open(socket: OwnedFd, end: End, wakeup: Arc<Wakeup>) -> Self {
        let (kind, stage) = (end.kind(), Stage::Open(Open::new(end)));
        Self { socket, kind, stage, waker: wakeup.waker(), wakeup }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Does what can be done now. `hung_up`: nobody has the other end of the socket any more.
    pub(super) fn turn(&mut self, guest: &Handle, hung_up: bool, buffer: &mut [u8]) -> Turn {
        self.wakeup.seen();
        if let Stage::Greeting = self.stage {
            match self.greet(guest) {
                Ok(Some(end)) => self.stage = Stage::Asked(end),
                Ok(None) => return Turn::Waits,
                Err(Gone) => return Turn::Over,
            }
        }
        if let Stage::Asked(end) = &mut self.stage {
            if hung_up {
                return Turn::Over;
            }
            end.reader().register(&mut Context::from_waker(&self.waker));
            match end.is_open() {
                Ok(true) => {}
                Ok(false) => return Turn::Waits,
                Err(_) => return Turn::Over,
            }
            let answer = format!("OK {}\n", end.near().port);
            // The socket is fresh and has room for it.
            if send(&self.socket, answer.as_bytes(), SEND) != Ok(answer.len()) {
                return Turn::Over;
            }
            let asked = std::mem::replace(&mut self.stage, Stage::Greeting);
            let Stage::Asked(end) = asked else { return Turn::Over };
            self.stage = Stage::Open(Open::new(end));
        }
        let Stage::Open(open) = &mut self.stage else { return Turn::Waits };
        let mut cx = Context::from_waker(&self.waker);
        match open.pump(&self.socket, self.kind, &mut cx, hung_up, buffer) {
            Ok(true) => Turn::Again,
            Ok(false) if open.sent_all && open.got_all => Turn::Over,
            Ok(false) => Turn::Waits,
            Err(Gone) => Turn::Over,
        }
    }

    /// Reads what a program wants; `None` if it has not said all of it.
    fn greet(&self, guest: &Handle) -> Result<Option<End>, Gone> {
        let mut line = [0; LONGEST_LINE];
        let len = match recv(&self.socket, &mut line, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Gone),
            Ok((len, _)) => len,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(_) => return Err(Gone),
        };
        let Some(end) = line[..len].iter().position(|&byte| byte == b'\n') else {
            return if len < LONGEST_LINE && self.kind == Kind::Stream { Ok(None) } else { Err(Gone) };
        };
        // What comes after the line is the guest's.
        if recv(&self.socket, &mut line[..=end], RecvFlags::DONTWAIT).is_err() {
            return Err(Gone);
        }
        let said = str::from_utf8(&line[..end]).map_err(|_| Gone)?;
        let port = said.strip_prefix("CONNECT ").and_then(|port| port.trim_end().parse().ok()).ok_or(Gone)?;
        guest.connect(self.kind, None, port).map(Some).map_err(|_| Gone)
    }
}

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// The line is over at once: one of its ends is gone.
struct Gone;

impl Open {
    fn new(end: End) -> Self {
        let (reader, writer) = end.split();
        Self { reader, writer, sent_all: false, got_all: false }
    }

    /// Moves what can be moved in both directions; whether there may be more.
    fn pump(
        &mut self,
        socket: &OwnedFd,
        kind: Kind,
        cx: &mut Context<'_>,
        hung_up: bool,
        buffer: &mut [u8],
    ) -> Result<bool, Gone> {
        // Before the look, so that nothing is missed after it.
        self.reader.register(cx);
        self.writer.register(cx);
        let mut more = self.pump_in(socket, kind, buffer)?;
        more |= self.pump_out(socket, kind, buffer)?;
        if hung_up && self.got_all && !self.sent_all {
            self.reader.close();
            self.sent_all = true;
        }
        Ok(more)
    }

    fn pump_out(&mut self, socket: &OwnedFd, kind: Kind, buffer: &mut [u8]) -> Result<bool, Gone> {
        for _ in 0..BUDGET {
            if self.sent_all {
                return Ok(false);
            }
            let len = match kind {
                Kind::Stream => self.reader.peek(buffer),
                Kind::Seqpacket => self.reader.peek_message(buffer).map(|got| got.map(|message| message.len)),
            };
            match len {
                Ok(None) => return Ok(false),
                Ok(Some(0)) => {
                    self.sent_all = true;
                    // The program may have gone.
                    let _ = shutdown(socket, Shutdown::Write);
                }
                Ok(Some(len)) => match send(socket, &buffer[..len], SEND) {
                    Ok(sent) => self.reader.consume(sent),
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                    // It takes no more; or no message as long as this.
                    Err(_) => {
                        self.reader.close();
                        self.sent_all = true;
                    }
                },
                Err(_) => return Err(Gone),
            }
        }
        Ok(true)
    }

    fn pump_in(&mut self, socket: &OwnedFd, kind: Kind, buffer: &mut [u8]) -> Result<bool, Gone> {
        for _ in 0..BUDGET {
            if self.got_all {
                return Ok(false);
            }
            let room = match self.writer.room() {
                Ok(0) => return Ok(false),
                Ok(room) => room.min(buffer.len()),
                Err(Error::Closed) => {
                    self.got_all = true;
                    let _ = shutdown(socket, Shutdown::Read);
                    return Ok(false);
                }
                Err(_) => return Err(Gone),
            };
            let got = match kind {
                Kind::Stream => recv(socket, &mut buffer[..room], RecvFlags::DONTWAIT),
                // How long the message is that is next.
                Kind::Seqpacket => {
                    let flags = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
                    recv(socket, &mut buffer[..1], flags).map(|(_, len)| (len, len))
                }
            };
            let sent = match got {
                Ok((0, _)) => {
                    self.writer.close();
                    self.got_all = true;
                    return Ok(false);
                }
                Ok((len, _)) if kind == Kind::Stream => self.writer.write(&buffer[..len]).map(|_| true),
                Ok((len, _)) if len > room && len <= self.writer.longest() => return Ok(false),
                Ok((len, _)) => match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                    // Nobody else writes, so that there is still room; one that is too long is an error.
                    Ok(_) => self.writer.send(buffer.get(..len).ok_or(Gone)?, false),
                    Err(_) => return Err(Gone),
                },
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(_) => return Err(Gone),
            };
            if sent.is_err() {
                return Err(Gone);
            }
        }
        Ok(true)
    }
}
