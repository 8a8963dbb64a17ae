//! Servers elsewhere: what one more daemon on the way adds to a call, and whether those that are down hold up the others.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use crate::client::{self, HELLO, SMALL, Way, call};
use crate::program::Daemon;

/// The median and the 99th percentile of so many exchanges, in microseconds.
fn times(address: &str, path: &str, text: &str, count: usize) -> (f64, f64) {
    let mut socket = client::websocket(address, path);
    client::send_text(&mut socket, HELLO);
    client::message(&mut socket);
    let mut all: Vec<f64> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            client::send_text(&mut socket, text);
            client::message(&mut socket);
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    all.sort_by(f64::total_cmp);
    (all[count / 2], all[count * 99 / 100])
}

/// Prints it, of so many calls. `daemon` has the server `echo`.
pub fn print(bin: &Path, daemon: &Daemon, calls: usize) {
    println!("\nservers elsewhere, {calls} calls one after another over WebSocket");
    let url = format!("http://{}/servers/echo/mcp", daemon.address);
    let up = |n: usize| format!("\"up{n}\": Http(url: \"{url}\")");
    let up: Vec<String> = (0..7).map(up).collect();
    // One refuses, one accepts and says nothing, one answers that it is out of order.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let broken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addresses = [&silent, &broken, &free].map(|l| l.local_addr().expect("an address"));
    drop(free);
    std::thread::spawn(move || {
        for mut stream in broken.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let down = addresses.map(|at| format!("\"down{}\": Http(url: \"http://{at}/mcp\", required: false)", at.port()));
    let seven = Daemon::start(bin, &up.join(", "));
    let ten = Daemon::start(bin, &[up.as_slice(), &down].concat().join(", "));
    let text = call(Way::WebSocket, SMALL);
    let direct = times(&daemon.address, "/servers/echo/ws", &text, calls);
    let far = times(&seven.address, "/servers/up0/ws", &text, calls);
    println!("  as a child       p50 {:>7.1} us   p99 {:>7.1} us", direct.0, direct.1);
    println!("  elsewhere        p50 {:>7.1} us   p99 {:>7.1} us", far.0, far.1);
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let named = text.replace("\"name\":\"echo\"", "\"name\":\"up3__echo\"");
    for (what, text, count) in [("lists", list, calls / 10), ("calls", named.as_str(), calls)] {
        // The first list waits a second for those of which nothing is known.
        times(&ten.address, "/ws/mcp", list, 1);
        times(&seven.address, "/ws/mcp", list, 1);
        let (alone, beside) =
            (times(&seven.address, "/ws/mcp", text, count), times(&ten.address, "/ws/mcp", text, count));
        println!(
            "  bridge, {what}    p50 {:>7.1} us   p99 {:>7.1} us with seven servers; {:>7.1} and {:>7.1} with three more that are down",
            alone.0, alone.1, beside.0, beside.1
        );
    }
}
