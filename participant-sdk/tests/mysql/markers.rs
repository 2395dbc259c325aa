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
        "INSERT INTO unanimous_marker (gtrid, bqual) SELECT X'{}', \
         UNHEX(LPAD(HEX(seq), 48, '0')) FROM seq_1_to_900",
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
