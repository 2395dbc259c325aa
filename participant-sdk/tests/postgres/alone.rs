//! Branches that end without their coordinator, on record in the database.

use crate::bank::{Bank, branch, committed, gid, rolled_back, soon, told};
use std::time::{Duration, Instant};
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::postgres::Postgres;
use unanimous_sdk::{BranchId, BranchResult, Decision, Done, EndedAlone, Evidence, Resource, Vote};

const BOTH: [Decision; 2] = [Decision::Commit, Decision::Rollback];

pub fn grant(bank: &Bank<'_>) {
    bank.sql(&format!("GRANT CREATE ON SCHEMA public TO {}", bank.database));
}

/// A database whose participant may end branches alone.
pub async fn open() -> Bank<'static> {
    let bank = Bank::open();
    grant(&bank);
    assert_eq!(bank.postgres.check_alone().await, Ok(()));
    bank
}

fn result(decision: Decision) -> BranchResult {
    match decision {
        Decision::Commit => BranchResult::Committed,
        Decision::Rollback => BranchResult::RolledBack,
    }
}

fn other(decision: Decision) -> Decision {
    if decision == Decision::Commit { Decision::Rollback } else { Decision::Commit }
}

fn cents(decision: Decision) -> i64 {
    if decision == Decision::Commit { 99 } else { 100 }
}

async fn ended_alone(postgres: &Postgres, branch: &BranchId, decision: Decision) -> Done {
    told(|| postgres.end_alone(branch, decision, "no word")).await
}

async fn ordered(
    postgres: &Postgres,
    order: Decision,
    branch: &BranchId,
    evidence: &Evidence,
) -> Done {
    match order {
        Decision::Commit => committed(postgres, branch, evidence).await,
        Decision::Rollback => rolled_back(postgres, branch).await,
    }
}

pub fn records(bank: &Bank<'_>) -> Vec<String> {
    let rows = bank.sql("SELECT gid, committed FROM unanimous_alone ORDER BY decided_at");
    rows.lines().map(str::to_owned).collect()
}

fn recorded(branch: &BranchId, decision: Decision) -> Vec<String> {
    let committed = if decision == Decision::Commit { "t" } else { "f" };
    vec![format!("{}|{committed}", gid(branch))]
}

/// What a life leaves that dies between the record and its effect.
pub fn die_after_the_record(bank: &Bank<'_>, branch: &BranchId, decision: Decision) {
    bank.sql(&format!(
        "INSERT INTO unanimous_alone SELECT p.gid, {}, c.system_identifier || '.' || \
         ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int || '.' || \
         p.transaction, 'no word' FROM pg_prepared_xacts p, pg_control_system() c \
         WHERE p.gid = '{}'",
        decision == Decision::Commit,
        gid(branch)
    ));
    assert_eq!(records(bank), recorded(branch, decision));
}

/// Longer than any order is on its way.
async fn a_second_later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_lone_decision_frees_the_branch_and_is_told_until_it_is_forgotten() {
    for decision in BOTH {
        // By the process that has prepared it, and by another that has found it since.
        for another in [false, true] {
            let bank = open().await;
            let (branch, evidence) = bank.prepared(1).await;
            let postgres = if another { bank.another() } else { bank.postgres.clone() };
            let why = r"it's \ 'silent'";
            let done = told(|| postgres.end_alone(&branch, decision, why)).await;
            let alone = Done::Heuristic(result(decision));
            assert_eq!((done, bank.cents(1)), (alone, cents(decision)));
            bank.assert_clean();
            assert_eq!(records(&bank), recorded(&branch, decision));

            a_second_later().await;
            let new = bank.another();
            let one = EndedAlone { branch, result: result(decision), why: why.to_owned() };
            assert_eq!(new.ended_alone().await, Ok(vec![one]));
            assert_eq!(new.recover().await, Ok(vec![]));
            for postgres in [&bank.postgres, &new] {
                let vote = told(|| postgres.prepare(&branch)).await;
                assert!(matches!(vote, Vote::Rollback { .. }), "{vote:?}");
                for order in BOTH {
                    assert_eq!(ordered(postgres, order, &branch, &evidence).await, alone);
                    assert_eq!(ended_alone(postgres, &branch, order).await, alone);
                }
                assert_eq!(told(|| postgres.recall(&branch)).await, alone);
                assert_eq!(told(|| postgres.commit_one_phase(&branch)).await, alone);
            }

            for _ in 0..2 {
                assert_eq!(new.forget(&branch).await, Ok(()));
            }
            assert_eq!(records(&bank), Vec::<String>::new());
            assert_eq!(new.ended_alone().await, Ok(vec![]));
            assert_eq!(bank.another().rollback(&branch).await, Ok(Done::Done));
            assert_eq!(bank.cents(1), cents(decision));
        }
    }
}

#[tokio::test]
async fn a_record_without_effect_gives_way_to_an_order() {
    for (decision, order) in BOTH.iter().flat_map(|one| BOTH.map(|two| (*one, two))) {
        for found in [false, true] {
            let bank = open().await;
            let (branch, evidence) = bank.prepared(1).await;
            die_after_the_record(&bank, &branch, decision);
            a_second_later().await;
            let postgres = if found { bank.another() } else { bank.postgres.clone() };
            assert_eq!(postgres.ended_alone().await, Ok(vec![]), "it is listed as prepared");
            assert_eq!(postgres.recover().await.unwrap().len(), 1);
            assert_eq!(
                bank.prepare(&branch).await,
                Vote::Commit { evidence: evidence.clone().into() }
            );
            for _ in 0..2 {
                assert_eq!(ordered(&postgres, order, &branch, &evidence).await, Done::Done);
                assert_eq!(records(&bank), Vec::<String>::new(), "{decision:?}, {order:?}");
            }
            assert_eq!(bank.cents(1), cents(order));
            bank.assert_clean();
        }
    }
}

#[tokio::test]
async fn a_record_without_effect_is_carried_out_whatever_is_decided_now() {
    for decision in BOTH {
        let bank = open().await;
        let (branch, _) = bank.prepared(1).await;
        die_after_the_record(&bank, &branch, decision);
        let done = ended_alone(&bank.another(), &branch, other(decision)).await;
        assert_eq!((done, bank.cents(1)), (Done::Heuristic(result(decision)), cents(decision)));
        assert_eq!(records(&bank), recorded(&branch, decision));
        bank.assert_clean();
    }
}

/// The order's own process died before it could take the record away.
#[tokio::test]
async fn a_record_that_the_server_contradicts_is_nobodys_decision() {
    for decision in BOTH {
        for asked in ["ended_alone", "commit", "rollback", "end_alone"] {
            let bank = open().await;
            let (branch, evidence) = bank.prepared(1).await;
            die_after_the_record(&bank, &branch, decision);
            let order = other(decision);
            let word = if order == Decision::Commit { "COMMIT" } else { "ROLLBACK" };
            bank.sql(&format!("{word} PREPARED '{}'", gid(&branch)));
            let postgres = bank.another();
            match asked {
                "ended_alone" => assert_eq!(postgres.ended_alone().await, Ok(vec![])),
                "end_alone" => {
                    assert_eq!(ended_alone(&postgres, &branch, decision).await, Done::Done);
                }
                "commit" => {
                    let done = committed(&postgres, &branch, &evidence).await;
                    let alone = Done::Heuristic(BranchResult::RolledBack);
                    let by_evidence = if order == Decision::Commit { Done::Done } else { alone };
                    assert_eq!(done, by_evidence);
                }
                _ => assert_eq!(rolled_back(&postgres, &branch).await, Done::Done),
            }
            assert_eq!(records(&bank), Vec::<String>::new(), "{decision:?}, {asked}");
        }
    }
}

/// As after the promotion of a standby: the row stands, and the branch may still be prepared.
#[tokio::test]
async fn a_record_about_which_nothing_can_be_proved_counts_once_its_branch_is_gone() {
    for order in BOTH {
        let bank = open().await;
        let (branch, evidence) = bank.prepared(1).await;
        die_after_the_record(&bank, &branch, Decision::Rollback);
        bank.sql("UPDATE unanimous_alone SET xact = 'x'");
        a_second_later().await;
        assert_eq!(bank.postgres.ended_alone().await, Ok(vec![]));
        assert!(matches!(bank.prepare(&branch).await, Vote::Commit { .. }));
        bank.sql(&format!("ROLLBACK PREPARED '{}'", gid(&branch)));
        assert_eq!(bank.postgres.ended_alone().await.unwrap().len(), 1);
        let done = ordered(&bank.postgres, order, &branch, &evidence).await;
        assert_eq!(done, Done::Heuristic(BranchResult::RolledBack));
    }
}

#[tokio::test]
async fn nothing_to_end_is_done_and_leaves_no_record() {
    let bank = open().await;
    let (ended, evidence) = bank.prepared(1).await;
    assert_eq!(committed(&bank.postgres, &ended, &evidence).await, Done::Done);
    for branch in [ended, branch()] {
        for postgres in [bank.postgres.clone(), bank.another()] {
            assert_eq!(ended_alone(&postgres, &branch, Decision::Rollback).await, Done::Done);
        }
    }
    assert_eq!(records(&bank), Vec::<String>::new());
    let (worked_on, session) = bank.debit(1).await;
    drop(session);
    bank.postgres.end_alone(&worked_on, Decision::Commit, "no word").await.unwrap_err();
    assert_eq!(rolled_back(&bank.postgres, &worked_on).await, Done::Done);
    assert_eq!((records(&bank), bank.cents(1)), (vec![], 99));
}

/// It has been seen prepared, and is not on record yet.
#[tokio::test]
async fn a_branch_that_somebody_else_ends_just_before_is_judged_by_the_server() {
    for decision in BOTH {
        for by_hand in BOTH {
            let bank = open().await;
            let (branch, _) = bank.prepared(1).await;
            let in_the_way = bank.join(&crate::bank::branch()).await;
            in_the_way.batch_execute("LOCK TABLE unanimous_alone IN SHARE MODE").await.unwrap();
            let postgres = bank.another();
            let ending =
                tokio::spawn(async move { ended_alone(&postgres, &branch, decision).await });
            soon("it waits", async {
                let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = \
                               current_database() AND wait_event_type = 'Lock'";
                while bank.sql(waiting) != "1" {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let word = if by_hand == Decision::Commit { "COMMIT" } else { "ROLLBACK" };
            bank.sql(&format!("{word} PREPARED '{}'", gid(&branch)));
            in_the_way.batch_execute("ROLLBACK").await.unwrap();
            // Alike, nobody can tell it from a second process that has decided alone as well.
            let (done, left) = match by_hand == decision {
                true => (Done::Heuristic(result(decision)), recorded(&branch, decision)),
                false => (Done::Done, vec![]),
            };
            assert_eq!(soon("its end", ending).await.unwrap(), done);
            assert_eq!((records(&bank), bank.cents(1)), (left, cents(by_hand)));
        }
    }
}

/// None of them may take the record of another away.
#[tokio::test]
async fn processes_that_decide_at_once_come_to_one_decision_that_stays_on_record() {
    let bank = open().await;
    let (one, two) = (bank.another(), bank.another());
    for round in 1..=20 {
        let (branch, _) = bank.prepared(1).await;
        let all = tokio::join!(
            ended_alone(&one, &branch, Decision::Commit),
            ended_alone(&two, &branch, Decision::Rollback),
            ended_alone(&bank.postgres, &branch, Decision::Rollback),
        );
        assert!(matches!(all.0, Done::Heuristic(_)), "{all:?}");
        assert!(all.0 == all.1 && all.1 == all.2, "{all:?}");
        assert_eq!(records(&bank).len(), round);
    }
    assert_eq!(one.ended_alone().await.unwrap().len(), 20);
    bank.assert_clean();
}

#[tokio::test]
async fn without_the_table_nothing_is_decided_and_nothing_else_is_missing() {
    let bank = Bank::open();
    let (branch, evidence) = bank.prepared(1).await;
    let another = bank.another();
    let refused = another.end_alone(&branch, Decision::Rollback, "no word").await.unwrap_err();
    assert!(refused.why.contains("42P01"), "{refused:?}");
    assert_eq!(bank.listed(), [gid(&branch)], "in doubt as before");
    assert_eq!(another.ended_alone().await, Ok(vec![]));
    assert_eq!(another.forget(&branch).await, Ok(()));
    a_second_later().await;
    assert!(matches!(bank.prepare(&branch).await, Vote::Commit { .. }));
    assert_eq!(committed(&another, &branch, &evidence).await, Done::Done);
    assert_eq!(committed(&another, &branch, &evidence).await, Done::Done);
    assert_eq!(another.rollback(&crate::bank::branch()).await, Ok(Done::Done));
    bank.assert_clean();
}

/// Two participants in one database, of which only the other one decides alone.
#[tokio::test]
async fn a_table_of_another_role_is_in_nobodys_way() {
    let bank = Bank::open();
    let theirs = Bank::open().database;
    bank.sql(&format!(
        "CREATE TABLE unanimous_alone (gid text PRIMARY KEY); \
         ALTER TABLE unanimous_alone OWNER TO {theirs}"
    ));
    for order in BOTH {
        let (branch, evidence) = bank.prepared(1).await;
        let another = bank.another();
        assert_eq!(another.recover().await.unwrap().len(), 1);
        assert_eq!(another.ended_alone().await, Ok(vec![]));
        for _ in 0..2 {
            assert_eq!(ordered(&another, order, &branch, &evidence).await, Done::Done);
        }
    }
    assert_eq!(bank.cents(1), 99);
}

#[tokio::test]
async fn a_role_without_the_right_to_the_table_is_told_what_to_run() {
    let bank = Bank::open();
    let unfit = bank.postgres.check_alone().await.unwrap_err();
    assert!(unfit.what.contains("permission denied for schema public"), "{unfit}");
    let (_, statements) = unfit.next.split_once(": ").unwrap();
    bank.sql(statements);
    for _ in 0..2 {
        assert_eq!(bank.postgres.check_alone().await, Ok(()), "it has no right to make it");
    }
    let (branch, _) = bank.prepared(1).await;
    let done = ended_alone(&bank.postgres, &branch, Decision::Rollback).await;
    assert_eq!(done, Done::Heuristic(BranchResult::RolledBack));
    assert_eq!(bank.postgres.forget(&branch).await, Ok(()));

    for (change, mended, word) in [
        ("REVOKE DELETE ON unanimous_alone FROM", "GRANT DELETE ON unanimous_alone TO", "denied"),
        ("REVOKE INSERT ON unanimous_alone FROM", "GRANT INSERT ON unanimous_alone TO", "denied"),
        ("REVOKE SELECT ON unanimous_alone FROM", "GRANT SELECT ON unanimous_alone TO", "denied"),
    ] {
        bank.sql(&format!("{change} {}", bank.database));
        let unfit = bank.postgres.check_alone().await.unwrap_err();
        assert!(unfit.what.contains(word), "{unfit}");
        bank.sql(&format!("{mended} {}", bank.database));
        assert_eq!(bank.postgres.check_alone().await, Ok(()));
    }
    for (change, word) in [
        ("ALTER TABLE unanimous_alone DROP CONSTRAINT unanimous_alone_pkey", "ON CONFLICT"),
        ("ALTER TABLE unanimous_alone DROP why", "\"why\""),
        ("ALTER TABLE unanimous_alone SET UNLOGGED", "survives a crash"),
    ] {
        bank.sql(change);
        let unfit = bank.postgres.check_alone().await.unwrap_err();
        assert!(unfit.what.contains(word), "{unfit}");
    }
}

#[tokio::test]
async fn several_processes_that_start_at_once_make_one_table() {
    let bank = Bank::open();
    grant(&bank);
    let several: Vec<_> = (0..4).map(|_| bank.another()).collect();
    let made = several.iter().map(Resource::check_alone);
    for made in futures_util::future::join_all(made).await {
        assert_eq!(made, Ok(()));
    }
}

/// And of foreign rows none is touched.
#[tokio::test]
async fn a_record_survives_a_kill_of_the_server() {
    let server = Server::start(&[]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    grant(&bank);
    assert_eq!(bank.postgres.check_alone().await, Ok(()));
    bank.sql("INSERT INTO unanimous_alone VALUES ('somebody''s', true, 'x', 'y')");
    let (branch, _) = bank.prepared(1).await;
    ended_alone(&bank.postgres, &branch, Decision::Rollback).await;
    server.restart().unwrap();
    let another = bank.another();
    let listed = told(|| another.ended_alone()).await;
    assert_eq!(listed.iter().map(|one| one.branch).collect::<Vec<_>>(), [branch]);
    assert_eq!(told(|| another.forget(&branch)).await, ());
    server.restart().unwrap();
    assert_eq!(records(&bank), ["somebody's|t"]);
}

/// A policy is of no use to most: who has none, or does not need it, pays nothing.
#[tokio::test]
async fn a_branch_that_is_ended_at_once_is_not_looked_up() {
    let server = Server::start(&[("log_statement", "all")]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);
    grant(&bank);
    assert_eq!(bank.postgres.check_alone().await, Ok(()));
    let said = |order, later| {
        let (bank, server) = (&bank, &server);
        async move {
            loop {
                let before = server.log_text().len();
                let begun = Instant::now();
                let (branch, evidence) = bank.prepared(1).await;
                if later {
                    a_second_later().await;
                }
                assert_eq!(ordered(&bank.postgres, order, &branch, &evidence).await, Done::Done);
                // On a machine that stood still meanwhile nothing is shown.
                if begun.elapsed() < Duration::from_millis(400) {
                    let log = server.log_text();
                    return log[before..].matches("unanimous_alone").count();
                }
            }
        }
    };
    for order in BOTH {
        assert_eq!(soon("a quick end", said(order, false)).await, 0);
        assert!(soon("a quick end", said(order, true)).await > 0, "of an old one it is");
    }
}
