//! Outcomes and the aggregation of branch results (section 7), a pure table.

use serde::{Deserialize, Serialize};

/// What the coordinator decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// All branches commit.
    Commit,
    /// All branches roll back.
    Rollback,
}

/// How one branch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BranchResult {
    /// Its effects are durable.
    Committed,
    /// It has no effects.
    RolledBack,
    /// Part of it is, part of it is not.
    Mixed,
    /// Nobody can tell.
    Hazard,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// All branches commit.
    Committed,
    /// All branches roll back.
    RolledBack,
    /// Decided rollback, and all branches committed.
    HeuristicCommit,
    /// Decided commit, and all branches rolled back.
    HeuristicRollback,
    /// Some committed and some rolled back.
    Mixed,
    /// The outcome of at least one branch cannot be known.
    Hazard,
}

/// The first line of section 7's table that fits; `None` among the results is a pending branch.
///
/// Without a branch the outcome is the decision.
#[must_use]
pub fn aggregate(
    decision: Decision,
    results: impl IntoIterator<Item = Option<BranchResult>>,
) -> Outcome {
    let (mut committed, mut rolled_back, mut mixed, mut hazard, mut pending) =
        (false, false, false, false, false);
    for result in results {
        match result {
            Some(BranchResult::Committed) => committed = true,
            Some(BranchResult::RolledBack) => rolled_back = true,
            Some(BranchResult::Mixed) => mixed = true,
            Some(BranchResult::Hazard) => hazard = true,
            None => pending = true,
        }
    }
    let decided = match decision {
        Decision::Commit => Outcome::Committed,
        Decision::Rollback => Outcome::RolledBack,
    };
    if mixed || (committed && rolled_back) {
        Outcome::Mixed
    } else if hazard {
        Outcome::Hazard
    } else if pending {
        decided
    } else {
        match (decision, committed, rolled_back) {
            (Decision::Commit, false, true) => Outcome::HeuristicRollback,
            (Decision::Rollback, true, false) => Outcome::HeuristicCommit,
            _ => decided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 7, "First line that fits", all sets of results, both decisions.
    #[test]
    fn aggregation_is_the_table_of_section_7() {
        use BranchResult::{Committed as C, Hazard as Z, Mixed as M, RolledBack as R};
        let all = [Some(C), Some(R), Some(M), Some(Z), None];
        for set in 0..1u32 << all.len() {
            let results: Vec<_> =
                (0..all.len()).filter(|i| set & (1 << i) != 0).map(|i| all[i]).collect();
            let has = |result| results.contains(&result);
            let (commit, rollback) = if has(Some(M)) || (has(Some(C)) && has(Some(R))) {
                (Outcome::Mixed, Outcome::Mixed)
            } else if has(Some(Z)) {
                (Outcome::Hazard, Outcome::Hazard)
            } else if has(None) || results.is_empty() {
                (Outcome::Committed, Outcome::RolledBack)
            } else if has(Some(C)) {
                (Outcome::Committed, Outcome::HeuristicCommit)
            } else {
                (Outcome::HeuristicRollback, Outcome::RolledBack)
            };
            assert_eq!(aggregate(Decision::Commit, results.clone()), commit, "{results:?}");
            assert_eq!(aggregate(Decision::Rollback, results.clone()), rollback, "{results:?}");
        }
    }
}
