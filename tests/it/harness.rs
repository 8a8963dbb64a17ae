//! What all tests share: a scratch folder with its own run directory, the programs, and small clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Only a hang is slower.
pub const LONG: Duration = Duration::from_secs(30);

pub fn mcpdaemon() -> &'static str {
    env!("CARGO_BIN_EXE_mcpdaemon")
}

pub fn mcpctl() -> &'static str {
    env!("CARGO_BIN_EXE_mcpctl")
}

/// A program of tests/fake, built beside the tests.
pub fn example(name: &str) -> String {
    let bin = Path::new(mcpdaemon()).parent().unwrap().join("examples").join(name);
    assert!(bin.exists(), "{} is not built: run `cargo test`, which builds it", bin.display());
    bin.display().to_string()
}

pub fn fake() -> String {
    example("fake-server")
}

/// What a start of `t` says while it runs from the same file.
pub fn already_running(pid: i32) -> String {
    format!("t: already running (pid {pid}); 'mcpctl reload t' takes over what has changed\n")
}

/// Waits until `check` gives something; fails loudly after [`LONG`].
pub fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < LONG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether somebody listens at an address. A connection to a free port of one's own range can be one with itself
/// (tcp(7) calls that simultaneous open), and says nothing.
pub fn listens(address: &str) -> Option<()> {
    let stream = TcpStream::connect(address).ok()?;
    (stream.local_addr().ok()? != stream.peer_addr().ok()?).then_some(())
}

/// The longest that a test may take; chaos may be told to take ten minutes.
const LONGEST: Duration = Duration::from_secs(900);

/// A folder of its own for one test, with a run directory; at its end nothing of it may still run. With `MCP_TEST_KEEP`
/// set the folder stays, for who wants to read the logs.
pub struct Scratch {
    pub dir: tempfile::TempDir,
    /// Dropped at the end of the test, which the watch over its time waits for.
    _over: std::sync::mpsc::Sender<()>,
}

impl Scratch {
    pub fn new() -> Scratch {
        let (over, end) = std::sync::mpsc::channel();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // A test that hangs would hang the whole run, and nobody would learn which it was.
        std::thread::spawn(move || {
            if end.recv_timeout(LONGEST) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} has not ended within {LONGEST:?}; all tests are given up");
                std::process::exit(101);
            }
        });
        let mut dir = tempfile::tempdir().unwrap();
        dir.disable_cleanup(std::env::var_os("MCP_TEST_KEEP").is_some());
        Scratch { dir, _over: over }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// An instance file: listens on a free port, logs beside it, and has these servers.
    pub fn instance(&self, name: &str, servers: &str) -> PathBuf {
        self.instance_with(name, "", servers)
    }

    pub fn instance_with(&self, name: &str, more: &str, servers: &str) -> PathBuf {
        let log = self.path(&format!("{name}.log"));
        let listen = if more.contains("listen:") { "" } else { "listen: [\"127.0.0.1:0\"]," };
        let log = if more.contains("log:") { String::new() } else { format!("log: (file: {log:?}, level: Debug),") };
        self.write(&format!("{name}.ron"), &format!("({listen}\n{log}\n{more}\nservers: {{{servers}}})"))
    }

    /// A program with this scratch folder's surroundings.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("MCP_RUN_DIR", self.path("run"))
            .env("MCP_LOG_DIR", self.path("logs"))
            .env("MCP_STATE_DIR", self.path("state"))
            .env("HOME", self.dir.path())
            .env("MCP_ALLOW_ROOT", "1");
        for name in ["WS_PING_INTERVAL", "WS_PING_TIMEOUT", "WS_MAX_SIZE", "MCP_LISTEN", "MCP_NAME", "MCP_LOG_LEVEL"] {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        self.run(mcpctl(), args)
    }

    /// Starts an instance in the background and expects it to be ready.
    pub fn start(&self, file: &Path) -> Daemon<'_> {
        let out = self.run(mcpdaemon(), &["-c", &file.display().to_string()]);
        assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
        self.started(&stdout(&out))
    }

    /// The instance that a start line speaks of.
    pub fn started(&self, line: &str) -> Daemon<'_> {
        let (name, rest) = line.split_once(": ready on ").unwrap_or_else(|| panic!("no start line: {line}"));
        let (urls, rest) = rest.split_once(" (pid ").unwrap();
        let pid = rest.split([',', ')']).next().unwrap().parse().unwrap();
        let url = urls.split(", ").next().unwrap().to_owned();
        Daemon { scratch: self, name: name.to_owned(), pid, url }
    }

    /// One server `fake` with these flags, started.
    pub fn fake(&self, flags: &[&str]) -> Daemon<'_> {
        self.start(&self.instance("t", &stdio("fake", flags, "")))
    }

    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Processes whose environment shows that they belong to this scratch folder.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("{}", self.dir.path().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let Ok(environ) = std::fs::read(entry.path().join("environ")) else { continue };
            if pid != std::process::id() as i32 && String::from_utf8_lossy(&environ).contains(&mark) {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Lines of logs that say that a task has held its thread for too long (`rt/task.rs`).
    fn long_steps(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        let logs =
            files.map(|f| f.path()).filter(|path| path.is_file() && path.extension().is_some_and(|e| e == "log"));
        let text: String = logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        text.lines().filter(|l| l.contains(" held its thread for ")).map(str::to_owned).collect()
    }

    /// Waits until nothing of this folder runs any more.
    pub fn gone(&self) {
        let start = Instant::now();
        while !self.processes().is_empty() {
            assert!(start.elapsed() < LONG, "still running: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = self.processes();
        for (pid, _) in &left {
            // SAFETY: a plain system call; the process was started by this test, as its environment shows.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        if !std::thread::panicking() {
            assert_eq!(self.long_steps(), [""; 0], "they kept other tasks waiting");
            assert!(left.is_empty(), "left running: {left:?}\n{}", self.file("t.log"));
        } else {
            eprintln!("--- log\n{}", self.file("t.log"));
        }
    }
}

/// A line of the file of tokens.
pub fn token_line(name: &str, token: &str) -> String {
    use sha2::Digest;
    format!("{name} {}\n", data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(token)))
}

/// `"name": Stdio(command: [fake, flags...], more)`.
pub fn stdio(name: &str, flags: &[&str], more: &str) -> String {
    let words: Vec<String> =
        std::iter::once(fake().as_str()).chain(flags.iter().copied()).map(|w| format!("{w:?}")).collect();
    format!("\"{name}\": Stdio(command: [{}], {more}),", words.join(", "))
}

/// Copies a program. By cp(1): were the copy written here, a process that another test begins meanwhile would have it open for
/// writing, and it could not be executed (execve(2), ETXTBSY).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").arg("-p").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", from.as_ref().display());
}

pub fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}

pub fn alive(pid: i32) -> bool {
    // A zombie is not alive: a container's first process may never reap it.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: a plain system call on a process that the test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "kill {pid} {signal}");
}

/// A started instance; stopped at the end if the test has not done so.
pub struct Daemon<'s> {
    pub scratch: &'s Scratch,
    pub name: String,
    pub pid: i32,
    pub url: String,
}

impl Daemon<'_> {
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn status(&self) -> Value {
        let out = self.scratch.ctl(&["status", "--json", &self.name]);
        let all: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        all["instances"][0]["status"].clone()
    }

    pub fn server(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["servers"].as_array().and_then(|all| all.iter().find(|s| s["name"] == name).cloned());
        found.unwrap_or_else(|| panic!("no server {name} in {status}"))
    }

    pub fn child(&self, name: &str) -> i32 {
        self.server(name)["pids"][0].as_i64().map_or(0, |p| p as i32)
    }

    pub fn dropped(&self, what: &str) -> u64 {
        self.status()["dropped"][what].as_u64().unwrap()
    }

    /// The log, with everything that was said by now: a thread writes it, which sleeps once it has done so.
    pub fn log(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let of = |task: &Path, file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        if let Some(task) = tasks.map(|task| task.path()).find(|task| of(task, "comm") == "log\n") {
            wait("the log", || {
                let stat = of(&task, "stat");
                let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
                // A daemon that was stopped writes nothing.
                state.is_none_or(|state| "STtZX".contains(state)).then_some(())
            });
        }
        self.scratch.file(&format!("{}.log", self.name))
    }

    pub fn stop(&self) {
        let out = self.scratch.ctl(&["stop", &self.name]);
        assert!(out.status.success(), "{}{}", stderr(&out), self.log());
        self.scratch.gone();
    }

    pub fn http(&self, server: &str) -> Http {
        Http::open(self.address(), server)
    }

    pub fn ws(&self, server: &str) -> Ws {
        Ws::open(self.address(), &format!("/servers/{server}/ws"))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if alive(self.pid) && !std::thread::panicking() {
            self.stop();
        }
    }
}

/// One HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// The one message of the body, or the last one of an event stream, which an answer that took long is.
    pub fn json(&self) -> Value {
        if self.header("content-type").as_deref() == Some("text/event-stream") {
            return self.messages().pop().unwrap_or_else(|| panic!("no message: {self:?}"));
        }
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The messages of an event stream, or the one of a plain body.
    pub fn messages(&self) -> Vec<Value> {
        if self.header("content-type").as_deref() == Some("text/event-stream") {
            let data = self.body.lines().filter_map(|l| l.strip_prefix("data: "));
            return data.map(|d| serde_json::from_str(d).unwrap()).collect();
        }
        vec![self.json()]
    }
}

/// A raw connection, for requests that no client library would send.
pub struct Raw {
    pub reader: BufReader<TcpStream>,
    /// Events that came in one chunk with another.
    events: std::collections::VecDeque<Value>,
}

impl Raw {
    pub fn open(address: &str) -> Raw {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { reader: BufReader::new(stream), events: Default::default() }
    }

    pub fn send(&mut self, text: &[u8]) {
        let _ = self.reader.get_mut().write_all(text);
    }

    /// The head of the next response.
    pub fn head(&mut self) -> Response {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            let n = self.reader.read_line(&mut line).unwrap_or(0);
            if n == 0 || line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Response { status, head, body: String::new() }
    }

    pub fn response(&mut self) -> Response {
        let mut response = self.head();
        if let Some(length) = response.header("content-length").and_then(|l| l.parse::<usize>().ok()) {
            let mut body = vec![0; length];
            self.reader.read_exact(&mut body).unwrap();
            response.body = String::from_utf8(body).unwrap();
        } else if response.header("transfer-encoding").as_deref() == Some("chunked") {
            // Heartbeats keep the read from timing out.
            let until = Instant::now() + 3 * LONG;
            while let Some(chunk) = self.chunk() {
                response.body.push_str(&chunk);
                assert!(Instant::now() < until, "no end within {:?}: {response:?}", 3 * LONG);
            }
        }
        response
    }

    /// The next chunk of a chunked body; None at its end.
    pub fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The rest until the peer closes, which it must.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        if let Err(e) = self.reader.read_to_end(&mut rest) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "the peer did not close");
        }
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// The next message of an event stream that was opened by GET.
    pub fn event(&mut self) -> Option<Value> {
        // Heartbeats keep the read from timing out.
        let until = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < until, "no event within {LONG:?}");
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let chunk = self.chunk()?;
            let data = chunk.lines().filter_map(|l| l.strip_prefix("data: "));
            self.events.extend(data.map(|d| serde_json::from_str::<Value>(d).unwrap()));
        }
    }
}

pub const ACCEPT: &str = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";

pub fn get(address: &str, path: &str) -> Response {
    let mut raw = Raw::open(address);
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes());
    raw.response()
}

pub fn initialize(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}})
}

pub fn call(id: impl Into<Value>, tool: &str, args: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": tool, "arguments": args}})
}

/// The text of a tool result.
pub fn said(message: &Value) -> &str {
    message["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {message}"))
}

/// A Streamable HTTP session on one connection.
pub struct Http {
    pub address: String,
    pub path: String,
    pub session: String,
    /// The one kind of answer that it accepts, instead of both.
    pub accept: Option<&'static str>,
    pub raw: Raw,
}

impl Http {
    pub fn open(address: &str, server: &str) -> Http {
        Http::open_at(address, &format!("/servers/{server}/mcp"))
    }

    pub fn open_at(address: &str, path: &str) -> Http {
        let mut http = Http {
            address: address.to_owned(),
            path: path.to_owned(),
            session: String::new(),
            accept: None,
            raw: Raw::open(address),
        };
        let answer = http.post(&initialize(json!(0)).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        http.session = answer.header("mcp-session-id").expect("a session id");
        let done = http.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!((done.status, done.body.as_str()), (202, ""));
        http
    }

    /// Another connection of the same session.
    pub fn again(&self) -> Http {
        Http {
            address: self.address.clone(),
            path: self.path.clone(),
            session: self.session.clone(),
            accept: self.accept,
            raw: Raw::open(&self.address),
        }
    }

    pub fn send(&mut self, body: &str) {
        self.begin(body, body.len());
    }

    /// The first part of a request whose body is of so many bytes.
    pub fn begin(&mut self, body: &str, length: usize) {
        let session = match self.session.as_str() {
            "" => String::new(),
            id => format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n"),
        };
        let accept = self
            .accept
            .map_or(ACCEPT.to_owned(), |kind| format!("Content-Type: application/json\r\nAccept: {kind}\r\n"));
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\n{accept}{session}Content-Length: {}\r\n\r\n",
            self.path, self.address, length
        );
        self.raw.send(&[head.as_bytes(), body.as_bytes()].concat());
    }

    pub fn post(&mut self, body: &str) -> Response {
        self.send(body);
        self.raw.response()
    }

    /// A request and its answer.
    pub fn ask(&mut self, request: &Value) -> Value {
        let answer = self.post(&request.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.messages().pop().unwrap()
    }

    /// A request without a body, on a connection of its own.
    pub fn bare(&self, method: &str) -> Raw {
        let mut raw = Raw::open(&self.address);
        let head = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {}\r\n\r\n",
            self.path, self.address, self.session
        );
        raw.send(head.as_bytes());
        raw
    }

    /// The stream for messages that answer no request.
    pub fn stream(&self) -> Raw {
        let mut raw = self.bare("GET");
        let head = raw.head();
        assert_eq!(head.status, 200, "{head:?}");
        raw
    }
}

/// A POST on a connection of its own, with these header lines.
pub fn post(address: &str, path: &str, headers: &str, body: &str) -> Response {
    let mut raw = Raw::open(address);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    raw.send(&[head.as_bytes(), body.as_bytes()].concat());
    raw.response()
}

/// A WebSocket client.
pub struct Ws {
    pub socket: tungstenite::WebSocket<TcpStream>,
    pub response: tungstenite::http::Response<Option<Vec<u8>>>,
}

impl Ws {
    pub fn open(address: &str, path: &str) -> Ws {
        Ws::try_open(address, path, &[("Sec-WebSocket-Protocol", "mcp")]).unwrap()
    }

    pub fn try_open(address: &str, path: &str, headers: &[(&'static str, &str)]) -> Result<Ws, tungstenite::Error> {
        use tungstenite::client::IntoClientRequest;
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (key, value) in headers {
            request.headers_mut().insert(*key, value.parse().unwrap());
        }
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut config = tungstenite::protocol::WebSocketConfig::default();
        (config.max_message_size, config.max_frame_size) = (None, None);
        let (socket, response) =
            tungstenite::client::client_with_config(request, stream, Some(config)).map_err(|e| match e {
                tungstenite::HandshakeError::Failure(e) => e,
                other => panic!("{other}"),
            })?;
        Ok(Ws { socket, response })
    }

    /// A read with a time limit is interrupted by the end of a child that another test has just started.
    fn read(&mut self) -> Result<tungstenite::Message, tungstenite::Error> {
        loop {
            match self.socket.read() {
                Err(tungstenite::Error::Io(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    pub fn send(&mut self, text: &str) {
        self.socket.send(tungstenite::Message::text(text)).unwrap();
    }

    /// The next text message; None once the connection is closed.
    pub fn next(&mut self) -> Option<Value> {
        // Pings keep the read from timing out.
        let until = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < until, "no message within {LONG:?}");
            match self.read() {
                Ok(tungstenite::Message::Text(text)) => return Some(serde_json::from_str(text.as_str()).unwrap()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(&request.to_string());
        self.next().expect("an answer")
    }

    /// The code of the close frame that ends the connection.
    pub fn close_code(&mut self) -> Option<u16> {
        let until = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < until, "not closed within {LONG:?}");
            match self.read() {
                Ok(tungstenite::Message::Close(frame)) => return frame.map(|f| f.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

/// A small generator (xorshift): the same numbers for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
