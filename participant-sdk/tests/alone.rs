//! A participant that may end branches alone, from its vote to the order to forget.
#![cfg(feature = "embedded-resource")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::time::Duration;
use support::{Coordinator, ParticipantSession, Said, Tell, gtrid, id, reference, soon};
use unanimous_proto::v1;
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Context, Done, EndedAlone, Evidence, HeuristicPolicy,
    Participant, Prepared, Resource, Retry, StartError, Times, Vote,
};

const POLICY_MS: u64 = 1_000;

/// The participant's process: all of it goes with the runtime handle that it is dropped with.
struct Bank {
    accounts: Attached<Accounts>,
    participant: Participant,
}

impl Bank {
    async fn start(coordinator: &Coordinator, dir: &Path, policy: Option<HeuristicPolicy>) -> Self {
        let opening = Opening { init: Some((3, 1_000)), ..Opening::default() };
        let store = Accounts::open(dir, opening).unwrap();
        let times = Times { inquire_ms_min: 20, inquire_ms_max: 200, ..Times::default() };
        let mut builder = Participant::builder("bank").times(times);
        builder = builder.coordinator(&coordinator.address);
        if let Some(policy) = policy {
            builder = builder.heuristic_policy(policy);
        }
        let accounts = builder.attach("bank/a", store);
        Self { participant: builder.start().await.unwrap(), accounts }
    }

    /// Work that has voted commit: 300 from account 1.
    async fn vote(&self, session: &mut ParticipantSession) -> BranchId {
        let context = Context::new(gtrid(1), None);
        let joining = self.accounts.join(&context);
        let enlisting = async {
            let (branch, _) = session.enlist().await;
            session.answer_enlist(&branch, v1::EnlistStatus::Enlisted).await;
            branch
        };
        let (work, branch) = tokio::join!(joining, enlisting);
        let work = work.unwrap();
        work.debit(1, 300).unwrap();
        work.end();
        session.prepare(&branch).await;
        assert_eq!(session.vote().await.ballot(), v1::Ballot::Commit);
        branch
    }

    async fn listed(&self) -> Vec<EndedAlone> {
        self.accounts.ended_alone().await.unwrap()
    }

    async fn stop(self) {
        self.participant.stop().await;
        self.accounts.close().unwrap();
    }
}

/// Whatever else it says.
async fn report(session: &mut ParticipantSession) -> v1::Acknowledged {
    loop {
        if let Said::Acknowledged(acknowledged) = session.said().await {
            return acknowledged;
        }
    }
}

/// Nobody to hear and nobody to answer: in doubt for a second, the branch is ended, its account is
/// free, and every life of the participant says so until somebody has written it down.
#[tokio::test]
async fn a_branch_whose_coordinator_is_gone_ends_by_policy_and_every_life_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let silence = Duration::from_millis(POLICY_MS);
    for (name, policy, result, done, balance) in [
        (
            "back",
            HeuristicPolicy::rollback_after(silence),
            BranchResult::RolledBack,
            v1::Done::HeuristicRollback,
            1_000,
        ),
        (
            "forth",
            HeuristicPolicy::commit_after(silence),
            BranchResult::Committed,
            v1::Done::HeuristicCommit,
            700,
        ),
    ] {
        let dir = dir.path().join(name);
        let mut coordinator = Coordinator::start().await;
        let bank = Bank::start(&coordinator, &dir, Some(policy)).await;
        let mut session = coordinator.participant().await;
        session.welcome().await;
        let branch = bank.vote(&mut session).await;
        let voted = tokio::time::Instant::now();
        session.fail().await;
        let ended = async {
            while bank.listed().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the end alone", ended).await;
        assert!(voted.elapsed() >= silence - Duration::from_millis(50), "{:?}", voted.elapsed());
        assert_eq!(bank.accounts.balances(), [balance, 1_000, 1_000]);
        let why = "decided alone by policy: no word of its coordinator for 1 s";
        let listed = EndedAlone { branch, result, why: why.to_owned() };
        assert_eq!(bank.listed().await, [listed]);
        bank.stop().await;

        // A later life needs no policy to remember.
        let mut coordinator = Coordinator::start().await;
        let bank = Bank::start(&coordinator, &dir, None).await;
        let mut session = coordinator.participant().await;
        assert!(session.welcome().await.in_doubt.is_empty());
        let said = report(&mut session).await;
        assert_eq!((id(said.branch.as_ref()), said.done(), &*said.detail), (branch, done, why));
        session.decide(&branch, v1::Decision::Commit).await;
        assert_eq!(report(&mut session).await.done(), done, "an order changes nothing");
        session.tell(Tell::Forget(v1::Forget { branch: reference(&branch) })).await;
        while report(&mut session).await.done() != v1::Done::Forgotten {}
        assert_eq!(bank.listed().await, []);
        bank.stop().await;
    }
}

/// "Wait" is a word: whoever says it knows of the branch, and will decide.
#[tokio::test]
async fn a_coordinator_that_says_wait_is_not_silent() {
    let dir = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let policy = HeuristicPolicy::rollback_after(Duration::from_millis(POLICY_MS));
    let bank = Bank::start(&coordinator, &dir.path().join("store"), Some(policy)).await;
    let mut session = coordinator.participant().await;
    session.welcome().await;
    let branch = bank.vote(&mut session).await;
    let until = tokio::time::Instant::now() + Duration::from_millis(3 * POLICY_MS);
    let mut asked = 0;
    while tokio::time::Instant::now() < until {
        if let Said::Inquire(_) = session.said().await {
            asked += 1;
            let verdict = v1::Verdict::Wait.into();
            let wait = v1::Answer { branch: reference(&branch), verdict, ..v1::Answer::default() };
            session.tell(Tell::Answer(wait)).await;
        }
    }
    assert!(asked > 3, "{asked}");
    assert_eq!((bank.listed().await, bank.accounts.in_doubt()), (vec![], vec![branch]));
    session.decide(&branch, v1::Decision::Commit).await;
    assert_eq!(report(&mut session).await.done(), v1::Done::Done);
    assert_eq!(bank.accounts.balances()[0], 700);
    bank.stop().await;
}

struct Forgetful;

impl Resource for Forgetful {
    async fn prepare(&self, _: &BranchId) -> Result<Vote, Retry> {
        Ok(support::no_such_branch())
    }
    async fn commit(&self, _: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        Ok(support::HAZARD)
    }
    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }
    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(vec![])
    }
}

#[tokio::test]
async fn a_resource_that_keeps_no_record_lets_no_participant_start_that_may_decide_alone() {
    let policy = HeuristicPolicy::rollback_after(Duration::from_secs(60));
    let start = |policy: Option<HeuristicPolicy>| {
        let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
        builder =
            policy.into_iter().fold(builder, |builder, policy| builder.heuristic_policy(policy));
        builder.attach("bank/a", Forgetful);
        builder.start()
    };
    let refused = start(Some(policy)).await.unwrap_err();
    assert!(matches!(refused, StartError::Unfit { .. }), "{refused:?}");
    assert!(refused.to_string().contains("cannot end branches alone"), "{refused}");
    start(None).await.unwrap().stop().await;
}
