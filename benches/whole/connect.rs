//! `mcpdaemon --connect`: what it adds to a call over WebSocket, what it takes, and how soon its client is answered where no
//! instance runs yet.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::client::{self, HELLO, Measured, SMALL, Way, call};
use crate::program::{Daemon, memory};

/// The program and its client's side.
struct Shim {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shim {
    fn open(bin: &Path, daemon: &Daemon, target: &str, more: &[&str]) -> Shim {
        let mut child = Command::new(bin)
            .args(["--connect", target])
            .args(more)
            .env("MCP_RUN_DIR", &daemon.dir)
            .env("MCP_STATE_DIR", &daemon.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("mcpdaemon --connect");
        let (input, output) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
        let mut shim = Shim { child, input, output: BufReader::new(output) };
        shim.ask(HELLO);
        shim
    }

    fn ask(&mut self, text: &str) {
        self.input.write_all(format!("{text}\n").as_bytes()).expect("write");
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).expect("read") > 0, "it ended");
    }
}

/// One call after another, so many.
fn one_by_one(calls: usize, mut ask: impl FnMut()) -> Measured {
    let begin = Instant::now();
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begin = Instant::now();
        ask();
        times.push(begin.elapsed().as_secs_f64());
    }
    Measured::of(times, begin.elapsed())
}

/// Prints all of it, of so many calls.
pub fn print(bin: &Path, echo: &str, daemon: &Daemon, calls: usize) {
    println!("\nmcpdaemon --connect, {calls} calls one after another, beside the same over WebSocket");
    let text = call(Way::WebSocket, SMALL);
    let mut socket = client::websocket(&daemon.address, "/servers/echo/ws");
    client::send_text(&mut socket, HELLO);
    client::message(&mut socket);
    let direct = one_by_one(calls, || {
        client::send_text(&mut socket, &text);
        client::message(&mut socket);
    });
    let mut shim = Shim::open(bin, daemon, "bench/echo", &[]);
    let through = one_by_one(calls, || shim.ask(&text));
    let mut by_url = Shim::open(bin, daemon, &format!("http://{}/servers/echo/mcp", daemon.address), &[]);
    let far = one_by_one(calls, || by_url.ask(&text));
    println!("  WebSocket        p50 {:>7.1} us   p99 {:>7.1} us", direct.p50, direct.p99);
    println!("  --connect        p50 {:>7.1} us   p99 {:>7.1} us", through.p50, through.p99);
    println!("  added            p50 {:>7.1} us   p99 {:>7.1} us", through.p50 - direct.p50, through.p99 - direct.p99);
    println!("  by a URL         p50 {:>7.1} us   p99 {:>7.1} us", far.p50, far.p99);
    println!("  by a URL: resident {:.1} MiB", memory(by_url.child.id() as i32) / 1024.0);
    drop(by_url.input);
    let _ = by_url.child.wait();
    let resident = memory(shim.child.id() as i32) / 1024.0;
    let begin = Instant::now();
    drop(shim.input);
    let status = shim.child.wait().expect("its end");
    assert!(status.success(), "{status}");
    println!("  resident {resident:.1} MiB, ends {:.1} ms after its input", begin.elapsed().as_secs_f64() * 1e3);
    let mut other = Daemon::prepare(bin, &format!("\"echo\": Stdio(command: [{echo:?}])"));
    let file = other.dir.join("bench.ron").display().to_string();
    let begin = Instant::now();
    let mut shim = Shim::open(bin, &other, "bench/echo", &["--start", "-c", &file]);
    shim.ask(&text);
    println!("  --start, to the first answer: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    drop(shim.input);
    let _ = shim.child.wait();
    assert!(other.is_ready(), "it was started");
}
