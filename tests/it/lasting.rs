//! Sessions that outlive the process: their ids are sealed with `session_key`.

use serde_json::{Value, json};

use crate::harness::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// An instance file with these servers and this key.
fn instance(scratch: &Scratch, key: &str, more: &str, servers: &str) -> std::path::PathBuf {
    scratch.write("sessions.key", key);
    scratch.instance_with("t", &format!("session_key: \"sessions.key\", {more}"), servers)
}

/// The same session at another address.
fn at(http: &Http, address: &str) -> Http {
    Http {
        address: address.to_owned(),
        path: http.path.clone(),
        session: http.session.clone(),
        accept: None,
        raw: Raw::open(address),
    }
}

fn echoes(http: &mut Http) -> bool {
    let answer = http.post(&call(1, "echo", json!({"text": "here"})).to_string());
    assert!([200, 404].contains(&answer.status), "{answer:?}");
    answer.status == 200 && said(&answer.json()) == "here"
}

/// With an id that this one does not know.
fn is_unknown(http: &Http, id: &str) -> bool {
    let mut other = at(http, &http.address);
    id.clone_into(&mut other.session);
    !echoes(&mut other)
}

#[test]
fn a_session_goes_on_after_stop_and_start_and_after_kill_9_at_every_kind_of_server() {
    let scratch = Scratch::new();
    // The answer to the handshake of a slow child begins as a stream, before it is known what is agreed on.
    let servers = stdio("fake", &[], "")
        + &stdio("own", &[], "sharing: PerSession()")
        + &stdio("slow", &["--slow-init", "1500"], "sharing: PerSession()")
        + "\"x\": Exec(allow: [\"echo\"]),";
    let file = instance(&scratch, KEY, "", &servers);
    let mut all: Vec<(Http, &str, Value)> = Vec::new();
    let heard = |http: &mut Http| serde_json::from_str::<Value>(said(&http.ask(&call(2, "hello", json!({}))))).unwrap();
    let mut before = Value::Null;
    for end in ["stop", "kill -9", "stop", "stop"] {
        let daemon = scratch.start(&file);
        if all.is_empty() {
            let text = json!({"text": "here"});
            all = vec![
                (daemon.http("fake"), "echo", text.clone()),
                (daemon.http("own"), "echo", text.clone()),
                (daemon.http("slow"), "echo", text.clone()),
                (daemon.http("x"), "execute", json!({"command": "echo", "args": ["-n", "here"]})),
                (Http::open_at(daemon.address(), "/mcp"), "fake__echo", text.clone()),
                (Http::open_at(daemon.address(), "/mcp"), "own__echo", text),
            ];
            before = heard(&mut all[1].0);
        } else {
            for (http, tool, args) in &mut all {
                assert!(http.session.len() < 512);
                *http = at(http, daemon.address());
                assert_eq!(said(&http.ask(&call(1, tool, args.clone()))), "here", "{tool}");
            }
            // What its client has said of itself is said again to a new child of its own.
            assert_eq!(heard(&mut all[1].0)["capabilities"], before["capabilities"]);
            // What was told before may have changed: the client hears so once it listens.
            let mut stream = all[0].0.stream();
            wait("list_changed", || {
                stream.event().filter(|e| e["method"] == "notifications/tools/list_changed").map(drop)
            });
        }
        assert_eq!(daemon.status()["sessions"], 6);
        match end {
            "stop" => daemon.stop(),
            _ => {
                kill(daemon.pid, libc::SIGKILL);
                scratch.gone();
            }
        }
    }
}

#[test]
fn an_id_is_good_at_each_instance_with_its_name_and_key_and_nowhere_else() {
    let (here, there, foreign) = (Scratch::new(), Scratch::new(), Scratch::new());
    let servers = stdio("fake", &[], "") + &stdio("other", &[], "");
    let one = here.start(&instance(&here, KEY, "session_prefix: \"a\",", &servers));
    let mut http = one.http("fake");
    assert!(http.session.starts_with("a."));
    // A new key first, and the one of before.
    let two = there.start(&instance(&there, &format!("{OTHER}\n{KEY}\n"), "session_prefix: \"b\",", &servers));
    assert!(echoes(&mut at(&http, two.address())) && echoes(&mut http));
    let newer = two.http("fake");
    assert!(!echoes(&mut at(&newer, one.address())), "sealed with the new key");
    let three = foreign.start(&instance(&foreign, OTHER, "", &servers));
    assert!(!echoes(&mut at(&http, three.address())), "another key");
    // Not at another server, nor changed, nor made up.
    let mut elsewhere = at(&http, two.address());
    elsewhere.path = "/servers/other/mcp".to_owned();
    assert!(!echoes(&mut elsewhere));
    let there = at(&newer, two.address());
    let mut forged = http.session.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    for id in [forged.as_str(), &http.session[2..20], "a.", "0123456789abcdef0123456789abcdef", &"A".repeat(500)] {
        assert!(is_unknown(&there, id), "{id}");
    }
    // Deleted here it is gone here, and the other instance has not heard of it.
    let gone = at(&http, one.address());
    let mut raw = gone.bare("DELETE");
    assert_eq!(raw.response().status, 204);
    assert!(!echoes(&mut at(&http, one.address())) && echoes(&mut at(&http, two.address())));
    // One that is not in memory is deleted as well.
    let other = one.http("fake");
    assert_eq!(at(&other, two.address()).bare("DELETE").response().status, 204);
    assert!(!echoes(&mut at(&other, two.address())) && echoes(&mut at(&other, one.address())));
    assert_eq!(at(&other, two.address()).bare("DELETE").response().status, 404, "twice");
}

#[test]
fn a_sealed_id_is_its_principals_alone_and_idleness_only_forgets() {
    let scratch = Scratch::new();
    // SHA-256 of ann-token and bob-token.
    let digest = |token: &str| {
        use sha2::Digest;
        data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(token))
    };
    scratch.write("tokens", &format!("ann {}\nbob {}\n", digest("ann-token"), digest("bob-token")));
    let more = "auth: Bearer(\"tokens\"), limits: (idle_session: \"1s\"),";
    let file = instance(&scratch, KEY, more, &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let ask = |address: &str, who: &str, session: &str, body: &str| {
        let session = if session.is_empty() { String::new() } else { format!("Mcp-Session-Id: {session}\r\n") };
        post(address, "/servers/fake/mcp", &format!("{ACCEPT}Authorization: Bearer {who}-token\r\n{session}"), body)
    };
    let opened = ask(daemon.address(), "ann", "", &initialize(json!(1)).to_string());
    let id = opened.header("mcp-session-id").unwrap();
    let echo = call(2, "echo", json!({"text": "mine"})).to_string();
    assert_eq!(ask(daemon.address(), "ann", &id, &echo).status, 200);
    wait("it is forgotten", || (sessions_of(&daemon) == 0).then_some(()));
    assert_eq!(ask(daemon.address(), "bob", &id, &echo).status, 404);
    assert_eq!(ask(daemon.address(), "ann", &id, &echo).status, 200, "idleness only forgets");
    // In place, with the sessions in memory, and by another process.
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    assert_eq!(ask(daemon.address(), "ann", &id, &echo).status, 200);
    daemon.stop();
    let daemon = scratch.start(&file);
    assert_eq!(ask(daemon.address(), "bob", &id, &echo).status, 404);
    assert_eq!(ask(daemon.address(), "ann", &id, &echo).status, 200);
    assert_eq!(ask(daemon.address(), "bob", &id, &echo).status, 404, "also once it is in memory");
}

/// How many sessions an instance has in memory.
fn sessions_of(daemon: &Daemon<'_>) -> u64 {
    daemon.status()["sessions"].as_u64().unwrap()
}

#[test]
fn a_key_that_is_none_is_refused_where_it_stands() {
    let scratch = Scratch::new();
    for (key, says) in [
        ("", "sessions.key: there is no key in it"),
        ("abc\n", "sessions.key:1: a key has 64 hexadecimal digits: 'openssl rand -hex 32' makes one"),
        (&format!("{KEY}\n{OTHER}\n{KEY}\n"), "sessions.key:3: there are two keys already"),
    ] {
        let file = instance(&scratch, key, "", &stdio("fake", &[], ""));
        let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
        assert!(code(&out) == 78 && stderr(&out).contains(says), "{}", stderr(&out));
    }
    let file = instance(&scratch, KEY, "", &stdio("fake", &[], ""));
    let out = scratch.run("sh", &["-c", &format!("chmod 644 sessions.key && {} -t -c t.ron", mcpdaemon())]);
    assert!(stderr(&out).contains("sessions.key: everybody can read this file, and it holds a secret"), "{out:?}");
    std::fs::remove_file(scratch.path("sessions.key")).unwrap();
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
    assert!(stderr(&out).contains("sessions.key: cannot read the keys of sessions: "), "{}", stderr(&out));
    // A reload with such a file changes nothing.
    let daemon = scratch.start(&instance(&scratch, KEY, "", &stdio("fake", &[], "")));
    scratch.write("sessions.key", "abc");
    assert_ne!(code(&scratch.ctl(&["reload", "t"])), 0);
    let mut http = daemon.http("fake");
    scratch.write("sessions.key", &format!("{OTHER}\n{KEY}\n"));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert!(echoes(&mut http), "what the old key has sealed goes on");
}

#[test]
fn without_a_session_key_an_instance_has_one_of_its_own_which_it_keeps() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let mode = |path: &str| std::fs::metadata(scratch.path(path)).unwrap().permissions().mode() & 0o777;
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let http = daemon.http("fake");
    let key = scratch.file("state/session.key");
    assert_eq!((mode("state"), mode("state/session.key")), (0o700, 0o600));
    // Another instance has the same key, and another name.
    let other = scratch.start(&scratch.instance("u", &stdio("fake", &[], "")));
    assert!(is_unknown(&other.http("fake"), &http.session));
    assert!(scratch.ctl(&["stop", "u"]).status.success());
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    let daemon = scratch.start(&file);
    assert!(echoes(&mut at(&http, daemon.address())));
    assert_eq!(scratch.file("state/session.key"), key);
    daemon.stop();
    // Who else can read it could go on with the sessions of others.
    std::fs::set_permissions(scratch.path("state/session.key"), PermissionsExt::from_mode(0o640)).unwrap();
    let daemon = scratch.start(&file);
    let log = daemon.log();
    assert!(log.contains("[WARN] sessions end with this process") && log.contains("not for its owner alone"), "{log}");
    assert!(!echoes(&mut at(&http, daemon.address())));
    daemon.stop();
    // Nor is one of use that somebody has broken.
    std::fs::set_permissions(scratch.path("state/session.key"), PermissionsExt::from_mode(0o600)).unwrap();
    scratch.write("state/session.key", "none");
    let daemon = scratch.start(&file);
    let log = daemon.log();
    assert!(log.contains("session.key: line 1: a key has 64 hexadecimal digits"), "{log}");
    assert!(!echoes(&mut at(&http, daemon.address())));
}

#[test]
fn a_key_that_cannot_be_kept_is_one_of_the_process_and_goes_on_in_an_upgrade() {
    let scratch = Scratch::new();
    let more = "limits: (idle_session: \"1s\"),";
    let file = scratch.instance_with("t", more, &stdio("fake", &[], ""));
    let start = || {
        let mut command = scratch.command(mcpdaemon());
        command.env("MCP_STATE_DIR", "/proc/none").arg("-c").arg(&file);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        scratch.started(&stdout(&out))
    };
    let daemon = start();
    assert!(daemon.log().contains("[INFO] sessions end with this process, for their key cannot be kept: /proc/none: "));
    let http = daemon.http("fake");
    wait("its session is forgotten", || (sessions_of(&daemon) == 0).then_some(()));
    let out = scratch.ctl(&["restart", "t"]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(echoes(&mut at(&http, daemon.address())));
    daemon.stop();
    let daemon = start();
    assert!(!echoes(&mut at(&http, daemon.address())));
}

#[test]
fn with_session_key_none_a_session_ends_with_the_process_and_when_it_is_idle() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "session_key: None,", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let http = daemon.http("fake");
    assert_eq!(http.session.len(), 32);
    daemon.stop();
    let daemon = scratch.start(&file);
    assert!(!echoes(&mut at(&http, daemon.address())));
    assert!(!scratch.path("state").exists(), "nothing is made where nothing is wanted");
}

/// What a killed daemon has left is ended before anything is started. Who comes meanwhile hears of no server that is missing.
#[test]
fn who_comes_while_the_rest_of_a_killed_daemon_is_ended_waits_for_the_server() {
    let scratch = Scratch::new();
    let port = crate::proxies::free_port();
    let stop = format!(
        "stop: (command: [\"sh\", \"-c\", \"while [ -e {} ]; do sleep 0.05; done\"])",
        scratch.path("wait").display()
    );
    let servers = stdio("fake", &[], &stop);
    let file = scratch.instance_with("t", &format!("listen: [\"127.0.0.1:{port}\"],"), &servers);
    let daemon = scratch.start(&file);
    let mut http = daemon.http("fake");
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    scratch.write("wait", "");
    let mut start = scratch.command(mcpdaemon()).arg("-c").arg(&file).spawn().unwrap();
    let raw = wait("the address", || {
        std::net::TcpStream::connect(daemon.address()).ok().map(|_| Raw::open(daemon.address()))
    });
    http.raw = raw;
    http.send(&call(1, "echo", json!({"text": "here"})).to_string());
    wait("the stop command", || scratch.processes().iter().any(|(_, line)| line.starts_with("sleep")).then_some(()));
    std::fs::remove_file(scratch.path("wait")).unwrap();
    assert_eq!(said(&http.raw.response().json()), "here");
    assert!(start.wait().unwrap().success());
    assert!(scratch.ctl(&["stop", "t"]).status.success());
}

/// The id of a session of `fake` that has shaken hands so many days ago.
fn id_of_days_ago(days: u64) -> String {
    use mcpdaemon::model::sealed::{Bound, Keys, Shaken};
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let bound = Bound { instance: "t", server: Some("fake"), principal: None };
    let shaken = Shaken::of("2025-11-25", None);
    let nonce = std::array::from_fn(|n| (n as u64 + days) as u8);
    Keys::parse(KEY).unwrap().seal(&bound, &shaken, now - days * 24 * 60 * 60, nonce).unwrap()
}

#[test]
fn a_session_that_is_used_gets_a_later_id_before_its_first_one_is_too_old() {
    let scratch = Scratch::new();
    let listen = format!("listen: [\"127.0.0.1:{}\"],", crate::proxies::free_port());
    let file = instance(&scratch, KEY, &listen, &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let mut http = daemon.http("fake");
    let told = |http: &mut Http, id: &str| {
        id.clone_into(&mut http.session);
        let answer = http.post(&call(1, "echo", json!({"text": "here"})).to_string());
        assert_eq!((answer.status, said(&answer.json())), (200, "here"), "{answer:?}");
        answer.header("mcp-session-id")
    };
    let (young, old) = (http.session.clone(), id_of_days_ago(6));
    assert_eq!(told(&mut http, &young), None, "it is young");
    assert!(is_unknown(&http, &id_of_days_ago(8)), "too old");
    let later = told(&mut http, &old).expect("a later id");
    assert!(later != old && later.len() < 512);
    assert_eq!((told(&mut http, &old), told(&mut http, &later)), (None, None), "both are good, and it is told once");
    assert_eq!(sessions_of(&daemon), 2, "it is one session");
    // The next program does not know whether the client has heard of it.
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    assert_eq!(told(&mut http, &old), Some(later.clone()), "told again, and no other one");
    assert_eq!((told(&mut http, &later), sessions_of(&daemon)), (None, 2));
    assert_eq!(code(&scratch.ctl(&["stop", "t"])), 0);
    scratch.gone();
    let daemon = scratch.start(&file);
    let mut http = at(&http, daemon.address());
    assert_eq!(told(&mut http, &later), None, "it goes on by the later one");
    // Deleted by the later one, its first one opens it no more.
    later.clone_into(&mut http.session);
    assert_eq!(http.bare("DELETE").response().status, 204);
    assert!(is_unknown(&http, &old) && is_unknown(&http, &later));
}

#[test]
fn the_typescript_client_takes_a_later_id() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, KEY, "", &stdio("fake", &[], "")));
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/session.mjs");
    let (url, old) = (format!("http://{}/servers/fake/mcp", daemon.address()), id_of_days_ago(3));
    let ask = |id, method: &str, params| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    let echo = json!({"name": "echo", "arguments": {"text": "here"}});
    let asked = [
        ask(1, "initialize", json!({})),
        ask(2, "session", json!({})),
        ask(3, "tools/call", echo.clone()),
        ask(4, "tools/call", echo),
        ask(5, "session", json!({})),
    ];
    let text = asked.map(|a| a.to_string() + "\n").concat();
    let input = std::fs::File::open(scratch.write("asked", &text)).unwrap();
    let out = scratch.command("node").args([program, &url, &old]).stdin(input).output().unwrap();
    let answers: Vec<Value> = stdout(&out).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 5, "{}{}", stdout(&out), stderr(&out));
    assert_eq!(answers[1]["result"]["id"], old);
    assert_eq!((said(&answers[2]), said(&answers[3])), ("here", "here"));
    let later = answers[4]["result"]["id"].as_str().unwrap();
    assert!(later != old && !later.is_empty(), "{answers:?}");
    assert_eq!(sessions_of(&daemon), 1);
}

#[test]
fn a_reload_with_a_new_key_before_the_old_one_ends_no_session() {
    let scratch = Scratch::new();
    let listen = format!("listen: [\"127.0.0.1:{}\"],", crate::proxies::free_port());
    let file = instance(&scratch, KEY, &listen, &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let mut old = daemon.http("fake");
    scratch.write("sessions.key", &format!("{OTHER}\n{KEY}\n"));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    let mut new = daemon.http("fake");
    assert!(echoes(&mut old) && echoes(&mut new), "both are in memory");
    daemon.stop();
    let daemon = scratch.start(&file);
    assert!(echoes(&mut at(&old, daemon.address())) && echoes(&mut at(&new, daemon.address())), "both are opened");
    // Without the old key, what is in memory goes on; nobody else opens the old one.
    scratch.write("sessions.key", OTHER);
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert!(echoes(&mut at(&old, daemon.address())) && echoes(&mut at(&new, daemon.address())));
    daemon.stop();
    let daemon = scratch.start(&file);
    assert!(!echoes(&mut at(&old, daemon.address())) && echoes(&mut at(&new, daemon.address())), "the new key alone");
}
