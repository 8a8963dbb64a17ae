//! The whole program against the limit: a fast echo child behind the daemon, over real sockets, beside a direct pipe
//! to the same child in the same run. `cargo bench` prints the table; look at the ratios, not at single numbers.
//!
//! One client thread drives all sessions, each with one request in flight; `BENCH_SECONDS` is the time per row.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const REQUEST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"0123456789012345678901234567890123456789"}}}"#;
const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;

struct Row {
    what: &'static str,
    sessions: usize,
    rate: f64,
    p50: f64,
    p99: f64,
    /// Daemon's processor time per message, in microseconds.
    cpu: Option<f64>,
}

fn main() {
    // cargo passes --bench; a filter is of no use here.
    let seconds: f64 = std::env::var("BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    let bin = Path::new(env!("CARGO_BIN_EXE_mcpdaemon"));
    let echo = find_echo(bin);
    let dir = std::env::temp_dir().join(format!("mcpdaemon-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch folder");
    let config = dir.join("bench.ron");
    let text = format!(
        "(listen: [\"127.0.0.1:0\"], log: (file: {:?}, level: Warn), limits: (sessions: 5000, connections: 8192), servers: {{\"echo\": Stdio(command: [{echo:?}]), \"run\": Exec(allow: [\"seq\"])}})",
        dir.join("bench.log")
    );
    std::fs::write(&config, text).expect("a configuration");
    let out = Command::new(bin).arg("-c").arg(&config).env("MCP_RUN_DIR", &dir).output().expect("mcpdaemon");
    let line = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{line}{}", String::from_utf8_lossy(&out.stderr));
    let address = between(&line, "http://", " ").to_owned();
    let pid: i32 = between(&line, "(pid ", ",").parse().expect("a pid");
    let idle = memory(pid);

    let mut rows = Vec::new();
    for sessions in [1, 16, 64] {
        rows.push(pipe(&echo, sessions, time));
        rows.push(sockets("HTTP", &address, sessions, time, pid));
        rows.push(sockets("WebSocket", &address, sessions, time, pid));
        rows.push(sockets("bridge", &address, sessions, time, pid));
    }
    println!(
        "\n{:10} {:>8} {:>12} {:>9} {:>9} {:>11} {:>9}",
        "", "sessions", "messages/s", "p50 µs", "p99 µs", "CPU µs/msg", "of pipe"
    );
    let pipes: HashMap<usize, f64> = rows.iter().filter(|r| r.what == "pipe").map(|r| (r.sessions, r.rate)).collect();
    for r in &rows {
        let cpu = r.cpu.map_or("-".to_owned(), |c| format!("{c:.1}"));
        let ratio = r.rate / pipes[&r.sessions];
        println!(
            "{:10} {:>8} {:>12.0} {:>9.1} {:>9.1} {cpu:>11} {ratio:>8.2}x",
            r.what, r.sessions, r.rate, r.p50, r.p99
        );
    }
    let with = |n: usize| {
        let held: Vec<TcpStream> = (0..n).map(|_| open("WebSocket", &address).0).collect();
        let grown = memory(pid);
        drop(held);
        grown
    };
    lines(&address);
    let before = memory(pid);
    let held = with(500);
    println!(
        "\nidle memory: {:.1} MiB; per idle WebSocket session: {:.1} KiB",
        mib(idle),
        (held - before) as f64 / 500.0 / 1024.0
    );
    let _ = Command::new(bin.with_file_name("mcpctl")).args(["stop", "bench"]).env("MCP_RUN_DIR", &dir).output();
    let _ = std::fs::remove_dir_all(&dir);
}

/// The echo child lies beside the programs, as an example.
fn find_echo(bin: &Path) -> String {
    let path: PathBuf = bin.with_file_name("examples").join("echo-server");
    if !path.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--release", "--example", "echo-server"]).status();
        assert!(built.is_ok_and(|s| s.success()), "cannot build the echo child");
    }
    path.display().to_string()
}

fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let rest = text.split_once(from).expect("a start line").1;
    rest.split_once(to).map_or(rest, |(a, _)| a)
}

fn memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a living daemon");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<i64>().ok()).expect("a number") * 1024
}

fn mib(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Processor time of all threads of a process, in seconds.
fn cpu(pid: i32) -> f64 {
    let mut sum = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").flatten() {
        // Nanoseconds on the processor: finer than the ticks of stat.
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += stat.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
    }
    sum
}

fn row(what: &'static str, sessions: usize, took: Duration, mut times: Vec<f64>, cpu: Option<f64>) -> Row {
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize] * 1e6;
    let cpu = cpu.map(|c| c / times.len() as f64 * 1e6);
    Row { what, sessions, rate: times.len() as f64 / took.as_secs_f64(), p50: at(0.5), p99: at(0.99), cpu }
}

/// The limit: as many requests in flight as there are sessions, straight to the child.
fn pipe(echo: &str, sessions: usize, time: Duration) -> Row {
    let mut child: Child =
        Command::new(echo).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the echo child");
    let mut stdin: ChildStdin = child.stdin.take().expect("stdin");
    let mut stdout: ChildStdout = child.stdout.take().expect("stdout");
    let request = format!("{REQUEST}\n");
    let mut buffer = vec![0; 1 << 16];
    let mut times = Vec::new();
    let mut sent: std::collections::VecDeque<Instant> = std::collections::VecDeque::new();
    let start = Instant::now();
    let mut due = sessions;
    while start.elapsed() < time || !sent.is_empty() {
        if due > 0 && start.elapsed() < time {
            let now = Instant::now();
            sent.extend(std::iter::repeat_n(now, due));
            stdin.write_all(request.repeat(due).as_bytes()).expect("write");
        }
        let n = stdout.read(&mut buffer).expect("read");
        let now = Instant::now();
        due = buffer[..n].iter().filter(|b| **b == b'\n').count();
        times.extend(sent.drain(..due).map(|s| (now - s).as_secs_f64()));
    }
    let took = start.elapsed();
    drop(stdin);
    let _ = child.wait();
    row("pipe", sessions, took, times, None)
}

/// A command's output, line by line by the executor's own protocol, beside the command alone.
fn lines(address: &str) {
    const LINES: usize = 200_000;
    let start = Instant::now();
    let mut seq = Command::new("seq").arg(LINES.to_string()).stdout(Stdio::piped()).spawn().expect("seq");
    let mut alone = Vec::new();
    seq.stdout.take().expect("stdout").read_to_end(&mut alone).expect("read");
    let _ = seq.wait();
    let direct = start.elapsed();
    let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"execute","params":{{"command":"seq {LINES}"}}}}"#);
    let (mut stream, frame) = websocket(address, "/servers/run/ws", &request);
    let start = Instant::now();
    stream.write_all(&frame).expect("write");
    let (mut buffer, mut kept, mut seen) = (vec![0; 1 << 18], Vec::new(), 0);
    while !kept.windows(17).any(|w| w == b"process.completed") {
        let n = stream.read(&mut buffer).expect("read");
        assert!(n > 0, "the daemon closed a connection");
        let before = kept.len().min(13);
        kept.drain(..kept.len() - before);
        kept.extend_from_slice(&buffer[..n]);
        seen += kept.windows(14).filter(|w| w == b"process.output").count();
    }
    let took = start.elapsed();
    assert_eq!(seen, LINES, "lines");
    println!(
        "\n{LINES} lines of a command: {:.2} s, {:.0} lines/s (the command alone: {:.3} s)",
        took.as_secs_f64(),
        LINES as f64 / took.as_secs_f64(),
        direct.as_secs_f64()
    );
}

/// A connected session and the bytes of its request.
fn open(what: &str, address: &str) -> (TcpStream, Vec<u8>) {
    if what == "HTTP" {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let mut buffer = vec![0; 1 << 16];
        let head = |session: &str, length: usize| {
            format!(
                "POST /servers/echo/mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{session}Content-Length: {length}\r\n\r\n"
            )
        };
        stream.write_all((head("", HELLO.len()) + HELLO).as_bytes()).expect("write");
        let mut read = String::new();
        while !(read.contains("\r\n\r\n") && read.ends_with('}')) {
            let n = stream.read(&mut buffer).expect("read");
            read.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        let id = between(&read, "mcp-session-id: ", "\r\n");
        let request =
            head(&format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n"), REQUEST.len()) + REQUEST;
        return (stream, request.into_bytes());
    }
    match what {
        "bridge" => websocket(address, "/ws/mcp", &REQUEST.replace(r#""echo""#, r#""echo__echo""#)),
        _ => websocket(address, "/servers/echo/ws", REQUEST),
    }
}

/// A connected WebSocket and the frame of a request.
fn websocket(address: &str, path: &str, request: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    let mut buffer = vec![0; 1 << 16];
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mcp\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("write");
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let n = stream.read(&mut buffer).expect("read");
        read.extend_from_slice(&buffer[..n]);
    }
    // A masked text frame (RFC 6455 section 5.2); a mask of zeros is a mask.
    let mut frame = match request.len() {
        n @ ..=125 => vec![0x81, 0x80 | n as u8],
        n => vec![0x81, 0x80 | 126, (n >> 8) as u8, n as u8],
    };
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(request.as_bytes());
    (stream, frame)
}

/// How long the whole answer at the beginning of `bytes` is; None while it is incomplete.
fn answer(what: &str, bytes: &[u8]) -> Option<usize> {
    if what == "HTTP" {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).expect("a head");
        let length: usize = between(head, "content-length: ", "\r\n").parse().expect("a length");
        return (bytes.len() >= end + length).then_some(end + length);
    }
    let (head, length) = match bytes.get(1)? {
        126 => (4, usize::from(*bytes.get(2)?) << 8 | usize::from(*bytes.get(3)?)),
        n => (2, usize::from(*n)),
    };
    (bytes.len() >= head + length).then_some(head + length)
}

fn sockets(what: &'static str, address: &str, sessions: usize, time: Duration, pid: i32) -> Row {
    let mut open: Vec<(TcpStream, Vec<u8>)> = (0..sessions).map(|_| open(what, address)).collect();
    let mut buffers: Vec<Vec<u8>> = vec![Vec::new(); sessions];
    let mut sent = vec![Instant::now(); sessions];
    let mut times = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    let (start, before) = (Instant::now(), cpu(pid));
    for (i, (stream, request)) in open.iter_mut().enumerate() {
        sent[i] = Instant::now();
        stream.write_all(request).expect("write");
    }
    while start.elapsed() < time {
        let ready: Vec<usize> = if sessions == 1 {
            vec![0]
        } else {
            let mut fds: Vec<PollFd<'_>> =
                open.iter().map(|(s, _)| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::from(1000u16)).expect("poll");
            (0..sessions).filter(|i| fds[*i].any().unwrap_or(false)).collect()
        };
        for i in ready {
            let (stream, request) = &mut open[i];
            let n = stream.read(&mut chunk).expect("read");
            assert!(n > 0, "the daemon closed a connection");
            buffers[i].extend_from_slice(&chunk[..n]);
            if let Some(length) = answer(what, &buffers[i]) {
                buffers[i].drain(..length);
                times.push(sent[i].elapsed().as_secs_f64());
                sent[i] = Instant::now();
                stream.write_all(request).expect("write");
            }
        }
    }
    let took = start.elapsed();
    row(what, sessions, took, times, Some(cpu(pid) - before))
}
