//! What somebody meets who sets it up for the first time: files as his editor saves them, mistakes that are easily made,
//! tokens, names, and folders of other users.

use std::net::TcpStream;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::*;

/// What `-t` says of a text, which is no configuration.
fn refused(scratch: &Scratch, text: &str) -> String {
    let file = scratch.write("t.ron", text);
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
    assert_eq!(code(&out), 78, "{text}: {out:?}");
    stderr(&out)
}

#[test]
fn files_with_a_byte_order_mark_and_windows_line_ends_are_read() {
    let scratch = Scratch::new();
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest("s3cret"));
    scratch.write("tokens", &format!("\u{feff}ann {hash}\r\n"));
    let text = format!(
        "\u{feff}(\r\n    listen: [\"127.0.0.1:0\"],\r\n    log: (file: {:?}),\r\n    auth: Bearer(\"tokens\"),\r\n    servers: {{{}}},\r\n)\r\n",
        scratch.path("t.log"),
        stdio("fake", &[], "")
    );
    let file = scratch.write("t.ron", &text);
    scratch.write("t.d/more.ron", &format!("\u{feff}Stdio(command: [{:?}])\r\n", fake()));
    let daemon = scratch.start(&file);
    let mut raw = Raw::open(daemon.address());
    let get = format!(
        "GET /status HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n\r\n",
        daemon.address()
    );
    raw.send(get.as_bytes());
    let status = raw.response();
    assert!(status.status == 200 && status.body.contains("\"more\""), "{status:?}");
    // Columns are those that an editor shows.
    let out = scratch.write("bad.ron", "\u{feff}(servrs: {})\r\n");
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &out.display().to_string()]);
    assert!(stderr(&out).contains("bad.ron:1:2: unknown key 'servrs'"), "{out:?}");
    std::fs::write(scratch.path("bad.ron"), b"\xff\xfe(\0)\0").unwrap();
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &scratch.path("bad.ron").display().to_string()]);
    assert!(stderr(&out).contains("it is UTF-16 text: save it as UTF-8"), "{out:?}");
}

#[test]
fn a_file_of_another_kind_is_told_for_what_it_is() {
    let scratch = Scratch::new();
    for (text, told) in [
        (r#"{"mcpServers": {"a": {"command": "x"}}}"#, "'mcpdaemon --import FILE' makes an instance file of it"),
        ("[mcp_servers.a]\ncommand = \"x\"\n", "'mcpdaemon --import FILE'"),
        (r#"{"servers": {}}"#, "this is JSON"),
        ("// mine\nservers: {\"a\": Stdio(command: [\"x\"])},\n", "the whole file stands in parentheses"),
        ("", "there is nothing in this file"),
        ("// only a comment\n", "there is nothing in this file"),
    ] {
        let why = refused(&scratch, text);
        assert!(why.contains(told) && why.contains("t.ron:1:1: "), "{text}: {why}");
    }
    for command in [r#""sleep 100""#, r#"["sleep 100"]"#] {
        let why = refused(&scratch, &format!("(servers: {{\"a\": Stdio(command: {command})}})"));
        assert!(why.contains(r#"a program and its arguments are a list, ["sleep", "100"]"#), "{why}");
    }
    let why = refused(&scratch, r#"(servers: {"a": Stdio(command: "/bin/sleep 100")})"#);
    assert!(why.contains(r#"a list, ["/bin/sleep", "100"]"#), "{why}");
}

#[test]
fn a_new_token_is_a_line_and_lets_its_owner_in() {
    let scratch = Scratch::new();
    let out = scratch.run(mcpdaemon(), &["--new-token", "ann"]);
    assert_eq!(code(&out), 0);
    let (line, told) = (stdout(&out), stderr(&out));
    let token = told.trim_end().lines().last().unwrap();
    assert!(token.len() >= 43 && !line.contains(token), "{line} {told}");
    scratch.write("tokens", &line);
    // As other sections are written, too.
    let file = scratch.instance_with("t", "auth: Bearer(file: \"tokens\"),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let status = |token: &str| {
        let mut raw = Raw::open(daemon.address());
        let ask = format!(
            "GET /status HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
            daemon.address()
        );
        raw.send(ask.as_bytes());
        raw.response().status
    };
    assert_eq!((status(token), status("wrong")), (200, 401));
    for _ in 0..28 {
        status("wrong");
    }
    let log = daemon.log();
    assert_eq!(log.matches("was not let in (401)").count(), 1, "{log}");
    assert!(!log.contains("wrong") && !log.contains(token), "{log}");
    let again = scratch.run(mcpdaemon(), &["--new-token", "ann"]);
    assert_ne!(stdout(&again), line, "none is made twice");
    for name in ["", "two words", "a#b"] {
        assert_eq!(code(&scratch.run(mcpdaemon(), &["--new-token", name])), 64, "{name}");
    }
    assert_eq!(code(&scratch.run(mcpdaemon(), &["--new-token", "a", "-c", "x.ron"])), 64);
}

#[test]
fn a_token_that_was_hashed_with_a_line_feed_is_understood_and_said() {
    let scratch = Scratch::new();
    // As `echo s3cret | sha256sum` has it, with the name of the file behind.
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest("s3cret\n"));
    scratch.write("tokens", &format!("ann {hash}  -\n"));
    let daemon = scratch.start(&scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &stdio("fake", &[], "")));
    for _ in 0..3 {
        let mut raw = Raw::open(daemon.address());
        let body = initialize(json!(1)).to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\n{ACCEPT}Authorization: Bearer s3cret\r\nContent-Length: {}\r\n\r\n{body}",
            daemon.address(),
            body.len()
        );
        raw.send(head.as_bytes());
        assert_eq!(raw.response().status, 200);
    }
    let log = daemon.log();
    assert_eq!(log.matches("the token of 'ann' was hashed with a line feed").count(), 1, "{log}");
}

#[test]
fn a_name_stands_for_all_its_addresses() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "listen: [\"localhost:0\"],", &stdio("fake", &[], "")));
    let port: u16 = daemon.address().rsplit(':').next().unwrap().parse().unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if has_v6 {
        TcpStream::connect(("::1", port)).unwrap();
        assert_eq!(get(&format!("[::1]:{port}"), "/healthz").status, 200);
        assert_eq!(daemon.status()["listen"].as_array().unwrap().len(), 2);
    }
    // Both stay over an upgrade, and both go with a reload.
    assert!(scratch.ctl(&["restart", "t"]).status.success());
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(!has_v6 || TcpStream::connect(("::1", port)).is_ok());
    scratch.instance_with("t", "listen: [\"127.0.0.1:0\"],", &stdio("fake", &[], ""));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    wait("the old ones to close", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    assert!(TcpStream::connect(("::1", port)).is_err());
    assert_eq!(daemon.status()["listen"].as_array().unwrap().len(), 1);
}

#[test]
fn import_writes_a_new_file_only_when_it_succeeds() {
    let scratch = Scratch::new();
    let run = |from: &str, to: &str| scratch.run(mcpdaemon(), &["--import", from, "-o", to]);
    scratch.write("bad.json", "{\"mcpServers\": ");
    assert_eq!(code(&run("bad.json", "mine.ron")), 65);
    assert!(!scratch.path("mine.ron").exists());
    scratch.write("good.json", r#"{"mcpServers": {"a": {"command": "true"}}}"#);
    let out = run("good.json", "mine.ron");
    assert!(code(&out) == 0 && stdout(&out).is_empty(), "{out:?}");
    let text = scratch.file("mine.ron");
    assert!(text.contains("\"a\": Stdio("), "{text}");
    let out = run("good.json", "mine.ron");
    assert!(code(&out) == 73 && stderr(&out).contains("there is such a file already"), "{out:?}");
    assert_eq!(code(&scratch.run(mcpdaemon(), &["-o", "x.ron", "-c", "y.ron"])), 64);
}

#[test]
fn a_user_whom_the_daemon_becomes_has_folders_of_his_own() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("not root: nobody else can be become");
    }
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = scratch.path("server");
    copy_program(fake(), &program);
    let text = format!(
        "(listen: [\"127.0.0.1:0\"], user: \"nobody\", log: (rotate: (size: \"64KiB\")), servers: {{\"a\": Stdio(command: [{program:?}])}})"
    );
    let file = scratch.write("mine.ron", &text);
    // With folders of root's that are this test's alone.
    let script = format!(
        "set -e; for dir in /run /var/log /var/lib; do mount -t tmpfs none $dir; done; \
         {daemon} -c {file}; {ctl} status --check mine; \
         ls -ld /run/mcp/nobody /var/log/mcp/nobody /var/lib/mcpdaemon/nobody; ls -l /var/lib/mcpdaemon/nobody; cat /run/mcp/nobody/mine.pid; \
         {ctl} reload mine; {ctl} restart mine; {ctl} logs mine; {ctl} stop mine; \
         ls -A /run/mcp/nobody; {ctl} logs -n 1 mine; \
         {daemon} -c {file}; {ctl} stop mine",
        daemon = mcpdaemon(),
        ctl = mcpctl(),
        file = file.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).current_dir("/").env_remove("MCP_RUN_DIR").env_remove("MCP_LOG_DIR");
    command.env_remove("MCP_STATE_DIR");
    let out = command.output().unwrap();
    if stderr(&out).contains("unshare failed") || stderr(&out).contains("mount:") {
        return eprintln!("no mounts of its own can be had here");
    }
    let said = stdout(&out);
    assert!(out.status.success(), "{said}{}", stderr(&out));
    let owned = |path: &str| said.lines().any(|l| l.ends_with(path) && l.contains(" nobody "));
    assert!(owned("/run/mcp/nobody") && owned("/var/log/mcp/nobody"), "{said}");
    assert!(owned("/var/lib/mcpdaemon/nobody") && owned("session.key"), "{said}");
    assert!(!said.contains("has no access"), "{said}");
    assert_eq!(said.matches("mine: stopped").count(), 2, "{said}");
}

#[test]
fn a_second_start_from_another_file_is_told_from_which_one_the_first_runs() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], "")));
    let text = std::fs::read_to_string(scratch.path("t.ron")).unwrap();
    let other = scratch.write("other/t.ron", &text).display().to_string();
    let link = scratch.path("link.ron");
    std::os::unix::fs::symlink(scratch.path("t.ron"), &link).unwrap();
    let start = |args: &[&str]| {
        let out = scratch.run(mcpdaemon(), args);
        assert_eq!((code(&out), stdout(&out).as_str()), (75, ""));
        stderr(&out)
    };
    let plain = format!("t: already running (pid {})", daemon.pid);
    let from = scratch.path("t.ron").canonicalize().unwrap();
    let named = format!("{plain}; it runs from {}: give this one a name of its own by --name\n", from.display());
    assert_eq!(start(&["-c", &other]), named);
    assert_eq!(start(&["-c", link.to_str().unwrap(), "--name", "t"]), already_running(daemon.pid));
}

#[test]
fn mistyped_commands_are_answered_with_what_was_meant() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("prod", &stdio("fake", &[], "")));
    for (args, exit, wanted) in [
        (&["status", "prod.ron"][..], 3, "prod.ron: not running, did you mean 'prod'?\n"),
        (&["stop", "prdo"], 7, "prdo: not running, did you mean 'prod'?\n"),
        (&["status", "other.ron"], 3, "other.ron: not running: the instance of that file is called 'other'\n"),
        (&["reload", "nothing"], 7, "nothing: not running ('mcpctl list' shows what does)\n"),
        (&["restart", "prod/fake"], 2, "by --server elsewhere\n"),
        (&["prod", "status"], 2, "; the verb comes first: mcpctl status prod\n"),
        (&["start", "prod"], 2, "; to start an instance: mcpdaemon -c FILE\n"),
        (&["logs", "prod", "--server", "fke"], 1, "prod: there is no server 'fke', did you mean 'fake'?\n"),
        (&["wait", "prod", "--timeout", "soon"], 2, "write 500ms, 30s or 5m, or seconds"),
        (&["wait", "prdo", "--timeout", "0"], 1, "it does not run, did you mean 'prod'?\n"),
    ] {
        let out = scratch.ctl(args);
        let said = stdout(&out) + &stderr(&out);
        assert!(code(&out) == exit && said.contains(wanted), "{args:?}: {} {said}", code(&out));
    }
    assert_eq!(code(&scratch.ctl(&["wait", "prod", "--timeout", "60"])), 0, "a bare number is one of seconds");
    // Somebody who waits hears what for.
    let out = scratch.ctl(&["wait", "late", "--timeout", "6s"]);
    assert!(stderr(&out).starts_with("late: still waiting: it does not run\n"), "{out:?}");
    for (args, wanted) in [
        (&["-c", ""][..], "-c is empty: it names an instance file, or a folder of them"),
        (&["--", "uvx mcp-server-time"], "leave the quotes out: -- uvx mcp-server-time\n"),
        (&["--listen", "http://127.0.0.1:8003/x", "--", "true"], "write '127.0.0.1:8003', without http://\n"),
    ] {
        let out = scratch.run(mcpdaemon(), args);
        assert!(!out.status.success() && stderr(&out).contains(wanted), "{args:?}: {out:?}");
    }
    let said = |text: &str| {
        let file = scratch.write("wrong.ron", text).display().to_string();
        stderr(&scratch.run(mcpdaemon(), &["-t", "-c", &file]))
    };
    let misplaced = said("(start_timeout: \"2m\", servers: {\"a\": Exec(allow: [\"*\"])})");
    assert!(misplaced.contains("'start_timeout' does not go here, but into a server"), "{misplaced}");
    let respelled = said("(severs: {})");
    assert!(respelled.ends_with(":1:2: unknown key 'severs', did you mean 'servers'?\n"), "{respelled}");
    assert_eq!(respelled.lines().count(), 1, "{respelled}");
    drop(daemon);
}

#[test]
fn the_file_can_come_from_the_environment() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let run = |config: &std::path::Path, args: &[&str]| {
        scratch.command(mcpdaemon()).args(args).env("MCP_CONFIG", config).output().unwrap()
    };
    assert_eq!(stdout(&run(&file, &["-t"])), "t: configuration OK\n");
    let out = run(&file, &[]);
    let daemon = scratch.started(&stdout(&out));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    // It is held by the next program, which starts with the same environment.
    let out = scratch.ctl(&["restart", "t"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(daemon.status()["config"], file.canonicalize().unwrap().display().to_string());
    // What is said on the command line goes before it.
    let none = scratch.write("none.ron", "(");
    assert_eq!(stdout(&run(&none, &["-t", "-c", file.to_str().unwrap()])), "t: configuration OK\n");
    assert_eq!(code(&run(&none, &["-t"])), 78);
    assert_eq!(code(&run(&none, &["-t", "--", "cat"])), 0);
}
