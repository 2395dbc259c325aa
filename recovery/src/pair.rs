//! One log in two directories: which of the two holds it, and how the other gets it again.
//!
//! ```text
//!  first      second      neither says alone             one says alone
//!  good       good        the longer one, if the other    that one; the other is made anew
//!                         is its beginning
//!  good       damaged     the good one, if it reaches     the good one if it is the one that says
//!                         the other's witness             so, else refused
//!  good       missing     asks the operator: --rebuild, --degraded
//!  otherwise              refused with the first one's error
//! ```
//! *Alone* is in the witness: the other directory was given up before what follows was told to
//! anybody, so that an older copy of the log is never taken for it.

use crate::chain;
use crate::crash_point::crash_point;
use crate::damage::{At, ErrorClass, Finding, Found, OpenError};
use crate::files;
use crate::frame::frame_crc;
use crate::home::{
    self, DirLock, Examined, Founding, INITIALISING, Opened, REBUILDING, Role, Survey,
};
use crate::identity;
use crate::open::{DirectoryReport, DirectoryState, OpenOptions, OpenedLog, opened_log};
use crate::space;
use crate::store::FrameStore;
use crate::volumes::Volumes;
use crate::witness::Witness;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unanimous_core::LogId;

pub(crate) mod legs;

/// A damaged directory's files, kept until the next ones.
const KEPT_PREFIX: &str = "damaged-";

/// What one of the two directories holds.
enum Side {
    Good(Good),
    Damaged(Damaged),
    Missing { dir: PathBuf, error: OpenError, empty: bool },
}

struct Good {
    examined: Box<Examined>,
    lock: DirLock,
}

struct Damaged {
    dir: PathBuf,
    lock: DirLock,
    error: OpenError,
    witness: Option<Witness>,
    /// An earlier open was at it.
    begun: bool,
}

/// A directory to be made anew.
struct Stale {
    dir: PathBuf,
    lock: DirLock,
    /// At least that of its log.
    generation: u64,
    why: String,
    /// Keep its files once.
    keep: bool,
}

/// What becomes of the directory that is not the winner.
enum Other {
    /// The same frames.
    Good(Good),
    /// Damaged, or good by itself and behind.
    Stale(Stale),
    Missing(PathBuf),
    /// Not used, and why.
    GivenUp(PathBuf, OpenError),
}

impl OpenOptions {
    /// Opens the log that is in two directories, on two disks if it is to be of use; with `init`
    /// makes it if both are missing or empty. What is flushed is durable in both. A damaged or
    /// stale directory is made anew from the good one; its files are kept in it once, under
    /// `damaged-`, while there is room.
    ///
    /// # Errors
    /// As [`OpenOptions::open`]; class `PairIncomplete` if one is missing and neither `rebuild`
    /// nor `degraded` is set; [`Found::Diverged`] if each of them has what the other has not.
    pub fn open_pair(&self, first: &Path, second: &Path) -> Result<OpenedLog, OpenError> {
        let started = Instant::now();
        let role = Role { paired: true, incarnation: self.drawn_incarnation()? };
        let sides = [self.side(first, role)?, self.side(second, role)?];
        match sides {
            [Side::Good(a), Side::Good(b)] => {
                let (winner, other, swapped) = between_good(a, b, self.copied)?;
                self.take_up(winner, other, swapped, started)
            }
            [Side::Good(good), side] => {
                let other = self.beside_good(&good.examined, side)?;
                self.take_up(good, other, false, started)
            }
            [side, Side::Good(good)] => {
                let other = self.beside_good(&good.examined, side)?;
                self.take_up(good, other, true, started)
            }
            [Side::Missing { empty: true, .. }, Side::Missing { empty: true, .. }] if self.init => {
                self.create_pair(first, second, started)
            }
            [a, b] => Err(a.into_error().with_other(&b.into_error())),
        }
    }

    fn side(&self, dir: &Path, role: Role) -> Result<Side, OpenError> {
        let missing = |error, empty| Ok(Side::Missing { dir: dir.to_owned(), error, empty });
        let nothing = || Finding::new(Found::NothingThere, At::Directory, "").refuse(dir);
        let lock = match DirLock::take(dir, true) {
            Err(OpenError::Io { kind: ErrorKind::NotFound, .. }) => {
                return missing(nothing(), true);
            }
            taken => taken?,
        };
        let damaged = |lock, error, begun| {
            let (dir, witness) = (dir.to_owned(), Witness::read(dir).ok());
            Ok(Side::Damaged(Damaged { dir, lock, error, witness, begun }))
        };
        match home::survey(dir) {
            Ok(Survey::Made) => {}
            Ok(Survey::Nothing | Survey::HalfMade) => return missing(nothing(), true),
            Ok(Survey::HalfRebuilt) => return damaged(lock, nothing(), true),
            Err(error) if error.class() == ErrorClass::Foreign => return missing(error, false),
            Err(error) => return Err(error),
        }
        match Examined::of(self, dir, role) {
            Ok(examined) => Ok(Side::Good(Good { examined: Box::new(examined), lock })),
            Err(error) if error.is_damage() => damaged(lock, error, false),
            Err(error) if error.class() == ErrorClass::Foreign => missing(error, false),
            Err(error) => Err(error),
        }
    }

    /// What to do about the one that is not good.
    fn beside_good(&self, good: &Examined, side: Side) -> Result<Other, OpenError> {
        match side {
            Side::Damaged(damaged) => {
                let theirs = damaged.witness.filter(|witness| is_same(witness.id, good.id()));
                if let Some(witness) = theirs.filter(|_| !good.last.alone) {
                    if witness.alone {
                        return Err(damaged.error);
                    }
                    reaches(good, &witness)?;
                }
                let Damaged { dir, lock, error, witness, begun } = damaged;
                let generation = witness.map_or(0, |witness| witness.generation);
                let why = error.to_string();
                Ok(Other::Stale(Stale { dir, lock, generation, why, keep: !begun }))
            }
            // A pair that was never written to: its creation may have been interrupted.
            Side::Missing { dir, empty: true, .. }
                if self.rebuild || (self.init && good.checked.chain.last_frame() == 0) =>
            {
                Ok(Other::Missing(dir))
            }
            Side::Missing { dir, error, .. } if self.degraded => Ok(Other::GivenUp(dir, error)),
            Side::Missing { dir, error, .. } => {
                Err(Finding::new(Found::OneOfPair, At::Directory, error.to_string()).refuse(&dir))
            }
            Side::Good(other) => Ok(Other::Good(other)),
        }
    }

    fn create_pair(
        &self,
        first: &Path,
        second: &Path,
        started: Instant,
    ) -> Result<OpenedLog, OpenError> {
        home::make_dir(first)?;
        let lock = DirLock::take(first, true)?;
        home::clear_half_made(first)?;
        let made = home::create(self, first, lock, true)?;
        crash_point("pair.first_done");
        let (mirror, _) = self.make_missing(second, &made)?;
        let reports = [first, second].map(|dir| report(dir, DirectoryState::Good, ""));
        Ok(opened_log(vec![made, mirror], reports.into(), started))
    }

    /// Opens the winner, and makes the other one the same.
    fn take_up(
        &self,
        winner: Good,
        other: Other,
        swapped: bool,
        started: Instant,
    ) -> Result<OpenedLog, OpenError> {
        let alone = winner.examined.last.alone || matches!(other, Other::GivenUp(..));
        let mut good = winner.examined.switch(winner.lock, self.space, alone)?;
        crash_point("pair.first_done");
        let good_dir = good.leg.home.dir.clone();
        let (mirror, their_report) = match other {
            Other::Good(other) => {
                let opened = other.examined.switch(other.lock, self.space, false)?;
                let dir = opened.leg.home.dir.clone();
                (Some(opened), report(&dir, DirectoryState::Good, ""))
            }
            Other::Stale(stale) => {
                let (opened, report) = self.make_anew(stale, &good)?;
                (Some(opened), report)
            }
            Other::Missing(dir) => {
                let (opened, report) = self.make_missing(&dir, &good)?;
                (Some(opened), report)
            }
            Other::GivenUp(dir, error) => {
                (None, report(&dir, DirectoryState::GivenUp, &error.to_string()))
            }
        };
        if let Some(mirror) = &mirror {
            let witness = &mut good.leg.home.witness;
            if witness.last().alone {
                let next = Witness { alone: false, ..*witness.last() };
                let io = OpenError::io("writing the witness in", &good_dir);
                witness.write_both(next, || ()).map_err(io)?;
                crash_point("pair.rejoined");
            }
            good.checked.retained.join(&mirror.checked.retained);
        }
        let mut reports = vec![report(&good_dir, DirectoryState::Good, ""), their_report];
        let mut directories: Vec<Opened> = [Some(good), mirror].into_iter().flatten().collect();
        if swapped {
            reports.reverse();
            directories.reverse();
        }
        Ok(opened_log(directories, reports, started))
    }

    fn make_missing(
        &self,
        dir: &Path,
        good: &Opened,
    ) -> Result<(Opened, DirectoryReport), OpenError> {
        home::make_dir(dir)?;
        let lock = DirLock::take(dir, true)?;
        home::clear_half_made(dir)?;
        let opened = self.mirror(dir, lock, INITIALISING, 1, good)?;
        Ok((opened, report(dir, DirectoryState::Rebuilt, "it was missing")))
    }

    fn make_anew(
        &self,
        stale: Stale,
        good: &Opened,
    ) -> Result<(Opened, DirectoryReport), OpenError> {
        let Stale { dir, lock, generation, why, keep } = stale;
        tracing::warn!(dir = %dir.display(), why, "a directory of the log is made anew");
        let generation = home::highest_generation(&dir)?.max(generation);
        home::mark(&dir, REBUILDING)?;
        crash_point("pair.marked");
        if keep {
            set_aside(&dir, &dir.join(format!("{KEPT_PREFIX}{generation:08}")))?;
        } else {
            remove_identity(&dir)?;
            clear(&dir, |name| name == REBUILDING || name.starts_with(KEPT_PREFIX))?;
        }
        crash_point("pair.set_aside");
        let log = home::log_dir(&good.leg.home.dir, good.leg.home.witness.last().generation);
        if !space::has_room_for_copy(&dir, &log)? {
            clear_to_the_mark(&dir)?;
        }
        let opened = self.mirror(&dir, lock, REBUILDING, generation + 1, good)?;
        crash_point("pair.rebuilt");
        Ok((opened, report(&dir, DirectoryState::Rebuilt, &why)))
    }

    /// Makes `dir`, which is empty but for what is kept, from the good one's files, and checks what
    /// became of them.
    fn mirror(
        &self,
        dir: &Path,
        lock: DirLock,
        mark: &'static str,
        generation: u64,
        good: &Opened,
    ) -> Result<Opened, OpenError> {
        let home = &good.leg.home;
        let from = home::log_dir(&home.dir, home.witness.last().generation);
        let founding = Founding { options: self, dir, mark, generation, id: home.id, pair: true };
        space::make_room_for_copy(dir, &from, || Ok(()))?;
        founding.make(lock, |log| {
            files::copy_store(&from, log)?;
            let store = Volumes::open(log).map_err(|error| chain::store_error(log, error))?;
            let witness = Witness { clean: true, ..*home.witness.last() };
            let checked = chain::check(dir, &store, &witness, |_| Ok(()))?;
            Ok((store, checked))
        })
    }
}

impl Side {
    fn into_error(self) -> OpenError {
        match self {
            Self::Damaged(Damaged { error, .. }) | Self::Missing { error, .. } => error,
            Self::Good(good) => {
                Finding::new(Found::Diverged, At::Directory, "").refuse(&good.examined.dir)
            }
        }
    }
}

fn report(dir: &Path, state: DirectoryState, detail: &str) -> DirectoryReport {
    DirectoryReport { dir: dir.to_owned(), state, detail: detail.to_owned() }
}

/// One log, whatever its incarnation: `--copied` draws a new one.
fn is_same(a: LogId, b: LogId) -> bool {
    (a.cluster, a.slot) == (b.cluster, b.slot)
}

/// The winner, what becomes of the other one, and whether the winner is `b`.
fn between_good(first: Good, second: Good, copied: bool) -> Result<(Good, Other, bool), OpenError> {
    let (a, b) = (&*first.examined, &*second.examined);
    let diverged = |detail: String| {
        let detail = format!("the other one is {}, {detail}", b.dir.display());
        Finding::new(Found::Diverged, At::Directory, detail).refuse(&a.dir)
    };
    if !is_same(a.id(), b.id()) || (a.id() != b.id() && !copied) {
        return Err(diverged(format!("{:?} and {:?}", a.id(), b.id())));
    }
    let last = |side: &Examined| side.checked.chain.last_frame();
    let swapped = match (a.last.alone, b.last.alone) {
        (true, true) => return Err(diverged("each went on alone".to_owned())),
        (false, false) => last(a) < last(b),
        (_, alone) => alone,
    };
    let alone = a.last.alone || b.last.alone;
    let (longer, shorter) = if swapped { (b, a) } else { (a, b) };
    let end = last(shorter);
    if !alone && crc_at(longer, end)?.is_some_and(|crc| crc != shorter.checked.chain.last_crc) {
        return Err(diverged(format!("frame {end} is not the same")));
    }
    let same = !alone && end == last(longer);
    let end_longer = last(longer);
    let (winner, other) = if swapped { (second, first) } else { (first, second) };
    if same {
        return Ok((winner, Other::Good(other), swapped));
    }
    let what = if alone { "the other one went on alone" } else { "it is behind" };
    let why = format!("{what}: {end} is one's last frame, {end_longer} the other one's");
    let Good { examined, lock } = other;
    let (dir, generation) = (examined.dir.clone(), examined.last.generation);
    let stale = Stale { dir, lock, generation, why, keep: false };
    Ok((winner, Other::Stale(stale), swapped))
}

/// The checksum of a frame; `None` if the log does not hold it any more.
fn crc_at(side: &Examined, number: u64) -> Result<Option<u32>, OpenError> {
    let checked = &side.checked;
    if number + 1 == checked.start.number {
        return Ok(Some(checked.start.previous_crc));
    }
    if number == checked.chain.last_frame() {
        return Ok(Some(checked.chain.last_crc));
    }
    if number < checked.start.number {
        return Ok(None);
    }
    for stored in side.store.frames() {
        let (stored, bytes) = stored.map_err(|error| chain::store_error(&side.dir, error))?;
        if stored.is_some_and(|stored| stored.0 == number) {
            return Ok(Some(frame_crc(&bytes)));
        }
    }
    Ok(None)
}

/// Refuses a log that does not have what the other one's witness saw.
fn reaches(good: &Examined, witness: &Witness) -> Result<(), OpenError> {
    let last = good.checked.chain.last_frame();
    if last < witness.frame {
        let detail =
            format!("it ends at frame {last}, the other one's witness says {}", witness.frame);
        let finding = Finding::new(Found::EndsBeforeWitness, At::Frame(last), detail);
        return Err(finding.refuse(&good.dir));
    }
    match crc_at(good, witness.frame)? {
        Some(crc) if crc != witness.frame_crc => {
            let detail = "the other one's witness saw another one".to_owned();
            let finding = Finding::new(Found::Diverged, At::Frame(witness.frame), detail);
            Err(finding.refuse(&good.dir))
        }
        _ => Ok(()),
    }
}

/// Moves everything of a damaged directory into `kept`, the identity first: from then on the
/// directory is known to be half replaced. Takes no room.
fn set_aside(dir: &Path, kept: &Path) -> Result<(), OpenError> {
    clear(dir, |name| !name.starts_with(KEPT_PREFIX) && name != space::FILE)?;
    std::fs::create_dir(kept).map_err(OpenError::io("creating", kept))?;
    let moved = |path: &Path| {
        let target = kept.join(path.file_name().unwrap_or_default());
        std::fs::rename(path, target).map_err(OpenError::io("moving", path))
    };
    moved(&dir.join(identity::FILE))?;
    files::sync_dir(dir)?;
    let entries = files::entries(dir)?.into_iter().map(|(path, _)| path);
    let others = entries.filter(|path| path != kept && !path.ends_with(REBUILDING));
    others.into_iter().try_for_each(|path| moved(&path))?;
    files::sync_dir(dir)
}

/// From here on the directory is known to be half replaced.
fn remove_identity(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(identity::FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(OpenError::io("removing", &path)(error))
        }
        _ => files::sync_dir(dir),
    }
}

/// Removes what is kept, too: its room is needed.
fn clear_to_the_mark(dir: &Path) -> Result<(), OpenError> {
    clear(dir, |name| name == REBUILDING)
}

/// Removes everything in a directory except what `keep` says.
fn clear(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<(), OpenError> {
    for (path, is_dir) in files::entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if keep(&name) {
            continue;
        }
        let removed =
            if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(OpenError::io("removing", &path))?;
    }
    files::sync_dir(dir)
}

#[cfg(test)]
mod tests;
