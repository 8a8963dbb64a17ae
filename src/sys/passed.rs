//! What the process that started the program handed to it: sockets (sd_listen_fds(3)), a place for notifications (sd_notify(3)), a
//! descriptor for readiness (s6). Taken once, before anything else; the environment is cleared of it, so that no child
//! takes it for its own.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::listen::Socket;
use super::notify::Notifier;
use crate::model::exit::plain;

/// The first descriptor that is passed (sd_listen_fds(3), SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;
/// Where a process that is re-executed finds what it was before.
pub(crate) const HANDOVER: &str = "MCPDAEMON_HANDOVER";

/// Its value where the program is only asked whether it would understand.
pub(crate) const CHECK: &str = "check";

/// What was handed over at the start.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Sockets with their names.
    pub sockets: Vec<(String, OwnedFd)>,
    pub notifier: Option<Notifier>,
    /// What this process was before it re-executed its program.
    pub handover: Option<OwnedFd>,
    /// The program is to say whether it would understand that.
    pub check: bool,
}

impl Passed {
    /// Takes everything out of the environment. Call it while the process has one thread, and before any descriptor
    /// from 3 on was opened.
    pub(crate) fn take() -> Passed {
        let own = std::process::id().to_string();
        let var = |name: &str| std::env::var(name).ok();
        let mut passed = Passed { notifier: Notifier::from_environment(), ..Passed::default() };
        if var("LISTEN_PID").is_some_and(|pid| pid == own) {
            let count = var("LISTEN_FDS").and_then(|n| n.parse::<RawFd>().ok()).unwrap_or(0).clamp(0, 1024);
            let names = var("LISTEN_FDNAMES").unwrap_or_default();
            let mut names = names.split(':');
            for fd in FIRST..FIRST + count {
                let name = names.next().filter(|n| !n.is_empty()).unwrap_or("unknown").to_owned();
                passed.sockets.extend(own_fd(fd).map(|fd| (name, fd)));
            }
        }
        passed.check = var(HANDOVER).as_deref() == Some(CHECK);
        if let Some((pid, fd)) = var(HANDOVER).as_deref().and_then(|v| v.split_once(':'))
            && pid == own
        {
            passed.handover = fd.parse().ok().and_then(own_fd);
        }
        const NAMES: [&str; 7] =
            ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", HANDOVER];
        for name in NAMES {
            // SAFETY: the process has a single thread.
            unsafe { std::env::remove_var(name) };
        }
        passed
    }

    /// The descriptors that must stay open.
    pub(crate) fn fds(&self) -> Vec<RawFd> {
        let sockets = self.sockets.iter().map(|(_, fd)| fd.as_raw_fd());
        sockets
            .chain(self.handover.as_ref().map(AsRawFd::as_raw_fd))
            .chain(self.notifier.as_ref().map(Notifier::fd))
            .collect()
    }
}

/// Takes possession of a descriptor that another program left open for us; None if it is not open.
pub(crate) fn own_fd(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: only looks at the number.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and nothing in this program has it: descriptors that were passed are taken once.
    let fd = open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })?;
    let _ = fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    Some(fd)
}

/// A listening stream socket that was passed, or what is wrong with it.
pub(crate) fn listener(fd: OwnedFd) -> Result<Socket, String> {
    let wrong = |what: &str| Err(format!("it is {what}, and not a listening stream socket"));
    match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(_) => return wrong("a socket of another type"),
        Err(_) => return wrong("not a socket"),
    }
    if !getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false) {
        return wrong("not listening");
    }
    let address: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(|e| e.desc().to_owned())?;
    let socket = match address.family() {
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            let listener = TcpListener::from(fd);
            listener.set_nonblocking(true).map(|()| Socket::Tcp(listener))
        }
        Some(AddressFamily::Unix) => {
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true).map(|()| Socket::Unix(listener, None))
        }
        _ => return wrong("a socket of another family"),
    };
    socket.map_err(|e: io::Error| plain(&e))
}
