//! Applications and services with everything that propagates by itself, against a whole coordinator
//! in this process.
#![cfg(feature = "in-process")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

#[cfg(feature = "axum")]
mod axum_site;
mod service;

use service::{Fault, Faulty, Site, Work, please, soon};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimous_sdk::{
    BeginError, Client, ClientLayer, CommitError, Context, HEADER_TRANSACTION, InProcess,
    RollbackReason, RunError, Transaction, Wait,
};

async fn open() -> (InProcess, Client, Site, Site) {
    let coordinator = InProcess::start().await.unwrap();
    let client = coordinator.client("shop").connect().unwrap();
    let b = Site::start(&coordinator, "b", None).await;
    let a = Site::start(&coordinator, "a", Some(&b)).await;
    (coordinator, client, a, b)
}

async fn branch_count(tx: Transaction) {
    let error = soon("an end", tx.commit()).await.unwrap_err();
    let CommitError::RolledBack { rollback, .. } = &error else { unreachable!("{error}") };
    assert_eq!(rollback.reason, RollbackReason::BranchCount, "{error}");
}

#[tokio::test]
async fn calls_carry_their_transaction_by_themselves_through_every_service() {
    let (_coordinator, client, a, b) = open().await;
    let (mut at_a, mut at_b) = (a.work(), b.work());
    let ran = client.run("transfer", |tx| async move {
        at_a.begin(please("work, and forward")).await?;
        at_b.begin(please("work")).await?;
        assert_eq!(tx.branches(), Some(2), "a's, and b's, which a has called first");
        Ok::<_, Status>(tx.gtrid())
    });
    let gtrid = soon("an end", tokio::spawn(ran)).await.unwrap().unwrap();
    let of_b = client.resolve(gtrid, Some(2)).await;
    assert!(matches!(of_b, Ok(unanimous_sdk::Resolution::Committed { .. })), "{of_b:?}");
}

#[tokio::test]
async fn calls_at_the_same_time_and_in_spawned_tasks_are_all_counted() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap();
    let works = (0..20).map(|number| {
        let mut work = if number % 2 == 0 { a.work() } else { b.work() };
        let call = async move { work.begin(please("work")).await };
        if number % 3 == 0 { tokio::spawn(tx.scope(call)) } else { tokio::spawn(call) }
    });
    let mut joined = 0;
    for work in works.collect::<Vec<_>>() {
        joined += u32::from(soon("a reply", work).await.unwrap().is_ok());
    }
    assert_eq!(joined, 7, "a task without a scope is not part of the transaction");
    let (mut at_a, mut at_b) = (a.work(), b.work());
    let explicit = tokio::join!(
        at_a.begin(tx.request(please("work"))),
        at_b.begin(tx.request(please("nothing")))
    );
    assert!(explicit.0.is_ok() && explicit.1.is_ok());
    assert_eq!(tx.branches(), Some(2));
    soon("an end", tx.commit()).await.unwrap();
}

#[tokio::test]
async fn the_handlers_context_has_the_name_and_the_deadline() {
    let (_coordinator, client, a, _b) = open().await;
    let tx = client.begin("transfer").timeout(Duration::from_secs(7)).await.unwrap();
    let told = a.work().begin(tx.request(please("tell the context"))).await.unwrap().into_inner();
    assert_eq!(told.gtrid, tx.gtrid().to_string());
    assert!((1..=7_000).contains(&told.timeout_ms), "{}", told.timeout_ms);
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn without_a_layer_the_reply_is_counted_by_hand() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap();
    let reply = a.bare().begin(tx.request(please("work"))).await.unwrap();
    assert_eq!(tx.branches(), None, "it may have been lost");
    tx.count(reply.metadata());
    let mut bare = b.bare();
    tx.call(please("work"), async |request| bare.begin(request).await).await.unwrap();
    // Counted by the layer: nobody counts it again.
    let reply = b.work().begin(tx.request(please("work"))).await.unwrap();
    tx.count(reply.metadata());
    assert_eq!(tx.branches(), Some(2));
    let gtrid = soon("an end", tx.wait(Wait::Completed).commit()).await.unwrap().gtrid;
    assert!(a.member.memory.has(gtrid) && b.member.memory.has(gtrid));
}

/// The point of counting: the application goes on as if nothing had happened, and nothing is
/// committed by halves.
#[tokio::test]
async fn a_reply_that_is_lost_after_its_branch_was_enlisted_rolls_back() {
    let (_coordinator, client, a, b) = open().await;
    for fault in [Fault::HeaderLost, Fault::ReplyLost] {
        let tx = client.begin("transfer").await.unwrap();
        a.work().begin(tx.request(please("work"))).await.unwrap();
        let channel = Faulty { inner: b.channel.clone(), fault };
        let mut at_b: Work<Faulty> = Work::new(ClientLayer.layer(channel));
        let worked = at_b.begin(tx.request(please("work"))).await;
        assert_eq!(worked.is_err(), fault == Fault::ReplyLost);
        assert_eq!(tx.branches(), Some(1));
        branch_count(tx).await;
    }
}

#[tokio::test]
async fn a_call_that_fails_after_its_work_rolls_back_whatever_the_application_makes_of_it() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap();
    a.work().begin(tx.request(please("work"))).await.unwrap();
    let failed = b.work().begin(tx.request(please("work, then fail"))).await.unwrap_err();
    assert_eq!(failed.message(), "after the work");
    branch_count(tx).await;

    // The header is there for whoever wants it, with the status, before any body.
    let tx = client.begin("transfer").await.unwrap();
    let failed = b.bare().begin(tx.request(please("work, then fail"))).await.unwrap_err();
    assert_eq!(failed.metadata().get(unanimous_sdk::HEADER_BRANCHES).unwrap(), "1");
    tx.count(failed.metadata());
    soon("an end", tx.commit()).await.unwrap();
}

#[tokio::test]
async fn waiting_for_completion_waits_for_the_slowest_branch() {
    let (_coordinator, client, a, b) = open().await;
    let tx = client.begin("transfer").await.unwrap().wait(Wait::Completed);
    for site in [&a, &b] {
        site.work().begin(tx.request(please("work"))).await.unwrap();
    }
    let slow = &b.member.memory;
    slow.slow.store(true, Ordering::Relaxed);
    let gtrid = tx.gtrid();
    let committed = tokio::spawn(tx.commit());
    // The decision has come to it more than once.
    for _ in 0..2 {
        soon("a commit", slow.told.notified()).await;
    }
    assert!(!committed.is_finished());
    slow.slow.store(false, Ordering::Relaxed);
    let committed = soon("an end", committed).await.unwrap().unwrap();
    assert!(committed.completed && slow.has(gtrid));
}

#[tokio::test]
async fn a_header_that_is_no_transaction_is_refused() {
    let (_coordinator, _client, a, _b) = open().await;
    let mut request = tonic::Request::new(please("work"));
    request.metadata_mut().insert(HEADER_TRANSACTION, "nonsense".parse().unwrap());
    let refused = a.bare().begin(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "BAD_TRANSACTION");
    let none = a.bare().begin(please("work")).await.unwrap_err();
    assert_eq!(none.get_details_error_info().unwrap().reason, "NO_TRANSACTION");
}

#[tokio::test]
async fn a_label_that_breaks_its_rule_is_refused() {
    let (_coordinator, client, ..) = open().await;
    let begun = client.begin("transfer").label("Order Number", "4711").await;
    let error = begun.map(|_| ()).unwrap_err();
    let BeginError::Refused { reason, .. } = &error else { unreachable!("{error}") };
    assert_eq!(reason, "INVALID_ARGUMENT", "{error}");
}

/// What was not decided is presumed rolled back; the ports and the log stay.
#[tokio::test]
async fn a_coordinator_that_is_restarted_has_forgotten_what_was_not_decided() {
    let (mut coordinator, client, a, b) = open().await;
    let committed = client.begin("transfer").await.unwrap();
    let lost = client.begin("transfer").await.unwrap();
    for tx in [&committed, &lost] {
        for site in [&a, &b] {
            site.work().begin(tx.request(please("work"))).await.unwrap();
        }
    }
    let slow = &b.member.memory;
    slow.slow.store(true, Ordering::Relaxed);
    let gtrid = committed.commit().await.unwrap().gtrid;
    coordinator.restart().await.unwrap();
    let error = soon("an end", lost.commit()).await.unwrap_err();
    let CommitError::RolledBack { rollback, .. } = &error else { unreachable!("{error}") };
    assert_eq!(rollback.reason, RollbackReason::Presumed);
    assert!(error.is_retryable());
    slow.slow.store(false, Ordering::Relaxed);
    soon("the recovery", async {
        while !slow.has(gtrid) {
            slow.told.notified().await;
        }
    })
    .await;

    coordinator.stop().await.unwrap();
    let impatient = coordinator.client("shop").begin_within(Duration::from_millis(50));
    let ran = impatient.connect().unwrap().run("transfer", |_| async { Ok::<_, Status>(()) });
    assert_eq!(ran.await.unwrap_err().to_string(), BeginError::Unreachable.to_string());
}

#[tokio::test]
async fn an_error_of_the_work_is_the_applications_own() {
    let (_coordinator, client, a, _b) = open().await;
    let mut at_a = a.work();
    let ran = client.run("transfer", |tx| async move {
        at_a.begin(please("work, then fail")).await?;
        Ok::<_, Status>(tx.gtrid())
    });
    let error = soon("an end", ran).await.unwrap_err();
    let RunError::Work(status) = error else { unreachable!("{error}") };
    assert_eq!(status.message(), "after the work");
    assert!(Context::current().is_none());
}
