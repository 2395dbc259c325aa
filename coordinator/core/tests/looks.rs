//! What a coordinator shows of itself, and what it says to participants besides its orders.
#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits};
use std::collections::BTreeSet;
use unanimous_core::coordinator::{Counters, Limits};
use unanimous_core::message::{Action, Done, Event, Wait};
use unanimous_core::{BranchResult, Gtrid, Outcome};

/// Decided, and not acknowledged by either branch.
fn decided(s: &mut Script) -> Gtrid {
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.gtrid()
}

/// Section 4, "ended": never past what could be driven again, and no further behind than that.
#[test]
fn the_ended_mark_passes_all_that_has_ended_durably() {
    let mut s = Script::new("mark");
    assert_eq!(s.coordinator.ended_mark(), None, "nothing was begun");
    decided(&mut s);
    s.done(1).done(2);
    let first = s.gtrid();
    let mark = s.coordinator.ended_mark().unwrap();
    assert_eq!(mark.exceptions, [first], "its End may be lost");
    s.flushed();
    let second = decided(&mut s);
    s.begin().enlist(1).commit(Some(1), Wait::Decided).done(1);
    let mark = s.coordinator.ended_mark().unwrap();
    assert_eq!((mark.log, mark.epoch), (first.owner().log, first.owner().epoch));
    assert_eq!((mark.sequence, mark.exceptions), (2, vec![second]));
}

/// With more unfinished ones than a message has room for, it stays before the first that has none.
#[test]
fn the_ended_mark_stays_behind_what_it_has_no_room_for() {
    let mark_with = |exceptions_max: usize| {
        let few = Limits { exceptions_max, ..limits() };
        let mut s = Script::with_limits("mark", few);
        let unended: Vec<Gtrid> = (0..3).map(|_| decided(&mut s)).collect();
        (s.coordinator.ended_mark(), unended)
    };
    let (mark, unended) = mark_with(1);
    let mark = mark.unwrap();
    assert_eq!((mark.sequence, &mark.exceptions[..]), (0, &unended[..1]));
    assert_eq!(mark_with(0).0, None, "before sequence 0 there is no place in this epoch");
}

/// Why a branch is waited for is shown, and changes nothing that an act is decided on.
#[test]
fn what_a_branch_cannot_do_yet_is_shown_in_its_own_words() {
    let mut s = Script::new("words");
    let gtrid = decided(&mut s);
    let version = s.coordinator.transaction(&gtrid).unwrap().version;
    s.done(1).acknowledges(2, Done::Retry, "must be the owner");
    let seen = s.coordinator.transaction(&gtrid).unwrap();
    let shown: Vec<_> = seen
        .branches
        .iter()
        .map(|b| (b.result, b.last_error.as_str(), b.detail.as_str()))
        .collect();
    assert_eq!(shown, [(Some(BranchResult::Committed), "", ""), (None, "must be the owner", "")]);
    assert_eq!(seen.version, version + 1, "that of the other's end");
    s.acknowledges(2, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    let ended = &s.coordinator.transaction(&gtrid).unwrap().branches[1];
    assert_eq!((ended.result, &*ended.detail), (Some(BranchResult::RolledBack), "by hand"));
}

/// Found by the simulator (seed 606453): a process that shared a resource did not know that the
/// branch had ended alone, and said no. That was put on record as its end, which it was not.
#[test]
fn regression_a_late_no_is_no_end_of_a_branch_that_is_on_record() {
    let mut s = Script::new("a late no");
    s.begin().enlist(1).enlist(2).enlist(3).commit(Some(3), Wait::Decided);
    s.votes_commit(1).votes_rollback(2, "no");
    let gtrid = s.gtrid();
    let end = |s: &Script, number: usize| {
        s.coordinator.transaction(&gtrid).unwrap().branches[number - 1].result
    };
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "alone").flushed();
    s.votes_rollback(3, "another process has ended it");
    assert_eq!(end(&s, 3), None, "it has not said how it ended");
    s.acknowledges(3, Done::Heuristic(BranchResult::Committed), "alone").flushed();
    assert_eq!(end(&s, 3), Some(BranchResult::Committed));
}

/// An orderly life shows in its figures: what was begun, how it ended, what was refused.
#[test]
fn counters_count_what_happened() {
    let few = Limits { transactions_max: 2, branches_max: 2, outcomes_max: 2, ..limits() };
    let mut s = Script::with_limits("counters", few.clone());
    assert_eq!(s.coordinator.limits(), &few);
    let committed = decided(&mut s);
    assert!(!s.coordinator.transaction(&committed).unwrap().heuristic_logged());
    s.done(1).done(1).done(2).flushed();
    assert_eq!(s.coordinator.outcome(&committed), Some(Outcome::Committed));
    s.begin().enlist(1).enlist(2).enlist(3).rollback().done(1).done(2);
    let rolled_back = s.gtrid();
    assert_eq!(s.coordinator.outcome(&rolled_back), Some(Outcome::RolledBack));
    assert_eq!(s.coordinator.outcomes_len(), 2);
    decided(&mut s);
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").done(2).flushed();
    assert_eq!(s.coordinator.transactions(None).count(), 1);
    assert!(s.coordinator.transaction(&s.gtrid()).unwrap().heuristic_logged());
    assert_eq!(s.coordinator.transactions_len(), 1);
    s.begin().refused_begin();
    let counted = *s.coordinator.counters();
    let expected = Counters {
        begun: 4,
        committed: 2,
        rolled_back: 1,
        heuristic: 1,
        refused: 2,
        ..Counters::default()
    };
    assert_eq!(counted, expected);
    s.restart().flushed();
    assert_eq!(s.coordinator.counters(), &Counters::default(), "the heuristic one is finished");
}

#[test]
fn what_a_life_takes_over_is_counted_until_it_is_finished() {
    let mut s = Script::new("recovered");
    for _ in 0..2 {
        decided(&mut s);
    }
    s.restart().flushed();
    let counters = *s.coordinator.counters();
    assert_eq!((counters.recovered, counters.recovered_finished), (2, 0));
    s.done(1).done(2).flushed();
    s.begin().rollback();
    let counters = *s.coordinator.counters();
    assert_eq!((counters.recovered, counters.recovered_finished), (2, 1));
}

/// What is against the protocol changes nothing, and is counted once.
#[test]
fn what_no_state_allows_is_counted() {
    let mut s = Script::new("unexpected");
    let unexpected = |s: &Script| s.coordinator.counters().unexpected;
    s.begin().enlist(1).enlist(2).done(1);
    assert_eq!(unexpected(&s), 1, "an end before any order");
    s.votes_read_only(1);
    assert_eq!(unexpected(&s), 2, "read-only before it was asked");
    s.votes_commit(2).votes_rollback(2, "changed my mind");
    assert_eq!(unexpected(&s), 3, "yes, then no");
    decided(&mut s);
    s.votes_commit(1);
    assert_eq!(unexpected(&s), 4, "a vote after the decision");
    s.acknowledges(1, Done::RolledBack, "");
    assert_eq!(unexpected(&s), 5, "a branch of phase two that does not say how");
}

/// Section 6: known while it lasts, whatever comes later.
#[test]
fn a_log_that_is_behind_says_so() {
    let mut s = Script::new("behind");
    s.begin().enlist(1).attach_having_seen(1, 1);
    assert!(!s.coordinator.log_behind(), "frame 1 is here");
    s.attach_having_seen(1, 2);
    assert!(s.coordinator.log_behind(), "frame 2 is not");
    s.flushed().attach_having_seen(1, 1);
    assert!(s.coordinator.log_behind(), "the frames written since are other ones");
}

/// The transactions, by their sequence, that `p1` is told to commit in this many milliseconds.
fn driven_within(s: &mut Script, ms: u64) -> BTreeSet<u64> {
    let end = s.now.plus(ms);
    let mut driven = BTreeSet::new();
    while let Some(at) = s.coordinator.deadline().filter(|at| *at <= end) {
        s.now = s.now.max(at);
        s.coordinator.handle(s.now, Event::Ticked);
        while let Some(action) = s.coordinator.poll() {
            if let Action::Send { branch, .. } = action {
                driven.insert(branch.gtrid.sequence());
            }
        }
    }
    s.now = end;
    driven
}

/// Catalogue N-05: the backoff of each of them must not go round the window. If the answers are
/// lost, the window does not stay full for ever.
#[test]
fn a_resend_leaves_to_the_window_what_the_window_has_not_come_to() {
    let narrow = Limits { redrive_window: 1, ..limits() };
    let longest_ms = narrow.retry_ms_max;
    let mut s = Script::with_limits("window", narrow);
    for _ in 0..3 {
        decided(&mut s);
        s.done(2);
    }
    let first = 0;
    s.attach(1);
    assert_eq!(driven_within(&mut s, longest_ms), BTreeSet::from([first]));
    let later = driven_within(&mut s, longest_ms + 1);
    assert_eq!(later, BTreeSet::from([first, first + 1]), "as slowly as the longest delay");
}
