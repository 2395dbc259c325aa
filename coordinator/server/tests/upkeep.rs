//! What the server does about its log while it serves: compaction; and who is known and what is
//! left alone, over restarts.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::*;
use unanimous_core::{Gtrid, LogId, Owner};
use unanimous_proto::v1;
use unanimous_server::Config;

/// A log that is compacted all the time.
fn small() -> Config {
    Config { log_bytes_compact: 2_000, ..once() }
}

/// One transaction over both participants, to its end.
async fn transfer(client: &mut Client, a: &mut Participant, b: &mut Participant) -> Gtrid {
    let gtrid = client.begin().await;
    let (in_a, in_b) = (a.enlist(gtrid).await, b.enlist(gtrid).await);
    client.ask(7, commit(gtrid, Some(2), v1::Wait::Completed)).await;
    a.say_yes().await;
    b.say_yes().await;
    for (participant, branch) in [(a, in_a), (b, in_b)] {
        participant.decide().await;
        participant.acknowledge(branch, v1::Done::Done).await;
    }
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    gtrid
}

async fn status(server: &Running) -> v1::GetStatusResponse {
    server.admin().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner()
}

/// Issue: bounded disk for any history, unfinished decisions and outcomes kept.
#[tokio::test]
async fn the_log_is_compacted_and_nothing_that_matters_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), small()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    // Decided, and one of its participants does not answer.
    let waiting = client.begin().await;
    let (in_a, in_b) = (a.enlist(waiting).await, b.enlist(waiting).await);
    client.ask(7, commit(waiting, Some(2), v1::Wait::Decided)).await;
    a.say_yes().await;
    b.say_yes().await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    a.decide().await;
    a.acknowledge(in_a, v1::Done::Done).await;
    b.decide().await;

    let mut ended = Vec::new();
    for _ in 0..100 {
        ended.push(transfer(&mut client, &mut a, &mut b).await);
    }
    eventually(|| async {
        let status = status(&server).await;
        (status.compactions_total >= 3 && status.log_retained_bytes < 30_000).then_some(())
    })
    .await;
    assert_eq!(status(&server).await.outcomes_remembered, 100);
    server.stop().await;

    let first = unanimous_recovery::read_records(dir.path()).unwrap()[0].lsn.0;
    assert!(first > 100, "older records are gone: the first is {first}");

    let server = start(dir.path(), small()).await;
    let mut unary = server.unary().await;
    for gtrid in ended {
        let request =
            v1::GetOutcomeRequest { gtrid: gtrid.to_string(), expected_branches: Some(2) };
        let outcome = unary.get_outcome(request).await.unwrap().into_inner().result.unwrap();
        assert_eq!(outcome.outcome(), v1::Outcome::Committed, "{gtrid}");
    }
    let mut b = server.participant("bank-b").await;
    let decide = b.decide().await;
    assert_eq!((decide.decision(), decide.branch), (v1::Decision::Commit, Some(in_b.clone())));
    b.acknowledge(in_b, v1::Done::Done).await;
    eventually(|| async { (status(&server).await.transactions == 0).then_some(()) }).await;
    server.stop().await;
}

/// Issue: known ones are listed while away.
#[tokio::test]
async fn participants_are_listed_while_they_are_away_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    drop(server.participant("bank-a").await);
    server.stop().await;
    let server = start(dir.path(), once()).await;
    let _b = server.participant("bank-b").await;
    let listed = eventually(|| async {
        let mut admin = server.admin().await;
        let listed = admin.list_participants(v1::ListParticipantsRequest {}).await.unwrap();
        let participants = listed.into_inner().participants;
        (participants.len() == 2).then_some(participants)
    })
    .await;
    let words: Vec<_> =
        listed.iter().map(|one| (one.name.as_str(), one.connected, one.instances.len())).collect();
    assert_eq!(words, [("bank-a", false, 0), ("bank-b", true, 1)]);
    assert!(listed.iter().all(|one| one.resource_ids.len() == 1), "{listed:?}");
    server.stop().await;
}

/// Section 6: another incarnation's branches go to the operator's list, and are left alone.
#[tokio::test]
async fn a_branch_of_another_incarnation_is_left_alone_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut a = server.participant("bank-a").await;
    let status_now = status(&server).await;
    let me = status_now.coordinator.unwrap();
    let other = Owner {
        log: LogId { cluster: me.cluster, slot: 1, incarnation: me.incarnation ^ 1 },
        epoch: me.epoch,
    };
    let branches = vec![branch("bank-a", Gtrid::new(other, 5, 0), 1, other)];
    a.tell(Tell::Inquire(v1::Inquire { branches })).await;
    let Told::Answer(answer) = a.hear().await else { panic!() };
    assert_eq!(answer.verdict(), v1::Verdict::LeaveAlone);
    let listed = server.admin().await.list_orphans(v1::ListOrphansRequest {}).await.unwrap();
    let orphans = listed.into_inner().orphans;
    assert_eq!(orphans.len(), 1);
    assert!(orphans[0].reason.contains("incarnation"), "{orphans:?}");
    assert_eq!(orphans[0].participant, "bank-a");
    assert!(status(&server).await.summary.contains("1 prepared branch that no record explains"));
    server.stop().await;
}
