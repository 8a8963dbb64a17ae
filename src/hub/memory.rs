//! The memory that is kept for clients, counted against `limits.memory`.
//!
//! Knows sizes and holders. What is kept is the caller's affair.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use event_listener::Event;

use super::counters::{Counters, Dropped};
use crate::model::budget::{Budget, Holder};
use crate::rt::wait::until;
use crate::sys::lock::Lock;

/// So much is not counted of each thing: the budget is asked for what is large.
const FREE: u64 = 16 << 10;
/// It is asked for so much at a time.
const STEP: u64 = 64 << 10;

/// The memory of the instance.
pub(crate) struct Memory {
    budget: Lock<Budget>,
    counters: Arc<Counters>,
    /// A holder was refused memory, and [`Memory::is_short`] has not told of it yet.
    short: AtomicBool,
    refused: Event,
}

impl Memory {
    pub(crate) fn new(limit: u64, counters: Arc<Counters>) -> Arc<Memory> {
        Arc::new(Memory {
            budget: Lock::new(Budget::new(limit)),
            counters,
            short: AtomicBool::new(false),
            refused: Event::new(),
        })
    }

    pub(crate) fn set_limit(&self, limit: u64) {
        self.budget.lock().set_limit(limit);
    }

    /// Waits until a holder is refused memory. The caller gives up what may never be needed, so that the next holder gets
    /// some.
    pub(crate) async fn is_short(&self) {
        until(&self.refused, || self.short.swap(false, SeqCst).then_some(())).await;
    }

    /// How much is counted now, in bytes.
    #[cfg(test)]
    fn used(&self) -> u64 {
        self.budget.lock().used()
    }

    /// Begins to count something for a holder.
    pub(crate) fn begin(self: &Arc<Self>, holder: Holder) -> Kept {
        Kept { memory: self.clone(), holder, counted: 0, refused: false }
    }
}

/// Something that is kept for as long as this lives.
pub(crate) struct Kept {
    memory: Arc<Memory>,
    holder: Holder,
    counted: u64,
    /// The last time that it was to be more, there was no memory.
    refused: bool,
}

impl Kept {
    /// It is to be so long, in bytes. False if there is no memory for it; then it stays as long as it was.
    pub(crate) fn reach(&mut self, length: usize) -> bool {
        let wanted = (length as u64).saturating_sub(FREE).div_ceil(STEP) * STEP;
        if wanted <= self.counted {
            return true;
        }
        let fits = self.memory.budget.lock().take(&self.holder, wanted - self.counted);
        if fits {
            self.counted = wanted;
        } else {
            if !self.refused {
                self.memory.counters.count(Dropped::Memory);
            }
            self.memory.short.store(true, SeqCst);
            self.memory.refused.notify(1);
        }
        self.refused = !fits;
        fits
    }

    /// It is so long now, in bytes: as [`Kept::reach`], and what it has not any more is given back.
    pub(crate) fn set(&mut self, length: usize) -> bool {
        let wanted = (length as u64).saturating_sub(FREE).div_ceil(STEP) * STEP;
        if wanted < self.counted {
            self.memory.budget.lock().give(&self.holder, self.counted - wanted);
            self.counted = wanted;
        }
        self.reach(length)
    }

    /// Half of the memory is taken: what may never be needed is not kept any more.
    pub(crate) fn is_scarce(&self) -> bool {
        self.memory.budget.lock().is_scarce()
    }

    /// Nothing of it is kept any more.
    pub(crate) fn clear(&mut self) {
        if self.counted > 0 {
            self.memory.budget.lock().give(&self.holder, std::mem::take(&mut self.counted));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_is_counted_until_it_is_dropped() {
        let memory = Memory::new(1 << 20, Arc::default());
        let mut one = memory.begin(Holder::Session(1));
        assert!(one.reach(1000) && memory.used() == 0);
        assert!(one.reach(17 << 10) && memory.used() == STEP);
        assert!(one.reach(700 << 10) && memory.used() == 704 << 10);
        assert!(!one.reach(2 << 20) && memory.used() == 704 << 10);
        assert!(one.set(100 << 10) && memory.used() == 128 << 10);
        one.clear();
        assert!(one.reach(100 << 10));
        drop(one);
        assert_eq!(memory.used(), 0);
    }
}
