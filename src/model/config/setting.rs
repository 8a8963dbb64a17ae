//! The types that settings have: how each is read from RON and written back for `-T`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::read::{Node, Reader, Setting};
use crate::model::text;

/// A string as RON writes it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Setting for bool {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        reader.plain(node, "true or false")
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        reader.plain(node, "a whole number from 0 to 4294967295")
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        reader.string(node, "a string in quotes")
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        reader.path(node)
    }
    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// No duration but zero is shorter.
pub const SHORTEST: Duration = Duration::from_millis(1);
/// No duration is longer: a year.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

impl Setting for Duration {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        const EXPECTED: &str = "a duration in quotes, such as \"500ms\", \"30s\" or \"10m\"";
        let text = reader.string(node, EXPECTED)?;
        match humantime::parse_duration(&text) {
            Ok(d) if d < SHORTEST && !d.is_zero() => {
                reader.problem(node, "a duration of less than a millisecond");
                None
            }
            Ok(d) if d <= LONGEST => Some(d),
            Ok(_) => {
                reader.problem(node, "a duration of more than a year");
                None
            }
            Err(_) => {
                reader.problem(node, format!("expected {EXPECTED}, found {}", quoted(&text)));
                None
            }
        }
    }
    fn show(&self) -> String {
        quoted(&text::duration(*self))
    }
}

/// A number of bytes, written `"10MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// What one message may take of the memory at the very most; "16EiB" is a mistake, not a wish.
    pub const MOST: Size = Size(4 << 30);

    pub const fn mib(n: u64) -> Size {
        Size(n << 20)
    }
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Setting for Size {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        const EXPECTED: &str = "a size in quotes, such as \"64KiB\" or \"10MiB\"";
        let text = reader.string(node, EXPECTED)?;
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() <= Size::MOST.0 => Some(Size(size.as_u64())),
            Ok(_) => {
                reader.problem(node, format!("{} is more than {}, the most there can be", quoted(&text), Size::MOST));
                None
            }
            Err(_) => {
                reader.problem(node, format!("expected {EXPECTED}, found {}", quoted(&text)));
                None
            }
        }
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// File mode bits, written `0o027`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Setting for Mode {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        const EXPECTED: &str = "mode bits in octal, 0o000 to 0o777";
        let mode: u32 = reader.plain(node, EXPECTED)?;
        // Without the prefix it would be decimal, which is never meant.
        if mode > 0o777 || !(node.0.starts_with("0o") || mode == 0) {
            reader.problem(node, format!("expected {EXPECTED}, found {}", node.0));
            return None;
        }
        Some(Mode(mode))
    }
    fn show(&self) -> String {
        format!("0o{:03o}", self.0)
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        let nodes = reader.list(node, "a list [...]")?;
        let read: Vec<Option<T>> = nodes.into_iter().map(|n| T::read(reader, n)).collect();
        read.into_iter().collect()
    }
    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

impl Setting for log::LevelFilter {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        const LEVELS: [&str; 6] = ["Off", "Error", "Warn", "Info", "Debug", "Trace"];
        let word = match reader.variant(node) {
            Some((word, None)) => word.to_owned(),
            _ => reader.string(node, "one of Off, Error, Warn, Info, Debug, Trace")?,
        };
        match word.parse() {
            Ok(level) => Some(level),
            Err(_) => {
                reader.unknown(node, "log level", &word, &LEVELS);
                None
            }
        }
    }
    fn show(&self) -> String {
        let name = self.as_str().to_lowercase();
        name[..1].to_uppercase() + &name[1..]
    }
}
