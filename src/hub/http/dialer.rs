//! Makes the line of a child to a server elsewhere.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use log::warn;

use crate::hub::child::far::{Dial, Elsewhere, Waited, Wires};
use crate::hub::context::Context;
use crate::hub::memory::{Kept, Memory};
use crate::model::budget::Holder;
use crate::model::config::server::{Line, Mcp};
use crate::remote::client::{self, Settings};
use crate::remote::inbox::Inbox;
use crate::remote::session::Saved;
use crate::remote::state::Session;
use crate::rt::pipe::{Input, Output};

/// Makes lines to a server elsewhere.
pub(crate) struct Dialer {
    ctx: Weak<Context>,
    server: Arc<str>,
}

/// The memory of the instance, for messages of one server.
struct Account {
    memory: Arc<Memory>,
    holder: Holder,
}

impl client::Memory for Account {
    fn begin(&self) -> Box<dyn client::Held> {
        Box::new(self.memory.begin(self.holder.clone()))
    }
}

impl client::Held for Kept {
    fn set(&mut self, bytes: usize) -> bool {
        Kept::set(self, bytes)
    }
}

impl Dialer {
    pub(crate) fn new(ctx: &Arc<Context>, server: &Arc<str>) -> Dialer {
        Dialer { ctx: Arc::downgrade(ctx), server: server.clone() }
    }
}

impl Dial for Dialer {
    fn dial(&self, config: &Mcp, saved: Option<&str>) -> Option<Wires> {
        let Line::Http(http) = &config.line else { return None };
        let ctx = self.ctx.upgrade()?;
        let settings = Settings {
            url: http.url.clone(),
            headers: http.headers.clone(),
            ca: http.ca.clone(),
            connections: http.connections as usize,
            memory: Arc::new(Account { memory: ctx.memory.clone(), holder: Holder::Server(self.server.clone()) }),
            credentials: "'headers'",
            // Who supervises the session begins another one.
            patience: Duration::ZERO,
            silence: None,
            longest: ctx.config().limits.reply.bytes(),
        };
        let saved = saved.and_then(|text| {
            serde_json::from_str::<Saved>(text)
                .inspect_err(|e| warn!("{}: the session with it is lost: {e}", http.url))
                .ok()
        });
        let session = Session::new(settings, saved);
        Some(Wires {
            to: Box::new(Down { session: session.clone() }),
            from: Box::new(Up(session.inbox.clone())),
            far: Arc::new(Far(session)),
        })
    }
}

/// The end that is written.
struct Down {
    session: Arc<Session>,
}

impl Drop for Down {
    fn drop(&mut self) {
        self.session.hang_up();
    }
}

impl Output for Down {
    fn poll_write(&self, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.session.poll_room(cx));
        self.session.send_lines(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

/// The end that is read.
struct Up(Arc<Inbox>);

impl Input for Up {
    fn poll_read(&self, cx: &mut TaskContext<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buffer).map(Ok)
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

/// The session as the far end of a line.
struct Far(Arc<Session>);

impl Elsewhere for Far {
    fn over(&self) -> Waited<'_, Option<String>> {
        Box::pin(self.0.over())
    }

    fn cut(&self) {
        self.0.cut();
    }

    fn under_way(&self) -> usize {
        self.0.under_way()
    }

    fn rested(&self) -> Waited<'_, ()> {
        Box::pin(self.0.rested())
    }

    fn save(&self) -> String {
        serde_json::to_string(&self.0.save()).unwrap_or_default()
    }
}
