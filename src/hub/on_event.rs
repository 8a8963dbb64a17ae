//! The command of `on_event`, which tells an administrator what has happened.
//!
//! The command is run for one event after the other, with a limit of time and of what waits; nothing ever waits for it.

use std::sync::Arc;

use super::command::{Run, run as run_one};
use super::context::Context;
use crate::model::config::{Command, Confine, Environment};
use crate::model::event::Event;

/// Runs the command for each event, for as long as the daemon lives.
pub(crate) async fn run(ctx: Arc<Context>) {
    while let Some(event) = ctx.next_event().await {
        if let Some(command) = ctx.config().on_event.clone() {
            run_command(&ctx, &command, &event).await;
        }
    }
}

async fn run_command(ctx: &Context, command: &Command, event: &Event) {
    let more = [
        ("MCP_EVENT", Some(event.event.to_owned())),
        ("MCP_INSTANCE", Some(event.instance.clone())),
        ("MCP_SERVER", event.server.clone()),
    ];
    let what = Run {
        label: "on_event",
        reason: event.event,
        command,
        environment: &Environment::default(),
        more: more.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        confine: &Confine::default(),
        input: serde_json::to_string(event).unwrap_or_default() + "\n",
    };
    run_one(ctx, what).await;
}
