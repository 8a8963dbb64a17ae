//! Going on as another program in the same process: exec(2) with chosen descriptors, and a document for the successor.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{fds, passed};

/// A program as it was started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Absolute.
    pub path: PathBuf,
    /// With its own name as the first.
    pub args: Vec<OsString>,
}

impl Program {
    /// This very program as it was called: by its name, which leads to a newer one once that was installed.
    /// /proc/self/exe would lead to the old one.
    pub(crate) fn this() -> io::Result<Program> {
        let args: Vec<OsString> = std::env::args_os().collect();
        let name = args.first().cloned().unwrap_or_default();
        let found = super::spawn::find_program(&name.to_string_lossy(), None);
        let path = match found.map(std::path::absolute) {
            Some(path) => path?,
            None => std::env::current_exe()?,
        };
        // The next one looks for itself in the same place, from another folder.
        let rest = args.into_iter().skip(1);
        Ok(Program { args: [path.clone().into_os_string()].into_iter().chain(rest).collect(), path })
    }
}

/// A document in memory that cannot be changed any more (memfd_create(2)).
pub(crate) fn document(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"mcpdaemon-handover", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// What such a document says.
pub(crate) fn read(document: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(document);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Goes on as another program with a document and some descriptors. Returns only if that failed, and all is as before.
///
/// Call it on the main thread, which is the only one that does not block the daemon's signals, with
/// [`super::signals::hold`]: what comes then waits for the successor.
pub(crate) fn replace(program: &Program, document: &OwnedFd, keep: &[RawFd]) -> io::Error {
    let text = |s: &OsStr| CString::new(s.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let prepare = || -> io::Result<_> {
        let path = text(program.path.as_os_str())?;
        let args = program.args.iter().map(|a| text(a)).collect::<io::Result<Vec<_>>>()?;
        let note = format!("{}={}:{}", passed::HANDOVER, std::process::id(), document.as_raw_fd());
        let mut env = vec![CString::new(note)?];
        for (name, value) in std::env::vars_os() {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            env.push(text(&pair)?);
        }
        Ok((path, args, env))
    };
    let (path, args, env) = match prepare() {
        Ok(all) => all,
        Err(e) => return e,
    };
    let all = || keep.iter().copied().chain([document.as_raw_fd()]);
    all().for_each(|fd| fds::close_on_exec(fd, false));
    let failure = nix::unistd::execve(&path, &args, &env);
    all().for_each(|fd| fds::close_on_exec(fd, true));
    failure.err().map_or_else(|| io::Error::other("it returned"), io::Error::from)
}
