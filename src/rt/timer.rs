//! Timers: a task is woken once a time has come.
//!
//! They cost no system call: the executor's thread waits no longer than until the first of them (see [`super::reactor`]).
//! A timer begins to run when it is first polled.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::reactor;
use crate::sys::lock::Lock;

/// All that run, in the order of their times; the number tells those of the same time apart.
static RUNNING: Lock<Running> = Lock::new(Running { all: BTreeMap::new(), last: 0 });

struct Running {
    all: BTreeMap<(Instant, u64), Waker>,
    last: u64,
}

/// Ready once a time has come.
#[derive(Debug)]
pub(crate) struct Timer {
    at: Option<Instant>,
    /// Its number among those that run, and whom it wakes there.
    runs: Option<(u64, Waker)>,
}

impl Timer {
    /// Ready once so much time is over.
    pub(crate) fn after(time: Duration) -> Timer {
        // Where there is no such time, it is never.
        Timer { at: Instant::now().checked_add(time), runs: None }
    }

    /// Ready once this time has come.
    #[cfg(test)]
    pub(crate) fn at(at: Instant) -> Timer {
        Timer { at: Some(at), runs: None }
    }

    /// It runs anew.
    pub(crate) fn set_after(&mut self, time: Duration) {
        self.stop();
        self.at = Instant::now().checked_add(time);
    }

    /// It runs to another time.
    pub(crate) fn set_at(&mut self, at: Instant) {
        self.stop();
        self.at = Some(at);
    }

    fn stop(&mut self) {
        if let (Some(at), Some((number, _))) = (self.at, self.runs.take()) {
            RUNNING.lock().all.remove(&(at, number));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        if at <= reactor::now() {
            self.stop();
            return Poll::Ready(());
        }
        if self.runs.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.stop();
        let waker = cx.waker().clone();
        let mut running = RUNNING.lock();
        running.last += 1;
        let place = (at, running.last);
        running.all.insert(place, waker.clone());
        let is_first = running.all.first_key_value().is_some_and(|(first, _)| *first == place);
        drop(running);
        self.runs = Some((place.1, waker));
        if is_first {
            reactor::look_again();
        }
        Poll::Pending
    }
}

/// Takes the wakers of those whose time has come, and says when the next one's will.
pub(super) fn take_due(now: Instant, due: &mut Vec<Waker>) -> Option<Instant> {
    let mut running = RUNNING.lock();
    while let Some(first) = running.all.first_entry() {
        let (at, _) = *first.key();
        if at > now {
            return Some(at);
        }
        due.push(first.remove());
    }
    None
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::rt::executor;

    #[test]
    fn timers_of_any_thread_are_ready_in_time_and_in_order() {
        executor::start().unwrap();
        let begin = Instant::now();
        let millis = move |n: u64| begin + Duration::from_millis(n);
        // A long one, so that the executor's thread waits for it.
        let mut long = Timer::at(millis(3_600_000));
        assert!(block_on(poll_once(&mut long)).is_none());
        for round in 0..200 {
            let at = millis(round / 2);
            block_on(Timer::at(at));
            assert!(Instant::now() >= at);
        }
        let all = [30, 10, 20].map(|n| std::thread::spawn(move || block_on(Timer::at(millis(100 + n)))));
        all.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(begin.elapsed() >= Duration::from_millis(130));
        long.set_at(begin);
        assert!(block_on(poll_once(&mut long)).is_some());
    }

    #[test]
    fn a_timer_that_is_set_anew_or_dropped_does_not_run_any_more() {
        executor::start().unwrap();
        let mut timer = Timer::after(Duration::from_secs(3600));
        assert!(block_on(poll_once(&mut timer)).is_none());
        let place = (timer.at.unwrap(), timer.runs.as_ref().unwrap().0);
        timer.set_after(Duration::from_secs(1800));
        assert!(!RUNNING.lock().all.contains_key(&place));
        assert!(block_on(poll_once(&mut timer)).is_none());
        let place = (timer.at.unwrap(), timer.runs.as_ref().unwrap().0);
        assert!(RUNNING.lock().all.contains_key(&place));
        drop(timer);
        assert!(!RUNNING.lock().all.contains_key(&place));
        assert!(block_on(poll_once(Timer::after(Duration::MAX))).is_none(), "never");
    }
}
