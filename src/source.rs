//! Where a configuration comes from: a file or a command line, with what the environment and the flags add.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::cli;
use crate::model::config::Text;
use crate::model::config::{
    self, Account, Auth, Config, Given, Input, Listen, Loaded, Origin, Part, Problem, Surroundings,
};
use crate::model::envelope::unmarked;
use crate::model::exit::plain;
use crate::sys::{accounts, files, memory, paths, spawn};

/// No file of a configuration is longer, in bytes.
const MOST: u64 = 16 << 20;

/// Everything needed to read the configuration, now and at each reload.
#[derive(Clone)]
pub(crate) struct Source {
    /// Absolute; None for a command line.
    pub file: Option<PathBuf>,
    command: Vec<String>,
    name: Option<String>,
    listen: Vec<String>,
    port_conflict: Option<u16>,
    log_level: Option<String>,
    allow_root: bool,
    /// Where the program was started: the daemon itself is in / later.
    pub cwd: PathBuf,
    /// Where logs go by default, settled at the start: another user would have another.
    pub log_dir: PathBuf,
    /// Users whom a daemon becomes have folders of their own there.
    divides: bool,
}

impl Source {
    /// Notes what was asked for; relative paths are taken from `cwd` now, because a daemon has another later.
    pub(crate) fn new(args: &cli::Daemon, cwd: &Path) -> Source {
        Source {
            file: args.config.as_ref().map(|path| cwd.join(path)),
            command: args.command.clone(),
            name: args.name.clone(),
            listen: args.listen.clone(),
            port_conflict: args.port_conflict,
            log_level: args.log_level.clone(),
            allow_root: args.allow_root,
            cwd: cwd.to_owned(),
            log_dir: paths::log_dir(),
            divides: paths::is_usual("MCP_LOG_DIR"),
        }
    }

    /// The user whom the daemon becomes is known: this is where his logs go, from now on also when he reads it.
    pub(crate) fn settle(&mut self, account: Option<&Account>) {
        if let Some(account) = account.filter(|account| self.divides && account.uid != 0) {
            self.log_dir.push(&account.name);
        }
        self.divides = false;
    }

    /// The source of an instance whose name is settled.
    pub(crate) fn named(&self, name: &str) -> Source {
        Source { name: Some(name.to_owned()), ..self.clone() }
    }

    /// Reads and validates: a whole configuration or every problem.
    pub(crate) fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let (texts, mut found) = self.texts()?;
        found.extend(self.untrusted());
        let is_root = nix::unistd::geteuid().is_root();
        if is_root && !found.is_empty() {
            return Err(found);
        }
        let (loaded, tokens) = self.validate(texts)?;
        if is_root && !tokens.is_empty() {
            return Err(tokens);
        }
        let mut warnings: Vec<String> = found.iter().chain(&tokens).map(ToString::to_string).collect();
        warnings.extend(unsafe_programs(&loaded.config));
        warnings.extend(plain_tokens(&loaded.config));
        warnings.extend(plain_headers(&loaded.config));
        warnings.extend(containers(&loaded.config));
        warnings.extend(loaded.warnings);
        Ok(Loaded { warnings, ..loaded })
    }

    /// What of the configuration others could have written, beside the files that are judged as they are read: the folder
    /// of the files that add a server. Root obeys none of it.
    fn untrusted(&self) -> Option<Problem> {
        let dir = self.file.as_ref()?.with_extension("d");
        let why = Some(&dir).filter(|dir| dir.is_dir()).and_then(|dir| files::untrusted(dir, &own()))?;
        Some(distrusted(&dir, &why))
    }

    /// The files as they are now: the instance file first, then those that add a server; none for a command line. And
    /// which of them others could have written.
    pub(crate) fn texts(&self) -> Result<(Vec<Text>, Vec<Problem>), Vec<Problem>> {
        let (mut texts, mut untrusted) = (Vec::new(), Vec::new());
        let Some(file) = &self.file else { return Ok((texts, untrusted)) };
        for path in [vec![file.clone()], drop_ins(file)?].concat() {
            let (text, objection) = read_text(&path).map_err(|why| {
                // What it is says enough.
                let what = if why.starts_with("it is ") { why } else { format!("cannot read it: {why}") };
                vec![Problem { file: path.display().to_string(), place: None, what }]
            })?;
            untrusted.extend(objection);
            texts.push(Text { path, text });
        }
        Ok((texts, untrusted))
    }

    /// Validates files that were read before.
    pub(crate) fn load_from(&self, texts: Vec<Text>) -> Result<Loaded, Vec<Problem>> {
        self.validate(texts).map(|(loaded, _)| loaded)
    }

    /// Validates files that were read before, and gives a problem for each file of tokens that others could have written.
    fn validate(&self, texts: Vec<Text>) -> Result<(Loaded, Vec<Problem>), Vec<Problem>> {
        // By their real places: a symlink may be switched to another folder with other files beside it.
        let folder = |path: &Path| {
            let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            real.parent().unwrap_or(Path::new("/")).to_owned()
        };
        let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut all = texts.iter().cloned();
        let (text, name, dir) = match all.next() {
            Some(file) => (file.text, stem(&file.path), folder(&file.path)),
            None => {
                let stem = self.command.first().map_or("", |c| c.rsplit('/').next().unwrap_or(c));
                let clean: String = stem
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
                    .collect();
                let stem = clean.trim_start_matches(['-', '.']).chars().take(64).collect::<String>();
                let stem = if stem.is_empty() { "server".to_owned() } else { stem };
                let words: Vec<String> = self.command.iter().map(|w| config::setting::quoted(w)).collect();
                let name = self.given().name.map_or_else(|| stem.clone(), |(name, _)| name);
                // It runs where it was called, with what it would have had there.
                let text = format!(
                    "(servers: {{{}: Stdio(command: [{}], cwd: {}, pass_env: [\"*\"])}})",
                    config::setting::quoted(&name),
                    words.join(", "),
                    config::setting::quoted(&self.cwd.to_string_lossy())
                );
                (text, stem, self.cwd.clone())
            }
        };
        let parts =
            all.map(|t| Part { dir: folder(&t.path), name: stem(&t.path), path: t.path, text: t.text }).collect();
        let var = |name: &str| std::env::var(name).ok();
        let find_program = |name: &str, path: Option<&str>| spawn::find_program(name, path);
        let untrusted = RefCell::new(Vec::new());
        let around = Surroundings {
            var: &var,
            find_program: &find_program,
            is_dir: &Path::is_dir,
            account: &accounts::find,
            group: &accounts::group,
            read: &|path| {
                let (text, objection) = read_text(path)?;
                untrusted.borrow_mut().extend(objection);
                Ok(text)
            },
            uid: nix::unistd::Uid::effective().as_raw(),
            gid: nix::unistd::Gid::effective().as_raw(),
            memory: memory::available(),
        };
        let input = Input {
            file: self.file.clone(),
            stem: name,
            dir,
            text: &text,
            parts,
            log_dir: self.log_dir.clone(),
            divides: self.divides,
        };
        let loaded = config::load(&input, &self.given(), &around)?;
        let open = loaded.secret.iter().filter(|path| paths::readable_by_all(path));
        let warn = |path: &PathBuf| {
            format!("{}: everybody can read this file, and it holds a secret: chmod o-r it", path.display())
        };
        let warnings = open.map(warn).collect();
        Ok((Loaded { texts, warnings, ..loaded }, untrusted.into_inner()))
    }

    /// A Unix socket's path from where the program was started.
    fn absolute(&self, listen: &str) -> String {
        match listen.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            Some(path) => format!("unix:{}", self.cwd.join(path).display()),
            None => listen.to_owned(),
        }
    }

    fn given(&self) -> Given {
        let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let choose = |flag: Option<String>, flag_name, env_name: &'static str| match flag {
            Some(value) => Some((value, Origin::Flag(flag_name))),
            None => env(env_name).map(|value| (value, Origin::Environment(env_name))),
        };
        let listen = match self.listen.is_empty() {
            false => Some((self.listen.clone(), Origin::Flag("--listen"))),
            true => env("MCP_LISTEN").map(|l| {
                let list = l.split(',').map(|one| one.trim().to_owned()).collect();
                (list, Origin::Environment("MCP_LISTEN"))
            }),
        };
        let listen = listen.map(|(list, origin)| (list.iter().map(|l| self.absolute(l)).collect(), origin));
        Given {
            name: choose(self.name.clone(), "--name", "MCP_NAME"),
            listen,
            port_conflict: self.port_conflict.map(|n| (n, Origin::Flag("--port-conflict"))),
            log_level: choose(self.log_level.clone(), "--log-level", "MCP_LOG_LEVEL"),
            allow_root: match self.allow_root {
                true => Some((true, Origin::Flag("--allow-root"))),
                false => {
                    env("MCP_ALLOW_ROOT").map(|v| (v == "1" || v == "true", Origin::Environment("MCP_ALLOW_ROOT")))
                }
            },
            ws_ping_interval: env("WS_PING_INTERVAL"),
            ws_ping_timeout: env("WS_PING_TIMEOUT"),
            ws_max_size: env("WS_MAX_SIZE"),
        }
    }
}

/// Programs that others than root and those who run them could exchange.
fn unsafe_programs(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    for (name, server) in &config.servers {
        let mut users = vec![nix::unistd::geteuid().as_raw()];
        users.extend([&server.kind.confine().account, &config.account].into_iter().flatten().map(|a| a.uid));
        for program in server.kind.programs() {
            if let Some(why) = files::untrusted(program, &users) {
                found.push(format!("server '{name}': others could exchange {}: {why}", program.display()));
            }
        }
    }
    found
}

/// Containers that may outlive the command which runs them: it is the client of another daemon, whose process it is.
fn containers(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    for (name, server) in &config.servers {
        let Some(stdio) = server.kind.stdio() else { continue };
        let program = stdio.program.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let runs = ["docker", "podman", "nerdctl"].contains(&program) && stdio.args.iter().any(|a| a == "run");
        if runs && stdio.stop.command.is_none() {
            found.push(format!(
                "server '{name}': a container can outlive '{program} run': give it a name by --name, and set \
                 stop: (command: [\"{program}\", \"rm\", \"-f\", \"THAT-NAME\"])"
            ));
        }
    }
    found
}

/// Tokens that pass where others can read them.
fn plain_tokens(config: &Config) -> Vec<String> {
    let asked = config.auth.as_ref().is_some_and(Auth::takes_tokens);
    let open = config.listen.iter().filter(|at| asked && !at.is_local());
    let warn = |at: &Listen| {
        format!("listen \"{at}\": tokens pass unencrypted over the network: put a proxy with TLS in front of it")
    };
    open.map(warn).collect()
}

/// Header fields of ours that pass where others can read them.
fn plain_headers(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    for (name, server) in &config.servers {
        let Some(http) = server.kind.http() else { continue };
        if !http.url.is_tls && !http.url.is_local() && !http.headers.set.is_empty() {
            found.push(format!("server '{name}': its headers pass unencrypted over the network to {}", http.url));
        }
    }
    found
}

/// The instance files of a folder, and the drop-ins beside an instance file: what ends in `.ron` and is not hidden, in
/// order.
pub(crate) fn ron_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "ron") && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `NAME.d/*.ron` beside `NAME.ron`: a server each. One that cannot be read is a problem, and never silently left out.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, Vec<Problem>> {
    let dir = file.with_extension("d");
    match ron_files(&dir) {
        Ok(paths) => Ok(paths),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => {
            let what = format!("cannot read the folder: {}", plain(&e));
            Err(vec![Problem { file: dir.display().to_string(), place: None, what }])
        }
    }
}

/// Who may write what this daemon obeys, beside root.
fn own() -> [u32; 1] {
    [nix::unistd::geteuid().as_raw()]
}

fn distrusted(path: &Path, why: &files::Untrusted) -> Problem {
    Problem {
        file: path.display().to_string(),
        place: None,
        what: format!("others may have written it: {why}; let it belong to root or you, and chmod go-w"),
    }
}

/// The text of a file, and why others may have written it. A FIFO would hold up every reload, a device has no end.
fn read_text(path: &Path) -> Result<(String, Option<Problem>), String> {
    let (bytes, untrusted) = files::read_judged(path, MOST, &own()).map_err(|e| plain(&e))?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is UTF-16 text: save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok((unmarked(&text).to_owned(), untrusted.map(|why| distrusted(path, &why))))
}

/// Problems as they are printed, a line each.
pub(crate) fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
