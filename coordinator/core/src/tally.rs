//! The vote tally (section 3, row "vote"), a pure table.

use crate::museum::{Bug, on};

/// A branch's vote as the tally sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ballot {
    /// Not voted yet.
    Outstanding,
    /// Prepared durably.
    Commit,
    /// Nothing to commit.
    ReadOnly,
    /// Cannot commit.
    Rollback,
}

/// What the votes amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tally {
    /// Somebody has to vote yet.
    Outstanding,
    /// Roll back.
    Rollback,
    /// Commit, with a forced record.
    Commit,
    /// All are read-only: committed, and nothing to log.
    NothingToDo,
}

/// Counts the votes. One vote for rollback decides at once; anything else waits for the last vote.
#[must_use]
pub fn tally(ballots: impl IntoIterator<Item = Ballot>) -> Tally {
    let (mut outstanding, mut commit) = (false, false);
    for ballot in ballots {
        match ballot {
            Ballot::Rollback if on(Bug::MajorityDecides) && commit => {}
            Ballot::Rollback => return Tally::Rollback,
            Ballot::Outstanding => outstanding = true,
            Ballot::Commit => commit = true,
            Ballot::ReadOnly => {}
        }
    }
    match (outstanding, commit) {
        (true, true) if on(Bug::FirstVoteDecides) => Tally::Commit,
        (true, _) => Tally::Outstanding,
        (false, true) => Tally::Commit,
        (false, false) => Tally::NothingToDo,
    }
}

#[cfg(test)]
mod tests {
    use super::Ballot::{Commit, Outstanding, ReadOnly, Rollback};
    use super::*;

    #[test]
    fn the_votes_of_three_branches() {
        let kinds = [Outstanding, Commit, ReadOnly, Rollback];
        for a in kinds {
            for b in kinds {
                for c in kinds {
                    let votes = [a, b, c];
                    let has = |kind| votes.contains(&kind);
                    let expected = match () {
                        () if has(Rollback) => Tally::Rollback,
                        () if has(Outstanding) => Tally::Outstanding,
                        () if has(Commit) => Tally::Commit,
                        () => Tally::NothingToDo,
                    };
                    assert_eq!(tally(votes), expected, "{votes:?}");
                }
            }
        }
    }

    #[test]
    fn no_branch_has_nothing_to_do() {
        assert_eq!(tally([]), Tally::NothingToDo);
    }
}
