//! How much memory is kept for clients: one sum for all, and a fair share for each where little is left.
//!
//! Pure: who asks for how much, and whether he gets it. What is kept, and where, is not known here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// For whom something is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A principal, whatever connections it has.
    Principal(Arc<str>),
    /// All that come from one address.
    Address(IpAddr),
    /// A connection, where an address is shared by many.
    Connection(u64),
    /// The children of a server: for lines that they have not ended, and input that they have not read.
    Server(Arc<str>),
    /// What waits to be sent since before an upgrade.
    Outbox(u64),
    /// A session whose connections are not known.
    Session(u64),
}

impl Holder {
    /// The principal, where it is one.
    pub fn principal(&self) -> Option<&Arc<str>> {
        match self {
            Holder::Principal(name) => Some(name),
            _ => None,
        }
    }

    /// The address, where all that come from it are one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Holder::Address(address) => Some(*address),
            _ => None,
        }
    }
}

/// The sum, and who has how much of it; in bytes.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: u64,
    held: HashMap<Holder, u64>,
}

impl Budget {
    pub fn new(limit: u64) -> Budget {
        Budget { limit, used: 0, held: HashMap::new() }
    }

    /// Sets another limit. What is above it already stays until it is given back.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// How much is kept.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Half of it is taken.
    pub fn is_scarce(&self) -> bool {
        self.used > self.limit / 2
    }

    /// Takes so much more for a holder; false if there is none left for it. Of the last quarter, only those get something
    /// who hold less than an equal share of the whole, with one more who may come.
    pub fn take(&mut self, holder: &Holder, bytes: u64) -> bool {
        let fits = self.fits(holder, bytes);
        if fits {
            self.add(holder, bytes);
        }
        fits
    }

    /// As [`Budget::take`], for one thing that cannot be smaller: who has nothing gets it if anything is left.
    pub fn take_one(&mut self, holder: &Holder, bytes: u64) -> bool {
        let wanted = if self.held.contains_key(holder) { bytes } else { bytes.min(1) };
        let fits = self.fits(holder, wanted);
        if fits {
            self.add(holder, bytes);
        }
        fits
    }

    fn fits(&self, holder: &Holder, bytes: u64) -> bool {
        let own = self.held.get(holder).copied().unwrap_or(0);
        let others = self.held.len() as u64 - u64::from(own > 0);
        let (after, share) = (self.used.saturating_add(bytes), self.limit / (others + 2));
        let plenty = after <= self.limit - self.limit / 4;
        plenty || (after <= self.limit && own.saturating_add(bytes) <= share)
    }

    fn add(&mut self, holder: &Holder, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        if bytes > 0 {
            *self.held.entry(holder.clone()).or_default() += bytes;
        }
    }

    /// Gives back what was taken.
    pub fn give(&mut self, holder: &Holder, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        if let Some(own) = self.held.get_mut(holder) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.held.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_may_take_three_quarters_and_the_rest_is_for_those_with_little() {
        let mut budget = Budget::new(1000);
        let who = |n| Holder::Connection(n);
        assert!(budget.take(&who(1), 750) && !budget.take(&who(1), 1));
        assert!(budget.take(&who(2), 200), "less than its share of 500");
        assert!(!budget.take(&who(2), 100) && budget.take(&who(2), 50));
        assert!(!budget.take(&who(3), 1), "nothing is left");
        budget.give(&who(1), 750);
        assert!(budget.take(&who(3), 400) && budget.used() == 650);
        budget.set_limit(100);
        assert!(!budget.take(&who(3), 1));
        // The first thing of a holder may be larger than what is left, if anything is.
        let mut budget = Budget::new(1000);
        assert!(budget.take_one(&who(1), 740) && !budget.take_one(&who(1), 11) && budget.take_one(&who(1), 10));
        assert!(budget.take_one(&who(2), 300) && budget.used() == 1050 && !budget.take_one(&who(3), 1));
    }

    proptest! {
        #[test]
        fn what_was_taken_is_given_back_and_never_more_than_the_limit_is_held(
            steps in proptest::collection::vec((0..5u64, 0..400u64, any::<bool>()), 0..100)
        ) {
            let mut budget = Budget::new(1000);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (who, bytes, give) in steps {
                match give.then(|| held.pop()).flatten() {
                    Some((who, bytes)) => budget.give(&Holder::Connection(who), bytes),
                    None if budget.take(&Holder::Connection(who), bytes) => held.push((who, bytes)),
                    None => {}
                }
                let sum: u64 = held.iter().map(|(_, bytes)| bytes).sum();
                prop_assert!(sum == budget.used() && sum <= 1000);
            }
            for (who, bytes) in held {
                budget.give(&Holder::Connection(who), bytes);
            }
            prop_assert!(budget.used() == 0 && budget.held.is_empty());
        }
    }
}
