//! Counts and times of requests, cheap enough for the hot path: a few relaxed atomic additions each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::status::Requests;

/// Four steps to each doubling of microseconds: 0 µs to 2^40 µs, each value at most a quarter too high.
const STEPS: usize = 4;
const BUCKETS: usize = 40 * STEPS;

/// Counts of one server or of the whole instance.
pub struct Meter {
    total: AtomicU64,
    errors: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    /// Requests in each of the last 60 seconds, with the second they belong to.
    seconds: [(AtomicU64, AtomicU64); 60],
}

/// See [`Meter::save`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    total: u64,
    errors: u64,
    micros: u64,
    buckets: Vec<u64>,
    seconds: Vec<(u64, u64)>,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            total: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            seconds: [const { (AtomicU64::new(u64::MAX), AtomicU64::new(0)) }; 60],
        }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let doubling = 63 - micros.leading_zeros() as usize;
    let step = (micros >> (doubling - 2)) as usize & (STEPS - 1);
    ((doubling - 1) * STEPS + step).min(BUCKETS - 1)
}

/// The highest value that falls into a bucket.
fn ceiling(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (doubling, step) = (bucket / STEPS + 1, (bucket % STEPS) as u64);
    ((STEPS as u64 + step + 1) << (doubling - 2)) - 1
}

impl Meter {
    /// One request was answered after `took`; `second` is the time in whole seconds from any fixed start.
    pub fn record(&self, took: Duration, failed: bool, second: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.total.fetch_add(1, Relaxed);
        if failed {
            self.errors.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(micros, Relaxed);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
        let (stamp, count) = &self.seconds[(second % 60) as usize];
        if stamp.swap(second, Relaxed) != second {
            count.store(0, Relaxed);
        }
        count.fetch_add(1, Relaxed);
    }

    /// Everything, for another program.
    pub fn save(&self) -> Saved {
        Saved {
            total: self.total.load(Relaxed),
            errors: self.errors.load(Relaxed),
            micros: self.micros.load(Relaxed),
            buckets: self.buckets.iter().map(|b| b.load(Relaxed)).collect(),
            seconds: self.seconds.iter().map(|(s, n)| (s.load(Relaxed), n.load(Relaxed))).collect(),
        }
    }

    /// Goes on from what another program has counted.
    pub fn load(&self, saved: &Saved) {
        self.total.store(saved.total, Relaxed);
        self.errors.store(saved.errors, Relaxed);
        self.micros.store(saved.micros, Relaxed);
        self.buckets.iter().zip(&saved.buckets).for_each(|(b, n)| b.store(*n, Relaxed));
        for ((stamp, count), (s, n)) in self.seconds.iter().zip(&saved.seconds) {
            stamp.store(*s, Relaxed);
            count.store(*n, Relaxed);
        }
    }

    /// What the status document says.
    pub fn read(&self, second: u64, in_flight: u64) -> Requests {
        let total = self.total.load(Relaxed);
        let recent = |stamp: u64| stamp <= second && second - stamp < 60;
        let per_minute =
            self.seconds.iter().filter(|(s, _)| recent(s.load(Relaxed))).map(|(_, n)| n.load(Relaxed)).sum();
        Requests {
            total,
            per_minute,
            errors: self.errors.load(Relaxed),
            in_flight,
            average_ms: if total == 0 { 0.0 } else { self.micros.load(Relaxed) as f64 / total as f64 / 1000.0 },
            p95_ms: self.quantile(0.95) as f64 / 1000.0,
        }
    }

    /// The time, in microseconds, within which this share of all requests was answered.
    fn quantile(&self, share: f64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (i, n) in counts.iter().enumerate() {
            seen += n;
            if seen >= wanted && seen > 0 {
                return ceiling(i);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_at_most_a_quarter_below_its_buckets_ceiling() {
        for micros in (0..5000).chain([70_000, 1 << 30, 1 << 39]) {
            let top = ceiling(bucket(micros));
            assert!(top >= micros && top - micros <= micros / 4, "{micros} {top}");
        }
    }

    #[test]
    fn the_numbers_of_a_hundred_requests() {
        let meter = Meter::default();
        for i in 1..=100 {
            meter.record(Duration::from_millis(i), i % 10 == 0, 1000 + i);
        }
        let r = meter.read(1100, 3);
        assert_eq!((r.total, r.errors, r.per_minute, r.in_flight), (100, 10, 60, 3));
        assert!((r.average_ms - 50.5).abs() < 0.01, "{r:?}");
        assert!((95.0..120.0).contains(&r.p95_ms), "{r:?}");
        assert_eq!(meter.read(1200, 0).per_minute, 0);
        assert_eq!(Meter::default().read(0, 0).p95_ms, 0.0);
        let other = Meter::default();
        other.load(&meter.save());
        assert_eq!(other.read(1100, 3), r);
    }
}
