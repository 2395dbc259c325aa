//! What is live moves to the end of the log, then what lies before may go (architecture.md, "The
//! log"; invariant 8).
#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits};
use unanimous_core::coordinator::{Limits, Recovered};
use unanimous_core::message::{Done, Wait};
use unanimous_core::{BranchResult, Gtrid, Lsn, Outcome};

/// One transaction of each kind that the log keeps. Returns them in this order: ended, ended with
/// a branch that has not forgotten, committing with one of two branches done, heuristic.
fn one_of_each(s: &mut Script) -> [Gtrid; 4] {
    let decided = |s: &mut Script| {
        s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
        s.votes_commit(1).votes_commit(2).flushed();
        s.gtrid()
    };
    s.attach(1).attach(2);
    let ended = decided(s);
    s.done(1).done(2).flushed();
    let unforgotten = decided(s);
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand").done(2).flushed();
    let committing = decided(s);
    s.done(1);
    let heuristic = decided(s);
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").done(2).flushed();
    [ended, unforgotten, committing, heuristic]
}

fn compact_wholly(s: &mut Script, items_max: usize) {
    let upto = s.durable();
    while s.dropped_below() <= upto {
        s.compact_upto(upto, items_max).flushed();
    }
}

/// What must not differ: unfinished and heuristic transactions with their branches, and outcomes.
fn essence(recovered: &Recovered, gtrids: &[Gtrid]) -> Vec<String> {
    gtrids
        .iter()
        .map(|gtrid| {
            let unfinished = recovered.transactions().find(|(id, _)| *id == gtrid).map(|(_, t)| {
                let results = t.branches.iter().map(|branch| (branch.bqual, branch.matched));
                (t.state(), t.decision(), results.collect::<Vec<_>>())
            });
            format!("{unfinished:?} {:?}", recovered.outcome(gtrid))
        })
        .collect()
}

#[test]
fn everything_live_moves_on_and_the_rest_is_dropped() {
    let mut s = Script::new("One of each kind, moved in one step; the restart reads only the new.");
    one_of_each(&mut s);
    s.take_text();
    s.compact(100).flushed().restart().flushed().attach(2).done(2);
    s.check("compact_one_of_each");
}

/// Section 7, "what the log keeps": whatever the size of a step.
#[test]
fn what_the_rest_of_the_log_says_is_what_the_whole_said() {
    for items_max in 1..=6 {
        let mut s = Script::new("steps");
        let gtrids = one_of_each(&mut s);
        let (before, _) = s.recovered();
        compact_wholly(&mut s, items_max);
        let (whole, left) = s.recovered();
        assert_eq!(essence(&whole, &gtrids), essence(&before, &gtrids), "{items_max}");
        assert_eq!(essence(&left, &gtrids), essence(&before, &gtrids), "{items_max}");
        assert_eq!(left.outcome(&gtrids[0]), Some(Outcome::Committed));
    }
}

/// A second compaction has only the first one's records to start from.
#[test]
fn compactions_follow_each_other_over_restarts() {
    let mut s = Script::new("again and again");
    let gtrids = one_of_each(&mut s);
    let (first, _) = s.recovered();
    for _ in 0..3 {
        compact_wholly(&mut s, 2);
        s.restart().flushed();
    }
    let (_, left) = s.recovered();
    assert_eq!(essence(&left, &gtrids), essence(&first, &gtrids));
    assert!(left.next_epoch(0) > 1_000, "the epoch is carried");
}

/// Invariant 8: the frame that carries is durable before anything goes.
#[test]
fn nothing_is_dropped_before_the_moves_are_durable() {
    let mut s = Script::new("not flushed");
    one_of_each(&mut s);
    let first = s.dropped_below();
    s.compact(100);
    assert_eq!(s.dropped_below(), first);
    s.flushed();
    assert!(s.dropped_below() > first);
}

/// An End that comes between the steps belongs to the moved record.
#[test]
fn what_happens_between_the_steps_is_not_lost() {
    let mut s = Script::new("A branch acknowledges after its transaction has moved.");
    let [_, _, committing, _] = one_of_each(&mut s);
    s.take_text();
    let upto = s.durable();
    s.compact_upto(upto, 4);
    s.stranger(committing).done(2).flushed();
    s.compact_upto(upto, 100).flushed();
    let (_, left) = s.recovered();
    assert_eq!(left.outcome(&committing), Some(Outcome::Committed));
    assert!(left.transactions().all(|(gtrid, _)| *gtrid != committing));
    s.check("compact_between");
}

/// Found by reading: a note whose decision was carried on and cut off looked like a commit in one
/// phase of its own.
#[test]
fn regression_a_note_that_outlives_its_decision_is_no_outcome() {
    let mut s = Script::new("Matched stays in the log, the Commit before it goes.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    let (gtrid, upto) = (s.gtrid(), s.durable());
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.compact_upto(upto, 100).flushed();
    let (_, left) = s.recovered();
    assert_eq!(left.outcome(&gtrid), None, "it is not finished");
    assert_eq!(left.transactions().filter(|(id, _)| **id == gtrid).count(), 1);
}

/// Section 7, "until the list entry is resolved": a person has to see that it turned out well, and
/// a restart must not take it off the list.
#[test]
fn a_heuristic_that_turned_out_to_be_none_stays_listed() {
    let mut s = Script::new("Hazard at first, rolled back after all.");
    s.begin().enlist(1).enlist(2).enlist(3).commit(Some(3), Wait::Decided);
    s.votes_commit(2).votes_commit(3).votes_rollback(1, "no");
    s.acknowledges(2, Done::Heuristic(BranchResult::Hazard), "gone").flushed();
    s.acknowledges(2, Done::Heuristic(BranchResult::RolledBack), "found").flushed();
    s.done(3).flushed();
    let gtrid = s.gtrid();
    assert_eq!(s.state(), "Heuristic");
    compact_wholly(&mut s, 1);
    s.restart().flushed();
    assert_eq!(s.state(), "Heuristic");
    let outcome = s.coordinator.transaction(&gtrid).map(|transaction| transaction.outcome());
    assert_eq!(outcome, Some(Outcome::RolledBack));
    let (whole, left) = s.recovered();
    assert!(whole.committed().chain(left.committed()).all(|id| *id != gtrid));
}

/// Found by reading: an outcome that was kept below the floor drew the floor down to itself.
#[test]
fn regression_the_floor_never_goes_back() {
    let few = Limits { outcomes_max: 2, ..limits() };
    let mut s = Script::with_limits("Kept below the floor, and dropped later.", few);
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand").done(2).flushed();
    let kept = s.gtrid();
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed().done(1).done(2).flushed();
    let dropped = s.gtrid();
    for _ in 0..3 {
        s.begin().commit(None, Wait::Decided).flushed();
    }
    let upto = s.durable();
    s.stranger(kept).acknowledges(1, Done::Forgotten, "").flushed();
    s.begin().commit(None, Wait::Decided).flushed();
    s.compact_upto(upto, 100).flushed();
    s.restart().flushed();
    let (_, left) = s.recovered();
    let place = Some((dropped.owner().epoch, dropped.sequence()));
    assert!(left.outcome_floor() >= place, "{:?}", left.outcome_floor());
}

/// Section 6: the floor outlives the outcomes that it stands for.
#[test]
fn dropped_outcomes_stay_unknown_after_the_log_has_dropped_their_records() {
    let few = Limits { outcomes_max: 1, ..limits() };
    let mut s = Script::with_limits("floor", few);
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed().done(1).done(2).flushed();
    let first = s.gtrid();
    for _ in 0..3 {
        s.begin().commit(None, Wait::Decided).flushed();
    }
    compact_wholly(&mut s, 1);
    s.restart().flushed().stranger(first).take_text();
    s.resolve(Some(2));
    s.check("compact_floor");
}

#[test]
fn outcomes_are_dropped_when_they_are_too_old() {
    let short = Limits { outcome_retention_ms: 1_000, ..limits() };
    let mut s = Script::with_limits("An outcome is remembered for a second.", short);
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed().done(1).done(2).flushed();
    s.resolve(Some(2)).next_deadline().flushed().resolve(Some(2));
    assert_eq!(s.coordinator.deadline(), None, "nothing is left to wait for");
    s.check("outcome_too_old");
}

/// Catalogue S-05: begins are refused, undecided transactions roll back, decided ones finish.
#[test]
fn s_05_with_too_little_space_nothing_new_is_decided() {
    let mut s = Script::new("The log's space becomes low, and ample again.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2);
    let decided = s.gtrid();
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1);
    let preparing = s.gtrid();
    s.begin().enlist(1).enlist(2);
    let active = s.gtrid();
    s.storage(true);
    s.stranger(decided).flushed().done(1).done(2);
    s.stranger(preparing).votes_commit(2).done(1).done(2);
    s.stranger(active).commit(Some(2), Wait::Decided).done(1).done(2);
    s.refused_begin().storage(false).begin();
    s.check("storage_low");
}

/// Catalogue N-05: what is driven again when a participant comes back fits a window.
#[test]
fn n_05_a_participant_that_comes_back_is_driven_within_a_window() {
    let narrow = Limits { redrive_window: 2, ..limits() };
    let mut s = Script::with_limits("Five wait for p1; two are sent at once.", narrow);
    let mut waiting = Vec::new();
    for _ in 0..5 {
        s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
        s.votes_commit(1).votes_commit(2).flushed().done(2);
        waiting.push(s.gtrid());
    }
    s.take_text();
    s.attach(1);
    for gtrid in waiting {
        s.stranger(gtrid).done(1);
    }
    s.check("redrive_window");
}

/// However many transactions a participant has, its return is looked after in pieces.
#[test]
fn o_05_a_return_to_many_transactions_goes_on_with_each_tick() {
    let few = Limits { ticks_max: 2, ..limits() };
    let mut s = Script::with_limits("return", few);
    for _ in 0..3 {
        s.begin().enlist(1).enlist(2);
    }
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.take_text();
    s.attach(1);
    assert!(!s.take_text().contains("send p1 commit"), "it is the fourth");
    while s.coordinator.deadline() == Some(unanimous_core::Millis(0)) {
        s.wait_ms(0);
    }
    assert!(s.take_text().contains("send p1 commit"));
}

/// Known participants are listed while they are away, over restarts and compactions.
#[test]
fn participants_are_remembered() {
    let mut s = Script::new("participants");
    s.attach(1).attach(2).attach(1).flushed();
    compact_wholly(&mut s, 1);
    s.restart().flushed();
    let names: Vec<String> =
        s.coordinator.participants().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["p1", "p2"]);
    assert_eq!(s.records_of_participants(), 4, "two met, two moved; nothing for the repeat");
}

/// Catalogue T-04: many timers at once are handled in pieces.
#[test]
fn t_04_timers_are_handled_a_bounded_number_at_a_time() {
    let few = Limits { ticks_max: 3, ..limits() };
    let mut s = Script::with_limits("timers", few);
    for _ in 0..8 {
        s.begin();
    }
    s.wait_ms(10_000);
    let mut left = vec![s.coordinator.transactions_len()];
    while s.coordinator.deadline().is_some_and(|at| at <= s.now) {
        s.wait_ms(0);
        left.push(s.coordinator.transactions_len());
    }
    assert_eq!(left, [5, 2, 0]);
}

#[test]
fn a_compaction_that_is_asked_for_too_much_moves_only_what_is_durable() {
    let mut s = Script::new("beyond the end");
    one_of_each(&mut s);
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    let deciding = s.gtrid();
    s.compact_upto(Lsn(u64::MAX), 100).flushed().restart().flushed();
    let (_, left) = s.recovered();
    assert!(left.transactions().any(|(gtrid, _)| *gtrid == deciding));
}
