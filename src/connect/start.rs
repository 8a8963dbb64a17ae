//! `--start`: starts the instance where it does not run, by the program itself, which returns when it serves. Of several who do
//! so at once one succeeds, and the others find it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli;
use crate::model::exit::{Exit, Failure, plain};
use crate::sys::paths;

/// The path of this program.
pub(super) fn program() -> Result<PathBuf, Failure> {
    let unknown = |e| Failure::new(Exit::Os, format!("mcpdaemon: cannot find out its own path: {}", plain(&e)));
    std::env::current_exe().map_err(unknown)
}

/// Starts one instance.
pub(super) struct Starter {
    name: String,
    program: PathBuf,
    pub file: PathBuf,
    run_dir: Option<PathBuf>,
}

impl Starter {
    /// From the file that `-c` names, else from NAME.ron in the folder of instance files.
    pub(super) fn new(name: &str, args: &cli::Daemon, cwd: &Path) -> Result<Starter, Failure> {
        let file = match &args.config {
            Some(file) => cwd.join(file),
            None => paths::config_dir().join(format!("{name}.ron")),
        };
        if !file.is_file() {
            let why = format!(
                "mcpdaemon: --start: there is no instance file {}: make it, or name another with -c FILE",
                file.display()
            );
            return Err(Failure::new(Exit::Config, why));
        }
        Ok(Starter { name: name.to_owned(), program: program()?, file, run_dir: args.run_dir.clone() })
    }

    /// Starts it, and returns when it serves, or when another has started it.
    ///
    /// # Errors
    /// What it has said on standard error says more.
    pub(super) fn start(&self) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.file).args(["--name", &self.name]);
        if let Some(dir) = &self.run_dir {
            command.arg("--run-dir").arg(dir);
        }
        // Standard output is the client's.
        let ran = command.stdin(Stdio::null()).stdout(Stdio::null()).output();
        let out = ran.map_err(|e| Failure::new(Exit::Os, format!("mcpdaemon: cannot start it: {}", plain(&e))))?;
        let exit = out.status.code().and_then(|code| Exit::from_code(u8::try_from(code).ok()?));
        match exit.unwrap_or(Exit::Software) {
            Exit::Ok | Exit::AlreadyRunning => Ok(()),
            exit => Err(Failure::new(exit, String::from_utf8_lossy(&out.stderr).trim_end().to_owned())),
        }
    }
}
