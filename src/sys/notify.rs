//! Telling a service manager how it goes: sd_notify(3), in paths and in the abstract namespace, and the newline that s6
//! waits for. What cannot be told is no reason to fail.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    /// As the environment had it.
    name: String,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say.
    pub(crate) fn from_environment() -> Option<Notifier> {
        let name = std::env::var("NOTIFY_SOCKET").ok()?;
        let own = std::process::id().to_string();
        let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == own);
        let usec = std::env::var("WATCHDOG_USEC").ok().filter(|_| ours).and_then(|u| u.parse::<u64>().ok());
        Notifier::new(&name, usec.filter(|u| *u > 0).map(Duration::from_micros))
    }

    /// A notifier for an address (a path, or `@` and a name) and the time within which a watchdog wants to hear of us.
    pub(crate) fn new(name: &str, watchdog: Option<Duration>) -> Option<Notifier> {
        let address = match name.strip_prefix('@') {
            Some(hidden) => SocketAddr::from_abstract_name(hidden).ok()?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name).ok()?,
            None => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        // A manager that does not read must not stop us.
        socket.set_nonblocking(true).ok()?;
        Some(Notifier { socket, address, name: name.to_owned(), watchdog })
    }

    /// The address, as it was given.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn say(&self, lines: &[&str]) {
        let _ = self.socket.send_to_addr(lines.join("\n").as_bytes(), &self.address);
    }

    /// Serving, after the start or a reload.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&["READY=1", &format!("MAINPID={}", std::process::id()), &status_line(status)]);
    }

    /// A reload begins. Without the time, `systemctl reload` waits for ever (systemd.service(5), notify-reload).
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.say(&["RELOADING=1", &format!("MONOTONIC_USEC={}", now.as_micros()), "STATUS=reloading"]);
    }

    /// The end begins, and takes at most this long.
    pub(crate) fn stopping(&self, status: &str, limit: Duration) {
        let extend = format!("EXTEND_TIMEOUT_USEC={}", limit.as_micros());
        self.say(&["STOPPING=1", &extend, &status_line(status)]);
    }

    /// The start takes longer, and at most this long from now on.
    pub(crate) fn starting(&self, status: &str, limit: Duration) {
        let extend = format!("EXTEND_TIMEOUT_USEC={}", limit.as_micros());
        self.say(&[&extend, &status_line(status)]);
    }

    pub(crate) fn status(&self, status: &str) {
        self.say(&[&status_line(status)]);
    }

    /// Still alive.
    pub(crate) fn alive(&self) {
        self.say(&["WATCHDOG=1"]);
    }
}

fn status_line(status: &str) -> String {
    format!("STATUS={}", status.replace('\n', " "))
}

/// Says that we serve by a newline, and closes the descriptor (s6-supervise, notification-fd).
pub(crate) fn newline(fd: OwnedFd) {
    let _ = File::from(fd).write_all(b"\n");
}
