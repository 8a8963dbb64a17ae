//! Who may connect: tokens, processes on Unix sockets, and what belongs to whom.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;

use serde_json::{Value, json};

use crate::harness::*;

/// printf %s ann-token | sha256sum, and the same for bob.
const TOKENS: &str = "# who, and the SHA-256 of the token
ann 7c0a37c92a2b1d80d7ff4ba2bba2e3d9ac1b3b4a2a1f6ef2c6b3fdb3e1a7d6d1   # not hers
";

fn digest(token: &str) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    stdout(&out).split_whitespace().next().unwrap().to_owned()
}

fn ask(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let mut raw = Raw::open(address);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw.send(head.as_bytes());
    if headers.contains("Accept: text/event-stream") { raw.head() } else { raw.response() }
}

#[test]
fn bearer_token_opens_a_session_that_is_its_owners_alone() {
    let scratch = Scratch::new();
    let tokens = |names: &[&str]| {
        let lines: String = names.iter().map(|n| format!("{n} {}\n", digest(&format!("{n}-token")))).collect();
        scratch.write("tokens", &(TOKENS.to_owned() + &lines));
    };
    tokens(&["bob", "eve"]);
    let file = scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let (address, path) = (daemon.address(), "/servers/fake/mcp");
    let hello = initialize(json!(1)).to_string();
    let refused = [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic Ym9iOmJvYg==\r\n",
        "Authorization: Bearer bob-token\r\nAuthorization: Bearer bob-token\r\n",
        "Authorization: Bearer ann-token\r\n",
    ];
    for headers in refused {
        for (method, path) in
            [("POST", path), ("GET", "/servers/fake/sse"), ("GET", "/servers/fake/ws"), ("GET", "/status")]
        {
            let answer = ask(address, method, path, headers, &hello);
            assert_eq!(answer.status, 401, "{method} {path} {headers}: {answer:?}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
        // Whether it lives is for everybody to know.
        assert_eq!(ask(address, "GET", "/healthz", headers, "").body, "ok\n");
        assert_eq!(ask(address, "GET", "/readyz", headers, "").status, 200);
    }
    assert_eq!(daemon.dropped("unauthorized"), 4 * refused.len() as u64);
    let (bob, eve) = ("Authorization: Bearer bob-token\r\n", "Authorization: bearer eve-token\r\n");
    assert_eq!(ask(address, "GET", "/status", bob, "").status, 200);
    let answer = ask(address, "POST", path, bob, &hello);
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = format!("Mcp-Session-Id: {}\r\n", answer.header("mcp-session-id").unwrap());
    let echo = call(2, "echo", json!({"text": "mine"})).to_string();
    let mine = || ask(address, "POST", path, &format!("{bob}{session}"), &echo);
    assert_eq!(said(&mine().json()), "mine");
    // Whoever else knows the id of the session has nothing of it.
    for (method, body) in [("POST", echo.as_str()), ("DELETE", "")] {
        assert_eq!(ask(address, method, path, &format!("{eve}{session}"), body).status, 404);
    }
    assert_eq!(said(&mine().json()), "mine");
    // Also after an upgrade.
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    assert_eq!(ask(address, "POST", path, &format!("{eve}{session}"), &echo).status, 404);
    assert_eq!(said(&mine().json()), "mine");
    let headers: [(&'static str, &str); 1] = [("Authorization", "Bearer eve-token")];
    let mut ws = Ws::try_open(address, "/servers/fake/ws", &headers).unwrap();
    assert_eq!(said(&ws.ask(&call(1, "echo", json!({"text": "x"})))), "x");
    // A token that is withdrawn ends what was opened with it, and nothing else.
    tokens(&["bob"]);
    let out = scratch.ctl(&["reload", "t"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert!(ws.next().is_none(), "her connection is closed");
    assert!(Ws::try_open(address, "/servers/fake/ws", &headers).is_err());
    assert_eq!(said(&mine().json()), "mine");
    // Two processes have refused some, each in the same minute.
    assert_eq!(daemon.log().matches(" was not let in (401)").count(), 2, "not for every try");
    // Nothing of a token is anywhere.
    let dump = stdout(&scratch.run(mcpdaemon(), &["-T", "-c", file.to_str().unwrap()]));
    for place in [daemon.log(), dump, scratch.file("run/t.status")] {
        assert!(!place.contains("-token") && !place.contains(&digest("bob-token")), "{place}");
    }
}

#[test]
fn errors_in_the_token_file_name_file_line_and_column() {
    let scratch = Scratch::new();
    let test = |more: &str| {
        let file = scratch.instance_with("t", more, &stdio("fake", &[], ""));
        let out = scratch.run(mcpdaemon(), &["-t", "-c", file.to_str().unwrap()]);
        (code(&out), stderr(&out))
    };
    let (status, said) = test("auth: Bearer(\"tokens\"),");
    assert_eq!(status, 78);
    assert!(said.contains("tokens: cannot read the tokens: No such file or directory"), "{said}");
    scratch.write("tokens", "\n# nobody\n");
    assert!(test("auth: Bearer(\"tokens\"),").1.contains("there is no token in it: nobody could connect"));
    scratch.write("tokens", "ann\nbob 1234\n");
    let said = test("auth: Bearer(\"tokens\"),").1;
    assert!(said.contains("tokens:1: expected a name, and the SHA-256"), "{said}");
    assert!(said.contains("tokens:2: the SHA-256 of a token has 64 hexadecimal digits"), "{said}");
    let said = test("auth: Bearrer(\"tokens\"),").1;
    assert!(said.contains("unknown way of authentication 'Bearrer', did you mean 'Bearer'?"), "{said}");
    assert!(test("auth: Peer(uids: [0]),").1.contains("'127.0.0.1:0' would refuse everybody"));
    assert!(test("listen: [\"unix:s\"], auth: Peer(),").1.contains("'Peer' names nobody"));
    // Who has to show a token may come from anywhere.
    scratch.write("tokens", &format!("ann {}\n", digest("x")));
    assert_eq!(test("listen: [\"0.0.0.0:0\"],").0, 78);
    assert_eq!(test("listen: [\"0.0.0.0:0\"], auth: Bearer(\"tokens\"),").0, 0);
}

#[test]
fn unix_socket_has_its_mode_and_peer_auth_knows_the_uid() {
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let own = nix::unistd::Uid::effective().as_raw();
    let socket = scratch.path("s.sock");
    let more = format!(
        "listen: [\"unix:{},mode=0666\", \"unix:tight.sock,mode=0600\"], auth: Peer(uids: [{own}]),",
        socket.display()
    );
    let daemon = scratch.start(&scratch.instance_with("t", &more, &stdio("fake", &[], "")));
    let mode = |name: &str| std::fs::metadata(scratch.path(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("s.sock"), mode("tight.sock")), (0o666, 0o600));
    let hello = initialize(json!(1)).to_string();
    let request = format!(
        "POST /servers/fake/mcp HTTP/1.1\r\nHost: x\r\n{ACCEPT}Connection: close\r\nContent-Length: {}\r\n\r\n{hello}",
        hello.len()
    );
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    if own == 0 {
        // The same of somebody else, by a program that runs as him.
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                      s.sendall(sys.argv[2].encode()); print(s.recv(4096).decode())";
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let out = std::process::Command::new("python3")
            .args(["-c", script, socket.to_str().unwrap(), &request])
            .uid(nobody.uid.as_raw())
            .gid(nobody.gid.as_raw())
            .output()
            .unwrap();
        assert!(stdout(&out).starts_with("HTTP/1.1 401 "), "{out:?}");
        assert!(stdout(&out).contains("this user may not connect to this instance"), "{out:?}");
    }
    // After an upgrade they are the same sockets, and a reload finds nothing to change.
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    assert_eq!(stdout(&scratch.ctl(&["reload", "t"])), "t: reloaded (1 unchanged)\n");
    // Another mode is given to the same socket.
    let text = scratch.file("t.ron").replace("mode=0600", "mode=0640");
    scratch.write("t.ron", &text);
    assert_eq!(stdout(&scratch.ctl(&["reload", "t"])), "t: reloaded (1 unchanged, 1 socket file changed)\n");
    assert_eq!(mode("tight.sock"), 0o640);
    daemon.stop();
    assert!(!socket.exists());
}

#[test]
fn of_several_ways_each_kind_of_address_has_its_own_and_nobody_passes_for_another() {
    let scratch = Scratch::new();
    let own = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap();
    // A token can be called like a user, and is somebody else all the same.
    scratch.write("tokens", &format!("ann {}\npeer:{} {}\n", digest("ann-token"), own.name, digest("sly-token")));
    let listen = format!("listen: [\"127.0.0.1:{}\", \"unix:s.sock,mode=0600\"],", crate::proxies::free_port());
    let auth = format!("auth: [Peer(uids: [{}]), Bearer(\"tokens\")],", own.uid);
    let file = scratch.instance_with("t", &format!("{listen} {auth}"), &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let ask = |unix: bool, token: Option<&str>, session: Option<&str>, body: &Value| {
        let body = body.to_string();
        let token = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
        let session = session.map_or(String::new(), |s| format!("Mcp-Session-Id: {s}\r\n"));
        let request = format!(
            "POST /servers/fake/mcp HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}{token}{session}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        if unix {
            let mut stream = std::os::unix::net::UnixStream::connect(scratch.path("s.sock")).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
        } else {
            let mut stream = std::net::TcpStream::connect(daemon.address()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
        }
        let id = answer.lines().find_map(|l| l.strip_prefix("mcp-session-id: ")).unwrap_or_default().to_owned();
        (answer[9..12].parse::<u16>().unwrap(), id)
    };
    let hello = initialize(json!(1));
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    assert_eq!(ask(false, None, None, &hello).0, 401);
    assert_eq!(ask(false, Some("wrong"), None, &hello).0, 401);
    assert_eq!(ask(true, Some("wrong"), None, &hello).0, 401, "who shows a token wants to be its owner");
    let (status, peer) = ask(true, None, None, &hello);
    assert_eq!(status, 200);
    let (_, ann) = ask(false, Some("ann-token"), None, &hello);
    let (_, sly) = ask(true, Some("sly-token"), None, &hello);
    for (unix, token, session, status) in [
        (true, None, &peer, 200),
        (false, Some("sly-token"), &peer, 404),
        (true, Some("sly-token"), &peer, 404),
        (false, Some("sly-token"), &sly, 200),
        (true, None, &sly, 404),
        (true, Some("ann-token"), &ann, 200),
        (true, None, &ann, 404),
    ] {
        assert_eq!(ask(unix, token, Some(session), &list).0, status, "{unix} {token:?}");
    }
    let seen = daemon.status();
    let mut principals: Vec<&str> =
        seen["clients"].as_array().unwrap().iter().map(|c| c["principal"].as_str().unwrap()).collect();
    principals.sort_unstable();
    let (mine, like_mine) = (format!("peer:{}", own.name), format!("token:peer:{}", own.name));
    assert_eq!(principals, [mine.as_str(), "token:ann", like_mine.as_str()]);
    assert_eq!(seen["auth"], json!(["Peer", "Bearer"]));
    // Sessions outlive an upgrade and a stop and start.
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    assert_eq!((ask(true, None, Some(&peer), &list).0, ask(false, Some("ann-token"), Some(&ann), &list).0), (200, 200));
    daemon.stop();
    let daemon = scratch.start(&file);
    assert_eq!((ask(true, None, Some(&peer), &list).0, ask(false, Some("ann-token"), Some(&ann), &list).0), (200, 200));
    assert_eq!((ask(true, None, Some(&sly), &list).0, ask(false, Some("ann-token"), Some(&sly), &list).0), (404, 404));
    // One way less: its sessions end.
    scratch.instance_with("t", &format!("{listen} auth: Bearer(\"tokens\"),"), &stdio("fake", &[], ""));
    assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
    assert_eq!((ask(true, None, Some(&peer), &list).0, ask(false, Some("ann-token"), Some(&ann), &list).0), (401, 200));
    daemon.stop();
}

#[test]
fn a_list_of_ways_is_shown_and_checked() {
    let scratch = Scratch::new();
    scratch.write("tokens", &format!("ann {}\n", digest("x")));
    let run = |auth: &str, flag: &str| {
        let text = format!("(listen: [\"127.0.0.1:0\"], auth: {auth}, servers: {{\"a\": Stdio(command: \"cat\")}})");
        scratch.run(mcpdaemon(), &[flag, "-c", scratch.write("t.ron", &text).to_str().unwrap()])
    };
    let shown = stdout(&run("[Peer(uids: [7]), Bearer(\"tokens\")]", "-T"));
    assert!(shown.contains("auth: [Peer(uids: [7], gids: []), Bearer(\""), "{shown}");
    for (auth, wanted) in [
        ("[]", "an empty list admits nobody"),
        ("[Bearer(\"tokens\"), Bearer(\"tokens\")]", "t.ron:1:52: 'Bearer' stands here twice"),
        ("[Peer(uids: [7])]", "'Peer' is for Unix sockets: '127.0.0.1:0' would refuse everybody"),
        ("[Bearrer(\"tokens\")]", "did you mean 'Bearer'?"),
        ("[7]", "expected Bearer(\"file\") or Peer(uids: [...], gids: [...]), or a list of them"),
    ] {
        let out = run(auth, "-t");
        assert!(code(&out) == 78 && stderr(&out).contains(wanted), "{auth}: {}", stderr(&out));
    }
}

#[test]
fn a_file_with_secrets_that_everybody_can_read_draws_a_warning() {
    let scratch = Scratch::new();
    let file = |env: &str| scratch.instance("t", &stdio("fake", &[], &format!("env: {{{env}}}")));
    let test = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let out = scratch.command(mcpdaemon()).args(["-t", "-c"]).arg(path).env("K", "v").output().unwrap();
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        stderr(&out)
    };
    let path = file("\"API_KEY\": \"s3cret\"");
    assert!(test(&path, 0o644).contains("t.ron: everybody can read this file, and it holds a secret: chmod o-r it"));
    assert_eq!(test(&path, 0o640), "");
    // What comes from elsewhere is no secret of the file, and not everything is one.
    assert_eq!(test(&file("\"API_KEY\": \"${K}\", \"LANG\": \"C\""), 0o644), "");
}

#[test]
fn what_a_token_has_opened_ends_with_it_though_its_owner_stays() {
    let scratch = Scratch::new();
    let tokens = |all: &[(&str, &str)]| {
        let lines: String = all.iter().map(|(name, token)| format!("{name} {}\n", digest(token))).collect();
        scratch.write("tokens", &lines);
    };
    tokens(&[("ann", "old"), ("bob", "his")]);
    let daemon = scratch.start(&scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &stdio("fake", &[], "")));
    let address = daemon.address().to_owned();
    let open = |token: &str| {
        Ws::try_open(&address, "/servers/fake/ws", &[("authorization", &format!("Bearer {token}"))]).unwrap()
    };
    let stream = |token: &str, session: &str, path: &str| {
        let mut raw = Raw::open(&address);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n{session}\r\n"
        );
        raw.send(head.as_bytes());
        assert_eq!(raw.head().status, 200);
        raw
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n{ACCEPT}");
    let hello = ask(&address, "POST", "/servers/fake/mcp", &bearer("old"), &initialize(json!(0)).to_string());
    let session = format!("Mcp-Session-Id: {}\r\n", hello.header("mcp-session-id").unwrap());
    for upgraded in [false, true] {
        tokens(&[("ann", "old"), ("bob", "his")]);
        assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
        let (mut old, mut his) = (open("old"), open("his"));
        let mut streams = [stream("old", &session, "/servers/fake/mcp"), stream("old", "", "/servers/fake/sse")];
        his.ask(&initialize(json!(0)));
        if upgraded {
            assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
        }
        // Under the same name, another token.
        tokens(&[("ann", "new"), ("bob", "his")]);
        assert_eq!(code(&scratch.ctl(&["reload", "t"])), 0);
        assert_eq!(old.close_code(), Some(1008), "upgraded: {upgraded}");
        for stream in &mut streams {
            stream.rest();
        }
        assert!(!said(&his.ask(&call(1, "count", json!({})))).is_empty(), "another goes on");
        let more = |token: &str| {
            let headers = format!("{}{session}", bearer(token));
            ask(&address, "POST", "/servers/fake/mcp", &headers, &call(1, "count", json!({})).to_string()).status
        };
        assert_eq!((more("old"), more("new")), (401, 200), "the session is ann's and goes on");
    }
}

#[test]
fn refused_tokens_are_answered_later_and_later_and_nothing_else_is() {
    let scratch = Scratch::new();
    scratch.write("tokens", &format!("ann {}\n", digest("ann-token")));
    let daemon = scratch.start(&scratch.instance_with("t", "auth: Bearer(\"tokens\"),", &stdio("fake", &[], "")));
    let address = daemon.address();
    let shows = |token: &str| {
        let mut raw = Raw::open(address);
        let head = format!("GET /status HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
        raw.send(head.as_bytes());
        raw
    };
    let begin = std::time::Instant::now();
    let times: Vec<u128> = (0..7)
        .map(|_| {
            assert_eq!(shows("wrong").response().status, 401);
            begin.elapsed().as_millis()
        })
        .collect();
    // 0, 50, 100, ... 1600 ms later than the one before.
    for n in 1..7 {
        assert!(times[n] - times[n - 1] >= 50 << (n - 1), "{times:?}");
    }
    // If each waited as long as the next refused token, 2 s, these would take more than a minute.
    let begin = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(shows("ann-token").response().status, 200);
        assert_eq!(ask(address, "GET", "/status", "", "").status, 401, "this is how clients learn what is wanted");
    }
    assert!(begin.elapsed().as_secs() < 40, "good tokens wait for refused ones");
    // One that waits is answered before an upgrade, and its connection goes on.
    let mut late = shows("wrong");
    assert_eq!(code(&scratch.ctl(&["restart", "t"])), 0);
    assert_eq!(late.response().status, 401);
    daemon.stop();
}
