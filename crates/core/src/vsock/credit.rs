//! How much may be sent (5.10.6.3). All counters wrap at 2^32.

/// What a link knows of the buffer at its remote end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// Payload bytes sent so far.
    sent: u32,
    /// Bytes that the remote end says it has consumed; never ahead of `sent`.
    forwarded: u32,
    /// Size of the remote end's buffer.
    buffer: u32,
}

impl Credit {
    /// The remote end says where it stands. `false` if that cannot be: it has consumed what was never sent, or less
    /// than it said before. Then what was known stays. Some ends do the second innocently: two of their threads
    /// overtake each other.
    pub(super) fn heard(&mut self, buffer: u32, forwarded: u32) -> bool {
        let outstanding = self.sent.wrapping_sub(self.forwarded);
        if forwarded.wrapping_sub(self.forwarded) > outstanding {
            return false;
        }
        (self.buffer, self.forwarded) = (buffer, forwarded);
        true
    }

    /// Bytes that the remote end has room for. None if it has made its buffer smaller than what is in it.
    pub(super) fn free(&self) -> u32 {
        self.buffer.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// The size of the remote end's buffer.
    pub(super) fn buffer(&self) -> u32 {
        self.buffer
    }

    /// Counts bytes, at most [`free`](Self::free), as sent.
    pub(super) fn spend(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_goes_on_over_the_end_of_the_counters() {
        let mut credit = Credit { sent: u32::MAX - 10, forwarded: u32::MAX - 10, buffer: 100 };
        assert_eq!(credit.free(), 100);
        credit.spend(60);
        assert_eq!((credit.free(), credit.sent), (40, 49));
        assert!(credit.heard(100, u32::MAX));
        assert_eq!(credit.free(), 50);
        assert!(credit.heard(100, 49));
        assert_eq!(credit.free(), 100);
    }

    #[test]
    fn credit_that_goes_back_or_ahead_of_what_was_sent_gives_nothing() {
        let mut credit = Credit::default();
        assert!(credit.heard(100, 0));
        credit.spend(80);
        assert!(credit.heard(100, 50));
        for wrong in [49, 0, 81, u32::MAX, 1 << 31] {
            assert!(!credit.heard(u32::MAX, wrong), "{wrong}");
            assert_eq!((credit.free(), credit.buffer()), (70, 100));
        }
    }

    #[test]
    fn a_buffer_may_become_smaller_than_what_is_in_it() {
        let mut credit = Credit::default();
        assert!(credit.heard(1000, 0));
        credit.spend(900);
        assert!(credit.heard(100, 0));
        assert_eq!(credit.free(), 0);
        assert!(credit.heard(100, 850));
        assert_eq!(credit.free(), 50);
        assert!(credit.heard(u32::MAX, 850));
        assert_eq!(credit.free(), u32::MAX - 50);
    }
}
