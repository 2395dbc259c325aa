//! The program `unanimous`: `serve` is the coordinator, `dev` a coordinator with two demo banks to
//! try it on, every other command is the operator's.
//!
//! Reading order: `cli` (the command line as data), `errors` (exit codes, the three lines of an
//! error), `output` (what stdout shows), then a file for each command.
//!
//! What this crate is *not*: it has no protocol (`unanimous-core`), no log (`unanimous-recovery`)
//! and no service (`unanimous-server`) of its own; it starts them and shows what they say.

mod access;
mod audit;
mod cert;
mod check;
mod cli;
mod codes;
mod config;
mod confirm;
mod connect;
mod dev;
mod doctor;
mod errors;
mod explain;
mod force;
mod log;
mod manual;
mod nearest;
mod orphan;
mod output;
mod participant;
mod process;
mod serve;
mod status;
mod tx;
mod usage;

use clap::Parser;
use cli::{Cli, Command};
use codes::Code;
use errors::Failure;
use output::{Document, Output};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let ran = match Cli::try_parse() {
        Ok(cli) => run(&cli),
        Err(error) => usage::explain(&error).map(|()| ExitCode::SUCCESS),
    };
    match ran {
        Ok(code) => code,
        Err(failure) => {
            let lines = failure.lines(output::stderr_colour());
            output::talk(lines.trim_end());
            ExitCode::from(failure.exit().code())
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let output = Output::new(&cli.global);
    let done = match &cli.command {
        // It alone has exit codes of its own.
        Command::Check(args) => return check::run(args, &cli.global, output),
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(args, &cli.global, output),
        Command::Tx(command) => tx::run(command, &cli.global, output),
        Command::Force(command) => force::run(command, &cli.global, output),
        Command::Participant(command) => participant::run(command, &cli.global, output),
        Command::Doctor => doctor::run(&cli.global, output),
        Command::Orphan(command) => orphan::run(command, &cli.global, output),
        Command::Audit(command) => audit::run(command, &cli.global, output),
        Command::Status => status::run(&cli.global, output),
        Command::Log(command) => log::run(command, output),
        Command::Config(command) => config::run(command, output),
        Command::Cert(command) => cert::run(command, output),
        Command::Explain { code } => explain::run(code.as_deref(), output),
        Command::Completion { shell } => manual::completion(*shell),
        Command::Man { dir } => manual::pages(dir, output),
        Command::Version => version(output),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn version(output: Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    output.show(&Document {
        whole: serde_json::json!({ "version": version, "protocol": "unanimous.v1" }),
        rows: vec![vec![format!("unanimous {version}")]],
        ids: vec![version.to_owned()],
        ..Document::default()
    })
}

/// A runtime on this thread: commands ask few questions, and `dev` shares its machine with what it
/// watches.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Io, "no runtime", error.to_string(), "ulimit -a"))
}
