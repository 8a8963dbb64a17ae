//! Clients that mean harm: messages that two programs read in two ways, and messages that cost more than they should.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::harness::*;

/// The lenient server with this filter.
fn filtered(tools: &str) -> String {
    format!("\"lenient\": Stdio(command: [{:?}], health: None, tools: {tools})", example("lenient-server"))
}

/// Members of a call of a hidden tool, each in a way that some parser reads so.
const CALLS: &[&str] = &[
    r#""method":"tools/call","params":{"name":"safe","Name":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","NAME":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","n\u0061me":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","name\u0000x":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","na_me":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","name\ud800":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","na\ud800me":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","\ud800\u006eame":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe","\udfffname\ud800":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe"},"params\ud800":{"name":"danger"}"#,
    r#""method":"prompts/get","params":{"name":"danger"},"method\ud800":"tools/call""#,
    r#""method":"tools/call","params":{"Name":"danger"}"#,
    r#""method":"tools/call","params":{"name":"safe"},"Params":{"name":"danger"}"#,
    "\"method\":\"tools/call\",\"params\":{\"name\":\"safe\"},\"param\u{17f}\":{\"name\":\"danger\"}",
    "\"method\":\"prompts/get\",\"params\":{\"name\":\"danger\"},\"METHOD\":\"tools/call\"",
    r#""method":"TOOLS/CALL","params":{"name":"danger"}"#,
    r#""method":"tools/call\u0000","params":{"name":"danger"}"#,
    r#""method":"tools/call\ud800","params":{"name":"danger"}"#,
    r#""method":"tools_call","params":{"name":"danger"}"#,
    r#""method":"tools/call","params":{"name":["danger"]}"#,
    r#""method":"tools/call","params":["danger"]"#,
    r#""method":"tools/call","params":{"name":"danger\u0000"}"#,
    r#""method":"tools/call","params":{"name":"\u0064anger\ud800"}"#,
];

#[test]
fn a_tool_filter_holds_for_a_server_that_folds_names() {
    let scratch = Scratch::new();
    for (name, tools) in [("a", r#"(allow: ["safe", "slow"])"#), ("d", r#"(deny: ["danger"])"#)] {
        let daemon = scratch.start(&scratch.instance(name, &filtered(tools)));
        // The trick works where nothing is in the way, and what is right passes.
        let mut bridge = Http::open_at(daemon.address(), "/mcp");
        let (mut http, mut ws) = (daemon.http("lenient"), daemon.ws("lenient"));
        ws.ask(&initialize(json!(0)));
        assert_eq!(said(&http.ask(&call(1, "safe", json!({})))), "safe");
        let calls = CALLS.iter().map(|c| (*c).to_owned());
        for call in calls.chain([r#""method":"tools/call","params":{"name":"DANGER"}"#.to_owned()]) {
            let text = format!(r#"{{"jsonrpc":"2.0","id":7,{call}}}"#);
            let answer = http.post(&text);
            assert!(answer.body.contains("\"error\"") && !answer.body.contains("DANGER\""), "{text}: {answer:?}");
            ws.send(&text);
            let answer = ws.next().unwrap();
            assert!(answer["error"].is_object() && answer["id"] == 7, "{text}: {answer}");
            let on_bridge = text.replace("\"safe\"", "\"lenient__safe\"").replace("\"danger", "\"lenient__danger");
            for text in [&text, &on_bridge] {
                let answer = bridge.post(text);
                assert!(answer.body.contains("\"error\"") && !answer.body.contains("DANGER\""), "{text}: {answer:?}");
            }
        }

        for params in [
            r#""name":"safe","Name":"danger""#,
            r#""name":"safe","meta":{},"NAME":"danger""#,
            r#""name":"safe","name\ud800":"danger""#,
            r#""name":["danger"]"#,
            r#""arguments":{"name":"danger"}"#,
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{{params},{META}}}}}"#);
            let mut raw = Raw::open(daemon.address());
            let head = format!(
                "POST /servers/lenient/mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: safe\r\nContent-Length: {}\r\n\r\n",
                daemon.address(),
                body.len()
            );
            raw.send(format!("{head}{body}").as_bytes());
            let answer = raw.response();
            assert!(answer.status == 400 && !answer.body.contains("DANGER\""), "{body}: {answer:?}");
        }
        daemon.stop();
    }
}

#[test]
fn no_client_answers_or_cancels_the_call_of_another_by_another_spelling() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &filtered("()")));
    let mut victim = daemon.ws("lenient");
    victim.ask(&initialize(json!(0)));
    victim.send(&call(1, "slow", json!({})).to_string());
    wait("the victim's call", || (daemon.status()["requests"]["in_flight"] == 1).then_some(()));
    let (mut ws, mut http) = (daemon.ws("lenient"), daemon.http("lenient"));
    ws.ask(&initialize(json!(0)));
    for id in 1..20 {
        for text in [
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/x","METHOD":"tools/call","ID":{id},"params":{{"name":"safe"}}}}"#
            ),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","Id":{id},"Method":"ping"}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"Notifications/Cancelled","params":{{"requestId":{id}}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/Cancelled","params":{{"requestId":{id}}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled ","params":{{"requestId":{id}}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications//cancelled","params":{{"requestId":{id}}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled\u0000","params":{{"requestId":{id}}}}}"#),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/x","method\ud800":"tools/call","id\ud800":{id},"params":{{"name":"safe"}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"none","requestId\ud800":{id}}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"none","request_id":{id}}}}}"#
            ),
            format!(r#"{{"jsonrpc":"2.0","id":5,"method":"NOTIFICATIONS/cancelled","params":{{"requestId":{id}}}}}"#),
        ] {
            ws.send(&text);
            let refused = http.post(&text);
            assert_eq!(refused.status, 400, "{text}: {refused:?}");
        }
    }
    // Whatever got through would have been answered before this.
    assert_eq!(said(&http.ask(&call(9, "safe", json!({})))), "safe");
    assert_eq!(daemon.status()["requests"]["in_flight"], 1, "the victim still waits");
    let forged: Vec<Value> = std::iter::from_fn(|| ws.next().filter(|m| m["id"] != "end")).take(11 * 19).collect();
    assert!(forged.iter().all(|m| m["error"].is_object()), "{forged:?}");
}

#[test]
fn what_means_one_thing_only_passes_with_members_that_nothing_is_routed_by() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &filtered("()")));
    let mut http = daemon.http("lenient");
    for text in [
        // Names that no message of this method is routed by, and those of arguments.
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","URI":"x","Title":"y"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","arguments":{"Name":"a","name":"b"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"vendor/Thing","params":{"Name":"a","TaskID":1,"request_id":2}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","_meta":{"Vendor":1}},"trace":"x"}"#,
    ] {
        let answer = http.post(text);
        assert!(answer.status == 200 && answer.body.contains("\"result\""), "{text}: {answer:?}");
    }
}

#[test]
fn ids_and_tokens_are_1_kib_at_most() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &filtered("()")));
    let mut http = daemon.http("lenient");
    let id = |n: usize| format!("\"{}\"", "i".repeat(n - 2));
    let request = |id: &str, token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"safe","_meta":{{"progressToken":{token}}}}}}}"#
        )
    };
    let answer = http.post(&request(&id(1024), &id(1024)));
    assert_eq!((answer.status, answer.json()["id"].as_str().map(str::len)), (200, Some(1022)));
    for (text, has) in [(request(&id(1025), "1"), json!(null)), (request("3", &id(1025)), json!(3))] {
        let answer = http.post(&text);
        assert_eq!((answer.status, &answer.json()["id"]), (400, &has), "{answer:?}");
        assert!(answer.body.contains("1 KiB"), "{answer:?}");
    }
    let text =
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{}}}}}"#, id(1025));
    assert_eq!(http.post(&text).status, 400);
}

struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The longest that a stranger's question took while this went on.
fn worst_of_others(daemon: &Daemon<'_>, attack: impl FnOnce() + Send) -> Duration {
    let (address, over) = (daemon.address().to_owned(), AtomicBool::new(false));
    std::thread::scope(|s| {
        let asking = s.spawn(|| {
            let mut worst = Duration::ZERO;
            // Once more after the end: what was sent may still be worked on.
            let mut last = false;
            while !last {
                last = over.load(SeqCst);
                let begin = Instant::now();
                assert_eq!(get(&address, "/healthz").status, 200);
                worst = worst.max(begin.elapsed());
            }
            worst
        });
        // Also if it fails.
        let over = Over(&over);
        attack();
        drop(over);
        asking.join().unwrap()
    })
}

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn listen(id: usize, uris: &[String]) -> String {
    let uris = json!(uris);
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":{uris}}},{META}}}}}"#
    )
}

fn cancelled(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},{META}}}}}"#)
}

#[test]
fn a_cancellation_of_many_subscriptions_stalls_nobody() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    for (count, each, length) in [(2, 1000, 8000), (20, 1000, 50), (100, 10, 900)] {
        for path in ["/servers/fake/ws", "/ws/mcp"] {
            let mut ws = Ws::open(daemon.address(), path);
            let worst = worst_of_others(&daemon, || {
                let mut honoured = 0;
                for id in 0..count {
                    let uris: Vec<String> = (0..each).map(|n| format!("{:0>length$}", format!("{id}/{n}"))).collect();
                    ws.send(&listen(id, &uris));
                    let answer = ws.next().unwrap();
                    match answer["error"].is_object() {
                        true => assert!(answer["id"] == id, "{answer}"),
                        false => honoured += 1,
                    }
                }
                // A session listens to 1000 resources, with 1 MiB of URIs in all.
                assert_eq!(honoured >= 1, length < 8000, "{count} {each} {length} {path}");
                for id in 0..count {
                    ws.send(&cancelled(&id.to_string()));
                }
                ws.send(&format!(r#"{{"jsonrpc":"2.0","id":"end","method":"server/discover","params":{{{META}}}}}"#));
                while ws.next().is_some_and(|m| m["id"] != "end") {}
            });
            // It was 48 s.
            assert!(worst < Duration::from_secs(3), "{count} {each} {length} {path}: {worst:?}");
        }
    }
}

#[test]
fn sessions_that_watch_many_resources_and_leave_stall_nobody() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let worst = worst_of_others(&daemon, || {
        let mut all: Vec<Ws> = (0..20).map(|_| daemon.ws("fake")).collect();
        for (n, ws) in all.iter_mut().enumerate() {
            ws.ask(&initialize(json!(0)));
            for uri in 0..200 {
                // A half is watched by all of them.
                let own = if uri % 2 == 0 { n } else { 0 };
                let uri = format!("file:///{own}/{uri:0>200}");
                ws.send(
                    &json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}})
                        .to_string(),
                );
                assert!(ws.next().unwrap()["result"].is_object());
            }
        }
        drop(all);
        wait("their end", || (daemon.status()["sessions"] == 0).then_some(()));
    });
    assert!(worst < Duration::from_secs(3), "{worst:?}");
}

#[test]
fn a_cancellation_is_compared_with_many_ids_at_once() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &filtered("()")));
    let mut ws = daemon.ws("lenient");
    ws.ask(&initialize(json!(0)));
    let id = |n: usize| format!("\"{}{n:03}\"", "\\u0061".repeat(169));
    let worst = worst_of_others(&daemon, || {
        for n in 0..255 {
            let text =
                format!(r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"slow"}}}}"#, id(n));
            ws.send(&text);
        }
        wait("the calls", || (daemon.status()["requests"]["in_flight"] == 255).then_some(()));
        for n in 0..255 {
            // The same id in another way of writing it.
            let id = id(n).replace("\\u0061", "a");
            ws.send(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            ));
        }
        wait("their end", || (daemon.status()["requests"]["in_flight"] == 0).then_some(()));
    });
    assert!(worst < Duration::from_secs(3), "{worst:?}");
}

/// A message of so many bytes that has a place for nearly as many names.
fn full_of(before: &str, unit: &str, after: &str, length: usize) -> String {
    let times = (length - before.len() - after.len()) / unit.len();
    format!("{before}{}{after}", unit.repeat(times))
}

#[test]
fn a_message_of_millions_of_names_holds_nobody_up() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "bridge: Prefix,", &filtered("(allow: [\"safe\"])")));
    const HEAD: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"safe","#;
    let length = (4 << 20) - 100;
    let texts = [
        full_of(HEAD, r#""":0,"#, r#""z":0}}"#, length),
        full_of(HEAD, r#""Title":0,"#, r#""z":0}}"#, length),
        full_of(&format!(r#"{HEAD}"_meta":{{"#), r#""a":0,"#, r#""z":0}}}"#, length),
        full_of(
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","#,
            r#""":0,"#,
            r#""params":{"name":"safe"}}"#,
            length,
        ),
        full_of(&format!(r#"{HEAD}"arguments":{{"x":["#), "0,", r#"0]}}}"#, length),
    ];
    let mut ws = daemon.ws("lenient");
    ws.ask(&initialize(json!(0)));
    let mut http = daemon.http("lenient");
    let mut bridge = Http::open_at(daemon.address(), "/mcp");
    let worst = worst_of_others(&daemon, || {
        for text in &texts {
            ws.send(text);
            assert_eq!(said(&ws.next().unwrap()), "safe");
            assert_eq!(said(&http.post(text).json()), "safe");
            assert_eq!(said(&bridge.post(&text.replace("\"safe\"", "\"lenient__safe\"")).json()), "safe");
        }
        // What comes behind a long message is taken behind it.
        for n in 0..3 {
            ws.send(&texts[0].replace("\"id\":7", &format!("\"id\":{n}")));
            ws.send(&call(n + 10, "safe", json!({})).to_string());
        }
        let ids: Vec<Value> = (0..6).map(|_| ws.next().unwrap()["id"].clone()).collect();
        assert_eq!(ids, [0, 10, 1, 11, 2, 12].map(Value::from));
    });
    assert!(worst < Duration::from_secs(2), "{worst:?}");
}

#[test]
fn what_is_not_complete_counts_against_the_memory_and_the_health_path_answers() {
    let scratch = Scratch::new();
    let more = "limits: (memory: \"16MiB\", reply: \"1MiB\", message: \"4MiB\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &filtered("()")));
    let address = daemon.address().to_owned();
    let length = 3 << 20;
    let begin = |address: &str| {
        let mut raw = Raw::open(address);
        let head = format!(
            "POST /servers/lenient/mcp HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}Content-Length: {}\r\n\r\n",
            length + 1
        );
        raw.send(head.as_bytes());
        raw.send(&vec![b' '; length]);
        raw
    };
    // None of them is complete. Four fit into 12 MiB, three quarters of the whole.
    let mut all: Vec<Raw> = (0..4).map(|_| begin(&address)).collect();
    wait("the refusal", || {
        all.push(begin(&address));
        (daemon.dropped("memory") > 0).then_some(())
    });
    assert_eq!(get(&address, "/healthz").status, 200);
    // So do messages of a WebSocket: closed with 1013. At least three of the others are still there.
    let mut ws = daemon.ws("lenient");
    for i in 0..8 {
        let opcode = OpCode::Data(if i == 0 { Data::Text } else { Data::Continue });
        let piece = Frame::message(vec![b' '; 1 << 20], opcode, false);
        ws.socket.send(tungstenite::Message::Frame(piece)).unwrap();
    }
    assert_eq!(ws.close_code(), Some(1013));
    // What is given up is there for others.
    drop(all);
    let mut http = wait("memory", || {
        let mut http = Http::open_at(&address, "/servers/lenient/mcp");
        let padded = format!("{}{}", call(1, "safe", json!({})), " ".repeat(2 << 20));
        (http.post(&padded).status == 200).then_some(http)
    });
    assert_eq!(said(&http.ask(&call(2, "safe", json!({})))), "safe");
}

#[test]
fn requests_that_have_come_whole_and_wait_count_against_the_memory() {
    let scratch = Scratch::new();
    // It is asked which arguments are repeated in headers, and never says.
    let servers = stdio("fake", &["--modern", "--no-legacy", "--no-list"], "");
    let daemon = scratch.start(&scratch.instance_with("t", "limits: (memory: \"8MiB\"),", &servers));
    let text = "x".repeat(40 << 10);
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}"}},{META}}}}}"#
    );
    let request = format!(
        "POST /servers/fake/mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n\
         Mcp-Name: echo\r\nContent-Length: {}\r\n\r\n{body}",
        daemon.address(),
        body.len()
    );
    let begin = || {
        let mut raw = Raw::open(daemon.address());
        raw.send(request.as_bytes());
        raw
    };
    // 200 of them have as much as may be kept.
    let mut all = Vec::new();
    for _ in 0..400 {
        all.push(begin());
    }
    wait("the refusal", || (daemon.dropped("memory") > 0).then_some(()));
    assert_eq!(all.pop().unwrap().response().status, 503);
}

#[test]
fn commands_are_bounded_at_a_time_and_their_output_in_memory() {
    let scratch = Scratch::new();
    let exec = "\"run\": Exec(allow: [\"*\"], shell: \"/bin/sh\", commands: 3, session_commands: 2)";
    let more = "limits: (memory: \"16MiB\", reply: \"4MiB\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, exec));
    let run = |id: i32, command: &str| call(id, "execute", json!({"command": command})).to_string();
    let (mut one, mut two) = (daemon.ws("run"), daemon.ws("run"));
    one.ask(&initialize(json!(0)));
    two.ask(&initialize(json!(0)));
    let go = scratch.path("go").display().to_string();
    let waits = format!("until [ -e {go} ]; do sleep 0.05; done; echo done");
    for id in 1..=3 {
        one.send(&run(id, &waits));
    }
    let refused = one.next().unwrap();
    assert!(
        refused["id"] == 3 && refused["error"]["message"].as_str().unwrap().contains("session_commands"),
        "{refused}"
    );
    for id in 1..=2 {
        two.send(&run(id, &waits));
    }
    let refused = two.next().unwrap();
    assert!(refused["id"] == 2 && refused["error"]["message"].as_str().unwrap().contains("(commands)"), "{refused}");
    assert_eq!(daemon.dropped("commands"), 2);
    std::fs::write(scratch.path("go"), "").unwrap();
    for ws in [&mut one, &mut two] {
        assert_eq!(said(&ws.next().unwrap()), "done\n");
    }
    assert_eq!(said(&one.next().unwrap()), "done\n");
    // Control characters are six times as long in the answer, which has its bound all the same.
    let flood = "head -c 50000000 /dev/zero | tr '\\0' '\\001'; yes | head -c 50000000 >&2";
    let answer = one.ask(&serde_json::from_str(&run(9, flood)).unwrap());
    let text = answer.to_string();
    assert!(text.len() < 10 << 20 && text.contains("more bytes were cut"), "{}", text.len());
    let peak = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap();
    let peak = peak.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 100 << 10, "{kib} KiB");
}

fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn after_a_peak_the_memory_goes_back_to_the_system() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let start = resident(daemon.pid);
    let mut all: Vec<Ws> = (0..900).map(|_| daemon.ws("fake")).collect();
    let long = call(2, "echo", json!({"text": "x".repeat(20 << 10)})).to_string();
    for ws in &mut all {
        ws.ask(&initialize(json!(1)));
        ws.send(&long);
    }
    for ws in &mut all {
        assert!(ws.next().unwrap()["result"].is_object());
    }
    let peak = resident(daemon.pid);
    assert!(peak > 2 * start + (2 << 20), "that was no peak: {start} {peak}");
    // One that stays keeps the heap from shrinking at its end.
    let _last = all.pop();
    drop(all);
    wait("the memory", || (resident(daemon.pid) <= 2 * start + (2 << 20)).then_some(()));
}

#[test]
fn who_takes_all_sessions_leaves_some_for_others() {
    let scratch = Scratch::new();
    let more = "bridge: Prefix, limits: (sessions: 40),";
    let own = stdio("own", &[], "sharing: PerSession(max: 8, spare: 0)");
    let daemon = scratch.start(&scratch.instance_with("t", more, &(stdio("fake", &[], "") + &own)));
    let address = daemon.address();
    // One connection opens as many as it gets, and listens on each: those that are idle make room.
    let greedy = |server: &str| {
        let mut http = Http::open(address, server);
        let (mut count, mut streams) = (1, vec![http.stream()]);
        loop {
            http.session.clear();
            let answer = http.post(&initialize(json!(0)).to_string());
            if answer.status != 200 {
                let why = answer.json()["error"]["message"].as_str().unwrap().to_owned();
                return ((http, streams), count, why);
            }
            http.session = answer.header("mcp-session-id").unwrap();
            streams.push(http.stream());
            count += 1;
        }
    };
    let (_one, count, why) = greedy("own");
    assert_eq!((count, why.as_str()), (7, "8 sessions at a time is the limit of server 'own'; try again later"));
    let third = daemon.http("own");
    let _third = third.stream();
    let (_two, count, why) = greedy("fake");
    assert_eq!((count, why.as_str()), (27, "40 sessions at a time is the limit (limits.sessions); try again later"));
    // Others get in by each way, until the last place is taken.
    let others = [daemon.http("fake"), Http::open_at(address, "/mcp")];
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(0)));
    let (a, b) = (daemon.http("fake"), daemon.http("fake"));
    let _listen: Vec<Raw> = others.iter().chain([&a, &b]).map(Http::stream).collect();
    let mut full = a.again();
    full.session.clear();
    let full = full.post(&initialize(json!(0)).to_string());
    assert_eq!(full.status, 503, "{full:?}");
    assert!(daemon.dropped("sessions") >= 3);
    drop((others, a, b));
}

#[test]
fn idle_connections_make_room_and_the_health_paths_always_have_it() {
    let scratch = Scratch::new();
    let more = "limits: (connections: 9),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let address = daemon.address();
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(0)));
    let mut used = daemon.http("fake");
    let call_and_wait = call(1, "sleep", json!({"n": 60_000})).to_string();
    used.send(&call_and_wait);
    let stream = used.stream();
    // Bodies that never end take all the rest.
    let dawdle = || {
        let mut raw = Raw::open(address);
        let head = format!("POST /servers/fake/mcp HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}Content-Length: 9\r\n\r\n[");
        raw.send(head.as_bytes());
        raw
    };
    let mut held: Vec<Raw> = (0..5).map(|_| dawdle()).collect();
    wait("all places", || {
        let answer = get(address, "/status");
        if answer.status == 200 {
            held.push(dawdle());
        }
        (answer.status == 503).then_some(())
    });
    for path in ["/healthz", "/readyz"] {
        let answer = get(address, path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let silent = Raw::open(address).rest();
    assert!(silent.starts_with("HTTP/1.1 503 ") && silent.ends_with("try later"), "{silent}");
    // Silent ones do not keep the health paths from anybody.
    let crowd: Vec<Raw> = (0..200).map(|_| Raw::open(address)).collect();
    assert_eq!(get(address, "/healthz").status, 200);
    drop(crowd);
    // One that waits for its next request gives way after ten seconds; what is in use does not.
    let mut idle = held.pop().unwrap();
    idle.send(b"]       ");
    assert_eq!(idle.response().status, 400);
    wait("a place", || (get(address, "/status").status == 200).then_some(()));
    assert_eq!(idle.rest(), "");
    assert_eq!(said(&ws.ask(&call(2, "echo", json!({"text": "here"})))), "here");
    drop((held, stream, used, ws));
}

/// The most memory that a process has ever had, in bytes.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() << 10
}

/// Runs a test against an instance that may keep 16 MiB for clients; it must never take much more than that.
fn within_memory(servers: &str, what: impl Fn(&Daemon<'_>)) {
    let scratch = Scratch::new();
    let more = "limits: (memory: \"16MiB\", reply: \"4MiB\", message: \"4MiB\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, servers));
    let before = peak(daemon.pid);
    what(&daemon);
    assert!(daemon.dropped("memory") > 0);
    let more = peak(daemon.pid) - before;
    assert!(more < 64 << 20, "{} MiB", more >> 20);
    // Who comes later is served, once the others have gone.
    wait("memory for others", || {
        let mut http = daemon.http("fake");
        let answer = http.ask(&call(1, "big", json!({"n": 2_000_000})));
        (answer["result"].is_object()).then_some(())
    });
}

#[test]
fn answers_that_are_not_read_count_against_the_memory() {
    within_memory(&stdio("fake", &[], ""), |daemon| {
        let ask = |n: i32| call(n, "big", json!({"n": 2_000_000})).to_string();
        let mut ws: Vec<Ws> = (0..12).map(|_| daemon.ws("fake")).collect();
        for ws in &mut ws {
            // More than the buffers of its socket hold.
            (0..8).for_each(|n| ws.send(&ask(n)));
        }
        wait("the refusal", || (daemon.dropped("memory") > 0).then_some(()));
        // Each gets its answers or an error for them, and no call is lost.
        let mut http: Vec<Http> = (0..12).map(|_| daemon.http("fake")).collect();
        for http in &mut http {
            http.send(&ask(1));
        }
        wait("all calls", || (daemon.server("fake")["requests"]["in_flight"] == 0).then_some(()));
        for http in &mut http {
            let answer = http.raw.response().messages().pop().unwrap();
            let error = answer["error"]["message"].as_str();
            assert!(answer["result"].is_object() || error.is_some_and(|e| e.contains("limits.memory")), "{answer}");
        }
        let ids: std::collections::BTreeSet<i64> =
            (0..8).map(|_| ws[11].next().unwrap()["id"].as_i64().unwrap()).collect();
        assert_eq!(ids.len(), 8);
    });
}

#[test]
fn answers_over_http_that_are_not_read_count_against_the_memory() {
    let scratch = Scratch::new();
    let more = "limits: (memory: \"64MiB\", reply: \"16MiB\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let before = peak(daemon.pid);
    // More than the buffers of a socket hold.
    let ask = |n: i32| call(n, "big", json!({"n": 15_000_000})).to_string();
    // One JSON object for each connection.
    let mut all = Vec::new();
    wait("the refusal", || {
        let mut http = daemon.http("fake");
        http.accept = Some("application/json");
        http.send(&ask(1));
        wait("the call", || (daemon.server("fake")["requests"]["in_flight"] == 0).then_some(()));
        all.push(http);
        (daemon.dropped("memory") > 0).then_some(())
    });
    assert!(all.len() > 2, "{}", all.len());
    drop(all);
    // The same event for many streams that take it up again.
    let (http, answer) = wait("memory", || {
        let mut http = daemon.http("fake");
        http.accept = Some("text/event-stream");
        let answer = http.post(&ask(2));
        (answer.body.len() > 15_000_000).then_some((http, answer))
    });
    let id = answer.body.lines().find_map(|l| l.strip_prefix("id: ")).unwrap();
    let dropped = daemon.dropped("memory");
    let mut streams = Vec::new();
    wait("the refusal", || {
        let mut raw = Raw::open(daemon.address());
        let (address, session) = (daemon.address(), &http.session);
        raw.send(
            format!(
                "GET /servers/fake/mcp HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\
                 Mcp-Session-Id: {session}\r\nLast-Event-ID: {id}\r\n\r\n"
            )
            .as_bytes(),
        );
        streams.push(raw);
        (daemon.dropped("memory") > dropped).then_some(())
    });
    assert!(streams.len() > 1, "{}", streams.len());
    drop(streams);
    let more = peak(daemon.pid) - before;
    assert!(more < 200 << 20, "{} MiB", more >> 20);
}

#[test]
fn what_is_kept_to_be_sent_again_makes_room_for_others() {
    let scratch = Scratch::new();
    let more = "limits: (memory: \"16MiB\", reply: \"4MiB\", message: \"4MiB\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    // Clients that read everything, and leave without a word, until even little is refused.
    let mut read = 0;
    for size in [1_500_000, 700_000, 300_000, 100_000, 50_000, 20_000] {
        for n in 0..12 {
            let mut http = daemon.http("fake");
            http.accept = Some("text/event-stream");
            let answer = http.post(&call(n, "big", json!({"n": size})).to_string());
            read += answer.body.len();
        }
    }
    assert!(read > 16 << 20, "{read}");
    let text = "x".repeat(1 << 20);
    wait("room", || {
        let mut http = daemon.http("fake");
        let answer = http.post(&call(1, "echo", json!({"text": text})).to_string());
        (answer.status == 200 && answer.body.len() > 1 << 20).then_some(())
    });
}

#[test]
fn requests_that_wait_for_a_child_count_against_the_memory() {
    let servers = stdio("slow", &["--never-answer"], "required: false") + &stdio("fake", &[], "");
    within_memory(&servers, |daemon| {
        let text = "x".repeat(900_000);
        let mut all: Vec<Ws> = (0..6).map(|_| daemon.ws("slow")).collect();
        for ws in &mut all {
            (0..6).for_each(|n| ws.send(&call(n, "echo", json!({"text": text})).to_string()));
        }
        // What still comes is refused, or what has come whole cannot wait: a session more or less.
        wait("the refusal", || (daemon.dropped("memory") > 0).then_some(()));
        wait("what may wait", || {
            let waits = daemon.server("slow")["requests"]["in_flight"].as_u64().unwrap();
            (6..=14).contains(&waits).then_some(())
        });
    });
}

#[test]
fn requests_that_a_child_does_not_read_count_against_the_memory() {
    // One child's input is never more than a quarter.
    let hung: Vec<String> = (0..6).map(|n| format!("hung{n}")).collect();
    let servers: String = hung.iter().map(|name| stdio(name, &[], "health: None")).collect();
    within_memory(&(servers + &stdio("fake", &[], "")), |daemon| {
        let text = "x".repeat(900_000);
        let mut all = Vec::new();
        for name in &hung {
            kill(daemon.child(name), libc::SIGSTOP);
            for _ in 0..3 {
                let mut ws = daemon.ws(name);
                (0..3).for_each(|n| ws.send(&call(n, "echo", json!({"text": text})).to_string()));
                all.push(ws);
            }
        }
        wait("the refusal", || (daemon.dropped("memory") > 0).then_some(()));
        hung.iter().for_each(|name| kill(daemon.child(name), libc::SIGCONT));
    });
}

#[test]
fn what_clients_wish_counts_against_the_memory() {
    within_memory(&stdio("fake", &[], ""), |daemon| {
        let long = |method: &str| {
            let pad = "x".repeat(100_000);
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"protocolVersion": "2025-11-25",
                "capabilities": {}, "clientInfo": {"name": pad, "version": "1"}, "level": "info"}})
        };
        for method in ["initialize", "logging/setLevel"] {
            let answer = daemon.ws("fake").ask(&long(method));
            assert_eq!(answer["error"]["message"], format!("'{method}' is longer than 64 KiB"));
        }
        let mut all: Vec<Ws> = Vec::new();
        let uri = |n: usize| format!("test://{n}/{}", "x".repeat(7000));
        let subscribe = |ws: &mut Ws, n: usize| {
            let params = json!({"uri": uri(n)});
            ws.ask(&json!({"jsonrpc": "2.0", "id": n, "method": "resources/subscribe", "params": params}))
        };
        wait("the refusal", || {
            let mut ws = daemon.ws("fake");
            ws.ask(&initialize(json!(0)));
            let refused = (0..400).any(|n| subscribe(&mut ws, n)["error"].is_object());
            all.push(ws);
            refused.then_some(())
        });
        assert!(all.len() > 3, "{}", all.len());
    });
}

#[test]
fn a_page_of_another_site_opens_no_event_stream() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let address = daemon.address();
    let ask = |headers: &str| {
        let mut raw = Raw::open(address);
        raw.send(format!("GET /servers/fake/sse HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").as_bytes());
        raw.head().status
    };
    // As <img>, <iframe> or a link sends it; a script sends Origin, which is refused by itself.
    for site in ["cross-site", "same-site"] {
        assert_eq!(ask(&format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: no-cors\r\n")), 403);
    }
    assert_eq!(daemon.status()["sessions"], 0);
    for fine in ["", "Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: same-origin\r\n"] {
        assert_eq!(ask(fine), 200, "{fine}");
    }
}
