//! Everything at once: clients call while something goes wrong every second. Each request is answered, or fails with an
//! error that names the cause; no answer reaches another; and in the end everything is back where it began.
//!
//! `MCP_TEST_CHAOS` is the time in seconds, a minute if it is not set; `tests/chaos` runs it for ten minutes.
//! `MCP_TEST_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// Errors by their texts, with numbers left out.
    errors: Mutex<BTreeMap<String, u64>>,
    /// WebSockets that were told to come again.
    again: AtomicU64,
    over: AtomicBool,
}

impl Seen {
    /// An error is clear if it says which server had what trouble.
    fn error(&self, message: &Value) {
        let text = message["error"]["message"].as_str().unwrap_or_else(|| panic!("no answer and no error: {message}"));
        let named = ["server 'shared'", "server 'pool'", "server 'own'", "server 'one'", "the command was ended"];
        let clear = named.iter().any(|n| text.contains(n)) || text.contains("the session's child is not there yet");
        assert!(clear, "this error names no cause: {message}");
        let kind: String = text.lines().next().unwrap_or("").chars().filter(|c| !c.is_ascii_digit()).take(90).collect();
        *self.errors.lock().unwrap().entry(kind).or_default() += 1;
    }

    fn check(&self, answer: &Value, id: &Value, text: &str) {
        assert_eq!(&answer["id"], id, "{answer}");
        match answer.get("result") {
            Some(_) => {
                assert_eq!(said(answer), text, "somebody else's answer: {answer}");
                self.answered.fetch_add(1, SeqCst);
            }
            None => self.error(answer),
        }
    }
}

/// A client that calls over HTTP, by one connection or by one for each call.
fn http_client(address: &str, server: &str, number: u64, seen: &Seen) {
    let mut http = Http::open(address, server);
    let mut calls = 0;
    while !seen.over.load(SeqCst) {
        calls += 1;
        let text = format!("{server} {number} {calls}");
        let id = json!(format!("{calls}"));
        let request = call(id.clone(), "sleep", json!({"n": calls % 40, "text": text}));
        let response = match number % 2 {
            0 => http.post(&request.to_string()),
            _ => http.again().post(&request.to_string()),
        };
        assert_ne!(response.status, 0, "{server}: the connection was cut in the middle of {request}");
        seen.check(&response.messages().pop().unwrap(), &id, &text);
    }
    let end = http.bare("DELETE").response();
    assert_eq!(end.status, 204, "{end:?}");
}

/// A client on a WebSocket, with several calls at a time, that comes again when it is told to.
fn ws_client(address: &str, server: &str, number: u64, seen: &Seen) {
    let mut calls = 0u64;
    let open = || {
        let mut ws = Ws::open(address, &format!("/servers/{server}/ws"));
        ws.send(&initialize(json!("hello")).to_string());
        while ws.next().expect("a greeting")["id"] != "hello" {}
        ws
    };
    let mut ws = open();
    'calls: while !seen.over.load(SeqCst) {
        let mut open_calls = BTreeMap::new();
        for _ in 0..3 {
            calls += 1;
            let text = format!("{server} {number} {calls}");
            ws.send(&call(calls, "sleep", json!({"n": calls % 30, "text": text})).to_string());
            open_calls.insert(calls, text);
        }
        // Longer than any request may take; pings keep the read from timing out.
        let until = Instant::now() + Duration::from_secs(90);
        while !open_calls.is_empty() {
            let message = loop {
                assert!(Instant::now() < until, "{server}: no answer to {open_calls:?}");
                match ws.socket.read() {
                    Ok(tungstenite::Message::Text(text)) => {
                        break serde_json::from_str::<Value>(text.as_str()).unwrap();
                    }
                    Ok(tungstenite::Message::Close(frame)) => {
                        // In the middle of a message during an upgrade, and only then.
                        assert_eq!(frame.map(|f| u16::from(f.code)), Some(1012));
                        seen.again.fetch_add(1, SeqCst);
                        ws = open();
                        continue 'calls;
                    }
                    Ok(_) => {}
                    Err(e) => panic!("{server}: the WebSocket broke: {e}"),
                }
            };
            if message.get("method").is_some() {
                continue;
            }
            let id = message["id"].as_u64().unwrap_or_else(|| panic!("{message}"));
            let text = open_calls.remove(&id).unwrap_or_else(|| panic!("not ours: {message}"));
            seen.check(&message, &json!(id), &text);
        }
    }
}

/// A client of the executor.
fn exec_client(address: &str, number: u64, seen: &Seen) {
    let mut http = Http::open(address, "sh");
    let mut calls = 0;
    while !seen.over.load(SeqCst) {
        calls += 1;
        let text = format!("sh {number} {calls}");
        let command = format!("sleep 0.0{}; echo {text}", calls % 10);
        let response = http.post(&call(calls, "execute", json!({"command": command})).to_string());
        assert_ne!(response.status, 0, "sh: the connection was cut");
        let answer = response.messages().pop().unwrap();
        match answer["result"]["structuredContent"]["stdout"].as_str() {
            Some(said) => assert_eq!(said.trim_end(), text),
            None => seen.error(&answer),
        }
        seen.answered.fetch_add(1, SeqCst);
    }
    assert_eq!(http.bare("DELETE").response().status, 204);
}

#[test]
fn chaos_every_request_has_an_answer_and_all_is_well_in_the_end() {
    let time = Duration::from_secs(number("MCP_TEST_CHAOS", 60));
    let seed = number("MCP_TEST_SEED", u64::from(std::process::id()) << 20 | 0x5eed);
    println!("{} s, MCP_TEST_SEED={seed}", time.as_secs());
    let mut dice = Dice(seed);
    let scratch = Scratch::new();
    let more = "restart: (delay: \"20ms\", max_delay: \"100ms\", burst: 1000000), \
                health: (interval: \"100ms\", timeout: \"300ms\", failures: 3), stop: (stdin: \"200ms\", term: \"200ms\")";
    let servers = |extra: bool, timeout: u64| {
        let with = |name: &str, sharing: &str| {
            stdio(name, &[], &format!("{more}, request_timeout: \"{timeout}s\", sharing: {sharing}"))
        };
        let mut all = with("shared", "Shared") + &with("pool", "Pool(2)") + &with("own", "PerSession(spare: 1)");
        all.push_str("\"sh\": Exec(allow: [\"*\"], shell: \"/bin/sh\"),");
        if extra {
            all.push_str(&stdio("extra", &[], more));
        }
        all
    };
    let write = |extra, timeout| scratch.instance("t", &servers(extra, timeout));
    let daemon = scratch.start(&write(false, 60));
    let processes = |daemon: &Daemon<'_>| daemon.scratch.processes().len();
    let settled = |daemon: &Daemon<'_>| {
        let status = daemon.status();
        let all = status["servers"].as_array().unwrap().clone();
        let quiet = status["sessions"] == 0 && status["connections"] == 0 && status["state"] == "ready";
        let well = all.iter().all(|s| s["state"] == "ready" && s["requests"]["in_flight"] == 0);
        (quiet && well).then_some(status)
    };
    let first = wait("a quiet start", || settled(&daemon));
    let first_processes = wait("its processes", || Some(processes(&daemon)).filter(|n| *n == 7));

    let seen = Arc::new(Seen::default());
    let mut clients = Vec::new();
    for n in 0..8 {
        let (seen, address) = (seen.clone(), daemon.address().to_owned());
        clients.push(std::thread::spawn(move || match n {
            0 | 1 => http_client(&address, "shared", n, &seen),
            2 => http_client(&address, "pool", n, &seen),
            3 => http_client(&address, "own", n, &seen),
            4 => ws_client(&address, "shared", n, &seen),
            5 => ws_client(&address, "pool", n, &seen),
            6 => ws_client(&address, "own", n, &seen),
            _ => exec_client(&address, n, &seen),
        }));
    }

    let start = Instant::now();
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    let mut moved = 0;
    while start.elapsed() < time {
        let before = seen.answered.load(SeqCst);
        let server = ["shared", "pool", "own"][dice.roll(3) as usize];
        // One that has gone meanwhile is no reason to stop.
        let hit = |pid: i32, signal: i32| {
            // SAFETY: a plain system call on a child of this test's daemon.
            unsafe { libc::kill(pid, signal) };
        };
        let victim = |dice: &mut Dice| {
            let pids = daemon.server(server)["pids"].as_array().unwrap().clone();
            let chosen = pids.get(dice.roll(pids.len().max(1) as u64) as usize);
            chosen.and_then(Value::as_i64).map(|p| p as i32)
        };
        let what = match dice.roll(8) {
            0 => {
                victim(&mut dice).into_iter().for_each(|pid| hit(pid, libc::SIGKILL));
                "child killed"
            }
            1 => {
                victim(&mut dice).into_iter().for_each(|pid| hit(pid, libc::SIGSTOP));
                "child stopped for good"
            }
            2 => {
                if let Some(pid) = victim(&mut dice) {
                    hit(pid, libc::SIGSTOP);
                    std::thread::sleep(Duration::from_millis(dice.roll(200)));
                    hit(pid, libc::SIGCONT);
                }
                "child stopped for a moment"
            }
            3 => {
                write(dice.roll(2) == 0, 60 + dice.roll(3));
                let out = scratch.ctl(&["reload", "t"]);
                assert_eq!(code(&out), 0, "{}", stderr(&out));
                "reload"
            }
            4 => {
                let good = scratch.file("t.ron");
                scratch.write("t.ron", &good.replacen("servers", "sevrers", 1));
                let out = scratch.ctl(&["reload", "t"]);
                assert!(stderr(&out).contains("did you mean 'servers'?"), "{}", stderr(&out));
                scratch.write("t.ron", &good);
                "reload refused"
            }
            5 => {
                let out = scratch.ctl(&["restart", "t"]);
                assert_eq!(code(&out), 0, "{}", stderr(&out));
                "upgrade"
            }
            6 => {
                moved += 1;
                std::fs::rename(scratch.path("t.log"), scratch.path(&format!("t.log.{moved}"))).unwrap();
                assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
                assert!(scratch.path("t.log").exists());
                "log moved"
            }
            _ => {
                // Clients that leave in the middle of everything.
                let mut http = Http::open(daemon.address(), "shared");
                http.send(&call(1, "sleep", json!({"n": 5000})).to_string());
                let mut ws = daemon.ws("pool");
                ws.send(&call(1, "sleep", json!({"n": 5000})).to_string());
                let mut raw = Raw::open(daemon.address());
                raw.send(b"POST /servers/own/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Le");
                assert_eq!(http.bare("DELETE").response().status, 204);
                "clients cut"
            }
        };
        *done.entry(what).or_default() += 1;
        // A second goes by, and somebody has had an answer in it, or soon after.
        std::thread::sleep(Duration::from_millis(300 + dice.roll(700)));
        wait("answers", || (seen.answered.load(SeqCst) > before).then_some(()));
        if let Some(dead) = clients.iter().position(|c| c.is_finished()) {
            seen.over.store(true, SeqCst);
            clients.remove(dead).join().unwrap_or_else(|_| panic!("client {dead} has given up after '{what}'"));
        }
    }
    seen.over.store(true, SeqCst);
    for client in clients {
        client.join().unwrap();
    }

    // Back where it began.
    write(false, 60);
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    wait("quiet", || settled(&daemon));
    wait(&format!("{first_processes} processes as at first: {:?}", scratch.processes()), || {
        (processes(&daemon) == first_processes).then_some(())
    });
    let of = |status: &Value, what: &str| status["process"][what].as_u64().unwrap();
    let last = wait("as many descriptors as at first", || {
        let now = settled(&daemon)?;
        (of(&now, "open_files") <= of(&first, "open_files") + 2).then_some(now)
    });
    assert!(of(&last, "threads") <= of(&first, "threads") + 4, "threads: {} {}", first["process"], last["process"]);
    let (before, after) = (of(&first, "memory_bytes") >> 20, of(&last, "memory_bytes") >> 20);
    assert!(after <= before + 40, "memory: {before} MiB at first, {after} MiB in the end");
    let restarts: u64 = last["servers"].as_array().unwrap().iter().map(|s| s["restarts"].as_u64().unwrap()).sum();
    println!(
        "{} answered, {restarts} restarts, {} WebSockets came again",
        seen.answered.load(SeqCst),
        seen.again.load(SeqCst)
    );
    println!("done: {done:?}\nerrors: {:#?}", seen.errors.lock().unwrap());
    println!(
        "descriptors {} -> {}, threads {} -> {}, memory {before} -> {after} MiB",
        of(&first, "open_files"),
        of(&last, "open_files"),
        of(&first, "threads"),
        of(&last, "threads")
    );
    assert!(done.get("upgrade").is_some_and(|n| *n > 0) || time < Duration::from_secs(30), "{done:?}");
}
