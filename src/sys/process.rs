//! What /proc says of processes, and ending those that bear an instance's mark.
//!
//! Every child gets [`MARK`] in its environment, and its own children inherit it. So everything that an instance ever
//! started can be found, also what left its process group or session, and also after the daemon was killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::clock;
use super::pidfd::PidFd;
use crate::model::status::{ProcessState, Status};

/// The environment variable that marks everything an instance started: `INSTANCE:PID:STARTTIME:NONCE:SERIAL`.
pub(crate) const MARK: &str = "MCPDAEMON_MARK";

/// What a status file says, if it can be read and understood.
pub(crate) fn said(path: &Path) -> Option<Status> {
    serde_json::from_slice(&super::files::read(path, STATUS).ok()?).ok()
}

/// The longest status file that is read, in bytes.
pub(crate) const STATUS: u64 = 64 << 20;

/// So many processes of a family are looked at.
const FAMILY: usize = 1000;
/// So many descriptors of a family are counted: a look at each takes its time.
const DESCRIPTORS: u64 = 100_000;
/// Of so many descriptors of a process it is looked up whether they are sockets.
const SOCKETS: usize = 1000;

/// A process's start in clock ticks since boot: with the number it names one process for ever (proc(5), field 22).
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// Closes this process to others of its user: no core is dumped, and nobody but root reads its memory, its environment or
/// its descriptors, or traces it (prctl(2), PR_SET_DUMPABLE). A program that execve(2) has begun is open again.
pub(crate) fn hide() {
    // SAFETY: prctl with integers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// The user that a process runs as, by its effective user id; of one that is not dumpable as well, whose files in /proc are
/// root's.
pub(crate) fn user_of(pid: Pid) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process is there and not just waiting to be reaped.
pub(crate) fn lives(pid: Pid) -> bool {
    stat(pid).is_some_and(|s| s[0] != "Z")
}

/// Whether a process was stopped by a signal.
pub(crate) fn is_stopped(pid: Pid) -> bool {
    stat(pid).is_some_and(|s| s[0] == "T")
}

/// The fields of /proc/PID/stat behind the name, which may itself hold spaces and brackets; index 0 is the state.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect()).filter(|s: &Vec<String>| !s.is_empty())
}

/// The program's name and arguments, for messages.
pub(crate) fn command_line(pid: Pid) -> Option<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = raw.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let text = if words.is_empty() {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned()
    } else {
        words.join(" ")
    };
    Some(crate::model::text::printable(&text, 120))
}

/// What the kernel says of processes, together; with everything that they have started if `family` says so. What has
/// ended counts for nothing, also if it was not reaped yet.
pub(crate) fn usage(pids: &[i32], family: bool) -> crate::model::status::Process {
    let mut sum = crate::model::status::Process::default();
    // SAFETY: sysconf(3) only reads.
    let (tick, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    let (mut left, mut seen) = (pids.to_vec(), BTreeSet::new());
    let mut oldest = None::<u64>;
    while let Some(pid) = left.pop() {
        if !seen.insert(pid) || seen.len() > FAMILY {
            continue;
        }
        let Some(fields) = stat(Pid::from_raw(pid)).filter(|s| s[0] != "Z") else { continue };
        let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        sum.processes += 1;
        sum.cpu_seconds += (field(11) + field(12)) as f64 / tick.max(1) as f64;
        sum.threads += field(17);
        sum.memory_bytes += field(21) * page.max(0) as u64;
        let more = DESCRIPTORS.saturating_sub(sum.open_files) as usize;
        for (n, file) in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().take(more).enumerate() {
            sum.open_files += 1;
            // To read what each of many is costs more than it tells.
            let link = file.ok().filter(|_| n < SOCKETS).and_then(|f| std::fs::read_link(f.path()).ok());
            sum.sockets += u64::from(link.is_some_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:")));
        }
        sum.state = sum.state.max(ProcessState::of(&fields[0]));
        oldest = oldest.into_iter().chain([field(19)]).min();
        if family {
            left.extend(children_of(&pid.to_string()).0.iter().map(|p| p.as_raw()));
        }
    }
    sum.started = oldest.zip(booted()).map(|(ticks, boot)| {
        clock::rfc3339(boot + Duration::from_millis(ticks.saturating_mul(1000) / tick.max(1) as u64))
    });
    sum
}

/// When the machine started, by its clock of now (proc(5), /proc/stat).
fn booted() -> Option<SystemTime> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The direct children of a process, `self` included, and whether the kernel tells them at all (proc(5),
/// task/TID/children).
fn children_of(pid: &str) -> (Vec<Pid>, bool) {
    let (mut found, mut complete) = (Vec::new(), false);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        if let Ok(text) = std::fs::read_to_string(task.path().join("children")) {
            complete = true;
            found.extend(text.split_whitespace().filter_map(|p| p.parse().ok()).map(Pid::from_raw));
        }
    }
    (found, complete)
}

/// The direct children of this process, adopted orphans and zombies included (proc(5), task/TID/children; where the
/// kernel lacks that file, by the parent's number of every process).
pub(crate) fn children() -> Vec<Pid> {
    let (mut found, complete) = children_of("self");
    if !complete {
        let own = Pid::this().to_string();
        found.extend(all().filter(|pid| stat(*pid).is_some_and(|s| s.get(1) == Some(&own))));
    }
    found
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

/// The mark in a process's environment, as it was when its program started.
fn mark(pid: Pid) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARK}=");
    let entry = environment.split(|b| *b == 0).find_map(|e| e.strip_prefix(prefix.as_bytes()))?;
    String::from_utf8(entry.to_vec()).ok()
}

/// The daemon of an instance that still lives, found by the marks of its children. `key` is what its marks begin with.
///
/// Anybody can mark a process of his own and name another in the mark. So a mark counts only where its bearer runs as one of
/// `users`, whose processes could be children. What it names must be a process of one of the `owners`, as whom the daemon
/// may run, of the name of this program, and with the instance's lock open, as far as that can be seen (proc(5): root
/// alone sees it).
pub(crate) fn living_owner(key: &str, users: &[u32], owners: &[u32]) -> Option<Pid> {
    let of = |pid: Pid, users: &[u32]| user_of(pid).is_some_and(|uid| users.contains(&uid));
    all().filter(|pid| of(*pid, users)).filter_map(mark).find_map(|mark| {
        let mut parts = mark.strip_prefix(key)?.split(':');
        let (pid, start) = (parts.next()?.parse().ok().map(Pid::from_raw)?, parts.next()?.parse().ok()?);
        let lives = pid != Pid::this() && lives(pid) && start_time(pid) == Some(start);
        let daemon =
            || name(pid).is_some_and(|n| Some(n) == name(Pid::this())) && may_hold(pid, key.trim_end_matches(':'));
        (lives && of(pid, owners) && daemon()).then_some(pid)
    })
}

/// Whether a process has a PID or lock file open whose path begins so, be it removed since; also where that cannot be seen.
fn may_hold(pid: Pid, stem: &str) -> bool {
    let is_lock = |link: &Path| {
        let rest = link.to_str().and_then(|l| l.strip_prefix(stem));
        rest.is_some_and(|r| matches!(r.trim_end_matches(" (deleted)"), ".pid" | ".lock"))
    };
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(mut fds) => fds.any(|fd| fd.and_then(|fd| std::fs::read_link(fd.path())).is_ok_and(|link| is_lock(&link))),
        Err(_) => true,
    }
}

/// The name of a process's program, as the kernel has it: up to 15 bytes.
fn name(pid: Pid) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// Ends every process whose mark is wanted: SIGTERM, SIGKILL after `grace`, until none is left or `limit` is over. Gives
/// how many there were, and those that could not be ended.
pub(crate) fn end_marked(wanted: impl Fn(&str) -> bool, grace: Duration, limit: Duration) -> (usize, Vec<Pid>) {
    end_all(|pid| mark(pid).is_some_and(|m| wanted(&m)), grace, limit)
}

/// Ends what a child left behind: what bears its mark, and what is still in its session with its environment
/// cleared. Its leader must not have been reaped yet, so that no other process can have the group's number.
pub(crate) fn end_family(leader: Pid, own: &str, grace: Duration, limit: Duration) -> (usize, Vec<Pid>) {
    let leader = leader.to_string();
    // Its group, and the groups that members of its session have made.
    let in_session = |pid| stat(pid).is_some_and(|s| s[0] != "Z" && s.get(2..4).is_some_and(|s| s.contains(&leader)));
    end_all(|pid| in_session(pid) || mark(pid).as_deref() == Some(own), grace, limit)
}

/// So many looks in a row must find nothing before what was found at first counts as gone.
const LOOKS: u32 = 3;

/// Ends every process that is wanted: SIGTERM (and SIGCONT, for the stopped), SIGKILL after `grace`, until none is left
/// or `limit` is over. Gives how many there were, and those that could not be ended.
fn end_all(wanted: impl Fn(Pid) -> bool, grace: Duration, limit: Duration) -> (usize, Vec<Pid>) {
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    let mut empty = 0;
    loop {
        let left: Vec<Pid> = all().filter(|pid| *pid != Pid::this() && wanted(*pid)).collect();
        // What forks on and on may be missed by one look.
        empty = if left.is_empty() { empty + 1 } else { 0 };
        if empty > LOOKS || (empty > 0 && seen.is_empty()) || start.elapsed() >= limit {
            return (seen.len(), left);
        }
        for pid in left {
            let new = seen.insert(pid);
            let kill = start.elapsed() >= grace;
            // The handle is opened before the process is looked at again, so that a reused number is never signalled.
            let Ok(handle) = PidFd::open(pid) else { continue };
            if !wanted(pid) {
                continue;
            }
            if kill {
                let _ = handle.send(Signal::SIGKILL);
            } else if new {
                let _ = handle.send(Signal::SIGTERM);
                let _ = handle.send(Signal::SIGCONT);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Who listens on a TCP port, as `pid 4242, nginx: master process`, or as much of that as can be seen; None where nobody is.
pub(crate) fn port_holder(port: u16) -> Option<String> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit(':').next()?;
        let listening = *fields.get(3)? == "0A" && u16::from_str_radix(local, 16) == Ok(port);
        let inode = fields.get(9).filter(|_| listening)?;
        Some((format!("socket:[{inode}]"), fields.get(7)?.parse::<u32>().ok()?))
    };
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    // Of two addresses this very process may have opened one a moment ago.
    let mut all = tables.iter().flat_map(|table| table.lines().skip(1).filter_map(of_line));
    let (inode, uid) = all.find(|(inode, _)| !holds(Pid::this(), inode))?;
    let unseen = || match uid == nix::unistd::geteuid().as_raw() {
        // It may be just starting, or have another run directory.
        true => "a process of yours that only root may look into, perhaps another instance of mcpdaemon".to_owned(),
        false => format!("a process of the user {}", super::accounts::name_of(uid)),
    };
    socket_holder(&inode).or_else(|| instance_on(port)).or_else(|| Some(unseen()))
}

/// The instance of this user that says so in its status file: its descriptors are closed to all but root.
fn instance_on(port: u16) -> Option<String> {
    let ending = format!(":{port}");
    std::fs::read_dir(super::paths::run_dir()).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        let name = path.file_name()?.to_str()?.strip_suffix(".status")?.to_owned();
        let status = said(&path)?;
        let pid = Pid::from_raw(status.pid);
        let there = lives(pid) && start_time(pid) == Some(status.start_time);
        let listens = status.listen.iter().any(|url| url.ends_with(&ending));
        (there && listens).then(|| format!("pid {pid}, the instance '{name}' of mcpdaemon"))
    })
}

/// Whether a process has a socket open, as far as it may be looked into.
fn holds(pid: Pid, inode: &str) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|l| l == Path::new(inode)))
}

/// The process that has a socket: of several the oldest, for the others are its workers, or begin to be another program.
fn socket_holder(inode: &str) -> Option<String> {
    let pid = all().filter(|pid| holds(*pid, inode)).min_by_key(|pid| start_time(*pid).unwrap_or(u64::MAX))?;
    Some(format!("pid {pid}, {}", command_line(pid)?))
}
