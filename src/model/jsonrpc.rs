//! The JSON-RPC messages that the daemon writes itself: errors, results, notifications.
//!
//! Every text here is one line of JSON. `id` arguments are JSON text, as the peer wrote it.

use crate::model::envelope::quote;

/// The text is not JSON (JSON-RPC 2.0 section 5.1).
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but not a request.
pub const INVALID_REQUEST: i32 = -32600;
pub const METHOD_NOT_FOUND: i32 = -32601;
pub const INVALID_PARAMS: i32 = -32602;
/// The server could not do it: it died, it is not running, it did not answer in time.
pub const INTERNAL_ERROR: i32 = -32603;
/// The gateway refused: shutting down, a limit was reached. The code that the MCP SDKs use for a lost connection.
pub const REFUSED: i32 = -32000;

/// Too many sessions (the number is cc_executor's).
pub const TOO_MANY_SESSIONS: i32 = -32003;
/// The request was cancelled; only sent where there must be an answer. The code that the Language Server Protocol has
/// for it.
pub const CANCELLED: i32 = -32800;

/// An error as the answer to `id`; `null` where there is none to answer.
pub fn error(id: Option<&str>, code: i32, message: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{code},"message":{}}}}}"#,
        id.unwrap_or("null"),
        quote(message)
    )
}

/// A result, given as JSON text.
pub fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// A request without params, or with params given as JSON text.
pub fn request(id: u64, method: &str, params: Option<&str>) -> String {
    match params {
        Some(p) => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{p}}}"#),
        None => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#),
    }
}

/// A notification with optional params, given as JSON text.
pub fn notification(method: &str, params: Option<&str>) -> String {
    match params {
        Some(p) => [r#"{"jsonrpc":"2.0","method":""#, method, r#"","params":"#, p, "}"].concat(),
        None => format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#),
    }
}
