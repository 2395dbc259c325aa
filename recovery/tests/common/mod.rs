//! What the integration tests share: logs, copies of directories, comparison.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use unanimous_core::Lsn;
use unanimous_recovery::{LogKind, OpenOptions, OpenedLog, Space, Writer};

pub(crate) const OPTIONS: OpenOptions = OpenOptions {
    kind: LogKind::Accounts,
    init: true,
    cluster: 1,
    slot: 1,
    moved: true,
    copied: false,
    space: Space::OFF,
    degraded: false,
    rebuild: false,
};

pub(crate) fn record(lsn: u64) -> Vec<u8> {
    format!("record {lsn} {}", "y".repeat(usize::try_from(lsn * 37 % 300).unwrap())).into_bytes()
}

/// Appends `count` records, one frame each, calling `durable` after each.
pub(crate) fn append(
    opened: OpenedLog,
    count: u64,
    mut durable: impl FnMut(&Writer, u64),
) -> Writer {
    let first = opened.next_lsn().0;
    let (told, flushed) = channel();
    let writer = opened
        .start(move |group| told.send(group.upto).unwrap(), |failed| panic!("{failed}"))
        .unwrap();
    for lsn in first..first + count {
        writer.append(Lsn(lsn), record(lsn), true).unwrap();
        assert_eq!(flushed.recv().unwrap(), Lsn(lsn));
        durable(&writer, lsn);
    }
    writer
}

pub(crate) fn records(opened: &OpenedLog) -> Vec<Vec<u8>> {
    opened.records().map(|record| record.unwrap().bytes).collect()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

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
