//! `mcpctl status --watch`: on a pipe, on a terminal, and its end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use serde_json::{Value, json};

use crate::harness::*;

/// mcpctl with its output on a pipe.
struct Piped {
    child: Child,
    lines: Receiver<String>,
}

impl Piped {
    fn start(scratch: &Scratch, args: &[&str]) -> Piped {
        let mut child = scratch.command(mcpctl()).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let pipe = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || pipe.lines().for_each(|l| sender.send(l.unwrap()).unwrap_or_default()));
        Piped { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LONG).expect("another line")
    }

    /// The next line that is wanted, without its time.
    fn next(&self, wanted: &str) -> String {
        loop {
            let line = self.line();
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
            if rest.contains(wanted) {
                return rest.to_owned();
            }
        }
    }

    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let status = ended(&mut self.child);
        (status.code(), self.lines.into_iter().collect())
    }
}

pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    wait("its end", || child.try_wait().unwrap())
}

#[test]
fn status_watch_on_a_pipe_prints_a_line_per_change() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let watch = Piped::start(&scratch, &["status", "t", "--watch"]);
    assert_eq!(watch.next(""), format!("t: ready (pid {}, 1 server)", daemon.pid));
    assert_eq!(watch.next(""), "t: server 'fake' is ready");
    let mut ws = daemon.ws("fake");
    ws.ask(&call(1, "echo", json!({"text": "no change"})));
    daemon.status();
    ws.ask(&call(2, "die", json!({"n": 3})));
    assert_eq!(watch.next(""), "t: degraded");
    assert!(watch.next("").starts_with("t: server 'fake' is backoff: exited with status 3"));
    assert_eq!(watch.next("is ready"), "t: server 'fake' is ready");
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    assert_eq!(watch.next("reloaded"), "t: reloaded: 1 unchanged");
    drop(ws);
    daemon.stop();
    let (code, lines) = watch.end();
    assert_eq!(code, Some(3));
    let said: Vec<_> = lines.iter().map(|l| l.split_once(' ').unwrap().1).collect();
    assert_eq!(said.last(), Some(&"t: not running"));
    assert!(said.iter().all(|l| !l.contains("cannot be read")), "{said:?}");
}

#[test]
fn a_daemon_that_is_killed_ends_the_watch_too() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let watch = Piped::start(&scratch, &["status", "--watch"]);
    watch.next("ready");
    kill(daemon.pid, libc::SIGKILL);
    watch.next("t: dead, killed without a chance to clean up");
    assert_eq!(watch.end().0, Some(1));
    scratch.gone();
    std::mem::forget(daemon);
}

#[test]
fn several_are_watched_until_the_last_is_gone_and_json_is_a_document_a_line() {
    let scratch = Scratch::new();
    let one = scratch.start(&scratch.instance("one", &stdio("a", &[], "")));
    let two = scratch.start(&scratch.instance("two", &stdio("b", &[], "")));
    let text = Piped::start(&scratch, &["status", "--watch", "two", "one"]);
    let json = Piped::start(&scratch, &["status", "--watch", "--json"]);
    text.next("one: ready");
    text.next("two: ready");
    let document = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let first = document(&json.line());
    assert_eq!(first["instances"][0]["status"]["pid"], one.pid);
    assert_eq!(first["instances"][1]["status"]["servers"][0]["name"], "b");
    assert!(scratch.ctl(&["stop", "one"]).status.success());
    text.next("one: not running");
    assert!(scratch.ctl(&["reload", "two"]).status.success());
    text.next("two: reloaded: 1 unchanged");
    assert!(alive(two.pid));
    assert!(scratch.ctl(&["stop", "two"]).status.success());
    text.next("two: not running");
    assert_eq!(text.end().0, Some(3));
    let (code, lines) = json.end();
    let last = document(lines.last().unwrap());
    assert_eq!(code, Some(3));
    let gone = |name: &str| json!({"name": name, "running": false, "fresh": true, "exit_code": 3, "status": null});
    assert_eq!(last, json!({"at": last["at"], "instances": [gone("one"), gone("two")]}));
    lines.iter().for_each(|l| drop(document(l)));
}

#[test]
fn without_an_instance_or_a_reader_there_is_nothing_to_wait_for() {
    let scratch = Scratch::new();
    let out = scratch.ctl(&["status", "--watch", "t"]);
    assert!(code(&out) == 3 && stdout(&out).ends_with("t: not running\n"), "{out:?}");
    let out = scratch.ctl(&["status", "--watch"]);
    assert!(code(&out) == 3 && stdout(&out).starts_with("no instances in "), "{out:?}");
    assert_eq!(code(&scratch.ctl(&["status", "--watch", "../x"])), 2);
    let daemon = scratch.fake(&[]);
    for args in [&["status", "--watch", "t"][..], &["logs", "-f", "-n1", "t"]] {
        let mut child = scratch.command(mcpctl()).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty());
        assert_eq!(ended(&mut child).code(), Some(0), "{args:?}");
    }
    drop(daemon);
}

/// A program on a terminal of its own.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    master: File,
    shown: Arc<Mutex<String>>,
}

/// Both ends of a terminal, which no process gets by accident.
fn open_terminal() -> (File, File) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let slave = options.open(ptsname_r(&master).unwrap()).unwrap();
    // SAFETY: the descriptor is handed over.
    (unsafe { File::from_raw_fd(master.into_raw_fd()) }, slave)
}

fn resize(master: &File, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads a winsize, which outlives the call.
    assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
}

impl Terminal {
    pub(crate) fn start(scratch: &Scratch, program: &str, args: &[&str], rows: u16) -> Terminal {
        let (master, slave) = open_terminal();
        resize(&master, rows);
        let mut command = scratch.command(program);
        let end = || slave.try_clone().unwrap();
        command.args(args).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        // SAFETY: two plain system calls.
        unsafe {
            command.pre_exec(|| match libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) >= 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap();
        drop((command, slave));
        let (mut from, shown) = (master.try_clone().unwrap(), Arc::new(Mutex::new(String::new())));
        let into = shown.clone();
        std::thread::spawn(move || {
            let mut room = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut room) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&room[..n]));
            }
        });
        Terminal { child, master, shown }
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits for a text, and forgets everything up to it.
    pub(crate) fn see(&self, wanted: &str) {
        wait(&format!("{wanted:?} on the terminal"), || {
            let mut shown = self.shown.lock().unwrap();
            let at = shown.find(wanted)? + wanted.len();
            shown.drain(..at);
            Some(())
        });
    }
}

const ENTERED: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEFT: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

#[test]
fn status_watch_redraws_on_a_terminal_and_restores_it() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut terminal = Terminal::start(&scratch, mcpctl(), &["status", "--watch", "t"], 40);
    terminal.see(&format!("{ENTERED}\x1b[Ht: ready (pid {}", daemon.pid));
    terminal.see("\r\n  fake    Stdio  ready");
    terminal.see("\x1b[J\x1b[Ht: ready");
    // Numbers move although nothing happens.
    let mut ws = daemon.ws("fake");
    for n in 1..4 {
        ws.ask(&call(n, "echo", json!({"text": "x"})));
        terminal.see(&format!("requests  {n} in all"));
    }
    resize(&terminal.master, 3);
    terminal.see("more lines\x1b[K\x1b[J");
    resize(&terminal.master, 40);
    terminal.see("\r\n  fake    Stdio  ready");
    drop(ws);
    daemon.stop();
    terminal.see(&format!("{LEFT}t: not running\r\n"));
    assert_eq!(ended(&mut terminal.child).code(), Some(3));
}

#[test]
fn status_watch_restores_the_terminal_on_sigint_and_sigtstp() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut terminal = Terminal::start(&scratch, mcpctl(), &["status", "--watch"], 24);
    terminal.see("fake    Stdio  ready");
    // ^C
    terminal.types("\x03");
    assert_eq!(ended(&mut terminal.child).signal(), Some(libc::SIGINT));
    wait("the terminal", || terminal.shown().ends_with(LEFT).then_some(()));
    // A job that is stopped and continued; the kernel stops no process without a shell by ^Z.
    let mut terminal = Terminal::start(&scratch, mcpctl(), &["status", "--watch"], 24);
    let pid = terminal.child.id() as i32;
    terminal.see("fake    Stdio  ready");
    kill(pid, libc::SIGTSTP);
    terminal.see(LEFT);
    terminal.see(ENTERED);
    kill(pid, libc::SIGTERM);
    terminal.see(LEFT);
    assert_eq!(ended(&mut terminal.child).signal(), Some(libc::SIGTERM));
    // Where nothing can be drawn, lines come as on a pipe.
    let (master, slave) = open_terminal();
    let mut dumb = scratch.command(mcpctl());
    dumb.args(["status", "--watch"]).env("TERM", "dumb").stdout(slave);
    let mut child = dumb.spawn().unwrap();
    drop(dumb);
    let mut lines = BufReader::new(master).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert!(line().contains(" t: ready (pid "));
    assert!(line().contains(" t: server 'fake' is ready"));
    drop(lines);
    assert_eq!(ended(&mut child).code(), Some(0), "the terminal is gone");
    drop(daemon);
}
