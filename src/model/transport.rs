//! How a client is connected, and how long what it has here lasts.

use serde::{Deserialize, Serialize};

/// How a session's client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP, from revision 2025-03-26 on.
    Http,
    WebSocket,
    /// HTTP+SSE of revision 2024-11-05: one event stream down, POSTs up.
    Sse,
}

/// What kind of session it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum SessionKind {
    /// A client's own, which lasts until one side ends it.
    Lasting(Transport),
    /// One request of the modern era: there is no session, and what stands for one ends with the request.
    Request,
    /// What a session of the bridge has at one server.
    Part,
}

impl SessionKind {
    pub fn transport(self) -> Option<Transport> {
        match self {
            SessionKind::Lasting(transport) => Some(transport),
            SessionKind::Request | SessionKind::Part => None,
        }
    }

    /// It counts against `limits.sessions`.
    pub fn is_lasting(self) -> bool {
        self.transport().is_some()
    }

    /// Its client names it by an id in each request; elsewhere the connection is the session.
    pub fn has_id(self) -> bool {
        matches!(self.transport(), Some(Transport::Http | Transport::Sse))
    }
}

/// The form in the handover document.
#[derive(Serialize, Deserialize)]
enum Written {
    Http,
    WebSocket,
    Sse,
    Stateless,
    Part,
}

impl From<SessionKind> for Written {
    fn from(kind: SessionKind) -> Written {
        match kind {
            SessionKind::Lasting(Transport::Http) => Written::Http,
            SessionKind::Lasting(Transport::WebSocket) => Written::WebSocket,
            SessionKind::Lasting(Transport::Sse) => Written::Sse,
            SessionKind::Request => Written::Stateless,
            SessionKind::Part => Written::Part,
        }
    }
}

impl From<Written> for SessionKind {
    fn from(written: Written) -> SessionKind {
        match written {
            Written::Http => SessionKind::Lasting(Transport::Http),
            Written::WebSocket => SessionKind::Lasting(Transport::WebSocket),
            Written::Sse => SessionKind::Lasting(Transport::Sse),
            Written::Stateless => SessionKind::Request,
            Written::Part => SessionKind::Part,
        }
    }
}
