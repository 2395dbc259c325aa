//! Writing: the same calls to one store or to two in parallel, done when they are durable in each
//! that is not given up.
//!
//! A directory is given up when a write to it fails and the other one's succeeded. The survivor's
//! witness says *alone*, durably, before the call is done, so before anything is told of it.

use crate::crash_point::crash_point;
use crate::damage::OpenError;
use crate::open::{DirectoryReport, DirectoryState};
use crate::sled_store::panic_message;
use crate::store::{ChainStart, FrameStore, StoreError};
use crate::witness::{Witness, WitnessFile};
use crate::writer::{LogFailed, locked, spawn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use unanimous_core::FrameNumber;

/// What is said of the directories, to be read at any time.
pub(crate) type Directories = Arc<Mutex<Vec<DirectoryReport>>>;

/// The witnesses of one or two directories.
pub(crate) struct Witnesses {
    /// `None`: the directory was given up.
    files: Vec<(PathBuf, Option<WitnessFile>)>,
    used: Used,
    directories: Directories,
    failed: bool,
}

/// Which directories are used: read without waiting for a witness that is being written.
type Used = Arc<[AtomicBool; 2]>;

impl Witnesses {
    pub(crate) fn new(files: Vec<(PathBuf, WitnessFile)>, directories: Directories) -> Self {
        let files: Vec<_> = files.into_iter().map(|(dir, file)| (dir, Some(file))).collect();
        let used = Arc::new([AtomicBool::new(true), AtomicBool::new(files.len() > 1)]);
        Self { files, used, directories, failed: false }
    }

    /// The log failed because of a witness.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// The frame is durable in every directory that is used.
    pub(crate) fn follow(&mut self, frame: u64, frame_crc: u32) -> Result<(), LogFailed> {
        self.each(|file| {
            let next = Witness { frame, frame_crc, ..*file.last() };
            file.write(next)
        })
    }

    /// The log ended cleanly at this frame.
    pub(crate) fn end(&mut self, frame: u64, frame_crc: u32) -> Result<(), LogFailed> {
        self.each(|file| {
            let next = Witness { frame, frame_crc, clean: true, ..*file.last() };
            file.write_both(next, || crash_point("close.half"))
        })
    }

    fn each(
        &mut self,
        write: impl Fn(&mut WitnessFile) -> std::io::Result<()>,
    ) -> Result<(), LogFailed> {
        for leg in 0..self.files.len() {
            let Some(file) = &mut self.files[leg].1 else { continue };
            if let Err(error) = write(file) {
                self.give_up(leg, &format!("writing the witness: {error}"))?;
            }
        }
        Ok(())
    }

    /// Goes on without a directory. On `Ok` the other one says so, durably.
    pub(crate) fn give_up(&mut self, leg: usize, why: &str) -> Result<(), LogFailed> {
        self.files[leg].1 = None;
        let survivor = self.files.iter_mut().find_map(|(_, file)| file.as_mut());
        let marked = match survivor {
            None => Err(why.to_owned()),
            Some(file) => {
                let next = Witness { alone: true, ..*file.last() };
                let written = file.write_both(next, || ());
                written.map_err(|error| format!("{why}; then writing the witness: {error}"))
            }
        };
        if let Err(what) = marked {
            self.failed = true;
            return Err(LogFailed { what });
        }
        crash_point("pair.alone_marked");
        self.used[leg].store(false, Ordering::Release);
        let dir = &self.files[leg].0;
        tracing::error!(dir = %dir.display(), why, "a directory of the log is given up");
        for report in locked(&self.directories).iter_mut().filter(|report| report.dir == *dir) {
            (report.state, report.detail) = (DirectoryState::GivenUp, why.to_owned());
        }
        Ok(())
    }
}

#[derive(Clone)]
enum Call {
    Append(FrameNumber, Arc<[u8]>),
    DropBelow(ChainStart),
    Close,
}

/// One store. After an error it is never touched again.
struct Store {
    /// `None` once it was closed or failed.
    inner: Option<Box<dyn FrameStore>>,
    first_frame: u64,
    bytes_on_disk: Arc<AtomicU64>,
}

impl Store {
    fn new(inner: Box<dyn FrameStore>, first_frame: u64) -> Self {
        let bytes_on_disk = Arc::new(AtomicU64::new(inner.bytes_on_disk()));
        Self { inner: Some(inner), first_frame, bytes_on_disk }
    }

    fn call(&mut self, call: Call) -> Result<(), StoreError> {
        let called = catch_unwind(AssertUnwindSafe(|| self.call_inner(call)));
        let result = called.unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(StoreError::Panicked { doing: "writing", message })
        });
        if result.is_err() {
            // Its end would write.
            std::mem::forget(self.inner.take());
        }
        if let Some(inner) = &self.inner {
            self.bytes_on_disk.store(inner.bytes_on_disk(), Ordering::Relaxed);
        }
        result
    }

    fn call_inner(&mut self, call: Call) -> Result<(), StoreError> {
        match (call, &mut self.inner) {
            (_, None) => Ok(()),
            (Call::Append(number, frame), Some(inner)) => inner.append(number, &frame),
            // Of two stores one may be a slice ahead after a kill; its start never goes back.
            (Call::DropBelow(start), Some(_)) if start.number < self.first_frame => Ok(()),
            (Call::DropBelow(start), Some(inner)) => {
                inner.drop_below(start)?;
                self.first_frame = start.number;
                Ok(())
            }
            (Call::Close, inner) => inner.take().map_or(Ok(()), FrameStore::close),
        }
    }
}

/// The second store, on a thread of its own.
struct Remote {
    /// `None` only while this is dropped.
    calls: Option<Sender<Call>>,
    results: Receiver<Result<(), StoreError>>,
    bytes_on_disk: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    fn start(mut store: Store) -> Result<Self, OpenError> {
        let ((calls, queue), (answers, results)) = (channel(), channel());
        let bytes_on_disk = Arc::clone(&store.bytes_on_disk);
        let thread = spawn("log-2", move || {
            for call in queue {
                if answers.send(store.call(call)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { calls: Some(calls), results, bytes_on_disk, thread: Some(thread) })
    }

    fn send(&self, call: Call) {
        // Its thread only ends before us by a bug, and then there is no answer either.
        let _ = self.calls.as_ref().map(|calls| calls.send(call));
    }

    fn wait(&self) -> Result<(), StoreError> {
        let ended = StoreError::Panicked { doing: "writing", message: "no answer".to_owned() };
        self.results.recv().unwrap_or(Err(ended))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.calls = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The stores of an open log.
pub(crate) struct Legs {
    first: Option<Store>,
    second: Option<Remote>,
    witnesses: Arc<Mutex<Witnesses>>,
    used: Used,
}

impl Legs {
    pub(crate) fn start(
        stores: Vec<(Box<dyn FrameStore>, u64)>,
        witnesses: Arc<Mutex<Witnesses>>,
    ) -> Result<Self, OpenError> {
        let mut stores = stores.into_iter().map(|(store, first)| Store::new(store, first));
        let first = stores.next();
        let second = stores.next().map(Remote::start).transpose()?;
        let used = Arc::clone(&locked(&witnesses).used);
        Ok(Self { first, second, witnesses, used })
    }

    /// Adds a frame. On `Ok` it is durable in every directory that is used, and one that is not
    /// used any more is durably given up.
    pub(crate) fn append(&mut self, number: FrameNumber, frame: &[u8]) -> Result<(), StoreError> {
        self.call(&Call::Append(number, frame.into()))
    }

    /// Drops the frames below, as durably.
    pub(crate) fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError> {
        self.call(&Call::DropBelow(start))
    }

    /// Ends the stores.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        self.call(&Call::Close)
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        let first = self.first.as_ref().map(|store| &store.bytes_on_disk);
        let second = self.second.as_ref().map(|remote| &remote.bytes_on_disk);
        [first, second].into_iter().flatten().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    /// Which directories are used.
    pub(crate) fn used(&self) -> [bool; 2] {
        [self.first.is_some(), self.second.is_some()]
    }

    fn call(&mut self, call: &Call) -> Result<(), StoreError> {
        self.leave_given_up();
        if let Some(second) = &self.second {
            second.send(call.clone());
        }
        let first = self.first.as_mut().map(|store| store.call(call.clone()));
        let second = self.second.as_ref().map(Remote::wait);
        let (leg, error) = match (first, second) {
            (Some(Err(error)), Some(Ok(()))) => (0, error),
            (Some(Ok(())), Some(Err(error))) => (1, error),
            (Some(Err(error)), _) | (None, Some(Err(error))) => return Err(error),
            (Some(Ok(())) | None, Some(Ok(())) | None) => return Ok(()),
        };
        let doing = "giving a directory up";
        let marked = locked(&self.witnesses).give_up(leg, &error.to_string());
        marked.map_err(|failed| StoreError::Io { doing, error: failed.what })?;
        self.leave_given_up();
        Ok(())
    }

    /// Given up by us or by the witness: never touched again.
    fn leave_given_up(&mut self) {
        if !self.used[0].load(Ordering::Acquire) {
            std::mem::forget(self.first.take());
        }
        if !self.used[1].load(Ordering::Acquire) {
            std::mem::forget(self.second.take());
        }
    }
}

#[cfg(test)]
mod tests;
