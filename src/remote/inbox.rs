//! What a server elsewhere has said, one message a line, until it is read. Bounded: who brings more waits for room.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use event_listener::Event;

use crate::rt::wait::until;
use crate::sys::lock::Lock;

/// So many bytes wait before no more is read from the server.
const FULL: usize = 4 << 20;

/// Lines that were not read yet.
#[derive(Default)]
pub(crate) struct Inbox {
    inner: Lock<Inner>,
    read: Event,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<Vec<u8>>,
    /// So many bytes of the first one were read.
    done: usize,
    bytes: usize,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Adds a line, which ends with its line feed.
    pub(super) fn push(&self, line: Vec<u8>) {
        self.change(|inner| {
            inner.bytes += line.len();
            inner.lines.push_back(line);
        });
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.change(|inner| inner.is_closed = true);
        self.read.notify(usize::MAX);
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = self.inner.lock();
            change(&mut inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until there is room for more.
    pub(super) async fn has_room(&self) {
        let room = || {
            let inner = self.inner.lock();
            (inner.bytes < FULL || inner.is_closed).then_some(())
        };
        until(&self.read, room).await;
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> Vec<u8> {
        let inner = self.inner.lock();
        inner.lines.iter().flatten().skip(inner.done).copied().collect()
    }

    /// Reads what there is, waiting for it: how many bytes; 0 at the end.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let mut inner = self.inner.lock();
        let mut read = 0;
        while read < buffer.len() {
            let done = inner.done;
            let Some(line) = inner.lines.front() else { break };
            let n = (line.len() - done).min(buffer.len() - read);
            buffer[read..read + n].copy_from_slice(&line[done..done + n]);
            read += n;
            inner.done += n;
            if inner.done == inner.lines.front().map_or(0, Vec::len) {
                inner.lines.pop_front();
                inner.done = 0;
            }
        }
        inner.bytes -= read;
        if read == 0 && !inner.is_closed && !buffer.is_empty() {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(inner);
        self.read.notify(usize::MAX);
        Poll::Ready(read)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn what_was_pushed_is_read_in_any_pieces_and_then_comes_the_end() {
        let inbox = Inbox::default();
        let read = |n: usize| {
            let mut buffer = vec![0; n];
            let read = block_on(poll_once(poll_fn(|cx| inbox.poll_read(cx, &mut buffer))))?;
            Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
        };
        assert_eq!(read(9), None);
        inbox.push(b"abc\n".to_vec());
        inbox.push(b"d\n".to_vec());
        assert_eq!(read(2).as_deref(), Some("ab"));
        assert_eq!(inbox.rest(), b"c\nd\n");
        assert_eq!(read(9).as_deref(), Some("c\nd\n"));
        inbox.close();
        assert_eq!(read(9).as_deref(), Some(""));
    }

    #[test]
    fn who_brings_too_much_waits_until_it_is_read() {
        let inbox = Inbox::default();
        inbox.push(vec![b'x'; FULL]);
        assert!(block_on(poll_once(inbox.has_room())).is_none());
        let mut buffer = vec![0; FULL];
        assert!(block_on(poll_once(poll_fn(|cx| inbox.poll_read(cx, &mut buffer)))).is_some());
        assert!(block_on(poll_once(inbox.has_room())).is_some());
    }
}
