//! Lists, apps and tasks: on the bridge, where one server's mistakes are not another's, and on shared children.

use serde_json::{Value, json};

use crate::harness::*;

fn catalogue(scratch: &Scratch, name: &str, file: Value) -> String {
    let path = scratch.write(&format!("{name}.json"), &file.to_string());
    stdio(name, &["--catalogue", &path.display().to_string()], "")
}

fn tools(http: &mut Http) -> Vec<Value> {
    let list = http.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    list["result"]["tools"].as_array().unwrap_or_else(|| panic!("{list}")).clone()
}

fn names(all: &[Value]) -> Vec<&str> {
    all.iter().map(|t| t["name"].as_str().unwrap()).collect()
}

#[test]
fn an_item_that_breaks_its_schema_takes_no_other_with_it() {
    let scratch = Scratch::new();
    let object = json!({"type": "object"});
    let bad = json!({"me": "bad", "tools": [
        {"name": "null", "description": null, "annotations": null, "outputSchema": null,
            "inputSchema": {"type": "object", "properties": null}},
        {"name": "nothing"},
        {"name": "text", "inputSchema": "x"},
        {"name": "number", "description": 7, "inputSchema": object},
        {"name": "fine", "inputSchema": object},
    ], "prompts": [{"name": "p", "arguments": null}, {"name": "q", "arguments": [{}]}],
    "resources": [{"uri": "a:1"}, {"uri": "a:2", "name": "n", "mimeType": null}]});
    let good = json!({"me": "good", "tools": [{"name": "t", "inputSchema": object}]});
    let daemon =
        scratch.start(&scratch.instance("t", &(catalogue(&scratch, "bad", bad) + &catalogue(&scratch, "good", good))));
    let mut http = Http::open_at(daemon.address(), "/mcp");
    for _ in 0..2 {
        let all = tools(&mut http);
        assert_eq!(names(&all), ["bad__null", "bad__fine", "good__t"]);
        assert_eq!(all[0], json!({"name": "bad__null", "inputSchema": {"type": "object"}}));
    }
    let list =
        |http: &mut Http, what: &str| http.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": format!("{what}/list")}));
    assert_eq!(list(&mut http, "prompts")["result"]["prompts"], json!([{"name": "bad__p"}]));
    assert_eq!(list(&mut http, "resources")["result"]["resources"], json!([{"uri": "a:2", "name": "n"}]));
    // Said once each, with the server and the item; and in the status.
    let log = daemon.log();
    for item in [
        "tool 'nothing': 'inputSchema' is missing",
        "tool 'text': ",
        "tool 'number': 'description'",
        "prompt 'q': ",
        "resource 'a:1': 'name'",
    ] {
        assert_eq!(
            log.matches(&format!("server 'bad': left out of the bridge, or no client could read the list: {item}"))
                .count(),
            1,
            "{item}: {log}"
        );
        assert!(daemon.server("bad")["left_out"].to_string().contains(item), "{item}");
    }
    assert!(stdout(&scratch.ctl(&["status", "t"])).contains("not on the bridge: tool 'nothing'"));
    // The server's own endpoint has what it wrote.
    assert_eq!(tools(&mut daemon.http("bad")).len(), 5);
}

#[test]
fn a_cursor_that_leads_in_a_circle_ends_and_what_there_is_is_shown() {
    let scratch = Scratch::new();
    let script = r#"
import json, sys
n = 0
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "c", "version": "1"}}
    else:
        n += 1
        r = {"tools": [{"name": "t%d" % i, "inputSchema": {"type": "object"}} for i in range(8)],
            "nextCursor": "x" if sys.argv[1] == "same" else "x%d" % n}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
    if m["method"] != "initialize": print("asked", n, file=sys.stderr, flush=True)
"#;
    let file = scratch.write("endless.py", script).display().to_string();
    let server = |name: &str, how: &str| format!("{name:?}: Stdio(command: [\"python3\", {file:?}, {how:?}]),");
    let daemon = scratch.start(&scratch.instance("t", &(server("same", "same") + &server("other", "other"))));
    let all = tools(&mut Http::open_at(daemon.address(), "/mcp"));
    assert_eq!(all.len(), 16, "{:?}", names(&all));
    let log = daemon.log();
    assert!(!log.contains("asked 4"), "{log}");
    assert_eq!(log.matches("its 'nextCursor' leads in a circle").count(), 2, "{log}");
}

#[test]
fn each_tool_with_a_page_opens_the_one_of_its_own_server() {
    let scratch = Scratch::new();
    let server = |me: &str| {
        let page = "ui://app/main.html";
        catalogue(
            &scratch,
            me,
            json!({"me": me, "links": page, "tools": [
            {"name": "show", "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": page, "x": 1}, "ui/resourceUri": page}}],
            "resources": [{"uri": page, "name": "page"}, {"uri": "file:///x", "name": "x"}]}),
        )
    };
    let daemon = scratch.start(&scratch.instance("t", &(server("one") + &server("two"))));
    let mut http = Http::open_at(daemon.address(), "/mcp");
    for tool in tools(&mut http) {
        let me = tool["name"].as_str().unwrap().strip_suffix("__show").unwrap().to_owned();
        let uri = tool["_meta"]["ui"]["resourceUri"].as_str().unwrap();
        assert!(
            uri.starts_with("ui://") && tool["_meta"]["ui/resourceUri"] == uri && tool["_meta"]["ui"]["x"] == 1,
            "{tool}"
        );
        let read = http.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "resources/read", "params": {"uri": uri}}));
        assert_eq!(read["result"]["contents"][0]["text"], format!("{me} ui://app/main.html"), "{read}");
    }
    let list = http.ask(&json!({"jsonrpc": "2.0", "id": 3, "method": "resources/list"}));
    let uris: Vec<&str> =
        list["result"]["resources"].as_array().unwrap().iter().map(|r| r["uri"].as_str().unwrap()).collect();
    assert_eq!(uris, ["ui://one/app/main.html", "file:///x", "ui://two/app/main.html", "two+file:///x"]);
    // The links of its answers lead there too; what a text says of them is text.
    let shown = http.ask(&call(4, "two__show", json!({})));
    let content = &shown["result"]["content"];
    assert_eq!(
        (&content[0]["uri"], &content[1]["text"]),
        (&json!("ui://two/app/main.html"), &json!(r#""uri":"ui://app/main.html""#))
    );
    let direct = daemon.http("two").ask(&call(5, "show", json!({})));
    assert_eq!(direct["result"]["content"][0]["uri"], "ui://app/main.html");
    // The server's own endpoint has its own.
    let own = tools(&mut daemon.http("two"));
    assert_eq!(own[0]["_meta"]["ui"]["resourceUri"], "ui://app/main.html");
}

#[test]
fn a_shared_child_hears_that_its_clients_show_pages() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--apps"], "")));
    let mut http = daemon.http("fake");
    assert_eq!(names(&tools(&mut http)), ["echo", "with_page"]);
    assert_eq!(names(&tools(&mut Http::open_at(daemon.address(), "/mcp"))), ["fake__echo", "fake__with_page"]);
    let hello = http.post(&initialize(json!(4)).to_string()).json();
    assert!(hello["result"]["capabilities"]["extensions"]["io.modelcontextprotocol/ui"].is_object(), "{hello}");
}

#[test]
fn names_on_the_bridge_are_shortened_by_an_alias_and_by_a_limit() {
    let scratch = Scratch::new();
    let long = "a_tool_whose_name_has_exactly_45_characters_x";
    let file = json!({"me": "b", "tools": [{"name": long, "inputSchema": {"type": "object"}}, {"name": "t", "inputSchema": {"type": "object"}}]});
    let path = scratch.write("b.json", &file.to_string()).display().to_string();
    let servers = |alias: &str| stdio("billing-cost-management", &["--catalogue", &path], alias);
    let daemon = scratch.start(&scratch.instance("t", &servers("alias: \"bcm\",")));
    let mut http = Http::open_at(daemon.address(), "/mcp");
    assert_eq!(names(&tools(&mut http)), [format!("bcm__{long}"), "bcm__t".to_owned()]);
    assert!(said(&http.ask(&call(2, &format!("bcm__{long}"), json!({})))).contains(long));
    // A name that leaves no room is told.
    scratch.instance("t", &servers(""));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    let all = tools(&mut http);
    assert!(all.iter().all(|t| t["name"].as_str().unwrap().len() <= 64), "{all:?}");
    wait("the advice", || daemon.log().contains("leaves little room for what clients put before it").then_some(()));
    scratch.instance_with("t", "bridge: Prefix(longest: 45),", &servers(""));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    let all = tools(&mut http);
    assert!(all.iter().all(|t| t["name"].as_str().unwrap().len() <= 45), "{all:?}");
    let short = all[0]["name"].as_str().unwrap().to_owned();
    assert!(said(&http.ask(&call(3, &short, json!({})))).contains(long));
    let out = scratch.instance("t", &(servers("alias: \"x\",") + &stdio("x", &[], "")));
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &out.display().to_string()]);
    assert!(
        stderr(&out)
            .contains("the alias 'x' of server 'billing-cost-management' is the name or alias of server 'x' too"),
        "{out:?}"
    );
}

fn modern(address: &str, path: &str, token: &str, id: u64, method: &str, mut params: Value, named: &str) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}, "other": {}}}});
    let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
    let mut raw = Raw::open(address);
    raw.send(
        format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}Authorization: Bearer {token}\r\nMCP-Protocol-Version: 2026-07-28\r\n\
             Mcp-Method: {method}\r\nMcp-Name: {named}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    raw.response().json()
}

#[test]
fn a_task_is_for_who_has_started_it_and_for_no_other() {
    let scratch = Scratch::new();
    let made: Vec<(String, String)> = ["ann", "bob"]
        .iter()
        .map(|name| {
            let out = scratch.run(mcpdaemon(), &["--new-token", name]);
            (stdout(&out), stderr(&out).trim_end().lines().last().unwrap().to_owned())
        })
        .collect();
    scratch.write("tokens", &(made[0].0.clone() + &made[1].0));
    let servers = stdio("fake", &["--modern"], "");
    let daemon = scratch.start(&scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &servers));
    let (ann, bob) = (&made[0].1, &made[1].1);
    let address = daemon.address();
    let path = "/servers/fake/mcp";
    let begun = modern(address, path, ann, 1, "tools/call", json!({"name": "task", "arguments": {}}), "task");
    assert_eq!(begun["result"]["resultType"], "task", "{begun}");
    let task = begun["result"]["task"]["taskId"].as_str().unwrap().to_owned();
    let get = |token: &str, id: &str| modern(address, path, token, 2, "tasks/get", json!({"taskId": id}), id);
    assert_eq!(get(ann, &task)["result"]["taskId"], task.as_str());
    for (token, id) in [(bob, task.as_str()), (ann, "unknown")] {
        assert_eq!(get(token, id)["error"]["code"], -32602);
    }
    let cancel = modern(address, path, bob, 3, "tasks/cancel", json!({"taskId": task}), &task);
    assert_eq!(cancel["error"]["code"], -32602, "{cancel}");
    // Over an upgrade it stays so.
    assert!(scratch.ctl(&["restart", "t"]).status.success());
    assert_eq!(get(ann, &task)["result"]["taskId"], task.as_str());
    assert_eq!(get(bob, &task)["error"]["code"], -32602);
    // Also of one that is being started meanwhile.
    daemon.status();
    std::thread::scope(|scope| {
        let late = json!({"name": "task", "arguments": {"ms": 1500}});
        let begun = scope.spawn(|| modern(address, path, bob, 5, "tools/call", late, "task"));
        wait("the call", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
        assert!(scratch.ctl(&["restart", "t"]).status.success());
        assert_eq!(begun.join().unwrap()["result"]["resultType"], "task");
    });
    assert_eq!(get(bob, &task)["result"]["taskId"], task.as_str(), "it has the same id here, and is bob's now");
    // On the bridge nothing is promised: the server does not hear that its client takes tasks.
    let whole =
        modern(address, "/mcp", ann, 4, "tools/call", json!({"name": "fake__task", "arguments": {}}), "fake__task");
    assert_eq!(whole["result"]["content"][0]["text"], "no task, but other", "{whole}");
}

#[test]
fn lists_of_a_shared_legacy_child_may_be_kept_for_as_long_as_is_true() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let list = modern(daemon.address(), "/servers/fake/mcp", "", 1, "tools/list", json!({}), "");
    assert_eq!(
        (&list["result"]["ttlMs"], &list["result"]["cacheScope"]),
        (&json!(300_000), &json!("public")),
        "{list}"
    );
    let mut http = daemon.http("fake");
    http.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
}
