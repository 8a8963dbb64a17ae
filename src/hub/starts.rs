//! The starts of children: so many at a time, and each server with the patience that it has shown to need.
//!
//! Servers that are installed at their first start wait for each other's locks and caches; one that is ended in the middle
//! of that begins anew each time, and would never be ready. It must not know what a child is.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;

use crate::rt::wait::until;
use crate::sys::lock::Lock;

/// So many children are started at a time, or as many as there are processors.
const AT_A_TIME: usize = 4;
/// A start that takes longer makes room for the next one, so that one that hangs does not hold up the others for long.
pub(crate) const HOLD: Duration = Duration::from_secs(10);
/// A server is given so many times its `start_timeout` at most.
pub(crate) const MOST: u32 = 4;

/// The starts of all servers.
#[derive(Default)]
pub(crate) struct Starts {
    taken: Lock<usize>,
    left: Event,
    /// Servers that were not ready in time.
    slow: Lock<HashMap<Arc<str>, Slow>>,
    /// What is being started, by the name of its server.
    under_way: Lock<HashMap<Arc<str>, Weak<dyn Says>>>,
}

/// Something that is being started, and may say meanwhile what is wrong with it.
pub(crate) trait Says: Send + Sync {
    /// The line that says it best.
    fn headline(&self) -> Option<String>;
}

/// What is known of a server that was not ready in time.
#[derive(Clone, Copy, Default)]
struct Slow {
    /// So many times its `start_timeout` it was given last.
    given: u32,
    /// That was what was wrong with it, the last time.
    late: bool,
}

/// A place among the starts, given back at its end.
pub(crate) struct StartPlace<'s>(&'s Starts);

impl Drop for StartPlace<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.left.notify(1);
    }
}

impl Starts {
    /// Waits for a place among the starts.
    pub(crate) async fn place(&self) -> StartPlace<'_> {
        let limit = AT_A_TIME.max(std::thread::available_parallelism().map_or(1, usize::from));
        until(&self.left, || {
            let mut taken = self.taken.lock();
            let free = *taken < limit;
            *taken += usize::from(free);
            free.then(|| StartPlace(self))
        })
        .await
    }

    /// Notes what is being started for a server.
    pub(crate) fn note(&self, server: &Arc<str>, one: Weak<dyn Says>) {
        let mut all = self.under_way.lock();
        all.retain(|_, one| one.strong_count() > 0);
        all.insert(server.clone(), one);
    }

    /// What a server has said so far, as long as it is being started.
    pub(crate) fn heard(&self, server: &str) -> Option<String> {
        let one = self.under_way.lock().get(server)?.upgrade()?;
        one.headline()
    }

    /// How many times its `start_timeout` a server is given now: twice as long as last time, where it was late.
    pub(crate) fn patience(&self, server: &str) -> u32 {
        self.slow.lock().get(server).map_or(1, |slow| (slow.given * 2).min(MOST))
    }

    /// A server was not ready in time, which was so many times its `start_timeout`.
    pub(crate) fn was_late(&self, server: &Arc<str>, given: u32) {
        let mut slow = self.slow.lock();
        let known = slow.entry(server.clone()).or_default();
        // Children of a pool are late together.
        *known = Slow { given: known.given.max(given), late: true };
    }

    /// A server is ready, or failed in another way than by being late.
    pub(crate) fn has_ended(&self, server: &str, ready: bool) {
        let mut slow = self.slow.lock();
        match ready {
            true => drop(slow.remove(server)),
            false => slow.get_mut(server).into_iter().for_each(|known| known.late = false),
        }
    }

    /// A server was late, and will be given longer next time.
    pub(crate) fn is_worth_waiting(&self, server: &str) -> bool {
        self.slow.lock().get(server).is_some_and(|slow| slow.late && slow.given < MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_is_given_twice_as_long_until_that_is_enough() {
        let (starts, name) = (Starts::default(), Arc::<str>::from("a"));
        let mut given = Vec::new();
        for _ in 0..4 {
            given.push(starts.patience(&name));
            starts.was_late(&name, starts.patience(&name));
        }
        assert_eq!(given, [1, 2, 4, 4]);
        assert!(!starts.is_worth_waiting("a"), "it was given the most");
        starts.has_ended("a", true);
        assert_eq!(starts.patience("a"), 1);
        starts.was_late(&name, 1);
        starts.was_late(&name, 1);
        assert!(starts.patience("a") == 2 && starts.is_worth_waiting("a"));
        starts.has_ended("a", false);
        assert!(starts.patience("a") == 2 && !starts.is_worth_waiting("a"), "it is broken");
    }
}
