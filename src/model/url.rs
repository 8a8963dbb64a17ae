//! URLs of servers elsewhere (RFC 3986, section 3): http and https, with a host.
//!
//! A query may hold a secret, so a URL is shown without it. Pure.

use std::fmt;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    /// As it is looked up: an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, as a request names them.
    pub path: String,
}

/// No URL is longer, in bytes.
const LONGEST: usize = 4096;

impl Url {
    /// Reads `http://host:port/path?query`.
    ///
    /// # Errors
    /// What is wrong, without the URL itself.
    pub fn parse(text: &str) -> Result<Url, String> {
        let (scheme, rest) = text.split_once("://").ok_or("a URL begins with http:// or https://")?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("a URL begins with http:// or https://".to_owned()),
        };
        if text.len() > LONGEST
            || !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\'))
        {
            return Err(format!("a URL has at most {LONGEST} visible ASCII characters; others are written as %20"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("a name and a password do not belong into a URL: give a header".to_owned());
        }
        let (host, port) = authority_parts(authority, if is_tls { 443 } else { 80 })?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { is_tls, host, port, path })
    }

    /// Where a redirect from here leads (RFC 9110, section 10.2.2).
    ///
    /// # Errors
    /// It is no place that a message may be sent to again: another host, or one that is reached without TLS.
    pub fn redirected(&self, location: &str) -> Result<Url, String> {
        let scheme = location.split_once("://").map_or("", |(scheme, _)| scheme);
        let whole = match location {
            _ if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => location.to_owned(),
            _ if location.starts_with("//") => format!("{}:{location}", self.scheme()),
            _ if location.starts_with('/') => format!("{}{location}", self.origin()),
            _ if location.starts_with('?') => format!("{}{}{location}", self.origin(), self.path_alone()),
            _ => {
                let folder = self.path_alone().rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{}{folder}/{location}", self.origin())
            }
        };
        let to = Url::parse(&whole).map_err(|why| format!("it leads to no URL: {why}"))?;
        match () {
            () if !to.host.eq_ignore_ascii_case(&self.host) => Err(format!("it leads to another host, {}", to.host())),
            () if self.is_tls && !to.is_tls => Err("it leads away from TLS".to_owned()),
            // From http to https the port changes with the scheme, and no other way.
            () if to.port != self.port && (self.is_tls, to.is_tls, self.port, to.port) != (false, true, 80, 443) => {
                Err(format!("it leads to another port, {}", to.port))
            }
            () => Ok(to),
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// The host as a URL has it.
    fn host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// What the header field `Host` says (RFC 9110, section 7.2).
    pub fn authority(&self) -> String {
        match (self.is_tls, self.port) {
            (false, 80) | (true, 443) => self.host(),
            (_, port) => format!("{}:{port}", self.host()),
        }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }

    /// With its query.
    pub fn whole(&self) -> String {
        format!("{}{}", self.origin(), self.path)
    }

    fn path_alone(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// Whether it is this host: what is said to it passes no network.
    pub fn is_local(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Url {
    /// Without the query, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = if self.path.contains('?') { "?***" } else { "" };
        write!(f, "{}{}{hidden}", self.origin(), self.path_alone())
    }
}

/// `host`, `host:port`, `[::1]:port`: the host without brackets, and the port.
pub fn authority_parts(authority: &str, default: u16) -> Result<(String, u16), String> {
    let wrong = || "a URL has a host, such as https://example.org/mcp".to_owned();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| format!("'[{host}]' is no IPv6 address"))?;
            (host, after)
        }
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'~' | b'%');
    if host.is_empty() || !host.bytes().all(fine) {
        return Err(wrong());
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some("") => default,
        Some(digits) => digits.parse().ok().filter(|p| *p > 0).ok_or_else(|| format!("'{digits}' is no port"))?,
        None => return Err(wrong()),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_their_query() {
        for (text, whole, shown) in [
            ("http://h", "http://h/", "http://h/"),
            ("HTTPS://h:443/mcp", "https://h/mcp", "https://h/mcp"),
            ("https://h:8443/mcp?key=s#x", "https://h:8443/mcp?key=s", "https://h:8443/mcp?***"),
            ("http://[::1]:9?k", "http://[::1]:9/?k", "http://[::1]:9/?***"),
            ("http://127.0.0.1:/a", "http://127.0.0.1/a", "http://127.0.0.1/a"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.whole().as_str(), url.to_string().as_str()), (whole, shown), "{text}");
        }
        for text in
            ["h/mcp", "ftp://h", "http://", "http://u:p@h/", "http://h:0/", "http://h:x/", "http://[h]/", "http://h /"]
        {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_redirect_stays_at_its_host() {
        let from = Url::parse("http://h/a/mcp?k").unwrap();
        for (location, to) in [
            ("/mcp/", "http://h/mcp/"),
            ("mcp/", "http://h/a/mcp/"),
            ("?x", "http://h/a/mcp?x"),
            ("http://H/b", "http://H/b"),
            ("https://h/a/mcp", "https://h/a/mcp"),
            ("//h/c", "http://h/c"),
            ("/x?u=http://y/", "http://h/x?u=http://y/"),
        ] {
            assert_eq!(from.redirected(location).unwrap().whole(), to, "{location}");
        }
        for location in ["http://other/", "//other/", "http://h:81/", "https://h:8443/", "ftp://h/", "http://h@other/"]
        {
            assert!(from.redirected(location).is_err(), "{location}");
        }
        assert!(Url::parse("https://h/").unwrap().redirected("http://h/").is_err());
    }

    #[test]
    fn a_local_url_is_one_of_loopback() {
        let is_local = |text| Url::parse(text).unwrap().is_local();
        assert!(is_local("http://localhost/") && is_local("http://127.0.0.2:1/") && is_local("http://[::1]/"));
        assert!(!is_local("http://localhost.example/") && !is_local("http://10.0.0.1/"));
    }
}
