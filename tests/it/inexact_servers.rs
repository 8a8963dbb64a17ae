//! Servers as people have them: inexact, and meaning one thing only; slow, silent, and with the cause in another place.

use std::time::Instant;

use serde_json::json;

use crate::harness::*;

/// A server in Python that answers with what `say(message)` writes for each request.
fn python(scratch: &Scratch, name: &str, say: &str) -> String {
    let text = format!(
        r#"
import json, sys
INFO = {{"protocolVersion": "2025-06-18", "capabilities": {{"tools": {{"listChanged": True}}}}, "serverInfo": {{"name": "py", "version": "1"}}}}
def result(m):
    if m["method"] == "initialize":
        return dict(INFO)
    return {{"content": [{{"type": "text", "text": json.dumps(m)}}]}}
{say}
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m and "method" in m:
        say(m)
"#
    );
    let file = scratch.write(&format!("{name}.py"), &text);
    format!("{name:?}: Stdio(command: [\"python3\", {:?}], start_timeout: \"20s\"),", file.display().to_string())
}

fn failed_start(scratch: &Scratch, servers: &str) -> String {
    let out = scratch.run(mcpdaemon(), &["-c", &scratch.instance("t", servers).display().to_string()]);
    assert_eq!(code(&out), 70, "{}{}", stdout(&out), stderr(&out));
    stderr(&out)
}

#[test]
fn a_byte_order_mark_before_a_line_of_a_child_is_skipped() {
    let scratch = Scratch::new();
    let say = "def say(m): print('\\ufeff' + json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}), flush=True)\n\
               sys.stdout.reconfigure(encoding='utf-8')";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "bom", say)));
    let answer = daemon.http("bom").ask(&call(1, "t", json!({})));
    assert!(said(&answer).contains("tools/call"));
}

#[test]
fn byte_order_marks_without_end_in_a_line_of_a_child_are_garbage() {
    let scratch = Scratch::new();
    // Were each skipped in a turn of its own, this would be the end of the stack.
    let say = "def say(m): print('\\ufeff' * 300000 + '{}\\n' + json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': \
               result(m)}), flush=True)\nsys.stdout.reconfigure(encoding='utf-8')";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "marks", say)));
    assert!(said(&daemon.http("marks").ask(&call(1, "t", json!({})))).contains("tools/call"));
}

#[test]
fn the_id_of_a_reply_in_another_json_type_is_understood() {
    let scratch = Scratch::new();
    let mut servers = String::new();
    for (name, id) in [("string", "str(m['id'])"), ("float", "float(m['id'])")] {
        let say =
            format!("def say(m): print(json.dumps({{'jsonrpc': '2.0', 'id': {id}, 'result': result(m)}}), flush=True)");
        servers += &python(&scratch, name, &say);
    }
    let daemon = scratch.start(&scratch.instance("t", &servers));
    for name in ["string", "float"] {
        let answer = daemon.http(name).ask(&call("mine", "t", json!({})));
        assert_eq!(answer["id"], "mine", "{name}: {answer}");
    }
}

#[test]
fn a_reply_without_a_version_and_a_notification_with_null_params_count() {
    let scratch = Scratch::new();
    let say = "def say(m):\n    print(json.dumps({'jsonrpc': '2.0', 'method': 'notifications/tools/list_changed', 'params': None}), flush=True)\n    \
               print(json.dumps({'level': 'info', 'id': m['id'], 'error': 'a line of a log'}), flush=True)\n    \
               print(json.dumps({'id': m['id'], 'result': result(m)}), flush=True)";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "bare", say)));
    let mut http = daemon.http("bare");
    let mut stream = http.stream();
    let answer = http.ask(&call(1, "t", json!({})));
    assert_eq!((&answer["jsonrpc"], answer["result"].is_object()), (&json!("2.0"), true), "{answer}");
    assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed");
}

#[test]
fn a_server_of_the_draft_revision_is_served() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--revision", "2024-10-07"]);
    let mut http = daemon.http("fake");
    assert_eq!(said(&http.ask(&call(1, "echo", json!({"text": "hi"})))), "hi");
}

#[test]
fn pretty_printed_messages_fail_at_once_and_say_why() {
    let scratch = Scratch::new();
    let begin = Instant::now();
    for indent in ["2", "4", "'\\t'"] {
        let say = format!(
            "def say(m): print(json.dumps({{'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}}, indent={indent}), flush=True)"
        );
        let why = failed_start(&scratch, &python(&scratch, "pretty", &say));
        assert!(why.contains("is not one message per line"), "{why}");
    }
    // Also later: a call does not wait for its timeout.
    let say = "def say(m): print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}, \
               indent=None if m['method'] == 'initialize' else 2), flush=True)";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "later", say)));
    let answer = daemon.http("later").ask(&call(1, "t", json!({})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not one message per line"), "{answer}");
    assert!(begin.elapsed() < LONG);
}

#[test]
fn an_error_without_an_id_answers_the_handshake() {
    let scratch = Scratch::new();
    let say = "def say(m): print(json.dumps({'jsonrpc': '2.0', 'id': None, 'error': {'code': -32700, 'message': 'I do not understand'}}), flush=True)";
    let begin = Instant::now();
    let why = failed_start(&scratch, &python(&scratch, "deaf", say));
    assert!(why.contains("I do not understand") && begin.elapsed() < LONG, "{why}");
}

#[test]
fn the_cause_is_found_on_standard_output_too() {
    let scratch = Scratch::new();
    for (command, cause) in [
        (r#"["sh", "-c", "echo 'Error: API_KEY is not set'; sleep 99"]"#, "Error: API_KEY is not set"),
        (r#"["sh", "-c", "echo 'Error: API_KEY is not set'; exit 1"]"#, "Error: API_KEY is not set"),
        (r#"["python3", "-c", "print('Serving HTTP'); import time; time.sleep(99)"]"#, "Serving HTTP"),
    ] {
        let server = format!("\"s\": Stdio(command: {command}, start_timeout: \"300ms\", stop: (stdin: \"50ms\")),");
        let why = failed_start(&scratch, &server);
        assert!(why.contains(cause), "{why}");
        assert!(why.contains(&scratch.path("t.log").display().to_string()), "the log is named: {why}");
    }
}

#[test]
fn a_server_that_says_nothing_at_all_is_said_to_be_silent() {
    let scratch = Scratch::new();
    let server = "\"s\": Stdio(command: [\"sleep\", \"99\"], start_timeout: \"300ms\", stop: (stdin: \"50ms\")),";
    let why = failed_start(&scratch, server);
    assert!(why.contains("nothing came on its standard output"), "{why}");
}

#[test]
fn python_children_do_not_keep_their_output_in_a_buffer() {
    let scratch = Scratch::new();
    let say = "def say(m): print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}))";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "lazy", say)));
    daemon.http("lazy").ask(&call(1, "t", json!({})));
}

/// What node and python write when a program dies of what is not there.
#[test]
fn the_line_that_names_the_cause_of_death_is_told() {
    let scratch = Scratch::new();
    scratch.write("throw.js", "throw new Error('the key is missing')\n");
    scratch.write("require.js", "require('nosuchmodule')\n");
    scratch.write("import.py", "import nosuchmodule\n");
    let long = "console.error('Error: Could not locate the bindings file. Tried:'); \
                for (let i = 0; i < 30; i++) console.error(' - /path/' + i); process.exit(1)";
    scratch.write("native.js", long);
    for (program, file, cause) in [
        ("node", "throw.js", "Error: the key is missing"),
        ("node", "require.js", "Error: Cannot find module 'nosuchmodule'"),
        ("python3", "import.py", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("node", "native.js", "Error: Could not locate the bindings file"),
    ] {
        let file = scratch.path(file).display().to_string();
        let server = format!("\"s\": Stdio(command: [{program:?}, {file:?}]),");
        let why = failed_start(&scratch, &server);
        assert!(why.contains(cause), "{program}: {why}");
        // In the status there is one line for it, and only for who may read the log.
        let optional =
            format!("\"s\": Stdio(command: [{program:?}, {file:?}], required: false),") + &stdio("fake", &[], "");
        let daemon = scratch.start(&scratch.instance("o", &optional));
        wait("its failure", || daemon.log().contains("its last words").then_some(()));
        let text = wait("the cause", || {
            Some(stdout(&scratch.ctl(&["status", "o"]))).filter(|text| text.contains("its last words"))
        });
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("its last words")).collect();
        assert!(lines.len() == 1 && lines[0].contains(cause) && !lines[0].contains(" | "), "{text}");
        assert_eq!(text.matches(cause).count(), 1, "{text}");
        let document = daemon.status().to_string();
        assert!(!document.contains(cause), "what a child says is not for everybody: {document}");
    }
}

#[test]
fn a_private_child_that_dies_tells_its_client_the_cause() {
    let scratch = Scratch::new();
    let say = "def say(m):\n    if m['method'] == 'tools/call':\n        sys.stderr.write('Error: disk quota exceeded\\n' + '  at line\\n' * 20 + 'bye\\n'); sys.exit(1)\n    \
               print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}), flush=True)";
    let server = python(&scratch, "own", say).replace("start_timeout", "sharing: PerSession(), start_timeout");
    let daemon = scratch.start(&scratch.instance("t", &server));
    let answer = daemon.http("own").ask(&call(1, "t", json!({})));
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("exited with status 1: Error: disk quota exceeded"), "{why}");
}

#[test]
fn a_server_that_is_slow_at_first_gets_longer_each_time_and_is_ready_in_the_end() {
    let scratch = Scratch::new();
    let done = scratch.path("done");
    // What it installs is thrown away each time that it is ended before.
    let script = format!("test -e {0} || {{ sleep 2.5; touch {0}; }}; exec {1}", done.display(), fake());
    let server =
        format!("\"s\": Stdio(command: [\"sh\", \"-c\", {script:?}], start_timeout: \"1s\", stop: (stdin: \"50ms\")),");
    let out = scratch.run(mcpdaemon(), &["-c", &scratch.instance("t", &server).display().to_string()]);
    assert!(out.status.success(), "{}", stderr(&out));
    let daemon = scratch.started(&stdout(&out));
    assert!(
        stderr(&out).contains("still starting after") && stderr(&out).contains("server 's' is"),
        "{}",
        stderr(&out)
    );
    let log = daemon.log();
    assert!(log.contains("within 1s (start_timeout)"), "{log}");
    daemon.http("s").ask(&call(1, "echo", json!({"text": "x"})));
}

#[test]
fn a_server_that_shows_life_is_not_ended_while_it_starts() {
    let scratch = Scratch::new();
    let script = format!("for i in 1 2 3 4 5; do sleep 0.4; echo fetching $i >&2; done; exec {}", fake());
    let server = format!("\"s\": Stdio(command: [\"sh\", \"-c\", {script:?}], start_timeout: \"600ms\"),");
    let daemon = scratch.start(&scratch.instance("t", &server));
    assert!(!daemon.log().contains("did not answer"), "{}", daemon.log());
}

#[test]
fn servers_that_wait_for_each_other_are_started_a_few_at_a_time() {
    let scratch = Scratch::new();
    let lock = scratch.path("lock").display().to_string();
    let script = format!("exec 9>{lock}; flock 9; sleep 0.4; flock -u 9; exec 9>&-; exec {}", fake());
    let servers: String = (0..12)
        .map(|n| format!("\"s{n}\": Stdio(command: [\"sh\", \"-c\", {script:?}], start_timeout: \"2s\"),"))
        .collect();
    let daemon = scratch.start(&scratch.instance("t", &servers));
    assert_eq!(daemon.status()["servers"].as_array().unwrap().len(), 12);
    assert!(!daemon.log().contains("did not answer"), "{}", daemon.log());
}

#[test]
fn a_waiting_start_that_is_interrupted_is_over() {
    let scratch = Scratch::new();
    let slow =
        stdio("slow", &["--slow-init", "60000"], "start_timeout: \"90s\", stop: (stdin: \"50ms\", term: \"50ms\"),");
    let file = scratch.instance("t", &slow).display().to_string();
    let mut start =
        scratch.command(mcpdaemon()).args(["-c", &file]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait("the daemon", || (scratch.processes().len() > 3).then_some(()));
    kill(start.id() as i32, 2);
    assert!(!start.wait().unwrap().success());
    scratch.gone();
    assert!(scratch.file("t.log").contains("whoever started it is gone"), "{}", scratch.file("t.log"));
    // Nothing is in the way of the next one.
    scratch.start(&scratch.instance("t", &stdio("slow", &[], "")));
}

#[test]
fn a_container_that_may_outlive_its_command_is_warned_of() {
    let scratch = Scratch::new();
    let docker = scratch.write("docker", "#!/bin/sh\n");
    std::fs::set_permissions(&docker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let test = |args: &str, more: &str| {
        let text = format!("\"d\": Stdio(command: [{:?}, {args}], {more}),", docker.display().to_string());
        let file = scratch.instance("t", &text).display().to_string();
        let out = scratch.run(mcpdaemon(), &["-t", "-c", &file]);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        stderr(&out)
    };
    let run = "\"run\", \"-i\", \"--rm\", \"mcp/time\"";
    let said = test(run, "");
    assert!(said.contains("server 'd': a container can outlive 'docker run': give it a name"), "{said}");
    assert_eq!(test(run, "stop: (command: [\"true\"])"), "");
    assert_eq!(test("\"exec\", \"-i\", \"x\"", ""), "");
}

#[test]
fn the_stop_command_ends_what_signals_do_not_reach() {
    let scratch = Scratch::new();
    let (gone, server) = (scratch.path("gone"), fake());
    let stop = format!("echo $MCP_INSTANCE $MCP_SERVER ${{MCP_CHILD_PID:-none}} >>{}", gone.display());
    let stop = stop.replace('$', "$$");
    let text = format!("\"s\": Stdio(command: [{server:?}], stop: (command: [\"sh\", \"-c\", {stop:?}])),");
    let daemon = scratch.start(&scratch.instance("t", &text));
    let child = daemon.child("s");
    daemon.stop();
    assert_eq!(scratch.file("gone"), format!("t s {child}\n"));
    // A daemon that is killed cannot run it, so the next one does before it starts anything.
    let daemon = scratch.start(&scratch.path("t.ron"));
    kill(daemon.pid, 9);
    scratch.gone();
    let daemon = scratch.start(&scratch.path("t.ron"));
    assert_eq!(scratch.file("gone").lines().nth(1), Some("t s none"));
    drop(daemon);
}

#[test]
fn messages_in_one_line_and_between_colours_are_understood() {
    let scratch = Scratch::new();
    let mut servers = String::new();
    for (name, say) in [
        ("coloured", "sys.stdout.write('\\x1b[0m\\x1b]0;server\\x07' + text + '\\x1b[K\\n')"),
        (
            "together",
            "sys.stdout.write(json.dumps({'jsonrpc': '2.0', 'method': 'notifications/message', 'params': {}}) + text + '\\n')",
        ),
    ] {
        let say = format!(
            "def say(m):\n    text = json.dumps({{'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}})\n    {say}; sys.stdout.flush()"
        );
        servers += &python(&scratch, name, &say);
    }
    let daemon = scratch.start(&scratch.instance("t", &servers));
    for name in ["coloured", "together"] {
        assert!(said(&daemon.http(name).ask(&call(1, "t", json!({})))).contains("tools/call"), "{name}");
    }
}

#[test]
fn a_message_behind_other_text_is_not_taken_and_said_once() {
    let scratch = Scratch::new();
    let say = "def say(m):\n    text = json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)})\n    \
               print(('Loading...' if m['method'] == 'tools/call' else '') + text, flush=True)";
    let server = python(&scratch, "mixed", say).replace("start_timeout", "request_timeout: \"500ms\", start_timeout");
    let daemon = scratch.start(&scratch.instance("t", &server));
    let mut http = daemon.http("mixed");
    for n in 0..2 {
        let answer = http.ask(&call(n, "t", json!({})));
        assert!(answer["error"]["message"].as_str().unwrap().contains("did not answer within"), "{answer}");
    }
    let log = daemon.log();
    assert_eq!(log.matches("a message stands behind other text in a line").count(), 1, "{log}");
}

#[test]
fn an_answer_by_no_id_fails_the_one_open_call_at_once_and_keeps_the_child() {
    let scratch = Scratch::new();
    // It answers what it does not know, also notifications, without an id.
    let say = "def say(m):\n    if m['method'] == 'initialize':\n        print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}), flush=True)\n    \
               else:\n        print(json.dumps({'jsonrpc': '2.0', 'id': None, 'error': {'code': -32601, 'message': 'what?'}}), flush=True)";
    let server = python(&scratch, "null", say)
        .replace("start_timeout", "health: (interval: \"300ms\", timeout: \"200ms\", failures: 1), start_timeout");
    let text = scratch.file("null.py").replace("if \"id\" in m and", "if");
    scratch.write("null.py", &text);
    let daemon = scratch.start(&scratch.instance("t", &server));
    let child = daemon.child("null");
    let begin = Instant::now();
    let mut http = daemon.http("null");
    for n in 0..3 {
        let answer = http.ask(&call(n, "t", json!({})));
        let why = answer["error"]["message"].as_str().unwrap();
        assert!(why.contains("answered with the id null, which nobody asked by") && why.contains("what?"), "{answer}");
    }
    assert!(begin.elapsed().as_secs() < 30, "not at the timeout");
    // Several looks at its health later it is the same one: whatever it says, it lives.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!((daemon.child("null"), &daemon.server("null")["restarts"]), (child, &json!(0)));
}

#[test]
fn a_notification_that_is_answered_does_not_fail_the_call_behind_it() {
    let scratch = Scratch::new();
    let say = "def say(m):\n    if 'id' in m:\n        import time; time.sleep(0.3)\n        print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}), flush=True)\n    \
               else:\n        time = __import__('time'); time.sleep(0.5); print(json.dumps({'jsonrpc': '2.0', 'id': None, 'error': {'code': -32601, 'message': 'what?'}}), flush=True)";
    let server = python(&scratch, "eager", say);
    let text = scratch.file("eager.py").replace("if \"id\" in m and", "if");
    scratch.write("eager.py", &text);
    let daemon = scratch.start(&scratch.instance("t", &server));
    let answer = daemon.http("eager").ask(&call(1, "t", json!({})));
    assert!(said(&answer).contains("tools/call"), "{answer}");
}

#[test]
fn what_came_before_a_page_that_is_not_to_be_had_is_listed() {
    let scratch = Scratch::new();
    let mut servers = String::new();
    for (name, second) in
        [("refuses", "{'error': {'code': -32602, 'message': 'Invalid cursor'}}"), ("nothing", "{'result': {}}")]
    {
        let say = format!(
            "def say(m):\n    if m['method'] == 'tools/list':\n        first = {{'result': {{'tools': [{{'name': 'n%d' % n, 'inputSchema': {{'type': 'object'}}}} for n in range(50)], 'nextCursor': 'x'}}}}\n        \
             rest = {second}\n        print(json.dumps({{'jsonrpc': '2.0', 'id': m['id'], **(rest if 'cursor' in m.get('params', {{}}) else first)}}), flush=True)\n    \
             else:\n        print(json.dumps({{'jsonrpc': '2.0', 'id': m['id'], 'result': result(m)}}), flush=True)"
        );
        servers += &python(&scratch, name, &say);
    }
    let daemon = scratch.start(&scratch.instance_with("t", "bridge: Prefix,", &servers));
    let mut http = Http::open_at(daemon.address(), "/mcp");
    let list = http.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 100, "{list:.300}");
    for name in ["refuses", "nothing"] {
        assert!(
            daemon
                .log()
                .contains(&format!("server '{name}': only the first 50 of its tools are shown: a further page"))
        );
    }
}

#[test]
fn what_a_server_says_while_it_is_waited_for_is_told_at_once() {
    let scratch = Scratch::new();
    let silent =
        "\"x\": Stdio(command: [\"sh\", \"-c\", \"echo Error: API_KEY is not set; sleep 99\"], start_timeout: \"30s\")";
    let mut command = scratch.command(mcpdaemon());
    let file = scratch.instance("t", silent);
    let mut start = command.arg("-c").arg(&file).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(start.stderr.take().unwrap()), &mut first).unwrap();
    assert!(first.contains("server 'x' is starting; it said: Error: API_KEY is not set\n"), "{first}");
    kill(start.id() as i32, 2);
    wait("its end", || start.try_wait().unwrap());
    scratch.gone();
}

#[test]
fn what_is_null_in_a_servers_messages_is_not_there() {
    let scratch = Scratch::new();
    let say = "INFO['capabilities'] = None\n\
               def say(m):\n    print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'method': None, 'error': None, 'result': result(m)}), flush=True)";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "nulls", say)));
    assert!(said(&daemon.http("nulls").ask(&call(1, "t", json!({})))).contains("tools/call"));
}

#[test]
fn a_reply_that_is_no_json_is_told_with_the_place() {
    let scratch = Scratch::new();
    let say = "def say(m):\n    r = result(m)\n    if m['method'] == 'tools/call': r['structuredContent'] = {'text': 'y' * 2000, 'x': float('nan')}\n    \
               print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': r}), flush=True)";
    let daemon = scratch.start(&scratch.instance("t", &python(&scratch, "nan", say)));
    let answer = daemon.http("nan").ask(&call(1, "t", json!({})));
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("is not valid (it is no JSON from byte 2") && why.contains("at 'NaN"), "{why}");
}

#[test]
fn a_start_that_fails_for_its_output_its_interpreter_or_its_variables_says_so() {
    let scratch = Scratch::new();
    let silent = "\"s\": Stdio(command: [\"sh\", \"-c\", \"exec 1>&-; exec sleep 60\"])";
    let said = failed_start(&scratch, silent);
    assert!(said.contains("server 's': closed its input or output before it answered 'initialize'"), "{said}");
    for (first, why) in [
        ("#!/bin/sh\r", "its first line asks for '/bin/sh', which is not there: the file has the line ends of Windows"),
        ("#!/no/such/python -u", "its first line asks for '/no/such/python', which is not there"),
    ] {
        let script = scratch.write("script", &format!("{first}\nexit 0\n"));
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let said = failed_start(&scratch, &format!("\"s\": Stdio(command: [{:?}])", script.display().to_string()));
        assert!(said.contains(why), "{said}");
    }
    scratch.write("vars", "A=b\nKEY=x\0y\n");
    let file = scratch.instance("t", &stdio("fake", &[], "env_file: [\"vars\"]")).display().to_string();
    let out = scratch.run(mcpdaemon(), &["-t", "-c", &file]);
    assert!(code(&out) == 78 && stderr(&out).contains("line 2: there is a NUL character in it"), "{}", stderr(&out));
}

#[test]
fn a_server_that_is_asked_for_does_not_wait_behind_starts_that_hang() {
    let scratch = Scratch::new();
    let mut servers = stdio("asked", &[], "start: OnDemand(), required: false");
    for n in 0..8 {
        servers += &stdio(&format!("hangs{n}"), &["--never-answer"], "required: false");
    }
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let begin = Instant::now();
    assert_eq!(said(&daemon.http("asked").ask(&call(1, "echo", json!({"text": "here"})))), "here");
    assert!(begin.elapsed().as_secs() < 8, "{:?}", begin.elapsed());
}
