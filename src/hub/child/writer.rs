//! The task that writes what is queued for a child to its standard input.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use log::debug;

use super::child::Child;
use crate::rt::pipe::{self, Output};

/// Writes until the queue is closed or the child does not take more, or until everything comes to rest. `buffer` is what
/// was taken from the queue before.
pub(crate) async fn write(child: Arc<Child>, pipe: Box<dyn Output>, mut buffer: Vec<u8>) {
    let (mut quiesce, mut wide) = (child.ctx.quiesce.watch(), false);
    loop {
        let mut at = 0;
        while at < buffer.len() {
            match quiesce.unless_on(pipe::write(&*pipe, &buffer[at..])).await {
                Some(Ok(n)) if n > 0 => {
                    at += n;
                    child.written.fetch_add(n as u64, Relaxed);
                    // What is longer than the pipe takes a turn of both sides for each piece.
                    if at < buffer.len() && !std::mem::replace(&mut wide, true) {
                        pipe.widen();
                    }
                }
                Some(outcome) => {
                    debug!("server '{}': its input is closed: {outcome:?}", child.server);
                    child.stdin.close();
                    child.stdin_closed.set();
                    return;
                }
                None => return child.hand_in(|parked| parked.stdin = Some((pipe, buffer.split_off(at)))),
            }
        }
        match quiesce.unless_on(child.stdin.take(&mut buffer)).await {
            Some(true) => {}
            Some(false) => return,
            None => return child.hand_in(|parked| parked.stdin = Some((pipe, Vec::new()))),
        }
    }
}
