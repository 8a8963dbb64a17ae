//! The built-in executor: what it runs, what it refuses, and that nothing it started goes on without its client.

use serde_json::{Value, json};

use crate::harness::*;

fn run(ws: &mut Ws, command: &str, args: &[&str]) -> Value {
    ws.ask(&call(1, "execute", json!({"command": command, "args": args})))
}

fn out(answer: &Value) -> &str {
    answer["result"]["structuredContent"]["stdout"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn exec_is_an_mcp_server_with_one_tool() {
    let scratch = Scratch::new();
    let daemon = scratch.start(
        &scratch.instance("t", "\"x\": Exec(allow: [\"echo\", \"sh\", \"cat\"], env: {\"WHO\": \"me\"}, cwd: \".\")"),
    );
    let mut ws = daemon.ws("x");
    let hello = ws.ask(&initialize(json!(0)));
    assert!(hello["result"]["instructions"].as_str().unwrap().contains("cat, echo, sh"));
    let tools = ws.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    let tool = &tools["result"]["tools"][0];
    assert_eq!(
        (&tool["name"], &tool["inputSchema"]["properties"]["command"]["enum"]),
        (&json!("execute"), &json!(["cat", "echo", "sh"]))
    );
    let answer = run(&mut ws, "echo", &["héllo", "$(id)", ";", "ls"]);
    assert_eq!(out(&answer), "héllo $(id) ; ls\n");
    assert_eq!((said(&answer), &answer["result"]["isError"]), ("héllo $(id) ; ls\n", &json!(false)));
    let result = run(&mut ws, "sh", &["-c", "echo out; echo err >&2; echo $WHO; pwd; exit 3"]);
    let s = &result["result"]["structuredContent"];
    assert_eq!(
        (&s["exit_code"], &s["stderr"], &result["result"]["isError"]),
        (&json!(3), &json!("err\n"), &json!(true))
    );
    assert_eq!(out(&result), format!("out\nme\n{}\n", scratch.dir.path().canonicalize().unwrap().display()));
    let killed = run(&mut ws, "sh", &["-c", "kill -9 $$"]);
    assert_eq!(killed["result"]["structuredContent"]["signal"], 9);
    // Standard input is empty, not ours.
    assert_eq!(out(&run(&mut ws, "cat", &[])), "");
    let unknown = ws.ask(&call(1, "other", json!({})));
    assert_eq!(unknown["error"]["code"], -32602);
    let wrong = ws.ask(&call(1, "execute", json!({"comand": "echo"})));
    assert!(wrong["error"]["message"].as_str().unwrap().contains("comand"), "{wrong}");
    assert_eq!(ws.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "prompts/list"}))["error"]["code"], -32601);
}

#[test]
fn exec_allow_list_cannot_be_bypassed() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"echo\", \"/bin/date\"])"));
    let mut ws = daemon.ws("x");
    for command in [
        "ls",
        "/bin/echo",
        "./echo",
        "../bin/echo",
        "echo; ls",
        "echo\nls",
        "$(ls)",
        "echo ls",
        "date",
        "/bin/../bin/date",
        "ECHO",
        " echo",
        "",
        " ",
        "echo\u{0}",
        "/bin//date",
    ] {
        let answer = run(&mut ws, command, &[]);
        assert_eq!(answer["result"]["isError"], true, "{command:?}: {answer}");
        assert!(answer["result"].get("structuredContent").is_none(), "{command:?} ran");
    }
    assert!(said(&run(&mut ws, "echo ls", &[])).contains("arguments go into 'args'"));
    assert_eq!(run(&mut ws, "/bin/date", &["+%Y"])["result"]["isError"], false);
}

#[test]
fn exec_output_is_progress_and_whole_in_the_result() {
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\", max_line: \"16MiB\")"));
    assert!(daemon.log().contains("runs everything that a client asks for"));
    let mut ws = daemon.ws("x");
    let mut request = call(
        "id",
        "execute",
        json!({"command": "for i in 1 2 3; do echo line $i; sleep 0.05; done; echo oops >&2; printf tail"}),
    );
    request["params"]["_meta"] = json!({"progressToken": "tok"});
    ws.send(&request.to_string());
    let (mut text, mut last) = (String::new(), 0);
    let answer = loop {
        let message = ws.next().unwrap();
        if message.get("method").is_none() {
            break message;
        }
        assert_eq!(message["params"]["progressToken"], "tok");
        let progress = message["params"]["progress"].as_u64().unwrap();
        assert!(progress > last);
        last = progress;
        text += message["params"]["message"].as_str().unwrap();
    };
    assert_eq!((text.len() as u64, last), (30, 30), "{text}");
    assert_eq!(out(&answer), "line 1\nline 2\nline 3\ntail");
    // A line of 10 MB arrives whole; more than max_line is cut and said to be.
    let long = run(&mut ws, "head -c 10000000 /dev/zero | tr '\\0' x", &[]);
    assert_eq!(out(&long).len(), 10_000_000);
    let cut = run(&mut ws, "head -c 20000000 /dev/zero | tr '\\0' x", &[]);
    assert!(out(&cut).starts_with(&"x".repeat(16 << 20)));
    assert_eq!(
        &out(&cut)[16 << 20..],
        "\n[3222784 more bytes were cut: max_line, limits.reply or limits.memory is reached]"
    );
    // The arguments are the shell's $1, $2; nothing of them is evaluated.
    assert_eq!(out(&run(&mut ws, "echo \"$2-$1\"", &["a;b", "$(c)"])), "$(c)-a;b\n");
}

#[test]
fn exec_command_ends_by_timeout_cancellation_and_disconnect() {
    let scratch = Scratch::new();
    let servers = "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\", timeout: \"30s\", stop: (term: \"100ms\"))";
    let daemon = scratch.start(&scratch.instance("t", servers));
    // A family that ignores SIGTERM and has a member in a session of its own.
    let stubborn = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 601\" & sleep 602 & while :; do sleep 603; done";
    let sleepers = || scratch.processes().iter().filter(|(_, l)| l.contains("sleep 60")).count();
    let running = || wait("the command", || (sleepers() >= 3).then_some(()));
    let over = || wait("the end of its processes", || (sleepers() == 0).then_some(()));
    let mut ws = daemon.ws("x");
    let late = ws.ask(&call(1, "execute", json!({"command": stubborn, "timeout": 0.3})));
    let s = &late["result"]["structuredContent"];
    assert_eq!(
        (&s["timed_out"], &s["exit_code"], &late["result"]["isError"]),
        (&json!(true), &Value::Null, &json!(true))
    );
    assert!(late["result"]["content"].to_string().contains("ended after 300ms: the time limit"), "{late}");
    assert_eq!(sleepers(), 0, "gone before the answer");
    // Cancelled: no answer, and the next command runs.
    ws.send(&call("c", "execute", json!({"command": stubborn})).to_string());
    running();
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c"}}"#);
    over();
    assert_eq!(out(&run(&mut ws, "echo next", &[])), "next\n");
    // Disconnected, by WebSocket and by HTTP.
    ws.send(&call(2, "execute", json!({"command": stubborn})).to_string());
    running();
    drop(ws);
    over();
    let mut http = daemon.http("x");
    http.send(&call(3, "execute", json!({"command": stubborn})).to_string());
    running();
    drop(http);
    over();
    // A daemon that is stopped while a command runs tells its client.
    let mut ws = daemon.ws("x");
    ws.send(&call(4, "execute", json!({"command": stubborn})).to_string());
    running();
    kill(daemon.pid, libc::SIGQUIT);
    let told = ws.next().unwrap();
    assert!(told["error"]["message"].as_str().unwrap().contains("the command was ended"), "{told}");
    scratch.gone();
}

#[test]
fn exec_commands_run_side_by_side() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"sleep\", \"echo\"], sessions: 2)"));
    let mut ws = daemon.ws("x");
    ws.send(&call("slow", "execute", json!({"command": "sleep", "args": ["1"]})).to_string());
    ws.send(&call("fast", "execute", json!({"command": "echo"})).to_string());
    assert_eq!(ws.next().unwrap()["id"], "fast");
    assert_eq!(ws.next().unwrap()["id"], "slow");
    let _second = daemon.ws("x");
    let mcp = [("Sec-WebSocket-Protocol", "mcp")];
    assert!(Ws::try_open(daemon.address(), "/servers/x/ws", &mcp).is_err(), "sessions: 2");
}

#[test]
fn a_result_is_bounded_however_long_it_becomes_when_it_is_quoted() {
    let scratch = Scratch::new();
    let servers = "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\", max_line: \"8MiB\")";
    let daemon = scratch.start(&scratch.instance_with("t", "limits: (reply: \"2MiB\"),", servers));
    let mut ws = daemon.ws("x");
    // A control character is six bytes in JSON.
    let answer = run(&mut ws, "head -c 4000000 /dev/zero | tr '\\0' '\\001'; echo end >&2", &[]);
    let length = answer["result"]["structuredContent"].to_string().len();
    assert!((900_000..1_100_000).contains(&length), "{length}");
    assert!(out(&answer).contains("more bytes were cut"));
    assert_eq!(answer["result"]["structuredContent"]["stderr"], "end\n");
}

#[test]
fn commands_of_a_server_that_was_replaced_stay_in_reach() {
    let scratch = Scratch::new();
    let exec = "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\")";
    let daemon = scratch.start(&scratch.instance("t", exec));
    let sleepers = |what: &str| scratch.processes().iter().filter(|(_, l)| l.contains(what)).count();
    let (mut ws, mut http) = (daemon.ws("x"), daemon.http("x"));
    ws.send(&call("a", "execute", json!({"command": "sleep 6001"})).to_string());
    ws.send(&call("b", "execute", json!({"command": "sleep 6002"})).to_string());
    http.send(&call(1, "execute", json!({"command": "sleep 6003"})).to_string());
    wait("the commands", || (["6001", "6002", "6003"].iter().all(|n| sleepers(n) > 0)).then_some(()));
    scratch.instance("t", &stdio("x", &[], ""));
    assert!(scratch.ctl(&["reload", "t"]).status.success());
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}"#);
    wait("its end", || (sleepers("6001") == 0).then_some(()));
    drop(http);
    wait("the end of what nobody waits for", || (sleepers("6003") == 0).then_some(()));
    assert!(sleepers("6002") > 0);
    for _ in 0..2 {
        kill(daemon.pid, libc::SIGTERM);
    }
    let told = wait("the error", || ws.next().filter(|m| m["id"] == "b"));
    assert!(told["error"]["message"].as_str().unwrap().contains("the command was ended"), "{told}");
    scratch.gone();
}

#[test]
fn a_stop_does_not_leave_a_stubborn_command_behind() {
    let scratch = Scratch::new();
    let servers = "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\", stop: (term: \"13s\"))";
    let daemon = scratch.start(&scratch.instance("t", servers));
    let mut ws = daemon.ws("x");
    // Without our mark in its environment, only its parent knows it.
    let number = format!("{}", 700_000_000 + u64::from(std::process::id()));
    let stubborn = format!("exec env -i /bin/sh -c 'trap \"\" TERM; sleep {number}; sleep {number}'");
    ws.send(&call(1, "execute", json!({"command": stubborn})).to_string());
    let running = || {
        let all = std::process::Command::new("ps").args(["-eo", "stat,args"]).output().unwrap();
        stdout(&all).lines().any(|l| l.contains(&number) && !l.starts_with('Z'))
    };
    wait("the command", || running().then_some(()));
    // As long as it is told to wait, and no longer, and not shorter either.
    kill(daemon.pid, libc::SIGTERM);
    kill(daemon.pid, libc::SIGTERM);
    wait("the end", || (!alive(daemon.pid)).then_some(()));
    assert!(!running());
    scratch.gone();
}

#[test]
fn progress_cuts_no_character() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\")"));
    let mut ws = daemon.ws("x");
    let mut request = call(1, "execute", json!({"command": "yes € | head -n 100000 | tr -d '\\n'"}));
    request["params"]["_meta"] = json!({"progressToken": "t"});
    ws.send(&request.to_string());
    let mut text = String::new();
    loop {
        let message = ws.next().unwrap();
        match message["params"]["message"].as_str() {
            Some(piece) => text += piece,
            None => break,
        }
    }
    assert!(
        text == "€".repeat(100_000),
        "{} characters, {} lost",
        text.chars().count(),
        text.matches('\u{fffd}').count()
    );
}

#[test]
fn a_client_that_does_not_read_progress_slows_the_command() {
    let scratch = Scratch::new();
    let daemon =
        scratch.start(&scratch.instance("t", "\"x\": Exec(allow: [\"*\"], shell: \"/bin/sh\", max_line: \"1GiB\")"));
    let mut ws = daemon.ws("x");
    let mut request =
        call(1, "execute", json!({"command": "yes 0123456789012345678901234567890123456789 | head -c 200000000"}));
    request["params"]["_meta"] = json!({"progressToken": 1});
    let before = daemon.status()["process"]["memory_bytes"].as_u64().unwrap();
    ws.send(&request.to_string());
    let written = || {
        let head = scratch.processes().iter().find(|(_, line)| line.starts_with("head -c"))?.0;
        let io = std::fs::read_to_string(format!("/proc/{head}/io")).ok()?;
        io.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse::<u64>().ok())
    };
    let mut last = (0, std::time::Instant::now());
    wait("the command to stand still", || {
        let now = written()?;
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        (now > 0 && last.1.elapsed().as_millis() > 500).then_some(())
    });
    let grown = daemon.status()["process"]["memory_bytes"].as_u64().unwrap().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes");
    drop(ws);
    wait("its end", || (!scratch.processes().iter().any(|(_, l)| l.starts_with("head -c"))).then_some(()));
}

#[test]
fn a_command_that_no_system_takes_is_refused_before_it_is_read() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", "\"run\": Exec(allow: [\"echo\"])"));
    let mut ws = daemon.ws("run");
    ws.ask(&initialize(json!(0)));
    let words = "a ".repeat(3 << 20);
    for asked in [
        call(1, "execute", json!({"command": "echo", "args": vec![""; 2 << 20]})),
        json!({"jsonrpc": "2.0", "id": 1, "method": "execute", "params": {"command": format!("echo {words}")}}),
    ] {
        let answer = ws.ask(&asked);
        let why = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(why, "a command is no longer than 4 MiB with its arguments");
    }
    let answer = ws.ask(&call(2, "execute", json!({"command": "echo", "args": ["x"]})));
    assert_eq!(said(&answer), "x\n");
}
