//! Looks at the instance from time to time, and tells of what is worth an alert.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};

use super::state::Instance;
use crate::model::history::{Minute, Point};
use crate::model::status::{Alert, Level, Server, Status};
use crate::rt::blocking::blocking;
use crate::rt::wait::sleep;

/// How often it is looked at while there is something to see; otherwise it is once a minute.
const LOOK: Duration = Duration::from_secs(10);

impl Instance {
    /// Tells of alerts: the log, the command of `on_event`, and the status file.
    pub(super) fn announce_alerts(&self, alerts: &[Alert]) {
        for alert in alerts {
            let text = match alert.server {
                Some(_) => alert.to_string(),
                None => format!("{} {alert}", self.hub.ctx.config().name),
            };
            match alert.level {
                Level::Healthy => info!("{text}"),
                _ => warn!("{text}"),
            }
            self.hub.ctx.send_alert(alert);
        }
        if !alerts.is_empty() {
            self.hub.ctx.changed();
        }
    }

    /// Looks at the instance once a minute, and more often while requests come or something is wrong.
    pub(super) async fn observe(self: Arc<Self>) {
        let total = || self.hub.ctx.meters.sum(self.hub.ctx.seconds()).total();
        let mut before = total();
        while !self.hub.ctx.draining.is_set() {
            let up = self.hub.ctx.boot.at.elapsed();
            let next = Duration::from_secs((up.as_secs() / 60 + 1) * 60).saturating_sub(up) + Duration::from_millis(1);
            let seen = total();
            let busy = seen != before || self.monitor.is_troubled() || self.hub.ctx.load.in_flight() > 0;
            before = seen;
            sleep(if busy { next.min(LOOK) } else { next }).await;
            let me = self.clone();
            let status = blocking(move || me.status()).await;
            let over = self.hub.ctx.seconds() / 60;
            if over > 0 && self.monitor.last_minute().is_none_or(|last| last < over - 1) {
                self.monitor.note(self.minute(&status, over - 1));
                self.clone().watch_pid_file();
            }
        }
    }

    /// What there is to say of a minute: requests of that time, the rest as it is in `status`.
    pub(super) fn minute(&self, status: &Status, number: u64) -> Minute {
        let servers: BTreeMap<_, _> = self.hub.servers.all().into_iter().map(|s| (s.name().to_owned(), s)).collect();
        let point =
            |(requests, errors, p50, p95), memory, sessions| Point { requests, errors, p50, p95, memory, sessions };
        let one = |s: &Server| {
            let counted = servers.get(&s.name).map(|server| server.core.meters.minute(number)).unwrap_or_default();
            (s.name.clone(), point(counted, s.process.memory_bytes, s.sessions))
        };
        let children: u64 = status.servers.iter().map(|s| s.process.memory_bytes).sum();
        let memory = status.process.memory_bytes + children;
        Minute {
            number,
            all: point(self.hub.ctx.meters.minute(number), memory, status.sessions),
            servers: status.servers.iter().map(one).collect(),
        }
    }
}
