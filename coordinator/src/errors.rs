//! Exit codes and the one shape in which everything that went wrong is told.

use crate::codes::{self, Code};
use crate::output::escape;
use std::path::Path;
use tonic::Status;
use tonic_types::StatusExt;
use unanimous_recovery::{ErrorClass, OpenError};

/// What an exit code of this program means. One meaning each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    NotFound = 4,
    Refused = 5,
    NotConfirmed = 6,
    NotAllowed = 7,
    OutcomeUnknown = 8,
    LogDamaged = 9,
    Warning = 10,
    Critical = 11,
    LogFailed = 12,
}

impl Exit {
    /// All codes with their meanings, for the help.
    const MEANINGS: [(Self, &'static str); 13] = [
        (Self::Done, "done"),
        (Self::Failed, "failed"),
        (Self::Usage, "usage"),
        (Self::Unreachable, "coordinator not reachable"),
        (Self::NotFound, "not found"),
        (Self::Refused, "refused by the state it is in"),
        (Self::NotConfirmed, "not confirmed"),
        (Self::NotAllowed, "not allowed"),
        (Self::OutcomeUnknown, "outcome not known in the time given"),
        (Self::LogDamaged, "log damaged"),
        (Self::Warning, "findings: warning"),
        (Self::Critical, "findings: critical"),
        (Self::LogFailed, "the log could not be written (serve)"),
    ];

    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The table for the end of the help.
    pub(crate) fn help() -> String {
        let lines =
            Self::MEANINGS.map(|(exit, meaning)| format!("  {:>2}  {meaning}", exit.code()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

/// Why a command did not do what was asked, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error[{}]: {what}", code.word())]
pub(crate) struct Failure {
    code: Code,
    what: String,
    why: String,
    next: Vec<String>,
}

impl Failure {
    /// What happened, why, and a command to copy.
    pub(crate) fn new(
        code: Code,
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code, what: what.into(), why: why.into(), next: vec![next.into()] }
    }

    /// Another command that may be what is wanted.
    pub(crate) fn or(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    /// A step of the operating system or a library that failed.
    pub(crate) fn io(doing: &str, error: impl std::fmt::Display, next: impl Into<String>) -> Self {
        Self::new(Code::Io, format!("{doing} failed"), error.to_string(), next)
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.code.exit()
    }

    /// What went wrong, for programs.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// The lines for stderr.
    pub(crate) fn lines(&self, colour: bool) -> String {
        let (red, off) = if colour { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
        let what = escape(&self.what);
        let why = self.why.lines().map(escape).collect::<Vec<_>>().join("\n        ");
        let word = self.code.word();
        let explain = format!("unanimous explain {word}");
        let next = self.next.iter().chain([&explain]).map(|line| escape(line)).collect::<Vec<_>>();
        let next = next.join("\n        or ");
        format!("{red}error[{word}]{off}: {what}\n  why:  {why}\n  next: {next}\n")
    }

    /// A call to the coordinator that was answered with an error, or not at all.
    pub(crate) fn from_status(status: &Status, address: &str, doing: &str) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        // Not the coordinator's answer, but the connection's end.
        let cause = std::error::Error::source(status).map(crate::connect::causes);
        if let Some(failure) = cause.and_then(|cause| tls_failure(address, &cause)) {
            return failure;
        }
        let code = codes::code(&reason).unwrap_or_else(|| Code::of(status.code()));
        let (what, why) = (format!("{doing} failed"), status.message());
        let next = match code {
            Code::Unreachable => return unreachable(address, why),
            Code::NotFound => "unanimous tx list",
            Code::NotAuthenticated => "the same command with --cert FILE and --key FILE",
            Code::RoleMissing => "the same command as somebody who has the role",
            Code::AmbiguousId => "the same command with more digits of the id",
            Code::InvalidArgument | Code::TimeoutTooLong => "unanimous help",
            Code::Unsupported | Code::UnsupportedField => {
                "unanimous version, and compare it with the coordinator's"
            }
            Code::Starting | Code::TooManyCalls | Code::LogBusy => "the same command again",
            _ => "unanimous status",
        };
        let failure = Self::new(code, what, why, next);
        match code {
            Code::NoAnswer => failure.or("look at the coordinator's process: it may hang"),
            _ => failure,
        }
    }

    /// A log that was not opened; `again` is the command that was run.
    pub(crate) fn from_open(error: &OpenError, dir: &Path, again: &str) -> Self {
        let shown = dir.display();
        let verify = format!("unanimous log verify --data-dir {shown}");
        let make = |code, what: &str, next: String| Self::new(code, what, error.to_string(), next);
        match error.class() {
            ErrorClass::NotInitialised => {
                let next = format!("unanimous serve --data-dir {shown} --init");
                make(Code::LogNotInitialised, "there is no log", next)
            }
            ErrorClass::InUse => {
                let next = format!("{again} (after the other process has stopped)");
                make(Code::LogInUse, "another process has the log", next)
            }
            ErrorClass::Foreign => {
                let next = "unanimous serve --data-dir ANOTHER_DIRECTORY --init".to_owned();
                make(Code::LogForeign, "this is not such a log", next)
            }
            ErrorClass::NewerFormat => {
                let next = "unanimous version, and install the one that wrote it".to_owned();
                make(Code::LogNewer, "the log is of a newer version", next)
            }
            ErrorClass::MovedOrCopied => {
                let moved = format!("unanimous serve --data-dir {shown} --moved");
                make(Code::LogMoved, "the log is not where it was made", moved)
                    .or(format!("unanimous serve --data-dir {shown} --copied"))
            }
            ErrorClass::PairIncomplete => {
                let what = "one of the log's two directories is missing";
                let next = format!("unanimous serve --data-dir {shown} --second-dir DIR --rebuild");
                make(Code::LogPairIncomplete, what, next)
                    .or(format!("unanimous serve --data-dir {shown} --second-dir DIR --degraded"))
            }
            ErrorClass::Damaged => make(Code::LogDamaged, "the log is damaged", verify),
            ErrorClass::Io => {
                make(Code::LogIo, "the log cannot be opened", format!("ls -la {shown}"))
            }
        }
    }
}

impl Code {
    /// What an answer without a reason means.
    fn of(answered: tonic::Code) -> Self {
        use tonic::Code as Answered;
        match answered {
            Answered::Unavailable => Self::Unreachable,
            Answered::NotFound => Self::NotFound,
            Answered::FailedPrecondition | Answered::Aborted | Answered::ResourceExhausted => {
                Self::Refused
            }
            Answered::InvalidArgument | Answered::OutOfRange => Self::InvalidArgument,
            Answered::PermissionDenied | Answered::Unauthenticated => Self::NotAllowed,
            Answered::DeadlineExceeded | Answered::Cancelled => Self::NoAnswer,
            Answered::Unimplemented => Self::Unsupported,
            _ => Self::Failed,
        }
    }
}

/// There was no connection to `address`: `why`, all of it.
pub(crate) fn lost(address: &str, why: &str) -> Failure {
    tls_failure(address, why).unwrap_or_else(|| unreachable(address, why))
}

/// What the encryption has to do with it, if anything.
fn tls_failure(address: &str, why: &str) -> Option<Failure> {
    let mut failed = (Code::TlsFailed, format!("no encrypted connection to {address}"));
    let (next, or) = if why.contains("invalid peer certificate") {
        let name = "the same command with --server-name NAME, a name in that certificate";
        ("the same command with --ca FILE, who signed the coordinator's certificate", Some(name))
    } else if why.contains("speaks only TLS") {
        ("the same command with an address that begins with https://", None)
    } else if why.contains("InvalidContentType") {
        ("the same command with an address that begins with http://", None)
    } else if why.contains("received fatal alert") {
        failed = (
            Code::NotAuthenticated,
            format!("the coordinator at {address} does not take this certificate, or needs one"),
        );
        let log = "the coordinator's log, which says why";
        ("the same command with --cert FILE and --key FILE", Some(log))
    } else {
        return None;
    };
    let failure = Failure::new(failed.0, failed.1, why, next);
    Some(or.into_iter().fold(failure, Failure::or))
}

/// Nobody answers at `address`.
fn unreachable(address: &str, why: &str) -> Failure {
    let what = format!("no coordinator answers at {address}");
    let next = "unanimous serve --data-dir DIR --init";
    Failure::new(Code::Unreachable, what, why, next)
        .or("unanimous dev, to try it")
        .or("the same command with --address and --admin-address, if it is elsewhere")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_meanings_are_complete_and_in_order() {
        for (number, (exit, _)) in Exit::MEANINGS.iter().enumerate() {
            assert_eq!(usize::from(exit.code()), number);
        }
    }

    #[test]
    fn z_08_a_failure_has_three_lines_and_no_control_characters() {
        let failure = Failure::new(Code::Failed, "what\u{1b}[2J", "why\nmore", "next").or("other");
        assert_eq!(
            failure.lines(false),
            "error[FAILED]: what\\u{1b}[2J\n  why:  why\n        more\n  next: next\n        \
             or other\n        or unanimous explain FAILED\n"
        );
    }

    #[test]
    fn an_answer_ends_with_its_reason_or_with_what_its_code_means() {
        use tonic_types::ErrorDetails;
        let table = [
            (tonic::Code::Unavailable, "", Code::Unreachable, Exit::Unreachable),
            (tonic::Code::Unavailable, "STOPPING", Code::Stopping, Exit::Unreachable),
            (tonic::Code::NotFound, "", Code::NotFound, Exit::NotFound),
            (tonic::Code::FailedPrecondition, "OF_TOMORROW", Code::Refused, Exit::Refused),
            (tonic::Code::FailedPrecondition, "AMBIGUOUS_ID", Code::AmbiguousId, Exit::Refused),
            (tonic::Code::ResourceExhausted, "LOG_FULL", Code::LogFull, Exit::Refused),
            (tonic::Code::InvalidArgument, "", Code::InvalidArgument, Exit::Usage),
            (tonic::Code::PermissionDenied, "", Code::NotAllowed, Exit::NotAllowed),
            (tonic::Code::DeadlineExceeded, "", Code::NoAnswer, Exit::Unreachable),
            (tonic::Code::Unimplemented, "", Code::Unsupported, Exit::Failed),
            (tonic::Code::Internal, "", Code::Failed, Exit::Failed),
        ];
        for (answered, reason, code, exit) in table {
            let details = ErrorDetails::with_error_info(reason, "unanimous", HashMap::default());
            let status = Status::with_error_details(answered, "x", details);
            let failure = Failure::from_status(&status, "http://h", "asking");
            assert_eq!((failure.code(), failure.exit()), (code, exit), "{answered:?} {reason}");
        }
    }

    #[test]
    fn refusals_of_a_log_have_their_exit_codes() {
        use unanimous_recovery::Found;
        use unanimous_recovery::damage::{At, Refusal};
        let table = [
            (ErrorClass::NotInitialised, Exit::Refused),
            (ErrorClass::InUse, Exit::Refused),
            (ErrorClass::Foreign, Exit::Refused),
            (ErrorClass::NewerFormat, Exit::Refused),
            (ErrorClass::MovedOrCopied, Exit::NotConfirmed),
            (ErrorClass::PairIncomplete, Exit::NotConfirmed),
            (ErrorClass::Damaged, Exit::LogDamaged),
            (ErrorClass::Io, Exit::Failed),
        ];
        for (class, exit) in table {
            let (dir, at) = ("/d".into(), At::Frame(7));
            let detail = String::new();
            let refusal = Refusal { dir, class, found: Found::FrameMissing, at, detail };
            let error = OpenError::Refused(Box::new(refusal));
            let failure = Failure::from_open(&error, Path::new("/d"), "unanimous serve");
            assert_eq!(failure.exit(), exit, "{class:?}");
            assert!(failure.lines(false).contains("frame 7"), "{class:?}");
        }
    }
}
