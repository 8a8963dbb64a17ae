//! Descriptors that tasks wait for. The executor's own thread waits here while it has nothing to do.
//!
//! Knows neither tasks nor what a descriptor is for; it has wakers. How a descriptor is used is in [`super::async_fd`], and when
//! the thread waits in [`super::executor`].

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::sys::lock::Lock;
use crate::sys::poller::{Changes, Poller, READ_CLOSED, READABLE, WRITABLE, WRITE_CLOSED};

static REACTOR: OnceLock<Reactor> = OnceLock::new();

thread_local! {
    /// The time as the executor's thread has last read it. None in other threads.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The descriptors that are waited for.
pub(super) struct Reactor {
    poller: Poller,
    /// What is known of each, by its number.
    known: Lock<Vec<Option<Arc<Readiness>>>>,
    /// Tells descriptors apart that had the same number one after the other.
    generation: AtomicU32,
    /// The executor's thread waits, or is about to.
    waits: AtomicBool,
    /// It shall not begin to.
    again: AtomicBool,
}

/// The reactor of this process.
pub(super) fn reactor() -> io::Result<&'static Reactor> {
    if let Some(reactor) = REACTOR.get() {
        return Ok(reactor);
    }
    let reactor = Reactor {
        poller: Poller::new()?,
        known: Lock::default(),
        generation: AtomicU32::new(0),
        waits: AtomicBool::new(false),
        again: AtomicBool::new(false),
    };
    Ok(REACTOR.get_or_init(|| reactor))
}

/// The time. In the executor's thread, as it was at the beginning of its turn.
pub(super) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// A turn of the executor's thread begins, which is this one: the time.
pub(super) fn begin_turn() -> Instant {
    let now = Instant::now();
    NOW.set(Some(now));
    now
}

/// The executor's thread looks again at what there is to do, and for how long it may wait.
pub(super) fn look_again() {
    // That thread itself looks before it waits.
    if NOW.get().is_none()
        && let Some(reactor) = REACTOR.get()
    {
        reactor.again.store(true, SeqCst);
        if reactor.waits.swap(false, SeqCst) {
            reactor.poller.ring();
        }
    }
}

/// What is known of one descriptor.
pub(super) struct Readiness {
    /// Some of [`READABLE`] and the others.
    bits: AtomicU8,
    generation: u32,
    reader: Lock<Waiter>,
    writer: Lock<Waiter>,
}

/// Who waits in one direction. The waker is kept, for mostly it is the same one the next time.
#[derive(Default)]
struct Waiter {
    waker: Option<Waker>,
    waits: bool,
}

/// In which direction a descriptor is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Direction {
    fn bit(self) -> u8 {
        match self {
            Direction::Read => READABLE,
            Direction::Write => WRITABLE,
        }
    }

    fn closed(self) -> u8 {
        match self {
            Direction::Read => READ_CLOSED,
            Direction::Write => WRITE_CLOSED,
        }
    }
}

impl Readiness {
    fn waiter(&self, direction: Direction) -> &Lock<Waiter> {
        match direction {
            Direction::Read => &self.reader,
            Direction::Write => &self.writer,
        }
    }

    fn is_ready(&self, direction: Direction) -> bool {
        self.bits.load(SeqCst) & (direction.bit() | direction.closed()) != 0
    }

    /// Ready where an attempt may succeed; else the task is woken once it may.
    pub(super) fn poll(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_ready(direction) {
            return Poll::Ready(());
        }
        {
            let mut waiter = self.waiter(direction).lock();
            waiter.waits = true;
            match &mut waiter.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        // It may have changed meanwhile.
        if self.is_ready(direction) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// An attempt is about to be made: what changes from now on is news.
    pub(super) fn clear(&self, direction: Direction) {
        self.bits.fetch_and(!direction.bit(), SeqCst);
    }

    /// Another attempt may succeed at once.
    pub(super) fn set(&self, direction: Direction) {
        self.bits.fetch_or(direction.bit(), SeqCst);
    }

    /// Notes a change; those who wait for it are in `woken` then.
    fn change(&self, bits: u8, woken: &mut Vec<Waker>) {
        self.bits.fetch_or(bits, SeqCst);
        for direction in [Direction::Read, Direction::Write] {
            if bits & direction.bit() != 0 {
                let mut waiter = self.waiter(direction).lock();
                if std::mem::take(&mut waiter.waits) {
                    woken.extend(waiter.waker.clone());
                }
            }
        }
    }
}

impl Reactor {
    /// Begins to follow a descriptor, which must not block. How it stands now is told at the next turn.
    pub(super) fn add(&self, fd: BorrowedFd<'_>) -> io::Result<Arc<Readiness>> {
        let generation = self.generation.fetch_add(1, SeqCst);
        let (bits, reader, writer) = Default::default();
        let readiness = Arc::new(Readiness { bits, generation, reader, writer });
        let number = fd.as_raw_fd();
        {
            let mut known = self.known.lock();
            let place = number as usize;
            if known.len() <= place {
                known.resize(place + 1, None);
            }
            known[place] = Some(readiness.clone());
        }
        let added = self.poller.add(fd, u64::from(generation) << 32 | number as u64);
        if added.is_err() {
            self.forget(number);
        }
        added.map(|()| readiness)
    }

    /// No longer follows a descriptor that is open still.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        self.forget(fd.as_raw_fd());
        self.poller.remove(fd);
    }

    fn forget(&self, number: RawFd) {
        let forgotten = self.known.lock().get_mut(number as usize).and_then(Option::take);
        // Outside of the lock: with it goes a waker.
        drop(forgotten);
    }

    /// Waits for changes, for `limit` at most and until [`look_again`], and notes them; those who wait for one are in
    /// `woken` then.
    pub(super) fn wait(&self, changes: &mut Changes, limit: Option<Duration>, woken: &mut Vec<Waker>) {
        self.waits.store(true, SeqCst);
        // What came before this was seen has rung no bell.
        let limit = if self.again.swap(false, SeqCst) { Some(Duration::ZERO) } else { limit };
        self.poller.wait(changes, limit);
        self.waits.store(false, SeqCst);
        let known = self.known.lock();
        for (key, bits) in changes.iter() {
            let (generation, number) = ((key >> 32) as u32, key as u32 as usize);
            // What is told of a descriptor that is closed by now is not its successor's.
            let same = known.get(number).and_then(Option::as_ref).filter(|one| one.generation == generation);
            if let Some(one) = same {
                one.change(bits, woken);
            }
        }
    }
}
