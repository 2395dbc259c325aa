//! Dropping old frames: when, in which order, and what a kill leaves at every step.

use super::*;
use crate::retained::{Retained, RetainedFrame};
use crate::testing::{MOVED, edit_store, killed};
use crate::volumes::Volumes;
use std::path::Path;

/// Frames of one record each, all flushed.
fn flushed_frames(rig: &Rig, frames: u64) {
    for lsn in 1..=frames {
        rig.submit(lsn, true);
        assert_eq!(rig.next(), Seen::Entered(lsn, vec![record(lsn)]));
        rig.gate.send(()).unwrap();
        assert_eq!(rig.next(), Seen::Left(lsn));
        assert_eq!(rig.next(), Seen::Flushed(lsn, lsn, 1));
    }
}

#[test]
fn a_record_waits_for_one_slice_at_most_and_a_slice_follows_each_frame() {
    let rig = Rig::new(Fault::None, true, false);
    flushed_frames(&rig, 600);
    assert_eq!(rig.writer.stats().retained_frames, 600);
    rig.writer.drop_below(Lsn(600));
    rig.writer.drop_below(Lsn(3));
    assert_eq!(rig.next(), Seen::DroppedBelow(257));
    rig.submit(601, true);
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Entered(601, vec![record(601)]));
    rig.submit(602, true);
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(601));
    assert_eq!(rig.next(), Seen::Flushed(601, 601, 1));
    assert_eq!(rig.next(), Seen::DroppedBelow(513));
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Entered(602, vec![record(602)]));
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(602));
    assert_eq!(rig.next(), Seen::Flushed(602, 602, 1));
    assert_eq!(rig.next(), Seen::DroppedBelow(600));
    rig.gate.send(()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while rig.writer.stats().retained_frames != 3 {
        assert!(Instant::now() < deadline, "{:?}", rig.writer.stats());
        std::thread::yield_now();
    }
    rig.writer.close().unwrap();
    assert_eq!(rig.seen.iter().collect::<Vec<_>>(), [Seen::Closed, Seen::Dropped]);
}

#[test]
fn the_age_of_the_oldest_queued_record_grows_while_a_sync_hangs() {
    let rig = Rig::new(Fault::None, true, false);
    assert_eq!(rig.writer.stats().oldest_queued_ms, 0);
    rig.submit(1, true);
    rig.next();
    let deadline = Instant::now() + PATIENCE;
    while rig.writer.stats().oldest_queued_ms < 120 {
        assert!(Instant::now() < deadline, "{:?}", rig.writer.stats());
        std::thread::yield_now();
    }
    rig.submit(2, true);
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(1));
    assert_eq!(rig.next(), Seen::Flushed(1, 1, 1));
    rig.next();
    assert!(rig.writer.stats().oldest_queued_ms < 120, "the age is that of the first record");
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(2));
    assert_eq!(rig.next(), Seen::Flushed(2, 2, 1));
    assert_eq!(rig.writer.stats().oldest_queued_ms, 0);
}

/// Looks at what a kill would leave, before and after every call.
struct Watched {
    inner: Box<dyn FrameStore>,
    dir: PathBuf,
    image: PathBuf,
    first: u64,
    last: u64,
    images: Sender<()>,
}

impl Watched {
    /// A kill now: the records are all there from the chain's start on, and writing goes on.
    fn killed_now(&self, started: Option<ChainStart>) {
        let _ = std::fs::remove_dir_all(&self.image);
        let copy = killed(&self.dir, &self.image);
        let mut first = self.first;
        if let Some(start) = started {
            first = start.number;
            edit_store(&copy, |store| store.put_start(start).unwrap());
        }
        let opened = MOVED.open(&copy).unwrap();
        let found: Vec<_> = opened.records().map(|record| record.unwrap().bytes).collect();
        assert!(found == (first..=self.last).map(record).collect::<Vec<_>>());
        let lsn = opened.next_lsn();
        append(opened, lsn.0..lsn.0 + 2).close().unwrap();
        let opened = MOVED.open(&copy).unwrap();
        assert_eq!(opened.records().count() as u64, self.last + 3 - first);
        self.images.send(()).unwrap();
    }
}

impl FrameStore for Watched {
    fn append(&mut self, number: FrameNumber, frame: &[u8]) -> Result<(), StoreError> {
        self.inner.append(number, frame)?;
        self.last = number.0;
        if number.0 % 10 == 1 {
            self.killed_now(None);
        }
        Ok(())
    }

    fn frames(&self) -> StoredFrames<'_> {
        self.inner.frames()
    }

    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.chain_start()
    }

    fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError> {
        self.killed_now(None);
        self.killed_now(Some(start));
        self.inner.drop_below(start)?;
        self.first = start.number;
        self.killed_now(None);
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.inner.bytes_on_disk()
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.close()
    }
}

#[test]
fn a_kill_at_any_step_of_dropping_leaves_every_record_that_is_needed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut opened = COORDINATOR.open(&dir).unwrap();
    let (images, seen) = channel();
    let Leg { store: inner, home, first_frame } = opened.legs.remove(0);
    let store = Box::new(Watched {
        inner,
        dir,
        image: root.path().join("image"),
        first: 1,
        last: 0,
        images,
    });
    opened.legs.push(Leg { store, home, first_frame });
    let (told, flushed) = channel();
    let writer =
        opened.start(move |group| told.send(group.upto).unwrap(), |f| panic!("{f}")).unwrap();
    for lsn in 1..=60 {
        writer.append(Lsn(lsn), record(lsn), true).unwrap();
        assert_eq!(flushed.recv_timeout(PATIENCE), Ok(Lsn(lsn)));
        if lsn % 15 == 0 {
            writer.drop_below(Lsn(lsn - 3));
        }
    }
    writer.close().unwrap();
    assert_eq!(seen.iter().count(), 6 + 3 * 3, "the last drop was overtaken by the end");
}

/// Appends `total_bytes` in frames of `frame_bytes`, keeps about 4 MiB of them, and gives the most
/// that the disk ever held.
fn most_bytes_on_disk(dir: &Path, frame_bytes: usize, total_bytes: usize) -> u64 {
    const RETAINED_BYTES: u64 = 4 << 20;
    let start = ChainStart { number: 1, previous_crc: 7, first_lsn: 1 };
    let (mut store, mut retained) = (Volumes::create(dir, start).unwrap(), Retained::from(start));
    let mut state = 1_u64;
    let mut most = 0;
    for number in 1..=(total_bytes / frame_bytes) as u64 {
        let mut bytes = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()
        };
        let record = (0..frame_bytes.div_ceil(8)).flat_map(|_| bytes()).collect();
        let records = vec![record];
        let frame = Frame { number, first_lsn: number, unix_ms: 0, previous_crc: 0, records };
        let bytes = frame.encode();
        // Nothing here waits for a sync, so the frames would outrun the making of their volumes.
        store.settle();
        store.append(FrameNumber(number), &bytes).unwrap();
        retained.push(RetainedFrame::of(&frame, bytes.len()));
        if retained.bytes() > RETAINED_BYTES + (1 << 20) {
            retained.raise_floor(number - RETAINED_BYTES / bytes.len() as u64);
        }
        if let Some(start) = retained.slice() {
            store.drop_below(start).unwrap();
            retained.dropped(start);
        }
        most = most.max(store.bytes_on_disk());
    }
    drop(store);
    let store = Volumes::open(dir).unwrap();
    assert!(store.frames().count() as u64 >= retained.frames());
    most
}

/// In memory: how much is on disk does not depend on syncs. `UNANIMOUS_DROP_MB` sets how much is
/// appended in short frames, default 20.
#[test]
#[allow(clippy::print_stdout)]
fn the_disk_stays_flat_whatever_is_appended() {
    let short_mb = std::env::var("UNANIMOUS_DROP_MB").map_or(20, |text| text.parse().unwrap());
    for (frame_bytes, total_mb) in [(300, short_mb), (90 << 10, 200)] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let most = most_bytes_on_disk(dir.path(), frame_bytes, total_mb << 20);
        println!("frames of {frame_bytes} bytes, {total_mb} MB: at most {most} bytes on disk");
        // Less than four times what is kept, and the two volumes at the ends.
        assert!(most <= 32 << 20, "frames of {frame_bytes}: {most} bytes on disk");
    }
}
