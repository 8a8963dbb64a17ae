//! What all servers have, gathered. A server that cannot be asked hides nothing of the others: what it had when it was
//! last asked stands, and where nothing is known of it, it is left out until it can be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};

use crate::hub::call::Call;
use crate::hub::link::Link;
use crate::hub::route::{self, Later};
use crate::hub::server::{Engine, Server};
use crate::hub::session::Session;
use crate::model::bridge::{self, Item, List, Merged, Names, Naming, page, read_page};
use crate::model::envelope::{Envelope, decode, member, quote};
use crate::model::{jsonrpc, modern};
use crate::rt::wait::within;
use crate::sys::lock::{Guard, Lock};

/// How long a server of which nothing is known is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most pages of one server's list.
const PAGES: usize = 100;

/// What is known of all servers together.
pub struct Bridge {
    names: Lock<Arc<Names>>,
    known: Lock<Known>,
    /// Names that two servers have, as far as they were spoken of in the log.
    warned: Lock<BTreeSet<String>>,
}

/// What servers had when they were last asked.
#[derive(Default)]
pub struct Known {
    items: HashMap<List, HashMap<String, Arc<Vec<Item>>>>,
    /// The same as one, made when it is needed; with the version of what is common to all sessions.
    merged: HashMap<List, (u64, Arc<Merged>)>,
    /// Counts changes.
    version: u64,
    /// What was asked in vain.
    failed: HashSet<(List, String)>,
    /// What is being asked although nobody waits for it.
    asked: HashSet<(List, String)>,
}

impl Known {
    fn has(&self, list: List, server: &str) -> bool {
        self.items.get(&list).is_some_and(|of| of.contains_key(server))
    }

    /// True if that is news for whoever has asked before.
    fn learn(&mut self, list: List, server: &str, items: Vec<Item>) -> bool {
        let of = self.items.entry(list).or_default();
        if of.get(server).is_none_or(|before| **before != items) {
            of.insert(server.to_owned(), Arc::new(items));
            self.version += 1;
        }
        self.failed.remove(&(list, server.to_owned()))
    }
}

fn lock<T>(of: &Lock<T>) -> Guard<'_, T> {
    of.lock()
}

/// Whose something is.
pub enum Owner {
    /// A server, and what that calls it.
    Server(String, String),
    /// The same, unless one that comes first has it too: that one has not said yet.
    Unsure(String, String),
    /// Several servers have it, and the configuration wants that to be an error.
    Several(Vec<String>),
    Nobody,
}

impl Bridge {
    pub fn new(naming: &Naming, servers: impl IntoIterator<Item = String>) -> Arc<Bridge> {
        Arc::new(Bridge {
            names: Lock::new(Arc::new(Names::new(naming, servers))),
            known: Lock::default(),
            warned: Lock::default(),
        })
    }

    fn names(&self) -> Arc<Names> {
        lock(&self.names).clone()
    }

    /// The servers or their names are others.
    pub fn renew(&self, naming: &Naming, servers: Vec<String>) {
        let mut known = lock(&self.known);
        known.items.values_mut().for_each(|of| of.retain(|name, _| servers.contains(name)));
        known.failed.retain(|(_, name)| servers.contains(name));
        known.version += 1;
        lock(&self.warned).clear();
        *lock(&self.names) = Arc::new(Names::new(naming, servers));
    }

    /// A server can be asked again; true if it was in vain before.
    pub fn forgive(&self, server: &str) -> bool {
        let mut known = lock(&self.known);
        let before = known.failed.len();
        known.failed.retain(|(_, name)| name != server);
        known.failed.len() < before
    }

    /// All that is known to a session as one list: what a child of its own has said is for nobody else.
    fn merged(&self, session: &Session, list: List) -> Arc<Merged> {
        let mut known = lock(&self.known);
        let mut own = session.bridged().lists();
        let version = known.version + own.version;
        let alone = own.items.get(&list).is_none_or(HashMap::is_empty);
        let kept = if alone { known.merged.get(&list) } else { own.merged.get(&list) };
        let wanted = if alone { known.version } else { version };
        if let Some((_, merged)) = kept.filter(|(of, _)| *of == wanted) {
            return merged.clone();
        }
        let mut all = known.items.get(&list).cloned().unwrap_or_default();
        all.extend(own.items.get(&list).cloned().unwrap_or_default());
        let merged = Arc::new(self.names().merge(list, &all));
        for (name, servers) in &merged.conflicts {
            if lock(&self.warned).insert(name.clone()) {
                let (what, servers) = (list.member(), servers.join(", "));
                warn!("bridge: '{name}' is in the {what} of several servers, and left out: {servers} (bridge: Error)");
            }
        }
        match alone {
            true => known.merged.insert(list, (wanted, merged.clone())),
            false => own.merged.insert(list, (wanted, merged.clone())),
        };
        merged
    }

    /// Whose something is, as far as it is known.
    pub fn find(&self, session: &Session, list: List, name: &str) -> Owner {
        let (names, named) = (self.names(), matches!(list, List::Tools | List::Prompts));
        if let Some((server, own)) = names.owner(name).filter(|_| named) {
            return Owner::Server(server.to_owned(), own.to_owned());
        }
        let merged = self.merged(session, list);
        if let Some(servers) = merged.conflicts.get(name) {
            return Owner::Several(servers.clone());
        }
        let Some(listed) = merged.get(name) else { return Owner::Nobody };
        let (server, own) = (listed.server.clone(), listed.own.clone());
        let known = lock(&self.known);
        let has = |other: &str| known.has(list, other) || session.bridged().lists().has(list, other);
        match named && names.rivals(&server).any(|other| !has(other)) {
            true => Owner::Unsure(server, own),
            false => Owner::Server(server, own),
        }
    }

    /// The same for a resource, which may be one that a template gives.
    pub fn find_resource(&self, session: &Session, uri: &str) -> Owner {
        match self.find(session, List::Resources, uri) {
            Owner::Nobody => {}
            found => return found,
        }
        let templates = self.merged(session, List::Templates);
        let fits = templates.listed.iter().filter(|l| l.own == uri || bridge::fits_template(&l.own, uri));
        let fits = fits.rev().max_by_key(|l| bridge::template_weight(&l.own));
        fits.map_or(Owner::Nobody, |l| Owner::Server(l.server.clone(), uri.to_owned()))
    }
}

/// Answers a request for a list.
pub fn list(bridge: &Arc<Bridge>, call: Call, e: &Envelope<'_>, list: List) -> Later {
    let bridge = bridge.clone();
    let ask = move |session: Arc<Session>| {
        let bridge = bridge.clone();
        async move { Ok(gather(&bridge, &session, list).await) }
    };
    route::held(call, e.text(), ask, move |call, e, merged: Arc<Merged>| {
        let cursor = e.get(&e.params).and_then(|p| member(p, "cursor")).filter(|c| c.starts_with('"')).map(decode);
        match page(list, &merged.listed, cursor.as_deref()) {
            Ok(result) => call.result(&result),
            Err(why) => call.error(jsonrpc::INVALID_PARAMS, why),
        }
        None
    })
}

/// Asks all servers, side by side. One that was asked in vain is asked again, and not waited for.
pub async fn gather(bridge: &Arc<Bridge>, session: &Arc<Session>, list: List) -> Arc<Merged> {
    let names: Arc<Names> = bridge.names();
    let mut waited = Vec::new();
    for server in names.servers().iter().filter_map(|name| session.hub.server(name)) {
        let key = (list, server.name.clone());
        let vain = {
            let own = is_own(session, &server);
            let mut known = if own { session.bridged().lists() } else { lock(&bridge.known) };
            let vain = known.failed.contains(&key);
            if vain && !known.asked.insert(key.clone()) {
                continue;
            }
            vain
        };
        let (bridge, session) = (bridge.clone(), session.clone());
        let asking = async_std::task::spawn(async move {
            ask_one(&bridge, &session, &server, list, vain).await;
            if vain {
                lock(&bridge.known).asked.remove(&key);
                session.bridged().lists().asked.remove(&key);
            }
        });
        if !vain {
            waited.push(asking);
        }
    }
    for one in waited {
        one.await;
    }
    bridge.merged(session, list)
}

/// A session has a child of its own there, so what it says is of this session.
fn is_own(session: &Session, server: &Server) -> bool {
    session.has_children_of_its_own() && server.children().is_some_and(|c| c.nest.is_some())
}

async fn ask_one(bridge: &Bridge, session: &Arc<Session>, server: &Arc<Server>, list: List, vain: bool) {
    let own = is_own(session, server);
    // Nothing that is asked of a server in vain keeps the others waiting for long.
    let asking = async {
        if let Engine::Exec(exec) = server.engine() {
            let page = read_page(list, &exec.tools()).filter(|_| list == List::Tools);
            return Ok(page.map(|(items, _)| items).unwrap_or_default());
        }
        let link = link(bridge, session, server, list).await?;
        match link.learnt() {
            Some(learnt) if !learnt.has(list.capability()) => Ok(Vec::new()),
            _ => ask_link(&link, list, session.hub.config().limits.reply.bytes()).await,
        }
    };
    let outcome = within(PATIENCE, asking).await.unwrap_or_else(|| Err("it did not answer in time".to_owned()));
    if session.is_ended() && own {
        return;
    }
    let mut known = if own { session.bridged().lists() } else { lock(&bridge.known) };
    match outcome {
        Ok(mut items) => {
            if list == List::Tools {
                items.retain(|item| server.admits(&item.name));
            }
            let news = known.learn(list, &server.name, items) || vain;
            drop(known);
            match (news, own) {
                (false, _) => {}
                (true, true) => super::TOLD.into_iter().for_each(|list| session.note_change(list)),
                (true, false) => session.hub.bridge_has_changed(),
            }
        }
        Err(why) => {
            debug!("bridge: the {} of server '{}' are not to be had: {why}", list.member(), server.name);
            known.failed.insert((list, server.name.clone()));
        }
    }
}

/// The child that can be asked. One that is not there is only waited for where nothing is known of it.
async fn link(bridge: &Bridge, session: &Arc<Session>, server: &Arc<Server>, list: List) -> Result<Arc<Link>, String> {
    let part = session.part(server)?;
    if let Some(own) = part.exclusive() {
        return own.ready().await;
    }
    if let Some(link) = server.link(&part) {
        return Ok(link);
    }
    if lock(&bridge.known).has(list, &server.name) {
        return Err("it has no child at the moment".to_owned());
    }
    server.ready_link(&part).await
}

/// All pages of a list. More than `limit` bytes are too many.
async fn ask_link(link: &Link, list: List, limit: usize) -> Result<Vec<Item>, String> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    let mut cursor = None::<String>;
    for _ in 0..PAGES {
        let params = match (&cursor, link.is_modern()) {
            (None, false) => None,
            (Some(cursor), false) => Some(format!(r#"{{"cursor":{cursor}}}"#)),
            (cursor, true) => Some(modern_params("cursor", cursor.as_deref())),
        };
        let result = match link.ask(list.method(), params.as_deref()).await {
            Ok(result) => result,
            // Many that have resources know nothing of templates.
            Err(_) if list == List::Templates && !link.is_dead() => return Ok(all),
            Err(why) => return Err(why),
        };
        let (items, next) = read_page(list, &result).ok_or_else(|| format!("its answer has no {}", list.member()))?;
        bytes += items.iter().map(|i| i.name.len() + i.text.len()).sum::<usize>();
        if bytes > limit {
            return Err("it has more of them than limits.reply allows".to_owned());
        }
        all.extend(items);
        cursor = next;
        if cursor.is_none() {
            return Ok(all);
        }
    }
    Err(format!("they have no end within {PAGES} pages"))
}

/// The params of a request of our own to a child of the modern era.
fn modern_params(key: &str, value: Option<&str>) -> String {
    let meta = modern::own_meta(env!("CARGO_PKG_VERSION"));
    match value {
        Some(value) => format!("{{\"{key}\":{value},{}", meta.trim_start_matches('{')),
        None => meta,
    }
}

/// Reads a resource that is in no list from the first server that gives it.
pub async fn read_anywhere(bridge: &Bridge, session: &Arc<Session>, uri: &str) -> Option<String> {
    let names = bridge.names();
    let servers = names.servers().iter().filter_map(|name| session.hub.server(name));
    let resourceful = servers.filter(|s| s.learnt_now().is_some_and(|l| l.has("resources")));
    let asked: Vec<_> = resourceful
        .map(|server| {
            let (session, uri) = (session.clone(), quote(uri));
            let reading = async move {
                let part = session.part(&server).ok()?;
                let link = match part.exclusive() {
                    Some(own) => own.ready().await.ok()?,
                    None => server.link(&part)?,
                };
                let params = match link.is_modern() {
                    true => modern_params("uri", Some(&uri)),
                    false => format!(r#"{{"uri":{uri}}}"#),
                };
                link.ask("resources/read", Some(&params)).await.ok()
            };
            async_std::task::spawn(async move { within(PATIENCE, reading).await.flatten() })
        })
        .collect();
    let mut found = None;
    for one in asked {
        // In the order of the servers, so that it is the same one each time.
        found = found.or(one.await);
    }
    found
}
