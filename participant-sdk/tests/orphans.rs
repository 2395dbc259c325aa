//! Prepared branches that nobody works on: at the start, and found later.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; one prints what it measured")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{
    Coordinator, HAZARD, OWNER, ParticipantSession, Said, Tell, gtrid, id, is_nobodys,
    no_such_branch, reference, soon,
};
use tokio::sync::{mpsc, oneshot};
use unanimous_core::{Bqual, ParticipantName, ResourceId, id::resource_manager};
use unanimous_proto::v1;
use unanimous_sdk::{
    Attached, BranchId, Context, Done, Evidence, Participant, ParticipantBuilder, Prepared,
    Resource, Retry, Times, Vote,
};

/// A resource that holds prepared branches in memory and lists them when the test says so.
#[derive(Clone)]
struct Vault {
    prepared: Arc<Mutex<BTreeSet<BranchId>>>,
    /// Told of each list after the first, with what lets it return.
    lists: mpsc::UnboundedSender<oneshot::Sender<()>>,
    started: Arc<Mutex<bool>>,
}

type Lists = mpsc::UnboundedReceiver<oneshot::Sender<()>>;

impl Vault {
    fn new(prepared: impl IntoIterator<Item = BranchId>) -> (Self, Lists) {
        let (lists, asked) = mpsc::unbounded_channel();
        let prepared = Arc::new(Mutex::new(prepared.into_iter().collect()));
        (Self { prepared, lists, started: Arc::default() }, asked)
    }

    fn put(&self, branch: BranchId) {
        self.prepared.lock().unwrap().insert(branch);
    }

    fn remove(&self, branch: &BranchId) -> Done {
        self.prepared.lock().unwrap().remove(branch);
        Done::Done
    }
}

impl Resource for Vault {
    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if is_nobodys(branch) {
            return Ok(no_such_branch());
        }
        self.put(*branch);
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if is_nobodys(branch) {
            return Ok(HAZARD);
        }
        Ok(self.remove(branch))
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        Ok(self.remove(branch))
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        let listed: Vec<BranchId> = self.prepared.lock().unwrap().iter().copied().collect();
        if std::mem::replace(&mut *self.started.lock().unwrap(), true) {
            let (go_on, waits) = oneshot::channel();
            let _ = self.lists.send(go_on);
            // Without a test that lets it return it hangs.
            waits.await?;
        }
        let evidence = || Some(Evidence { kind: "listed".to_owned(), data: vec![] });
        let prepared = |branch| Prepared { branch, evidence: evidence() };
        Ok(listed.into_iter().map(prepared).collect())
    }
}

/// A branch of the vault's, of a transaction of its own.
fn branch(sequence: u64) -> BranchId {
    let name = ParticipantName::new("bank").unwrap();
    let number = resource_manager(&name, &ResourceId::new("bank/a").unwrap());
    BranchId { gtrid: gtrid(sequence), bqual: Bqual::new(number, 1, OWNER) }
}

fn builder(coordinator: &Coordinator, vault: &Vault) -> ParticipantBuilder {
    attach(coordinator, vault).0
}

fn attach(coordinator: &Coordinator, vault: &Vault) -> (ParticipantBuilder, Attached<Vault>) {
    // In doubt, it asks by itself only once.
    let times = Times { inquire_ms_min: 1, inquire_ms_max: 3_600_000, ..Times::default() };
    let mut builder = Participant::builder("bank").coordinator(&coordinator.address).times(times);
    let attached = builder.attach("bank/a", vault.clone());
    (builder, attached)
}

async fn answer(session: &ParticipantSession, branch: &BranchId, verdict: v1::Verdict) {
    let answer =
        v1::Answer { branch: reference(branch), verdict: verdict.into(), ..v1::Answer::default() };
    session.tell(Tell::Answer(answer)).await;
}

/// What was said by a participant with many branches in doubt.
#[derive(Default)]
struct Heard {
    acknowledged: usize,
    questions: usize,
    asked: BTreeSet<BranchId>,
    unanswered: usize,
    unanswered_max: usize,
}

impl Heard {
    /// The next message that is about no branch in doubt, or the next question.
    async fn next(&mut self, session: &mut ParticipantSession, in_doubt: u64) -> Option<Said> {
        while self.acknowledged < usize::try_from(in_doubt).unwrap() {
            match session.said().await {
                Said::Acknowledged(acknowledged)
                    if id(acknowledged.branch.as_ref()).gtrid.sequence() < in_doubt =>
                {
                    assert_eq!(acknowledged.done(), v1::Done::Done);
                    self.acknowledged += 1;
                }
                Said::Inquire(inquire) => {
                    self.questions += 1;
                    self.unanswered += inquire.branches.len();
                    self.unanswered_max = self.unanswered_max.max(self.unanswered);
                    return Some(Said::Inquire(inquire));
                }
                other => return Some(other),
            }
        }
        None
    }
}

/// Reliability O-05: a hundred thousand branches in doubt are asked about in batches, one at a
/// time, and whoever else votes and commits meanwhile does not wait for them.
#[tokio::test]
async fn a_hundred_thousand_in_doubt_are_resolved_in_batches_while_others_go_on() {
    const IN_DOUBT: u64 = 100_000;
    let (vault, _lists) = Vault::new((0..IN_DOUBT).map(branch));
    let mut coordinator = Coordinator::start().await;
    let times = Times { inquire_ms_min: 3_600_000, inquire_ms_max: 3_600_000, ..Times::default() };
    let (builder, resource) = attach(&coordinator, &vault);
    let participant = builder.times(times).start().await.unwrap();
    let started = std::time::Instant::now();
    let mut session = coordinator.participant().await;
    assert_eq!(session.welcome().await.in_doubt.len(), 1_000);
    let (mut heard, mut others) = (Heard::default(), 0);
    while let Some(said) = heard.next(&mut session, IN_DOUBT).await {
        let Said::Inquire(inquire) = said else { unreachable!("{said:?}") };
        if heard.questions % 10 == 1 {
            // From its begin to its end while the question has no answer.
            others += 1;
            let questions = heard.questions;
            let context = Context::new(gtrid(IN_DOUBT + others), None);
            let joining = tokio::spawn(resource.enlist(&context));
            let Some(Said::Enlist(enlist)) = heard.next(&mut session, IN_DOUBT).await else {
                unreachable!("no enlistment")
            };
            let other = id(enlist.branch.as_ref());
            session.answer_enlist(&other, v1::EnlistStatus::Enlisted).await;
            soon("a join", joining).await.unwrap().unwrap().end();
            session.prepare(&other).await;
            let said = heard.next(&mut session, IN_DOUBT).await;
            assert!(matches!(said, Some(Said::Vote(_))), "{said:?}");
            session.decide(&other, v1::Decision::Commit).await;
            let said = heard.next(&mut session, IN_DOUBT).await;
            assert!(matches!(said, Some(Said::Acknowledged(_))), "{said:?}");
            assert_eq!(heard.questions, questions, "one question at a time");
        }
        heard.unanswered = 0;
        for reference in &inquire.branches {
            let asked = id(Some(reference));
            assert!(heard.asked.insert(asked), "asked twice");
            let commit = asked.gtrid.sequence().is_multiple_of(2);
            let verdict = if commit { v1::Verdict::Commit } else { v1::Verdict::Rollback };
            answer(&session, &asked, verdict).await;
        }
    }
    assert_eq!((heard.questions, heard.unanswered_max), (100, 1_000));
    assert_eq!((heard.asked.len(), others), (100_000, 10));
    assert!(vault.prepared.lock().unwrap().is_empty());
    let (took, questions) = (started.elapsed(), heard.questions);
    participant.stop().await;
    eprintln!("{IN_DOUBT} in doubt resolved in {took:?}, {questions} questions");
}

#[tokio::test]
async fn a_late_prepare_is_found_without_a_restart_once_it_was_listed_twice() {
    let (vault, mut lists) = Vault::new([]);
    let mut coordinator = Coordinator::start().await;
    let builder = builder(&coordinator, &vault).scan_every(Duration::from_millis(10));
    let participant = builder.start().await.unwrap();
    let mut session = coordinator.participant().await;
    session.welcome().await;
    soon("a list", lists.recv()).await.unwrap().send(()).unwrap();
    vault.put(branch(1));
    // What another participant of this database holds is never touched.
    let nobody = BranchId { bqual: Bqual::new(0, 0, OWNER), ..branch(2) };
    vault.put(nobody);
    // The list that is asked for next may or may not have it.
    for _ in 0..3 {
        soon("a list", lists.recv()).await.unwrap().send(()).unwrap();
    }
    let Said::Inquire(inquire) = session.said().await else { unreachable!() };
    assert_eq!(inquire.branches, vec![reference(&branch(1)).unwrap()]);
    answer(&session, &branch(1), v1::Verdict::Rollback).await;
    assert_eq!(session.acknowledged().await.done(), v1::Done::Done);
    assert_eq!(vault.prepared.lock().unwrap().clone(), BTreeSet::from([nobody]));
    participant.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_returns_is_given_up_and_asked_for_again() {
    let (vault, mut lists) = Vault::new([]);
    let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
    builder.attach("bank/a", vault);
    let participant = builder.start().await.unwrap();
    let patience = Duration::from_secs(600);
    let _hangs = tokio::time::timeout(patience, lists.recv()).await.unwrap().unwrap();
    tokio::time::timeout(patience, lists.recv()).await.expect("a second list").unwrap();
    participant.stop().await;
}

/// A list is old when it arrives: a branch that was finished meanwhile must not come back as one
/// that is in doubt.
#[tokio::test]
async fn a_branch_that_this_process_works_on_is_no_orphan_however_old_the_list_is() {
    let (vault, mut lists) = Vault::new([]);
    let mut coordinator = Coordinator::start().await;
    let builder = builder(&coordinator, &vault).scan_every(Duration::from_millis(10));
    let times = Times { inquire_ms_min: 3_600_000, inquire_ms_max: 3_600_000, ..Times::default() };
    let participant = builder.times(times).start().await.unwrap();
    let mut session = coordinator.participant().await;
    session.welcome().await;
    vault.put(branch(9));
    // Twice on a list, and finished each time before the list has arrived.
    let mut list = soon("a list", lists.recv()).await.unwrap();
    for decision in [v1::Decision::Rollback, v1::Decision::Commit] {
        session.prepare(&branch(9)).await;
        assert_eq!(session.vote().await.ballot(), v1::Ballot::Commit);
        session.decide(&branch(9), decision).await;
        session.acknowledged().await;
        vault.put(branch(9));
        list.send(()).unwrap();
        // The one before has been taken in.
        list = soon("a list", lists.recv()).await.unwrap();
    }
    session.prepare(&branch(9)).await;
    assert_eq!(session.vote().await.evidence, None, "from the resource, not from a list");
    // In memory while it is listed.
    for _ in 0..3 {
        list.send(()).unwrap();
        list = soon("a list", lists.recv()).await.unwrap();
    }
    session.prepare(&branch(9)).await;
    assert_eq!(session.vote().await.evidence, None, "and no question before it");
    participant.stop().await;
}
