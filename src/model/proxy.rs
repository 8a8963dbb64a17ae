//! Which proxy the environment wants for a URL: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in both cases, as most
//! programs read them.
//!
//! Pure: the environment is handed in. What is on this host is reached directly, always.

use std::net::IpAddr;

use super::config::Network;
use super::url::{Url, authority_parts};

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// The value of `Proxy-Authorization`, which is secret.
    pub authorization: Option<String>,
}

/// The proxy for a URL; None where it is reached directly.
///
/// # Errors
/// The environment names one of a kind that is not understood.
pub fn proxy_for(url: &Url, var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let get =
        |name: &str| [name.to_ascii_lowercase(), name.to_owned()].iter().find_map(|n| var(n)).filter(|v| !v.is_empty());
    if url.is_local() || get("NO_PROXY").is_some_and(|list| is_excepted(url, &list)) {
        return Ok(None);
    }
    let name = if url.is_tls { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let found = get(name).map(|value| (name, value)).or_else(|| get("ALL_PROXY").map(|value| ("ALL_PROXY", value)));
    let Some((name, value)) = found else { return Ok(None) };
    read(&value).map(Some).map_err(|why| format!("{name} of the environment: {why}"))
}

/// `http://name:password@host:port`, of which all but the host may be missing.
fn read(value: &str) -> Result<Proxy, String> {
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(format!("a proxy of the kind '{scheme}' is not understood, http:// alone is"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (host, port) = authority_parts(host, 80).map_err(|_| "it names no host".to_owned())?;
    let authorization = user.map(|user| {
        let user = unescaped(user);
        let user = if user.contains(&b':') { user } else { [&user[..], b":"].concat() };
        format!("Basic {}", data_encoding::BASE64.encode(&user))
    });
    Ok(Proxy { host, port, authorization })
}

/// `%20` and the like as bytes (RFC 3986, section 2.1).
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.filter(|_| bytes[at] == b'%') {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// Whether a URL is in a list of what is reached directly: names with all below them, addresses, networks, `*`.
fn is_excepted(url: &Url, list: &str) -> bool {
    let host = url.host.to_ascii_lowercase();
    let ip = host.parse::<IpAddr>().ok();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some(ip) = ip
            && let Ok(network) = entry.parse::<Network>()
        {
            return network.contains(ip);
        }
        let (name, port) = match authority_parts(entry, 0) {
            Ok((name, port)) => (name.to_ascii_lowercase(), port),
            Err(_) => return false,
        };
        let name = name.trim_start_matches('.');
        let same = host == name || host.strip_suffix(name).is_some_and(|head| head.ends_with('.'));
        !name.is_empty() && same && (port == 0 || port == url.port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: &str, vars: &[(&str, &str)]) -> Result<Option<String>, String> {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let found = proxy_for(&Url::parse(url).unwrap(), &var)?;
        Ok(found
            .map(|p| format!("{}:{}{}", p.host, p.port, p.authorization.map_or(String::new(), |a| format!(" {a}")))))
    }

    #[test]
    fn the_environment_names_a_proxy_and_what_needs_none() {
        let all = [
            ("HTTPS_PROXY", "http://p:3128"),
            ("http_proxy", "q"),
            ("NO_PROXY", "a.org, .b.org,10.0.0.0/8,c.org:8443"),
        ];
        for (url, proxy) in [
            ("https://x.org/", Some("p:3128")),
            ("http://x.org/", Some("q:80")),
            ("https://a.org/", None),
            ("https://www.a.org/", None),
            ("https://xa.org/", Some("p:3128")),
            ("https://www.b.org/", None),
            ("https://10.1.2.3/", None),
            ("https://11.1.2.3/", Some("p:3128")),
            ("https://c.org/", Some("p:3128")),
            ("https://c.org:8443/", None),
            ("https://localhost/", None),
            ("http://127.0.0.1:8003/", None),
        ] {
            assert_eq!(found(url, &all).unwrap().as_deref(), proxy, "{url}");
        }
        assert_eq!(found("https://x.org/", &[]).unwrap(), None);
        assert_eq!(
            found("https://x.org/", &[("ALL_PROXY", "http://u%40:p@h")]).unwrap().unwrap(),
            "h:80 Basic dUA6cA=="
        );
        assert_eq!(found("https://x.org/", &[("ALL_PROXY", "h:1"), ("no_proxy", "*")]).unwrap(), None);
        assert!(found("https://x.org/", &[("ALL_PROXY", "socks5://h:1")]).unwrap_err().contains("'socks5'"));
    }
}
