//! Who uses a server: its sessions, each with who answers it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::hub::client::endpoint::{Client, WeakClient};
use crate::hub::client::session::Session;
use crate::hub::client::subscription::Change;
use crate::sys::lock::Lock;

/// The sessions of a server, in the order in which they were opened. One that is gone leaves nothing here.
#[derive(Default)]
pub(crate) struct Members(Arc<Lock<BTreeMap<u64, WeakClient>>>);

impl Members {
    /// Adds a session, unless it is here.
    pub(crate) fn join(&self, client: &Client) {
        self.0.lock().entry(client.session.number).or_insert_with(|| client.downgrade());
        let all = self.0.clone();
        client.session.when_gone(move |number| drop(all.lock().remove(&number)));
    }

    /// Notes another one who answers a session.
    pub(crate) fn replace(&self, client: &Client) {
        self.0.lock().remove(&client.session.number);
        self.join(client);
    }

    /// All that are served, a request of the modern era with a subscription included.
    pub(crate) fn clients(&self) -> Vec<Client> {
        let all: Vec<Client> = self.0.lock().values().filter_map(WeakClient::upgrade).collect();
        // Outside of the lock: the last one who has a session may be this.
        all.into_iter().filter(|c| !c.session.is_ended()).collect()
    }

    /// Those that have no child of their own.
    pub(crate) fn sharing(&self) -> Vec<Arc<Session>> {
        self.clients().into_iter().filter(|c| !c.endpoint.is_private()).map(|c| c.session).collect()
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.clients().into_iter().map(|c| c.session).collect()
    }

    /// Each subscription of the modern era has its last message.
    pub(crate) fn end_subscriptions(&self) {
        self.sessions().iter().for_each(|s| s.end_subscriptions());
    }

    /// Subscriptions that a child of the modern era kept, and keeps no more: their clients may open them anew.
    pub(crate) fn end_forwarded_subscriptions(&self) {
        for subscription in self.sessions().iter().flat_map(|s| s.subscriptions()).filter(|s| s.request.is_some()) {
            subscription.finish();
        }
    }
}

/// Tells sessions of a change.
pub(crate) fn notify_clients(sessions: &[Arc<Session>], change: &Change<'_>) {
    sessions.iter().for_each(|s| s.notify_client(change));
}
