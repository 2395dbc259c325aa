//! The end of a log cut off or zeroed at every byte of its last record, every byte of every other
//! record flipped, volumes that are not where they were, and what is no log at all (reliability.md,
//! catalogue 3.5 and B-11).
#![allow(clippy::unwrap_used)]

mod common;

use common::{OPTIONS, copy, records, tree};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use unanimous_core::Lsn;
use unanimous_recovery::frame::{FRAME_MAGIC, FRAME_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES};
use unanimous_recovery::{
    ErrorClass, LogKind, OpenedLog, Writer, read_records, read_records_lenient, verify,
};

/// Frames of one record each; after a kill all but the last are witnessed.
const FRAMES: u64 = 3;

fn record(lsn: u64) -> Vec<u8> {
    format!("record {lsn}").into_bytes()
}

fn expected(count: u64) -> Vec<Vec<u8>> {
    (1..=count).map(record).collect()
}

fn append(opened: OpenedLog, records: impl Iterator<Item = Vec<u8>>) -> Writer {
    let (told, flushed) = channel();
    let lsns = opened.next_lsn().0..;
    let on_failed = |failed| panic!("{failed}");
    let writer = opened.start(move |group| told.send(group.upto).unwrap(), on_failed).unwrap();
    for (lsn, record) in lsns.zip(records) {
        writer.append(Lsn(lsn), record, true).unwrap();
        assert_eq!(flushed.recv().unwrap(), Lsn(lsn));
    }
    writer
}

/// A log as a kill leaves it.
fn killed(dir: &Path) {
    append(OPTIONS.open(dir).unwrap(), expected(FRAMES - 1).into_iter()).close().unwrap();
    let opened = OPTIONS.open(dir).unwrap();
    let witness = fs::read(dir.join("witness")).unwrap();
    let writer = append(opened, std::iter::once(record(FRAMES)));
    let image = dir.with_extension("image");
    copy(dir, &image);
    drop(writer);
    fs::remove_dir_all(dir).unwrap();
    fs::rename(image, dir).unwrap();
    fs::write(dir.join("witness"), witness).unwrap();
}

/// The file with the records, what it holds, and where in it the frame of a record stands.
struct Place {
    file: PathBuf,
    bytes: Vec<u8>,
    frame: Range<usize>,
}

fn place_of(dir: &Path, lsn: u64) -> Place {
    let wanted = record(lsn);
    let files = tree(dir).into_iter().filter_map(|(path, bytes)| Some((path, bytes?)));
    let mut found = files.filter_map(|(path, bytes)| {
        let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
        let start = at - (FRAME_OVERHEAD_BYTES - 4) - RECORD_OVERHEAD_BYTES;
        let frame = start..at + wanted.len() + 4;
        Some(Place { file: path.strip_prefix(dir).unwrap().to_owned(), bytes, frame })
    });
    let place = found.next().unwrap();
    assert!(found.next().is_none(), "it stands in one file");
    place
}

/// Runs `check` on a copy of `original` for each place, on several threads.
fn at_each(original: &Path, places: Range<usize>, check: impl Fn(&Path, usize) + Sync) {
    let threads = 4;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (check, places) = (&check, places.clone().skip(thread).step_by(threads));
            let dir = original.with_extension(format!("copy-{thread}"));
            scope.spawn(move || {
                for at in places {
                    copy(original, &dir);
                    check(&dir, at);
                    fs::remove_dir_all(&dir).unwrap();
                }
            });
        }
    });
}

/// The last complete record rules: the one that was cut is not there, the others are.
fn ends_before_the_last(dir: &Path, what: &str) {
    let opened = OPTIONS.open(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(records(&opened) == expected(FRAMES - 1), "{what}");
    assert_eq!(opened.report().unwitnessed, 0, "{what}");
    append(opened, std::iter::once(record(FRAMES))).close().unwrap();
    assert!(records(&OPTIONS.open(dir).unwrap()) == expected(FRAMES), "{what}: it goes on");
}

#[test]
fn s_01_cut_at_every_byte_of_the_last_record() {
    let root = tempfile::tempdir().unwrap();
    let original = root.path().join("log");
    killed(&original);
    let Place { file, bytes, frame } = place_of(&original, FRAMES);
    at_each(&original, frame, |dir, at| {
        fs::write(dir.join(&file), &bytes[..at]).unwrap();
        ends_before_the_last(dir, &format!("cut at {at}"));
    });
}

#[test]
fn s_04_zeros_from_every_byte_of_the_last_record_on() {
    let root = tempfile::tempdir().unwrap();
    let original = root.path().join("log");
    killed(&original);
    let Place { file, bytes, frame } = place_of(&original, FRAMES);
    // Its checksum's last bytes may be zeros already.
    let last = frame.clone().rev().find(|at| bytes[*at] != 0).unwrap();
    at_each(&original, frame.start..last + 1, |dir, at| {
        let mut zeroed = bytes.clone();
        zeroed[at..].fill(0);
        fs::write(dir.join(&file), zeroed).unwrap();
        ends_before_the_last(dir, &format!("zeros from {at} on"));
    });
}

/// Also for the commands that only look (B-11): the same words.
#[test]
fn s_02_every_byte_of_every_record_but_the_last() {
    let root = tempfile::tempdir().unwrap();
    let original = root.path().join("log");
    killed(&original);
    for lsn in 1..FRAMES {
        let Place { file, bytes, frame } = place_of(&original, lsn);
        let readable_end = if lsn == 1 { 0 } else { place_of(&original, lsn - 1).frame.end };
        at_each(&original, frame, |dir, at| {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(dir.join(&file), flipped).unwrap();
            let before = tree(dir);
            let error = OPTIONS.open(dir).unwrap_err();
            let named = format!(
                "LSN {lsn} cannot be read, after file {} offset {readable_end}",
                dir.join(&file).display()
            );
            assert_eq!(error.class(), ErrorClass::Damaged, "byte {at}: {error}");
            assert!(error.to_string().contains(&named), "byte {at}: {error}");
            assert_eq!(verify(dir, LogKind::Accounts).unwrap_err(), error);
            let (found, looked) = read_records_lenient(dir);
            assert_eq!((found.len() as u64, looked), (lsn - 1, Some(error)));
            assert!(tree(dir) == before, "byte {at}: changed");
        });
    }
}

/// A volume is what others call a segment.
#[test]
fn s_16_a_volume_over_another_or_missing_in_the_middle() {
    const RECORDS: usize = 150;
    const RECORD_BYTES: usize = 60 << 10;
    let root = tempfile::tempdir().unwrap();
    let original = root.path().join("log");
    let long = |lsn: usize| vec![u8::try_from(lsn % 251).unwrap(); RECORD_BYTES];
    append(OPTIONS.open(&original).unwrap(), (0..RECORDS).map(long)).close().unwrap();
    // The one after the last may be there already, empty.
    let is_begun = |volume: &PathBuf| {
        let bytes = fs::read(volume.join("db")).unwrap();
        bytes[..4_096.min(bytes.len())].windows(4).any(|window| window == FRAME_MAGIC)
    };
    let volumes = |dir: &Path| -> Vec<PathBuf> {
        let is_volume = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            path.is_dir() && name.starts_with("volume-")
        };
        tree(dir).into_keys().filter(is_volume).filter(is_begun).collect()
    };
    assert!(volumes(&original).len() >= 3, "{:?}", volumes(&original));
    let dir = root.path().join("damaged");
    for (what, damage) in [
        ("the second over the first", (|v| over(&v[1], &v[0])) as fn(&[PathBuf])),
        ("the first over the second", |v| over(&v[0], &v[1])),
        ("the last over the second", |v| over(v.last().unwrap(), &v[1])),
        ("the first is missing", |v| fs::remove_dir_all(&v[0]).unwrap()),
        ("the second is missing", |v| fs::remove_dir_all(&v[1]).unwrap()),
        ("the last is missing", |v| fs::remove_dir_all(v.last().unwrap()).unwrap()),
    ] {
        copy(&original, &dir);
        damage(&volumes(&dir));
        let before = tree(&dir);
        let opened = OPTIONS.open(&dir);
        let error = opened.map(|opened| records(&opened).len()).expect_err(what);
        assert_eq!(error.class(), ErrorClass::Damaged, "{what}: {error}");
        assert!(tree(&dir) == before, "{what}: changed");
        fs::remove_dir_all(&dir).unwrap();
    }
}

fn over(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(from, to);
}

/// B-11: nothing panics, nothing is made or changed, whatever it is given.
#[test]
fn b_11_what_is_no_log() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("log");
    killed(&log);
    let given = root.path().join("given");
    let noise: Vec<u8> =
        (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in tree(&log).into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
        let name = name.strip_prefix(&log).unwrap();
        for instead in [&[][..], &noise, &bytes[..bytes.len() / 2]] {
            copy(&log, &given);
            fs::write(given.join(name), instead).unwrap();
            let before = tree(&given);
            let looked = read_records(&given);
            let verified = verify(&given, LogKind::Accounts).map(|report| report.records);
            match looked {
                // What the records do not need may be missing, and the end of an unclean log.
                Ok(found) => {
                    let found: Vec<_> = found.into_iter().map(|record| record.bytes).collect();
                    assert_eq!(verified, Ok(found.len() as u64), "{name:?}");
                    assert!(
                        found.len() as u64 >= FRAMES - 1 && expected(FRAMES).starts_with(&found)
                    );
                }
                Err(error) => assert_eq!(verified, Err(error), "{name:?}"),
            }
            assert!(tree(&given) == before, "{name:?}: changed");
            fs::remove_dir_all(&given).unwrap();
        }
    }
    fs::write(&given, &noise).unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    for nothing in ["given", "empty", "missing"] {
        let dir = root.path().join(nothing);
        let looked = read_records(&dir).unwrap_err();
        assert_eq!(verify(&dir, LogKind::Accounts).unwrap_err(), looked);
        assert!(looked.to_string().contains(&*dir.to_string_lossy()), "{looked}");
    }
}
