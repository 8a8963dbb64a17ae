//! The whole program against its limits: a fast echo child behind the daemon, over real sockets, beside what no bridge can be
//! faster than (`limits.rs`). `cargo bench` prints the tables; look at ratios and counts, not at single times.
//!
//! `cargo bench -- --quick` takes a minute. `BENCH_SECONDS` is the time of one measurement, `BENCH_ROUNDS` how often each is
//! made: what is compared is measured in turn, and the medians are shown. `BENCH_OTHER` is the path of mcpway,
//! which is measured as well then. System calls are counted where there is strace(1).

mod client;
mod connect;
mod counts;
mod elsewhere;
mod held;
mod instructions;
mod limits;
mod lines;
mod many;
mod program;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Measured, Place, SMALL, Session, Way, load};
use limits::Limit;
use program::{Daemon, cpu};

const LARGE: usize = 64 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == limits::FLAG) {
        return limits::serve(&args[at + 1]);
    }
    let number = |name: &str, default: f64| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    let quick = args.iter().any(|arg| arg == "--quick");
    let time = Duration::from_secs_f64(number("BENCH_SECONDS", if quick { 0.4 } else { 1.5 }));
    let rounds = number("BENCH_ROUNDS", if quick { 1.0 } else { 5.0 }) as usize;
    raise_nofile();
    let bench = Bench::new(time, rounds);
    bench.speed(if quick { &[1, 16] } else { &[1, 16, 64] });
    bench.pipelined();
    bench.large();
    bench.counts(if quick { 0.5 } else { 2.0 });
    instructions::print(&bench.bin, &bench.echo, &bench.daemon, time);
    held::memory(&bench.bin, &bench.echo, if quick { 500 } else { 3000 });
    if !quick {
        held::beside_others(&bench.bin, &bench.echo, time);
    }
    let many = if quick { (200, 20) } else { (1000, 200) };
    many::print((&bench.bin, &bench.echo), [&bench.tcp, &bench.http], many, bench.rounds, bench.time);
    lines::print(&bench.daemon.address);
    connect::print(&bench.bin, &bench.echo, &bench.daemon, if quick { 2_000 } else { 10_000 });
    elsewhere::print(&bench.bin, &bench.daemon, if quick { 2_000 } else { 10_000 });
    started(&bench);
}

/// As many descriptors as may be: each session has one here.
fn raise_nofile() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Everything that is measured.
struct Bench {
    time: Duration,
    rounds: usize,
    bin: PathBuf,
    echo: String,
    daemon: Daemon,
    tcp: Limit,
    http: Limit,
    other: Vec<(Way, Other)>,
}

/// Another bridge, which serves one protocol at a time.
struct Other {
    child: Child,
    place: Place,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Other {
    /// mcpway with the same child.
    fn start(program: &str, echo: &str) -> Other {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let child = Command::new(program)
            .args(["--stdio", echo, "--output-transport", "ws", "--port", &port.to_string(), "--stateful"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the other bridge");
        let address = format!("127.0.0.1:{port}");
        let begin = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{program} does not listen at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Other { child, place: Place { address, http: "/mcp".into(), ws: "/message".into(), sse: "/sse".into() } }
    }
}

/// What was measured of one thing, in several rounds.
#[derive(Default)]
struct Rounds(Vec<(f64, f64, f64, f64)>);

impl Rounds {
    fn add(&mut self, measured: &Measured, cpu: f64) {
        self.0.push((measured.rate(), measured.p50, measured.p99, cpu / measured.calls as f64));
    }

    fn median(&self, of: fn(&(f64, f64, f64, f64)) -> f64) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }

    fn rate(&self) -> f64 {
        self.median(|r| r.0)
    }

    fn p50(&self) -> f64 {
        self.median(|r| r.1)
    }

    fn cpu(&self) -> f64 {
        self.median(|r| r.3)
    }

    fn print(&self, name: &str) {
        let (rate, p50, p99, cpu) = (self.rate(), self.p50(), self.median(|r| r.2), self.cpu());
        let cpu = if cpu > 0.0 { format!("{cpu:.1}") } else { "-".to_owned() };
        print!("  {name:16} {rate:>10.0} {p50:>9.1} {p99:>9.1} {cpu:>9}");
    }
}

const HEAD: &str = "                     calls/s    p50 µs    p99 µs   CPU µs";

impl Bench {
    fn new(time: Duration, rounds: usize) -> Bench {
        let bin = PathBuf::from(env!("CARGO_BIN_EXE_mcpdaemon"));
        let echo = find_echo(&bin);
        let daemon =
            Daemon::start(&bin, &format!("\"echo\": Stdio(command: [{echo:?}]), \"run\": Exec(allow: [\"seq\"])"));
        let other = match std::env::var("BENCH_OTHER") {
            // Over HTTP its sessions get no answer to this client's handshake.
            Ok(program) => vec![(Way::WebSocket, Other::start(&program, &echo))],
            Err(_) => Vec::new(),
        };
        Bench { time, rounds, bin, echo, daemon, tcp: Limit::start("tcp"), http: Limit::start("http"), other }
    }

    /// Where a way in is, and whose processor time counts.
    fn place(&self, way: Way) -> (Place, i32) {
        match way {
            Way::Tcp => (self.tcp.place.clone(), self.tcp.pid()),
            Way::InPlace => (self.http.place.clone(), self.http.pid()),
            Way::Bridge => (Place::bridge(&self.daemon.address), self.daemon.pid),
            _ => (Place::server(&self.daemon.address, "echo"), self.daemon.pid),
        }
    }

    fn open(&self, way: Way, sessions: usize, length: usize) -> Vec<Session> {
        let (place, _) = self.place(way);
        (0..sessions).map(|_| Session::open(way, &place, length)).collect()
    }

    /// One measurement of each, in turn, as often as there are rounds.
    fn measure(&self, ways: &[Way], sessions: usize, in_flight: usize, length: usize) -> Vec<Rounds> {
        let mut all: Vec<Rounds> = ways.iter().map(|_| Rounds::default()).collect();
        for _ in 0..self.rounds {
            for (way, rounds) in ways.iter().zip(&mut all) {
                let (_, pid) = self.place(*way);
                let mut open = self.open(*way, sessions, length);
                let before = cpu(pid);
                let measured = load(&mut open, in_flight, self.time);
                rounds.add(&measured, cpu(pid) - before);
            }
        }
        all
    }

    fn speed(&self, sessions: &[usize]) {
        const WAYS: [Way; 7] = [Way::Tcp, Way::InPlace, Way::WebSocket, Way::Bridge, Way::Http, Way::Modern, Way::Sse];
        for &sessions in sessions {
            println!("\n{sessions} session(s), one call in flight in each\n{HEAD}   CPU beside the limit");
            let mut pipe = Rounds::default();
            pipe.add(&limits::pipe(&self.echo, sessions, self.time), 0.0);
            pipe.print("the child alone");
            println!();
            let all = self.measure(&WAYS, sessions, 1, SMALL);
            for (way, rounds) in WAYS.iter().zip(&all) {
                let limit = match way {
                    Way::WebSocket | Way::Bridge => Some(&all[0]),
                    Way::Http | Way::Modern | Way::Sse => Some(&all[1]),
                    Way::Tcp | Way::InPlace => None,
                };
                rounds.print(way.name());
                println!("{}", limit.map_or(String::new(), |l| format!("   {:.2}x", rounds.cpu() / l.cpu())));
            }
            for (way, other) in &self.other {
                let mut rounds = Rounds::default();
                for _ in 0..self.rounds {
                    let mut open: Vec<Session> =
                        (0..sessions).map(|_| Session::open(*way, &other.place, SMALL)).collect();
                    let before = cpu(other.child.id() as i32);
                    let measured = load(&mut open, 1, self.time);
                    rounds.add(&measured, cpu(other.child.id() as i32) - before);
                }
                rounds.print(&format!("mcpway {}", way.name()));
                let own = &all[WAYS.iter().position(|w| w == way).unwrap_or_default()];
                println!("   {:.2}x as many calls/s here", own.rate() / rounds.rate());
            }
        }
    }

    /// Many calls of one session at a time.
    fn pipelined(&self) {
        println!("\n1 session, 16 calls in flight\n{HEAD}");
        let mut pipe = Rounds::default();
        pipe.add(&limits::pipe(&self.echo, 16, self.time), 0.0);
        pipe.print("the child alone");
        println!();
        self.measure(&[Way::WebSocket], 1, 16, SMALL)[0].print("WebSocket");
        println!();
        let (mut pipelined, mut spread) = (Rounds::default(), Rounds::default());
        for _ in 0..self.rounds {
            let (place, pid) = self.place(Way::Http);
            for (connections, each, rounds) in [(1, 16, &mut pipelined), (16, 1, &mut spread)] {
                let mut open = Session::open_http(&place, SMALL, connections);
                let before = cpu(pid);
                let measured = load(&mut open, each, self.time);
                rounds.add(&measured, cpu(pid) - before);
            }
        }
        pipelined.print("HTTP, pipelined");
        println!();
        spread.print("HTTP, 16 conn.");
        println!();
    }

    fn large(&self) {
        println!("\n4 sessions, calls of 64 KiB and answers of 64 KiB\n{HEAD}   CPU beside raw TCP, MB/s both ways");
        let ways = [Way::Tcp, Way::WebSocket, Way::Http];
        let all = self.measure(&ways, 4, 1, LARGE);
        for (way, rounds) in ways.iter().zip(&all) {
            rounds.print(way.name());
            println!("   {:.2}x {:>10.0}", rounds.cpu() / all[0].cpu(), rounds.rate() * 2.0 * LARGE as f64 / 1e6);
        }
    }

    fn counts(&self, seconds: f64) {
        println!("\n16 sessions, one call in flight: system calls of a call (without futex)");
        println!("                         all   empty reads   epoll_ctl");
        for way in [Way::WebSocket, Way::Bridge, Way::Http, Way::Modern, Way::Sse] {
            let mut open = self.open(way, 16, SMALL);
            load(&mut open, 1, Duration::from_millis(100));
            let Some(trace) = counts::Trace::begin(self.daemon.pid, &self.daemon.dir) else {
                return println!("  strace(1) is not there, or may not look");
            };
            let measured = load(&mut open, 1, Duration::from_secs_f64(seconds));
            let (all, empty, ctl) = counts::cost(&trace.end(), measured.calls);
            println!("  {:16} {:>11.2} {:>13.3} {:>11.3}", way.name(), all, empty, ctl);
        }
    }
}

/// From the command to the first answer, and how long mcpctl takes.
fn started(bench: &Bench) {
    let (mut starts, mut asks, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds.max(3) {
        let begin = Instant::now();
        let daemon = Daemon::start(&bench.bin, &format!("\"echo\": Stdio(command: [{:?}])", bench.echo));
        let mut open = vec![Session::open(Way::Http, &Place::server(&daemon.address, "echo"), SMALL)];
        load(&mut open, 1, Duration::ZERO);
        starts.push(begin.elapsed().as_secs_f64() * 1e3);
        let begin = Instant::now();
        assert!(daemon.ctl(&["status", "bench"]).status.success(), "mcpctl status");
        asks.push(begin.elapsed().as_secs_f64() * 1e3);
        let begin = Instant::now();
        limits::pipe(&bench.echo, 1, Duration::ZERO);
        alone.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "\nFrom the command to the first answer: {:.1} ms (the child alone: {:.1} ms); mcpctl status: {:.1} ms",
        median(&mut starts),
        median(&mut alone),
        median(&mut asks)
    );
}

/// The echo child lies beside the programs, as an example.
fn find_echo(bin: &Path) -> String {
    let folder = bin.parent().expect("a folder");
    let profile = if folder.ends_with("debug") { "dev" } else { "release" };
    let target = folder.parent().expect("the target folder");
    // Cargo builds no examples for a benchmark.
    let args = ["build", "--quiet", "--locked", "--example", "echo-server", "--profile", profile, "--target-dir"];
    let built = Command::new(env!("CARGO")).args(args).arg(target).status();
    assert!(built.is_ok_and(|s| s.success()), "cannot build the echo child");
    folder.join("examples/echo-server").display().to_string()
}
