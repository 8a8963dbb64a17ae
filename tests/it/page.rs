//! The page for people: in a real browser, and who gets it.

use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn page_works_in_a_browser() {
    let scratch = Scratch::new();
    let bad = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    let servers = stdio("fake", &["--name", bad], "restart: (delay: \"8s\", max_delay: \"8s\")");
    let servers = servers + "\"host\": Exec(allow: [\"date\"]),";
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = |path: &str| root.join(path).display().to_string();
    let url = format!("http://{}/", daemon.address());
    let place = scratch.path("browser");
    std::fs::create_dir(&place).unwrap();
    let mut command = scratch.command("node");
    command.arg(file("tests/peers/page.mjs")).args(["--deps", &file("target/test-deps"), "--url", &url, "--scratch"]);
    command.arg(&place);
    // Pictures, for whoever wants to see what the browser saw.
    command.args(std::env::var("PAGE_SHOTS").iter().flat_map(|dir| ["--shots".to_owned(), dir.clone()]));
    let out = command.output().expect("node (tests/install brings the rest)");
    let steps: Vec<Value> = stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let failed: Vec<_> =
        steps.iter().filter(|s| s["ok"] != true).map(|s| format!("{}: {}", s["step"], s["why"])).collect();
    assert!(out.status.success() && failed.is_empty() && steps.len() == 14, "{}\n{}", failed.join("\n"), stderr(&out));
    scratch.gone();
}

#[test]
fn page_names_the_tools_of_each_server() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &[], "")
        + &stdio("hidden", &["--tool", "a_secret"], "tools: (deny: [\"*secret*\"])")
        + &stdio("own", &[], "sharing: PerSession(spare: 1)")
        + "\"host\": Exec(allow: [\"date\"]),";
    let daemon = scratch.start(&scratch.instance("t", &servers));
    // They are asked for while somebody looks.
    assert_eq!(daemon.status()["requests"]["total"], 0);
    let row = |page: &str, server: &str| {
        let from = page.split(&format!("id=\"server-{server}\"")).nth(1).unwrap().split("</details>").next().unwrap();
        let tools = from.split("<dt>Tools</dt><dd>").nth(1).expect("a row for tools");
        tools.split("</dd>").next().unwrap().to_owned()
    };
    for (server, tools) in [("fake", "1 (echo)"), ("hidden", "none"), ("own", "1 (echo)"), ("host", "1 (execute)")] {
        wait(server, || (row(&get(daemon.address(), "/").body, server) == tools).then_some(()));
    }
    // Nobody's request is counted for it, and no child is started.
    let status = daemon.status();
    assert_eq!((&status["requests"]["total"], &status["sessions"]), (&json!(0), &json!(0)));
}

#[test]
fn page_needs_auth_and_cannot_be_framed() {
    let scratch = Scratch::new();
    // "secret" by its SHA-256.
    let tokens = "me 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n";
    let file = scratch.write("tokens", tokens);
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let more = format!("auth: Bearer({:?}),", file.display().to_string());
    let env = "env: {\"API_KEY\": \"hunter2\"}, args: [\"--key\", \"hunter3\"]";
    let daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], env)));
    for path in ["/", "/metrics", "/status"] {
        assert_eq!(get(daemon.address(), path).status, 401, "{path}");
        let mut raw = Raw::open(daemon.address());
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n\r\n");
        raw.send(head.as_bytes());
        let answer = raw.response();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        for secret in ["hunter2", "hunter3", "2bb80d", "Bearer "] {
            assert!(!answer.body.contains(secret), "{secret} is in {path}");
        }
        if path == "/" {
            let policy = answer.header("content-security-policy").unwrap();
            assert!(
                policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"),
                "{policy}"
            );
            for (name, value) in [
                ("content-type", "text/html; charset=utf-8"),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-store"),
            ] {
                assert_eq!(answer.header(name).as_deref(), Some(value));
            }
        }
    }
    let mut raw = Raw::open(daemon.address());
    raw.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer secret\r\n\r\n");
    assert_eq!(raw.response().status, 403);
}

#[test]
fn page_history_and_log_survive_upgrade() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--stderr", "from the child"]);
    let mut ws = daemon.ws("fake");
    for n in 0..7 {
        ws.ask(&call(n, "echo", json!({"text": "x"})));
    }
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("another child", || (daemon.server("fake")["restarts"] == 1 && daemon.child("fake") > 0).then_some(()));
    let known = ["is backoff: was ended by SIGKILL", "t: ready on http", "this minute 7, most 7"];
    let page = || get(daemon.address(), "/").body;
    // What is in the log too must be there by itself.
    let events =
        |page: &str| page.split_once("id=\"events\"").unwrap().1.split_once("id=\"log\"").unwrap().0.to_owned();
    let before = page();
    known.iter().for_each(|text| assert!(before.contains(text), "{text} is not in {before}"));
    assert!(events(&before).contains(known[0]), "{before}");
    // What a child has said stands in the log file alone.
    assert!(daemon.log().contains("from the child") && !before.contains("from the child"), "{before}");
    assert!(scratch.ctl(&["restart", "t"]).status.success());
    let after = page();
    let kept = known.iter().chain(&["upgraded in place: "]);
    kept.for_each(|text| assert!(after.contains(text), "{text} is not in {after}"));
    assert!(events(&after).contains(known[0]) && !after.contains("from the child"), "{after}");
    drop(ws);
}
