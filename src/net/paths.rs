//! The paths that are served, and what a client means that writes one in another way.
//!
//! Pure: knows paths, and nothing of what is there.

use std::borrow::Cow;

/// 200 while the process serves.
pub const HEALTHZ: &str = "/healthz";
/// 200 while every required server is ready.
pub const READYZ: &str = "/readyz";
/// Another name of [`READYZ`], for the many programs that ask for it.
pub const HEALTH: &str = "/health";
pub const STATUS: &str = "/status";
pub const METRICS: &str = "/metrics";
/// The page for people.
pub const PAGE: &str = "/";
/// The endpoints of the bridge.
const BRIDGE: [&str; 4] = ["/mcp", "/ws/mcp", "/sse", "/message"];
/// Those of a server, behind its name.
pub const ENDPOINTS: [&str; 4] = ["mcp", "ws", "sse", "message"];
/// What the endpoints of servers begin with.
pub const SERVERS: &str = "/servers/";

/// A path without a slash at its end, without empty parts, and with plain characters as themselves (RFC 3986 section
/// 6.2.2.2). Clients and proxies put a path together from parts, and their users write it down.
pub fn meant(path: &str) -> Cow<'_, str> {
    let ends = path.len() > 1 && path.ends_with('/');
    if !ends && !path.contains("//") && !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let plain = decoded(path);
    let parts: Vec<&str> = plain.split('/').filter(|part| !part.is_empty()).collect();
    Cow::Owned(format!("/{}", parts.join("/")))
}

/// A path with the characters as themselves that need no escape; all other escapes stay.
fn decoded(path: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(path.len()), path);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.map(char::from).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')) {
            Some(plain) => {
                out.push(plain);
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Whether there may be something at a path, which is as it is [`meant`].
pub fn exists(path: &str) -> bool {
    // What stands for the server as a whole, or for another one, is there, and takes no method of ours (RFC 9112 section
    // 3.2).
    let admin = ["", "*", PAGE, HEALTHZ, READYZ, HEALTH, STATUS, METRICS];
    let of_server = |rest: &str| {
        let endpoint = rest.split_once('/').map(|(_, endpoint)| endpoint);
        endpoint.is_some_and(|endpoint| ENDPOINTS.contains(&endpoint))
    };
    admin.contains(&path) || BRIDGE.contains(&path) || path.strip_prefix(SERVERS).is_some_and(of_server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_is_meant() {
        for (path, meant_so) in [
            ("/", "/"),
            ("/mcp", "/mcp"),
            ("/mcp/", "/mcp"),
            ("//mcp//", "/mcp"),
            ("/servers//x/mcp/", "/servers/x/mcp"),
            ("/servers/my%2Dserver/mcp", "/servers/my-server/mcp"),
            ("/servers/a%2fb/mcp", "/servers/a%2fb/mcp"),
            ("/servers/%", "/servers/%"),
            ("/servers/%2", "/servers/%2"),
            ("/servers/%C3%A9/", "/servers/%C3%A9"),
            ("/////", "/"),
        ] {
            assert_eq!(meant(path), meant_so, "{path}");
        }
        assert!(matches!(meant("/servers/x/mcp"), Cow::Borrowed(_)), "nothing is copied for what is written well");
    }
}
