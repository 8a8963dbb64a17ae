//! Sessions that their clients have deleted, though their ids could still be opened. It knows what all ids of a session have in
//! common ([`crate::model::sealed::Sealed::session`]), and forgets with the process.

use std::collections::{HashSet, VecDeque};

/// Sessions that were deleted and could be opened, the oldest first; so many at most.
#[derive(Default)]
pub(super) struct Deleted(VecDeque<Box<str>>, HashSet<Box<str>>);

impl Deleted {
    const MOST: usize = 10_000;

    pub(super) fn has(&self, session: &str) -> bool {
        self.1.contains(session)
    }

    pub(super) fn note(&mut self, session: &str) {
        let mark: Box<str> = session.into();
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
        let id = |n: usize| format!("{n:032}");
        let mut deleted = Deleted::default();
        (0..=Deleted::MOST).for_each(|n| deleted.note(&id(n)));
        deleted.note(&id(1));
        assert!(!deleted.has(&id(0)) && deleted.has(&id(1)) && deleted.has(&id(Deleted::MOST)));
        assert_eq!((deleted.0.len(), deleted.1.len()), (Deleted::MOST, Deleted::MOST));
    }
}
