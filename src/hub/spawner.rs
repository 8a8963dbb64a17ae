//! The way from tasks to the main thread, which alone starts processes (see [`crate::sys::spawn::spawn`]).

use std::io;
use std::sync::mpsc;

use crate::model::exit::Exit;
use crate::sys::spawn::{Spec, Started};

/// What the main thread is asked to do.
pub enum Job {
    Spawn(Box<Spec>, async_channel::Sender<io::Result<Started>>),
    /// Answer: the thread is well.
    Echo(async_channel::Sender<()>),
    /// End the program.
    Exit(Exit),
}

/// A handle to the main thread.
#[derive(Clone)]
pub struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    pub fn new() -> (Spawner, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel();
        (Spawner(sender), jobs)
    }

    /// Starts a process.
    pub async fn spawn(&self, spec: Spec) -> io::Result<Started> {
        let gone = || io::Error::other("the daemon is ending");
        let (sender, receiver) = async_channel::bounded(1);
        self.0.send(Job::Spawn(Box::new(spec), sender)).map_err(|_| gone())?;
        receiver.recv().await.map_err(|_| gone())?
    }

    /// Waits for a sign of life of the main thread.
    pub async fn echo(&self) {
        let (sender, receiver) = async_channel::bounded(1);
        if self.0.send(Job::Echo(sender)).is_ok() {
            let _ = receiver.recv().await;
        }
    }

    pub fn exit(&self, exit: Exit) {
        let _ = self.0.send(Job::Exit(exit));
    }
}

/// The main thread's loop: serves jobs until it is told to end.
pub fn serve(jobs: &mpsc::Receiver<Job>) -> Exit {
    loop {
        match jobs.recv() {
            Ok(Job::Spawn(spec, answer)) => {
                let _ = answer.send_blocking(crate::sys::spawn::spawn(&spec));
            }
            Ok(Job::Echo(answer)) => {
                let _ = answer.send_blocking(());
            }
            Ok(Job::Exit(exit)) => return exit,
            Err(_) => return Exit::Software,
        }
    }
}
