//! One task runs everything of a participant: the session, the branch state machine, the calls of
//! its resources.
//!
//! ```text
//!  joins, leaves ------+                         +--> session: votes, acknowledgements, questions
//!  session's messages -+-> core::Participant --> |
//!  returned calls -----+                         +--> resource calls, driven here, concurrently
//!  lists of prepared branches
//! ```

mod examine;
mod inquiries;
mod joins;
mod orphans;
mod work;

pub(crate) use joins::{Joining, Left};

use crate::crash::crash_point;
use crate::endpoint::Dial;
use crate::mark::passes;
use crate::participant::{JoinError, ParticipantState, Standing, branch_span};
use crate::resource::{AnyResource, EndedAlone, Listed as Holdings, Prepared};
use crate::session::{Session, SessionEvent, Wire};
use crate::{PROTOCOL_VERSION, SDK, wire};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use inquiries::{BATCH_MAX, Inquiries};
use joins::Joins;
use orphans::Scan;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tracing::Instrument;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Answer, Done, Verdict, Vote};
use unanimous_core::participant::{
    self as core, Call, Event, HeuristicPolicy, Order, Returned, State, Times,
};
use unanimous_core::{BranchId, Decision, LogId, Millis, Owner, ParticipantName, ResourceId};
use unanimous_proto::v1;
use v1::participant_service_client::ParticipantServiceClient;
use v1::participate_request::Body as Say;
use v1::participate_response::Body as Heard;

/// How often enlistments without an answer are looked through.
const REPEAT_EVERY: Duration = Duration::from_millis(250);
/// How long a list of prepared branches may take while the participant runs. What happens meanwhile
/// is noted in memory.
const LIST_MAX: Duration = Duration::from_secs(120);
/// How long a stop waits for calls of the resources, and then for the coordinator to take the last
/// words.
const STOP_CALLS_PATIENCE: Duration = Duration::from_secs(5);
const STOP_SESSION_PATIENCE: Duration = Duration::from_secs(1);

/// A resource of this participant.
pub(crate) struct Registered {
    pub(crate) id: ResourceId,
    pub(crate) kind: &'static str,
    /// What names it in branch ids.
    pub(crate) number: u32,
    pub(crate) resource: Arc<dyn AnyResource>,
}

/// What the handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Join(Joining),
    Stop(oneshot::Sender<()>),
}

pub(crate) struct Setup {
    pub(crate) name: ParticipantName,
    pub(crate) resources: Vec<Registered>,
    pub(crate) times: Times,
    pub(crate) policy: Option<HeuristicPolicy>,
    pub(crate) branches_max: usize,
    pub(crate) session_queue_max: usize,
    pub(crate) scan_every: Duration,
    pub(crate) dial: Dial,
    pub(crate) left: mpsc::UnboundedSender<Left>,
    pub(crate) standing: watch::Sender<Standing>,
}

struct ParticipantWire;

impl Wire for ParticipantWire {
    type Out = v1::ParticipateRequest;
    type In = v1::ParticipateResponse;

    fn call(
        channel: Channel,
        outbound: Request<ReceiverStream<Self::Out>>,
    ) -> BoxFuture<'static, Result<Streaming<Self::In>, Status>> {
        Box::pin(async move {
            let mut client = ParticipantServiceClient::new(channel);
            Ok(client.participate(outbound).await?.into_inner())
        })
    }

    fn welcome(first: Self::In) -> Result<Owner, String> {
        match first.body {
            Some(Heard::Welcome(welcome)) => wire::owner(welcome.coordinator.as_ref())
                .ok_or_else(|| "the welcome names no coordinator".to_owned()),
            Some(Heard::Goodbye(goodbye)) => Err(farewell(&goodbye)),
            _ => Err("the first message was no welcome".to_owned()),
        }
    }
}

fn farewell(goodbye: &v1::Goodbye) -> String {
    format!("goodbye ({}): {:?}", goodbye.reason().as_str_name(), goodbye.detail)
}

enum Woken {
    Left(Left),
    Asked(Option<Command>),
    Returned(BranchId, Returned),
    Listed(usize, Option<Holdings>),
    Examined(v1::Examined),
    Session(SessionEvent<v1::ParticipateResponse>),
    Ticked,
}

pub(crate) struct Runner {
    name: ParticipantName,
    instance: [u8; 16],
    resources: Vec<Registered>,
    core: core::Participant,
    joins: Joins,
    session: Session<ParticipantWire>,
    calls: FuturesUnordered<BoxFuture<'static, (BranchId, Returned)>>,
    inquiries: Inquiries,
    /// One for each resource, in the same order.
    scans: Vec<Scan>,
    lists: FuturesUnordered<BoxFuture<'static, (usize, Option<Holdings>)>>,
    examinations: FuturesUnordered<BoxFuture<'static, v1::Examined>>,
    /// The last ended mark of each coordinator's log.
    marks: BTreeMap<LogId, EndedMark>,
    inbox: mpsc::Receiver<Command>,
    lefts: mpsc::UnboundedReceiver<Left>,
    started: Instant,
    /// When enlistments without an answer are looked through.
    repeat_at: Instant,
    /// It was said that there is no session.
    lost: bool,
    standing: watch::Sender<Standing>,
}

impl Runner {
    pub(crate) fn new(
        setup: Setup,
        held: Vec<Holdings>,
        inbox: mpsc::Receiver<Command>,
        lefts: mpsc::UnboundedReceiver<Left>,
    ) -> Self {
        let seed = rand::random();
        let scan = |registered: &Registered| {
            Scan::new(setup.scan_every, seed ^ u64::from(registered.number))
        };
        let scans = setup.resources.iter().map(scan).collect();
        let mut runner = Self {
            name: setup.name,
            instance: rand::random(),
            resources: setup.resources,
            core: core::Participant::new(setup.times, seed).with_policy(setup.policy),
            joins: Joins::new(setup.branches_max, setup.left),
            session: Session::new(setup.dial, setup.session_queue_max, seed),
            calls: FuturesUnordered::new(),
            inquiries: Inquiries::default(),
            scans,
            lists: FuturesUnordered::new(),
            examinations: FuturesUnordered::new(),
            marks: BTreeMap::new(),
            inbox,
            lefts,
            started: Instant::now(),
            repeat_at: Instant::now(),
            lost: false,
            standing: setup.standing,
        };
        for Holdings { prepared, alone } in held {
            runner.recover(prepared, alone);
        }
        runner
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.carry_out();
            let wake = self.wake_at();
            let woken = tokio::select! {
                Some(left) = self.lefts.recv() => Woken::Left(left),
                asked = self.inbox.recv() => Woken::Asked(asked),
                Some((branch, returned)) = self.calls.next() => Woken::Returned(branch, returned),
                Some((resource, listed)) = self.lists.next() => Woken::Listed(resource, listed),
                Some(examined) = self.examinations.next() => Woken::Examined(examined),
                event = self.session.next() => Woken::Session(event),
                () = sleep_until(wake) => Woken::Ticked,
            };
            // Work that ended before its caller was answered has ended before anybody asks for a
            // vote.
            while let Ok(left) = self.lefts.try_recv() {
                self.on_left(left);
            }
            match woken {
                Woken::Left(left) => self.on_left(left),
                Woken::Asked(Some(Command::Join(joining))) => self.on_join(joining),
                Woken::Asked(Some(Command::Stop(reply))) => {
                    self.stop().await;
                    let _ = reply.send(());
                    return;
                }
                Woken::Asked(None) => return self.stop().await,
                Woken::Returned(branch, returned) => self.on_returned(branch, returned),
                Woken::Listed(resource, listed) => self.on_listed(resource, listed),
                Woken::Examined(examined) => self.on_examined(examined),
                Woken::Session(event) => self.on_session(event),
                Woken::Ticked => self.on_ticked(),
            }
        }
    }

    fn now(&self) -> Millis {
        let elapsed = self.started.elapsed();
        Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.core.handle(now, event);
    }

    fn wake_at(&self) -> Instant {
        let idle = Instant::now() + Duration::from_secs(3_600);
        let at = if self.joins.any_waiting() { self.repeat_at } else { idle };
        let at = self.scans.iter().filter_map(Scan::due).fold(at, Instant::min);
        // A millisecond more: the core's time is cut to whole milliseconds.
        let after = |due: Millis| Duration::from_millis(due.0.saturating_add(1));
        let due = [self.core.deadline(), self.inquiries.deadline()].into_iter().flatten().min();
        let due = due.and_then(|due| self.started.checked_add(after(due)));
        due.map_or(at, |due| at.min(due))
    }

    fn on_ticked(&mut self) {
        self.handle(Event::Ticked);
        let now = Instant::now();
        if self.repeat_at <= now {
            self.repeat_at = now + REPEAT_EVERY;
            self.enlist_again(false);
        }
        for index in 0..self.scans.len() {
            if self.scans[index].due().is_some_and(|due| due <= now) {
                self.list(index);
            }
        }
    }

    /// Asks a resource for its prepared branches.
    fn list(&mut self, index: usize) {
        self.scans[index].begin();
        let resource = Arc::clone(&self.resources[index].resource);
        self.lists.push(Box::pin(async move {
            // The making of the future may panic as well.
            let listing = AssertUnwindSafe(async move { resource.list().await });
            let why = match timeout(LIST_MAX, listing.catch_unwind()).await {
                Ok(Ok(Ok(listed))) => return (index, Some(listed)),
                Ok(Ok(Err(retry))) => retry.why,
                Ok(Err(_)) => "it panicked".to_owned(),
                Err(_) => "it does not answer".to_owned(),
            };
            tracing::warn!(?why, "a resource cannot list its prepared branches: asked again");
            (index, None)
        }));
    }

    fn on_listed(&mut self, index: usize, listed: Option<Holdings>) {
        let Some(mut listed) = listed else { return self.scans[index].fail() };
        listed.retain(self.resources[index].number);
        let core = &self.core;
        let known = |branch: &BranchId| core.state(branch).is_some();
        let alone = self.scans[index].untouched(listed.alone);
        let found = self.scans[index].found(listed.prepared, known);
        self.recover(found, alone);
    }

    /// Takes prepared branches in, to ask about them, and those that ended alone, to report them.
    fn recover(&mut self, found: Vec<Prepared>, alone: Vec<EndedAlone>) {
        if !found.is_empty() {
            tracing::info!(branches = found.len(), "prepared branches were found");
        }
        for Prepared { branch, evidence } in found {
            tracing::debug!(gtrid = %branch.gtrid, bqual = %branch.bqual, "found prepared");
            self.handle(Event::Recovered { branch, evidence });
        }
        for EndedAlone { branch, result, why: words } in alone {
            if self.core.state(&branch).is_none() {
                tracing::warn!(gtrid = %branch.gtrid, bqual = %branch.bqual, ?result, words,
                    "found on record as ended alone");
            }
            self.handle(Event::FoundAlone { branch, result, words });
        }
    }

    fn registered(&self, branch: &BranchId) -> Option<&Registered> {
        self.resources.get(self.index(branch)?)
    }

    fn index(&self, branch: &BranchId) -> Option<usize> {
        let number = branch.bqual.resource_manager();
        self.resources.iter().position(|registered| registered.number == number)
    }

    /// What a list of prepared branches that is being made says of this one is old.
    fn touch(&mut self, branch: &BranchId) {
        if let Some(index) = self.index(branch) {
            self.scans[index].touch(branch);
        }
    }

    fn on_returned(&mut self, branch: BranchId, mut result: Returned) {
        self.touch(&branch);
        let undoing = self.core.state(&branch) == Some(State::RollingBack);
        if let Some(join) = self.joins.get_mut(&branch).filter(|join| join.enlisted) {
            if join.early && matches!(result, Returned::Voted(Vote::ReadOnly)) {
                // The resource has ended it, while others may still work for the transaction.
                let reason = "it voted read-only before it was asked".to_owned();
                result = Returned::Voted(Vote::Rollback { reason });
            }
            let empty = match &result {
                Returned::Voted(Vote::Rollback { .. }) | Returned::Did(Done::RolledBack, _) => true,
                Returned::Did(Done::Done, _) => undoing && !join.asked,
                _ => false,
            };
            if empty {
                self.joins.note_empty(branch);
            }
        }
        self.handle(Event::Returned { branch, result });
        self.settle(&branch);
    }

    fn on_session(&mut self, event: SessionEvent<v1::ParticipateResponse>) {
        match event {
            SessionEvent::Due => {
                let hello = self.hello();
                self.session.dial(v1::ParticipateRequest { body: Some(Say::Hello(hello)) });
            }
            SessionEvent::Opened => {
                self.lost = false;
                self.enter(ParticipantState::Connected);
                tracing::info!(participant = %self.name, "the session is open");
                self.enlist_again(true);
                self.handle(Event::Connected);
            }
            SessionEvent::Message(message) => self.on_message(message),
            // Once, however often it is dialled in vain.
            SessionEvent::Lost(why) if self.lost => {
                self.standing.send_modify(|standing| standing.lost = Some(why.clone()));
                tracing::debug!(participant = %self.name, ?why, "still no session");
            }
            SessionEvent::Lost(why) => {
                self.lost = true;
                self.inquiries.clear();
                tracing::warn!(participant = %self.name, ?why, "no session with the coordinator");
                self.standing.send_replace(Standing {
                    state: ParticipantState::Connecting,
                    lost: Some(why),
                });
            }
        }
    }

    fn enter(&self, state: ParticipantState) {
        self.standing.send_modify(|standing| standing.state = state);
    }

    fn hello(&self) -> v1::Hello {
        let mut capabilities = vec![
            v1::Capability::Inquires,
            v1::Capability::OnePhase,
            v1::Capability::EarlyVote,
            v1::Capability::Examines,
        ];
        if self.resources.iter().all(|registered| registered.resource.remembers_committed()) {
            capabilities.push(v1::Capability::RemembersCommitted);
        }
        let resources = self.resources.iter().map(|registered| v1::Resource {
            resource_id: registered.id.as_str().to_owned(),
            kind: registered.kind.to_owned(),
        });
        let in_doubt = self.core.in_doubt().take(BATCH_MAX);
        v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            participant: self.name.as_str().to_owned(),
            instance: self.instance.to_vec(),
            sdk: SDK.to_owned(),
            capabilities: capabilities.into_iter().map(i32::from).collect(),
            resources: resources.collect(),
            in_doubt: in_doubt.map(wire::branch_ref).collect(),
            seen_frames: self.core.seen().map(wire::seen_frame).collect(),
        }
    }

    fn on_message(&mut self, message: v1::ParticipateResponse) {
        let Some(coordinator) = self.session.coordinator() else { return };
        if let Some(mark) = message.ended.as_ref().and_then(wire::ended_mark) {
            self.on_ended(mark);
        }
        let sender = Owner { log: coordinator.log, epoch: message.sender_epoch };
        match message.body {
            Some(Heard::Enlisted(enlisted)) => self.on_enlisted(&enlisted),
            Some(Heard::Goodbye(goodbye)) => self.on_goodbye(&goodbye),
            Some(Heard::Examine(examine)) => self.examine(examine.examination),
            Some(Heard::Welcome(_)) | None => {}
            Some(body) => {
                if let Heard::Answer(answer) = &body
                    && let Some(branch) = wire::branch_id(answer.branch.as_ref())
                {
                    self.inquiries.on_answered(&branch);
                }
                match wire::order(&body) {
                    Some((branch, order)) => self.on_told(sender, branch, order),
                    None => tracing::debug!("a message that cannot be read was ignored"),
                }
            }
        }
    }

    fn on_goodbye(&mut self, goodbye: &v1::Goodbye) {
        let words = farewell(goodbye);
        self.inquiries.clear();
        self.standing.send_replace(Standing {
            state: ParticipantState::Connecting,
            lost: Some(words.clone()),
        });
        match goodbye.reason() {
            v1::GoodbyeReason::Replaced => {
                if self.session.on_replaced() {
                    let what = "another process has this one's instance id: start this one again";
                    tracing::error!(participant = %self.name, "{words}: {what}");
                    self.enter(ParticipantState::Replaced);
                    self.joins.give_up(&JoinError::Replaced);
                }
                return;
            }
            v1::GoodbyeReason::BadMessage => {
                tracing::error!(participant = %self.name, "{words}: it will be said again");
            }
            _ => tracing::info!(participant = %self.name, "{words}"),
        }
        self.session.hang_up();
    }

    fn on_ended(&mut self, mark: EndedMark) {
        for registered in &self.resources {
            registered.resource.ended(&mark);
        }
        self.marks.insert(mark.log, mark);
    }

    /// Whether a message is a late repeat: its transaction has ended durably, and the proof of its
    /// branch, with which alone it could be answered, may be gone. Nobody waits for the answer.
    fn is_late(&self, branch: &BranchId, order: &Order) -> bool {
        let passed = |mark| passes(mark, &branch.gtrid);
        *order != Order::Forget
            && self.core.state(branch).is_none()
            && self.marks.get(&branch.gtrid.owner().log).is_some_and(passed)
    }

    fn on_told(&mut self, sender: Owner, branch: BranchId, order: Order) {
        if self.registered(&branch).is_none() {
            tracing::warn!(gtrid = %branch.gtrid, bqual = %branch.bqual,
                "a message about no resource of this participant was ignored");
            return;
        }
        if self.is_late(&branch, &order) {
            tracing::debug!(gtrid = %branch.gtrid, "a message about an ended branch was ignored");
            return;
        }
        match &order {
            Order::Prepare => crash_point("participant.prepare.received"),
            Order::CommitOnePhase
            | Order::Decide { decision: Decision::Commit, .. }
            | Order::Answer(Verdict::Commit { .. }) => crash_point("participant.commit.received"),
            _ => {}
        }
        if let Some(join) = self.joins.get_mut(&branch).filter(|_| order == Order::Prepare) {
            join.early = false;
        }
        self.handle(Event::Told { sender, branch, order });
        self.settle(&branch);
    }

    /// Carries out what the core wants done.
    fn carry_out(&mut self) {
        while let Some(action) = self.core.poll() {
            match action {
                core::Action::Call { branch, call } => self.call(branch, call),
                core::Action::Send { branch, answer } => self.send(&branch, answer),
                // Without a session it is dropped: on the next one everybody asks.
                core::Action::Inquire { branch } if self.session.coordinator().is_some() => {
                    self.inquiries.want(branch);
                }
                core::Action::Inquire { .. } => {}
            }
        }
        let in_doubt = |id: &BranchId| self.core.state(id) == Some(State::Prepared);
        if let Some(batch) = self.inquiries.poll(self.now(), self.calls.len(), in_doubt) {
            let branches = batch.iter().map(wire::branch_ref).collect();
            self.say(Say::Inquire(v1::Inquire { branches }));
        }
    }

    fn call(&mut self, branch: BranchId, call: Call) {
        self.touch(&branch);
        // Checked before the core heard of the branch.
        let recall = call == Call::CommitOnePhase && !self.joins.joined(&branch);
        if recall && self.joins.ends_empty(&branch) {
            let undone =
                Returned::Did(Done::RolledBack, "it was undone, or never begun".to_owned());
            return self.calls.push(Box::pin(std::future::ready((branch, undone))));
        }
        if let Some(join) = self.joins.get_mut(&branch) {
            join.asked |= call != Call::Rollback;
        }
        let Some(registered) = self.registered(&branch) else { return };
        let resource = Arc::clone(&registered.resource);
        let span = branch_span(&branch, &registered.id);
        if let Call::EndAlone { decision, why } = &call {
            span.in_scope(|| tracing::warn!(?decision, why, "a branch in doubt is ended alone"));
        }
        let called = async move {
            // The making of the future may panic as well.
            let calling = AssertUnwindSafe(async move {
                let answering =
                    if recall { resource.recall(branch) } else { resource.call(branch, call) };
                answering.await
            });
            let returned = match calling.catch_unwind().await {
                Ok(Ok(returned)) => returned,
                Ok(Err(retry)) => {
                    let why = retry.why;
                    tracing::debug!(?why, "the resource says later");
                    Returned::Retry(why)
                }
                Err(_) => {
                    tracing::error!("the resource panicked: called again");
                    Returned::Retry("its resource panicked".to_owned())
                }
            };
            (branch, returned)
        };
        self.calls.push(Box::pin(called.instrument(span)));
    }

    fn send(&mut self, branch: &BranchId, answer: Answer) {
        let vote = matches!(answer, Answer::Voted(_));
        if vote {
            crash_point("participant.vote.before_send");
        } else {
            crash_point("participant.ack.before_send");
        }
        if let Some(body) = wire::say(branch, answer).body {
            self.say(body);
        }
        if vote {
            crash_point("participant.vote.after_send");
        } else {
            crash_point("participant.ack.after_send");
        }
    }

    /// Said or dropped: everything is repeated by those who wait for it.
    fn say(&mut self, body: Say) {
        if self.session.send(v1::ParticipateRequest { body: Some(body) }).is_err() {
            tracing::debug!("a message was dropped: no session that takes it");
        }
    }

    async fn stop(&mut self) {
        self.joins.give_up(&JoinError::Stopped);
        let patience = Instant::now() + STOP_CALLS_PATIENCE;
        self.carry_out();
        while let Ok(Some((branch, returned))) = timeout_at(patience, self.calls.next()).await {
            self.on_returned(branch, returned);
            self.carry_out();
        }
        self.session.finish(STOP_SESSION_PATIENCE).await;
        self.enter(ParticipantState::Stopped);
        tracing::info!(participant = %self.name, "stopped");
    }
}
