//! Starting a child: its process, its surroundings, and the opening of an era with it.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use log::debug;

use super::link::Link;
use super::server::Server;
use super::slot::Wish;
use crate::model::config::Mode;
use crate::model::config::server::Stdio;
use crate::model::restart::Ended;
use crate::model::text::duration;
use crate::rt::process::environment;
use crate::rt::wait::{Flag, within};
use crate::sys::spawn::{Spec, end_unwatched};

/// How long a server may take to answer `server/discover` before it counts as one of the legacy era.
const PROBE: Duration = Duration::from_secs(10);

/// A child that did not become ready.
#[derive(Debug)]
pub struct StartFailure {
    pub how: Ended,
    pub text: String,
    /// It answered the handshake, with an error.
    pub refused: bool,
}

/// Starts a child and says nothing to it. What fails leaves nothing behind.
pub async fn spawn(server: &Arc<Server>, config: &Arc<Stdio>, umask: Mode) -> Result<Arc<Link>, StartFailure> {
    let fail = |text: String| Err(StartFailure { how: Ended::NotReady, text, refused: false });
    let mark = server.hub.next_mark();
    let spec = Spec {
        program: config.program.clone(),
        args: config.args.clone(),
        env: environment(&config.pass_env, config.env.iter(), config.confine.account.as_ref(), &mark),
        cwd: config.cwd.clone(),
        stdin: true,
        umask: umask.0,
        nofile: server.hub.boot.nofile,
        confine: config.confine.clone(),
    };
    let started = match server.hub.boot.spawner.spawn(spec).await {
        Ok(started) => started,
        Err(e) => {
            let why = match &config.cwd {
                Some(cwd) if !cwd.is_dir() => format!("there is no folder {}", cwd.display()),
                _ => crate::model::exit::plain(&e),
            };
            return fail(format!("cannot start {}: {why}", config.program.display()));
        }
    };
    debug!("server '{}': started pid {}", server.name, started.pid);
    let pid = started.pid;
    match Link::new(server, config.clone(), started, mark) {
        Ok(link) => Ok(link),
        Err(e) => {
            end_unwatched(pid);
            fail(format!("cannot talk with its pipes: {}", crate::model::exit::plain(&e)))
        }
    }
}

/// Starts a child and waits for its answer to the opening of an era; what fails leaves nothing behind. A start that is
/// `unwanted` meanwhile fails as well, in the same order.
pub async fn start(
    server: &Arc<Server>,
    config: Arc<Stdio>,
    umask: Mode,
    wish: Wish,
    unwanted: Option<&Flag>,
) -> Result<Arc<Link>, StartFailure> {
    let link = spawn(server, &config, umask).await?;
    match open(server, link, &config, wish, unwanted).await {
        Err(failure) if failure.refused && wish == Wish::Any => {
            // It answered, and would not: perhaps it speaks the modern era alone. In a process of its own, because the
            // refused handshake may have left a mark.
            debug!("server '{}': {}; it is asked for the modern era", server.name, failure.text);
            let link = spawn(server, &config, umask).await?;
            open(server, link, &config, Wish::Modern, unwanted).await.map_err(|_| failure)
        }
        outcome => outcome,
    }
}

/// The opening of an era with a child that was started; what fails leaves nothing behind.
pub async fn open(
    server: &Arc<Server>,
    link: Arc<Link>,
    config: &Stdio,
    wish: Wish,
    unwanted: Option<&Flag>,
) -> Result<Arc<Link>, StartFailure> {
    let fail = |how, text: String| Err(StartFailure { how, text, refused: false });
    let tail = |link: &Link| match link.tail().as_slice() {
        [] => "; it wrote nothing to standard error".to_owned(),
        lines => format!("; its last words:\n    {}", lines.join("\n    ")),
    };
    let unwanted_now = || unwanted.is_some_and(Flag::is_set);
    let unwanted = async {
        match unwanted {
            Some(flag) => flag.wait().await,
            None => std::future::pending().await,
        }
        Some(Err("it is not wanted any more".to_owned()))
    };
    let opening = async {
        match wish {
            Wish::Any => link.handshake().await,
            Wish::Modern => match link.discover().await? {
                true => Ok(()),
                false => Err("it does not speak the modern era".to_owned()),
            },
        }
    };
    let (method, limit) = match wish {
        Wish::Any => ("initialize", config.start_timeout),
        // Some servers say nothing at all to what they do not know.
        Wish::Modern => ("server/discover", config.start_timeout.min(PROBE)),
    };
    let outcome = within(limit, opening).or(unwanted).await;
    match outcome {
        Some(Ok(())) => Ok(link),
        Some(Err(why)) => {
            // An end shows in the error of the open request, a moment before the status is known to all.
            if within(Duration::from_millis(500), link.exited()).await.is_some() {
                let how = link.gone().await;
                return fail(how, format!("{} before it answered '{method}'{}", link.exit_text(), tail(&link)));
            }
            let text = format!("its handshake failed: {why}{}", tail(&link));
            link.stop(&config.stop).await;
            let refused = !server.hub.hurry.is_set() && !unwanted_now();
            Err(StartFailure { how: Ended::NotReady, text, refused })
        }
        None => {
            let key = if limit == config.start_timeout { " (start_timeout)" } else { "" };
            let text = format!("it did not answer '{method}' within {}{key}{}", duration(limit), tail(&link));
            link.stop(&config.stop).await;
            fail(Ended::NotReady, text)
        }
    }
}
