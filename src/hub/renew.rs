//! Later ids of sessions that are used for longer than their first id would open them ([`crate::model::renewal`]).

use super::client::endpoint::Client;
use super::hub::Hub;
use super::sessions::{unix_seconds, without_prefix};
use crate::model::renewal::{LATER, Renewal, renewal};
use crate::rt::random;

impl Hub {
    /// The id that the client of a session is to be told, if it has named it by one that grows old.
    pub(crate) fn renewed(&self, client: &Client, named: Option<&str>) -> Option<String> {
        // On the way of every call.
        if !client.session.names().is_due(self.ctx.seconds()) {
            return None;
        }
        self.renew(client, named?)
    }

    fn renew(&self, client: &Client, named: &str) -> Option<String> {
        let (session, config) = (&client.session, self.ctx.config());
        let (names, now) = (session.names(), unix_seconds());
        let mut later = names.later();
        let newest = later.last().map_or(names.first(), |id| id);
        let keys = self.ctx.session_keys(&config);
        let bound = self.bound(&config, &session.server, session.owner.as_deref());
        let open = |id: &str| keys.as_ref()?.open(without_prefix(id), &bound);
        let sealed = open(newest);
        let what = renewal(sealed.as_ref().map(|s| s.age(now)), named == newest);
        let (Renewal::None(next) | Renewal::Tell(next) | Renewal::New(next)) = what;
        names.look_at(self.ctx.seconds().saturating_add(next));
        match what {
            Renewal::None(_) => None,
            Renewal::Tell(_) => Some(newest.to_owned()),
            Renewal::New(_) => {
                let sealed = sealed.or_else(|| open(named))?;
                let id = keys.as_ref()?.renew(&bound, &sealed, now, random::bytes().ok()?)?;
                let id = random::behind(&config.session_prefix, id);
                later.push(id.as_str().into());
                let old = (later.len() > LATER).then(|| later.iter().position(|one| **one != *named)).flatten();
                let old = old.map(|at| later.remove(at));
                drop(later);
                let mut clients = self.clients.lock();
                old.into_iter().for_each(|old| drop(clients.remove(&*old)));
                // It may have ended meanwhile, and its end has not seen this one.
                if !session.is_ended() {
                    clients.insert(id.clone(), client.clone());
                }
                Some(id)
            }
        }
    }
}
