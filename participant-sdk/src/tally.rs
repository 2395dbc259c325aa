//! How many branches the calls of a transaction have enlisted, as far as their replies tell.

use crate::HEADER_BRANCHES;
use http::{HeaderMap, HeaderValue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a layer leaves of the header `unanimous-branches`: nobody may count it again. It is no
/// number, and stays inside of the process.
pub(crate) const COUNTED: HeaderValue = HeaderValue::from_static("counted");

/// The count of one transaction here. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Requests made, and those of them of which it is known what they brought.
    requests: u32,
    settled: u32,
    branches: u32,
    /// Calls that are known to run.
    under_way: u32,
}

/// A call of the transaction runs: what it enlists is not known to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnderWay;

impl Tally {
    /// Branches counted so far.
    pub(crate) fn branches(&self) -> u32 {
        self.lock().branches
    }

    /// What is told to whoever asked for this work: a number that no transaction has, if it is not
    /// over. It comes first then, whatever else is missing.
    pub(crate) fn announced(&self) -> u32 {
        let counts = self.lock();
        if counts.under_way > 0 { u32::MAX } else { counts.branches }
    }

    /// What a commit may claim; it may not be asked for while a call runs.
    pub(crate) fn at_end(&self) -> Result<Option<u32>, UnderWay> {
        let counts = *self.lock();
        if counts.under_way > 0 { Err(UnderWay) } else { Ok(counts.complete()) }
    }

    /// The number that may be claimed: something was counted, and no request is unaccounted for.
    pub(crate) fn complete(&self) -> Option<u32> {
        self.lock().complete()
    }

    /// Counts branches that no request stands for.
    pub(crate) fn add(&self, branches: u32) {
        let mut counts = self.lock();
        counts.branches = counts.branches.saturating_add(branches);
    }

    /// Accounts for one request that left on its own.
    pub(crate) fn settle_any(&self, branches: u32) {
        self.settle(branches);
    }

    /// A request is about to be made.
    pub(crate) fn ticket(&self) -> Ticket {
        self.lock().requests += 1;
        Ticket { tally: self.clone(), claimed: Arc::default() }
    }

    fn settle(&self, branches: u32) {
        let mut counts = self.lock();
        counts.settled = counts.requests.min(counts.settled + 1);
        counts.branches = counts.branches.saturating_add(branches);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn complete(self) -> Option<u32> {
        let Self { requests, settled, branches, under_way: _ } = self;
        let complete = requests == settled && (requests > 0 || branches > 0);
        // A service announced that it was not over: that must not be lost with other replies.
        (complete || branches == u32::MAX).then_some(branches)
    }
}

/// One request, before it is known who follows it: rides in its extensions. Clones are the same
/// request.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    tally: Tally,
    claimed: Arc<AtomicBool>,
}

impl Ticket {
    /// Whoever claims it first accounts for the request; nobody else does.
    pub(crate) fn claim(&self) -> Option<Pending> {
        let first = !self.claimed.swap(true, Ordering::Relaxed);
        first.then(|| Pending { tally: Some(self.tally.clone()), _running: self.running() })
    }

    /// The call runs until this is dropped.
    pub(crate) fn running(&self) -> Running {
        self.tally.lock().under_way += 1;
        Running(self.tally.clone())
    }
}

/// A request that is followed to its end. Dropped, it has brought no branches that may be counted:
/// if it enlisted some all the same, the transaction rolls back.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pending {
    tally: Option<Tally>,
    _running: Running,
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running(Tally);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

impl Pending {
    pub(crate) fn settle(mut self, branches: u32) {
        if let Some(tally) = self.tally.take() {
            tally.settle(branches);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(tally) = self.tally.take() {
            tally.settle(0);
        }
    }
}

/// The number in a reply's header `unanimous-branches`; 0 if there is none or it is not readable.
pub(crate) fn branches_in(headers: &HeaderMap) -> u32 {
    let header = headers.get(HEADER_BRANCHES).and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_claimed_only_when_every_request_is_accounted_for() {
        let tally = Tally::default();
        assert_eq!(tally.complete(), None, "nothing was asked of anybody");
        let (first, second) = (tally.ticket(), tally.ticket());
        first.claim().unwrap().settle(1);
        assert_eq!(tally.complete(), None, "the second is under way");
        drop(second.claim());
        assert_eq!(tally.complete(), Some(1), "the second failed");
        let _unsent = tally.ticket();
        assert_eq!(tally.complete(), None);
        tally.settle_any(2);
        assert_eq!((tally.complete(), tally.branches()), (Some(3), 3));
    }

    #[test]
    fn a_request_is_accounted_for_once() {
        let tally = Tally::default();
        let ticket = tally.ticket();
        let pending = ticket.clone().claim().unwrap();
        assert!(ticket.claim().is_none());
        pending.settle(1);
        tally.settle_any(0);
        let _another = tally.ticket();
        assert_eq!(tally.complete(), None, "one too many accounts for no later request");
    }

    #[test]
    fn nothing_is_claimed_or_announced_while_a_call_runs() {
        let tally = Tally::default();
        tally.ticket().claim().unwrap().settle(1);
        let running = tally.ticket().claim().unwrap();
        assert_eq!((tally.at_end(), tally.announced()), (Err(UnderWay), u32::MAX));
        drop(running);
        assert_eq!((tally.at_end(), tally.announced()), (Ok(Some(1)), 1));
        let _unfollowed = tally.ticket();
        assert_eq!((tally.at_end(), tally.announced()), (Ok(None), 1));
        tally.add(u32::MAX);
        assert_eq!(tally.at_end(), Ok(Some(u32::MAX)), "a service was not over");
    }

    #[test]
    fn branches_without_a_request_count_by_themselves() {
        let tally = Tally::default();
        tally.add(1);
        assert_eq!(tally.complete(), Some(1));
    }
}
