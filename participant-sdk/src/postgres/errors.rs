//! What each refusal of the server means, by its SQLSTATE.

use super::session::Failed;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// PREPARE TRANSACTION.
    Prepare,
    /// COMMIT PREPARED, ROLLBACK PREPARED.
    Finish,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The block is rolled back, or will be: the vote is no.
    No,
    /// It may have happened: look.
    Look,
    /// There is no such branch: evidence.
    Absent,
    /// Not now; by itself it passes.
    Later,
    /// Not until somebody has done something.
    Person,
}

/// What the guard before PREPARE TRANSACTION refuses.
const GUARD: &str = "its work has ended the block, or changed the role, or is on another backend";

/// By the beginning of the SQLSTATE; the longest counts. With words for a person where the server's
/// own would not do.
const TABLE: &[(Operation, &str, Meaning, &str)] = {
    use Meaning::{Absent, Later, Look, No, Person};
    use Operation::{Finish, Prepare};
    &[
        (Prepare, "", Look, ""),
        (Prepare, "0A", No, "it has used what cannot be prepared (see PREPARE TRANSACTION)"),
        (Prepare, "22", No, ""),
        (Prepare, "22012", No, GUARD),
        (Prepare, "22023", No, ""),
        (Prepare, "23", No, ""),
        (Prepare, "26000", No, "it has taken the guard away (DISCARD, DEALLOCATE ALL)"),
        (Prepare, "25", No, ""),
        (Prepare, "25P02", No, "a statement of its work has failed"),
        (Prepare, "40", No, "try the transaction again"),
        (Prepare, "40003", Look, ""),
        (Prepare, "42", No, ""),
        (Prepare, "42710", No, "a branch of this name is prepared already"),
        (Prepare, "53200", No, "raise max_prepared_transactions, or finish what is prepared"),
        (Prepare, "55", No, ""),
        (Prepare, "57014", No, ""),
        (Prepare, "P0", No, ""),
        (Finish, "", Later, ""),
        (Finish, "0A000", Person, "finish it in the database that it was prepared in"),
        (Finish, "25001", Later, ""),
        (Finish, "42501", Person, "finish it as the role that has prepared it"),
        (Finish, "42704", Absent, ""),
        (Finish, "55000", Later, ""),
    ]
};

/// The guard itself has refused: the connection is not as it was, and is of no use to others.
pub(super) fn spoils(failed: &Failed) -> bool {
    matches!(failed, Failed::Refused { code, .. } if ["22012", "26000"].contains(&code.as_str()))
}

/// The server has no room for another prepared transaction: it will be the same for the next one.
pub(super) fn exhausts(failed: &Failed) -> bool {
    matches!(failed, Failed::Refused { code, .. } if code == "53200")
}

/// What it means, and words for a person.
pub(super) fn meaning(operation: Operation, failed: &Failed) -> (Meaning, String) {
    let Failed::Refused { code, words } = failed else {
        let lost = match operation {
            Operation::Prepare => Meaning::Look,
            Operation::Finish => Meaning::Later,
        };
        return (lost, failed.words().to_owned());
    };
    let fits =
        |row: &&(Operation, &str, Meaning, &str)| row.0 == operation && code.starts_with(row.1);
    match TABLE.iter().filter(fits).max_by_key(|row| row.1.len()) {
        Some((_, _, meaning, "")) => (*meaning, words.clone()),
        Some((_, _, meaning, more)) => (*meaning, format!("{words}: {more}")),
        None => (Meaning::Later, words.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{Finish, Prepare};

    fn refused(code: &str) -> Failed {
        Failed::Refused { code: code.to_owned(), words: "words".to_owned() }
    }

    #[test]
    fn every_sqlstate_means_one_thing_in_each_operation() {
        for (code, complete, finish) in [
            ("42710", Meaning::No, Meaning::Later),
            ("42704", Meaning::No, Meaning::Absent),
            ("53200", Meaning::No, Meaning::Later),
            ("53300", Meaning::Look, Meaning::Later),
            ("22023", Meaning::No, Meaning::Later),
            ("22012", Meaning::No, Meaning::Later),
            ("40001", Meaning::No, Meaning::Later),
            ("40P01", Meaning::No, Meaning::Later),
            ("40003", Meaning::Look, Meaning::Later),
            ("23505", Meaning::No, Meaning::Later),
            ("0A000", Meaning::No, Meaning::Person),
            ("42501", Meaning::No, Meaning::Person),
            ("25001", Meaning::No, Meaning::Later),
            ("26000", Meaning::No, Meaning::Later),
            ("25P02", Meaning::No, Meaning::Later),
            ("55000", Meaning::No, Meaning::Later),
            ("57014", Meaning::No, Meaning::Later),
            ("57P01", Meaning::Look, Meaning::Later),
            ("57P02", Meaning::Look, Meaning::Later),
            ("57P03", Meaning::Look, Meaning::Later),
            ("08006", Meaning::Look, Meaning::Later),
            ("58030", Meaning::Look, Meaning::Later),
            ("XX000", Meaning::Look, Meaning::Later),
            ("P0001", Meaning::No, Meaning::Later),
            ("BANK1", Meaning::Look, Meaning::Later),
        ] {
            assert_eq!(meaning(Prepare, &refused(code)).0, complete, "{code}");
            assert_eq!(meaning(Finish, &refused(code)).0, finish, "{code}");
        }
    }

    #[test]
    fn a_lost_answer_may_mean_anything() {
        let lost = Failed::Lost { words: "words".to_owned() };
        assert_eq!(meaning(Prepare, &lost), (Meaning::Look, "words".to_owned()));
        assert_eq!(meaning(Finish, &lost), (Meaning::Later, "words".to_owned()));
    }

    #[test]
    fn words_that_help_a_person_are_added() {
        let (_, words) = meaning(Prepare, &refused("53200"));
        assert!(words.starts_with("words: raise max_prepared_transactions"), "{words}");
        assert_eq!(meaning(Prepare, &refused("23505")).1, "words");
    }
}
