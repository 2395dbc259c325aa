//! What a resource is asked before it takes part.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{HAZARD, no_such_branch, soon};
use unanimous_sdk::{
    BranchId, Done, Evidence, Participant, Prepared, Resource, Retry, StartError, Unfit, Vote,
};

/// What a resource gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    VotesCommit,
    VotesReadOnly,
    CannotVote,
    PanicsInPrepare,
    CommitsAnything,
    PanicsInCommit,
    CannotRollBack,
    LeavesItPrepared,
    IsDown,
    IsUnfit,
    PanicsInCheck,
    PanicsInRecover,
    Hangs,
}

#[derive(Clone)]
struct Careless {
    wrong: Wrong,
    prepared: Arc<Mutex<BTreeSet<BranchId>>>,
}

impl Resource for Careless {
    async fn check(&self) -> Result<(), Unfit> {
        assert_ne!(self.wrong, Wrong::PanicsInCheck, "as the test wants");
        let words = |text: &str| text.to_owned();
        let (what, why, next) = (words("switched off"), words("no branch"), words("switch it on"));
        if self.wrong == Wrong::IsUnfit { Err(Unfit { what, why, next }) } else { Ok(()) }
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        match self.wrong {
            Wrong::VotesCommit | Wrong::LeavesItPrepared => {
                self.prepared.lock().unwrap().insert(*branch);
            }
            Wrong::VotesReadOnly => return Ok(Vote::ReadOnly),
            Wrong::CannotVote => Err(Retry::because("no row"))?,
            Wrong::IsDown => Err(Retry::because("connection refused"))?,
            Wrong::PanicsInPrepare => unreachable!("as the test wants"),
            Wrong::Hangs => std::future::pending().await,
            _ => {}
        }
        let votes = self.wrong == Wrong::VotesCommit;
        Ok(if votes { Vote::Commit { evidence: None } } else { no_such_branch() })
    }

    async fn commit(&self, _: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        match self.wrong {
            Wrong::CommitsAnything => Ok(Done::Done),
            Wrong::PanicsInCommit => unreachable!("as the test wants"),
            _ => Ok(HAZARD),
        }
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        match self.wrong {
            Wrong::CannotRollBack => return Err(Retry::because("no row")),
            Wrong::LeavesItPrepared => {}
            _ => {
                self.prepared.lock().unwrap().remove(branch);
            }
        }
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        if self.wrong == Wrong::IsDown {
            return Err(Retry::because("connection refused"));
        }
        assert_ne!(self.wrong, Wrong::PanicsInRecover, "as the test wants");
        let prepared = self.prepared.lock().unwrap();
        Ok(prepared.iter().map(|branch| Prepared { branch: *branch, evidence: None }).collect())
    }
}

async fn start(wrong: Wrong) -> (Result<Participant, StartError>, Careless) {
    let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
    let resource = Careless { wrong, prepared: Arc::default() };
    builder.attach("bank/good", Careless { wrong: Wrong::Nothing, ..resource.clone() });
    builder.attach("bank/a", resource.clone());
    (soon("a start", builder.start()).await, resource)
}

#[tokio::test]
async fn a_resource_that_would_lie_about_lost_work_does_not_take_part() {
    for (wrong, expected) in [
        (Wrong::VotesCommit, "prepare a branch that it has never seen, it voted commit"),
        (Wrong::VotesReadOnly, "prepare a branch that it has never seen, it voted read-only"),
        (Wrong::PanicsInPrepare, "prepare a branch that it has never seen, it panicked"),
        (Wrong::CommitsAnything, "commit a branch that it has never seen, it said done"),
        (Wrong::PanicsInCommit, "commit a branch that it has never seen, it panicked"),
        (Wrong::LeavesItPrepared, "it lists a branch as prepared for which it voted rollback"),
    ] {
        let (started, resource) = start(wrong).await;
        let error = started.unwrap_err();
        let StartError::Contract { resource: id, .. } = &error else { unreachable!("{error:?}") };
        assert_eq!(id.as_str(), "bank/a");
        let words = error.to_string();
        assert!(words.contains(expected), "{wrong:?}: {words}");
        assert!(words.contains("\n  why:  ") && words.contains("\n  next: "), "{words}");
        let left = !resource.prepared.lock().unwrap().is_empty();
        assert_eq!(left, wrong == Wrong::LeavesItPrepared, "what it voted for is undone");
    }
    start(Wrong::Nothing).await.0.unwrap().stop().await;
}

#[tokio::test]
async fn a_resource_that_cannot_be_asked_has_broken_no_contract() {
    let error = start(Wrong::IsDown).await.0.unwrap_err();
    assert!(matches!(&error, StartError::Recover { why, .. } if why == "connection refused"));
    let error = start(Wrong::IsUnfit).await.0.unwrap_err();
    let expected =
        "resource bank/a is not fit: switched off\n  why:  no branch\n  next: switch it on";
    assert_eq!(error.to_string(), expected);
    let error = start(Wrong::PanicsInCheck).await.0.unwrap_err();
    assert!(error.to_string().contains("its check panicked"), "{error}");
    let error = start(Wrong::PanicsInRecover).await.0.unwrap_err();
    assert!(matches!(&error, StartError::Recover { why, .. } if why == "it panicked"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_says_later_for_long_comes_up_all_the_same() {
    for wrong in [Wrong::CannotVote, Wrong::CannotRollBack] {
        let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
        builder.attach("bank/a", Careless { wrong, prepared: Arc::default() });
        let started = tokio::time::Instant::now();
        let starting = tokio::time::timeout(Duration::from_secs(60), builder.start());
        let participant = starting.await.unwrap().unwrap();
        let waited = started.elapsed();
        assert!(Duration::from_secs(20) < waited && waited < Duration::from_secs(31), "{waited:?}");
        participant.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_does_not_answer_is_named() {
    let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
    builder.attach("bank/a", Careless { wrong: Wrong::Hangs, prepared: Arc::default() });
    let error = tokio::time::timeout(Duration::from_secs(60), builder.start()).await.unwrap();
    assert!(matches!(error.unwrap_err(), StartError::Silent { call: "prepare", .. }));
}
