//! The `courser` command: reads argv, runs a command, tells how it ended by its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    courser::cli::main()
}
