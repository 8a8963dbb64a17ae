//! Listening sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind as bind_fd, connect, listen,
    setsockopt, socket, sockopt,
};

use super::{files, process};
use crate::model::exit::plain;

/// Connections that may wait for us, also while an upgrade is under way. The kernel's own limit is net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// A bound and listening socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    /// With its file, unless that is another's.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a Unix socket, which goes with its listener.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a file that another process has put in its place is not ours.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds all addresses of a host and listens; port 0 lets the kernel choose one for all of them. The error says who holds a
/// taken address. Addresses that this machine has not are left out, as long as there is one that it has.
///
/// With `share`, a socket of our own that was told to [`share_port`] is not in the way.
pub(crate) fn tcp(host: &str, port: u16, share: bool) -> io::Result<Vec<Socket>> {
    let addresses = addresses(host, port)?;
    let mut tries = 0;
    loop {
        match bind_all(&addresses, share) {
            // The port that the kernel chose for one address can be taken at another.
            Err(e) if port == 0 && tries < TRIES && e.kind() == io::ErrorKind::AddrInUse => tries += 1,
            outcome => return outcome,
        }
    }
}

/// How often another port is asked for.
const TRIES: u32 = 16;

/// The addresses of a host, none twice. That of this machine itself is both loopback addresses, whatever a file or a server
/// of names says of it (RFC 6761 section 6.3).
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == "localhost" {
        let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.into_iter().map(|ip| (ip, port).into()).collect());
    }
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in (host, port).to_socket_addrs()? {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

fn bind_all(addresses: &[SocketAddr], share: bool) -> io::Result<Vec<Socket>> {
    let (mut sockets, mut missing, mut port) = (Vec::new(), None, None);
    for address in addresses {
        let mut address = *address;
        address.set_port(port.unwrap_or(address.port()));
        match bind_one(address, addresses.len() > 1, share) {
            Ok(listener) => {
                port = Some(listener.local_addr()?.port());
                sockets.push(Socket::Tcp(listener));
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) => missing = Some(e),
            Err(e) => return Err(e),
        }
    }
    match missing {
        Some(e) if sockets.is_empty() => Err(e),
        _ if sockets.is_empty() => Err(io::Error::other("the name has no address")),
        _ => Ok(sockets),
    }
}

/// Binds one address; where it is one of `several`, an error names it.
fn bind_one(address: SocketAddr, several: bool, share: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    setsockopt(&fd, sockopt::ReusePort, &share)?;
    let bound = bind_fd(fd.as_raw_fd(), &SockaddrStorage::from(address));
    match bound.and_then(|()| listen(&fd, Backlog::new(BACKLOG)?)) {
        Ok(()) => {
            // Its purpose is served.
            setsockopt(&fd, sockopt::ReusePort, &false)?;
            Ok(TcpListener::from(fd))
        }
        Err(Errno::EADDRINUSE) => {
            let holder = process::port_holder(address.port()).unwrap_or_else(|| "another process".to_owned());
            let which = if several { format!(" {address}") } else { String::new() };
            Err(io::Error::new(io::ErrorKind::AddrInUse, format!("the address{which} is in use by {holder}")))
        }
        Err(e) => Err(e.into()),
    }
}

/// Whether a second socket of this user may be bound to the port of one that listens, for the moment in which that
/// happens (socket(7), SO_REUSEPORT; Linux, inet_bind_conflict). The kernel asks it of both; but where both have
/// SO_REUSEADDR, a listening one is always in the way, so the old one gives that up meanwhile. The new one cannot, or
/// the connections that the old one accepted would be in the way.
pub(crate) fn share_port(listening: &impl AsFd, share: bool) -> io::Result<()> {
    setsockopt(listening, sockopt::ReuseAddr, &!share)?;
    Ok(setsockopt(listening, sockopt::ReusePort, &share)?)
}

/// A socket file that a dead process left is replaced; one that a process serves is not. It gets a mode, and an owner if
/// one is given.
pub(crate) fn unix(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Socket> {
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is a file of another kind at this path"));
        }
        // Without waiting: the process that serves it may be too busy to accept (unix(7): EAGAIN).
        let probe =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        if connect(probe.as_raw_fd(), &UnixAddr::new(path)?) != Err(Errno::ECONNREFUSED) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let meta = std::fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (meta.dev(), meta.ino()) };
    listener.set_nonblocking(true)?;
    files::touch_socket(path, mode, owner)?;
    Ok(Socket::Unix(listener, Some(file)))
}

/// Who is at the other end of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub uid: u32,
    /// Its group and all supplementary ones.
    pub groups: Vec<u32>,
}

/// Who was at the other end of a Unix socket when it was connected (unix(7), SO_PEERCRED and SO_PEERGROUPS).
pub(crate) fn peer(socket: &impl AsFd) -> io::Result<Peer> {
    let who = nix::sys::socket::getsockopt(socket, sockopt::PeerCredentials)?;
    let mut groups = vec![0u32; 1024];
    let mut bytes = libc::socklen_t::try_from(std::mem::size_of_val(groups.as_slice())).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the buffer has as many bytes as are said to be there; the kernel writes no more and says how many.
    let done =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &mut bytes) };
    groups.truncate(if done == 0 { bytes as usize / std::mem::size_of::<u32>() } else { 0 });
    groups.push(who.gid());
    Ok(Peer { uid: who.uid(), groups })
}

impl SocketFile {
    /// Path, device and inode.
    pub(crate) fn parts(&self) -> (&Path, u64, u64) {
        (&self.path, self.identity.0, self.identity.1)
    }

    /// The file of a socket that the program before has bound.
    pub(crate) fn adopt(path: PathBuf, device: u64, inode: u64) -> SocketFile {
        SocketFile { path, identity: (device, inode) }
    }
}

impl Socket {
    /// Reachable from this machine only.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Socket::Tcp(l) => l.local_addr().is_ok_and(|a| a.ip().to_canonical().is_loopback()),
            Socket::Unix(..) => true,
        }
    }

    /// Where it listens, as a URL's beginning; the port is the real one where 0 was asked for.
    pub(crate) fn url(&self) -> String {
        match self {
            Socket::Tcp(l) => match l.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(e) => format!("tcp ({})", plain(&e)),
            },
            Socket::Unix(l, _) => match l.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned)) {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix socket".to_owned(),
            },
        }
    }
}
