//! Connections at rest, before an upgrade in place: what is left to do for each.
//!
//! Data alone. How they come to rest is in [`super::connection`], how they go on in [`super::late`].

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::hub::{Client, Outbox, Stream};
use crate::model::asked::Asked;
use crate::model::config::Admitted;
use crate::model::out::Out;
use crate::sys::lock::Lock;

/// The connections at rest.
#[derive(Default)]
pub(crate) struct Parked(Lock<Vec<ParkedConnection>>);

/// One of them.
pub(crate) struct ParkedConnection {
    pub fd: OwnedFd,
    pub is_unix: bool,
    /// Who asked last; None where there is no `auth`.
    pub who: Option<Arc<Admitted>>,
    /// Read already, and of the next request.
    pub early: Vec<u8>,
    pub how: How,
}

/// What is left of a connection.
pub(crate) enum How {
    Http(ParkedHttp),
    WebSocket {
        client: Client,
        outbox: Arc<Outbox>,
        /// Taken from the outbox and not yet sent.
        queue: VecDeque<Out>,
    },
}

impl Parked {
    pub(crate) fn put(&self, parked: ParkedConnection) {
        self.0.lock().push(parked);
    }

    /// Looks at all that are there.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[ParkedConnection]) -> T) -> T {
        look(&self.0.lock())
    }

    /// All that are there.
    pub(crate) fn take(&self) -> Vec<ParkedConnection> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// What was left to do.
#[derive(Default)]
pub(crate) struct Left {
    pub reply: Option<Parts>,
    /// Taken from the outbox and not yet sent.
    pub queue: VecDeque<Out>,
    pub head: String,
    pub stream: Option<(Arc<Stream>, u64)>,
}

/// The way back for an answer, taken apart.
pub(crate) struct Parts {
    pub client: Client,
    pub outbox: Arc<Outbox>,
    pub answered: bool,
    pub resumable: bool,
}

/// An HTTP connection that waits for the next program.
pub(crate) enum ParkedHttp {
    /// The next thing is a request.
    Idle,
    Waiting(Asked, Left),
    Streaming(Asked, Left),
}
