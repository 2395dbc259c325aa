//! What people do by hand: with our branches, and with their own.

use crate::bank::{Bank, branch, committed, debit, gid, rolled_back, told};
use unanimous_sdk::{BranchResult, Done, Evidence, Resource};

#[tokio::test]
async fn d_08_a_branch_that_was_finished_by_hand_is_judged_by_evidence() {
    let heuristic = Done::Heuristic;
    for (by_hand, commits, expected, cents) in [
        ("COMMIT", true, Done::Done, 99),
        ("ROLLBACK", true, heuristic(BranchResult::RolledBack), 100),
        ("ROLLBACK", false, Done::Done, 100),
        ("COMMIT", false, heuristic(BranchResult::Committed), 99),
    ] {
        // By the process that has prepared it, and by another that has found it since.
        for another in [false, true] {
            let bank = Bank::open();
            let (branch, evidence) = bank.prepared(1).await;
            let postgres = if another { bank.another() } else { bank.postgres.clone() };
            assert_eq!(postgres.recover().await.unwrap().len(), 1);
            bank.sql(&format!("{by_hand} PREPARED '{}'", gid(&branch)));
            for _ in 0..2 {
                let done = match commits {
                    true => committed(&postgres, &branch, &evidence).await,
                    false => rolled_back(&postgres, &branch).await,
                };
                assert_eq!(done, expected, "{by_hand} by hand, then told: commit {commits}");
            }
            assert_eq!(bank.cents(1), cents);
            bank.assert_clean();
        }
    }
}

#[tokio::test]
async fn a_branch_that_is_gone_without_evidence_of_this_cluster_is_a_hazard() {
    let bank = Bank::open();
    let (branch, evidence) = bank.prepared(1).await;
    assert_eq!(rolled_back(&bank.postgres, &branch).await, Done::Done);
    let another = bank.another();
    let changed = |index: usize| {
        let mut data = evidence.data.clone();
        data[index] ^= 1;
        Evidence { data, ..evidence.clone() }
    };
    let other_kind = Evidence { kind: "mysql-marker".to_owned(), ..evidence.clone() };
    let hazard = Ok(Done::Heuristic(BranchResult::Hazard));
    // The system identifier, the timeline, an xid of the future, another resource's evidence.
    for evidence in [changed(0), changed(11), changed(13), other_kind] {
        assert_eq!(another.commit(&branch, Some(&evidence)).await, hazard, "{evidence:?}");
    }
    assert_eq!(another.commit(&branch, None).await, hazard);
    let rolled_back = Ok(Done::Heuristic(BranchResult::RolledBack));
    assert_eq!(another.commit(&branch, Some(&evidence)).await, rolled_back);
}

#[tokio::test]
async fn d_11_a_branch_of_another_role_stays_in_doubt_until_somebody_mends_it() {
    let bank = Bank::open();
    bank.sql(&format!("CREATE ROLE other_{0}; GRANT other_{0} TO {0}", bank.database));
    bank.sql(&format!("GRANT ALL ON account TO other_{}", bank.database));
    let (branch, session) = bank.debit(1).await;
    drop(session);
    let gid = gid(&branch);
    assert_eq!(rolled_back(&bank.postgres, &branch).await, Done::Done);
    bank.sql(&format!(
        "SET ROLE other_{}; BEGIN; UPDATE account SET cents = 99 WHERE id = 1; \
         PREPARE TRANSACTION '{gid}'",
        bank.database
    ));
    let evidence = bank.postgres.recover().await.unwrap().remove(0).evidence.unwrap();
    for told in [
        bank.postgres.commit(&branch, Some(&evidence)).await,
        bank.postgres.rollback(&branch).await,
    ] {
        let why = told.unwrap_err().why;
        let needed = format!("prepared by role \"other_{0}\" in database \"{0}\"", bank.database);
        assert!(why.contains("42501") && why.contains(&needed), "{why}");
    }
    assert_eq!(bank.listed(), [gid]);
    bank.sql(&format!("ALTER ROLE {} SUPERUSER", bank.database));
    assert_eq!(committed(&bank.another(), &branch, &evidence).await, Done::Done);
    assert_eq!(bank.cents(1), 99);
}

#[tokio::test]
async fn d_11_a_branch_of_another_database_stays_in_doubt() {
    let (bank, other) = (Bank::open(), Bank::open());
    let (branch, evidence) = other.prepared(1).await;
    let why = bank.postgres.commit(&branch, Some(&evidence)).await.unwrap_err().why;
    let needed = format!("in database {:?}", other.database);
    assert!(why.contains(&needed), "{why}");
    assert_eq!(bank.postgres.recover().await, Ok(vec![]), "it is not this database's");
    assert_eq!(other.listed(), [gid(&branch)]);
    assert_eq!(committed(&other.postgres, &branch, &evidence).await, Done::Done);
}

#[tokio::test]
async fn d_17_foreign_branches_are_neither_listed_as_ours_nor_touched() {
    let bank = Bank::open();
    let ours = bank.prepared(1).await.0;
    let foreign =
        ["somebody's", "u1.", "u1.00.00", "u2.not ours"].map(|name| name.replace('\'', "''"));
    for (number, name) in foreign.iter().enumerate() {
        bank.sql(&format!(
            "BEGIN; INSERT INTO account VALUES ({}, 1); PREPARE TRANSACTION '{name}'",
            number + 10
        ));
    }
    let listed = bank.postgres.recover().await.unwrap();
    assert_eq!(listed.iter().map(|prepared| prepared.branch).collect::<Vec<_>>(), [ours]);
    let all = bank.postgres.prepared().await.unwrap();
    assert_eq!(all.len(), 1 + foreign.len());
    assert_eq!(all.iter().filter(|listed| listed.branch.is_some()).count(), 1);
    assert!(all.iter().all(|listed| listed.xid_age < 1_000 && listed.prepared_s < 60));
    assert_eq!(rolled_back(&bank.postgres, &ours).await, Done::Done);
    assert_eq!(bank.listed().len(), foreign.len());
    for name in foreign {
        bank.sql(&format!("ROLLBACK PREPARED '{name}'"));
    }
}

#[tokio::test]
async fn d_17_a_branch_that_this_process_never_had_is_listed_and_finished_as_told() {
    let bank = Bank::open();
    for commits in [true, false] {
        let (branch, evidence) = bank.prepared(1).await;
        let another = bank.another();
        let listed = another.recover().await.unwrap();
        assert_eq!(listed[0].evidence, Some(evidence.clone()));
        let done = match commits {
            true => committed(&another, &branch, &evidence).await,
            false => rolled_back(&another, &branch).await,
        };
        assert_eq!((done, bank.cents(1)), (Done::Done, 99));
        bank.assert_clean();
    }
}

/// Several at once want to finish it: 55000 is no answer.
#[tokio::test]
async fn a_commit_that_is_retried_while_the_first_one_runs_is_done_once() {
    let bank = Bank::open();
    for _ in 0..20 {
        let (branch, evidence) = bank.prepared(1).await;
        let (one, two) = (bank.another(), bank.another());
        let all = tokio::join!(
            told(|| one.commit(&branch, Some(&evidence))),
            told(|| two.commit(&branch, Some(&evidence))),
            told(|| bank.postgres.commit(&branch, Some(&evidence))),
        );
        assert_eq!(all, (Done::Done, Done::Done, Done::Done));
    }
    assert_eq!(bank.cents(1), 80);
    bank.assert_clean();
}

#[tokio::test]
async fn work_that_commits_by_hand_keeps_what_it_has_done_and_votes_no() {
    let bank = Bank::open();
    let branch = branch();
    let session = bank.join(&branch).await;
    debit(&session, 1).await.unwrap();
    session.batch_execute("COMMIT; BEGIN READ WRITE").await.unwrap();
    debit(&session, 1).await.unwrap();
    drop(session);
    assert!(bank.refusal(&branch).await.contains("has ended the block"));
    assert_eq!(bank.cents(1), 99);
    bank.assert_clean();
}
