//! What admin calls see of the core: read in bounded pieces between events, so that no list ever
//! delays a commit.

use crate::acts::convert::Wanted;
use crate::acts::{self, Operator, Order, OrphanOrder};
use crate::driver::Driver;
use crate::examination::Examination;
use crate::filter::{Filter, Row};
use crate::orphans::{self, Orphan};
use crate::refusal::Refusal;
use crate::registry::{Connected, Gone};
use crate::{convert, words};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use unanimous_core::coordinator::{Branch, BranchState, Limits, State, Transaction};
use unanimous_core::message::{Ending, Verdict};
use unanimous_core::{
    AuditEntry, BranchId, BranchResult, Gtrid, InstanceId, Labels, Millis, ParticipantName,
    ResourceId, Response,
};
use unanimous_proto::v1;
use unanimous_recovery::{DirectoryReport, DirectoryState};

/// Of a version on the wire, what the core counts.
const VERSION_BITS: u32 = 32;
/// Transactions that one query looks at.
pub(crate) const SCAN_MAX: usize = 2_000;

/// A question to the driver. Who asks waits for the answer, or has gone.
#[derive(Debug)]
pub(crate) enum Query {
    /// The numbers that need no walk over the table, and of the same moment its first piece: all,
    /// in most cases.
    Status(oneshot::Sender<(v1::GetStatusResponse, Scanned)>),
    /// The next piece of the table.
    Scan(Scan, oneshot::Sender<Scanned>),
    /// One transaction by its full id.
    Get(Gtrid, oneshot::Sender<Option<v1::Transaction>>),
    /// Everybody met since the start, and everybody whom the log remembers.
    Participants(oneshot::Sender<Vec<v1::Participant>>),
    /// Send again what it waits for.
    Retry(Gtrid, oneshot::Sender<Option<Retried>>),
    /// What an act would do.
    Plan(Wanted, oneshot::Sender<Result<v1::Plan, Refusal>>),
    /// An operator's act.
    Act(Box<Order>, acts::Answer),
    /// A second person agrees with a proposal, and why.
    Approve(Operator, u64, String, acts::Answer),
    /// Acts that wait for a second person.
    Proposals(oneshot::Sender<v1::ListProposalsResponse>),
    /// An operator decides about a branch that no record explains.
    ResolveOrphan(Box<OrphanOrder>, acts::Answer),
    /// Entries of the audit above a number, at most so many, of one transaction or of all.
    Audit(u64, usize, Option<Gtrid>, oneshot::Sender<v1::ListAuditResponse>),
    /// A call was refused for its caller's role: which, and why.
    RefusedCall(Operator, &'static str, &'static str),
    /// Branches that no record explains.
    Orphans(oneshot::Sender<v1::ListOrphansResponse>),
    /// Ask every participant what it holds; `None`: too many ask already.
    Examine(oneshot::Sender<Option<Examination>>),
    /// What a participant that holds a branch prepared would be told.
    Judge(ParticipantName, BranchId, oneshot::Sender<Judgement>),
}

/// What is known of a branch that a participant holds prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// A transaction of this log names it, and has not ended.
    pub(crate) on_record: bool,
    /// It may not be judged, and why.
    pub(crate) left_alone: Option<&'static str>,
}

/// A transaction as it stands after a retry, and to how many branches something was sent.
#[derive(Clone, Debug)]
pub(crate) struct Retried {
    pub(crate) transaction: v1::Transaction,
    pub(crate) branches: usize,
}

/// Which piece of the table, and what of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Start after this one.
    pub(crate) after: Option<Gtrid>,
    /// Only these; `None`: all.
    pub(crate) filter: Option<Arc<Filter>>,
    /// Rows come only from ids above this one ...
    pub(crate) rows_after: Option<Gtrid>,
    /// ... and not more than this.
    pub(crate) rows_max: usize,
    /// Also those that are marked resolved.
    pub(crate) resolved: bool,
}

/// A piece of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) rows: Vec<(Gtrid, v1::Transaction)>,
    /// How many match.
    pub(crate) matched: u64,
    pub(crate) census: Census,
    /// Unfinished branches of each participant.
    pub(crate) pending: BTreeMap<String, u64>,
    /// Where the next piece starts; `None`: this was the last.
    pub(crate) next: Option<Gtrid>,
}

/// Transactions by what they mean to an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Working: nobody has asked for the end.
    pub(crate) active: u64,
    /// Ending: branches may be prepared.
    pub(crate) in_doubt: u64,
    pub(crate) heuristic: u64,
    pub(crate) stuck: u64,
}

impl Census {
    pub(crate) fn add(&mut self, other: Self) {
        self.active += other.active;
        self.in_doubt += other.in_doubt;
        self.heuristic += other.heuristic;
        self.stuck += other.stuck;
    }
}

/// Answers a query. One that nobody waits for any more is answered into the void.
pub(crate) fn answer(driver: &Driver, now: Millis, query: Query) {
    match query {
        Query::Status(to) => {
            let _ = to.send((status(driver, now), scan(driver, now, &Scan::default())));
        }
        Query::Scan(what, to) => {
            let _ = to.send(scan(driver, now, &what));
        }
        Query::Get(gtrid, to) => {
            let found = driver.coordinator.transaction(&gtrid);
            let _ = to.send(found.map(|found| transaction(driver, now, &gtrid, found)));
        }
        Query::Participants(to) => {
            let _ = to.send(participants(driver, now));
        }
        // They change something, or ask the coordinator: the driver's own.
        Query::Retry(_, to) => drop(to),
        Query::Examine(to) => drop(to),
        Query::Judge(_, _, to) => drop(to),
        Query::Act(_, to) | Query::Approve(_, _, _, to) | Query::ResolveOrphan(_, to) => drop(to),
        Query::Proposals(to) => drop(to),
        Query::RefusedCall(..) => {}
        Query::Plan(wanted, to) => {
            let _ = to.send(driver.plan_act(&wanted));
        }
        Query::Audit(after, entries_max, gtrid, to) => {
            let _ = to.send(audit(driver, after, entries_max, gtrid));
        }
        Query::Orphans(to) => {
            let _ = to.send(orphans(driver, now));
        }
    }
}

fn status(driver: &Driver, now: Millis) -> v1::GetStatusResponse {
    let (coordinator, config) = (&driver.coordinator, driver.gate.config());
    let (counters, log) = (coordinator.counters(), driver.writer.stats());
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    v1::GetStatusResponse {
        summary: driver.doing().to_owned(),
        coordinator: Some(convert::owner(coordinator.owner())),
        version: config.version.clone(),
        uptime_ms: now.0,
        data_dir: config.data_dir.display().to_string(),
        durable_frame: log.durable_frame.0,
        log_bytes: log.bytes_on_disk,
        log_behind: coordinator.log_behind(),
        transactions: u64::try_from(coordinator.transactions_len()).unwrap_or(u64::MAX),
        participants_connected: count(driver.registry.connected_len()),
        clients_connected: count(driver.clients_len()),
        begun_total: counters.begun,
        committed_total: counters.committed,
        rolled_back_total: counters.rolled_back,
        heuristic_total: counters.heuristic,
        refused_total: counters.refused,
        recovered_total: counters.recovered,
        recovered_finished_total: counters.recovered_finished,
        unexpected_messages_total: counters.unexpected + driver.gate.ignored(),
        frames_total: log.frames,
        records_total: log.records,
        log_retained_bytes: log.retained_bytes,
        log_waiting_ms: log.oldest_queued_ms,
        log_space_low: log.space_low,
        log_directories: driver.writer.directories().into_iter().map(directory).collect(),
        log_free_bytes: log.free_bytes,
        compactions_total: driver.upkeep.compactions,
        outcomes_remembered: u64::try_from(coordinator.outcomes_len()).unwrap_or(u64::MAX),
        participants_known: count(coordinator.participants().count()),
        orphans: u64::try_from(driver.orphans.len()).unwrap_or(u64::MAX),
        forced_total: counters.forced,
        audit_entries: u64::try_from(coordinator.audit_len()).unwrap_or(u64::MAX),
        proposals: count(driver.acts.proposals_len()),
        log_durable_us_usual: log.durable_us_usual,
        log_durable_us_max: log.durable_us_max,
        unix_ms: unix_ms(),
        clock_jump_ms: driver.clock_jump_ms(unix_ms()),
        refused_calls_total: driver.gate.refusals().refused(),
        ..v1::GetStatusResponse::default()
    }
}

/// By the wall clock.
pub(crate) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

fn scan(driver: &Driver, now: Millis, what: &Scan) -> Scanned {
    let limits = driver.coordinator.limits();
    let mut scanned = Scanned::default();
    let mut last = None;
    let first = what.after;
    let piece = driver.coordinator.transactions(first).filter(|(gtrid, _)| Some(**gtrid) != first);
    for (count, (gtrid, found)) in piece.enumerate() {
        if count == SCAN_MAX {
            scanned.next = last;
            break;
        }
        last = Some(*gtrid);
        scanned.census.count(found, now, limits);
        for branch in found.pending() {
            match scanned.pending.get_mut(branch.participant.as_str()) {
                Some(count) => *count += 1,
                None => drop(scanned.pending.insert(branch.participant.as_str().to_owned(), 1)),
            }
        }
        if found.resolved() && !what.resolved {
            continue;
        }
        let row = Row { gtrid, transaction: found, now, limits };
        if what.filter.as_ref().is_some_and(|filter| !filter.matches(row)) {
            continue;
        }
        scanned.matched += 1;
        if scanned.rows.len() < what.rows_max && what.rows_after.is_none_or(|row| *gtrid > row) {
            scanned.rows.push((*gtrid, transaction(driver, now, gtrid, found)));
        }
    }
    scanned
}

impl Census {
    fn count(&mut self, transaction: &Transaction, now: Millis, limits: &Limits) {
        match transaction.state() {
            State::Active | State::MarkedRollback => self.active += 1,
            State::Preparing
            | State::OnePhase
            | State::Deciding
            | State::Committing
            | State::RollingBack => self.in_doubt += 1,
            State::Heuristic if transaction.resolved() => return,
            State::Heuristic => self.heuristic += 1,
        }
        self.stuck += u64::from(is_stuck(transaction, now, limits));
    }
}

/// Waits for a participant longer than a person would expect.
pub(crate) fn is_stuck(transaction: &Transaction, now: Millis, limits: &Limits) -> bool {
    let ending = matches!(
        transaction.state(),
        State::OnePhase | State::Deciding | State::Committing | State::RollingBack
    );
    ending && now.since(transaction.phase_since) > limits.stuck_after_ms
}

/// How long branches have been holding locks as prepared; `None`: no branch does.
pub(crate) fn locked_ms(transaction: &Transaction, now: Millis) -> Option<u64> {
    let locks = transaction.branches.iter().any(Branch::in_doubt);
    locks.then(|| now.since(transaction.phase_since))
}

/// Until the time-out; `None`: it is decided, or the decision is being written.
pub(crate) fn remaining_ms(transaction: &Transaction, now: Millis) -> Option<u64> {
    let undecided =
        matches!(transaction.state(), State::Active | State::MarkedRollback | State::Preparing);
    undecided.then(|| transaction.timeout_at.since(now))
}

/// Whose answers are awaited, each once.
pub(crate) fn waiting_on(transaction: &Transaction) -> Vec<String> {
    let mut names: Vec<String> =
        transaction.pending().map(|branch| branch.participant.as_str().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

pub(crate) fn state(state: State) -> v1::TransactionState {
    use v1::TransactionState as Wire;
    match state {
        State::Active => Wire::Active,
        State::MarkedRollback => Wire::MarkedRollback,
        State::Preparing => Wire::Preparing,
        State::OnePhase => Wire::OnePhase,
        State::Deciding => Wire::Deciding,
        State::Committing => Wire::Committing,
        State::RollingBack => Wire::RollingBack,
        State::Heuristic => Wire::Heuristic,
    }
}

/// As people write it.
pub(crate) fn state_word(at: State) -> &'static str {
    wire_state_word(state(at))
}

pub(crate) fn wire_state_word(state: v1::TransactionState) -> &'static str {
    let name = state.as_str_name();
    name.strip_prefix("TRANSACTION_STATE_").unwrap_or(name)
}

pub(crate) fn branch_state_word(state: v1::BranchState) -> &'static str {
    let name = state.as_str_name();
    name.strip_prefix("BRANCH_STATE_").unwrap_or(name)
}

/// The core counts from the start of each life; on the wire the life is part of the number, so
/// that a plan of an earlier one fits nothing.
pub(crate) fn version(driver: &Driver, found: &Transaction) -> u64 {
    let epoch = u64::from(driver.coordinator.owner().epoch);
    (epoch << VERSION_BITS) | (found.version & ((1 << VERSION_BITS) - 1))
}

/// The core's number and the epoch.
pub(crate) fn split_version(version: u64) -> (u64, u32) {
    let epoch = u32::try_from(version >> VERSION_BITS).unwrap_or(u32::MAX);
    (version & ((1 << VERSION_BITS) - 1), epoch)
}

/// As people write it.
pub(crate) fn outcome_word(outcome: v1::Outcome) -> &'static str {
    let name = outcome.as_str_name();
    name.strip_prefix("OUTCOME_").unwrap_or(name)
}

pub(crate) fn transaction(
    driver: &Driver,
    now: Millis,
    gtrid: &Gtrid,
    found: &Transaction,
) -> v1::Transaction {
    let at = found.state();
    let stuck = is_stuck(found, now, driver.coordinator.limits());
    let waiting_on = waiting_on(found);
    let branches: Vec<v1::Branch> =
        found.branches.iter().map(|branch| branch_view(driver, found, branch)).collect();
    let silent: Vec<&str> = waiting_on
        .iter()
        .filter(|name| branches.iter().any(|b| b.participant == **name && !b.connected))
        .map(String::as_str)
        .collect();
    let (meaning, next) =
        words::explain(at, found.resolved(), &gtrid.to_string(), &waiting_on, &silent);
    let done = branches.iter().filter(|branch| finished(branch.state())).count();
    v1::Transaction {
        resolved: found.resolved(),
        gtrid: gtrid.to_string(),
        name: found.name.as_str().to_owned(),
        state: state(at).into(),
        version: version(driver, found),
        age_ms: now.since(found.begun_at),
        locked_ms: locked_ms(found, now).unwrap_or_default(),
        remaining_ms: remaining_ms(found, now).unwrap_or_default(),
        branches_done: u32::try_from(done).unwrap_or(u32::MAX),
        branches,
        waiting_on,
        tries: found.tries,
        next_try_ms: found.next_try_at.map_or(0, |at| at.since(now)),
        recovered: found.recovered,
        stuck,
        outcome: outcome(found).into(),
        meaning,
        next,
        labels: labels(&found.labels),
    }
}

fn labels(labels: &Labels) -> Vec<v1::Label> {
    let label = |(key, value): (&str, &str)| v1::Label { key: key.into(), value: value.into() };
    labels.iter().map(label).collect()
}

/// What became of a retry; `None`: there is no such transaction.
pub(crate) fn retried(
    driver: &Driver,
    now: Millis,
    gtrid: &Gtrid,
    response: &Response,
) -> Option<Retried> {
    let Response::Retried { branches } = response else { return None };
    let found = driver.coordinator.transaction(gtrid)?;
    Some(Retried { transaction: transaction(driver, now, gtrid, found), branches: *branches })
}

/// What a verdict about a branch that is held prepared means.
pub(crate) fn judgement(driver: &Driver, branch: &BranchId, response: &Response) -> Judgement {
    let found = driver.coordinator.transaction(&branch.gtrid);
    let behind = driver.coordinator.log_behind();
    let left_alone = matches!(response, Response::Verdict(Verdict::LeaveAlone))
        .then(|| orphans::reason(driver.gate.owner(), branch, behind));
    let on_record = left_alone.is_none()
        && found.is_some_and(|transaction| transaction.branch(&branch.bqual).is_some());
    Judgement { on_record, left_alone }
}

/// As far as it may be shown: not before the decision's record is durable.
pub(crate) fn outcome(found: &Transaction) -> v1::Outcome {
    let response = match found.state() {
        State::Active
        | State::MarkedRollback
        | State::Preparing
        | State::OnePhase
        | State::Deciding => Response::Pending,
        State::Committing | State::RollingBack | State::Heuristic => Response::Ended(Ending {
            outcome: found.outcome(),
            cause: found.cause.clone(),
            completed: false,
        }),
    };
    convert::result(response).map_or(v1::Outcome::Unspecified, |result| result.outcome())
}

fn finished(state: v1::BranchState) -> bool {
    !matches!(state, v1::BranchState::Enlisted | v1::BranchState::Prepared)
}

pub(crate) fn branch_state(state: BranchState) -> v1::BranchState {
    use v1::BranchState as Wire;
    match state {
        BranchState::Enlisted => Wire::Enlisted,
        BranchState::Prepared => Wire::Prepared,
        BranchState::ReadOnly => Wire::ReadOnly,
        BranchState::VotedRollback => Wire::VotedRollback,
        BranchState::Done => Wire::Done,
        BranchState::Heuristic(BranchResult::Committed) => Wire::HeuristicCommit,
        BranchState::Heuristic(BranchResult::RolledBack) => Wire::HeuristicRollback,
        BranchState::Heuristic(BranchResult::Mixed) => Wire::HeuristicMixed,
        BranchState::Heuristic(BranchResult::Hazard) => Wire::HeuristicHazard,
    }
}

fn branch_view(driver: &Driver, found: &Transaction, branch: &Branch) -> v1::Branch {
    v1::Branch {
        asserted: branch.asserted,
        bqual: branch.bqual.to_string(),
        participant: branch.participant.as_str().to_owned(),
        resource_id: branch.resource.as_str().to_owned(),
        state: branch_state(branch.state(found.decision())).into(),
        detail: branch.detail.clone(),
        last_error: branch.last_error.clone(),
        connected: driver.registry.reaches(&branch.participant, &branch.resource),
    }
}

/// Durable ones only: what is not may yet never have been.
fn audit(
    driver: &Driver,
    after: u64,
    entries_max: usize,
    gtrid: Option<Gtrid>,
) -> v1::ListAuditResponse {
    let durable = driver.coordinator.audit_durable();
    let wanted = |entry: &&AuditEntry| gtrid.is_none() || entry.gtrid == gtrid;
    let above = after.saturating_add(1);
    let mut found =
        driver.coordinator.audit(above).take_while(|entry| entry.number <= durable).filter(wanted);
    let entries = found.by_ref().take(entries_max).map(acts::convert::audit_entry).collect();
    v1::ListAuditResponse { entries, more: found.next().is_some(), total: durable }
}

fn participants(driver: &Driver, now: Millis) -> Vec<v1::Participant> {
    let mut all: BTreeMap<&ParticipantName, Vec<v1::ParticipantInstance>> = BTreeMap::new();
    for (name, sessions) in driver.registry.connected() {
        let instances = all.entry(name).or_default();
        for Connected { instance: id, sdk, resources, since, .. } in sessions {
            instances.push(instance(id, sdk, resources, true, now.since(*since)));
        }
        instances.sort_by(|one, other| one.instance.cmp(&other.instance));
    }
    for (name, Gone { instance: id, sdk, resources, since }) in driver.registry.gone() {
        all.entry(name).or_default().push(instance(id, sdk, resources, false, now.since(*since)));
    }
    let known: BTreeMap<_, _> = driver.coordinator.participants().collect();
    for name in known.keys() {
        all.entry(name).or_default();
    }
    all.into_iter()
        .map(|(name, instances)| v1::Participant {
            name: name.as_str().to_owned(),
            connected: instances.iter().any(|instance| instance.connected),
            resource_ids: known.get(name).map_or_else(Vec::new, |known| words_of(&known.resources)),
            instances,
            branches_pending: 0,
        })
        .collect()
}

fn words_of(resources: &[ResourceId]) -> Vec<String> {
    resources.iter().map(|resource| resource.as_str().to_owned()).collect()
}

fn orphans(driver: &Driver, now: Millis) -> v1::ListOrphansResponse {
    let orphan = |(branch, orphan): (&BranchId, &Orphan)| v1::Orphan {
        gtrid: branch.gtrid.to_string(),
        bqual: branch.bqual.to_string(),
        participant: orphan.participant.as_str().to_owned(),
        reason: orphan.reason.to_owned(),
        first_asked_ms: now.since(orphan.first_asked_at),
        last_asked_ms: now.since(orphan.last_asked_at),
    };
    v1::ListOrphansResponse {
        orphans: driver.orphans.list().into_iter().map(orphan).collect(),
        not_listed: driver.orphans.not_listed(),
    }
}

fn directory(report: DirectoryReport) -> v1::LogDirectory {
    let state = match report.state {
        DirectoryState::Good => v1::LogDirectoryState::Good,
        DirectoryState::Rebuilt => v1::LogDirectoryState::Rebuilt,
        DirectoryState::GivenUp => v1::LogDirectoryState::GivenUp,
    };
    let dir = report.dir.display().to_string();
    v1::LogDirectory { dir, state: state.into(), detail: report.detail }
}

fn instance(
    id: &InstanceId,
    sdk: &str,
    resources: &[ResourceId],
    connected: bool,
    since_ms: u64,
) -> v1::ParticipantInstance {
    v1::ParticipantInstance {
        instance: id.to_string(),
        sdk: sdk.to_owned(),
        resource_ids: words_of(resources),
        connected,
        since_ms,
    }
}
