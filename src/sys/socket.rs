//! Connected sockets, of TCP or Unix: what is read and written without waiting, and who is where.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hyper::rt::ReadBufCursor;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, connect, getpeername, getsockname,
    getsockopt, recv, send, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::uio::writev;

/// The most pieces that [`write_pieces`] takes (writev(2), IOV_MAX).
pub(crate) const PIECES: usize = 1024;

/// Lets small messages not wait for a full segment (tcp(7), TCP_NODELAY).
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setsockopt(&fd, sockopt::TcpNoDelay, &true)?)
}

/// Begins to connect to an address over TCP, without waiting for it (connect(2), EINPROGRESS).
pub(crate) fn connect_soon(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(e) => Err(e.into()),
    }
}

/// Whether a connection that was begun is there: an error of the kind `WouldBlock` while it is not.
pub(crate) fn is_connected(fd: &impl AsFd) -> io::Result<()> {
    match getsockopt(fd, sockopt::SocketError)? {
        0 => {}
        code => return Err(io::Error::from_raw_os_error(code)),
    }
    match getpeername::<SockaddrStorage>(fd.as_fd().as_raw_fd()) {
        Ok(_) => Ok(()),
        Err(Errno::ENOTCONN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(e) => Err(e.into()),
    }
}

/// Lets the kernel find out that the peer of a silent connection is gone, within a minute (tcp(7), TCP_KEEPIDLE).
pub(crate) fn keep_alive(fd: BorrowedFd<'_>) -> io::Result<()> {
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &30)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &10)?;
    Ok(setsockopt(&fd, sockopt::TcpKeepCount, &3)?)
}

/// Reads what is there; 0 at the end.
pub(crate) fn receive(fd: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(fd.as_fd().as_raw_fd(), buffer, MsgFlags::empty())?)
}

/// Reads what is there into a buffer that need not have been cleared; 0 at the end.
pub(crate) fn receive_into(fd: &impl AsFd, buffer: &mut ReadBufCursor<'_>) -> io::Result<usize> {
    // SAFETY: the bytes are only handed to recv(2), which writes to them and reads none.
    let free: &mut [MaybeUninit<u8>] = unsafe { buffer.as_mut() };
    // SAFETY: the pointer and the length are those of one slice, which is exclusively ours for the length of the call.
    let read = unsafe { libc::recv(fd.as_fd().as_raw_fd(), free.as_mut_ptr().cast(), free.len(), 0) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: recv(2) has written so many bytes at the beginning of what was free.
    unsafe { buffer.advance(read) };
    Ok(read)
}

/// Writes what there is room for.
pub(crate) fn write(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(fd.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
}

/// Writes what there is room for, of at most [`PIECES`] pieces.
pub(crate) fn write_pieces(fd: &impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    // Unlike send(2), it has no flag against SIGPIPE, which Rust ignores.
    Ok(writev(fd, pieces)?)
}

/// Whether the peer has closed its side: false once it has sent something, an error of the kind `WouldBlock` before that.
pub(crate) fn is_closed_by_peer(fd: &impl AsFd) -> io::Result<bool> {
    let read = recv(fd.as_fd().as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?;
    Ok(read == 0)
}

/// Nothing more will be written.
pub(crate) fn finish(fd: &impl AsFd) -> io::Result<()> {
    match shutdown(fd.as_fd().as_raw_fd(), Shutdown::Write) {
        // The peer is gone: nothing can be written any more.
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The address of this end; None for a Unix socket.
pub(crate) fn local_ip(fd: &impl AsFd) -> Option<IpAddr> {
    ip(&getsockname(fd.as_fd().as_raw_fd()).ok()?)
}

/// The address of the other end; None for a Unix socket, and where there is none any more.
pub(crate) fn remote_ip(fd: &impl AsFd) -> Option<IpAddr> {
    ip(&getpeername(fd.as_fd().as_raw_fd()).ok()?)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()).to_canonical()))
}
