//! Who shares a child: all, each session its own, a pool; and the older ways of speaking over HTTP.

use serde_json::{Value, json};

use crate::harness::*;

fn per_session(more: &str) -> String {
    let more = format!("sharing: PerSession({more}), restart: (delay: \"50ms\", max_delay: \"200ms\", burst: 100)");
    stdio("fake", &[], &more)
}

fn pids(daemon: &Daemon<'_>) -> usize {
    daemon.server("fake")["pids"].as_array().unwrap().len()
}

#[test]
fn per_session_children_and_spares() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &per_session("max: 3, spare: 2")));
    wait("the spares", || (pids(&daemon) == 3).then_some(()));
    let open = || {
        let mut ws = daemon.ws("fake");
        let hello = ws.ask(&initialize(json!("i")));
        // As the server said it, and not as a shared one would be shown.
        assert_eq!(hello["result"]["capabilities"]["logging"], json!({}));
        ws.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        ws
    };
    let (mut one, mut two) = (open(), open());
    let number = |ws: &mut Ws| ws.ask(&call(1, "self", json!({})))["result"]["structuredContent"]["pid"].clone();
    assert_ne!(number(&mut one), number(&mut two));
    assert_eq!(
        (said(&one.ask(&call(1, "count", json!({})))), said(&one.ask(&call(1, "count", json!({}))))),
        ("1", "2")
    );
    assert_eq!(said(&two.ask(&call(1, "count", json!({})))), "1", "nothing is shared");
    let _three = open();
    let full = Ws::try_open(daemon.address(), "/servers/fake/ws", &[]).err().map(|e| e.to_string());
    assert!(full.is_some_and(|e| e.contains("503")));
    // The child goes with its session, over both transports.
    let first = number(&mut one).as_i64().unwrap() as i32;
    drop(one);
    wait("its end", || (!alive(first)).then_some(()));
    let mut http = daemon.http("fake");
    let pid = http.ask(&call(1, "self", json!({})))["result"]["structuredContent"]["pid"].as_i64().unwrap() as i32;
    assert_eq!(http.bare("DELETE").response().status, 204);
    wait("its end", || (!alive(pid)).then_some(()));
}

#[test]
fn sampling_elicitation_and_roots_reach_the_one_client() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &per_session("")));
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(1)));
    ws.send(&call("q", "ask_back", json!({})).to_string());
    let question = ws.next().unwrap();
    assert_eq!((&question["method"], &question["id"]), (&json!("sampling/createMessage"), &json!("q1")));
    // Somebody else's answer is for nobody, and so is a second one.
    let mut other = daemon.ws("fake");
    other.ask(&initialize(json!(1)));
    other.send(r#"{"jsonrpc":"2.0","id":"q1","result":{"text":"wrong"}}"#);
    ws.send(r#"{"jsonrpc":"2.0","id":"q1","result":{"text":"right"}}"#);
    ws.send(r#"{"jsonrpc":"2.0","id":"q1","result":{"text":"late"}}"#);
    assert_eq!(said(&ws.next().unwrap()), "right");
    wait("the others", || (daemon.dropped("unowned_replies") == 2).then_some(()));
    // Over HTTP the question comes on the stream of the request that it belongs to.
    let mut http = daemon.http("fake");
    let mut answering = http.again();
    http.send(&call(5, "ask_back", json!({})).to_string());
    assert_eq!(http.raw.head().header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(http.raw.event().unwrap()["id"], "q1");
    assert_eq!(answering.post(r#"{"jsonrpc":"2.0","id":"q1","result":{"text":"by POST"}}"#).status, 202);
    assert_eq!(said(&http.raw.event().unwrap()), "by POST");
    // A log message has an owner here.
    let logged = answering.post(&call(6, "log", json!({})).to_string());
    assert_eq!(logged.messages().len(), 2, "{logged:?}");
}

#[test]
fn dead_child_of_a_session_is_replaced_and_restored() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &per_session("spare: 0")));
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(1)));
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    ws.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": "test://mine"}}));
    let dead = ws.ask(&call(3, "die", json!({"n": 3})));
    assert!(dead["error"]["message"].as_str().unwrap().contains("exited with status 3"), "{dead}");
    let mut next = ws.ask(&call(4, "echo", json!({"text": "again"})));
    while next["id"] != 4 {
        next = ws.next().unwrap();
    }
    assert_eq!(said(&next), "again");
    wait("the subscription", || {
        (daemon.log().matches("[fake] resources/subscribe test://mine").count() == 2).then_some(())
    });
}

#[test]
fn idle_session_ends_with_its_child() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "session_key: None,", &per_session("idle: \"1s\", spare: 0"));
    let daemon = scratch.start(&file);
    let mut http = daemon.http("fake");
    let pid = http.ask(&call(1, "self", json!({})))["result"]["structuredContent"]["pid"].as_i64().unwrap() as i32;
    wait("its end", || (!alive(pid)).then_some(()));
    assert_eq!(http.post(&call(2, "echo", json!({})).to_string()).status, 404);
}

#[test]
fn a_session_whose_client_has_left_its_stream_ends_sooner() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &per_session("idle: \"16s\", spare: 0")));
    let pid = |http: &mut Http| {
        let told = http.ask(&call(1, "self", json!({})))["result"]["structuredContent"]["pid"].clone();
        told.as_i64().unwrap() as i32
    };
    // One has never listened, one listens, and one does no more.
    let (mut quiet, mut listens, mut left) = (daemon.http("fake"), daemon.http("fake"), daemon.http("fake"));
    let (quiet_child, listening_child, left_child) = (pid(&mut quiet), pid(&mut listens), pid(&mut left));
    let stream = listens.stream();
    drop(left.stream());
    wait("its end", || (!alive(left_child)).then_some(()));
    assert!(alive(quiet_child) && alive(listening_child));
    drop(stream);
}

#[test]
fn pool_spreads_sessions_by_load() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "sharing: Pool(3)")));
    wait("all children", || (pids(&daemon) == 3).then_some(()));
    let mut sessions: Vec<Ws> = (0..6).map(|_| daemon.ws("fake")).collect();
    let mut seen = std::collections::HashMap::new();
    for ws in &mut sessions {
        ws.ask(&initialize(json!(0)));
        let pid = ws.ask(&call(1, "self", json!({})))["result"]["structuredContent"]["pid"].clone();
        *seen.entry(pid.to_string()).or_insert(0) += 1;
        // It stays there.
        assert_eq!(ws.ask(&call(2, "self", json!({})))["result"]["structuredContent"]["pid"], pid);
    }
    assert_eq!(seen.values().collect::<Vec<_>>(), [&2, &2, &2], "{seen:?}");
    // What one child tells is for its own sessions.
    sessions[0].send(&call(3, "list_changed", json!({})).to_string());
    let heard = [sessions[0].next().unwrap(), sessions[0].next().unwrap()];
    assert!(heard.iter().any(|m| m["method"] == "notifications/tools/list_changed"));
    for ws in &mut sessions[1..3] {
        assert_eq!(ws.ask(&call(4, "echo", json!({"text": "x"})))["id"], 4);
    }
    assert_eq!(sessions[3].next().unwrap()["method"], "notifications/tools/list_changed", "the other one there");
}

#[test]
fn http_sse_transport_of_2024_11_05() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let address = daemon.address().to_owned();
    let open = || {
        let mut raw = Raw::open(&address);
        raw.send(
            format!("GET /servers/fake/sse HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(raw.head().status, 200);
        let first = raw.chunk().unwrap();
        let endpoint = first.strip_prefix("event: endpoint\ndata: ").unwrap().trim().to_owned();
        (raw, endpoint)
    };
    let post = |endpoint: &str, body: &str| {
        let mut raw = Raw::open(&address);
        let head = format!("POST {endpoint} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n");
        raw.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        raw.response().status
    };
    let ((mut one, to_one), (mut two, to_two)) = (open(), open());
    for (raw, endpoint, text) in [(&mut one, &to_one, "one"), (&mut two, &to_two, "two")] {
        assert_eq!(post(endpoint, &initialize(json!(0)).to_string()), 202);
        assert_eq!(raw.event().unwrap()["result"]["protocolVersion"], "2025-11-25");
        assert_eq!(post(endpoint, &call("same", "echo", json!({"text": text})).to_string()), 202);
        assert_eq!(said(&raw.event().unwrap()), text);
    }
    assert_eq!(post(&to_one, "{"), 400);
    assert_eq!(post("/servers/fake/message?sessionId=00", "{}"), 404);
    let mut refused = Raw::open(&address);
    refused.send(format!("GET /servers/fake/message HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    let refused = refused.response();
    assert_eq!((refused.status, refused.header("allow").as_deref()), (405, Some("POST")));
    // The stream is the session.
    drop(two);
    wait("its end", || (daemon.status()["sessions"] == 1).then_some(()));
    assert_eq!(post(&to_two, &call(1, "echo", json!({})).to_string()), 404);
    // A drain waits for the answer.
    assert_eq!(post(&to_one, &call(9, "sleep", json!({"n": 500, "text": "late"})).to_string()), 202);
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    kill(daemon.pid, libc::SIGTERM);
    assert_eq!(said(&one.event().unwrap()), "late");
    scratch.gone();
}

#[test]
fn batches_are_for_2025_03_26_alone() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let batch = json!([call(1, "echo", json!({"text": "a"})), {"jsonrpc": "2.0", "method": "notifications/x"}, 7,
        call("2", "sleep", json!({"n": 20, "text": "b"})), initialize(json!("i"))])
    .to_string();
    let check = |all: &[Value]| {
        assert_eq!(all.len(), 4, "{all:?}");
        let of = |id: Value| all.iter().find(|m| m["id"] == id).unwrap();
        assert_eq!((said(of(json!(1))), said(of(json!("2")))), ("a", "b"));
        assert_eq!(of(json!("i"))["error"]["code"], -32600);
        assert_eq!(of(Value::Null)["error"]["code"], -32600);
    };
    let old = |ws: &mut Ws| {
        let mut hello = initialize(json!(0));
        hello["params"]["protocolVersion"] = json!("2025-03-26");
        assert_eq!(ws.ask(&hello)["result"]["protocolVersion"], "2025-03-26");
    };
    let mut ws = daemon.ws("fake");
    old(&mut ws);
    ws.send(&batch);
    check(ws.next().unwrap().as_array().unwrap());
    // One that is no request takes nobody's answer away.
    ws.send(r#"[{"jsonrpc":"2.0","method":"initialize"},{"jsonrpc":"2.0","id":9,"method":"ping"}]"#);
    assert_eq!(ws.next().unwrap(), json!([{"jsonrpc": "2.0", "id": 9, "result": {}}]));
    ws.send(r#"[{"jsonrpc":"2.0","method":"notifications/x"}]"#);
    ws.send("[]");
    assert_eq!(ws.next().unwrap()["error"]["code"], -32600);
    let mut newer = daemon.ws("fake");
    newer.ask(&initialize(json!(0)));
    newer.send(&batch);
    assert!(newer.next().unwrap()["error"]["message"].as_str().unwrap().contains("2025-03-26"));
    // Over HTTP, as events or as one array.
    let mut hello = initialize(json!(0));
    hello["params"]["protocolVersion"] = json!("2025-03-26");
    let mut http = daemon.http("fake");
    http.session.clear();
    let mut opening = Raw::open(daemon.address());
    let body = hello.to_string();
    let head = format!("POST /servers/fake/mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}", daemon.address());
    opening.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    http.session = opening.response().header("mcp-session-id").unwrap();
    check(&http.post(&batch).messages());
    let mut json_only = Raw::open(daemon.address());
    let head = format!(
        "POST /servers/fake/mcp HTTP/1.1\r\nHost: {}\r\nMcp-Session-Id: {}\r\nContent-Type: application/json\r\n\
         Accept: application/json\r\nContent-Length: {}\r\n\r\n{batch}",
        daemon.address(),
        http.session,
        batch.len()
    );
    json_only.send(head.as_bytes());
    check(json_only.response().json().as_array().unwrap());
    assert_eq!(http.post(r#"[{"jsonrpc":"2.0","method":"notifications/x"}]"#).status, 202);
    assert_eq!(daemon.http("fake").post(&batch).status, 400);
}

/// The id of an event, from a chunk of a stream.
fn event_id(chunk: &str) -> String {
    chunk.lines().rev().find_map(|l| l.strip_prefix("id: ")).unwrap_or_else(|| panic!("no id: {chunk}")).to_owned()
}

fn resume(http: &Http, id: &str) -> Raw {
    let mut raw = Raw::open(&http.address);
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {}\r\nLast-Event-ID: {id}\r\n\r\n",
        http.path, http.address, http.session
    );
    raw.send(head.as_bytes());
    assert_eq!(raw.head().status, 200);
    raw
}

#[test]
fn last_event_id_resumes_a_broken_stream() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let mut request = call(1, "progress", json!({"n": 20, "ms": 20}));
    request["params"]["_meta"] = json!({"progressToken": "p"});
    http.send(&request.to_string());
    assert_eq!(http.raw.head().status, 200);
    let primed = http.raw.chunk().unwrap();
    assert!(primed.starts_with("id: 1-0\nretry: ") && primed.contains("\ndata:\n"), "{primed}");
    let second = http.raw.chunk().unwrap();
    let last = event_id(&second);
    // Broken in the middle: the rest waits.
    let again = http.again();
    drop(http);
    wait("the answer", || (daemon.server("fake")["requests"]["in_flight"] == 0).then_some(()));
    let mut stream = resume(&again, &last);
    let mut steps = Vec::new();
    loop {
        let message = stream.event().unwrap();
        match message["params"]["progress"].as_u64() {
            Some(step) => steps.push(step),
            None => break assert_eq!(said(&message), "done"),
        }
    }
    assert!(steps.len() > 10 && steps.windows(2).all(|w| w[1] == w[0] + 1) && steps.last() == Some(&20), "{steps:?}");
    assert!(stream.chunk().is_none(), "it ends with the answer");
    // The same again from the beginning, as often as one likes; behind its end there is nothing, and no reason to ask again.
    let mut gone = Raw::open(&again.address);
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {}\r\nLast-Event-ID: 1-99\r\n\r\n",
        again.path, again.address, again.session
    );
    gone.send(head.as_bytes());
    assert_eq!(gone.response().status, 410);
    let mut stream = resume(&again, "1-0");
    assert_eq!(stream.event().unwrap()["params"]["progress"], 1);
    // The stream for messages that answer nothing: what came meanwhile is not lost, and is on this stream alone.
    let mut push = again.stream();
    let id = event_id(&push.chunk().unwrap());
    drop(push);
    let mut worker = again.again();
    worker.ask(&call(5, "list_changed", json!({})));
    let mut push = resume(&again, &id);
    assert_eq!(push.event().unwrap()["method"], "notifications/tools/list_changed");
    // Another session's stream is not to be had.
    let mut stranger = resume(&daemon.http("fake"), "1-0");
    let chunk = stranger.chunk().unwrap();
    assert!(chunk.ends_with("data:\n\n") && chunk.starts_with("id: 1-0\n"), "a stream of its own: {chunk}");
}

#[test]
fn reload_replaces_children_of_sessions() {
    let scratch = Scratch::new();
    let at = |flags: &[&str], more: &str| stdio("fake", flags, &format!("sharing: PerSession(spare: 0), {more}"));
    let other = stdio("other", &[], "");
    let daemon = scratch.start(&scratch.instance("t", &(at(&[], "") + &other)));
    let reload = |servers: String| {
        scratch.instance("t", &servers);
        let out = scratch.ctl(&["reload", "t"]);
        assert!(out.status.success(), "{}", stderr(&out));
        stdout(&out)
    };
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(1)));
    // A time counts for sessions that are open already.
    assert!(reload(at(&[], "request_timeout: \"1s\"") + &other).contains("1 adjusted"));
    let late = ws.ask(&call(2, "never", json!({})));
    assert!(late["error"]["message"].as_str().unwrap().contains("within 1s"), "{late}");
    // Another command is for them as well, once nothing is open.
    ws.send(&call(3, "sleep", json!({"n": 300, "text": "old"})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    assert!(reload(at(&["--tool", "new"], "") + &other).contains("1 restarted"));
    assert_eq!(said(&ws.next().unwrap()), "old");
    wait("the new child", || {
        ws.send(&json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list"}).to_string());
        let list = loop {
            let message = ws.next().unwrap();
            if message["id"] == 4 {
                break message;
            }
        };
        (list["result"]["tools"][0]["name"] == "new").then_some(())
    });
    // A server that goes finishes what its sessions have open.
    let mut http = daemon.http("fake");
    http.send(&call(5, "sleep", json!({"n": 400, "text": "last"})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    reload(other.clone());
    assert_eq!(said(&http.raw.response().json()), "last");
    assert_eq!(ws.close_code(), Some(1001));
}

#[test]
fn server_request_without_a_stream_is_refused() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &per_session("spare: 0")));
    let http = daemon.http("fake");
    let body = call(1, "ask_back", json!({})).to_string();
    let mut raw = Raw::open(daemon.address());
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nMcp-Session-Id: {}\r\nContent-Type: application/json\r\n\
         Accept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        http.path,
        daemon.address(),
        http.session,
        body.len()
    );
    raw.send(head.as_bytes());
    assert_eq!(said(&raw.response().json()), "no text");
    assert_eq!(daemon.dropped("refused_server_requests"), 1);
    // A session that is deleted tells those who wait on other connections.
    let mut waiting = http.again();
    waiting.send(&call(2, "never", json!({})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    assert_eq!(http.bare("DELETE").response().status, 204);
    let told = waiting.raw.response().json();
    assert!(told["error"]["message"].as_str().unwrap().contains("the session has ended"), "{told}");
}
