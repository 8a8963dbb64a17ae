//! Clients as people have them, over HTTP, HTTP+SSE and the bridge: the Inspector's command line, programs that let a
//! client of standard streams in, editors and agents as far as they go without an account, and frameworks.
//!
//! Each runs beside the daemon in a network of its own in which there is loopback alone: some would call home.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::*;

fn deps(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-deps").join(path);
    assert!(path.exists(), "{} is missing: run tests/install", path.display());
    path.display().to_string()
}

/// Where the servers of these tests are, and the name of a tool there that says `Echo: ` and its `message`.
const PLACES: [(&str, &str, &str); 3] = [
    ("http", "http://127.0.0.1:8080/servers/everything/mcp", "echo"),
    ("sse", "http://127.0.0.1:8080/servers/everything/sse", "echo"),
    ("http", "http://127.0.0.1:8080/mcp", "everything__echo"),
];

/// Runs a script of the shell beside a daemon at 127.0.0.1:8080.
fn beside_a_daemon(scratch: &Scratch, script: &str) -> Output {
    beside_a_daemon_with(scratch, "", script)
}

/// The same, with more in the instance file.
fn beside_a_daemon_with(scratch: &Scratch, more: &str, script: &str) -> Output {
    let server = format!("\"everything\": Stdio(command: [{:?}])", deps("node_modules/.bin/mcp-server-everything"));
    let file = scratch.instance_with("t", &format!("listen: [\"127.0.0.1:8080\"], bridge: Prefix, {more}"), &server);
    let script = format!(
        "export PATH=\"$PATH:/usr/sbin:/sbin\"; ip link set lo up; {} -c {} >&2; {{ {script}; }} </dev/null; {} stop t >&2",
        mcpdaemon(),
        file.display(),
        mcpctl()
    );
    let mut command = scratch.command("unshare");
    if !nix::unistd::Uid::effective().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // What it leaves behind ends with it.
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "timeout", "120", "sh", "-euc", &script]);
    let out = command.current_dir(scratch.dir.path()).output().unwrap();
    assert!(out.status.success(), "{script}\n{}{}", stdout(&out), stderr(&out));
    scratch.gone();
    out
}

/// Calls a tool at each place by a command line, which ends by saying what it has heard.
fn calls(command: impl Fn(&str, &str, &str) -> String) {
    let scratch = Scratch::new();
    let script: Vec<String> = PLACES.iter().map(|(transport, url, tool)| command(transport, url, tool)).collect();
    let said = stdout(&beside_a_daemon(&scratch, &script.join("; ")));
    assert_eq!(said.matches("Echo: hello").count(), PLACES.len(), "{said}");
}

#[test]
fn the_inspectors_command_line_calls_tools() {
    let inspector = deps("node_modules/.bin/mcp-inspector");
    calls(|transport, url, tool| {
        format!(
            "{inspector} --cli {url} --transport {transport} --method tools/call --tool-name {tool} --tool-arg message=hello"
        )
    });
}

fn framework(environment: &str, name: &str) {
    let (python, app) =
        (deps(&format!("{environment}/bin/python")), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/app.py"));
    calls(|transport, url, tool| format!("{python} {app} {name} {transport} {url} {tool}"));
}

#[test]
fn fastmcp_calls_tools() {
    framework("apps2", "fastmcp");
}

#[test]
fn pydantic_ai_calls_tools() {
    framework("apps2", "pydantic-ai");
}

#[test]
fn langchain_calls_tools() {
    framework("apps1", "langchain");
}

#[test]
fn mcp_use_calls_tools() {
    framework("apps1", "mcp-use");
}

/// A program that is a server on its standard streams, for a client that knows no other.
fn shim(command: impl Fn(&str, &str) -> String) {
    let (python, app) = (deps("apps2/bin/python"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/app.py"));
    calls(|transport, url, tool| format!("{python} {app} shim {transport} '{}' {tool}", command(transport, url)));
}

#[test]
fn mcp_remote_lets_a_client_of_standard_streams_in() {
    let program = deps("node_modules/.bin/mcp-remote");
    shim(|transport, url| format!("{program} {url} --transport {transport}-only"));
}

#[test]
fn supergateway_lets_a_client_of_standard_streams_in() {
    let program = deps("node_modules/.bin/supergateway");
    shim(|transport, url| {
        let flag = if transport == "sse" { "--sse" } else { "--streamableHttp" };
        format!("{program} {flag} {url} --logLevel none")
    });
}

/// The session of a program that lets clients of standard streams in goes on, ten times, after a stop, a kill -9 and an empty
/// run directory.
fn lasts(command: &str) {
    const ROUNDS: usize = 10;
    let scratch = Scratch::new();
    scratch.write("key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    let (python, program) = (deps("apps2/bin/python"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/lasting.py"));
    let (daemon, ctl, file, run) = (mcpdaemon(), mcpctl(), scratch.path("t.ron"), scratch.path("run"));
    let script =
        format!("{python} {program} {ROUNDS} echo {daemon} {ctl} {} {} {command}", file.display(), run.display());
    let said = stdout(&beside_a_daemon_with(&scratch, "session_key: \"key\",", &script));
    assert_eq!(said.matches("goes on after").count(), ROUNDS, "{said}");
    let log = scratch.file("t.log");
    // Some have more than one.
    assert!(log.matches("a session goes on that was opened by another process").count() >= ROUNDS, "{log}");
}

#[test]
fn the_session_of_mcp_remote_goes_on_in_the_next_process() {
    let program = deps("node_modules/.bin/mcp-remote");
    lasts(&format!("{program} http://127.0.0.1:8080/servers/everything/mcp --transport http-only"));
}

#[test]
fn the_session_of_supergateway_goes_on_in_the_next_process() {
    let program = deps("node_modules/.bin/supergateway");
    lasts(&format!("{program} --streamableHttp http://127.0.0.1:8080/servers/everything/mcp --logLevel none"));
}

/// What a program says of servers that stand in its configuration: `made` of these names, kinds and addresses, in `file`.
fn listed(program: &str, file: &str, made: impl Fn(&str, &str) -> Value, key: &str) -> String {
    let scratch = Scratch::new();
    let of = |(name, (kind, url, _)): (&str, (&str, &str, &str))| (name.to_owned(), made(kind, url));
    let servers: serde_json::Map<String, Value> = ["one", "two", "all"].into_iter().zip(PLACES).map(of).collect();
    scratch.write(file, &json!({ key: servers }).to_string());
    let script = format!("GEMINI_CLI_TRUST_WORKSPACE=true {program} mcp list 2>&1");
    stdout(&beside_a_daemon(&scratch, &script))
}

#[test]
fn claude_code_connects() {
    let program = deps("node_modules/.bin/claude");
    let said = listed(&program, ".claude.json", |kind, url| json!({"type": kind, "url": url}), "mcpServers");
    assert_eq!(said.matches("Connected").count(), 3, "{said}");
}

#[test]
fn gemini_cli_connects() {
    // It takes a `url` for Streamable HTTP, whatever its path is.
    let made = |kind: &str, url: &str| match kind {
        "sse" => json!({"url": url}),
        _ => json!({"httpUrl": url}),
    };
    let said = listed(&deps("node_modules/.bin/gemini"), ".gemini/settings.json", made, "mcpServers");
    assert_eq!(said.matches(" - Connected").count(), 3, "{said}");
}

#[test]
#[ignore = "its packages are too large for each run: tests/clients"]
fn opencode_connects() {
    let made = |_: &str, url: &str| json!({"type": "remote", "url": url});
    let said = listed(&deps("opencode/node_modules/.bin/opencode"), ".config/opencode/opencode.json", made, "mcp");
    assert_eq!(said.matches("connected").count(), 3, "{said}");
}
