//! The program: passes its arguments to `mesync::cli` and its status to the system. It knows no
//! command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesync::main(std::env::args_os())
}
