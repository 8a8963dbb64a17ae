//! Reload: all or nothing, and nobody who is not concerned notices.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::json;

use crate::harness::*;

fn reload(scratch: &Scratch) -> (i32, String) {
    let out = scratch.ctl(&["reload", "t"]);
    (code(&out), stdout(&out) + &stderr(&out))
}

#[test]
fn reload_adds_removes_replaces_adjusts_and_keeps_servers() {
    let scratch = Scratch::new();
    let old = stdio("same", &[], "")
        + &stdio("args", &["--tool", "old"], "")
        + &stdio("time", &[], "")
        + &stdio("gone", &[], "");
    let daemon = scratch.start(&scratch.instance("t", &old));
    let pids = |names: &[&str]| names.iter().map(|n| daemon.child(n)).collect::<Vec<_>>();
    let before = pids(&["same", "time", "args", "gone"]);
    let (mut same, mut args, mut gone) = (daemon.http("same"), daemon.ws("args"), daemon.ws("gone"));
    let mut stream = daemon.http("args").stream();
    let new = stdio("same", &[], "")
        + &stdio("args", &["--tool", "new"], "")
        + &stdio("time", &[], "request_timeout: \"1s\"")
        + &stdio("fresh", &[], "");
    scratch.instance("t", &new);
    assert_eq!(
        reload(&scratch),
        (0, "t: reloaded (1 added, 1 restarted, 1 adjusted, 1 removed, 1 unchanged)\n".into())
    );
    assert_eq!(pids(&["same", "time"]), before[..2]);
    assert_ne!(daemon.child("args"), before[2]);
    wait("the old children's end", || (!alive(before[2]) && !alive(before[3])).then_some(()));
    assert_eq!(said(&same.ask(&call(1, "echo", json!({"text": "still"})))), "still");
    // A session of a changed server lives on with the new child, and is told that lists may differ.
    assert_eq!(args.next().unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed");
    let mut tools = args.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    while tools.get("method").is_some() {
        tools = args.next().unwrap();
    }
    assert_eq!(tools["result"]["tools"][0]["name"], "new");
    assert_eq!(gone.close_code(), Some(1001));
    assert_eq!(said(&daemon.ws("fresh").ask(&call(1, "echo", json!({"text": "hi"})))), "hi");
    let status = daemon.status();
    assert_eq!((&status["generation"], &status["last_reload"]["ok"]), (&json!(2), &json!(true)));
    let mut raw = Raw::open(daemon.address());
    raw.send(
        format!("POST /servers/gone/mcp HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", daemon.address())
            .as_bytes(),
    );
    assert_eq!(raw.response().status, 404);
}

#[test]
fn reload_of_a_bad_file_changes_nothing() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let child = daemon.child("fake");
    scratch.write("t.ron", "(listen: [\"127.0.0.1:0\"],\n  servres: {},\n  servers: {\"fake\": Stdio(comand: \"x\")})");
    let (code, text) = reload(&scratch);
    assert_eq!(code, 1);
    let file = scratch.path("t.ron").display().to_string();
    assert_eq!(
        text,
        format!(
            "t: reload refused, still running the old configuration: {file}:2:3: unknown key 'servres', did you mean 'servers'?\n    \
             {file}:3:21: 'command' is missing: which program is the server?\n    \
             {file}:3:27: unknown key 'comand', did you mean 'command'?\n"
        )
    );
    assert!(daemon.log().contains("reload refused, still running the old configuration"));
    let status = daemon.status();
    assert_eq!(
        (&status["generation"], &status["reloads"], &status["last_reload"]["ok"]),
        (&json!(1), &json!(1), &json!(false))
    );
    assert_eq!(daemon.child("fake"), child);
    std::fs::remove_file(scratch.path("t.ron")).unwrap();
    let (code, text) = reload(&scratch);
    assert!(code == 1 && text.contains("cannot read it: No such file"), "{text}");
    assert_eq!(daemon.child("fake"), child);
}

#[test]
fn reload_is_refused_when_a_required_server_cannot_start() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("a", &[], "")));
    let child = daemon.child("a");
    let broken = stdio("a", &["--exit", "4"], "") + &stdio("b", &[], "");
    scratch.instance("t", &broken);
    let (code, text) = reload(&scratch);
    assert_eq!(code, 1);
    assert!(
        text.contains("required server 'a' cannot start: exited with status 4") && text.contains("fatal: no database"),
        "{text}"
    );
    assert_eq!(daemon.child("a"), child);
    assert_eq!(daemon.status()["servers"].as_array().unwrap().len(), 1);
    wait("nothing started in vain", || (scratch.processes().len() == 3).then_some(()));
    // Not required: an affair of that server alone.
    scratch.instance("t", &(stdio("a", &["--exit", "4"], "required: false") + &stdio("b", &[], "")));
    assert_eq!(reload(&scratch).0, 0);
    assert_eq!(daemon.server("b")["state"], "ready");
    wait("its trouble", || (daemon.server("a")["restarts"].as_u64() > Some(0)).then_some(()));
}

#[test]
fn reload_moves_listeners_without_a_gap() {
    let scratch = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken_at, free_at) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
    drop(free);
    let daemon = scratch.fake(&[]);
    let mut old = daemon.ws("fake");
    let servers = stdio("fake", &[], "");
    scratch.instance_with("t", &format!("listen: [\"{free_at}\", \"{taken_at}\"],"), &servers);
    let (code, text) = reload(&scratch);
    assert!(
        code == 1 && text.contains(&format!("cannot listen on {taken_at}: the address is in use by pid")),
        "{text}"
    );
    assert!(std::net::TcpStream::connect(free_at).is_err(), "what was opened in vain is closed");
    assert_eq!(get(daemon.address(), "/healthz").status, 200);
    scratch.instance_with("t", &format!("listen: [\"{free_at}\"],"), &servers);
    assert_eq!(reload(&scratch), (0, "t: reloaded (1 unchanged, 1 listener opened, 1 closed)\n".into()));
    assert_eq!(get(&free_at.to_string(), "/healthz").status, 200);
    wait("the old one's end", || std::net::TcpStream::connect(daemon.address()).is_err().then_some(()));
    assert_eq!(said(&old.ask(&call(1, "echo", json!({"text": "kept"})))), "kept");
    assert_eq!(daemon.status()["listen"], json!([format!("http://{free_at}")]));
}

#[test]
fn reload_by_edit_rename_and_symlink_and_sighup_during_reload() {
    let scratch = Scratch::new();
    let text = |n: u32| {
        let log = scratch.path("t.log");
        format!("(listen: [\"127.0.0.1:0\"], log: (file: {log:?}), servers: {{{}}})", stdio(&format!("s{n}"), &[], ""))
    };
    // A symlink to a folder that is switched, as Kubernetes does it.
    for n in [1, 5] {
        scratch.write(&format!("v{n}/t.ron"), &text(n));
    }
    std::os::unix::fs::symlink("v1", scratch.path("current")).unwrap();
    let daemon = scratch.start(&scratch.path("current/t.ron"));
    let has = |n: u32| daemon.status()["servers"][0]["name"] == format!("s{n}");
    assert!(has(1));
    scratch.write("v1/t.ron", &text(2));
    assert_eq!(reload(&scratch).0, 0);
    assert!(has(2), "in place");
    scratch.write("v1/.t.ron.swp", &text(3));
    std::fs::rename(scratch.path("v1/.t.ron.swp"), scratch.path("v1/t.ron")).unwrap();
    assert_eq!(reload(&scratch).0, 0);
    assert!(has(3), "by rename");
    std::os::unix::fs::symlink("v5", scratch.path("next")).unwrap();
    std::fs::rename(scratch.path("next"), scratch.path("current")).unwrap();
    assert_eq!(reload(&scratch).0, 0);
    assert!(has(5), "by a switched symlink");
    assert_eq!(reload(&scratch), (0, "t: reloaded (1 unchanged)\n".into()));
    // A storm: the last edit is what counts.
    for n in 10..30 {
        scratch.write("v5/t.ron", &text(n));
        kill(daemon.pid, libc::SIGHUP);
    }
    wait("the last", || has(29).then_some(()));
}

#[test]
fn reload_under_load_fails_no_request_of_unchanged_servers() {
    let scratch = Scratch::new();
    let servers = |n: usize| stdio("kept", &[], "") + &stdio("moved", &["--tool", &format!("t{n}")], "");
    let daemon = scratch.start(&scratch.instance("t", &servers(0)));
    let child = daemon.child("kept");
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for who in 0..4 {
            let (daemon, stop) = (&daemon, &stop);
            s.spawn(move || {
                let name = if who % 2 == 0 { "kept" } else { "moved" };
                let (mut http, mut ws) = (daemon.http(name), daemon.ws(name));
                let mut n = 0;
                while !stop.load(Relaxed) || n < 20 {
                    n += 1;
                    let text = format!("{who}/{n}");
                    let request = call(n, "sleep", json!({"n": n % 4, "text": text}));
                    assert_eq!(said(&http.ask(&request)), text);
                    let mut answer = ws.ask(&request);
                    while answer.get("method").is_some() {
                        answer = ws.next().unwrap();
                    }
                    assert_eq!(said(&answer), text);
                }
            });
        }
        for n in 1..8 {
            scratch.instance("t", &servers(n));
            let (code, text) = reload(&scratch);
            assert_eq!(code, 0, "{text}");
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(daemon.child("kept"), child);
    assert_eq!(daemon.status()["requests"]["errors"], 0);
}

#[test]
fn the_log_level_changes_with_a_reload() {
    let scratch = Scratch::new();
    let log = scratch.path("t.log");
    let at = |level: &str| {
        scratch.instance_with("t", &format!("log: (file: {log:?}, level: {level}),"), &stdio("fake", &[], ""))
    };
    let daemon = scratch.start(&at("Warn"));
    assert!(!daemon.log().contains("[INFO]"));
    at("Info");
    assert_eq!(reload(&scratch).0, 0);
    assert!(daemon.log().contains("[INFO] reloaded: "), "{}", daemon.log());
}

#[test]
fn a_reload_tries_again_what_had_failed_for_good() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "restart: (policy: Never)")));
    let mut ws = daemon.ws("fake");
    ws.ask(&call(1, "die", json!({"n": 78})));
    wait("failed", || (daemon.server("fake")["state"] == "failed").then_some(()));
    assert_eq!(reload(&scratch).0, 0);
    wait("ready", || (daemon.server("fake")["state"] == "ready").then_some(()));
}

#[test]
fn a_request_on_a_replaced_child_can_still_be_cancelled_and_is_told_of_a_stop() {
    let scratch = Scratch::new();
    let at = |n: u32| {
        scratch.instance_with("t", "drain_timeout: \"400ms\",", &stdio("fake", &["--tool", &n.to_string()], ""))
    };
    let daemon = scratch.start(&at(1));
    let mut ws = daemon.ws("fake");
    ws.send(&call("c", "sleep", json!({"n": 300})).to_string());
    ws.send(&call("k", "never", json!({})).to_string());
    wait("both", || (daemon.server("fake")["requests"]["in_flight"] == 2).then_some(()));
    at(2);
    assert_eq!(reload(&scratch).0, 0);
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c"}}"#);
    wait("the cancellation", || daemon.log().contains("[fake] cancelled").then_some(()));
    kill(daemon.pid, libc::SIGTERM);
    let told = loop {
        let message = ws.next().unwrap();
        if message.get("method").is_none() {
            break message;
        }
    };
    assert_eq!(told["id"], "k", "{told}");
    assert!(told["error"]["message"].is_string(), "{told}");
    scratch.gone();
}

#[test]
fn a_listener_moves_between_addresses_that_overlap_and_nobody_is_refused() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let port = daemon.address().rsplit_once(':').unwrap().1;
    let servers = stdio("fake", &[], "");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(Relaxed) {
                assert_eq!(get(daemon.address(), "/healthz").status, 200);
            }
        });
        let moves = [("localhost", ""), ("0.0.0.0", "insecure: true,"), ("127.0.0.1", "")].map(|(host, more)| {
            scratch.instance_with("t", &format!("listen: [\"{host}:{port}\"], {more}"), &servers);
            reload(&scratch)
        });
        stop.store(true, Relaxed);
        client.join().unwrap();
        for moved in moves {
            assert_eq!(moved, (0, "t: reloaded (1 unchanged, 1 listener opened, 1 closed)\n".into()));
        }
    });
    // What made it possible is over: the address is taken for everybody else.
    let other = std::net::TcpListener::bind(daemon.address());
    assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn refused_reload_removes_the_new_socket_file() {
    let scratch = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (socket, at) = (scratch.path("s.sock"), taken.local_addr().unwrap());
    // Sorted before the address that is taken, so it is made first.
    let both = format!("listen: [\"unix:{}\", \"{at}\"],", socket.display());
    let file = scratch.instance_with("t", &both, &stdio("fake", &[], ""));
    let out = scratch.run(mcpdaemon(), &["-c", file.to_str().unwrap()]);
    assert!(code(&out) == 69 && !socket.exists(), "{}", stderr(&out));
    let daemon = scratch.fake(&[]);
    scratch.instance_with(
        "t",
        &format!("listen: [\"unix:{}\"],", socket.display()),
        &stdio("fake", &["--exit", "1"], ""),
    );
    let (code, text) = reload(&scratch);
    assert!(code == 1 && text.contains("cannot start") && !socket.exists(), "{text}");
    scratch.instance_with("t", &format!("listen: [\"unix:{}\"],", socket.display()), &stdio("fake", &[], ""));
    assert_eq!(reload(&scratch).0, 0);
    assert!(socket.exists());
    // Somebody else's by now.
    std::fs::remove_file(&socket).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    daemon.stop();
    assert!(socket.exists());
    drop(other);
}

#[test]
fn a_new_name_is_not_applied_and_a_new_umask_is() {
    let scratch = Scratch::new();
    let at = |more: &str| {
        let servers = stdio("fake", &[], "");
        scratch.write("t.ron", &format!("(listen: [\"127.0.0.1:0\"], {more} servers: {{{servers}}})"))
    };
    let _daemon = scratch.start(&at(""));
    let mode = || scratch.path("logs/t.log").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o640);
    at("name: \"other\", umask: 0o077,");
    let text = "t: reloaded (1 unchanged, name not applied: needs a stop and a start)\n";
    assert_eq!(reload(&scratch), (0, text.into()));
    assert!(scratch.file("logs/t.log").contains("reloaded: ") && !scratch.path("logs/other.log").exists());
    std::fs::remove_file(scratch.path("logs/t.log")).unwrap();
    assert_eq!(reload(&scratch).0, 0);
    assert_eq!(mode(), 0o600);
}
