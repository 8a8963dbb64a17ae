//! Messages that wait to be sent to a client. Bounded, with one consumer.
//!
//! The consumer takes everything that is queued at once, so that it can write once per wake-up.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use event_listener::Event;

use crate::hub::memory::Kept;
use crate::model::handover;
use crate::model::out::Out;
use crate::model::{envelope, jsonrpc};
use crate::rt::wait::until;
use crate::sys::lock::{Guard, Lock};

/// What who asked is told where there is no memory for the answer.
const NO_MEMORY: &str = "there is no memory for the answer: as much is kept for clients as may be (limits.memory)";

/// What is kept for a client that is not connected, in bytes.
const DETACHED: usize = 1 << 20;

/// What keeps outboxes within a bound that they share.
pub trait Bounded: Send + Sync {
    /// Forgets what is beyond the bound.
    fn trim(&self);
}

/// The places of outboxes in the handover document, where several things name the same one.
#[derive(Default)]
pub(crate) struct Places {
    outboxes: Vec<Arc<Outbox>>,
    /// Where each stands there, by its address.
    places: HashMap<*const Outbox, usize>,
}

impl Places {
    /// The place of an outbox in the document.
    pub(crate) fn of(&mut self, outbox: &Arc<Outbox>) -> usize {
        *self.places.entry(Arc::as_ptr(outbox)).or_insert_with(|| {
            self.outboxes.push(outbox.clone());
            self.outboxes.len() - 1
        })
    }

    /// All that were named, each at its place.
    pub(crate) fn save(&self) -> Vec<handover::Outbox> {
        self.outboxes.iter().map(|o| o.save()).collect()
    }
}

/// Messages to one client: of a WebSocket, of an SSE stream, or of one POST.
pub struct Outbox {
    inner: Lock<Messages>,
    limit: AtomicUsize,
    /// The limit while its client is connected.
    full: usize,
    /// It takes answers and nothing else: its client has no place for more.
    answers_only: bool,
    /// Its client has an id to come back with.
    resumable: AtomicBool,
    /// The streams that it is one of, where it can be resumed.
    streams: OnceLock<Weak<dyn Bounded>>,
    /// Something was taken out, or it was closed.
    taken: Event,
}

#[derive(Default)]
struct Messages {
    queue: VecDeque<Out>,
    bytes: usize,
    /// What the consumer took last, in bytes: it is kept until it asks for more.
    taken: usize,
    /// Where all of that is counted.
    kept: Option<Kept>,
    /// How many answers are still to come, where it ends with the last of them.
    due: Option<usize>,
    /// The producer said that no more will come.
    ended: bool,
    /// Why, if that was said.
    why: Option<Box<str>>,
    /// The consumer is gone, or was too slow.
    closed: bool,
    overflowed: bool,
    waker: Option<Waker>,
}

impl Messages {
    /// Counts so many bytes more; false if there is no memory for them.
    fn keep(&mut self, more: usize) -> bool {
        let whole = self.bytes + self.taken + more;
        self.kept.as_mut().is_none_or(|kept| kept.reach(whole))
    }

    /// The consumer has taken so many bytes, and is done with what it took before.
    fn took(&mut self, bytes: usize) {
        self.taken = bytes;
        let whole = self.bytes + bytes;
        if let Some(kept) = &mut self.kept {
            kept.set(whole);
        }
    }
}

impl Outbox {
    /// Holds at most about `limit` bytes.
    pub fn new(limit: usize) -> Outbox {
        Outbox {
            inner: Lock::default(),
            limit: AtomicUsize::new(limit),
            full: limit,
            answers_only: false,
            resumable: AtomicBool::new(false),
            streams: OnceLock::new(),
            taken: Event::new(),
        }
    }

    /// Everything of it, for another program.
    pub fn save(&self) -> handover::Outbox {
        let inner = self.lock();
        handover::Outbox {
            full: self.full,
            detached: self.limit.load(Relaxed) != self.full,
            answers_only: self.answers_only,
            resumable: self.is_resumable(),
            due: inner.due,
            ended: inner.ended,
            closed: inner.closed,
            overflowed: inner.overflowed,
            queue: inner.queue.iter().cloned().collect(),
        }
    }

    /// The outbox of the program before.
    pub fn restore(saved: handover::Outbox) -> Outbox {
        let queue = VecDeque::from(saved.queue);
        let outbox = Outbox {
            inner: Lock::new(Messages {
                bytes: queue.iter().map(|o| o.text.len()).sum(),
                queue,
                taken: 0,
                kept: None,
                due: saved.due,
                ended: saved.ended,
                why: None,
                closed: saved.closed,
                overflowed: saved.overflowed,
                waker: None,
            }),
            limit: AtomicUsize::new(saved.full),
            full: saved.full,
            answers_only: saved.answers_only,
            resumable: AtomicBool::new(saved.resumable),
            streams: OnceLock::new(),
            taken: Event::new(),
        };
        if saved.detached {
            outbox.detach();
        }
        outbox
    }

    /// For the answer to one request and what belongs to it.
    pub fn single(limit: usize) -> Outbox {
        Outbox::batch(limit, 1)
    }

    /// For the answer to one request, to a client that takes one JSON object and no stream.
    pub fn plain(limit: usize) -> Outbox {
        Outbox { answers_only: true, ..Outbox::batch(limit, 1) }
    }

    /// For the answers to several requests.
    pub fn batch(limit: usize, due: usize) -> Outbox {
        let outbox = Outbox::new(limit);
        outbox.lock().due = Some(due);
        outbox
    }

    /// Counts what it holds.
    pub(crate) fn counted(self, kept: Kept) -> Outbox {
        self.count(kept);
        self
    }

    /// Counts what it holds from now on.
    pub(crate) fn count(&self, mut kept: Kept) {
        let mut inner = self.lock();
        kept.set(inner.bytes + inner.taken);
        inner.kept = Some(kept);
    }

    /// How much it may hold, in bytes.
    pub fn capacity(&self) -> usize {
        self.full
    }

    /// Its client may come back for what it has missed, and will as long as there is no answer. What waits for it counts
    /// against the bounds of `streams`.
    pub fn make_resumable(&self, streams: Weak<dyn Bounded>) {
        self.resumable.store(true, Relaxed);
        self.belong_to(streams);
    }

    /// What waits here counts against the bounds of `streams`.
    pub fn belong_to(&self, streams: Weak<dyn Bounded>) {
        let _ = self.streams.set(streams);
    }

    /// Keeps what waits for clients that have left within its bounds. Needed after an answer was queued.
    pub fn trim(&self) {
        if self.is_resumable()
            && let Some(streams) = self.streams.get().and_then(Weak::upgrade)
        {
            streams.trim();
        }
    }

    pub fn is_resumable(&self) -> bool {
        self.resumable.load(Relaxed)
    }

    /// One answer will not come.
    pub fn withdraw(&self) {
        let over = {
            let mut inner = self.lock();
            inner.due = inner.due.map(|due| due.saturating_sub(1));
            inner.due == Some(0)
        };
        if over {
            self.end();
        }
    }

    /// Its client is not connected: what is kept is little, and at least one message.
    pub fn detach(&self) {
        self.limit.store(DETACHED, Relaxed);
    }

    /// Its client is connected again.
    pub fn reattach(&self) {
        self.limit.store(self.full, Relaxed);
    }

    /// No more will come; what is there may still be taken.
    pub fn is_ended(&self) -> bool {
        let inner = self.lock();
        inner.closed || inner.ended
    }

    /// Why it has ended, if that was said.
    pub fn why(&self) -> Option<Box<str>> {
        self.lock().why.clone()
    }

    /// Bytes that wait to be read.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The consumer looks again.
    pub fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Everything that will ever come was taken.
    pub fn is_finished(&self) -> bool {
        let inner = self.lock();
        inner.closed || (inner.ended && inner.queue.is_empty())
    }

    fn lock(&self) -> Guard<'_, Messages> {
        self.inner.lock()
    }

    /// Queues a message. False if it will never be read; a consumer that is `limit` bytes behind loses its outbox,
    /// because memory is not the place for what it does not read.
    pub fn push(&self, mut out: Out) -> bool {
        let waker = {
            let mut inner = self.lock();
            if inner.closed || inner.ended || (self.answers_only && !out.answer) {
                return false;
            }
            let fits = inner.keep(out.text.len());
            if !fits && out.answer {
                // Who asked is told, and loses nothing else.
                out = Out::error(jsonrpc::error(envelope::member(&out.text, "id"), jsonrpc::REFUSED, NO_MEMORY));
            }
            if inner.bytes > self.limit.load(Relaxed) || (!fits && !out.answer) {
                inner.overflowed = true;
                inner.closed = true;
                inner.queue.clear();
                self.taken.notify(usize::MAX);
            } else {
                inner.bytes += out.text.len();
                if out.answer
                    && let Some(due) = &mut inner.due
                {
                    *due = due.saturating_sub(1);
                    inner.ended |= *due == 0;
                }
                inner.queue.push_back(out);
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// No more will come.
    pub fn end(&self) {
        self.end_because("");
    }

    /// As [`Outbox::end`], with the reason that a WebSocket is closed with.
    pub fn end_because(&self, why: &str) {
        let waker = {
            let mut inner = self.lock();
            inner.ended = true;
            if inner.why.is_none() && !why.is_empty() {
                inner.why = Some(why.into());
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The consumer is gone.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.queue.clear();
        inner.bytes = 0;
        inner.took(0);
        drop(inner);
        self.taken.notify(usize::MAX);
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The consumer was too slow and lost messages.
    pub fn overflowed(&self) -> bool {
        self.lock().overflowed
    }

    /// What was taken last is counted by its taker from now on.
    pub(crate) fn hand_over(&self) {
        self.lock().took(0);
    }

    /// Moves everything that is queued to `into`; ready with false once no more will come.
    pub fn poll_take(&self, cx: &mut Context<'_>, into: &mut VecDeque<Out>) -> Poll<bool> {
        let mut inner = self.lock();
        // A consumer asks for more once it is done with what it took before.
        let bytes = inner.bytes;
        if !inner.queue.is_empty() {
            inner.bytes = 0;
            inner.took(bytes);
            if into.is_empty() {
                std::mem::swap(&mut inner.queue, into);
            } else {
                into.append(&mut inner.queue);
            }
            drop(inner);
            self.taken.notify(usize::MAX);
            return Poll::Ready(true);
        }
        if into.is_empty() {
            inner.took(0);
        }
        if inner.ended || inner.closed {
            return Poll::Ready(false);
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Ready once the consumer has been too slow. For a consumer that is busy with what it took before.
    pub fn poll_overflowed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.overflowed {
            return Poll::Ready(());
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next message, or None once no more will come.
    pub async fn next(&self) -> Option<Out> {
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            if let Some(out) = inner.queue.pop_front() {
                inner.bytes -= out.text.len().min(inner.bytes);
                inner.took(out.text.len());
                drop(inner);
                self.taken.notify(usize::MAX);
                return Poll::Ready(Some(out));
            }
            if inner.ended || inner.closed {
                return Poll::Ready(None);
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until at most so many bytes are queued, or they will never be read: for a producer that can wait.
    pub async fn room(&self, most: usize) {
        let roomy = || {
            let inner = self.lock();
            (inner.bytes <= most || inner.closed || inner.ended).then_some(())
        };
        until(&self.taken, roomy).await;
    }

    /// Whether something is queued now.
    pub fn has_more(&self) -> bool {
        !self.lock().queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;

    fn notice(text: &str) -> Out {
        Out::notice(text.to_owned())
    }

    #[test]
    fn messages_come_out_in_order_and_end() {
        let outbox = Outbox::new(100);
        assert!(outbox.push(notice("a")) && outbox.push(notice("b")));
        outbox.end();
        assert!(!outbox.push(notice("c")));
        block_on(async {
            assert_eq!(outbox.next().await.unwrap().text, "a");
            assert_eq!(outbox.next().await.unwrap().text, "b");
            assert!(outbox.next().await.is_none());
        });
    }

    #[test]
    fn a_consumer_that_does_not_read_loses_its_outbox_and_not_our_memory() {
        let outbox = Outbox::new(3);
        for _ in 0..4 {
            assert!(outbox.push(notice("x")));
        }
        assert!(outbox.push(notice("one too many")) && outbox.overflowed() && !outbox.push(notice("y")));
        assert!(block_on(outbox.next()).is_none());
    }
}
