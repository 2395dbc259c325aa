use super::*;
use crate::damage::{ErrorClass, TABLE, Verdict};
use crate::frame::{FRAME_MAGIC, frame_crc};
use crate::home::{INITIALISING, generations, log_dir};
use crate::identity::{self, Identity};
use crate::testing::{
    COORDINATOR, MOVED, Memory, append, edit_store, killed, log_of, record, tree,
};
use crate::witness::{self, Witness};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const FRAMES: u64 = 6;

fn records(opened: &OpenedLog) -> Vec<Vec<u8>> {
    opened.records().map(|record| record.unwrap().bytes).collect()
}

fn expected(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(record).collect()
}

/// Writes `bytes` at `offset` of a file whose last four bytes of `block` are its checksum, and
/// makes that right again.
fn forge(path: &Path, block: usize, offset: usize, bytes: &[u8]) {
    let mut all = fs::read(path).unwrap();
    for block in all.chunks_mut(block) {
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
        let end = block.len() - 4;
        let crc = crc32c::crc32c(&block[..end]).to_le_bytes();
        block[end..].copy_from_slice(&crc);
    }
    fs::write(path, all).unwrap();
}

fn frame(number: u64, first_lsn: u64, previous_crc: u32) -> Frame {
    Frame { number, first_lsn, unix_ms: 1, previous_crc, records: vec![record(9)] }
}

/// Makes the log in `dir` (six frames, witness at the sixth) show the finding.
fn damage(dir: &Path, found: Found) {
    let witness_file = dir.join(witness::FILE);
    let store_of = |name: &str| log_dir(dir, 1).join("volume-00000001").join(name);
    let witness = Witness::read(dir).unwrap();
    let crc = witness.frame_crc;
    let put = |number: u64, bytes: Vec<u8>| {
        edit_store(dir, |store| store.put(&number.to_be_bytes(), &bytes));
    };
    let raw = |number: u64, edit: fn(&mut Vec<u8>)| {
        edit_store(dir, |store| {
            let stored = store.frames().nth(usize::try_from(number - 1).unwrap());
            let (_, mut bytes) = stored.unwrap().unwrap();
            edit(&mut bytes);
            store.put(&number.to_be_bytes(), &bytes);
        });
    };
    match found {
        Found::NothingThere => fs::remove_dir_all(dir).unwrap(),
        Found::IdentityMissing => fs::remove_file(dir.join(identity::FILE)).unwrap(),
        Found::IdentityBad => {
            let file = File::options().write(true).open(dir.join(identity::FILE)).unwrap();
            file.write_all_at(&[9], 30).unwrap();
        }
        Found::IdentityForeign => forge(&dir.join(identity::FILE), 128, 10, b"\x04bank"),
        Found::IdentityNewer => forge(&dir.join(identity::FILE), 128, 8, &[2, 0]),
        Found::PlaceDiffers => forge(&dir.join(identity::FILE), 128, 42, &[1; 8]),
        Found::WitnessMissing => fs::remove_file(witness_file).unwrap(),
        Found::WitnessBad => fs::write(witness_file, [0; 8192]).unwrap(),
        Found::WitnessNewer => forge(&witness_file, 4096, 8, &[2, 0]),
        Found::WitnessForeign => forge(&witness_file, 4096, 20, &[7; 4]),
        Found::LogMissing => fs::remove_dir_all(log_dir(dir, 1)).unwrap(),
        Found::StoreRefused => forge(&store_of("conf"), 4096, 0, &[255; 4]),
        Found::StorePanicked => two_segments_with_one_number(&store_of("db")),
        Found::ChainStartBad => edit_store(dir, |store| store.remove_start()),
        Found::FrameMissing => edit_store(dir, |store| store.remove_frame(3)),
        Found::NotAFrame => put(3, b"something else".to_vec()),
        Found::FrameChecksum => raw(3, |bytes| bytes[45] ^= 1),
        Found::ChainBroken => put(4, frame(4, 4, 0).encode()),
        Found::LsnBroken => put(FRAMES + 1, frame(FRAMES + 1, 99, crc).encode()),
        Found::FrameNewer => raw(3, |bytes| {
            bytes[..8].copy_from_slice(&[&FRAME_MAGIC[..], &[2, 0, 0, 0]].concat());
            let end = bytes.len() - 4;
            let crc = crc32c::crc32c(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&crc);
        }),
        Found::EndsBeforeWitness => edit_store(dir, |store| store.remove_frame(FRAMES)),
        Found::WitnessedFrameDiffers => forge(&witness_file, 4096, 46, &[1, 2, 3, 4]),
        Found::EndsAtWitness => {}
        Found::FramesBeyondWitness => put(FRAMES + 1, frame(FRAMES + 1, FRAMES + 1, crc).encode()),
        Found::ReadFailed => {
            fs::remove_file(store_of("conf")).unwrap();
            fs::create_dir(store_of("conf")).unwrap();
        }
        Found::OneOfPair => forge(&dir.join(identity::FILE), 128, 50, &[1]),
        Found::RecordBad | Found::RecordNewer => unreachable!("checked by inspect"),
        Found::Diverged => unreachable!("takes two directories"),
    }
}

/// sled asserts that no two segments have one number.
fn two_segments_with_one_number(db: &Path) {
    let mut bytes = fs::read(db).unwrap();
    bytes.resize(16 << 20, 0);
    bytes.copy_within(..8 << 20, 8 << 20);
    fs::write(db, bytes).unwrap();
}

#[test]
fn every_row_of_the_table_is_as_it_says() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = [Found::RecordBad, Found::RecordNewer, Found::Diverged];
    let rows = TABLE.iter().filter(|row| !elsewhere.contains(&row.found));
    for row in rows {
        for clean in [true, false] {
            let dir = root.path().join(format!("{:?}-{clean}", row.found));
            log_of(&dir, FRAMES);
            if !clean {
                forge(&dir.join(witness::FILE), 4096, 10, &[0]);
            }
            damage(&dir, row.found);
            let before = dir.exists().then(|| tree(&dir));
            let opened = OpenOptions { init: false, ..COORDINATOR }.open(&dir);
            let verdict = if clean { row.after_clean_stop } else { row.after_kill };
            match (verdict, opened) {
                (Verdict::Refuse(class), Err(error)) => {
                    let got = (error.found(), error.class());
                    assert_eq!(got, (Some(row.found), class), "{error}");
                    assert_eq!(dir.exists().then(|| tree(&dir)), before, "{error}");
                    let text = error.to_string();
                    if class == ErrorClass::Damaged {
                        assert!(text.contains("unanimous log verify --data-dir"), "{text}");
                        assert!(
                            !matches!(row.found, Found::FrameMissing | Found::FrameChecksum)
                                || text.contains("frame 3"),
                            "{text}"
                        );
                    }
                }
                (Verdict::Normal, Ok(opened)) => assert_eq!(opened.report().unwitnessed, 0),
                (Verdict::Counted, Ok(opened)) => assert_eq!(opened.report().unwitnessed, 1),
                (verdict, opened) => {
                    panic!("{:?} clean {clean}: {verdict:?}, {opened:?}", row.found)
                }
            }
        }
    }
}

/// Which version it is, and which this program has.
#[test]
fn s_12_a_newer_log_is_refused_unchanged_with_both_versions() {
    let root = tempfile::tempdir().unwrap();
    for found in [Found::IdentityNewer, Found::WitnessNewer, Found::FrameNewer] {
        let dir = root.path().join(format!("{found:?}"));
        log_of(&dir, FRAMES);
        damage(&dir, found);
        let before = tree(&dir);
        let error = OpenOptions { init: false, ..COORDINATOR }.open(&dir).unwrap_err();
        assert_eq!((error.found(), error.class()), (Some(found), ErrorClass::NewerFormat));
        let words = error.to_string();
        assert!(words.contains("version 2") || words.contains("format 2"), "{words}");
        assert!(words.contains("reads up to 1"), "{words}");
        assert_eq!(tree(&dir), before, "{words}");
    }
}

#[test]
fn a_clean_stop_and_a_kill_keep_every_record_over_many_lives() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().join("0");
    let mut count = 0;
    for life in 1..=6 {
        let opened =
            OpenOptions { init: life == 1, moved: true, ..COORDINATOR }.open(&dir).unwrap();
        assert_eq!(records(&opened), expected(count));
        assert_eq!(opened.report().clean, life % 2 == 1, "life {life}");
        assert_eq!((opened.report().records, opened.next_lsn()), (count, Lsn(count + 1)));
        assert_eq!(generations(&dir).unwrap().len(), 1, "the old generation is gone");
        let id = opened.id();
        let writer = append(opened, count..count + 7);
        count += 7;
        if life % 2 == 0 {
            writer.close().unwrap();
        } else {
            let copy = killed(&dir, &root.path().join(life.to_string()));
            drop(writer);
            dir = copy;
        }
        assert_eq!(Identity::read(&dir).unwrap().id, id);
    }
}

#[test]
fn a_moved_directory_keeps_its_incarnation_and_a_copied_one_draws_another() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy) = (root.path().join("a"), root.path().join("b"));
    log_of(&dir, FRAMES);
    let id = Identity::read(&dir).unwrap().id;
    killed(&dir, &copy);
    let before = tree(&copy);
    let error = COORDINATOR.open(&copy).unwrap_err();
    assert_eq!(error.class(), ErrorClass::MovedOrCopied);
    assert_eq!(tree(&copy), before);
    let opened = MOVED.open(&copy).unwrap();
    assert_eq!((opened.id(), records(&opened)), (id, expected(FRAMES)));
    drop(opened);
    let opened = OpenOptions { copied: true, ..COORDINATOR }.open(&copy).unwrap();
    assert_ne!(opened.id().incarnation, id.incarnation);
    assert_eq!(records(&opened), expected(FRAMES));
    let id = opened.id();
    drop(opened);
    assert_eq!(COORDINATOR.open(&copy).unwrap().id(), id);
}

/// The witness already has the new incarnation, the identity not yet.
#[test]
fn an_interrupted_copied_is_asked_again_and_then_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy) = (root.path().join("a"), root.path().join("b"));
    log_of(&dir, FRAMES);
    killed(&dir, &copy);
    let identity = fs::read(copy.join(identity::FILE)).unwrap();
    drop(OpenOptions { copied: true, ..COORDINATOR }.open(&copy).unwrap());
    fs::write(copy.join(identity::FILE), identity).unwrap();
    assert_eq!(COORDINATOR.open(&copy).unwrap_err().class(), ErrorClass::MovedOrCopied);
    let opened = OpenOptions { copied: true, ..COORDINATOR }.open(&copy).unwrap();
    assert_eq!(records(&opened), expected(FRAMES));
}

#[test]
fn s_13_the_second_one_is_refused_at_once_and_the_first_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let opened = COORDINATOR.open(&dir).unwrap();
    assert_eq!(COORDINATOR.open(&dir).unwrap_err(), OpenError::InUse(dir.clone()));
    append(opened, 0..3).close().unwrap();
    assert_eq!(records(&COORDINATOR.open(&dir).unwrap()), expected(3));
}

#[test]
fn a_directory_is_made_only_when_asked_for_and_only_out_of_nothing() {
    let root = tempfile::tempdir().unwrap();
    let no_init = OpenOptions { init: false, ..COORDINATOR };
    for name in ["missing", "empty"] {
        let dir = root.path().join(name);
        if name == "empty" {
            fs::create_dir(&dir).unwrap();
        }
        assert_eq!(no_init.open(&dir).unwrap_err().class(), ErrorClass::NotInitialised);
        assert_eq!(dir.exists(), name == "empty");
        assert_eq!(COORDINATOR.open(&dir).unwrap().report().generation, 1);
        assert_eq!(no_init.open(&dir).unwrap().report().generation, 2);
    }
    let foreign = root.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter.txt"), "dear").unwrap();
    assert_eq!(COORDINATOR.open(&foreign).unwrap_err().class(), ErrorClass::Foreign);
    assert_eq!(tree(&foreign).len(), 1);
    let file = root.path().join("missing/identity");
    assert_eq!(COORDINATOR.open(&file).unwrap_err().class(), ErrorClass::Io);
}

#[test]
fn a_half_made_directory_is_made_again_only_with_init() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    log_of(&dir, 1);
    fs::remove_file(dir.join(identity::FILE)).unwrap();
    File::create(dir.join(INITIALISING)).unwrap();
    let no_init = OpenOptions { init: false, ..COORDINATOR };
    assert_eq!(no_init.open(&dir).unwrap_err().class(), ErrorClass::NotInitialised);
    assert!(log_dir(&dir, 1).exists());
    assert_eq!(COORDINATOR.open(&dir).unwrap().report().records, 0);
    assert!(!dir.join(INITIALISING).exists());
}

#[test]
fn leftovers_of_an_interrupted_open_stay_on_refusal_and_go_on_success() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    log_of(&dir, FRAMES);
    killed(&log_dir(&dir, 1), &log_dir(&dir, 2));
    let before = tree(&dir);
    assert!(OpenOptions { kind: LogKind::Accounts, ..COORDINATOR }.open(&dir).is_err());
    forge(&dir.join(witness::FILE), 4096, 46, &[1, 2, 3, 4]);
    let damaged = tree(&dir);
    assert!(COORDINATOR.open(&dir).is_err());
    assert_eq!(tree(&dir), damaged);
    fs::write(dir.join(witness::FILE), before[&dir.join(witness::FILE)].as_ref().unwrap()).unwrap();
    let opened = COORDINATOR.open(&dir).unwrap();
    assert_eq!(records(&opened), expected(FRAMES));
    assert_eq!(generations(&dir).unwrap(), vec![(3, log_dir(&dir, 3))]);
}

#[test]
fn the_stored_start_of_the_chain_is_honoured_with_and_without_the_frames_below() {
    for interrupted in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("log");
        log_of(&dir, FRAMES);
        edit_store(&dir, |store| {
            let stored: Vec<_> = store.frames().map(|frame| frame.unwrap().1).collect();
            let start = ChainStart { number: 4, previous_crc: frame_crc(&stored[2]), first_lsn: 4 };
            store.put_start(start).unwrap();
            for below in [1, 3].into_iter().chain((!interrupted).then_some(2)) {
                store.remove_frame(below);
            }
        });
        let opened = COORDINATOR.open(&dir).unwrap();
        assert_eq!(records(&opened), expected(FRAMES)[3..]);
        let report = opened.report().clone();
        assert_eq!((report.frames, report.records, opened.last_frame().0), (3, 3, FRAMES));
        append(opened, FRAMES..FRAMES + 2).close().unwrap();
        assert_eq!(records(&COORDINATOR.open(&dir).unwrap()), expected(FRAMES + 2)[3..]);
    }
}

/// A kill between storing the start and dropping the frames below it leaves them.
#[test]
fn frames_below_the_start_of_the_chain_are_not_read_and_all_others_are() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = COORDINATOR.open(&root.path().join("log")).unwrap();
    let first = ChainStart { number: 1, previous_crc: 7, first_lsn: 1 };
    let store = Memory::of(first, 4);
    opened.start =
        ChainStart { number: 3, previous_crc: frame_crc(&store.frames[1]), first_lsn: 3 };
    opened.legs[0].store = Box::new(store);
    assert_eq!(records(&opened), expected(4)[2..]);
}
