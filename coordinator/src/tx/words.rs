//! Transactions in words and rows, the same in every command.

use crate::output::{Output, short_duration};
use unanimous_proto::v1;
use v1::{Outcome, TransactionState};

/// Columns of a list; the last three only `wide`.
pub(crate) const HEADER: [&str; 10] = [
    "ID",
    "NAME",
    "STATE",
    "BRANCHES",
    "WAITING ON",
    "LOCKED",
    "AGE",
    "TRIES",
    "OUTCOME",
    "LABELS",
];
/// See [`HEADER`].
pub(crate) const WIDE_COLUMNS: [usize; 3] = [7, 8, 9];
/// Of what no participant has said.
const SAYS_OPERATOR: &str = "says the operator";

/// A row of a list.
pub(crate) fn row(transaction: &v1::Transaction, output: Output) -> Vec<String> {
    vec![
        short_id(&transaction.gtrid).to_owned(),
        transaction.name.clone(),
        state_words(transaction),
        branches_words(transaction),
        waiting_words(transaction),
        locked_word(transaction),
        output.ago(transaction.age_ms),
        transaction.tries.to_string(),
        outcome_word(transaction.outcome),
        label_words(transaction),
    ]
}

/// Its state, and whether a person has settled it.
fn state_words(transaction: &v1::Transaction) -> String {
    let resolved = if transaction.resolved { " (resolved)" } else { "" };
    state_word(transaction.state) + resolved
}

/// How many are finished, and of how many only an operator says so.
fn branches_words(transaction: &v1::Transaction) -> String {
    let done = format!("{}/{}", transaction.branches_done, transaction.branches.len());
    match transaction.branches.iter().filter(|branch| branch.asserted).count() {
        0 => done,
        asserted => format!("{done}, {asserted} {SAYS_OPERATOR}"),
    }
}

/// For whom it waits.
pub(super) fn waiting_words(transaction: &v1::Transaction) -> String {
    match transaction.waiting_on.as_slice() {
        [] if needs_a_person(transaction) => "operator".to_owned(),
        [] => "-".to_owned(),
        names if transaction.tries > 1 => {
            format!("{} ({} tries)", names.join(", "), transaction.tries)
        }
        names => names.join(", "),
    }
}

/// How long its branches have been holding locks.
pub(super) fn locked_word(transaction: &v1::Transaction) -> String {
    match transaction.locked_ms {
        0 => "-".to_owned(),
        locked_ms => short_duration(locked_ms),
    }
}

/// As they are written in a filter, without `label.`.
pub(super) fn label_words(transaction: &v1::Transaction) -> String {
    let word = |label: &v1::Label| format!("{}={}", label.key, label.value);
    match transaction.labels.as_slice() {
        [] => "-".to_owned(),
        labels => labels.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

/// Nothing repairs it by itself.
pub(super) fn needs_a_person(transaction: &v1::Transaction) -> bool {
    let heuristic = transaction.state() == TransactionState::Heuristic;
    (heuristic && !transaction.resolved) || transaction.stuck
}

/// A branch's state, and the participant's own words about it.
pub(super) fn branch_words(branch: &v1::Branch) -> String {
    let mut state = branch_state_word(branch.state());
    if branch.asserted {
        state += &format!(", {SAYS_OPERATOR}");
    }
    match (branch.state(), branch.last_error.as_str(), branch.detail.as_str()) {
        (v1::BranchState::Prepared | v1::BranchState::Enlisted, why, _) if !why.is_empty() => {
            format!("{state}, not now: {why}")
        }
        (_, _, "") => state,
        (_, _, detail) => format!("{state}: {detail}"),
    }
}

/// A branch's state.
pub(crate) fn branch_state_word(state: v1::BranchState) -> String {
    enum_word(state.as_str_name(), "BRANCH_STATE_")
}

/// The last 8 digits; not an identifier.
pub(crate) fn short_id(id: &str) -> &str {
    id.len().checked_sub(8).and_then(|start| id.get(start..)).unwrap_or(id)
}

/// A state, also of a newer version.
pub(crate) fn state_word(state: i32) -> String {
    TransactionState::try_from(state)
        .map(|state| enum_word(state.as_str_name(), "TRANSACTION_STATE_"))
        .unwrap_or_else(|_| format!("{state} (of a newer version)"))
}

/// An outcome, also of a newer version.
pub(crate) fn outcome_word(outcome: i32) -> String {
    Outcome::try_from(outcome)
        .map(|outcome| enum_word(outcome.as_str_name(), "OUTCOME_"))
        .unwrap_or_else(|_| format!("{outcome} (of a newer version)"))
}

/// A word of the wire, for people.
pub(crate) fn enum_word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "-".to_owned(),
        word => word.replace('_', " "),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    pub(in super::super) fn transaction(state: TransactionState) -> v1::Transaction {
        v1::Transaction {
            gtrid: format!("{}21f70c55", "0".repeat(40)),
            name: "transfer".into(),
            state: state.into(),
            age_ms: 252_000,
            locked_ms: 252_000,
            branches: vec![v1::Branch::default(); 3],
            branches_done: 2,
            waiting_on: vec!["bank-b".into()],
            tries: 3,
            outcome: Outcome::Committed.into(),
            ..v1::Transaction::default()
        }
    }

    fn output() -> Output {
        Output::new(&Cli::parse_from(["unanimous", "tx", "list"]).global)
    }

    #[test]
    fn a_row_says_what_it_waits_for() {
        let row = row(&transaction(TransactionState::Committing), output());
        let (short, rest) = row.split_first().unwrap();
        assert_eq!(short, "21f70c55");
        assert_eq!(rest[..5], ["transfer", "COMMITTING", "2/3", "bank-b (3 tries)", "4m12s"]);
    }

    #[test]
    fn what_an_operator_says_is_marked() {
        let mut found = transaction(TransactionState::Heuristic);
        found.waiting_on.clear();
        let shown = |found: &v1::Transaction| row(found, output())[2..5].to_vec();
        assert_eq!(shown(&found), ["HEURISTIC", "2/3", "operator"]);
        found.resolved = true;
        found.branches[1] = v1::Branch {
            asserted: true,
            state: v1::BranchState::HeuristicRollback.into(),
            detail: "INC-4411".into(),
            ..v1::Branch::default()
        };
        assert_eq!(shown(&found), ["HEURISTIC (resolved)", "2/3, 1 says the operator", "-"]);
        let words = branch_words(&found.branches[1]);
        assert_eq!(words, "HEURISTIC ROLLBACK, says the operator: INC-4411");
    }

    #[test]
    fn values_of_a_newer_version_are_shown_as_such() {
        assert_eq!(state_word(77), "77 (of a newer version)");
        assert_eq!(outcome_word(0), "-");
        assert_eq!(outcome_word(Outcome::HeuristicMixed.into()), "HEURISTIC MIXED");
    }
}
