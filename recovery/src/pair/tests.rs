use super::*;
use crate::frame::Frame;
use crate::testing::{COORDINATOR, MOVED, append, edit_store, edit_witness, killed, record, tree};
use crate::{DirectoryState, inspect};
use DirectoryState::{GivenUp, Good, Rebuilt};
use std::fs;
use std::time::Duration;

mod damage;
mod steps;
mod writing;

const FRAMES: u64 = 6;
pub(super) const PAIRED: OpenOptions = OpenOptions { init: false, ..MOVED };

pub(super) fn pair(root: &Path) -> [PathBuf; 2] {
    [root.join("a"), root.join("b")]
}

fn records(opened: &OpenedLog) -> Vec<Vec<u8>> {
    opened.records().map(|record| record.unwrap().bytes).collect()
}

fn states(opened: &OpenedLog) -> [DirectoryState; 2] {
    [0, 1].map(|index| opened.report().directories[index].state)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Good,
    Behind,
    Damaged,
    Missing,
    Alone,
    Diverged,
}

const CASES: [Case; 6] =
    [Case::Good, Case::Behind, Case::Damaged, Case::Missing, Case::Alone, Case::Diverged];

/// Images of one pair as a kill leaves it: with one frame less, and with all and witnessed.
struct Images {
    behind: PathBuf,
    whole: PathBuf,
}

impl Images {
    fn make(root: &Path) -> Self {
        let [a, b] = pair(&root.join("live"));
        let opened = COORDINATOR.open_pair(&a, &b).unwrap();
        assert_eq!(states(&opened), [Good, Good]);
        append(opened, 0..FRAMES - 1).close().unwrap();
        let behind = killed(&root.join("live"), &root.join("behind"));
        let opened = PAIRED.open_pair(&a, &b).unwrap();
        append(opened, FRAMES - 1..FRAMES).close().unwrap();
        let whole = killed(&root.join("live"), &root.join("whole"));
        for dir in pair(&behind).iter().chain(&pair(&whole)) {
            edit_witness(dir, |witness| witness.clean = false);
        }
        Self { behind, whole }
    }

    fn place(&self, case: Case, name: &str, to: &Path) {
        let from =
            if matches!(case, Case::Behind | Case::Diverged) { &self.behind } else { &self.whole };
        let dir = to.join(name);
        if case != Case::Missing {
            killed(&from.join(name), &dir);
        }
        match case {
            Case::Good | Case::Behind | Case::Missing => {}
            Case::Damaged => edit_store(&dir, |store| store.remove_frame(3)),
            Case::Alone => edit_witness(&dir, |witness| witness.alone = true),
            Case::Diverged => {
                let previous_crc = Witness::read(&dir).unwrap().frame_crc;
                let (number, records) = (FRAMES, vec![record(99)]);
                let frame = Frame { number, first_lsn: FRAMES, unix_ms: 1, previous_crc, records };
                edit_store(&dir, |store| store.put(&FRAMES.to_be_bytes(), &frame.encode()));
            }
        }
    }
}

/// What an open without a flag does: the states and whose records, or the refusal.
fn expected(a: Case, b: Case) -> Result<([DirectoryState; 2], Case), ErrorClass> {
    use Case::{Alone, Behind, Damaged, Diverged, Missing};
    match (a, b) {
        (Missing, Missing) => Err(ErrorClass::NotInitialised),
        (Missing, Damaged) => Err(ErrorClass::NotInitialised),
        (Damaged, Missing | Damaged) => Err(ErrorClass::Damaged),
        (Missing, _) | (_, Missing) => Err(ErrorClass::PairIncomplete),
        (Alone, Alone) => Err(ErrorClass::Damaged),
        (Alone, _) => Ok(([Good, Rebuilt], Case::Good)),
        (_, Alone) => Ok(([Rebuilt, Good], Case::Good)),
        (Damaged, Behind | Diverged) | (Behind | Diverged, Damaged) => Err(ErrorClass::Damaged),
        (Damaged, Case::Good) => Ok(([Rebuilt, Good], Case::Good)),
        (Case::Good, Damaged) => Ok(([Good, Rebuilt], Case::Good)),
        (Case::Good, Diverged) | (Diverged, Case::Good) => Err(ErrorClass::Damaged),
        (Behind, Diverged) => Ok(([Rebuilt, Good], Diverged)),
        (Diverged, Behind) => Ok(([Good, Rebuilt], Diverged)),
        (Behind, Case::Good) => Ok(([Rebuilt, Good], Case::Good)),
        (Case::Good, Behind) => Ok(([Good, Rebuilt], Case::Good)),
        (Case::Good, Case::Good) | (Behind, Behind) | (Diverged, Diverged) => Ok(([Good, Good], a)),
    }
}

fn records_of(case: Case) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = (0..FRAMES).map(record).collect();
    match case {
        Case::Behind => all.truncate(5),
        Case::Diverged => all[5] = record(99),
        _ => {}
    }
    all
}

#[test]
fn every_two_directories_are_opened_or_refused_as_the_table_says() {
    let root = tempfile::tempdir().unwrap();
    let images = Images::make(root.path());
    for (a, b) in CASES.iter().flat_map(|a| CASES.map(|b| (*a, b))) {
        let here = root.path().join(format!("{a:?}-{b:?}"));
        fs::create_dir(&here).unwrap();
        images.place(a, "a", &here);
        images.place(b, "b", &here);
        let (before, [first, second]) = (tree(&here), pair(&here));
        match (expected(a, b), PAIRED.open_pair(&first, &second)) {
            (Err(class), Err(error)) => {
                assert_eq!(error.class(), class, "{a:?} {b:?}: {error}");
                assert!(tree(&here) == before, "{a:?} {b:?}: {error}");
            }
            (Ok((expected, whose)), Ok(opened)) => {
                assert_eq!(states(&opened), expected, "{a:?} {b:?}");
                assert_eq!(records(&opened), records_of(whose), "{a:?} {b:?}");
                let details = opened.report().directories.iter().map(|one| !one.detail.is_empty());
                assert_eq!(details.collect::<Vec<_>>(), expected.map(|state| state == Rebuilt));
                let kept = [a, b].map(|case| case == Case::Damaged);
                assert_eq!([&first, &second].map(|dir| has_kept(dir)), kept, "{a:?} {b:?}");
                drop(opened);
                for dir in [&first, &second] {
                    let stored = inspect::read_records(dir).unwrap();
                    let bytes: Vec<_> = stored.into_iter().map(|stored| stored.bytes).collect();
                    assert_eq!(bytes, records_of(whose), "{a:?} {b:?}");
                    assert!(!Witness::read(dir).unwrap().alone, "{a:?} {b:?}");
                }
                let again = PAIRED.open_pair(&first, &second).unwrap();
                assert_eq!(states(&again), [Good, Good], "{a:?} {b:?}");
            }
            (expected, opened) => panic!("{a:?} {b:?}: {expected:?}, {opened:?}"),
        }
        fs::remove_dir_all(&here).unwrap();
    }
}

fn has_kept(dir: &Path) -> bool {
    let entries = files::entries(dir).unwrap();
    entries.iter().any(|(path, _)| path.to_string_lossy().contains(KEPT_PREFIX))
}

#[test]
fn a_missing_directory_is_made_anew_or_gone_without_only_when_the_operator_says_so() {
    let root = tempfile::tempdir().unwrap();
    let images = Images::make(root.path());
    for missing in [0, 1] {
        let here = root.path().join(format!("missing-{missing}"));
        fs::create_dir(&here).unwrap();
        let dirs = pair(&here);
        images.place(Case::Good, if missing == 0 { "b" } else { "a" }, &here);
        let other = &dirs[1 - missing];
        let open = |options: OpenOptions| options.open_pair(&dirs[0], &dirs[1]);
        let alone = OpenOptions { degraded: true, ..PAIRED };
        assert_eq!(PAIRED.open(other).unwrap_err().class(), ErrorClass::PairIncomplete);
        let opened = open(alone).unwrap();
        let mut expected = [Good, Good];
        expected[missing] = GivenUp;
        assert_eq!(states(&opened), expected);
        assert!(Witness::read(other).unwrap().alone, "durable before anything is written");
        append(opened, FRAMES..FRAMES + 2).close().unwrap();
        // The one that was away comes back as it was: stale.
        images.place(Case::Good, if missing == 0 { "a" } else { "b" }, &here);
        let opened = open(PAIRED).unwrap();
        expected[missing] = Rebuilt;
        assert_eq!(states(&opened), expected);
        assert_eq!(records(&opened), (0..FRAMES + 2).map(record).collect::<Vec<_>>());
        drop(opened);
        fs::remove_dir_all(&dirs[missing]).unwrap();
        let opened = open(OpenOptions { rebuild: true, ..PAIRED }).unwrap();
        assert_eq!(states(&opened), expected);
        append(opened, FRAMES + 2..FRAMES + 3).close().unwrap();
        let opened = open(PAIRED).unwrap();
        assert_eq!((states(&opened), records(&opened).len()), ([Good, Good], 9));
        drop(opened);
        let opened = OpenOptions { degraded: true, ..PAIRED }.open(other).unwrap();
        assert!(Witness::read(other).unwrap().alone);
        drop(opened);
    }
}

#[test]
fn two_logs_are_not_a_pair_and_a_foreign_directory_is_never_touched() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = pair(root.path());
    crate::testing::log_of(&a, 3);
    crate::testing::log_of(&b, 3);
    let before = tree(root.path());
    let options = OpenOptions { rebuild: true, degraded: true, ..PAIRED };
    let error = options.open_pair(&a, &b).unwrap_err();
    assert_eq!(error.found(), Some(Found::Diverged), "{error}");
    assert!(tree(root.path()) == before);
    fs::remove_dir_all(&b).unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(b.join("letter.txt"), "dear").unwrap();
    let rebuild = OpenOptions { rebuild: true, ..PAIRED };
    let error = rebuild.open_pair(&a, &b).unwrap_err();
    assert_eq!(error.class(), ErrorClass::PairIncomplete, "{error}");
    assert_eq!(fs::read_to_string(b.join("letter.txt")).unwrap(), "dear");
    fs::remove_dir_all(&b).unwrap();
    let opened = rebuild.open_pair(&a, &b).unwrap();
    assert_eq!((states(&opened), records(&opened).len()), ([Good, Rebuilt], 3));
    assert!(opened.report().elapsed < Duration::from_secs(60));
    drop(opened);
    let error = PAIRED.open(&a).unwrap_err();
    assert_eq!(error.class(), ErrorClass::PairIncomplete, "from now on it is one of two: {error}");
}

/// `init` makes a log where none was, and never one half of a pair that was written to.
#[test]
fn init_makes_a_missing_directory_only_of_a_pair_that_was_never_written_to() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = pair(root.path());
    drop(COORDINATOR.open_pair(&a, &b).unwrap());
    fs::remove_dir_all(&b).unwrap();
    let error = PAIRED.open_pair(&a, &b).unwrap_err();
    assert_eq!(error.class(), ErrorClass::PairIncomplete, "without init: {error}");
    let opened = COORDINATOR.open_pair(&a, &b).unwrap();
    assert_eq!(states(&opened), [Good, Rebuilt]);
    append(opened, 0..1).close().unwrap();
    fs::remove_dir_all(&b).unwrap();
    let error = COORDINATOR.open_pair(&a, &b).unwrap_err();
    assert_eq!(error.class(), ErrorClass::PairIncomplete, "it was written to: {error}");
    assert!(!b.exists());
}

/// A damaged directory's files are for whoever wants to know: what happens later leaves them.
#[test]
fn what_was_kept_of_a_damaged_directory_outlives_being_behind() {
    let root = tempfile::tempdir().unwrap();
    let images = Images::make(&root.path().join("images"));
    images.place(Case::Good, "a", root.path());
    images.place(Case::Behind, "b", root.path());
    let [a, b] = pair(root.path());
    let kept = b.join(format!("{KEPT_PREFIX}00000001"));
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("identity"), "what there was").unwrap();
    fs::write(b.join("stray"), "of no log").unwrap();
    let opened = PAIRED.open_pair(&a, &b).unwrap();
    assert_eq!(states(&opened), [Good, Rebuilt]);
    assert_eq!(fs::read_to_string(kept.join("identity")).unwrap(), "what there was");
    assert!(!b.join("stray").exists() && !b.join(REBUILDING).exists());
}
