//! `mcpdaemon --import`: reads a client's file, prints or writes an instance file, and is done.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::model::exit::{Exit, Failure, plain};
use crate::model::import::import;
use crate::sys::files;

/// No client's file is longer, in bytes.
const MOST: u64 = 64 << 20;

/// `output` is the new file that gets it; None for standard output.
pub(crate) fn run(file: &Path, output: Option<&Path>) -> Result<Exit, Failure> {
    let (name, bytes) = match file.to_str() {
        Some("-") => {
            let mut bytes = Vec::new();
            ("standard input".to_owned(), io::stdin().lock().take(MOST + 1).read_to_end(&mut bytes).map(|_| bytes))
        }
        _ => (file.display().to_string(), File::open(file).and_then(|file| files::content(file, MOST))),
    };
    let wrong = |what: &str| Failure::new(Exit::Data, format!("{name}: {what}"));
    let bytes = bytes.map_err(|e| wrong(&format!("cannot read it: {}", plain(&e))))?;
    if bytes.len() as u64 > MOST {
        return Err(wrong(&format!("it is longer than {MOST} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8 text"))?;
    let imported = import(&name, &text).map_err(|problem| Failure::new(Exit::Data, problem.to_string()))?;
    match output {
        Some(path) => write_new(path, &imported.text)?,
        None => print(&imported.text)?,
    }
    let _ = writeln!(io::stderr(), "{name}: {}", imported.summary());
    Ok(Exit::Ok)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader of the beginning alone has seen enough.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("mcpdaemon: cannot write to standard output: {}", plain(&e));
            Err(Failure::new(Exit::CannotCreate, text))
        }
        _ => Ok(()),
    }
}

/// Writes a file that is not there yet; its owner alone may read it, because it may hold secrets.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            let text = format!(
                "{}: there is such a file already, and it is left as it is: name another one by -o, or remove it",
                path.display()
            );
            Failure::new(Exit::CannotCreate, text)
        }
        _ => Failure::io(Exit::CannotCreate, "write the instance file", path, &e),
    })
}
