//! Mutual exclusion without poisoning.
//!
//! A panic aborts the daemon (`panic = "abort"` in Cargo.toml), so no thread ever sees a lock that another one left in the
//! middle of a change. Knows nothing of what it guards.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// The right to use what a [`Lock`] guards, until it is dropped.
pub(crate) type Guard<'l, T> = MutexGuard<'l, T>;

/// A value that one thread at a time may use. Must not be held across an `.await`.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Lock<T> {
        Lock(Mutex::new(value))
    }

    /// Waits for the value.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, or None while another thread uses it.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        match self.0.try_lock() {
            Ok(value) => Some(value),
            Err(TryLockError::Poisoned(value)) => Some(value.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the value and leaves its default.
    pub(crate) fn take(&self) -> T
    where
        T: Default,
    {
        std::mem::take(&mut *self.lock())
    }

    /// Puts another value in place and gives the one before.
    pub(crate) fn replace(&self, value: T) -> T {
        std::mem::replace(&mut *self.lock(), value)
    }

    /// A copy of the value.
    pub(crate) fn get(&self) -> T
    where
        T: Clone,
    {
        self.lock().clone()
    }
}

impl<T> From<T> for Lock<T> {
    fn from(value: T) -> Lock<T> {
        Lock::new(value)
    }
}
