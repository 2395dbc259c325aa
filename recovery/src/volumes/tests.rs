//! Volumes filled, turned over, dropped, copied.
#![allow(clippy::print_stdout)]

use super::*;
use crate::files::copy_store;
use crate::frame::FRAME_BYTES_MAX;
use crate::sled_store::is_snapshot;

const SEGMENT_BYTES: u64 = 8 << 20;

fn frames(store: &Volumes) -> Vec<(u64, Vec<u8>)> {
    let all = store.frames().map(|frame| frame.unwrap());
    all.map(|(number, bytes)| (number.unwrap().0, bytes)).collect()
}

fn value(number: u64, length: usize) -> Vec<u8> {
    let mut state = number;
    let mut byte = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| byte()).collect()
}

fn start(number: u64) -> ChainStart {
    ChainStart { number, previous_crc: 7, first_lsn: number }
}

impl Volumes {
    /// Waits for a volume that is being made: which one a frame goes to depends on it.
    pub(crate) fn settle(&mut self) {
        if let Next::Making(made) = &self.next {
            let made = made.recv().unwrap();
            self.next = Next::Ready(made.unwrap());
        }
    }
}

/// Frames of the longest kind through many segments, dropped and rewritten: `append` itself
/// fails on a blob.
#[test]
fn the_longest_frames_make_no_blobs_and_survive_copies_without_snapshots() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().join("0");
    fs::create_dir(&dir).unwrap();
    let mut store = Volumes::create(&dir, start(1)).unwrap();
    let mut next = 1;
    for round in 1..=4_u64 {
        for _ in 0..150 {
            store.append(FrameNumber(next), &value(next, FRAME_BYTES_MAX)).unwrap();
            next += 1;
        }
        let first = next - 30;
        store.drop_below(start(first)).unwrap();
        let copy = root.path().join(round.to_string());
        store.flush().unwrap();
        copy_store(&dir, &copy).unwrap();
        assert!(
            !fs::read_dir(&copy)
                .unwrap()
                .any(|entry| { is_snapshot(&entry.unwrap().file_name().to_string_lossy()) })
        );
        store = Volumes::open(&copy).unwrap();
        dir = copy;
        let expected: Vec<_> = (first..next).map(|n| (n, value(n, FRAME_BYTES_MAX))).collect();
        let read: Vec<_> = frames(&store).into_iter().filter(|(n, _)| *n >= first).collect();
        assert!(read == expected, "round {round}");
        let stored = store.chain_start().unwrap().unwrap();
        assert_eq!(ChainStart::decode(&stored), Some(start(first)));
    }
}

#[test]
fn many_short_frames_with_drops_survive_copies_without_snapshots() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().join("0");
    fs::create_dir(&dir).unwrap();
    let mut store = Volumes::create(&dir, start(1)).unwrap();
    let mut next = 1;
    for round in 1..=3_u64 {
        for _ in 0..1_500 {
            let length = usize::try_from(next * 7_919 % 4_000).unwrap();
            store.append(FrameNumber(next), &value(next, length)).unwrap();
            next += 1;
        }
        let first = next - 400;
        store.drop_below(start(first)).unwrap();
        let copy = root.path().join(round.to_string());
        copy_store(&dir, &copy).unwrap();
        store = Volumes::open(&copy).unwrap();
        dir = copy;
        let read = frames(&store);
        assert_eq!(read.iter().filter(|(number, _)| *number >= first).count(), 400);
        for (number, bytes) in read {
            let length = usize::try_from(number * 7_919 % 4_000).unwrap();
            assert!(bytes == value(number, length), "frame {number}");
        }
    }
}

/// A volume is dropped as a whole, and sled reuses nothing in it, because it fits one segment.
#[test]
fn a_volume_fits_one_segment_whatever_its_frames() {
    for length in [60, 300, 5_000, 45_000, FRAME_BYTES_MAX] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut store = Volumes::create(dir.path(), start(1)).unwrap();
        let mut number = 0;
        while store.sealed.len() < 2 {
            number += 1;
            store.append(FrameNumber(number), &value(number, length)).unwrap();
            store.settle();
        }
        for volume in &store.sealed {
            let db = volume_dir(dir.path(), volume.number).join("db");
            let file_bytes = fs::metadata(db).unwrap().len();
            println!("frames of {length}: {} on disk, file {file_bytes}", volume.disk_bytes);
            assert!(file_bytes <= SEGMENT_BYTES, "frames of {length}: {file_bytes}");
        }
    }
}

/// Frames that fill volumes; what is below the start goes with its volumes, and only that.
#[test]
fn old_volumes_go_and_the_rest_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    for number in 1..=120 {
        store.append(FrameNumber(number), &value(number, 80_000)).unwrap();
        store.settle();
    }
    let volumes = store.sealed.len();
    assert!(volumes >= 4, "{volumes}");
    let middle = store.sealed[1].last_frame.unwrap();
    store.drop_below(start(middle)).unwrap();
    assert_eq!(store.sealed.len(), volumes - 1, "one volume is wholly below");
    store.drop_below(start(middle + 1)).unwrap();
    assert_eq!(store.sealed.len(), volumes - 2);
    let on_disk = list(dir.path()).unwrap();
    assert_eq!(on_disk.first().unwrap().0, 3);
    let root = tempfile::tempdir().unwrap();
    let copy = root.path().join("copy");
    store.flush().unwrap();
    drop(store);
    fs::create_dir(dir.path().join(NEXT)).unwrap();
    fs::create_dir(dir.path().join(DROPPED)).unwrap();
    copy_store(dir.path(), &copy).unwrap();
    assert!(!copy.join(NEXT).exists() && !copy.join(DROPPED).exists());
    let store = Volumes::open(&copy).unwrap();
    for volume in &store.sealed {
        assert!(volume.disk_bytes < SEGMENT_BYTES, "sled's zeros are given back");
    }
    let expected: Vec<u64> = (middle + 1..=120).collect();
    assert_eq!(frames(&store).into_iter().map(|(n, _)| n).collect::<Vec<_>>(), expected);
    let stored = store.chain_start().unwrap().unwrap();
    assert_eq!(ChainStart::decode(&stored), Some(start(middle + 1)));
}

/// What was being made at a kill is made anew.
#[test]
fn a_half_made_volume_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    fs::create_dir(dir.path().join(NEXT)).unwrap();
    fs::write(dir.path().join(NEXT).join("db"), b"garbage").unwrap();
    for number in 1..=60 {
        store.append(FrameNumber(number), &value(number, 80_000)).unwrap();
        store.settle();
    }
    assert!(!store.sealed.is_empty());
}

/// The bytes that the files of all volumes take.
fn bytes_of_files(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let volumes = list(dir).unwrap().into_iter();
    volumes.map(|(_, volume)| fs::metadata(volume.join("db")).unwrap().blocks() * 512).sum()
}

#[test]
fn the_bytes_on_disk_are_those_of_all_volumes_and_of_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    let mut with_next = 0;
    for number in 1..=60 {
        let (volumes, filled) = (store.sealed.len(), store.current.bytes);
        store.append(FrameNumber(number), &value(number, 80_000)).unwrap();
        if store.sealed.len() > volumes {
            assert!(filled >= VOLUME_BYTES_MAX, "left when {filled} bytes were in it");
        }
        store.settle();
        let (told, found) = (store.bytes_on_disk(), bytes_of_files(dir.path()));
        assert!(told.abs_diff(found) <= found / 20, "frame {number}: {told}, found {found}");
        with_next += u64::from(matches!(store.next, Next::Ready(_)));
    }
    assert!(store.sealed.len() >= 2 && with_next > 10, "{} {with_next}", store.sealed.len());
}

/// The volumes need a descriptor or room that may be there later: it is tried again, not with
/// each frame, and meanwhile the frames go into the volume that there is.
#[test]
fn a_volume_that_cannot_be_made_is_tried_again_an_eighth_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    let in_the_way = dir.path().join(NEXT);
    fs::write(&in_the_way, b"no directory").unwrap();
    let frame_bytes = 80_000 + FRAME_SHARE_BYTES;
    let append = |store: &mut Volumes, number| {
        if let Next::Making(made) = &store.next {
            // Its thread has ended: the next frame sees what came of it.
            let made = made.recv().unwrap();
            assert!(made.is_none(), "frame {number}");
            let (sender, receiver) = sync_channel(1);
            sender.send(made).unwrap();
            store.next = Next::Making(receiver);
        }
        store.append(FrameNumber(number), &value(number, 80_000)).unwrap();
    };
    let (mut tried, mut number) = (Vec::new(), 0);
    while store.current.bytes < 2 * VOLUME_BYTES_MAX {
        number += 1;
        let before = store.current.bytes;
        append(&mut store, number);
        if matches!(store.next, Next::Making(_)) {
            tried.push(before);
        }
        assert_eq!(store.current.bytes, number * frame_bytes);
    }
    assert_eq!(store.sealed.len(), 0);
    assert!((VOLUME_BYTES_MAX / 2..VOLUME_BYTES_MAX).contains(&tried[0]), "{tried:?}");
    for pair in tried.windows(2) {
        let pause = VOLUME_BYTES_MAX / 8..VOLUME_BYTES_MAX / 8 + 3 * frame_bytes;
        assert!(pause.contains(&(pair[1] - pair[0])), "{tried:?}");
    }
    assert!(tried.len() > 6, "{tried:?}");
    fs::remove_file(&in_the_way).unwrap();
    while store.sealed.is_empty() {
        number += 1;
        store.append(FrameNumber(number), &value(number, 80_000)).unwrap();
        if let Next::Making(made) = &store.next
            && let Some(made) = made.recv().unwrap()
        {
            store.next = Next::Ready(made);
        }
        assert!(store.current.bytes < 3 * VOLUME_BYTES_MAX, "never made");
    }
}

/// Nothing counts as durable or removed that is not.
#[test]
fn what_cannot_be_synced_or_removed_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    assert!(sync_dir(&missing).is_err());
    assert!(sync_dir(root.path()).is_ok());
    remove_tree(&missing).unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"no directory").unwrap();
    assert!(remove_tree(&file).is_err());
    assert!(file.exists());
}

/// What sled holds in memory is in no copy.
#[test]
fn what_is_flushed_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    let frame = value(1, 5_000);
    store.current.store.put(&1_u64.to_be_bytes(), &frame);
    store.flush().unwrap();
    let bytes = fs::read(volume_dir(dir.path(), 1).join("db")).unwrap();
    assert!(bytes.windows(frame.len()).any(|part| part == frame));
}

/// Else a log that is opened often fills a volume beyond its segment.
#[test]
fn an_opened_volume_is_as_full_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    for number in 1..=3 {
        store.append(FrameNumber(number), &value(number, 1_000)).unwrap();
    }
    let bytes = store.current.bytes;
    assert_eq!(bytes, 3 * (1_000 + FRAME_SHARE_BYTES));
    Box::new(store).close().unwrap();
    assert_eq!(Volumes::open(dir.path()).unwrap().current.bytes, bytes);
}

/// The next volume counts while it waits for its turn, and the one after it is not made before it
/// is half full.
#[test]
fn a_full_volume_is_left_for_the_next_one_and_that_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Volumes::create(dir.path(), start(1)).unwrap();
    store.append(FrameNumber(1), &value(1, 1_000)).unwrap();
    store.next = Next::Ready(make_now(dir.path(), 2).unwrap());
    let (told, found) = (store.bytes_on_disk(), bytes_of_files(dir.path()));
    assert!(told.abs_diff(found) <= found / 20, "{told}, found {found}");
    store.append(FrameNumber(2), &value(2, 1_000)).unwrap();
    assert_eq!(store.sealed.len(), 0, "the first one is not full");
    store.current.bytes = VOLUME_BYTES_MAX;
    store.append(FrameNumber(3), &value(3, 1_000)).unwrap();
    assert_eq!((store.sealed.len(), store.current.number), (1, 2));
    assert_eq!(store.current.bytes, 1_000 + FRAME_SHARE_BYTES);
    assert!(matches!(store.next, Next::NotBefore(bytes) if bytes == VOLUME_BYTES_MAX / 2));
    store.append(FrameNumber(4), &value(4, 1_000)).unwrap();
    assert!(matches!(store.next, Next::NotBefore(_)), "it is far from half full");
}
