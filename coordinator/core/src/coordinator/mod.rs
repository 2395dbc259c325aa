//! The coordinator's state machine (sections 3, 6 and 7).
//!
//! Kinds of methods, in the order they are used:
//! - [`Recovered::fold`] takes the log's records, [`Coordinator::start`] begins a life on them.
//! - [`Coordinator::handle`] takes one event, [`Coordinator::poll`] gives out actions until there
//!   are none, [`Coordinator::deadline`] tells when to send [`Event::Ticked`].
//! - [`Coordinator::transactions`], [`Coordinator::counters`] and the like only look.
//!
//! Files, in the order a transaction lives: `begin` (begin, enlist), `commit` (commit, votes,
//! decide, flushed), `finish` (acknowledgements, heuristics, forget), `outcomes` (what is
//! remembered), `inquire` (clients and participants ask), `attach` (participants come back),
//! `operate` (operators act), `timer`, `recover`, `compact` (what is live moves on in the log).

mod attach;
mod begin;
mod commit;
mod compact;
mod finish;
mod inquire;
mod operate;
mod outcomes;
mod recover;
mod table;
mod timer;

pub use attach::KnownParticipant;
pub use operate::Planned;
pub use recover::{Recovered, Start};
pub use table::{Branch, BranchState, State, Transaction};

use crate::audit::AuditEntry;
use crate::id::{BranchId, Gtrid, LogId, Owner, ParticipantName};
use crate::message::{Action, Event, Message, Request, Response, RollbackCause, Route};
use crate::museum::{Bug, on};
use crate::outcome::{Decision, Outcome};
use crate::presume::Standing;
use crate::record::Record;
use crate::{CallerId, FrameNumber, Lsn, Millis};
use attach::Redrive;
use compact::{Homes, Item};
use operate::Recorded;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use timer::TimerKind;

/// What bounds the coordinator, and its times.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Transactions in the table; at the limit `Begin` is refused with a retry hint.
    pub transactions_max: usize,
    /// Branches in one transaction; at the limit `Enlist` is refused.
    pub branches_max: usize,
    /// Time-out of a transaction that asks for none.
    pub timeout_ms_default: u64,
    /// The longest time-out; more is refused.
    pub timeout_ms_max: u64,
    /// First delay before a message is sent again.
    pub retry_ms_min: u64,
    /// Longest delay before a message is sent again.
    pub retry_ms_max: u64,
    /// How often a rollback is sent to a participant that asks for itself, before it is left to
    /// ask.
    pub rollback_tries_max: u32,
    /// How often a forget is sent; a participant that still reports its heuristic result gets
    /// another one.
    pub forget_tries_max: u32,
    /// How often a one-phase commit is sent to the process that holds the work, before another one
    /// of the same participant is asked what became of it.
    pub holder_tries: u32,
    /// After waiting this long in phase two, a transaction counts as stuck.
    pub stuck_after_ms: u64,
    /// Remembered outcomes; beyond it the oldest are dropped, after a durable floor: a client that
    /// asks about one of them is told "unknown".
    pub outcomes_max: usize,
    /// How long an outcome is remembered at most; then it is dropped in the same way.
    pub outcome_retention_ms: u64,
    /// Exceptions in the ended mark; with more unfinished ones the mark stays behind them.
    pub exceptions_max: usize,
    /// Transactions driven again without an answer when a participant has come back; the next one
    /// follows with each answer.
    pub redrive_window: usize,
    /// Timers handled by one [`Event::Ticked`], and transactions looked at in one go when a
    /// participant has come back; the deadline stays in the past until all are.
    pub ticks_max: usize,
    /// Entries of the audit, which are kept for ever; at the limit acts are refused.
    pub audit_max: usize,
    /// Participants that the log remembers; further ones are served, but not listed while away.
    pub participants_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transactions_max: 200_000,
            branches_max: 64,
            timeout_ms_default: 30_000,
            timeout_ms_max: 24 * 3_600_000,
            retry_ms_min: 200,
            retry_ms_max: 60_000,
            rollback_tries_max: 5,
            forget_tries_max: 5,
            holder_tries: 4,
            stuck_after_ms: 60_000,
            outcomes_max: 100_000,
            outcome_retention_ms: 600_000,
            exceptions_max: 64,
            redrive_window: 256,
            ticks_max: 1_000,
            audit_max: 20_000,
            participants_max: 10_000,
        }
    }
}

/// What the coordinator has counted since its start. Not part of its behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Transactions begun.
    pub begun: u64,
    /// Ended with commit decided or nothing to do.
    pub committed: u64,
    /// Ended with rollback decided.
    pub rolled_back: u64,
    /// Branches that ended otherwise than decided.
    pub heuristic: u64,
    /// Transactions that operators rolled back, and branches whose end they asserted or gave up.
    pub forced: u64,
    /// Requests refused for a limit.
    pub refused: u64,
    /// Transactions taken over from the log.
    pub recovered: u64,
    /// Those finished since.
    pub recovered_finished: u64,
    /// Messages that no state allows: late, repeated in a wrong state, or against the protocol.
    pub unexpected: u64,
}

/// Tells participants what they may forget: everything of `log` up to (epoch, sequence) but the
/// exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndedMark {
    /// Of which log.
    pub log: LogId,
    /// Highest epoch.
    pub epoch: u32,
    /// Highest sequence in it.
    pub sequence: u64,
    /// Not ended.
    pub exceptions: Vec<Gtrid>,
}

/// The coordinator's state machine. See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    limits: Limits,
    owner: Owner,
    /// Jitter's seed.
    seed: u64,
    next_sequence: u64,
    next_lsn: u64,
    /// The highest durable record.
    durable: Lsn,
    /// The highest durable frame.
    frame: FrameNumber,
    /// The highest durable frame when this life began.
    frame_at_start: FrameNumber,
    /// A participant was told more than this log holds.
    log_behind: bool,
    /// This life's first record is durable: it may speak.
    started: bool,
    /// Too little space for new decisions.
    storage_low: bool,
    transactions: BTreeMap<Gtrid, Transaction>,
    /// The transactions in the table with a branch of each participant.
    concerned: BTreeMap<ParticipantName, BTreeSet<Gtrid>>,
    /// Participants whose pending branches are being driven again since they came back.
    redrives: BTreeMap<ParticipantName, Redrive>,
    /// Those of them that the next tick goes on with.
    redrives_cut_short: BTreeSet<ParticipantName>,
    /// Those that the log remembers.
    participants: BTreeMap<ParticipantName, KnownParticipant>,
    timers: BTreeSet<(Millis, Gtrid, TimerKind)>,
    /// What happens when a record is durable.
    awaited: BTreeMap<Lsn, Awaited>,
    /// Transactions of this log that may still be driven after a crash: in the table, or ended but
    /// not durably.
    unended: BTreeSet<Gtrid>,
    outcomes: BTreeMap<Gtrid, Remembered>,
    outcome_floor: Option<(u32, u64)>,
    floor_pending: bool,
    /// When the oldest outcomes are looked at again.
    outcomes_check_at: Option<Millis>,
    /// Where in the log the state of everything live begins.
    homes: Homes,
    floor_home: Option<Lsn>,
    boot_home: Lsn,
    /// What operators did, with the record that says so.
    audit: BTreeMap<u64, (AuditEntry, Lsn)>,
    /// Acts whose entry is being written, by its record.
    acts: BTreeMap<Lsn, Recorded>,
    /// What operators decided about prepared branches that no log knows.
    orphan_decisions: BTreeMap<BranchId, Decision>,
    /// The log may be cut below the second when the first is durable.
    cut: Option<(Lsn, Lsn)>,
    actions: VecDeque<Action>,
    counters: Counters,
}

/// A finished transaction, as remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Remembered {
    outcome: Outcome,
    cause: Option<RollbackCause>,
    /// The branches of phase two; any other is told rollback.
    branches: Box<[crate::Bqual]>,
    /// Branches that decided alone, as decided, and have not said that they forgot: they may report
    /// again, and must not be judged by presumption then. With one, it is kept whatever the floor.
    unforgotten: BTreeSet<crate::Bqual>,
    /// When it ended; for a recovered one, when this life began.
    ended_at: Millis,
    /// The first of the records that tell it; `None`: the log does not know it.
    home: Option<Lsn>,
}

/// What waits for a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Awaited {
    /// This life's first record.
    Boot,
    /// The decision commit.
    Commit(Gtrid),
    /// A result that contradicts the decision.
    Heuristic(Gtrid),
    /// A branch decided alone, and as decided: it may forget then.
    Matched(Route, BranchId),
    /// An End.
    End(Gtrid),
    /// A new outcome floor.
    Floor(u32, u64),
    /// The entry of an operator's act.
    Act,
    /// An entry that has no effect on a transaction.
    Audited(CallerId),
}

impl Coordinator {
    /// Takes one event. Poll all actions before the next.
    pub fn handle(&mut self, now: Millis, event: Event) {
        match event {
            Event::Requested { by, request } => self.on_requested(now, by, request),
            Event::Answered { from, resource, branch, answer } => {
                self.on_answered(now, from, resource, branch, answer);
            }
            Event::Flushed { upto, frame } => self.on_flushed(now, upto, frame),
            Event::Ticked => self.on_ticked(now),
        }
    }

    fn on_requested(&mut self, now: Millis, by: CallerId, request: Request) {
        match request {
            Request::Begin { name, labels, timeout_ms } => {
                self.on_begin(now, by, name, labels, timeout_ms);
            }
            Request::Enlist(enlistment) => self.on_enlist(now, by, enlistment),
            Request::Commit { gtrid, expected_branches, wait } => {
                self.on_commit(now, by, gtrid, expected_branches, wait);
            }
            Request::Rollback { gtrid } => self.on_rollback(now, by, gtrid),
            Request::Resolve { gtrid, expected_branches, wait } => {
                self.on_resolve(by, gtrid, expected_branches, wait);
            }
            Request::Retry { gtrid } => self.on_retry(now, by, gtrid),
            Request::Operate { gtrid, version, act, entry } => {
                self.on_operate(by, gtrid, version, act, *entry);
            }
            Request::Audit { entry } => self.on_audit(by, *entry),
            Request::Inquire { from, branch } => self.on_inquire(by, &from, branch),
            Request::Attach { participant, resources, seen } => {
                self.on_attach(now, participant, resources, &seen);
            }
            Request::Compact { upto, items_max } => self.on_compact(upto, items_max),
            Request::Storage { low } => self.storage_low = low,
        }
    }

    /// The next action to carry out.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Ticked`]; `None`: there is nothing to wait for.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let timer = self.timers.first().map(|(at, _, _)| *at);
        let now = self.redrives_cut_short.first().map(|_| Millis(0));
        timer.into_iter().chain(self.outcomes_check_at).chain(now).min()
    }

    /// This life.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// What bounds it.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Unfinished and heuristic transactions, from `from` on, in the order they began.
    pub fn transactions(
        &self,
        from: Option<Gtrid>,
    ) -> impl Iterator<Item = (&Gtrid, &Transaction)> {
        use std::ops::Bound;
        let lower = from.map_or(Bound::Unbounded, Bound::Included);
        self.transactions.range((lower, Bound::Unbounded))
    }

    /// One unfinished or heuristic transaction.
    #[must_use]
    pub fn transaction(&self, gtrid: &Gtrid) -> Option<&Transaction> {
        self.transactions.get(gtrid)
    }

    /// The participants that the log remembers, in the order of their names.
    pub fn participants(&self) -> impl Iterator<Item = (&ParticipantName, &KnownParticipant)> {
        self.participants.iter()
    }

    /// The outcome of a finished transaction, while it is remembered.
    #[must_use]
    pub fn outcome(&self, gtrid: &Gtrid) -> Option<Outcome> {
        self.outcomes.get(gtrid).map(|remembered| remembered.outcome)
    }

    /// How many finished transactions are remembered.
    #[must_use]
    pub fn outcomes_len(&self) -> usize {
        self.outcomes.len()
    }

    /// How many unfinished and heuristic transactions there are.
    #[must_use]
    pub fn transactions_len(&self) -> usize {
        self.transactions.len()
    }

    /// A participant was told a frame that this log does not hold: it went back in time, and
    /// nothing is presumed.
    #[must_use]
    pub fn log_behind(&self) -> bool {
        self.log_behind
    }

    /// What participants may forget. It never passes a transaction that could be driven again, even
    /// after a power loss now.
    #[must_use]
    pub fn ended_mark(&self) -> Option<EndedMark> {
        let last_sequence = self.next_sequence.checked_sub(1)?;
        let exceptions: Vec<Gtrid> =
            self.unended.iter().take(self.limits.exceptions_max).copied().collect();
        let (epoch, sequence) = match self.unended.iter().nth(self.limits.exceptions_max) {
            Some(_) if on(Bug::MarkPassesTheRest) => (self.owner.epoch, last_sequence),
            None => (self.owner.epoch, last_sequence),
            // Just below the first one that has no room; below sequence 0 the mark would fall into
            // an older epoch.
            Some(first) => (first.owner().epoch, first.sequence().checked_sub(1)?),
        };
        let exceptions = if on(Bug::MarkWithoutExceptions) { Vec::new() } else { exceptions };
        Some(EndedMark { log: self.owner.log, epoch, sequence, exceptions })
    }

    /// The state without counters, and with times as distances from `now`: equal for states that
    /// behave the same. For model checkers.
    #[must_use]
    pub fn canonical(&self, now: Millis) -> Self {
        let mut copy = self.clone();
        copy.counters = Counters::default();
        let relative = |at: Millis| Millis(at.0.wrapping_sub(now.0));
        copy.timers =
            self.timers.iter().map(|(at, gtrid, kind)| (relative(*at), *gtrid, *kind)).collect();
        for transaction in copy.transactions.values_mut() {
            transaction.begun_at = Millis(0);
            transaction.phase_since = Millis(0);
            transaction.version = 0;
            transaction.timeout_at = relative(transaction.timeout_at);
        }
        for remembered in copy.outcomes.values_mut() {
            remembered.ended_at = relative(remembered.ended_at);
        }
        copy.outcomes_check_at = self.outcomes_check_at.map(relative);
        for redrive in copy.redrives.values_mut() {
            redrive.moved_at = relative(redrive.moved_at);
        }
        copy
    }

    fn standing(&self) -> Standing {
        Standing {
            owner: self.owner,
            next_sequence: self.next_sequence,
            log_behind: self.log_behind,
            outcome_floor: self.outcome_floor,
        }
    }

    /// After each record that tells the transaction's state, and forced if that is, so that both
    /// are in one group. A crash may still tear the two apart, which loses words only.
    fn append_labels(&mut self, gtrid: Gtrid, force: bool) {
        let Some(labels) = self.transactions.get(&gtrid).map(|known| known.labels.clone()) else {
            return;
        };
        if !labels.is_empty() {
            self.append(Record::Labelled { gtrid, labels }, force);
        }
    }

    fn append(&mut self, record: Record, force: bool) -> Lsn {
        let lsn = Lsn(self.next_lsn);
        self.next_lsn += 1;
        self.actions.push_back(Action::Append { lsn, record, force });
        lsn
    }

    fn send(&mut self, gtrid: Gtrid, branch: &Branch, message: Message) {
        let mut to = branch.route();
        // The work of a one-phase branch is in its process and nowhere else. That may only be cut
        // off: its peers are asked when it stays away.
        let tries = self.transactions.get(&gtrid).map_or(0, |transaction| transaction.tries);
        to.holder_only = message == Message::CommitOnePhase && tries < self.limits.holder_tries;
        let branch = BranchId { gtrid, bqual: branch.bqual };
        self.actions.push_back(Action::Send { to, branch, message });
    }

    fn reply(&mut self, to: CallerId, response: Response) {
        self.actions.push_back(Action::Reply { to, response });
    }
}
