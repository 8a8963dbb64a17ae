//! Events that an administrator should know of (`on_event`), as documents.

use serde::Serialize;

use super::status::Level;

/// One event, as the command of `on_event` gets it on its standard input (mcpdaemon.ron(5), on_event).
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// `server-failed`, `server-restarted`, `server-unhealthy`, `server-recovered`, `reload-refused`, `upgrade-refused`,
    /// `instance-degraded`, `instance-recovered`, `alert-raised` or `alert-cleared`.
    pub event: &'static str,
    pub instance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of an alert: how bad it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Of an alert: what was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// RFC 3339, UTC.
    pub at: String,
    /// The process of the daemon.
    pub pid: u32,
}
