//! Work that blocks, or takes a processor for long: on a thread of its own, which ends with it.
//!
//! The pool that async-std has for this keeps its threads and wakes each of them twice a second for ever. Here nothing is
//! left once the work is done; starting a thread costs some 20 µs, and what comes here takes longer.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use event_listener::Event;

use super::wait::until;
use crate::sys::lock::Lock;

/// A text that is longer is worked on by [`busy`], in bytes: to read it takes a millisecond and more, beside which a thread
/// costs little.
pub(crate) const LONG: usize = 512 << 10;

/// Work of one kind, of which there is so much at a time; more waits.
struct Places {
    most: OnceLock<usize>,
    running: AtomicUsize,
    ended: Event,
}

/// What waits for the system.
static BLOCKED: Places = Places::new();
/// What takes a processor.
static BUSY: Places = Places::new();

impl Places {
    const fn new() -> Places {
        Places { most: OnceLock::new(), running: AtomicUsize::new(0), ended: Event::new() }
    }

    async fn take(&'static self, most: impl FnOnce() -> usize) -> Place {
        let most = *self.most.get_or_init(most);
        let more = move |n: usize| (n < most).then_some(n + 1);
        until(&self.ended, || self.running.fetch_update(SeqCst, SeqCst, more).ok()).await;
        Place(self)
    }
}

/// How much work of [`busy`] is not back with who waits for it.
static AWAY: Away = Away { count: AtomicUsize::new(0), back: Event::new() };

struct Away {
    count: AtomicUsize,
    back: Event,
}

/// One piece of such work, until it is dropped.
struct OneAway;

impl OneAway {
    fn new() -> OneAway {
        AWAY.count.fetch_add(1, SeqCst);
        OneAway
    }
}

impl Drop for OneAway {
    fn drop(&mut self) {
        AWAY.count.fetch_sub(1, SeqCst);
        AWAY.back.notify(usize::MAX);
    }
}

/// Waits until the results of all work of [`busy`] are with those who wait for them: nothing is in the hands of another
/// thread then.
pub(crate) async fn all_back() {
    until(&AWAY.back, || (AWAY.count.load(SeqCst) == 0).then_some(())).await;
}

/// One of the places, until it is dropped.
struct Place(&'static Places);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
        self.0.ended.notify(1);
    }
}

/// The most threads that block at a time.
const MOST: usize = 64;

/// Does work that may block. It goes on to its end also where it is not waited for any more.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    aside(BLOCKED.take(|| MOST).await, work).await
}

/// Does work that takes a processor for long, of which only as much is done at a time as there are processors: the tasks
/// are to get theirs. It goes on to its end also where it is not waited for any more.
pub(crate) async fn busy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let _away = OneAway::new();
    let processors = || std::thread::available_parallelism().map_or(1, |n| n.get());
    aside(BUSY.take(processors).await, work).await
}

/// That a future was woken.
#[derive(Default)]
struct Woken {
    is: AtomicBool,
    event: Event,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is.store(true, SeqCst);
        self.event.notify(1);
    }
}

/// A future of which each step, from one wait to the next, may take a processor for long.
pub(crate) async fn steps_aside<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let mut future = Box::pin(future);
    let woken = Arc::new(Woken::default());
    loop {
        let waker = Waker::from(woken.clone());
        let step = busy(move || {
            let outcome = future.as_mut().poll(&mut Context::from_waker(&waker));
            (future, outcome)
        });
        match step.await {
            (_, Poll::Ready(output)) => return output,
            (waiting, Poll::Pending) => future = waiting,
        }
        until(&woken.event, || woken.is.swap(false, SeqCst).then_some(())).await;
    }
}

async fn aside<T: Send + 'static>(place: Place, work: impl FnOnce() -> T + Send + 'static) -> T {
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
        assert_eq!(BLOCKED.running.load(SeqCst), 0);
    }
}
