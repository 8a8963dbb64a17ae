//! Instructions of a call in user space: the same on a busy machine as on an idle one. By perf(1) where the processor counts
//! them for us, else by valgrind(1), whose processor is slow and exact.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Place, SMALL, Session, Way, load};
use crate::program::Daemon;

/// So many sessions ask at a time.
const SESSIONS: usize = 4;
const WAYS: [Way; 5] = [Way::WebSocket, Way::Bridge, Way::Http, Way::Modern, Way::Sse];

/// Prints the table, by `daemon`, or by another one that is started for it.
pub fn print(bin: &Path, echo: &str, daemon: &Daemon, time: Duration) {
    println!("\n{SESSIONS} sessions, one call in flight: instructions of a call in user space");
    if let Some(first) = by_perf(daemon, WAYS[0], time) {
        row(WAYS[0], first);
        WAYS[1..].iter().filter_map(|way| Some((way, by_perf(daemon, *way, time)?))).for_each(|(w, n)| row(*w, n));
        return;
    }
    match Slow::start(bin, echo) {
        Ok(slow) => WAYS.iter().for_each(|way| row(*way, slow.cost(*way))),
        Err(why) => println!("  perf(1) counts none here, and {why}"),
    }
}

fn row(way: Way, instructions: f64) {
    println!("  {:16} {instructions:>11.0}", way.name());
}

fn open(daemon: &Daemon, way: Way) -> Vec<Session> {
    let place = match way {
        Way::Bridge => Place::bridge(&daemon.address),
        _ => Place::server(&daemon.address, "echo"),
    };
    (0..SESSIONS).map(|_| Session::open(way, &place, SMALL)).collect()
}

/// By the processor's own counters; None where there are none.
fn by_perf(daemon: &Daemon, way: Way, time: Duration) -> Option<f64> {
    let mut open = open(daemon, way);
    load(&mut open, 1, Duration::from_millis(100));
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "instructions:u", "-p", &daemon.pid.to_string()]);
    let perf = perf.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
    // It does not say when it has begun: what it misses of many calls is little.
    std::thread::sleep(Duration::from_millis(300));
    let measured = load(&mut open, 1, time.max(Duration::from_secs(1)));
    kill(Pid::from_raw(perf.id() as i32), Signal::SIGINT).ok()?;
    let said = perf.wait_with_output().ok()?;
    let count =
        String::from_utf8_lossy(&said.stderr).lines().find_map(|line| line.split(',').next()?.parse::<f64>().ok());
    Some(count? / measured.calls as f64)
}

/// An instance on the processor of valgrind.
struct Slow {
    daemon: Daemon,
    valgrind: Child,
}

impl Slow {
    /// Starts it; the error says why there is none.
    fn start(bin: &Path, echo: &str) -> Result<Slow, String> {
        let mut daemon = Daemon::prepare(bin, &format!("\"echo\": Stdio(command: [{echo:?}])"));
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=calls"]).arg(bin).args([
            "--foreground",
            "-c",
            "bench.ron",
        ]);
        command
            .current_dir(&daemon.dir)
            .env("MCP_RUN_DIR", &daemon.dir)
            .env("MCP_STATE_DIR", &daemon.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut valgrind = command.spawn().map_err(|e| format!("valgrind(1) cannot be started: {e}"))?;
        let begin = Instant::now();
        while !daemon.is_ready() {
            if begin.elapsed() > Duration::from_secs(60) || valgrind.try_wait().is_ok_and(|ended| ended.is_some()) {
                let _ = (valgrind.kill(), valgrind.wait());
                return Err("valgrind(1) does not run the daemon (3.21 and newer know pidfd_open(2))".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Slow { daemon, valgrind })
    }

    /// The difference between many calls and few, so that opening and closing sessions costs nothing.
    fn cost(&self, way: Way) -> f64 {
        let run = |calls: usize| {
            let mut open = open(&self.daemon, way);
            (0..calls / SESSIONS).for_each(|_| {
                load(&mut open, 1, Duration::ZERO);
            });
            open.into_iter().for_each(Session::leave);
            self.total()
        };
        let (few, many) = (100, 1100);
        run(few);
        let begin = run(0);
        let (after_few, after_many) = (run(few), run(many));
        ((after_many - after_few) - (after_few - begin)) / (many - few) as f64
    }

    /// All instructions so far.
    fn total(&self) -> f64 {
        let told = Command::new("callgrind_control").arg("-d").arg(self.valgrind.id().to_string()).output();
        assert!(told.is_ok_and(|out| out.status.success()), "callgrind_control");
        let dumps = std::fs::read_dir(&self.daemon.dir).expect("a folder").flatten();
        let dumps = dumps.filter(|file| file.file_name().to_string_lossy().starts_with("calls."));
        let total = |text: String| {
            let line = text.lines().find(|l| l.starts_with("totals:") || l.starts_with("summary:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        dumps.filter_map(|file| total(std::fs::read_to_string(file.path()).ok()?)).sum()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Its end would take long: what it has started ends with it.
        let _ = (self.valgrind.kill(), self.valgrind.wait());
    }
}
