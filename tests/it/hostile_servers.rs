//! Servers that say what is not for everybody.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::*;

#[test]
fn what_one_client_made_a_shared_server_say_is_told_to_no_other() {
    let scratch = Scratch::new();
    let rests = "restart: (delay: \"30s\", max_delay: \"30s\")";
    let bad = stdio("bad", &["--exit", "5", "--stderr", "my key is hunter2"], &format!("required: false, {rests}"));
    let file = scratch.instance_with("t", "bridge: Prefix,", &(stdio("fake", &[], rests) + &bad));
    let daemon = scratch.start(&file);
    let secrets = ["diagnosis of A", "asked to die", "hunter2", "no database"];
    let silent = |what: &str, text: &str| {
        let said = secrets.iter().find(|secret| text.contains(**secret));
        assert!(said.is_none(), "{what} says '{}': {text}", said.unwrap());
    };
    let mut a = daemon.ws("fake");
    let (mut b, mut c) = (daemon.http("fake"), Http::open_at(daemon.address(), "/mcp"));
    assert_eq!(said(&a.ask(&call(1, "stderr", json!({"n": 1, "text": secrets[0]})))), "written");
    b.send(&call(2, "sleep", json!({"n": 60_000})).to_string());
    c.send(&call(2, "fake__sleep", json!({"n": 60_000})).to_string());
    wait("the calls", || (daemon.server("fake")["requests"]["in_flight"] == 2).then_some(()));
    a.send(&call(2, "die", json!({"n": 7})).to_string());
    for (who, text) in [("B", b.raw.response().body), ("a client of the bridge", c.raw.response().body)] {
        assert!(text.contains("server 'fake' exited with status 7"), "{text}");
        silent(who, &text);
    }
    wait("its words", || daemon.log().contains("[fake] its last words: ").then_some(()));
    // One that cannot start says how it ended, and no more.
    wait("the end of the other one", || (daemon.server("bad")["state"] == "backoff").then_some(()));
    wait("the end of the first one", || (daemon.server("fake")["state"] == "backoff").then_some(()));
    for path in ["/status", "/readyz", "/", "/metrics"] {
        let answer = get(daemon.address(), path).body;
        silent(path, &answer);
        if path == "/status" {
            assert!(answer.contains("exited with status 5 before it answered 'initialize'"), "{answer}");
        }
    }
    silent("the status file", &scratch.file("run/t.status"));
    // Who may read the log finds all of it there, and mcpctl looks there for him.
    secrets.iter().for_each(|secret| assert!(daemon.log().contains(secret), "{secret}: {}", daemon.log()));
    let out = scratch.ctl(&["status", "t"]);
    let text = stdout(&out);
    assert!(text.contains("exited with status 7\n") && text.contains("its last words: "), "{text}");
    // One line each, which says best what is wrong; the rest stands in the log.
    for cause in ["its last words: fatal: asked to die\n", "its last words: fatal: no database\n"] {
        assert!(text.contains(cause), "{cause}: {text}");
    }
    let text = stdout(&scratch.ctl(&["logs", "t", "-n", "1000"]));
    secrets.iter().for_each(|secret| assert!(text.contains(secret), "{secret}: {text}"));
    if nix::unistd::Uid::effective().is_root() {
        let ctl = scratch.path("mcpctl");
        copy_program(mcpctl(), &ctl);
        std::fs::set_permissions(scratch.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let run = scratch.path("run").display().to_string();
        let ctl = ctl.display().to_string();
        let stranger =
            ["--reuid", "65533", "--regid", "65533", "--clear-groups", &ctl, "--run-dir", &run, "status", "t"];
        let text = stdout(&scratch.run("setpriv", &stranger));
        assert!(text.contains("exited with status 7\n"), "{text}");
        silent("mcpctl of a stranger", &text);
    }
}

#[test]
fn what_a_session_s_own_server_said_is_told_to_its_client() {
    let scratch = Scratch::new();
    let own = stdio("own", &[], "sharing: PerSession(spare: 0)");
    let daemon = scratch.start(&scratch.instance("t", &own));
    let mut ws = daemon.ws("own");
    ws.ask(&initialize(json!(0)));
    let answer = ws.ask(&call(1, "die", json!({"n": 7})));
    assert_eq!(answer["error"]["message"], "server 'own' exited with status 7: fatal: asked to die");
    drop(ws);
}

#[test]
fn requests_of_a_server_to_its_client_are_bounded() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("own", &[], "sharing: PerSession(spare: 0)")));
    for (count, pad, passed) in [(1100, 0, 1000), (3, 2000, 0)] {
        let before = daemon.dropped("refused_server_requests");
        let mut ws = daemon.ws("own");
        ws.ask(&initialize(json!(0)));
        ws.send(&call(1, "ask_flood", json!({"n": count, "ms": pad})).to_string());
        let mut asked = 0;
        while ws.next().unwrap()["method"] == "sampling/createMessage" {
            asked += 1;
        }
        assert_eq!((asked, daemon.dropped("refused_server_requests") - before), (passed, count - passed));
    }
}

/// Each of thousands of changes would be a message to each session.
#[test]
fn a_storm_of_changes_is_told_as_few() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut all: Vec<Ws> = (0..40).map(|_| daemon.ws("fake")).collect();
    for ws in &mut all {
        ws.ask(&initialize(json!(0)));
        ws.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    }
    let mut asking = daemon.ws("fake");
    asking.ask(&initialize(json!(0)));
    let storm = call(1, "storm", json!({"n": 5000})).to_string();
    asking.send(&storm);
    let mut told = 0;
    loop {
        let message = asking.next().unwrap();
        if message["id"] == 1 {
            break;
        }
        told += 1;
    }
    // The first at once, and one for each 50 ms of the storm and after it.
    assert!((1..200).contains(&told), "{told}");
    for ws in &mut all {
        assert_eq!(ws.next().unwrap()["method"], "notifications/tools/list_changed");
    }
}
