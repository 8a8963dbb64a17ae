//! Waiting for many descriptors at once, by epoll(7), and a way for other threads to end such a wait, by eventfd(2).
//!
//! Edge-triggered: a descriptor is added once, for both directions, and each change is told once. So nothing has to be said
//! to the kernel for a message. Knows no tasks.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// There may be something to read.
pub(crate) const READABLE: u8 = 1;
/// There may be room to write.
pub(crate) const WRITABLE: u8 = 2;
/// Nothing will ever have to be waited for to read: the other end is closed, or it has failed.
pub(crate) const READ_CLOSED: u8 = 4;
/// Nothing will ever have to be waited for to write: the other end is closed, or it has failed.
pub(crate) const WRITE_CLOSED: u8 = 8;

/// The key that no descriptor has.
const BELL: u64 = u64::MAX;
/// So many changes are told at a time.
const AT_A_TIME: usize = 256;

/// Descriptors that are waited for.
pub(crate) struct Poller {
    epoll: Epoll,
    bell: EventFd,
}

/// What a wait has brought.
pub(crate) struct Changes {
    events: Vec<EpollEvent>,
    length: usize,
}

impl Default for Changes {
    fn default() -> Changes {
        Changes { events: vec![EpollEvent::empty(); AT_A_TIME], length: 0 }
    }
}

impl Changes {
    /// The keys of descriptors, each with what has changed: some of [`READABLE`] and the others.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        let all = self.events[..self.length].iter().filter(|event| event.data() != BELL);
        all.map(|event| (event.data(), meaning(event.events())))
    }
}

/// The changes that epoll_ctl(2) speaks of. A socket whose peer sends no more can be read to its end at once; one that has
/// failed says so at each attempt.
fn meaning(events: EpollFlags) -> u8 {
    const MEANINGS: [(EpollFlags, u8); 5] = [
        (EpollFlags::EPOLLIN, READABLE),
        (EpollFlags::EPOLLOUT, WRITABLE),
        (EpollFlags::EPOLLRDHUP, READABLE | READ_CLOSED),
        (EpollFlags::EPOLLHUP, READABLE | READ_CLOSED | WRITABLE | WRITE_CLOSED),
        (EpollFlags::EPOLLERR, READABLE | READ_CLOSED | WRITABLE | WRITE_CLOSED),
    ];
    MEANINGS.iter().filter(|(flag, _)| events.intersects(*flag)).fold(0, |all, (_, meaning)| all | meaning)
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Each write is an edge of its own, so it is never read.
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        Ok(Poller { epoll, bell })
    }

    /// Tells the changes of a descriptor from now on, beginning with how it stands.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(both, key))?)
    }

    /// Tells them no longer. Closing the descriptor is not enough where it has a duplicate.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    /// Waits for changes, or until the time is over, or [`Poller::ring`]. None waits without limit.
    pub(crate) fn wait(&self, changes: &mut Changes, limit: Option<Duration>) {
        // Rounded up: a wait that is over too early would be repeated at once.
        let millis = |limit: Duration| i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let timeout =
            limit.map_or(EpollTimeout::NONE, |l| EpollTimeout::try_from(millis(l)).unwrap_or(EpollTimeout::MAX));
        changes.length = match self.epoll.wait(&mut changes.events, timeout) {
            Ok(length) => length,
            Err(Errno::EINTR) => 0,
            // EBADF, EFAULT, EINVAL (epoll_wait(2)): none can be while both exist.
            Err(_) => 0,
        };
    }

    /// Ends the wait of another thread, or the next one.
    pub(crate) fn ring(&self) {
        let _ = self.bell.write(1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn changes_are_told_once_and_the_bell_ends_a_wait() {
        let poller = Poller::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let mut changes = Changes::default();
        let mut now = |limit| {
            poller.wait(&mut changes, limit);
            changes.iter().collect::<Vec<_>>()
        };
        poller.add(near.as_fd(), 7).unwrap();
        assert_eq!(now(None), [(7, WRITABLE)]);
        assert_eq!(now(Some(Duration::ZERO)), []);
        far.write_all(b"some").unwrap();
        assert_eq!(now(None), [(7, READABLE | WRITABLE)]);
        near.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(now(Some(Duration::ZERO)), []);
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(now(None), [(7, READABLE | WRITABLE | READ_CLOSED)]);
        poller.ring();
        assert_eq!(now(None), []);
        poller.ring();
        assert_eq!(now(None), []);
        drop(far);
        assert_eq!(now(None)[0].1 & WRITE_CLOSED, WRITE_CLOSED);
        poller.remove(near.as_fd());
        assert_eq!(now(Some(Duration::from_millis(1))), []);
    }
}
