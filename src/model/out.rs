//! One message on its way to a client.

use serde::{Deserialize, Serialize};

/// One message to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Out {
    /// The message, as JSON.
    pub text: String,
    /// It answers the request that its outbox was made for.
    pub answer: bool,
    /// The answer is a JSON-RPC error.
    pub failed: bool,
}

impl Out {
    /// The answer to a request.
    pub fn answer(text: String) -> Out {
        Out { text, answer: true, failed: false }
    }

    /// An answer that is an error.
    pub fn error(text: String) -> Out {
        Out { text, answer: true, failed: true }
    }

    /// The answer to a request, which may be an error.
    pub fn reply(text: String, failed: bool) -> Out {
        Out { text, answer: true, failed }
    }

    /// A message that answers nothing: a notification, or a request to the client.
    pub fn notice(text: String) -> Out {
        Out { text, answer: false, failed: false }
    }
}
