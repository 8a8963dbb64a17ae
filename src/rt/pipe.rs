//! Ends of pipes: read and written without blocking, by one task each.
//!
//! As traits, so that what reads lines or writes messages can be tried without a process. Knows bytes alone.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::task::{Context, Poll};

use async_io::Async;

/// An end that is read.
pub(crate) trait Input: Send + Sync {
    /// Reads what is there; 0 at the end, an error of the kind `WouldBlock` where nothing is.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Ready once there may be something to read.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Its descriptor, if it has one.
    fn fd(&self) -> Option<RawFd>;
}

/// An end that is written.
pub(crate) trait Output: Send + Sync {
    /// Writes as much as there is room for; an error of the kind `WouldBlock` where there is none.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Ready once there may be room.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Its descriptor, if it has one.
    fn fd(&self) -> Option<RawFd>;
}

impl Input for Async<File> {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.get_ref().read(buffer)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Async::poll_readable(self, cx)
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.as_fd().as_raw_fd())
    }
}

impl Output for Async<File> {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.get_ref().write(bytes)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Async::poll_writable(self, cx)
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.as_fd().as_raw_fd())
    }
}

/// Waits until there may be something to read.
pub(crate) async fn readable(input: &dyn Input) -> io::Result<()> {
    poll_fn(|cx| input.poll_readable(cx)).await
}

/// Writes some of the bytes, waiting for room: how many.
pub(crate) async fn write(output: &dyn Output, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match output.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => poll_fn(|cx| output.poll_writable(cx)).await?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
