//! The truth when nobody answers: what mcpctl says of a daemon that is stopped, hangs, cannot be asked or cannot write; and
//! what it does about one that does not end.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

/// A daemon that is stopped, and goes on at the end.
struct Frozen(i32);

impl Frozen {
    fn new(pid: i32) -> Frozen {
        kill(pid, 19);
        Frozen(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        kill(self.0, 18);
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_never_called_ready_or_healthy() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let before = scratch.ctl(&["status", "--json", "t"]);
    let before: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!((&before["instances"][0]["fresh"], &before["instances"][0]["exit_code"]), (&json!(true), &json!(0)));
    let frozen = Frozen::new(daemon.pid);
    let out = scratch.ctl(&["status", "t"]);
    let text = stdout(&out);
    assert_eq!(code(&out), 4, "{text}");
    assert!(text.contains("t: does not answer (pid") && text.contains("as of 20"), "{text}");
    assert!(text.contains("unknown: it does not answer: it is stopped by a signal: 'kill -CONT"), "{text}");
    assert!(!text.contains("t: ready") && !text.contains("healthy"), "{text}");
    let out = scratch.ctl(&["status", "--json", "t"]);
    let one: Value = serde_json::from_slice::<Value>(&out.stdout).unwrap()["instances"][0].clone();
    assert_eq!(code(&out), 4);
    assert_eq!((&one["fresh"], &one["running"], &one["exit_code"]), (&json!(false), &json!(true), &json!(4)), "{one}");
    assert_eq!(one["status"]["health"]["level"], "unknown", "{one}");
    let out = scratch.ctl(&["status", "--check", "t"]);
    assert!(code(&out) == 1 && stdout(&out).starts_with("t: unknown: it does not answer"), "{out:?}");
    let out = scratch.ctl(&["list"]);
    assert!(code(&out) == 4 && stdout(&out).contains("unknown") && !stdout(&out).contains("ready"), "{out:?}");
    let out = scratch.ctl(&["wait", "t", "--timeout", "1500ms"]);
    assert!(code(&out) == 1 && stderr(&out).contains("not ready after 1s500ms: it does not answer"), "{out:?}");
    let out = scratch.ctl(&["reload", "t", "--timeout", "1s"]);
    assert!(code(&out) == 1 && stderr(&out).contains("it is stopped by a signal"), "{out:?}");
    drop(frozen);
    // What it was asked meanwhile it does now, and says so at each moment.
    wait("the reload to be done", || {
        let out = scratch.ctl(&["status", "t"]);
        assert!(code(&out) == 0 && !stdout(&out).contains("as of"), "{out:?}");
        stdout(&out).contains("t: ready").then_some(())
    });
}

#[test]
fn who_may_not_ask_a_daemon_is_told_of_when_it_is_that_he_reads() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("not root: there is no other user to be");
    }
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = scratch.fake(&[]);
    // The program itself may lie where nobody else comes.
    let ctl = scratch.path("mcpctl");
    copy_program(mcpctl(), &ctl);
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&ctl);
        command.args(args).env("MCP_RUN_DIR", scratch.path("run")).current_dir("/");
        command.uid(65534).gid(65534).output().unwrap()
    };
    let out = as_nobody(&["status", "t"]);
    let text = stdout(&out);
    assert!(code(&out) == 0 && text.contains(&format!("t: ready (pid {}", daemon.pid)), "{out:?}");
    assert!(text.lines().next().unwrap().contains(", as of 20"), "{text}");
    let out = as_nobody(&["status", "--json", "t"]);
    let one: Value = serde_json::from_slice::<Value>(&out.stdout).unwrap()["instances"][0].clone();
    assert_eq!((&one["fresh"], &one["running"]), (&json!(false), &json!(true)), "{one}");
}

#[test]
fn watching_tells_that_a_daemon_does_not_answer_any_more() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut watch = scratch.command(mcpctl());
    let out = std::fs::File::create(scratch.path("watched")).unwrap();
    let mut watch = watch.args(["status", "--watch", "t"]).stdout(out).spawn().unwrap();
    wait("the first line", || scratch.file("watched").contains("t: ready").then_some(()));
    let frozen = Frozen::new(daemon.pid);
    wait("the news", || scratch.file("watched").contains("t: does not answer (pid").then_some(()));
    drop(frozen);
    wait("it to answer", || (scratch.file("watched").matches("t: ready").count() == 2).then_some(()));
    daemon.stop();
    watch.wait().unwrap();
}

#[test]
fn a_full_run_directory_is_told_or_lived_with() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("not root: there is no small disk to be had");
    }
    let scratch = Scratch::new();
    let run = scratch.path("run");
    std::fs::create_dir(&run).unwrap();
    let small = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=755", "none"]).arg(&run).output();
    if !small.is_ok_and(|out| out.status.success()) {
        return eprintln!("no small disk can be mounted here");
    }
    struct Mounted<'p>(&'p std::path::Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _mounted = Mounted(&run);
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let fill = || {
        let mut file = std::fs::File::options().append(true).create(true).open(run.join("fill"))?;
        std::io::Write::write_all(&mut file, &vec![0; 1 << 20])
    };
    assert!(fill().is_err(), "it is full now");
    // What fits is written over what was there.
    let out = scratch.ctl(&["reload", "t"]);
    assert!(code(&out) == 0 && stdout(&out).contains("reloaded"), "{out:?}");
    assert_eq!(daemon.status()["reloads"], 1);
    // What does not, is missed and said to be.
    let many: String = (0..60).map(|n| stdio(&format!("server-{n:02}"), &[], "start: OnDemand(),")).collect();
    scratch.instance("t", &many);
    let out = scratch.ctl(&["reload", "t", "--timeout", "3s"]);
    // A status that was replaced while the disk was filled may have left some room, too little for the longer one.
    let disk = format!("the disk of {}", run.display());
    assert!(code(&out) == 1 && stderr(&out).contains(&disk), "{out:?}");
    assert!(fill().is_err(), "what was left is filled too");
    let out = scratch.ctl(&["status", "t"]);
    assert!(code(&out) == 4 && stdout(&out).contains("is full, so it cannot write its status"), "{out:?}");
    let size = std::fs::metadata(run.join("fill")).unwrap().len();
    std::fs::File::options().write(true).open(run.join("fill")).unwrap().set_len(size - 4096).unwrap();
    let out = scratch.ctl(&["status", "t"]);
    assert!(code(&out) == 4 && stdout(&out).contains("has only 4 KiB left"), "{out:?}");
    std::fs::remove_file(run.join("fill")).unwrap();
    let out = scratch.ctl(&["status", "t"]);
    assert!(code(&out) == 0 && stdout(&out).contains("server-59"), "{out:?}");
    daemon.stop();
}

/// What is left where a daemon is killed while it writes its status.
fn half_a_status(scratch: &Scratch) {
    std::fs::write(scratch.path("run/t.status.01234567-89ab-cdef-0123-456789abcdef"), "{").unwrap();
}

#[test]
fn stop_kills_what_neither_answers_nor_ends_and_leaves_no_file() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "drain_timeout: \"100ms\",", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let child = daemon.child("fake");
    // It stays stopped until it is killed, here while it writes its status.
    kill(daemon.pid, 19);
    half_a_status(&scratch);
    let begin = Instant::now();
    let out = scratch.ctl(&["stop", "t"]);
    assert!(code(&out) == 0 && stdout(&out).contains("it neither answers nor ends"), "{out:?}");
    assert!(begin.elapsed() >= Duration::from_secs(10));
    scratch.gone();
    assert!(!alive(child));
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 3, "no PID file is left");
    let left: Vec<_> = std::fs::read_dir(scratch.path("run")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stop_by_force_leaves_no_file() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    kill(daemon.pid, 19);
    half_a_status(&scratch);
    let out = scratch.ctl(&["stop", "t", "--force", "--timeout", "300ms"]);
    assert!(code(&out) == 0 && stdout(&out).contains("killed"), "{out:?}");
    scratch.gone();
    let left: Vec<_> = std::fs::read_dir(scratch.path("run")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 3);
}

#[test]
fn stop_finds_an_instance_by_its_port() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let other = scratch.start(&scratch.instance("other", &stdio("fake", &[], "")));
    let port = daemon.address().rsplit(':').next().unwrap().to_owned();
    let out = scratch.ctl(&["stop", "--port", "1"]);
    assert!(code(&out) == 7 && stderr(&out).contains("no instance listens at port 1"), "{out:?}");
    assert_eq!(code(&scratch.ctl(&["stop", "--port", &port, "t"])), 2);
    let out = scratch.ctl(&["stop", "--port", &port]);
    assert!(code(&out) == 0 && stdout(&out).starts_with("t: stopped"), "{out:?}");
    assert!(alive(other.pid) && !alive(daemon.pid));
    other.stop();
}

#[test]
fn check_tells_health_by_its_status() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &[], "restart: (delay: \"10m\", max_delay: \"10m\"),");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let out = scratch.ctl(&["status", "--check", "t"]);
    assert_eq!((code(&out), stdout(&out).as_str()), (0, "t: healthy\n"));
    kill(daemon.child("fake"), 9);
    let out = wait("its health to be bad", || Some(scratch.ctl(&["status", "--check", "t"])).filter(|o| code(o) != 0));
    assert!(code(&out) == 1 && stdout(&out).contains("t: unhealthy: ") && stdout(&out).contains("fake"), "{out:?}");
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 0, "it runs");
    assert_eq!(code(&scratch.ctl(&["status", "--check", "none"])), 1);
}

#[test]
fn wait_returns_when_an_instance_or_a_server_is_ready() {
    let scratch = Scratch::new();
    let slow = stdio("slow", &["--slow-init", "1200"], "required: false,") + &stdio("fake", &[], "");
    let file = scratch.instance("t", &slow).display().to_string();
    // It is waited for before it runs.
    let early =
        scratch.command(mcpctl()).args(["wait", "t", "t/slow"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let out = scratch.run(mcpdaemon(), &["-c", &file]);
    let daemon = scratch.started(&stdout(&out));
    let out = early.wait_with_output().unwrap();
    assert_eq!((code(&out), stdout(&out).as_str()), (0, "t: ready\nt/slow: ready\n"));
    assert_eq!(daemon.server("slow")["state"], "ready");
    let out = scratch.ctl(&["wait", "t/slwo"]);
    assert!(code(&out) == 1 && stderr(&out).contains("there is no server 'slwo', did you mean 'slow'?"), "{out:?}");
    let out = scratch.ctl(&["wait", "none", "--timeout", "100ms"]);
    assert!(code(&out) == 1 && stderr(&out).contains("none: not ready after 100ms: it does not run"), "{out:?}");
    assert_eq!(code(&scratch.ctl(&["wait"])), 2);
}

#[test]
fn restart_of_one_server_replaces_its_child_and_loses_nothing() {
    let scratch = Scratch::new();
    let program = scratch.path("server");
    let name = |n: &str| scratch.write("name", n);
    name("one");
    let script = format!("#!/bin/sh\nexec {} --name \"$(cat {})\"\n", fake(), scratch.path("name").display());
    scratch.write("server", &script);
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = format!("\"s\": Stdio(command: [{:?}]),", program.display().to_string()) + &stdio("other", &[], "");
    let daemon = scratch.start(&scratch.instance("t", &text));
    let (child, other) = (daemon.child("s"), daemon.child("other"));
    let mut http = daemon.http("s");
    let mut stream = http.stream();
    let mut busy = http.again();
    busy.send(&call(7, "sleep", json!({"n": 700})).to_string());
    wait("it to be under way", || (daemon.server("s")["requests"]["in_flight"] == 1).then_some(()));
    name("two");
    let out = scratch.ctl(&["restart", "t", "--server", "s"]);
    assert!(code(&out) == 0 && stdout(&out).contains("t: restarted (server 's' has a new child)"), "{out:?}");
    assert_eq!(said(&busy.raw.response().messages()[0]), "slept", "what was open is answered by the old one");
    assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed");
    assert!(daemon.child("s") != child && daemon.child("other") == other);
    assert_eq!(daemon.server("s")["server_info"], "two 1");
    http.ask(&call(8, "echo", json!({"text": "x"})));
    let status = daemon.status();
    assert_eq!(
        (&status["restarts"], &status["last_restart"]["ok"], &status["last_restart"]["server"]),
        (&json!(1), &json!(true), &json!("s"))
    );
    assert_eq!((&status["reloads"], &status["upgrades"]), (&json!(0), &json!(0)));
    // One that cannot start leaves the old one.
    let child = daemon.child("s");
    scratch.write("server", "#!/bin/sh\necho 'Error: no database' >&2; exit 1\n");
    let out = scratch.ctl(&["restart", "t", "--server", "s"]);
    assert!(
        code(&out) == 1
            && stderr(&out).contains("t: not restarted, it is left as it was: server 's': exited with status 1"),
        "{out:?}"
    );
    assert!(stderr(&out).contains("Error: no database"), "{out:?}");
    assert_eq!(daemon.child("s"), child);
    http.ask(&call(9, "echo", json!({"text": "x"})));
    // Words that are wrong.
    let out = scratch.ctl(&["restart", "t", "--server", "othr"]);
    assert!(code(&out) == 1 && stderr(&out).contains("no server 'othr', did you mean 'other'?"), "{out:?}");
    assert_eq!(code(&scratch.ctl(&["restart", "--all", "--server", "s"])), 2);
}

#[test]
fn restarts_of_servers_are_held_over_an_upgrade_and_serials_are_never_used_again() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &(stdio("a", &[], "") + &stdio("b", &[], ""))));
    let serial = |name: &str| daemon.server(name)["serial"].as_u64().unwrap();
    let (a, b) = (serial("a"), serial("b"));
    assert!(a > 0 && b > 0 && a != b);
    let out = scratch.ctl(&["restart", "t"]);
    assert_eq!(code(&out), 0, "{out:?}");
    assert_eq!((serial("a"), serial("b")), (a, b));
    let child = daemon.child("a");
    let out = scratch.ctl(&["restart", "t", "--server", "a"]);
    assert!(code(&out) == 0 && daemon.child("a") != child, "{out:?}");
    // A server that is taken out and put in again is another.
    scratch.instance("t", &stdio("b", &[], ""));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    scratch.instance("t", &(stdio("a", &[], "") + &stdio("b", &[], "")));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert!(serial("a") > a.max(b) && serial("b") == b);
}

#[test]
fn list_shows_the_configuration_of_each() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let _daemon = scratch.start(&file);
    let out = stdout(&scratch.ctl(&["list"]));
    assert!(out.lines().next().unwrap().ends_with("CONFIG"), "{out}");
    assert!(out.lines().nth(1).unwrap().ends_with(&file.display().to_string()), "{out}");
}

#[test]
fn status_tells_who_is_connected_and_where_clients_connect() {
    let scratch = Scratch::new();
    // "secret" by its SHA-256.
    let tokens = "ann 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n";
    let file = scratch.write("tokens", tokens);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let more = format!("base_path: \"/gw\", auth: Bearer({:?}),", file.display().to_string());
    let daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], "")));
    let open = |path: &str, info: Value| {
        let mut hello = initialize(json!(0));
        hello["params"]["clientInfo"] = info;
        let (address, body) = (daemon.address(), hello.to_string());
        let mut raw = Raw::open(address);
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer secret\r\n{ACCEPT}Content-Length: {length}\r\n\r\n"
        );
        raw.send(&[head.as_bytes(), body.as_bytes()].concat());
        assert_eq!(raw.response().status, 200, "{path}");
    };
    open("/servers/fake/mcp", json!({"name": "editor\u{1b}[31m", "version": "2.1"}));
    open("/servers/fake/mcp", json!({"name": "editor\u{1b}[31m", "version": "2.1"}));
    open("/gw/mcp", json!({"name": 5}));
    let url = format!("http://{}/gw", daemon.address());
    for round in 0..2 {
        let status = daemon.status();
        let clients = json!([
            {"name": "editor\\u{1b}[31m 2.1", "principal": "token:ann", "server": "fake", "sessions": 2},
            {"name": "", "principal": "token:ann", "server": null, "sessions": 1},
        ]);
        assert_eq!(status["clients"], clients, "{round}");
        assert_eq!(status["servers"][0]["url"], format!("{url}/servers/fake/mcp"), "{round}");
        assert_eq!(status["url"], format!("{url}/mcp"));
        let text = stdout(&scratch.ctl(&["status", "t"]));
        for wanted in [
            "            editor\\u{1b}[31m 2.1 as token:ann at 'fake', 2 sessions\n",
            "            (no name) as token:ann at all servers as one\n",
            &format!("\n  SERVER  URL\n  fake    {url}/servers/fake/mcp\n  (all)   {url}/mcp\n"),
        ] {
            assert!(text.contains(wanted), "{round}: {wanted}\n{text}");
        }
        // And once more by the next program.
        if round == 0 {
            let out = scratch.ctl(&["restart", "t"]);
            assert_eq!(code(&out), 0, "{}", stderr(&out));
        }
    }
}

/// Docker's containers have no `CAP_SYS_PTRACE`, nor have the shipped units.
#[test]
fn mcpctl_knows_a_daemon_into_which_it_may_not_look() {
    if !nix::unistd::Uid::effective().is_root() {
        // Then each test of mcpctl is this one.
        return;
    }
    let less = ["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"];
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut command = scratch.command("setpriv");
    let out = command.args(less).args([mcpctl(), "reload", "t"]).output().unwrap();
    assert_eq!((code(&out), stdout(&out).as_str()), (0, "t: reloaded (1 unchanged)\n"), "{}", stderr(&out));
    daemon.stop();
    // As the first process of a container, of an ordinary user or of root.
    for who in [&["--reuid", "65534", "--regid", "65534", "--clear-groups"][..], &[]] {
        let scratch = Scratch::new();
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(scratch.dir.path(), 0o755);
        let program = |path: &str| {
            let copy = scratch.path(path.rsplit('/').next().unwrap());
            copy_program(path, &copy);
            copy.display().to_string()
        };
        let (daemon, ctl, server) = (program(mcpdaemon()), program(mcpctl()), program(&fake()));
        let text = format!("(listen: [\"127.0.0.1:0\"], servers: {{\"fake\": Stdio(command: [{server:?}])}})");
        let file = scratch.write("t.ron", &text);
        std::fs::create_dir(scratch.path("run")).unwrap();
        let owner = if who.is_empty() { 0 } else { 65534 };
        std::os::unix::fs::chown(scratch.path("run"), Some(owner), Some(owner)).unwrap();
        let mut command = scratch.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "setpriv"]).args(less).args(who);
        let mut container = command.args([&daemon, "-c"]).arg(&file).spawn().unwrap();
        wait("ready", || {
            assert!(container.try_wait().unwrap().is_none(), "it ended: is unshare(1) allowed here?");
            scratch.file("run/t.status").contains("\"state\": \"ready\"").then_some(())
        });
        let inside = scratch.processes().into_iter().find(|(_, line)| line.starts_with(&daemon)).unwrap().0;
        let mut command = scratch.command("nsenter");
        command.args(["--target", &inside.to_string(), "--pid", "--mount", "setpriv"]).args(less).args(who);
        let out = command.args([&ctl, "reload", "t"]).output().unwrap();
        let reloaded = (0, "t: reloaded (1 unchanged)\n");
        assert_eq!((code(&out), stdout(&out).as_str()), reloaded, "{who:?}: {}", stderr(&out));
        // From outside it is known to be somebody else's first process.
        let out = scratch.ctl(&["stop", "t"]);
        assert!(stderr(&out).contains("it runs in another PID namespace (as pid 1 there)"), "{out:?}");
        kill(inside, 15);
        wait("its end", || container.try_wait().unwrap());
    }
}
