//! Real servers (npm, PyPI) behind the daemon, and the official SDKs as clients. tests/install brings them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::*;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn deps() -> PathBuf {
    let deps = root("target/test-deps");
    assert!(deps.join("node_modules").exists(), "tests/install has not been run: use tests/run");
    deps
}

/// The instance with six real servers, filled in for a scratch folder.
fn instance(scratch: &Scratch) -> PathBuf {
    deps();
    let out = Command::new(root("tests/peers/prepare")).arg(scratch.path("work")).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    PathBuf::from(stdout(&out).trim())
}

/// A client program that runs: prints a line of JSON for each thing that happens.
pub struct Client {
    pub child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    what: String,
}

impl Client {
    pub fn start(sdk: &str, url: &str, transport: &str, args: &[&str]) -> Client {
        let mut command = match sdk {
            "TypeScript" => {
                let mut node = Command::new("node");
                node.arg(root("tests/peers/client.mjs"));
                node
            }
            _ => {
                let mut python = Command::new(deps().join("client/bin/python"));
                python.arg(root("tests/peers/client.py"));
                python
            }
        };
        command.args([url, "--transport", transport]).args(args);
        let what = format!("{command:?}");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        Client { child, stdin, lines, what }
    }

    /// The next line that fits; fails when the program ends before.
    fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            let n = self.lines.read_line(&mut line).unwrap();
            assert!(n > 0, "{} ended too early: {:?}", self.what, self.child.wait());
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if fits(&value) {
                return value;
            }
        }
    }

    pub fn event(&mut self, name: &str) -> Value {
        self.until(|v| v["event"] == name)
    }

    /// Waits for an answer to a call that begins after now.
    pub fn mark(&mut self, line: &str) -> Value {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
        self.until(|v| v["event"] == "mark" && v["line"] == line)
    }

    /// Closes its standard input and waits for a clean end; its last line.
    fn finish(mut self) -> Value {
        drop(self.stdin.take());
        let last = self.until(|v| v.get("event").is_none_or(|e| e == "end"));
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status} {last}", self.what);
        last
    }
}

fn url(daemon: &Daemon<'_>, server: &str, transport: &str) -> String {
    match transport {
        "ws" => format!("ws://{}/servers/{server}/ws", daemon.address()),
        _ => format!("http://{}/servers/{server}/mcp", daemon.address()),
    }
}

const PAIRS: [(&str, &str); 4] = [("TypeScript", "http"), ("TypeScript", "ws"), ("Python", "http"), ("Python", "ws")];

#[test]
fn real_clients_call_real_servers_four_at_once() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&instance(&scratch));
    for (server, tools) in
        [("everything", 5), ("filesystem", 10), ("memory", 9), ("ruv-swarm", 25), ("time", 2), ("git", 10)]
    {
        let info = daemon.server(server);
        assert_eq!((&info["state"], &info["restarts"]), (&json!("ready"), &json!(0)), "{info}");
        let list = daemon.http(server).ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
        assert!(list["result"]["tools"].as_array().unwrap().len() >= tools, "{server}: {list}");
    }
    assert!(daemon.dropped("garbage_lines") >= 20, "the banner of ruv-swarm");
    for server in ["everything", "time", "memory"] {
        let clients: Vec<Client> = PAIRS
            .iter()
            .map(|(sdk, transport)| {
                let label = format!("{sdk}-{transport}");
                let args = ["--label", &label, "--calls", "25", "--in-flight", "4"];
                Client::start(sdk, &url(&daemon, server, transport), transport, &args)
            })
            .collect();
        for client in clients {
            let last = client.finish();
            assert_eq!(last["ok"], 25, "{last}");
        }
    }
    // Tools with answers of their own.
    let git = [
        "--calls",
        "3",
        "--tool",
        "git_log",
        "--args",
        &json!({"repo_path": scratch.path("work/repo")}).to_string(),
        "--expect",
        "First commit of the tests",
    ];
    assert_eq!(Client::start("Python", &url(&daemon, "git", "ws"), "ws", &git).finish()["ok"], 3);
    let swarm = Client::start("TypeScript", &url(&daemon, "ruv-swarm", "http"), "http", &["--calls", "3"]).finish();
    assert_eq!((&swarm["ok"], &swarm["protocol"]), (&json!(3), &json!("2024-11-05")));
    assert_eq!(daemon.status()["requests"]["in_flight"], 0);
}

#[test]
fn a_reload_under_real_clients_loses_no_call() {
    let scratch = Scratch::new();
    let file = instance(&scratch);
    let daemon = scratch.start(&file);
    let kept = daemon.child("time");
    let mut clients = Vec::new();
    for server in ["time", "everything"] {
        for (sdk, transport) in PAIRS {
            let label = format!("{server}-{sdk}-{transport}");
            let args = ["--label", &label, "--until-stdin-closes"];
            clients.push((server, Client::start(sdk, &url(&daemon, server, transport), transport, &args)));
        }
    }
    for (_, client) in &mut clients {
        client.event("ready");
    }
    // One server added, one changed.
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text
        .replace("\"everything\": Stdio(", "\"everything\": Stdio(env: {\"CHANGED\": \"1\"}, ")
        .replace("servers: {", &format!("servers: {{\n{}", stdio("added", &[], "")));
    assert_ne!(changed, text);
    std::fs::write(&file, changed).unwrap();
    let out = scratch.command("sh").args(["-c", "kill -HUP $(cat run/real.pid)"]).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    wait("the reload", || (daemon.status()["reloads"] == 1).then_some(()));
    let outcome = daemon.status()["last_reload"].clone();
    assert_eq!(outcome["text"], "1 added, 1 restarted, 5 unchanged", "{outcome}");
    for (_, client) in &mut clients {
        let mark = client.mark("after the reload");
        assert_eq!(mark["failures"], 0, "{mark}");
    }
    assert_eq!(said(&daemon.http("added").ask(&call(1, "echo", json!({"text": "new"})))), "new");
    assert_eq!(daemon.child("time"), kept);
    for (server, client) in clients {
        let last = client.finish();
        assert_eq!(last["failures"], 0, "{last}");
        assert!(last["ok"].as_u64().unwrap() > 1, "{last}");
        assert_eq!(last["list_changed"]["tools"].as_u64() > Some(0), server == "everything", "{last}");
    }
}

/// The official TypeScript client begins no new session when its own is gone: it goes on only where the session does.
#[test]
fn the_session_of_a_real_client_goes_on_after_stop_and_start_and_after_kill_9() {
    let scratch = Scratch::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    scratch.write("key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    let more = format!("session_key: \"key\", listen: [\"127.0.0.1:{port}\"],");
    let server = deps().join("node_modules/.bin/mcp-server-everything").display().to_string();
    let file = scratch.instance_with("t", &more, &format!("\"everything\": Stdio(command: [{server:?}])"));
    let mut daemon = Some(scratch.start(&file));
    let args = ["--until-stdin-closes", "--pause", "200"];
    let mut client = Client::start("TypeScript", &url(daemon.as_ref().unwrap(), "everything", "http"), "http", &args);
    client.event("ready");
    for end in ["stop", "kill -9", "stop"] {
        if let Some(daemon) = daemon.take() {
            match end {
                "stop" => daemon.stop(),
                _ => {
                    kill(daemon.pid, libc::SIGKILL);
                    scratch.gone();
                }
            }
        }
        daemon = Some(scratch.start(&file));
        // What it asks while nobody is there fails; what it asks now does not.
        let before = client.mark(&format!("there again after {end}"));
        let after = client.mark(&format!("later, after {end}"));
        assert_eq!(before["failures"], after["failures"], "{after}");
        assert!(after["ok"].as_u64() > before["ok"].as_u64(), "{after}");
    }
    client.child.kill().unwrap();
    client.child.wait().unwrap();
}

#[test]
fn a_stop_under_real_clients_loses_no_call() {
    for (sdk, transport) in PAIRS {
        let scratch = Scratch::new();
        let daemon = scratch.start(&instance(&scratch));
        let args = ["--slow", "--duration", "2", "--steps", "4"];
        let mut client = Client::start(sdk, &url(&daemon, "everything", transport), transport, &args);
        client.event("progress");
        kill(daemon.pid, libc::SIGTERM);
        let result = client.until(|v| v["event"] == "result" || v["event"] == "error");
        assert_eq!(result["event"], "result", "{sdk} {transport}: {result}");
        scratch.gone();
        let _ = client.child.wait();
        assert!(!alive(daemon.pid));
    }
}

#[test]
fn no_process_is_left_of_real_servers() {
    let scratch = Scratch::new();
    let deps = deps();
    let bin = |name: &str| deps.join("node_modules/.bin").join(name).display().to_string();
    let servers = format!(
        "\"npx\": Stdio(command: [\"npx\", \"-y\", \"mcp-server-memory\"], cwd: {deps:?}, env: {{\"MEMORY_FILE_PATH\": {:?},
             \"npm_config_offline\": \"true\", \"npm_config_update_notifier\": \"false\"}}),
         \"shell\": Stdio(command: [\"sh\", \"-c\", \"{} ; true\"]),
         \"browser\": Stdio(command: [{:?}, \"--headless\", \"--no-usage-statistics\", \"--no-performance-crux\"],
             env: {{\"CHROME_DEVTOOLS_MCP_NO_UPDATE_CHECKS\": \"1\"}}),
         \"stability\": Stdio(command: [{:?}, \"mcp\", \"start\", \"--stability\"], stop: (stdin: \"500ms\")),",
        scratch.path("memory.jsonl"),
        bin("mcp-server-filesystem /"),
        bin("chrome-devtools-mcp"),
        bin("ruv-swarm"),
    );
    let file = scratch.instance("t", &servers);
    let daemon = scratch.start(&file);
    // npm, sh and node of npx; sh and node; the browser server; two of ruv-swarm. (The browser server's watchdog, in a
    // session of its own, sends statistics to its maker and stays off; the fake server's grandchild stands for it.)
    let count = scratch.processes().len();
    assert!(count >= 2 + 3 + 2 + 1 + 2, "{:?}", scratch.processes());
    daemon.stop();
    let daemon = scratch.start(&file);
    kill(daemon.pid, libc::SIGKILL);
    scratch.gone();
    std::mem::forget(daemon);
    let daemon = scratch.start(&file);
    let out = scratch.ctl(&["stop", "t", "--timeout", "0s", "--force"]);
    assert!(out.status.success(), "{out:?}");
    scratch.gone();
    drop(daemon);
}
