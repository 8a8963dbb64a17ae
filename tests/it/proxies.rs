//! The shipped configurations of nginx and haproxy, with Debian's programs: what passes through them, for how long, and what
//! happens when the instance stops.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::*;

/// A proxy, which ends with the test.
pub struct Proxy {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // In order: nginx would leave its workers.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn shipped(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/service").join(name);
    std::fs::read_to_string(path).unwrap()
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Proxy {
    fn start(mut command: Command, port: u16) -> Proxy {
        let child = command.stdin(Stdio::null()).spawn().expect("the proxy is installed by tests/install");
        let address = format!("127.0.0.1:{port}");
        let mut proxy = Proxy { child, address };
        wait("the proxy", || {
            assert!(proxy.child.try_wait().unwrap().is_none(), "it ended");
            listens(&proxy.address)
        });
        proxy
    }

    fn nginx(scratch: &Scratch, daemon: &str) -> Proxy {
        let port = free_port();
        let location = shipped("mcpdaemon.nginx").replace("127.0.0.1:8003", daemon);
        let dir = scratch.path("nginx");
        std::fs::create_dir(&dir).unwrap();
        let dir = dir.display();
        let text = format!(
            "daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1; events {{ }}\n\
             http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
             server {{ listen 127.0.0.1:{port};\n{location}\n}} }}"
        );
        let file = scratch.write("nginx.conf", &text);
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(file).arg("-e").arg(format!("{dir}/error.log"));
        Proxy::start(command, port)
    }

    /// What speaks TLS with a certificate and its key (PEM), and passes bytes on.
    #[cfg(feature = "remote")]
    pub fn tls(scratch: &Scratch, backend: &str, pem: &std::path::Path) -> Proxy {
        let port = free_port();
        let text = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\nfrontend tls\n  \
             bind 127.0.0.1:{port} ssl crt {}\n  default_backend plain\nbackend plain\n  server one {backend}\n",
            pem.display()
        );
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(scratch.write(&format!("tls-{port}.cfg"), &text));
        Proxy::start(command, port)
    }

    fn haproxy(scratch: &Scratch, daemon: &str) -> Proxy {
        Proxy::haproxy_before(scratch, &[("one", daemon)])
    }

    fn haproxy_before(scratch: &Scratch, instances: &[(&str, &str)]) -> Proxy {
        Proxy::haproxy_with(scratch, instances, "")
    }

    /// With these sections behind the others.
    pub fn haproxy_with(scratch: &Scratch, instances: &[(&str, &str)], more: &str) -> Proxy {
        let port = free_port();
        let file = Proxy::haproxy_file(scratch, port, instances, more);
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(file);
        Proxy::start(command, port)
    }

    /// The shipped configuration with these instances, at a port, with these sections behind the others. Checked.
    pub fn haproxy_file(scratch: &Scratch, port: u16, instances: &[(&str, &str)], more: &str) -> PathBuf {
        let servers: Vec<String> = instances.iter().map(|(name, at)| format!("    server {name} {at} check")).collect();
        let sends = |(name, _): &(&str, &str)| format!("    use-server {name} if {{ urlp(sessionId) -m beg {name}. }}");
        let sends: Vec<String> = instances.iter().map(sends).collect();
        let text = shipped("mcpdaemon.haproxy");
        assert!(text.contains("    server one 127.0.0.1:8003 check\n") && text.contains("    # use-server one if {"));
        let text = text
            .replace("    server one 127.0.0.1:8003 check", &[sends.as_slice(), &servers].concat().join("\n"))
            .replace("bind :8080", &format!("bind 127.0.0.1:{port}"))
            + more;
        let file = scratch.write("haproxy.cfg", &text);
        let checked = Command::new("/usr/sbin/haproxy").arg("-c").arg("-f").arg(&file).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        file
    }
}

pub const MORE: &str = "trusted_proxies: [\"127.0.0.1\"], lame_duck: \"4s\", drain_timeout: \"20s\",";

fn all_transports(proxy: &Proxy) {
    let address = &proxy.address;
    for path in ["/gw/servers/fake", "/gw"] {
        let tool = if path == "/gw" { "fake__echo" } else { "echo" };
        let mut http = Http::open_at(address, &format!("{path}/mcp"));
        assert_eq!(said(&http.ask(&call(1, tool, json!({"text": "http"})))), "http");
        let ws = if path == "/gw" { "/gw/ws/mcp".to_owned() } else { format!("{path}/ws") };
        let mut ws = Ws::open(address, &ws);
        ws.ask(&initialize(json!(0)));
        assert_eq!(said(&ws.ask(&call(2, tool, json!({"text": "ws"})))), "ws");
        // HTTP+SSE, which says where to post: with what stands before our paths.
        let mut sse = Raw::open(address);
        sse.send(format!("GET {path}/sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").as_bytes());
        assert_eq!(sse.head().status, 200);
        let first = sse.chunk().unwrap();
        let endpoint = first.lines().find_map(|l| l.strip_prefix("data: ")).unwrap().to_owned();
        assert!(endpoint.starts_with(&format!("{path}/message?sessionId=")), "{endpoint}");
        let mut post = Http {
            address: address.clone(),
            path: endpoint,
            session: String::new(),
            accept: None,
            raw: Raw::open(address),
        };
        assert_eq!(post.post(&initialize(json!(7)).to_string()).status, 202);
        assert_eq!(sse.event().unwrap()["id"], 7);
    }
    // The page, whose links lead to where it is.
    let page = get(address, "/gw/");
    assert!(
        page.status == 200 && page.body.contains("href=\"status\"") && !page.body.contains("href=\"/"),
        "{}",
        page.body
    );
    assert_eq!(get(address, "/gw/status").status, 200);
}

/// How long events of a stream take that come one after another: a proxy that waits for more shows in each.
fn events_come_at_once(proxy: &Proxy) {
    let mut http = Http::open_at(&proxy.address, "/gw/servers/fake/mcp");
    let mut progress = call(3, "progress", json!({"n": 40, "ms": 1}));
    progress["params"]["_meta"] = json!({"progressToken": 1});
    let begin = Instant::now();
    let events = http.post(&progress.to_string()).messages();
    assert_eq!(events.len(), 41);
    // With 200 ms for each it would be eight seconds.
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
}

/// Proxies give up on what is silent for 60 seconds.
fn a_call_of_75_seconds_is_answered(proxy: &Proxy) {
    let mut stream = Http::open_at(&proxy.address, "/gw/servers/fake/mcp");
    let mut plain = stream.again();
    plain.accept = Some("application/json");
    let listens = stream.stream();
    for one in [&mut stream, &mut plain] {
        one.raw.reader.get_ref().set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        one.send(&call(9, "sleep", json!({"n": 75_000, "text": "late"})).to_string());
    }
    assert_eq!(said(&stream.raw.response().messages().pop().unwrap()), "late");
    assert_eq!(said(&plain.raw.response().json()), "late");
    drop(listens);
}

/// While it stops, what is open is answered, and what comes is served as long as the proxy does not know.
fn a_stop_loses_nothing(proxy: &Proxy, daemon: &Daemon<'_>) {
    let mut open = Http::open_at(&proxy.address, "/gw/servers/fake/mcp");
    open.send(&call(1, "sleep", json!({"n": 6000, "text": "still answered"})).to_string());
    let mut other = Http::open_at(&proxy.address, "/gw/servers/fake/mcp");
    kill(daemon.pid, 15);
    wait("health checks to be told", || (get(daemon.address(), "/readyz").status == 503).then_some(()));
    for n in 0..20 {
        let answer = other.post(&call(n, "echo", json!({"text": "x"})).to_string());
        if answer.body.contains("No server is available") {
            // It knows, by its own check, and this is its own answer.
            break;
        }
        assert_eq!((answer.status, said(&answer.messages().pop().unwrap())), (200, "x"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(said(&open.raw.response().messages().pop().unwrap()), "still answered");
    wait("its end", || (!alive(daemon.pid)).then_some(()));
}

/// Everything that clients do, through a proxy as it is shipped.
fn everything_passes(proxy: fn(&Scratch, &str) -> Proxy) {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", MORE, &stdio("fake", &[], "")));
    let proxy = proxy(&scratch, daemon.address());
    // One that checks the daemon sends nobody there before it has.
    wait("the proxy's check", || (get(&proxy.address, "/gw/healthz").status == 200).then_some(()));
    all_transports(&proxy);
    events_come_at_once(&proxy);
    a_call_of_75_seconds_is_answered(&proxy);
    a_stop_loses_nothing(&proxy, &daemon);
    drop(proxy);
    scratch.gone();
}

#[test]
fn everything_passes_through_nginx_as_it_is_shipped() {
    everything_passes(Proxy::nginx);
}

#[test]
fn everything_passes_through_haproxy_as_it_is_shipped() {
    everything_passes(Proxy::haproxy);
}

#[test]
fn sessions_go_on_at_another_instance_behind_haproxy() {
    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let (one, two) = (Scratch::new(), Scratch::new());
    let ports = [free_port(), free_port()];
    let file = |scratch: &Scratch, prefix: &str, port: u16| {
        scratch.write("key", KEY);
        let own = format!("session_key: \"key\", session_prefix: {prefix:?}, listen: [\"127.0.0.1:{port}\"],");
        scratch.instance_with("t", &format!("{MORE} {own}"), &stdio("fake", &[], ""))
    };
    let files = [file(&one, "one", ports[0]), file(&two, "two", ports[1])];
    let first = one.start(&files[0]);
    let second = two.start(&files[1]);
    let proxy = Proxy::haproxy_before(&one, &[("one", first.address()), ("two", second.address())]);
    wait("both", || (get(&proxy.address, "/gw/readyz").status == 200).then_some(()));
    let sessions: Vec<Http> = (0..8).map(|_| Http::open_at(&proxy.address, "/gw/servers/fake/mcp")).collect();
    let of = |daemon: &Daemon<'_>| daemon.status()["sessions"].as_u64().unwrap();
    assert!(of(&first) > 0 && of(&second) > 0 && of(&first) + of(&second) == 8, "both have some, and each is at one");
    let all_go_on = |when: &str| {
        for (n, session) in sessions.iter().enumerate() {
            let answer = session.again().post(&call(1, "echo", json!({"text": "here"})).to_string());
            assert!(answer.status == 200 && said(&answer.json()) == "here", "{when}, session {n}: {answer:?}");
        }
    };
    all_go_on("at first");
    assert_eq!(of(&first) + of(&second), 8, "they stay where they are");
    // HTTP+SSE posts to the instance that has the stream.
    for _ in 0..4 {
        let mut sse = Raw::open(&proxy.address);
        sse.send(b"GET /gw/servers/fake/sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        assert_eq!(sse.head().status, 200);
        let told = sse.chunk().unwrap();
        let path = told.lines().find_map(|l| l.strip_prefix("data: ")).unwrap();
        assert_eq!(post(&proxy.address, path, ACCEPT, &initialize(json!(7)).to_string()).status, 202);
    }
    kill(first.pid, libc::SIGKILL);
    // A call inside it is lost; its last thread has the port until it ends.
    wait("its end", || std::net::TcpStream::connect(first.address()).is_err().then_some(()));
    all_go_on("after kill -9 of one");
    drop(first);
    let _first = one.start(&files[0]);
    // The proxy has to have seen it.
    wait("the first again", || {
        let opened = Http::open_at(&proxy.address, "/gw/servers/fake/mcp");
        opened.session.starts_with("one.").then_some(())
    });
    // A stop tells the proxy first, by /readyz: in the meantime all is served.
    kill(second.pid, libc::SIGTERM);
    while alive(second.pid) {
        all_go_on("while the other stops");
    }
    all_go_on("after the stop of the other");
}

#[test]
fn session_ids_begin_with_session_prefix_and_a_dot() {
    let scratch = Scratch::new();
    let with =
        |prefix: &str| scratch.instance_with("t", &format!("session_prefix: {prefix:?},"), &stdio("fake", &[], ""));
    let daemon = scratch.start(&with("a-1"));
    let is_ours = |id: &str, prefix: &str| {
        let random = id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or_else(|| panic!("{id}"));
        random.len() >= 32 && random.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let mut http = daemon.http("fake");
    assert!(is_ours(&http.session, "a-1"));
    let mut sse = Raw::open(daemon.address());
    sse.send(format!("GET /servers/fake/sse HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address()).as_bytes());
    assert_eq!(sse.head().status, 200);
    let told = sse.chunk().unwrap_or_else(|| panic!("no event"));
    let id = told.split_once("sessionId=").map_or("", |(_, id)| id.trim_end());
    assert!(is_ours(id, "a-1"), "{told}");
    with("b");
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    assert!(is_ours(&daemon.http("fake").session, "b"));
    assert_eq!(said(&http.ask(&call(1, "echo", json!({"text": "still here"})))), "still here");
    for wrong in ["a.b", "a b", "ä", &"x".repeat(33)] {
        let out = scratch.run(mcpdaemon(), &["-t", "-c", &with(wrong).display().to_string()]);
        assert!(code(&out) == 78 && stderr(&out).contains("cannot stand before session ids"), "{}", stderr(&out));
    }
}

#[test]
fn a_base_path_is_served_with_and_without_it() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "base_path: \"/gw/\",", &stdio("fake", &[], "")));
    for path in ["/gw/servers/fake/mcp", "/servers/fake/mcp", "/gw/mcp", "/mcp"] {
        Http::open_at(daemon.address(), path);
    }
    for path in ["/gw/healthz", "/healthz", "/gw/", "/gw", "/gw/status"] {
        assert_eq!(get(daemon.address(), path).status, 200, "{path}");
    }
    assert_eq!(get(daemon.address(), "/gwx/healthz").status, 404);
    let mut sse = Raw::open(daemon.address());
    sse.send(format!("GET /servers/fake/sse HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address()).as_bytes());
    sse.head();
    assert!(sse.chunk().unwrap().contains("data: /gw/servers/fake/message?sessionId="));
}

#[test]
fn a_prefix_is_believed_of_a_trusted_proxy_alone() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut sse = Raw::open(daemon.address());
    let ask =
        format!("GET /servers/fake/sse HTTP/1.1\r\nHost: {}\r\nX-Forwarded-Prefix: /gw\r\n\r\n", daemon.address());
    sse.send(ask.as_bytes());
    sse.head();
    assert!(sse.chunk().unwrap().contains("data: /servers/fake/message?sessionId="));
}

#[test]
fn lame_duck_serves_on_while_health_checks_are_told() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance_with("t", "lame_duck: \"1500ms\",", &stdio("fake", &[], "")));
    let mut http = daemon.http("fake");
    kill(daemon.pid, 15);
    let told = wait("the news", || Some(get(daemon.address(), "/readyz")).filter(|a| a.status == 503));
    assert!(told.body.contains("shutting down"), "{told:?}");
    assert_eq!(daemon.status()["state"], "draining");
    // New connections are taken, and told that there will be no next request.
    let answer = http.post(&call(1, "echo", json!({"text": "x"})).to_string());
    assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
    let mut new = http.again();
    assert_eq!(said(&new.ask(&call(2, "echo", json!({"text": "y"})))), "y");
    wait("its end", || (!alive(daemon.pid)).then_some(()));
    // A second signal does not wait.
    let daemon = scratch.start(&scratch.instance_with("t", "lame_duck: \"10m\",", &stdio("fake", &[], "")));
    kill(daemon.pid, 15);
    wait("the news", || (daemon.status()["state"] == "draining").then_some(()));
    kill(daemon.pid, 15);
    wait("its end", || (!alive(daemon.pid)).then_some(()));
}
