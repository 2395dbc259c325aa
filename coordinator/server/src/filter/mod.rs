//! Which transactions a list shows: comparisons of their fields, joined by `and`, `or`, `not` and
//! parentheses. The grammar stands at `ListTransactionsRequest.filter` in the .proto file.
//!
//! Pure: text in, a decision for each transaction out. `parse` reads the text and says where it is
//! wrong; here is what it means.

mod parse;
#[cfg(any(test, feature = "fuzzing"))]
mod print;
#[cfg(test)]
mod tests;

pub(crate) use parse::{Mistake, parse};

use crate::{convert, view};
use unanimous_core::coordinator::{Limits, State, Transaction};
use unanimous_core::{Gtrid, Millis, Outcome};
use unanimous_proto::v1;

/// A condition on transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// At least one of them holds.
    Any(Vec<Filter>),
    /// All of them hold.
    All(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
    /// A field compares so.
    Compare(Comparison),
}

/// A field, how it compares, and with what. Where a transaction has no such field (no label of that
/// key, no lock, no time-out any more), only "is not" holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Whether it is in this state.
    State(bool, State),
    /// Whether its outcome, as far as it may be shown, is this one.
    Outcome(bool, v1::Outcome),
    /// A word of it.
    Word(Word, By, String),
    /// A number of it.
    Quantity(Quantity, Order, u64),
    /// Whether it is so.
    Flag(Flag, bool),
}

/// Fields that are words. Those of branches hold if they hold for one of its branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// 48 hexadecimal digits, named by their end.
    Id,
    Name,
    /// The value under a key.
    Label(String),
    /// Has a branch.
    Participant,
    Resource,
    /// Has a branch whose answer is awaited.
    WaitingOn,
}

/// How words compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Is,
    IsNot,
    Contains,
}

/// Fields that are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// Milliseconds since it began.
    Age,
    /// Milliseconds since branches have been holding locks as prepared.
    Locked,
    /// Milliseconds until its time-out, while it is undecided.
    Remaining,
    Tries,
    Branches,
}

/// How numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Is,
    IsNot,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Fields that are true or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Stuck,
    Recovered,
    Resolved,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) gtrid: &'a Gtrid,
    pub(crate) transaction: &'a Transaction,
    pub(crate) now: Millis,
    pub(crate) limits: &'a Limits,
}

impl Filter {
    /// Transactions whose id ends with these lower-case hexadecimal digits.
    pub(crate) fn id_ends_with(digits: String) -> Self {
        Self::Compare(Comparison::Word(Word::Id, By::Is, digits))
    }

    /// Whether it says anything about being resolved: without that, only open ones are wanted.
    pub(crate) fn asks_for_resolved(&self) -> bool {
        match self {
            Self::Any(filters) | Self::All(filters) => filters.iter().any(Self::asks_for_resolved),
            Self::Not(filter) => filter.asks_for_resolved(),
            Self::Compare(comparison) => matches!(comparison, Comparison::Flag(Flag::Resolved, _)),
        }
    }

    pub(crate) fn matches(&self, row: Row<'_>) -> bool {
        match self {
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(row)),
            Self::All(filters) => filters.iter().all(|filter| filter.matches(row)),
            Self::Not(filter) => !filter.matches(row),
            Self::Compare(comparison) => comparison.holds(row),
        }
    }
}

impl Comparison {
    fn holds(&self, row: Row<'_>) -> bool {
        let transaction = row.transaction;
        match self {
            Self::State(is, state) => (transaction.state() == *state) == *is,
            Self::Outcome(is, outcome) => (view::outcome(transaction) == *outcome) == *is,
            Self::Word(word, By::IsNot, text) => !word.holds(row, By::Is, text),
            Self::Word(word, by, text) => word.holds(row, *by, text),
            Self::Quantity(quantity, order, amount) => order.holds(quantity.of(row), *amount),
            Self::Flag(Flag::Stuck, is) => view::is_stuck(transaction, row.now, row.limits) == *is,
            Self::Flag(Flag::Recovered, is) => transaction.recovered == *is,
            Self::Flag(Flag::Resolved, is) => transaction.resolved() == *is,
        }
    }
}

impl Word {
    fn holds(&self, row: Row<'_>, by: By, text: &str) -> bool {
        let transaction = row.transaction;
        let same = |found: &str| by.holds(found, text);
        match self {
            Self::Id if by == By::Is => ends_with(row.gtrid, text),
            Self::Id => same(&row.gtrid.to_string()),
            Self::Name => same(transaction.name.as_str()),
            Self::Label(key) => transaction.labels.value(key).is_some_and(same),
            Self::Participant => transaction.branches.iter().any(|b| same(b.participant.as_str())),
            Self::Resource => transaction.branches.iter().any(|b| same(b.resource.as_str())),
            Self::WaitingOn => transaction.pending().any(|b| same(b.participant.as_str())),
        }
    }
}

impl By {
    fn holds(self, found: &str, text: &str) -> bool {
        match self {
            Self::Is => found == text,
            Self::IsNot => found != text,
            Self::Contains => found.contains(text),
        }
    }
}

impl Quantity {
    fn of(self, Row { transaction, now, .. }: Row<'_>) -> Option<u64> {
        match self {
            Self::Age => Some(now.since(transaction.begun_at)),
            Self::Locked => view::locked_ms(transaction, now),
            Self::Remaining => view::remaining_ms(transaction, now),
            Self::Tries => Some(transaction.tries.into()),
            Self::Branches => u64::try_from(transaction.branches.len()).ok(),
        }
    }
}

impl Order {
    fn holds(self, found: Option<u64>, amount: u64) -> bool {
        let Some(found) = found else { return self == Self::IsNot };
        match self {
            Self::Is => found == amount,
            Self::IsNot => found != amount,
            Self::Less => found < amount,
            Self::AtMost => found <= amount,
            Self::More => found > amount,
            Self::AtLeast => found >= amount,
        }
    }
}

/// Without making the whole id's text, for each of many transactions.
fn ends_with(gtrid: &Gtrid, digits: &str) -> bool {
    let bytes = gtrid.as_bytes();
    digits.bytes().rev().enumerate().all(|(at, digit)| {
        let Some(byte) = bytes.iter().rev().nth(at / 2) else { return false };
        let found = if at % 2 == 0 { byte & 0x0f } else { byte >> 4 };
        char::from(digit).to_digit(16) == Some(found.into())
    })
}

/// Outcomes that an unfinished transaction can have.
fn outcomes() -> Vec<v1::Outcome> {
    let ended = [
        Outcome::Committed,
        Outcome::RolledBack,
        Outcome::HeuristicCommit,
        Outcome::HeuristicRollback,
        Outcome::Mixed,
        Outcome::Hazard,
    ];
    let ended = ended.into_iter().map(convert::outcome);
    ended.chain([v1::Outcome::Pending]).collect()
}
