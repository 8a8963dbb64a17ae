//! A listening socket: opened with an error that says what to do, then a place where connections arrive.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use log::warn;

use super::conn::Conn;
use crate::model::config::{Listen, Unix};
use crate::model::exit::{Exit, Failure, plain};
use crate::rt::async_fd::AsyncFd;
use crate::sys::listen::{self, Socket, SocketFile};
use crate::sys::lock::Lock;
use crate::sys::{accounts, files};

/// Opens the listeners of an address, several where a name has several. Where its port is taken, so many of the `next` ones
/// are tried. `share` lets it overlap with one of our own, see [`listen::share_port`].
pub(crate) fn open(at: &Listen, next: u16, share: bool) -> Result<Vec<Socket>, Failure> {
    let opened = match at {
        Listen::Tcp { host, port: 0 } => listen::tcp(host, 0, share),
        Listen::Tcp { host, port } => tcp(host, *port, next, share),
        Listen::Unix(unix) => owner(unix).and_then(|owner| listen::unix(&unix.path, unix.mode, owner)).map(|s| vec![s]),
        Listen::Passed(_) => Err(io::Error::other("no socket of that name was passed by the service manager")),
    };
    opened.map_err(|e| {
        let exit = match e.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Unavailable,
        };
        let hint = match (exit, at.port()) {
            (Exit::NoPermission, Some(1..=1023)) => " (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
            _ if e.kind() == io::ErrorKind::AddrInUse => "; stop that one, or choose another by 'listen' or --listen",
            _ => "",
        };
        Failure::new(exit, format!("cannot listen on {at}: {}{hint}", plain(&e)))
    })
}

fn tcp(host: &str, port: u16, next: u16, share: bool) -> io::Result<Vec<Socket>> {
    let taken = match listen::tcp(host, port, share) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && next > 0 => plain(&e),
        outcome => return outcome,
    };
    for other in (port..=port.saturating_add(next)).skip(1) {
        match listen::tcp(host, other, share) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Ok(socket) => {
                warn!("{host}:{port}: {taken}; port {other} is used in its place (port_conflict)");
                return Ok(socket);
            }
            other => return other,
        }
    }
    let why = format!("{taken}, and the {next} ports after it are in use too (port_conflict)");
    Err(io::Error::new(io::ErrorKind::AddrInUse, why))
}

/// The user who is to have the file of a socket; None for the one who makes it.
fn owner(unix: &Unix) -> io::Result<Option<(u32, u32)>> {
    match (unix.user.as_deref(), unix.group.as_deref()) {
        (None, None) => Ok(None),
        (user, group) => accounts::find(user, group).map(|a| Some((a.uid, a.gid))).map_err(io::Error::other),
    }
}

/// Gives the file of a socket its mode and owner.
pub(crate) fn touch(unix: &Unix) -> Result<(), String> {
    let touched = owner(unix).and_then(|owner| files::touch_socket(&unix.path, unix.mode, owner));
    touched.map_err(|e| plain(&e))
}

/// A listening socket that is waited for.
pub(crate) enum Listener {
    Tcp(AsyncFd<TcpListener>),
    Unix(AsyncFd<UnixListener>, Lock<Option<SocketFile>>),
}

impl Listener {
    pub(crate) fn new(socket: Socket) -> io::Result<Listener> {
        Ok(match socket {
            Socket::Tcp(listener) => Listener::Tcp(AsyncFd::new(listener)?),
            Socket::Unix(listener, file) => Listener::Unix(AsyncFd::new(listener)?, Lock::new(file)),
        })
    }

    /// A connection that waits already.
    pub(crate) fn waiting(&self) -> Option<Conn> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.get_ref().accept().ok()?;
                Conn::tcp(stream.into()).ok()
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.get_ref().accept().ok()?;
                Conn::unix(stream.into()).ok()
            }
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Conn> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = poll_fn(|cx| listener.poll_take(cx, TcpListener::accept)).await?;
                Conn::tcp(stream.into())
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = poll_fn(|cx| listener.poll_take(cx, UnixListener::accept)).await?;
                Conn::unix(stream.into())
            }
        }
    }

    /// The real one, also where 0 was asked for; None for a Unix socket.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(listener) => listener.get_ref().local_addr().ok().map(|a| a.port()),
            Listener::Unix(..) => None,
        }
    }

    /// Lets its port be used by another socket of ours, or not any more ([`listen::share_port`]).
    pub(crate) fn share_port(&self, share: bool) {
        if let Listener::Tcp(listener) = self {
            // If it fails, so does the bind that asked for it, with an error of its own.
            let _ = listen::share_port(listener.get_ref(), share);
        }
    }

    /// The descriptor, and the file of a Unix socket that is ours with device and inode.
    pub(crate) fn parts(&self) -> (RawFd, Option<(PathBuf, u64, u64)>) {
        match self {
            Listener::Tcp(listener) => (listener.as_fd().as_raw_fd(), None),
            Listener::Unix(listener, file) => {
                let file = file.lock();
                let parts = file.as_ref().map(|f| f.parts()).map(|(path, dev, ino)| (path.to_owned(), dev, ino));
                (listener.as_fd().as_raw_fd(), parts)
            }
        }
    }

    /// New clients do not find it any more.
    pub(crate) fn close(&self) {
        if let Listener::Unix(_, file) = self {
            file.lock().take();
        }
    }
}
