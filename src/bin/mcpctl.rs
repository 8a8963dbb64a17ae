//! The control program; see mcpctl(8).

use std::process::ExitCode;

fn main() -> ExitCode {
    mcpdaemon::ctl::main(mcpdaemon::cli::args())
}
