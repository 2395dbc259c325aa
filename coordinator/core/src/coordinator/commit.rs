//! Commit, votes, the decision, and what the log's answer sets free; and rollback.

use super::table::BranchState;
use super::{Awaited, Coordinator, Item, State};
use crate::id::{BranchId, Gtrid, ParticipantName, ResourceId};
use crate::message::{Answer, Done, Ending, Response, RollbackCause, Vote, Wait};
use crate::museum::{Bug, on};
use crate::record::{DETAIL_BYTES_MAX, Record, cut};
use crate::tally::{Ballot, Tally, tally};
use crate::{BranchResult, CallerId, FrameNumber, Lsn, Millis, Outcome};

impl Coordinator {
    pub(super) fn on_commit(
        &mut self,
        now: Millis,
        by: CallerId,
        gtrid: Gtrid,
        expected_branches: Option<u32>,
        wait: Wait,
    ) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else {
            return self.reply_without_record(by, &gtrid, expected_branches);
        };
        match transaction.state {
            State::Active => {
                transaction.waiters.push((by, wait));
                self.commit_active(now, gtrid, expected_branches);
            }
            State::MarkedRollback => {
                transaction.waiters.push((by, wait));
                self.roll_back(now, gtrid, None);
            }
            State::Preparing | State::OnePhase | State::Deciding => {
                transaction.waiters.push((by, wait));
            }
            State::Committing | State::RollingBack => match wait {
                Wait::Decided => self.reply_as_decided(by, &gtrid),
                Wait::Completed => transaction.waiters.push((by, wait)),
            },
            State::Heuristic => self.reply_heuristic(by, gtrid),
        }
    }

    fn commit_active(&mut self, now: Millis, gtrid: Gtrid, expected_branches: Option<u32>) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        let enlisted = transaction.branches.len();
        let other_count =
            expected_branches.is_some_and(|expected| usize::try_from(expected) != Ok(enlisted));
        if other_count && !on(Bug::CountIgnored) {
            return self.roll_back(now, gtrid, Some(RollbackCause::BranchCount));
        }
        match &transaction.branches[..] {
            [] => self.end_without_record(now, gtrid, Outcome::Committed),
            [only] if only.ballot == Ballot::Outstanding => {
                transaction.enter(now, State::OnePhase);
                self.drive(gtrid, None);
                self.schedule(now, gtrid);
            }
            // Nobody prepares for a decision that cannot be recorded.
            _ if self.storage_low && !on(Bug::LowSpaceIgnored) => {
                self.roll_back(now, gtrid, Some(RollbackCause::LogFull))
            }
            _ => self.decide_or_prepare(now, gtrid),
        }
    }

    /// The tally over the set of votes decides (section 3, row "vote").
    fn decide_or_prepare(&mut self, now: Millis, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        match tally(transaction.branches.iter().map(|branch| branch.ballot)) {
            Tally::Outstanding => {
                if transaction.state == State::Active {
                    transaction.enter(now, State::Preparing);
                    self.drive(gtrid, None);
                    self.schedule(now, gtrid);
                }
            }
            Tally::Rollback => {
                let cause = transaction
                    .branches
                    .iter()
                    .find(|branch| branch.ballot == Ballot::Rollback)
                    .map(|branch| RollbackCause::Voted {
                        participant: branch.participant.clone(),
                        reason: branch.detail.clone(),
                    });
                self.roll_back(now, gtrid, cause);
            }
            Tally::NothingToDo => self.end_without_record(now, gtrid, Outcome::Committed),
            Tally::Commit if self.storage_low && !on(Bug::LowSpaceIgnored) => {
                self.roll_back(now, gtrid, Some(RollbackCause::LogFull));
            }
            Tally::Commit => {
                transaction.enter(now, State::Deciding);
                let record = Record::Commit {
                    gtrid,
                    name: transaction.name.clone(),
                    branches: transaction.phase_two().map(super::Branch::record).collect(),
                };
                if !on(Bug::TimesOutAfterDecision) {
                    self.cancel_timers(gtrid);
                }
                let lsn = self.append(record, true);
                self.awaited.insert(lsn, Awaited::Commit(gtrid));
                self.homes.set(Item::Transaction(gtrid), None, lsn);
                if let Some(transaction) = self.transactions.get_mut(&gtrid) {
                    transaction.home = Some(lsn);
                }
                self.append_labels(gtrid, true);
                if on(Bug::ActsBeforeDurable) {
                    self.on_commit_durable(now, gtrid);
                } else if on(Bug::AnswersBeforeDurable) {
                    self.reply_decided_waiters(gtrid);
                }
            }
        }
    }

    pub(super) fn on_answered(
        &mut self,
        now: Millis,
        from: ParticipantName,
        resource: ResourceId,
        id: BranchId,
        answer: Answer,
    ) {
        let participant = from.clone();
        let owned = self.transactions.get(&id.gtrid).map(|transaction| {
            transaction
                .branch(&id.bqual)
                .is_some_and(|branch| branch.participant == from && branch.resource == resource)
        });
        match (owned, answer) {
            (Some(true), Answer::Voted(vote)) => self.on_vote(now, id, vote),
            (Some(true), Answer::Acknowledged { done, detail }) => {
                self.on_acknowledged(now, id, done, &detail);
            }
            (None, Answer::Acknowledged { done, detail }) => {
                self.on_acknowledged_without_record(now, from, resource, id, done, &detail);
            }
            // Listed again after its end, without this branch.
            (Some(false), Answer::Acknowledged { done, detail }) if self.reopened_without(&id) => {
                self.on_acknowledged_without_record(now, from, resource, id, done, &detail);
            }
            (Some(false), Answer::Acknowledged { done: Done::Heuristic(result), detail }) => {
                self.on_heuristic_of_unnamed(now, from, resource, id, result, &detail);
            }
            (Some(false), _) | (None, Answer::Voted(_)) => self.counters.unexpected += 1,
        }
        self.redrive_answered(now, &participant);
    }

    fn on_vote(&mut self, now: Millis, id: BranchId, vote: Vote) {
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let (state, on_record) = (transaction.state, transaction.heuristic_logged);
        let Some(branch) = transaction.branch_mut(&id.bqual) else { return };
        match state {
            State::Active if branch.ballot == Ballot::Outstanding => {
                self.on_early_vote(now, id, vote);
            }
            // A yes that turns into a no before the decision: against the protocol, and still a no.
            State::Active if matches!(vote, Vote::Rollback { .. }) => {
                self.counters.unexpected += 1;
                self.on_early_vote(now, id, vote);
            }
            State::Preparing => {
                let changed = branch.ballot != Ballot::Outstanding;
                match (changed, vote) {
                    (true, Vote::Rollback { reason }) if branch.ballot == Ballot::Commit => {
                        self.counters.unexpected += 1;
                        branch.vote(Vote::Rollback { reason });
                    }
                    (true, _) if on(Bug::VoteCountedTwice) => {
                        let waiting =
                            |other: &&mut super::Branch| other.ballot == Ballot::Outstanding;
                        let other = transaction.branches.iter_mut().find(waiting);
                        other.into_iter().for_each(|other| other.ballot = Ballot::Commit);
                    }
                    // Repeated.
                    (true, _) => return,
                    (false, vote) => branch.vote(vote),
                }
                transaction.version += 1;
                self.decide_or_prepare(now, id.gtrid);
            }
            // An early no that the order to commit has crossed: nobody was asked to prepare, so it
            // is the branch's own, and it is undone. Whatever the order finds there now, it is not
            // a commit.
            State::OnePhase if matches!(vote, Vote::Rollback { .. }) && branch.result.is_none() => {
                branch.vote(vote);
                branch.result = Some(BranchResult::RolledBack);
                self.end_one_phase(now, id);
            }
            // Late: the branch that votes no is undone and needs no rollback; one that votes yes
            // gets it anyway.
            State::RollingBack => {
                let undone = matches!(vote, Vote::Rollback { .. } | Vote::ReadOnly);
                // What is on record as part of phase two stays a part of it: how it ended is what
                // it answers to the order. A no may be that of a process which does not know that
                // the branch has ended alone.
                let known = branch.ballot != Ballot::Outstanding || branch.result.is_some();
                if !undone || known || on_record {
                    return;
                }
                branch.vote(vote);
                transaction.version += 1;
                self.finish_if_done(now, id.gtrid);
            }
            State::Active
            | State::MarkedRollback
            | State::OnePhase
            | State::Deciding
            | State::Committing
            | State::Heuristic => self.counters.unexpected += 1,
        }
    }

    pub(super) fn on_flushed(&mut self, now: Millis, upto: Lsn, frame: FrameNumber) {
        self.frame = self.frame.max(frame);
        self.durable = self.durable.max(upto);
        while let Some(entry) = self.awaited.first_entry() {
            if *entry.key() > upto {
                break;
            }
            let lsn = *entry.key();
            match entry.remove() {
                Awaited::Boot => self.on_boot_durable(now),
                Awaited::Commit(gtrid) => self.on_commit_durable(now, gtrid),
                Awaited::Heuristic(gtrid) => self.on_heuristic_durable(now, gtrid, upto),
                Awaited::Matched(to, branch) => self.on_matched_durable(to, branch),
                Awaited::End(gtrid) => {
                    self.unended.remove(&gtrid);
                }
                Awaited::Act => self.on_act_durable(now, lsn),
                Awaited::Audited(by) => self.on_audited(by, lsn),
                Awaited::Floor(epoch, sequence) => self.on_floor_durable(now, epoch, sequence),
            }
        }
        self.cut_if_durable();
    }

    fn on_commit_durable(&mut self, now: Millis, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        transaction.enter(now, State::Committing);
        self.counters.committed += 1;
        self.reply_decided_waiters(gtrid);
        self.drive(gtrid, None);
        self.schedule(now, gtrid);
        if on(Bug::ForgetsBeforeAcknowledged) {
            self.forget(now, gtrid, Outcome::Committed);
        }
    }

    pub(super) fn on_rollback(&mut self, now: Millis, by: CallerId, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else {
            return self.reply_without_record(by, &gtrid, None);
        };
        if on(Bug::RollbackAfterDecision) && transaction.state == State::Deciding {
            transaction.state = State::Preparing;
        }
        match transaction.state {
            State::Active | State::MarkedRollback | State::Preparing => {
                transaction.waiters.push((by, Wait::Decided));
                self.roll_back(now, gtrid, Some(RollbackCause::Requested));
            }
            // Too late to stop, too early to know: it learns the outcome with the others.
            State::OnePhase | State::Deciding => transaction.waiters.push((by, Wait::Decided)),
            State::Committing | State::RollingBack => self.reply_as_decided(by, &gtrid),
            State::Heuristic => self.reply_heuristic(by, gtrid),
        }
    }

    /// Not before its record is durable: after one-phase it is the only one.
    pub(super) fn reply_heuristic(&mut self, by: CallerId, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        if transaction.heuristic_pending.is_some() {
            transaction.waiters.push((by, Wait::Completed));
        } else {
            self.reply_as_decided(by, &gtrid);
        }
    }

    /// To RollingBack, from Active, MarkedRollback or Preparing. `cause`: unless there is one
    /// already.
    pub(super) fn roll_back(&mut self, now: Millis, gtrid: Gtrid, cause: Option<RollbackCause>) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        if transaction.cause.is_none() {
            transaction.cause = cause;
        }
        debug_assert!(transaction.cause.is_some(), "a rollback has a cause");
        transaction.enter(now, State::RollingBack);
        self.counters.rolled_back += 1;
        self.cancel_timers(gtrid);
        self.reply_decided_waiters(gtrid);
        self.drive(gtrid, None);
        self.schedule(now, gtrid);
        self.finish_if_done(now, gtrid);
    }

    /// Replies to those who wait for the decision only.
    pub(super) fn reply_decided_waiters(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        let waiters = std::mem::take(&mut transaction.waiters);
        let (decided, completed): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|(_, wait)| *wait == Wait::Decided);
        transaction.waiters = completed;
        for (by, _) in decided {
            self.reply_as_decided(by, &gtrid);
        }
    }

    /// Only for a transaction whose decision may be shown.
    pub(super) fn reply_as_decided(&mut self, by: CallerId, gtrid: &Gtrid) {
        let Some(transaction) = self.transactions.get(gtrid) else { return };
        debug_assert!(matches!(
            transaction.state,
            State::Committing | State::RollingBack | State::Heuristic
        ));
        let ending = Ending {
            outcome: transaction.outcome(),
            cause: transaction.cause.clone(),
            completed: transaction.pending().next().is_none(),
        };
        self.reply(by, Response::Ended(ending));
    }
}

impl super::Branch {
    fn vote(&mut self, vote: Vote) {
        match vote {
            Vote::Commit { evidence } => {
                self.ballot = Ballot::Commit;
                self.evidence = evidence;
            }
            Vote::ReadOnly => self.ballot = Ballot::ReadOnly,
            Vote::Rollback { reason } => {
                self.ballot = Ballot::Rollback;
                self.detail = cut(&reason, DETAIL_BYTES_MAX).to_owned();
            }
        }
    }

    /// Voted commit and not known to have ended: holds locks.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.state(crate::Decision::Commit) == BranchState::Prepared
    }
}
