//! The runner against a coordinator played by the test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{
    Coordinator, HAZARD, ParticipantSession, Tell, gtrid, id, is_nobodys, no_such_branch,
    reference, soon,
};
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataMap;
use unanimous_proto::v1;
use unanimous_sdk::{
    Attached, Branch, BranchId, Context, Done, EndedMark, Evidence, HEADER_TRANSACTION,
    HeuristicPolicy, JoinError, Participant, Prepared, Resource, Retry, StartError, Times, Vote,
};

/// What the next prepare does.
enum Script {
    Commit,
    Panic,
    /// Says that it was called, then waits.
    Slow(oneshot::Receiver<()>),
}

/// A resource that does what the test says and tells what it was asked.
#[derive(Clone)]
struct Scripted {
    prepares: Arc<Mutex<VecDeque<Script>>>,
    /// The next rollbacks wait for these.
    slow_rollbacks: Arc<Mutex<VecDeque<oneshot::Receiver<()>>>>,
    called: mpsc::UnboundedSender<(&'static str, BranchId)>,
    prepared: Vec<Prepared>,
}

impl Scripted {
    fn new() -> (Self, mpsc::UnboundedReceiver<(&'static str, BranchId)>) {
        let (called, calls) = mpsc::unbounded_channel();
        let (prepares, slow_rollbacks) = (Arc::default(), Arc::default());
        (Self { prepares, slow_rollbacks, called, prepared: Vec::new() }, calls)
    }

    fn script(&self, script: Script) {
        self.prepares.lock().unwrap().push_back(script);
    }

    fn called(&self, call: &'static str, branch: &BranchId) {
        if !is_nobodys(branch) {
            self.called.send((call, *branch)).unwrap();
        }
    }
}

fn evidence() -> Option<Evidence> {
    Some(Evidence { kind: "scripted".to_owned(), data: vec![1, 2, 3] })
}

impl Resource for Scripted {
    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if is_nobodys(branch) {
            return Ok(no_such_branch());
        }
        self.called("prepare", branch);
        let script = self.prepares.lock().unwrap().pop_front();
        match script {
            None | Some(Script::Commit) => {}
            Some(Script::Panic) => unreachable!("as the test wants"),
            Some(Script::Slow(go_on)) => go_on.await?,
        }
        Ok(Vote::Commit { evidence: evidence() })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if is_nobodys(branch) {
            return Ok(HAZARD);
        }
        self.called("commit", branch);
        Ok(Done::Done)
    }

    async fn recall(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.called("recall", branch);
        Ok(HAZARD)
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.called("rollback", branch);
        let slow = self.slow_rollbacks.lock().unwrap().pop_front();
        if let Some(go_on) = slow {
            go_on.await?;
        }
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(self.prepared.clone())
    }

    fn votes_early(&self, _: &BranchId) -> bool {
        true
    }

    fn ended(&self, mark: &EndedMark) {
        assert_eq!(mark.sequence, 42);
        self.called("ended", &branch_of_nobody());
    }
}

fn context(sequence: u64) -> Context {
    Context::new(gtrid(sequence), None)
}

fn branch_of_nobody() -> BranchId {
    let bqual = unanimous_core::Bqual::new(0, 0, support::OWNER);
    BranchId { gtrid: gtrid(0), bqual }
}

type Calls = mpsc::UnboundedReceiver<(&'static str, BranchId)>;

/// A participant with an open session.
struct Stage {
    coordinator: Coordinator,
    session: ParticipantSession,
    hello: v1::Hello,
    participant: Participant,
    resource: Attached<Scripted>,
    calls: Calls,
}

impl Stage {
    async fn set() -> Self {
        let (resource, calls) = Scripted::new();
        Self::with(resource, calls).await
    }

    async fn with(resource: Scripted, calls: Calls) -> Self {
        let mut coordinator = Coordinator::start().await;
        // In doubt, it asks by itself only when it connects.
        let (grace_ms, retry_ms_min, inquire_ms) = (300, 1, 3_600_000);
        let (inquire_ms_min, inquire_ms_max) = (inquire_ms, inquire_ms);
        let times =
            Times { grace_ms, retry_ms_min, inquire_ms_min, inquire_ms_max, ..Times::default() };
        let mut builder =
            Participant::builder("bank").coordinator(&coordinator.address).times(times);
        let attached = builder.attach("bank/a", resource.clone());
        let participant = builder.start().await.unwrap();
        let mut session = coordinator.participant().await;
        let hello = session.welcome().await;
        Self { coordinator, session, hello, participant, resource: attached, calls }
    }

    async fn reconnect(&mut self) -> v1::Hello {
        self.session.end();
        self.session = self.coordinator.participant().await;
        self.session.welcome().await
    }

    async fn join(&mut self, sequence: u64) -> Branch {
        let joining = tokio::spawn(self.resource.enlist(&context(sequence)));
        let (branch, enlist) = self.session.enlist().await;
        assert_eq!((branch.gtrid, &*enlist.resource_id), (gtrid(sequence), "bank/a"));
        self.session.answer_enlist(&branch, v1::EnlistStatus::Enlisted).await;
        let joined = soon("a join", joining).await.unwrap().unwrap();
        assert_eq!(*joined.id(), branch);
        joined
    }

    async fn call(&mut self) -> (&'static str, BranchId) {
        soon("a call", self.calls.recv()).await.unwrap()
    }
}

#[tokio::test]
async fn a_branch_goes_through_prepare_and_commit_with_its_evidence() {
    let mut stage = Stage::set().await;
    assert_eq!((&*stage.hello.participant, stage.hello.instance.len()), ("bank", 16));
    assert_eq!(stage.hello.resources[0].resource_id, "bank/a");
    let branch = stage.join(1).await;
    let id = *branch.id();
    branch.end();
    stage.session.prepare(&id).await;
    let vote = stage.session.vote().await;
    assert_eq!(vote.ballot(), v1::Ballot::Commit);
    assert_eq!(vote.evidence.unwrap().data, vec![1, 2, 3]);
    stage.session.decide(&id, v1::Decision::Commit).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);
    assert_eq!(stage.call().await, ("prepare", id));
    assert_eq!(stage.call().await, ("commit", id));
}

/// Reconnects: the in-doubt list in hello, the inquiry, the repeated vote, the seen frame.
#[tokio::test]
async fn cp_3_after_a_lost_session_a_branch_in_doubt_is_listed_and_asked_about() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id1 = *branch.id();
    branch.end();
    stage.session.prepare(&id1).await;
    stage.session.vote().await;

    let hello = stage.reconnect().await;
    assert_eq!(hello.in_doubt, vec![reference(&id1).unwrap()]);
    assert_eq!(hello.seen_frames, vec![]);
    let support::Said::Inquire(inquire) = stage.session.said().await else {
        unreachable!("no inquiry")
    };
    assert_eq!(inquire.branches, vec![reference(&id1).unwrap()]);
    stage.session.prepare(&id1).await;
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Commit);
    for verdict in [v1::Verdict::Wait, v1::Verdict::LeaveAlone, v1::Verdict::Unspecified] {
        let answer = v1::Answer {
            branch: reference(&id1),
            verdict: verdict.into(),
            ..v1::Answer::default()
        };
        stage.session.tell(Tell::Answer(answer)).await;
    }
    let answer = v1::Answer {
        branch: reference(&id1),
        verdict: v1::Verdict::Commit.into(),
        frame: 9,
        evidence: None,
    };
    stage.session.tell(Tell::Answer(answer)).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);

    let hello = stage.reconnect().await;
    assert_eq!(hello.in_doubt, vec![]);
    let seen = &hello.seen_frames[0];
    assert_eq!((seen.frame, seen.epoch, seen.incarnation), (9, 5, 7));
    assert_eq!(stage.call().await, ("prepare", id1));
    assert_eq!(stage.call().await, ("commit", id1), "prepared once, committed once");
}

#[tokio::test]
async fn cp_2_branches_found_prepared_are_in_doubt_from_the_first_hello() {
    let (mut resource, calls) = Scripted::new();
    let name = unanimous_core::ParticipantName::new("bank").unwrap();
    let number = unanimous_core::id::resource_manager(
        &name,
        &unanimous_core::ResourceId::new("bank/a").unwrap(),
    );
    let bqual = unanimous_core::Bqual::new(number, 1, support::OWNER);
    let found = BranchId { gtrid: gtrid(3), bqual };
    resource.prepared = vec![
        Prepared { branch: found, evidence: evidence() },
        Prepared { branch: branch_of_nobody(), evidence: None },
    ];
    let mut stage = Stage::with(resource, calls).await;
    assert_eq!(stage.hello.in_doubt, vec![reference(&found).unwrap()], "and none of others");
    assert!(matches!(stage.session.said().await, support::Said::Inquire(_)));
    stage.session.prepare(&found).await;
    let vote = stage.session.vote().await;
    assert_eq!(vote.evidence.unwrap().kind, "scripted", "repeated with its evidence");
    stage.session.decide(&found, v1::Decision::Rollback).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);
    assert_eq!(stage.call().await, ("rollback", found));
}

/// Section 2, fencing.
#[tokio::test]
async fn an_older_epoch_is_not_obeyed_once_a_newer_one_has_spoken() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id = *branch.id();
    branch.end();
    let prepare = v1::Prepare { branch: reference(&id) };
    stage.session.tell_as(6, Tell::Prepare(prepare.clone())).await;
    stage.session.vote().await;
    let decide = v1::Decide {
        branch: reference(&id),
        decision: v1::Decision::Rollback.into(),
        ..v1::Decide::default()
    };
    stage.session.tell_as(5, Tell::Decide(decide.clone())).await;
    // Answered in order: what comes now shows that nothing came of the old one.
    stage.session.tell_as(6, Tell::Prepare(prepare)).await;
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Commit);
    stage.session.tell_as(6, Tell::Decide(decide)).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);
    assert_eq!(stage.call().await, ("prepare", id));
    assert_eq!(stage.call().await, ("rollback", id));
}

#[tokio::test]
async fn cp_10_a_panic_in_the_resource_is_a_retry() {
    let mut stage = Stage::set().await;
    let (slow, fast) = (stage.join(1).await, stage.join(2).await);
    let (slow_id, fast_id) = (*slow.id(), *fast.id());
    slow.end();
    fast.end();
    let (go_on, waits) = oneshot::channel();
    for script in [Script::Slow(waits), Script::Panic, Script::Commit] {
        stage.resource.script(script);
    }
    stage.session.prepare(&slow_id).await;
    assert_eq!(stage.call().await, ("prepare", slow_id));
    stage.session.prepare(&fast_id).await;
    let vote = stage.session.vote().await;
    assert_eq!((id(vote.branch.as_ref()), vote.ballot()), (fast_id, v1::Ballot::Commit));
    assert_eq!(stage.call().await, ("prepare", fast_id));
    assert_eq!(stage.call().await, ("prepare", fast_id), "called again after the panic");
    go_on.send(()).unwrap();
    assert_eq!(id(stage.session.vote().await.branch.as_ref()), slow_id);
}

#[tokio::test]
async fn a_branch_that_is_dropped_or_failed_votes_rollback_and_says_why() {
    let mut stage = Stage::set().await;
    let dropped = stage.join(1).await;
    let failed = stage.join(2).await;
    let (dropped_id, failed_id) = (*dropped.id(), *failed.id());
    drop(dropped);
    failed.fail("no seats left");
    for (branch, why) in [(dropped_id, "its work was broken off"), (failed_id, "no seats left")] {
        stage.session.prepare(&branch).await;
        let vote = stage.session.vote().await;
        assert_eq!((vote.ballot(), &*vote.reason), (v1::Ballot::Rollback, why));
        assert_eq!(stage.call().await, ("rollback", branch));
    }
}

#[tokio::test]
async fn work_that_goes_on_after_its_branch_was_undone_is_undone_again_and_never_prepared() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id = *branch.id();
    stage.session.prepare(&id).await;
    let vote = stage.session.vote().await;
    assert_eq!((vote.ballot(), &*vote.reason), (v1::Ballot::Rollback, "its work has not ended"));
    assert_eq!(stage.call().await, ("rollback", id));
    // The call goes on working, and thinks that all is well.
    let again = stage.resource.enlist(&context(1)).await;
    assert_eq!(again.unwrap_err(), JoinError::Undone);
    stage.session.prepare(&id).await;
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Rollback);
    assert_eq!(stage.call().await, ("rollback", id));
    branch.end();
    assert_eq!(stage.call().await, ("rollback", id), "after the work has left");
}

#[tokio::test]
async fn work_that_leaves_while_its_branch_is_being_undone_is_undone_again() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id = *branch.id();
    let (go_on, waits) = oneshot::channel();
    stage.resource.slow_rollbacks.lock().unwrap().push_back(waits);
    stage.session.prepare(&id).await;
    assert_eq!(stage.call().await, ("rollback", id));
    // Whatever the work did, it may have been after the resource had undone the branch.
    branch.end();
    go_on.send(()).unwrap();
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Rollback);
    assert_eq!(stage.call().await, ("rollback", id), "once more");
}

#[tokio::test]
async fn a_call_after_the_vote_is_told_that_the_branch_has_voted_or_that_it_was_undone() {
    let mut stage = Stage::set().await;
    let (go_on, waits) = oneshot::channel();
    stage.resource.slow_rollbacks.lock().unwrap().push_back(waits);
    let branch = stage.join(1).await;
    let id = *branch.id();
    branch.vote();
    stage.session.vote().await;
    let late = soon("an answer", stage.resource.enlist(&context(1))).await;
    assert_eq!(late.unwrap_err(), JoinError::Voted);
    stage.session.decide(&id, v1::Decision::Rollback).await;
    assert_eq!(stage.call().await, ("prepare", id));
    assert_eq!(stage.call().await, ("rollback", id));
    let late = soon("an answer", stage.resource.enlist(&context(1))).await;
    assert_eq!(late.unwrap_err(), JoinError::Undone);
    go_on.send(()).unwrap();
    stage.session.acknowledged().await;
}

#[tokio::test]
async fn a_second_call_joins_the_same_branch_and_announces_nothing() {
    let mut stage = Stage::set().await;
    let first = stage.join(1).await;
    let mut metadata = MetadataMap::new();
    metadata.insert(HEADER_TRANSACTION, gtrid(1).to_string().parse().unwrap());
    let second = soon("a join", stage.resource.enlist(&metadata)).await.unwrap();
    assert_eq!(second.id(), first.id());
    for (branch, announced) in [(&first, "1"), (&second, "0")] {
        let mut reply = MetadataMap::new();
        branch.announce(&mut reply);
        assert_eq!(reply.get(unanimous_sdk::HEADER_BRANCHES).unwrap(), announced);
    }
    let id = *first.id();
    first.end();
    stage.session.prepare(&id).await;
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Rollback, "one still works");
    second.end();
}

#[tokio::test]
async fn refused_enlistments_and_bad_headers_are_told_apart() {
    use v1::EnlistStatus as Status;
    let mut stage = Stage::set().await;
    for (sequence, status, error) in [
        (1, Status::RolledBack, JoinError::RolledBack),
        (2, Status::Inactive, JoinError::Inactive),
        (3, Status::UnknownTransaction, JoinError::UnknownTransaction),
        (4, Status::NotOurs, JoinError::NotOurs),
        (5, Status::TooManyBranches, JoinError::TooManyBranches),
        (6, Status::BadResource, JoinError::BadResource(String::new())),
    ] {
        let enlisting = stage.resource.enlist(&context(sequence));
        let joining = tokio::spawn(async move { enlisting.await.map(|_| ()) });
        let (branch, _) = stage.session.enlist().await;
        // Hold: neither is an answer.
        stage.session.answer_enlist(&branch, Status::Unspecified).await;
        stage.session.answer_enlist(&branch_of_nobody(), Status::Enlisted).await;
        stage.session.answer_enlist(&branch, status).await;
        assert_eq!(soon("a join", joining).await.unwrap(), Err(error));
    }
    let join = |value: Option<&str>| {
        let mut metadata = MetadataMap::new();
        if let Some(value) = value {
            metadata.insert(HEADER_TRANSACTION, value.parse().unwrap());
        }
        let enlisting = stage.resource.enlist(&metadata);
        async move { enlisting.await.unwrap_err() }
    };
    assert_eq!(join(None).await, JoinError::NoTransaction);
    for bad in ["", "01", "zz", "'; DROP TABLE", &"0".repeat(48), &"f".repeat(4_000)] {
        assert!(matches!(join(Some(bad)).await, JoinError::BadTransaction(_)), "{bad:?}");
    }
}

#[tokio::test]
async fn p_11_a_taken_id_gives_way_and_a_lost_enlistment_is_repeated() {
    let mut stage = Stage::set().await;
    let enlisting = stage.resource.enlist(&context(1));
    let joining = tokio::spawn(async move { enlisting.await.map(|branch| *branch.id()) });
    let (taken, _) = stage.session.enlist().await;
    stage.session.answer_enlist(&taken, v1::EnlistStatus::BqualTaken).await;
    let (other, _) = stage.session.enlist().await;
    assert_ne!(taken, other);
    let (repeated, _) = stage.session.enlist().await;
    assert_eq!(repeated, other, "after a time without an answer");
    stage.reconnect().await;
    let (repeated, _) = stage.session.enlist().await;
    assert_eq!(repeated, other, "on a new session");
    stage.session.answer_enlist(&other, v1::EnlistStatus::Enlisted).await;
    assert_eq!(soon("a join", joining).await.unwrap(), Ok(other));
}

#[tokio::test]
async fn one_phase_commits_what_was_joined_here_and_recalls_what_was_not() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id = *branch.id();
    branch.end();
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::Done);
    assert_eq!(stage.call().await, ("prepare", id));
    assert_eq!(stage.call().await, ("commit", id));
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::HeuristicHazard);
    assert_eq!(stage.call().await, ("recall", id), "repeated: nobody works on it any more");
}

async fn cancelled_join(stage: &mut Stage, sequence: u64) -> BranchId {
    let joining = tokio::spawn(stage.resource.enlist(&context(sequence)));
    let (id, _) = stage.session.enlist().await;
    joining.abort();
    assert!(soon("the end", joining).await.unwrap_err().is_cancelled());
    id
}

#[tokio::test]
async fn a_branch_whose_caller_was_gone_before_it_joined_is_rolled_back_and_no_puzzle() {
    let mut stage = Stage::set().await;
    let id = cancelled_join(&mut stage, 1).await;
    stage.session.answer_enlist_for(&id, v1::EnlistStatus::Enlisted, 3_600_000).await;
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::RolledBack);
    // The answer was lost: once more.
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::RolledBack);

    let id = cancelled_join(&mut stage, 2).await;
    stage.session.answer_enlist_for(&id, v1::EnlistStatus::Enlisted, 3_600_000).await;
    stage.session.prepare(&id).await;
    assert_eq!(stage.session.vote().await.reason, "its call was gone before it had joined");
}

#[tokio::test]
async fn a_branch_whose_enlistment_was_never_answered_is_rolled_back_and_no_puzzle() {
    let mut stage = Stage::set().await;
    // The call still waits.
    let enlisting = stage.resource.enlist(&context(1));
    let joining = tokio::spawn(async move { enlisting.await.map(|_| ()) });
    let (id, _) = stage.session.enlist().await;
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::RolledBack);
    assert_eq!(soon("an answer", joining).await.unwrap(), Err(JoinError::Undone));
    // The call is gone, and the enlistment was dropped with it.
    let id = cancelled_join(&mut stage, 2).await;
    stage.reconnect().await;
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::RolledBack);
}

#[tokio::test]
async fn a_branch_that_was_undone_when_its_time_was_over_is_rolled_back_and_no_puzzle() {
    let mut stage = Stage::set().await;
    let joining = tokio::spawn(stage.resource.enlist(&context(1)));
    let (id, _) = stage.session.enlist().await;
    stage.session.answer_enlist_for(&id, v1::EnlistStatus::Enlisted, 0).await;
    soon("a join", joining).await.unwrap().unwrap().end();
    assert_eq!(stage.call().await, ("rollback", id), "nobody asked for a vote");
    stage.session.decide(&id, v1::Decision::CommitOnePhase).await;
    assert_eq!(stage.session.acknowledged().await.done(), v1::Done::RolledBack);
    assert!(stage.calls.try_recv().is_err(), "the resource is not asked: it could not tell");
}

#[tokio::test]
async fn messages_that_cannot_be_read_and_of_other_resources_are_held_and_the_mark_is_told() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id = *branch.id();
    branch.end();
    stage.session.tell(Tell::Prepare(v1::Prepare { branch: None })).await;
    stage.session.prepare(&branch_of_nobody()).await;
    let unknown = v1::Decide { branch: reference(&id), decision: 77, ..v1::Decide::default() };
    stage.session.tell(Tell::Decide(unknown)).await;
    let mark = v1::EndedMark { cluster: 1, slot: 1, sequence: 42, ..v1::EndedMark::default() };
    let silent = v1::ParticipateResponse { sender_epoch: 5, ended: Some(mark), body: None };
    stage.session.tell_whole(silent).await;
    assert_eq!(stage.call().await.0, "ended");
    stage.session.prepare(&id).await;
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Commit);
}

#[tokio::test]
async fn a_late_repeat_about_a_branch_that_the_mark_has_passed_is_not_answered() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let ended = *branch.id();
    branch.end();
    let other = stage.join(2).await;
    let other_id = *other.id();
    other.end();
    stage.session.prepare(&ended).await;
    stage.session.vote().await;
    stage.session.decide(&ended, v1::Decision::Commit).await;
    stage.session.acknowledged().await;
    let mark = v1::EndedMark {
        cluster: 1,
        slot: 1,
        incarnation: 7,
        epoch: 5,
        sequence: 42,
        exceptions: vec![gtrid(3).as_bytes().to_vec()],
    };
    let told = v1::ParticipateResponse { sender_epoch: 5, ended: Some(mark), body: None };
    stage.session.tell_whole(told).await;
    stage.session.decide(&ended, v1::Decision::Commit).await;
    stage.session.decide(&ended, v1::Decision::CommitOnePhase).await;
    stage.session.decide(&ended, v1::Decision::Rollback).await;
    // In memory: not late, whatever the mark says. And an exception is not passed.
    stage.session.prepare(&other_id).await;
    let vote = stage.session.vote().await;
    assert_eq!((id(vote.branch.as_ref()), vote.ballot()), (other_id, v1::Ballot::Commit));
    let excepted = BranchId { gtrid: gtrid(3), ..ended };
    stage.session.decide(&excepted, v1::Decision::Commit).await;
    assert_eq!(id(stage.session.acknowledged().await.branch.as_ref()), excepted);
}

#[tokio::test]
async fn t_05_a_time_out_at_the_end_of_time_is_harmless() {
    let mut stage = Stage::set().await;
    let joining = tokio::spawn(stage.resource.enlist(&context(1)));
    let (id, _) = stage.session.enlist().await;
    let enlisted = v1::Enlisted {
        branch: reference(&id),
        status: v1::EnlistStatus::Enlisted.into(),
        remaining_ms: u64::MAX,
        detail: String::new(),
    };
    stage.session.tell(Tell::Enlisted(enlisted)).await;
    soon("a join", joining).await.unwrap().unwrap().end();
    stage.session.prepare(&id).await;
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Commit);
}

#[tokio::test]
async fn stopping_answers_what_is_under_way_and_refuses_the_rest() {
    let mut stage = Stage::set().await;
    let branch = stage.join(1).await;
    let id = *branch.id();
    branch.end();
    let (go_on, waits) = oneshot::channel();
    stage.resource.script(Script::Slow(waits));
    stage.session.prepare(&id).await;
    assert_eq!(stage.call().await, ("prepare", id));
    let participant = stage.participant.clone();
    let stopping = tokio::spawn(async move { participant.stop().await });
    go_on.send(()).unwrap();
    assert_eq!(stage.session.vote().await.ballot(), v1::Ballot::Commit);
    assert!(stage.session.ended().await);
    drop(stage.session);
    soon("a stop", stopping).await.unwrap();
    let late = stage.resource.enlist(&context(2)).await;
    assert_eq!(late.unwrap_err(), JoinError::Stopped);
    stage.participant.stop().await;
}

#[tokio::test]
async fn a_goodbye_is_followed_by_a_new_session() {
    let mut stage = Stage::set().await;
    let goodbye = v1::Goodbye { reason: v1::GoodbyeReason::Stopping.into(), detail: String::new() };
    stage.session.tell(Tell::Goodbye(goodbye)).await;
    let first = stage.hello.instance.clone();
    assert_eq!(stage.reconnect().await.instance, first, "the same process");
}

#[tokio::test]
async fn a_setup_that_cannot_work_is_refused() {
    let (resource, _calls) = Scripted::new();
    let builder = |name: &str| Participant::builder(name).coordinator("http://127.0.0.1:1");
    let started = |builder: unanimous_sdk::ParticipantBuilder| async {
        builder.start().await.map(|_| ()).unwrap_err()
    };
    assert!(matches!(started(builder("Bank A")).await, StartError::Name(_)));
    assert_eq!(started(builder("bank")).await, StartError::NoResource);
    let mut twice = builder("bank");
    twice.attach("a", resource.clone());
    twice.attach("a", resource);
    assert!(matches!(started(twice).await, StartError::ResourceClash(_)));
    let nowhere = Participant::builder("bank");
    assert!(matches!(started(nowhere).await, StartError::Address(_)));
}

#[tokio::test]
async fn a_policy_that_would_overtake_orders_on_their_way_is_refused() {
    for (after_ms, refused) in [(0, true), (999, true), (1_000, false)] {
        let policy = HeuristicPolicy::rollback_after(Duration::from_millis(after_ms));
        let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
        builder.attach("a", Scripted::new().0);
        let error = builder.heuristic_policy(policy).start().await.map(|_| ()).unwrap_err();
        match refused {
            true => assert_eq!(error, StartError::PolicyTooShort { after_ms }),
            // Its resource cannot keep a record.
            false => assert!(matches!(error, StartError::Unfit { .. }), "{error}"),
        }
        assert_eq!(error.to_string().lines().count(), 3, "{error}");
    }
}
