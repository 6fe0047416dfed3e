//! Names of rows: `LAYOUT/SHAPE[-indirect][-event]/MODE`, for example `packed-in-order/3-event/batch`.

use std::fmt;
use std::str::FromStr;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Packed ring, else split.
    pub packed: bool,
    /// IN_ORDER.
    pub in_order: bool,
    /// What chains look like and what the device does with them.
    pub shape: Shape,
    /// Chains go into indirect tables (INDIRECT_DESC).
    pub indirect: bool,
    /// Notifications are armed after every batch and bounded by event indices (EVENT_IDX).
    pub event: bool,
    /// How the ring is driven.
    pub mode: Mode,
}

/// The chain of every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `1`: 4096 bytes to be written by the device, as `[DmaBuf; 1]`.
    One,
    /// `2`: 16 bytes to be read, 4096 to be written, as `[DmaBuf; 2]`.
    Two,
    /// `3`: 16 to be read, 4096 and 1 to be written, as `[DmaBuf; 3]`.
    Three,
    /// `dyn3`: as `3`, in a `Bufs<4>`.
    Dyn,
    /// `blk`: as `3`, and the device parses it as a block request.
    Blk,
}

/// How many operations at once, and by which calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `one`: one operation, then a publish, by single calls.
    One,
    /// `calls`: 32 operations, then one publish, by single calls.
    Calls,
    /// `batch`: 32 operations by `add_batch` and `get_batch`, then one publish.
    Batch,
}

const LAYOUTS: [(&str, (bool, bool)); 4] = [
    ("split", (false, false)),
    ("split-in-order", (false, true)),
    ("packed", (true, false)),
    ("packed-in-order", (true, true)),
];
const SHAPES: [(&str, Shape); 5] =
    [("1", Shape::One), ("2", Shape::Two), ("3", Shape::Three), ("dyn3", Shape::Dyn), ("blk", Shape::Blk)];
const MODES: [(&str, Mode); 3] = [("one", Mode::One), ("calls", Mode::Calls), ("batch", Mode::Batch)];
/// The middle part of all rows' names.
const KINDS: [&str; 11] = [
    "1",
    "2",
    "3",
    "dyn3",
    "blk",
    "3-event",
    "blk-event",
    "2-indirect",
    "3-indirect",
    "dyn3-indirect",
    "3-indirect-event",
];

impl Row {
    /// All rows.
    pub fn all() -> impl Iterator<Item = Self> {
        LAYOUTS.iter().flat_map(|(layout, _)| {
            KINDS.iter().flat_map(move |kind| {
                MODES.iter().map(move |(mode, _)| {
                    format!("{layout}/{kind}/{mode}").parse().expect("a name from the tables")
                })
            })
        })
    }

    /// All rows whose name contains one of the comma-separated parts of `only`; all if it is empty.
    pub fn matching(only: &str) -> Vec<Self> {
        Self::all().filter(|row| only.split(',').any(|part| row.to_string().contains(part))).collect()
    }

    /// Operations before a publish.
    pub fn batch(&self) -> usize {
        if self.mode == Mode::One { 1 } else { 32 }
    }
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

fn name_of<'t, T: PartialEq>(table: &[(&'t str, T)], value: &T) -> &'t str {
    table.iter().find(|(_, v)| v == value).map_or("?", |(name, _)| name)
}

impl FromStr for Row {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let parse = || {
            let mut fields = name.split('/');
            let (layout, kind, mode) = (fields.next()?, fields.next()?, fields.next()?);
            let (packed, in_order) = find(&LAYOUTS, layout)?;
            let mut kind = kind.split('-');
            let shape = find(&SHAPES, kind.next()?)?;
            let (mut indirect, mut event) = (false, false);
            for option in kind {
                match option {
                    "indirect" => indirect = true,
                    "event" => event = true,
                    _ => return None,
                }
            }
            Some(Self { packed, in_order, shape, indirect, event, mode: find(&MODES, mode)? })
        };
        parse().ok_or_else(|| format!("no row is named {name}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{}/{}{}{}/{}",
            name_of(&LAYOUTS, &(self.packed, self.in_order)),
            name_of(&SHAPES, &self.shape),
            if self.indirect { "-indirect" } else { "" },
            if self.event { "-event" } else { "" },
            name_of(&MODES, &self.mode),
        );
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_what_its_name_says() {
        for row in Row::all() {
            assert_eq!(row.to_string().parse(), Ok(row));
        }
        assert_eq!(Row::all().count(), 132);
        assert!("split/4/one".parse::<Row>().is_err());
        assert!("split/3-fast/one".parse::<Row>().is_err());
    }
}
