//! What a service manager hands over and wants to hear: notifications, passed sockets, a descriptor for readiness.

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::*;

/// The other end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn at_path(scratch: &Scratch) -> Manager {
        let path = scratch.path("notify");
        Manager::new(UnixDatagram::bind(&path).unwrap(), path.display().to_string())
    }

    fn hidden(scratch: &Scratch) -> Manager {
        let name = format!("mcp-test{}", scratch.dir.path().display());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Manager::new(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    }

    fn new(socket: UnixDatagram, name: String) -> Manager {
        socket.set_read_timeout(Some(LONG)).unwrap();
        Manager { socket, name }
    }

    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let n = self.socket.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..n]).lines().map(str::to_owned).collect()
    }

    /// The next message with this line.
    fn until(&self, line: &str) -> Vec<String> {
        loop {
            let said = self.next();
            if said.iter().any(|l| l == line) {
                return said;
            }
        }
    }
}

fn in_front<'s>(scratch: &'s Scratch, command: &mut Command) -> (std::process::Child, Daemon<'s>) {
    let log = std::fs::File::create(scratch.path("t.log")).unwrap();
    let child = command.stderr(Stdio::from(log)).spawn().unwrap();
    let line = wait("the start", || {
        let log = scratch.file("t.log");
        log.lines().find_map(|l| Some(l[l.find("t: ready on")?..].to_owned()))
    });
    let daemon = scratch.started(&line);
    assert_eq!(daemon.pid, child.id() as i32);
    (child, daemon)
}

fn stop(mut child: std::process::Child) {
    kill(child.id() as i32, libc::SIGTERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn sd_notify_ready_reloading_stopping() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    for manager in [Manager::at_path(&scratch), Manager::hidden(&scratch)] {
        let mut command = scratch.command(mcpdaemon());
        command.args(["-f", "-c"]).arg(&file).env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "300000");
        let (child, daemon) = in_front(&scratch, &mut command);
        let ready = manager.until("READY=1");
        assert!(ready.contains(&format!("MAINPID={}", child.id())), "{ready:?}");
        assert!(ready.contains(&"STATUS=serving: 1 of 1 server ready".to_owned()), "{ready:?}");
        // At the moment when it says so, it serves.
        assert_eq!(get(daemon.address(), "/readyz").status, 200);
        // No child sees whom its daemon talks to.
        let mut http = daemon.http("fake");
        let about = http.ask(&call(1, "self", json!({})));
        let env = about["result"]["structuredContent"]["env"].as_object().unwrap();
        assert!(!env.keys().any(|k| k.starts_with("NOTIFY") || k.starts_with("WATCHDOG")), "{env:?}");
        manager.until("WATCHDOG=1");
        manager.until("WATCHDOG=1");
        // A reload, with the time without which systemctl would wait for ever.
        let before = monotonic();
        kill(daemon.pid, libc::SIGHUP);
        let reloading = manager.until("RELOADING=1");
        let at = reloading.iter().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).unwrap().parse().unwrap();
        assert!(before <= at && at <= monotonic(), "{before} {at}");
        manager.until("READY=1");
        // A refused one ends as well, and says so.
        let text = scratch.file("t.ron");
        scratch.write("t.ron", "(");
        kill(daemon.pid, libc::SIGHUP);
        manager.until("RELOADING=1");
        let ready = manager.until("READY=1");
        assert!(ready.iter().any(|l| l.contains("the last reload was refused: ")), "{ready:?}");
        scratch.write("t.ron", &text);
        kill(daemon.pid, libc::SIGTERM);
        let stopping = manager.until("STOPPING=1");
        assert!(stopping.iter().any(|l| l.starts_with("EXTEND_TIMEOUT_USEC=")), "{stopping:?}");
        let mut child = child;
        assert!(child.wait().unwrap().success());
        let _ = std::fs::remove_file(&manager.name);
    }
}

fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_micros() as u64
}

#[test]
fn sd_notify_to_a_dead_socket_stalls_nothing() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let deaf = Manager::at_path(&scratch);
    for name in [deaf.name.as_str(), "/nowhere/notify", "relative"] {
        let mut command = scratch.command(mcpdaemon());
        command.args(["-f", "-c"]).arg(&file).env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "3000");
        let (child, daemon) = in_front(&scratch, &mut command);
        for _ in 0..20 {
            assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
        }
        assert_eq!(get(daemon.address(), "/readyz").status, 200);
        stop(child);
    }
}

/// Hands descriptors over as the first ones, as sd_listen_fds(3) wants them.
fn pass(command: &mut Command, fds: Vec<OwnedFd>, names: &str) {
    let raw: Vec<i32> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    command.env("LISTEN_FDS", raw.len().to_string()).env("LISTEN_FDNAMES", names);
    // The daemon's number is known in the child only; "$$" of a shell says it without a call that could deadlock.
    let moved: Vec<i32> = raw.iter().map(|fd| fd + 100).collect();
    // SAFETY: dup2, fcntl and close are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in raw.iter().zip(&moved) {
                libc::dup2(*from, *to);
            }
            for (n, from) in moved.iter().enumerate() {
                libc::dup2(*from, 3 + n as i32);
                libc::close(*from);
            }
            Ok(())
        });
    }
}

/// `sh -c 'LISTEN_PID=$$ exec "$0" "$@"' program args`.
fn through_shell(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = scratch.command("/bin/sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", mcpdaemon()]).args(args);
    command
}

#[test]
fn listen_fds_are_served() {
    let scratch = Scratch::new();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = scratch.path("passed.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let file = scratch.instance_with("t", "listen: [\"systemd:web\", \"systemd:local\"],", &stdio("fake", &[], ""));
    let mut command = through_shell(&scratch, &["-f", "-c", file.to_str().unwrap()]);
    pass(&mut command, vec![tcp.into(), unix.into()], "web:local");
    let (child, daemon) = in_front(&scratch, &mut command);
    assert_eq!(daemon.address(), address.to_string());
    let mut http = daemon.http("fake");
    let about = http.ask(&call(1, "self", json!({})));
    let about = &about["result"]["structuredContent"];
    assert!(about["env"].get("LISTEN_FDS").is_none(), "{about}");
    assert_eq!(about["fds"].as_array().unwrap().len(), 4, "0 to 2 and the folder itself: {}", about["fds"]);
    let listen = daemon.status()["listen"].to_string();
    assert!(listen.contains(&address.to_string()) && listen.contains("passed.sock"), "{listen}");
    // A reload leaves them alone, and can take no new ones.
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert_eq!(said(&http.ask(&call(2, "echo", json!({"text": "x"})))), "x");
    stop(child);
    assert!(path.exists(), "the socket's file is the manager's");
}

#[test]
fn what_was_not_passed_or_cannot_be_served_is_said() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "listen: [\"systemd:\"],", &stdio("fake", &[], ""));
    let file = file.to_str().unwrap();
    let out = scratch.run(mcpdaemon(), &["-c", file]);
    assert_eq!(code(&out), 69);
    assert!(stderr(&out).contains("the service manager has passed no such socket (LISTEN_FDS)"), "{}", stderr(&out));
    // Variables that were meant for another process count for nothing.
    let out = scratch.command(mcpdaemon()).args(["-c", file]).env("LISTEN_PID", "1").env("LISTEN_FDS", "1").output();
    assert_eq!(code(&out.unwrap()), 69);
    // A socket that does not listen.
    let mut command = through_shell(&scratch, &["-f", "-c", file]);
    pass(&mut command, vec![UnixDatagram::unbound().unwrap().into()], "x");
    let out = command.output().unwrap();
    assert!(stderr(&out).contains("the passed socket 'x': it is a socket of another type"), "{}", stderr(&out));
    // One that others can reach.
    let mut command = through_shell(&scratch, &["-f", "-c", file]);
    pass(&mut command, vec![std::net::TcpListener::bind("0.0.0.0:0").unwrap().into()], "");
    let out = command.output().unwrap();
    assert_eq!(code(&out), 78);
    assert!(stderr(&out).contains("say insecure: true"), "{}", stderr(&out));
}

#[test]
fn notify_fd_gets_a_newline() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "")).display().to_string();
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let mut command = scratch.command(mcpdaemon());
    command.args(["-f", "-c", &file, "--notify-fd", "907"]);
    let from = write.as_raw_fd();
    // SAFETY: dup2 is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::dup2(from, 907);
            Ok(())
        });
    }
    let (child, daemon) = in_front(&scratch, &mut command);
    drop(write);
    // SAFETY: the descriptor is this test's own.
    let mut pipe = unsafe { std::fs::File::from_raw_fd(read.into_raw_fd()) };
    let mut said = Vec::new();
    // To its end: the daemon closes it, and no child holds it open.
    pipe.read_to_end(&mut said).unwrap();
    assert_eq!((said.as_slice(), get(daemon.address(), "/readyz").status), (&b"\n"[..], 200));
    stop(child);
    let out = scratch.run(mcpdaemon(), &["-c", &file, "--notify-fd", "99"]);
    assert_eq!(code(&out), 64);
    assert!(stderr(&out).contains("--notify-fd 99: this descriptor is not open"), "{}", stderr(&out));
}

/// The shipped units under a systemd of their own: a manager of a user, in namespaces in which it has all to itself. What a
/// unit needs of the system stands elsewhere for it: `sed` takes these lines out or replaces them.
fn under_a_user_manager(scratch: &Scratch, script: &str) {
    let home = scratch.path("home");
    std::fs::create_dir_all(home.join(".config/systemd/user")).unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = format!(
        r#"
set -euo pipefail
mount -t tmpfs none /run
mkdir -p /run/user/0 /run/systemd/system
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
export XDG_RUNTIME_DIR=/run/user/0 HOME={home} MCP_RUN_DIR=/run/user/0/mcp PATH="$PATH:/usr/lib/systemd:/lib/systemd"
unset MCP_LOG_DIR DBUS_SESSION_BUS_ADDRESS
systemd --user --log-target=console >"$HOME/manager" 2>&1 &
until systemctl --user is-system-running >/dev/null 2>&1; do sleep 0.05; done
failed() {{ systemctl --user status --no-pager -l 't*' 'mcpdaemon*' >&2; tail -n 50 "$HOME/manager" >&2; }}
trap failed ERR
mcpctl() {{ {ctl} "$@"; }}
until_() {{ for _ in $(seq 400); do if "$@"; then return; fi; sleep 0.05; done; echo "in vain: $*" >&2; return 1; }}
main_pid() {{ systemctl --user show -P MainPID "$1"; }}
state_is() {{ [[ $(systemctl --user show -P ActiveState "$1") == "$2" ]]; }}
unit() {{ # FILE: as it is shipped, with the programs of this build
    sed -e 's|/usr/bin/mcpdaemon|{daemon}|; s|/usr/bin/mcpctl|{ctl}|; s|/usr/bin/systemctl|& --user|' \
        -e '/^Environment=/s|$| MCP_ALLOW_ROOT=1|' "${{@:2}}" "{units}/$1" >"$HOME/.config/systemd/user/${{1##*/}}"
    systemctl --user daemon-reload
}}
{script}
[[ -z $(pgrep -x mcpdaemon) ]]
"#,
        home = home.display(),
        ctl = mcpctl(),
        daemon = mcpdaemon(),
        units = root.join("config/service").display(),
    );
    let mut command = scratch.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--cgroup"]);
    let out = command.args(["timeout", "150", "bash", "-c", &whole]).output().unwrap();
    if stderr(&out).contains("unshare failed") && !nix::unistd::Uid::effective().is_root() {
        return eprintln!("an ordinary user can boot no systemd here");
    }
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
    scratch.gone();
}

#[test]
fn the_user_unit_starts_reloads_upgrades_recovers_and_stops() {
    let scratch = Scratch::new();
    let text = format!("(listen: [\"127.0.0.1:0\"], servers: {{{}}})", stdio("fake", &[], ""));
    scratch.write("home/.config/mcp/t.ron", &text);
    under_a_user_manager(
        &scratch,
        r#"
unit user/mcpdaemon@.service -e 's/^WatchdogSec=.*/WatchdogSec=2/; s/^RestartSec=.*/RestartSec=100ms/'
systemctl --user start mcpdaemon@t
# It came back, so it serves.
export MCP_RUN_DIR=$(dirname "$(find /run/user/0 -name t.pid)")
mcpctl status --check t
[[ $(systemctl --user show -P StatusText mcpdaemon@t) == *"1 server"* ]]
first=$(main_pid mcpdaemon@t)
[[ $(<"$MCP_RUN_DIR/t.pid") == "$first" ]]
systemctl --user reload mcpdaemon@t
mcpctl status t | grep -q 'reload *applied'
# The program is exchanged, and the process stays.
mcpctl restart t
[[ $(main_pid mcpdaemon@t) == "$first" ]] && state_is mcpdaemon@t active
# The watchdog of the manager hears it, more than twice as long as it waits.
sleep 5
[[ $(main_pid mcpdaemon@t) == "$first" ]]
# One that is killed, and one that hangs, are started again.
kill -KILL "$first"
new() { [[ $(main_pid mcpdaemon@t) != "$1" && $(main_pid mcpdaemon@t) != 0 ]] && state_is mcpdaemon@t active; }
until_ new "$first"
second=$(main_pid mcpdaemon@t)
kill -STOP "$second"
until_ new "$second"
mcpctl status --check t
# A configuration that is refused is not tried again and again.
echo nonsense >"$HOME/.config/mcp/t.ron"
! systemctl --user restart mcpdaemon@t
state_is mcpdaemon@t failed
[[ $(systemctl --user show -P ExecMainStatus mcpdaemon@t) == 78 ]]
"#,
    );
    scratch.write("home/.config/mcp/t.ron", &text);
    under_a_user_manager(
        &scratch,
        r#"
unit user/mcpdaemon@.service
systemctl --user start mcpdaemon@t
systemctl --user stop mcpdaemon@t
state_is mcpdaemon@t inactive
[[ $(systemctl --user show -P Result mcpdaemon@t) == success ]]
"#,
    );
}

/// Of the units of the system, what a manager of a user can do as well.
const SYSTEM: &str = r#"
places=(-e '/^User=/d; /^Group=/d; /^Private/d; /^Protect/d'
    -e "s|/etc/mcp|$HOME/etc|; s|/run/mcp|%t/mcp|; s|/var/log/mcp|$HOME/log|; s|/var/lib/mcp|$HOME|")
"#;

#[test]
fn the_forking_unit_and_the_path_unit_start_reload_and_stop() {
    let scratch = Scratch::new();
    let text = format!("(listen: [\"127.0.0.1:0\"], servers: {{{}}})", stdio("fake", &[], ""));
    scratch.write("home/etc/t.ron", &text);
    let script = r#"
unit mcpdaemon-forking@.service "${places[@]}"
export MCP_RUN_DIR=/run/user/0/mcp/mcp
systemctl --user start mcpdaemon-forking@t
mcpctl status --check t
[[ $(<"$MCP_RUN_DIR/t.pid") == "$(main_pid mcpdaemon-forking@t)" ]]
systemctl --user reload mcpdaemon-forking@t
mcpctl restart t
[[ $(<"$MCP_RUN_DIR/t.pid") == "$(main_pid mcpdaemon-forking@t)" ]]
systemctl --user stop mcpdaemon-forking@t
state_is mcpdaemon-forking@t inactive

unit mcpdaemon@.service "${places[@]}"
unit mcpdaemon@.path "${places[@]}"
unit mcpdaemon-drop-ins@.path "${places[@]}"
unit mcpdaemon-reload@.service "${places[@]}"
systemctl --user start mcpdaemon@t mcpdaemon@t.path mcpdaemon-drop-ins@t.path
mcpctl status --check t
has() { mcpctl status t | grep "^  $1 " >/dev/null; }
# Written to the side and renamed, as editors do, while there is no folder of drop-ins.
sed -i 's/"fake"/"other"/' "$HOME/etc/t.ron"
until_ has other
# systemd looks again once the reload that it has started is over.
looks() { [[ $(systemctl --user show -P SubState "$1@t.path") == waiting ]]; }
until_ looks mcpdaemon
# In place, and by the folder: it comes, a file in it comes, and goes.
sed 's/"other"/"third"/' "$HOME/etc/t.ron" >"$HOME/new"
cat "$HOME/new" >"$HOME/etc/t.ron"
until_ has third
reloads() { mcpctl status t --json | sed -n 's/^ *"reloads": \([0-9]*\),/\1/p'; }
more() { (($(reloads) > before)); }
before=$(reloads)
mkdir "$HOME/etc/t.d"
until_ more
until_ looks mcpdaemon-drop-ins
printf 'Stdio(command: ["%s"])' "$(sed -n 's/.*command: \["\([^"]*\)".*/\1/p' "$HOME/new")" >"$HOME/more.ron"
mv "$HOME/more.ron" "$HOME/etc/t.d/more.ron"
until_ has more
until_ looks mcpdaemon-drop-ins
rm "$HOME/etc/t.d/more.ron"
gone() { ! has more; }
until_ gone
systemctl --user stop mcpdaemon@t
state_is mcpdaemon@t.path inactive
"#;
    under_a_user_manager(&scratch, &format!("{SYSTEM}{script}"));
}

#[test]
fn the_socket_unit_starts_the_instance_at_the_first_connection() {
    let scratch = Scratch::new();
    let text = format!("(listen: [\"systemd:\"], servers: {{{}}})", stdio("fake", &[], ""));
    scratch.write("home/etc/t.ron", &text);
    let script = r#"
unit mcpdaemon@.service "${places[@]}"
unit mcpdaemon@.socket "${places[@]}" -e '/^SocketUser=/d; /^SocketGroup=/d'
export MCP_RUN_DIR=/run/user/0/mcp/mcp
systemctl --user start mcpdaemon@t.socket
state_is mcpdaemon@t inactive
healthy() {
    python3 - <<'END'
import socket
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect("/run/user/0/mcp/t.sock")
s.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
answer = s.recv(1000)
assert answer.startswith(b"HTTP/1.1 200 "), answer
END
}
healthy
first=$(main_pid mcpdaemon@t)
# Who connects while there is none waits for the next one.
systemctl --user restart mcpdaemon@t
healthy
[[ $(main_pid mcpdaemon@t) != "$first" ]]
systemctl --user stop mcpdaemon@t.socket mcpdaemon@t
"#;
    under_a_user_manager(&scratch, &format!("{SYSTEM}{script}"));
}
