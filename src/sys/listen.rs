//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind as bind_fd, listen, setsockopt, socket, sockopt,
};

use super::process;
use crate::model::config::Listen;
use crate::model::exit::plain;

/// Connections that may wait for us, also while an upgrade is under way. The kernel's own limit is net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// A bound and listening socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds and listens. The error says who holds a taken address.
pub fn open(at: &Listen) -> Result<Socket, io::Error> {
    match at {
        Listen::Tcp { host, port } => tcp(host, *port).map(Socket::Tcp),
        Listen::Unix(path) => unix(path).map(Socket::Unix),
    }
}

fn tcp(host: &str, port: u16) -> io::Result<TcpListener> {
    let address: SocketAddr =
        (host, port).to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    let bound = bind_fd(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address));
    match bound.and_then(|()| listen(&fd, Backlog::new(BACKLOG)?)) {
        Ok(()) => Ok(TcpListener::from(fd)),
        Err(nix::errno::Errno::EADDRINUSE) => {
            let holder = process::port_holder(port).unwrap_or_else(|| "a process of another user".to_owned());
            Err(io::Error::new(io::ErrorKind::AddrInUse, format!("the address is in use by {holder}")))
        }
        Err(e) => Err(e.into()),
    }
}

/// A socket file that a dead process left is replaced; one that somebody serves is not.
fn unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is a file of another kind at this path"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

impl Socket {
    /// Where it listens, as a URL's beginning; the port is the real one where 0 was asked for.
    pub fn url(&self) -> String {
        match self {
            Socket::Tcp(l) => match l.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(e) => format!("tcp ({})", plain(&e)),
            },
            Socket::Unix(l) => match l.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned)) {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix socket".to_owned(),
            },
        }
    }
}
