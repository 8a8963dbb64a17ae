//! Real peers: clients made with the official SDKs, over each transport that they have, and servers made with official
//! SDKs, shared and one for each session. Each cell lists, calls, follows progress, cancels, subscribes, and where the
//! mode allows it, samples and elicits (tests/peers/matrix tells how).

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::*;
use crate::proxies::free_port;

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn deps(path: &str) -> String {
    let path = root("target/test-deps/matrix").join(path);
    assert!(path.exists(), "{} is missing: run tests/install", path.display());
    path.display().to_string()
}

/// The command of a program of the matrix.
fn program(kind: &str, name: &str) -> Vec<String> {
    let file = |suffix: &str| root(&format!("tests/peers/matrix/{kind}-{name}.{suffix}")).display().to_string();
    match &name[..2] {
        "ts" => vec!["node".into(), file("mjs"), "--deps".into(), deps("")],
        "py" => vec![deps(&format!("{name}/bin/python")), file("py")],
        _ => vec![deps(name)],
    }
}

/// Where a server of a cell is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// A child.
    Here,
    /// Over Streamable HTTP, as its SDK serves it.
    Elsewhere,
    /// A child of another daemon, which is reached over Streamable HTTP.
    Behind,
}

/// A program that ends with its test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cell(client: &str, transport: &str, era: &str, server: &str, mode: &str) {
    cell_at(client, transport, era, server, mode, At::Here);
}

fn cell_at(client: &str, transport: &str, era: &str, server: &str, mode: &str, at: At) {
    let scratch = Scratch::new();
    let behind = Scratch::new();
    let words = program("server", server);
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    let sharing = if mode == "PerSession" { "PerSession(spare: 0)" } else { "Shared" };
    let child = format!("\"{server}\": Stdio(command: [{}], sharing: {sharing})", quoted.join(", "));
    let http = |url: String| format!("\"{server}\": Http(url: \"{url}\", sharing: {sharing})");
    let (mut _program, mut _other) = (None, None);
    let servers = match at {
        At::Here => child,
        At::Elsewhere => {
            let port = free_port();
            let mut command = behind.command(&words[0]);
            _program = Some(Program(command.args(&words[1..]).args(["--http", &port.to_string()]).spawn().unwrap()));
            wait("the server", || listens(&format!("127.0.0.1:{port}")));
            // The application of one of the SDKs has a slash there, to which it redirects.
            http(format!("http://127.0.0.1:{port}/mcp"))
        }
        At::Behind => {
            let other = behind.start(&behind.instance("t", &child));
            let url = format!("http://{}/servers/{server}/mcp", other.address());
            _other = Some(other);
            http(url)
        }
    };
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let scheme = if transport == "ws" { "ws" } else { "http" };
    let path = if transport == "http" { "mcp" } else { transport };
    let url = format!("{scheme}://{}/servers/{server}/{path}", daemon.address());
    let command = program("client", client);
    let mut client = scratch.command(&command[0]);
    client.args(&command[1..]).args(["--era", era, "--mode", mode, "--server", server]);
    match transport {
        "stdio" => client.args(["--stdio", mcpdaemon(), "--connect", &format!("t/{server}")]),
        _ => client.args(["--transport", transport, "--url", &url]),
    };
    let out = client.output().unwrap();
    let steps: Vec<Value> = stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let failed: Vec<&Value> = steps.iter().filter(|s| s["ok"] == false).collect();
    assert!(out.status.success() && failed.is_empty(), "{failed:?}\n{}", stderr(&out));
    let done = |step: &str| steps.iter().any(|s| s["step"] == step && s["ok"] == true);
    for step in ["list", "call", "progress", "cancel", "subscribe", "sample", "elicit"] {
        assert!(done(step), "{step} was not done: {steps:?}");
    }
    assert_eq!(daemon.status()["requests"]["in_flight"], 0);
}

macro_rules! cells {
    ($($name:ident: $client:literal $transport:literal $era:literal;)*) => {
        $(mod $name {
            cells!(@modes $client $transport $era);
        })*
    };
    (@modes $client:literal $transport:literal $era:literal) => {
        mod shared {
            cells!(@servers $client $transport $era "Shared");
        }
        mod per_session {
            cells!(@servers $client $transport $era "PerSession");
        }
    };
    (@servers $client:literal $transport:literal $era:literal $mode:literal) => {
        #[test]
        fn ts1() {
            crate::matrix::cell($client, $transport, $era, "ts1", $mode);
        }
        #[test]
        fn ts2() {
            crate::matrix::cell($client, $transport, $era, "ts2", $mode);
        }
        #[test]
        fn py1() {
            crate::matrix::cell($client, $transport, $era, "py1", $mode);
        }
        #[test]
        fn py2() {
            crate::matrix::cell($client, $transport, $era, "py2", $mode);
        }
        #[test]
        fn rmcp() {
            crate::matrix::cell($client, $transport, $era, "rmcp", $mode);
        }
    };
}

cells! {
    ts1_http: "ts1" "http" "legacy";
    ts1_sse: "ts1" "sse" "legacy";
    ts1_ws: "ts1" "ws" "legacy";
    ts2_http: "ts2" "http" "legacy";
    ts2_http_modern: "ts2" "http" "modern";
    ts2_http_auto: "ts2" "http" "auto";
    ts2_sse: "ts2" "sse" "legacy";
    py1_http: "py1" "http" "legacy";
    py1_sse: "py1" "sse" "legacy";
    py1_ws: "py1" "ws" "legacy";
    py2_http: "py2" "http" "legacy";
    py2_http_modern: "py2" "http" "modern";
    py2_http_auto: "py2" "http" "auto";
    py2_sse: "py2" "sse" "legacy";
}

/// Clients on standard input and output, by `mcpdaemon --connect`.
macro_rules! connected {
    ($($name:ident: $client:literal $era:literal;)*) => {
        mod connected {
            $(mod $name {
                #[test]
                fn shared() {
                    crate::matrix::cell($client, "stdio", $era, "py2", "Shared");
                }
                #[test]
                fn per_session() {
                    crate::matrix::cell($client, "stdio", $era, "ts2", "PerSession");
                }
            })*
        }
    };
}

connected! {
    ts1: "ts1" "legacy";
    ts2: "ts2" "legacy";
    ts2_modern: "ts2" "modern";
    ts2_auto: "ts2" "auto";
    py1: "py1" "legacy";
    py2: "py2" "legacy";
    py2_modern: "py2" "modern";
    py2_auto: "py2" "auto";
}

/// Servers elsewhere, as their SDKs serve them, and behind another daemon.
macro_rules! elsewhere {
    ($($name:ident: $client:literal $era:literal $server:literal;)*) => {
        mod elsewhere {
            $(mod $name {
                use crate::matrix::{At, cell_at};

                #[test]
                fn shared() {
                    cell_at($client, "http", $era, $server, "Shared", At::Elsewhere);
                }
                #[test]
                fn per_session() {
                    cell_at($client, "http", $era, $server, "PerSession", At::Elsewhere);
                }
                #[test]
                fn shared_behind_another_daemon() {
                    cell_at($client, "http", $era, $server, "Shared", At::Behind);
                }
                #[test]
                fn per_session_behind_another_daemon() {
                    cell_at($client, "http", $era, $server, "PerSession", At::Behind);
                }
            })*
        }
    };
}

elsewhere! {
    legacy_ts1: "py1" "legacy" "ts1";
    legacy_ts2: "py2" "legacy" "ts2";
    legacy_py1: "ts1" "legacy" "py1";
    legacy_py2: "ts2" "legacy" "py2";
    modern_ts1: "py2" "modern" "ts1";
    modern_ts2: "py2" "modern" "ts2";
    modern_py1: "ts2" "modern" "py1";
    modern_py2: "ts2" "modern" "py2";
}

/// What a client does after a stop and start of the daemon: it goes on as if nothing had been (so many tries of one call), or
/// says what is wrong.
fn after_stop_and_start(client: &str, transport: &str, era: &str) -> Result<u64, String> {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;

    let scratch = Scratch::new();
    let words: Vec<String> = program("server", "ts1").iter().map(|w| format!("{w:?}")).collect();
    let listen = format!("listen: [\"127.0.0.1:{}\"],", free_port());
    let file = scratch.instance_with("t", &listen, &format!("\"ts1\": Stdio(command: [{}])", words.join(", ")));
    let daemon = scratch.start(&file);
    let (scheme, path) = match transport {
        "ws" => ("ws", "ws"),
        "http" => ("http", "mcp"),
        other => ("http", other),
    };
    let url = format!("{scheme}://{}/servers/ts1/{path}", daemon.address());
    let command = program("client", client);
    let args =
        ["--transport", transport, "--url", &url, "--era", era, "--mode", "Shared", "--server", "ts1", "--again"];
    let mut command_line = scratch.command(&command[0]);
    command_line.args(&command[1..]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command_line.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut steps: Vec<Value> = Vec::new();
    let mut next = || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let step: Option<Value> = serde_json::from_str(&line).ok();
        steps.extend(step.clone());
        step
    };
    while next().is_some_and(|step| step["step"] != "pause") {}
    assert_eq!(code(&scratch.ctl(&["stop", "t"])), 0);
    let _again = scratch.start(&file);
    let _ = child.stdin.take().unwrap().write_all(b"go on\n");
    while next().is_some() {}
    let out = child.wait_with_output().unwrap();
    let again = steps.iter().find(|s| s["step"] == "again").unwrap_or_else(|| panic!("{steps:?}{}", stderr(&out)));
    again["tries"].as_u64().ok_or_else(|| again["why"].as_str().unwrap_or_default().to_owned())
}

/// The table of what official clients do after a stop and start: `""` for those that go on, else what they say once their
/// connection is gone, which their authors leave to who uses them.
macro_rules! after_stop_and_start {
    ($($name:ident: $client:literal $transport:literal $era:literal $says:literal;)*) => {
        mod after_stop_and_start {
            $(#[test]
            fn $name() {
                match super::after_stop_and_start($client, $transport, $era) {
                    Ok(_) => assert_eq!($says, "", "it goes on"),
                    Err(why) => assert!($says != "" && why.contains($says), "{why}"),
                }
            })*
        }
    };
}

after_stop_and_start! {
    ts1_http: "ts1" "http" "legacy" "";
    ts2_http: "ts2" "http" "legacy" "";
    ts2_http_modern: "ts2" "http" "modern" "";
    py1_http: "py1" "http" "legacy" "";
    py2_http: "py2" "http" "legacy" "";
    py2_http_modern: "py2" "http" "modern" "";
    ts1_sse: "ts1" "sse" "legacy" "";
    ts2_sse: "ts2" "sse" "legacy" "";
    py1_sse: "py1" "sse" "legacy" "ClosedResourceError";
    py2_sse: "py2" "sse" "legacy" "Connection closed";
    ts1_ws: "ts1" "ws" "legacy" "Not connected";
    py1_ws: "py1" "ws" "legacy" "ClosedResourceError";
}
