//! What a branch votes, and what is left of it when it says no.

use crate::bank::{Bank, LONG, branch, debit, gid, soon, value};
use unanimous_sdk::postgres::PostgresJoinError;
use unanimous_sdk::{BranchResult, Done, JoinError, Resource, Vote};

#[tokio::test]
async fn work_is_prepared_and_committed_and_the_connection_goes_back() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    let pid = value(&session, "SELECT pg_backend_pid()").await;
    drop(session);
    let evidence = bank.vote_commit(&branch).await;
    assert_eq!(bank.listed(), [gid(&branch)]);
    assert_eq!(bank.vote_commit(&branch).await, evidence, "asked again, the same vote");
    assert_eq!(bank.cents(1), 100);
    let listed = bank.postgres.recover().await.unwrap();
    assert_eq!(listed[0].evidence.as_ref(), Some(&evidence), "what the vote carried");
    let done = bank.postgres.commit(&branch, Some(&evidence)).await;
    assert_eq!(done, Ok(Done::Done));
    assert_eq!(bank.cents(1), 99);
    bank.assert_clean();
    let session = bank.join(&crate::bank::branch()).await;
    assert_eq!(value(&session, "SELECT pg_backend_pid()").await, pid, "the same connection");
}

#[tokio::test]
async fn a_branch_without_work_votes_read_only_and_one_that_is_not_known_votes_rollback() {
    let bank = Bank::open();
    let joined = branch();
    bank.postgres.joined(&joined);
    assert_eq!(bank.prepare(&joined).await, Vote::ReadOnly);
    assert!(bank.refusal(&branch()).await.contains("is known here"));
    let late = bank.postgres.session(&joined, LONG).await.unwrap_err();
    assert_eq!(late, PostgresJoinError::Join(JoinError::Undone));
}

#[tokio::test]
async fn a_branch_that_has_only_read_votes_read_only() {
    let bank = Bank::open();
    let branch = branch();
    let session = bank.join(&branch).await;
    assert_eq!(value(&session, "SELECT sum(cents) FROM account").await, "200");
    drop(session);
    assert_eq!(bank.prepare(&branch).await, Vote::ReadOnly);
    bank.assert_clean();
    assert_eq!(bank.postgres.pool().status().available, 1, "the connection is back");
}

#[tokio::test]
async fn d_02_prepare_without_a_block_votes_no() {
    let bank = Bank::open();
    let ends = ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK AND CHAIN"];
    for end in ends {
        let (branch, session) = bank.debit(1).await;
        session.batch_execute(end).await.unwrap();
        drop(session);
        let why = bank.refusal(&branch).await;
        assert!(why.contains("has ended the block"), "{end}: {why}");
        bank.assert_clean();
    }
}

#[tokio::test]
async fn d_06_max_prepared_transactions_reached_votes_no_and_leaks_nothing() {
    let server =
        unanimous_databases::postgres::Postgres::start(&[("max_prepared_transactions", "1")]);
    let server = server.unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    let (first, evidence) = bank.prepared(1).await;
    for _ in 0..20 {
        let (second, session) = bank.debit(2).await;
        drop(session);
        let why = bank.refusal(&second).await;
        assert!(why.contains("raise max_prepared_transactions"), "{why}");
        assert_eq!(bank.postgres.rollback(&second).await, Ok(Done::Done));
    }
    assert_eq!((bank.listed(), bank.open_blocks()), (vec![gid(&first)], 0));
    assert_eq!(bank.postgres.commit(&first, Some(&evidence)).await, Ok(Done::Done));
    bank.prepared(2).await;
}

#[tokio::test]
async fn d_07_a_name_that_is_taken_votes_no_and_the_others_branch_stays() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(2).await;
    let taken = gid(&branch);
    bank.sql(&format!(
        "BEGIN; UPDATE account SET cents = 50 WHERE id = 1; PREPARE TRANSACTION '{taken}'"
    ));
    drop(session);
    assert!(bank.refusal(&branch).await.contains("42710"));
    assert_eq!(bank.listed(), std::slice::from_ref(&taken));
    assert_eq!(bank.open_blocks(), 0);
    bank.sql(&format!("COMMIT PREPARED '{taken}'"));
    assert_eq!((bank.cents(1), bank.cents(2)), (50, 100));
}

#[tokio::test]
async fn d_15_what_cannot_be_prepared_votes_no_with_the_reason() {
    let bank = Bank::open();
    for (sql, word) in [
        ("CREATE TEMP TABLE t (n int)", "temporary"),
        ("LISTEN news", "LISTEN"),
        ("NOTIFY news", "NOTIFY"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "WITH HOLD"),
        ("SELECT pg_export_snapshot()", "snapshots"),
    ] {
        let (branch, session) = bank.debit(1).await;
        session.batch_execute(sql).await.unwrap();
        drop(session);
        let why = bank.refusal(&branch).await;
        assert!(why.contains("0A000") && why.contains(word), "{sql}: {why}");
        bank.assert_clean();
    }
    assert_eq!(bank.cents(1), 100);
}

#[tokio::test]
async fn d_16_a_deferred_constraint_and_a_serialization_failure_vote_no() {
    let bank = Bank::open();
    bank.sql(
        "UPDATE account SET cents = 99 WHERE id = 2; \
         ALTER TABLE account ADD UNIQUE (cents) DEFERRABLE INITIALLY DEFERRED",
    );
    let (duplicate, session) = bank.debit(1).await;
    drop(session);
    let why = bank.refusal(&duplicate).await;
    assert!(why.contains("23505"), "{why}");
    bank.assert_clean();
    // Each has read what the other changes.
    let mut both = Vec::new();
    for account in [1, 2] {
        let branch = branch();
        let session = bank.join(&branch).await;
        session.batch_execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.unwrap();
        value(&session, "SELECT sum(cents) FROM account").await;
        session
            .execute("UPDATE account SET cents = 0 - $1 WHERE id = $1", &[&account])
            .await
            .unwrap();
        both.push(branch);
    }
    let evidence = bank.vote_commit(&both[0]).await;
    assert_eq!(bank.postgres.commit(&both[0], Some(&evidence)).await, Ok(Done::Done));
    let why = bank.refusal(&both[1]).await;
    assert!(why.contains("40001") && why.contains("try the transaction again"), "{why}");
    bank.assert_clean();
    assert_eq!((bank.cents(1), bank.cents(2)), (-1, 99));
}

#[tokio::test]
async fn d_22_a_failed_statement_never_commits() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    session.batch_execute("SELECT 1/0").await.unwrap_err();
    debit(&session, 1).await.unwrap_err();
    drop(session);
    let why = bank.refusal(&branch).await;
    assert!(why.contains("a statement of its work has failed"), "{why}");
    bank.assert_clean();
    let (alone, session) = bank.debit(1).await;
    session.batch_execute("SELECT 1/0").await.unwrap_err();
    drop(session);
    assert_eq!(bank.postgres.commit_one_phase(&alone).await, Ok(Done::RolledBack));
    bank.assert_clean();
    assert_eq!(bank.cents(1), 100);
}

/// Whoever cleans up behind himself takes the guard away as well: one branch votes no, and the next
/// one gets another connection.
#[tokio::test]
async fn a_connection_without_its_guard_votes_no_once() {
    let bank = Bank::open_on(crate::bank::shared(), |builder| builder.work_pool_max(1));
    for sql in ["DISCARD ALL", "DEALLOCATE ALL", "RESET ALL", "SET unanimous.role = 'x'"] {
        let read = bank.postgres.pool().get().await.unwrap();
        read.batch_execute(sql).await.unwrap();
        drop(read);
        let (branch, session) = bank.debit(1).await;
        drop(session);
        bank.refusal(&branch).await;
        bank.assert_clean();
        let (branch, _) = bank.prepared(1).await;
        assert_eq!(bank.postgres.rollback(&branch).await, Ok(Done::Done), "{sql}");
    }
}

/// Only the role that has prepared a branch could finish it.
#[tokio::test]
async fn d_11_work_in_another_role_votes_no_instead_of_staying_in_doubt() {
    let bank = Bank::open();
    bank.sql(&format!("CREATE ROLE other_{0}; GRANT other_{0} TO {0}", bank.database));
    for (set, unset, votes) in [
        ("SET LOCAL ROLE", "", false),
        ("SET ROLE", "", false),
        ("SET LOCAL ROLE", "RESET ROLE", true),
    ] {
        let (branch, session) = bank.debit(1).await;
        session.batch_execute(&format!("{set} other_{}; {unset}", bank.database)).await.unwrap();
        drop(session);
        let vote = bank.prepare(&branch).await;
        assert_eq!(matches!(vote, Vote::Commit { .. }), votes, "{set} {unset}: {vote:?}");
        assert_eq!(bank.postgres.rollback(&branch).await, Ok(Done::Done));
        bank.assert_clean();
    }
}

#[tokio::test]
async fn a_savepoint_saves_a_branch() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    session.batch_execute("SAVEPOINT s").await.unwrap();
    session.batch_execute("SELECT 1/0").await.unwrap_err();
    session.batch_execute("ROLLBACK TO SAVEPOINT s").await.unwrap();
    drop(session);
    let evidence = bank.vote_commit(&branch).await;
    assert_eq!(bank.postgres.commit(&branch, Some(&evidence)).await, Ok(Done::Done));
    assert_eq!(bank.cents(1), 99);
}

#[tokio::test]
async fn the_isolation_level_may_be_set_first() {
    let bank = Bank::open();
    let branch = branch();
    let session = bank.join(&branch).await;
    session.batch_execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.unwrap();
    assert_eq!(value(&session, "SHOW transaction_isolation").await, "serializable");
    debit(&session, 1).await.unwrap();
    drop(session);
    bank.vote_commit(&branch).await;
    assert_eq!(bank.postgres.rollback(&branch).await, Ok(Done::Done));
    assert_eq!(bank.cents(1), 100);
    bank.assert_clean();
}

#[tokio::test]
async fn one_branch_commits_in_one_phase_and_a_repeat_is_told_the_same() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    session.batch_execute("SET synchronous_commit = off").await.unwrap();
    drop(session);
    assert_eq!(bank.postgres.commit_one_phase(&branch).await, Ok(Done::Done));
    assert_eq!(bank.cents(1), 99);
    assert_eq!(bank.postgres.recall(&branch).await, Ok(Done::Done), "the order was repeated");
    assert_eq!(bank.postgres.rollback(&branch).await, Ok(Done::Done), "too late to be a decision");
    assert_eq!(bank.cents(1), 99);
    bank.assert_clean();
    let unknown = crate::bank::branch();
    let hazard = Done::Heuristic(BranchResult::Hazard);
    assert_eq!(bank.postgres.recall(&unknown).await, Ok(hazard));
    assert_eq!(bank.postgres.commit(&unknown, None).await, Ok(hazard));
    assert_eq!(bank.postgres.rollback(&unknown).await, Ok(Done::Done));
}

#[tokio::test]
async fn handlers_of_a_branch_share_its_block_also_at_the_same_time() {
    let bank = Bank::open();
    let branch = branch();
    bank.postgres.joined(&branch);
    let joins = (0..8).map(|number| {
        let (postgres, branch) = (bank.postgres.clone(), branch);
        tokio::spawn(async move {
            let session = postgres.session(&branch, LONG).await.unwrap();
            debit(&session, 1 + number % 2).await.unwrap();
        })
    });
    for join in joins.collect::<Vec<_>>() {
        soon("the work", join).await.unwrap();
    }
    assert_eq!(bank.postgres.pool().status().size, 1);
    let evidence = bank.vote_commit(&branch).await;
    assert_eq!(bank.postgres.commit(&branch, Some(&evidence)).await, Ok(Done::Done));
    assert_eq!((bank.cents(1), bank.cents(2)), (96, 96));
}

#[tokio::test]
async fn a_rollback_ends_the_statement_of_a_handler_that_still_works() {
    let bank = Bank::open();
    bank.sql(&format!("ALTER ROLE {} SET track_activities = off", bank.database));
    let (holder, session) = bank.debit(1).await;
    drop(session);
    bank.vote_commit(&holder).await;
    let waiting = branch();
    let session = bank.join(&waiting).await;
    debit(&session, 2).await.unwrap();
    let working = tokio::spawn(async move {
        let blocked = debit(&session, 1).await;
        let after = debit(&session, 2).await;
        (blocked.is_err(), after.is_err())
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND datname = current_database()";
    soon("it waits for the lock", async {
        while bank.sql(waits) != "1" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bank.postgres.rollback(&waiting).await, Ok(Done::Done));
    assert_eq!(soon("the handler's end", working).await.unwrap(), (true, true));
    bank.sql(
        "SET lock_timeout = '2s'; BEGIN; SELECT FROM account WHERE id = 2 FOR UPDATE; ROLLBACK",
    );
    assert_eq!(bank.postgres.rollback(&holder).await, Ok(Done::Done));
    assert_eq!((bank.cents(1), bank.cents(2)), (100, 100));
    bank.assert_clean();
}

/// On a connection that went on after the rollback, each statement would commit by itself.
#[tokio::test]
async fn work_that_comes_after_its_rollback_changes_nothing() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    assert_eq!(bank.postgres.rollback(&branch).await, Ok(Done::Done));
    bank.assert_clean();
    debit(&session, 2).await.unwrap_err();
    let late = bank.postgres.session(&branch, LONG).await.unwrap_err();
    assert_eq!(late, PostgresJoinError::Join(JoinError::Undone));
    drop(session);
    assert_eq!((bank.cents(1), bank.cents(2)), (100, 100));
    bank.assert_clean();
}

/// As the participant's core never lets it come to: it is asked to prepare while somebody works.
#[tokio::test]
async fn work_that_is_not_over_is_not_prepared() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    assert!(bank.refusal(&branch).await.contains("not over"));
    debit(&session, 1).await.unwrap_err();
    drop(session);
    assert_eq!(bank.cents(1), 100);
    bank.assert_clean();
}
