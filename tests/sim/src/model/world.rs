//! A state of the model: everything that a coordinator, its participants, their logs, the network
//! and one client can differ in.

use super::part::Part;
use crate::bank::{Bank, BankRecord, Moves};
use crate::invariants::{Fact, Ledger, Violation};
use unanimous_core::coordinator::{Recovered, Start};
use unanimous_core::id::resource_manager;
use unanimous_core::message::EnlistRefusal;
use unanimous_core::participant::{Order, Participant, Returned, Times};
use unanimous_core::{
    Answer, Bqual, BranchId, CallerId, Coordinator, FrameNumber, Gtrid, InstanceId, Limits, LogId,
    Lsn, Millis, Owner, ParticipantName, Record, ResourceId,
};

/// The one log of every world.
const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 0x5eed };

/// What a branch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Work {
    /// Changes data, and can be prepared.
    Writes,
    /// Changes nothing.
    Reads,
    /// Cannot be prepared.
    Overdraws,
}

/// What may still go wrong, or happen once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Budget {
    /// Deaths of a process, with its page cache or without.
    pub crashes: u8,
    /// Letters delivered once more.
    pub duplicates: u8,
    /// Deadlines that come, at any node.
    pub ticks: u8,
}

/// A message on its way. Who sent it may be dead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Letter {
    /// To the coordinator.
    Up { from: usize, up: Up },
    /// To a participant.
    Down { to: usize, down: Down },
}

impl Letter {
    pub(super) fn tell(&self) -> String {
        match self {
            Self::Up { from, up } => format!("participant {from} to the coordinator: {up:?}"),
            Self::Down { to, down } => format!("the coordinator to participant {to}: {down:?}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Up {
    Enlist { instance: InstanceId },
    Answer(Answer),
    Inquire,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Down {
    Enlisted(Result<u64, EnlistRefusal>),
    Order(Owner, Order),
}

/// The coordinator's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Log {
    pub(super) durable: Vec<Record>,
    /// Handed over, not durable: a crash keeps any prefix of them.
    pub(super) in_flight: Vec<Record>,
}

impl Log {
    /// Each record is a frame of its own; a flush makes several durable. How they are grouped then
    /// makes no difference between states.
    pub(super) fn frame(&self) -> FrameNumber {
        FrameNumber(self.durable.len() as u64)
    }

    pub(super) fn lsn(&self) -> Lsn {
        Lsn(self.durable.len() as u64)
    }

    pub(super) fn fold(&self) -> Recovered {
        let mut recovered = Recovered::default();
        for (lsn, record) in (1..).zip(&self.durable) {
            recovered.fold(Lsn(lsn), record.clone());
        }
        recovered
    }
}

/// A participant: its process and its bank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    /// There while the process lives.
    pub(super) core: Option<Part<Participant>>,
    pub(super) now: Millis,
    pub(super) bank: Part<Bank>,
    pub(super) records: Part<Vec<BankRecord>>,
    /// The resource call under way: the record it waits for, and what it returns.
    pub(super) call: Option<Part<(Option<BankRecord>, Returned)>>,
    /// With the coordinator's present life.
    pub(super) session: bool,
    /// The work waits for the branch's enlistment.
    pub(super) joining: bool,
    pub(super) life: u8,
}

/// What the client asks for in the end. It may ask for a rollback after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Commit.
    Commit,
    /// Roll back.
    Rollback,
}

impl Call {
    pub(super) fn caller(self) -> CallerId {
        match self {
            Self::Commit => COMMIT,
            Self::Rollback => ROLLBACK,
        }
    }
}

pub(super) const NOBODY: CallerId = CallerId(0);
const COMMIT: CallerId = CallerId(1);
const ROLLBACK: CallerId = CallerId(2);
/// Waits for nothing: it only learns what it could be told now.
pub(super) const OBSERVER: CallerId = CallerId(3);
/// Callers from here on are participants that enlist; then participants that ask.
pub(super) const ENLISTS: u64 = 10;
pub(super) const INQUIRES: u64 = 20;

/// The client of the one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// By participant: it has been asked for its work.
    pub(super) asked: Vec<bool>,
    /// Pieces of work that are done.
    pub(super) worked: usize,
    /// A piece of work was refused: no commit any more.
    pub(super) refused: bool,
    pub(super) calls: Vec<Call>,
    /// Calls without a reply.
    pub(super) waiting: Vec<CallerId>,
}

/// A state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) work: Vec<Work>,
    pub(super) coordinator: Option<Part<Coordinator>>,
    pub(super) now: Millis,
    pub(super) log: Part<Log>,
    pub(super) nodes: Vec<Node>,
    /// A multiset: in the order of their keys.
    pub(super) letters: Vec<Part<Letter>>,
    pub(super) gtrid: Gtrid,
    pub(super) client: Client,
    pub(super) budget: Budget,
    /// Something has stood in the transaction's way.
    pub(super) disturbed: bool,
    pub(super) ledger: Part<Ledger>,
    pub(super) violation: Option<Violation>,
}

pub(super) fn participant_name(who: usize) -> ParticipantName {
    ParticipantName::new(["bank-a", "bank-b", "bank-c"][who]).expect("a name")
}

pub(super) fn resource_id() -> ResourceId {
    ResourceId::new("accounts").expect("a resource id")
}

pub(super) fn new_bank() -> Bank {
    Bank::new(1, false, false)
}

fn times() -> Times {
    Times::default()
}

impl Node {
    fn new() -> Self {
        Self {
            core: Some(Part::new(Participant::new(times(), 1))),
            now: Millis(0),
            bank: Part::new(new_bank()),
            records: Part::new(Vec::new()),
            call: None,
            session: false,
            joining: false,
            life: 0,
        }
    }

    pub(super) fn instance(&self, who: usize) -> InstanceId {
        let mut bytes = [self.life; 16];
        bytes[0] = u8::try_from(who).unwrap_or(0);
        InstanceId(bytes)
    }

    /// A new process on what the disk holds.
    pub(super) fn start(&mut self) {
        self.core = Some(Part::new(Participant::new(times(), 1)));
        let mut bank = new_bank();
        self.records.iter().for_each(|record| bank.apply(record));
        self.bank = Part::new(bank);
    }
}

impl World {
    /// The coordinator's first life has begun, all sessions are open and the client has its
    /// transaction.
    pub(super) fn new(work: &[Work], budget: Budget) -> Self {
        let mut world = Self {
            work: work.to_vec(),
            coordinator: None,
            now: Millis(0),
            log: Part::new(Log::default()),
            nodes: work.iter().map(|_| Node::new()).collect(),
            letters: Vec::new(),
            gtrid: Gtrid::new(Owner { log: LOG, epoch: 1 }, 0, 0),
            client: Client { asked: vec![false; work.len()], ..Client::default() },
            budget,
            disturbed: false,
            ledger: Part::new(Ledger::default()),
            violation: None,
        };
        world.start_coordinator();
        world.flush();
        for who in 0..work.len() {
            world.connect(who);
        }
        world.flush();
        world.begin();
        world.seal();
        world
    }

    /// What the work of a participant changes: in sum nothing, if all write.
    pub(super) fn moves(&self, who: usize) -> Moves {
        let others = i64::try_from(self.work.len()).unwrap_or(0) - 1;
        match self.work[who] {
            Work::Writes if who == 0 => vec![(0, 10 * others)],
            Work::Writes => vec![(0, -10)],
            Work::Reads => Vec::new(),
            Work::Overdraws => vec![(0, -1_000)],
        }
    }

    pub(super) fn branch(&self, who: usize) -> BranchId {
        let manager = resource_manager(&participant_name(who), &resource_id());
        let number = u32::try_from(who).unwrap_or(0) + 1;
        let bqual = Bqual::new(manager, number, self.gtrid.owner());
        BranchId { gtrid: self.gtrid, bqual }
    }

    pub(super) fn start_coordinator(&mut self) {
        let recovered = self.log.fold();
        self.fact(&Fact::Recovered(&recovered));
        let start = Start {
            log: LOG,
            frame: self.log.frame(),
            next_lsn: Lsn(self.log.lsn().0 + 1),
            unix_seconds: 0,
            seed: 1,
        };
        let core = Coordinator::start(Limits::default(), start, self.now, recovered);
        self.coordinator = Some(Part::new(core));
        self.carry_out();
    }

    /// Shows a fact to every invariant.
    pub(super) fn fact(&mut self, fact: &Fact<'_>) {
        if self.violation.is_none()
            && let Err(violation) = self.ledger.edit().take(fact)
        {
            self.violation = Some(violation);
        }
    }

    pub(super) fn violate(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, detail });
        }
    }

    /// Into the one form of all states that behave the same.
    ///
    /// Counters and versions are for people; the order of letters, and how often a client was told
    /// the same, is nobody's business.
    pub(super) fn seal(&mut self) {
        if let Some(core) = &mut self.coordinator {
            let canonical = core.canonical(Millis(0));
            if canonical != **core {
                *core.edit() = canonical;
            }
            core.seal();
        }
        for node in &mut self.nodes {
            if let Some(core) = &mut node.core {
                core.seal();
            }
            node.bank.seal();
            node.records.seal();
        }
        self.log.seal();
        self.letters.sort_by_key(Part::key);
        let repeats = |told: &[unanimous_core::Outcome]| !told.is_sorted_by(|a, b| a < b);
        if self.ledger.transactions.iter().any(|known| repeats(&known.answered)) {
            for known in &mut self.ledger.edit().transactions {
                known.answered.sort();
                known.answered.dedup();
            }
        }
        self.ledger.seal();
    }
}
