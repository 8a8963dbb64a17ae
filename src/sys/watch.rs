//! Waiting for something to happen in a folder, on a terminal or behind a pipe, without a thread and without a handler.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// A file of the folder was changed, or the time is over.
    Look,
    Signal(Signal),
    /// Standard output is not read any more.
    Unread,
}

/// What is waited for; by default only the end of the process that reads standard output.
#[derive(Default)]
pub(crate) struct Watch {
    /// None where the kernel has none left, or no such folder: then the time has to do.
    folder: Option<Inotify>,
    signals: Option<SignalFd>,
}

impl Watch {
    /// Watches the files of folders. The signals are taken from now on, and do what they do only by [`die_of`].
    pub(crate) fn new(folders: &[PathBuf], signals: &[Signal]) -> io::Result<Watch> {
        let signals = match signals {
            [] => None,
            list => {
                let set: SigSet = list.iter().copied().collect();
                set.thread_block()?;
                Some(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
            }
        };
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE;
        let folder = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).and_then(|inotify| {
            folders.iter().try_for_each(|folder| inotify.add_watch(folder, flags).map(drop))?;
            Ok(inotify)
        });
        Ok(Watch { folder: folder.ok(), signals })
    }

    pub(crate) fn wait(&self, limit: Duration) -> io::Result<Woken> {
        let out = io::stdout();
        // Standard output has no events but its end.
        let mut fds = vec![PollFd::new(out.as_fd(), PollFlags::empty())];
        fds.extend(self.signals.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.folder.as_ref().map(|f| PollFd::new(f.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Woken::Look),
            Err(e) => return Err(e.into()),
        }
        let unread = fds[0].revents().is_some_and(|r| r.intersects(PollFlags::POLLERR | PollFlags::POLLHUP));
        drop(fds);
        if let Some(signal) = self.signals.as_ref().and_then(|s| s.read_signal().ok().flatten()) {
            return Ok(Signal::try_from(signal.ssi_signo as i32).map_or(Woken::Look, Woken::Signal));
        }
        if unread {
            return Ok(Woken::Unread);
        }
        // What happened does not count, only that something did.
        while self.folder.as_ref().is_some_and(|f| f.read_events().is_ok_and(|events| !events.is_empty())) {}
        Ok(Woken::Look)
    }
}

/// Lets a signal do to this process what it does by itself: end it, so that the caller sees by what, or stop it.
/// Returns when the process is continued.
pub(crate) fn die_of(signal: Signal) -> io::Result<()> {
    let set = SigSet::from(signal);
    set.thread_unblock()?;
    raise(signal)?;
    set.thread_block()?;
    Ok(())
}

/// Lines and columns of the terminal at standard output.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request fills a winsize, which outlives the call.
    let done = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
