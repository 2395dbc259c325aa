use super::*;
use crate::frame::{FRAME_BYTES_MAX, Frame};
use crate::store::FrameStore;
use crate::store::{ChainStart, StoreError, StoredFrames};
use crate::testing::{COORDINATOR, append, record};
use crate::witness::{Witness, WitnessFile};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

mod drops;

/// Long enough never to pass in a good run, short enough for a bad one to end.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Entered(u64, Vec<Vec<u8>>),
    Left(u64),
    DroppedBelow(u64),
    Flushed(u64, u64, u32),
    Failed(String),
    Closed,
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    FailAt(u64),
    PanicAt(u64),
}

/// Reports every step and enters the next only when the gate lets it.
struct Fake {
    seen: Sender<Seen>,
    gate: Option<Receiver<()>>,
    fault: Fault,
}

impl FrameStore for Fake {
    fn append(&mut self, number: FrameNumber, bytes: &[u8]) -> Result<(), StoreError> {
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        let records = Frame::decode(bytes).unwrap().records;
        let _ = self.seen.send(Seen::Entered(number.0, records));
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        if self.fault == Fault::FailAt(number.0) {
            return Err(StoreError::Io { doing: "syncing", error: "EIO".to_owned() });
        }
        assert!(self.fault != Fault::PanicAt(number.0), "the store's own panic");
        let _ = self.seen.send(Seen::Left(number.0));
        Ok(())
    }

    fn frames(&self) -> StoredFrames<'_> {
        unreachable!("the writer reads nothing")
    }

    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        unreachable!("the writer reads nothing")
    }

    fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError> {
        let _ = self.seen.send(Seen::DroppedBelow(start.number));
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        4_711
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        let _ = self.seen.send(Seen::Closed);
        Ok(())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.seen.send(Seen::Dropped);
    }
}

struct Rig {
    /// Gone first: a test that fails must not leave the store waiting for it.
    gate: Sender<()>,
    writer: Writer,
    seen: Receiver<Seen>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(fault: Fault, gated: bool, witness_on_full_disk: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = COORDINATOR.open(&dir.path().join("log")).unwrap();
        let (seen_by, seen) = channel();
        let (gate, open) = channel();
        opened.legs[0].store =
            Box::new(Fake { seen: seen_by.clone(), gate: gated.then_some(open), fault });
        if witness_on_full_disk {
            std::os::unix::fs::symlink("/dev/full", dir.path().join("witness")).unwrap();
            let last = *opened.legs[0].home.witness.last();
            opened.legs[0].home.witness = WitnessFile::open(dir.path(), last, false).unwrap();
        }
        let told = seen_by.clone();
        let writer = opened
            .start(
                move |f| {
                    let _ = told.send(Seen::Flushed(f.upto.0, f.frame.0, f.records));
                },
                move |failed| {
                    let _ = seen_by.send(Seen::Failed(failed.what));
                },
            )
            .unwrap();
        Self { gate, writer, seen, _dir: dir }
    }

    fn submit(&self, lsn: u64, force: bool) {
        self.writer.append(Lsn(lsn), record(lsn), force).unwrap();
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn one_frame_at_a_time_and_the_queue_becomes_the_next_group() {
    let rig = Rig::new(Fault::None, true, false);
    rig.submit(1, true);
    assert_eq!(rig.next(), Seen::Entered(1, vec![record(1)]));
    for lsn in 2..=101 {
        rig.submit(lsn, lsn % 3 == 0);
    }
    let stats = rig.writer.stats();
    assert_eq!((stats.queued_records, stats.durable_frame.0, stats.frames), (101, 0, 0));
    assert_eq!(stats.queued_bytes, (1..=101).map(|lsn| record(lsn).len() as u64).sum::<u64>());
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(1));
    assert_eq!(rig.next(), Seen::Flushed(1, 1, 1));
    assert_eq!(rig.next(), Seen::Entered(2, (2..=101).map(record).collect()));
    assert!(rig.seen.try_recv().is_err(), "nothing is told before the store has answered");
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(2));
    assert_eq!(rig.next(), Seen::Flushed(101, 2, 100));
    rig.submit(102, true);
    assert_eq!(rig.next(), Seen::Entered(3, vec![record(102)]));
    rig.gate.send(()).unwrap();
    rig.writer.close().unwrap();
    let rest: Vec<_> = rig.seen.iter().collect();
    let expected = [Seen::Left(3), Seen::Flushed(102, 3, 1), Seen::Closed, Seen::Dropped];
    assert_eq!(rest, expected);
}

#[test]
fn records_above_one_frame_are_split_in_order_and_none_is_lost() {
    let rig = Rig::new(Fault::None, true, false);
    rig.submit(1, true);
    rig.next();
    let long = |lsn: u64| vec![u8::try_from(lsn).unwrap(); 40 << 10];
    for lsn in 2..=8 {
        rig.writer.append(Lsn(lsn), long(lsn), true).unwrap();
    }
    (1..=5).for_each(|_| rig.gate.send(()).unwrap());
    rig.writer.close().unwrap();
    let mut records = Vec::new();
    let mut frames = 0;
    for seen in rig.seen.iter() {
        if let Seen::Entered(_, group) = seen {
            records.extend(group);
            frames += 1;
        }
    }
    assert_eq!(records, (2..=8).map(long).collect::<Vec<_>>());
    assert_eq!(frames, 4);
}

fn fails_once_and_then_nothing(fault: Fault, what: &str) {
    let rig = Rig::new(fault, true, false);
    rig.submit(1, true);
    rig.next();
    rig.submit(2, true);
    rig.gate.send(()).unwrap();
    assert_eq!(rig.next(), Seen::Left(1));
    assert_eq!(rig.next(), Seen::Flushed(1, 1, 1));
    assert_eq!(rig.next(), Seen::Entered(2, vec![record(2)]));
    rig.submit(3, true);
    rig.gate.send(()).unwrap();
    let Seen::Failed(text) = rig.next() else { panic!("not told of the failure") };
    assert!(text.contains(what), "{text}");
    assert_eq!(rig.writer.append(Lsn(4), record(4), true), Err(AppendError::Failed));
    assert_eq!(rig.writer.append(Lsn(5), record(5), true), Err(AppendError::Failed));
    assert_eq!(rig.writer.stats().durable_frame, FrameNumber(1));
    assert!(rig.writer.close().is_err());
    // The store is leaked with its sender: the channel stays open and silent.
    assert_eq!(rig.seen.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
}

#[test]
fn s_06_a_store_error_is_told_once_and_ends_everything() {
    fails_once_and_then_nothing(Fault::FailAt(2), "syncing: EIO");
}

#[test]
fn a_panic_in_the_store_is_a_store_error() {
    fails_once_and_then_nothing(Fault::PanicAt(2), "the store's own panic");
}

#[test]
fn a_witness_that_cannot_be_written_fails_the_log() {
    let rig = Rig::new(Fault::None, false, true);
    rig.submit(1, true);
    let failed = loop {
        match rig.next() {
            Seen::Failed(what) => break what,
            Seen::Closed | Seen::Dropped => panic!("the store was used after the failure"),
            _ => {}
        }
    };
    assert!(failed.contains("writing the witness"), "{failed}");
    assert!(rig.writer.close().is_err());
}

#[test]
fn after_a_failure_nobody_else_gets_the_directory() {
    let rig = Rig::new(Fault::FailAt(1), false, false);
    rig.submit(1, true);
    while !matches!(rig.next(), Seen::Failed(_)) {}
    let dir = rig.writer.directories()[0].dir.clone();
    drop(rig.writer);
    assert_eq!(COORDINATOR.open(&dir).unwrap_err(), OpenError::InUse(dir));
}

#[test]
fn a_lazy_record_is_flushed_without_company() {
    let rig = Rig::new(Fault::None, false, false);
    rig.submit(1, false);
    assert_eq!(rig.next(), Seen::Entered(1, vec![record(1)]));
    assert_eq!(rig.next(), Seen::Left(1));
    assert_eq!(rig.next(), Seen::Flushed(1, 1, 1));
}

#[test]
fn a_record_that_is_too_long_is_not_taken() {
    let rig = Rig::new(Fault::None, false, false);
    let long = vec![0; RECORD_BYTES_MAX + 1];
    let refused = rig.writer.append(Lsn(1), long, true);
    assert_eq!(refused, Err(AppendError::TooLong(RECORD_BYTES_MAX + 1)));
    assert_eq!(rig.writer.stats().queued_records, 0);
    rig.writer.append(Lsn(1), vec![1; RECORD_BYTES_MAX], true).unwrap();
    assert_eq!(rig.next(), Seen::Entered(1, vec![vec![1; RECORD_BYTES_MAX]]));
}

#[test]
#[should_panic(expected = "in the order of their LSNs")]
fn a_gap_in_the_lsns_is_a_bug_of_the_caller() {
    Rig::new(Fault::None, false, false).submit(2, true);
}

#[test]
fn dropping_without_close_writes_the_queue_and_is_no_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let writer = append(COORDINATOR.open(&path).unwrap(), 0..2);
    drop(writer);
    let opened = COORDINATOR.open(&path).unwrap();
    assert_eq!((opened.report().clean, opened.report().records), (false, 2));
}

#[test]
fn the_witness_follows_the_last_frame_when_idle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let writer = append(COORDINATOR.open(&path).unwrap(), 0..20);
    let deadline = Instant::now() + PATIENCE;
    let (_wake, wait) = channel::<()>();
    while Witness::read(&path).unwrap().frame < 20 {
        assert!(Instant::now() < deadline, "the witness stays behind");
        assert_eq!(wait.recv_timeout(Duration::from_millis(5)), Err(RecvTimeoutError::Timeout));
    }
    assert!(!Witness::read(&path).unwrap().clean);
    writer.close().unwrap();
    assert!(Witness::read(&path).unwrap().clean);
}

/// On a busy log it would else be a second sync for each frame.
#[test]
fn the_witness_pauses_between_two_writes() {
    let rig = Rig::new(Fault::None, false, false);
    let dir = rig.writer.directories()[0].dir.clone();
    let (begun, (_wake, wait)) = (Instant::now(), channel::<()>());
    for lsn in 1..=3 {
        rig.submit(lsn, true);
        while Witness::read(&dir).unwrap().frame < lsn {
            assert!(begun.elapsed() < PATIENCE, "the witness stays behind");
            assert_eq!(wait.recv_timeout(Duration::from_millis(5)), Err(RecvTimeoutError::Timeout));
        }
    }
    assert!(begun.elapsed() >= 2 * WITNESS_PAUSE, "three writes");
}

/// Many threads, each waiting for its record before the next, on the real store.
#[test]
fn group_commit_makes_groups_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let durable = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let told = Arc::clone(&durable);
    let writer = COORDINATOR
        .open(&dir.path().join("log"))
        .unwrap()
        .start(
            move |group| {
                *told.0.lock().unwrap() = group.upto.0;
                told.1.notify_all();
            },
            |failed| panic!("{failed}"),
        )
        .unwrap();
    let next = Mutex::new(1);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let lsn = {
                        let mut next = next.lock().unwrap();
                        writer.append(Lsn(*next), record(*next), true).unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let waiting = durable.0.lock().unwrap();
                    drop(durable.1.wait_while(waiting, |upto| *upto < lsn).unwrap());
                }
            });
        }
    });
    let stats = writer.stats();
    assert_eq!((stats.records, stats.queued_records, stats.queued_bytes), (640, 0, 0));
    assert!(stats.frames < 320, "{stats:?}");
    assert!(stats.bytes_on_disk > 0);
    writer.close().unwrap();
}

/// A sync that hangs is seen by the age of the oldest record, whatever comes after it.
#[test]
fn the_oldest_record_keeps_its_age_when_others_come() {
    let rig = Rig::new(Fault::None, true, false);
    rig.submit(1, true);
    assert_eq!(rig.next(), Seen::Entered(1, vec![record(1)]));
    while rig.writer.stats().oldest_queued_ms < 30 {
        std::thread::yield_now();
    }
    rig.submit(2, true);
    let stats = rig.writer.stats();
    assert_eq!(stats.queued_records, 2);
    assert!(stats.oldest_queued_ms >= 30, "{stats:?}");
    rig.gate.send(()).unwrap();
    rig.gate.send(()).unwrap();
}
