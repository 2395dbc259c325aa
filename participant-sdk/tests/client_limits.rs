//! Clients at the edges: no time, all the time, and a runtime that is gone.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::future::IntoFuture;
use std::time::{Duration, Instant};
use support::{Asked, Coordinator, gtrid, soon};
use unanimous_proto::v1;
use unanimous_sdk::{BeginError, Client, CommitError, ResolveError, RunError};

#[tokio::test]
async fn endless_patience_is_no_overflow() {
    let mut coordinator = Coordinator::start().await;
    let patient = Client::builder(&coordinator.address, "app")
        .begin_within(Duration::MAX)
        .resolve_within(Duration::MAX);
    let client = patient.connect().unwrap();
    let mut session = coordinator.client().await;
    session.welcome().await;
    let (begun, _) = tokio::join!(client.begin("a").into_future(), session.begun(1));
    let rolled_back = tokio::spawn(begun.unwrap().rollback());
    let (call, _) = session.asked().await;
    session.ended(call, v1::Outcome::RolledBack).await;
    assert!(soon("a rollback", rolled_back).await.unwrap().is_ok());
}

/// The coordinator is silent: the rollback is left to the drop and the time-out.
#[tokio::test]
async fn the_error_of_work_that_failed_does_not_wait_for_the_coordinator() {
    let mut coordinator = Coordinator::start().await;
    let client = Client::connect(&coordinator.address, "app").await.unwrap();
    let mut session = coordinator.client().await;
    session.welcome().await;
    // Neither the client nor the name is borrowed.
    let name = "a".to_owned();
    let ran = tokio::spawn(client.run(&name, async |_| Err::<(), _>("no money")));
    session.begun(1).await;
    let asked = Instant::now();
    session.asked().await;
    assert_eq!(soon("an end", ran).await.unwrap(), Err(RunError::Work("no money")));
    assert!(asked.elapsed() < Duration::from_secs(4), "the transaction has 5 s");
    let (_, Asked::Rollback(again)) = session.asked().await else { unreachable!() };
    assert_eq!(again.gtrid, gtrid(1).as_bytes());
}

#[tokio::test]
async fn no_time_is_not_the_coordinators_default() {
    let mut coordinator = Coordinator::start().await;
    let client = Client::connect(&coordinator.address, "app").await.unwrap();
    let mut session = coordinator.client().await;
    session.welcome().await;
    for (sequence, timeout, expected_ms) in [
        (1, Some(Duration::ZERO), 1),
        (2, Some(Duration::from_micros(999)), 1),
        (3, Some(Duration::from_millis(7)), 7),
        (4, None, 0),
    ] {
        let begin = client.begin("a");
        let begin = match timeout {
            Some(timeout) => begin.timeout(timeout),
            None => begin,
        };
        let (begun, asked) = tokio::join!(begin.into_future(), session.begun(sequence));
        assert_eq!(asked.timeout_ms, expected_ms, "{timeout:?}");
        drop(begun);
        session.asked().await;
    }
}

/// It says so at once, instead of asking for as long as it may.
#[tokio::test]
async fn a_client_whose_runtime_is_gone_says_so() {
    let mut coordinator = Coordinator::start().await;
    let address = coordinator.address.clone();
    let first = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let entered = first.enter();
    let client = Client::builder(address, "app").connect().unwrap();
    drop(entered);
    let mut session = coordinator.client().await;
    session.welcome().await;
    let (begun, _) = tokio::join!(client.begin("a").into_future(), session.begun(1));
    let tx = begun.unwrap();
    first.shutdown_background();
    while session.next().await.is_some() {}
    let begun = soon("no begin", client.begin("b").into_future()).await;
    assert_eq!(begun.err(), Some(BeginError::ClientOver));
    let error = soon("no commit", tx.commit()).await.unwrap_err();
    assert_eq!(error, CommitError::ClientOver { gtrid: gtrid(1) });
    let resolved = soon("no outcome", client.resolve(gtrid(1), None)).await;
    assert_eq!(resolved, Err(ResolveError::ClientOver));
}
