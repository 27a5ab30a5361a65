//! `syncd`: the daemon; `syncd serve` speaks to a peer on standard input and output.

use std::process::ExitCode;

fn main() -> ExitCode {
    osm_failover::cli::daemon::run()
}
