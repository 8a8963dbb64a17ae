//! The log: rotation, formats, the journal, what a reload changes of it, and reading it over rotations.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::*;

/// One server `fake`, and a log with these settings.
fn instance(scratch: &Scratch, log: &str, flags: &[&str]) -> PathBuf {
    let file = scratch.path("t.log");
    scratch.instance_with("t", &format!("log: (file: {file:?}, level: Debug, {log}),"), &stdio("fake", flags, ""))
}

fn reload(scratch: &Scratch) -> (i32, String) {
    let out = scratch.ctl(&["reload", "t"]);
    (code(&out), stdout(&out) + &stderr(&out))
}

/// All files of the log, oldest first.
fn files(scratch: &Scratch) -> Vec<PathBuf> {
    let old = (1..).map(|n| scratch.path(&format!("t.log.{n}"))).take_while(|p| p.exists());
    let mut all: Vec<_> = std::iter::once(scratch.path("t.log")).chain(old).collect();
    all.reverse();
    all
}

fn whole(scratch: &Scratch) -> String {
    // One may just be about to get its next name.
    files(scratch).iter().map(|p| std::fs::read_to_string(p).unwrap_or_default()).collect()
}

fn marks(text: &str) -> Vec<String> {
    text.lines().filter(|l| l.contains("mark ")).map(str::to_owned).collect()
}

/// Lets the fake server write `n` lines to its standard error.
fn speak(ws: &mut Ws, n: u64, text: &str) {
    assert_eq!(said(&ws.ask(&call(1, "stderr", json!({"n": n, "text": text})))), "written");
}

#[test]
fn log_rotation_by_size_loses_no_line() {
    let scratch = Scratch::new();
    scratch.write("t.log", &"an old line\n".repeat(500));
    let daemon = scratch.start(&instance(&scratch, "rotate: (size: \"4KiB\", keep: 100)", &[]));
    let mut ws = daemon.ws("fake");
    speak(&mut ws, 600, "mark");
    wait("all of it", || whole(&scratch).contains("mark 599\n").then_some(()));
    let (all, files) = (whole(&scratch), files(&scratch));
    assert!(files.len() > 5, "{files:?}");
    assert!(all.starts_with("an old line\n"), "an existing log is appended to");
    let numbers: Vec<_> = marks(&all).iter().map(|l| l.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).collect();
    assert_eq!(numbers, (0..600).collect::<Vec<_>>());
    for file in &files {
        let (m, text) = (std::fs::metadata(file).unwrap(), std::fs::read_to_string(file).unwrap());
        assert!((m.len() <= 4 << 10 || text.starts_with("an old")) && text.ends_with('\n'), "{file:?}: {}", m.len());
    }
    let mode = std::fs::metadata(scratch.path("t.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let shown = stdout(&scratch.ctl(&["logs", "t", "-n", "100000"]));
    assert_eq!(shown, all, "it goes on backwards in the old files");
    let last: Vec<_> = all.lines().rev().take(300).collect();
    assert_eq!(stdout(&scratch.ctl(&["logs", "t", "-n", "300"])).lines().rev().collect::<Vec<_>>(), last);
    assert_eq!(daemon.dropped("log_lines"), 0);
}

#[test]
fn log_rotation_keeps_so_many_files() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "rotate: (size: \"4KiB\", keep: 2)", &[]));
    let mut ws = daemon.ws("fake");
    speak(&mut ws, 300, "mark");
    wait("the end", || daemon.log().contains("mark 299\n").then_some(()));
    assert_eq!(files(&scratch).len(), 3);
    // None at all: what is full is removed.
    for n in 1..3 {
        std::fs::remove_file(scratch.path(&format!("t.log.{n}"))).unwrap();
    }
    instance(&scratch, "rotate: (size: \"4KiB\", keep: 0)", &[]);
    assert_eq!(reload(&scratch).0, 0);
    speak(&mut ws, 300, "next");
    wait("the end", || daemon.log().contains("next 299\n").then_some(()));
    assert!(files(&scratch).len() == 1 && daemon.log().len() <= 4 << 10);
    // Somebody else does it: the file grows.
    instance(&scratch, "rotate: None", &[]);
    assert_eq!(reload(&scratch).0, 0);
    speak(&mut ws, 300, "last");
    wait("the end", || daemon.log().contains("last 299\n").then_some(()));
    assert!(files(&scratch).len() == 1 && daemon.log().contains("last 0\n"));
}

#[test]
fn mcpctl_logs_follow_survives_rotation() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "rotate: (size: \"4KiB\", keep: 100)", &[]));
    let mut follow = scratch.command(mcpctl());
    let mut follow = follow.args(["logs", "t", "-f", "-n0"]).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = BufReader::new(follow.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || pipe.lines().for_each(|l| sender.send(l.unwrap()).unwrap_or_default()));
    let fds = format!("/proc/{}/fd", follow.id());
    let reads = |path: &PathBuf| {
        let all = std::fs::read_dir(&fds).ok()?;
        all.flatten().find(|e| std::fs::read_link(e.path()).is_ok_and(|l| l == *path))
    };
    wait("it to read the log", || reads(&scratch.path("t.log")));
    let mut ws = daemon.ws("fake");
    let mut shown = Vec::new();
    for round in 0..3 {
        // At once: many rotations between two looks.
        speak(&mut ws, 300, &format!("mark {round}"));
        while shown.last().is_none_or(|l: &String| !l.ends_with(&format!("mark {round} 299"))) {
            shown.push(lines.recv_timeout(LONG).unwrap());
        }
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
    reader.join().unwrap();
    let all = whole(&scratch);
    assert_eq!(marks(&shown.join("\n")), marks(&all));
    assert!(files(&scratch).len() > 8);
}

#[test]
fn log_moved_by_others_is_reopened() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "rotate: (size: \"4KiB\", keep: 100)", &[]));
    let mut ws = daemon.ws("fake");
    // What logrotate and people do; the next name of ours is taken then.
    std::fs::rename(scratch.path("t.log"), scratch.path("t.log.1")).unwrap();
    speak(&mut ws, 200, "mark");
    wait("the end", || whole(&scratch).contains("mark 199\n").then_some(()));
    assert_eq!(marks(&whole(&scratch)).len(), 200);
    // With a HUP, as logrotate does it.
    std::fs::rename(scratch.path("t.log"), scratch.path("t.log.0")).unwrap();
    assert_eq!(reload(&scratch).0, 0);
    speak(&mut ws, 200, "after");
    wait("the end", || whole(&scratch).contains("after 199\n").then_some(()));
    // Removed: there is a new one once the lost one is full.
    std::fs::remove_file(scratch.path("t.log")).unwrap();
    speak(&mut ws, 200, "again");
    wait("the end", || scratch.file("t.log").contains("again 199\n").then_some(()));
    assert_eq!(daemon.dropped("log_lines"), 0);
}

#[test]
fn a_log_that_cannot_be_rotated_goes_on() {
    let scratch = Scratch::new();
    scratch.write("t.log.1/in the way", "");
    let daemon = scratch.start(&instance(&scratch, "rotate: (size: \"4KiB\", keep: 1)", &[]));
    let mut ws = daemon.ws("fake");
    speak(&mut ws, 300, "mark");
    wait("the end", || daemon.log().contains("mark 299\n").then_some(()));
    let log = daemon.log();
    assert_eq!(marks(&log).len(), 300);
    assert_eq!(log.matches("t.log: cannot rotate the log, going on with it: ").count(), 1, "{log}");
}

#[test]
fn logrotate_copytruncate_works() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "rotate: None", &[]));
    let mut ws = daemon.ws("fake");
    speak(&mut ws, 50, "before");
    wait("the end", || daemon.log().contains("before 49\n").then_some(()));
    std::fs::copy(scratch.path("t.log"), scratch.path("t.log.1")).unwrap();
    std::fs::File::options().write(true).open(scratch.path("t.log")).unwrap().set_len(0).unwrap();
    speak(&mut ws, 1, "after");
    wait("the line", || daemon.log().contains("after 0\n").then_some(()));
    assert!(daemon.log().starts_with("20"), "{:?}", daemon.log());
}

#[test]
fn full_disk_costs_log_lines_and_nothing_else() {
    let scratch = Scratch::new();
    let at = |file: &str| {
        let log = format!("log: (file: {file:?}, level: Debug, rotate: (size: \"4KiB\", keep: 1)),");
        scratch.instance_with("t", &log, &stdio("fake", &[], ""))
    };
    let daemon = scratch.start(&at("/dev/full"));
    let mut ws = daemon.ws("fake");
    speak(&mut ws, 100, "mark");
    wait("the count", || (daemon.dropped("log_lines") > 100).then_some(()));
    at("t.log");
    assert_eq!(reload(&scratch).0, 0);
    let lost = daemon.dropped("log_lines");
    speak(&mut ws, 10, "mark");
    wait("the end", || daemon.log().contains("mark 9\n").then_some(()));
    assert_eq!(daemon.dropped("log_lines"), lost);
    assert_eq!(std::fs::metadata("/dev/full").unwrap().mode() & 0o170000, 0o020000);
}

#[test]
fn a_limit_for_files_costs_lines_too() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "rotate: None", &[]);
    let script = format!("ulimit -f 40; exec {} -c {}", mcpdaemon(), file.display());
    let out = scratch.run("bash", &["-c", &script]);
    assert!(out.status.success(), "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    speak(&mut daemon.ws("fake"), 900, "mark mark mark mark mark mark");
    wait("lost lines", || (daemon.dropped("log_lines") > 100).then_some(()));
    // Children have every signal as it is by default; this one, written in Rust, ignores PIPE.
    let ignored = std::fs::read_to_string(format!("/proc/{}/status", daemon.child("fake"))).unwrap();
    assert!(ignored.contains("SigIgn:\t0000000000001000\n"), "{ignored}");
    daemon.stop();
}

#[test]
fn all_of_the_log_changes_with_a_reload_or_nothing_does() {
    let scratch = Scratch::new();
    let at = |log: &str| scratch.instance_with("t", &format!("log: ({log}),"), &stdio("fake", &[], ""));
    let daemon = scratch.start(&at("file: \"t.log\", level: Debug"));
    let mut ws = daemon.ws("fake");
    scratch.write("file", "");
    at("file: \"file/in/it.log\", level: Off, format: Json, rotate: None");
    let (code, text) = reload(&scratch);
    assert!(code == 1 && text.contains("file/in/it.log: cannot open the log: "), "{text}");
    speak(&mut ws, 1, "as before");
    wait("the line", || daemon.log().contains("[INFO] [fake] as before 0\n").then_some(()));
    assert_eq!(daemon.status()["log"], json!(scratch.path("t.log")));
    at("file: \"other/t.log\", level: Info, format: Json, rotate: (size: \"4KiB\")");
    assert_eq!(reload(&scratch).0, 0);
    assert_eq!(daemon.status()["log"], json!(scratch.path("other/t.log")));
    let before = daemon.log();
    speak(&mut ws, 100, "there");
    wait("rotation", || scratch.path("other/t.log.1").exists().then_some(()));
    wait("the end", || scratch.file("other/t.log").contains("there 99").then_some(()));
    assert_eq!(daemon.log(), before);
    for line in scratch.file("other/t.log").lines() {
        let _: Value = serde_json::from_str(line).unwrap();
    }
}

#[test]
fn json_is_json_whatever_a_child_says_and_knows_whose_it_is() {
    let scratch = Scratch::new();
    let evil = "quote \" backslash \\ esc \u{1b}[31m bell \u{7} line\u{2028} [other] server 'other' says";
    let servers = stdio("fake", &["--stderr", evil], "") + &stdio("other", &["--stderr", "not JSON: \u{ff}"], "");
    let file = scratch.path("t.log");
    let log = |format: &str| format!("log: (file: {file:?}, level: Debug, format: {format}),");
    let daemon = scratch.start(&scratch.instance_with("t", &log("Json"), &servers));
    wait("both", || (daemon.log().contains("quote") && daemon.log().contains("not JSON")).then_some(()));
    let lines = |log: &str| log.lines().map(|l| serde_json::from_str::<Value>(l).expect(l)).collect::<Vec<_>>();
    for line in lines(&daemon.log()) {
        let (time, target) = (line["time"].as_str().unwrap(), line["target"].as_str().unwrap());
        assert_eq!((time.len(), &time[10..11], &time[23..]), (24, "T", "Z"), "{line}");
        assert!(target.starts_with("mcpdaemon") && line["message"].is_string(), "{line}");
        assert!(["error", "warn", "info", "debug"].contains(&line["level"].as_str().unwrap()), "{line}");
    }
    let all = lines(&daemon.log());
    let said = all.iter().find(|l| l["message"].as_str().unwrap().starts_with("quote")).unwrap();
    assert_eq!((&said["server"], &said["level"]), (&json!("fake"), &json!("info")));
    assert!(said["message"].as_str().unwrap().chars().all(|c| !c.is_control()), "{said}");
    let ready = all.iter().find(|l| l["message"] == "server 'other' is ready").unwrap();
    assert_eq!(ready["server"], "other");
    assert!(all.iter().any(|l| l.get("server").is_none()), "the instance's own lines are nobody's");
    let of = |server: &str| stdout(&scratch.ctl(&["logs", "t", "-n", "1000", "--server", server]));
    assert!(of("fake").contains("quote") && lines(&of("fake")).iter().all(|l| l["server"] == "fake"));
    assert!(of("other").contains("not JSON") && !of("other").contains("quote"), "{}", of("other"));
    // The same as text, from the next line on.
    scratch.instance_with("t", &log("Text"), &servers);
    assert_eq!(reload(&scratch).0, 0);
    let mut ws = daemon.ws("other");
    speak(&mut ws, 1, "as text, of server 'fake'");
    wait("the line", || daemon.log().contains("[INFO] [other] as text").then_some(()));
    assert!(of("other").contains("as text") && of("other").contains("not JSON"), "{}", of("other"));
    assert!(!of("fake").contains("as text") && of("fake").contains("quote"), "{}", of("fake"));
}

#[test]
fn the_journal_gets_priorities_and_notes_the_time_itself() {
    let scratch = Scratch::new();
    for (format, first) in
        [("Text", "<6>t: mcpdaemon "), ("Json", "<6>{\"level\":\"info\",\"target\":\"mcpdaemon::daemon")]
    {
        let file = instance(&scratch, &format!("format: {format}"), &["--stderr", "of the child"]);
        let run = |stream: &dyn Fn(&std::fs::Metadata) -> String| {
            let err = std::fs::File::create(scratch.path("stderr")).unwrap();
            let stream = stream(&err.metadata().unwrap());
            let mut front = scratch
                .command(mcpdaemon())
                .args(["-f", "-c", file.to_str().unwrap()])
                .env("JOURNAL_STREAM", stream)
                .stderr(err)
                .spawn()
                .unwrap();
            wait("both", || {
                let text = scratch.file("stderr");
                (text.contains("of the child") && text.contains("ready on")).then_some(())
            });
            kill(front.id() as i32, libc::SIGTERM);
            assert!(front.wait().unwrap().success());
            scratch.file("stderr")
        };
        let text = run(&|m| format!("{}:{}", m.dev(), m.ino()));
        assert!(text.starts_with(first), "{text}");
        for line in text.lines() {
            let rest = line.strip_prefix('<').and_then(|l| l.split_once('>')).unwrap_or_else(|| panic!("{line}"));
            assert!(["3", "4", "6", "7"].contains(&rest.0), "{line}");
            assert!(format == "Text" || serde_json::from_str::<Value>(rest.1).unwrap().get("time").is_none());
        }
        assert!(
            text.contains(if format == "Text" { "<6>[fake] of the child\n" } else { "\"server\":\"fake\"" }),
            "{text}"
        );
        // Inherited from somebody whose stream it is not.
        let text = run(&|m| format!("{}:{}", m.dev(), m.ino() + 1));
        assert!(text.starts_with(if format == "Text" { "20" } else { "{\"time\":\"20" }), "{text}");
    }
    assert!(!scratch.path("t.log").exists());
}
