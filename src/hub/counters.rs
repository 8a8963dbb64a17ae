//! Counts of what was refused, cut or dropped, each with the name that the status document gives it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Something that was not passed on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Dropped { $($(#[$doc])* $variant,)* }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Events beyond what waits for its turn at `on_event`.
    Events = "events",
    /// Lines on a child's standard output that are no message.
    Garbage = "garbage_lines",
    /// Lines of a child longer than `limits.reply`.
    LongLines = "long_lines",
    /// Replies of a child to nothing that is being waited for: late, or never asked for.
    UnownedReplies = "unowned_replies",
    /// Notifications of a shared child that belong to no session in particular.
    UnownedNotifications = "unowned_notifications",
    /// Requests of a shared child to "the client".
    RefusedServerRequests = "refused_server_requests",
    /// Lines of standard error beyond what a log can take.
    StderrLines = "stderr_lines",
    /// Clients that did not read what was sent to them.
    SlowClients = "slow_clients",
    /// Connections beyond `limits.connections`.
    Connections = "connections",
    /// Sessions beyond `limits.sessions`.
    Sessions = "sessions",
    /// Requests beyond `limits.in_flight`.
    InFlight = "in_flight",
    /// Messages longer than `limits.message`.
    LongMessages = "long_messages",
    /// Commands beyond what an executor may run at a time.
    Commands = "commands",
    /// What was refused or cut because there is no memory for it (`limits.memory`).
    Memory = "memory",
    /// Requests of a client that is not known.
    Unauthorized = "unauthorized",
    /// Requests with a foreign `Origin` or `Host`.
    ForeignOrigin = "foreign_origin",
    /// Requests that a child did not answer in time.
    Timeouts = "timeouts",
    /// Requests refused because a child does not read its input.
    ChildBusy = "child_queue_full",
    /// Requests refused because too much waits for a child that is being started.
    Waiting = "waiting_for_child",
    /// Lines of the audit record that could not be written.
    AuditLines = "audit_lines",
    /// Failures to accept a connection, such as no descriptors being left.
    Accept = "accept_failures",
}

/// One count each.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    pub(crate) fn count(&self, what: Dropped) {
        self.0[what as usize].fetch_add(1, Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn get(&self, what: Dropped) -> u64 {
        self.0[what as usize].load(Relaxed)
    }

    /// Goes on from what another program has counted.
    pub(crate) fn load(&self, saved: &BTreeMap<String, u64>) {
        for (name, count) in NAMES.iter().zip(&self.0) {
            count.store(saved.get(*name).copied().unwrap_or(0), Relaxed);
        }
    }

    /// All of them, by name.
    pub(crate) fn read(&self) -> BTreeMap<String, u64> {
        NAMES.iter().zip(&self.0).map(|(name, n)| ((*name).to_owned(), n.load(Relaxed))).collect()
    }
}
