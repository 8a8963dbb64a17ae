//! Who gets one of a bounded number of places, and who gives his up for another.
//!
//! Pure: holders, numbers and times come in as arguments. What takes the places, sessions or connections, is not known here.

use std::collections::HashMap;

use super::budget::Holder;

/// A place whose holder has not used it has this many seconds before he may have to give it up.
pub const UNUSED: u64 = 10;
/// A place that was used, and is not any more, has this many.
pub const IDLE: u64 = 300;

/// A place that is taken.
#[derive(Clone, Debug)]
pub struct Place {
    pub holder: Holder,
    /// It was never used.
    pub unused: bool,
    /// Seconds since its last use; 0 while it is in use.
    pub idle: u64,
}

/// So many of the places are kept for those who hold less than an equal share.
pub fn reserve(limit: u64) -> u64 {
    limit / 8
}

/// How many places each holder has.
pub fn count<'p>(taken: impl IntoIterator<Item = &'p Holder>) -> HashMap<&'p Holder, u64> {
    let mut held = HashMap::new();
    for holder in taken {
        *held.entry(holder).or_insert(0) += 1;
    }
    held
}

/// Whether one of `limit` places is left for a newcomer, who has `own` already, as `others` have the rest of those `taken`.
pub fn is_left(limit: u64, taken: u64, own: u64, others: u64) -> bool {
    let share = limit / (others + 2);
    taken < limit - reserve(limit) || (taken < limit && own < share.max(1))
}

/// The place that is given up for a newcomer: of those who hold the most, and no less than he, the one that was idle for
/// longest. What was never used makes room for everybody.
pub fn given_up(taken: &[Place], newcomer: &Holder) -> Option<usize> {
    let held = count(taken.iter().map(|p| &p.holder));
    let own = held.get(newcomer).copied().unwrap_or(0);
    let of = |p: &Place| held.get(&p.holder).copied().unwrap_or(0);
    let free = |p: &Place| match p.unused {
        true => p.idle >= UNUSED,
        false => p.idle >= IDLE && of(p) >= own,
    };
    let candidates = taken.iter().enumerate().filter(|(_, p)| free(p));
    candidates.max_by_key(|(n, p)| (of(p), p.unused, p.idle, std::cmp::Reverse(*n))).map(|(n, _)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(n: u64) -> Holder {
        Holder::Connection(n)
    }

    #[test]
    fn one_takes_all_but_the_last_eighth_which_is_for_those_with_little() {
        assert!(is_left(1000, 874, 874, 0) && !is_left(1000, 875, 875, 0));
        assert!(is_left(1000, 875, 0, 1) && is_left(1000, 999, 124, 1) && !is_left(1000, 1000, 0, 1));
        assert!(!is_left(1000, 900, 340, 1), "more than a third");
        // With few places there is no reserve, and one place is never more than a share.
        assert!(is_left(3, 2, 2, 0) && !is_left(3, 3, 0, 3));
        assert!(is_left(64, 60, 0, 60));
    }

    #[test]
    fn the_largest_holder_gives_up_what_was_idle_for_longest() {
        let place = |n, unused, idle| Place { holder: who(n), unused, idle };
        let taken = [
            place(1, false, 400),
            place(1, false, 500),
            place(1, false, 500),
            place(2, false, 9000),
            place(3, true, 11),
            place(4, false, 0),
        ];
        assert_eq!(given_up(&taken, &who(9)), Some(1));
        // A newcomer with as many places gets his own idle one, or one that was never used.
        assert_eq!(given_up(&taken[3..], &who(9)), Some(1), "that nobody has used");
        let mine = [place(1, false, 0), place(1, false, 0), place(2, false, 9000)];
        assert_eq!(given_up(&mine, &who(1)), None);
        assert_eq!(given_up(&mine, &who(9)), Some(2));
        let fresh = [place(1, true, 9), place(1, false, 299), place(2, false, 10)];
        assert_eq!(given_up(&fresh, &who(9)), None);
    }
}
