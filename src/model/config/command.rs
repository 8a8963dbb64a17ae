//! A command of the configuration, found at load.

use std::path::PathBuf;

/// A program with its arguments, which the daemon runs when something has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Absolute.
    pub program: PathBuf,
    pub args: Vec<String>,
}
