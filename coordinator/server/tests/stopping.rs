//! Graceful stop: what has begun may end, nothing new begins, sessions are ended from our side, the
//! log is clean.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::*;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use unanimous_proto::v1;
use unanimous_recovery::{LogKind, OpenOptions};

/// reliability.md U-04.
#[tokio::test]
async fn a_graceful_stop_finishes_what_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.drain_ms = 60_000;
    let server = start(dir.path(), config).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let (in_a, in_b) = (a.enlist(gtrid).await, b.enlist(gtrid).await);
    let mut watch = watch_health(server.channel().await).await;
    assert_eq!(next(&mut watch).await.unwrap().unwrap().status(), ServingStatus::Serving);

    server.shutdown.request();
    assert_eq!(next(&mut watch).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let Answer::Refused(refused) = client.call(1, Ask::Begin(v1::Begin::default())).await else {
        panic!()
    };
    assert_eq!(refused.reason, "STOPPING");
    let begun = server.unary().await.begin(v1::BeginRequest::default()).await;
    assert_eq!(begun.unwrap_err().code(), Code::Unavailable);

    client.ask(2, commit(gtrid, Some(2), v1::Wait::Completed)).await;
    a.say_yes().await;
    b.say_yes().await;
    assert_eq!(a.decide().await.decision(), v1::Decision::Commit);
    a.acknowledge(in_a, v1::Done::Done).await;
    assert_eq!(b.decide().await.decision(), v1::Decision::Commit);
    b.acknowledge(in_b, v1::Done::Done).await;
    let result = client.ended().await;
    assert!(result.outcome() == v1::Outcome::Committed && result.completed);

    assert_eq!(a.goodbye().await.reason(), v1::GoodbyeReason::Stopping);
    assert_eq!(b.goodbye().await.reason(), v1::GoodbyeReason::Stopping);
    assert!(matches!(client.hear().await, (0, Answer::Closing(_))));
    assert!(matches!(next(&mut client.from).await, Ok(None)));
    server.ended().await.unwrap();
    assert!(is_clean(dir.path()));
}

/// What cannot end (its participant is away) does not hold up the stop, and is finished by the next
/// start.
#[tokio::test]
async fn a_stop_does_not_wait_for_who_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.drain_ms = 600_000;
    let server = start(dir.path(), config).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    a.enlist(gtrid).await;
    b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    b.say_yes().await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    drop((a, b));
    server.shutdown.request();
    tokio::time::timeout(GUARD, server.ended()).await.expect("it waits").unwrap();

    let server = start(dir.path(), once()).await;
    let status = server.admin().await.get_status(v1::GetStatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().transactions_in_doubt, 1);
    server.stop().await;
}

#[tokio::test]
async fn the_drain_ends_in_time_and_a_second_request_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.drain_ms = 100;
    let server = start(dir.path(), config.clone()).await;
    let mut client = server.client().await;
    client.begin().await;
    server.shutdown.request();
    assert!(matches!(client.hear().await, (0, Answer::Closing(_))));
    server.ended().await.unwrap();

    config.drain_ms = 600_000;
    let server = start(dir.path(), config).await;
    let mut client = server.client().await;
    client.begin().await;
    server.shutdown.request();
    let Answer::Refused(_) = client.call(1, Ask::Begin(v1::Begin::default())).await else {
        panic!()
    };
    let asked = Instant::now();
    server.shutdown.request();
    server.ended().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(60), "the drain would have taken ten minutes");
    assert!(is_clean(dir.path()));
}

fn is_clean(dir: &std::path::Path) -> bool {
    OpenOptions::new(LogKind::Coordinator).open(dir).unwrap().report().clean
}
