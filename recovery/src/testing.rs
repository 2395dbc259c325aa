//! What the crate's own tests share.

use crate::frame::{Frame, frame_crc};
use crate::open::{OpenOptions, OpenedLog};
use crate::sled_store::SledStore;
use crate::store::{ChainStart, FrameStore, StoreError, StoredFrames};
use crate::witness::{Witness, WitnessFile};
use crate::{LogKind, Space, Writer};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use unanimous_core::{FrameNumber, Lsn};

pub(crate) const COORDINATOR: OpenOptions = OpenOptions {
    kind: LogKind::Coordinator,
    init: true,
    cluster: 1,
    slot: 2,
    moved: false,
    copied: false,
    space: Space::OFF,
    degraded: false,
    rebuild: false,
};
pub(crate) const MOVED: OpenOptions = OpenOptions { init: false, moved: true, ..COORDINATOR };

/// Record `index` of the test's logs: never a core record.
pub(crate) fn record(index: u64) -> Vec<u8> {
    format!("record {index} {}", "x".repeat(usize::try_from(index % 50).unwrap())).into_bytes()
}

/// Appends records one frame each; returns when all are durable.
pub(crate) fn append(opened: OpenedLog, indices: Range<u64>) -> Writer {
    let first = opened.next_lsn().0;
    let (told, flushed) = channel();
    let writer = opened
        .start(move |group| told.send(group.upto).unwrap(), |failed| panic!("{failed}"))
        .unwrap();
    for (lsn, index) in (first..).zip(indices) {
        writer.append(Lsn(lsn), record(index), true).unwrap();
        assert_eq!(flushed.recv().unwrap(), Lsn(lsn));
    }
    writer
}

/// A cleanly stopped log with this many frames of one record.
pub(crate) fn log_of(dir: &Path, frames: u64) {
    append(COORDINATOR.open(dir).unwrap(), 0..frames).close().unwrap();
}

/// The directory as a kill would leave it now.
pub(crate) fn killed(dir: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let from = entry.unwrap().path();
        let target = to.join(from.file_name().unwrap());
        if from.is_dir() {
            killed(&from, &target);
        } else {
            fs::copy(&from, &target).unwrap();
        }
    }
    to.to_owned()
}

/// Every path below a directory with its bytes (`None`: a directory).
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
            all.insert(path, None);
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, Some(bytes));
        }
    }
    all
}

/// Changes the newest volume of a stopped log behind the log's back.
pub(crate) fn edit_store(dir: &Path, edit: impl FnOnce(&mut SledStore)) {
    let log = crate::home::log_dir(dir, Witness::read(dir).unwrap().generation);
    let (_, newest) = crate::volumes::list(&log).unwrap().pop().unwrap();
    let mut store = SledStore::open(&newest).unwrap();
    edit(&mut store);
    store.close().unwrap();
}

/// Changes both slots of a stopped log's witness.
pub(crate) fn edit_witness(dir: &Path, edit: impl FnOnce(&mut Witness)) {
    let last = Witness::read(dir).unwrap();
    let mut next = last;
    edit(&mut next);
    let mut file = WitnessFile::open(dir, last, false).unwrap();
    file.write_both(next, || ()).unwrap();
}

/// A store without a disk.
pub(crate) struct Memory {
    pub(crate) start: ChainStart,
    pub(crate) frames: Vec<Vec<u8>>,
}

impl Memory {
    /// Frames of one record each from `start` on.
    pub(crate) fn of(start: ChainStart, frames: u64) -> Self {
        let mut store = Self { start, frames: Vec::new() };
        let mut previous_crc = start.previous_crc;
        for index in 0..frames {
            let (number, first_lsn) = (start.number + index, start.first_lsn + index);
            let records = vec![record(index)];
            let frame = Frame { number, first_lsn, unix_ms: 1, previous_crc, records }.encode();
            previous_crc = frame_crc(&frame);
            store.frames.push(frame);
        }
        store
    }
}

impl FrameStore for Memory {
    fn append(&mut self, _: FrameNumber, frame: &[u8]) -> Result<(), StoreError> {
        self.frames.push(frame.to_vec());
        Ok(())
    }

    fn frames(&self) -> StoredFrames<'_> {
        let numbered = (self.start.number..).map(FrameNumber).zip(&self.frames);
        Box::new(numbered.map(|(number, frame)| Ok((Some(number), frame.clone()))))
    }

    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(Some(self.start.encode()))
    }

    fn drop_below(&mut self, _: ChainStart) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.frames.iter().map(|frame| frame.len() as u64).sum()
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
