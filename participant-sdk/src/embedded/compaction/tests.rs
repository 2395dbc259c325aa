use super::{Compaction, PIECE_BYTES, Snapshot, Step};
use crate::embedded::fold::Fold;
use crate::embedded::record::{AloneEnd, Mark, Move, Piece, Record};
use crate::embedded::state::State;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use unanimous_core::{Bqual, BranchId, Gtrid, LogId, Lsn, Owner};
use unanimous_recovery::codec;

const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 7 };
const OWNER: Owner = Owner { log: LOG, epoch: 100 };
const ACCOUNTS: u32 = 9;

fn branch(sequence: u64) -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, sequence, 0), bqual: Bqual::new(1, 1, OWNER) }
}

#[derive(Clone, Debug)]
enum Act {
    Prepare(u64, Vec<Move>),
    Commit(u64),
    CommitOnePhase(u64, Vec<Move>),
    RollBack(u64),
    Alone(u64, bool),
    Forget(u64),
    End(u64, Vec<u64>),
    Adjust(u32, i64),
    /// A step of the snapshot, of the next one if none is under way.
    Step,
    /// The process ends and is started again.
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let moves =
        || btree_map(1..=ACCOUNTS, -50..50i64, 1..3).prop_map(|moves| moves.into_iter().collect());
    prop_oneof![
        3 => (0..20u64, moves()).prop_map(|(branch, moves)| Act::Prepare(branch, moves)),
        3 => (0..20u64).prop_map(Act::Commit),
        2 => (0..20u64, moves()).prop_map(|(branch, moves)| Act::CommitOnePhase(branch, moves)),
        1 => (0..20u64).prop_map(Act::RollBack),
        2 => (0..20u64, any::<bool>()).prop_map(|(branch, way)| Act::Alone(branch, way)),
        1 => (0..20u64).prop_map(Act::Forget),
        1 => (0..20u64, vec(0..20u64, 0..3)).prop_map(|(upto, but)| Act::End(upto, but)),
        1 => (1..=ACCOUNTS, -9..9i64).prop_map(|(account, cents)| Act::Adjust(account, cents)),
        8 => Just(Act::Step),
        1 => Just(Act::Restart),
    ]
}

/// A store without a disk.
struct Store {
    state: State,
    /// With the state after it.
    log: Vec<(Record, State)>,
    snapshot: Option<Snapshot>,
    /// The first and the last record of each whole snapshot.
    whole: Vec<(Lsn, Lsn)>,
    piece_bytes: usize,
}

impl Store {
    fn new(piece_bytes: usize) -> Self {
        let (state, log, whole) = (State::default(), Vec::new(), Vec::new());
        let mut store = Self { state, log, snapshot: None, whole, piece_bytes };
        store.append(Record::Opened { accounts: ACCOUNTS, balance_cents: 100 });
        store
    }

    fn next(&self) -> Lsn {
        Lsn(self.log.len() as u64 + 1)
    }

    fn append(&mut self, record: Record) {
        self.state.apply(self.next(), &record).unwrap();
        self.log.push((record, self.state.clone()));
    }

    /// Does it, if the resource would.
    fn act(&mut self, act: Act) {
        let prepared = |id: u64| self.state.branches.contains_key(&branch(id));
        let alone = |id: u64| self.state.alone.contains_key(&branch(id));
        let committed = |id: u64| self.state.committed.contains_key(&branch(id));
        let known = |id: u64| prepared(id) || committed(id) || alone(id);
        let locked = |moves: &[Move]| moves.iter().any(|(a, _)| self.state.locks.contains_key(a));
        let record = match act {
            Act::Prepare(id, moves) if !known(id) && !locked(&moves) => {
                Record::Prepared { branch: branch(id), moves }
            }
            Act::CommitOnePhase(id, moves) if !known(id) && !locked(&moves) => {
                Record::Committed { branch: branch(id), moves: Some(moves) }
            }
            Act::Commit(id) if prepared(id) => {
                Record::Committed { branch: branch(id), moves: None }
            }
            Act::RollBack(id) if prepared(id) => Record::RolledBack { branch: branch(id) },
            Act::Alone(id, committed) if prepared(id) => {
                let end = AloneEnd { committed, why: format!("number {id}") };
                Record::Alone { branch: branch(id), end }
            }
            Act::Forget(id) if alone(id) => Record::Forgotten { branch: branch(id) },
            Act::End(sequence, but) => {
                let exceptions = but.into_iter().map(|id| branch(id).gtrid).collect();
                Record::Ended { mark: Mark { log: LOG, epoch: 100, sequence, exceptions } }
            }
            Act::Adjust(account, delta_cents) => Record::Adjusted { account, delta_cents },
            Act::Step => return self.step(),
            Act::Restart => {
                self.snapshot = None;
                return;
            }
            _ => return,
        };
        self.append(record);
    }

    fn step(&mut self) {
        let next = self.next();
        let snapshot = self.snapshot.get_or_insert(Snapshot::new(next, self.piece_bytes));
        let Some(record) = snapshot.step(&self.state) else { return };
        if snapshot.is_over() {
            self.snapshot = None;
        }
        if let Record::SnapshotEnd { begun } = record {
            self.whole.push((begun, next));
        }
        self.append(record);
    }

    /// What is read from the records `from` to `upto`.
    fn read(&self, from: Lsn, upto: Lsn) -> Result<(State, Option<Lsn>), String> {
        let mut fold = Fold::default();
        for lsn in from.0..=upto.0 {
            let (record, _) = &self.log[usize::try_from(lsn).unwrap() - 1];
            fold.take(Lsn(lsn), record)?;
        }
        fold.finish().map_err(|first| format!("begins in the middle, with {first:?}"))
    }

    fn state_at(&self, lsn: u64) -> &State {
        &self.log[usize::try_from(lsn).unwrap() - 1].1
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever goes on between the pieces, and wherever the log begins and ends: it means what it
    /// meant when it was whole, or nothing at all.
    #[test]
    fn a_log_that_begins_at_or_before_a_whole_snapshot_means_the_same(
        acts in vec(act(), 0..120),
        piece_bytes in 1..300usize,
    ) {
        let mut store = Store::new(piece_bytes);
        acts.into_iter().for_each(|act| store.act(act));
        for end in 1..store.next().0 {
            let whole = store.whole.iter().rev().find(|(_, last)| last.0 <= end);
            let begun = whole.map(|(begun, _)| *begun);
            let expected = Ok((store.state_at(end).clone(), begun));
            prop_assert_eq!(&store.read(Lsn(1), Lsn(end)), &expected, "all of it, to {}", end);
            // What was not dropped yet may begin anywhere before.
            for first in begun.map_or(2, |begun| begun.0.saturating_sub(9).max(2))..=end {
                let read = store.read(Lsn(first), Lsn(end));
                if begun.is_some_and(|begun| first <= begun.0) {
                    prop_assert_eq!(&read, &expected, "from {} to {}", first, end);
                } else {
                    prop_assert!(read.is_err(), "from {} to {}: {:?}", first, end, read);
                }
            }
        }
    }
}

#[test]
fn no_piece_is_longer_than_32_kib() {
    let mut store = Store::new(PIECE_BYTES);
    store.state.balances = vec![i64::MAX; 10_000];
    let moves = |from: u32| (from..from + 1_000).map(|account| (account, -i64::MAX)).collect();
    for id in 0..10 {
        let from = u32::try_from(id).unwrap() * 1_000 + 1;
        store.append(Record::Prepared { branch: branch(id), moves: moves(from) });
    }
    store.state.committed = (100..2_000).map(|id| (branch(id), Lsn(1))).collect();
    // As large as it may become.
    store.snapshot = Some(Snapshot::new(Lsn(u64::MAX), PIECE_BYTES));
    let mut pieces = 0;
    while store.whole.is_empty() {
        store.step();
        let (record, _) = store.log.last().unwrap();
        let bytes = codec::encode(record).unwrap().len();
        assert!(bytes <= 32 << 10, "{bytes}");
        pieces += usize::from(matches!(record, Record::Snapshot { .. }));
    }
    assert!(pieces > 10, "{pieces}");
}

#[test]
fn damage_to_a_snapshot_is_seen() {
    let mut store = Store::new(20);
    store.append(Record::Prepared { branch: branch(1), moves: vec![(1, 5)] });
    let begun = store.next();
    while store.whole.is_empty() {
        store.step();
    }
    let last = Lsn(store.next().0 - 1);
    assert!(store.read(begun, last).is_ok());
    for lsn in begun.0..last.0 {
        let piece = std::mem::replace(
            &mut store.log[usize::try_from(lsn).unwrap() - 1].0,
            Record::Adjusted { account: ACCOUNTS, delta_cents: 0 },
        );
        let missing = store.read(Lsn(1), last);
        assert!(missing.is_err(), "without {piece:?}: {missing:?}");
        store.log[usize::try_from(lsn).unwrap() - 1].0 = piece;
    }
}

/// Reads a log of nothing but a snapshot that begins with record 1 and carries these.
fn carried(pieces: Vec<Piece>, after: Option<Record>) -> Result<State, String> {
    let begun = Lsn(1);
    let pieces = pieces.into_iter().map(|piece| Record::Snapshot { begun, piece });
    let records = pieces.chain(after).chain([Record::SnapshotEnd { begun }]);
    let mut fold = Fold::default();
    for (lsn, record) in (1..).zip(records) {
        fold.take(Lsn(lsn), &record)?;
    }
    fold.finish().map(|(state, _)| state).map_err(|lsn| format!("from {} on", lsn.0))
}

fn head(committed_total: u64) -> Piece {
    Piece::Head { accounts: 1, opened_cents: 100, committed_total }
}

#[test]
fn regression_a_snapshot_carries_only_what_came_before_it() {
    let balances = || Piece::Balances { cents: vec![100] };
    for (lsn, good) in [(0, true), (1, false), (77, false)] {
        let proofs = Piece::Proofs { proofs: vec![(branch(1), Lsn(lsn))] };
        assert_eq!(carried(vec![head(1), proofs, balances()], None).is_ok(), good, "{lsn}");
        let branches = Piece::Branches { branches: vec![(branch(1), Lsn(lsn), vec![(1, 5)])] };
        assert_eq!(carried(vec![head(1), branches, balances()], None).is_ok(), good, "{lsn}");
    }
}

#[test]
fn regression_no_snapshot_lets_two_branches_lock_an_account() {
    let held = |id, account| (branch(id), Lsn(0), vec![(account, 5)]);
    for (account, good) in [(1, false), (2, true)] {
        let branches = Piece::Branches { branches: vec![held(1, 1), held(2, account)] };
        let balances = Piece::Balances { cents: vec![100] };
        assert_eq!(carried(vec![head(0), branches, balances], None).is_ok(), good);
    }
}

#[test]
fn regression_a_count_of_commits_at_its_end_stays_there() {
    let committed = Record::Committed { branch: branch(1), moves: Some(vec![(1, 5)]) };
    let pieces = vec![head(u64::MAX), Piece::Balances { cents: vec![100] }];
    let state = carried(pieces, Some(committed)).unwrap();
    assert_eq!((state.committed_total, state.balances), (u64::MAX, vec![105]));
}

#[test]
fn a_snapshot_begins_above_the_limit_and_goes_on_when_its_last_piece_is_durable() {
    let mut store = Store::new(0);
    store.append(Record::Prepared { branch: branch(1), moves: vec![(1, 5)] });
    let mut compaction = Compaction::new(1_000);
    let mut step = |store: &Store, durable, bytes| {
        let next = store.next();
        compaction.step(&store.state, next, Lsn(durable), bytes)
    };
    assert!(matches!(step(&store, 1, 1_000), Step::Nothing));
    let Step::Append(head) = step(&store, 1, 1_001) else { unreachable!() };
    assert!(matches!(head, Record::Snapshot { piece: Piece::Head { .. }, .. }));
    store.append(head);
    let mut pieces = 0;
    let begun = loop {
        let durable = store.log.len() as u64;
        match step(&store, durable, 1_801) {
            Step::Append(record) => {
                store.append(record);
                pieces += 1;
                let early = step(&store, durable, 1_801);
                assert!(matches!(early, Step::Nothing), "not durable: {early:?}");
            }
            Step::Drop(begun) => break begun,
            Step::Nothing => {}
        }
    };
    // The branch, the balances, and the end.
    assert_eq!((begun, pieces), (Lsn(3), 3));
    // 800 bytes are kept: the next one begins above 1,600, once it was below.
    assert!(matches!(step(&store, 99, 1_700), Step::Nothing), "not dropped yet");
    assert!(matches!(step(&store, 99, 1_600), Step::Nothing));
    assert!(matches!(step(&store, 99, 1_601), Step::Append(_)));
}

#[test]
fn a_log_that_is_never_short_enough_is_compacted_when_it_has_doubled() {
    let mut store = Store::new(0);
    let mut compaction = Compaction::new(10);
    let mut over = |bytes| {
        for _ in 0..9 {
            let (next, durable) = (store.next(), Lsn(store.log.len() as u64));
            match compaction.step(&store.state, next, durable, bytes) {
                Step::Append(record) => store.append(record),
                Step::Drop(_) => return true,
                Step::Nothing => {}
            }
        }
        false
    };
    assert!(over(1_000));
    assert!(!over(2_001));
    assert!(over(2_002));
}
