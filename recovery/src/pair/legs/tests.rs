use super::*;
use crate::store::StoredFrames;
use std::path::Path;
use std::time::Duration;
use unanimous_core::LogId;

/// Tells of each call.
struct Told {
    leg: u64,
    calls: Sender<(u64, &'static str, u64)>,
    /// Its end waits for this so long.
    slow_end: Option<(Receiver<()>, Duration)>,
}

impl Told {
    fn tell(&self, call: &'static str, number: u64) {
        self.calls.send((self.leg, call, number)).unwrap();
    }
}

impl FrameStore for Told {
    fn append(&mut self, number: FrameNumber, _: &[u8]) -> Result<(), StoreError> {
        self.tell("append", number.0);
        Ok(())
    }

    fn frames(&self) -> StoredFrames<'_> {
        unreachable!("the writer reads nothing")
    }

    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError> {
        unreachable!("the writer reads nothing")
    }

    fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError> {
        self.tell("drop below", start.number);
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        10 + self.leg
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.tell("close", 0);
        Ok(())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some((never, patience)) = &self.slow_end {
            let _ = never.recv_timeout(*patience);
        }
        let _ = self.calls.send((self.leg, "dropped", 0));
    }
}

type Calls = Receiver<(u64, &'static str, u64)>;

/// A store with its first frame.
type Stored = (Box<dyn FrameStore>, u64);

fn stores(count: u64) -> (Vec<Stored>, Calls) {
    let (calls, seen) = channel();
    let store =
        |leg| -> Stored { (Box::new(Told { leg, calls: calls.clone(), slow_end: None }), 1) };
    ((0..count).map(store).collect(), seen)
}

fn witness_in(dir: &Path) -> (PathBuf, WitnessFile) {
    let witness = Witness {
        sequence: 0,
        id: LogId { cluster: 1, slot: 2, incarnation: 3 },
        generation: 1,
        frame: 0,
        frame_crc: 0,
        clean: false,
        alone: false,
    };
    std::fs::create_dir_all(dir).unwrap();
    let mut file = WitnessFile::open(dir, witness, true).unwrap();
    // Where the disk is full, that is what the test is about.
    let _ = file.write_both(witness, || ());
    (dir.to_owned(), file)
}

/// A directory whose witness cannot be written.
fn full(dir: &Path) -> (PathBuf, WitnessFile) {
    std::fs::create_dir_all(dir).unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.join(crate::witness::FILE)).unwrap();
    witness_in(dir)
}

fn shared(files: Vec<(PathBuf, WitnessFile)>) -> Arc<Mutex<Witnesses>> {
    Arc::new(Mutex::new(Witnesses::new(files, Directories::default())))
}

/// The owner is told, and the locks stay, only if this is known.
#[test]
fn witnesses_fail_with_the_last_directory_and_not_with_one_of_two() {
    let root = tempfile::tempdir().unwrap();
    let dir = |name: &str| root.path().join(name);
    let mut alone = Witnesses::new(vec![full(&dir("alone"))], Directories::default());
    assert!(!alone.failed());
    assert!(alone.follow(1, 1).is_err());
    assert!(alone.failed());
    let files = vec![full(&dir("full")), witness_in(&dir("good"))];
    let mut pair = Witnesses::new(files, Directories::default());
    pair.follow(1, 1).unwrap();
    assert!(!pair.failed());
    let survivor = Witness::read(&dir("good")).unwrap();
    assert_eq!((survivor.frame, survivor.alone), (1, true));
}

#[test]
fn the_legs_are_the_stores_there_are_and_their_bytes() {
    let root = tempfile::tempdir().unwrap();
    let witness = |name: &str| witness_in(&root.path().join(name));
    let (one, _seen) = stores(1);
    let legs = Legs::start(one, shared(vec![witness("alone")])).unwrap();
    assert_eq!((legs.used(), legs.bytes_on_disk()), ([true, false], 10));
    let (two, _seen) = stores(2);
    let legs = Legs::start(two, shared(vec![witness("a"), witness("b")])).unwrap();
    assert_eq!((legs.used(), legs.bytes_on_disk()), ([true, true], 21));
}

/// Its witness failed, and the survivor says alone: what is written to it now would be two logs.
#[test]
fn a_directory_that_its_witness_gave_up_is_never_called_again() {
    for lost in [0, 1] {
        let root = tempfile::tempdir().unwrap();
        let witnesses = shared(["a", "b"].map(|name| witness_in(&root.path().join(name))).into());
        let (two, seen) = stores(2);
        let mut legs = Legs::start(two, Arc::clone(&witnesses)).unwrap();
        locked(&witnesses).give_up(lost, "EIO").unwrap();
        legs.append(FrameNumber(1), b"frame").unwrap();
        let left = 1 - u64::try_from(lost).unwrap();
        assert_eq!(legs.used(), [lost == 1, lost == 0]);
        assert_eq!(legs.bytes_on_disk(), 10 + left);
        legs.close().unwrap();
        let calls: Vec<_> = seen.try_iter().filter(|call| call.1 != "dropped").collect();
        assert_eq!(calls, [(left, "append", 1), (left, "close", 0)], "{lost} is given up");
    }
}

/// What an interrupted drop left below the start goes with the same start; a lower one would
/// bring the start back to frames that are gone.
#[test]
fn the_start_of_a_store_never_goes_back() {
    let (calls, seen) = channel();
    let mut store = Store::new(Box::new(Told { leg: 0, calls, slow_end: None }), 5);
    for number in [3, 5, 4, 9, 8] {
        let start = ChainStart { number, previous_crc: 1, first_lsn: number };
        store.call(Call::DropBelow(start)).unwrap();
    }
    let below = [5, 9].map(|number| (0, "drop below", number));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), below);
}

/// Whoever opens the directory next would else meet its files still being written.
#[test]
fn the_end_of_the_second_store_is_waited_for() {
    let ((calls, seen), (_wake, never)) = (channel(), channel());
    let slow_end = Some((never, Duration::from_millis(50)));
    let store = Store::new(Box::new(Told { leg: 1, calls, slow_end }), 1);
    drop(Remote::start(store).unwrap());
    assert_eq!(seen.try_recv(), Ok((1, "dropped", 0)));
}
