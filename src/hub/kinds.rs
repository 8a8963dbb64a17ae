//! The kinds of server: a line for each.

use std::sync::Arc;

use super::child::far::Dial;
use super::exec::executor::Executor;
use super::http::dialer::Dialer;
use super::private::backend::PerSession;
use super::private::spares::Limits;
use super::server::backend::Backend;
use super::server::core::Core;
use super::shared::children::Shared;
use crate::model::config::Kind;
use crate::model::config::server::{Line, Mcp, Sharing};

/// Makes what a server is made of; None for the bridge, which is made with the hub and is no entry of `servers`.
pub(super) type MakeBackend = fn(&Arc<Core>, &Kind) -> Option<Arc<dyn Backend>>;

/// What a server of this kind is made of.
pub(super) fn backend(core: &Arc<Core>, kind: &Kind) -> Option<Arc<dyn Backend>> {
    match kind {
        Kind::Mcp(config) => Some(mcp(core, config)),
        Kind::Exec(config) => Some(Executor::new(core, (**config).clone())),
        Kind::Bridge(_) => None,
    }
}

/// Children are shared by all sessions; where each session has one of its own, they serve what sessions share all the same.
fn mcp(core: &Arc<Core>, config: &Mcp) -> Arc<dyn Backend> {
    let dial = match config.line {
        Line::Stdio(_) => None,
        Line::Http(_) => Some(Arc::new(Dialer::new(&core.ctx, &core.name)) as Arc<dyn Dial>),
    };
    let shared = Shared::new(core, config, dial.clone());
    match config.sharing {
        Sharing::PerSession { max, idle, spare } => {
            let limits = Limits { max, idle, spare: spare as usize };
            PerSession::new(core, config, limits, shared, dial)
        }
        Sharing::Shared | Sharing::Pool(_) => shared,
    }
}
