//! Reads an event stream (HTML Living Standard, section 9.2, "Server-sent events"): bytes in any pieces go in, events come out.
//!
//! Pure. Bounded: an event that is longer than it may be is thrown away, and said to be.

/// What a server has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its lines of data, joined by line feeds. None where it was too long.
    pub data: Option<Vec<u8>>,
    /// The kind: `message` where it has none.
    pub name: String,
    /// What the stream goes on behind, if it is cut after this event.
    pub id: Option<String>,
}

/// No name and no id of an event is longer, in bytes.
const LONGEST_NAME: usize = 1024;

/// Reads one stream.
pub struct Decoder {
    /// The line that has begun.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    too_long: bool,
    name: String,
    /// The id that the server has given last, of the event that has begun and of those before.
    id: Option<String>,
    /// The id of the last event that is whole.
    last_id: Option<String>,
    retry: Option<u64>,
    /// The last byte was a carriage return: a line feed behind it belongs to it.
    after_cr: bool,
    is_first: bool,
    limit: usize,
}

impl Decoder {
    /// `limit` is the longest event, in bytes; `last_id` is what the stream goes on behind.
    pub fn new(limit: usize, last_id: Option<String>) -> Decoder {
        Decoder {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            too_long: false,
            name: String::new(),
            id: last_id.clone(),
            last_id,
            retry: None,
            after_cr: false,
            is_first: true,
            limit,
        }
    }

    /// The id of the last event that was whole, by which a stream is resumed.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// After how many milliseconds the server wants to be asked again, if it has said so.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// How much is kept of an event that is not whole yet, in bytes.
    pub fn held(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// Takes more of the stream: the events that are whole by it.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        if self.after_cr {
            self.after_cr = bytes.is_empty();
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            let event = if self.line.is_empty() {
                self.take(line)
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.line);
                self.take(&whole)
            };
            events.extend(event);
            let is_cr = bytes[end] == b'\r';
            self.after_cr = is_cr && rest.is_empty();
            bytes = if is_cr { rest.strip_prefix(b"\n").unwrap_or(rest) } else { rest };
        }
        self.keep(bytes);
        events
    }

    /// Keeps a part of a line.
    fn keep(&mut self, part: &[u8]) {
        if self.held() + part.len() > self.limit.saturating_add(LONGEST_NAME) {
            self.too_long = true;
            // Its beginning says what it is.
            self.line.truncate(LONGEST_NAME);
            self.data = Vec::new();
            let room = LONGEST_NAME - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
        } else {
            self.line.extend_from_slice(part);
        }
    }

    /// Takes a whole line.
    fn take(&mut self, line: &[u8]) -> Option<Event> {
        let line =
            if std::mem::take(&mut self.is_first) { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = memchr::memchr(b':', line).map_or((line, &[][..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let short = || std::str::from_utf8(value).ok().filter(|v| v.len() <= LONGEST_NAME).map(str::to_owned);
        match field {
            b"data" => {
                if self.data.len() + value.len() > self.limit {
                    self.too_long = true;
                    self.data = Vec::new();
                } else if !self.too_long {
                    if self.has_data {
                        self.data.push(b'\n');
                    }
                    self.data.extend_from_slice(value);
                }
                self.has_data = true;
            }
            b"event" => self.name = short().unwrap_or_default(),
            // It is sent back in a header field.
            b"id" => match short().filter(|id| id.bytes().all(|b| b.is_ascii_graphic() || b == b' ')) {
                Some(id) => self.id = Some(id).filter(|id| !id.is_empty()),
                None => self.id = None,
            },
            b"retry" => self.retry = short().and_then(|v| v.parse().ok()).or(self.retry),
            _ => {}
        }
        None
    }

    /// An empty line: the event is whole.
    fn dispatch(&mut self) -> Option<Event> {
        self.last_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.name);
        let (data, too_long) = (std::mem::take(&mut self.data), std::mem::take(&mut self.too_long));
        if !std::mem::take(&mut self.has_data) && !too_long {
            return None;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { data: Some(data).filter(|_| !too_long), name, id: self.last_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of the events of a stream that comes in pieces of this size.
    fn read(text: &str, size: usize) -> (Vec<String>, Decoder) {
        let mut decoder = Decoder::new(40, None);
        let events: Vec<Event> = text.as_bytes().chunks(size).flat_map(|piece| decoder.push(piece)).collect();
        let shown = events.into_iter().map(|e| match e.data {
            Some(data) => format!("{}={}", e.name, String::from_utf8_lossy(&data)),
            None => format!("{} too long", e.name),
        });
        (shown.collect(), decoder)
    }

    #[test]
    fn events_in_any_pieces_with_any_line_ends() {
        let long = "x".repeat(60);
        for (text, wanted, id) in [
            ("data: a\n\ndata:b\n\n", &["message=a", "message=b"][..], None),
            ("\u{feff}data: a\r\n\r\nevent: e\rdata: b\r\rdata: c\n\n", &["message=a", "e=b", "message=c"], None),
            (": ping\n\nid: 7\n\ndata: a\ndata:  b\ndata\n\n", &["message=a\n b\n"], Some("7")),
            ("id: 1\ndata: a\n\nid: 2\ndata: not whole", &["message=a"], Some("1")),
            ("id: 1\ndata: a\n\nid\ndata: b\n\n", &["message=a", "message=b"], None),
            ("other: x\ndata\n\nretry: 5\nretry: x\n", &["message="], None),
            (&format!("data: {long}\n\ndata: a\n\n"), &["message too long", "message=a"], None),
            (&format!("data: {0}\ndata: {0}\n\ndata: a\n\n", "y".repeat(30)), &["message too long", "message=a"], None),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                let (events, decoder) = read(text, size);
                assert_eq!(events, wanted, "{text:?} in pieces of {size}");
                assert_eq!(decoder.last_id(), id, "{text:?} in pieces of {size}");
                assert!(decoder.held() <= 40 + LONGEST_NAME);
            }
        }
        assert_eq!(read("retry: 5\nretry: x\n", 1).1.retry(), Some(5));
    }
}
