//! What a call costs in numbers that no busy machine blurs: system calls, by strace(1).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// System calls of a process over some time, by name: how many, and how many of them failed.
pub type Counts = BTreeMap<String, (f64, f64)>;

/// strace(1), following a process with all its threads.
pub struct Trace {
    child: Child,
    out: std::path::PathBuf,
}

impl Trace {
    /// None where there is no strace(1), or it may not.
    pub fn begin(pid: i32, dir: &Path) -> Option<Trace> {
        let out = dir.join("strace.out");
        let mut child = Command::new("strace")
            .args(["-c", "-f", "-o"])
            .arg(&out)
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let begin = Instant::now();
        let traced = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|rest| rest.trim() != "0"))
        };
        while !traced() {
            if begin.elapsed() > Duration::from_secs(5) || child.try_wait().ok()?.is_some() {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // The other threads follow at once.
        std::thread::sleep(Duration::from_millis(100));
        Some(Trace { child, out })
    }

    pub fn end(mut self) -> Counts {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.child.wait();
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        let mut counts = Counts::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // "% time", "seconds", "usecs/call", "calls", perhaps "errors", "syscall".
            if let [_, _, _, calls, rest @ ..] = fields.as_slice()
                && let (Ok(calls), Some(name)) = (calls.parse::<f64>(), rest.last())
                && *name != "total"
            {
                let errors = if rest.len() > 1 { rest[0].parse().unwrap_or(0.0) } else { 0.0 };
                counts.insert((*name).to_owned(), (calls, errors));
            }
        }
        counts
    }
}

/// All but futex(2), reads that found nothing, and epoll_ctl(2).
pub fn summary(counts: &Counts) -> (f64, f64, f64) {
    let all = counts.iter().filter(|(name, _)| *name != "futex").map(|(_, (calls, _))| calls).sum();
    let reads = ["read", "recvfrom", "readv", "recvmsg"];
    let empty = reads.iter().filter_map(|name| counts.get(*name)).map(|(_, errors)| errors).sum();
    (all, empty, counts.get("epoll_ctl").map_or(0.0, |(calls, _)| *calls))
}
