//! Shared children as what a server is made of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::children::{Shared, Verdict};
use super::modern::{Target, can_watch};
use crate::hub::child::child::Child;
use crate::hub::child::start::Opening;
use crate::hub::child::supervisor;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Answer, ListAnswer, ToolCall};
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::client::subscription::{Subscription, Wanted};
use crate::hub::counters::Dropped;
use crate::hub::error::Error;
use crate::hub::leaving::{Leaving, Pending};
use crate::hub::server::backend::Backend;
use crate::model::bridge::List;
use crate::model::config::{self, Kind, Mode};
use crate::model::envelope::Envelope;
use crate::model::last_words::LastWords;
use crate::model::modern::{self, Era, Refusal};
use crate::model::status::{self, ServerState};
use crate::model::{handover, jsonrpc, mcp};

impl Shared {
    /// Lets its children finish what they have, then go.
    fn retire_slots(&self) {
        self.retired.set();
        self.all_slots().iter().for_each(|s| s.retire());
    }
}

impl Leaving for Shared {
    fn is_done(&self) -> bool {
        self.retired.is_set() && self.all_slots().iter().all(|s| s.done.is_set())
    }

    fn end(&self) {
        self.retire_slots();
    }

    fn done(&self) -> Pending<'_> {
        Box::pin(async {
            for slot in self.all_slots() {
                slot.done.wait().await;
            }
        })
    }

    fn fail_open(&self, why: &str) {
        self.children().iter().for_each(|c| c.fail_all(jsonrpc::REFUSED, why));
    }
}

impl Backend for Shared {
    fn prepare(&self, umask: Mode) -> Answer<'_, Result<(), Error>> {
        Box::pin(async move {
            let child = self.starter().start(umask, Opening::Initialize, None).await?;
            self.first.replace(vec![Some(child)]);
            Ok(())
        })
    }

    fn discard(&self) -> Answer<'_, ()> {
        Box::pin(async {
            for child in self.first.take().into_iter().flatten() {
                child.stop(self.config.get().stop()).await;
            }
        })
    }

    fn run(&self, again: bool) {
        let mut first = self.first.take().into_iter();
        for slot in &self.slots {
            supervisor::run(slot, first.next().flatten(), again, &self.core.ctx.clock);
        }
    }

    fn replaced(&self) {
        self.replaced.set();
        self.retire_slots();
        if self.modern_slot().is_some() {
            // The new children are asked anew which era they speak, once that is needed.
            self.core.members.end_forwarded_subscriptions();
        }
    }

    fn retire(&self) {
        self.retire_slots();
    }

    fn adjust(&self, config: &config::Server) {
        if let Kind::Mcp(mcp) = &config.kind {
            self.config.set(Arc::new((**mcp).clone()));
        }
    }

    fn retry(&self) {
        self.all_slots().iter().filter(|s| s.any_child().is_none()).for_each(|s| s.retry());
    }

    /// That of its best child, because that is what clients get.
    fn condition(&self) -> Option<(ServerState, Option<String>)> {
        let all: Vec<_> = self.slots.iter().map(|s| s.phase()).collect();
        let ready = all.iter().find(|(phase, _)| *phase == ServerState::Ready);
        ready.or(all.first()).cloned()
    }

    fn words(&self) -> LastWords {
        self.slots.iter().map(|s| s.words()).find(|words| !words.is_empty()).unwrap_or_default()
    }

    fn children(&self) -> status::Children {
        let phases: Vec<_> = self.slots.iter().map(|s| s.phase().0).collect();
        let are = |phase| phases.iter().filter(|p| **p == phase).count() as u64;
        status::Children { wanted: phases.len() as u64 - are(ServerState::Idle), ready: are(ServerState::Ready) }
    }

    fn pids(&self) -> Vec<i32> {
        Shared::children(self).iter().filter_map(|c| c.pid()).map(Pid::as_raw).collect()
    }

    fn place(&self) -> usize {
        self.least_loaded()
    }

    fn places(&self) -> usize {
        self.slots.len()
    }

    fn request(&self, call: Call, e: &Envelope<'_>, era: Era) -> Option<Call> {
        if era == Era::Modern {
            return self.forward_modern(call, e);
        }
        match self.slot(call.session.place).child() {
            None => Some(call),
            Some(child) if child.is_modern() => {
                let text = modern::only(e.get(&e.protocol_version)).text(Some(&call.id));
                call.answer(text, true);
                None
            }
            Some(child) => child.request(call, e),
        }
    }

    fn ready<'a>(&'a self, session: &'a Arc<Session>, era: Era) -> Answer<'a, Result<(), Error>> {
        Box::pin(async move {
            match era {
                Era::Legacy => self.ready_slot(self.slot(session.place)).await,
                Era::Modern => self.ready_modern(session.place).await,
            }
        })
    }

    fn notification(&self, session: &Session, e: &Envelope<'_>) {
        match self.slot(session.place).child() {
            Some(child) => child.pass_on(session, e),
            None => self.core.ctx.counters.count(Dropped::UnownedNotifications),
        }
    }

    fn checks_headers(&self) -> bool {
        // No child of the legacy era says that there are any.
        !matches!(self.target(0), Some(Target::Legacy(_)))
    }

    fn check_headers<'a>(&'a self, call: ToolCall<'a>) -> Answer<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let place = call.session.place;
            let found = match self.target(place) {
                Some(target) => Some(target),
                None => {
                    // While it waits it counts like all that do; where they are too many already, it will be refused.
                    let Some(_place) = self.core.waiting.place(call.e.text().len(), call.session) else {
                        return Ok(());
                    };
                    let _ = self.ready_modern(place).await;
                    self.target(place)
                }
            };
            // Where the child cannot be asked, the call itself will show why.
            let Some(Target::Modern(child)) = found else { return Ok(()) };
            match child.param_headers().await {
                Some(known) => modern::check_params(call.e, call.tool, &known, &|name| call.headers.field(name)),
                None => Ok(()),
            }
        })
    }

    fn honour(&self, session: &Session, wanted: &Wanted) -> Option<Arc<Subscription>> {
        self.honour_modern(session, wanted)
    }

    fn subscribe(&self, session: &Session, subscription: &Arc<Subscription>) {
        if let Some(Target::Modern(child)) = self.target(session.place) {
            child.subscribe(subscription);
        }
    }

    fn unsubscribe(&self, subscription: &Arc<Subscription>) {
        Shared::children(self).iter().for_each(|c| c.unsubscribe(subscription));
    }

    fn keeps(&self, subscription: &Arc<Subscription>) -> bool {
        Shared::children(self).iter().any(|c| c.keeps(subscription))
    }

    fn can_watch(&self, session: &Session) -> bool {
        self.slot(session.place).child().is_some_and(|c| !c.is_modern() && can_watch(c.info()))
    }

    fn send_watch(&self, session: &Session, method: &str, uri: &str) {
        if let Some(child) = self.slot(session.place).child() {
            child.send_request(method, &mcp::uri_params(uri));
        }
    }

    fn cancel(&self, wanted: &dyn Fn(&Call) -> bool, why: &str) -> Vec<Call> {
        Shared::children(self).iter().flat_map(|c| c.cancel(wanted, why)).collect()
    }

    fn list<'a>(&'a self, session: &'a Arc<Session>, list: List, patient: bool) -> ListAnswer<'a> {
        Box::pin(async move {
            let slot = self.slot(session.place);
            if slot.child().is_none() {
                if !patient {
                    return Err(Error::Absent);
                }
                self.ready_slot(slot).await?;
            }
            let child = slot.child().ok_or_else(|| Error::NotReady { place: slot.trouble() })?;
            child.list(list, self.core.ctx.config().limits.reply.bytes()).await
        })
    }

    fn read<'a>(&'a self, session: &'a Arc<Session>, uri: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(async move { self.slot(session.place).child()?.read_resource(uri).await })
    }

    fn save(&self, saver: &mut Saver, into: &mut handover::Server) {
        let child = |child: Option<Arc<Child>>, saver: &mut Saver| child.and_then(|c| c.save(saver));
        into.slots = self.slots.iter().map(|s| child(s.any_child(), saver)).collect();
        into.modern = match &*self.modern.lock() {
            Verdict::Unknown => handover::Era::Unknown,
            Verdict::Modern(slot) => handover::Era::Modern(child(slot.any_child(), saver).map(Box::new)),
            Verdict::Legacy(at, info) => handover::Era::Legacy(at.elapsed().as_millis() as u64, info.clone()),
        };
    }

    fn restore(&self, saved: handover::Server, restored: &Restored) {
        let starter = self.starter();
        let child = |child| starter.restore(child, restored);
        let first: Vec<_> = saved.slots.into_iter().map(|saved| saved.and_then(child)).collect();
        for (slot, child) in self.slots.iter().zip(&first) {
            // Now, and not when its supervisor first runs: it is set to work with all the others.
            if child.is_some() {
                slot.place(child.as_ref());
                slot.enter_state(ServerState::Ready, None);
            }
        }
        self.first.replace(first);
        let verdict = match saved.modern {
            handover::Era::Modern(saved) => {
                saved.and_then(|saved| child(*saved)).map(|child| Verdict::Modern(self.run_modern(&child)))
            }
            handover::Era::Legacy(age, info) => {
                Instant::now().checked_sub(Duration::from_millis(age)).map(|at| Verdict::Legacy(at, info))
            }
            handover::Era::Unknown => None,
        };
        self.modern.replace(verdict.unwrap_or_default());
    }
}
