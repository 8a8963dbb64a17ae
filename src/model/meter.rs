//! Counts and times of requests, cheap enough for the hot path: a few relaxed atomic additions for each.
//!
//! Two spans of time are kept side by side: everything since the start, and the last minutes, for those who want to
//! know how it goes now. Time is given as whole seconds from any fixed start.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::method::Method;
use crate::model::status::{self, Recent, Requests};

/// Four steps to each doubling of microseconds: 0 µs to 2^40 µs, each value at most a quarter too high.
const STEPS: usize = 4;
const BUCKETS: usize = 40 * STEPS;
/// What "recent" means: the minute that is running, and the four before it.
pub const RECENT: u64 = 5;
/// One more is kept, so that a minute that is over can still be read while the next one runs.
const MINUTES: usize = RECENT as usize + 1;

/// The counts of one method of one server.
pub struct Meter {
    errors: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    /// Requests in each of the last 60 seconds, with the second they belong to.
    seconds: [(AtomicU64, AtomicU64); 60],
    minutes: [Minute; MINUTES],
}

struct Minute {
    /// Which minute since the start it is.
    stamp: AtomicU64,
    errors: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Minute {
    fn default() -> Self {
        Minute {
            stamp: AtomicU64::new(u64::MAX),
            errors: AtomicU32::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }
}

/// A [`Meter`] in the handover document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    total: u64,
    errors: u64,
    micros: u64,
    buckets: Vec<u64>,
    seconds: Vec<(u64, u64)>,
    #[serde(default)]
    minutes: Vec<SavedMinute>,
}

/// Its number, the errors, and the buckets that hold something.
type SavedMinute = (u64, u32, Vec<(usize, u32)>);

impl Default for Meter {
    fn default() -> Self {
        Meter {
            errors: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            seconds: [const { (AtomicU64::new(u64::MAX), AtomicU64::new(0)) }; 60],
            minutes: Default::default(),
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
    /// One request was answered after `took`.
    pub fn record(&self, took: Duration, failed: bool, second: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros);
        self.micros.fetch_add(micros, Relaxed);
        self.buckets[bucket].fetch_add(1, Relaxed);
        let (stamp, count) = &self.seconds[(second % 60) as usize];
        if stamp.load(Relaxed) != second && stamp.swap(second, Relaxed) != second {
            count.store(0, Relaxed);
        }
        count.fetch_add(1, Relaxed);
        let minute = self.minute(second / 60);
        minute.buckets[bucket].fetch_add(1, Relaxed);
        if failed {
            self.errors.fetch_add(1, Relaxed);
            minute.errors.fetch_add(1, Relaxed);
        }
    }

    /// The place of a minute, empty if another one had it.
    fn minute(&self, number: u64) -> &Minute {
        let minute = &self.minutes[(number % MINUTES as u64) as usize];
        if minute.stamp.load(Relaxed) != number && minute.stamp.swap(number, Relaxed) != number {
            minute.errors.store(0, Relaxed);
            minute.buckets.iter().for_each(|b| b.store(0, Relaxed));
        }
        minute
    }

    /// Adds what it has counted.
    fn add_to(&self, sum: &mut Sum, second: u64) {
        sum.errors += self.errors.load(Relaxed);
        sum.micros += self.micros.load(Relaxed);
        sum.all.add(&self.buckets, |b| b.load(Relaxed));
        let recent = |stamp: u64| stamp <= second && second - stamp < 60;
        let last = self.seconds.iter().filter(|(s, _)| recent(s.load(Relaxed)));
        sum.per_minute += last.map(|(_, n)| n.load(Relaxed)).sum::<u64>();
        let now = second / 60;
        for minute in &self.minutes {
            let stamp = minute.stamp.load(Relaxed);
            if stamp <= now && now - stamp < RECENT {
                sum.recent_errors += u64::from(minute.errors.load(Relaxed));
                sum.recent.add(&minute.buckets, |b| b.load(Relaxed).into());
            }
        }
    }

    fn save(&self) -> Saved {
        let buckets: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let minutes = self.minutes.iter().filter(|m| m.stamp.load(Relaxed) != u64::MAX).map(|m| {
            let counts = m.buckets.iter().map(|b| b.load(Relaxed)).enumerate().filter(|(_, n)| *n > 0);
            (m.stamp.load(Relaxed), m.errors.load(Relaxed), counts.collect())
        });
        Saved {
            total: buckets.iter().sum(),
            errors: self.errors.load(Relaxed),
            micros: self.micros.load(Relaxed),
            buckets,
            seconds: self.seconds.iter().map(|(s, n)| (s.load(Relaxed), n.load(Relaxed))).collect(),
            minutes: minutes.collect(),
        }
    }

    fn load(&self, saved: &Saved) {
        self.errors.store(saved.errors, Relaxed);
        self.micros.store(saved.micros, Relaxed);
        self.buckets.iter().zip(&saved.buckets).for_each(|(b, n)| b.store(*n, Relaxed));
        for ((stamp, count), (s, n)) in self.seconds.iter().zip(&saved.seconds) {
            stamp.store(*s, Relaxed);
            count.store(*n, Relaxed);
        }
        for (stamp, errors, counts) in &saved.minutes {
            let minute = self.minute(*stamp);
            minute.errors.store(*errors, Relaxed);
            for (at, n) in counts {
                if let Some(bucket) = minute.buckets.get(*at) {
                    bucket.store(*n, Relaxed);
                }
            }
        }
    }
}

/// What a server, or the whole instance, has counted: a meter for each method that has occurred.
#[derive(Default)]
pub struct Meters([OnceLock<Box<Meter>>; Method::ALL.len()]);

impl Meters {
    /// One request was answered after `took`.
    pub fn record(&self, method: Method, took: Duration, failed: bool, second: u64) {
        self.of(method).record(took, failed, second);
    }

    fn of(&self, method: Method) -> &Meter {
        self.0[method as usize].get_or_init(Box::default)
    }

    fn there(&self) -> impl Iterator<Item = (Method, &Meter)> {
        let place = |method: &Method| Some((*method, &**self.0[*method as usize].get()?));
        Method::ALL.iter().filter_map(place)
    }

    /// All methods together.
    pub fn sum(&self, second: u64) -> Sum {
        let mut sum = Sum::default();
        self.there().for_each(|(_, meter)| meter.add_to(&mut sum, second));
        sum
    }

    /// Each method that has occurred.
    pub fn by_method(&self, second: u64) -> Vec<(Method, Sum)> {
        let one = |(method, meter): (Method, &Meter)| {
            let mut sum = Sum::default();
            meter.add_to(&mut sum, second);
            (method, sum)
        };
        self.there().map(one).collect()
    }

    /// Each method in the form of the status document.
    pub fn methods(&self, second: u64) -> status::Methods {
        self.by_method(second).into_iter().map(|(method, sum)| (method.name().to_owned(), sum.method())).collect()
    }

    /// A minute that is over, or the one that runs: requests, errors, and p50 and p95 in microseconds.
    pub fn minute(&self, number: u64) -> (u64, u64, u64, u64) {
        let (mut errors, mut counts) = (0, Histogram::default());
        for (_, meter) in self.there() {
            for minute in meter.minutes.iter().filter(|m| m.stamp.load(Relaxed) == number) {
                errors += u64::from(minute.errors.load(Relaxed));
                counts.add(&minute.buckets, |b| b.load(Relaxed).into());
            }
        }
        (counts.total(), errors, counts.quantile(0.5), counts.quantile(0.95))
    }

    /// Everything, for another program.
    pub fn save(&self) -> Vec<(Method, Saved)> {
        self.there().map(|(method, meter)| (method, meter.save())).collect()
    }

    /// Goes on from what another program has counted. One that did not tell methods apart has counted `all`.
    pub fn load(&self, saved: &[(Method, Saved)], all: &Saved) {
        if saved.is_empty() && all.total > 0 {
            self.of(Method::Other).load(all);
        }
        for (method, saved) in saved {
            self.of(*method).load(saved);
        }
    }

    /// What a program that does not tell methods apart would have counted.
    pub fn save_all(&self, second: u64) -> Saved {
        let sum = self.sum(second);
        let mut seconds = vec![(u64::MAX, 0); 60];
        for (_, meter) in self.there() {
            for ((into, n), (stamp, count)) in seconds.iter_mut().zip(&meter.seconds) {
                match stamp.load(Relaxed) {
                    u64::MAX => {}
                    stamp if stamp == *into => *n += count.load(Relaxed),
                    stamp if *into == u64::MAX || stamp > *into => (*into, *n) = (stamp, count.load(Relaxed)),
                    _ => {}
                }
            }
        }
        Saved {
            total: sum.total(),
            errors: sum.errors,
            micros: sum.micros,
            buckets: sum.all.0.to_vec(),
            seconds,
            minutes: Vec::new(),
        }
    }
}

/// How many requests took how long.
#[derive(Clone, Debug)]
struct Histogram([u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Histogram([0; BUCKETS])
    }
}

impl Histogram {
    fn add<T>(&mut self, counts: &[T; BUCKETS], read: impl Fn(&T) -> u64) {
        self.0.iter_mut().zip(counts).for_each(|(sum, count)| *sum += read(count));
    }

    fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time, in microseconds, within which this share of all requests was answered.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.total() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (i, n) in self.0.iter().enumerate() {
            seen += n;
            if seen >= wanted && seen > 0 {
                return ceiling(i);
            }
        }
        0
    }
}

/// What several meters have counted together, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    pub errors: u64,
    pub micros: u64,
    all: Histogram,
    per_minute: u64,
    recent: Histogram,
    recent_errors: u64,
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

impl Sum {
    pub fn total(&self) -> u64 {
        self.all.total()
    }

    fn average(&self) -> f64 {
        let total = self.total();
        if total == 0 { 0.0 } else { self.micros as f64 / total as f64 / 1000.0 }
    }

    /// What the status document says.
    pub fn requests(&self, in_flight: u64) -> Requests {
        let (total, errors) = (self.recent.total(), self.recent_errors);
        Requests {
            total: self.total(),
            per_minute: self.per_minute,
            errors: self.errors,
            in_flight,
            average_ms: self.average(),
            p50_ms: millis(self.all.quantile(0.5)),
            p95_ms: millis(self.all.quantile(0.95)),
            p99_ms: millis(self.all.quantile(0.99)),
            recent: Recent {
                total,
                errors,
                error_rate: if total == 0 { 0.0 } else { errors as f64 / total as f64 },
                p50_ms: millis(self.recent.quantile(0.5)),
                p95_ms: millis(self.recent.quantile(0.95)),
                p99_ms: millis(self.recent.quantile(0.99)),
            },
        }
    }

    /// One method in the form of the status document.
    pub fn method(&self) -> status::Method {
        status::Method {
            total: self.total(),
            per_minute: self.per_minute,
            errors: self.errors,
            average_ms: self.average(),
            p50_ms: millis(self.all.quantile(0.5)),
            p95_ms: millis(self.all.quantile(0.95)),
            p99_ms: millis(self.all.quantile(0.99)),
        }
    }

    /// How many took less than each power of four microseconds from 4^4 to 4^14 (256 µs to 268 s), with that limit in
    /// seconds. These are limits of our own buckets as well, so nothing is estimated.
    pub fn steps(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let below = |limit: u64| self.all.0.iter().take(bucket(limit)).sum();
        (4..=14).map(move |power| {
            let limit = 1_u64 << (2 * power);
            (limit as f64 / 1e6, below(limit))
        })
    }

    /// All of them, in seconds.
    pub fn seconds(&self) -> f64 {
        self.micros as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_value_is_at_most_a_quarter_below_its_buckets_ceiling() {
        for micros in (0..5000).chain([70_000, 1 << 30, 1 << 39]) {
            let top = ceiling(bucket(micros));
            assert!(top >= micros && top - micros <= micros / 4, "{micros} {top}");
        }
    }

    #[test]
    fn the_numbers_of_a_hundred_requests() {
        let meters = Meters::default();
        for i in 1..=100 {
            let method = if i % 2 == 0 { Method::ToolsCall } else { Method::Ping };
            meters.record(method, MS * i, i % 10 == 0, 1000 + u64::from(i));
        }
        let r = meters.sum(1100).requests(3);
        assert_eq!((r.total, r.errors, r.per_minute, r.in_flight), (100, 10, 60, 3));
        assert!((r.average_ms - 50.5).abs() < 0.01, "{r:?}");
        assert!((50.0..63.0).contains(&r.p50_ms) && (95.0..120.0).contains(&r.p95_ms), "{r:?}");
        assert!((99.0..124.0).contains(&r.p99_ms) && r.p95_ms <= r.p99_ms, "{r:?}");
        assert_eq!(meters.sum(1200).requests(0).per_minute, 0);
        assert_eq!(Meters::default().sum(0).requests(0), Requests::default());
        let each = meters.by_method(1100);
        let [(Method::ToolsCall, calls), (Method::Ping, pings)] = &each[..] else { panic!("{each:?}") };
        assert_eq!((calls.method().total, calls.method().errors, pings.method().errors), (50, 10, 0));
        let other = Meters::default();
        other.load(&meters.save(), &meters.save_all(1100));
        assert_eq!(other.sum(1100).requests(3), r);
        assert_eq!(other.by_method(1100)[0].1.method(), calls.method());
    }

    #[test]
    fn what_is_recent_is_forgotten_minute_by_minute() {
        let meters = Meters::default();
        for minute in 0..10 {
            meters.record(Method::Ping, MS * 100, true, minute * 60 + 59);
            meters.record(Method::Ping, MS, false, minute * 60 + 59);
            let recent = meters.sum(minute * 60 + 59).requests(0).recent;
            let wanted = (minute + 1).min(RECENT);
            assert_eq!((recent.total, recent.errors, recent.error_rate), (2 * wanted, wanted, 0.5), "{minute}");
            assert_eq!(meters.minute(minute), (2, 1, 1023, 114_687));
        }
        // Nothing more happens, and time goes on.
        for (second, total) in [(600, 8), (660, 6), (839, 2), (840, 0), (6000, 0)] {
            let r = meters.sum(second).requests(0);
            assert_eq!((r.recent.total, r.total), (total, 20), "{second}");
        }
        assert_eq!(meters.minute(9).0, 2);
        assert_eq!(meters.minute(10).0, 0);
    }

    #[test]
    fn a_program_that_knew_no_methods_has_counted_all_the_same() {
        let old = Meters::default();
        old.record(Method::ToolsCall, MS, true, 100);
        old.record(Method::Ping, MS, false, 100);
        let text = serde_json::to_value(old.save_all(100)).unwrap();
        let mut text = text.as_object().unwrap().clone();
        text.remove("minutes");
        let meters = Meters::default();
        meters.load(&[], &serde_json::from_value(text.into()).unwrap());
        let r = meters.sum(101).requests(0);
        assert_eq!((r.total, r.errors, r.per_minute), (2, 1, 2));
        assert_eq!(meters.by_method(101)[0].0, Method::Other);
    }

    #[test]
    fn the_steps_for_others_are_exact() {
        let meters = Meters::default();
        for micros in [255, 256, 1023, 1024, 1025, 1 << 28] {
            meters.record(Method::Ping, Duration::from_micros(micros), false, 0);
        }
        let sum = meters.sum(0);
        let steps: Vec<_> = sum.steps().collect();
        assert_eq!(steps[..3], [(0.000_256, 1), (0.001_024, 3), (0.004_096, 5)]);
        assert_eq!((steps.len(), steps[10]), (11, (268.435_456, 5)));
        assert_eq!(sum.total(), 6);
    }
}
