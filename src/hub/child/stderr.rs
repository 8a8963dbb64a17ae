//! What a child says beside its messages: so much of it is logged.
//!
//! It must not know which child that is.

use std::time::Instant;

use log::warn;

use crate::model::last_words::LastWords;
use crate::model::logline;

/// Writes what a child has said last to the log, and nowhere that the log is shown to clients.
pub(crate) fn log_words(server: &str, words: &LastWords) {
    if !words.is_empty() {
        warn!(target: logline::SAID, "[{server}] {}{}", logline::LAST_WORDS, words.in_a_line());
    }
}

/// How many lines of one child's standard error are logged: a burst, then a steady rate.
pub(crate) struct Budget {
    left: f64,
    refilled: Option<Instant>,
    skipped: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { left: Self::BURST, refilled: None, skipped: 0 }
    }
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Log it, and say how many were skipped before.
    Log {
        skipped: u64,
    },
    Skip,
}

impl Budget {
    const BURST: f64 = 1000.0;
    /// Lines per second.
    const RATE: f64 = 100.0;

    pub(crate) fn take(&mut self, now: Instant) -> Take {
        let since = now.saturating_duration_since(*self.refilled.get_or_insert(now));
        self.refilled = Some(now);
        self.left = (self.left + since.as_secs_f64() * Self::RATE).min(Self::BURST);
        if self.left < 1.0 {
            self.skipped += 1;
            return Take::Skip;
        }
        self.left -= 1.0;
        Take::Log { skipped: std::mem::take(&mut self.skipped) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_logged_in_part() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        let logged = (0..5000).filter(|_| budget.take(start) != Take::Skip).count();
        assert_eq!(logged, 1000);
        assert_eq!(budget.take(start + Duration::from_secs(1)), Take::Log { skipped: 4000 });
    }
}
