//! Tasks: all of the daemon's begin here.
//!
//! A task that works for long without waiting holds everybody else's up: at the default limits, nothing that a peer sends
//! may do so for more than 20 ms (mcpdaemon(7), TRUST). In a program with debug assertions each step of each task is
//! measured by the CPU time of its thread, which other programs' load does not lengthen, and a long one is a warning in
//! the log; the tests look for it. It must not know what a task is about.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_task::Task;

use super::executor;

/// A task that was begun. It goes on where this is dropped.
pub(crate) struct JoinHandle<T>(Option<Task<T>>);

impl<T> JoinHandle<T> {
    /// Ends the task where it waits, and waits until nothing is left of it. Its outcome, if it had ended before.
    pub(crate) async fn cancel(mut self) -> Option<T> {
        self.0.take()?.cancel().await
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(cx),
            // `cancel` has taken the task, and with it the handle.
            None => Poll::Pending,
        }
    }
}

/// Begins a task. It goes on where the handle is dropped.
#[cfg(not(debug_assertions))]
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    begin(future)
}

/// Begins a task, whose steps are measured. It goes on where the handle is dropped.
#[cfg(debug_assertions)]
#[track_caller]
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let place = std::panic::Location::caller();
    begin(watched::Steps { future: Box::pin(future), place })
}

fn begin<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    // The daemon starts it before its first task, and says so where it cannot; in a unit test it begins with the first.
    let _ = executor::start();
    JoinHandle(Some(executor::spawn(future)))
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
