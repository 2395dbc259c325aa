//! Bad input over real streams: a clear answer or silence, never a panic, and everybody else goes
//! on.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::*;
use tonic::Code;
use tonic_types::StatusExt;
use unanimous_core::id::resource_manager;
use unanimous_core::{Bqual, Gtrid, Owner, ParticipantName, ResourceId};
use unanimous_proto::v1;
use unanimous_server::Config;

/// Still serves a whole transaction to others.
async fn assert_serves(server: &Running) {
    let mut client = server.client().await;
    let mut good = server.participant("good").await;
    let gtrid = client.begin().await;
    let branch = good.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    good.decide().await;
    good.acknowledge(branch, v1::Done::Done).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
}

#[tokio::test]
async fn a_participant_that_does_not_say_hello_first_is_told_goodbye() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut early = Participant::dial(&server, "bank-a").await;
    early.tell(Tell::Inquire(v1::Inquire::default())).await;
    assert_eq!(early.goodbye().await.reason(), v1::GoodbyeReason::BadMessage);

    let mut unknown = Participant::dial(&server, "bank-a").await;
    unknown.tell_nothing().await;
    assert_eq!(unknown.goodbye().await.reason(), v1::GoodbyeReason::BadMessage);

    for name in
        ["", "Bank", "bank a", "a\0b", "a\nb", "a'\"b", "\u{1b}[31mred", &"x".repeat(100_000)]
    {
        let mut hostile = Participant::dial(&server, name).await;
        let hello = hostile.a_hello();
        hostile.tell(Tell::Hello(hello)).await;
        let goodbye = hostile.goodbye().await;
        assert_eq!(goodbye.reason(), v1::GoodbyeReason::BadMessage, "{name:?}");
        assert!(!goodbye.detail.contains(char::is_control), "{:?}", goodbye.detail);
    }

    let mut twice = server.participant("bank-a").await;
    let again = twice.a_hello();
    twice.tell(Tell::Hello(again)).await;
    assert_eq!(twice.goodbye().await.reason(), v1::GoodbyeReason::BadMessage);

    let mut client = Client::dial(&server).await;
    client.ask(5, Ask::Begin(v1::Begin::default())).await;
    assert!(matches!(client.hear().await, (0, Answer::Closing(_))));
    assert!(matches!(next(&mut client.from).await, Ok(None)));
    let mut client = server.client().await;
    client.ask(5, Ask::Hello(client_hello())).await;
    assert!(matches!(client.hear().await, (0, Answer::Closing(_))));
    assert_serves(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn who_never_says_hello_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.hello_ms_max = 30;
    let server = start(dir.path(), config).await;
    let silent = Participant::dial(&server, "bank-a").await;
    assert_eq!(silent.goodbye().await.reason(), v1::GoodbyeReason::BadMessage);
    let mut client = Client::dial(&server).await;
    assert!(matches!(client.hear().await, (0, Answer::Closing(_))));
    server.stop().await;
}

/// common.proto: what is not understood means hold. The stream lives, nothing changes, and it is
/// counted.
#[tokio::test]
async fn malformed_and_unknown_messages_are_ignored_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    let good = a.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    assert_eq!(a.decide().await.decision(), v1::Decision::CommitOnePhase);

    let bad_ids = [
        v1::BranchRef { gtrid: vec![1; 23], ..good.clone() },
        v1::BranchRef { bqual: vec![], ..good.clone() },
        v1::BranchRef { gtrid: vec![255; 24], ..good.clone() },
        v1::BranchRef { gtrid: vec![1; 100_000], bqual: vec![0; 100_000] },
    ];
    for branch in bad_ids {
        a.vote(branch.clone(), v1::Ballot::Commit).await;
        a.acknowledge(branch.clone(), v1::Done::Done).await;
        let enlist = v1::Enlist { branch: Some(branch.clone()), ..v1::Enlist::default() };
        a.tell(Tell::Enlist(enlist)).await;
        a.tell(Tell::Inquire(v1::Inquire { branches: vec![branch] })).await;
    }
    for unknown in [0, -1, 99] {
        let vote = a_vote(good.clone(), v1::Ballot::Commit);
        a.tell(Tell::Vote(v1::Vote { ballot: unknown, ..vote })).await;
        let branch = Some(good.clone());
        let detail = "\0\n\u{1b}[2J".to_owned();
        a.tell(Tell::Acknowledged(v1::Acknowledged { branch, done: unknown, detail })).await;
    }
    a.tell(Tell::Vote(v1::Vote::default())).await;
    a.tell_nothing().await;
    // Not one of its resources.
    let foreign = branch("bank-z", gtrid, 1, a.owner.unwrap());
    a.acknowledge(foreign, v1::Done::HeuristicRollback).await;
    let me = a.owner.unwrap();
    let old = Owner { epoch: me.epoch - 1, ..me };
    let foreign = branch("bank-z", Gtrid::new(old, 0, 0), 1, old);
    a.acknowledge(foreign, v1::Done::HeuristicCommit).await;

    a.acknowledge(good, v1::Done::Done).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    let mut admin = server.admin().await;
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.unexpected_messages_total, 4 * 4 + 2 * 3 + 4);
    assert_eq!((status.transactions, status.heuristic_total), (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn branches_that_are_not_ours_are_refused_at_enlist() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    let me = a.owner.unwrap();
    let others = [
        Owner { epoch: me.epoch + 1, ..me },
        Owner { epoch: me.epoch - 1, ..me },
        Owner { log: unanimous_core::LogId { slot: 10, ..me.log }, ..me },
        Owner { log: unanimous_core::LogId { incarnation: !me.log.incarnation, ..me.log }, ..me },
    ];
    for other in others {
        let theirs = branch("bank-a", gtrid, 1, other);
        assert_eq!(a.try_enlist(theirs).await.status(), v1::EnlistStatus::NotOurs, "{other:?}");
        let of_theirs = branch("bank-a", Gtrid::new(other, 0, 0), 1, me);
        let status = a.try_enlist(of_theirs).await.status();
        assert_eq!(status, v1::EnlistStatus::NotOurs, "{other:?}");
        let inquire =
            v1::Inquire { branches: vec![branch("bank-a", Gtrid::new(other, 0, 0), 1, other)] };
        a.tell(Tell::Inquire(inquire)).await;
        let Told::Answer(answer) = a.hear().await else { panic!() };
        let past = other.log == me.log && other.epoch < me.epoch;
        let expected = if past { v1::Verdict::Rollback } else { v1::Verdict::LeaveAlone };
        assert_eq!(answer.verdict(), expected, "{other:?}");
    }
    let later = a.branch(Gtrid::new(me, 1_000, 0), 1);
    assert_eq!(a.try_enlist(later).await.status(), v1::EnlistStatus::UnknownTransaction);

    // Another participant's number, and a resource that the hello does not name.
    let foreign = branch("bank-b", gtrid, 1, me);
    assert_eq!(a.try_enlist(foreign).await.status(), v1::EnlistStatus::BadResource);
    let enlist = v1::Enlist {
        branch: Some(a.branch(gtrid, 1)),
        resource_id: "'; DROP TABLE\0\n".to_owned(),
        vote: None,
    };
    a.tell(Tell::Enlist(enlist)).await;
    let Told::Enlisted(enlisted) = a.hear().await else { panic!() };
    assert_eq!(enlisted.status(), v1::EnlistStatus::BadResource);

    let mut last = Participant::dial(&server, "bank-l").await;
    let hello = last.a_hello();
    let capabilities = vec![v1::Capability::LastResource.into(), 1_234];
    last.tell(Tell::Hello(v1::Hello { capabilities, ..hello })).await;
    assert!(matches!(last.hear().await, Told::Welcome(_)));
    last.owner = Some(me);
    let status = last.try_enlist(last.branch(gtrid, 1)).await.status();
    assert_eq!(status, v1::EnlistStatus::BadResource);
    server.stop().await;
}

/// An id that no database could take never gets so far that a vote depends on it.
#[tokio::test]
async fn b_02_an_id_of_another_length_is_not_enlisted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let gtrid = client.begin().await;
    let good = a.branch(gtrid, 1);
    for length in [0, 1, 23, 25, 64, 65, 200] {
        for branch in [
            v1::BranchRef { gtrid: vec![1; length], ..good.clone() },
            v1::BranchRef { bqual: vec![1; length], ..good.clone() },
        ] {
            let resource_id = resource_id("bank-a");
            a.tell(Tell::Enlist(v1::Enlist { branch: Some(branch), resource_id, vote: None }))
                .await;
        }
    }
    // Answered after all of them.
    let enlisted = a.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    let result = client.ended().await;
    assert_eq!(result.rollback_reason(), v1::RollbackReason::BranchCount);
    let decide = a.decide().await;
    assert_eq!((decide.decision(), decide.branch), (v1::Decision::Rollback, Some(enlisted)));
    server.stop().await;
}

/// None is the default, the longest is the limit; -1 is what a careless client makes of it.
#[tokio::test]
async fn t_05_a_time_out_of_nothing_and_of_all_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.limits.timeout_ms_max = 5_000;
    config.limits.timeout_ms_default = 4_000;
    let server = start(dir.path(), config).await;
    let mut unary = server.unary().await;
    for (timeout_ms, granted) in [(0, Some(4_000)), (5_000, Some(5_000)), (5_001, None)]
        .into_iter()
        .chain([(i64::MAX.cast_unsigned(), None), ((-1_i64).cast_unsigned(), None)])
    {
        let begin = v1::BeginRequest { timeout_ms, ..v1::BeginRequest::default() };
        match (unary.begin(begin).await, granted) {
            (Ok(begun), Some(granted)) => assert_eq!(begun.into_inner().timeout_ms, granted),
            (Err(status), None) => {
                assert_eq!(status.code(), Code::InvalidArgument);
                let details = status.get_error_details();
                assert_eq!(details.error_info().unwrap().reason, "TIMEOUT_TOO_LONG");
                assert_eq!(details.bad_request().unwrap().field_violations[0].field, "timeout_ms");
            }
            other => panic!("{timeout_ms}: {other:?}"),
        }
    }
    server.stop().await;
}

/// What waits for a participant in phase two is shown, with the one it waits for.
#[tokio::test]
async fn o_04_who_is_silent_in_phase_two_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.limits.stuck_after_ms = 20;
    let server = start(dir.path(), config).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    let (in_a, in_b) = (a.enlist(gtrid).await, b.enlist(gtrid).await);
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    b.say_yes().await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    b.acknowledge(in_b, v1::Done::Done).await;
    let admin = server.admin().await;
    let shown = async |stuck: usize| {
        eventually(|| {
            let mut admin = admin.clone();
            async move {
                let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
                let filter = "stuck=true and waiting_on=\"bank-a\"".to_owned();
                let request = v1::ListTransactionsRequest { filter, ..Default::default() };
                let listed = admin.list_transactions(request).await.unwrap().into_inner();
                let counts = (status.transactions_stuck, listed.transactions.len());
                (counts == (stuck as u64, stuck)).then_some(())
            }
        })
        .await;
    };
    shown(1).await;
    a.acknowledge(in_a, v1::Done::Done).await;
    shown(0).await;
    server.stop().await;
}

/// A session can speak only for its own participant.
#[tokio::test]
async fn b_05_a_vote_from_a_session_that_does_not_own_the_branch() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let mut thief = Participant::dial(&server, "thief").await;
    let hello = thief.a_hello();
    // It even declares the same resource id: the number in the bqual is made with the participant's
    // name.
    let resources = vec![v1::Resource { resource_id: resource_id("bank-a"), kind: String::new() }];
    thief.tell(Tell::Hello(v1::Hello { resources, ..hello })).await;
    assert!(matches!(thief.hear().await, Told::Welcome(_)));
    let gtrid = client.begin().await;
    let in_a = a.enlist(gtrid).await;
    let in_b = b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    thief.vote(in_b.clone(), v1::Ballot::Commit).await;
    thief.vote(in_a.clone(), v1::Ballot::Rollback).await;
    a.vote(in_b.clone(), v1::Ballot::Commit).await;
    let resource = resource_id("bank-a");
    let number = resource_manager(
        &ParticipantName::new("thief").unwrap(),
        &ResourceId::new(&resource).unwrap(),
    );
    let bqual = Bqual::new(number, 1, a.owner.unwrap()).as_bytes().to_vec();
    let own = v1::BranchRef { bqual, ..in_a.clone() };
    thief.tell(Tell::Inquire(v1::Inquire { branches: vec![in_a, own.clone()] })).await;
    let Told::Answer(answer) = thief.hear().await else { panic!() };
    assert_eq!(answer.branch, Some(own), "what became of another's branch is not told");
    assert_eq!(answer.verdict(), v1::Verdict::Wait, "the votes before it were heard and not taken");
    server.until(gtrid, &in_b, v1::BranchState::Enlisted).await;
    b.say_yes().await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    server.stop().await;
}

#[tokio::test]
async fn oversized_evidence_votes_rollback() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    let gtrid = client.begin().await;
    a.enlist(gtrid).await;
    b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    let branch = a.prepare().await;
    let evidence = Some(v1::Evidence { kind: "test".to_owned(), data: vec![0; 100_000] });
    a.tell(Tell::Vote(v1::Vote { evidence, ..a_vote(branch, v1::Ballot::Commit) })).await;
    let result = client.ended().await;
    assert_eq!(result.rollback_reason(), v1::RollbackReason::Voted);
    assert!(result.detail.contains("evidence"), "{}", result.detail);
    server.stop().await;
}

/// reliability.md B-04: above the limit; other streams live.
#[tokio::test]
async fn b_04_an_oversized_message_ends_its_session_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.message_bytes_max = 128 << 10;
    let server = start(dir.path(), config).await;
    let mut a = server.participant("bank-a").await;
    let branches = vec![v1::BranchRef { gtrid: vec![1; 1 << 20], bqual: vec![] }];
    a.tell(Tell::Inquire(v1::Inquire { branches })).await;
    assert_eq!(a.goodbye().await.reason(), v1::GoodbyeReason::BadMessage);
    let mut unary = server.unary().await;
    let begin = v1::BeginRequest { name: "x".repeat(1 << 20), ..v1::BeginRequest::default() };
    assert_eq!(unary.begin(begin).await.unwrap_err().code(), Code::OutOfRange);
    assert_serves(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn bad_client_requests_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let id = client.begin().await.as_bytes().to_vec();
    let long = u64::MAX;
    let bad = [
        (
            "INVALID_ARGUMENT",
            Ask::Begin(v1::Begin { name: "a\0".to_owned(), ..Default::default() }),
        ),
        ("INVALID_ARGUMENT", Ask::Begin(v1::Begin { request_id: vec![1], ..Default::default() })),
        ("TIMEOUT_TOO_LONG", Ask::Begin(v1::Begin { timeout_ms: long, ..Default::default() })),
        ("UNSUPPORTED_FIELD", Ask::Begin(v1::Begin { parent: id.clone(), ..Default::default() })),
        ("UNSUPPORTED_FIELD", Ask::Begin(v1::Begin { lease_ms: 1, ..Default::default() })),
        ("INVALID_ARGUMENT", Ask::Commit(v1::Commit { gtrid: vec![1; 23], ..Default::default() })),
        ("INVALID_ARGUMENT", Ask::Commit(v1::Commit { gtrid: id, wait: 77, ..Default::default() })),
        ("INVALID_ARGUMENT", Ask::Rollback(v1::Rollback::default())),
        (
            "INVALID_ARGUMENT",
            Ask::Resolve(v1::Resolve { gtrid: vec![9; 24], ..Default::default() }),
        ),
    ];
    for (call, (reason, ask)) in (1..).zip(bad) {
        let Answer::Refused(refused) = client.call(call, ask.clone()).await else {
            panic!("{ask:?}")
        };
        assert_eq!((refused.reason.as_str(), refused.retry_after_ms), (reason, 0), "{ask:?}");
    }
    let foreign = Gtrid::from_bytes(&[1; 24]).unwrap();
    client.ask(50, commit(foreign, Some(2), v1::Wait::Decided)).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Unknown);
    server.stop().await;
}

#[tokio::test]
async fn unary_errors_carry_reason_domain_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.limits.transactions_max = 1;
    let server = start(dir.path(), config).await;
    let mut unary = server.unary().await;
    for gtrid in ["", "zz", "\0", &"0".repeat(47), &"g".repeat(48), &"0".repeat(100_000)] {
        let request = v1::CommitRequest { gtrid: gtrid.to_owned(), ..Default::default() };
        let status = unary.commit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().domain, "unanimous");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "gtrid");
    }
    unary.begin(v1::BeginRequest::default()).await.unwrap();
    let full = unary.begin(v1::BeginRequest::default()).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    let details = full.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_TRANSACTIONS");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    server.stop().await;
}

#[tokio::test]
async fn b_10_garbage_pages_are_refused_and_suffixes_found() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(client.begin().await.to_string());
    }
    let mut admin = server.admin().await;
    for token in ["garbage", "\0", "'", &"f".repeat(48), &"0".repeat(100_000)] {
        let request =
            v1::ListTransactionsRequest { page_token: token.to_owned(), ..Default::default() };
        let status = admin.list_transactions(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{token:.60}");
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    for page in 0.. {
        let request =
            v1::ListTransactionsRequest { page_size: 7, page_token, ..Default::default() };
        let list = admin.list_transactions(request).await.unwrap().into_inner();
        assert_eq!(list.total, 20);
        listed.extend(list.transactions.into_iter().map(|transaction| transaction.gtrid));
        page_token = list.next_page_token;
        if page_token.is_empty() {
            assert_eq!(page, 2);
            break;
        }
    }
    assert_eq!(listed, ids);
    let huge = v1::ListTransactionsRequest { page_size: u32::MAX, ..Default::default() };
    assert_eq!(admin.list_transactions(huge).await.unwrap().into_inner().transactions.len(), 20);
    let filtered =
        |filter: &str| v1::ListTransactionsRequest { filter: filter.into(), ..Default::default() };
    for (filter, total) in [("state=HEURISTIC", 0), ("state=ACTIVE and age<1h", 20), (" ", 20)] {
        let list = admin.list_transactions(filtered(filter)).await.unwrap().into_inner();
        assert_eq!((list.total, list.transactions.len() as u64), (total, total), "{filter}");
    }
    let deep = "(".repeat(1_024);
    for bad in ["state=LOST", "drop table", "\0", "\u{1b}[2J", &deep, &"x".repeat(1 << 16)] {
        let status = admin.list_transactions(filtered(bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}");
        assert!(status.message().starts_with("column ") && status.message().len() < 500);
    }

    let mut describe = async |gtrid: &str| {
        let request = v1::GetTransactionRequest { gtrid: gtrid.to_owned() };
        admin.get_transaction(request).await.map(|found| found.into_inner().transaction.unwrap())
    };
    // The sequence stands before the kind, so suffixes of 4 digits tell these apart.
    assert_eq!(describe(&ids[3][44..]).await.unwrap().gtrid, ids[3]);
    assert_eq!(describe(&ids[3]).await.unwrap().gtrid, ids[3]);
    assert_eq!(describe("abcd").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(describe("300").await.unwrap_err().code(), Code::InvalidArgument);
    for bad in ["", "nope!", "\u{1b}[31m", "0300\n"] {
        assert_eq!(describe(bad).await.unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_ambiguous_suffix_names_candidates() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let first = client.begin().await;
    for _ in 0..256 {
        client.begin().await;
    }
    let request = v1::GetTransactionRequest { gtrid: "0000".to_owned() };
    let status = server.admin().await.get_transaction(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains(&first.to_string()), "{}", status.message());
    server.stop().await;
}

#[tokio::test]
async fn every_limit_of_sessions_and_calls_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.sessions_max = 2;
    config.calls_per_client_max = 1;
    let server = start(dir.path(), config).await;
    let mut client = server.client().await;
    let mut a = server.participant("bank-a").await;
    let over = Participant::dial(&server, "bank-b").await;
    assert_eq!(over.goodbye().await.reason(), v1::GoodbyeReason::Overloaded);
    let mut over = Client::dial(&server).await;
    assert!(matches!(over.hear().await, (0, Answer::Closing(_))));

    let gtrid = client.begin().await;
    a.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    let Answer::Refused(refused) = client.call(2, resolve(gtrid, None, false)).await else {
        panic!()
    };
    assert_eq!(refused.reason, "TOO_MANY_CALLS");
    assert!(refused.retry_after_ms > 0);
    let one_phase = a.decide().await;
    a.acknowledge(one_phase.branch.unwrap(), v1::Done::Done).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    client.begin().await;
    server.stop().await;
}

#[tokio::test]
async fn a_newer_session_of_the_same_instance_replaces_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut client = server.client().await;
    let old = server.participant("bank-a").await;
    let mut new = Participant::dial(&server, "bank-a").await;
    new.instance = old.instance.clone();
    new.hello(Vec::new()).await;
    assert_eq!(old.goodbye().await.reason(), v1::GoodbyeReason::Replaced);
    let gtrid = client.begin().await;
    let branch = new.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    assert_eq!(new.decide().await.branch, Some(branch));
    server.stop().await;
}

fn narrow() -> Config {
    let mut config = once();
    config.events_queue = 1;
    config.calls_per_client_max = 63;
    config.session_queue = 64;
    config
}

/// So long that h2's own guard against floods of small frames does not come first.
fn refused() -> Ask {
    Ask::Rollback(v1::Rollback { gtrid: vec![0; 300], request_id: Vec::new() })
}

/// reliability.md O-06: bounded memory; closed.
#[tokio::test]
async fn o_06_a_client_that_never_reads_is_disconnected() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), narrow()).await;
    let channel = server.channel().await;
    let mut watch = watch_health(channel.clone()).await;
    assert!(next(&mut watch).await.unwrap().is_some());
    let mut client = server.client_over(channel).await;
    // Its window is full at some point, then its queue; the connection goes then, and the sender
    // hears of it.
    let flood = async {
        let mut call = 0;
        while client.offer(call, refused()).await {
            call += 1;
        }
        call
    };
    let calls = tokio::time::timeout(GUARD * 3, flood).await.expect("it was not disconnected");
    assert!(calls > 5_000, "not before its window was full: {calls}");
    // The whole connection is cut: what was queued for the client does not wait for it to read.
    assert!(next(&mut watch).await.is_err());
    assert_serves(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_is_never_taken_for_one_that_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), narrow()).await;
    let Client { to, mut from } = server.client().await;
    let calls = 20_000;
    let sending = tokio::spawn(async move {
        for call in 1..=calls {
            let tiny = Ask::Rollback(v1::Rollback::default());
            let request = v1::TransactRequest { call, body: Some(tiny) };
            to.send(request).await.unwrap();
        }
        to
    });
    for call in 1..=calls {
        let answer = next(&mut from).await.unwrap().expect("the session has ended");
        assert_eq!(answer.call, call);
    }
    drop(sending.await.unwrap());
    server.stop().await;
}

/// A peer that connects and says nothing, or not enough of HTTP/2's preface, is closed.
#[tokio::test]
async fn n_12_a_connection_that_never_speaks_is_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let mut config = once();
    config.hello_ms_max = 30;
    let server = start(dir.path(), config).await;
    for said in [&b""[..], b"PRI * HTTP/2.0"] {
        let mut silent = tokio::net::TcpStream::connect(server.sessions).await.unwrap();
        silent.write_all(said).await.unwrap();
        let closed = tokio::time::timeout(GUARD, silent.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "still open after {said:?}");
    }
    server.stop().await;
}
