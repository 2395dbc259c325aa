//! Which events met which states: the pairs of protocol.md's tables that a run has reached.

use serde::Serialize;
use std::collections::BTreeMap;
use unanimous_core::coordinator::State;
use unanimous_core::message::{Answer, Done, Request, Vote};
use unanimous_core::participant::{self, Order};
use unanimous_core::{Act, BranchResult, Decision, Event};

const COORDINATOR_EVENTS: [&str; 25] = [
    "enlist",
    "commit",
    "rollback",
    "resolve",
    "inquire",
    "voted_commit",
    "voted_read_only",
    "voted_rollback",
    "did_done",
    "did_rolled_back",
    "did_not_prepared",
    "did_heuristic",
    "did_retry",
    "did_forgotten",
    "flushed",
    "ticked",
    "attached",
    "compacted",
    "space_changed",
    "retried",
    "force_rollback",
    "force_commit",
    "assert_branch",
    "abandon_branch",
    "mark_resolved",
];
const COORDINATOR_STATES: [&str; 11] = [
    "none",
    "active",
    "marked_rollback",
    "preparing",
    "one_phase",
    "deciding",
    "committing",
    "rolling_back",
    "heuristic",
    "last_resource_in_doubt",
    "prepared",
];
const PARTICIPANT_EVENTS: [&str; 11] = [
    "joined",
    "left",
    "prepare",
    "commit",
    "commit_one_phase",
    "rollback",
    "forget",
    "answer_commit",
    "answer_rollback",
    "answer_wait",
    "answer_leave_alone",
];
const PARTICIPANT_STATES: [&str; 8] = [
    "none",
    "active",
    "preparing",
    "prepared",
    "committing",
    "rolling_back",
    "heuristic",
    "ending_alone",
];

/// Pairs that cannot be, or cannot be yet.
struct Rule {
    states: &'static [&'static str],
    events: &'static [&'static str],
    reason: &'static str,
}

const COORDINATOR_RULES: &[Rule] = &[
    Rule {
        states: &["last_resource_in_doubt"],
        events: &COORDINATOR_EVENTS,
        reason: "not built yet: a last resource (protocol.md section 5)",
    },
    Rule {
        states: &["prepared"],
        events: &COORDINATOR_EVENTS,
        reason: "not built yet: a subordinate coordinator (protocol.md section 4)",
    },
    Rule {
        states: &COORDINATOR_STATES,
        events: &["lease_lost"],
        reason: "not built yet: transactions under a lease of the client (section 8)",
    },
    Rule {
        states: &COORDINATOR_STATES,
        events: &["fenced"],
        reason: "not built yet: a replicated log (section 10)",
    },
    Rule {
        states: &COORDINATOR_STATES,
        events: &["last_resource_answered"],
        reason: "not built yet: a last resource (section 5)",
    },
];

const PARTICIPANT_RULES: &[Rule] = &[Rule {
    states: &["committing"],
    events: &["rollback"],
    reason: "nobody is told both: a decision is not reversed, and a commit in one phase leaves \
             nothing to be rolled back from (AC2)",
}];

/// A pair that a run cannot reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Impossible {
    /// Whose: `coordinator` or `participant`.
    pub side: &'static str,
    /// The state.
    pub state: &'static str,
    /// The event.
    pub event: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// A pair of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pair {
    /// Whose: `coordinator` or `participant`.
    pub side: &'static str,
    /// The state.
    pub state: &'static str,
    /// The event.
    pub event: &'static str,
}

fn impossible() -> Vec<Impossible> {
    let sides = [("coordinator", COORDINATOR_RULES), ("participant", PARTICIPANT_RULES)];
    let rules = sides.iter().flat_map(|(side, rules)| rules.iter().map(move |rule| (*side, rule)));
    let mut all: Vec<Impossible> = rules
        .flat_map(|(side, Rule { states, events, reason })| {
            states.iter().flat_map(move |state| {
                events.iter().map(move |event| Impossible { side, state, event, reason })
            })
        })
        .collect();
    all.sort();
    all.dedup_by_key(|pair| (pair.side, pair.state, pair.event));
    all
}

/// Counts of (state, event) pairs, of the coordinator and of participants.
#[derive(Clone, Debug)]
pub struct Coverage {
    coordinator: [[u64; COORDINATOR_EVENTS.len()]; COORDINATOR_STATES.len()],
    participant: [[u64; PARTICIPANT_EVENTS.len()]; PARTICIPANT_STATES.len()],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            coordinator: [[0; COORDINATOR_EVENTS.len()]; COORDINATOR_STATES.len()],
            participant: [[0; PARTICIPANT_EVENTS.len()]; PARTICIPANT_STATES.len()],
        }
    }
}

/// A coverage as `{"state": {"event": count}}`.
type Table = BTreeMap<&'static str, BTreeMap<&'static str, u64>>;

/// What a run has reached, for people and tools.
#[derive(Clone, Debug, Serialize)]
pub struct CoverageTable {
    coordinator: Table,
    participant: Table,
    /// Neither reached nor listed as impossible.
    pub unreached: Vec<Pair>,
    /// Listed as impossible.
    pub impossible: Vec<Impossible>,
    /// Listed as impossible, and reached all the same.
    pub contradicted: Vec<Impossible>,
}

impl Coverage {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (row, other) in self.coordinator.iter_mut().zip(&other.coordinator) {
            row.iter_mut().zip(other).for_each(|(count, other)| *count += other);
        }
        for (row, other) in self.participant.iter_mut().zip(&other.participant) {
            row.iter_mut().zip(other).for_each(|(count, other)| *count += other);
        }
    }

    /// The counts by name; zeros are there to be seen.
    #[must_use]
    pub fn table(&self) -> CoverageTable {
        fn table<const E: usize>(
            states: &[&'static str],
            events: &[&'static str; E],
            counts: &[[u64; E]],
        ) -> Table {
            let row = |counts: &[u64; E]| events.iter().copied().zip(*counts).collect();
            states.iter().copied().zip(counts.iter().map(row)).collect()
        }
        let coordinator = table(&COORDINATOR_STATES, &COORDINATOR_EVENTS, &self.coordinator);
        let participant = table(&PARTICIPANT_STATES, &PARTICIPANT_EVENTS, &self.participant);
        let impossible = impossible();
        let pairs = [("coordinator", &coordinator), ("participant", &participant)]
            .into_iter()
            .flat_map(|(side, table)| table.iter().map(move |(state, row)| (side, *state, row)))
            .flat_map(|(side, state, row)| {
                row.iter().map(move |(event, count)| (Pair { side, state, event }, *count))
            });
        let listed = |pair: &Pair| {
            impossible
                .iter()
                .find(|listed| {
                    (listed.side, listed.state, listed.event) == (pair.side, pair.state, pair.event)
                })
                .copied()
        };
        let (mut unreached, mut contradicted) = (Vec::new(), Vec::new());
        for (pair, count) in pairs {
            match (listed(&pair), count) {
                (None, 0) => unreached.push(pair),
                (Some(listed), 1..) => contradicted.push(listed),
                (None, _) | (Some(_), 0) => {}
            }
        }
        CoverageTable { coordinator, participant, unreached, impossible, contradicted }
    }

    pub(super) fn coordinator(&mut self, state: Option<State>, event: &Event) {
        if let Some(column) = coordinator_event(event) {
            self.coordinator[coordinator_state(state)][column] += 1;
        }
    }

    pub(super) fn participant(
        &mut self,
        state: Option<participant::State>,
        event: &participant::Event,
    ) {
        if let Some(column) = participant_event(event) {
            self.participant[participant_state(state)][column] += 1;
        }
    }
}

fn coordinator_event(event: &Event) -> Option<usize> {
    Some(match event {
        Event::Requested { request, .. } => match request {
            Request::Begin { .. } => return None,
            Request::Enlist(_) => 0,
            Request::Commit { .. } => 1,
            Request::Rollback { .. } => 2,
            Request::Resolve { .. } => 3,
            Request::Inquire { .. } => 4,
            Request::Attach { .. } => 16,
            Request::Compact { .. } => 17,
            Request::Storage { .. } => 18,
            Request::Retry { .. } => 19,
            Request::Operate { act: Act::Rollback, .. } => 20,
            Request::Operate { act: Act::Commit, .. } => 21,
            Request::Operate { act: Act::Assert { .. }, .. } => 22,
            Request::Operate { act: Act::Abandon { .. }, .. } => 23,
            Request::Operate { act: Act::Resolve, .. } => 24,
            Request::Audit { .. } => return None,
        },
        Event::Answered { answer, .. } => match answer {
            Answer::Voted(Vote::Commit { .. }) => 5,
            Answer::Voted(Vote::ReadOnly) => 6,
            Answer::Voted(Vote::Rollback { .. }) => 7,
            Answer::Acknowledged { done, .. } => match done {
                Done::Done => 8,
                Done::RolledBack => 9,
                Done::NotPrepared => 10,
                Done::Heuristic(_) => 11,
                Done::Retry => 12,
                Done::Forgotten => 13,
            },
        },
        Event::Flushed { .. } => 14,
        Event::Ticked => 15,
    })
}

fn coordinator_state(state: Option<State>) -> usize {
    match state {
        None => 0,
        Some(State::Active) => 1,
        Some(State::MarkedRollback) => 2,
        Some(State::Preparing) => 3,
        Some(State::OnePhase) => 4,
        Some(State::Deciding) => 5,
        Some(State::Committing) => 6,
        Some(State::RollingBack) => 7,
        Some(State::Heuristic) => 8,
    }
}

fn participant_event(event: &participant::Event) -> Option<usize> {
    use unanimous_core::message::Verdict;
    Some(match event {
        participant::Event::Joined { .. } => 0,
        participant::Event::Left { .. } => 1,
        participant::Event::Told { order, .. } => match order {
            Order::Prepare => 2,
            Order::Decide { decision: Decision::Commit, .. } => 3,
            Order::CommitOnePhase => 4,
            Order::Decide { decision: Decision::Rollback, .. } => 5,
            Order::Forget => 6,
            Order::Answer(Verdict::Commit { .. }) => 7,
            Order::Answer(Verdict::Rollback) => 8,
            Order::Answer(Verdict::Wait) => 9,
            Order::Answer(Verdict::LeaveAlone) => 10,
        },
        participant::Event::Recovered { .. }
        | participant::Event::FoundAlone { .. }
        | participant::Event::Returned { .. }
        | participant::Event::Connected
        | participant::Event::Ticked => return None,
    })
}

fn participant_state(state: Option<participant::State>) -> usize {
    use participant::State as S;
    match state {
        None => 0,
        Some(S::Active) => 1,
        Some(S::Preparing) => 2,
        Some(S::Prepared) => 3,
        Some(S::Committing) => 4,
        Some(S::RollingBack) => 5,
        Some(S::Heuristic(
            BranchResult::Committed
            | BranchResult::RolledBack
            | BranchResult::Mixed
            | BranchResult::Hazard,
        )) => 6,
        Some(S::EndingAlone) => 7,
    }
}
