//! Counting instructions of the parts of a row, by running a program under callgrind.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The parts that are counted, in the order of [`Counts`].
pub const PARTS: [&str; 4] = ["submit", "device", "reap", "pool"];

/// Instructions per operation.
pub type Counts = [f64; 4];

/// What a row's parts, or their sum that a bar can be put on, come to.
pub fn part(counts: &Counts, name: &str) -> Option<f64> {
    if name == "driver" {
        return Some(counts[0] + counts[2]);
    }
    PARTS.iter().position(|p| *p == name).map(|i| counts[i])
}

/// Runs a program under callgrind, with `file` for its output: instructions per operation of its functions with
/// names like `part_submit`. A part that it has none of is 0.
pub fn count(
    program: &OsStr,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ops: usize,
    file: &Path,
) -> Result<Counts, String> {
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--error-exitcode=99"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(args)
        .output()
        .map_err(|e| format!("valgrind does not start: {e}"))?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).into_owned());
    }
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    std::fs::remove_file(file).map_err(|e| e.to_string())?;
    let totals = inclusive(&text);
    if totals.is_empty() {
        return Err("callgrind saw none of the parts".into());
    }
    Ok(PARTS.map(|part| totals.get(part).copied().unwrap_or(0) as f64 / ops as f64))
}

/// Sums of the cost lines of each function with a name like `part_submit`, calls included, by part.
fn inclusive(text: &str) -> HashMap<&'static str, u64> {
    let mut names: HashMap<&str, Option<&'static str>> = HashMap::new();
    let mut totals = HashMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            // `(12) name` at first, `(12)` afterwards.
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            current = *names.entry(id).or_insert_with(|| part_of(name));
        } else if let Some(callee) = line.strip_prefix("cfn=") {
            let (id, name) = callee.split_once(' ').unwrap_or((callee, ""));
            names.entry(id).or_insert_with(|| part_of(name));
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c))
            && let Some(part) = current
            && let Some(cost) = line.split_whitespace().nth(1)
        {
            // A line of the function's own, or what the call named just before it cost with all it called.
            *totals.entry(part).or_insert(0) += cost.parse::<u64>().unwrap_or(0);
        }
    }
    totals
}

fn part_of(name: &str) -> Option<&'static str> {
    let (_, rest) = name.split_once("part_")?;
    PARTS.into_iter().find(|part| rest.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_and_calls_count_for_the_function_that_they_stand_in() {
        let text = "events: Ir\n\nfn=(1) x::main\n1 100\ncfn=(2) x::part_submit\ncalls=2 5\n+1 40\n\n\
                    fn=(2)\n5 10\nfi=(3) y.rs\n* 5\ncfn=(4) memcpy\ncalls=3 1\n-2 20\n\nfn=(4)\n1 20\n";
        assert_eq!(inclusive(text), HashMap::from([("submit", 35)]));
    }
}
