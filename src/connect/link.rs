//! The way to an instance: a WebSocket (RFC 6455), where one message is one text frame, in both directions; or, by a URL, a
//! session over Streamable HTTP ([`super::lines`]).

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use super::lines::Lines;
use super::target::{Address, At, Missing};
use crate::model::exit::{Exit, Failure, plain};
use crate::model::text::printable;

/// How long a connection may take to be there.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long the answer to the request for a WebSocket may take: a drain or a start may hold it back.
const OPENING: Duration = Duration::from_secs(10);
/// Who is silent for so long is asked whether it is there, and is not there if it goes on to be silent for so long.
const SILENCE: Duration = Duration::from_secs(30);

/// How much is read at a time, in bytes.
const READ_BUFFER: usize = 32 << 10;

/// A socket of either kind.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn open(at: &At) -> io::Result<Stream> {
        let stream = match at {
            At::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            At::Tcp(host) => {
                let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
                for address in host.to_socket_addrs()? {
                    outcome = TcpStream::connect_timeout(&address, CONNECTING);
                    if outcome.is_ok() {
                        break;
                    }
                }
                let stream = outcome?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            At::Url(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        stream.patience(Some(OPENING))?;
        Ok(stream)
    }

    fn patience(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
            Stream::Tcp(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s.set_nonblocking(true),
            Stream::Tcp(s) => s.set_nonblocking(true),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buffer),
            Stream::Tcp(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(bytes),
            Stream::Tcp(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(s) => s.as_fd(),
            Stream::Tcp(s) => s.as_fd(),
        }
    }
}

/// What a link is.
enum Way {
    Ws(Box<WebSocket<Stream>>),
    Http(Lines),
}

/// A link that is open.
pub(super) struct Link {
    way: Way,
    /// Something waits until the instance takes more.
    pub is_full: bool,
    /// A message has come.
    pub has_spoken: bool,
    heard: Instant,
    /// When it was asked whether the instance is there, and nothing was heard since.
    asked: Option<Instant>,
}

impl Link {
    /// Opens the one at this address, or waits for at most some seconds.
    pub(super) fn open(address: &Address, token: Option<&str>) -> Result<Link, Missing> {
        let (host, place) = match &address.at {
            At::Url(url) => return Lines::open(url, token).map(|lines| Link::new(Way::Http(lines))),
            At::Unix(path) => ("localhost", format!("unix:{}", path.display())),
            At::Tcp(host) => (host.as_str(), format!("http://{host}")),
        };
        let usage = |why: String| Missing::Never(Failure::new(Exit::Usage, format!("mcpdaemon: {place}: {why}")));
        let mut request =
            format!("ws://{host}{}", address.path).into_client_request().map_err(|e| usage(e.to_string()))?;
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| usage(e.to_string()))?;
            request.headers_mut().insert("authorization", value);
        }
        let later = |e: &io::Error| Missing::Later(format!("{place}: cannot connect: {}", plain(e)));
        let stream = Stream::open(&address.at).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => {
                let why = format!(
                    "{place}: you may not connect to it (its mode and owner stand behind its path in the instance file)"
                );
                Missing::Never(Failure::new(Exit::NoPermission, format!("mcpdaemon: {why}")))
            }
            _ => later(&e),
        })?;
        // What is too long is for the instance to say.
        let config =
            WebSocketConfig::default().max_message_size(None).max_frame_size(None).read_buffer_size(READ_BUFFER);
        let opened = tungstenite::client::client_with_config(request, stream, Some(config));
        let (ws, _) = opened.map_err(|e| match e {
            HandshakeError::Failure(Error::Http(response)) => refusal(&place, &address.path, &response),
            HandshakeError::Failure(Error::Io(e)) => later(&e),
            HandshakeError::Failure(e) => Missing::Later(format!("{place}: {e}")),
            HandshakeError::Interrupted(_) => {
                Missing::Later(format!("{place}: no answer within {} s", OPENING.as_secs()))
            }
        })?;
        let stream = ws.get_ref();
        stream.patience(None).and_then(|()| stream.set_nonblocking()).map_err(|e| later(&e))?;
        Ok(Link::new(Way::Ws(Box::new(ws))))
    }

    fn new(way: Way) -> Link {
        Link { way, is_full: false, has_spoken: false, heard: Instant::now(), asked: None }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Ws(ws) => ws.get_ref().as_fd(),
            Way::Http(lines) => lines.fd(),
        }
    }

    /// Adds a message, which [`Link::flush`] sends.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(super) fn put(&mut self, text: String) -> Result<(), String> {
        if let Way::Http(lines) = &mut self.way {
            lines.put(&text);
            return Ok(());
        }
        self.attempt(|ws| ws.write(Message::text(text)))
    }

    /// Sends what the instance takes.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        if let Way::Http(lines) = &mut self.way {
            self.is_full = lines.flush()?;
            return Ok(());
        }
        self.is_full = false;
        self.attempt(WebSocket::flush)
    }

    fn attempt(&mut self, work: impl FnOnce(&mut WebSocket<Stream>) -> Result<(), Error>) -> Result<(), String> {
        let Way::Ws(ws) = &mut self.way else { return Ok(()) };
        match work(ws) {
            Ok(()) => Ok(()),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                self.is_full = true;
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// The next message that has come; None if none has.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(super) fn take(&mut self) -> Result<Option<String>, String> {
        loop {
            let ws = match &mut self.way {
                Way::Ws(ws) => ws,
                Way::Http(lines) => {
                    let line = lines.take()?;
                    self.has_spoken |= line.is_some();
                    return Ok(line);
                }
            };
            match ws.read() {
                Ok(Message::Text(text)) => {
                    self.note_heard();
                    self.has_spoken = true;
                    return Ok(Some(text.as_str().to_owned()));
                }
                Ok(Message::Close(frame)) => {
                    let _ = ws.flush();
                    let why = frame.map(|f| printable(f.reason.as_str(), 200)).filter(|why| !why.is_empty());
                    return Err(why.unwrap_or_else(|| "it closed the connection".to_owned()));
                }
                Ok(_) => self.note_heard(),
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    fn note_heard(&mut self) {
        (self.heard, self.asked) = (Instant::now(), None);
    }

    /// When [`Link::look`] is due.
    pub(super) fn due(&self) -> Instant {
        match self.way {
            Way::Ws(_) => self.asked.unwrap_or(self.heard) + SILENCE,
            // The kernel looks after its connections (TCP_KEEPIDLE).
            Way::Http(_) => Instant::now() + SILENCE,
        }
    }

    /// Asks whether the instance is there if it has been silent for long.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn look(&mut self) -> Result<(), String> {
        match self.asked {
            _ if matches!(self.way, Way::Http(_)) => Ok(()),
            Some(asked) if asked.elapsed() >= SILENCE => {
                Err(format!("nothing was heard of it for {} s", self.heard.elapsed().as_secs()))
            }
            None if self.heard.elapsed() >= SILENCE => {
                self.asked = Some(Instant::now());
                self.attempt(|ws| ws.write(Message::Ping(Default::default())))?;
                self.flush()
            }
            _ => Ok(()),
        }
    }

    /// Says good-bye.
    pub(super) fn close(self) {
        match self.way {
            Way::Ws(mut ws) => {
                let _ = ws.close(None);
                let _ = ws.flush();
            }
            Way::Http(lines) => lines.close(),
        }
    }
}

/// What an HTTP answer says that is no WebSocket.
fn refusal(place: &str, path: &str, response: &tungstenite::http::Response<Option<Vec<u8>>>) -> Missing {
    let body = response.body().as_deref().unwrap_or_default();
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = parsed.and_then(|v| v["error"]["message"].as_str().map(|m| printable(m, 300)));
    let status = response.status();
    let said = said.unwrap_or_else(|| status.to_string());
    let good = |exit, hint: &str| Missing::Never(Failure::new(exit, format!("mcpdaemon: {place}{path}: {said}{hint}")));
    match status.as_u16() {
        401 => good(Exit::NoPermission, " (--token-file FILE names the file with your token)"),
        403 => good(Exit::NoPermission, ""),
        404 => good(Exit::Unavailable, ""),
        _ => Missing::Later(format!("{place}{path}: {said}")),
    }
}
