//! Two stores, one of which fails: what is durable when something is told.

use super::*;
use crate::home::Leg;
use crate::store::{ChainStart, StoreError, StoredFrames};
use crate::witness::WitnessFile;
use crate::{Flushed, LogFailed, Writer};
use std::sync::mpsc::{Receiver, Sender, channel};
use unanimous_core::{FrameNumber, Lsn};

/// Long enough never to pass in a good run, short enough for a bad one to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store that fails at one frame, and says when it is called.
struct Failing {
    inner: Box<dyn FrameStore>,
    fails_at: u64,
    called: Sender<u64>,
}

impl FrameStore for Failing {
    fn append(&mut self, number: FrameNumber, frame: &[u8]) -> Result<(), StoreError> {
        self.called.send(number.0).unwrap();
        if number.0 == self.fails_at {
            return Err(StoreError::Io { doing: "syncing", error: "EIO".to_owned() });
        }
        self.inner.append(number, frame)
    }

    fn frames(&self) -> StoredFrames<'_> {
        self.inner.frames()
    }

    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.chain_start()
    }

    fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError> {
        self.inner.drop_below(start)
    }

    fn bytes_on_disk(&self) -> u64 {
        self.inner.bytes_on_disk()
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.close()
    }
}

/// Makes the store of a directory fail at a frame; gives the frames that it is called with.
fn fail(opened: &mut OpenedLog, leg: usize, fails_at: u64) -> Receiver<u64> {
    let (called, calls) = channel();
    let Leg { store: inner, home, first_frame } = opened.legs.remove(leg);
    let store = Box::new(Failing { inner, fails_at, called });
    opened.legs.insert(leg, Leg { store, home, first_frame });
    calls
}

struct Told {
    flushed: Receiver<(Lsn, [bool; 2])>,
    failed: Receiver<String>,
}

/// Starts the log; each flushed group comes with which witness said *alone* when it was told.
fn start(opened: OpenedLog, dirs: &[PathBuf; 2]) -> (Writer, Told) {
    let ((told, flushed), (fails, failed)) = (channel(), channel());
    let dirs = dirs.clone();
    let alone = move |index: usize| Witness::read(&dirs[index]).unwrap().alone;
    let on_flushed = move |group: Flushed| {
        told.send((group.upto, [alone(0), alone(1)])).unwrap();
    };
    let on_failed = move |failed: LogFailed| fails.send(failed.what).unwrap();
    (opened.start(on_flushed, on_failed).unwrap(), Told { flushed, failed })
}

#[test]
fn the_survivor_says_alone_before_anything_is_told_and_the_failed_one_is_left() {
    for failing in [0, 1] {
        let root = tempfile::tempdir().unwrap();
        let dirs = pair(root.path());
        let mut opened = COORDINATOR.open_pair(&dirs[0], &dirs[1]).unwrap();
        let calls = fail(&mut opened, failing, 3);
        let (writer, told) = start(opened, &dirs);
        let mut alone = [false, false];
        for lsn in 1..=5 {
            writer.append(Lsn(lsn), record(lsn - 1), true).unwrap();
            alone[1 - failing] |= lsn == 3;
            assert_eq!(told.flushed.recv_timeout(PATIENCE), Ok((Lsn(lsn), alone)), "{failing}");
        }
        let reports = writer.directories();
        assert_eq!((reports[failing].state, reports[1 - failing].state), (GivenUp, Good));
        assert!(reports[failing].detail.contains("EIO"), "{reports:?}");
        writer.close().unwrap();
        assert_eq!(calls.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
        let copies = copied(root.path(), &dirs);
        let opened = PAIRED.open_pair(&copies[0], &copies[1]).unwrap();
        let mut expected = [Good, Good];
        expected[failing] = Rebuilt;
        assert_eq!(states(&opened), expected);
        assert_eq!(records(&opened), (0..5).map(record).collect::<Vec<_>>());
    }
}

/// What a new process would find: a store that failed keeps its directory until its process ends.
fn copied(root: &Path, dirs: &[PathBuf; 2]) -> [PathBuf; 2] {
    let copies = pair(&root.join("copies"));
    (0..2).for_each(|index| drop(killed(&dirs[index], &copies[index])));
    copies
}

#[test]
fn both_failing_ends_the_log_and_neither_says_alone() {
    let root = tempfile::tempdir().unwrap();
    let dirs = pair(root.path());
    let mut opened = COORDINATOR.open_pair(&dirs[0], &dirs[1]).unwrap();
    let _calls = (fail(&mut opened, 0, 2), fail(&mut opened, 1, 2));
    let (writer, told) = start(opened, &dirs);
    writer.append(Lsn(1), record(0), true).unwrap();
    assert_eq!(told.flushed.recv_timeout(PATIENCE), Ok((Lsn(1), [false, false])));
    writer.append(Lsn(2), record(1), true).unwrap();
    assert!(told.failed.recv_timeout(PATIENCE).unwrap().contains("EIO"));
    assert!(writer.close().is_err());
    assert!(told.flushed.recv_timeout(PATIENCE).is_err());
    assert_eq!(dirs.map(|dir| Witness::read(&dir).unwrap().alone), [false, false]);
}

#[test]
fn a_witness_that_cannot_be_written_gives_its_directory_up() {
    let root = tempfile::tempdir().unwrap();
    let dirs = pair(root.path());
    let mut opened = COORDINATOR.open_pair(&dirs[0], &dirs[1]).unwrap();
    std::os::unix::fs::symlink("/dev/full", root.path().join("witness")).unwrap();
    let last = *opened.legs[0].home.witness.last();
    opened.legs[0].home.witness = WitnessFile::open(root.path(), last, false).unwrap();
    let (writer, told) = start(opened, &dirs);
    let deadline = Instant::now() + PATIENCE;
    let mut lsn = 0;
    while writer.directories()[0].state == Good {
        lsn += 1;
        writer.append(Lsn(lsn), record(lsn - 1), true).unwrap();
        told.flushed.recv_timeout(PATIENCE).unwrap();
        assert!(Instant::now() < deadline);
    }
    assert_eq!(writer.directories()[1].state, Good);
    assert!(Witness::read(&dirs[1]).unwrap().alone);
    writer.close().unwrap();
    let copies = copied(root.path(), &dirs);
    assert_eq!(states(&PAIRED.open_pair(&copies[0], &copies[1]).unwrap()), [Rebuilt, Good]);
}
