//! Golden transcripts of the main conversations: what goes in, and every action that comes out, in
//! order. A readable specification of sections 3, 6 and 7 that fails when the protocol changes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits, participant, resource};
use unanimous_core::coordinator::Limits;
use unanimous_core::message::{Answer, Done, Event, Wait};
use unanimous_core::outcome::BranchResult;

/// Every script begins with the forced record of its epoch.
const BOOT: usize = 1;

#[test]
fn p_01_three_branches_commit() {
    let mut s = Script::new(
        "P-01: all vote yes. One forced record, then the client, then all branches at once.",
    );
    s.begin().enlist(1).enlist(2).enlist(3);
    s.commit(Some(3), Wait::Decided);
    s.votes_commit(1).votes_commit(2).votes_commit(3);
    s.flushed();
    s.done(2).done(1).done(3);
    s.flushed();
    assert_eq!((s.lines("log force"), s.lines("log lazy")), (1 + BOOT, 1));
    s.check("p_01");
}

#[test]
fn p_02_one_no_rolls_back() {
    let mut s = Script::new(
        "P-02: one of three votes no. Nothing is logged; the no voter gets no message.",
    );
    s.begin().enlist(1).enlist(2).enlist(3);
    s.commit(Some(3), Wait::Decided);
    s.votes_commit(1).votes_rollback(2, "account 7 is locked");
    s.done(1).done(3);
    assert_eq!((s.lines("log force"), s.lines("log lazy")), (BOOT, 0));
    assert_eq!((s.lines("send p2"), s.lines("send p2 prepare")), (1, 1));
    s.check("p_02");
}

#[test]
fn p_05_commit_again_after_the_end() {
    let mut s =
        Script::new("P-05: commit is repeated, and so is an acknowledgement, after the end.");
    s.begin().enlist(1).enlist(2);
    s.commit(Some(2), Wait::Completed);
    s.votes_commit(1).votes_commit(2).flushed().done(1).done(2).flushed();
    s.commit(Some(2), Wait::Decided).done(1).inquire(1);
    s.check("p_05");
}

#[test]
fn p_07_inquiry_before_the_decision() {
    let mut s =
        Script::new("P-07: asked while active, preparing or deciding: wait, never rolled back.");
    s.begin().enlist(1).enlist(2).inquire(1).resolve(Some(2));
    s.commit(Some(2), Wait::Decided).inquire(1).resolve(Some(2));
    s.votes_commit(1).votes_commit(2).inquire(1).resolve(Some(2));
    s.flushed().inquire(1).resolve(Some(2));
    s.check("p_07");
}

#[test]
fn p_10_enlist_after_commit() {
    let mut s = Script::new(
        "P-10: an enlistment after the commit request is refused, never left out in silence.",
    );
    s.begin().enlist(1).enlist(2).commit(None, Wait::Decided).enlist(3);
    s.check("p_10");
}

#[test]
fn p_11_enlist_repeated() {
    let mut s = Script::new("P-11: a repeated enlistment is one branch.");
    s.begin().enlist(1).enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.check("p_11");
}

#[test]
fn p_13_read_only() {
    let mut s = Script::new(
        "P-13: read-only voters are left out of phase two; only read-only: nothing is logged.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_read_only(1).votes_commit(2).flushed().done(2).flushed();
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_read_only(1).votes_read_only(2);
    s.check("p_13");
}

/// A commit that reached a read-only voter all the same: it knows nothing of the branch, and says
/// so. Nothing was to be committed there, so nothing is uncertain.
#[test]
fn p_13_a_late_answer_of_a_read_only_voter() {
    let mut s = Script::new("P-13: a read-only voter answers a commit that nobody meant for it.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Completed);
    s.votes_read_only(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "no such branch").done(1);
    assert_eq!(s.coordinator.counters().unexpected, 2);
    s.done(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "no such branch");
    assert_eq!(s.coordinator.counters().heuristic, 0);
    s.check("p_13_late");
}

#[test]
fn p_16_commit_and_rollback_race() {
    let mut s =
        Script::new("P-16: commit and rollback at once: one wins, both callers learn the same.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).rollback();
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).rollback().flushed();
    s.check("p_16");
}

#[test]
fn p_18_yes_then_no() {
    let mut s = Script::new("P-18: yes, then no: a no before the decision, ignored after it.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_rollback(1, "changed my mind");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).votes_rollback(1, "too late").flushed();
    s.check("p_18");
}

#[test]
fn p_19_heuristic_rollback_of_one_branch() {
    let mut s = Script::new(
        "P-19: a branch rolled back alone: recorded before it may forget; kept until resolved.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Completed);
    s.votes_commit(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "ROLLBACK PREPARED by hand");
    s.flushed();
    s.done(2).flushed().acknowledges(1, Done::Forgotten, "");
    s.resolve(Some(2)).inquire(2);
    s.check("p_19");
}

#[test]
fn a_branch_that_decided_alone_as_decided() {
    let mut s = Script::new(
        "Heuristic, but as decided: noted lazily, then told to forget; the outcome is clean.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Completed);
    s.votes_commit(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "COMMIT PREPARED by hand");
    s.done(2).flushed();
    s.check("matched");
}

#[test]
fn one_phase() {
    let mut s =
        Script::new("One branch without a vote: one phase, its answer decides, nothing is logged.");
    s.begin().enlist(1).commit(Some(1), Wait::Decided).inquire(1).done(1);
    s.begin().enlist(1).commit(Some(1), Wait::Decided);
    s.acknowledges(1, Done::RolledBack, "overdrawn");
    s.begin().enlist(1).commit(Some(1), Wait::Decided);
    s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "no such branch").resolve(Some(1));
    s.flushed();
    s.check("one_phase");
}

#[test]
fn one_phase_without_an_answer() {
    let mut s =
        Script::new("The process that holds the work is away: only later are its peers asked.");
    s.begin().enlist(1).commit(Some(1), Wait::Decided);
    for _ in 0..6 {
        s.next_deadline();
    }
    s.done(1);
    s.check("one_phase_silent");
}

#[test]
fn counted_branches_differ() {
    let mut s = Script::new(
        "The client counted another number of branches: rolled back, never half committed.",
    );
    s.begin().enlist(1).commit(Some(2), Wait::Decided).done(1);
    s.begin().enlist(1).enlist(2).commit(Some(1), Wait::Decided);
    s.check("counted");
}

#[test]
fn time_out_and_retries() {
    let mut s = Script::new(
        "A silent participant: asked again, rolled back at the time-out, then left to ask.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1);
    s.tick_until_idle();
    s.inquire(1).resolve(Some(2));
    s.check("time_out");
}

#[test]
fn s_10_no_time_out_after_the_hand_over() {
    let mut s = Script::new(
        "L12: the time-out passes while the log writes: nothing happens until the log answers.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.wait_ms(3_600_000).rollback().flushed();
    s.check("hand_over");
}

#[test]
fn early_votes() {
    let mut s =
        Script::new("Early votes: all there at commit, decided at once; an early no marks it.");
    s.begin().enlist(1).enlist(2).votes_commit(1).votes_commit(2).commit(Some(2), Wait::Decided);
    s.flushed();
    s.begin()
        .enlist(1)
        .enlist(2)
        .votes_rollback(1, "no seat")
        .enlist(3)
        .commit(None, Wait::Decided);
    s.begin().enlist(1).enlist(2).votes_read_only(1).commit(Some(2), Wait::Decided);
    s.check("early");
}

#[test]
fn c_08_restart_after_the_decision() {
    let mut s = Script::new(
        "The coordinator dies after the decision is durable: the next life finishes it.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.flushed().restart();
    s.inquire(1).flushed();
    s.inquire(1).resolve(Some(2)).done(1).attach(2).done(2).flushed();
    s.check("restart_decided");
}

#[test]
fn c_05_restart_before_the_decision() {
    let mut s = Script::new(
        "The coordinator dies before its decision is durable: no record, rollback is presumed.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.restart().flushed();
    s.inquire(1).resolve(Some(2)).resolve(Some(1)).resolve(None).commit(Some(2), Wait::Decided);
    s.check("restart_undecided");
}

#[test]
fn p_19_a_heuristic_is_kept_over_a_restart() {
    let mut s = Script::new(
        "A heuristic record and a pending branch survive a restart; the branch is driven on.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.flushed().acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    s.restart().flushed().done(2).flushed().resolve(Some(2));
    s.check("restart_heuristic");
}

#[test]
fn a_log_that_went_back_in_time() {
    let mut s = Script::new(
        "A participant was told a frame that this log does not hold: nothing is presumed.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.lose_tail_and_restart().flushed();
    s.inquire(1).attach_having_seen(1, 2).inquire(1).resolve(Some(2));
    s.check("went_back");
}

/// Found by the simulator: the repeat was answered with a forget that nothing durable stood behind.
#[test]
fn regression_a_matched_branch_forgets_only_after_its_note_is_durable() {
    let mut s =
        Script::new("It decided alone, as decided, and reports twice before the note is durable.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand");
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand");
    s.flushed();
    s.check("regression_matched");
}

fn version(s: &Script) -> Option<u64> {
    s.coordinator.transaction(&s.gtrid()).map(|transaction| transaction.version)
}

/// Found by the simulator: the second report was dropped and its branch never told to forget.
#[test]
fn regression_every_branch_that_contradicts_a_presumed_rollback_is_recorded() {
    let mut s = Script::new("No record, so rolled back; and both branches have committed alone.");
    s.begin().enlist(1).enlist(2).restart().flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    let before = version(&s);
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand");
    assert!(before.is_some() && version(&s) > before, "whoever watches a list sees it");
    s.flushed().resolve(Some(2));
    s.check("regression_presumed");
}

/// Found by the simulator: the outcome was dropped, and the report judged by presumption.
#[test]
fn regression_an_outcome_is_kept_while_a_branch_may_report_again() {
    let few = Limits { outcomes_max: 1, ..limits() };
    let mut s =
        Script::with_limits("Two branches decided alone, as decided; one has forgotten.", few);
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand");
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.acknowledges(1, Done::Forgotten, "");
    let first = s.gtrid();
    for _ in 0..3 {
        s.begin().commit(None, Wait::Decided).flushed();
    }
    s.stranger(first);
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.restart().flushed();
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.check("regression_kept");
}

/// Found by the simulator: the other branch was never told to forget, and reported for ever.
#[test]
fn regression_a_contradiction_after_the_end_leaves_the_other_branches_to_their_outcome() {
    let mut s = Script::new(
        "Both decided alone, as decided, and it has ended; one of them says something else then.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand");
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Mixed), "by hand").flushed();
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.acknowledges(2, Done::Forgotten, "").flushed();
    s.acknowledges(2, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    s.check("regression_other_branches");
}

/// Found by the simulator: what was listed again had no room for it, and it reported for ever.
#[test]
fn regression_a_branch_outside_of_a_reopened_commit_is_told_to_forget() {
    let mut s = Script::new(
        "The second voted read-only and had prepared all the same; it was rolled back by hand.",
    );
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_read_only(2).flushed().done(1).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    s.acknowledges(2, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    s.check("regression_outside_of_reopened");
}

/// Found by the simulator: a compaction carried the transaction without the first branch.
#[test]
fn regression_a_vote_that_comes_after_the_acknowledgement_changes_nothing() {
    let mut s =
        Script::new("The answers of the first arrive in another order than they were sent.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(2).rollback();
    s.done(1);
    s.acknowledges(2, Done::Heuristic(BranchResult::Committed), "by hand");
    s.votes_rollback(1, "it is being undone").flushed();
    s.compact(10).flushed();
    s.check("regression_vote_after_acknowledgement");
}

/// Found by the simulator: the branch left phase two, but not the record, so that the outcome was
/// another one after a compaction.
#[test]
fn regression_a_late_no_leaves_the_branch_on_the_record_that_names_it() {
    let mut s = Script::new("One branch commits alone; the other votes no when that is on record.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).rollback();
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand").flushed();
    let before = version(&s);
    s.votes_rollback(2, "too late");
    assert_eq!(version(&s), before, "how it ended is what it answers to the order");
    s.done(2);
    assert!(before.is_some() && version(&s) > before, "whoever watches a list sees the end");
    s.flushed().resolve(Some(2));
    s.restart().flushed().resolve(Some(2));
    s.check("regression_late_no");
}

/// A bqual stands in a transaction once, whoever claims it.
#[test]
fn a_stranger_who_claims_a_listed_branch_changes_nothing() {
    let mut s = Script::new("It has ended and is listed again; another participant claims that.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed().done(1).done(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    let before = version(&s);
    let event = Event::Answered {
        from: participant(2),
        resource: resource(2),
        branch: s.branch(1),
        answer: Answer::Acknowledged {
            done: Done::Heuristic(BranchResult::Mixed),
            detail: String::new(),
        },
    };
    s.coordinator.handle(s.now, event);
    assert!(s.coordinator.poll().is_none());
    assert_eq!((version(&s), s.coordinator.counters().unexpected), (before, 1));
}

/// Found by the simulator: a late repeat of the commit met a resource without its proof.
#[test]
fn regression_a_late_hazard_about_an_ended_transaction_invents_nothing() {
    let mut s = Script::new("Ended; a repeated commit is answered with: no such branch, no proof.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed().done(1).done(2).flushed();
    s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "no such branch");
    s.check("regression_late_hazard");
}

/// Found by the simulator: the Heuristic record did not name the branch, and it was told to forget.
#[test]
fn regression_what_ends_alone_after_a_vote_for_rollback_is_on_record() {
    let mut s = Script::new("Its operator had committed it; another process voted rollback.");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_rollback(1, "its operator has ended it");
    s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "by hand").done(2).flushed();
    s.check("regression_after_no");
}

/// The words are there for an operator after a restart, after a compaction, and with a heuristic.
#[test]
fn labels_stay_with_an_unfinished_transaction() {
    let mut s = Script::new("A labelled transaction is decided, moved, recovered, and deviates.");
    s.begin_labelled(&[("order", "4711"), ("customer", "Müller")]);
    s.enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed();
    let labels = |s: &Script| {
        let transaction = s.coordinator.transaction(&s.gtrid()).unwrap();
        transaction.labels.value("order").map(str::to_owned)
    };
    s.restart().flushed();
    assert_eq!(labels(&s).as_deref(), Some("4711"), "after a restart");
    s.compact(100).flushed().restart().flushed();
    assert_eq!(labels(&s).as_deref(), Some("4711"), "after a compaction");
    s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
    s.restart().flushed();
    assert_eq!(labels(&s).as_deref(), Some("4711"), "after a heuristic");
    s.check("labels");
}

#[test]
fn a_retry_sends_again_at_once_and_decides_nothing() {
    let mut s = Script::new("An operator does not want to wait for the next try.");
    s.begin().enlist(1).enlist(2);
    s.retry();
    s.commit(Some(2), Wait::Decided).retry();
    s.votes_commit(1).retry().votes_commit(2);
    s.retry();
    s.flushed();
    s.done(1).retry();
    s.done(2).flushed();
    s.retry();
    s.check("retry");
}

/// Found by reading: the no was dropped, and the order met a branch that nobody knew: a hazard on
/// the operator's list for a plain rollback.
#[test]
fn regression_an_early_no_that_crosses_the_order_to_commit_is_a_rollback() {
    let mut s = Script::new("The only branch votes no early; the order to commit is on its way.");
    s.begin().enlist(1).commit(Some(1), Wait::Decided);
    s.votes_rollback(1, "account 7 would be overdrawn");
    s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "no such branch").flushed();
    s.check("regression_early_no");
}
