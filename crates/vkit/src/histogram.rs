//! Latencies, counted in buckets that are at most 1.6 % wide.

use std::time::Duration;

/// Buckets to a power of two.
const FINE: u32 = 6;

/// How often each latency occurred, in nanoseconds.
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; (64 - FINE as usize + 1) << FINE].into(), total: 0 }
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        let value = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(value)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
        self.total += other.total;
    }

    /// The latency that the fraction `of` of all values do not exceed, in microseconds; 0 without values.
    pub(crate) fn percentile(&self, of: f64) -> f64 {
        let rank = ((self.total as f64 * of).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        // To a tenth of a microsecond: the buckets are no finer.
        found.map_or(0.0, |bucket| (highest(bucket) as f64 / 100.0).round() / 10.0)
    }
}

/// Values below 2 * 2^FINE have buckets of their own; above, the leading FINE + 1 bits choose.
fn bucket(value: u64) -> usize {
    let shift = (64 - FINE - 1).saturating_sub(value.leading_zeros());
    ((shift as usize) << FINE) + (value >> shift) as usize
}

/// The greatest value in a bucket.
fn highest(bucket: usize) -> u64 {
    let shift = (bucket >> FINE).saturating_sub(1);
    let top = (bucket - (shift << FINE)) as u128 + 1;
    ((top << shift) - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_is_barely_wider() {
        for shift in 0..64 {
            for value in
                [1u64 << shift, (1 << shift) - 1, (1 << shift) | (1 << shift >> 1), u64::MAX >> shift]
            {
                let high = highest(bucket(value));
                assert!(high >= value && high as f64 <= value as f64 * 1.016 + 1.0, "{value} {high}");
                assert!(bucket(value) == 0 || highest(bucket(value) - 1) < value);
            }
        }
    }

    #[test]
    fn percentiles_of_a_thousand_even_values() {
        let mut all = Histogram::new();
        for part in 0..2 {
            let mut half = Histogram::new();
            (1..=500).for_each(|us| half.add(Duration::from_micros(part * 500 + us)));
            all.merge(&half);
        }
        for (of, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let got = all.percentile(of);
            assert!(got >= expected && got <= expected * 1.016, "{of}: {got}");
        }
        assert_eq!(Histogram::new().percentile(0.5), 0.0);
    }
}
