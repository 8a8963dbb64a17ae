//! Many clients at once on one shared child, with random delays, cancellations and disconnects.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

const CLIENTS: u64 = 64;

/// A minute, unless MCP_TEST_STORM says another number of seconds.
fn duration() -> Duration {
    Duration::from_secs(std::env::var("MCP_TEST_STORM").ok().and_then(|s| s.parse().ok()).unwrap_or(60))
}

/// The answer to `id`, whatever else comes before it; every answer must be of this client.
fn answer(ws: &mut Ws, me: u64, id: &Value) -> Value {
    loop {
        let message = ws.next().unwrap_or_else(|| panic!("client {me}: the connection ended"));
        if message.get("method").is_some() {
            let token = message["params"]["progressToken"].as_str().unwrap_or("");
            assert!(token.starts_with(&format!("{me}/")), "client {me} got {message}");
            continue;
        }
        let text = message["result"]["content"][0]["text"].as_str().unwrap_or("");
        assert!(text.starts_with(&format!("{me}/")), "client {me} got {message}");
        assert_eq!(&message["id"], id, "client {me} got {message}");
        return message;
    }
}

fn request(me: u64, dice: &mut Dice, id: Value, text: &str) -> Value {
    let mut request = call(id, "told", json!({"n": dice.roll(40), "text": text, "steps": dice.roll(3)}));
    if dice.roll(2) == 0 {
        request["params"]["_meta"] = json!({"progressToken": format!("{me}/{text}")});
    }
    request
}

fn client(daemon: &Daemon<'_>, me: u64, until: Instant, asked: &AtomicU64) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (me + 1));
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!("hello")));
    let mut n = 0;
    while Instant::now() < until {
        n += 1;
        // The same ids at all clients, numbers and strings.
        let id = if dice.roll(2) == 0 { json!(n % 7) } else { json!((n % 7).to_string()) };
        let text = format!("{me}/{n}");
        match dice.roll(20) {
            // Leaves with a request open, and comes back.
            0 => {
                ws.send(&request(me, &mut dice, id, &text).to_string());
                ws = daemon.ws("fake");
                ws.ask(&initialize(json!("hello")));
            }
            // Cancels; the answer may have been on its way. A second request with the same id follows at once.
            1..4 => {
                ws.send(&request(me, &mut dice, id.clone(), &text).to_string());
                std::thread::sleep(Duration::from_millis(dice.roll(30)));
                let cancel =
                    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
                ws.send(&cancel.to_string());
                let marker = json!(format!("marker {n}"));
                ws.send(&call(marker.clone(), "told", json!({"n": 0, "text": format!("{me}/marker")})).to_string());
                loop {
                    let message = ws.next().unwrap();
                    if message.get("method").is_none() {
                        assert!(
                            message["result"]["content"][0]["text"].as_str().unwrap().starts_with(&format!("{me}/"))
                        );
                        if message["id"] == marker {
                            break;
                        }
                    }
                }
            }
            // Over HTTP, now and then.
            4 => {
                let mut http = daemon.http("fake");
                let reply = http.ask(&request(me, &mut dice, id.clone(), &text));
                assert_eq!((said(&reply), &reply["id"]), (text.as_str(), &id));
                if dice.roll(2) == 0 {
                    http.bare("DELETE");
                }
            }
            _ => {
                ws.send(&request(me, &mut dice, id.clone(), &text).to_string());
                let reply = answer(&mut ws, me, &id);
                assert_eq!(said(&reply), text);
            }
        }
        asked.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(dice.roll(20)));
    }
}

#[test]
fn storm_of_sessions_and_calls_loses_no_answer() {
    let scratch = Scratch::new();
    // Many leave their session behind, as clients do.
    let limits = "limits: (sessions: 1000000),";
    let daemon = scratch.start(&scratch.instance_with("t", limits, &stdio("fake", &[], "")));
    let child = daemon.child("fake");
    let (until, asked) = (Instant::now() + duration(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for me in 0..CLIENTS {
            let (daemon, asked) = (&daemon, &asked);
            scope.spawn(move || client(daemon, me, until, asked));
        }
    });
    println!("{} requests of {CLIENTS} clients", asked.load(Relaxed));
    assert!(asked.load(Relaxed) > CLIENTS * 10);
    // A request that is in a table of ids is in flight; nothing is.
    wait("empty tables", || (daemon.status()["requests"]["in_flight"] == 0).then_some(()));
    assert_eq!(daemon.child("fake"), child);
    assert_eq!(daemon.server("fake")["restarts"], 0);
}
