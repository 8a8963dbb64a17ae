//! The tools of a Debian system agree with the files and signals of the daemon: what is shipped for them is tried out
//! with the real ones. tests/install brings them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};

use crate::harness::*;

/// A program, also where users other than root have no /usr/sbin in their PATH.
fn tool(name: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("there is no {name}; tests/install brings it")).display().to_string()
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/service").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is shipped, with the places of this test in place of the usual ones, and as the user that runs it.
fn adapted(scratch: &Scratch, name: &str) -> String {
    let dir = scratch.dir.path().display().to_string();
    let text = shipped(name)
        .replace("/usr/bin/mcpdaemon", mcpdaemon())
        .replace("/usr/bin/mcpctl", mcpctl())
        // The folder of the service, and root's above it.
        .replace("/run/mcp/mcp", &format!("{dir}/run"))
        .replace("/run/mcp/$user", &format!("{dir}/run"))
        .replace("/run/mcp/${command_user%%:*}", &format!("{dir}/run"))
        .replace("/run/mcp", &format!("{dir}/run"))
        .replace("/var/log/mcp", &format!("{dir}/logs"))
        .replace("/var/lib/mcp", &dir)
        .replace("/etc/mcp", &dir);
    let left: Vec<&str> =
        text.lines().filter(|l| !l.starts_with('#') && l.contains("/mcp") && !l.contains(dir.as_str())).collect();
    assert!(left.iter().all(|l| l.contains(mcpdaemon()) || l.contains(mcpctl())), "{left:?}");
    text
}

fn place(path: &Path, text: &str, mode: u32) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

/// A program in the foreground; killed at the end if the test did not end it.
struct Front(Child);

impl Front {
    fn start(scratch: &Scratch, program: &str, args: &[&str]) -> Front {
        let mut command = scratch.command(&tool(program));
        let out = std::fs::File::create(scratch.path("front.out")).unwrap();
        command.args(args).stdout(out.try_clone().unwrap()).stderr(out);
        Front(command.spawn().unwrap())
    }

    fn end(mut self) {
        kill(self.0.id() as i32, libc::SIGTERM);
        self.0.wait().unwrap();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The instance `t`, once it is ready, started by whomever.
fn found(scratch: &Scratch) -> Daemon<'_> {
    let (pid, url) = wait("a ready instance", || {
        let out = scratch.ctl(&["list", "--json"]);
        let all: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        let row = all["instances"].as_array()?.iter().find(|row| row["state"] == "ready")?.clone();
        Some((row["pid"].as_i64()? as i32, row["listen"][0].as_str()?.to_owned()))
    });
    Daemon { scratch, name: "t".into(), pid, url }
}

fn healthy(daemon: &Daemon<'_>) {
    assert_eq!(get(daemon.address(), "/healthz").body, "ok\n");
}

fn reloaded(daemon: &Daemon<'_>, times: u64) {
    wait("the reload", || (daemon.status()["reloads"] == times).then_some(()));
}

fn shell(scratch: &Scratch, shell: &str, script: &str) -> Output {
    scratch.run(&tool(shell), &["-c", script])
}

#[test]
fn kill_takes_the_pid_file_in_every_shell() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let binary = tool("kill");
    for (name, kill) in [("dash", "kill"), ("bash", "kill"), ("dash", binary.as_str()), ("bash", binary.as_str())] {
        let daemon = scratch.start(&file);
        let out = shell(&scratch, name, &format!("{kill} -HUP $(cat run/t.pid)"));
        assert_eq!((code(&out), stderr(&out)), (0, String::new()), "{name} {kill}");
        reloaded(&daemon, 1);
        let out = shell(&scratch, name, &format!("{kill} \"$(cat run/t.pid)\""));
        assert_eq!((code(&out), stderr(&out)), (0, String::new()), "{name} {kill}");
        scratch.gone();
        assert!(!scratch.path("run/t.pid").exists());
    }
}

#[test]
fn pkill_takes_the_pid_file_and_sees_the_lock() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    for (times, args) in [(1, &["-HUP", "-F", "run/t.pid"][..]), (2, &["-HUP", "-L", "-F", "run/t.pid"])] {
        let out = scratch.run(&tool("pkill"), args);
        assert_eq!((code(&out), stderr(&out)), (0, String::new()), "{args:?}");
        reloaded(&daemon, times);
    }
    // Left by a daemon that was killed: nobody holds the lock, so nobody is meant.
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    std::mem::forget(daemon);
    assert!(scratch.path("run/t.pid").exists());
    let out = scratch.run(&tool("pkill"), &["-L", "-F", "run/t.pid"]);
    assert_ne!(code(&out), 0, "{out:?}");
    let daemon = scratch.start(&file);
    let out = scratch.run(&tool("pkill"), &["-TERM", "-L", "-F", "run/t.pid"]);
    assert_eq!(code(&out), 0, "{out:?}");
    scratch.gone();
    drop(daemon);
}

#[test]
fn start_stop_daemon_starts_sees_and_stops_it() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "")).display().to_string();
    let pid_file = scratch.path("run/t.pid").display().to_string();
    let run = |args: &[&str]| {
        let common = ["--pidfile", &pid_file, "--exec", mcpdaemon()];
        scratch.run(&tool("start-stop-daemon"), &[&args[..1], &common, &args[1..]].concat())
    };
    let status = || code(&run(&["--status"]));
    assert_eq!(status(), 3, "not running");
    let out = run(&["--start", "--", "-c", &file]);
    assert_eq!(code(&out), 0, "{out:?}");
    let daemon = scratch.started(&stdout(&out));
    healthy(&daemon);
    assert_eq!(status(), 0);
    let out = run(&["--start", "--", "-c", &file]);
    assert_eq!(code(&out), 1, "it runs already: {out:?}");
    assert_eq!(code(&run(&["--start", "--oknodo", "--", "-c", &file])), 0);
    let out = run(&["--stop", "--signal", "HUP"]);
    assert_eq!(code(&out), 0, "{out:?}");
    reloaded(&daemon, 1);
    let out = run(&["--stop", "--retry", "TERM/30"]);
    assert_eq!(code(&out), 0, "{out:?}");
    assert!(!alive(daemon.pid));
    scratch.gone();
    assert_eq!(status(), 3);
    let daemon = scratch.start(Path::new(&file));
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    assert_eq!(status(), 1, "dead, and the PID file is there");
    let out = run(&["--start", "--", "-c", &file]);
    assert_eq!(code(&out), 0, "{out:?}");
    std::mem::forget(daemon);
    scratch.started(&stdout(&out)).stop();
}

#[test]
fn monit_finds_it_and_starts_it_again() {
    let scratch = Scratch::new();
    // The shipped file asks a port that is known beforehand.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("listen: [\"127.0.0.1:{port}\"],");
    let file = scratch.instance_with("t", &listen, &stdio("fake", &[], ""));
    let check = adapted(&scratch, "mcpdaemon.monit")
        .replace("prod", "t")
        .replace("port 8003", &format!("port {port}"))
        .replace("as uid mcp and gid mcp ", "");
    let dir = scratch.dir.path().display();
    let own = format!(
        "set daemon 1\nset log {dir}/monit.log\nset pidfile {dir}/monit.pid\nset idfile {dir}/monit.id\n\
         set statefile {dir}/monit.state\nset httpd unixsocket {dir}/monit.sock allow localhost\n"
    );
    let config = place(&scratch.path("monitrc"), &(own + &check), 0o700).display().to_string();
    let out = scratch.run(&tool("monit"), &["-t", "-c", &config]);
    assert_eq!(code(&out), 0, "{out:?}");
    let first = scratch.start(&file);
    let monit = Front::start(&scratch, "monit", &["-I", "-c", &config]);
    let seen = |pid: i32| {
        let out = scratch.run(&tool("monit"), &["-c", &config, "status", "mcpdaemon-t"]);
        let text = stdout(&out);
        let value = |key: &str| text.lines().find_map(|l| l.trim().strip_prefix(key)).map(|v| v.trim().to_owned());
        (value("pid") == Some(pid.to_string()) && value("status").as_deref() == Some("OK")).then_some(())
    };
    wait("monit to find it", || seen(first.pid));
    kill(first.pid, libc::SIGKILL);
    let second = wait("another one", || {
        let status = first.status();
        (status["pid"].as_i64()? as i32 != first.pid && status["state"] == "ready").then(|| found(&scratch))
    });
    wait("monit to find the other one", || seen(second.pid));
    healthy(&second);
    let log = scratch.file("monit.log");
    assert!(log.contains("'mcpdaemon-t' process is not running"), "{log}");
    let out = scratch.run(&tool("monit"), &["-c", &config, "stop", "mcpdaemon-t"]);
    assert_eq!(code(&out), 0, "{out:?}");
    wait("the end", || (!alive(second.pid)).then_some(()));
    monit.end();
    scratch.gone();
    assert!(!scratch.path("run/t.pid").exists(), "{}", scratch.file("monit.log"));
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let scratch = Scratch::new();
    let mut units = Vec::new();
    for name in ["mcpdaemon.service", "mcpdaemon@.service", "mcpdaemon-forking@.service", "mcpdaemon@.socket"] {
        // Only the programs have to exist; the rest are names of folders.
        let text = shipped(name).replace("/usr/bin/mcpdaemon", mcpdaemon()).replace("/usr/bin/mcpctl", mcpctl());
        units.push(scratch.write(&format!("units/{name}"), &text).display().to_string());
    }
    let mut command = scratch.command(&tool("systemd-analyze"));
    let out = command.args(["verify", "--man=no", "--recursive-errors=no"]).args(&units).output().unwrap();
    // What older versions do not know yet is said to be ignored, and explained in the unit.
    let newer = ["Failed to parse service type, ignoring: notify-reload", "'RestartSteps'", "'RestartMaxDelaySec'"];
    let text = stdout(&out) + &stderr(&out);
    let ours = text.lines().filter(|l| l.contains("mcpdaemon") && !newer.iter().any(|n| l.contains(n)));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new(), "{text}");
    assert!(code(&out) == 0 || newer.iter().any(|n| text.contains(n)), "{text}");
}

#[test]
fn both_units_differ_only_in_how_the_daemon_starts() {
    let settings = |name: &str| {
        let text = shipped(name);
        let own = ["Description=", "Conflicts=", "Type=", "PIDFile=", "ExecStart=", "WatchdogSec="];
        let shared = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        shared.filter(|l| !own.iter().any(|o| l.starts_with(o))).map(str::to_owned).collect::<Vec<_>>()
    };
    let front = settings("mcpdaemon@.service");
    assert!(front.len() > 40, "{front:?}");
    assert_eq!(front, settings("mcpdaemon-forking@.service"));
}

#[test]
fn systemd_makes_the_user_and_its_folders() {
    let scratch = Scratch::new();
    for folder in ["etc", "run", "var/log", "var/lib"] {
        std::fs::create_dir_all(scratch.path("root").join(folder)).unwrap();
    }
    let root = format!("--root={}", scratch.path("root").display());
    let run = |program: &str, action: &[&str], name: &str, text: &str| {
        let conf = scratch.write(&format!("{name}.conf"), text).display().to_string();
        let out = scratch.run(&tool(program), &[action, &[&root, &conf]].concat());
        assert_eq!(code(&out), 0, "{program}: {}", stderr(&out));
    };
    let (users, folders) = (shipped("mcpdaemon.sysusers"), shipped("mcpdaemon.tmpfiles"));
    // Others than root can neither make users nor give folders away.
    if nix::unistd::geteuid().is_root() {
        run("systemd-sysusers", &[], "users", &users);
        assert!(
            scratch.file("root/etc/passwd").contains(":MCP servers:/var/lib/mcp:"),
            "{}",
            scratch.file("root/etc/passwd")
        );
        run("systemd-tmpfiles", &["--create"], "folders", &folders);
    } else {
        run("systemd-sysusers", &["--dry-run"], "users", &users);
        run("systemd-tmpfiles", &["--create"], "folders", &folders.replace(" mcp mcp ", " - - "));
    }
    for (folder, mode) in [("run/mcp", 0o755), ("run/mcp/mcp", 0o755), ("var/log/mcp", 0o750), ("var/lib/mcp", 0o750)] {
        let found = std::fs::metadata(scratch.path("root").join(folder)).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{folder}");
    }
}

#[test]
fn logrotate_moves_the_log_and_the_next_line_is_in_a_new_one() {
    let scratch = Scratch::new();
    let log = scratch.path("logs/t.log");
    let file = scratch.instance_with("t", &format!("log: (file: {log:?}),"), &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let me = |kind: &str| stdout(&scratch.run("id", &[kind])).trim().to_owned();
    let text =
        adapted(&scratch, "mcpdaemon.logrotate").replace("su mcp mcp", &format!("su {} {}", me("-un"), me("-gn")));
    let config = place(&scratch.path("logrotate.conf"), &text, 0o644).display().to_string();
    let state = scratch.path("logrotate.state").display().to_string();
    let rotate = |wanted: i32| {
        let out = scratch.run(&tool("logrotate"), &["-f", "-s", &state, &config]);
        assert_eq!(code(&out), wanted, "{}", stderr(&out));
        stderr(&out)
    };
    let names = || {
        let all = std::fs::read_dir(scratch.path("logs")).unwrap();
        let mut names: Vec<String> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(rotate(0), "");
    assert_eq!(names(), ["t.log", "t.log.1"]);
    assert!(scratch.file("logs/t.log.1").contains("t: ready on "));
    let now = scratch.file("logs/t.log");
    assert!(now.contains("reloaded: 1 unchanged") && !now.contains("t: ready on "), "{now}");
    let mode = std::fs::metadata(&log).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // A configuration that is refused: logrotate reports it, and the log is a new one all the same.
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("servers:", "sevrers:")).unwrap();
    let said = rotate(1);
    assert!(said.contains("reload refused") && said.contains("did you mean 'servers'?"), "{said}");
    assert_eq!(names(), ["t.log", "t.log.1", "t.log.2.gz"]);
    assert!(scratch.file("logs/t.log").contains("reload refused"), "{}", scratch.file("logs/t.log"));
    // Nothing runs: there is nobody to tell, which is no failure.
    daemon.stop();
    assert_eq!(rotate(0), "");
}

#[test]
fn s6_readiness_and_control() {
    let scratch = Scratch::new();
    scratch.instance("t", &stdio("fake", &["--slow-init", "300"], ""));
    let run = adapted(&scratch, "s6/run");
    // As the user of this test; the folder is there by then.
    let run = run.replace("s6-setuidgid mcp mcpdaemon", mcpdaemon()).replace("-o mcp -g mcp ", "");
    assert!(run.contains(&format!("exec {} -f --notify-fd 3 ", mcpdaemon())), "{run}");
    let folder = scratch.path("mcpdaemon-t");
    place(&folder.join("run"), &run, 0o755);
    place(&folder.join("finish"), &shipped("s6/finish"), 0o755);
    place(&folder.join("notification-fd"), &shipped("s6/notification-fd"), 0o644);
    let dir = folder.display().to_string();
    let supervise = Front::start(&scratch, "s6-supervise", &[&dir]);
    let s6 = |program: &str, args: &[&str]| scratch.run(&tool(program), &[args, &[dir.as_str()]].concat());
    wait("s6-supervise", || s6("s6-svok", &[]).status.success().then_some(()));
    let out = s6("s6-svwait", &["-U", "-t", "30000"]);
    assert_eq!(code(&out), 0, "{} {}", stderr(&out), scratch.file("front.out"));
    // Ready means ready, at that moment.
    assert!(scratch.file("run/t.status").contains("\"state\": \"ready\""), "{}", scratch.file("run/t.status"));
    let daemon = found(&scratch);
    healthy(&daemon);
    let pid = stdout(&s6("s6-svstat", &["-o", "pid"]));
    assert_eq!(pid.trim(), daemon.pid.to_string());
    assert_eq!(code(&s6("s6-svc", &["-h"])), 0);
    reloaded(&daemon, 1);
    // Killed: another one, ready again.
    let first = daemon.pid;
    kill(first, libc::SIGKILL);
    std::mem::forget(daemon);
    wait("another one", || {
        let second = stdout(&s6("s6-svstat", &["-o", "pid,ready"]));
        let (pid, ready) = second.trim().split_once(' ')?;
        (pid != first.to_string() && ready == "true").then_some(())
    });
    let second = found(&scratch);
    healthy(&second);
    let out = s6("s6-svc", &["-wD", "-T", "30000", "-d"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert!(!alive(second.pid) && !scratch.path("run/t.pid").exists());
    // A mistake in the configuration is no reason to try for ever.
    scratch.write("t.ron", "(sevrers: {})");
    assert_eq!(code(&s6("s6-svc", &["-u"])), 0);
    wait("to be given up", || {
        let stat = stdout(&s6("s6-svstat", &["-o", "up,wantedup,exitcode"]));
        (stat.trim() == "false false 78").then_some(())
    });
    assert!(scratch.file("front.out").contains("did you mean 'servers'?"), "{}", scratch.file("front.out"));
    assert_eq!(code(&s6("s6-svc", &["-x"])), 0);
    let mut supervise = supervise;
    wait("the end of s6-supervise", || supervise.0.try_wait().unwrap());
    scratch.gone();
}
