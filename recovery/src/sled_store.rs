//! One sled 0.34.7 database with frames: a volume (see [`crate::volumes`]). The only file that
//! knows sled.
//!
//! - `flush()` is not durable on Linux (`sync_file_range`): `append` follows it with `sync_data` on
//!   a handle of our own, opened before sled writes a byte, so that it sees every write-back error.
//! - Items above a quarter of the segment become blob files that sled never syncs.
//!   [`crate::frame::FRAME_BYTES_MAX`] keeps whole leaves below that; a blob that appears all the
//!   same is an error before anything is told.
//! - `snap.*` files are a cache: without one `read_snapshot_or_default` scans `db` from the start,
//!   and a damaged one fails the open. A copy is made without them.
//! - Opening repairs and may panic or lose frames silently: only ever open a copy, and check what
//!   it gives.

use crate::crash_point::crash_point;
use crate::museum::bug;
use crate::store::{ChainStart, StoreError, StoredFrames};
use rustix::fs::{FallocateFlags, FlockOperation, RawDir, SeekFrom};
use std::any::Any;
use std::fs::File;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use unanimous_core::FrameNumber;
use unanimous_core::museum::Bug;

const SEGMENT_BYTES: usize = 8 << 20;
const CACHE_BYTES: u64 = 8 << 20;
/// The end of the data is looked for in steps of so many bytes.
const ZEROS_CHUNK_BYTES: usize = 16 << 10;
/// No frame number: it has five bytes.
const START_KEY: &[u8] = b"start";

/// A directory's entries that a copy leaves out.
pub(crate) fn is_snapshot(name: &str) -> bool {
    name.starts_with("snap.")
}

pub(crate) struct SledStore {
    /// `None` only while it is being dropped.
    db: Option<sled::Db>,
    own_handle: File,
    blobs: File,
    dir: PathBuf,
}

impl SledStore {
    /// Opens a copy, or creates a store in an empty directory. Writes to the directory; nothing of
    /// it is durable.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let doing = "opening the store";
        let io = |error: std::io::Error| StoreError::Io { doing, error: error.to_string() };
        let own_handle = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("db"))
            .map_err(io)?;
        let db = guarded(doing, || {
            sled::Config::new()
                .path(dir)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .use_compression(false)
                .open()
        })?;
        let blobs = File::open(dir.join("blobs")).map_err(io)?;
        Ok(Self { db: Some(db), own_handle, blobs, dir: dir.to_owned() })
    }

    /// Gives back the zeros that sled has written behind its data: on opening it fills a segment
    /// up. They read the same from a hole.
    pub(crate) fn give_back_zeros(&self) -> Result<(), StoreError> {
        self.flush()?;
        let io = |error: std::io::Error| StoreError::Io {
            doing: "looking for the end of the store",
            error: error.to_string(),
        };
        let length = self.own_handle.metadata().map_err(io)?.len();
        let mut data_end = length;
        let mut chunk = [0; ZEROS_CHUNK_BYTES];
        while data_end > 0 {
            let from = (data_end - 1) / chunk.len() as u64 * chunk.len() as u64;
            let bytes =
                usize::try_from(data_end - from).map_or(chunk.len(), |n| n.min(chunk.len()));
            let part = &mut chunk[..bytes];
            self.own_handle.read_exact_at(part, from).map_err(io)?;
            if part.iter().any(|byte| *byte != 0) {
                break;
            }
            data_end = from;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if data_end < length
            && let Err(error) =
                rustix::fs::fallocate(&self.own_handle, flags, data_end, length - data_end)
        {
            // A file system without holes: the zeros stay.
            tracing::debug!(%error, dir = %self.dir.display(), "no hole can be made");
        }
        Ok(())
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("the database is there until the store is dropped")
    }

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), StoreError> {
        guarded("flushing", || self.db().flush())?;
        crash_point("log.after_flush");
        let io =
            |error: std::io::Error| StoreError::Io { doing: "syncing", error: error.to_string() };
        if !bug(Bug::SkipOwnSync) {
            self.own_handle.sync_data().map_err(io)?;
        }
        if self.has_blob().map_err(io)? {
            let error = "sled wrote a blob file, which it never syncs".to_owned();
            return Err(StoreError::Refused { doing: "syncing", error });
        }
        Ok(())
    }

    /// Through a handle kept open: a process out of descriptors must still commit.
    fn has_blob(&self) -> std::io::Result<bool> {
        rustix::fs::seek(&self.blobs, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut entries = RawDir::new(&self.blobs, &mut buffer);
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stores a start of the chain; durable on `Ok` except for the directory entries.
    pub(crate) fn put_start(&mut self, start: ChainStart) -> Result<(), StoreError> {
        guarded("writing the chain's start", || self.db().insert(START_KEY, start.encode()))?;
        self.sync()
    }

    /// The bytes of the start that was stored last; `None` if there is none.
    pub(crate) fn start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let value = guarded("reading the chain's start", || self.db().get(START_KEY))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Hands all that sled holds in memory to the operating system.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        guarded("flushing", || self.db().flush()).map(drop)
    }

    /// Adds a frame, durably.
    pub(crate) fn append(&mut self, number: FrameNumber, frame: &[u8]) -> Result<(), StoreError> {
        guarded("writing a frame", || self.db().insert(number.0.to_be_bytes(), frame))?;
        crash_point("log.after_insert");
        self.sync()?;
        crash_point("log.after_sync");
        Ok(())
    }

    /// The number of the last frame, if there is one.
    pub(crate) fn last_frame(&self) -> Result<Option<u64>, StoreError> {
        let below_start = ..START_KEY;
        let last = guarded("reading a frame", || {
            self.db().range(below_start).keys().next_back().transpose()
        })?;
        let number = last.and_then(|key| <[u8; 8]>::try_from(&*key).ok());
        Ok(number.map(u64::from_be_bytes))
    }

    /// All frames in the order of their numbers.
    pub(crate) fn frames(&self) -> StoredFrames<'_> {
        let mut iter = self.db().iter();
        Box::new(std::iter::from_fn(move || {
            loop {
                let next = guarded("reading a frame", || iter.next().transpose());
                let (key, value) = match next {
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                    Ok(Some(pair)) => pair,
                };
                if key != START_KEY {
                    let number = <[u8; 8]>::try_from(&*key).ok();
                    let number = number.map(|bytes| FrameNumber(u64::from_be_bytes(bytes)));
                    return Some(Ok((number, value.to_vec())));
                }
            }
        }))
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.own_handle.metadata().map_or(0, |metadata| metadata.blocks() * 512)
    }

    /// A thread of sled's may hold the file for a moment longer, and sled's lock with it: whoever
    /// opens the store meanwhile is refused. The lock comes free with its last handle.
    fn wait_for_sleds_threads(&self) -> Result<(), StoreError> {
        rustix::fs::flock(&self.own_handle, FlockOperation::LockExclusive)
            .and_then(|()| rustix::fs::flock(&self.own_handle, FlockOperation::Unlock))
            .map_err(|error| StoreError::Io {
                doing: "waiting for the store's lock",
                error: error.to_string(),
            })
    }

    /// Ends the store. On `Ok` everything is durable, its files change no more, and it can be
    /// opened again at once.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        self.sync()?;
        let db = self.db.take();
        guarded("closing the store", || {
            drop(db);
            Ok(())
        })?;
        self.wait_for_sleds_threads()?;
        self.own_handle
            .sync_all()
            .map_err(|error| StoreError::Io { doing: "syncing", error: error.to_string() })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let db = self.db.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::warn!(dir = %self.dir.display(), "sled panicked while it was dropped");
        }
    }
}

fn guarded<T>(
    doing: &'static str,
    call: impl FnOnce() -> sled::Result<T>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(translated(doing, &error)),
        Err(panic) => Err(StoreError::Panicked { doing, message: panic_message(&*panic) }),
    }
}

/// sled reports both what the system refused and what it cannot make sense of as IO errors; only
/// the first has a system error number, and a seek to a place out of a damaged file is not the
/// system's fault.
fn translated(doing: &'static str, error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Io(io)
            if io.raw_os_error().is_some() && io.kind() != ErrorKind::InvalidInput =>
        {
            StoreError::Io { doing, error: io.to_string() }
        }
        _ => StoreError::Refused { doing, error: error.to_string() },
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
impl SledStore {
    pub(crate) fn remove_frame(&mut self, number: u64) {
        self.db().remove(number.to_be_bytes()).unwrap();
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.db().insert(key, value).unwrap();
    }

    pub(crate) fn remove_start(&mut self) {
        self.db().remove(START_KEY).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::copy_store;

    fn frames(store: &SledStore) -> Vec<(u64, Vec<u8>)> {
        let all = store.frames().map(|frame| frame.unwrap());
        all.map(|(number, bytes)| (number.unwrap().0, bytes)).collect()
    }

    fn start(number: u64) -> ChainStart {
        ChainStart { number, previous_crc: 7, first_lsn: number }
    }

    /// Found by the mutation run, on a busy machine: the next open met sled's own lock.
    #[test]
    fn regression_a_closed_store_can_be_opened_at_once() {
        // Where syncs cost nothing, and nothing gives sled's threads time.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        for number in 1..=50 {
            let mut store = SledStore::open(dir.path()).unwrap();
            store.append(FrameNumber(number), b"one").unwrap();
            store.close().unwrap();
        }
    }

    #[test]
    fn a_torn_snapshot_stops_sled_and_not_a_copy_without_it() {
        let root = tempfile::tempdir().unwrap();
        let (dir, copy) = (root.path().join("a"), root.path().join("b"));
        std::fs::create_dir(&dir).unwrap();
        let mut store = SledStore::open(&dir).unwrap();
        store.put_start(start(1)).unwrap();
        store.append(FrameNumber(1), b"one").unwrap();
        store.close().unwrap();
        std::fs::write(dir.join("snap.00000000FFFFFFFF"), [1; 20]).unwrap();
        copy_store(&dir, &copy).unwrap();
        assert_eq!(frames(&SledStore::open(&copy).unwrap()), vec![(1, b"one".to_vec())]);
        assert!(
            SledStore::open(&dir).is_err(),
            "the damaged snapshot is what it takes to stop sled"
        );
    }

    /// sled never syncs a blob: nothing may be told of a frame that is in one.
    #[test]
    fn a_blob_is_an_error_before_the_frame_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path()).unwrap();
        store.append(FrameNumber(1), b"one").unwrap();
        let blob = dir.path().join("blobs/7");
        std::fs::write(&blob, b"a part of a frame").unwrap();
        for _ in 0..2 {
            let error = store.append(FrameNumber(2), b"two").unwrap_err().to_string();
            assert!(error.contains("blob"), "{error}");
        }
        std::fs::remove_file(&blob).unwrap();
        store.append(FrameNumber(2), b"two").unwrap();
    }

    /// What is behind the data takes no room and reads the same; the data stay.
    #[test]
    fn zeros_at_the_end_become_a_hole_and_nothing_else_does() {
        let chunk = ZEROS_CHUNK_BYTES as u64;
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path()).unwrap();
        store.append(FrameNumber(1), b"one").unwrap();
        store.flush().unwrap();
        let file = &store.own_handle;
        for data_end in [3 * chunk, 3 * chunk + 1, 4 * chunk - 1, 9 * chunk + 500] {
            for length in [data_end, data_end + 1, 20 * chunk, 40 * chunk + 77] {
                file.set_len(0).unwrap();
                let data = vec![7; usize::try_from(data_end).unwrap()];
                let zeros = vec![0; usize::try_from(length - data_end).unwrap()];
                let content = [data, zeros].concat();
                file.write_all_at(&content, 0).unwrap();
                store.give_back_zeros().unwrap();
                let what = format!("{data_end} of {length}");
                assert!(std::fs::read(dir.path().join("db")).unwrap() == content, "{what}");
                // A page at the end of which only a part is the file's stays.
                let kept = data_end.next_multiple_of(chunk) + 4096;
                assert!(store.bytes_on_disk() >= data_end, "{what}");
                assert!(store.bytes_on_disk() <= kept, "{what}: {}", store.bytes_on_disk());
            }
        }
        file.set_len(0).unwrap();
        store.give_back_zeros().unwrap();
    }

    /// A volume is removed once its last frame is below the chain's start.
    #[test]
    fn the_last_frame_is_the_highest_number_and_not_the_chains_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path()).unwrap();
        assert_eq!(store.last_frame(), Ok(None));
        store.put_start(start(1)).unwrap();
        assert_eq!(store.last_frame(), Ok(None));
        for number in [7, 300, 65_000] {
            store.append(FrameNumber(number), b"one").unwrap();
            assert_eq!(store.last_frame(), Ok(Some(number)));
        }
    }

    /// What the system refuses another disk may mend; what sled makes nothing of is damage.
    #[test]
    fn only_what_the_system_refused_is_the_systems_error() {
        use std::io::Error;
        let (no_space, no_such_place) = (28, 22);
        for (error, is_the_systems) in [
            (Error::from_raw_os_error(no_space), true),
            (Error::from_raw_os_error(no_such_place), false),
            (Error::new(ErrorKind::InvalidData, "no snapshot"), false),
            (Error::new(ErrorKind::InvalidInput, "no segment"), false),
        ] {
            let what = error.to_string();
            let told = translated("reading", &sled::Error::Io(error));
            assert_eq!(matches!(told, StoreError::Io { .. }), is_the_systems, "{what}: {told}");
        }
        let told = translated("reading", &sled::Error::Unsupported("this".to_owned()));
        assert!(matches!(told, StoreError::Refused { .. }), "{told}");
    }
}
