//! A descriptor that tasks wait for: a socket, a listener, an end of a pipe, a process.
//!
//! An attempt is made only where it may succeed: a read that brought less than was asked for has emptied the descriptor, and
//! the next one waits until it is told that there is more (epoll(7), question 9). Knows no bytes.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::reactor::{Direction, Reactor, Readiness, reactor};
use crate::sys::fds;

/// A descriptor that tasks wait for, one for each direction.
pub(crate) struct AsyncFd<T: AsFd> {
    readiness: Arc<Readiness>,
    reactor: &'static Reactor,
    io: T,
}

impl<T: AsFd> Drop for AsyncFd<T> {
    fn drop(&mut self) {
        // Before it is closed.
        self.reactor.remove(self.io.as_fd());
    }
}

impl<T: AsFd> AsFd for AsyncFd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// What an attempt says of the next one.
enum After {
    /// It may succeed at once.
    More,
    /// It has to wait.
    Less,
}

impl<T: AsFd> AsyncFd<T> {
    /// Makes a descriptor one that does not block, and follows it.
    pub(crate) fn new(io: T) -> io::Result<AsyncFd<T>> {
        fds::set_nonblocking(io.as_fd())?;
        let reactor = reactor()?;
        let readiness = reactor.add(io.as_fd())?;
        Ok(AsyncFd { readiness, reactor, io })
    }

    pub(crate) fn get_ref(&self) -> &T {
        &self.io
    }

    /// Ready once there may be something to read, until an attempt shows that there is not.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Direction::Read, cx)
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Takes something whole out of it, such as a connection.
    pub(crate) fn poll_take<R>(&self, cx: &mut Context<'_>, take: impl Fn(&T) -> io::Result<R>) -> Poll<io::Result<R>> {
        self.poll(Direction::Read, cx, |io| take(io).map(|taken| (taken, After::More)))
    }

    /// Reads up to `room` bytes.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        read: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(Direction::Read, cx, room, read)
    }

    /// Writes up to `length` bytes.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(Direction::Write, cx, length, write)
    }

    fn poll_transfer(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
        most: usize,
        mut transfer: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll(direction, cx, |io| {
            let n = transfer(io)?;
            Ok((n, if (1..most).contains(&n) { After::Less } else { After::More }))
        })
    }

    fn poll<R>(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&T) -> io::Result<(R, After)>,
    ) -> Poll<io::Result<R>> {
        loop {
            ready!(self.readiness.poll(direction, cx));
            // Before the attempt: what changes while it is made is news.
            self.readiness.clear(direction);
            match attempt(&self.io) {
                Ok((outcome, After::Less)) => return Poll::Ready(Ok(outcome)),
                Ok((outcome, After::More)) => {
                    self.readiness.set(direction);
                    return Poll::Ready(Ok(outcome));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    self.readiness.set(direction);
                    if e.kind() != io::ErrorKind::Interrupted {
                        return Poll::Ready(Err(e));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn read(
        from: &AsyncFd<UnixStream>,
        attempts: &std::cell::Cell<usize>,
    ) -> impl Future<Output = io::Result<Vec<u8>>> {
        poll_fn(|cx| {
            let mut buffer = [0; 8];
            let outcome = from.poll_read(cx, buffer.len(), |mut io| {
                attempts.set(attempts.get() + 1);
                io.read(&mut buffer)
            });
            outcome.map(|n| n.map(|n| buffer[..n].to_vec()))
        })
    }

    #[test]
    fn a_read_that_finds_nothing_is_not_made_twice() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = AsyncFd::new(near).unwrap();
        let attempts = std::cell::Cell::new(0);
        assert!(block_on(poll_once(read(&near, &attempts))).is_none());
        assert!(block_on(poll_once(read(&near, &attempts))).is_none());
        assert_eq!(attempts.get(), 0, "nobody has said that there is something");
        crate::rt::executor::start().unwrap();
        far.write_all(b"0123456789").unwrap();
        assert_eq!(block_on(read(&near, &attempts)).unwrap(), b"01234567");
        assert_eq!(block_on(read(&near, &attempts)).unwrap(), b"89");
        assert_eq!(attempts.get(), 2);
        assert!(block_on(poll_once(read(&near, &attempts))).is_none());
        assert_eq!(attempts.get(), 2, "a short read has emptied it");
        drop(far);
        assert_eq!(block_on(read(&near, &attempts)).unwrap(), b"");
        assert_eq!(block_on(read(&near, &attempts)).unwrap(), b"", "an end stays one");
    }

    #[test]
    fn a_descriptor_with_a_closed_ones_number_is_another_one() {
        for _ in 0..100 {
            crate::rt::executor::start().unwrap();
            let (near, mut far) = UnixStream::pair().unwrap();
            let near = AsyncFd::new(near).unwrap();
            let attempts = std::cell::Cell::new(0);
            assert!(block_on(poll_once(read(&near, &attempts))).is_none());
            far.write_all(b"x").unwrap();
            assert_eq!(block_on(read(&near, &attempts)).unwrap(), b"x");
            assert!(block_on(poll_once(read(&near, &attempts))).is_none());
        }
    }

    #[test]
    fn a_full_pipe_is_written_on_once_it_is_read() {
        crate::rt::executor::start().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let near = AsyncFd::new(near).unwrap();
        let reading = std::thread::spawn(move || {
            let mut whole = Vec::new();
            (&far).read_to_end(&mut whole)
        });
        let bytes = vec![7; 4 << 20];
        let mut sent = 0;
        block_on(async {
            while sent < bytes.len() {
                let rest = &bytes[sent..];
                sent += poll_fn(|cx| near.poll_write(cx, rest.len(), |mut io| io.write(rest))).await.unwrap();
            }
        });
        drop(near);
        assert_eq!(reading.join().unwrap().unwrap(), bytes.len());
    }
}
