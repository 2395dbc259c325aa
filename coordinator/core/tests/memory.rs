//! The memory of outcomes (section 6, "a client asks"; section 7, "what the log keeps"): how much
//! is kept, how it is dropped, and what late words about an ended transaction do.
#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits, participant, resource};
use unanimous_core::coordinator::Limits;
use unanimous_core::message::{Answer, Done, Event, Wait};
use unanimous_core::{BranchResult, Gtrid, Millis, Outcome, Record};

const COMMITTED: Done = Done::Heuristic(BranchResult::Committed);

/// Begun and committed without branches: only its outcome is left of it.
fn ended(s: &mut Script) -> Gtrid {
    s.begin().commit(None, Wait::Decided);
    s.gtrid()
}

fn decided(s: &mut Script) -> Gtrid {
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.gtrid()
}

fn floors(s: &Script) -> usize {
    s.records().iter().filter(|record| matches!(record, Record::OutcomeFloor { .. })).count()
}

#[test]
fn as_many_are_kept_as_may_be_and_a_step_of_them_goes_with_one_record() {
    let mut s = Script::with_limits("", Limits { outcomes_max: 128, ..limits() });
    for _ in 0..128 {
        ended(&mut s);
    }
    assert_eq!((s.coordinator.outcomes_len(), floors(&s)), (128, 0));
    for _ in 0..5 {
        ended(&mut s);
    }
    assert_eq!((s.coordinator.outcomes_len(), floors(&s)), (133, 1), "one floor at a time");
    s.flushed().flushed();
    assert_eq!((s.coordinator.outcomes_len(), floors(&s)), (128, 2), "what was too many by then");
    ended(&mut s);
    s.flushed();
    assert_eq!((s.coordinator.outcomes_len(), floors(&s)), (127, 3), "a 64th: two of them");
}

/// So many at a time that their removal takes no time that is felt, and none before its time.
#[test]
fn the_old_go_step_by_step_and_the_young_stay() {
    let old = Limits { outcomes_max: 128, outcome_retention_ms: 1_000, ..limits() };
    let mut s = Script::with_limits("", old);
    for _ in 0..5 {
        ended(&mut s);
    }
    s.wait_ms(990);
    for _ in 0..5 {
        ended(&mut s);
    }
    assert_eq!(s.coordinator.deadline(), Some(Millis(1_000)), "what ends later puts nothing off");
    let mut left = Vec::new();
    for _ in 0..3 {
        s.next_deadline().flushed();
        left.push((s.now.0, s.coordinator.outcomes_len()));
    }
    let pause_ms = 1_000 / 64;
    assert_eq!(left, [(1_000, 8), (1_000 + pause_ms, 6), (1_000 + 2 * pause_ms, 5)]);
    assert_eq!(s.coordinator.deadline(), Some(Millis(1_990)));
}

/// It may report again, and must not be judged by presumption then.
#[test]
fn an_outcome_stays_while_a_late_report_has_no_forgotten() {
    let mut s = Script::with_limits("", Limits { outcomes_max: 1, ..limits() });
    let gtrid = decided(&mut s);
    s.done(1).done(2).flushed();
    s.acknowledges(1, COMMITTED, "by hand").flushed();
    for _ in 0..3 {
        ended(&mut s);
        s.flushed();
    }
    assert_eq!(s.coordinator.outcome(&gtrid), Some(Outcome::Committed));
    let (recovered, _) = s.recovered();
    let unforgotten: usize = recovered.outcomes().map(|(_, _, _, branches)| branches.len()).sum();
    assert_eq!(unforgotten, 1);
    s.stranger(gtrid).acknowledges(1, Done::Forgotten, "");
    ended(&mut s);
    s.flushed();
    assert_eq!(s.coordinator.outcome(&gtrid), None);
}

/// It contradicts the outcome, so it is on record and on the list.
#[test]
fn a_late_commit_of_a_transaction_that_was_rolled_back_is_recorded() {
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).rollback().done(1).done(2);
    s.acknowledges(1, COMMITTED, "by hand").flushed();
    let transaction = s.coordinator.transaction(&s.gtrid()).unwrap();
    assert_eq!(transaction.outcome(), Outcome::HeuristicCommit);
    assert!(transaction.heuristic_logged());
    // Whoever watches a list sees that there is one more.
    let version = transaction.version;
    s.acknowledges(2, COMMITTED, "by hand");
    let transaction = s.coordinator.transaction(&s.gtrid()).unwrap();
    assert_eq!(transaction.branches.len(), 2);
    assert!(transaction.version > version);
}

/// Remembered is remembered: it needs no presumption, which a log that is behind does not allow.
#[test]
fn a_remembered_rollback_is_told_though_the_log_is_behind() {
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).rollback().done(1).done(2).attach_having_seen(1, 9).take_text();
    s.inquire(1);
    assert!(s.take_text().contains("Rollback"), "its outcome is remembered");
    s.restart().flushed().attach_having_seen(1, 9).take_text();
    s.inquire(1);
    assert!(s.take_text().contains("LeaveAlone"), "nobody remembers");
}

/// The table stays bounded whatever participants claim; they will say it again.
#[test]
fn a_late_report_waits_for_a_place_in_the_table() {
    let mut s = Script::with_limits("", Limits { transactions_max: 1, ..limits() });
    s.begin().enlist(1).enlist(2).rollback().done(1).done(2);
    let first = s.gtrid();
    s.begin();
    let other = s.gtrid();
    s.stranger(first).acknowledges(1, COMMITTED, "by hand");
    assert_eq!((s.state(), s.coordinator.counters().refused), ("forgotten".to_owned(), 1));
    s.stranger(other).rollback().stranger(first).acknowledges(1, COMMITTED, "by hand").flushed();
    assert_eq!((s.state(), s.coordinator.counters().refused), ("Heuristic".to_owned(), 1));
}

/// A presumed rollback has no list of branches: it grows by those that have committed alone, and by
/// nothing else.
#[test]
fn what_joins_a_presumed_rollback_is_a_branch_that_committed_alone() {
    let mut s = Script::with_limits("", Limits { branches_max: 2, ..limits() });
    s.begin().restart().flushed();
    s.acknowledges(1, COMMITTED, "by hand").flushed();
    let seen = |s: &Script| {
        let transaction = s.coordinator.transaction(&s.gtrid()).unwrap();
        (transaction.branches.len(), transaction.version, s.coordinator.counters().unexpected)
    };
    let (_, version, _) = seen(&s);
    s.acknowledges(2, Done::Heuristic(BranchResult::Hazard), "unknown");
    assert_eq!(seen(&s), (1, version, 1), "a hazard is no knowledge");
    let answer = Answer::Acknowledged { done: COMMITTED, detail: String::new() };
    let (from, resource, branch) = (participant(9), resource(1), s.branch(1));
    s.coordinator.handle(s.now, Event::Answered { from, resource, branch, answer });
    assert_eq!(seen(&s), (1, version, 2), "another's branch");
    s.acknowledges(2, COMMITTED, "by hand");
    let (branches, later, _) = seen(&s);
    assert_eq!(branches, 2);
    assert!(later > version);
    s.acknowledges(3, COMMITTED, "by hand");
    assert_eq!(seen(&s), (2, later, 3), "as many as there may be");
}

#[test]
fn what_was_decided_here_takes_in_no_branch_that_it_does_not_name() {
    for rolled_back in [false, true] {
        let mut s = Script::new("");
        s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1);
        if rolled_back {
            s.rollback();
        } else {
            s.votes_commit(2).flushed();
        }
        s.acknowledges(3, COMMITTED, "by hand");
        let branches = s.coordinator.transaction(&s.gtrid()).unwrap().branches.len();
        assert_eq!((branches, s.coordinator.counters().unexpected), (2, 1), "{rolled_back}");
    }
}

/// A contradiction is on record before anybody is told to act on it.
#[test]
fn who_asks_about_a_heuristic_outcome_waits_for_its_record() {
    let mut s = Script::new("");
    s.begin().enlist(1).commit(Some(1), Wait::Decided);
    s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "unknown").take_text();
    s.inquire(1);
    assert!(s.take_text().contains("Wait"));
    s.flushed().take_text();
    s.inquire(1);
    assert!(s.take_text().contains("commit it"));
}

/// Section 6: the record names whose branch it is.
#[test]
fn a_branch_is_told_to_commit_only_when_its_own_participant_asks() {
    use unanimous_core::CallerId;
    use unanimous_core::message::{Action, Request, Response, Verdict};
    let mut s = Script::new("");
    decided(&mut s);
    for (from, commits) in [(1, true), (9, false)] {
        let request = Request::Inquire { from: participant(from), branch: s.branch(1) };
        s.coordinator.handle(s.now, Event::Requested { by: CallerId(9), request });
        let Some(Action::Reply { response: Response::Verdict(verdict), .. }) = s.coordinator.poll()
        else {
            panic!("no verdict")
        };
        assert_eq!(matches!(verdict, Verdict::Commit { .. }), commits, "p{from}: {verdict:?}");
    }
}

/// Each participant comes back by itself, and is told what it has to forget.
#[test]
fn a_forget_goes_to_the_participant_that_has_come_back() {
    let mut s = Script::new("");
    decided(&mut s);
    let rolled_back = Done::Heuristic(BranchResult::RolledBack);
    s.acknowledges(1, rolled_back, "by hand").acknowledges(2, rolled_back, "by hand");
    s.flushed().take_text();
    s.attach(1);
    let text = s.take_text();
    assert!(text.contains("send p1 forget") && !text.contains("send p2"), "{text}");
}

/// A record of outcomes stays far below the longest record, and is not wasted on one.
#[test]
fn outcomes_move_in_records_of_bounded_size() {
    let mut s = Script::new("");
    for _ in 0..600 {
        decided(&mut s);
        s.acknowledges(1, COMMITTED, "by hand").done(2);
    }
    s.flushed().take_text();
    let before = s.records().len();
    s.compact(10_000);
    let sizes: Vec<usize> = s.records()[before..]
        .iter()
        .filter_map(|record| match record {
            Record::CarriedOutcomes { committed } => {
                let one = |o: &unanimous_core::record::OutcomeRecord| {
                    1 + o.branches.len() + o.unforgotten.len()
                };
                Some(committed.iter().map(one).sum())
            }
            _ => None,
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 600 * 4);
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 1_024), "{sizes:?}");
}

/// Nothing is said before this life's first record is durable; and one cut at a time.
#[test]
fn a_compaction_starts_neither_before_this_life_nor_within_another_one() {
    let mut s = Script::new("");
    decided(&mut s);
    s.restart();
    assert!(!s.coordinator.started());
    let before = s.records().len();
    s.compact(100);
    assert_eq!(s.records().len(), before, "not started");
    s.flushed();
    assert!(s.coordinator.started());
    s.compact(100);
    let moved = s.records().len();
    assert!(moved > before);
    s.compact(100);
    assert_eq!(s.records().len(), moved, "the first one's cut is not durable yet");
}

/// What the log keeps for the operator holds no participant's memory up; nor does another log's.
#[test]
fn the_ended_mark_of_the_next_life_excepts_only_what_is_unfinished() {
    let mut s = Script::new("");
    decided(&mut s);
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").done(2).flushed();
    let unfinished = decided(&mut s);
    s.restart().flushed();
    ended(&mut s);
    assert_eq!(s.coordinator.ended_mark().unwrap().exceptions, [unfinished]);
}

/// What `log dump` and the operator see of a log without a coordinator.
#[test]
fn a_log_tells_what_was_committed_finished_or_not() {
    let mut s = Script::new("");
    let finished = decided(&mut s);
    s.acknowledges(1, COMMITTED, "by hand").done(2).flushed();
    let unfinished = decided(&mut s);
    s.attach(1).begin().enlist(1).enlist(2).rollback();
    s.acknowledges(1, COMMITTED, "by hand").flushed();
    let (recovered, _) = s.recovered();
    assert_eq!(recovered.committed().collect::<Vec<_>>(), [&unfinished, &finished]);
    let outcomes: Vec<_> = recovered
        .outcomes()
        .map(|(gtrid, outcome, branches, unforgotten)| {
            (*gtrid, outcome, branches.len(), unforgotten.len())
        })
        .collect();
    assert_eq!(outcomes, [(finished, Outcome::Committed, 2, 1)]);
    let names: Vec<_> = recovered.participants().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [participant(1)]);
}
