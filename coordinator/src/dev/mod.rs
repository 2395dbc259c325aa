//! `unanimous dev`: a coordinator and two banks to try it on, on one machine, with load and faults.
//!
//! This process supervises and makes load; the three others are this executable again. What is
//! checked in the end is read from their stopped stores by a process that remembers nothing.
//!
//! Reading order: `session` (what every run has), `interactive`, `timed`, `load`, `chaos`,
//! `verify`; below them `supervise` (processes), `control` (acts by hand), `bank` (the demo
//! participant).

mod bank;
mod books;
mod chaos;
mod control;
mod interactive;
mod load;
mod moment;
mod session;
mod supervise;
mod timed;
mod verify;

/// Messages and service of the demo banks.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::too_many_lines)]
mod wire {
    tonic::include_proto!("unanimous.dev.v1");
}

use crate::cli::{DevArgs, DevCommand, Global};
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Output, talk};
use crate::runtime;
use session::{Layout, Ports};
use std::path::Path;
use unanimous_sdk::embedded;

/// The coordinator's name and the banks', as people say them; also the names of their stores.
const COORDINATOR: &str = "coordinator";
const BANKS: [&str; 2] = ["bank-a", "bank-b"];
const NAMES: [&str; 3] = [COORDINATOR, BANKS[0], BANKS[1]];

/// Does a `dev` command.
pub(crate) fn run(args: &DevArgs, global: &Global, output: Output) -> Result<(), Failure> {
    match &args.command {
        None => session::run(args, output),
        Some(DevCommand::Verify { dir }) => verify::run(&Layout::made(dir)?, output),
        Some(DevCommand::Chaos { act, name, control }) => {
            runtime()?.block_on(control::ask(*act, name, control.as_deref()))
        }
        Some(DevCommand::Adjust { bank, account, cents, dir }) => {
            adjust(bank, *account, *cents, dir)
        }
        Some(DevCommand::Bank(args)) => bank::run(args, global),
    }
}

/// Makes money, to show that it is noticed.
fn adjust(bank: &str, account: u32, cents: i64, dir: &Path) -> Result<(), Failure> {
    let layout = Layout::made(dir)?;
    if !BANKS.contains(&bank) {
        let why = format!("there are {}", BANKS.join(" and "));
        let next =
            format!("unanimous dev adjust --bank bank-a --account 7 --cents 1 {}", dir.display());
        return Err(Failure::new(Code::NoSuchBank, format!("no {bank:?}"), why, next));
    }
    if let Some((_, database)) = layout.databases()?.into_iter().find(|(at, _)| *at == bank) {
        let adjusted = runtime()?.block_on(database.adjust(account, cents));
        adjusted.map_err(|error| session::database_failed(bank, &*error))?;
    } else {
        adjust_store(bank, account, cents, &layout)?;
    }
    talk(format_args!("{bank}: account {account} changed by {cents} cents, against the rules"));
    talk(format_args!("next: unanimous dev verify {}", dir.display()));
    Ok(())
}

fn adjust_store(bank: &str, account: u32, cents: i64, layout: &Layout) -> Result<(), Failure> {
    embedded::adjust(&layout.store(bank), account, cents).map_err(|error| {
        let why = crate::connect::causes(&error);
        let next = format!("unanimous dev verify {}", layout.root().display());
        Failure::new(Code::NotAdjusted, "the balance was not changed", why, next)
    })
}
