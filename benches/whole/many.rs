//! Whether a call costs the same with many sessions and many servers, and how long an instance of many servers takes for what
//! concerns them all.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{self, Place, SMALL, Session, Way, load};
use crate::limits::Limit;
use crate::program::{Daemon, cpu};

/// The sessions that a call of one in many is compared with.
const FEW: usize = 16;

/// A configuration with so many servers `s0`, `s1`, ..., of which the last `changed` are not as they were in one with none.
fn servers(echo: &str, count: usize, tools: usize, changed: usize) -> String {
    let one = |n: usize| {
        let turn = if n + changed >= count { r#", env: {"TURN": "2"}"# } else { "" };
        format!("\"s{n}\": Stdio(command: [{echo:?}, \"{tools}\"]{turn})")
    };
    (0..count).map(one).collect::<Vec<_>>().join(", ")
}

/// The processor time of one call, in microseconds, that process `pid` takes, with so many sessions that each have one in
/// flight.
fn cost((place, pid): (&Place, i32), way: Way, sessions: usize, time: Duration) -> f64 {
    let mut open: Vec<Session> = (0..sessions).map(|_| Session::open(way, place, SMALL)).collect();
    load(&mut open, 1, time / 4);
    let before = cpu(pid);
    let measured = load(&mut open, 1, time);
    (cpu(pid) - before) / measured.calls as f64
}

/// The median of a ratio that is measured in several rounds.
fn ratio(rounds: usize, mut one: impl FnMut() -> (f64, f64)) -> (f64, f64, f64) {
    let mut all: Vec<(f64, f64)> = (0..rounds).map(|_| one()).collect();
    all.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (few, many) = all[all.len() / 2];
    (few, many, many / few)
}

/// Prints all of it. `sessions` and `count` of servers are many.
pub fn print(
    (bin, echo): (&Path, &str),
    limits: [&Limit; 2],
    (sessions, count): (usize, usize),
    rounds: usize,
    time: Duration,
) {
    println!("\nA call in many                few       many   CPU µs");
    let one = Daemon::start(bin, &servers(echo, 1, 1, 0));
    let at = |daemon: &Daemon| (Place::server(&daemon.address, "s0"), daemon.pid);
    let (place, pid) = at(&one);
    for way in [Way::Tcp, Way::InPlace, Way::WebSocket, Way::Http, Way::Modern, Way::Sse] {
        let whose = match way {
            Way::Tcp => (&limits[0].place, limits[0].pid()),
            Way::InPlace => (&limits[1].place, limits[1].pid()),
            _ => (&place, pid),
        };
        let (few, many, ratio) = ratio(rounds, || (cost(whose, way, FEW, time), cost(whose, way, sessions, time)));
        println!("  {:13} {FEW} and {sessions} sessions {few:>6.1} {many:>10.1}   {ratio:.2}x", way.name());
    }
    let all = Daemon::start(bin, &servers(echo, count, 1, 0));
    let (first, all_pid) = at(&all);
    for way in [Way::WebSocket, Way::Http] {
        let both = || (cost((&place, pid), way, FEW, time), cost((&first, all_pid), way, FEW, time));
        let (few, many, ratio) = ratio(rounds, both);
        println!("  {:13} 1 and {count} servers   {few:>6.1} {many:>10.1}   {ratio:.2}x", way.name());
    }
    reload(&all, echo, count);
    drop((one, all));
    lists(bin, echo, count / 2);
    start(bin, echo, 20);
}

/// A reload that changes ten of many, while these and others are called: each call is answered.
fn reload(daemon: &Daemon, echo: &str, count: usize) {
    let changed = count.min(10);
    let names = [format!("s{}", count - 1), "s0".to_owned()];
    let open = |name: &String| Session::open(Way::Http, &Place::server(&daemon.address, name), SMALL);
    let mut sessions: Vec<Session> = names.iter().flat_map(|name| (0..FEW / 2).map(move |_| open(name))).collect();
    let calls = std::thread::spawn(move || load(&mut sessions, 1, Duration::from_secs(1)).calls);
    std::thread::sleep(Duration::from_millis(200));
    daemon.configure(&servers(echo, count, 1, changed));
    let begin = Instant::now();
    assert!(daemon.ctl(&["reload", "bench"]).status.success(), "mcpctl reload");
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let calls = calls.join().expect("a call was lost");
    println!(
        "  Reload of {count} servers, {changed} of them changed: {took:.0} ms, {calls} calls meanwhile, none lost"
    );
}

/// All tools of many servers over the bridge.
fn lists(bin: &Path, echo: &str, count: usize) {
    const TOOLS: usize = 100;
    let daemon = Daemon::start(bin, &servers(echo, count, TOOLS, 0));
    let mut stream = client::websocket(&daemon.address, "/ws/mcp");
    client::send_text(&mut stream, client::HELLO);
    client::message(&mut stream);
    let mut ask = || {
        let (begin, mut tools, mut cursor) = (Instant::now(), 0, String::new());
        loop {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{cursor}}}}}"#);
            client::send_text(&mut stream, &text);
            let answer = client::message(&mut stream);
            tools += answer.matches(r#""inputSchema""#).count();
            let Some((_, next)) = answer.split_once(r#""nextCursor":""#) else { break };
            cursor = format!(r#""cursor":"{}""#, &next[..next.find('"').unwrap_or_default()]);
        }
        assert_eq!(tools, count * TOOLS, "tools");
        begin.elapsed().as_secs_f64() * 1e3
    };
    let first = ask();
    let mut later: Vec<f64> = (0..5).map(|_| ask()).collect();
    later.sort_by(f64::total_cmp);
    println!(
        "  All {TOOLS} tools of each of {count} servers over the bridge: {first:.0} ms the first time, then {:.0} ms",
        later[2]
    );
}

/// Many servers start side by side.
fn start(bin: &Path, echo: &str, count: usize) {
    let time = |count| {
        let begin = Instant::now();
        drop(Daemon::start(bin, &servers(echo, count, 1, 0)));
        begin.elapsed().as_secs_f64() * 1e3
    };
    println!("  Start and stop with one server: {:.0} ms, with {count}: {:.0} ms", time(1), time(count));
}
