//! `unanimous tx`: transactions, for people and scripts.
//!
//! Reading order: `list` (pages, filters and their mistakes), `describe` (one, and what can be
//! done) and `history` (what was done), `watch` (what changes) and `screen` (where it is drawn),
//! `words` (what all of them say).

mod describe;
mod history;
mod list;
mod screen;
mod watch;
mod words;

use crate::cli::{Global, IdArg, TxCommand};
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json};
use crate::runtime;
use serde_json::Value;
use std::time::{Duration, Instant};
use unanimous_proto::v1;
use v1::Outcome;
use words::waiting_words;

pub(crate) use words::{HEADER, WIDE_COLUMNS, branch_state_word, enum_word, outcome_word, row};
pub(crate) use words::{short_id, state_word};

/// Between two questions for an outcome that is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Does a `tx` command.
pub(crate) fn run(command: &TxCommand, global: &Global, output: Output) -> Result<(), Failure> {
    runtime()?.block_on(async {
        match command {
            TxCommand::List(args) => list::run(global, output, args).await,
            TxCommand::Describe { id } => describe::run(global, output, id).await,
            TxCommand::History { id } => history::run(global, output, id).await,
            TxCommand::Watch(args) => watch::run(global, output, args).await,
            TxCommand::Retry { id } => retry(global, output, id).await,
            TxCommand::Outcome { id, wait, expected_branches } => {
                let wait = wait.map_or(Duration::ZERO, Duration::from);
                outcome(global, output, id, wait, *expected_branches).await
            }
        }
    })
}

async fn retry(global: &Global, output: Output, id: &IdArg) -> Result<(), Failure> {
    let address = &global.admin_address;
    let mut admin = connect::admin(global).await?;
    let request = v1::RetryTransactionRequest { gtrid: id.digits().to_owned() };
    let doing = format!("retrying transaction {}", id.digits());
    let retried = admin.retry_transaction(request).await.map_err(|status| {
        match Failure::from_status(&status, address, &doing) {
            failure if failure.code() == Code::NothingToRetry => {
                let next = format!("unanimous tx describe {}", id.digits());
                Failure::new(Code::NothingToRetry, doing.as_str(), status.message(), next)
            }
            failure => failure,
        }
    })?;
    let retried = retried.into_inner();
    let transaction = retried.transaction.clone().unwrap_or_default();
    let branches = match retried.branches {
        1 => "1 branch".to_owned(),
        many => format!("{many} branches"),
    };
    let sent = format!("to {branches}; waiting on {}", waiting_words(&transaction));
    output.show(&Document {
        whole: canonical_json("RetryTransactionResponse", &retried)?,
        rows: vec![
            vec!["id".to_owned(), transaction.gtrid.clone()],
            vec!["state".to_owned(), state_word(transaction.state)],
            vec!["sent again".to_owned(), sent],
        ],
        ids: vec![transaction.gtrid],
        ..Document::default()
    })
}

async fn find(global: &Global, id: &IdArg) -> Result<v1::Transaction, Failure> {
    let address = &global.admin_address;
    let mut admin = connect::admin(global).await?;
    let request = v1::GetTransactionRequest { gtrid: id.digits().to_owned() };
    let doing = format!("finding transaction {}", id.digits());
    let found = admin
        .get_transaction(request)
        .await
        .map_err(|status| Failure::from_status(&status, address, &doing))?;
    found
        .into_inner()
        .transaction
        .ok_or_else(|| Failure::new(Code::Failed, doing, "an empty answer", "unanimous version"))
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
    let mut transactions = connect::transactions(global).await?;
    let started = Instant::now();
    let answer = loop {
        let request = v1::GetOutcomeRequest { gtrid: gtrid.clone(), expected_branches };
        let answer = ask_outcome(&mut transactions, global, request).await?;
        let undecided = matches!(outcome_of(&answer), Outcome::Pending | Outcome::Unspecified);
        if !undecided || started.elapsed() >= wait {
            break answer;
        }
        tokio::time::sleep(ASK_AGAIN.min(wait)).await;
    };
    output.show(&outcome_document(&answer)?)?;
    match outcome_of(&answer) {
        Outcome::Pending | Outcome::Unspecified => Err(Failure::new(
            Code::OutcomePending,
            format!("transaction {} is not decided yet", short_id(&gtrid)),
            "its commit was not requested, or votes are missing",
            format!("unanimous tx outcome {gtrid} --wait 30s"),
        )),
        Outcome::Unknown => Err(Failure::new(
            Code::OutcomeUnknown,
            format!("nothing is known of transaction {}", short_id(&gtrid)),
            "there is no record, and a rollback may not be presumed: it may have committed in \
             one phase, be of another log, or be forgotten",
            format!("unanimous tx outcome {gtrid} --expected-branches N"),
        )
        .or("ask its participants")),
        _ => Ok(()),
    }
}

async fn ask_outcome(
    transactions: &mut connect::Transactions,
    global: &Global,
    request: v1::GetOutcomeRequest,
) -> Result<v1::GetOutcomeResponse, Failure> {
    let gtrid = request.gtrid.clone();
    let doing = format!("asking for the outcome of {gtrid}");
    let answer = transactions.get_outcome(request).await.map_err(|status| {
        match Failure::from_status(&status, &global.address, &doing) {
            failure if failure.code() == Code::NoAnswer => no_answer(&gtrid, status.message()),
            failure => failure,
        }
    })?;
    Ok(answer.into_inner())
}

fn no_answer(gtrid: &str, why: &str) -> Failure {
    let what = format!("the outcome of transaction {} was not told in time", short_id(gtrid));
    let next = format!("unanimous tx outcome {gtrid} --wait 30s");
    Failure::new(Code::NoAnswerInTime, what, why, next)
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
