//! What is known of all servers together: their lists, and which server has a thing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use log::warn;

use crate::model::bridge::{self, Item, List, Merged, Names, Naming};
use crate::model::config::Tools;
use crate::sys::lock::Lock;

/// What the items of a server were made from: what it has said, and which of its tools were shown.
type Source = (Weak<Vec<Item>>, Tools);

/// What servers had when they were last asked.
#[derive(Default)]
pub(crate) struct Known {
    pub items: HashMap<List, HashMap<String, Arc<Vec<Item>>>>,
    sources: HashMap<List, HashMap<String, Source>>,
    /// All items as one list, made when it is needed; with the version of what is common to all sessions.
    merged: HashMap<List, (u64, Arc<Merged>)>,
    /// Counts changes.
    version: u64,
    /// What was asked in vain.
    pub failed: HashSet<(List, String)>,
    /// What is being asked although its answer is not waited for.
    pub asked: HashSet<(List, String)>,
}

impl Known {
    pub(crate) fn has(&self, list: List, server: &str) -> bool {
        self.items.get(&list).is_some_and(|of| of.contains_key(server))
    }

    /// Whether a server has said the same before, word for word, and the same of its tools may be shown.
    pub(crate) fn is_old(&self, list: List, server: &str, said: &Arc<Vec<Item>>, tools: &Tools) -> bool {
        let source = self.sources.get(&list).and_then(|of| of.get(server));
        self.has(list, server)
            && source.is_some_and(|(said_before, shown)| said_before.as_ptr() == Arc::as_ptr(said) && shown == tools)
    }

    /// Notes what a server has, and from what that was made.
    pub(crate) fn learn(
        &mut self,
        list: List,
        server: &str,
        items: Arc<Vec<Item>>,
        (said, tools): (&Arc<Vec<Item>>, Tools),
    ) {
        let of = self.items.entry(list).or_default();
        if of.get(server).is_none_or(|before| **before != *items) {
            of.insert(server.to_owned(), items);
            self.version += 1;
        }
        let source = (Arc::downgrade(said), tools);
        self.sources.entry(list).or_default().insert(server.to_owned(), source);
    }
}

/// Which server has a thing.
pub(crate) enum Owner {
    /// A server, and what that calls it.
    Server(String, String),
    /// A server, unless one that comes first has it too: that one has not said yet.
    Unsure(String, String),
    /// Several servers have it, and the configuration wants that to be an error.
    Several(Vec<String>),
    Nobody,
}

/// What is known of all servers together.
pub(crate) struct Catalogue {
    names: Lock<Arc<Names>>,
    pub known: Lock<Known>,
    /// Names that two servers have, as far as they were spoken of in the log.
    warned: Lock<BTreeSet<String>>,
}

/// What clients put before the name of a tool, as `mcp__NAME__`, in characters.
const ROOM: usize = 14;

/// A URI that is longer is not looked for among templates, in bytes: there may be many.
const LONGEST: usize = 8 << 10;

impl Catalogue {
    pub(crate) fn new(naming: &Naming) -> Catalogue {
        Catalogue {
            names: Lock::new(Arc::new(Names::new(naming, []))),
            known: Lock::default(),
            warned: Lock::default(),
        }
    }

    pub(crate) fn names(&self) -> Arc<Names> {
        self.names.get()
    }

    /// The servers or their names have changed.
    pub(crate) fn renew(&self, naming: &Naming, servers: Vec<String>, aliases: HashMap<String, String>) {
        let mut known = self.known.lock();
        known.items.values_mut().for_each(|of| of.retain(|name, _| servers.contains(name)));
        known.sources.values_mut().for_each(|of| of.retain(|name, _| servers.contains(name)));
        known.failed.retain(|(_, name)| servers.contains(name));
        known.version += 1;
        self.warned.lock().clear();
        self.names.replace(Arc::new(Names::new(naming, servers).aliased(aliases)));
    }

    /// A server can be asked again; true if it was in vain before.
    pub(crate) fn forgive(&self, server: &str) -> bool {
        let mut known = self.known.lock();
        let before = known.failed.len();
        known.failed.retain(|(_, name)| name != server);
        known.failed.len() < before
    }

    /// All that is known to a session as one list. `own` is what children of its own have said, which is for no other
    /// session.
    pub(crate) fn merged(&self, own: &Lock<Known>, list: List) -> Arc<Merged> {
        let mut known = self.known.lock();
        let mut own = own.lock();
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
            if self.warned.lock().insert(name.clone()) {
                let (what, servers) = (list.member(), servers.join(", "));
                warn!("bridge: '{name}' is in the {what} of several servers, and left out: {servers} (bridge: Error)");
            }
        }
        if list == List::Tools {
            self.advise(&merged);
        }
        match alone {
            true => known.merged.insert(list, (wanted, merged.clone())),
            false => own.merged.insert(list, (wanted, merged.clone())),
        };
        merged
    }

    /// Says of each server once if the names of its tools are so long that clients, which put some characters more before
    /// them, have no room for that.
    fn advise(&self, merged: &Merged) {
        for tool in merged.listed.iter().filter(|tool| tool.name.len() > bridge::LONGEST - ROOM) {
            if self.warned.lock().insert(format!("{}\0", tool.server)) {
                warn!(
                    "bridge: the name '{}' has {} characters, which leaves little room for what clients put before it \
                     ({} is the most that models take): give server '{}' an alias, or set bridge: Prefix(longest: 45)",
                    tool.name,
                    tool.name.len(),
                    bridge::LONGEST,
                    tool.server
                );
            }
        }
    }

    /// Which server has a thing, as far as it is known.
    pub(crate) fn find(&self, own: &Lock<Known>, list: List, name: &str) -> Owner {
        let (names, named) = (self.names(), matches!(list, List::Tools | List::Prompts));
        if let Some((server, own)) = names.owner(name).filter(|_| named) {
            return Owner::Server(server.to_owned(), own.to_owned());
        }
        let merged = self.merged(own, list);
        if let Some(servers) = merged.conflicts.get(name) {
            return Owner::Several(servers.clone());
        }
        let Some(listed) = merged.get(name) else { return Owner::Nobody };
        let (server, called) = (listed.server.clone(), listed.own.clone());
        let known = self.known.lock();
        let has = |other: &str| known.has(list, other) || own.lock().has(list, other);
        match named && names.rivals(&server).any(|other| !has(other)) {
            true => Owner::Unsure(server, called),
            false => Owner::Server(server, called),
        }
    }

    /// Which server has a resource, which may be one that a template gives.
    pub(crate) fn find_resource(&self, own: &Lock<Known>, uri: &str) -> Owner {
        if let Some((server, own)) = self.names().page_owner(uri) {
            return Owner::Server(server.to_owned(), own);
        }
        match self.find(own, List::Resources, uri) {
            Owner::Nobody => {}
            found => return found,
        }
        if uri.len() > LONGEST {
            return Owner::Nobody;
        }
        let templates = self.merged(own, List::Templates);
        let fits = templates.listed.iter().filter(|l| l.own == uri || bridge::fits_template(&l.own, uri));
        let fits = fits.rev().max_by_key(|l| bridge::template_weight(&l.own));
        fits.map_or(Owner::Nobody, |l| Owner::Server(l.server.clone(), uri.to_owned()))
    }
}
