//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(referrald::cli::main(&referrald::cli::build::Product))
}
