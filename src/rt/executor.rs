//! The executor: one thread that runs all tasks, in the order in which they were woken, and waits for what wakes them.
//!
//! Built from the pieces that async-std's own executor has, because that one waits in another reactor, whose turn costs more
//! system calls than a message does (mcpdaemon(7), "Why async-std, although it is discontinued"). One thread is fastest on two
//! cores, and one is enough for a pipe; it is also part of the design: tasks that do not wait in between are not interrupted
//! by others.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Waker;
use std::time::Duration;

use async_task::{Runnable, Task};

use super::reactor::{Reactor, begin_turn, look_again, reactor};
use super::timer;
use crate::sys::lock::Lock;
use crate::sys::poller::Changes;

/// While there is work, descriptors are looked at this often: who does not wait must not keep out who has waited.
const SHARE: Duration = Duration::from_micros(200);

thread_local! {
    /// What runs next. None where this is another thread.
    static NEXT: RefCell<Option<VecDeque<Runnable>>> = const { RefCell::new(None) };
}

/// What other threads have woken.
static WOKEN: Lock<Vec<Runnable>> = Lock::new(Vec::new());
/// Something is in there.
static IS_WOKEN: AtomicBool = AtomicBool::new(false);
/// The thread is there.
static STARTED: AtomicBool = AtomicBool::new(false);
/// Who holds this may start it.
static STARTING: Lock<()> = Lock::new(());

/// Starts the thread, if it is not there.
pub(crate) fn start() -> io::Result<()> {
    if STARTED.load(SeqCst) {
        return Ok(());
    }
    let _alone = STARTING.lock();
    if !STARTED.load(SeqCst) {
        let reactor = reactor()?;
        std::thread::Builder::new().name("executor".to_owned()).spawn(move || work(reactor))?;
        STARTED.store(true, SeqCst);
    }
    Ok(())
}

/// Begins a task, which runs once the thread is there.
pub(super) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let (runnable, task) = async_task::spawn(future, schedule);
    runnable.schedule();
    task
}

fn schedule(runnable: Runnable) {
    let elsewhere = NEXT.with(|next| match &mut *next.borrow_mut() {
        Some(next) => {
            next.push_back(runnable);
            None
        }
        None => Some(runnable),
    });
    if let Some(runnable) = elsewhere {
        WOKEN.lock().push(runnable);
        IS_WOKEN.store(true, SeqCst);
        look_again();
    }
}

/// The thread's work, for ever.
fn work(reactor: &Reactor) {
    NEXT.set(Some(VecDeque::new()));
    let (mut round, mut woken, mut changes) = (VecDeque::new(), Vec::new(), Changes::default());
    let mut looked = begin_turn();
    loop {
        NEXT.with_borrow_mut(|next| next.as_mut().map(|next| std::mem::swap(next, &mut round)));
        if IS_WOKEN.swap(false, SeqCst) {
            round.extend(WOKEN.lock().drain(..));
        }
        for runnable in round.drain(..) {
            // In a program that is tested, a task that panics ends alone.
            let _ = catch_unwind(AssertUnwindSafe(|| runnable.run()));
        }
        let now = begin_turn();
        let next = timer::take_due(now, &mut woken);
        woken.drain(..).for_each(Waker::wake);
        let idle = !IS_WOKEN.load(SeqCst) && NEXT.with_borrow(|next| next.as_ref().is_none_or(VecDeque::is_empty));
        if !idle && now.duration_since(looked) < SHARE {
            continue;
        }
        let limit = if idle { next.map(|at| at.duration_since(now)) } else { Some(Duration::ZERO) };
        reactor.wait(&mut changes, limit, &mut woken);
        looked = if idle { begin_turn() } else { now };
        woken.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use futures_lite::future::{block_on, yield_now};

    use super::super::task;
    use super::super::timer::Timer;
    use super::*;

    #[test]
    fn what_another_thread_wakes_runs_at_once() {
        // Were a wake lost, its task would wait for ever.
        for _ in 0..2000 {
            assert_eq!(block_on(task::spawn(async { 7 })), 7);
        }
    }

    #[test]
    fn who_does_not_wait_keeps_out_neither_timers_nor_others() {
        let over = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicUsize::new(0));
        let greedy: Vec<_> = (0..2)
            .map(|_| {
                let (over, turns) = (over.clone(), turns.clone());
                task::spawn(async move {
                    while !over.load(SeqCst) {
                        turns.fetch_add(1, SeqCst);
                        yield_now().await;
                    }
                })
            })
            .collect();
        let begin = Instant::now();
        block_on(task::spawn(async {
            for _ in 0..20 {
                Timer::after(Duration::from_millis(1)).await;
            }
        }));
        over.store(true, SeqCst);
        greedy.into_iter().for_each(block_on);
        assert!(begin.elapsed() >= Duration::from_millis(20) && turns.load(SeqCst) > 20);
    }

    #[test]
    fn a_task_that_panics_ends_alone() {
        let handle = task::spawn(async { panic!("on purpose") });
        assert_eq!(block_on(task::spawn(async { 1 })), 1);
        assert!(std::thread::spawn(|| block_on(handle)).join().is_err());
    }
}
