//! Becoming a daemon, in the order of daemon(7), with a pipe that brings the outcome back to the caller.
//!
//! The parent returns only when the daemon has said that it serves, or why it does not. Nothing here may run once a
//! second thread exists.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, setsid};

use super::fds::{self, Inherited};
use super::signals;
use crate::model::config::Account;
use crate::model::exit::{Exit, Failure};

/// The end of the pipe that says how the start went. In the foreground there is no pipe.
#[derive(Debug)]
pub(crate) struct Readiness(Option<File>);

/// Who returns from [`fork_away`].
pub(crate) enum Side {
    /// The caller's process, with the daemon's last word: status and text.
    Caller(u8, String),
    Daemon(Readiness),
}

/// Steps 1 to 3 for every start: standard streams open, inherited descriptors (but those to `keep`) and signals put in
/// order.
///
/// Rust's runtime has opened 0 to 2 already where they were closed.
pub(crate) fn clean_slate(foreground: bool, keep: &[RawFd]) -> io::Result<()> {
    fds::inherited(if foreground { Inherited::MarkCloexec } else { Inherited::Close }, keep)?;
    signals::reset(false)?;
    // A file at the limit of RLIMIT_FSIZE is an error of write(2), as a full disk is, and no reason to die.
    signals::ignore(nix::sys::signal::Signal::SIGXFSZ);
    Ok(())
}

/// Stands before a word that is not the last one, where that has an exit code.
const PROGRESS: u8 = 0xff;

/// Forks twice with a new session in between. The caller's side waits for the daemon's last word, and passes on those
/// before it.
pub(crate) fn fork_away(progress: &dyn Fn(&str)) -> Result<Side, Failure> {
    let os = |doing: &str, e: nix::Error| Failure::new(Exit::Os, format!("cannot {doing}: {}", e.desc()));
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| os("make a pipe", e))?;
    // SAFETY: the process has a single thread.
    match unsafe { fork() }.map_err(|e| os("fork", e))? {
        ForkResult::Parent { child } => {
            drop(write);
            let _ = waitpid(child, None);
            Ok(hear(read, progress))
        }
        ForkResult::Child => {
            drop(read);
            let mut readiness = Readiness(Some(File::from(write)));
            if let Err(e) = setsid() {
                readiness.failed(&os("start a session", e));
                exit_now();
            }
            // SAFETY: still a single thread.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => Ok(Side::Daemon(readiness)),
                Ok(ForkResult::Parent { .. }) => exit_now(),
                Err(e) => {
                    readiness.failed(&os("fork", e));
                    exit_now()
                }
            }
        }
    }
}

/// _exit(2): nothing of the caller's buffers may be written twice.
fn exit_now() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// Hears the daemon's words: `progress` each that is not the last one.
fn hear(pipe: OwnedFd, progress: &dyn Fn(&str)) -> Side {
    let mut pipe = File::from(pipe);
    loop {
        match word(&mut pipe) {
            Ok((PROGRESS, text)) => progress(&text),
            Ok((code, text)) => return Side::Caller(code, text),
            Err(_) => {
                let why = "it died before it was ready, without a word; its log may say more".to_owned();
                return Side::Caller(Exit::Software.code(), why);
            }
        }
    }
}

/// One word of the daemon's: what it is, and its text.
fn word(pipe: &mut File) -> io::Result<(u8, String)> {
    let mut head = [0; 5];
    pipe.read_exact(&mut head)?;
    let [code, length @ ..] = head;
    let mut text = Vec::new();
    pipe.take(u32::from_le_bytes(length).into()).read_to_end(&mut text)?;
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}

/// umask and working directory: away from a mount that may have to be unmounted.
pub(crate) fn settle(mask: u32, foreground: bool) -> io::Result<()> {
    set_umask(mask);
    if !foreground {
        nix::unistd::chdir("/")?;
    }
    Ok(())
}

/// For the files that the daemon makes from now on.
pub(crate) fn set_umask(mask: u32) {
    umask(Mode::from_bits_truncate(mask));
}

impl Readiness {
    /// For a start in the foreground: only the log is told.
    pub(crate) fn foreground() -> Readiness {
        Readiness(None)
    }

    /// Says that the instance serves. False when the caller is gone: the start was abandoned.
    pub(crate) fn ready(&mut self, text: &str) -> bool {
        match self.0.take() {
            Some(mut pipe) => say(&mut pipe, 0, text).is_ok(),
            None => true,
        }
    }

    /// Says why it does not. True when a process waited to be told.
    pub(crate) fn failed(&mut self, failure: &Failure) -> bool {
        self.0.take().is_some_and(|mut pipe| say(&mut pipe, failure.exit.code(), &failure.text).is_ok())
    }

    /// Says what is waited for.
    pub(crate) fn waits(&mut self, text: &str) {
        if let Some(pipe) = &mut self.0 {
            let _ = say(pipe, PROGRESS, text);
        }
    }

    /// Whether the caller is still there; true where there was none.
    pub(crate) fn is_heard(&self) -> bool {
        let Some(pipe) = &self.0 else { return true };
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        // The other end of a pipe is closed: poll(2), POLLERR.
        let _ = poll(&mut fds, PollTimeout::ZERO);
        !fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
    }

    pub(crate) fn is_background(&self) -> bool {
        self.0.is_some()
    }
}

fn say(pipe: &mut File, code: u8, text: &str) -> io::Result<()> {
    let mut said = vec![code];
    said.extend_from_slice(&(text.len() as u32).to_le_bytes());
    said.extend_from_slice(text.as_bytes());
    pipe.write_all(&said)
}

/// Becomes the parent of every orphan below us.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// The environment of another user, for what the daemon and its children take from there. Call it while the process has
/// one thread.
pub(crate) fn set_home(account: &Account) {
    for (name, value) in
        [("HOME", account.home.as_os_str()), ("USER", account.name.as_ref()), ("LOGNAME", account.name.as_ref())]
    {
        // SAFETY: the process has a single thread.
        unsafe { std::env::set_var(name, value) };
    }
}

/// How many threads this process has.
pub(crate) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |d| d.count())
}

/// Whether this is the first process of its PID namespace: a container's init, which must not fork away.
pub(crate) fn is_init() -> bool {
    Pid::this().as_raw() == 1
}
