//! What can happen next, and what becomes of it.

use super::part::Part;
use super::world::{
    Call, Down, ENLISTS, INQUIRES, Letter, NOBODY, Node, OBSERVER, Up, World, participant_name,
    resource_id,
};
use crate::bank::{BankRecord, Step};
use crate::invariants::{Fact, Transaction};
use crate::participant::order;
use unanimous_core::message::{EnlistRefusal, Enlistment, Request, Verdict, Wait};
use unanimous_core::participant::{
    Action as ParticipantAction, Event as ParticipantEvent, Order, Participant, Returned, State,
};
use unanimous_core::{
    Action as CoordinatorAction, Answer, BranchId, BranchResult, Coordinator, Decision, Event,
    Labels, Message, Response, TransactionName,
};

/// Something that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client asks a participant for work; its branch enlists.
    Work(usize),
    /// The client calls the coordinator.
    Call(Call),
    /// A letter arrives: the one in this place.
    Deliver(usize),
    /// It arrives, and once more later.
    Repeat(usize),
    /// What was handed to the coordinator's log is durable.
    Flush,
    /// A participant's resource has done what it was called for, durably.
    Return(usize),
    /// The coordinator dies and starts again. So many of the records in flight survive: none after
    /// a power loss that takes the page cache, all after a kill, some after any of both.
    CoordinatorDies {
        /// How many.
        kept: usize,
    },
    /// A participant dies and starts again. The record under way survives, or not.
    ParticipantDies {
        /// Which.
        who: usize,
        /// It survives.
        kept: bool,
    },
    /// A participant opens a session.
    Connect(usize),
    /// The coordinator's next deadline comes.
    CoordinatorTick,
    /// A participant's next deadline comes.
    ParticipantTick(usize),
}

impl World {
    /// Everything that can happen, but faults, deadlines and what the client may still ask.
    pub(super) fn ordinary(&self) -> Vec<Action> {
        let mut actions: Vec<Action> = (0..self.letters.len())
            .filter(|at| *at == 0 || self.letters[*at] != self.letters[at - 1])
            .map(Action::Deliver)
            .collect();
        if !self.log.in_flight.is_empty() {
            actions.push(Action::Flush);
        }
        for (who, node) in self.nodes.iter().enumerate() {
            if !node.session {
                actions.push(Action::Connect(who));
            }
            if node.call.is_some() {
                actions.push(Action::Return(who));
            }
        }
        actions
    }

    /// Everything that can happen.
    pub(super) fn possible(&self) -> Vec<Action> {
        let mut actions = self.ordinary();
        self.client_actions(&mut actions);
        if self.budget.duplicates > 0 {
            let repeats = actions.iter().filter_map(|action| match action {
                Action::Deliver(at) => Some(Action::Repeat(*at)),
                _ => None,
            });
            let repeats: Vec<Action> = repeats.collect();
            actions.extend(repeats);
        }
        if self.budget.crashes > 0 {
            let kept = 0..=self.log.in_flight.len();
            actions.extend(kept.map(|kept| Action::CoordinatorDies { kept }));
            for (who, node) in self.nodes.iter().enumerate() {
                actions.push(Action::ParticipantDies { who, kept: false });
                if node.call.as_ref().is_some_and(|call| call.0.is_some()) {
                    actions.push(Action::ParticipantDies { who, kept: true });
                }
            }
        }
        if self.budget.ticks > 0 {
            if self.coordinator.as_ref().is_some_and(|core| core.deadline().is_some()) {
                actions.push(Action::CoordinatorTick);
            }
            let waits = |node: &Node| node.core.as_ref().is_some_and(|c| c.deadline().is_some());
            let waiting = self.nodes.iter().enumerate().filter(|(_, node)| waits(node));
            actions.extend(waiting.map(|(who, _)| Action::ParticipantTick(who)));
        }
        actions
    }

    fn client_actions(&self, actions: &mut Vec<Action>) {
        let client = &self.client;
        if client.calls.is_empty() {
            for (who, node) in self.nodes.iter().enumerate() {
                // Of two that are the same, the first is asked first.
                let turn =
                    who == 0 || client.asked[who - 1] || self.work[who] != self.work[who - 1];
                if node.session && !client.asked[who] && turn {
                    actions.push(Action::Work(who));
                }
            }
        }
        if self.coordinator.is_none() {
            return;
        }
        let known = |core: &Coordinator| core.transaction(&self.gtrid).is_some();
        match client.calls[..] {
            [] => {
                if client.asked.iter().all(|asked| *asked) && !client.refused {
                    actions.push(Action::Call(Call::Commit));
                }
                actions.push(Action::Call(Call::Rollback));
            }
            // Of what is not in the table it is told the same as an observer.
            [Call::Commit] if self.coordinator.as_deref().is_some_and(known) => {
                actions.push(Action::Call(Call::Rollback));
            }
            _ => {}
        }
    }

    /// Nothing is on its way, everything lives: only time, faults and the client could go on.
    pub(super) fn quiet(&self) -> bool {
        self.ordinary().is_empty()
    }

    /// The action for people.
    pub(super) fn tell(&self, action: &Action) -> String {
        match action {
            Action::Deliver(at) => format!("delivered: {}", self.letters[*at].tell()),
            Action::Repeat(at) => {
                format!("delivered, and again later: {}", self.letters[*at].tell())
            }
            Action::Return(who) => match self.nodes[*who].call.as_deref() {
                Some((Some(record), result)) => format!("durable at {who}: {record:?}, {result:?}"),
                Some((None, result)) => format!("returned at {who}: {result:?}"),
                None => String::new(),
            },
            Action::Flush => format!("durable: {:?}", self.log.in_flight),
            _ => format!("{action:?}"),
        }
    }

    /// What becomes of an action. The state that follows is not sealed.
    pub(super) fn happen(&mut self, action: Action) {
        // A client in a hurry disturbs itself.
        let hurries = self.client.worked < self.nodes.len();
        self.disturbed |= disturbs(&action) || (hurries && action == Action::Call(Call::Commit));
        match action {
            Action::Work(who) => self.ask_for_work(who),
            Action::Call(call) => self.call(call),
            Action::Deliver(at) => {
                let letter = self.letters.remove(at);
                self.deliver(&letter);
            }
            Action::Repeat(at) => {
                self.budget.duplicates -= 1;
                let letter = self.letters[at].clone();
                self.deliver(&letter);
            }
            Action::Flush => self.flush(),
            Action::Return(who) => self.returns(who),
            Action::CoordinatorDies { kept } => self.coordinator_dies(kept),
            Action::ParticipantDies { who, kept } => self.participant_dies(who, kept),
            Action::Connect(who) => self.connect(who),
            Action::CoordinatorTick => {
                self.budget.ticks -= 1;
                self.coordinator_tick();
            }
            Action::ParticipantTick(who) => {
                self.budget.ticks -= 1;
                self.participant_tick(who);
            }
        }
    }

    /// Begun transactions differ only in what comes after: no state before it is looked at.
    pub(super) fn begin(&mut self) {
        let (name, labels) = (TransactionName::empty(), Labels::default());
        // So short that the first deadline that can come is the time-out.
        let request = Request::Begin { name, labels, timeout_ms: 1 };
        self.coordinate(Event::Requested { by: NOBODY, request });
    }

    fn ask_for_work(&mut self, who: usize) {
        self.client.asked[who] = true;
        let node = &mut self.nodes[who];
        node.joining = true;
        let instance = node.instance(who);
        self.send_up(who, Up::Enlist { instance });
    }

    fn call(&mut self, call: Call) {
        self.client.calls.push(call);
        self.client.waiting.push(call.caller());
        let gtrid = self.gtrid;
        let expected_branches = u32::try_from(self.nodes.len()).ok();
        let request = match call {
            Call::Commit => {
                self.fact(&Fact::CommitAsked(gtrid, expected_branches));
                Request::Commit { gtrid, expected_branches, wait: Wait::Decided }
            }
            Call::Rollback => Request::Rollback { gtrid },
        };
        self.coordinate(Event::Requested { by: call.caller(), request });
    }

    /// A client that asks all the time what became of the transaction: whatever any client could be
    /// told at some moment is told, so no order of questions is left out.
    pub(super) fn observe(&mut self) {
        let Some(core) = &self.coordinator else { return };
        let (gtrid, expected_branches) = (self.gtrid, u32::try_from(self.nodes.len()).ok());
        let request = Request::Resolve { gtrid, expected_branches, wait: false };
        let mut asked = core.clone();
        let asked = asked.edit();
        asked.handle(self.now, Event::Requested { by: OBSERVER, request });
        while let Some(action) = asked.poll() {
            if let CoordinatorAction::Reply { response: Response::Ended(ending), .. } = action {
                let told = |known: &Transaction| known.answered.contains(&ending.outcome);
                if !self.ledger.transaction(&gtrid).is_some_and(told) {
                    self.fact(&Fact::Answered(gtrid, ending.outcome));
                }
            }
        }
    }

    fn send_up(&mut self, from: usize, up: Up) {
        if self.nodes[from].session {
            self.letters.push(Part::new(Letter::Up { from, up }));
        }
    }

    fn send_down(&mut self, to: usize, down: Down) {
        if self.nodes[to].session {
            self.letters.push(Part::new(Letter::Down { to, down }));
        }
    }

    fn deliver(&mut self, letter: &Letter) {
        match letter {
            Letter::Up { from, up } => self.coordinator_hears(*from, up),
            Letter::Down { to, down } => self.participant_hears(*to, down),
        }
    }

    fn coordinator_hears(&mut self, from: usize, up: &Up) {
        let branch = self.branch(from);
        let event = match up {
            Up::Enlist { instance } => {
                let enlistment = Enlistment {
                    branch,
                    participant: participant_name(from),
                    instance: *instance,
                    resource: resource_id(),
                    inquires: true,
                    vote: None,
                };
                let by = unanimous_core::CallerId(ENLISTS + from as u64);
                Event::Requested { by, request: Request::Enlist(enlistment) }
            }
            Up::Answer(answer) => Event::Answered {
                from: participant_name(from),
                resource: resource_id(),
                branch,
                answer: answer.clone(),
            },
            Up::Inquire => {
                let by = unanimous_core::CallerId(INQUIRES + from as u64);
                let request = Request::Inquire { from: participant_name(from), branch };
                Event::Requested { by, request }
            }
        };
        self.coordinate(event);
    }

    /// A session is opened: the coordinator drives what is pending, the participant asks about what
    /// is in doubt. One step, for the welcome is the first thing that a session brings.
    pub(super) fn connect(&mut self, who: usize) {
        let Some(core) = &self.nodes[who].core else { return };
        let seen = core.seen().collect();
        self.nodes[who].session = true;
        let mark = self.coordinator.as_ref().and_then(|core| core.ended_mark());
        let (participant, resources) = (participant_name(who), vec![resource_id()]);
        let request = Request::Attach { participant, resources, seen };
        self.coordinate(Event::Requested { by: NOBODY, request });
        if let Some(mark) = mark {
            self.fact(&Fact::ToldEnded(&mark));
            self.nodes[who].bank.edit().ended(mark);
        }
        self.participate(who, ParticipantEvent::Connected);
    }

    pub(super) fn coordinator_tick(&mut self) {
        let Some(at) = self.coordinator.as_ref().and_then(|core| core.deadline()) else { return };
        self.now = self.now.max(at);
        self.coordinate(Event::Ticked);
    }

    pub(super) fn participant_tick(&mut self, who: usize) {
        let node = &mut self.nodes[who];
        let Some(at) = node.core.as_ref().and_then(|core| core.deadline()) else { return };
        node.now = node.now.max(at);
        self.participate(who, ParticipantEvent::Ticked);
    }

    pub(super) fn flush(&mut self) {
        let log = self.log.edit();
        let newly = std::mem::take(&mut log.in_flight);
        log.durable.extend(newly.iter().cloned());
        let (upto, frame) = (log.lsn(), log.frame());
        for record in &newly {
            self.fact(&Fact::Durable(record));
        }
        self.coordinate(Event::Flushed { upto, frame });
    }

    fn coordinator_dies(&mut self, kept: usize) {
        self.budget.crashes -= 1;
        self.fact(&Fact::CoordinatorGone);
        let log = self.log.edit();
        log.in_flight.truncate(kept);
        let survived = std::mem::take(&mut log.in_flight);
        log.durable.extend(survived.iter().cloned());
        // The next life makes them durable before it acts on them, and nobody sees them before.
        for record in &survived {
            self.fact(&Fact::Durable(record));
        }
        self.client.waiting.clear();
        self.letters.retain(|letter| !matches!(**letter, Letter::Up { .. }));
        for node in &mut self.nodes {
            node.session = false;
        }
        self.start_coordinator();
    }

    fn participant_dies(&mut self, who: usize, kept: bool) {
        self.budget.crashes -= 1;
        let branch = self.branch(who);
        let node = &mut self.nodes[who];
        node.life += 1;
        node.session = false;
        node.joining = false;
        let call = node.call.take();
        let record = call.as_ref().and_then(|call| call.0.clone()).filter(|_| kept);
        let worked = node.bank.worked(&branch) && node.bank.active().any(|id| id == branch);
        node.records.edit().extend(record.clone());
        node.start();
        let lost = worked && !node.bank.knows(&branch);
        if let Some(record) = record {
            // Synced before the next life acts on it, and nobody sees it before.
            self.bank_fact(&record);
        }
        if lost {
            self.fact(&Fact::Ended(branch, BranchResult::RolledBack));
        }
        self.letters.retain(|letter| !matches!(**letter, Letter::Down { to, .. } if to == who));
        let prepared: Vec<BranchId> = self.nodes[who].bank.recover().collect();
        for branch in prepared {
            let evidence = self.nodes[who].bank.evidence_of(&branch);
            self.participate(who, ParticipantEvent::Recovered { branch, evidence });
        }
    }

    fn participant_hears(&mut self, who: usize, down: &Down) {
        let (sender, order) = match down {
            Down::Enlisted(joined) => return self.enlisted(who, *joined),
            Down::Order(sender, order) => (*sender, order.clone()),
        };
        let branch = self.branch(who);
        let node = &mut self.nodes[who];
        if node.core.as_ref().is_some_and(|core| core.state(&branch).is_none()) {
            // What the mark has passed is durably over.
            if node.bank.passed(&branch.gtrid) {
                return;
            }
            // An order that has overtaken the answer to the enlistment: no work may follow it.
            self.client.refused |= std::mem::take(&mut node.joining);
        }
        self.participate(who, ParticipantEvent::Told { sender, branch, order });
    }

    fn enlisted(&mut self, who: usize, joined: Result<u64, EnlistRefusal>) {
        if !std::mem::take(&mut self.nodes[who].joining) {
            return;
        }
        let Ok(remaining_ms) = joined else {
            self.client.refused = true;
            return;
        };
        let (branch, moves) = (self.branch(who), self.moves(who));
        self.participate(who, ParticipantEvent::Joined { branch, remaining_ms });
        let node = &mut self.nodes[who];
        let state = node.core.as_ref().and_then(|core| core.state(&branch));
        let mut failure = None;
        if state != Some(State::Active) {
            failure = Some("the branch is not active".to_owned());
        } else if let Err(busy) = node.bank.edit().work(branch, &moves) {
            failure = Some(busy.to_owned());
        } else if !moves.is_empty() {
            self.fact(&Fact::Worked(branch, moves.iter().map(|(_, by)| by).sum()));
        }
        self.client.refused |= failure.is_some();
        self.client.worked += usize::from(failure.is_none());
        self.participate(who, ParticipantEvent::Left { branch, failure });
    }

    /// One event into a participant, and what it wants done.
    pub(super) fn participate(&mut self, who: usize, event: ParticipantEvent) {
        let node = &mut self.nodes[who];
        let Some(core) = &mut node.core else { return };
        let core = core.edit();
        core.handle(node.now, event);
        let actions: Vec<_> = std::iter::from_fn(|| Participant::poll(core)).collect();
        for action in actions {
            match action {
                ParticipantAction::Call { branch, call } => {
                    self.call_resource(who, branch, &call);
                }
                ParticipantAction::Send { branch, answer } => {
                    let fact = match &answer {
                        Answer::Voted(vote) => Fact::Voted(branch, vote),
                        Answer::Acknowledged { done, .. } => Fact::Acknowledged(branch, *done),
                    };
                    self.fact(&fact);
                    self.send_up(who, Up::Answer(answer));
                }
                ParticipantAction::Inquire { .. } => self.send_up(who, Up::Inquire),
            }
        }
    }

    fn call_resource(
        &mut self,
        who: usize,
        branch: BranchId,
        call: &unanimous_core::participant::Call,
    ) {
        let bank = self.nodes[who].bank.edit();
        let active = bank.worked(&branch) && bank.active().any(|id| id == branch);
        let step = bank.call(&branch, call, true);
        let undone = active && !bank.knows(&branch);
        let call = match step {
            Step::Now(result) => (None, result),
            Step::After(record, result) => (Some(record), result),
        };
        if undone {
            self.fact(&Fact::Ended(branch, BranchResult::RolledBack));
        }
        debug_assert!(self.nodes[who].call.is_none(), "one call a branch at a time");
        self.nodes[who].call = Some(Part::new(call));
    }

    fn returns(&mut self, who: usize) {
        let Some(call) = self.nodes[who].call.take() else { return };
        let (record, result): &(Option<BankRecord>, Returned) = &call;
        if let Some(record) = record {
            self.store(who, record);
        }
        let (branch, result) = (self.branch(who), result.clone());
        self.participate(who, ParticipantEvent::Returned { branch, result });
    }

    fn store(&mut self, who: usize, record: &BankRecord) {
        self.nodes[who].records.edit().push(record.clone());
        self.nodes[who].bank.edit().apply(record);
        self.bank_fact(record);
    }

    /// One event into the coordinator, and what it wants done.
    pub(super) fn coordinate(&mut self, event: Event) {
        let Some(core) = &mut self.coordinator else { return };
        core.edit().handle(self.now, event);
        self.carry_out();
    }

    pub(super) fn carry_out(&mut self) {
        let Some(core) = &mut self.coordinator else { return };
        let core = core.edit();
        let actions: Vec<_> = std::iter::from_fn(|| core.poll()).collect();
        let (behind, sender) = (core.log_behind(), core.owner());
        for action in actions {
            match action {
                CoordinatorAction::Append { record, .. } => {
                    self.fact(&Fact::Handed(&record));
                    self.log.edit().in_flight.push(record);
                }
                CoordinatorAction::Send { branch, message, .. } => {
                    let fact = match &message {
                        Message::Prepare => None,
                        Message::Decide { decision, .. } => Some(Fact::Told(branch, *decision)),
                        Message::CommitOnePhase => Some(Fact::ToldOnePhase(branch)),
                        Message::Forget => Some(Fact::ToldForget(branch)),
                    };
                    if let Some(fact) = fact {
                        self.fact(&fact);
                    }
                    let to = (0..self.nodes.len()).find(|who| self.branch(*who) == branch);
                    if let Some(to) = to {
                        self.send_down(to, Down::Order(sender, order(message)));
                    }
                }
                CoordinatorAction::Reply { to, response } => self.reply(to.0, response),
                CoordinatorAction::Drop { .. } => {}
            }
        }
        if behind {
            let detail = "the coordinator believes its log went back in time";
            self.violate("L10", detail.to_owned());
        }
    }

    fn reply(&mut self, to: u64, response: Response) {
        let sender = self.coordinator.as_ref().map(|core| core.owner());
        let who = |base: u64| usize::try_from(to - base).unwrap_or(0);
        match response {
            Response::Begun { gtrid, .. } => {
                self.gtrid = gtrid;
                self.fact(&Fact::Begun(gtrid));
            }
            Response::Enlisted { remaining_ms } => {
                let who = who(ENLISTS);
                self.fact(&Fact::Enlisted(self.branch(who)));
                self.send_down(who, Down::Enlisted(Ok(remaining_ms)));
            }
            Response::EnlistRefused(refusal) => {
                self.send_down(who(ENLISTS), Down::Enlisted(Err(refusal)));
            }
            Response::Verdict(verdict) => {
                let who = who(INQUIRES);
                let decision = match &verdict {
                    Verdict::Commit { .. } => Some(Decision::Commit),
                    Verdict::Rollback => Some(Decision::Rollback),
                    Verdict::Wait | Verdict::LeaveAlone => None,
                };
                if let Some(decision) = decision {
                    self.fact(&Fact::Told(self.branch(who), decision));
                }
                if let Some(sender) = sender {
                    self.send_down(who, Down::Order(sender, Order::Answer(verdict)));
                }
            }
            Response::Ended(_)
            | Response::Pending
            | Response::Unknown
            | Response::Retried { .. }
            | Response::Operated
            | Response::ActRefused(_)
            | Response::Overtaken
            | Response::Audited
            | Response::Refused(_) => {
                let before = self.client.waiting.len();
                self.client.waiting.retain(|caller| caller.0 != to);
                if self.client.waiting.len() + 1 != before {
                    self.violate("P-16", format!("a second reply to one call: {response:?}"));
                }
                if let Response::Ended(ending) = response {
                    self.fact(&Fact::Answered(self.gtrid, ending.outcome));
                }
            }
        }
    }

    fn bank_fact(&mut self, record: &BankRecord) {
        let branch = record.branch();
        let fact = match record {
            BankRecord::Prepared { .. } => Fact::Prepared(branch),
            BankRecord::Committed { .. } => Fact::Ended(branch, BranchResult::Committed),
            BankRecord::RolledBack { .. } => Fact::Ended(branch, BranchResult::RolledBack),
            BankRecord::Alone { result, .. } => Fact::EndedAlone(branch, *result),
            BankRecord::Forgotten { .. } => Fact::Forgotten(branch),
        };
        self.fact(&fact);
    }
}

/// A fault, a delay, or a client that has changed its mind.
fn disturbs(action: &Action) -> bool {
    match action {
        Action::Repeat(_)
        | Action::CoordinatorDies { .. }
        | Action::ParticipantDies { .. }
        | Action::CoordinatorTick
        | Action::ParticipantTick(_)
        | Action::Call(Call::Rollback) => true,
        Action::Work(_)
        | Action::Call(Call::Commit)
        | Action::Deliver(_)
        | Action::Flush
        | Action::Return(_)
        | Action::Connect(_) => false,
    }
}
