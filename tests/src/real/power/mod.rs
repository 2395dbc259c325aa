//! Power loss under a real process: `tests/shim/power.c` notes what it writes, and this turns its
//! data directory into what is left.
//!
//! What counts as durable is what POSIX promises, which is less than ext4 gives:
//! - What a returned fsync or fdatasync of a file covers of its bytes and size stays. Of the rest
//!   each 512-byte sector and the size are of any moment since, each by itself.
//! - A name is durable once its directory was synced after it changed, and only then: a file that
//!   was synced itself goes all the same if its name was not (ext4 would keep it). Of the changes
//!   of one directory since, the first so many happened: that order, and that a rename happens
//!   whole, is what every journalling file system gives. Two directories do not wait for each
//!   other.
//! - `sync_file_range` makes nothing durable.

mod journal;
mod settle;

pub use settle::Lost;

use anyhow::{Context as _, ensure};
use journal::{Note, Overwritten, Target};
use rand::Rng;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// An object of the file system, under whatever names; inodes are given out again, these are not.
type Id = usize;
/// Noted in an earlier life of the process, so before any sync of this one.
const EARLIER: i64 = -1;

/// Names that change at once, and what they then stand for.
type Changed = Vec<(OsString, Option<Id>)>;

#[derive(Debug, Default)]
struct Dir {
    durable: BTreeMap<OsString, Id>,
    /// With their places in the journal.
    pending: Vec<(i64, Changed)>,
}

impl Dir {
    /// As after the first so many pending changes.
    fn names(&self, changes: usize) -> BTreeMap<OsString, Id> {
        let mut names = self.durable.clone();
        for (name, id) in self.pending[..changes].iter().flat_map(|(_, changed)| changed) {
            match id {
                Some(id) => names.insert(name.clone(), *id),
                None => names.remove(name),
            };
        }
        names
    }
}

#[derive(Debug)]
enum Content {
    Dir(Dir),
    File(Vec<(i64, Overwritten)>),
}

#[derive(Debug)]
struct Object {
    inode: u64,
    content: Content,
}

/// How often a process did what can matter after a loss of power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Bytes or sizes changed.
    pub written: u64,
    /// Files and directories synced.
    pub synced: u64,
    /// Names removed.
    pub removed: u64,
    /// Names replaced by others.
    pub renamed: u64,
}

/// A directory whose process runs with the shim, across its lives.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    shim: PathBuf,
    /// Beside the directory: the journal, and files that have lost their names.
    aside: PathBuf,
    objects: Vec<Object>,
    /// Which object has an inode now.
    live: BTreeMap<u64, Id>,
}

impl Disk {
    /// Makes the directory if need be. What is in it counts as durable. `shim` is the compiled
    /// `power`; `aside` is for this directory alone, on the same file system.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(shim: &Path, dir: &Path, aside: &Path) -> anyhow::Result<Self> {
        for dir in [dir, &aside.join("kept")] {
            fs::create_dir_all(dir)?;
        }
        let (dir, aside) = (dir.canonicalize()?, aside.canonicalize()?);
        let shim = shim.to_owned();
        let mut disk = Self { dir, shim, aside, objects: Vec::new(), live: BTreeMap::new() };
        disk.take_as_durable()?;
        Ok(disk)
    }

    /// What the process is started with.
    #[must_use]
    pub fn env(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("LD_PRELOAD", self.shim.clone()),
            ("POWER_SHIM_DIR", self.dir.clone()),
            ("POWER_SHIM_JOURNAL", self.journal()),
            ("POWER_SHIM_KEPT", self.kept()),
        ]
    }

    fn journal(&self) -> PathBuf {
        self.aside.join("journal")
    }

    fn kept(&self) -> PathBuf {
        self.aside.join("kept")
    }

    /// What the process has noted in this life.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn noted(&self) -> anyhow::Result<Noted> {
        let mut noted = Noted::default();
        for (_, note) in journal::read(&fs::read(self.journal())?)? {
            match note {
                Note::Written { .. } => noted.written += 1,
                Note::Synced { .. } => noted.synced += 1,
                Note::Named { target: None, .. } => noted.removed += 1,
                Note::Renamed { .. } => noted.renamed += 1,
                Note::Named { .. } => {}
            }
        }
        Ok(noted)
    }

    /// Reads what the process noted. To be called each time that it has ended, however it did.
    ///
    /// # Errors
    /// The directory does not look as noted: something escapes the shim.
    pub fn ended(&mut self) -> anyhow::Result<()> {
        let noted = match fs::read(self.journal()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        for object in &mut self.objects {
            object.forget_places();
        }
        for (at, note) in journal::read(&noted)? {
            self.apply(i64::try_from(at)?, note)?;
        }
        fs::remove_file(self.journal())?;
        let unseen = self.take_unseen(0, &self.dir.clone())?;
        // Killed between a change and its note; a rename changes two names.
        ensure!(unseen <= 2, "{unseen} names below {} escape the shim", self.dir.display());
        Ok(())
    }

    /// Only after [`Disk::ended`]: makes of the directory what a loss of power would leave. It is
    /// all durable then.
    ///
    /// # Errors
    /// The system refuses.
    pub fn lose_power(&mut self, rng: &mut impl Rng) -> anyhow::Result<Lost> {
        let mut found = BTreeMap::new();
        for dir in [&self.dir, &self.kept()] {
            find_files(dir, &mut found)?;
        }
        let (left, mut lost) = (self.aside.join("left"), Lost::default());
        self.rebuild(0, &left, &found, rng, &mut lost)?;
        // The directory itself stays: who it belongs to knows it by its inode.
        for dir in [&self.dir, &self.kept()] {
            for entry in fs::read_dir(dir)? {
                remove(&entry?.path())?;
            }
        }
        for entry in fs::read_dir(&left)? {
            let entry = entry?;
            fs::rename(entry.path(), self.dir.join(entry.file_name()))?;
        }
        fs::remove_dir(&left)?;
        self.take_as_durable()?;
        Ok(lost)
    }

    fn take_as_durable(&mut self) -> anyhow::Result<()> {
        self.objects.clear();
        self.live.clear();
        self.scan(&self.dir.clone())?;
        Ok(())
    }

    fn scan(&mut self, path: &Path) -> anyhow::Result<Id> {
        let metadata = fs::symlink_metadata(path)?;
        let id = self.add(Target { inode: metadata.ino(), is_dir: metadata.is_dir() });
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let child = self.scan(&entry.path())?;
                self.dir(id)?.durable.insert(entry.file_name(), child);
            }
        }
        Ok(id)
    }

    fn add(&mut self, target: Target) -> Id {
        let Target { inode, is_dir } = target;
        let content = if is_dir { Content::Dir(Dir::default()) } else { Content::File(Vec::new()) };
        self.objects.push(Object { inode, content });
        self.live.insert(inode, self.objects.len() - 1);
        self.objects.len() - 1
    }

    fn dir(&mut self, id: Id) -> anyhow::Result<&mut Dir> {
        match &mut self.objects[id].content {
            Content::Dir(dir) => Ok(dir),
            Content::File(_) => anyhow::bail!("names in a file"),
        }
    }

    fn live(&self, inode: u64) -> anyhow::Result<Id> {
        self.live.get(&inode).copied().with_context(|| format!("inode {inode} escapes the shim"))
    }

    fn apply(&mut self, at: i64, note: Note) -> anyhow::Result<()> {
        match note {
            Note::Written { inode, overwritten } => {
                let id = self.live(inode)?;
                let Content::File(pending) = &mut self.objects[id].content else {
                    anyhow::bail!("bytes in a directory");
                };
                pending.push((at, overwritten));
            }
            Note::Named { dir, name, target } => {
                let id = target.map(|target| self.add(target));
                if id.is_none() {
                    self.forget_dir(dir, &name)?;
                }
                let dir = self.live(dir)?;
                self.dir(dir)?.pending.push((at, vec![(name, id)]));
            }
            Note::Renamed { dir, old, new, target } => {
                let (dir, id) = (self.live(dir)?, self.live(target.inode)?);
                self.dir(dir)?.pending.push((at, vec![(old, None), (new, Some(id))]));
            }
            Note::Synced { inode, journal_bytes } => {
                if let Some(id) = self.live.get(&inode) {
                    self.objects[*id].synced(i64::try_from(journal_bytes)?);
                }
            }
        }
        Ok(())
    }

    /// A directory that is gone: its inode may be given to another at once.
    fn forget_dir(&mut self, dir: u64, name: &OsStr) -> anyhow::Result<()> {
        let dir = self.live(dir)?;
        let names = self.dir(dir)?;
        let gone = names.names(names.pending.len()).get(name).copied();
        if let Some(gone) = gone.map(|id| &self.objects[id])
            && matches!(gone.content, Content::Dir(_))
        {
            self.live.remove(&gone.inode);
        }
        Ok(())
    }

    /// Notes what the directory shows and no note told. Returns how many names that were.
    fn take_unseen(&mut self, id: Id, path: &Path) -> anyhow::Result<usize> {
        let mut actual = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let target = Target { inode: metadata.ino(), is_dir: metadata.is_dir() };
            actual.insert(entry.file_name(), target);
        }
        let dir = self.dir(id)?;
        let known = dir.names(dir.pending.len());
        let mut changed = Vec::new();
        for (name, target) in &actual {
            let id = known.get(name).filter(|id| self.objects[**id].inode == target.inode);
            if id.is_none() {
                let id = self.live.get(&target.inode).copied();
                changed.push((name.clone(), Some(id.unwrap_or_else(|| self.add(*target)))));
            }
        }
        changed
            .extend(known.keys().filter(|n| !actual.contains_key(*n)).map(|n| (n.clone(), None)));
        let mut unseen = changed.len();
        if unseen > 0 {
            self.dir(id)?.pending.push((EARLIER, changed));
        }
        let dir = self.dir(id)?;
        for (name, child) in dir.names(dir.pending.len()) {
            if matches!(self.objects[child].content, Content::Dir(_)) {
                unseen += self.take_unseen(child, &path.join(name))?;
            }
        }
        Ok(unseen)
    }

    fn rebuild(
        &self,
        id: Id,
        to: &Path,
        found: &BTreeMap<u64, PathBuf>,
        rng: &mut impl Rng,
        lost: &mut Lost,
    ) -> anyhow::Result<()> {
        let survival = settle::draw_survival(rng);
        let object = &self.objects[id];
        let dir = match &object.content {
            Content::Dir(dir) => dir,
            Content::File(pending) => {
                let from = found.get(&object.inode).context("a file without a name is lost")?;
                if pending.is_empty() {
                    return Ok(fs::hard_link(from, to)?);
                }
                let pending: Vec<_> = pending.iter().map(|(_, o)| o.clone()).collect();
                let left = settle::settle(fs::read(from)?, &pending, survival, rng, lost);
                return Ok(fs::write(to, left)?);
            }
        };
        let undone = settle::choose(dir.pending.len() + 1, survival, rng);
        lost.names_undone += undone as u64;
        fs::create_dir(to)?;
        for (name, child) in dir.names(dir.pending.len() - undone) {
            self.rebuild(child, &to.join(name), found, rng, lost)?;
        }
        Ok(())
    }
}

impl Object {
    fn forget_places(&mut self) {
        match &mut self.content {
            Content::Dir(dir) => dir.pending.iter_mut().for_each(|(at, _)| *at = EARLIER),
            Content::File(pending) => pending.iter_mut().for_each(|(at, _)| *at = EARLIER),
        }
    }

    fn synced(&mut self, journal_bytes: i64) {
        match &mut self.content {
            Content::File(pending) => pending.retain(|(at, _)| *at >= journal_bytes),
            Content::Dir(dir) => {
                let covered = dir.pending.partition_point(|(at, _)| *at < journal_bytes);
                dir.durable = dir.names(covered);
                dir.pending.drain(..covered);
            }
        }
    }
}

fn find_files(dir: &Path, found: &mut BTreeMap<u64, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            find_files(&entry.path(), found)?;
        } else {
            found.insert(metadata.ino(), entry.path());
        }
    }
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
