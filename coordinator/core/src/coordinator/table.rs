//! Transactions and branches in the coordinator's table, and which state may follow which.

use crate::id::{Bqual, InstanceId, Labels, ParticipantName, ResourceId, TransactionName};
use crate::message::{CallerId, RollbackCause, Route, Wait};
use crate::museum::{Bug, on};
use crate::outcome::{BranchResult, Decision, Outcome, aggregate};
use crate::record::{BranchKind, BranchRecord, Evidence};
use crate::tally::Ballot;
use crate::{Lsn, Millis};
use std::collections::BTreeSet;

/// Where a transaction is (section 3). No entry in the table: never begun, or forgotten.
///
/// Foreseen and not here yet: `LastResourceInDoubt` (between an Intent and what its marker tells),
/// and `Prepared` (a subordinate that has voted).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Branches may enlist and work.
    Active,
    /// A branch voted rollback early: it can only roll back, when its client ends it or its
    /// time-out passes.
    MarkedRollback,
    /// The commit was requested; votes are outstanding.
    Preparing,
    /// Its only branch has been asked to commit in one phase; the answer decides.
    OnePhase,
    /// The Commit record is handed to the log, its fate not known. Nothing but the log's answer
    /// moves it.
    Deciding,
    /// The decision commit is durable; acknowledgements are outstanding.
    Committing,
    /// Decided rollback; acknowledgements are outstanding.
    RollingBack,
    /// No branch is pending, and the outcome is not the one decided. Stays until a person resolves
    /// it.
    Heuristic,
}

impl State {
    /// Every state, for tables.
    pub const ALL: [Self; 8] = [
        Self::Active,
        Self::MarkedRollback,
        Self::Preparing,
        Self::OnePhase,
        Self::Deciding,
        Self::Committing,
        Self::RollingBack,
        Self::Heuristic,
    ];

    /// The legal successors, other than being forgotten.
    #[must_use]
    pub fn successors(self) -> &'static [Self] {
        match self {
            Self::Active => &[
                Self::MarkedRollback,
                Self::Preparing,
                Self::OnePhase,
                Self::Deciding,
                Self::RollingBack,
            ],
            Self::MarkedRollback => &[Self::RollingBack],
            Self::Preparing => &[Self::Deciding, Self::RollingBack],
            Self::OnePhase | Self::Committing | Self::RollingBack => &[Self::Heuristic],
            Self::Deciding => &[Self::Committing],
            Self::Heuristic => &[],
        }
    }
}

/// An unfinished or heuristic transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// For lists.
    pub name: TransactionName,
    /// For lists and filters.
    pub labels: Labels,
    /// Raised by each change of state or branch.
    pub version: u64,
    /// When it began; for a recovered one, when this life did.
    pub begun_at: Millis,
    /// When the present state was entered.
    pub phase_since: Millis,
    /// When it is rolled back if undecided.
    pub timeout_at: Millis,
    /// In the order they enlisted.
    pub branches: Vec<Branch>,
    /// How often the present phase's messages were sent again.
    pub tries: u32,
    /// When they are sent again.
    pub next_try_at: Option<Millis>,
    /// Why it rolls back.
    pub cause: Option<RollbackCause>,
    /// Taken over from the log.
    pub recovered: bool,
    pub(super) state: State,
    pub(super) waiters: Vec<(CallerId, Wait)>,
    /// The last Heuristic record's number until it is durable.
    pub(super) heuristic_pending: Option<Lsn>,
    /// A Heuristic record of it is in the log.
    pub(super) heuristic_logged: bool,
    /// An operator has marked it resolved.
    pub(super) resolved: bool,
    /// Operators whose act's record is being written.
    pub(super) acted: Vec<CallerId>,
    /// The first of the records that tell its state; `None`: the log does not know it.
    pub(super) home: Option<Lsn>,
}

impl Transaction {
    pub(super) fn new(
        name: TransactionName,
        state: State,
        now: Millis,
        timeout_at: Millis,
    ) -> Self {
        Self {
            name,
            labels: Labels::default(),
            version: 0,
            begun_at: now,
            phase_since: now,
            timeout_at,
            branches: Vec::new(),
            tries: 0,
            next_try_at: None,
            cause: None,
            recovered: false,
            state,
            waiters: Vec::new(),
            heuristic_pending: None,
            heuristic_logged: false,
            resolved: false,
            acted: Vec::new(),
            home: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    pub(super) fn enter(&mut self, now: Millis, state: State) {
        assert!(self.state.successors().contains(&state), "{:?} to {state:?}", self.state);
        self.state = state;
        self.phase_since = now;
        self.version += 1;
        self.tries = 0;
    }

    pub(super) fn branch_mut(&mut self, bqual: &Bqual) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|branch| branch.bqual == *bqual)
    }

    /// One of its branches.
    #[must_use]
    pub fn branch(&self, bqual: &Bqual) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.bqual == *bqual)
    }

    /// A Heuristic record of it is in the log.
    #[must_use]
    pub fn heuristic_logged(&self) -> bool {
        self.heuristic_logged
    }

    /// What was decided, or for one-phase asked for.
    #[must_use]
    pub fn decision(&self) -> Decision {
        match self.cause {
            Some(_) => Decision::Rollback,
            None => Decision::Commit,
        }
    }

    /// The outcome by what is known now (section 7), over the branches of phase two.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        aggregate(self.decision(), self.phase_two().map(|branch| branch.result))
    }

    /// Branches that a decision concerns: all but read-only voters and those that voted rollback.
    pub fn phase_two(&self) -> impl Iterator<Item = &Branch> {
        self.branches.iter().filter(|branch| branch.in_phase_two())
    }

    /// Branches whose answer is awaited in the present state.
    pub fn pending(&self) -> impl Iterator<Item = &Branch> {
        let state = self.state;
        self.branches.iter().filter(move |branch| branch.pending_in(state))
    }

    /// Branches that decided alone, as decided, and have not said that they forgot.
    pub(super) fn unforgotten(&self) -> BTreeSet<Bqual> {
        self.branches.iter().filter(|branch| branch.matched).map(|branch| branch.bqual).collect()
    }

    /// A branch has ended otherwise than decided, or nobody knows how.
    #[must_use]
    pub fn deviates(&self) -> bool {
        let decided = match self.decision() {
            Decision::Commit => BranchResult::Committed,
            Decision::Rollback => BranchResult::RolledBack,
        };
        self.phase_two().any(|branch| branch.result.is_some_and(|result| result != decided))
    }
}

/// A branch of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Names it in its transaction.
    pub bqual: Bqual,
    /// Whose it is.
    pub participant: ParticipantName,
    /// Which resource.
    pub resource: ResourceId,
    /// The process that holds the work; `None` after a restart.
    pub instance: Option<InstanceId>,
    /// The participant asks for itself.
    pub inquires: bool,
    /// Its vote.
    pub ballot: Ballot,
    /// From its vote.
    pub evidence: Option<Evidence>,
    /// How it ended.
    pub result: Option<BranchResult>,
    /// The participant's words about its vote or result.
    pub detail: String,
    /// Why it could not do what it was told to, when it was told last. Not in the log.
    pub last_error: String,
    /// It keeps a heuristic record until it is told to forget.
    pub forget_pending: bool,
    /// It decided alone, and as decided, and has not said that it forgot.
    pub matched: bool,
    /// A rollback was sent often enough: it is left to ask.
    pub left_to_ask: bool,
    /// Its result is an operator's word, and it has not been seen gone.
    pub asserted: bool,
}

/// How a branch looks to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchState {
    /// No vote yet.
    Enlisted,
    /// Voted commit; its end is not known.
    Prepared,
    /// Voted read-only: finished.
    ReadOnly,
    /// Voted rollback: finished.
    VotedRollback,
    /// Ended as decided.
    Done,
    /// Ended otherwise than decided.
    Heuristic(BranchResult),
}

impl Branch {
    /// Left out of phase two are read-only voters and those that voted rollback: both are finished.
    /// One whose vote never came may be prepared, so it stays in.
    #[must_use]
    pub fn in_phase_two(&self) -> bool {
        matches!(self.ballot, Ballot::Commit | Ballot::Outstanding)
            || (on(Bug::ReadOnlyInPhaseTwo) && self.ballot == Ballot::ReadOnly)
    }

    pub(super) fn pending_in(&self, state: State) -> bool {
        match state {
            State::Active | State::MarkedRollback | State::Deciding => false,
            State::Preparing => self.ballot == Ballot::Outstanding,
            State::OnePhase | State::Committing => self.in_phase_two() && self.result.is_none(),
            State::RollingBack => self.in_phase_two() && self.result.is_none() && !self.left_to_ask,
            State::Heuristic => false,
        }
    }

    /// For lists, given what was decided.
    #[must_use]
    pub fn state(&self, decision: Decision) -> BranchState {
        match (self.result, self.ballot) {
            (Some(BranchResult::Committed), _) if decision == Decision::Commit => BranchState::Done,
            (Some(BranchResult::RolledBack), _) if decision == Decision::Rollback => {
                BranchState::Done
            }
            (Some(result), _) => BranchState::Heuristic(result),
            (None, Ballot::Outstanding) => BranchState::Enlisted,
            (None, Ballot::Commit) => BranchState::Prepared,
            (None, Ballot::ReadOnly) => BranchState::ReadOnly,
            (None, Ballot::Rollback) => BranchState::VotedRollback,
        }
    }

    pub(super) fn route(&self) -> Route {
        Route {
            participant: self.participant.clone(),
            resource: self.resource.clone(),
            instance: self.instance,
            holder_only: false,
        }
    }

    pub(super) fn record(&self) -> BranchRecord {
        BranchRecord {
            bqual: self.bqual,
            participant: self.participant.clone(),
            resource: self.resource.clone(),
            kind: BranchKind::TwoPhase,
            inquires: self.inquires,
            evidence: self.evidence.clone(),
            result: self.result,
            detail: self.detail.clone(),
        }
    }

    pub(super) fn from_record(record: BranchRecord) -> Self {
        Self {
            bqual: record.bqual,
            participant: record.participant,
            resource: record.resource,
            instance: None,
            inquires: record.inquires,
            ballot: Ballot::Commit,
            evidence: record.evidence,
            forget_pending: false,
            matched: false,
            left_to_ask: false,
            last_error: String::new(),
            asserted: false,
            result: record.result,
            detail: record.detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    /// Section 3: a durable decision is never reversed, and nothing handed to the log is rolled
    /// back.
    #[test]
    fn nothing_leads_from_a_decision_to_its_reverse() {
        let reachable = |from: State| {
            let mut seen = vec![from];
            let mut next = vec![from];
            while let Some(state) = next.pop() {
                for successor in state.successors() {
                    if !seen.contains(successor) {
                        seen.push(*successor);
                        next.push(*successor);
                    }
                }
            }
            seen
        };
        for state in [State::Deciding, State::Committing, State::OnePhase, State::Heuristic] {
            assert!(!reachable(state).contains(&State::RollingBack), "{state:?}");
        }
        assert!(!reachable(State::RollingBack).contains(&State::Committing));
        for state in State::ALL {
            assert!(reachable(State::Active).contains(&state), "{state:?} cannot be reached");
        }
    }
}
