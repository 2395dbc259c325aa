//! Files and directories, with what makes each step durable.

use crate::damage::OpenError;
use crate::sled_store::is_snapshot;
use crate::volumes::is_left_out;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

pub(crate) fn sync_dir(dir: &Path) -> Result<(), OpenError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(OpenError::io("syncing", dir))
}

/// Makes every file below `dir`, and every directory entry, durable.
pub(crate) fn sync_tree(dir: &Path) -> Result<(), OpenError> {
    for (path, is_dir) in entries(dir)? {
        if is_dir {
            sync_tree(&path)?;
        } else {
            File::open(&path)
                .and_then(|f| f.sync_all())
                .map_err(OpenError::io("syncing", &path))?;
        }
    }
    sync_dir(dir)
}

/// Replaces `dir/name` as a whole; durable on `Ok`.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), OpenError> {
    let (path, draft) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let mut file = File::create(&draft).map_err(OpenError::io("creating", &draft))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(OpenError::io("writing", &draft))?;
    fs::rename(&draft, &path).map_err(OpenError::io("renaming", &draft))?;
    sync_dir(dir)
}

/// Copies a store's directory without sled's snapshots into a new directory. Nothing of it is
/// durable.
pub(crate) fn copy_store(from: &Path, to: &Path) -> Result<(), OpenError> {
    // 0700: frames hold names and amounts, and the copy may lie in a directory open to everybody.
    fs::DirBuilder::new().mode(0o700).create(to).map_err(OpenError::io("creating", to))?;
    for (path, is_dir) in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        if is_dir {
            if !is_left_out(&name.to_string_lossy()) {
                copy_store(&path, &target)?;
            }
        } else if !is_snapshot(&name.to_string_lossy()) {
            let mut source = File::open(&path).map_err(OpenError::io("reading", &path))?;
            let mut copy = File::create(&target).map_err(OpenError::io("creating", &target))?;
            copy_rest(&mut source, &mut copy).map_err(OpenError::io("copying", &path))?;
        }
    }
    Ok(())
}

/// `io::copy` gives up when `copy_file_range` is interrupted. The positions of both files say how
/// far it came.
fn copy_rest(source: &mut File, copy: &mut File) -> io::Result<()> {
    until_not_interrupted(|| io::copy(source, copy))
}

fn until_not_interrupted(mut copy: impl FnMut() -> io::Result<u64>) -> io::Result<()> {
    loop {
        match copy() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            copied => return copied.map(drop),
        }
    }
}

/// Bytes that the files below a directory occupy on disk.
pub(crate) fn tree_bytes(dir: &Path) -> Result<u64, OpenError> {
    entries(dir)?.into_iter().try_fold(0, |sum, (path, is_dir)| {
        let bytes = if is_dir {
            tree_bytes(&path)?
        } else {
            fs::metadata(&path).map_err(OpenError::io("reading", &path))?.blocks() * 512
        };
        Ok(sum + bytes)
    })
}

/// The paths in a directory in the order of their names, each with whether it is a directory.
pub(crate) fn entries(dir: &Path) -> Result<Vec<(PathBuf, bool)>, OpenError> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_dir()))))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut listed = listed.map_err(OpenError::io("listing", dir))?;
    listed.sort();
    Ok(listed)
}

/// `N` bytes out of the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], OpenError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
        .map_err(OpenError::io("reading", path))?;
    Ok(bytes)
}

/// A directory that is removed when this goes, unless it was kept.
pub(crate) struct Scratch {
    dir: PathBuf,
    kept: bool,
}

impl Scratch {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, kept: false }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "a scratch copy cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::damage::ErrorClass;
    use std::io::ErrorKind;

    /// Nothing may count as durable that was not synced.
    #[test]
    fn what_cannot_be_synced_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing");
        assert_eq!(sync_dir(&missing).unwrap_err().class(), ErrorClass::Io);
        assert_eq!(sync_tree(&missing).unwrap_err().class(), ErrorClass::Io);
        let below = root.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("file"), b"bytes").unwrap();
        sync_tree(root.path()).unwrap();
        std::os::unix::fs::symlink(&missing, below.join("nowhere")).unwrap();
        assert_eq!(sync_tree(root.path()).unwrap_err().class(), ErrorClass::Io);
    }

    /// A signal while a log is copied is no reason to refuse the log.
    #[test]
    fn a_copy_goes_on_after_an_interruption_and_ends_with_any_other_error() {
        let mut left = vec![Ok(7), Err(ErrorKind::Interrupted), Err(ErrorKind::Interrupted)];
        until_not_interrupted(|| left.pop().unwrap().map_err(io::Error::from)).unwrap();
        assert!(left.is_empty(), "it went on until it was copied");
        let mut left = vec![Ok(7), Err(ErrorKind::StorageFull)];
        let failed = until_not_interrupted(|| left.pop().unwrap().map_err(io::Error::from));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
