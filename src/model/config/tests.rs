//! What a configuration may say, and how it is told what is wrong with it.

use super::sample::read;
use super::sample::somebody;
use super::*;

fn problems(text: &str) -> Vec<String> {
    read(text, &Given::default()).expect_err(text)
}

#[test]
fn the_shortest_file_is_complete() {
    let c =
        read(r#"(servers: {"time": Stdio(command: ["uvx", "mcp-server-time"])})"#, &Given::default()).unwrap().config;
    assert_eq!((c.name.as_str(), c.listen[0].to_string().as_str()), ("prod", "localhost:8003"));
    assert_eq!(c.log.file, PathBuf::from("/var/log/mcp/prod.log"));
    let Kind::Mcp(all) = &c.servers["time"].kind else { panic!() };
    let s = all.stdio().unwrap();
    assert_eq!(
        (s.program.as_path(), s.args.as_slice()),
        (std::path::Path::new("/usr/bin/uvx"), &["mcp-server-time".to_owned()][..])
    );
    assert_eq!((all.start_timeout, s.stop.term), (Duration::from_secs(30), Duration::from_secs(5)));
    assert!(c.servers["time"].required);
}

#[test]
fn all_problems_at_once_each_with_its_place() {
    let text = r#"#![enable(implicit_some)]
(
    lisen: ["127.0.0.1:8003"],
    drain_timeout: "10 parsecs",
    umask: 27000,
    limits: (message: "10MiB", sesions: 4),
    servers: {
        "a b": Stdio(command: "uvx"),
        "c": Stdio(
            comand: ["uvx"],
            restart: (policy: Allways),
        ),
        "d": Stdoi(command: "uvx"),
        "e": Exec(allow: ["echo"], shell: "/bin/sh", timeout: 5),
        "f": Exec(),
        "g": Stdio(command: ["nothere"], cwd: 3),
    },
)"#;
    assert_eq!(
        problems(text),
        [
            "prod.ron:3:5: unknown key 'lisen', did you mean 'listen'?",
            "prod.ron:4:20: expected a duration in quotes, such as \"500ms\", \"30s\" or \"10m\", found \"10 parsecs\"",
            "prod.ron:5:12: expected mode bits in octal, 0o000 to 0o777, found 27000",
            "prod.ron:6:32: unknown key 'sesions', did you mean 'sessions'?",
            "prod.ron:8:9: 'a b' cannot be a name: 1 to 64 letters, digits, '-', '_' and '.', not beginning with '.' or '-'",
            "prod.ron:9:14: 'command' is missing: which program is the server?",
            "prod.ron:10:13: unknown key 'comand', did you mean 'command'?",
            "prod.ron:11:31: unknown restart policy 'Allways', did you mean 'Always'?",
            "prod.ron:13:14: unknown kind of server 'Stdoi', did you mean 'Stdio'?",
            "prod.ron:14:43: a shell can run anything, so 'shell' needs allow: [\"*\"]",
            "prod.ron:14:63: expected a duration in quotes, such as \"500ms\", \"30s\" or \"10m\", found 5",
            "prod.ron:15:14: 'allow' is missing: which programs may clients run? (allow: [\"*\"] allows all)",
            "prod.ron:16:29: 'nothere' was not found in PATH: install it, or write its full path (PATH is the daemon's own)",
            "prod.ron:16:47: expected a path in quotes, found 3",
        ]
    );
}

#[test]
fn broken_ron_has_its_position() {
    let found = problems("(\n  servers: {\n    \"a\": Stdio(command: [\"uvx\")\n  }\n)");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("prod.ron:3:"), "{found:?}");
    assert!(problems("")[0].starts_with("prod.ron:1:1: "));
    assert!(problems("[1]")[0].starts_with("prod.ron:1:1: expected (key: value, ...)"));
    assert_eq!(
        problems("(servers: {\"a\": Exec(allow: [\"*\"])}, umask: 0, umask: 0)"),
        ["prod.ron:1:48: 'umask' is given twice"]
    );
    assert_eq!(problems("()"), ["prod.ron:1:1: 'servers' is missing: an instance needs at least one server"]);
}

#[test]
fn strings_are_expanded_and_paths_made_absolute() {
    let c = read(
        r#"(log: (file: "${NONE:-~/x}/${NONE:-y}.log"), listen: ["unix:run/s.sock"], servers: {
            "a": Stdio(command: ["./bin/a", "$$1", "${TOKEN}", "$~/x", "a$~b$c"], cwd: "data", env: {"K": "${TOKEN}"}),
        })"#,
        &Given::default(),
    )
    .unwrap()
    .config;
    assert_eq!(c.log.file, PathBuf::from("/home/u/x/y.log"));
    assert_eq!(c.listen[0].to_string(), "unix:/etc/mcp/run/s.sock");
    let s = c.servers["a"].kind.stdio().unwrap();
    assert_eq!(s.program, PathBuf::from("/etc/mcp/bin/a"));
    assert_eq!(
        (s.args.as_slice(), s.cwd.as_deref()),
        (&["$1", "s3cret", "~/x", "a~b$c"].map(str::to_owned)[..], Some(std::path::Path::new("/etc/mcp/data")))
    );
    assert_eq!(s.environment.set["K"], "s3cret");
    assert_eq!(
        problems(r#"(servers: {"a": Stdio(command: "uvx", args: ["${NONE}"])})"#),
        ["prod.ron:1:46: ${NONE} is not set in the environment (or write ${NONE:-default})"]
    );
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_and_the_dump_says_so() {
    let text = "(\nlisten: [\"127.0.0.1:1\"],\nlog: (level: Warn),\nservers: {\"a\": Stdio(command: \"uvx\", env: {\"K\": \"${TOKEN}\"})})";
    let given = Given {
        listen: Some((vec!["127.0.0.1:0".to_owned()], Origin::Flag("--listen"))),
        ws_ping_interval: Some("0.5".to_owned()),
        ..Given::default()
    };
    let loaded = read(text, &given).unwrap();
    assert_eq!(loaded.config.websocket.ping_interval, Duration::from_millis(500));
    let dump = dump(&loaded.shown);
    for line in [
        "    listen: [\"127.0.0.1:0\"], // flag --listen",
        "        level: Warn, // line 3",
        "        ping_interval: \"500ms\", // environment WS_PING_INTERVAL",
        "    drain_timeout: \"10s\", // default",
        "            env: {\"K\": \"***\"}, // line 4",
    ] {
        assert!(dump.lines().any(|l| l == line), "{line}\n{dump}");
    }
    assert!(!dump.contains("s3cret"));
    assert_eq!(read(&dump, &Given::default()).unwrap().config.listen, loaded.config.listen);
    let bad = Given {
        listen: Some((vec!["8003".to_owned()], Origin::Environment("MCP_LISTEN"))),
        ws_max_size: Some("much".to_owned()),
        ..Given::default()
    };
    assert_eq!(
        read(text, &bad).unwrap_err(),
        [
            "MCP_LISTEN: '8003' is no address: write HOST:PORT, [IPV6]:PORT, unix:/path or systemd:",
            "WS_MAX_SIZE: expected a number of bytes, found 'much'"
        ]
    );
}

#[test]
fn an_open_address_needs_a_word() {
    let with = |more: &str| format!("(listen: [\"0.0.0.0:1\"], {more} servers: {{\"a\": Exec(allow: [\"echo\"])}})");
    assert!(problems(&with(""))[0].starts_with("prod.ron:1:10: '0.0.0.0:1' can be reached from other machines"));
    assert!(read(&with("insecure: true,"), &Given::default()).is_ok());
}

#[test]
fn small_slips_are_caught_too() {
    for (text, wanted) in [
        ("umask: 027", "1:9: expected mode bits in octal, 0o000 to 0o777, found 027"),
        ("websocket: (ping_interval: \"0s\")", "1:29: 'ping_interval' must be more than 0"),
        ("log: (rotate: (size: \"1KiB\"))", "1:23: a log of less than 4KiB would be rotated all the time"),
        ("log: (rotate: (keep: 1001))", "1:23: at most 1000 old files can be kept"),
        ("log: (rotate: \"daily\")", "1:16: expected (key: value, ...), found \"daily\""),
        ("log: (format: Jsno)", "1:16: unknown log format 'Jsno', did you mean 'Json'?"),
        ("servers: {\"b\": Stdio(command: \"uvx\", cwd: \"nodir\")}", "1:44: there is no folder '/etc/mcp/nodir'"),
    ] {
        let more = if text.starts_with("servers") { "" } else { ", servers: {\"a\": Exec(allow: [\"echo\"])}" };
        assert_eq!(problems(&format!("({text}{more})")), [format!("prod.ron:{wanted}")]);
    }
    // Both ways of writing an option.
    for cwd in ["\"x\"", "Some(\"x\")", "None"] {
        let c = read(&format!("(servers: {{\"b\": Exec(allow: [\"echo\"], cwd: {cwd})}})"), &Given::default()).unwrap();
        let Kind::Exec(exec) = &c.config.servers["b"].kind else { panic!() };
        assert_eq!(exec.cwd.is_some(), cwd != "None");
    }
}

#[test]
fn what_comes_from_the_environment_is_shown_as_it_was_written() {
    let text = r#"(servers: {"a": Stdio(command: ["uvx", "--token=${TOKEN}", "$${X}"], args: ["${TOKEN}"])})"#;
    let loaded = read(text, &Given::default()).unwrap();
    let dump = dump(&loaded.shown);
    assert!(!dump.contains("s3cret"), "{dump}");
    assert_eq!(read(&dump, &Given::default()).unwrap().config, loaded.config);
}

#[test]
fn sizes_print_as_they_are_written() {
    for (n, text) in [(10 << 20, "10MiB"), (16 << 10, "16KiB"), (1000, "1000B"), (0, "0B"), (3 << 30, "3GiB")] {
        assert_eq!(Size(n).to_string(), text);
        assert_eq!(text.parse::<bytesize::ByteSize>().unwrap().as_u64(), n);
    }
}

#[test]
fn a_size_beyond_all_memory_is_a_mistake() {
    let problems = read("(limits: (message: \"8EiB\"), servers: {\"a\": Stdio(command: \"x\")})", &Given::default());
    let text = problems.unwrap_err()[0].to_string();
    assert!(text.ends_with("\"8EiB\" is more than 4GiB, the most there can be"), "{text}");
}

#[test]
fn a_duration_too_short_to_be_meant_is_refused() {
    let text = "(websocket: (ping_interval: \"1ns\"), servers: {\"a\": Stdio(command: \"x\")})";
    let text = read(text, &Given::default()).unwrap_err()[0].to_string();
    assert!(text.ends_with("a duration of less than a millisecond"), "{text}");
}

#[test]
fn nobody_runs_as_root_by_accident_or_as_somebody_that_cannot_be() {
    let servers = |more: &str| format!("servers: {{\"a\": Stdio(command: \"echo\", {more})}}");
    let says = |uid: u32, text: &str| {
        let var = |_: &str| None;
        let find = |name: &str, _: Option<&str>| Some(PathBuf::from(format!("/bin/{name}")));
        let around = Surroundings {
            var: &var,
            find_program: &find,
            is_dir: &|_| true,
            account: &somebody,
            group: &|_| Ok(42),
            read: &|_| Err(String::new()),
            uid,
            gid: uid,
            memory: 8 << 30,
        };
        let input = Input {
            file: Some("t.ron".into()),
            stem: "t".into(),
            dir: "/".into(),
            text,
            parts: Vec::new(),
            log_dir: "/log".into(),
            divides: false,
        };
        load(&input, &Given::default(), &around).map(drop).map_err(|p| p[0].what.clone())
    };
    for (uid, text, outcome) in [
        (1000, format!("({})", servers("")), Ok(())),
        (1000, format!("({})", servers("user: \"own\"")), Err("there is no user 'own'")),
        (1000, format!("({})", servers("user: \"mcp\"")), Err("server 'a': only root can start it as 'mcp'")),
        (
            1000,
            format!("(user: \"mcp\", {})", servers("")),
            Err("'user' of the instance: becoming another user needs root"),
        ),
        // A group that cannot be had is not left out in silence.
        (
            1000,
            format!("(group: \"daemon\", {})", servers("")),
            Err("'group' of the instance: changing the group, from"),
        ),
        (
            1000,
            format!("({})", servers("group: \"daemon\"")),
            Err("server 'a': only root can start it with the group 42"),
        ),
        (
            0,
            format!("(user: \"mcp\", {})", servers("user: \"mcp\", group: \"daemon\"")),
            Err("server 'a': the daemon itself becomes 'mcp' and cannot start it with the group 42"),
        ),
        (0, format!("(user: \"mcp\", group: \"daemon\", {})", servers("")), Ok(())),
        (0, format!("({})", servers("")), Err("server 'a' would run as root")),
        (0, format!("(allow_root: true, {})", servers("")), Ok(())),
        (0, format!("({})", servers("user: \"mcp\"")), Ok(())),
        (0, format!("(user: \"mcp\", {})", servers("")), Ok(())),
        (0, format!("(user: \"mcp\", {})", servers("user: \"mcp\"")), Ok(())),
        (
            0,
            format!("(user: \"mcp\", {})", servers("user: \"root\"")),
            Err("server 'a': the daemon itself becomes 'mcp'"),
        ),
        (0, format!("({})", servers("user: \"root\"")), Err("server 'a' would run as root")),
    ] {
        match (says(uid, &text), outcome) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(expected)) => assert!(said.starts_with(expected), "{uid} {text}: {said}"),
            (said, expected) => panic!("{uid} {text}: {said:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn thresholds_of_alerts_make_sense() {
    let file = |alerts: &str| format!("(alerts: ({alerts}), servers: {{\"a\": Stdio(command: \"uvx\")}})");
    let loaded = read(&file("error_rate: 0.2, p95: None, restarts: 7"), &Given::default()).unwrap();
    let wanted = Alerts { error_rate: 0.2, p95: None, restarts: 7, ..Alerts::default() };
    assert_eq!(loaded.config.alerts, wanted);
    assert_eq!(read(&dump(&loaded.shown), &Given::default()).unwrap().config, loaded.config);
    let share = "a share above 0 and up to 1, such as 0.05 for 5 %";
    for (alerts, what) in [
        ("error_rate: 1.5", format!("expected {share}, found 1.5")),
        ("connections: 0", format!("expected {share}, found 0")),
        ("sessions: -0.5", format!("expected {share}, found -0.5")),
        ("sessions: \"95%\"", format!("expected {share}, found \"95%\"")),
        ("min_requests: 0", "'min_requests' must be more than 0".to_owned()),
        ("restarts: 0", "'restarts' must be more than 0".to_owned()),
        ("p95: \"0s\"", "'p95' must be more than 0".to_owned()),
        ("error_rate: 0.9", "error_rate_unhealthy (0.5) is below error_rate (0.9)".to_owned()),
        ("eror_rate: 0.5", "unknown key 'eror_rate', did you mean 'error_rate'?".to_owned()),
    ] {
        let found = problems(&file(alerts));
        assert!(found.len() == 1 && found[0].ends_with(&what), "{alerts}: {found:?}");
    }
}

#[test]
fn a_log_is_rotated_unless_it_is_said_to_be_an_affair_of_others() {
    let five = Some(Rotate { size: Size::mib(10), keep: 5 });
    for (text, rotate) in [
        ("", five),
        ("log: (level: Info),", five),
        ("log: (rotate: (keep: 5)),", five),
        ("log: (rotate: Some((size: \"1MiB\"))),", Some(Rotate { size: Size::mib(1), keep: 5 })),
        ("log: (rotate: None),", None),
    ] {
        let loaded = read(&format!("({text} servers: {{\"a\": Stdio(command: \"uvx\")}})"), &Given::default()).unwrap();
        assert_eq!((loaded.config.log.rotate, loaded.config.log.format), (rotate, Format::Text), "{text}");
        assert_eq!(read(&dump(&loaded.shown), &Given::default()).unwrap().config, loaded.config);
    }
}

#[test]
fn what_a_problem_quotes_of_the_file_moves_no_cursor() {
    let moves = |p: &String| p.chars().any(|c| c.is_control() && c != '\n');
    for text in [
        "//$The start prints what tors: {\n (      // Built ies\u{1b}e progra]ms and no others.\n       rue,\n)\n",
        "(na\u{1b}me: 1)",
    ] {
        let found = problems(text);
        assert!(!found.is_empty() && !found.iter().any(moves), "{found:?}");
    }
}
