//! Bytes on their way to a child's standard input. Bounded, with one consumer.
//!
//! The consumer takes everything that is queued at once, so that it writes once per wake-up. Knows no messages.

use std::task::{Poll, Waker};

use crate::hub::memory::Kept;
use crate::sys::lock::{Guard, Lock};

/// Bytes on their way to a child's standard input.
pub(crate) struct ByteQueue {
    inner: Lock<Bytes>,
    limit: usize,
}

#[derive(Default)]
struct Bytes {
    queue: Vec<u8>,
    /// Taken by the writer and not yet written.
    writing: usize,
    closed: bool,
    waker: Option<Waker>,
    /// Where all of it is counted.
    kept: Option<Kept>,
    /// There was no memory for it.
    over: bool,
}

/// Why bytes were not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotQueued {
    Full,
    Closed,
}

impl Bytes {
    fn count(&mut self) {
        let length = self.queue.len() + self.writing;
        self.over = self.kept.as_mut().is_some_and(|kept| !kept.set(length));
    }
}

impl ByteQueue {
    pub(crate) fn new(limit: usize) -> ByteQueue {
        ByteQueue::with(limit, Vec::new())
    }

    /// A queue that holds something already.
    pub(crate) fn with(limit: usize, queue: Vec<u8>) -> ByteQueue {
        ByteQueue { inner: Lock::new(Bytes { queue, ..Bytes::default() }), limit }
    }

    /// Counts what it holds.
    pub(crate) fn count(&self, kept: Kept) {
        self.lock().kept = Some(kept);
    }

    fn lock(&self) -> Guard<'_, Bytes> {
        self.inner.lock()
    }

    /// Lets `write` append bytes, unless the child is `limit` bytes behind.
    pub(crate) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), NotQueued> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(NotQueued::Closed);
            }
            if inner.queue.len() + inner.writing > self.limit || inner.over {
                return Err(NotQueued::Full);
            }
            write(&mut inner.queue);
            inner.count();
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What the writer has not taken yet.
    pub(crate) fn queued(&self) -> Vec<u8> {
        self.lock().queue.clone()
    }

    /// What is queued is still written, then the writer ends.
    pub(crate) fn close(&self) {
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
    pub(crate) async fn take(&self, into: &mut Vec<u8>) -> bool {
        into.clear();
        // A single huge message must not hold its memory for ever.
        into.shrink_to(1 << 20);
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            inner.writing = 0;
            if !inner.queue.is_empty() {
                std::mem::swap(&mut inner.queue, into);
                inner.writing = into.len();
                inner.count();
                return Poll::Ready(true);
            }
            inner.count();
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
    use futures_lite::future::{block_on, poll_once};

    use super::*;

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
