//! Which resources the sessions of a server watch, counted: a child hears of the first that does, and of the last that
//! does no more.
//!
//! Knows URIs and the places of sessions among several children alone.

use std::collections::HashMap;

use crate::sys::lock::Lock;

/// How many sessions watch each resource, by their places.
#[derive(Default)]
pub(crate) struct Watchers(Lock<HashMap<Box<str>, HashMap<usize, usize>>>);

impl Watchers {
    pub(super) fn add(&self, uri: &str, place: usize) {
        *self.0.lock().entry(uri.into()).or_default().entry(place).or_default() += 1;
    }

    pub(super) fn remove(&self, uri: &str, place: usize) {
        let mut all = self.0.lock();
        let Some(places) = all.get_mut(uri) else { return };
        if let Some(count) = places.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                places.remove(&place);
            }
        }
        if places.is_empty() {
            all.remove(uri);
        }
    }

    /// How many watch a resource, among those that share a child of `places` with a session at `place`.
    pub(crate) fn count(&self, uri: &str, place: usize, places: usize) -> usize {
        let all = self.0.lock();
        let near = |(at, _): &(&usize, &usize)| **at % places == place % places;
        all.get(uri).map_or(0, |by_place| by_place.iter().filter(near).map(|(_, count)| count).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_counted_by_the_child_that_they_share() {
        let watchers = Watchers::default();
        for place in [0, 2, 3] {
            watchers.add("a", place);
        }
        assert_eq!([1, 2, 4].map(|places| watchers.count("a", 0, places)), [3, 2, 1]);
        watchers.remove("a", 2);
        watchers.remove("a", 2);
        watchers.remove("b", 0);
        assert_eq!((watchers.count("a", 0, 2), watchers.count("b", 0, 1)), (1, 0));
        watchers.remove("a", 0);
        watchers.remove("a", 3);
        assert!(watchers.0.lock().is_empty());
    }
}
