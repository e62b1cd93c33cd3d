//! The sarcenet command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sarcenet_control::cli::run()
}
