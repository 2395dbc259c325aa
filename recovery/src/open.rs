//! Opening a data directory, one path whether the last stop was clean or not.
//!
//! ```text
//! DIR/identity      whose log, and where it was made            written once
//! DIR/witness       highest durable frame, generation, clean    written by the writer
//! DIR/log-00000007  the store of generation 7: volumes, each a sled database
//! DIR/reserve       room for what must still be written when the disk is full
//! DIR/initialising  only while the directory is being made
//! DIR/rebuilding    only while it is being made anew from the other one of a pair
//! DIR/damaged-...   what it was before, once
//! ```
//! The lock is on the directory itself: no file to be missing, left behind or deleted under its
//! holder, and it works where nothing can be written.
//!
//! The log is copied, the copy is opened and checked, synced, and becomes the log with one write to
//! the witness. A copy always: the store changes what it opens, and after a kill what was read may
//! be only in the page cache, where a second sync of the same file proves nothing.

use crate::chain::{self, Chain, Checked};
use crate::damage::{At, Finding, Found, OpenError};
use crate::files;
use crate::frame::Frame;
use crate::home::{self, DirLock, Examined, Leg, Opened, Role, Survey};
use crate::identity::LogKind;
use crate::retained::Retained;
use crate::space::Space;
use crate::store::ChainStart;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unanimous_core::{FrameNumber, LogId, Lsn};

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Whose log it must be.
    pub kind: LogKind,
    /// Make a log if there is none: the directory is missing or empty.
    pub init: bool,
    /// The cluster of a log that is made.
    pub cluster: u32,
    /// The coordinator's slot of a log that is made.
    pub slot: u16,
    /// The directory was moved, and nothing else runs on the original: keep the incarnation.
    pub moved: bool,
    /// The directory is a copy or was restored: draw a new incarnation. Wins over `moved`.
    pub copied: bool,
    /// How much room to keep on the disk.
    pub space: Space,
    /// Go on with one directory of a pair if the other is missing. Says that nothing was ever
    /// written to the other one alone.
    pub degraded: bool,
    /// Make a missing or empty directory of a pair anew from the other one. Wins over `degraded`.
    pub rebuild: bool,
}

/// How a directory of an open log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// It holds the log.
    Good,
    /// It holds the log again: the open made it anew from the other one.
    Rebuilt,
    /// It is not used any more; the other one says so, durably.
    GivenUp,
}

/// A directory of an open log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryReport {
    /// Where.
    pub dir: PathBuf,
    /// How it is.
    pub state: DirectoryState,
    /// What was wrong with it; empty if nothing.
    pub detail: String,
}

/// What an open found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The last stop was clean, or the log is new.
    pub clean: bool,
    /// Frames in the log.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Frames beyond the witness, durable now: after a kill, what was written in the last moments.
    /// How many more were torn off nobody can tell; none of them is below the witness.
    pub unwitnessed: u64,
    /// The number of the open.
    pub generation: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// The log's directory, or both in the order in which they were named.
    pub directories: Vec<DirectoryReport>,
}

/// One record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its number.
    pub lsn: Lsn,
    /// The group commit it was part of.
    pub frame: FrameNumber,
    /// When that was written.
    pub unix_ms: u64,
    /// What was appended.
    pub bytes: Vec<u8>,
}

/// A checked log whose every frame is durable, not yet written to.
pub struct OpenedLog {
    /// One or two, with the same frames.
    pub(crate) legs: Vec<Leg>,
    pub(crate) chain: Chain,
    pub(crate) retained: Retained,
    pub(crate) start: ChainStart,
    pub(crate) report: OpenReport,
}

impl std::fmt::Debug for OpenedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedLog").field("dirs", &self.report.directories).finish_non_exhaustive()
    }
}

impl OpenedLog {
    /// The log's identity.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.legs[0].home.id
    }

    /// The LSN that the next record must have.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.chain.next_lsn)
    }

    /// The highest frame; 0 in a new log.
    #[must_use]
    pub fn last_frame(&self) -> FrameNumber {
        FrameNumber(self.chain.last_frame())
    }

    /// What the open found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// All records in the order of their LSNs. They are durable; each frame is checked again as it
    /// is read.
    pub fn records(&self) -> impl Iterator<Item = Result<StoredRecord, OpenError>> {
        let (mut chain, dir) = (Chain::at(self.start), &self.legs[0].home.dir);
        let first = self.start.number;
        self.legs[0].store.frames().flat_map(move |stored| {
            let read = match stored {
                Err(error) => Err(chain::store_error(dir, error)),
                Ok((Some(number), _)) if number.0 < first => Ok(Vec::new()),
                Ok((number, bytes)) => chain
                    .accept(number.map(|number| number.0), &bytes)
                    .map(stored_records)
                    .map_err(|finding| finding.refuse(dir)),
            };
            match read {
                Ok(records) => records.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }
}

pub(crate) fn stored_records(frame: Frame) -> Vec<StoredRecord> {
    let (number, unix_ms) = (FrameNumber(frame.number), frame.unix_ms);
    let lsns = (frame.first_lsn..).map(Lsn);
    let records = frame.records.into_iter().zip(lsns);
    records.map(|(bytes, lsn)| StoredRecord { lsn, frame: number, unix_ms, bytes }).collect()
}

impl OpenOptions {
    /// An existing log of this kind, where it was made, with the usual [`Space`].
    #[must_use]
    pub fn new(kind: LogKind) -> Self {
        Self {
            kind,
            init: false,
            cluster: 0,
            slot: 0,
            moved: false,
            copied: false,
            space: Space::default(),
            degraded: false,
            rebuild: false,
        }
    }

    /// Opens the log in `dir`, and with `init` makes one if there is none.
    ///
    /// On `Ok` everything that [`OpenedLog::records`] gives is durable, and no other process has
    /// the log.
    ///
    /// # Errors
    /// What the table in [`crate::damage`] refuses, another process in it, or the operating system.
    /// After an error of another class than `Io` the directory has the same files with the same
    /// bytes as before, and after `NoSpace` all but the reserve and leftovers.
    pub fn open(&self, dir: &Path) -> Result<OpenedLog, OpenError> {
        let started = Instant::now();
        if self.init {
            home::make_dir(dir)?;
        }
        let nothing = || Finding::new(Found::NothingThere, At::Directory, "").refuse(dir);
        let lock = match DirLock::take(dir, true) {
            Err(OpenError::Io { kind: ErrorKind::NotFound, .. }) => return Err(nothing()),
            taken => taken?,
        };
        let role = Role { paired: false, incarnation: self.drawn_incarnation()? };
        let opened = match home::survey(dir)? {
            Survey::Made => {
                let examined = Examined::of(self, dir, role)?;
                let alone = examined.is_paired();
                examined.switch(lock, self.space, alone)?
            }
            Survey::HalfRebuilt => {
                return Err(Finding::new(Found::OneOfPair, At::Directory, "").refuse(dir));
            }
            Survey::Nothing | Survey::HalfMade if !self.init => return Err(nothing()),
            Survey::Nothing | Survey::HalfMade => {
                home::clear_half_made(dir)?;
                home::create(self, dir, lock, false)?
            }
        };
        let report = DirectoryReport {
            dir: dir.to_owned(),
            state: DirectoryState::Good,
            detail: String::new(),
        };
        Ok(opened_log(vec![opened], vec![report], started))
    }

    pub(crate) fn drawn_incarnation(&self) -> Result<Option<u32>, OpenError> {
        if self.copied {
            files::random().map(|bytes| Some(u32::from_le_bytes(bytes)))
        } else {
            Ok(None)
        }
    }
}

/// The log in directories that were found to hold the same frames.
pub(crate) fn opened_log(
    directories: Vec<Opened>,
    reports: Vec<DirectoryReport>,
    started: Instant,
) -> OpenedLog {
    let clean = directories.iter().all(|opened| opened.clean);
    let generation = |opened: &Opened| opened.leg.home.witness.last().generation;
    let generation = directories.iter().map(generation).max().unwrap_or(0);
    let unwitnessed = directories.iter().map(|opened| opened.checked.unwitnessed).min();
    let (mut legs, mut first) = (Vec::new(), None);
    for Opened { leg, checked, .. } in directories {
        legs.push(leg);
        first.get_or_insert(checked);
    }
    let Checked { start, chain, retained, .. } = first.expect("there is a directory");
    let report = OpenReport {
        clean,
        frames: chain.frames(),
        records: chain.records,
        unwitnessed: unwitnessed.unwrap_or(0),
        generation,
        elapsed: started.elapsed(),
        directories: reports,
    };
    OpenedLog { legs, chain, retained, start, report }
}

#[cfg(test)]
mod tests;
