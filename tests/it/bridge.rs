//! The bridge: every server of an instance as one, over every transport and in both eras.

use serde_json::{Value, json};

use crate::harness::*;

/// A fake server that has what a file says.
fn with(scratch: &Scratch, name: &str, more: &str, mut catalogue: Value) -> String {
    catalogue["me"] = json!(name);
    let path = scratch.write(&format!("{name}.json"), &catalogue.to_string());
    stdio(name, &["--catalogue", path.to_str().unwrap()], more)
}

/// Gives a server something else.
fn change(scratch: &Scratch, name: &str, of: &str, to: Value) {
    let mut catalogue: Value = serde_json::from_str(&scratch.file(&format!("{name}.json"))).unwrap();
    catalogue[of] = to;
    scratch.write(&format!("{name}.json"), &catalogue.to_string());
}

fn tools(names: &[&str]) -> Value {
    names.iter().map(|n| json!({"name": n, "inputSchema": {"type": "object"}})).collect()
}

/// A session of the bridge by HTTP.
fn open(daemon: &Daemon<'_>) -> Http {
    Http::open_at(daemon.address(), "/mcp")
}

fn ask(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": method, "method": method, "params": params})
}

/// The names in a list.
fn names(answer: &Value) -> Vec<String> {
    let result = answer["result"].as_object().unwrap_or_else(|| panic!("{answer}"));
    let list = result.values().find_map(Value::as_array).unwrap();
    let name =
        |item: &Value| ["uri", "uriTemplate", "name"].iter().find_map(|k| item.get(*k)?.as_str().map(str::to_owned));
    list.iter().map(|item| name(item).unwrap()).collect()
}

fn listed(http: &mut Http, method: &str) -> Vec<String> {
    names(&http.ask(&ask(method, json!({}))))
}

#[test]
fn bridge_lists_and_calls_tools_prompts_resources_templates_and_completions() {
    let scratch = Scratch::new();
    // Every member that a specification knows, and some that none does.
    let tool = json!({
        "title": "T", "icons": [{"src": "data:,x", "sizes": ["48x48"]}], "execution": {"taskSupport": "optional"},
        "name": "a__b", "description": "D", "inputSchema": {"type": "object", "properties": {"name": {"const": 1e21}}},
        "outputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true, "title": "A"},
        "_meta": {"x": 1, "name": "inner"}, "unknown": [12345678901234567890u64],
    });
    let files = with(
        &scratch,
        "files",
        "",
        json!({
            "tools": [tool], "prompts": [{"name": "sum", "title": "S", "arguments": [{"name": "x"}], "_meta": {"p": 1}}],
            "resources": [{"uri": "file:///a", "name": "a", "mimeType": "text/plain", "annotations": {"priority": 1}}],
            "resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "any", "_meta": {"t": 1}}],
            "gives": "file:///", "instructions": "files first",
        }),
    );
    let plain = with(&scratch, "plain", "", json!({"tools": tools(&["b"]), "capabilities": {"tools": {}}}));
    let exec = "\"run\": Exec(allow: [\"echo\"]),";
    let daemon = scratch.start(&scratch.instance("t", &format!("{files}{plain}{exec}")));
    let mut http = open(&daemon);
    assert_eq!(listed(&mut http, "tools/list"), ["files__a__b", "plain__b", "run__execute"]);
    let all = http.ask(&ask("tools/list", json!({})));
    let mut expected = tool.clone();
    expected["name"] = json!("files__a__b");
    assert_eq!(all["result"]["tools"][0], expected, "every member is kept");
    assert!(all["result"]["tools"][2].get("outputSchema").is_some());
    // Each is called by its name, and answers with everything it said.
    let answer = http.ask(&call(1, "files__a__b", json!({"n": 12345678901234567890u64})));
    assert_eq!(said(&answer), "files \"a__b\" {\"n\":12345678901234567890}");
    assert_eq!((&answer["result"]["isError"], &answer["result"]["_meta"]), (&json!(false), &json!({"own": 1})));
    let failed = http.ask(&call(1, "plain__b", json!({"fail": true})));
    assert_eq!((said(&failed), &failed["result"]["isError"]), ("plain \"b\" {\"fail\":true}", &json!(true)));
    let ran = http.ask(&call(1, "run__execute", json!({"command": "echo", "args": ["hi"]})));
    assert_eq!(said(&ran), "hi\n");
    for unknown in ["b", "files__", "files__nothing", "nobody__b", "__", "plain"] {
        let answer = http.ask(&call(1, unknown, json!({})));
        assert_eq!(answer["error"]["code"], -32602, "{unknown}: {answer}");
    }
    assert_eq!(http.ask(&ask("tools/call", json!({})))["error"]["code"], -32602);

    assert_eq!(listed(&mut http, "prompts/list"), ["files__sum"]);
    let prompt = http.ask(&ask("prompts/get", json!({"name": "files__sum", "arguments": {"x": "1"}})));
    assert_eq!(prompt["result"]["messages"][0]["content"]["text"], "files \"sum\"");
    assert_eq!(http.ask(&ask("prompts/get", json!({"name": "sum"})))["error"]["code"], -32602);

    assert_eq!(listed(&mut http, "resources/list"), ["file:///a"]);
    assert_eq!(listed(&mut http, "resources/templates/list"), ["file:///{path}"]);
    for uri in ["file:///a", "file:///by/template"] {
        let read = http.ask(&ask("resources/read", json!({"uri": uri})));
        assert_eq!(read["result"]["contents"][0]["text"], format!("files {uri}"), "{read}");
    }
    let missing = http.ask(&ask("resources/read", json!({"uri": "other:x"})));
    assert_eq!(missing["error"]["code"], -32002, "{missing}");
    for (reference, value) in [
        (json!({"type": "ref/prompt", "name": "files__sum"}), "files sum"),
        (json!({"type": "ref/resource", "uri": "file:///{path}"}), "files file:///{path}"),
    ] {
        let params = json!({"ref": reference, "argument": {"name": "x", "value": "a"}});
        let answer = http.ask(&ask("completion/complete", params));
        assert_eq!(answer["result"]["completion"]["values"], json!([value]), "{answer}");
    }
    let tool = json!({"ref": {"type": "ref/tool", "name": "x"}});
    assert_eq!(http.ask(&ask("completion/complete", tool))["error"]["code"], -32602);
    assert_eq!(http.ask(&ask("ping", json!({})))["result"], json!({}));
    assert_eq!(http.ask(&ask("nothing/there", json!({})))["error"]["code"], -32601);
    // What was done is counted where it was done.
    assert!(daemon.server("files")["requests"]["total"].as_u64().unwrap() >= 6);
    assert_eq!(daemon.status()["sessions"], 1);
}

#[test]
fn bridge_initialize_answers_over_http_websocket_and_sse() {
    let scratch = Scratch::new();
    let one = with(&scratch, "one", "", json!({"tools": tools(&["x"]), "instructions": "be \"nice\""}));
    let daemon = scratch.start(&scratch.instance("t", &one));
    let mut raw = Raw::open(daemon.address());
    let body = initialize(json!("i")).to_string();
    let head =
        format!("POST /mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}Content-Length: {}\r\n\r\n", daemon.address(), body.len());
    raw.send(&[head.as_bytes(), body.as_bytes()].concat());
    let hello = raw.response().messages().pop().unwrap();
    let result = &hello["result"];
    assert_eq!((&hello["id"], &result["protocolVersion"]), (&json!("i"), &json!("2025-11-25")));
    assert_eq!(
        (&result["serverInfo"]["name"], &result["serverInfo"]["title"]),
        (&json!("mcpdaemon"), &json!("All servers of t"))
    );
    assert_eq!(
        result["capabilities"],
        json!({"extensions": {"io.modelcontextprotocol/ui": {}}, "completions": {}, "prompts": {"listChanged": true}, "tools": {"listChanged": true},
            "resources": {"listChanged": true, "subscribe": true}})
    );
    assert_eq!(result["instructions"], "Server 'one': be \"nice\"");
    // WebSocket, with the same session for everything.
    let mut ws = Ws::open(daemon.address(), "/ws/mcp");
    ws.ask(&initialize(json!(0)));
    assert_eq!(names(&ws.ask(&ask("tools/list", json!({})))), ["one__x"]);
    assert_eq!(said(&ws.ask(&call("é", "one__x", json!({})))), "one \"x\" {}");
    // HTTP+SSE: the place to post to is the bridge's own.
    let mut sse = Raw::open(daemon.address());
    sse.send(
        format!("GET /sse HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", daemon.address()).as_bytes(),
    );
    assert_eq!(sse.head().status, 200);
    let first = sse.chunk().unwrap();
    let place = first.lines().find_map(|l| l.strip_prefix("data: ")).unwrap().to_owned();
    assert!(place.starts_with("/message?sessionId="), "{first}");
    for message in [initialize(json!(0)), call(7, "one__x", json!({}))] {
        let (body, mut post) = (message.to_string(), Raw::open(daemon.address()));
        let head = format!(
            "POST {place} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            daemon.address(),
            body.len()
        );
        post.send(&[head.as_bytes(), body.as_bytes()].concat());
        assert_eq!(post.response().status, 202);
    }
    assert_eq!(sse.event().unwrap()["result"]["serverInfo"]["name"], "mcpdaemon");
    assert_eq!(said(&sse.event().unwrap()), "one \"x\" {}");
    // A bridge is not for everybody.
    std::fs::write(scratch.path("t.ron"), scratch.file("t.ron").replacen('(', "(bridge: None, ", 1)).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert_eq!(ws.close_code(), Some(1001));
    let gone = get(daemon.address(), "/mcp");
    assert_eq!(gone.status, 404);
    assert!(gone.body.contains("bridge: None"), "{gone:?}");
}

#[test]
fn bridge_names_by_prefix_first_priority_and_error() {
    let same = json!({"tools": tools(&["both", "own"]), "prompts": [{"name": "both"}]});
    let file = |scratch: &Scratch, bridge: &str| {
        let mut other = same.clone();
        other["tools"][1]["name"] = json!("other");
        let servers = with(scratch, "a", "", same.clone()) + &with(scratch, "b", "", other);
        scratch.instance_with("t", &format!("bridge: {bridge},"), &servers)
    };
    for (bridge, listed_names, both) in [
        ("Prefix", &["a__both", "a__own", "b__both", "b__other"][..], None),
        ("First", &["both", "own", "other"], Some("a \"both\" {}")),
        ("Priority([\"b\"])", &["both", "other", "own"], Some("b \"both\" {}")),
        ("Error", &["own", "other"], None),
    ] {
        let scratch = Scratch::new();
        let daemon = scratch.start(&file(&scratch, bridge));
        let mut http = open(&daemon);
        assert_eq!(listed(&mut http, "tools/list"), listed_names, "{bridge}");
        let answer = http.ask(&call(1, "both", json!({})));
        match both {
            Some(text) => assert_eq!(said(&answer), text, "{bridge}"),
            None => assert_eq!(answer["error"]["code"], -32602, "{bridge}: {answer}"),
        }
        if bridge == "Error" {
            let why = answer["error"]["message"].as_str().unwrap();
            assert!(why.contains("several servers (a, b)"), "{why}");
            let said = "'both' is in the tools of several servers, and left out: a, b";
            wait("the log", || daemon.log().contains(said).then_some(()));
            assert_eq!(listed(&mut http, "prompts/list"), [""; 0]);
        }
        // A name that was not listed yet is found all the same.
        let mut fresh = open(&daemon);
        let name = if bridge == "Prefix" { "b__other" } else { "other" };
        assert_eq!(said(&fresh.ask(&call(1, name, json!({})))), "b \"other\" {}", "{bridge}");
    }
}

#[test]
fn bridge_tool_names_are_ones_that_models_accept() {
    let scratch = Scratch::new();
    let long = "l".repeat(80);
    let odd = tools(&["with.dot", "with space", "ünïcode", &long, "__", "b__t"]);
    let servers = with(&scratch, "a", "", json!({"tools": odd}))
        + &with(&scratch, "a__b", "", json!({"tools": tools(&["t"])}))
        + &with(&scratch, "dot.ted", "", json!({"tools": tools(&["t"])}));
    for bridge in ["Prefix", "First"] {
        let daemon = scratch.start(&scratch.instance_with("t", &format!("bridge: {bridge},"), &servers));
        let mut http = open(&daemon);
        let all = listed(&mut http, "tools/list");
        assert_eq!(all.len(), if bridge == "Prefix" { 8 } else { 7 }, "{all:?}");
        let fine = |n: &String| {
            (1..=64).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        assert!(all.iter().all(fine), "{all:?}");
        // Each of them is somebody's, and nobody's twice.
        let mut reached: Vec<String> = all.iter().map(|n| said(&http.ask(&call(1, n, json!({})))).to_owned()).collect();
        reached.sort();
        reached.dedup();
        assert_eq!(reached.len(), all.len(), "{reached:?}");
        daemon.stop();
    }
}

#[test]
fn bridge_lists_the_others_while_one_server_is_down() {
    let scratch = Scratch::new();
    let good = with(&scratch, "good", "", json!({"tools": tools(&["x"])}));
    let flag = scratch.write("flag", "");
    let optional = "required: false, restart: (delay: \"50ms\", max_delay: \"100ms\", burst: 1000)";
    let bad = stdio("bad", &["--exit-while", flag.to_str().unwrap(), "--tool", "y"], optional);
    let deaf = stdio("deaf", &["--never-answer"], "required: false");
    let broken = with(&scratch, "broken", "", json!({"tools": "no list", "prompts": []}));
    let daemon = scratch.start(&scratch.instance("t", &format!("{good}{bad}{deaf}{broken}")));
    let mut http = open(&daemon);
    let stream = &mut http.stream();
    let begin = std::time::Instant::now();
    assert_eq!(listed(&mut http, "tools/list"), ["good__x"]);
    assert_eq!(said(&http.ask(&call(1, "good__x", json!({})))), "good \"x\" {}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
    // The next time nobody is waited for who was waited for in vain.
    let begin = std::time::Instant::now();
    assert_eq!(listed(&mut http, "tools/list"), ["good__x"]);
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
    // It comes: whoever missed it hears of that.
    std::fs::remove_file(&flag).unwrap();
    wait("the news", || (stream.event()?["method"] == "notifications/tools/list_changed").then_some(()));
    assert_eq!(listed(&mut http, "tools/list"), ["bad__y", "good__x"]);
    // It goes: what it had stays listed, and a call says what is wrong.
    std::fs::write(&flag, "").unwrap();
    kill(daemon.child("bad"), libc::SIGKILL);
    assert_eq!(listed(&mut http, "tools/list"), ["bad__y", "good__x"]);
    let answer = http.ask(&call(1, "bad__die", json!({"n": 1})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("server 'bad'"), "{answer}");
    assert_eq!(said(&http.ask(&call(1, "good__x", json!({})))), "good \"x\" {}");
}

#[test]
fn bridge_list_changed_is_told_once_and_lists_are_paginated() {
    let scratch = Scratch::new();
    let many: Vec<String> = (0..2500).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let servers = with(&scratch, "big", "", json!({"tools": tools(&many), "page": 700}))
        + &with(&scratch, "one", "", json!({"tools": tools(&["x"])}));
    let file = scratch.instance("t", &servers);
    let daemon = scratch.start(&file);
    let mut http = open(&daemon);
    let (mut all, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
    loop {
        let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
        let answer = http.ask(&ask("tools/list", params));
        all.extend(names(&answer));
        pages += 1;
        cursor = answer["result"]["nextCursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((all.len(), pages, all.last().unwrap().as_str()), (2501, 3, "one__x"));
    assert_eq!(http.ask(&ask("tools/list", json!({"cursor": "junk"})))["error"]["code"], -32602);
    // A server says so, a reload adds one and replaces another: one message for each moment, with the new lists behind it.
    let stream = &mut http.stream();
    let changed = |stream: &mut Raw| {
        wait("list_changed", || (stream.event()?["method"] == "notifications/tools/list_changed").then_some(()));
    };
    change(&scratch, "one", "tools", tools(&["x", "y"]));
    let mut other = daemon.http("one");
    other.ask(&call(1, "list_changed", json!({})));
    changed(stream);
    assert_eq!(listed(&mut http, "tools/list").len(), 1000);
    assert_eq!(said(&http.ask(&call(1, "one__y", json!({})))), "one \"y\" {}");
    // A hundred within a fifth of a second, of two servers, are a few.
    let mut ws = Ws::open(daemon.address(), "/ws/mcp");
    ws.ask(&initialize(json!(0)));
    for server in ["one", "big"] {
        daemon.http(server).ask(&call(1, "list_changed", json!({"n": 50, "ms": 2})));
    }
    ws.send(&call(1, "one__sleep", json!({"n": 300})).to_string());
    let mut told = 0;
    while let Some(message) = ws.next().filter(|m| m["id"] != 1) {
        assert_eq!(message["method"], "notifications/tools/list_changed");
        told += 1;
    }
    assert!((1..=30).contains(&told), "{told} messages");
    let more = with(&scratch, "two", "", json!({"tools": tools(&["z"])}));
    std::fs::write(&file, scratch.file("t.ron").replace("servers: {", &format!("servers: {{{more}"))).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    changed(stream);
    assert_eq!(said(&http.ask(&call(1, "two__z", json!({})))), "two \"z\" {}");
    std::fs::write(&file, scratch.file("t.ron").replace(&more, "")).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    let gone = http.ask(&call(1, "two__z", json!({})));
    assert_eq!(gone["error"]["code"], -32602, "{gone}");
    let resources: Vec<String> = listed(&mut http, "resources/list");
    assert!(resources.is_empty());
}

#[test]
fn bridge_resources_of_the_same_uri_and_their_updated_notifications() {
    let scratch = Scratch::new();
    let shared = json!([{"uri": "u:same", "name": "n"}]);
    let servers = with(&scratch, "a", "", json!({"tools": tools(&[]), "resources": shared, "hidden": ["u:hidden"]}))
        + &with(&scratch, "b", "", json!({"tools": tools(&[]), "resources": shared}));
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut http = open(&daemon);
    assert_eq!(listed(&mut http, "resources/list"), ["u:same", "b+u:same"]);
    for (uri, text) in [("u:same", "a u:same"), ("b+u:same", "b u:same"), ("u:hidden", "a u:hidden")] {
        let read = http.ask(&ask("resources/read", json!({"uri": uri})));
        assert_eq!(read["result"]["contents"][0]["text"], text, "{read}");
    }
    let stream = &mut http.stream();
    assert_eq!(http.ask(&ask("resources/subscribe", json!({"uri": "b+u:same"})))["result"], json!({}));
    // The server that it is of hears of it, in its own words; what it says of it is in ours.
    wait("the subscription", || daemon.log().contains("resources/subscribe u:same").then_some(()));
    for server in ["a", "b"] {
        daemon.http(server).ask(&call(1, "updated", json!({"uri": "u:same"})));
    }
    let told = wait("the update", || stream.event().filter(|e| e["method"] == "notifications/resources/updated"));
    assert_eq!(told["params"]["uri"], "b+u:same");
    assert_eq!(http.ask(&ask("resources/unsubscribe", json!({"uri": "b+u:same"})))["result"], json!({}));
    wait("the end of it", || daemon.log().contains("resources/unsubscribe u:same").then_some(()));
}

#[test]
fn tools_allow_and_deny_hold_on_the_bridge_and_elsewhere() {
    let scratch = Scratch::new();
    let all = json!({"tools": tools(&["read_a", "read_secret", "write_a"])});
    let servers = with(&scratch, "x", "tools: (allow: [\"read_*\"], deny: [\"*_secret\"])", all.clone())
        + &with(&scratch, "y", "tools: (deny: [\"write_*\"]), sharing: PerSession", all);
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut http = open(&daemon);
    assert_eq!(listed(&mut http, "tools/list"), ["x__read_a", "y__read_a", "y__read_secret"]);
    // A call without an id is no way around: nobody could answer it, so nobody gets it.
    let sneaky = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "stderr",
        "arguments": {"n": 1, "text": "sneaked in"}}});
    for server in ["x", "y"] {
        let (mut http, mut ws) = (daemon.http(server), daemon.ws(server));
        ws.ask(&initialize(json!(0)));
        ws.send(&sneaky.to_string());
        assert_eq!(http.post(&sneaky.to_string()).status, 202);
        ws.ask(&call(1, "read_a", json!({})));
        http.ask(&call(1, "read_a", json!({})));
    }
    assert_eq!(daemon.dropped("unowned_notifications"), 4);
    assert!(!daemon.log().contains("sneaked in"));
    assert_eq!(said(&http.ask(&call(1, "x__read_a", json!({})))), "x \"read_a\" {}");
    for denied in ["x__read_secret", "x__write_a", "y__write_a"] {
        let answer = http.ask(&call(1, denied, json!({})));
        assert_eq!(answer["error"]["code"], -32602, "{denied}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("may not be used here"), "{answer}");
    }
    for (server, expected) in [("x", &["read_a"][..]), ("y", &["read_a", "read_secret"])] {
        let (mut http, mut ws) = (daemon.http(server), daemon.ws(server));
        ws.ask(&initialize(json!(0)));
        assert_eq!(listed(&mut http, "tools/list"), expected);
        assert_eq!(names(&ws.ask(&ask("tools/list", json!({})))), expected);
        for client in [&mut |m: &Value| http.ask(m), &mut |m: &Value| ws.ask(m)] as [&mut dyn FnMut(&Value) -> Value; 2]
        {
            assert_eq!(client(&call(1, "write_a", json!({})))["error"]["code"], -32602);
            assert_eq!(client(&call(1, "wr\u{69}te_a", json!({})))["error"]["code"], -32602);
            assert_eq!(said(&client(&call(1, "read_a", json!({})))), format!("{server} \"read_a\" {{}}"));
        }
    }
}

#[test]
fn per_session_children_through_the_bridge() {
    let scratch = Scratch::new();
    let servers = stdio("own", &[], "sharing: PerSession(max: 2)") + &stdio("also", &[], "sharing: PerSession(max: 5)");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut sessions: Vec<Ws> = (0..2)
        .map(|_| {
            let mut ws = Ws::open(daemon.address(), "/ws/mcp");
            let mut hello = initialize(json!(0));
            hello["params"]["capabilities"] = json!({"sampling": {}});
            ws.ask(&hello);
            ws.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
            ws
        })
        .collect();
    // Each has a child that counts for itself.
    for (n, ws) in sessions.iter_mut().enumerate() {
        for round in 1..=2 + n {
            assert_eq!(said(&answer_to(ws, &call(1, "own__count", json!({})))), round.to_string());
        }
    }
    // What both children ask at once finds the client, with ids that are apart, and each answer its child.
    let ws = &mut sessions[0];
    ws.send(&call("o", "own__ask_back", json!({})).to_string());
    ws.send(&call("a", "also__ask_back", json!({})).to_string());
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    while answered.len() < 2 {
        let message = ws.next().unwrap();
        match message["method"].as_str() {
            Some("sampling/createMessage") => {
                let id = message["id"].as_str().unwrap().to_owned();
                let text = format!("for {}", id.split('/').next().unwrap());
                ws.send(&json!({"jsonrpc": "2.0", "id": id, "result": {"text": text}}).to_string());
                asked.push(id);
            }
            Some(_) => {}
            None => answered.push(format!("{} {}", message["id"], said(&message))),
        }
    }
    asked.sort();
    answered.sort();
    assert_eq!(asked, ["also/\"q1\"", "own/\"q1\""]);
    assert_eq!(answered, ["\"a\" for also", "\"o\" for own"]);
    // One more than the server takes is told so, and has the others.
    let mut third = Ws::open(daemon.address(), "/ws/mcp");
    third.ask(&initialize(json!(0)));
    let refused = answer_to(&mut third, &call(1, "own__count", json!({})));
    assert!(refused["error"]["message"].as_str().unwrap().contains("2 sessions at a time"), "{refused}");
    assert_eq!(said(&answer_to(&mut third, &call(1, "also__count", json!({})))), "1");
    // A session's end is the end of its children.
    drop(sessions.remove(1));
    wait("a place", || (daemon.server("own")["sessions"] == 1).then_some(()));
    assert_eq!(said(&answer_to(&mut third, &call(1, "own__count", json!({})))), "1");
}

/// The answer to a request, whatever else is said meanwhile.
fn answer_to(ws: &mut Ws, request: &Value) -> Value {
    ws.send(&request.to_string());
    wait("the answer", || ws.next().filter(|m| m.get("method").is_none()))
}

#[test]
fn bridge_progress_cancellation_and_session_end_reach_the_right_child() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &(stdio("a", &[], "") + &stdio("b", &[], ""))));
    let mut ws = Ws::open(daemon.address(), "/ws/mcp");
    ws.ask(&initialize(json!(0)));
    let mut request = call("p", "b__progress", json!({"n": 3}));
    request["params"]["_meta"] = json!({"progressToken": "tok"});
    ws.send(&request.to_string());
    for step in 1..=3 {
        let told = ws.next().unwrap();
        assert_eq!((&told["params"]["progressToken"], &told["params"]["progress"]), (&json!("tok"), &json!(step)));
    }
    assert_eq!(said(&ws.next().unwrap()), "done");
    ws.send(&call("n", "a__never", json!({})).to_string());
    wait("the request", || (daemon.server("a")["requests"]["in_flight"] == 1).then_some(()));
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"n"}}"#);
    wait("the cancellation", || daemon.log().contains("[a] cancelled").then_some(()));
    wait("its end", || (daemon.status()["requests"]["in_flight"] == 0).then_some(()));
    ws.send(&call("n", "b__never", json!({})).to_string());
    wait("the request", || (daemon.server("b")["requests"]["in_flight"] == 1).then_some(()));
    drop(ws);
    wait("the cancellation", || daemon.log().contains("[b] cancelled").then_some(()));
    wait("nothing open", || (daemon.status()["requests"]["in_flight"] == 0).then_some(()));
    wait("nobody there", || (daemon.status()["sessions"] == 0).then_some(()));
    // A child that dies fails its own requests, and the session lives.
    let mut http = open(&daemon);
    let died = http.ask(&call(1, "a__die", json!({"n": 3})));
    assert!(died["error"]["message"].as_str().unwrap().contains("server 'a'"), "{died}");
    assert_eq!(said(&http.ask(&call(1, "b__echo", json!({"text": "b"})))), "b");
    assert_eq!(said(&http.ask(&call(1, "a__echo", json!({"text": "a"})))), "a");
}

#[test]
fn bridge_serves_clients_of_both_eras_from_servers_of_both() {
    let scratch = Scratch::new();
    let servers = stdio("legacy", &[], "")
        + &stdio("modern", &["--modern", "--no-legacy"], "")
        + &stdio("both", &["--modern"], "");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let modern = |method: &str, mut params: Value| {
        params["_meta"] = meta.clone();
        let body = ask(method, params.clone()).to_string();
        let name = params["name"].as_str().or(params["uri"].as_str());
        let name = name.map_or(String::new(), |n| format!("Mcp-Name: {n}\r\n"));
        let mut raw = Raw::open(daemon.address());
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}Content-Length: {}\r\n\r\n",
            daemon.address(),
            body.len()
        );
        raw.send(&[head.as_bytes(), body.as_bytes()].concat());
        raw
    };
    let answer = |method: &str, params: Value| modern(method, params).response().messages().pop().unwrap();
    let found = answer("server/discover", json!({}));
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]), "{found}");
    let all = answer("tools/list", json!({}));
    assert_eq!(names(&all), ["both__echo", "legacy__echo", "modern__echo"]);
    let result = &all["result"];
    assert_eq!(
        (&result["resultType"], &result["ttlMs"], &result["cacheScope"]),
        (&json!("complete"), &json!(0), &json!("private"))
    );
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mcpdaemon", "{result}");
    for (tool, era) in [("legacy__era", "legacy"), ("modern__era", "modern"), ("both__era", "modern")] {
        let called = answer("tools/call", json!({"name": tool, "arguments": {}}));
        assert_eq!((said(&called), &called["result"]["resultType"].is_string()), (era, &(era == "legacy")), "{called}");
    }
    // What the headers repeat is checked against the tool, whatever it is called here.
    let zoned = json!({"name": "modern__echo", "arguments": {"text": "x", "zone": "here"}});
    let refused = modern("tools/call", zoned).response();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!(-32020)), "{refused:?}");
    let removed = modern("ping", json!({})).response();
    assert_eq!((removed.status, &removed.json()["error"]["code"]), (404, &json!(-32601)));
    // A client of the legacy era.
    let mut http = open(&daemon);
    assert_eq!(listed(&mut http, "tools/list"), ["both__echo", "legacy__echo", "modern__echo"]);
    for (tool, era) in [("legacy__era", "legacy"), ("modern__era", "modern"), ("both__era", "legacy")] {
        assert_eq!(said(&http.ask(&call(1, tool, json!({})))), era);
    }
    // A subscription of the modern era to changes anywhere.
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": ["u:1"]});
    let mut listen = modern("subscriptions/listen", json!({"notifications": filter}));
    assert_eq!(listen.head().status, 200);
    let first = listen.event().unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    assert_eq!(first["params"]["notifications"], json!({"toolsListChanged": true}), "nobody has that resource");
    daemon.http("legacy").ask(&call(1, "list_changed", json!({})));
    let told = listen.event().unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "subscriptions/listen");
}

#[test]
fn upgrade_keeps_sessions_of_the_bridge_and_what_they_have_open() {
    let scratch = Scratch::new();
    let servers = stdio("a", &[], "") + &stdio("own", &[], "sharing: PerSession");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut http = open(&daemon);
    let mut ws = Ws::open(daemon.address(), "/ws/mcp");
    ws.ask(&initialize(json!(0)));
    assert_eq!(said(&answer_to(&mut ws, &call(1, "own__count", json!({})))), "1");
    assert_eq!(said(&http.ask(&call(1, "a__count", json!({})))), "1");
    let mut slow = http.again();
    slow.send(&call("slow", "a__sleep", json!({"n": 1000, "text": "answered"})).to_string());
    ws.send(&call("w", "own__sleep", json!({"n": 1000, "text": "also"})).to_string());
    wait("two requests", || (daemon.status()["requests"]["in_flight"] == 2).then_some(()));
    let out = scratch.ctl(&["restart", "t"]);
    assert_eq!(code(&out), 0, "{}{}", stderr(&out), daemon.log());
    assert_eq!(said(&slow.raw.response().messages().pop().unwrap()), "answered");
    assert_eq!(said(&wait("the answer", || ws.next().filter(|m| m["id"] == "w"))), "also");
    assert_eq!(said(&answer_to(&mut ws, &call(1, "own__count", json!({})))), "2");
    assert_eq!(said(&http.ask(&call(1, "a__count", json!({})))), "2");
    assert_eq!(listed(&mut http, "tools/list"), ["a__echo", "own__echo"]);
    wait("nothing open", || (daemon.status()["requests"]["in_flight"] == 0).then_some(()));
    assert_eq!(daemon.status()["sessions"], 2);
    drop(ws);
    wait("one session", || (daemon.status()["sessions"] == 1).then_some(()));
}

#[test]
fn the_executors_own_protocol_is_spoken_on_the_bridge() {
    let scratch = Scratch::new();
    let servers = format!("{}\"run\": Exec(allow: [\"echo\", \"sleep\"], sessions: 2),", stdio("fake", &[], ""));
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let plain = || Ws::try_open(daemon.address(), "/ws/mcp", &[]).unwrap();
    let mut ws = plain();
    assert_eq!(ws.next().unwrap()["method"], "connected");
    ws.send(&ask("execute", json!({"command": "echo 'MCP Local Test'"})).to_string());
    let line = wait("its line", || ws.next().filter(|m| m["method"] == "process.output"));
    assert_eq!(line["params"]["data"], "MCP Local Test\n");
    let end = wait("its end", || ws.next().filter(|m| m["method"] == "process.completed"));
    assert_eq!(end["params"]["exit_code"], 0);
    // Beside MCP.
    ws.ask(&initialize(json!(0)));
    assert_eq!(said(&ws.ask(&call(1, "fake__echo", json!({"text": "x"})))), "x");
    let _second = plain();
    let mut third = plain();
    assert_eq!(third.next().unwrap()["error"]["code"], -32003);
    assert_eq!(third.close_code(), Some(1008));
    // Clients of MCP are others.
    let mut mcp = Ws::open(daemon.address(), "/ws/mcp");
    assert_eq!(mcp.ask(&initialize(json!(0)))["result"]["serverInfo"]["name"], "mcpdaemon");
    ws.send(&ask("execute", json!({"command": "sleep 600"})).to_string());
    wait("the command", || scratch.processes().iter().any(|(_, l)| l.contains("sleep 600")).then_some(()));
    drop(ws);
    wait("its end", || (!scratch.processes().iter().any(|(_, l)| l.contains("sleep 600"))).then_some(()));
}

#[test]
fn bridge_configuration_that_makes_no_sense_is_refused() {
    let scratch = Scratch::new();
    for (more, why) in [
        ("bridge: Prefx,", "unknown kind of bridge 'Prefx', did you mean 'Prefix'?"),
        ("bridge: Priority([\"nobody\"]),", "there is no server 'nobody' in this instance"),
        ("bridge: Priority,", "expected Prefix, Prefix(longest: 45), First, Priority"),
    ] {
        let file = scratch.instance_with("t", more, &stdio("a", &[], ""));
        let out = scratch.run(mcpdaemon(), &["-t", "-c", file.to_str().unwrap()]);
        assert_eq!(code(&out), 78);
        assert!(stderr(&out).contains(why), "{more}: {}", stderr(&out));
    }
    let wrong = scratch.instance("t", &stdio("a", &[], "tools: (alow: [\"x\"])"));
    let out = scratch.run(mcpdaemon(), &["-t", "-c", wrong.to_str().unwrap()]);
    assert!(stderr(&out).contains("unknown key 'alow', did you mean 'allow'?"), "{}", stderr(&out));
}

/// An upgrade request, an answered handshake and what is sent behind it in one go, without waiting for anything.
fn rush(daemon: &Daemon<'_>, messages: &[Value]) {
    let mut raw = Raw::open(daemon.address());
    let head = "GET /ws/mcp HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: mcp\r\n\r\n";
    raw.send(head.as_bytes());
    assert_eq!(raw.head().status, 101);
    let mut frames = Vec::new();
    for message in messages {
        let text = message.to_string();
        frames.extend([0x81, 0x80 | 126, (text.len() >> 8) as u8, text.len() as u8, 0, 0, 0, 0]);
        frames.extend_from_slice(text.as_bytes());
    }
    // Good-bye, in the same breath.
    frames.extend([0x88, 0x82, 0, 0, 0, 0, 3, 232]);
    raw.send(&frames);
    raw.rest();
}

#[test]
fn session_that_ends_during_a_bridge_list_leaves_no_child() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("own", &[], "sharing: PerSession(max: 3, spare: 0)")));
    let before = scratch.processes().len();
    for _ in 0..10 {
        rush(&daemon, &[initialize(json!(0)), ask("tools/list", json!({})), call(1, "own__count", json!({}))]);
    }
    wait("the end of all children", || (scratch.processes().len() == before).then_some(()));
    wait("the end of all sessions", || (daemon.server("own")["sessions"] == 0).then_some(()));
    let mut own = daemon.http("own");
    assert_eq!(said(&own.ask(&call(1, "count", json!({})))), "1");
}

#[test]
fn per_session_child_on_the_bridge_ends_when_idle() {
    let scratch = Scratch::new();
    let own = stdio("own", &[], "sharing: PerSession(idle: \"1s\", spare: 0)");
    let daemon = scratch.start(&scratch.instance("t", &own));
    let mut http = open(&daemon);
    // Another session with a child of its own, which is not used, shows how its idle time passes.
    let sessions = || daemon.server("own")["sessions"].as_u64();
    let mut count = 0;
    for _ in 0..2 {
        daemon.http("own").ask(&call(1, "count", json!({})));
        wait("the end of the one that is not used", || {
            count += 1;
            assert_eq!(said(&http.ask(&call(1, "own__count", json!({})))), count.to_string());
            (sessions() == Some(1)).then_some(())
        });
    }
    // And no longer, while its session goes on.
    wait("its end", || (sessions() == Some(0)).then_some(()));
    assert_eq!(said(&http.ask(&call(1, "own__count", json!({})))), "1");
}

#[test]
fn tools_of_a_per_session_child_are_listed_to_its_session_alone() {
    let scratch = Scratch::new();
    let own = with(&scratch, "own", "sharing: PerSession", json!({"tools": [], "resources": [], "pid": "resources"}));
    let daemon = scratch.start(&scratch.instance("t", &own));
    let (mut a, mut b) = (open(&daemon), open(&daemon));
    let of_a = listed(&mut a, "resources/list");
    assert_eq!(of_a.len(), 1);
    change(&scratch, "own", "silent", json!("resources"));
    assert_eq!(listed(&mut b, "resources/list"), [""; 0]);
    // What was asked in vain is not waited for again.
    let begin = std::time::Instant::now();
    assert_eq!(listed(&mut b, "resources/list"), [""; 0]);
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(listed(&mut a, "resources/list"), of_a, "what it said before stands");
    change(&scratch, "own", "silent", json!(null));
    let of_b = wait("the other one's", || Some(listed(&mut b, "resources/list")).filter(|l| !l.is_empty()));
    assert_ne!(of_a, of_b);
    let read = b.ask(&ask("resources/read", json!({"uri": of_a[0]})));
    assert_eq!(read["error"]["code"], -32002, "{read}");
}

#[test]
fn upgrade_keeps_bridge_connections_and_subscriptions() {
    let scratch = Scratch::new();
    let same = json!({"tools": tools(&[]), "resources": [{"uri": "u:same", "name": "n"}]});
    let servers = with(&scratch, "a", "", same.clone()) + &with(&scratch, "b", "", same);
    let gone = stdio("gone", &[], "");
    let file = scratch.instance("t", &(servers.clone() + &gone));
    let daemon = scratch.start(&file);
    let mut ws = Ws::open(daemon.address(), "/ws/mcp");
    ws.ask(&initialize(json!(0)));
    assert_eq!(said(&answer_to(&mut ws, &call(1, "gone__echo", json!({"text": "x"})))), "x");
    answer_to(&mut ws, &ask("resources/list", json!({})));
    assert_eq!(answer_to(&mut ws, &ask("resources/subscribe", json!({"uri": "b+u:same"})))["result"], json!({}));
    // A subscription of the other era, over HTTP.
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"_meta": meta, "notifications": {"toolsListChanged": true}});
    let body = ask("subscriptions/listen", params).to_string();
    let mut listen = Raw::open(daemon.address());
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: \
         subscriptions/listen\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    listen.send(&[head.as_bytes(), body.as_bytes()].concat());
    assert_eq!(listen.head().status, 200);
    assert_eq!(listen.event().unwrap()["method"], "notifications/subscriptions/acknowledged");
    let out = scratch.ctl(&["restart", "t"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    daemon.http("a").ask(&call(1, "list_changed", json!({})));
    assert_eq!(listen.event().unwrap()["method"], "notifications/tools/list_changed");
    // The client still hears by the name that it knows.
    daemon.http("b").ask(&call(1, "updated", json!({"uri": "u:same"})));
    let told = wait("the update", || ws.next().filter(|m| m["method"] == "notifications/resources/updated"));
    assert_eq!(told["params"]["uri"], "b+u:same");
    std::fs::write(&file, scratch.file("t.ron").replace(&gone, "")).unwrap();
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert_eq!(answer_to(&mut ws, &call(1, "gone__echo", json!({})))["error"]["code"], -32602);
    assert_eq!(answer_to(&mut ws, &ask("ping", json!({})))["result"], json!({}), "the connection lives");
    let given = answer_to(&mut ws, &ask("resources/unsubscribe", json!({"uri": "b+u:same"})));
    assert_eq!(given["result"], json!({}));
    wait("the child to hear of it", || daemon.log().contains("[b] resources/unsubscribe u:same").then_some(()));
}

#[test]
fn only_who_uses_an_executor_takes_its_places() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"run\": Exec(allow: [\"echo\", \"sleep\"], sessions: 2),"));
    // Sessions of the bridge that do not: they take none.
    let mut idle: Vec<Http> = (0..3).map(|_| open(&daemon)).collect();
    assert_eq!(listed(&mut idle[0], "tools/list"), ["run__execute"]);
    let mut own = daemon.ws("run");
    let echo = call(1, "execute", json!({"command": "echo", "args": ["own"]}));
    assert_eq!(said(&own.ask(&echo)), "own\n");
    // One that does takes the second, and there is no third, by whatever protocol.
    let echo = call(1, "run__execute", json!({"command": "echo", "args": ["bridge"]}));
    assert_eq!(said(&idle[0].ask(&echo)), "bridge\n");
    let refused = idle[1].ask(&echo);
    assert!(refused["error"]["message"].as_str().unwrap().contains("2 sessions at a time"), "{refused}");
    let mut ws = Ws::open(daemon.address(), "/ws/mcp");
    let refused = ws.ask(&ask("execute", json!({"command": "echo"})));
    assert_eq!(refused["error"]["code"], -32003, "{refused}");
    drop(own);
    wait("a place", || ws.ask(&ask("execute", json!({"command": "echo"}))).get("result").map(|_| ()));
}

#[test]
fn bridge_asks_a_server_that_tells_of_changes_for_its_lists_once_and_any_other_each_time() {
    let scratch = Scratch::new();
    let server = |promises: &str| {
        format!(
            r#"
import json, sys
asked = 0
def say(m): print(json.dumps(dict(m, jsonrpc='2.0')), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    if 'id' not in m: continue
    if m['method'] == 'initialize':
        result = {{'protocolVersion': '2025-06-18', 'capabilities': {{'tools': {promises}}}, 'serverInfo': {{'name': 'c', 'version': '1'}}}}
    elif m['method'] == 'tools/list':
        asked += 1
        result = {{'tools': [{{'name': 'asked_%d_times' % asked, 'inputSchema': {{'type': 'object'}}}}]}}
    else:
        say({{'method': 'notifications/tools/list_changed'}})
        result = {{'content': []}}
    say({{'id': m['id'], 'result': result}})
"#
        )
    };
    let own = |name: &str, promises: &str| {
        let file = scratch.write(&format!("{name}.py"), &server(promises));
        format!("{name:?}: Stdio(command: [\"python3\", {:?}]),", file.to_str().unwrap())
    };
    let servers = own("tells", "{'listChanged': True}") + &own("silent", "{}");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let (mut one, mut other) = (open(&daemon), open(&daemon));
    let list = |http: &mut Http| listed(http, "tools/list");
    assert_eq!(list(&mut one), ["silent__asked_1_times", "tells__asked_1_times"]);
    assert_eq!(list(&mut other), ["silent__asked_2_times", "tells__asked_1_times"]);
    assert_eq!(list(&mut one), ["silent__asked_3_times", "tells__asked_1_times"]);
    one.ask(&call(1, "tells__asked_1_times", json!({})));
    assert_eq!(list(&mut one), ["silent__asked_4_times", "tells__asked_2_times"]);
    assert_eq!(list(&mut other), ["silent__asked_5_times", "tells__asked_2_times"]);
}
