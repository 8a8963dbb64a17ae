//! The upgrade in place: the program is exchanged under load, and nobody notices but the log.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::harness::*;

const QUICK: &str = "restart: (delay: \"50ms\", max_delay: \"200ms\", burst: 100)";

fn restart(daemon: &Daemon<'_>) {
    let out = daemon.scratch.ctl(&["restart", &daemon.name]);
    assert_eq!(code(&out), 0, "{}{}", stderr(&out), daemon.log());
    assert!(stdout(&out).starts_with(&format!("{}: restarted in place (", daemon.name)), "{}", stdout(&out));
}

/// The inode of the program that a process runs, and how often its image was exchanged is not to be seen: so its log.
fn upgrades(daemon: &Daemon<'_>) -> usize {
    daemon.log().matches(": upgraded in place, ").count()
}

#[test]
fn upgrade_keeps_pid_lock_children_sessions_and_counts() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "")));
    let (child, before) = (daemon.child("fake"), daemon.status());
    let mut http = daemon.http("fake");
    let mut ws = daemon.ws("fake");
    for round in 1..=3 {
        assert_eq!(said(&http.ask(&call(1, "count", json!({})))), (2 * round - 1).to_string());
        assert_eq!(said(&ws.ask(&call(1, "count", json!({})))), (2 * round).to_string());
        restart(&daemon);
    }
    let after = daemon.status();
    assert_eq!((after["pid"].clone(), daemon.child("fake")), (before["pid"].clone(), child));
    assert!(before["startup_ms"].as_u64().is_some(), "{before}");
    for same in ["start_time", "started", "startup_ms", "listen", "generation", "config"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!((&after["upgrades"], &after["sessions"], &after["state"]), (&json!(3), &json!(2), &json!("ready")));
    assert!(after["requests"]["total"].as_u64().unwrap() >= 7, "{after}");
    let text = after["last_upgrade"]["text"].as_str().unwrap();
    assert!(text.ends_with(": kept 1 process, 2 sessions and 2 connections"), "{text}");
    assert_eq!((upgrades(&daemon), &after["servers"][0]["restarts"]), (3, &json!(0)));
    // The lock is held as ever, and the file says who holds it.
    assert_eq!(code(&scratch.run(mcpdaemon(), &["-c", scratch.path("t.ron").to_str().unwrap()])), 75);
    assert_eq!(scratch.file("run/t.pid"), format!("{}\n", daemon.pid));
    // What else a daemon can do it still can.
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    kill(child, libc::SIGKILL);
    wait("another child", || Some(daemon.child("fake")).filter(|c| *c != child && *c != 0));
    assert_eq!(said(&http.ask(&call(9, "count", json!({})))), "1");
    daemon.stop();
}

#[test]
fn upgrades_while_commands_begin_and_end_lose_no_answer() {
    let scratch = Scratch::new();
    let servers = "\"sh\": Exec(allow: [\"*\"], shell: \"/bin/sh\", sessions: 20),";
    let daemon = scratch.start(&scratch.instance_with("t", "log: (level: Warn),", servers));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|all| {
        for client in 0..8 {
            let (over, address) = (&over, daemon.address());
            all.spawn(move || {
                let mut http = Http::open(address, "sh");
                for n in 0.. {
                    if over.load(std::sync::atomic::Ordering::SeqCst) {
                        break;
                    }
                    // Long enough that it takes time to be put into words.
                    let command = format!("head -c 200000 /dev/zero | tr '\\0' x; echo {client}.{n}");
                    let answer = http.ask(&call(n, "execute", json!({"command": command})));
                    let text = answer["result"]["structuredContent"]["stdout"].as_str();
                    assert!(text.is_some_and(|t| t.ends_with(&format!("{client}.{n}\n"))), "{answer:.300}");
                }
            });
        }
        for _ in 0..12 {
            restart(&daemon);
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert_eq!(daemon.status()["requests"]["in_flight"], 0);
}

#[test]
fn upgrade_answers_requests_in_flight_on_their_connections() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let mut http = daemon.http("fake");
    let mut ws = daemon.ws("fake");
    let mut plain = http.again();
    http.send(&call("slow", "sleep", json!({"n": 1500, "text": "answered"})).to_string());
    ws.send(&call("\u{20ac}", "sleep", json!({"n": 1500, "text": "answered"})).to_string());
    // With progress: an event stream that is in the middle.
    let mut request = call(7, "progress", json!({"n": 30, "ms": 50}));
    request["params"]["_meta"] = json!({"progressToken": "p"});
    plain.send(&request.to_string());
    let head = plain.raw.head();
    assert_eq!(head.header("content-type").as_deref(), Some("text/event-stream"), "{head:?}");
    wait("three requests", || (daemon.server("fake")["requests"]["in_flight"] == 3).then_some(()));
    restart(&daemon);
    assert_eq!(daemon.server("fake")["requests"]["in_flight"], 3, "{}", daemon.log());
    restart(&daemon);
    let answer = http.raw.response();
    assert_eq!((answer.status, answer.json()["id"].clone()), (200, json!("slow")), "{answer:?}");
    assert_eq!(said(&answer.json()), "answered");
    assert_eq!(said(&ws.next().unwrap()), "answered");
    let mut steps = Vec::new();
    for event in events(&mut plain.raw) {
        if event["method"] == "notifications/progress" {
            assert_eq!(event["params"]["progressToken"], "p");
            steps.push(event["params"]["progress"].as_u64().unwrap());
        } else {
            assert_eq!(event["id"], 7, "{event}");
        }
    }
    assert_eq!(steps, (1..=30).collect::<Vec<u64>>(), "each once, in order");
    // The connections are like any others afterwards.
    for http in [&mut http, &mut plain] {
        assert_eq!(said(&http.ask(&call(8, "echo", json!({"text": "on"})))), "on");
    }
    assert_eq!(daemon.server("fake")["requests"]["in_flight"], 0);
    let methods = daemon.server("fake")["methods"].clone();
    assert!(methods["tools/call"]["total"].as_u64() > Some(0) && methods["other"].is_null(), "{methods}");
}

#[test]
fn upgrade_keeps_request_timeouts_and_cancellation() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "request_timeout: \"1500ms\"")));
    let (mut http, mut ws) = (daemon.http("fake"), daemon.ws("fake"));
    let start = std::time::Instant::now();
    http.send(&call(1, "never", json!({})).to_string());
    ws.send(&call(2, "never", json!({})).to_string());
    wait("both", || (daemon.server("fake")["requests"]["in_flight"] == 2).then_some(()));
    restart(&daemon);
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#);
    wait("the child hears of it", || daemon.log().contains("[fake] cancelled").then_some(()));
    // No other request sets the clock going.
    let answer = http.raw.response().json();
    assert_eq!(answer["error"]["message"], "server 'fake' did not answer within 1s500ms", "{answer}");
    assert!(start.elapsed().as_millis() >= 1500);
    wait("nothing is open", || (daemon.server("fake")["requests"]["in_flight"] == 0).then_some(()));
}

#[test]
fn upgrade_in_the_middle_of_lines_and_streams() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    // A long answer that nobody reads yet, and a long request.
    let mut ws = daemon.ws("fake");
    ws.send(&call(1, "big", json!({"n": 20 << 20})).to_string());
    let text = "y".repeat(9 << 20);
    let mut http = daemon.http("fake");
    http.send(&call(2, "echo", json!({"text": text})).to_string());
    // Its answer is read as it comes: on a busy machine it may have begun, and one that is not read is cut in the end.
    let reader = std::thread::spawn(move || http.raw.response());
    restart(&daemon);
    let answer = ws.next();
    // It was either told to come again, or gets the whole.
    if let Some(answer) = answer {
        assert_eq!(said(&answer).len(), 20 << 20);
    }
    let answer = reader.join().unwrap();
    assert_eq!((answer.status, said(answer.messages().last().unwrap()) == text), (200, true));
}

/// All messages of the event stream that answers a POST, without the empty event in front.
fn events(raw: &mut Raw) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some(chunk) = raw.chunk() {
        // What has come together is sent together.
        all.extend(
            chunk.lines().filter_map(|l| l.strip_prefix("data: ")).map(|l| serde_json::from_str::<Value>(l).unwrap()),
        );
    }
    all
}

#[test]
fn upgrade_keeps_streams_and_subscriptions() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let mut http = daemon.http("fake");
    let mut stream = http.stream();
    let mut ws = daemon.ws("fake");
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "test://r"}});
    assert_eq!(http.ask(&subscribe)["result"], json!({}));
    restart(&daemon);
    http.ask(&call(2, "updated", json!({"uri": "test://r"})));
    assert_eq!(stream.event().unwrap()["method"], "notifications/resources/updated");
    http.ask(&call(3, "list_changed", json!({})));
    let event = stream.event().unwrap();
    assert!(event["method"].as_str().unwrap().ends_with("list_changed"), "{event}");
    assert!(ws.next().unwrap()["method"].as_str().unwrap().ends_with("list_changed"));
    // After the child's end its successor hears of the subscription, as ever.
    let child = daemon.child("fake");
    kill(child, libc::SIGKILL);
    wait("another child", || Some(daemon.child("fake")).filter(|c| *c != child && *c != 0));
    wait("the subscription at the new child", || {
        http.ask(&call(4, "updated", json!({"uri": "test://r"})));
        let event = stream.event().unwrap();
        (event["method"] == "notifications/resources/updated").then_some(())
    });
}

#[test]
fn upgrade_keeps_children_of_sessions_and_their_requests() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "sharing: PerSession(spare: 1)")));
    let (mut one, mut two) = (daemon.http("fake"), daemon.ws("fake"));
    two.send(&initialize(json!(0)).to_string());
    two.next().unwrap();
    for n in 1..=3 {
        assert_eq!(said(&one.ask(&call(1, "count", json!({})))), n.to_string());
    }
    assert_eq!(said(&two.ask(&call(1, "count", json!({})))), "1");
    let pids = daemon.server("fake")["pids"].clone();
    restart(&daemon);
    let mut after = daemon.server("fake")["pids"].as_array().unwrap().clone();
    after.retain(|p| pids.as_array().unwrap().contains(p));
    assert_eq!(after.len(), pids.as_array().unwrap().len(), "all are there: {pids} {after:?}");
    assert_eq!(said(&one.ask(&call(1, "count", json!({})))), "4", "each its own");
    assert_eq!(said(&two.ask(&call(1, "count", json!({})))), "2");
    // What the child asks goes to its own client, and the answer back.
    two.send(&call(5, "ask_back", json!({})).to_string());
    let asked = two.next().unwrap();
    assert!(asked["method"].as_str().is_some(), "{asked}");
    restart(&daemon);
    two.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"text": "mine"}}).to_string());
    let mut answer = two.next().unwrap();
    while answer["id"] != 5 {
        answer = two.next().unwrap();
    }
    assert!(answer["result"].is_object(), "{answer}");
}

#[test]
fn upgrade_keeps_commands_of_the_executor() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"sh\": Exec(allow: [\"*\"], shell: \"/bin/sh\")"));
    let mut ws = daemon.ws("sh");
    let script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.3; done; echo done >&2; exit 3";
    let mut request = call(1, "execute", json!({"command": script}));
    request["params"]["_meta"] = json!({"progressToken": "t"});
    ws.send(&request.to_string());
    let first = ws.next().unwrap();
    assert_eq!(first["params"]["message"], "line 1\n", "{first}");
    restart(&daemon);
    let mut told = String::from("line 1\n");
    let answer = loop {
        let message = ws.next().unwrap();
        match message["method"].as_str() {
            Some(_) => told.push_str(message["params"]["message"].as_str().unwrap()),
            None => break message,
        }
    };
    let result = &answer["result"]["structuredContent"];
    let lines: String = (1..=6).map(|i| format!("line {i}\n")).collect();
    assert_eq!((result["stdout"].as_str(), &result["exit_code"]), (Some(lines.as_str()), &json!(3)), "{answer}");
    assert_eq!((told.replace("done\n", ""), &result["stderr"]), (lines, &json!("done\n")));
    assert!(result["duration_ms"].as_u64().unwrap() >= 1500, "counted from its start: {result}");
    // Cancelled in the next program, it ends.
    ws.send(&call(2, "execute", json!({"command": "sleep 600"})).to_string());
    let pid = wait("the command", || daemon.server("sh")["pids"][0].as_i64());
    restart(&daemon);
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#);
    wait("its end", || (!alive(pid as i32)).then_some(()));
}

#[test]
fn upgrade_keeps_modern_requests_and_subscriptions() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--modern"], QUICK)));
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"}});
    let request = |id: Value, method: &str, mut params: Value| {
        params["_meta"] = meta.clone();
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
    };
    let send = |method: &str, name: &str, body: &str| {
        let mut raw = Raw::open(daemon.address());
        let head = format!(
            "POST /servers/fake/mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\n\
             Mcp-Method: {method}\r\n{name}Content-Length: {}\r\n\r\n",
            daemon.address(),
            body.len()
        );
        raw.send(&[head.as_bytes(), body.as_bytes()].concat());
        raw
    };
    let filter = json!({"notifications": {"toolsListChanged": true}});
    let mut listen = send("subscriptions/listen", "", &request(json!("s"), "subscriptions/listen", filter));
    assert_eq!(listen.head().status, 200);
    assert_eq!(listen.event().unwrap()["method"], "notifications/subscriptions/acknowledged");
    let tool = |name: &str, args: Value| json!({"name": name, "arguments": args});
    let mut slow = send(
        "tools/call",
        "Mcp-Name: sleep\r\n",
        &request(json!(9), "tools/call", tool("sleep", json!({"n": 1200, "text": "late"}))),
    );
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    let pids = daemon.server("fake")["pids"].clone();
    restart(&daemon);
    assert_eq!(daemon.server("fake")["pids"], pids, "both children");
    assert_eq!(said(&slow.response().json()), "late");
    let mut change = send(
        "tools/call",
        "Mcp-Name: list_changed\r\n",
        &request(json!(10), "tools/call", tool("list_changed", json!({}))),
    );
    assert_eq!(change.response().status, 200);
    let event = listen.event().unwrap();
    assert_eq!(event["method"], "notifications/tools/list_changed", "{event}");
    // Its client leaves: the child hears of it.
    drop(listen);
    wait("the child hears of it", || daemon.log().contains("[fake] cancelled").then_some(()));
}

#[test]
fn upgrade_keeps_requests_that_wait_for_a_child() {
    let scratch = Scratch::new();
    let flag = scratch.path("flag");
    let more = "restart: (delay: \"50ms\", max_delay: \"50ms\", burst: 100000)";
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--exit-while", flag.to_str().unwrap()], more)));
    let (mut http, mut ws) = (daemon.http("fake"), daemon.ws("fake"));
    std::fs::write(&flag, "").unwrap();
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("no child", || (daemon.child("fake") == 0).then_some(()));
    http.send(&call(1, "echo", json!({"text": "patient"})).to_string());
    ws.send(&call(2, "echo", json!({"text": "patient"})).to_string());
    wait("both", || (daemon.server("fake")["requests"]["in_flight"] == 2).then_some(()));
    restart(&daemon);
    std::fs::remove_file(&flag).unwrap();
    assert_eq!(said(&http.raw.response().json()), "patient");
    let mut answer = ws.next().unwrap();
    while answer["id"] != 2 {
        answer = ws.next().unwrap();
    }
    assert_eq!(said(&answer), "patient");
}

/// A program of its own name, so that it can be exchanged.
fn own_program(scratch: &Scratch) -> PathBuf {
    let path = scratch.path("bin/mcpdaemon");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    copy_program(mcpdaemon(), &path);
    path
}

fn replace(path: &PathBuf, script: &str) {
    // By rename, as packages do it: a running program's file cannot be written to.
    let new = path.with_extension("new");
    std::fs::write(&new, script).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[test]
fn upgrade_to_a_bad_program_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let program = own_program(&scratch);
    let out = scratch.command(program.to_str().unwrap()).arg("-c").arg(&file).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let (mut http, child) = (daemon.http("fake"), daemon.child("fake"));
    let refused = |why: &str| {
        let out = scratch.ctl(&["restart", "t"]);
        assert_eq!(code(&out), 1, "{}", stdout(&out));
        assert!(stderr(&out).starts_with("t: not restarted, the old program goes on: "), "{}", stderr(&out));
        assert!(stderr(&out).contains(why), "{}", stderr(&out));
    };
    let mut serves = || {
        assert_eq!(said(&http.ask(&call(1, "echo", json!({"text": "x"})))), "x");
        assert_eq!((daemon.child("fake"), daemon.status()["state"].clone()), (child, json!("ready")));
    };
    // It refuses the configuration; it knows nothing of this; it is not there; it cannot be executed in the end.
    replace(&program, "#!/bin/sh\necho no such thing >&2; exit 78\n");
    refused("refuses the configuration (exited with status 78): no such thing");
    serves();
    replace(&program, "#!/bin/sh\necho t: configuration OK\n");
    refused("does not understand what this version hands over");
    serves();
    std::fs::remove_file(&program).unwrap();
    refused("cannot start ");
    serves();
    // It says yes, and is gone at the moment when it is needed: everything had come to rest, and goes on.
    let stream = http.stream();
    let mut ws = daemon.ws("fake");
    replace(&program, "#!/bin/sh\nrm \"$0\"; echo handover 1\n");
    refused("cannot go on as ");
    let mut serves = || {
        assert_eq!(said(&http.ask(&call(1, "echo", json!({"text": "x"})))), "x");
        assert_eq!(said(&ws.ask(&call(1, "echo", json!({"text": "x"})))), "x");
    };
    serves();
    // A configuration that is wrong by now.
    copy_program(mcpdaemon(), program.with_extension("copy"));
    std::fs::rename(program.with_extension("copy"), &program).unwrap();
    let text = scratch.file("t.ron");
    scratch.write("t.ron", "(servers: {");
    refused("t.ron:1:");
    serves();
    // And in the end a good one; what was edited meanwhile counts from then on.
    scratch.write("t.ron", &text.replace("servers: {", &format!("servers: {{{}", stdio("more", &[], ""))));
    let out = scratch.ctl(&["restart", "t"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    serves();
    wait("the edited file", || (daemon.status()["servers"].as_array().unwrap().len() == 2).then_some(()));
    assert_eq!(daemon.status()["upgrades"], 6);
    assert_eq!(std::fs::read_link(format!("/proc/{}/exe", daemon.pid)).unwrap(), program);
    drop(stream);
    daemon.stop();
}

#[test]
fn upgrade_closes_a_websocket_in_mid_message_with_1012() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let (mut half, mut whole) = (daemon.ws("fake"), daemon.ws("fake"));
    half.ask(&call(1, "echo", json!({"text": "x"})));
    use std::io::Write;
    // The head of a text frame of 100 bytes, masked, and no byte of it.
    half.socket.get_mut().write_all(&[0x81, 0x80 | 100, 1, 2, 3, 4]).unwrap();
    wait("the head", || (daemon.status()["sessions"] == 2).then_some(()));
    restart(&daemon);
    assert_eq!(half.close_code(), Some(1012));
    assert_eq!(said(&whole.ask(&call(2, "echo", json!({"text": "still"})))), "still");
}

#[test]
fn upgrade_waits_for_who_sends_or_reads_much_and_serves_the_others_meanwhile() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let (mut half, mut other) = (daemon.http("fake"), daemon.http("fake"));
    let mut behind = daemon.http("fake");
    let tried = || daemon.log().matches("all are served again").count();
    let served = |other: &mut Http, n| {
        for _ in 0..n {
            assert_eq!(said(&other.ask(&call(3, "echo", json!({"text": "still"})))), "still");
        }
    };
    // More than the buffers of both ends hold, and nobody reads it.
    behind.send(&call(1, "big", json!({"n": 20 << 20})).to_string());
    let calls = || daemon.server("fake")["methods"]["tools/call"]["total"].as_u64();
    wait("the answer", || (calls() == Some(1)).then_some(()));
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| restart(&daemon));
        wait("the first attempts", || (tried() == 2).then_some(()));
        served(&mut other, 10);
        let answer = behind.raw.response();
        assert_eq!((answer.status, said(&answer.messages().pop().unwrap()).len()), (200, 20 << 20));
        upgrade.join().unwrap();
    });
    let before = tried();
    let text = call(2, "echo", json!({"text": "whole"})).to_string();
    let (first, rest) = text.split_at(10);
    half.begin(first, text.len());
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| restart(&daemon));
        wait("the first attempts", || (tried() == before + 3).then_some(()));
        served(&mut other, 10);
        half.raw.send(rest.as_bytes());
        assert_eq!(said(&half.raw.response().json()), "whole");
        upgrade.join().unwrap();
    });
    assert_eq!(upgrades(&daemon), 2);
    served(&mut half, 1);
    served(&mut behind, 1);
}

#[test]
fn upgrade_loses_no_signal() {
    let scratch = Scratch::new();
    for round in 0..10 {
        let daemon = scratch.fake(&[]);
        let before = daemon.status()["reloads"].as_u64().unwrap();
        kill(daemon.pid, libc::SIGUSR2);
        if round % 2 == 0 {
            kill(daemon.pid, libc::SIGHUP);
            wait("both", || {
                let status = daemon.status();
                (status["upgrades"] == 1 && status["reloads"] == before + 1).then_some(())
            });
        }
        kill(daemon.pid, libc::SIGTERM);
        wait("its end", || (!alive(daemon.pid)).then_some(()));
        scratch.gone();
        let log = daemon.log();
        assert!(log.contains("t: ended"), "{log}");
        std::fs::remove_file(scratch.path("t.log")).unwrap();
    }
}

#[test]
fn upgrade_under_load_loses_no_request() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "")));
    let child = daemon.child("fake");
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for n in 0..8 {
        let (over, done, address) = (over.clone(), done.clone(), daemon.address().to_owned());
        clients.push(std::thread::spawn(move || {
            let mut http = Http::open(&address, "fake");
            let mut ws = Ws::open(&address, "/servers/fake/ws");
            let mut i = 0;
            while !over.load(SeqCst) {
                i += 1;
                let text = format!("{n} {i}");
                let request = call(i, "sleep", json!({"n": i % 7, "text": text}));
                let answer = match n % 3 {
                    0 => http.ask(&request),
                    // A connection of its own for each.
                    1 => http.again().ask(&request),
                    _ => ws.ask(&request),
                };
                assert_eq!((said(&answer), &answer["id"]), (text.as_str(), &json!(i)));
                done.fetch_add(1, SeqCst);
            }
        }));
    }
    for _ in 0..8 {
        let before = done.load(SeqCst);
        restart(&daemon);
        wait("more answers", || (done.load(SeqCst) > before + 50).then_some(()));
    }
    over.store(true, SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!((daemon.child("fake"), upgrades(&daemon)), (child, 8));
    let status = daemon.status();
    assert_eq!((&status["requests"]["errors"], &status["requests"]["in_flight"]), (&json!(0), &json!(0)), "{status}");
}

#[test]
fn upgrade_in_the_foreground_with_sd_notify() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let socket = std::os::unix::net::UnixDatagram::bind(scratch.path("notify")).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let log = std::fs::File::create(scratch.path("t.log")).unwrap();
    // By a relative name, which the next program has to find as well.
    std::os::unix::fs::symlink(mcpdaemon(), scratch.path("daemon")).unwrap();
    let mut child = scratch
        .command("./daemon")
        .args(["-f", "-c", file.file_name().unwrap().to_str().unwrap()])
        .env("NOTIFY_SOCKET", scratch.path("notify"))
        .stderr(log)
        .spawn()
        .unwrap();
    let next = |wanted: &str| loop {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).expect(wanted);
        if String::from_utf8_lossy(&buffer[..n]).lines().any(|l| l == wanted) {
            return;
        }
    };
    next("READY=1");
    for _ in 0..2 {
        kill(child.id() as i32, libc::SIGUSR2);
        next("RELOADING=1");
        next("READY=1");
    }
    kill(child.id() as i32, libc::SIGTERM);
    next("STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert_eq!(scratch.file("t.log").matches(": upgraded in place, ").count(), 2);
}

#[test]
fn a_child_that_has_closed_its_standard_error_is_kept_like_any_other() {
    let scratch = Scratch::new();
    let script = format!("exec {} 2>&-", fake());
    let program = own_program(&scratch);
    let file = scratch.instance("t", &format!("\"fake\": Stdio(command: [\"sh\", \"-c\", {script:?}])"));
    let out = scratch.command(program.to_str().unwrap()).arg("-c").arg(&file).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let child = daemon.child("fake");
    let mut http = daemon.http("fake");
    http.send(&call(1, "sleep", json!({"n": 800, "text": "kept"})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    restart(&daemon);
    assert_eq!((daemon.child("fake"), said(&http.raw.response().json())), (child, "kept"));
    // Where the upgrade fails in its last moment, it goes on as well, and the daemon can be stopped.
    replace(&program, "#!/bin/sh\nrm \"$0\"; echo handover 1\n");
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 1);
    assert_eq!(said(&http.ask(&call(2, "echo", json!({"text": "still"})))), "still");
    assert_eq!(daemon.child("fake"), child);
    daemon.stop();
}

#[test]
fn a_failed_upgrade_leaves_children_of_sessions_that_end_meanwhile_to_their_end() {
    let scratch = Scratch::new();
    let program = own_program(&scratch);
    let file = scratch.instance("t", &stdio("fake", &[], "sharing: PerSession(spare: 0)"));
    let out = scratch.command(program.to_str().unwrap()).arg("-c").arg(&file).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let mut half = daemon.ws("fake");
    half.send(&initialize(json!(0)).to_string());
    half.next().unwrap();
    use std::io::Write;
    half.socket.get_mut().write_all(&[0x81, 0x80 | 100, 1, 2, 3, 4]).unwrap();
    replace(&program, "#!/bin/sh\nrm \"$0\"; echo handover 1\n");
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 1);
    assert_eq!(half.close_code(), Some(1012));
    wait("its child is gone", || (daemon.server("fake")["pids"].as_array().unwrap().len() == 1).then_some(()));
    daemon.stop();
}

#[test]
fn upgrade_keeps_pipelined_requests_and_connection_close() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    // Two in one piece: the second waits in a buffer while the first is answered.
    let one = |id: i32, text: &str| {
        let body = call(id, "sleep", json!({"n": 700, "text": text})).to_string();
        format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\n{ACCEPT}Mcp-Session-Id: {}\r\nContent-Length: {}\r\n\r\n{body}",
            http.path,
            http.address,
            http.session,
            body.len()
        )
    };
    let both = one(1, "first") + &one(2, "second");
    let closing = one(3, "last").replace("Host:", "Connection: close\r\nHost:");
    http.raw.send(both.as_bytes());
    let mut last = Raw::open(daemon.address());
    last.send(closing.as_bytes());
    wait("them", || (daemon.server("fake")["requests"]["in_flight"] == 2).then_some(()));
    restart(&daemon);
    assert_eq!(said(&http.raw.response().json()), "first");
    assert_eq!(said(&http.raw.response().json()), "second");
    let answer = last.response();
    assert_eq!((said(&answer.json()), answer.header("connection").as_deref()), ("last", Some("close")));
    assert_eq!(last.rest(), "", "closed");
    // A connection whose last request was refused is at rest like any other.
    let mut refused = Raw::open(daemon.address());
    refused.send(b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(refused.response().status, 403);
    restart(&daemon);
    refused.send(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address()).as_bytes());
    assert_eq!(refused.response().body, "ok\n");
}

#[test]
fn after_an_upgrade_a_stop_ends_streams_and_the_guard_is_there() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &["--grandchild", "setsid"], "");
    let daemon = scratch.start(&scratch.instance_with("t", "drain_timeout: \"60s\",", &servers));
    let http = daemon.http("fake");
    let mut stream = http.stream();
    let guard = || {
        let named =
            |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "mcpguard");
        scratch.processes().into_iter().map(|(pid, _)| pid).find(|pid| named(pid) && alive(*pid))
    };
    // A guard that was killed has a successor from the next upgrade on.
    kill(guard().unwrap(), libc::SIGKILL);
    wait("its end", || guard().is_none().then_some(()));
    restart(&daemon);
    assert!(guard().is_some(), "{}", daemon.log());
    let begun = std::time::Instant::now();
    daemon.stop();
    assert!(begun.elapsed().as_secs() < 50, "the stream held it up for the drain time: {:?}", begun.elapsed());
    assert_eq!(stream.event(), None);
    let daemon = scratch.start(&scratch.path("t.ron"));
    restart(&daemon);
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    std::mem::forget(daemon);
}

#[test]
fn where_the_log_cannot_be_opened_anew_the_old_one_goes_on() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    // A folder in its place: what a HUP survives, an upgrade must survive.
    std::fs::rename(scratch.path("t.log"), scratch.path("moved")).unwrap();
    std::fs::create_dir(scratch.path("t.log")).unwrap();
    restart(&daemon);
    assert_eq!(said(&daemon.http("fake").ask(&call(1, "echo", json!({"text": "x"})))), "x");
    wait("the log", || scratch.file("moved").contains("going on with the old one").then_some(()));
    std::fs::remove_dir(scratch.path("t.log")).unwrap();
}

#[test]
fn upgrade_answers_a_batch_as_one() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-03-26",
        "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let batch =
        json!([call(1, "echo", json!({"text": "at once"})), call(2, "sleep", json!({"n": 900, "text": "late"}))]);
    let whole = |answer: &Value| {
        let mut all: Vec<&str> = answer.as_array().unwrap().iter().map(said).collect();
        all.sort_unstable();
        assert_eq!(all, ["at once", "late"], "{answer}");
    };
    let mut ws = daemon.ws("fake");
    ws.ask(&hello);
    ws.send(&batch.to_string());
    // A client that takes no event stream.
    let mut raw = Raw::open(daemon.address());
    let post = |session: &str, body: &str| {
        format!(
            "POST /servers/fake/mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json\r\n{session}Content-Length: {}\r\n\r\n{body}",
            daemon.address(),
            body.len()
        )
    };
    raw.send(post("", &hello.to_string()).as_bytes());
    let session = raw_session(&mut raw);
    raw.send(post(&session, &batch.to_string()).as_bytes());
    wait("both", || (daemon.server("fake")["requests"]["in_flight"] == 2).then_some(()));
    restart(&daemon);
    whole(&ws.next().unwrap());
    whole(&raw.response().json());
}

/// The header with the id of the session that a response opens.
fn raw_session(raw: &mut Raw) -> String {
    format!("Mcp-Session-Id: {}\r\n", raw.response().header("mcp-session-id").unwrap())
}
