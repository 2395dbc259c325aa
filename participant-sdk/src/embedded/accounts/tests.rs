use super::*;
use futures_util::future::FutureExt;
use unanimous_core::{Bqual, Gtrid, Owner};

/// Reliability L2 and L3: no vote and no acknowledgement before its record is durable, nor one
/// that rests on a record that is not.
#[test]
fn nothing_is_answered_before_the_log_says_durable() {
    let root = tempfile::tempdir().unwrap();
    let opening = Opening { init: Some((9, 100)), ..Opening::default() };
    let mut accounts = Accounts::open(&root.path().join("store"), opening).unwrap();
    // From here on the test says when the log has flushed; 1 is the record that opened it.
    accounts.flushes = Arc::new(Mutex::new(Flushes { upto: Lsn(1), ..Flushes::default() }));
    let flush = |upto| wake(&accounts.flushes, Lsn(upto));
    let owner = Owner { log: accounts.log, epoch: 1 };
    let branch = |sequence| BranchId {
        gtrid: Gtrid::new(owner, sequence, 0),
        bqual: Bqual::new(1, 1, owner),
    };
    let work = |sequence, account| {
        accounts.joined(&branch(sequence));
        accounts.credit(&branch(sequence), account, 1).unwrap();
    };
    let (first, second, third, reader) = (branch(1), branch(2), branch(3), branch(4));
    work(1, 1);
    work(2, 2);
    work(3, 3);
    accounts.joined(&reader);

    assert_eq!(accounts.prepare(&first).now_or_never(), None, "record 2");
    assert_eq!(accounts.prepare(&first).now_or_never(), None, "a repeat");
    assert_eq!(accounts.recover().now_or_never(), None);
    assert_eq!(accounts.prepare(&reader).now_or_never(), None, "it may have read what is not");
    flush(2);
    let vote = accounts.prepare(&first).now_or_never().unwrap().unwrap();
    assert!(matches!(vote, Vote::Commit { .. }));

    assert_eq!(accounts.commit(&first, None).now_or_never(), None, "record 3");
    assert_eq!(accounts.commit(&first, None).now_or_never(), None, "a repeat");
    assert_eq!(accounts.recall(&first).now_or_never(), None);
    assert_eq!(accounts.commit_one_phase(&second).now_or_never(), None, "record 4");
    flush(3);
    assert_eq!(accounts.commit(&first, None).now_or_never(), Some(Ok(Done::Done)));
    assert_eq!(accounts.recall(&second).now_or_never(), None, "record 4 is not flushed");
    flush(4);
    assert_eq!(accounts.recall(&second).now_or_never(), Some(Ok(Done::Done)));

    assert_eq!(accounts.prepare(&third).now_or_never(), None, "record 5");
    flush(5);
    assert_eq!(accounts.rollback(&third).now_or_never(), None, "record 6");
    assert_eq!(accounts.rollback(&third).now_or_never(), None, "a repeat");
    flush(6);
    assert_eq!(accounts.rollback(&third).now_or_never(), Some(Ok(Done::Done)));
}
