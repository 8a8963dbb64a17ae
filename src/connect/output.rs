//! The client's side: lines on standard output, without ever waiting for a client that does not read, which may wait for us
//! to read what it says.
//!
//! The file may be shared with others, so it is not made non-blocking.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::write;

/// A pipe that poll(2) calls writable takes so many bytes without blocking (pipe(7), PIPE_BUF).
const PIECE: usize = 4096;

/// So much that was written is kept at most, in bytes.
const PASSED: usize = 1 << 20;

/// What standard output is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    Pipe,
    /// A file or a terminal.
    Other,
}

/// Standard output, and what it has not taken yet.
pub(super) struct Output {
    kind: Kind,
    waiting: Vec<u8>,
    done: usize,
}

impl Output {
    pub(super) fn new() -> Output {
        let kind = fstat(io::stdout()).map_or(SFlag::empty(), |s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
        let kind = match kind {
            SFlag::S_IFSOCK => Kind::Socket,
            SFlag::S_IFIFO => Kind::Pipe,
            _ => Kind::Other,
        };
        Output { kind, waiting: Vec::new(), done: 0 }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, text: &str) {
        // A line break between tokens is none of a message's own.
        self.waiting.extend(text.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        self.waiting.push(b'\n');
    }

    /// How much waits, in bytes.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() - self.done
    }

    /// Writes what the client takes.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.waiting() > 0 {
            match self.write() {
                Ok(n) => self.done += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // What was taken goes, also where something is always left.
        if self.done > PASSED {
            self.waiting.drain(..self.done);
            self.done = 0;
        }
        if self.waiting() == 0 {
            self.waiting.clear();
            self.done = 0;
            // A long message leaves its room to others.
            self.waiting.shrink_to(64 << 10);
        }
        Ok(())
    }

    fn write(&self) -> io::Result<usize> {
        let (stdout, rest) = (io::stdout(), &self.waiting[self.done..]);
        Ok(match self.kind {
            Kind::Socket => send(stdout.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?,
            Kind::Pipe => {
                let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(Errno::EAGAIN.into());
                }
                write(&stdout, &rest[..rest.len().min(PIECE)])?
            }
            Kind::Other => write(&stdout, rest)?,
        })
    }
}
