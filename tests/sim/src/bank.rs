//! A participant's durable resource: accounts with exclusive locks in a log of its own.
//!
//! It keeps the contract of the SDK's resources as the embedded one does: prepared, committed and
//! rolled back are records, each durable before it is answered; proofs of committed branches stay
//! until the ended mark passes them.

use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Done, Vote};
use unanimous_core::museum::{Bug, on};
use unanimous_core::participant::{Call, Event, Returned};
use unanimous_core::record::Evidence;
use unanimous_core::{BranchId, BranchResult, Decision, Gtrid};

/// What every account holds at the beginning.
pub(super) const BALANCE_AT_START: i64 = 100;

/// Changes of accounts.
pub(super) type Moves = Vec<(usize, i64)>;

/// A record of the bank's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum BankRecord {
    Prepared {
        branch: BranchId,
        moves: Moves,
    },
    /// With its moves, which in one phase stand nowhere else.
    Committed {
        branch: BranchId,
        moves: Moves,
    },
    RolledBack {
        branch: BranchId,
    },
    /// Its operator ended the branch, or its policy did.
    Alone {
        branch: BranchId,
        result: BranchResult,
    },
    Forgotten {
        branch: BranchId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Working, or worked; nothing is durable.
    Active,
    Prepared,
    Alone(BranchResult),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    id: BranchId,
    stage: Stage,
    moves: Moves,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This, at once.
    Now(Returned),
    /// This, once the record is durable.
    After(BankRecord, Returned),
}

/// The bank's memory: its records, folded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bank {
    balances: Vec<i64>,
    held: Vec<Held>,
    committed: Vec<BranchId>,
    mark: Option<EndedMark>,
    evidence: bool,
    /// Several processes reach it.
    shared: bool,
    /// If so: branches undone on the word of a process that did not hold them.
    undone: Vec<BranchId>,
}

impl Bank {
    pub(super) fn new(accounts: usize, evidence: bool, shared: bool) -> Self {
        Self {
            balances: vec![BALANCE_AT_START; accounts],
            held: Vec::new(),
            committed: Vec::new(),
            mark: None,
            evidence,
            shared,
            undone: Vec::new(),
        }
    }

    pub(super) fn sum(&self) -> i64 {
        self.balances.iter().sum()
    }

    /// Branches that must be asked about, or reported, after a restart: prepared, or ended alone
    /// and not yet forgotten.
    pub(super) fn recover(&self) -> impl Iterator<Item = BranchId> {
        self.held.iter().filter(|held| held.stage != Stage::Active).map(|held| held.id)
    }

    /// What a process that finds the branch listed makes of it.
    pub(super) fn found(&self, id: BranchId) -> Event {
        match self.find(&id).map(|held| held.stage) {
            Some(Stage::Alone(result)) => {
                Event::FoundAlone { branch: id, result, words: String::new() }
            }
            _ => Event::Recovered { branch: id, evidence: self.evidence_of(&id) },
        }
    }

    pub(super) fn prepared(&self) -> impl Iterator<Item = BranchId> {
        self.held.iter().filter(|held| held.stage == Stage::Prepared).map(|held| held.id)
    }

    /// Branches whose effects are neither durable nor undone.
    pub(super) fn active(&self) -> impl Iterator<Item = BranchId> {
        self.held.iter().filter(|held| held.stage == Stage::Active).map(|held| held.id)
    }

    /// Whether anything is known about the branch.
    pub(super) fn knows(&self, id: &BranchId) -> bool {
        self.find(id).is_some() || self.committed.contains(id)
    }

    /// Whether an active branch would make changes.
    pub(super) fn worked(&self, id: &BranchId) -> bool {
        self.find(id).is_some_and(|held| !held.moves.is_empty())
    }

    /// Works in a branch. Refused at once if another branch holds an account.
    pub(super) fn work(
        &mut self,
        id: BranchId,
        moves: &[(usize, i64)],
    ) -> Result<(), &'static str> {
        let busy = self.held.iter().any(|held| {
            held.id != id
                && !matches!(held.stage, Stage::Alone(_))
                && held.moves.iter().any(|(account, _)| moves.iter().any(|(a, _)| a == account))
        });
        if busy {
            return Err("an account is busy");
        }
        if self.undone.contains(&id) {
            return Err("the branch was undone");
        }
        match self.held.iter_mut().find(|held| held.id == id) {
            Some(held) => held.moves.extend_from_slice(moves),
            None => self.held.push(Held { id, stage: Stage::Active, moves: moves.to_vec() }),
        }
        Ok(())
    }

    /// Whether a process that does not hold the branch sees nothing of it: nothing durable is
    /// there, and only processes that share the resource may have it open.
    pub(super) fn is_nothing_to(&self, id: &BranchId, holds: bool) -> bool {
        let durable = self.find(id).is_some_and(|held| held.stage != Stage::Active);
        self.shared && !holds && !durable
    }

    /// `holds`: the process that calls has the branch's open work, if there is any. Another one
    /// cannot see it.
    pub(super) fn call(&mut self, id: &BranchId, call: &Call, holds: bool) -> Step {
        let elsewhere = !holds && self.find(id).is_some_and(|held| held.stage == Stage::Active);
        match call {
            Call::Prepare if elsewhere => {
                let reason = "another process holds the branch".to_owned();
                Step::Now(Returned::Voted(Vote::Rollback { reason }))
            }
            Call::Commit { .. } if elsewhere => {
                Step::Now(did(Done::Heuristic(BranchResult::Hazard)))
            }
            Call::CommitOnePhase if elsewhere => self.undo_for_good(id),
            Call::Rollback | Call::Forget | Call::EndAlone { .. } if elsewhere => {
                Step::Now(did(Done::Done))
            }
            Call::Prepare => self.prepare(id),
            Call::Commit { .. } => self.commit(id),
            Call::CommitOnePhase => self.commit_one_phase(id),
            Call::Rollback => self.roll_back(id),
            Call::EndAlone { decision, .. } => self.end_alone(id, *decision),
            Call::Forget => match self.find(id).map(|held| held.stage) {
                Some(Stage::Alone(_)) => {
                    let record = BankRecord::Forgotten { branch: *id };
                    Step::After(record, did(Done::Forgotten))
                }
                _ => Step::Now(did(Done::Forgotten)),
            },
        }
    }

    fn prepare(&mut self, id: &BranchId) -> Step {
        let Some(held) = self.find(id) else {
            if on(Bug::LatePrepareCreates) {
                let record = BankRecord::Prepared { branch: *id, moves: Moves::new() };
                return Step::After(record, Returned::Voted(Vote::Commit { evidence: None }));
            }
            let reason = "the branch is not known here".to_owned();
            return Step::Now(Returned::Voted(Vote::Rollback { reason }));
        };
        match held.stage {
            Stage::Active if held.moves.is_empty() => {
                self.drop_held(id);
                Step::Now(Returned::Voted(Vote::ReadOnly))
            }
            Stage::Active if self.overdrawn(&held.moves) => {
                self.drop_held(id);
                let reason = "an account would be overdrawn".to_owned();
                Step::Now(Returned::Voted(Vote::Rollback { reason }))
            }
            Stage::Active => {
                let record = BankRecord::Prepared { branch: *id, moves: held.moves.clone() };
                Step::After(record, Returned::Voted(self.vote(id)))
            }
            Stage::Prepared => Step::Now(Returned::Voted(self.vote(id))),
            Stage::Alone(_) => {
                let reason = "its operator has ended it".to_owned();
                Step::Now(Returned::Voted(Vote::Rollback { reason }))
            }
        }
    }

    fn vote(&self, id: &BranchId) -> Vote {
        Vote::Commit { evidence: self.evidence_of(id) }
    }

    /// What a vote carries and a restart knows again.
    pub(super) fn evidence_of(&self, id: &BranchId) -> Option<Evidence> {
        self.evidence
            .then(|| Evidence { kind: "embedded".into(), data: id.bqual.as_bytes()[..8].to_vec() })
    }

    fn commit(&mut self, id: &BranchId) -> Step {
        let Some(held) = self.find(id) else {
            let proved = self.committed.contains(id) || on(Bug::CommitWithoutProof);
            let done = if proved { Done::Done } else { Done::Heuristic(BranchResult::Hazard) };
            return Step::Now(did(done));
        };
        match held.stage {
            Stage::Active => {
                self.drop_held(id);
                Step::Now(did(Done::NotPrepared))
            }
            Stage::Prepared => {
                let record = BankRecord::Committed { branch: *id, moves: held.moves.clone() };
                Step::After(record, did(Done::Done))
            }
            Stage::Alone(result) => Step::Now(did(Done::Heuristic(result))),
        }
    }

    fn commit_one_phase(&mut self, id: &BranchId) -> Step {
        let Some(held) = self.find(id) else {
            // Every one-phase commit leaves a record until the mark passes it: without one it was
            // never committed.
            return if self.committed.contains(id) || on(Bug::OnePhaseWithoutProof) {
                Step::Now(did(Done::Done))
            } else if self.passed(&id.gtrid) && !on(Bug::ProofDroppedUnseen) {
                Step::Now(did(Done::Heuristic(BranchResult::Hazard)))
            } else if self.shared {
                self.undo_for_good(id)
            } else {
                Step::Now(did(Done::RolledBack))
            };
        };
        match held.stage {
            Stage::Active if self.overdrawn(&held.moves) => {
                self.drop_held(id);
                Step::Now(did(Done::RolledBack))
            }
            Stage::Active | Stage::Prepared => {
                let record = BankRecord::Committed { branch: *id, moves: held.moves.clone() };
                Step::After(record, did(Done::Done))
            }
            Stage::Alone(result) => Step::Now(did(Done::Heuristic(result))),
        }
    }

    /// A process that may still hold the branch, or be about to work in it, must not commit it
    /// after this answer.
    fn undo_for_good(&self, id: &BranchId) -> Step {
        Step::After(BankRecord::RolledBack { branch: *id }, did(Done::RolledBack))
    }

    fn roll_back(&mut self, id: &BranchId) -> Step {
        let Some(held) = self.find(id) else {
            // With several processes one may have missed that another was told to commit, and ask
            // when that is no more remembered: an old answer, to a branch that is Committed.
            let committed = self.committed.contains(id) && !self.shared;
            return Step::Now(did(if committed {
                Done::Heuristic(BranchResult::Committed)
            } else {
                Done::Done
            }));
        };
        match held.stage {
            Stage::Active => {
                self.drop_held(id);
                Step::Now(did(Done::Done))
            }
            Stage::Prepared => Step::After(BankRecord::RolledBack { branch: *id }, did(Done::Done)),
            Stage::Alone(result) => Step::Now(did(Done::Heuristic(result))),
        }
    }

    fn end_alone(&self, id: &BranchId, decision: Decision) -> Step {
        match self.find(id).map(|held| held.stage) {
            Some(Stage::Prepared) => {
                let result = match decision {
                    Decision::Commit => BranchResult::Committed,
                    Decision::Rollback => BranchResult::RolledBack,
                };
                let record = BankRecord::Alone { branch: *id, result };
                Step::After(record, did(Done::Heuristic(result)))
            }
            Some(Stage::Alone(result)) => Step::Now(did(Done::Heuristic(result))),
            // Another process was told how it ends.
            Some(Stage::Active) | None => Step::Now(did(Done::Done)),
        }
    }

    /// A record is durable, or is read at the start.
    pub(super) fn apply(&mut self, record: &BankRecord) {
        match record {
            BankRecord::Prepared { branch, moves } => {
                match self.held.iter_mut().find(|held| held.id == *branch) {
                    Some(held) => held.stage = Stage::Prepared,
                    None => self.held.push(Held {
                        id: *branch,
                        stage: Stage::Prepared,
                        moves: moves.clone(),
                    }),
                }
            }
            BankRecord::Committed { branch, moves } => {
                self.drop_held(branch);
                self.change(moves);
                self.committed.push(*branch);
            }
            BankRecord::RolledBack { branch } => {
                self.drop_held(branch);
                if self.shared {
                    self.undone.push(*branch);
                }
            }
            BankRecord::Forgotten { branch } => {
                // Another process may still be about to ask what became of it.
                let alone = self.find(branch).map(|held| held.stage);
                if self.shared && alone == Some(Stage::Alone(BranchResult::Committed)) {
                    self.committed.push(*branch);
                }
                self.drop_held(branch);
            }
            BankRecord::Alone { branch, result } => {
                let Some(held) = self.held.iter_mut().find(|held| held.id == *branch) else {
                    return;
                };
                held.stage = Stage::Alone(*result);
                let moves = held.moves.clone();
                if *result == BranchResult::Committed {
                    self.change(&moves);
                }
            }
        }
    }

    /// What the coordinator says has ended needs no proof any more.
    pub(super) fn ended(&mut self, mark: EndedMark) {
        let newer = self.mark.as_ref().is_none_or(|known| {
            known.log == mark.log && (known.epoch, known.sequence) < (mark.epoch, mark.sequence)
        });
        if newer {
            self.mark = Some(mark);
            let committed = std::mem::take(&mut self.committed);
            self.committed = committed.into_iter().filter(|id| !self.passed(&id.gtrid)).collect();
        }
    }

    /// The ended mark has passed the transaction.
    pub(super) fn passed(&self, gtrid: &Gtrid) -> bool {
        let owner = gtrid.owner();
        self.mark.as_ref().is_some_and(|mark| {
            owner.log == mark.log
                && (owner.epoch, gtrid.sequence()) <= (mark.epoch, mark.sequence)
                && !mark.exceptions.contains(gtrid)
        })
    }

    fn find(&self, id: &BranchId) -> Option<&Held> {
        self.held.iter().find(|held| held.id == *id)
    }

    pub(super) fn drop_held(&mut self, id: &BranchId) {
        self.held.retain(|held| held.id != *id);
    }

    fn overdrawn(&self, moves: &[(usize, i64)]) -> bool {
        moves.iter().any(|(account, _)| {
            let change: i64 = moves.iter().filter(|(a, _)| a == account).map(|(_, by)| by).sum();
            self.balances[*account] + change < 0
        })
    }

    fn change(&mut self, moves: &[(usize, i64)]) {
        for (account, by) in moves {
            self.balances[*account] += by;
        }
    }
}

fn did(done: Done) -> Returned {
    Returned::Did(done, String::new())
}

impl BankRecord {
    /// The branch it is about.
    pub(super) fn branch(&self) -> BranchId {
        match self {
            Self::Prepared { branch, .. }
            | Self::Committed { branch, .. }
            | Self::RolledBack { branch }
            | Self::Alone { branch, .. }
            | Self::Forgotten { branch } => *branch,
        }
    }
}
