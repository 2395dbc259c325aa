//! Clients and transactions against a coordinator played by the test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Asked, ClientSession, Coordinator, Reply, gtrid, keep_log, log, soon};
use tokio::task::JoinHandle;
use tonic::{Response, Status};
use unanimous_proto::v1;
use unanimous_sdk::{
    BeginError, Client, CommitError, Committed, Completion, Context, HEADER_BRANCHES,
    HEADER_TRANSACTION, Handle, Outcome, Resolution, ResolveError, RollbackReason, RunError,
    Transaction, Wait,
};

async fn open() -> (Coordinator, Client, ClientSession) {
    let mut coordinator = Coordinator::start().await;
    let client = Client::connect(&coordinator.address, "app").await.unwrap();
    let mut session = coordinator.client().await;
    assert_eq!(session.welcome().await.client, "app");
    (coordinator, client, session)
}

async fn begun(client: &Client, session: &mut ClientSession, sequence: u64) -> Transaction {
    let begin = client.begin("transfer").timeout(Duration::from_secs(5));
    let (begun, asked) = tokio::join!(begin.into_future(), session.begun(sequence));
    assert_eq!((&*asked.name, asked.timeout_ms), ("transfer", 5_000));
    begun.unwrap()
}

fn committing(tx: Transaction) -> JoinHandle<Result<Committed, CommitError>> {
    tokio::spawn(tx.commit())
}

async fn commit(session: &mut ClientSession) -> (u64, v1::Commit) {
    match session.asked().await {
        (call, Asked::Commit(commit)) => (call, commit),
        other => unreachable!("no commit: {other:?}"),
    }
}

fn work_reply(branches: Option<&str>) -> Response<()> {
    let mut reply = Response::new(());
    if let Some(branches) = branches {
        reply.metadata_mut().insert(HEADER_BRANCHES, branches.parse().unwrap());
    }
    reply
}

#[tokio::test]
async fn context_and_deadline_ride_along_and_counted_branches_go_with_the_commit() {
    let (_coordinator, client, mut session) = open().await;
    let tx = begun(&client, &mut session, 1).await;
    let header = gtrid(1).to_string();
    for branches in ["1", "1"] {
        let reply = tx.call("work", |request| {
            let metadata = request.metadata();
            assert_eq!(metadata.get(HEADER_TRANSACTION).unwrap(), header.as_str());
            assert!(metadata.get("grpc-timeout").is_some());
            let reply = work_reply(Some(branches));
            async move { Ok(reply) }
        });
        reply.await.unwrap();
    }
    let committed = committing(tx.wait(Wait::Completed));
    let (call, commit) = commit(&mut session).await;
    assert_eq!((commit.expected_branches, commit.wait()), (Some(2), v1::Wait::Completed));
    let result = v1::Result {
        outcome: v1::Outcome::Committed.into(),
        completed: true,
        ..v1::Result::default()
    };
    session.ended_with(call, result).await;
    let committed = soon("a commit", committed).await.unwrap();
    assert_eq!(committed, Ok(Committed { gtrid: gtrid(1), completed: true }));
}

#[tokio::test]
async fn branches_are_only_claimed_when_every_reply_was_counted() {
    let (_coordinator, client, mut session) = open().await;
    let tx = begun(&client, &mut session, 1).await;
    assert_eq!(tx.branches(), None, "no work");
    let _unanswered = tx.request(());
    assert_eq!(tx.branches(), None);
    tx.count(work_reply(Some("2")).metadata());
    assert_eq!(tx.branches(), Some(2));
    tx.call((), |_| async { Ok(work_reply(None)) }).await.unwrap();
    assert_eq!(tx.branches(), Some(2), "a reply without the header has none");
    let failed = tx.call((), |_| async { Err::<Response<()>, _>(Status::internal("")) });
    assert!(failed.await.is_err());
    assert_eq!(tx.branches(), Some(2), "one that failed has brought none");
    let _unanswered = tx.request(());
    assert_eq!(tx.branches(), None);
}

/// With one branch counted, the coordinator would commit it and forget the other one.
#[tokio::test]
async fn a_call_that_is_still_under_way_is_never_committed_around() {
    let (_coordinator, client, mut session) = open().await;
    let tx = begun(&client, &mut session, 1).await;
    tx.call((), |_| async { Ok(work_reply(Some("1"))) }).await.unwrap();
    let (handle, (started, starts)) = (tx.handle(), tokio::sync::oneshot::channel());
    let left = tokio::spawn(async move {
        let call = handle.call((), async |_| {
            started.send(()).unwrap();
            std::future::pending::<Result<Response<()>, Status>>().await
        });
        call.await.map(drop)
    });
    starts.await.unwrap();
    let committed = committing(tx);
    let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
    session.ended(call, v1::Outcome::RolledBack).await;
    let error = soon("a commit", committed).await.unwrap().unwrap_err();
    assert!(error.to_string().ends_with("is still under way"), "{error}");
    left.abort();
}

#[tokio::test]
async fn a_commit_whose_session_was_lost_is_asked_for_again_with_the_same_request_id() {
    let (mut coordinator, client, mut session) = open().await;
    let tx = begun(&client, &mut session, 1).await;
    let committed = committing(tx);
    let (_, first) = commit(&mut session).await;
    drop(session);
    let mut session = coordinator.client().await;
    session.welcome().await;
    let (call, second) = commit(&mut session).await;
    assert_eq!((second.request_id.len(), &second), (16, &first));
    // Values that tell nothing are asked for again.
    session.ended(call, v1::Outcome::Pending).await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Committed).await;
    assert!(soon("a commit", committed).await.unwrap().is_ok());
}

#[tokio::test]
async fn every_outcome_of_a_commit_has_its_error() {
    let (_coordinator, client, mut session) = open().await;
    for (sequence, outcome, expected) in [
        (1, v1::Outcome::HeuristicMixed, Outcome::Mixed),
        (2, v1::Outcome::HeuristicHazard, Outcome::Hazard),
        (3, v1::Outcome::HeuristicRollback, Outcome::HeuristicRollback),
    ] {
        let tx = begun(&client, &mut session, sequence).await;
        let committed = committing(tx);
        let (call, _) = commit(&mut session).await;
        session.ended(call, outcome).await;
        let expected = CommitError::Heuristic { gtrid: gtrid(sequence), outcome: expected };
        assert_eq!(soon("a commit", committed).await.unwrap(), Err(expected));
    }
    let tx = begun(&client, &mut session, 5).await;
    let committed = committing(tx);
    let (call, _) = commit(&mut session).await;
    let result = v1::Result {
        outcome: v1::Outcome::RolledBack.into(),
        rollback_reason: v1::RollbackReason::Voted.into(),
        participant: "bank-b".to_owned(),
        detail: "overdrawn\u{1b}[2J".to_owned(),
        completed: false,
    };
    session.ended_with(call, result).await;
    let error = soon("a commit", committed).await.unwrap().unwrap_err();
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    let CommitError::RolledBack { rollback, .. } = error else { unreachable!("{error}") };
    assert_eq!((rollback.reason, &*rollback.participant), (RollbackReason::Voted, "bank-b"));
}

/// The coordinator was started again: nobody else commits, so that there was no commit. Only the
/// first one's answer proves it.
#[tokio::test]
async fn a_commit_that_nobody_can_have_heard_before_is_rolled_back_where_there_is_no_record() {
    let (mut coordinator, client, mut session) = open().await;
    let committed = committing(begun(&client, &mut session, 1).await);
    let (call, _) = commit(&mut session).await;
    session.reply(call, refused("STARTING", 1)).await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Unknown).await;
    let error = soon("a commit", committed).await.unwrap().unwrap_err();
    let CommitError::RolledBack { rollback, .. } = error else { unreachable!("{error}") };
    assert_eq!(rollback.reason, RollbackReason::Presumed);

    let tx = begun(&client, &mut session, 2).await;
    tx.call((), async |_| Ok(work_reply(Some("1")))).await.unwrap();
    let committed = committing(tx);
    commit(&mut session).await;
    drop(session);
    let mut session = coordinator.client().await;
    session.welcome().await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Unknown).await;
    let unknown = CommitError::Unknown { gtrid: gtrid(2), branches: Some(1) };
    assert_eq!(soon("a commit", committed).await.unwrap(), Err(unknown));

    // Not decided: that one was heard.
    let committed = committing(begun(&client, &mut session, 3).await);
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Pending).await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Unknown).await;
    let error = soon("a commit", committed).await.unwrap().unwrap_err();
    assert!(matches!(error, CommitError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn every_cause_of_a_rollback_has_its_reason() {
    use v1::RollbackReason as Wire;
    let (_coordinator, client, mut session) = open().await;
    for (sequence, wire, expected) in [
        (1, Wire::Requested, RollbackReason::Requested),
        (2, Wire::TimedOut, RollbackReason::TimedOut),
        (3, Wire::BranchCount, RollbackReason::BranchCount),
        (4, Wire::Presumed, RollbackReason::Presumed),
        (5, Wire::LeaseLost, RollbackReason::LeaseLost),
        (6, Wire::LogFull, RollbackReason::LogFull),
        (7, Wire::Unspecified, RollbackReason::Other),
    ] {
        let committed = committing(begun(&client, &mut session, sequence).await);
        let (call, _) = commit(&mut session).await;
        let (outcome, rollback_reason) = (v1::Outcome::RolledBack.into(), wire.into());
        let result = v1::Result { outcome, rollback_reason, ..v1::Result::default() };
        session.ended_with(call, result).await;
        let error = soon("a commit", committed).await.unwrap().unwrap_err();
        let CommitError::RolledBack { rollback, .. } = error else { unreachable!("{error}") };
        assert_eq!(rollback.reason, expected);
    }
}

/// The coordinator's reasons that come with a hint when to try again.
const FULL: [&str; 7] = [
    "TOO_MANY_TRANSACTIONS",
    "TOO_MANY_CALLS",
    "LOG_BUSY",
    "LOG_SLOW",
    "LOG_FULL",
    "STOPPING",
    "STARTING",
];

fn refused(reason: &str, retry_after_ms: u64) -> Reply {
    let (reason, detail) = (reason.to_owned(), String::new());
    Reply::Refused(v1::Refused { reason, detail, retry_after_ms })
}

#[tokio::test]
async fn a_begin_is_tried_again_while_the_coordinator_is_full_and_not_when_it_refuses() {
    let (_coordinator, client, mut session) = open().await;
    let begin = tokio::spawn(client.begin("a").into_future());
    let asked = std::time::Instant::now();
    for reason in FULL {
        let (call, Asked::Begin(_)) = session.asked().await else { unreachable!() };
        session.reply(call, refused(reason, 10)).await;
    }
    session.begun(1).await;
    assert!(asked.elapsed() >= Duration::from_millis(70), "not before the coordinator wishes");
    let tx = soon("a begin", begin).await.unwrap().unwrap();
    assert_eq!(tx.gtrid(), gtrid(1));
    let begin = tokio::spawn(client.begin("b").into_future());
    let (call, _) = session.asked().await;
    session.reply(call, refused("TIMEOUT_TOO_LONG", 0)).await;
    let error = soon("a begin", begin).await.unwrap().unwrap_err();
    assert!(
        matches!(error, BeginError::Refused { ref reason, .. } if reason == "TIMEOUT_TOO_LONG")
    );
}

/// At once: there is no time left for another try.
#[tokio::test]
async fn a_begin_that_is_refused_for_longer_than_the_time_given_says_why() {
    let (_coordinator, client, mut session) = open().await;
    for full in FULL {
        let begin = tokio::spawn(client.begin("a").into_future());
        let (call, Asked::Begin(_)) = session.asked().await else { unreachable!() };
        session.reply(call, refused(full, 60_000)).await;
        let error = soon("a begin", begin).await.unwrap().unwrap_err();
        assert!(matches!(error, BeginError::Refused { ref reason, .. } if reason == full));
    }
}

#[tokio::test]
async fn a_commit_that_is_refused_for_now_is_asked_for_again_until_it_is_taken() {
    let (_coordinator, client, mut session) = open().await;
    let committed = committing(begun(&client, &mut session, 1).await);
    let (call, first) = commit(&mut session).await;
    session.reply(call, refused(FULL[0], 1)).await;
    for full in &FULL[1..] {
        let (call, again) = commit(&mut session).await;
        assert_eq!(again, first);
        session.reply(call, refused(full, 1)).await;
    }
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Committed).await;
    assert!(soon("a commit", committed).await.unwrap().is_ok());
}

/// It was never taken, so it can be rolled back: the locks go before the time-out.
#[tokio::test]
async fn a_commit_that_is_refused_for_good_says_why_and_is_rolled_back() {
    let (_coordinator, client, mut session) = open().await;
    for (sequence, reason, retry_after_ms) in
        [(1, "TOO_MANY_CALLS", 60_000), (2, "INVALID_ARGUMENT", 0)]
    {
        let (completed, completion) = tokio::sync::oneshot::channel();
        let tx = begun(&client, &mut session, sequence).await;
        tx.after_completion(move |completion| drop(completed.send(completion.clone())));
        let committed = committing(tx);
        let (call, _) = commit(&mut session).await;
        session.reply(call, refused(reason, retry_after_ms)).await;
        let error = soon("a commit", committed).await.unwrap().unwrap_err();
        assert!(matches!(error, CommitError::Refused { reason: ref r, .. } if r == reason));
        assert_eq!(completion.await, Ok(Completion::Abandoned));
        let (_, Asked::Rollback(rollback)) = session.asked().await else { unreachable!() };
        assert_eq!(rollback.gtrid, gtrid(sequence).as_bytes());
    }
}

/// Decided, but a branch is slow: that is no unknown outcome.
#[tokio::test]
async fn a_commit_that_waits_for_completion_tells_the_decision_when_the_time_is_over() {
    let mut coordinator = Coordinator::start().await;
    let patience = Duration::from_secs(1);
    let client =
        Client::builder(&coordinator.address, "app").resolve_within(patience).connect().unwrap();
    let mut session = coordinator.client().await;
    session.welcome().await;
    let committed = committing(begun(&client, &mut session, 1).await.wait(Wait::Completed));
    let (_, asked) = commit(&mut session).await;
    assert_eq!(asked.wait(), v1::Wait::Completed);
    let (call, Asked::Resolve(resolve)) = session.asked().await else { unreachable!() };
    assert!(!resolve.wait);
    session.ended(call, v1::Outcome::Committed).await;
    let committed = soon("a commit", committed).await.unwrap();
    assert_eq!(committed, Ok(Committed { gtrid: gtrid(1), completed: false }));
}

#[tokio::test]
async fn labels_go_with_the_begin() {
    let (_coordinator, client, mut session) = open().await;
    let begin = client.begin("transfer").label("order", "4711").label("customer", "Müller");
    let (begun, asked) = tokio::join!(begin.into_future(), session.begun(1));
    assert!(begun.is_ok());
    let labels: Vec<_> = asked.labels.iter().map(|label| (&*label.key, &*label.value)).collect();
    assert_eq!(labels, [("order", "4711"), ("customer", "Müller")]);
}

#[tokio::test]
async fn what_can_only_be_rolled_back_is_never_asked_to_commit() {
    let (_coordinator, client, mut session) = open().await;
    let tx = begun(&client, &mut session, 1).await;
    tx.handle().set_rollback_only("the account is empty");
    tx.set_rollback_only("a second reason");
    tx.before_commit(async || -> Result<(), &str> { unreachable!("nothing to prepare for") });
    let committed = committing(tx);
    let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
    let result = v1::Result {
        outcome: v1::Outcome::RolledBack.into(),
        rollback_reason: v1::RollbackReason::TimedOut.into(),
        ..v1::Result::default()
    };
    session.ended_with(call, result).await;
    let error = soon("a commit", committed).await.unwrap().unwrap_err();
    let words = "it was not decided in its time: the account is empty";
    assert!(error.to_string().ends_with(words), "the coordinator's reason: {error}");

    // It is told once more, when its answer says nothing.
    let tx = begun(&client, &mut session, 2).await;
    tx.set_rollback_only("the account is empty");
    let committed = committing(tx);
    let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
    session.reply(call, refused("INVALID_ARGUMENT", 0)).await;
    let error = soon("a commit", committed).await.unwrap().unwrap_err();
    let words = "its rollback was asked for: the account is empty";
    assert!(error.to_string().ends_with(words), "{error}");
    let (_, Asked::Rollback(again)) = session.asked().await else { unreachable!() };
    assert_eq!(again.gtrid, gtrid(2).as_bytes());
}

#[tokio::test]
async fn checks_run_in_order_before_the_commit_and_one_that_fails_rolls_back() {
    let (_coordinator, client, mut session) = open().await;
    for (sequence, fails) in [(1, false), (2, true)] {
        let tx = begun(&client, &mut session, sequence).await;
        let ran = Arc::new(Mutex::new(Vec::new()));
        for (number, result) in [(1, Ok(())), (2, if fails { Err("too late") } else { Ok(()) })] {
            let (ran, handle) = (Arc::clone(&ran), tx.handle());
            tx.before_commit(async move || {
                ran.lock().unwrap().push(number);
                let reply = handle.call((), async |_| Ok(work_reply(Some("1")))).await;
                assert!(reply.is_ok());
                result
            });
        }
        let (told, completion) = tokio::sync::oneshot::channel();
        tx.after_completion(move |completion| drop(told.send(completion.clone())));
        let committed = committing(tx);
        let (call, asked) = session.asked().await;
        assert_eq!(*ran.lock().unwrap(), [1, 2]);
        let outcome = match (fails, asked) {
            (false, Asked::Commit(commit)) => {
                assert_eq!(commit.expected_branches, Some(2), "what they enlisted is counted");
                v1::Outcome::Committed
            }
            (true, Asked::Rollback(_)) => v1::Outcome::RolledBack,
            other => unreachable!("{other:?}"),
        };
        session.ended(call, outcome).await;
        let committed = soon("a commit", committed).await.unwrap();
        let expected = match committed {
            Ok(committed) => Completion::Committed(committed),
            Err(CommitError::RolledBack { rollback, .. }) => {
                assert_eq!(rollback.detail, "too late");
                Completion::RolledBack(rollback)
            }
            Err(other) => unreachable!("{other}"),
        };
        assert_eq!(completion.await, Ok(expected));
    }
}

/// Dropped while it is open: rolled back. While the commit is under way: nobody knows here.
#[tokio::test]
async fn a_guard_that_is_dropped_completes_with_what_is_known() {
    let (_coordinator, client, mut session) = open().await;
    let watched = |tx: &Transaction| {
        let (told, completion) = tokio::sync::oneshot::channel();
        tx.after_completion(move |completion| drop(told.send(completion.clone())));
        completion
    };
    let tx = begun(&client, &mut session, 1).await;
    let completion = watched(&tx);
    drop(tx);
    assert_eq!(completion.await, Ok(Completion::Abandoned));
    let (_, Asked::Rollback(_)) = session.asked().await else { unreachable!() };

    let tx = begun(&client, &mut session, 2).await;
    let completion = watched(&tx);
    let committed = committing(tx);
    commit(&mut session).await;
    committed.abort();
    assert_eq!(soon("the end", completion).await, Ok(Completion::Unknown));
}

/// One id finds every line, and no name can make up a line of its own.
#[tokio::test]
async fn what_the_work_and_the_commit_log_has_the_transactions_span() {
    keep_log();
    let (_coordinator, client, mut session) = open().await;
    let ran = tokio::spawn(client.run("a\nb", async |_| {
        tracing::info!("at work");
        Ok::<_, Status>(())
    }));
    session.begun(77).await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Committed).await;
    assert!(soon("an end", ran).await.unwrap().is_ok());
    let span = format!("transaction{{gtrid={} name=\"a\\nb\"}}", gtrid(77));
    for event in ["at work", "committed"] {
        let log = log();
        let found = log.lines().any(|line| line.contains(event) && line.contains(&span));
        assert!(found, "{event}: {log}");
    }
}

/// `run` is spawned: its future is `Send`.
#[tokio::test]
async fn work_that_succeeds_is_committed_and_work_that_fails_or_panics_is_rolled_back() {
    let (mut coordinator, client, mut session) = open().await;
    let (told, mut completions) = tokio::sync::mpsc::unbounded_channel();
    let run = |end: &'static str| {
        let told = told.clone();
        let work = async move |tx: Handle| {
            let current = Context::current().map(|context| context.gtrid());
            assert_eq!(current, Some(tx.gtrid()), "its calls belong to it");
            tx.after_completion(move |completion| told.send(completion.clone()).unwrap());
            match end {
                "ok" => Ok(7),
                "fails" => Err("no money"),
                _ => std::panic::resume_unwind(Box::new("on purpose")),
            }
        };
        tokio::spawn(client.run("transfer", work))
    };
    let running = run("ok");
    session.begun(1).await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Committed).await;
    assert_eq!(soon("an end", running).await.unwrap(), Ok(7));
    let committed = Committed { gtrid: gtrid(1), completed: false };
    assert_eq!(completions.recv().await, Some(Completion::Committed(committed)));

    let running = run("fails");
    session.begun(2).await;
    let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
    session.ended(call, v1::Outcome::RolledBack).await;
    assert_eq!(soon("an end", running).await.unwrap(), Err(RunError::Work("no money")));
    assert!(matches!(completions.recv().await, Some(Completion::RolledBack(_))));

    let running = run("panics");
    session.begun(3).await;
    let (_, Asked::Rollback(rollback)) = session.asked().await else { unreachable!() };
    assert_eq!(rollback.gtrid, gtrid(3).as_bytes());
    assert!(soon("an end", running).await.unwrap_err().is_panic());
    assert_eq!(completions.recv().await, Some(Completion::Abandoned));

    let running = run("ok");
    session.begun(4).await;
    commit(&mut session).await;
    drop(session);
    let mut session = coordinator.client().await;
    session.welcome().await;
    let (call, _) = commit(&mut session).await;
    session.ended(call, v1::Outcome::Unknown).await;
    let unknown = Err(RunError::Commit(CommitError::Unknown { gtrid: gtrid(4), branches: None }));
    assert_eq!(soon("an end", running).await.unwrap(), unknown);
    assert_eq!(completions.recv().await, Some(Completion::Unknown));
}

/// The first one may have been heard, so that the refusal of the second says nothing about it.
#[tokio::test]
async fn a_commit_that_may_have_been_heard_is_asked_about_when_it_is_refused() {
    let (mut coordinator, client, mut session) = open().await;
    let committed = committing(begun(&client, &mut session, 1).await);
    commit(&mut session).await;
    drop(session);
    let mut session = coordinator.client().await;
    session.welcome().await;
    let (call, _) = commit(&mut session).await;
    session.reply(call, refused("TOO_MANY_CALLS", 1)).await;
    let (call, Asked::Resolve(resolve)) = session.asked().await else { unreachable!() };
    assert_eq!((resolve.gtrid, resolve.wait), (gtrid(1).as_bytes().to_vec(), true));
    session.reply(call, refused("STOPPING", 1)).await;
    let (call, Asked::Resolve(_)) = session.asked().await else { unreachable!() };
    session.ended(call, v1::Outcome::Committed).await;
    assert!(soon("a commit", committed).await.unwrap().is_ok());

    // A defect of the coordinator's: it says itself that the outcome is not known.
    let committed = committing(begun(&client, &mut session, 2).await);
    let (call, _) = commit(&mut session).await;
    session.reply(call, refused("INTERNAL", 0)).await;
    let (call, Asked::Resolve(_)) = session.asked().await else { unreachable!() };
    session.reply(call, refused("INTERNAL", 0)).await;
    let unknown = Err(CommitError::Unknown { gtrid: gtrid(2), branches: None });
    assert_eq!(soon("a commit", committed).await.unwrap(), unknown);
}

#[tokio::test]
async fn rollbacks_and_questions_are_asked_again_when_the_coordinator_says_later() {
    let (_coordinator, client, mut session) = open().await;
    let rolled_back = tokio::spawn(begun(&client, &mut session, 1).await.rollback());
    let resolver = client.clone();
    let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
    session.reply(call, refused("TOO_MANY_CALLS", 1)).await;
    let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
    session.ended(call, v1::Outcome::RolledBack).await;
    assert!(soon("a rollback", rolled_back).await.unwrap().is_ok());
    let resolved = tokio::spawn(async move { resolver.resolve(gtrid(1), None).await });
    let (call, Asked::Resolve(_)) = session.asked().await else { unreachable!() };
    session.reply(call, refused("STARTING", 1)).await;
    let (call, Asked::Resolve(_)) = session.asked().await else { unreachable!() };
    session.reply(call, refused("INVALID_ARGUMENT", 0)).await;
    let refused = soon("a resolution", resolved).await.unwrap();
    assert!(matches!(refused, Err(ResolveError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_transaction_that_is_dropped_and_a_begin_that_is_abandoned_are_rolled_back() {
    let (_coordinator, client, mut session) = open().await;
    drop(begun(&client, &mut session, 1).await);
    let (_, Asked::Rollback(rollback)) = session.asked().await else { unreachable!() };
    assert_eq!(rollback.gtrid, gtrid(1).as_bytes());

    let begin = tokio::spawn(client.begin("transfer").into_future());
    let (call, _) = session.asked().await;
    begin.abort();
    assert!(begin.await.unwrap_err().is_cancelled());
    let begun = v1::Begun { gtrid: gtrid(2).as_bytes().to_vec(), timeout_ms: 1 };
    session.reply(call, Reply::Begun(begun)).await;
    let (_, Asked::Rollback(rollback)) = session.asked().await else { unreachable!() };
    assert_eq!(rollback.gtrid, gtrid(2).as_bytes());
}

#[tokio::test]
async fn a_commit_that_is_dropped_midway_is_not_rolled_back() {
    let (_coordinator, client, mut session) = open().await;
    let tx = begun(&client, &mut session, 1).await;
    let committed = committing(tx);
    commit(&mut session).await;
    committed.abort();
    assert!(committed.await.unwrap_err().is_cancelled());
    // What comes next on the stream is no rollback.
    drop(begun(&client, &mut session, 2).await);
    let (_, Asked::Rollback(rollback)) = session.asked().await else { unreachable!() };
    assert_eq!(rollback.gtrid, gtrid(2).as_bytes());
}

#[tokio::test]
async fn a_rollback_tells_what_became_of_the_transaction() {
    let (_coordinator, client, mut session) = open().await;
    for (sequence, outcome, committed) in
        [(1, v1::Outcome::RolledBack, false), (2, v1::Outcome::Committed, true)]
    {
        let tx = begun(&client, &mut session, sequence).await;
        let rolled_back = tokio::spawn(tx.rollback());
        let (call, Asked::Rollback(_)) = session.asked().await else { unreachable!() };
        session.ended(call, outcome).await;
        let told = soon("a rollback", rolled_back).await.unwrap();
        let too_late = CommitError::CommittedBefore { gtrid: gtrid(sequence) };
        assert_eq!(told.err(), committed.then_some(too_late));
    }
}

#[tokio::test]
async fn an_outcome_can_be_asked_for_and_without_an_answer_in_time_it_is_unknown() {
    let (mut coordinator, client, mut session) = open().await;
    let resolved = tokio::spawn(async move { client.resolve(gtrid(1), Some(2)).await });
    let (call, Asked::Resolve(resolve)) = session.asked().await else { unreachable!() };
    assert_eq!((resolve.expected_branches, resolve.wait), (Some(2), true));
    session.ended(call, v1::Outcome::Unknown).await;
    assert_eq!(soon("a resolution", resolved).await.unwrap(), Ok(Resolution::Unknown));

    let impatient = Client::builder(&coordinator.address, "app")
        .resolve_within(Duration::from_millis(50))
        .begin_within(Duration::from_millis(50))
        .connect()
        .unwrap();
    let _silent = coordinator.client().await;
    let resolved = soon("no resolution", impatient.resolve(gtrid(2), None)).await;
    assert_eq!(resolved, Err(ResolveError::NoAnswer));
    let begin = soon("no begin", impatient.begin("x").into_future()).await.map(|_| ());
    assert_eq!(begin, Err(BeginError::Unreachable));
}

#[tokio::test]
async fn answers_in_any_order_find_their_calls() {
    let (_coordinator, client, mut session) = open().await;
    let first = tokio::spawn(client.begin("first").into_future());
    let (first_call, _) = session.asked().await;
    let second = tokio::spawn(client.begin("second").into_future());
    let (second_call, _) = session.asked().await;
    session.reply(99, Reply::Begun(v1::Begun::default())).await;
    for (call, sequence) in [(second_call, 2), (first_call, 1)] {
        let gtrid = gtrid(sequence).as_bytes().to_vec();
        session.reply(call, Reply::Begun(v1::Begun { gtrid, timeout_ms: 1 })).await;
    }
    assert_eq!(soon("a begin", first).await.unwrap().unwrap().gtrid(), gtrid(1));
    assert_eq!(soon("a begin", second).await.unwrap().unwrap().gtrid(), gtrid(2));
}

#[tokio::test]
async fn addresses_and_names_that_cannot_work_are_refused() {
    for (address, name) in
        [("nowhere", "app"), ("http://a:1", "a\nb"), ("http://a:1", &*"x".repeat(65))]
    {
        assert!(Client::connect(address, name).await.is_err(), "{address} {name:?}");
    }
}
