//! `unanimous orphan`: prepared branches that no record of this log explains.

use crate::cli::{EndArg, Format, Global, OrphanCommand, ResolveArgs};
use crate::codes::Code;
use crate::confirm::{self, Danger, Word};
use crate::connect;
use crate::errors::Failure;
use crate::force::{is_unknown, second_person, unknown};
use crate::output::{Document, Output, canonical_json, escape_lines, quoted, talk};
use crate::runtime;
use crate::tx::short_id;
use tonic::Status;
use tonic_types::StatusExt;
use unanimous_proto::v1;

/// Does an `orphan` command.
pub(crate) fn run(command: &OrphanCommand, global: &Global, output: Output) -> Result<(), Failure> {
    match command {
        OrphanCommand::List => list(global, output),
        OrphanCommand::Resolve(args) => resolve(args, global, output),
    }
}

fn listed(global: &Global) -> Result<v1::ListOrphansResponse, Failure> {
    let address = &global.admin_address;
    let listed = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let listed = admin.list_orphans(v1::ListOrphansRequest {}).await;
        listed.map_err(|status| Failure::from_status(&status, address, "listing orphans"))
    })?;
    Ok(listed.into_inner())
}

/// Branches that are left alone.
fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let listed = listed(global)?;
    let whole = canonical_json("ListOrphansResponse", &listed)?;
    let row = |orphan: &v1::Orphan| {
        vec![
            orphan.participant.clone(),
            output.ago(orphan.first_asked_ms),
            output.ago(orphan.last_asked_ms),
            orphan.gtrid.clone(),
            orphan.bqual.clone(),
            orphan.reason.clone(),
        ]
    };
    output.show(&Document {
        items: whole["orphans"].as_array().cloned(),
        whole,
        header: vec!["PARTICIPANT", "FIRST ASKED", "LAST ASKED", "TRANSACTION", "BRANCH", "WHY"],
        rows: listed.orphans.iter().map(row).collect(),
        wide_columns: vec![4],
        ids: listed.orphans.iter().map(|o| format!("{}.{}", o.gtrid, o.bqual)).collect(),
        ..Document::default()
    })?;
    if listed.not_listed > 0 && matches!(output.format(), Format::Table | Format::Wide) {
        talk(format!("{} more questions were about branches not listed", listed.not_listed));
    }
    Ok(())
}

/// A person says how a branch has ended that the coordinator may not judge.
fn resolve(args: &ResolveArgs, global: &Global, output: Output) -> Result<(), Failure> {
    let (gtrid, bqual) = (args.gtrid.digits(), args.bqual.digits());
    let mut orphans = listed(global)?.orphans.into_iter();
    let orphan = orphans.find(|orphan| orphan.gtrid == gtrid && orphan.bqual == bqual);
    let orphan = orphan.ok_or_else(|| not_listed(gtrid, "no such branch is on the list"))?;
    talk(escape_lines(&plan(&orphan, args.end, output)).trim_end());
    if args.dry_run {
        return match output.format() {
            Format::Table | Format::Wide => Ok(()),
            _ => output.show(&Document {
                whole: canonical_json("Orphan", &orphan)?,
                ids: vec![format!("{gtrid}.{bqual}")],
                ..Document::default()
            }),
        };
    }
    let again = again(args, global);
    let danger = Danger { id: gtrid, given: args.confirm.as_deref(), again };
    // What has no effect needs no word.
    if !args.propose && danger.word(confirm::terminal())? == Word::Ask {
        danger.ask()?;
    }
    let address = &global.admin_address;
    let request = v1::ResolveOrphanRequest {
        gtrid: gtrid.to_owned(),
        bqual: bqual.to_owned(),
        end: args.end.wire().into(),
        reason: args.reason.clone(),
        propose: args.propose,
    };
    let resolved = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let resolved = admin.resolve_orphan(request).await;
        resolved.map_err(|status| not_resolved(&status, &danger, address))
    })?;
    let resolved = resolved.into_inner();
    let list = format!("unanimous audit list --id {}", short_id(gtrid));
    output.show(&Document {
        whole: canonical_json("ResolveOrphanResponse", &resolved)?,
        rows: vec![
            vec!["branch".to_owned(), format!("{gtrid}.{bqual}")],
            vec!["audit".to_owned(), format!("entry {}, see: {list}", resolved.audit_number)],
        ],
        below: if args.propose {
            format!("\nA second person has to say the same:\n  {}\n", danger.again)
        } else {
            format!("\n{} is told so when it asks again.\n", orphan.participant)
        },
        ids: vec![format!("{gtrid}.{bqual}")],
        ..Document::default()
    })
}

/// Its row of the list, and what would be told.
fn plan(orphan: &v1::Orphan, end: EndArg, output: Output) -> String {
    let told = match end {
        EndArg::Committed => "COMMIT",
        EndArg::RolledBack | EndArg::Mixed => "ROLLBACK",
    };
    let v1::Orphan { gtrid, bqual, participant, reason, first_asked_ms, last_asked_ms } = orphan;
    let (first, last) = (output.ago(*first_asked_ms), output.ago(*last_asked_ms));
    let short = short_id(gtrid);
    format!(
        "Plan for branch {bqual} of ...{short}\n  {participant}  PREPARED  would be told {told}\n  \
         asked about first {first}, last {last}: {reason}\n\
         warning: no log knows the decision, and what is told cannot be taken back\n"
    )
}

fn again(args: &ResolveArgs, global: &Global) -> String {
    let (gtrid, bqual, end) = (args.gtrid.digits(), args.bqual.digits(), args.end.word());
    let (reason, options) = (quoted(&args.reason), connect::options(global));
    format!("unanimous orphan resolve {gtrid} {bqual} --as {end} --reason {reason}{options}")
}

fn not_listed(gtrid: &str, why: &str) -> Failure {
    let what = "refused: no record is missing for this branch";
    Failure::new(Code::NotAnOrphan, what, why, "unanimous orphan list")
        .or(format!("unanimous tx outcome {gtrid}"))
}

fn not_resolved(status: &Status, danger: &Danger<'_>, address: &str) -> Failure {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    if is_unknown(status.code(), &reason) {
        return unknown(status.message(), danger);
    }
    match Failure::from_status(status, address, "resolving it") {
        failure if failure.code() == Code::NotAnOrphan => not_listed(danger.id, status.message()),
        failure if failure.code() == Code::SecondPersonNeeded => {
            second_person(status.message(), danger)
        }
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn resolve_args(more: &[&str]) -> Result<(Global, ResolveArgs), clap::Error> {
        let (gtrid, bqual) = ("01".repeat(24), "A5".repeat(24));
        let words = ["unanimous", "orphan", "resolve", &gtrid, &bqual];
        let cli = Cli::try_parse_from([&words[..], more].concat())?;
        let Command::Orphan(OrphanCommand::Resolve(args)) = cli.command else { panic!() };
        Ok((cli.global, args))
    }

    #[test]
    fn a_plan_is_its_row_and_what_would_be_told() {
        let given = ["--as", "committed", "--reason", "the other bank has committed"];
        let (global, args) = resolve_args(&given).unwrap();
        let orphan = v1::Orphan {
            gtrid: args.gtrid.digits().to_owned(),
            bqual: args.bqual.digits().to_owned(),
            participant: "bank-b".to_owned(),
            reason: "another incarnation".to_owned(),
            first_asked_ms: 252_000,
            last_asked_ms: 1_000,
        };
        assert_eq!(
            plan(&orphan, args.end, Output::new(&global)),
            format!(
                "Plan for branch {} of ...01010101\n  \
                 bank-b  PREPARED  would be told COMMIT\n  \
                 asked about first 4m12s, last 1.0s: another incarnation\n\
                 warning: no log knows the decision, and what is told cannot be taken back\n",
                "a5".repeat(24)
            )
        );
        let end = EndArg::RolledBack;
        assert!(plan(&orphan, end, Output::new(&global)).contains("would be told ROLLBACK"));
        let line = again(&args, &global);
        assert!(line.ends_with("--as committed --reason 'the other bank has committed'"), "{line}");
    }

    #[test]
    fn a_branch_is_resolved_one_way_or_the_other_with_a_reason() {
        for bad in [
            &["--as", "mixed", "--reason", "x"][..],
            &["--as", "committed"],
            &["--reason", "x"],
            &["--as", "committed", "--reason", " "],
        ] {
            assert!(resolve_args(bad).is_err(), "{bad:?}");
        }
    }
}
