//! The ids of a session: the one of its handshake, and those by which it was renewed.
//!
//! It must not know what an id says.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::model::renewal;
use crate::sys::lock::{Guard, Lock};

/// The ids of a session.
pub(crate) struct Names {
    first: OnceLock<Box<str>>,
    later: Lock<Vec<Box<str>>>,
    /// When it is looked whether a later one is needed, in seconds of the hub's clock.
    due: AtomicU64,
}

impl Names {
    /// With an id, or an empty text where there is none yet; `now` in seconds of the hub's clock.
    pub(crate) fn new(first: String, now: u64) -> Names {
        let first = if first.is_empty() { OnceLock::new() } else { OnceLock::from(Box::from(first)) };
        Names { first, later: Lock::default(), due: AtomicU64::new(now + renewal::AGE) }
    }

    /// The one of the handshake; empty where there is none.
    pub(crate) fn first(&self) -> &str {
        self.first.get().map_or("", |id| id)
    }

    /// Gives it its first id. Only the first call of this counts.
    pub(crate) fn name(&self, id: String) {
        let _ = self.first.set(id.into());
    }

    /// Those by which it was renewed, the newest last.
    pub(crate) fn later(&self) -> Guard<'_, Vec<Box<str>>> {
        self.later.lock()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<String> {
        let later = self.later();
        [self.first()].into_iter().chain(later.iter().map(|id| &**id)).map(str::to_owned).collect()
    }

    /// Whether it is to be looked if a later one is needed.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now >= self.due.load(Relaxed)
    }

    /// It is looked at next at this time.
    pub(crate) fn look_at(&self, time: u64) {
        self.due.store(time, Relaxed);
    }
}
