//! `mcpdaemon --import`: reads a client's file, prints an instance file, and is done.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::model::exit::{Exit, Failure, plain};
use crate::model::import::import;
use crate::sys::files;

/// No client's file is longer, in bytes.
const MOST: u64 = 64 << 20;

pub(crate) fn run(file: &Path) -> Result<Exit, Failure> {
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
    let mut out = io::stdout().lock();
    match out.write_all(imported.text.as_bytes()).and_then(|()| out.flush()) {
        // A reader of the beginning alone has seen enough.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("mcpdaemon: cannot write to standard output: {}", plain(&e));
            return Err(Failure::new(Exit::CannotCreate, text));
        }
        _ => {}
    }
    let _ = writeln!(io::stderr(), "{name}: {}", imported.summary());
    Ok(Exit::Ok)
}
