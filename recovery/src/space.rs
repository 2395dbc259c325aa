//! Room on the disk: looked at before every write, because ENOSPC out of a write ends the log.
//!
//! ```text
//!  free >= free_bytes_min, reserve whole   ample
//!  else                                    low: no new work, what is decided goes on
//!  free < WRITE_BYTES_MAX                  the reserve is shortened until one write has room
//!  and the reserve is used up              nothing is written until there is room
//! ```
//! The reserve is the file `reserve` in the directory, allocated for real. It stays there between
//! two starts.

use crate::damage::OpenError;
use crate::files;
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

pub(crate) const FILE: &str = "reserve";
/// What one call of the store may write at most: a frame (96 KiB), the leaf of 16 that sled writes
/// with it now and then, and what the file system needs to book it.
pub(crate) const WRITE_BYTES_MAX: u64 = 4 << 20;
/// What the store itself may write when it opens: sled begins a segment.
const OPEN_BYTES: u64 = 8 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// What this process may still write. Root may use the blocks that are kept for root.
fn usable_bytes(statvfs: &rustix::fs::StatVfs) -> u64 {
    let root = rustix::process::geteuid().is_root();
    let blocks = if root { statvfs.f_bfree } else { statvfs.f_bavail };
    blocks.saturating_mul(statvfs.f_frsize)
}

/// How much room the log wants to have beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Allocated at the open for what must still be written when the disk is full. On a small file
    /// system at most a quarter of it; below 4 MiB it is of no use, one write may need that.
    pub reserve_bytes: u64,
    /// Below this the disk counts as nearly full. On a small file system at most a quarter of it.
    pub free_bytes_min: u64,
}

impl Space {
    /// The disk is not looked at: a full one ends the log.
    pub const OFF: Self = Self { reserve_bytes: 0, free_bytes_min: 0 };
}

impl Default for Space {
    fn default() -> Self {
        Self { reserve_bytes: 16 << 20, free_bytes_min: 64 << 20 }
    }
}

/// What a check saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpaceSeen {
    pub(crate) free_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) low: bool,
    /// No room for one write, and no reserve to give it.
    pub(crate) full: bool,
}

/// Watches the room of one directory.
#[derive(Debug)]
pub(crate) struct SpaceWatch {
    dir: File,
    /// Limits that fit the file system.
    limits: Space,
    reserve: Option<File>,
    seen: SpaceSeen,
}

impl SpaceWatch {
    /// Takes the reserve as it is, makes it whole if there is room, and removes it if none is
    /// wanted.
    pub(crate) fn open(dir: &Path, space: Space) -> Result<Self, OpenError> {
        let handle = File::open(dir).map_err(OpenError::io("opening", dir))?;
        let statvfs = rustix::fs::fstatvfs(&handle)
            .map_err(|errno| OpenError::io("reading the file system of", dir)(errno.into()))?;
        let total_bytes = statvfs.f_blocks.saturating_mul(statvfs.f_frsize);
        let limits = Space {
            reserve_bytes: space.reserve_bytes.min(total_bytes / 4),
            free_bytes_min: space.free_bytes_min.min(total_bytes / 4),
        };
        let path = dir.join(FILE);
        let mut watch = Self { dir: handle, limits, reserve: None, seen: SpaceSeen::default() };
        if limits.reserve_bytes == 0 {
            remove_reserve(dir)?;
        } else {
            let io = OpenError::io("making", &path);
            let file = File::options().write(true).create(true).truncate(false).open(&path);
            watch.reserve = Some(file.map_err(io)?);
            watch.measure_reserve().map_err(OpenError::io("reading", &path))?;
            files::sync_dir(dir)?;
        }
        watch.check().map_err(OpenError::io("reading the file system of", dir))?;
        let SpaceSeen { free_bytes, reserve_bytes, low, .. } = watch.seen;
        if low {
            let dir = dir.display();
            tracing::warn!(%dir, free_bytes, reserve_bytes, "the disk is nearly full");
        }
        Ok(watch)
    }

    /// A longer reserve is cut, and holes count as missing.
    fn measure_reserve(&mut self) -> io::Result<()> {
        let Some(file) = &self.reserve else { return Ok(()) };
        let metadata = file.metadata()?;
        if metadata.len() > self.limits.reserve_bytes {
            file.set_len(self.limits.reserve_bytes)?;
        }
        let bytes = metadata.len().min(self.limits.reserve_bytes);
        self.seen.reserve_bytes = if metadata.blocks() * 512 >= bytes { bytes } else { 0 };
        Ok(())
    }

    pub(crate) fn seen(&self) -> SpaceSeen {
        self.seen
    }

    fn measure(&mut self) -> io::Result<u64> {
        let statvfs = rustix::fs::fstatvfs(&self.dir)?;
        self.seen.free_bytes = usable_bytes(&statvfs);
        Ok(self.seen.free_bytes)
    }

    /// Looks at the disk. Once there is room for what is missing of the reserve, it is made whole.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        let missing = self.limits.reserve_bytes - self.seen.reserve_bytes;
        let ample = self.measure()? >= self.limits.free_bytes_min.saturating_add(missing);
        if ample && missing > 0 {
            self.make_whole();
            self.measure()?;
        }
        self.seen.low = !ample || self.seen.reserve_bytes < self.limits.reserve_bytes;
        self.seen.full &= self.lacks_room();
        Ok(())
    }

    fn lacks_room(&self) -> bool {
        self.limits != Space::OFF && self.seen.free_bytes < WRITE_BYTES_MAX
    }

    /// Failing to is no failure of the log: the disk stays nearly full.
    fn make_whole(&mut self) {
        let Some(file) = &self.reserve else { return };
        match allocate(file, self.seen.reserve_bytes, self.limits.reserve_bytes) {
            Ok(()) => self.seen.reserve_bytes = self.limits.reserve_bytes,
            Err(error) => {
                tracing::warn!(%error, "the reserve cannot be allocated");
                let _ = file.set_len(self.seen.reserve_bytes);
            }
        }
    }

    /// Makes room for one write, out of the reserve if need be; afterwards it is full or it is not.
    pub(crate) fn make_room(&mut self) -> io::Result<()> {
        self.check()?;
        while self.lacks_room() {
            let step = step_bytes(self.seen.free_bytes, self.seen.reserve_bytes);
            let Some(file) = self.reserve.as_ref().filter(|_| step > 0) else { break };
            let left = self.seen.reserve_bytes - step;
            // Synced: a file system with a journal gives the blocks away only after that.
            file.set_len(left).and_then(|()| file.sync_all())?;
            self.seen.reserve_bytes = left;
            self.seen.low = true;
            self.measure()?;
        }
        self.seen.full = self.lacks_room();
        Ok(())
    }
}

/// What the reserve gives at once where one write has no room.
fn step_bytes(free_bytes: u64, reserve_bytes: u64) -> u64 {
    let wanted = WRITE_BYTES_MAX - free_bytes;
    wanted.next_multiple_of(CHUNK_BYTES as u64).min(reserve_bytes)
}

/// The room of a log's directories: it has what the worst of them has.
#[derive(Debug)]
pub(crate) struct Spaces {
    watches: Vec<SpaceWatch>,
    seen: SpaceSeen,
}

impl Spaces {
    pub(crate) fn new(watches: Vec<SpaceWatch>) -> Self {
        let mut spaces = Self { watches, seen: SpaceSeen::default() };
        spaces.sum_up(&[true; 2]);
        spaces
    }

    pub(crate) fn seen(&self) -> SpaceSeen {
        self.seen
    }

    /// Looks at the directories that are `used`.
    pub(crate) fn check(&mut self, used: &[bool; 2]) -> io::Result<()> {
        self.each(used, SpaceWatch::check)
    }

    /// Makes room for one write in each.
    pub(crate) fn make_room(&mut self, used: &[bool; 2]) -> io::Result<()> {
        self.each(used, SpaceWatch::make_room)
    }

    /// Of a pair, one that cannot be looked at is the store's to fail: its next write will.
    fn each(
        &mut self,
        used: &[bool; 2],
        look: impl Fn(&mut SpaceWatch) -> io::Result<()>,
    ) -> io::Result<()> {
        let alone = self.watches.len() == 1;
        for (watch, _) in self.watches.iter_mut().zip(used).filter(|(_, used)| **used) {
            match look(watch) {
                Err(error) if alone => return Err(error),
                _ => {}
            }
        }
        self.sum_up(used);
        Ok(())
    }

    fn sum_up(&mut self, used: &[bool; 2]) {
        let seen = self.watches.iter().zip(used).filter(|(_, used)| **used);
        let worst = |a: SpaceSeen, b: SpaceSeen| SpaceSeen {
            free_bytes: a.free_bytes.min(b.free_bytes),
            reserve_bytes: a.reserve_bytes.min(b.reserve_bytes),
            low: a.low || b.low,
            full: a.full || b.full,
        };
        self.seen = seen.map(|(watch, _)| watch.seen()).reduce(worst).unwrap_or_default();
    }
}

/// Makes the bytes from `from` up to `to` the file's own; durable on `Ok`.
fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            write_zeros(file, from, to)?;
        }
        allocated => allocated?,
    }
    file.sync_all()
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let chunk = usize::try_from(to - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.write_all_at(&zeros[..chunk], at)?;
        at += chunk as u64;
    }
    Ok(())
}

/// Gives the reserve's room back.
fn remove_reserve(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::io("removing", &path)(error)),
        Ok(()) => files::sync_dir(dir),
    }
}

/// Refuses a copy of `log` that has no room in `dir`. Before that the reserve goes, and then what
/// `remove_leftovers` removes.
pub(crate) fn make_room_for_copy(
    dir: &Path,
    log: &Path,
    remove_leftovers: impl FnOnce() -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    if !has_room_for_copy(dir, log)? {
        remove_reserve(dir)?;
    }
    if !has_room_for_copy(dir, log)? {
        remove_leftovers()?;
    }
    if has_room_for_copy(dir, log)? {
        return Ok(());
    }
    let needed_bytes = copy_bytes(log)?;
    Err(OpenError::NoSpace { dir: dir.to_owned(), needed_bytes, free_bytes: free_bytes(dir)? })
}

/// Whether a copy of `log` has room in `dir`.
pub(crate) fn has_room_for_copy(dir: &Path, log: &Path) -> Result<bool, OpenError> {
    Ok(free_bytes(dir)? >= copy_bytes(log)?)
}

/// What a copy of `log` needs to be opened.
fn copy_bytes(log: &Path) -> Result<u64, OpenError> {
    Ok(files::tree_bytes(log)? + OPEN_BYTES)
}

fn free_bytes(dir: &Path) -> Result<u64, OpenError> {
    let statvfs = rustix::fs::statvfs(dir)
        .map_err(|errno| OpenError::io("reading the file system of", dir)(errno.into()))?;
    Ok(usable_bytes(&statvfs))
}

#[cfg(test)]
mod tests;
