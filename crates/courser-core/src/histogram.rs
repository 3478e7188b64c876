//! A distribution of durations, small enough to have three for each queue.
//!
//! Eight buckets for each doubling, from 1 microsecond to 19 hours: a percentile is exact to 10 %.

use std::time::Duration;

/// Buckets for each doubling.
const PER_DOUBLING: usize = 8;
/// 2^36 microseconds are 19 hours; longer times count there.
const DOUBLINGS: usize = 36;
const BUCKETS: usize = PER_DOUBLING * DOUBLINGS;

/// Counts of durations. Takes memory from the first one on.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Option<Box<[u32; BUCKETS]>>,
    count: u64,
    sum_micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let buckets = self.buckets.get_or_insert_with(|| Box::new([0; BUCKETS]));
        let bucket = &mut buckets[bucket(micros)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The duration that `share` (0 to 1) of all do not exceed, to 10 %; `None` when nothing was
    /// counted.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let buckets = self.buckets.as_ref()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank within a count"
        )]
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let index = buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        })?;
        Some(Duration::from_micros(upper(index)))
    }

    /// How many were at most `limit`, to 10 %.
    #[must_use]
    pub fn at_most(&self, limit: Duration) -> u64 {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        let Some(buckets) = &self.buckets else {
            return 0;
        };
        buckets
            .iter()
            .enumerate()
            .filter(|(i, _)| upper(*i) <= micros)
            .map(|(_, n)| u64::from(*n))
            .sum()
    }
}

/// The bucket of a time: exact below 8 microseconds, then eight steps for each doubling.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(1);
    let doubling = micros.ilog2() as usize;
    let step = if doubling >= 3 {
        (micros >> (doubling - 3)) as usize & (PER_DOUBLING - 1)
    } else {
        (micros as usize) << (3 - doubling) & (PER_DOUBLING - 1)
    };
    (doubling * PER_DOUBLING + step).min(BUCKETS - 1)
}

/// The longest time in a bucket, in microseconds.
fn upper(index: usize) -> u64 {
    let (doubling, step) = (index / PER_DOUBLING, (index % PER_DOUBLING) as u64);
    (((8 + step + 1) << doubling) >> 3).max(1 << doubling) - u64::from(doubling >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_a_bucket_whose_upper_end_is_within_an_eighth() {
        for micros in (1..100_000).chain([1 << 30, (1 << 35) + 12_345]) {
            let upper = upper(bucket(micros));
            assert!(
                upper >= micros,
                "{micros} is above the end {upper} of its bucket"
            );
            assert!(
                upper <= micros + micros / 8 + 1,
                "{micros} has a bucket up to {upper}"
            );
        }
    }

    #[test]
    fn percentiles_count_from_the_shortest() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), None);
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let p50 = histogram.percentile(0.5).unwrap();
        let p99 = histogram.percentile(0.99).unwrap();
        assert!((45..=56).contains(&p50.as_millis()), "p50 is {p50:?}");
        assert!((95..=112).contains(&p99.as_millis()), "p99 is {p99:?}");
        assert_eq!(histogram.at_most(Duration::from_secs(1)), 100);
        assert_eq!(histogram.sum(), Duration::from_millis(5050));
    }
}
