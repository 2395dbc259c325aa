//! The store of frames: sled databases one after the other, the newest is written.
//!
//! ```text
//! LOG/volume-00000004/   complete: never written again, removed once all of it is below the start
//! LOG/volume-00000005/   the current one
//! LOG/volume-00000006/   empty: made ahead, so that a frame never waits for it
//! LOG/next/              being made; means nothing
//! LOG/dropped/           being removed; means nothing
//! ```
//! Why not one database: sled never gives back what keys that come and go leave behind (measured:
//! with 10 to 18 MiB of live frames its file grew to 80 MiB), and before it reuses a segment it
//! asks only its own, not durable, reckoning. A volume fits one segment of sled: nothing in it is
//! ever reused, and frames go by removing a directory.

use crate::crash_point::crash_point;
use crate::files;
use crate::sled_store::SledStore;
use crate::store::{ChainStart, FrameStore, StoreError, StoredFrame, StoredFrames};
use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use unanimous_core::FrameNumber;

const PREFIX: &str = "volume-";
const NEXT: &str = "next";
const DROPPED: &str = "dropped";
/// Bytes of frames in a volume, each counted with [`FRAME_SHARE_BYTES`]: sled writes up to three
/// times as much, and a volume has to fit one of its segments (8 MiB). A frame that comes while the
/// next volume is not ready goes into the current one all the same.
const VOLUME_BYTES_MAX: u64 = 2 << 20;
/// A crash sweep passes the turning over with a few frames, and surely: it sets the size, and then
/// a frame waits for the next volume.
#[cfg(feature = "crash-points")]
fn swept_volume_bytes() -> Option<u64> {
    std::env::var("UNANIMOUS_VOLUME_BYTES").ok()?.parse().ok()
}

#[cfg(not(feature = "crash-points"))]
const fn swept_volume_bytes() -> Option<u64> {
    None
}

fn volume_bytes_max() -> u64 {
    swept_volume_bytes().unwrap_or(VOLUME_BYTES_MAX)
}

/// What sled adds to a frame, however short.
const FRAME_SHARE_BYTES: u64 = 128;

/// The volumes of one log.
pub(crate) struct Volumes {
    dir: PathBuf,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    current: Current,
    next: Next,
}

/// A complete volume.
struct Sealed {
    number: u64,
    /// `None`: it never got one.
    last_frame: Option<u64>,
    disk_bytes: u64,
    /// What it holds, until the log is written to: by then it has been taken in.
    read: Option<Read>,
}

/// What a volume holds, read at once: sled needs tens of megabytes and some threads for each open
/// database, and a log can have a hundred volumes.
struct Read {
    start: Option<Vec<u8>>,
    frames: Vec<StoredFrame>,
}

impl Read {
    /// Reads a volume and closes it: from here on its files change no more.
    fn of(store: SledStore) -> Result<Self, StoreError> {
        let start = store.start()?;
        let frames = store.frames().collect::<Result<_, _>>()?;
        store.flush()?;
        Ok(Self { start, frames })
    }
}

struct Current {
    number: u64,
    store: SledStore,
    last_frame: Option<u64>,
    /// Of frames, with their share.
    bytes: u64,
}

/// The volume after the current one.
enum Next {
    /// Not asked for, or its making failed: asked for when the current one holds so many bytes.
    NotBefore(u64),
    Making(Receiver<Option<SledStore>>),
    Ready(SledStore),
}

/// Whether an entry of a log's directory means nothing and is left out of a copy.
pub(crate) fn is_left_out(name: &str) -> bool {
    name == NEXT || name == DROPPED
}

/// The volumes in a log's directory, oldest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, crate::OpenError> {
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    let entries = files::entries(dir)?.into_iter().filter(|(_, is_dir)| *is_dir);
    let mut volumes: Vec<(u64, PathBuf)> =
        entries.filter_map(|(path, _)| Some((number(&path)?, path))).collect();
    volumes.sort();
    Ok(volumes)
}

fn volume_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:08}"))
}

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> StoreError {
    move |error| StoreError::Io { doing, error: error.to_string() }
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("syncing the volumes"))
}

impl Volumes {
    /// Makes the first volume of a new log in an empty directory; durable on `Ok` except for the
    /// directory entries.
    pub(crate) fn create(dir: &Path, start: ChainStart) -> Result<Self, StoreError> {
        let path = volume_dir(dir, 1);
        fs::create_dir(&path).map_err(failed("making a volume"))?;
        let mut store = SledStore::open(&path)?;
        store.put_start(start)?;
        Ok(Self::at(dir, VecDeque::new(), Current { number: 1, store, last_frame: None, bytes: 0 }))
    }

    fn at(dir: &Path, sealed: VecDeque<Sealed>, current: Current) -> Self {
        let next = Next::NotBefore(volume_bytes_max() / 2);
        Self { dir: dir.to_owned(), sealed, current, next }
    }

    /// Opens a copy. Writes to the directory; nothing of it is durable.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let doing = "listing the volumes";
        let listed =
            list(dir).map_err(|error| StoreError::Io { doing, error: error.to_string() })?;
        let mut listed = listed;
        let none = || StoreError::Refused { doing, error: "there is none".to_owned() };
        let (number, path) = listed.pop().ok_or_else(none)?;
        let mut sealed = VecDeque::new();
        for (number, path) in listed {
            let store = SledStore::open(&path)?;
            store.give_back_zeros()?;
            let (last_frame, disk_bytes) = (store.last_frame()?, store.bytes_on_disk());
            let read = Some(Read::of(store)?);
            sealed.push_back(Sealed { number, last_frame, disk_bytes, read });
        }
        let store = SledStore::open(&path)?;
        store.give_back_zeros()?;
        let last_frame = store.last_frame()?;
        let mut bytes = 0;
        for frame in store.frames() {
            bytes += frame?.1.len() as u64 + FRAME_SHARE_BYTES;
        }
        Ok(Self::at(dir, sealed, Current { number, store, last_frame, bytes }))
    }

    /// Hands all that sled holds in memory to the operating system.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.current.store.flush()
    }

    fn read(&self) -> impl Iterator<Item = &Read> {
        self.sealed.iter().filter_map(|volume| volume.read.as_ref())
    }

    /// Goes over to the next volume if this one is full and that one ready, and has it made in
    /// time.
    fn turn_over(&mut self) {
        if let Next::Making(made) = &self.next {
            let received = match swept_volume_bytes() {
                None => made.try_recv(),
                Some(_) => made.recv().map_err(|_| TryRecvError::Disconnected),
            };
            match received {
                Ok(Some(store)) => self.next = Next::Ready(store),
                Ok(None) | Err(TryRecvError::Disconnected) => {
                    let later = self.current.bytes + volume_bytes_max() / 8;
                    self.next = Next::NotBefore(later);
                }
                Err(TryRecvError::Empty) => {}
            }
        }
        match &self.next {
            Next::NotBefore(bytes) if self.current.bytes >= *bytes => {
                self.next = Next::Making(make(&self.dir, self.current.number + 1));
            }
            Next::Ready(_) if self.current.bytes >= volume_bytes_max() => {
                let next = Next::NotBefore(volume_bytes_max() / 2);
                if let Next::Ready(store) = std::mem::replace(&mut self.next, next) {
                    self.seal(store);
                }
            }
            _ => {}
        }
    }

    /// All of the current volume is durable.
    fn seal(&mut self, store: SledStore) {
        let number = self.current.number + 1;
        let next = Current { number, store, last_frame: None, bytes: 0 };
        let Current { number, store, last_frame, .. } = std::mem::replace(&mut self.current, next);
        let disk_bytes = store.bytes_on_disk();
        self.sealed.push_back(Sealed { number, last_frame, disk_bytes, read: None });
        let_go(store);
    }
}

/// Makes an empty volume, durably, on a thread of its own; `None`: it could not be made.
fn make(dir: &Path, number: u64) -> Receiver<Option<SledStore>> {
    let (made, receiver) = sync_channel(1);
    let dir = dir.to_owned();
    let run = move || {
        let store = make_now(&dir, number).map_err(|error| {
            tracing::warn!(%error, dir = %dir.display(), "the next volume cannot be made yet");
        });
        // The log may have ended.
        let _ = made.send(store.ok());
    };
    // Without a thread the channel is closed: it is tried again.
    let _ = std::thread::Builder::new().name("volume".to_owned()).spawn(run);
    receiver
}

fn make_now(dir: &Path, number: u64) -> Result<SledStore, StoreError> {
    let doing = "making a volume";
    let next = dir.join(NEXT);
    remove_tree(&next).map_err(failed(doing))?;
    fs::create_dir(&next).map_err(failed(doing))?;
    let store = SledStore::open(&next)?;
    store.flush()?;
    files::sync_tree(&next).map_err(|error| StoreError::Io { doing, error: error.to_string() })?;
    crash_point("volume.made");
    fs::rename(&next, volume_dir(dir, number)).map_err(failed(doing))?;
    sync_dir(dir)?;
    crash_point("volume.named");
    Ok(store)
}

/// Closes a store that is durable: it can take sled a while.
fn let_go(store: SledStore) {
    // Without a thread the closure, and with it the store, is dropped here.
    let _ = std::thread::Builder::new().name("volume".to_owned()).spawn(move || drop(store));
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl FrameStore for Volumes {
    fn append(&mut self, number: FrameNumber, frame: &[u8]) -> Result<(), StoreError> {
        for volume in self.sealed.iter_mut().rev() {
            // The older ones went with it.
            if volume.read.take().is_none() {
                break;
            }
        }
        self.turn_over();
        self.current.store.append(number, frame)?;
        self.current.last_frame = Some(number.0);
        self.current.bytes += frame.len() as u64 + FRAME_SHARE_BYTES;
        Ok(())
    }

    fn frames(&self) -> StoredFrames<'_> {
        let sealed = self.read().flat_map(|read| read.frames.iter().cloned().map(Ok));
        Box::new(sealed.chain(self.current.store.frames()))
    }

    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        // Each drop writes it to what is the current volume then.
        let current = self.current.store.start()?;
        Ok(current.or_else(|| self.read().filter_map(|read| read.start.clone()).last()))
    }

    fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError> {
        crash_point("drop.before");
        self.current.store.put_start(start)?;
        crash_point("drop.start_stored");
        let dead = |volume: &mut Sealed| volume.last_frame.is_none_or(|last| last < start.number);
        let doing = "removing a volume";
        while let Some(volume) = self.sealed.pop_front_if(dead) {
            let dropped = self.dir.join(DROPPED);
            remove_tree(&dropped).map_err(failed(doing))?;
            fs::rename(volume_dir(&self.dir, volume.number), &dropped).map_err(failed(doing))?;
            crash_point("drop.renamed");
            sync_dir(&self.dir)?;
            remove_tree(&dropped).map_err(failed(doing))?;
        }
        crash_point("drop.done");
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|volume| volume.disk_bytes).sum();
        let next = match &self.next {
            Next::Ready(store) => store.bytes_on_disk(),
            Next::NotBefore(_) | Next::Making(_) => 0,
        };
        sealed + self.current.store.bytes_on_disk() + next
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        let Self { dir, sealed, current, next } = *self;
        drop(sealed);
        // A volume that is being made is let be made: nothing may change after the close.
        if let Next::Making(made) = next {
            drop(made.recv());
        }
        current.store.close()?;
        sync_dir(&dir)
    }
}

#[cfg(test)]
mod tests;
