//! The `log` section: where the log goes, what it tells, and what becomes of it when it grows.

use std::path::PathBuf;

use super::read::{Node, Origin, Reader, Section, Setting};
use super::setting::Size;

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub file: PathBuf,
    pub level: log::LevelFilter,
    pub format: Format,
    /// None: another program moves the file away, and says so by SIGHUP.
    pub rotate: Option<Rotate>,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// When the log is moved away, and how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// The file is moved away before it would be longer than this.
    pub size: Size,
    /// So many old files are kept beside it, as `NAME.log.1` and so on.
    pub keep: u32,
}

/// A file that is smaller than this would be moved away all the time.
const LEAST: Size = Size(4 << 10);
/// More old files than anybody can mean.
const MOST_KEPT: u32 = 1000;

/// Reads the section. `file` is the default path; a flag or the environment may set the level.
pub(super) fn log(s: &mut Section<'_, '_>, file: PathBuf, level: Option<(log::LevelFilter, Origin)>) -> Log {
    Log {
        file: s.get("file", file),
        level: s.get_or("level", level, log::LevelFilter::Info),
        format: s.get("format", Format::Text),
        rotate: s.nested_or_none("rotate", rotate),
    }
}

pub(super) fn rotate(s: &mut Section<'_, '_>) -> Rotate {
    let rotate = Rotate { size: s.get("size", Size::mib(10)), keep: s.get("keep", 5) };
    if let Some(node) = s.node("size").filter(|_| rotate.size < LEAST) {
        s.reader.problem(node, format!("a log of less than {LEAST} would be rotated all the time"));
    }
    if let Some(node) = s.node("keep").filter(|_| rotate.keep > MOST_KEPT) {
        s.reader.problem(node, format!("at most {MOST_KEPT} old files can be kept"));
    }
    rotate
}

impl Setting for Format {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        match node.0 {
            "Text" => Some(Format::Text),
            "Json" => Some(Format::Json),
            other => {
                reader.unknown(node, "log format", other, &["Text", "Json"]);
                None
            }
        }
    }
    fn show(&self) -> String {
        format!("{self:?}")
    }
}
