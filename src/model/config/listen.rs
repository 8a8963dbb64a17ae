//! An address to listen on: `HOST:PORT` or `unix:/path`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an instance accepts connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// Port 0 lets the kernel choose.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(Unix),
    /// Sockets that the service manager has opened (sd_listen_fds(3)): all, or those of one name.
    Passed(Option<String>),
}

/// A Unix socket, which every user may use who may write to its file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unix {
    pub path: PathBuf,
    /// File mode bits.
    pub mode: u32,
    pub user: Option<String>,
    pub group: Option<String>,
}

/// The mode of a socket's file where none is given: for its owner and group.
const MODE: u32 = 0o660;

impl FromStr for Unix {
    type Err = String;

    /// `/path,mode=0660,user=NAME,group=NAME`, as socat(1) writes such things; all but the path can be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut unix = Unix { path: PathBuf::new(), mode: MODE, user: None, group: None };
        let mut rest = text;
        while let Some((before, option)) = rest.rsplit_once(',') {
            match option.split_once('=') {
                Some(("mode", mode)) => {
                    let bits = u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o777);
                    unix.mode = bits.ok_or_else(|| format!("'{mode}' is no file mode: octal digits, such as 0660"))?;
                }
                Some(("user", name)) if !name.is_empty() => unix.user = Some(name.to_owned()),
                Some(("group", name)) if !name.is_empty() => unix.group = Some(name.to_owned()),
                // A comma can be part of a path.
                _ => break,
            }
            rest = before;
        }
        match rest {
            "" => Err("'unix:' needs a path behind it".to_owned()),
            // sun_path holds 108 bytes with the final NUL, unix(7).
            path if path.len() > 107 => Err(format!("'{path}' is too long for a socket: 107 bytes at most")),
            path => Ok(Unix { path: path.into(), ..unix }),
        }
    }
}

impl fmt::Display for Unix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.mode != MODE {
            write!(f, ",mode={:04o}", self.mode)?;
        }
        for (key, value) in [("user", &self.user), ("group", &self.group)] {
            if let Some(value) = value {
                write!(f, ",{key}={value}")?;
            }
        }
        Ok(())
    }
}

impl Listen {
    /// Reachable from this machine only.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
            // Who passes a socket knows where it listens.
            Listen::Unix(_) | Listen::Passed(_) => true,
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            Listen::Tcp { port, .. } => Some(*port),
            Listen::Unix(_) | Listen::Passed(_) => None,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(unix) = text.strip_prefix("unix:") {
            return unix.parse().map(Listen::Unix);
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return Ok(Listen::Passed(Some(name.to_owned()).filter(|n| !n.is_empty())));
        }
        if let Some((scheme @ ("http" | "https" | "ws"), rest)) = text.split_once("://") {
            let address = rest.split('/').next().unwrap_or(rest);
            return Err(format!("'{text}' is no address: write '{address}', without {scheme}://"));
        }
        let wrong = || format!("'{text}' is no address: write HOST:PORT, [IPV6]:PORT, unix:/path or systemd:");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| match port.parse::<u64>() {
            Ok(_) => format!("'{port}' is no port: 0 to 65535"),
            Err(_) => wrong(),
        })?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(v6)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6.to_owned(),
            Some(_) => return Err(wrong()),
            None if host.is_empty() || host.contains([':', '/', ' ']) => return Err(wrong()),
            None => host.to_owned(),
        };
        Ok(Listen::Tcp { host, port })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "{host}:{port}"),
            Listen::Unix(unix) => write!(f, "unix:{unix}"),
            Listen::Passed(name) => write!(f, "systemd:{}", name.as_deref().unwrap_or("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, local) in [
            ("127.0.0.1:8003", true),
            ("[::1]:0", true),
            ("localhost:1", true),
            ("unix:/run/x.sock", true),
            ("unix:/run/x.sock,mode=0600,user=mcp,group=www-data", true),
            ("unix:/run/a,b.sock,group=g", true),
            ("systemd:", true),
            ("systemd:web", true),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("[::ffff:127.0.0.1]:80", true),
            ("example.org:80", false),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!((listen.to_string().as_str(), listen.is_local()), (text, local));
        }
        for text in [
            "8003",
            "127.0.0.1",
            ":80",
            "127.0.0.1:x",
            "127.0.0.1:70000",
            "::1:80",
            "[x]:1",
            "unix:",
            "unix:/x,mode=9",
            "http://a:1",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
