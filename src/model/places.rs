//! Who gets one of a bounded number of places, and who gives his up for another.
//!
//! Pure: holders, numbers and times come in as arguments. What takes the places, sessions or connections, is not known here.

use std::collections::HashMap;

use super::budget::Holder;

/// A place that was never used, for so many seconds, is given up before all others.
pub const UNUSED: u64 = 10;
/// So is one that was used, and is not any more, for so many.
const IDLE: u64 = 300;
/// No other client may take a place for so many seconds: the one that has it is in the middle of something.
const FRESH: u64 = 1;

/// A place that is taken.
#[derive(Clone, Debug)]
pub struct Place {
    pub holder: Holder,
    /// It was never used.
    pub unused: bool,
    /// It is in use now.
    pub in_use: bool,
    /// Seconds since its last use; 0 while it is in use.
    pub idle: u64,
    /// Seconds from its beginning to its last use.
    pub lived: u64,
}

impl Place {
    /// No other client may take the place before so many seconds without use. Many clients begin a session for each call
    /// and never end one; one that comes again and again is there still, and rests no longer than it has worked.
    fn rests(&self) -> u64 {
        if self.unused { FRESH } else { self.lived.clamp(FRESH, IDLE) }
    }
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
/// longest, of those of the same time the first. What was never used makes room for everybody; many clients never say that
/// they have gone, so what is used and idle does as well, if there is nothing better.
pub fn given_up(taken: &[Place], newcomer: &Holder) -> Option<usize> {
    let held = count(taken.iter().map(|p| &p.holder));
    let own = held.get(newcomer).copied().unwrap_or(0);
    let of = |p: &Place| held.get(&p.holder).copied().unwrap_or(0);
    // Who opens many and uses none is not to cost others theirs: the first of these is waited for.
    let flood = taken.iter().any(|p| p.unused && !p.in_use && p.idle < FRESH);
    let waits = |p: &Place| flood && !p.unused && p.idle < IDLE;
    let free = |p: &Place| !p.in_use && p.idle >= p.rests() && !waits(p) && (p.unused || of(p) >= own);
    let abandoned = |p: &Place| p.idle >= if p.unused { UNUSED } else { IDLE };
    let candidates = taken.iter().enumerate().filter(|(_, p)| free(p));
    let (first, _) = candidates.max_by_key(|(n, p)| {
        let all = abandoned(p);
        (all, !all && p.unused, of(p), p.unused, p.idle, std::cmp::Reverse(*n))
    })?;
    Some(first)
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
        let place = |n, unused, idle| Place { holder: who(n), unused, in_use: idle == 0, idle, lived: 0 };
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
        let young = [place(1, true, 9), place(2, false, 10), place(1, false, 0)];
        assert_eq!(given_up(&young, &who(9)), Some(0), "it was never used");
        assert_eq!(given_up(&young[1..], &who(9)), Some(0), "it is idle");
        let fresh = Place { in_use: false, ..place(1, true, 0) };
        assert_eq!(given_up(&[fresh.clone(), place(1, false, 0)], &who(9)), None);
        assert_eq!(given_up(&[fresh, place(1, false, 8)], &who(9)), None, "the other is waited for");
        let equal = [place(1, false, 7), place(2, false, 7), place(3, false, 300), place(4, true, 10)];
        assert_eq!(given_up(&equal[..2], &who(9)), Some(0));
        assert_eq!(given_up(&equal, &who(9)), Some(3), "what was never used before what was");
        // One that comes again and again keeps its place over its pauses, but not for ever.
        let lives = |lived, idle| Place { lived, ..place(1, false, idle) };
        assert_eq!(given_up(&[lives(20, 15), lives(0, 2)], &who(9)), Some(1));
        assert_eq!(given_up(&[lives(20, 15), lives(3, 2)], &who(9)), None);
        assert_eq!(given_up(&[lives(20, 25), lives(3, 2)], &who(9)), Some(0));
        assert_eq!(given_up(&[lives(9000, 299)], &who(9)), None);
        assert_eq!(given_up(&[lives(9000, 300)], &who(9)), Some(0));
        let flood = [place(1, false, 5), place(2, false, 1), place(2, false, 1)];
        assert_eq!(given_up(&flood, &who(2)), Some(1), "of his own");
    }
}
