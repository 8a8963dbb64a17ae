//! The exit statuses of both programs, in one place.
//!
//! `mcpdaemon` follows sysexits(3), `mcpctl` the Linux Standard Base's rules for init scripts. The numbers are part of
//! the interface and documented in `mcpdaemon(8)` and `mcpctl(8)`.

use std::fmt;

/// Why a program ends. [`Exit::code`] is the number that the caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Ok,
    /// mcpctl: the verb failed or timed out.
    Failed,
    /// mcpctl: wrong usage (LSB 2).
    CtlUsage,
    /// mcpctl status: dead, but the PID file is there (LSB 1).
    DeadWithPidFile,
    /// mcpctl status: not running (LSB 3).
    NotRunning,
    /// mcpctl status: cannot be found out (LSB 4).
    Unknown,
    /// mcpctl: not permitted (LSB 4).
    CtlPermission,
    /// mcpctl, verbs other than status: not running (LSB 7).
    CtlNotRunning,
    /// mcpdaemon: wrong usage (EX_USAGE).
    Usage,
    /// mcpdaemon: what is to be imported cannot be read or is not what it should be (EX_DATAERR).
    Data,
    /// mcpdaemon: an address cannot be served (EX_UNAVAILABLE).
    Unavailable,
    /// mcpdaemon: died or failed during the start (EX_SOFTWARE).
    Software,
    /// mcpdaemon: the system refused a process or a pipe (EX_OSERR).
    Os,
    /// mcpdaemon: PID file or log cannot be made (EX_CANTCREAT).
    CannotCreate,
    /// mcpdaemon: the instance runs already (EX_TEMPFAIL).
    AlreadyRunning,
    /// mcpdaemon: permission denied (EX_NOPERM).
    NoPermission,
    /// mcpdaemon: the configuration is wrong (EX_CONFIG).
    Config,
}

impl Exit {
    /// The status given to exit(3).
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed | Exit::DeadWithPidFile => 1,
            Exit::CtlUsage => 2,
            Exit::NotRunning => 3,
            Exit::Unknown | Exit::CtlPermission => 4,
            Exit::CtlNotRunning => 7,
            Exit::Usage => 64,
            Exit::Data => 65,
            Exit::Unavailable => 69,
            Exit::Software => 70,
            Exit::Os => 71,
            Exit::CannotCreate => 73,
            Exit::AlreadyRunning => 75,
            Exit::NoPermission => 77,
            Exit::Config => 78,
        }
    }
}

impl Exit {
    /// The status of mcpdaemon that has this number.
    pub fn from_code(code: u8) -> Option<Exit> {
        let all = [
            Exit::Ok,
            Exit::Usage,
            Exit::Unavailable,
            Exit::Software,
            Exit::Os,
            Exit::CannotCreate,
            Exit::AlreadyRunning,
            Exit::NoPermission,
            Exit::Config,
        ];
        all.into_iter().find(|exit| exit.code() == code)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// A failure that ends a program: what to print, and with which status to exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub text: String,
}

impl Failure {
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Failure { exit, text: text.into() }
    }

    /// An operation on a path that the system refused; EACCES and EPERM become [`Exit::NoPermission`].
    pub fn io(exit: Exit, doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => exit,
        };
        Failure { exit, text: format!("{}: cannot {doing}: {}", path.display(), plain(error)) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The system's words without Rust's "(os error 13)".
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_os_error_loses_its_number() {
        let error = std::io::Error::from_raw_os_error(13);
        assert_eq!(plain(&error), "Permission denied");
        let failure = Failure::io(Exit::CannotCreate, "open", std::path::Path::new("/x"), &error);
        assert_eq!(failure.exit, Exit::NoPermission);
        assert_eq!(failure.text, "/x: cannot open: Permission denied");
    }
}
