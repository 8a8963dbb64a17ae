//! The command that is told of what somebody should know.

use serde_json::{Value, json};

use crate::harness::*;

/// A command that appends what it is told to a file, and the events in that file so far.
struct Told<'s>(&'s Scratch);

impl Told<'_> {
    fn key(&self) -> String {
        let script = "printf '%s %s ' \"$MCP_EVENT\" \"$MCP_INSTANCE/$MCP_SERVER\" >> told; cat >> told; echo heard";
        let script = format!("cd {} && {script}", self.0.dir.path().display());
        format!("on_event: [\"/bin/sh\", \"-c\", {script:?}],")
    }

    /// `event instance/server`, and the object.
    fn all(&self) -> Vec<(String, Value)> {
        let parse = |line: &str| {
            let (words, object) = line.split_at(line.find('{')?);
            Some((words.trim().to_owned(), serde_json::from_str(object).ok()?))
        };
        self.0.file("told").lines().filter_map(parse).collect()
    }

    fn words(&self) -> Vec<String> {
        self.all().into_iter().map(|(words, _)| words).collect()
    }
}

#[test]
fn on_event_is_run_for_trouble_and_its_end() {
    let scratch = Scratch::new();
    let told = Told(&scratch);
    let (flag, never) = (scratch.path("flag"), scratch.path("never"));
    let more = "restart: (delay: \"100ms\", max_delay: \"100ms\", burst: 1), \
                health: (interval: \"50ms\", timeout: \"100ms\", failures: 20)";
    let servers = |flag: &std::path::Path| stdio("fake", &["--exit-while", flag.to_str().unwrap()], more);
    let file = scratch.instance_with("t", &told.key(), &servers(&flag));
    let daemon = scratch.start(&file);
    // An end that is followed by a start.
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("restarted", || told.words().contains(&"server-restarted t/fake".to_owned()).then_some(()));
    // Missed pings, and an answer again.
    let mut http = daemon.http("fake");
    http.ask(&call(1, "sulk", json!({"n": 3})));
    wait("unhealthy", || told.words().contains(&"server-unhealthy t/fake".to_owned()).then_some(()));
    wait("recovered", || told.words().contains(&"server-recovered t/fake".to_owned()).then_some(()));
    // Too many ends.
    std::fs::write(&flag, "").unwrap();
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("failed", || told.words().contains(&"server-failed t/fake".to_owned()).then_some(()));
    wait("degraded", || told.words().contains(&"instance-degraded t/".to_owned()).then_some(()));
    // A reload that is refused, and one that helps.
    scratch.write("t.ron", "(servers: {");
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 1);
    wait("refused", || told.words().contains(&"reload-refused t/".to_owned()).then_some(()));
    scratch.instance_with("t", &told.key(), &servers(&never));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0, "{}", daemon.log());
    wait("well again", || told.words().contains(&"instance-recovered t/".to_owned()).then_some(()));
    let (_, failed) = told.all().into_iter().find(|(words, _)| words.starts_with("server-failed")).unwrap();
    assert!(failed["reason"].as_str().unwrap().contains("ended too often"), "{failed}");
    assert_eq!(
        (&failed["instance"], &failed["server"], &failed["pid"]),
        (&json!("t"), &json!("fake"), &json!(daemon.pid))
    );
    let (_, refused) = told.all().into_iter().find(|(words, _)| words.starts_with("reload-refused")).unwrap();
    assert!(refused["reason"].as_str().unwrap().contains("t.ron:1:"), "{refused}");
    // What it says is in the log.
    wait("its word", || daemon.log().contains("[on_event] heard").then_some(()));
}

#[test]
fn on_event_command_that_hangs_is_ended() {
    let scratch = Scratch::new();
    let more = "on_event: [\"/bin/sh\", \"-c\", \"sleep 600 & sleep 600\"],";
    let daemon = scratch.start(&scratch.instance_with(
        "t",
        more,
        &stdio("fake", &[], "restart: (delay: \"20ms\", max_delay: \"20ms\", burst: 100)"),
    ));
    let mut http = daemon.http("fake");
    for n in 0..5 {
        let child = daemon.child("fake");
        kill(child, libc::SIGKILL);
        wait("another child", || Some(daemon.child("fake")).filter(|c| *c != child && *c != 0));
        // The one who asks is never in its way.
        wait("an answer", || (http.ask(&call(n, "echo", json!({"text": "x"}))).get("result").is_some()).then_some(()));
    }
    // The test's end sees to it that nothing is left: stop does not wait for the command either.
    daemon.stop();
}
