//! What the crate's own tests share.

use crate::open::{OpenOptions, OpenedLog};
use crate::sled_store::SledStore;
use crate::witness::Witness;
use crate::{LogKind, Space, Writer};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use unanimous_core::Lsn;

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
