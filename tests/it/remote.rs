//! Servers elsewhere: `Http(url)`, what they may answer, and what becomes of their sessions.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;
use crate::upstream::*;

fn echo(id: u64, text: &str) -> Value {
    call(id, "echo", json!({"text": text}))
}

/// A WebSocket whose client has shaken hands.
fn opened(daemon: &Daemon<'_>, server: &str) -> Ws {
    let mut ws = daemon.ws(server);
    assert!(ws.ask(&initialize(json!(1)))["result"].is_object());
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string());
    ws
}

/// The answer to a request, whatever is told before it.
fn ask(ws: &mut Ws, request: &Value) -> Value {
    ws.send(&request.to_string());
    loop {
        let message = ws.next().unwrap();
        if message["id"] == request["id"] && message["method"].is_null() {
            return message;
        }
    }
}

/// Exchanges the program.
fn upgrade(daemon: &Daemon<'_>) {
    let before = daemon.status()["upgrades"].as_u64().unwrap();
    kill(daemon.pid, libc::SIGUSR2);
    wait("the upgrade", || (daemon.status()["upgrades"] == before + 1).then_some(()));
}

/// The message of an error.
fn error(message: &Value) -> &str {
    message["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {message}"))
}

#[test]
fn a_server_elsewhere_is_one_like_the_others_and_its_headers_are_not_shown() {
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let scratch = Scratch::new();
    scratch.write("key", "hunter2\n");
    let headers = "headers: {\"Authorization\": \"Bearer ${file:key}\", \"X-Team\": \"hunter3\"}";
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", headers)));
    assert_eq!(
        (daemon.server("far")["kind"].as_str(), daemon.server("far")["state"].as_str()),
        (Some("Http"), Some("ready"))
    );
    let mut http = daemon.http("far");
    for n in 0..20 {
        assert_eq!(said(&http.ask(&echo(n + 2, "hello"))), "hello");
    }
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "by ws"))), "by ws");
    let calls = upstream.asked("tools/call");
    assert_eq!(calls.len(), 21);
    for seen in &calls {
        assert_eq!(seen.header("authorization"), Some("Bearer hunter2"));
        assert_eq!((seen.header("x-team"), seen.header("mcp-session-id")), (Some("hunter3"), Some("session-1")));
        assert_eq!(seen.header("mcp-protocol-version"), Some("2025-11-25"));
        assert_eq!((seen.path.as_str(), seen.header("host")), ("/mcp", Some(upstream.address.as_str())));
    }
    let connections: std::collections::BTreeSet<usize> = calls.iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 3, "connections are kept: {connections:?}");
    // One handshake for all clients.
    assert_eq!(upstream.asked("initialize").len(), 1);
    let metrics = get(daemon.address(), "/metrics").body;
    assert!(metrics.contains("server=\"far\""), "{metrics}");
    let shown = stdout(&scratch.run(mcpdaemon(), &["-T", "-c", "t.ron"]));
    assert!(shown.contains("\"Authorization\": \"***\"") && shown.contains(&upstream.address), "{shown}");
    let status = daemon.status().to_string();
    let page = get(daemon.address(), "/").body;
    let log = daemon.log();
    daemon.stop();
    for text in [shown, status, page, log] {
        assert!(!text.contains("hunter"), "{text}");
    }
    let parted = upstream.seen().into_iter().filter(|s| s.method == "DELETE").collect::<Vec<_>>();
    assert_eq!(parted.len(), 1);
    assert_eq!(parted[0].header("mcp-session-id"), Some("session-1"));
}

#[test]
fn headers_that_pass_unencrypted_are_warned_of() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "t.ron",
        "(servers: {\"a\": Http(url: \"http://h/mcp?k=1\", headers: {\"X\": \"${HOME}\"}), \
         \"b\": Http(url: \"http://127.0.0.1:1/\", headers: {\"X\": \"${HOME}\"}), \"c\": Http(url: \"http://h/\")})",
    );
    let out = scratch.run(mcpdaemon(), &["-t", "-c", file.to_str().unwrap()]);
    assert_eq!(code(&out), 0, "{out:?}");
    assert!(
        stderr(&out).contains("server 'a': its headers pass unencrypted over the network to http://h/mcp?***"),
        "{out:?}"
    );
    assert!(!stderr(&out).contains("server 'b'") && !stderr(&out).contains("server 'c'"), "{out:?}");
}

#[test]
fn answers_come_as_json_and_as_streams_of_any_shape() {
    let upstream = Upstream::new(|seen, _| match seen.body["params"]["arguments"]["text"].as_str() {
        Some("pretty") => {
            let text: Value = serde_json::from_str(&seen.says("pretty")).unwrap();
            as_json(&serde_json::to_string_pretty(&text).unwrap())
        }
        Some("batch") => as_json(&format!("[{}]", seen.says("batch"))),
        Some("stream") => {
            as_events(&format!("\u{feff}: hello\r\nevent: message\r\nid: 1\r\ndata: {}\r\n\r\n", seen.says("stream")))
        }
        Some("lines") => {
            let text: Value = serde_json::from_str(&seen.says("lines")).unwrap();
            let pretty = serde_json::to_string_pretty(&text).unwrap().replace('\n', "\rdata:");
            as_events(&format!("data:{pretty}\r\r"))
        }
        Some("progress") => {
            let token = &seen.body["params"]["_meta"]["progressToken"];
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": token, "progress": 1}});
            as_events(&format!("data: {progress}\n\nevent: ping\ndata: x\n\ndata: {}\n\n", seen.says("progress")))
        }
        Some("chunked") => {
            let body = seen.says("chunked");
            let (a, b) = body.split_at(10);
            let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
            Reply::Bytes(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: Application/JSON; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
                chunk(a),
                chunk(b)
            ))
        }
        _ => Reply::Usual,
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
    let mut ws = daemon.ws("far");
    for (n, text) in ["pretty", "batch", "stream", "lines", "chunked", "usual"].into_iter().enumerate() {
        assert_eq!(said(&ws.ask(&echo(n as u64 + 2, text))), text);
    }
    let mut asked = echo(20, "progress");
    asked["params"]["_meta"] = json!({"progressToken": "mine"});
    ws.send(&asked.to_string());
    let progress = ws.next().unwrap();
    assert_eq!(
        (&progress["method"], &progress["params"]["progressToken"]),
        (&json!("notifications/progress"), &json!("mine"))
    );
    assert_eq!(said(&ws.next().unwrap()), "progress");
}

#[test]
fn a_session_that_the_server_has_forgotten_is_begun_anew_and_nobody_notices() {
    let sessions = Arc::new(AtomicUsize::new(1));
    let current = sessions.clone();
    let upstream = Upstream::new(move |seen, _| {
        let id = format!("s{}", current.load(SeqCst));
        match (seen.asks(), seen.header("mcp-session-id")) {
            ("initialize", None) => {
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "logging": {},
                    "resources": {"subscribe": true}}, "serverInfo": {"name": "elsewhere", "version": "1"}});
                status(
                    "200 OK",
                    &format!("Content-Type: application/json\r\nMcp-Session-Id: {id}\r\n"),
                    &seen.result(result),
                )
            }
            ("initialize", Some(_)) => status("400 Bad Request", "", "no id at first"),
            (_, Some(known)) if known == id => Reply::Usual,
            _ => status("404 Not Found", "", "no such session"),
        }
    });
    let scratch = Scratch::new();
    let servers = [upstream.server("far", ""), upstream.server("own", "sharing: PerSession(spare: 0)")].join(", ");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let (mut far, mut own) = (opened(&daemon, "far"), opened(&daemon, "own"));
    let subscribe = json!({"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": "test://a"}});
    let level = json!({"jsonrpc": "2.0", "id": 3, "method": "logging/setLevel", "params": {"level": "debug"}});
    assert!(own.ask(&level)["result"].is_object());
    for ws in [&mut far, &mut own] {
        assert!(ws.ask(&subscribe)["result"].is_object());
        assert_eq!(said(&ws.ask(&echo(4, "before"))), "before");
    }
    sessions.store(2, SeqCst);
    for ws in [&mut far, &mut own] {
        assert_eq!(said(&ws.ask(&echo(5, "after"))), "after");
    }
    let with = |id: &str, method: &str| {
        upstream.asked(method).iter().filter(|s| s.header("mcp-session-id") == Some(id)).count()
    };
    // Three of before (`own` has one for what its sessions share), and one for each that was used again.
    assert_eq!(upstream.asked("initialize").len(), 5, "{:?}", upstream.seen());
    assert_eq!((with("s2", "notifications/initialized"), with("s2", "resources/subscribe")), (2, 2));
    assert_eq!(with("s2", "logging/setLevel"), 1, "a shared session has no level of one client");
    assert_eq!(daemon.server("far")["restarts"], 0);
}

#[test]
fn what_a_server_answers_wrongly_is_an_error_that_says_what() {
    let upstream = Upstream::new(|seen, _| match seen.body["params"]["arguments"]["text"].as_str() {
        Some("401") => status("401 Unauthorized", "", ""),
        Some("oauth") => status("401 Unauthorized", "WWW-Authenticate: Bearer resource_metadata=\"x\"\r\n", ""),
        Some("403") => status("403 Forbidden", "", "not you\u{1b}[2J"),
        Some("405") => status("405 Method Not Allowed", "", ""),
        Some("413") => status("413 Content Too Large", "", ""),
        Some("429") => status("429 Too Many Requests", "Retry-After: 3600\r\n", ""),
        Some("500") => status("500 Internal Server Error", "Content-Type: text/html\r\n", "<html>oh</html>"),
        Some("502") => Reply::Last("HTTP/1.1 502 Bad Gateway\r\n\r\nnobody there".to_owned()),
        Some("503") => status("503 Service Unavailable", "", ""),
        Some("rpc") => {
            let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "its own words"}});
            status("400 Bad Request", "Content-Type: application/json\r\n", &error.to_string())
        }
        Some("html") => Reply::Bytes(with_type("text/html", "<html>welcome</html>")),
        Some("accepted") => status("202 Accepted", "", ""),
        Some("nothing") => status("200 OK", "", ""),
        Some("other") => as_json(&json!({"jsonrpc": "2.0", "id": 999, "result": {}}).to_string()),
        Some("broken") => as_json("{\"jsonrpc\": \"2.0\", \"id\": "),
        Some("long") => as_json(&seen.says(&"x".repeat(300_000))),
        Some("long event") => as_events(&format!("data: {}\n\n", seen.says(&"x".repeat(300_000)))),
        Some("no http") => Reply::Last("SSH-2.0-OpenSSH\r\n".to_owned()),
        Some("silence") => Reply::Done,
        Some("cut") => Reply::Last(with_type("application/json", "{\"jsonrpc\"").replace("Length: 10", "Length: 900")),
        Some("cut event") => Reply::Last(format!("{STREAM}data: {{\"jso")),
        Some("head") => Reply::Last(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000))),
        _ => Reply::Usual,
    });
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance_with("t", "limits: (reply: \"256KiB\"),", &upstream.server("far", "")));
    let mut ws = daemon.ws("far");
    for (n, (text, wanted)) in [
        ("401", "answered 401 Unauthorized: it does not accept what 'headers' has"),
        ("oauth", "it wants OAuth, which a child such as mcp-remote can do for it"),
        ("403", "answered 403 Forbidden: it does not accept what 'headers' has (not you"),
        ("405", "answered 405 Method Not Allowed: is this the URL of an MCP server over Streamable HTTP?"),
        ("413", "answered 413"),
        ("429", "answered 429 Too Many Requests; it asks to wait 3600 s"),
        ("500", "answered 500 Internal Server Error"),
        ("502", "answered 502 Bad Gateway (nobody there)"),
        ("503", "answered 503 Service Unavailable"),
        ("rpc", "its own words"),
        ("html", "answered with text/html in place of application/json or text/event-stream: is this the URL"),
        ("accepted", "accepted the request as if it were a notification"),
        ("nothing", "answered with no content in place of"),
        ("other", "answered with something else than the response"),
        ("broken", "answered with something else than the response"),
        ("long", "answered with more than limits.reply (262144 bytes) or limits.memory allows"),
        ("long event", "answered with more than limits.reply (262144 bytes) or limits.memory allows"),
        ("no http", "has not answered: "),
        ("silence", "this request may have run"),
        ("cut", "this request may have run"),
        ("cut event", "has not answered: the stream ended; this request may have run"),
        ("head", "this request may have run"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = ws.ask(&echo(n as u64 + 2, text));
        assert!(error(&answer).contains(wanted), "{text}: {answer}");
        assert!(!error(&answer).contains(['\u{1b}', '<']), "{answer}");
    }
    assert_eq!(said(&ws.ask(&echo(900, "well"))), "well");
    assert_eq!((&daemon.server("far")["state"], &daemon.server("far")["restarts"]), (&json!("ready"), &json!(0)));
    // Each was sent once.
    let calls = upstream.asked("tools/call");
    assert_eq!(calls.len(), 23, "{calls:?}");
}

#[test]
fn a_request_waits_where_its_server_asks_for_it() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::new(move |seen, _| match seen.asks() {
        "tools/call" if asked.fetch_add(1, SeqCst) < 2 => {
            status("429 Too Many Requests", "Retry-After: 1\r\n", "slowly")
        }
        _ => Reply::Usual,
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
    let begin = Instant::now();
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "hello");
    assert!(begin.elapsed() >= Duration::from_secs(2));
    assert_eq!(upstream.asked("tools/call").len(), 3);
}

#[test]
fn a_stream_that_is_cut_goes_on_behind_its_last_event() {
    let answers = Arc::new(Mutex::new(None));
    let upstream =
        Upstream::new(move |seen, _| match (seen.method.as_str(), seen.tool(), seen.header("last-event-id")) {
            ("POST", "echo", _) => {
                *answers.lock().unwrap() = Some(seen.says("at last"));
                let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": seen.body["params"]["_meta"]["progressToken"], "progress": 1}});
                Reply::Last(format!("{STREAM}retry: 50\nid: 7\ndata: {progress}\n\n"))
            }
            ("GET", _, Some("7")) => {
                Reply::Last(format!("{STREAM}id: 8\ndata: {}\n\n", answers.lock().unwrap().take().unwrap()))
            }
            ("GET", ..) => status("405 Method Not Allowed", "", ""),
            _ => Reply::Usual,
        });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "at last");
    let resumed: Vec<_> = upstream.seen().into_iter().filter(|s| s.header("last-event-id").is_some()).collect();
    assert_eq!((resumed.len(), resumed[0].header("mcp-session-id")), (1, Some("session-1")));
}

#[test]
fn an_answer_without_end_is_given_up_and_the_server_is_told() {
    let closed = Arc::new(AtomicBool::new(false));
    let seen_closed = closed.clone();
    let upstream = Upstream::new(move |seen, out| {
        if seen.tool() != "echo" {
            return Reply::Usual;
        }
        let _ = out.write_all(STREAM.as_bytes());
        while out.write_all(b": still there\n\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        seen_closed.store(true, SeqCst);
        Reply::Done
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "request_timeout: \"300ms\"")));
    let answer = daemon.ws("far").ask(&echo(2, "hello"));
    assert!(error(&answer).contains("did not answer within 300ms"), "{answer}");
    wait("the end of the connection", || closed.load(SeqCst).then_some(()));
    wait("the cancellation", || (!upstream.asked("notifications/cancelled").is_empty()).then_some(()));
    let cancelled = &upstream.asked("notifications/cancelled")[0];
    assert_eq!(cancelled.body["params"]["requestId"], upstream.asked("tools/call")[0].body["id"]);
}

#[test]
fn a_redirect_is_followed_at_its_host_alone() {
    let other = Upstream::new(|_, _| Reply::Usual);
    let elsewhere = format!("http://localhost:{}/mcp", other.address.rsplit_once(':').unwrap().1);
    let upstream =
        Upstream::new(move |seen, _| match (seen.path.as_str(), seen.body["params"]["arguments"]["text"].as_str()) {
            ("/mcp", _) => status("307 Temporary Redirect", "Location: /mcp/\r\n", ""),
            (_, Some("away")) => status("307 Temporary Redirect", &format!("Location: {elsewhere}\r\n"), ""),
            (_, Some("round")) => status("302 Found", "Location: /mcp/?again\r\n", ""),
            (_, Some("nowhere")) => status("302 Found", "", ""),
            _ => Reply::Usual,
        });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "headers: {\"X-Key\": \"hunter2\"}")));
    let mut ws = daemon.ws("far");
    assert_eq!(said(&ws.ask(&echo(2, "hello"))), "hello");
    for (id, text, wanted) in [
        (3, "away", "its redirect is not followed: it leads to another host, localhost"),
        (4, "round", "it redirects more than 5 times"),
        (5, "nowhere", "does not say where to"),
    ] {
        let answer = ws.ask(&echo(id, text));
        assert!(error(&answer).contains(wanted), "{answer}");
    }
    assert!(other.seen().is_empty(), "the other host has got nothing");
}

#[test]
fn a_server_that_is_not_reached_is_tried_again_and_says_why_meanwhile() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let scratch = Scratch::new();
    let far = format!(
        "\"far\": Http(url: \"http://{address}/mcp?key=hunter2\", required: false, restart: (delay: \"20ms\"))"
    );
    let daemon = scratch.start(&scratch.instance("t", &far));
    let reason = wait("the reason", || {
        let server = daemon.server("far");
        server["reason"].as_str().map(str::to_owned)
    });
    let wanted = format!("cannot be reached at http://{address}/mcp?***: Connection refused");
    assert!(reason.contains(&wanted), "{reason}");
    let upstream = Upstream::at(&address, |_, _| Reply::Usual);
    wait("the server", || (daemon.server("far")["state"] == "ready").then_some(()));
    let mut ws = daemon.ws("far");
    assert_eq!(said(&ws.ask(&echo(2, "hello"))), "hello");
    // It goes while it is idle: the next request says so, or waits for it to come back.
    drop(upstream);
    let answer = ws.ask(&echo(3, "hello"));
    assert!(error(&answer).contains("cannot be reached") || error(&answer).contains("may have run"), "{answer}");
    let _again = Upstream::at(&address, |_, _| Reply::Usual);
    wait("the server", || {
        let answer = ws.ask(&echo(4, "again"));
        answer["result"].is_object().then_some(())
    });
    assert!(!daemon.log().contains("hunter2"));
}

#[test]
fn the_start_fails_with_the_reason_where_a_server_elsewhere_is_required() {
    let upstream = Upstream::new(|seen, _| match seen.asks() {
        "initialize" => status("401 Unauthorized", "", ""),
        _ => Reply::Usual,
    });
    let scratch = Scratch::new();
    let file = scratch.instance("t", &upstream.server("far", "start_timeout: \"1s\""));
    let out = scratch.run(mcpdaemon(), &["-c", file.to_str().unwrap()]);
    assert_ne!(code(&out), 0);
    assert!(stderr(&out).contains("401 Unauthorized: it does not accept what 'headers' has"), "{}", stderr(&out));
}

#[test]
fn the_stream_of_the_server_brings_what_belongs_to_no_request_and_goes_on_where_it_was_cut() {
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}).to_string();
    let upstream = Upstream::new(move |seen, out| {
        if seen.method != "GET" {
            return Reply::Usual;
        }
        let last = seen.header("last-event-id");
        let _ = out.write_all(STREAM.as_bytes());
        let _ = out.write_all(format!("retry: 20\nid: e{}\ndata: {changed}\n\n", last.map_or(0, str::len)).as_bytes());
        if last.is_some() {
            // The second one stays.
            let _ = out.read(&mut [0]);
        }
        Reply::Done
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "sharing: PerSession(spare: 0)")));
    let mut ws = opened(&daemon, "far");
    for _ in 0..2 {
        assert_eq!(ws.next().unwrap()["method"], "notifications/tools/list_changed");
    }
    let gets: Vec<_> = upstream.seen().into_iter().filter(|s| s.method == "GET").collect();
    assert!(gets.iter().any(|s| s.header("last-event-id").is_some_and(|id| id.starts_with('e'))), "{gets:?}");
    assert!(gets.iter().all(|s| s.header("accept") == Some("text/event-stream")));
}

#[test]
fn a_server_elsewhere_asks_the_client_whose_session_it_is() {
    let answers = Arc::new(Mutex::new(None::<Value>));
    let taken = answers.clone();
    let upstream = Upstream::new(move |seen, out| {
        if seen.body["id"] == "q-1" && seen.asks().is_empty() {
            *taken.lock().unwrap() = Some(seen.body.clone());
        }
        if seen.tool() != "echo" {
            return Reply::Usual;
        }
        let ask = json!({"jsonrpc": "2.0", "id": "q-1", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}});
        let _ = out.write_all(format!("{STREAM}data: {ask}\n\n").as_bytes());
        let answer = wait("the client's answer", || taken.lock().unwrap().clone());
        Reply::Last(format!("data: {}\n\n", seen.says(answer["result"]["model"].as_str().unwrap_or("none"))))
    });
    let scratch = Scratch::new();
    let servers = [upstream.server("own", "sharing: PerSession(spare: 0)"), upstream.server("far", "")].join(", ");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut ws = opened(&daemon, "own");
    ws.send(&echo(2, "hello").to_string());
    let asked = ws.next().unwrap();
    assert_eq!(asked["method"], "sampling/createMessage");
    ws.send(
        &json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"model": "mine", "role": "assistant",
        "content": {"type": "text", "text": "x"}}})
        .to_string(),
    );
    assert_eq!(said(&ws.next().unwrap()), "mine");
    // Which client a shared session means nobody knows: the daemon says so, and the server goes on.
    answers.lock().unwrap().take();
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "none");
}

#[test]
fn what_a_client_cancels_is_cancelled_elsewhere() {
    let upstream = Upstream::new(|seen, out| {
        if seen.tool() != "echo" {
            return Reply::Usual;
        }
        let _ = out.write_all(STREAM.as_bytes());
        let _ = out.read(&mut [0]);
        Reply::Done
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
    let mut ws = daemon.ws("far");
    ws.send(&echo(2, "hello").to_string());
    wait("the call", || (!upstream.asked("tools/call").is_empty()).then_some(()));
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2, "reason": "enough"}});
    ws.send(&cancel.to_string());
    wait("the cancellation", || (!upstream.asked("notifications/cancelled").is_empty()).then_some(()));
    assert_eq!(daemon.status()["requests"]["in_flight"], 0);
}

#[test]
fn a_server_that_leaves_pings_unanswered_gets_another_session() {
    let sulks = Arc::new(AtomicBool::new(false));
    let is_sulking = sulks.clone();
    let upstream = Upstream::new(move |seen, _| {
        while seen.asks() == "ping" && is_sulking.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Reply::Usual
    });
    let scratch = Scratch::new();
    let health = "health: (interval: \"100ms\", timeout: \"300ms\", failures: 2), restart: (delay: \"10ms\")";
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", health)));
    wait("a ping", || (!upstream.asked("ping").is_empty()).then_some(()));
    assert_eq!(upstream.asked("initialize").len(), 1);
    sulks.store(true, SeqCst);
    wait("another session", || (upstream.asked("initialize").len() > 1).then_some(()));
    sulks.store(false, SeqCst);
    wait("the server", || (daemon.server("far")["state"] == "ready").then_some(()));
    assert!(daemon.log().contains("it did not answer pings"), "{}", daemon.log());
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "hello");
}

#[test]
fn a_modern_server_gets_the_headers_that_repeat_the_body_and_no_session() {
    let upstream = Upstream::new(|seen, out| {
        let meta = &seen.body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
        match seen.asks() {
            "initialize" => status("400 Bad Request", "", "what is that"),
            "server/discover" if *meta == "2026-07-28" => as_json(&seen.result(json!({"resultType": "complete",
                "ttlMs": 0, "cacheScope": "private", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "m", "version": "1"}}}))),
            "tools/list" => {
                as_json(&seen.result(json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "tools": [{"name": "echo", "inputSchema": {"type": "object", "properties": {
                    "text": {"type": "string", "x-mcp-header": "Text"}}}}]})))
            }
            "tools/call" if seen.body["params"]["arguments"]["text"] == "slow" => {
                let _ = out.write_all(STREAM.as_bytes());
                // Until the connection is closed, which is how this era cancels.
                let _ = out.read(&mut [0]);
                Reply::Done
            }
            "tools/call" => {
                let text = seen.header("mcp-param-text").unwrap_or("no header").to_owned();
                as_json(&seen.result(json!({"resultType": "complete", "content": [{"type": "text", "text": text}]})))
            }
            _ => Reply::Usual,
        }
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "request_timeout: \"500ms\"")));
    let ask = |id: u64, text: &str| {
        let mut request = call(id, "echo", json!({"text": text}));
        request["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}});
        let headers = format!(
            "{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\nMcp-Param-Text: {text}\r\n"
        );
        post(daemon.address(), "/servers/far/mcp", &headers, &request.to_string()).json()
    };
    assert_eq!(said(&ask(1, "hello")), "hello");
    // Clients that know no such headers: the daemon asks for the tools itself.
    let mut ws = daemon.ws("far");
    let mut request = echo(5, "ü");
    request["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    assert_eq!(said(&ws.ask(&request)), "=?base64?w7w=?=");
    let call = &upstream.asked("tools/call")[0];
    assert_eq!((call.header("mcp-method"), call.header("mcp-name")), (Some("tools/call"), Some("echo")));
    assert_eq!((call.header("mcp-protocol-version"), call.header("mcp-session-id")), (Some("2026-07-28"), None));
    let slow = ask(2, "slow");
    assert!(error(&slow).contains("did not answer within 500ms"), "{slow}");
    assert!(upstream.asked("notifications/cancelled").is_empty(), "the end of the connection says it");
    assert!(upstream.seen().iter().all(|s| s.method == "POST"), "there is no stream and no session to delete");
}

#[test]
fn an_upgrade_keeps_the_session_and_waits_a_moment_for_what_is_under_way() {
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let upstream = Upstream::new(move |seen, out| {
        match (seen.method.as_str(), seen.body["params"]["arguments"]["text"].as_str()) {
            (_, Some("soon")) => {
                std::thread::sleep(Duration::from_millis(700));
                Reply::Usual
            }
            (_, Some("never")) => {
                while held.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Reply::Usual
            }
            ("GET", _) => {
                let _ = out.write_all(STREAM.as_bytes());
                let _ = out.read(&mut [0]);
                Reply::Done
            }
            _ => Reply::Usual,
        }
    });
    let scratch = Scratch::new();
    let servers = [upstream.server("far", ""), upstream.server("own", "sharing: PerSession(spare: 0)")].join(", ");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let (mut far, mut own) = (opened(&daemon, "far"), opened(&daemon, "own"));
    for ws in [&mut far, &mut own] {
        assert_eq!(said(&ws.ask(&echo(2, "before"))), "before");
    }
    let handshakes = upstream.asked("initialize").len();
    far.send(&echo(3, "soon").to_string());
    own.send(&echo(3, "soon").to_string());
    wait("the calls", || (upstream.asked("tools/call").len() >= 4).then_some(()));
    upgrade(&daemon);
    for ws in [&mut far, &mut own] {
        assert_eq!(said(&ws.next().unwrap()), "soon");
        assert_eq!(said(&ws.ask(&echo(4, "after"))), "after");
    }
    assert_eq!(upstream.asked("initialize").len(), handshakes, "the sessions are the same");
    let last = upstream.asked("tools/call").pop().unwrap();
    assert_eq!(last.header("mcp-session-id"), Some("session-1"));
    // What takes longer is lost with its connection, and says so; a list is asked for once more.
    far.send(&echo(5, "never").to_string());
    wait("the call", || {
        upstream.asked("tools/call").iter().any(|s| s.body["params"]["arguments"]["text"] == "never").then_some(())
    });
    upgrade(&daemon);
    let lost = far.next().unwrap();
    assert!(error(&lost).contains("the connection ended when the daemon was upgraded, before the answer"), "{lost}");
    hold.store(false, SeqCst);
    assert_eq!(said(&far.ask(&echo(6, "and on"))), "and on");
    assert_eq!(daemon.status()["upgrades"], 2);
}

#[test]
fn a_reload_with_other_headers_begins_another_session_and_ends_the_old_one() {
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "headers: {\"X-Key\": \"a\"}")));
    let mut ws = daemon.ws("far");
    assert_eq!(said(&ws.ask(&echo(2, "hello"))), "hello");
    let reload = |more: &str| {
        scratch.instance("t", &upstream.server("far", more));
        let out = scratch.ctl(&["reload", "t"]);
        assert_eq!(code(&out), 0, "{out:?}");
        stdout(&out)
    };
    assert!(reload("headers: {\"X-Key\": \"b\"}").contains("1 restarted"));
    assert_eq!(said(&ask(&mut ws, &echo(3, "hello"))), "hello");
    let key = |seen: &Seen| seen.header("x-key").unwrap().to_owned();
    assert_eq!(upstream.asked("tools/call").iter().map(key).collect::<Vec<_>>(), ["a", "b"]);
    wait("the end of the old session", || {
        upstream.seen().iter().any(|s| s.method == "DELETE" && key(s) == "a").then_some(())
    });
    assert!(reload("headers: {\"X-Key\": \"b\"}, request_timeout: \"9s\"").contains("1 adjusted"));
    let out = scratch.run(mcpctl(), &["restart", "t", "--server", "far"]);
    assert_eq!(code(&out), 0, "{out:?}");
    assert_eq!(upstream.asked("initialize").len(), 3);
}

#[test]
fn who_floods_fills_no_memory_and_keeps_out_nobody() {
    let upstream = Upstream::new(|seen, out| {
        if seen.tool() != "echo" || seen.body["params"]["arguments"]["text"] != "flood" {
            return Reply::Usual;
        }
        let _ = out.write_all(STREAM.as_bytes());
        let noise = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x".repeat(4000)}});
        let piece = format!("data: {noise}\n\n").repeat(20);
        while out.write_all(piece.as_bytes()).is_ok() {}
        Reply::Done
    });
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "request_timeout: \"3s\"")));
    let mut flooded = daemon.ws("far");
    flooded.send(&echo(2, "flood").to_string());
    wait("the flood", || (daemon.dropped("unowned_notifications") > 1000).then_some(()));
    let mut ws = daemon.ws("far");
    for n in 2..30 {
        assert_eq!(said(&ws.ask(&echo(n, "hello"))), "hello");
    }
    let memory = daemon.status()["process"]["memory_bytes"].as_u64().unwrap();
    assert!(memory < 120 << 20, "{memory}");
    assert!(error(&flooded.next().unwrap()).contains("did not answer"));
}

#[test]
fn long_answers_of_a_server_stay_within_the_memory_of_the_instance() {
    const MIB: usize = 1 << 20;
    let release = Arc::new(AtomicBool::new(false));
    let wanted = release.clone();
    let upstream = Upstream::new(move |seen, out| {
        if seen.body["params"]["arguments"]["text"] != "long" {
            return Reply::Usual;
        }
        let body = seen.says(&"x".repeat(12 * MIB));
        let answer = with_type("application/json", &body);
        let (most, rest) = answer.split_at(11 * MIB);
        let _ = out.write_all(most.as_bytes());
        while !wanted.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = out.write_all(rest.as_bytes());
        Reply::Done
    });
    let scratch = Scratch::new();
    let limits = "limits: (memory: \"64MiB\", reply: \"16MiB\"),";
    let daemon = scratch.start(&scratch.instance_with("t", limits, &upstream.server("far", "")));
    let mut all: Vec<Ws> = (0..20).map(|_| daemon.ws("far")).collect();
    for ws in &mut all {
        ws.send(&echo(2, "long").to_string());
    }
    // What finds no memory is refused while the others wait.
    wait("the refusals", || (daemon.dropped("memory") > 10).then_some(()));
    let memory = daemon.status()["process"]["memory_bytes"].as_u64().unwrap();
    assert!(memory < 200 << 20, "{memory}");
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "short"))), "short");
    release.store(true, SeqCst);
    let answers: Vec<Value> = all.iter_mut().map(|ws| ws.next().unwrap()).collect();
    let refused = answers.iter().filter(|a| a["error"].is_object()).count();
    assert!(answers.iter().all(|a| a["result"].is_object() || error(a).contains("or limits.memory allows")));
    assert!((1..20).contains(&refused), "{refused} of 20");
}

#[test]
fn three_of_ten_servers_are_down_and_the_others_answer_at_once() {
    let upstream = Upstream::new(|_, _| Reply::Usual);
    // One that is refused, one that accepts and says nothing, one that begins an answer without end.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endless = Upstream::new(|_, out| {
        let _ = out.write_all(STREAM.as_bytes());
        let _ = out.read(&mut [0]);
        Reply::Done
    });
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = free.local_addr().unwrap();
    drop(free);
    let up = (0..7).map(|n| upstream.server(&format!("up{n}"), ""));
    let down = [refused.to_string(), silent.local_addr().unwrap().to_string(), endless.address.clone()];
    let down = down
        .iter()
        .enumerate()
        .map(|(n, address)| format!("\"down{n}\": Http(url: \"http://{address}/mcp\", required: false)"));
    let all: Vec<String> = up.chain(down).collect();
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "bridge: Prefix,", &all.join(", ")));
    let mut http = Http::open_at(daemon.address(), "/mcp");
    let tools = http.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}));
    let begin = Instant::now();
    assert_eq!(http.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}))["result"], tools["result"]);
    assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 7, "{tools}");
    for n in 0..70 {
        let name = tools["result"]["tools"][n % 7]["name"].as_str().unwrap();
        assert_eq!(said(&http.ask(&call(n as u64 + 3, name, json!({"text": "hello"})))), "hello");
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "nobody waits for those that are down: {:?}", begin.elapsed());
}

/// Certificates of an authority of our own.
#[cfg(feature = "remote")]
pub struct Authority<'s> {
    scratch: &'s Scratch,
}

#[cfg(feature = "remote")]
impl<'s> Authority<'s> {
    /// Makes `ca.pem`.
    pub fn new(scratch: &'s Scratch) -> Authority<'s> {
        let authority = Authority { scratch };
        let days = ["-days", "3"];
        authority.openssl(
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
                "-subj",
                "/CN=test authority",
            ],
            &days,
        );
        authority
    }

    fn openssl(&self, args: &[&str], more: &[&str]) {
        let mut command = self.scratch.command("openssl");
        let out = command.args(args).args(more).current_dir(self.scratch.dir.path()).output().expect("openssl");
        assert!(out.status.success(), "{}", stderr(&out));
    }

    /// A certificate for a name with its key, in one file.
    pub fn certificate(&self, name: &str) -> std::path::PathBuf {
        self.openssl(
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                "one.key",
                "-out",
                "one.csr",
                "-subj",
                "/CN=one",
            ],
            &[],
        );
        self.scratch.write("one.ext", &format!("subjectAltName=DNS:{name}\n"));
        self.openssl(
            &["x509", "-req", "-in", "one.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "one.pem"],
            &["-days", "2", "-extfile", "one.ext"],
        );
        let both = format!("{}{}", self.scratch.file("one.pem"), self.scratch.file("one.key"));
        self.scratch.write(&format!("{name}.pem"), &both)
    }
}

#[test]
#[cfg(feature = "remote")]
fn tls_is_spoken_and_the_server_has_to_prove_itself() {
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let scratch = Scratch::new();
    let authority = Authority::new(&scratch);
    let tls = crate::proxies::Proxy::tls(&scratch, &upstream.address, &authority.certificate("localhost"));
    let port = tls.address.rsplit_once(':').unwrap().1;
    let url = format!("https://localhost:{port}/mcp");
    let far = |name: &str, url: &str, more: &str| format!("\"{name}\": Http(url: \"{url}\", required: false, {more})");
    let servers = [
        far("ca", &url, "ca: \"ca.pem\""),
        far("unknown", &url, ""),
        far("name", &format!("https://127.0.0.1:{port}/mcp"), "ca: \"ca.pem\""),
        far(
            "plain",
            &format!("https://localhost:{}/mcp", upstream.address.rsplit_once(':').unwrap().1),
            "ca: \"ca.pem\"",
        ),
        far("other", &format!("http://{}/mcp", tls.address), ""),
    ];
    let daemon = scratch.start(&scratch.instance("t", &servers.join(", ")));
    wait("the server", || (daemon.server("ca")["state"] == "ready").then_some(()));
    assert_eq!(said(&daemon.ws("ca").ask(&echo(2, "sealed"))), "sealed");
    for (name, wanted) in [
        ("unknown", "TLS: invalid peer certificate: UnknownIssuer"),
        ("name", "TLS: invalid peer certificate: certificate not valid for name"),
        ("plain", "TLS: "),
    ] {
        let reason = wait("the reason", || daemon.server(name)["reason"].as_str().map(str::to_owned));
        assert!(reason.contains(wanted), "{name}: {reason}");
    }
    // Some servers say nothing at all to a request in plain text.
    wait("the failure", || (daemon.server("other")["state"] != "ready").then_some(()));
    drop(daemon);
    // The certificates of the system are where this variable says.
    let file = scratch.instance("u", &far("system", &url, ""));
    let mut command = scratch.command(mcpdaemon());
    let out = command.arg("-c").arg(&file).env("SSL_CERT_FILE", scratch.path("ca.pem")).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    wait("the server", || (daemon.server("system")["state"] == "ready").then_some(()));
    assert_eq!(said(&daemon.ws("system").ask(&echo(2, "sealed"))), "sealed");
}

#[test]
fn a_certificate_file_that_is_none_is_refused_with_its_place() {
    let scratch = Scratch::new();
    scratch.write("no.pem", "nothing");
    let file = scratch.write("t.ron", "(servers: {\"a\": Http(url: \"https://h/\", ca: \"no.pem\"),\n\"b\": Http(url: \"https://h/\", ca: \"gone.pem\")})");
    let out = scratch.run(mcpdaemon(), &["-t", "-c", file.to_str().unwrap()]);
    if cfg!(feature = "remote") {
        assert!(
            stderr(&out).contains("t.ron:1:45: ca ") && stderr(&out).contains("there is no certificate in it"),
            "{out:?}"
        );
        assert!(stderr(&out).contains("gone.pem"), "{out:?}");
    } else {
        assert!(stderr(&out).contains("t.ron:1:27: this mcpdaemon was built without TLS"), "{out:?}");
    }
    assert_eq!(code(&out), 78);
}

/// A proxy that passes bytes on to one place, whatever it is asked for: what it was asked.
#[cfg(feature = "remote")]
fn tunnel(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
    let log = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
            log.lock().unwrap().push(head);
            let (mut client, server) = (client, TcpStream::connect(&to).unwrap());
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let (mut up, mut down) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut reader, &mut up));
            std::thread::spawn(move || {
                let mut server = server;
                std::io::copy(&mut server, &mut down)
            });
        }
    });
    (address, asked)
}

#[test]
fn a_proxy_of_the_environment_is_asked_for_what_is_not_on_this_host() {
    // It gets whole URLs, and answers as the servers that they name.
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let near = Upstream::new(|_, _| Reply::Usual);
    let scratch = Scratch::new();
    let servers = format!(
        "\"far\": Http(url: \"http://mcp.example/mcp\"), \"except\": Http(url: \"http://no.example/mcp\", required: false), {}",
        near.server("near", "")
    );
    let file = scratch.instance("t", &servers);
    let mut command = scratch.command(mcpdaemon());
    command.env("HTTP_PROXY", format!("http://user:p%40ss@{}", upstream.address)).env("NO_PROXY", "no.example");
    let out = command.arg("-c").arg(&file).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "hello");
    let seen = upstream.seen();
    assert!(
        seen.iter().all(|s| s.path == "http://mcp.example/mcp" && s.header("host") == Some("mcp.example")),
        "{seen:?}"
    );
    assert_eq!(seen[0].header("proxy-authorization"), Some("Basic dXNlcjpwQHNz"));
    assert_eq!(said(&daemon.ws("near").ask(&echo(2, "near"))), "near");
    assert!(near.seen().iter().all(|s| s.path == "/mcp"));
    let reason = wait("the reason", || daemon.server("except")["reason"].as_str().map(str::to_owned));
    assert!(reason.contains("'no.example' is not found"), "{reason}");
    assert!(!format!("{}{}", daemon.log(), daemon.status()).contains("p@ss"));
}

#[test]
#[cfg(feature = "remote")]
fn tls_goes_through_a_proxy_of_the_environment() {
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let scratch = Scratch::new();
    let authority = Authority::new(&scratch);
    let tls = crate::proxies::Proxy::tls(&scratch, &upstream.address, &authority.certificate("mcp.example"));
    let (proxy, asked) = tunnel(tls.address.clone());
    let file = scratch.instance("t", "\"far\": Http(url: \"https://mcp.example/mcp\", ca: \"ca.pem\")");
    let mut command = scratch.command(mcpdaemon());
    let out = command.arg("-c").arg(&file).env("https_proxy", &proxy).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "hello");
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("CONNECT mcp.example:443 HTTP/1.1\r\nHost: mcp.example:443\r\n"), "{asked:?}");
    drop(daemon);
    // One that refuses is named.
    let refusing = Upstream::new(|_, _| status("403 Forbidden", "", ""));
    let file =
        scratch.instance("u", "\"far\": Http(url: \"https://mcp.example/mcp\", ca: \"ca.pem\", required: false)");
    let mut command = scratch.command(mcpdaemon());
    let out = command.arg("-c").arg(&file).env("https_proxy", &refusing.address).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let reason = wait("the reason", || daemon.server("far")["reason"].as_str().map(str::to_owned));
    let wanted = format!("the proxy {}: it answered 'HTTP/1.1 403 Forbidden'", refusing.address);
    assert!(reason.contains(&wanted), "{reason}");
}

#[test]
fn a_reference_server_over_http_is_used_by_each_client_and_asks_the_one_of_a_session() {
    let (scratch, elsewhere) = (Scratch::new(), Scratch::new());
    let program = crate::real::deps().join("node_modules/.bin/mcp-server-everything");
    let port = crate::proxies::free_port();
    let mut command = elsewhere.command(program.to_str().unwrap());
    let quiet = || std::process::Stdio::null();
    command.arg("streamableHttp").env("PORT", port.to_string()).stdout(quiet()).stderr(quiet());
    let mut server = command.spawn().unwrap();
    wait("the server", || listens(&format!("127.0.0.1:{port}")));
    let url = format!("Http(url: \"http://127.0.0.1:{port}/mcp\", ");
    let servers = format!("\"all\": {url}), \"own\": {url} sharing: PerSession(spare: 0))");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let hello = || call(2, "echo", json!({"message": "hello"}));
    let mut http = daemon.http("all");
    assert_eq!(said(&http.ask(&hello())), "Echo: hello");
    let resources = http.ask(&json!({"jsonrpc": "2.0", "id": 3, "method": "resources/list"}));
    assert!(resources["result"]["resources"].as_array().unwrap().len() > 3, "{resources}");
    let mut ws = daemon.ws("own");
    let mut greeting = initialize(json!(1));
    greeting["params"]["capabilities"] = json!({"roots": {"listChanged": true}});
    assert!(ws.ask(&greeting)["result"].is_object());
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string());
    // It asks for the roots on its own stream: by itself a moment after the handshake, or for a call.
    wait("the roots", || {
        ws.send(&call(9, "get-roots-list", json!({})).to_string());
        loop {
            let message = ws.next().unwrap();
            if message["method"] == "roots/list" {
                let result = json!({"roots": [{"uri": "file:///mine"}]});
                ws.send(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string());
            } else if message["id"] == 9 {
                return said(&message).contains("file:///mine").then_some(());
            }
        }
    });
    assert_eq!(said(&ask(&mut ws, &hello())), "Echo: hello");
    drop(ws);
    daemon.stop();
    server.kill().unwrap();
    server.wait().unwrap();
}

/// What a hostile tester found: each was wrong once.
mod found {
    use super::*;

    fn methods(upstream: &Upstream) -> Vec<String> {
        upstream
            .seen()
            .iter()
            .map(|s| if s.method == "POST" { s.asks().to_owned() } else { s.method.clone() })
            .collect()
    }

    #[test]
    fn a_server_with_sessions_that_knows_no_get_is_not_asked_again_and_again() {
        let upstream = Upstream::new(|seen, _| match seen.method.as_str() {
            "GET" => status("404 Not Found", "", ""),
            _ => Reply::Usual,
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
        let mut ws = daemon.ws("far");
        for n in 0..20 {
            assert_eq!(said(&ws.ask(&echo(n + 2, "hello"))), "hello");
        }
        let count = |what: &str| methods(&upstream).iter().filter(|m| *m == what).count();
        assert_eq!((count("initialize"), count("GET")), (1, 1), "{:?}", methods(&upstream));
    }

    #[test]
    fn a_name_of_a_header_that_is_none_fails_nobody() {
        let upstream = Upstream::new(|seen, _| match seen.asks() {
            "initialize" => status("400 Bad Request", "", "what is that"),
            "server/discover" => {
                as_json(&seen.result(json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})))
            }
            "tools/list" => {
                let mut properties = serde_json::Map::new();
                properties.insert("text".to_owned(), json!({"type": "string", "x-mcp-header": "Reg ion"}));
                for n in 0..30_000 {
                    properties.insert(format!("p{n}"), json!({"x-mcp-header": format!("P{n}")}));
                }
                as_json(&seen.result(json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                    "tools": [{"name": "echo", "inputSchema": {"type": "object", "properties": properties}}]})))
            }
            "tools/call" => as_json(&seen.result(json!({"resultType": "complete",
                "content": [{"type": "text", "text": "called"}]}))),
            _ => Reply::Usual,
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
        let mut ws = daemon.ws("far");
        let mut arguments: serde_json::Map<String, Value> = (0..30_000).map(|n| (format!("p{n}"), json!(n))).collect();
        arguments.insert("text".to_owned(), json!("x"));
        let mut request = call(2, "echo", Value::Object(arguments));
        request["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}});
        assert_eq!(said(&ws.ask(&request)), "called");
        assert_eq!((&daemon.server("far")["state"], &daemon.server("far")["restarts"]), (&json!("ready"), &json!(0)));
    }

    #[test]
    fn an_answer_that_comes_in_many_streams_comes() {
        let call = Arc::new(Mutex::new(None));
        let upstream = Upstream::new(move |seen, _| {
            let last: u64 = seen.header("last-event-id").and_then(|id| id.parse().ok()).unwrap_or(0);
            match (seen.method.as_str(), seen.tool()) {
                ("POST", "echo") => *call.lock().unwrap() = Some(seen.says("at last")),
                ("GET", _) if last > 0 => {}
                ("GET", _) => return status("405 Method Not Allowed", "", ""),
                _ => return Reply::Usual,
            }
            if last == 8 {
                return Reply::Last(format!("{STREAM}data: {}\n\n", call.lock().unwrap().take().unwrap()));
            }
            Reply::Last(format!(
                "{STREAM}retry: 10\nid: {}\ndata: {}\n\n",
                last + 1,
                json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})
            ))
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
        assert_eq!(said(&daemon.ws("far").ask(&echo(2, "hello"))), "at last");
    }

    #[test]
    fn an_upgrade_loses_nothing_that_waits_in_front_of_a_slow_server() {
        let slow = Arc::new(AtomicBool::new(true));
        let is_slow = slow.clone();
        let upstream = Upstream::new(move |seen, _| {
            if seen.asks() == "resources/subscribe" {
                while is_slow.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Reply::Usual
        });
        let scratch = Scratch::new();
        let own = upstream.server("own", "sharing: PerSession(spare: 0), request_timeout: \"20s\"");
        let daemon = scratch.start(&scratch.instance("t", &own));
        let mut ws = opened(&daemon, "own");
        let begin = Instant::now();
        for n in 0..8 {
            let uri = format!("test://{n}");
            ws.send(
                &json!({"jsonrpc": "2.0", "id": 100 + n, "method": "resources/subscribe", "params": {"uri": uri}})
                    .to_string(),
            );
            ws.send(&echo(200 + n, "queued").to_string());
        }
        wait("the first of them", || (!upstream.asked("resources/subscribe").is_empty()).then_some(()));
        upgrade(&daemon);
        slow.store(false, SeqCst);
        let mut answered: Vec<u64> = (0..16)
            .map(|_| ws.next().unwrap())
            .map(|m| {
                assert!(m["result"].is_object(), "{m}");
                m["id"].as_u64().unwrap()
            })
            .collect();
        answered.sort_unstable();
        let wanted: Vec<u64> = (100..108).chain(200..208).collect();
        assert_eq!(answered, wanted);
        assert!(begin.elapsed() < Duration::from_secs(19), "no request has run into its time");
    }

    #[test]
    fn notifications_keep_their_order_take_few_connections_and_come_before_the_end() {
        let upstream = Upstream::new(|seen, _| {
            if seen.asks() == "notifications/progress" {
                std::thread::sleep(Duration::from_millis(seen.body["params"]["progress"].as_u64().unwrap() % 3));
            }
            Reply::Usual
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("own", "sharing: PerSession(spare: 0)")));
        let mut ws = opened(&daemon, "own");
        for n in 0..200 {
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": "t", "progress": n}});
            ws.send(&progress.to_string());
        }
        wait("the notifications", || (upstream.asked("notifications/progress").len() == 200).then_some(()));
        let steps: Vec<u64> = upstream
            .asked("notifications/progress")
            .iter()
            .map(|s| s.body["params"]["progress"].as_u64().unwrap())
            .collect();
        assert!(steps.is_sorted(), "{steps:?}");
        let connections = upstream.seen().iter().map(|s| s.connection).max().unwrap();
        assert!(connections < 10, "{connections}");
        let last = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "t", "progress": 999}});
        ws.send(&last.to_string());
        drop(ws);
        daemon.stop();
        // One for what sessions share, one of the session: each ends last, and none begins again.
        let all = methods(&upstream);
        assert_eq!(
            all.iter().filter(|m| *m == "DELETE").count(),
            all.iter().filter(|m| *m == "initialize").count(),
            "{all:?}"
        );
        assert_eq!(upstream.asked("notifications/progress").len(), 201);
    }

    #[test]
    fn an_event_that_is_too_long_is_left_out_and_those_behind_it_come() {
        let upstream = Upstream::new(|seen, out| {
            if seen.method != "GET" {
                return Reply::Usual;
            }
            let last: u64 = seen.header("last-event-id").and_then(|id| id.parse().ok()).unwrap_or(0);
            let _ = out.write_all(format!("{STREAM}retry: 20\n").as_bytes());
            for n in last + 1..=3 {
                let data = if n == 2 { "x".repeat(200_000) } else { n.to_string() };
                let message =
                    json!({"jsonrpc": "2.0", "method": "notifications/resources/list_changed", "params": {"n": data}});
                let _ = out.write_all(format!("id: {n}\ndata: {message}\n\n").as_bytes());
            }
            let _ = out.read(&mut [0]);
            Reply::Done
        });
        let scratch = Scratch::new();
        let own = upstream.server("own", "sharing: PerSession(spare: 0)");
        let daemon = scratch.start(&scratch.instance_with("t", "limits: (reply: \"64KiB\"),", &own));
        let mut ws = opened(&daemon, "own");
        let numbers: Vec<Value> = (0..2).map(|_| ws.next().unwrap()["params"]["n"].clone()).collect();
        assert_eq!(numbers, [json!("1"), json!("3")]);
        assert!(daemon.log().contains("a message of it is left out"), "{}", daemon.log());
    }

    #[test]
    fn a_connection_that_is_refused_does_not_end_what_is_under_way() {
        let release = Arc::new(AtomicBool::new(false));
        let wanted = release.clone();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let upstream = Upstream::at(&address, move |seen, out| {
            if seen.body["params"]["arguments"]["text"] == "slow" {
                let _ = out.write_all(STREAM.as_bytes());
                while !wanted.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Reply::Last(format!("data: {}\n\n", seen.says("slow")));
            }
            // No connection is kept, so that each request needs one of its own.
            match usual_of(seen) {
                Reply::Bytes(bytes) => Reply::Last(bytes.replacen("\r\n", "\r\nConnection: close\r\n", 1)),
                other => other,
            }
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
        let (mut slow, mut other) = (daemon.ws("far"), daemon.ws("far"));
        slow.send(&echo(2, "slow").to_string());
        wait("the call", || (upstream.asked("tools/call").len() == 1).then_some(()));
        // It takes no more connections, and goes on with those that it has.
        drop(upstream);
        let refused = wait("the refusal", || {
            let answer = other.ask(&echo(3, "refused"));
            answer["error"].is_object().then_some(answer)
        });
        assert!(error(&refused).contains("cannot be reached: Connection refused"), "{refused}");
        release.store(true, SeqCst);
        assert_eq!(said(&slow.next().unwrap()), "slow");
    }

    #[test]
    fn a_server_that_closes_what_is_kept_as_the_next_call_comes_loses_one_call() {
        let used = Mutex::new(std::collections::BTreeSet::new());
        let upstream = Upstream::new(move |seen, _| match used.lock().unwrap().insert(seen.connection) {
            true => Reply::Usual,
            // This connection was used before.
            false => Reply::Done,
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
        let mut ws = daemon.ws("far");
        let answers: Vec<Value> = (0..40).map(|n| ws.ask(&echo(n + 2, "hello"))).collect();
        let failed: Vec<&Value> = answers.iter().filter(|a| a["error"].is_object()).collect();
        assert!(failed.len() <= 1, "{} of 40", failed.len());
        assert!(failed.iter().all(|a| error(a).contains("may have run")));
        // What does no harm twice is sent again.
        for n in 0..10 {
            let list = ws.ask(&json!({"jsonrpc": "2.0", "id": 900 + n, "method": "tools/list"}));
            assert!(list["result"].is_object(), "{list}");
        }
    }

    #[test]
    fn each_request_has_one_answer_whatever_the_server_calls_it() {
        let upstream = Upstream::new(|seen, _| {
            let id = &seen.body["id"];
            let with =
                |id: &str| seen.says("x").replace(&format!("\"id\":{}", seen.body["id"]), &format!("\"id\":{id}"));
            match seen.body["params"]["arguments"]["text"].as_str() {
                Some("float") => as_json(&with(&format!("{id}.0"))),
                Some("twice") => as_json(&format!("[{0},{0}]", seen.says("x"))),
                Some("other") => as_json(&format!("[{},{}]", with("777"), seen.says("x"))),
                Some("page") => as_json("<html>hello</html>"),
                _ => Reply::Usual,
            }
        });
        let scratch = Scratch::new();
        let daemon = scratch.start(&scratch.instance("t", &upstream.server("far", "")));
        let mut ws = daemon.ws("far");
        for (n, text) in ["float", "twice", "other"].into_iter().enumerate() {
            assert_eq!(said(&ws.ask(&echo(n as u64 + 2, text))), "x", "{text}");
        }
        assert!(error(&ws.ask(&echo(9, "page"))).contains("something else than the response"));
        assert_eq!(said(&ws.ask(&echo(10, "last"))), "last");
        assert_eq!(daemon.dropped("unowned_replies"), 0, "they go no further than the session");
    }
}
