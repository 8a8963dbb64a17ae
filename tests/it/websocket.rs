//! WebSocket as the clients that exist speak it.

use std::time::Instant;

use serde_json::json;
use tungstenite::Message;

use crate::harness::*;

#[test]
fn websocket_subprotocol_mcp_is_echoed_when_offered() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let open = |headers: &[(&'static str, &str)]| Ws::try_open(daemon.address(), "/servers/fake/ws", headers);
    for offered in ["mcp", "other, mcp"] {
        let ws = open(&[("Sec-WebSocket-Protocol", offered)]).unwrap();
        assert_eq!(ws.response.headers()["sec-websocket-protocol"], "mcp");
    }
    let mut ws = open(&[]).unwrap();
    assert!(ws.response.headers().get("sec-websocket-protocol").is_none());
    assert!(ws.response.headers().get("content-length").is_none(), "a 101 has no body");
    let hello = ws.ask(&initialize(json!(0)));
    assert_eq!(hello["result"]["serverInfo"]["name"], "fake");
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!(said(&ws.ask(&call("s", "echo", json!({"text": "é🚀"})))), "é🚀");
    for headers in [&[("Origin", "http://evil.example.com")][..], &[("Host", "evil.example.com")]] {
        match open(headers) {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 403),
            other => panic!("{headers:?}: {:?}", other.err()),
        }
    }
    assert!(open(&[("Origin", "http://localhost:3000")]).is_ok());
    let plain = get(daemon.address(), "/servers/fake/ws");
    assert_eq!((plain.status, plain.header("upgrade").as_deref()), (426, Some("websocket")));
}

#[test]
fn websocket_errors_are_answered_and_the_connection_lives() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    for (text, code) in
        [("{", -32700), ("[]", -32600), ("{}", -32600), (r#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#, -32601)]
    {
        ws.send(text);
        assert_eq!(ws.next().unwrap()["error"]["code"], code, "{text}");
    }
    // In pieces, with a ping in between.
    let text = call(2, "echo", json!({"text": "pieces"})).to_string();
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    let (a, b) = text.split_at(20);
    ws.socket.send(Message::Frame(Frame::message(a.as_bytes().to_vec(), OpCode::Data(Data::Text), false))).unwrap();
    ws.socket.send(Message::Ping(vec![1, 2].into())).unwrap();
    ws.socket.send(Message::Frame(Frame::message(b.as_bytes().to_vec(), OpCode::Data(Data::Continue), true))).unwrap();
    assert_eq!(said(&ws.next().unwrap()), "pieces");
}

#[test]
fn websocket_close_codes_1003_1009_and_1007() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "websocket: (max_size: \"100KiB\"),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let mut ws = daemon.ws("fake");
    ws.socket.send(Message::Binary(vec![1].into())).unwrap();
    assert_eq!(ws.close_code(), Some(1003));
    let mut ws = daemon.ws("fake");
    let fits = call(1, "echo", json!({"text": "x".repeat(90_000)}));
    assert_eq!(said(&ws.ask(&fits)).len(), 90_000);
    ws.send(&"x".repeat(200_000));
    assert_eq!(ws.close_code(), Some(1009));
    assert_eq!(daemon.dropped("long_messages"), 1);
    let mut ws = daemon.ws("fake");
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    ws.socket.send(Message::Frame(Frame::message(vec![0xff], OpCode::Data(Data::Text), true))).unwrap();
    assert_eq!(ws.close_code(), Some(1007));
    wait("the sessions' end", || (daemon.status()["sessions"] == 0).then_some(()));
}

#[test]
fn websocket_ping_drops_the_silent() {
    let scratch = Scratch::new();
    let file = scratch.instance_with(
        "t",
        "websocket: (ping_interval: \"100ms\", ping_timeout: \"600ms\"),",
        &stdio("fake", &[], ""),
    );
    let daemon = scratch.start(&file);
    // A client that answers pings stays; reading is what answers them.
    let mut ws = daemon.ws("fake");
    let mut pings = 0;
    while pings < 15 {
        if let Message::Ping(_) = ws.socket.read().unwrap() {
            pings += 1;
        }
        ws.socket.flush().unwrap();
    }
    assert_eq!(said(&ws.ask(&call(1, "echo", json!({"text": "alive"})))), "alive");
    // One that does not read is dropped.
    let silent = daemon.ws("fake");
    wait("its end", || (daemon.status()["sessions"].as_u64() < Some(2)).then_some(()));
    drop(silent);
}

#[test]
fn ws_environment_variables_override_ping_and_size() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], ""));
    let mut command = scratch.command(mcpdaemon());
    command.arg("-c").arg(&file).env("WS_MAX_SIZE", "1000").env("WS_PING_INTERVAL", "0.1");
    let out = command.output().unwrap();
    let daemon = scratch.started(&stdout(&out));
    let mut ws = daemon.ws("fake");
    assert!(matches!(ws.socket.read(), Ok(Message::Ping(_))));
    ws.send(&"x".repeat(2000));
    assert_eq!(ws.close_code(), Some(1009));
}

#[test]
fn ten_mebibytes_are_the_limit_unless_it_is_said() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    let text = "x".repeat(10_000_000);
    assert!(said(&ws.ask(&call(1, "echo", json!({"text": text})))) == text);
    // It may be closed before all of it is sent.
    let _ = ws.socket.send(Message::text("x".repeat(11 << 20)));
    assert_eq!(ws.close_code(), Some(1009));
}

#[test]
fn slow_websocket_client_is_dropped() {
    let scratch = Scratch::new();
    let file = scratch.instance_with("t", "limits: (reply: \"2MiB\", in_flight: 100000),", &stdio("fake", &[], ""));
    let daemon = scratch.start(&file);
    let mut greedy = daemon.ws("fake");
    for i in 0..40 {
        if greedy.socket.send(Message::text(call(i, "big", json!({"n": 1_000_000})).to_string())).is_err() {
            break;
        }
    }
    wait("the drop", || (daemon.dropped("slow_clients") == 1).then_some(()));
    let mut well = daemon.ws("fake");
    assert_eq!(said(&well.ask(&call(1, "echo", json!({"text": "fine"})))), "fine");
}

#[test]
fn websocket_flood_does_not_starve_others() {
    let scratch = Scratch::new();
    let file = scratch.instance_with(
        "t",
        "limits: (in_flight: 1000000),",
        &format!("\"fake\": Stdio(command: [{:?}])", example("echo-server")),
    );
    let daemon = scratch.start(&file);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let address = daemon.address().to_owned();
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut hog = Ws::open(&address, "/servers/fake/ws");
            let request = call(1, "x", json!({})).to_string();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for _ in 0..200 {
                    hog.socket.write(Message::text(request.clone())).unwrap();
                }
                hog.socket.flush().unwrap();
                for _ in 0..200 {
                    hog.next();
                }
            }
        });
        let mut http = daemon.http("fake");
        let begun = Instant::now();
        for i in 0..50 {
            http.ask(&call(i, "x", json!({})));
        }
        let took = begun.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        // A hang, not a slow machine, is what this bound would show.
        assert!(took.as_secs() < 10, "{took:?}");
    });
}

#[test]
fn what_is_queued_while_a_reply_is_being_written_is_sent_after_it() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    // More than the socket takes, so that the daemon has to wait for us; meanwhile there is another answer.
    ws.send(&call(1, "big", json!({"n": 30_000_000})).to_string());
    wait("the big answer", || (daemon.server("fake")["requests"]["total"] == 1).then_some(()));
    ws.send(&call(2, "echo", json!({"text": "after"})).to_string());
    wait("the small answer", || (daemon.server("fake")["requests"]["total"] == 2).then_some(()));
    let begun = Instant::now();
    assert_eq!(said(&ws.next().unwrap()).len(), 30_000_000);
    assert_eq!(said(&ws.next().unwrap()), "after");
    // The next ping, 20 s later, would have brought it along.
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
}

#[test]
fn ping_timeout_shorter_than_interval_keeps_clients_that_answer() {
    let scratch = Scratch::new();
    let times = "websocket: (ping_interval: \"400ms\", ping_timeout: \"300ms\"),";
    let daemon = scratch.start(&scratch.instance_with("t", times, &stdio("fake", &[], "")));
    let mut ws = daemon.ws("fake");
    let mut pings = 0;
    while pings < 4 {
        if let Message::Ping(_) = ws.socket.read().unwrap() {
            pings += 1;
        }
        ws.socket.flush().unwrap();
    }
    assert_eq!(said(&ws.ask(&call(1, "echo", json!({"text": "alive"})))), "alive");
}

#[test]
fn memory_of_a_huge_answer_is_given_back() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let memory = || daemon.status()["process"]["memory_bytes"].as_u64().unwrap();
    let mut clients: Vec<Ws> = (0..4).map(|_| daemon.ws("fake")).collect();
    for ws in &mut clients {
        assert_eq!(said(&ws.ask(&call(1, "big", json!({"n": 30_000_000})))).len(), 30_000_000);
    }
    // Four times 30 MB passed through; what stays is buffers of their usual size.
    wait("the memory's return", || (memory() < 100 << 20).then_some(()));
}

#[test]
fn memory_of_a_huge_message_is_given_back() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let text = "x".repeat(9 << 20);
    let mut all: Vec<Ws> = (0..20).map(|_| daemon.ws("fake")).collect();
    for ws in &mut all {
        ws.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": text}}));
        for n in 0..3 {
            assert_eq!(ws.ask(&json!({"jsonrpc": "2.0", "id": n, "method": "ping"}))["id"], n);
        }
    }
    assert!(memory() < 100, "{} MiB for 20 idle connections", memory());
}
