//! The fastest child that could be: answers each request with its `text`, all that it has read in one write. For the
//! benchmark; it understands `initialize`, `tools/list` and calls whose text has no escapes.
//! Its argument is how many tools it lists.

use std::io::{Read, Write};

const INITIALIZED: &str = r#""result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"echo","version":"1"}}}"#;

fn main() {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut read, mut used) = (vec![0u8; 1 << 20], 0);
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let tool = |n: usize| {
        let name = if n == 0 { "echo".to_owned() } else { format!("echo_{n}") };
        format!(r#"{{"name":"{name}","description":"Gives back what it is given","inputSchema":{{"type":"object"}}}}"#)
    };
    let tools = format!(r#""result":{{"tools":[{}]}}}}"#, (0..count).map(tool).collect::<Vec<_>>().join(","));
    let mut out = Vec::with_capacity(1 << 20);
    while let Ok(n) = input.read(&mut read[used..]) {
        if n == 0 {
            return;
        }
        used += n;
        let mut from = 0;
        while let Some(end) = read[from..used].iter().position(|b| *b == b'\n') {
            let line = &read[from..from + end];
            from += end + 1;
            let Some(at) = find(line, b"\"id\":") else { continue };
            let id = &line[at + 5..];
            let id = &id[..id.iter().position(|b| matches!(b, b',' | b'}')).unwrap_or(id.len())];
            out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            out.extend_from_slice(id);
            out.push(b',');
            if let Some(at) = find(line, b"\"text\":\"") {
                let text = &line[at + 8..];
                let end = text.iter().position(|b| *b == b'"').unwrap_or(text.len());
                out.extend_from_slice(br#""result":{"content":[{"type":"text","text":""#);
                out.extend_from_slice(&text[..end]);
                out.extend_from_slice(br#""}]}}"#);
            } else if find(line, b"\"method\":\"initialize\"").is_some() {
                out.extend_from_slice(INITIALIZED.as_bytes());
            } else if find(line, b"\"method\":\"tools/list\"").is_some() {
                out.extend_from_slice(tools.as_bytes());
            } else {
                out.extend_from_slice(br#""error":{"code":-32601,"message":"it is an echo"}}"#);
            }
            out.push(b'\n');
        }
        read.copy_within(from..used, 0);
        used -= from;
        if output.write_all(&out).and_then(|()| output.flush()).is_err() {
            return;
        }
        out.clear();
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
