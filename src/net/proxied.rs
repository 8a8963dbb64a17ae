//! What a proxy in front says of a request: the path that it has taken away, and whose request it is.
//!
//! Pure: configuration and headers in.

use std::net::IpAddr;

use super::head::{Fields, text};
use crate::model::config::{Config, is_base};

const PREFIX: &str = "x-forwarded-prefix";
const FOR: &str = "x-forwarded-for";

/// Whether the other end of a connection is a proxy that is believed. None is this host, and has no address of its own.
fn is_trusted(config: &Config, peer: Option<IpAddr>) -> bool {
    let own = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    let peers = peer.map_or(own.to_vec(), |peer| vec![peer]);
    config.trusted_proxies.iter().any(|network| peers.iter().any(|peer| network.contains(*peer)))
}

/// What stands before our paths where the client is: `base_path`, or what a proxy says that is believed.
pub(super) fn before(config: &Config, peer: Option<IpAddr>, fields: &Fields) -> String {
    if !config.base_path.is_empty() {
        return config.base_path.clone();
    }
    let Some(said) = fields.get(PREFIX).filter(|_| is_trusted(config, peer)) else { return String::new() };
    let said = text(said).unwrap_or("").trim().trim_end_matches('/');
    if is_base(said) { said.to_owned() } else { String::new() }
}

/// A path without what stands before ours, where the proxy has not taken that away.
pub(super) fn without<'p>(base: &str, path: &'p str) -> &'p str {
    match path.strip_prefix(base).filter(|_| !base.is_empty()) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// The address of the client: the last one that no proxy has which is believed. None where nobody says it.
pub(super) fn client(config: &Config, peer: Option<IpAddr>, fields: &Fields) -> Option<IpAddr> {
    if config.trusted_proxies.is_empty() || !is_trusted(config, peer) {
        return None;
    }
    let all = fields.texts(FOR).flat_map(|v| v.split(','));
    let hops: Vec<&str> = all.map(str::trim).collect();
    for hop in hops.into_iter().rev() {
        // What is no address was not written by a proxy of ours.
        let ip = hop.parse::<IpAddr>().ok()?.to_canonical();
        if !config.trusted_proxies.iter().any(|network| network.contains(ip)) {
            return Some(ip);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::sample::config;

    const SERVERS: &str = r#"servers: {"a": Stdio(command: "/bin/a")}"#;

    fn headers(all: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        all.iter().for_each(|(name, value)| fields.add(name, value.as_bytes()));
        fields
    }

    #[test]
    fn the_path_before_ours_is_what_is_configured_or_what_a_trusted_proxy_says() {
        let own = config(&format!("(trusted_proxies: [\"127.0.0.0/8\", \"10.0.0.7\"], {SERVERS})"));
        let peer = |ip: &str| Some(ip.parse().unwrap());
        let said = headers(&[(PREFIX, "/gw/")]);
        assert_eq!(before(&own, peer("10.0.0.7"), &said), "/gw");
        assert_eq!(before(&own, None, &said), "/gw", "one of this host");
        assert_eq!(before(&own, peer("10.0.0.8"), &said), "");
        assert_eq!(before(&own, None, &headers(&[(PREFIX, "/a b\tc")])), "");
        let fixed = config(&format!("(base_path: \"/x\", {SERVERS})"));
        assert_eq!(before(&fixed, peer("10.0.0.8"), &said), "/x");
        assert_eq!(before(&config(&format!("({SERVERS})")), None, &said), "");
        for (path, left) in [("/x", "/"), ("/x/mcp", "/mcp"), ("/xy", "/xy"), ("/mcp", "/mcp")] {
            assert_eq!(without("/x", path), left);
        }
        assert_eq!(without("", "/mcp"), "/mcp");
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_proxy_of_ours() {
        let own = config(&format!("(trusted_proxies: [\"127.0.0.1\", \"10.0.0.0/8\"], {SERVERS})"));
        let client = |peer: Option<&str>, all: &[&str]| {
            let all: Vec<_> = all.iter().map(|v| (FOR, *v)).collect();
            super::client(&own, peer.map(|p| p.parse().unwrap()), &headers(&all)).map(|ip| ip.to_string())
        };
        assert_eq!(client(None, &["203.0.113.9"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(client(None, &["6.6.6.6, 203.0.113.9", "10.1.1.1"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(client(Some("203.0.113.1"), &["6.6.6.6"]), None, "no proxy of ours");
        assert_eq!(client(None, &["nonsense"]), None);
        assert_eq!(client(None, &[]), None);
    }
}
