//! `Origin` and `Host`: keeps web pages of strangers away from servers on this machine (DNS rebinding).
//!
//! 2025-11-25 basic/transports: servers MUST validate `Origin`, invalid is 403. `Host` is checked as well, because a
//! rebound name shows there. Pure: headers and settings in, a verdict out.

use std::net::IpAddr;

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Stranger<'r> {
    /// It does not say for which host it is.
    NoHost,
    /// It has a header, `what`, with a `name` that is not listed under this `key` of the instance file.
    Named { what: &'static str, name: &'r str, key: &'static str },
}

/// Why a request is refused; None if it is not.
pub fn refuse<'r>(
    host: Option<&'r str>,
    origin: Option<&'r str>,
    local: Option<IpAddr>,
    allow_hosts: &[String],
    allow_origins: &[String],
) -> Option<Stranger<'r>> {
    // On a Unix socket there is no name that could be rebound.
    if let Some(local) = local {
        let Some(host) = host else { return Some(Stranger::NoHost) };
        // A literal address is no name, so it cannot be rebound.
        let own = name_of(host).trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == local);
        if !own && !listed(host, allow_hosts) {
            return Some(Stranger::Named { what: "Host", name: name_of(host), key: "allow_hosts" });
        }
    }
    match origin {
        Some(origin) if !origin_listed(origin, allow_origins) => {
            Some(Stranger::Named { what: "Origin", name: origin, key: "allow_origins" })
        }
        _ => None,
    }
}

/// The strangers that were told of, so many at most.
#[derive(Default)]
pub struct Told(Vec<String>);

impl Told {
    const MOST: usize = 16;

    /// Whether this one was not told of before; false once there are many, because who tries names tries many.
    pub fn is_new(&mut self, name: &str) -> bool {
        let new = self.0.len() < Self::MOST && !self.0.iter().any(|known| known == name);
        if new {
            self.0.push(name.to_owned());
        }
        new
    }
}

fn origin_listed(origin: &str, allowed: &[String]) -> bool {
    let whole = |a: &String| a == "*" || (a.contains("://") && a.eq_ignore_ascii_case(origin));
    allowed.iter().any(whole) || origin.split_once("://").is_some_and(|(_, authority)| listed(authority, allowed))
}

/// `name` or `name:port` is allowed by its name, or with just this port.
fn listed(authority: &str, allowed: &[String]) -> bool {
    let name = name_of(authority);
    allowed.iter().any(|a| a == "*" || a.eq_ignore_ascii_case(authority) || a.eq_ignore_ascii_case(name))
}

/// Without the port; an IPv6 address keeps its brackets.
fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_refused_and_the_neighbourhood_is_not() {
        let own = ["localhost", "127.0.0.1", "[::1]", "app.example:8443"].map(str::to_owned);
        let local = Some("127.0.0.1".parse().unwrap());
        for (host, origin, passes) in [
            (Some("127.0.0.1:8003"), None, true),
            (Some("localhost"), Some("http://localhost:6274"), true),
            (Some("LOCALHOST:1"), Some("https://127.0.0.1"), true),
            (Some("[::1]:8003"), Some("http://[::1]:8003"), true),
            (Some("app.example:8443"), Some("https://app.example:8443"), true),
            (Some("app.example:1"), None, false),
            (Some("evil.example.com"), None, false),
            (Some("localhost.evil.example"), None, false),
            (Some("127.0.0.1"), Some("http://evil.example.com"), false),
            (Some("127.0.0.1"), Some("null"), false),
            (Some("127.0.0.1"), Some("http://localhost.evil.example"), false),
            (Some("127.0.0.1"), Some("localhost"), false),
            (Some("10.0.0.1:8003"), None, false),
            (None, None, false),
        ] {
            assert_eq!(refuse(host, origin, local, &own, &own).is_none(), passes, "{host:?} {origin:?}");
        }
        let stranger = refuse(Some("mcp.example:80"), None, local, &own, &own);
        assert_eq!(stranger, Some(Stranger::Named { what: "Host", name: "mcp.example", key: "allow_hosts" }));
        let lan = Some("10.0.0.1".parse().unwrap());
        assert_eq!(refuse(Some("10.0.0.1:8003"), None, lan, &own, &own), None);
        assert_eq!(refuse(None, None, None, &own, &own), None);
        assert!(refuse(None, Some("http://evil.example"), None, &own, &own).is_some());
        assert_eq!(refuse(Some("x"), Some("http://y"), local, &["*".to_owned()], &["*".to_owned()]), None);
    }
}
