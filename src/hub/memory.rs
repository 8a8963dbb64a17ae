//! The memory that is kept for clients, counted against `limits.memory`.
//!
//! Knows sizes and holders. What is kept is the caller's affair.

use std::sync::Arc;

use crate::model::budget::{Budget, Holder};
use crate::sys::lock::Lock;

/// So much is not counted of each thing: the budget is asked for what is large.
const FREE: u64 = 16 << 10;
/// It is asked for so much at a time.
const STEP: u64 = 64 << 10;

/// The memory of the instance.
pub(crate) struct Memory(Lock<Budget>);

impl Memory {
    pub(crate) fn new(limit: u64) -> Arc<Memory> {
        Arc::new(Memory(Lock::new(Budget::new(limit))))
    }

    pub(crate) fn set_limit(&self, limit: u64) {
        self.0.lock().set_limit(limit);
    }

    /// How much is counted now, in bytes.
    #[cfg(test)]
    fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Begins to count something for a holder.
    pub(crate) fn begin(self: &Arc<Self>, holder: Holder) -> Kept {
        Kept { memory: self.clone(), holder, counted: 0 }
    }
}

/// Something that is kept for as long as this lives.
pub(crate) struct Kept {
    memory: Arc<Memory>,
    holder: Holder,
    counted: u64,
}

impl Kept {
    /// It is to be so long, in bytes. False if there is no memory for it; then it stays as long as it was.
    pub(crate) fn reach(&mut self, length: usize) -> bool {
        let wanted = (length as u64).saturating_sub(FREE).div_ceil(STEP) * STEP;
        if wanted <= self.counted {
            return true;
        }
        let fits = self.memory.0.lock().take(&self.holder, wanted - self.counted);
        if fits {
            self.counted = wanted;
        }
        fits
    }

    /// Nothing of it is kept any more.
    pub(crate) fn clear(&mut self) {
        if self.counted > 0 {
            self.memory.0.lock().give(&self.holder, std::mem::take(&mut self.counted));
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
        let memory = Memory::new(1 << 20);
        let mut one = memory.begin(Holder::Session(1));
        assert!(one.reach(1000) && memory.used() == 0);
        assert!(one.reach(17 << 10) && memory.used() == STEP);
        assert!(one.reach(700 << 10) && memory.used() == 704 << 10);
        assert!(!one.reach(2 << 20) && memory.used() == 704 << 10);
        one.clear();
        assert!(one.reach(100 << 10));
        drop(one);
        assert_eq!(memory.used(), 0);
    }
}
