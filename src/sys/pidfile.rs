//! The PID file, one number and a newline, and the lock beside it, held with flock(2) for the daemon's whole life.
//!
//! *Running* means that `NAME.lock` is held, never that some process has the number. Its mode is 0600, for whoever may read a
//! file may lock it. flock survives fork and exec, and is released by the kernel when the daemon dies however it dies. The
//! file is never renamed over: the lock would stay on the old inode (flopen(3) of BSD has the same loop).
//!
//! A daemon of before had its lock on `NAME.pid`, which is locked as well still, for `pkill -L -F`. That lock is believed only
//! where the process with the number is of the file's owner, and started when the status file says.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Pid, Uid, fchown};

use super::pidfd::PidFd;
use super::{files, process};

/// A PID file whose lock this process holds. Dropping it releases the lock and leaves the files.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
    /// None where the program before had no such file, and none could be made.
    lock: Option<Flock<File>>,
    /// The lock on the PID file itself, which another process can be in the way of.
    _own: Option<Flock<File>>,
}

/// Why the lock could not be had.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A process holds it; with the number in the file, once there is one.
    Running(Option<Pid>),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

fn lock_path(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

impl PidFile {
    /// Takes the lock and empties the file, which now reads as "starting".
    ///
    /// A contested lock is tried for 100 ms (mcpctl may be looking), then the holder's number is awaited for up to 2 s.
    pub(crate) fn lock(path: &Path) -> Result<PidFile, Refused> {
        let lock = hold(&lock_path(path), 0o600).map_err(|e| match e {
            Refused::Running(_) => Refused::Running(number_awaited(path)),
            other => other,
        })?;
        let mut file = files::open_or_make(path, 0o644).map_err(foreign)?;
        let mut own = Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock).ok();
        if own.is_none()
            && let Some(pid) = number(&file).filter(|pid| is_daemon_of(path, *pid, &file))
        {
            // It is of a version that had its lock there.
            let _ = std::fs::remove_file(lock_path(path));
            return Err(Refused::Running(Some(pid)));
        }
        if file.metadata()?.uid() != Uid::effective().as_raw() {
            std::fs::remove_file(path)?;
            file = files::open_or_make(path, 0o644).map_err(foreign)?;
            own = Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock).ok();
        }
        // Whatever the umask: the number is no secret, and tools of other users read it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.set_len(0)?;
        Ok(PidFile { path: path.to_owned(), file, lock: Some(lock), _own: own })
    }

    /// Makes what was removed or replaced by others again, still as the holder. The PID file is empty afterwards.
    pub(crate) fn mend(&mut self) -> Result<(), Refused> {
        let path = lock_path(&self.path);
        if !self.lock.as_ref().is_some_and(|lock| same_file(lock, &path)) {
            self.lock = Some(hold(&path, 0o600)?);
        }
        self.file = files::open_or_make(&self.path, 0o644).map_err(foreign)?;
        self._own = Flock::lock(self.file.try_clone()?, FlockArg::LockExclusiveNonblock).ok().or(self._own.take());
        self.file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(self.file.set_len(0)?)
    }

    /// The files and the lock that the program before held in this process: flock(2) survives exec(2). One of before had no
    /// file for the lock alone: it is made.
    pub(crate) fn adopt(path: &Path, fd: OwnedFd, lock: Option<OwnedFd>) -> io::Result<PidFile> {
        let file = File::from(fd);
        let own = Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock).ok();
        let lock = match lock {
            Some(fd) => Some(Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?),
            None => hold(&lock_path(path), 0o600).ok(),
        };
        Ok(PidFile { path: path.to_owned(), file, lock, _own: own })
    }

    /// The descriptors of the PID file and of the lock.
    pub(crate) fn fds(&self) -> (RawFd, Option<RawFd>) {
        (self.file.as_raw_fd(), self.lock.as_ref().map(|lock| lock.as_raw_fd()))
    }

    /// Writes the number into both files, in place.
    pub(crate) fn write(&self, pid: Pid) -> io::Result<()> {
        let text = format!("{pid}\n");
        for file in [self.lock.as_deref(), Some(&self.file)].into_iter().flatten() {
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
        }
        Ok(())
    }

    /// Whether the paths still lead to the files that we hold.
    pub(crate) fn intact(&self) -> bool {
        let locked = self.lock.as_ref().is_none_or(|lock| same_file(lock, &lock_path(&self.path)));
        locked && same_file(&self.file, &self.path)
    }

    /// Gives both files to a user, before this process becomes that one.
    pub(crate) fn give(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        let all = [Some(&self.file), self.lock.as_deref()];
        all.into_iter().flatten().try_for_each(|file| Ok(fchown(file, Some(uid), Some(gid))?))
    }

    /// Removes the files, while still holding the lock, if they are still ours. Where the directory forbids it, the PID file
    /// is emptied instead.
    pub(crate) fn remove(self) {
        if same_file(&self.file, &self.path) && std::fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
        let path = lock_path(&self.path);
        if self.lock.as_ref().is_some_and(|lock| same_file(lock, &path)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes a file, or opens the one that is there, and locks it.
fn hold(path: &Path, mode: u32) -> Result<Flock<File>, Refused> {
    let until = Instant::now() + Duration::from_millis(100);
    loop {
        let file = files::open_or_make(path, mode).map_err(foreign)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Of a user who once had the instance, and who could still write it.
            Ok(file) if same_file(&file, path) && file.metadata()?.uid() != Uid::effective().as_raw() => {
                std::fs::remove_file(path)?;
            }
            Ok(file) if same_file(&file, path) => {
                file.set_permissions(Permissions::from_mode(mode))?;
                return Ok(file);
            }
            // It was removed or replaced between open and lock: we hold the lock of nothing.
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= until => return Err(Refused::Running(None)),
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => std::thread::sleep(Duration::from_millis(10)),
            Err((_, e)) => return Err(Refused::Io(e.into())),
        }
    }
}

/// Says of what stands in the place of a PID file that it is none.
fn foreign(e: io::Error) -> io::Error {
    match e.kind() == io::ErrorKind::Other || e.raw_os_error() == Some(libc::EISDIR) {
        true => io::Error::other("no daemon has made it, for it is no regular file; remove it"),
        false => e,
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn number_awaited(path: &Path) -> Option<Pid> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        // The PID file may have been removed; the lock has the number as well.
        let named = |path: &Path| files::open(path).ok().and_then(|f| number(&f));
        let pid = named(path).or_else(|| named(&lock_path(path)));
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

/// So long the threads of a process that was killed may take to end.
const DYING: Duration = Duration::from_secs(1);

/// Looks at an instance's files without changing anything. The order (open the process, see the lock held, read the number
/// again) makes sure that the handle is the holder's, not a stranger's with a reused number.
pub(crate) fn probe(path: &Path) -> io::Result<Probe> {
    look(path, true)
}

/// As [`probe`]; looks once more after a process that is about to end.
fn look(path: &Path, patient: bool) -> io::Result<Probe> {
    let file = match files::open(path).map_err(foreign) {
        Ok(file) => Some(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let pid = file.as_ref().and_then(number);
    let handle = pid.map(PidFd::open);
    let (held, locked) = match files::open(&lock_path(path)).map_err(foreign) {
        Ok(lock) => (is_locked(lock.try_clone()?)?, Some(lock)),
        // It is another user's, or of a version that had its lock on the PID file: the process itself has to tell.
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
            let foreign = e.kind() == io::ErrorKind::PermissionDenied;
            match (&file, pid) {
                (Some(file), Some(pid)) => {
                    (is_daemon_of(path, pid, file) && (foreign || is_locked(file.try_clone()?)?), None)
                }
                (Some(file), None) => (!foreign && is_locked(file.try_clone()?)?, None),
                // A lock alone may be left by a daemon that could not remove it.
                (None, _) => (false, None),
            }
        }
        Err(e) => return Err(e),
    };
    let Some(file) = file else { return Ok(if held { Probe::Starting } else { Probe::Absent }) };
    if !held {
        // Emptied by a daemon that could not remove it.
        return Ok(if file.metadata()?.len() == 0 { Probe::Absent } else { Probe::Stale });
    }
    let mut again = [0u8; 32];
    let n = file.read_at(&mut again, 0)?;
    let now = std::str::from_utf8(&again[..n]).ok().and_then(|t| t.trim().parse().ok()).map(Pid::from_raw);
    match (pid, handle) {
        (Some(pid), Some(Ok(handle))) if now == Some(pid) => {
            let proven = match locked.map(|lock| holds(pid, &lock)) {
                None | Some(Some(true)) => true,
                Some(Some(false)) => false,
                // The first process is another one in each PID namespace, and is the daemon in a container.
                Some(None) => pid.as_raw() != 1 || started_when_said(path, pid) == Some(true),
            } && is_daemon_of(path, pid, &file);
            // Its first thread is gone, and the others still have its files open for a moment.
            if patient && !proven && !process::lives(pid) && handle.wait_end(DYING).unwrap_or(false) {
                return look(path, false);
            }
            Ok(if proven { Probe::Running(pid, handle) } else { Probe::Elsewhere(pid) })
        }
        (Some(pid), Some(Err(e))) if now == Some(pid) && e.raw_os_error() == Some(libc::ESRCH) => {
            Ok(Probe::Elsewhere(pid))
        }
        _ => Ok(Probe::Starting),
    }
}

/// Whether a process holds an exclusive lock on a file.
fn is_locked(file: File) -> io::Result<bool> {
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, e)) => Err(e.into()),
    }
}

/// Whether a process may be the daemon of a PID file, by what anybody can see of it: it runs as the file's owner, to whom the
/// daemon has given it, and started when the status file beside it says, if that speaks of it. In another PID namespace (a
/// container with a shared run directory) the number means another process, which must not be signalled.
fn is_daemon_of(path: &Path, pid: Pid, file: &File) -> bool {
    let Ok(owner) = file.metadata().map(|m| m.uid()) else { return false };
    // Root's daemon could not give it away.
    let fits = owner == 0 || process::user_of(pid) == Some(owner);
    fits && process::lives(pid) && started_when_said(path, pid) != Some(false)
}

/// Whether a process started when the status file beside a PID file says; None where that does not speak of it.
fn started_when_said(path: &Path, pid: Pid) -> Option<bool> {
    let said = process::said(&path.with_extension("status")).filter(|s| s.pid == pid.as_raw() && s.start_time != 0)?;
    Some(process::start_time(pid) == Some(said.start_time))
}

/// Whether a process has this file open and holds a lock by it, as proc(5) shows in fdinfo; None where it may not be looked
/// into, as by other users, and by root without `CAP_SYS_PTRACE`, who finds the folder open and each link in it closed.
fn holds(pid: Pid, file: &File) -> Option<bool> {
    let wanted = file.metadata().ok()?;
    let mut closed = false;
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let there = match std::fs::metadata(fd.path()) {
            Ok(there) => there,
            Err(e) => {
                closed |= e.kind() == io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        let info = || std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy()));
        let locks = |text: String| text.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK"));
        if (there.dev(), there.ino()) == (wanted.dev(), wanted.ino()) && info().is_ok_and(locks) {
            return Some(true);
        }
    }
    (!closed).then_some(false)
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
        // The lock is still held.
        assert!(matches!(PidFile::lock(&path), Err(Refused::Running(None))));
        std::fs::remove_file(lock_path(&path)).unwrap();
        let other = PidFile::lock(&path).unwrap();
        held.remove();
        assert!(other.intact());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
