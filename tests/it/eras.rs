//! The two eras of the protocol: each alone, and where they meet.

use serde_json::{Value, json};

use crate::harness::*;

const VERSION: &str = "2026-07-28";

/// A request of the modern era.
fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!(VERSION);
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "test", "version": "1"});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

fn tool(id: impl Into<Value>, name: &str, args: Value) -> Value {
    modern(id, "tools/call", json!({"name": name, "arguments": args}))
}

/// Sends a request with the headers that repeat it.
fn send(daemon: &Daemon<'_>, request: &Value) -> Raw {
    let name = request["params"]["name"].as_str().or(request["params"]["uri"].as_str());
    let name = name.map_or(String::new(), |n| format!("Mcp-Name: {n}\r\n"));
    let method = request["method"].as_str().unwrap();
    send_with(daemon, &format!("MCP-Protocol-Version: {VERSION}\r\nMcp-Method: {method}\r\n{name}"), request)
}

fn send_with(daemon: &Daemon<'_>, headers: &str, request: &Value) -> Raw {
    let body = request.to_string();
    let address = daemon.address();
    let mut raw = Raw::open(address);
    let head = format!("POST /servers/fake/mcp HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}{headers}");
    raw.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    raw
}

fn ask(daemon: &Daemon<'_>, request: &Value) -> Response {
    send(daemon, request).response()
}

#[test]
fn modern_request_meta_and_headers_are_checked_with_http_status() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    let good = tool("a", "echo", json!({"text": "x"}));
    let answer = ask(&daemon, &good);
    assert_eq!((answer.status, answer.header("mcp-session-id")), (200, None));
    assert_eq!(said(&answer.json()), "x");
    let without = |key: &str| {
        let mut request = good.clone();
        request["params"]["_meta"].as_object_mut().unwrap().remove(&format!("io.modelcontextprotocol/{key}"));
        request
    };
    let mut other = good.clone();
    other["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("v999.0.0");
    let headers = |version: &str, method: &str, name: &str| {
        let line =
            |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name}: {value}\r\n") };
        line("MCP-Protocol-Version", version) + &line("mcp-method", method) + &line("Mcp-Name", name)
    };
    for (headers, request, status, code) in [
        (headers(VERSION, "tools/call", "echo"), without("protocolVersion"), 400, -32602),
        (headers(VERSION, "tools/call", "echo"), without("clientCapabilities"), 400, -32602),
        (headers("", "tools/call", "echo"), good.clone(), 400, -32020),
        (headers(VERSION, "", "echo"), good.clone(), 400, -32020),
        (headers(VERSION, "tools/list", "echo"), good.clone(), 400, -32020),
        (headers(VERSION, "tools/call", ""), good.clone(), 400, -32020),
        (headers(VERSION, "tools/call", "Echo"), good.clone(), 400, -32020),
        (headers(VERSION, "tools/call", "echo"), other.clone(), 400, -32020),
        (headers("v999.0.0", "tools/call", "echo"), other, 400, -32022),
        (headers(VERSION, "ping", ""), modern("a", "ping", json!({})), 404, -32601),
        (headers(VERSION, "initialize", ""), modern("a", "initialize", json!({})), 404, -32601),
        (headers(VERSION, "nothing", ""), modern("a", "nothing", json!({})), 404, -32601),
        (headers(VERSION, "tools/call", "nosuch"), tool("a", "nosuch", json!({})), 200, -32602),
    ] {
        let answer = send_with(&daemon, &headers, &request).response();
        let error = answer.json();
        assert_eq!((answer.status, &error["error"]["code"]), (status, &json!(code)), "{headers}{request}");
        assert_eq!(error["id"], "a");
    }
    // Base64, and blanks around a value.
    let encoded = headers(VERSION, "tools/call", "=?base64?ZWNobw==?=  ");
    assert_eq!(send_with(&daemon, &encoded, &good).response().status, 200);
    let notification =
        json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": good["params"]["_meta"]}});
    let accepted = send_with(&daemon, &headers(VERSION, "", ""), &notification).response();
    assert_eq!((accepted.status, accepted.body.as_str()), (202, ""));
    assert_eq!(daemon.status()["sessions"], 0);
}

#[test]
fn a_server_of_both_eras_gets_a_child_for_each() {
    let scratch = Scratch::new();
    // It locks itself to the era of its first message, as some do.
    let daemon = scratch.fake(&["--modern"]);
    let mut legacy = daemon.http("fake");
    assert_eq!(daemon.server("fake")["pids"].as_array().unwrap().len(), 1);
    assert_eq!(said(&ask(&daemon, &tool(1, "era", json!({}))).json()), "modern");
    assert_eq!(said(&legacy.ask(&call(1, "era", json!({})))), "legacy");
    assert_eq!(daemon.server("fake")["pids"].as_array().unwrap().len(), 2);
    // Nothing of a request is changed but ids.
    let mut request = tool("id", "raw", json!({"n": 12345678901234567890u64}));
    request["params"]["_meta"]["x"] = json!({"y": [1.5, null]});
    let came: Value = serde_json::from_str(said(&ask(&daemon, &request).json())).unwrap();
    assert_eq!((&came["params"], &came["method"]), (&request["params"], &request["method"]));
    // Both go down with the daemon, and come back when they die.
    let child = daemon.server("fake")["pids"][1].as_i64().unwrap() as i32;
    kill(child, libc::SIGKILL);
    wait("another modern child", || {
        let pid = daemon.server("fake")["pids"][1].as_i64()? as i32;
        (pid != child).then_some(())
    });
    assert_eq!(said(&ask(&daemon, &tool(1, "era", json!({}))).json()), "modern");
}

#[test]
fn modern_payloads_arrive_byte_for_byte() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    // Numbers that a parser spoils, order, escapes, unknown members, line breaks between tokens, nulls, a long string.
    let long = "\u{20ac}\\u0000\\n".repeat(600_000);
    let text = format!(
        "{{\n  \"params\" : {{\"requestState\":\"\\u0041/\\/+=\",\"inputResponses\":null,\"name\":\"raw\",\r\n\
         \"arguments\":{{\"z\":12345678901234567890,\"a\":1.0e+2,\"a2\":-0.0,\"s\":\"{long}\"}},\"_meta\":{{\
         \"x.y/z\":{{\"k\":[1 , 2]}},\"io.modelcontextprotocol/clientCapabilities\":{{\"sampling\":{{}}}},\
         \"io.modelcontextprotocol/protocolVersion\":\"{VERSION}\"}},\"unknown\":1.50}},\"method\":\"tools/call\",\
         \"id\":\"i\",\"jsonrpc\":\"2.0\",\"more\":[]}}"
    );
    let address = daemon.address();
    let mut raw = Raw::open(address);
    let head = format!(
        "POST /servers/fake/mcp HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}MCP-Protocol-Version: {VERSION}\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: raw\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    raw.send(head.as_bytes());
    raw.send(text.as_bytes());
    let answer = raw.response();
    assert_eq!(answer.status, 200, "{}", &answer.body[..answer.body.len().min(300)]);
    let came = answer.json();
    let came = said(&came);
    // Only the id is ours, and a line break between tokens is a blank on its way down a pipe.
    let number: String = came.rsplit_once("\"id\":").unwrap().1.chars().take_while(char::is_ascii_digit).collect();
    let wanted = text.replace(['\n', '\r'], " ").replace("\"id\":\"i\"", &format!("\"id\":{number}"));
    assert!(came == wanted, "{} bytes came, {} were sent", came.len(), wanted.len());
}

#[test]
fn a_modern_client_is_served_by_a_legacy_server() {
    for flags in [&[][..], &["--exit-on-discover"], &["--silent-on-discover"]] {
        let scratch = Scratch::new();
        let servers = stdio("fake", flags, "start_timeout: \"2s\"");
        let daemon = scratch.start(&scratch.instance("t", &servers));
        let child = daemon.child("fake");
        let found = ask(&daemon, &modern("d", "server/discover", json!({}))).json();
        let result = &found["result"];
        assert_eq!(
            (&result["supportedVersions"], &result["resultType"]),
            (&json!([VERSION]), &json!("complete")),
            "{found}"
        );
        assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(0), &json!("private")));
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "fake");
        assert!(result["capabilities"]["logging"].is_null() && result["capabilities"]["tools"].is_object());
        let listed = ask(&daemon, &modern(1, "tools/list", json!({}))).json();
        assert_eq!((&listed["result"]["cacheScope"], &listed["result"]["ttlMs"]), (&json!("public"), &json!(300_000)));
        // The child sees a request of its own era.
        let mut request = tool(2, "raw", json!({}));
        request["params"]["_meta"]["traceparent"] = json!("t");
        let came: Value = serde_json::from_str(said(&ask(&daemon, &request).json())).unwrap();
        assert_eq!(came["params"]["_meta"], json!({"traceparent": "t"}));
        assert_eq!(said(&ask(&daemon, &tool(3, "era", json!({}))).json()), "legacy");
        assert_eq!(daemon.child("fake"), child, "the question was put to another process");
        assert_eq!(daemon.server("fake")["pids"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn the_first_modern_client_does_not_wait_for_the_end_of_the_process_that_was_asked() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &["--ignore-eof"], "stop: (stdin: \"3s\", term: \"50ms\")");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    assert_eq!(said(&ask(&daemon, &tool(1, "era", json!({}))).json()), "legacy");
    let there = || scratch.processes().iter().filter(|(_, line)| line.contains("fake-server")).count();
    assert_eq!(there(), 2, "the process that was asked is on its way to its end");
    wait("the end of the process that was asked", || (there() == 1).then_some(()));
}

#[test]
fn the_executor_speaks_both_eras() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"fake\": Exec(allow: [\"echo\"])"));
    let found = ask(&daemon, &modern("d", "server/discover", json!({}))).json();
    assert_eq!(found["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mcpdaemon-exec");
    let answer = ask(&daemon, &tool(1, "execute", json!({"command": "echo", "args": ["hi"]}))).json();
    assert_eq!((&answer["result"]["resultType"], said(&answer)), (&json!("complete"), "hi\n"));
    assert_eq!(ask(&daemon, &modern(1, "prompts/list", json!({}))).status, 404);
}

#[test]
fn modern_only_server_refuses_initialize() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern", "--no-legacy"]);
    assert_eq!(said(&ask(&daemon, &tool(1, "era", json!({}))).json()), "modern");
    for method in ["GET", "DELETE"] {
        let mut raw = Raw::open(daemon.address());
        let head = format!("{method} /servers/fake/mcp HTTP/1.1\r\nHost: {}\r\n", daemon.address());
        raw.send(format!("{head}Accept: text/event-stream\r\n\r\n").as_bytes());
        assert_eq!(raw.response().status, 405);
    }
    let mut ws = daemon.ws("fake");
    let refused = ws.ask(&initialize(json!(1)));
    assert_eq!(refused["error"]["code"], -32022);
    assert_eq!(refused["error"]["data"], json!({"supported": [VERSION], "requested": "2025-11-25"}));
}

#[test]
fn modern_disconnect_cancels_the_request() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    ask(&daemon, &tool(0, "echo", json!({})));
    let (mut request, other) = (tool(1, "progress", json!({"n": 1000, "ms": 20})), tool(1, "sleep", json!({"n": 400})));
    request["params"]["_meta"]["progressToken"] = json!("mine");
    let mut raw = send(&daemon, &request);
    assert_eq!(raw.head().header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(raw.event().unwrap()["params"]["progressToken"], "mine");
    let mut waiting = send(&daemon, &other);
    drop(raw);
    wait("the cancellation", || daemon.log().contains("[fake] cancelled ").then_some(()));
    assert_eq!(said(&waiting.response().json()), "slept", "another with the same id is not meant");
    wait("nothing in flight", || (daemon.server("fake")["requests"]["in_flight"] == 0).then_some(()));
}

#[test]
fn subscriptions_listen_is_acknowledged_filtered_and_outlives_a_child() {
    for flags in [&["--modern"][..], &[]] {
        let scratch = Scratch::new();
        let quick = "restart: (delay: \"50ms\", max_delay: \"200ms\", burst: 100)";
        let daemon = scratch.start(&scratch.instance("t", &stdio("fake", flags, quick)));
        let listen = |id: Value, what: Value| {
            let mut raw = send(&daemon, &modern(id, "subscriptions/listen", json!({"notifications": what})));
            assert_eq!(raw.head().status, 200);
            raw
        };
        let tag = |message: &Value| message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
        let mut tools = listen(json!("t"), json!({"toolsListChanged": true, "promptsListChanged": true}));
        let ack = tools.event().unwrap();
        assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
        assert_eq!((tag(&ack), &ack["params"]["notifications"]), (json!("t"), &json!({"toolsListChanged": true})));
        let mut resources = listen(json!(7), json!({"resourceSubscriptions": ["test://a"]}));
        let ack = resources.event().unwrap();
        assert_eq!(ack["params"]["notifications"], json!({"resourceSubscriptions": ["test://a"]}));
        ask(&daemon, &tool(1, "list_changed", json!({})));
        ask(&daemon, &tool(1, "updated", json!({"uri": "test://b"})));
        ask(&daemon, &tool(1, "updated", json!({"uri": "test://a"})));
        let changed = tools.event().unwrap();
        assert_eq!((changed["method"].as_str(), tag(&changed)), (Some("notifications/tools/list_changed"), json!("t")));
        let updated = resources.event().unwrap();
        assert_eq!((updated["params"]["uri"].as_str(), tag(&updated)), (Some("test://a"), json!(7)));
        // The next child hears of them again; the client is told that the list may differ, and not acknowledged twice.
        let last = daemon.server("fake")["pids"].as_array().unwrap().last().unwrap().as_i64().unwrap() as i32;
        kill(last, libc::SIGKILL);
        let changed = tools.event().unwrap();
        assert_eq!((changed["method"].as_str(), tag(&changed)), (Some("notifications/tools/list_changed"), json!("t")));
        wait("the update", || {
            let _ = ask(&daemon, &tool(1, "updated", json!({"uri": "test://a"})));
            daemon.log().matches("updated test://a").count().checked_sub(8)
        });
        assert_eq!(tag(&resources.event().unwrap()), 7);
        // A drain ends them with their result, at once.
        kill(daemon.pid, libc::SIGTERM);
        let end = wait("the end", || tools.event().filter(|m| m.get("result").is_some()));
        assert_eq!((&end["id"], &end["result"]["resultType"]), (&json!("t"), &json!("complete")));
        scratch.gone();
    }
}

#[test]
fn log_level_in_meta_gets_log_messages_unless_in_doubt() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    let asking = |id: &str, n: i32| {
        let mut request = tool(id, "log_after", json!({"n": n}));
        request["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = json!("info");
        request
    };
    let alone = ask(&daemon, &asking("a", 0));
    assert_eq!(alone.messages().len(), 2, "{alone:?}");
    // Two at once: whose is it?
    let (mut one, mut two) = (send(&daemon, &asking("a", 300)), send(&daemon, &asking("b", 300)));
    assert_eq!((one.response().messages().len(), two.response().messages().len()), (1, 1));
    assert_eq!(daemon.dropped("unowned_notifications"), 2);
    assert_eq!(ask(&daemon, &tool("c", "log_after", json!({"n": 0}))).messages().len(), 1, "did not ask");
}

#[test]
fn the_modern_era_is_spoken_on_a_websocket_as_well() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    let mut ws = daemon.ws("fake");
    assert_eq!(said(&ws.ask(&tool("1", "era", json!({})))), "modern");
    assert_eq!(ws.ask(&modern(1, "ping", json!({})))["error"]["code"], -32601);
    ws.send(&modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).to_string());
    assert_eq!(ws.next().unwrap()["method"], "notifications/subscriptions/acknowledged");
    ws.send(&tool("2", "list_changed", json!({})).to_string());
    let both = [ws.next().unwrap(), ws.next().unwrap()];
    assert!(both.iter().any(|m| m["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "l"), "{both:?}");
    ws.send(&tool("3", "sleep", json!({"n": 60_000})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    // With the metadata of its era, and without.
    let mut cancel = modern(0, "notifications/cancelled", json!({"requestId": "3"}));
    cancel.as_object_mut().unwrap().remove("id");
    ws.send(&cancel.to_string());
    wait("the cancellation", || daemon.log().contains("[fake] cancelled ").then_some(()));
}

#[test]
fn mcp_param_headers_are_checked_against_the_tool_schema() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    let request = tool(1, "echo", json!({"text": "wörld", "zone": "eu"}));
    let base = format!("MCP-Protocol-Version: {VERSION}\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n");
    for (more, status) in [
        ("Mcp-Param-Zone: eu\r\n", 200),
        ("Mcp-Param-Zone: =?base64?ZXU=?=\r\nMcp-Param-Other: ignored\r\n", 200),
        ("Mcp-Param-Zone: us\r\n", 400),
        ("", 400),
    ] {
        let answer = send_with(&daemon, &format!("{base}{more}"), &request).response();
        assert_eq!(answer.status, status, "{more}: {answer:?}");
    }
    // What a server may take for the argument, or for the name, is not what the headers say.
    for arguments in [
        json!({"text": "x", "zone": "eu", "Zone": "us"}),
        json!({"text": "x", "zone": "eu", "zo_ne": "us"}),
        json!({"text": "x", "zone": "eu", "zone\u{0}": "us"}),
        json!([{"text": "x", "zone": "us"}]),
    ] {
        let request = tool(1, "echo", arguments);
        let answer = send_with(&daemon, &format!("{base}Mcp-Param-Zone: eu\r\n"), &request).response();
        assert_eq!(answer.status, 400, "{request}: {answer:?}");
    }
    for name in [json!(["echo"]), json!({"echo": 1}), json!(1), Value::Null] {
        let mut request = tool(1, "echo", json!({"text": "x", "zone": "eu"}));
        request["params"]["name"] = name;
        for named in ["Mcp-Name: echo\r\n", ""] {
            let fields =
                format!("MCP-Protocol-Version: {VERSION}\r\nMcp-Method: tools/call\r\n{named}Mcp-Param-Zone: eu\r\n");
            let answer = send_with(&daemon, &fields, &request).response();
            assert_eq!(answer.status, 400, "{request}: {answer:?}");
        }
    }
}

#[test]
fn a_client_that_leaves_while_a_server_is_asked_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", &stdio("fake", &["--silent-on-discover"], "start_timeout: \"1s\"")));
    let before = scratch.processes().len();
    for n in 0..5 {
        drop(send(&daemon, &tool(n, "era", json!({}))));
    }
    // On a WebSocket a subscription can be given up meanwhile, and its id is free again.
    let mut ws = daemon.ws("fake");
    let listen = modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).to_string();
    ws.send(&listen);
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#);
    assert_eq!(said(&ask(&daemon, &tool(9, "era", json!({}))).json()), "legacy");
    wait("one child", || (scratch.processes().len() == before).then_some(()));
    assert_eq!(daemon.log().matches("started pid").count(), 2, "one question for all of them");
    ws.send(&listen);
    assert_eq!(ws.next().unwrap()["method"], "notifications/subscriptions/acknowledged");
    ws.send(&tool(1, "echo", json!({"text": "x"})).to_string());
    assert_eq!(said(&ws.next().unwrap()), "x", "no second acknowledgement");
}

#[test]
fn modern_words_do_not_show_in_legacy_answers() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    ask(&daemon, &tool(1, "echo", json!({})));
    let mut ws = daemon.ws("fake");
    // A client that asks first, and then opens in the legacy way.
    assert!(ws.ask(&modern(0, "server/discover", json!({})))["result"].is_object());
    let hello = ws.ask(&initialize(json!(1)));
    assert_eq!(hello["result"]["protocolVersion"], "2025-11-25", "{hello}");
    ws.send(&call(2, "list_changed", json!({})).to_string());
    let both = [ws.next().unwrap(), ws.next().unwrap()];
    assert!(both.iter().any(|m| m["method"] == "notifications/tools/list_changed"), "{both:?}");
    // The other way round as well.
    assert_eq!(said(&ws.ask(&tool(3, "era", json!({})))), "modern");
    ws.send(&call(4, "list_changed", json!({})).to_string());
    let both = [ws.next().unwrap(), ws.next().unwrap()];
    assert!(both.iter().any(|m| m["method"] == "notifications/tools/list_changed"), "{both:?}");
    // A request named like a notification could cancel what others have open.
    let mut waiting = send(&daemon, &tool(7, "sleep", json!({"n": 300})));
    for n in 1..12 {
        let answer = ask(&daemon, &modern("x", "notifications/cancelled", json!({"requestId": n})));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(-32601)));
    }
    assert_eq!(said(&waiting.response().json()), "slept");
    assert!(!daemon.log().contains("cancelled "));
}

#[test]
fn same_subscription_id_twice_is_refused() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--modern"]);
    let mut ws = daemon.ws("fake");
    let listen = modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).to_string();
    for _ in 0..5 {
        ws.send(&listen);
        assert_eq!(ws.next().unwrap()["method"], "notifications/subscriptions/acknowledged");
        ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#);
    }
    ws.send(&listen);
    assert_eq!(ws.next().unwrap()["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(daemon.server("fake")["sessions"], 1);
    let mut changes = 0;
    for request in [tool(1, "list_changed", json!({})), tool(2, "echo", json!({}))] {
        ws.send(&request.to_string());
        let mut message = ws.next().unwrap();
        while message["id"] != request["id"] {
            changes += 1;
            message = ws.next().unwrap();
        }
    }
    assert_eq!(changes, 1);
    // Over HTTP its end is the end of the connection, and the child hears of it.
    let before = daemon.log().matches("[fake] cancelled ").count();
    let mut raw = send(&daemon, &serde_json::from_str(&listen).unwrap());
    assert_eq!(raw.head().status, 200);
    raw.event().unwrap();
    drop(raw);
    wait("the cancellation", || (daemon.log().matches("[fake] cancelled ").count() > before).then_some(()));
    let many: Vec<String> = (0..2000).map(|n| format!("test://{n}")).collect();
    let refused =
        ask(&daemon, &modern(1, "subscriptions/listen", json!({"notifications": {"resourceSubscriptions": many}})));
    assert_eq!(refused.json()["error"]["code"], -32602);
}

#[test]
fn a_reload_ends_the_subscriptions_that_it_cuts_off() {
    let scratch = Scratch::new();
    let other = stdio("other", &[], "");
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &["--modern"], "") + &other)));
    let listen = || {
        let mut raw =
            send(&daemon, &modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})));
        assert_eq!(raw.head().status, 200);
        assert_eq!(raw.event().unwrap()["method"], "notifications/subscriptions/acknowledged");
        raw
    };
    let ends = |mut raw: Raw| {
        let last = wait("its result", || raw.event().filter(|m| m.get("result").is_some()));
        assert_eq!((&last["id"], raw.event()), (&json!("l"), None));
    };
    let replaced = listen();
    scratch.instance("t", &(stdio("fake", &["--modern", "--tool", "new"], "") + &other));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    ends(replaced);
    let removed = listen();
    scratch.instance("t", &other);
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    ends(removed);
}

#[test]
fn unanswered_discover_and_untranslatable_requests_do_not_hang() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &["--modern", "--no-list"], "request_timeout: \"1s\"");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    // A child that does not list its tools: the call is passed on unchecked.
    assert_eq!(said(&ask(&daemon, &tool(1, "echo", json!({"text": "on"}))).json()), "on");
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    // Tasks of one client could be another's.
    for request in [modern(1, "tasks/get", json!({"taskId": "t"})), modern(1, "tasks/cancel", json!({"taskId": "t"}))] {
        let headers = format!(
            "MCP-Protocol-Version: {VERSION}\r\nMcp-Method: {}\r\nMcp-Name: t\r\n",
            request["method"].as_str().unwrap()
        );
        assert_eq!(send_with(&daemon, &headers, &request).response().status, 404);
    }
}
