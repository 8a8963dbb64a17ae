//! Which requests a child has not answered, and who waits for each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::client::call::Call;
use crate::hub::client::subscription::Subscription;
use crate::hub::error::Error;
use crate::hub::load::InFlight;
use crate::model::ids::Table;

/// How long a child may still log for a request that was given up.
const ABANDONED: Duration = Duration::from_secs(5);

/// Who waits for an answer.
pub(crate) enum Waiting {
    Client {
        call: Call,
        /// Put off by progress, up to `latest`.
        deadline: Instant,
        latest: Instant,
        /// It counts among what the child has open.
        _open: InFlight,
    },
    Daemon(async_channel::Sender<Result<String, Error>>),
    /// Asked by the daemon, which does not care for the answer.
    Nobody,
    /// A subscription of the modern era, open until one side ends it.
    Subscription(Arc<Subscription>),
    /// The daemon's own subscription to changes of the lists.
    Watch,
}

impl Waiting {
    pub(crate) fn is_of(&self, subscription: &Arc<Subscription>) -> bool {
        matches!(self, Waiting::Subscription(s) if Arc::ptr_eq(s, subscription))
    }
}

/// The requests that a child has not answered.
#[derive(Default)]
pub(crate) struct Pending {
    pub waiting: Table<Waiting>,
    /// Requests that asked for log messages and are given up: the child may still log for them for a moment.
    abandoned: Vec<(u64, Instant)>,
    /// Why no request is taken any more: the code of the error, and its text.
    pub closed: Option<(i32, String)>,
}

impl Pending {
    pub(crate) fn behind(waiting: Table<Waiting>) -> Pending {
        Pending { waiting, ..Pending::default() }
    }

    /// Notes those of the requests for which the child may still log.
    pub(crate) fn note_abandoned(&mut self, taken: &[(u64, Waiting)], now: Instant) {
        let asked = |w: &Waiting| matches!(w, Waiting::Client { call, .. } if call.logs);
        self.abandoned.extend(taken.iter().filter(|(_, w)| asked(w)).map(|(n, _)| (*n, now)));
    }

    /// The child is done with a request that was given up.
    pub(crate) fn forget_abandoned(&mut self, number: Option<u64>) {
        self.abandoned.retain(|(n, _)| Some(*n) != number);
    }

    /// Whether a log message may be of a request that was given up.
    pub(crate) fn may_log_for_abandoned(&mut self, now: Instant) -> bool {
        self.abandoned.retain(|(_, since)| now.saturating_duration_since(*since) < ABANDONED);
        !self.abandoned.is_empty()
    }

    /// Takes the requests of clients that fit, each with its number.
    pub(crate) fn take_calls(&mut self, wanted: impl Fn(&Call, Instant) -> bool, now: Instant) -> Vec<(u64, Call)> {
        let fits = |w: &Waiting| matches!(w, Waiting::Client { call, deadline, latest, .. } if wanted(call, *deadline.min(latest)));
        let taken = self.waiting.take_where(fits);
        self.note_abandoned(&taken, now);
        let client = |(n, w)| match w {
            Waiting::Client { call, .. } => Some((n, call)),
            _ => None,
        };
        taken.into_iter().filter_map(client).collect()
    }
}
