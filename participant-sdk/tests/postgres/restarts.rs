//! The server is killed with all of its processes, and started again, in every phase.

use crate::bank::{Bank, branch, committed, debit, gid, rolled_back, soon, told};
use std::sync::Arc;
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::{Done, Resource, Vote};

#[tokio::test]
async fn d_05_killed_between_two_steps() {
    let server = Server::start(&[]).unwrap();
    let bank = Bank::open_on(&server, |builder| builder);

    let joined = branch();
    bank.postgres.joined(&joined);
    server.restart().unwrap();
    assert_eq!(bank.prepare(&joined).await, Vote::ReadOnly, "nothing was begun");

    for reached in ["worked", "told to roll back"] {
        let (branch, session) = bank.debit(1).await;
        drop(session);
        server.restart().unwrap();
        if reached == "worked" {
            let vote = told(|| bank.postgres.prepare(&branch)).await;
            assert!(matches!(vote, Vote::Rollback { .. }), "{vote:?}");
        }
        assert_eq!(rolled_back(&bank.postgres, &branch).await, Done::Done);
        assert_eq!(bank.cents(1), 100);
        bank.assert_clean();
    }

    for another in [false, true] {
        let (branch, evidence) = bank.prepared(1).await;
        server.restart().unwrap();
        assert_eq!(bank.listed(), [gid(&branch)]);
        let postgres = if another { bank.another() } else { bank.postgres.clone() };
        let listed = told(|| postgres.recover()).await;
        assert_eq!(listed[0].evidence, Some(evidence.clone()), "as the vote had it");
        let before = bank.cents(1);
        assert_eq!(committed(&postgres, &branch, &evidence).await, Done::Done);
        assert_eq!(bank.cents(1), before - 1);
        server.restart().unwrap();
        assert_eq!(committed(&postgres, &branch, &evidence).await, Done::Done, "by evidence");
        assert_eq!(bank.cents(1), before - 1);
        bank.assert_clean();
    }
    let (branch, _) = bank.prepared(1).await;
    server.restart().unwrap();
    assert_eq!(rolled_back(&bank.postgres, &branch).await, Done::Done);
    bank.assert_clean();
}

/// Somewhere inside of a statement: what was answered holds, whatever it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_05_killed_in_the_middle_of_a_statement() {
    let server = Arc::new(Server::start(&[]).unwrap());
    let bank = Bank::open_on(&server, |builder| builder);
    let mut cents = 100;
    for round in 0..15 {
        let restarting = || {
            let server = Arc::clone(&server);
            tokio::task::spawn_blocking(move || server.restart().unwrap())
        };
        let branch = branch();
        let session = loop {
            bank.postgres.joined(&branch);
            if let Ok(session) = bank.postgres.session(&branch, crate::bank::LONG).await {
                break session;
            }
        };
        debit(&session, 1).await.unwrap();
        drop(session);
        let committed = match round % 3 {
            0 => {
                let killed = restarting();
                let vote = told(|| bank.postgres.prepare(&branch)).await;
                killed.await.unwrap();
                match vote {
                    Vote::Commit { evidence } => {
                        committed(&bank.postgres, &branch, &evidence.unwrap()).await == Done::Done
                    }
                    _ => false,
                }
            }
            1 => {
                let evidence = bank.vote_commit(&branch).await;
                let killed = restarting();
                let done = committed(&bank.postgres, &branch, &evidence).await;
                killed.await.unwrap();
                assert_eq!(done, Done::Done, "no heuristic");
                true
            }
            _ => {
                let killed = restarting();
                let done = told(|| bank.postgres.commit_one_phase(&branch)).await;
                killed.await.unwrap();
                assert!(matches!(done, Done::Done | Done::RolledBack), "{done:?}");
                done == Done::Done
            }
        };
        cents -= i64::from(committed);
        assert_eq!(bank.cents(1), cents, "round {round}");
        soon("nothing is left", async { bank.assert_clean() }).await;
    }
}
