//! Streamable HTTP as the specification has it, and HTTP as hostile peers have it.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn streamable_http_session_from_initialize_to_delete() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = Http {
        address: daemon.address().into(),
        path: "/servers/fake/mcp".into(),
        session: String::new(),
        accept: None,
        raw: Raw::open(daemon.address()),
    };
    let answer = http.post(&initialize(json!("first")).to_string());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    let session = answer.header("mcp-session-id").unwrap();
    assert!(session.len() >= 32 && session.bytes().all(|b| (0x21..=0x7e).contains(&b)));
    let message = answer.json();
    assert_eq!(message["id"], "first");
    assert_eq!(
        message["result"],
        json!({"protocolVersion": "2025-11-25", "instructions": "be nice",
        "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true}},
        "serverInfo": {"name": "fake", "version": "1"}})
    );
    http.session = session;
    let accepted = http.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!((accepted.status, accepted.body.as_str()), (202, ""));
    assert_eq!(http.post(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#).status, 202);
    assert_eq!(http.ask(&json!({"jsonrpc": "2.0", "id": 5, "method": "ping"}))["result"], json!({}));
    // One message: JSON. More: events, each on this stream, the answer last.
    let plain = http.post(&call(6, "echo", json!({"text": "x"})).to_string());
    assert_eq!(plain.header("content-type").as_deref(), Some("application/json"));
    let mut long = call(7, "progress", json!({"n": 3}));
    long["params"]["_meta"] = json!({"progressToken": 7.5});
    let events = http.post(&long.to_string());
    assert_eq!(events.header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(events.header("x-accel-buffering").as_deref(), Some("no"));
    let messages = events.messages();
    assert_eq!(
        messages.iter().map(|m| m["params"]["progress"].clone()).collect::<Vec<_>>(),
        [json!(1), json!(2), json!(3), Value::Null]
    );
    assert!(messages[..3].iter().all(|m| m["params"]["progressToken"] == json!(7.5)));
    assert_eq!((&messages[3]["id"], said(&messages[3])), (&json!(7), "done"));
    let gone = http.bare("DELETE").response();
    assert_eq!(gone.status, 204, "{gone:?}");
    let after = http.post(&call(8, "echo", json!({})).to_string());
    assert_eq!((after.status, after.json()["id"].clone()), (404, json!(8)));
    assert_eq!(daemon.status()["sessions"], 0);
}

#[test]
fn protocol_version_is_negotiated_for_each_revision() {
    let scratch = Scratch::new();
    let servers = stdio("new", &[], "") + &stdio("old", &["--revision", "2024-11-05"], "");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    for (server, asked, got) in [
        ("new", "2025-03-26", "2025-03-26"),
        ("new", "2025-06-18", "2025-06-18"),
        ("new", "1999-01-01", "2025-11-25"),
        ("old", "2025-11-25", "2024-11-05"),
    ] {
        let mut hello = initialize(json!(1));
        hello["params"]["protocolVersion"] = json!(asked);
        let answer = post(daemon.address(), &format!("/servers/{server}/mcp"), ACCEPT, &hello.to_string());
        assert_eq!(answer.json()["result"]["protocolVersion"], got, "{server} {asked}");
    }
}

#[test]
fn http_refusals_have_status_and_json_rpc_error() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "limits: (message: \"64KiB\"),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let address = daemon.address();
    let http = daemon.http("fake");
    let own = format!("{ACCEPT}Mcp-Session-Id: {}\r\n", http.session);
    let path = "/servers/fake/mcp";
    let ping = r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#;
    let long = format!(r#"{{"jsonrpc":"2.0","id":3,"method":"ping","params":{{"x":"{}"}}}}"#, "y".repeat(100_000));
    for (what, path, headers, body, status, code) in [
        ("no such server", "/servers/none/mcp", ACCEPT, ping, 404, -32600),
        ("no such path", "/servers/fake/other", ACCEPT, ping, 404, -32600),
        ("no session", path, ACCEPT, ping, 400, -32600),
        ("a dead session", path, &format!("{ACCEPT}Mcp-Session-Id: constructor\r\n"), ping, 404, -32600),
        ("not JSON", path, &own, "{", 400, -32700),
        ("not UTF-8 in JSON", path, &own, "\u{1}", 400, -32700),
        ("no message", path, &own, "{}", 400, -32600),
        ("a batch", path, &own, "[]", 400, -32600),
        ("a null id", path, &own, r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400, -32600),
        ("too long", path, &own, &long, 413, -32600),
        (
            "another type",
            path,
            &format!("Content-Type: text/plain\r\nAccept: */*\r\nMcp-Session-Id: {}\r\n", http.session),
            ping,
            415,
            -32600,
        ),
        (
            "accepts neither",
            path,
            &format!("Content-Type: application/json\r\nAccept: text/html\r\nMcp-Session-Id: {}\r\n", http.session),
            ping,
            406,
            -32600,
        ),
        ("an unknown version", path, &format!("{own}MCP-Protocol-Version: 1999-01-01\r\n"), ping, 400, -32600),
        ("a foreign Origin", path, &format!("{own}Origin: http://evil.example.com\r\n"), ping, 403, -32600),
        ("the null Origin", path, &format!("{own}Origin: null\r\n"), ping, 403, -32600),
    ] {
        let answer = post(address, path, headers, body);
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].clone()),
            (status, json!(code)),
            "{what}: {answer:?}"
        );
        assert_eq!(answer.json()["jsonrpc"], "2.0");
        assert!(answer.json()["error"]["message"].as_str().unwrap().len() > 10);
    }
    // The session has survived all of that.
    assert_eq!(post(address, path, &own, ping).json()["result"], json!({}));
    assert_eq!(
        post(address, path, &format!("{own}Origin: http://localhost:6274\r\n"), ping)
            .header("access-control-allow-origin")
            .as_deref(),
        Some("http://localhost:6274")
    );
    assert_eq!(daemon.dropped("foreign_origin"), 2);
    assert_eq!(daemon.dropped("long_messages"), 1);
    let mut raw = Raw::open(address);
    raw.send(format!("PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    let answer = raw.response();
    assert_eq!((answer.status, answer.header("allow").as_deref()), (405, Some("POST, GET, DELETE, OPTIONS")));
}

#[test]
fn host_and_origin_are_checked_on_every_path() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let session = daemon.http("fake").session.clone();
    for path in ["/servers/fake/mcp", "/servers/fake/ws", "/status", "/metrics", "/nothing"] {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            for headers in ["Host: evil.example.com\r\n", "Host: localhost\r\nOrigin: http://evil.example.com\r\n"] {
                let mut raw = Raw::open(daemon.address());
                raw.send(
                    format!(
                        "{method} {path} HTTP/1.1\r\n{headers}Mcp-Session-Id: {session}\r\nContent-Length: 0\r\n\r\n"
                    )
                    .as_bytes(),
                );
                assert_eq!(raw.response().status, 403, "{method} {path} {headers}");
            }
        }
    }
    for (head, status) in [
        ("GET /metrics HTTP/1.1\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 400),
        (
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n",
            400,
        ),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\u{e9}.example\r\n", 400),
        ("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n", 403),
        ("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n", 200),
    ] {
        let mut raw = Raw::open(daemon.address());
        raw.send(format!("{head}\r\n").as_bytes());
        assert_eq!(raw.response().status, status, "{head}");
    }
}

#[test]
fn get_stream_carries_notifications_once() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let mut ws = daemon.ws("fake");
    let mut first = http.stream();
    assert_eq!(said(&http.ask(&call(1, "list_changed", json!({})))), "said");
    assert_eq!(first.event().unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(ws.next().unwrap()["method"], "notifications/tools/list_changed");
    // A second stream takes over; the first one ends (a client that lost its connection comes back like this).
    let mut second = http.stream();
    assert_eq!(first.event(), None);
    http.ask(&call(2, "list_changed", json!({})));
    assert_eq!(second.event().unwrap()["method"], "notifications/tools/list_changed");
    let refused = Http { session: "none".into(), ..http.again() }.bare("GET").response();
    assert_eq!(refused.status, 404);
}

#[test]
fn sessions_with_the_same_request_ids_are_kept_apart() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    std::thread::scope(|s| {
        for who in 0..8 {
            let daemon = &daemon;
            s.spawn(move || {
                let mut http = (who % 2 == 0).then(|| daemon.http("fake"));
                let mut ws = daemon.ws("fake");
                for round in 0..50 {
                    // Everybody uses the same ids, as number and as string.
                    let id = if round % 2 == 0 { json!(1) } else { json!("1") };
                    let text = format!("{who}/{round}");
                    let request = call(id.clone(), "sleep", json!({"n": (who * 7 + round) % 5, "text": text}));
                    let answer = match &mut http {
                        Some(http) => http.ask(&request),
                        None => ws.ask(&request),
                    };
                    assert_eq!((&answer["id"], said(&answer)), (&id, text.as_str()));
                }
            });
        }
    });
    // Twice the same id in flight within one session: each call has its answer.
    let mut ws = daemon.ws("fake");
    ws.send(&call(1, "sleep", json!({"n": 200, "text": "slow"})).to_string());
    ws.send(&call(1, "echo", json!({"text": "fast"})).to_string());
    assert_eq!(said(&ws.next().unwrap()), "fast");
    assert_eq!(said(&ws.next().unwrap()), "slow");
    assert_eq!(daemon.status()["requests"]["in_flight"], 0);
}

#[test]
fn payloads_pass_byte_for_byte() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let body = concat!(
        "{ \"params\" : {\"name\":\"raw\",\"arguments\":{\"big\":12345678901234567890.10,\n\"a\":1E+2,\"\\u0041\":\"\\u00e9\\/\"},",
        "\r\n\"zeta\":[ 1 ,2 ]},\"id\":\"x\\u0041\",\"method\":\"tools/call\",\"jsonrpc\":\"2.0\",\"extra\":{}}"
    );
    let answer = http.post(body);
    assert_eq!(answer.json()["id"], "xA");
    assert!(answer.body.contains(r#""id":"x\u0041""#), "the id as it was written: {}", answer.body);
    let arrived = said(&answer.json()).to_owned();
    let number: String = arrived.split("\"id\":").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    let expected = body.replace("\"x\\u0041\"", &number).replace(['\n', '\r'], " ");
    assert_eq!(arrived, expected);
    let answer = http.post(&call(2, "exact", json!({})).to_string());
    assert_eq!(
        answer.body,
        r#"{"jsonrpc": "2.0" ,"result":{"z":12345678901234567890,"a":1.0e+2,"content":[],"s":"\u00e9\/ \ud83d\ude80","_meta":{"x":null}},"id":2, "unknown" : true}"#
    );
    let big = "é".repeat(4_500_000);
    let answer = http.ask(&call(3, "echo", json!({"text": big})));
    assert!(said(&answer) == big);
}

#[test]
fn cancelled_notification_ends_the_call() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let mut other = http.again();
    http.send(&call("c", "sleep", json!({"n": 2000})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    // Number 1 and string "c" of others are not meant.
    let mut stranger = daemon.http("fake");
    let cancel = |who: &mut Http, id: Value| {
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        assert_eq!(who.post(&cancel.to_string()).status, 202);
    };
    cancel(&mut stranger, json!("c"));
    cancel(&mut other, json!(1));
    cancel(&mut other, json!("c"));
    let ended = http.raw.response();
    assert_eq!((ended.status, ended.body.as_str()), (200, ""));
    wait("the cancellation", || daemon.log().contains("[fake] cancelled ").then_some(()));
    wait("the late reply", || (daemon.dropped("unowned_replies") == 1).then_some(()));
    assert_eq!(daemon.log().matches("[fake] cancelled ").count(), 1);
    assert_eq!(said(&http.ask(&call("c", "echo", json!({"text": "again"})))), "again");
}

#[test]
fn legacy_disconnect_does_not_cancel_and_delete_does() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let mut other = http.again();
    http.send(&call(1, "sleep", json!({"n": 60_000})).to_string());
    let in_flight = |n: u64| daemon.server("fake")["requests"]["in_flight"] == n;
    wait("the request", || in_flight(1).then_some(()));
    drop(http);
    other.ask(&call(2, "echo", json!({})));
    assert!(in_flight(1) && !daemon.log().contains("cancelled"));
    assert_eq!(other.bare("DELETE").response().status, 204);
    wait("the cancellation", || daemon.log().contains("[fake] cancelled").then_some(()));
    assert!(in_flight(0));
}

#[test]
fn limits_of_messages_sessions_connections_and_in_flight() {
    let scratch = Scratch::new();
    let more = "limits: (sessions: 3, in_flight: 2, connections: 12, header: \"8KiB\", header_timeout: \"300ms\", idle_session: \"1s\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let address = daemon.address();
    // Requests of one session.
    let mut ws = daemon.ws("fake");
    for i in 0..3 {
        ws.send(&call(i, "sleep", json!({"n": 300})).to_string());
    }
    let refused = ws.next().unwrap();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(2), &json!(-32000)));
    assert!(refused["error"]["message"].as_str().unwrap().contains("limits.in_flight"));
    // Sessions, which end when they are idle.
    let mut sessions: Vec<Http> = (0..2).map(|_| daemon.http("fake")).collect();
    for one in &mut sessions {
        one.send(&call(9, "sleep", json!({"n": 6000})).to_string());
    }
    let full = post(address, "/servers/fake/mcp", ACCEPT, &initialize(json!(1)).to_string());
    assert_eq!((full.status, full.json()["error"]["code"].clone()), (503, json!(-32000)));
    assert!(Ws::try_open(address, "/servers/fake/ws", &[]).is_err());
    wait("the idle ones' end", || (daemon.status()["sessions"] == 1).then_some(()));
    drop(sessions);
    // The head of a request.
    let mut raw = Raw::open(address);
    raw.send(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nX: {}\r\n\r\n", "y".repeat(9000)).as_bytes());
    assert_eq!(raw.response().status, 431);
    let mut slow = Raw::open(address);
    slow.send(b"GET /healthz HTTP/1.1\r\nHo");
    assert_eq!(slow.rest(), "", "cut while it dawdles");
    // Connections.
    let held: Vec<Raw> = (0..14).map(|_| Raw::open(address)).collect();
    let mut refused = held.into_iter().map(|mut raw| {
        raw.reader.get_ref().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut begin = [0; 12];
        raw.reader.read_exact(&mut begin).is_ok() && &begin == b"HTTP/1.1 503"
    });
    assert!(refused.any(|r| r));
    wait("room again", || (get(address, "/healthz").status == 200).then_some(()));
}

#[test]
fn half_a_head_behind_a_request_has_the_time_of_a_head_and_an_idle_connection_takes_the_next_request() {
    let scratch = Scratch::new();
    let more = "limits: (header_timeout: \"300ms\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let address = daemon.address();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (first, second) = request.split_at(20);
    let mut raw = Raw::open(address);
    // Idle, also for longer than a head may take; then a request in two parts, and half of one behind another.
    for pause in [0, 150, 600] {
        let begin = Instant::now();
        wait("a pause", || (begin.elapsed() >= Duration::from_millis(pause)).then_some(()));
        raw.send(request.as_bytes());
        assert_eq!(raw.response().status, 200, "after {pause} ms");
    }
    raw.send(first.as_bytes());
    raw.send(second.as_bytes());
    assert_eq!(raw.response().status, 200);
    raw.send(format!("{request}{first}").as_bytes());
    assert_eq!(raw.response().status, 200);
    raw.send(second.as_bytes());
    assert_eq!(raw.response().status, 200);
    raw.send(format!("{request}{first}").as_bytes());
    assert_eq!(raw.response().status, 200);
    assert_eq!(raw.rest(), "", "cut while it dawdles");
}

#[test]
fn a_connection_without_a_request_is_closed_after_idle_connection_and_a_stream_is_not() {
    let scratch = Scratch::new();
    let more = "limits: (idle_connection: \"400ms\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let mut silent = Raw::open(daemon.address());
    let mut http = daemon.http("fake");
    let mut stream = http.stream();
    let mut page = Raw::open(daemon.address());
    page.send(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address()).as_bytes());
    assert_eq!(page.response().status, 200);
    for (what, one) in [("one that never asked", &mut silent), ("HTTP library", &mut page), ("plain", &mut http.raw)] {
        assert_eq!(one.rest(), "", "{what}");
    }
    let mut again = http.again();
    assert_eq!(said(&again.ask(&call(1, "list_changed", json!({})))), "said");
    wait("a stream that goes on", || {
        stream.event().filter(|event| event["method"] == "notifications/tools/list_changed").map(drop)
    });
}

#[test]
fn emfile_is_survived() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let script = format!("ulimit -n 40; exec {} -c {}", mcpdaemon(), file.display());
    let out = scratch.command("sh").args(["-c", &script]).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let mut ws = daemon.ws("fake");
    let held: Vec<Raw> = (0..60).map(|_| Raw::open(daemon.address())).collect();
    wait("the shortage", || daemon.log().contains("cannot accept connections at the moment: ").then_some(()));
    assert_eq!(said(&ws.ask(&call(1, "echo", json!({"text": "still here"})))), "still here");
    // Until there is room again, mcpctl(8) knows the process for the daemon by its start.
    let begun = daemon.status()["start_time"].as_u64().unwrap();
    assert!(begun > 0, "{begun}");
    drop(held);
    wait("room again", || (get(daemon.address(), "/healthz").status == 200).then_some(()));
    let log = daemon.log();
    assert!(log.matches("cannot accept connections").count() == 1, "once a minute, not at every try: {log}");
    assert!(daemon.dropped("accept_failures") > 0);
}

#[test]
fn http_pipelining_expect_chunks_and_head() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let address = daemon.address();
    let one = |text: &str| {
        let mut raw = Raw::open(address);
        raw.send(text.as_bytes());
        raw
    };
    // Pipelined requests are all answered, in order.
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut raw = one(&(get("/healthz") + &get("/readyz") + &get("/none")));
    let answers: Vec<(u16, String)> = (0..3).map(|_| raw.response()).map(|r| (r.status, r.body)).collect();
    assert_eq!((answers[0].1.as_str(), answers[1].1.as_str(), answers[2].0), ("ok\n", "ready\n", 404));
    // Byte by byte, chunked, with Expect.
    let mut raw = Raw::open(address);
    for byte in get("/healthz").bytes() {
        raw.send(&[byte]);
    }
    assert_eq!(raw.response().body, "ok\n");
    let session = daemon.http("fake").session.clone();
    let head = format!("POST /servers/fake/mcp HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}Mcp-Session-Id: {session}\r\n");
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let (a, b) = body.split_at(10);
    let mut raw = one(&format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n{}",
        a.len(),
        b.len(),
        get("/healthz")
    ));
    assert_eq!(raw.response().json()["result"], json!({}));
    assert_eq!(raw.response().body, "ok\n");
    let mut raw = one(&format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len()));
    assert_eq!(raw.head().status, 100);
    raw.send(body.as_bytes());
    assert_eq!(raw.response().json()["result"], json!({}));
    // A body that is too long is refused before it is sent.
    let mut raw = one(&format!("{head}Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"));
    assert_eq!(raw.response().status, 413);
    // What could be read in two ways is not read at all.
    for framing in
        ["Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: +3\r\n", "Transfer-Encoding: gzip\r\n"]
    {
        let mut raw = one(&format!("{head}{framing}\r\n{body}"));
        assert!(matches!(raw.response().status, 400 | 501), "{framing}");
    }
    let mut raw = one("garbage\r\n\r\n");
    assert_eq!(raw.response().status, 400);
    let mut raw = one(&format!("HEAD /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
    let head = raw.head();
    assert_eq!((head.status, head.header("content-length").as_deref(), raw.rest().as_str()), (200, Some("3"), ""));
}

#[test]
fn unix_socket_serves_http() {
    use std::io::Write;
    let scratch = Scratch::new();
    let path = scratch.path("s.sock");
    let more = format!("listen: [\"127.0.0.1:0\", \"unix:{}\"],", path.display());
    let daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], "")));
    let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
    assert_eq!(daemon.status()["listen"][1], format!("unix:{}", path.display()));
    let out =
        scratch.run(mcpdaemon(), &["--listen", &format!("unix:{}", path.display()), "--name", "u", "--", &fake()]);
    assert_eq!(code(&out), 69);
    assert!(stderr(&out).contains("another process serves this socket"), "{}", stderr(&out));
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    std::mem::forget(daemon);
    // The file that a killed daemon left is no obstacle.
    let daemon = scratch.start(&scratch.path("t.ron"));
    daemon.stop();
    assert!(!path.exists());
}

#[test]
fn a_carriage_return_of_a_server_breaks_no_event_stream() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let mut stream = http.stream();
    let mut request = call("a", "carriage", json!({}));
    request["params"]["_meta"] = json!({"progressToken": "t"});
    let answer = http.post(&request.to_string());
    assert!(!answer.body.contains('\r'), "{answer:?}");
    let ids: Vec<Value> = answer.messages().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, [Value::Null, json!("a")]);
    assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed");
}

#[test]
fn a_cancelled_request_of_a_client_without_event_streams_gets_none() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let mut other = http.again();
    let body = call(7, "never", json!({})).to_string();
    let (address, path, session) = (&http.address, &http.path, &http.session);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nMcp-Session-Id: {session}\r\nContent-Type: application/json\r\n\
         Accept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    http.raw.send(head.as_bytes());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    other.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#);
    let answer = http.raw.response();
    assert_eq!((answer.status, answer.header("content-type"), answer.body.as_str()), (202, None, ""));
}

#[test]
fn unused_sessions_make_room() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "limits: (sessions: 3),", &stdio("fake", &[], "")));
    let address = daemon.address();
    let mut used = daemon.http("fake");
    let open = || post(address, "/servers/fake/mcp", ACCEPT, &initialize(json!(0)).to_string()).status;
    assert_eq!((open(), open()), (200, 200));
    for _ in 0..5 {
        // Who comes waits a moment: those who have just come are given time.
        assert_eq!(open(), 200);
    }
    assert_eq!(said(&used.ask(&call(1, "echo", json!({"text": "kept"})))), "kept");
}
