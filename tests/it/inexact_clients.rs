//! Clients, health checks and scripts as people have them: inexact, and meaning one thing only.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A POST as MCP clients send it.
fn post(address: &str, path: &str, headers: &str, body: &str) -> Response {
    crate::harness::post(address, path, &format!("{ACCEPT}{headers}"), body)
}

/// A request as raw bytes, and the status of its answer with the rest of it.
fn raw(address: &str, request: &str) -> (u16, String) {
    let mut raw = Raw::open(address);
    raw.send(request.as_bytes());
    let head = raw.head();
    (head.status, head.head + &raw.rest())
}

#[test]
fn initialize_with_the_id_of_a_dead_session_opens_a_new_one() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    for path in ["/servers/fake/mcp", "/mcp"] {
        let opened = post(daemon.address(), path, "Mcp-Session-Id: dead\r\n", &initialize(json!(1)).to_string());
        assert_eq!(opened.status, 200, "{opened:?}");
        let session = opened.header("mcp-session-id").unwrap();
        let own = format!("Mcp-Session-Id: {session}\r\n");
        let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
        assert_eq!(post(daemon.address(), path, &own, list).status, 200);
        // Anything else needs one that lives.
        let dead = post(daemon.address(), path, "Mcp-Session-Id: dead\r\n", list);
        assert_eq!((dead.status, dead.json()["id"].clone()), (404, json!(2)));
    }
}

#[test]
fn a_notification_without_the_id_of_its_session_is_taken() {
    let scratch = Scratch::new();
    let own = stdio("own", &["--strict"], "sharing: PerSession(),");
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &[], "") + &own)));
    for path in ["/servers/fake/mcp", "/servers/own/mcp", "/mcp"] {
        let opened = post(daemon.address(), path, "", &initialize(json!(1)).to_string());
        let own = format!("Mcp-Session-Id: {}\r\n", opened.header("mcp-session-id").unwrap());
        for note in ["notifications/initialized", "notifications/roots/list_changed"] {
            let text = json!({"jsonrpc": "2.0", "method": note}).to_string();
            let taken = post(daemon.address(), path, "", &text);
            assert_eq!((taken.status, taken.body.as_str()), (202, ""), "{path} {note}");
        }
        // A child of its own has to hear of the handshake all the same, and once.
        for _ in 0..2 {
            let list = post(daemon.address(), path, &own, r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#);
            let list = list.messages().pop().unwrap();
            assert!(list["result"]["tools"].is_array(), "{path} {list}");
        }
    }
    assert_eq!(
        daemon.log().matches("the handshake is complete").count(),
        3,
        "two of sessions and the one that is asked what it is: {}",
        daemon.log()
    );
    assert_eq!(daemon.dropped("unowned_notifications"), 6);
}

#[test]
fn a_path_with_slashes_too_many_or_plain_characters_escaped_is_served() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("my-server", &[], ""));
    let daemon = scratch.start(&file);
    for path in
        ["/servers/my-server/mcp/", "/servers/my%2Dserver/mcp", "//servers//my-server//mcp", "/mcp/", "/mcp/?x=1"]
    {
        let opened = post(daemon.address(), path, "", &initialize(json!(1)).to_string());
        assert_eq!(opened.status, 200, "{path} {opened:?}");
    }
    for path in ["/healthz/", "/readyz/", "/status/", "/metrics/"] {
        assert_eq!(get(daemon.address(), path).status, 200, "{path}");
    }
    let mut sse = Raw::open(daemon.address());
    sse.send(format!("GET /servers/my-server/sse/ HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address()).as_bytes());
    assert_eq!(sse.head().status, 200);
    assert!(sse.chunk().unwrap().contains("data: /servers/my-server/message?sessionId="));
    let mut ws = Ws::open(daemon.address(), "/servers/my-server/ws/");
    assert_eq!(ws.ask(&initialize(json!(1)))["id"], 1);
    assert_eq!(get(daemon.address(), "/servers/my-server/mcp/more").status, 404);
}

#[test]
fn params_of_null_or_an_empty_list_are_none() {
    let scratch = Scratch::new();
    let own = stdio("own", &[], "sharing: PerSession(),");
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &[], "") + &own)));
    for path in ["/servers/fake", "/servers/own", ""] {
        let mut http = Http::open_at(daemon.address(), &format!("{path}/mcp"));
        let mut ws = Ws::open(daemon.address(), &if path.is_empty() { "/ws/mcp".into() } else { format!("{path}/ws") });
        ws.ask(&initialize(json!(0)));
        for params in ["null", "[]", "[ ]"] {
            for method in ["tools/list", "ping"] {
                let text = format!(r#"{{"jsonrpc":"2.0","id":2,"method":"{method}","params":{params}}}"#);
                let over_http = http.post(&text).messages().pop().unwrap();
                ws.send(&text);
                let over_ws = ws.next().unwrap();
                // What knows no ping says so, and is reached.
                let fine = |answer: &Value| answer["id"] == 2 && (answer["result"].is_object() || method == "ping");
                assert!(fine(&over_http) && fine(&over_ws), "{path} {text}: {over_http} {over_ws}");
            }
            let note = format!(r#"{{"jsonrpc":"2.0","method":"notifications/initialized","params":{params}}}"#);
            assert_eq!(http.post(&note).status, 202);
        }
    }
    // A child hears of params that are an object.
    let mut http = daemon.http("own");
    http.post(r#"{"jsonrpc":"2.0","id":3,"method":"x/echo","params":null}"#);
    let seen = http
        .ask(&json!({"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "last", "arguments": {}}}));
    assert!(said(&seen).contains(r#""method":"x/echo","params":{}"#), "{seen}");
}

#[test]
fn a_client_that_never_ends_its_sessions_is_served_by_the_place_of_the_one_idle_for_longest() {
    let servers = stdio("fake", &[], "") + &stdio("own", &[], "sharing: PerSession(max: 3),");
    let list = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/list"});
    for (key, then) in [("None", 404), ("Own", 200)] {
        let scratch = Scratch::new();
        let more = format!("session_key: {key}, limits: (sessions: 40),");
        let daemon = scratch.start(&scratch.instance_with("t", &more, &servers));
        for (path, most) in [("/servers/fake/mcp", 40), ("/servers/own/mcp", 3), ("/mcp", 40)] {
            // One that listens stays.
            let mut listens = Http::open_at(daemon.address(), path);
            let _stream = listens.stream();
            let mut first = Http::open_at(daemon.address(), path);
            first.ask(&list);
            let mut last = None;
            for _ in 0..most + 2 {
                let mut one = Http::open_at(daemon.address(), path);
                one.ask(&list);
                last = Some(one);
            }
            // It begins anew, or its id opens it again, as soon as another can give its place up.
            let status = || Some(first.post(&list.to_string()).status).filter(|status| *status != 503);
            assert_eq!(wait("its answer", status), then, "{key} {path}");
            last.unwrap().ask(&list);
            listens.ask(&list);
            assert!(daemon.status()["sessions"].as_u64().unwrap() <= 40);
        }
        // A WebSocket finds a place as well.
        let mut ws = daemon.ws("fake");
        assert_eq!(ws.ask(&initialize(json!(1)))["id"], 1);
    }
}

#[test]
fn probes_for_how_to_get_a_token_are_told_that_there_is_nothing() {
    let scratch = Scratch::new();
    scratch.write("tokens", &format!("ann {}\n", "a".repeat(64)));
    let file = scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/servers/fake/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/servers/fake/mcp",
        "/.well-known/openid-configuration",
        "/servers/fake/mcp/.well-known/openid-configuration",
        "/servers/fake/.well-known/oauth-protected-resource",
        "/register",
        "/favicon.ico",
    ] {
        let answer = get(daemon.address(), path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(post(daemon.address(), "/register", "", "{}").status, 404);
    for path in ["/", "/status", "/metrics", "/mcp", "/servers/fake/mcp", "/servers/none/mcp"] {
        assert_eq!(get(daemon.address(), path).status, 401, "{path}");
    }
}

#[test]
fn trace_context_of_a_header_reaches_the_child_and_its_own_in_meta_wins() {
    let scratch = Scratch::new();
    let own = stdio("own", &[], "sharing: PerSession(),");
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &[], "") + &own)));
    let headers = format!("traceparent: {TRACE}\r\ntracestate: a=1\r\n");
    let trace = format!(r#""_meta":{{"traceparent":"{TRACE}","tracestate":"a=1"}}"#);
    let modern = |mut call: Value| {
        call["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}, "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"}});
        call.to_string()
    };
    for (path, tool) in [("/servers/fake/mcp", "raw"), ("/servers/own/mcp", "raw"), ("/mcp", "fake__raw")] {
        let session = Http::open_at(daemon.address(), path).session;
        let session = format!("Mcp-Session-Id: {session}\r\n");
        let all = format!("{session}{headers}");
        if tool != "raw" {
            // The bridge knows the tools that its servers list.
            continue;
        }
        let seen = post(daemon.address(), path, &all, &call(1, tool, json!({})).to_string());
        assert!(said(&seen.messages()[0]).contains(&trace), "{path} {seen:?}");
        let mut own = call(1, tool, json!({}));
        own["params"]["_meta"] = json!({"traceparent": "own"});
        let seen = post(daemon.address(), path, &all, &own.to_string());
        assert!(said(&seen.messages()[0]).contains(r#""_meta":{"traceparent":"own"}"#), "{path} {seen:?}");
        let wrong = format!("{session}traceparent: nonsense\r\n");
        let seen = post(daemon.address(), path, &wrong, &call(1, tool, json!({})).to_string());
        assert!(!said(&seen.messages()[0]).contains("trace"), "{path} {seen:?}");
        let more =
            format!("{headers}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n");
        let seen = post(daemon.address(), path, &more, &modern(call(1, tool, json!({}))));
        assert!(said(&seen.messages()[0]).contains(&format!(r#""traceparent":"{TRACE}""#)), "{path} {seen:?}");
    }
}

#[test]
fn trace_context_passes_the_bridge() {
    let scratch = Scratch::new();
    scratch.write("a.json", r#"{"me": "a", "tools": [{"name": "t", "inputSchema": {"type": "object"}}]}"#);
    let file = scratch.path("a.json").display().to_string();
    let daemon = scratch.start(&scratch.instance("t", &stdio("a", &["--catalogue", &file, "--tell-traces"], "")));
    let session = Http::open_at(daemon.address(), "/mcp").session;
    let headers = format!("Mcp-Session-Id: {session}\r\ntraceparent: {TRACE}\r\n");
    let answer = post(daemon.address(), "/mcp", &headers, &call(1, "a__t", json!({})).to_string());
    assert_eq!(answer.status, 200);
    wait("the child to tell of the trace", || daemon.log().contains(&format!("traced {TRACE}")).then_some(()));
}

#[test]
fn a_byte_order_mark_before_a_message_is_skipped() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let path = "/servers/fake/mcp";
    let opened = post(daemon.address(), path, "", &format!("\u{feff}{}", initialize(json!(1))));
    assert_eq!(opened.status, 200, "{opened:?}");
    let session = format!("Mcp-Session-Id: {}\r\n", opened.header("mcp-session-id").unwrap());
    let listed = post(
        daemon.address(),
        path,
        &session,
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\",\"params\":null}",
    );
    assert!(listed.messages()[0]["result"].is_object(), "{listed:?}");
    let mut ws = daemon.ws("fake");
    ws.send(&format!("\u{feff}{}", initialize(json!(1))));
    assert_eq!(ws.next().unwrap()["id"], 1);
    let mut sse = Raw::open(daemon.address());
    sse.send(format!("GET /servers/fake/sse HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address()).as_bytes());
    sse.head();
    let endpoint = sse.chunk().unwrap().lines().find_map(|l| l.strip_prefix("data: ").map(str::to_owned)).unwrap();
    assert_eq!(post(daemon.address(), &endpoint, "", &format!("\u{feff}{}", initialize(json!(7)))).status, 202);
    assert_eq!(sse.event().unwrap()["id"], 7);
    assert_eq!(post(daemon.address(), &endpoint, "", "\u{feff}{").status, 400);
}

#[test]
fn byte_order_marks_without_end_are_refused() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    // Were each skipped in a turn of its own, this would be the end of the stack.
    let marks = "\u{feff}".repeat(300_000) + &initialize(json!(1)).to_string();
    assert_eq!(post(daemon.address(), "/servers/fake/mcp", "", &marks).status, 400);
    let mut ws = daemon.ws("fake");
    ws.send(&marks);
    assert_eq!(ws.next().unwrap()["error"]["code"], -32700);
    assert!(alive(daemon.pid) && daemon.ws("fake").ask(&initialize(json!(1)))["result"].is_object());
}

#[test]
fn streamable_http_is_spoken_at_the_path_of_http_sse_too() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "bridge: Prefix,", &stdio("fake", &[], "")));
    for (path, tool) in [("/servers/fake/sse", "echo"), ("/sse", "fake__echo")] {
        let mut http = Http::open_at(daemon.address(), path);
        assert_eq!(said(&http.ask(&call(1, tool, json!({"text": "here"})))), "here", "{path}");
        let stream = http.stream();
        assert_eq!(http.bare("DELETE").response().status, 204, "{path}");
        drop(stream);
    }
}

#[test]
fn a_batch_of_inexact_messages_is_served() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut hello = initialize(json!(1));
    hello["params"]["protocolVersion"] = json!("2025-03-26");
    let opened = post(daemon.address(), "/servers/fake/mcp", "", &hello.to_string());
    let session = format!("Mcp-Session-Id: {}\r\n", opened.header("mcp-session-id").unwrap());
    let batch = "\u{feff}[{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\",\"params\":null},\
                 {\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"ping\",\"params\":[]}]";
    let answer = post(daemon.address(), "/servers/fake/mcp", &session, batch);
    let all: Vec<Value> =
        answer.messages().into_iter().flat_map(|m| m.as_array().cloned().unwrap_or(vec![m])).collect();
    assert!(all.len() == 2 && all.iter().all(|m| m["result"].is_object()), "{answer:?}");
}

#[test]
fn health_is_told_whatever_host_is_named_or_none() {
    let scratch = Scratch::new();
    scratch.write("tokens", &format!("ann {}\n", "a".repeat(64)));
    let servers = stdio("fake", &[], "") + &stdio("late", &["--exit", "1"], "required: true, start: OnDemand(),");
    let file = scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &servers);
    let daemon = scratch.start(&file);
    let address = daemon.address();
    for path in ["/healthz", "/readyz", "/health"] {
        for request in [
            format!("GET {path} HTTP/1.0\r\n\r\n"),
            // HAProxy's check where it is told no method.
            format!("OPTIONS {path} HTTP/1.0\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: mcp_cluster\r\nConnection: close\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: 203.0.113.7:8003\r\nConnection: close\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"),
            format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n"
            ),
        ] {
            let (status, rest) = raw(address, &request);
            assert_eq!(status, 200, "{request} {rest}");
            assert!(rest.ends_with("\r\nok\n"), "no details for strangers: {rest}");
            assert!(!rest.contains("access-control-allow-origin"), "a foreign page reads nothing: {rest}");
        }
    }
    assert!(!daemon.log().contains("was refused (403)"), "nobody was: {}", daemon.log());
    for path in ["/", "/status", "/metrics", "/mcp"] {
        assert_eq!(raw(address, &format!("GET {path} HTTP/1.0\r\n\r\n")).0, 400, "{path}");
        let foreign = format!("GET {path} HTTP/1.1\r\nHost: mcp_cluster\r\nConnection: close\r\n\r\n");
        assert_eq!(raw(address, &foreign).0, 403, "{path}");
    }
}

#[test]
fn health_is_the_alias_of_readyz() {
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", &stdio("fake", &[], "restart: (delay: \"10m\", max_delay: \"10m\"),")));
    assert_eq!(
        (get(daemon.address(), "/health").status, get(daemon.address(), "/health").body.as_str()),
        (200, "ready\n")
    );
    kill(daemon.child("fake"), 9);
    let gone = wait("the server to be missed", || Some(get(daemon.address(), "/health")).filter(|a| a.status == 503));
    assert!(gone.body.contains("fake"), "{gone:?}");
    assert_eq!(get(daemon.address(), "/healthz").status, 200);
}

#[test]
fn a_refused_host_or_origin_is_named_with_the_key_to_set_and_logged_once() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let address = daemon.address();
    for _ in 0..3 {
        let mut raw = Raw::open(address);
        raw.send(b"GET /status HTTP/1.1\r\nHost: mcp.example.com:8443\r\nConnection: close\r\n\r\n");
        let answer = raw.response();
        assert_eq!(answer.status, 403);
        let why = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(why.contains("'mcp.example.com'") && why.contains("allow_hosts"), "{why}");
        let answer = post(address, "/mcp", "Origin: https://app.example.com\r\n", "{}");
        let why = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(
            answer.status == 403 && why.contains("'https://app.example.com'") && why.contains("allow_origins"),
            "{why}"
        );
    }
    let log = daemon.log();
    let told = |name: &str, key: &str| log.lines().filter(|l| l.contains(name) && l.contains(key)).count();
    assert_eq!(
        (told("'mcp.example.com'", "allow_hosts"), told("'https://app.example.com'", "allow_origins")),
        (1, 1),
        "{log}"
    );
    assert_eq!(daemon.dropped("foreign_origin"), 6);
}

#[test]
fn a_stream_says_its_first_byte_at_once_and_a_slow_answer_after_a_second() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let begin = Instant::now();
    for revision in ["2025-03-26", "2025-11-25"] {
        let mut hello = initialize(json!(1));
        hello["params"]["protocolVersion"] = json!(revision);
        let mut http = Http {
            address: daemon.address().into(),
            path: "/servers/fake/mcp".into(),
            session: String::new(),
            accept: None,
            raw: Raw::open(daemon.address()),
        };
        http.session = http.post(&hello.to_string()).header("mcp-session-id").unwrap();
        let mut stream = http.stream();
        assert!(!stream.chunk().unwrap().is_empty());
        assert!(begin.elapsed() < Duration::from_secs(10), "no heartbeat was waited for");
        // The answer is held back a moment, so that it can be one piece with its own status.
        http.send(&call(2, "sleep", json!({"n": 2500})).to_string());
        let head = http.raw.head();
        assert_eq!(head.header("content-type").as_deref(), Some("text/event-stream"));
        let first = http.raw.chunk().unwrap();
        assert!(!first.contains("data: {"), "it came before the answer: {first}");
        assert_eq!(http.raw.event().unwrap()["id"], 2);
    }
}

#[test]
fn what_is_null_in_a_clients_messages_is_not_there() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &[], "") + "\"host\": Exec(allow: [\"echo\"]),";
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut http = daemon.http("fake");
    let mut asked = call(1, "echo", json!({"text": "here"}));
    asked["params"]["task"] = Value::Null;
    (asked["result"], asked["error"]) = (Value::Null, Value::Null);
    assert_eq!(said(&http.ask(&asked)), "here");
    let answer = http.post(r#"{"jsonrpc":"2.0","id":null,"method":"notifications/initialized"}"#);
    assert_eq!(answer.status, 202, "{answer:?}");
    let mut host = daemon.http("host");
    let ran = host.ask(&call(2, "execute", json!({"command": "echo", "args": null, "timeout": null})));
    assert_eq!(ran["result"]["structuredContent"]["exit_code"], 0, "{ran}");
    // A request has an id, and null is none.
    assert_eq!(http.post(r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#).status, 400);
}

#[test]
fn a_client_that_comes_again_keeps_its_place_over_its_pauses() {
    let scratch = Scratch::new();
    let servers = stdio("own", &[], "sharing: PerSession(max: 2, spare: 0)");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut steady = daemon.http("own");
    let begin = std::time::Instant::now();
    let mut last = begin;
    // For six seconds; each pause is shorter than what lies before it.
    while begin.elapsed().as_secs() < 6 {
        steady.ask(&call(1, "count", json!({})));
        last = std::time::Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let mut others = Vec::new();
    while last.elapsed().as_millis() < 3500 {
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let mut other = Http { session: String::new(), ..steady.again() };
        let answer = other.post(&initialize(json!(1)).to_string());
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        if let Some(id) = answer.header("mcp-session-id") {
            other.session = id;
            other.ask(&call(1, "count", json!({})));
        }
        others.push(other);
    }
    assert!(steady.ask(&call(2, "count", json!({})))["result"].is_object(), "it is there still");
    drop(others);
}

#[test]
fn headers_that_are_empty_doubled_or_too_new_keep_nobody_out() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let path = "/servers/fake/mcp";
    let mut id = String::new();
    for version in ["2026-07-28", "2099-01-01", ""] {
        let head = format!("MCP-Protocol-Version: {version}\r\nAccept:\r\n");
        let mut raw = Raw::open(daemon.address());
        let body = initialize(json!(1)).to_string();
        raw.send(
            format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        let opened = raw.response();
        assert_eq!(opened.status, 200, "{version}: {opened:?}");
        id = opened.header("mcp-session-id").unwrap();
    }
    for (version, status) in [("", 200), ("2025-06-18, 2025-06-18", 200), ("2025-06-18, 2025-11-25", 400), ("x", 400)] {
        let head = format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: {version}\r\n");
        let answer = post(daemon.address(), path, &head, &call(2, "echo", json!({"text": "x"})).to_string());
        assert_eq!(answer.status, status, "{version}: {answer:?}");
    }
}

#[test]
fn a_body_in_a_coding_is_refused_by_its_name() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let path = "/servers/fake/mcp";
    let answer = post(daemon.address(), path, "Content-Encoding: gzip\r\n", &initialize(json!(1)).to_string());
    assert!(answer.status == 415 && answer.body.contains("Content-Encoding 'gzip'"), "{answer:?}");
    let answer = post(daemon.address(), path, "Content-Encoding: identity\r\n", &initialize(json!(1)).to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
}
