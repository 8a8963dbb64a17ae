//! Waiting: one-way flags, and limits on how long.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_io::Timer;
use event_listener::Event;
use futures_lite::FutureExt;

/// A fact that becomes true once and stays so.
#[derive(Debug, Default)]
pub struct Flag {
    set: AtomicBool,
    event: Event,
}

impl Flag {
    /// Makes it true; true if it was not before.
    pub fn set(&self) -> bool {
        let first = !self.set.swap(true, Ordering::SeqCst);
        self.event.notify(usize::MAX);
        first
    }

    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    pub async fn wait(&self) {
        until(&self.event, || self.is_set().then_some(())).await;
    }
}

/// Waits until `check` gives something; asked again after each notification of `event`.
pub async fn until<T>(event: &Event, mut check: impl FnMut() -> Option<T>) -> T {
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
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let work = async { Some(work.await) };
    let limit = async {
        Timer::after(limit).await;
        None
    };
    work.or(limit).await
}

/// Milliseconds of the monotonic clock since the first call: a time that fits in an atomic number.
pub fn millis() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_millis() as u64
}

pub async fn sleep(time: Duration) {
    Timer::after(time).await;
}
