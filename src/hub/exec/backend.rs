//! The executor as what a server is made of.

use std::sync::Arc;

use super::direct::connected;
use super::executor::Executor;
use crate::hub::client::call::Call;
use crate::hub::client::endpoint::ListAnswer;
use crate::hub::client::outbox::Outbox;
use crate::hub::client::restored::Restored;
use crate::hub::client::saved::Saver;
use crate::hub::client::session::Session;
use crate::hub::leaving::{Leaving, Pending};
use crate::hub::server::admit::{NO_TASKS, is_task};
use crate::hub::server::backend::{Backend, TakePlace};
use crate::hub::server::server::translate;
use crate::model::bridge::{List, read_page};
use crate::model::config::{self, Kind};
use crate::model::envelope::Envelope;
use crate::model::mcp::ServerInfo;
use crate::model::modern::Era;
use crate::model::{handover, jsonrpc};

impl Leaving for Executor {
    fn is_done(&self) -> bool {
        self.retired.is_set() && self.is_idle()
    }

    fn end(&self) {
        self.stop_all();
    }

    fn done(&self) -> Pending<'_> {
        Box::pin(self.idle())
    }

    fn fail_open(&self, _why: &str) {
        self.stop_all();
    }
}

impl Backend for Executor {
    fn run(&self, _again: bool) {
        if self.warned.set() {
            self.warn();
        }
    }

    fn replaced(&self) {
        self.finish();
    }

    fn retire(&self) {
        self.finish();
    }

    fn adjust(&self, config: &config::Server) {
        if let Kind::Exec(exec) = &config.kind {
            self.set_config((**exec).clone());
            self.warn();
        }
    }

    fn info(&self) -> Option<ServerInfo> {
        Some(self.server_info())
    }

    fn pids(&self) -> Vec<i32> {
        self.command_pids()
    }

    fn session_limit(&self) -> Option<u32> {
        Some(self.config().sessions)
    }

    fn full(&self, sessions: usize, _private: bool) -> Option<u32> {
        self.session_limit().filter(|limit| sessions >= *limit as usize)
    }

    fn counts_parts(&self) -> bool {
        true
    }

    fn request(&self, call: Call, e: &Envelope<'_>, era: Era) -> Option<Call> {
        if era == Era::Legacy {
            self.answer(call, e);
            return None;
        }
        if is_task(e) {
            call.error(jsonrpc::METHOD_NOT_FOUND, NO_TASKS);
            return None;
        }
        let info = self.server_info();
        let named = Some(info.server_info.as_str().into());
        if let Some(call) = translate(call, e, Some(&info), named) {
            self.answer(call, e);
        }
        None
    }

    fn cancel(&self, wanted: &dyn Fn(&Call) -> bool, _why: &str) -> Vec<Call> {
        self.cancel_where(wanted)
    }

    fn abandon(&self, reply: &Arc<Outbox>) {
        self.cancel_where(|call| Arc::ptr_eq(&call.reply, reply)).into_iter().for_each(Call::withdraw);
    }

    fn leave(&self, session: &Session) {
        self.end_commands_of(session);
    }

    fn list<'a>(&'a self, _session: &'a Arc<Session>, list: List, _patient: bool) -> ListAnswer<'a> {
        Box::pin(async move {
            let page = read_page(list, &self.tools()).filter(|_| list == List::Tools);
            Ok(page.map(|(items, _)| Arc::new(items)).unwrap_or_default())
        })
    }

    fn greeting(&self) -> Option<String> {
        Some(connected())
    }

    fn beside(&self, session: &Arc<Session>, e: &Envelope<'_>, reply: &Arc<Outbox>, place: &TakePlace<'_>) {
        self.answer_beside(session, e, reply, place);
    }

    fn runs_for(&self, session: &Session) -> bool {
        Executor::runs_for(self, session)
    }

    fn answers_to(&self, reply: &Arc<Outbox>) -> bool {
        Executor::answers_to(self, reply)
    }

    fn save(&self, saver: &mut Saver, into: &mut handover::Server) {
        into.commands = self.save_commands(saver);
    }

    fn restore(&self, saved: handover::Server, restored: &Restored) {
        // The program before has said it.
        self.warned.set();
        self.restore_commands(saved.commands, restored);
    }
}
