//! A complete durable resource: accounts with balances and locks, in a log of their own.
//!
//! ```text
//!  debit, credit --> State (memory) --> prepare, commit, rollback --> one record --> group commit
//!                      ^                                                                 |
//!                      +--- the same apply() when the log is read again                  |
//!  answers <-- Flushes: one place wakes those who wait <---------------------------------+
//! ```
//! A record is applied in memory when it is submitted, and the answer waits until it is durable.
//! That is safe, because every answer waits for a record at or after those it builds on, and
//! records become durable in order: whatever was seen is durable before anybody is told.
//!
//! Files: `record` (what is kept), `state` (what the records mean), `accounts` (the resource),
//! `work` (debit and credit), `compaction` (keeping the log short), `fold` (reading a log,
//! snapshots included), `offline` (looking at a stopped store).

mod accounts;
mod compaction;
mod fold;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod offline;
mod record;
mod state;
mod work;

pub use accounts::{Accounts, AccountsError, Opening};
pub use offline::{Summary, adjust, inspect};
pub use work::{AccountsWork, WorkError};

#[cfg(test)]
mod bounded;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod tests;
