//! File descriptors: what a daemon inherits, keeps and hands on.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a pipe holds that carries long messages, in bytes: twice what it holds otherwise.
const WIDE: i32 = 128 << 10;

/// What to do with descriptors from 3 on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherited {
    Close,
    /// A supervisor's descriptors are not ours to close, but no child shall have them.
    MarkCloexec,
}

/// Treats every descriptor from 3 on, except those kept. close_range(2), or /proc/self/fd where the kernel lacks it.
pub(crate) fn inherited(what: Inherited, keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd >= 3).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.iter().copied().chain([u32::MAX]) {
        let to = if fd == u32::MAX { u32::MAX } else { fd - 1 };
        if fd > from {
            range(what, from, to)?;
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}

fn range(what: Inherited, from: u32, to: u32) -> io::Result<()> {
    let flags = if what == Inherited::MarkCloexec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: the arguments are plain integers. Descriptors that Rust values own are never in the range: the caller
    // runs before any such value exists, or lists it in `keep`.
    let done = unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) };
    if done == 0 {
        return Ok(());
    }
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| u32::try_from(*fd).is_ok_and(|fd| (from..=to).contains(&fd)))
        .collect();
    for fd in open {
        // SAFETY: as above; a number that is not open any more gives EBADF, which does no harm.
        unsafe {
            match what {
                Inherited::Close => libc::close(fd),
                Inherited::MarkCloexec => libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC),
            };
        }
    }
    Ok(())
}

/// Lets reads and writes fail where they would wait (`O_NONBLOCK` of open(2)).
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// How many bytes a pipe or socket holds that were not read (FIONREAD of ioctl_tty(2)).
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the call, and the kernel writes one int.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(u64::try_from(bytes).unwrap_or(0)) }
}

/// Lets a pipe hold [`WIDE`] bytes, if it holds less and the system allows it (pipe(7), pipe-user-pages-soft).
pub(crate) fn widen_pipe(fd: BorrowedFd<'_>) {
    if fcntl(fd, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < WIDE) {
        let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(WIDE));
    }
}

/// Puts /dev/null on 0, 1 and 2.
pub(crate) fn null_standard_streams() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for fd in 0..=2 {
        replace(null.as_raw_fd(), fd)?;
    }
    Ok(())
}

/// Puts /dev/null on standard input alone.
pub(crate) fn null_stdin() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    replace(null.as_raw_fd(), 0)
}

fn replace(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: both are descriptor numbers; 0 to 2 are never owned by a Rust value that closes them.
    if unsafe { libc::dup2(from, to) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A second descriptor for the same thing, close-on-exec. EBADF if the number is not open.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the result is a new descriptor or -1.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, no other value owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Descriptors from 3 on that are open, but for those.
pub(crate) fn open_beside(known: &[RawFd]) -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let all: Vec<RawFd> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    // The listing itself had one as well, which is closed by now.
    all.into_iter().filter(|fd| *fd >= 3 && !known.contains(fd) && duplicate(*fd).is_ok()).collect()
}

/// Whether a descriptor is closed by exec(2).
pub(crate) fn close_on_exec(fd: RawFd, close: bool) {
    // SAFETY: plain integers; a number that is not open gives EBADF, which does no harm.
    unsafe { libc::fcntl(fd, libc::F_SETFD, if close { libc::FD_CLOEXEC } else { 0 }) };
}

/// Raises the soft limit of open files to the hard one; gives the soft limit that was, for the children.
pub(crate) fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(soft)
}
