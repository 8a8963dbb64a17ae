//! PID file, status file and log: what they hold, who may trust them, what happens when somebody meddles.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::*;

fn shell(scratch: &Scratch, script: &str) -> i32 {
    code(&scratch.command("bash").args(["-c", script]).output().unwrap())
}

#[test]
fn pid_file_is_one_number_and_a_newline() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    assert_eq!(scratch.file("run/t.pid"), format!("{}\n", daemon.pid));
    let mode = std::fs::metadata(scratch.path("run/t.pid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let pid = scratch.path("run/t.pid").display().to_string();
    assert_eq!(shell(&scratch, &format!("kill -HUP $(cat {pid})")), 0);
    wait("the reload", || (daemon.status()["reloads"] == 1).then_some(()));
    assert_eq!(shell(&scratch, &format!("kill -HUP \"$(head -n1 {pid})\"")), 0);
    wait("the reload", || (daemon.status()["reloads"] == 2).then_some(()));
    // pkill -L looks for the lock.
    assert_eq!(shell(&scratch, &format!("pkill -HUP -L -F {pid}")), 0);
    wait("the reload", || (daemon.status()["reloads"] == 3).then_some(()));
    daemon.stop();
    assert!(!scratch.path("run/t.pid").exists() && !scratch.path("run/t.status").exists());
}

#[test]
fn kill_9_leaves_no_process_and_the_next_start_works() {
    let scratch = Scratch::new();
    let servers = stdio("plain", &[], "")
        + &stdio("stubborn", &["--ignore-eof", "--ignore-term"], "")
        + &stdio("parent", &["--grandchild", "stubborn", "--ignore-eof"], "");
    let file = scratch.instance("t", &servers);
    let daemon = scratch.start(&file);
    assert!(scratch.processes().len() >= 6, "{:?}", scratch.processes());
    let killed = std::time::Instant::now();
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    // Three seconds are promised; the rest is for a machine under load.
    assert!(killed.elapsed().as_secs() < 10, "{:?}", killed.elapsed());
    assert_eq!(scratch.file("run/t.pid"), format!("{}\n", daemon.pid), "a crash cleans up no files");
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 1);
    std::mem::forget(daemon);
    let daemon = scratch.start(&file);
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 0);
    daemon.stop();
}

#[test]
fn next_start_ends_what_a_killed_predecessor_left() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("a", &["--grandchild", "stubborn"], ""));
    let daemon = scratch.start(&file);
    // Killed together with its guard, so that nobody cleans up.
    let processes = scratch.processes();
    let guard = processes
        .iter()
        .find(|(pid, _)| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "mcpguard\n"));
    kill(guard.expect("a guard").0, libc::SIGKILL);
    kill(daemon.pid, libc::SIGKILL);
    wait("the daemon's end", || (!alive(daemon.pid)).then_some(()));
    std::mem::forget(daemon);
    assert!(scratch.processes().iter().any(|(_, line)| line.contains("trap")), "the test needs a survivor");
    let daemon = scratch.start(&file);
    // That of the new child alone; a shell that is about to start something shows twice for a moment.
    let survivors = || scratch.processes().iter().filter(|(_, line)| line.contains("trap")).count();
    wait("one family", || (survivors() == 1).then_some(()));
    assert!(daemon.log().contains("that a killed predecessor had left behind"));
}

#[test]
fn a_pid_file_is_believed_only_while_its_lock_is_held() {
    let scratch = Scratch::new();
    // A stranger's number: never running, never signalled.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    for content in
        [format!("{}\n", stranger.id()), "0\n".into(), "-1\n".into(), "1\n".into(), "junk".into(), String::new()]
    {
        scratch.write("run/t.pid", &content);
        // An empty one is what a daemon leaves that may not remove it: it ended in order.
        let expected = if content.is_empty() { 3 } else { 1 };
        assert_eq!(code(&scratch.ctl(&["status", "t"])), expected, "{content:?}");
        for verb in ["stop", "reload"] {
            let out = scratch.ctl(&[verb, "t"]);
            assert_eq!(code(&out), 7, "{verb} {content:?}");
            assert!(stderr(&out).contains("not running"), "{}", stderr(&out));
        }
    }
    assert!(alive(stranger.id() as i32));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    scratch.fake(&[]).stop();
}

#[test]
fn deleted_pid_file_comes_back() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    std::fs::remove_file(scratch.path("run/t.pid")).unwrap();
    kill(daemon.pid, libc::SIGUSR1);
    wait("the PID file", || (scratch.file("run/t.pid") == format!("{}\n", daemon.pid)).then_some(()));
    assert!(daemon.log().contains("the PID file was removed or replaced"));
    let out = scratch.run(mcpdaemon(), &["-c", "t.ron"]);
    assert_eq!((code(&out), stderr(&out)), (75, already_running(daemon.pid)));
}

#[test]
fn a_child_does_not_hold_the_lock() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--ignore-eof", "--ignore-term"]);
    let child = daemon.child("fake");
    let fds = std::fs::read_dir(format!("/proc/{child}/fd")).unwrap();
    let held: Vec<_> = fds.filter_map(|e| std::fs::read_link(e.ok()?.path()).ok()).collect();
    assert!(held.iter().all(|p| !p.to_string_lossy().contains("t.pid")), "{held:?}");
}

#[test]
fn the_status_file_is_whole_at_every_moment_and_holds_no_secret() {
    let scratch = Scratch::new();
    let servers =
        stdio("a", &["--flag", "hunter-args"], "env: {\"KEY\": \"hunter2\"}") + "\"b\": Exec(allow: [\"echo\"]),";
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut read = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let text = std::fs::read_to_string(scratch.path("run/t.status")).unwrap();
                let _: Value = serde_json::from_str(&text).unwrap();
                read += 1;
            }
            read
        });
        for _ in 0..30 {
            daemon.status();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 30);
    });
    let text = scratch.file("run/t.status");
    assert!(!text.contains("hunter"), "{text}");
    let mut http = daemon.http("a");
    http.ask(&call(1, "echo", json!({"text": "x"})));
    let status = daemon.status();
    assert_eq!(status["pid"], daemon.pid);
    assert_eq!((&status["state"], &status["generation"], &status["sessions"]), (&json!("ready"), &json!(1), &json!(1)));
    assert_eq!(status["listen"][0], json!(daemon.url));
    assert!(status["requests"]["total"].as_u64().unwrap() >= 2);
    let server = daemon.server("a");
    assert_eq!((&server["kind"], &server["state"], &server["restarts"]), (&json!("Stdio"), &json!("ready"), &json!(0)));
    assert_eq!((&server["server_info"], &server["protocol"]), (&json!("fake 1"), &json!("2025-11-25")));
    assert!(server["process"]["memory_bytes"].as_u64().unwrap() > 100_000);
    // The same live, over HTTP.
    let live = get(daemon.address(), "/status").json();
    assert_eq!((&live["pid"], &live["servers"][0]["pids"]), (&status["pid"], &server["pids"]));
    let leftovers: Vec<_> = std::fs::read_dir(scratch.path("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(leftovers.len(), 3, "PID file, lock and status: {leftovers:?}");
}

#[test]
fn log_is_appended_reopened_on_sighup_and_escapes_control_characters() {
    let scratch = Scratch::new();
    scratch.write("t.log", "an old line\n");
    let daemon = scratch.fake(&["--stderr", "evil\u{1b}[31m\u{7}\tline"]);
    wait("stderr", || daemon.log().contains("evil").then_some(()));
    let log = daemon.log();
    assert!(log.starts_with("an old line\n"), "{log}");
    assert!(log.contains("[fake] evil\\u{1b}[31m\\u{7} line\n"), "{log}");
    for line in log.lines().skip(1) {
        let stamp = line.split(' ').next().unwrap();
        assert_eq!((stamp.len(), &stamp[10..11], &stamp[23..]), (24, "T", "Z"), "{line}");
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
    }
    // Moved away: still written there until a HUP, then anew by the old name.
    std::fs::rename(scratch.path("t.log"), scratch.path("t.log.1")).unwrap();
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    assert!(scratch.file("t.log").contains("reloaded: "));
    let moved = scratch.file("t.log.1");
    assert!(moved.contains("ready on") && !moved.contains("reloaded: "));
    let before = scratch.file("t.log").len();
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    assert!(scratch.file("t.log").len() > before, "a HUP without a rename truncates nothing");
    let mode = std::fs::metadata(scratch.path("t.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "others may not read a log");
}

#[test]
fn stderr_flood_neither_blocks_the_child_nor_fills_the_log() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    assert_eq!(said(&ws.ask(&call(1, "stderr", json!({"n": 50_000})))), "written");
    wait("the count", || (daemon.dropped("stderr_lines") > 40_000).then_some(()));
    let lines = daemon.log().lines().filter(|l| l.contains("[fake] line")).count();
    assert!((1000..5000).contains(&lines), "{lines}");
}

#[test]
fn guard_process_death_is_logged() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let comm = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let guard = scratch.processes().into_iter().find(|(pid, _)| comm(*pid) == "mcpguard\n").unwrap().0;
    kill(guard, libc::SIGKILL);
    wait("the message", || daemon.log().contains("the guard process has ended").then_some(()));
    daemon.stop();
}

#[test]
fn log_to_a_full_pipe_stalls_no_request() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let mut front = scratch
        .command(mcpdaemon())
        .args(["-f", "--log-level", "debug", "-c", file.to_str().unwrap()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The pipe is full after a page, and nobody reads on.
    let pipe = front.stderr.take().unwrap();
    nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let line = wait("ready", || {
        let text = stdout(&scratch.ctl(&["list"]));
        text.lines().nth(1).filter(|l| l.contains("ready")).map(|l| l.split_whitespace().nth(4).unwrap().to_owned())
    });
    let daemon = Daemon { scratch: &scratch, name: "t".into(), pid: front.id() as i32, url: line };
    let mut ws = daemon.ws("fake");
    for round in 0..5 {
        assert_eq!(said(&ws.ask(&call(round, "stderr", json!({"n": 5_000})))), "written");
    }
    wait("lost lines", || (daemon.dropped("log_lines") + daemon.dropped("stderr_lines") > 20_000).then_some(()));
    drop(ws);
    daemon.stop();
    assert!(front.wait().unwrap().success());
    drop(pipe);
}

#[test]
fn without_its_pid_file_an_instance_is_not_started_twice() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let child = daemon.child("fake");
    // Stopped, because asked for its status, as just now, it looks for its PID file and writes it again.
    kill(daemon.pid, libc::SIGSTOP);
    std::fs::remove_file(scratch.path("run/t.pid")).unwrap();
    let out = scratch.run(mcpdaemon(), &["-c", scratch.path("t.ron").to_str().unwrap()]);
    let wanted =
        format!("t: already running (pid {0}); somebody removed its PID file: 'kill {0}' ends it\n", daemon.pid);
    assert_eq!((code(&out), stderr(&out)), (75, wanted));
    assert!(alive(child));
    kill(daemon.pid, libc::SIGTERM);
    kill(daemon.pid, libc::SIGCONT);
    wait("the end", || (!alive(daemon.pid)).then_some(()));
}

#[test]
fn zombie_daemon_counts_as_not_running() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let mut front = scratch.command(mcpdaemon());
    let mut front = front.args(["-f", "-c"]).arg(&file).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait("ready", || scratch.file("run/t.status").contains("\"state\": \"ready\"").then_some(()));
    let pid = front.id() as i32;
    kill(pid, libc::SIGKILL);
    // This process is its parent, and does not look after it.
    wait("the end of its last thread", || (code(&scratch.ctl(&["status", "t"])) == 1).then_some(()));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(stat.contains(") Z "), "{stat}");
    assert_eq!(code(&scratch.ctl(&["stop", "t"])), 7);
    scratch.gone();
    scratch.start(&file).stop();
    front.wait().unwrap();
}

#[test]
fn a_status_file_that_cannot_be_read_is_said_to_be() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let wanted = format!("t: running (pid {}), but its status file cannot be read\n", daemon.pid);
    // Stopped, so that it cannot write a better one.
    kill(daemon.pid, libc::SIGSTOP);
    for text in [None, Some(""), Some("junk"), Some("{\"name\": 1}"), Some("[]")] {
        match text {
            None => std::fs::remove_file(scratch.path("run/t.status")).unwrap(),
            Some(text) => drop(scratch.write("run/t.status", text)),
        }
        let out = scratch.ctl(&["status", "t"]);
        assert_eq!((code(&out), stdout(&out)), (4, wanted.clone()), "{text:?}");
        let row = stdout(&scratch.ctl(&["list"])).lines().nth(1).unwrap().to_owned();
        assert!(row.contains("unknown"), "{text:?}: {row}");
        assert!(daemon.status().is_null(), "{text:?}");
        let out = scratch.ctl(&["reload", "t"]);
        assert_eq!(code(&out), 1, "{text:?}");
        assert!(stderr(&out).contains("its status file cannot be read, so the outcome cannot be seen"), "{out:?}");
    }
    kill(daemon.pid, libc::SIGCONT);
    wait("a good one", || stdout(&scratch.ctl(&["status", "t"])).starts_with("t: ready ").then_some(()));
    daemon.stop();
}

#[test]
fn what_stands_in_place_of_a_pid_file_is_neither_believed_nor_touched() {
    let scratch = Scratch::new();
    scratch.instance("t", &stdio("fake", &[], ""));
    let precious = scratch.write("precious", "1\n");
    let place = scratch.path("run/t.pid");
    std::fs::create_dir_all(scratch.path("run")).unwrap();
    let link = || std::os::unix::fs::symlink(&precious, &place).unwrap();
    let folder = || std::fs::create_dir(&place).unwrap();
    let fifo = || nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let socket = || drop(std::os::unix::net::UnixListener::bind(&place).unwrap());
    let why = "no daemon has made it, for it is no regular file; remove it";
    for (what, make) in [("link", &link as &dyn Fn()), ("folder", &folder), ("fifo", &fifo), ("socket", &socket)] {
        make();
        let out = scratch.run(mcpdaemon(), &["-c", "t.ron"]);
        assert_eq!(code(&out), 73, "{what}: {}", stderr(&out));
        assert!(stderr(&out).ends_with(&format!("run/t.pid: cannot lock the PID file: {why}\n")), "{out:?}");
        // It may run or not: nobody knows.
        let out = scratch.ctl(&["status", "t"]);
        assert_eq!((code(&out), stdout(&out)), (4, String::new()), "{what}");
        assert!(stderr(&out).ends_with(&format!("run/t.pid: cannot read it: {why}\n")), "{what}: {}", stderr(&out));
        let out = scratch.ctl(&["status", "--json", "t"]);
        let all: Value = serde_json::from_slice(&out.stdout).unwrap();
        let wanted = json!({"name": "t", "running": null, "fresh": false, "exit_code": 4, "status": null});
        assert_eq!((code(&out), &all["instances"][0]), (4, &wanted), "{what}");
        let out = scratch.ctl(&["list"]);
        assert!(code(&out) == 1 && stdout(&out).contains("unknown"), "{what}: {out:?}");
        for verb in [&["stop", "t"][..], &["stop", "--force", "t"], &["reload", "t"]] {
            assert_eq!(code(&scratch.ctl(verb)), 1, "{what}: {verb:?}");
        }
        match what {
            "folder" => std::fs::remove_dir(&place).unwrap(),
            _ => std::fs::remove_file(&place).unwrap(),
        }
    }
    assert_eq!(scratch.file("precious"), "1\n");
    scratch.start(&scratch.path("t.ron")).stop();
}

#[test]
fn of_a_pid_file_that_may_not_be_read_nothing_is_claimed() {
    if !nix::unistd::Uid::effective().is_root() {
        // Nobody but root can be somebody else, and its owner may read it.
        return;
    }
    use std::os::unix::process::CommandExt;
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mode = |path: &str, mode| {
        std::fs::set_permissions(scratch.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    let bin = scratch.path("mcpctl").display().to_string();
    // By a process of its own: what this one has open for writing, another test's child may have too, and then nobody
    // can run it.
    assert!(scratch.run("cp", &[mcpctl(), &bin]).status.success());
    let as_nobody = |args: &[&str]| scratch.command(&bin).args(args).uid(65534).gid(65534).output().unwrap();
    assert_eq!(code(&as_nobody(&["status", "t"])), 0);
    mode("run/t.pid", 0o600);
    for args in [&["status", "t"][..], &["status"], &["list"], &["stop", "t"], &["reload", "t"]] {
        let out = as_nobody(args);
        assert_eq!(code(&out), 4, "{args:?}: {out:?}");
        assert!(stderr(&out).ends_with("run/t.pid: cannot read it: Permission denied\n"), "{args:?}: {out:?}");
        assert!(!stdout(&out).contains("not running"), "{args:?}: {out:?}");
    }
    assert!(alive(daemon.pid));
}

#[test]
fn after_a_cleanup_by_hand_the_next_start_works() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--ignore-eof", "--ignore-term"]);
    // rm -f *.pid; pkill -f mcpdaemon, by which the guard is meant too.
    std::fs::remove_file(scratch.path("run/t.pid")).unwrap();
    let ours: Vec<i32> =
        scratch.processes().iter().filter(|(_, l)| l.starts_with(mcpdaemon())).map(|(p, _)| *p).collect();
    assert_eq!(ours.len(), 2, "the daemon and its guard: {ours:?}");
    for pid in ours {
        kill(pid, libc::SIGTERM);
    }
    wait("its end", || (!alive(daemon.pid)).then_some(()));
    scratch.gone();
    scratch.start(&scratch.path("t.ron")).stop();
}
