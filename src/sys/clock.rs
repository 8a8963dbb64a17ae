//! The time of day in words, as it stands in logs, events and status documents: RFC 3339 in UTC, to the millisecond.

use std::time::SystemTime;

/// This moment.
pub(crate) fn now() -> String {
    rfc3339(SystemTime::now())
}

/// This moment to the microsecond, for what is compared: a message takes less than a millisecond.
pub(crate) fn exactly_now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// Another moment.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
