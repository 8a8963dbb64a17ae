//! Requests to one server over connections that are kept and bounded.
//!
//! Redirects are followed where they stay at the server's host. A request is sent a second time only where the first one was
//! not sent, or does no harm twice.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_listener::Event;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::dial::dial;
use super::tls::Tls;
use crate::model::config::Environment;
use crate::model::exit::plain;
use crate::model::proxy::Proxy;
use crate::model::url::Url;
use crate::rt::process::values;
use crate::rt::task;
use crate::rt::wait::{sleep, timeout, until};
use crate::sys::fds;
use crate::sys::lock::Lock;
use crate::sys::socket::is_closed_by_peer;

/// So many redirects are followed in a row.
const REDIRECTS: usize = 5;
/// How long a connection is kept without use. Servers close theirs after five seconds, many of them.
const KEPT: Duration = Duration::from_secs(4);
/// How long it is kept at most, where the server says that it may be (`Keep-Alive: timeout=`).
const KEPT_LONGEST: Duration = Duration::from_secs(60);
/// For how long a server that has closed a kept connection before its time is taken to do so again.
const WARY: Duration = Duration::from_secs(60);
/// The longest head of an answer, in bytes.
const HEAD: usize = 64 << 10;

/// Counts what is kept of messages.
pub(crate) trait Memory: Send + Sync {
    /// Begins to count something.
    fn begin(&self) -> Box<dyn Held>;
}

/// Something that is counted, until it is dropped.
pub(crate) trait Held: Send + Sync {
    /// It has so many bytes now. False where there is no memory for them.
    fn set(&mut self, bytes: usize) -> bool;
}

/// How a server is reached.
#[derive(Clone)]
pub(crate) struct Settings {
    pub url: Url,
    /// Header fields of each request.
    pub headers: Environment,
    /// The file of certificates, in place of the system's.
    pub ca: Option<PathBuf>,
    /// So many requests at a time.
    pub connections: usize,
    /// The longest message of the server, in bytes.
    pub longest: usize,
    /// What of the user's says who he is, for messages.
    pub credentials: &'static str,
    /// How long a request waits for a server that is not reached. Zero: the session is over then.
    pub patience: Duration,
    pub memory: Arc<dyn Memory>,
    /// How long the server may say nothing at all to a request. None: who sends requests looks after that.
    pub silence: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server was not reached: it has not got the request.
    Unreachable(String),
    /// The server may have got the request.
    Broken(String),
    /// It cannot be sent, to whomever.
    Unsendable(String),
}

/// What is sent.
pub(super) struct Message {
    pub method: Method,
    pub accept: &'static str,
    /// Header fields beside those of the settings.
    pub fields: Vec<(String, String)>,
    pub body: Bytes,
    /// It does no harm twice.
    pub may_repeat: bool,
}

/// A message on its way, up to the head of its answer.
pub(super) type Sending<'m> = Pin<Box<dyn Future<Output = Result<Answer, Trouble>> + Send + 'm>>;

/// A connection.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The server behind it.
    origin: String,
    /// It leads to a proxy.
    proxy: Option<Proxy>,
    until: Instant,
    /// The socket, to see whether the server has closed it.
    socket: Arc<OwnedFd>,
}

/// Requests to one server.
pub(super) struct Client {
    settings: Settings,
    tls: Tls,
    /// Where the server is, as it has said itself.
    url: Lock<Arc<Url>>,
    /// The values of the header fields, once they were read.
    fields: Lock<Option<Arc<HeaderMap>>>,
    kept: Lock<Vec<Connection>>,
    /// When the server has last closed one before its time.
    closed_early: Lock<Option<Instant>>,
    /// A task looks after them.
    sweeps: AtomicBool,
    /// Requests, of which so many run at a time.
    pub(super) requests: Arc<Gate>,
}

/// So much of one kind at a time; more waits.
pub(super) struct Gate {
    most: usize,
    running: AtomicUsize,
    ended: Event,
}

/// A place at a gate.
pub(super) struct Place(Arc<Gate>);

impl Gate {
    pub(super) fn new(most: usize) -> Arc<Gate> {
        Arc::new(Gate { most, running: AtomicUsize::new(0), ended: Event::new() })
    }

    /// Waits for a place.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        let more = |n: usize| (n < self.most).then_some(n + 1);
        until(&self.ended, || self.running.fetch_update(SeqCst, SeqCst, more).ok()).await;
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
        self.0.ended.notify(1);
    }
}

impl Client {
    pub(super) fn new(settings: Settings) -> Arc<Client> {
        Arc::new(Client {
            tls: Tls::new(settings.ca.clone()),
            url: Lock::new(Arc::new(settings.url.clone())),
            fields: Lock::default(),
            kept: Lock::default(),
            closed_early: Lock::default(),
            sweeps: AtomicBool::new(false),
            requests: Gate::new(settings.connections),
            settings,
        })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        self.settings.url.to_string()
    }

    /// The longest message of the server, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.settings.longest
    }

    /// The outcome of waiting for the server, unless it says nothing for too long.
    pub(super) async fn unless_silent<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        match self.settings.silence {
            Some(limit) => {
                timeout(limit, work).await.ok_or_else(|| format!("it has said nothing for {} s", limit.as_secs()))
            }
            None => Ok(work.await),
        }
    }

    /// Begins to count something that is kept.
    pub(super) fn hold(&self) -> Box<dyn Held> {
        self.settings.memory.begin()
    }

    /// How long a request waits for a server that is not reached.
    pub(super) fn patience(&self) -> Duration {
        self.settings.patience
    }

    /// What of the user's says who he is.
    pub(super) fn credentials(&self) -> &'static str {
        self.settings.credentials
    }

    /// Sends a message and waits for the head of its answer.
    /// On the heap, because it is waited for in many ways within each other, each of which would hold it twice.
    pub(super) fn send<'m>(self: &Arc<Self>, message: &'m Message) -> Sending<'m> {
        let me = self.clone();
        Box::pin(async move { me.send_and_follow(message).await })
    }

    async fn send_and_follow(self: &Arc<Self>, message: &Message) -> Result<Answer, Trouble> {
        let mut url = self.url.get();
        for _ in 0..=REDIRECTS {
            let answer = self.send_to(&url, message).await?;
            // The others ask for another method, or for none.
            if !matches!(answer.status.as_u16(), 301 | 302 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer
                .field(header::LOCATION)
                .ok_or_else(|| Trouble::Broken(format!("it answered {} and does not say where to", answer.status)))?;
            let to = url
                .redirected(location)
                .map_err(|why| Trouble::Broken(format!("its redirect is not followed: {why}")))?;
            url = Arc::new(to);
            if matches!(answer.status, StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT) {
                self.url.replace(url.clone());
            }
        }
        Err(Trouble::Broken(format!("it redirects more than {REDIRECTS} times")))
    }

    async fn send_to(self: &Arc<Self>, url: &Url, message: &Message) -> Result<Answer, Trouble> {
        let fields = self.fields().await.map_err(Trouble::Unreachable)?;
        loop {
            // What may not be sent twice goes on a new one, where the server closes those that are kept.
            let keeps = message.may_repeat || !self.closes_early();
            let kept = if keeps { self.take_kept(url).await } else { None };
            let (mut connection, is_new) = match kept {
                Some(kept) => (kept, false),
                None => (self.connect(url).await.map_err(Trouble::Unreachable)?, true),
            };
            let request = request(url, &fields, message, connection.proxy.as_ref()).map_err(Trouble::Unsendable)?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    connection.until = Instant::now() + kept_for(&head.headers);
                    let kept = Some((self.clone(), connection));
                    return Ok(Answer { status: head.status, headers: head.headers, body, kept });
                }
                Err(mut failed) => {
                    let was_sent = failed.take_message().is_none();
                    let why = failed.into_error();
                    // A connection that was kept may have been closed by the server at the same moment.
                    if !is_new && why.is_incomplete_message() {
                        *self.closed_early.lock() = Some(Instant::now());
                    }
                    if !is_new && (!was_sent || (message.may_repeat && why.is_incomplete_message())) {
                        continue;
                    }
                    let text = reason(&why);
                    return Err(if was_sent { Trouble::Broken(text) } else { Trouble::Unreachable(text) });
                }
            }
        }
    }

    /// The header fields of the settings.
    async fn fields(&self) -> Result<Arc<HeaderMap>, String> {
        if let Some(fields) = self.fields.lock().clone() {
            return Ok(fields);
        }
        let mut map = HeaderMap::new();
        for (name, value) in values(&self.settings.headers, "headers").await {
            // What came from a file now may be of another kind than when the configuration was read.
            let name = HeaderName::try_from(name).map_err(|_| "a header has no valid name".to_owned())?;
            let mut value =
                HeaderValue::try_from(value).map_err(|_| format!("the value of the header '{name}' is not valid"))?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
        let map = Arc::new(map);
        *self.fields.lock() = Some(map.clone());
        Ok(map)
    }

    async fn connect(&self, url: &Url) -> Result<Connection, String> {
        let dialled = dial(url, &self.tls).await?;
        let socket = fds::duplicate(dialled.stream.fd()).map_err(|e| plain(&e))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD);
        let (sender, driver) = builder.handshake(dialled.stream).await.map_err(|e| reason(&e))?;
        task::spawn(async move {
            let _ = driver.await;
        });
        let (origin, proxy, socket) = (url.origin(), dialled.proxy, Arc::new(socket));
        Ok(Connection { sender, origin, proxy, until: Instant::now(), socket })
    }

    /// Whether the server has lately closed a connection that was kept: it may do so at any moment.
    fn closes_early(&self) -> bool {
        self.closed_early.lock().is_some_and(|at| at.elapsed() < WARY)
    }

    /// Lets go of connections whose time is over, or that the server has closed.
    fn sort_out(&self, kept: &mut Vec<Connection>) {
        let now = Instant::now();
        kept.retain(|c| c.until > now);
        let before = kept.len();
        // Nothing was asked on them, so whatever came is their end, or of no use.
        kept.retain(|c| !c.sender.is_closed() && is_closed_by_peer(&c.socket).is_err());
        if kept.len() < before {
            *self.closed_early.lock() = Some(now);
        }
    }

    /// A connection that was kept and can be used.
    async fn take_kept(&self, url: &Url) -> Option<Connection> {
        loop {
            let origin = url.origin();
            let mut connection = {
                let mut kept = self.kept.lock();
                self.sort_out(&mut kept);
                let at = kept.iter().rposition(|c| c.origin == origin)?;
                kept.remove(at)
            };
            // It is ready in a moment, or was closed.
            if let Some(Ok(())) = timeout(Duration::from_millis(50), connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer was read to its end.
    fn keep(self: &Arc<Self>, connection: Connection) {
        self.kept.lock().push(connection);
        if !self.sweeps.swap(true, SeqCst) {
            task::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes connections that are kept no longer: how long the next one is. None where none is left.
    fn close_old(&self) -> Option<Duration> {
        let mut kept = self.kept.lock();
        self.sort_out(&mut kept);
        let next = kept.iter().map(|c| c.until.saturating_duration_since(Instant::now())).min();
        if next.is_none() {
            // Under the lock: who keeps one from now on sees it.
            self.sweeps.store(false, SeqCst);
        }
        next
    }
}

/// Looks after the connections that are kept, until there is none.
async fn sweep(client: Weak<Client>) {
    while let Some(next) = client.upgrade().and_then(|client| client.close_old()) {
        sleep(next + Duration::from_millis(10)).await;
    }
}

/// The head and the body of a request.
fn request(
    url: &Url,
    fields: &HeaderMap,
    message: &Message,
    proxy: Option<&Proxy>,
) -> Result<Request<Full<Bytes>>, String> {
    let target = if proxy.is_some() { url.whole() } else { url.path.clone() };
    let mut request = Request::builder().method(message.method.clone()).uri(target);
    if let Some(headers) = request.headers_mut() {
        headers.extend(fields.clone());
        let mut put = |name: &str, value: &str| {
            let name = HeaderName::try_from(name).map_err(|_| format!("'{name}' is no name of a header"))?;
            let value = HeaderValue::try_from(value).map_err(|_| format!("the value of '{name}' is not valid"))?;
            headers.try_insert(name, value).map_err(|_| "it would have too many headers".to_owned())?;
            Ok::<(), String>(())
        };
        put("host", &url.authority())?;
        put("accept", message.accept)?;
        if message.method == Method::POST {
            put("content-type", "application/json")?;
        }
        if let Some(value) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
            put("proxy-authorization", value)?;
        }
        for (name, value) in &message.fields {
            put(name, value)?;
        }
    }
    request.body(Full::new(message.body.clone())).map_err(|e| e.to_string())
}

/// For how long the server keeps a connection, as far as it is known.
fn kept_for(headers: &HeaderMap) -> Duration {
    let said = headers.get("keep-alive").and_then(|v| v.to_str().ok()).into_iter().flat_map(|v| v.split(','));
    let mut seconds = said.filter_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
    match seconds.next() {
        Some(seconds) => Duration::from_secs(seconds.saturating_sub(1)).min(KEPT_LONGEST),
        None => KEPT,
    }
}

/// Why an exchange failed, with what stands behind it.
fn reason(e: &hyper::Error) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(inner) = source {
        text = match inner.downcast_ref::<std::io::Error>() {
            Some(io) => plain(io),
            None => inner.to_string(),
        };
        source = inner.source();
    }
    text
}

/// The answer to a request, whose body is read as it comes.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    /// The connection, which is kept once the body was read.
    kept: Option<(Arc<Client>, Connection)>,
}

impl Answer {
    /// A header field, if it is text.
    pub(super) fn field(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The kind of the content, without its parameters, in lower case.
    pub(super) fn content_type(&self) -> String {
        let whole = self.field(header::CONTENT_TYPE).unwrap_or_default();
        whole.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// More of the body; None at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(e)) => return Err(reason(&e)),
                None => {
                    if let Some((client, connection)) = self.kept.take() {
                        client.keep(connection);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The whole body, of at most so many bytes; what there is of it where it is longer, and whether that is all.
    pub(super) async fn whole(&mut self, most: usize) -> Result<(Vec<u8>, bool), String> {
        self.whole_held(most, None).await
    }

    /// The whole body, as [`Answer::whole`] gives it, each byte of which is counted in `held` as it comes.
    pub(super) async fn whole_held(
        &mut self,
        most: usize,
        mut held: Option<&mut dyn Held>,
    ) -> Result<(Vec<u8>, bool), String> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            let length = all.len() + chunk.len();
            if length > most || held.as_mut().is_some_and(|held| !held.set(length)) {
                all.extend_from_slice(&chunk[..most.min(length) - all.len()]);
                return Ok((all, false));
            }
            all.extend_from_slice(&chunk);
        }
        Ok((all, true))
    }
}
