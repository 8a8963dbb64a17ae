//! After the daemon did not run for a while (stopped, frozen, or the machine asleep), nobody is declared dead, idle or late
//! because of it.

use std::time::Duration;

use serde_json::json;

use crate::harness::*;

/// Stops the daemon and these other processes for so long: the very thing that is tested, and no wait for something else.
fn sleep_together(daemon: &Daemon<'_>, others: &[i32], time: Duration) {
    let all: Vec<i32> = others.iter().copied().chain([daemon.pid]).collect();
    all.iter().for_each(|pid| kill(*pid, 19));
    std::thread::sleep(time);
    all.iter().for_each(|pid| kill(*pid, 18));
}

#[test]
fn sessions_that_nobody_could_use_meanwhile_do_not_end() {
    let scratch = Scratch::new();
    let more = "limits: (idle_session: \"3s\"),";
    let servers = stdio("fake", &[], "") + &stdio("own", &[], "sharing: PerSession(idle: \"3s\"),");
    let daemon = scratch.start(&scratch.instance_with("t", more, &servers));
    let mut all = [daemon.http("fake"), daemon.http("own"), Http::open_at(daemon.address(), "/mcp")];
    sleep_together(&daemon, &[], Duration::from_secs(7));
    // Time enough for what would end them at once.
    std::thread::sleep(Duration::from_millis(700));
    for http in &mut all {
        http.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    }
    // And idle they end as ever.
    wait("the end of the idle ones", || (daemon.status()["sessions"] == 0).then_some(()));
}

#[test]
fn a_child_is_asked_anew_and_not_replaced() {
    let scratch = Scratch::new();
    let flags = "health: (interval: \"300ms\", timeout: \"500ms\", failures: 1),";
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--tell-pings"], flags)));
    let child = daemon.child("fake");
    wait("a first ping", || daemon.log().contains("a ping").then_some(()));
    for _ in 0..2 {
        sleep_together(&daemon, &[child], Duration::from_secs(4));
        let before = daemon.log().matches("a ping").count();
        wait("a fresh ping", || (daemon.log().matches("a ping").count() > before + 1).then_some(()));
    }
    assert_eq!(daemon.child("fake"), child);
    assert_eq!(daemon.server("fake")["restarts"], 0, "{}", daemon.log());
    assert!(!daemon.log().contains("unhealthy"), "{}", daemon.log());
}

#[test]
fn a_websocket_gets_a_fresh_chance_and_a_request_its_time() {
    let scratch = Scratch::new();
    let more = "websocket: (ping_interval: \"500ms\", ping_timeout: \"1s\"),";
    let daemon = scratch.start(&scratch.instance_with("t", more, &stdio("fake", &[], "request_timeout: \"2s\",")));
    let child = daemon.child("fake");
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(0)));
    ws.send(&call(1, "sleep", json!({"n": 1000, "text": "slept"})).to_string());
    wait("it to be under way", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    sleep_together(&daemon, &[child], Duration::from_secs(5));
    let answer = ws.next().unwrap();
    assert_eq!(said(&answer), "slept", "{answer}");
    assert_eq!(said(&ws.ask(&call(2, "echo", json!({"text": "still here"})))), "still here");
}

#[test]
fn a_start_goes_on() {
    let scratch = Scratch::new();
    let servers =
        stdio("fake", &[], "") + &stdio("slow", &["--slow-init", "1500"], "required: false, start_timeout: \"2s\",");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    sleep_together(&daemon, &[], Duration::from_secs(5));
    wait("it to be ready", || (daemon.server("slow")["state"] == "ready").then_some(()));
    assert!(!daemon.log().contains("did not answer"), "{}", daemon.log());
}
