//! Where the frames of a WebSocket end, seen from outside of the library that reads them.
//!
//! tungstenite keeps its read buffer to itself, and keeps it as long as the longest message was. It can be exchanged
//! between two messages, and only there; this says when that is. Pure: bytes in, a verdict out (RFC 6455 section 5.2).

/// Follows the bytes of one direction.
#[derive(Debug, Default)]
pub struct Frames {
    head: Vec<u8>,
    /// Bytes of payload still to come.
    left: u64,
    /// Between the fragments of a message.
    fragmented: bool,
    longest: u64,
    /// Payload so far of the message that has not ended.
    unfinished: u64,
}

impl Frames {
    /// Takes the next bytes of the stream, in order.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = self.left.min(bytes.len() as u64);
                self.left -= n;
                bytes = &bytes[n as usize..];
                self.unfinished += n;
                if self.between_messages() {
                    self.unfinished = 0;
                }
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            let Some(length) = length(&self.head) else { continue };
            let (end, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
            // Control frames may stand between fragments.
            if opcode < 8 {
                self.fragmented = !end;
            }
            self.left = length;
            self.longest = self.longest.max(length);
            self.head.clear();
        }
    }

    /// Every message that began has ended.
    pub fn between_messages(&self) -> bool {
        self.left == 0 && self.head.is_empty() && !self.fragmented
    }

    /// How much has come of a message that has not ended, in bytes.
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// The longest payload of a frame so far, in bytes.
    pub fn longest(&self) -> u64 {
        self.longest
    }
}

/// The length of the payload, once the head is whole.
fn length(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let (extended, length) = match second & 0x7f {
        126 => (2, u16::from_be_bytes(head.get(2..4)?.try_into().ok()?).into()),
        127 => (8, u64::from_be_bytes(head.get(2..10)?.try_into().ok()?)),
        short => (0, short.into()),
    };
    (head.len() == 2 + extended + mask).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(vec![0x81; length]);
        frame
    }

    #[test]
    fn the_ends_are_found_however_the_bytes_are_cut() {
        // Text, fragments with a ping in between, an empty frame, long ones.
        let frames = [(0x81, 5), (0x01, 300), (0x89, 3), (0x80, 70_000), (0x81, 0), (0x82, 126), (0x81, 65_535)];
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for (at, (first, length)) in frames.into_iter().enumerate() {
            stream.extend(frame(first, length));
            if !(1..3).contains(&at) {
                ends.push(stream.len());
            }
        }
        for step in [1, 2, 3, 7, 1000, stream.len()] {
            let mut seen = Frames::default();
            for (at, chunk) in stream.chunks(step).enumerate() {
                seen.feed(chunk);
                let fed = at * step + chunk.len();
                assert_eq!(seen.between_messages(), ends.contains(&fed), "{fed} bytes, by {step}");
            }
            assert_eq!(seen.longest(), 70_000);
        }
    }
}
