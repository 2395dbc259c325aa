use super::*;
use crate::damage::ErrorClass;
use crate::frame::{Frame, frame_crc};
use crate::identity::LogKind;
use crate::testing::{COORDINATOR, edit_store, edit_witness, log_of, record, tree};

const ID: LogId = LogId { cluster: 1, slot: 2, incarnation: 3 };

fn witness(id: LogId) -> Witness {
    let (frame, frame_crc, clean, alone) = (0, 0, false, false);
    Witness { sequence: 1, id, generation: 1, frame, frame_crc, clean, alone }
}

#[test]
fn a_witness_of_another_log_is_refused_and_of_another_incarnation_unless_any_will_do() {
    let root = tempfile::tempdir().unwrap();
    let (kind, place) = (LogKind::Coordinator, Place::of(root.path()).unwrap());
    let identity = Identity { kind, id: ID, place, pair: false };
    let other = LogId { incarnation: 4, ..ID };
    for (id, any_incarnation, is_ours) in [
        (ID, false, true),
        (ID, true, true),
        (other, false, false),
        (other, true, true),
        (LogId { cluster: 9, ..ID }, false, false),
        (LogId { cluster: 9, ..ID }, true, false),
        (LogId { slot: 9, ..ID }, true, false),
        (LogId { slot: 9, ..other }, true, false),
    ] {
        let checked = check_witness_id(root.path(), &identity, &witness(id), any_incarnation);
        let found = checked.err().and_then(|error| error.found());
        let expected = (!is_ours).then_some(Found::WitnessForeign);
        assert_eq!(found, expected, "{id:?}, any incarnation: {any_incarnation}");
    }
}

/// The store would make an empty log of it, and every decision would be lost.
#[test]
fn a_log_without_a_volume_or_with_one_that_has_no_file_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let log = log_dir(root.path(), 1);
    let found = || check_log_is_there(root.path(), &log).err().and_then(|error| error.found());
    assert_eq!(found(), Some(Found::LogMissing));
    fs::create_dir(&log).unwrap();
    assert_eq!(found(), Some(Found::LogMissing), "no volume");
    for volume in ["volume-00000001", "volume-00000002"].map(|name| log.join(name)) {
        fs::create_dir(&volume).unwrap();
        assert_eq!(found(), Some(Found::LogMissing), "no file in {}", volume.display());
        fs::write(volume.join("db"), b"frames").unwrap();
        assert_eq!(found(), None);
    }
}

/// An operator's mount point has a directory of the file system's own.
#[test]
fn what_an_interrupted_creation_made_goes_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    for name in ["log-00000001", "log-00000002", "lost+found"] {
        fs::create_dir_all(dir.join(name).join("below")).unwrap();
    }
    for name in ["witness", "identity.tmp", "reserve", INITIALISING] {
        fs::write(dir.join(name), name).unwrap();
    }
    clear_half_made(dir).unwrap();
    let left: Vec<PathBuf> =
        ["initialising", "log-00000002", "lost+found", "reserve"].map(|name| dir.join(name)).into();
    let entries = files::entries(dir).unwrap().into_iter();
    assert_eq!(entries.map(|(path, _)| path).collect::<Vec<_>>(), left);
}

/// Without it a crash leaves a directory that nobody dares to make anew.
#[test]
fn a_mark_is_there_until_it_is_removed_and_one_that_stays_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    remove_marks(dir).unwrap();
    for name in [INITIALISING, REBUILDING] {
        mark(dir, name).unwrap();
        assert_eq!(tree(dir).into_values().collect::<Vec<_>>(), [Some(Vec::new())]);
        assert!(dir.join(name).is_file());
        remove_marks(dir).unwrap();
        assert!(tree(dir).is_empty());
        fs::create_dir(dir.join(name)).unwrap();
        assert_eq!(remove_marks(dir).unwrap_err().class(), ErrorClass::Io);
        fs::remove_dir(dir.join(name)).unwrap();
    }
    assert_eq!(mark(&dir.join("missing"), REBUILDING).unwrap_err().class(), ErrorClass::Io);
}

/// What it found beyond the witness is durable: losing it later is damage. And a log that is in one
/// directory is not half of a pair.
#[test]
fn an_open_witnesses_all_that_it_found_and_a_log_by_itself_is_not_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    log_of(&dir, 1);
    let before = Witness::read(&dir).unwrap();
    let (previous_crc, records) = (before.frame_crc, vec![record(1)]);
    let frame = Frame { number: 2, first_lsn: 2, unix_ms: 1, previous_crc, records }.encode();
    edit_store(&dir, |store| store.put(&2_u64.to_be_bytes(), &frame));
    edit_witness(&dir, |witness| witness.clean = false);
    let opened = COORDINATOR.open(&dir).unwrap();
    assert_eq!(opened.report().unwitnessed, 1);
    drop(opened);
    let after = Witness::read(&dir).unwrap();
    assert_eq!((after.frame, after.frame_crc), (2, frame_crc(&frame)));
    assert_eq!((after.generation, after.clean, after.alone), (2, false, false));
    assert!(!Identity::read(&dir).unwrap().pair);
}
