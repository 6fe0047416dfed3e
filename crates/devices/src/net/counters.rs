//! What a device counts.

use core::sync::atomic::Ordering;
use portable_atomic::AtomicU64;

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $tally:ident { $($(#[$field_doc:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)+
        }

        impl $name {
            /// All of them, by their names.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)+].into_iter()
            }
        }

        /// The same, as it is counted.
        #[derive(Default)]
        pub(super) struct $tally {
            $(pub(super) $field: Count,)+
        }

        impl $tally {
            pub(super) fn snapshot(&self) -> $name {
                $name { $($field: self.$field.get(),)+ }
            }
        }
    };
}
pub(super) use counters;

counters! {
    /// What became of a device's frames, since it was made.
    Counters, Tally {
        /// Frames that the driver sent and the back-end was given.
        sent,
        /// Bytes of these.
        sent_bytes,
        /// Chains of the driver that hold no header, or no frame of 14 bytes at least.
        send_short,
        /// Frames of the driver that are longer than any, or than the MTU allows.
        send_oversize,
        /// Frames of the driver whose header names what was not negotiated, or bytes outside the frame.
        send_bad_header,
        /// Frames of the driver while the link was down.
        send_link_down,
        /// Packets that the driver received.
        received,
        /// Bytes of these.
        received_bytes,
        /// Of these, segments that the device cut.
        received_segments,
        /// Of these, packets whose checksum the device completed.
        received_checksums,
        /// Frames that the driver does not want: its filter, or a queue that is not in use.
        receive_filtered,
        /// Frames whose headers are not what they should be for what is left to be done to them.
        receive_malformed,
        /// Packets that are longer than the MTU allows.
        receive_oversize,
        /// Frames that do not fit into the driver's buffers.
        receive_no_room,
        /// Frames while the link was down.
        receive_link_down,
        /// Receive buffers that do not even hold a header.
        receive_bad_buffer,
    }
}

/// One counter.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn one_more(&self) {
        self.add(1);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
