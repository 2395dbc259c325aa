//! Another process with the same instance id.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{
    Coordinator, HAZARD, ParticipantSession, Tell, gtrid, is_nobodys, no_such_branch, soon,
};
use tokio::sync::mpsc;
use unanimous_proto::v1;
use unanimous_sdk::{
    Attached, BranchId, Context, Done, Evidence, JoinError, Participant, ParticipantState,
    Prepared, Resource, Retry, Times, Vote,
};

/// A resource that tells which branches were undone.
struct Undoing(mpsc::UnboundedSender<BranchId>);

impl Resource for Undoing {
    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if is_nobodys(branch) {
            return Ok(no_such_branch());
        }
        Ok(Vote::ReadOnly)
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if is_nobodys(branch) {
            return Ok(HAZARD);
        }
        Ok(Done::Done)
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        if !is_nobodys(branch) {
            self.0.send(*branch).unwrap();
        }
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }
}

type Started = (Participant, Attached<Undoing>, mpsc::UnboundedReceiver<BranchId>);

async fn start(coordinator: &Coordinator) -> Started {
    let (undone, branches) = mpsc::unbounded_channel();
    let mut builder = Participant::builder("bank")
        .coordinator(&coordinator.address)
        .times(Times { grace_ms: 500, ..Times::default() });
    let resource = builder.attach("bank/a", Undoing(undone));
    (builder.start().await.unwrap(), resource, branches)
}

async fn replace(session: &ParticipantSession) {
    let reason = v1::GoodbyeReason::Replaced.into();
    session.tell(Tell::Goodbye(v1::Goodbye { reason, detail: String::new() })).await;
}

#[tokio::test]
async fn who_was_replaced_takes_no_part_any_more_and_says_so() {
    let mut coordinator = Coordinator::start().await;
    let (participant, resource, mut undone) = start(&coordinator).await;
    assert_eq!(participant.state(), ParticipantState::Connecting);
    let mut session = coordinator.participant().await;
    session.welcome().await;
    let state = soon("a session", participant.changed_from(ParticipantState::Connecting)).await;
    assert_eq!(state, ParticipantState::Connected);

    let join = |sequence| tokio::spawn(resource.enlist(&Context::new(gtrid(sequence), None)));
    let working = join(1);
    let (branch, _) = session.enlist().await;
    session.answer_enlist_for(&branch, v1::EnlistStatus::Enlisted, 500).await;
    soon("a join", working).await.unwrap().unwrap().end();
    let waiting = join(2);
    session.enlist().await;
    replace(&session).await;
    assert_eq!(soon("an answer", waiting).await.unwrap().unwrap_err(), JoinError::Replaced);
    assert_eq!(participant.state(), ParticipantState::Replaced);
    for sequence in [1, 3] {
        let late = soon("an answer", join(sequence)).await.unwrap().unwrap_err();
        assert_eq!(late, JoinError::Replaced);
    }
    // A second after its last word, ten times as long as it waits before it dials.
    assert_eq!(soon("a time-out", undone.recv()).await, Some(branch));
    assert!(coordinator.nobody_dialled());
    participant.stop().await;
    assert_eq!(participant.state(), ParticipantState::Stopped);
}

/// A dial that was given up may come to the coordinator after the one that followed it.
#[tokio::test]
async fn a_dial_of_its_own_that_was_given_up_does_not_replace_it() {
    let mut coordinator = Coordinator::start().await;
    let (participant, _resource, _undone) = start(&coordinator).await;
    coordinator.participant().await.fail().await;
    let mut session = coordinator.participant().await;
    session.welcome().await;
    replace(&session).await;
    let mut session = coordinator.participant().await;
    session.welcome().await;
    soon("a session", participant.changed_from(ParticipantState::Connecting)).await;
    // No more dial was given up: this is another process.
    replace(&session).await;
    let state = soon("the end", participant.changed_from(ParticipantState::Connected)).await;
    assert_eq!(state, ParticipantState::Replaced);
}
