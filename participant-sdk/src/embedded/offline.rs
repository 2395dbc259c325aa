//! Looking at a stopped store of accounts.

use super::accounts::{Accounts, AccountsError, Opening, fold};
use super::record::Record;
use std::path::Path;
use unanimous_core::BranchId;
use unanimous_recovery::read_records;

/// What a stopped store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many accounts.
    pub accounts: u32,
    /// The sum of all balances when the store was made, in cents. Transfers to and from other
    /// stores are not part of it: it is the sums over all stores that must agree.
    pub sum_expected: i64,
    /// The sum of all balances now, in cents, without prepared branches.
    pub sum_actual: i64,
    /// Prepared branches that are not finished.
    pub in_doubt: Vec<BranchId>,
    /// Branches ever committed.
    pub committed: u64,
}

/// Reads a stopped store. Writes nothing into `dir`.
///
/// # Errors
/// Another process has it open, it is damaged, or it is no store of accounts.
pub fn inspect(dir: &Path) -> Result<Summary, AccountsError> {
    let (state, _) = fold(read_records(dir)?.into_iter().map(Ok))?;
    if state.balances.is_empty() {
        return Err(AccountsError::NotInitialised);
    }
    Ok(Summary {
        accounts: u32::try_from(state.balances.len()).unwrap_or(u32::MAX),
        sum_expected: state.opened_cents,
        sum_actual: state.sum_cents(),
        in_doubt: state.in_doubt().map(|(branch, _)| *branch).collect(),
        committed: state.committed_total,
    })
}

/// Changes one balance of a stopped store outside of any transaction, durably: money from nowhere,
/// which a check of the sums must find.
///
/// # Errors
/// The store cannot be opened, there is no such account, or the balance would be out of range.
pub fn adjust(dir: &Path, account: u32, delta_cents: i64) -> Result<(), AccountsError> {
    let accounts = Accounts::open(dir, Opening::default())?;
    accounts.append_and_close(&Record::Adjusted { account, delta_cents })
}
