//! What a resource is asked before it takes part: about itself, about a branch that nobody has, and
//! for its prepared branches. Whoever gets the second wrong loses money one day, and a test of the
//! good case does not show it.

use super::{StartError, branch_span};
use crate::resource::{AnyResource, Prepared};
use crate::runner::Registered;
use futures_util::future::{BoxFuture, FutureExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use unanimous_core::message::{Done, Vote};
use unanimous_core::participant::{Call, Returned};
use unanimous_core::{Bqual, BranchId, Gtrid, LogId, Owner};

/// How long one answer may take. The list of prepared branches may take as long as it needs.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What went wrong, without the resource's name.
enum Fault {
    Silent(&'static str),
    Broken(Broken),
}

struct Broken {
    what: String,
    why: &'static str,
    next: &'static str,
}

/// Asks a resource everything; what it holds prepared.
pub(super) async fn examine(registered: &Registered) -> Result<Vec<Prepared>, StartError> {
    let (resource, asked) = (&registered.id, &registered.resource);
    let fitness = Arc::clone(asked).check();
    let silent = |call| StartError::Silent { resource: resource.clone(), call };
    let fit = timeout(ANSWER_MAX, fitness).await.map_err(|_| silent("check"))?;
    fit.map_err(|unfit| StartError::Unfit { resource: resource.clone(), unfit })?;
    let nobodys = nobodys(registered.number);
    let broken = match probe(asked, nobodys).await {
        Ok(()) => None,
        Err(Fault::Silent(call)) => return Err(silent(call)),
        Err(Fault::Broken(broken)) => Some(broken),
    };
    // Before it is blamed: a resource that cannot be asked at all has broken no contract.
    let listed = Arc::clone(asked).recover().await;
    let listed = listed
        .map_err(|retry| StartError::Recover { resource: resource.clone(), why: retry.why })?;
    let remains = listed.iter().any(|prepared| prepared.branch == nobodys);
    if let Some(Broken { what, why, next }) = broken.or_else(|| remains.then(left_behind)) {
        return Err(StartError::Contract { resource: resource.clone(), what, why, next });
    }
    let (ours, others): (Vec<_>, Vec<_>) = listed
        .into_iter()
        .partition(|prepared| prepared.branch.bqual.resource_manager() == registered.number);
    for Prepared { branch, .. } in others {
        branch_span(&branch, resource).in_scope(|| {
            tracing::warn!("a prepared branch of another resource was listed: left alone");
        });
    }
    Ok(ours)
}

/// A branch of a log that no coordinator has.
fn nobodys(number: u32) -> BranchId {
    let (cluster, slot, incarnation) = rand::random();
    let owner = Owner { log: LogId { cluster, slot, incarnation }, epoch: rand::random() };
    let gtrid = Gtrid::new(owner, rand::random(), 0);
    BranchId { gtrid, bqual: Bqual::new(number, rand::random(), owner) }
}

fn left_behind() -> Broken {
    Broken {
        what: "it lists a branch as prepared for which it voted rollback".to_owned(),
        why: "a branch that is over would be asked about for ever",
        next: "let Vote::Rollback and rollback leave nothing of the branch",
    }
}

/// Asks about a branch that the resource has never seen. Whatever comes of it is rolled back.
async fn probe(resource: &Arc<dyn AnyResource>, branch: BranchId) -> Result<(), Fault> {
    let told = async {
        prepare(resource, branch).await?;
        commit(resource, branch).await
    };
    let told = told.await;
    let undone = rollback(resource, branch).await;
    told.and(undone)
}

async fn prepare(resource: &Arc<dyn AnyResource>, branch: BranchId) -> Result<(), Fault> {
    let what = match ask(resource, branch, "prepare", Call::Prepare).await? {
        Ok(Returned::Voted(Vote::Rollback { .. })) => return Ok(()),
        Ok(Returned::Voted(Vote::Commit { .. })) => "it voted commit",
        Ok(Returned::Voted(Vote::ReadOnly)) => "it voted read-only",
        Ok(Returned::Did(..) | Returned::Retry) => "it gave no vote that can be used",
        Err(why) => &format!("it gave no vote: {why}"),
    };
    Err(Fault::Broken(Broken {
        what: format!("asked to prepare a branch that it has never seen, {what}"),
        why: "work that was lost, as in a crash, would be committed as if it had been done",
        next: "let prepare answer Vote::Rollback unless it knows of work under this very branch",
    }))
}

async fn commit(resource: &Arc<dyn AnyResource>, branch: BranchId) -> Result<(), Fault> {
    let what = match ask(resource, branch, "commit", Call::Commit { evidence: None }).await? {
        Ok(Returned::Did(Done::Done, _)) => "it said done",
        Err(Words::Panicked) => "it panicked",
        Ok(_) | Err(Words::Later(_)) => return Ok(()),
    };
    Err(Fault::Broken(Broken {
        what: format!("told to commit a branch that it has never seen, {what}"),
        why: "a branch that was lost would pass for one that was committed",
        next: "let commit answer Done::Done only with proof, without it \
               Done::Heuristic(BranchResult::Hazard)",
    }))
}

async fn rollback(resource: &Arc<dyn AnyResource>, branch: BranchId) -> Result<(), Fault> {
    let what = match ask(resource, branch, "rollback", Call::Rollback).await? {
        Ok(Returned::Did(Done::Done, _)) => return Ok(()),
        Ok(returned) => format!("it said {returned:?}"),
        Err(why) => why.to_string(),
    };
    Err(Fault::Broken(Broken {
        what: format!("told to roll back a branch that it has never seen, {what}"),
        why: "a rollback is repeated until it is done: this one never would be",
        next: "let rollback answer Done::Done when there is nothing to undo",
    }))
}

/// Why there is no answer.
#[derive(Debug)]
enum Words {
    Later(String),
    Panicked,
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Later(why) => write!(f, "it says later: {}", why.escape_debug()),
            Self::Panicked => f.write_str("it panicked"),
        }
    }
}

async fn ask(
    resource: &Arc<dyn AnyResource>,
    branch: BranchId,
    name: &'static str,
    call: Call,
) -> Result<Result<Returned, Words>, Fault> {
    let resource = Arc::clone(resource);
    let calling = AssertUnwindSafe(async move { resource.call(branch, call).await });
    let answering: BoxFuture<'_, _> = calling.catch_unwind().boxed();
    // Nothing of it has happened: its log lines would only alarm.
    let answered = timeout(ANSWER_MAX, answering.with_subscriber(NoSubscriber::default())).await;
    Ok(match answered.map_err(|_| Fault::Silent(name))? {
        Ok(Ok(returned)) => Ok(returned),
        Ok(Err(retry)) => Err(Words::Later(retry.why)),
        Err(_) => Err(Words::Panicked),
    })
}
