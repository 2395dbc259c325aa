//! What a participant decides alone by policy, and that it decides nothing without one (section 4).
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;
use unanimous_core::id::{LogId, Owner};
use unanimous_core::message::{Answer, Done, Verdict, Vote};
use unanimous_core::participant::{
    Action, Call, Event, HeuristicPolicy, Order, Participant, Returned, State, Times,
};
use unanimous_core::{Bqual, BranchId, BranchResult, Decision, FrameNumber, Gtrid, Millis};

const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 1 };
const OWNER: Owner = Owner { log: LOG, epoch: 5 };
const WORDS: &str = "decided alone by policy: no word of its coordinator for 60 s";
const HOUR_MS: u64 = 3_600_000;

fn id() -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, 1, 0), bqual: Bqual::new(1, 1, OWNER) }
}

fn rollback() -> HeuristicPolicy {
    HeuristicPolicy::rollback_after(Duration::from_secs(60))
}

fn actions(participant: &mut Participant, now_ms: u64, event: Event) -> Vec<Action> {
    participant.handle(Millis(now_ms), event);
    std::iter::from_fn(|| participant.poll()).collect()
}

fn told(order: Order) -> Event {
    Event::Told { sender: OWNER, branch: id(), order }
}

fn decide(decision: Decision) -> Order {
    Order::Decide { decision, frame: FrameNumber(3), evidence: None }
}

fn returned(result: Returned) -> Event {
    Event::Returned { branch: id(), result }
}

fn alone(result: BranchResult) -> Event {
    returned(Returned::Did(Done::Heuristic(result), String::new()))
}

fn reports(result: BranchResult, detail: &str) -> Action {
    let (done, detail) = (Done::Heuristic(result), detail.to_owned());
    Action::Send { branch: id(), answer: Answer::Acknowledged { done, detail } }
}

fn calls(call: Call) -> Action {
    Action::Call { branch: id(), call }
}

fn ends_alone(decision: Decision) -> Action {
    calls(Call::EndAlone { decision, why: WORDS.to_owned() })
}

/// In doubt since 0 ms.
fn in_doubt(policy: Option<HeuristicPolicy>) -> Participant {
    let mut participant = Participant::new(Times::default(), 7).with_policy(policy);
    participant.handle(Millis(0), Event::Joined { branch: id(), remaining_ms: 1_000 });
    participant.handle(Millis(0), Event::Left { branch: id(), failure: None });
    participant.handle(Millis(0), told(Order::Prepare));
    let voted = Returned::Voted(Vote::Commit { evidence: None });
    let said = actions(&mut participant, 0, returned(voted));
    assert_eq!(said.len(), 2, "{said:?}");
    participant
}

/// Lets time pass, as whoever runs it does, up to and with this moment; what it did at last.
fn pass(participant: &mut Participant, upto_ms: u64) -> Vec<Action> {
    let mut last = Vec::new();
    while let Some(at) = participant.deadline().filter(|at| at.0 <= upto_ms) {
        last = actions(participant, at.0, Event::Ticked);
    }
    last
}

fn ending(decision: Decision) -> Participant {
    let policy = HeuristicPolicy { after_ms: 60_000, decision };
    let mut participant = in_doubt(Some(policy));
    assert_eq!(pass(&mut participant, 60_000), [ends_alone(decision)]);
    assert_eq!(participant.state(&id()), Some(State::EndingAlone));
    participant
}

#[test]
fn without_a_policy_a_branch_stays_in_doubt_and_asks() {
    let mut participant = in_doubt(None);
    let last = pass(&mut participant, 1_000 * HOUR_MS);
    assert_eq!(last, [Action::Inquire { branch: id() }]);
    assert_eq!(participant.state(&id()), Some(State::Prepared));
}

#[test]
fn with_one_it_asks_until_its_coordinator_was_silent_for_so_long_and_not_a_moment_less() {
    for decision in [Decision::Commit, Decision::Rollback] {
        let policy = HeuristicPolicy { after_ms: 60_000, decision };
        let mut participant = in_doubt(Some(policy));
        assert_eq!(pass(&mut participant, 59_999), [Action::Inquire { branch: id() }]);
        assert_eq!(pass(&mut participant, 60_000), [ends_alone(decision)]);
    }
    assert_eq!(rollback(), HeuristicPolicy { after_ms: 60_000, decision: Decision::Rollback });
    let commit = HeuristicPolicy::commit_after(Duration::from_secs(60));
    assert_eq!(commit, HeuristicPolicy { after_ms: 60_000, decision: Decision::Commit });
}

/// "Wait" and "leave alone" are words: somebody is there, and an operator can be asked.
#[test]
fn every_word_about_the_branch_lets_the_silence_begin_anew() {
    for order in [Order::Answer(Verdict::Wait), Order::Answer(Verdict::LeaveAlone), Order::Prepare]
    {
        let mut participant = in_doubt(Some(rollback()));
        pass(&mut participant, 40_000);
        actions(&mut participant, 40_000, told(order));
        let before = pass(&mut participant, 99_999);
        assert!(!before.contains(&ends_alone(Decision::Rollback)), "{before:?}");
        assert_eq!(participant.state(&id()), Some(State::Prepared));
        assert_eq!(pass(&mut participant, 100_000), [ends_alone(Decision::Rollback)]);
    }
}

#[test]
fn a_word_about_another_branch_is_none() {
    let mut participant = in_doubt(Some(rollback()));
    let other = BranchId { bqual: Bqual::new(1, 2, OWNER), ..id() };
    let wait = Order::Answer(Verdict::Wait);
    actions(&mut participant, 40_000, Event::Told { sender: OWNER, branch: other, order: wait });
    assert_eq!(pass(&mut participant, 60_000), [ends_alone(Decision::Rollback)]);
}

/// A branch that was found prepared counts from there: how long it was silent before is not known.
#[test]
fn a_branch_of_an_earlier_life_is_given_the_whole_time() {
    let mut participant = Participant::new(Times::default(), 7).with_policy(Some(rollback()));
    participant.handle(Millis(5_000), Event::Recovered { branch: id(), evidence: None });
    let before = pass(&mut participant, 64_999);
    assert_eq!(before, [Action::Inquire { branch: id() }]);
    assert_eq!(pass(&mut participant, 65_000), [ends_alone(Decision::Rollback)]);
}

#[test]
fn what_it_did_is_reported_again_and_again_until_it_is_to_be_forgotten() {
    let mut participant = ending(Decision::Rollback);
    let report = reports(BranchResult::RolledBack, WORDS);
    let first = actions(&mut participant, 60_000, alone(BranchResult::RolledBack));
    assert_eq!(first, std::slice::from_ref(&report));
    assert_eq!(participant.state(&id()), Some(State::Heuristic(BranchResult::RolledBack)));
    assert_eq!(pass(&mut participant, HOUR_MS), std::slice::from_ref(&report));
    for event in [
        Event::Connected,
        told(Order::Prepare),
        told(Order::CommitOnePhase),
        told(decide(Decision::Commit)),
        told(decide(Decision::Rollback)),
        told(Order::Answer(Verdict::Rollback)),
    ] {
        let said = actions(&mut participant, HOUR_MS, event.clone());
        assert_eq!(said, std::slice::from_ref(&report), "{event:?}");
    }
    let forgets = actions(&mut participant, HOUR_MS, told(Order::Forget));
    assert_eq!(forgets, [calls(Call::Forget)]);
    actions(&mut participant, HOUR_MS, returned(Returned::Did(Done::Done, String::new())));
    assert_eq!((participant.branches_len(), participant.deadline()), (0, None));
}

/// What is on record counts: it may be of a life with another policy.
#[test]
fn the_resource_says_how_it_ended() {
    let mut participant = ending(Decision::Rollback);
    let said = actions(&mut participant, 60_000, alone(BranchResult::Committed));
    assert_eq!(said, [reports(BranchResult::Committed, WORDS)]);
    assert_eq!(participant.state(&id()), Some(State::Heuristic(BranchResult::Committed)));
}

#[test]
fn an_order_that_comes_too_late_is_answered_with_what_was_done() {
    for order in [decide(Decision::Commit), decide(Decision::Rollback), Order::CommitOnePhase] {
        let mut participant = ending(Decision::Commit);
        assert_eq!(
            actions(&mut participant, 60_001, told(order.clone())),
            [],
            "one call at a time"
        );
        let said = actions(&mut participant, 60_002, alone(BranchResult::Committed));
        assert_eq!(said, [reports(BranchResult::Committed, WORDS)], "{order:?}");
    }
}

/// The resource could not do it, or another process was told first: the order goes its way.
#[test]
fn an_order_that_comes_in_time_is_carried_out() {
    for (order, call) in [
        (decide(Decision::Commit), Call::Commit { evidence: None }),
        (Order::Answer(Verdict::Rollback), Call::Rollback),
        (decide(Decision::Rollback), Call::Rollback),
        (Order::CommitOnePhase, Call::CommitOnePhase),
    ] {
        for result in [
            Returned::Retry(String::new()),
            Returned::Did(Done::Done, String::new()),
            Returned::Did(Done::Heuristic(BranchResult::Hazard), String::new()),
        ] {
            let mut participant = ending(Decision::Commit);
            actions(&mut participant, 60_001, told(order.clone()));
            let next = actions(&mut participant, 60_002, returned(result));
            assert_eq!(next, [calls(call.clone())], "{order:?}");
            let done = Returned::Did(Done::Done, String::new());
            let said = actions(&mut participant, 60_003, returned(done));
            let done = Answer::Acknowledged { done: Done::Done, detail: String::new() };
            assert_eq!(said, [Action::Send { branch: id(), answer: done }], "{order:?}");
            assert_eq!(participant.branches_len(), 0);
        }
    }
}

#[test]
fn a_resource_that_could_not_end_it_has_it_in_doubt_as_before() {
    for result in [
        Returned::Retry(String::new()),
        Returned::Did(Done::Heuristic(BranchResult::Hazard), "".into()),
    ] {
        let mut participant = ending(Decision::Rollback);
        assert_eq!(actions(&mut participant, 60_500, returned(result)), []);
        assert_eq!(participant.state(&id()), Some(State::Prepared));
        let asks = [Action::Inquire { branch: id() }];
        assert_eq!(pass(&mut participant, 120_499), asks, "it may be heard meanwhile");
        assert_eq!(pass(&mut participant, 120_500), [ends_alone(Decision::Rollback)]);
    }
}

#[test]
fn a_branch_that_another_process_has_ended_by_order_is_over() {
    let mut participant = ending(Decision::Rollback);
    let done = Returned::Did(Done::Done, String::new());
    assert_eq!(actions(&mut participant, 60_001, returned(done)), []);
    assert_eq!((participant.branches_len(), participant.deadline()), (0, None));
}

/// Protocol section 4, "restart": the policy may be gone, the record is not.
#[test]
fn what_an_earlier_life_did_alone_is_reported_with_its_words() {
    let mut participant = Participant::new(Times::default(), 7);
    let found = Event::FoundAlone {
        branch: id(),
        result: BranchResult::Committed,
        words: "since Tuesday".to_owned(),
    };
    let report = reports(BranchResult::Committed, "since Tuesday");
    let said = actions(&mut participant, 0, found.clone());
    assert_eq!(said, std::slice::from_ref(&report));
    assert_eq!(actions(&mut participant, 1, found), [], "known already");
    assert_eq!(actions(&mut participant, 2, Event::Connected), std::slice::from_ref(&report));
    assert_eq!(pass(&mut participant, HOUR_MS), [report]);
    assert_eq!(actions(&mut participant, HOUR_MS, told(Order::Forget)), [calls(Call::Forget)]);
}

/// The list may be older than what is known here.
#[test]
fn a_record_that_is_found_changes_nothing_of_a_branch_that_is_known() {
    let mut participant = in_doubt(Some(rollback()));
    let (branch, result, words) = (id(), BranchResult::Committed, String::new());
    let found = Event::FoundAlone { branch, result, words };
    assert_eq!(actions(&mut participant, 1, found), []);
    assert_eq!(participant.state(&id()), Some(State::Prepared));
}
