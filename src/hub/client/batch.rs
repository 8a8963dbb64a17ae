//! The answers of a batch, collected as one array (revision 2025-03-26).
//!
//! Knows where the answers come from and where they go, and not what was asked.

use std::sync::Arc;

use super::outbox::{Outbox, Places};
use crate::model::out::Out;
use crate::model::{envelope, handover, jsonrpc};
use crate::rt::task;
use crate::sys::lock::{Guard, Lock};

/// The batches of a session whose answers are being collected.
#[derive(Default)]
pub(crate) struct Batches(Lock<Vec<Arc<Collected>>>);

impl Batches {
    /// Collects the answers of a batch as one array for `reply`, which ends without one if there are none; what is no
    /// answer passes as it comes where the reply is `shared`, and is dropped elsewhere. Answers beyond `limit` bytes in
    /// all become errors.
    pub(crate) fn collect(self: &Arc<Self>, answers: Arc<Outbox>, reply: &Arc<Outbox>, shared: bool, limit: usize) {
        self.go_on(answers, String::new(), reply, shared, limit);
    }

    fn go_on(self: &Arc<Self>, answers: Arc<Outbox>, so_far: String, reply: &Arc<Outbox>, shared: bool, limit: usize) {
        let batch = Arc::new(Collected { answers, so_far: Lock::new(so_far), reply: reply.clone(), shared });
        self.0.lock().push(batch.clone());
        let all = self.clone();
        task::spawn(async move {
            batch.collect(limit).await;
            all.0.lock().retain(|b| !Arc::ptr_eq(b, &batch));
            batch.hand_over();
        });
    }

    /// All of them, for the next program.
    pub(crate) fn save(&self, places: &mut Places) -> Vec<handover::Batch> {
        self.0.get().iter().map(|b| b.save(places)).collect()
    }

    /// Goes on with one of the program before.
    pub(crate) fn restore(
        self: &Arc<Self>,
        saved: handover::Batch,
        outbox: &dyn Fn(usize) -> Arc<Outbox>,
        limit: usize,
    ) {
        self.go_on(outbox(saved.answers), saved.so_far, &outbox(saved.reply), saved.shared, limit);
    }
}

/// A batch whose answers are collected.
struct Collected {
    answers: Arc<Outbox>,
    /// What has come.
    so_far: Lock<String>,
    /// Where the array goes.
    reply: Arc<Outbox>,
    /// The reply carries everything else as well, and goes on after the array.
    shared: bool,
}

impl Collected {
    async fn collect(&self, limit: usize) {
        while let Some(out) = self.answers.next().await {
            if !out.answer {
                if self.shared {
                    self.reply.push(out);
                }
                continue;
            }
            let mut all = self.so_far();
            let before = if all.is_empty() { '[' } else { ',' };
            all.push(before);
            if all.len() + out.text.len() <= limit {
                all.push_str(&out.text);
            } else {
                let id = envelope::member(&out.text, "id");
                let why = "the answers of this batch are longer than limits.reply";
                all.push_str(&jsonrpc::error(id, jsonrpc::REFUSED, why));
            }
        }
    }

    fn hand_over(&self) {
        let all = self.so_far.take();
        if !all.is_empty() {
            self.reply.push(Out::answer(all + "]"));
        } else if !self.shared {
            self.reply.end();
        }
    }

    fn so_far(&self) -> Guard<'_, String> {
        self.so_far.lock()
    }

    fn save(&self, places: &mut Places) -> handover::Batch {
        handover::Batch {
            answers: places.of(&self.answers),
            so_far: self.so_far.get(),
            reply: places.of(&self.reply),
            shared: self.shared,
        }
    }
}
