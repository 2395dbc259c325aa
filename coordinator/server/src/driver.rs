//! The one task that owns the coordinator: no locks.
//!
//! ```text
//!  sessions, unary calls --- Inbound ---+                    +--- Append ---> the log's thread
//!  the log's thread ------- Flushed ----+---> Coordinator ---+--- Send -----> a participant
//!  admin ------------------- Query -----+                    +--- Reply ----> whoever asked
//! ```
//! The driver never waits for anybody but these inputs: it offers messages to sessions and drops
//! what has no room. A reply whose caller has gone is dropped too; the work it belonged to goes on.

mod clients;

use crate::acts::{Acts, Writing};
use crate::client_session::closing;
use crate::convert;
use crate::crash::after_write;
use crate::examination::Examinations;
use crate::orphans::{self, Orphans};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::session::{Gate, Inbound, Offered, Outbound, ParticipantOpened, SessionId};
use crate::shutdown::{Asked, Shutdown};
use crate::upkeep::Upkeep;
use crate::view::{self, Query};
use crate::{ServeError, Stage};
use clients::client_body;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use unanimous_core::coordinator::State;
use unanimous_core::message::Verdict;
use unanimous_core::{
    Action, Answer, AuditEntry, BranchId, CallerId, Coordinator, Decision, Event, Gtrid, Lsn,
    Message, Millis, Record, Request, Response, Route,
};
use unanimous_proto::v1;
use unanimous_proto::v1::participate_response::Body;
use unanimous_recovery::{Flushed, Writer, codec, crash_point};

/// Events taken before their records go to the log together.
const BATCH_MAX: usize = 256;
/// Questions (an inquiry can hold a thousand) answered before the connections have their turn.
const QUESTIONS_MAX: usize = 2_000;
/// How often marks are told and the log's state is looked at.
const HOUSEKEEPING_MS: u64 = 1_000;
/// How often stuck transactions are looked for.
const STUCK_CHECK_MS: u64 = 10_000;
/// How many of the oldest transactions that check looks at.
const STUCK_CHECK_MAX: usize = 10_000;
/// How often a graceful stop looks whether anything can still end.
const DRAIN_CHECK_MS: u64 = 50;

/// Where everything comes from.
pub(crate) struct Inputs {
    pub(crate) events: mpsc::Receiver<Inbound>,
    /// The log's latest answer; it covers all earlier ones.
    pub(crate) flushed: watch::Receiver<Flushed>,
    pub(crate) queries: mpsc::Receiver<Query>,
    pub(crate) shutdown: Shutdown,
}

/// Who waits for a reply. The coordinator owes each exactly one, so the table is bounded by what it
/// was asked.
pub(crate) enum Caller {
    Unary(oneshot::Sender<Result<Response, Refusal>>),
    Client { session: SessionId, call: u64, gtrid: Option<Gtrid> },
    Enlist { session: SessionId, branch: BranchId },
    Inquire { session: SessionId, branch: BranchId },
    Retry(Gtrid, oneshot::Sender<Option<view::Retried>>),
    Judge(BranchId, oneshot::Sender<view::Judgement>),
    Act(Box<Writing>),
}

struct Client {
    name: String,
    outbound: Outbound<v1::TransactResponse>,
    open_calls: usize,
}

/// The driver. See the module's page.
pub(crate) struct Driver {
    pub(crate) coordinator: Coordinator,
    pub(crate) registry: Registry,
    pub(crate) gate: Gate,
    pub(crate) writer: Writer,
    clock: Instant,
    /// What the wall clock said when `clock` began.
    began_unix_ms: u64,
    clients: HashMap<SessionId, Client>,
    callers: HashMap<CallerId, Caller>,
    last_caller: u64,
    /// Taken in and not handled yet.
    waiting: VecDeque<Inbound>,
    appends: Vec<(Lsn, Vec<u8>, bool)>,
    commits_in_log: CommitsInLog,
    /// Commits that wait until the log has room.
    held_back: VecDeque<(Caller, Request)>,
    pub(crate) upkeep: Upkeep,
    pub(crate) orphans: Orphans,
    pub(crate) acts: Acts,
    examinations: Examinations,
    stage: watch::Sender<Stage>,
    housekeeping_at: Millis,
    stuck_check_at: Millis,
    drain: Option<Drain>,
}

struct Drain {
    until: Millis,
    check_at: Millis,
}

/// Commit records that the log has not answered yet, for a crash point.
#[derive(Default)]
struct CommitsInLog {
    first: Option<Lsn>,
    last: Lsn,
}

impl Driver {
    pub(crate) fn new(
        coordinator: Coordinator,
        clock: Instant,
        gate: Gate,
        writer: Writer,
        stage: watch::Sender<Stage>,
    ) -> Self {
        let registry = Registry::new(gate.owner(), gate.config());
        let orphans = Orphans::new(gate.config().orphans_max);
        Self {
            coordinator,
            registry,
            gate,
            writer,
            clock,
            began_unix_ms: view::unix_ms().saturating_sub(elapsed_ms(clock)),
            clients: HashMap::new(),
            callers: HashMap::new(),
            last_caller: 0,
            waiting: VecDeque::with_capacity(BATCH_MAX),
            appends: Vec::new(),
            commits_in_log: CommitsInLog::default(),
            held_back: VecDeque::new(),
            upkeep: Upkeep::default(),
            orphans,
            acts: Acts::default(),
            examinations: Examinations::default(),
            stage,
            housekeeping_at: Millis(HOUSEKEEPING_MS),
            stuck_check_at: Millis(STUCK_CHECK_MS),
            drain: None,
        }
    }

    /// Runs until a stop was asked for and carried out; gives back the log, for closing.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Result<Writer, ServeError> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        self.carry_out(self.now());
        self.submit()?;
        while !self.stopped(inputs.shutdown.asked()) {
            let wake_at = self.clock + Duration::from_millis(self.wake_at().0);
            let mut query = None;
            tokio::select! {
                biased;
                () = inputs.shutdown.changed() => {}
                Ok(()) = inputs.flushed.changed() => {}
                _ = inputs.events.recv_many(&mut batch, BATCH_MAX), if self.waiting.is_empty() => {}
                Some(asked) = inputs.queries.recv() => query = Some(asked),
                // Lets the connections write and the sessions read.
                () = tokio::task::yield_now(), if !self.waiting.is_empty() => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
            let now = self.now();
            let flushed = *inputs.flushed.borrow_and_update();
            self.on_flushed(now, flushed);
            self.waiting.extend(batch.drain(..));
            self.on_waiting(now);
            // Also when events never run out.
            if let Some(query) = query.or_else(|| inputs.queries.try_recv().ok()) {
                self.on_query(now, query);
            }
            self.on_time(now);
            // Looked at with all that was decided now: the next begin may already be too much.
            self.submit()?;
            self.on_log(now);
            self.submit()?;
        }
        self.end_sessions();
        self.submit()?;
        Ok(self.writer)
    }

    pub(crate) fn now(&self) -> Millis {
        Millis(elapsed_ms(self.clock))
    }

    /// How far the wall clock has run away from the one that only goes forward.
    pub(crate) fn clock_jump_ms(&self, unix_ms: u64) -> i64 {
        let expected = self.began_unix_ms.saturating_add(self.now().0);
        unix_ms.checked_signed_diff(expected).unwrap_or(i64::MAX)
    }

    fn wake_at(&self) -> Millis {
        let drain = self.drain.as_ref().map(|drain| drain.check_at);
        let times = [self.coordinator.deadline(), drain, Some(self.housekeeping_at)];
        // Never so far off that the clock's arithmetic overflows.
        times.into_iter().flatten().min().unwrap_or(self.housekeeping_at).min(self.housekeeping_at)
    }

    pub(crate) fn handle(&mut self, now: Millis, event: Event) {
        self.coordinator.handle(now, event);
        self.carry_out(now);
    }

    fn on_flushed(&mut self, now: Millis, flushed: Flushed) {
        let Flushed { upto, frame, .. } = flushed;
        self.upkeep.durable = upto;
        if self.commits_in_log.pass(upto) {
            crash_point("serve.decided.durable");
        }
        self.handle(now, Event::Flushed { upto, frame });
        if self.coordinator.started() {
            self.stage.send_if_modified(|stage| {
                let starting = *stage == Stage::Starting;
                if starting {
                    *stage = Stage::Serving;
                }
                starting
            });
        }
    }

    fn on_waiting(&mut self, now: Millis) {
        let mut questions = 0;
        while questions < QUESTIONS_MAX
            && let Some(inbound) = self.waiting.pop_front()
        {
            questions += match &inbound {
                Inbound::Inquire(_, branches) => branches.len(),
                Inbound::ParticipantOpened(opened) => opened.in_doubt.len(),
                _ => 0,
            };
            self.on_inbound(now, inbound);
        }
    }

    fn on_inbound(&mut self, now: Millis, inbound: Inbound) {
        match inbound {
            Inbound::ParticipantOpened(opened) => self.on_participant(now, *opened),
            Inbound::Answered(session, event) => {
                // A newer session of the same instance has taken its place.
                if self.registry.name(session).is_none() {
                    return self.gate.ignore(session, "", "an answer of a session that has ended");
                }
                match &event {
                    Event::Answered { answer: Answer::Voted(_), .. } => {
                        crash_point("serve.vote.received");
                    }
                    _ => crash_point("serve.ack.received"),
                }
                self.handle(now, event);
            }
            Inbound::Enlist(session, enlistment) => {
                if self.registry.name(session).is_none() {
                    return self.gate.ignore(session, "", "a branch of a session that has ended");
                }
                let by = self.caller(Caller::Enlist { session, branch: enlistment.branch });
                self.handle(now, Event::Requested { by, request: Request::Enlist(*enlistment) });
            }
            Inbound::BadResource(session, branch, detail) => {
                let enlisted = v1::Enlisted {
                    branch: Some(convert::branch_ref(&branch)),
                    status: v1::EnlistStatus::BadResource.into(),
                    remaining_ms: 0,
                    detail: detail.to_owned(),
                };
                self.registry.answer(now, session, Body::Enlisted(enlisted));
            }
            Inbound::Inquire(session, branches) => self.inquire(now, session, branches),
            Inbound::Examined(examined) => self.examinations.answered(*examined),
            Inbound::ClientOpened(opened) => self.on_client(opened),
            Inbound::Called(session, call, request) => self.on_called(now, session, call, request),
            Inbound::Unary(request, reply) => {
                if let Err(refusal) = self.admit(&request) {
                    // The caller may be gone.
                    let _ = reply.send(Err(refusal));
                    return;
                }
                self.request(now, Caller::Unary(reply), request);
            }
            Inbound::Broke(session, detail) => self.on_broke(now, session, detail),
            Inbound::Closed(session) => {
                if !self.registry.close(now, session, None) {
                    self.clients.remove(&session);
                }
            }
        }
    }

    fn on_participant(&mut self, now: Millis, mut opened: ParticipantOpened) {
        let (session, participant) = (opened.session, opened.name.clone());
        let seen = std::mem::take(&mut opened.seen);
        let in_doubt = std::mem::take(&mut opened.in_doubt);
        let resources = opened.resources.clone();
        let was_behind = self.coordinator.log_behind();
        self.registry.open(now, opened);
        let by = self.next_caller();
        let request = Request::Attach { participant: participant.clone(), resources, seen };
        self.handle(now, Event::Requested { by, request });
        if self.coordinator.log_behind() && !was_behind {
            tracing::error!(
                %participant,
                "it has seen more than this log holds: it went back in time, nothing is presumed"
            );
        }
        self.inquire(now, session, in_doubt);
    }

    fn inquire(&mut self, now: Millis, session: SessionId, branches: Vec<BranchId>) {
        // Replaced meanwhile: its successor asks for itself.
        let Some(from) = self.registry.name(session).cloned() else { return };
        for branch in branches {
            let by = self.caller(Caller::Inquire { session, branch });
            let request = Request::Inquire { from: from.clone(), branch };
            self.handle(now, Event::Requested { by, request });
        }
    }

    fn request(&mut self, now: Millis, caller: Caller, request: Request) {
        if matches!(request, Request::Commit { .. }) {
            crash_point("serve.commit.requested");
            // Before anybody prepares: whoever has voted commit holds locks until the log answers.
            if self.upkeep.log_busy {
                return self.held_back.push_back((caller, request));
            }
        }
        let by = self.caller(caller);
        self.handle(now, Event::Requested { by, request });
    }

    /// What is refused before the coordinator hears of it.
    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        let calls_max = self.gate.config().calls_max;
        if self.callers.len() + self.held_back.len() >= calls_max {
            return Err(Refusal::too_many_calls(calls_max));
        }
        match request {
            Request::Begin { .. } if self.drain.is_some() => Err(Refusal::stopping()),
            Request::Begin { .. } => self.upkeep.admit_begin(),
            _ => Ok(()),
        }
    }

    /// The log has room again.
    pub(crate) fn release_held_back(&mut self, now: Millis) {
        for (caller, request) in std::mem::take(&mut self.held_back) {
            let by = self.caller(caller);
            self.handle(now, Event::Requested { by, request });
        }
    }

    fn on_broke(&mut self, now: Millis, session: SessionId, detail: &'static str) {
        let goodbye = Some((v1::GoodbyeReason::BadMessage, detail));
        if self.registry.close(now, session, goodbye) {
            return;
        }
        if let Some(client) = self.clients.remove(&session) {
            tracing::debug!(?session, client = ?client.name, detail, "client's session ended");
            client.outbound.offer(closing(detail));
        }
    }

    fn next_caller(&mut self) -> CallerId {
        self.last_caller += 1;
        CallerId(self.last_caller)
    }

    pub(crate) fn caller(&mut self, caller: Caller) -> CallerId {
        let id = self.next_caller();
        self.callers.insert(id, caller);
        id
    }

    fn carry_out(&mut self, now: Millis) {
        while let Some(action) = self.coordinator.poll() {
            match action {
                Action::Append { lsn, record, force } => self.append(lsn, &record, force),
                Action::Drop { below } => self.drop_below(below),
                Action::Send { to, branch, message } => self.send(now, &to, &branch, message),
                Action::Reply { to, response } => self.reply(now, to, response),
            }
        }
    }

    fn append(&mut self, lsn: Lsn, record: &Record, force: bool) {
        match record {
            Record::Commit { gtrid, branches, .. } => {
                tracing::debug!(%gtrid, branches = branches.len(), "decided: commit");
                self.commits_in_log.add(lsn);
                crash_point("serve.decided.before_append");
            }
            Record::Heuristic { gtrid, decision, .. }
            | Record::Forced { gtrid, decision, resolved: false, .. } => {
                let outcome = self.coordinator.transaction(gtrid).map(|t| t.outcome());
                let words = "heuristic: a branch did not end as decided";
                tracing::warn!(%gtrid, ?decision, ?outcome, "{words}");
            }
            Record::End { .. } => crash_point("serve.end.before_append"),
            Record::Carried { .. } | Record::CarriedOutcomes { .. } => {
                crash_point("serve.compact.before_append");
            }
            // One that only moves was told of in its time.
            Record::OperatorAct { entry } if force => {
                let AuditEntry { number, who, from, kind, result, .. } = &**entry;
                let (kind, result) = (format!("{kind:?}"), format!("{result:?}"));
                tracing::warn!(number, ?who, ?from, kind, result, "an operator's act");
            }
            Record::Boot { .. }
            | Record::Matched { .. }
            | Record::OutcomeFloor { .. }
            | Record::Forgotten { .. }
            | Record::Participant { .. }
            | Record::Labelled { .. }
            | Record::OperatorAct { .. }
            | Record::Forced { .. } => {}
        }
        let bytes = codec::encode_record(record);
        // Lazy ones of an operator's only move: a large audit must not be compacted for ever.
        let of_operators = matches!(record, Record::Forced { .. } | Record::OperatorAct { .. });
        let carried = matches!(record, Record::Carried { .. } | Record::CarriedOutcomes { .. });
        if carried || (of_operators && !force) {
            self.upkeep.carried_bytes += bytes.len() as u64;
        }
        self.upkeep.appended = lsn;
        self.appends.push((lsn, bytes, force));
    }

    /// Hands the batch's records to the log together, so that they become one group.
    fn submit(&mut self) -> Result<(), ServeError> {
        for (lsn, record, force) in self.appends.drain(..) {
            self.writer.append(lsn, record, force)?;
        }
        Ok(())
    }

    fn send(&mut self, now: Millis, to: &Route, branch: &BranchId, message: Message) {
        match &message {
            Message::Prepare => {
                crash_point("serve.prepare.before_send");
                after_write("serve.prepare.after_send");
            }
            Message::Decide { decision: Decision::Commit, .. } => {
                crash_point("serve.commit.before_send");
                after_write("serve.commit.after_send");
            }
            Message::Decide { decision: Decision::Rollback, .. } => {
                after_write("serve.rollback.after_send");
            }
            _ => {}
        }
        let offered = self.registry.deliver(now, to, branch, message);
        if offered != Offered::Queued {
            // The coordinator sends again.
            let (gtrid, participant) = (&branch.gtrid, &to.participant);
            tracing::trace!(%gtrid, %participant, ?offered, "dropped");
        }
    }

    fn reply(&mut self, now: Millis, to: CallerId, response: Response) {
        let Some(caller) = self.callers.remove(&to) else { return };
        match caller {
            Caller::Unary(reply) => {
                before_reply(&response);
                // The caller may be gone.
                let _ = reply.send(Ok(response));
            }
            Caller::Client { session, call, gtrid } => {
                if let Some(client) = self.clients.get_mut(&session) {
                    client.open_calls -= 1;
                    before_reply(&response);
                    self.tell_client(session, call, client_body(gtrid, response));
                }
            }
            Caller::Enlist { session, branch } => {
                crash_point("serve.enlist.before_reply");
                if let Some(enlisted) = convert::enlisted(&branch, response) {
                    self.registry.answer(now, session, Body::Enlisted(enlisted));
                }
            }
            Caller::Retry(gtrid, to) => {
                // The caller may be gone.
                let _ = to.send(view::retried(self, now, &gtrid, &response));
            }
            Caller::Act(writing) => self.acted(now, *writing, response),
            Caller::Judge(branch, to) => {
                // The caller may be gone.
                let _ = to.send(view::judgement(self, &branch, &response));
            }
            Caller::Inquire { session, branch } => {
                if let Response::Verdict(verdict) = response {
                    self.note_orphan(now, session, branch, &verdict);
                    let answer = convert::answer(&branch, verdict);
                    self.registry.answer(now, session, Body::Answer(answer));
                }
            }
        }
    }

    fn note_orphan(
        &mut self,
        now: Millis,
        session: SessionId,
        branch: BranchId,
        verdict: &Verdict,
    ) {
        match (verdict, self.registry.name(session)) {
            (Verdict::LeaveAlone, Some(participant)) => {
                let behind = self.coordinator.log_behind();
                let reason = orphans::reason(self.gate.owner(), &branch, behind);
                self.orphans.left_alone(now, participant, branch, reason);
            }
            (Verdict::Commit { .. } | Verdict::Rollback, _) => self.orphans.explained(&branch),
            _ => {}
        }
    }

    fn on_query(&mut self, now: Millis, query: Query) {
        match query {
            Query::Retry(gtrid, to) => {
                let by = self.caller(Caller::Retry(gtrid, to));
                self.handle(now, Event::Requested { by, request: Request::Retry { gtrid } });
            }
            Query::Act(order, to) => self.act(now, *order, to),
            Query::Approve(by, number, reason, to) => self.approve(now, by, number, reason, to),
            Query::ResolveOrphan(order, to) => self.resolve_orphan(now, *order, to),
            Query::RefusedCall(by, call, why) => self.refused_call(now, by, call, why),
            Query::Proposals(to) => {
                // The caller may be gone.
                let _ = to.send(self.proposals(now));
            }
            Query::Examine(to) => {
                // The caller may be gone.
                let _ = to.send(self.examinations.begin(now, &mut self.registry));
            }
            Query::Judge(from, branch, to) => {
                let by = self.caller(Caller::Judge(branch, to));
                self.handle(
                    now,
                    Event::Requested { by, request: Request::Inquire { from, branch } },
                );
            }
            query => view::answer(self, now, query),
        }
    }

    fn on_time(&mut self, now: Millis) {
        if self.coordinator.deadline().is_some_and(|at| at <= now) {
            self.handle(now, Event::Ticked);
        }
        if now >= self.housekeeping_at {
            self.housekeeping_at = now.plus(HOUSEKEEPING_MS);
            self.registry.set_mark(now, self.coordinator.ended_mark());
        }
        if now >= self.stuck_check_at {
            self.stuck_check_at = now.plus(STUCK_CHECK_MS);
            self.warn_of_stuck(now);
        }
    }

    fn warn_of_stuck(&self, now: Millis) {
        let limits = self.coordinator.limits();
        let mut stuck = self
            .coordinator
            .transactions(None)
            .take(STUCK_CHECK_MAX)
            .filter(|(_, transaction)| view::is_stuck(transaction, now, limits));
        if let Some((gtrid, transaction)) = stuck.next() {
            let waiting_on = view::waiting_on(transaction);
            let others = stuck.count();
            tracing::warn!(%gtrid, state = ?transaction.state(), ?waiting_on, others, "stuck");
        }
    }

    /// For people, in one word.
    pub(crate) fn doing(&self) -> &'static str {
        match (self.coordinator.started(), &self.drain) {
            (_, Some(_)) => "stopping",
            (true, None) => "serving",
            (false, None) => "starting",
        }
    }

    /// Clients with a session.
    pub(crate) fn clients_len(&self) -> usize {
        self.clients.len()
    }

    /// Whether the time to end has come.
    fn stopped(&mut self, asked: Asked) -> bool {
        match asked {
            Asked::Nothing => false,
            Asked::AtOnce => true,
            Asked::Graceful => {
                let now = self.now();
                let drain_ms = self.gate.config().drain_ms;
                let drain = self.drain.get_or_insert_with(|| {
                    tracing::info!(drain_ms, "stopping: no new transactions");
                    self.stage.send_replace(Stage::Stopping);
                    Drain { until: now.plus(drain_ms), check_at: now }
                });
                if now < drain.check_at {
                    return false;
                }
                drain.check_at = now.plus(DRAIN_CHECK_MS);
                let over = now >= drain.until;
                over || !self.anything_can_end()
            }
        }
    }

    fn anything_can_end(&self) -> bool {
        self.coordinator.transactions(None).any(|(_, transaction)| match transaction.state() {
            State::Active | State::MarkedRollback | State::Preparing | State::Deciding => true,
            State::OnePhase | State::Committing | State::RollingBack => transaction
                .pending()
                .any(|branch| self.registry.reaches(&branch.participant, &branch.resource)),
            State::Heuristic => false,
        })
    }

    fn end_sessions(&mut self) {
        let unfinished = self.coordinator.transactions_len();
        tracing::info!(unfinished, "stopping: ending the sessions");
        self.stage.send_replace(Stage::Stopping);
        let words = "the coordinator is stopping";
        self.registry.close_all(self.now(), v1::GoodbyeReason::Stopping, words);
        for (_, client) in self.clients.drain() {
            client.outbound.offer(closing(words));
        }
    }
}

fn elapsed_ms(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// It may have ended, or never begun.
pub(crate) fn no_such_transaction() -> Refusal {
    Refusal::not_found("no unfinished transaction has this id; it may have ended, or never begun")
}

impl CommitsInLog {
    fn add(&mut self, lsn: Lsn) {
        self.first.get_or_insert(lsn);
        self.last = lsn;
    }

    /// Whether one of them is durable now.
    fn pass(&mut self, upto: Lsn) -> bool {
        let durable = self.first.is_some_and(|first| first <= upto);
        if durable {
            self.first = (self.last > upto).then_some(Lsn(upto.0 + 1));
        }
        durable
    }
}

fn before_reply(response: &Response) {
    match response {
        Response::Begun { .. } => crash_point("serve.begin.before_reply"),
        Response::Ended(_) => {
            crash_point("serve.reply.before_send");
            after_write("serve.reply.after_send");
        }
        _ => {}
    }
}
