//! Whole transactions over real streams: commit, rollback, one phase, callers that go away,
//! restarts.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::*;
use unanimous_proto::v1;

#[tokio::test]
async fn two_participants_commit() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let (in_a, in_b) = (a.enlist(gtrid).await, b.enlist(gtrid).await);

    client.ask(7, commit(gtrid, Some(2), v1::Wait::Completed)).await;
    assert_eq!((a.say_yes().await, b.say_yes().await), (in_a.clone(), in_b.clone()));
    for (participant, branch) in [(&mut a, &in_a), (&mut b, &in_b)] {
        let decide = participant.decide().await;
        assert_eq!(decide.decision(), v1::Decision::Commit);
        assert_eq!(decide.branch.as_ref(), Some(branch));
        assert_eq!(decide.evidence.unwrap().data, [1, 2, 3]);
        assert!(decide.frame >= 2, "after the first frame of this life: {}", decide.frame);
        participant.acknowledge(branch.clone(), v1::Done::Done).await;
    }
    let result = client.ended().await;
    assert_eq!(result.outcome(), v1::Outcome::Committed);
    assert!(result.completed);
    server.stop().await;
}

#[tokio::test]
async fn p_02_a_no_rolls_back_with_the_participants_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let in_a = a.enlist(gtrid).await;
    b.enlist(gtrid).await;
    client.ask(7, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    let in_b = b.prepare().await;
    b.vote(in_b, v1::Ballot::Rollback).await;
    let decide = a.decide().await;
    assert_eq!(decide.decision(), v1::Decision::Rollback);
    assert_eq!((decide.branch.as_ref(), decide.evidence), (Some(&in_a), None));
    let result = client.ended().await;
    assert_eq!(result.outcome(), v1::Outcome::RolledBack);
    assert_eq!(result.rollback_reason(), v1::RollbackReason::Voted);
    assert_eq!(
        (result.participant.as_str(), result.detail.as_str()),
        ("bank-b", "no \"money\"\n\u{1b}[31m")
    );
    server.stop().await;
}

#[tokio::test]
async fn one_branch_commits_in_one_phase() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    let branch = a.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    assert_eq!(a.decide().await.decision(), v1::Decision::CommitOnePhase);
    a.acknowledge(branch, v1::Done::Done).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_count_rolls_back_and_a_rollback_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    a.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    assert_eq!(client.ended().await.rollback_reason(), v1::RollbackReason::BranchCount);

    let gtrid = client.begin().await;
    let rollback = v1::Rollback { gtrid: gtrid.as_bytes().to_vec(), request_id: vec![5; 16] };
    client.ask(2, Ask::Rollback(rollback)).await;
    assert_eq!(client.ended().await.rollback_reason(), v1::RollbackReason::Requested);
    server.stop().await;
}

#[tokio::test]
async fn people_commit_with_unary_calls() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut unary = server.unary().await;
    let begin = v1::BeginRequest { name: "by hand".to_owned(), ..v1::BeginRequest::default() };
    let begun = unary.begin(begin).await.unwrap().into_inner();
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = begun.gtrid.parse().unwrap();
    a.enlist(gtrid).await;
    b.enlist(gtrid).await;
    let outcome = v1::GetOutcomeRequest { gtrid: begun.gtrid.clone(), expected_branches: None };
    let pending = unary.get_outcome(outcome.clone()).await.unwrap().into_inner().result.unwrap();
    assert_eq!(pending.outcome(), v1::Outcome::Pending);

    let commit = v1::CommitRequest { gtrid: begun.gtrid.clone(), ..Default::default() };
    let mut committing = unary.clone();
    let commit = tokio::spawn(async move { committing.commit(commit).await });
    a.say_yes().await;
    b.say_yes().await;
    let committed = commit.await.unwrap().unwrap().into_inner();
    assert_eq!(committed.gtrid, begun.gtrid);
    assert_eq!(committed.result.unwrap().outcome(), v1::Outcome::Committed);
    let known = unary.get_outcome(outcome).await.unwrap().into_inner().result.unwrap();
    assert_eq!(known.outcome(), v1::Outcome::Committed);
    server.stop().await;
}

/// reliability.md C-10: the work is not tied to the life of the call or the session that asked for
/// it.
#[tokio::test]
async fn c_10_a_commit_goes_on_when_its_client_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);

    let mut client = server.client().await;
    let gtrid = client.begin().await;
    a.enlist(gtrid).await;
    b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    let in_a = a.prepare().await;
    drop(client);
    a.vote(in_a, v1::Ballot::Commit).await;
    b.say_yes().await;
    assert_eq!(a.decide().await.decision(), v1::Decision::Commit);
    assert_eq!(b.decide().await.decision(), v1::Decision::Commit);

    let mut unary = server.unary().await;
    let begun = unary.begin(v1::BeginRequest::default()).await.unwrap().into_inner();
    let second = begun.gtrid.parse().unwrap();
    a.enlist(second).await;
    b.enlist(second).await;
    let request = v1::CommitRequest { gtrid: begun.gtrid, ..Default::default() };
    let mut cancelled = unary.clone();
    let call = tokio::spawn(async move { cancelled.commit(request).await });
    a.say_yes().await;
    call.abort();
    b.say_yes().await;
    assert_eq!(a.decide().await.decision(), v1::Decision::Commit);

    let mut client = server.client().await;
    client.ask(1, resolve(second, Some(2), true)).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    server.stop().await;
}

/// reliability.md C-08, C-11: an unfinished commit is driven by the next life, to those who have
/// not acknowledged.
#[tokio::test]
async fn c_08_a_restart_finishes_what_was_decided() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let (in_a, in_b) = (a.enlist(gtrid).await, b.enlist(gtrid).await);
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    b.say_yes().await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    assert_eq!(a.decide().await.decision(), v1::Decision::Commit);
    a.acknowledge(in_a, v1::Done::Done).await;
    let old_epoch = a.owner.unwrap().epoch;
    server.stop().await;

    let server = start(dir.path(), once()).await;
    let mut b = Participant::dial(&server, "bank-b").await;
    b.hello(vec![in_b.clone()]).await;
    assert!(b.owner.unwrap().epoch > old_epoch);
    // The decision is sent, and the in-doubt branch of the hello answered, in any order.
    let mut heard = Vec::new();
    while heard.len() < 2 {
        match b.hear().await {
            Told::Decide(decide) => {
                assert_eq!(decide.decision(), v1::Decision::Commit);
                assert_eq!(decide.branch, Some(in_b.clone()));
                assert_eq!(decide.evidence.unwrap().kind, "test");
                heard.push("decide");
            }
            Told::Answer(answer) if answer.verdict() == v1::Verdict::Wait => {
                // Asked before this life's first record was durable.
                let inquire = v1::Inquire { branches: vec![in_b.clone()] };
                b.tell(Tell::Inquire(inquire)).await;
            }
            Told::Answer(answer) => {
                assert_eq!(answer.verdict(), v1::Verdict::Commit);
                heard.push("answer");
            }
            other => panic!("{other:?}"),
        }
        heard.dedup();
    }
    let mut client = server.client().await;
    client.ask(1, resolve(gtrid, Some(2), true)).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);

    b.acknowledge(in_b, v1::Done::Done).await;
    let mut a = server.participant("bank-a").await;
    let mut admin = server.admin().await;
    // The a branch's acknowledgement was not logged: it is asked again.
    let again = a.decide().await;
    a.acknowledge(again.branch.unwrap(), v1::Done::Done).await;
    let status = eventually(|| {
        let mut admin = admin.clone();
        async move {
            let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
            (status.transactions == 0).then_some(status)
        }
    })
    .await;
    assert_eq!((status.recovered_total, status.recovered_finished_total), (1, 1));
    let none = admin.list_transactions(v1::ListTransactionsRequest::default()).await.unwrap();
    assert_eq!(none.into_inner().total, 0);
    server.stop().await;
}

/// What was not decided before a restart is presumed rolled back, and an unknown outcome is never
/// invented.
#[tokio::test]
async fn a_restart_presumes_rollback_only_where_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let in_a = a.enlist(gtrid).await;
    b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    b.prepare().await;
    server.stop().await;

    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    client.ask(1, resolve(gtrid, Some(1), false)).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Unknown);
    client.ask(2, resolve(gtrid, Some(2), false)).await;
    assert_eq!(client.ended().await.rollback_reason(), v1::RollbackReason::Presumed);
    let mut a = server.participant("bank-a").await;
    a.tell(Tell::Inquire(v1::Inquire { branches: vec![in_a] })).await;
    match a.hear().await {
        Told::Answer(answer) => assert_eq!(answer.verdict(), v1::Verdict::Rollback),
        other => panic!("{other:?}"),
    }
    // A log that ends before what this participant has seen went back in time: nothing is presumed
    // any more.
    let mut b = Participant::dial(&server, "bank-b").await;
    let owner = a.owner.unwrap();
    let seen = v1::SeenFrame {
        cluster: owner.log.cluster,
        slot: u32::from(owner.log.slot),
        incarnation: owner.log.incarnation,
        frame: 1_000_000,
        epoch: owner.epoch - 1,
    };
    let hello = v1::Hello { seen_frames: vec![seen], ..b.a_hello() };
    b.tell(Tell::Hello(hello)).await;
    assert!(matches!(b.hear().await, Told::Welcome(_)));
    client.ask(3, resolve(gtrid, Some(2), false)).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Unknown);
    server.stop().await;
}

#[tokio::test]
async fn a_time_out_rolls_back_and_late_work_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let begin = v1::Begin { timeout_ms: 30, ..v1::Begin::default() };
    let Answer::Begun(begun) = client.call(1, Ask::Begin(begin)).await else { panic!() };
    let gtrid = unanimous_core::Gtrid::from_bytes(&begun.gtrid).unwrap();
    let branch = a.branch(gtrid, 1);
    assert_eq!(a.try_enlist(branch.clone()).await.status(), v1::EnlistStatus::Enlisted);
    assert_eq!(a.decide().await.decision(), v1::Decision::Rollback);
    assert_eq!(a.try_enlist(branch.clone()).await.status(), v1::EnlistStatus::RolledBack);
    a.acknowledge(branch, v1::Done::Done).await;
    client.ask(2, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    assert_eq!(client.ended().await.rollback_reason(), v1::RollbackReason::TimedOut);
    server.stop().await;
}

#[tokio::test]
async fn p_19_a_heuristic_result_is_recorded_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let (in_a, in_b) = (a.enlist(gtrid).await, b.enlist(gtrid).await);
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Completed)).await;
    a.say_yes().await;
    b.say_yes().await;
    a.decide().await;
    a.acknowledge(in_a, v1::Done::Done).await;
    b.decide().await;
    b.acknowledge(in_b.clone(), v1::Done::HeuristicRollback).await;
    let forget = loop {
        match b.hear().await {
            Told::Forget(forget) => break forget,
            Told::Decide(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(forget.branch, Some(in_b.clone()));
    b.acknowledge(in_b, v1::Done::Forgotten).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::HeuristicMixed);
    let mut admin = server.admin().await;
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.transactions_heuristic, 1);
    assert!(status.summary.contains("1 heuristic"), "{}", status.summary);
    server.stop().await;

    let server = start(dir.path(), once()).await;
    let request = v1::GetTransactionRequest { gtrid: gtrid.to_string() };
    let found = server.admin().await.get_transaction(request).await.unwrap().into_inner();
    let found = found.transaction.unwrap();
    assert_eq!(found.state(), v1::TransactionState::Heuristic);
    assert_eq!(found.outcome(), v1::Outcome::HeuristicMixed);
    assert!(found.recovered && !found.meaning.is_empty() && !found.next.is_empty());
    server.stop().await;
}

/// Two instances of one participant: the work's own instance is asked to prepare; when it has gone,
/// another one that reaches the resource is told the decision.
#[tokio::test]
async fn prepare_goes_to_the_instance_and_phase_two_to_any() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut first = server.participant("bank-a").await;
    let mut second = server.participant("bank-a").await;
    let mut b = server.participant("bank-b").await;
    let gtrid = client.begin().await;
    let branch = second.enlist(gtrid).await;
    b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    assert_eq!(second.say_yes().await, branch);
    server.until(gtrid, &branch, v1::BranchState::Prepared).await;
    drop(second);
    let mut admin = server.admin().await;
    eventually(|| {
        let mut admin = admin.clone();
        async move {
            let list = admin.list_participants(v1::ListParticipantsRequest {}).await.unwrap();
            let bank = list.into_inner().participants.remove(0);
            (bank.instances.len() == 1).then_some(())
        }
    })
    .await;
    b.say_yes().await;
    let decide = first.decide().await;
    assert_eq!((decide.decision(), decide.branch), (v1::Decision::Commit, Some(branch)));
    let list = admin.list_participants(v1::ListParticipantsRequest {}).await.unwrap().into_inner();
    let pending: Vec<_> =
        list.participants.iter().map(|one| (one.name.as_str(), one.branches_pending)).collect();
    assert_eq!(pending, [("bank-a", 1), ("bank-b", 1)]);
    server.stop().await;
}

#[tokio::test]
async fn the_ended_mark_reaches_participants_after_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    let branch = a.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    a.decide().await;
    a.acknowledge(branch.clone(), v1::Done::Done).await;
    client.ended().await;
    // It rides on an answer, or comes alone: in any case it comes.
    let inquire = || Tell::Inquire(v1::Inquire { branches: vec![branch.clone()] });
    let mark = tokio::time::timeout(GUARD, async {
        loop {
            a.tell(inquire()).await;
            let heard = next(&mut a.from).await.unwrap().unwrap();
            match heard.ended {
                Some(mark) if mark.exceptions.is_empty() => break mark,
                _ => {}
            }
        }
    });
    let mark = mark.await.expect("no mark came");
    assert_eq!((mark.epoch, mark.sequence), (gtrid.owner().epoch, gtrid.sequence()));
    assert_eq!(mark.incarnation, gtrid.owner().log.incarnation);
    server.stop().await;
}

/// reliability.md O-05, in small: what is asked in bulk is answered in full, and others are served
/// meanwhile.
#[tokio::test]
async fn o_05_many_inquiries_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    let first = a.owner.unwrap();
    let old = unanimous_core::Owner { epoch: first.epoch - 1, ..first };
    let branches: Vec<_> = (0..1_000)
        .map(|n| branch("bank-a", unanimous_core::Gtrid::new(old, n, 0), 1, old))
        .collect();
    for _ in 0..10 {
        a.tell(Tell::Inquire(v1::Inquire { branches: branches.clone() })).await;
    }
    a.tell(Tell::Inquire(v1::Inquire { branches: vec![a.branch(gtrid, 1)] })).await;
    for count in 0..10_000 {
        let Told::Answer(answer) = a.hear().await else { panic!() };
        assert_eq!(answer.verdict(), v1::Verdict::Rollback);
        assert_eq!(answer.branch.as_ref(), Some(&branches[count % 1_000]));
    }
    let Told::Answer(last) = a.hear().await else { panic!() };
    assert_eq!(last.verdict(), v1::Verdict::Wait);
    server.stop().await;
}
