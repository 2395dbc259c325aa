//! Single sentences of the contract (sections 3 and 6) that no transcript shows by itself: each
//! test is what a mutant of that line would have got away with.
#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits};
use unanimous_core::coordinator::{Limits, State, Transaction};
use unanimous_core::id::{LogId, resource_manager};
use unanimous_core::message::{
    Action, Answer, Done, EnlistRefusal, Enlistment, Event, Refusal, Request, Response, Vote, Wait,
};
use unanimous_core::record::Evidence;
use unanimous_core::{
    Bqual, BranchId, BranchResult, CallerId, InstanceId, Labels, Owner, ParticipantName,
    ResourceId, TransactionName,
};

fn ask(s: &mut Script, request: Request) -> Response {
    s.coordinator.handle(s.now, Event::Requested { by: CallerId(9), request });
    let mut replies =
        std::iter::from_fn(|| s.coordinator.poll()).filter_map(|action| match action {
            Action::Reply { response, .. } => Some(response),
            _ => None,
        });
    replies.next().expect("an answer")
}

fn begin(s: &mut Script, timeout_ms: u64) -> Response {
    let name = TransactionName::empty();
    ask(s, Request::Begin { name, labels: Labels::default(), timeout_ms })
}

fn transaction(s: &Script) -> &Transaction {
    s.coordinator.transaction(&s.gtrid()).unwrap()
}

/// Catalogue T-05.
#[test]
fn t_05_time_outs_of_nothing_the_longest_and_more() {
    let mut s = Script::new("");
    let (default, max) = (limits().timeout_ms_default, limits().timeout_ms_max);
    for (asked, given) in [(0, default), (1, 1), (max, max)] {
        let response = begin(&mut s, asked);
        assert!(
            matches!(response, Response::Begun { timeout_ms, .. } if timeout_ms == given),
            "{asked}: {response:?}"
        );
    }
    for asked in [max + 1, u64::MAX] {
        let refusal = Refusal::TimeoutTooLong { max_ms: max };
        assert_eq!(begin(&mut s, asked), Response::Refused(refusal), "{asked}");
    }
}

fn enlistment(s: &Script, name: &str, id: &str) -> Enlistment {
    let (participant, resource) =
        (ParticipantName::new(name).unwrap(), ResourceId::new(id).unwrap());
    let bqual = Bqual::new(resource_manager(&participant, &resource), 1, s.gtrid().owner());
    Enlistment {
        branch: BranchId { gtrid: s.gtrid(), bqual },
        participant,
        instance: InstanceId([1; 16]),
        resource,
        inquires: true,
        vote: None,
    }
}

fn refusal(s: &mut Script, enlistment: Enlistment) -> Option<EnlistRefusal> {
    match ask(s, Request::Enlist(enlistment)) {
        Response::EnlistRefused(refusal) => Some(refusal),
        response => {
            assert!(matches!(response, Response::Enlisted { .. }), "{response:?}");
            None
        }
    }
}

/// Section 2: a branch is ours byte for byte, and its number is that of its resource manager.
#[test]
fn a_branch_of_another_owner_or_resource_manager_is_not_enlisted() {
    let mut s = Script::new("");
    s.begin();
    let good = enlistment(&s, "p", "r");
    let (manager, owner) = (good.branch.bqual.resource_manager(), s.gtrid().owner());
    let other = Owner { log: LogId { slot: 9, ..owner.log }, ..owner };
    for bqual in [Bqual::new(manager, 1, other), Bqual::new(manager ^ 1, 1, owner)] {
        let branch = BranchId { bqual, ..good.branch };
        let refused = refusal(&mut s, Enlistment { branch, ..good.clone() });
        assert_eq!(refused, Some(EnlistRefusal::NotOurs), "{bqual}");
    }
    assert_eq!(refusal(&mut s, good), None);
    assert_eq!(transaction(&s).branches.len(), 1);
}

/// The number of a resource manager has 32 bits: here are two pairs that share theirs.
#[test]
fn two_resource_managers_with_one_number_do_not_share_a_branch() {
    let of_participants = [("p2039599", "r"), ("p2222382", "r")];
    let of_resources = [("p", "r462789"), ("p", "r679192")];
    for [first, second] in [of_participants, of_resources] {
        let mut s = Script::new("");
        s.begin();
        let [first, second] = [first, second].map(|(name, id)| enlistment(&s, name, id));
        assert_eq!(first.branch, second.branch, "they clash");
        assert_eq!(refusal(&mut s, first.clone()), None);
        assert_eq!(refusal(&mut s, second), Some(EnlistRefusal::BqualTaken));
        assert_eq!(refusal(&mut s, first), None, "repeated");
        assert_eq!(transaction(&s).branches.len(), 1);
    }
}

/// Catalogue O-07.
#[test]
fn o_07_a_transaction_has_as_many_branches_as_it_may_have() {
    let mut s = Script::with_limits("", Limits { branches_max: 2, ..limits() });
    s.begin().enlist(1).enlist(2);
    let third = enlistment(&s, "p3", "r3");
    assert_eq!(refusal(&mut s, third), Some(EnlistRefusal::TooManyBranches));
    s.enlist(2);
    assert_eq!(transaction(&s).branches.len(), 2, "a repeat is no further one");
}

#[test]
fn whoever_enlists_too_late_learns_how_it_ended() {
    let mut s = Script::new("");
    s.begin().enlist(1).rollback().done(1);
    let late = enlistment(&s, "p", "r");
    assert_eq!(refusal(&mut s, late), Some(EnlistRefusal::RolledBack));
    s.begin().enlist(1).commit(None, Wait::Decided).done(1);
    let late = enlistment(&s, "p", "r");
    assert_eq!(refusal(&mut s, late), Some(EnlistRefusal::Inactive));
}

/// Nothing has to be recorded for it, so want of space is no obstacle.
#[test]
fn a_transaction_without_branches_commits_when_space_is_low() {
    let mut s = Script::new("");
    s.begin().storage(true).take_text();
    s.commit(Some(0), Wait::Decided);
    assert!(s.take_text().contains("Committed"));
}

/// One phase is for a branch that has not voted: one that has is prepared, and the decision is the
/// coordinator's.
#[test]
fn a_single_branch_that_voted_early_is_decided_in_two_phases() {
    let mut s = Script::new("");
    s.begin().enlist(1).votes_commit(1).commit(Some(1), Wait::Decided);
    assert_eq!(transaction(&s).state(), State::Deciding);
}

fn votes(s: &mut Script, number: u32, vote: Vote) {
    s.answered(number, "votes", Answer::Voted(vote));
}

#[test]
fn an_early_yes_stands_against_repeats_but_not_against_a_no() {
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).votes_commit(1);
    let before = transaction(&s).clone();
    let evidence = Some(Evidence { kind: "other".to_owned(), data: vec![2] });
    votes(&mut s, 1, Vote::Commit { evidence });
    votes(&mut s, 1, Vote::ReadOnly);
    assert_eq!(transaction(&s), &before);
    s.votes_rollback(1, "changed my mind");
    assert_eq!(transaction(&s).state(), State::MarkedRollback);
}

/// It is finished: its locks are gone, and it cannot stop the others any more.
#[test]
fn a_no_after_read_only_changes_nothing() {
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_read_only(1);
    let before = transaction(&s).clone();
    s.votes_rollback(1, "too late");
    assert_eq!(transaction(&s), &before);
}

/// A late no is the branch's own end; a no after a yes is not, for it may be prepared.
#[test]
fn a_late_no_needs_no_rollback_and_a_no_after_a_yes_does() {
    for (early_yes, awaited) in [(false, 1), (true, 2)] {
        let mut s = Script::new("");
        s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
        if early_yes {
            s.votes_commit(1);
        }
        s.rollback().votes_rollback(1, "too late");
        assert_eq!(transaction(&s).pending().count(), awaited, "{early_yes}");
    }
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).rollback().votes_commit(1);
    assert_eq!(transaction(&s).pending().count(), 2, "a late yes is undone");
}

#[test]
fn a_branch_is_in_doubt_from_its_yes_to_its_end() {
    let in_doubt = |s: &Script| -> Vec<bool> {
        transaction(s).branches.iter().map(|branch| branch.in_doubt()).collect()
    };
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1);
    assert_eq!(in_doubt(&s), [true, false]);
    s.votes_commit(2).flushed().done(1);
    assert_eq!(in_doubt(&s), [false, true]);
}

/// Who has come back before this life could speak is driven as soon as it can, not by a timer.
#[test]
fn a_participant_that_came_back_during_the_start_is_driven_at_once() {
    let mut s = Script::new("");
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.flushed().restart().attach(1).take_text();
    s.flushed();
    assert!(s.take_text().contains("send p1 commit"));
}

/// Of what has ended nothing is left to look through when its participant comes back.
#[test]
fn the_return_of_a_participant_is_not_held_up_by_what_has_ended() {
    let mut s = Script::with_limits("", Limits { ticks_max: 2, ..limits() });
    for _ in 0..3 {
        s.begin().enlist(1).enlist(2).rollback().done(1).done(2);
    }
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.flushed().take_text();
    s.attach(1);
    assert!(s.take_text().contains("send p1 commit"));
}

/// What a transaction sends to a participant within ten seconds, by its words.
fn sent_in_ten_seconds(s: &mut Script, words: &str) -> usize {
    let end = s.now.plus(10_000);
    s.take_text();
    while s.coordinator.deadline().is_some_and(|at| at <= end) {
        s.next_deadline();
    }
    s.take_text().matches(words).count()
}

/// A participant that asks for itself is left to ask; any other is sent its rollback for ever.
#[test]
fn who_never_asks_is_told_to_roll_back_until_it_answers() {
    for (inquires, left_to_ask) in [(true, true), (false, false)] {
        let mut s = Script::new("");
        s.begin();
        let asks = enlistment(&s, "p1", "r1");
        let branch = s.branch(1);
        assert_eq!(refusal(&mut s, Enlistment { branch, inquires, ..asks }), None);
        s.rollback();
        let sent = sent_in_ten_seconds(&mut s, "send p1 rollback");
        assert_eq!(sent > 8, !left_to_ask, "{sent}");
        assert_eq!(s.state() == "forgotten", left_to_ask);
    }
}

/// A participant that still reports gets another one; nothing else keeps a finished one awake.
#[test]
fn a_forget_is_sent_a_bounded_number_of_times() {
    let few = Limits { forget_tries_max: 3, ..limits() };
    let heuristic = || {
        let mut s = Script::with_limits("", few.clone());
        s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
        s.votes_commit(1).votes_commit(2).flushed();
        s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand");
        s.done(2);
        s
    };
    let mut s = heuristic();
    s.flushed();
    assert_eq!(sent_in_ten_seconds(&mut s, "send p1 forget"), 3);
    let outcomes_only = s.coordinator.deadline();
    let mut s = heuristic();
    s.flushed().acknowledges(1, Done::Forgotten, "");
    assert_eq!(sent_in_ten_seconds(&mut s, "send"), 0);
    assert_eq!(s.coordinator.deadline(), outcomes_only);
}

/// One retry rule: whatever else happens to a transaction, its next try stays when it is.
#[test]
fn a_heuristic_branch_makes_the_others_no_busier() {
    let sent_to_the_other = |heuristic: bool| {
        let mut s = Script::new("");
        s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
        s.votes_commit(1).votes_commit(2).flushed().wait_ms(10);
        if heuristic {
            s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "by hand").flushed();
            s.acknowledges(1, Done::Forgotten, "");
        } else {
            s.done(1);
        }
        sent_in_ten_seconds(&mut s, "send p2 commit")
    };
    assert_eq!(sent_to_the_other(true), sent_to_the_other(false));
}

/// A place in the window is for something that was sent.
#[test]
fn a_transaction_that_waits_for_nothing_takes_no_place_in_the_window() {
    let mut s = Script::with_limits("", Limits { redrive_window: 1, ..limits() });
    s.begin().enlist(1);
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided).votes_commit(1).votes_commit(2);
    s.flushed().take_text();
    s.attach(1);
    assert!(s.take_text().contains("send p1 commit"));
}
