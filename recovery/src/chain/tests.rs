use super::*;
use crate::testing::Memory;
use std::fs;
use unanimous_core::LogId;

const START: ChainStart = ChainStart { number: 1, previous_crc: 7, first_lsn: 1 };
const WITNESS: Witness = Witness {
    sequence: 9,
    id: LogId { cluster: 1, slot: 2, incarnation: 3 },
    generation: 4,
    frame: 0,
    frame_crc: START.previous_crc,
    clean: false,
    alone: false,
};

#[test]
fn frames_beyond_the_witness_are_counted_after_a_kill_and_refused_after_a_clean_stop() {
    let (dir, store) = (Path::new("nowhere"), Memory::of(START, 3));
    for (frame, beyond) in [(0, 3), (1, 2), (3, 0)] {
        let before = usize::try_from(frame).unwrap().checked_sub(1);
        let frame_crc = before.map_or(START.previous_crc, |index| frame_crc(&store.frames[index]));
        let witness = Witness { frame, frame_crc, ..WITNESS };
        let mut taken = 0;
        let take = |_: Frame| {
            taken += 1;
            Ok(())
        };
        assert_eq!(check(dir, &store, &witness, take).unwrap().unwitnessed, beyond);
        assert_eq!(taken, 3);
        let clean = Witness { clean: true, ..witness };
        let checked = check(dir, &store, &clean, |_| Ok(()));
        let found = checked.as_ref().err().and_then(OpenError::found);
        assert_eq!(found, (beyond > 0).then_some(Found::FramesBeyondWitness));
        let words = checked.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!words.contains("cannot be read"), "{words}");
    }
}

/// Whoever looks for what is left of a lost record begins there.
#[test]
fn a_log_that_ends_too_early_names_the_place_from_which_on_it_cannot_be_read() {
    let root = tempfile::tempdir().unwrap();
    let volume = log_dir(root.path(), WITNESS.generation).join("volume-00000001");
    fs::create_dir_all(&volume).unwrap();
    let store = Memory::of(START, 3);
    let bytes = [b"UNFR and more", &store.frames[2][..], b" and UNF what was torn"].concat();
    fs::write(volume.join("db"), bytes).unwrap();
    let witness = Witness { frame: 5, ..WITNESS };
    let error = check(root.path(), &store, &witness, |_| Ok(())).unwrap_err();
    assert_eq!(error.found(), Some(Found::EndsBeforeWitness));
    let (path, offset) = (volume.join("db"), 13 + store.frames[2].len());
    let place = format!("LSN 4 cannot be read, after file {} offset {offset}", path.display());
    assert!(error.to_string().contains(&place), "{place}: {error}");
    assert!(error.to_string().contains("frame 3, its witness says 5"), "{error}");
}

#[test]
fn the_readable_end_is_that_of_the_last_whole_frame_in_the_newest_file_that_has_one() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path();
    assert_eq!(readable_end(log, b"frame"), (log.to_owned(), 0));
    let file = |number: u64| log.join(format!("volume-{number:08}/db"));
    for (first, second, last_frame, expected) in [
        ("frame", "", "frame", (1, 5)),
        ("frame..frame!frame", "", "frame", (1, 18)),
        ("frame..frame!fram", "", "frame", (1, 12)),
        ("frame", "xfframe", "frame", (2, 7)),
        ("frame", "of no use", "frame", (1, 5)),
        ("of", "no use", "frame", (1, 0)),
        ("frame", "frame", "", (1, 0)),
        ("x", "fffr", "ffr", (2, 4)),
    ] {
        for (number, bytes) in [(1, first), (2, second)] {
            fs::create_dir_all(file(number).parent().unwrap()).unwrap();
            fs::write(file(number), bytes).unwrap();
        }
        let (number, end) = expected;
        let found = readable_end(log, last_frame.as_bytes());
        assert_eq!(found, (file(number), end), "{last_frame:?} in {first:?} and {second:?}");
    }
}
