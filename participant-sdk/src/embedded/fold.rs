//! Reading a log of accounts: from its opening, or from the last whole snapshot in it.
//!
//! A snapshot is many records with ordinary ones in between. Each piece holds what is true at its
//! own LSN. Prepared branches are carried first, so that afterwards every commit finds its moves;
//! a commit changes those balances that are carried already, and the others are carried later with
//! the change in them. So when the snapshot ends, what was built is the state at that LSN.

use super::record::{Move, Piece, Record};
use super::state::State;
use unanimous_core::{BranchId, Lsn};

/// What the records so far mean.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// `None`: the log begins behind its opening, and no snapshot has ended yet.
    whole: Option<State>,
    building: Option<Building>,
    /// The first record that was read.
    first: Option<Lsn>,
    /// Where the last whole snapshot begins: nothing below is needed.
    complete: Option<Lsn>,
}

impl Fold {
    /// Takes the next record.
    ///
    /// # Errors
    /// It contradicts what came before it, in words.
    pub(super) fn take(&mut self, lsn: Lsn, record: &Record) -> Result<(), String> {
        self.first.get_or_insert(lsn);
        match record {
            Record::Snapshot { begun, piece } => self.carry(lsn, *begun, piece),
            Record::SnapshotEnd { begun } => self.end(*begun),
            record => {
                if let Record::Opened { .. } = record {
                    self.whole.get_or_insert_default();
                }
                if let Some(building) = &mut self.building {
                    building.apply(lsn, record)?;
                }
                // Without either: left over from before a snapshot.
                self.whole.as_mut().map_or(Ok(()), |whole| whole.apply(lsn, record))
            }
        }
    }

    fn carry(&mut self, lsn: Lsn, begun: Lsn, piece: &Piece) -> Result<(), String> {
        if let Piece::Head { accounts, opened_cents, committed_total } = piece {
            if lsn != begun {
                return Err("a snapshot that does not begin where it says".to_owned());
            }
            let (opened_cents, committed_total) = (*opened_cents, *committed_total);
            let state = State { opened_cents, committed_total, ..State::default() };
            // The one before, if it has not ended, was given up.
            self.building = Some(Building { begun, accounts: *accounts, state });
            return Ok(());
        }
        match &mut self.building {
            Some(building) if building.begun == begun => building.carry(piece),
            // Left over: its beginning was dropped.
            None if self.whole.is_none() => Ok(()),
            _ => Err("a piece of a snapshot that has not begun".to_owned()),
        }
    }

    fn end(&mut self, begun: Lsn) -> Result<(), String> {
        let Some(building) = self.building.take().filter(|building| building.begun == begun) else {
            let left_over = self.whole.is_none();
            return if left_over { Ok(()) } else { Err("the end of no snapshot".to_owned()) };
        };
        let state = building.finish()?;
        if self.whole.as_ref().is_some_and(|whole| *whole != state) {
            return Err("a snapshot of something else".to_owned());
        }
        (self.whole, self.complete) = (Some(state), Some(begun));
        Ok(())
    }

    /// All records were read: what they mean, and where the last whole snapshot begins. A log
    /// without records means nothing.
    ///
    /// # Errors
    /// The log begins in the middle: with the LSN of its first record.
    pub(super) fn finish(self) -> Result<(State, Option<Lsn>), Lsn> {
        match (self.whole, self.first) {
            (Some(state), _) => Ok((state, self.complete)),
            (None, None) => Ok((State::default(), None)),
            (None, Some(first)) => Err(first),
        }
    }
}

/// A snapshot whose end was not read yet.
#[derive(Debug)]
struct Building {
    begun: Lsn,
    accounts: u32,
    /// Of the balances, those that are carried.
    state: State,
}

impl Building {
    fn carry(&mut self, piece: &Piece) -> Result<(), String> {
        match piece {
            Piece::Head { .. } => return Err("a snapshot that begins twice".to_owned()),
            Piece::Branches { branches } if self.state.balances.is_empty() => {
                for (branch, lsn, moves) in branches {
                    self.before(*lsn)?;
                    self.state.hold(*lsn, *branch, moves)?;
                }
            }
            Piece::Branches { .. } => return Err("a branch after the balances".to_owned()),
            Piece::Proofs { proofs } => {
                for (branch, lsn) in proofs {
                    self.before(*lsn)?;
                    self.state.committed.insert(*branch, *lsn);
                }
            }
            Piece::Alone { branches } => {
                for (branch, lsn, end) in branches {
                    self.before(*lsn)?;
                    self.state.alone.insert(*branch, (*lsn, end.clone()));
                }
            }
            Piece::Mark { mark } => {
                self.state.marks.insert(mark.log, mark.clone());
            }
            Piece::Balances { cents } => self.state.balances.extend(cents),
        }
        Ok(())
    }

    /// Only what was true before the snapshot began is carried.
    fn before(&self, lsn: Lsn) -> Result<(), String> {
        let later = || format!("a snapshot that carries what came after it: {}", lsn.0);
        (lsn < self.begun).then_some(()).ok_or_else(later)
    }

    /// An ordinary record since the snapshot began.
    fn apply(&mut self, lsn: Lsn, record: &Record) -> Result<(), String> {
        match record {
            Record::Prepared { branch, moves } => self.state.hold(lsn, *branch, moves),
            Record::Committed { branch, moves } => {
                match moves {
                    Some(moves) => self.change(moves)?,
                    None => self.change(&self.prepared_moves(branch)?)?,
                }
                self.state.release(branch);
                self.state.committed.insert(*branch, lsn);
                let total = self.state.committed_total;
                self.state.committed_total = total.saturating_add(1);
                Ok(())
            }
            Record::RolledBack { branch } => {
                self.prepared_moves(branch)?;
                self.state.release(branch);
                Ok(())
            }
            Record::Alone { branch, end } => {
                let moves = self.prepared_moves(branch)?;
                if end.committed {
                    self.change(&moves)?;
                }
                self.state.keep_alone(lsn, *branch, end);
                Ok(())
            }
            // It may not be carried yet.
            Record::Forgotten { branch } => {
                self.state.alone.remove(branch);
                Ok(())
            }
            Record::Ended { mark } => {
                self.state.ended(mark);
                Ok(())
            }
            Record::Adjusted { account, delta_cents } => self.change(&[(*account, *delta_cents)]),
            Record::Opened { .. } | Record::Snapshot { .. } | Record::SnapshotEnd { .. } => {
                Err("no record to meet in a snapshot".to_owned())
            }
        }
    }

    /// The moves of a prepared branch, to be committed. Nothing is known of one that is not carried
    /// yet, nor need be: no balance is carried that they could change.
    fn prepared_moves(&self, branch: &BranchId) -> Result<Vec<Move>, String> {
        match self.state.branches.get(branch) {
            Some(work) => Ok(work.to_moves()),
            None if self.state.balances.is_empty() => Ok(Vec::new()),
            None => Err(format!("a snapshot has missed the prepared branch {branch}")),
        }
    }

    /// Changes the balances that are carried.
    fn change(&mut self, moves: &[Move]) -> Result<(), String> {
        let carried = u32::try_from(self.state.balances.len()).unwrap_or(u32::MAX);
        let carried = moves.iter().copied().filter(|(account, _)| *account <= carried);
        self.state.change(&carried.collect::<Vec<Move>>())
    }

    fn finish(self) -> Result<State, String> {
        let carried = u32::try_from(self.state.balances.len());
        if carried == Ok(self.accounts) {
            Ok(self.state)
        } else {
            Err("a snapshot without all of its balances".to_owned())
        }
    }
}
