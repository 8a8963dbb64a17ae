//! Stopping: what is in flight is finished, what cannot be is told, and then nothing is left.

use std::time::Instant;

use serde_json::json;

use crate::harness::*;

#[test]
fn sigterm_finishes_calls_in_flight() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let (mut http, mut ws, idle) = (daemon.http("fake"), daemon.ws("fake"), daemon.http("fake"));
    let mut stream = http.stream();
    http.send(&call("h", "sleep", json!({"n": 600, "text": "over HTTP"})).to_string());
    ws.send(&call("w", "sleep", json!({"n": 600, "text": "over WebSocket"})).to_string());
    wait("both", || (daemon.status()["requests"]["in_flight"] == 2).then_some(()));
    kill(daemon.pid, libc::SIGTERM);
    wait("draining", || (daemon.status()["state"] == "draining").then_some(()));
    assert!(std::net::TcpStream::connect(daemon.address()).is_err(), "no new connections");
    let waits = daemon.status()["waiting_for"].clone();
    assert_eq!(waits[0], "2 requests of server 'fake'", "{waits}");
    // New requests on open connections are refused with words.
    ws.send(&call("late", "echo", json!({})).to_string());
    let refused = ws.next().unwrap();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("late"), &json!(-32000)));
    assert_eq!(stream.event(), None, "streams without a request end");
    let answer = http.raw.response();
    assert_eq!(said(&answer.json()), "over HTTP");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(said(&ws.next().unwrap()), "over WebSocket");
    assert_eq!(ws.close_code(), Some(1001));
    drop(idle);
    scratch.gone();
    assert!(!scratch.path("run/t.pid").exists() && !scratch.path("run/t.status").exists());
    assert!(daemon.log().trim_end().ends_with("[INFO] t: ended"), "{}", daemon.log());
}

#[test]
fn sigterm_when_idle_ends_at_once() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let (_idle, mut ws) = (daemon.http("fake"), daemon.ws("fake"));
    // It answers the good-bye, as clients do.
    let reader = std::thread::spawn(move || ws.close_code());
    let begun = Instant::now();
    daemon.stop();
    assert!(!scratch.path("run/t.status").exists(), "a status file came back");
    // Milliseconds; the bound is that of the drain time, which it must not wait for.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(reader.join().unwrap(), Some(1001));
}

#[test]
fn drain_timeout_ends_the_rest_with_errors() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "drain_timeout: \"300ms\",", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let (mut http, mut ws) = (daemon.http("fake"), daemon.ws("fake"));
    http.send(&call("h", "never", json!({})).to_string());
    ws.send(&call("w", "never", json!({})).to_string());
    wait("both", || (daemon.status()["requests"]["in_flight"] == 2).then_some(()));
    let out = scratch.ctl(&["stop", "t"]);
    assert!(out.status.success(), "{out:?}");
    for message in [http.raw.response().json(), ws.next().unwrap()] {
        assert_eq!(message["error"]["message"], "the daemon is shutting down", "{message}");
        assert_eq!(message["error"]["code"], -32000);
    }
    assert_eq!(ws.close_code(), Some(1001));
    scratch.gone();
}

#[test]
fn second_sigterm_cuts_the_drain_short() {
    let scratch = Scratch::new();
    for second in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        let daemon = scratch.start(&scratch.instance_with("t", "drain_timeout: \"10m\",", &stdio("fake", &[], "")));
        let mut ws = daemon.ws("fake");
        ws.send(&call(1, "never", json!({})).to_string());
        wait("the request", || (daemon.status()["requests"]["in_flight"] == 1).then_some(()));
        kill(daemon.pid, libc::SIGTERM);
        wait("draining", || (daemon.status()["state"] == "draining").then_some(()));
        kill(daemon.pid, second);
        scratch.gone();
        assert!(ws.next().unwrap()["error"]["message"].as_str().unwrap().contains("shutting down"));
    }
}

#[test]
fn mcpctl_stop_waits_and_force_kills() {
    let scratch = Scratch::new();
    let servers = stdio(
        "fake",
        &["--grandchild", "stubborn", "--ignore-eof", "--ignore-term"],
        "stop: (stdin: \"10m\", term: \"10m\")",
    );
    let daemon = scratch.start(&scratch.instance_with("t", "drain_timeout: \"10m\",", &servers));
    let mut ws = daemon.ws("fake");
    ws.send(&call(1, "never", json!({})).to_string());
    wait("the request", || (daemon.status()["requests"]["in_flight"] == 1).then_some(()));
    let out = scratch.ctl(&["stop", "t", "--timeout", "1500ms"]);
    assert_eq!(code(&out), 1);
    assert!(stderr(&out).contains("t: waits for 1 request of server 'fake', 1 connection"), "{}", stderr(&out));
    assert!(
        stderr(&out).contains(
            "t: still running after 1s500ms, waiting for 1 request of server 'fake', 1 connection (--force kills it)"
        ),
        "{}",
        stderr(&out)
    );
    assert!(alive(daemon.pid));
    let out = scratch.ctl(&["stop", "t", "--timeout", "100ms", "--force"]);
    assert_eq!((code(&out), stdout(&out)), (0, format!("t: killed (pid {}, after 100ms)\n", daemon.pid)));
    assert!(!alive(daemon.pid));
    let left: Vec<_> = scratch
        .processes()
        .into_iter()
        .filter(|(pid, _)| alive(*pid))
        .filter(|(pid, _)| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c != "mcpguard\n"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    scratch.gone();
}

#[test]
fn repeated_sigterm_skips_grace_times() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &["--ignore-eof", "--ignore-term"], "stop: (stdin: \"10m\", term: \"10m\")");
    for again in [Some(libc::SIGTERM), None] {
        let daemon = scratch.start(&scratch.instance("t", &servers));
        match again {
            Some(signal) => {
                kill(daemon.pid, libc::SIGTERM);
                wait("the ladder", || (daemon.server("fake")["state"] == "stopping").then_some(()));
                kill(daemon.pid, signal);
            }
            // SIGQUIT needs no second time.
            None => kill(daemon.pid, libc::SIGQUIT),
        }
        scratch.gone();
    }
}
