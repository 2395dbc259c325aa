//! Branches that changed nothing vote read-only, by the server's own count.

use crate::stage::{DEBIT, Stage, soon};
use mysql_async::prelude::Queryable;
use unanimous_databases::mariadb::is_mysql;
use unanimous_sdk::{Done, Resource, Vote};

/// With a table of the server's own, for a moment.
const GROUPED: &str = "SELECT cents, COUNT(*) FROM account GROUP BY cents ORDER BY MAX(id)";
const READ: &str = "SELECT cents FROM account WHERE id = 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_only_read_votes_read_only_and_keeps_no_lock() {
    let stage = Stage::set().await;
    for statement in [
        READ,
        "SELECT cents FROM account WHERE id = 1 FOR UPDATE",
        GROUPED,
        "UPDATE account SET cents = cents WHERE id = 99",
        "SET @variable = 1",
        "SHOW WARNINGS",
    ] {
        let worked = stage.worked(statement).await;
        if is_mysql() && statement == GROUPED {
            // It counts rows of its own tables like any other: a change for nothing.
            stage.votes_commit(&worked.id).await;
            assert_eq!(stage.mysql.rollback(&worked.id).await, Ok(Done::Done));
            continue;
        }
        let voted = stage.mysql.prepare(&worked.id).await;
        assert_eq!(voted, Ok(Vote::ReadOnly), "{statement}");
        assert!(!stage.is_locked().await, "{statement}");
        // Asked again, it is a branch that is over.
        stage.votes_rollback(&worked.id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_without_any_work_votes_read_only() {
    let stage = Stage::set().await;
    let tx = stage.client.begin("look").await.unwrap();
    let branch = stage.bank.enlist(&tx.context()).await.unwrap();
    let id = *branch.id();
    branch.end();
    assert_eq!(stage.mysql.prepare(&id).await, Ok(Vote::ReadOnly));
}

/// What changes rows without saying so to the caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_behind_a_select_or_a_call_is_a_change() {
    let stage = Stage::set().await;
    let mut other = stage.other().await;
    for made in [
        "CREATE FUNCTION takes() RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN \
         UPDATE account SET cents = cents - 100 WHERE id = 1; RETURN 1; END",
        "CREATE PROCEDURE take() BEGIN UPDATE account SET cents = cents - 100 WHERE id = 1; \
         SELECT 1; END",
        "CREATE TRIGGER added BEFORE UPDATE ON account FOR EACH ROW SET NEW.cents = NEW.cents",
    ] {
        other.query_drop(made).await.unwrap();
    }
    let mut cents = 1_000;
    for statement in
        ["SELECT takes()", "CALL take()", "UPDATE account SET cents = 1 WHERE id = 1; DO 1"]
    {
        let worked = stage.worked(statement).await;
        let evidence = stage.votes_commit(&worked.id).await;
        assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
        cents = if statement.starts_with("UPDATE") { 1 } else { cents - 100 };
        assert_eq!(stage.cents().await, cents, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phase_commits_reads_and_changes_alike_and_repeats_its_answer() {
    let stage = Stage::set().await;
    for (statement, cents) in [(READ, 1_000), (DEBIT, 900)] {
        let worked = stage.worked(statement).await;
        assert_eq!(stage.mysql.commit_one_phase(&worked.id).await, Ok(Done::Done));
        assert_eq!(stage.mysql.recall(&worked.id).await, Ok(Done::Done), "{statement}");
        assert_eq!(stage.cents().await, cents);
        assert!(!stage.is_locked().await);
    }
    let (tx, mut work) = stage.begin().await;
    let seen: Option<i64> = work.query_first(READ).await.unwrap();
    work.end();
    soon("a commit", tx.commit()).await.unwrap();
    assert_eq!(seen, Some(900));
}
