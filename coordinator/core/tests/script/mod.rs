//! Writes a conversation with the coordinator down, line by line, and compares it with the golden
//! file.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use unanimous_core::coordinator::{Coordinator, Limits, Recovered, Start};
use unanimous_core::id::{LogId, Owner, resource_manager};
use unanimous_core::message::{
    Action, Answer, Done, Enlistment, Event, Message, Request, Response, Verdict, Vote, Wait,
};
use unanimous_core::record::Evidence;
use unanimous_core::{
    AuditEntry, Bqual, BranchId, CallerId, Decision, FrameNumber, Gtrid, InstanceId, Labels, Lsn,
    Millis, ParticipantName, Record, ResourceId, TransactionName,
};

pub(crate) const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 0xabcd };

pub(crate) struct Script {
    pub(crate) coordinator: Coordinator,
    pub(crate) now: Millis,
    /// What callers were told, in order.
    pub(crate) replies: Vec<Response>,
    /// Messages to branches.
    pub(crate) sends: usize,
    text: String,
    gtrid: Option<Gtrid>,
    begun: usize,
    caller: u64,
    limits: Limits,
    /// Records handed to the log, and how many of them are durable.
    log: Vec<Record>,
    durable: usize,
    /// What the log may have dropped.
    dropped_below: Lsn,
    frame: u64,
}

pub(crate) fn participant(number: u32) -> ParticipantName {
    ParticipantName::new(&format!("p{number}")).unwrap()
}

pub(crate) fn resource(number: u32) -> ResourceId {
    ResourceId::new(&format!("r{number}")).unwrap()
}

pub(crate) fn limits() -> Limits {
    Limits {
        timeout_ms_default: 2_000,
        retry_ms_min: 200,
        retry_ms_max: 1_000,
        ..Limits::default()
    }
}

impl Script {
    pub(crate) fn new(title: &str) -> Self {
        Self::with_limits(title, limits())
    }

    pub(crate) fn with_limits(title: &str, limits: Limits) -> Self {
        let mut script = Self {
            coordinator: Self::life(&limits, Recovered::default(), 0, 1, Millis(0)),
            limits,
            now: Millis(0),
            replies: Vec::new(),
            sends: 0,
            text: format!("# {title}\n"),
            gtrid: None,
            begun: 0,
            caller: 0,
            log: Vec::new(),
            durable: 0,
            dropped_below: Lsn(1),
            frame: 0,
        };
        script.drain();
        script.flushed();
        script
    }

    fn life(
        limits: &Limits,
        recovered: Recovered,
        frame: u64,
        next_lsn: u64,
        now: Millis,
    ) -> Coordinator {
        let start = Start {
            log: LOG,
            frame: FrameNumber(frame),
            next_lsn: Lsn(next_lsn),
            unix_seconds: 1_000,
            seed: 7,
        };
        Coordinator::start(limits.clone(), start, now, recovered)
    }

    pub(crate) fn gtrid(&self) -> Gtrid {
        self.gtrid.expect("a transaction was begun")
    }

    pub(crate) fn branch(&self, number: u32) -> BranchId {
        let manager = resource_manager(&participant(number), &resource(number));
        let owner = self.gtrid().owner();
        BranchId { gtrid: self.gtrid(), bqual: Bqual::new(manager, number, owner) }
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").unwrap();
    }

    fn event(&mut self, words: &str, event: Event) -> &mut Self {
        self.line(&format!("> {words}"));
        self.coordinator.handle(self.now, event);
        self.drain();
        self
    }

    pub(crate) fn ask(&mut self, words: &str, request: Request) -> &mut Self {
        self.caller += 1;
        let by = CallerId(self.caller);
        self.event(&format!("#{} {words}", self.caller), Event::Requested { by, request })
    }

    fn drain(&mut self) {
        while let Some(action) = self.coordinator.poll() {
            let line = match action {
                Action::Append { lsn, record, force } => {
                    let how = if force { "force" } else { "lazy" };
                    let line = format!("  log {how} {}: {}", lsn.0, self.record(&record));
                    self.log.push(record);
                    line
                }
                Action::Send { to, branch, message } => {
                    self.sends += 1;
                    let number = branch.bqual.as_bytes()[7];
                    assert_eq!(to.participant, participant(number.into()));
                    let whom = if to.holder_only { " (the holder only)" } else { "" };
                    format!("  send {}{whom} {}", to.participant, message_words(&message))
                }
                Action::Drop { below } => {
                    self.dropped_below = below;
                    format!("  drop below {}", below.0)
                }
                Action::Reply { to, response } => {
                    if let Response::Begun { gtrid, .. } = &response {
                        self.gtrid = Some(*gtrid);
                        self.begun += 1;
                    }
                    let line = format!("  reply #{} {}", to.0, response_words(&response));
                    self.replies.push(response);
                    line
                }
            };
            self.line(&line);
        }
    }

    fn record(&self, record: &Record) -> String {
        let branches = |branches: &[unanimous_core::record::BranchRecord]| {
            let one = |branch: &unanimous_core::record::BranchRecord| match branch.result {
                None => branch.participant.to_string(),
                Some(result) => format!("{}={result:?}", branch.participant),
            };
            branches.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        match record {
            Record::Boot { epoch } => format!("Boot epoch {epoch}"),
            Record::Commit { branches: of, .. } => format!("Commit [{}]", branches(of)),
            Record::Heuristic { decision, branches: of, .. } => {
                format!("Heuristic decided {decision:?} [{}]", branches(of))
            }
            Record::Matched { result, .. } => format!("Matched {result:?}"),
            Record::End { .. } => "End".to_owned(),
            Record::OutcomeFloor { epoch, sequence } => format!("OutcomeFloor {epoch}/{sequence}"),
            Record::Carried { decision, heuristic, branches: of, matched, .. } => {
                let heuristic = if *heuristic { " heuristic" } else { "" };
                let matched = matched.len();
                format!("Carried{heuristic} {decision:?} [{}] matched {matched}", branches(of))
            }
            Record::CarriedOutcomes { committed } => {
                let unforgotten: usize = committed.iter().map(|one| one.unforgotten.len()).sum();
                format!("CarriedOutcomes {} unforgotten {unforgotten}", committed.len())
            }
            Record::Forgotten { .. } => "Forgotten".to_owned(),
            Record::Participant { name, resources } => {
                format!("Participant {name} {resources:?}")
            }
            Record::Forced { decision, branches: of, asserted, resolved, .. } => {
                let resolved = if *resolved { " resolved" } else { "" };
                let asserted = asserted.len();
                format!("Forced{resolved} {decision:?} [{}] asserted {asserted}", branches(of))
            }
            Record::OperatorAct { entry } => {
                let AuditEntry { number, who, kind, result, .. } = &**entry;
                format!("OperatorAct {number} {who} {kind:?} {result:?}")
            }
            Record::Labelled { labels, .. } => {
                format!("Labelled {:?}", labels.iter().collect::<Vec<_>>())
            }
        }
    }

    pub(crate) fn begin(&mut self) -> &mut Self {
        self.begin_labelled(&[])
    }

    pub(crate) fn begin_labelled(&mut self, labels: &[(&str, &str)]) -> &mut Self {
        let name = TransactionName::new("transfer").unwrap();
        let labels = Labels::new(labels.iter().copied()).unwrap();
        self.ask("begin", Request::Begin { name, labels, timeout_ms: 0 })
    }

    pub(crate) fn retry(&mut self) -> &mut Self {
        self.ask("retry", Request::Retry { gtrid: self.gtrid() })
    }

    pub(crate) fn enlist(&mut self, number: u32) -> &mut Self {
        let enlistment = Enlistment {
            branch: self.branch(number),
            participant: participant(number),
            instance: InstanceId([number.try_into().unwrap(); 16]),
            resource: resource(number),
            inquires: true,
            vote: None,
        };
        self.ask(&format!("p{number} enlists"), Request::Enlist(enlistment))
    }

    pub(crate) fn commit(&mut self, expected_branches: Option<u32>, wait: Wait) -> &mut Self {
        let gtrid = self.gtrid();
        let words = format!("commit, counted {expected_branches:?}, wait {wait:?}");
        self.ask(&words, Request::Commit { gtrid, expected_branches, wait })
    }

    pub(crate) fn rollback(&mut self) -> &mut Self {
        let gtrid = self.gtrid();
        self.ask("rollback", Request::Rollback { gtrid })
    }

    pub(crate) fn resolve(&mut self, expected_branches: Option<u32>) -> &mut Self {
        let gtrid = self.gtrid();
        let words = format!("what became of it? counted {expected_branches:?}");
        self.ask(&words, Request::Resolve { gtrid, expected_branches, wait: false })
    }

    pub(crate) fn inquire(&mut self, number: u32) -> &mut Self {
        let (from, branch) = (participant(number), self.branch(number));
        self.ask(&format!("p{number} inquires"), Request::Inquire { from, branch })
    }

    pub(crate) fn attach(&mut self, number: u32) -> &mut Self {
        self.attach_seen(number, Vec::new(), "")
    }

    pub(crate) fn attach_having_seen(&mut self, number: u32, frame: u64) -> &mut Self {
        let owner: Owner = self.gtrid().owner();
        let words = format!(" having seen frame {frame} of that life");
        self.attach_seen(number, vec![(owner, FrameNumber(frame))], &words)
    }

    fn attach_seen(
        &mut self,
        number: u32,
        seen: Vec<(Owner, FrameNumber)>,
        words: &str,
    ) -> &mut Self {
        let request = Request::Attach {
            participant: participant(number),
            resources: vec![resource(number)],
            seen,
        };
        let event = Event::Requested { by: CallerId(0), request };
        self.event(&format!("p{number} attaches{words}"), event)
    }

    pub(crate) fn answered(&mut self, number: u32, words: &str, answer: Answer) -> &mut Self {
        let event = Event::Answered {
            from: participant(number),
            resource: resource(number),
            branch: self.branch(number),
            answer,
        };
        self.event(&format!("p{number} {words}"), event)
    }

    pub(crate) fn votes_commit(&mut self, number: u32) -> &mut Self {
        let evidence = Some(Evidence { kind: "test".to_owned(), data: vec![1] });
        self.answered(number, "votes commit", Answer::Voted(Vote::Commit { evidence }))
    }

    pub(crate) fn votes_read_only(&mut self, number: u32) -> &mut Self {
        self.answered(number, "votes read-only", Answer::Voted(Vote::ReadOnly))
    }

    pub(crate) fn votes_rollback(&mut self, number: u32, reason: &str) -> &mut Self {
        let vote = Vote::Rollback { reason: reason.to_owned() };
        self.answered(number, &format!("votes rollback: {reason}"), Answer::Voted(vote))
    }

    pub(crate) fn done(&mut self, number: u32) -> &mut Self {
        self.acknowledges(number, Done::Done, "")
    }

    pub(crate) fn acknowledges(&mut self, number: u32, done: Done, detail: &str) -> &mut Self {
        let words = format!("acknowledges {done:?} {detail}");
        let answer = Answer::Acknowledged { done, detail: detail.to_owned() };
        self.answered(number, words.trim_end(), answer)
    }

    /// Everything handed to the log is durable.
    pub(crate) fn flushed(&mut self) -> &mut Self {
        self.durable = self.log.len();
        self.frame += 1;
        let upto = Lsn(self.durable.try_into().unwrap());
        let words = format!("flushed up to {} in frame {}", upto.0, self.frame);
        self.event(&words, Event::Flushed { upto, frame: FrameNumber(self.frame) })
    }

    /// One step of a compaction of everything that is durable.
    pub(crate) fn compact(&mut self, items_max: usize) -> &mut Self {
        self.compact_upto(self.durable(), items_max)
    }

    pub(crate) fn compact_upto(&mut self, upto: Lsn, items_max: usize) -> &mut Self {
        let request = Request::Compact { upto, items_max };
        let event = Event::Requested { by: CallerId(0), request };
        self.event(&format!("compact up to {}, {items_max} items", upto.0), event)
    }

    pub(crate) fn storage(&mut self, low: bool) -> &mut Self {
        let event = Event::Requested { by: CallerId(0), request: Request::Storage { low } };
        self.event(if low { "space is low" } else { "space is ample" }, event)
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable.try_into().unwrap())
    }

    pub(crate) fn dropped_below(&self) -> Lsn {
        self.dropped_below
    }

    /// Everything handed to the log.
    pub(crate) fn records(&self) -> &[Record] {
        &self.log
    }

    pub(crate) fn records_of_participants(&self) -> usize {
        self.log.iter().filter(|record| matches!(record, Record::Participant { .. })).count()
    }

    /// A begin that gets no transaction.
    pub(crate) fn refused_begin(&mut self) -> &mut Self {
        let begun = self.begun;
        self.begin();
        assert_eq!(self.begun, begun, "it was refused");
        self
    }

    /// What the log says now: everything, and what is left of it after its drops.
    pub(crate) fn recovered(&self) -> (Recovered, Recovered) {
        let (mut whole, mut left) = (Recovered::default(), Recovered::default());
        for (lsn, record) in (1..).map(Lsn).zip(self.log[..self.durable].iter().cloned()) {
            if lsn >= self.dropped_below {
                left.fold(lsn, record.clone());
            }
            whole.fold(lsn, record);
        }
        (whole, left)
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) -> &mut Self {
        self.now = self.now.plus(ms);
        self.event(&format!("{ms} ms pass"), Event::Ticked)
    }

    pub(crate) fn tick_until_idle(&mut self) -> &mut Self {
        while self.coordinator.deadline().is_some() {
            self.next_deadline();
        }
        self
    }

    pub(crate) fn next_deadline(&mut self) -> &mut Self {
        let deadline = self.coordinator.deadline().expect("there is a deadline");
        let ms = deadline.since(self.now);
        self.wait_ms(ms)
    }

    /// Only what was flushed is left.
    pub(crate) fn restart(&mut self) -> &mut Self {
        self.log.truncate(self.durable);
        self.restart_on_log()
    }

    /// The last durable group is lost as well: the disk, or its copy, went back in time.
    pub(crate) fn lose_tail_and_restart(&mut self) -> &mut Self {
        self.flushed();
        self.log.truncate(self.durable - 1);
        self.frame -= 1;
        self.restart_on_log()
    }

    fn restart_on_log(&mut self) -> &mut Self {
        self.line("> the coordinator starts again");
        let mut recovered = Recovered::default();
        for (lsn, record) in (1..).map(Lsn).zip(self.log.iter().cloned()) {
            if lsn >= self.dropped_below {
                recovered.fold(lsn, record);
            }
        }
        let next_lsn = u64::try_from(self.log.len()).unwrap() + 1;
        self.coordinator = Self::life(&self.limits, recovered, self.frame, next_lsn, self.now);
        self.drain();
        self
    }

    /// From here on it is about a transaction that was not begun here.
    pub(crate) fn stranger(&mut self, gtrid: Gtrid) -> &mut Self {
        self.gtrid = Some(gtrid);
        self.line(&format!("# {gtrid}"));
        self
    }

    /// Everything written down since the last call.
    pub(crate) fn take_text(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Lines of the text so far that begin so, after the indent.
    pub(crate) fn lines(&self, beginning: &str) -> usize {
        self.text.lines().filter(|line| line.trim_start().starts_with(beginning)).count()
    }

    pub(crate) fn note(&mut self, text: &str) -> &mut Self {
        self.line(text);
        self
    }

    pub(crate) fn state(&self) -> String {
        match self.coordinator.transaction(&self.gtrid()) {
            Some(transaction) => format!("{:?}", transaction.state()),
            None => "forgotten".to_owned(),
        }
    }

    pub(crate) fn check(&mut self, name: &str) {
        let counters = format!(
            "= {:?}\n= {} in the table",
            self.coordinator.counters(),
            self.coordinator.transactions_len()
        );
        self.line(&counters);
        let mut settings = insta::Settings::clone_current();
        settings.set_omit_expression(true);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_snapshot_path("../snapshots");
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }
}

fn message_words(message: &Message) -> String {
    match message {
        Message::Prepare => "prepare".to_owned(),
        Message::Decide { decision: Decision::Commit, frame, evidence } => {
            let evidence = if evidence.is_some() { ", evidence" } else { "" };
            format!("commit (frame {}{evidence})", frame.0)
        }
        Message::Decide { decision: Decision::Rollback, .. } => "rollback".to_owned(),
        Message::CommitOnePhase => "commit one phase".to_owned(),
        Message::Forget => "forget".to_owned(),
    }
}

fn response_words(response: &Response) -> String {
    match response {
        Response::Begun { timeout_ms, .. } => format!("begun, {timeout_ms} ms"),
        Response::Enlisted { remaining_ms } => format!("enlisted, {remaining_ms} ms left"),
        Response::EnlistRefused(refusal) => format!("not enlisted: {refusal:?}"),
        Response::Ended(ending) => {
            let completed = if ending.completed { ", completed" } else { "" };
            let cause =
                ending.cause.as_ref().map_or(String::new(), |cause| format!(" ({cause:?})"));
            format!("{:?}{cause}{completed}", ending.outcome)
        }
        Response::Pending => "pending".to_owned(),
        Response::Unknown => "unknown".to_owned(),
        Response::Operated => "done".to_owned(),
        Response::ActRefused(refusal) => format!("refused: {refusal:?}"),
        Response::Overtaken => "overtaken".to_owned(),
        Response::Audited => "in the audit".to_owned(),
        Response::Retried { branches } => format!("sent to {branches} branches"),
        Response::Verdict(Verdict::Commit { frame, evidence }) => {
            format!("commit it (frame {}, evidence {})", frame.0, evidence.is_some())
        }
        Response::Verdict(verdict) => format!("{verdict:?}"),
        Response::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}
