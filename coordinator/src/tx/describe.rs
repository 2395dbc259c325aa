//! `unanimous tx describe`: what its state means, why it waits, and what a person can do.

use super::words::{branch_words, label_words, locked_word, outcome_word};
use super::words::{state_word, waiting_words};
use crate::cli::{Format, Global, IdArg};
use crate::connect;
use crate::errors::Failure;
use crate::force::verb;
use crate::output::{Document, Output, canonical_json, escape_lines, short_duration};
use unanimous_proto::v1;
use v1::{ActKind, BranchState};

/// Branches of which the acts are asked for: a person decides about few of them.
const BRANCHES_MAX: usize = 4;

/// Asks, and shows.
pub(super) async fn run(global: &Global, output: Output, id: &IdArg) -> Result<(), Failure> {
    let transaction = super::find(global, id).await?;
    let mut below = String::new();
    if !transaction.meaning.is_empty() {
        below = format!("\n{}\nnext: {}\n", transaction.meaning, transaction.next);
    }
    if matches!(output.format(), Format::Table | Format::Wide) {
        below += &acts_words(&possible(global, &transaction).await?);
    }
    output.show(&Document {
        whole: canonical_json("Transaction", &transaction)?,
        rows: rows(&transaction, output),
        below: escape_lines(&below),
        ids: vec![transaction.gtrid.clone()],
        ..Document::default()
    })
}

fn rows(transaction: &v1::Transaction, output: Output) -> Vec<Vec<String>> {
    let resolved = if transaction.resolved { ", resolved: an operator has settled it" } else { "" };
    let mut rows: Vec<Vec<String>> = [
        ("id", transaction.gtrid.clone()),
        ("name", transaction.name.clone()),
        ("state", state_word(transaction.state) + resolved),
        ("outcome", outcome_word(transaction.outcome)),
        ("age", output.ago(transaction.age_ms)),
        ("locked for", locked_word(transaction)),
        ("waiting on", waiting_words(transaction)),
        ("tries", tries_words(transaction)),
        ("labels", label_words(transaction)),
        ("recovered", if transaction.recovered { "yes" } else { "no" }.to_owned()),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .to_vec();
    rows.extend(transaction.branches.iter().map(|branch| {
        let place = if branch.connected { "connected" } else { "not connected" };
        let participant = format!("{} {} ({place})", branch.participant, branch.resource_id);
        // Resource manager and number; what follows is the coordinator, the same in all of them.
        let number = branch.bqual.get(..16).unwrap_or(&branch.bqual);
        vec![format!("branch {number}"), participant, branch_words(branch)]
    }));
    rows
}

/// How often it was sent again, and when it will be.
fn tries_words(transaction: &v1::Transaction) -> String {
    if transaction.waiting_on.is_empty() {
        return "-".to_owned();
    }
    match (transaction.tries, transaction.next_try_ms) {
        (0, 0) => "-".to_owned(),
        (tries, 0) => tries.to_string(),
        (0, next_ms) => format!("none but the first, again in {}", short_duration(next_ms)),
        (tries, next_ms) => format!("{tries}, the next one in {}", short_duration(next_ms)),
    }
}

/// An act that the state allows, as a command line, and what would come of it.
#[derive(Debug, PartialEq, Eq)]
struct Possible {
    line: String,
    then: String,
}

/// The coordinator alone knows what a state allows: it is asked for the plan of each act. Whoever
/// may not ask sees none.
async fn possible(
    global: &Global,
    transaction: &v1::Transaction,
) -> Result<Vec<Possible>, Failure> {
    let mut admin = connect::admin(global).await?;
    let mut possible = Vec::new();
    for act in acts(transaction) {
        let planned = admin.plan_act(v1::PlanActRequest { act: Some(act.clone()) }).await;
        let plan = planned.ok().and_then(|planned| planned.into_inner().plan);
        possible.extend(plan.filter(|plan| plan.refusal.is_none()).map(|plan| {
            let agree = if plan.consistent { "yes" } else { "no" };
            let outcome = outcome_word(plan.outcome_after);
            let then = format!("outcome {outcome}, consistent: {agree}");
            let evidence = plan.evidence_needed;
            Possible { line: line(&act, evidence), then }
        }));
    }
    Ok(possible)
}

/// Those that are worth asking for.
fn acts(transaction: &v1::Transaction) -> Vec<v1::Act> {
    let act = |kind: ActKind, branch: &str, end: v1::BranchEnd| v1::Act {
        kind: kind.into(),
        gtrid: transaction.gtrid.clone(),
        branch: branch.to_owned(),
        end: end.into(),
    };
    let whole = [ActKind::Rollback, ActKind::Commit, ActKind::Resolve];
    let whole = whole.map(|kind| act(kind, "", v1::BranchEnd::Unspecified));
    let open = transaction.branches.iter().filter(|branch| {
        let open = [BranchState::Enlisted, BranchState::Prepared, BranchState::HeuristicHazard];
        open.contains(&branch.state())
    });
    let branches = open.take(BRANCHES_MAX).flat_map(|branch| {
        let name = branch_name(transaction, branch);
        let gone = act(ActKind::Abandon, name, v1::BranchEnd::Unspecified);
        [act(ActKind::Assert, name, v1::BranchEnd::Committed), gone]
    });
    whole.into_iter().chain(branches).collect()
}

/// As `--branch` takes it.
fn branch_name<'a>(transaction: &v1::Transaction, branch: &'a v1::Branch) -> &'a str {
    let same = |other: &&v1::Branch| other.participant == branch.participant;
    match transaction.branches.iter().filter(same).count() {
        1 => &branch.participant,
        _ => &branch.bqual,
    }
}

fn line(act: &v1::Act, evidence: bool) -> String {
    let mut line = format!("unanimous force {} {}", verb(act.kind()), act.gtrid);
    if !act.branch.is_empty() {
        line += &format!(" --branch {}", act.branch);
    }
    if act.kind() == ActKind::Assert {
        line += " --as END";
    }
    if evidence {
        line += " --evidence SEEN";
    }
    line + " --reason WHY"
}

fn acts_words(possible: &[Possible]) -> String {
    if possible.is_empty() {
        return String::new();
    }
    let lines = possible.iter().map(|one| match one.line.contains("--as END") {
        // What comes of it hangs on what is asserted.
        true => format!("  {}\n", one.line),
        false => format!("  {}\n      {}\n", one.line, one.then),
    });
    "you can, with the plan first:\n".to_owned() + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::words::tests::transaction;
    use super::*;
    use v1::TransactionState;

    fn with_branches(states: &[(&str, BranchState)]) -> v1::Transaction {
        let branches = states.iter().map(|(participant, state)| v1::Branch {
            bqual: format!("{participant}{}-id", *state as i32),
            participant: (*participant).to_owned(),
            state: (*state).into(),
            ..v1::Branch::default()
        });
        v1::Transaction {
            branches: branches.collect(),
            ..transaction(TransactionState::Committing)
        }
    }

    #[test]
    fn acts_are_asked_for_on_the_whole_and_on_what_is_open() {
        let found = with_branches(&[
            ("bank-a", BranchState::Done),
            ("bank-b", BranchState::Prepared),
            ("bank-c", BranchState::Prepared),
            ("bank-c", BranchState::HeuristicHazard),
        ]);
        let acts = acts(&found);
        let lines: Vec<_> = acts.iter().map(|act| line(act, false)).collect();
        let id = &found.gtrid;
        let expected = [
            format!("unanimous force rollback {id} --reason WHY"),
            format!("unanimous force commit {id} --reason WHY"),
            format!("unanimous force forget {id} --reason WHY"),
            format!("unanimous force assert {id} --branch bank-b --as END --reason WHY"),
            format!("unanimous force abandon {id} --branch bank-b --reason WHY"),
            format!("unanimous force assert {id} --branch bank-c2-id --as END --reason WHY"),
            format!("unanimous force abandon {id} --branch bank-c2-id --reason WHY"),
            format!("unanimous force assert {id} --branch bank-c9-id --as END --reason WHY"),
            format!("unanimous force abandon {id} --branch bank-c9-id --reason WHY"),
        ];
        assert_eq!(lines, expected);
        assert!(line(&acts[3], true).ends_with("--as END --evidence SEEN --reason WHY"));
    }

    #[test]
    fn what_comes_of_an_act_stands_below_its_line() {
        let one = |line: &str| Possible { line: line.to_owned(), then: "outcome X".to_owned() };
        assert_eq!(acts_words(&[]), "");
        assert_eq!(
            acts_words(&[one("force rollback"), one("force assert --as END")]),
            "you can, with the plan first:\n  force rollback\n      outcome X\n  \
             force assert --as END\n"
        );
    }

    #[test]
    fn tries_tell_when_the_next_one_is() {
        let mut found = transaction(TransactionState::Committing);
        assert_eq!(tries_words(&found), "3");
        found.next_try_ms = 12_000;
        assert_eq!(tries_words(&found), "3, the next one in 12s");
        found.tries = 0;
        assert_eq!(tries_words(&found), "none but the first, again in 12s");
        found.waiting_on.clear();
        assert_eq!(tries_words(&found), "-");
    }
}
