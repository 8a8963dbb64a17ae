//! A value that may be replaced while others use it, such as settings that a reload adjusts.

use std::sync::Arc;

use event_listener::Event;

use crate::sys::lock::Lock;

/// A value that may be replaced while others use it.
pub(crate) struct Live<T> {
    value: Lock<Arc<T>>,
    changed: Event,
}

impl<T> Live<T> {
    pub(crate) fn new(value: Arc<T>) -> Arc<Live<T>> {
        Arc::new(Live::of(value))
    }

    pub(crate) fn of(value: Arc<T>) -> Live<T> {
        Live { value: Lock::new(value), changed: Event::new() }
    }

    /// The value in force.
    pub(crate) fn get(&self) -> Arc<T> {
        self.value.get()
    }

    /// Puts another value in force.
    pub(crate) fn set(&self, value: Arc<T>) {
        self.value.replace(value);
        self.changed.notify(usize::MAX);
    }

    /// Waits for the next replacement.
    pub(crate) async fn changed(&self) {
        self.changed.listen().await;
    }
}
