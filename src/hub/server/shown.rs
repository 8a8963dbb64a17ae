//! The names of a server's tools, for the page. The server is asked for them when the page is shown, and at no other time.
//! This module must not know what a server is: who calls it brings the question.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::error::Error;
use crate::rt::task;
use crate::rt::wait::timeout;
use crate::sys::lock::Lock;

/// How long what was said counts.
const FRESH: Duration = Duration::from_secs(60);
/// How long a server has to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server has said last.
#[derive(Default)]
pub(crate) struct ShownTools {
    names: Lock<Option<Arc<Vec<String>>>>,
    asked: Lock<Option<Instant>>,
}

impl ShownTools {
    /// What was said last, None before that. Where it is older than [`FRESH`], the server is asked anew, for who looks next.
    pub(crate) fn look<F>(self: &Arc<Self>, ask: F) -> Option<Arc<Vec<String>>>
    where
        F: Future<Output = Result<Vec<String>, Error>> + Send + 'static,
    {
        let mut asked = self.asked.lock();
        if asked.is_none_or(|at| at.elapsed() > FRESH) {
            *asked = Some(Instant::now());
            let me = self.clone();
            task::spawn(async move {
                match timeout(PATIENCE, ask).await {
                    Some(Ok(names)) => drop(me.names.replace(Some(Arc::new(names)))),
                    // It is not there, and is asked again. One that is there and does not answer is left in peace.
                    Some(Err(_)) => *me.asked.lock() = None,
                    None => {}
                }
            });
        }
        self.names.get()
    }
}
