//! What a call costs in numbers that no busy machine blurs: system calls, by strace(1). For the benchmark and the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// System calls of a process over some time, by name: how many, and how many of them failed. Those are left out that wait
/// for another thread, and those that only a program with debug assertions makes, to measure the steps of its tasks.
pub type Counts = BTreeMap<String, (u64, u64)>;

/// strace(1), following a process with all its threads.
pub struct Trace {
    child: Child,
    out: PathBuf,
}

impl Trace {
    /// Begins to count, with a file in `dir`. None where there is no strace(1), or it may not look into that process.
    pub fn begin(pid: i32, dir: &Path) -> Option<Trace> {
        let out = dir.join("strace.out");
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o"]).arg(&out).args(["-p", &pid.to_string()]).stderr(Stdio::null());
        let mut trace = Trace { child: command.spawn().ok()?, out };
        let follows = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
        };
        let begin = Instant::now();
        while !std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().all(follows) {
            if begin.elapsed() > Duration::from_secs(10) || trace.child.try_wait().ok()?.is_some() {
                trace.end();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(trace)
    }

    /// What was counted.
    pub fn end(mut self) -> Counts {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        let _ = self.child.wait();
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        let mut counts = Counts::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // "% time", "seconds", "usecs/call", "calls", perhaps "errors", "syscall".
            if let [_, _, _, calls, errors @ .., name] = fields.as_slice()
                && let Ok(calls) = calls.parse()
                && !["total", "futex", "clock_gettime"].contains(name)
            {
                let errors = errors.first().and_then(|e| e.parse().ok()).unwrap_or(0);
                counts.insert((*name).to_owned(), (calls, errors));
            }
        }
        counts
    }
}

/// How many system calls a call takes: all, reads that found nothing, and epoll_ctl(2).
pub fn cost(counts: &Counts, calls: usize) -> (f64, f64, f64) {
    let of = |n: u64| n as f64 / calls as f64;
    let reads = ["read", "recvfrom", "readv", "recvmsg"].iter().filter_map(|name| counts.get(*name));
    let empty = reads.map(|(_, errors)| errors).sum();
    let ctl = counts.get("epoll_ctl").map_or(0, |(n, _)| *n);
    (of(counts.values().map(|(n, _)| n).sum()), of(empty), of(ctl))
}
