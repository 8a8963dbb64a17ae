//! What a child writes to standard error: the last lines are kept, and so much of it is logged.
//!
//! Pure: it must not know whose standard error it is.

use std::collections::VecDeque;
use std::time::Instant;

/// The last lines of standard error.
#[derive(Default)]
pub(crate) struct Tail(VecDeque<String>);

impl Tail {
    const LINES: usize = 10;

    pub(crate) fn push(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().take(500).collect());
    }

    /// `: last line`, or nothing.
    pub(crate) fn last(&self) -> String {
        self.0.back().map_or(String::new(), |line| format!(": {line}"))
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
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
