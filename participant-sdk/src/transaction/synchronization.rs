//! What is to happen before the commit and after the end (OTS: `Synchronization`), and that it
//! happens once.

use crate::transaction::outcome::{Committed, Rollback};
use futures_util::future::{BoxFuture, FutureExt};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use unanimous_core::Outcome;

/// How a transaction ended, as far as this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

/// Of one transaction. What is registered is called and dropped outside of the lock: it may come
/// back here.
#[derive(Default)]
pub(super) struct Synchronizations(Mutex<Registered>);

#[derive(Default)]
struct Registered {
    before: VecDeque<Before>,
    after: VecDeque<After>,
    completion: Option<Completion>,
    /// Somebody calls what is to come after the end, and will call what is added.
    calling: bool,
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
        let mut registered = lock(&self.0);
        if registered.completion.is_none() {
            registered.before.push_back(Box::new(check));
        } else {
            // It may own the transaction's handle, which owns this.
            drop(registered);
            drop(check);
        }
    }

    /// The next one to run before the commit. One of them may add others.
    pub(super) fn next_before(&self) -> Option<Before> {
        lock(&self.0).before.pop_front()
    }

    /// Called soon when it comes after the end.
    pub(super) fn after_completion(&self, hook: impl FnOnce(&Completion) + Send + 'static) {
        lock(&self.0).after.push_back(Box::new(hook));
        self.call_after();
    }

    /// The first one counts.
    pub(super) fn complete(&self, completion: Completion) {
        let mut registered = lock(&self.0);
        registered.completion.get_or_insert(completion);
        // What was promised to a commit that did not come goes with the transaction.
        let before = mem::take(&mut registered.before);
        drop(registered);
        drop(before);
        self.call_after();
    }

    /// In order, by one at a time.
    fn call_after(&self) {
        let mut registered = lock(&self.0);
        let Some(completion) = registered.completion.clone().filter(|_| !registered.calling) else {
            return;
        };
        registered.calling = true;
        while let Some(hook) = registered.after.pop_front() {
            drop(registered);
            call(hook, &completion);
            registered = lock(&self.0);
        }
        registered.calling = false;
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
        let expected = [1, 2, 3, 4].map(|number| (number, Completion::Unknown));
        assert_eq!(*lock(&told), expected);
    }

    /// Each owns its own registry, and comes back to it when it is dropped.
    struct Owner(Arc<Synchronizations>, Arc<Mutex<u32>>);

    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.after_completion(|_| {});
            *lock(&self.1) += 1;
        }
    }

    #[test]
    fn what_is_registered_goes_with_the_end_whenever_it_comes() {
        let (synchronizations, gone) = (Arc::new(Synchronizations::default()), Arc::default());
        let register = || {
            let owner = Owner(Arc::clone(&synchronizations), Arc::clone(&gone));
            synchronizations.before_commit(move || {
                drop(owner);
                std::future::ready(Ok::<_, String>(()))
            });
        };
        register();
        synchronizations.complete(Completion::Abandoned);
        assert_eq!(*lock(&gone), 1);
        register();
        assert_eq!(*lock(&gone), 2);
        assert_eq!(Arc::strong_count(&synchronizations), 1, "nothing keeps it");
    }
}
