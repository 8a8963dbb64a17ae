//! All flags of both programs, in one place. Parsing does no work: it says what was asked for.

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::model::exit::{Exit, Failure};
use crate::model::text::suggest;

/// Runs MCP servers as a Unix daemon: starts them, watches them, and serves them over HTTP and WebSocket to any
/// number of clients. Returns when the instance serves, or says why it does not.
///
/// In place of a configuration file, one server can be given as a command behind "--". Without either, every instance
/// file in /etc/mcp (root) or $XDG_CONFIG_HOME/mcp (others) is started.
#[derive(FromArgs, Debug, Default)]
pub struct Daemon {
    /// the instance file (mcpdaemon.ron(5)), or a folder of them
    #[argh(option, short = 'c', arg_name = "path")]
    pub config: Option<PathBuf>,

    /// stay in front and log to standard error
    #[argh(switch, short = 'f')]
    pub foreground: bool,

    /// check the configuration, print every problem, and exit
    #[argh(switch, short = 't')]
    pub test: bool,

    /// print the effective configuration, secrets masked, and exit
    #[argh(switch, short = 'T')]
    pub dump: bool,

    /// listen here instead of where the file says; can be repeated
    #[argh(option, arg_name = "addr")]
    pub listen: Vec<String>,

    /// the instance's name
    #[argh(option, arg_name = "name")]
    pub name: Option<String>,

    /// where a port is in use, try so many after it
    #[argh(option, arg_name = "number", from_str_fn(ports))]
    pub port_conflict: Option<u16>,

    /// print an instance file made from the mcpServers JSON of a client, "-" for standard input, and exit
    #[argh(option, arg_name = "file")]
    pub import: Option<PathBuf>,

    /// print what this client's configuration needs for a running instance, or one server of it, and exit
    #[argh(option, arg_name = "client name[/server]")]
    pub export: Option<String>,

    /// write what --import makes to this new file, if it succeeds
    #[argh(option, short = 'o', arg_name = "file")]
    pub output: Option<PathBuf>,

    /// print a line for the file of tokens and, on standard error, its token, and exit
    #[argh(option, arg_name = "name")]
    pub new_token: Option<String>,

    /// be an MCP server on standard input and output that is this running instance, one server of it, or what a URL names
    #[argh(option, arg_name = "name[/server]")]
    pub connect: Option<String>,

    /// with --connect: start the instance if it does not run
    #[argh(switch)]
    pub start: bool,

    /// with --connect: the file with the token to show
    #[argh(option, arg_name = "file")]
    pub token_file: Option<PathBuf>,

    /// the folder of PID and status files
    #[argh(option, arg_name = "dir")]
    pub run_dir: Option<PathBuf>,

    /// off, error, warn, info, debug or trace
    #[argh(option, arg_name = "level")]
    pub log_level: Option<String>,

    /// let servers run as root
    #[argh(switch)]
    pub allow_root: bool,

    /// end what a killed predecessor of the instance left behind, and exit
    #[argh(switch)]
    pub cleanup: bool,

    /// write a newline to this descriptor once the instance serves (s6)
    #[argh(option, arg_name = "fd", from_str_fn(descriptor))]
    pub notify_fd: Option<i32>,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    pub version: bool,

    /// the command behind "--", or what --export is for
    #[argh(positional, hidden_help)]
    pub command: Vec<String>,
}

fn ports(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|n| *n <= 1000).ok_or_else(|| format!("'{text}' is no number of ports: 0 to 1000"))
}

fn lines(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("'{text}' is no number of lines"))
}

/// Looks after instances of mcpdaemon(8): reads their PID and status files and sends signals, nothing else.
#[derive(FromArgs, Debug)]
pub struct Ctl {
    /// the folder of PID and status files
    #[argh(option, arg_name = "dir")]
    pub run_dir: Option<PathBuf>,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    pub version: bool,

    #[argh(subcommand)]
    pub verb: Option<Verb>,
}

/// What mcpctl can do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Verb {
    List(List),
    Status(Status),
    Stop(Stop),
    Reload(Reload),
    Restart(Restart),
    Wait(Wait),
    Logs(Logs),
}

/// lists the instances in the run directory
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
pub struct List {
    /// as JSON
    #[argh(switch)]
    pub json: bool,
}

/// shows instances and their servers
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// as JSON
    #[argh(switch)]
    pub json: bool,

    /// go on until none of them runs: on a terminal in place, else a line for each change
    #[argh(switch)]
    pub watch: bool,

    /// in a line each, and status 0 for healthy or degraded, else 1
    #[argh(switch)]
    pub check: bool,

    /// instances; all, if none is named
    #[argh(positional, arg_name = "name")]
    pub names: Vec<String>,
}

/// stops instances and waits until they are gone
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "stop")]
pub struct Stop {
    /// how long to wait, such as 30s (the default)
    #[argh(option, arg_name = "duration", default = "Duration::from_secs(30)", from_str_fn(duration))]
    pub timeout: Duration,

    /// kill what still runs after the timeout
    #[argh(switch)]
    pub force: bool,

    /// the instance that listens at this port
    #[argh(option, arg_name = "port")]
    pub port: Option<u16>,

    /// every instance in the run directory
    #[argh(switch)]
    pub all: bool,

    /// instances
    #[argh(positional, arg_name = "name")]
    pub names: Vec<String>,
}

/// reloads configurations and reports the outcome
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "reload")]
pub struct Reload {
    /// how long to wait, such as 60s (the default)
    #[argh(option, arg_name = "duration", default = "Duration::from_secs(60)", from_str_fn(duration))]
    pub timeout: Duration,

    /// every instance in the run directory
    #[argh(switch)]
    pub all: bool,

    /// instances
    #[argh(positional, arg_name = "name")]
    pub names: Vec<String>,
}

/// waits until instances, or servers of them, are ready
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "wait")]
pub struct Wait {
    /// how long to wait, such as 60s (the default)
    #[argh(option, arg_name = "duration", default = "Duration::from_secs(60)", from_str_fn(duration))]
    pub timeout: Duration,

    /// instances, or servers of them as NAME/SERVER
    #[argh(positional, arg_name = "name")]
    pub names: Vec<String>,
}

/// upgrades instances in place, or restarts a server
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "restart")]
pub struct Restart {
    /// give this server of the instance new children, and leave the daemon as it is
    #[argh(option, arg_name = "server")]
    pub server: Option<String>,

    /// how long to wait, such as 60s (the default)
    #[argh(option, arg_name = "duration", default = "Duration::from_secs(60)", from_str_fn(duration))]
    pub timeout: Duration,

    /// every instance in the run directory
    #[argh(switch)]
    pub all: bool,

    /// instances
    #[argh(positional, arg_name = "name")]
    pub names: Vec<String>,
}

/// shows the log of an instance
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "logs")]
pub struct Logs {
    /// go on as it grows
    #[argh(switch, short = 'f')]
    pub follow: bool,

    /// how many lines from the end (20)
    #[argh(option, short = 'n', arg_name = "lines", default = "20", from_str_fn(lines))]
    pub lines: usize,

    /// only lines of one server
    #[argh(option, arg_name = "server")]
    pub server: Option<String>,

    /// the audit record in place of the log
    #[argh(switch)]
    pub audit: bool,

    /// the instance
    #[argh(positional, arg_name = "name")]
    pub name: String,
}

fn descriptor(text: &str) -> Result<i32, String> {
    text.parse().ok().filter(|fd| *fd >= 1).ok_or_else(|| format!("'{text}' is no descriptor: a number from 1 on"))
}

/// As in the file; a bare number is one of seconds, as other programs of this kind have it.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    humantime::parse_duration(text).map_err(|_| format!("'{text}' is no duration; write 500ms, 30s or 5m, or seconds"))
}

/// The program's arguments, without its name. What is not UTF-8 becomes U+FFFD, and is then refused by name.
pub fn args() -> Vec<String> {
    std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect()
}

/// What came of parsing.
pub enum Parsed<T> {
    Args(T),
    /// Print this and be done: `--help`.
    Say(String),
}

/// Parses the command line of mcpdaemon. What stands behind `--` is a command and none of argh's business.
pub fn daemon(mut args: Vec<String>) -> Result<Parsed<Daemon>, Failure> {
    let behind = args.iter().position(|a| a == "--").map(|at| args.split_off(at));
    let parsed = parse::<Daemon>("mcpdaemon", args, Exit::Usage)?;
    let Parsed::Args(mut daemon) = parsed else { return Ok(parsed) };
    let usage = |what: &str| Failure::new(Exit::Usage, format!("mcpdaemon: {what}\n{}", hint("mcpdaemon")));
    if daemon.export.is_some() && daemon.command.len() != 1 {
        return Err(usage("--export wants a client and what is to be reached: --export cursor NAME/SERVER"));
    }
    if let (Some(word), None) = (daemon.command.first(), &daemon.export) {
        return Err(usage(&format!("unexpected '{word}': a file goes behind -c, a command behind --")));
    }
    let runs = behind.is_some();
    if let Some(behind) = behind {
        daemon.command = behind.into_iter().skip(1).collect();
        if daemon.command.is_empty() {
            return Err(usage("there is no command behind --"));
        }
    }
    let reaches = daemon.connect.is_some() != daemon.export.is_some();
    let others = runs
        || daemon.foreground
        || daemon.test
        || daemon.dump
        || daemon.cleanup
        || daemon.import.is_some()
        || daemon.new_token.is_some()
        || daemon.name.is_some()
        || !daemon.listen.is_empty();
    match (&daemon.config, daemon.command.is_empty()) {
        _ if daemon.version => Ok(Parsed::Args(daemon)),
        // A variable that is not set, and not this folder.
        (Some(path), _) if path.as_os_str().is_empty() => {
            Err(usage("-c is empty: it names an instance file, or a folder of them"))
        }
        _ if (daemon.start || daemon.token_file.is_some()) && !reaches => {
            Err(usage("--start and --token-file go with --connect NAME or --export CLIENT NAME"))
        }
        _ if daemon.connect.is_some() || daemon.export.is_some() => match reaches && !others {
            true => Ok(Parsed::Args(daemon)),
            false => Err(usage("--connect and --export go with -c, --run-dir, --start and --token-file alone")),
        },
        _ if daemon.output.is_some() && daemon.import.is_none() => Err(usage("--output FILE goes with --import FILE")),
        (None, true) if daemon.import.is_some() != daemon.new_token.is_some() => Ok(Parsed::Args(daemon)),
        _ if daemon.new_token.is_some() => Err(usage("--new-token NAME goes alone: it prints a line and runs nothing")),
        _ if daemon.import.is_some() => {
            Err(usage("--import FILE goes alone: it prints an instance file and runs nothing"))
        }
        (Some(_), false) => Err(usage("-c FILE and a command behind -- exclude each other")),
        _ => Ok(Parsed::Args(daemon)),
    }
}

/// Where usage is explained.
fn hint(program: &str) -> String {
    format!("Try '{program} --help', or man {program}.")
}

/// Parses a command line: `args` without the program's own name. `usage` is the status for wrong usage.
pub fn parse<T: FromArgs>(program: &str, args: Vec<String>, usage: Exit) -> Result<Parsed<T>, Failure> {
    let args = normal(args);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match T::from_args(&[program], &words) {
        Ok(parsed) => Ok(Parsed::Args(parsed)),
        Err(early) if early.status.is_ok() => Ok(Parsed::Say(early.output)),
        Err(early) => {
            // Help of the verb, if there is one: its flags are the ones that were meant.
            let verb = words.iter().find(|w| known_verb(w)).copied();
            let ask: Vec<&str> = verb.into_iter().chain(["--help"]).collect();
            let help = T::from_args(&[program], &ask).err().map(|e| e.output).unwrap_or_default();
            let mut text: String = early.output.trim().replace('\n', " ");
            if let Some(typed) = text.strip_prefix("Unrecognized argument: ") {
                let known: Vec<&str> =
                    help.split_whitespace().filter(|w| w.starts_with("--") || known_verb(w)).collect();
                let known: Vec<&str> = known.into_iter().map(|w| w.trim_end_matches([',', ']'])).collect();
                let near = suggest(typed, known.iter().copied()).map(|k| format!(", did you mean '{k}'?"));
                let near = match (program, typed, verb) {
                    ("mcpctl", "start", _) => Some("; to start an instance: mcpdaemon -c FILE".to_owned()),
                    ("mcpctl", _, Some(verb)) if words.first() == Some(&typed) && !typed.starts_with('-') => {
                        Some(format!("; the verb comes first: mcpctl {verb} {typed}"))
                    }
                    _ => near,
                };
                text = format!("unrecognized argument '{typed}'{}", near.unwrap_or_default());
            }
            let text = format!("{program}: {text}\n{}", hint(program));
            Err(Failure::new(usage, text))
        }
    }
}

fn known_verb(word: &str) -> bool {
    ["list", "status", "stop", "reload", "restart", "wait", "logs"].contains(&word)
}

/// Brings what getopt_long(3) allows to what argh understands: `--key=value`, `-ft`, `-cPATH`, `-h`, and mcpctl's
/// `--run-dir` behind a verb.
fn normal(args: Vec<String>) -> Vec<String> {
    const SWITCHES: &str = "ftTV";
    let mut out = Vec::with_capacity(args.len());
    for arg in args {
        match arg.strip_prefix("--").and_then(|rest| rest.split_once('=')) {
            Some((key, value)) => out.extend([format!("--{key}"), value.to_owned()]),
            None if arg == "-h" => out.push("--help".to_owned()),
            None if arg.len() > 2 && arg.starts_with('-') && !arg.starts_with("--") => {
                let mut rest = &arg[1..];
                while let Some(c) = rest.chars().next().filter(|c| SWITCHES.contains(*c)) {
                    out.push(format!("-{c}"));
                    rest = &rest[1..];
                }
                match rest.strip_prefix('c').or(rest.strip_prefix('n')) {
                    Some(value) => {
                        out.push(format!("-{}", &rest[..1]));
                        out.extend((!value.is_empty()).then(|| value.to_owned()));
                    }
                    None if !rest.is_empty() => out.push(format!("-{rest}")),
                    None => {}
                }
            }
            None => out.push(arg),
        }
    }
    if let Some(at) = out.iter().position(|a| a == "--run-dir").filter(|at| *at > 0 && at + 1 < out.len()) {
        let pair: Vec<String> = out.drain(at..at + 2).collect();
        out.splice(0..0, pair);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(args: &[&str]) -> Result<Daemon, String> {
        match super::daemon(args.iter().map(|a| (*a).to_owned()).collect()) {
            Ok(Parsed::Args(d)) => Ok(d),
            Ok(Parsed::Say(text)) => Err(text),
            Err(failure) => Err(failure.text),
        }
    }

    #[test]
    fn flags_as_people_write_them() {
        let d = daemon(&["-ft", "-c/etc/x.ron", "--listen=127.0.0.1:0", "--listen", "unix:/s", "--name=n"]).unwrap();
        assert!(d.foreground && d.test && !d.dump);
        assert_eq!(d.config, Some("/etc/x.ron".into()));
        assert_eq!(d.listen, ["127.0.0.1:0", "unix:/s"]);
        let d = daemon(&["-f", "--", "npx", "-y", "--x=1", "-c", "--"]).unwrap();
        assert_eq!(d.command, ["npx", "-y", "--x=1", "-c", "--"]);
        assert_eq!(daemon(&["--import", "-"]).unwrap().import, Some("-".into()));
        for more in [&["-c", "x.ron"][..], &["--", "x"]] {
            let text = daemon(&[&["--import=x.json"], more].concat()).unwrap_err();
            assert!(text.contains("--import FILE goes alone"), "{text}");
        }
        assert!(daemon(&["--help"]).unwrap_err().contains("--run-dir"));
    }

    #[test]
    fn a_typo_is_answered_with_what_was_meant() {
        let text = daemon(&["--lisen", "x"]).unwrap_err();
        assert_eq!(
            text,
            "mcpdaemon: unrecognized argument '--lisen', did you mean '--listen'?\nTry 'mcpdaemon --help', or man mcpdaemon."
        );
        let args = |words: &[&str]| words.iter().map(|a| (*a).to_owned()).collect();
        let Err(failure) = parse::<Ctl>("mcpctl", args(&["stpo", "x"]), Exit::CtlUsage) else { panic!() };
        assert!(failure.text.contains("did you mean 'stop'?"), "{}", failure.text);
        let Err(failure) = parse::<Ctl>("mcpctl", args(&["stop", "x", "--timeout", "soon"]), Exit::CtlUsage) else {
            panic!()
        };
        assert!(failure.text.contains("'soon' is no duration"), "{}", failure.text);
    }
}
