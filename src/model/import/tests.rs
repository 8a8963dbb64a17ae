//! What becomes of the files of clients.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
#[cfg(feature = "remote")]
use crate::model::config::Line;
use crate::model::config::{Given, Input as File, Kind, Mcp, Stdio, Surroundings, load};

/// The commands of an instance file.
fn loaded(text: &str) -> BTreeMap<String, Stdio> {
    let all = servers(text).into_iter();
    all.filter_map(|(name, server)| Some((name, server.stdio()?.clone()))).collect()
}

/// Loads an instance file where every program and folder exists.
fn servers(text: &str) -> BTreeMap<String, Mcp> {
    let var = |name: &str| match name {
        "HOME" => Some("/home/u".to_owned()),
        "TOKEN" | "API_KEY" | "NO" | "SEAT" => Some("s3cret".to_owned()),
        "WORKSPACE_FOLDER" => Some("/work".to_owned()),
        _ => None,
    };
    let find_program = |name: &str, _: Option<&str>| Some(PathBuf::from(format!("/found/{name}")));
    let around = Surroundings {
        var: &var,
        find_program: &find_program,
        is_dir: &|_: &Path| true,
        account: &|_, _| Err(String::new()),
        group: &|_| Ok(42),
        read: &|_| Err(String::new()),
        uid: 1000,
        gid: 1000,
        memory: 8 << 30,
    };
    let input = File {
        file: Some("x.ron".into()),
        stem: "x".to_owned(),
        dir: "/dir".into(),
        text,
        parts: Vec::new(),
        log_dir: "/log".into(),
        divides: false,
    };
    let config = load(&input, &Given::default(), &around).unwrap_or_else(|p| panic!("{p:?}\n{text}")).config;
    let all = config.servers.into_iter().map(|(name, server)| match server.kind {
        Kind::Mcp(mcp) => (name, *mcp),
        Kind::Exec(_) | Kind::Bridge(_) => panic!("{name}"),
    });
    all.collect()
}

fn refused(text: &str) -> String {
    import("c.json", text).expect_err(text).to_string()
}

#[test]
#[cfg(feature = "remote")]
fn the_files_of_three_clients() {
    let desktop = r#"{"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "UTC"}}}}"#;
    let imported = import("c.json", desktop).unwrap();
    assert_eq!((imported.servers, imported.left_out), (1, 0));
    assert!(imported.text.contains("chmod 600"), "{}", imported.text);
    let server = &loaded(&imported.text)["time"];
    assert_eq!((server.program.to_str(), &server.args[..]), (Some("/found/uvx"), &["mcp-server-time".to_owned()][..]));
    assert_eq!(server.environment.set["TZ"], "UTC");

    let cursor = r#"{"mcpServers": {
        "My Server!": {"type": "stdio", "command": "${userHome}/bin/run", "args": ["--port", 8080, "${env:TOKEN}$", "a${/}b"],
            "envFile": ".env", "autoApprove": ["x"]},
        "far": {"url": "https://f.example/mcp?key=hunter2", "headers": {"Authorization": "hunter3"}},
        "old": {"command": "old", "env": {"A": "1"}, "disabled": true}
    }}"#;
    let imported = import("c.json", cursor).unwrap();
    assert_eq!((imported.servers, imported.left_out), (2, 1));
    let text = &imported.text;
    for wanted in [
        "        // Its name was \"My Server!\", which cannot be one here.\n",
        "            env_file: [\".env\"],\n",
        "        // Without an equivalent here: \"autoApprove\": [\"x\"].\n        \"My-Server\": Stdio(\n",
        "        \"far\": Http(\n            url: \"https://f.example/mcp?key=hunter2\",\n            headers: {\n                \"Authorization\": \"hunter3\",\n            },\n        ),\n",
        "        // \"old\" is not carried over: it is switched off there.\n        // \"old\": Stdio(\n        //     command: [\"old\"],\n",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let server = &loaded(&text.replace("env_file: [\".env\"],", ""))["My-Server"];
    assert_eq!(server.program, Path::new("/home/u/bin/run"));
    assert_eq!(server.args, ["--port", "8080", "s3cret$", "a/b"]);
    assert_eq!(imported.summary(), "2 servers imported; 1 not carried over, the comments say why");

    let code = r#"// what VS Code writes
    {
        "inputs": [
            {"type": "promptString", "id": "api-key", "description": "The key", "password": true},
            {"type": "pickString", "id": "level", "options": ["a"], "default": "low",},
        ],
        "servers": {
            "s": {
                "type": "stdio", /* here */
                "command": "node",
                "args": ["${workspaceFolder}/s.js", "${input:api-key}", "--level=${input:level}", "${config:x}", "${input:no}"],
                "env": {"N": null, "K": "${input:api-key}", "L": "${LITERAL}"},
                "cwd": "sub",
            },
            "h": {"type": "http", "url": "https://h.example"},
        },
    }"#;
    let imported = import("c.json", code).unwrap();
    let text = &imported.text;
    for wanted in [
        "// \"${workspaceFolder}\" is WORKSPACE_FOLDER here: set it, or write the path.\n",
        "// \"api-key\" (The key) was asked for by the client: set API_KEY for the daemon.\n",
        "// \"level\" was asked for by the client: set LEVEL for the daemon.\n",
        "// \"no\" was asked for by the client: set NO for the daemon.\n",
        "// \"${config:x}\" arrives as it is written; if a variable of the daemon is meant, take one $ away.\n",
        "// \"${LITERAL}\" arrives as it is written; if a variable of the daemon is meant, take one $ away.\n",
        "// \"N\" in `env` is left out: it is null.\n",
        "// A relative path starts at the folder of this file.\n",
        "        // Should it want OAuth, mcp-remote can do that: mcpdaemon.ron(5), KEYS OF AN HTTP SERVER.\n        \"h\": Http(\n            url: \"https://h.example\",\n        ),\n",
        "\"--level=${LEVEL:-low}\"",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let server = &loaded(&text.replace("${NO}", "no"))["s"];
    assert_eq!(server.args, ["/work/s.js", "s3cret", "--level=low", "${config:x}", "no"]);
    assert_eq!((server.environment.set["L"].as_str(), server.environment.set.len()), ("${LITERAL}", 2));
    assert_eq!(server.cwd.as_deref(), Some(Path::new("/dir/sub")));
    // The same as a part of its settings, with a mark of byte order.
    let settings = format!("\u{feff}{{\"mcp\": {}}}", code.split_once('\n').unwrap().1);
    assert_eq!(import("c.json", &settings).unwrap().text, *text);
}

#[test]
fn what_only_looks_like_a_variable_arrives_as_it_is() {
    let words = [
        "${userHome:}",
        "${input}",
        "${env:}",
        "${env:A B}",
        "${/:}",
        "$${env:TOKEN}",
        "~${env:TOKEN}",
        "a}${",
        "${}",
        "${env:TOKEN}$${env:TOKEN}~/",
    ];
    let text = json!({"servers": {"a": {"command": "x", "args": words}}}).to_string();
    let args = &loaded(&import("c.json", &text).unwrap().text)["a"].args;
    assert_eq!(args[..5], words[..5]);
    assert_eq!(args[5..], ["$s3cret", "~s3cret", "a}${", "${}", "s3cret$s3cret~/"]);
}

#[test]
fn a_mistake_has_its_place() {
    for (text, wanted) in [
        ("", "c.json:1:1: EOF while parsing a value"),
        ("{\n  \"é\": 1 x}", "c.json:2:10: expected `,` or `}`"),
        (
            "{}",
            "c.json:1:1: no servers are found in it: 'mcpServers' (Claude, Cursor, Gemini and others), 'servers' (VS Code), \
             'context_servers' (Zed), 'mcp_servers' (Codex) and 'mcp' (opencode) are known",
        ),
        ("[1]", "c.json:1:1: the file: expected an object {...}, found a list"),
        ("{\"mcpServers\": {}}", "c.json:1:16: there is no server in it"),
        ("{\"mcpServers\":\n [ ]}", "c.json:2:2: the servers: expected an object {...}, found a list"),
        ("{\"mcpServers\": {\"a\": {}}}", "c.json:1:22: server \"a\": there is neither 'command' nor 'url'"),
        ("{\"mcpServers\": {\"a\": 5}}", "c.json:1:22: server \"a\": expected an object {...}, found a number"),
        (
            "{\"mcpServers\": {\"a\": {\"command\": 5}}}",
            "c.json:1:34: server \"a\", 'command': expected a string in quotes, found a number",
        ),
        ("{\"mcpServers\": {\"a\": {\"command\": []}}}", "c.json:1:34: server \"a\", 'command' is empty"),
        ("{\"mcpServers\": {\"a\": {\"command\": \"\"}}}", "c.json:1:34: server \"a\", 'command' is empty"),
        (
            "{\"mcpServers\": {\"a\": {\"command\": \"x\",\n\"args\": [\"é\", null]}}}",
            "c.json:2:15: server \"a\", 'args': expected a string in quotes, found null",
        ),
        (
            "{\"mcpServers\": {\"a\": {\"command\": \"x\", \"args\": [\"\\u0000\"]}}}",
            "c.json:1:48: a NUL character cannot be part of this",
        ),
        (
            "{\"servers\": {\"a\": {\"type\": \"http\"}}}",
            "c.json:1:13: none of its servers can be run here; \"a\": it is a remote server without a URL",
        ),
        ("{\"servers\": {}, \"inputs\": [{}]}", "c.json:1:28: an element of 'inputs' has no 'id'"),
        ("{ /* ", "c.json:1:3: this comment has no end"),
    ] {
        assert_eq!(refused(text), wanted);
    }
}

#[test]
fn objects_in_objects_are_not_followed_to_the_end_of_the_stack() {
    for key in ["command", "cmd", "path"] {
        let deep = format!("{{\"{key}\":").repeat(200_000) + "1" + &"}".repeat(200_000);
        refused(&format!("{{\"mcpServers\": {{\"a\": {{\"command\": {deep}}}}}}}"));
    }
}

#[test]
fn names_are_made_fit_and_stay_apart() {
    for (was, name) in [
        ("fine_1.x", "fine_1.x"),
        ("My Server", "My-Server"),
        ("  @scope/pkg: it ", "scope-pkg-it"),
        (".hidden", "hidden"),
        ("-x-", "-x-"),
        ("日本", "server"),
        ("", "server"),
    ] {
        let name = if was == "-x-" { "x" } else { name };
        assert_eq!(fit(was), name, "{was}");
        assert!(check_name(&fit(was)).is_ok());
    }
    let text = r#"{"mcpServers": {"a b": {"command": "1"}, "a-b": {"command": "2"}, "a/b": {"command": "3"}}}"#;
    let servers = loaded(&import("c.json", text).unwrap().text);
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["a-b", "a-b-2", "a-b-3"]);
    let long = "x".repeat(64);
    let text = json!({"mcpServers": {&long: {"command": "1"}, format!("{long}y"): {"command": "2"}}}).to_string();
    assert_eq!(loaded(&import("c.json", &text).unwrap().text).len(), 2);
}

/// Imports, and loads what came of it: with its comments, and once more with the servers that are comments taken in.
fn imported(file: &str, text: &str) -> (String, BTreeMap<String, Stdio>) {
    let text = import(file, text).unwrap_or_else(|p| panic!("{p}\n{text}")).text;
    let servers = if text.contains("\n        \"") { loaded(&text) } else { BTreeMap::new() };
    (text, servers)
}

#[test]
#[cfg(feature = "remote")]
fn a_remote_server_is_one_of_http_with_what_the_client_says_of_it() {
    let file = r#"{"mcpServers": {"a": {"type": "streamable-http", "url": "https://h/mcp", "cwd": "/x", "env": {"A": "1"},
        "headers": {"Authorization": "Bearer ${env:TOKEN}", "X-Team": "ops", "Content-Type": "x", "x-team": "twice"},
        "timeout": 30000, "enabledTools": ["t"]},
        "lan": {"httpUrl": "http://lan:9/mcp"}}}"#;
    let (text, _) = imported("c.json", file);
    let servers = self::servers(&text);
    let http = |name: &str| match &servers[name].line {
        Line::Http(http) => http.clone(),
        Line::Stdio(_) => panic!("{text}"),
    };
    assert_eq!(http("a").url.whole(), "https://h/mcp");
    let headers: Vec<(String, String)> = http("a").headers.set.into_iter().collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(headers, [pair("authorization", "Bearer s3cret"), pair("x-team", "ops")]);
    assert_eq!(
        (
            servers["a"].request_timeout.as_secs(),
            servers["a"].tools.admits(Some("t")),
            servers["a"].tools.admits(Some("u"))
        ),
        (30, true, false)
    );
    assert!(
        text.contains("The header \"Content-Type\" is left out.")
            && text.contains("The header \"x-team\" is left out."),
        "{text}"
    );
    assert_eq!(http("lan").url.whole(), "http://lan:9/mcp");
}

#[test]
#[cfg(not(feature = "remote"))]
fn a_program_without_tls_offers_mcp_remote_for_what_needs_it() {
    let file = r#"{"mcpServers": {"a": {"url": "https://h/mcp"}, "b": {"url": "http://h/mcp"}}}"#;
    let (text, _) = imported("c.json", file);
    assert!(
        text.contains("it is a remote server (https://h/mcp) over TLS, without which this mcpdaemon was built."),
        "{text}"
    );
    assert_eq!(servers(&text).keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_remote_server_that_is_none_of_http_is_offered_by_mcp_remote_ready_to_be_used() {
    let file = r#"{"mcpServers": {"a": {"url": "https://h/mcp", "oauth": {},
        "headers": {"Authorization": "Bearer ${env:TOKEN}", "X-Team": "ops"}},
        "near": {"serverUrl": "http://127.0.0.1:9/sse", "type": "sse"}, "lan": {"httpUrl": "http://lan:9/sse/"}}}"#;
    let found = import("c.json", file).unwrap();
    assert_eq!(found.summary(), "0 servers imported; 3 not carried over, the comments say why");
    let live = found.text.replace("        // \"", "        \"").replace("        //     ", "            ");
    let live = live.replace("        // ),", "        ),").replace("        //   ", "        ");
    let quoted: Vec<&str> =
        live.lines().filter(|l| !l.trim().starts_with("\"a\" is") && !l.contains("not carried")).collect();
    let servers = loaded(&quoted.join("\n"));
    let a = &servers["a"];
    let wanted = [
        "-y",
        "mcp-remote",
        "https://h/mcp",
        "--header",
        "Authorization:${AUTHORIZATION}",
        "--header",
        "X-Team:${X_TEAM}",
    ];
    assert_eq!((a.program.as_path(), &a.args[..]), (Path::new("/found/npx"), &wanted.map(str::to_owned)[..]));
    assert_eq!(
        (a.environment.set["AUTHORIZATION"].as_str(), a.environment.set["X_TEAM"].as_str()),
        ("Bearer s3cret", "ops")
    );
    assert_eq!(servers["near"].args[2..], ["http://127.0.0.1:9/sse", "--transport", "sse-only"]);
    assert_eq!(servers["lan"].args[2..], ["http://lan:9/sse/", "--allow-http"]);
}

#[test]
#[cfg(feature = "remote")]
fn codex_toml_is_carried_over() {
    let file = r#"
        model = "gpt"
        [mcp_servers.docs]
        command = "npx"
        args = ["-y", "docs", "${PORT}"]
        env = { A = "1" }
        env_vars = ["TOKEN", { name = "SEAT", source = "remote" }]
        cwd = "/srv"
        startup_timeout_sec = 20
        tool_timeout_sec = 45.5
        enabled_tools = ["search", "read_*"]
        disabled_tools = ["read_all"]
        required = false
        supports_parallel_tool_calls = true
        [mcp_servers.off]
        command = "x"
        enabled = false
        [mcp_servers.far]
        url = "https://h/mcp"
        bearer_token_env_var = "TOKEN"
        env_http_headers = { X-Seat = "SEAT" }
    "#;
    for name in ["config.toml", "standard input"] {
        let (text, servers) = imported(name, file);
        assert_eq!(servers.len(), 1, "{text}");
        let docs = &servers["docs"];
        assert_eq!((docs.args.last().unwrap().as_str(), docs.cwd.as_deref()), ("${PORT}", Some(Path::new("/srv"))));
        let times = &self::servers(&text)["docs"];
        assert_eq!((times.start_timeout.as_millis(), times.request_timeout.as_millis()), (20_000, 45_500));
        for wanted in [
            "tools: (allow: [\"search\", \"read_*\"], deny: [\"read_all\"])",
            "pass_env: [\"TOKEN\", \"SEAT\"]",
            "required: false",
            "// Without an equivalent here: \"supports_parallel_tool_calls\": true.",
            "// The rest of that file is the client's own, and not carried over: \"model\".",
            "// \"off\" is not carried over: it is switched off there.",
            "\"Authorization\": \"Bearer ${TOKEN}\"",
            "\"X-Seat\": \"${SEAT}\"",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
    }
    for (text, wanted) in [
        (
            "[mcp_servers.a]\nurl = \"http://h\"\nbearer_token_env_var = \"file:/etc/x\"\n",
            "c.toml: server \"a\", 'bearer_token_env_var': \"file:/etc/x\" is no name of a variable",
        ),
        ("[mcp_servers.a]\ncommand = x\n", "c.toml:2:11: "),
        ("model = \"x\"\n", "c.toml: no servers are found in it"),
        ("[mcp_servers.a]\ncommand = [1, {}]\n", "c.toml: server \"a\", 'command': expected a string"),
    ] {
        let problem = import("c.toml", text).unwrap_err().to_string();
        assert!(problem.starts_with(wanted), "{problem}");
    }
}

#[test]
fn claude_code_has_servers_of_projects_and_replaces_variables() {
    let file = r#"{
        "numStartups": 5,
        "mcpServers": {"time": {"type": "stdio", "command": "uvx", "args": ["time"], "env": {}}},
        "projects": {
            "/work/a": {"allowedTools": [], "mcpServers": {"time": {"command": "uvx", "args": ["--at", "${TOKEN}", "${PORT:-80}"]}}},
            "/work/b": {"mcpServers": {}, "history": [{"display": "mcpServers"}]}
        }
    }"#;
    let (text, servers) = imported(".claude.json", file);
    let of_project = &servers["time-2"];
    assert_eq!((servers.len(), of_project.cwd.as_deref()), (2, Some(Path::new("/work/a"))), "{text}");
    assert_eq!(of_project.args, ["--at", "s3cret", "80"]);
    for wanted in [
        "// Its name was \"time\", which another one has.",
        "// It is a server of the project \"/work/a\".",
        "not carried over: \"numStartups\".",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    // A project's own file; elsewhere such a text is no variable.
    let file = r#"{"mcpServers": {"s": {"command": "x", "args": ["${TOKEN}"]}}}"#;
    assert_eq!(imported("/repo/.mcp.json", file).1["s"].args, ["s3cret"]);
    assert_eq!(imported("claude_desktop_config.json", file).1["s"].args, ["${TOKEN}"]);
}

#[test]
#[cfg(feature = "remote")]
fn zed_gemini_and_opencode_are_carried_over() {
    let zed = r#"{ // settings of Zed
        "theme": "One",
        "context_servers": {
            "old": {"command": {"path": "node", "args": ["s.js"], "env": {"A": "1"}}, "settings": {}},
            "new": {"source": "custom", "command": "node", "args": ["t.js"], "env": {}},
            "ext": {"source": "extension", "settings": {"x": 1}},
        }
    }"#;
    let (text, servers) = imported("settings.json", zed);
    assert_eq!((servers["old"].args[0].as_str(), servers["new"].args[0].as_str()), ("s.js", "t.js"), "{text}");
    assert_eq!(servers["old"].environment.set["A"], "1");
    assert!(
        text.contains("\"ext\" is not carried over: it has no command: an extension of the client runs it."),
        "{text}"
    );

    let gemini = r#"{"selectedAuthType": "x", "mcp": {"excluded": ["no"]}, "mcpServers": {
        "g": {"command": "python3", "args": ["$TOKEN", "${TOKEN}x", "a$"], "cwd": "./sub", "timeout": 3000, "trust": true,
              "includeTools": ["a"], "excludeTools": ["b"], "env": {"K": "$API_KEY"}},
        "no": {"command": "x"},
        "h": {"httpUrl": "https://h/mcp", "headers": {"Authorization": "Bearer $TOKEN"}, "timeout": 5000}}}"#;
    let (text, servers) = imported("/home/u/.gemini/settings.json", gemini);
    let g = &servers["g"];
    assert_eq!((servers.len(), &g.args[..]), (1, &["s3cret", "s3cretx", "a$"].map(str::to_owned)[..]), "{text}");
    assert_eq!(g.environment.set["K"], "s3cret");
    assert_eq!(self::servers(&text)["g"].request_timeout.as_millis(), 3000);
    for wanted in [
        "tools: (allow: [\"a\"], deny: [\"b\"])",
        "\"trust\": true",
        "\"no\" is not carried over: it is switched off",
        "Its timeout of 3000 is taken as milliseconds.",
        "\"Bearer ${TOKEN}\"",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }

    let opencode = r#"{"$schema": "x", "mcp": {
        "l": {"type": "local", "command": ["bun", "x", "srv", "{env:TOKEN}"], "environment": {"K": "{file:/run/key}"},
              "enabled": true, "timeout": 9000},
        "r": {"type": "remote", "url": "https://r/mcp", "headers": {"K": "{env:API_KEY}"}, "enabled": false, "oauth": {}}}}"#;
    let text = import("opencode.json", opencode).unwrap().text;
    for wanted in [
        "command: [\"bun\", \"x\", \"srv\", \"${TOKEN}\"]",
        "\"K\": \"${file:/run/key}\"",
        "start_timeout: \"9s\"",
        "\"r\" is not carried over: it is a remote server (https://r/mcp) with OAuth, which the daemon does not do",
        "\"K\": \"${API_KEY}\"",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("schema"), "{text}");
    // The servers alone, as instructions of servers have them.
    assert_eq!(imported("c.json", r#"{"t": {"command": "uvx", "args": ["t"]}}"#).1["t"].args, ["t"]);
}

#[test]
fn a_bridge_becomes_settings_of_the_instance() {
    let file = r#"{"mcpServers": {
            "b": {"command": "x", "timeout": 60, "priority": 200, "toolNamespace": "bee", "tags": ["t"], "retryDelay": 2000, "cwd": "/a", "workingDirectory": "/b",
                "healthCheck": {"enabled": true, "interval": 30000, "timeout": 5000, "maxConsecutiveFailures": 4, "toolName": "q",
                    "restartDelay": 5000},
                "security": {"read_only_mode": false, "tool_security": {"block_tools": ["rm"], "allow_patterns": ["list_*"]}}},
            "a": {"command": "y", "priority": 10, "oauth": {"client": "hunter2"}, "log_level": "ERROR", "healthCheck": {"enabled": false}}
        },
        "bridge": {"host": "::1", "port": 9999, "conflictResolution": "priority", "defaultNamespace": true,
            "daemon": {"user": "mcp", "group": "mcp", "log_file": "~/x.log", "pid_file": "/run/x.pid"},
            "configReload": {"enabled": true}, "mcp_log_level": "WARNING", "aggregation": {"tools": true}}}"#;
    let text = import("c.json", file).unwrap().text;
    for wanted in [
        "    listen: [\"[::1]:9999\"],\n",
        "    bridge: Priority([\"a\", \"b\"]),\n",
        "    user: \"mcp\",\n",
        "    group: \"mcp\",\n",
        "    log: (level: Warn),\n",
        "mcpdaemon@NAME.path",
        "`log: (file: ...)`",
        "\"aggregation\": {\"tools\":true}",
        "\"defaultNamespace\": true",
        "request_timeout: \"1m\"",
        "Its cwd is said in two ways; the other is \"/b\".",
        "alias: \"bee\"",
        "tools: (allow: [\"list_*\"], deny: [\"rm\"])",
        "health: (interval: \"30s\", timeout: \"5s\", failures: 4)",
        "restart: (delay: \"2s\")",
        "health: None",
        "\"tags\": [\"t\"]",
        "\"healthCheck.restartDelay\": 5000",
        "\"healthCheck.toolName\": \"q\"",
        "\"security.read_only_mode\": false",
        "\"oauth\" (may be secret: not repeated here)",
        "\"log_level\": \"ERROR\"",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    let live = text.replace("    user: \"mcp\",\n", "").replace("    group: \"mcp\",\n", "");
    assert_eq!(loaded(&live).len(), 2);
    let none = import("c.json", r#"{"mcpServers": {"a": {"command": "x", "blockedTools": ["^rm$"]}}}"#).unwrap().text;
    let wanted =
        "\"a\" is not carried over: \"blockedTools\" cannot be kept, and without it more tools could be called";
    assert!(none.contains(wanted), "{none}");
}

/// Texts of what is special somewhere: in JSON, in RON, in a comment, in an expansion.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "$",
            "$$",
            "{",
            "}",
            "${A}",
            "${",
            "~",
            "~/",
            "/",
            "\"",
            "\\",
            "\n",
            "\r",
            "\t",
            "//",
            "/*",
            "*/",
            ",",
            ":-",
            "'",
            "\u{2028}",
            "\u{7f}",
            "\u{1b}",
            "é",
            "a",
            " ",
            "${env:",
            "$~",
            "${userHome",
            "${NOT:-x}",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    let whole = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    whole.prop_filter("what is replaced, or cannot be", |text| {
        let replaced = ["${env:", "${input", "${userHome}", "${workspace", "${pathSeparator}", "${/}"];
        !text.contains('\0') && !replaced.iter().any(|r| text.contains(r) && text.contains('}'))
    })
}

fn name() -> impl Strategy<Value = String> {
    text().prop_filter("a name of a variable", |name| !name.is_empty() && !name.contains('='))
}

proptest! {
    #[test]
    fn what_a_client_would_run_is_what_is_run_here(
        servers in prop::collection::vec(
            (text(), text(), prop::collection::vec(text(), 0..4), prop::collection::btree_map(name(), text(), 0..4)),
            1..5,
        ),
        code: bool,
        pretty: bool,
    ) {
        let mut all = Map::new();
        let mut wanted = BTreeMap::new();
        for (i, (name, command, args, mut env)) in servers.into_iter().enumerate() {
            let command = if command.is_empty() { "c".to_owned() } else { command };
            // By this one it is found again, whatever its name has become.
            env.insert("WHICH".to_owned(), i.to_string());
            all.insert(format!("{name}{i}"), json!({"command": command, "args": args, "env": env}));
            let program = match command.contains('/') {
                true => Path::new("/dir").join(&command).components().collect(),
                false => PathBuf::from(format!("/found/{command}")),
            };
            wanted.insert(i.to_string(), (program, args, env));
        }
        let key = if code { "servers" } else { "mcpServers" };
        let json = json!({key: Value::Object(all)});
        let text = if pretty { format!("{json:#}") } else { json.to_string() };
        let imported = import("c.json", &text).map_err(|p| TestCaseError::fail(p.to_string()))?;
        let found: BTreeMap<_, _> = loaded(&imported.text)
            .into_values()
            .map(|s| (s.environment.set["WHICH"].clone(), (s.program, s.args, s.environment.set)))
            .collect();
        prop_assert_eq!(found, wanted, "{}", imported.text);
    }

    #[test]
    fn nothing_that_is_read_ends_the_program(text in "[{}\\[\\]\",:/*a\\\\\n ]{0,40}|\\PC{0,40}") {
        let _ = import("c.json", &text);
        let _ = import("c.json", &format!("{{\"servers\": {{\"a\": {{\"command\": \"x\", {text}}}}}}}"));
    }
}
