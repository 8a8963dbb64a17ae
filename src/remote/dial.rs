//! Opens connections: the name is looked up, each address is tried, a proxy of the environment is asked, and TLS is agreed on.

use std::future::poll_fn;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stream::{Stream, Tcp};
use super::tls::Tls;
use crate::model::exit::plain;
use crate::model::proxy::{Proxy, proxy_for};
use crate::model::text::printable;
use crate::model::url::Url;
use crate::rt::async_fd::AsyncFd;
use crate::rt::blocking::blocking;
use crate::rt::wait::timeout;
use crate::sys::socket;

/// How long a connection may take to be there, with all that belongs to it.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long one address may take, where there are others.
const ADDRESS: Duration = Duration::from_secs(3);
/// No answer of a proxy is longer, in bytes.
const PROXY_ANSWER: usize = 16 << 10;

/// A connection that is open.
pub(super) struct Dialled {
    pub stream: Stream,
    /// It leads to a proxy, which is told the whole URL with each request, and this.
    pub proxy: Option<Proxy>,
}

/// Opens a connection for a URL.
///
/// # Errors
/// Why that failed, in words.
pub(super) async fn dial(url: &Url, tls: &Tls) -> Result<Dialled, String> {
    let proxy = proxy_for(url, &|name| std::env::var(name).ok())?;
    let opened = timeout(CONNECTING, open(url, proxy, tls)).await;
    opened.unwrap_or_else(|| Err(format!("no connection within {} s", CONNECTING.as_secs())))
}

async fn open(url: &Url, proxy: Option<Proxy>, tls: &Tls) -> Result<Dialled, String> {
    let mut tcp = match &proxy {
        Some(proxy) => {
            let through = |why| format!("the proxy {}:{} of the environment: {why}", proxy.host, proxy.port);
            connect(&proxy.host, proxy.port).await.map_err(through)?
        }
        None => connect(&url.host, url.port).await?,
    };
    if !url.is_tls {
        return Ok(Dialled { stream: Stream::Plain(tcp), proxy });
    }
    if let Some(proxy) = &proxy {
        tunnel(&mut tcp, url, proxy).await.map_err(|why| format!("the proxy {}:{}: {why}", proxy.host, proxy.port))?;
    }
    Ok(Dialled { stream: tls.over(tcp, &url.host).await?, proxy: None })
}

/// Connects to the first address of a host that answers.
async fn connect(host: &str, port: u16) -> Result<Tcp, String> {
    let name = host.to_owned();
    let found = blocking(move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)).await;
    let addresses = found.map_err(|e| format!("'{host}' is not found: {}", plain(&e)))?;
    let several = addresses.len() > 1;
    let mut why = format!("'{host}' has no address");
    for address in addresses {
        let limit = if several { ADDRESS } else { CONNECTING };
        match timeout(limit, connect_to(address)).await {
            Some(Ok(tcp)) => return Ok(tcp),
            Some(Err(e)) => why = plain(&e),
            None => why = format!("no answer within {} s", limit.as_secs()),
        }
    }
    Err(why)
}

async fn connect_to(address: SocketAddr) -> std::io::Result<Tcp> {
    let fd = AsyncFd::new(socket::connect_soon(address)?)?;
    poll_fn(|cx| fd.poll_write(cx, 0, |fd| socket::is_connected(fd).map(|()| 0))).await?;
    socket::set_nodelay(fd.as_fd())?;
    // A stream may be silent for hours, and so may be a machine that has slept.
    socket::keep_alive(fd.as_fd())?;
    Ok(Tcp(fd))
}

/// Asks a proxy to pass bytes on (RFC 9110, section 9.3.6).
async fn tunnel(tcp: &mut Tcp, url: &Url, proxy: &Proxy) -> Result<(), String> {
    let host = match url.host.contains(':') {
        true => format!("[{}]:{}", url.host, url.port),
        false => format!("{}:{}", url.host, url.port),
    };
    let authorization =
        proxy.authorization.as_ref().map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n");
    tcp.write_all(request.as_bytes()).await.map_err(|e| plain(&e))?;
    let mut answer = Vec::new();
    // Byte by byte: what stands behind the answer is for TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match tcp.read(&mut byte).await.map_err(|e| plain(&e))? {
            0 => return Err("it has closed the connection".to_owned()),
            _ if answer.len() > PROXY_ANSWER => return Err("its answer is too long".to_owned()),
            _ => answer.push(byte[0]),
        }
    }
    let first = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    let status = first.split(' ').nth(1).unwrap_or_default();
    let is_fine = first.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2');
    if is_fine { Ok(()) } else { Err(format!("it answered '{}'", printable(&first, 200))) }
}
