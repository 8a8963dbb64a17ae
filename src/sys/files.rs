//! Files by name: read, made, replaced, given away, and judged by who could have written them.
//!
//! A user who may write in a folder chooses what a name in it leads to: a link, a FIFO, a device, another's file. So what was
//! opened is looked at, and not the name (fstat(2)); a name is followed only where that is wanted; and what root is to obey
//! must be for root alone to write, with every folder above it, as sshd(8) asks it of keys (StrictModes).

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat};

/// The length of a tag that makes the name of a file's successor hard to guess, in bytes: a UUID.
const TAG: usize = 36;

/// Opens a regular file to read, and nothing else that has its name: no link, no FIFO, no device. Never waits.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    regular(open_as(path, OpenOptions::new().read(true), true)?)
}

/// The content of such a file, of `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    content(open(path)?, most)
}

/// Opens a regular file to write, under the same conditions. It is neither made nor emptied.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    regular(open_as(path, OpenOptions::new().write(true), true)?)
}

/// Makes a file, or opens the one that is there, under the same conditions.
pub(crate) fn open_or_make(path: &Path, mode: u32) -> io::Result<File> {
    regular(open_as(path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode), true)?)
}

/// Opens a regular file to read, to which a link may lead.
pub(crate) fn open_through_links(path: &Path) -> io::Result<File> {
    regular(open_as(path, OpenOptions::new().read(true), false)?)
}

fn open_as(path: &Path, how: &mut OpenOptions, no_link: bool) -> io::Result<File> {
    // Of a FIFO, a plain open would wait for the other end.
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY | if no_link { libc::O_NOFOLLOW } else { 0 };
    how.custom_flags(flags).open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) if no_link => io::Error::other("it is a symbolic link"),
        // A socket, or a FIFO without a reader.
        Some(libc::ENXIO) => io::Error::other("it is no regular file"),
        _ => e,
    })
}

fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// What an open file holds, of `most` bytes.
pub(crate) fn content(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("it is longer than {most} bytes"))),
        false => Ok(bytes),
    }
}

/// Makes a file that was not there, with exactly this mode.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut how = OpenOptions::new();
    let file =
        how.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Replaces a file as a whole: a reader sees the old one or the new one. The new one is made beside it under a name that
/// ends in `tag`, a UUID.
pub(crate) fn replace(path: &Path, tag: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{tag}"));
    let temporary = path.with_file_name(name);
    let written = create(&temporary, mode).and_then(|mut file| file.write_all(bytes));
    let replaced = written.and_then(|()| std::fs::rename(&temporary, path));
    if replaced.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::AlreadyExists) {
        let _ = std::fs::remove_file(&temporary);
    }
    replaced
}

/// Removes what [`replace`] has left beside a file in a program that was killed.
pub(crate) fn remove_leftovers(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else { return };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let tag = entry.file_name().to_str().and_then(|n| n.strip_prefix(name)?.strip_prefix('.')).map(str::len);
        if tag == Some(TAG) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A handle to what has a name, whatever it is; a link is not followed.
fn handle(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

/// Gives a file to a user and a group, if it is a regular file or a socket with this one name.
pub(crate) fn give(path: &Path, uid: Uid, gid: Gid) -> io::Result<()> {
    let file = handle(path)?;
    let meta = file.metadata()?;
    if !(meta.is_file() || meta.file_type().is_socket()) || meta.nlink() != 1 {
        return Err(io::Error::other("it is a link, or no file"));
    }
    Ok(fchownat(&file, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?)
}

/// Gives the file of a socket a mode, and an owner if one is given. What is no socket is left alone.
pub(crate) fn touch_socket(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let file = handle(path)?;
    if !file.metadata()?.file_type().is_socket() {
        return Err(io::Error::other("it is no socket any more"));
    }
    if let Some((uid, gid)) = owner {
        fchownat(&file, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH)?;
    }
    // chmod(2) of the very file that was looked at: a handle has no fchmod(2) (open(2), O_PATH).
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(own, Permissions::from_mode(mode))
}

/// Why others could have written something: what they could write, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untrusted {
    pub path: PathBuf,
    pub why: String,
}

impl std::fmt::Display for Untrusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.path.display(), self.why)
    }
}

/// What of a path others could write: root and `users` apart. Every folder above it counts, of a link also where it leads.
/// A folder in which all may write, but none may rename what is another's (sticky), is no objection.
/// What cannot be looked at may be anybody's.
pub(crate) fn untrusted(path: &Path, users: &[u32]) -> Option<Untrusted> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(e) => return Some(unseen(path, &e)),
    };
    let lexical = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let above = |path: &Path| path.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let mut folders = above(&real);
    folders.extend(above(&lexical));
    let found = folders.iter().rev().find_map(|folder| objection(folder, users, true));
    found.or_else(|| objection(&real, users, false))
}

fn objection(path: &Path, users: &[u32], is_folder: bool) -> Option<Untrusted> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => return Some(unseen(path, &e)),
    };
    let why = unsafe_mode(&meta, users, is_folder, false)?;
    Some(Untrusted { path: path.to_owned(), why })
}

fn unseen(path: &Path, e: &io::Error) -> Untrusted {
    Untrusted { path: path.to_owned(), why: format!("cannot be looked at: {e}") }
}

/// What an open file holds, of `most` bytes, and who else could have written it: root and `users` apart. The file is the
/// one that is read, whatever its name leads to a moment later.
pub(crate) fn read_judged(path: &Path, most: u64, users: &[u32]) -> io::Result<(Vec<u8>, Option<Untrusted>)> {
    let before = untrusted(path, users);
    let file = open_through_links(path)?;
    let why = unsafe_mode(&file.metadata()?, users, false, false);
    let own = why.map(|why| Untrusted { path: path.to_owned(), why });
    let bytes = content(file, most)?;
    Ok((bytes, before.or(own).or_else(|| untrusted(path, users))))
}

/// How many bytes are left on the disk of a folder, for who may not use what is kept back for root (statvfs(3)). None
/// where it cannot be told: some file systems have no size.
pub(crate) fn room(dir: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(dir).ok().filter(|disk| disk.blocks() > 0)?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Whether root alone can make and remove names in the folder of a file: the folder and all above it belong to root, and
/// no other user may write there.
pub(crate) fn is_for_root_alone(path: &Path) -> bool {
    let Some(dir) = path.parent() else { return true };
    let open = |meta: Metadata| meta.uid() != 0 || meta.mode() & 0o022 != 0;
    untrusted(dir, &[]).is_none() && !dir.metadata().map_or(true, open)
}

/// What is wrong with owner and mode; None if only root and `users` may write.
fn unsafe_mode(meta: &Metadata, users: &[u32], is_folder: bool, strict: bool) -> Option<String> {
    let mode = meta.mode() & 0o7777;
    if meta.uid() != 0 && !users.contains(&meta.uid()) {
        return Some(format!("belongs to uid {}", meta.uid()));
    }
    // A group that is an ordinary user's own is he himself.
    let own_group = !Uid::effective().is_root() && !strict && meta.gid() == Gid::effective().as_raw();
    match mode & if own_group { 0o002 } else { 0o022 } {
        0 => None,
        _ if is_folder && mode & 0o1000 != 0 => None,
        _ => Some(format!("can be written by others (mode {mode:04o})")),
    }
}

/// What is wrong with a folder in which only its owner, who must be root or this user, is to write.
pub(crate) fn unsafe_folder(path: &Path) -> io::Result<Option<String>> {
    let meta = std::fs::metadata(path)?;
    let own = Uid::effective().as_raw();
    Ok(unsafe_mode(&meta, &[own], false, true))
}

/// A descriptor's file that is no regular one blocks again, as one expects of a terminal or a pipe.
pub(crate) fn block(file: File) -> io::Result<File> {
    let fd = OwnedFd::from(file);
    let flags = nix::fcntl::OFlag::from_bits_truncate(nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags & !nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("mcpdaemon-files-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        dir
    }

    #[test]
    fn only_regular_files_are_read_and_no_more_than_was_asked_for() {
        let dir = folder("read");
        let file = dir.join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert!(read(&file, 4).unwrap_err().to_string().contains("longer than 4"));
        let link = dir.join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read(&link, 9).unwrap_err().to_string().contains("symbolic link"));
        assert!(open_through_links(&link).is_ok());
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for other in [&fifo, &dir, &PathBuf::from("/dev/zero")] {
            assert!(read(other, 9).unwrap_err().to_string().contains("no regular file"), "{}", other.display());
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_is_replaced_by_its_name_and_never_through_a_link() {
        let dir = folder("replace");
        let (file, victim) = (dir.join("a.status"), dir.join("victim"));
        std::fs::write(&victim, "whole").unwrap();
        std::os::unix::fs::symlink(&victim, dir.join("a.status.t")).unwrap();
        assert_eq!(replace(&file, "t", 0o644, b"new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::os::unix::fs::symlink(&victim, &file).unwrap();
        replace(&file, "u", 0o644, b"new").unwrap();
        assert_eq!((std::fs::read(&file).unwrap(), std::fs::read(&victim).unwrap()), (b"new".into(), b"whole".into()));
        assert_eq!(std::fs::symlink_metadata(&file).unwrap().mode() & 0o7777, 0o644);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_others_could_have_written_is_told_with_the_folder_that_lets_them() {
        let dir = folder("trust");
        let own = [Uid::effective().as_raw()];
        let inner = dir.join("inner");
        std::fs::create_dir(&inner).unwrap();
        let file = inner.join("file");
        std::fs::write(&file, "").unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(&inner, 0o755);
        mode(&file, 0o644);
        assert_eq!(untrusted(&file, &own), None);
        for (path, bits, trusted) in [
            (&file, 0o664, false),
            (&file, 0o646, false),
            (&file, 0o600, true),
            (&inner, 0o775, false),
            (&inner, 0o1777, true),
            (&inner, 0o755, true),
        ] {
            mode(path, bits);
            let found = untrusted(&file, &own);
            assert_eq!(found.is_none(), trusted, "{} {bits:o}: {found:?}", path.display());
            assert!(found.is_none_or(|u| u.path == path.canonicalize().unwrap()));
        }
        // A link is as good as its folder and what it leads to.
        let link = dir.join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(untrusted(&link, &own), None);
        mode(&file, 0o666);
        assert!(untrusted(&link, &own).is_some());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
