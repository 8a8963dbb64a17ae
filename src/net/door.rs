//! Places for connections, shared among the addresses that they come from.
//!
//! It must not know what a connection is, beyond whether it waits for a request.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::model::budget::Holder;
use crate::model::places::{self, Place};
use crate::rt::wait::Flag;
use crate::sys::lock::Lock;

/// Connections that are idle are looked for this often at most.
const LOOK: Duration = Duration::from_millis(100);

/// A connection that has a place.
pub(crate) trait Occupant: Send + Sync {
    /// Where it comes from; from this host, each is for itself.
    fn comes_from(&self) -> Holder;

    /// For how many seconds it has been seen to wait for a request, which has not begun to come; to be asked more than once.
    fn idle(&self, now: Instant) -> u64;

    /// Ends it, where it waits for a request.
    fn shut(&self);
}

/// The connections that have a place.
#[derive(Default)]
pub(crate) struct Door {
    inside: Lock<Inside>,
    /// Those that have none, and are told so; set where one of them has to go.
    pub(super) extra: Lock<VecDeque<Arc<Flag>>>,
    looked: Lock<Option<Instant>>,
}

#[derive(Default)]
struct Inside {
    all: HashMap<u64, Weak<dyn Occupant>>,
    /// How many come from each address; from this host, each is for itself.
    of: HashMap<Option<IpAddr>, u64>,
}

impl Door {
    /// A connection from there gets a place, under a number of its own.
    pub(super) fn enter(&self, number: u64, address: Option<IpAddr>, one: Weak<dyn Occupant>) {
        let mut inside = self.inside.lock();
        inside.all.insert(number, one);
        *inside.of.entry(address).or_insert(0) += 1;
    }

    /// It gives its place back.
    pub(super) fn leave(&self, number: u64, address: Option<IpAddr>) {
        let mut inside = self.inside.lock();
        if inside.all.remove(&number).is_none() {
            return;
        }
        if let Some(count) = inside.of.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                inside.of.remove(&address);
            }
        }
    }

    /// Whether one of `limit` places is left for a connection from there, `taken` of which are taken.
    pub(super) fn is_left(&self, limit: u64, taken: u64, from: Option<IpAddr>) -> bool {
        if taken < limit - places::reserve(limit) {
            return true;
        }
        let inside = self.inside.lock();
        let own = if from.is_some() { inside.of.get(&from).copied().unwrap_or(0) } else { 0 };
        let local = inside.of.get(&None).copied().unwrap_or(0);
        let addresses = inside.of.keys().filter(|a| a.is_some() && **a != from).count() as u64;
        places::is_left(limit, taken, own, addresses + local)
    }

    /// Closes a connection that waits for a request, and has for a while. False if there is none.
    pub(super) fn make_room(&self, from: Option<IpAddr>) -> bool {
        let now = Instant::now();
        if self.looked.lock().is_some_and(|at| now.duration_since(at) < LOOK) {
            return false;
        }
        let all: Vec<_> = self.inside.lock().all.values().filter_map(Weak::upgrade).collect();
        let place = |c: &Arc<dyn Occupant>| Place {
            holder: c.comes_from(),
            unused: true,
            in_use: false,
            idle: c.idle(now),
            lived: 0,
        };
        let taken: Vec<Place> = all.iter().map(place).collect();
        let newcomer = from.map_or(Holder::Connection(0), Holder::Address);
        let given_up = places::given_up(&taken, &newcomer).and_then(|n| all.get(n));
        match given_up {
            Some(one) => one.shut(),
            None => drop(self.looked.replace(Some(now))),
        }
        given_up.is_some()
    }
}
