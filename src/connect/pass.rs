//! Lets messages through between the client and the instance, and opens the connection anew where it is lost.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

use super::link::Link;
use super::output::Output;
use super::start::Starter;
use super::target::{Missing, Place, Target};
use crate::model::exit::{Exit, Failure, plain};
use crate::model::jsonrpc;
use crate::model::relay::{Relay, Step};
use crate::sys::memory;

/// How long a request waits for a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an instance that is just starting is waited for at first.
const STARTING: Duration = Duration::from_secs(60);
/// The pause between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// So much of one side waits for the other one, in bytes, before no more is read.
const WAITING: usize = 4 << 20;
/// How much is read at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// One conversation.
struct Passing<'t> {
    target: &'t Target,
    starter: Option<&'t Starter>,
    relay: Relay,
    output: Output,
    link: Option<Link>,
    /// What was read and is no whole line yet.
    input: Vec<u8>,
    /// The client says nothing more.
    is_over: bool,
    next_attempt: Instant,
    pause: Duration,
    /// Why there is no connection.
    why: String,
}

/// Says something to who looks after the client: standard output is for messages alone.
fn complain(text: &str) {
    let _ = io::stderr().write_all(format!("mcpdaemon: {text}\n").as_bytes());
}

/// Passes messages until the end of input.
pub(super) fn run(target: &Target, starter: Option<&Starter>) -> Result<Exit, Failure> {
    let link = first(target, starter)?;
    let mut passing = Passing {
        target,
        starter,
        relay: Relay::default(),
        output: Output::new(),
        link: Some(link),
        input: Vec::new(),
        is_over: false,
        next_attempt: Instant::now(),
        pause: PAUSES.0,
        why: String::new(),
    };
    let steps = passing.relay.connected();
    passing.take(steps);
    // Editors have many of these.
    memory::unmap_code();
    let mut buffer = vec![0; CHUNK];
    while !passing.is_done() {
        match passing.turn(&mut buffer) {
            Ok(()) => {}
            // The client is gone: there is no one to tell.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                return Ok(Exit::Ok);
            }
            Err(e) => {
                let why = format!("mcpdaemon: cannot speak on standard input and output: {}", plain(&e));
                return Err(Failure::new(Exit::Os, why));
            }
        }
    }
    if let Some(link) = passing.link.take() {
        link.close();
    }
    Ok(Exit::Ok)
}

/// The first connection: without it, there is no server for the client.
fn first(target: &Target, starter: Option<&Starter>) -> Result<Link, Failure> {
    let (end, mut pause) = (Instant::now() + STARTING, PAUSES.0);
    loop {
        let missing = match (open(target), starter) {
            (Ok(link), _) => return Ok(link),
            (Err(Missing::Absent(_)), Some(starter)) if Instant::now() < end => {
                starter.start()?;
                continue;
            }
            (Err(missing), _) => missing,
        };
        // Only an instance on this host is known to be just starting.
        let waits = matches!((&missing, &target.place), (Missing::Later(_), Place::Instance { .. }));
        if !waits || Instant::now() >= end {
            return Err(missing.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// One attempt to connect.
fn open(target: &Target) -> Result<Link, Missing> {
    let addresses = target.addresses()?;
    let token = target.token().map_err(Missing::Never)?;
    let mut outcome = Err(Missing::Later(String::new()));
    for address in &addresses {
        outcome = Link::open(address, token.as_deref());
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

impl Passing<'_> {
    /// Nothing more comes of it.
    fn is_done(&self) -> bool {
        self.is_over && self.relay.is_settled() && self.output.waiting() == 0 && !self.is_sending()
    }

    fn is_sending(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_full)
    }

    /// Waits until there is something to do, and does it.
    ///
    /// # Errors
    /// The client is gone.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let receives = self.output.waiting() < WAITING;
        let (from_client, from_link) = self.wait(receives)?;
        self.output.flush()?;
        if self.is_sending() {
            self.flush_link();
        }
        // The instance first: where it has closed, what the client says waits for another connection.
        if from_link {
            self.receive();
        }
        if from_client {
            self.hear(buffer)?;
        }
        match &mut self.link {
            // A link that is not read is silent for that reason.
            Some(link) if receives && Instant::now() >= link.due() => {
                if let Err(why) = link.look() {
                    self.lose(&why);
                }
            }
            Some(_) => {}
            None => {
                // An attempt takes its time.
                self.output.flush()?;
                self.connect_again();
            }
        }
        if let Some(end) = self.patience()
            && Instant::now() >= end
        {
            self.give_up(Instant::now() - PATIENCE);
        }
        self.output.flush()
    }

    /// Waits in poll(2). Whether the client, and whether the instance, has something to say.
    fn wait(&mut self, receives: bool) -> io::Result<(bool, bool)> {
        let listens = !self.is_over && !self.is_sending() && self.relay.held() < WAITING;
        let until = match &self.link {
            Some(link) if receives => Some(link.due()),
            Some(_) => None,
            None => Some(self.next_attempt),
        };
        let until = until.into_iter().chain(self.patience()).min();
        let left = until.map_or(u128::MAX, |until| until.saturating_duration_since(Instant::now()).as_millis() + 1);
        let limit = PollTimeout::try_from(left.min(60_000) as u32).unwrap_or(PollTimeout::MAX);
        let flags = |on: bool, flags: PollFlags| if on { flags } else { PollFlags::empty() };
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut fds = vec![PollFd::new(stdout.as_fd(), flags(self.output.waiting() > 0, PollFlags::POLLOUT))];
        // A descriptor that is not waited for is left out: its end would wake this program again and again.
        let mut add = |fd| {
            fds.push(fd);
            fds.len() - 1
        };
        let client = listens.then(|| add(PollFd::new(stdin.as_fd(), PollFlags::POLLIN)));
        let link = self.link.as_ref().filter(|link| receives || link.is_full).map(|link| {
            let wanted = flags(receives, PollFlags::POLLIN) | flags(link.is_full, PollFlags::POLLOUT);
            add(PollFd::new(link.fd(), wanted))
        });
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let seen = |at: usize| fds.get(at).and_then(|fd| fd.revents()).unwrap_or(PollFlags::empty());
        if seen(0).intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let has_something = |at: Option<usize>| at.is_some_and(|at| !seen(at).is_empty());
        Ok((has_something(client), has_something(link) && receives))
    }

    /// Reads what the client says.
    fn hear(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let n = match read(io::stdin(), buffer) {
            Ok(n) => n,
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut rest = &buffer[..n];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if self.input.is_empty() {
                self.line(line);
            } else {
                self.input.extend_from_slice(line);
                let line = std::mem::take(&mut self.input);
                self.line(&line);
            }
            rest = after;
        }
        self.input.extend_from_slice(rest);
        if n == 0 {
            self.is_over = true;
            // A last line without its end is one as well.
            let line = std::mem::take(&mut self.input);
            self.line(&line);
        }
        self.flush_link();
        Ok(())
    }

    /// A line of the client.
    fn line(&mut self, line: &[u8]) {
        let Ok(text) = std::str::from_utf8(line) else {
            return self.output.line(&jsonrpc::error(None, jsonrpc::PARSE_ERROR, "this line is not UTF-8"));
        };
        let text = text.trim();
        if !text.is_empty() {
            let steps = self.relay.from_client(text, Instant::now());
            self.take(steps);
        }
    }

    /// Reads what the instance says.
    fn receive(&mut self) {
        while let Some(link) = &mut self.link {
            match link.take() {
                Ok(Some(text)) => {
                    let steps = self.relay.from_server(&text);
                    self.take(steps);
                    if self.output.waiting() > WAITING {
                        break;
                    }
                }
                Ok(None) => break,
                Err(why) => return self.lose(&why),
            }
        }
        self.flush_link();
    }

    /// Does what is to be done with messages.
    fn take(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Say(text) => self.output.line(&text),
                Step::Leave(why) => return self.lose(&why),
                Step::Send(text) => {
                    if let Some(Err(why)) = self.link.as_mut().map(|link| link.put(text)) {
                        return self.lose(&why);
                    }
                }
            }
        }
    }

    fn flush_link(&mut self) {
        if let Some(Err(why)) = self.link.as_mut().map(Link::flush) {
            self.lose(&why);
        }
    }

    /// The connection is gone.
    fn lose(&mut self, why: &str) {
        let has_spoken = self.link.take().is_some_and(|link| link.has_spoken);
        let name = self.target.name();
        self.why = format!("the connection to {name} was lost: {why}");
        complain(&format!("{}; it is opened again", self.why));
        let steps = self.relay.lost(&format!("{}. This request may have run", self.why));
        self.take(steps);
        // A connection on which the instance has said nothing is not followed by another at once.
        if has_spoken {
            self.pause = PAUSES.0;
        }
        self.wait_a_while();
    }

    fn wait_a_while(&mut self) {
        self.next_attempt = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    /// Until when what the client has asked waits for a connection.
    fn patience(&self) -> Option<Instant> {
        self.relay.waits_since().map(|since| since + PATIENCE)
    }

    /// What was asked for before this time is answered by an error.
    fn give_up(&mut self, before: Instant) {
        let steps = self.relay.give_up(&self.why, before);
        self.take(steps);
    }

    /// Tries to connect if it is time.
    fn connect_again(&mut self) {
        if Instant::now() < self.next_attempt {
            return;
        }
        match open(self.target) {
            Ok(link) => return self.go_on(link),
            Err(Missing::Absent(why)) => {
                self.why = why;
                // An instance that was stopped is started again by a request alone.
                if let (Some(starter), Some(_)) = (self.starter, self.relay.waits_since())
                    && let Err(failure) = starter.start()
                {
                    self.why = failure.text;
                }
            }
            Err(Missing::Later(why)) => self.why = why,
            Err(Missing::Never(failure)) => {
                // To wait is of no use.
                self.why = failure.text;
                self.give_up(Instant::now());
            }
        }
        self.wait_a_while();
    }

    fn go_on(&mut self, link: Link) {
        self.link = Some(link);
        complain(&format!("connected to {} again", self.target.name()));
        let steps = self.relay.connected();
        self.take(steps);
        self.flush_link();
    }
}
