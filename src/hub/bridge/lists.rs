//! What all servers have, gathered. A server that cannot be asked hides nothing of the others: what it had when it was
//! last asked stands, and where nothing is known of it, it is left out until it can be.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::known::Known;
use super::session::BridgeSession;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::{Endpoint, Later};
use crate::hub::client::subscription::LISTS;
use crate::hub::error::Error;
use crate::hub::server::server::Server;
use crate::model::bridge::{Item, List, Merged, page};
use crate::model::envelope::{Envelope, decode, member};
use crate::model::items::sound;
use crate::model::jsonrpc;
use crate::model::status::ServerState;
use crate::rt::task;
use crate::rt::wait::timeout;
use crate::sys::lock::Lock;

/// How long a server of which nothing is known is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one elsewhere is: it runs already, if it does.
const PATIENCE_ELSEWHERE: Duration = Duration::from_secs(1);

impl BridgeSession {
    /// Answers a request for a list.
    pub(crate) fn answer_list(&self, call: Call, e: &Envelope<'_>, list: List) -> Option<Later> {
        let me = self.me.upgrade()?;
        let ask = move |_| {
            let me = me.clone();
            async move { Ok(me.gather(list).await) }
        };
        Some(self.bridge.core.waiting.wait(call, e.text(), ask, move |call, e, merged: Arc<Merged>| {
            let cursor = e.get(&e.params).and_then(|p| member(p, "cursor")).filter(|c| c.starts_with('"')).map(decode);
            match page(list, &merged.listed, cursor.as_deref()) {
                Ok(result) => call.result(&result),
                Err(why) => call.error(jsonrpc::INVALID_PARAMS, why),
            }
            None
        }))
    }

    /// Asks all servers, side by side. One that was asked in vain is asked again, and not waited for.
    pub(crate) async fn gather(self: &Arc<Self>, list: List) -> Arc<Merged> {
        let bridge = &self.bridge;
        let mut waited = Vec::new();
        for server in bridge.catalogue.names().servers().iter().filter_map(|name| bridge.servers.get(name)) {
            let key = (list, server.name().to_owned());
            let vain = {
                let mut known = self.known(&server).lock();
                let vain = known.failed.contains(&key);
                if vain && !known.asked.insert(key.clone()) {
                    continue;
                }
                vain
            };
            let me = self.clone();
            let asking = task::spawn(async move {
                me.ask_one(&server, list, vain).await;
                if vain {
                    me.bridge.catalogue.known.lock().asked.remove(&key);
                    me.lists.lock().asked.remove(&key);
                }
            });
            if !vain {
                waited.push(asking);
            }
        }
        for one in waited {
            one.await;
        }
        bridge.catalogue.merged(&self.lists, list)
    }

    /// A session has a child of its own at a server, so what that says is for this session.
    fn is_own(&self, server: &Server) -> bool {
        server.is_private() && self.session.upgrade().is_some_and(|s| BridgeSession::may_have_children(&s))
    }

    /// Where it is noted what a server has.
    fn known(&self, server: &Server) -> &Lock<Known> {
        if self.is_own(server) { &self.lists } else { &self.bridge.catalogue.known }
    }

    async fn ask_one(self: &Arc<Self>, server: &Arc<Server>, list: List, vain: bool) {
        let own = self.is_own(server);
        let Some(session) = self.session.upgrade() else { return };
        // A child that is not there is only waited for where nothing is known of it, and no start of it has failed.
        let is_down = matches!(server.phase(), ServerState::Backoff | ServerState::Failed);
        let patient = !is_down && !self.bridge.catalogue.known.lock().has(list, server.name());
        let patience = if server.is_elsewhere() { PATIENCE_ELSEWHERE } else { PATIENCE };
        let asking = async {
            if server.counts_parts() {
                // To ask takes no place.
                return server.list(&session, list, patient).await;
            }
            let part = self.part(server)?;
            part.endpoint.list(&part.session, list, patient).await
        };
        // Nothing that is asked of a server in vain keeps the others waiting for long.
        let outcome = timeout(patience, asking).await.unwrap_or(Err(Error::Unanswered));
        if session.is_ended() && own {
            return;
        }
        let mut known = self.known(server).lock();
        match outcome {
            Ok(said) => {
                let tools = server.tools();
                if !known.is_old(list, server.name(), &said, &tools) {
                    drop(known);
                    let items = usable(server, list, &said);
                    known = self.known(server).lock();
                    known.learn(list, server.name(), items, (&said, tools));
                }
                let news = known.failed.remove(&(list, server.name().to_owned())) || vain;
                drop(known);
                match (news, own) {
                    (false, _) => {}
                    (true, true) => LISTS.into_iter().for_each(|list| self.note_change(list)),
                    (true, false) => self.bridge.all_changed(),
                }
            }
            Err(why) => {
                debug!("bridge: the {} of server '{}' are not to be had: {why}", list.member(), server.name());
                known.failed.insert((list, server.name().to_owned()));
            }
        }
    }

    /// Reads a resource that is in no list from the first server that gives it.
    pub(crate) async fn read_anywhere(self: &Arc<Self>, uri: &str) -> Option<String> {
        let bridge = &self.bridge;
        let names = bridge.catalogue.names();
        let servers = names.servers().iter().filter_map(|name| bridge.servers.get(name));
        let asked: Vec<_> = servers
            .filter(|s| s.core.has_list("resources"))
            .map(|server| {
                let (me, uri) = (self.clone(), uri.to_owned());
                let reading = async move {
                    let part = me.part(&server).ok()?;
                    part.endpoint.read(&part.session, &uri).await
                };
                task::spawn(async move { timeout(PATIENCE, reading).await.flatten() })
            })
            .collect();
        let mut found = None;
        for one in asked {
            // In the order of the servers, so that it is the same one each time.
            found = found.or(one.await);
        }
        found
    }
}

/// Those of the items that a server names which clients may have, as they take them.
fn usable(server: &Server, list: List, said: &Arc<Vec<Item>>) -> Arc<Vec<Item>> {
    let as_clients_take_it = |item: &Item| match sound(list, &item.text) {
        _ if list == List::Tools && !server.admits(Some(&item.name)) => None,
        Ok(Cow::Borrowed(_)) => Some(item.clone()),
        Ok(Cow::Owned(text)) => Some(Item { name: item.name.clone(), text }),
        Err(why) => {
            server.core.leave_out(list.member().trim_end_matches('s'), &item.name, &why);
            None
        }
    };
    let items: Vec<Item> = said.iter().filter_map(as_clients_take_it).collect();
    // Mostly it is the same, and is kept once.
    if items == **said { said.clone() } else { Arc::new(items) }
}
