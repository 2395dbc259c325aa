//! D-08: somebody ends a prepared branch by hand. MariaDB lets nobody do that while the session
//! that prepared it is alive; MySQL does.

use crate::stage::{COMMITTED, DEBIT, HAZARD, ROLLED_BACK, Stage, Worked, xid};
use mysql_async::prelude::Queryable;
use unanimous_databases::mariadb::is_mysql;
use unanimous_sdk::{Done, Evidence, Resource};

/// A branch that voted commit, and was then ended by hand.
async fn ended(stage: &Stage, verb: &str) -> (Worked, Evidence) {
    let (tx, mut work) = stage.begin().await;
    work.query_drop(DEBIT).await.unwrap();
    let (id, connection) = (*work.branch().id(), Stage::connection(&mut work).await);
    work.end();
    let evidence = stage.votes_commit(&id).await;
    let by_hand = format!("XA {verb} {}", xid(&id));
    let mut dba = stage.other().await;
    if !is_mysql() {
        let refused = dba.query_drop(&*by_hand).await.unwrap_err();
        assert!(refused.to_string().contains("1397"), "{refused}");
        stage.kill(connection).await;
    }
    dba.query_drop(&*by_hand).await.unwrap();
    (Worked { id, tx }, evidence)
}

#[tokio::test(flavor = "multi_thread")]
async fn d_08_a_branch_that_was_ended_by_hand_is_told_with_evidence() {
    let stage = Stage::set().await;
    for (verb, commits, expected) in [
        ("COMMIT", true, Done::Done),
        ("COMMIT", false, COMMITTED),
        ("ROLLBACK", true, ROLLED_BACK),
        ("ROLLBACK", false, Done::Done),
    ] {
        let (worked, evidence) = ended(&stage, verb).await;
        for _ in 0..2 {
            let done = match commits {
                true => stage.mysql.commit(&worked.id, Some(&evidence)).await,
                false => stage.mysql.rollback(&worked.id).await,
            };
            assert_eq!(done, Ok(expected), "XA {verb}, then commit: {commits}");
        }
        assert_eq!(stage.mysql.forget(&worked.id).await, Ok(()));
    }
}

/// The same server, the same branch: but the proof is gone, or was never of this table.
#[tokio::test(flavor = "multi_thread")]
async fn d_08_without_evidence_a_missing_branch_is_a_hazard_and_never_done() {
    let stage = Stage::set().await;
    let (worked, evidence) = ended(&stage, "ROLLBACK").await;
    let told = async |evidence| stage.mysql.commit(&worked.id, evidence).await;
    assert_eq!(told(None).await, Ok(HAZARD), "a record of an older incarnation");
    let mut elsewhere = evidence.clone();
    *elsewhere.data.last_mut().unwrap() ^= 1;
    assert_eq!(told(Some(&elsewhere)).await, Ok(HAZARD), "another server's");
    assert_eq!(told(Some(&evidence)).await, Ok(ROLLED_BACK));
    assert_eq!(stage.mysql.recall(&worked.id).await, Ok(HAZARD));

    let (committed, evidence) = ended(&stage, "COMMIT").await;
    stage.other().await.query_drop("TRUNCATE TABLE unanimous_marker").await.unwrap();
    assert_eq!(stage.mysql.commit(&committed.id, Some(&evidence)).await, Ok(HAZARD));
}

/// An operator ends it before the prepare, or drops the connection's work: it never voted.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_killed_by_hand_votes_rollback() {
    let stage = Stage::set().await;
    let (_tx, mut work) = stage.begin().await;
    work.query_drop(DEBIT).await.unwrap();
    let (id, connection) = (*work.branch().id(), Stage::connection(&mut work).await);
    work.end();
    stage.kill(connection).await;
    assert_eq!(stage.mysql.commit_one_phase(&id).await, Ok(Done::RolledBack));
    assert_eq!(stage.cents().await, 1_000);
}
