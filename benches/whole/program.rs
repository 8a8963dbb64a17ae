//! The daemon under test, and what the system says of a process.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An instance that runs, in a folder of its own.
pub struct Daemon {
    pub pid: i32,
    pub address: String,
    pub dir: PathBuf,
    bin: PathBuf,
}

impl Daemon {
    /// One with these servers, not yet started.
    pub fn prepare(bin: &Path, servers: &str) -> Daemon {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("mcpdaemon-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch folder");
        let daemon = Daemon { pid: 0, address: String::new(), dir, bin: bin.to_owned() };
        daemon.configure(servers);
        daemon
    }

    /// Whether one that was started otherwise serves; if so, it is known where.
    pub fn is_ready(&mut self) -> bool {
        let status = std::fs::read_to_string(self.dir.join("bench.status")).unwrap_or_default();
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&status) else { return false };
        let url = status["listen"][0].as_str().and_then(|url| url.strip_prefix("http://"));
        let (Some(url), Some(pid), "ready") = (url, status["pid"].as_i64(), status["state"].as_str().unwrap_or(""))
        else {
            return false;
        };
        (self.address, self.pid) = (url.to_owned(), pid as i32);
        true
    }

    /// Starts one with these servers, by the program `bin`.
    pub fn start(bin: &Path, servers: &str) -> Daemon {
        let mut daemon = Daemon::prepare(bin, servers);
        let out = Command::new(bin)
            .arg("-c")
            .arg(daemon.dir.join("bench.ron"))
            .env("MCP_RUN_DIR", &daemon.dir)
            .env("MCP_STATE_DIR", &daemon.dir)
            .output();
        let out = out.expect("mcpdaemon");
        let line = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{line}{}", String::from_utf8_lossy(&out.stderr));
        daemon.pid = between(&line, "(pid ", ",").parse().expect("a pid");
        daemon.address = between(&line, "http://", " ").to_owned();
        daemon
    }

    /// Writes its configuration.
    pub fn configure(&self, servers: &str) {
        let log = self.dir.join("bench.log");
        let text = format!(
            "(allow_root: true, listen: [\"127.0.0.1:0\"], log: (file: {log:?}, level: Warn), limits: (sessions: 50000, connections: 50000), servers: {{{servers}}})"
        );
        std::fs::write(self.dir.join("bench.ron"), text).expect("a configuration");
    }

    /// Runs mcpctl.
    pub fn ctl(&self, args: &[&str]) -> std::process::Output {
        let ctl = self.bin.with_file_name("mcpctl");
        Command::new(ctl).args(args).env("MCP_RUN_DIR", &self.dir).output().expect("mcpctl")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.pid != 0 {
            self.ctl(&["stop", "bench"]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let rest = text.split_once(from).expect("a start line").1;
    rest.split_once(to).map_or(rest, |(a, _)| a)
}

/// Resident memory of a process, in KiB.
pub fn memory(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// Processor time of all threads of a process, in microseconds.
pub fn cpu(pid: i32) -> f64 {
    let mut sum = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").flatten() {
        // Nanoseconds on the processor: finer than the ticks of stat.
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += stat.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e3;
    }
    sum
}
