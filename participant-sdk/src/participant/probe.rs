//! What a resource is asked before it takes part: about itself, about a branch that nobody has, and
//! for its prepared branches. Whoever gets the second wrong loses money one day, and a test of the
//! good case does not show it.

use super::{StartError, branch_span};
use crate::resource::{AnyResource, Listed, Unfit};
use crate::runner::Registered;
use futures_util::future::{BoxFuture, FutureExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use unanimous_core::message::{Done, Vote};
use unanimous_core::participant::{Call, Returned};
use unanimous_core::{Bqual, BranchId, Gtrid, LogId, Owner};

/// How long one answer may take, and how long a resource may say later. The list of prepared
/// branches may take as long as it needs.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Pauses before a resource that says later is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What went wrong, without the resource's name.
enum Fault {
    Silent(&'static str),
    /// It cannot be asked now, in its words.
    Later(String),
    Broken(Broken),
}

struct Broken {
    what: String,
    why: &'static str,
    next: &'static str,
}

/// Asks a resource everything; what it holds. `alone`: also whether it can end branches alone.
pub(super) async fn examine(registered: &Registered, alone: bool) -> Result<Listed, StartError> {
    let resource = &registered.id;
    check(registered, "check", |resource| resource.check()).await?;
    if alone {
        check(registered, "check_alone", |resource| resource.check_alone()).await?;
    }
    let nobodys = nobodys(registered.number);
    let ends_at = Instant::now() + ANSWER_MAX;
    let mut pause = PAUSE_MIN;
    let (broken, mut listed) = loop {
        let fault = probe(&registered.resource, nobodys).await.err();
        if let Some(Fault::Silent(call)) = fault {
            return Err(StartError::Silent { resource: resource.clone(), call });
        }
        // Before it is blamed: a resource that cannot be asked at all has broken no contract.
        let listed = list(registered).await?;
        match fault {
            Some(Fault::Later(why)) if Instant::now() + pause < ends_at => {
                tracing::debug!(%resource, why, "the resource says later: asked again");
            }
            // It may have branches in doubt, which need it.
            Some(Fault::Later(why)) => {
                tracing::warn!(%resource, why, "whether it votes for lost work is not known");
                break (None, listed);
            }
            Some(Fault::Broken(broken)) => break (Some(broken), listed),
            Some(Fault::Silent(_)) | None => break (None, listed),
        }
        sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    };
    let remains = listed.prepared.iter().any(|prepared| prepared.branch == nobodys);
    if let Some(Broken { what, why, next }) = broken.or_else(|| remains.then(left_behind)) {
        return Err(StartError::Contract { resource: resource.clone(), what, why, next });
    }
    let prepared = listed.prepared.iter().map(|prepared| prepared.branch);
    for branch in prepared.chain(listed.alone.iter().map(|alone| alone.branch)) {
        if branch.bqual.resource_manager() != registered.number {
            branch_span(&branch, resource).in_scope(|| {
                tracing::warn!("a branch of another resource was listed: left alone");
            });
        }
    }
    listed.retain(registered.number);
    Ok(listed)
}

async fn check(
    registered: &Registered,
    call: &'static str,
    ask: impl FnOnce(Arc<dyn AnyResource>) -> BoxFuture<'static, Result<(), Unfit>>,
) -> Result<(), StartError> {
    let (resource, asked) = (registered.id.clone(), Arc::clone(&registered.resource));
    // The making of the future may panic as well.
    let checking = AssertUnwindSafe(async move { ask(asked).await }).catch_unwind();
    match timeout(ANSWER_MAX, checking).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(unfit))) => Err(StartError::Unfit { resource, unfit }),
        Ok(Err(_)) => Err(StartError::Contract {
            resource,
            what: format!("its {call} panicked"),
            why: "whether it can do its work is not known",
            next: "let it answer Unfit",
        }),
        Err(_) => Err(StartError::Silent { resource, call }),
    }
}

async fn list(registered: &Registered) -> Result<Listed, StartError> {
    let (resource, asked) = (registered.id.clone(), Arc::clone(&registered.resource));
    let why = match AssertUnwindSafe(async move { asked.list().await }).catch_unwind().await {
        Ok(Ok(listed)) => return Ok(listed),
        Ok(Err(retry)) => retry.why,
        Err(_) => "it panicked".to_owned(),
    };
    Err(StartError::Recover { resource, why })
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
    match (told, undone) {
        (Err(Fault::Later(_)), Err(fault)) => Err(fault),
        (told, undone) => told.and(undone),
    }
}

async fn prepare(resource: &Arc<dyn AnyResource>, branch: BranchId) -> Result<(), Fault> {
    let what = match ask(resource, branch, "prepare", Call::Prepare).await? {
        Ok(Returned::Voted(Vote::Rollback { .. })) => return Ok(()),
        Ok(Returned::Voted(Vote::Commit { .. })) => "it voted commit",
        Ok(Returned::Voted(Vote::ReadOnly)) => "it voted read-only",
        Ok(Returned::Did(..) | Returned::Retry(_)) => "it gave no vote that can be used",
        Err(Words::Later(why)) => return Err(Fault::Later(why)),
        Err(Words::Panicked) => "it panicked",
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
        Err(Words::Later(why)) => return Err(Fault::Later(why)),
        Err(Words::Panicked) => "it panicked".to_owned(),
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
