//! Bytes on their way to a child's standard input. Bounded, with one consumer.
//!
//! The consumer takes everything that is queued at once, so that it writes once per wake-up. Once much is queued, it is
//! shared fairly among those who wrote it. Knows no messages.

use std::task::{Poll, Waker};

use crate::hub::memory::Kept;
use crate::model::budget::{Budget, Holder};
use crate::sys::lock::{Guard, Lock};

/// So much is queued before it matters who wrote it.
const FREE: usize = 1 << 20;

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
    /// Who has how much of what may be queued. Only while much is.
    shares: Option<Budget>,
    /// Whose the queued bytes are, as far as the shares count them, and those that are being written.
    queued_for: Vec<(Holder, u64)>,
    writing_for: Vec<(Holder, u64)>,
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
    fn len(&self) -> usize {
        self.queue.len() + self.writing
    }

    fn count(&mut self) {
        let length = self.len();
        self.over = self.kept.as_mut().is_some_and(|kept| !kept.set(length));
    }

    /// Whether there is room for so many bytes of a holder, which are his then.
    fn take_share(&mut self, holder: &Holder, size: usize, limit: usize) -> bool {
        let length = self.len();
        if length <= FREE {
            return true;
        }
        let shares = self.shares.get_or_insert_with(|| Budget::new(limit.saturating_sub(length) as u64));
        let fits = shares.take_one(holder, size as u64);
        if fits {
            self.queued_for.push((holder.clone(), size as u64));
        }
        fits
    }

    /// What was being written is written.
    fn give_shares(&mut self) {
        self.writing = 0;
        let written = std::mem::take(&mut self.writing_for);
        if let Some(shares) = &mut self.shares {
            written.iter().for_each(|(holder, size)| shares.give(holder, *size));
        }
        if self.queue.is_empty() {
            self.shares = None;
        }
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

    /// Lets `write` append about `size` bytes of a holder, unless the child is `limit` bytes behind, or it is behind and
    /// the holder's share of the limit is taken.
    pub(crate) fn push(&self, holder: &Holder, size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), NotQueued> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(NotQueued::Closed);
            }
            if inner.len() > self.limit || inner.over || !inner.take_share(holder, size, self.limit) {
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

    /// How many bytes may be queued.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether something is queued or being written.
    pub(crate) fn is_behind(&self) -> bool {
        self.lock().len() > 0
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
            inner.give_shares();
            if !inner.queue.is_empty() {
                std::mem::swap(&mut inner.queue, into);
                inner.writing_for = std::mem::take(&mut inner.queued_for);
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

    fn who(n: u64) -> Holder {
        Holder::Connection(n)
    }

    #[test]
    fn bytes_count_until_they_are_written() {
        let queue = ByteQueue::new(3);
        let push = |byte| queue.push(&who(1), 1, |b| b.push(byte));
        queue.push(&who(1), 4, |b| b.extend_from_slice(b"abcd")).unwrap();
        let mut taken = Vec::new();
        assert!(block_on(queue.take(&mut taken)) && taken == b"abcd");
        assert_eq!(push(0), Err(NotQueued::Full));
        assert!(block_on(poll_once(queue.take(&mut taken))).is_none());
        push(b'e').unwrap();
        queue.close();
        assert_eq!(push(0), Err(NotQueued::Closed));
        assert!(block_on(queue.take(&mut taken)) && taken == b"e");
        assert!(!block_on(queue.take(&mut taken)));
    }

    #[test]
    fn who_fills_the_queue_leaves_a_part_of_it_for_others() {
        const MIB: usize = 1 << 20;
        let queue = ByteQueue::new(32 * MIB);
        let push = |n| queue.push(&who(n), MIB, |b| b.resize(b.len() + MIB, 0));
        let fill = |n| (0..).take_while(|_| push(n).is_ok()).count();
        // Two before it counts, and three quarters of the other 30.
        assert_eq!((fill(1), fill(2), fill(3)), (24, 8, 0));
        // Once that is written, others have room again; what is queued then is counted from the beginning.
        let mut taken = Vec::new();
        assert!(block_on(queue.take(&mut taken)) && taken.len() == 32 * MIB);
        assert_eq!(fill(2), 0, "it is still being written");
        assert!(block_on(poll_once(queue.take(&mut taken))).is_none());
        assert_eq!((fill(2), fill(1)), (24, 8));
    }
}
