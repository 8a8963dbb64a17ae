//! What no bridge can be faster than: the same child on a bare pipe, bytes that come back over TCP, and HTTP requests that
//! are answered by who reads them. The last two are programs of their own, so that their processor time can be told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::client::{Measured, Place, Way, call};

/// The argument with which this program is such a limit.
pub const FLAG: &str = "--limit";

/// A limit that runs.
pub struct Limit {
    child: Child,
    pub place: Place,
}

impl Limit {
    /// Starts one: `tcp` or `http`.
    pub fn start(kind: &str) -> Limit {
        let me = std::env::current_exe().expect("this program");
        let mut child = Command::new(me).args([FLAG, kind]).stdout(Stdio::piped()).spawn().expect("a limit");
        let mut address = String::new();
        let out = child.stdout.take().expect("stdout");
        BufReader::new(out).read_line(&mut address).expect("its address");
        Limit { child, place: Place::server(address.trim(), "none") }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until it is killed.
pub fn serve(kind: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    println!("{}", listener.local_addr().expect("an address"));
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let key = |fd: i32| EpollEvent::new(EpollFlags::EPOLLIN, fd as u64);
    epoll.add(listener.as_fd(), key(listener.as_raw_fd())).expect("epoll");
    let mut all: HashMap<i32, (TcpStream, Vec<u8>)> = HashMap::new();
    let (mut events, mut buffer) = (vec![EpollEvent::empty(); 256], vec![0; 1 << 18]);
    loop {
        let n = epoll.wait(&mut events, EpollTimeout::NONE).expect("epoll");
        for event in &events[..n] {
            let number = event.data() as i32;
            let Some((stream, read)) = all.get_mut(&number) else {
                let (stream, _) = listener.accept().expect("accept");
                stream.set_nodelay(true).expect("nodelay");
                epoll.add(stream.as_fd(), key(stream.as_raw_fd())).expect("epoll");
                all.insert(stream.as_raw_fd(), (stream, Vec::new()));
                continue;
            };
            let n = stream.read(&mut buffer).unwrap_or(0);
            let written = match (n, kind) {
                (0, _) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                (_, "tcp") => stream.write_all(&buffer[..n]),
                _ => {
                    read.extend_from_slice(&buffer[..n]);
                    answer(stream, read)
                }
            };
            if written.is_err() {
                all.remove(&number);
            }
        }
    }
}

/// Answers the requests that are whole, as a child would.
fn answer(stream: &mut TcpStream, read: &mut Vec<u8>) -> std::io::Result<()> {
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"0123456789012345678901234567890123456789"}]}}"#;
    while let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) {
        let head = String::from_utf8_lossy(&read[..end]);
        let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let whole = end + length.unwrap_or(0usize);
        if read.len() < whole {
            return Ok(());
        }
        read.drain(..whole);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", RESULT.len());
        stream.write_all((head + RESULT).as_bytes())?;
    }
    Ok(())
}

/// The child on a bare pipe, with so many requests in flight.
pub fn pipe(echo: &str, in_flight: usize, time: Duration) -> Measured {
    let mut child = Command::new(echo).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the echo child");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut stdout = child.stdout.take().expect("stdout");
    let request = call(Way::WebSocket, 40) + "\n";
    let mut buffer = vec![0; 1 << 16];
    let mut times = Vec::new();
    let mut sent: std::collections::VecDeque<Instant> = std::collections::VecDeque::new();
    let start = Instant::now();
    let mut due = in_flight;
    loop {
        if due > 0 && (times.is_empty() || start.elapsed() < time) {
            sent.extend(std::iter::repeat_n(Instant::now(), due));
            stdin.write_all(request.repeat(due).as_bytes()).expect("write");
        }
        if sent.is_empty() {
            break;
        }
        let n = stdout.read(&mut buffer).expect("read");
        let now = Instant::now();
        due = buffer[..n].iter().filter(|b| **b == b'\n').count();
        times.extend(sent.drain(..due).map(|s| (now - s).as_secs_f64()));
    }
    let took = start.elapsed();
    drop(stdin);
    let _ = child.wait();
    Measured::of(times, took)
}
