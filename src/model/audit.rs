//! Lines of the audit record: one JSON object each, in the form that mcpdaemon(8) documents field by field.
//!
//! Pure: values go in, and a line comes out. What is not known is left out.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::envelope::quote;
use super::text::printable;

/// The version of the form. A field more is no other version, one less or another meaning is.
const VERSION: u32 = 1;
/// No text in it is longer, in bytes; arguments alone are as long as they are.
const TEXT: usize = 1000;

/// What is noted of a request as it comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub method: Box<str>,
    /// The tool, the prompt, or the URI.
    pub name: Option<Box<str>>,
    /// The length of its message.
    pub bytes_in: usize,
    /// Its `traceparent`.
    pub trace: Option<Box<str>>,
    /// Its arguments as they stand in it, on one line, where they are wanted.
    pub arguments: Option<Box<str>>,
}

/// A line that is no longer is put together in one piece of memory, in bytes.
const USUAL: usize = 512;

/// One line, field by field.
pub struct Line(String);

impl Line {
    /// Begins a line about an event of this time.
    pub fn new(time: &str, event: &str) -> Line {
        let mut line = String::with_capacity(USUAL);
        let _ = write!(line, "{{\"v\":{VERSION},\"time\":\"{time}\",\"event\":\"{event}\"");
        Line(line)
    }

    /// A text, if there is one. Control characters in it are spelt out.
    pub fn text(mut self, field: &str, value: Option<&str>) -> Line {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let plain = |b: u8| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\';
            self.0.extend([",\"", field, "\":"]);
            match value.len() <= TEXT && value.bytes().all(plain) {
                // Nearly all are, and there are many.
                true => self.0.extend(["\"", value, "\""]),
                false => self.0.push_str(&quote(&printable(value, TEXT))),
            }
        }
        self
    }

    /// A number or anything else that is JSON already.
    pub fn json(mut self, field: &str, value: Option<impl std::fmt::Display>) -> Line {
        if let Some(value) = value {
            let _ = write!(self.0, ",\"{field}\":{value}");
        }
        self
    }

    /// The line, with its end.
    pub fn end(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_json_whatever_stands_in_it() {
        let line = Line::new("2026-11-29T00:00:00Z", "call")
            .text("principal", Some("token:ann"))
            .text("name", Some("a\n\"b\"\u{1b}[2J"))
            .text("server", None)
            .json("id", Some("\"x\""))
            .json("ms", Some(1.25))
            .json("code", None::<i32>)
            .end();
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((read["v"].as_u64(), read["principal"].as_str()), (Some(1), Some("token:ann")));
        assert_eq!((read["id"].as_str(), read["ms"].as_f64()), (Some("x"), Some(1.25)));
        assert!(read.get("server").is_none() && read.get("code").is_none());
        assert!(!read["name"].as_str().unwrap().contains('\u{1b}'));
    }
}
