//! mcpctl: its words, its exit codes, its JSON, and how little it is.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn every_verb_has_the_exit_codes_of_lsb() {
    let scratch = Scratch::new();
    for (args, exit, wanted) in [
        (&["status", "t"][..], 3, "t: not running"),
        (&["status"], 3, "no instances in "),
        (&["stop", "t"], 7, "t: not running"),
        (&["reload", "t"], 7, "t: not running"),
        (&["stop", "--all"], 0, ""),
        (&["stop", "t", "--force"], 7, "t: not running"),
        (&["list"], 0, "no instances in "),
        (&["stop"], 2, "which instance?"),
        (&["stop", "t", "--all"], 2, "not both"),
        (&["logs"], 2, "name"),
        (&[], 2, "what shall it do?"),
        (&["relaod", "t"], 2, "did you mean 'reload'?"),
        (&["stop", "t", "--tiemout", "1s"], 2, "did you mean '--timeout'?"),
        (&["stop", "../../etc/x"], 2, "cannot be a name"),
        (&["--version"], 0, "mcpctl 0."),
        (&["--help"], 0, "status"),
    ] {
        let out = scratch.ctl(args);
        assert_eq!(code(&out), exit, "{args:?}: {}{}", stdout(&out), stderr(&out));
        assert!((stdout(&out) + &stderr(&out)).contains(wanted), "{args:?}: {}{}", stdout(&out), stderr(&out));
    }
    let daemon = scratch.fake(&[]);
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 0);
    assert_eq!(code(&scratch.ctl(&["status", "t", "other"])), 3, "the worst counts");
    let out = scratch.ctl(&["list"]);
    let row: Vec<String> = stdout(&out).lines().nth(1).unwrap().split_whitespace().map(str::to_owned).collect();
    assert_eq!(
        row,
        ["t", &daemon.pid.to_string(), "ready", "1", &daemon.url, &scratch.path("t.ron").display().to_string()]
    );
    let text = stdout(&scratch.ctl(&["status"]));
    assert!(text.starts_with(&format!("t: ready (pid {}, up ", daemon.pid)), "{text}");
    assert!(
        text.contains(&format!("  listens   {}\n", daemon.url)) && text.contains("  fake    Stdio  ready"),
        "{text}"
    );
    let out = scratch.ctl(&["stop", "t"]);
    assert!(stdout(&out).starts_with(&format!("t: stopped (pid {}, after ", daemon.pid)), "{}", stdout(&out));
}

#[test]
fn mcpctl_list_and_status_of_several_instances() {
    let scratch = Scratch::new();
    scratch.write("run/some body's.pid", "1");
    let one = scratch.start(&scratch.instance("one", &stdio("a", &[], "")));
    let two = scratch.start(&scratch.instance("two", &stdio("b", &[], "")));
    let all: Value = serde_json::from_slice(&scratch.ctl(&["list", "--json"]).stdout).unwrap();
    let names: Vec<&Value> = all["instances"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, [&json!("one"), &json!("two")]);
    let out = scratch.ctl(&["reload", "--all"]);
    assert_eq!(stdout(&out), "one: reloaded (1 unchanged)\ntwo: reloaded (1 unchanged)\n");
    let out = scratch.ctl(&["stop", "one", "none"]);
    assert_eq!(code(&out), 7);
    assert!(!alive(one.pid) && alive(two.pid));
    let out = scratch.ctl(&["stop", "--all"]);
    assert_eq!(code(&out), 0, "{out:?}");
    scratch.gone();
}

#[test]
fn json_is_valid_at_any_width_and_for_the_longest_names() {
    let scratch = Scratch::new();
    let name = "n".repeat(64);
    let file = scratch.instance(&name, &stdio(&"s".repeat(64), &["--stderr", "\"quotes\" and\ttabs"], ""));
    let daemon = scratch.start(&file);
    for columns in ["10", "80", "1000"] {
        let out = scratch.command(mcpctl()).args(["status", "--json"]).env("COLUMNS", columns).output().unwrap();
        let all: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(all["instances"][0]["name"], name);
        assert_eq!(all["instances"][0]["status"]["pid"], daemon.pid);
    }
    let none: Value = serde_json::from_slice(&scratch.ctl(&["status", "--json", "other"]).stdout).unwrap();
    assert_eq!(
        none,
        json!({"at": none["at"], "instances": [{"name": "other", "running": false, "fresh": true, "exit_code": 3, "status": null}]})
    );
}

#[test]
fn logs_shows_the_end_and_follows() {
    use std::io::{BufRead, BufReader};
    let scratch = Scratch::new();
    let servers = stdio("fake", &["--stderr", "of the fake"], "") + &stdio("other", &["--stderr", "of the other"], "");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let whole = ["of the fake", "of the other", "t: ready on"];
    wait("all of it", || whole.iter().all(|line| daemon.log().contains(line)).then_some(()));
    let lines = |args: &[&str]| {
        stdout(&scratch.ctl(&[&["logs", "t"], args].concat())).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all: Vec<String> = daemon.log().lines().map(str::to_owned).collect();
    assert_eq!(lines(&["-n", "1000"]), all);
    assert_eq!(lines(&["-n2"]), all[all.len() - 2..]);
    assert!(lines(&["--server", "other"]).iter().all(|l| l.contains("other")));
    assert!(lines(&["--server", "other"]).iter().any(|l| l.contains("of the other")));
    let mut follow = scratch.command(mcpctl());
    let mut follow = follow.args(["logs", "t", "-f", "-n0"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(follow.stdout.take().unwrap());
    let fds = format!("/proc/{}/fd", follow.id());
    let reads = || {
        std::fs::read_dir(&fds)
            .ok()?
            .flatten()
            .find(|e| std::fs::read_link(e.path()).is_ok_and(|l| l == scratch.path("t.log")))
    };
    wait("it to read the log", reads);
    std::fs::rename(scratch.path("t.log"), scratch.path("t.log.1")).unwrap();
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("[INFO]"), "{line}");
    follow.kill().unwrap();
    follow.wait().unwrap();
    let out = scratch.ctl(&["logs", "nosuch"]);
    assert!(code(&out) == 1 && stderr(&out).contains("cannot read the log: No such file"), "{}", stderr(&out));
}

#[test]
fn mcpctl_may_not_signal_for_another_user() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    // SAFETY: geteuid(2) only reads.
    if unsafe { libc::geteuid() } != 0 {
        // As an ordinary user there is nobody to become; root's daemons are the other half of the same rule.
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    std::fs::set_permissions(scratch.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let bin = scratch.path("mcpctl");
    // By a process of its own: what this one has open for writing, another test's child may have too, and then nobody
    // can run it.
    assert!(scratch.run("cp", &[mcpctl(), bin.to_str().unwrap()]).status.success());
    let as_nobody =
        |args: &[&str]| scratch.command(bin.to_str().unwrap()).args(args).uid(65534).gid(65534).output().unwrap();
    for verb in ["stop", "reload"] {
        let out = as_nobody(&[verb, "t"]);
        assert_eq!(code(&out), 4, "{verb}: {}{}", stdout(&out), stderr(&out));
        assert!(stderr(&out).contains("it belongs to root"), "{}", stderr(&out));
    }
    assert_eq!(code(&as_nobody(&["status", "t"])), 0, "anybody may look");
    assert!(alive(daemon.pid));
}

#[test]
fn mcpctl_links_no_runtime_and_opens_no_socket() {
    let symbols = std::process::Command::new("nm").args(["-C", mcpctl()]).output().unwrap();
    let symbols = stdout(&symbols);
    assert!(symbols.contains("mcpdaemon::ctl::main"), "nm shows the program's own symbols");
    for runtime in ["async_std::", "async_task::", "hyper::", "tide::", "mcpdaemon::hub::", "mcpdaemon::net::"] {
        assert!(!symbols.contains(runtime), "{runtime} is linked into mcpctl");
    }
    let scratch = Scratch::new();
    let _daemon = scratch.fake(&[]);
    let trace = scratch.path("trace");
    let out = scratch.run("strace", &["-f", "-o", trace.to_str().unwrap(), mcpctl(), "status", "t"]);
    assert!(out.status.success(), "{}", stderr(&out));
    let trace = scratch.file("trace");
    // Each line is a process number and a call.
    let calls: Vec<&str> = trace.lines().filter_map(|l| l.split_whitespace().nth(1)?.split('(').next()).collect();
    let made = |call: &str| calls.iter().any(|c| c.starts_with(call));
    assert!(made("pidfd_open") && !made("socket") && !made("clone") && !made("fork"), "{trace}");
}

#[test]
fn a_full_disk_keeps_no_verb_from_its_work() {
    let scratch = Scratch::new();
    let servers = stdio("fake", &[], "");
    let (one, two) = (scratch.start(&scratch.instance("a", &servers)), scratch.start(&scratch.instance("b", &servers)));
    let into = |sink: &str, args: &[&str]| {
        let sink = std::fs::OpenOptions::new().write(true).open(sink).unwrap();
        scratch.command(mcpctl()).args(args).stdout(sink).output().unwrap()
    };
    let out = into("/dev/full", &["reload", "a", "b"]);
    assert_eq!(code(&out), 1);
    assert_eq!(stderr(&out), "mcpctl: cannot write to standard output: No space left on device\n");
    assert_eq!((&one.status()["reloads"], &two.status()["reloads"]), (&json!(1), &json!(1)));
    assert_eq!(code(&into("/dev/full", &["status", "nosuch"])), 3);
    // Nobody who reads is no error.
    let sh = format!("{} reload a b | true; exit ${{PIPESTATUS[0]}}", mcpctl());
    assert_eq!(code(&scratch.run("bash", &["-c", &sh])), 0);
    assert_eq!(two.status()["reloads"], 2);
    assert!(scratch.ctl(&["stop", "--all"]).status.success());
}

#[test]
fn following_a_log_loses_nothing_over_rotation() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut follow = scratch.command(mcpctl());
    let mut follow = follow.args(["logs", "t", "-f", "-n1000"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let pipe = follow.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(pipe).unwrap());
    let mut ws = daemon.ws("fake");
    let id = follow.id();
    let caught_up = || {
        wait("it to read", || {
            let file = scratch.path("t.log");
            let fd = std::fs::read_dir(format!("/proc/{id}/fd"))
                .ok()?
                .flatten()
                .find(|e| std::fs::read_link(e.path()).is_ok_and(|l| l == file))?;
            let at = std::fs::read_to_string(format!("/proc/{id}/fdinfo/{}", fd.file_name().display())).ok()?;
            let position: u64 = at.lines().next()?.split_whitespace().nth(1)?.parse().ok()?;
            (position == std::fs::metadata(file).ok()?.len()).then_some(())
        });
    };
    caught_up();
    for round in 0..3 {
        for n in 0..20 {
            ws.ask(&call(n, "stderr", json!({"n": 3, "text": format!("mark {round}/{n}")})));
        }
        // Lines that are written between the rename and the reload are in the old file, after its end was seen.
        std::fs::rename(scratch.path("t.log"), scratch.path(&format!("t.log.{round}"))).unwrap();
        for n in 20..40 {
            ws.ask(&call(n, "stderr", json!({"n": 3, "text": format!("mark {round}/{n}")})));
        }
        assert!(scratch.ctl(&["reload", "t"]).status.success());
        // It looks ten times a second; what comes and goes in between it cannot see.
        caught_up();
    }
    ws.ask(&call(0, "stderr", json!({"n": 1, "text": "the end"})));
    let files = || (0..3).map(|n| scratch.file(&format!("t.log.{n}"))).collect::<String>() + &daemon.log();
    wait("the end", || files().contains("the end 0").then_some(()));
    caught_up();
    follow.kill().unwrap();
    follow.wait().unwrap();
    let (shown, all) = (reader.join().unwrap(), files());
    let marks = |text: &str| text.lines().filter(|l| l.contains("mark ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(marks(&all).len(), 360);
    assert_eq!(marks(&shown), marks(&all));
}

#[test]
fn the_numbers_of_the_status_are_true() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut http = daemon.http("fake");
    let before = daemon.server("fake")["requests"]["total"].as_u64().unwrap();
    for n in 0..20 {
        assert_eq!(said(&http.ask(&call(n, "sleep", json!({"n": 50, "text": "x"})))), "x");
    }
    for n in 0..5 {
        assert_eq!(http.ask(&call(n, "no-such-tool", json!({})))["error"]["code"], -32602);
    }
    let server = daemon.server("fake");
    let requests = &server["requests"];
    assert_eq!((&requests["total"], &requests["errors"]), (&json!(before + 25), &json!(5)), "{server}");
    assert_eq!((&requests["per_minute"], &requests["in_flight"]), (&requests["total"], &json!(0)), "{server}");
    let (average, p95) = (requests["average_ms"].as_f64().unwrap(), requests["p95_ms"].as_f64().unwrap());
    assert!(average >= 20.0 * 50.0 / (before + 25) as f64 && p95 >= 50.0, "{server}");
    // What the kernel says at the same time; memory may grow a little in between.
    let of = |what: &str| format!("/proc/{}/{what}", daemon.child("fake"));
    let line = |key: &str| {
        let status = std::fs::read_to_string(of("status")).unwrap();
        let line = status.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let process = &server["process"];
    assert_eq!(process["threads"], line("Threads:"), "{process}");
    let (told, is) = (process["memory_bytes"].as_u64().unwrap() >> 10, line("VmRSS:"));
    assert!(told.abs_diff(is) * 4 < is, "{told} kB told, {is} kB taken");
    assert_eq!(process["open_files"], std::fs::read_dir(of("fd")).unwrap().count(), "{process}");
    // It has pipes alone, and was started a moment ago.
    assert_eq!(process["sockets"], 0, "{process}");
    let at = |what: &Value| humantime::parse_rfc3339(what.as_str().unwrap()).unwrap();
    let (started, now) = (at(&process["started"]), std::time::SystemTime::now());
    let second = Duration::from_secs(1);
    let (written, begun) = (at(&daemon.status()["written"]), at(&daemon.status()["started"]));
    assert!(started + 2 * second > begun && started < written + second && written <= now + second, "{process}");
    assert!(["sleeping", "running"].contains(&process["state"].as_str().unwrap()), "{process}");
    // One that works takes processor time, which is told as the kernel has it.
    daemon.http("fake").ask(&call(1, "spin", json!({"n": 1200})));
    let cpu = daemon.server("fake")["process"]["cpu_seconds"].as_f64().unwrap();
    let stat = std::fs::read_to_string(of("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    assert!(cpu >= 1.0 && (cpu - ticks / 100.0).abs() < 0.5, "{cpu} s told, {ticks} ticks taken");
    // And one that is stopped is said to be.
    kill(Pid::from_raw(daemon.child("fake")), Signal::SIGSTOP).unwrap();
    wait("its state", || (daemon.server("fake")["process"]["state"] == "stopped").then_some(()));
    kill(Pid::from_raw(daemon.child("fake")), Signal::SIGCONT).unwrap();
}

/// A document that was begun before the question is not an answer to it, although the file is a new one.
#[test]
fn status_shows_what_was_true_when_it_was_asked_for() {
    let scratch = Scratch::new();
    // It takes its time to be written.
    let many: String = (0..100).map(|n| stdio(&format!("s{n}"), &[], "start: OnDemand")).collect();
    let daemon = scratch.start(&scratch.instance("t", &(stdio("fake", &[], "") + &many)));
    let mut http = daemon.http("fake");
    let before = daemon.server("fake")["requests"]["total"].as_u64().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The file is written all the time.
        scope.spawn(|| {
            while !over.load(SeqCst) {
                kill(Pid::from_raw(daemon.pid), Signal::SIGUSR1).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let told = (1..=60).find_map(|n| {
            http.ask(&call(n, "echo", json!({"text": "x"})));
            let total = daemon.server("fake")["requests"]["total"].as_u64().unwrap();
            (total < before + n as u64).then_some((n, total))
        });
        over.store(true, SeqCst);
        assert_eq!(told, None);
    });
}
