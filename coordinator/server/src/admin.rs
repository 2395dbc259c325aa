//! `AdminService`: on a runtime and a port of its own, talks to the driver through a bounded queue.

use crate::acts::{Acted, Operator, Order, OrphanOrder, convert};
use crate::doctor;
use crate::driver::no_such_transaction;
use crate::filter::{self, Filter};
use crate::identity::{Caller, How};
use crate::refusal::Refusal;
use crate::view::{Census, Query, Retried, Scan, Scanned};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use unanimous_core::Gtrid;
use unanimous_proto::v1;

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 1_000;
/// The shortest suffix that names a transaction.
const SUFFIX_DIGITS_MIN: usize = 4;
const DIGITS: usize = 48;
/// Candidates named when a suffix is ambiguous.
const CANDIDATES_MAX: usize = 10;

/// `AdminService`.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    queries: mpsc::Sender<Query>,
}

impl Admin {
    pub(crate) fn new(queries: mpsc::Sender<Query>) -> Self {
        Self { queries }
    }

    pub(crate) async fn ask<T>(
        &self,
        query: impl FnOnce(oneshot::Sender<T>) -> Query,
    ) -> Result<T, Status> {
        let (to, answered) = oneshot::channel();
        let sent = self.queries.send(query(to)).await.is_ok();
        let answer = if sent { answered.await.ok() } else { None };
        answer.ok_or_else(|| Refusal::stopping().status())
    }

    /// Walks over the whole table piece by piece; between pieces the driver does its work.
    pub(crate) async fn walk(&self, scan: Scan) -> Result<Scanned, Status> {
        let mut rows = Vec::new();
        let walked = self.walk_over(scan, |gtrid, row| rows.push((gtrid, row))).await?;
        Ok(Scanned { rows, ..walked })
    }

    /// As [`Admin::walk`], for who does not want to keep the rows.
    pub(crate) async fn walk_over(
        &self,
        scan: Scan,
        mut take: impl FnMut(Gtrid, v1::Transaction),
    ) -> Result<Scanned, Status> {
        let mut whole = Scanned::default();
        let mut next = scan;
        loop {
            let piece = self.ask(|to| Query::Scan(next.clone(), to)).await?;
            next.rows_max -= piece.rows.len();
            piece.rows.into_iter().for_each(|(gtrid, row)| take(gtrid, row));
            whole.matched += piece.matched;
            whole.census.add(piece.census);
            for (name, count) in piece.pending {
                *whole.pending.entry(name).or_default() += count;
            }
            match piece.next {
                Some(after) => next.after = Some(after),
                None => return Ok(whole),
            }
        }
    }

    pub(crate) async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let (mut status, Scanned { mut census, next, .. }) = self.ask(Query::Status).await?;
        if let Some(after) = next {
            let rest = Scan { after: Some(after), ..Scan::default() };
            census.add(self.walk(rest).await?.census);
        }
        status.transactions = census.active + census.in_doubt + census.heuristic;
        status.transactions_active = census.active;
        status.transactions_in_doubt = census.in_doubt;
        status.transactions_heuristic = census.heuristic;
        status.transactions_stuck = census.stuck;
        status.summary = summary(&census, &status);
        Ok(status)
    }

    pub(crate) async fn participants(&self) -> Result<Vec<v1::Participant>, Status> {
        let mut participants = self.ask(Query::Participants).await?;
        let pending = self.walk(Scan::default()).await?.pending;
        count_pending(&mut participants, pending);
        Ok(participants)
    }

    /// Keeps a page of the longest locked while it walks, whatever the length of the table.
    async fn longest_locked(
        &self,
        scan: Scan,
        page: usize,
    ) -> Result<v1::ListTransactionsResponse, Status> {
        let mut kept: BTreeMap<(u64, Gtrid), v1::Transaction> = BTreeMap::new();
        let scan = Scan { rows_max: usize::MAX, rows_after: None, ..scan };
        let whole = self.walk_over(scan, |gtrid, row| {
            kept.insert((row.locked_ms, gtrid), row);
            if kept.len() > page {
                kept.pop_first();
            }
        });
        let total = whole.await?.matched;
        let transactions = kept.into_values().rev().collect();
        Ok(v1::ListTransactionsResponse { transactions, total, ..Default::default() })
    }

    async fn act(&self, order: Order) -> Result<Acted, Status> {
        let acted = self.ask(|to| Query::Act(Box::new(order), to)).await?;
        acted.map_err(Refusal::status)
    }

    async fn find(&self, text: &str) -> Result<v1::Transaction, Status> {
        match name(text).map_err(Refusal::status)? {
            Name::Full(gtrid) => self.ask(|to| Query::Get(gtrid, to)).await?.ok_or_else(not_there),
            Name::Suffix(digits) => self.by_suffix(digits).await,
        }
    }

    async fn by_suffix(&self, digits: String) -> Result<v1::Transaction, Status> {
        let filter = Some(Arc::new(Filter::id_ends_with(digits)));
        let scan = Scan { filter, rows_max: CANDIDATES_MAX, ..Scan::default() };
        let mut found = self.walk(scan).await?;
        match found.rows.pop() {
            Some((_, only)) if found.matched == 1 => Ok(only),
            Some(last) => {
                found.rows.push(last);
                let ids: Vec<String> = found.rows.iter().map(|(id, _)| id.to_string()).collect();
                let detail = format!("{} match, such as {}", found.matched, ids.join(", "));
                Err(Refusal::ambiguous(detail).status())
            }
            None => Err(not_there()),
        }
    }
}

fn not_there() -> Status {
    no_such_transaction().status()
}

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for Admin {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.status().await?))
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        let wire = request.into_inner();
        let (page, order) = (page_size(wire.page_size), wire.order());
        let rows_after = page_token(&wire.page_token).map_err(Refusal::status)?;
        let filter = filter(&wire.filter).map_err(Refusal::status)?;
        // One more than the page, to know whether another follows.
        let resolved = filter.as_ref().is_some_and(|filter| filter.asks_for_resolved());
        let scan = Scan { filter, rows_after, rows_max: page + 1, resolved, ..Scan::default() };
        if order == v1::TransactionOrder::Locked {
            return Ok(Response::new(self.longest_locked(scan, page).await?));
        }
        let Scanned { mut rows, matched, .. } = self.walk(scan).await?;
        let more = rows.len() > page;
        rows.truncate(page);
        let last = rows.last().filter(|_| more);
        Ok(Response::new(v1::ListTransactionsResponse {
            next_page_token: last.map_or_else(String::new, |(gtrid, _)| gtrid.to_string()),
            transactions: rows.into_iter().map(|(_, transaction)| transaction).collect(),
            total: matched,
        }))
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        let transaction = self.find(&request.into_inner().gtrid).await?;
        Ok(Response::new(v1::GetTransactionResponse { transaction: Some(transaction) }))
    }

    async fn retry_transaction(
        &self,
        request: Request<v1::RetryTransactionRequest>,
    ) -> Result<Response<v1::RetryTransactionResponse>, Status> {
        let found = self.find(&request.into_inner().gtrid).await?;
        let gtrid = found.gtrid.parse().map_err(|_| Refusal::internal().status())?;
        let retried = self.ask(|to| Query::Retry(gtrid, to)).await?;
        let Retried { transaction, branches } = retried.ok_or_else(not_there)?;
        if branches == 0 {
            let state = transaction.state().as_str_name();
            let state = state.trim_start_matches("TRANSACTION_STATE_");
            return Err(Refusal::nothing_to_retry(state).status());
        }
        Ok(Response::new(v1::RetryTransactionResponse {
            transaction: Some(transaction),
            branches: u32::try_from(branches).unwrap_or(u32::MAX),
        }))
    }

    async fn get_participant(
        &self,
        request: Request<v1::GetParticipantRequest>,
    ) -> Result<Response<v1::GetParticipantResponse>, Status> {
        let name = request.into_inner().name;
        let mut all = self.participants().await?.into_iter();
        let participant = all.find(|participant| participant.name == name);
        let unknown = || Refusal::not_found("no participant of this name has ever connected");
        let participant = participant.ok_or_else(|| unknown().status())?;
        Ok(Response::new(v1::GetParticipantResponse { participant: Some(participant) }))
    }

    async fn list_participants(
        &self,
        _: Request<v1::ListParticipantsRequest>,
    ) -> Result<Response<v1::ListParticipantsResponse>, Status> {
        let participants = self.participants().await?;
        Ok(Response::new(v1::ListParticipantsResponse { participants }))
    }

    async fn list_orphans(
        &self,
        _: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        Ok(Response::new(self.ask(Query::Orphans).await?))
    }

    async fn diagnose(
        &self,
        _: Request<v1::DiagnoseRequest>,
    ) -> Result<Response<v1::DiagnoseResponse>, Status> {
        Ok(Response::new(doctor::diagnose(self).await?))
    }

    async fn plan_act(
        &self,
        request: Request<v1::PlanActRequest>,
    ) -> Result<Response<v1::PlanActResponse>, Status> {
        let wanted = convert::wanted(request.into_inner().act).map_err(Refusal::status)?;
        let plan = self.ask(|to| Query::Plan(wanted, to)).await?.map_err(Refusal::status)?;
        Ok(Response::new(v1::PlanActResponse { plan: Some(plan) }))
    }

    async fn force_transaction(
        &self,
        request: Request<v1::ForceTransactionRequest>,
    ) -> Result<Response<v1::ForceTransactionResponse>, Status> {
        let by = operator(&request);
        let v1::ForceTransactionRequest { act, version, reason, evidence } = request.into_inner();
        let order = order(by, act, version, reason, evidence, false).map_err(Refusal::status)?;
        let Acted { transaction, audit_number, .. } = self.act(order).await?;
        Ok(Response::new(v1::ForceTransactionResponse { transaction, audit_number }))
    }

    async fn propose_act(
        &self,
        request: Request<v1::ProposeActRequest>,
    ) -> Result<Response<v1::ProposeActResponse>, Status> {
        let by = operator(&request);
        let v1::ProposeActRequest { act, version, reason, evidence } = request.into_inner();
        let order = order(by, act, version, reason, evidence, true).map_err(Refusal::status)?;
        let Acted { proposal, .. } = self.act(order).await?;
        Ok(Response::new(v1::ProposeActResponse { proposal }))
    }

    async fn approve_act(
        &self,
        request: Request<v1::ApproveActRequest>,
    ) -> Result<Response<v1::ApproveActResponse>, Status> {
        let by = operator(&request);
        let v1::ApproveActRequest { proposal, reason } = request.into_inner();
        let reason = convert::words("reason", reason, true).map_err(Refusal::status)?;
        let acted = self.ask(|to| Query::Approve(by, proposal, reason, to)).await?;
        let Acted { transaction, audit_number, .. } = acted.map_err(Refusal::status)?;
        Ok(Response::new(v1::ApproveActResponse { transaction, audit_number }))
    }

    async fn list_proposals(
        &self,
        _: Request<v1::ListProposalsRequest>,
    ) -> Result<Response<v1::ListProposalsResponse>, Status> {
        Ok(Response::new(self.ask(Query::Proposals).await?))
    }

    async fn resolve_orphan(
        &self,
        request: Request<v1::ResolveOrphanRequest>,
    ) -> Result<Response<v1::ResolveOrphanResponse>, Status> {
        let by = operator(&request);
        let request = request.into_inner();
        let (branch, end) = convert::orphan(&request).map_err(Refusal::status)?;
        let reason = convert::words("reason", request.reason, true).map_err(Refusal::status)?;
        let propose = request.propose;
        let order = Box::new(OrphanOrder { by, branch, end, reason, propose });
        let acted = self.ask(|to| Query::ResolveOrphan(order, to)).await?;
        let Acted { audit_number, .. } = acted.map_err(Refusal::status)?;
        Ok(Response::new(v1::ResolveOrphanResponse { audit_number }))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let v1::ListAuditRequest { page_size: page, after, gtrid } = request.into_inner();
        let gtrid = (!gtrid.is_empty()).then(|| convert::gtrid(&gtrid));
        let gtrid = gtrid.transpose().map_err(Refusal::status)?;
        let page = page_size(page);
        Ok(Response::new(self.ask(|to| Query::Audit(after, page, gtrid, to)).await?))
    }
}

/// Who makes the request, for the audit.
fn operator<T>(request: &Request<T>) -> Operator {
    let Caller { name, from, how, .. } = Caller::of(request);
    Operator { name, from, verified: how != How::Unverified }
}

fn order(
    by: Operator,
    act: Option<v1::Act>,
    version: u64,
    reason: String,
    evidence: String,
    propose: bool,
) -> Result<Order, Refusal> {
    let wanted = convert::wanted(act)?;
    let reason = convert::words("reason", reason, true)?;
    let evidence = convert::words("evidence", evidence, false)?;
    Ok(Order { by, wanted, version, reason, evidence, propose })
}

/// Participants that the log names and nobody has met in this life are listed too, without an
/// instance.
fn count_pending(participants: &mut Vec<v1::Participant>, mut pending: BTreeMap<String, u64>) {
    for participant in participants.iter_mut() {
        participant.branches_pending = pending.remove(&participant.name).unwrap_or_default();
    }
    let unmet = pending.into_iter().map(|(name, branches_pending)| v1::Participant {
        name,
        branches_pending,
        ..v1::Participant::default()
    });
    participants.extend(unmet);
}

/// One sentence of health, what needs a person first.
fn summary(census: &Census, status: &v1::GetStatusResponse) -> String {
    if status.log_behind {
        return "the log went back in time: nothing is presumed, a person has to look".to_owned();
    }
    let plural = |count| if count == 1 { "" } else { "s" };
    let (doing, Census { in_doubt, heuristic, stuck, .. }) = (&status.summary, *census);
    let mut summary = format!("{doing}; {in_doubt} transaction{} in doubt", plural(in_doubt));
    if stuck > 0 {
        summary += &format!(", {stuck} stuck");
    }
    if heuristic > 0 {
        summary += &format!(", {heuristic} heuristic: needs you");
    }
    if status.orphans > 0 {
        let orphans = status.orphans;
        let no_record = "that no record explains: needs you";
        summary += &format!(", {orphans} prepared branch{} {no_record}", plural_es(orphans));
    }
    if status.log_space_low {
        summary += ", the log's file system is full: nothing begins, free some space";
    }
    let given_up = v1::LogDirectoryState::GivenUp;
    if status.log_directories.iter().any(|directory| directory.state() == given_up) {
        summary += ", one of the log's directories is given up: needs you";
    }
    summary
}

fn plural_es(count: u64) -> &'static str {
    if count == 1 { "" } else { "es" }
}

/// 0 is the default, and more than the most is the most.
fn page_size(wire: u32) -> usize {
    match usize::try_from(wire) {
        Ok(0) => PAGE_DEFAULT,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => PAGE_MAX,
    }
}

pub(crate) fn filter(text: &str) -> Result<Option<Arc<Filter>>, Refusal> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    filter::parse(text).map(|filter| Some(Arc::new(filter))).map_err(Refusal::bad_filter)
}

pub(crate) fn page_token(text: &str) -> Result<Option<Gtrid>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = |_| Refusal::invalid("page_token", "not a token that a page has given");
    text.parse().map(Some).map_err(bad)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Full(Gtrid),
    Suffix(String),
}

pub(crate) fn name(text: &str) -> Result<Name, Refusal> {
    let bad = |detail: String| Refusal::invalid("gtrid", detail);
    let digits = text.bytes().all(|c| c.is_ascii_hexdigit());
    match text.len() {
        DIGITS if digits => text
            .parse()
            .map(Name::Full)
            .map_err(|error: unanimous_core::IdError| bad(error.to_string())),
        SUFFIX_DIGITS_MIN..DIGITS if digits => Ok(Name::Suffix(text.to_owned())),
        _ => Err(bad(format!(
            "an id has {DIGITS} hexadecimal digits, of which the last {SUFFIX_DIGITS_MIN} or more \
             are enough"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_full_ids_or_suffixes() {
        let full = "010000000100020000000301020304000000000000000500";
        assert_eq!(name(full), Ok(Name::Full(full.parse().unwrap())));
        assert_eq!(name("0aF0"), Ok(Name::Suffix("0aF0".to_owned())));
        let long = format!("{full}0");
        let later = format!("02{}", &full[2..]);
        for bad in ["", "123", "xyzw", "12 4", "1234\0", "'; --", "１２３４", &long, &later] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn b_10_sizes_are_clamped_and_tokens_checked() {
        assert_eq!((page_size(0), page_size(7), page_size(u32::MAX)), (50, 7, 1_000));
        assert!(page_token("garbage").is_err() && page_token("\0").is_err());
        assert_eq!(page_token(""), Ok(None));
    }

    #[test]
    fn the_summary_says_what_needs_a_person() {
        let census = Census { in_doubt: 1, heuristic: 2, ..Census::default() };
        let mut status =
            v1::GetStatusResponse { summary: "serving".to_owned(), ..Default::default() };
        let words = "serving; 1 transaction in doubt, 2 heuristic: needs you";
        assert_eq!(summary(&census, &status), words);
        status.orphans = 2;
        status.log_space_low = true;
        let given_up = v1::LogDirectoryState::GivenUp.into();
        status.log_directories = vec![v1::LogDirectory { state: given_up, ..Default::default() }];
        let all = summary(&census, &status);
        for words in ["2 prepared branches", "file system is full", "is given up"] {
            assert!(all.contains(words), "{all}");
        }
    }
}
