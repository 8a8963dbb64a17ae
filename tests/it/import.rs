//! `mcpdaemon --import`: from a client's file to an instance that runs.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::harness::*;
use crate::upstream::{Reply, Upstream};

#[test]
fn imported_mcp_servers_json_runs() {
    let scratch = Scratch::new();
    let odd = "  ~ $HOME ${HOME} \"quoted\" \\ // é";
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let file = json!({"mcpServers": {
        "My Server": {"command": fake(), "args": ["--tool", odd], "env": {"ODD": "~/x", "WORD": "${env:SECRET}"}},
        "far": {"url": format!("http://{}/mcp", upstream.address), "headers": {"X-Word": "${env:SECRET}"}},
        "old": {"url": "https://far.example/sse"},
    }});
    scratch.write("client.json", &format!("\u{feff}// a comment\n{file:#}"));
    let out = scratch.run(mcpdaemon(), &["--import", "client.json"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(stderr(&out), "client.json: 2 servers imported; 1 not carried over, the comments say why\n");
    let made = scratch.write("t.ron", &stdout(&out));
    let check = |secret: &str| {
        let mut command = scratch.command(mcpdaemon());
        command.args(["-t", "-c", "t.ron"]).env_remove("SECRET");
        if !secret.is_empty() {
            command.env("SECRET", secret);
        }
        command.output().unwrap()
    };
    assert!(stderr(&check("")).contains("${SECRET} is not set in the environment"), "{}", stderr(&check("")));
    assert_eq!(stdout(&check("hunter")), "t: configuration OK\n");
    let mut start = scratch.command(mcpdaemon());
    let out = start.args(["-c", made.to_str().unwrap(), "--listen", "127.0.0.1:0"]).env("SECRET", "hunter").output();
    let daemon = scratch.started(&stdout(&out.unwrap()));
    let mut ws = daemon.ws("My-Server");
    let tools = ws.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    assert_eq!(tools["result"]["tools"][0]["name"], odd);
    let environ = std::fs::read(format!("/proc/{}/environ", daemon.child("My-Server"))).unwrap();
    let environ = String::from_utf8_lossy(&environ).replace('\0', "\n");
    assert!(environ.contains("ODD=~/x\n") && environ.contains("WORD=hunter\n"), "{environ}");
    let mut far = daemon.ws("far");
    assert_eq!(said(&far.ask(&call(1, "echo", json!({"text": "hello"})))), "hello");
    assert_eq!(upstream.asked("tools/call")[0].header("x-word"), Some("hunter"));
    drop((ws, far));
    daemon.stop();
}

#[test]
fn import_from_standard_input_and_to_a_closed_pipe() {
    let scratch = Scratch::new();
    let text = r#"{"servers": {"a": {"command": "cat"}}}"#;
    let run = |text: &str, out: Stdio| {
        let mut command = scratch.command(mcpdaemon());
        let mut child =
            command.args(["--import", "-"]).stdin(Stdio::piped()).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let out = run(text, Stdio::piped());
    assert_eq!((code(&out), stderr(&out).as_str()), (0, "standard input: 1 server imported\n"));
    scratch.write("t.ron", &stdout(&out));
    assert_eq!(stdout(&scratch.run(mcpdaemon(), &["-t", "-c", "t.ron"])), "t: configuration OK\n");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = run(text, full.into());
    let wanted = "mcpdaemon: cannot write to standard output: No space left on device\n";
    assert_eq!((code(&out), stderr(&out).as_str()), (73, wanted));
}

#[test]
fn import_errors_name_their_place() {
    let scratch = Scratch::new();
    scratch.write("a.json", "{\n  \"mcpServers\": {\"x\": {\"comand\": \"y\"}}\n}");
    std::fs::write(scratch.path("b.json"), b"\xff\xfe{\0}\0").unwrap();
    for (args, exit, wanted) in [
        (
            &["a.json"][..],
            65,
            "a.json:2:23: server \"x\": there is neither 'command' nor 'url'; did you mean 'command' by \"comand\"?\n",
        ),
        (&["b.json"], 65, "b.json: it is not UTF-8 text\n"),
        (&["none.json"], 65, "none.json: cannot read it: No such file or directory\n"),
        (&["a.json", "-c", "t.ron"], 64, "mcpdaemon: --import FILE goes alone"),
    ] {
        let out = scratch.run(mcpdaemon(), &[&["--import"], args].concat());
        assert_eq!((code(&out), stdout(&out).as_str()), (exit, ""), "{args:?}");
        assert!(stderr(&out).starts_with(wanted), "{args:?}: {}", stderr(&out));
    }
}
