//! `unanimous tx watch`: what comes, changes and goes.
//!
//! The coordinator is asked again and again, and each answer is compared with the one before
//! (`Watched`): it keeps no list of watchers, so nobody who watches can slow it down.

use super::list::{PAGE_MAX, not_listed};
use super::screen::Screen;
use super::words::{HEADER, WIDE_COLUMNS};
use super::words::{enum_word, outcome_word, row, short_id, state_word, waiting_words};
use crate::cli::{Format, Global, IdArg, WatchArgs};
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape, grouped, short_duration, talk};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};
use unanimous_proto::v1;
use v1::{Outcome, TransactionState};

/// How long the live list shows what has ended.
const ENDED_SHOWN: Duration = Duration::from_secs(5);
/// How many of them.
const ENDED_MAX: usize = 10;

/// Until it ends, somebody stops it, or the time is over.
pub(super) async fn run(global: &Global, output: Output, args: &WatchArgs) -> Result<(), Failure> {
    let mut watch = Watch {
        admin: connect::admin(global).await?,
        transactions: None,
        global,
        output,
        args,
        started: Instant::now(),
    };
    match &args.id {
        Some(id) => watch.one(id).await,
        None if Screen::fits(output.format()) => watch.live().await,
        None => watch.lines().await,
    }
}

/// What differs from the answer before.
#[derive(Debug, Default)]
struct Changes {
    /// A word, and the transaction as it is now.
    seen: Vec<(&'static str, v1::Transaction)>,
    /// No more in the list, as they were last.
    gone: Vec<v1::Transaction>,
}

/// What the answer before held.
#[derive(Debug, Default)]
struct Watched(BTreeMap<String, v1::Transaction>);

impl Watched {
    fn compare(&mut self, listed: Vec<v1::Transaction>) -> Changes {
        let mut before = std::mem::take(&mut self.0);
        let mut changes = Changes::default();
        for transaction in listed {
            match before.remove(&transaction.gtrid) {
                None => changes.seen.push(("appeared", transaction.clone())),
                Some(old) if face(&old) != face(&transaction) => {
                    changes.seen.push(("changed", transaction.clone()));
                }
                Some(_) => {}
            }
            self.0.insert(transaction.gtrid.clone(), transaction);
        }
        changes.gone = before.into_values().collect();
        changes
    }
}

/// What makes a line when it changes: not the ages, which always do.
fn face(transaction: &v1::Transaction) -> (i32, u32, usize, &[String], bool) {
    let branches = transaction.branches.len();
    let v1::Transaction { state, branches_done, waiting_on, stuck, .. } = transaction;
    (*state, *branches_done, branches, waiting_on, *stuck)
}

/// What became of one that is no more in the list.
#[derive(Debug)]
enum Gone {
    Ended(v1::Result),
    /// It is unfinished still, and does not match the filter any more.
    Unmatched(v1::Transaction),
}

struct Watch<'a> {
    admin: connect::Admin,
    /// Connected when the first outcome is asked for.
    transactions: Option<connect::Transactions>,
    global: &'a Global,
    output: Output,
    args: &'a WatchArgs,
    started: Instant,
}

impl Watch<'_> {
    fn timed_out(&self) -> bool {
        self.args.timeout.is_some_and(|timeout| self.started.elapsed() >= *timeout)
    }

    /// Until the next look, or the end of the time if that comes first.
    async fn pause(&self) {
        let left = self.args.timeout.map(|timeout| timeout.saturating_sub(self.started.elapsed()));
        tokio::time::sleep(self.args.interval.min(left.unwrap_or(Duration::MAX))).await;
    }

    async fn one(&mut self, id: &IdArg) -> Result<(), Failure> {
        let Some(mut last) = self.find(id.digits()).await? else {
            return self.never_seen(id).await;
        };
        self.tell("appeared", &last)?;
        while last.state() != TransactionState::Heuristic {
            if self.timed_out() {
                return Err(not_ended(&last));
            }
            self.pause().await;
            match self.find(&last.gtrid).await? {
                Some(now) => {
                    if face(&now) != face(&last) {
                        self.tell("changed", &now)?;
                    }
                    last = now;
                }
                None => {
                    let result = self.outcome(&last.gtrid, last.branches.len()).await?;
                    return self.ended(&last, &result);
                }
            }
        }
        Err(heuristic(&last.gtrid, last.outcome))
    }

    /// One that has ended before anybody watched is told if its outcome is remembered.
    async fn never_seen(&mut self, id: &IdArg) -> Result<(), Failure> {
        let unknown = || {
            let what = format!("no unfinished transaction ends with {}", id.digits());
            let why = "it has ended, never begun, or is of another coordinator";
            Failure::new(Code::NotFound, what, why, "unanimous tx list")
                .or("unanimous tx outcome FULL_ID, for one that has ended")
        };
        let gtrid = id.full().ok_or_else(unknown)?.to_string();
        let result = self.outcome(&gtrid, 0).await?;
        if matches!(result.outcome(), Outcome::Unknown | Outcome::Unspecified) {
            return Err(unknown());
        }
        let named = v1::Transaction { gtrid, ..v1::Transaction::default() };
        self.ended(&named, &result)
    }

    fn ended(&self, last: &v1::Transaction, result: &v1::Result) -> Result<(), Failure> {
        self.tell_ended(last, result)?;
        match result.outcome() {
            Outcome::Committed | Outcome::RolledBack => Ok(()),
            Outcome::Pending | Outcome::Unspecified | Outcome::Unknown => {
                let what = format!("transaction {} has ended", short_id(&last.gtrid));
                let why = "its outcome is not remembered: it had one branch, or none";
                let next = format!("unanimous tx outcome {}", last.gtrid);
                Err(Failure::new(Code::OutcomeUnknown, what, why, next))
            }
            _ => Err(heuristic(&last.gtrid, result.outcome)),
        }
    }

    async fn lines(&mut self) -> Result<(), Failure> {
        let mut watched = Watched::default();
        let mut told_more = false;
        loop {
            let listed = self.list().await?;
            if !std::mem::replace(&mut told_more, !listed.next_page_token.is_empty()) && told_more {
                let total = grouped(listed.total);
                talk(format!("the oldest {} of {total} are watched", grouped(PAGE_MAX.into())));
            }
            let changes = watched.compare(listed.transactions);
            for (event, transaction) in &changes.seen {
                self.tell(event, transaction)?;
            }
            for last in changes.gone {
                match self.gone(&last).await? {
                    Gone::Ended(result) => self.tell_ended(&last, &result)?,
                    Gone::Unmatched(now) => self.tell("unmatched", &now)?,
                }
            }
            if self.timed_out() {
                return Ok(());
            }
            self.pause().await;
        }
    }

    async fn live(&mut self) -> Result<(), Failure> {
        let mut watched = Watched::default();
        let mut ended: VecDeque<(Instant, Vec<String>)> = VecDeque::new();
        let mut headline = self.look(&mut watched, &mut ended).await?;
        let mut screen = Screen::open()?;
        loop {
            let transactions = watched.0.values().map(|transaction| row(transaction, self.output));
            let rows = transactions.chain(ended.iter().map(|(_, row)| row.clone()));
            screen.draw(&self.picture(&headline, rows.collect()))?;
            if self.timed_out() || screen.asked_to_stop(self.pause()).await {
                return Ok(());
            }
            // A coordinator that is away may be started again: whoever watches wants to see that.
            headline = match self.look(&mut watched, &mut ended).await {
                Ok(headline) => headline,
                Err(failure) => format!("{failure}; asking again"),
            };
            ended.retain(|(at, _)| at.elapsed() < ENDED_SHOWN);
        }
    }

    /// One look; the sentence about the coordinator.
    async fn look(
        &mut self,
        watched: &mut Watched,
        ended: &mut VecDeque<(Instant, Vec<String>)>,
    ) -> Result<String, Failure> {
        let headline = self.headline().await?;
        let changes = watched.compare(self.list().await?.transactions);
        for last in changes.gone {
            if let Gone::Ended(result) = self.gone(&last).await? {
                let last = v1::Transaction { waiting_on: Vec::new(), locked_ms: 0, ..last };
                let mut row = row(&last, self.output);
                row[2] = outcome_word(result.outcome);
                ended.push_back((Instant::now(), row));
                ended.drain(..ended.len().saturating_sub(ENDED_MAX));
            }
        }
        Ok(headline)
    }

    fn picture(&self, headline: &str, rows: Vec<Vec<String>>) -> Vec<String> {
        let empty = rows.is_empty();
        let table = Document {
            header: HEADER.to_vec(),
            rows,
            wide_columns: WIDE_COLUMNS.to_vec(),
            ..Document::default()
        };
        let mut lines = vec![escape(headline), String::new()];
        if empty {
            lines.push("no transaction is unfinished now".to_owned());
        } else {
            let table = table.table(self.output.format() == Format::Wide);
            lines.extend(table.lines().map(ToOwned::to_owned));
        }
        lines.push(String::new());
        lines.push("q ends".to_owned());
        lines
    }

    async fn headline(&mut self) -> Result<String, Failure> {
        let asked = self.admin.get_status(v1::GetStatusRequest {}).await;
        let status = asked.map_err(|status| self.failed(&status, "asking for the status"))?;
        let status = status.into_inner();
        let (committed, rolled_back, heuristic) =
            (status.committed_total, status.rolled_back_total, status.heuristic_total);
        Ok(format!(
            "{}; since the start {} committed, {} rolled back, {} heuristic",
            status.summary,
            grouped(committed),
            grouped(rolled_back),
            grouped(heuristic),
        ))
    }

    async fn list(&mut self) -> Result<v1::ListTransactionsResponse, Failure> {
        let filter = &self.args.filter.text;
        let request = v1::ListTransactionsRequest {
            page_size: PAGE_MAX,
            filter: filter.clone(),
            ..v1::ListTransactionsRequest::default()
        };
        let listed = self.admin.list_transactions(request).await;
        let address = &self.global.admin_address;
        let listed = listed.map_err(|status| not_listed(&status, address, "tx watch", filter))?;
        Ok(listed.into_inner())
    }

    async fn find(&mut self, digits: &str) -> Result<Option<v1::Transaction>, Failure> {
        let request = v1::GetTransactionRequest { gtrid: digits.to_owned() };
        match self.admin.get_transaction(request).await {
            Ok(found) => Ok(found.into_inner().transaction),
            Err(status) => match self.failed(&status, &format!("finding transaction {digits}")) {
                failure if failure.code() == Code::NotFound => Ok(None),
                failure => Err(failure),
            },
        }
    }

    async fn gone(&mut self, last: &v1::Transaction) -> Result<Gone, Failure> {
        if !self.args.filter.text.is_empty()
            && let Some(now) = self.find(&last.gtrid).await?
        {
            return Ok(Gone::Unmatched(now));
        }
        self.outcome(&last.gtrid, last.branches.len()).await.map(Gone::Ended)
    }

    /// `branches` were seen; it has had at least as many.
    async fn outcome(&mut self, gtrid: &str, branches: usize) -> Result<v1::Result, Failure> {
        let address = &self.global.address;
        let transactions = match &mut self.transactions {
            Some(transactions) => transactions,
            none => none.insert(connect::transactions(self.global).await?),
        };
        let expected_branches = u32::try_from(branches).ok().filter(|branches| *branches >= 2);
        let request = v1::GetOutcomeRequest { gtrid: gtrid.to_owned(), expected_branches };
        let asked = transactions.get_outcome(request).await.map_err(|status| {
            Failure::from_status(&status, address, &format!("asking for the outcome of {gtrid}"))
        })?;
        Ok(asked.into_inner().result.unwrap_or_default())
    }

    fn failed(&self, status: &tonic::Status, doing: &str) -> Failure {
        Failure::from_status(status, &self.global.admin_address, doing)
    }

    fn tell(&self, event: &str, transaction: &v1::Transaction) -> Result<(), Failure> {
        let mut words = vec![state_word(transaction.state)];
        if !transaction.branches.is_empty() {
            let branches = transaction.branches.len();
            words.push(format!("{}/{branches} branches done", transaction.branches_done));
        }
        if !transaction.waiting_on.is_empty() || transaction.stuck {
            words.push(format!("waiting on {}", waiting_words(transaction)));
        }
        let whole = json!({
            "event": event,
            "transaction": canonical_json("Transaction", transaction)?,
        });
        self.line(event, transaction, &words.join(", "), whole)
    }

    fn tell_ended(&self, last: &v1::Transaction, result: &v1::Result) -> Result<(), Failure> {
        let mut words = outcome_word(result.outcome);
        if result.outcome() == Outcome::RolledBack {
            let reason = result.rollback_reason().as_str_name();
            words += &format!(": {}", enum_word(reason, "ROLLBACK_REASON_"));
        }
        for text in [&result.participant, &result.detail] {
            if !text.is_empty() {
                words += &format!(", {text}");
            }
        }
        let whole = json!({
            "event": "ended",
            "gtrid": last.gtrid,
            "result": canonical_json("Result", result)?,
        });
        self.line("ended", last, &words, whole)
    }

    /// One line, or one document, of a stream.
    fn line(
        &self,
        event: &str,
        transaction: &v1::Transaction,
        words: &str,
        whole: Value,
    ) -> Result<(), Failure> {
        let at = match self.global.time {
            crate::cli::TimeStyle::Relative => {
                let elapsed = self.started.elapsed().as_millis();
                short_duration(u64::try_from(elapsed).unwrap_or(u64::MAX))
            }
            _ => self.output.at(SystemTime::now()),
        };
        let (id, name) = (short_id(&transaction.gtrid), &transaction.name);
        let line = format!("{at:>6}  {id}  {name:<16}  {event:<9}  {words}");
        self.output.show_line(&Document {
            whole,
            below: escape(&line) + "\n",
            ids: vec![transaction.gtrid.clone()],
            ..Document::default()
        })
    }
}

fn not_ended(last: &v1::Transaction) -> Failure {
    let what = format!("transaction {} has not ended in the time given", short_id(&last.gtrid));
    let why = format!("it is {}, waiting on {}", state_word(last.state), waiting_words(last));
    let next = format!("unanimous tx describe {}", last.gtrid);
    Failure::new(Code::NotEndedInTime, what, why, next)
}

fn heuristic(gtrid: &str, outcome: i32) -> Failure {
    let what = format!("transaction {} ended heuristically", short_id(gtrid));
    let why = format!("its outcome is {}: a branch was decided alone", outcome_word(outcome));
    Failure::new(Code::Heuristic, what, why, format!("unanimous tx describe {gtrid}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::words::tests::transaction;
    use super::*;

    #[test]
    fn an_answer_is_compared_with_the_one_before() {
        let mut watched = Watched::default();
        let first = transaction(TransactionState::Preparing);
        let told = |changes: &Changes| {
            let seen: Vec<_> = changes.seen.iter().map(|(event, _)| *event).collect();
            (seen, changes.gone.len())
        };
        assert_eq!(told(&watched.compare(vec![first.clone()])), (vec!["appeared"], 0));
        let older = v1::Transaction { age_ms: 999_999, tries: 7, ..first.clone() };
        assert_eq!(told(&watched.compare(vec![older])), (vec![], 0), "only its age");
        for changed in [
            v1::Transaction { state: TransactionState::Committing.into(), ..first.clone() },
            v1::Transaction { branches_done: 3, ..first.clone() },
            v1::Transaction { waiting_on: vec![], ..first.clone() },
            v1::Transaction { stuck: true, ..first.clone() },
        ] {
            watched.compare(vec![first.clone()]);
            assert_eq!(told(&watched.compare(vec![changed])), (vec!["changed"], 0));
        }
        let changes = watched.compare(vec![]);
        assert_eq!(told(&changes), (vec![], 1));
        assert_eq!(changes.gone[0].gtrid, first.gtrid);
        assert_eq!(told(&watched.compare(vec![])), (vec![], 0), "told once");
    }
}
