//! What a child has said that it has, for as long as it has told of no change.
//!
//! Pure: lists in, lists out. It must not know how a child is asked.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::bridge::{Item, List};

/// The lists of a child as it has last said them.
#[derive(Default)]
pub(super) struct KeptLists {
    kept: HashMap<List, Arc<Vec<Item>>>,
    /// Counts the changes that it has told of.
    changes: u64,
}

/// When a child was asked for a list.
#[derive(Clone, Copy)]
pub(super) struct Asking(u64);

impl KeptLists {
    /// A list that is kept; else the child has to be asked now.
    pub(super) fn get(&self, list: List) -> Result<Arc<Vec<Item>>, Asking> {
        self.kept.get(&list).cloned().ok_or(Asking(self.changes))
    }

    /// Keeps a list, unless the child has told of a change since it was asked for it.
    pub(super) fn keep(&mut self, list: List, items: &Arc<Vec<Item>>, asked: Asking) {
        if asked.0 == self.changes {
            self.kept.insert(list, items.clone());
        }
    }

    /// The child tells of a change: it has to be asked again.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_changes_while_it_is_asked_for_is_not_kept() {
        let (mut lists, items) = (KeptLists::default(), Arc::new(Vec::new()));
        let asking = lists.get(List::Tools).unwrap_err();
        lists.keep(List::Tools, &items, asking);
        assert!(lists.get(List::Tools).is_ok() && lists.get(List::Prompts).is_err());
        lists.forget();
        let asking = lists.get(List::Tools).unwrap_err();
        lists.forget();
        lists.keep(List::Tools, &items, asking);
        assert!(lists.get(List::Tools).is_err());
    }
}
