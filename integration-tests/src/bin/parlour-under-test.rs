//! `parlour`, built as the tests are.

use std::process::ExitCode;

fn main() -> ExitCode {
    parlour::command_line::main()
}
