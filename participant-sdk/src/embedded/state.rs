//! What the records mean: the same fold for the running store, for opening, and for looking at a
//! stopped one.

use super::record::{AloneEnd, Mark, Move, Record};
use std::collections::BTreeMap;
use unanimous_core::{BranchId, LogId, Lsn};

/// The most accounts in one store.
pub(super) const ACCOUNTS_MAX: u32 = 1_000_000;

/// What a branch has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Cents by account; each account is locked by the branch.
    pub(super) moves: BTreeMap<u32, i64>,
    /// Its `Prepared` record.
    pub(super) prepared: Option<Lsn>,
}

impl Work {
    /// Its moves as records have them.
    pub(super) fn to_moves(&self) -> Vec<Move> {
        self.moves.iter().map(|(account, cents)| (*account, *cents)).collect()
    }
}

/// The accounts, and everything about branches that is not finished or not forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Cents by account, account 1 first; empty before `Opened`.
    pub(super) balances: Vec<i64>,
    /// The sum at the beginning.
    pub(super) opened_cents: i64,
    /// Which branch has locked an account.
    pub(super) locks: BTreeMap<u32, BranchId>,
    /// Active and prepared branches.
    pub(super) branches: BTreeMap<BranchId, Work>,
    /// Proofs: committed branches with their `Committed` record, until the mark passes them.
    pub(super) committed: BTreeMap<BranchId, Lsn>,
    /// Branches that ended alone and are not forgotten, with their `Alone` record.
    pub(super) alone: BTreeMap<BranchId, (Lsn, AloneEnd)>,
    /// What was passed, by coordinator's log.
    pub(super) marks: BTreeMap<LogId, Mark>,
    /// Branches ever committed.
    pub(super) committed_total: u64,
}

impl State {
    /// Takes one record. Nothing is changed on an error.
    ///
    /// # Errors
    /// The record contradicts what came before it, in words.
    pub(super) fn apply(&mut self, lsn: Lsn, record: &Record) -> Result<(), String> {
        match record {
            Record::Opened { accounts, balance_cents } => self.opened(*accounts, *balance_cents),
            _ if self.balances.is_empty() => Err("the store was not opened before".to_owned()),
            Record::Prepared { branch, moves } => self.prepared(lsn, *branch, moves),
            Record::Committed { branch, moves } => self.commit(lsn, *branch, moves.as_deref()),
            Record::RolledBack { branch } => match self.branches.get(branch) {
                Some(work) if work.prepared.is_some() => {
                    self.release(branch);
                    Ok(())
                }
                _ => Err(format!("rolled back without being prepared: {branch}")),
            },
            Record::Alone { branch, end } => self.end_alone(lsn, *branch, end),
            Record::Forgotten { branch } => {
                let known = self.alone.remove(branch).map(|_| ());
                known.ok_or_else(|| format!("forgotten without having ended alone: {branch}"))
            }
            Record::Ended { mark } => {
                self.ended(mark);
                Ok(())
            }
            Record::Adjusted { account, delta_cents } => self.change(&[(*account, *delta_cents)]),
            // Says what is true already.
            Record::Snapshot { .. } | Record::SnapshotEnd { .. } => Ok(()),
        }
    }

    /// Drops the proofs that the mark passes.
    pub(super) fn ended(&mut self, mark: &Mark) {
        self.committed.retain(|branch, _| !mark.covers(&branch.gtrid));
        self.marks.insert(mark.log, mark.clone());
    }

    fn opened(&mut self, accounts: u32, balance_cents: i64) -> Result<(), String> {
        if !self.balances.is_empty() {
            return Err("opened twice".to_owned());
        }
        if accounts == 0 || accounts > ACCOUNTS_MAX {
            return Err(format!("{accounts} accounts; 1 to {ACCOUNTS_MAX} are possible"));
        }
        let sum = i64::from(accounts).checked_mul(balance_cents);
        self.opened_cents = sum.ok_or("the sum of all balances is too large")?;
        self.balances = (0..accounts).map(|_| balance_cents).collect();
        Ok(())
    }

    fn prepared(&mut self, lsn: Lsn, branch: BranchId, moves: &[Move]) -> Result<(), String> {
        self.changed(moves)?;
        self.hold(lsn, branch, moves)
    }

    /// The branch is prepared, and holds its accounts. Nothing is changed on an error.
    pub(super) fn hold(
        &mut self,
        lsn: Lsn,
        branch: BranchId,
        moves: &[Move],
    ) -> Result<(), String> {
        if self.branches.get(&branch).is_some_and(|work| work.prepared.is_some()) {
            return Err(format!("prepared twice: {branch}"));
        }
        for (account, _) in moves {
            if self.locks.get(account).is_some_and(|holder| *holder != branch) {
                return Err(format!("account {account} is locked by two branches"));
            }
        }
        self.locks.extend(moves.iter().map(|(account, _)| (*account, branch)));
        let moves = moves.iter().copied().collect();
        self.branches.insert(branch, Work { moves, prepared: Some(lsn) });
        Ok(())
    }

    fn commit(&mut self, lsn: Lsn, branch: BranchId, moves: Option<&[Move]>) -> Result<(), String> {
        if self.committed.contains_key(&branch) {
            return Err(format!("committed twice: {branch}"));
        }
        let changed = match (moves, self.branches.get(&branch)) {
            (Some(moves), _) => self.changed(moves)?,
            (None, Some(work)) if work.prepared.is_some() => self.changed(&work.to_moves())?,
            _ => return Err(format!("committed without being prepared: {branch}")),
        };
        self.set(changed);
        self.release(&branch);
        self.committed.insert(branch, lsn);
        self.committed_total = self.committed_total.saturating_add(1);
        Ok(())
    }

    fn end_alone(&mut self, lsn: Lsn, branch: BranchId, end: &AloneEnd) -> Result<(), String> {
        match self.branches.get(&branch) {
            Some(work) if work.prepared.is_some() => {
                if end.committed {
                    let changed = self.changed(&work.to_moves())?;
                    self.set(changed);
                }
            }
            _ => return Err(format!("ended alone without being prepared: {branch}")),
        }
        self.keep_alone(lsn, branch, end);
        Ok(())
    }

    /// The branch has ended alone; its balances are set.
    pub(super) fn keep_alone(&mut self, lsn: Lsn, branch: BranchId, end: &AloneEnd) {
        self.release(&branch);
        self.alone.insert(branch, (lsn, end.clone()));
        if end.committed {
            self.committed_total = self.committed_total.saturating_add(1);
        }
    }

    /// The new balances of the accounts that move.
    fn changed(&self, moves: &[Move]) -> Result<Vec<(usize, i64)>, String> {
        let change = |(account, cents): &Move| {
            let index = index(*account)?;
            Some((index, self.balances.get(index)?.checked_add(*cents)?))
        };
        let each = moves.iter().map(|moved| {
            change(moved).ok_or_else(|| format!("account {} cannot change by {}", moved.0, moved.1))
        });
        each.collect()
    }

    /// Changes balances, all or none.
    pub(super) fn change(&mut self, moves: &[Move]) -> Result<(), String> {
        let changed = self.changed(moves)?;
        self.set(changed);
        Ok(())
    }

    fn set(&mut self, changed: Vec<(usize, i64)>) {
        for (index, cents) in changed {
            if let Some(balance) = self.balances.get_mut(index) {
                *balance = cents;
            }
        }
    }

    /// Drops a branch's work and frees its locks.
    pub(super) fn release(&mut self, branch: &BranchId) {
        if let Some(work) = self.branches.remove(branch) {
            for account in work.moves.keys() {
                self.locks.remove(account);
            }
        }
    }

    /// An account that would have less than nothing, and how much less.
    pub(super) fn overdrawn(&self, work: &Work) -> Option<(u32, i64)> {
        work.moves.iter().find_map(|(account, cents)| {
            let balance = self.balance(*account)?;
            let after = balance.saturating_add(*cents);
            (*cents < 0 && after < 0).then_some((*account, after))
        })
    }

    pub(super) fn balance(&self, account: u32) -> Option<i64> {
        self.balances.get(index(account)?).copied()
    }

    pub(super) fn sum_cents(&self) -> i64 {
        self.balances.iter().fold(0, |sum, cents| sum.saturating_add(*cents))
    }

    /// Prepared branches with their record, in order.
    pub(super) fn in_doubt(&self) -> impl Iterator<Item = (&BranchId, Lsn)> {
        self.branches.iter().filter_map(|(branch, work)| Some((branch, work.prepared?)))
    }
}

/// Accounts are numbered from 1.
fn index(account: u32) -> Option<usize> {
    usize::try_from(account.checked_sub(1)?).ok()
}
