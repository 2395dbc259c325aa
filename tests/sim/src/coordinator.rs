//! The coordinator's process: the core, its log on a simulated disk, its sessions. Many lives, one
//! slot.

use super::compaction::{Compaction, NOBODY};
use super::coverage::Coverage;
use super::log::{LogDisk, LogQueue, Read, UNIX_SECONDS};
use super::network::{Call, Down, MarkParcel, Parcel, Up};
use super::swarm::Delivery;
use super::world::{Happening, Node, World};
use crate::invariants::Fact;
use unanimous_core::coordinator::{Start, State};
use unanimous_core::message::{Request, Verdict};
use unanimous_core::museum::{Bug, on};
use unanimous_core::{
    Act, Action, AuditEntry, AuditKind, AuditResult, Bqual, BranchId, BranchResult, CallerId,
    Coordinator, Decision, Event, FrameNumber, Gtrid, InstanceId, Labels, LogId, Lsn, Message,
    Response, Route, TransactionName,
};

/// The first log of every simulated world.
const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 0x5eed };

/// What happens at the coordinator by itself.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum CoordinatorStep {
    /// The process starts and reads its log.
    Read,
    /// A log that could not be read is mended.
    Restore,
    /// What was read is synced: the life begins.
    Begin,
    /// The log's thread takes what is queued.
    Flush,
    /// The sync of a frame returns.
    Synced { upto: Lsn, frame: FrameNumber, items: usize },
    /// The core's deadline.
    Tick,
    /// The next step of the compaction that is under way.
    Compact,
    /// The sync of the chain's new start returns.
    Started { frame: u64 },
    /// Frames below the chain's start are removed.
    Remove,
    /// The log's space becomes low, or ample again.
    Space { low: bool },
}

/// Who waits for a reply.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Client { who: usize, number: u32, gtrid: Option<Gtrid> },
    Enlist { who: usize, branch: BranchId },
    Inquire { who: usize, branch: BranchId },
    Operator,
}

/// What the audit is given: nothing follows from its words.
fn entry(number: u64, gtrid: Gtrid, act: &Act) -> AuditEntry {
    let kind = match act {
        Act::Rollback => AuditKind::Rollback,
        Act::Commit => AuditKind::Commit,
        Act::Assert { .. } => AuditKind::Assert,
        Act::Abandon { .. } => AuditKind::Abandon,
        Act::Resolve => AuditKind::Resolve,
    };
    let nothing = String::new;
    AuditEntry {
        number,
        at_ms: 0,
        who: "operator".to_owned(),
        from: nothing(),
        kind,
        result: AuditResult::Done,
        gtrid: Some(gtrid),
        bqual: act.bqual(),
        end: None,
        before: nothing(),
        after: nothing(),
        plan: nothing(),
        reason: nothing(),
        evidence: nothing(),
        concerns: 0,
        previous: [0; 32],
        hash: [0; 32],
    }
}

fn labels() -> Labels {
    Labels::new([("order", "4711")]).unwrap_or_default()
}

/// The coordinator's process and machine.
pub(super) struct CoordinatorNode {
    /// Grows with every death.
    pub(super) life: u32,
    /// There while the process lives and has read its log.
    pub(super) core: Option<Coordinator>,
    pub(super) frozen_until_ms: u64,
    pub(super) disk: LogDisk,
    pub(super) log_id: LogId,
    pub(super) log: LogQueue,
    /// What was read, until the life begins.
    pub(super) read: Option<Read>,
    /// The compaction under way.
    pub(super) compaction: Option<Compaction>,
    /// By process: its session, and the life that opened it.
    sessions: Vec<Option<(u32, InstanceId)>>,
    callers: Vec<Option<Caller>>,
    tick_at_ms: Option<u64>,
    actions: Vec<Action>,
}

impl CoordinatorNode {
    pub(super) fn new(participants: usize) -> Self {
        Self {
            life: 0,
            core: None,
            frozen_until_ms: 0,
            disk: LogDisk::new(),
            log_id: LOG,
            log: LogQueue::new(),
            read: None,
            compaction: None,
            sessions: vec![None; participants],
            callers: Vec::new(),
            tick_at_ms: None,
            actions: Vec::new(),
        }
    }

    pub(super) fn log_idle(&self) -> bool {
        self.log.idle() && self.compaction.is_none()
    }

    /// Requests of this life that nobody has answered.
    pub(super) fn unanswered(&self) -> usize {
        self.callers.iter().flatten().count()
    }

    fn session_of(&self, who: usize) -> Option<u32> {
        self.sessions[who].map(|(session, _)| session)
    }

    pub(super) fn session_lost(&mut self, who: usize, session: u32) {
        if self.session_of(who) == Some(session) {
            self.sessions[who] = None;
        }
    }
}

impl World {
    pub(super) fn start_coordinator(&mut self, delay_ms: u64) {
        self.coordinator_later(delay_ms, CoordinatorStep::Read);
    }

    /// The process is gone. `power`: so is the machine's page cache.
    pub(super) fn coordinator_dies(&mut self, power: bool) {
        let node = &mut self.coordinator;
        node.life += 1;
        node.core = None;
        node.read = None;
        node.compaction = None;
        node.frozen_until_ms = 0;
        node.log = LogQueue::new();
        node.sessions.fill(None);
        node.callers.clear();
        node.tick_at_ms = None;
        if power {
            node.disk.power_lost(&mut self.random);
        } else {
            node.disk.killed(&mut self.random);
        }
        self.fact(&Fact::CoordinatorGone);
        self.maybe_rot();
        self.maybe_new_log();
        for who in 0..self.participants.len() {
            self.participant_notices_end(who);
        }
    }

    pub(super) fn coordinator_later(&mut self, delay_ms: u64, step: CoordinatorStep) {
        let life = self.coordinator.life;
        self.after(delay_ms, Happening::Coordinator { life, step });
    }

    pub(super) fn coordinator_step(&mut self, step: CoordinatorStep) {
        self.trace.note(&step);
        match step {
            CoordinatorStep::Read => self.read_log(),
            CoordinatorStep::Restore => self.restore_log(),
            CoordinatorStep::Begin => self.begin_life(),
            CoordinatorStep::Flush => self.flush(),
            CoordinatorStep::Synced { upto, frame, items } => self.log_synced(upto, frame, items),
            CoordinatorStep::Compact => self.compact(),
            CoordinatorStep::Started { frame } => self.chain_started(frame),
            CoordinatorStep::Remove => self.remove_slice(),
            CoordinatorStep::Space { low } => self.space(low),
            CoordinatorStep::Tick => {
                if self.coordinator.tick_at_ms.is_some_and(|at| at <= self.now_ms) {
                    self.coordinator.tick_at_ms = None;
                    self.coordinate(Event::Ticked);
                }
            }
        }
    }

    fn begin_life(&mut self) {
        let Some(read) = self.coordinator.read.take() else { return };
        if !on(Bug::RecoveredTailUnsynced) {
            self.sync_recovered();
        }
        let end = read.end;
        let recovered = self.begin_log(read);
        self.fact(&Fact::Recovered(&recovered));
        self.show_replay();
        let start = Start {
            log: self.coordinator.log_id,
            frame: FrameNumber(end.last_frame()),
            next_lsn: Lsn(end.next_lsn()),
            unix_seconds: self.wall_clock(),
            seed: self.random.below(u64::MAX),
        };
        let limits = self.swarm.limits.clone();
        self.coordinator.core = Some(Coordinator::start(limits, start, self.now(), recovered));
        self.trace.line(|| format!("coordinator's life {start:?}"));
        self.carry_out();
        if self.swarm.space > 0 || self.stays_low {
            let low = self.stays_low || self.fault(300);
            self.space(low);
        }
    }

    /// A clock that jumps: right, an hour behind, ten years ahead, or broken.
    fn wall_clock(&mut self) -> u64 {
        let seconds = UNIX_SECONDS + self.now_ms / 1_000;
        self.random.pick(&[seconds, seconds, seconds - 3_600, seconds + 315_360_000, 0])
    }

    /// A message of a participant arrives.
    pub(super) fn coordinator_hears(&mut self, who: usize, session: u32, up: Up) {
        if self.coordinator.core.is_none() {
            return;
        }
        let current = self.coordinator.session_of(who);
        let late = match &up {
            Up::Hello { .. } => current.is_some_and(|current| current >= session),
            _ => self.swarm.delivery == Delivery::Stream && current != Some(session),
        };
        if late {
            return;
        }
        let (name, resource) =
            (self.participants[who].name.clone(), self.participants[who].resource.clone());
        match up {
            Up::Hello { instance, seen } => {
                self.coordinator.sessions[who] = Some((session, instance));
                self.send_down(who, Down::Welcome);
                let request =
                    Request::Attach { participant: name, resources: vec![resource], seen };
                self.coordinate(Event::Requested { by: NOBODY, request });
            }
            Up::Enlist(enlistment) => {
                let by = self.caller(Caller::Enlist { who, branch: enlistment.branch });
                self.coordinate(Event::Requested { by, request: Request::Enlist(enlistment) });
            }
            Up::Answer { branch, answer } => {
                // As the server: what a session says of others' branches goes no further.
                if !self.participants[who].owns(&branch) {
                    return;
                }
                self.coordinate(Event::Answered { from: name, resource, branch, answer });
            }
            Up::Inquire { branch } => {
                let by = self.caller(Caller::Inquire { who, branch });
                let request = Request::Inquire { from: name, branch };
                self.coordinate(Event::Requested { by, request });
            }
        }
    }

    /// A client's call arrives.
    pub(super) fn coordinator_called(&mut self, who: usize, number: u32, call: Call) {
        if self.coordinator.core.is_none() {
            return;
        }
        let (gtrid, request) = match call {
            Call::Begin { timeout_ms } => {
                let labels = if number.is_multiple_of(4) { labels() } else { Labels::default() };
                (None, Request::Begin { name: TransactionName::empty(), labels, timeout_ms })
            }
            Call::Commit { gtrid, expected_branches, wait } => {
                self.fact(&Fact::CommitAsked(gtrid, expected_branches));
                (Some(gtrid), Request::Commit { gtrid, expected_branches, wait })
            }
            Call::Rollback { gtrid } => (Some(gtrid), Request::Rollback { gtrid }),
            Call::Resolve { gtrid, expected_branches, wait } => {
                (Some(gtrid), Request::Resolve { gtrid, expected_branches, wait })
            }
        };
        let by = self.caller(Caller::Client { who, number, gtrid });
        self.coordinate(Event::Requested { by, request });
        if self.random.chance(60) {
            self.operator_retries();
        }
        if self.random.chance(self.swarm.operates) {
            self.operator_acts();
        }
    }

    /// Any transaction, also one that never was.
    fn operators_pick(&mut self) -> Option<Gtrid> {
        let begun = self.ledger.transactions.len() as u64;
        let newest = self.random.below(begun + 1).min(self.random.below(begun + 1));
        let at = usize::try_from(begun - newest).unwrap_or(0);
        let known = self.ledger.transactions.get(at).map(|transaction| transaction.gtrid);
        let core = self.coordinator.core.as_ref()?;
        Some(known.unwrap_or_else(|| Gtrid::new(core.owner(), u64::MAX, 0)))
    }

    /// A person may be at work at any time.
    fn operator_retries(&mut self) {
        let Some(gtrid) = self.operators_pick() else { return };
        let by = self.caller(Caller::Operator);
        self.coordinate(Event::Requested { by, request: Request::Retry { gtrid } });
    }

    /// A person acts, sometimes on a plan that is out of date. Who says how a branch ended has
    /// looked; who has not, and finds it gone, gives it up.
    fn operator_acts(&mut self) {
        let Some(gtrid) = self.operators_pick() else { return };
        let Some(core) = &self.coordinator.core else { return };
        let transaction = core.transaction(&gtrid);
        let version = transaction.map_or(0, |transaction| transaction.version);
        let bquals: Vec<Bqual> = transaction.map_or_else(Vec::new, |transaction| {
            transaction.branches.iter().map(|branch| branch.bqual).collect()
        });
        let number = core.audit_head().map_or(0, |head| head.number) + 1;
        let nobodys = Bqual::new(0, 0, core.owner());
        let bqual = if bquals.is_empty() { nobodys } else { self.random.pick(&bquals) };
        let ended = self.ledger.branch(&BranchId { gtrid, bqual }).and_then(|b| b.ended);
        let open = transaction.is_some_and(|transaction| {
            use State::{Committing, Heuristic, OnePhase, RollingBack};
            matches!(transaction.state(), Committing | Heuristic | OnePhase | RollingBack)
        });
        // Where it is refused anyway, whatever is asserted does no harm.
        let ended = ended.or((!open).then_some(BranchResult::Committed));
        let act = match (self.random.below(5), ended) {
            (0, _) => Act::Rollback,
            (1, _) => Act::Commit,
            (2, _) => Act::Resolve,
            (3, Some(end)) => Act::Assert { bqual, end },
            _ => Act::Abandon { bqual },
        };
        let version = if self.random.chance(50) { version.wrapping_sub(1) } else { version };
        let entry = Box::new(entry(number, gtrid, &act));
        let by = self.caller(Caller::Operator);
        let request = Request::Operate { gtrid, version, act, entry };
        self.coordinate(Event::Requested { by, request });
    }

    fn caller(&mut self, caller: Caller) -> CallerId {
        self.coordinator.callers.push(Some(caller));
        CallerId(self.coordinator.callers.len() as u64 - 1)
    }

    /// One event into the core, and what it wants done.
    pub(super) fn coordinate(&mut self, event: Event) {
        let now = self.now();
        let Some(core) = &mut self.coordinator.core else { return };
        cover(&mut self.coverage, core, &event);
        core.handle(now, event);
        self.carry_out();
    }

    /// Carries out what the core wants, unless the process dies on the way.
    fn carry_out(&mut self) {
        let Some(core) = &mut self.coordinator.core else { return };
        let mut actions = std::mem::take(&mut self.coordinator.actions);
        while let Some(action) = core.poll() {
            actions.push(action);
        }
        let behind = core.log_behind();
        let deadline = core.deadline();
        let rate = self.rate_of_death(self.swarm.kill_coordinator);
        let dies_after = self.fault(rate).then(|| self.random.below(actions.len() as u64 + 1));
        let mut dies = dies_after.is_some();
        for (done, action) in (0..).zip(actions.drain(..)) {
            if dies_after.is_some_and(|last| done >= last) || self.dies_here(Node::Coordinator) {
                dies = true;
                break;
            }
            self.trace.note(&action);
            self.carry_out_one(action);
        }
        self.coordinator.actions = actions;
        if behind {
            self.violate("L10", "the coordinator believes its log went back in time".to_owned());
        }
        if dies {
            return self.kill_coordinator();
        }
        if let Some(deadline) = deadline {
            self.tick_coordinator_at(deadline.0.max(self.now_ms));
        }
        self.maybe_compact();
        if self.fault(self.swarm.space) {
            self.coordinator_later(0, CoordinatorStep::Space { low: true });
        }
        self.maybe_freeze(Node::Coordinator);
    }

    fn tick_coordinator_at(&mut self, at_ms: u64) {
        if self.coordinator.tick_at_ms.is_none_or(|earlier| at_ms < earlier) {
            self.coordinator.tick_at_ms = Some(at_ms);
            self.coordinator_later(at_ms - self.now_ms, CoordinatorStep::Tick);
        }
    }

    fn carry_out_one(&mut self, action: Action) {
        self.trace.line(|| format!("    coordinator: {action:?}"));
        match action {
            Action::Append { lsn, record, force } => {
                let record = Self::spoil(record);
                self.fact(&Fact::Handed(&record));
                self.append(lsn, record, force);
            }
            Action::Send { to, branch, message } => {
                let fact = match &message {
                    Message::Prepare => None,
                    Message::Decide { decision, .. } => Some(Fact::Told(branch, *decision)),
                    Message::CommitOnePhase => Some(Fact::ToldOnePhase(branch)),
                    Message::Forget => Some(Fact::ToldForget(branch)),
                };
                if let Some(fact) = fact {
                    self.fact(&fact);
                }
                for who in self.route(&to, &message) {
                    self.send_mark(who);
                    self.send_down(who, Down::Message { branch, message: message.clone() });
                }
            }
            Action::Reply { to, response } => self.reply(to, response),
            Action::Drop { below } => {
                self.coordinator.compaction = None;
                self.drop_below(below);
            }
        }
    }

    fn reply(&mut self, to: CallerId, response: Response) {
        let slot = usize::try_from(to.0).ok().and_then(|at| self.coordinator.callers.get_mut(at));
        let Some(caller) = slot.and_then(Option::take) else {
            return self.violate("P-16", format!("a second reply to one request: {response:?}"));
        };
        match (caller, response) {
            (Caller::Enlist { who, branch }, Response::Enlisted { remaining_ms }) => {
                self.fact(&Fact::Enlisted(branch));
                self.send_down(who, Down::Enlisted { branch, joined: Ok(remaining_ms) });
            }
            (Caller::Enlist { who, branch }, Response::EnlistRefused(refusal)) => {
                self.send_down(who, Down::Enlisted { branch, joined: Err(refusal) });
            }
            (Caller::Inquire { who, branch }, Response::Verdict(verdict)) => {
                let decision = match &verdict {
                    Verdict::Commit { .. } => Some(Decision::Commit),
                    Verdict::Rollback => Some(Decision::Rollback),
                    Verdict::Wait | Verdict::LeaveAlone => None,
                };
                // Who asks about a branch of another is told something, and it means nothing.
                if let Some(decision) = decision.filter(|_| self.participants[who].owns(&branch)) {
                    self.fact(&Fact::Told(branch, decision));
                }
                self.send_down(who, Down::Verdict { branch, verdict });
            }
            (Caller::Client { who, number, gtrid }, response) => {
                match (&response, gtrid) {
                    (Response::Begun { gtrid, .. }, _) => self.fact(&Fact::Begun(*gtrid)),
                    (Response::Ended(ending), Some(gtrid)) => {
                        self.fact(&Fact::Answered(gtrid, ending.outcome));
                    }
                    _ => {}
                }
                self.send(Parcel::Reply { who, number, response });
            }
            (
                Caller::Operator,
                Response::Retried { .. }
                | Response::Operated
                | Response::ActRefused(_)
                | Response::Overtaken
                | Response::Refused(_)
                | Response::Unknown,
            ) => {}
            (caller, response) => {
                self.violate("P-16", format!("{caller:?} was answered {response:?}"));
            }
        }
    }

    /// What has ended rides on some of the messages.
    fn send_mark(&mut self, who: usize) {
        if !self.random.chance(125) {
            return;
        }
        let mark = self.coordinator.core.as_ref().and_then(Coordinator::ended_mark);
        if let Some(mark) = mark {
            self.fact(&Fact::ToldEnded(&mark));
            self.send_down(who, Down::Ended(MarkParcel(mark)));
        }
    }

    fn send_down(&mut self, who: usize, down: Down) {
        let Some(core) = &self.coordinator.core else { return };
        let sender = core.owner();
        if let Some(session) = self.coordinator.session_of(who) {
            self.send(Parcel::Down { who, session, sender, down });
        }
    }

    /// The process that holds the work if it is there, else another one of the participant. All of
    /// them may remember that a branch ended alone.
    fn route(&self, to: &Route, message: &Message) -> Vec<usize> {
        let sessions = &self.coordinator.sessions;
        let named = |who: &usize| self.participants[*who].name == to.participant;
        let there = (0..self.participants.len()).filter(|who| sessions[*who].is_some());
        let mut all: Vec<usize> = there.filter(named).collect();
        if *message != Message::Forget {
            let instance = |who: &usize| sessions[*who].map(|(_, instance)| instance);
            let holder = all.iter().position(|who| instance(who) == to.instance);
            let other = (!to.holder_only && !all.is_empty()).then_some(0);
            all = holder.or(other).map(|at| all[at]).into_iter().collect();
        }
        all
    }
}

/// Counts the event with the state of the transaction it is about; what concerns many counts with
/// each.
fn cover(coverage: &mut Coverage, core: &Coordinator, event: &Event) {
    let state = |gtrid: &Gtrid| core.transaction(gtrid).map(|transaction| transaction.state());
    let gtrid = match event {
        Event::Answered { branch, .. } => &branch.gtrid,
        Event::Requested { request, .. } => match request {
            Request::Enlist(enlistment) => &enlistment.branch.gtrid,
            Request::Commit { gtrid, .. }
            | Request::Rollback { gtrid }
            | Request::Resolve { gtrid, .. }
            | Request::Operate { gtrid, .. }
            | Request::Retry { gtrid } => gtrid,
            Request::Inquire { branch, .. } => &branch.gtrid,
            Request::Begin { .. } | Request::Audit { .. } => return,
            Request::Attach { .. } | Request::Compact { .. } | Request::Storage { .. } => {
                return cover_all(coverage, core, event);
            }
        },
        Event::Flushed { .. } | Event::Ticked => return cover_all(coverage, core, event),
    };
    coverage.coordinator(state(gtrid), event);
}

fn cover_all(coverage: &mut Coverage, core: &Coordinator, event: &Event) {
    if core.transactions_len() == 0 {
        coverage.coordinator(None, event);
    }
    for (_, transaction) in core.transactions(None) {
        coverage.coordinator(Some(transaction.state()), event);
    }
}
