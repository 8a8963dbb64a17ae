//! The audit record: who has asked for what, on every transport, and what becomes of it when it cannot be written.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;

/// The lines of a record.
fn lines(scratch: &Scratch, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(scratch.path(file)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The one line that fits, once it is there.
fn line(scratch: &Scratch, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    wait(what, || {
        let found: Vec<Value> = lines(scratch, "a").into_iter().filter(|l| fits(l)).collect();
        assert!(found.len() < 2, "{what}: {found:?}");
        found.into_iter().next()
    })
}

#[test]
fn each_session_call_and_refusal_stands_in_the_record_with_whose_it_is() {
    let scratch = Scratch::new();
    scratch.write("tokens", &token_line("ann", "ann-token"));
    let more = "auth: Bearer(\"tokens\"), bridge: Prefix, audit: (file: \"a\"), limits: (in_flight: 1),";
    let servers = stdio("fake", &[], "tools: (deny: [\"era\"])");
    let daemon = scratch.start(&scratch.instance_with("t", more, &servers));
    let headers = |more: &str| format!("{ACCEPT}Authorization: Bearer ann-token\r\n{more}");
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "edi\ntor", "version": "2"}}});
    let opened = post(daemon.address(), "/servers/fake/mcp", &headers(""), &hello.to_string());
    let session = format!("Mcp-Session-Id: {}\r\n", opened.header("mcp-session-id").unwrap());
    let ask = |body: &Value| post(daemon.address(), "/servers/fake/mcp", &headers(&session), &body.to_string());
    let mut traced = call("é", "echo", json!({"text": "hunter2"}));
    traced["params"]["_meta"] = json!({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"});
    assert_eq!(said(&ask(&traced).json()), "hunter2");
    let begun = line(&scratch, "the session", |l| l["event"] == "session_begin");
    assert_eq!(
        (&begun["principal"], &begun["transport"], &begun["server"]),
        (&json!("token:ann"), &json!("http"), &json!("fake"))
    );
    assert_eq!(begun["client"], "edi\\ntor 2");
    let called = line(&scratch, "the call", |l| l["method"] == "tools/call");
    for (field, value) in [
        ("v", json!(1)),
        ("event", json!("call")),
        ("principal", json!("token:ann")),
        ("session", begun["session"].clone()),
        ("name", json!("echo")),
        ("id", json!("é")),
        ("outcome", json!("ok")),
        ("trace", json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
    ] {
        assert_eq!(called[field], value, "{field}: {called}");
    }
    assert!(
        called["ms"].as_f64().is_some()
            && called["bytes_in"].as_u64() > Some(50)
            && called["bytes_out"].as_u64() > Some(50)
    );
    assert!(!scratch.file("a").contains("hunter2"), "arguments and results are nobody's affair");
    // What a server refuses, and what the daemon does not let in.
    assert!(ask(&call(3, "era", json!({}))).json()["error"].is_object());
    let refused = line(&scratch, "the refusal", |l| l["name"] == "era");
    assert_eq!((&refused["event"], &refused["outcome"]), (&json!("refused"), &json!("refused")));
    assert!(refused["reason"].as_str().unwrap().contains("may not be used here"), "{refused}");
    let unknown = ask(&json!({"jsonrpc": "2.0", "id": 4, "method": "no/such"}));
    assert!(unknown.json()["error"].is_object());
    let failed = line(&scratch, "the error", |l| l["method"] == "no/such");
    assert_eq!((&failed["outcome"], &failed["code"]), (&json!("error"), &unknown.json()["error"]["code"]));
    assert_eq!(post(daemon.address(), "/servers/fake/mcp", ACCEPT, "{}").status, 401);
    let stranger = line(&scratch, "the stranger", |l| l["path"] == "/servers/fake/mcp");
    assert_eq!((&stranger["event"], stranger.get("principal")), (&json!("refused"), None));
    // Over the bridge it is the server behind it, and whose session that is.
    let whole = post(daemon.address(), "/mcp", &headers(""), &hello.to_string());
    let session = format!("Mcp-Session-Id: {}\r\n", whole.header("mcp-session-id").unwrap());
    let body = call(7, "fake__count", json!({})).to_string();
    assert!(post(daemon.address(), "/mcp", &headers(&session), &body).json()["result"].is_object());
    let bridged = line(&scratch, "the call over the bridge", |l| l["id"] == 7);
    assert_eq!((&bridged["server"], &bridged["principal"]), (&json!("fake"), &json!("token:ann")));
    // Revision 2026-07-28 has no sessions.
    let mut modern = call(8, "count", json!({}));
    modern["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let more = headers("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: count\r\n");
    assert!(post(daemon.address(), "/servers/fake/mcp", &more, &modern.to_string()).json()["result"].is_object());
    assert_eq!(line(&scratch, "the modern call", |l| l["id"] == 8)["principal"], "token:ann");
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert_eq!(line(&scratch, "the reload", |l| l["event"] == "reload")["outcome"], "ok");
    assert_eq!(code(&scratch.ctl(&["restart", "t", "--server", "fake"])), 0);
    line(&scratch, "the restart", |l| l["event"] == "restart");
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    line(&scratch, "the upgrade", |l| l["event"] == "upgrade");
    let shown = stdout(&scratch.ctl(&["logs", "t", "--audit", "-n", "1"]));
    assert!(shown.contains("\"event\":\"upgrade\""), "{shown}");
    let mut raw = Raw::open(daemon.address());
    let delete =
        format!("DELETE /mcp HTTP/1.1\r\nHost: {}\r\n{}Connection: close\r\n\r\n", daemon.address(), headers(&session));
    raw.send(delete.as_bytes());
    assert!(raw.response().status < 300);
    let ended = line(&scratch, "the end of the session", |l| l["event"] == "session_end");
    assert_eq!((&ended["server"], &ended["principal"]), (&json!("bridge"), &json!("token:ann")));
    assert!(ended["reason"].is_string(), "{ended}");
    daemon.stop();
    assert_eq!(lines(&scratch, "a").iter().filter(|l| l["event"] == "stop").count(), 1);
}

#[test]
fn arguments_stand_in_the_record_if_that_is_wanted_and_a_cancelled_call_is_one() {
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance_with("t", "audit: (file: \"a\", arguments: true),", &stdio("fake", &[], "")));
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(1)));
    ws.send("{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"never\",\"arguments\":{\r\n\"a\" : [1]}}}");
    wait("the call", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    // It goes on in another process, and what stands of it in the record is known there.
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#);
    let cancelled = line(&scratch, "the call", |l| l["id"] == 2);
    assert_eq!((&cancelled["outcome"], &cancelled["arguments"]), (&json!("cancelled"), &json!({"a": [1]})));
    assert_eq!((&cancelled["name"], &cancelled["method"]), (&json!("never"), &json!("tools/call")));
    assert_eq!((&cancelled["transport"], cancelled.get("principal")), (&json!("websocket"), None));
    daemon.stop();
    assert_eq!(code(&scratch.ctl(&["logs", "t", "--audit"])), 1, "nobody says where it is");
}

#[test]
fn the_record_is_opened_anew_by_a_reload_and_rotated() {
    let scratch = Scratch::new();
    let more = "audit: (file: \"a\", rotate: (size: \"4KiB\", keep: 2)),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let mut ws = daemon.ws("fake");
    for n in 0..40 {
        ws.ask(&call(n, "echo", json!({"text": "x"})));
    }
    wait("an old one", || scratch.path("a.1").exists().then_some(()));
    std::fs::rename(scratch.path("a"), scratch.path("moved")).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    line(&scratch, "the reload", |l| l["event"] == "reload");
    // One that cannot be opened refuses a reload.
    std::fs::create_dir(scratch.path("folder")).unwrap();
    scratch.instance_with("t", "audit: (file: \"folder\"),", &stdio("fake", &[], ""));
    let out = scratch.ctl(&["reload", "t"]);
    assert!(code(&out) == 1 && stderr(&out).contains("cannot open the audit record"), "{out:?}");
    ws.ask(&call(100, "echo", json!({"text": "x"})));
    line(&scratch, "a call after that", |l| l["id"] == 100);
    scratch.instance_with("t", "log: (file: \"same\"), audit: (file: \"same\"),", &stdio("fake", &[], ""));
    assert!(stderr(&scratch.ctl(&["reload", "t"])).contains("the log is in this file: 'file' names another one"));
    // None at all.
    scratch.instance_with("t", "", &stdio("fake", &[], ""));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    let out = scratch.ctl(&["logs", "t", "--audit"]);
    assert!(code(&out) == 1 && stderr(&out).contains("it has no audit record"), "{out:?}");
}

#[test]
fn a_full_disk_costs_lines_and_calls_only_where_the_record_is_required() {
    for (required, refused) in [("false", false), ("true", true)] {
        let scratch = Scratch::new();
        // Whatever is written there fails (null(4)).
        let more = format!("audit: (file: \"/dev/full\", required: {required}),");
        let daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], "")));
        let mut ws = daemon.ws("fake");
        ws.ask(&call(1, "echo", json!({"text": "first"})));
        wait("the failure", || daemon.log().contains("cannot write the audit record: No space left").then_some(()));
        let answer = ws.ask(&call(2, "echo", json!({"text": "second"})));
        assert_eq!(answer["error"].is_object(), refused, "{answer}");
        if refused {
            let why = answer["error"]["message"].as_str().unwrap();
            assert!(why.contains("the audit record cannot be written, and it is required"), "{why}");
            // Into a file that can be written, it goes on.
            scratch.instance_with("t", "audit: (file: \"a\", required: true),", &stdio("fake", &[], ""));
            assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
            wait("calls", || ws.ask(&call(3, "echo", json!({"text": "third"})))["result"].is_object().then_some(()));
        } else {
            wait("lost lines", || {
                ws.ask(&call(4, "echo", json!({"text": "more"})));
                (daemon.dropped("audit_lines") > 0).then_some(())
            });
        }
    }
}

#[test]
fn a_reader_that_is_stuck_holds_up_nobody() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // It is open, and reads nothing.
    let _reader = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let more = format!("audit: (file: {fifo:?}),");
    let daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], "")));
    let mut ws = daemon.ws("fake");
    let begin = std::time::Instant::now();
    for n in 0..1000 {
        assert!(ws.ask(&call(n, "echo", json!({"text": "x"})))["result"].is_object());
    }
    assert!(begin.elapsed() < Duration::from_secs(20));
    drop(ws);
    // It ends all the same.
    assert_eq!(code(&scratch.ctl(&["stop", "t"])), 0);
}
