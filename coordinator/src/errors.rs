//! Exit codes and the one shape in which everything that went wrong is told.

use crate::output::escape;
use std::path::Path;
use tonic::{Code, Status};
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
#[error("error[{code}]: {what}")]
pub(crate) struct Failure {
    exit: Exit,
    code: &'static str,
    what: String,
    why: String,
    next: Vec<String>,
}

impl Failure {
    /// What happened, why, and a command to copy.
    pub(crate) fn new(
        exit: Exit,
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { exit, code, what: what.into(), why: why.into(), next: vec![next.into()] }
    }

    /// Another command that may be what is wanted.
    pub(crate) fn or(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    /// A step of the operating system or a library that failed.
    pub(crate) fn io(doing: &str, error: impl std::fmt::Display, next: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "IO", format!("{doing} failed"), error.to_string(), next)
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines for stderr.
    pub(crate) fn lines(&self, colour: bool) -> String {
        let (red, off) = if colour { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
        let what = escape(&self.what);
        let why = self.why.lines().map(escape).collect::<Vec<_>>().join("\n        ");
        let next = self.next.iter().map(|line| escape(line)).collect::<Vec<_>>();
        let next = next.join("\n        or ");
        format!("{red}error[{}]{off}: {what}\n  why:  {why}\n  next: {next}\n", self.code)
    }

    /// A call to the coordinator that was answered with an error, or not at all.
    pub(crate) fn from_status(status: &Status, address: &str, doing: &str) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let what = format!("{doing} failed");
        let why = match reason.as_str() {
            "" => status.message().to_owned(),
            reason => format!("{} ({reason})", status.message()),
        };
        let failure = |exit, code, next: &str| Self::new(exit, code, &what, &why, next);
        match status.code() {
            Code::Unavailable => unreachable(address, &why),
            Code::NotFound => failure(Exit::NotFound, "NOT_FOUND", "unanimous tx list")
                .or("unanimous tx outcome ID, for one that has finished (full id)"),
            Code::FailedPrecondition | Code::Aborted => {
                failure(Exit::Refused, "REFUSED", "unanimous tx list --output wide")
            }
            Code::InvalidArgument | Code::OutOfRange => {
                failure(Exit::Usage, "BAD_ARGUMENT", "unanimous help")
            }
            Code::PermissionDenied | Code::Unauthenticated => {
                failure(Exit::NotAllowed, "NOT_ALLOWED", "unanimous status")
            }
            Code::DeadlineExceeded | Code::Cancelled => {
                failure(Exit::Unreachable, "NO_ANSWER", "unanimous status")
                    .or("look at the coordinator's process: it may hang")
            }
            Code::Unimplemented => failure(Exit::Failed, "UNSUPPORTED", "unanimous status")
                .or("unanimous version, and compare it with the coordinator's"),
            _ => failure(Exit::Failed, "FAILED", "unanimous status"),
        }
    }

    /// A log that was not opened; `again` is the command that was run.
    pub(crate) fn from_open(error: &OpenError, dir: &Path, again: &str) -> Self {
        let shown = dir.display();
        let verify = format!("unanimous log verify --data-dir {shown}");
        let make = |exit, code, what: &str, next: String| {
            Self::new(exit, code, what, error.to_string(), next)
        };
        match error.class() {
            ErrorClass::NotInitialised => {
                let next = format!("unanimous serve --data-dir {shown} --init");
                make(Exit::Refused, "LOG_NOT_INITIALISED", "there is no log", next)
            }
            ErrorClass::InUse => {
                let next = format!("{again} (after the other process has stopped)");
                make(Exit::Refused, "LOG_IN_USE", "another process has the log", next)
            }
            ErrorClass::Foreign => {
                let next = "unanimous serve --data-dir ANOTHER_DIRECTORY --init".to_owned();
                make(Exit::Refused, "LOG_FOREIGN", "this is not such a log", next)
            }
            ErrorClass::NewerFormat => {
                let next = "unanimous version, and install the one that wrote it".to_owned();
                make(Exit::Refused, "LOG_NEWER", "the log is of a newer version", next)
            }
            ErrorClass::MovedOrCopied => {
                let what = "the log is not where it was made";
                let moved = format!("unanimous serve --data-dir {shown} --moved");
                make(Exit::NotConfirmed, "LOG_MOVED", what, moved)
                    .or(format!("unanimous serve --data-dir {shown} --copied"))
            }
            ErrorClass::PairIncomplete => {
                let what = "one of the log's two directories is missing";
                let next = format!("unanimous serve --data-dir {shown} --second-dir DIR --rebuild");
                make(Exit::NotConfirmed, "LOG_PAIR_INCOMPLETE", what, next)
                    .or(format!("unanimous serve --data-dir {shown} --degraded"))
            }
            ErrorClass::Damaged => {
                make(Exit::LogDamaged, "LOG_DAMAGED", "the log is damaged", verify)
            }
            ErrorClass::Io => {
                make(Exit::Failed, "LOG_IO", "the log cannot be opened", format!("ls -la {shown}"))
            }
        }
    }
}

/// Nobody answers at `address`.
pub(crate) fn unreachable(address: &str, why: &str) -> Failure {
    let what = format!("no coordinator answers at {address}");
    let next = "unanimous serve --data-dir DIR --init";
    Failure::new(Exit::Unreachable, "UNREACHABLE", what, why, next)
        .or("unanimous dev, to try it")
        .or("the same command with --address and --admin-address, if it is elsewhere")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meanings_are_complete_and_in_order() {
        for (number, (exit, _)) in Exit::MEANINGS.iter().enumerate() {
            assert_eq!(usize::from(exit.code()), number);
        }
    }

    #[test]
    fn a_failure_has_three_lines_and_no_control_characters() {
        let failure =
            Failure::new(Exit::Failed, "X", "what\u{1b}[2J", "why\nmore", "next").or("other");
        assert_eq!(
            failure.lines(false),
            "error[X]: what\\u{1b}[2J\n  why:  why\n        more\n  next: next\n        or other\n"
        );
    }

    #[test]
    fn grpc_codes_have_their_exit_codes() {
        let table = [
            (Code::Unavailable, Exit::Unreachable),
            (Code::NotFound, Exit::NotFound),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::InvalidArgument, Exit::Usage),
            (Code::PermissionDenied, Exit::NotAllowed),
            (Code::DeadlineExceeded, Exit::Unreachable),
            (Code::Internal, Exit::Failed),
        ];
        for (code, exit) in table {
            let failure = Failure::from_status(&Status::new(code, "x"), "http://h", "asking");
            assert_eq!(failure.exit(), exit, "{code:?}");
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
