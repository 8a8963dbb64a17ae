//! A fake MCP server that can misbehave in every way that real ones do; the tests run it as a child.
//!
//! Flags change its manners, tools change them while it runs. It speaks line by line and answers each request on a
//! thread of its own, so that a slow one holds up nobody.

use std::io::{BufRead, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

static OUT: Mutex<()> = Mutex::new(());
static IGNORE_EOF: AtomicBool = AtomicBool::new(false);
static ASKER: Mutex<Value> = Mutex::new(Value::Null);
static ERA: OnceLock<bool> = OnceLock::new();
/// Pings that are left unanswered.
static SULKS: AtomicU64 = AtomicU64::new(0);
const UI: &str = "io.modelcontextprotocol/ui";
/// The client shows pages of apps.
static SHOWS: AtomicBool = AtomicBool::new(false);
/// The handshake is complete.
static SHAKEN: AtomicBool = AtomicBool::new(false);
/// The last line of another kind.
static LAST: Mutex<String> = Mutex::new(String::new());
/// The params of the handshake.
static HELLO: Mutex<String> = Mutex::new(String::new());
static CALLS: AtomicU64 = AtomicU64::new(0);

fn say(line: &str) {
    say_bytes(line.as_bytes());
}

fn say_bytes(line: &[u8]) {
    let _turn = OUT.lock().unwrap();
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

fn flag(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == name)?;
    Some(args.get(at + 1).cloned().unwrap_or_default())
}

fn number(name: &str) -> Option<u64> {
    flag(name).map(|v| v.parse().unwrap_or(0))
}

fn main() {
    if flag("--ignore-term").is_some() {
        // SAFETY: SIG_IGN runs no handler.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    }
    IGNORE_EOF.store(flag("--ignore-eof").is_some(), SeqCst);
    if let Some(n) = number("--banner") {
        for i in 0..n {
            say(&format!("🐝 banner line {i} {{ not: 'json' }}"));
        }
    }
    if let Some(text) = flag("--stderr") {
        eprintln!("{text}");
    }
    if let Some(n) = number("--flood-stderr") {
        for i in 0..n {
            eprintln!("flood {i} {}", "x".repeat(200));
        }
    }
    if let Some(kind) = flag("--grandchild") {
        grandchild(&kind);
    }
    if let Some(ms) = number("--die-after") {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            eprintln!("fatal: dying as I was told");
            std::process::exit(3);
        });
    }
    if let Some(code) = number("--exit") {
        eprintln!("fatal: no database");
        std::process::exit(code as i32);
    }
    if let Some(path) = flag("--exit-while") {
        // Fails for as long as the file is there.
        if std::path::Path::new(&path).exists() {
            eprintln!("fatal: {path} is there");
            std::process::exit(1);
        }
    }
    if flag("--deaf").is_some() {
        loop {
            std::thread::park();
        }
    }
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            say("garbage came in");
            continue;
        };
        if let Some(ms) = number("--slow-notes")
            && message["method"] == "notifications/x"
        {
            std::thread::sleep(Duration::from_millis(ms));
            if let Some(text) = message["params"]["text"].as_str().filter(|t| t.len() < 100) {
                eprintln!("noted: {text}");
            }
        }
        if message["method"] == "tools/call" && message["params"]["name"] == "stop_reading" {
            loop {
                std::thread::park();
            }
        }
        // One thing at a time, as many servers work: meanwhile nothing is read.
        if message["params"]["name"] == "hog" {
            answer(&message, &line);
            continue;
        }
        // What changes its state, in order.
        if message["method"].as_str().is_some_and(|m| m.starts_with("resources/") || m.starts_with("notifications/ini"))
        {
            answer(&message, &line);
            continue;
        }
        std::thread::spawn(move || answer(&message, &line));
    }
    while IGNORE_EOF.load(SeqCst) {
        std::thread::park();
    }
}

fn grandchild(kind: &str) {
    let script = match kind {
        "stubborn" => "trap '' TERM HUP; while :; do sleep 60; done",
        _ => "sleep 600",
    };
    let mut command = match kind {
        "setsid" | "stubborn" => Command::new("setsid"),
        _ => Command::new("sh"),
    };
    if kind == "setsid" || kind == "stubborn" {
        command.arg("sh");
    }
    // Left alone on purpose: that is what a careless server does.
    #[allow(clippy::zombie_processes)]
    let child = command.args(["-c", script]).stdin(std::process::Stdio::null()).spawn().expect("sh");
    eprintln!("grandchild {}", child.id());
}

fn answer(message: &Value, line: &str) {
    let id = &message["id"];
    // The first message decides which era this process speaks, for ever.
    let meta = &message["params"]["_meta"];
    let modern = flag("--modern").is_some() && !meta["io.modelcontextprotocol/protocolVersion"].is_null();
    let era = *ERA.get_or_init(|| modern);
    if modern != era && !id.is_null() && message.get("method").is_some() {
        return error(id, -32022, "this process speaks the other era");
    }
    if modern {
        return answer_modern(message, line);
    }
    if flag("--tell-traces").is_some()
        && let Some(trace) = message["params"]["_meta"]["traceparent"].as_str()
    {
        eprintln!("traced {trace}");
    }
    if let Some(path) = flag("--catalogue")
        && catalogued(message, &path)
    {
        return;
    }
    match message["method"].as_str() {
        Some("initialize") if flag("--no-legacy").is_some() => error(id, -32022, "unsupported protocol version"),
        Some("server/discover") if flag("--exit-on-discover").is_some() => std::process::exit(1),
        Some("server/discover") if flag("--silent-on-discover").is_some() => {}
        Some("initialize") => {
            if flag("--never-answer").is_some() {
                return;
            }
            if let Some(ms) = number("--slow-init") {
                std::thread::sleep(Duration::from_millis(ms));
            }
            if flag("--unsolicited").is_some() {
                say(r#"{"jsonrpc":"2.0","method":"server.initialized","params":{}}"#);
                say(r#"{"jsonrpc":"2.0","id":4711,"result":{"for":"nobody"}}"#);
                say(r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"no id"}}"#);
                say(r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#);
            }
            *HELLO.lock().unwrap() = message["params"].to_string();
            let shows = flag("--apps").is_some() && !message["params"]["capabilities"]["extensions"][UI].is_null();
            SHOWS.store(shows, SeqCst);
            let asked = &message["params"]["protocolVersion"];
            let version = flag("--revision").map_or(asked.clone(), Value::from);
            let mut capabilities = json!({"tools": {"listChanged": true},
                "resources": {"subscribe": true, "listChanged": true}, "logging": {}, "tasks": {}});
            if shows {
                capabilities["extensions"] = json!({UI: {}});
            }
            say(&json!({"jsonrpc": "2.0", "id": id, "result": {
                "protocolVersion": version,
                "capabilities": capabilities,
                "serverInfo": {"name": flag("--name").unwrap_or("fake".into()), "version": "1"},
                "instructions": "be nice",
            }})
            .to_string());
        }
        Some("tools/list") if flag("--strict").is_some() && !SHAKEN.load(SeqCst) => {
            error(id, -32602, "received a request before the handshake was complete")
        }
        Some("tools/list") if SHOWS.load(SeqCst) => {
            let page = json!({"name": "with_page", "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": "ui://p"}}});
            result(id, json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}, page]}));
        }
        Some("tools/list") => result(
            id,
            json!({"tools": [{"name": flag("--tool").unwrap_or("echo".into()),
            "inputSchema": {"type": "object"}}]}),
        ),
        Some("tools/call") => call(id, &message["params"], line),
        Some("resources/subscribe" | "resources/unsubscribe") if flag("--no-subscribe").is_none() => {
            eprintln!("{} {}", message["method"].as_str().unwrap(), message["params"]["uri"].as_str().unwrap());
            result(id, json!({}));
        }
        Some("notifications/cancelled") => eprintln!("cancelled {}", message["params"]["requestId"]),
        Some("notifications/initialized") if flag("--reply-to-notification").is_some() => {
            say(r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"}}"#);
        }
        Some("ping") if SULKS.load(SeqCst) > 0 => {
            SULKS.fetch_sub(1, SeqCst);
        }
        Some("ping") => {
            if flag("--tell-pings").is_some() {
                eprintln!("a ping");
            }
            error(id, -32601, "Method not found");
        }
        // As servers are that insist on their handshake.
        Some("notifications/initialized") if flag("--strict").is_some() => {
            SHAKEN.store(true, SeqCst);
            eprintln!("the handshake is complete");
        }
        Some("x/echo") => {
            *LAST.lock().unwrap() = line.to_owned();
            result(id, json!({}));
        }
        Some(_) if !id.is_null() => error(id, -32601, "Method not found"),
        None if message.get("error").is_some() || message.get("result").is_some() => {
            eprintln!("reply {line}");
            let asker = std::mem::take(&mut *ASKER.lock().unwrap());
            if !asker.is_null() {
                text(&asker, message["result"]["text"].as_str().unwrap_or("no text"));
            }
        }
        _ => {}
    }
}

/// Answers from a file, which is read anew each time: lists in pages of `page` items, and what is in them. False for
/// what has nothing to do with it.
fn catalogued(message: &Value, path: &str) -> bool {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (id, params) = (&message["id"], &message["params"]);
    let method = message["method"].as_str().unwrap_or("");
    let me = file["me"].as_str().unwrap_or("");
    let key = match method {
        "tools/list" => "tools",
        "prompts/list" => "prompts",
        "resources/list" => "resources",
        "resources/templates/list" => "resourceTemplates",
        _ => "",
    };
    if !key.is_empty() {
        eprintln!("listed {key}");
        if file["silent"] == key {
            return true;
        }
        let Some(mut all) = file[key].as_array().cloned() else {
            error(id, -32601, "Method not found");
            return true;
        };
        if file["pid"] == key {
            all.push(json!({"uri": format!("pid:{}", std::process::id()), "name": "p"}));
        }
        let size = file["page"].as_u64().unwrap_or(u64::MAX) as usize;
        let from: usize = params["cursor"].as_str().map_or(0, |c| c.trim_start_matches("at ").parse().unwrap());
        let to = from.saturating_add(size).min(all.len());
        let mut found = json!({ key: all[from..to] });
        if to < all.len() {
            found["nextCursor"] = json!(format!("at {to}"));
        }
        result(id, found);
        return true;
    }
    let has = |list: &str, key: &str, name: &Value| {
        file[list].as_array().into_iter().flatten().any(|item| item[key] == *name)
    };
    match method {
        "initialize" => result(
            id,
            json!({"protocolVersion": "2025-11-25", "serverInfo": {"name": "fake", "version": "1"},
                "instructions": file["instructions"],
                "capabilities": file.get("capabilities").cloned().unwrap_or(json!({"tools": {"listChanged": true},
                    "prompts": {}, "resources": {"subscribe": true}, "completions": {}}))}),
        ),
        "tools/call" if has("tools", "name", &params["name"]) => {
            let text = format!("{me} {} {}", params["name"], params["arguments"]);
            let failed = params["arguments"]["fail"] == true;
            let mut content = json!([{"type": "text", "text": text}]);
            if let Some(uri) = file["links"].as_str() {
                let said = format!("\"uri\":\"{uri}\"");
                content = json!([{"type": "resource_link", "uri": uri, "name": "l"}, {"type": "text", "text": said}]);
            }
            result(id, json!({"content": content, "isError": failed, "_meta": {"own": 1}}));
        }
        "prompts/get" if has("prompts", "name", &params["name"]) => {
            let text = format!("{me} {}", params["name"]);
            result(id, json!({"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}));
        }
        "prompts/get" => error(id, -32602, "unknown prompt"),
        "resources/read" => {
            let uri = params["uri"].as_str().unwrap_or("");
            let hidden = file["hidden"].as_array().into_iter().flatten().any(|h| h == uri);
            let template = file["gives"].as_str().is_some_and(|start| uri.starts_with(start));
            match hidden || template || has("resources", "uri", &params["uri"]) {
                true => result(id, json!({"contents": [{"uri": uri, "text": format!("{me} {uri}")}]})),
                false => error(id, -32002, "Resource not found"),
            }
        }
        "completion/complete" => {
            let what = params["ref"]["name"].as_str().or(params["ref"]["uri"].as_str()).unwrap_or("");
            result(id, json!({"completion": {"values": [format!("{me} {what}")]}}));
        }
        _ => return false,
    }
    true
}

/// Subscriptions: the id of each, whether it is for tools, and its resources.
static LISTENS: Mutex<Vec<(Value, bool, Vec<String>)>> = Mutex::new(Vec::new());

fn answer_modern(message: &Value, line: &str) {
    let (id, params) = (&message["id"], &message["params"]);
    let tagged = |method: &str, id: &Value, mut params: Value| {
        params["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": id});
        say(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string());
    };
    let list = json!({"resultType": "complete", "ttlMs": 5, "cacheScope": "public"});
    match message["method"].as_str() {
        Some("server/discover") => {
            let mut found = list;
            found["supportedVersions"] = json!(["2026-07-28"]);
            found["capabilities"] = json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}});
            found["_meta"] = json!({"io.modelcontextprotocol/serverInfo": {"name": "fake", "version": "1"}});
            result(id, found);
        }
        Some("tools/list") if flag("--no-list").is_some() => {}
        Some("tools/list") => {
            let mut found = list;
            found["tools"] = json!([{"name": "echo", "inputSchema": {"type": "object", "properties":
                {"text": {"type": "string"}, "zone": {"type": "string", "x-mcp-header": "Zone"}}}}]);
            result(id, found);
        }
        Some("subscriptions/listen") => {
            let asked = &params["notifications"];
            let tools = asked["toolsListChanged"] == true;
            let uris: Vec<String> = serde_json::from_value(asked["resourceSubscriptions"].clone()).unwrap_or_default();
            let mut honoured = json!({});
            if tools {
                honoured["toolsListChanged"] = json!(true);
            }
            if !uris.is_empty() {
                honoured["resourceSubscriptions"] = json!(uris);
            }
            LISTENS.lock().unwrap().push((id.clone(), tools, uris));
            tagged("notifications/subscriptions/acknowledged", id, json!({"notifications": honoured}));
        }
        Some("notifications/cancelled") => {
            eprintln!("cancelled {}", params["requestId"]);
            LISTENS.lock().unwrap().retain(|(id, ..)| *id != params["requestId"]);
        }
        Some("tasks/get") => {
            result(id, json!({"resultType": "complete", "taskId": params["taskId"], "status": "working"}))
        }
        Some("tools/call") => match params["name"].as_str() {
            Some("task") => {
                let extensions = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"];
                match extensions["io.modelcontextprotocol/tasks"].is_null() {
                    true => text(id, if extensions["other"].is_null() { "no task" } else { "no task, but other" }),
                    false => {
                        std::thread::sleep(Duration::from_millis(params["arguments"]["ms"].as_u64().unwrap_or(0)));
                        let task = json!({"taskId": format!("task-{}", std::process::id()), "status": "working"});
                        result(id, json!({"resultType": "task", "task": task}));
                    }
                }
            }
            Some("era") => text(id, "modern"),
            Some("list_changed") => {
                for (id, ..) in LISTENS.lock().unwrap().iter().filter(|(_, tools, _)| *tools) {
                    tagged("notifications/tools/list_changed", id, json!({}));
                }
                text(id, "said");
            }
            Some("updated") => {
                let uri = params["arguments"]["uri"].as_str().unwrap();
                eprintln!("updated {uri}");
                for (id, ..) in LISTENS.lock().unwrap().iter().filter(|(.., all)| all.iter().any(|u| u == uri)) {
                    tagged("notifications/resources/updated", id, json!({"uri": uri}));
                }
                text(id, "said");
            }
            Some("log_after") => {
                std::thread::sleep(Duration::from_millis(params["arguments"]["n"].as_u64().unwrap()));
                if !params["_meta"]["io.modelcontextprotocol/logLevel"].is_null() {
                    let log = json!({"level": "info", "data": "of one request"});
                    say(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": log}).to_string());
                    std::thread::sleep(Duration::from_millis(params["arguments"]["n"].as_u64().unwrap()));
                }
                text(id, "done");
            }
            _ => call(id, params, line),
        },
        _ if !id.is_null() => error(id, -32601, "Method not found"),
        _ => {}
    }
}

fn result(id: &Value, result: Value) {
    say(&json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string());
}

fn error(id: &Value, code: i32, message: &str) {
    say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}).to_string());
}

fn text(id: &Value, text: &str) {
    result(id, json!({"content": [{"type": "text", "text": text}]}));
}

fn call(id: &Value, params: &Value, line: &str) {
    let args = &params["arguments"];
    let token = &params["_meta"]["progressToken"];
    let n = args["n"].as_u64().unwrap_or(0);
    match params["name"].as_str().unwrap_or("") {
        // The very line that came in, as a string: what arrived is what was sent.
        "raw" => text(id, line),
        "echo" => text(id, args["text"].as_str().unwrap_or("")),
        "sulk" => {
            SULKS.store(n, SeqCst);
            text(id, "hm");
        }
        "storm" => {
            for _ in 0..n {
                say(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}).to_string());
            }
            text(id, "calm")
        }
        "hog" | "sleep" => {
            std::thread::sleep(Duration::from_millis(n));
            text(id, args["text"].as_str().unwrap_or("slept"));
        }
        // Takes so much time of a processor (proc(5), schedstat: nanoseconds), however long that takes.
        "spin" => {
            let taken = || std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            let taken = || taken().split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000;
            let begin = taken();
            while taken() - begin < n {}
            text(id, "spun");
        }
        // Waits, with progress, and gives back what it was told.
        "told" => {
            for step in 1..=args["steps"].as_u64().unwrap_or(0) {
                std::thread::sleep(Duration::from_millis(n / 3));
                if !token.is_null() {
                    say(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                        "params": {"progressToken": token, "progress": step}})
                    .to_string());
                }
            }
            std::thread::sleep(Duration::from_millis(n));
            text(id, args["text"].as_str().unwrap_or(""));
        }
        "never" => {}
        "progress" => {
            for i in 1..=n {
                std::thread::sleep(Duration::from_millis(args["ms"].as_u64().unwrap_or(10)));
                say(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": i, "total": n, "message": "step"}})
                .to_string());
            }
            text(id, "done");
            // Late progress belongs to nobody.
            say(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": token, "progress": n + 1}})
            .to_string());
        }
        "die" => {
            eprintln!("fatal: asked to die");
            std::process::exit(n as i32);
        }
        "crash" => std::process::abort(),
        "close_output" => {
            // SAFETY: nobody else closes it.
            unsafe { libc::close(1) };
        }
        "close_input" => {
            // SAFETY: nobody else closes it; the reader of the loop is stuck in read(2), which this does not end.
            unsafe { libc::dup2(libc::open(c"/dev/zero".as_ptr(), libc::O_WRONLY), 0) };
            text(id, "closed");
        }
        "big" => text(id, &"x".repeat(n as usize)),
        "big_id_last" => {
            let big = "x".repeat(n as usize);
            say(&format!(r#"{{"result":{{"content":[{{"type":"text","text":"{big}"}}]}},"jsonrpc":"2.0","id":{id}}}"#));
        }
        "invalid_utf8" => {
            say_bytes(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"x\":\"\xff\xfe\"}}");
            text(id, "after invalid UTF-8");
        }
        "endless_line" => {
            let _turn = OUT.lock().unwrap();
            let mut out = std::io::stdout().lock();
            let chunk = vec![b'y'; 1 << 20];
            for _ in 0..n {
                let _ = out.write_all(&chunk);
            }
            let _ = out.write_all(b"\n");
            drop(_turn);
            drop(out);
            text(id, "after the line");
        }
        "twice" => {
            text(id, "first");
            text(id, "second");
        }
        "exact" => {
            // Numbers, escapes and unknown members that a parser would spoil.
            say(&format!(
                concat!(
                    r#"{{"jsonrpc": "2.0" ,"result":{{"z":12345678901234567890,"a":1.0e+2,"content":[],"#,
                    r#""s":"\u00e9\/ \ud83d\ude80","_meta":{{"x":null}}}},"id":{}, "unknown" : true}}"#
                ),
                id
            ));
        }
        // Carriage returns between tokens: valid JSON, and line ends of an event stream.
        "carriage" => {
            say(&format!(
                "{{\"jsonrpc\":\"2.0\",\r\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\r\"progress\":1}}}}"
            ));
            say("{\"jsonrpc\":\"2.0\",\r\"method\":\"notifications/tools/list_changed\"}");
            say(&format!("{{\"jsonrpc\":\"2.0\",\r\"id\":{id},\r\"result\":{{\"content\":[]}}}}"));
        }
        "malformed" => say(&format!(r#"{{"jsonrpc":"1.0","id":{id},"result":{{"content":[]}}}}"#)),
        "hello" => text(id, &HELLO.lock().unwrap()),
        "last" => text(id, &LAST.lock().unwrap()),
        "null_error" => say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}},"error":null}}"#)),
        "list_changed" => {
            for _ in 0..n.max(1) {
                say(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
                std::thread::sleep(Duration::from_millis(args["ms"].as_u64().unwrap_or(0)));
            }
            text(id, "said");
        }
        "updated" => {
            eprintln!("updated {}", args["uri"].as_str().unwrap());
            say(
                &json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": args["uri"]}})
                    .to_string(),
            );
            text(id, "said");
        }
        "log" => {
            say(
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"secret of one client"}}"#,
            );
            text(id, "said");
        }
        "era" => text(id, "legacy"),
        "ask_flood" => {
            let pad = "x".repeat(args["ms"].as_u64().unwrap_or(0) as usize);
            for i in 0..n {
                say(&format!(r#"{{"jsonrpc":"2.0","id":"{i}{pad}","method":"sampling/createMessage","params":{{}}}}"#));
            }
            text(id, "asked");
        }
        "ask_back" => {
            *ASKER.lock().unwrap() = id.clone();
            let method = args["method"].as_str().unwrap_or("sampling/createMessage");
            say(&json!({"jsonrpc": "2.0", "id": "q1", "method": method, "params": {}}).to_string());
        }
        "ask" => {
            say(r#"{"jsonrpc":"2.0","id":"q1","method":"sampling/createMessage","params":{}}"#);
            say(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#);
            text(id, "asked");
        }
        "self" => {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let grab = |key: &str| status.lines().find(|l| l.starts_with(key)).unwrap_or("").to_owned();
            let fds: Vec<String> = std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|e| {
                    Some(format!(
                        "{} {}",
                        e.as_ref().ok()?.file_name().to_string_lossy(),
                        std::fs::read_link(e.ok()?.path()).ok()?.display()
                    ))
                })
                .collect();
            let env: std::collections::BTreeMap<String, String> = std::env::vars().collect();
            result(
                id,
                json!({"content": [], "structuredContent": {
                    "blocked": grab("SigBlk"), "ignored": grab("SigIgn"), "fds": fds, "env": env,
                    "pid": std::process::id(), "cwd": std::env::current_dir().unwrap(),
                    "pgrp": nix::unistd::getpgrp().as_raw(), "umask": grab("Umask"), "nofile": nofile(),
                    "uids": grab("Uid"), "gids": grab("Gid"), "groups": grab("Groups"), "nnp": grab("NoNewPrivs"),
                    "limits": std::fs::read_to_string("/proc/self/limits").unwrap(),
                }}),
            );
        }
        "count" => text(id, &(CALLS.fetch_add(1, SeqCst) + 1).to_string()),
        "stderr" => {
            for i in 0..n {
                eprintln!("{} {i}", args["text"].as_str().unwrap_or("line"));
            }
            text(id, "written");
        }
        other => error(id, -32602, &format!("unknown tool {other}")),
    }
}

fn nofile() -> u64 {
    // SAFETY: getrlimit(2) fills the struct.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur
    }
}
