//! `model`: checks every order of events of one transaction, from the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimous_sim::model::main()
}
