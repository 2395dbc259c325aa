//! What everything that can be found on open means: one table, and the errors it leads to.

use std::io;
use std::path::{Path, PathBuf};

/// What an open found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// The directory is missing or has nothing in it, or its creation was interrupted.
    NothingThere,
    /// The directory has files and none of them is an identity.
    IdentityMissing,
    /// The identity's checksum or size is wrong.
    IdentityBad,
    /// The identity is no identity of ours, or one of another kind of log.
    IdentityForeign,
    /// The identity was written by a newer version.
    IdentityNewer,
    /// The identity names another file system or inode than the directory has.
    PlaceDiffers,
    /// There is no witness.
    WitnessMissing,
    /// Neither slot of the witness is valid.
    WitnessBad,
    /// The witness was written by a newer version.
    WitnessNewer,
    /// The witness is of another log than the identity.
    WitnessForeign,
    /// The generation that the witness names is not there.
    LogMissing,
    /// The store says that its files are damaged.
    StoreRefused,
    /// The store panicked.
    StorePanicked,
    /// The start of the chain is missing or damaged.
    ChainStartBad,
    /// A frame's number does not follow the one before.
    FrameMissing,
    /// A value, or its key, is not a frame.
    NotAFrame,
    /// A frame's bytes do not give its checksum.
    FrameChecksum,
    /// A frame does not carry the checksum of the one before.
    ChainBroken,
    /// A frame's first LSN does not follow the last one before.
    LsnBroken,
    /// A frame was written by a newer version.
    FrameNewer,
    /// A record cannot be read (checked where the kind of log is known to hold core records).
    RecordBad,
    /// A record of a kind that only a newer version knows.
    RecordNewer,
    /// Frames up to the witness were durable and are gone: acknowledged decisions are lost.
    EndsBeforeWitness,
    /// The witnessed frame is there with other content.
    WitnessedFrameDiffers,
    /// The last frame is the witnessed one. After a kill, anything newer was torn off or never was.
    EndsAtWitness,
    /// Whole frames follow the witnessed one.
    FramesBeyondWitness,
    /// The directory is one of a pair, and the other one is not there or not named.
    OneOfPair,
    /// The two directories of a pair hold two different logs.
    Diverged,
    /// The operating system did not let a file be read.
    ReadFailed,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Normal,
    /// Normal, and counted in the report as unwitnessed.
    Counted,
    /// Do not open; the directory stays as it is.
    Refuse(ErrorClass),
}

/// Kinds of refusal, for exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// There is no log yet, and none was to be made.
    NotInitialised,
    /// Another process has it open.
    InUse,
    /// Not a log, or not this kind of log.
    Foreign,
    /// Written by a newer version.
    NewerFormat,
    /// The directory is not where it was made.
    MovedOrCopied,
    /// One directory of a pair is missing.
    PairIncomplete,
    /// What was written is not what is there.
    Damaged,
    /// The operating system refused.
    Io,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What was found.
    pub found: Found,
    /// What it means if the last stop was clean.
    pub after_clean_stop: Verdict,
    /// What it means after a kill, a crash or the loss of power.
    pub after_kill: Verdict,
    /// In words, for the error.
    pub words: &'static str,
}

/// Every kind of finding with its meaning.
pub const TABLE: &[Row] = {
    use ErrorClass::{
        Damaged, Foreign, Io, MovedOrCopied, NewerFormat, NotInitialised, PairIncomplete,
    };
    use Verdict::{Counted, Normal, Refuse};
    const fn row(found: Found, clean: Verdict, kill: Verdict, words: &'static str) -> Row {
        Row { found, after_clean_stop: clean, after_kill: kill, words }
    }
    const fn always(found: Found, class: ErrorClass, words: &'static str) -> Row {
        row(found, Refuse(class), Refuse(class), words)
    }
    &[
        //     what was found                 clean stop      after a kill     words
        always(Found::NothingThere, NotInitialised, "there is no log"),
        always(Found::IdentityMissing, Foreign, "the directory has files, but no identity"),
        always(Found::IdentityBad, Damaged, "the identity is damaged"),
        always(Found::IdentityForeign, Foreign, "the identity is of something else"),
        always(Found::IdentityNewer, NewerFormat, "the identity has a newer format"),
        always(Found::PlaceDiffers, MovedOrCopied, "the directory was moved or copied"),
        always(Found::WitnessMissing, Damaged, "the witness is missing"),
        always(Found::WitnessBad, Damaged, "both slots of the witness are damaged"),
        always(Found::WitnessNewer, NewerFormat, "the witness has a newer format"),
        always(Found::WitnessForeign, Damaged, "the witness is of another log"),
        always(Found::LogMissing, Damaged, "the log's files are missing"),
        always(Found::StoreRefused, Damaged, "the store cannot read its files"),
        always(Found::StorePanicked, Damaged, "the store cannot read its files"),
        always(Found::ChainStartBad, Damaged, "the start of the chain is missing or damaged"),
        always(Found::FrameMissing, Damaged, "a frame is missing"),
        always(Found::NotAFrame, Damaged, "a value is not a frame"),
        always(Found::FrameChecksum, Damaged, "a frame's checksum is wrong"),
        always(Found::ChainBroken, Damaged, "a frame does not continue the one before"),
        always(Found::LsnBroken, Damaged, "a frame's records do not follow the ones before"),
        always(Found::FrameNewer, NewerFormat, "a frame has a newer format"),
        always(Found::RecordBad, Damaged, "a record cannot be read"),
        always(Found::RecordNewer, NewerFormat, "a record is of a newer version"),
        always(Found::EndsBeforeWitness, Damaged, "acknowledged decisions are lost"),
        always(Found::WitnessedFrameDiffers, Damaged, "the witnessed frame has another checksum"),
        row(Found::EndsAtWitness, Normal, Normal, "the log ends at its witness"),
        row(
            Found::FramesBeyondWitness,
            Refuse(Damaged),
            Counted,
            "frames follow the witness of a clean stop",
        ),
        always(Found::OneOfPair, PairIncomplete, "the log is in two directories, one is not here"),
        always(Found::Diverged, Damaged, "the two directories hold two different logs"),
        always(Found::ReadFailed, Io, "a file cannot be read"),
    ]
};

/// The table's word on a finding.
///
/// # Panics
/// Never: a test shows that the table has every finding.
#[must_use]
pub fn row(found: Found) -> &'static Row {
    TABLE.iter().find(|row| row.found == found).expect("the table has every finding")
}

/// Where something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The directory as a whole.
    Directory,
    /// A frame, by its number.
    Frame(u64),
    /// A file, and the place in it from which on it could not be used.
    File(PathBuf, u64),
}

/// One finding, not yet judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub found: Found,
    /// Where.
    pub at: At,
    /// Numbers, versions, the store's words.
    pub detail: String,
}

impl Finding {
    pub(crate) fn new(found: Found, at: At, detail: impl Into<String>) -> Self {
        Self { found, at, detail: detail.into() }
    }

    /// The finding as an error, or whether it is to be counted.
    pub(crate) fn judge(self, dir: &Path, clean: bool) -> Result<Verdict, OpenError> {
        let row = row(self.found);
        match if clean { row.after_clean_stop } else { row.after_kill } {
            Verdict::Refuse(class) => Err(OpenError::Refused(Box::new(Refusal {
                dir: dir.to_owned(),
                class,
                found: self.found,
                at: self.at,
                detail: self.detail,
            }))),
            accepted => Ok(accepted),
        }
    }

    /// The error of a finding that the table refuses whatever the last stop was.
    pub(crate) fn refuse(self, dir: &Path) -> OpenError {
        let found = self.found;
        self.judge(dir, true).expect_err(row(found).words)
    }
}

/// A refusal out of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The data directory.
    pub dir: PathBuf,
    /// The kind of refusal.
    pub class: ErrorClass,
    /// What was found.
    pub found: Found,
    /// Where.
    pub at: At,
    /// Numbers, versions, the store's words.
    pub detail: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.dir.display(), row(self.found).words)?;
        match &self.at {
            At::Directory => {}
            At::Frame(number) => write!(f, ", frame {number}")?,
            At::File(path, offset) => write!(f, ", file {} offset {offset}", path.display())?,
        }
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        let dir = self.dir.display();
        match self.class {
            ErrorClass::NotInitialised => write!(f, "; to make one: `--init`"),
            ErrorClass::MovedOrCopied => write!(
                f,
                "; `--moved` if nothing else will ever run on the original, `--copied` otherwise"
            ),
            ErrorClass::PairIncomplete => write!(
                f,
                "; name both directories; `--rebuild` makes a missing one anew, `--degraded` goes \
                 on without it"
            ),
            ErrorClass::NewerFormat => write!(f, "; nothing was changed, use the newer version"),
            ErrorClass::Foreign => write!(f, "; nothing was changed, name another directory"),
            _ => write!(f, "; nothing was changed, run `unanimous log verify --data-dir {dir}`"),
        }
    }
}

/// Why a log was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has the log open.
    #[error("{}: in use by another process", .0.display())]
    InUse(PathBuf),
    /// The damage table says no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Opening copies the log, and the copy has no room. The directory is as it was, except that
    /// the reserve is gone, and what an interrupted open left.
    #[error(
        "{}: opening copies the log and needs {needed_bytes} bytes, {free_bytes} bytes are free; \
         the log was not changed, make room on this disk and start again", dir.display()
    )]
    NoSpace {
        /// The data directory.
        dir: PathBuf,
        /// What the copy takes.
        needed_bytes: u64,
        /// What there is, without the reserve.
        free_bytes: u64,
    },
    /// The operating system refused something.
    #[error("{doing} {}: {error}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        error: String,
    },
}

impl OpenError {
    /// The kind of error, for exit codes.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InUse(_) => ErrorClass::InUse,
            Self::Refused(refusal) => refusal.class,
            Self::NoSpace { .. } | Self::Io { .. } => ErrorClass::Io,
        }
    }

    /// What was found, if the damage table refused.
    #[must_use]
    pub fn found(&self) -> Option<Found> {
        match self {
            Self::Refused(refusal) => Some(refusal.found),
            Self::InUse(_) | Self::NoSpace { .. } | Self::Io { .. } => None,
        }
    }

    /// Whether a directory of a pair with this error is made anew from the other one: what was
    /// written is not there or cannot be read. Not what the operator or another disk can mend.
    pub(crate) fn is_damage(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Self::InUse(_) | Self::NoSpace { .. } => false,
            Self::Refused(refusal) => {
                matches!(refusal.class, ErrorClass::Damaged | ErrorClass::Io)
            }
            Self::Io { kind, .. } => {
                !matches!(kind, PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
            }
        }
    }

    /// The same, naming what is wrong with the other directory of the pair.
    pub(crate) fn with_other(mut self, other: &Self) -> Self {
        let text = match &mut self {
            Self::Refused(refusal) => &mut refusal.detail,
            Self::Io { error, .. } => error,
            Self::InUse(_) | Self::NoSpace { .. } => return self,
        };
        let separator = if text.is_empty() { "" } else { ", " };
        *text = format!("{text}{separator}and the other one: {other}");
        self
    }

    /// Makes `map_err` arguments: what was being done to which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, kind: error.kind(), error: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_finding_once() {
        let last = Found::ReadFailed as usize;
        assert_eq!(TABLE.len(), last + 1);
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.found as usize, index, "{row:?}");
        }
    }

    #[test]
    fn only_the_end_of_a_log_is_judged_by_the_last_stop() {
        for row in TABLE.iter().filter(|row| row.after_clean_stop != row.after_kill) {
            assert_eq!(row.found, Found::FramesBeyondWitness);
        }
    }

    /// A directory that is only out of reach must not be made anew from the other one.
    #[test]
    fn what_the_operator_or_another_disk_can_mend_is_no_damage() {
        use io::ErrorKind;
        let error = |kind: ErrorKind| OpenError::io("reading", Path::new("log"))(kind.into());
        for kind in [
            ErrorKind::PermissionDenied,
            ErrorKind::QuotaExceeded,
            ErrorKind::ReadOnlyFilesystem,
            ErrorKind::StorageFull,
        ] {
            assert!(!error(kind).is_damage(), "{kind:?}");
        }
        for kind in [ErrorKind::NotFound, ErrorKind::UnexpectedEof, ErrorKind::Other] {
            assert!(error(kind).is_damage(), "{kind:?}");
        }
        assert!(!OpenError::InUse(PathBuf::from("log")).is_damage());
        let dir = PathBuf::from("log");
        assert!(!OpenError::NoSpace { dir, needed_bytes: 2, free_bytes: 1 }.is_damage());
    }
}
