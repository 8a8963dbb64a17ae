//! `mcpctl stop`: asks an instance to drain and end, and waits until nothing of it is left.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::place::{Age, Found, Place, complain, each, running, say, signal};
use crate::cli::Stop;
use crate::model::exit::{Exit, Failure};
use crate::model::text::duration;
use crate::sys::pidfile::{PidFile, Refused};
use crate::sys::{files, process};

/// One that neither answers nor ends for so long after its drain is killed.
const SILENT: Duration = Duration::from_secs(10);
/// How long a drain takes, where the status does not say it: the default of `drain_timeout`.
const DRAIN: Duration = Duration::from_secs(10);
/// After SIGKILL, how long the kernel, the guard and we may take.
const AFTER_KILL: Duration = Duration::from_secs(5);

pub(super) fn run(place: &Place, args: &Stop) -> Result<Exit, Failure> {
    let names = match args.port {
        None => place.chosen("stop", &args.names, args.all)?,
        Some(_) if args.all || !args.names.is_empty() => {
            return Err(Failure::new(Exit::CtlUsage, "mcpctl stop: --port goes alone, without names and --all"));
        }
        Some(port) => vec![at_port(place, port)?],
    };
    // All are asked first, so that they drain side by side.
    let mut asked: HashMap<&str, Result<Found, Failure>> = HashMap::new();
    for name in &names {
        asked.insert(name, ask(place, name, args.force));
    }
    Ok(each(&names, |name| match asked.remove(name) {
        Some(Ok(found)) => wait(found, args),
        // With --all, one that ended meanwhile is as good as stopped.
        Some(Err(failure)) if args.all && failure.exit == Exit::CtlNotRunning => Ok(()),
        Some(Err(failure)) => Err(failure),
        None => Ok(()),
    }))
}

/// The instance that listens at this port.
fn at_port(place: &Place, port: u16) -> Result<String, Failure> {
    let ends = format!(":{port}");
    let listens = |name: &String| {
        let found = place.find(name).ok()?;
        running(&found).ok()?;
        found.status?.listen.iter().any(|url| url.ends_with(&ends)).then(|| name.clone())
    };
    let found: Vec<String> = place.names()?.iter().filter_map(listens).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let text = format!("mcpctl stop: no instance listens at port {port} ('mcpctl list' shows who does)");
            Err(Failure::new(Exit::CtlNotRunning, text))
        }
        several => {
            let text = format!("mcpctl stop: several instances listen at port {port}: {}", several.join(", "));
            Err(Failure::new(Exit::CtlUsage, text))
        }
    }
}

/// The beginning of the marks of all that a daemon started, or any daemon of that name.
fn mark_of(place: &Place, name: &str, pid: Option<Pid>) -> String {
    let pid = pid.map_or(String::new(), |pid| format!("{pid}:"));
    format!("{}:{pid}", place.dir.join(name).display())
}

fn ask(place: &Place, name: &str, force: bool) -> Result<Found, Failure> {
    let found = place.find(name)?;
    match running(&found) {
        Ok((pid, handle)) => signal(name, pid, handle, Signal::SIGTERM)?,
        Err(failure) if failure.exit == Exit::CtlNotRunning && force => {
            // Even then something may be left of a daemon that was killed. With the lock, so that none of that name
            // starts meanwhile and loses its children.
            let lock = match PidFile::lock(&found.place.pid_file(name)) {
                Ok(lock) => lock,
                Err(Refused::Running(_)) => {
                    return Err(Failure::new(Exit::Failed, format!("{name}: it is just starting; try again")));
                }
                Err(Refused::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => return Err(failure),
                Err(Refused::Io(e)) => return Err(Place::cannot("lock", &found.place.pid_file(name), &e)),
            };
            let mark = mark_of(&found.place, name, None);
            let (ended, _) = process::end_marked(|m| m.starts_with(&mark), Duration::from_secs(1), AFTER_KILL);
            remove_files(&found, lock);
            let more =
                if ended > 0 { format!("; ended {ended} processes that it had left behind") } else { String::new() };
            return Err(Failure::new(failure.exit, failure.text + &more));
        }
        Err(failure) => return Err(failure),
    }
    Ok(found)
}

fn wait(mut found: Found, args: &Stop) -> Result<(), Failure> {
    let name = found.name.clone();
    let (pid, _) = running(&found)?;
    let (name, mark) = (name.as_str(), mark_of(&found.place, &name, Some(pid)));
    let start = Instant::now();
    let mut shown = Vec::new();
    loop {
        let (_, handle) = running(&found)?;
        let left = args.timeout.saturating_sub(start.elapsed());
        let ended = handle.wait_end(left.min(Duration::from_secs(1))).map_err(|e| unwatchable(name, &e))?;
        if ended {
            break;
        }
        if left.is_zero() {
            return overdue(name, args, &found, &mark);
        }
        found.refresh();
        if found.age == Age::Silent {
            let drain = found.status.as_ref().map_or(DRAIN, |status| Duration::from_secs_f64(status.drain_seconds));
            if start.elapsed() > drain + SILENT {
                return kill(name, &found, &mark, "it neither answers nor ends");
            }
            continue;
        }
        let waiting = found.status.as_ref().map(|s| s.waiting_for.clone()).unwrap_or_default();
        if !waiting.is_empty() && waiting != shown {
            complain(&format!("{name}: waits for {}", waiting.join(", ")));
            shown = waiting;
        }
    }
    leftovers(name, &mark)?;
    say(&format!("{name}: stopped (pid {pid}, after {})", duration(rounded(start.elapsed()))));
    Ok(())
}

fn overdue(name: &str, args: &Stop, found: &Found, mark: &str) -> Result<(), Failure> {
    let limit = duration(args.timeout);
    if !args.force {
        let waiting = found.place.status(name).map(|s| s.waiting_for.join(", ")).filter(|w| !w.is_empty());
        let waiting = waiting.map_or(String::new(), |w| format!(", waiting for {w}"));
        let text = format!("{name}: still running after {limit}{waiting} (--force kills it)");
        return Err(Failure::new(Exit::Failed, text));
    }
    kill(name, found, mark, &format!("after {limit}"))
}

/// Ends what does not end by itself, and removes what it would have removed.
fn kill(name: &str, found: &Found, mark: &str, why: &str) -> Result<(), Failure> {
    let (pid, handle) = running(found)?;
    signal(name, pid, handle, Signal::SIGKILL)?;
    if !handle.wait_end(AFTER_KILL).map_err(|e| unwatchable(name, &e))? {
        return Err(Failure::new(Exit::Failed, format!("{name}: pid {pid} does not end even by SIGKILL; see ps(1)")));
    }
    leftovers(name, mark)?;
    // With the lock: another of that name may have begun to start.
    if let Ok(lock) = PidFile::lock(&found.place.pid_file(name)) {
        remove_files(found, lock);
    }
    say(&format!("{name}: killed (pid {pid}, {why})"));
    Ok(())
}

/// Removes the files of an instance that was killed: its status, one that it was just writing, and its PID file.
fn remove_files(found: &Found, lock: PidFile) {
    let status = found.place.status_file(&found.name);
    let _ = std::fs::remove_file(&status);
    files::remove_leftovers(&status);
    lock.remove();
}

/// Whatever bears the mark is ended: the guard does it too, but we are the ones who promised.
fn leftovers(name: &str, mark: &str) -> Result<(), Failure> {
    let (_, left) = process::end_marked(|m| m.starts_with(mark), Duration::from_millis(500), AFTER_KILL);
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{name}: these processes of it cannot be ended: {left:?}")))
}

fn unwatchable(name: &str, e: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{name}: cannot watch it: {}", crate::model::exit::plain(e)))
}

fn rounded(d: Duration) -> Duration {
    Duration::from_millis(d.as_millis() as u64)
}
