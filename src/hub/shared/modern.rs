//! Requests of the modern era at a server with shared children: found a child that speaks it, or translated for one that
//! does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::children::{Shared, Verdict};
use crate::hub::child::child::Child;
use crate::hub::child::start::Opening;
use crate::hub::client::call::Call;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::error::Error;
use crate::hub::server::admit::{NO_TASKS, is_task};
use crate::hub::server::server::translate;
use crate::model::envelope::{Envelope, decode, member};
use crate::model::mcp::ServerInfo;
use crate::model::modern::Filter;
use crate::model::status::ServerState;
use crate::model::{jsonrpc, method, modern};
use crate::rt::task;
use crate::rt::wait::Flag;

/// After this time a server that did not speak the modern era is asked again: it may have been updated meanwhile.
const VERDICT: Duration = Duration::from_secs(3600);

/// Which child answers a request.
pub(crate) enum Target {
    /// One of the modern era: nothing is changed but ids.
    Modern(Arc<Child>),
    /// One of the legacy era.
    Legacy(Arc<Child>),
}

impl Shared {
    /// Sends a request on to the child that answers it; given back if there is none now, or it is gone meanwhile.
    pub(crate) fn forward_modern(&self, call: Call, e: &Envelope<'_>) -> Option<Call> {
        let Some(target) = self.target(call.session.place) else { return Some(call) };
        let mut call = call;
        if is_task(e) {
            // What one client has started is not for another to see.
            let task = e.get(&e.task_id).map(decode);
            let own = task.is_some_and(|task| self.core.tasks.is_for(&task, call.session.owner.as_ref()));
            match target {
                Target::Modern(_) if own || (e.task_id.is_none() && call.session.owner.is_none()) => {}
                Target::Modern(_) if method::is_of_tasks(&e.method) => {
                    call.error(jsonrpc::INVALID_PARAMS, "there is no such task of this client");
                    return None;
                }
                _ => {
                    call.error(jsonrpc::METHOD_NOT_FOUND, NO_TASKS);
                    return None;
                }
            }
        }
        call.starts_task = e.method == method::TOOLS_CALL && modern::takes_tasks(e);
        match target {
            Target::Modern(child) => child.request(call, e),
            Target::Legacy(child) => child.request(translate(call, e, child.info(), None)?, e),
        }
    }

    /// A subscription as the child that is to keep it honours it; None if it is not known which that is.
    pub(crate) fn honour_modern(&self, session: &Session, wanted: &Wanted) -> Option<Arc<Subscription>> {
        Some(match self.target(session.place)? {
            Target::Modern(_) => Subscription::forwarded(session.number, wanted),
            Target::Legacy(child) => Subscription::kept(session.number, wanted, honoured(&wanted.filter, child.info())),
        })
    }

    /// Which child answers, if that is known and the child is there.
    pub(crate) fn target(&self, place: usize) -> Option<Target> {
        if let Some(child) = self.slot(place).child().filter(|c| c.is_modern()) {
            return Some(Target::Modern(child));
        }
        if let Some(child) = self.slots.iter().filter_map(|s| s.child()).find(|c| c.is_modern()) {
            return Some(Target::Modern(child));
        }
        match self.speaks_modern() {
            Some(true) => self.modern_slot()?.child().map(Target::Modern),
            Some(false) => self.slot(place).child().map(Target::Legacy),
            None => None,
        }
    }

    /// Whether the server is known to speak the modern era.
    fn speaks_modern(&self) -> Option<bool> {
        let mut modern = self.modern.lock();
        if let Verdict::Modern(slot) = &*modern
            && slot.phase().0 == ServerState::Failed
        {
            // It spoke it once; what it speaks now is asked again.
            slot.retire();
            *modern = Verdict::Unknown;
        }
        match &*modern {
            Verdict::Modern(_) => Some(true),
            Verdict::Legacy(at, info) => {
                let child = self.first_child();
                let now = says(child.as_ref());
                let holds = at.elapsed() < VERDICT && (now.is_none() || now == info.as_deref());
                holds.then_some(false)
            }
            Verdict::Unknown => None,
        }
    }

    fn first_child(&self) -> Option<Arc<Child>> {
        self.slots.first().and_then(|s| s.child())
    }

    /// Waits until it is known which child answers a request of the modern era, and that child is there, or until another
    /// backend has taken this one's place.
    pub(crate) async fn ready_modern(&self, place: usize) -> Result<(), Error> {
        while self.target(place).is_none() && !self.replaced.is_set() {
            match self.speaks_modern() {
                Some(true) => {
                    if let Some(slot) = self.modern_slot() {
                        self.ready_slot(&slot).await?;
                    }
                }
                Some(false) => self.ready_slot(self.slot(place)).await?,
                None => {
                    self.ready_slot(self.slot(place)).await?;
                    let Some(asked) = self.probe() else { continue };
                    asked.wait().await;
                    let asked_in_vain = self.speaks_modern().is_none() && self.target(place).is_none();
                    if asked_in_vain && !self.replaced.is_set() {
                        return Err(Error::EraUnknown { server: self.core.name.clone() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the server in a process of its own whether it speaks the modern era: some end, some fall silent, some speak no
    /// other afterwards (mcpdaemon(7), "Which era a child speaks"). If it does, the process becomes the child for it.
    ///
    /// One question at a time, and it is put to its end whichever client has left meanwhile; the flag says when.
    fn probe(&self) -> Option<Arc<Flag>> {
        let me = self.me.upgrade()?;
        let mut probing = self.probing.lock();
        if let Some(under_way) = &*probing {
            return Some(under_way.clone());
        }
        let done = Arc::new(Flag::default());
        *probing = Some(done.clone());
        drop(probing);
        self.core.ctx.leaving.note(done.clone());
        let over = done.clone();
        task::spawn(async move {
            if let Some(found) = me.put_question().await {
                *me.modern.lock() = found;
            }
            me.probing.lock().take();
            over.set();
            me.core.announce();
        });
        Some(done)
    }

    /// None where the question could not be put.
    async fn put_question(&self) -> Option<Verdict> {
        let draining = &self.core.ctx.draining;
        let current = || !self.replaced.is_set() && !self.retired.is_set() && !draining.is_set();
        if !current() || self.first_child().is_some_and(|c| c.is_modern()) {
            return None;
        }
        let (starter, name) = (self.starter(), &self.core.name);
        let child = match starter.spawn(self.core.ctx.config().umask).await {
            Ok(child) => child,
            Err(failure) => {
                // That says nothing of what it speaks.
                warn!("server '{name}' cannot be asked which era it speaks: {}", failure.text);
                return None;
            }
        };
        match starter.open(child, Opening::Discover, Some(draining)).await {
            Ok(child) if current() => {
                info!("server '{name}' speaks the modern era as well: a second child serves it");
                Some(Verdict::Modern(self.run_modern(&child)))
            }
            Ok(child) => {
                child.stop(self.config.get().stop()).await;
                None
            }
            Err(_) if draining.is_set() => None,
            Err(failure) => {
                debug!("server '{name}' does not speak the modern era: {}", failure.text);
                Some(Verdict::Legacy(Instant::now(), says(self.first_child().as_ref()).map(str::to_owned)))
            }
        }
    }
}

/// What a child says of itself.
fn says(child: Option<&Arc<Child>>) -> Option<&str> {
    child?.info().map(|info| info.server_info.as_str())
}

/// What of a subscription a legacy server can serve.
fn honoured(asked: &Filter, info: Option<&ServerInfo>) -> Filter {
    let has = |list: &str| info.is_some_and(|i| i.has(list));
    Filter {
        tools: asked.tools && has("tools"),
        prompts: asked.prompts && has("prompts"),
        resources: asked.resources && has("resources"),
        uris: if can_watch(info) { asked.uris.clone() } else { Vec::new() },
    }
}

/// Whether a legacy server tells of changes of its resources.
pub(crate) fn can_watch(info: Option<&ServerInfo>) -> bool {
    let resources = info.and_then(|i| i.capabilities.get("resources"));
    resources.and_then(|r| member(r, "subscribe")) == Some("true")
}
