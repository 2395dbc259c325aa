//! The resource: work under locks, and every durable step answered after its record is durable.

use super::compaction::{Compaction, Step};
use super::fold::Fold;
use super::record::{AloneEnd, Mark, Piece, Record};
use super::state::{State, Work};
use super::work::WorkError;
use crate::crash::crash_point;
use crate::resource::{EndedAlone, Prepared, Resource, Retry, Unfit};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Done, Vote};
use unanimous_core::{BranchId, BranchResult, Decision, Evidence, LogId, Lsn};
use unanimous_recovery::codec::{self, CodecError};
use unanimous_recovery::frame::RECORD_BYTES_MAX;
use unanimous_recovery::{
    AppendError, Flushed, LogFailed, LogKind, OpenError, OpenOptions, StoredRecord, Writer,
};

/// Accounts that one branch may change.
pub(super) const MOVES_MAX: usize = 1_000;
/// What the evidence in a vote is called.
const EVIDENCE_KIND: &str = "embedded";
/// The exit code of a process whose log cannot be written.
const EXIT_LOG_FAILED: i32 = 12;

/// Why a store of accounts cannot be opened, read or closed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AccountsError {
    /// The log below it.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// There is no store yet, and none was to be made.
    #[error("there are no accounts yet, and the store was not to be initialised")]
    NotInitialised,
    /// A record that this version cannot read.
    #[error("the record with LSN {} cannot be read: {error}", lsn.0)]
    Record {
        /// Which.
        lsn: Lsn,
        /// What is wrong with it.
        error: CodecError,
    },
    /// A record that contradicts earlier ones, or the numbers given for a new store.
    #[error("the record with LSN {} contradicts the accounts: {what}", lsn.0)]
    Contradiction {
        /// Which.
        lsn: Lsn,
        /// How.
        what: String,
    },
    /// The log could not be written.
    #[error(transparent)]
    Write(#[from] LogFailed),
    /// A record was not taken by the log.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// How to open a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Make a store if there is none: so many accounts, numbered from 1, each with so many cents.
    pub init: Option<(u32, i64)>,
    /// The log is compacted when it holds more than so many bytes, and more than twice of what was
    /// needed the last time. 4 MiB by itself.
    pub log_bytes_compact: u64,
}

impl Default for Opening {
    fn default() -> Self {
        Self { init: None, log_bytes_compact: 4 << 20 }
    }
}

/// Accounts with balances and locks. Clones are the same store.
///
/// Opened by one process at a time. Dropped without [`Accounts::close`] it is as after a kill,
/// which loses nothing that was answered.
#[derive(Clone)]
pub struct Accounts {
    live: Arc<Mutex<Live>>,
    flushes: Arc<Mutex<Flushes>>,
    log: LogId,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("log", &self.log).finish_non_exhaustive()
    }
}

struct Live {
    state: State,
    next_lsn: Lsn,
    /// `None` once closed.
    writer: Option<Writer>,
    /// Marks that came last, by coordinator's log, not in force yet.
    next_marks: BTreeMap<LogId, Mark>,
    compaction: Compaction,
    flushes: Arc<Mutex<Flushes>>,
}

/// Who waits for which record.
#[derive(Default)]
struct Flushes {
    upto: Lsn,
    waiting: BTreeMap<Lsn, Vec<oneshot::Sender<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer, and the record that must be durable before it is given.
type Answer<T> = Result<(T, Lsn), Retry>;

/// What the records of a log mean, and the LSN below which none of them is needed.
pub(super) fn fold(
    records: impl Iterator<Item = Result<StoredRecord, OpenError>>,
) -> Result<(State, Option<Lsn>), AccountsError> {
    let mut fold = Fold::default();
    for stored in records {
        let StoredRecord { lsn, bytes, .. } = stored?;
        let record = codec::decode(&bytes).map_err(|error| AccountsError::Record { lsn, error })?;
        let taken = fold.take(lsn, &record);
        taken.map_err(|what| AccountsError::Contradiction { lsn, what })?;
    }
    fold.finish().map_err(|lsn| AccountsError::Contradiction {
        lsn,
        what: "the log begins in the middle and holds no whole snapshot".to_owned(),
    })
}

impl Accounts {
    /// Opens the store in `dir`. What it holds is durable; branches that were prepared are prepared
    /// again, all other unfinished work is gone.
    ///
    /// When its log can no longer be written, the process is ended with exit code 12: what was
    /// asked for last may or may not be durable, and only opening it again can tell.
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn open(dir: &Path, opening: Opening) -> Result<Self, AccountsError> {
        Self::open_at(dir, opening, false)
    }

    /// As [`Accounts::open`], for a directory that was moved. Nothing may run on the original: two
    /// stores would answer for the same branches.
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn open_moved(dir: &Path, opening: Opening) -> Result<Self, AccountsError> {
        Self::open_at(dir, opening, true)
    }

    fn open_at(dir: &Path, opening: Opening, moved: bool) -> Result<Self, AccountsError> {
        let init = opening.init.is_some();
        let options = OpenOptions { init, moved, ..OpenOptions::new(LogKind::Accounts) };
        let opened = options.open(dir)?;
        let (state, begun) = fold(opened.records())?;
        let (log, next_lsn) = (opened.id(), opened.next_lsn());
        let upto = Lsn(next_lsn.0.saturating_sub(1));
        let flushes = Arc::new(Mutex::new(Flushes { upto, waiting: BTreeMap::new() }));
        let told = Arc::clone(&flushes);
        let on_flushed = move |flushed: Flushed| wake(&told, flushed.upto);
        let writer = opened.start(on_flushed, end_process)?;
        // The process may have ended between a snapshot and what follows from it.
        if let Some(begun) = begun {
            writer.drop_below(begun);
        }
        let in_doubt = state.in_doubt().count();
        tracing::info!(in_doubt, committed = state.committed_total, "accounts are open");
        let empty = state.balances.is_empty();
        let live = Live {
            state,
            next_lsn,
            writer: Some(writer),
            next_marks: BTreeMap::new(),
            compaction: Compaction::new(opening.log_bytes_compact),
            flushes: Arc::clone(&flushes),
        };
        let accounts = Self { live: Arc::new(Mutex::new(live)), flushes, log };
        if empty {
            let (accounts_len, balance_cents) =
                opening.init.ok_or(AccountsError::NotInitialised)?;
            let record = Record::Opened { accounts: accounts_len, balance_cents };
            let lsn = locked(&accounts.live).append(&record, true)?;
            accounts.wait_blocking(lsn)?;
        }
        Ok(accounts)
    }

    /// Gives cents to an account under the branch; a negative amount is taken.
    pub(super) fn credit(
        &self,
        branch: &BranchId,
        account: u32,
        cents: i64,
    ) -> Result<(), WorkError> {
        locked(&self.live).enter(branch, account, cents)
    }

    /// As [`Accounts::credit`], taken.
    pub(super) fn debit(
        &self,
        branch: &BranchId,
        account: u32,
        cents: i64,
    ) -> Result<(), WorkError> {
        let taken = cents.checked_neg().ok_or(WorkError::TooLarge(account))?;
        self.credit(branch, account, taken)
    }

    /// All balances in cents, account 1 first, without unfinished branches. May show what is not
    /// durable yet.
    #[must_use]
    pub fn balances(&self) -> Vec<i64> {
        locked(&self.live).state.balances.clone()
    }

    /// The sum of all balances in cents. May show what is not durable yet.
    #[must_use]
    pub fn sum_cents(&self) -> i64 {
        locked(&self.live).state.sum_cents()
    }

    /// Prepared branches, in order.
    #[must_use]
    pub fn in_doubt(&self) -> Vec<BranchId> {
        locked(&self.live).state.in_doubt().map(|(branch, _)| *branch).collect()
    }

    /// How many of them are durable: their votes are told, or about to be.
    #[must_use]
    pub fn voted_len(&self) -> usize {
        let upto = locked(&self.flushes).upto;
        locked(&self.live).state.in_doubt().filter(|(_, lsn)| *lsn <= upto).count()
    }

    /// Makes everything durable and marks the stop as clean. Blocks for a few flushes. Whatever
    /// comes later is refused.
    ///
    /// # Errors
    /// Closed before, or the log could not be written.
    pub fn close(&self) -> Result<(), AccountsError> {
        let writer = locked(&self.live).writer.take().ok_or(AccountsError::Closed)?;
        Ok(writer.close()?)
    }

    pub(super) fn append_and_close(&self, record: &Record) -> Result<(), AccountsError> {
        let lsn = locked(&self.live).append(record, true)?;
        self.wait_blocking(lsn)?;
        self.close()
    }

    /// A receiver for the moment when the record is durable; `None`: it is.
    fn waiter(&self, lsn: Lsn) -> Option<oneshot::Receiver<()>> {
        let mut flushes = locked(&self.flushes);
        if flushes.upto >= lsn {
            return None;
        }
        let (durable, waiter) = oneshot::channel();
        flushes.waiting.entry(lsn).or_default().push(durable);
        Some(waiter)
    }

    fn wait_blocking(&self, lsn: Lsn) -> Result<(), AccountsError> {
        // Opening and adjusting are blocking calls; there may be a runtime around them, in which
        // a blocking receive is not allowed, so a thread of its own waits.
        let Some(waiter) = self.waiter(lsn) else { return Ok(()) };
        let waited = std::thread::scope(|scope| scope.spawn(|| waiter.blocking_recv()).join());
        match waited {
            Ok(Ok(())) => Ok(()),
            _ => Err(AccountsError::Closed),
        }
    }

    /// Gives an answer once the record it rests on is durable.
    async fn durable<T>(&self, answer: Answer<T>) -> Result<T, Retry> {
        let (answer, lsn) = answer?;
        if let Some(waiter) = self.waiter(lsn) {
            waiter.await.map_err(|_| Retry::because("the store is closed"))?;
        }
        Ok(answer)
    }

    fn evidence(&self, lsn: Lsn) -> Evidence {
        let mut data = Vec::with_capacity(18);
        data.extend(self.log.cluster.to_be_bytes());
        data.extend(self.log.slot.to_be_bytes());
        data.extend(self.log.incarnation.to_be_bytes());
        data.extend(lsn.0.to_be_bytes());
        Evidence { kind: EVIDENCE_KIND.to_owned(), data }
    }
}

/// The one place where waiting callers are woken, once for a whole group.
fn wake(flushes: &Mutex<Flushes>, upto: Lsn) {
    let woken = {
        let mut flushes = locked(flushes);
        flushes.upto = upto;
        let later = flushes.waiting.split_off(&Lsn(upto.0.saturating_add(1)));
        std::mem::replace(&mut flushes.waiting, later)
    };
    for durable in woken.into_values().flatten() {
        // The caller may be gone.
        let _ = durable.send(());
    }
}

fn end_process(failed: LogFailed) {
    tracing::error!(what = ?failed.what, "the accounts' log cannot be written: the process ends");
    std::process::exit(EXIT_LOG_FAILED);
}

impl Live {
    /// Applies a record and submits it. Returns its LSN.
    fn append(&mut self, record: &Record, force: bool) -> Result<Lsn, AccountsError> {
        // Before it, so that nobody who waits for the last record waits for a lazy one.
        self.compact()?;
        self.submit(record, force)
    }

    /// One step to keep the log short.
    fn compact(&mut self) -> Result<(), AccountsError> {
        let Some(writer) = &self.writer else { return Err(AccountsError::Closed) };
        let (durable, bytes) = (locked(&self.flushes).upto, writer.stats().retained_bytes);
        match self.compaction.step(&self.state, self.next_lsn, durable, bytes) {
            Step::Append(record) => {
                self.submit(&record, false)?;
                match record {
                    Record::Snapshot { piece: Piece::Head { .. }, .. } => {
                        crash_point("participant.compact.begun");
                    }
                    Record::SnapshotEnd { .. } => crash_point("participant.compact.ended"),
                    _ => crash_point("participant.compact.piece"),
                }
            }
            Step::Drop(begun) => {
                writer.drop_below(begun);
                crash_point("participant.compact.dropped");
            }
            Step::Nothing => {}
        }
        Ok(())
    }

    fn submit(&mut self, record: &Record, force: bool) -> Result<Lsn, AccountsError> {
        let lsn = self.next_lsn;
        let Some(writer) = &self.writer else { return Err(AccountsError::Closed) };
        let bytes = codec::encode(record).map_err(|error| AccountsError::Record { lsn, error })?;
        // Known before it is applied: what is in memory and not in the log must not be in a
        // snapshot.
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(AppendError::TooLong(bytes.len()).into());
        }
        let applied = self.state.apply(lsn, record);
        applied.map_err(|what| AccountsError::Contradiction { lsn, what })?;
        writer.append(lsn, bytes, force)?;
        self.next_lsn = Lsn(lsn.0 + 1);
        Ok(lsn)
    }

    /// The last record: an answer that rests on what is in memory waits for it.
    fn last(&self) -> Lsn {
        Lsn(self.next_lsn.0.saturating_sub(1))
    }

    fn enter(&mut self, branch: &BranchId, account: u32, cents: i64) -> Result<(), WorkError> {
        let state = &mut self.state;
        let balance = state.balance(account).ok_or(WorkError::NoSuchAccount(account))?;
        let work = state.branches.get_mut(branch).filter(|work| work.prepared.is_none());
        let work = work.ok_or(WorkError::NotActive)?;
        if let Some(holder) = state.locks.get(&account).filter(|holder| *holder != branch) {
            return Err(WorkError::AccountBusy { account, holder: holder.gtrid });
        }
        let before = work.moves.get(&account).copied();
        if before.is_none() && work.moves.len() >= MOVES_MAX {
            return Err(WorkError::TooManyAccounts);
        }
        let after = before.unwrap_or(0).checked_add(cents);
        let after = after.filter(|after| balance.checked_add(*after).is_some());
        work.moves.insert(account, after.ok_or(WorkError::TooLarge(account))?);
        state.locks.insert(account, *branch);
        Ok(())
    }

    fn prepare(&mut self, branch: &BranchId, evidence: impl Fn(Lsn) -> Evidence) -> Answer<Vote> {
        let no = |reason: String| Vote::Rollback { reason };
        let Some(work) = self.state.branches.get(branch) else {
            let over = &self.state;
            let reason = if over.committed.contains_key(branch) || over.alone.contains_key(branch) {
                "it has ended here"
            } else {
                "no such branch here"
            };
            return Ok((no(reason.to_owned()), Lsn(0)));
        };
        if let Some(lsn) = work.prepared {
            return Ok((Vote::Commit { evidence: Some(evidence(lsn)) }, lsn));
        }
        if work.moves.is_empty() {
            self.state.release(branch);
            return Ok((Vote::ReadOnly, self.last()));
        }
        if let Some(reason) = self.obstacle(work) {
            self.state.release(branch);
            return Ok((no(reason), Lsn(0)));
        }
        let record = Record::Prepared { branch: *branch, moves: work.to_moves() };
        let lsn = self.append(&record, true)?;
        Ok((Vote::Commit { evidence: Some(evidence(lsn)) }, lsn))
    }

    /// Why work must not be voted for. What is voted for already needs the room that is left.
    fn obstacle(&self, work: &Work) -> Option<String> {
        if self.writer.as_ref().is_some_and(|writer| writer.stats().space_low) {
            return Some("the disk of this participant is nearly full".to_owned());
        }
        let (account, after) = self.state.overdrawn(work)?;
        let (whole, cents) = (after.unsigned_abs() / 100, after.unsigned_abs() % 100);
        Some(format!("account {account} would be overdrawn by {whole}.{cents:02}"))
    }

    fn commit(&mut self, branch: &BranchId) -> Answer<Done> {
        if let Some(ended) = self.known_alone(branch) {
            return Ok(ended);
        }
        if let Some(lsn) = self.state.committed.get(branch) {
            return Ok((Done::Done, *lsn));
        }
        match self.state.branches.get(branch).map(|work| work.prepared.is_some()) {
            Some(true) => {
                let record = Record::Committed { branch: *branch, moves: None };
                Ok((Done::Done, self.append(&record, true)?))
            }
            Some(false) => {
                self.state.release(branch);
                Ok((Done::NotPrepared, Lsn(0)))
            }
            None => Ok((Done::Heuristic(BranchResult::Hazard), Lsn(0))),
        }
    }

    fn commit_one_phase(&mut self, branch: &BranchId) -> Answer<Done> {
        let Some(work) = self.state.branches.get(branch) else { return self.recall(branch) };
        if work.prepared.is_some() {
            return self.commit(branch);
        }
        if work.moves.is_empty() {
            self.state.release(branch);
            return Ok((Done::Done, self.last()));
        }
        if self.obstacle(work).is_some() {
            self.state.release(branch);
            return Ok((Done::RolledBack, Lsn(0)));
        }
        let record = Record::Committed { branch: *branch, moves: Some(work.to_moves()) };
        Ok((Done::Done, self.append(&record, true)?))
    }

    /// Every commit is in the log, and its proof in memory until a mark passes it: without a proof,
    /// and not passed, it was never committed.
    fn recall(&mut self, branch: &BranchId) -> Answer<Done> {
        if self.state.committed.contains_key(branch) || self.state.alone.contains_key(branch) {
            return self.commit(branch);
        }
        match self.state.branches.get(branch).map(|work| work.prepared.is_some()) {
            Some(true) => return self.commit(branch),
            Some(false) => self.state.release(branch),
            None if self.state.marks.values().any(|mark| mark.covers(&branch.gtrid)) => {
                return Ok((Done::Heuristic(BranchResult::Hazard), Lsn(0)));
            }
            None => {}
        }
        Ok((Done::RolledBack, Lsn(0)))
    }

    fn rollback(&mut self, branch: &BranchId) -> Answer<Done> {
        if let Some(ended) = self.known_alone(branch) {
            return Ok(ended);
        }
        if let Some(lsn) = self.state.committed.get(branch) {
            return Ok((Done::Heuristic(BranchResult::Committed), *lsn));
        }
        if self.state.branches.get(branch).is_some_and(|work| work.prepared.is_some()) {
            let record = Record::RolledBack { branch: *branch };
            return Ok((Done::Done, self.append(&record, true)?));
        }
        self.state.release(branch);
        // A repeat may meet the record of the first call on its way.
        Ok((Done::Done, self.last()))
    }

    /// How the branch ended alone, if it did.
    fn known_alone(&self, branch: &BranchId) -> Option<(Done, Lsn)> {
        self.state.alone.get(branch).map(|(lsn, end)| (Done::Heuristic(end.result()), *lsn))
    }

    fn end_alone(&mut self, branch: &BranchId, end: AloneEnd) -> Answer<Done> {
        if let Some(ended) = self.known_alone(branch) {
            return Ok(ended);
        }
        if self.state.branches.get(branch).is_none_or(|work| work.prepared.is_none()) {
            return Ok((Done::Done, self.last()));
        }
        let result = end.result();
        let lsn = self.append(&Record::Alone { branch: *branch, end }, true)?;
        Ok((Done::Heuristic(result), lsn))
    }

    fn forget(&mut self, branch: &BranchId) -> Answer<()> {
        // A repeat may meet the record of the first call on its way.
        if !self.state.alone.contains_key(branch) {
            return Ok(((), self.last()));
        }
        Ok(((), self.append(&Record::Forgotten { branch: *branch }, true)?))
    }

    /// A mark takes effect when the next one comes: a message about a branch that it passes may
    /// have been sent before it, and still be on its way through this process.
    fn ended(&mut self, mark: Mark) {
        let Some(last) = self.next_marks.insert(mark.log, mark) else { return };
        let older = |passed: &Mark| (passed.epoch, passed.sequence) > (last.epoch, last.sequence);
        let behind = self.state.marks.get(&last.log).is_some_and(older);
        let drops = self.state.committed.keys().any(|branch| last.covers(&branch.gtrid));
        if behind || !drops {
            return;
        }
        if let Err(error) = self.append(&Record::Ended { mark: last }, false) {
            tracing::debug!(%error, "a mark was not kept");
        }
    }
}

impl Resource for Accounts {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    async fn check(&self) -> Result<(), Unfit> {
        let stats = locked(&self.live).writer.as_ref().map(Writer::stats);
        let Some(stats) = stats else {
            return Err(Unfit {
                what: "the store of these accounts is closed".to_owned(),
                why: "no branch could be prepared or finished".to_owned(),
                next: "open the store again, and close it after the participant has stopped"
                    .to_owned(),
            });
        };
        if stats.space_low {
            // It comes up: there may be branches to finish, for which room is kept.
            tracing::warn!(
                free_bytes = stats.free_bytes,
                "the disk of the accounts is nearly full: new work is voted down"
            );
        }
        Ok(())
    }

    fn joined(&self, branch: &BranchId) {
        let mut live = locked(&self.live);
        if !live.state.committed.contains_key(branch) {
            live.state.branches.entry(*branch).or_default();
        }
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let answer = locked(&self.live).prepare(branch, |lsn| self.evidence(lsn));
        let vote = self.durable(answer).await?;
        if matches!(vote, Vote::Commit { .. }) {
            crash_point("participant.prepare.durable");
        }
        Ok(vote)
    }

    async fn commit(&self, branch: &BranchId, evidence: Option<&Evidence>) -> Result<Done, Retry> {
        let answer = locked(&self.live).commit(branch);
        let done = self.durable(answer).await?;
        if done == Done::Done {
            crash_point("participant.commit.durable");
        } else {
            tracing::warn!(gtrid = %branch.gtrid, bqual = %branch.bqual, ?done, ?evidence,
                "commit of a branch that is not prepared here");
        }
        Ok(done)
    }

    async fn commit_one_phase(&self, branch: &BranchId) -> Result<Done, Retry> {
        let answer = locked(&self.live).commit_one_phase(branch);
        let done = self.durable(answer).await?;
        if done == Done::Done {
            crash_point("participant.commit.durable");
        }
        Ok(done)
    }

    async fn recall(&self, branch: &BranchId) -> Result<Done, Retry> {
        let answer = locked(&self.live).recall(branch);
        self.durable(answer).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        let answer = locked(&self.live).rollback(branch);
        self.durable(answer).await
    }

    async fn check_alone(&self) -> Result<(), Unfit> {
        Ok(())
    }

    async fn end_alone(
        &self,
        branch: &BranchId,
        decision: Decision,
        why: &str,
    ) -> Result<Done, Retry> {
        let end = AloneEnd { committed: decision == Decision::Commit, why: why.to_owned() };
        let answer = locked(&self.live).end_alone(branch, end);
        self.durable(answer).await
    }

    async fn ended_alone(&self) -> Result<Vec<EndedAlone>, Retry> {
        let answer = {
            let live = locked(&self.live);
            let alone = live.state.alone.iter().map(|(branch, (_, end))| EndedAlone {
                branch: *branch,
                result: end.result(),
                why: end.why.clone(),
            });
            Ok((alone.collect(), live.last()))
        };
        self.durable(answer).await
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), Retry> {
        let answer = locked(&self.live).forget(branch);
        self.durable(answer).await
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        let answer = {
            let live = locked(&self.live);
            let prepared = live.state.in_doubt().map(|(branch, lsn)| Prepared {
                branch: *branch,
                evidence: Some(self.evidence(lsn)),
            });
            Ok((prepared.collect(), live.last()))
        };
        self.durable(answer).await
    }

    fn votes_early(&self, branch: &BranchId) -> bool {
        let live = locked(&self.live);
        let work = live.state.branches.get(branch);
        work.is_some_and(|work| work.prepared.is_none() && !work.moves.is_empty())
    }

    fn remembers_committed(&self) -> bool {
        true
    }

    fn ended(&self, mark: &EndedMark) {
        locked(&self.live).ended(Mark::from(mark));
    }
}

#[cfg(test)]
mod tests;
