//! Keeping the log short: a snapshot of the state is appended piece by piece, as ordinary records
//! between ordinary records, and then everything before it may go.
//!
//! One step is one small record and goes along with a record of some branch's, at most one in a
//! group commit, so that nobody waits for it. A snapshot that was not finished when the process
//! ended is given up; the next one begins anew.

use super::record::{Move, Piece, Record};
use super::state::State;
use crate::crash::crash_point;
use std::ops::Bound::{Excluded, Unbounded};
use unanimous_core::{BranchId, LogId, Lsn};

/// Bytes in one piece, roughly.
const PIECE_BYTES: usize = 28 << 10;
/// Entries that one step looks at.
const LOOKED_AT_MAX: usize = 1_024;
/// The most bytes of a branch or a proof without its moves, of a move, and of a balance.
const BRANCH_BYTES: usize = 64;
const MOVE_BYTES: usize = 14;
const BALANCE_BYTES: usize = 9;

/// What comes next in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Head,
    BranchAfter(Option<BranchId>),
    ProofAfter(Option<BranchId>),
    AloneAfter(Option<BranchId>),
    MarkAfter(Option<LogId>),
    BalanceAt(usize),
    End,
    Over,
}

/// A snapshot being appended.
#[derive(Debug)]
pub(super) struct Snapshot {
    begun: Lsn,
    next: Next,
    piece_bytes: usize,
}

impl Snapshot {
    /// The next record will be the first of the snapshot.
    pub(super) fn new(begun: Lsn, piece_bytes: usize) -> Self {
        Self { begun, next: Next::Head, piece_bytes }
    }

    /// The record to append next; `None`: this step found nothing to carry. It must be appended
    /// before `state` changes.
    pub(super) fn step(&mut self, state: &State) -> Option<Record> {
        let piece = match self.next {
            Next::Head => self.head(state),
            Next::BranchAfter(last) => self.branches(state, last),
            Next::ProofAfter(last) => self.proofs(state, last),
            Next::AloneAfter(last) => self.alone(state, last),
            Next::MarkAfter(last) => self.mark(state, last),
            Next::BalanceAt(index) => self.balances(state, index),
            Next::End => {
                self.next = Next::Over;
                return Some(Record::SnapshotEnd { begun: self.begun });
            }
            Next::Over => None,
        };
        piece.map(|piece| Record::Snapshot { begun: self.begun, piece })
    }

    /// Whether the last record was the end.
    pub(super) fn is_over(&self) -> bool {
        self.next == Next::Over
    }

    fn head(&mut self, state: &State) -> Option<Piece> {
        self.next = Next::BranchAfter(None);
        Some(Piece::Head {
            accounts: u32::try_from(state.balances.len()).unwrap_or(u32::MAX),
            opened_cents: state.opened_cents,
            committed_total: state.committed_total,
        })
    }

    /// Those that were prepared since the snapshot began have their own records after it.
    fn branches(&mut self, state: &State, last: Option<BranchId>) -> Option<Piece> {
        let (mut branches, mut bytes) = (Vec::new(), 0);
        self.next = Next::ProofAfter(None);
        for (looked_at, (branch, work)) in state.branches.range(after(last)).enumerate() {
            if bytes * 2 >= self.piece_bytes || looked_at >= LOOKED_AT_MAX {
                break;
            }
            self.next = Next::BranchAfter(Some(*branch));
            if let Some(lsn) = work.prepared.filter(|lsn| *lsn < self.begun) {
                let moves: Vec<Move> = work.to_moves();
                bytes += BRANCH_BYTES + moves.len() * MOVE_BYTES;
                branches.push((*branch, lsn, moves));
            }
        }
        (!branches.is_empty()).then_some(Piece::Branches { branches })
    }

    fn proofs(&mut self, state: &State, last: Option<BranchId>) -> Option<Piece> {
        let (mut proofs, mut bytes) = (Vec::new(), 0);
        self.next = Next::AloneAfter(None);
        for (looked_at, (branch, lsn)) in state.committed.range(after(last)).enumerate() {
            if bytes >= self.piece_bytes || looked_at >= LOOKED_AT_MAX {
                break;
            }
            self.next = Next::ProofAfter(Some(*branch));
            if *lsn < self.begun {
                bytes += BRANCH_BYTES;
                proofs.push((*branch, *lsn));
            }
        }
        (!proofs.is_empty()).then_some(Piece::Proofs { proofs })
    }

    fn alone(&mut self, state: &State, last: Option<BranchId>) -> Option<Piece> {
        let (mut branches, mut bytes) = (Vec::new(), 0);
        self.next = Next::MarkAfter(None);
        for (looked_at, (branch, (lsn, end))) in state.alone.range(after(last)).enumerate() {
            if bytes >= self.piece_bytes || looked_at >= LOOKED_AT_MAX {
                break;
            }
            self.next = Next::AloneAfter(Some(*branch));
            if *lsn < self.begun {
                bytes += BRANCH_BYTES + end.why.len();
                branches.push((*branch, *lsn, end.clone()));
            }
        }
        (!branches.is_empty()).then_some(Piece::Alone { branches })
    }

    fn mark(&mut self, state: &State, last: Option<LogId>) -> Option<Piece> {
        let mark = state.marks.range(after(last)).next().map(|(_, mark)| mark.clone());
        self.next =
            mark.as_ref().map_or(Next::BalanceAt(0), |mark| Next::MarkAfter(Some(mark.log)));
        mark.map(|mark| Piece::Mark { mark })
    }

    fn balances(&mut self, state: &State, index: usize) -> Option<Piece> {
        let rest = state.balances.get(index..).unwrap_or_default();
        let count = rest.len().min((self.piece_bytes / BALANCE_BYTES).max(1));
        let upto = index + count;
        let more = upto < state.balances.len();
        self.next = if more { Next::BalanceAt(upto) } else { Next::End };
        Some(Piece::Balances { cents: rest.iter().take(count).copied().collect() })
    }
}

fn after<T>(last: Option<T>) -> (std::ops::Bound<T>, std::ops::Bound<T>) {
    (last.map_or(Unbounded, Excluded), Unbounded)
}

/// When a snapshot is made, and what follows from it.
#[derive(Debug)]
pub(super) struct Compaction {
    /// Never earlier than at so many bytes.
    bytes_min: u64,
    /// A snapshot begins when more bytes are in the log.
    bytes_max: u64,
    /// What the last snapshot made superfluous has been dropped, or the log has doubled meanwhile.
    armed: bool,
    /// Bytes in the log when the last snapshot was over.
    bytes_after: u64,
    snapshot: Option<Snapshot>,
    /// Its last record.
    last: Lsn,
    /// Bytes in the log when it began.
    bytes_before: u64,
}

/// One step.
#[derive(Debug)]
pub(super) enum Step {
    /// Append this, before anything else.
    Append(Record),
    /// No record below is needed.
    Drop(Lsn),
    /// Go on.
    Nothing,
}

impl Compaction {
    pub(super) fn new(bytes_min: u64) -> Self {
        Self {
            bytes_min,
            bytes_max: bytes_min,
            armed: true,
            bytes_after: 0,
            snapshot: None,
            last: Lsn(0),
            bytes_before: 0,
        }
    }

    /// `next`: the LSN of the record that would be appended; `durable`: the last durable one;
    /// `bytes`: what the log holds durably.
    pub(super) fn step(&mut self, state: &State, next: Lsn, durable: Lsn, bytes: u64) -> Step {
        let Some(snapshot) = &mut self.snapshot else {
            self.armed |= bytes <= self.bytes_max || bytes / 2 > self.bytes_after;
            if !self.armed || bytes <= self.bytes_max {
                return Step::Nothing;
            }
            self.bytes_before = bytes;
            self.snapshot = Some(Snapshot::new(next, PIECE_BYTES));
            return self.append(state, next);
        };
        if durable < self.last {
            return Step::Nothing;
        }
        if !snapshot.is_over() {
            return self.append(state, next);
        }
        crash_point("participant.compact.durable");
        let begun = snapshot.begun;
        let kept = bytes.saturating_sub(self.bytes_before);
        self.bytes_max = self.bytes_min.max(kept.saturating_mul(2));
        (self.snapshot, self.armed, self.bytes_after) = (None, false, bytes);
        tracing::debug!(begun = begun.0, kept, "the accounts' log was compacted");
        Step::Drop(begun)
    }

    fn append(&mut self, state: &State, next: Lsn) -> Step {
        match self.snapshot.as_mut().and_then(|snapshot| snapshot.step(state)) {
            Some(record) => {
                self.last = next;
                Step::Append(record)
            }
            None => Step::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
