//! The markers: there as long as they may be needed, and not longer.

use crate::stage::{DEBIT, ROLLED_BACK, Stage, until};
use mysql_async::prelude::Queryable;
use unanimous_sdk::{BranchId, Done, EndedMark, Resource};

async fn markers(stage: &Stage) -> u64 {
    let asked = "SELECT COUNT(*) FROM unanimous_marker WHERE gtrid <> ''";
    let all = format!("{asked} AND HEX(gtrid) <> REPEAT('00', 24)");
    stage.other().await.query_first(all).await.unwrap().unwrap()
}

async fn committed(stage: &Stage) -> BranchId {
    let (worked, evidence) = stage.prepared().await;
    assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
    worked.id
}

fn up_to(id: &BranchId, exceptions: &[BranchId]) -> EndedMark {
    let owner = id.gtrid.owner();
    EndedMark {
        log: owner.log,
        epoch: owner.epoch,
        sequence: id.gtrid.sequence(),
        exceptions: exceptions.iter().map(|id| id.gtrid).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_deleted_and_nothing_else() {
    let stage = Stage::set().await;
    let first = committed(&stage).await;
    let excepted = committed(&stage).await;
    let second = committed(&stage).await;
    let later = committed(&stage).await;
    // Prepared, and below the mark: its marker is there, but locked.
    let mut work = stage.begin().await.1;
    work.query_drop("UPDATE account SET cents = 3 WHERE id = 2").await.unwrap();
    assert_eq!(markers(&stage).await, 4);
    stage.mysql.ended(&up_to(&second, &[excepted]));
    until("two markers", async || markers(&stage).await == 2).await;
    let told = async |id: &BranchId| stage.mysql.commit(id, None).await;
    assert_eq!(told(&later).await, Ok(Done::Done));
    assert_eq!(told(&excepted).await, Ok(Done::Done));
    assert_eq!(told(&first).await, Ok(crate::stage::HAZARD), "nobody asks for it any more");
    drop(work);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_branch_below_the_mark_holds_nothing_up_and_loses_nothing() {
    let stage = Stage::set().await;
    let (prepared, evidence) = stage.prepared().await;
    let committed = {
        let worked = stage.worked("UPDATE account SET cents = 3 WHERE id = 2").await;
        let evidence = stage.votes_commit(&worked.id).await;
        assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
        worked
    };
    stage.mysql.ended(&up_to(&committed.id, &[prepared.id]));
    until("no marker", async || markers(&stage).await == 0).await;
    assert_eq!(stage.mysql.commit(&prepared.id, Some(&evidence)).await, Ok(Done::Done));
    assert_eq!(markers(&stage).await, 1);
    assert_eq!(stage.mysql.commit(&prepared.id, Some(&evidence)).await, Ok(Done::Done));
}

/// More than one batch, and a rollback leaves none.
#[tokio::test(flavor = "multi_thread")]
async fn many_markers_are_deleted_in_batches_and_a_rolled_back_branch_has_none() {
    let stage = Stage::set().await;
    let first = committed(&stage).await;
    let fill = format!(
        "INSERT INTO unanimous_marker (gtrid, bqual) \
         WITH RECURSIVE numbers AS \
         (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 900) \
         SELECT X'{}', UNHEX(LPAD(HEX(n), 48, '0')) FROM numbers",
        first.gtrid
    );
    stage.other().await.query_drop(fill).await.unwrap();
    assert_eq!(markers(&stage).await, 901);
    stage.mysql.ended(&up_to(&first, &[]));
    until("no marker", async || markers(&stage).await == 0).await;

    let worked = stage.worked(DEBIT).await;
    let evidence = stage.votes_commit(&worked.id).await;
    assert_eq!(stage.mysql.rollback(&worked.id).await, Ok(Done::Done));
    assert_eq!(markers(&stage).await, 0);
    assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(ROLLED_BACK));
}

/// What the coordinator says by itself, with ordinary transactions.
#[tokio::test(flavor = "multi_thread")]
async fn markers_go_while_transactions_come() {
    let stage = Stage::set().await;
    let mut most = 0;
    for _ in 0..3 {
        for _ in 0..10 {
            stage.worked(DEBIT).await.tx.commit().await.unwrap();
        }
        most = most.max(markers(&stage).await);
    }
    assert!(most > 0);
    until("most of them gone", async || {
        stage.worked(DEBIT).await.tx.commit().await.unwrap();
        markers(&stage).await < 10
    })
    .await;
}

/// What a server's defaults, or the user's own setup, may make of a look for a marker.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_a_marker_sees_what_is_there_now_whatever_sessions_are_set_to() {
    let url = crate::stage::server().url(&crate::stage::database(crate::stage::server()));
    let opts = mysql_async::Opts::from_url(&url).unwrap();
    let odd =
        "SET SESSION autocommit = 0, SESSION completion_type = 1, SESSION sql_select_limit = 1";
    let builder = mysql_async::OptsBuilder::from_opts(opts).setup(vec![odd]);
    let stage = Stage::at(&url, |_| unanimous_sdk::mysql::Mysql::builder(builder)).await;
    for _ in 0..3 {
        // Looked for, and not there, on every one of our own connections.
        let (worked, evidence) = stage.prepared().await;
        let nobodys = sibling(&worked.id);
        for _ in 0..4 {
            let told = stage.mysql.commit(&nobodys, Some(&evidence)).await;
            assert_eq!(told, Ok(ROLLED_BACK));
        }
        assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
        assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
        stage.mysql.ended(&up_to(&worked.id, &[]));
        until("no marker", async || markers(&stage).await == 0).await;
    }
}

/// Another branch of the same transaction.
fn sibling(id: &BranchId) -> BranchId {
    let owner = id.bqual.owner();
    BranchId { gtrid: id.gtrid, bqual: unanimous_core::Bqual::new(1, 1, owner) }
}
