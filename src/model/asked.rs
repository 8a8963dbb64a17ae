//! What of an HTTP request its answer depends on.

use serde::{Deserialize, Serialize};

/// Which kinds of answer a client takes (`Accept`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepts {
    /// One JSON object.
    pub json: bool,
    /// An event stream.
    pub events: bool,
}

/// What of an HTTP request its answer depends on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// The client reads chunks (HTTP/1.1).
    pub chunks: bool,
    /// The client keeps the connection for another request.
    pub keeps: bool,
    /// The origin that may read the answer.
    pub origin: Option<String>,
    #[serde(flatten)]
    pub accepts: Accepts,
    /// The request opens a session: the answer carries its id.
    #[serde(rename = "birth")]
    pub opens_session: bool,
}
