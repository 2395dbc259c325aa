use super::*;
use crate::chain::Chain;
use crate::pair::legs::{Directories, Legs, Witnesses};
use crate::space::SpaceSeen;
use crate::store::ChainStart;
use crate::testing::{Memory, record};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

/// The thread's own part, without a thread and without a disk.
fn log_thread() -> (LogThread<impl FnMut(Flushed)>, Sender<Command>) {
    let start = ChainStart { number: 1, previous_crc: 7, first_lsn: 1 };
    let witnesses = Witnesses::new(Vec::new(), Directories::default());
    let store = Box::new(Memory::of(start, 0));
    let legs = Legs::start(vec![(store, 1)], Arc::new(Mutex::new(witnesses))).unwrap();
    let (chain, retained) = (Chain::at(start), Retained::from(start));
    let gauges = Arc::new(Gauges::new(&chain, &retained, SpaceSeen::default(), 0));
    let (commands, queue) = channel();
    let log = LogThread {
        ended: Ended { legs, chain },
        retained,
        space: Spaces::new(Vec::new()),
        queue,
        carried: VecDeque::new(),
        ending: false,
        gauges,
        durable: Shared::default(),
        on_flushed: |_: Flushed| (),
    };
    (log, commands)
}

fn queued(index: u64, force: bool) -> Queued {
    Queued { record: record(index), force, at_ms: 0 }
}

/// What was carried over goes first: a forced record in it must not wait for what comes.
#[test]
fn what_is_carried_is_company_before_what_is_queued() {
    for forced in [false, true] {
        let (mut log, commands) = log_thread();
        log.carried.extend([queued(1, true), queued(2, true)]);
        commands.send(Command::Append(queued(3, true))).unwrap();
        for (index, left) in [(1, 1), (2, 0), (3, 0)] {
            let next = log.company(forced, Instant::now()).unwrap();
            assert_eq!(next.map(|queued| queued.record), Some(record(index)));
            assert_eq!(log.carried.len(), left, "nothing is received before its turn");
        }
        assert!(log.company(forced, Instant::now()).unwrap().is_none());
        assert!(!log.ending);
        log.ending = true;
        commands.send(Command::Fail(LogFailed { what: "later".to_owned() })).unwrap();
        assert!(log.company(forced, Instant::now()).unwrap().is_none());
    }
}

#[test]
fn only_a_group_without_a_forced_record_waits_for_company_and_then_the_log_goes_on() {
    let (mut log, commands) = log_thread();
    let begun = Instant::now();
    assert_eq!(log.gather(queued(1, false)).unwrap().records, [record(1)]);
    assert!(begun.elapsed() >= LAZY_WAIT);
    assert!(!log.ending, "nobody said that it ends");
    commands.send(Command::Append(queued(3, false))).unwrap();
    assert_eq!(log.gather(queued(2, true)).unwrap().records, [record(2), record(3)]);
    commands.send(Command::End).unwrap();
    assert_eq!(log.gather(queued(4, false)).unwrap().records, [record(4)]);
    assert!(log.ending);
}

#[test]
fn a_frame_moves_the_chain_by_its_records() {
    let (mut log, _commands) = log_thread();
    for (number, records) in [(1, 2), (2, 1), (3, 3)] {
        let before = log.ended.chain;
        let records: Vec<_> = (0..records).map(record).collect();
        let count = records.len() as u64;
        log.write(Group { records, ..Group::default() }).unwrap();
        let chain = &log.ended.chain;
        assert_eq!(chain.last_frame(), number);
        assert_eq!(chain.records, before.records + count);
        assert_eq!(chain.next_lsn, before.next_lsn + count);
        assert_ne!(chain.last_crc, before.last_crc);
    }
    assert_eq!((log.retained.frames(), locked(&log.durable.0).frame), (3, 3));
}

/// People look for what happened at a time.
#[test]
fn the_time_is_that_of_the_clock() {
    let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let before = ms(SystemTime::now());
    let day_ms = 86_400_000;
    assert!(u128::from(unix_ms()).abs_diff(before) < day_ms);
}
