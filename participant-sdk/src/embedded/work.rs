//! What a handler does to accounts.

use super::accounts::{Accounts, MOVES_MAX};
use crate::context::Carrier;
use crate::participant::{Attached, Branch, JoinError};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimous_core::Gtrid;

/// Why work on an account was refused. Nothing has changed. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// Another branch works on the account: try again later, in another transaction.
    #[error("account {account} is locked by transaction {holder}")]
    AccountBusy {
        /// Which.
        account: u32,
        /// By whom.
        holder: Gtrid,
    },
    /// There is no such account.
    #[error("there is no account {0}")]
    NoSuchAccount(u32),
    /// The branch was not joined, was undone, or has voted: it takes no work.
    #[error("the branch is not active")]
    NotActive,
    /// The balance would be out of range.
    #[error("the amount is too large for account {0}")]
    TooLarge(u32),
    /// The branch has changed as many accounts as it may.
    #[error("a branch changes at most {MOVES_MAX} accounts")]
    TooManyAccounts,
}

impl WorkError {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AccountBusy { .. } => "ACCOUNT_BUSY",
            Self::NoSuchAccount(_) => "NO_SUCH_ACCOUNT",
            Self::NotActive => "NOT_ACTIVE",
            Self::TooLarge(_) => "TOO_LARGE",
            Self::TooManyAccounts => "TOO_MANY_ACCOUNTS",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::AccountBusy { .. } | Self::NotActive => Code::Aborted,
            Self::NoSuchAccount(_) => Code::NotFound,
            Self::TooLarge(_) => Code::OutOfRange,
            Self::TooManyAccounts => Code::FailedPrecondition,
        }
    }
}

impl From<WorkError> for Status {
    fn from(error: WorkError) -> Self {
        let details =
            ErrorDetails::with_error_info(error.reason(), "unanimous", HashMap::default());
        Self::with_error_details(error.code(), error.to_string(), details)
    }
}

/// Work on accounts under a branch, with the rules of a [`Branch`]: until [`AccountsWork::end`] it
/// cannot commit, and one that is dropped before makes it vote rollback.
#[derive(Debug)]
#[must_use = "work that is dropped votes rollback"]
pub struct AccountsWork {
    branch: Branch,
    accounts: Accounts,
}

impl Attached<Accounts> {
    /// Joins the transaction that a call belongs to, as [`Attached::enlist`] does, for work on
    /// these accounts.
    ///
    /// # Errors
    /// See [`JoinError`]. The work must not be done then.
    pub fn join<C: Carrier + ?Sized>(
        &self,
        call: &C,
    ) -> impl Future<Output = Result<AccountsWork, JoinError>> + Send + use<C> {
        let (enlisting, accounts) = (self.enlist(call), Accounts::clone(self));
        async move { Ok(AccountsWork { branch: enlisting.await?, accounts }) }
    }
}

impl AccountsWork {
    /// Takes cents from an account, which is locked until the branch ends. More than there is may
    /// be taken: then the branch votes rollback. A negative amount is given.
    ///
    /// # Errors
    /// See [`WorkError`]; at once, without waiting for a lock.
    pub fn debit(&self, account: u32, cents: i64) -> Result<(), WorkError> {
        self.accounts.debit(self.branch.id(), account, cents)
    }

    /// Gives cents to an account; a negative amount is taken. As [`AccountsWork::debit`].
    ///
    /// # Errors
    /// See [`WorkError`]; at once, without waiting for a lock.
    pub fn credit(&self, account: u32, cents: i64) -> Result<(), WorkError> {
        self.accounts.credit(self.branch.id(), account, cents)
    }

    /// The branch that it is done under.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// The work is done, and may commit as far as this call is concerned.
    pub fn end(self) {
        self.branch.end();
    }

    /// As [`AccountsWork::end`], and the last work of the transaction here: see [`Branch::vote`].
    pub fn vote(self) {
        self.branch.vote();
    }

    /// The work failed: the branch votes rollback, with these words.
    pub fn fail(self, why: impl Into<String>) {
        self.branch.fail(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_work_becomes_a_status_that_names_its_reason() {
        let status = Status::from(WorkError::NoSuchAccount(7));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no account 7"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("NO_SUCH_ACCOUNT", "unanimous"));
    }
}
