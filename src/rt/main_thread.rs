//! The way from tasks to the main thread, which alone starts processes (see [`crate::sys::spawn::spawn`]).

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::mpsc;

use crate::model::exit::Exit;
use crate::sys::reexec::{self, Program};
use crate::sys::signals;
use crate::sys::spawn::{Spec, Started};

/// What the main thread is asked to do.
pub(crate) enum Job {
    Spawn(Box<Spec>, async_channel::Sender<io::Result<Started>>),
    /// Answer: the thread is well.
    Echo(async_channel::Sender<()>),
    /// Let signals wait from now on, or no longer.
    Hold(bool, mpsc::Sender<()>),
    /// Go on as another program; the answer comes only if that fails.
    Replace(Box<(Program, OwnedFd, Vec<RawFd>)>, mpsc::Sender<io::Error>),
    /// End the program.
    Exit(Exit),
}

/// A handle to the main thread.
#[derive(Clone)]
pub(crate) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    pub(crate) fn new() -> (Spawner, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel();
        (Spawner(sender), jobs)
    }

    /// Starts a process.
    pub(crate) async fn spawn(&self, spec: Spec) -> io::Result<Started> {
        let gone = || io::Error::other("the daemon is ending");
        let (sender, receiver) = async_channel::bounded(1);
        self.0.send(Job::Spawn(Box::new(spec), sender)).map_err(|_| gone())?;
        receiver.recv().await.map_err(|_| gone())?
    }

    /// Lets the signals of the daemon wait for the next program. They are released where [`Spawner::replace`] fails.
    pub(crate) fn hold_signals(&self) {
        self.hold(true);
    }

    /// They are followed again.
    pub(crate) fn release_signals(&self) {
        self.hold(false);
    }

    fn hold(&self, wait: bool) {
        let (sender, receiver) = mpsc::channel();
        if self.0.send(Job::Hold(wait, sender)).is_ok() {
            let _ = receiver.recv();
        }
    }

    /// Goes on as another program with a document and some descriptors. Everything else stands still meanwhile: it
    /// returns, without a pause in between, only if it failed.
    pub(crate) fn replace(&self, program: Program, document: OwnedFd, keep: Vec<RawFd>) -> io::Error {
        let (sender, receiver) = mpsc::channel();
        let gone = |_| io::Error::other("the daemon is ending");
        match self.0.send(Job::Replace(Box::new((program, document, keep)), sender)) {
            Ok(()) => receiver.recv().unwrap_or_else(|e| gone(e.to_string())),
            Err(e) => gone(e.to_string()),
        }
    }

    /// Waits for a sign of life of the main thread.
    pub(crate) async fn echo(&self) {
        let (sender, receiver) = async_channel::bounded(1);
        if self.0.send(Job::Echo(sender)).is_ok() {
            let _ = receiver.recv().await;
        }
    }

    pub(crate) fn exit(&self, exit: Exit) {
        let _ = self.0.send(Job::Exit(exit));
    }
}

/// The main thread's loop: serves jobs until it is told to end.
pub(crate) fn serve(jobs: &mpsc::Receiver<Job>) -> Exit {
    loop {
        match jobs.recv() {
            Ok(Job::Spawn(spec, answer)) => {
                let _ = answer.send_blocking(crate::sys::spawn::spawn(&spec));
            }
            Ok(Job::Echo(answer)) => {
                let _ = answer.send_blocking(());
            }
            Ok(Job::Hold(wait, answer)) => {
                signals::hold(wait);
                let _ = answer.send(());
            }
            Ok(Job::Replace(job, answer)) => {
                let (program, document, keep) = *job;
                let failure = reexec::replace(&program, &document, &keep);
                signals::hold(false);
                let _ = answer.send(failure);
            }
            Ok(Job::Exit(exit)) => return exit,
            Err(_) => return Exit::Software,
        }
    }
}
