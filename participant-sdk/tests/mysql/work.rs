//! Handlers: what they do, what fails, and who waits for whom.

use crate::stage::{DEBIT, ROLLED_BACK, Stage, at_last, soon, until, xid};
use mysql_async::prelude::Queryable;
use std::time::Duration;
use tonic_types::StatusExt;
use unanimous_sdk::mysql::{Mysql, MysqlJoinError};
use unanimous_sdk::{CommitError, Done, JoinError, Resource, Vote};

/// The application has swallowed the error, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn d_22_a_failed_statement_followed_by_commit_never_commits() {
    let stage = Stage::set().await;
    for one_phase in [true, false] {
        let (tx, mut work) = stage.begin().await;
        work.query_drop(DEBIT).await.unwrap();
        let failed = work.query_drop("INSERT INTO account VALUES (2, 0)").await.unwrap_err();
        assert_eq!(failed.reason(), "DUPLICATE_KEY", "{failed}");
        work.query_drop(DEBIT).await.unwrap();
        let id = *work.branch().id();
        work.end();
        if one_phase {
            let error = soon("an end", tx.commit()).await.unwrap_err();
            assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
        } else {
            let reason = stage.votes_rollback(&id).await;
            assert!(reason.starts_with("a statement failed: ") && reason.contains("1062"));
        }
        assert_eq!(stage.cents().await, 1_000);
        assert!(!stage.is_locked().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d_23_a_deadlocks_victim_votes_rollback_and_its_connection_is_clean_for_the_pool() {
    let stage = Stage::set().await;
    let ((_one, mut first), (_two, mut second)) = (stage.begin().await, stage.begin().await);
    let update = |id: u32| format!("UPDATE account SET cents = cents + 1 WHERE id = {id}");
    first.query_drop(update(1)).await.unwrap();
    second.query_drop(update(2)).await.unwrap();
    let (a, b) = soon("a deadlock", async {
        tokio::join!(first.query_drop(update(2)), second.query_drop(update(1)))
    })
    .await;
    let ids = (*first.branch().id(), *second.branch().id());
    let first_is_victim = a.is_err();
    let victims = a.err().or(b.err()).unwrap();
    assert_eq!(victims.reason(), "DEADLOCK", "{victims}");
    first.end();
    second.end();
    let (victim, winner) = if first_is_victim { ids } else { (ids.1, ids.0) };
    let reason = stage.votes_rollback(&victim).await;
    assert!(reason.contains("1213"), "{reason}");
    let evidence = stage.votes_commit(&winner).await;
    assert_eq!(stage.mysql.commit(&winner, Some(&evidence)).await, Ok(Done::Done));
    assert_eq!(stage.cents().await, 1_001);
    assert!(!stage.is_locked().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn d_24_a_branch_that_lost_its_connection_before_prepare_votes_rollback() {
    let stage = Stage::set().await;
    for notices in [true, false] {
        let (_tx, mut work) = stage.begin().await;
        work.query_drop(DEBIT).await.unwrap();
        let (id, connection) = (*work.branch().id(), Stage::connection(&mut work).await);
        stage.kill(connection).await;
        if notices {
            let failed = work.query_drop(DEBIT).await.unwrap_err();
            assert_eq!(failed.reason(), "DATABASE_UNAVAILABLE", "{failed}");
        }
        work.end();
        stage.votes_rollback(&id).await;
        assert!(!stage.is_locked().await);
        assert_eq!(stage.mysql.commit(&id, None).await, Ok(crate::stage::HAZARD));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d_27_an_xid_that_is_taken_is_voted_down_and_its_owner_is_untouched() {
    let stage = Stage::set().await;
    for prepared in [false, true] {
        let tx = stage.client.begin("transfer").await.unwrap();
        let branch = stage.bank.enlist(&tx.context()).await.unwrap();
        let (id, xid) = (*branch.id(), xid(branch.id()));
        branch.end();
        let mut owner = stage.other().await;
        owner.query_drop(format!("XA START {xid}; {DEBIT}")).await.unwrap();
        if prepared {
            owner.query_drop(format!("XA END {xid}; XA PREPARE {xid}")).await.unwrap();
        }
        let refused = stage.bank.join(&tx.context()).await.unwrap_err();
        assert!(refused.to_string().contains("another session works under"), "{refused}");
        stage.votes_rollback(&id).await;
        assert!(stage.is_locked().await, "the owner's");
        if !prepared {
            owner.query_drop(format!("XA END {xid}; XA PREPARE {xid}")).await.unwrap();
        }
        owner.query_drop(format!("XA COMMIT {xid}")).await.unwrap();
    }
    assert_eq!(stage.cents().await, 800);
}

#[tokio::test(flavor = "multi_thread")]
async fn d_28_what_a_branch_left_in_a_table_without_transactions_is_named_at_the_start() {
    let stage = Stage::set().await;
    assert_eq!(stage.mysql.findings().await.unwrap(), []);
    let mut other = stage.other().await;
    other.query_drop("CREATE TABLE notes (n INT) ENGINE=MyISAM").await.unwrap();
    let found = stage.mysql.findings().await.unwrap();
    assert_eq!((found.len(), found[0].code), (1, "MYSQL_NO_TRANSACTIONS"));
    assert!(found[0].what.contains("notes (MyISAM)"), "{}", found[0].what);

    // It is a change: never read-only, and no rollback undoes it.
    let worked = stage.worked("INSERT INTO notes VALUES (1)").await;
    stage.votes_commit(&worked.id).await;
    assert_eq!(stage.mysql.rollback(&worked.id).await, Ok(Done::Done));
    let left: Option<u64> = other.query_first("SELECT COUNT(*) FROM notes").await.unwrap();
    assert_eq!(left, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_would_end_or_leave_the_branch_are_refused() {
    let stage = Stage::set().await;
    for statement in [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "START TRANSACTION READ ONLY",
        "CREATE TABLE other (n INT)",
        "TRUNCATE TABLE account",
        "LOCK TABLES account WRITE",
        "XA START 'other'",
        "FLUSH STATUS",
    ] {
        let (_tx, mut work) = stage.begin().await;
        work.query_drop(DEBIT).await.unwrap();
        let id = *work.branch().id();
        let refused = work.query_drop(statement).await.unwrap_err();
        assert_eq!(refused.reason(), "STATEMENT_LEAVES_BRANCH", "{statement}: {refused}");
        work.end();
        stage.votes_rollback(&id).await;
        assert!(!stage.is_locked().await, "{statement}");
    }
    assert_eq!(stage.cents().await, 1_000);
}

/// Whoever speaks XA itself can end the branch; what it writes then is outside of it. The marker
/// must not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_ended_behind_the_handles_back_writes_no_marker_and_never_commits() {
    let stage = Stage::set().await;
    for (one_phase, end, then) in [
        (false, "ROLLBACK", DEBIT),
        (true, "ROLLBACK", DEBIT),
        (false, "ROLLBACK", "XA START 'another'"),
        (false, "PREPARE", "DO 1"),
        (true, "PREPARE", "DO 1"),
    ] {
        let (_tx, mut work) = stage.begin().await;
        let id = *work.branch().id();
        let xid = xid(&id);
        work.query_drop(format!("XA END {xid}; XA {end} {xid}")).await.unwrap();
        // Some of it is refused in that state, and then it is a failed statement.
        let _ = work.query_drop(then).await;
        work.end();
        if one_phase {
            assert_eq!(stage.mysql.commit_one_phase(&id).await, Ok(Done::RolledBack));
        } else {
            stage.votes_rollback(&id).await;
        }
        let asked = format!("SELECT COUNT(*) FROM unanimous_marker WHERE gtrid = X'{}'", id.gtrid);
        assert_eq!(stage.other().await.query_first(asked).await.unwrap(), Some(0));
        assert!(!stage.is_locked().await && !stage.is_listed(&id).await, "{end}, {then}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_one_branch_take_turns_on_one_connection() {
    let stage = Stage::set().await;
    let (tx, mut first) = stage.begin().await;
    first.query_drop(DEBIT).await.unwrap();
    let connection = Stage::connection(&mut first).await;
    let (bank, context) = (stage.bank.clone(), tx.context());
    let mut second = tokio::spawn(async move {
        let mut second = bank.join(&context).await.unwrap();
        let seen: Option<i64> =
            second.query_first("SELECT cents FROM account WHERE id = 1").await.unwrap();
        let connection = Stage::connection(&mut second).await;
        second.end();
        (seen, connection)
    });
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_err(), "it waits for the first");
    first.end();
    assert_eq!(soon("the second", second).await.unwrap(), (Some(900), connection));
    soon("a commit", tx.commit()).await.unwrap();
    assert_eq!(stage.cents().await, 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_has_no_turn_in_time_is_told_and_the_branch_rolls_back() {
    let wait = Duration::from_millis(100);
    let stage = Stage::on(crate::stage::server(), |builder| builder.join_wait(wait)).await;
    let (tx, first) = stage.begin().await;
    let busy = stage.bank.join(&tx.context()).await.unwrap_err();
    assert_eq!(busy, MysqlJoinError::Busy);
    first.end();
    soon("an end", tx.commit()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_a_free_connection_is_told_apart_and_holds_up_no_one_who_ends() {
    let wait = Duration::from_millis(100);
    let with =
        |builder: unanimous_sdk::mysql::MysqlBuilder| builder.join_wait(wait).work_pool_max(1);
    let stage = Stage::on(crate::stage::server(), with).await;
    let (worked, evidence) = stage.prepared().await;
    let other = stage.client.begin("transfer").await.unwrap();
    let exhausted = stage.bank.join(&other.context()).await.unwrap_err();
    assert_eq!(exhausted.reason(), "POOL_EXHAUSTED", "{exhausted}");
    let status = tonic::Status::from(exhausted);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, "POOL_EXHAUSTED");
    soon("a rollback", other.rollback()).await.unwrap();
    assert_eq!(stage.mysql.commit(&worked.id, Some(&evidence)).await, Ok(Done::Done));
    // Its connection is free again, and clean.
    let (tx, mut work) = stage.begin().await;
    work.query_drop(DEBIT).await.unwrap();
    work.end();
    soon("a commit", tx.commit()).await.unwrap();
    assert_eq!(stage.cents().await, 800);
}

/// The coordinator is away: branches in doubt do not stop other work.
#[tokio::test(flavor = "multi_thread")]
async fn branches_in_doubt_give_their_connections_up_to_work_that_waits() {
    let stage = Stage::on(crate::stage::server(), |builder| builder.work_pool_max(2)).await;
    let (first, first_evidence) = stage.prepared().await;
    let second = stage.worked("UPDATE account SET cents = 7 WHERE id = 2").await;
    let second_evidence = stage.votes_commit(&second.id).await;
    for account in [3, 4] {
        let worked = stage.worked(&format!("INSERT INTO account VALUES ({account}, 0)")).await;
        soon("a commit", worked.tx.commit()).await.unwrap();
    }
    let (first_told, second_told) = tokio::join!(
        stage.mysql.commit(&first.id, Some(&first_evidence)),
        stage.mysql.rollback(&second.id)
    );
    assert_eq!((first_told, second_told), (Ok(Done::Done), Ok(Done::Done)));
    assert_eq!(stage.mysql.commit(&second.id, Some(&second_evidence)).await, Ok(ROLLED_BACK));
    assert_eq!(stage.cents().await, 900);
}

/// Row locks of a prepared branch, all work connections waiting for them: its commit must pass,
/// also when its own connection is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_branch_is_finished_while_all_handlers_wait_for_its_locks() {
    let stage = Stage::on(crate::stage::server(), |builder| builder.work_pool_max(3)).await;
    let (tx, mut work) = stage.begin().await;
    work.query_drop(DEBIT).await.unwrap();
    let (id, connection) = (*work.branch().id(), Stage::connection(&mut work).await);
    work.end();
    let evidence = stage.votes_commit(&id).await;
    let (_a, mut first) = stage.begin().await;
    let (_b, mut second) = stage.begin().await;
    let ids = [*first.branch().id(), *second.branch().id()];
    let waiting = tokio::spawn(async move {
        tokio::join!(first.query_drop(DEBIT), second.query_drop("DO 1")).0.unwrap();
        second.query_drop("SELECT 1").await.unwrap();
        first.end();
        second.end();
    });
    stage.kill(connection).await;
    assert_eq!(stage.mysql.commit(&id, Some(&evidence)).await, Ok(Done::Done));
    soon("the handlers", waiting).await.unwrap();
    for id in ids {
        assert_eq!(stage.mysql.rollback(&id).await, Ok(Done::Done));
    }
    assert_eq!(stage.cents().await, 900);
    drop(tx);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_dropped_in_the_middle_of_a_statement_leaves_nothing() {
    let stage = Stage::set().await;
    let (_other, mut holder) = stage.begin().await;
    holder.query_drop(DEBIT).await.unwrap();
    for swallowed in [false, true] {
        let (_tx, mut work) = stage.begin().await;
        let id = *work.branch().id();
        work.query_drop("UPDATE account SET cents = 0 WHERE id = 2").await.unwrap();
        let late = tokio::time::timeout(Duration::from_millis(50), work.query_drop(DEBIT)).await;
        assert!(late.is_err(), "it waits for a lock");
        if swallowed {
            assert_eq!(work.query_drop("DO 1").await.unwrap_err().reason(), "NOT_ACTIVE");
            work.end();
            stage.votes_rollback(&id).await;
        } else {
            drop(work);
            assert_eq!(stage.mysql.rollback(&id).await, Ok(Done::Done));
        }
        let mut other = stage.other().await;
        let free = "SELECT cents FROM account WHERE id = 2 FOR UPDATE NOWAIT";
        assert_eq!(other.query_first(free).await.unwrap(), Some(1_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_undone_under_a_handler_that_waits_or_idles_and_its_late_work_is_refused() {
    let stage = Stage::set().await;
    for waits in [true, false] {
        let (_other, mut holder) = stage.begin().await;
        holder.query_drop("UPDATE account SET cents = 5 WHERE id = 2").await.unwrap();
        let (tx, mut work) = stage.begin().await;
        let id = *work.branch().id();
        work.query_drop(DEBIT).await.unwrap();
        let connection = Stage::connection(&mut work).await;
        let worker = tokio::spawn(async move {
            let waiting = "UPDATE account SET cents = 7 WHERE id = 2";
            let waited = if waits { Some(work.query_drop(waiting).await) } else { None };
            (work, waited)
        });
        if waits {
            stage.until_busy(connection).await;
        }
        // While somebody has the connection: its session is ended.
        assert_eq!(stage.mysql.rollback(&id).await, Ok(Done::Done));
        assert!(!stage.is_locked().await);
        let (mut work, waited) = soon("the handler", worker).await.unwrap();
        assert!(waited.is_none_or(|waited| waited.is_err()));
        assert_eq!(work.query_drop(DEBIT).await.unwrap_err().reason(), "NOT_ACTIVE");
        let late = stage.bank.join(&tx.context()).await.unwrap_err();
        assert_eq!(late, MysqlJoinError::Join(JoinError::Undone));
        work.end();
        holder.fail("as the test wants");
    }
    until("everything undone", async || !stage.is_locked().await).await;
    assert_eq!(stage.cents().await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_shown_has_the_password_in_it() {
    let stage = Stage::set().await;
    let builder = Mysql::url("mysql://bank:hush-hush@127.0.0.1/bank").unwrap();
    let (shown, built) = (format!("{builder:?}"), format!("{:?}", builder.build()));
    let shown = shown + &built;
    assert!(shown.contains("127.0.0.1") && !shown.contains("hush"), "{shown}");
    // The driver's connection would show all of its options.
    let (_tx, work) = stage.begin().await;
    let shown = format!("{work:?}");
    assert!(!shown.contains("pass:") && !shown.contains("pool_opts"), "{shown}");
    work.end();
}

/// It has given up the lock by which its session can be told from others: nothing is ended that
/// might be somebody else's, and nothing is said that is not so.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_told_from_others_is_waited_for() {
    let stage = Stage::set().await;
    let mut holder = stage.other().await;
    holder
        .query_drop("START TRANSACTION; UPDATE account SET cents = 5 WHERE id = 2")
        .await
        .unwrap();
    let (_tx, mut work) = stage.begin().await;
    let id = *work.branch().id();
    work.query_drop(DEBIT).await.unwrap();
    work.query_drop("DO RELEASE_ALL_LOCKS()").await.unwrap();
    let connection = Stage::connection(&mut work).await;
    let worker = tokio::spawn(async move {
        work.query_drop("UPDATE account SET cents = 7 WHERE id = 2").await.unwrap();
        work.end();
    });
    stage.until_busy(connection).await;
    assert!(stage.mysql.rollback(&id).await.is_err());
    assert!(stage.is_locked().await);
    holder.query_drop("ROLLBACK").await.unwrap();
    soon("the handler", worker).await.unwrap();
    let told = || stage.mysql.rollback(&id);
    assert_eq!(at_last("a rollback", async || told().await).await, Done::Done);
    assert!(!stage.is_locked().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_driver_is_there_and_early_votes_come_only_from_branches_that_changed() {
    let stage = Stage::set().await;
    let (tx, mut work) = stage.begin().await;
    let (id, mysql): (_, &Mysql) = (*work.branch().id(), &stage.mysql);
    let all = "SELECT id, cents FROM account ORDER BY id";
    let rows: Vec<(u32, i64)> = work.query(all).await.unwrap();
    assert_eq!(rows, [(1, 1_000), (2, 1_000)]);
    let one = "SELECT cents FROM account WHERE id = ?";
    assert_eq!(work.exec_first(one, (2,)).await.unwrap(), Some(1_000));
    assert_eq!(work.exec::<i64, _, _>(one, (1,)).await.unwrap(), [1_000]);
    let ids = work.query_map(all, |(id, _): (u32, i64)| id).await.unwrap();
    assert_eq!(ids, work.exec_map(all, (), |(id, _): (u32, i64)| id).await.unwrap());
    assert!(!mysql.votes_early(&id), "it has only read");
    work.exec_drop("UPDATE account SET cents = ? WHERE id = 1", (900,)).await.unwrap();
    assert_eq!(work.affected_rows(), 1);
    assert!(mysql.votes_early(&id));
    work.exec_batch("INSERT INTO account VALUES (?, ?)", [(3, 1), (4, 2)]).await.unwrap();
    assert_eq!(work.last_insert_id(), None);
    work.vote();
    until("an early vote", async || stage.is_listed(&id).await).await;
    assert!(matches!(mysql.prepare(&id).await, Ok(Vote::Commit { .. })), "asked again");
    soon("a commit", tx.commit()).await.unwrap();
    until("the end of the branch", async || !stage.is_listed(&id).await).await;
    assert_eq!(stage.cents().await, 900);
}
