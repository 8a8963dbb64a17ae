//! Requests that wait for a child of a server: bounded, and in reach of a cancellation.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_lite::FutureExt;

use crate::hub::client::call::Call;
use crate::hub::client::endpoint::Later;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::hub::memory::Kept;
use crate::model::budget::{Budget, Holder};
use crate::model::envelope::{self, Envelope};
use crate::model::jsonrpc;
use crate::rt::blocking::{LONG, busy};
use crate::rt::wait::Flag;
use crate::sys::lock::Lock;

/// What requests that wait for a child of one server may take of our memory, in bytes; shared fairly by its clients.
const LIMIT: u64 = 32 << 20;

/// The requests that wait for a child of one server.
pub(crate) struct WaitingRoom {
    /// The name of the server.
    server: Arc<str>,
    bytes: Lock<Budget>,
    /// By the number of their session: many may wait.
    requests: Lock<HashMap<u64, Vec<Arc<WaitingRequest>>>>,
}

/// One of them.
struct WaitingRequest {
    /// The number of its session.
    session: u64,
    call: Lock<Option<Call>>,
    /// The call was taken: there is nothing to wait for any more.
    withdrawn: Flag,
    /// The request as it came.
    text: Arc<str>,
    _place: Place,
}

impl WaitingRequest {
    fn take(&self) -> Option<Call> {
        self.withdrawn.set();
        self.call.take()
    }
}

/// Bytes that are counted in a waiting room for as long as this lives.
pub(crate) struct Place {
    room: Arc<WaitingRoom>,
    holder: Holder,
    size: u64,
    _kept: Kept,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.bytes.lock().give(&self.holder, self.size);
    }
}

impl WaitingRoom {
    pub(crate) fn new(server: Arc<str>) -> Arc<WaitingRoom> {
        Arc::new(WaitingRoom { server, bytes: Lock::new(Budget::new(LIMIT)), requests: Lock::default() })
    }

    /// Counts the bytes of a request of a session that waits, for as long as the guard lives. None if too many wait.
    pub(crate) fn place(self: &Arc<Self>, size: usize, session: &Session) -> Option<Place> {
        let mut kept = session.keep();
        let (holder, bytes) = (session.holder.clone(), size as u64);
        if !kept.reach(size) || !self.bytes.lock().take_one(&holder, bytes) {
            return None;
        }
        Some(Place { room: self.clone(), holder, size: bytes, _kept: kept })
    }

    /// Keeps a request that waits, with its text. Given back if too much waits already.
    fn keep(self: &Arc<Self>, call: Call, text: &Arc<str>) -> Result<Arc<WaitingRequest>, Call> {
        let Some(place) = self.place(text.len(), &call.session) else { return Err(call) };
        let request = WaitingRequest {
            session: call.session.number,
            call: Lock::new(Some(call)),
            withdrawn: Flag::default(),
            text: text.clone(),
            _place: place,
        };
        let request = Arc::new(request);
        self.requests.lock().entry(request.session).or_default().push(request.clone());
        Ok(request)
    }

    /// The request goes on; None if it was cancelled meanwhile.
    fn release(&self, request: &Arc<WaitingRequest>) -> Option<Call> {
        let mut requests = self.requests.lock();
        if let Some(own) = requests.get_mut(&request.session) {
            own.retain(|r| !Arc::ptr_eq(r, request));
            if own.is_empty() {
                requests.remove(&request.session);
            }
        }
        drop(requests);
        request.take()
    }

    /// Takes the requests of a session that fit.
    pub(crate) fn cancel(&self, session: &Session, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let requests = self.requests.lock().get(&session.number).cloned().unwrap_or_default();
        let fits = |r: &&Arc<WaitingRequest>| r.call.lock().as_ref().is_some_and(&wanted);
        requests.iter().filter(fits).filter_map(|r| r.take()).collect()
    }

    /// Everything that waits, for the next program.
    pub(crate) fn save(&self, saver: &mut Saver) {
        for request in self.requests.lock().values().flatten() {
            if let Some(call) = &*request.call.lock() {
                saver.waiting(call, &request.text);
            }
        }
    }

    /// Keeps a request with its text until what it needs is `ready`, in reach of a cancellation; then it is sent on, again
    /// if need be.
    pub(crate) fn wait<T, F>(
        self: &Arc<Self>,
        call: Call,
        text: &str,
        ready: impl Fn(Arc<Session>) -> F + Send + 'static,
        send: impl Fn(Call, &Envelope<'_>, T) -> Option<Call> + Send + Sync + 'static,
    ) -> Later
    where
        F: Future<Output = Result<T, Error>> + Send,
        T: Send + 'static,
    {
        let (room, session, text) = (self.clone(), call.session.clone(), Arc::<str>::from(text));
        let send = Arc::new(send);
        // Now, and not when the task first runs: a cancellation must find it.
        let mut kept = room.keep(call, &text);
        Box::pin(async move {
            loop {
                let waiting = match kept {
                    Ok(waiting) => waiting,
                    Err(call) => return room.refuse(call),
                };
                let withdrawn = async {
                    waiting.withdrawn.wait().await;
                    Err(Error::Withdrawn)
                };
                let found = ready(session.clone()).or(withdrawn).await;
                let Some(call) = room.release(&waiting) else { return };
                match found {
                    Ok(found) => {
                        let (send, copy) = (send.clone(), text.clone());
                        let send = move || envelope::scan(&copy).ok().and_then(|e| send(call, &e, found));
                        match if text.len() > LONG { busy(send).await } else { send() } {
                            None => return,
                            Some(back) => kept = room.keep(back, &text),
                        }
                    }
                    Err(why) => return call.error(jsonrpc::INTERNAL_ERROR, &why.to_string()),
                }
            }
        })
    }

    fn refuse(&self, call: Call) {
        call.session.ctx.counters.count(Dropped::Waiting);
        let why = format!(
            "server '{}' has no child ready, and as much waits for it already as may ({} MiB, shared by its \
             clients, or limits.memory); try again later",
            self.server,
            LIMIT >> 20
        );
        call.error(jsonrpc::REFUSED, &why);
    }
}
