//! Starting: success means that it serves, failure says why and leaves nothing.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};
use std::time::Instant;

use crate::harness::*;
use crate::watch::{Terminal, ended};

/// A start that must fail: its exit status, what it printed, and that nothing is left.
fn fails(scratch: &Scratch, args: &[&str]) -> (i32, String) {
    let out = scratch.run(mcpdaemon(), args);
    scratch.gone();
    assert!(!scratch.path("run/t.pid").exists(), "a PID file is left");
    assert!(!scratch.path("run/t.status").exists(), "a status file is left");
    assert_eq!(stdout(&out), "");
    (code(&out), stderr(&out))
}

fn start(scratch: &Scratch, file: &std::path::Path) -> Output {
    scratch.run(mcpdaemon(), &["-c", &file.display().to_string()])
}

#[test]
fn background_start_returns_when_it_serves() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("slow", &["--slow-init", "700"], ""));
    let begun = Instant::now();
    let out = start(&scratch, &file);
    assert!(begun.elapsed().as_millis() >= 700);
    let line = stdout(&out);
    let daemon = scratch.started(&line);
    assert_eq!(line, format!("t: ready on {} (pid {}, 1 server)\n", daemon.url, daemon.pid));
    assert_eq!(stderr(&out), "");
    TcpStream::connect(daemon.address()).unwrap();
    assert_eq!(get(daemon.address(), "/readyz").status, 200);
    assert_eq!(said(&daemon.ws("slow").ask(&call(1, "echo", serde_json::json!({"text": "up"})))), "up");
    // Away from the caller: another session, no terminal, /dev/null, the root directory.
    let fd = |n: u8| std::fs::read_link(format!("/proc/{}/fd/{n}", daemon.pid)).unwrap();
    assert!((0..3).all(|n| fd(n) == std::path::Path::new("/dev/null")));
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", daemon.pid)).unwrap(), std::path::Path::new("/"));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(fields[3], daemon.pid.to_string(), "a session leader could get a terminal");
    assert_eq!(fields[4], "0", "a controlling terminal");
}

#[test]
fn an_address_in_use_names_its_holder() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = scratch.instance_with("t", &format!("listen: [\"{address}\"],"), &stdio("a", &[], ""));
    let (code, text) = fails(&scratch, &["-c", &file.display().to_string()]);
    assert_eq!(code, 69, "{text}");
    let pid = std::process::id();
    assert!(
        text.starts_with(&format!("t: cannot listen on {address}: the address is in use by pid {pid}, ")),
        "{text}"
    );
}

#[test]
fn failed_server_start_is_explained_with_its_stderr() {
    for (servers, exit, wanted) in [
        (
            "\"x\": Stdio(command: [\"no-such-program-here\"])".to_owned(),
            78,
            &["t.ron:4:", "'no-such-program-here' was not found in PATH"][..],
        ),
        (
            stdio("x", &["--exit", "5"], ""),
            70,
            &["t: server 'x': exited with status 5 before it answered 'initialize'", "fatal: no database"],
        ),
        (
            stdio("x", &["--never-answer", "--die-after", "300"], ""),
            70,
            &["exited with status 3 before it answered 'initialize'", "fatal: dying as I was told"],
        ),
        (
            stdio("x", &["--never-answer", "--stderr", "waiting for the moon"], "start_timeout: \"300ms\""),
            70,
            &["it did not answer 'initialize' within 1s200ms (more than start_timeout", "waiting for the moon"],
        ),
        (
            stdio(
                "x",
                &["--deaf", "--ignore-term"],
                "start_timeout: \"100ms\", stop: (stdin: \"50ms\", term: \"50ms\")",
            ),
            70,
            &[
                "it did not answer 'initialize' within 400ms (more than start_timeout",
                "nothing came on its standard output",
            ],
        ),
        (
            stdio("x", &["--revision", "2031-01-01"], ""),
            70,
            &["its handshake failed: it speaks revision '2031-01-01', which is not supported"],
        ),
        ("\"x\": Stdio(command: [\"./bad\"])".to_owned(), 70, &["cannot start", "/bad: "]),
    ] {
        let scratch = Scratch::new();
        let bad = scratch.write("bad", "#!/no/such/interpreter\n");
        std::fs::set_permissions(bad, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let file = scratch.instance("t", &servers);
        let (code, text) = fails(&scratch, &["-c", &file.display().to_string()]);
        assert_eq!(code, exit, "{text}");
        for one in wanted {
            assert!(text.contains(one), "no '{one}' in: {text}");
        }
    }
}

#[test]
fn a_server_that_is_not_required_may_fail() {
    let scratch = Scratch::new();
    let servers = stdio("good", &[], "") + &stdio("bad", &["--exit", "1"], "required: false");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    assert_eq!(get(daemon.address(), "/readyz").status, 200);
    assert_eq!(daemon.status()["state"], "ready");
    let answer = daemon.ws("bad").ask(&call(1, "echo", serde_json::json!({})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("server 'bad' is"), "{answer}");
}

#[test]
fn wrong_usage_and_wrong_places_have_their_own_exit_status() {
    let scratch = Scratch::new();
    let ok = scratch.instance("t", &stdio("a", &[], ""));
    let ok = ok.display().to_string();
    let blocked = scratch.write("blocked", "");
    let log = scratch.write(
        "log.ron",
        &format!(
            "(listen: [\"127.0.0.1:0\"], name: \"t\", log: (file: \"{}/x.log\"), servers: {{{}}})",
            blocked.display(),
            stdio("a", &[], "")
        ),
    );
    scratch.write("broken.ron", "(name: \"t\",\n servers: {\"a\": Exec(allow: [\"*\")})");
    scratch.write("value.ron", "(drain_timeout: \"soon\", name: \"t\", servers: {\"a\": Exec(allow: [\"*\"])})");
    for (args, exit, wanted) in [
        (&[][..], 64, "what shall it run?"),
        (&["--confg", &ok], 64, "did you mean '--config'?"),
        (&["-c", &ok, "--", "true"], 64, "exclude each other"),
        (
            &["-c", "broken.ron"],
            78,
            "/broken.ron:2:33: this ')' closes nothing: the '[' of line 2, column 29 is still open",
        ),
        (&["-c", "value.ron"], 78, "/value.ron:1:17: expected a duration"),
        (&["-f", "-c", "broken.ron"], 78, "/broken.ron:2:33: this ')' closes nothing"),
        (&["-c", "/nonexistent.ron"], 78, "/nonexistent.ron: cannot read it: No such file or directory"),
        (&["-c", &ok, "--listen", "8003"], 78, "--listen: '8003' is no address"),
        (&["-c", &log.display().to_string()], 73, "cannot open the log: "),
        (&["-c", &ok, "--run-dir", &blocked.display().to_string()], 73, "blocked: cannot make the run directory: "),
        (
            &["-c", &ok, "--run-dir", "/tmp"],
            77,
            "/tmp: no place for the files of an instance: /tmp can be written by others",
        ),
    ] {
        let (code, text) = fails(&scratch, args);
        assert_eq!(code, exit, "{args:?}: {text}");
        assert!(text.contains(wanted), "{args:?}: {text}");
    }
}

#[test]
fn an_open_address_on_a_command_line_is_refused_with_what_is_possible_there() {
    let scratch = Scratch::new();
    let open = ["--name", "t", "--listen", "0.0.0.0:0"];
    let (code, text) = fails(&scratch, &[&open[..], &["--", "true"]].concat());
    let wanted = "--listen: '0.0.0.0:0' can be reached from other machines, and nothing asks who connects: \
                  listen on 127.0.0.1 or a unix: socket; for other addresses write an instance file, with 'auth' or \
                  insecure: true (-c)\n";
    assert_eq!((code, text.as_str()), (78, wanted));
    // With a file, it is the file that can say it; and it counts for a flag.
    let exec = "servers: {\"x\": Exec(allow: [\"cat\"])}";
    let file = scratch.write("t.ron", &format!("({exec})")).display().to_string();
    let (code, text) = fails(&scratch, &[&open[..], &["-c", &file]].concat());
    assert!(code == 78 && text.ends_with("a unix: socket, set 'auth', or write insecure: true\n"), "{text}");
    scratch.write("t.ron", &format!("(insecure: true, {exec})"));
    let out = scratch.run(mcpdaemon(), &[&open[..], &["-c", &file]].concat());
    scratch.started(&stdout(&out)).stop();
    // That about root can be said on a command line, and is said to be.
    if nix::unistd::Uid::effective().is_root() {
        let out =
            scratch.command(mcpdaemon()).args(["-t", "--", "true"]).env_remove("MCP_ALLOW_ROOT").output().unwrap();
        let wanted = "server 'true' would run as root: say --allow-root, or write an instance file with 'user' (-c)\n";
        assert!(stderr(&out).ends_with(wanted), "{}", stderr(&out));
    }
}

#[test]
fn a_configuration_is_tested_and_shown_without_a_trace() {
    let scratch = Scratch::new();
    let file = scratch.instance(
        "t",
        "\"a\": Stdio(command: [\"cat\"], env: {\"KEY\": \"hunter2\"}), \"b\": Exec(allow: [\"*\"], sell: \"x\")",
    );
    let out = scratch.run(mcpdaemon(), &["-t", "-c", "t.ron"]);
    assert_eq!(code(&out), 78);
    assert_eq!(stderr(&out).lines().count(), 1);
    assert!(stderr(&out).contains("t.ron:4:90: unknown key 'sell', did you mean 'shell'?"), "{}", stderr(&out));
    let fixed = std::fs::read_to_string(&file).unwrap().replace("sell", "shell").replace("\"x\"", "\"/bin/sh\"");
    std::fs::write(&file, &fixed).unwrap();
    let out = scratch.run(mcpdaemon(), &["-tc", "t.ron"]);
    assert_eq!((code(&out), stdout(&out).as_str()), (0, "t: configuration OK\n"));
    let out = scratch.run(mcpdaemon(), &["-T", "-c", "t.ron", "--log-level", "warn"]);
    let text = stdout(&out);
    assert!(text.contains("level: Warn, // flag --log-level") && text.contains("\"KEY\": \"***\""), "{text}");
    assert!(!text.contains("hunter2"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), fixed);
    assert!(!scratch.path("run").exists() && !scratch.path("t.log").exists());
}

#[test]
fn starts_without_a_terminal_under_nohup_cron_and_captured_pipes() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &[], ""));
    let file = file.display().to_string();
    let check = |line: String| {
        let daemon = scratch.started(&line);
        assert_eq!(get(daemon.address(), "/healthz").body, "ok\n");
        daemon.stop();
    };
    // Captured pipes: output() returns only once nobody holds them any more.
    check(stdout(&scratch.run(mcpdaemon(), &["-c", &file])));
    for prefix in ["nohup", "setsid -w", "nice"] {
        let out = scratch.command("sh").args(["-c", &format!("{prefix} {} -c {file}", mcpdaemon())]).output().unwrap();
        check(stdout(&out));
    }
    // Standard streams closed by the caller.
    let script = format!("{} -c {file} <&- >{}/out 2>&-", mcpdaemon(), scratch.dir.path().display());
    assert!(scratch.command("sh").args(["-c", &script]).status().unwrap().success());
    check(scratch.file("out"));
    // In the background of a shell that then ends.
    let script = format!("{} -c {file} >{}/out2 2>&1 & wait $!", mcpdaemon(), scratch.dir.path().display());
    assert!(scratch.command("sh").args(["-c", &script]).status().unwrap().success());
    check(scratch.file("out2"));
    // From a folder that is then deleted.
    let folder = scratch.path("doomed");
    std::fs::create_dir(&folder).unwrap();
    let out = scratch.command(mcpdaemon()).args(["-c", &file]).current_dir(&folder).output().unwrap();
    std::fs::remove_dir(&folder).unwrap();
    check(stdout(&out));
    // With a mask and ignored signals, as nohup and cron leave them.
    let mut command = scratch.command(mcpdaemon());
    command.args(["-c", &file]);
    // SAFETY: only async-signal-safe calls.
    unsafe {
        command.pre_exec(|| {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    check(stdout(&command.output().unwrap()));
}

#[test]
fn twenty_starts_at_once_start_one() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &["--slow-init", "200"], ""));
    let starts: Vec<_> = (0..20)
        .map(|_| {
            let mut command = scratch.command(mcpdaemon());
            command.arg("-c").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outs: Vec<Output> = starts.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
    let winners: Vec<&Output> = outs.iter().filter(|o| o.status.success()).collect();
    assert_eq!(winners.len(), 1, "{outs:?}");
    let daemon = scratch.started(&stdout(winners[0]));
    let refusal = already_running(daemon.pid);
    for loser in outs.iter().filter(|o| !o.status.success()) {
        assert_eq!((code(loser), stderr(loser).as_str()), (75, refusal.as_str()));
    }
    // The refused starts have done no harm.
    assert_eq!(daemon.server("a")["state"], "ready");
}

#[test]
fn a_daemon_killed_while_it_starts_is_reported() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &["--never-answer"], ""));
    let mut command = scratch.command(mcpdaemon());
    let child = command.arg("-c").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = wait("the PID file", || scratch.file("run/t.pid").trim().parse::<i32>().ok());
    wait("the child", || (scratch.processes().len() >= 4).then_some(()));
    kill(pid, libc::SIGKILL);
    let out = child.wait_with_output().unwrap();
    assert_eq!((code(&out), stdout(&out).as_str()), (70, ""));
    assert!(stderr(&out).starts_with("t: it died before it was ready"), "{}", stderr(&out));
    scratch.gone();
}

#[test]
fn a_start_that_is_interrupted_leaves_nothing() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &["--never-answer"], ""));
    let mut command = scratch.command(mcpdaemon());
    let child = command.arg("-c").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = wait("the PID file", || scratch.file("run/t.pid").trim().parse::<i32>().ok());
    wait("the child", || (scratch.processes().len() >= 4).then_some(()));
    kill(pid, libc::SIGTERM);
    let out = child.wait_with_output().unwrap();
    assert_eq!(code(&out), 70);
    assert!(stderr(&out).contains("interrupted by a signal"), "{}", stderr(&out));
    scratch.gone();
    assert!(!scratch.path("run/t.pid").exists());
}

#[test]
fn foreground_logs_to_stderr_and_ends_with_0() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &[], ""));
    let mut command = scratch.command(mcpdaemon());
    let child = command.args(["-f", "-c"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id() as i32;
    wait("ready", || scratch.file("run/t.status").contains("\"state\": \"ready\"").then_some(()));
    assert_eq!(scratch.file("run/t.pid"), format!("{pid}\n"));
    kill(pid, libc::SIGINT);
    let out = child.wait_with_output().unwrap();
    assert_eq!((code(&out), stdout(&out).as_str()), (0, ""));
    assert!(stderr(&out).contains("[INFO] t: ready on http://127.0.0.1:"), "{}", stderr(&out));
    assert!(!scratch.path("t.log").exists());
    scratch.gone();
}

#[test]
fn in_front_of_a_terminal_it_says_how_to_end_it() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &[], "")).display().to_string();
    let mut terminal = Terminal::start(&scratch, mcpdaemon(), &["-f", "-c", &file], 40);
    terminal.see("ready on http://127.0.0.1:");
    terminal.see("t: in front of this terminal; ^C ends it in order\r\n");
    terminal.types("\x03");
    assert_eq!(ended(&mut terminal.child).code(), Some(0));
    scratch.gone();
}

#[test]
fn foreground_failure_is_on_stderr() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &["--exit", "9"], ""));
    let (code, text) = fails(&scratch, &["-f", "-c", &file.display().to_string()]);
    assert_eq!(code, 70);
    assert!(text.lines().last().unwrap().contains("fatal: no database"), "{text}");
}

#[test]
fn one_server_needs_no_file() {
    let scratch = Scratch::new();
    let args = ["--listen", "127.0.0.1:0", "--name", "solo", "--", &fake(), "--tool", "${NOT_EXPANDED} ~/x"];
    let out = scratch.run(mcpdaemon(), &args);
    assert!(out.status.success(), "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    let tools = daemon.ws("solo").ask(&serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    assert_eq!(tools["result"]["tools"][0]["name"], "${NOT_EXPANDED} ~/x");
    assert_eq!(daemon.name, "solo");
    assert!(scratch.path("logs/solo.log").exists());
}

#[test]
fn without_a_name_a_command_names_its_instance() {
    let scratch = Scratch::new();
    let out = scratch.run(mcpdaemon(), &["--listen", "127.0.0.1:0", "--", &fake()]);
    let daemon = scratch.started(&stdout(&out));
    assert_eq!(daemon.name, "fake-server");
    assert_eq!(said(&daemon.ws("fake-server").ask(&call(1, "echo", serde_json::json!({"text": "x"})))), "x");
}

#[test]
fn defaults_are_as_promised_and_every_variable_counts() {
    let scratch = Scratch::new();
    let file = scratch.write("t.ron", "(servers: {\"x\": Exec(allow: [\"cat\"])})").display().to_string();
    let shows = |all: &[(&str, &str)], lines: &[&str]| {
        let mut command = scratch.command(mcpdaemon());
        let out = command.args(["-T", "-c", &file]).envs(all.iter().copied()).output().unwrap();
        let text = stdout(&out);
        for line in lines {
            assert!(text.lines().any(|l| l.trim_start() == *line), "no '{line}' in:\n{text}{}", stderr(&out));
        }
    };
    let defaults = [
        "listen: [\"localhost:8003\"], // default",
        "ping_interval: \"20s\", // default",
        "ping_timeout: \"30s\", // default",
        "max_size: \"10MiB\", // default",
        "drain_timeout: \"10s\", // default",
    ];
    shows(&[], &defaults);
    let socket = scratch.path("s").display().to_string();
    shows(
        &[
            ("MCP_NAME", "n"),
            ("MCP_LISTEN", "127.0.0.1:1, unix:s"),
            ("MCP_LOG_LEVEL", "warn"),
            ("WS_PING_INTERVAL", "5"),
            ("WS_PING_TIMEOUT", "7.5"),
            ("WS_MAX_SIZE", "1024"),
        ],
        &[
            "name: \"n\", // environment MCP_NAME",
            &format!("listen: [\"127.0.0.1:1\", \"unix:{socket}\"], // environment MCP_LISTEN"),
            "level: Warn, // environment MCP_LOG_LEVEL",
            "ping_interval: \"5s\", // environment WS_PING_INTERVAL",
            "ping_timeout: \"7s500ms\", // environment WS_PING_TIMEOUT",
            "max_size: \"1KiB\", // environment WS_MAX_SIZE",
        ],
    );
    // Empty counts as not set.
    shows(&[("MCP_LISTEN", ""), ("WS_PING_INTERVAL", ""), ("WS_PING_TIMEOUT", ""), ("WS_MAX_SIZE", "")], &defaults);
    // Both words are a yes; anything else is none.
    for (word, origin) in [("1", "true, //"), ("true", "true, //"), ("yes", "false, //")] {
        let cat = scratch.command(mcpdaemon()).args(["-T", "-c", &file]).env("MCP_ALLOW_ROOT", word).output().unwrap();
        let root = nix::unistd::Uid::effective().is_root();
        let text = stdout(&cat) + &stderr(&cat);
        let wanted = if root && word == "yes" { "would run as root" } else { origin };
        assert!(text.contains(wanted), "{word}: {text}");
    }
}

#[test]
fn the_demo_works_word_for_word() {
    let scratch = Scratch::new();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.ron");
    let mut command = scratch.command(mcpdaemon());
    let out = command.args(["-c", demo, "--listen", "127.0.0.1:0"]).env_remove("MCP_ALLOW_ROOT").output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let text = stdout(&out);
    let daemon = scratch.started(text.lines().next().unwrap());
    let lines = text.lines().filter_map(|l| l.strip_prefix("  "));
    let (places, commands): (Vec<&str>, Vec<&str>) = lines.partition(|l| l.starts_with("http") || l.starts_with("ws"));
    assert!(places.iter().any(|l| l.ends_with("/mcp   (all as one)")), "{places:?}");
    let page = places.iter().find_map(|l| l.strip_prefix("http://")?.strip_suffix('/')).expect("the page's address");
    assert_eq!(get(page, "/").status, 200);
    let script = format!("set -e\n{}", commands.join("\n"));
    let out = scratch.command("bash").args(["-c", &script]).output().unwrap();
    assert!(out.status.success(), "{script}\n{}{}", stdout(&out), stderr(&out));
    assert!(stdout(&out).contains("\"stdout\":\"hello\\n\""), "{}", stdout(&out));
    assert!(!alive(daemon.pid), "the last command ends it");
}

#[test]
fn pid_1_stays_in_front_and_reaps() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\")");
    let mut command = scratch.command("unshare");
    // SAFETY: geteuid(2) only reads.
    if unsafe { libc::geteuid() } != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--mount-proc", mcpdaemon(), "-c"]).arg(&file);
    let mut container = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = || serde_json::from_str::<serde_json::Value>(&scratch.file("run/t.status")).ok();
    let url = wait("ready", || {
        assert!(container.try_wait().unwrap().is_none(), "it ended: is unshare(1) allowed here?");
        status().filter(|s| s["state"] == "ready")?["listen"][0].as_str().map(str::to_owned)
    });
    assert_eq!(scratch.file("run/t.pid"), "1\n");
    let inside = || {
        let all = scratch.processes();
        all.into_iter().find(|(pid, line)| line.starts_with(mcpdaemon()) && namespaced(*pid) == "1").unwrap().0
    };
    let pid = inside();
    let mut ws = Ws::open(url.strip_prefix("http://").unwrap(), "/servers/x/ws");
    for i in 0..5 {
        ws.ask(&call(
            i,
            "execute",
            serde_json::json!({"command": "setsid sh -c 'sleep 0.05' >/dev/null 2>&1 & exit 0"}),
        ));
    }
    let zombies = || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().filter(|p| !alive(p.parse().unwrap())).count()
    };
    wait("no zombies", || (zombies() == 0).then_some(()));
    // From outside, number 1 is another process: it is neither shown as this one nor signalled.
    let out = scratch.ctl(&["stop", "t"]);
    assert_eq!(code(&out), 1);
    assert!(stderr(&out).contains("it runs in another PID namespace (as pid 1 there)"), "{}", stderr(&out));
    kill(pid, libc::SIGTERM);
    let out = container.wait_with_output().unwrap();
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert!(stderr(&out).contains("[INFO] t: ready on "), "{}", stderr(&out));
    scratch.gone();
}

/// A process's number in its own PID namespace.
fn namespaced(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("NSpid:")).unwrap_or("");
    line.split_whitespace().last().unwrap_or("").to_owned()
}

/// What is opened by such a name may be written by anybody, without end, or never.
#[test]
fn a_configuration_that_is_no_regular_file_is_refused_at_once() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo.ron");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = fifo.to_str().unwrap();
    let tokens = scratch.write(
        "b.ron",
        &format!("(listen: [\"127.0.0.1:0\"], auth: Bearer({fifo:?}), servers: {{\"a\": Stdio(command: [\"cat\"])}})"),
    );
    for (config, named) in [(fifo, fifo), ("/dev/zero", "/dev/zero"), (tokens.to_str().unwrap(), fifo)] {
        for more in [&["-t"][..], &["-f"]] {
            let out = scratch.run(mcpdaemon(), &[&["-c", config], more].concat());
            assert_eq!(code(&out), 78, "{config}: {}", stderr(&out));
            let text = stderr(&out) + &stdout(&out);
            assert!(text.contains(named) && text.contains("it is no regular file"), "{config}: {text}");
        }
    }
}
