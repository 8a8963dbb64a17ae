//! The end of things: what a reload has replaced or removed goes on until it has finished, and the daemon ends only after
//! all of it.
//!
//! Knows who has to be waited for. Why something goes, and how long a drain may take, is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use super::exclusive::{Exclusive, Nest};
use super::exec::Executor;
use super::link::Link;
use super::server::{Children, Engine};
use super::supervisor::Supervisor;
use crate::model::status::ServerState;
use crate::rt::wait::{Flag, within};

/// Beyond its own grace time, how long an executor may take to end its commands.
const EXECUTOR_GRACE: Duration = Duration::from_secs(10);

/// What has to be over before the daemon ends, and is not among the servers' children: what a reload replaced or removed,
/// while it still has requests to finish, and what belongs to one session or to one question.
pub enum Retiring {
    Child(Arc<Supervisor>, Option<Arc<Link>>),
    Executor(Arc<Executor>),
    /// The child of one session; in this list from its start on.
    Exclusive(Arc<Exclusive>),
    /// Spares that go down, or a server that is being asked something.
    Task(Arc<Flag>),
}

impl Retiring {
    fn is_done(&self) -> bool {
        match self {
            Retiring::Child(supervisor, _) => supervisor.is_done(),
            Retiring::Executor(exec) => exec.is_idle(),
            Retiring::Exclusive(own) => own.is_done(),
            Retiring::Task(closed) => closed.is_set(),
        }
    }
}

impl Hub {
    /// Retires supervisors whose children may have requests to finish; they stay in reach until that is done.
    pub(super) fn retire(&self, children: &Children) {
        for slot in children.all() {
            slot.supervisor.retire();
            self.note_retiring(Retiring::Child(slot.supervisor.clone(), slot.any_link()));
        }
        if let Some(nest) = &children.nest {
            self.note_retiring(Retiring::Task(close(nest)));
        }
    }

    /// Lets an executor finish its commands within the drain time, then ends them.
    pub(super) fn retire_executor(&self, exec: Arc<Executor>) {
        let limit = self.config().drain_timeout;
        self.note_retiring(Retiring::Executor(exec.clone()));
        async_std::task::spawn(async move {
            if within(limit, exec.idle()).await.is_none() {
                exec.stop_all();
            }
        });
    }

    fn note_retiring(&self, one: Retiring) {
        let mut retiring = self.retiring.lock();
        retiring.retain(|one| !one.is_done());
        retiring.push(one);
    }

    /// Something that has to be over before the daemon ends.
    pub(super) fn note_task(&self, done: &Arc<Flag>) {
        self.note_retiring(Retiring::Task(done.clone()));
    }

    /// The child of a session, from its start on.
    pub(super) fn note_exclusive(&self, own: &Arc<Exclusive>) {
        self.note_retiring(Retiring::Exclusive(own.clone()));
    }

    /// Notes a child.
    pub(super) fn note_link(&self, link: &Arc<Link>) {
        let mut links = self.links.lock();
        links.retain(|l| l.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    /// Nothing is on its way down.
    pub fn is_settled(&self) -> bool {
        let mut retiring = self.retiring.lock();
        retiring.retain(|one| !one.is_done());
        retiring.iter().all(|one| matches!(one, Retiring::Exclusive(_)))
    }

    /// The children that are being retired.
    pub fn retiring_links(&self) -> Vec<Arc<Link>> {
        let retiring = self.retiring.lock();
        let link = |one: &Retiring| match one {
            Retiring::Child(_, link) => link.clone(),
            Retiring::Exclusive(own) => own.any_link(),
            Retiring::Executor(_) | Retiring::Task(_) => None,
        };
        retiring.iter().filter_map(link).collect()
    }

    /// The executors that are being retired.
    pub fn retiring_executors(&self) -> Vec<Arc<Executor>> {
        let retiring = self.retiring.lock();
        let executor = |one: &Retiring| match one {
            Retiring::Executor(exec) => Some(exec.clone()),
            _ => None,
        };
        retiring.iter().filter_map(executor).collect()
    }

    /// Fails whatever is still open, with an error that says why.
    pub fn fail_open(&self, why: &str) {
        for link in self.retiring_links() {
            link.fail_all(crate::model::jsonrpc::REFUSED, why);
        }
        for exec in self.retiring_executors() {
            exec.stop_all();
        }
        for server in self.servers() {
            match server.engine() {
                Engine::Children(children) => {
                    children.links().iter().for_each(|link| link.fail_all(crate::model::jsonrpc::REFUSED, why));
                }
                Engine::Exec(exec) => exec.stop_all(),
                Engine::Bridge(_) | Engine::None => {}
            }
        }
    }

    /// Stops every server and waits until no child is left.
    pub async fn stop(&self) {
        let mut all = std::mem::take(&mut *self.retiring.lock());
        for server in self.servers() {
            match server.engine() {
                Engine::Children(children) => {
                    all.extend(children.all().iter().map(|s| Retiring::Child(s.supervisor.clone(), s.any_link())));
                    all.extend(children.nest.as_ref().map(|nest| Retiring::Task(close(nest))));
                }
                Engine::Exec(exec) => {
                    all.push(Retiring::Executor(exec));
                    server.enter(ServerState::Stopped);
                }
                Engine::Bridge(_) | Engine::None => {}
            }
        }
        // All are told first, so that they go down side by side.
        for one in &all {
            match one {
                Retiring::Child(supervisor, _) => supervisor.retire(),
                Retiring::Executor(exec) => exec.stop_all(),
                Retiring::Exclusive(own) => own.end(),
                Retiring::Task(_) => {}
            }
        }
        for one in all {
            match one {
                Retiring::Child(supervisor, _) => supervisor.done().await,
                Retiring::Exclusive(own) => own.done().await,
                Retiring::Task(closed) => closed.wait().await,
                Retiring::Executor(exec) => drop(within(exec.grace() + EXECUTOR_GRACE, exec.idle()).await),
            }
        }
    }
}

/// Closes a nest in the background; the flag says when.
fn close(nest: &Arc<Nest>) -> Arc<Flag> {
    let (nest, closed) = (nest.clone(), Arc::new(Flag::default()));
    let done = closed.clone();
    async_std::task::spawn(async move {
        nest.close().await;
        done.set();
    });
    closed
}
