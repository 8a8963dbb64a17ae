//! What is done once in a while, however often there is cause for it, such as a line in the log.

use std::time::{Duration, Instant};

use crate::sys::lock::Lock;

/// When it was last done.
#[derive(Default)]
pub(crate) struct Seldom(Lock<Option<Instant>>);

impl Seldom {
    /// Whether it is due again, as `every` has gone by since the last time; then this is the last time.
    pub(crate) fn is_due(&self, every: Duration) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|at| at.elapsed() >= every);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
