//! Every command with what it can be given: a row each.

/// An id of the right form that nobody has.
pub(crate) const NOBODYS: &str = "010000000000000000000100000001000000000000000000";

/// What a command has to do with a coordinator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It asks one.
    Asks,
    /// It asks one, and tells "not known in the time given" if it hangs.
    AsksForAnOutcome,
    /// It asks one, and tells what is wrong on stdout, by exit codes of its own.
    Checks,
    /// It asks one, and finds that something needs a person.
    Finds,
    /// It asks one, and needs another person than the one who has proposed it.
    AsksForTwo,
    /// It asks a running `dev`.
    AsksDev,
    /// It needs none.
    Alone,
    /// It runs until it is stopped, and writes no data.
    Serves,
}

/// An error that the documentation promises.
pub(crate) type Error = (&'static [&'static str], i32, &'static str);

/// A command and what to expect of it. `{ID}`, `{SHORT}`, `{LOG}`, `{RUN}`, `{DIR}`, `{CA}` and
/// `{CONFIG}` are things that exist, `{NEW}` is another one each time that does not.
pub(crate) struct Row {
    pub(crate) command: &'static str,
    pub(crate) kind: Kind,
    /// With these it does what it is for.
    pub(crate) good: &'static [&'static str],
    /// With these it looks for something that is not there; none: it names nothing.
    pub(crate) unknown: &'static [Error],
    /// With these it cannot be understood, or what it names cannot.
    pub(crate) garbage: &'static [&'static [&'static str]],
}

const NO_TX: Error = (&[NOBODYS], 4, "NOT_FOUND");
const NO_SHORT: Error = (&["deadbeef"], 4, "NOT_FOUND");
const ID_GARBAGE: &[&[&str]] = &[&["zz"], &["123"], &[""], &["31ce5540", "31ce5540"], &["\u{1b}"]];

const FORCE_GARBAGE: &[&[&str]] = &[
    &[],
    &["{ID}"],
    &["zz", "--reason", "why"],
    &["{ID}", "--reason", ""],
    &["{ID}", "--reason", "\u{1b}[2J"],
    &["deadbeef", "--reason", "why"],
    &["{SHORT}", "--reason", "why"],
    &["{ID}", "--reason", "why", "--yes"],
    &["{ID}", "--reason", "why", "--propose", "--confirm", "{ID}"],
];
/// An entry that nobody has written yet.
const NOTED: &str = "4711:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) const ROWS: &[Row] = &[
    Row {
        command: "serve",
        kind: Kind::Serves,
        good: &["--init", "--data-dir", "{DIR}/new", "--listen", "127.0.0.1:0"],
        unknown: &[(&["--data-dir", "/nowhere/at/all"], 5, "LOG_NOT_INITIALISED")],
        garbage: &[&[], &["--data-dir"], &["--listen", "nowhere"], &["--moved", "--copied"]],
    },
    Row {
        command: "dev",
        kind: Kind::Serves,
        good: &["--run-for", "1s"],
        unknown: &[],
        garbage: &[&["--run-for", "soon"], &["--chaos"], &["--seed", "-1"]],
    },
    Row {
        command: "dev verify",
        kind: Kind::Alone,
        good: &["{RUN}"],
        unknown: &[(&["/nowhere/at/all"], 4, "NO_DEV_RUN")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "dev chaos",
        kind: Kind::AsksDev,
        good: &["kill", "bank-b"],
        unknown: &[],
        garbage: &[&[], &["hug", "bank-b"], &["kill"]],
    },
    Row {
        command: "dev adjust",
        kind: Kind::Alone,
        good: &["--bank", "bank-a", "--account", "7", "--cents", "0", "{RUN}"],
        unknown: &[
            (&["--bank", "bank-z", "--account", "7", "--cents", "1", "{RUN}"], 4, "NO_SUCH_BANK"),
            (&["--bank", "bank-a", "--account", "7", "--cents", "1", "/no"], 4, "NO_DEV_RUN"),
        ],
        garbage: &[&[], &["--bank", "bank-a", "--account", "x", "--cents", "1", "d"]],
    },
    Row {
        command: "tx list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[(&["--page-token", "zz"], 2, "INVALID_ARGUMENT")],
        garbage: &[
            &["--limit", "0"],
            &["--limit", "x"],
            &["--filter"],
            &["--filter", "state=LOST"],
        ],
    },
    Row {
        command: "tx describe",
        kind: Kind::Asks,
        good: &["{ID}"],
        unknown: &[NO_TX, NO_SHORT],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "tx watch",
        kind: Kind::Asks,
        good: &["--timeout", "300ms"],
        unknown: &[NO_TX, NO_SHORT],
        garbage: &[&["zz"], &["--interval", "1ms"], &["--interval", "x"], &["--filter", "("]],
    },
    Row {
        command: "tx retry",
        kind: Kind::Asks,
        good: &["{PREPARED}"],
        unknown: &[NO_TX, NO_SHORT, (&["{ID}"], 5, "NOTHING_TO_RETRY")],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "tx outcome",
        kind: Kind::AsksForAnOutcome,
        good: &["{DONE}"],
        unknown: &[(&[NOBODYS], 8, "OUTCOME_UNKNOWN"), NO_SHORT, (&["{ID}"], 8, "OUTCOME_PENDING")],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "tx history",
        kind: Kind::Asks,
        good: &["{DONE}"],
        unknown: &[NO_TX, NO_SHORT],
        garbage: ID_GARBAGE,
    },
    Row {
        command: "force commit",
        kind: Kind::Asks,
        good: &["{COMMITTING}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--reason", "why"], 4, "NOT_FOUND"),
            (&["{ID}", "--reason", "why"], 5, "VOTES_MISSING"),
            (&["{COMMITTING}", "--reason", "why"], 6, "NOT_CONFIRMED"),
        ],
        garbage: FORCE_GARBAGE,
    },
    Row {
        command: "force rollback",
        kind: Kind::Asks,
        good: &["{ID}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--reason", "why"], 4, "NOT_FOUND"),
            (&["{COMMITTING}", "--reason", "why"], 5, "TX_DECIDED"),
            (&["{ID}", "--reason", "why"], 6, "NOT_CONFIRMED"),
            (&["{ID}", "--reason", "why", "--confirm", NOBODYS], 6, "NOT_CONFIRMED"),
        ],
        garbage: FORCE_GARBAGE,
    },
    Row {
        command: "force assert",
        kind: Kind::Asks,
        good: &[
            "{COMMITTING}",
            "--branch",
            "{PENDING}",
            "--as",
            "committed",
            "--evidence",
            "seen",
            "--reason",
            "why",
            "--dry-run",
        ],
        unknown: &[
            (&[NOBODYS, "--branch", "x", "--as", "mixed", "--reason", "why"], 4, "NOT_FOUND"),
            (
                &["{COMMITTING}", "--branch", "nobody", "--as", "mixed", "--reason", "why"],
                5,
                "BRANCH_UNKNOWN",
            ),
            (
                &["{COMMITTING}", "--branch", "matrix", "--as", "mixed", "--reason", "why"],
                5,
                "BRANCH_AMBIGUOUS",
            ),
        ],
        garbage: &[
            &[],
            &["{ID}", "--reason", "why"],
            &["{ID}", "--branch", "x", "--as", "well", "--reason", "why"],
            &["{ID}", "--branch", "x", "--as", "mixed"],
        ],
    },
    Row {
        command: "force abandon",
        kind: Kind::Asks,
        good: &["{COMMITTING}", "--branch", "{PENDING}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--branch", "x", "--reason", "why"], 4, "NOT_FOUND"),
            (&["{COMMITTING}", "--branch", "\u{e9}", "--reason", "why"], 5, "BRANCH_UNKNOWN"),
        ],
        garbage: &[&[], &["{ID}", "--reason", "why"], &["{ID}", "--branch", "x"]],
    },
    Row {
        command: "force forget",
        kind: Kind::Asks,
        good: &["{HEURISTIC}", "--reason", "why", "--dry-run"],
        unknown: &[
            (&[NOBODYS, "--reason", "why"], 4, "NOT_FOUND"),
            (&["{ID}", "--reason", "why"], 5, "NOT_HEURISTIC"),
        ],
        garbage: FORCE_GARBAGE,
    },
    Row {
        command: "force approve",
        kind: Kind::AsksForTwo,
        good: &["{PROPOSAL}", "--reason", "why", "--confirm", "{ID}"],
        unknown: &[
            (&["4711", "--reason", "why"], 4, "PROPOSAL_UNKNOWN"),
            (&["{PROPOSAL}", "--reason", "why"], 6, "NOT_CONFIRMED"),
        ],
        garbage: &[&[], &["17"], &["x", "--reason", "why"], &["-1", "--reason", "why"]],
    },
    Row { command: "force list", kind: Kind::Asks, good: &[], unknown: &[], garbage: &[&["x"]] },
    Row {
        command: "audit list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[],
        garbage: &[&["x"], &["--limit", "0"], &["--id", "zz"]],
    },
    Row {
        command: "audit export",
        kind: Kind::Asks,
        good: &[],
        unknown: &[(&["/nowhere/at/all"], 1, "IO"), (&["{CONFIG}"], 1, "IO")],
        garbage: &[&["a", "b"]],
    },
    Row {
        command: "audit verify",
        kind: Kind::Asks,
        good: &[],
        unknown: &[
            (&["/nowhere/at/all"], 1, "IO"),
            (&["{CONFIG}"], 9, "AUDIT_BROKEN"),
            (&["--expect", NOTED], 9, "AUDIT_BROKEN"),
        ],
        garbage: &[&["a", "b"], &["--expect", "7"], &["--expect", "7:ab"]],
    },
    Row {
        command: "participant list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[],
        garbage: &[&["bank-b"]],
    },
    Row {
        command: "participant describe",
        kind: Kind::Asks,
        good: &["matrix"],
        unknown: &[(&["nobody"], 4, "NOT_FOUND"), (&["\u{1b}[2J"], 4, "NOT_FOUND")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "orphan list",
        kind: Kind::Asks,
        good: &[],
        unknown: &[],
        garbage: &[&["bank-b"]],
    },
    Row {
        command: "orphan resolve",
        kind: Kind::Asks,
        good: &["{LOST}", "{LOST_BRANCH}", "--as", "committed", "--reason", "why", "--dry-run"],
        unknown: &[
            (&["{ID}", "{PENDING}", "--as", "committed", "--reason", "why"], 5, "NOT_AN_ORPHAN"),
            (
                &["{LOST}", "{LOST_BRANCH}", "--as", "rolled-back", "--reason", "why"],
                6,
                "NOT_CONFIRMED",
            ),
        ],
        garbage: &[
            &[],
            &["{ID}", "{PENDING}"],
            &["31ce5540", "{PENDING}", "--as", "committed", "--reason", "why"],
            &["{ID}", "{PENDING}", "--as", "mixed", "--reason", "why"],
        ],
    },
    Row {
        command: "check",
        kind: Kind::Checks,
        good: &["--crit-heuristic", "9", "--warn-orphans", "9"],
        unknown: &[],
        garbage: &[&["x"], &["--warn-stuck", "-1"], &["--crit-orphans", "x"]],
    },
    Row { command: "doctor", kind: Kind::Finds, good: &[], unknown: &[], garbage: &[&["x"]] },
    Row { command: "status", kind: Kind::Asks, good: &[], unknown: &[], garbage: &[&["x"]] },
    Row {
        command: "log verify",
        kind: Kind::Alone,
        good: &["{LOG}"],
        unknown: &[(&["/nowhere/at/all"], 5, "LOG_NOT_INITIALISED")],
        garbage: &[&[], &["a", "--data-dir", "b"]],
    },
    Row {
        command: "log dump",
        kind: Kind::Alone,
        good: &["{LOG}"],
        unknown: &[(&["/nowhere/at/all"], 5, "LOG_NOT_INITIALISED")],
        garbage: &[&[], &["a", "--data-dir", "b"]],
    },
    Row {
        command: "config init",
        kind: Kind::Alone,
        good: &[],
        unknown: &[(&["/nowhere/at/all"], 1, "IO"), (&["{CONFIG}"], 5, "CONFIG_EXISTS")],
        garbage: &[&["a", "b"]],
    },
    Row {
        command: "config check",
        kind: Kind::Alone,
        good: &["{CONFIG}"],
        unknown: &[(&["/nowhere/at/all"], 2, "CONFIG_UNREADABLE")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "config show",
        kind: Kind::Alone,
        good: &["--config", "{CONFIG}"],
        unknown: &[(&["--config", "/nowhere/at/all"], 2, "CONFIG_UNREADABLE")],
        garbage: &[&["--listen", "nowhere"], &["--log-level", "a=b=c"]],
    },
    Row {
        command: "cert init",
        kind: Kind::Alone,
        good: &["{NEW}"],
        unknown: &[(&["{CA}"], 5, "CERT_EXISTS")],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "cert server",
        kind: Kind::Alone,
        good: &["--host", "localhost", "--authority", "{CA}", "--to", "{NEW}"],
        unknown: &[(&["--host", "x", "--authority", "/nowhere/at/all"], 4, "NO_AUTHORITY")],
        garbage: &[&[], &["--host", "a b"], &["--host", "localhost:7450"], &["--days", "0"]],
    },
    Row {
        command: "cert client",
        kind: Kind::Alone,
        good: &["alice", "--role", "operator", "--authority", "{CA}", "--to", "{NEW}"],
        unknown: &[
            (&["x", "--role", "reader", "--authority", "{DIR}"], 4, "NO_AUTHORITY"),
            (&["ca", "--role", "reader", "--authority", "{CA}"], 5, "CERT_EXISTS"),
        ],
        garbage: &[&[], &["a"], &["../a", "--role", "reader"], &["a", "--role", "king"]],
    },
    Row {
        command: "cert participant",
        kind: Kind::Alone,
        good: &["bank-a", "--role", "client", "--authority", "{CA}", "--to", "{NEW}"],
        unknown: &[(&["x", "--authority", "{DIR}"], 4, "NO_AUTHORITY")],
        garbage: &[&[], &["BANK"], &["../a"], &["\u{1b}[2J"]],
    },
    Row {
        command: "cert token",
        kind: Kind::Alone,
        good: &["alice", "--role", "reader", "--ends", "2999-12-31"],
        unknown: &[(&["a", "--role", "reader", "--to", "{CONFIG}"], 5, "CERT_EXISTS")],
        garbage: &[
            &[],
            &["a"],
            &["a b", "--role", "reader"],
            &["a", "--role", "king"],
            &["a", "--role", "reader", "--ends", "soon"],
        ],
    },
    Row {
        command: "cert show",
        kind: Kind::Alone,
        good: &["{CA}/ca.pem"],
        unknown: &[
            (&["/nowhere/at/all"], 1, "ACCESS_FILE"),
            (&["{CONFIG}"], 1, "ACCESS_FILE"),
            (&["{DIR}"], 1, "ACCESS_FILE"),
        ],
        garbage: &[&[], &["a", "b"]],
    },
    Row {
        command: "explain",
        kind: Kind::Alone,
        good: &["log-full"],
        unknown: &[
            (&["LOG_FOOL"], 4, "NO_SUCH_PAGE"),
            (&[""], 4, "NO_SUCH_PAGE"),
            (&["\u{1b}[2J\u{202e}"], 4, "NO_SUCH_PAGE"),
        ],
        garbage: &[&["a", "b"]],
    },
    Row {
        command: "completion",
        kind: Kind::Alone,
        good: &["bash"],
        unknown: &[],
        garbage: &[&[], &["cobol"]],
    },
    Row {
        command: "man",
        kind: Kind::Alone,
        good: &["{DIR}"],
        unknown: &[
            (&["/nowhere/at/all"], 4, "NO_SUCH_DIRECTORY"),
            (&["{CONFIG}"], 4, "NO_SUCH_DIRECTORY"),
        ],
        garbage: &[&[], &["a", "b"]],
    },
    Row { command: "version", kind: Kind::Alone, good: &[], unknown: &[], garbage: &[&["x"]] },
];
