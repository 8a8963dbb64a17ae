//! What the instance wants of a connection: to go on, to end, or to come to rest for an upgrade.
//!
//! One listener for each connection, however many reasons there are. It must not know how a connection is served.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::time::Duration;

use super::connection::Connection;
use crate::rt::timer::Timer;
use crate::rt::wait::Watch;

/// Once the time of a drain is over, the errors that end what is still open have so long to be sent.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Follows what the instance wants of a connection.
pub(super) struct Wishes<'c> {
    connection: &'c Connection,
    turns: Watch<'c>,
    /// The configuration by which its principal was last looked at.
    revision: u64,
    last_words: Option<Timer>,
}

/// What is wanted at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// What is in flight is to be finished, and nothing new to be begun.
    pub drain: bool,
    /// It is to come to rest, to go on in another process.
    pub rest: bool,
    /// It has not come to rest in time: it is to end with a word, where it can.
    pub straggles: bool,
    /// Who asked last may not connect any more.
    pub revoked: bool,
    /// The drain is over.
    pub over: bool,
}

impl<'c> Wishes<'c> {
    pub(super) fn of(connection: &'c Connection) -> Wishes<'c> {
        let ctx = &connection.front.hub.ctx;
        Wishes { connection, turns: ctx.quiesce.watch(), revision: ctx.revision(), last_words: None }
    }

    /// What is wanted now; the task is woken when that changes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Wish {
        let ctx = &self.connection.front.hub.ctx;
        let rest = self.turns.poll(cx);
        let changed = std::mem::replace(&mut self.revision, ctx.revision()) != self.revision;
        let over = ctx.end_drain.is_set() && {
            let timer = self.last_words.get_or_insert_with(|| Timer::after(LAST_WORDS));
            Pin::new(timer).poll(cx).is_ready()
        };
        Wish {
            drain: ctx.draining.is_set(),
            rest,
            straggles: ctx.stragglers.load(Relaxed),
            revoked: changed && !self.connection.is_admitted(),
            over,
        }
    }
}
