//! What a child finds around it, and that nothing of it is left.

use serde_json::json;

use crate::harness::*;

#[test]
fn child_has_a_clean_environment_signals_and_descriptors() {
    let scratch = Scratch::new();
    let file =
        scratch.instance("t", &stdio("fake", &[], "env: {\"MINE\": \"1\"}, pass_env: [\"PASSED\"], cwd: \"sub\""));
    std::fs::create_dir(scratch.path("sub")).unwrap();
    let mut command = scratch.command("sh");
    // The caller's surroundings are as bad as they get: signals ignored, a descriptor too many, secrets.
    let script = format!("trap '' TERM HUP USR1; exec 7</dev/null; exec {} -c {}", mcpdaemon(), file.display());
    let out = command
        .args(["-c", &script])
        .env("SECRET", "x")
        .env("PASSED", "yes")
        .env("NOTIFY_SOCKET", "@never")
        .env("LISTEN_FDS", "1")
        .output()
        .unwrap();
    let daemon = scratch.started(&stdout(&out));
    let answer = daemon.ws("fake").ask(&call(1, "self", json!({})));
    let seen = &answer["result"]["structuredContent"];
    assert_eq!(seen["blocked"], "SigBlk:\t0000000000000000");
    // Only what the child's own runtime ignores (SIGPIPE).
    assert_eq!(seen["ignored"], "SigIgn:\t0000000000001000");
    let fds: Vec<&str> = seen["fds"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    let open = fds.iter().filter(|f| !f.contains("/proc/")).count();
    assert_eq!(open, 3, "{fds:?}");
    assert!(fds.iter().filter(|f| f.contains("pipe:")).count() == 3, "{fds:?}");
    let env = seen["env"].as_object().unwrap();
    let mut names: Vec<&str> = env.keys().map(String::as_str).collect();
    const NETWORK: [&str; 12] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
    ];
    names.retain(|n| !NETWORK.contains(n) && !matches!(*n, "LANG" | "TZ" | "LOGNAME" | "USER" | "SHELL" | "TERM"));
    assert_eq!(names, ["HOME", "MCPDAEMON_MARK", "MINE", "PASSED", "PATH", "PYTHONUNBUFFERED"]);
    assert_eq!(seen["pid"], seen["pgrp"], "a process group of its own");
    assert_eq!(seen["cwd"], json!(scratch.path("sub").canonicalize().unwrap()));
    assert_eq!(seen["umask"], "Umask:\t0027");
    // SAFETY: getrlimit(2) fills the struct.
    let soft = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur
    };
    assert_eq!(seen["nofile"], json!(soft), "the limit that the daemon was started with");
}

#[test]
fn no_process_is_left_of_children_that_ignore_sigterm() {
    let scratch = Scratch::new();
    let quick = "stop: (stdin: \"100ms\", term: \"200ms\")";
    let servers = stdio("polite", &[], quick)
        + &stdio("deaf-to-eof", &["--ignore-eof"], quick)
        + &stdio("deaf-to-all", &["--ignore-eof", "--ignore-term"], quick)
        + &stdio("parent", &["--grandchild", "plain"], quick)
        + &stdio("parent-of-a-session", &["--grandchild", "setsid"], quick)
        + &stdio("parent-of-a-stubborn-session", &["--grandchild", "stubborn", "--ignore-eof"], quick);
    let daemon = scratch.start(&scratch.instance("t", &servers));
    assert!(scratch.processes().len() >= 11, "{:?}", scratch.processes());
    // stop() looks into /proc itself.
    daemon.stop();
    assert!(scratch.processes().is_empty());
}

#[test]
fn grandchildren_end_with_their_child() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--grandchild", "setsid"]);
    let family = |scratch: &Scratch| scratch.processes().iter().filter(|(_, l)| l.contains("sleep 600")).count();
    wait("the grandchild", || (family(&scratch) == 2 || family(&scratch) == 1).then_some(()));
    let before: Vec<i32> =
        scratch.processes().iter().filter(|(_, l)| l.contains("sleep 600")).map(|(p, _)| *p).collect();
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("the grandchild's end", || before.iter().all(|pid| !alive(*pid)).then_some(()));
}

#[test]
fn orphans_are_reaped_by_the_subreaper() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\")"));
    let mut ws = daemon.ws("x");
    for i in 0..5 {
        // The shell ends at once, its background process a moment later, as our child.
        ws.ask(&call(i, "execute", json!({"command": "setsid sh -c 'sleep 0.05' >/dev/null 2>&1 & exit 0"})));
    }
    let zombies = || {
        let path = format!("/proc/{0}/task/{0}/children", daemon.pid);
        let children = std::fs::read_to_string(path).unwrap();
        children.split_whitespace().filter(|p| !alive(p.parse().unwrap())).count()
    };
    wait("no zombies", || (zombies() == 0).then_some(()));
}

#[test]
fn a_member_of_the_group_without_the_mark_is_ended_as_well() {
    let scratch = Scratch::new();
    let command = format!("env -i HOME={} sleep 7771 & exec {}", scratch.dir.path().display(), fake());
    let daemon =
        scratch.start(&scratch.instance("t", &format!("\"fake\": Stdio(command: [\"sh\", \"-c\", {command:?}])")));
    let sleeper = || scratch.processes().iter().find(|(_, l)| l.contains("sleep 7771")).map(|(pid, _)| *pid);
    let first = wait("the sleeper", sleeper);
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("its end", || (!alive(first)).then_some(()));
    wait("the next one", || sleeper().filter(|pid| *pid != first));
    daemon.stop();
}

#[test]
fn a_family_in_a_session_of_its_own_without_the_mark_does_not_outlive_the_daemon() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\")"));
    let home = scratch.dir.path().display();
    // The command ends once its family is out of reach, and not before.
    let script = format!(
        "env -i HOME={home} PATH=$PATH setsid sh -c 'sleep 7772 & touch {home}/away; sleep 7773' >/dev/null 2>&1 </dev/null &
         until test -e {home}/away; do sleep 0.01; done"
    );
    daemon.ws("x").ask(&call(1, "execute", json!({"command": script})));
    let family = || scratch.processes().iter().filter(|(_, l)| l.contains("sleep 777")).count();
    wait("the family", || (family() == 3).then_some(()));
    daemon.stop();
    assert_eq!(family(), 0);
}

#[test]
fn a_child_that_is_still_starting_ends_with_its_server() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("kept", &[], "")));
    let slow = stdio(
        "slow",
        &["--never-answer", "--ignore-eof"],
        "required: false, start_timeout: \"600s\", stop: (stdin: \"50ms\")",
    );
    // Not required, so that the reload does not wait for it longer than for its first try.
    scratch.instance("t", &(stdio("kept", &[], "") + &slow.replace("600s", "100ms")));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    wait("a second try", || {
        (daemon.child("slow") != 0 || scratch.processes().iter().any(|(_, l)| l.contains("--never-answer")))
            .then_some(())
    });
    scratch.instance("t", &stdio("kept", &[], ""));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    wait("its end", || (!scratch.processes().iter().any(|(_, l)| l.contains("--never-answer"))).then_some(()));
}
