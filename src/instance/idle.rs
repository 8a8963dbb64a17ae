//! `idle_exit`: an instance that nobody is connected to ends, as if it had been told to.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_lite::FutureExt;
use log::info;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::state::Instance;
use crate::model::text::duration;
use crate::rt::wait::sleep;

/// Where `idle_exit` is not set, it is looked again after a reload.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Instance {
    /// Ends the instance once nobody has been connected, and no request was open, for as long as the configuration says.
    pub(super) async fn end_when_idle(self: Arc<Self>) {
        let ctx = &self.hub.ctx;
        // A second more, because a second that has begun is counted.
        ctx.left_at.store(ctx.seconds() + 1, SeqCst);
        loop {
            let reloaded = self.reloaded.listen();
            let limit = ctx.config().idle_exit;
            let idle = Duration::from_secs(ctx.seconds().saturating_sub(ctx.left_at.load(SeqCst)));
            let in_use = ctx.connections.load(SeqCst) > 0 || ctx.load.in_flight() > 0;
            if in_use {
                ctx.left_at.store(ctx.seconds() + 1, SeqCst);
            }
            let left = match (limit.is_zero(), in_use) {
                (true, _) => NEVER,
                // Whoever leaves next leaves later than now.
                (false, true) => limit,
                (false, false) if idle < limit => limit - idle,
                (false, false) => break,
            };
            sleep(left).or(reloaded).await;
        }
        info!("stopping: nobody was connected for {} (idle_exit)", duration(ctx.config().idle_exit));
        let _ = kill(Pid::this(), Signal::SIGTERM);
    }
}
