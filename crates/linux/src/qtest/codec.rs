//! The text protocol of `-qtest`, without I/O: a command is a line, and so is its reply.

use std::fmt;
use std::fmt::Write as _;

use virtio_kit::registers::Width;

/// What a machine is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read memory or a memory-mapped register.
    Read(u64, Width),
    /// Write memory or a memory-mapped register.
    Write(u64, Width, u64),
    /// Read an I/O port; at most 32 bits.
    In(u16, Width),
    /// Write an I/O port; at most 32 bits.
    Out(u16, Width, u32),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |width| match width {
            Width::U8 => 'b',
            Width::U16 => 'w',
            Width::U32 => 'l',
            Width::U64 => 'q',
        };
        match *self {
            Self::Read(at, width) => write!(f, "read{} {at:#x}", letter(width)),
            Self::Write(at, width, value) => write!(f, "write{} {at:#x} {value:#x}", letter(width)),
            Self::In(port, width) => write!(f, "in{} {port:#x}", letter(width)),
            Self::Out(port, width, value) => write!(f, "out{} {port:#x} {value:#x}", letter(width)),
        }
    }
}

impl Command {
    /// Appends the command's line.
    pub fn encode(&self, to: &mut String) {
        // Writing to a string does not fail.
        let _ = writeln!(to, "{self}");
    }
}

/// A line from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done; the value, if the command reads.
    Ok(Option<u64>),
    /// The command was refused.
    Refused,
    /// An interrupt line changed. Nothing was asked.
    Irq {
        /// Whether it is raised now.
        raised: bool,
        /// Its number.
        line: u32,
    },
}

/// A line that is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadReply;

/// The longest line that is taken for one.
const LONGEST: usize = 4096;

/// Collects bytes into replies.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line; `None` if there is none yet.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, BadReply> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().position(|&b| b == b'\n') else {
            return if rest.len() > LONGEST { Err(BadReply) } else { Ok(None) };
        };
        let reply = parse(&rest[..len]);
        self.at += len + 1;
        reply.map(Some)
    }
}

fn parse(line: &[u8]) -> Result<Reply, BadReply> {
    let mut words = std::str::from_utf8(line).map_err(|_| BadReply)?.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("OK"), None, None) => Ok(Reply::Ok(None)),
        (Some("OK"), Some(value), None) => {
            let digits = value.strip_prefix("0x").ok_or(BadReply)?;
            Ok(Reply::Ok(Some(u64::from_str_radix(digits, 16).map_err(|_| BadReply)?)))
        }
        (Some("IRQ"), Some(verb @ ("raise" | "lower")), Some(line)) => {
            Ok(Reply::Irq { raised: verb == "raise", line: line.parse().map_err(|_| BadReply)? })
        }
        (Some("FAIL" | "ERR"), ..) => Ok(Reply::Refused),
        _ => Err(BadReply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_lines_with_their_width_as_a_letter() {
        let mut text = String::new();
        Command::Read(0x1000, Width::U8).encode(&mut text);
        Command::Write(0xfeed, Width::U64, 0x0123_4567_89ab_cdef).encode(&mut text);
        Command::In(0xcfc, Width::U16).encode(&mut text);
        Command::Out(0xcf8, Width::U32, 0x8000_0000).encode(&mut text);
        assert_eq!(text, "readb 0x1000\nwriteq 0xfeed 0x123456789abcdef\ninw 0xcfc\noutl 0xcf8 0x80000000\n");
    }

    #[test]
    fn replies_come_out_whole_however_they_are_cut() {
        let stream = b"OK\nOK 0x0000000000001af4\nIRQ raise 11\nIRQ lower 11\nFAIL Unknown command 'x'\n";
        let expected = [
            Reply::Ok(None),
            Reply::Ok(Some(0x1af4)),
            Reply::Irq { raised: true, line: 11 },
            Reply::Irq { raised: false, line: 11 },
            Reply::Refused,
        ];
        for size in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut replies = vec![];
            for piece in stream.chunks(size) {
                decoder.feed(piece);
                while let Some(reply) = decoder.next_reply().unwrap() {
                    replies.push(reply);
                }
            }
            assert_eq!(replies, expected);
        }
    }

    #[test]
    fn lines_that_are_no_replies_are_errors() {
        for line in
            [&b"\n"[..], b"OK 12\n", b"OK 0xg\n", b"OK 0x10000000000000000\n", b"\xff\n", b"IRQ raise x\n"]
        {
            let mut decoder = Decoder::default();
            decoder.feed(line);
            assert_eq!(decoder.next_reply(), Err(BadReply), "{line:?}");
        }
        let mut decoder = Decoder::default();
        decoder.feed(&[b'x'; LONGEST + 1]);
        assert_eq!(decoder.next_reply(), Err(BadReply));
    }
}
