//! A minute in the life of one service of three instances behind Debian's haproxy: clients of every kind go on while the
//! instances are stopped, exchanged in place, killed and started again in turn. `MCP_TEST_TRIAL` is the time in seconds, a
//! minute if it is not set; `tests/trial` runs it for five minutes.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;
use crate::proxies::{MORE, Proxy, free_port};
use crate::real::{Client, deps};

/// So many clients of each kind; of Streamable HTTP, so many of them are official ones.
const CLIENTS: usize = 32;
const OFFICIAL: usize = 4;
/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(200);
/// The balancer may be so late with the answer to a request whose instance was killed.
const LATE: Duration = Duration::from_secs(1);
const KINDS: [&str; 4] = ["legacy HTTP", "modern HTTP", "HTTP+SSE", "WebSocket"];

/// A call that was taken and not answered, or answered with an error of the balancer.
#[derive(Debug)]
#[expect(dead_code, reason = "for who reads what a failure says")]
struct Lost {
    kind: &'static str,
    sent: Instant,
    known: Instant,
    /// What the client was told.
    why: String,
}

struct Trial {
    address: String,
    over: AtomicBool,
    answered: [AtomicU64; 4],
    lost: Mutex<Vec<Lost>>,
    /// What must not be: a session that is lost, a wrong answer.
    faults: Mutex<Vec<String>>,
    /// How many responses of each class clients have had, by the first digit of their status.
    classes: Mutex<BTreeMap<u16, u64>>,
}

/// Ends the clients, also when the test fails.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// How a call went.
enum Went {
    Answered(Value),
    /// Not taken: it is sent again.
    Refused,
    Lost(String),
}

impl Trial {
    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// Reads a response; None if the connection ends before it is whole.
    fn response(&self, raw: &mut Raw) -> Option<Response> {
        let mut response = self.head(raw)?;
        let length = response.header("content-length").map(|l| l.parse::<usize>().unwrap());
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                raw.reader.read_exact(&mut body).ok()?;
            }
            None if response.header("transfer-encoding").is_some() => {
                while let Some(chunk) = chunk(raw)? {
                    body.extend_from_slice(&chunk);
                }
            }
            None => {}
        }
        response.body = String::from_utf8(body).unwrap();
        Some(response)
    }

    /// The head of a response, which counts.
    fn head(&self, raw: &mut Raw) -> Option<Response> {
        let head = raw.head();
        if head.status == 0 {
            return None;
        }
        *self.classes.lock().unwrap().entry(head.status / 100).or_default() += 1;
        Some(head)
    }

    fn post(&self, raw: &mut Raw, path: &str, headers: &str, body: &Value) -> Option<Response> {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{ACCEPT}{headers}", self.address);
        raw.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        self.response(raw)
    }

    /// Calls again and again, until the trial is over; `ask` gets what the client has kept, if anything.
    fn client<S>(&self, kind: usize, n: usize, ask: impl Fn(&Trial, &mut Option<S>, &str) -> Went) {
        let mut kept = None;
        for count in 0.. {
            if self.over.load(SeqCst) {
                return;
            }
            let text = format!("{n} {count}");
            let sent = Instant::now();
            match ask(self, &mut kept, &text) {
                Went::Answered(answer) if answer["result"]["content"][0]["text"] == *text => {
                    self.answered[kind].fetch_add(1, SeqCst);
                }
                // What comes when a drain has begun is refused, and was not run.
                Went::Answered(answer) if answer["error"]["message"] == "the daemon is shutting down" => {}
                Went::Answered(answer) => self.fault(format!("{} {text}: {answer}", KINDS[kind])),
                Went::Refused => {}
                Went::Lost(why) => {
                    let lost = Lost { kind: KINDS[kind], sent, known: Instant::now(), why };
                    self.lost.lock().unwrap().push(lost);
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The next chunk of a body; Some(None) at its end, None if the connection ends before.
#[expect(clippy::option_option, reason = "two kinds of end")]
fn chunk(raw: &mut Raw) -> Option<Option<Vec<u8>>> {
    let mut line = String::new();
    std::io::BufRead::read_line(&mut raw.reader, &mut line).ok()?;
    let length = usize::from_str_radix(line.trim(), 16).ok()?;
    let mut chunk = vec![0; length + 2];
    raw.reader.read_exact(&mut chunk).ok()?;
    chunk.truncate(length);
    Some((length > 0).then_some(chunk))
}

fn echo(text: &str) -> Value {
    call(1, "echo", json!({"text": text}))
}

/// What a client of Streamable HTTP makes of a response to a call.
fn outcome(response: Option<Response>) -> Went {
    match response {
        Some(r) if r.status == 200 => Went::Answered(r.json()),
        Some(r) if [502, 503, 504].contains(&r.status) => Went::Lost(format!("status {}", r.status)),
        Some(r) => Went::Answered(json!({"status": r.status, "body": r.body})),
        None => Went::Lost("the connection ended".to_owned()),
    }
}

/// A session, opened once: nothing but its id is kept when a connection ends.
fn legacy(trial: &Trial, kept: &mut Option<(String, Option<Raw>)>, text: &str) -> Went {
    const PATH: &str = "/gw/servers/fake/mcp";
    let Some((id, raw)) = kept else {
        let mut raw = Raw::open(&trial.address);
        let opened = trial.post(&mut raw, PATH, "", &initialize(json!(0)));
        if let Some(id) = opened.filter(|r| r.status == 200).and_then(|r| r.header("mcp-session-id")) {
            *kept = Some((id, Some(raw)));
        }
        return Went::Refused;
    };
    let headers = format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    let response = trial.post(raw.get_or_insert_with(|| Raw::open(&trial.address)), PATH, &headers, &echo(text));
    if response.as_ref().is_none_or(|r| r.status != 200) {
        *raw = None;
    }
    outcome(response)
}

fn modern(trial: &Trial, kept: &mut Option<Raw>, text: &str) -> Went {
    let mut request = echo(text);
    request["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}});
    let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";
    let raw = kept.get_or_insert_with(|| Raw::open(&trial.address));
    let response = trial.post(raw, "/gw/servers/fake/mcp", headers, &request);
    if response.as_ref().is_none_or(|r| r.status != 200) {
        *kept = None;
    }
    outcome(response)
}

/// A stream, and where to post; both are opened anew when the stream ends.
fn sse(trial: &Trial, kept: &mut Option<(Raw, String)>, text: &str) -> Went {
    let event = |stream: &mut Raw| {
        loop {
            let text = String::from_utf8(chunk(stream)??).unwrap();
            let data = text.lines().find_map(|l| l.strip_prefix("data: "));
            if let Some(data) = data.map(str::to_owned) {
                return Some(data);
            }
        }
    };
    let ask = |stream: &mut Raw, path: &str, request: &Value| {
        let posted = trial.post(&mut Raw::open(&trial.address), path, "Connection: close\r\n", request);
        if posted.is_none_or(|r| r.status != 202) {
            return Went::Refused;
        }
        match event(stream) {
            Some(data) => Went::Answered(serde_json::from_str(&data).unwrap()),
            None => Went::Lost("the stream ended".to_owned()),
        }
    };
    let Some((stream, path)) = kept else {
        let mut stream = Raw::open(&trial.address);
        let head = format!("GET /gw/servers/fake/sse HTTP/1.1\r\nHost: {}\r\n\r\n", trial.address);
        stream.send(head.as_bytes());
        let opened = trial.head(&mut stream).filter(|head| head.status == 200);
        if let Some(path) = opened.and_then(|_| event(&mut stream))
            && matches!(ask(&mut stream, &path, &initialize(json!(0))), Went::Answered(_))
        {
            *kept = Some((stream, path));
        }
        return Went::Refused;
    };
    let went = ask(stream, path, &echo(text));
    if !matches!(went, Went::Answered(_)) {
        *kept = None;
    }
    went
}

fn websocket(trial: &Trial, kept: &mut Option<Ws>, text: &str) -> Went {
    use tungstenite::{Error, Message};
    let next = |ws: &mut Ws| loop {
        match ws.socket.read() {
            Ok(Message::Text(text)) => return Went::Answered(serde_json::from_str(text.as_str()).unwrap()),
            // It says that it goes, and takes nothing any more: what was sent at the same time is sent again.
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001 => return Went::Refused,
            Ok(_) => {}
            Err(Error::Io(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Went::Lost(e.to_string()),
        }
    };
    let Some(ws) = kept else {
        match Ws::try_open(&trial.address, "/gw/servers/fake/ws", &[("Sec-WebSocket-Protocol", "mcp")]) {
            Ok(mut ws) => {
                *trial.classes.lock().unwrap().entry(1).or_default() += 1;
                ws.send(&initialize(json!(0)).to_string());
                if let Went::Answered(_) = next(&mut ws) {
                    *kept = Some(ws);
                }
            }
            Err(Error::Http(refused)) => {
                *trial.classes.lock().unwrap().entry(refused.status().as_u16() / 100).or_default() += 1;
            }
            Err(_) => {}
        }
        return Went::Refused;
    };
    // A program that listens all the time knows that its connection has ended.
    let stream = ws.socket.get_ref();
    stream.set_nonblocking(true).unwrap();
    let ended = stream.peek(&mut [0]).is_ok_and(|n| n == 0);
    stream.set_nonblocking(false).unwrap();
    if ended {
        *kept = None;
        return Went::Refused;
    }
    let went = match ws.socket.send(Message::text(echo(text).to_string())) {
        Ok(()) => next(ws),
        // It had gone before anything was sent.
        Err(_) => Went::Refused,
    };
    if !matches!(went, Went::Answered(_)) {
        *kept = None;
    }
    went
}

/// The table of the balancer's own page, by the names of a line and of a column.
fn balancer(page: &str) -> BTreeMap<(String, String), BTreeMap<String, String>> {
    let table = get(page, "/stats;csv").body;
    let mut lines = table.lines().filter(|line| !line.is_empty());
    let names: Vec<&str> = lines.next().unwrap().trim_start_matches("# ").split(',').collect();
    let row = |line: &str| {
        let cells: BTreeMap<String, String> =
            names.iter().map(|n| (*n).to_owned()).zip(line.split(',').map(str::to_owned)).collect();
        ((cells["pxname"].clone(), cells["svname"].clone()), cells)
    };
    lines.map(row).collect()
}

#[test]
fn three_instances_behind_haproxy_are_one_service_while_they_stop_are_exchanged_and_killed_in_turn() {
    const NAMES: [&str; 3] = ["one", "two", "three"];
    let seconds = std::env::var("MCP_TEST_TRIAL").map_or(60, |s| s.parse().expect("seconds"));
    let scratches = NAMES.map(|_| Scratch::new());
    let everything = deps().join("node_modules/.bin/mcp-server-everything").display().to_string();
    let servers = stdio("fake", &[], "") + &format!("\"everything\": Stdio(command: [{everything:?}]),");
    let files: Vec<_> = scratches
        .iter()
        .zip(NAMES)
        .map(|(scratch, name)| {
            scratch.write("key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
            let port = free_port();
            let own = format!("session_key: \"key\", session_prefix: {name:?}, listen: [\"127.0.0.1:{port}\"],");
            scratch.instance_with("t", &format!("{MORE} {own}"), &servers)
        })
        .collect();
    let mut daemons: Vec<Daemon<'_>> = scratches.iter().zip(&files).map(|(s, file)| s.start(file)).collect();
    let (page, official) = (format!("127.0.0.1:{}", free_port()), free_port());
    let places: Vec<(&str, String)> =
        NAMES.iter().zip(&daemons).map(|(name, d)| (*name, d.address().to_owned())).collect();
    let places: Vec<(&str, &str)> = places.iter().map(|(name, at)| (*name, at.as_str())).collect();
    // Official clients come in by a door of their own, so that the others can be counted.
    let more = format!(
        "\nfrontend official\n    bind 127.0.0.1:{official}\n    default_backend mcp\n\
         \nfrontend stats\n    bind {page}\n    stats enable\n    stats uri /stats\n"
    );
    let proxy = Proxy::haproxy_with(&scratches[0], &places, &more);
    let up = |name: &str| balancer(&page)[&("mcp".to_owned(), name.to_owned())]["status"] == "UP";
    wait("all three", || NAMES.iter().all(|name| up(name)).then_some(()));
    // By class of status; a connection without a request, which was looked for at its start, counts as well.
    let counted = || {
        let seen = &balancer(&page)[&("http".to_owned(), "FRONTEND".to_owned())];
        [1, 2, 3, 4, 5].map(|class| seen[&format!("hrsp_{class}xx")].parse::<u64>().unwrap())
    };
    let before = counted();

    let trial = Trial {
        address: proxy.address.clone(),
        over: AtomicBool::new(false),
        answered: Default::default(),
        lost: Mutex::default(),
        faults: Mutex::default(),
        classes: Mutex::default(),
    };
    let mut kills = Vec::new();
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    std::thread::scope(|threads| {
        let _over = Over(&trial.over);
        for n in 0..CLIENTS {
            let trial = &trial;
            threads.spawn(move || trial.client(1, n, modern));
            threads.spawn(move || trial.client(2, n, sse));
            threads.spawn(move || trial.client(3, n, websocket));
            if n >= OFFICIAL {
                threads.spawn(move || trial.client(0, n, legacy));
            }
        }
        let url = format!("http://127.0.0.1:{official}/gw/servers/everything/mcp");
        let args = ["--until-stdin-closes", "--pause", "200"];
        let mut clients: Vec<Client> =
            (0..OFFICIAL).map(|_| Client::start("TypeScript", &url, "http", &args)).collect();
        clients.iter_mut().for_each(|client| drop(client.event("ready")));
        let begin = Instant::now();
        // Each instance meets each fate: three and three are shifted against each other.
        for step in 0.. {
            if begin.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            let (n, fate) = (step % 3, ["kill -9", "stop", "restart"][(step + step / 3) % 3]);
            *done.entry(fate).or_default() += 1;
            let scratch = &scratches[n];
            match fate {
                "restart" => assert!(scratch.ctl(&["restart", "t"]).status.success(), "{}", daemons[n].log()),
                "stop" => assert!(scratch.ctl(&["stop", "t"]).status.success(), "{}", daemons[n].log()),
                _ => {
                    kills.push(Instant::now());
                    kill(daemons[n].pid, libc::SIGKILL);
                }
            }
            if fate != "restart" {
                wait("its end", || (!alive(daemons[n].pid)).then_some(()));
                daemons[n] = scratch.start(&files[n]);
                wait("the balancer sees it", || up(NAMES[n]).then_some(()));
            }
        }
        // After all that each official client is answered.
        for client in &mut clients {
            let before = client.mark("before the end");
            let after = client.mark("at the end");
            assert_eq!(before["failures"], after["failures"], "{after}");
            assert!(after["ok"].as_u64() > before["ok"].as_u64() && after["ok"].as_u64() > Some(seconds), "{after}");
            client.child.kill().unwrap();
            client.child.wait().unwrap();
        }
    });
    let faults = trial.faults.lock().unwrap();
    assert!(faults.is_empty(), "{} faults: {:?}", faults.len(), faults.iter().take(5).collect::<Vec<_>>());
    let lost = trial.lost.lock().unwrap();
    let by_a_kill = |one: &Lost| kills.iter().any(|kill| one.sent <= *kill + LATE && one.known + PAUSE >= *kill);
    let unexplained: Vec<&Lost> = lost.iter().filter(|one| !by_a_kill(one)).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    // At most what was inside an instance at that moment: one call of each of its clients.
    assert!(lost.len() <= kills.len() * 4 * CLIENTS, "{lost:?}");
    let answered = trial.answered.each_ref().map(|n| n.load(SeqCst));
    println!("{done:?}; answered: {KINDS:?} {answered:?}; lost with a killed instance: {}", lost.len());
    assert!(answered.iter().all(|n| *n > seconds * CLIENTS as u64), "they went on: {answered:?}");
    // What clients have counted, the balancer has counted.
    let classes = trial.classes.lock().unwrap();
    let ours = [1, 2, 3, 4, 5].map(|class| classes.get(&class).copied().unwrap_or(0));
    let mut theirs = Vec::new();
    let end = Instant::now() + LONG;
    // It counts a response once its connection is closed.
    while theirs != ours && Instant::now() < end {
        theirs = counted().iter().zip(before).map(|(now, before)| now - before).collect();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(theirs, ours, "responses by class, as the balancer and as the clients have counted them");
    // Without the drain that the balancer would wait for.
    daemons.iter().for_each(|daemon| kill(daemon.pid, libc::SIGQUIT));
    drop(proxy);
    scratches.iter().for_each(Scratch::gone);
}
