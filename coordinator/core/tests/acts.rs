//! Operator acts: the table of section 7, cell by cell, and what follows from each act.
#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits, participant};
use unanimous_core::coordinator::State;
use unanimous_core::message::{Done, Verdict, Wait};
use unanimous_core::{
    Act, ActRefusal, AuditEntry, AuditKind, AuditResult, BranchResult, Decision, Limits, Outcome,
    Request, Response,
};

use BranchResult::{Committed, Hazard, Mixed, RolledBack};

/// A transaction with two branches in the state, or with one in `OnePhase`.
fn in_state(state: State) -> Script {
    let mut script = Script::new("");
    script.begin().enlist(1);
    if state == State::OnePhase {
        script.commit(None, Wait::Decided);
        return script;
    }
    script.enlist(2);
    match state {
        State::Active | State::OnePhase => {}
        State::MarkedRollback => drop(script.votes_rollback(1, "no")),
        State::Preparing => drop(script.commit(None, Wait::Decided).votes_commit(1)),
        State::RollingBack => {
            script.commit(None, Wait::Decided).votes_commit(1).rollback();
        }
        State::Deciding | State::Committing | State::Heuristic => {
            script.commit(None, Wait::Decided).votes_commit(1).votes_commit(2);
            if state != State::Deciding {
                script.flushed();
            }
            if state == State::Heuristic {
                script.done(1).acknowledges(2, Done::Heuristic(RolledBack), "").flushed();
            }
        }
    }
    assert_eq!(script.at(), Some(state));
    script
}

impl Script {
    fn at(&self) -> Option<State> {
        self.coordinator.transaction(&self.gtrid()).map(|transaction| transaction.state())
    }

    fn version(&self) -> u64 {
        self.coordinator.transaction(&self.gtrid()).unwrap().version
    }

    fn outcome(&self) -> Outcome {
        self.coordinator.transaction(&self.gtrid()).unwrap().outcome()
    }

    fn resolved(&self) -> bool {
        self.coordinator.transaction(&self.gtrid()).unwrap().resolved()
    }

    fn branch_result(&self, number: u32) -> Option<BranchResult> {
        let transaction = self.coordinator.transaction(&self.gtrid()).unwrap();
        transaction.branch(&self.branch(number).bqual).unwrap().result
    }

    fn asserted(&self, number: u32) -> bool {
        let transaction = self.coordinator.transaction(&self.gtrid()).unwrap();
        transaction.branch(&self.branch(number).bqual).unwrap().asserted
    }

    fn verdict(&mut self, number: u32) -> Verdict {
        self.inquire(number);
        match self.replies.pop() {
            Some(Response::Verdict(verdict)) => verdict,
            other => panic!("{other:?}"),
        }
    }

    fn entry(&self, act: Option<Act>) -> AuditEntry {
        let kind = match act {
            Some(Act::Rollback) => AuditKind::Rollback,
            Some(Act::Commit) => AuditKind::Commit,
            Some(Act::Assert { .. }) => AuditKind::Assert,
            Some(Act::Abandon { .. }) => AuditKind::Abandon,
            Some(Act::Resolve) => AuditKind::Resolve,
            None => AuditKind::Call,
        };
        AuditEntry {
            number: self.coordinator.audit_head().map_or(0, |head| head.number) + 1,
            at_ms: 0,
            who: "alice".to_owned(),
            from: String::new(),
            kind,
            result: AuditResult::Done,
            gtrid: Some(self.gtrid()),
            bqual: act.and_then(|act| act.bqual()),
            end: None,
            before: String::new(),
            after: String::new(),
            plan: String::new(),
            reason: "because".to_owned(),
            evidence: String::new(),
            concerns: 0,
            previous: [0; 32],
            hash: [0; 32],
        }
    }

    /// What it is answered at once.
    fn act(&mut self, act: Act) -> Option<Response> {
        self.act_at(act, self.version())
    }

    fn act_at(&mut self, act: Act, version: u64) -> Option<Response> {
        self.replies.clear();
        self.sends = 0;
        let (gtrid, entry) = (self.gtrid(), Box::new(self.entry(Some(act))));
        self.ask("operate", Request::Operate { gtrid, version, act, entry });
        self.replies.last().cloned()
    }

    fn audit(&mut self, entry: AuditEntry) -> Option<Response> {
        self.replies.clear();
        self.ask("audit", Request::Audit { entry: Box::new(entry) });
        self.replies.last().cloned()
    }
}

/// What each act is answered in each state. `act` is about the second branch, or the only one.
fn cell(state: State, kind: usize) -> Option<ActRefusal> {
    use ActRefusal as No;
    use State as S;
    let row = match state {
        S::Active | S::MarkedRollback | S::Preparing => [
            None,
            Some(No::VotesMissing),
            Some(No::Undecided),
            Some(No::Undecided),
            Some(No::NotHeuristic),
        ],
        S::OnePhase => [Some(No::OnePhase), Some(No::OnePhase), None, None, Some(No::NotHeuristic)],
        S::Deciding => [Some(No::WaitForLog); 5],
        S::Committing => [Some(No::Decided), None, None, None, Some(No::NotHeuristic)],
        S::RollingBack => [None, Some(No::Decided), None, None, Some(No::NotHeuristic)],
        // The branch has said itself how it ended; a forget is still driven.
        S::Heuristic => {
            [Some(No::Decided), Some(No::Decided), Some(No::BranchFinished), None, None]
        }
    };
    row[kind]
}

#[test]
fn every_cell_of_the_table_of_section_7() {
    for state in State::ALL {
        for kind in 0..5 {
            let mut script = in_state(state);
            let number = if state == State::OnePhase { 1 } else { 2 };
            let act = Act::all(script.branch(number).bqual)[kind];
            let before = script.coordinator.clone();
            let answer = script.act(act);
            match cell(state, kind) {
                Some(refusal) => {
                    assert_eq!(answer, Some(Response::ActRefused(refusal)), "{state:?} {act:?}");
                    assert_eq!(before, script.coordinator, "{state:?} {act:?}");
                }
                None => {
                    let standing = before.transaction(&script.gtrid()).unwrap();
                    let now = script.coordinator.transaction(&script.gtrid()).unwrap();
                    assert_eq!((answer, standing), (None, now), "{state:?} {act:?}: no record yet");
                    assert_eq!(script.sends, 0, "{state:?} {act:?}: before its record");
                    script.flushed().flushed();
                    let operated = script.replies.contains(&Response::Operated);
                    assert!(operated, "{state:?} {act:?}");
                }
            }
        }
    }
}

#[test]
fn a_forced_rollback_tells_the_branches_and_the_client() {
    let mut script = in_state(State::Preparing);
    script.act(Act::Rollback);
    script.flushed();
    assert_eq!((script.at(), script.sends), (Some(State::RollingBack), 2));
    assert_eq!(script.coordinator.counters().forced, 1);
    script.done(1).done(2);
    assert_eq!(script.at(), None);
}

#[test]
fn an_act_is_overtaken_by_what_happens_while_its_entry_is_written() {
    let mut script = in_state(State::Preparing);
    script.act(Act::Rollback);
    // The last vote decides, and its record is behind the act's.
    script.votes_commit(2).flushed();
    assert!(script.replies.contains(&Response::Overtaken));
    assert_eq!(script.at(), Some(State::Committing));
    assert_eq!(script.coordinator.counters().forced, 0);
}

#[test]
fn of_two_operators_one_wins_and_the_other_is_told() {
    let mut script = in_state(State::Committing);
    let abandon = Act::Abandon { bqual: script.branch(2).bqual };
    let version = script.version();
    assert_eq!(script.act(abandon), None);
    let moved = Some(Response::ActRefused(ActRefusal::Moved));
    assert_eq!(script.act(abandon), moved, "while the first is being written");
    script.flushed().flushed();
    assert_eq!(script.act_at(abandon, version), moved, "with a plan of before");
}

/// Nothing is sent to it any more, and it still gets the decision when it asks.
#[test]
fn abandon_stops_the_driving_and_never_the_answer() {
    let mut script = in_state(State::Committing);
    script.done(1);
    script.act(Act::Abandon { bqual: script.branch(2).bqual });
    script.flushed().flushed();
    assert_eq!((script.at(), script.outcome()), (Some(State::Heuristic), Outcome::Hazard));
    for _ in 0..2 {
        assert!(matches!(script.verdict(2), Verdict::Commit { .. }));
        script.restart();
        script.flushed();
        assert_eq!(script.at(), Some(State::Heuristic));
        assert_eq!(script.sends, 0);
    }
    // It has come back and done as decided: known at last, and listed until somebody has seen it.
    script.done(2).flushed();
    assert_eq!((script.at(), script.outcome()), (Some(State::Heuristic), Outcome::Committed));
}

#[test]
fn a_later_contradiction_is_mixed_and_listed_again() {
    let mut script = in_state(State::Committing);
    script.done(1);
    script.act(Act::Assert { bqual: script.branch(2).bqual, end: Committed });
    script.flushed().flushed();
    assert_eq!((script.at(), script.outcome()), (Some(State::Heuristic), Outcome::Committed));
    script.act(Act::Resolve);
    script.flushed().flushed();
    assert!(script.resolved());
    script.restart();
    script.flushed();
    assert!(script.resolved(), "after a restart too");
    assert!(matches!(script.verdict(2), Verdict::Commit { .. }), "the answer stays");
    script.acknowledges(2, Done::Heuristic(RolledBack), "undone by hand").flushed();
    assert_eq!((script.resolved(), script.outcome()), (false, Outcome::Mixed));
    assert_eq!(script.branch_result(2), Some(Mixed));
}

#[test]
fn what_the_branch_says_itself_confirms_or_replaces_what_was_asserted() {
    // Asserted, then told; and what is known then, and how many heuristic ends are counted.
    let table = [
        (Committed, Done::Done, Committed, 0),
        (RolledBack, Done::Done, Mixed, 1),
        (RolledBack, Done::Heuristic(RolledBack), RolledBack, 0),
        (Committed, Done::Heuristic(Mixed), Mixed, 1),
        (Mixed, Done::Done, Mixed, 1),
        // It knows nothing any more: it is gone, and the operator's word stands.
        (Committed, Done::Heuristic(Hazard), Committed, 0),
    ];
    for (end, done, result, heuristic) in table {
        let mut script = in_state(State::Committing);
        script.act(Act::Assert { bqual: script.branch(2).bqual, end });
        script.flushed().flushed().acknowledges(2, done, "").flushed();
        let counted = script.coordinator.counters().heuristic;
        assert_eq!(
            (script.branch_result(2), counted),
            (Some(result), heuristic),
            "{end:?} {done:?}"
        );
        assert!(!script.asserted(2), "{end:?} {done:?}: seen gone");
        script.done(1).flushed();
        assert_eq!(script.at(), Some(State::Heuristic), "{end:?} {done:?}: listed");
    }
}

/// Seed 841366: given up after it has said itself how it ended. Another process of its participant,
/// which has nothing to roll back, says so later, and contradicts nothing.
#[test]
fn regression_what_a_branch_has_said_itself_is_no_operators_word() {
    let mut script = in_state(State::RollingBack);
    script.acknowledges(2, Done::Heuristic(Committed), "by hand").done(1).flushed();
    script.act(Act::Abandon { bqual: script.branch(2).bqual });
    script.flushed().flushed().done(2).flushed();
    assert_eq!((script.branch_result(2), script.asserted(2)), (Some(Committed), false));
}

/// Its order to commit was on the way when the operator looked.
#[test]
fn regression_a_commit_in_one_phase_contradicts_an_asserted_rollback() {
    let mut script = in_state(State::OnePhase);
    script.act(Act::Assert { bqual: script.branch(1).bqual, end: RolledBack });
    script.flushed().flushed();
    script.act(Act::Resolve);
    script.flushed().flushed().done(1).flushed();
    assert_eq!((script.branch_result(1), script.resolved()), (Some(Mixed), false));
}

/// It may come back, commit, and be asked for the proof of it.
#[test]
fn regression_the_mark_waits_for_a_branch_that_is_spoken_for() {
    let mut script = in_state(State::Committing);
    script.done(1);
    script.act(Act::Abandon { bqual: script.branch(2).bqual });
    script.flushed().flushed();
    let gtrid = script.gtrid();
    let passes = |script: &Script| {
        let mark = script.coordinator.ended_mark();
        mark.is_some_and(|mark| !mark.exceptions.contains(&gtrid))
    };
    assert!(!passes(&script));
    script.restart();
    script.flushed().begin();
    assert!(!script.coordinator.ended_mark().unwrap().exceptions.is_empty());
    let mut script = in_state(State::Committing);
    script.done(1);
    script.act(Act::Abandon { bqual: script.branch(2).bqual });
    script.flushed().flushed().done(2).flushed();
    assert!(passes(&script), "it is seen gone");
}

/// Seed 1649029: of two processes that share a resource one has nothing, and the other one's branch
/// decides alone later.
#[test]
fn regression_one_process_has_nothing_and_the_other_has_committed_alone() {
    let mut script = in_state(State::RollingBack);
    script.done(1).acknowledges(1, Done::Heuristic(Committed), "by hand").flushed();
    assert_eq!(script.branch_result(1), Some(Committed));
}

#[test]
fn a_mistaken_assertion_can_be_corrected_by_another_one() {
    let mut script = in_state(State::Committing);
    let bqual = script.branch(2).bqual;
    script.act(Act::Assert { bqual, end: RolledBack });
    script.flushed().flushed();
    let again = Act::Assert { bqual, end: RolledBack };
    assert_eq!(script.act(again), Some(Response::ActRefused(ActRefusal::BranchFinished)));
    script.act(Act::Assert { bqual, end: Committed });
    script.flushed().flushed().done(1);
    assert_eq!(script.outcome(), Outcome::Committed);
}

#[test]
fn one_phase_ends_as_the_operator_has_seen() {
    let table = [(Committed, Outcome::Committed), (RolledBack, Outcome::HeuristicRollback)];
    for (end, outcome) in table {
        let mut script = in_state(State::OnePhase);
        script.act(Act::Assert { bqual: script.branch(1).bqual, end });
        script.flushed();
        assert!(script.replies.is_empty(), "the client waits for the record");
        script.flushed();
        assert_eq!((script.at(), script.outcome()), (Some(State::Heuristic), outcome));
        let ended = script.replies.iter().filter(|reply| matches!(reply, Response::Ended(_)));
        assert_eq!(ended.count(), 1);
        script.restart();
        assert_eq!(script.outcome(), outcome);
    }
}

#[test]
fn a_resolved_one_goes_when_it_is_remembered_no_longer_and_nobody_is_told_a_lie() {
    let short = Limits { outcome_retention_ms: 1_000, ..limits() };
    let mut script = Script::with_limits("", short);
    script.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    script.votes_commit(1).votes_commit(2).flushed().done(1);
    script.acknowledges(2, Done::Heuristic(RolledBack), "").flushed();
    script.acknowledges(2, Done::Forgotten, "");
    script.act(Act::Resolve);
    script.flushed().flushed();
    script.resolve(Some(2));
    let told = script.replies.pop();
    assert!(matches!(told, Some(Response::Ended(ending)) if ending.outcome == Outcome::Mixed));
    script.wait_ms(1_000).flushed().wait_ms(200);
    assert_eq!(script.at(), None);
    for _ in 0..2 {
        script.resolve(Some(2));
        assert_eq!(script.replies.pop(), Some(Response::Unknown));
        script.flushed().restart();
        script.flushed();
    }
}

#[test]
fn a_resolved_one_stays_while_a_branch_is_not_seen_gone() {
    let short = Limits { outcome_retention_ms: 1_000, ..limits() };
    let mut script = Script::with_limits("", short);
    script.begin().enlist(1).enlist(2).commit(None, Wait::Decided);
    script.votes_commit(1).votes_commit(2).flushed().done(1);
    script.act(Act::Abandon { bqual: script.branch(2).bqual });
    script.flushed().flushed();
    script.act(Act::Resolve);
    script.flushed().flushed();
    for _ in 0..5 {
        script.wait_ms(1_000).flushed();
        assert!(script.resolved());
    }
    assert!(matches!(script.verdict(2), Verdict::Commit { .. }));
    script.done(2).flushed().wait_ms(1_000).flushed().wait_ms(200);
    assert_eq!(script.at(), None);
}

#[test]
fn the_audit_and_what_it_tells_survive_compaction_and_restarts() {
    let mut script = in_state(State::Committing);
    script.act(Act::Abandon { bqual: script.branch(2).bqual });
    script.flushed().flushed();
    script.act(Act::Commit);
    script.flushed();
    for _ in 0..3 {
        script.compact(100).flushed().restart();
        script.flushed();
        let numbers: Vec<u64> = script.coordinator.audit(1).map(|entry| entry.number).collect();
        assert_eq!(numbers, [1, 2]);
        assert!(script.asserted(2));
    }
}

#[test]
fn at_the_limit_of_the_audit_acts_are_refused() {
    let mut script = Script::with_limits("", Limits { audit_max: 1, ..limits() });
    script.begin().enlist(1);
    assert_eq!(script.audit(script.entry(None)), None);
    script.flushed();
    assert_eq!(script.replies.pop(), Some(Response::Audited));
    let full = Some(Response::Refused(unanimous_core::message::Refusal::AuditFull));
    assert_eq!(script.act(Act::Rollback), full);
    script.flushed();
    assert_eq!(script.at(), Some(State::Active));
}

/// Of another log: no record of ours explains it, until an operator has decided.
#[test]
fn an_orphan_is_told_what_an_operator_has_decided_from_its_record_on() {
    let mut script = Script::new("");
    script.begin();
    let mut foreign = script.branch(1);
    let mut owner = script.gtrid().owner();
    owner.log.incarnation += 1;
    foreign.gtrid = unanimous_core::Gtrid::new(owner, 0, 0);
    foreign.bqual = unanimous_core::Bqual::new(1, 1, owner);
    let asked = |script: &mut Script| {
        script.ask("", Request::Inquire { from: participant(1), branch: foreign });
        script.replies.pop()
    };
    assert_eq!(asked(&mut script), Some(Response::Verdict(Verdict::LeaveAlone)));
    let entry = AuditEntry {
        kind: AuditKind::Orphan,
        gtrid: Some(foreign.gtrid),
        bqual: Some(foreign.bqual),
        end: Some(RolledBack),
        ..script.entry(None)
    };
    script.audit(entry);
    assert_eq!(asked(&mut script), Some(Response::Verdict(Verdict::LeaveAlone)), "not durable");
    script.flushed();
    for _ in 0..2 {
        assert_eq!(asked(&mut script), Some(Response::Verdict(Verdict::Rollback)));
        script.compact(100).flushed().restart();
        script.flushed();
    }
    assert_eq!(script.coordinator.orphan_decision(&foreign), Some(Decision::Rollback));
}

#[test]
fn a_refused_act_is_an_entry_and_no_more() {
    let mut script = in_state(State::Committing);
    let before = script.version();
    let refused = AuditEntry { result: AuditResult::Refused, ..script.entry(Some(Act::Rollback)) };
    script.audit(refused);
    script.flushed();
    assert_eq!((script.version(), script.at()), (before, Some(State::Committing)));
    assert_eq!(script.coordinator.audit_durable(), 1);
}
