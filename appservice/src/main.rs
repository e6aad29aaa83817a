//! The one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    parlour::command_line::main()
}
