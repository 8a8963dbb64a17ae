//! The way to a server by its URL: a session of [`crate::remote`], which runs on threads of its own, as lines on a socket that
//! poll(2) waits for like any other.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_lite::future::block_on;

use super::target::Missing;
use crate::model::config::Environment;
use crate::model::exit::{Exit, Failure, plain};
use crate::model::url::Url;
use crate::remote::client::{Held, Memory, Settings};
use crate::remote::session::Unreached;
use crate::remote::state::Session;
use crate::rt::async_fd::AsyncFd;
use crate::rt::{executor, task};

/// How much is read at a time, in bytes.
const CHUNK: usize = 64 << 10;
/// So many requests at a time; more wait.
const CONNECTIONS: usize = 64;
/// The longest message of the server, in bytes.
const LONGEST: usize = 256 << 20;
/// How long a request waits for a server that is not reached.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the server may say nothing at all to a request, as with `request_timeout`.
const SILENCE: Duration = Duration::from_secs(5 * 60);
/// How long the server may take to hear that the session is over.
const PARTING: Duration = Duration::from_secs(3);

/// Lines to and from a session.
pub(super) struct Lines {
    stream: UnixStream,
    /// What the session has not taken yet.
    waiting: Vec<u8>,
    /// What has come and is no whole line yet.
    begun: Vec<u8>,
    /// Why the session is over.
    lost: Arc<OnceLock<String>>,
}

/// One client alone has this program.
struct Unlimited;

impl Memory for Unlimited {
    fn begin(&self) -> Box<dyn Held> {
        Box::new(Unlimited)
    }
}

impl Held for Unlimited {
    fn set(&mut self, _bytes: usize) -> bool {
        true
    }
}

impl Lines {
    /// Begins a session with the server at a URL, which has to be there.
    pub(super) fn open(url: &Url, token: Option<&str>) -> Result<Lines, Missing> {
        let system = |e: io::Error| Missing::Never(Failure::new(Exit::Os, format!("mcpdaemon: {}", plain(&e))));
        executor::start().map_err(system)?;
        let mut headers = Environment::default();
        if let Some(token) = token {
            headers.set.insert("authorization".to_owned(), format!("Bearer {token}"));
        }
        let settings = Settings {
            url: url.clone(),
            headers,
            ca: None,
            connections: CONNECTIONS,
            longest: LONGEST,
            memory: Arc::new(Unlimited),
            credentials: "--token-file",
            patience: PATIENCE,
            silence: Some(SILENCE),
        };
        let session = Session::new(settings, None);
        let never = |exit, why: String| Missing::Never(Failure::new(exit, format!("mcpdaemon: {url}: {why}")));
        block_on(session.reach()).map_err(|why| match why {
            Unreached::Connection(why) => Missing::Later(format!("{url}: cannot connect: {why}")),
            Unreached::Answer(why) => Missing::Later(format!("{url}: {why}")),
            Unreached::Barred(why) => {
                never(Exit::NoPermission, format!("{why} (--token-file FILE names the file with your token)"))
            }
            Unreached::Absent(why) => never(Exit::Unavailable, why),
        })?;
        let (near, far) = UnixStream::pair().map_err(system)?;
        near.set_nonblocking(true).map_err(system)?;
        let lost = Arc::new(OnceLock::new());
        pump(session, far, &lost).map_err(system)?;
        Ok(Lines { stream: near, waiting: Vec::new(), begun: Vec::new(), lost })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Adds a line, which [`Lines::flush`] sends.
    pub(super) fn put(&mut self, text: &str) {
        // A line break between tokens is none of a message's own.
        self.waiting.extend(text.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        self.waiting.push(b'\n');
    }

    /// Sends what the session takes; whether something is left.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) fn flush(&mut self) -> Result<bool, String> {
        let mut done = 0;
        let outcome = loop {
            match self.stream.write(&self.waiting[done..]) {
                _ if done == self.waiting.len() => break Ok(false),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break Err(self.reason()),
            }
        };
        self.waiting.drain(..done);
        outcome
    }

    /// The next line that has come; None if none has.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) fn take(&mut self) -> Result<Option<String>, String> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.begun[searched..]) {
                let rest = self.begun.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.begun, rest);
                line.pop();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            searched = self.begun.len();
            let mut buffer = [0; CHUNK];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.reason()),
                Ok(n) => self.begun.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(self.reason()),
            }
        }
    }

    fn reason(&self) -> String {
        self.lost.get().cloned().unwrap_or_else(|| "the session is over".to_owned())
    }

    /// Ends the session, of which the server hears.
    pub(super) fn close(mut self) {
        let parted = || -> io::Result<()> {
            self.stream.shutdown(Shutdown::Write)?;
            self.stream.set_nonblocking(false)?;
            self.stream.set_read_timeout(Some(PARTING))?;
            while self.stream.read(&mut [0; 1024])? > 0 {}
            Ok(())
        };
        let mut parted = parted;
        let _ = parted();
    }
}

/// Passes lines between a socket and a session, in tasks of their own.
fn pump(session: Arc<Session>, far: UnixStream, lost: &Arc<OnceLock<String>>) -> io::Result<()> {
    let socket = Arc::new(AsyncFd::new(far)?);
    let (down, from, up) = (session.clone(), socket.clone(), session.clone());
    task::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            poll_fn(|cx| down.poll_room(cx)).await;
            let read = poll_fn(|cx| {
                let room = buffer.len();
                from.poll_read(cx, room, |mut stream: &UnixStream| stream.read(&mut buffer))
            });
            let n = read.await.unwrap_or(0);
            down.send_lines(&buffer[..n]);
            if n == 0 {
                return down.hang_up();
            }
        }
    });
    let lost = lost.clone();
    task::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = poll_fn(|cx| up.inbox.poll_read(cx, &mut buffer)).await;
            if n == 0 {
                break;
            }
            let mut done = 0;
            while done < n {
                let rest = &buffer[done..n];
                let wrote =
                    poll_fn(|cx| socket.poll_write(cx, rest.len(), |mut stream: &UnixStream| stream.write(rest)));
                match wrote.await {
                    Ok(n) => done += n,
                    // The program ends.
                    Err(_) => return up.cut(),
                }
            }
        }
        if let Some(why) = up.over().await {
            let _ = lost.set(why);
        }
        // The other task may hold the socket still.
        let _ = socket.get_ref().shutdown(Shutdown::Both);
    });
    Ok(())
}
