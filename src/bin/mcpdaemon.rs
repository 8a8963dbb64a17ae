//! The daemon; see mcpdaemon(8).

use std::process::ExitCode;

fn main() -> ExitCode {
    mcpdaemon::daemon::main(mcpdaemon::cli::args())
}
