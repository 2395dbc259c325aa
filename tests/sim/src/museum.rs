//! The bug museum: each exhibit is a mistake that coordinators have made, put into the cores, the
//! log or their surroundings, and the invariants that must find it. It tests the tests.
//!
//! To add a piece: a variant of [`Bug`], `if on(Bug::...)` at its site, and an exhibit here. One
//! that is not found shows a hole: in the invariants, or in what the schedules do.

use crate::{Options, Stop, Totals, run};
use serde::Serialize;
use std::time::Instant;
use unanimous_core::museum::Bug;

/// A bug, who finds it, and the rule that it breaks.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit {
    /// The bug.
    pub bug: Bug,
    /// It counts as found when one of these is broken.
    pub found_by: &'static [&'static str],
    /// The rule, by its place in protocol.md, or the case of reliability.md.
    pub rule: &'static str,
}

const fn exhibit(bug: Bug, found_by: &'static [&'static str], rule: &'static str) -> Exhibit {
    Exhibit { bug, found_by, rule }
}

/// Every exhibit. [`Bug::SkipOwnSync`] is not here: only a power loss of real processes shows it.
pub const EXHIBITS: &[Exhibit] = &[
    // What is durable when.
    exhibit(Bug::VoteBeforeSync, &["L2"], "CP-1"),
    exhibit(Bug::VotesWhenAsked, &["L2"], "section 4, prepare"),
    exhibit(Bug::BusyIsPrepared, &["L2"], "section 4, resource manager answers"),
    exhibit(Bug::AcknowledgeBeforeSync, &["L3", "L1"], "CP-4"),
    exhibit(Bug::AcknowledgesWhenTold, &["L3"], "section 4, commit"),
    exhibit(Bug::BusyIsDone, &["L3"], "section 4, resource manager answers"),
    exhibit(Bug::FlushedBeforeSync, &["L1", "L8", "L9", "H1"], "C-05"),
    exhibit(Bug::FlushedTellsTooMuch, &["L1", "L8", "EM", "H1"], "architecture.md, group commit"),
    exhibit(Bug::AnswersBeforeDurable, &["L1"], "C-04"),
    exhibit(Bug::ActsBeforeDurable, &["L1"], "C-05"),
    exhibit(Bug::RecoveredTailUnsynced, &["L1", "L8", "EM", "H1"], "section 6, read and synced"),
    exhibit(
        Bug::RecoveredBranchesUnsynced,
        &["L1", "L2", "L3", "R1", "H1", "H2"],
        "section 4, restart",
    ),
    exhibit(Bug::SyncTriedAgain, &["L1", "L8", "L9", "EM", "H1"], "S-06"),
    exhibit(Bug::BootNotAwaited, &["L9", "L10"], "section 2, epoch"),
    exhibit(Bug::EpochFromClock, &["L9", "L10", "AC5"], "T-01"),
    exhibit(Bug::EndNotAwaited, &["EM"], "section 4, Committed"),
    exhibit(Bug::ActBeforeItsRecord, &["A1"], "section 7, before its effect"),
    // Who decides what.
    exhibit(Bug::FirstVoteDecides, &["AC3"], "section 3, vote"),
    exhibit(Bug::MajorityDecides, &["AC3"], "section 3, vote"),
    exhibit(Bug::VoteCountedTwice, &["AC3"], "section 3, over the set of votes"),
    exhibit(Bug::CountIgnored, &["AC3"], "P-10"),
    exhibit(Bug::ReadOnlyInPhaseTwo, &["AC3"], "P-13"),
    exhibit(Bug::RepeatedVoteReadOnly, &["AC1", "L1", "E1", "L11"], "section 4, prepare"),
    exhibit(Bug::LateEnlist, &["AC1", "H2", "L8"], "P-10"),
    exhibit(Bug::LatePrepareCreates, &["AC1", "AC2"], "section 4, prepare"),
    exhibit(Bug::UndoneBranchJoins, &["AC2"], "section 4, coordinator silent"),
    exhibit(Bug::TimesOutAfterDecision, &["L12", "AC2", "H2", "L10"], "section 3, time-out"),
    exhibit(Bug::TimesOutOnePhase, &["L10", "H2"], "section 3, one-phase answer"),
    exhibit(Bug::RollbackAfterDecision, &["L12", "AC2"], "P-16"),
    exhibit(Bug::PreparedTimesOut, &["AC1", "H2"], "CP-3"),
    exhibit(Bug::PatienceIsRollback, &["AC1", "H1", "H2", "L3"], "section 4, answer to an inquiry"),
    exhibit(Bug::RestartForgetsAlone, &["H1", "H3"], "section 4, HeuristicCommit"),
    exhibit(Bug::RestartForgetsPrepared, &["AC1", "AC2", "H2"], "CP-2"),
    exhibit(Bug::RestartForgetsDecisions, &["L8", "L10", "EM", "AC2"], "C-08"),
    // Who may be told "rolled back".
    exhibit(Bug::PendingIsRolledBack, &["L10", "L12"], "P-07"),
    exhibit(Bug::UnknownIsRolledBack, &["L10"], "section 6, a client asks"),
    exhibit(Bug::InquiryEndsActive, &["L10"], "P-07"),
    exhibit(Bug::OnePhasePresumed, &["L10"], "section 6, two branches counted"),
    exhibit(Bug::FloorIgnored, &["L10"], "section 6, outcome floor"),
    exhibit(Bug::FloorNotAwaited, &["L10"], "section 6, forced before the drop"),
    // The end, and being forgotten.
    exhibit(Bug::ForgetsBeforeAcknowledged, &["L4"], "section 3, branch acknowledged"),
    exhibit(Bug::AcknowledgementCountedTwice, &["L4", "AC5", "H1"], "C-11"),
    exhibit(Bug::MarkWithoutExceptions, &["EM"], "section 4, Committed"),
    exhibit(Bug::MarkPassesTheRest, &["EM"], "section 4, Committed"),
    exhibit(Bug::CommitWithoutProof, &["L3", "E1", "AC5"], "section 4, evidence"),
    exhibit(Bug::OnePhaseWithoutProof, &["L1", "L3", "E3"], "section 4, commit one-phase"),
    exhibit(Bug::ProofDroppedUnseen, &["AC2", "L10", "E3"], "section 4, commit one-phase"),
    exhibit(Bug::GivesUp, &["AC5"], "section 3, branch does not answer"),
    exhibit(Bug::InquiresOnce, &["AC5"], "section 4, coordinator silent"),
    exhibit(Bug::RestartWithoutTimers, &["AC5"], "section 3, restart"),
    exhibit(Bug::PatienceFences, &["AC5"], "section 2, fencing"),
    // Heuristic outcomes.
    exhibit(Bug::HeuristicCountsAsDone, &["L4", "H1", "H2"], "P-19"),
    exhibit(Bug::HeuristicHidden, &["L3", "H1"], "section 4, HeuristicRollback"),
    exhibit(Bug::ForgetBeforeRecord, &["H1"], "section 3, branch heuristic"),
    // Compaction, space, damage.
    exhibit(Bug::DropsBeforeCarried, &["L8"], "architecture.md, compaction"),
    exhibit(Bug::DropsOneFrameTooMany, &["L8"], "architecture.md, compaction"),
    exhibit(Bug::ChecksumIgnored, &["L7", "L1", "L8"], "C-07"),
    exhibit(Bug::RemovesBeforeStart, &["L7"], "S-21"),
    exhibit(Bug::CompactionSkipsItem, &["L8"], "architecture.md, compaction"),
    exhibit(Bug::OutcomeWithoutBranches, &["L8"], "section 6, ended but remembered"),
    exhibit(Bug::CarriedWithoutResults, &["L8"], "section 7, what the log keeps"),
    exhibit(Bug::UnforgottenNotCarried, &["L8", "H1"], "section 7, what the log keeps"),
    exhibit(Bug::MatchedNotCarried, &["L8", "H1"], "section 7, what the log keeps"),
    exhibit(Bug::BootNotCarried, &["L8"], "section 2, epoch"),
    exhibit(Bug::FloorNotCarried, &["L8"], "section 6, outcome floor"),
    exhibit(Bug::LowSpaceIgnored, &["S-05"], "S-05"),
];

/// How one bug was found.
#[derive(Clone, Debug, Serialize)]
pub struct Find {
    /// The bug.
    pub name: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
    /// The invariant that found it; empty: none of those that should.
    pub invariant: &'static str,
    /// Whether it was found by one that is there for it.
    pub found: bool,
    /// Schedules until then, or all that were run.
    pub schedules: u64,
    /// Repeats the schedule in which it was found.
    pub seed: u64,
}

/// What a visit came to.
#[derive(Clone, Debug, Serialize)]
pub struct Visit {
    /// Every bug.
    pub bugs: Vec<Find>,
    /// How many were found.
    pub found: usize,
    /// The same seeds without a bug: as many as the rarest one needed, and at least so many as
    /// were asked for.
    pub clean: Clean,
    /// Wall-clock time.
    pub seconds: f64,
}

/// Schedules without a bug.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Clean {
    /// How many.
    pub schedules: u64,
    /// Those that broke an invariant.
    pub failures: u64,
}

impl Visit {
    /// All bugs were found, and nothing where there was none.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.found == self.bugs.len() && self.clean.failures == 0
    }
}

/// Runs each bug until it is found, and the same seeds without one. `switch` makes a bug that of
/// this process.
pub fn visit(options: Options, switch: fn(Option<Bug>), each: impl Fn(&Find)) -> Visit {
    let started = Instant::now();
    let mut bugs = Vec::new();
    for exhibit in EXHIBITS {
        switch(Some(exhibit.bug));
        let stop = Stop::BrokenOneOf(exhibit.found_by);
        let find = find(*exhibit, options.seed, &run(Options { stop, ..options }));
        each(&find);
        bugs.push(find);
    }
    switch(None);
    let rarest = bugs.iter().map(|find| find.schedules).max().unwrap_or(0);
    let schedules = rarest.max(options.schedules.min(100_000));
    let clean = run(Options { schedules, stop: Stop::Never, ..options });
    Visit {
        found: bugs.iter().filter(|find| find.found).count(),
        clean: Clean { schedules: clean.schedules, failures: clean.failures },
        seconds: started.elapsed().as_secs_f64(),
        bugs,
    }
}

fn find(exhibit: Exhibit, first_seed: u64, totals: &Totals) -> Find {
    let by = exhibit.found_by.iter();
    let by = by.filter_map(|name| totals.first_seeds.get(name).map(|seed| (*seed, *name))).min();
    Find {
        name: exhibit.bug.name(),
        rule: exhibit.rule,
        invariant: by.map_or("", |(_, name)| name),
        found: by.is_some(),
        schedules: by.map_or(totals.schedules, |(seed, _)| seed.wrapping_sub(first_seed) + 1),
        seed: by.map_or(0, |(seed, _)| seed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants;
    use std::collections::BTreeSet;

    #[test]
    fn every_bug_is_exhibited_once_and_named_invariants_exist() {
        let shown: BTreeSet<Bug> = EXHIBITS.iter().map(|exhibit| exhibit.bug).collect();
        let missing = Bug::ALL.iter().filter(|bug| !shown.contains(bug)).collect::<Vec<_>>();
        assert_eq!(missing, [&Bug::SkipOwnSync]);
        assert_eq!(shown.len(), EXHIBITS.len());
        let known: BTreeSet<_> = invariants::ALL.iter().map(|invariant| invariant.name).collect();
        // Of the world itself: a durable frame that cannot be read.
        let own = ["L7"];
        for exhibit in EXHIBITS {
            let strange = exhibit.found_by.iter().find(|by| !known.contains(*by));
            assert!(strange.is_none_or(|by| own.contains(by)), "{exhibit:?}");
        }
        let names: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
    }
}
