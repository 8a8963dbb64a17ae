//! Changes of the lists of shared children, told to their clients: the first at once, all that follow within a moment as
//! one. A child that tells changes without end would otherwise cost a message for each of its sessions each time.
//!
//! Knows which change was told. Who hears of it is the caller's affair.

use std::collections::HashMap;

use crate::sys::lock::Lock;

/// The changes that were told a moment ago, each with what was said of the same list since.
#[derive(Default)]
pub(crate) struct Changes(Lock<HashMap<(u64, &'static str), Option<String>>>);

impl Changes {
    /// Whether the change of a child's list is to be told now. If so, the caller asks for the rest a moment later; else
    /// it is part of that.
    pub(crate) fn note(&self, child: u64, list: &'static str, text: &str) -> bool {
        let mut told = self.0.lock();
        match told.get_mut(&(child, list)) {
            Some(since) => {
                *since = Some(text.to_owned());
                false
            }
            None => {
                told.insert((child, list), None);
                true
            }
        }
    }

    /// What was said since; None if it was nothing, and the next change is to be told at once again.
    pub(crate) fn rest(&self, child: u64, list: &'static str) -> Option<String> {
        let mut told = self.0.lock();
        let since = told.get_mut(&(child, list)).and_then(Option::take);
        if since.is_none() {
            told.remove(&(child, list));
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_within_a_moment_is_told_as_one() {
        let (changes, child) = (Changes::default(), 7);
        assert!(changes.note(child, "tools", "a") && !changes.note(child, "tools", "b"));
        assert!(!changes.note(child, "tools", "c") && changes.note(child, "prompts", "d"));
        assert_eq!(changes.rest(child, "tools").as_deref(), Some("c"));
        assert!(!changes.note(child, "tools", "e"), "the moment is not over");
        assert_eq!(changes.rest(child, "tools").as_deref(), Some("e"));
        assert_eq!(changes.rest(child, "tools"), None);
        assert!(changes.note(child, "tools", "f"));
        assert_eq!(changes.rest(child, "prompts"), None);
    }
}
