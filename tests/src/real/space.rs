//! Disk space: what a directory holds, and small file systems to fill.

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two samples of a directory.
const SAMPLE: Duration = Duration::from_millis(100);
/// The filler takes so much at a time, then less and less.
const FILLER_BYTES: usize = 1 << 20;
const FILLER_BYTES_MIN: usize = 4 << 10;
/// Set in the environment of a process that has its own mounts.
const INSIDE: &str = "TESTS_WITH_OWN_MOUNTS";

/// Bytes that the files below `dir` occupy on the disk. Files that go meanwhile are not counted.
#[must_use]
pub fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

/// Watches how much a directory holds.
#[derive(Debug)]
pub struct Sampler {
    peak_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Looks at `dir` every 100 ms from now on.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let (peak_bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (peak, stopped, dir) = (Arc::clone(&peak_bytes), Arc::clone(&stop), dir.to_owned());
        let watch = move || {
            while !stopped.load(Ordering::Relaxed) {
                peak.fetch_max(bytes_in(&dir), Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        };
        Self { peak_bytes, stop, thread: Some(std::thread::spawn(watch)) }
    }

    /// The most that it held since this was asked last, in bytes.
    #[must_use]
    pub fn take_peak_bytes(&self) -> u64 {
        self.peak_bytes.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Kinds of small file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// In memory; any user with user namespaces can mount it.
    Tmpfs,
    /// On a loop device; root only.
    Ext4,
}

/// Starts this very command again with mounts of its own, unless that was done already: what is
/// mounted goes with the process, however it ends.
///
/// # Errors
/// `unshare` fails: it needs root, or user namespaces for ordinary users.
pub fn own_mounts() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let flags = if rustix::process::getuid().is_root() { "-m" } else { "-Urm" };
    let this = std::env::current_exe()?;
    let error = Command::new("unshare")
        .args([flags, "--propagation", "private", "--"])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("unshare (of util-linux) needs root or user namespaces")
}

/// A file system of its own on a directory, until this goes.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
}

impl Mount {
    /// Mounts one of `bytes` on `dir`, which is made. Only after [`own_mounts`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(kind: FileSystem, bytes: u64, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        match kind {
            FileSystem::Tmpfs => run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
                .arg(dir))?,
            FileSystem::Ext4 => {
                let image: PathBuf = dir.with_extension("image");
                std::fs::File::create(&image)?.set_len(bytes)?;
                run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
                run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(dir))?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// The system refuses.
    pub fn free_bytes(&self) -> anyhow::Result<u64> {
        let found = rustix::fs::statvfs(&self.dir)?;
        Ok(found.f_bavail * found.f_frsize)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What still runs in it must not keep the directory from being removed.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.dir));
    }
}

/// Takes all the space that there is, in its own time, and keeps it until this goes.
///
/// What becomes free later it does not take: the space that the log gives up in order to finish
/// what it has decided is the log's.
#[derive(Debug)]
pub struct Filler {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Starts to fill the file system.
    ///
    /// # Errors
    /// No file can be made.
    pub fn start(mount: &Mount) -> anyhow::Result<Self> {
        let file = mount.dir.join("filler");
        let mut out = std::fs::File::create(&file)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let fill = move || {
            let mut block = FILLER_BYTES;
            while !stopped.load(Ordering::Relaxed) && block >= FILLER_BYTES_MIN {
                match out.write(&vec![1; block]) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => block /= 2,
                }
            }
        };
        Ok(Self { file, stop, thread: Some(std::thread::spawn(fill)) })
    }

    /// Waits until the file system is full.
    pub fn finish(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish();
        let _ = std::fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(())
}
