//! `mcpctl logs`: the end of an instance's log, and what follows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Place, say};
use crate::cli::Logs;
use crate::model::exit::{Exit, Failure, plain};
use crate::sys::paths;

/// How far back the last lines are looked for at first, in bytes; then further.
const STEP: u64 = 64 << 10;

pub fn run(place: &Place, args: &Logs) -> Result<Exit, Failure> {
    let found = place.find(&args.name)?;
    let foreground = found.status.as_ref().is_some_and(|s| s.log.is_none());
    if foreground {
        let text =
            format!("{}: it runs in front and logs to its standard error (under systemd: journalctl)", args.name);
        return Err(Failure::new(Exit::Failed, text));
    }
    let path = found.status.and_then(|s| s.log).map(PathBuf::from);
    let path = path.unwrap_or_else(|| paths::log_dir().join(format!("{}.log", args.name)));
    let wanted = |line: &str| args.server.as_ref().is_none_or(|server| mentions(line, server));
    let mut file = File::open(&path).map_err(|e| cannot_read(&path, &e))?;
    for line in last(&mut file, args.lines, &wanted).map_err(|e| cannot_read(&path, &e))? {
        if !say(&line) {
            return Ok(Exit::Ok);
        }
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    follow(&path, file, &wanted).map_err(|e| cannot_read(&path, &e))?;
    Ok(Exit::Ok)
}

fn cannot_read(path: &Path, e: &io::Error) -> Failure {
    let exit = match e.kind() {
        io::ErrorKind::PermissionDenied => Exit::CtlPermission,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{}: cannot read the log: {}", path.display(), plain(e)))
}

/// A line of a server is tagged `[NAME]` if the server's child wrote it, and names it in quotes otherwise.
fn mentions(line: &str, server: &str) -> bool {
    line.contains(&format!("[{server}] ")) || line.contains(&format!("server '{server}'"))
}

/// The last lines that are wanted; the file is left at its end.
fn last(file: &mut File, count: usize, wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<String>> {
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
        std::thread::sleep(Duration::from_millis(100));
        let open = reader.get_ref().metadata()?;
        if let Ok(there) = std::fs::metadata(path) {
            if (there.dev(), there.ino()) != (open.dev(), open.ino()) {
                // It may be gone again, and there the next time.
                next = File::open(path).ok().map(BufReader::new);
            } else if there.len() < reader.stream_position()? {
                reader.seek(SeekFrom::Start(0))?;
                line.clear();
            }
        }
    }
}
