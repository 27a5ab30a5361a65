//! `syncctl`: everything a person or a script does.

use std::process::ExitCode;

fn main() -> ExitCode {
    osm_failover::cli::run()
}
