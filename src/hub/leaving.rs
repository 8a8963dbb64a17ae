//! What has to be over before the daemon ends: children, commands and questions that a reload has replaced, or that belong
//! to one session.
//!
//! Knows that things leave. Why they do, and how long they may take, is decided elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::rt::wait::Flag;
use crate::sys::lock::Lock;

/// A wait whose kind is not known.
pub(super) type Pending<'f> = Pin<Box<dyn Future<Output = ()> + Send + 'f>>;

/// Something that is on its way to its end, or will be.
pub(crate) trait Leaving: Send + Sync {
    /// Nothing of it is left.
    fn is_done(&self) -> bool {
        true
    }

    /// It goes down now.
    fn end(&self) {}

    /// Waits until nothing of it is left.
    fn done(&self) -> Pending<'_> {
        Box::pin(std::future::ready(()))
    }

    /// Answers whatever is open in it with an error that says why.
    fn fail_open(&self, _why: &str) {}

    /// It lasts as long as something that goes on over an upgrade, so an upgrade does not wait for it.
    fn is_kept_over_upgrade(&self) -> bool {
        false
    }
}

/// A task that sets a flag when it is over.
impl Leaving for Flag {
    fn is_done(&self) -> bool {
        self.is_set()
    }

    fn done(&self) -> Pending<'_> {
        Box::pin(self.wait())
    }
}

/// Everything that is on its way.
#[derive(Default)]
pub(crate) struct Leavers(Lock<Vec<Arc<dyn Leaving>>>);

impl Leavers {
    pub(crate) fn note(&self, one: Arc<dyn Leaving>) {
        let mut all = self.0.lock();
        all.retain(|one| !one.is_done());
        all.push(one);
    }

    /// All that are not done.
    pub(crate) fn all(&self) -> Vec<Arc<dyn Leaving>> {
        let mut all = self.0.lock();
        all.retain(|one| !one.is_done());
        all.clone()
    }

    /// Waits until nothing is on its way down that an upgrade would have to leave behind.
    pub(crate) async fn settled(&self) {
        while let Some(one) = self.all().into_iter().find(|one| !one.is_kept_over_upgrade()) {
            one.done().await;
        }
    }
}
