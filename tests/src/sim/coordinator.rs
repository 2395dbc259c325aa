//! The coordinator's process: the core, its log on a simulated disk, its sessions. Many lives, one
//! slot.

use super::coverage::Coverage;
use super::disk::Disk;
use super::network::{Call, Down, MarkParcel, Parcel, Up};
use super::swarm::{Delivery, Mistake};
use super::world::{Happening, Node, World};
use crate::invariants::Fact;
use unanimous_core::coordinator::{Recovered, Start};
use unanimous_core::message::{Request, Verdict};
use unanimous_core::{
    Action, BranchId, CallerId, Coordinator, Decision, Event, FrameNumber, Gtrid, LogId, Lsn,
    Message, ParticipantName, Record, Response, TransactionName,
};
use unanimous_recovery::codec::{decode_record, encode_record};
use unanimous_recovery::frame::{Frame, frame_crc};

/// The one log of every simulated world.
const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 0x5eed };
/// What the wall clock shows when it is right.
const UNIX_SECONDS: u64 = 1_790_000_000;
/// How long a lazy record waits for company.
const LAZY_MS: u64 = 50;

/// What happens at the coordinator by itself.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum CoordinatorStep {
    /// The process starts and reads its log.
    Read,
    /// What was read is synced: the life begins.
    Begin,
    /// The log's thread takes what is queued.
    Flush,
    /// The sync of a frame returns.
    Synced { upto: Lsn, frame: FrameNumber, items: usize },
    /// The core's deadline.
    Tick,
}

/// Who waits for a reply.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Client { who: usize, number: u32, gtrid: Option<Gtrid> },
    Enlist { who: usize, branch: BranchId },
    Inquire { who: usize, branch: BranchId },
}

/// The coordinator's process and machine.
pub(super) struct CoordinatorNode {
    /// Grows with every death.
    pub(super) life: u32,
    /// There while the process lives and has read its log.
    pub(super) core: Option<Coordinator>,
    pub(super) frozen_until_ms: u64,
    disk: Disk<Vec<u8>>,
    log: LogQueue,
    sessions: Vec<Option<u32>>,
    callers: Vec<Option<Caller>>,
    tick_at_ms: Option<u64>,
    actions: Vec<Action>,
    recovered: Option<(Recovered, LogEnd)>,
}

/// The log's thread.
#[derive(Default)]
struct LogQueue {
    /// Submitted, not in a frame yet; `true`: somebody waits for it.
    queued: Vec<(Lsn, Record, bool)>,
    /// In the frame whose sync is under way.
    under_way: Vec<Record>,
    syncing: bool,
    flush_at_ms: Option<u64>,
    end: LogEnd,
}

/// Where the next frame goes.
#[derive(Clone, Copy, Debug, Default)]
struct LogEnd {
    last_frame: u64,
    last_crc: u32,
    next_lsn: u64,
}

impl CoordinatorNode {
    pub(super) fn new(participants: usize) -> Self {
        Self {
            life: 0,
            core: None,
            frozen_until_ms: 0,
            disk: Disk::new(),
            log: LogQueue::default(),
            sessions: vec![None; participants],
            callers: Vec::new(),
            tick_at_ms: None,
            actions: Vec::new(),
            recovered: None,
        }
    }

    pub(super) fn log_idle(&self) -> bool {
        self.log.queued.is_empty() && !self.log.syncing
    }

    pub(super) fn session_lost(&mut self, who: usize, session: u32) {
        if self.sessions[who] == Some(session) {
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
        node.recovered = None;
        node.frozen_until_ms = 0;
        node.log = LogQueue::default();
        node.sessions.fill(None);
        node.callers.clear();
        node.tick_at_ms = None;
        if power {
            node.disk.power_lost(&mut self.random, |frame, random| {
                let sector = frame.len() / 2 + usize::try_from(random.below(8)).unwrap_or(0);
                frame.truncate(sector.min(frame.len().saturating_sub(1)));
            });
        } else {
            node.disk.killed(&mut self.random);
        }
        self.fact(&Fact::CoordinatorGone);
        for who in 0..self.participants.len() {
            self.participant_notices_end(who);
        }
    }

    fn coordinator_later(&mut self, delay_ms: u64, step: CoordinatorStep) {
        let life = self.coordinator.life;
        self.after(delay_ms, Happening::Coordinator { life, step });
    }

    pub(super) fn coordinator_step(&mut self, step: CoordinatorStep) {
        self.trace.note(&step);
        match step {
            CoordinatorStep::Read => self.read_log(),
            CoordinatorStep::Begin => self.begin_life(),
            CoordinatorStep::Flush => self.flush(),
            CoordinatorStep::Synced { upto, frame, items } => self.log_synced(upto, frame, items),
            CoordinatorStep::Tick => {
                if self.coordinator.tick_at_ms.is_some_and(|at| at <= self.now_ms) {
                    self.coordinator.tick_at_ms = None;
                    self.coordinate(Event::Ticked);
                }
            }
        }
    }

    /// Reads frames up to the end, as the recovery scan does: only what was never synced may be no
    /// frame.
    fn read_log(&mut self) {
        let mut end = LogEnd { next_lsn: 1, ..LogEnd::default() };
        let mut recovered = Recovered::default();
        let mut whole = 0;
        let disk = &mut self.coordinator.disk;
        for bytes in disk.items() {
            let Ok(frame) = Frame::decode(bytes) else { break };
            let chained = frame.number == end.last_frame + 1
                && frame.previous_crc == end.last_crc
                && frame.first_lsn == end.next_lsn;
            let records: Result<Vec<Record>, _> =
                frame.records.iter().map(|record| decode_record(record)).collect();
            let (true, Ok(records)) = (chained, records) else { break };
            end.last_frame += 1;
            end.last_crc = frame_crc(bytes);
            end.next_lsn += records.len() as u64;
            for (lsn, record) in (frame.first_lsn..).map(Lsn).zip(records) {
                recovered.fold(lsn, record);
            }
            whole += 1;
        }
        if whole < disk.durable() {
            let detail = format!("durable frame {} cannot be read", whole + 1);
            return self.violate("L7", detail);
        }
        disk.cut(whole);
        self.coordinator.recovered = Some((recovered, end));
        let delay_ms = self.random.between(0, 4 * self.swarm.sync_ms);
        self.coordinator_later(delay_ms, CoordinatorStep::Begin);
        // Recovery is killed like everything else.
        if self.random.chance(4 * self.swarm.kill_coordinator) {
            self.kill_coordinator();
        }
    }

    fn begin_life(&mut self) {
        let Some((recovered, end)) = self.coordinator.recovered.take() else { return };
        if self.swarm.mistake != Some(Mistake::RecoveredTailUnsynced) {
            self.sync_recovered();
        }
        let committed: Vec<Gtrid> = self
            .ledger
            .transactions
            .iter()
            .map(|transaction| transaction.gtrid)
            .filter(|gtrid| {
                let outcome = recovered.outcome(gtrid);
                let unfinished = recovered.transactions().find(|(id, _)| *id == gtrid);
                outcome == Some(unanimous_core::Outcome::Committed)
                    || unfinished.is_some_and(|(_, t)| t.decision() == Decision::Commit)
            })
            .collect();
        self.fact(&Fact::Recovered(&committed));
        let start = Start {
            log: LOG,
            frame: FrameNumber(end.last_frame),
            next_lsn: Lsn(end.next_lsn),
            unix_seconds: self.wall_clock(),
            seed: self.random.below(u64::MAX),
        };
        let limits = self.swarm.limits.clone();
        self.coordinator.log.end = end;
        self.coordinator.core = Some(Coordinator::start(limits, start, self.now(), recovered));
        self.trace.line(|| format!("coordinator's life {start:?}"));
        self.carry_out();
    }

    fn sync_recovered(&mut self) {
        let items = self.coordinator.disk.written();
        let frames = self.coordinator.disk.synced(items).to_vec();
        for bytes in frames {
            let records = Frame::decode(&bytes).map(|frame| frame.records).unwrap_or_default();
            for record in records.iter().filter_map(|record| decode_record(record).ok()) {
                self.fact(&Fact::Durable(&record));
            }
        }
    }

    /// A clock that jumps: right, an hour behind, ten years ahead, or broken.
    fn wall_clock(&mut self) -> u64 {
        let seconds = UNIX_SECONDS + self.now_ms / 1_000;
        self.random.pick(&[seconds, seconds, seconds - 3_600, seconds + 315_360_000, 0])
    }

    /// Appends, syncs, tells: at most one frame is not yet durable.
    fn flush(&mut self) {
        let log = &mut self.coordinator.log;
        log.flush_at_ms = None;
        let (Some((first, ..)), Some((last, ..))) = (log.queued.first(), log.queued.last()) else {
            return;
        };
        if log.syncing {
            return;
        }
        let (first_lsn, upto) = (first.0, *last);
        let records = log.queued.iter().map(|(_, record, _)| encode_record(record)).collect();
        let frame = Frame {
            number: log.end.last_frame + 1,
            first_lsn,
            unix_ms: 1_000 * UNIX_SECONDS + self.now_ms,
            previous_crc: log.end.last_crc,
            records,
        };
        let bytes = frame.encode();
        log.end.last_frame += 1;
        log.end.last_crc = frame_crc(&bytes);
        log.end.next_lsn = upto.0 + 1;
        log.under_way = log.queued.drain(..).map(|(_, record, _)| record).collect();
        log.syncing = true;
        self.coordinator.disk.write(bytes);
        let items = self.coordinator.disk.written();
        let frame = FrameNumber(frame.number);
        let delay_ms = self.random.between(0, self.swarm.sync_ms);
        self.coordinator_later(delay_ms, CoordinatorStep::Synced { upto, frame, items });
        if self.swarm.mistake == Some(Mistake::FlushedBeforeSync) {
            self.coordinate(Event::Flushed { upto, frame });
        }
    }

    fn log_synced(&mut self, upto: Lsn, frame: FrameNumber, items: usize) {
        let records = std::mem::take(&mut self.coordinator.log.under_way);
        if self.random.chance(self.swarm.fail_sync) {
            self.trace.line(|| "the log's sync fails".to_owned());
            // The pages are clean now and on no platter: a second sync would succeed and prove
            // nothing.
            if self.swarm.mistake != Some(Mistake::SyncTriedAgain) {
                return self.kill_coordinator();
            }
        } else {
            self.coordinator.disk.synced(items);
            records.iter().for_each(|record| self.fact(&Fact::Durable(record)));
        }
        self.coordinator.log.syncing = false;
        self.flush_soon();
        if self.swarm.mistake != Some(Mistake::FlushedBeforeSync) {
            self.coordinate(Event::Flushed { upto, frame });
        }
    }

    fn flush_soon(&mut self) {
        let log = &self.coordinator.log;
        if log.syncing || log.queued.is_empty() {
            return;
        }
        let forced = log.queued.iter().any(|(_, _, force)| *force);
        let delay_ms = if forced { self.random.below(2) } else { LAZY_MS };
        let at = self.now_ms + delay_ms;
        if log.flush_at_ms.is_none_or(|earlier| at < earlier) {
            self.coordinator.log.flush_at_ms = Some(at);
            self.coordinator_later(delay_ms, CoordinatorStep::Flush);
        }
    }

    /// A message of a participant arrives.
    pub(super) fn coordinator_hears(&mut self, who: usize, session: u32, up: Up) {
        if self.coordinator.core.is_none() {
            return;
        }
        let current = self.coordinator.sessions[who];
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
            Up::Hello { seen } => {
                self.coordinator.sessions[who] = Some(session);
                self.send_down(who, Down::Welcome);
                let request =
                    Request::Attach { participant: name, resources: vec![resource], seen };
                // Attach has no reply: its caller is nobody.
                self.coordinate(Event::Requested { by: CallerId(u64::MAX), request });
            }
            Up::Enlist(enlistment) => {
                let by = self.caller(Caller::Enlist { who, branch: enlistment.branch });
                self.coordinate(Event::Requested { by, request: Request::Enlist(enlistment) });
            }
            Up::Answer { branch, answer } => {
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
                (None, Request::Begin { name: TransactionName::empty(), timeout_ms })
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
    }

    fn caller(&mut self, caller: Caller) -> CallerId {
        self.coordinator.callers.push(Some(caller));
        CallerId(self.coordinator.callers.len() as u64 - 1)
    }

    /// One event into the core, and what it wants done.
    fn coordinate(&mut self, event: Event) {
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
        let dies_after =
            self.random.chance(rate).then(|| self.random.below(actions.len() as u64 + 1));
        for (done, action) in (0..).zip(actions.drain(..)) {
            if dies_after.is_some_and(|last| done >= last) {
                break;
            }
            self.trace.note(&action);
            self.carry_out_one(action);
        }
        self.coordinator.actions = actions;
        if behind {
            self.violate("L10", "the coordinator believes its log went back in time".to_owned());
        }
        if dies_after.is_some() {
            return self.kill_coordinator();
        }
        if let Some(deadline) = deadline {
            self.tick_coordinator_at(deadline.0.max(self.now_ms));
        }
        self.maybe_freeze(Node::Coordinator);
    }

    fn tick_coordinator_at(&mut self, at_ms: u64) {
        if self.coordinator.tick_at_ms.is_none_or(|earlier| at_ms < earlier) {
            self.coordinator.tick_at_ms = Some(at_ms);
            self.coordinator_later(at_ms.saturating_sub(self.now_ms), CoordinatorStep::Tick);
        }
    }

    fn carry_out_one(&mut self, action: Action) {
        self.trace.line(|| format!("    coordinator: {action:?}"));
        match action {
            Action::Append { lsn, record, force } => {
                self.fact(&Fact::Handed(&record));
                self.coordinator.log.queued.push((lsn, record, force));
                self.flush_soon();
            }
            // Nobody asks for a compaction.
            Action::Drop { .. } => {}
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
                if let Some(who) = self.participant_named(&to.participant) {
                    self.send_mark(who);
                    self.send_down(who, Down::Message { branch, message });
                }
            }
            Action::Reply { to, response } => self.reply(to, response),
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
                if let Some(decision) = decision {
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
        if let Some(session) = self.coordinator.sessions[who] {
            self.send(Parcel::Down { who, session, sender, down });
        }
    }

    fn participant_named(&self, name: &ParticipantName) -> Option<usize> {
        self.participants.iter().position(|participant| participant.name == *name)
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
            | Request::Resolve { gtrid, .. } => gtrid,
            Request::Inquire { branch, .. } => &branch.gtrid,
            Request::Begin { .. } | Request::Compact { .. } | Request::Storage { .. } => return,
            Request::Attach { .. } => return cover_all(coverage, core, event),
        },
        Event::Flushed { .. } | Event::Ticked => return cover_all(coverage, core, event),
    };
    coverage.coordinator(state(gtrid), event);
}

fn cover_all(coverage: &mut Coverage, core: &Coordinator, event: &Event) {
    for (_, transaction) in core.transactions(None) {
        coverage.coordinator(Some(transaction.state()), event);
    }
}
