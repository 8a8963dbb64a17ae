//! Several instances: a folder of them, drop-in files, taken ports, what a killed daemon left.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::*;

#[test]
fn config_directory_starts_an_instance_for_each_file() {
    let scratch = Scratch::new();
    for name in ["one", "two"] {
        let text = std::fs::read_to_string(scratch.instance(name, &stdio("fake", &[], ""))).unwrap();
        scratch.write(&format!("etc/{name}.ron"), &text);
    }
    // What editors and packages leave is no instance.
    for name in [".hidden.ron", "one.ron~", "two.ron.dpkg-new", "note.txt"] {
        scratch.write(&format!("etc/{name}"), "nonsense");
    }
    let dir = scratch.path("etc").display().to_string();
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &dir]);
    assert_eq!((code(&out), stdout(&out).as_str()), (0, "one: configuration OK\ntwo: configuration OK\n"));
    let out = scratch.run(mcpdaemon(), &["-c", &dir]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let lines: Vec<String> = stdout(&out).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let daemons: Vec<_> = lines.iter().map(|line| scratch.started(line)).collect();
    assert_eq!((daemons[0].name.as_str(), daemons[1].name.as_str()), ("one", "two"));
    // Each is a daemon of its own.
    assert_ne!(daemons[0].pid, daemons[1].pid);
    assert_eq!(said(&daemons[1].http("fake").ask(&call(1, "count", json!({})))), "1");
    // Again: both say that they run, which is the least that can be wrong.
    let out = scratch.run(mcpdaemon(), &["-c", &dir]);
    assert_eq!(code(&out), 75);
    assert!(stderr(&out).contains("one: already running") && stderr(&out).contains("two: already running"));
    // One that is wrong does not keep the others from starting, and the worst status is the answer.
    scratch.write("etc/bad.ron", "(servers: {})");
    assert_eq!(code(&scratch.ctl(&["stop", "one"])), 0);
    let out = scratch.run(mcpdaemon(), &["-c", &dir]);
    assert_eq!(code(&out), 78, "{}{}", stdout(&out), stderr(&out));
    assert!(stdout(&out).starts_with("one: ready on ") && stderr(&out).contains("bad.ron:1:"), "{out:?}");
    let out = scratch.ctl(&["reload", "--all"]);
    assert_eq!(code(&out), 0, "{out:?}");
    assert_eq!(stdout(&out).lines().count(), 2);
    let out = scratch.ctl(&["stop", "--all"]);
    assert_eq!((code(&out), stdout(&out).lines().count()), (0, 2), "{out:?}");
    scratch.gone();
}

#[test]
fn config_directory_errors() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("empty")).unwrap();
    let empty = scratch.path("empty").display().to_string();
    let out = scratch.run(mcpdaemon(), &["-c", &empty]);
    assert_eq!(code(&out), 78);
    assert!(stderr(&out).contains("there is no instance file (*.ron) in this folder"), "{}", stderr(&out));
    for args in [&["-f"][..], &["--name", "x"], &["--listen", "127.0.0.1:0"], &["--notify-fd", "1"]] {
        let out = scratch.run(mcpdaemon(), &[&["-c", empty.as_str()], args].concat());
        assert_eq!(code(&out), 64, "{args:?}");
        assert!(stderr(&out).contains("is for one instance"), "{}", stderr(&out));
    }
    // Without -c it is the folder of the user.
    let out = scratch.command(mcpdaemon()).env("XDG_CONFIG_HOME", scratch.path("none")).output().unwrap();
    let root = nix::unistd::Uid::effective().is_root();
    let dir = if root { "/etc/mcp".to_owned() } else { scratch.path("none/mcp").display().to_string() };
    if !std::path::Path::new(&dir).exists() {
        assert_eq!(code(&out), 64);
        assert!(stderr(&out).contains(&format!("There is no folder {dir}")), "{}", stderr(&out));
    }
}

#[test]
fn without_an_option_a_users_own_folder_is_started() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name).display().to_string();
    let (mut daemon, mut program) = (mcpdaemon().to_owned(), fake());
    let root = nix::unistd::Uid::effective().is_root();
    if root {
        // root's folder is /etc/mcp, which is not ours to fill. So it is somebody else's, with a copy of the programs:
        // by a process of its own, because what this one has open for writing, another test's child may have too.
        std::fs::set_permissions(scratch.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(scratch.run("cp", &[mcpdaemon(), &program, &path("")]).status.success());
        (daemon, program) = (path("mcpdaemon"), path("fake-server"));
    }
    let plain = |home: &str| {
        let mut command = scratch.command(&daemon);
        for name in ["MCP_RUN_DIR", "MCP_LOG_DIR", "MCP_ALLOW_ROOT", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        if !home.is_empty() {
            command.env("XDG_CONFIG_HOME", home);
        }
        if root {
            command.uid(65534).gid(65534);
        }
        command.env("XDG_RUNTIME_DIR", scratch.path("runtime")).env("XDG_STATE_HOME", scratch.path("state"));
        command.output().unwrap()
    };
    let text = format!("(listen: [\"127.0.0.1:0\"], servers: {{\"fake\": Stdio(command: [{program:?}])}})");
    for (home, name) in
        [(path("set"), "set/mcp/t"), (String::new(), ".config/mcp/t"), ("relative".into(), ".config/mcp/t")]
    {
        let dir = scratch.path(name).parent().unwrap().display().to_string();
        if !std::path::Path::new(&dir).exists() {
            let out = plain(&home);
            assert!(code(&out) == 64 && stderr(&out).contains(&format!("There is no folder {dir}")), "{out:?}");
        }
        scratch.write(&format!("{name}.ron"), &text);
        let out = plain(&home);
        assert_eq!(code(&out), 0, "{home:?}: {}", stderr(&out));
        let daemon = scratch.started(&stdout(&out));
        assert_eq!(said(&daemon.http("fake").ask(&call(1, "echo", json!({"text": "x"})))), "x");
        assert_eq!(scratch.file("runtime/mcp/t.pid"), format!("{}\n", daemon.pid));
        assert!(scratch.file("state/mcp/t.log").contains("t: ready on "));
        let out = scratch.ctl(&["--run-dir", &path("runtime/mcp"), "stop", "t"]);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
    }
}

#[test]
fn drop_in_files_add_servers() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "t.ron",
        &format!("(listen: [\"127.0.0.1:0\"], log: (file: {:?}))", scratch.path("t.log").display().to_string()),
    );
    let body = |flags: &[&str]| {
        let whole = stdio("x", flags, "");
        whole.strip_prefix("\"x\": ").unwrap().trim_end_matches(',').to_owned()
    };
    scratch.write("t.d/alpha.ron", &body(&[]));
    scratch.write("t.d/beta.ron", &body(&[]));
    scratch.write("t.d/.hidden.ron", "nonsense");
    let daemon = scratch.start(&file);
    assert_eq!(said(&daemon.http("alpha").ask(&call(1, "count", json!({})))), "1");
    let before = daemon.child("alpha");
    // One more, one less, one wrong.
    scratch.write("t.d/gamma.ron", &body(&[]));
    std::fs::remove_file(scratch.path("t.d/beta.ron")).unwrap();
    let out = scratch.ctl(&["reload", "t"]);
    assert_eq!(stdout(&out), "t: reloaded (1 added, 1 removed, 1 unchanged)\n", "{}", stderr(&out));
    assert_eq!(daemon.child("alpha"), before);
    scratch.write("t.d/gamma.ron", "Stdio(\n    comand: \"cat\",\n)");
    let out = scratch.ctl(&["reload", "t"]);
    assert_eq!(code(&out), 1);
    let path = scratch.path("t.d/gamma.ron").display().to_string();
    assert!(stderr(&out).contains(&format!("{path}:2:5: unknown key 'comand', did you mean 'command'?")), "{out:?}");
    // One that cannot be read is not taken for one that is gone.
    scratch.write("t.d/gamma.ron", &body(&[]));
    std::fs::write(scratch.path("t.d/delta.ron"), [0xff, 0xfd]).unwrap();
    let out = scratch.ctl(&["reload", "t"]);
    assert!(stderr(&out).contains("delta.ron: it is not UTF-8 text"), "{out:?}");
    std::fs::remove_file(scratch.path("t.d/delta.ron")).unwrap();
    // The same name twice.
    scratch.write("t.ron", &format!("(listen: [\"127.0.0.1:0\"], servers: {{{}}})", stdio("alpha", &[], "")));
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
    assert_eq!(code(&out), 78);
    assert!(stderr(&out).contains("alpha.ron:1:1: there is a server 'alpha' already"), "{}", stderr(&out));
}

#[test]
fn port_conflict_next_takes_the_next_port() {
    let scratch = Scratch::new();
    // A port whose next one is free, as far as one can know.
    let (taken, port) = wait("two ports", || {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let free = port < 65_000 && TcpListener::bind(("127.0.0.1", port + 1)).is_ok();
        free.then_some((taken, port))
    });
    let with = |conflict: &str| {
        let more = format!("listen: [\"127.0.0.1:{port}\"], port_conflict: {conflict},");
        scratch.instance_with("t", &more, &stdio("fake", &[], ""))
    };
    let out = scratch.run(mcpdaemon(), &["-c", &with("Error").display().to_string()]);
    assert_eq!(code(&out), 69);
    let own = std::process::id();
    assert!(stderr(&out).contains(&format!("the address is in use by pid {own}")), "{}", stderr(&out));
    // The flag counts more than the file, in both directions.
    let file = with("Next(20)").display().to_string();
    let out = scratch.run(mcpdaemon(), &["-c", &file, "--port-conflict", "0"]);
    assert_eq!(code(&out), 69);
    for wrong in ["1001", "-1", "many"] {
        let out = scratch.run(mcpdaemon(), &["-c", &file, "--port-conflict", wrong]);
        assert!(code(&out) == 64 && stderr(&out).contains("0 to 1000"), "{}", stderr(&out));
    }
    let address = format!("127.0.0.1:{port}");
    let flags = ["--listen", &address, "--port-conflict", "20", "--name", "flag", "--", &fake()];
    let out = scratch.run(mcpdaemon(), &flags);
    assert!(
        stdout(&out).contains(&format!("; port {port} is in use by pid {own}")),
        "{}{}",
        stdout(&out),
        stderr(&out)
    );
    assert_eq!(code(&scratch.ctl(&["stop", "flag"])), 0);
    let out = scratch.run(mcpdaemon(), &["-c", &file]);
    let said = stdout(&out);
    assert!(said.contains(&format!("); port {port} is in use by pid {own}, ")), "{said}");
    let daemon = scratch.started(&said);
    let chosen: u16 = daemon.address().rsplit(':').next().unwrap().parse().unwrap();
    assert!(chosen > port && chosen <= port + 20, "{chosen}");
    assert!(daemon.log().contains(&format!("port {chosen} is used in its place")), "{}", daemon.log());
    assert_eq!(daemon.status()["listen"], json!([format!("http://127.0.0.1:{chosen}")]));
    assert!(stdout(&scratch.ctl(&["list"])).contains(&format!("127.0.0.1:{chosen}")));
    // A reload leaves it where it is, although the first choice is free by now.
    drop(taken);
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert_eq!(daemon.status()["listen"], json!([format!("http://127.0.0.1:{chosen}")]));
}

#[test]
fn the_holder_of_one_of_two_addresses_is_named_and_not_the_start_itself() {
    let scratch = Scratch::new();
    let (_taken, port) = wait("a port", || {
        let taken = TcpListener::bind("[::1]:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some((taken, port))
    });
    let file = scratch.instance_with("t", &format!("listen: [\"localhost:{port}\"],"), &stdio("fake", &[], ""));
    let out = scratch.run(mcpdaemon(), &["-c", &file.display().to_string()]);
    let wanted = format!("the address [::1]:{port} is in use by pid {}, ", std::process::id());
    assert!(code(&out) == 69 && stderr(&out).contains(&wanted), "{}", stderr(&out));
}

#[test]
fn cleanup_ends_what_a_killed_daemon_left_behind() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &["--ignore-term", "--ignore-eof"], ""));
    let file = file.display().to_string();
    let daemon = scratch.start(std::path::Path::new(&file));
    let out = scratch.run(mcpdaemon(), &["--cleanup", "-c", &file]);
    assert_eq!(code(&out), 75, "a living one is left alone");
    assert!(alive(daemon.pid) && alive(daemon.child("fake")));
    // Both the daemon and its guard are killed: nobody is left to clean up.
    let guard = scratch
        .processes()
        .into_iter()
        .find(|(pid, _)| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "mcpguard"));
    kill(guard.unwrap().0, libc::SIGKILL);
    kill(daemon.pid, libc::SIGKILL);
    wait("its end", || (!alive(daemon.pid)).then_some(()));
    assert!(!scratch.processes().is_empty(), "the stubborn child");
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 1);
    let out = scratch.run(mcpdaemon(), &["--cleanup", "-c", &file]);
    assert_eq!((code(&out), stdout(&out).as_str()), (0, "t: ended 1 process\n"), "{}", stderr(&out));
    scratch.gone();
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 3);
    let out = scratch.run(mcpdaemon(), &["--cleanup", "-c", &file]);
    assert_eq!(stdout(&out), "t: nothing was left behind\n");
}
