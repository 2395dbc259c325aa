//! Connections: how many there are, who gets them, and in which state.

use crate::bank::{
    Bank, LONG, branch, committed, debit, resource, rolled_back, shared, soon, told,
};
use std::time::Duration;
use unanimous_sdk::postgres::PostgresJoinError;
use unanimous_sdk::{Done, Resource, Vote};

#[tokio::test]
async fn joining_waits_for_a_connection_and_says_that_there_is_none() {
    // Long enough to make the first connection in.
    let short = Duration::from_secs(2);
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1).join_wait(short));
    let (first, session) = bank.debit(1).await;
    let second = branch();
    bank.postgres.joined(&second);
    let error = bank.postgres.session(&second, LONG).await.unwrap_err();
    let expected = PostgresJoinError::Exhausted { connections_max: 1, waited_ms: 2_000 };
    assert_eq!(error, expected);
    let none = bank.postgres.session(&second, Duration::from_millis(1)).await.unwrap_err();
    let expected = PostgresJoinError::Exhausted { connections_max: 1, waited_ms: 1 };
    assert_eq!(none, expected, "no longer than the call has");
    drop(session);
    let evidence = bank.vote_commit(&first).await;
    assert_eq!(committed(&bank.postgres, &first, &evidence).await, Done::Done);
    drop(bank.postgres.session(&second, LONG).await.unwrap());
    assert_eq!(bank.prepare(&second).await, Vote::ReadOnly);
}

/// While the coordinator is away, others go on working.
#[tokio::test]
async fn a_branch_in_doubt_gives_its_connection_up_to_who_waits() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1));
    let (in_doubt, evidence) = bank.prepared(1).await;
    for _ in 0..3 {
        let (branch, session) = bank.debit(2).await;
        drop(session);
        let evidence = bank.vote_commit(&branch).await;
        assert_eq!(committed(&bank.postgres, &branch, &evidence).await, Done::Done);
    }
    assert_eq!(committed(&bank.postgres, &in_doubt, &evidence).await, Done::Done);
    assert_eq!((bank.cents(1), bank.cents(2)), (99, 97));
    bank.assert_clean();
}

/// All connections for work wait for a lock of a prepared branch whose own connection is gone: its
/// commit must not wait behind them.
#[tokio::test]
async fn a_commit_does_not_wait_behind_work_that_waits_for_it() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(2));
    let (holder, another) = (branch(), bank.another());
    another.joined(&holder);
    debit(&another.session(&holder, LONG).await.unwrap(), 1).await.unwrap();
    let vote = another.prepare(&holder).await.unwrap();
    let Vote::Commit { evidence: Some(evidence) } = vote else { unreachable!("{vote:?}") };
    let mut working = Vec::new();
    for _ in 0..2 {
        let waiting = branch();
        let session = bank.join(&waiting).await;
        working.push((waiting, tokio::spawn(async move { debit(&session, 1).await })));
    }
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND datname = current_database()";
    soon("both wait", async {
        while bank.sql(waits) != "2" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(committed(&bank.postgres, &holder, &evidence).await, Done::Done);
    for (waiting, work) in working {
        assert_eq!(rolled_back(&bank.postgres, &waiting).await, Done::Done);
        let _ = soon("the work", work).await.unwrap();
    }
    assert_eq!(bank.cents(1), 99);
    bank.assert_clean();
}

#[tokio::test]
async fn a_connection_with_an_open_block_is_not_used_and_not_kept() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1));
    for cents in [99, 98] {
        let read = bank.postgres.pool().get().await.unwrap();
        read.batch_execute("BEGIN READ WRITE; UPDATE account SET cents = 0").await.unwrap();
        drop(read);
        let (branch, session) = bank.debit(1).await;
        drop(session);
        let evidence = bank.vote_commit(&branch).await;
        assert_eq!(committed(&bank.postgres, &branch, &evidence).await, Done::Done);
        let all = (bank.cents(1), bank.cents(2));
        assert_eq!(all, (cents, 100), "the block is not part of the branch");
    }
    bank.assert_clean();
}

/// Work may be on its way when its block is refused.
#[tokio::test]
async fn outside_of_branches_a_connection_only_reads() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1));
    let read = bank.postgres.pool().get().await.unwrap();
    assert_eq!(debit(&read, 1).await.unwrap_err().code().unwrap().code(), "25006");
    assert_eq!(crate::bank::value(&read, "SELECT cents FROM account LIMIT 1").await, "100");
    drop(read);
    // A role that only reads goes on doing so in a branch.
    bank.sql(&format!("ALTER ROLE {} SET default_transaction_read_only = on", bank.database));
    let (another, branch) = (bank.another(), branch());
    another.joined(&branch);
    let session = another.session(&branch, LONG).await.unwrap();
    assert_eq!(debit(&session, 1).await.unwrap_err().code().unwrap().code(), "25006");
    drop(session);
    assert_eq!(rolled_back(&another, &branch).await, Done::Done);
}

/// The next block is begun without waiting only where a connection surely only reads outside.
#[tokio::test]
async fn work_that_lets_its_connection_write_outside_of_blocks_is_not_hurried() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1));
    let (first, session) = bank.debit(1).await;
    session.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    drop(session);
    let evidence = bank.vote_commit(&first).await;
    assert_eq!(committed(&bank.postgres, &first, &evidence).await, Done::Done);
    let second = bank.join(&branch()).await;
    assert_eq!(bank.open_blocks(), 1, "its block was seen begun");
    drop(second);
}

#[tokio::test]
async fn a_failed_block_in_the_pool_is_not_used() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1));
    let read = bank.postgres.pool().get().await.unwrap();
    read.batch_execute("BEGIN; SELECT 1/0").await.unwrap_err();
    drop(read);
    drop(bank.debit(1).await);
}

#[tokio::test]
async fn connections_that_died_in_the_pool_are_replaced() {
    let bank = Bank::open();
    let mut reads = Vec::new();
    for _ in 0..5 {
        reads.push(bank.postgres.pool().get().await.unwrap());
    }
    drop(reads);
    bank.sql(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    drop(bank.debit(1).await);
}

/// The settings of a role or of earlier work do not hide what the server warns of.
#[tokio::test]
async fn warnings_are_heard_whatever_was_set() {
    let bank = Bank::open_on(shared(), |builder| builder.work_pool_max(1));
    bank.sql(&format!("ALTER ROLE {} SET client_min_messages = error", bank.database));
    let read = bank.postgres.pool().get().await.unwrap();
    read.batch_execute("BEGIN READ WRITE; UPDATE account SET cents = 0").await.unwrap();
    drop(read);
    let (branch, session) = bank.debit(1).await;
    session.batch_execute("SET client_min_messages = error").await.unwrap();
    drop(session);
    let evidence = bank.vote_commit(&branch).await;
    let pinned = bank.another();
    assert_eq!(committed(&bank.postgres, &branch, &evidence).await, Done::Done);
    drop(pinned);
    let read = bank.postgres.pool().get().await.unwrap();
    assert_eq!(crate::bank::value(&read, "SHOW client_min_messages").await, "warning");
}

#[tokio::test]
async fn another_cluster_behind_the_address_is_refused() {
    let other = unanimous_databases::postgres::Postgres::start(&[]).unwrap();
    let bank = Bank::open();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (first, later) = (shared().port(), other.port());
    tokio::spawn(async move {
        let mut to = first;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            to = later;
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let postgres = resource(&url, |builder| builder);
    assert_eq!(postgres.recover().await, Ok(vec![]));
    let unavailable = branch();
    postgres.joined(&unavailable);
    let error = postgres.session(&unavailable, LONG).await.unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
    assert_eq!(told(|| postgres.prepare(&unavailable)).await, Vote::ReadOnly);
    drop(bank);
}
