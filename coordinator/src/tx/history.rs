//! `unanimous tx history`: what is known of a transaction, in the order in which it happened.

use super::words::{outcome_word, short_id, state_word};
use crate::audit;
use crate::cli::{Global, IdArg};
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape_lines};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use unanimous_proto::v1;
use v1::Outcome;

/// What the coordinator knows.
struct Known {
    gtrid: String,
    /// While it is listed.
    transaction: Option<v1::Transaction>,
    /// When it is not.
    result: Option<v1::Result>,
    audit: Vec<v1::AuditEntry>,
}

/// Asks, and shows.
pub(super) async fn run(global: &Global, output: Output, id: &IdArg) -> Result<(), Failure> {
    let known = ask(global, id).await?;
    let entries = known.audit.iter().map(|entry| canonical_json("AuditEntry", entry));
    let entries: Vec<Value> = entries.collect::<Result<_, _>>()?;
    let transaction = known.transaction.as_ref();
    let transaction = transaction.map(|one| canonical_json("Transaction", one)).transpose()?;
    let result = known.result.as_ref().map(|one| canonical_json("Result", one)).transpose()?;
    let whole = json!({
        "gtrid": known.gtrid,
        "audit": entries,
        "transaction": transaction,
        "result": result,
    });
    output.show(&Document {
        whole,
        items: Some(entries),
        header: vec!["WHEN", "WHAT", "RESULT", "WHO", "BEFORE", "AFTER", "REASON"],
        rows: rows(&known, output),
        below: escape_lines(&now(&known)),
        ids: vec![known.gtrid],
        ..Document::default()
    })
}

async fn ask(global: &Global, id: &IdArg) -> Result<Known, Failure> {
    let transaction = match super::find(global, id).await {
        Ok(transaction) => Some(transaction),
        Err(failure) if failure.code() == Code::NotFound => None,
        Err(failure) => return Err(failure),
    };
    let full = transaction.as_ref().map(|one| one.gtrid.clone());
    let gtrid = full.or_else(|| id.full().map(|id| id.to_string())).ok_or_else(|| unknown(id))?;
    let audit = audit::about(global, &gtrid).await?;
    let result = match transaction {
        Some(_) => None,
        None => {
            let mut transactions = connect::transactions(global).await?;
            let request = v1::GetOutcomeRequest { gtrid: gtrid.clone(), expected_branches: None };
            let answer = super::ask_outcome(&mut transactions, global, request).await?;
            Some(answer.result.unwrap_or_default())
        }
    };
    let nothing =
        |result: &v1::Result| matches!(result.outcome(), Outcome::Unknown | Outcome::Unspecified);
    if audit.is_empty() && result.as_ref().is_some_and(nothing) {
        return Err(unknown(id));
    }
    Ok(Known { gtrid, transaction, result, audit })
}

fn unknown(id: &IdArg) -> Failure {
    let what = format!("nothing is known of transaction {}", id.digits());
    let why = "it is not unfinished, its outcome is not remembered, and nobody has forced anything";
    Failure::new(Code::NotFound, what, why, "unanimous tx history FULL_ID").or("unanimous tx list")
}

/// Its begin, and every act.
fn rows(known: &Known, output: Output) -> Vec<Vec<String>> {
    let began = known.transaction.iter().map(|one| {
        let at = SystemTime::now().checked_sub(Duration::from_millis(one.age_ms));
        let at = output.at(at.unwrap_or(SystemTime::UNIX_EPOCH));
        let words = [at, "began".to_owned()];
        let rest = std::iter::repeat_n(String::new(), 4);
        words.into_iter().chain(rest).chain([one.name.clone()]).collect()
    });
    let acts = known.audit.iter().map(|entry| {
        vec![
            output.at(audit::written_at(entry)),
            audit::act_words(entry),
            audit::result_words(entry),
            entry.who.clone(),
            entry.before.clone(),
            entry.after.clone(),
            entry.reason.clone(),
        ]
    });
    began.chain(acts).collect()
}

/// How it is now.
fn now(known: &Known) -> String {
    let short = short_id(&known.gtrid);
    match (&known.transaction, &known.result) {
        (Some(transaction), _) => {
            let resolved = if transaction.resolved { ", resolved" } else { "" };
            let (state, outcome) =
                (state_word(transaction.state), outcome_word(transaction.outcome));
            format!(
                "\nnow: {state}{resolved}, outcome {outcome}\nnext: unanimous tx describe {short}\n"
            )
        }
        (None, Some(result)) => format!("\nnow: ended, outcome {}\n", outcome_word(result.outcome)),
        (None, None) => String::new(),
    }
}
