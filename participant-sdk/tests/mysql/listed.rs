//! Prepared branches that the server lists: ours, other coordinators', and anybody's.

use crate::stage::{DEBIT, Stage, until, xid};
use mysql_async::prelude::Queryable;
use unanimous_core::{Bqual, Gtrid, LogId, Owner};
use unanimous_databases::mariadb::is_mysql;
use unanimous_sdk::mysql::Mysql;
use unanimous_sdk::{BranchId, Done, Resource};

/// Prepares it by hand, and loses the session.
async fn leave(stage: &Stage, xid: &str, id: u32) {
    let mut other = stage.other().await;
    let work = format!("UPDATE account SET cents = cents - 1 WHERE id = {id}");
    let message = format!("XA START {xid}; {work}; XA END {xid}; XA PREPARE {xid}");
    other.query_drop(message).await.unwrap();
    let connection = u64::from(other.id());
    other.disconnect().await.unwrap();
    stage.until_gone(connection).await;
}

async fn all_listed(stage: &Stage) -> Vec<(i64, u32, u32, Vec<u8>)> {
    stage.other().await.query("XA RECOVER").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn d_26_foreign_branches_are_neither_listed_nor_touched_whatever_their_bytes_are() {
    let stage = Stage::set().await;
    let (worked, evidence) = stage.prepared().await;
    let mut insert = stage.other().await;
    insert.query_drop("INSERT INTO account VALUES (3,0),(4,0),(5,0),(6,0)").await.unwrap();
    let BranchId { gtrid, bqual } = worked.id;
    let foreign = [
        // Not even UTF-8, of all lengths.
        "X'ff00fe27','',2147483647".to_owned(),
        format!("X'{}',X'{}',0", "0d".repeat(64), "c3".repeat(64)),
        // Our own layout, and somebody else's format. (The same bytes would be the same branch to
        // MariaDB, which compares everything but the format.)
        format!("X'{}07',X'{bqual}',1", &gtrid.to_string()[..46]),
        // Our own format, and somebody else's layout.
        format!("X'02{}',X'{bqual}',1431191886", &gtrid.to_string()[2..]),
    ];
    for (xid, account) in foreign.iter().zip(3..) {
        leave(&stage, xid, account).await;
    }
    let before = all_listed(&stage).await;
    assert!(before.len() >= 5, "{before:?}");
    let listed = stage.mysql.recover().await.unwrap();
    let mine: Vec<_> =
        listed.iter().filter(|found| found.branch.gtrid.owner() == gtrid.owner()).collect();
    assert_eq!(mine.len(), 1);
    assert_eq!((mine[0].branch, mine[0].evidence.as_ref()), (worked.id, Some(&evidence)));
    assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
    let kept = all_listed(&stage).await;
    for xid in foreign {
        insert.query_drop(format!("XA ROLLBACK {xid}")).await.unwrap();
    }
    assert_eq!(kept.len(), before.len() - 1, "only ours is gone");
}

/// D-17: what has our layout is judged by the rules of section 6 of the contract.
#[tokio::test(flavor = "multi_thread")]
async fn d_17_an_orphan_of_this_coordinator_is_undone_and_another_incarnations_is_left_alone() {
    let stage = Stage::set().await;
    let worked = stage.worked(DEBIT).await;
    let mine = worked.id.gtrid.owner();
    let number = worked.id.bqual.resource_manager();
    worked.tx.rollback().await.unwrap();
    until("the end of the work", async || !stage.is_locked().await).await;

    let of = |owner: Owner| BranchId {
        gtrid: Gtrid::new(owner, worked.id.gtrid.sequence(), 0),
        bqual: Bqual::new(number, 77, owner),
    };
    let other_log = LogId { incarnation: mine.log.incarnation ^ 1, ..mine.log };
    let (orphan, foreign) = (of(mine), of(Owner { log: other_log, ..mine }));
    leave(&stage, &xid(&orphan), 1).await;
    leave(&stage, &xid(&foreign), 2).await;

    // Another process of the same participant starts, and finds both.
    let mysql = Mysql::url(&stage.url).unwrap().build();
    let mut builder = stage.coordinator.participant("bank");
    builder.attach("mysql/bank", mysql);
    let second = builder.start().await.unwrap();
    until("the orphan's end", async || !stage.is_listed(&orphan).await).await;
    assert!(stage.is_listed(&foreign).await);
    second.stop().await;
    assert!(stage.is_listed(&foreign).await, "it waits for its operator");
    stage.other().await.query_drop(format!("XA ROLLBACK {}", xid(&foreign))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_votes_and_ends_for_one_that_is_gone() {
    let stage = Stage::set().await;
    for commits in [true, false] {
        let (_tx, mut work) = stage.begin().await;
        work.query_drop(DEBIT).await.unwrap();
        let (id, connection) = (*work.branch().id(), Stage::connection(&mut work).await);
        work.end();
        let evidence = stage.votes_commit(&id).await;
        let second = Mysql::url(&stage.url).unwrap().build();
        let early = match commits {
            true => second.commit(&id, Some(&evidence)).await,
            false => second.rollback(&id).await,
        };
        // While the first one's session lives, MariaDB lets nobody else have it.
        if is_mysql() {
            assert_eq!(early, Ok(Done::Done));
            continue;
        }
        assert!(early.unwrap_err().why.contains("another session has the branch"));
        stage.kill(connection).await;
        assert_eq!(stage.votes_commit(&id).await, evidence);
        let voted = second.prepare(&id).await.unwrap();
        assert_eq!(voted, unanimous_sdk::Vote::Commit { evidence: Some(evidence.clone()) });
        let done = match commits {
            true => second.commit(&id, Some(&evidence)).await,
            false => second.rollback(&id).await,
        };
        assert_eq!(done, Ok(Done::Done));
    }
    assert_eq!(stage.cents().await, 900);
}
