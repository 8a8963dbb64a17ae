//! The end of things: a drain, and the stop of all servers, after which no child is left.

use std::sync::Arc;

use super::hub::Hub;
use super::leaving::Leaving;
use crate::model::status::ServerState;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::task;

impl Hub {
    /// No new requests from now on, and no streams that wait for nothing.
    pub(crate) fn begin_drain(&self) {
        self.ctx.drain();
        for server in self.servers_and_bridge() {
            server.core.members.end_subscriptions();
            for session in server.core.members.sessions() {
                match session.kind {
                    SessionKind::Lasting(Transport::Sse) => drop(task::spawn(session.end_stream_when_quiet())),
                    // Answers have streams of their own.
                    SessionKind::Lasting(Transport::Http) => drop(session.own_push().map(|stream| stream.end())),
                    _ => {}
                }
            }
        }
    }

    /// Fails whatever is still open, with an error that says why.
    pub(crate) fn fail_open(&self, why: &str) {
        for one in self.everything() {
            one.fail_open(why);
        }
    }

    /// Stops every server and waits until no child is left.
    pub(crate) async fn stop(&self) {
        let all = self.everything();
        for server in self.servers.all() {
            if server.backend().is_some_and(|b| b.condition().is_none()) {
                server.enter(ServerState::Stopped);
            }
        }
        // All are told first, so that they go down side by side.
        all.iter().for_each(|one| one.end());
        for one in all {
            one.done().await;
        }
    }

    /// What is on its way to its end, and the backends of all servers.
    fn everything(&self) -> Vec<Arc<dyn Leaving>> {
        let mut all = self.ctx.leaving.all();
        for backend in self.servers.all().iter().filter_map(|s| s.backend()) {
            all.push(backend);
        }
        all
    }
}
