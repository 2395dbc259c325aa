//! One schedule: all nodes, the queue of what will happen, and the loop.

use super::client::ClientNode;
use super::coordinator::{CoordinatorNode, CoordinatorStep};
use super::coverage::Coverage;
use super::network::{Network, Parcel};
use super::participant::{ParticipantNode, ParticipantStep};
use super::queue::Queue;
use super::random::Random;
use super::script::{Points, Script};
use super::store::StoreNode;
use super::swarm::Swarm;
use super::trace::Trace;
use crate::invariants::{Fact, Ledger, Rest, Violation};
use unanimous_core::coordinator::State;
use unanimous_core::{BranchId, Gtrid, Millis};

/// Steps after which a schedule counts as running in circles.
const STEPS_MAX: u64 = 200_000;
/// Steps after which faults stop, so that no seed costs a thousand times the others.
const SAFETY_STEPS_MAX: u64 = 2_000;

/// Something that will happen at a time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// A message arrives.
    Arrive(Parcel),
    /// At the coordinator, unless its process has died since.
    Coordinator { life: u32, step: CoordinatorStep },
    /// At a participant, unless its process has died since.
    Participant { who: usize, life: u32, step: ParticipantStep },
    /// The sync of a store's records returns, unless the store has died since.
    Store { at: usize, life: u32, items: usize },
    /// A client has waited long enough, unless something came.
    Client { who: usize, wake: u64 },
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Coordinator,
    Participant(usize),
    Store(usize),
    Client(usize),
}

/// What happened in one schedule.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// Decides everything.
    pub seed: u64,
    /// Things that happened.
    pub events: u64,
    /// Processes that died, power losses included.
    pub crashes: u64,
    /// Machines that lost power.
    pub power_losses: u64,
    /// Transactions begun.
    pub transactions: u64,
    /// Transactions with a durable decision to commit or a committed one-phase branch.
    pub committed: u64,
    /// Transactions about which a client was told rolled back.
    pub rolled_back: u64,
    /// Branches that their operators ended.
    pub decided_alone: u64,
    /// Times that older frames of the log were dropped.
    pub drops: u64,
    /// Participants in this schedule.
    pub participants: u64,
    /// Their processes.
    pub processes: u64,
    /// Equal for equal schedules.
    pub trace_hash: u64,
    /// Faults that happened, or would have if they were not masked.
    pub faults: u32,
    /// Faults that happened.
    pub faults_happened: u32,
    /// The step of the violation.
    pub step: u64,
    /// The invariant that was broken.
    pub violation: Option<Violation>,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
}

/// The simulated world.
pub(super) struct World {
    pub(super) swarm: Swarm,
    pub(super) random: Random,
    pub(super) now_ms: u64,
    pub(super) queue: Queue<Happening>,
    pub(super) network: Network,
    pub(super) coordinator: CoordinatorNode,
    /// Processes; several may belong to one participant.
    pub(super) participants: Vec<ParticipantNode>,
    pub(super) stores: Vec<StoreNode>,
    pub(super) clients: Vec<ClientNode>,
    pub(super) ledger: Ledger,
    pub(super) trace: Trace,
    pub(super) coverage: Coverage,
    pub(super) violation: Option<Violation>,
    pub(super) deaths: u32,
    pub(super) power_losses: u64,
    /// Times that the log's start has moved.
    pub(super) drops: u64,
    /// Faults have stopped.
    pub(super) healed: bool,
    /// The log's space is low from then on.
    pub(super) stays_low: bool,
    pub(super) script: Script,
    /// Faults so far, masked ones included.
    pub(super) faults: u32,
    pub(super) faults_happened: u32,
    pub(super) points: Points,
}

impl World {
    pub(super) fn new(seed: u64, script: &Script, text: bool) -> Self {
        let mut random = Random::new(seed);
        let mut swarm = Swarm::draw(&mut random, script.quiet.is_some());
        script.change(&mut swarm);
        if script.salt > 0 {
            random = Random::new(seed ^ script.salt.rotate_left(32));
        }
        let processes = swarm.participants + swarm.second_instances;
        let ledger = Ledger {
            decides_alone: swarm.decides_alone > 0 || swarm.policy.is_some(),
            faultless: swarm.faultless,
            ..Ledger::default()
        };
        let mut world = Self {
            network: Network::new(processes, swarm.clients),
            coordinator: CoordinatorNode::new(processes),
            participants: (0..processes)
                .map(|who| ParticipantNode::new(who % swarm.participants))
                .collect(),
            stores: (0..swarm.participants)
                .map(|at| StoreNode::new(&swarm, at + swarm.participants < processes))
                .collect(),
            clients: (0..swarm.clients).map(|_| ClientNode::new(&swarm)).collect(),
            queue: Queue::new(),
            now_ms: 0,
            random,
            ledger,
            trace: Trace::new(text),
            coverage: Coverage::default(),
            violation: None,
            deaths: 0,
            power_losses: 0,
            drops: 0,
            healed: false,
            stays_low: false,
            script: script.clone(),
            faults: 0,
            faults_happened: 0,
            points: Points::default(),
            swarm,
        };
        let drawn = world.swarm.clone();
        world.trace.line(|| format!("seed {seed}: {drawn:?}"));
        world
    }

    /// Runs the schedule to its end.
    pub(super) fn run(&mut self) {
        self.start_coordinator(0);
        (0..self.participants.len()).for_each(|who| self.start_participant(who, 0));
        (0..self.clients.len()).for_each(|who| self.start_client(who));
        let mut rest_by_ms = u64::MAX;
        while self.violation.is_none() {
            let next_at = self.queue.next_at();
            let over = next_at.is_none()
                || self.now_ms >= self.swarm.safety_ms
                || self.trace.step >= SAFETY_STEPS_MAX;
            if !self.healed && (over || self.clients_done()) {
                self.heal();
                rest_by_ms = self.now_ms + self.swarm.heal_bound_ms();
                continue;
            }
            let due = next_at.is_none_or(|at| at > rest_by_ms) || self.trace.step >= STEPS_MAX;
            if self.healed && (due || self.at_rest()) {
                self.judge_rest();
                break;
            }
            let Some((at, happening)) = self.queue.pop() else { break };
            self.now_ms = at;
            self.trace.now_ms = at;
            self.trace.step += 1;
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let node = self.node_of(&happening);
        if let Some(until) = self.frozen_until(node) {
            self.queue.push(until, happening);
            return;
        }
        if self.dies_here(node) {
            return self.kill(node);
        }
        match happening {
            Happening::Arrive(parcel) => self.arrive(parcel),
            Happening::Coordinator { life, step } => {
                if life == self.coordinator.life {
                    self.coordinator_step(step);
                }
            }
            Happening::Participant { who, life, step } => {
                if life == self.participants[who].life {
                    self.participant_step(who, step);
                }
            }
            Happening::Store { at, life, items } => self.store_synced(at, life, items),
            Happening::Client { who, wake } => self.client_wakes(who, wake),
        }
    }

    fn node_of(&self, happening: &Happening) -> Node {
        match happening {
            Happening::Arrive(parcel) => parcel.receiver(),
            Happening::Coordinator { .. } => Node::Coordinator,
            Happening::Participant { who, .. } => Node::Participant(*who),
            Happening::Store { at, .. } => Node::Store(*at),
            Happening::Client { who, .. } => Node::Client(*who),
        }
    }

    pub(super) fn now(&self) -> Millis {
        Millis(self.now_ms)
    }

    pub(super) fn after(&mut self, delay_ms: u64, happening: Happening) {
        self.queue.push(self.now_ms + delay_ms, happening);
    }

    /// Shows a fact to every invariant.
    pub(super) fn fact(&mut self, fact: &Fact<'_>) {
        self.trace.line(|| format!("    fact: {fact:?}"));
        if self.violation.is_none()
            && let Err(violation) = self.ledger.take(fact)
        {
            self.violate(violation.invariant, violation.detail);
        }
    }

    pub(super) fn violate(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            self.trace.line(|| format!("VIOLATION {invariant}: {detail}"));
            self.violation = Some(Violation { invariant, detail });
        }
    }

    fn clients_done(&self) -> bool {
        self.clients.iter().all(ClientNode::done)
    }

    /// Nothing is unfinished anywhere.
    fn at_rest(&self) -> bool {
        let Some(core) = &self.coordinator.core else { return false };
        self.clients_done()
            && self.coordinator.log_idle()
            && core.started()
            && core
                .transactions(None)
                .all(|(_, transaction)| transaction.state() == State::Heuristic)
            && self.participants_at_rest()
            && self.stores.iter().all(StoreNode::at_rest)
    }

    fn participants_at_rest(&self) -> bool {
        let orphans = self.orphans();
        self.participants.iter().all(|participant| participant.at_rest(&orphans))
    }

    /// Branches of which a process may know for ever: those of a log that is gone, which are left
    /// alone (protocol.md section 1, rule 4) until their operators end them by hand, and those that
    /// were disowned by their own participant.
    fn orphans(&self) -> Vec<BranchId> {
        let all = self.ledger.transactions.iter();
        all.flat_map(|transaction| {
            let gtrid = transaction.gtrid;
            let left = transaction.branches.iter();
            left.filter(|branch| transaction.orphaned || branch.lied)
                .map(move |branch| BranchId { gtrid, bqual: branch.bqual })
        })
        .collect()
    }

    /// What is left of nothing: see R3.
    fn leaked(&self) -> Vec<String> {
        let timers = self.participants.iter().filter_map(ParticipantNode::idle_timer);
        let unanswered = self.coordinator.unanswered();
        let requests = (unanswered > 0).then(|| format!("{unanswered} requests wait"));
        timers.chain(requests).collect()
    }

    fn judge_rest(&mut self) {
        let rest = Rest {
            unfinished: self.unfinished(),
            prepared: self
                .stores
                .iter()
                .flat_map(|p| p.fold_disk(&self.swarm).prepared().collect::<Vec<BranchId>>())
                .collect(),
            heuristic: self.heuristic(),
            leaked: self.leaked(),
            sum: 0,
            sum_at_start: 0,
            participants: self
                .stores
                .iter()
                .map(|p| (p.fold_disk(&self.swarm).sum(), p.sum_at_start))
                .collect(),
        };
        let sum = rest.participants.iter().map(|(now, _)| now).sum();
        let sum_at_start = rest.participants.iter().map(|(_, start)| start).sum();
        if let Err(violation) = self.ledger.rest(&Rest { sum, sum_at_start, ..rest }) {
            self.violate(violation.invariant, violation.detail);
        }
    }

    fn heuristic(&self) -> Vec<Gtrid> {
        let listed = self.coordinator.core.iter().flat_map(|core| core.transactions(None));
        listed.map(|(gtrid, _)| *gtrid).collect()
    }

    fn unfinished(&self) -> Vec<String> {
        let (mut unfinished, orphans) = (Vec::new(), self.orphans());
        match &self.coordinator.core {
            None => unfinished.push("the coordinator is down".to_owned()),
            Some(_) if self.coordinator.compaction.is_some() => {
                unfinished.push(format!("{:?} is not over", self.coordinator.compaction));
            }
            Some(core) => unfinished.extend(
                core.transactions(None)
                    .filter(|(_, transaction)| transaction.state() != State::Heuristic)
                    .map(|(gtrid, transaction)| format!("{gtrid} is {:?}", transaction.state())),
            ),
        }
        for participant in &self.participants {
            let store = &self.stores[participant.store];
            unfinished.extend(participant.unfinished(store, &orphans));
        }
        for (who, client) in self.clients.iter().enumerate() {
            if !client.done() {
                unfinished.push(format!("client {who} is not done: {client:?}"));
            }
        }
        unfinished
    }

    /// What the schedule came to.
    pub(super) fn finish(self, seed: u64) -> (Schedule, Coverage) {
        let told_rolled_back = |transaction: &&crate::invariants::Transaction| {
            transaction.answered.contains(&unanimous_core::Outcome::RolledBack)
        };
        let transactions = &self.ledger.transactions;
        let alone = transactions.iter().flat_map(|t| &t.branches).filter(|branch| branch.alone);
        let (step, events) = (self.trace.step, self.trace.step);
        let mut schedule = Schedule {
            seed,
            events,
            crashes: u64::from(self.deaths),
            power_losses: self.power_losses,
            transactions: transactions.len() as u64,
            committed: transactions.iter().filter(|t| t.committed()).count() as u64,
            rolled_back: transactions.iter().filter(told_rolled_back).count() as u64,
            decided_alone: alone.count() as u64,
            drops: self.drops,
            faults: self.faults,
            faults_happened: self.faults_happened,
            participants: self.stores.len() as u64,
            processes: self.participants.len() as u64,
            step,
            violation: self.violation,
            ..Schedule::default()
        };
        (schedule.trace_hash, schedule.trace) = self.trace.finish();
        (schedule, self.coverage)
    }
}
