//! What the daemon says of itself: numbers that are true, health, and alerts.

use serde_json::{Value, json};

use crate::harness::*;

fn live(daemon: &Daemon<'_>) -> Value {
    get(daemon.address(), "/status").json()
}

/// The health of the instance, or of its first server.
fn level(health: &Value) -> &str {
    health["level"].as_str().unwrap_or_else(|| panic!("no level in {health}"))
}

fn proc(pid: i32, what: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap()
}

#[test]
fn status_page_and_metrics_show_the_same_numbers() {
    let scratch = Scratch::new();
    // The child is a shell that has a child of its own.
    let script = format!("{}; true", fake());
    let nested = format!("\"nested\": Stdio(command: [\"sh\", \"-c\", {script:?}]),");
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &[], "") + &nested)));
    let mut ws = daemon.ws("fake");
    let mut http = daemon.http("fake");
    for n in 0..20 {
        ws.ask(&call(n, "echo", json!({"text": "x"})));
        http.ask(&call(n, "nosuch", json!({})));
    }
    http.ask(&json!({"jsonrpc": "2.0", "id": 99, "method": "tools/list"}));
    http.ask(&json!({"jsonrpc": "2.0", "id": 99, "method": "no/such\u{0}method"}));
    // The one who asks is a connection too.
    for (status, connections) in [(live(&daemon), 3), (daemon.status(), 2)] {
        assert_eq!((&status["connections"], &status["sessions"]), (&json!(connections), &json!(2)), "{status}");
        for of in [&status, &status["servers"][0]] {
            let (r, m) = (&of["requests"], &of["methods"]);
            assert_eq!((&r["total"], &r["errors"], &r["per_minute"]), (&json!(43), &json!(21), &json!(43)), "{of}");
            assert_eq!((&r["recent"]["total"], &r["recent"]["errors"]), (&json!(43), &json!(21)));
            assert_eq!((&m["tools/call"]["total"], &m["tools/call"]["errors"]), (&json!(40), &json!(20)));
            for one in ["tools/list", "initialize", "other"] {
                assert_eq!(m[one]["total"], 1, "{one}");
            }
            let (p50, p95, p99) = (&r["p50_ms"], &r["p95_ms"], &r["p99_ms"]);
            assert!(0.0 < p50.as_f64().unwrap() && p50.as_f64() <= p95.as_f64() && p95.as_f64() <= p99.as_f64());
        }
        assert_eq!(status["servers"][1]["methods"], json!({}));
    }
    let status = live(&daemon);
    let (own, child) = (&status["process"], &status["servers"][0]["process"]);
    let fds = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let pid = daemon.child("fake");
    assert_eq!((child["open_files"].as_u64().unwrap(), &child["processes"]), (fds(pid), &json!(1)));
    let field = |pid, name: &str| {
        let text = proc(pid, "status");
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name}:")).map(str::to_owned)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    assert_eq!(child["threads"], field(pid, "Threads"));
    let near = |said: &Value, kib: u64| said.as_u64().unwrap().abs_diff(kib << 10) < 4 << 20;
    assert!(near(&child["memory_bytes"], field(pid, "VmRSS")), "{child}");
    assert!(near(&own["memory_bytes"], field(daemon.pid, "VmRSS")), "{own}");
    assert!(own["threads"].as_u64().unwrap().abs_diff(field(daemon.pid, "Threads")) <= 2, "{own}");
    let nested = &status["servers"][1]["process"];
    assert_eq!(nested["processes"], 2, "the program that the shell has started counts: {nested}");
    drop((ws, http));
    wait("the connections to be gone", || (live(&daemon)["connections"] == 1).then_some(()));
}

#[test]
fn idle_daemon_does_not_wake() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    let mut http = daemon.http("fake");
    assert_eq!(said(&ws.ask(&call(1, "echo", json!({"text": "a"})))), "a");
    assert_eq!(said(&http.ask(&call(1, "echo", json!({"text": "b"})))), "b");
    // How often a thread of it has gone to sleep.
    let switches = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid)).unwrap().flatten();
        let status = |t: std::fs::DirEntry| std::fs::read_to_string(t.path().join("status")).unwrap_or_default();
        let counts = tasks.map(status).map(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
            line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
        });
        counts.sum()
    };
    let mut last = (switches(), std::time::Instant::now());
    wait("two seconds of sleep", || {
        let now = switches();
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        (last.1.elapsed().as_secs() >= 2).then_some(())
    });
}

#[test]
fn a_server_without_a_living_child_is_never_healthy() {
    let scratch = Scratch::new();
    let more = "restart: (delay: \"200ms\", max_delay: \"200ms\")";
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], more)));
    assert_eq!((level(&live(&daemon)["health"]), level(&daemon.server("fake")["health"])), ("healthy", "healthy"));
    for round in 1..=4 {
        let child = daemon.child("fake");
        kill(child, libc::SIGKILL);
        wait("its end", || (!alive(child)).then_some(()));
        // From its very end on, and until another one lives.
        let (mut looks, mut worst) = (0, Value::Null);
        loop {
            let status = live(&daemon);
            let server = &status["servers"][0];
            if server["pids"][0].as_i64().is_some_and(|pid| alive(pid as i32)) && server["state"] == "ready" {
                break;
            }
            assert_ne!(level(&server["health"]), "healthy", "{server}");
            assert_ne!(level(&status["health"]), "healthy", "{status}");
            assert!(!server["health"]["reasons"].as_array().unwrap().is_empty(), "{server}");
            (looks, worst) = (looks + 1, server["health"].clone());
        }
        assert!(looks > 0, "{worst}");
        // Three in five minutes are too many, and that is not forgotten at once.
        let wanted = if round < 3 { "healthy" } else { "degraded" };
        assert_eq!(level(&live(&daemon)["health"]), wanted, "{round}");
    }
    let status = daemon.status();
    let reason = "server 'fake': its child ended 4 times in the last 5 minutes; the last one was ended by SIGKILL";
    assert!(status["health"]["reasons"][0].as_str().unwrap().starts_with(reason), "{}", status["health"]);
    assert!(daemon.log().contains("[WARN] server 'fake' is degraded: its child ended 3 times"), "{}", daemon.log());
    let alerts = status["alerts"].as_array().unwrap();
    let of = |check: &str| alerts.iter().filter(|a| a["check"] == check).count();
    assert_eq!((of("restarts"), of("state")), (1, 8), "{alerts:?}");
}

#[test]
fn error_rate_alert_is_told_and_survives_upgrade() {
    let scratch = Scratch::new();
    let script = format!("cd {} && cat >> told", scratch.dir.path().display());
    let key = format!("on_event: [\"/bin/sh\", \"-c\", {script:?}], alerts: (error_rate: 0.2),");
    let servers = stdio("fake", &[], "") + &stdio("other", &[], "required: false");
    let daemon = scratch.start(&scratch.instance_with("t", &key, &servers));
    let mut ws = daemon.ws("fake");
    let ask = |ws: &mut Ws, tool: &str, times| (0..times).for_each(|n| drop(ws.ask(&call(n, tool, json!({})))));
    ask(&mut ws, "echo", 9);
    ask(&mut ws, "nosuch", 2);
    // Two of twelve, the handshake included, are less than a fifth.
    assert_eq!(level(&live(&daemon)["health"]), "healthy");
    ask(&mut ws, "nosuch", 1);
    let status = live(&daemon);
    let why = "3 of 12 requests failed in the last 5 minutes (25 %; 20 % is the limit)";
    assert_eq!(status["health"], json!({"level": "degraded", "reasons": [format!("server 'fake': {why}")]}));
    assert_eq!(status["servers"][0]["health"], json!({"level": "degraded", "reasons": [why]}));
    assert_eq!(level(&status["servers"][1]["health"]), "healthy");
    let alert = &status["alerts"][0];
    assert_eq!(
        (&alert["check"], &alert["server"], &alert["what"]),
        (&json!("error-rate"), &json!("fake"), &json!(why))
    );
    ask(&mut ws, "nosuch", 40);
    assert_eq!(level(&live(&daemon)["health"]), "unhealthy");
    let told = || {
        let text = scratch.file("told");
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<Value>>()
    };
    let both = wait("both events", || Some(told()).filter(|all| all.len() == 2));
    for (event, level) in both.iter().zip(["degraded", "unhealthy"]) {
        assert_eq!((&event["event"], &event["level"]), (&json!("alert-raised"), &json!(level)), "{event}");
        assert_eq!((&event["check"], &event["server"]), (&json!("error-rate"), &json!("fake")), "{event}");
    }
    assert_eq!(both[0]["reason"], why);
    assert!(daemon.log().contains(&format!("[WARN] server 'fake' is degraded: {why}")), "{}", daemon.log());
    let shown = stdout(&scratch.ctl(&["status", "t"]));
    assert!(shown.contains("\n  health    unhealthy: server 'fake': 43 of 52 requests failed"), "{shown}");
    assert!(
        shown.contains("\n  alert     2") && shown.contains(&format!("Z server 'fake' is degraded: {why}")),
        "{shown}"
    );
    // Another program goes on with all of it, and says nothing twice.
    let before = daemon.status();
    assert!(scratch.ctl(&["restart", "t"]).status.success());
    let after = daemon.status();
    for same in ["alerts", "methods", "health"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["servers"][0]["methods"], before["servers"][0]["methods"]);
    assert_eq!(after["requests"]["recent"], before["requests"]["recent"]);
    // A server that is removed is nobody's concern any more.
    scratch.instance_with("t", &key, &stdio("other", &[], ""));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    wait("the last event", || (told().last()?["event"] == "alert-cleared").then_some(()));
    assert_eq!(live(&daemon)["health"], json!({"level": "healthy", "reasons": []}));
    assert_eq!(told().len(), 3);
    drop(ws);
}

#[test]
fn session_limit_alert_degrades_and_a_stop_raises_none() {
    let scratch = Scratch::new();
    let more = "limits: (connections: 4), alerts: (connections: 0.5),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "")));
    let _raw = Raw::open(daemon.address());
    wait("the alert", || (level(&live(&daemon)["health"]) == "degraded").then_some(()));
    let status = daemon.status();
    let why = status["health"]["reasons"][0].as_str().unwrap();
    assert!(why.ends_with(" open, and 4 is the limit (limits.connections): more are refused"), "{why}");
    assert_eq!(level(&status["servers"][0]["health"]), "healthy");
    assert!(daemon.log().contains("[WARN] t is degraded: "), "{}", daemon.log());
    let watched = stdout(&scratch.ctl(&["status"]));
    assert!(
        watched.contains("health    degraded: 2 connections") || watched.contains("degraded: 1 connection"),
        "{watched}"
    );
    daemon.stop();
    assert_eq!(daemon.log().matches("[WARN]").count(), 1, "{}", daemon.log());
}

#[test]
fn metrics_are_valid_and_true() {
    use std::io::Write as _;
    let scratch = Scratch::new();
    let exec = "\"host\": Exec(allow: [\"date\"]),";
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &[], "") + exec)));
    let mut ws = daemon.ws("fake");
    for n in 0..5 {
        ws.ask(&call(n, "echo", json!({"text": "x"})));
        ws.ask(&call(n, "nosuch", json!({})));
    }
    ws.ask(&json!({"jsonrpc": "2.0", "id": 9, "method": "of/a\"stranger"}));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    let answer = get(daemon.address(), "/metrics");
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some(kind)));
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
    let piped = std::process::Stdio::piped;
    let mut child = promtool.stdout(piped()).stderr(piped()).spawn().expect("promtool (tests/install brings it)");
    child.stdin.take().unwrap().write_all(answer.body.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}\n{}", answer.body);
    let value = |line: &str| {
        let found = answer.body.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{}", answer.body)).parse::<f64>().unwrap()
    };
    let duration = "mcpdaemon_request_duration_seconds";
    for (line, wanted) in [
        (format!("{duration}_count{{server=\"fake\",method=\"tools/call\"}}"), 10.0),
        (format!("{duration}_bucket{{le=\"+Inf\",server=\"fake\",method=\"tools/call\"}}"), 10.0),
        (format!("{duration}_count{{server=\"fake\",method=\"other\"}}"), 1.0),
        ("mcpdaemon_request_errors_total{server=\"fake\",method=\"tools/call\"}".to_owned(), 5.0),
        ("mcpdaemon_sessions".to_owned(), 1.0),
        ("mcpdaemon_connections".to_owned(), 2.0),
        ("mcpdaemon_reloads_total{result=\"applied\"}".to_owned(), 1.0),
        ("mcpdaemon_config_last_reload_successful".to_owned(), 1.0),
        ("mcpdaemon_server_state{server=\"fake\",state=\"ready\"}".to_owned(), 1.0),
        ("mcpdaemon_server_processes{server=\"host\"}".to_owned(), 0.0),
        ("mcpdaemon_health{level=\"unhealthy\"}".to_owned(), 1.0),
    ] {
        assert_eq!(value(&line), wanted, "{line}");
    }
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_start_time_seconds") > 1.7e9);
    assert!(!answer.body.contains("stranger"), "what a client says is no label");
    // Prometheus itself asks for this.
    let mut raw = Raw::open(daemon.address());
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    raw.send(format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n").as_bytes());
    let answer = raw.response();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type").as_deref(), Some(kind));
    assert!(answer.body.ends_with("\n# EOF\n") && answer.body.contains("mcpdaemon_sessions 1.0\n"));
}
