//! What a call costs in system calls, which no busy machine blurs, and that nothing happens while nothing is asked for
//! (design: "Speed"). Times are the benchmark's affair.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::*;
use counts::{Counts, Trace};

#[path = "../../benches/whole/counts.rs"]
mod counts;

fn trace(daemon: &Daemon<'_>) -> Trace {
    Trace::begin(daemon.pid, &daemon.scratch.path("")).expect("strace, which follows the daemon")
}

/// The daemon lets no process of its own user look into it (prctl(2), PR_SET_DUMPABLE).
fn may_trace() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("not root: system calls of the daemon cannot be counted");
    }
    root
}

/// Asks by many sessions at a time, again and again: what a call costs, and how many reads found nothing.
fn cost(daemon: &Daemon<'_>, what: &str, sessions: &mut [Box<dyn FnMut(bool) + '_>]) {
    const ROUNDS: usize = 60;
    let mut round = |n: usize| {
        for _ in 0..n {
            sessions.iter_mut().for_each(|session| session(true));
            sessions.iter_mut().for_each(|session| session(false));
        }
    };
    round(2);
    let trace = trace(daemon);
    round(ROUNDS);
    let counts: Counts = trace.end();
    let (all, empty, ctl) = counts::cost(&counts, ROUNDS * sessions.len());
    assert!(all >= 2.0, "{what}: {all} a call; not all was seen: {counts:?}");
    assert!(all <= 2.6 && empty <= 0.1 && ctl <= 0.15, "{what}: {all} a call, {empty} reads of nothing: {counts:?}");
}

#[test]
fn a_call_takes_a_read_a_write_and_its_share_of_the_pipe() {
    const SESSIONS: usize = 48;
    if !may_trace() {
        return;
    }
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", &format!("\"e\": Stdio(command: [{:?}])", example("echo-server"))));
    let request = call(1, "echo", json!({"text": "x".repeat(40)})).to_string();
    let mut all: Vec<_> = (0..SESSIONS).map(|_| daemon.ws("e")).collect();
    let sessions = all.iter_mut().map(|ws| {
        let request = &request;
        Box::new(move |asks| if asks { ws.send(request) } else { drop(ws.next().unwrap()) }) as Box<dyn FnMut(bool)>
    });
    cost(&daemon, "WebSocket", &mut sessions.collect::<Vec<_>>());
    drop(all);
    let mut all: Vec<_> = (0..SESSIONS).map(|_| daemon.http("e")).collect();
    let sessions = all.iter_mut().map(|http| {
        let request = &request;
        Box::new(move |asks| match asks {
            true => http.send(request),
            false => assert_eq!(http.raw.response().status, 200),
        }) as Box<dyn FnMut(bool)>
    });
    cost(&daemon, "HTTP", &mut sessions.collect::<Vec<_>>());
    drop(all);
    let mut body = serde_json::from_str::<serde_json::Value>(&request).unwrap();
    body["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let (address, body) = (daemon.address(), body.to_string());
    let request = format!(
        "POST /servers/e/mcp HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: echo\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut all: Vec<_> = (0..SESSIONS).map(|_| Raw::open(address)).collect();
    let sessions = all.iter_mut().map(|raw| {
        let request = &request;
        Box::new(move |asks| match asks {
            true => raw.send(request.as_bytes()),
            false => assert_eq!(raw.response().status, 200),
        }) as Box<dyn FnMut(bool)>
    });
    cost(&daemon, "modern HTTP", &mut sessions.collect::<Vec<_>>());
}

#[test]
fn a_long_message_goes_through_in_one_piece() {
    if !may_trace() {
        return;
    }
    const ROUNDS: usize = 100;
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", &format!("\"e\": Stdio(command: [{:?}])", example("echo-server"))));
    let request = call(1, "echo", json!({"text": "x".repeat(64 << 10)})).to_string();
    let mut ws = daemon.ws("e");
    let mut round = |n: usize| {
        for _ in 0..n {
            ws.send(&request);
            assert_eq!(said(&ws.next().unwrap()).len(), 64 << 10);
        }
    };
    round(3);
    let trace = trace(&daemon);
    round(ROUNDS);
    let counts = trace.end();
    let of = |names: &[&str]| names.iter().filter_map(|n| counts.get(*n)).map(|(n, _)| *n).sum::<u64>() as f64;
    let (pipe, socket) = (of(&["read", "write"]) / ROUNDS as f64, of(&["recvfrom", "sendto"]) / ROUNDS as f64);
    // The client's library sends and takes it as it likes: the socket may take more than a read and a write.
    assert!(
        (2.0..2.6).contains(&pipe),
        "{pipe} reads and writes of the pipes for a call, {socket} of the socket: {counts:?}"
    );
}

#[test]
fn an_idle_daemon_makes_no_system_call_in_ten_seconds() {
    if !may_trace() {
        return;
    }
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    daemon.ws("fake").ask(&call(1, "echo", json!({"text": "a"})));
    daemon.http("fake").ask(&call(1, "echo", json!({"text": "b"})));
    // What follows the start and the last call comes first: the status, and memory that is given back. And now and then
    // the server is asked whether it lives.
    let begin = Instant::now();
    loop {
        let trace = trace(&daemon);
        let from = Instant::now();
        wait("ten seconds", || (from.elapsed() >= Duration::from_secs(10)).then_some(()));
        let mut counts = trace.end();
        // The wait that strace has interrupted.
        counts.remove("restart_syscall");
        if counts.is_empty() {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{counts:?}");
    }
}

/// What of a process is in memory and its own, in KiB.
fn own_memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn idle_connections_and_streams_keep_no_buffers() {
    const MANY: usize = 400;
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "limits: (connections: 2000, sessions: 2000),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let warm: Vec<Http> = (0..20).map(|_| daemon.http("fake")).collect();
    let before = own_memory(daemon.pid);
    let mut http: Vec<Http> = (0..MANY).map(|_| daemon.http("fake")).collect();
    let streams: Vec<Raw> = http.iter().map(Http::stream).collect();
    // What comes in a burst takes a buffer of its own, until it is used.
    for one in &mut http {
        let note =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"x":"{}"}}}}"#, "x".repeat(4 << 10));
        (0..14).for_each(|_| one.send(&note));
        (0..14).for_each(|_| assert_eq!(one.raw.response().status, 202));
    }
    // Two connections and a session: with the buffers of the HTTP library it is more than 32 KiB.
    let each = || (own_memory(daemon.pid) - before) / MANY as i64;
    wait("buffers that are given back", || (each() < 20).then_some(()));
    // And all go on.
    for one in &mut http {
        assert_eq!(said(&one.ask(&call(1, "echo", json!({"text": "still here"})))), "still here");
    }
    drop((warm, streams));
}
