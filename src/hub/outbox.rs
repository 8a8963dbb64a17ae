//! What waits to be sent to a peer: messages to a client, bytes to a child. Bounded, with one consumer.
//!
//! The consumer takes everything that is queued at once, so that it can write once per wake-up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use event_listener::Event;

use crate::model::handover;
use crate::model::out::Out;
use crate::rt::wait::until;
use crate::sys::lock::{Guard, Lock};

/// What is kept for a client that is not connected, in bytes.
const DETACHED: usize = 1 << 20;

/// Messages to one client: of a WebSocket, of an SSE stream, or of one POST.
#[derive(Debug)]
pub struct Outbox {
    inner: Lock<Messages>,
    limit: AtomicUsize,
    /// The limit while somebody reads.
    full: usize,
    /// It takes answers and nothing else: its client has no place for more.
    answers_only: bool,
    /// Its client has an id to come back with.
    resumable: AtomicBool,
    /// Something was taken out, or it was closed.
    taken: Event,
}

#[derive(Debug, Default)]
struct Messages {
    queue: VecDeque<Out>,
    bytes: usize,
    /// How many answers are still to come, where it ends with the last of them.
    due: Option<usize>,
    /// The producer said that no more will come.
    ended: bool,
    /// The consumer is gone, or was too slow.
    closed: bool,
    overflowed: bool,
    waker: Option<Waker>,
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

    /// The same outbox in another program.
    pub fn restore(saved: handover::Outbox) -> Outbox {
        let queue = VecDeque::from(saved.queue);
        let outbox = Outbox {
            inner: Lock::new(Messages {
                bytes: queue.iter().map(|o| o.text.len()).sum(),
                queue,
                due: saved.due,
                ended: saved.ended,
                closed: saved.closed,
                overflowed: saved.overflowed,
                waker: None,
            }),
            limit: AtomicUsize::new(saved.full),
            full: saved.full,
            answers_only: saved.answers_only,
            resumable: AtomicBool::new(saved.resumable),
            taken: Event::new(),
        };
        if saved.detached {
            outbox.detach();
        }
        outbox
    }

    /// The same for the answer to one request and what belongs to it.
    pub fn single(limit: usize) -> Outbox {
        Outbox::batch(limit, 1)
    }

    /// The same for a client that takes one JSON object and no stream.
    pub fn plain(limit: usize) -> Outbox {
        Outbox { answers_only: true, ..Outbox::batch(limit, 1) }
    }

    /// The same for the answers to several requests.
    pub fn batch(limit: usize, due: usize) -> Outbox {
        let outbox = Outbox::new(limit);
        outbox.lock().due = Some(due);
        outbox
    }

    /// How much it may hold, in bytes.
    pub fn capacity(&self) -> usize {
        self.full
    }

    /// Its client may come back for what it has missed, and will as long as there is no answer.
    pub fn make_resumable(&self) {
        self.resumable.store(true, Relaxed);
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

    /// Nobody reads at the moment: what is kept is little, and at least one message.
    pub fn detach(&self) {
        self.limit.store(DETACHED, Relaxed);
    }

    /// Somebody reads again.
    pub fn reattach(&self) {
        self.limit.store(self.full, Relaxed);
    }

    /// No more will come; what is there may still be taken.
    pub fn is_ended(&self) -> bool {
        let inner = self.lock();
        inner.closed || inner.ended
    }

    /// Bytes that wait to be read.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Whoever waits for a message looks again.
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

    /// Queues a message. False if nobody will ever read it; a consumer that is `limit` bytes behind loses its outbox,
    /// because memory is not the place for what it does not read.
    pub fn push(&self, out: Out) -> bool {
        let waker = {
            let mut inner = self.lock();
            if inner.closed || inner.ended || (self.answers_only && !out.answer) {
                return false;
            }
            if inner.bytes > self.limit.load(Relaxed) {
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
        let waker = {
            let mut inner = self.lock();
            inner.ended = true;
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

    /// Moves everything that is queued to `into`; ready with false once no more will come.
    pub fn poll_take(&self, cx: &mut Context<'_>, into: &mut VecDeque<Out>) -> Poll<bool> {
        let mut inner = self.lock();
        if !inner.queue.is_empty() {
            inner.bytes = 0;
            if into.is_empty() {
                std::mem::swap(&mut inner.queue, into);
            } else {
                into.append(&mut inner.queue);
            }
            drop(inner);
            self.taken.notify(usize::MAX);
            return Poll::Ready(true);
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

    /// Waits until at most so many bytes are queued, or nobody will ever read: for a producer that can wait.
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

/// Bytes on their way to a child's standard input.
#[derive(Debug)]
pub struct ByteQueue {
    inner: Lock<Bytes>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Bytes {
    queue: Vec<u8>,
    /// Taken by the writer and not yet written.
    writing: usize,
    closed: bool,
    waker: Option<Waker>,
}

/// Why bytes were not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotQueued {
    Full,
    Closed,
}

impl ByteQueue {
    pub fn new(limit: usize) -> ByteQueue {
        ByteQueue::with(limit, Vec::new())
    }

    /// A queue that holds something already.
    pub fn with(limit: usize, queue: Vec<u8>) -> ByteQueue {
        ByteQueue { inner: Lock::new(Bytes { queue, ..Bytes::default() }), limit }
    }

    fn lock(&self) -> Guard<'_, Bytes> {
        self.inner.lock()
    }

    /// Lets `write` append bytes, unless the child is `limit` bytes behind.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), NotQueued> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(NotQueued::Closed);
            }
            if inner.queue.len() + inner.writing > self.limit {
                return Err(NotQueued::Full);
            }
            write(&mut inner.queue);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What nobody has taken yet.
    pub fn queued(&self) -> Vec<u8> {
        self.lock().queue.clone()
    }

    /// What is queued is still written, then the writer ends.
    pub fn close(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Swaps everything that is queued into `into`, whose old bytes have been written. False at the end.
    pub async fn take(&self, into: &mut Vec<u8>) -> bool {
        into.clear();
        // A single huge message must not hold its memory for ever.
        into.shrink_to(1 << 20);
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            inner.writing = 0;
            if !inner.queue.is_empty() {
                std::mem::swap(&mut inner.queue, into);
                inner.writing = into.len();
                return Poll::Ready(true);
            }
            if inner.closed {
                return Poll::Ready(false);
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    fn out(text: &str) -> Out {
        Out::notice(text.to_owned())
    }

    #[test]
    fn messages_come_out_in_order_and_end() {
        let outbox = Outbox::new(100);
        assert!(outbox.push(out("a")) && outbox.push(out("b")));
        outbox.end();
        assert!(!outbox.push(out("c")));
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
            assert!(outbox.push(out("x")));
        }
        assert!(outbox.push(out("one too many")) && outbox.overflowed() && !outbox.push(out("y")));
        assert!(block_on(outbox.next()).is_none());
    }

    #[test]
    fn bytes_count_until_they_are_written() {
        let queue = ByteQueue::new(3);
        queue.push(|b| b.extend_from_slice(b"abcd")).unwrap();
        let mut taken = Vec::new();
        assert!(block_on(queue.take(&mut taken)) && taken == b"abcd");
        assert_eq!(queue.push(|b| b.push(0)), Err(NotQueued::Full));
        assert!(block_on(poll_once(queue.take(&mut taken))).is_none());
        queue.push(|b| b.push(b'e')).unwrap();
        queue.close();
        assert_eq!(queue.push(|b| b.push(0)), Err(NotQueued::Closed));
        assert!(block_on(queue.take(&mut taken)) && taken == b"e");
        assert!(!block_on(queue.take(&mut taken)));
    }
}
