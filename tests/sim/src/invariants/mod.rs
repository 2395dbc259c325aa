//! What must hold (reliability.md, "Invariants"), one file each with its source.
//!
//! An invariant sees every [`Fact`] the moment it becomes true, together with the [`Ledger`] of all
//! facts before it; it is asserted after every event. What can only be judged when everything has
//! come to rest is judged once, from [`Rest`]. The ledger sees all platters and all messages: it is
//! nobody in the simulated world.
//!
//! To add one: a file that exports an [`Invariant`], a line in [`ALL`], and a defect that only it
//! finds.

mod a1_audited;
mod ac1_one_outcome;
mod ac2_no_reversal;
mod ac3_all_voted_yes;
mod ac4_nothing_in_the_way;
mod ac5_termination;
mod e1_conservation;
mod e3_effects;
mod em_ended_mark;
mod f2_own_branches;
mod h1_recorded;
mod h2_no_invention;
mod h3_stays_listed;
mod l10_no_wrong_presumption;
mod l11_told_commit_stays;
mod l12_log_answers;
mod l1_durable_before_shown;
mod l2_prepared_before_vote;
mod l3_durable_before_acknowledged;
mod l4_end_after_acknowledgements;
mod l6_replay;
mod l7_whole;
mod l8_compaction;
mod l9_identifiers;
mod ledger;
mod r1_nothing_prepared;
mod r3_nothing_leaks;
mod s05_storage_low;

pub use ledger::{Branch, Ledger, Transaction};

use unanimous_core::coordinator::{EndedMark, Recovered};
use unanimous_core::message::{Done, Vote};
use unanimous_core::{
    Answer, Bqual, BranchId, BranchResult, Decision, Gtrid, LogId, Outcome, Record,
};

/// Something that has just become true in the simulated world.
#[derive(Clone, Debug)]
pub enum Fact<'a> {
    /// The coordinator gave out a new identifier.
    Begun(Gtrid),
    /// The coordinator told a participant that its branch is part of the transaction.
    Enlisted(BranchId),
    /// A branch changed its participant's data by this sum.
    Worked(BranchId, i64),
    /// A participant sends its vote.
    Voted(BranchId, &'a Vote),
    /// A prepared branch is on its participant's platter.
    Prepared(BranchId),
    /// A branch has ended, and its end will survive any crash.
    Ended(BranchId, BranchResult),
    /// A participant's operator has ended a prepared branch, durably.
    EndedAlone(BranchId, BranchResult),
    /// A participant has dropped a branch's heuristic record, durably.
    Forgotten(BranchId),
    /// One process of several finds nothing of a branch in the shared resource, or another
    /// process still working in it, and answers a rollback from that.
    FoundNothing(BranchId),
    /// A participant sends an acknowledgement.
    Acknowledged(BranchId, Done),
    /// A client has asked for the commit, and may have said how many branches it counted.
    CommitAsked(Gtrid, Option<u32>),
    /// The coordinator has handed a record to its log, whose answer is open.
    Handed(&'a Record),
    /// A record is on the coordinator's platter.
    Durable(&'a Record),
    /// The coordinator's process is gone, and with it whatever its log had not answered.
    CoordinatorGone,
    /// A new life has read its log.
    Recovered(&'a Recovered),
    /// Older frames of the log are being dropped: what a reader of the others would find from now
    /// on.
    Retained(&'a Recovered),
    /// The log's space has become low, or ample again.
    Storage {
        /// Too little for new decisions.
        low: bool,
    },
    /// The coordinator tells a participant a decision.
    Told(BranchId, Decision),
    /// The coordinator tells a participant to commit in one phase.
    ToldOnePhase(BranchId),
    /// The coordinator tells a participant that it may forget what it decided alone.
    ToldForget(BranchId),
    /// The coordinator tells participants what has ended.
    ToldEnded(&'a EndedMark),
    /// The coordinator answers a client.
    Answered(Gtrid, Outcome),
    /// A participant says what is not so.
    Lied {
        /// About which branch.
        branch: BranchId,
        /// The branch is its own.
        own: bool,
        /// What.
        answer: &'a Answer,
    },
    /// The coordinator has a new, empty log.
    NewLog(LogId),
    /// Bits of this durable frame have flipped.
    Rotted(u64),
    /// The frames are again what was written.
    Restored,
    /// A durable frame is read as none: the start is refused.
    Unreadable(u64),
    /// A new life's log, folded once and folded twice over.
    Replayed(&'a Recovered, &'a Recovered),
}

/// The world at rest: faults have stopped, and it was given the time it may need.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// What has not ended, for people; empty if everything has.
    pub unfinished: Vec<String>,
    /// Prepared branches on all platters.
    pub prepared: Vec<BranchId>,
    /// Transactions on the operator's list.
    pub heuristic: Vec<Gtrid>,
    /// Timers without a branch, and requests without an answer, for people.
    pub leaked: Vec<String>,
    /// Sum of all accounts on all platters.
    pub sum: i64,
    /// Sum of all accounts at the beginning.
    pub sum_at_start: i64,
    /// By participant: the sum of its accounts, and the sum at the beginning.
    pub participants: Vec<(i64, i64)>,
}

/// One statement about the system that must hold in every schedule.
pub struct Invariant {
    /// Its name in reliability.md.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Judges a fact against all facts before it; the text says what is wrong.
    pub on_fact: fn(&Ledger, &Fact<'_>) -> Option<String>,
    /// Judges the world at rest.
    pub at_rest: fn(&Ledger, &Rest) -> Option<String>,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What is wrong.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// All invariants, in the order they are asserted.
pub const ALL: &[Invariant] = &[
    a1_audited::INVARIANT,
    ac1_one_outcome::INVARIANT,
    ac2_no_reversal::INVARIANT,
    ac3_all_voted_yes::INVARIANT,
    ac4_nothing_in_the_way::INVARIANT,
    l1_durable_before_shown::INVARIANT,
    l2_prepared_before_vote::INVARIANT,
    l3_durable_before_acknowledged::INVARIANT,
    l4_end_after_acknowledgements::INVARIANT,
    l6_replay::INVARIANT,
    l7_whole::INVARIANT,
    l8_compaction::INVARIANT,
    l9_identifiers::INVARIANT,
    l10_no_wrong_presumption::INVARIANT,
    l11_told_commit_stays::INVARIANT,
    l12_log_answers::INVARIANT,
    em_ended_mark::INVARIANT,
    f2_own_branches::INVARIANT,
    h1_recorded::INVARIANT,
    h2_no_invention::INVARIANT,
    h3_stays_listed::INVARIANT,
    s05_storage_low::INVARIANT,
    ac5_termination::INVARIANT,
    r1_nothing_prepared::INVARIANT,
    r3_nothing_leaks::INVARIANT,
    e1_conservation::INVARIANT,
    e3_effects::INVARIANT,
];

/// What holds whatever a participant says about its own branches. The others hold for all
/// transactions but its own.
const WHATEVER_IS_SAID: &[&str] =
    &["A1", "AC3", "L1", "L6", "L7", "L8", "L9", "L12", "EM", "F2", "S-05"];

fn silent_on_facts(_: &Ledger, _: &Fact<'_>) -> Option<String> {
    None
}

fn silent_at_rest(_: &Ledger, _: &Rest) -> Option<String> {
    None
}

impl Ledger {
    /// Judges a fact by every invariant, then takes it.
    ///
    /// # Errors
    /// The first invariant that it breaks.
    pub fn take(&mut self, fact: &Fact<'_>) -> Result<(), Violation> {
        let subject = fact.gtrid().and_then(|gtrid| self.transaction(gtrid));
        let spoilt = subject.is_some_and(|transaction| transaction.lied);
        for invariant in ALL {
            if spoilt && !WHATEVER_IS_SAID.contains(&invariant.name) {
                continue;
            }
            if let Some(detail) = (invariant.on_fact)(self, fact) {
                return Err(Violation { invariant: invariant.name, detail });
            }
        }
        self.note(fact);
        Ok(())
    }

    /// Judges the world at rest by every invariant.
    ///
    /// # Errors
    /// The first invariant that it breaks.
    pub fn rest(&self, rest: &Rest) -> Result<(), Violation> {
        for invariant in ALL {
            if let Some(detail) = (invariant.at_rest)(self, rest) {
                return Err(Violation { invariant: invariant.name, detail });
            }
        }
        Ok(())
    }
}

impl Fact<'_> {
    /// The one transaction that it is about.
    fn gtrid(&self) -> Option<&Gtrid> {
        match self {
            Self::Begun(gtrid) | Self::CommitAsked(gtrid, _) | Self::Answered(gtrid, _) => {
                Some(gtrid)
            }
            Self::Enlisted(id)
            | Self::Worked(id, _)
            | Self::Voted(id, _)
            | Self::Prepared(id)
            | Self::Ended(id, _)
            | Self::EndedAlone(id, _)
            | Self::Forgotten(id)
            | Self::FoundNothing(id)
            | Self::Acknowledged(id, _)
            | Self::Told(id, _)
            | Self::ToldOnePhase(id)
            | Self::ToldForget(id)
            | Self::Lied { branch: id, .. } => Some(&id.gtrid),
            Self::Handed(record) | Self::Durable(record) => match record {
                Record::Commit { gtrid, .. }
                | Record::Heuristic { gtrid, .. }
                | Record::Matched { gtrid, .. }
                | Record::End { gtrid }
                | Record::Carried { gtrid, .. }
                | Record::Forgotten { gtrid, .. }
                | Record::Forced { gtrid, .. }
                | Record::Labelled { gtrid, .. } => Some(gtrid),
                Record::OperatorAct { entry } => entry.gtrid.as_ref(),
                Record::CarriedOutcomes { committed } => match &committed[..] {
                    [only] => Some(&only.gtrid),
                    _ => None,
                },
                Record::Boot { .. } | Record::OutcomeFloor { .. } | Record::Participant { .. } => {
                    None
                }
            },
            Self::CoordinatorGone
            | Self::Recovered(_)
            | Self::Retained(_)
            | Self::Storage { .. }
            | Self::ToldEnded(_)
            | Self::NewLog(_)
            | Self::Rotted(_)
            | Self::Restored
            | Self::Unreadable(_)
            | Self::Replayed(..) => None,
        }
    }
}

/// Whether a record's list of branches names this one.
fn names(branches: &[Bqual], branch: &BranchId) -> bool {
    branches.contains(&branch.bqual)
}
