//! One step of an open at a time, on a small log or on none.

use super::*;
use crate::identity::{Identity, LogKind, Place};
use crate::store::ChainStart;
use crate::testing::{Memory, log_of};

const ROLE: Role = Role { paired: true, incarnation: None };
const HERE: OpenOptions = OpenOptions { init: false, ..COORDINATOR };
const ID: LogId = LogId { cluster: 1, slot: 2, incarnation: 3 };

/// A log of this many frames, which lies in both directories.
fn twice(root: &Path, frames: u64) -> [PathBuf; 2] {
    let [a, b] = pair(root);
    log_of(&a, frames);
    killed(&a, &b);
    [a, b]
}

fn good(dir: &Path) -> super::super::Good {
    let lock = DirLock::take(dir, true).unwrap();
    super::super::Good { examined: Box::new(Examined::of(&PAIRED, dir, ROLE).unwrap()), lock }
}

/// What is no log may be the mount point of another disk; what another open mends is not damage.
/// Neither is made anew.
#[test]
fn only_a_damaged_log_is_damaged_and_a_foreign_one_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let side = |options: OpenOptions, dir: &Path| match options.side(dir, ROLE) {
        Ok(Side::Good(_)) => "good".to_owned(),
        Ok(Side::Damaged(_)) => "damaged".to_owned(),
        Ok(Side::Missing { empty, .. }) => format!("missing, empty: {empty}"),
        Err(error) => format!("{:?}", error.class()),
    };
    assert_eq!(side(HERE, &dir.join("nowhere")), "missing, empty: true");
    assert_eq!(side(HERE, dir), "missing, empty: true");
    fs::write(dir.join("letter.txt"), "dear").unwrap();
    assert_eq!(side(HERE, dir), "missing, empty: false");
    assert_eq!(side(HERE, &dir.join("letter.txt")), "Io", "it cannot be listed");
    let (kind, place) = (LogKind::Coordinator, Place::of(dir).unwrap());
    Identity { kind, id: ID, place, pair: true }.write(dir).unwrap();
    assert_eq!(side(HERE, dir), "damaged", "it has no witness");
    let accounts = OpenOptions { kind: LogKind::Accounts, ..HERE };
    assert_eq!(side(accounts, dir), "missing, empty: false");
    let elsewhere = dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(dir.join(identity::FILE), elsewhere.join(identity::FILE)).unwrap();
    assert_eq!(side(HERE, &elsewhere), "MovedOrCopied");
}

#[test]
fn one_log_has_one_cluster_and_slot_whatever_its_incarnation() {
    for (other, same) in [
        (ID, true),
        (LogId { incarnation: 9, ..ID }, true),
        (LogId { cluster: 9, ..ID }, false),
        (LogId { slot: 9, ..ID }, false),
    ] {
        assert_eq!(is_same(ID, other), same, "{other:?}");
    }
}

/// The frames are the same: one of the two was copied and has written as another log since.
#[test]
fn two_incarnations_of_one_log_are_two_logs() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = twice(root.path(), 1);
    edit_witness(&b, |witness| witness.id.incarnation ^= 1);
    let mut identity = Identity::read(&b).unwrap();
    identity.id.incarnation ^= 1;
    identity.write(&b).unwrap();
    let error = between_good(good(&a), good(&b), false).map(|_| ()).unwrap_err();
    assert_eq!(error.found(), Some(Found::Diverged), "{error}");
}

/// Which one wins, whether the other one is as good, and whether they changed places.
fn between(
    dirs: &[PathBuf; 2],
    change: impl FnOnce(&mut Examined, &mut Examined),
) -> Result<(usize, bool), Option<Found>> {
    let [mut a, mut b] = [good(&dirs[0]), good(&dirs[1])];
    change(&mut a.examined, &mut b.examined);
    let (winner, other, swapped) = between_good(a, b, false).map_err(|error| error.found())?;
    let index = usize::from(winner.examined.dir == dirs[1]);
    assert_eq!(swapped, index == 1);
    Ok((index, matches!(other, Other::Good(_))))
}

/// A log that ends one frame earlier, with this as that frame's checksum.
fn shorten(side: &mut Examined, last_crc: u32) {
    side.checked.chain.next_number -= 1;
    side.checked.chain.last_crc = last_crc;
}

#[test]
fn of_two_good_ones_the_first_wins_unless_the_other_has_more() {
    let root = tempfile::tempdir().unwrap();
    let dirs = twice(root.path(), 2);
    let frames: Vec<_> = good(&dirs[0]).examined.store.frames().map(|f| f.unwrap().1).collect();
    let (first, wrong) = (frame_crc(&frames[0]), frame_crc(&frames[0]) ^ 1);
    assert_eq!(between(&dirs, |_, _| ()), Ok((0, true)), "they are the same");
    assert_eq!(between(&dirs, |_, b| shorten(b, first)), Ok((0, false)));
    assert_eq!(between(&dirs, |a, _| shorten(a, first)), Ok((1, false)));
    let diverged = Err(Some(Found::Diverged));
    assert_eq!(between(&dirs, |_, b| shorten(b, wrong)), diverged);
    assert_eq!(between(&dirs, |a, _| shorten(a, wrong)), diverged);
    assert_eq!(between(&dirs, |_, b| b.checked.chain.last_crc ^= 1), diverged);
    let went_on = |a: &mut Examined, b: &mut Examined| {
        shorten(a, wrong);
        b.last.alone = true;
    };
    assert_eq!(between(&dirs, went_on), Ok((1, false)), "the other one's frames are of no use");
    let shorter = |a: &mut Examined, _: &mut Examined| {
        shorten(a, first);
        a.last.alone = true;
    };
    assert_eq!(between(&dirs, shorter), Ok((0, false)), "what it told is in it alone");
}

#[test]
fn a_frames_checksum_is_known_from_the_one_before_the_start_on() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    log_of(&dir, 5);
    let mut side = Examined::of(&PAIRED, &dir, ROLE).unwrap();
    let crcs: Vec<_> = side.store.frames().map(|f| Some(frame_crc(&f.unwrap().1))).collect();
    let previous_crc = crcs[1].unwrap();
    // As after a drop that a kill interrupted: the first two frames are still stored.
    side.checked.start = ChainStart { number: 3, previous_crc, first_lsn: 3 };
    side.checked.chain.last_crc ^= 1;
    let last = Some(side.checked.chain.last_crc);
    let expected = [None, None, crcs[1], crcs[2], crcs[3], last, None];
    for (number, expected) in (0..).zip(expected) {
        assert_eq!(crc_at(&side, number), Ok(expected), "frame {number}");
    }
}

/// A damaged directory is made anew only from one that has all it was ever seen to have.
#[test]
fn a_log_reaches_the_others_witness_if_it_has_the_frame_that_it_saw() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    log_of(&dir, 3);
    let good = Examined::of(&PAIRED, &dir, ROLE).unwrap();
    let crcs: Vec<_> = good.store.frames().map(|f| frame_crc(&f.unwrap().1)).collect();
    for (frame, frame_crc, expected) in [
        (1, crcs[0], None),
        (1, crcs[0] ^ 1, Some(Found::Diverged)),
        (2, crcs[1], None),
        (3, crcs[2], None),
        (3, crcs[2] ^ 1, Some(Found::Diverged)),
        (4, crcs[2], Some(Found::EndsBeforeWitness)),
        (5, 0, Some(Found::EndsBeforeWitness)),
    ] {
        let witness = Witness { frame, frame_crc, ..good.last };
        let found = reaches(&good, &witness).err().and_then(|error| error.found());
        assert_eq!(found, expected, "frame {frame}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let below = tree(dir).into_keys();
    below.map(|path| path.strip_prefix(dir).unwrap().display().to_string()).collect()
}

/// A half-replaced directory, with what an earlier one left.
fn litter(dir: &Path) {
    for below in ["log-00000001", "damaged-00000001"] {
        fs::create_dir_all(dir.join(below)).unwrap();
        fs::write(dir.join(below).join("db"), "frames").unwrap();
    }
    for name in ["identity", "rebuilding", "reserve", "witness"] {
        fs::write(dir.join(name), name).unwrap();
    }
}

#[test]
fn a_damaged_directorys_own_files_are_set_aside_and_the_mark_stays() {
    let root = tempfile::tempdir().unwrap();
    litter(root.path());
    let kept = root.path().join("damaged-00000007");
    set_aside(root.path(), &kept).unwrap();
    let entries = files::entries(root.path()).unwrap().into_iter();
    let left = [kept.clone(), root.path().join(REBUILDING)];
    assert_eq!(entries.map(|(path, _)| path).collect::<Vec<_>>(), left);
    assert_eq!(names(&kept), ["identity", "log-00000001", "log-00000001/db", "witness"]);
}

/// The mark says that what is missing may be made anew.
#[test]
fn where_room_is_needed_all_but_the_mark_goes() {
    let root = tempfile::tempdir().unwrap();
    litter(root.path());
    clear_to_the_mark(root.path()).unwrap();
    assert_eq!(names(root.path()), ["rebuilding"]);
}

#[test]
fn an_identity_is_gone_or_it_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(identity::FILE);
    fs::write(&path, "whose").unwrap();
    remove_identity(root.path()).unwrap();
    assert!(!path.exists());
    remove_identity(root.path()).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(remove_identity(root.path()).unwrap_err().class(), ErrorClass::Io);
}

/// The good one has just been opened: its files end where its witness says.
#[test]
fn a_mirror_of_more_than_was_witnessed_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = pair(root.path());
    let lock = |dir: &Path| DirLock::take(dir, true).unwrap();
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    let mut good = home::create(&COORDINATOR, &a, lock(&a), true).unwrap();
    let mirror = |generation, good: &Opened| {
        home::clear_half_made(&b).unwrap();
        COORDINATOR.mirror(&b, lock(&b), INITIALISING, generation, good)
    };
    let start = good.checked.start;
    mirror(1, &good).unwrap().leg.store.close().unwrap();
    fs::remove_dir_all(&b).unwrap();
    fs::create_dir(&b).unwrap();
    let frame = Memory::of(start, 1).frames.remove(0);
    good.leg.store.append(unanimous_core::FrameNumber(1), &frame).unwrap();
    let error = mirror(1, &good).map(|_| ()).unwrap_err();
    assert_eq!(error.found(), Some(Found::FramesBeyondWitness), "{error}");
}

/// Else the old log's number would come a second time, and what was kept of it be taken for it.
#[test]
fn a_directory_made_anew_has_a_generation_above_all_that_it_had() {
    let root = tempfile::tempdir().unwrap();
    let [a, b] = pair(root.path());
    fs::create_dir(&a).unwrap();
    fs::create_dir_all(b.join("log-00000005")).unwrap();
    let lock = |dir: &Path| DirLock::take(dir, true).unwrap();
    let good = home::create(&COORDINATOR, &a, lock(&a), true).unwrap();
    for (generation, expected) in [(3, 6), (9, 10)] {
        let (why, keep) = ("it is behind".to_owned(), false);
        let stale = Stale { dir: b.clone(), lock: lock(&b), generation, why, keep };
        let (made, report) = COORDINATOR.make_anew(stale, &good).unwrap();
        assert_eq!(made.leg.home.witness.last().generation, expected);
        assert_eq!((report.state, report.detail.as_str()), (Rebuilt, "it is behind"));
        assert!(!b.join(REBUILDING).exists());
        made.leg.store.close().unwrap();
    }
}
