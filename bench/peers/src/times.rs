//! Results of the programs, as a line of text.

use std::fmt;
use std::str::FromStr;

/// Nanoseconds per operation: in all, and of submit, device and reap. The parts of batches of one are too short to look
/// at, and 0. As text, the line that a program ends with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// In all.
    pub total: f64,
    /// Of submit, device and reap.
    pub parts: [f64; 3],
    /// The share of the time that somebody else had the core.
    pub lost: f64,
}

const MARK: &str = "RESULT ";

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, parts: [submit, device, reap], lost } = self;
        write!(f, "{MARK}{total:.3} {submit:.3} {device:.3} {reap:.3} {lost:.4}")
    }
}

impl FromStr for Times {
    type Err = String;

    /// Of a program's output, which may have other lines.
    fn from_str(text: &str) -> Result<Self, String> {
        let line = text.lines().find_map(|line| line.strip_prefix(MARK)).unwrap_or("");
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [total, submit, device, reap, lost] => Ok(Self { total, parts: [submit, device, reap], lost }),
            _ => Err(format!("no result in: {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_other_lines() {
        let times = Times { total: 20.5, parts: [1.0, 2.0, 3.0], lost: 0.25 };
        assert_eq!(format!("pinned\n{times}\n").parse(), Ok(times));
        assert!("RESULT 1 2 3".parse::<Times>().is_err());
    }
}
