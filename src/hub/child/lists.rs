//! What a child has: its lists, and a resource, asked for the bridge.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use log::warn;

use super::child::Child;
use crate::hub::error::Error;
use crate::model::bridge::{Item, List, read_page};
use crate::model::envelope::{member, quote};
use crate::model::{method, modern};
use crate::rt::blocking::{LONG, busy};

/// The most pages of one list.
const PAGES: usize = 100;
/// The most items of one list: each costs at every look for a name.
const MOST: usize = 10_000;
/// The longest list, in bytes.
const LONGEST: usize = 8 << 20;

impl Child {
    /// It tells that one of its lists has changed: all are asked for again.
    pub(super) fn forget_lists(&self) {
        self.lists.lock().forget();
    }

    /// All pages of a list. More than `limit` bytes, [`LONGEST`] bytes or [`MOST`] items are too many. A child that promises
    /// to tell of changes (`listChanged`) is asked once, and again after each.
    pub(crate) async fn list(&self, list: List, limit: usize) -> Result<Arc<Vec<Item>>, Error> {
        if self.info().is_some_and(|info| !info.has(list.capability())) {
            return Ok(Arc::default());
        }
        let asking = match self.lists.lock().get(list) {
            Ok(kept) => return Ok(kept),
            Err(asking) => asking,
        };
        let all = Arc::new(self.ask_list(list, limit).await?);
        if self.tells_changes(list) {
            self.lists.lock().keep(list, &all, asking);
        }
        Ok(all)
    }

    /// It promises to tell of each change of a list. Templates are in no such promise, and a child of the modern era tells
    /// only who has subscribed.
    fn tells_changes(&self, list: List) -> bool {
        let capability = self.info().and_then(|info| info.capabilities.get(list.capability()));
        let promised = capability.and_then(|c| member(c, "listChanged")) == Some("true");
        promised && list != List::Templates && !self.is_modern()
    }

    async fn ask_list(&self, list: List, limit: usize) -> Result<Vec<Item>, Error> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        let (mut names, mut cursors) = (HashSet::new(), HashSet::new());
        let mut cursor = None::<String>;
        for _ in 0..PAGES {
            let params = match (&cursor, self.is_modern()) {
                (None, false) => None,
                (Some(cursor), false) => Some(format!(r#"{{"cursor":{cursor}}}"#)),
                (cursor, true) => Some(modern_params("cursor", cursor.as_deref())),
            };
            let result = match self.ask(list.method(), params.as_deref()).await {
                Ok(result) => result,
                // What came before can be used all the same.
                Err(why) if cursor.is_some() && !self.is_dead() => {
                    return Ok(self.cut_short(list, all, &format!("a further page is not to be had: {why}")));
                }
                // Many that have resources know nothing of templates.
                Err(_) if list == List::Templates && !self.is_dead() => return Ok(all),
                Err(why) => return Err(why),
            };
            if result.len() > limit.min(LONGEST) {
                return Err(Error::LongList);
            }
            let long = result.len() > LONG;
            let read = move || read_page(list, &result);
            let page = if long { busy(read).await } else { read() };
            let Some((items, next)) = page else {
                return match cursor {
                    None => Err(Error::NoList { list: list.member() }),
                    Some(_) => Ok(self.cut_short(list, all, "a further page is no list")),
                };
            };
            bytes += items.iter().map(|i| i.name.len() + i.text.len()).sum::<usize>();
            let new = items.iter().filter(|item| names.insert(item.name.clone())).count();
            let more = items.is_empty() || new > 0;
            all.extend(items);
            if bytes > limit.min(LONGEST) || all.len() > MOST {
                return Err(Error::LongList);
            }
            let Some(next) = next else { return Ok(all) };
            if !more || !cursors.insert(next.clone()) {
                break;
            }
            cursor = Some(next);
        }
        let why = format!("its 'nextCursor' leads in a circle, or beyond {PAGES} pages");
        Ok(self.cut_short(list, all, &why))
    }

    /// A list that does not come to its end, of which there is so much; it is said once of a child.
    fn cut_short(&self, list: List, all: Vec<Item>, why: &str) -> Vec<Item> {
        if !self.endless.swap(true, Relaxed) {
            warn!("server '{}': only the first {} of its {} are shown: {why}", self.server, all.len(), list.member());
        }
        all
    }

    /// A resource, as the result of `resources/read`; None if the child does not give it.
    pub(crate) async fn read_resource(&self, uri: &str) -> Option<String> {
        let uri = quote(uri);
        let params = match self.is_modern() {
            true => modern_params("uri", Some(&uri)),
            false => format!(r#"{{"uri":{uri}}}"#),
        };
        self.ask(method::RESOURCES_READ, Some(&params)).await.ok()
    }
}

/// The params of a request of our own to a child of the modern era.
fn modern_params(key: &str, value: Option<&str>) -> String {
    let meta = modern::own_meta(env!("CARGO_PKG_VERSION"));
    match value {
        Some(value) => format!("{{\"{key}\":{value},{}", meta.trim_start_matches('{')),
        None => meta,
    }
}
