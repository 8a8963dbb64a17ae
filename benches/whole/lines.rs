//! The lines of a command, one message each: by the executor's own protocol, and as progress of a call.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client;

const LINES: usize = 200_000;

/// Prints how long both take, beside the command alone.
pub fn print(address: &str) {
    let start = Instant::now();
    let mut seq = Command::new("seq").arg(LINES.to_string()).stdout(Stdio::piped()).spawn().expect("seq");
    let mut alone = Vec::new();
    seq.stdout.take().expect("stdout").read_to_end(&mut alone).expect("read");
    let _ = seq.wait();
    let direct = start.elapsed();
    let own = {
        let mut stream = client::websocket(address, "/servers/run/ws");
        let ask = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"execute","params":{{"command":"seq {LINES}"}}}}"#);
        let (took, seen) = ask_and_count(&mut stream, &ask, b"process.output", b"process.completed");
        assert_eq!(seen, LINES, "lines");
        took
    };
    let (progress, notes) = {
        let mut stream = client::websocket(address, "/servers/run/ws");
        client::send_text(&mut stream, client::HELLO);
        client::message(&mut stream);
        let ask = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"execute","arguments":{{"command":"seq","args":["{LINES}"]}},"_meta":{{"progressToken":1}}}}}}"#
        );
        ask_and_count(&mut stream, &ask, b"notifications/progress", b"\"result\":")
    };
    println!(
        "\n{LINES} lines of a command to a WebSocket: {:.3} s; through tools/call with progress: {:.3} s, {notes} notifications \
         (the command alone: {:.3} s)",
        own.as_secs_f64(),
        progress.as_secs_f64(),
        direct.as_secs_f64()
    );
}

/// Asks, and counts how often `what` comes before `end`.
fn ask_and_count(stream: &mut TcpStream, ask: &str, what: &[u8], end: &[u8]) -> (Duration, usize) {
    let start = Instant::now();
    client::send_text(stream, ask);
    let (mut buffer, mut kept, mut seen) = (vec![0; 1 << 18], Vec::new(), 0);
    let (what, end) = (memchr::memmem::Finder::new(what), memchr::memmem::Finder::new(end));
    loop {
        let n = stream.read(&mut buffer).expect("read");
        assert!(n > 0, "the daemon closed a connection");
        kept.extend_from_slice(&buffer[..n]);
        seen += what.find_iter(&kept).count();
        if end.find(&kept).is_some() {
            return (start.elapsed(), seen);
        }
        // What is cut in two is found with the next piece, and nothing twice.
        let last = what.find_iter(&kept).last().map_or(0, |at| at + what.needle().len());
        let keep = kept.len().saturating_sub(what.needle().len().max(end.needle().len()) - 1).max(last);
        kept.drain(..keep);
    }
}
