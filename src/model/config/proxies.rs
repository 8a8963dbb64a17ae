//! Proxies in front of the instance: which are believed, and the path that one of them has put before ours.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::read::{Node, Reader, Section, Setting};
use super::setting::quoted;

/// An address, or all of a network: `10.0.0.7`, `10.0.0.0/8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// So many bits of it count.
    bits: u8,
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32, self.bits),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128, self.bits),
            _ => false,
        }
    }
}

/// Whether the first bits of two addresses are the same.
fn same(a: u128, b: u128, length: u32, bits: u8) -> bool {
    let rest = length - u32::from(bits).min(length);
    a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no address or network: write 10.0.0.7 or 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| wrong())?.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse::<u8>).ok().filter(|bits| *bits <= most);
        Ok(Network { address, bits: bits.ok_or_else(wrong)? })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Setting for Network {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        let text = reader.string(node, "an address or a network in quotes, such as \"10.0.0.0/8\"")?;
        text.parse().map_err(|what: String| reader.problem(node, what)).ok()
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Reads `base_path`: empty, or absolute and without a slash at its end.
pub(super) fn base_path(s: &mut Section<'_, '_>) -> String {
    let path: String = s.get("base_path", String::new());
    let node = s.node("base_path");
    if let Some(node) = node
        && !path.is_empty()
        && !is_base(path.trim_end_matches('/'))
    {
        s.reader.problem(node, format!("{} is no path to put before others: write \"/gw\"", quoted(&path)));
    }
    path.trim_end_matches('/').to_owned()
}

/// Whether a text can be put before a path.
pub fn is_base(path: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._~/@:!$&'()*+,;=".contains(c);
    let plain = |part: &str| !matches!(part, "." | "..");
    let whole = !path.contains("//") && path.split('/').all(plain);
    path.starts_with('/') && path.len() <= 256 && whole && path.chars().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_begins_like_it() {
        for (network, ip, inside) in [
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.8", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "::1", false),
            ("fd00::/8", "fd12::1", true),
            ("::1", "::1", true),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
        ] {
            assert_eq!(network.parse::<Network>().unwrap().contains(ip.parse().unwrap()), inside, "{network} {ip}");
        }
        for wrong in ["", "x", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "::1/129"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_base_is_a_plain_path() {
        assert!(is_base("/gw") && is_base("/a/b-c"));
        for wrong in ["gw", "", "/a//b", "/a b", "/a\n", "/a?x", "/a#x", "/\"x", "/%67w", "/gw/..", "/./x"] {
            assert!(!is_base(wrong), "{wrong}");
        }
    }
}
