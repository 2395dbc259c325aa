//! What the server's error numbers mean, a table for each operation.

use mysql_async::{Error, ServerError};
use tonic::Code;

/// Why a statement of our own brought nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server's answer: it is alive, and the connection can be used.
    Refused(ServerError),
    /// No answer: whether the statement was carried out is not known.
    Broken(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            // It ends the session with it, or another one may carry the statement out.
            Error::Server(error) if !LAST_WORDS.contains(&error.code) => Self::Refused(error),
            error => Self::Broken(error.to_string()),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "{error}"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Trouble {}

/// Errors after which the session is gone: the shutdown, a killed connection, a killed statement, a
/// server that is gone or was lost, an idle client that was disconnected.
const LAST_WORDS: [u16; 7] = [1053, 1080, 1317, 1927, 2006, 2013, 4031];

/// What an error means for a prepared branch that is being finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finishing {
    /// The server knows no such branch, or another session has it: look for it.
    Look,
    /// Not now; for people.
    Later(&'static str),
}

const FINISHING: [(u16, Finishing); 17] = {
    use Finishing::{Later, Look};
    const RIGHTS: Finishing =
        Later("the user may not do this: grant it what the error names; the branch waits");
    const READ_ONLY: Finishing = Later("the server is read-only: make it writable");
    [
        // XAER_NOTA, and the branch was undone: rolled back, after a time-out, after a deadlock.
        (1397, Look),
        (1402, Look),
        (1613, Look),
        (1614, Look),
        (1398, Later("the server does not take the branch's name")),
        (1399, Later("the session is in a state that does not allow it")),
        (1400, Later("the session has other work open")),
        (1401, Later("the server has failed inside: its own log says more")),
        (1205, Later("it waits for a lock on the whole server, as a backup takes it")),
        (1180, Later("the server could not write it: its own log says more")),
        (1290, READ_ONLY),
        (1792, READ_ONLY),
        (1836, READ_ONLY),
        (1044, RIGHTS),
        (1045, RIGHTS),
        (1142, RIGHTS),
        (1227, RIGHTS),
    ]
};

/// See [`Finishing`].
pub(super) fn finishing(code: u16) -> Finishing {
    find(&FINISHING, code).unwrap_or(Finishing::Later("the server refused it"))
}

/// Why a branch could not be begun, or prepared: the words of its vote.
const REFUSALS: [(u16, &str); 17] = [
    (1440, "another session works under this very branch"),
    (1399, "the server lets the branch do nothing but roll back"),
    (1400, "the session has other work open"),
    (1305, "its transaction was ended behind the handle's back"),
    (1397, "its transaction was ended behind the handle's back"),
    (1402, "the server rolled it back"),
    (1613, "it took the server too long"),
    (1614, "it was a deadlock's victim"),
    (1213, "it was a deadlock's victim"),
    (1205, "a lock was not free in time"),
    (1062, "its marker is there already"),
    (1146, "the marker table is gone"),
    (1142, "the user may not write the marker table"),
    (1290, "the server is read-only"),
    (1792, "the session was made read-only"),
    (1114, "the server has no room"),
    (1021, "the server has no room"),
];

/// The words of a vote against the branch.
pub(super) fn refusal(error: &ServerError) -> String {
    match find(&REFUSALS, error.code) {
        Some(words) => format!("{words}: {error}"),
        None => error.to_string(),
    }
}

/// What a handler's failed statement is to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) code: Code,
    pub(super) reason: &'static str,
}

const fn failed(code: Code, reason: &'static str) -> Failed {
    Failed { code, reason }
}

const STATEMENTS: [(u16, Failed); 24] = {
    const DEADLOCK: Failed = failed(Code::Aborted, "DEADLOCK");
    const LEAVES: Failed = failed(Code::FailedPrecondition, "STATEMENT_LEAVES_BRANCH");
    const BUSY: Failed = failed(Code::ResourceExhausted, "DATABASE_OVERLOADED");
    const CONSTRAINT: Failed = failed(Code::FailedPrecondition, "CONSTRAINT_VIOLATED");
    const RIGHTS: Failed = failed(Code::PermissionDenied, "NOT_GRANTED");
    const READ_ONLY: Failed = failed(Code::Unavailable, "DATABASE_READ_ONLY");
    const GONE: Failed = failed(Code::Unavailable, "DATABASE_UNAVAILABLE");
    [
        (1205, failed(Code::Aborted, "LOCK_TIMEOUT")),
        (3024, failed(Code::DeadlineExceeded, "STATEMENT_TIMEOUT")),
        (1969, failed(Code::DeadlineExceeded, "STATEMENT_TIMEOUT")),
        (1213, DEADLOCK),
        (1402, DEADLOCK),
        (1614, DEADLOCK),
        // Anything that would end or leave the branch: COMMIT, BEGIN, DDL, another XA START.
        (1399, LEAVES),
        (1400, LEAVES),
        (1062, failed(Code::AlreadyExists, "DUPLICATE_KEY")),
        (1451, CONSTRAINT),
        (1452, CONSTRAINT),
        (3819, CONSTRAINT),
        (4025, CONSTRAINT),
        (1040, BUSY),
        (1203, BUSY),
        (1226, BUSY),
        (1044, RIGHTS),
        (1045, RIGHTS),
        (1142, RIGHTS),
        (1227, RIGHTS),
        (1290, READ_ONLY),
        (1792, READ_ONLY),
        (1053, GONE),
        (1927, GONE),
    ]
};

/// What a failed statement is to the handler's caller.
pub(super) fn statement(error: &Error) -> Failed {
    match error {
        Error::Server(error) => {
            find(&STATEMENTS, error.code).unwrap_or(failed(Code::Internal, "STATEMENT_FAILED"))
        }
        Error::Io(_) => failed(Code::Unavailable, "DATABASE_UNAVAILABLE"),
        Error::Driver(_) | Error::Other(_) | Error::Url(_) => {
            failed(Code::Internal, "STATEMENT_FAILED")
        }
    }
}

fn find<T: Copy>(table: &[(u16, T)], code: u16) -> Option<T> {
    table.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn server(code: u16) -> ServerError {
        ServerError { code, message: "words".to_owned(), state: "HY000".to_owned() }
    }

    #[test]
    fn every_number_stands_once_in_its_table() {
        let once = |codes: Vec<u16>| {
            let distinct: BTreeSet<u16> = codes.iter().copied().collect();
            assert_eq!(distinct.len(), codes.len(), "{codes:?}");
        };
        once(FINISHING.map(|(code, _)| code).to_vec());
        once(REFUSALS.map(|(code, _)| code).to_vec());
        once(STATEMENTS.map(|(code, _)| code).to_vec());
        once(LAST_WORDS.to_vec());
    }

    /// The contract's table of a resource manager's answers: nothing here says that a branch is
    /// done, or that it is rolled back.
    #[test]
    fn an_error_in_phase_two_is_looked_into_or_comes_later() {
        for code in [1397, 1402, 1613, 1614] {
            assert_eq!(finishing(code), Finishing::Look, "{code}");
        }
        for (code, said) in [
            (1398, "name"),
            (1399, "state"),
            (1400, "other work"),
            (1401, "its own log"),
            (1205, "backup"),
            (1180, "could not write"),
            (1290, "read-only"),
            (1792, "read-only"),
            (1836, "read-only"),
            (1044, "grant"),
            (1045, "grant"),
            (1142, "grant"),
            (1227, "grant"),
            (9999, "refused"),
        ] {
            let Finishing::Later(words) = finishing(code) else { unreachable!("{code}") };
            assert!(words.contains(said), "{code}: {words}");
        }
    }

    #[test]
    fn a_vote_against_says_what_the_server_said_and_what_it_means() {
        let words = refusal(&server(1213));
        assert_eq!(words, "it was a deadlock's victim: ERROR 1213 (HY000): words");
        assert_eq!(refusal(&server(1364)), "ERROR 1364 (HY000): words");
    }

    #[test]
    fn a_statements_failure_has_a_code_and_a_reason() {
        for (code, expected, reason) in [
            (1205, Code::Aborted, "LOCK_TIMEOUT"),
            (3024, Code::DeadlineExceeded, "STATEMENT_TIMEOUT"),
            (1969, Code::DeadlineExceeded, "STATEMENT_TIMEOUT"),
            (1213, Code::Aborted, "DEADLOCK"),
            (1402, Code::Aborted, "DEADLOCK"),
            (1614, Code::Aborted, "DEADLOCK"),
            (1399, Code::FailedPrecondition, "STATEMENT_LEAVES_BRANCH"),
            (1400, Code::FailedPrecondition, "STATEMENT_LEAVES_BRANCH"),
            (1062, Code::AlreadyExists, "DUPLICATE_KEY"),
            (1451, Code::FailedPrecondition, "CONSTRAINT_VIOLATED"),
            (1452, Code::FailedPrecondition, "CONSTRAINT_VIOLATED"),
            (3819, Code::FailedPrecondition, "CONSTRAINT_VIOLATED"),
            (4025, Code::FailedPrecondition, "CONSTRAINT_VIOLATED"),
            (1040, Code::ResourceExhausted, "DATABASE_OVERLOADED"),
            (1203, Code::ResourceExhausted, "DATABASE_OVERLOADED"),
            (1226, Code::ResourceExhausted, "DATABASE_OVERLOADED"),
            (1044, Code::PermissionDenied, "NOT_GRANTED"),
            (1045, Code::PermissionDenied, "NOT_GRANTED"),
            (1142, Code::PermissionDenied, "NOT_GRANTED"),
            (1227, Code::PermissionDenied, "NOT_GRANTED"),
            (1290, Code::Unavailable, "DATABASE_READ_ONLY"),
            (1792, Code::Unavailable, "DATABASE_READ_ONLY"),
            (1053, Code::Unavailable, "DATABASE_UNAVAILABLE"),
            (1927, Code::Unavailable, "DATABASE_UNAVAILABLE"),
            (1064, Code::Internal, "STATEMENT_FAILED"),
        ] {
            let failed = statement(&Error::Server(server(code)));
            assert_eq!(failed, Failed { code: expected, reason }, "{code}");
        }
        let io = Error::from(std::io::Error::other("gone"));
        assert_eq!(statement(&io), failed(Code::Unavailable, "DATABASE_UNAVAILABLE"));
        let driver = Error::from(mysql_async::DriverError::MixedParams);
        assert_eq!(statement(&driver), failed(Code::Internal, "STATEMENT_FAILED"));
    }

    #[test]
    fn a_servers_last_words_tell_nothing_of_the_statement() {
        for code in LAST_WORDS {
            assert!(matches!(Trouble::from(Error::Server(server(code))), Trouble::Broken(_)));
        }
        assert!(matches!(Trouble::from(Error::Server(server(1397))), Trouble::Refused(_)));
        let io = Error::from(std::io::Error::other("gone"));
        assert!(matches!(Trouble::from(io), Trouble::Broken(_)));
    }
}
