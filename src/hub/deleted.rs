//! Sessions that their clients have deleted, though their ids could still be opened. It knows ids alone, and forgets with the
//! process.

use std::collections::{HashSet, VecDeque};

use crate::model::sealed::NONCE;

/// Ids that were deleted and could be opened, the oldest first; so many at most.
#[derive(Default)]
pub(super) struct Deleted(VecDeque<Box<str>>, HashSet<Box<str>>);

impl Deleted {
    const MOST: usize = 10_000;

    /// What tells an id from all others: the random part at its beginning.
    fn mark(id: &str) -> &str {
        id.get(..NONCE * 4 / 3).unwrap_or(id)
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.1.contains(Deleted::mark(id))
    }

    pub(super) fn note(&mut self, id: &str) {
        let mark: Box<str> = Deleted::mark(id).into();
        if !self.1.insert(mark.clone()) {
            return;
        }
        self.0.push_back(mark);
        if self.0.len() > Deleted::MOST
            && let Some(first) = self.0.pop_front()
        {
            self.1.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let id = |n: usize| format!("{n:032}rest");
        let mut deleted = Deleted::default();
        (0..=Deleted::MOST).for_each(|n| deleted.note(&id(n)));
        deleted.note(&id(1));
        assert!(!deleted.has(&id(0)) && deleted.has(&id(1)) && deleted.has(&id(Deleted::MOST)));
        assert!(deleted.has(&format!("{:032}another end", 1)), "the random part tells");
        assert!(!deleted.has("short"));
        assert_eq!((deleted.0.len(), deleted.1.len()), (Deleted::MOST, Deleted::MOST));
    }
}
