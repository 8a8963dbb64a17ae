//! Children that hang, and children that are there only while they are needed.

use serde_json::json;

use crate::harness::*;

const QUICK: &str = "restart: (delay: \"50ms\", max_delay: \"200ms\", burst: 100)";
const PINGS: &str = "health: (interval: \"50ms\", timeout: \"300ms\", failures: 3)";

fn healthy(more: &str) -> String {
    format!("{QUICK}, {PINGS}, {more}")
}

#[test]
fn error_reply_to_ping_counts_as_healthy() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--tell-pings"], &healthy(""))));
    let mut http = daemon.http("fake");
    // The fake answers each ping with "method not found". It stays through more pings than it may miss.
    let child = daemon.child("fake");
    wait("twice as many pings as it may miss", || (daemon.log().matches("[fake] a ping").count() > 6).then_some(()));
    assert_eq!((daemon.child("fake"), daemon.server("fake")["state"].as_str()), (child, Some("ready")));
    assert_eq!(said(&http.ask(&call(1, "count", json!({})))), "1");
}

#[test]
fn hung_child_is_unhealthy_and_then_replaced() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], &healthy(""))));
    let mut http = daemon.http("fake");
    http.ask(&call(1, "sulk", json!({"n": 2})));
    // Two pings are left unanswered, one fewer than it may miss; then it is well again.
    let reason = wait("unhealthy", || {
        let server = daemon.server("fake");
        (server["state"] == "unhealthy").then(|| server["reason"].as_str().unwrap_or_default().to_owned())
    });
    assert!(reason.ends_with("of 3 pings unanswered"), "{reason}");
    assert_eq!(daemon.status()["state"], "degraded");
    wait("well again", || (daemon.server("fake")["state"] == "ready").then_some(()));
    let child = daemon.child("fake");
    assert_eq!(daemon.server("fake")["restarts"], 0);
    // Stopped by a signal it answers nothing for ever, and works on nothing, whatever was asked of it.
    http.send(&call(2, "sleep", json!({"n": 60_000})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    kill(child, libc::SIGSTOP);
    let answer = http.raw.response().json();
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("server 'fake' did not answer pings and is replaced"), "{why}");
    assert_eq!(said(&http.ask(&call(3, "count", json!({})))), "1", "a new process");
    let server = daemon.server("fake");
    assert_eq!((&server["restarts"], server["pids"][0] != child), (&json!(1), true), "{server}");
    wait("the old one is gone", || (!alive(child)).then_some(()));
}

#[test]
fn busy_child_is_not_a_hung_child() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], &healthy(""))));
    let mut http = daemon.http("fake");
    let child = daemon.child("fake");
    // It reads nothing for longer than all pings together may take.
    assert_eq!(said(&http.ask(&call(1, "hog", json!({"n": 2500, "text": "done"})))), "done");
    assert_eq!((daemon.child("fake"), &daemon.server("fake")["restarts"]), (child, &json!(0)));
}

#[test]
fn hung_child_of_a_session_is_replaced_and_restored() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], &healthy("sharing: PerSession(spare: 0)"))));
    let mut http = daemon.http("fake");
    assert_eq!(said(&http.ask(&call(1, "count", json!({})))), "1");
    assert_eq!(said(&http.ask(&call(2, "count", json!({})))), "2");
    http.ask(&call(3, "sulk", json!({"n": 100})));
    wait("another child", || (daemon.server("fake")["restarts"] == 1).then_some(()));
    assert_eq!(said(&http.ask(&call(4, "count", json!({})))), "1");
}

#[test]
fn on_demand_child_starts_on_request_and_stops_when_idle() {
    let scratch = Scratch::new();
    let more = format!("{QUICK}, start: OnDemand(idle: \"400ms\")");
    let servers = format!("{}{}", stdio("fake", &[], &more), stdio("clock", &[], &more));
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let server = daemon.server("fake");
    assert_eq!((&server["state"], &server["pids"]), (&json!("idle"), &json!([])), "no process before it is needed");
    assert_eq!(get(daemon.address(), "/readyz").status, 200, "{}", get(daemon.address(), "/readyz").body);
    // The first request starts it; a slow one keeps it.
    let mut http = daemon.http("fake");
    assert_eq!(said(&http.ask(&call(1, "count", json!({})))), "1");
    let first = daemon.child("fake");
    assert_eq!(said(&http.ask(&call(2, "sleep", json!({"n": 1200, "text": "still"})))), "still");
    assert_eq!(daemon.child("fake"), first);
    wait("idle", || (daemon.server("fake")["state"] == "idle").then_some(()));
    wait("no process", || (!alive(first)).then_some(()));
    // The session lives on; what it asks for starts another child, and is not lost.
    assert_eq!(said(&http.ask(&call(3, "count", json!({})))), "1");
    let second = daemon.child("fake");
    assert!(second != first && second != 0);
    // A subscription is a use.
    let subscribe = json!({"jsonrpc": "2.0", "id": 4, "method": "resources/subscribe", "params": {"uri": "test://r"}});
    assert_eq!(http.ask(&subscribe)["result"], json!({}));
    let mut clock = daemon.http("clock");
    for n in 0..3 {
        // Another server with the same idle time shows how it passes.
        assert_eq!(said(&clock.ask(&call(n, "count", json!({})))), "1");
        wait("its idle time", || (daemon.server("clock")["state"] == "idle").then_some(()));
    }
    assert_eq!(daemon.child("fake"), second);
    assert_eq!(daemon.server("fake")["restarts"], 0, "rest is no failure");
    assert_eq!(daemon.log().matches("is backoff").count(), 0);
}

#[test]
fn on_demand_requests_that_come_while_a_child_goes_down_are_answered_by_the_next() {
    let scratch = Scratch::new();
    // It ignores the end of its input, so that going down takes a while.
    let more = format!("{QUICK}, start: OnDemand(idle: \"100ms\"), stop: (stdin: \"300ms\")");
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--ignore-eof"], &more)));
    let mut http = daemon.http("fake");
    for n in 0..10 {
        assert_eq!(said(&http.ask(&call(n, "echo", json!({"text": "here"})))), "here");
        wait("on its way down", || (daemon.server("fake")["state"] != "ready").then_some(()));
    }
    assert_eq!(daemon.server("fake")["restarts"], 0);
}

#[test]
fn dead_spare_child_is_replaced() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], &healthy("sharing: PerSession(spare: 1)"))));
    let pids = || -> Vec<i64> {
        let pids = daemon.server("fake")["pids"].clone();
        pids.as_array().unwrap().iter().filter_map(serde_json::Value::as_i64).collect()
    };
    for round in 0..2 {
        let before = wait("a child and a spare", || Some(pids()).filter(|p| p.len() == 2));
        kill(before[1] as i32, libc::SIGKILL);
        wait("another spare", || Some(pids()).filter(|p| p.len() == 2 && p[0] == before[0] && p[1] != before[1]));
        if round == 0 {
            // One that was there before an upgrade is looked after as well.
            assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
        }
    }
    assert_eq!(said(&daemon.http("fake").ask(&call(1, "count", json!({})))), "1");
}
