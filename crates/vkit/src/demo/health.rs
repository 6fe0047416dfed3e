//! The continuous health tests of SP 800-90B (4.4) on bytes that claim full entropy.
//!
//! A good source fails one of them less often than once in 2^40 samples; a source that is stuck, or that prefers a
//! value, fails soon.

use std::fmt;

/// -log2 of how often a good source may fail.
const ALPHA_BITS: f64 = 40.0;

/// Bits of entropy that a sample claims.
const CLAIM: f64 = 8.0;

/// Samples in a window of the adaptive proportion test: 512 for samples of more than one bit.
const WINDOW: u32 = 512;

/// Both tests, fed sample by sample.
pub(super) struct Health {
    last: Option<u8>,
    repeats: u32,
    most_repeats: u32,
    first: u8,
    seen: u32,
    equal: u32,
    most_equal: u32,
}

/// Which test failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unhealthy {
    /// The same value came this often in a row.
    Repetition(u32),
    /// One value came this often in a window.
    Proportion(u32),
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repetition(count) => write!(f, "no entropy: the same byte came {count} times in a row"),
            Self::Proportion(count) => {
                write!(f, "little entropy: one byte came {count} times in {WINDOW}")
            }
        }
    }
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            last: None,
            repeats: 0,
            // 4.4.1: C = 1 + ceil(-log2(alpha) / H).
            most_repeats: 1 + (ALPHA_BITS / CLAIM).ceil() as u32,
            first: 0,
            seen: 0,
            equal: 0,
            most_equal: proportion_cutoff(),
        }
    }

    /// Takes the next sample.
    pub(super) fn sample(&mut self, sample: u8) -> Result<(), Unhealthy> {
        self.repeats = if self.last == Some(sample) { self.repeats + 1 } else { 1 };
        self.last = Some(sample);
        if self.repeats >= self.most_repeats {
            return Err(Unhealthy::Repetition(self.repeats));
        }
        if self.seen == 0 {
            (self.first, self.equal) = (sample, 1);
        } else if sample == self.first {
            self.equal += 1;
        }
        if self.equal >= self.most_equal {
            return Err(Unhealthy::Proportion(self.equal));
        }
        self.seen = (self.seen + 1) % WINDOW;
        Ok(())
    }
}

/// 4.4.2: one more than the critical value of a binomial distribution over the window.
fn proportion_cutoff() -> u32 {
    let (n, p) = (f64::from(WINDOW), (-CLAIM).exp2());
    let alpha = (-ALPHA_BITS).exp2();
    // From the top: how likely it is that a value comes so often or more.
    let mut log = n * p.ln();
    let mut tail = log.exp();
    let mut count = WINDOW;
    while count > 0 {
        // From the probability of `count` to that of `count - 1`.
        log += (f64::from(count) / (n - f64::from(count) + 1.0)).ln() + ((1.0 - p) / p).ln();
        if tail + log.exp() > alpha {
            break;
        }
        tail += log.exp();
        count -= 1;
    }
    count + 1
}

#[cfg(test)]
mod tests {
    use super::super::content::random;
    use super::*;

    fn run(mut next: impl FnMut(u64) -> u8, samples: u64) -> Result<(), Unhealthy> {
        let mut health = Health::new();
        (0..samples).try_for_each(|at| health.sample(next(at)))
    }

    #[test]
    fn cutoffs_are_those_of_the_document() {
        assert_eq!(Health::new().most_repeats, 6);
        // With p = 1/256 a value comes twice in 512 on average.
        let cutoff = proportion_cutoff();
        assert!((15..=22).contains(&cutoff), "{cutoff}");
    }

    #[test]
    fn good_bytes_pass() {
        let mut state = 5;
        assert_eq!(run(|_| random(&mut state) as u8, 4 << 20), Ok(()));
    }

    #[test]
    fn a_source_that_is_stuck_is_caught_at_once() {
        assert_eq!(run(|_| 0xa5, 1000), Err(Unhealthy::Repetition(6)));
        let mut state = 5;
        let stuck_later = |at| if at < 10_000 { random(&mut state) as u8 } else { 0 };
        assert!(matches!(run(stuck_later, 20_000), Err(Unhealthy::Repetition(6))));
    }

    #[test]
    fn sources_with_a_short_cycle_or_a_preference_are_caught() {
        assert!(matches!(run(|at| at as u8 % 8, 10_000), Err(Unhealthy::Proportion(_))));
        // One value in 16 instead of one in 256.
        let mut state = 5;
        let biased = |_| match random(&mut state) {
            word if word & 0xf00 == 0 => 7,
            word => word as u8,
        };
        assert!(matches!(run(biased, 1 << 20), Err(Unhealthy::Proportion(_))));
        // Only 6 bits of each byte change.
        let mut state = 5;
        assert!(run(|_| random(&mut state) as u8 & 0x3f, 1 << 20).is_err());
    }
}
