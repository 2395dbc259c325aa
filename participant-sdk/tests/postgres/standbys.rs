//! Synchronous standbys that are not there, and a standby that becomes the primary.

use crate::bank::{Bank, committed, gid, soon, told};
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::{BranchResult, Decision, Done, Resource};

/// Breaks off whoever waits for a standby, until told to stop.
async fn break_off_waits(bank: &Bank<'_>) {
    loop {
        bank.sql(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        );
        tokio::task::yield_now().await;
    }
}

fn standbys(server: &Server, names: &str) {
    let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    server.sql("postgres", &sql).unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()").unwrap();
}

/// Until the processes that serve connections have read the setting.
async fn reloaded(bank: &Bank<'_>, names: &str) {
    soon("the setting", async {
        while bank.sql("SHOW synchronous_standby_names") != names {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_wait_for_a_standby_that_is_broken_off_is_no_vote_and_no_acknowledgement() {
    let server = Server::start(&[]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    let (branch, session) = bank.debit(1).await;
    drop(session);
    standbys(&server, "nobody");
    reloaded(&bank, "nobody").await;
    for _ in 0..2 {
        let answered = tokio::select! {
            answered = bank.postgres.prepare(&branch) => answered,
            () = break_off_waits(&bank) => unreachable!(),
        };
        let why = answered.unwrap_err().why;
        assert!(why.contains("standbys"), "{why}");
    }
    assert_eq!(bank.listed(), [gid(&branch)], "prepared, and nobody was told");
    standbys(&server, "");
    let vote = told(|| bank.postgres.prepare(&branch)).await;
    let unanimous_sdk::Vote::Commit { evidence: Some(evidence) } = vote else { unreachable!() };

    standbys(&server, "nobody");
    reloaded(&bank, "nobody").await;
    for _ in 0..2 {
        let answered = tokio::select! {
            answered = bank.postgres.commit(&branch, Some(&evidence)) => answered,
            () = break_off_waits(&bank) => unreachable!(),
        };
        let why = answered.unwrap_err().why;
        assert!(why.contains("standbys"), "{why}");
    }
    standbys(&server, "");
    assert_eq!(committed(&bank.postgres, &branch, &evidence).await, Done::Done);
    assert_eq!(bank.cents(1), 99);

    let (branch, session) = bank.debit(1).await;
    drop(session);
    standbys(&server, "nobody");
    reloaded(&bank, "nobody").await;
    let answered = tokio::select! {
        answered = bank.postgres.commit_one_phase(&branch) => answered,
        () = break_off_waits(&bank) => unreachable!(),
    };
    let why = answered.unwrap_err().why;
    assert!(why.contains("standbys"), "{why}");
    standbys(&server, "");
    assert_eq!(told(|| bank.postgres.commit_one_phase(&branch)).await, Done::Done);
    assert_eq!(bank.cents(1), 98);
}

#[tokio::test]
async fn a_lone_decision_has_no_effect_before_the_standbys_have_its_record() {
    let server = Server::start(&[]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    crate::alone::grant(&bank);
    assert_eq!(bank.postgres.check_alone().await, Ok(()));
    let (branch, _) = bank.prepared(1).await;
    standbys(&server, "nobody");
    reloaded(&bank, "nobody").await;
    let end = || bank.postgres.end_alone(&branch, Decision::Rollback, "no word");
    for _ in 0..2 {
        let answered = tokio::select! {
            answered = end() => answered,
            () = break_off_waits(&bank) => unreachable!(),
        };
        let why = answered.unwrap_err().why;
        assert!(why.contains("standbys"), "{why}");
        assert_eq!(bank.listed(), [gid(&branch)], "on record here, and in doubt as before");
    }
    standbys(&server, "");
    assert_eq!(told(end).await, Done::Heuristic(BranchResult::RolledBack));
    standbys(&server, "nobody");
    reloaded(&bank, "nobody").await;
    for _ in 0..2 {
        let why = tokio::select! {
            forgotten = bank.postgres.forget(&branch) => forgotten.unwrap_err().why,
            () = break_off_waits(&bank) => unreachable!(),
        };
        assert!(why.contains("standbys"), "{why}");
    }
    standbys(&server, "");
    told(|| bank.postgres.forget(&branch)).await;
    bank.assert_clean();
}

#[tokio::test]
async fn after_a_promotion_a_listed_branch_is_finished_and_a_missing_one_is_a_hazard() {
    let server = Server::start(&[]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    let (listed, listed_evidence) = bank.prepared(1).await;
    let (missing, missing_evidence) = bank.prepared(2).await;
    server.stop().unwrap();
    server.demote().unwrap();
    server.run().unwrap();
    let unfit = bank.another().check().await.unwrap_err();
    assert_eq!(unfit.what, "the server is a standby");
    server.sql("postgres", "SELECT pg_promote()").unwrap();
    bank.sql(&format!("ROLLBACK PREPARED '{}'", gid(&missing)));
    for another in [false, true] {
        let postgres = if another { bank.another() } else { bank.postgres.clone() };
        let done = committed(&postgres, &missing, &missing_evidence).await;
        assert_eq!(done, Done::Heuristic(BranchResult::Hazard));
    }
    let now = told(|| bank.postgres.recover()).await;
    assert_ne!(now[0].evidence, Some(listed_evidence.clone()), "it is on the new timeline now");
    assert_eq!(committed(&bank.postgres, &listed, &listed_evidence).await, Done::Done);
    assert_eq!((bank.cents(1), bank.cents(2)), (99, 100));
    bank.assert_clean();
}

/// What its branches are judged by belongs to a timeline, which a connection learns once.
#[tokio::test]
async fn a_connection_to_a_standby_is_not_worked_on_after_its_promotion() {
    let server = Server::start(&[]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder.work_pool_max(1));
    server.stop().unwrap();
    server.demote().unwrap();
    server.run().unwrap();
    let read = bank.postgres.pool().get().await.unwrap();
    let in_recovery = crate::bank::value(&read, "SELECT pg_is_in_recovery()::text").await;
    assert_eq!(in_recovery, "true");
    server.sql("postgres", "SELECT pg_promote()").unwrap();
    drop(read);
    let (branch, evidence) = bank.prepared(1).await;
    let listed = told(|| bank.postgres.recover()).await;
    assert_eq!(listed[0].evidence, Some(evidence.clone()), "it is on the new timeline");
    assert_eq!(committed(&bank.postgres, &branch, &evidence).await, Done::Done);
    bank.assert_clean();
}
