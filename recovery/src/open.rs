//! Opening a data directory, one path whether the last stop was clean or not.
//!
//! ```text
//! DIR/identity      whose log, and where it was made            written once
//! DIR/witness       highest durable frame, generation, clean    written by the writer
//! DIR/log-00000007  the store of generation 7: volumes, each a sled database
//! DIR/reserve       room for what must still be written when the disk is full
//! DIR/initialising  only while the directory is being made
//! ```
//! The lock is on the directory itself: no file to be missing, left behind or deleted under its
//! holder, and it works where nothing can be written.
//!
//! The log is copied, the copy is opened and checked, synced, and becomes the log with one write to
//! the witness. A copy always: the store changes what it opens, and after a kill what was read may
//! be only in the page cache, where a second sync of the same file proves nothing.

use crate::chain::{self, Chain, Checked};
use crate::crash_point::crash_point;
use crate::damage::{At, Finding, Found, OpenError};
use crate::files::{self, Scratch};
use crate::frame::Frame;
use crate::identity::{self, Identity, LogKind, Place};
use crate::retained::Retained;
use crate::space::{self, Space, SpaceWatch};
use crate::store::{ChainStart, FrameStore};
use crate::volumes::{self, Volumes};
use crate::witness::{self, Witness, WitnessFile};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unanimous_core::{FrameNumber, LogId, Lsn};

const INITIALISING: &str = "initialising";
const LOG_PREFIX: &str = "log-";
const TMPFS_MAGIC: u64 = 0x0102_1994;

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
}

/// What an open found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The right to a directory, held until this goes.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the directory for this process alone, or for reading with others; never waits.
    pub(crate) fn take(dir: &Path, alone: bool) -> Result<Self, OpenError> {
        let file = File::open(dir).map_err(OpenError::io("opening", dir))?;
        match if alone { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(OpenError::io("locking", dir)(error)),
        }
    }
}

/// Everything of an open log except its frames.
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) id: LogId,
    pub(crate) witness: WitnessFile,
    pub(crate) lock: DirLock,
    pub(crate) space: SpaceWatch,
}

/// A checked log whose every frame is durable, not yet written to.
pub struct OpenedLog {
    pub(crate) store: Box<dyn FrameStore>,
    pub(crate) home: Home,
    pub(crate) chain: Chain,
    pub(crate) retained: Retained,
    start: ChainStart,
    report: OpenReport,
}

impl std::fmt::Debug for OpenedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedLog").field("dir", &self.home.dir).finish_non_exhaustive()
    }
}

impl OpenedLog {
    /// The log's identity.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.home.id
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
        let (mut chain, dir) = (Chain::at(self.start), &self.home.dir);
        let first = self.start.number;
        self.store.frames().flat_map(move |stored| {
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

/// What lies in a directory, before anything in it is read.
enum Survey {
    Nothing,
    HalfMade,
    Made,
}

impl OpenOptions {
    /// An existing log of this kind, where it was made, with the usual [`Space`].
    #[must_use]
    pub fn new(kind: LogKind) -> Self {
        let (init, moved, copied) = (false, false, false);
        Self { kind, init, cluster: 0, slot: 0, moved, copied, space: Space::default() }
    }

    /// Opens the log in `dir`, and with `init` makes one if there is none.
    ///
    /// On `Ok` everything that [`OpenedLog::records`] gives is durable, and no other process has
    /// the log.
    ///
    /// # Errors
    /// What the table in [`crate::damage`] refuses, another process in it, or the operating system.
    /// After an error of another class than `Io`, and after `NoSpace` but for the reserve and leftovers, the
    /// directory has the same files with the same bytes as before.
    pub fn open(&self, dir: &Path) -> Result<OpenedLog, OpenError> {
        let started = Instant::now();
        if self.init {
            make_dir(dir)?;
        }
        let lock = match DirLock::take(dir, true) {
            Err(OpenError::Io { kind: ErrorKind::NotFound, .. }) => {
                return Err(Finding::new(Found::NothingThere, At::Directory, "").refuse(dir));
            }
            taken => taken?,
        };
        match survey(dir)? {
            Survey::Made => self.open_made(dir, lock, started),
            Survey::Nothing | Survey::HalfMade if !self.init => {
                Err(Finding::new(Found::NothingThere, At::Directory, "").refuse(dir))
            }
            Survey::HalfMade => {
                clear_half_made(dir)?;
                self.create(dir, lock, started)
            }
            Survey::Nothing => self.create(dir, lock, started),
        }
    }

    /// Makes a log. The identity is the commit point: until it is there, a crash leaves the mark
    /// `initialising`.
    fn create(&self, dir: &Path, lock: DirLock, started: Instant) -> Result<OpenedLog, OpenError> {
        warn_of_tmpfs(dir);
        let mark = dir.join(INITIALISING);
        File::create(&mark).map_err(OpenError::io("creating", &mark))?;
        files::sync_dir(dir)?;
        crash_point("init.marked");
        let incarnation = u32::from_le_bytes(files::random()?);
        let id = LogId { cluster: self.cluster, slot: self.slot, incarnation };
        let previous_crc = u32::from_le_bytes(files::random()?);
        let start = ChainStart { number: 1, previous_crc, first_lsn: 1 };
        let log = log_dir(dir, 1);
        fs::create_dir(&log).map_err(OpenError::io("creating", &log))?;
        let store =
            Volumes::create(&log, start).map_err(|error| chain::store_error(&log, error))?;
        files::sync_tree(&log)?;
        crash_point("init.stored");
        let witness = Witness {
            sequence: 0,
            id,
            generation: 1,
            frame: 0,
            frame_crc: previous_crc,
            clean: false,
        };
        let path = dir.join(witness::FILE);
        let io = OpenError::io("writing", &path);
        let witness = WitnessFile::open(dir, witness, true)
            .and_then(|mut file| file.write_both(witness, || ()).map(|()| file))
            .map_err(io)?;
        files::sync_dir(dir)?;
        crash_point("init.witnessed");
        Identity { kind: self.kind, id, place: Place::of(dir)? }.write(dir)?;
        crash_point("init.identified");
        remove_mark(dir)?;
        crash_point("init.done");
        let (chain, store) = (Chain::at(start), Box::new(store));
        let retained = Retained::from(start);
        let checked = Checked { start, chain, retained, unwitnessed: 0 };
        let space = SpaceWatch::open(dir, self.space)?;
        let home = Home { dir: dir.to_owned(), id, witness, lock, space };
        Ok(opened(home, store, checked, true, started))
    }

    fn open_made(
        &self,
        dir: &Path,
        lock: DirLock,
        started: Instant,
    ) -> Result<OpenedLog, OpenError> {
        warn_of_tmpfs(dir);
        let mut identity = Identity::read(dir)?;
        identity.check_kind(dir, self.kind)?;
        let place = Place::of(dir)?;
        if identity.place != place && !self.moved && !self.copied {
            let at = At::File(dir.join(identity::FILE), 0);
            let detail = format!("made at {:?}, is at {place:?}", identity.place);
            return Err(Finding::new(Found::PlaceDiffers, at, detail).refuse(dir));
        }
        let last = Witness::read(dir)?;
        check_witness_id(dir, &identity, &last, self.copied)?;
        let old = log_dir(dir, last.generation);
        check_log_is_there(dir, &old)?;

        let generation = highest_generation(dir)?.max(last.generation) + 1;
        space::make_room_for_copy(dir, &old, || remove_other_generations(dir, &old))?;
        let mut copy = Scratch::new(log_dir(dir, generation));
        files::copy_store(&old, copy.dir())?;
        crash_point("open.copied");
        let store = Volumes::open(copy.dir()).map_err(|error| chain::store_error(&old, error))?;
        let checked = chain::check(dir, &store, &last, |_| Ok(()))?;
        crash_point("open.verified");
        store.flush().map_err(|error| chain::store_error(copy.dir(), error))?;
        files::sync_tree(copy.dir())?;
        files::sync_dir(dir)?;
        crash_point("open.synced");

        let remade = Identity { place, ..identity };
        let rewrite = self.copied || remade != identity;
        identity = remade;
        if self.copied {
            identity.id.incarnation = u32::from_le_bytes(files::random()?);
        }
        let next = Witness {
            id: identity.id,
            generation,
            frame: checked.chain.last_frame(),
            frame_crc: checked.chain.last_crc,
            clean: false,
            ..last
        };
        let path = dir.join(witness::FILE);
        let mut witness =
            WitnessFile::open(dir, last, false).map_err(OpenError::io("opening", &path))?;
        // From here on the witness may name the copy, whatever the call below returns.
        copy.keep();
        crash_point("open.before_switch");
        witness
            .write_both(next, || crash_point("open.half"))
            .map_err(OpenError::io("writing", &path))?;
        crash_point("open.switched");
        // After the witness: a crash between leaves a place that differs, and the operator is asked
        // again.
        if rewrite {
            identity.write(dir)?;
        }
        crash_point("open.identified");
        remove_other_generations(dir, copy.dir())?;
        remove_mark(dir)?;
        crash_point("open.cleaned");
        let space = SpaceWatch::open(dir, self.space)?;
        let home = Home { dir: dir.to_owned(), id: identity.id, witness, lock, space };
        Ok(opened(home, Box::new(store), checked, last.clean, started))
    }
}

fn opened(
    home: Home,
    store: Box<dyn FrameStore>,
    checked: Checked,
    clean: bool,
    started: Instant,
) -> OpenedLog {
    let report = OpenReport {
        clean,
        frames: checked.chain.frames(),
        records: checked.chain.records,
        unwitnessed: checked.unwitnessed,
        generation: home.witness.last().generation,
        elapsed: started.elapsed(),
    };
    let Checked { start, chain, retained, .. } = checked;
    OpenedLog { store, home, chain, retained, start, report }
}

/// The witness must be of this log. Of another incarnation only where `--copied` was interrupted
/// between the two.
pub(crate) fn check_witness_id(
    dir: &Path,
    identity: &Identity,
    witness: &Witness,
    any_incarnation: bool,
) -> Result<(), OpenError> {
    let (ours, seen) = (identity.id, witness.id);
    let same = (ours.cluster, ours.slot) == (seen.cluster, seen.slot);
    if same && (any_incarnation || ours.incarnation == seen.incarnation) {
        return Ok(());
    }
    let at = At::File(dir.join(witness::FILE), 0);
    Err(Finding::new(Found::WitnessForeign, at, format!("{seen:?} instead of {ours:?}"))
        .refuse(dir))
}

pub(crate) fn log_dir(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{LOG_PREFIX}{generation:08}"))
}

/// The store would make an empty log out of nothing; here its file must be there.
pub(crate) fn check_log_is_there(dir: &Path, log: &Path) -> Result<(), OpenError> {
    let missing = || {
        let at = At::File(log.to_owned(), 0);
        Err(Finding::new(Found::LogMissing, at, "").refuse(dir))
    };
    if !log.is_dir() {
        return missing();
    }
    let volumes = volumes::list(log)?;
    if volumes.is_empty() || volumes.iter().any(|(_, volume)| !volume.join("db").is_file()) {
        return missing();
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(OpenError::io("creating", dir))?;
    let absolute = std::path::absolute(dir).map_err(OpenError::io("resolving", dir))?;
    absolute.ancestors().skip(1).try_for_each(files::sync_dir)
}

fn survey(dir: &Path) -> Result<Survey, OpenError> {
    let entries = files::entries(dir)?;
    let has = |name: &str| entries.iter().any(|(path, _)| path.ends_with(name));
    if has(identity::FILE) {
        Ok(Survey::Made)
    } else if has(INITIALISING) {
        Ok(Survey::HalfMade)
    } else if entries.is_empty() {
        Ok(Survey::Nothing)
    } else {
        Err(Finding::new(Found::IdentityMissing, At::Directory, "").refuse(dir))
    }
}

/// Removes what an interrupted `create` made, the mark last. Nothing in it was ever told to
/// anybody.
fn clear_half_made(dir: &Path) -> Result<(), OpenError> {
    for (path, is_dir) in files::entries(dir)? {
        if is_dir && path == log_dir(dir, 1) {
            fs::remove_dir_all(&path).map_err(OpenError::io("removing", &path))?;
        } else if path.ends_with(witness::FILE) || path.ends_with("identity.tmp") {
            fs::remove_file(&path).map_err(OpenError::io("removing", &path))?;
        }
    }
    files::sync_dir(dir)
}

fn remove_mark(dir: &Path) -> Result<(), OpenError> {
    let mark = dir.join(INITIALISING);
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(OpenError::io("removing", &mark)(error))
        }
        _ => files::sync_dir(dir),
    }
}

fn generations(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let number = |path: &PathBuf| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix(LOG_PREFIX)?.parse().ok()
    };
    let entries = files::entries(dir)?.into_iter();
    let logs = entries.filter(|(_, is_dir)| *is_dir);
    Ok(logs.filter_map(|(path, _)| number(&path).map(|number| (number, path))).collect())
}

/// Leftovers included: a refused open must not touch them, so the copy takes a number above them.
fn highest_generation(dir: &Path) -> Result<u64, OpenError> {
    Ok(generations(dir)?.into_iter().map(|(number, _)| number).max().unwrap_or(0))
}

/// Removes every generation but the one that the witness names.
fn remove_other_generations(dir: &Path, current: &Path) -> Result<(), OpenError> {
    for (_, path) in generations(dir)?.into_iter().filter(|(_, path)| path != current) {
        fs::remove_dir_all(&path).map_err(OpenError::io("removing", &path))?;
    }
    Ok(())
}

fn warn_of_tmpfs(dir: &Path) {
    let found = rustix::fs::statfs(dir).map(|statfs| u64::try_from(statfs.f_type));
    if found == Ok(Ok(TMPFS_MAGIC)) {
        tracing::warn!(dir = %dir.display(), "the log lies in memory (tmpfs)");
    }
}

#[cfg(test)]
mod tests;
