//! A client's socket: TCP or Unix, and fair to others.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_lite::{AsyncRead, AsyncWrite, FutureExt};
use hyper::rt::ReadBufCursor;

use crate::rt::async_fd::AsyncFd;
use crate::rt::timer::Timer;
use crate::rt::wait::recent;
use crate::sys::listen::{self, Peer};
use crate::sys::{fds, socket};

/// Who sends without our having to wait for it for this long lets the others have their turn: one flooding client would
/// starve them.
const SLICE: Duration = Duration::from_micros(200);

/// A peer that takes nothing of what is written to it for this long is given up.
const STUCK: Duration = Duration::from_secs(60);

/// How much is read at a time for who has little room, in bytes: a long message comes in one piece.
const CHUNK: usize = 128 << 10;

thread_local! {
    /// A buffer of [`CHUNK`] bytes that no connection uses at the moment.
    static SPARE: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// A buffer of [`CHUNK`] bytes.
fn spare() -> Box<[u8]> {
    SPARE.take().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
}

/// What was read and did not fit into its reader's buffer.
struct Rest {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Rest {
    /// Hands out as much as fits; what is left then.
    fn hand_out(mut self, into: &mut [u8]) -> (usize, Option<Rest>) {
        let n = into.len().min(self.end - self.start);
        into[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.start += n;
        if self.start < self.end {
            return (n, Some(self));
        }
        SPARE.set(Some(self.buffer));
        (n, None)
    }
}

/// A connection that was accepted.
pub(crate) struct Conn {
    io: AsyncFd<OwnedFd>,
    is_unix: bool,
    /// Read before everything else.
    early: Bytes,
    /// Read, and before everything that will be.
    rest: Option<Rest>,
    /// Since when nothing had to be waited for.
    slice: Option<Instant>,
    heard: Arc<AtomicU64>,
    /// Something could not be written yet.
    blocked: Arc<AtomicBool>,
    /// Since when nothing could be written.
    stuck: Option<Timer>,
}

impl Conn {
    pub(crate) fn tcp(fd: OwnedFd) -> io::Result<Conn> {
        socket::set_nodelay(fd.as_fd())?;
        Conn::new(fd, false)
    }

    pub(crate) fn unix(fd: OwnedFd) -> io::Result<Conn> {
        Conn::new(fd, true)
    }

    fn new(fd: OwnedFd, is_unix: bool) -> io::Result<Conn> {
        let io = AsyncFd::new(fd)?;
        let (heard, blocked) = (Arc::default(), Arc::default());
        Ok(Conn { io, is_unix, early: Bytes::new(), rest: None, slice: None, heard, blocked, stuck: None })
    }

    /// Our own address; None for a Unix socket.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        socket::local_ip(&self.io)
    }

    /// The address of the other end; None for this host, on which many share one.
    pub(crate) fn remote_ip(&self) -> Option<IpAddr> {
        socket::remote_ip(&self.io).filter(|ip| !ip.is_loopback())
    }

    /// What was read and not used is read once more, before everything else.
    pub(super) fn give_back(&mut self, unused: &[u8]) {
        self.early = [unused, &self.early].concat().into();
    }

    /// The socket alone, and what was read and not used.
    pub(super) fn release(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        Ok((fds::duplicate(self.fd())?, self.early.into()))
    }

    /// Whether there is something to be read, or nothing more will be.
    pub(super) fn has_something(&self) -> bool {
        !self.is_handed_out() || socket::is_closed_by_peer(&self.io).is_ok()
    }

    /// Shows what has come: `look` says how much of it is used, and what it is. The rest is for who reads next.
    pub(super) fn poll_look<T>(
        &mut self,
        cx: &mut Context<'_>,
        look: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<T>> {
        if !self.early.is_empty() {
            if self.has_had_its_turn(cx) {
                return Poll::Pending;
            }
            self.heard.fetch_add(1, Relaxed);
            let (used, found) = look(&self.early);
            self.slice.get_or_insert_with(recent);
            self.use_up(used);
            return Poll::Ready(Ok(found));
        }
        let mut buffer = None;
        let received = self.poll_receive(cx, CHUNK, |fd| socket::receive(fd, buffer.get_or_insert_with(spare)));
        let shown = match (&received, &buffer) {
            (Poll::Ready(Ok(0)), _) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            (Poll::Ready(Ok(end)), Some(buffer)) => {
                let (used, found) = look(&buffer[..*end]);
                self.early = Bytes::copy_from_slice(&buffer[used..*end]);
                Poll::Ready(Ok(found))
            }
            _ => received.map(|outcome| outcome.and(Err(io::ErrorKind::UnexpectedEof.into()))),
        };
        if buffer.is_some() {
            SPARE.set(buffer);
        }
        shown
    }

    /// So much of what was read before is used.
    fn use_up(&mut self, used: usize) {
        self.early.advance(used);
        if self.early.is_empty() {
            // The buffer goes with it.
            self.early = Bytes::new();
        }
    }

    /// Whether the others have their turn first.
    fn has_had_its_turn(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.slice.is_some_and(|since| since.elapsed() > SLICE);
        if over {
            self.slice = None;
            cx.waker().wake_by_ref();
        }
        over
    }

    /// What the work brings, or None once the peer has closed its side.
    pub(super) async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let gone = async {
            self.gone().await;
            None
        };
        async { Some(work.await) }.or(gone).await
    }

    /// A connection that another process has accepted, and from which it has read that much beyond what it used.
    pub(crate) fn adopt(fd: OwnedFd, is_unix: bool, early: Vec<u8>) -> io::Result<Conn> {
        let conn = if is_unix { Conn::unix(fd)? } else { Conn::tcp(fd)? };
        Ok(Conn { early: early.into(), ..conn })
    }

    /// Who is at the other end of a Unix socket, as the kernel says it.
    pub(crate) fn peer(&self) -> Option<Peer> {
        if self.is_unix { listen::peer(&self.io).ok() } else { None }
    }

    pub(crate) fn is_unix(&self) -> bool {
        self.is_unix
    }

    /// The descriptor, which stays its own.
    pub(crate) fn fd(&self) -> RawFd {
        self.io.as_fd().as_raw_fd()
    }

    /// Whether something could not be written yet.
    pub(crate) fn blocked(&self) -> Arc<AtomicBool> {
        self.blocked.clone()
    }

    /// Waits until the peer has closed its side, reading nothing. For ever, once it has sent something.
    pub(crate) async fn gone(&self) {
        let closed = poll_fn(|cx| self.io.poll_take(cx, socket::is_closed_by_peer)).await;
        if closed.is_ok_and(|closed| !closed) {
            std::future::pending().await
        }
    }

    /// All that was read of it is with its reader.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.early.is_empty() && self.rest.is_none()
    }

    /// Counts reads that brought something.
    pub(crate) fn heard(&self) -> Arc<AtomicU64> {
        self.heard.clone()
    }

    /// Waits until something has come, or nothing more will.
    pub(crate) async fn readable(&self) {
        let _ = poll_fn(|cx| self.io.poll_take(cx, socket::is_closed_by_peer)).await;
    }

    /// What cannot be served is told in a few bytes, without waiting for the client.
    pub(crate) fn refuse(&self, response: &str) {
        let _ = socket::write(&self.io, response.as_bytes());
    }

    /// Reads up to `room` bytes from the socket by `receive`.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        receive: impl FnMut(&OwnedFd) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.io.poll_readable(cx).is_pending() {
            self.slice = None;
            return Poll::Pending;
        }
        if self.has_had_its_turn(cx) {
            return Poll::Pending;
        }
        let read = ready!(self.io.poll_read(cx, room, receive));
        self.slice.get_or_insert_with(recent);
        if read.as_ref().is_ok_and(|n| *n > 0) {
            self.heard.fetch_add(1, Relaxed);
        }
        Poll::Ready(read)
    }

    /// Takes up to `room` bytes of what was read before.
    fn take_early(&mut self, room: usize) -> Option<Bytes> {
        if self.early.is_empty() {
            return None;
        }
        self.heard.fetch_add(1, Relaxed);
        let taken = self.early.slice(..room.min(self.early.len()));
        self.use_up(taken.len());
        Some(taken)
    }

    fn poll_writing(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl FnMut(&OwnedFd) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let written = self.io.poll_write(cx, length, write);
        if written.is_pending() {
            self.blocked.store(true, Relaxed);
            // A peer that reads nothing at all must not hold its connection for ever.
            let stuck = self.stuck.get_or_insert_with(|| Timer::after(STUCK));
            return Pin::new(stuck).poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.blocked.store(false, Relaxed);
        self.stuck = None;
        written
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(early) = self.take_early(buf.len()) {
            buf[..early.len()].copy_from_slice(&early);
            return Poll::Ready(Ok(early.len()));
        }
        let rest = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let mut buffer = None;
                let received = self.poll_receive(cx, CHUNK, |fd| socket::receive(fd, buffer.get_or_insert_with(spare)));
                match (received, buffer) {
                    (Poll::Ready(Ok(end)), Some(buffer)) => Rest { buffer, start: 0, end },
                    (received, buffer) => {
                        // Mostly it was not needed, and the spare one stays.
                        if buffer.is_some() {
                            SPARE.set(buffer);
                        }
                        return received;
                    }
                }
            }
        };
        let (n, rest) = rest.hand_out(buf);
        self.rest = rest;
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, buf.len(), |fd| socket::write(fd, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket::finish(&self.io))
    }
}

impl hyper::rt::Read for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if let Some(early) = self.take_early(buf.remaining()) {
            buf.put_slice(&early);
            return Poll::Ready(Ok(()));
        }
        self.poll_receive(cx, buf.remaining(), |fd| socket::receive_into(fd, &mut buf)).map_ok(drop)
    }
}

impl hyper::rt::Write for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_close(self, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bufs = &bufs[..bufs.len().min(socket::PIECES)];
        let length = bufs.iter().map(|b| b.len()).sum();
        self.poll_writing(cx, length, |fd| socket::write_pieces(fd, bufs))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::task::Waker;

    use super::*;

    #[test]
    fn who_has_sent_much_at_once_lets_others_have_their_turn_again_and_again() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut conn = Conn::unix(near.into()).unwrap();
        conn.give_back(&[7; 200]);
        let (mut turns, mut cx) = (0, Context::from_waker(Waker::noop()));
        while !conn.is_handed_out() {
            let begin = Instant::now();
            let looked = conn.poll_look(&mut cx, |bytes| {
                while begin.elapsed() < SLICE / 4 {}
                (1, bytes.len())
            });
            turns += usize::from(looked.is_pending());
        }
        assert!(turns > 10, "{turns} turns for others");
        assert_eq!(conn.early.len(), 0);
    }
}
