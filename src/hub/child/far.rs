//! What is at the other end of a child's line: a process, or something that is no process of ours.
//!
//! It must not know how what is elsewhere is reached: that is for who dials.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use nix::unistd::Pid;

use crate::model::config::server::Mcp;
use crate::rt::pipe::{Input, Output};

/// What is at the other end of a child's line.
pub(crate) enum Far {
    Process {
        pid: Pid,
        /// The value of the environment variable that marks it and all it starts.
        mark: String,
    },
    Elsewhere(Arc<dyn Elsewhere>),
}

/// What has to be waited for.
pub(crate) type Waited<'e, T> = Pin<Box<dyn Future<Output = T> + Send + 'e>>;

/// The far end of a line that leads to no process of ours.
pub(crate) trait Elsewhere: Send + Sync {
    /// Waits for the end of the line: why it is lost, or None where it was closed from here.
    fn over(&self) -> Waited<'_, Option<String>>;

    /// Gives up what is under way, and ends the line.
    fn cut(&self);

    /// How many requests are under way.
    fn under_way(&self) -> usize;

    /// Waits until none is.
    fn rested(&self) -> Waited<'_, ()>;

    /// What another process needs to go on with it.
    fn save(&self) -> String;
}

/// A line to what is elsewhere.
pub(crate) struct Wires {
    pub to: Box<dyn Output>,
    pub from: Box<dyn Input>,
    pub far: Arc<dyn Elsewhere>,
}

/// Makes lines to what is elsewhere.
pub(crate) trait Dial: Send + Sync {
    /// A new line, or one that another process has `saved`. Nothing is sent on it by that.
    /// None for what is no server elsewhere.
    fn dial(&self, config: &Mcp, saved: Option<&str>) -> Option<Wires>;
}
