//! Whose task is whose, where several clients share a child (SEP-2663): one must not read, change or end another's.
//!
//! It must not know what a task does.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::sys::lock::Lock;

/// So many are remembered; the oldest is forgotten first.
const MOST: usize = 10_000;
/// No longer id is remembered, in bytes.
const LONGEST: usize = 1024;

/// A task, and the principal who has started it; None where there is no `auth`.
pub(crate) type Owned = (String, Option<Arc<str>>);

/// The tasks that clients have started.
#[derive(Default)]
pub(crate) struct TaskOwners(Lock<Inner>);

#[derive(Default)]
struct Inner {
    owners: HashMap<String, Option<Arc<str>>>,
    order: VecDeque<String>,
}

impl TaskOwners {
    /// A task was started by this principal.
    pub(crate) fn note(&self, task: &str, owner: Option<Arc<str>>) {
        if task.len() > LONGEST {
            return;
        }
        let mut inner = self.0.lock();
        if inner.owners.insert(task.to_owned(), owner).is_none() {
            inner.order.push_back(task.to_owned());
        }
        if inner.order.len() > MOST
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.owners.remove(&oldest);
        }
    }

    /// Whether this principal may ask for a task: he has started it, or there is no `auth`.
    pub(crate) fn is_for(&self, task: &str, who: Option<&Arc<str>>) -> bool {
        match (self.0.lock().owners.get(task), who) {
            (Some(owner), who) => owner.as_ref() == who,
            (None, who) => who.is_none(),
        }
    }

    /// All of them, the oldest first, for the handover document.
    pub(crate) fn save(&self) -> Vec<Owned> {
        let inner = self.0.lock();
        inner.order.iter().filter_map(|task| Some((task.clone(), inner.owners.get(task)?.clone()))).collect()
    }

    pub(crate) fn restore(&self, saved: Vec<Owned>) {
        saved.into_iter().for_each(|(task, owner)| self.note(&task, owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_for_who_has_started_it() {
        let (owners, ann, bob) = (TaskOwners::default(), Arc::<str>::from("ann"), Arc::<str>::from("bob"));
        owners.note("t", Some(ann.clone()));
        assert!(owners.is_for("t", Some(&ann)) && !owners.is_for("t", Some(&bob)) && !owners.is_for("t", None));
        assert!(!owners.is_for("unknown", Some(&ann)), "it may be another's");
        assert!(owners.is_for("unknown", None), "without auth nobody is told from another");
        let after = TaskOwners::default();
        after.restore(owners.save());
        assert!(after.is_for("t", Some(&ann)) && !after.is_for("t", Some(&bob)));
        (0..MOST).for_each(|n| owners.note(&n.to_string(), Some(bob.clone())));
        assert!(!owners.is_for("t", Some(&ann)), "it is forgotten");
        assert_eq!(owners.save().len(), MOST);
    }
}
