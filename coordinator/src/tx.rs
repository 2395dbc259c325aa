//! `unanimous tx`: transactions, for people and scripts.

use crate::cli::{Format, Global, IdArg, StateArg, TxCommand};
use crate::connect;
use crate::errors::{Exit, Failure};
use crate::output::{Document, Output, canonical_json, escape_lines, short_duration, talk};
use crate::runtime;
use serde_json::Value;
use std::time::{Duration, Instant};
use tonic::Code;
use unanimous_proto::v1;
use v1::{Outcome, TransactionState};

/// The most transactions that the coordinator gives at once.
const PAGE_MAX: u32 = 1_000;
/// Between two questions for an outcome that is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Does a `tx` command.
pub(crate) fn run(command: &TxCommand, global: &Global, output: Output) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            TxCommand::List { limit, page_token, state } => {
                list(global, output, *limit, page_token, state).await
            }
            TxCommand::Describe { id } => describe(global, output, id).await,
            TxCommand::Outcome { id, wait, expected_branches } => {
                let wait = wait.map_or(Duration::ZERO, Duration::from);
                outcome(global, output, id, wait, *expected_branches).await
            }
        }
    })
}

async fn list(
    global: &Global,
    output: Output,
    limit: u32,
    page_token: &str,
    states: &[StateArg],
) -> Result<(), Failure> {
    let address = &global.admin_address;
    let mut admin = connect::admin(address).await?;
    let mut listed = v1::ListTransactionsResponse::default();
    let mut token = page_token.to_owned();
    let mut wanted = limit;
    while wanted > 0 {
        let request = v1::ListTransactionsRequest {
            page_size: wanted.min(PAGE_MAX),
            page_token: token,
            filter: String::new(),
        };
        let page = admin
            .list_transactions(request)
            .await
            .map_err(|status| Failure::from_status(&status, address, "listing transactions"))?
            .into_inner();
        let count = u32::try_from(page.transactions.len()).unwrap_or(u32::MAX);
        wanted = wanted.saturating_sub(count);
        listed.transactions.extend(page.transactions);
        listed.total = page.total;
        listed.next_page_token.clone_from(&page.next_page_token);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    output.show(&list_document(&listed, output)?)?;
    if matches!(output.format(), Format::Table | Format::Wide) {
        talk(list_summary(&listed));
    }
    Ok(())
}

fn list_document(
    listed: &v1::ListTransactionsResponse,
    output: Output,
) -> Result<Document, Failure> {
    let whole = canonical_json("ListTransactionsResponse", listed)?;
    let items = whole["transactions"].as_array().cloned().unwrap_or_default();
    let header =
        vec!["ID", "NAME", "STATE", "BRANCHES", "WAITING ON", "LOCKED", "AGE", "TRIES", "OUTCOME"];
    Ok(Document {
        whole,
        items: Some(items),
        header,
        rows: listed.transactions.iter().map(|transaction| row(transaction, output)).collect(),
        wide_columns: vec![7, 8],
        ids: listed.transactions.iter().map(|transaction| transaction.gtrid.clone()).collect(),
        ..Document::default()
    })
}

fn row(transaction: &v1::Transaction, output: Output) -> Vec<String> {
    vec![
        short_id(&transaction.gtrid).to_owned(),
        transaction.name.clone(),
        state_word(transaction.state),
        format!("{}/{}", transaction.branches_done, transaction.branches.len()),
        waiting_words(transaction),
        locked_word(transaction),
        output.ago(transaction.age_ms),
        transaction.tries.to_string(),
        outcome_word(transaction.outcome),
    ]
}

fn waiting_words(transaction: &v1::Transaction) -> String {
    match transaction.waiting_on.as_slice() {
        [] if needs_a_person(transaction) => "operator".to_owned(),
        [] => "-".to_owned(),
        names if transaction.tries > 1 => {
            format!("{} ({} tries)", names.join(", "), transaction.tries)
        }
        names => names.join(", "),
    }
}

fn locked_word(transaction: &v1::Transaction) -> String {
    match transaction.locked_ms {
        0 => "-".to_owned(),
        locked_ms => short_duration(locked_ms),
    }
}

fn needs_a_person(transaction: &v1::Transaction) -> bool {
    transaction.state() == TransactionState::Heuristic || transaction.stuck
}

fn list_summary(listed: &v1::ListTransactionsResponse) -> String {
    let shown = listed.transactions.len();
    let mut text = if listed.next_page_token.is_empty() {
        format!("{shown} shown.")
    } else {
        let token = &listed.next_page_token;
        format!("{shown} of {} shown; next: unanimous tx list --page-token {token}", listed.total)
    };
    let mut needy = listed.transactions.iter().filter(|t| needs_a_person(t));
    if let Some(first) = needy.next() {
        let (count, id) = (1 + needy.count(), short_id(&first.gtrid));
        let needs = if count == 1 { "needs" } else { "need" };
        text += &format!(" {count} {needs} you: unanimous tx describe {id}");
    }
    text
}

async fn describe(global: &Global, output: Output, id: &IdArg) -> Result<(), Failure> {
    let transaction = find(global, id).await?;
    let mut below = format!("\n{}\nnext: {}\n", transaction.meaning, transaction.next);
    if transaction.meaning.is_empty() {
        below.clear();
    }
    let branches = transaction.branches.iter().map(|branch| {
        let place = if branch.connected { "connected" } else { "not connected" };
        let participant = format!("{} {} ({place})", branch.participant, branch.resource_id);
        // Resource manager and number; what follows is the coordinator, the same in all of them.
        let number = branch.bqual.get(..16).unwrap_or(&branch.bqual);
        vec![format!("branch {number}"), participant, branch_words(branch)]
    });
    let mut rows: Vec<Vec<String>> = [
        ("id", transaction.gtrid.clone()),
        ("name", transaction.name.clone()),
        ("state", state_word(transaction.state)),
        ("outcome", outcome_word(transaction.outcome)),
        ("age", output.ago(transaction.age_ms)),
        ("locked for", locked_word(&transaction)),
        ("waiting on", waiting_words(&transaction)),
        ("recovered", if transaction.recovered { "yes" } else { "no" }.to_owned()),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .to_vec();
    rows.extend(branches);
    output.show(&Document {
        whole: canonical_json("Transaction", &transaction)?,
        rows,
        below: escape_lines(&below),
        ids: vec![transaction.gtrid.clone()],
        ..Document::default()
    })
}

fn branch_words(branch: &v1::Branch) -> String {
    let state = enum_word(branch.state().as_str_name(), "BRANCH_STATE_");
    if branch.detail.is_empty() { state } else { format!("{state}: {}", branch.detail) }
}

async fn find(global: &Global, id: &IdArg) -> Result<v1::Transaction, Failure> {
    let address = &global.admin_address;
    let mut admin = connect::admin(address).await?;
    let request = v1::GetTransactionRequest { gtrid: id.digits().to_owned() };
    let doing = format!("finding transaction {}", id.digits());
    let found = admin
        .get_transaction(request)
        .await
        .map_err(|status| Failure::from_status(&status, address, &doing))?;
    found.into_inner().transaction.ok_or_else(|| {
        Failure::new(Exit::Failed, "FAILED", doing, "an empty answer", "unanimous version")
    })
}

async fn outcome(
    global: &Global,
    output: Output,
    id: &IdArg,
    wait: Duration,
    expected_branches: Option<u32>,
) -> Result<(), Failure> {
    let gtrid = match id.full() {
        Some(gtrid) => gtrid.to_string(),
        None => find(global, id).await?.gtrid,
    };
    let address = &global.address;
    let mut transactions = connect::transactions(address).await?;
    let started = Instant::now();
    let answer = loop {
        let request = v1::GetOutcomeRequest { gtrid: gtrid.clone(), expected_branches };
        let doing = format!("asking for the outcome of {gtrid}");
        let answer = transactions
            .get_outcome(request)
            .await
            .map_err(|status| match status.code() {
                Code::DeadlineExceeded | Code::Cancelled => no_answer(&gtrid, status.message()),
                _ => Failure::from_status(&status, address, &doing),
            })?
            .into_inner();
        let undecided = matches!(outcome_of(&answer), Outcome::Pending | Outcome::Unspecified);
        if !undecided || started.elapsed() >= wait {
            break answer;
        }
        tokio::time::sleep(ASK_AGAIN.min(wait)).await;
    };
    output.show(&outcome_document(&answer)?)?;
    match outcome_of(&answer) {
        Outcome::Pending | Outcome::Unspecified => Err(Failure::new(
            Exit::OutcomeUnknown,
            "OUTCOME_PENDING",
            format!("transaction {} is not decided yet", short_id(&gtrid)),
            "its commit was not requested, or votes are missing",
            format!("unanimous tx outcome {gtrid} --wait 30s"),
        )),
        Outcome::Unknown => Err(Failure::new(
            Exit::OutcomeUnknown,
            "OUTCOME_UNKNOWN",
            format!("nothing is known of transaction {}", short_id(&gtrid)),
            "there is no record, and a rollback may not be presumed: it may have committed in \
             one phase, be of another log, or be forgotten",
            format!("unanimous tx outcome {gtrid} --expected-branches N"),
        )
        .or("ask its participants")),
        _ => Ok(()),
    }
}

fn no_answer(gtrid: &str, why: &str) -> Failure {
    let what = format!("the outcome of transaction {} was not told in time", short_id(gtrid));
    let next = format!("unanimous tx outcome {gtrid} --wait 30s");
    Failure::new(Exit::OutcomeUnknown, "NO_ANSWER_IN_TIME", what, why, next)
}

fn outcome_of(answer: &v1::GetOutcomeResponse) -> Outcome {
    answer.result.as_ref().map_or(Outcome::Unspecified, v1::Result::outcome)
}

fn outcome_document(answer: &v1::GetOutcomeResponse) -> Result<Document, Failure> {
    let result = answer.result.clone().unwrap_or_default();
    let word = outcome_word(result.outcome);
    let mut rows = vec![vec![answer.gtrid.clone(), word]];
    if result.outcome() == Outcome::RolledBack {
        let reason = enum_word(result.rollback_reason().as_str_name(), "ROLLBACK_REASON_");
        rows.push(vec!["reason".to_owned(), reason]);
    }
    for (name, text) in [("participant", &result.participant), ("detail", &result.detail)] {
        if !text.is_empty() {
            rows.push(vec![name.to_owned(), text.clone()]);
        }
    }
    let whole: Value = canonical_json("GetOutcomeResponse", answer)?;
    Ok(Document { whole, rows, ids: vec![answer.gtrid.clone()], ..Document::default() })
}

fn state_number(state: StateArg) -> i32 {
    match state {
        StateArg::Active => TransactionState::Active,
        StateArg::MarkedRollback => TransactionState::MarkedRollback,
        StateArg::Preparing => TransactionState::Preparing,
        StateArg::OnePhase => TransactionState::OnePhase,
        StateArg::Deciding => TransactionState::Deciding,
        StateArg::Committing => TransactionState::Committing,
        StateArg::RollingBack => TransactionState::RollingBack,
        StateArg::Heuristic => TransactionState::Heuristic,
    }
    .into()
}

/// The last 8 digits; not an identifier.
pub(crate) fn short_id(id: &str) -> &str {
    id.len().checked_sub(8).and_then(|start| id.get(start..)).unwrap_or(id)
}

fn state_word(state: i32) -> String {
    TransactionState::try_from(state)
        .map(|state| enum_word(state.as_str_name(), "TRANSACTION_STATE_"))
        .unwrap_or_else(|_| format!("{state} (of a newer version)"))
}

fn outcome_word(outcome: i32) -> String {
    Outcome::try_from(outcome)
        .map(|outcome| enum_word(outcome.as_str_name(), "OUTCOME_"))
        .unwrap_or_else(|_| format!("{outcome} (of a newer version)"))
}

fn enum_word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "-".to_owned(),
        word => word.replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn transaction(state: TransactionState) -> v1::Transaction {
        v1::Transaction {
            gtrid: format!("{}21f70c55", "0".repeat(40)),
            name: "transfer".into(),
            state: state.into(),
            age_ms: 252_000,
            locked_ms: 252_000,
            branches: vec![v1::Branch::default(); 3],
            branches_done: 2,
            waiting_on: vec!["bank-b".into()],
            tries: 3,
            outcome: Outcome::Committed.into(),
            ..v1::Transaction::default()
        }
    }

    fn output() -> Output {
        Output::new(&Cli::parse_from(["unanimous", "tx", "list"]).global)
    }

    #[test]
    fn a_row_says_what_it_waits_for() {
        let row = row(&transaction(TransactionState::Committing), output());
        let (short, rest) = row.split_first().unwrap();
        assert_eq!(short, "21f70c55");
        assert_eq!(rest[..5], ["transfer", "COMMITTING", "2/3", "bank-b (3 tries)", "4m12s"]);
    }

    #[test]
    fn the_summary_names_who_needs_a_person_and_the_next_page() {
        let mut listed = v1::ListTransactionsResponse {
            transactions: vec![transaction(TransactionState::Committing)],
            total: 1,
            ..v1::ListTransactionsResponse::default()
        };
        assert_eq!(list_summary(&listed), "1 shown.");
        listed.transactions.push(transaction(TransactionState::Heuristic));
        listed.next_page_token = "aa".into();
        listed.total = 3_214;
        assert_eq!(
            list_summary(&listed),
            "2 of 3214 shown; next: unanimous tx list --page-token aa \
             1 needs you: unanimous tx describe 21f70c55"
        );
    }

    #[test]
    fn values_of_a_newer_version_are_shown_as_such() {
        assert_eq!(state_word(77), "77 (of a newer version)");
        assert_eq!(outcome_word(0), "-");
        assert_eq!(outcome_word(Outcome::HeuristicMixed.into()), "HEURISTIC MIXED");
    }
}
