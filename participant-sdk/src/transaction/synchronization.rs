//! What is to happen before the commit and after the end (OTS: `Synchronization`), and that it
//! happens once.

use crate::transaction::outcome::{Committed, Rollback};
use futures_util::future::{BoxFuture, FutureExt};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use unanimous_core::Outcome;

/// How a transaction ended, as far as this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It is committed, durably.
    Committed(Committed),
    /// It is rolled back.
    RolledBack(Rollback),
    /// Branches ended otherwise than decided.
    Heuristic(Outcome),
    /// The commit was asked for, and its answer was not heard.
    Unknown,
    /// It can only be rolled back, but nobody waited for that: the guard was dropped.
    Abandoned,
}

type Before = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), String>> + Send>;
type After = Box<dyn FnOnce(&Completion) + Send>;

/// Of one transaction.
#[derive(Default)]
pub(super) struct Synchronizations {
    before: Mutex<VecDeque<Before>>,
    after: Mutex<Afters>,
}

#[derive(Default)]
struct Afters {
    waiting: Vec<After>,
    completion: Option<Completion>,
}

impl fmt::Debug for Synchronizations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Synchronizations").finish_non_exhaustive()
    }
}

impl Synchronizations {
    pub(super) fn before_commit<F, Fut, E>(&self, check: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let check = move || {
            let checked = check();
            async move { checked.await.map_err(|error| error.to_string()) }.boxed()
        };
        lock(&self.before).push_back(Box::new(check));
    }

    /// The next one to run before the commit. One of them may add others.
    pub(super) fn next_before(&self) -> Option<Before> {
        lock(&self.before).pop_front()
    }

    /// Called at once when it comes after the end.
    pub(super) fn after_completion(&self, hook: impl FnOnce(&Completion) + Send + 'static) {
        let mut afters = lock(&self.after);
        let Some(completion) = afters.completion.clone() else {
            afters.waiting.push(Box::new(hook));
            return;
        };
        drop(afters);
        call(Box::new(hook), &completion);
    }

    /// The first one counts.
    pub(super) fn complete(&self, completion: Completion) {
        let mut afters = lock(&self.after);
        if afters.completion.is_some() {
            return;
        }
        afters.completion = Some(completion.clone());
        let waiting = std::mem::take(&mut afters.waiting);
        drop(afters);
        // What was promised to a commit that did not come goes with the transaction.
        lock(&self.before).clear();
        for hook in waiting {
            call(hook, &completion);
        }
    }
}

/// The transaction has ended: a panic can change nothing and must not keep the others from knowing.
fn call(hook: After, completion: &Completion) {
    if catch_unwind(AssertUnwindSafe(|| hook(completion))).is_err() {
        tracing::error!(?completion, "a synchronization panicked after the end");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn each_is_called_once_in_order_whatever_the_others_do() {
        let synchronizations = Arc::new(Synchronizations::default());
        let told: Arc<Mutex<Vec<(u32, Completion)>>> = Arc::default();
        let note = |number| {
            let told = Arc::clone(&told);
            move |completion: &Completion| lock(&told).push((number, completion.clone()))
        };
        synchronizations.after_completion(note(1));
        synchronizations.after_completion(|_| std::panic::resume_unwind(Box::new("on purpose")));
        let (late, again) = (note(3), Arc::clone(&synchronizations));
        synchronizations.after_completion(move |_| again.after_completion(late));
        synchronizations.after_completion(note(2));
        synchronizations.complete(Completion::Unknown);
        synchronizations.complete(Completion::Abandoned);
        synchronizations.after_completion(note(4));
        let expected = [1, 3, 2, 4].map(|number| (number, Completion::Unknown));
        assert_eq!(*lock(&told), expected);
    }
}
