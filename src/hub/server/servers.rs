//! The servers of the instance, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::server::Server;
use crate::sys::lock::Lock;

/// The servers of the instance, by name.
#[derive(Default)]
pub(crate) struct Servers(Lock<BTreeMap<String, Arc<Server>>>);

impl Servers {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Server>> {
        self.0.lock().get(name).cloned()
    }

    /// All of them, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<Server>> {
        self.0.lock().values().cloned().collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    pub(crate) fn insert(&self, server: Arc<Server>) {
        self.0.lock().insert(server.name().to_owned(), server);
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Arc<Server>> {
        self.0.lock().remove(name)
    }
}
