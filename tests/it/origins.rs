//! The four systems that the daemon grew out of, each used here as its own users do: cc_executor's stress test, the
//! two servers of MCP Foxxy Bridge, ruv-swarm as a child, and the life that swagger-mcp-server wanted to manage.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::*;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn deps(path: &str) -> String {
    let path = root("target/test-deps").join(path);
    assert!(path.exists(), "{} is missing: tests/install has not been run; use tests/run", path.display());
    path.display().to_string()
}

fn ask(http: &mut Http, method: &str, params: Value) -> Value {
    http.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

fn strings(list: &Value, key: &str) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list}"));
    list.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

/// cc_executor: start, test at once, stop, and again. There, none of three passed.
#[test]
fn the_stress_test_of_the_executor_passes_each_time() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", "\"run\": Exec(allow: [\"echo\", \"date\", \"python3\"]),");
    for (round, path) in ["/ws/mcp", "/servers/run/ws", "/ws/mcp"].into_iter().enumerate() {
        let daemon = scratch.start(&file);
        let url = format!("ws://{}{path}", daemon.address());
        let stress = root("tests/peers/stress.py");
        let out = Command::new(deps("client/bin/python")).arg(stress).arg(url).output().unwrap();
        let report: Value =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", stdout(&out), stderr(&out)));
        assert_eq!(
            (&report["total_tests"], &report["passed"], &report["failed"], &report["success_rate"]),
            (&json!(8), &json!(8), &json!(0), &json!("100.0%")),
            "round {round}: {report:#}"
        );
        assert!(report["avg_duration"].as_str().unwrap().ends_with('s'));
        daemon.stop();
    }
}

/// MCP Foxxy Bridge: everything and time. There, one of 15 tools was listed and no listed resource could be read.
#[test]
fn a_clients_two_servers_are_imported_and_served_as_one_with_all_their_tools() {
    let scratch = Scratch::new();
    let file = json!({
        "mcpServers": {
            "everything": {"command": deps("node_modules/.bin/mcp-server-everything"), "args": ["stdio"], "timeout": 60},
            "time": {"command": deps("servers/bin/mcp-server-time"), "env": {}, "transport": "stdio"},
        },
        "bridge": {"conflictResolution": "namespace", "defaultNamespace": true},
    });
    scratch.write("two.json", &file.to_string());
    let out = scratch.run(mcpdaemon(), &["--import", "two.json"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    scratch.write("two.ron", &stdout(&out));
    let out = scratch.run(mcpdaemon(), &["-c", "two.ron", "--name", "t", "--listen", "127.0.0.1:0"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    let mut http = Http::open_at(daemon.address(), "/mcp");
    let tools = ask(&mut http, "tools/list", json!({}))["result"]["tools"].clone();
    let names = strings(&tools, "name");
    let of = |prefix: &str| names.iter().filter(|n| n.starts_with(prefix)).count();
    assert_eq!((names.len(), of("everything__"), of("time__")), (15, 13, 2), "{names:?}");
    // Each is the server's own but for its name.
    for server in ["everything", "time"] {
        let own = ask(&mut daemon.http(server), "tools/list", json!({}))["result"]["tools"].clone();
        for mut tool in own.as_array().unwrap().iter().cloned() {
            tool["name"] = json!(format!("{server}__{}", tool["name"].as_str().unwrap()));
            assert!(tools.as_array().unwrap().contains(&tool), "{tool}");
        }
    }
    let echo = http.ask(&call(1, "everything__echo", json!({"message": "through"})));
    assert!(said(&echo).contains("through"), "{echo}");
    let time = http.ask(&call(
        1,
        "time__convert_time",
        json!({"source_timezone": "UTC", "time": "12:00",
        "target_timezone": "Asia/Tokyo"}),
    ));
    assert!(said(&time).contains("21:00"), "{time}");
    let wrong = http.ask(&call(1, "time__get_current_time", json!({"timezone": "Nowhere/None"})));
    assert_eq!(wrong["result"]["isError"], true, "{wrong}");
    // Every resource that is listed can be read, templates are there, prompts too.
    let resources = strings(&ask(&mut http, "resources/list", json!({}))["result"]["resources"], "uri");
    assert_eq!(resources.len(), 7);
    for uri in &resources {
        let read = ask(&mut http, "resources/read", json!({"uri": uri}));
        assert_eq!(read["result"]["contents"][0]["uri"], *uri, "{read}");
    }
    let templates = ask(&mut http, "resources/templates/list", json!({}))["result"]["resourceTemplates"].clone();
    assert_eq!(templates.as_array().unwrap().len(), 2);
    let prompts = strings(&ask(&mut http, "prompts/list", json!({}))["result"]["prompts"], "name");
    assert_eq!(prompts.len(), 4);
    for name in prompts.iter().filter(|n| n.contains("simple")) {
        assert!(ask(&mut http, "prompts/get", json!({"name": name}))["result"]["messages"].is_array());
    }
}

/// The same by official clients: each name that they see they call, and the answers are checked for going astray.
#[test]
fn official_clients_use_the_bridge() {
    let scratch = Scratch::new();
    let servers = format!(
        "\"everything\": Stdio(command: [{:?}, \"stdio\"]), \"time\": Stdio(command: [{:?}]),",
        deps("node_modules/.bin/mcp-server-everything"),
        deps("servers/bin/mcp-server-time")
    );
    let daemon = scratch.start(&scratch.instance("t", &servers));
    for (program, transport, path) in
        [("node", "http", "/mcp"), ("node", "ws", "/ws/mcp"), ("python", "http", "/mcp"), ("python", "ws", "/ws/mcp")]
    {
        let scheme = if transport == "ws" { "ws" } else { "http" };
        let url = format!("{scheme}://{}{path}", daemon.address());
        let mut client = match program {
            "node" => Command::new("node"),
            _ => Command::new(deps("client/bin/python")),
        };
        client.arg(root(if program == "node" { "tests/peers/client.mjs" } else { "tests/peers/client.py" }));
        client.args([&url, "--transport", transport, "--calls", "40", "--in-flight", "8"]);
        client.args(["--tool", "everything__echo", "--args", "{\"message\": \"@UNIQUE@\"}"]);
        let out = client.output().unwrap();
        let last = stdout(&out).lines().last().unwrap_or_default().to_owned();
        let summary: Value = serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last} {}", stderr(&out)));
        assert_eq!(code(&out), 0, "{program} {transport}: {summary:#}\n{}", stderr(&out));
        assert_eq!((&summary["ok"], &summary["failures"]), (&json!(40), &json!(0)), "{summary:#}");
        assert_eq!(summary["tools"].as_array().unwrap().len(), 15, "{program} {transport}: {summary:#}");
    }
}

/// ruv-swarm: its server, with all that it does wrong, as a child that is detached, watched and one of its kind.
#[test]
fn ruv_swarm_is_a_service() {
    let scratch = Scratch::new();
    let swarm = deps("node_modules/.bin/ruv-swarm");
    let servers = format!("\"swarm\": Stdio(command: [{swarm:?}, \"mcp\", \"start\"]),");
    let file = scratch.instance("t", &servers);
    let daemon = scratch.start(&file);
    let mut http = Http::open_at(daemon.address(), "/mcp");
    let names = strings(&ask(&mut http, "tools/list", json!({}))["result"]["tools"], "name");
    assert_eq!((names.len(), names.iter().all(|n| n.starts_with("swarm__"))), (25, true), "{names:?}");
    let status = http.ask(&call(1, "swarm__features_detect", json!({})));
    assert!(status["result"]["content"].is_array(), "{status}");
    // One of them, which says so to a second; its number is in the file, and the kernel's start time in the status.
    let second = scratch.run(mcpdaemon(), &["-c", file.to_str().unwrap()]);
    assert_eq!(code(&second), 75, "{}", stderr(&second));
    assert!(stderr(&second).contains(&format!("already running (pid {}", daemon.pid)), "{}", stderr(&second));
    assert_eq!(scratch.file("run/t.pid"), format!("{}\n", daemon.pid));
    assert!(daemon.status()["start_time"].as_u64().unwrap() > 0);
    let child = daemon.child("swarm");
    kill(child, libc::SIGKILL);
    wait("another", || (daemon.child("swarm") != child && daemon.child("swarm") != 0).then_some(()));
    assert_eq!(ask(&mut http, "tools/list", json!({}))["result"]["tools"].as_array().unwrap().len(), 25);
    daemon.stop();
    assert_eq!(code(&scratch.ctl(&["stop", "t"])), 7, "there is none to stop");
}

/// The management story: start, look, stop, by script and again and again, several instances side by side.
#[test]
fn instances_are_started_looked_at_and_stopped_by_script() {
    let scratch = Scratch::new();
    scratch.instance("one", &stdio("fake", &[], ""));
    scratch.instance("two", &stdio("fake", &[], ""));
    let script = r#"
        set -e
        for round in 1 2 3; do
            mcpdaemon -c one.ron >start.out
            grep -q '^one: ready on http://127.0.0.1:[0-9]* (pid [0-9]*, 1 server)$' start.out
            mcpdaemon -c two.ron >>start.out
            test "$(mcpctl list | grep -c ready)" = 2
            mcpctl status one two >status.out
            mcpctl status --json one two >status.json
            mcpctl restart one >restart.out
            mcpctl reload --all >reload.out
            mcpctl stop one >stop.out
            status=0; mcpctl status one >/dev/null || status=$?; test $status = 3
            status=0; mcpctl stop one 2>/dev/null || status=$?; test $status = 7
            mcpctl status two >/dev/null
            mcpctl stop --all >>stop.out
            status=0; mcpctl status two >/dev/null || status=$?; test $status = 3
            test -z "$(ls run)"
        done
    "#;
    let bin = Path::new(mcpdaemon()).parent().unwrap();
    let mut shell = scratch.command("sh");
    shell.args(["-c", script]).env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    let out = shell.output().unwrap();
    let said =
        ["start.out", "status.out", "restart.out", "reload.out", "stop.out"].map(|f| scratch.file(f)).join("--\n");
    assert!(out.status.success(), "{}{}\n{said}", stdout(&out), stderr(&out));
    let all: Value = serde_json::from_str(&scratch.file("status.json")).unwrap();
    let status = &all["instances"][0]["status"];
    for member in ["uptime_seconds", "connections", "sessions", "requests", "process", "health", "servers"] {
        assert!(!status[member].is_null(), "{member}: {status:#}");
    }
    for piece in ["one: ready", "pid ", "up ", "request"] {
        assert!(scratch.file("status.out").contains(piece), "{piece}: {}", scratch.file("status.out"));
    }
    scratch.gone();
}
