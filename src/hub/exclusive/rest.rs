//! The child of a session on its way from one program to the next.

use std::sync::Arc;

use super::{Exclusive, Nest, State};
use crate::hub::handover::{Restored, Saver};
use crate::hub::link::Link;
use crate::hub::session::Session;
use crate::model::handover;

impl Exclusive {
    /// Everything of it.
    pub fn save(&self, saver: &mut Saver) -> handover::Own {
        let state = self.state();
        handover::Own {
            child: state.link.as_ref().and_then(|l| l.save(saver)),
            hello: state.hello.clone(),
            initialized: state.initialized,
            level: state.level.clone(),
            asked: state.asked.iter().cloned().collect(),
        }
    }

    /// Goes on with it in the next program; a child that is not there any more is replaced.
    pub fn restore(
        session: &Arc<Session>,
        nest: &Arc<Nest>,
        saved: handover::Own,
        restored: &Restored,
    ) -> Arc<Exclusive> {
        let owner = Arc::downgrade(session);
        let link = saved.child.and_then(|c| Link::restore(&session.server, nest.config(), c, restored, Some(owner)));
        let state = State {
            begins: false,
            link: link.clone(),
            failed: None,
            hello: saved.hello,
            initialized: saved.initialized,
            level: saved.level,
            asked: if link.is_some() { saved.asked.into_iter().collect() } else { Default::default() },
        };
        let again = state.hello.is_some();
        Exclusive::begin(session, nest, state, again)
    }
}
