//! `mcpdaemon --connect`: a running instance as a server on standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::*;
use crate::proxies::free_port;
#[cfg(feature = "remote")]
use crate::remote::Authority;
use crate::upstream::{Reply, Upstream};

/// The program, and its client's side.
struct Shim {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shim {
    fn new(mut command: Command) -> Shim {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Shim { child, input, output }
    }

    fn open(scratch: &Scratch, args: &[&str]) -> Shim {
        let mut command = scratch.command(mcpdaemon());
        command.arg("--connect").args(args).stderr(std::fs::File::create(scratch.path("shim.err")).unwrap());
        Shim::new(command)
    }

    /// One that has shaken hands.
    fn greeted(scratch: &Scratch, args: &[&str]) -> Shim {
        let mut shim = Shim::open(scratch, args);
        let answer = shim.ask(&initialize(json!(0)));
        assert!(answer["result"]["serverInfo"].is_object(), "{answer}");
        shim.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        shim
    }

    fn send(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line; None at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let n = self.output.read_line(&mut line).unwrap();
        (n > 0).then_some(line)
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.line().expect("a message")).unwrap()
    }

    /// The answer to a request, without what comes before it.
    fn ask(&mut self, request: &Value) -> Value {
        self.send(&request.to_string());
        self.answer(&request["id"])
    }

    fn answer(&mut self, id: &Value) -> Value {
        loop {
            let message = self.next();
            if message["id"] == *id && message["method"].is_null() {
                return message;
            }
        }
    }

    fn echoes(&mut self, text: &str) -> bool {
        let answer = self.ask(&call("echo", "echo", json!({"text": text})));
        answer["result"].is_object() && said(&answer) == text
    }

    /// Ends its input; what it says then, and its exit status.
    fn end(mut self) -> (Vec<Value>, Option<i32>) {
        drop(self.input.take());
        let mut rest = Vec::new();
        while let Some(line) = self.line() {
            rest.push(serde_json::from_str(&line).unwrap());
        }
        (rest, self.child.wait().unwrap().code())
    }
}

/// An instance with an address that it keeps.
fn instance(scratch: &Scratch, more: &str, servers: &str) -> std::path::PathBuf {
    scratch.instance_with("t", &format!("listen: [\"127.0.0.1:{}\"], {more}", free_port()), servers)
}

fn stop(scratch: &Scratch) {
    let out = scratch.ctl(&["stop", "t"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
}

#[test]
fn lines_pass_as_they_are_until_the_end_of_input_and_what_is_owed_is_answered() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "", &stdio("fake", &[], "")));
    let url = format!("http://{}/servers/fake/mcp", daemon.address());
    for target in ["t/fake", &url] {
        let mut shim = Shim::greeted(&scratch, &[target]);
        // What the server writes and what arrives are the same bytes.
        shim.send(r#"{"method":"tools/call","id":"ä 1","params":{"name":"echo","arguments":{"text":"\u00e9 🙂"}},"jsonrpc":"2.0"}"#);
        let line = shim.line().unwrap();
        assert_eq!(
            line,
            "{\"id\":\"ä 1\",\"jsonrpc\":\"2.0\",\"result\":{\"content\":[{\"text\":\"é 🙂\",\"type\":\"text\"}]}}\n"
        );
        shim.send("no JSON");
        assert_eq!(shim.next()["error"]["code"], -32700);
        shim.input.as_mut().unwrap().write_all(b"\xff\xfe\n\r\n").unwrap();
        assert_eq!(shim.next()["error"]["code"], -32700);
        let long = "y".repeat(3 << 20);
        assert!(shim.echoes(&long));
        // The last line has no end.
        let slow = call("slow", "sleep", json!({"n": 500, "text": "done"})).to_string();
        shim.input.as_mut().unwrap().write_all(slow.as_bytes()).unwrap();
        let (rest, exit) = shim.end();
        assert_eq!((rest.len(), said(&rest[0]), exit), (1, "done", Some(0)));
        wait("its session has ended", || (daemon.status()["sessions"] == 0).then_some(()));
    }
    let mut bridge = Shim::greeted(&scratch, &["t"]);
    assert_eq!(said(&bridge.ask(&call(1, "fake__echo", json!({"text": "all"})))), "all");
    assert_eq!(bridge.end().1, Some(0));
}

#[test]
fn its_client_notices_nothing_of_a_reload_an_upgrade_a_stop_and_a_kill() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "drain_timeout: \"1s\",", &stdio("fake", &[], "sharing: PerSession()"));
    let mut daemon = scratch.start(&file);
    let mut shim = Shim::greeted(&scratch, &["t/fake"]);
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "test://r"}});
    assert_eq!(shim.ask(&subscribe)["result"], json!({}));
    for round in 0..8 {
        match round % 4 {
            0 => assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0),
            1 => assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0),
            2 => stop(&scratch),
            _ => {
                shim.send(&call("lost", "never", json!({})).to_string());
                wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
                kill(daemon.pid, libc::SIGKILL);
                let lost = shim.next();
                let why = lost["error"]["message"].as_str().unwrap();
                assert_eq!((&lost["id"], &lost["error"]["code"]), (&json!("lost"), &json!(-32000)));
                assert!(why.starts_with("the connection to instance 't' was lost: "), "{why}");
                assert!(why.ends_with("may have run"), "{why}");
            }
        }
        if round % 4 > 1 {
            // What is asked meanwhile waits.
            let meanwhile = call("meanwhile", "echo", json!({"text": "here"})).to_string();
            shim.send(&meanwhile);
            daemon = scratch.start(&file);
            let mut seen = Vec::new();
            loop {
                let message = shim.next();
                if message["id"] == "meanwhile" {
                    assert_eq!(said(&message), "here");
                    break;
                }
                seen.push(message["method"].as_str().unwrap().to_owned());
            }
            assert!(seen.contains(&"notifications/tools/list_changed".to_owned()), "{seen:?}");
        }
        assert!(shim.echoes(&format!("round {round}")));
        // The subscription is there, and the child knows its client.
        shim.send(&call("touch", "updated", json!({"uri": "test://r"})).to_string());
        let mut methods = vec![shim.next(), shim.next()];
        methods.retain(|m| m["method"] == "notifications/resources/updated");
        assert_eq!(methods.len(), 1, "round {round}: {}", daemon.log());
    }
    assert_eq!(shim.end().1, Some(0));
}

#[test]
fn what_a_child_asks_reaches_the_client_and_comes_back() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "", &stdio("fake", &[], "sharing: PerSession()")));
    let url = format!("http://{}/servers/fake/mcp", daemon.address());
    for target in ["t/fake", &url] {
        let mut shim = Shim::greeted(&scratch, &[target]);
        for method in ["sampling/createMessage", "elicitation/create", "roots/list"] {
            shim.send(&call(5, "ask_back", json!({"method": method})).to_string());
            let asked = shim.next();
            assert_eq!(asked["method"], method, "{target}");
            shim.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"text": "mine"}}).to_string());
            let answer = shim.next();
            assert_eq!((&answer["id"], said(&answer)), (&json!(5), "mine"), "{target}: {method}");
        }
        let mut request = call(7, "progress", json!({"n": 20, "ms": 1}));
        request["params"]["_meta"] = json!({"progressToken": "p"});
        shim.send(&request.to_string());
        let mut steps = Vec::new();
        loop {
            let message = shim.next();
            if message["id"] == 7 {
                break;
            }
            steps.push(message["params"]["progress"].as_u64().unwrap());
        }
        // One more comes late, and by a URL on another stream, so that it may come before the end.
        steps.retain(|step| *step <= 20);
        assert_eq!(steps, (1..=20).collect::<Vec<u64>>());
    }
}

#[test]
fn ten_clients_go_on_when_one_is_killed_and_the_instance_is_stopped_and_started() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "", &stdio("fake", &[], ""));
    let target = |n: usize| if n.is_multiple_of(2) { "t/fake" } else { "t" };
    let start = ["--start", "-c", file.to_str().unwrap()];
    let mut all: Vec<Shim> = (0..10).map(|n| Shim::greeted(&scratch, &[&[target(n)], &start[..]].concat())).collect();
    let echoes = |shim: &mut Shim, n: usize, text: &str| {
        let tool = if n.is_multiple_of(2) { "echo" } else { "fake__echo" };
        said(&shim.ask(&call("echo", tool, json!({"text": text})))) == text
    };
    for (n, shim) in all.iter_mut().enumerate() {
        assert!(echoes(shim, n, "before"));
    }
    // Dropped without a word, in the middle of a request.
    all[0].send(&call(1, "never", json!({})).to_string());
    drop(all.remove(0));
    for (n, shim) in all.iter_mut().enumerate() {
        assert!(echoes(shim, n + 1, "after a kill"));
    }
    let pid = |scratch: &Scratch| scratch.file("run/t.pid").trim().parse::<i32>().unwrap();
    let before = pid(&scratch);
    stop(&scratch);
    // The first one that asks for something starts it again, for all.
    for (n, shim) in all.iter_mut().enumerate() {
        assert!(echoes(shim, n + 1, "after a stop"));
    }
    assert_ne!(pid(&scratch), before);
    for shim in all {
        assert_eq!(shim.end().1, Some(0));
    }
    stop(&scratch);
}

#[test]
fn its_client_notices_nothing_of_a_sleep_of_the_machine_or_of_its_own() {
    let scratch = Scratch::new();
    let more = "websocket: (ping_interval: \"200ms\", ping_timeout: \"500ms\"),";
    let daemon = scratch.start(&instance(&scratch, more, &stdio("fake", &[], "sharing: PerSession()")));
    let url = format!("http://{}/servers/fake/mcp", daemon.address());
    let mut all = [Shim::greeted(&scratch, &["t/fake"]), Shim::greeted(&scratch, &[&url])];
    let pids: Vec<i32> = all.iter().map(|shim| shim.child.id() as i32).collect();
    let sleeps = |pids: &[i32], time: u64| {
        pids.iter().for_each(|pid| kill(*pid, libc::SIGSTOP));
        std::thread::sleep(std::time::Duration::from_millis(time));
        pids.iter().for_each(|pid| kill(*pid, libc::SIGCONT));
    };
    // The whole machine: nobody is taken for dead.
    sleeps(&[pids.as_slice(), &[daemon.pid]].concat(), 3000);
    for shim in &mut all {
        assert!(shim.echoes("the machine slept"));
    }
    // These programs alone, for so long that the daemon gives one of them up.
    sleeps(&pids, 2000);
    for shim in &mut all {
        assert!(shim.echoes("it slept"));
        assert!(shim.echoes("and goes on"));
    }
}

#[test]
fn of_twenty_that_start_an_instance_at_once_one_does() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "", &stdio("fake", &[], ""));
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (scratch, file) = (&scratch, file.display().to_string());
            scope.spawn(move || {
                let mut command = scratch.command(mcpdaemon());
                command.args(["--connect", "t/fake", "--start", "-c", &file]).stderr(Stdio::inherit());
                let mut shim = Shim::new(command);
                shim.ask(&initialize(json!(0)));
                assert!(shim.echoes(&format!("editor {n}")));
                assert_eq!(shim.end().1, Some(0));
            });
        }
    });
    assert_eq!(scratch.file("t.log").matches(" starts (pid ").count(), 1, "{}", scratch.file("t.log"));
    // Stopped under one that may start it, it is started once somebody asks for it.
    let mut shim = Shim::greeted(&scratch, &["t/fake", "--start", "-c", &file.display().to_string()]);
    stop(&scratch);
    assert!(shim.echoes("again"));
    assert_eq!(shim.end().1, Some(0));
    stop(&scratch);
    // By its file in the folder of instance files.
    let home = scratch.path("config/mcp");
    std::fs::create_dir_all(&home).unwrap();
    let mut command = scratch.command(mcpdaemon());
    if nix::unistd::Uid::effective().is_root() {
        // Root's is /etc/mcp, where a test writes nothing.
        let out = command.args(["--connect", "nobody-has-this", "--start"]).output().unwrap();
        assert_eq!(code(&out), 78);
        assert!(stderr(&out).contains("there is no instance file /etc/mcp/nobody-has-this.ron"), "{}", stderr(&out));
        return;
    }
    std::fs::copy(&file, home.join("t.ron")).unwrap();
    command.env("XDG_CONFIG_HOME", scratch.path("config")).args(["--connect", "t/fake", "--start"]);
    let mut shim = Shim::new(command);
    shim.ask(&initialize(json!(0)));
    assert!(shim.echoes("by its name"));
    drop(shim);
    stop(&scratch);
}

#[test]
fn an_instance_that_nobody_is_connected_to_ends_and_is_started_again() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "idle_exit: \"1s\",", &stdio("fake", &[], ""));
    let path = file.display().to_string();
    for _ in 0..2 {
        let mut shim = Shim::greeted(&scratch, &["t/fake", "--start", "-c", &path]);
        // As long as somebody is connected it goes on, also if he says nothing.
        let slow = call(1, "sleep", json!({"n": 2500, "text": "still here"}));
        assert_eq!(said(&shim.ask(&slow)), "still here");
        assert_eq!(shim.end().1, Some(0));
        scratch.gone();
    }
    let log = scratch.file("t.log");
    assert_eq!(log.matches("stopping: nobody was connected for 1s (idle_exit)").count(), 2, "{log}");
    // A reload says it to one that runs already; a session without a connection does not keep it.
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("\"1s\"", "\"0s\"")).unwrap();
    let daemon = scratch.start(&file);
    drop(daemon.http("fake"));
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("\"0s\"", "\"1s\"")).unwrap();
    kill(daemon.pid, libc::SIGHUP);
    scratch.gone();
}

#[test]
fn it_says_why_nobody_is_served_and_has_the_exit_codes_of_the_daemon() {
    let scratch = Scratch::new();
    let tell = |args: &[&str], exit: i32, why: &str| {
        let out = scratch.run(mcpdaemon(), &[&["--connect"], args].concat());
        assert_eq!((code(&out), stdout(&out).as_str()), (exit, ""), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(why), "{args:?}: {}", stderr(&out));
    };
    let nobody = format!("http://127.0.0.1:{}/mcp", free_port());
    tell(&["t"], 69, "t: not running: start it with 'mcpdaemon -c FILE', or give --start");
    tell(&["t", "--start", "-c", "none.ron"], 78, "there is no instance file ");
    tell(&[&nobody], 69, "cannot connect: Connection refused");
    tell(&[&nobody, "--start"], 64, "--start starts an instance on this host");
    tell(&["ftp://localhost/mcp"], 64, "a URL begins with http:// or https://");
    if cfg!(not(feature = "remote")) {
        tell(&["https://localhost/mcp"], 64, "was built without TLS");
    }
    tell(&["a b"], 64, "cannot be a name");
    tell(&["t/a b"], 64, "cannot be a name");
    tell(&["t", "--token-file", "none"], 78, "none: cannot read it: ");
    scratch.write("bad.ron", "(servers: {\"x\": Stdio(comand: [\"y\"])})");
    tell(&["t", "--start", "-c", "bad.ron"], 78, "did you mean 'command'?");
    scratch.write("tokens", &token_line("ann", "ann-token"));
    let file = instance(&scratch, "auth: Bearer(\"tokens\"),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    scratch.write("token", "ann-token\n");
    scratch.write("wrong", "bob-token\n");
    scratch.write("empty", "\n");
    tell(&["tt"], 69, "tt: not running, did you mean 't'?");
    tell(&["t/faek", "--token-file", "token"], 69, "there is no server 'faek', did you mean 'fake'?");
    tell(&["t/fake"], 77, "--token-file FILE names the file with your token");
    tell(&["t/fake", "--token-file", "wrong"], 77, "--token-file FILE names the file with your token");
    let url = format!("http://{}/servers/", daemon.address());
    tell(&[&format!("{url}fake/mcp"), "--token-file", "wrong"], 77, "--token-file FILE names the file with your token");
    tell(&[&format!("{url}faek/mcp"), "--token-file", "token"], 69, "there is no server 'faek' in this instance");
    tell(&["t/fake", "--token-file", "empty"], 78, "a token is one line without spaces");
    for target in ["t/fake", &format!("{url}fake/mcp")] {
        let mut shim = Shim::greeted(&scratch, &[target, "--token-file", "token"]);
        assert!(shim.echoes("let in"));
    }
}

#[test]
fn a_url_goes_on_over_a_stop_and_a_kill_and_any_server_can_be_there() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "", &stdio("fake", &[], "sharing: PerSession()"));
    let mut daemon = scratch.start(&file);
    let mut shim = Shim::greeted(&scratch, &[&format!("http://{}/servers/fake", daemon.address())]);
    assert!(shim.echoes("before"));
    stop(&scratch);
    // What is asked meanwhile waits.
    shim.send(&call("waits", "echo", json!({"text": "through the gap"})).to_string());
    daemon = scratch.start(&file);
    assert_eq!(said(&shim.answer(&json!("waits"))), "through the gap");
    kill(daemon.pid, libc::SIGKILL);
    wait("the end", || (!alive(daemon.pid)).then_some(()));
    daemon = scratch.start(&file);
    assert!(shim.echoes("after"));
    assert_eq!(shim.end().1, Some(0));
    wait("its session has ended", || (daemon.status()["sessions"] == 0).then_some(()));
    let upstream = Upstream::new(|_, _| Reply::Usual);
    let mut shim = Shim::greeted(&scratch, &[&format!("http://{}/anything", upstream.address)]);
    assert!(shim.echoes("elsewhere"));
    assert_eq!(shim.end().1, Some(0));
    assert!(upstream.seen().iter().any(|s| s.method == "DELETE" && s.path == "/anything"), "{:?}", upstream.seen());
}

#[test]
fn a_url_whose_server_says_nothing_or_no_message_is_told_and_no_line_is_written_for_it() {
    let scratch = Scratch::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let out = scratch.run(mcpdaemon(), &["--connect", &format!("http://{}/mcp", silent.local_addr().unwrap())]);
    assert!(code(&out) == 69 && stderr(&out).contains("no answer within 10 s"), "{out:?}");
    let upstream = Upstream::new(|seen, _| match seen.body["params"]["arguments"]["text"].as_str() {
        Some("page") => crate::upstream::as_json("<html>hello</html>"),
        _ => Reply::Usual,
    });
    let mut shim = Shim::greeted(&scratch, &[&format!("http://{}/mcp", upstream.address)]);
    shim.send(&call("é", "echo", json!({"text": "page"})).to_string());
    let answer = shim.next();
    assert!(answer["error"]["message"].as_str().unwrap().contains("something else than the response"), "{answer}");
    assert!(shim.echoes("well"));
    assert!(shim.end().0.is_empty());
}

#[test]
#[cfg(feature = "remote")]
fn a_url_over_tls_is_reached_if_its_server_proves_itself() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch, "", &stdio("fake", &[], "")));
    let authority = Authority::new(&scratch);
    let tls = crate::proxies::Proxy::tls(&scratch, daemon.address(), &authority.certificate("localhost"));
    let url = format!("https://localhost:{}/servers/fake/mcp", tls.address.rsplit_once(':').unwrap().1);
    let out = scratch.run(mcpdaemon(), &["--connect", &url]);
    assert!(code(&out) == 69 && stderr(&out).contains("TLS: invalid peer certificate: UnknownIssuer"), "{out:?}");
    let mut command = scratch.command(mcpdaemon());
    command.args(["--connect", &url]).env("SSL_CERT_FILE", scratch.path("ca.pem"));
    let mut shim = Shim::new(command);
    shim.ask(&initialize(json!(1)));
    assert!(shim.echoes("sealed"));
    assert_eq!(shim.end().1, Some(0));
}

#[test]
fn a_request_without_an_instance_is_answered_by_an_error_in_the_end() {
    let scratch = Scratch::new();
    let file = instance(&scratch, "", &stdio("fake", &[], ""));
    let _daemon = scratch.start(&file);
    let mut shim = Shim::greeted(&scratch, &["t/fake"]);
    stop(&scratch);
    let begin = std::time::Instant::now();
    let answer = shim.ask(&call(1, "echo", json!({"text": "nobody"})));
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.starts_with("t: not running"), "{why}");
    assert!(begin.elapsed().as_secs() >= 25, "it has waited");
    assert_eq!(shim.end().1, Some(0));
    let said = scratch.file("shim.err");
    assert!(said.contains("mcpdaemon: the connection to instance 't' was lost: "), "{said}");
}

#[test]
fn a_unix_socket_is_preferred_and_asks_for_no_token_where_peers_are_known() {
    let scratch = Scratch::new();
    let own = nix::unistd::Uid::effective().as_raw();
    let more = format!("listen: [\"unix:{}\"], auth: Peer(uids: [{own}]),", scratch.path("s").display());
    let file = scratch.instance_with("t", &more, &stdio("fake", &[], ""));
    let out = scratch.run(mcpdaemon(), &["-c", &file.display().to_string()]);
    assert!(out.status.success(), "{}", stderr(&out));
    let mut shim = Shim::greeted(&scratch, &["t/fake"]);
    assert!(shim.echoes("by the socket"));
    assert_eq!(shim.end().1, Some(0));
    stop(&scratch);
    // Both: the socket, over which no proxy and no other host is.
    let more = format!("listen: [\"127.0.0.1:0\", \"unix:{}\"],", scratch.path("s").display());
    let _daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], "")));
    let trace = scratch.path("trace");
    let words = ["-f", "-e", "trace=connect", "-o", trace.to_str().unwrap(), mcpdaemon(), "--connect", "t/fake"];
    let mut command = scratch.command("strace");
    command.args(words);
    let mut shim = Shim::new(command);
    shim.ask(&initialize(json!(0)));
    assert_eq!(shim.end().1, Some(0));
    let trace = scratch.file("trace");
    assert!(trace.contains("AF_UNIX") && !trace.contains("AF_INET"), "{trace}");
}

#[test]
fn a_client_that_does_not_read_while_it_writes_is_not_waited_for() {
    let scratch = Scratch::new();
    let _daemon = scratch.start(&instance(&scratch, "", &stdio("fake", &[], "")));
    let mut shim = Shim::greeted(&scratch, &["t/fake"]);
    // Neither side's pipe holds so much: who waits for one before it reads the other would wait for ever.
    let text = "z".repeat(300 << 10);
    for n in 0..8 {
        shim.send(&call(n, "echo", json!({"text": text})).to_string());
    }
    let mut ids: Vec<i64> = (0..8)
        .map(|_| {
            let answer = shim.next();
            assert_eq!(said(&answer).len(), text.len());
            answer["id"].as_i64().unwrap()
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..8).collect::<Vec<i64>>());
    // Its client gone, it goes as well.
    let Shim { child, output, input } = &mut shim;
    drop(std::mem::replace(
        output,
        BufReader::new(Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.take().unwrap()),
    ));
    let _ = input.as_mut().unwrap().write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n");
    wait("its end", || child.try_wait().unwrap());
}

#[test]
fn export_prints_what_goes_into_the_configuration_of_each_client() {
    let scratch = Scratch::new();
    let export = |args: &[&str]| scratch.run(mcpdaemon(), &[&["--export"], args].concat());
    let file = instance(&scratch, "", &stdio("fake", &[], ""));
    let (path, run) = (file.display().to_string(), scratch.path("run"));
    let out = export(&["cursor", "t/fake"]);
    assert_eq!(code(&out), 69, "{}", stderr(&out));
    assert!(stderr(&out).starts_with("mcpdaemon: t: not running"), "{}", stderr(&out));
    // It can be started when it is needed.
    let out = export(&["cursor", "t/fake", "--start", "-c", &path]);
    let started: Value = serde_json::from_str(&stdout(&out)).unwrap();
    let server = &started["mcpServers"]["fake"];
    assert_eq!(
        (&server["command"], &server["args"]),
        (&json!(mcpdaemon()), &json!(["--connect", "t/fake", "--run-dir", run, "--start", "-c", path]))
    );
    let daemon = scratch.start(&file);
    for (client, key, address) in [
        ("claude-code", "mcpServers", "url"),
        ("cursor", "mcpServers", "url"),
        ("vscode", "servers", "url"),
        ("gemini", "mcpServers", "httpUrl"),
        ("opencode", "mcp", "url"),
        ("zed", "context_servers", "url"),
    ] {
        for (target, name, path) in [("t/fake", "fake", "/servers/fake/mcp"), ("t", "t", "/mcp")] {
            let out = export(&[client, target]);
            let entry: Value = serde_json::from_str(&stdout(&out)).unwrap();
            assert_eq!(entry[key][name][address], format!("{}{path}", daemon.url), "{client}: {entry}");
            assert!(stderr(&out).starts_with("this goes into "), "{}", stderr(&out));
        }
    }
    let codex = stdout(&export(&["codex", "t/fake"]));
    assert_eq!(codex, format!("[mcp_servers.fake]\nurl = \"{}/servers/fake/mcp\"\n", daemon.url));
    let desktop: Value = serde_json::from_str(&stdout(&export(&["claude-desktop", "t"]))).unwrap();
    assert_eq!(desktop["mcpServers"]["t"]["args"], json!(["--connect", "t", "--run-dir", run]));
    for (args, exit, why) in [
        (&["curser", "t"][..], 64, "did you mean 'cursor'?"),
        (&["cursor"], 64, "--export wants a client and what is to be reached"),
        (&["cursor", "t/faek"], 69, "did you mean 'fake'?"),
        (&["cursor", "http://h/mcp"], 64, "name it in place of a URL"),
        (&["cursor", "t", "-f"], 64, "alone"),
        (&["cursor", "t", "--", "true"], 64, "alone"),
    ] {
        let out = export(args);
        assert!(code(&out) == exit && stderr(&out).contains(why), "{args:?}: {} {}", code(&out), stderr(&out));
    }
    for args in [&["--start"][..], &["--token-file", "x"], &["--connect", "t", "-t"]] {
        assert_eq!(code(&scratch.run(mcpdaemon(), args)), 64, "{args:?}");
    }
}

#[test]
fn export_names_no_token_and_says_where_it_goes() {
    let scratch = Scratch::new();
    scratch.write("tokens", &token_line("ann", "ann-token"));
    let file = instance(&scratch, "auth: Bearer(\"tokens\"),", &stdio("fake", &[], ""));
    // Also where it does not run yet.
    let out = scratch.run(mcpdaemon(), &["--export", "zed", "t/fake", "--start", "-c", &file.display().to_string()]);
    assert!(stdout(&out).contains("TOKEN-FILE") && stderr(&out).contains("TOKEN-FILE stands for"), "{}", stderr(&out));
    let daemon = scratch.start(&file);
    let out = scratch.run(mcpdaemon(), &["--export", "zed", "t/faek", "--start", "-c", &file.display().to_string()]);
    assert_eq!((code(&out), stdout(&out).as_str()), (69, ""), "it runs, and has no such server");
    let out = scratch.run(mcpdaemon(), &["--export", "gemini", "t/fake"]);
    let entry: Value = serde_json::from_str(&stdout(&out)).unwrap();
    assert_eq!(entry["mcpServers"]["fake"]["headers"]["Authorization"], "Bearer $MCP_TOKEN");
    assert!(stderr(&out).contains("goes into the variable MCP_TOKEN"), "{}", stderr(&out));
    let out = scratch.run(mcpdaemon(), &["--export", "claude-desktop", "t/fake"]);
    let entry: Value = serde_json::from_str(&stdout(&out)).unwrap();
    assert_eq!(
        entry["mcpServers"]["fake"]["args"],
        json!(["--connect", "t/fake", "--run-dir", scratch.path("run"), "--token-file", "TOKEN-FILE"])
    );
    assert!(stderr(&out).contains("TOKEN-FILE stands for the file with the token"), "{}", stderr(&out));
    assert_eq!(daemon.status()["auth"], json!(["Bearer"]));
}
