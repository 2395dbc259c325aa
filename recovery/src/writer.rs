//! Group commit: one thread owns the stores and writes what is queued as one frame.
//!
//! A failed write or sync ends the log: no further write, no retry (after a failed sync a later one
//! proves nothing), nothing more is told as flushed, and the owner hears of it once, to end the
//! process.

use crate::chain::Chain;
use crate::crash_point::crash_point;
use crate::damage::OpenError;
use crate::frame::RECORD_BYTES_MAX;
use crate::home::{DirLock, Leg};
use crate::open::{DirectoryReport, OpenedLog};
use crate::pair::legs::{Directories, Legs, Witnesses};
use crate::retained::Retained;
use crate::space::{SpaceSeen, Spaces};
use log_thread::LogThread;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use unanimous_core::{FrameNumber, Lsn};

mod log_thread;

/// The shortest time between two writes of the witness.
const WITNESS_PAUSE: Duration = Duration::from_millis(100);

/// A group of records became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Every record up to and including this one is durable.
    pub upto: Lsn,
    /// The frame that carried the group.
    pub frame: FrameNumber,
    /// Records in the group.
    pub records: u32,
}

/// The log cannot be written any more. The process must end: what was queued may or may not be
/// durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log failed: {what}")]
pub struct LogFailed {
    /// What failed and how.
    pub what: String,
}

/// Why a record was not taken. Its LSN is still the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("the record has {0} bytes, at most {RECORD_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The log has failed; `on_failed` was or is being told.
    #[error("the log has failed")]
    Failed,
}

/// The log in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The highest durable frame.
    pub durable_frame: FrameNumber,
    /// Frames written since the open.
    pub frames: u64,
    /// Records written since the open.
    pub records: u64,
    /// Bytes that the store occupies; of a pair, both.
    pub bytes_on_disk: u64,
    /// Records submitted and not yet flushed.
    pub queued_records: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// How long the oldest of them has been waiting; grows while a sync hangs. 0 if there is none.
    pub oldest_queued_ms: u64,
    /// Frames from the chain's start on, durable ones only.
    pub retained_frames: u64,
    /// Their bytes.
    pub retained_bytes: u64,
    /// How long a frame usually takes to become durable, in microseconds: a mean in which the last
    /// 16 frames count for most. 0 before the first.
    pub durable_us_usual: u64,
    /// The longest time that one has taken since the open, in microseconds.
    pub durable_us_max: u64,
    /// Frames that are not needed any more are still to be dropped.
    pub dropping: bool,
    /// What the file system has left for us, as last looked at: before every frame, and every
    /// 250 ms while there is none. The reserve does not count. Of a pair, the lesser.
    pub free_bytes: u64,
    /// What there is of the reserve.
    pub reserve_bytes: u64,
    /// Less is free than [`Space::free_bytes_min`](crate::Space), or the reserve is not whole:
    /// there is room to finish what is decided, not for new work.
    pub space_low: bool,
    /// The disk is full and the reserve used up: no frame is written before there is room.
    pub waiting_for_space: bool,
}

/// A submitted record.
struct Queued {
    record: Vec<u8>,
    force: bool,
    at_ms: u64,
}

enum Command {
    Append(Queued),
    DropBelow(Lsn),
    /// Write what is queued and end.
    End,
    /// The witness could not be written.
    Fail(LogFailed),
}

struct Gauges {
    /// What `oldest_queued_at_ms` counts from.
    origin: Instant,
    durable_frame: AtomicU64,
    frames: AtomicU64,
    records: AtomicU64,
    bytes_on_disk: AtomicU64,
    queued_records: AtomicU64,
    queued_bytes: AtomicU64,
    /// When the oldest record that is not flushed was submitted; means something only while
    /// something is queued.
    oldest_queued_at_ms: AtomicU64,
    retained_frames: AtomicU64,
    retained_bytes: AtomicU64,
    durable_us_usual: AtomicU64,
    durable_us_max: AtomicU64,
    dropping: AtomicBool,
    free_bytes: AtomicU64,
    reserve_bytes: AtomicU64,
    space_low: AtomicBool,
    waiting_for_space: AtomicBool,
}

impl Gauges {
    fn new(chain: &Chain, retained: &Retained, space: SpaceSeen, bytes_on_disk: u64) -> Self {
        Self {
            origin: Instant::now(),
            durable_frame: AtomicU64::new(chain.last_frame()),
            frames: AtomicU64::new(0),
            records: AtomicU64::new(0),
            bytes_on_disk: AtomicU64::new(bytes_on_disk),
            queued_records: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            oldest_queued_at_ms: AtomicU64::new(0),
            retained_frames: AtomicU64::new(retained.frames()),
            retained_bytes: AtomicU64::new(retained.bytes()),
            durable_us_usual: AtomicU64::new(0),
            durable_us_max: AtomicU64::new(0),
            dropping: AtomicBool::new(false),
            free_bytes: AtomicU64::new(space.free_bytes),
            reserve_bytes: AtomicU64::new(space.reserve_bytes),
            space_low: AtomicBool::new(space.low),
            waiting_for_space: AtomicBool::new(space.full),
        }
    }

    /// A frame has become durable. One thread writes frames.
    fn count_durable(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let usual = match self.durable_us_usual.load(Ordering::Relaxed) {
            0 => us,
            usual => (usual * 15 + us).div_ceil(16),
        };
        self.durable_us_usual.store(usual, Ordering::Relaxed);
        self.durable_us_max.fetch_max(us, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What the witness thread is told.
#[derive(Default)]
struct Durable {
    frame: u64,
    frame_crc: u32,
    /// The thread sleeps until there is a newer frame; while it pauses, waking it would be a waste.
    idle: bool,
    stop: bool,
}

type Shared = Arc<(Mutex<Durable>, Condvar)>;

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle to a running log. Dropping it without [`Writer::close`] is an unclean stop: what is
/// queued is still written and told, the witness is not marked clean.
///
/// Dropping and closing wait for the log's threads, so the callbacks must not wait for the one who
/// does it.
pub struct Writer {
    commands: Sender<Command>,
    next_lsn: Mutex<u64>,
    gauges: Arc<Gauges>,
    durable: Shared,
    log: Option<JoinHandle<Option<Ended>>>,
    witness: Option<JoinHandle<()>>,
    witnesses: Arc<Mutex<Witnesses>>,
    directories: Directories,
    /// Empty once they were given away to the end of the process.
    locks: Vec<DirLock>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("directories", &self.directories()).finish_non_exhaustive()
    }
}

/// What the log thread leaves behind when it did not fail.
struct Ended {
    legs: Legs,
    chain: Chain,
}

impl OpenedLog {
    /// Starts the log's threads.
    ///
    /// `on_flushed` is called on the log thread, once for each group, after it is durable, in
    /// order; the next group is not written before it returns. `on_failed` is called at most once;
    /// nothing is told as flushed after it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        self,
        on_flushed: impl FnMut(Flushed) + Send + 'static,
        on_failed: impl FnOnce(LogFailed) + Send + 'static,
    ) -> Result<Writer, OpenError> {
        let Self { legs, chain, retained, report, .. } = self;
        let directories: Directories = Arc::new(Mutex::new(report.directories));
        let (mut stores, mut files, mut locks, mut spaces) = (vec![], vec![], vec![], vec![]);
        for Leg { store, home, first_frame } in legs {
            stores.push((store, first_frame));
            files.push((home.dir, home.witness));
            locks.push(home.lock);
            spaces.push(home.space);
        }
        let witnesses = Witnesses::new(files, Arc::clone(&directories));
        let witnesses = Arc::new(Mutex::new(witnesses));
        let legs = Legs::start(stores, Arc::clone(&witnesses))?;
        let space = Spaces::new(spaces);
        let (commands, queue) = channel();
        let gauges = Gauges::new(&chain, &retained, space.seen(), legs.bytes_on_disk());
        let gauges = Arc::new(gauges);
        let (frame, frame_crc) = (chain.last_frame(), chain.last_crc);
        let state = Durable { frame, frame_crc, ..Durable::default() };
        let durable: Shared = Arc::new((Mutex::new(state), Condvar::new()));
        let next_lsn = Mutex::new(chain.next_lsn);

        let log = LogThread {
            ended: Ended { legs, chain },
            retained,
            space,
            queue,
            carried: VecDeque::new(),
            ending: false,
            gauges: Arc::clone(&gauges),
            durable: Arc::clone(&durable),
            on_flushed,
        };
        let log = Some(spawn("log", move || log.run_to_the_end(on_failed))?);
        let witness = {
            let (durable, commands) = (Arc::clone(&durable), commands.clone());
            let witnesses = Arc::clone(&witnesses);
            Some(spawn("witness", move || run_witness(&witnesses, frame, &durable, &commands))?)
        };
        Ok(Writer {
            commands,
            next_lsn,
            gauges,
            durable,
            log,
            witness,
            witnesses,
            directories,
            locks,
        })
    }
}

pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, OpenError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(OpenError::io("starting the thread", Path::new(name)))
}

impl Writer {
    /// Submits a record. Never blocks. It is durable when `on_flushed` names its LSN or a higher
    /// one; `force` asks for that at once, otherwise it may wait up to 50 ms for company. Records
    /// become durable in the order of their LSNs.
    ///
    /// # Errors
    /// Too long (the LSN stays the next one), or the log has failed.
    ///
    /// # Panics
    /// If `lsn` is not the one after the last.
    pub fn append(&self, lsn: Lsn, record: Vec<u8>, force: bool) -> Result<(), AppendError> {
        let bytes = record.len();
        if bytes > RECORD_BYTES_MAX {
            return Err(AppendError::TooLong(bytes));
        }
        // Held over the send, so that the queue has the order of the numbers.
        let mut next_lsn = locked(&self.next_lsn);
        assert_eq!(lsn.0, *next_lsn, "records are appended in the order of their LSNs");
        *next_lsn += 1;
        let (gauges, at_ms) = (&self.gauges, self.gauges.now_ms());
        if gauges.queued_records.load(Ordering::Relaxed) == 0 {
            gauges.oldest_queued_at_ms.store(at_ms, Ordering::Relaxed);
        }
        gauges.queued_records.fetch_add(1, Ordering::Relaxed);
        gauges.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let queued = Queued { record, force, at_ms };
        self.commands.send(Command::Append(queued)).map_err(|_| AppendError::Failed)
    }

    /// Says that no record below `lsn` is needed any more. Never blocks. Frames whose records are
    /// all below it are dropped when there is time: oldest first, a bounded slice after each frame
    /// and while nothing is queued, each slice durably, the newest frame never. What is left when
    /// the log is closed stays until it is said again. A lower `lsn` than before changes nothing.
    pub fn drop_below(&self, lsn: Lsn) {
        self.gauges.dropping.store(true, Ordering::Relaxed);
        // A failed log drops nothing, and whoever appends hears of it.
        let _ = self.commands.send(Command::DropBelow(lsn));
    }

    /// The log in numbers; cheap.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let read = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        let waiting_ms =
            || self.gauges.now_ms().saturating_sub(read(&self.gauges.oldest_queued_at_ms));
        let queued_records = read(&self.gauges.queued_records);
        Stats {
            durable_frame: FrameNumber(read(&self.gauges.durable_frame)),
            frames: read(&self.gauges.frames),
            records: read(&self.gauges.records),
            bytes_on_disk: read(&self.gauges.bytes_on_disk),
            queued_records,
            queued_bytes: read(&self.gauges.queued_bytes),
            oldest_queued_ms: if queued_records == 0 { 0 } else { waiting_ms() },
            retained_frames: read(&self.gauges.retained_frames),
            retained_bytes: read(&self.gauges.retained_bytes),
            durable_us_usual: read(&self.gauges.durable_us_usual),
            durable_us_max: read(&self.gauges.durable_us_max),
            dropping: self.gauges.dropping.load(Ordering::Relaxed),
            free_bytes: read(&self.gauges.free_bytes),
            reserve_bytes: read(&self.gauges.reserve_bytes),
            space_low: self.gauges.space_low.load(Ordering::Relaxed),
            waiting_for_space: self.gauges.waiting_for_space.load(Ordering::Relaxed),
        }
    }

    /// Writes and tells what is queued, ends the threads and the store, and marks the stop as
    /// clean, durably.
    ///
    /// # Errors
    /// The log failed before or now; a full disk that leaves queued records unwritten is such a
    /// failure. `on_failed` was told of the first kind only. The stop is not
    /// marked clean.
    pub fn close(mut self) -> Result<(), LogFailed> {
        let Some(Ended { legs, chain }) = self.end_threads() else {
            return Err(LogFailed { what: "it had failed before it was closed".to_owned() });
        };
        legs.close().map_err(|error| LogFailed { what: error.to_string() })?;
        crash_point("close.stored");
        locked(&self.witnesses).end(chain.last_frame(), chain.last_crc)?;
        crash_point("close.done");
        Ok(())
    }

    /// The log's directories as they are now, in the order in which they were named.
    #[must_use]
    pub fn directories(&self) -> Vec<DirectoryReport> {
        locked(&self.directories).clone()
    }

    /// `None` if the log failed.
    fn end_threads(&mut self) -> Option<Ended> {
        let _ = self.commands.send(Command::End);
        let ended = join(self.log.take()).flatten();
        {
            let (state, wake) = &*self.durable;
            locked(state).stop = true;
            wake.notify_all();
        }
        let ended = join(self.witness.take()).and(ended);
        let ended = ended.filter(|_| !locked(&self.witnesses).failed());
        if ended.is_none() {
            // Failed: nobody may have the directories before this process has ended.
            std::mem::forget(std::mem::take(&mut self.locks));
        }
        ended
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.log.is_some() {
            self.end_threads();
        }
    }
}

/// Waits for a thread, unless it is the one that asks.
fn join<T>(thread: Option<JoinHandle<T>>) -> Option<T> {
    let other = thread.filter(|handle| handle.thread().id() != std::thread::current().id())?;
    other.join().ok()
}

/// Follows the durable frames with the witness, off the commit path, until told to stop or a write
/// fails.
fn run_witness(
    witnesses: &Mutex<Witnesses>,
    mut written: u64,
    durable: &Shared,
    commands: &Sender<Command>,
) {
    let (state, wake) = &**durable;
    let mut now = locked(state);
    loop {
        while !now.stop && now.frame == written {
            now.idle = true;
            now = wake.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        if now.stop {
            return;
        }
        let (frame, frame_crc) = (now.frame, now.frame_crc);
        drop(now);
        crash_point("witness.before");
        if let Err(failed) = locked(witnesses).follow(frame, frame_crc) {
            let _ = commands.send(Command::Fail(failed));
            return;
        }
        crash_point("witness.after");
        written = frame;
        let paused = wake.wait_timeout_while(locked(state), WITNESS_PAUSE, |now| !now.stop);
        now = paused.unwrap_or_else(PoisonError::into_inner).0;
    }
}

#[cfg(test)]
mod tests;
