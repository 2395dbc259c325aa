//! Every code of an error, and every word of a reason or an outcome, each with its page in
//! `docs/codes`: one without a page does not compile.

use crate::errors::Exit;

macro_rules! page {
    ($word:literal) => {
        include_str!(concat!("../../docs/codes/", $word, ".md"))
    };
}

macro_rules! codes {
    ($($variant:ident = $word:literal ($exit:ident),)*) => {
        /// What went wrong, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $($variant,)*
        }

        impl Code {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it stands in an error.
            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// How a command ends with it.
            pub(crate) fn exit(self) -> Exit {
                match self {
                    $(Self::$variant => Exit::$exit,)*
                }
            }

            fn page(self) -> &'static str {
                match self {
                    $(Self::$variant => page!($word),)*
                }
            }
        }
    };
}

codes! {
    // What a command can find wrong itself.
    Usage = "USAGE" (Usage),
    BadAddress = "BAD_ADDRESS" (Usage),
    BadCredentials = "BAD_CREDENTIALS" (Usage),
    BadLogLevel = "BAD_LOG_LEVEL" (Usage),
    ConfigUnreadable = "CONFIG_UNREADABLE" (Usage),
    ConfigSyntax = "CONFIG_SYNTAX" (Usage),
    ConfigUnknownKey = "CONFIG_UNKNOWN_KEY" (Usage),
    ConfigUnknownSection = "CONFIG_UNKNOWN_SECTION" (Usage),
    ConfigUnknownVariable = "CONFIG_UNKNOWN_VARIABLE" (Usage),
    ConfigBadValue = "CONFIG_BAD_VALUE" (Usage),
    ConfigContradiction = "CONFIG_CONTRADICTION" (Usage),
    ConfigManyProblems = "CONFIG_MANY_PROBLEMS" (Usage),
    ConfigExists = "CONFIG_EXISTS" (Refused),
    CertExists = "CERT_EXISTS" (Refused),
    NoAuthority = "NO_AUTHORITY" (NotFound),
    NoSuchPage = "NO_SUCH_PAGE" (NotFound),
    NoSuchDirectory = "NO_SUCH_DIRECTORY" (NotFound),
    Io = "IO" (Failed),
    Failed = "FAILED" (Failed),
    // Questions to a coordinator.
    Unreachable = "UNREACHABLE" (Unreachable),
    TlsFailed = "TLS_FAILED" (Unreachable),
    NoAnswer = "NO_ANSWER" (Unreachable),
    NotAllowed = "NOT_ALLOWED" (NotAllowed),
    NotAuthenticated = "NOT_AUTHENTICATED" (NotAllowed),
    RoleMissing = "ROLE_MISSING" (NotAllowed),
    NotYourName = "NOT_YOUR_NAME" (NotAllowed),
    TokenInPlaintext = "TOKEN_IN_PLAINTEXT" (NotAllowed),
    Refused = "REFUSED" (Refused),
    Unsupported = "UNSUPPORTED" (Failed),
    OutcomePending = "OUTCOME_PENDING" (OutcomeUnknown),
    OutcomeUnknown = "OUTCOME_UNKNOWN" (OutcomeUnknown),
    NoAnswerInTime = "NO_ANSWER_IN_TIME" (OutcomeUnknown),
    NotEndedInTime = "NOT_ENDED_IN_TIME" (OutcomeUnknown),
    Heuristic = "HEURISTIC" (Critical),
    FindingsWarning = "FINDINGS_WARNING" (Warning),
    FindingsCritical = "FINDINGS_CRITICAL" (Critical),
    // A coordinator's own reasons.
    InvalidArgument = "INVALID_ARGUMENT" (Usage),
    UnsupportedField = "UNSUPPORTED_FIELD" (Failed),
    TimeoutTooLong = "TIMEOUT_TOO_LONG" (Usage),
    NotFound = "NOT_FOUND" (NotFound),
    AmbiguousId = "AMBIGUOUS_ID" (Refused),
    NothingToRetry = "NOTHING_TO_RETRY" (Refused),
    TooManyCalls = "TOO_MANY_CALLS" (Refused),
    TooManyTransactions = "TOO_MANY_TRANSACTIONS" (Refused),
    LogBusy = "LOG_BUSY" (Refused),
    LogSlow = "LOG_SLOW" (Refused),
    LogFull = "LOG_FULL" (Refused),
    Starting = "STARTING" (Unreachable),
    Stopping = "STOPPING" (Unreachable),
    Internal = "INTERNAL" (Failed),
    // What a person decides.
    FullIdNeeded = "FULL_ID_NEEDED" (Usage),
    EvidenceNeeded = "EVIDENCE_NEEDED" (Usage),
    NotConfirmed = "NOT_CONFIRMED" (NotConfirmed),
    ActUnknown = "ACT_UNKNOWN" (OutcomeUnknown),
    TxDecided = "TX_DECIDED" (Refused),
    VotesMissing = "VOTES_MISSING" (Refused),
    WaitForLog = "WAIT_FOR_LOG" (Refused),
    TxEnded = "TX_ENDED" (Refused),
    TxUndecided = "TX_UNDECIDED" (Refused),
    OnePhaseUndecided = "ONE_PHASE_UNDECIDED" (Refused),
    NotHeuristic = "NOT_HEURISTIC" (Refused),
    AlreadyResolved = "ALREADY_RESOLVED" (Refused),
    BranchesPending = "BRANCHES_PENDING" (Refused),
    BranchUnknown = "BRANCH_UNKNOWN" (Refused),
    BranchAmbiguous = "BRANCH_AMBIGUOUS" (Refused),
    BranchFinished = "BRANCH_FINISHED" (Refused),
    TxMoved = "TX_MOVED" (Refused),
    SecondPersonNeeded = "SECOND_PERSON_NEEDED" (Refused),
    SamePerson = "SAME_PERSON" (NotAllowed),
    ProposalUnknown = "PROPOSAL_UNKNOWN" (NotFound),
    NotAnOrphan = "NOT_AN_ORPHAN" (Refused),
    AuditFull = "AUDIT_FULL" (Failed),
    AuditBroken = "AUDIT_BROKEN" (LogDamaged),
    // Logs.
    LogNotInitialised = "LOG_NOT_INITIALISED" (Refused),
    LogInUse = "LOG_IN_USE" (Refused),
    LogForeign = "LOG_FOREIGN" (Refused),
    LogNewer = "LOG_NEWER" (Refused),
    LogMoved = "LOG_MOVED" (NotConfirmed),
    LogPairIncomplete = "LOG_PAIR_INCOMPLETE" (NotConfirmed),
    LogDamaged = "LOG_DAMAGED" (LogDamaged),
    LogIo = "LOG_IO" (Failed),
    // Serve.
    AccessFile = "ACCESS_FILE" (Failed),
    InsecureListen = "INSECURE_LISTEN" (Usage),
    PortInUse = "PORT_IN_USE" (Failed),
    ListenFailed = "LISTEN_FAILED" (Failed),
    ServeFailed = "SERVE_FAILED" (Failed),
    LogFailed = "LOG_FAILED" (LogFailed),
    // Dev.
    NoDev = "NO_DEV" (Unreachable),
    NoDevRun = "NO_DEV_RUN" (NotFound),
    NoSuchProcess = "NO_SUCH_PROCESS" (NotFound),
    NoSuchBank = "NO_SUCH_BANK" (NotFound),
    SeveralDevs = "SEVERAL_DEVS" (Refused),
    NotEmpty = "NOT_EMPTY" (Refused),
    NoPorts = "NO_PORTS" (Failed),
    NotReady = "NOT_READY" (Failed),
    NoStop = "NO_STOP" (Failed),
    ProcessLost = "PROCESS_LOST" (Failed),
    CheckFailed = "CHECK_FAILED" (Failed),
    Bank = "BANK" (Failed),
    BankStore = "BANK_STORE" (Failed),
    NotAdjusted = "NOT_ADJUSTED" (Failed),
}

macro_rules! words {
    ($($word:literal)*) => {
        &[$(($word, page!($word)),)*]
    };
}

/// Words that commands never end with, and show: why work does not join a transaction, why one is
/// rolled back, what became of it, and what `doctor` finds.
const WORDS: &[(&str, &str)] = words! {
    "NO_TRANSACTION" "BAD_TRANSACTION" "INACTIVE" "UNKNOWN_TRANSACTION" "NOT_OURS"
    "TOO_MANY_BRANCHES" "BAD_RESOURCE" "UNDONE" "OVERLOADED" "REPLACED" "STOPPED" "REQUESTED"
    "FORCED" "TIMED_OUT" "VOTED" "BRANCH_COUNT" "PRESUMED" "LEASE_LOST" "OTHER" "PENDING"
    "COMMITTED" "COMMITTED_BEFORE" "ROLLED_BACK" "HEURISTIC_COMMIT" "HEURISTIC_ROLLBACK"
    "HEURISTIC_MIXED" "HEURISTIC_HAZARD" "UNKNOWN" "COORDINATOR_UNREACHABLE" "BAD_ANSWER"
    "ACCOUNT_BUSY" "NO_SUCH_ACCOUNT" "NOT_ACTIVE" "TOO_LARGE" "TOO_MANY_ACCOUNTS" "CLIENT_OVER"
    "BRANCH_MISSING" "BRANCH_LATE" "ORPHAN" "RESOURCE_FAILED" "RESOURCE_SILENT" "NOT_EXAMINED"
    "PARTICIPANT_AWAY" "LOG_BEHIND" "LOG_SPACE_LOW" "LOG_DIRECTORY_LOST" "STUCK"
    "SYNC_SLOW" "CLOCK_JUMPED" "CLOCK_BEHIND" "SDK_VERSION" "ENDED_ALONE"
    "DEADLOCK" "LOCK_TIMEOUT" "STATEMENT_TIMEOUT" "DUPLICATE_KEY" "CONSTRAINT_VIOLATED"
    "NOT_GRANTED" "DATABASE_UNAVAILABLE" "DATABASE_READ_ONLY" "DATABASE_OVERLOADED" "POOL_EXHAUSTED"
    "BRANCH_BUSY" "BROKEN_OFF" "STATEMENT_LEAVES_BRANCH" "STATEMENT_FAILED"
    "POSTGRES_NO_PREPARED_TRANSACTIONS" "POSTGRES_FEW_PREPARED_TRANSACTIONS" "POSTGRES_FSYNC_OFF"
    "POSTGRES_TORN_PAGES" "POSTGRES_ASYNCHRONOUS_COMMIT" "POSTGRES_STANDBY" "POSTGRES_POOLING_PROXY"
    "POSTGRES_NOT_ALLOWED" "POSTGRES_TOO_OLD" "POSTGRES_PREPARED_FOR_LONG" "MYSQL_NO_DATABASE"
    "MYSQL_PROXY" "MYSQL_TOO_OLD" "MYSQL_GALERA" "MYSQL_FLUSH_LOG" "MYSQL_DOUBLEWRITE"
    "MYSQL_SYNC_BINLOG" "MYSQL_MAX_CONNECTIONS" "MYSQL_NO_TRANSACTIONS" "MYSQL_NOT_RUN_BY_US"
    "MYSQL_XA_RECOVER" "MYSQL_MARKER_TABLE"
};

/// A word and what there is to say about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Explained {
    pub(crate) word: &'static str,
    /// How a command ends with it; `None`: none does.
    pub(crate) exit: Option<Exit>,
    /// Markdown.
    pub(crate) page: &'static str,
}

impl Explained {
    /// What it means, in one sentence.
    pub(crate) fn summary(&self) -> String {
        let meaning = self.page.split("## What it means\n\n").nth(1).unwrap_or_default();
        let paragraph = meaning.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        paragraph
            .split_once(". ")
            .map_or_else(|| paragraph.trim_end().to_owned(), |(sentence, _)| format!("{sentence}."))
    }
}

/// All words, in alphabetical order.
pub(crate) fn all() -> Vec<Explained> {
    let codes = Code::ALL.iter().map(|code| Explained {
        word: code.word(),
        exit: Some(code.exit()),
        page: code.page(),
    });
    let words = WORDS.iter().map(|(word, page)| Explained { word, exit: None, page });
    let mut all: Vec<_> = codes.chain(words).collect();
    all.sort_by_key(|one| one.word);
    all
}

/// The code of a coordinator's refusal, if this version knows it.
pub(crate) fn code(word: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| code.word() == word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use std::collections::BTreeSet;
    use std::path::Path;
    use unanimous_proto::v1;

    fn known() -> BTreeSet<&'static str> {
        all().into_iter().map(|one| one.word).collect()
    }

    /// Upper snake case in quotes, outside of tests.
    fn quoted_words(dir: &Path) -> BTreeSet<String> {
        let upper = |word: &&str| {
            word.len() > 3 && word.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')
        };
        let (mut words, mut paths) = (BTreeSet::new(), vec![dir.to_owned()]);
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let source = std::fs::read_to_string(path).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
                words.extend(line.split('"').skip(1).step_by(2).filter(upper).map(str::to_owned));
            }
        }
        // Variables of the environment.
        words.retain(|word| !word.starts_with("UNANIMOUS_") && !word.starts_with("CARGO_"));
        words
    }

    /// Outcomes and reasons of the wire.
    fn wire_words() -> BTreeSet<String> {
        let outcomes = (1..).map_while(|n| v1::Outcome::try_from(n).ok());
        let reasons = (1..).map_while(|n| v1::RollbackReason::try_from(n).ok());
        let outcomes = outcomes.map(|one| one.as_str_name().strip_prefix("OUTCOME_").unwrap());
        let reasons =
            reasons.map(|one| one.as_str_name().strip_prefix("ROLLBACK_REASON_").unwrap());
        outcomes.chain(reasons).map(str::to_owned).collect()
    }

    #[test]
    fn each_word_is_explained_once() {
        assert_eq!(known().len(), Code::ALL.len() + WORDS.len());
    }

    /// And no page is left of a word that nobody says any more.
    #[test]
    fn every_word_of_the_wire_of_a_coordinator_and_of_the_sdk_is_explained() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let server = quoted_words(&root.join("coordinator/server/src/refusal.rs"));
        let sdk = quoted_words(&root.join("participant-sdk/src"));
        assert!(server.len() > 10 && sdk.len() > 20, "{server:?} {sdk:?}");
        let doctor = quoted_words(&root.join("coordinator/server/src/doctor.rs"));
        let all = wire_words().into_iter().chain(server).chain(doctor).chain(sdk);
        // What is sent to a database.
        let said: BTreeSet<String> =
            all.filter(|word| !["COMMIT", "ROLLBACK"].contains(&&**word)).collect();
        let known: BTreeSet<String> = known().into_iter().map(ToOwned::to_owned).collect();
        let unexplained: Vec<_> = said.difference(&known).collect();
        assert!(unexplained.is_empty(), "without a page: {unexplained:?}");
        let unsaid: Vec<_> = WORDS.iter().filter(|(word, _)| !said.contains(*word)).collect();
        assert!(unsaid.is_empty(), "nobody says: {unsaid:?}");
    }

    /// No page tells of a command or an option that does not exist.
    #[test]
    fn every_command_of_a_page_exists() {
        let root = {
            let mut root = Cli::command();
            root.build();
            root
        };
        for one in all() {
            let lines = one.page.lines().filter_map(|line| line.strip_prefix("    unanimous "));
            for line in lines {
                let mut command = &root;
                let mut words = line.split(' ').peekable();
                while let Some(inner) = words.peek().and_then(|word| command.find_subcommand(word))
                {
                    command = inner;
                    words.next();
                }
                let runs = !command.has_subcommands() || command.get_name() == "dev";
                assert!(runs || line == "help", "{}: {line}", one.word);
                for option in words.filter_map(|word| word.strip_prefix("--")) {
                    let known = command.get_arguments().any(|arg| arg.get_long() == Some(option));
                    assert!(known, "{}: {line}: --{option}", one.word);
                }
            }
        }
    }

    #[test]
    fn every_page_has_the_same_parts_and_every_file_is_a_page() {
        for one in all() {
            let titles = ["What it means", "Why it happens", "What to do", "See also"];
            let found: Vec<_> = one.page.lines().filter_map(|l| l.strip_prefix("## ")).collect();
            assert_eq!(found, titles, "{}", one.word);
            assert!(one.page.starts_with(&format!("# {}\n\n## ", one.word)), "{}", one.word);
            assert!(one.summary().ends_with('.'), "{}: {}", one.word, one.summary());
            assert!(one.page.contains("\n    unanimous "), "{}: no command to copy", one.word);
            for word in one.page.split("## See also").nth(1).unwrap().split('`').skip(1).step_by(2)
            {
                assert!(known().contains(word), "{}: see also {word}", one.word);
            }
        }
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/codes");
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(known().contains(name.strip_suffix(".md").unwrap()), "{name} is no page");
        }
    }
}
