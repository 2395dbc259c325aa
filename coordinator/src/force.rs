//! `unanimous force`: a person decides. The plan comes first, then what forbids it, then the
//! confirmation, and only then the act, on the very state that the plan was made for.
//!
//! Reading order: `plan` (what is shown), `ladder` (how far it may go), `proposals` (acts of two
//! people); `crate::confirm` asks.

mod ladder;
mod plan;
mod proposals;

use crate::cli::{EndArg, ForceArgs, ForceCommand, Format, Global};
use crate::codes::Code;
use crate::confirm::{self, Danger};
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, quoted, talk};
use crate::runtime;
use crate::tx::{outcome_word, short_id, state_word};
use ladder::{Given, Step};
use unanimous_proto::v1;
use v1::ActKind;

pub(crate) use ladder::{is_unknown, second_person, unknown};

/// Does a `force` command.
pub(crate) fn run(command: &ForceCommand, global: &Global, output: Output) -> Result<(), Failure> {
    match command {
        ForceCommand::Approve(args) => proposals::approve(args, global, output),
        ForceCommand::List => proposals::list(global, output),
        ForceCommand::Commit(args) => act(&Asked::new(ActKind::Commit, args), global, output),
        ForceCommand::Rollback(args) => act(&Asked::new(ActKind::Rollback, args), global, output),
        ForceCommand::Forget(args) => act(&Asked::new(ActKind::Resolve, args), global, output),
        ForceCommand::Assert { force, branch, end } => {
            let asked = Asked::new(ActKind::Assert, force);
            act(&Asked { branch: Some(&branch.name), end: Some(*end), ..asked }, global, output)
        }
        ForceCommand::Abandon { force, branch } => {
            let asked = Asked::new(ActKind::Abandon, force);
            act(&Asked { branch: Some(&branch.name), ..asked }, global, output)
        }
    }
}

/// The command's word for an act.
pub(crate) fn verb(kind: ActKind) -> &'static str {
    match kind {
        ActKind::Commit => "commit",
        ActKind::Rollback => "rollback",
        ActKind::Assert => "assert",
        ActKind::Abandon => "abandon",
        ActKind::Resolve => "forget",
        ActKind::Orphan => "orphan resolve",
        ActKind::Call => "call",
        ActKind::Unspecified => "of a newer version",
    }
}

/// An act as it stands on the command line.
struct Asked<'a> {
    kind: ActKind,
    args: &'a ForceArgs,
    branch: Option<&'a str>,
    end: Option<EndArg>,
}

impl<'a> Asked<'a> {
    fn new(kind: ActKind, args: &'a ForceArgs) -> Self {
        Self { kind, args, branch: None, end: None }
    }

    fn wire(&self, gtrid: &str) -> v1::Act {
        v1::Act {
            kind: self.kind.into(),
            gtrid: gtrid.to_owned(),
            branch: self.branch.unwrap_or_default().to_owned(),
            end: self.end.map_or(v1::BranchEnd::Unspecified, EndArg::wire).into(),
        }
    }

    /// The command line as it was given, with this id, without what confirms or proposes it.
    fn again(&self, gtrid: &str, global: &Global) -> String {
        let mut line = format!("unanimous force {} {gtrid}", verb(self.kind));
        let mut add = |option: &str, value: Option<&str>| {
            line.extend(value.map(|value| format!(" {option} {}", quoted(value))));
        };
        add("--branch", self.branch);
        add("--as", self.end.map(EndArg::word));
        add("--reason", Some(&self.args.reason));
        add("--evidence", self.args.evidence.as_deref());
        line + &connect::options(global)
    }
}

fn act(asked: &Asked<'_>, global: &Global, output: Output) -> Result<(), Failure> {
    let Some(gtrid) = asked.args.id.full() else { return Err(too_short(asked, global)) };
    let gtrid = gtrid.to_string();
    let plan = planned(asked, &gtrid, global)?;
    talk(plan::text(&plan).trim_end());
    let args = asked.args;
    let confirm = args.confirm.as_deref();
    let danger = Danger { id: &gtrid, given: confirm, again: asked.again(&gtrid, global) };
    let (dry_run, propose, evidence) = (args.dry_run, args.propose, args.evidence.is_some());
    let given = Given { danger, dry_run, propose, evidence };
    let found = ladder::step(&plan, &given, confirm::terminal());
    if args.dry_run {
        show_plan(&plan, output)?;
    }
    match found? {
        Step::Shown => Ok(()),
        Step::Propose => proposals::propose(&plan, args, &given.danger, global, output),
        Step::Send => send(&plan, args, &given.danger, global, output),
        Step::Ask => {
            given.danger.ask()?;
            send(&plan, args, &given.danger, global, output)
        }
    }
}

/// What has the right end is not meant: nobody forces by accident what ends alike.
fn too_short(asked: &Asked<'_>, global: &Global) -> Failure {
    let digits = asked.args.id.digits();
    let found = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let address = &global.admin_address;
            let mut admin = connect::admin(global).await?;
            let request = v1::GetTransactionRequest { gtrid: digits.to_owned() };
            let found = admin.get_transaction(request).await;
            found.map_err(|status| Failure::from_status(&status, address, "finding it"))
        })
    });
    let full = found.ok().and_then(|found| found.into_inner().transaction).map(|one| one.gtrid);
    let what = format!("{digits} is only the end of an id");
    let why = "what is forced is named by its full id, all 48 digits";
    match full {
        Some(full) => Failure::new(Code::FullIdNeeded, what, why, asked.again(&full, global)),
        None => Failure::new(Code::FullIdNeeded, what, why, "unanimous tx list -o id"),
    }
}

fn planned(asked: &Asked<'_>, gtrid: &str, global: &Global) -> Result<v1::Plan, Failure> {
    let address = &global.admin_address;
    let act = Some(asked.wire(gtrid));
    let planned = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let planned = admin.plan_act(v1::PlanActRequest { act }).await;
        let status = match planned {
            Ok(planned) => return Ok(planned),
            Err(status) => status,
        };
        let failure = Failure::from_status(&status, address, "planning it");
        Err(match failure.code() {
            Code::BranchUnknown | Code::BranchAmbiguous => {
                let what = format!("refused: --branch {}", asked.branch.unwrap_or_default());
                let next = format!("unanimous tx describe {gtrid} -o json");
                Failure::new(failure.code(), what, status.message(), next)
            }
            Code::TxEnded => ladder::ended(&status, gtrid),
            _ => failure,
        })
    })?;
    let none = || Failure::new(Code::Failed, "no plan", "an empty answer", "unanimous version");
    planned.into_inner().plan.ok_or_else(none)
}

/// People have read it on stderr.
fn show_plan(plan: &v1::Plan, output: Output) -> Result<(), Failure> {
    if matches!(output.format(), Format::Table | Format::Wide) {
        return Ok(());
    }
    let ids = plan.act.iter().map(|act| act.gtrid.clone()).collect();
    output.show(&Document { whole: canonical_json("Plan", plan)?, ids, ..Document::default() })
}

/// On a new connection: while a person read and typed, the one of the plan may have died, and a
/// call lost on it could not be told from one that was carried out.
fn send(
    plan: &v1::Plan,
    args: &ForceArgs,
    danger: &Danger<'_>,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let address = &global.admin_address;
    let request = v1::ForceTransactionRequest {
        act: plan.act.clone(),
        version: plan.version,
        reason: args.reason.clone(),
        evidence: args.evidence.clone().unwrap_or_default(),
    };
    let done = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let done = admin.force_transaction(request).await;
        done.map_err(|status| ladder::not_done(&status, plan, danger, address))
    })?;
    let done = done.into_inner();
    let whole = canonical_json("ForceTransactionResponse", &done)?;
    show_done(whole, done.transaction.as_ref(), done.audit_number, danger.id, output)
}

fn show_done(
    whole: serde_json::Value,
    transaction: Option<&v1::Transaction>,
    audit_number: u64,
    gtrid: &str,
    output: Output,
) -> Result<(), Failure> {
    let state = transaction.map_or_else(|| "ended".to_owned(), |found| state_word(found.state));
    let mut rows = vec![("id", gtrid.to_owned()), ("state", state)];
    rows.extend(transaction.map(|found| ("outcome", outcome_word(found.outcome))));
    let list = format!("unanimous audit list --id {}", short_id(gtrid));
    rows.push(("audit", format!("entry {audit_number}, see: {list}")));
    output.show(&Document {
        whole,
        rows: rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect(),
        ids: vec![gtrid.to_owned()],
        ..Document::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn the_line_to_run_again_is_the_one_that_was_given() {
        let full = format!("{}21f70c55", "01".repeat(20));
        let line = format!(
            "unanimous force assert {full} --branch bank-b --as rolled-back --reason 'it'\\''s \
             gone' --evidence 'no row 7' --admin-address http://h:1 --token-file 'my token'"
        );
        let words = ["unanimous", "force", "assert", &full, "--branch", "bank-b", "--as"];
        let more = ["rolled-back", "--reason", "it's gone", "--evidence", "no row 7"];
        let rest = ["--admin-address", "http://h:1", "--confirm", "x", "--token-file", "my token"];
        let cli = Cli::parse_from(words.into_iter().chain(more).chain(rest));
        let Command::Force(ForceCommand::Assert { force, branch, end }) = &cli.command else {
            panic!("{cli:?}")
        };
        let asked = Asked::new(ActKind::Assert, force);
        let asked = Asked { branch: Some(&branch.name), end: Some(*end), ..asked };
        assert_eq!(asked.again(&full, &cli.global), line);
        let act = asked.wire(&full);
        assert_eq!((act.kind(), act.end()), (ActKind::Assert, v1::BranchEnd::RolledBack));
    }

    #[test]
    fn reasons_are_one_line_that_says_something() {
        let full = format!("{}21f70c55", "01".repeat(20));
        let long = "x".repeat(513);
        for bad in ["", " \t", "a\nb", "\u{1b}[2J", "\u{202e}", &long] {
            let words = ["unanimous", "force", "commit", &full, "--reason", bad];
            assert!(Cli::try_parse_from(words).is_err(), "{bad:?}");
        }
        let words = ["unanimous", "force", "commit", &full];
        assert!(Cli::try_parse_from(words).is_err(), "no reason");
        let both = ["--reason", "x", "--propose", "--confirm", &full];
        assert!(Cli::try_parse_from(words.into_iter().chain(both)).is_err(), "both");
    }
}
