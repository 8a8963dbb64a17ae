//! What stands in the place of TLS in a program that was built without the cargo feature `remote`: the error that says so.

use std::path::PathBuf;

use super::stream::{Stream, Tcp};

/// Nothing.
pub(super) struct Tls;

impl Tls {
    pub(super) fn new(_ca: Option<PathBuf>) -> Tls {
        Tls
    }

    pub(super) async fn over(&self, _tcp: Tcp, _host: &str) -> Result<Stream, String> {
        Err("this mcpdaemon was built without TLS (cargo feature 'remote')".to_owned())
    }
}
