//! JSON as editors let people write it, with comments and commas behind the last element, read piece by piece, so that
//! each problem has its place.
//!
//! serde_json parses; what it does not understand is blanked out first, which moves nothing.

use std::collections::HashSet;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A text without what JSON does not know.
pub struct Document {
    plain: String,
}

/// A value as it stands in the document.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a>(&'a str);

/// What is wrong, and at which byte of the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub at: usize,
    pub what: String,
}

impl Document {
    pub fn new(text: &str) -> Result<Document, Wrong> {
        Ok(Document { plain: plain(text)? })
    }

    pub fn root(&self) -> Result<Node<'_>, Wrong> {
        self.read::<&RawValue>(Node(&self.plain)).map(|raw| Node(raw.get()))
    }

    /// Where a value begins.
    pub fn at(&self, node: Node<'_>) -> usize {
        (node.0.as_ptr() as usize).wrapping_sub(self.plain.as_ptr() as usize).min(self.plain.len())
    }

    pub fn wrong(&self, node: Node<'_>, what: impl Into<String>) -> Wrong {
        Wrong { at: self.at(node), what: what.into() }
    }

    fn read<'a, T: Deserialize<'a>>(&self, node: Node<'a>) -> Result<T, Wrong> {
        serde_json::from_str(node.0).map_err(|e| {
            let line: usize = node.0.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
            let inside = (line + e.column().saturating_sub(1)).min(node.0.len());
            let text = e.to_string();
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            Wrong { at: self.at(node) + inside, what: what.to_owned() }
        })
    }

    /// The members of an object, in their order. Of several with one name the last one counts.
    pub fn object<'a>(&self, node: Node<'a>, what: &str) -> Result<Vec<(String, Node<'a>)>, Wrong> {
        if !node.0.starts_with('{') {
            return Err(self.expected(node, what, "an object {...}"));
        }
        let Members(mut members) = self.read(node)?;
        let mut names = HashSet::new();
        members.reverse();
        members.retain(|(name, _)| names.insert(name.clone()));
        members.reverse();
        Ok(members)
    }

    pub fn list<'a>(&self, node: Node<'a>, what: &str) -> Result<Vec<Node<'a>>, Wrong> {
        if !node.0.starts_with('[') {
            return Err(self.expected(node, what, "a list [...]"));
        }
        Ok(self.read::<Vec<&RawValue>>(node)?.into_iter().map(|raw| Node(raw.get())).collect())
    }

    pub fn string(&self, node: Node<'_>, what: &str) -> Result<String, Wrong> {
        if !node.0.starts_with('"') {
            return Err(self.expected(node, what, "a string in quotes"));
        }
        self.read(node)
    }

    /// A string; also a number or a truth value, as they stand there: many write a port without quotes.
    pub fn word(&self, node: Node<'_>, what: &str) -> Result<String, Wrong> {
        match node.0.as_bytes().first() {
            Some(b'0'..=b'9' | b'-' | b't' | b'f') => Ok(node.0.to_owned()),
            _ => self.string(node, what),
        }
    }

    /// A number, or None where the value is none.
    pub fn number(&self, node: Node<'_>) -> Option<f64> {
        node.0.starts_with(|c: char| c.is_ascii_digit() || c == '-').then(|| node.0.parse().ok()).flatten()
    }

    fn expected(&self, node: Node<'_>, what: &str, expected: &str) -> Wrong {
        let found = match node.0.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b'n') => "null",
            Some(b't' | b'f') => "a truth value",
            _ => "a number",
        };
        self.wrong(node, format!("{what}: expected {expected}, found {found}"))
    }
}

impl<'a> Node<'a> {
    /// The value as it is written.
    pub fn written(self) -> &'a str {
        self.0
    }

    /// Whether it is written so.
    pub fn is(self, written: &str) -> bool {
        self.0 == written
    }
}

/// Blanks comments, and a comma before a closing bracket.
fn plain(text: &str) -> Result<String, Wrong> {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut comma = None;
    let mut at = 0;
    while at < bytes.len() {
        let begin = at;
        let pair = [bytes[at], bytes.get(at + 1).copied().unwrap_or_default()];
        match &pair {
            b"//" => {
                at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| begin + n);
                out[begin..at].fill(b' ');
            }
            b"/*" => {
                let end = bytes[at + 2..].windows(2).position(|w| w == b"*/");
                let end = end.ok_or(Wrong { at, what: "this comment has no end".to_owned() })?;
                at += end + 4;
                for byte in out[begin..at].iter_mut().filter(|b| **b != b'\n') {
                    *byte = b' ';
                }
            }
            [b'"', _] => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
                comma = None;
            }
            [b'}' | b']', _] => {
                if let Some(comma) = comma.take() {
                    out[comma] = b' ';
                }
                at += 1;
            }
            [byte, _] => {
                match byte {
                    b',' => comma = Some(at),
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    _ => comma = None,
                }
                at += 1;
            }
        }
    }
    // Whole comments alone were blanked, so it is what it was: UTF-8.
    Ok(String::from_utf8_lossy(&out).into_owned())
}

struct Members<'a>(Vec<(String, Node<'a>)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    members.push((key, Node(value.get())));
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_last_commas_are_blanked_and_nothing_moves() {
        for (text, wanted) in [
            ("{\"a\": 1, // x, }\n}", "{\"a\": 1         \n}"),
            ("[1,/* é\n, */]", "[1      \n    ]"),
            ("{\"// no\": \"/* no, */ \\\" ,}\"}", "{\"// no\": \"/* no, */ \\\" ,}\"}"),
            ("[1,2,\r\n\t]", "[1,2 \r\n\t]"),
            ("//", "  "),
            ("\"open \\", "\"open \\"),
            ("[,,]", "[, ]"),
        ] {
            assert_eq!(plain(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(plain("{ /* x").unwrap_err().at, 2);
        assert!(plain("/*/").is_err());
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        let text = "{\n  \"a\": {\"b\": [1, \"\\ud800\"], \"b\": 2},\n  \"c\" 3\n}";
        let document = Document::new(text).unwrap();
        let wrong = document.root().unwrap_err();
        assert_eq!((&text[wrong.at..wrong.at + 1], wrong.what.as_str()), ("3", "expected `:`"));
        let text = text.replace("\"c\" 3", "\"c\": 3");
        let document = Document::new(&text).unwrap();
        let root = document.object(document.root().unwrap(), "it").unwrap();
        let a = document.object(root[0].1, "a").unwrap();
        assert!(a.len() == 1 && a[0].1.is("2"), "the last one counts");
        let wrong = document.list(root[1].1, "'c'").unwrap_err();
        assert_eq!(
            (wrong.at, wrong.what.as_str()),
            (text.find('3').unwrap(), "'c': expected a list [...], found a number")
        );
        let text = "[\"\\ud800\"]";
        let document = Document::new(text).unwrap();
        let list = document.list(document.root().unwrap(), "it").unwrap();
        assert!(document.string(list[0], "x").is_err());
    }
}
