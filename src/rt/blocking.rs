//! Work that blocks: on a thread of its own, which ends with it.
//!
//! The pool that async-std has for this keeps its threads and wakes each of them twice a second for ever. Here nothing is
//! left once the work is done; starting a thread costs some 20 µs, and what comes here takes longer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use event_listener::Event;

use super::wait::until;
use crate::sys::lock::Lock;

/// The most threads at a time; more work waits.
const MOST: usize = 64;

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static ENDED: Event = Event::new();

/// One of the places, until it is dropped.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let more = |n: usize| (n < MOST).then_some(n + 1);
        RUNNING.fetch_update(SeqCst, SeqCst, more).ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, SeqCst);
        ENDED.notify(1);
    }
}

/// Does work that may block. It goes on to its end also where it is not waited for any more.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let place = until(&ENDED, Place::take).await;
    let (done, outcome) = async_channel::bounded(1);
    let job = Arc::new(Lock::new(Some(move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        drop(place);
        let _ = done.try_send(result);
    })));
    let own = job.clone();
    if std::thread::Builder::new().name("blocking".to_owned()).spawn(move || run(&own)).is_err() {
        // No thread is to be had: late is better than never.
        run(&job);
    }
    match outcome.recv().await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => resume_unwind(panic),
        // It was taken once, and sends whatever happens.
        Err(_) => std::future::pending().await,
    }
}

fn run(job: &Lock<Option<impl FnOnce()>>) {
    let work = job.lock().take();
    if let Some(work) = work {
        work();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;

    #[test]
    fn more_work_than_places_is_all_done_and_leaves_no_thread() {
        let own = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let name = |t: &std::fs::DirEntry| std::fs::read_to_string(t.path().join("comm")).unwrap_or_default();
            tasks.filter(|t| name(t) == "blocking\n").count()
        };
        let all: Vec<_> = (0..3 * MOST)
            .map(|n| {
                super::super::task::spawn(blocking(move || {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    n
                }))
            })
            .collect();
        let done: Vec<usize> = all.into_iter().map(block_on).collect();
        assert_eq!(done, (0..3 * MOST).collect::<Vec<_>>());
        while own() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(RUNNING.load(SeqCst), 0);
    }
}
