//! A participant's process: the core and its runner (sessions, joins, resource calls).

use super::bank::{BankRecord, Moves};
use super::network::{Down, Parcel, Up};
use super::store::StoreNode;
use super::swarm::Delivery;
use super::world::{Happening, Node, World};
use crate::invariants::Fact;
use unanimous_core::id::resource_manager;
use unanimous_core::message::{EnlistRefusal, Enlistment, Verdict, Vote};
use unanimous_core::museum::{Bug, on};
use unanimous_core::participant::{Action, Event, Order, Participant, Returned, State};
use unanimous_core::{
    Answer, Bqual, BranchId, BranchResult, Gtrid, InstanceId, Owner, ParticipantName, ResourceId,
};

/// How often an enlistment is sent before the work is given up.
const ENLIST_TRIES_MAX: u32 = 6;

/// What happens at a participant by itself.
#[derive(Clone, Debug, Hash)]
pub(super) enum ParticipantStep {
    /// The process starts and reads its log.
    Start,
    /// What was read is synced: the life begins.
    Begin,
    /// It opens a session.
    Connect,
    /// It looks whether the session was welcomed.
    CheckSession { session: u32 },
    /// It notices that a session is over.
    SessionLost { session: u32 },
    /// The core's deadline.
    Tick,
    /// It lists what is prepared again: a write of its life before has come late.
    Scan,
    /// A resource call that needed no record returns.
    Return { branch: BranchId, result: Returned },
    /// A piece of work is over.
    WorkEnds { join: u32, failure: Option<&'static str> },
    /// An enlistment is sent again, or given up.
    EnlistAgain { join: u32 },
    /// The operator ends a prepared branch.
    EndAlone { branch: BranchId, result: BranchResult },
}

/// A piece of work on its way into a branch.
#[derive(Clone, Debug)]
struct Join {
    id: u32,
    client: usize,
    number: u32,
    branch: BranchId,
    moves: Moves,
    /// The branch was made for it.
    anew: bool,
    tries: u32,
    working: bool,
}

/// A participant's process.
pub(super) struct ParticipantNode {
    pub(super) name: ParticipantName,
    pub(super) resource: ResourceId,
    pub(super) life: u32,
    pub(super) frozen_until_ms: u64,
    /// The number of its resource's store.
    pub(super) store: usize,
    /// There while the process lives and has read its log.
    core: Option<Participant>,
    session: Option<u32>,
    /// The coordinator that has welcomed the session.
    owner: Option<Owner>,
    joins: Vec<Join>,
    next_join: u32,
    /// Branches of this life, by transaction.
    pub(super) branches: Vec<BranchId>,
    next_branch: u32,
    tick_at_ms: Option<u64>,
}

impl ParticipantNode {
    pub(super) fn new(store: usize) -> Self {
        let name = ["bank-a", "bank-b", "bank-c"][store];
        Self {
            name: ParticipantName::new(name).expect("a name"),
            resource: ResourceId::new("accounts").expect("a resource id"),
            store,
            life: 0,
            frozen_until_ms: 0,
            core: None,
            session: None,
            owner: None,
            joins: Vec::new(),
            next_join: 0,
            branches: Vec::new(),
            next_branch: 0,
            tick_at_ms: None,
        }
    }

    /// The branch is one of its resource.
    pub(super) fn owns(&self, branch: &BranchId) -> bool {
        branch.bqual.resource_manager() == resource_manager(&self.name, &self.resource)
    }

    /// `orphans`: branches of which the process may know for ever.
    pub(super) fn at_rest(&self, orphans: &[BranchId]) -> bool {
        self.core.as_ref().is_some_and(|core| {
            let left = orphans.iter().filter(|id| core.state(id).is_some()).count();
            core.branches_len() == left
        })
    }

    /// A timer runs, and there is no branch.
    pub(super) fn idle_timer(&self) -> Option<String> {
        let core = self.core.as_ref()?;
        (core.branches_len() == 0 && core.deadline().is_some())
            .then(|| format!("{} has a timer and no branch", self.name))
    }

    /// One life of this process.
    fn instance(&self, who: usize) -> InstanceId {
        let [who, life] = [who, self.life as usize].map(|n| u8::try_from(n % 256).unwrap_or(0));
        let mut bytes = [life; 16];
        bytes[0] = who;
        InstanceId(bytes)
    }

    pub(super) fn unfinished(&self, store: &StoreNode, orphans: &[BranchId]) -> Vec<String> {
        let Some(core) = &self.core else { return vec![format!("{} is down", self.name)] };
        if self.at_rest(orphans) {
            return Vec::new();
        }
        let mut unfinished: Vec<String> = self
            .branches
            .iter()
            .copied()
            .chain(store.bank.recover())
            .filter_map(|id| core.state(&id).map(|state| format!("branch {id} is {state:?}")))
            .collect();
        unfinished.dedup();
        let known = unfinished.len();
        if core.branches_len() > known {
            unfinished.push(format!(
                "{} more branches at {}",
                core.branches_len() - known,
                self.name
            ));
        }
        unfinished
    }
}

impl World {
    pub(super) fn start_participant(&mut self, who: usize, delay_ms: u64) {
        self.participant_later(who, delay_ms, ParticipantStep::Start);
    }

    pub(super) fn participant_later(&mut self, who: usize, delay_ms: u64, step: ParticipantStep) {
        let life = self.participants[who].life;
        self.after(delay_ms, Happening::Participant { who, life, step });
    }

    /// The process is gone.
    pub(super) fn participant_dies(&mut self, who: usize) {
        let node = &mut self.participants[who];
        node.life += 1;
        node.core = None;
        node.frozen_until_ms = 0;
        node.session = None;
        node.owner = None;
        node.joins.clear();
        node.branches.clear();
        node.tick_at_ms = None;
    }

    pub(super) fn participant_step(&mut self, who: usize, step: ParticipantStep) {
        self.trace.note(&step);
        self.trace.line(|| format!("{who}: {step:?}"));
        match step {
            ParticipantStep::Start => self.read_bank(who),
            ParticipantStep::Begin => self.begin_participant(who),
            ParticipantStep::Connect => self.connect(who),
            ParticipantStep::CheckSession { session } => {
                let node = &self.participants[who];
                if node.session == Some(session) && node.owner.is_none() {
                    self.reconnect(who);
                }
            }
            ParticipantStep::SessionLost { session } => {
                if self.participants[who].session == Some(session) {
                    self.reconnect(who);
                }
            }
            ParticipantStep::Tick => {
                if self.participants[who].tick_at_ms.is_some_and(|at| at <= self.now_ms) {
                    self.participants[who].tick_at_ms = None;
                    self.participate(who, Event::Ticked);
                }
            }
            ParticipantStep::Scan => self.scan(who),
            ParticipantStep::Return { branch, result } => {
                self.participate(who, Event::Returned { branch, result });
            }
            ParticipantStep::WorkEnds { join, failure } => self.work_ends(who, join, failure),
            ParticipantStep::EnlistAgain { join } => self.enlist_again(who, join),
            ParticipantStep::EndAlone { branch, result } => self.end_alone(who, branch, result),
        }
    }

    fn read_bank(&mut self, who: usize) {
        let delay_ms = self.random.between(0, 4 * self.swarm.sync_ms);
        self.participant_later(who, delay_ms, ParticipantStep::Begin);
        if self.fault(self.rate_of_death(4 * self.swarm.kill_participant)) {
            self.kill_participant(who);
        }
    }

    /// Asks about what is prepared.
    fn begin_participant(&mut self, who: usize) {
        self.open_store(self.participants[who].store);
        let seed = self.random.below(u64::MAX);
        let mut listed: Vec<BranchId> = self.bank(who).recover().collect();
        let node = &mut self.participants[who];
        // Numbers of branches start anywhere in each life: those of the life before may still be
        // enlisted.
        node.next_branch = u32::try_from(who).unwrap_or(0) << 24 | node.life << 16;
        node.core =
            Some(Participant::new(self.swarm.times.clone(), seed).with_policy(self.swarm.policy));
        if on(Bug::RestartForgetsPrepared) {
            for branch in listed.drain(..) {
                self.write(who, BankRecord::RolledBack { branch }, None);
            }
        }
        let life = self.participants[who].life;
        for branch in listed {
            let found = self.bank(who).found(branch);
            self.participate(who, found);
        }
        if self.participants[who].life == life {
            let delay_ms = self.random.between(0, 100);
            self.participant_later(who, delay_ms, ParticipantStep::Connect);
        }
    }

    fn scan(&mut self, who: usize) {
        let listed: Vec<BranchId> = self.bank(who).recover().collect();
        for branch in listed {
            let core = self.participants[who].core.as_ref();
            if core.is_some_and(|core| core.state(&branch).is_none()) {
                let found = self.bank(who).found(branch);
                self.participate(who, found);
            }
        }
    }

    fn connect(&mut self, who: usize) {
        let session = self.network.new_session();
        let node = &mut self.participants[who];
        let Some(core) = &node.core else { return };
        let seen = core.seen().collect();
        node.session = Some(session);
        node.owner = None;
        let instance = node.instance(who);
        self.send_up(who, Up::Hello { instance, seen });
        self.participant_later(who, 300, ParticipantStep::CheckSession { session });
    }

    fn reconnect(&mut self, who: usize) {
        let node = &mut self.participants[who];
        node.session = None;
        node.owner = None;
        let delay_ms = self.random.between(5, 400);
        self.participant_later(who, delay_ms, ParticipantStep::Connect);
    }

    /// The coordinator's process is gone: the session's end is noticed sooner or later.
    pub(super) fn participant_notices_end(&mut self, who: usize) {
        if let Some(session) = self.participants[who].session {
            let delay_ms = self.random.between(0, 300);
            self.participant_later(who, delay_ms, ParticipantStep::SessionLost { session });
        }
    }

    pub(super) fn send_up(&mut self, who: usize, up: Up) {
        if let Some(session) = self.participants[who].session {
            self.send(Parcel::Up { who, session, up });
        }
    }

    /// A message of the coordinator arrives.
    pub(super) fn participant_hears(
        &mut self,
        who: usize,
        session: u32,
        sender: Owner,
        down: Down,
    ) {
        let node = &mut self.participants[who];
        let stream = self.swarm.delivery == Delivery::Stream;
        if node.core.is_none() || (stream && node.session != Some(session)) {
            return;
        }
        let (branch, order) = match down {
            Down::Welcome => {
                if node.session == Some(session) && node.owner.is_none() {
                    node.owner = Some(sender);
                    self.participate(who, Event::Connected);
                }
                return;
            }
            Down::Ended(mark) => return self.bank(who).ended(mark.0),
            Down::Enlisted { branch, joined } => return self.enlisted(who, branch, joined),
            Down::Verdict { branch, verdict } => {
                if verdict == Verdict::LeaveAlone {
                    self.maybe_end_by_hand(who, branch);
                }
                (branch, Order::Answer(verdict))
            }
            Down::Message { branch, message } => (branch, order(message)),
        };
        let node = &self.participants[who];
        if node.core.as_ref().is_some_and(|core| core.state(&branch).is_none()) {
            // What the mark has passed is durably over: an order about it is an old one, and the
            // bank has no proof left to answer it by.
            if self.bank(who).passed(&branch.gtrid) {
                return;
            }
            // An order that has overtaken the answer to the enlistment: no work may follow it.
            self.refuse_waiting(who, branch, "the transaction is ending");
        }
        self.participate(who, Event::Told { sender, branch, order });
    }

    fn refuse_waiting(&mut self, who: usize, branch: BranchId, why: &'static str) {
        let waiting = |join: &&Join| join.branch == branch && !join.working;
        let ids: Vec<u32> =
            self.participants[who].joins.iter().filter(waiting).map(|join| join.id).collect();
        for id in ids {
            self.refuse_work(who, id, why);
        }
    }

    /// A client's work arrives: its branch enlists first.
    pub(super) fn participant_works(
        &mut self,
        who: usize,
        client: usize,
        number: u32,
        gtrid: Gtrid,
        moves: Moves,
    ) {
        let node = &mut self.participants[who];
        if node.core.is_none() {
            return;
        }
        let known = node.branches.iter().find(|branch| branch.gtrid == gtrid).copied();
        let branch = known.unwrap_or_else(|| {
            node.next_branch += 1;
            let manager = resource_manager(&node.name, &node.resource);
            let bqual = Bqual::new(manager, node.next_branch, gtrid.owner());
            node.branches.push(BranchId { gtrid, bqual });
            BranchId { gtrid, bqual }
        });
        let id = node.next_join;
        node.next_join += 1;
        let anew = known.is_none();
        let join = Join { id, client, number, branch, moves, anew, tries: 0, working: false };
        node.joins.push(join);
        self.enlist_again(who, id);
    }

    fn enlist_again(&mut self, who: usize, id: u32) {
        let node = &mut self.participants[who];
        let Some(join) = node.joins.iter_mut().find(|join| join.id == id && !join.working) else {
            return;
        };
        join.tries += 1;
        if join.tries > ENLIST_TRIES_MAX {
            return self.refuse_work(who, id, "the coordinator does not answer");
        }
        let branch = join.branch;
        let instance = node.instance(who);
        let enlistment = Enlistment {
            branch,
            participant: node.name.clone(),
            instance,
            resource: node.resource.clone(),
            inquires: true,
            vote: None,
        };
        if node.owner.is_some() {
            self.send_up(who, Up::Enlist(enlistment));
        }
        self.participant_later(who, 120, ParticipantStep::EnlistAgain { join: id });
    }

    fn enlisted(&mut self, who: usize, branch: BranchId, joined: Result<u64, EnlistRefusal>) {
        let Ok(remaining_ms) = joined else {
            return self.refuse_waiting(who, branch, "the enlistment was refused");
        };
        let waiting: Vec<(u32, bool)> = self.participants[who]
            .joins
            .iter()
            .filter(|join| join.branch == branch && !join.working)
            .map(|join| (join.id, join.anew))
            .collect();
        for (id, anew) in waiting {
            self.join(who, id, anew, branch, remaining_ms);
        }
    }

    fn join(&mut self, who: usize, id: u32, anew: bool, branch: BranchId, remaining_ms: u64) {
        let state = |world: &Self| {
            world.participants[who].core.as_ref().and_then(|core| core.state(&branch))
        };
        // A branch that had joined and is gone was undone: its earlier work is lost, so no more may
        // come.
        let undone = !anew && state(self).is_none();
        if undone && !on(Bug::UndoneBranchJoins) {
            return self.refuse_work(who, id, "the branch was undone");
        }
        self.participate(who, Event::Joined { branch, remaining_ms });
        let node = &mut self.participants[who];
        let active = node.core.as_ref().and_then(|core| core.state(&branch)) == Some(State::Active);
        let Some(join) = node.joins.iter_mut().find(|join| join.id == id) else { return };
        join.working = true;
        let moves = join.moves.clone();
        let mut failure = None;
        if !active {
            failure = Some("the branch is not active");
        } else if let Err(busy) = self.bank(who).work(branch, &moves) {
            failure = Some(busy);
        } else if !moves.is_empty() {
            self.fact(&Fact::Worked(branch, moves.iter().map(|(_, by)| by).sum()));
        }
        if failure.is_none() && self.fault(self.swarm.fail_work) {
            failure = Some("the work failed");
        }
        let delay_ms = self.random.between(0, 3);
        self.participant_later(who, delay_ms, ParticipantStep::WorkEnds { join: id, failure });
    }

    fn work_ends(&mut self, who: usize, id: u32, failure: Option<&'static str>) {
        let node = &mut self.participants[who];
        let Some(at) = node.joins.iter().position(|join| join.id == id) else { return };
        let join = node.joins.swap_remove(at);
        let branch = join.branch;
        let worked = self.bank(who).worked(&branch);
        let left = Event::Left { branch, failure: failure.map(str::to_owned) };
        self.participate(who, left);
        if failure.is_none() && worked && self.random.chance(self.swarm.early_vote) {
            // An early vote: the participant asks itself to prepare, in the name of the life that
            // began the transaction. The one that has welcomed it may not be durable yet.
            let sender = branch.gtrid.owner();
            self.participate(who, Event::Told { sender, branch, order: Order::Prepare });
        }
        let worked = failure.map_or(Ok(u32::from(join.anew)), Err);
        self.send(Parcel::Worked { client: join.client, number: join.number, worked });
    }

    fn refuse_work(&mut self, who: usize, id: u32, why: &'static str) {
        let node = &mut self.participants[who];
        let Some(at) = node.joins.iter().position(|join| join.id == id) else { return };
        let join = node.joins.swap_remove(at);
        self.send(Parcel::Worked { client: join.client, number: join.number, worked: Err(why) });
    }

    /// One event into the core, and what it wants done.
    pub(super) fn participate(&mut self, who: usize, event: Event) {
        let now = self.now();
        let Some(core) = &mut self.participants[who].core else { return };
        if let Some(id) = branch_of(&event) {
            self.coverage.participant(core.state(&id), &event);
        }
        core.handle(now, event);
        let rate = self.rate_of_death(self.swarm.kill_participant);
        let dies_after = self.fault(rate).then(|| self.random.below(3));
        let (mut done, mut dies) = (0, dies_after.is_some());
        while let Some(action) = self.participants[who].core.as_mut().and_then(Participant::poll) {
            if dies_after == Some(done) || self.dies_here(Node::Participant(who)) {
                dies = true;
                break;
            }
            done += 1;
            self.trace.note(&action);
            self.trace.line(|| format!("    participant {who}: {action:?}"));
            match action {
                Action::Call { branch, call } => self.call(who, branch, &call),
                Action::Send { branch, answer } => self.answer(who, branch, answer),
                Action::Inquire { branch } => self.send_up(who, Up::Inquire { branch }),
            }
        }
        if dies {
            return self.kill_participant(who);
        }
        let deadline = self.participants[who].core.as_ref().and_then(Participant::deadline);
        if let Some(deadline) = deadline {
            let at_ms = deadline.0.max(self.now_ms);
            if self.participants[who].tick_at_ms.is_none_or(|earlier| at_ms < earlier) {
                self.participants[who].tick_at_ms = Some(at_ms);
                self.participant_later(who, at_ms - self.now_ms, ParticipantStep::Tick);
            }
        }
        self.maybe_lie(who);
        self.maybe_freeze(Node::Participant(who));
    }

    fn answer(&mut self, who: usize, branch: BranchId, answer: Answer) {
        match &answer {
            Answer::Voted(vote) => {
                self.fact(&Fact::Voted(branch, vote));
                if matches!(vote, Vote::Commit { .. }) && self.fault(self.swarm.decides_alone) {
                    let result =
                        self.random.pick(&[BranchResult::Committed, BranchResult::RolledBack]);
                    let longest_ms = self.random.pick(&[10, 300]);
                    let delay_ms = self.random.between(0, longest_ms);
                    let step = ParticipantStep::EndAlone { branch, result };
                    self.participant_later(who, delay_ms, step);
                }
            }
            Answer::Acknowledged { done, .. } => self.fact(&Fact::Acknowledged(branch, *done)),
        }
        self.send_up(who, Up::Answer { branch, answer });
    }
}

pub(super) fn order(message: unanimous_core::Message) -> Order {
    use unanimous_core::Message;
    match message {
        Message::Prepare => Order::Prepare,
        Message::Decide { decision, frame, evidence } => {
            Order::Decide { decision, frame, evidence }
        }
        Message::CommitOnePhase => Order::CommitOnePhase,
        Message::Forget => Order::Forget,
    }
}

fn branch_of(event: &Event) -> Option<BranchId> {
    match event {
        Event::Joined { branch, .. }
        | Event::Left { branch, .. }
        | Event::Recovered { branch, .. }
        | Event::FoundAlone { branch, .. }
        | Event::Told { branch, .. }
        | Event::Returned { branch, .. } => Some(*branch),
        Event::Connected | Event::Ticked => None,
    }
}
