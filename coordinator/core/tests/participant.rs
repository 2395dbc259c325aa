//! The participant's side, where a table of states and events cannot see it: what it remembers
//! between events, and its times (sections 2 and 4).
#![allow(clippy::unwrap_used, reason = "a test")]

use unanimous_core::id::{LogId, Owner};
use unanimous_core::message::{Answer, Done, Verdict, Vote};
use unanimous_core::participant::{Action, Call, Event, Order, Participant, Returned, Times};
use unanimous_core::{Bqual, BranchId, Decision, FrameNumber, Gtrid, Millis};

const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 1 };
const OWNER: Owner = Owner { log: LOG, epoch: 5 };

fn id(number: u32) -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, number.into(), 0), bqual: Bqual::new(1, number, OWNER) }
}

fn participant() -> Participant {
    Participant::new(Times::default(), 7)
}

fn actions(participant: &mut Participant, now: u64, event: Event) -> Vec<Action> {
    participant.handle(Millis(now), event);
    std::iter::from_fn(|| participant.poll()).collect()
}

fn told(sender: Owner, branch: BranchId, order: Order) -> Event {
    Event::Told { sender, branch, order }
}

fn commit(frame: u64) -> Order {
    Order::Decide { decision: Decision::Commit, frame: FrameNumber(frame), evidence: None }
}

fn joined(remaining_ms: u64) -> Event {
    Event::Joined { branch: id(1), remaining_ms }
}

/// Section 6: a log that is behind what its participants have seen presumes nothing. What they have
/// seen is the highest frame of the latest life that told one, of each log by itself.
#[test]
fn the_highest_frame_told_with_a_commit_is_remembered_of_each_log() {
    let mut participant = participant();
    let other = Owner { log: LogId { slot: 2, ..LOG }, epoch: 1 };
    for (sender, frame) in [(OWNER, 5), (OWNER, 9), (OWNER, 7), (other, 3)] {
        participant.handle(Millis(0), told(sender, id(1), commit(frame)));
    }
    let seen: Vec<_> = participant.seen().collect();
    assert_eq!(seen, [(OWNER, FrameNumber(9)), (other, FrameNumber(3))]);
    let later = Owner { epoch: 6, ..OWNER };
    participant.handle(Millis(0), told(later, id(1), commit(8)));
    assert!(participant.seen().any(|seen| seen == (later, FrameNumber(8))), "a later life's");
}

/// The answer to an inquiry is a telling like any other.
#[test]
fn a_frame_told_in_answer_to_an_inquiry_is_remembered_too() {
    let mut participant = participant();
    participant.handle(Millis(0), Event::Recovered { branch: id(1), evidence: None });
    let verdict = Verdict::Commit { frame: FrameNumber(4), evidence: None };
    participant.handle(Millis(0), told(OWNER, id(1), Order::Answer(verdict)));
    assert_eq!(participant.seen().collect::<Vec<_>>(), [(OWNER, FrameNumber(4))]);
}

/// A participant that never learns of a time-out undoes by its own: no later piece of work puts it
/// off.
#[test]
fn a_branchs_own_time_out_counts_from_its_first_piece_of_work() {
    let mut participant = participant();
    participant.handle(Millis(0), joined(1_000));
    participant.handle(Millis(500), joined(1_000));
    let grace_ms = Times::default().grace_ms;
    assert_eq!(participant.deadline(), Some(Millis(1_000 + grace_ms)));
    assert_eq!(actions(&mut participant, 1_000 + grace_ms - 1, Event::Ticked), []);
    let undone = actions(&mut participant, 1_000 + grace_ms, Event::Ticked);
    assert_eq!(undone, [Action::Call { branch: id(1), call: Call::Rollback }]);
    assert_eq!(participant.deadline(), None);
}

/// It was not known here when its vote was asked for: another process may have prepared it, so a
/// no from the resource proves nothing, and the order to commit is carried out.
#[test]
fn an_order_to_commit_overtakes_a_question_about_an_unknown_branch() {
    for vote in [Vote::Rollback { reason: "unknown".to_owned() }, Vote::ReadOnly] {
        let mut participant = participant();
        participant.handle(Millis(0), told(OWNER, id(1), Order::Prepare));
        participant.handle(Millis(0), told(OWNER, id(1), Order::CommitOnePhase));
        while participant.poll().is_some() {}
        let returned = Event::Returned { branch: id(1), result: Returned::Voted(vote) };
        let next = actions(&mut participant, 0, returned);
        assert_eq!(next, [Action::Call { branch: id(1), call: Call::CommitOnePhase }]);
    }
}

/// Hello names them, and a start asks about them.
#[test]
fn the_branches_in_doubt_are_those_that_voted_commit() {
    let mut participant = participant();
    participant.handle(Millis(0), joined(1_000));
    for number in [3, 2] {
        participant.handle(Millis(0), Event::Recovered { branch: id(number), evidence: None });
    }
    assert_eq!(participant.in_doubt().collect::<Vec<_>>(), [&id(2), &id(3)]);
    participant.handle(Millis(0), told(OWNER, id(2), commit(1)));
    assert_eq!(participant.in_doubt().collect::<Vec<_>>(), [&id(3)]);
    assert_eq!(participant.branches_len(), 3);
}

/// Protocol section 3, "branch does not answer": whoever repeats an order is told why it is not
/// carried out yet, once the resource has said so, and not while it is at it.
#[test]
fn a_repeated_order_is_answered_with_why_it_is_not_carried_out_yet() {
    let (rollback, one_phase) = (
        Order::Decide { decision: Decision::Rollback, frame: FrameNumber(1), evidence: None },
        Order::CommitOnePhase,
    );
    for order in [commit(1), rollback, one_phase] {
        let mut participant = participant();
        participant.handle(Millis(0), Event::Recovered { branch: id(1), evidence: None });
        let first = actions(&mut participant, 0, told(OWNER, id(1), order.clone()));
        assert!(matches!(first[..], [Action::Call { .. }]), "{first:?}");
        let repeated = actions(&mut participant, 1, told(OWNER, id(1), order.clone()));
        assert_eq!(repeated, [], "nothing is known yet");
        let why = "must be the owner of the branch";
        let result = Returned::Retry(why.to_owned());
        assert_eq!(actions(&mut participant, 2, Event::Returned { branch: id(1), result }), []);
        let repeated = actions(&mut participant, 3, told(OWNER, id(1), order.clone()));
        let answer = Answer::Acknowledged { done: Done::Retry, detail: why.to_owned() };
        assert_eq!(repeated, [Action::Send { branch: id(1), answer }], "{order:?}");
        let again = actions(&mut participant, 60_000, Event::Ticked);
        assert!(matches!(again[..], [Action::Call { .. }]), "{again:?}");
        let repeated = actions(&mut participant, 60_001, told(OWNER, id(1), order.clone()));
        assert_eq!(repeated, [], "it may succeed this time");
    }
}
