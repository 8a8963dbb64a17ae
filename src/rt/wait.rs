//! Waiting: one-way flags, and limits on how long.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};
use futures_lite::FutureExt;

use super::reactor;
use super::timer::Timer;

/// The time, and waiting for it: the system's, or one that a test moves.
pub(crate) trait Clock: Send + Sync {
    fn now(&self) -> Instant;

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The monotonic clock of the system (clock_gettime(2), CLOCK_MONOTONIC).
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(sleep(time))
    }
}

/// A fact that becomes true once and stays so.
#[derive(Debug, Default)]
pub(crate) struct Flag {
    set: AtomicBool,
    event: Event,
}

impl Flag {
    /// Makes it true; true if it was not before.
    pub(crate) fn set(&self) -> bool {
        let first = !self.set.swap(true, Ordering::SeqCst);
        self.event.notify(usize::MAX);
        first
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    pub(crate) async fn wait(&self) {
        until(&self.event, || self.is_set().then_some(())).await;
    }
}

/// A fact that comes and goes.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    on: AtomicBool,
    event: Event,
}

impl Switch {
    pub(crate) fn turn(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
        self.event.notify(usize::MAX);
    }

    /// Lets all who follow it look again, though it did not turn.
    pub(crate) fn look_again(&self) {
        self.event.notify(usize::MAX);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Waits until it is on.
    pub(crate) async fn wait(&self) {
        until(&self.event, || self.is_on().then_some(())).await;
    }

    /// Waits until it is off.
    pub(crate) async fn wait_off(&self) {
        until(&self.event, || (!self.is_on()).then_some(())).await;
    }

    /// Follows it from inside of a poll function.
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch { switch: self, listener: self.event.listen() }
    }
}

/// A [`Switch`] that is followed from inside of a poll function.
pub(crate) struct Watch<'s> {
    switch: &'s Switch,
    listener: EventListener,
}

impl Watch<'_> {
    /// The outcome, or None once the switch is on. What is there already is not put off.
    pub(crate) async fn unless_on<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if self.poll(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Whether it is on; the task is woken at each turn.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        while Pin::new(&mut self.listener).poll(cx).is_ready() {
            self.listener = self.switch.event.listen();
        }
        self.switch.is_on()
    }
}

/// Waits until `check` gives something; asked again after each notification of `event`.
pub(crate) async fn until<T>(event: &Event, mut check: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = check() {
            return found;
        }
        let listener = event.listen();
        if let Some(found) = check() {
            return found;
        }
        listener.await;
    }
}

/// The outcome, or None once the time is over.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let work = async { Some(work.await) };
    let limit = async {
        Timer::after(limit).await;
        None
    };
    work.or(limit).await
}

/// What is later than it should be by more than this is so because this process did not run: it was stopped, or frozen with
/// its container, or its machine was. What others did meanwhile says nothing of them.
pub(crate) const PAUSE: Duration = Duration::from_secs(2);

/// How long this process did not run, if it waited for a time that is over for so long.
pub(crate) fn paused(since: Instant, waited: Duration) -> Option<Duration> {
    since.elapsed().checked_sub(waited).filter(|late| *late > PAUSE)
}

/// The outcome, or None once the time is over, in which this process has run.
pub(crate) async fn timeout_awake<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let begin = Instant::now();
        let outcome = timeout(limit, work.as_mut()).await;
        if outcome.is_some() || paused(begin, limit).is_none() {
            return outcome;
        }
    }
}

/// The time at which the executor's thread last looked at it, where this is that thread: a fraction of a millisecond ago, and
/// for nothing. The time, elsewhere.
pub(crate) fn recent() -> Instant {
    reactor::now()
}

/// Milliseconds of the monotonic clock since the first call: a time that fits in an atomic number ([`recent`]).
pub(crate) fn millis() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    recent().saturating_duration_since(*FIRST.get_or_init(Instant::now)).as_millis() as u64
}

pub(crate) async fn sleep(time: Duration) {
    Timer::after(time).await;
}
