//! The `audit` section: a record of who has asked for what.

use std::path::{Path, PathBuf};

use super::logging::{Rotate, rotate};
use super::read::{Origin, Section};

/// Where the record is, and what stands in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    pub file: PathBuf,
    /// Whether the arguments of calls stand there, which may be secret.
    pub arguments: bool,
    /// Nothing is asked of a server while the record cannot be written.
    pub required: bool,
    /// None: another program moves the file away, and says so by SIGHUP.
    pub rotate: Option<Rotate>,
}

/// Reads the section; None without one. `log` is the file of the log, beside which it is.
pub(super) fn audit(s: &mut Section<'_, '_>, log: &Path) -> Option<Audit> {
    if s.optional("audit").is_none() {
        s.show("audit", "None".to_owned(), Origin::Default);
        return None;
    }
    let audit = s.nested("audit", |s| Audit {
        file: s.get("file", log.with_extension("audit")),
        arguments: s.get("arguments", false),
        required: s.get("required", false),
        rotate: s.nested_or_none("rotate", rotate),
    });
    if let Some(node) = s.node("audit").filter(|_| audit.file == log) {
        s.reader.problem(node, "the log is in this file: 'file' names another one".to_owned());
    }
    Some(audit)
}
