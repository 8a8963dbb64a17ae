//! Whom the daemon and its children run as, and what they may take. What needs root is checked as root, which the gate
//! runs as; as another user, that it is refused.

use serde_json::{Value, json};

use crate::harness::*;

fn root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

fn about(http: &mut Http) -> Value {
    http.ask(&call(1, "self", json!({})))["result"]["structuredContent"].clone()
}

/// The numbers in a line of /proc/PID/status.
fn ids(line: &Value) -> Vec<u32> {
    line.as_str().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect()
}

/// The programs, where another user can read them.
fn open_to_all(scratch: &Scratch) -> String {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(scratch.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = scratch.path("fake-server");
    copy_program(fake(), &copy);
    copy.display().to_string()
}

#[test]
fn root_runs_nothing_without_user_or_allow_root() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "")).display().to_string();
    let test = |args: &[&str]| scratch.command(mcpdaemon()).env_remove("MCP_ALLOW_ROOT").args(args).output().unwrap();
    let out = test(&["-t", "-c", &file]);
    match root() {
        true => {
            assert_eq!(code(&out), 78);
            let why = "server 'fake' would run as root: set 'user', of the instance or of the server, or say \
                       allow_root: true";
            assert!(stderr(&out).contains(why), "{}", stderr(&out));
            assert_eq!(code(&test(&["-t", "--allow-root", "-c", &file])), 0);
        }
        false => assert_eq!(code(&out), 0, "{}", stderr(&out)),
    }
    let more = "restart: (policy: Never), user: \"nobody\"";
    let file = scratch.instance("t", &stdio("fake", &[], more)).display().to_string();
    let out = test(&["-t", "-c", &file]);
    match root() {
        true => assert_eq!(code(&out), 0, "{}", stderr(&out)),
        false => assert!(stderr(&out).contains("only root can start it as 'nobody'"), "{}", stderr(&out)),
    }
    let file = scratch.instance("t", &stdio("fake", &[], "user: \"nobody-there\"")).display().to_string();
    let out = test(&["-t", "-c", &file]);
    assert!(stderr(&out).contains("there is no user 'nobody-there'"), "{}", stderr(&out));
}

#[test]
fn setuid_after_binding_a_low_port_is_for_good() {
    if !root() {
        // The other half is in the test above: it is refused.
        return;
    }
    let scratch = Scratch::new();
    let program = open_to_all(&scratch);
    let port = (600..1000).find(|p| std::net::TcpListener::bind(("127.0.0.1", *p)).is_ok()).unwrap();
    let more = format!("listen: [\"127.0.0.1:{port}\"], user: \"nobody\", allow_root: false,");
    let file = scratch.instance_with("t", &more, &format!("\"fake\": Stdio(command: [{program:?}])"));
    let out = scratch.command(mcpdaemon()).env_remove("MCP_ALLOW_ROOT").arg("-c").arg(&file).output().unwrap();
    assert_eq!(code(&out), 0, "{}{}", stderr(&out), scratch.file("t.log"));
    let daemon = scratch.started(&stdout(&out));
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let own = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap();
    let line = |key: &str| Value::from(own.lines().find(|l| l.starts_with(key)).unwrap());
    assert_eq!(ids(&line("Uid")), [nobody.uid.as_raw(); 4]);
    assert_eq!(ids(&line("Gid")), [nobody.gid.as_raw(); 4]);
    assert!(!ids(&line("Groups")).contains(&0), "root's groups are gone: {own}");
    // So is the guard, and so are the children, in the surroundings of that user.
    let mut http = daemon.http("fake");
    let child = about(&mut http);
    assert_eq!(ids(&child["uids"]), [nobody.uid.as_raw(); 4]);
    assert_eq!(child["env"]["HOME"], json!(nobody.dir), "{child}");
    for (pid, name) in scratch.processes() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find(|l| l.starts_with("Uid")).map(|l| ids(&l.into())[0]);
        assert!(uid.is_none_or(|uid| uid == nobody.uid.as_raw()), "{pid} {name}");
    }
    // The run directory is root's: its files there are kept up to date all the same, and stop and status work.
    assert_eq!(daemon.status()["state"], "ready");
    let out = scratch.ctl(&["reload", "t"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    daemon.stop();
    assert_eq!(code(&scratch.ctl(&["status", "t"])), 3, "{}", stdout(&scratch.ctl(&["status", "t"])));
}

#[test]
fn the_daemon_has_the_group_that_is_said_and_no_other() {
    let scratch = Scratch::new();
    let program = open_to_all(&scratch);
    let servers = format!("\"fake\": Stdio(command: [{program:?}])");
    let with = |more: &str| scratch.instance_with("t", more, &servers);
    if !root() {
        let out = scratch.run(mcpdaemon(), &["-c", &with("group: \"daemon\",").display().to_string()]);
        let why = "'group' of the instance: changing the group, from ";
        assert!(code(&out) == 78 && stderr(&out).contains(why), "{}", stderr(&out));
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    // By name and by number.
    for written in ["\"daemon\"".to_owned(), format!("\"{}\"", group.gid)] {
        let daemon = scratch.start(&with(&format!("user: \"nobody\", group: {written},")));
        let about = about(&mut daemon.http("fake"));
        let own = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap();
        let line = |key: &str| ids(&Value::from(own.lines().find(|l| l.starts_with(key)).unwrap()));
        for (uids, gids, groups) in [
            (line("Uid"), line("Gid"), line("Groups")),
            (ids(&about["uids"]), ids(&about["gids"]), ids(&about["groups"])),
        ] {
            assert_eq!(uids, [nobody.uid.as_raw(); 4]);
            assert_eq!(gids, [group.gid.as_raw(); 4]);
            assert!(!groups.contains(&0), "{groups:?}");
        }
        daemon.stop();
    }
    // Whoever is not root has his own group, and a server has that of its daemon: what cannot be had is refused.
    let servers = format!("\"fake\": Stdio(command: [{program:?}], user: \"nobody\", group: \"daemon\")");
    let file = scratch.instance_with("t", "user: \"nobody\",", &servers);
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &file.display().to_string()]);
    let why = format!("the daemon itself becomes 'nobody' and cannot start it with the group {}\n", group.gid);
    assert!(code(&out) == 78 && stderr(&out).ends_with(&why), "{}", stderr(&out));
    let out = scratch.run(mcpdaemon(), &["-c", &with("group: \"nobody-there\",").display().to_string()]);
    assert!(code(&out) == 78 && stderr(&out).contains("there is no group 'nobody-there'"), "{}", stderr(&out));
}

#[test]
fn a_server_has_its_own_user_umask_and_limits() {
    let scratch = Scratch::new();
    let program = open_to_all(&scratch);
    let user = if root() { "user: \"nobody\", group: \"daemon\"," } else { "" };
    let more = format!(
        "{user} umask: 0o077, limits: (nofile: 123, memory: \"3GiB\", processes: 4000, cpu: \"1h\"), no_new_privs: true"
    );
    let free = format!("\"free\": Stdio(command: [{program:?}], no_new_privs: false)");
    let daemon =
        scratch.start(&scratch.instance("t", &format!("\"tied\": Stdio(command: [{program:?}], {more}), {free}")));
    let tied = about(&mut daemon.http("tied"));
    let limits = tied["limits"].as_str().unwrap();
    let limit = |name: &str| -> Vec<&str> {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).collect()
    };
    assert_eq!(limit("Max open files"), ["123", "123"]);
    assert_eq!(limit("Max data size"), ["3221225472", "3221225472"]);
    assert_eq!(limit("Max processes"), ["4000", "4000"]);
    assert_eq!(limit("Max cpu time"), ["3600", "3601"]);
    assert_eq!((tied["umask"].as_str().unwrap(), tied["nnp"].as_str().unwrap()), ("Umask:\t0077", "NoNewPrivs:\t1"));
    let free = about(&mut daemon.http("free"));
    assert_eq!(free["nnp"], "NoNewPrivs:\t0");
    if root() {
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
        assert_eq!(ids(&tied["uids"]), [nobody.uid.as_raw(); 4]);
        assert_eq!(ids(&tied["gids"]), [group.gid.as_raw(); 4]);
        assert!(!ids(&tied["groups"]).contains(&0), "{tied}");
        assert_eq!(ids(&free["uids"]), [0; 4]);
        assert_eq!(tied["env"]["LOGNAME"], "nobody");
        // It is another user's, and still ended with the daemon.
        let child = daemon.child("tied");
        daemon.stop();
        assert!(!alive(child));
    }
}
