//! What goes wrong between clients and servers: what was being done, to what, and why.
//!
//! The text of an error is what a client reads in its JSON-RPC error, or a person in the log. Which code it gets is decided
//! where it is answered.

use std::fmt;
use std::sync::Arc;

use crate::model::last_words::LastWords;
use crate::model::text::count;

/// Something went wrong.
#[derive(Clone, Debug)]
pub(crate) enum Error {
    /// A request was to be passed to a server that has nothing to serve with.
    NoChild { server: Arc<str> },
    /// A child was waited for that is not ready, or will not be: its place, and how that is.
    NotReady { place: String },
    /// A child was asked that is not there at the moment.
    Absent,
    /// The child of a session was waited for.
    PrivateChildLate,
    /// The child of a session was waited for, and is not started again.
    PrivateChildFailed { server: Arc<str>, trouble: String, verdict: &'static str },
    /// Something was done for a session that has ended meanwhile.
    SessionEnded,
    /// Something was done for a server that was removed meanwhile.
    ServerRemoved,
    /// A request was taken out of the hands of those who would have answered it.
    Withdrawn,
    /// A server was to be asked which era it speaks, and could not be.
    EraUnknown { server: Arc<str> },
    /// A client was to be greeted by a server that has not said what it is.
    NotIntroduced,
    /// A child was asked for something, and answered with this error.
    Answered(String),
    /// A child was asked for something, and is not there to answer: how it ended, or why it is not asked.
    Closed(String),
    /// A child was asked for something, and did not answer in time.
    Unanswered,
    /// A child was asked for a list, and its answer has none of this name.
    NoList { list: &'static str },
    /// A child was asked for a list that is longer than `limits.reply` allows.
    LongList,
    /// A child was to speak the modern era.
    NotModern,
    /// A child was started that is not wanted any more.
    Unwanted,
    /// A child answered its handshake with what is none: why not.
    NoHandshake(String),
    /// A child was started, and did not become ready.
    Start { trouble: String, words: LastWords },
    /// Servers were started for a reload, and required ones of them did not become ready.
    Reload(Vec<(String, String)>),
    /// A session was to be opened beyond a limit: how many there may be, and of what.
    Full { limit: u32, of: String },
    /// A request was opened beyond `limits.in_flight`.
    TooManyOpen { limit: u32 },
    /// A session was to be opened, and there is no id for it.
    NoId(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoChild { server } => write!(f, "server '{server}' has no child"),
            Error::NotReady { place } => f.write_str(place),
            Error::Absent => f.write_str("it has no child at the moment"),
            Error::PrivateChildLate => f.write_str("the session's child is not there yet"),
            Error::PrivateChildFailed { server, trouble, verdict } => {
                write!(f, "server '{server}': {trouble} ({verdict})")
            }
            Error::SessionEnded => f.write_str("the session has ended"),
            Error::ServerRemoved => f.write_str("the server was removed"),
            Error::Withdrawn => f.write_str("the request was withdrawn"),
            Error::EraUnknown { server } => {
                write!(f, "server '{server}' could not be asked which era it speaks; try again")
            }
            Error::NotIntroduced => f.write_str("it has not said what it is"),
            Error::Answered(error) => f.write_str(error),
            Error::Closed(why) => f.write_str(why),
            Error::Unanswered => f.write_str("it did not answer in time"),
            Error::NoList { list } => write!(f, "its answer has no {list}"),
            Error::LongList => f.write_str("it has more of them than 10000, or than 8 MiB or limits.reply"),
            Error::NotModern => f.write_str("it does not speak the modern era"),
            Error::Unwanted => f.write_str("it is not wanted any more"),
            Error::NoHandshake(why) => f.write_str(why),
            Error::Start { trouble, .. } => f.write_str(trouble),
            Error::Reload(servers) => {
                let one = |(server, why): &(String, String)| format!("required server '{server}' cannot start: {why}");
                f.write_str(&servers.iter().map(one).collect::<Vec<_>>().join("\n"))
            }
            Error::Full { limit, of } => {
                write!(f, "{} at a time is the limit{of}; try again later", count(*limit as usize, "session"))
            }
            Error::TooManyOpen { limit } => {
                write!(f, "this session has {limit} unanswered requests already (limits.in_flight)")
            }
            Error::NoId(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}
