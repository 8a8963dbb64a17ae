//! Others on the host that mean harm: strangers, a server's own processes, and what they put in the place of files.

use std::io::BufRead;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::*;

fn root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// A user who is neither root nor ours.
const STRANGER: u32 = 65_533;

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
}

/// A process of this test, ended with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn as_user(uid: u32, command: &[&str]) -> Command {
    let mut whole = Command::new("setpriv");
    whole.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups"]).args(command);
    whole.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    whole
}

#[test]
fn a_run_directory_where_others_may_write_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "")).display().to_string();
    let run = scratch.path("run");
    std::fs::create_dir(&run).unwrap();
    let start = || scratch.run(mcpdaemon(), &["-c", &file]);
    let mut modes = vec![(0o777, None), (0o775, None), (0o1777, None)];
    if root() {
        modes.push((0o755, Some(STRANGER)));
    }
    // What would be followed if something were written: the names of what comes before a status file.
    let victim = scratch.path("victim");
    std::fs::write(&victim, "root's").unwrap();
    let names = (0..400).map(|n| format!("t.status.{n}"));
    let names: Vec<String> = names.chain(["t.log", "t.pid", "t.lock", "t.status"].map(str::to_owned)).collect();
    names.iter().for_each(|name| symlink(&victim, run.join(name)).unwrap());
    for (bits, owner) in modes {
        mode(&run, bits);
        if let Some(uid) = owner {
            chown(&run, Some(uid), Some(uid)).unwrap();
        }
        let out = start();
        assert_eq!(code(&out), 77, "{bits:o}: {}{}", stdout(&out), stderr(&out));
        let why = if owner.is_some() { "belongs to uid 65533" } else { "can be written by others" };
        assert!(stderr(&out).contains(why), "{}", stderr(&out));
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), names.len(), "nothing was made there");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "root's");
    }
    if root() {
        // A folder above it is as good as the folder itself.
        chown(&run, Some(0), Some(0)).unwrap();
        mode(&run, 0o777);
        let inner = run.join("inner");
        std::fs::create_dir(&inner).unwrap();
        mode(&inner, 0o755);
        let out = scratch.run(mcpdaemon(), &["-c", &file, "--run-dir", &inner.display().to_string()]);
        assert_eq!(code(&out), 77, "{}", stderr(&out));
    }
}

#[test]
fn what_others_have_put_in_the_place_of_a_file_is_neither_followed_nor_waited_for() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "")).display().to_string();
    let (run, victim) = (scratch.path("run"), scratch.path("victim"));
    std::fs::create_dir(&run).unwrap();
    mode(&run, 0o755);
    std::fs::write(&victim, "whole").unwrap();
    for name in ["t.pid", "t.lock", "t.status"] {
        for kind in ["link", "fifo", "dangling"] {
            let path = run.join(name);
            match kind {
                "link" => symlink(&victim, &path).unwrap(),
                "dangling" => symlink(scratch.path("made"), &path).unwrap(),
                _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }
            let out = scratch.run(mcpdaemon(), &["-c", &file]);
            if name == "t.status" {
                // It is replaced by its name.
                assert_eq!(code(&out), 0, "{name} {kind}: {}", stderr(&out));
                let daemon = scratch.started(&stdout(&out));
                assert_eq!(daemon.status()["state"], "ready");
                daemon.stop();
            } else {
                assert_eq!(code(&out), 73, "{name} {kind}: {}", stderr(&out));
                std::fs::remove_file(&path).unwrap();
            }
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(run.join("t.lock"));
            let _ = std::fs::remove_file(run.join("t.pid"));
            assert_eq!(scratch.file("victim"), "whole", "{name} {kind}");
            assert!(!scratch.path("made").exists(), "{name} {kind}");
        }
    }
    // The log: a FIFO that nobody reads is refused at once.
    let log = scratch.path("t.log");
    let _ = std::fs::remove_file(&log);
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let out = scratch.run(mcpdaemon(), &["-c", &file]);
    assert_eq!(code(&out), 73, "{}", stderr(&out));
}

#[test]
fn a_process_that_a_stranger_has_marked_is_not_believed() {
    if !root() {
        // Another user's processes are needed.
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "")).display().to_string();
    let run = scratch.path("run");
    std::fs::create_dir(&run).unwrap();
    let start_of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned()
    };
    let mut all = Vec::new();
    // As a stranger and as root, of the first process and of this test.
    for (uid, named) in [(STRANGER, 1), (STRANGER, std::process::id()), (0, 1), (0, std::process::id())] {
        let mark = format!("{}:{named}:{}:1", run.join("t").display(), start_of(named));
        all.push(Running(as_user(uid, &["sleep", "1000"]).env("MCPDAEMON_MARK", mark).spawn().unwrap()));
    }
    let out = scratch.run(mcpdaemon(), &["-c", &file, "--cleanup"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let out = scratch.run(mcpdaemon(), &["-c", &file]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    scratch.started(&stdout(&out)).stop();
}

/// A user of a server may bear a mark. That does not make its process the daemon, whatever it has open.
#[test]
fn a_servers_user_does_not_keep_the_instance_from_starting() {
    if !root() {
        // Another user's processes are needed.
        return;
    }
    let scratch = Scratch::new();
    let servers = stdio("fake", &[], "user: \"nobody\"");
    mode(scratch.dir.path(), 0o755);
    let file = scratch.instance("t", &servers).display().to_string();
    let run = scratch.path("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("t.pid"), "1\n").unwrap();
    // It has the name of the program, names itself, and has the PID file open.
    let program = scratch.path("mcpdaemon");
    copy_program("/bin/sh", &program);
    mode(&program, 0o755);
    let (program, stem) = (program.display().to_string(), run.join("t").display().to_string());
    let script = format!(
        r#"exec 9< {stem}.pid
        if [ -z "$MCPDAEMON_MARK" ]; then
            export MCPDAEMON_MARK={stem}:$$:$(cut -d' ' -f22 /proc/$$/stat):x:1
            exec "$0" -c "$1" "$0" "$1"
        fi
        echo marked; read _"#
    );
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let mut marked = as_user(nobody, &[&program, "-c", &script, &program, &script]);
    let mut marked = Running(marked.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut said = String::new();
    std::io::BufReader::new(marked.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "marked\n");
    let out = scratch.run(mcpdaemon(), &["-c", &file]);
    assert_eq!(code(&out), 0, "{}{}", stdout(&out), stderr(&out));
    scratch.started(&stdout(&out)).stop();
}

/// A name in a folder where others may write is what they made of it.
#[test]
fn root_follows_no_link_to_its_log_in_a_folder_where_others_may_write() {
    if !root() {
        // Another user's link is needed.
        return;
    }
    let scratch = Scratch::new();
    mode(scratch.dir.path(), 0o755);
    let (open, target) = (scratch.path("open"), scratch.path("target"));
    std::fs::create_dir(&open).unwrap();
    for bits in [0o1777, 0o777, 0o775] {
        mode(&open, bits);
        let log = open.join("t.log");
        symlink(&target, &log).unwrap();
        std::os::unix::fs::lchown(&log, Some(STRANGER), Some(STRANGER)).unwrap();
        let more = format!("log: (file: {log:?}),");
        let file = scratch.instance_with("t", &more, &stdio("fake", &[], "")).display().to_string();
        let out = scratch.run(mcpdaemon(), &["-c", &file]);
        // Some systems follow none in a sticky folder themselves (proc_sys_fs(5), protected_symlinks).
        assert!([73, 77].contains(&code(&out)), "{bits:o}: {}{}", stdout(&out), stderr(&out));
        assert!(!target.exists());
        std::fs::remove_file(&log).unwrap();
    }
    // A link in a folder of root's own is root's.
    mode(&open, 0o755);
    symlink(&target, open.join("t.log")).unwrap();
    let out = scratch.run(mcpdaemon(), &["-c", &scratch.path("t.ron").display().to_string()]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    scratch.started(&stdout(&out)).stop();
    assert!(target.exists());
}

#[test]
fn a_lock_that_a_stranger_has_taken_is_in_nobodys_way() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let pid = scratch.path("run/t.pid");
    mode(scratch.dir.path(), 0o755);
    // It waits, and has the lock of the PID file once the daemon is dead.
    let path = pid.display().to_string();
    let uid = if root() { STRANGER } else { nix::unistd::Uid::effective().as_raw() };
    let mut waiting = match root() {
        true => as_user(uid, &["flock", "-x", &path, "sleep", "1000"]),
        false => {
            let mut flock = Command::new("flock");
            flock.args(["-x", &path, "sleep", "1000"]);
            flock
        }
    };
    let _waiting = Running(waiting.spawn().unwrap());
    kill(daemon.pid, 9);
    wait("its end", || (!alive(daemon.pid)).then_some(()));
    wait("the stranger's lock", || {
        let free = Command::new("flock").args(["-n", "-x", &path, "true"]).status().unwrap();
        (!free.success()).then_some(())
    });
    let out = scratch.ctl(&["status", "t"]);
    assert_eq!((code(&out), stdout(&out).contains("dead")), (1, true), "{}", stdout(&out));
    let out = scratch.run(mcpdaemon(), &["-c", &scratch.path("t.ron").display().to_string()]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let again = scratch.started(&stdout(&out));
    assert_eq!(again.status()["state"], "ready");
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 0);
    again.stop();
    std::mem::forget(daemon);
}

#[test]
fn a_server_reads_nothing_of_the_daemon() {
    let scratch = Scratch::new();
    mode(scratch.dir.path(), 0o755);
    let look = r#"for f in environ mem fd/0 fdinfo/0 maps root cwd; do cat /proc/$PPID/$f > /dev/null 2>&1 && echo "$f"; done; ls /proc/$PPID/fd 2>/dev/null; echo end"#;
    // As an ordinary user, whom the daemon and its servers are.
    let uid = 65_532;
    let servers = r#""run": Exec(allow: ["*"], shell: "/bin/sh")"#;
    let file = scratch.instance("t", servers);
    let run = scratch.path("run");
    std::fs::create_dir(&run).unwrap();
    mode(&run, 0o755);
    let program = scratch.path("mcpdaemon");
    copy_program(mcpdaemon(), &program);
    let mut start = scratch.command(&program.display().to_string());
    if root() {
        chown(&run, Some(uid), Some(uid)).unwrap();
        chown(scratch.dir.path(), Some(uid), Some(uid)).unwrap();
        chown(&file, Some(uid), Some(uid)).unwrap();
        start = scratch.command("setpriv");
        start.args(["--reuid", "65532", "--regid", "65532", "--clear-groups"]).arg(&program);
    }
    let out = start.arg("-c").arg(&file).env("SECRET", "hidden").output().unwrap();
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    for upgraded in [false, true] {
        if upgraded {
            let out = scratch.ctl(&["restart", "t"]);
            assert_eq!(code(&out), 0, "{}{}", stdout(&out), stderr(&out));
        }
        let mut http = daemon.http("run");
        let answer = http.ask(&call(1, "execute", json!({"command": look})));
        let said = &answer["result"]["structuredContent"]["stdout"];
        assert_eq!(said, "end\n", "upgraded: {upgraded}: {answer}");
    }
    daemon.stop();
}

#[test]
fn a_child_is_a_session_of_its_own_without_a_terminal() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let pid = daemon.child("fake");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let own = pid.to_string();
    assert_eq!((fields[2], fields[3], fields[4]), (own.as_str(), own.as_str(), "0"), "group, session, terminal");
}

#[test]
fn root_obeys_no_configuration_that_others_could_have_written() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &stdio("fake", &[], ""));
    let line = format!("ann {}\n", "0".repeat(64));
    let tokens = scratch.write("tokens", &line);
    mode(&tokens, 0o600);
    let drop_in = scratch.write("t.d/more.ron", &format!("Stdio(command: [{:?}])", fake()));
    let dir = scratch.path("t.d");
    let test = || scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
    let out = test();
    assert_eq!((code(&out), stderr(&out).as_str()), (0, ""), "{}", stdout(&out));
    for (path, bits, good) in
        [(&file, 0o666, 0o644), (&drop_in, 0o646, 0o644), (&dir, 0o777, 0o755), (&tokens, 0o602, 0o600)]
    {
        mode(path, bits);
        let out = test();
        let why = format!("{}: others may have written it: ", path.display());
        assert!(stderr(&out).contains(&why), "{}: {}", path.display(), stderr(&out));
        assert_eq!(code(&out), if root() { 78 } else { 0 }, "{}", stderr(&out));
        mode(path, good);
    }
    if root() {
        chown(&file, Some(STRANGER), None).unwrap();
        let out = test();
        assert_eq!(code(&out), 78);
        assert!(stderr(&out).contains("belongs to uid 65533"), "{}", stderr(&out));
        chown(&file, Some(0), None).unwrap();
    }
    assert_eq!(code(&test()), 0);
}

#[test]
fn mcpctl_reads_regular_files_alone_and_shows_no_control_characters() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let status = scratch.path("run/t.status");
    let before = std::fs::read_to_string(&status).unwrap();
    kill(daemon.pid, 19);
    // Until each of its threads has stopped, it may still write.
    let stopped = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap().contains(") T ");
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", daemon.pid)).unwrap().flatten();
    wait("its stop", || tasks().all(stopped).then_some(()));
    let begin = Instant::now();
    for kind in ["fifo", "zero"] {
        std::fs::remove_file(&status).unwrap();
        match kind {
            "fifo" => nix::unistd::mkfifo(&status, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            _ => symlink("/dev/zero", &status).unwrap(),
        }
        for verb in [&["list"][..], &["status", "t"]] {
            let out = scratch.ctl(verb);
            assert!(stdout(&out).contains('t'), "{kind} {verb:?}: {}", stderr(&out));
        }
    }
    // Only a hang takes so long.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    std::fs::remove_file(&status).unwrap();
    let evil = before.replace("\"state\": \"ready\"", "\"state\": \"ready\", \"x\": \"\u{1b}\"");
    let evil = evil.replacen("\"listen\": [", "\"listen\": [\"\\u001b]0;owned\\u0007\\u009b2J\",", 1);
    std::fs::write(&status, evil.replace("\"x\": \"\u{1b}\"", "\"x\": \"\"")).unwrap();
    for args in [&["status", "t"][..], &["list"], &["list", "--json"], &["status", "t", "--json"]] {
        let out = scratch.ctl(args);
        let text = stdout(&out);
        assert!(text.contains("owned"), "{args:?}: {text}{}", stderr(&out));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{args:?}: {text:?}");
        if args.contains(&"--json") {
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
    let mut log = std::fs::OpenOptions::new().append(true).open(scratch.path("t.log")).unwrap();
    std::io::Write::write_all(&mut log, b"a line \x1b[2J \x07 of another program\n").unwrap();
    let out = scratch.ctl(&["logs", "t"]);
    assert!(stdout(&out).contains("a line \\u001b[2J \\u0007 of another"), "{}", stdout(&out));
    if root() {
        // A status file of the service user names root's secrets as the log.
        let secret = scratch.write("secret", "root's alone\n");
        let forged = before.replace(&scratch.path("t.log").display().to_string(), &secret.display().to_string());
        std::fs::write(&status, forged).unwrap();
        chown(&status, Some(STRANGER), None).unwrap();
        let out = scratch.ctl(&["logs", "t"]);
        assert!(code(&out) != 0 && !stdout(&out).contains("root's"), "{}", stdout(&out));
        // Or a log of its own, with a link to them in the place of an older part.
        let log = scratch.write("service/x.log", "new\n");
        chown(&log, Some(STRANGER), None).unwrap();
        symlink(&secret, scratch.path("service/x.log.1")).unwrap();
        let forged = before.replace(&scratch.path("t.log").display().to_string(), &log.display().to_string());
        std::fs::write(&status, forged).unwrap();
        let out = scratch.ctl(&["logs", "t", "-n", "100"]);
        assert!(stdout(&out).contains("new") && !stdout(&out).contains("root's"), "{}", stdout(&out));
    }
    std::fs::remove_file(&status).unwrap();
    std::fs::write(&status, before).unwrap();
    kill(daemon.pid, 18);
}

#[test]
fn roots_mcpctl_looks_one_folder_deep_and_refuses_a_name_found_twice() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let file = |name: &str| scratch.instance(name, &stdio("fake", &[], "")).display().to_string();
    let (deep, flat) = (file("deep"), file("flat"));
    let inner = scratch.path("run/service").display().to_string();
    let start = |args: &[&str]| {
        let out = scratch.run(mcpdaemon(), args);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
    };
    start(&["-c", &flat]);
    start(&["-c", &deep, "--run-dir", &inner]);
    let listed = stdout(&scratch.ctl(&["list"]));
    assert!(listed.contains("deep") && listed.contains("flat"), "{listed}");
    for verb in [&["status", "deep"][..], &["reload", "deep"], &["restart", "deep"], &["logs", "deep"]] {
        let out = scratch.ctl(verb);
        assert_eq!(code(&out), 0, "{verb:?}: {}", stderr(&out));
    }
    // A link is no folder of a service.
    symlink("/proc/self", scratch.path("run/link")).unwrap();
    // What a daemon that may not remove its PID file leaves counts for nothing.
    std::fs::write(scratch.path("run/deep.pid"), "").unwrap();
    assert_eq!(code(&scratch.ctl(&["status", "deep"])), 0);
    start(&["-c", &flat, "--run-dir", &inner]);
    let out = scratch.ctl(&["stop", "flat"]);
    assert!(code(&out) == 2 && stderr(&out).contains("there are two of this name"), "{}", stderr(&out));
    for (dir, names) in [(&inner, &["deep", "flat"][..]), (&scratch.path("run").display().to_string(), &["flat"])] {
        for name in names {
            let out = scratch.ctl(&["--run-dir", dir, "stop", name]);
            assert_eq!(code(&out), 0, "{}", stderr(&out));
        }
    }
}
