//! The connection is cut before, in and after each statement, and by the server's own means.

use crate::alone;
use crate::bank::{
    Bank, LONG, branch, committed, debit, gid, resource, rolled_back, shared, soon, told,
};
use crate::proxy::{Proxy, When};
use unanimous_databases::daemon::freeze;
use unanimous_sdk::postgres::Postgres;
use unanimous_sdk::{Decision, Done, Resource, Vote};

const EVERY: [When; 3] = [When::Before, When::During, When::After];

async fn behind_a_proxy(bank: &Bank<'_>) -> (Proxy, Postgres) {
    let proxy = Proxy::start(shared().port()).await;
    let url = format!("postgres://{0}@127.0.0.1:{1}/{0}", bank.database, proxy.port);
    (proxy, resource(&url, |builder| builder))
}

/// Work, vote and decision, with one cut. What is left must be what was said.
async fn transfer(word: &str, when: When, commits: bool) -> (Vote, Done) {
    let bank = Bank::open();
    let (proxy, postgres) = behind_a_proxy(&bank).await;
    let branch = branch();
    postgres.joined(&branch);
    proxy.cut(word, when);
    let worked = match postgres.session(&branch, LONG).await {
        Ok(session) => debit(&session, 1).await.is_ok(),
        Err(_) => false,
    };
    let vote = if worked {
        told(|| postgres.prepare(&branch)).await
    } else {
        assert_eq!(rolled_back(&postgres, &branch).await, Done::Done);
        Vote::Rollback { reason: "its work failed".to_owned() }
    };
    let done = match &vote {
        Vote::Commit { evidence } if commits => {
            assert_eq!(bank.listed(), [gid(&branch)], "{word} {when:?}");
            committed(&postgres, &branch, evidence.as_ref().unwrap()).await
        }
        _ => rolled_back(&postgres, &branch).await,
    };
    assert!(proxy.has_cut(), "{word} was not said");
    let cents = if commits && matches!(vote, Vote::Commit { .. }) { 99 } else { 100 };
    assert_eq!(bank.cents(1), cents, "{word} {when:?}: {vote:?}, {done:?}");
    bank.assert_clean();
    (vote, done)
}

#[tokio::test]
async fn d_24_a_connection_lost_before_prepare_votes_no() {
    for word in ["SET LOCAL unanimous.branch", "UPDATE account"] {
        for when in EVERY {
            let (vote, done) = transfer(word, when, true).await;
            assert!(word.starts_with("SET") || matches!(vote, Vote::Rollback { .. }), "{when:?}");
            assert_eq!(done, Done::Done);
        }
    }
}

/// The block is begun in one breath with the work, and the server may refuse it, for example
/// because a cancel request for earlier work comes late.
#[tokio::test]
async fn work_whose_block_is_refused_changes_nothing() {
    let bank = Bank::open();
    let (proxy, postgres) = behind_a_proxy(&bank).await;
    for cents in [99, 98] {
        let (first, refused) = (branch(), branch());
        postgres.joined(&first);
        debit(&postgres.session(&first, LONG).await.unwrap(), 1).await.unwrap();
        let vote = postgres.prepare(&first).await.unwrap();
        let Vote::Commit { evidence: Some(evidence) } = vote else { unreachable!("{vote:?}") };
        assert_eq!(committed(&postgres, &first, &evidence).await, Done::Done);
        proxy.cut("BEGIN", When::Garbled);
        postgres.joined(&refused);
        let session = postgres.session(&refused, LONG).await.unwrap();
        let error = debit(&session, 1).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "25006", "{error}");
        assert!(proxy.has_cut());
        drop(session);
        let vote = told(|| postgres.prepare(&refused)).await;
        assert!(matches!(vote, Vote::Rollback { .. }), "{vote:?}");
        assert_eq!(bank.cents(1), cents);
    }
    bank.assert_clean();
}

#[tokio::test]
async fn d_03_a_lost_answer_to_prepare_is_looked_into_and_the_truth_is_voted() {
    for when in EVERY {
        let (vote, done) = transfer("; PREPARE TRANSACTION", when, true).await;
        match when {
            When::Before => assert!(matches!(vote, Vote::Rollback { .. }), "{vote:?}"),
            When::During | When::Garbled => {}
            When::After => assert!(matches!(vote, Vote::Commit { .. }), "{vote:?}"),
        }
        assert_eq!(done, Done::Done);
    }
}

#[tokio::test]
async fn the_answer_to_commit_prepared_is_lost_and_the_retry_is_done_without_a_heuristic() {
    for when in EVERY {
        let (vote, done) = transfer("COMMIT PREPARED", when, true).await;
        assert!(matches!(vote, Vote::Commit { .. }), "{vote:?}");
        assert_eq!(done, Done::Done, "{when:?}");
    }
}

#[tokio::test]
async fn the_answer_to_rollback_prepared_is_lost_and_the_retry_is_done() {
    for when in EVERY {
        let (vote, done) = transfer("ROLLBACK PREPARED", when, false).await;
        assert!(matches!(vote, Vote::Commit { .. }), "{vote:?}");
        assert_eq!(done, Done::Done, "{when:?}");
    }
}

#[tokio::test]
async fn the_answers_of_a_commit_in_one_phase_are_lost_and_the_truth_is_told() {
    for word in ["; PREPARE TRANSACTION", "COMMIT PREPARED"] {
        for when in EVERY {
            let bank = Bank::open();
            let (proxy, postgres) = behind_a_proxy(&bank).await;
            let branch = branch();
            postgres.joined(&branch);
            let session = postgres.session(&branch, LONG).await.unwrap();
            debit(&session, 1).await.unwrap();
            drop(session);
            proxy.cut(word, when);
            let done = told(|| postgres.commit_one_phase(&branch)).await;
            assert!(proxy.has_cut());
            match (word, when) {
                ("; PREPARE TRANSACTION", When::Before) => assert_eq!(done, Done::RolledBack),
                ("; PREPARE TRANSACTION", When::During) => {}
                _ => assert_eq!(done, Done::Done, "{word} {when:?}"),
            }
            let cents = if done == Done::Done { 99 } else { 100 };
            assert_eq!(bank.cents(1), cents, "{word} {when:?}: {done:?}");
            if done == Done::Done {
                assert_eq!(told(|| postgres.recall(&branch)).await, done, "{word} {when:?}");
            }
            bank.assert_clean();
        }
    }
}

#[tokio::test]
async fn the_answers_about_a_reader_are_lost_and_it_still_votes_read_only_or_no() {
    for word in ["; PREPARE TRANSACTION", "COMMIT PREPARED"] {
        for when in EVERY {
            let bank = Bank::open();
            let (proxy, postgres) = behind_a_proxy(&bank).await;
            let branch = branch();
            postgres.joined(&branch);
            let session = postgres.session(&branch, LONG).await.unwrap();
            crate::bank::value(&session, "SELECT sum(cents) FROM account").await;
            drop(session);
            proxy.cut(word, when);
            let vote = told(|| postgres.prepare(&branch)).await;
            assert!(proxy.has_cut());
            if let Vote::Commit { evidence } = &vote {
                assert_eq!(word, "; PREPARE TRANSACTION", "it is known to be a reader");
                let done = committed(&postgres, &branch, evidence.as_ref().unwrap()).await;
                assert_eq!(done, Done::Done);
            }
            bank.assert_clean();
        }
    }
}

/// As an administrator does it, or a time-out of the server.
#[tokio::test]
async fn d_24_a_backend_that_is_terminated_at_work_votes_no() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    let pid = crate::bank::value(&session, "SELECT pg_backend_pid()").await;
    bank.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
    soon("the end of the connection", async { while debit(&session, 1).await.is_ok() {} }).await;
    drop(session);
    assert!(matches!(told(|| bank.postgres.prepare(&branch)).await, Vote::Rollback { .. }));
    assert_eq!(bank.cents(1), 100);
    bank.assert_clean();
    bank.prepared(1).await;
}

#[tokio::test]
async fn d_04_a_backend_that_is_terminated_after_prepare_is_done_without() {
    let bank = Bank::open();
    for commits in [true, false] {
        let (branch, session) = bank.debit(1).await;
        let pid = crate::bank::value(&session, "SELECT pg_backend_pid()").await;
        drop(session);
        let evidence = bank.vote_commit(&branch).await;
        bank.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
        let done = match commits {
            true => committed(&bank.postgres, &branch, &evidence).await,
            false => rolled_back(&bank.postgres, &branch).await,
        };
        assert_eq!((done, bank.cents(1)), (Done::Done, 99));
        bank.assert_clean();
    }
}

/// A rollback is done when the locks are free, not when somebody was told to free them.
#[tokio::test]
async fn a_rollback_waits_for_a_server_process_that_does_not_end() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    let pid = crate::bank::value(&session, "SELECT pg_backend_pid()").await.parse().unwrap();
    drop(session);
    freeze(pid, true).unwrap();
    let why = bank.postgres.rollback(&branch).await.unwrap_err().why;
    assert!(why.contains("does not end"), "{why}");
    assert_eq!(bank.open_blocks(), 1);
    freeze(pid, false).unwrap();
    assert_eq!(rolled_back(&bank.postgres, &branch).await, Done::Done);
    bank.assert_clean();
}

/// The server reads PREPARE TRANSACTION after everybody has given up on it.
#[tokio::test]
async fn d_03_a_prepare_that_may_still_arrive_is_not_voted_on() {
    let bank = Bank::open();
    let (proxy, postgres) = behind_a_proxy(&bank).await;
    let branch = branch();
    postgres.joined(&branch);
    let session = postgres.session(&branch, LONG).await.unwrap();
    debit(&session, 1).await.unwrap();
    let pid = crate::bank::value(&session, "SELECT pg_backend_pid()").await.parse().unwrap();
    drop(session);
    freeze(pid, true).unwrap();
    proxy.cut("; PREPARE TRANSACTION", When::During);
    let why = postgres.prepare(&branch).await.unwrap_err().why;
    assert!(why.contains("does not end"), "{why}");
    freeze(pid, false).unwrap();
    let vote = told(|| postgres.prepare(&branch)).await;
    let listed = if matches!(vote, Vote::Commit { .. }) { vec![gid(&branch)] } else { vec![] };
    assert_eq!((bank.listed(), bank.open_blocks()), (listed, 0), "{vote:?}");
    assert_eq!(rolled_back(&postgres, &branch).await, Done::Done);
    bank.assert_clean();
}

/// Another process may have met the branch meanwhile, decided alone, and died.
#[tokio::test]
async fn a_prepare_that_is_looked_into_late_may_be_on_record() {
    let bank = alone::open().await;
    let (proxy, postgres) = behind_a_proxy(&bank).await;
    let branch = branch();
    postgres.joined(&branch);
    debit(&postgres.session(&branch, LONG).await.unwrap(), 1).await.unwrap();
    proxy.cut("; PREPARE TRANSACTION", When::After);
    let said = async {
        while !proxy.has_cut() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = said => {}
        vote = postgres.prepare(&branch) => unreachable!("it was not broken off: {vote:?}"),
    }
    soon("a second", async {
        while bank.postgres.prepared().await.unwrap().first().is_none_or(|one| one.prepared_s < 1) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    alone::die_after_the_record(&bank, &branch, Decision::Rollback);
    let vote = told(|| postgres.prepare(&branch)).await;
    let Vote::Commit { evidence: Some(evidence) } = vote else { unreachable!("{vote:?}") };
    assert_eq!(committed(&postgres, &branch, &evidence).await, Done::Done);
    assert_eq!((bank.cents(1), alone::records(&bank)), (99, vec![]));
}

/// As when the participant is stopped, or the call panics.
#[tokio::test]
async fn calls_that_are_broken_off_are_looked_into_by_the_next_one() {
    for prepares in [true, false] {
        let bank = Bank::open();
        let (branch, session) = bank.debit(1).await;
        let pid = crate::bank::value(&session, "SELECT pg_backend_pid()").await.parse().unwrap();
        drop(session);
        let evidence = if prepares { None } else { Some(bank.vote_commit(&branch).await) };
        freeze(pid, true).unwrap();
        let broken_off = async {
            match &evidence {
                None => drop(bank.postgres.prepare(&branch).await),
                Some(evidence) => drop(bank.postgres.commit(&branch, Some(evidence)).await),
            }
        };
        let a_moment = std::time::Duration::from_millis(100);
        tokio::time::timeout(a_moment, broken_off).await.unwrap_err();
        freeze(pid, false).unwrap();
        match evidence {
            None => {
                let vote = told(|| bank.postgres.prepare(&branch)).await;
                let no = matches!(vote, Vote::Rollback { .. });
                assert_eq!(bank.listed().is_empty(), no, "{vote:?}");
                assert_eq!(rolled_back(&bank.postgres, &branch).await, Done::Done);
                assert_eq!(bank.cents(1), 100);
            }
            Some(evidence) => {
                let done = committed(&bank.postgres, &branch, &evidence).await;
                assert_eq!((done, bank.cents(1)), (Done::Done, 99));
            }
        }
        bank.assert_clean();
    }
}

/// A handler whose caller is gone, in the middle of a statement.
#[tokio::test]
async fn d_24_work_that_is_broken_off_in_a_statement_is_undone_at_once() {
    let bank = Bank::open();
    let (branch, session) = bank.debit(1).await;
    let a_moment = std::time::Duration::from_millis(100);
    let sleeping = session.batch_execute("SELECT pg_sleep(600)");
    tokio::time::timeout(a_moment, sleeping).await.unwrap_err();
    drop(session);
    assert_eq!(soon("the end", bank.postgres.rollback(&branch)).await, Ok(Done::Done));
    assert_eq!(bank.cents(1), 100);
    bank.assert_clean();
    bank.prepared(1).await;
}
