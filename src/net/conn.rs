//! A client's socket: TCP or Unix, fair to others, with a deadline for the head of a request.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::sys::listen::{self, Peer};
use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncWrite};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

/// Reads that succeed at once for this long are followed by one through the reactor: async-std has no cooperative
/// budget, and one flooding client would starve the others.
const SLICE: Duration = Duration::from_micros(200);

/// A peer that takes nothing of what is written to it for this long is given up.
const STUCK: Duration = Duration::from_secs(60);

/// A connection that was accepted.
pub(crate) struct Conn {
    io: Io,
    /// Read before everything else.
    early: Vec<u8>,
    slice: Option<Instant>,
    heard: Arc<AtomicU64>,
    /// Something could not be written yet.
    blocked: Arc<AtomicBool>,
    /// Since when nothing could be written.
    stuck: Option<Timer>,
}

enum Io {
    Tcp(Async<TcpStream>),
    Unix(Async<UnixStream>),
}

impl Conn {
    /// Small messages must not wait for a full segment (tcp(7), TCP_NODELAY).
    pub(crate) fn tcp(stream: Async<TcpStream>) -> io::Result<Conn> {
        stream.get_ref().set_nodelay(true)?;
        Ok(Conn::new(Io::Tcp(stream)))
    }

    pub(crate) fn unix(stream: Async<UnixStream>) -> Conn {
        Conn::new(Io::Unix(stream))
    }

    fn new(io: Io) -> Conn {
        Conn { io, early: Vec::new(), slice: None, heard: Arc::default(), blocked: Arc::default(), stuck: None }
    }

    /// Our own address; None for a Unix socket.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        match &self.io {
            Io::Tcp(s) => s.get_ref().local_addr().ok().map(|a| a.ip().to_canonical()),
            Io::Unix(_) => None,
        }
    }

    /// The address of the other end; None for this host, on which many share one.
    pub(crate) fn remote_ip(&self) -> Option<IpAddr> {
        match &self.io {
            Io::Tcp(s) => s.get_ref().peer_addr().ok().map(|a| a.ip().to_canonical()).filter(|ip| !ip.is_loopback()),
            Io::Unix(_) => None,
        }
    }

    /// A connection that another process has accepted, and from which it has read that much beyond what it used.
    pub(crate) fn adopt(fd: OwnedFd, is_unix: bool, early: Vec<u8>) -> io::Result<Conn> {
        let conn = match is_unix {
            true => Conn::unix(Async::new(UnixStream::from(fd))?),
            false => Conn::tcp(Async::new(TcpStream::from(fd))?)?,
        };
        Ok(Conn { early, ..conn })
    }

    /// Who is at the other end of a Unix socket, as the kernel says it.
    pub(crate) fn peer(&self) -> Option<Peer> {
        match &self.io {
            Io::Tcp(_) => None,
            Io::Unix(s) => listen::peer(s.get_ref()).ok(),
        }
    }

    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.io, Io::Unix(_))
    }

    /// The descriptor, which stays its own.
    pub(crate) fn fd(&self) -> RawFd {
        match &self.io {
            Io::Tcp(s) => s.get_ref().as_raw_fd(),
            Io::Unix(s) => s.get_ref().as_raw_fd(),
        }
    }

    /// Whether something could not be written yet.
    pub(crate) fn blocked(&self) -> Arc<AtomicBool> {
        self.blocked.clone()
    }

    /// Waits until the peer has closed its side, reading nothing. For ever, once it has sent something.
    pub(crate) async fn gone(&self) {
        loop {
            let mut byte = [0];
            match recv(self.fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return,
                Ok(_) => return std::future::pending().await,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return,
            }
            if std::future::poll_fn(|cx| self.poll_readable(cx)).await.is_err() {
                return;
            }
        }
    }

    /// Counts reads that brought something.
    pub(crate) fn heard(&self) -> Arc<AtomicU64> {
        self.heard.clone()
    }

    /// Waits until something has come, or nothing more will.
    pub(crate) async fn readable(&self) {
        let _ = std::future::poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// What cannot be served is told in a few bytes, without waiting for the client.
    pub(crate) fn refuse(&self, response: &str) {
        let _ = match &self.io {
            Io::Tcp(s) => s.get_ref().write(response.as_bytes()),
            Io::Unix(s) => s.get_ref().write(response.as_bytes()),
        };
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Tcp(s) => s.poll_readable(cx),
            Io::Unix(s) => s.poll_readable(cx),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Tcp(s) => s.poll_writable(cx),
            Io::Unix(s) => s.poll_writable(cx),
        }
    }

    fn poll_writing(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&Io) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(&self.io) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.poll_writable(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => {
                        self.blocked.store(true, Relaxed);
                        // A peer that reads nothing at all must not hold its connection for ever.
                        let stuck = self.stuck.get_or_insert_with(|| Timer::after(STUCK));
                        return Pin::new(stuck).poll(cx).map(|_| Err(io::ErrorKind::TimedOut.into()));
                    }
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    self.blocked.store(false, Relaxed);
                    self.stuck = None;
                    return Poll::Ready(other);
                }
            }
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.len());
            buf[..n].copy_from_slice(&self.early[..n]);
            self.early.drain(..n);
            self.heard.fetch_add(1, Relaxed);
            return Poll::Ready(Ok(n));
        }
        if self.slice.is_some_and(|since| since.elapsed() > SLICE) {
            ready!(self.poll_readable(cx))?;
            self.slice = None;
        }
        loop {
            let read = match &self.io {
                Io::Tcp(s) => s.get_ref().read(buf),
                Io::Unix(s) => s.get_ref().read(buf),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.slice = None;
                    ready!(self.poll_readable(cx))?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) => {
                    self.slice.get_or_insert_with(Instant::now);
                    if n > 0 {
                        self.heard.fetch_add(1, Relaxed);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |io| match io {
            Io::Tcp(s) => s.get_ref().write(buf),
            Io::Unix(s) => s.get_ref().write(buf),
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |io| match io {
            Io::Tcp(s) => s.get_ref().write_vectored(bufs),
            Io::Unix(s) => s.get_ref().write_vectored(bufs),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = match &self.io {
            Io::Tcp(s) => s.get_ref().shutdown(std::net::Shutdown::Write),
            Io::Unix(s) => s.get_ref().shutdown(std::net::Shutdown::Write),
        };
        Poll::Ready(match shut {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        })
    }
}

/// hyper's timer for the head of a request. hyper starts it when it begins to wait for one, be the connection idle or
/// not; so it runs for the idle time first, and for `head` from the first byte on.
#[derive(Clone)]
pub(super) struct HeadTimer {
    pub heard: Arc<AtomicU64>,
    pub head: Duration,
}

struct HeadSleep {
    timer: Timer,
    heard: Arc<AtomicU64>,
    before: u64,
    head: Duration,
    begun: bool,
}

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(HeadSleep {
            timer: Timer::at(deadline),
            heard: self.heard.clone(),
            before: self.heard.load(Relaxed),
            head: self.head,
            begun: false,
        })
    }
}

impl hyper::rt::Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.begun && self.heard.load(Relaxed) != self.before {
            self.begun = true;
            let head = self.head;
            self.timer.set_after(head);
        }
        Pin::new(&mut self.timer).poll(cx).map(drop)
    }
}
