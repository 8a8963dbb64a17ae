//! The PID file: one number and a newline, locked with flock(2) for the daemon's whole life.
//!
//! *Running* means that the lock is held, never that some process has the number. flock survives fork and exec, is
//! released by the kernel when the daemon dies however it dies, and is understood by `pkill -L -F`. The file is never
//! renamed over: the lock would stay on the old inode. (mcpdaemon(7), "Why flock"; flopen(3) of BSD has
//! the same loop.)

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

use super::pidfd::PidFd;
use super::process;

/// A PID file whose lock this process holds. Dropping it releases the lock and leaves the file.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: Flock<File>,
}

/// Why the lock could not be had.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A process holds it; with the number in the file, once there is one.
    Running(Option<Pid>),
    /// The process with the number in the file is dead, and another process holds the lock: each that may read the file can.
    Locked(Option<String>),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

impl PidFile {
    /// Takes the lock and empties the file, which now reads as "starting".
    ///
    /// A contested lock is tried for 100 ms (mcpctl may be looking), then the holder's number is awaited for up to 2 s.
    pub(crate) fn lock(path: &Path) -> Result<PidFile, Refused> {
        let until = Instant::now() + Duration::from_millis(100);
        loop {
            let file = open(path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) if same_file(&file, path) => {
                    // Whatever the umask: the number is no secret, and tools of other users read it.
                    file.set_permissions(Permissions::from_mode(0o644))?;
                    file.set_len(0)?;
                    return Ok(PidFile { path: path.to_owned(), file });
                }
                // It was removed or replaced between open and lock: we hold the lock of nothing.
                Ok(_) => {}
                Err((file, Errno::EWOULDBLOCK)) if Instant::now() >= until => {
                    return Err(match holder(path) {
                        Some(pid) if !process::lives(pid) => Refused::Locked(locker(&file)),
                        pid => Refused::Running(pid),
                    });
                }
                Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => std::thread::sleep(Duration::from_millis(10)),
                Err((_, e)) => return Err(Refused::Io(e.into())),
            }
        }
    }

    /// The file and the lock that the program before held in this process: flock(2) survives exec(2).
    pub(crate) fn adopt(path: &Path, fd: OwnedFd) -> io::Result<PidFile> {
        let file = Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock).map_err(|(_, e)| io::Error::from(e))?;
        Ok(PidFile { path: path.to_owned(), file })
    }

    /// The descriptor that holds the lock.
    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Writes the number, in place.
    pub(crate) fn write(&self, pid: Pid) -> io::Result<()> {
        let text = format!("{pid}\n");
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Whether the path still leads to the file that we hold.
    pub(crate) fn intact(&self) -> bool {
        same_file(&self.file, &self.path)
    }

    /// Removes the file, while still holding the lock, if it is still ours. Where the directory forbids it, the file
    /// is emptied instead.
    pub(crate) fn remove(self) {
        if self.intact() && std::fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

/// Opens a PID file, and nothing that stands in its place: what a link leads to is another's, and a folder can be
/// opened and locked as well.
fn open(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    let other = || io::Error::other("no daemon has made it, for it is no regular file; remove it");
    // Of a FIFO, a plain open would wait for a writer.
    match how.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(other()),
        Err(e) => Err(match e.raw_os_error() {
            // A link; a socket; a folder that is opened for writing.
            Some(libc::ELOOP | libc::ENXIO | libc::EISDIR) => other(),
            _ => e,
        }),
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Who has taken a lock on a file, as /proc/locks (proc(5)) shows it, for a message.
fn locker(file: &File) -> Option<String> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields.iter().position(|f| *f == "FLOCK")?;
        let pid = Pid::from_raw(fields.get(at + 3)?.parse().ok()?);
        fields.get(at + 4)?.ends_with(&inode).then(|| Some(format!("pid {pid}, {}", process::command_line(pid)?)))?
    })
}

fn holder(path: &Path) -> Option<Pid> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let pid = File::open(path).ok().and_then(|f| number(&f));
        if pid.is_some() || Instant::now() >= until {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number in a PID file; only a plausible process number counts.
fn number(file: &File) -> Option<Pid> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let n: i32 = text.lines().next()?.trim().parse().ok()?;
    (n > 0).then(|| Pid::from_raw(n))
}

/// What a PID file says of its instance.
#[derive(Debug)]
pub(crate) enum Probe {
    /// There is no file, or one that was emptied in place of being removed.
    Absent,
    /// There is a file, and its lock is free.
    Stale,
    /// The lock is held, but there is no number yet.
    Starting,
    /// The lock is held by the process with this number, opened before the lock was looked at.
    Running(Pid, PidFd),
    /// The lock is held, but not by the process that has the number here: another PID namespace.
    Elsewhere(Pid),
}

/// Looks at a PID file without changing anything. The order (open the process, see the lock held, read the number
/// again) makes sure that the handle is the holder's, not a stranger's with a reused number.
pub(crate) fn probe(path: &Path) -> io::Result<Probe> {
    let file = match open(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Probe::Absent),
        Err(e) => return Err(e),
    };
    let pid = number(&file);
    let handle = pid.map(PidFd::open);
    let file = match Flock::lock(file, FlockArg::LockSharedNonblock) {
        // Emptied by a daemon that could not remove it.
        Ok(file) if file.metadata()?.len() == 0 => return Ok(Probe::Absent),
        Ok(_) => return Ok(Probe::Stale),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, e)) => return Err(e.into()),
    };
    let mut again = [0u8; 32];
    let n = file.read_at(&mut again, 0)?;
    let now = std::str::from_utf8(&again[..n]).ok().and_then(|t| t.trim().parse().ok()).map(Pid::from_raw);
    match (pid, handle) {
        (Some(pid), Some(Ok(_))) if now == Some(pid) && !holds(pid, &file) => Ok(Probe::Elsewhere(pid)),
        (Some(pid), Some(Ok(handle))) if now == Some(pid) => Ok(Probe::Running(pid, handle)),
        (Some(pid), Some(Err(e))) if now == Some(pid) && e.raw_os_error() == Some(libc::ESRCH) => {
            Ok(Probe::Elsewhere(pid))
        }
        _ => Ok(Probe::Starting),
    }
}

/// Whether a process has the PID file open. In another PID namespace (a container with a shared run directory) the
/// number means another process, which must not be signalled. A process that we may not look into we may not signal
/// either; only the first process is never believed unseen.
fn holds(pid: Pid, file: &File) -> bool {
    let Ok(wanted) = file.metadata() else { return false };
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(mut fds) => fds.any(|fd| {
            let meta = fd.and_then(|fd| std::fs::metadata(fd.path()));
            meta.is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
        }),
        Err(_) => pid.as_raw() != 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("mcpdaemon-pidfile-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn one_holder_and_a_probe_that_tells_the_states_apart() {
        let dir = folder("states");
        let path = dir.join("a.pid");
        assert!(matches!(probe(&path).unwrap(), Probe::Absent));
        let held = PidFile::lock(&path).unwrap();
        assert!(matches!(probe(&path).unwrap(), Probe::Starting));
        held.write(Pid::this()).unwrap();
        assert!(matches!(probe(&path).unwrap(), Probe::Running(p, _) if p == Pid::this()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", Pid::this()));
        assert!(matches!(PidFile::lock(&path), Err(Refused::Running(Some(p))) if p == Pid::this()));
        drop(held);
        assert!(matches!(probe(&path).unwrap(), Probe::Stale));
        PidFile::lock(&path).unwrap().remove();
        assert!(!path.exists());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_was_replaced_is_not_ours_and_not_removed() {
        let dir = folder("replaced");
        let path = dir.join("a.pid");
        let held = PidFile::lock(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!held.intact());
        let other = PidFile::lock(&path).unwrap();
        held.remove();
        assert!(other.intact());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
