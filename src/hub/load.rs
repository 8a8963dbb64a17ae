//! How much is in flight: requests that are open, of one session, server, child or of all, and waiting until none is.
//!
//! Knows counts and times alone, and not what is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use event_listener::Event;

use crate::model::meter::Meters;
use crate::model::method::Method;
use crate::rt::wait::until;

/// What is in flight of one thing. What enters it enters those `above` as well.
#[derive(Default)]
pub(crate) struct Load {
    in_flight: AtomicU64,
    quiet: Event,
    /// Where finished requests are measured.
    meters: Option<Arc<Meters>>,
    above: Box<[Arc<Load>]>,
}

impl Load {
    /// Counts alone.
    pub(crate) fn below(above: impl Into<Box<[Arc<Load>]>>) -> Arc<Load> {
        Arc::new(Load { above: above.into(), ..Load::default() })
    }

    /// Counts, and measures what was finished.
    pub(crate) fn measured(meters: Arc<Meters>, above: impl Into<Box<[Arc<Load>]>>) -> Arc<Load> {
        Arc::new(Load { meters: Some(meters), above: above.into(), ..Load::default() })
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(SeqCst)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight() == 0
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn quiet(&self) {
        until(&self.quiet, || self.is_quiet().then_some(())).await;
    }

    /// One more is in flight, here and above, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.add();
        self.above.iter().for_each(|load| load.add());
        InFlight { load: self.clone(), alone: false }
    }

    /// One more is in flight, if fewer than `limit` are here.
    pub(crate) fn enter_below(self: &Arc<Self>, limit: u64) -> Option<InFlight> {
        if self.in_flight.fetch_add(1, SeqCst) >= limit {
            self.leave();
            return None;
        }
        self.above.iter().for_each(|load| load.add());
        Some(InFlight { load: self.clone(), alone: false })
    }

    /// One more is in flight, here and not above.
    pub(crate) fn enter_alone(self: &Arc<Self>) -> InFlight {
        self.add();
        InFlight { load: self.clone(), alone: true }
    }

    fn add(&self) {
        self.in_flight.fetch_add(1, SeqCst);
    }

    fn leave(&self) {
        if self.in_flight.fetch_sub(1, SeqCst) == 1 {
            self.quiet.notify(usize::MAX);
        }
    }
}

/// Something that is in flight, for as long as this lives.
pub(crate) struct InFlight {
    load: Arc<Load>,
    alone: bool,
}

impl InFlight {
    fn above(&self) -> &[Arc<Load>] {
        if self.alone { &[] } else { &self.load.above }
    }

    /// Notes how a request went, wherever that is measured. `second` is of the hub's clock.
    pub(crate) fn record(&self, method: Method, took: Duration, failed: bool, second: u64) {
        let all = std::iter::once(&self.load).chain(self.above());
        for meters in all.filter_map(|load| load.meters.as_ref()) {
            meters.record(method, took, failed, second);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.leave();
        self.above().iter().for_each(|load| load.leave());
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn what_is_in_flight_counts_above_as_well_until_it_is_dropped() {
        let instance = Load::measured(Arc::default(), []);
        let session = Load::below([instance.clone()]);
        let one = session.enter();
        let two = session.enter_below(2).unwrap();
        assert!(session.enter_below(2).is_none());
        let alone = session.enter_alone();
        assert_eq!((session.in_flight(), instance.in_flight()), (3, 2));
        one.record(Method::Ping, Duration::ZERO, false, 0);
        assert_eq!(instance.meters.as_ref().unwrap().sum(0).total(), 1);
        let mut quiet = Box::pin(session.quiet());
        drop((one, two));
        assert!(block_on(poll_once(&mut quiet)).is_none());
        drop(alone);
        assert!(block_on(poll_once(&mut quiet)).is_some() && instance.is_quiet());
    }
}
