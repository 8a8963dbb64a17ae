//! Clients as people have them, over HTTP, HTTP+SSE and the bridge: the Inspector's command line, programs that let a
//! client of standard streams in, editors and agents as far as they go without an account, and frameworks.
//!
//! Each runs beside the daemon in a network of its own in which there is loopback alone: some would call home.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::*;
use crate::proxies::Proxy;

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
    beside_a_daemon_of(scratch, &server, more, script)
}

/// The same, with these servers.
fn beside_a_daemon_of(scratch: &Scratch, servers: &str, more: &str, script: &str) -> Output {
    let listen = if more.contains("listen:") { "" } else { "listen: [\"127.0.0.1:8080\"]," };
    let file = scratch.instance_with("t", &format!("{listen} bridge: Prefix, {more}"), servers);
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

/// What a framework says that calls a tool once before and once after a stop and start of the daemon.
fn after_stop_and_start(environment: &str, name: &str, transport: &str) -> String {
    let (python, app) =
        (deps(&format!("{environment}/bin/python")), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/app.py"));
    let [http, sse, _] = PLACES;
    let (_, url, tool) = if transport == "sse" { sse } else { http };
    let scratch = Scratch::new();
    let (daemon, ctl, file) = (mcpdaemon(), mcpctl(), scratch.path("t.ron"));
    let script = format!(
        "mkfifo go; {python} {app} {name} {transport} {url} {tool} again <go >said 2>why & exec 3>go; \
         until grep -q hello said; do kill -0 $!; sleep 0.1; done; \
         {ctl} stop t >&2; {daemon} -c {} >&2; echo >&3; wait $! || tail -3 why; cat said",
        file.display()
    );
    stdout(&beside_a_daemon_with(&scratch, "drain_timeout: \"1s\",", &script))
}

/// Each with what it says over HTTP+SSE, whose sessions are connections.
#[test]
fn frameworks_go_on_after_a_stop_and_start_over_streamable_http() {
    std::thread::scope(|scope| {
        for (environment, name, over_sse) in [
            ("apps2", "fastmcp", "Connection closed"),
            ("apps2", "pydantic-ai", "Connection closed"),
            ("apps1", "langchain", " again, "),
            ("apps1", "mcp-use", " again, "),
        ] {
            scope.spawn(move || {
                for (transport, says) in [("http", " again, 1"), ("sse", over_sse)] {
                    let said = after_stop_and_start(environment, name, transport);
                    assert!(said.contains(says), "{name} over {transport}: {said}");
                }
            });
        }
    });
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

/// The session of a program that lets clients of standard streams in goes on, ten times each, after a stop, a kill -9 and an
/// empty run directory.
fn lasts(command: &str) {
    const ROUNDS: usize = 30;
    let scratch = Scratch::new();
    scratch.write("key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    let (python, program) = (deps("apps2/bin/python"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/lasting.py"));
    let (daemon, ctl, file, run) = (mcpdaemon(), mcpctl(), scratch.path("t.ron"), scratch.path("run"));
    let script =
        format!("{python} {program} {ROUNDS} echo {daemon} {ctl} {} {} {command}", file.display(), run.display());
    let server = stdio("fake", &[], "");
    let said = stdout(&beside_a_daemon_of(&scratch, &server, "session_key: \"key\",", &script));
    assert_eq!(said.matches("goes on after").count(), ROUNDS, "{said}");
    let log = scratch.file("t.log");
    // Some have more than one.
    assert!(log.matches("a session goes on that was opened by another process").count() >= ROUNDS, "{log}");
}

/// The session of such a program goes on, ten times, at the other of two instances behind haproxy.
fn fails_over(command: impl Fn(&str) -> String) {
    // The session may be at the other one already when the first round begins.
    const ROUNDS: usize = 11;
    let scratch = Scratch::new();
    scratch.write("key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    let stats = "\nfrontend stats\n    bind 127.0.0.1:8091\n    stats enable\n    stats uri /stats\n";
    let proxy = Proxy::haproxy_file(&scratch, 8090, &[("one", "127.0.0.1:8080"), ("two", "127.0.0.1:8081")], stats);
    let more = |port: u16| format!("listen: [\"127.0.0.1:{port}\"], trusted_proxies: [\"127.0.0.1\"],");
    let (first, second) = (scratch.path("t.ron"), scratch.path("second/t.ron"));
    std::fs::create_dir(scratch.path("second")).unwrap();
    let (key, log) = (scratch.path("key"), scratch.path("second.log"));
    let server = stdio("fake", &[], "");
    let text = format!(
        "(session_key: {key:?}, log: (file: {log:?}, level: Debug), bridge: Prefix, {} servers: {{{server}}})",
        more(8081)
    );
    std::fs::write(&second, text).unwrap();
    let (python, program) = (deps("apps2/bin/python"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/lasting.py"));
    let (daemon, ctl, other) = (mcpdaemon(), mcpctl(), scratch.path("run2"));
    let (run, other, first, second) =
        (scratch.path("run").display().to_string(), other.display(), first.display(), second.display());
    let command = command("http://127.0.0.1:8090/gw/servers/fake/mcp");
    let script = format!(
        "MCP_RUN_DIR={other} {daemon} -c {second} >&2; haproxy -D -f {} >&2; BALANCER=http://127.0.0.1:8091/stats {python} \
         {program} {ROUNDS} echo {daemon} {ctl} {first},{second} {run},{other} {command}; MCP_RUN_DIR={other} {ctl} stop t >&2",
        proxy.display()
    );
    let said =
        stdout(&beside_a_daemon_of(&scratch, &server, &format!("session_key: \"key\", {}", more(8080)), &script));
    assert_eq!(said.matches("goes on after").count(), ROUNDS, "{said}");
    let logs = scratch.file("t.log") + &scratch.file("second.log");
    assert!(logs.matches("a session goes on that was opened by another process").count() >= ROUNDS - 1, "{logs}");
}

/// Official clients and programs that let others in, by the command of each.
mod sessions_go_on {
    use super::{deps, fails_over, lasts};

    const URL: &str = "http://127.0.0.1:8080/servers/fake/mcp";

    fn mcp_remote(url: &str) -> String {
        format!("{} {url} --transport http-only --allow-http", deps("node_modules/.bin/mcp-remote"))
    }

    fn supergateway(url: &str) -> String {
        format!("{} --streamableHttp {url} --logLevel none", deps("node_modules/.bin/supergateway"))
    }

    fn typescript(url: &str) -> String {
        format!("node {} {url}", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/session.mjs"))
    }

    #[test]
    fn of_mcp_remote_in_the_next_process() {
        lasts(&mcp_remote(URL));
    }

    #[test]
    fn of_supergateway_in_the_next_process() {
        lasts(&supergateway(URL));
    }

    #[test]
    fn of_the_typescript_client_in_the_next_process() {
        lasts(&typescript(URL));
    }

    #[test]
    fn of_mcp_remote_at_another_instance() {
        fails_over(mcp_remote);
    }

    #[test]
    fn of_supergateway_at_another_instance() {
        fails_over(supergateway);
    }

    #[test]
    fn of_the_typescript_client_at_another_instance() {
        fails_over(typescript);
    }
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

/// What a program says of the same servers by `mcpdaemon --connect`, whose words `made` puts into its configuration.
fn listed_by_command(program: &str, file: &str, made: impl Fn(&str, &[&str]) -> Value, key: &str) -> String {
    let scratch = Scratch::new();
    let run = scratch.path("run").display().to_string();
    let of = |(name, target): (&str, &str)| {
        (name.to_owned(), made(mcpdaemon(), &["--connect", target, "--run-dir", run.as_str()]))
    };
    let servers: serde_json::Map<String, Value> = [("one", "t/everything"), ("all", "t")].into_iter().map(of).collect();
    scratch.write(file, &json!({ key: servers }).to_string());
    let script = format!("GEMINI_CLI_TRUST_WORKSPACE=true {program} mcp list 2>&1");
    stdout(&beside_a_daemon(&scratch, &script))
}

#[test]
fn claude_code_and_gemini_cli_take_what_export_prints() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path(".gemini")).unwrap();
    let (claude, gemini, daemon) = (deps("node_modules/.bin/claude"), deps("node_modules/.bin/gemini"), mcpdaemon());
    let script = format!(
        "for target in t/everything t; do \
         {daemon} --export claude-code $target >.claude.json; {claude} mcp list 2>&1; \
         {daemon} --export gemini $target >.gemini/settings.json; \
         GEMINI_CLI_TRUST_WORKSPACE=true {gemini} mcp list 2>&1; done"
    );
    let said = stdout(&beside_a_daemon(&scratch, &script));
    assert_eq!(said.matches("Connected").count(), 4, "{said}");
}

#[test]
fn claude_code_connects_by_a_command() {
    let made = |command: &str, args: &[&str]| json!({"type": "stdio", "command": command, "args": args});
    let said = listed_by_command(&deps("node_modules/.bin/claude"), ".claude.json", made, "mcpServers");
    assert_eq!(said.matches("Connected").count(), 2, "{said}");
}

#[test]
fn gemini_cli_connects_by_a_command() {
    let made = |command: &str, args: &[&str]| json!({"command": command, "args": args});
    let said = listed_by_command(&deps("node_modules/.bin/gemini"), ".gemini/settings.json", made, "mcpServers");
    assert_eq!(said.matches(" - Connected").count(), 2, "{said}");
}

#[test]
fn the_inspector_and_fastmcp_call_tools_by_a_command() {
    let (inspector, python) = (deps("node_modules/.bin/mcp-inspector"), deps("apps2/bin/python"));
    let app = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/app.py");
    let scratch = Scratch::new();
    let connect =
        |target: &str| format!("{} --connect {target} --run-dir {}", mcpdaemon(), scratch.path("run").display());
    let script = format!(
        "{inspector} --cli --method tools/call --tool-name echo --tool-arg message=hello -- {}; \
         {python} {app} shim stdio '{}' everything__echo",
        connect("t/everything"),
        connect("t")
    );
    let said = stdout(&beside_a_daemon(&scratch, &script));
    assert_eq!(said.matches("Echo: hello").count(), 2, "{said}");
}

#[test]
#[ignore = "its packages are too large for each run: tests/clients"]
fn opencode_connects() {
    let made = |_: &str, url: &str| json!({"type": "remote", "url": url});
    let program = deps("opencode-ai/node_modules/.bin/opencode");
    let said = listed(&program, ".config/opencode/opencode.json", made, "mcp");
    assert_eq!(said.matches("connected").count(), 3, "{said}");
}

#[test]
#[ignore = "its packages are too large for each run: tests/clients"]
fn opencode_connects_by_a_command() {
    let made = |command: &str, args: &[&str]| json!({"type": "local", "command": ([&[command], args].concat())});
    let program = deps("opencode-ai/node_modules/.bin/opencode");
    let said = listed_by_command(&program, ".config/opencode/opencode.json", made, "mcp");
    assert_eq!(said.matches("connected").count(), 2, "{said}");
}

/// Its list of servers starts none; its server for editors tells what each has.
#[test]
#[ignore = "its packages are too large for each run: tests/clients"]
fn codex_connects_by_a_url_and_by_a_command_as_export_prints_them() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path(".codex")).unwrap();
    let (codex, daemon) = (deps("codex/node_modules/.bin/codex"), mcpdaemon());
    let file = scratch.path("t.ron").display().to_string();
    scratch.write(
        "ask",
        "{\"id\":1,\"method\":\"initialize\",\"params\":{\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}\n\
         {\"method\":\"initialized\"}\n{\"id\":2,\"method\":\"mcpServerStatus/list\",\"params\":{}}\n",
    );
    // It ends with its input, which stays open until the answer is there.
    let script = format!(
        "{daemon} --export codex t/everything >.codex/config.toml; \
         {daemon} --export codex t --start -c {file} >>.codex/config.toml; \
         mkfifo said; (cat ask; grep -qm1 '\"id\":2' said) | {codex} app-server 2>/dev/null | tee said"
    );
    let said = stdout(&beside_a_daemon(&scratch, &script));
    let list: Value =
        said.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).find(|m| m["id"] == 2).unwrap();
    let of =
        |name: &str| list["result"]["data"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone();
    assert!(of("everything")["tools"]["echo"].is_object(), "{list}");
    assert!(of("t")["tools"]["everything__echo"].is_object(), "{list}");
}
