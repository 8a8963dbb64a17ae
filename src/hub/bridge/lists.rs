//! What all servers have, gathered. A server that cannot be asked hides nothing of the others: what it had when it was
//! last asked stands, and where nothing is known of it, it is left out until it can be.

use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::{Bridge, lock};
use crate::hub::call::Call;
use crate::hub::link::Link;
use crate::hub::route::{self, Later};
use crate::hub::server::{Engine, Server};
use crate::hub::session::Session;
use crate::hub::wait::within;
use crate::model::bridge::{List, Merged, Names, page, read_page};
use crate::model::envelope::{Envelope, decode, member, quote};
use crate::model::{jsonrpc, modern};

/// How long a server of which nothing is known is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most pages of one server's list.
const PAGES: usize = 100;

/// Answers a request for a list.
pub(super) fn list(bridge: &Arc<Bridge>, call: Call, e: &Envelope<'_>, list: List) -> Later {
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

/// Asks all servers, side by side.
pub(super) async fn gather(bridge: &Arc<Bridge>, session: &Arc<Session>, list: List) -> Arc<Merged> {
    let names: Arc<Names> = bridge.names();
    let servers = names.servers().iter().filter_map(|name| session.hub.server(name));
    let asked: Vec<_> = servers
        .map(|server| {
            let (bridge, session) = (bridge.clone(), session.clone());
            async_std::task::spawn(async move { ask_one(&bridge, &session, &server, list).await })
        })
        .collect();
    for one in asked {
        one.await;
    }
    bridge.merged(list)
}

async fn ask_one(bridge: &Bridge, session: &Arc<Session>, server: &Arc<Server>, list: List) {
    // Nothing that is asked of a server in vain keeps the others waiting for long.
    let asking = async {
        if let Engine::Exec(exec) = server.engine() {
            let page = read_page(list, &exec.tools()).filter(|_| list == List::Tools);
            return Ok(page.map(|(items, _)| items).unwrap_or_default());
        }
        let link = link(bridge, session, server, list).await?;
        match link.learnt() {
            Some(learnt) if !learnt.has(list.capability()) => Ok(Vec::new()),
            _ => ask_link(&link, list).await,
        }
    };
    match within(PATIENCE, asking).await.unwrap_or_else(|| Err("it did not answer in time".to_owned())) {
        Ok(mut items) => {
            if list == List::Tools {
                items.retain(|item| server.admits(&item.name));
            }
            bridge.learn(list, &server.name, items);
        }
        Err(why) => {
            debug!("bridge: the {} of server '{}' are not to be had: {why}", list.member(), server.name);
            if !bridge.knows(list, &server.name) {
                lock(&bridge.missing).insert(server.name.clone());
            }
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
    if bridge.knows(list, &server.name) || lock(&bridge.missing).contains(&server.name) {
        return Err("it has no child at the moment".to_owned());
    }
    server.ready_link(&part).await
}

async fn ask_link(link: &Link, list: List) -> Result<Vec<crate::model::bridge::Item>, String> {
    let mut all = Vec::new();
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
        all.extend(items);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

/// The params of a request of our own to a child of the modern era.
fn modern_params(key: &str, value: Option<&str>) -> String {
    let meta = modern::own_meta(env!("CARGO_PKG_VERSION"));
    match value {
        Some(value) => format!("{{\"{key}\":{value},{}", meta.trim_start_matches('{')),
        None => meta,
    }
}

/// Reads a resource that is in no list from whoever gives it.
pub(super) async fn read_anywhere(bridge: &Bridge, session: &Arc<Session>, uri: &str) -> Option<String> {
    for name in bridge.names().servers() {
        let Some(server) = session.hub.server(name) else { continue };
        if !server.learnt_now().is_some_and(|l| l.has("resources")) {
            continue;
        }
        let reading = async {
            let part = session.part(&server).ok()?;
            let link = match part.exclusive() {
                Some(own) => own.ready().await.ok()?,
                None => server.link(&part)?,
            };
            let uri = quote(uri);
            let params = match link.is_modern() {
                true => modern_params("uri", Some(&uri)),
                false => format!(r#"{{"uri":{uri}}}"#),
            };
            link.ask("resources/read", Some(&params)).await.ok()
        };
        if let Some(result) = within(PATIENCE, reading).await.flatten() {
            return Some(result);
        }
    }
    None
}
