//! A Streamable HTTP server for tests, whose answers each test says: what a server elsewhere may do right and wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::wait;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub head: String,
    /// Null where there was no body.
    pub body: Value,
    /// On which connection, counted from 0.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The method of the message in it.
    pub fn asks(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    /// The tool that is called.
    pub fn tool(&self) -> &str {
        if self.asks() == "tools/call" { self.body["params"]["name"].as_str().unwrap_or_default() } else { "" }
    }

    /// The response to it.
    pub fn result(&self, result: Value) -> String {
        json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result}).to_string()
    }

    /// The response to a call, with this text.
    pub fn says(&self, text: &str) -> String {
        self.result(json!({"content": [{"type": "text", "text": text}]}))
    }
}

/// What is to be answered.
pub enum Reply {
    /// As the simple server does that is no test's own.
    Usual,
    /// These bytes, after which the connection goes on.
    Bytes(String),
    /// These bytes, after which it is closed.
    Last(String),
    /// The handler has written by itself; the connection is closed.
    Done,
}

pub fn with_type(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub fn as_json(body: &str) -> Reply {
    Reply::Bytes(with_type("application/json", body))
}

pub fn as_events(body: &str) -> Reply {
    Reply::Bytes(with_type("text/event-stream", body))
}

/// A status line, more header lines, and a body.
pub fn status(line: &str, headers: &str, body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {line}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// The head of a stream that is written as it comes.
pub const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

type Handler = dyn Fn(&Seen, &mut TcpStream) -> Reply + Send + Sync;

/// A server that listens until it is dropped.
pub struct Upstream {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
}

impl Upstream {
    /// Listens on a free port.
    pub fn new(handler: impl Fn(&Seen, &mut TcpStream) -> Reply + Send + Sync + 'static) -> Upstream {
        Upstream::at("127.0.0.1:0", handler)
    }

    pub fn at(address: &str, handler: impl Fn(&Seen, &mut TcpStream) -> Reply + Send + Sync + 'static) -> Upstream {
        // The port may be that of one that was dropped a moment ago.
        let listener = wait("the port", || TcpListener::bind(address).ok());
        let address = listener.local_addr().unwrap().to_string();
        let (seen, over) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(AtomicBool::new(false)));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, ended) = (seen.clone(), over.clone());
        std::thread::spawn(move || {
            let count = AtomicUsize::new(0);
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(SeqCst) {
                    return;
                }
                let (handler, log, ended) = (handler.clone(), log.clone(), ended.clone());
                let number = count.fetch_add(1, SeqCst);
                std::thread::spawn(move || serve(stream, number, &*handler, &log, &ended));
            }
        });
        Upstream { address, seen, over }
    }

    /// The server of an instance file.
    pub fn server(&self, name: &str, more: &str) -> String {
        format!("\"{name}\": Http(url: \"http://{}/mcp\", {more})", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Those requests that ask for this.
    pub fn asked(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.asks() == method).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        // It waits for a connection.
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(stream: TcpStream, connection: usize, handler: &Handler, log: &Mutex<Vec<Seen>>, ended: &AtomicBool) {
    let mut out = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(seen) = request(&mut reader, connection) {
        if ended.load(SeqCst) {
            return;
        }
        log.lock().unwrap().push(seen.clone());
        let reply = match handler(&seen, &mut out) {
            Reply::Usual => usual_of(&seen),
            reply => reply,
        };
        let (bytes, goes_on) = match reply {
            Reply::Bytes(bytes) => (bytes, true),
            Reply::Last(bytes) => (bytes, false),
            Reply::Usual | Reply::Done => (String::new(), false),
        };
        if out.write_all(bytes.as_bytes()).is_err() || !goes_on {
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>, connection: usize) -> Option<Seen> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut first = head.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let seen = Seen { method, path, head, body: Value::Null, connection };
    let length = seen.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    Some(Seen { body, ..seen })
}

/// A server of the legacy era with a session and one tool, `echo`, that has no stream of its own.
pub fn usual_of(seen: &Seen) -> Reply {
    match (seen.method.as_str(), seen.asks()) {
        ("POST", "initialize") => {
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "logging": {},
                "resources": {"subscribe": true}}, "serverInfo": {"name": "elsewhere", "version": "1"}});
            let body = seen.result(result);
            let headers = "Content-Type: application/json\r\nMcp-Session-Id: session-1\r\n";
            status("200 OK", headers, &body)
        }
        ("POST", "tools/list") => {
            as_json(&seen.result(json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})))
        }
        ("POST", "tools/call") => as_json(&seen.says(seen.body["params"]["arguments"]["text"].as_str().unwrap_or("?"))),
        ("POST", "server/discover") => {
            let error =
                json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32601, "message": "unknown"}});
            as_json(&error.to_string())
        }
        ("POST", _) if seen.body["id"].is_null() || seen.body["method"].is_null() => status("202 Accepted", "", ""),
        ("POST", _) => as_json(&seen.result(json!({}))),
        ("DELETE", _) => status("204 No Content", "", ""),
        _ => status("405 Method Not Allowed", "", ""),
    }
}
