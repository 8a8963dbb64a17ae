//! Ends of pipes: read and written without blocking, by one task each.
//!
//! As traits, so that what reads lines or writes messages can be tried without a process. Knows bytes alone.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::task::{Context, Poll};

use super::async_fd::AsyncFd;
use crate::sys::fds;

/// An end that is read.
pub(crate) trait Input: Send + Sync {
    /// Reads what is there, once something is; 0 at the end.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Its descriptor, if it has one.
    fn fd(&self) -> Option<RawFd>;

    /// Lets the pipe hold more.
    fn widen(&self) {}
}

/// An end that is written.
pub(crate) trait Output: Send + Sync {
    /// Writes as much as there is room for, once there is some.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Its descriptor, if it has one.
    fn fd(&self) -> Option<RawFd>;

    /// Lets the pipe hold more.
    fn widen(&self) {}
}

impl Input for AsyncFd<File> {
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        AsyncFd::poll_read(self, cx, buffer.len(), |mut file| file.read(buffer))
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.as_fd().as_raw_fd())
    }

    fn widen(&self) {
        fds::widen_pipe(self.as_fd());
    }
}

impl Output for AsyncFd<File> {
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncFd::poll_write(self, cx, bytes.len(), |mut file| file.write(bytes))
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.as_fd().as_raw_fd())
    }

    fn widen(&self) {
        fds::widen_pipe(self.as_fd());
    }
}

/// Reads what is there, waiting for it: how much, and whether it was waited for.
pub(crate) async fn read(input: &dyn Input, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut waited = false;
    let read = poll_fn(|cx| {
        let read = input.poll_read(cx, buffer);
        waited |= read.is_pending();
        read
    });
    read.await.map(|n| (n, waited))
}

/// Reads to the end.
pub(crate) async fn read_to_end(input: &dyn Input, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4 << 10];
    loop {
        match read(input, &mut buffer).await?.0 {
            0 => return Ok(()),
            n => into.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Writes some of the bytes, waiting for room: how many.
pub(crate) async fn write(output: &dyn Output, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| output.poll_write(cx, bytes)).await
}

/// Writes all of the bytes.
pub(crate) async fn write_all(output: &dyn Output, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(output, bytes).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => bytes = &bytes[n..],
        }
    }
    Ok(())
}
