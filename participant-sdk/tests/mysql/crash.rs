//! D-05, D-25: the server is killed, and comes back on the same data. Each test has one of its own.

use crate::stage::{DEBIT, Stage, at_last, database, until};
use std::time::{Duration, Instant};
use unanimous_databases::mariadb::Mariadb;
use unanimous_sdk::{Done, Resource, Vote};

/// Where a branch is when the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Joined,
    Worked,
    Prepared,
    Committing,
    Committed,
}

async fn reachable(stage: &Stage) {
    at_last("the server", async || stage.mysql.recover().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d_05_the_server_is_killed_at_every_step() {
    let mut server = Mariadb::start(&[]).unwrap();
    let stage = Stage::at(&server.url(&database(&server)), |builder| builder).await;
    let mut cents = 1_000;
    for at in [At::Joined, At::Worked, At::Prepared, At::Committing, At::Committed] {
        let (_tx, mut work) = stage.begin().await;
        let id = *work.branch().id();
        if at != At::Joined {
            work.query_drop(DEBIT).await.unwrap();
        }
        work.end();
        let mut evidence = None;
        if !matches!(at, At::Joined | At::Worked) {
            evidence = Some(stage.votes_commit(&id).await);
        }
        match at {
            At::Joined | At::Worked | At::Prepared => server.kill9().unwrap(),
            At::Committing => {
                let (mysql, evidence) = (stage.mysql.clone(), evidence.clone());
                let committing =
                    tokio::spawn(async move { mysql.commit(&id, evidence.as_ref()).await });
                server.kill9().unwrap();
                let told = committing.await.unwrap();
                assert!(matches!(told, Ok(Done::Done) | Err(_)), "{told:?}");
            }
            At::Committed => {
                assert_eq!(stage.mysql.commit(&id, evidence.as_ref()).await, Ok(Done::Done));
                server.kill9().unwrap();
            }
        }
        // While it is away nothing is said at all.
        if at != At::Committing {
            assert!(stage.mysql.prepare(&id).await.is_err() || at == At::Prepared, "{at:?}");
            assert!(stage.mysql.commit(&id, evidence.as_ref()).await.is_err(), "{at:?}");
        }
        server.run().unwrap();
        reachable(&stage).await;
        if let Some(evidence) = evidence {
            let done = at_last("a commit", async || stage.mysql.commit(&id, Some(&evidence)).await);
            assert_eq!(done.await, Done::Done, "{at:?}");
            cents -= 100;
        } else {
            let voted = at_last("a vote", async || stage.mysql.prepare(&id).await).await;
            assert!(matches!(voted, Vote::Rollback { .. }), "{at:?}: {voted:?}");
        }
        assert_eq!(stage.cents().await, cents, "{at:?}");
        assert!(!stage.is_locked().await && !stage.is_listed(&id).await, "{at:?}");
    }
}

/// As many rounds as a quarter of a minute has room for; the long run is the checker's.
#[tokio::test(flavor = "multi_thread")]
async fn d_25_kills_after_prepare_and_in_commit_lose_nothing_and_invent_nothing() {
    let mut server = Mariadb::start(&[]).unwrap();
    let stage = Stage::at(&server.url(&database(&server)), |builder| builder).await;
    let (begun, mut rounds, mut committed) = (Instant::now(), 0_u32, 0);
    while rounds < 3 || begun.elapsed() < Duration::from_secs(15) {
        rounds += 1;
        let mut voted = Vec::new();
        for account in 100..108 {
            let id = rounds * 1_000 + account;
            let worked = stage.worked(&format!("INSERT INTO account VALUES ({id}, 1)")).await;
            let evidence = stage.votes_commit(&worked.id).await;
            voted.push((worked, evidence));
        }
        let half = voted.len() / 2;
        let commits: Vec<_> = voted[..half]
            .iter()
            .map(|(worked, evidence)| {
                let (mysql, id, evidence) = (stage.mysql.clone(), worked.id, evidence.clone());
                tokio::spawn(async move { mysql.commit(&id, Some(&evidence)).await })
            })
            .collect();
        // At another moment of the commits in every round.
        tokio::time::sleep(Duration::from_micros(u64::from(rounds) % 7 * 300)).await;
        server.restart().unwrap();
        for commit in commits {
            let told = commit.await.unwrap();
            assert!(matches!(told, Ok(Done::Done) | Err(_)), "{told:?}");
        }
        reachable(&stage).await;
        for (number, (worked, evidence)) in voted.iter().enumerate() {
            let told = async || match number < half {
                true => stage.mysql.commit(&worked.id, Some(evidence)).await,
                false => stage.mysql.rollback(&worked.id).await,
            };
            assert_eq!(at_last("an end", told).await, Done::Done);
        }
        committed += half;
        let listed = stage.mysql.recover().await.unwrap();
        assert_eq!(listed, [], "round {rounds}");
        let database = stage.url.rsplit('/').next().unwrap();
        let counted = server.sql(database, "SELECT COUNT(*) FROM account WHERE id > 2").unwrap();
        assert_eq!(counted, committed.to_string(), "round {rounds}");
    }
    until("no lock", async || !stage.is_locked().await).await;
}

/// The answer to a commit in one phase decides the transaction: it is what the data say.
#[tokio::test(flavor = "multi_thread")]
async fn d_25_kills_in_a_commit_in_one_phase_are_answered_by_what_the_data_say() {
    let mut server = Mariadb::start(&[]).unwrap();
    let stage = Stage::at(&server.url(&database(&server)), |builder| builder).await;
    let mut cents = 1_000;
    for round in 0..8_u64 {
        let worked = stage.worked(DEBIT).await;
        let (mysql, id) = (stage.mysql.clone(), worked.id);
        let committing = tokio::spawn(async move { mysql.commit_one_phase(&id).await });
        tokio::time::sleep(Duration::from_micros(round * 300)).await;
        server.restart().unwrap();
        let told = committing.await.unwrap();
        let again = async || stage.mysql.commit_one_phase(&worked.id).await;
        let done = match told {
            Ok(done) => done,
            Err(_) => at_last("an answer", again).await,
        };
        reachable(&stage).await;
        assert!(matches!(done, Done::Done | Done::RolledBack), "{done:?}");
        cents -= if done == Done::Done { 100 } else { 0 };
        assert_eq!(stage.cents().await, cents, "round {round}: {done:?}");
        assert!(!stage.is_locked().await);
    }
}
