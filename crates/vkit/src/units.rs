//! Sizes, durations and numbers, as people write and read them.

use std::time::Duration;

/// The unit of offsets and lengths of a block device.
pub(crate) const SECTOR: u64 = virtio_kit_drivers::blk::SECTOR;

/// A number of bytes: `4096`, `4K`, `64M`, `1G`, `1T`, all powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("not a number of bytes: write 4096, 4K, 64M or 1G".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes: write 4096, 4K, 64M or 1G")?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than 64 bits can count".into())
}

/// A number of bytes that is whole sectors.
pub(crate) fn sectors(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        bytes if bytes.is_multiple_of(SECTOR) => Ok(bytes),
        _ => Err("not a multiple of 512".into()),
    }
}

/// A positive number of bytes that is whole sectors.
pub(crate) fn some_sectors(text: &str) -> Result<u64, String> {
    match sectors(text)? {
        0 => Err("must be more than 0".into()),
        bytes => Ok(bytes),
    }
}

/// A time in seconds, above 0 and at most a day.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = number_of_seconds(text)?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be above 0 and at most 86400".into())
    }
}

/// A time in seconds, at most a day.
pub(crate) fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if number_of_seconds(text)? == 0.0 { Ok(Duration::ZERO) } else { seconds(text) }
}

fn number_of_seconds(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "not a number of seconds".into())
}

/// A size with the unit that suits it: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.fract() == 0.0 {
        format!("{value} {}", UNITS[unit])
    } else if value < 10.0 {
        format!("{value:.2} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// Bytes in a time, for people: `1.23 GiB/s`.
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    format!("{}/s", size((bytes as f64 / time.as_secs_f64().max(1e-9)) as u64))
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_suffix() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("4K", 4096),
            ("4k", 4096),
            ("3MiB", 3 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "4X", "0x10", "99999999999999999999", "99999999999T", "4 K", "é"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sectors_are_multiples_of_512() {
        assert_eq!(sectors("1K"), Ok(1024));
        assert_eq!(sectors("0"), Ok(0));
        assert_eq!(sectors("100"), Err("not a multiple of 512".into()));
        assert!(some_sectors("0").is_err());
    }

    #[test]
    fn numbers_print_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(512 << 20), "512 MiB");
        assert_eq!(size(1536 << 20), "1.50 GiB");
        assert_eq!(size(123_456_789), "118 MiB");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!(rate(1 << 30, Duration::from_secs(2)), "512 MiB/s");
    }
}
