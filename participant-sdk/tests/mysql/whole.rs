//! Whole transactions, as applications make them: two databases, a coordinator, everything that
//! happens by itself.

use crate::stage::{DEBIT, Stage, soon, until, xid};
use mysql_async::prelude::Queryable;
use unanimous_databases::mariadb::Mariadb;
use unanimous_sdk::mysql::Mysql;
use unanimous_sdk::{Attached, CommitError, Outcome, Participant, Resource, Wait};

const CREDIT: &str = "UPDATE account SET cents = cents + 100 WHERE id = 1";

/// A second bank, on a database of its own.
struct Second {
    bank: Attached<Mysql>,
    participant: Participant,
    url: String,
}

impl Second {
    async fn open(stage: &Stage, server: &Mariadb) -> Self {
        let url = server.url(&crate::stage::database(server));
        Self::open_at(stage, url).await
    }

    async fn open_at(stage: &Stage, url: String) -> Self {
        let mut builder = stage.coordinator.participant("bank-2");
        let bank = builder.attach("mysql/bank-2", Mysql::url(&url).unwrap().build());
        let participant = builder.start().await.unwrap();
        Self { bank, participant, url }
    }

    async fn cents(&self) -> i64 {
        let mut conn = mysql_async::Conn::from_url(&self.url).await.unwrap();
        conn.query_first("SELECT cents FROM account WHERE id = 1").await.unwrap().unwrap()
    }
}

async fn transfer(stage: &Stage, second: &Second) -> unanimous_sdk::Transaction {
    let tx = stage.client.begin("transfer").await.unwrap().wait(Wait::Completed);
    let mut from = stage.bank.join(&tx.context()).await.unwrap();
    let mut to = second.bank.join(&tx.context()).await.unwrap();
    from.query_drop(DEBIT).await.unwrap();
    to.query_drop(CREDIT).await.unwrap();
    from.end();
    to.end();
    tx
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_commit_and_roll_back_at_both_databases() {
    let stage = Stage::set().await;
    let second = Second::open(&stage, crate::stage::server()).await;
    for _ in 0..3 {
        soon("a commit", transfer(&stage, &second).await.commit()).await.unwrap();
    }
    soon("a rollback", transfer(&stage, &second).await.rollback()).await.unwrap();
    until("everything undone", async || !stage.is_locked().await).await;
    assert_eq!((stage.cents().await, second.cents().await), (700, 1_300));
}

/// The issue: after a rollback by hand of a branch whose transaction was decided, the outcome is a
/// heuristic one; after a commit by hand it is none.
#[tokio::test(flavor = "multi_thread")]
async fn d_08_a_branch_ended_by_hand_shows_in_the_outcome_only_if_it_contradicts() {
    let stage = Stage::set().await;
    let second = Second::open(&stage, crate::stage::server()).await;
    for (verb, contradicts) in [("ROLLBACK", true), ("COMMIT", false)] {
        let tx = stage.client.begin("transfer").await.unwrap().wait(Wait::Completed);
        let mut from = stage.bank.join(&tx.context()).await.unwrap();
        let mut to = second.bank.join(&tx.context()).await.unwrap();
        from.query_drop(DEBIT).await.unwrap();
        to.query_drop(CREDIT).await.unwrap();
        let (id, connection) = (*to.branch().id(), Stage::connection(&mut to).await);
        to.vote();
        until("its vote", async || stage.is_listed(&id).await).await;
        stage.kill(connection).await;
        let by_hand = format!("XA {verb} {}", xid(&id));
        stage.other().await.query_drop(by_hand).await.unwrap();
        from.end();
        match soon("an end", tx.commit()).await {
            Err(CommitError::Heuristic { outcome, .. }) => {
                assert_eq!((outcome, contradicts), (Outcome::Mixed, true));
            }
            other => assert!(!contradicts && other.is_ok(), "{other:?}"),
        }
    }
    assert_eq!((stage.cents().await, second.cents().await), (800, 1_100));
}

/// The participant's process ends after its vote: another one finishes the branch.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_process_is_gone_is_committed_by_the_next_one() {
    let stage = Stage::set().await;
    let second = Second::open(&stage, crate::stage::server()).await;
    let tx = stage.client.begin("transfer").await.unwrap();
    let mut from = stage.bank.join(&tx.context()).await.unwrap();
    let mut to = second.bank.join(&tx.context()).await.unwrap();
    from.query_drop(DEBIT).await.unwrap();
    to.query_drop(CREDIT).await.unwrap();
    let (id, connection) = (*to.branch().id(), Stage::connection(&mut to).await);
    to.vote();
    until("its vote", async || {
        let listed = second.bank.recover().await.unwrap();
        listed.iter().any(|prepared| prepared.branch == id)
    })
    .await;
    let url = second.url.clone();
    second.participant.stop().await;
    stage.kill(connection).await;
    from.end();
    let committing = tokio::spawn(tx.wait(Wait::Completed).commit());
    let next = Second::open_at(&stage, url).await;
    soon("a commit", committing).await.unwrap().unwrap();
    assert_eq!((stage.cents().await, next.cents().await), (900, 1_100));
    assert!(!stage.is_listed(&id).await);
}
