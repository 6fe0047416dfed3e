//! What a queue can be negotiated to be: the matrix over which everything is tested.

use std::fmt;
use virtio_kit_ring::{device, driver};

/// One kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// RING_PACKED.
    pub packed: bool,
    /// IN_ORDER.
    pub in_order: bool,
    /// EVENT_IDX.
    pub event_idx: bool,
    /// INDIRECT_DESC.
    pub indirect: bool,
    /// Descriptors.
    pub size: u16,
}

/// Sizes of split rings in the matrix.
pub const SPLIT_SIZES: [u16; 3] = [2, 8, 256];
/// Sizes of packed rings in the matrix.
pub const PACKED_SIZES: [u16; 8] = [1, 2, 3, 5, 8, 100, 256, 1000];

impl Shape {
    /// The whole matrix.
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(Self::of_layout)
    }

    /// The part of the matrix with one layout.
    pub fn of_layout(packed: bool) -> impl Iterator<Item = Self> {
        let sizes = if packed { &PACKED_SIZES[..] } else { &SPLIT_SIZES[..] };
        sizes.iter().flat_map(move |&size| Self::of_size(packed, size))
    }

    /// All kinds of queue of one layout and size.
    pub fn of_size(packed: bool, size: u16) -> impl Iterator<Item = Self> {
        (0..8).map(move |bits| Self {
            packed,
            in_order: bits & 1 != 0,
            event_idx: bits & 2 != 0,
            indirect: bits & 4 != 0,
            size,
        })
    }

    /// What the driver's queue is made with; `indirect` says when it uses tables, if they are negotiated.
    pub fn options(&self, indirect: driver::Indirect) -> driver::Options {
        driver::Options {
            in_order: self.in_order,
            event_idx: self.event_idx,
            indirect: self.indirect.then_some(indirect),
            ..driver::Options::default()
        }
    }

    /// What a new device queue is made with.
    pub fn config(&self) -> device::Config {
        device::Config {
            in_order: self.in_order,
            event_idx: self.event_idx,
            indirect: self.indirect,
            ..device::Config::fresh(self.packed, self.size)
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.packed { "packed" } else { "split" })?;
        let options =
            [(self.in_order, "+in_order"), (self.event_idx, "+event_idx"), (self.indirect, "+indirect")];
        options.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| f.write_str(name))?;
        write!(f, "/{}", self.size)
    }
}

/// Lengths of descriptor, driver and device area (2.7, 2.8.10.1).
pub(crate) fn area_sizes(shape: Shape) -> [usize; 3] {
    let n = usize::from(shape.size);
    if shape.packed { [16 * n, 4, 4] } else { [16 * n, 6 + 2 * n, 6 + 8 * n] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_matrix_names_every_shape_once() {
        let names: HashSet<String> = Shape::all().map(|shape| shape.to_string()).collect();
        assert_eq!(names.len(), 8 * (SPLIT_SIZES.len() + PACKED_SIZES.len()));
        assert_eq!(Shape::all().count(), names.len());
        assert!(names.contains("packed+in_order+event_idx+indirect/1000") && names.contains("split/2"));
    }
}
