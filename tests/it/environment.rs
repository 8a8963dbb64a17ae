//! What children get: the environment, files of it, secrets of files and of systemd, and where a command line's child runs.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::*;

fn env_of(daemon: &Daemon<'_>, server: &str) -> Value {
    let answer = daemon.http(server).ask(&call(1, "self", json!({})));
    answer["result"]["structuredContent"]["env"].clone()
}

#[test]
fn what_programs_need_to_reach_the_network_is_passed_on() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let mut command = scratch.command(mcpdaemon());
    let passed = [
        ("HTTPS_PROXY", "http://proxy:1"),
        ("https_proxy", "http://proxy:2"),
        ("no_proxy", "x"),
        ("ALL_PROXY", "y"),
        ("SSL_CERT_FILE", "/c"),
        ("NODE_EXTRA_CA_CERTS", "/d"),
        ("REQUESTS_CA_BUNDLE", "/e"),
        ("USER", "somebody"),
        ("TERM", "dumb"),
    ];
    command.envs(passed).env("SECRET_OF_THE_DAEMON", "s").env_remove("SHELL");
    let out = command.args(["-c", &file.display().to_string()]).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let env = env_of(&daemon, "fake");
    for (name, value) in passed {
        assert_eq!(env[name], value, "{name}");
    }
    assert_eq!(env["PYTHONUNBUFFERED"], "1");
    assert!(env.get("SECRET_OF_THE_DAEMON").is_none() && env.get("SHELL").is_none(), "{env}");
}

#[test]
fn patterns_files_and_sections_of_the_instance_add_to_it_and_the_nearest_wins() {
    let scratch = Scratch::new();
    scratch.write("all.env", "# for all\nFROM_FILE=all\nexport QUOTED=\"two words\"\nOVER=file\nPYTHONUNBUFFERED=\n");
    scratch.write("one.env", "FROM_FILE=one\n");
    let more = "env_file: [\"all.env\"], env: {\"OVER\": \"instance\", \"INSTANCE\": \"1\"}, pass_env: [\"AWS_*\"],";
    let servers = stdio("a", &[], "env_file: [\"one.env\"], env: {\"INSTANCE\": \"2\"}, pass_env: [\"ONLY_A\"],")
        + &stdio("b", &[], "");
    let file = scratch.instance_with("t", more, &servers);
    let mut command = scratch.command(mcpdaemon());
    command.envs([("AWS_REGION", "eu"), ("ONLY_A", "yes"), ("OTHER", "no"), ("NOTIFY_SOCKET", "/nowhere/at/all")]);
    let out = command.args(["-c", &file.display().to_string()]).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let (a, b) = (env_of(&daemon, "a"), env_of(&daemon, "b"));
    for (name, in_a, in_b) in [
        ("FROM_FILE", json!("one"), json!("all")),
        ("QUOTED", json!("two words"), json!("two words")),
        ("OVER", json!("instance"), json!("instance")),
        ("INSTANCE", json!("2"), json!("1")),
        ("AWS_REGION", json!("eu"), json!("eu")),
        ("ONLY_A", json!("yes"), Value::Null),
        ("OTHER", Value::Null, Value::Null),
        ("NOTIFY_SOCKET", Value::Null, Value::Null),
        ("PYTHONUNBUFFERED", json!(""), json!("")),
    ] {
        assert_eq!((&a[name], &b[name]), (&in_a, &in_b), "{name}");
    }
    // An edit of such a file is an edit of the configuration.
    let before = (daemon.child("a"), daemon.child("b"));
    scratch.write("one.env", "FROM_FILE=new\n");
    let out = scratch.ctl(&["reload", "t"]);
    assert!(stdout(&out).contains("1 restarted, 1 unchanged"), "{out:?}");
    assert_eq!(env_of(&daemon, "a")["FROM_FILE"], "new");
    assert!(daemon.child("a") != before.0 && daemon.child("b") == before.1);
    scratch.write("one.env", "nonsense\n");
    let out = scratch.ctl(&["reload", "t"]);
    assert!(code(&out) == 1 && stderr(&out).contains("one.env: line 1: expected NAME=value"), "{out:?}");
}

#[test]
fn a_star_passes_all_but_what_is_the_daemons_own() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "pass_env: [\"*\"],"));
    let mut command = scratch.command(mcpdaemon());
    command.envs([("ANY", "1"), ("WATCHDOG_USEC", "1000000000")]);
    let out = command.args(["-c", &file.display().to_string()]).output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let env = env_of(&daemon, "fake");
    assert!(env["ANY"] == "1" && env.get("WATCHDOG_USEC").is_none(), "{env}");
}

#[test]
fn a_secret_comes_from_a_file_or_a_credential_is_read_at_each_start_and_never_shown() {
    let scratch = Scratch::new();
    let key = scratch.write("key", "s3cret-one\n");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    scratch.write("creds/api", "from-systemd");
    let server = stdio(
        "fake",
        &["--tool", "${file:key}"],
        "env: {\"A\": \"Bearer ${file:key}\", \"B\": \"${cred:api}\", \"C\": \"${file:missing:-none}\"},",
    );
    let file = scratch.instance("t", &server);
    let start = |args: &[&str]| {
        let mut command = scratch.command(mcpdaemon());
        command
            .env("CREDENTIALS_DIRECTORY", scratch.path("creds"))
            .args(args)
            .args(["-c", &file.display().to_string()]);
        command.output().unwrap()
    };
    let dump = stdout(&start(&["-T"]));
    assert!(dump.contains("${file:key}") && !dump.contains("s3cret") && !dump.contains("from-systemd"), "{dump}");
    let daemon = scratch.started(&stdout(&start(&[])));
    let env = env_of(&daemon, "fake");
    assert_eq!(
        (&env["A"], &env["B"], &env["C"]),
        (&json!("Bearer s3cret-one"), &json!("from-systemd"), &json!("none"))
    );
    // A child that starts anew reads it anew.
    std::fs::write(&key, "s3cret-two\n").unwrap();
    kill(daemon.child("fake"), 9);
    wait("another child", || (daemon.server("fake")["restarts"] == 1).then_some(()));
    let env = wait("it to be ready", || Some(env_of(&daemon, "fake")).filter(|env| env["A"] == "Bearer s3cret-two"));
    assert_eq!(env["B"], "from-systemd");
    // A reload replaces the child of a value that has changed.
    let child = daemon.child("fake");
    std::fs::write(&key, "s3cret-three\n").unwrap();
    let out = scratch.ctl(&["reload", "t"]);
    assert!(stdout(&out).contains("1 restarted"), "{out:?}");
    assert!(env_of(&daemon, "fake")["A"] == "Bearer s3cret-three" && daemon.child("fake") != child);
    let out = scratch.ctl(&["reload", "t"]);
    assert!(stdout(&out).contains("1 unchanged"), "{out:?}");
    // Gone, it is an error that names it, and everything goes on as it was.
    std::fs::remove_file(&key).unwrap();
    let out = scratch.ctl(&["reload", "t"]);
    let why = stderr(&out);
    assert!(code(&out) == 1 && why.contains(&key.display().to_string()) && why.contains("t.ron:"), "{out:?}");
    let seen = format!("{}{}{}", daemon.status(), daemon.log(), get(daemon.address(), "/").body);
    assert!(!seen.contains("s3cret") && !seen.contains("from-systemd"), "{seen}");
}

#[test]
fn a_secret_that_cannot_be_had_is_told_with_what_to_do() {
    let scratch = Scratch::new();
    for (value, told) in [
        ("${cred:api}", "LoadCredential=api:PATH"),
        ("${cred:../x}", "needs the name of a credential"),
        ("${file:}", "needs a path"),
        ("${file:nothing}", "nothing: No such file"),
    ] {
        let file = scratch.instance("t", &stdio("fake", &[], &format!("env: {{\"K\": {value:?}}},")));
        let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
        assert!(code(&out) == 78 && stderr(&out).contains(told) && stderr(&out).contains("t.ron:"), "{value}: {out:?}");
    }
}

#[test]
fn a_secret_file_that_everybody_can_read_draws_a_warning() {
    let scratch = Scratch::new();
    let key = scratch.write("key", "x");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = scratch.instance("t", &stdio("fake", &[], "env: {\"K\": \"${file:key}\"},"));
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
    assert!(code(&out) == 0 && stderr(&out).contains("everybody can read this file"), "{out:?}");
}

#[test]
fn a_command_lines_child_runs_where_it_was_called_with_what_it_would_have_had() {
    let scratch = Scratch::new();
    let dir = scratch.path("project");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(fake(), dir.join("server")).unwrap();
    let mut command = scratch.command(mcpdaemon());
    command.current_dir(&dir).env("API_KEY", "of the caller").args([
        "--listen",
        "127.0.0.1:0",
        "--name",
        "t",
        "--",
        "./server",
    ]);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    let answer = daemon.http("t").ask(&call(1, "self", json!({})));
    let own = &answer["result"]["structuredContent"];
    assert_eq!((&own["cwd"], &own["env"]["API_KEY"]), (&json!(dir.canonicalize().unwrap()), &json!("of the caller")));
}
