//! Output: tables for people, BENCHMARKS.md, and bars.

use crate::args::Args;
use crate::callgrind::{Counts, part};
use std::path::{Path, PathBuf};

/// Prints a section, and with `--write [FILE]` puts it into BENCHMARKS.md in place of the one before.
///
/// # Panics
///
/// If the file cannot be written.
pub fn publish(args: &Args, title: &str, text: &str) {
    println!("{text}");
    if !args.flag("write") {
        return;
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../BENCHMARKS.md");
    let path = args.text("write").map_or(beside, PathBuf::from);
    let old = std::fs::read_to_string(&path).unwrap_or_else(|_| "# Benchmarks\n".into());
    std::fs::write(&path, replaced(&old, title, text)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    println!("written to {}", path.display());
}

/// `old` with the section `title` replaced, or appended.
pub fn replaced(old: &str, title: &str, text: &str) -> String {
    let section = format!("## {title}\n\n{}\n", text.trim_end());
    let heading = format!("\n## {title}\n");
    match old.find(&heading) {
        None => format!("{}\n\n{section}", old.trim_end()),
        Some(at) => {
            let after = at + heading.len();
            let rest = old[after..].find("\n## ").map_or("", |next| &old[after + next..]);
            format!("{}\n\n{section}{rest}", old[..at].trim_end())
        }
    }
}

/// The rows of a file of bars that are broken, as text, and how many bars were compared.
///
/// A line has a row, a part (one of [`PARTS`](crate::callgrind::PARTS), or `driver` for submit and reap
/// together) and the most instructions per operation, separated by tabs. A `*` stands for any text between two
/// slashes of a row's name. Text after `#` is a comment. A bar that no row was counted for is broken.
pub fn broken_bars(bars: &str, counted: &[(String, Counts)]) -> Result<(Vec<String>, usize), String> {
    let mut broken = vec![];
    let mut compared = 0;
    for (line, number) in bars.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [row, part_name, limit] = fields[..] else {
            return Err(format!("line {number}: not a row, a part and a limit: {line}"));
        };
        let limit: f64 = limit.parse().map_err(|e| format!("line {number}: {limit}: {e}"))?;
        let before = compared;
        for (name, counts) in counted.iter().filter(|(name, _)| matches(row, name)) {
            let count =
                part(counts, part_name).ok_or_else(|| format!("line {number}: no part {part_name}"))?;
            compared += 1;
            if count > limit {
                broken.push(format!("{name} {part_name}: {count:.1} instructions, bar {limit}"));
            }
        }
        if before == compared {
            broken.push(format!("line {number}: no row {row} was counted"));
        }
    }
    Ok((broken, compared))
}

fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.split('/'), name.split('/'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some(p), Some(n)) if p == "*" || p == n => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_the_one_before() {
        let one = replaced("# Benchmarks\n", "A", "first");
        let two = replaced(&one, "B", "second");
        assert_eq!(two, "# Benchmarks\n\n## A\n\nfirst\n\n## B\n\nsecond\n");
        assert_eq!(replaced(&two, "A", "x"), "# Benchmarks\n\n## A\n\nx\n\n## B\n\nsecond\n");
        assert_eq!(replaced(&two, "B", "x"), "# Benchmarks\n\n## A\n\nfirst\n\n## B\n\nx\n");
    }

    #[test]
    fn bars_hold_for_the_rows_that_they_name() {
        let counted = [
            ("split/3/one".into(), [10.0, 20.0, 30.0, 1.0]),
            ("packed/3/one".into(), [10.0, 25.0, 30.0, 1.0]),
        ];
        let broken = |bars: &str| broken_bars(bars, &counted).unwrap().0.len();
        assert_eq!(broken("# all\n*/3/one\tdriver\t40\n"), 0);
        assert_eq!(broken("*/3/one\tdriver\t39\n"), 2);
        assert_eq!(broken("*/3/one\tdevice\t20\n"), 1);
        assert_eq!(broken("split/3/two\tdevice\t20\n"), 1);
        assert!(broken_bars("split/3/one device 20", &counted).is_err());
        assert!(broken_bars("split/3/one\tdevices\t20", &counted).is_err());
    }
}
