//! The file of a log: opened for appending, written to a line at a time, and moved away when it is long enough.
//!
//! The crate file-rotate does the same and was tried first. It ends the process by a failed assertion when it finds a
//! file of the next name that it does not know, which is what `mv NAME.log NAME.log.1` or logrotate(8) leave, or when
//! the folder is gone; where a new file cannot be opened, it drops what is written to it and reports success. It also
//! brings an own calendar and a compressor. What is needed of it is the few lines below.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::files;
use crate::model::config::Rotate;

/// A log that is open.
pub(crate) struct Opened {
    pub path: PathBuf,
    file: File,
    /// The last line was written in part.
    torn: AtomicBool,
}

impl Opened {
    /// Opens a log for appending; an existing one is never truncated. Its folder is made if need be.
    pub(crate) fn open(path: &Path) -> io::Result<Opened> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        // Root follows no link that another user may have made.
        let strict = nix::unistd::Uid::effective().is_root() && !files::is_for_root_alone(path);
        let flags = if strict { libc::O_NOFOLLOW } else { 0 } | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path);
        // Without O_NONBLOCK, the open of a FIFO without a reader would wait for one (fifo(7)).
        let file = files::block(file.map_err(|e| match e.raw_os_error() {
            Some(libc::ENXIO) => io::Error::other("it is a FIFO that no process reads, or a socket"),
            _ => e,
        })?)?;
        // Of a predecessor that was killed, or of a disk that was full.
        let torn = file.metadata()?.is_file() && last_byte(path).is_ok_and(|last| last != b'\n');
        Ok(Opened { path: path.to_owned(), file, torn: AtomicBool::new(torn) })
    }

    /// The log that another program has opened.
    pub(crate) fn adopt(path: &Path, fd: OwnedFd) -> Opened {
        Opened { path: path.to_owned(), file: File::from(fd), torn: AtomicBool::new(false) }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Writes one line, by one write(2) unless the disk is nearly full. After a line that was cut off there, the next
    /// one begins anew.
    pub(crate) fn write(&self, line: &[u8]) -> io::Result<()> {
        self.append(line).1
    }

    /// Writes lines, as [`Opened::write`] writes one: how many bytes of them are there, and why not more.
    pub(crate) fn append(&self, lines: &[u8]) -> (usize, io::Result<()>) {
        if self.torn.load(Relaxed) {
            if let Err(e) = (&self.file).write_all(b"\n") {
                return (0, Err(e));
            }
            self.torn.store(false, Relaxed);
        }
        let mut done = 0;
        while done < lines.len() {
            match (&self.file).write(&lines[done..]) {
                Ok(n) if n > 0 => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    self.torn.store(done > 0 && lines[done - 1] != b'\n', Relaxed);
                    return (done, Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into())));
                }
            }
        }
        (done, Ok(()))
    }

    /// How many bytes more make the file as long as it should become.
    pub(crate) fn room(&self, rotate: &Rotate) -> u64 {
        let plain = self.file.metadata().ok().filter(|m| m.is_file());
        plain.map_or(u64::MAX, |m| rotate.size.0.saturating_sub(m.len()))
    }

    /// Whether the file would be too long with `more` bytes. What is no plain file has no length.
    pub(crate) fn is_full(&self, rotate: &Rotate, more: usize) -> bool {
        let length = self.file.metadata().map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        length > 0 && length.saturating_add(more as u64) > rotate.size.0
    }

    /// Moves the file away and opens a new one by the old name. This one can be written to until then, also if it
    /// fails; it can be tried again.
    pub(crate) fn rotate(&self, keep: u32) -> io::Result<Opened> {
        // Of a symbolic link, the file is moved and not the link.
        match self.path.canonicalize() {
            Ok(real) => {
                let (there, ours) = (fs::metadata(&real)?, self.file.metadata()?);
                // Another program may have moved it, and made a new one.
                if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
                    move_away(&real, keep)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Opened::open(&self.path)
    }
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let (mut file, mut last) = (File::open(path)?, [0]);
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

/// `NAME.log` becomes `NAME.log.1`, that `NAME.log.2`, and so on up to a number that is free or the last one kept.
fn move_away(path: &Path, keep: u32) -> io::Result<()> {
    let old = |n: u32| {
        let mut name = OsString::from(path);
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return fs::remove_file(path);
    }
    let free = (1..keep).find(|n| fs::symlink_metadata(old(*n)).is_err()).unwrap_or(keep);
    for n in (1..free).rev() {
        fs::rename(old(n), old(n + 1))?;
    }
    fs::rename(path, old(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|e| {
                let text = fs::read_to_string(e.path()).unwrap_or_else(|_| "?".to_owned());
                (e.file_name().to_string_lossy().into_owned(), text)
            })
            .collect();
        all.sort();
        all
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn the_oldest_goes_and_a_gap_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = Opened::open(&path).unwrap();
        for text in ["a", "b", "c", "d"] {
            log.write(text.as_bytes()).unwrap();
            log = log.rotate(3).unwrap();
        }
        log.write(b"e").unwrap();
        assert_eq!(names(dir.path()), pairs(&[("x.log", "e"), ("x.log.1", "d"), ("x.log.2", "c"), ("x.log.3", "b")]));
        fs::remove_file(dir.path().join("x.log.2")).unwrap();
        log = log.rotate(3).unwrap();
        assert_eq!(names(dir.path()), pairs(&[("x.log", ""), ("x.log.1", "e"), ("x.log.2", "d"), ("x.log.3", "b")]));
        log.write(b"f").unwrap();
        log = log.rotate(1).unwrap();
        assert_eq!(names(dir.path()), pairs(&[("x.log", ""), ("x.log.1", "f"), ("x.log.2", "d"), ("x.log.3", "b")]));
        log.write(b"g").unwrap();
        log.rotate(0).unwrap();
        assert_eq!(names(dir.path()), pairs(&[("x.log", ""), ("x.log.1", "f"), ("x.log.2", "d"), ("x.log.3", "b")]));
    }

    #[test]
    fn what_somebody_else_moved_is_not_moved_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let log = Opened::open(&path).unwrap();
        log.write(b"old").unwrap();
        fs::rename(&path, dir.path().join("x.log.1")).unwrap();
        let log = log.rotate(3).unwrap();
        log.write(b"new").unwrap();
        assert_eq!(names(dir.path()), pairs(&[("x.log", "new"), ("x.log.1", "old")]));
        // Another file has the name: it is another's, and appended to.
        fs::rename(&path, dir.path().join("x.log.2")).unwrap();
        fs::write(&path, "theirs\n").unwrap();
        log.rotate(3).unwrap().write(b"+").unwrap();
        assert_eq!(names(dir.path()), pairs(&[("x.log", "theirs\n+"), ("x.log.1", "old"), ("x.log.2", "new")]));
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        let path = dir.path().join("x.log");
        std::os::unix::fs::symlink("disk/real.log", &path).unwrap();
        let log = Opened::open(&path).unwrap();
        log.write(b"old").unwrap();
        log.rotate(3).unwrap().write(b"new").unwrap();
        assert_eq!(names(&dir.path().join("disk")), pairs(&[("real.log", "new"), ("real.log.1", "old")]));
        assert!(path.is_symlink());
    }

    #[test]
    fn what_cannot_be_moved_is_written_to_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let log = Opened::open(&path).unwrap();
        log.write(b"a").unwrap();
        // A folder has the last name, and there is something in it.
        fs::create_dir_all(dir.path().join("x.log.1/y")).unwrap();
        assert!(log.rotate(1).is_err());
        log.write(b"b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
        fs::remove_dir_all(dir.path().join("x.log.1")).unwrap();
        log.rotate(1).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("x.log.1")).unwrap(), "ab");
    }

    #[test]
    fn after_a_line_that_was_cut_off_the_next_one_begins_anew() {
        // A pipe that is not read is a disk with little room.
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let log = Opened { path: PathBuf::new(), file: write.into(), torn: AtomicBool::new(false) };
        let long = vec![b'x'; 1 << 20];
        assert!(log.write(&long).is_err() && log.write(b"lost\n").is_err());
        let (mut read, mut room) = (File::from(read), vec![0; 1 << 20]);
        assert!(read.read(&mut room).unwrap() > 1000);
        log.write(b"next\n").unwrap();
        log.write(b"and\n").unwrap();
        let n = read.read(&mut room).unwrap();
        assert!(room[..n].ends_with(b"\nnext\nand\n"), "{n}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        for (before, after) in [("", "x\n"), ("cut o", "cut o\nx\n"), ("whole\n", "whole\nx\n")] {
            fs::write(&path, before).unwrap();
            Opened::open(&path).unwrap().write(b"x\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn a_device_is_never_full() {
        let full = Opened::open(Path::new("/dev/full")).unwrap();
        let rotate = Rotate { size: crate::model::config::Size(1), keep: 1 };
        assert!(full.write(b"x").is_err() && !full.is_full(&rotate, 10));
    }
}
