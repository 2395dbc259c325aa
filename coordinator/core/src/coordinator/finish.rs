//! Acknowledgements, heuristic results, and the end of a transaction.

use super::{Awaited, Branch, Coordinator, Item, State, Transaction};
use crate::id::{BranchId, Gtrid, ParticipantName, ResourceId, TransactionName};
use crate::message::{Done, Ending, Message, Response, RollbackCause, Route};
use crate::museum::{Bug, on};
use crate::outcome::{BranchResult, Decision, Outcome};
use crate::presume;
use crate::record::{DETAIL_BYTES_MAX, OutcomeRecord, Record, cut};
use crate::tally::Ballot;
use crate::{Lsn, Millis};

impl Coordinator {
    pub(super) fn on_acknowledged(&mut self, now: Millis, id: BranchId, done: Done, detail: &str) {
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let (state, decision) = (transaction.state, transaction.decision());
        let Some(branch) = transaction.branch_mut(&id.bqual) else { return };
        if done == Done::Forgotten {
            branch.forget_pending = false;
            if std::mem::take(&mut branch.matched) && transaction.home.is_some() {
                self.append(Record::Forgotten { gtrid: id.gtrid, bqual: id.bqual }, false);
            }
            return;
        }
        match state {
            State::Active | State::MarkedRollback | State::Preparing | State::Deciding => {
                self.counters.unexpected += 1;
            }
            State::OnePhase | State::Committing | State::RollingBack | State::Heuristic => {
                if on(Bug::AcknowledgementCountedTwice) && branch.result.is_some() {
                    let pending = |other: &&mut Branch| other.pending_in(state);
                    let other = transaction.branches.iter_mut().find(pending);
                    other.into_iter().for_each(|other| other.result = Some(decided_as(decision)));
                    return self.finish_if_done(now, id.gtrid);
                }
                if branch.asserted {
                    return self.on_asserted_acknowledged(now, id, done, detail);
                }
                if let Some(known) = branch.result {
                    return self.on_acknowledged_again(now, id, known, done, detail);
                }
                // Nothing was sent to it and nothing is to be committed there; no such branch is
                // what it has to say.
                let nothing_there =
                    matches!(done, Done::Done | Done::Heuristic(BranchResult::Hazard));
                if decision == Decision::Commit
                    && branch.ballot == Ballot::ReadOnly
                    && nothing_there
                {
                    self.counters.unexpected += 1;
                    return;
                }
                match reading(state, decision, done) {
                    Reading::Ended(result) => {
                        branch.result = Some(result);
                        branch.detail = cut(detail, DETAIL_BYTES_MAX).to_owned();
                    }
                    Reading::Alone(_) if on(Bug::HeuristicCountsAsDone) => {
                        branch.result = Some(decided_as(decision));
                    }
                    Reading::Alone(result) => {
                        // Whatever it voted, or another process of its participant did: it was
                        // prepared, and its end belongs on record.
                        branch.ballot = Ballot::Commit;
                        branch.result = Some(result);
                        branch.detail = cut(detail, DETAIL_BYTES_MAX).to_owned();
                        branch.forget_pending = true;
                    }
                    // Nothing has changed that an act could be decided on: no new version.
                    Reading::Again => {
                        branch.last_error = cut(detail, DETAIL_BYTES_MAX).to_owned();
                        return;
                    }
                    Reading::Unexpected => {
                        self.counters.unexpected += 1;
                        return;
                    }
                }
                transaction.version += 1;
                if state == State::OnePhase {
                    self.end_one_phase(now, id);
                } else {
                    self.take_result(now, id);
                }
            }
        }
    }

    /// A branch of phase two has a result: recorded before anything else if it deviates (section 3,
    /// row "branch heuristic").
    pub(super) fn take_result(&mut self, now: Millis, id: BranchId) {
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let decided = decided_as(transaction.decision());
        let Some(branch) = transaction.branch(&id.bqual) else { return };
        match branch.result {
            Some(result) if result != decided => {
                self.counters.heuristic += 1;
                self.log_heuristic(id.gtrid);
            }
            Some(result) => {
                if branch.forget_pending {
                    self.log_matched(id, result);
                }
                // A record that names this branch as pending must not be the last word.
                if self.transactions.get(&id.gtrid).is_some_and(|t| t.heuristic_logged) {
                    self.log_heuristic(id.gtrid);
                }
            }
            None => {}
        }
        self.finish_if_done(now, id.gtrid);
    }

    pub(super) fn log_heuristic(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        transaction.heuristic_logged = true;
        let record = transaction.forced(gtrid).unwrap_or_else(|| Record::Heuristic {
            gtrid,
            name: transaction.name.clone(),
            decision: transaction.decision(),
            branches: transaction.phase_two().map(Branch::record).collect(),
        });
        let lsn = self.append(record, true);
        self.awaited.insert(lsn, Awaited::Heuristic(gtrid));
        if let Some(transaction) = self.transactions.get_mut(&gtrid) {
            transaction.heuristic_pending = Some(lsn);
            // It carries the whole transaction.
            self.homes.set(Item::Transaction(gtrid), transaction.home.replace(lsn), lsn);
        }
        self.append_labels(gtrid, true);
        if on(Bug::ForgetBeforeRecord) {
            self.send_forgets(gtrid, None);
        }
    }

    /// It decided alone, and as decided: noted, and told to forget when the note is durable.
    fn log_matched(&mut self, id: BranchId, result: BranchResult) {
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let Some(branch) = transaction.branch_mut(&id.bqual) else { return };
        branch.forget_pending = false;
        branch.matched = true;
        let to = branch.route();
        // A commit in one phase has no other record.
        let alone = transaction.home.is_none() && result == BranchResult::Committed;
        let lsn = self.append(matched_record(id, result, alone), false);
        self.awaited.insert(lsn, Awaited::Matched(to, id));
        if let Some(transaction) = self.transactions.get_mut(&id.gtrid).filter(|_| alone) {
            transaction.home = Some(lsn);
            self.homes.set(Item::Transaction(id.gtrid), None, lsn);
        }
    }

    pub(super) fn on_matched_durable(&mut self, to: Route, branch: BranchId) {
        self.actions.push_back(crate::Action::Send { to, branch, message: Message::Forget });
    }

    pub(super) fn on_heuristic_durable(&mut self, now: Millis, gtrid: Gtrid, upto: Lsn) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        if transaction.heuristic_pending.is_some_and(|lsn| lsn > upto) {
            return;
        }
        transaction.heuristic_pending = None;
        if transaction.settled() {
            self.unended.remove(&gtrid);
        }
        if transaction.state == State::Heuristic {
            self.reply_completed_waiters(gtrid);
        }
        self.reply_acted(gtrid);
        self.send_forgets(gtrid, None);
        self.schedule(now, gtrid);
        self.finish_if_done(now, gtrid);
    }

    pub(super) fn send_forgets(&mut self, gtrid: Gtrid, only: Option<&ParticipantName>) {
        let Some(transaction) = self.transactions.get(&gtrid) else { return };
        if transaction.heuristic_pending.is_some() && !on(Bug::ForgetBeforeRecord) {
            return;
        }
        let branches: Vec<Branch> = transaction
            .branches
            .iter()
            .filter(|branch| branch.forget_pending)
            .filter(|branch| only.is_none_or(|only| branch.participant == *only))
            .cloned()
            .collect();
        for branch in branches {
            self.send(gtrid, &branch, Message::Forget);
        }
    }

    /// Repeated: a branch that still reports what it decided alone has missed its forget. One that
    /// now says something else than before is on record with both (section 7, "a later
    /// contradiction").
    fn on_acknowledged_again(
        &mut self,
        now: Millis,
        id: BranchId,
        known: BranchResult,
        done: Done,
        detail: &str,
    ) {
        let Done::Heuristic(told) = done else { return };
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let durable = transaction.heuristic_pending.is_none();
        let state = transaction.state;
        let decided = decided_as(transaction.decision());
        let Some(branch) = transaction.branch_mut(&id.bqual) else { return };
        let matched = branch.result == Some(decided) && told == known;
        if matched {
            // Its note must be durable before it forgets, or a restart would ask a branch that
            // knows nothing.
            let noted = self
                .awaited
                .values()
                .any(|awaited| matches!(awaited, Awaited::Matched(_, noted) if *noted == id));
            if !noted {
                self.log_matched(id, told);
            }
            return;
        }
        let result = match (known, told) {
            (known, told) if known == told || told == BranchResult::Hazard => {
                if durable {
                    let branch = branch.clone();
                    self.send(id.gtrid, &branch, Message::Forget);
                }
                return;
            }
            (BranchResult::Hazard, told) => told,
            // A process where nothing was has acknowledged the rollback, and one that shares the
            // resource with it held the branch.
            (BranchResult::RolledBack, told)
                if decided == BranchResult::RolledBack && !branch.matched =>
            {
                told
            }
            _ => BranchResult::Mixed,
        };
        branch.result = Some(result);
        branch.detail = cut(detail, DETAIL_BYTES_MAX).to_owned();
        branch.forget_pending = true;
        transaction.version += 1;
        debug_assert!(state != State::OnePhase, "a one-phase answer ends the transaction");
        self.take_result(now, id);
    }

    /// Nothing pending: forgotten after a clean end, or kept as heuristic.
    pub(super) fn finish_if_done(&mut self, now: Millis, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        let waiting = transaction.pending().next().is_some();
        if waiting || transaction.heuristic_pending.is_some() {
            return;
        }
        match transaction.state {
            // What was on the list stays there until a person takes it off.
            State::Committing | State::RollingBack
                if transaction.deviates() || transaction.heuristic_logged =>
            {
                transaction.enter(now, State::Heuristic);
                if transaction.settled() {
                    self.unended.remove(&gtrid);
                }
                self.note_recovered_finished(&gtrid);
                self.reply_completed_waiters(gtrid);
                self.schedule(now, gtrid);
            }
            State::Committing => {
                self.reply_completed_waiters(gtrid);
                self.note_recovered_finished(&gtrid);
                self.forget(now, gtrid, Outcome::Committed);
            }
            State::RollingBack => {
                self.reply_completed_waiters(gtrid);
                self.note_recovered_finished(&gtrid);
                self.forget(now, gtrid, Outcome::RolledBack);
            }
            State::Active
            | State::MarkedRollback
            | State::Preparing
            | State::OnePhase
            | State::Deciding
            | State::Heuristic => {}
        }
    }

    fn note_recovered_finished(&mut self, gtrid: &Gtrid) {
        if self.transactions.get(gtrid).is_some_and(|transaction| transaction.recovered) {
            self.counters.recovered_finished += 1;
        }
    }

    fn reply_completed_waiters(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        for (by, _) in std::mem::take(&mut transaction.waiters) {
            self.reply_as_decided(by, &gtrid);
        }
    }

    /// The answer to commit in one phase decides (section 3, row "one-phase answer").
    pub(super) fn end_one_phase(&mut self, now: Millis, id: BranchId) {
        let Some(transaction) = self.transactions.get(&id.gtrid) else { return };
        let Some(branch) = transaction.branch(&id.bqual) else { return };
        let (alone, detail) = (branch.forget_pending, branch.detail.clone());
        let participant = branch.participant.clone();
        match branch.result {
            Some(BranchResult::Committed) => {
                if alone {
                    self.log_matched(id, BranchResult::Committed);
                }
                self.end_without_record(now, id.gtrid, Outcome::Committed);
            }
            Some(BranchResult::RolledBack) => {
                let cause = RollbackCause::Voted { participant, reason: detail };
                if let Some(transaction) = self.transactions.get_mut(&id.gtrid) {
                    transaction.cause = Some(cause);
                }
                if alone {
                    self.log_matched(id, BranchResult::RolledBack);
                }
                self.end_without_record(now, id.gtrid, Outcome::RolledBack);
            }
            Some(BranchResult::Mixed | BranchResult::Hazard) => {
                self.counters.heuristic += 1;
                self.log_heuristic(id.gtrid);
                if let Some(transaction) = self.transactions.get_mut(&id.gtrid) {
                    transaction.enter(now, State::Heuristic);
                }
                self.cancel_timers(id.gtrid);
            }
            None => {}
        }
    }

    /// Ends a transaction that has nothing in the log: no effects, one-phase, or all read-only.
    pub(super) fn end_without_record(&mut self, now: Millis, gtrid: Gtrid, outcome: Outcome) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        match outcome {
            Outcome::Committed => self.counters.committed += 1,
            _ => self.counters.rolled_back += 1,
        }
        let cause = transaction.cause.clone();
        let waiters = std::mem::take(&mut transaction.waiters);
        let response = Response::Ended(Ending { outcome, cause, completed: true });
        for (by, _) in waiters {
            self.reply(by, response.clone());
        }
        self.forget(now, gtrid, outcome);
    }

    /// A presumed rollback has no list of branches: each that decided alone is added when it says
    /// so.
    pub(super) fn on_heuristic_of_unnamed(
        &mut self,
        now: Millis,
        from: ParticipantName,
        resource: ResourceId,
        id: BranchId,
        result: BranchResult,
        detail: &str,
    ) {
        let branches_max = self.limits.branches_max;
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let presumed = transaction.cause == Some(RollbackCause::Presumed)
            && matches!(transaction.state, State::RollingBack | State::Heuristic);
        let room = transaction.branches.len() < branches_max;
        let named = transaction.branch(&id.bqual).is_some();
        if !presumed || !room || named || result == BranchResult::Hazard {
            self.counters.unexpected += 1;
            return;
        }
        transaction.branches.push(alone(from.clone(), resource, id, result, detail));
        transaction.version += 1;
        self.concern(&from, id.gtrid);
        self.take_result(now, id);
    }

    /// A late answer to a transaction that is not in the table, or is there again without this
    /// branch. Only a branch that decided alone matters: if that contradicts the outcome it is
    /// recorded now, and nothing is invented where the outcome is not known.
    pub(super) fn on_acknowledged_without_record(
        &mut self,
        now: Millis,
        from: ParticipantName,
        resource: ResourceId,
        id: BranchId,
        done: Done,
        detail: &str,
    ) {
        if let (Done::Forgotten, Some(remembered)) = (done, self.outcomes.get_mut(&id.gtrid))
            && remembered.unforgotten.remove(&id.bqual)
            && remembered.home.is_some()
        {
            self.append(Record::Forgotten { gtrid: id.gtrid, bqual: id.bqual }, false);
        }
        let Done::Heuristic(result) = done else { return };
        // Without a record every branch of phase two has acknowledged: a late repeat of the commit
        // met a resource that has dropped its proof. It knows nothing, and nothing follows from it.
        if result == BranchResult::Hazard {
            self.counters.unexpected += 1;
            return;
        }
        let remembered = self.outcomes.get(&id.gtrid);
        let decision = match remembered {
            // That of a rollback names no branch.
            Some(remembered) if remembered.branches.contains(&id.bqual) => Decision::Commit,
            Some(_) => Decision::Rollback,
            // Whatever the floor: a commit with this branch would not have ended without it.
            None if presume::rollback_for_participant(
                &self.standing(),
                &id.gtrid,
                id.bqual.owner(),
            ) =>
            {
                Decision::Rollback
            }
            None => {
                self.counters.unexpected += 1;
                return;
            }
        };
        let branch = alone(from, resource, id, result, detail);
        let matches = matches!(
            (decision, result),
            (Decision::Commit, BranchResult::Committed)
                | (Decision::Rollback, BranchResult::RolledBack)
        );
        if matches {
            // A commit in one phase has no other record.
            let alone = decision == Decision::Commit && remembered.is_none_or(|r| r.home.is_none());
            let lsn = self.append(matched_record(id, result, alone), false);
            if let Some(remembered) = self.outcomes.get_mut(&id.gtrid) {
                remembered.note_unforgotten(id.bqual);
                if alone {
                    remembered.home = Some(lsn);
                    self.homes.set(Item::Outcome(id.gtrid), None, lsn);
                }
            }
            self.awaited.insert(lsn, Awaited::Matched(branch.route(), id));
            return;
        }
        self.list_contradiction(now, id, decision, branch);
    }

    /// A branch contradicts an outcome that is remembered or presumed: its transaction is listed,
    /// or joined if it is listed for another branch already.
    fn list_contradiction(
        &mut self,
        now: Millis,
        id: BranchId,
        decision: Decision,
        branch: Branch,
    ) {
        let from = branch.participant.clone();
        if let Some(listed) = self.transactions.get_mut(&id.gtrid) {
            // A branch outside of a commit that committed all the same: what is listed is the
            // commit, and has no place for it.
            if listed.decision() != decision || listed.branches.len() >= self.limits.branches_max {
                self.counters.unexpected += 1;
                return;
            }
            listed.branches.push(branch);
            listed.version += 1;
            self.concern(&from, id.gtrid);
            return self.take_result(now, id);
        }
        // It will report again; the table stays bounded whatever a participant claims.
        if self.transactions.len() >= self.limits.transactions_max {
            self.counters.refused += 1;
            return;
        }
        let state = match decision {
            Decision::Commit => State::Committing,
            Decision::Rollback => State::RollingBack,
        };
        let name = TransactionName::empty();
        let mut transaction = Transaction::new(name, state, now, now);
        if decision == Decision::Rollback {
            transaction.cause = Some(RollbackCause::Presumed);
        }
        self.concern(&from, id.gtrid);
        transaction.branches.push(branch);
        self.transactions.insert(id.gtrid, transaction);
        self.counters.heuristic += 1;
        self.log_heuristic(id.gtrid);
    }
}

/// It decided alone, and as decided. `alone`: nothing else in the log tells of the commit.
fn matched_record(id: BranchId, result: BranchResult, alone: bool) -> Record {
    let BranchId { gtrid, bqual } = id;
    if alone {
        let outcome = OutcomeRecord { gtrid, branches: vec![bqual], unforgotten: vec![bqual] };
        Record::CarriedOutcomes { committed: vec![outcome] }
    } else {
        Record::Matched { gtrid, bqual, result }
    }
}

fn alone(
    participant: ParticipantName,
    resource: ResourceId,
    id: BranchId,
    result: BranchResult,
    detail: &str,
) -> Branch {
    Branch {
        bqual: id.bqual,
        participant,
        resource,
        instance: None,
        inquires: true,
        ballot: Ballot::Commit,
        evidence: None,
        result: Some(result),
        detail: cut(detail, DETAIL_BYTES_MAX).to_owned(),
        last_error: String::new(),
        forget_pending: true,
        matched: false,
        left_to_ask: false,
        asserted: false,
    }
}

/// How a branch ends that does as decided.
pub(super) fn decided_as(decision: Decision) -> BranchResult {
    match decision {
        Decision::Commit => BranchResult::Committed,
        Decision::Rollback => BranchResult::RolledBack,
    }
}

/// What an acknowledgement means in a state.
enum Reading {
    /// The branch has ended.
    Ended(BranchResult),
    /// It decided alone, or nobody knows: on record before it may forget.
    Alone(BranchResult),
    /// Send again later.
    Again,
    /// No state allows it.
    Unexpected,
}

fn reading(state: State, decision: Decision, done: Done) -> Reading {
    let decided = decided_as(decision);
    match done {
        Done::Done => Reading::Ended(decided),
        Done::RolledBack if state == State::OnePhase => Reading::Ended(BranchResult::RolledBack),
        // It voted commit and says now that it was not prepared: it is undone, against its vote.
        Done::NotPrepared if state == State::OnePhase => Reading::Ended(BranchResult::RolledBack),
        Done::NotPrepared if decision == Decision::Commit => {
            Reading::Alone(BranchResult::RolledBack)
        }
        Done::Heuristic(result) => Reading::Alone(result),
        Done::Retry => Reading::Again,
        Done::RolledBack if decision == Decision::Rollback => Reading::Ended(decided),
        Done::RolledBack | Done::NotPrepared | Done::Forgotten => Reading::Unexpected,
    }
}
