//! Work calls and what becomes of their branches, against a coordinator played by the test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{
    Coordinator, HAZARD, ParticipantSession, Said, Tell, gtrid, is_nobodys, keep_log, log,
    no_such_branch, reference, soon,
};
use tokio::sync::mpsc;
use unanimous_proto::v1;
use unanimous_sdk::{
    Attached, Branch, BranchId, Context, Done, Evidence, JoinError, NotConnected, Participant,
    Prepared, Resource, Retry, Vote,
};

/// Votes yes and tells what it was asked.
struct Willing {
    reads_only: Arc<AtomicBool>,
    votes_early: Arc<AtomicBool>,
    called: mpsc::UnboundedSender<(&'static str, BranchId)>,
}

impl Willing {
    fn unwilling(called: mpsc::UnboundedSender<(&'static str, BranchId)>) -> Self {
        Self { reads_only: Arc::default(), votes_early: Arc::default(), called }
    }

    fn called(&self, call: &'static str, branch: &BranchId) {
        if !is_nobodys(branch) {
            self.called.send((call, *branch)).unwrap();
        }
    }
}

impl Resource for Willing {
    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if is_nobodys(branch) {
            return Ok(no_such_branch());
        }
        self.called("prepare", branch);
        tracing::info!("the seats are kept");
        if self.reads_only.load(Ordering::Relaxed) {
            return Ok(Vote::ReadOnly);
        }
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if is_nobodys(branch) {
            return Ok(HAZARD);
        }
        self.called("commit", branch);
        Ok(Done::Done)
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.called("rollback", branch);
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }

    fn votes_early(&self, _: &BranchId) -> bool {
        self.votes_early.load(Ordering::Relaxed)
    }
}

struct Stage {
    coordinator: Coordinator,
    session: ParticipantSession,
    hello: v1::Hello,
    resource: Attached<Willing>,
    votes_early: Arc<AtomicBool>,
    reads_only: Arc<AtomicBool>,
    calls: mpsc::UnboundedReceiver<(&'static str, BranchId)>,
    participant: Participant,
}

impl Stage {
    async fn set() -> Self {
        let mut coordinator = Coordinator::start().await;
        let mut builder = Participant::builder("bank").coordinator(&coordinator.address);
        let (called, calls) = mpsc::unbounded_channel();
        let (votes_early, reads_only) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let willing = Willing {
            votes_early: Arc::clone(&votes_early),
            reads_only: Arc::clone(&reads_only),
            called,
        };
        let resource = builder.attach("bank/a", willing);
        let participant = builder.start().await.unwrap();
        let mut session = coordinator.participant().await;
        let hello = session.welcome().await;
        Self { coordinator, session, hello, resource, votes_early, reads_only, calls, participant }
    }

    async fn enlist(&mut self, context: &Context) -> Branch {
        let joining = tokio::spawn(self.resource.enlist(context));
        let (branch, _) = self.session.enlist().await;
        self.session.answer_enlist(&branch, v1::EnlistStatus::Enlisted).await;
        soon("a join", joining).await.unwrap().unwrap()
    }

    async fn call(&mut self) -> (&'static str, BranchId) {
        soon("a call", self.calls.recv()).await.unwrap()
    }

    async fn verdict(&mut self) -> (v1::Ballot, String) {
        let vote = self.session.vote().await;
        (vote.ballot(), vote.reason)
    }
}

fn context(sequence: u64) -> Context {
    Context::new(gtrid(sequence), None)
}

#[tokio::test]
async fn whoever_enlists_a_branch_counts_it_and_nobody_else() {
    let mut stage = Stage::set().await;
    let (first, second) = (context(1), context(1));
    let branch = stage.enlist(&first).await;
    let again = soon("a join", stage.resource.enlist(&second)).await.unwrap();
    assert_eq!((branch.id(), first.branches(), second.branches()), (again.id(), 1, 0));
    again.end();
    branch.end();
}

#[tokio::test]
async fn joining_waits_for_the_start_and_not_longer_than_the_call() {
    let mut coordinator = Coordinator::start().await;
    let mut builder = Participant::builder("bank")
        .coordinator(&coordinator.address)
        .join_timeout(Duration::from_secs(60));
    let (called, _calls) = mpsc::unbounded_channel();
    let resource = builder.attach("bank/a", Willing::unwilling(called));
    let early = tokio::spawn(resource.enlist(&context(1)));
    let _participant = builder.start().await.unwrap();
    let mut session = coordinator.participant().await;
    session.welcome().await;
    let (branch, _) = session.enlist().await;
    session.answer_enlist(&branch, v1::EnlistStatus::Enlisted).await;
    soon("a join", early).await.unwrap().unwrap().end();
    let ends_at = tokio::time::Instant::now() + Duration::from_millis(20);
    let short = resource.enlist(&Context::new(gtrid(2), Some(ends_at)));
    assert_eq!(soon("the call's end", short).await.unwrap_err(), JoinError::TimedOut);
}

#[tokio::test]
async fn without_a_participant_nobody_joins() {
    let (called, _calls) = mpsc::unbounded_channel();
    let mut builder = Participant::builder("Bank A");
    let resource = builder.attach("bank/a", Willing::unwilling(called));
    let waiting = tokio::spawn(resource.enlist(&context(1)));
    builder.start().await.unwrap_err();
    assert_eq!(soon("an answer", waiting).await.unwrap().unwrap_err(), JoinError::Stopped);
    assert_eq!(resource.enlist(&context(1)).await.unwrap_err(), JoinError::Stopped);
}

#[tokio::test]
async fn the_last_work_that_votes_spares_the_question() {
    let mut stage = Stage::set().await;
    assert!(stage.hello.capabilities().any(|capability| capability == v1::Capability::EarlyVote));
    let branch = stage.enlist(&context(1)).await;
    let id = *branch.id();
    branch.vote();
    assert_eq!(stage.verdict().await, (v1::Ballot::Commit, String::new()));
    let late = soon("an answer", stage.resource.enlist(&context(1))).await.unwrap_err();
    assert_eq!(late, JoinError::Voted);
    stage.session.decide(&id, v1::Decision::Commit).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);
    assert_eq!(stage.call().await, ("prepare", id));
    assert_eq!(stage.call().await, ("commit", id));
}

#[tokio::test]
async fn nobody_votes_early_over_work_under_way_or_when_the_resource_does_not_want_to() {
    let mut stage = Stage::set().await;
    let branch = stage.enlist(&context(1)).await;
    let id = *branch.id();
    let other = soon("a join", stage.resource.enlist(&context(1))).await.unwrap();
    branch.vote();
    // Answered in order: had it voted, its vote would come first.
    let unwilling = stage.enlist(&context(2)).await;
    let unwilling_id = *unwilling.id();
    stage.votes_early.store(false, Ordering::Relaxed);
    unwilling.vote();
    other.end();
    for id in [id, unwilling_id] {
        stage.session.prepare(&id).await;
        assert_eq!(stage.call().await, ("prepare", id));
        assert_eq!(stage.session.vote().await.branch, reference(&id));
    }
}

#[tokio::test]
async fn an_early_read_only_vote_rolls_back_and_one_that_was_asked_for_does_not() {
    let mut stage = Stage::set().await;
    stage.reads_only.store(true, Ordering::Relaxed);
    let early = stage.enlist(&context(1)).await;
    let id = *early.id();
    early.vote();
    let words = "it voted read-only before it was asked".to_owned();
    assert_eq!(stage.verdict().await, (v1::Ballot::Rollback, words));
    // The vote was lost, and the coordinator leaves the decision to the branch.
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::RolledBack);
    let asked = stage.enlist(&context(2)).await;
    let id = *asked.id();
    asked.end();
    stage.session.prepare(&id).await;
    assert_eq!(stage.verdict().await.0, v1::Ballot::ReadOnly);
}

#[tokio::test]
async fn an_early_vote_that_was_lost_is_given_again() {
    let mut stage = Stage::set().await;
    let branch = stage.enlist(&context(1)).await;
    let id = *branch.id();
    branch.vote();
    assert_eq!(stage.call().await, ("prepare", id));
    // Read or not, the coordinator forgets it with the session.
    stage.session.end();
    stage.session = stage.coordinator.participant().await;
    assert_eq!(stage.session.welcome().await.in_doubt, vec![reference(&id).unwrap()]);
    assert!(matches!(stage.session.said().await, Said::Inquire(_)));
    let wait = v1::Answer {
        branch: reference(&id),
        verdict: v1::Verdict::Wait.into(),
        ..v1::Answer::default()
    };
    stage.session.tell(Tell::Answer(wait)).await;
    stage.session.prepare(&id).await;
    assert_eq!(stage.verdict().await.0, v1::Ballot::Commit);
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);
}

#[tokio::test]
async fn work_that_does_not_come_to_its_end_votes_rollback_and_says_what_became_of_it() {
    let mut stage = Stage::set().await;
    let (failed, panicked) = (stage.enlist(&context(1)).await, stage.enlist(&context(2)).await);
    let cancelled = stage.enlist(&context(3)).await;
    let ids = [*failed.id(), *panicked.id(), *cancelled.id()];
    let returns_early = async move {
        let _branch = failed;
        Err::<(), _>("no money")?;
        Ok::<_, &str>(())
    };
    assert!(returns_early.await.is_err());
    let panics = tokio::spawn(async move {
        let _branch = panicked;
        unreachable!("as the test wants")
    });
    assert!(panics.await.unwrap_err().is_panic());
    let waits = tokio::spawn(async move {
        let _branch = cancelled;
        std::future::pending::<()>().await;
    });
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    let broken = "its work was broken off";
    for (id, why) in ids.into_iter().zip([broken, "its work panicked", broken]) {
        stage.session.prepare(&id).await;
        assert_eq!(stage.verdict().await, (v1::Ballot::Rollback, why.to_owned()));
        assert_eq!(stage.call().await, ("rollback", id));
    }
}

#[tokio::test]
async fn who_waits_for_the_session_learns_why_there_is_none() {
    let (called, _calls) = mpsc::unbounded_channel();
    let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
    builder.attach("bank/a", Willing::unwilling(called));
    let participant = builder.start().await.unwrap();
    let error = participant.connected(Duration::from_secs(2)).await.unwrap_err();
    let NotConnected::TimedOut { why, .. } = &error else { unreachable!("{error:?}") };
    assert!(why.contains("refused"), "{why}");
    let stage = Stage::set().await;
    stage.participant.connected(Duration::from_secs(20)).await.unwrap();
    stage.participant.stop().await;
    let error = stage.participant.connected(Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(error, NotConnected::Stopped);
}

#[tokio::test]
async fn log_lines_of_the_resource_and_of_the_work_name_the_branch() {
    keep_log();
    let mut stage = Stage::set().await;
    let branch = stage.enlist(&context(77)).await;
    let id = *branch.id();
    branch.span().in_scope(|| tracing::info!("a seat is chosen"));
    branch.end();
    stage.session.prepare(&id).await;
    stage.verdict().await;
    let text = log();
    let span = format!("branch{{gtrid={} bqual={} resource=bank/a}}", id.gtrid, id.bqual);
    for line in ["a seat is chosen", "the seats are kept"] {
        let found = text.lines().filter(|found| found.contains(line) && found.contains(&span));
        assert_eq!(found.count(), 1, "{text}");
    }
}
