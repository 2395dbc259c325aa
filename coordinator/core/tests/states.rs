//! Every state against every message (catalogue B-05, section 3): one golden table a side. A cell
//! shows the next state and what comes out. What is not allowed changes nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, participant, resource};
use std::fmt::Write as _;
use unanimous_core::coordinator::State;
use unanimous_core::id::{LogId, Owner};
use unanimous_core::message::{Answer, Done, Event, Verdict, Vote, Wait};
use unanimous_core::outcome::{BranchResult, Decision};
use unanimous_core::participant::{
    Action, Call, Event as Did, HeuristicPolicy, Order, Participant, Returned,
    State as BranchState, Times,
};
use unanimous_core::{Bqual, BranchId, FrameNumber, Gtrid, Millis};

type Step = fn(&mut Script) -> &mut Script;

/// Brings a transaction with branches 1 and 2 (one-phase: 1) into a state.
fn in_state(state: State) -> Script {
    let mut s = Script::new("");
    s.begin().enlist(1);
    if state != State::OnePhase {
        s.enlist(2);
    }
    match state {
        State::Active => {}
        State::MarkedRollback => {
            s.votes_rollback(1, "no");
        }
        State::Preparing | State::OnePhase => {
            s.commit(None, Wait::Decided);
        }
        State::Deciding => {
            s.commit(None, Wait::Decided).votes_commit(1).votes_commit(2);
        }
        State::Committing => {
            s.commit(None, Wait::Decided).votes_commit(1).votes_commit(2).flushed();
        }
        State::RollingBack => {
            s.commit(None, Wait::Decided).rollback();
        }
        State::Heuristic => {
            s.commit(None, Wait::Decided).votes_commit(1).votes_commit(2).flushed();
            s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "").flushed();
            s.done(2).flushed().acknowledges(1, Done::Forgotten, "");
        }
    }
    assert_eq!(s.state(), format!("{state:?}"));
    s.take_text();
    s
}

const EVENTS: [(&str, Step); 20] = [
    ("enlist 1 again", |s| s.enlist(1)),
    ("enlist 3", |s| s.enlist(3)),
    ("commit", |s| s.commit(None, Wait::Decided)),
    ("commit, completed", |s| s.commit(None, Wait::Completed)),
    ("rollback", |s| s.rollback()),
    ("resolve", |s| s.resolve(Some(2))),
    ("inquire 1", |s| s.inquire(1)),
    ("inquire 3", |s| s.inquire(3)),
    ("1 votes commit", |s| s.votes_commit(1)),
    ("1 votes read-only", |s| s.votes_read_only(1)),
    ("1 votes rollback", |s| s.votes_rollback(1, "no")),
    ("1 done", |s| s.done(1)),
    ("1 rolled back", |s| s.acknowledges(1, Done::RolledBack, "")),
    ("1 not prepared", |s| s.acknowledges(1, Done::NotPrepared, "")),
    ("1 alone, committed", |s| s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "")),
    ("1 alone, rolled back", |s| s.acknowledges(1, Done::Heuristic(BranchResult::RolledBack), "")),
    ("1 hazard", |s| s.acknowledges(1, Done::Heuristic(BranchResult::Hazard), "")),
    ("1 forgotten", |s| s.acknowledges(1, Done::Forgotten, "")),
    ("1 attaches", |s| s.attach(1)),
    ("time-out", |s| s.wait_ms(2_000)),
];

/// How each branch looks to people, and whether its answer is awaited.
fn branches(s: &Script) -> Vec<String> {
    let Some(transaction) = s.coordinator.transaction(&s.gtrid()) else { return Vec::new() };
    let pending: Vec<_> = transaction.pending().map(|branch| branch.bqual).collect();
    let decision = transaction.decision();
    let one = |branch: &unanimous_core::coordinator::Branch| {
        let awaited = if pending.contains(&branch.bqual) { " (awaited)" } else { "" };
        let forget = if branch.forget_pending { " (to forget)" } else { "" };
        format!("{:?}{awaited}{forget}", branch.state(decision))
    };
    transaction.branches.iter().map(one).collect()
}

#[test]
fn b_05_every_coordinator_state_against_every_event() {
    let mut table = String::new();
    for state in State::ALL {
        for (name, step) in EVENTS {
            let mut s = in_state(state);
            let before = branches(&s);
            step(&mut s);
            let next = s.state();
            let mut next = if next == format!("{state:?}") { "same".to_owned() } else { next };
            let after = branches(&s);
            for (number, changed) in (1..).zip(&after) {
                if before.get(number - 1) != Some(changed) {
                    write!(next, ", {number} {changed}").unwrap();
                }
            }
            let text = s.take_text();
            let actions: Vec<_> =
                text.lines().filter(|line| line.starts_with("  ")).map(str::trim).collect();
            writeln!(table, "{state:?} | {name} | {next} | {}", actions.join("; ")).unwrap();
        }
    }
    golden("coordinator_states", &table);
}

fn golden(name: &str, table: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(name, table));
}

/// A branch is answered for only by its own participant and resource.
#[test]
fn b_05_answers_from_a_non_member_change_nothing() {
    let answers = [
        Answer::Voted(Vote::Rollback { reason: "no".to_owned() }),
        Answer::Voted(Vote::Commit { evidence: None }),
        Answer::Voted(Vote::ReadOnly),
        Answer::Acknowledged { done: Done::Done, detail: String::new() },
        Answer::Acknowledged {
            done: Done::Heuristic(BranchResult::RolledBack),
            detail: String::new(),
        },
    ];
    for state in State::ALL {
        for answer in &answers {
            for (from, on) in [(9, 1), (1, 9), (2, 1)] {
                let mut s = in_state(state);
                let before = s.coordinator.canonical(s.now);
                let event = Event::Answered {
                    from: participant(from),
                    resource: resource(on),
                    branch: s.branch(1),
                    answer: answer.clone(),
                };
                s.coordinator.handle(s.now, event);
                assert_eq!(s.coordinator.poll(), None, "{state:?} {answer:?}");
                assert_eq!(s.coordinator.canonical(s.now), before, "{state:?} {answer:?}");
            }
        }
    }
}

/// P-21: an answer for a transaction of an older life, with the same sequence number, does not
/// touch the new one.
#[test]
fn p_21_a_late_answer_touches_only_its_own_transaction() {
    let mut s = in_state(State::Preparing);
    let old = s.branch(1);
    s.restart().flushed();
    s.begin().enlist(1).enlist(2).commit(None, Wait::Decided);
    assert_eq!(old.gtrid.sequence(), s.gtrid().sequence());
    let before = s.coordinator.canonical(s.now);
    for answer in [
        Answer::Voted(Vote::Rollback { reason: String::new() }),
        Answer::Acknowledged { done: Done::Done, detail: String::new() },
    ] {
        let event =
            Event::Answered { from: participant(1), resource: resource(1), branch: old, answer };
        s.coordinator.handle(s.now, event);
        assert_eq!(s.coordinator.poll(), None);
        assert_eq!(s.coordinator.canonical(s.now), before);
    }
}

/// P-21, the other side: the delayed commit of an older life meets a branch of the same number.
#[test]
fn p_21_a_late_commit_touches_only_its_own_branch() {
    let mut participant = branch_in("Prepared");
    let sender = Owner { epoch: OWNER.epoch + 1, ..OWNER };
    let gtrid = Gtrid::new(sender, id().gtrid.sequence(), 0);
    let newer = BranchId { gtrid, bqual: Bqual::new(1, 1, sender) };
    participant.handle(Millis(0), Did::Joined { branch: newer, remaining_ms: 1_000 });
    assert_eq!(participant.poll(), None);
    participant.handle(Millis(0), Did::Told { sender, branch: id(), order: commit_order() });
    assert_eq!(participant.state(&id()), Some(BranchState::Committing));
    assert_eq!(participant.state(&newer), Some(BranchState::Active));
    let call = participant.poll();
    assert!(matches!(call, Some(Action::Call { branch, .. }) if branch == id()), "{call:?}");
    assert_eq!(participant.poll(), None);
}

const OWNER: Owner = Owner { log: LogId { cluster: 1, slot: 1, incarnation: 1 }, epoch: 5 };

fn id() -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, 1, 0), bqual: Bqual::new(1, 1, OWNER) }
}

fn commit_order() -> Order {
    Order::Decide { decision: Decision::Commit, frame: FrameNumber(9), evidence: None }
}

fn rollback_order() -> Order {
    Order::Decide { decision: Decision::Rollback, frame: FrameNumber(9), evidence: None }
}

fn told(order: Order) -> Did {
    Did::Told { sender: OWNER, branch: id(), order }
}

fn returned(result: Returned) -> Did {
    Did::Returned { branch: id(), result }
}

fn did(done: Done) -> Did {
    returned(Returned::Did(done, String::new()))
}

fn voted(vote: Vote) -> Did {
    returned(Returned::Voted(vote))
}

/// The events that lead to each state.
fn branch_in(name: &str) -> Participant {
    let joined = Did::Joined { branch: id(), remaining_ms: 1_000 };
    let left = Did::Left { branch: id(), failure: None };
    let active = vec![joined.clone(), left.clone()];
    let with = |more: &[Did]| [active.clone(), more.to_vec()].concat();
    let prepare = told(Order::Prepare);
    let yes = voted(Vote::Commit { evidence: None });
    let path = match name {
        "none" => vec![],
        "Active, working" => vec![joined],
        "Active" => active,
        "Active, failed" => {
            vec![joined, Did::Left { branch: id(), failure: Some("statement failed".to_owned()) }]
        }
        "Preparing" => with(&[prepare]),
        "asking" => vec![prepare],
        "Prepared" => with(&[prepare, yes]),
        "Recovered" => vec![Did::Recovered { branch: id(), evidence: None }],
        "Committing" => with(&[prepare, yes, told(commit_order())]),
        "Preparing, to commit in one phase" => {
            with(&[told(Order::Prepare), told(Order::CommitOnePhase)])
        }
        "Committing one phase" => with(&[told(Order::CommitOnePhase)]),
        "RollingBack" => with(&[prepare, yes, told(rollback_order())]),
        "RollingBack, preparing" => with(&[prepare, told(rollback_order())]),
        "Heuristic commit" => with(&[
            prepare,
            yes,
            told(rollback_order()),
            did(Done::Heuristic(BranchResult::Committed)),
        ]),
        "Heuristic rollback" => with(&[
            prepare,
            yes,
            told(commit_order()),
            did(Done::Heuristic(BranchResult::RolledBack)),
        ]),
        "EndingAlone" => with(&[prepare, yes, Did::Ticked]),
        other => panic!("no path to {other}"),
    };
    let alone = HeuristicPolicy { after_ms: 0, decision: Decision::Rollback };
    let policy = (name == "EndingAlone").then_some(alone);
    let mut participant = Participant::new(Times::default(), 7).with_policy(policy);
    for event in path {
        participant.handle(Millis(0), event);
        while participant.poll().is_some() {}
    }
    participant
}

#[test]
fn every_branch_state_against_every_event() {
    let states = [
        "none",
        "Active, working",
        "Active",
        "Active, failed",
        "Preparing",
        "Preparing, to commit in one phase",
        "asking",
        "Prepared",
        "Recovered",
        "Committing",
        "Committing one phase",
        "RollingBack",
        "RollingBack, preparing",
        "Heuristic commit",
        "Heuristic rollback",
        "EndingAlone",
    ];
    let verdict = |verdict| told(Order::Answer(verdict));
    let events = [
        ("prepare", told(Order::Prepare)),
        ("commit", told(commit_order())),
        ("commit one phase", told(Order::CommitOnePhase)),
        ("rollback", told(rollback_order())),
        ("forget", told(Order::Forget)),
        ("answer commit", verdict(Verdict::Commit { frame: FrameNumber(9), evidence: None })),
        ("answer rollback", verdict(Verdict::Rollback)),
        ("answer wait", verdict(Verdict::Wait)),
        ("answer leave alone", verdict(Verdict::LeaveAlone)),
        ("connected", Did::Connected),
        ("resource votes commit", voted(Vote::Commit { evidence: None })),
        ("resource votes read-only", voted(Vote::ReadOnly)),
        ("resource votes rollback", voted(Vote::Rollback { reason: "no".to_owned() })),
        ("resource done", did(Done::Done)),
        ("resource rolled back", did(Done::RolledBack)),
        ("resource alone, committed", did(Done::Heuristic(BranchResult::Committed))),
        ("resource alone, rolled back", did(Done::Heuristic(BranchResult::RolledBack))),
        ("resource hazard", did(Done::Heuristic(BranchResult::Hazard))),
        ("resource retry", returned(Returned::Retry(String::new()))),
        ("40 s pass", Did::Ticked),
    ];
    let mut table = String::new();
    for state in states {
        for (name, event) in &events {
            let mut participant = branch_in(state);
            let before = participant.state(&id());
            let now = Millis(if *name == "40 s pass" { 40_000 } else { 0 });
            participant.handle(now, event.clone());
            let after = participant.state(&id());
            let next = match (before == after, after) {
                (true, _) => "same".to_owned(),
                (false, None) => "none".to_owned(),
                (false, Some(state)) => format!("{state:?}"),
            };
            let mut actions = Vec::new();
            while let Some(action) = participant.poll() {
                actions.push(action_words(&action));
            }
            writeln!(table, "{state} | {name} | {next} | {}", actions.join("; ")).unwrap();
        }
    }
    golden("branch_states", &table);
}

fn action_words(action: &Action) -> String {
    match action {
        Action::Call { call, .. } => format!("call {call:?}"),
        Action::Send { answer: Answer::Voted(Vote::Commit { .. }), .. } => "vote commit".to_owned(),
        Action::Send { answer: Answer::Voted(vote), .. } => format!("vote {vote:?}"),
        Action::Send { answer: Answer::Acknowledged { done, .. }, .. } => {
            format!("acknowledge {done:?}")
        }
        Action::Inquire { .. } => "inquire".to_owned(),
    }
}

/// Section 2, fencing: an old coordinator that still runs is not obeyed.
#[test]
fn messages_of_an_older_epoch_are_ignored() {
    let mut participant = branch_in("Prepared");
    let newer = Owner { epoch: OWNER.epoch + 1, ..OWNER };
    participant.handle(Millis(0), Did::Told { sender: newer, branch: id(), order: Order::Prepare });
    assert!(participant.poll().is_some(), "it repeats its vote");
    participant.handle(Millis(0), told(commit_order()));
    assert_eq!(participant.state(&id()), Some(BranchState::Prepared));
    assert_eq!(participant.poll(), None);
    participant.handle(Millis(0), Did::Told { sender: newer, branch: id(), order: commit_order() });
    assert_eq!(participant.state(&id()), Some(BranchState::Committing));
}

/// Ids that the coordinator has no record of: malformed ones do not get this far.
#[test]
fn unknown_foreign_and_future_ids_are_left_alone() {
    let mut s = Script::new(
        "Ids of another cluster, slot, incarnation, of a future epoch, and not given out yet.",
    );
    s.begin().enlist(1).enlist(2);
    let owner = s.gtrid().owner();
    let strangers = [
        Owner { epoch: owner.epoch + 1, ..owner },
        Owner { log: LogId { cluster: 9, ..owner.log }, ..owner },
        Owner { log: LogId { slot: 9, ..owner.log }, ..owner },
        Owner { log: LogId { incarnation: 9, ..owner.log }, ..owner },
    ];
    for (sequence, stranger) in strangers.into_iter().map(|o| (0, o)).chain([(7, owner)]) {
        let gtrid = Gtrid::new(stranger, sequence, 0);
        s.stranger(gtrid).inquire(1).resolve(Some(2)).commit(Some(2), Wait::Decided);
        s.rollback().enlist(1).votes_commit(1);
        s.acknowledges(1, Done::Heuristic(BranchResult::Committed), "");
    }
    assert_eq!(s.coordinator.transactions_len(), 1);
    s.check("strangers");
}

/// Found by the simulator: a repeated forget met one that waits to be tried again, and the resource
/// was called twice at a time.
#[test]
fn regression_a_repeated_forget_waits_for_the_one_that_is_tried_again() {
    let mut participant = branch_in("Heuristic rollback");
    participant.handle(Millis(0), told(Order::Forget));
    assert!(matches!(participant.poll(), Some(Action::Call { .. })));
    participant.handle(Millis(0), returned(Returned::Retry(String::new())));
    participant.handle(Millis(0), told(Order::Forget));
    assert_eq!(participant.poll(), None);
}

/// Found by the simulator: a life whose epoch was not durable asked for patience, and its successor
/// with a lower epoch was ignored for ever.
#[test]
fn regression_a_life_that_only_asks_for_patience_raises_no_fence() {
    let mut participant = branch_in("Prepared");
    let sender = Owner { epoch: OWNER.epoch + 1, ..OWNER };
    for verdict in [Verdict::Wait, Verdict::LeaveAlone] {
        let order = Order::Answer(verdict);
        participant.handle(Millis(0), Did::Told { sender, branch: id(), order });
    }
    participant.handle(Millis(0), told(commit_order()));
    assert_eq!(participant.state(&id()), Some(BranchState::Committing));
}

/// Found by the simulator: with two processes the one that was told had not reported, and said
/// forgotten for a resource that still kept the record.
#[test]
fn regression_a_forget_of_an_unknown_branch_reaches_the_resource() {
    let mut participant = branch_in("none");
    participant.handle(Millis(0), told(Order::Forget));
    let call = participant.poll();
    assert!(matches!(call, Some(Action::Call { call: Call::Forget, .. })), "{call:?}");
    assert_eq!(participant.poll(), None, "not before the resource has answered");
    participant.handle(Millis(0), did(Done::Forgotten));
    let done = Some(Action::Send {
        branch: id(),
        answer: Answer::Acknowledged { done: Done::Forgotten, detail: String::new() },
    });
    assert_eq!((participant.poll(), participant.branches_len()), (done, 0));
}

/// What lists show of a transaction.
fn shown(s: &Script) -> Option<impl PartialEq + use<>> {
    let transaction = s.coordinator.transaction(&s.gtrid())?;
    let branch = |branch: &unanimous_core::coordinator::Branch| {
        (branch.bqual, branch.ballot, branch.result, branch.detail.clone())
    };
    Some((transaction.state(), transaction.branches.iter().map(branch).collect::<Vec<_>>()))
}

/// Found by its mutants: a late no raised no version. Whoever watches a list compares versions: a
/// change that raises none is never seen.
#[test]
fn regression_every_change_that_lists_show_raises_the_version() {
    let version = |s: &Script| s.coordinator.transaction(&s.gtrid()).map(|t| t.version);
    let pairs = EVENTS.iter().flat_map(|first| EVENTS.iter().map(move |then| (first, then)));
    let mut raised = 0;
    for state in State::ALL {
        for ((first, earlier), (name, step)) in pairs.clone() {
            let mut s = in_state(state);
            earlier(&mut s);
            let (before, version_before) = (shown(&s), version(&s));
            step(&mut s);
            let after = shown(&s);
            if after.is_some() && after != before {
                assert!(version(&s) > version_before, "{state:?}, {first}, {name}");
                raised += 1;
            }
        }
    }
    assert!(raised > 400, "only {raised} changes were seen");
}
