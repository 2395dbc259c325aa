//! `sim`: runs the simulator from the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimous_sim::command::main()
}
