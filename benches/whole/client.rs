//! Clients of all ways in, many of them in one thread, each with some requests in flight.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// A way in, or a limit: what no bridge can be faster than.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Bytes that come back as they are.
    Tcp,
    /// HTTP requests that are answered by who reads them.
    InPlace,
    WebSocket,
    Bridge,
    Http,
    /// Streamable HTTP of revision 2026-07-28.
    Modern,
    Sse,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Tcp => "raw TCP",
            Way::InPlace => "HTTP in place",
            Way::WebSocket => "WebSocket",
            Way::Bridge => "bridge",
            Way::Http => "HTTP",
            Way::Modern => "modern HTTP",
            Way::Sse => "HTTP+SSE",
        }
    }
}

/// Where to connect.
#[derive(Clone)]
pub struct Place {
    pub address: String,
    /// The path of Streamable HTTP, of WebSocket and of HTTP+SSE.
    pub http: String,
    pub ws: String,
    pub sse: String,
}

impl Place {
    /// A server of the daemon.
    pub fn server(address: &str, name: &str) -> Place {
        let path = |end: &str| format!("/servers/{name}/{end}");
        Place { address: address.to_owned(), http: path("mcp"), ws: path("ws"), sse: path("sse") }
    }

    /// The bridge of the daemon.
    pub fn bridge(address: &str) -> Place {
        Place { address: address.to_owned(), http: "/mcp".into(), ws: "/ws/mcp".into(), sse: "/sse".into() }
    }
}

/// A session with its connections.
pub struct Session {
    way: Way,
    reader: TcpStream,
    /// Where requests go, if not to the same connection.
    writer: Option<TcpStream>,
    request: Vec<u8>,
    /// What ends the session, where its connection does not.
    goodbye: Option<Vec<u8>>,
    read: Vec<u8>,
    /// When each request was sent that is in flight.
    sent: std::collections::VecDeque<Instant>,
}

/// The text of a call: with it, the call has about a hundred bytes.
pub const SMALL: usize = 40;

pub const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;

/// A call whose text has so many bytes.
pub fn call(way: Way, length: usize) -> String {
    let (tool, meta) = match way {
        Way::Bridge => ("echo__echo", ""),
        Way::Modern => (
            "echo",
            r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}},"#,
        ),
        _ => ("echo", ""),
    };
    let text = "0123456789".repeat(length.div_ceil(10));
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{meta}"name":"{tool}","arguments":{{"text":"{}"}}}}}}"#,
        &text[..length]
    )
}

/// A POST.
fn post(address: &str, path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Reads until `whole` finds what it wants.
fn read_until<T>(stream: &mut TcpStream, mut whole: impl FnMut(&[u8]) -> Option<T>) -> T {
    let (mut read, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let n = stream.read(&mut buffer).expect("read");
        assert!(n > 0, "a connection was closed: {}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&buffer[..n]);
        if let Some(found) = whole(&read) {
            return found;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

/// A masked text frame (RFC 6455 section 5.2); a mask of zeros is a mask.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        n @ ..=125 => frame.push(0x80 | n as u8),
        n @ ..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// A connected WebSocket.
pub fn websocket(address: &str, path: &str) -> TcpStream {
    let mut stream = connect(address);
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mcp\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("write");
    read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n").then_some(()));
    stream
}

/// A text frame of a client.
pub fn send_text(stream: &mut TcpStream, text: &str) {
    stream.write_all(&frame(text)).expect("write");
}

/// The next message of a WebSocket.
pub fn message(stream: &mut TcpStream) -> String {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("read");
    let mut more = [0; 8];
    let more = match head[1] {
        126 => &mut more[..2],
        127 => &mut more[..],
        _ => &mut more[..0],
    };
    stream.read_exact(more).expect("read");
    let long = more.iter().fold(0, |n, b| n << 8 | usize::from(*b));
    let mut text = vec![0; if more.is_empty() { head[1].into() } else { long }];
    stream.read_exact(&mut text).expect("read");
    let text = String::from_utf8(text).expect("text");
    // A long one comes in pieces (RFC 6455 section 5.4).
    if head[0] & 0x80 != 0 { text } else { text + &message(stream) }
}

impl Session {
    /// Opens one, whose requests have texts of `length` bytes.
    pub fn open(way: Way, place: &Place, length: usize) -> Session {
        let address = &place.address;
        let text = call(way, length);
        let (mut reader, mut writer, mut goodbye) = (None, None, None);
        let request = match way {
            Way::Tcp => frame(&text),
            Way::InPlace => post(address, "/", "", &text),
            Way::WebSocket | Way::Bridge => {
                reader = Some(websocket(address, &place.ws));
                frame(&text)
            }
            Way::Http => {
                let mut stream = connect(address);
                let id = shake_hands(&mut stream, place);
                reader = Some(stream);
                let path = &place.http;
                goodbye =
                    Some(format!("DELETE {path} HTTP/1.1\r\nHost: {address}\r\nMcp-Session-Id: {id}\r\n\r\n").into());
                http_call(place, &id, &text)
            }
            Way::Modern => {
                let more = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";
                post(address, &place.http, more, &text)
            }
            Way::Sse => {
                let mut stream = connect(address);
                let head =
                    format!("GET {} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n", place.sse);
                stream.write_all(head.as_bytes()).expect("write");
                let path = read_until(&mut stream, |read| {
                    let at = find(read, b"data: /")? + 6;
                    let end = at + find(&read[at..], b"\n\n")?;
                    Some(String::from_utf8_lossy(&read[at..end]).into_owned())
                });
                (reader, writer) = (Some(stream), Some(connect(address)));
                post(address, &path, "", &text)
            }
        };
        let reader = reader.unwrap_or_else(|| connect(address));
        Session { way, reader, writer, request, goodbye, read: Vec::new(), sent: Default::default() }
    }

    /// The session alone: without the connection on which it would ask, where that is another one.
    pub fn without_writer(mut self) -> Session {
        self.writer = None;
        self
    }

    /// Ends it.
    pub fn leave(mut self) {
        if let Some(goodbye) = self.goodbye.take() {
            self.reader.write_all(&goodbye).expect("write");
            read_until(&mut self.reader, |read| read.ends_with(b"\r\n\r\n").then_some(()));
        }
    }

    /// Several connections of one session of Streamable HTTP.
    pub fn open_http(place: &Place, length: usize, connections: usize) -> Vec<Session> {
        let mut first = connect(&place.address);
        let id = shake_hands(&mut first, place);
        let request = http_call(place, &id, &call(Way::Http, length));
        let others = (1..connections).map(|_| connect(&place.address));
        let session = |reader| Session {
            way: Way::Http,
            reader,
            writer: None,
            request: request.clone(),
            goodbye: None,
            read: Vec::new(),
            sent: Default::default(),
        };
        std::iter::once(first).chain(others).map(session).collect()
    }

    fn send(&mut self, times: usize) {
        let now = Instant::now();
        self.sent.extend(std::iter::repeat_n(now, times));
        let stream = self.writer.as_mut().unwrap_or(&mut self.reader);
        let bytes = if times == 1 { &self.request } else { &self.request.repeat(times) };
        stream.write_all(bytes).expect("write");
    }

    /// How long the whole answer at the beginning of `bytes` is; None while it is incomplete.
    fn answer(&self, bytes: &[u8]) -> Option<usize> {
        match self.way {
            Way::Tcp => (bytes.len() >= self.request.len()).then_some(self.request.len()),
            Way::InPlace | Way::Http | Way::Modern => http_answer(bytes),
            Way::Sse => {
                // Comments and the like belong to the event behind them, chunk heads as well.
                let at = find(bytes, b"event: message")?;
                let end = at + find(&bytes[at..], b"\n\n")? + 2;
                assert!(find(&bytes[at..end], b"\"error\"").is_none(), "{}", String::from_utf8_lossy(&bytes[at..end]));
                Some(end)
            }
            Way::WebSocket | Way::Bridge => {
                let (head, length) = match bytes.get(1)? {
                    126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize),
                    127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
                    n => (2, usize::from(*n)),
                };
                (bytes.len() >= head + length).then_some(head + length)
            }
        }
    }
}

fn http_call(place: &Place, id: &str, text: &str) -> Vec<u8> {
    let more = format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    post(&place.address, &place.http, &more, text)
}

/// The id of a new session of Streamable HTTP.
fn shake_hands(stream: &mut TcpStream, place: &Place) -> String {
    stream.write_all(&post(&place.address, &place.http, "", HELLO)).expect("write");
    read_until(stream, |read| {
        http_answer(read)?;
        let head = String::from_utf8_lossy(read);
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut ids = lines.filter(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id")).map(|(_, id)| id);
        Some(ids.next().unwrap_or_else(|| panic!("no session: {head}")).to_owned())
    })
}

fn http_answer(bytes: &[u8]) -> Option<usize> {
    let end = find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..end];
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(head));
    let digits = head[find(head, b"content-length: ")? + 16..].iter().take_while(|b| b.is_ascii_digit());
    let length = digits.fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
    (bytes.len() >= end + length).then_some(end + length)
}

/// What a load came to.
pub struct Measured {
    pub calls: usize,
    pub took: Duration,
    /// Of one call, in microseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Measured {
    /// The figures of calls that took these times, in seconds.
    pub fn of(mut times: Vec<f64>, took: Duration) -> Measured {
        times.sort_by(f64::total_cmp);
        let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize] * 1e6;
        Measured { calls: times.len(), took, p50: at(0.5), p99: at(0.99) }
    }

    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }
}

/// Keeps so many requests of each session in flight for some time.
pub fn load(sessions: &mut [Session], in_flight: usize, time: Duration) -> Measured {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    // By descriptor: whose it is, and whether answers come on it.
    let mut of: Vec<(usize, bool)> = Vec::new();
    for (at, session) in sessions.iter().enumerate() {
        let streams = [(Some(&session.reader), true), (session.writer.as_ref(), false)];
        for (stream, reads) in streams.iter().filter_map(|(s, r)| s.map(|s| (s, *r))) {
            let number = stream.as_raw_fd() as usize;
            epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).expect("epoll");
            of.resize(of.len().max(number + 1), (0, false));
            of[number] = (at, reads);
        }
    }
    let (mut events, mut chunk) = (vec![EpollEvent::empty(); 256], vec![0; 1 << 18]);
    let mut times: Vec<f64> = Vec::new();
    let start = Instant::now();
    sessions.iter_mut().for_each(|session| session.send(in_flight));
    let mut open = sessions.len() * in_flight;
    while open > 0 {
        let n = epoll.wait(&mut events, EpollTimeout::from(10_000u16)).expect("epoll");
        assert!(n > 0, "no answer for ten seconds");
        for event in &events[..n] {
            let (at, reads) = of[event.data() as usize];
            let session = &mut sessions[at];
            if !reads {
                // The answers to POSTs of HTTP+SSE, which say nothing.
                let n = session.writer.as_mut().map_or(0, |stream| stream.read(&mut chunk).expect("read"));
                assert!(n > 0, "a connection was closed");
                continue;
            }
            let n = session.reader.read(&mut chunk).expect("read");
            assert!(n > 0, "a connection was closed");
            session.read.extend_from_slice(&chunk[..n]);
            let (mut used, mut answers) = (0, 0);
            while let Some(length) = session.answer(&session.read[used..]) {
                used += length;
                answers += 1;
                let sent = session.sent.pop_front().expect("an answer to a request");
                times.push(sent.elapsed().as_secs_f64());
            }
            session.read.drain(..used);
            open -= answers;
            if answers > 0 && start.elapsed() < time {
                session.send(answers);
                open += answers;
            }
        }
    }
    Measured::of(times, start.elapsed())
}
