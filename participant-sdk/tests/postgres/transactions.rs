//! Whole transactions over two databases, with a coordinator in this process.

use crate::bank::{Bank, gid, resource, shared, soon};
use std::time::Duration;
use tokio_postgres::Client as Driver;
use tonic::{Code, Status};
use unanimous_sdk::postgres::{Postgres, tokio_postgres};
use unanimous_sdk::{
    Attached, Carrier, Client, CommitError, Committed, InProcess, Participant, RollbackReason,
    Transaction, Wait,
};

struct Site {
    bank: Bank<'static>,
    participant: Participant,
    attached: Attached<Postgres>,
}

impl Site {
    async fn start(coordinator: &InProcess, name: &str) -> Self {
        let bank = Bank::open();
        let mut builder = coordinator.participant(name).scan_every(Duration::from_millis(50));
        let attached = builder.attach("accounts", bank.another());
        Self { bank, participant: builder.start().await.unwrap(), attached }
    }

    /// As a handler does it.
    async fn give(&self, call: &impl Carrier, cents: i64) -> Result<(), Status> {
        let work = self.attached.join(call).await?;
        add(&work, cents).await.map_err(|error| Status::unavailable(error.to_string()))?;
        work.end();
        Ok(())
    }

    async fn left_prepared(&self) {
        soon("nothing prepared", async {
            while !self.bank.listed().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        self.bank.assert_clean();
    }
}

async fn add(client: &Driver, cents: i64) -> Result<u64, tokio_postgres::Error> {
    client.execute("UPDATE account SET cents = cents + $1 WHERE id = 1", &[&cents]).await
}

async fn open() -> (InProcess, Client, Site, Site) {
    let coordinator = InProcess::start().await.unwrap();
    let client = coordinator.client("shop").connect().unwrap();
    let (a, b) = (Site::start(&coordinator, "a").await, Site::start(&coordinator, "b").await);
    (coordinator, client, a, b)
}

async fn commit(tx: Transaction) -> Result<Committed, CommitError> {
    soon("an end", tx.wait(Wait::Completed).commit()).await
}

#[tokio::test]
async fn a_transfer_between_two_databases_commits_or_rolls_back_as_one() {
    let (_coordinator, client, a, b) = open().await;
    for round in 1..=5 {
        let tx = client.begin("transfer").await.unwrap();
        a.give(&tx.context(), -10).await.unwrap();
        b.give(&tx.context(), 10).await.unwrap();
        commit(tx).await.unwrap();
        assert_eq!((a.bank.cents(1), b.bank.cents(1)), (100 - 10 * round, 100 + 10 * round));
    }
    let tx = client.begin("transfer").await.unwrap();
    a.give(&tx.context(), -10).await.unwrap();
    let work = b.attached.join(&tx.context()).await.unwrap();
    add(&work, 10).await.unwrap();
    drop(work);
    let error = commit(tx).await.unwrap_err();
    let CommitError::RolledBack { rollback, .. } = &error else { unreachable!("{error}") };
    assert_eq!(rollback.reason, RollbackReason::Voted, "{error}");
    assert_eq!((a.bank.cents(1), b.bank.cents(1)), (50, 150));
    a.left_prepared().await;
    b.left_prepared().await;
}

#[tokio::test]
async fn one_database_alone_commits_in_one_phase_and_a_reader_takes_no_part() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("deposit").await.unwrap();
    a.give(&tx.context(), 7).await.unwrap();
    commit(tx).await.unwrap();
    let tx = client.begin("look and deposit").await.unwrap();
    a.give(&tx.context(), 7).await.unwrap();
    let work = b.attached.join(&tx.context()).await.unwrap();
    work.query_one("SELECT sum(cents) FROM account", &[]).await.unwrap();
    work.end();
    commit(tx).await.unwrap();
    assert_eq!((a.bank.cents(1), b.bank.cents(1)), (114, 100));
    a.left_prepared().await;
    b.left_prepared().await;
}

#[tokio::test]
async fn a_failed_statement_that_a_handler_ignores_rolls_back_everywhere() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap();
    a.give(&tx.context(), -10).await.unwrap();
    let work = b.attached.join(&tx.context()).await.unwrap();
    add(&work, 10).await.unwrap();
    work.batch_execute("SELECT 1/0").await.unwrap_err();
    work.end();
    let error = commit(tx).await.unwrap_err().to_string();
    assert!(error.contains("a statement of its work has failed"), "{error}");
    assert_eq!((a.bank.cents(1), b.bank.cents(1)), (100, 100));
    a.left_prepared().await;
    b.left_prepared().await;
}

#[tokio::test]
async fn the_last_work_may_vote_early() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap();
    for (site, cents) in [(&a, -10), (&b, 10)] {
        let work = site.attached.join(&tx.context()).await.unwrap();
        add(&work, cents).await.unwrap();
        work.vote();
    }
    for site in [&a, &b] {
        soon("an early vote", async {
            while site.bank.listed().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    commit(tx).await.unwrap();
    assert_eq!((a.bank.cents(1), b.bank.cents(1)), (90, 110));
    a.left_prepared().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_undone_and_its_connection_freed() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").timeout(Duration::from_millis(300)).await.unwrap();
    a.give(&tx.context(), -10).await.unwrap();
    let context = tx.context();
    let work = b.attached.join(&context).await.unwrap();
    add(&work, 10).await.unwrap();
    let slept = soon("the statement ends", work.batch_execute("SELECT pg_sleep(600)")).await;
    slept.unwrap_err();
    let late = add(&work, 10).await;
    late.unwrap_err();
    work.end();
    commit(tx).await.unwrap_err();
    a.left_prepared().await;
    b.left_prepared().await;
    assert_eq!((a.bank.cents(1), b.bank.cents(1)), (100, 100));
}

#[tokio::test]
async fn without_a_connection_the_branch_votes_no_and_the_call_says_why() {
    let coordinator = InProcess::start().await.unwrap();
    let client = coordinator.client("shop").connect().unwrap();
    let bank = Bank::open();
    let mut builder = coordinator.participant("a");
    let url = shared().url_as(&bank.database, &bank.database);
    let wait = Duration::from_millis(50);
    let one = resource(&url, |builder| builder.work_pool_max(1).join_wait(wait));
    let attached = builder.attach("accounts", one);
    let _participant = builder.start().await.unwrap();
    let (first, second) =
        (client.begin("first").await.unwrap(), client.begin("second").await.unwrap());
    let work = attached.join(&first.context()).await.unwrap();
    add(&work, 1).await.unwrap();
    let refused = attached.join(&second.context()).await.unwrap_err();
    assert_eq!(Status::from(refused).code(), Code::ResourceExhausted);
    let error = commit(second).await.unwrap_err().to_string();
    assert!(error.contains("all 1 connections for work are busy"), "{error}");
    work.end();
    commit(first).await.unwrap();
    assert_eq!(bank.cents(1), 101);
}

/// Prepared, then the process is gone: the next one asks, and finishes it.
#[tokio::test]
async fn a_branch_of_an_earlier_process_is_found_and_finished() {
    let (coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap();
    a.give(&tx.context(), -10).await.unwrap();
    let work = b.attached.join(&tx.context()).await.unwrap();
    add(&work, 10).await.unwrap();
    let branch = *work.branch().id();
    work.vote();
    soon("an early vote", async {
        while b.bank.listed() != [gid(&branch)] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let Site { bank, participant, attached } = b;
    soon("its end", participant.stop()).await;
    drop(attached);
    let committing = tokio::spawn(tx.commit());
    let mut builder = coordinator.participant("b").scan_every(Duration::from_millis(50));
    let attached = builder.attach("accounts", bank.another());
    let again = Site { participant: builder.start().await.unwrap(), bank, attached };
    let ended = soon("an end", committing).await.unwrap();
    a.left_prepared().await;
    again.left_prepared().await;
    let sum = a.bank.cents(1) + again.bank.cents(1);
    assert_eq!(sum, 200, "{ended:?}");
    assert_eq!(a.bank.cents(1), if ended.is_ok() { 90 } else { 100 });
}
