//! Sessions that are held and not used: what they take, and what they cost others.

use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use crate::client::{Place, SMALL, Session, Way, load};
use crate::program::{Daemon, cpu, memory as resident};

const WAYS: [Way; 3] = [Way::Http, Way::WebSocket, Way::Sse];
/// Buffers are given back when nothing has come for a moment, and memory some seconds later.
const REST: Duration = Duration::from_secs(6);
const GIVEN_BACK: Duration = Duration::from_secs(10);
/// So many are held, and so many others ask.
const HELD: usize = 10_000;
const OTHERS: usize = 16;

fn start(bin: &Path, echo: &str) -> Daemon {
    Daemon::start(bin, &format!("\"echo\": Stdio(command: [{echo:?}])"))
}

fn open(way: Way, daemon: &Daemon, count: usize) -> Vec<Session> {
    let place = Place::server(&daemon.address, "echo");
    (0..count).map(|_| Session::open(way, &place, SMALL)).collect()
}

/// What an idle daemon takes, and an idle session with its connections.
pub fn memory(bin: &Path, echo: &str, sessions: usize) {
    // Side by side, for each wait is the same: what is given back is given back after some seconds.
    let (fresh, all) = (start(bin, echo), WAYS.map(|_| start(bin, echo)));
    std::thread::sleep(REST);
    println!("\nMemory of an idle daemon with one server: {:.1} MiB", resident(fresh.pid) / 1024.0);
    let of = |daemon: &Daemon| resident(daemon.pid);
    WAYS.iter().zip(&all).for_each(|(way, daemon)| open(*way, daemon, 16).into_iter().for_each(Session::leave));
    let before: Vec<f64> = all.iter().map(of).collect();
    let held: Vec<_> = WAYS.iter().zip(&all).map(|(way, daemon)| open(*way, daemon, sessions)).collect();
    std::thread::sleep(REST);
    let full: Vec<f64> = all.iter().map(of).collect();
    held.into_iter().flatten().for_each(Session::leave);
    std::thread::sleep(GIVEN_BACK);
    for (n, way) in WAYS.iter().enumerate() {
        let (each, left) = ((full[n] - before[n]) / sessions as f64, of(&all[n]) - before[n]);
        println!(
            "  a session of {:12} {each:>6.1} KiB; {left:.0} KiB more than before, ten seconds after {sessions} left",
            way.name()
        );
    }
}

/// Very many are held while others ask at full speed.
pub fn beside_others(bin: &Path, echo: &str, time: Duration) {
    // Each needs a descriptor here and one there.
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(HELD, |(_, most)| (most as usize).saturating_sub(500));
    let count = HELD.min(most);
    println!("\n{count} sessions held while {OTHERS} others ask        alone     beside   CPU µs of a call");
    for way in WAYS {
        let daemon = start(bin, echo);
        let cost = || {
            let mut others = open(way, &daemon, OTHERS);
            load(&mut others, 1, time / 4);
            let before = cpu(daemon.pid);
            let measured = load(&mut others, 1, time);
            let cost = (cpu(daemon.pid) - before) / measured.calls as f64;
            others.into_iter().for_each(Session::leave);
            cost
        };
        let (alone, before) = (cost(), resident(daemon.pid));
        let held: Vec<Session> = (0..count).map(|_| open(way, &daemon, 1).remove(0).without_writer()).collect();
        std::thread::sleep(REST);
        let (each, beside) = ((resident(daemon.pid) - before) / count as f64, cost());
        held.into_iter().for_each(Session::leave);
        std::thread::sleep(GIVEN_BACK);
        println!(
            "  {:12} {each:>6.1} KiB each; {:>5.0} KiB stay   {alone:>9.1} {beside:>10.1}   {:.2}x",
            way.name(),
            resident(daemon.pid) - before,
            beside / alone
        );
    }
}
