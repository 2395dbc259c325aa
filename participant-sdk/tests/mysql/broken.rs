//! A message is lost with its connection: before the server has it, or after it was carried out.
//! Whatever is said then is the truth, and nothing is left behind.

use crate::proxy::{Lost, Proxy};
use crate::stage::{DEBIT, Stage, at_last, database, server, until};
use std::sync::atomic::{AtomicUsize, Ordering};
use unanimous_sdk::mysql::mysql_async::prelude::Queryable;
use unanimous_sdk::{BranchResult, Done, Resource, Vote};

const CASES: [(Lost, bool); 4] =
    [(Lost::Request, false), (Lost::Request, true), (Lost::Reply, false), (Lost::Reply, true)];

async fn behind_a_proxy() -> (Stage, Proxy) {
    let proxy = Proxy::start(server().port()).await;
    let database = database(server());
    let url = format!("mysql://root@127.0.0.1:{}/{database}", proxy.port);
    let mut stage = Stage::at(&url, |builder| builder).await;
    // The test's own sessions go past it.
    stage.url = server().url(&database);
    (stage, proxy)
}

/// Loses the next message: that of the test, and not one of a connection that goes back to its
/// pool.
async fn lose(stage: &Stage, proxy: &Proxy, lost: Lost, half_open: bool) {
    let metrics = stage.mysql.pool().metrics();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    until("a quiet pool", async || {
        let resting = count(&metrics.connections_in_pool) + count(&metrics.connections_in_use);
        resting == count(&metrics.connection_count)
    })
    .await;
    proxy.lose(lost, half_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_lost_rolls_back() {
    let (stage, proxy) = behind_a_proxy().await;
    for (lost, half_open) in CASES {
        let (_tx, mut work) = stage.begin().await;
        let id = *work.branch().id();
        work.query_drop(DEBIT).await.unwrap();
        lose(&stage, &proxy, lost, half_open).await;
        assert_eq!(work.query_drop(DEBIT).await.unwrap_err().reason(), "DATABASE_UNAVAILABLE");
        work.end();
        let reason = stage.votes_rollback(&id).await;
        assert!(reason.starts_with("a statement failed"), "{lost:?}, {half_open}: {reason}");
        assert!(!stage.is_locked().await);
    }
    assert_eq!(stage.cents().await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_is_lost_fails_to_join_and_rolls_back() {
    let (stage, proxy) = behind_a_proxy().await;
    for (lost, half_open) in CASES {
        // A connection in the pool, so that what is lost is no handshake.
        stage.worked("DO 1").await.tx.commit().await.unwrap();
        let tx = stage.client.begin("transfer").await.unwrap();
        let branch = stage.bank.enlist(&tx.context()).await.unwrap();
        let id = *branch.id();
        branch.end();
        lose(&stage, &proxy, lost, half_open).await;
        let error = stage.bank.join(&tx.context()).await.unwrap_err();
        assert_eq!(error.reason(), "DATABASE_UNAVAILABLE", "{error}");
        stage.votes_rollback(&id).await;
        assert!(!stage.is_locked().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_is_lost_votes_by_the_truth() {
    let (stage, proxy) = behind_a_proxy().await;
    let mut cents = 1_000;
    for (lost, half_open) in CASES {
        let worked = stage.worked(DEBIT).await;
        lose(&stage, &proxy, lost, half_open).await;
        let voted = at_last("a vote", async || stage.mysql.prepare(&worked.id).await).await;
        assert!(proxy.has_lost());
        let prepared = stage.is_listed(&worked.id).await;
        assert_eq!(prepared, lost == Lost::Reply, "{lost:?}, {half_open}");
        assert_eq!(matches!(voted, Vote::Commit { .. }), prepared, "{voted:?}");
        assert_eq!(stage.is_locked().await, prepared);
        if let Vote::Commit { evidence } = voted {
            assert_eq!(stage.mysql.commit(&worked.id, evidence.as_ref()).await, Ok(Done::Done));
            cents -= 100;
        }
        assert_eq!(stage.cents().await, cents);
    }
}

/// The issue: with the reply of the commit lost, the retry finishes as committed, without a
/// heuristic.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_lost_is_done_once_and_without_a_heuristic() {
    let (stage, proxy) = behind_a_proxy().await;
    let mut cents = 1_000;
    for (lost, half_open) in CASES {
        let (worked, evidence) = stage.prepared().await;
        lose(&stage, &proxy, lost, half_open).await;
        for _ in 0..2 {
            let told = || stage.mysql.commit(&worked.id, Some(&evidence));
            assert_eq!(at_last("a commit", async || told().await).await, Done::Done);
        }
        assert!(proxy.has_lost());
        cents -= 100;
        assert_eq!(stage.cents().await, cents, "{lost:?}, {half_open}");
        assert!(!stage.is_locked().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_is_lost_is_done() {
    let (stage, proxy) = behind_a_proxy().await;
    for prepares in [false, true] {
        for (lost, half_open) in CASES {
            let worked = stage.worked(DEBIT).await;
            if prepares {
                stage.votes_commit(&worked.id).await;
            }
            lose(&stage, &proxy, lost, half_open).await;
            let told = || stage.mysql.rollback(&worked.id);
            assert_eq!(at_last("a rollback", async || told().await).await, Done::Done);
            assert!(proxy.has_lost());
            assert!(!stage.is_locked().await, "{prepares}, {lost:?}, {half_open}");
            assert!(!stage.is_listed(&worked.id).await);
        }
    }
    assert_eq!(stage.cents().await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_one_phase_that_is_lost_is_answered_by_its_marker() {
    let (stage, proxy) = behind_a_proxy().await;
    let mut cents = 1_000;
    for (lost, half_open) in CASES {
        let worked = stage.worked(DEBIT).await;
        lose(&stage, &proxy, lost, half_open).await;
        let told = || stage.mysql.commit_one_phase(&worked.id);
        let done = at_last("a commit", async || told().await).await;
        assert!(proxy.has_lost());
        let expected = if lost == Lost::Reply { Done::Done } else { Done::RolledBack };
        assert_eq!(done, expected, "{lost:?}, {half_open}");
        if done == Done::Done {
            cents -= 100;
            // The order is repeated to whoever knows nothing of it.
            assert_eq!(stage.mysql.recall(&worked.id).await, Ok(Done::Done));
        }
        assert_eq!(stage.cents().await, cents);
        assert!(!stage.is_locked().await);
    }
}

/// The marker would not be there either if the table had been emptied after the commit.
#[tokio::test(flavor = "multi_thread")]
async fn regression_a_lost_commit_in_one_phase_is_not_judged_by_another_marker_table() {
    let (stage, proxy) = behind_a_proxy().await;
    let worked = stage.worked(DEBIT).await;
    stage.other().await.query_drop("TRUNCATE TABLE unanimous_marker").await.unwrap();
    lose(&stage, &proxy, Lost::Request, false).await;
    let told = || stage.mysql.commit_one_phase(&worked.id);
    let done = at_last("a commit", async || told().await).await;
    assert!(proxy.has_lost());
    assert_eq!(done, Done::Heuristic(BranchResult::Hazard));
}

/// As after a rollback that came while the answer was being looked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_prepare_was_lost_is_rolled_back() {
    let (stage, proxy) = behind_a_proxy().await;
    for (lost, half_open) in CASES {
        let worked = stage.worked(DEBIT).await;
        lose(&stage, &proxy, lost, half_open).await;
        let preparing = stage.mysql.prepare(&worked.id);
        // Dropped while it waits for the answer, which never comes on a half-open connection.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(2), preparing).await;
        let told = || stage.mysql.rollback(&worked.id);
        assert_eq!(at_last("a rollback", async || told().await).await, Done::Done);
        assert!(!stage.is_locked().await, "{lost:?}, {half_open}");
        assert!(!stage.is_listed(&worked.id).await);
    }
    assert_eq!(stage.cents().await, 1_000);
}
