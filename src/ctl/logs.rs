//! `mcpctl logs`: the end of an instance's log, and what follows.
//!
//! A log that was rotated goes on backwards in `NAME.log.1`, `NAME.log.2` and so on, and files may change their names
//! at any moment. So the way from one to the next is found by the file that is open, and a name is only believed if it
//! is that of the neighbour before and after the neighbour is opened.

use std::cmp::Ordering;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place::{Found, Place, say, server_of};
use crate::cli::Logs;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::logline;
use crate::sys::watch::{Watch, Woken};
use crate::sys::{files, paths};

/// How far back the last lines are looked for at first, in bytes; then further.
const STEP: u64 = 64 << 10;
/// Of a log that is looked through for one thing, so much is read, in bytes.
const RECENT: u64 = 1 << 20;

/// Where the log of an instance is, if its status does not say it: in the folder of logs, or for root in one of those in it,
/// which belong to users whom daemons became.
fn usual_log(name: &str) -> PathBuf {
    let (dir, file) = (paths::log_dir(), format!("{name}.log"));
    let usual = dir.join(&file);
    if usual.exists() || !nix::unistd::geteuid().is_root() {
        return usual;
    }
    let inner = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path().join(&file));
    inner.into_iter().find(|path| path.exists()).unwrap_or(usual)
}

pub(super) fn run(place: &Place, args: &Logs) -> Result<Exit, Failure> {
    let found = place.find(&args.name)?;
    if args.audit {
        return run_audit(&found, args);
    }
    let foreground = found.status.as_ref().is_some_and(|s| s.log.is_none());
    if foreground {
        let text =
            format!("{}: it runs in front and logs to its standard error (under systemd: journalctl)", args.name);
        return Err(Failure::new(Exit::Failed, text));
    }
    let path = found.status.as_ref().and_then(|s| s.log.as_ref()).map(PathBuf::from);
    let path = path.unwrap_or_else(|| usual_log(&args.name));
    show(&found, &path, args, &|line: &str| args.server.as_ref().is_none_or(|server| logline::mentions(line, server)))
}

/// Shows the end of a file of lines, and what follows.
fn show(found: &Found, path: &Path, args: &Logs, wanted: &dyn Fn(&str) -> bool) -> Result<Exit, Failure> {
    let mut file = open(path).map_err(|e| cannot_read(path, &e))?;
    check_owner(found, path, &file)?;
    let lines = last(path, &mut file, args.lines, &wanted).map_err(|e| cannot_read(path, &e))?;
    if let (Some(server), Some(status), true) = (&args.server, &found.status, lines.is_empty()) {
        server_of(&args.name, server, status)?;
    }
    for line in lines {
        if !say(&line) {
            return Ok(Exit::Ok);
        }
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    follow(path, file, &wanted).map_err(|e| cannot_read(path, &e))?;
    Ok(Exit::Ok)
}

/// The audit record, whose lines name a server in one way.
fn run_audit(found: &Found, args: &Logs) -> Result<Exit, Failure> {
    let Some(path) = found.status.as_ref().and_then(|s| s.audit.as_ref()).map(PathBuf::from) else {
        let text = format!("{}: it has no audit record ('audit' in mcpdaemon.ron(5))", args.name);
        return Err(Failure::new(Exit::Failed, text));
    };
    let server = args.server.as_ref().map(|server| format!("\"server\":\"{server}\""));
    show(found, &path, args, &|line: &str| server.as_ref().is_none_or(|server| line.contains(server.as_str())))
}

/// The end of an instance's log; None where it is not to be read.
pub(super) fn recent(found: &Found) -> Option<String> {
    let path = PathBuf::from(found.status.as_ref()?.log.as_ref()?);
    let mut file = open(&path).ok()?;
    check_owner(found, &path, &file).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(end.saturating_sub(RECENT))).ok()?;
    let mut bytes = Vec::new();
    file.take(RECENT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Root shows what the instance has written, and not what its status file may name instead: the two have one owner.
fn check_owner(found: &Found, path: &Path, log: &File) -> Result<(), Failure> {
    // Without a status file, the log is the one of root's own folder.
    let (owner, name) = (found.status_owner.unwrap_or(0), &found.name);
    let of_log = log.metadata().map_err(|e| cannot_read(path, &e))?.uid();
    if nix::unistd::geteuid().is_root() && owner != 0 && owner != of_log {
        let text = format!(
            "{}: it belongs to uid {of_log}, and the status file that names it as the log of '{name}' to uid {owner}",
            path.display()
        );
        return Err(Failure::new(Exit::CtlPermission, text));
    }
    Ok(())
}

/// Whether root may show a file as another part of a log: who writes the log could have put a link in its place.
fn is_of(part: &Metadata, log: &Metadata) -> bool {
    !nix::unistd::geteuid().is_root() || log.uid() == 0 || part.uid() == log.uid()
}

fn cannot_read(path: &Path, e: &io::Error) -> Failure {
    let exit = match e.kind() {
        io::ErrorKind::PermissionDenied => Exit::CtlPermission,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{}: cannot read the log: {}", path.display(), plain(e)))
}

/// Opens the log, which is not there for a moment while it is being rotated.
fn open(path: &Path) -> io::Result<File> {
    let mut tries = 0;
    loop {
        match files::open_through_links(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 5 => tries += 1,
            outcome => return outcome,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The log itself, or an old one: 1 is the latest.
fn numbered(path: &Path, n: u32) -> PathBuf {
    // Of a symbolic link, the files lie beside the real one.
    let mut name = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    if n > 0 {
        name.push(format!(".{n}"));
    }
    name.into()
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The number that a log has at the moment. None if it was moved elsewhere or removed.
fn number(path: &Path, file: &Metadata) -> Option<u32> {
    let mut missing = 0;
    for n in 0.. {
        match std::fs::metadata(numbered(path, n)) {
            Ok(there) if same(&there, file) => return Some(n),
            Ok(_) => {}
            // While files get their next numbers, there is a gap.
            Err(_) if missing < 2 => missing += 1,
            Err(_) => break,
        }
    }
    None
}

/// What a neighbour is looked for by: its number, and a time that fits. Others may number their files differently.
fn neighbour(path: &Path, file: &File, numbers: impl Fn(u32) -> Vec<u32>, fits: Ordering) -> io::Result<Option<File>> {
    loop {
        let ours = file.metadata()?;
        let Some(n) = number(path, &ours) else { return Ok(None) };
        let time = |m: &Metadata| (m.mtime(), m.mtime_nsec());
        let found = numbers(n).into_iter().find_map(|n| {
            let file = files::open_through_links(&numbered(path, n)).ok()?;
            let meta = file.metadata().ok().filter(|meta| is_of(meta, &ours))?;
            let order = time(&meta).cmp(&time(&ours));
            (order == fits || order.is_eq()).then_some(file)
        });
        if number(path, &ours) == Some(n) {
            return Ok(found);
        }
    }
}

/// The log before this one.
fn older(path: &Path, file: &File) -> io::Result<Option<File>> {
    neighbour(path, file, |n| vec![n + 1], Ordering::Less)
}

/// The log after this one, once there is one.
fn newer(path: &Path, file: &File) -> io::Result<Option<File>> {
    let ours = file.metadata()?;
    if number(path, &ours).is_none() {
        // It may not be there yet, or no more, and there the next time.
        let next = files::open_through_links(path).ok();
        return Ok(next.filter(|next| next.metadata().is_ok_and(|meta| is_of(&meta, &ours))));
    }
    neighbour(path, file, |n| (0..n).rev().collect(), Ordering::Greater)
}

/// The last lines that are wanted, from as many files as it takes; this one is left at its end.
fn last(path: &Path, file: &mut File, count: usize, wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut lines = end(file, count, wanted)?;
    let mut at = file.try_clone()?;
    while lines.len() < count
        && let Some(mut before) = older(path, &at)?
    {
        let mut more = end(&mut before, count - lines.len(), wanted)?;
        more.append(&mut lines);
        (lines, at) = (more, before);
    }
    Ok(lines)
}

/// The last lines of one file that are wanted; it is left at its end.
fn end(file: &mut File, count: usize, wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut back = STEP;
    loop {
        let from = end.saturating_sub(back);
        back *= 4;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(end - from).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        // The first line may have been cut.
        let lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).filter(|l| wanted(l)).collect();
        if lines.len() >= count || from == 0 {
            let skip = lines.len().saturating_sub(count);
            return Ok(lines[skip..].iter().map(|l| (*l).to_owned()).collect());
        }
    }
}

/// Prints what is added, over rotation by rename and by truncation, until it is interrupted.
fn follow(path: &Path, file: File, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
    // It looks by the clock: what is written to a log says so too often.
    let watch = Watch::default();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    // After a rename the daemon writes to the old file until it has opened the new one, so that is read to its end.
    let mut next: Option<BufReader<File>> = None;
    loop {
        while reader.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
            let text = String::from_utf8_lossy(&line);
            if wanted(text.trim_end()) && !say(&text) {
                return Ok(());
            }
            line.clear();
        }
        if let Some(new) = next.take() {
            reader = new;
            line.clear();
            continue;
        }
        next = newer(path, reader.get_ref())?.map(BufReader::new);
        if next.is_some() {
            continue;
        }
        if watch.wait(Duration::from_millis(100))? == Woken::Unread {
            return Ok(());
        }
        if reader.get_ref().metadata()?.len() < reader.stream_position()? {
            reader.seek(SeekFrom::Start(0))?;
            line.clear();
        }
    }
}
