//! A log's directory: the lock, what lies in it, how it is made, and how a generation becomes the
//! log.

use crate::chain::{self, Chain, Checked};
use crate::crash_point::crash_point;
use crate::damage::{At, Finding, Found, OpenError};
use crate::files::{self, Scratch};
use crate::identity::{self, Identity, Place};
use crate::open::OpenOptions;
use crate::retained::Retained;
use crate::space::{self, Space, SpaceWatch};
use crate::store::{ChainStart, FrameStore};
use crate::volumes::{self, Volumes};
use crate::witness::{self, Witness, WitnessFile};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use unanimous_core::LogId;

/// Only while the directory is being made.
pub(crate) const INITIALISING: &str = "initialising";
/// Only while a damaged directory of a pair is being made anew.
pub(crate) const REBUILDING: &str = "rebuilding";
const LOG_PREFIX: &str = "log-";
const TMPFS_MAGIC: u64 = 0x0102_1994;

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

/// Everything of an open directory except its frames.
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) id: LogId,
    pub(crate) witness: WitnessFile,
    pub(crate) lock: DirLock,
    pub(crate) space: SpaceWatch,
}

/// What lies in a directory, before anything in it is read.
pub(crate) enum Survey {
    Nothing,
    HalfMade,
    /// A damaged directory of a pair, half replaced.
    HalfRebuilt,
    Made,
}

/// One directory of an open log.
pub(crate) struct Leg {
    pub(crate) store: Box<dyn FrameStore>,
    pub(crate) home: Home,
    /// The first frame that counts in this store.
    pub(crate) first_frame: u64,
}

/// An open directory and what its check found.
pub(crate) struct Opened {
    pub(crate) leg: Leg,
    pub(crate) checked: Checked,
    pub(crate) clean: bool,
}

/// Makes a log in an empty directory.
pub(crate) fn create(
    options: &OpenOptions,
    dir: &Path,
    lock: DirLock,
    pair: bool,
) -> Result<Opened, OpenError> {
    let incarnation = u32::from_le_bytes(files::random()?);
    let id = LogId { cluster: options.cluster, slot: options.slot, incarnation };
    let previous_crc = u32::from_le_bytes(files::random()?);
    let start = ChainStart { number: 1, previous_crc, first_lsn: 1 };
    let founding = Founding { options, dir, mark: INITIALISING, generation: 1, id, pair };
    founding.make(lock, |log| {
        fs::create_dir(log).map_err(OpenError::io("creating", log))?;
        let store = Volumes::create(log, start).map_err(|error| chain::store_error(log, error))?;
        let (chain, retained) = (Chain::at(start), Retained::from(start));
        Ok((store, Checked { start, chain, retained, unwitnessed: 0 }))
    })
}

/// A directory that becomes a log's.
pub(crate) struct Founding<'a> {
    pub(crate) options: &'a OpenOptions,
    pub(crate) dir: &'a Path,
    /// The file that is there until the identity is.
    pub(crate) mark: &'static str,
    pub(crate) generation: u64,
    pub(crate) id: LogId,
    pub(crate) pair: bool,
}

impl Founding<'_> {
    /// `fill` makes the store in the directory it is given. The identity is the commit point: until
    /// it is there, a crash leaves the mark.
    pub(crate) fn make(
        self,
        lock: DirLock,
        fill: impl FnOnce(&Path) -> Result<(Volumes, Checked), OpenError>,
    ) -> Result<Opened, OpenError> {
        let Self { options, dir, mark, generation, id, pair } = self;
        warn_of_tmpfs(dir);
        self::mark(dir, mark)?;
        crash_point("init.marked");
        let log = log_dir(dir, generation);
        let (store, checked) = fill(&log)?;
        store.flush().map_err(|error| chain::store_error(&log, error))?;
        files::sync_tree(&log)?;
        crash_point("init.stored");
        let (frame, frame_crc) = (checked.chain.last_frame(), checked.chain.last_crc);
        let (clean, alone) = (false, false);
        let witness = Witness { sequence: 0, id, generation, frame, frame_crc, clean, alone };
        let path = dir.join(witness::FILE);
        let witness = WitnessFile::open(dir, witness, true)
            .and_then(|mut file| file.write_both(witness, || ()).map(|()| file))
            .map_err(OpenError::io("writing", &path))?;
        files::sync_dir(dir)?;
        crash_point("init.witnessed");
        Identity { kind: options.kind, id, place: Place::of(dir)?, pair }.write(dir)?;
        crash_point("init.identified");
        remove_marks(dir)?;
        crash_point("init.done");
        let space = SpaceWatch::open(dir, options.space)?;
        let home = Home { dir: dir.to_owned(), id, witness, lock, space };
        let first_frame = checked.start.number;
        let leg = Leg { store: Box::new(store), home, first_frame };
        Ok(Opened { leg, checked, clean: true })
    }
}

/// A directory whose log was copied and the copy found good; nothing is changed yet, and nothing
/// will be if this is dropped.
pub(crate) struct Examined {
    pub(crate) dir: PathBuf,
    identity: Identity,
    rewrite: bool,
    pub(crate) last: Witness,
    generation: u64,
    /// Before the copy's directory goes, its store must.
    pub(crate) store: Volumes,
    copy: Scratch,
    pub(crate) checked: Checked,
}

/// How a directory is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    /// As one of two. `false`: by itself.
    pub(crate) paired: bool,
    /// The incarnation that a copied log draws.
    pub(crate) incarnation: Option<u32>,
}

impl Examined {
    pub(crate) fn of(options: &OpenOptions, dir: &Path, role: Role) -> Result<Self, OpenError> {
        warn_of_tmpfs(dir);
        let stored = Identity::read(dir)?;
        stored.check_kind(dir, options.kind)?;
        let place = Place::of(dir)?;
        if stored.place != place && !options.moved && !options.copied {
            let at = At::File(dir.join(identity::FILE), 0);
            let detail = format!("made at {:?}, is at {place:?}", stored.place);
            return Err(Finding::new(Found::PlaceDiffers, at, detail).refuse(dir));
        }
        if stored.pair && !role.paired && !options.degraded {
            return Err(Finding::new(Found::OneOfPair, At::Directory, "").refuse(dir));
        }
        let last = Witness::read(dir)?;
        check_witness_id(dir, &stored, &last, options.copied)?;
        let old = log_dir(dir, last.generation);
        check_log_is_there(dir, &old)?;

        let generation = highest_generation(dir)?.max(last.generation) + 1;
        space::make_room_for_copy(dir, &old, || remove_other_generations(dir, &old))?;
        let copy = Scratch::new(log_dir(dir, generation));
        files::copy_store(&old, copy.dir())?;
        crash_point("open.copied");
        let store = Volumes::open(copy.dir()).map_err(|error| chain::store_error(&old, error))?;
        let checked = chain::check(dir, &store, &last, |_| Ok(()))?;
        crash_point("open.verified");
        store.flush().map_err(|error| chain::store_error(copy.dir(), error))?;
        files::sync_tree(copy.dir())?;
        files::sync_dir(dir)?;
        crash_point("open.synced");

        let mut identity = Identity { place, pair: stored.pair || role.paired, ..stored };
        let rewrite = options.copied || identity != stored;
        if let Some(incarnation) = role.incarnation {
            identity.id.incarnation = incarnation;
        }
        let dir = dir.to_owned();
        Ok(Self { dir, identity, rewrite, last, generation, copy, store, checked })
    }

    pub(crate) fn id(&self) -> LogId {
        self.identity.id
    }

    pub(crate) fn is_paired(&self) -> bool {
        self.identity.pair
    }

    /// Makes the copy the log, with one write to the witness. `alone`: what is written from now on
    /// is in no other directory.
    pub(crate) fn switch(
        self,
        lock: DirLock,
        space: Space,
        alone: bool,
    ) -> Result<Opened, OpenError> {
        let Self { dir, identity, rewrite, last, generation, mut copy, store, checked } = self;
        let next = Witness {
            id: identity.id,
            generation,
            frame: checked.chain.last_frame(),
            frame_crc: checked.chain.last_crc,
            clean: false,
            alone,
            ..last
        };
        let path = dir.join(witness::FILE);
        let mut witness =
            WitnessFile::open(&dir, last, false).map_err(OpenError::io("opening", &path))?;
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
            identity.write(&dir)?;
        }
        crash_point("open.identified");
        remove_other_generations(&dir, copy.dir())?;
        remove_marks(&dir)?;
        crash_point("open.cleaned");
        let space = SpaceWatch::open(&dir, space)?;
        let home = Home { dir, id: identity.id, witness, lock, space };
        let first_frame = checked.start.number;
        Ok(Opened {
            leg: Leg { store: Box::new(store), home, first_frame },
            checked,
            clean: last.clean,
        })
    }
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

pub(crate) fn make_dir(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(OpenError::io("creating", dir))?;
    let absolute = std::path::absolute(dir).map_err(OpenError::io("resolving", dir))?;
    absolute.ancestors().skip(1).try_for_each(files::sync_dir)
}

pub(crate) fn survey(dir: &Path) -> Result<Survey, OpenError> {
    let entries = files::entries(dir)?;
    let has = |name: &str| entries.iter().any(|(path, _)| path.ends_with(name));
    if has(identity::FILE) {
        Ok(Survey::Made)
    } else if has(REBUILDING) {
        Ok(Survey::HalfRebuilt)
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
pub(crate) fn clear_half_made(dir: &Path) -> Result<(), OpenError> {
    for (path, is_dir) in files::entries(dir)? {
        if is_dir && path == log_dir(dir, 1) {
            fs::remove_dir_all(&path).map_err(OpenError::io("removing", &path))?;
        } else if path.ends_with(witness::FILE) || path.ends_with("identity.tmp") {
            fs::remove_file(&path).map_err(OpenError::io("removing", &path))?;
        }
    }
    files::sync_dir(dir)
}

/// Makes an empty file; durable on `Ok`.
pub(crate) fn mark(dir: &Path, name: &str) -> Result<(), OpenError> {
    let mark = dir.join(name);
    File::create(&mark).map_err(OpenError::io("creating", &mark))?;
    files::sync_dir(dir)
}

fn remove_marks(dir: &Path) -> Result<(), OpenError> {
    for mark in [INITIALISING, REBUILDING].map(|name| dir.join(name)) {
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(OpenError::io("removing", &mark)(error));
            }
            _ => {}
        }
    }
    files::sync_dir(dir)
}

pub(crate) fn generations(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let number = |path: &PathBuf| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix(LOG_PREFIX)?.parse().ok()
    };
    let entries = files::entries(dir)?.into_iter();
    let logs = entries.filter(|(_, is_dir)| *is_dir);
    Ok(logs.filter_map(|(path, _)| number(&path).map(|number| (number, path))).collect())
}

/// Leftovers included: a refused open must not touch them, so the copy takes a number above them.
pub(crate) fn highest_generation(dir: &Path) -> Result<u64, OpenError> {
    Ok(generations(dir)?.into_iter().map(|(number, _)| number).max().unwrap_or(0))
}

/// Removes every generation but the one that the witness names.
fn remove_other_generations(dir: &Path, current: &Path) -> Result<(), OpenError> {
    for (_, path) in generations(dir)?.into_iter().filter(|(_, path)| path != current) {
        fs::remove_dir_all(&path).map_err(OpenError::io("removing", &path))?;
    }
    Ok(())
}

pub(crate) fn warn_of_tmpfs(dir: &Path) {
    let found = rustix::fs::statfs(dir).map(|statfs| u64::try_from(statfs.f_type));
    if found == Ok(Ok(TMPFS_MAGIC)) {
        tracing::warn!(dir = %dir.display(), "the log lies in memory (tmpfs)");
    }
}

#[cfg(test)]
mod tests;
