//! The executor's own protocol on a WebSocket: what clients of cc_executor send and expect, and what goes wrong there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

const SHELL: &str = "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\", cwd: \".\", stop: (term: \"300ms\"))";

/// A client that knows nothing of MCP, and so offers no subprotocol.
fn plain(daemon: &Daemon<'_>) -> Ws {
    Ws::try_open(daemon.address(), "/servers/x/ws", &[]).unwrap()
}

fn execute(id: impl Into<Value>, command: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "execute", "params": {"command": command}})
}

fn control(id: impl Into<Value>, what: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "control", "params": {"type": what}})
}

/// What came until a command was over.
#[derive(Debug, Default)]
struct Run {
    /// Methods, `result` and `error` in the order of their coming; output lines are not repeated.
    order: Vec<String>,
    stdout: String,
    stderr: String,
    lines: usize,
    end: Value,
}

fn until_completed(ws: &mut Ws) -> Run {
    let mut run = Run::default();
    loop {
        let message = ws.next().unwrap_or_else(|| panic!("closed after {run:?}"));
        let what = match message["method"].as_str() {
            Some(method) => method.to_owned(),
            None => if message.get("result").is_some() { "result" } else { "error" }.to_owned(),
        };
        let params = &message["params"];
        if what == "process.output" {
            run.lines += 1;
            let to = if params["type"] == "stdout" { &mut run.stdout } else { &mut run.stderr };
            to.push_str(params["data"].as_str().unwrap());
        }
        if run.order.last() != Some(&what) {
            run.order.push(what.clone());
        }
        if what == "process.completed" || what == "error" {
            run.end = if what == "error" { message["error"].clone() } else { params.clone() };
            return run;
        }
    }
}

fn run(ws: &mut Ws, command: &str) -> Run {
    ws.send(&execute(1, command).to_string());
    until_completed(ws)
}

#[test]
fn execute_before_connected_and_what_cc_executor_clients_expect() {
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"echo\", \"date\", \"python3\", \"sleep\"])"));
    let cases = [
        ("echo 'MCP Local Test'", "MCP Local Test"),
        (r#"python3 -c "print(3 + 3)""#, "6"),
        ("echo '🚀 émojis ñ 中文'", "🚀 émojis ñ 中文"),
        ("echo \"\"", "\n"),
        ("date +%Y", "20"),
    ];
    let one = |(command, expected): (&str, &str)| {
        // As cc_executor's own tests do: connect, send, read until the text is there.
        let start = Instant::now();
        let mut ws = plain(&daemon);
        let run = run(&mut ws, command);
        assert!(run.stdout.contains(expected), "{run:?}");
        assert_eq!((&run.end["exit_code"], &run.end["status"]), (&json!(0), &json!("completed")), "{run:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    };
    cases.into_iter().for_each(one);
    std::thread::scope(|scope| {
        for case in &cases[..3] {
            scope.spawn(|| one(*case));
        }
    });
    // Sessions run side by side: none waits for another.
    let mut all: Vec<_> = (0..3).map(|_| plain(&daemon)).collect();
    // Each command ends once all three run.
    let met = scratch.path("met");
    std::fs::create_dir(&met).unwrap();
    let meet = format!(
        "python3 -c \"import os, time, itertools; os.mkdir('{met}/' + str(os.getpid())); \
         [time.sleep(0.02) for _ in itertools.takewhile(lambda _: len(os.listdir('{met}')) < 3, itertools.count())]\"",
        met = met.display()
    );
    all.iter_mut().for_each(|ws| ws.send(&execute(1, &meet).to_string()));
    all.iter_mut().for_each(|ws| assert_eq!(until_completed(ws).end["exit_code"], 0));
}

#[test]
fn process_started_output_completed_in_order_with_all_members() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let mut ws = plain(&daemon);
    let hello = ws.next().unwrap();
    assert_eq!((&hello["jsonrpc"], &hello["method"], hello.get("id")), (&json!("2.0"), &json!("connected"), None));
    let (id, params) = (hello["params"]["session_id"].as_str().unwrap(), &hello["params"]);
    assert_eq!((id.len(), &id[14..15], id.matches('-').count()), (36, "4", 4), "{id} is a UUID of version 4");
    assert_eq!(params["capabilities"], json!(["execute", "control", "stream"]));
    assert_eq!(params["version"], env!("CARGO_PKG_VERSION"));

    ws.send(&execute("é", "echo one; echo two >&2; cat; printf tail; exit 3").to_string());
    let started = ws.next().unwrap();
    let pid = started["result"]["pid"].as_i64().unwrap();
    assert_eq!(started, json!({"jsonrpc": "2.0", "id": "é", "result": {"status": "started", "pid": pid, "pgid": pid}}));
    let told = ws.next().unwrap();
    assert_eq!(
        (&told["method"], &told["params"]),
        (
            &json!("process.started"),
            &json!({"status": "started", "pid": pid, "pgid": pid, "exit_code": null, "error": null})
        )
    );
    let line = ws.next().unwrap();
    assert_eq!(
        (&line["method"], &line["params"]),
        (
            &json!("process.output"),
            &json!({"type": "stdout", "data": "one\n", "truncated": false, "chunk_index": 0, "total_chunks": 1})
        )
    );
    let run = until_completed(&mut ws);
    // Its standard input is empty: cat has ended.
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("tail", "two\n"));
    let end = run.end.as_object().unwrap();
    let names: BTreeSet<&str> = end.keys().map(String::as_str).collect();
    let expected = "completion_marker early_completion_detected early_completion_time error execution_time exit_code \
                    pgid pid status time_saved";
    assert_eq!(names, expected.split(' ').collect());
    assert_eq!((&end["status"], &end["exit_code"], &end["pid"]), (&json!("failed"), &json!(3), &json!(pid)));
    assert!(end["execution_time"].as_f64().unwrap() >= 0.0);
    // One after the other on one connection, in a process group of its own, without what is the daemon's.
    let next = self::run(&mut ws, "echo $$; ps -o pgid= -p $$; echo $MCP_RUN_DIR$PYTHONUNBUFFERED");
    assert_eq!(next.order, ["result", "process.started", "process.output", "process.completed"]);
    let lines: Vec<&str> = next.stdout.lines().map(str::trim).collect();
    assert_eq!((lines[0], lines[2]), (lines[1], "1"), "{next:?}");
    let killed = self::run(&mut ws, "kill -9 $$");
    assert_eq!((&killed.end["exit_code"], &killed.end["status"]), (&json!(-9), &json!("failed")));
    assert_eq!(killed.end["error"], "was ended by SIGKILL");
    // The counts are of both protocols.
    assert_eq!(daemon.server("x")["requests"]["total"], 3);
}

#[test]
fn errors_of_execute_and_control_have_their_codes() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"echo\", \"sleep\", \"/bin/date\"])"));
    let mut ws = plain(&daemon);
    assert_eq!(ws.next().unwrap()["method"], "connected");
    for (text, id, code, why) in [
        ("{", json!(null), -32700, "not JSON"),
        ("[]", json!(null), -32600, "batch"),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"execute","params":{"command":"echo"}}]"#, json!(null), -32600, "batch"),
        (r#"{"jsonrpc":"2.0","id":2,"method":"status"}"#, json!(2), -32601, "no method 'status'"),
        (r#"{"jsonrpc":"2.0","id":3,"method":"cancel"}"#, json!(3), -32601, "no method 'cancel'"),
        (r#"{"jsonrpc":"2.0","id":4,"method":"execute"}"#, json!(4), -32602, "command"),
        (r#"{"jsonrpc":"2.0","id":5,"method":"execute","params":{"command":7}}"#, json!(5), -32602, "string"),
        (
            r#"{"jsonrpc":"2.0","id":6,"method":"execute","params":{"command":"echo","timeout":-1}}"#,
            json!(6),
            -32602,
            "timeout",
        ),
        (r#"{"jsonrpc":"2.0","id":7,"method":"control","params":{"type":"STOP"}}"#, json!(7), -32002, "No process"),
        (r#"{"jsonrpc":"2.0","id":8,"method":"control","params":{"action":"info"}}"#, json!(8), -32602, "PAUSE"),
        (r#"{"jsonrpc":"2.0","id":9,"method":"control","params":{"type":"PAUSE"}}"#, json!(9), -32002, "No process"),
    ] {
        ws.send(text);
        let answer = ws.next().unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{text}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{text}: {answer}");
    }
    // What is not allowed does not run, however it is written.
    for (command, code) in [
        ("cat /etc/hostname", -32001),
        ("", -32001),
        ("  ", -32001),
        ("/bin/echo x", -32001),
        ("./echo x", -32001),
        ("/bin/../bin/date", -32001),
        ("FOO=1 echo x", -32001),
        ("'echo x'", -32001),
        ("ECHO x", -32001),
        ("date", -32001),
        ("echo x; cat /etc/hostname", -32602),
        ("echo $(cat /etc/hostname)", -32602),
        ("echo \"`cat /etc/hostname`\"", -32602),
        ("echo x\ncat /etc/hostname", -32602),
        ("echo x && cat /etc/hostname", -32602),
        ("echo x | cat", -32602),
        ("echo x > f", -32602),
        ("echo 'x", -32602),
    ] {
        let run = run(&mut ws, command);
        assert_eq!((run.order, &run.end["code"]), (vec!["error".to_owned()], &json!(code)), "{command}: {}", run.end);
    }
    assert!(
        run(&mut ws, "cat x").end["message"].as_str().unwrap().starts_with("Command 'cat' is not allowed; allowed:")
    );
    assert_eq!(run(&mut ws, "echo '; $(cat f) `x`' \\; a'\n'b").stdout, "; $(cat f) `x` ; a\nb\n");
    assert_eq!(run(&mut ws, "/bin/date +%%").stdout, "%\n");
    // With arguments of their own the command is a whole word.
    let mut apart = execute(1, "echo");
    apart["params"]["args"] = json!(["a;b", "$(c)"]);
    ws.send(&apart.to_string());
    assert_eq!(until_completed(&mut ws).stdout, "a;b $(c)\n");
    // A pong, as clients of the old server send it, needs no answer.
    ws.send(r#"{"jsonrpc":"2.0","method":"pong","params":{}}"#);
    // One at a time.
    ws.send(&execute(1, "sleep 600").to_string());
    wait("the command", || (ws.next()?["method"] == "process.started").then_some(()));
    let second = ws.ask(&execute(2, "echo"));
    assert_eq!((&second["id"], &second["error"]["code"]), (&json!(2), &json!(-32602)));
    assert_eq!(second["error"]["message"], "A process is already running");
    let wrong = ws.ask(&control(3, "STOP"));
    assert!(wrong["error"]["message"].as_str().unwrap().contains("PAUSE, RESUME or CANCEL"), "{wrong}");
    ws.send(&control(4, "CANCEL").to_string());
    assert_eq!(until_completed(&mut ws).end["status"], "failed");
    assert_eq!(run(&mut ws, "echo on").stdout, "on\n");
}

#[test]
fn control_pause_resume_and_cancel() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let mut ws = plain(&daemon);
    assert_eq!(ws.next().unwrap()["method"], "connected");
    // A family that ignores SIGTERM and has a member in a session of its own.
    let stubborn = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 601\" & sleep 602 & while :; do sleep 603; done";
    let sleepers = || scratch.processes().iter().filter(|(_, l)| l.starts_with("sleep 60")).count();
    ws.send(&execute(1, stubborn).to_string());
    let pid = ws.next().unwrap()["result"]["pid"].as_i64().unwrap();
    assert_eq!(ws.next().unwrap()["method"], "process.started");
    wait("its family", || (sleepers() >= 3).then_some(()));
    let state = |wanted: char| {
        wait("the process's state", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            (stat.rsplit_once(") ").unwrap().1.starts_with(wanted)).then_some(())
        });
    };
    for (id, what, status, wanted) in [(2, "PAUSE", "paused", 'T'), (3, "RESUME", "resumed", 'S')] {
        let answer = ws.ask(&control(id, what));
        assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &json!({"status": status})), "{answer}");
        let told = ws.next().unwrap();
        assert_eq!(told["method"], format!("process.{status}"));
        assert_eq!(told["params"], json!({"status": status, "pid": pid, "pgid": pid}));
        state(wanted);
    }
    // Also one that is stopped is cancelled, and its end is told.
    ws.ask(&control(4, "PAUSE"));
    ws.next().unwrap();
    state('T');
    assert_eq!(ws.ask(&control(5, "CANCEL"))["result"], json!({"status": "canceled"}));
    assert_eq!(ws.next().unwrap()["method"], "process.canceled");
    let over = until_completed(&mut ws);
    assert_eq!((over.order, &over.end["status"]), (vec!["process.completed".to_owned()], &json!("failed")));
    assert_eq!((&over.end["error"], &over.end["exit_code"]), (&json!("canceled"), &Value::Null));
    assert_eq!(sleepers(), 0, "gone before its end was told");
    assert_eq!(ws.ask(&control(6, "CANCEL"))["error"]["code"], -32002);
    assert_eq!(run(&mut ws, "echo next").stdout, "next\n");
}

#[test]
fn execute_timeout_ends_the_process_and_says_so() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let mut ws = plain(&daemon);
    let mut late = execute(1, "echo begun; trap '' TERM; while :; do sleep 600; done");
    late["params"]["timeout"] = json!(0.4);
    ws.send(&late.to_string());
    let run = until_completed(&mut ws);
    assert_eq!((run.stdout.as_str(), &run.end["status"]), ("begun\n", &json!("failed")), "{run:?}");
    assert_eq!(run.end["error"], "timed out: it was ended after 400ms");
    assert!(!scratch.processes().iter().any(|(_, line)| line.contains("sleep 600")), "it still runs");
    assert_eq!(self::run(&mut ws, "echo on").stdout, "on\n");
}

#[test]
fn long_lines_many_lines_and_broken_text_arrive_whole() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let mut ws = plain(&daemon);
    assert_eq!(ws.next().unwrap()["method"], "connected");
    // In pieces of 64 Ki characters, all but the last marked as such.
    ws.send(&execute(1, "head -c 200000 /dev/zero | tr '\\0' x; echo").to_string());
    let mut pieces = Vec::new();
    loop {
        let message = ws.next().unwrap();
        let p = &message["params"];
        match message["method"].as_str() {
            Some("process.output") => {
                let length = p["data"].as_str().unwrap().len();
                pieces.push((length, p["chunk_index"].as_u64(), p["total_chunks"].as_u64(), p["truncated"].as_bool()));
            }
            Some("process.completed") => break,
            _ => {}
        }
    }
    let piece = |n, at, cut| (n, Some(at), Some(4), Some(cut));
    assert_eq!(pieces, [piece(65536, 0, true), piece(65536, 1, true), piece(65536, 2, true), piece(3393, 3, false)]);
    let long = run(&mut ws, "head -c 10000000 /dev/zero | tr '\\0' x");
    assert_eq!((long.stdout.len(), long.end["exit_code"].as_i64()), (10_000_000, Some(0)));
    assert!(long.stdout.bytes().all(|b| b == b'x'));
    assert_eq!(run(&mut ws, r"printf '\377a\303'; printf '\251\n' >&2").stdout, "\u{fffd}a\u{fffd}");
    let many = run(&mut ws, "seq 200000");
    assert_eq!((many.lines, many.stdout.lines().last()), (200_000, Some("200000")));
    assert_eq!(many.stdout.lines().map(|l| l.parse::<u64>().unwrap()).sum::<u64>(), (1..=200_000).sum::<u64>());
}

#[test]
fn a_client_that_reads_slowly_slows_the_command_and_costs_no_memory() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let mut ws = plain(&daemon);
    let before = daemon.status()["process"]["memory_bytes"].as_u64().unwrap();
    ws.send(&execute(1, "yes 0123456789012345678901234567890123456789 | head -c 82000000; touch done").to_string());
    // Nothing is read until the command has stood still for a while.
    let written = || {
        let all = scratch.processes();
        let yes = all.iter().find(|(_, line)| line.starts_with("head -c"))?.0;
        let io = std::fs::read_to_string(format!("/proc/{yes}/io")).ok()?;
        io.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse::<u64>().ok())
    };
    let mut last = (0, Instant::now());
    wait("the command to stand still", || {
        let now = written()?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(())
    });
    assert!(last.0 < 40_000_000, "{} bytes were taken from it", last.0);
    let now = daemon.status()["process"]["memory_bytes"].as_u64().unwrap();
    assert!(now < before + (24 << 20), "{before} -> {now} bytes");
    let run = until_completed(&mut ws);
    assert_eq!((run.stdout.len(), run.lines, run.end["exit_code"].as_i64()), (82_000_000, 2_000_000, Some(0)));
    assert!(scratch.path("done").exists());
}

#[test]
fn no_process_is_left_when_the_client_or_the_daemon_goes() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let stubborn = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 601\" & while :; do sleep 603; done";
    let sleepers = || scratch.processes().iter().filter(|(_, l)| l.starts_with("sleep 60")).count();
    let begin = || {
        let mut ws = plain(&daemon);
        ws.send(&execute(1, stubborn).to_string());
        wait("its family", || (sleepers() >= 2).then_some(()));
        ws
    };
    drop(begin());
    wait("the end of its processes", || (sleepers() == 0).then_some(()));
    // With a good-bye.
    let mut ws = begin();
    ws.socket.close(None).unwrap();
    wait("the end of its processes", || (sleepers() == 0).then_some(()));
    let _ws = begin();
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
}

#[test]
fn sigterm_drain_waits_for_a_command_then_ends_it() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "drain_timeout: \"20s\",", SHELL);
    let daemon = scratch.start(&file);
    let mut ws = plain(&daemon);
    ws.send(&execute(1, "while ! test -e go; do sleep 0.02; done; echo finished").to_string());
    wait("the command", || (ws.next()?["method"] == "process.started").then_some(()));
    kill(daemon.pid, libc::SIGTERM);
    wait("the drain", || (daemon.status()["state"] == "draining").then_some(()));
    scratch.write("go", "");
    let run = until_completed(&mut ws);
    assert_eq!((run.stdout.as_str(), &run.end["exit_code"]), ("finished\n", &json!(0)));
    assert_eq!(ws.close_code(), Some(1001));
    scratch.gone();

    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("\"20s\"", "\"200ms\"")).unwrap();
    let daemon = scratch.start(&file);
    let mut ws = plain(&daemon);
    ws.send(&execute(1, "sleep 600").to_string());
    wait("the command", || (ws.next()?["method"] == "process.started").then_some(()));
    kill(daemon.pid, libc::SIGTERM);
    let run = until_completed(&mut ws);
    assert_eq!(run.end["error"], "the command was ended: server 'x' stops", "{run:?}");
    scratch.gone();
}

#[test]
fn a_reload_lets_the_command_finish_and_an_upgrade_takes_it_along() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", SHELL);
    let daemon = scratch.start(&file);
    let mut ws = plain(&daemon);
    let mut other = plain(&daemon);
    let script = "echo before; printf half; while ! test -e go; do sleep 0.02; done; echo ' line'; echo after";
    ws.send(&execute(1, script).to_string());
    wait("its first line", || (ws.next()?["params"]["data"] == "before\n").then_some(()));
    for _ in 0..2 {
        let out = scratch.ctl(&["restart", "t"]);
        assert_eq!(code(&out), 0, "{}{}", stderr(&out), daemon.log());
    }
    assert_eq!(daemon.log().matches("runs everything that a client asks for").count(), 1, "said once");
    assert_eq!(ws.ask(&execute(2, "echo"))["error"]["message"], "A process is already running");
    assert_eq!(ws.ask(&control(3, "PAUSE"))["result"]["status"], "paused");
    assert_eq!(ws.next().unwrap()["method"], "process.paused");
    assert_eq!(ws.ask(&control(3, "RESUME"))["result"]["status"], "resumed");
    assert_eq!(ws.next().unwrap()["method"], "process.resumed");
    assert_eq!(run(&mut other, "echo beside").stdout, "beside\n");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("300ms", "200ms")).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    scratch.write("go", "");
    let run = until_completed(&mut ws);
    assert_eq!((run.stdout.as_str(), &run.end["status"]), ("half line\nafter\n", &json!("completed")));
}

#[test]
fn session_limit_is_told_and_closed_with_1008() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    let mut all: Vec<_> = (0..100).map(|_| plain(&daemon)).collect();
    assert!(all.iter_mut().all(|ws| ws.next().unwrap()["method"] == "connected"));
    let mut late = plain(&daemon);
    let refused = late.next().unwrap();
    assert_eq!((&refused["error"]["code"], &refused["id"]), (&json!(-32003), &Value::Null));
    assert!(refused["error"]["message"].as_str().unwrap().starts_with("Session limit exceeded: 100 sessions"));
    assert_eq!(late.close_code(), Some(1008));
    // A client of MCP is told by HTTP, before it believes to be connected.
    match Ws::try_open(daemon.address(), "/servers/x/ws", &[("Sec-WebSocket-Protocol", "mcp")]) {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(run(&mut all[0], "echo here").stdout, "here\n");
    drop(all.pop());
    let mut next = wait("a place", || {
        let mut ws = plain(&daemon);
        (ws.next()?["method"] == "connected").then_some(ws)
    });
    assert_eq!(run(&mut next, "echo there").stdout, "there\n");
    wait("all refused connections to be closed", || (daemon.status()["connections"] == 100).then_some(()));
}

#[test]
fn pings_are_those_of_websocket_and_their_times_come_from_the_environment() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", SHELL);
    let mut start = scratch.command(mcpdaemon());
    start.args(["-c", file.to_str().unwrap()]);
    start.envs([("WS_PING_INTERVAL", "0.1"), ("WS_PING_TIMEOUT", "2"), ("WS_MAX_SIZE", "100000")]);
    let out = start.output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    // A command much longer than all of that, for a client that answers pings and nothing else.
    let mut ws = plain(&daemon);
    let quiet = run(&mut ws, "sleep 5; echo done");
    assert_eq!(quiet.stdout, "done\n");
    ws.send(&execute(1, &"x".repeat(100_001)).to_string());
    assert_eq!(ws.close_code(), Some(1009));
    // One that does not answer is gone, and so is its command.
    let mut silent = plain(&daemon);
    silent.send(&execute(1, "sleep 600").to_string());
    wait("the command", || scratch.processes().iter().any(|(_, l)| l.contains("sleep 600")).then_some(()));
    wait("its end", || (!scratch.processes().iter().any(|(_, l)| l.contains("sleep 600"))).then_some(()));
}

#[test]
fn mcp_is_spoken_on_the_same_connection() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", SHELL));
    // A client of MCP is not bothered with the other protocol, and may use it.
    let mut ws = daemon.ws("x");
    assert_eq!(ws.ask(&initialize(json!(0)))["result"]["serverInfo"]["name"], "mcpdaemon-exec");
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    ws.send(&execute("direct", "sleep 0.3; echo direct").to_string());
    ws.send(&call("tool", "execute", json!({"command": "echo tool"})).to_string());
    let (mut tool, mut direct) = (None, None);
    while tool.is_none() || direct.is_none() {
        let message = ws.next().unwrap();
        if message["id"] == "tool" {
            tool = Some(said(&message).to_owned());
        }
        if message["method"] == "process.completed" {
            direct = Some(message["params"]["exit_code"].clone());
        }
    }
    assert_eq!((tool.as_deref(), direct), (Some("tool\n"), Some(json!(0))));
    // Over HTTP, where nothing could carry the output, there is no such method; nor has any other kind of server it.
    let answer = daemon.http("x").ask(&execute(1, "echo"));
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = Ws::try_open(daemon.address(), "/servers/fake/ws", &[]).unwrap();
    assert_eq!(ws.ask(&execute(1, "echo"))["error"]["code"], -32601);
}

#[test]
fn control_cancel_holds_in_drain_reload_and_upgrade() {
    let scratch = Scratch::new();
    let exec = SHELL.replace("300ms", "1500ms");
    let file = scratch.instance_with("t", "limits: (in_flight: 1), drain_timeout: \"20s\",", &(exec.clone() + ","));
    let daemon = scratch.start(&file);
    let stubborn = "trap '' TERM; echo on; while :; do sleep 0.1; done";
    let begin = |ws: &mut Ws| {
        ws.send(&execute(1, stubborn).to_string());
        wait("its line", || (ws.next()?["params"]["data"] == "on\n").then_some(()));
    };
    // In the same breath with its start: what is said of it comes in order.
    let mut ws = plain(&daemon);
    assert_eq!(ws.next().unwrap()["method"], "connected");
    for message in [execute(1, "sleep 600"), control(2, "PAUSE"), control(3, "CANCEL")] {
        ws.send(&message.to_string());
    }
    let order = "result process.started result process.paused result process.canceled process.completed";
    assert_eq!(until_completed(&mut ws).order.join(" "), order);
    // Over an upgrade.
    let mut ws = plain(&daemon);
    begin(&mut ws);
    assert_eq!(ws.ask(&control(2, "CANCEL"))["result"]["status"], "canceled", "it does not count itself");
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0, "{}", daemon.log());
    assert_eq!(until_completed(&mut ws).end["error"], "canceled");
    // Once the executor was replaced, on the bridge as well.
    let mut ws = Ws::try_open(daemon.address(), "/ws/mcp", &[]).unwrap();
    begin(&mut ws);
    let other = stdio("fake", &[], "");
    std::fs::write(&file, scratch.file("t.ron").replace(&(exec + ","), &other)).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    let answer = |ws: &mut Ws, id: i64| wait("the answer", || ws.next().filter(|m| m["id"] == id));
    ws.send(&execute(2, "echo second").to_string());
    assert_eq!(answer(&mut ws, 2)["error"]["message"], "A process is already running");
    // And while the daemon drains.
    kill(daemon.pid, libc::SIGTERM);
    wait("the drain", || (daemon.status()["state"] == "draining").then_some(()));
    ws.send(&control(3, "CANCEL").to_string());
    assert_eq!(answer(&mut ws, 3)["result"]["status"], "canceled");
    assert_eq!(until_completed(&mut ws).end["error"], "canceled");
    scratch.gone();
}

#[test]
fn a_line_of_60_mb_stalls_no_other_client_and_takes_little_memory() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "limits: (reply: \"100KiB\"),", SHELL));
    let (mut long, mut other) = (plain(&daemon), plain(&daemon));
    long.send(&execute(1, "head -c 60000000 /dev/zero | tr '\\0' x; seq 100000").to_string());
    let reader = std::thread::spawn(move || until_completed(&mut long));
    let mut worst = Duration::ZERO;
    while !reader.is_finished() {
        let begin = Instant::now();
        assert_eq!(run(&mut other, "echo hi").stdout, "hi\n");
        worst = worst.max(begin.elapsed());
    }
    let run = reader.join().unwrap();
    assert_eq!((run.stdout.len(), &run.end["exit_code"]), (60_000_000 + 588_895, &json!(0)));
    // Before, each piece searched the rest of the line, and one client held up all others for many seconds.
    assert!(worst < Duration::from_secs(10), "{worst:?}");
}
