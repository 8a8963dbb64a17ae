//! Any bytes of a WebSocket client: where a message ends is the same however they are cut, and where tungstenite, which
//! reads the messages, sees it.
#![no_main]

use std::io::{self, ErrorKind, Read, Write};

use libfuzzer_sys::fuzz_target;
use mcpdaemon::net::frames::Frames;
use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Error, Message};

/// What no frame before it can end with, as the text of a whole frame.
const LAST: &str = "\u{1}the last one";

/// A connection whose bytes have come so far.
#[derive(Default)]
struct Come(Vec<u8>);

impl Read for Come {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.0.len());
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0.drain(..n);
        Ok(n)
    }
}

impl Write for Come {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All messages of these bytes; None once the connection has failed or is closed.
fn messages(ws: &mut WebSocket<Come>, bytes: &[u8]) -> Option<Vec<Message>> {
    ws.get_mut().0.extend_from_slice(bytes);
    let mut all = Vec::new();
    loop {
        match ws.read() {
            Ok(Message::Close(_)) => return None,
            Ok(message) => all.push(message),
            Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => return Some(all),
            Err(_) => return None,
        }
    }
}

fn frame(first: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.push(first);
    match payload.len() {
        n @ 0..126 => into.push(0x80 | n as u8),
        n => {
            into.push(0x80 | 126);
            into.extend((n as u16).to_be_bytes());
        }
    }
    into.extend([0; 4]);
    into.extend(payload);
}

/// Frames that a client might send: of each piece the first byte is what begins the frame, the second how long it is.
fn plausible(data: &[u8]) -> Vec<u8> {
    let (mut stream, mut rest) = (Vec::new(), data);
    while let [first, length, more @ ..] = rest {
        let n = (*length as usize * 3).min(more.len());
        let (payload, others) = more.split_at(n);
        let text: Vec<u8> = payload.iter().map(|b| b & 0x7f).collect();
        frame(first & 0x8f, &text, &mut stream);
        rest = others;
    }
    // The last frame may have come in part.
    stream.truncate(stream.len() - stream.len().min(data.len() % 5));
    stream
}

fn check(stream: &[u8]) {
    let (mut whole, mut pieces) = (Frames::default(), Frames::default());
    whole.feed(stream);
    stream.chunks(3).for_each(|piece| pieces.feed(piece));
    let seen = |frames: &Frames| (frames.between_messages(), frames.longest(), frames.unfinished());
    assert_eq!(seen(&whole), seen(&pieces));

    let mut ws = WebSocket::from_raw_socket(Come::default(), Role::Server, None);
    let Some(_) = messages(&mut ws, stream) else { return };
    let mut last = Vec::new();
    frame(0x81, LAST.as_bytes(), &mut last);
    let after = messages(&mut ws, &last).unwrap_or_default();
    let ends_there = after == [Message::text(LAST)];
    assert_eq!(whole.between_messages(), ends_there, "{after:?}");
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&plausible(data));
});
