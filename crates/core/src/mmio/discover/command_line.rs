//! `virtio_mmio.device=SIZE@ADDRESS:INTERRUPT[:ID]`, as monitors write it and Linux reads it (4.2.1).

use crate::mmio::Place;
use core::fmt;

/// The places that a command line names, and each argument of the kind that names none.
///
/// Numbers are as Linux takes them: decimal, hexadecimal with `0x`, octal with `0`; a size may end in K, M or G. The
/// id is only a name for people.
pub fn places(command_line: &str) -> impl Iterator<Item = Result<Place, BadArgument<'_>>> {
    let value = |word: &'static str| move |argument: &&str| argument.starts_with(word);
    let prefix = "virtio_mmio.device=";
    command_line
        .split_ascii_whitespace()
        .filter(value(prefix))
        .map(move |argument| parse(&argument[prefix.len()..]).ok_or(BadArgument(argument)))
}

/// An argument that names no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadArgument<'a>(pub &'a str);

impl fmt::Display for BadArgument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names no device: write virtio_mmio.device=SIZE@ADDRESS:INTERRUPT[:ID]", self.0)
    }
}

impl core::error::Error for BadArgument<'_> {}

fn parse(value: &str) -> Option<Place> {
    let (len, rest) = value.split_once('@')?;
    let mut fields = rest.split(':');
    let start = number(fields.next()?)?;
    let interrupt = number(fields.next()?)?.try_into().ok()?;
    if let Some(id) = fields.next() {
        number(id)?;
    }
    let len = size(len)?;
    (fields.next().is_none() && len > 0 && start.checked_add(len).is_some()).then_some(Place {
        start,
        len,
        interrupt,
    })
}

fn size(text: &str) -> Option<u64> {
    let unit = match text.chars().last()?.to_ascii_uppercase() {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => return number(text),
    };
    number(&text[..text.len() - 1])?.checked_mul(1 << unit)
}

fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // A sign would be taken for part of a number.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn all(text: &str) -> Vec<Result<Place, BadArgument<'_>>> {
        places(text).collect()
    }

    #[test]
    fn every_device_of_a_command_line_is_found() {
        let text = "console=ttyS0 virtio_mmio.device=512@0xfeb00e00:12 quiet \
                    virtio_mmio.device=4K@0xd0000000:5:1\tvirtio_mmio.device=0x200@1000:010 virtio_mmio=1";
        let place = |start, len, interrupt| Ok(Place { start, len, interrupt });
        assert_eq!(
            all(text),
            [place(0xfeb0_0e00, 512, 12), place(0xd000_0000, 4096, 5), place(1000, 512, 8)]
        );
        assert!(all("").is_empty());
    }

    #[test]
    fn what_names_no_place_is_told_by_its_text() {
        for bad in [
            "",
            "512",
            "512@",
            "512@0x1000",
            "512@0x1000:",
            "@0x1000:1",
            "512@0x1000:x",
            "512@0x1000:1:",
            "512@0x1000:1:2:3",
            "0@0x1000:1",
            "512@0xffffffffffffffff:1",
            "5T@0:1",
            "é@0:1",
            "K@0:1",
            "+5@0:1",
            "512@0x1000:4294967296",
            "99999999999G@0:1",
            "512@-1:1",
            "08@0:1",
        ] {
            let argument = alloc::format!("virtio_mmio.device={bad}");
            assert_eq!(all(&argument), [Err(BadArgument(&argument))], "{bad}");
        }
        let bad = all("virtio_mmio.device=5").remove(0).unwrap_err();
        assert!(alloc::format!("{bad}").contains("SIZE@ADDRESS"));
    }
}
