//! A connection: bytes over TCP, perhaps through TLS, as hyper reads and writes them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use hyper::rt::ReadBufCursor;

use crate::rt::async_fd::AsyncFd;
use crate::sys::socket;

/// How much is read at a time through TLS, in bytes.
#[cfg(feature = "remote")]
const CHUNK: usize = 16 << 10;

/// A connection over TCP.
pub(super) struct Tcp(pub AsyncFd<OwnedFd>);

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buffer.len(), |fd| socket::receive(fd, buffer))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes.len(), |fd| socket::write(fd, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket::finish(&self.0))
    }
}

/// A connection of either kind.
pub(super) enum Stream {
    Plain(Tcp),
    #[cfg(feature = "remote")]
    Tls(Box<futures_rustls::client::TlsStream<Tcp>>),
}

impl Stream {
    /// The socket.
    pub(super) fn fd(&self) -> RawFd {
        match self {
            Stream::Plain(tcp) => tcp.0.as_fd().as_raw_fd(),
            #[cfg(feature = "remote")]
            Stream::Tls(tls) => tls.get_ref().0.0.as_fd().as_raw_fd(),
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => {
                let room = into.remaining();
                ready!(tcp.0.poll_read(cx, room, |fd| socket::receive_into(fd, &mut into)))?;
            }
            #[cfg(feature = "remote")]
            Stream::Tls(tls) => {
                let mut buffer = [0; CHUNK];
                let room = into.remaining().min(CHUNK);
                let n = ready!(Pin::new(tls).poll_read(cx, &mut buffer[..room]))?;
                into.put_slice(&buffer[..n]);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            #[cfg(feature = "remote")]
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            #[cfg(feature = "remote")]
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_close(cx),
            #[cfg(feature = "remote")]
            Stream::Tls(tls) => Pin::new(tls).poll_close(cx),
        }
    }
}
