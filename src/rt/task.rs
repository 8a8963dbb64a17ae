//! Tasks: all of the daemon's begin here.
//!
//! A task that works for long without waiting holds everybody else's up: at the default limits, nothing that a peer sends
//! may do so for more than 20 ms (mcpdaemon(7), TRUST). In a program with debug assertions each step of each task is
//! measured by the CPU time of its thread, which other programs' load does not lengthen, and a long one is a warning in
//! the log; the tests look for it. It must not know what a task is about.

use std::future::Future;

pub(crate) use async_std::task::JoinHandle;

/// Begins a task. It goes on where the handle is dropped.
#[cfg(not(debug_assertions))]
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    async_std::task::spawn(future)
}

/// Begins a task, whose steps are measured. It goes on where the handle is dropped.
#[cfg(debug_assertions)]
#[track_caller]
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let place = std::panic::Location::caller();
    async_std::task::spawn(watched::Steps { future: Box::pin(future), place })
}

#[cfg(debug_assertions)]
mod watched {
    use std::future::Future;
    use std::panic::Location;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use log::warn;
    use nix::time::{ClockId, clock_gettime};

    /// What is worth a warning. Without optimisation everything takes some ten times as long, and the first steps of a
    /// process more.
    const LONG: Duration = Duration::from_millis(500);

    /// A task whose steps are measured.
    pub(super) struct Steps<F> {
        pub future: Pin<Box<F>>,
        pub place: &'static Location<'static>,
    }

    impl<F: Future> Future for Steps<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            let start = cpu_time();
            let outcome = self.future.as_mut().poll(cx);
            let took = cpu_time().saturating_sub(start);
            if took > LONG {
                warn!("a task of {} held its thread for {} ms", self.place, took.as_millis());
            }
            outcome
        }
    }

    /// The CPU time of this thread (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
    fn cpu_time() -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
    }
}
