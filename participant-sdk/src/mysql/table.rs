//! The branches that this process has something of, and where each of them is.

use super::session::Session;
use mysql_async::Conn;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use unanimous_core::BranchId;

/// Read branches that are remembered after they were ended in one phase.
const READ_MAX: usize = 10_000;

/// How long a branch may be in doubt before it gives its connection up to work that waits.
const IN_DOUBT_MIN: Duration = Duration::from_secs(1);

/// A branch that is in doubt for less is on no record: no policy decides within a second, by
/// whatever clock.
const ALONE_MIN: Duration = Duration::from_millis(500);

/// Where a branch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Noted; perhaps begun, perhaps worked on.
    Working,
    /// A prepare was sent and has no answer yet.
    Preparing,
    /// A commit in one phase was sent and has no answer yet.
    OnePhase,
    /// It voted commit. The session still has the connection, or it broke.
    Prepared,
}

/// A branch in the table.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) stage: Stage,
    /// Of a prepared branch: from before its prepare was sent, and so before anybody saw it listed.
    since: Instant,
    pub(super) session: Arc<Session>,
}

impl Held {
    /// Whether it may have been put on record as one that ends alone, by another process as well.
    pub(super) fn may_be_on_record(&self) -> bool {
        self.since.elapsed() >= ALONE_MIN
    }
}

/// See the module's page. A branch that is not in it is over here, or was never here.
#[derive(Debug, Default)]
pub(super) struct Table {
    branches: Mutex<HashMap<BranchId, Held>>,
    read: Mutex<Read>,
}

/// Branches that changed nothing leave no marker.
#[derive(Debug, Default)]
struct Read {
    known: BTreeSet<BranchId>,
    oldest: VecDeque<BranchId>,
}

impl Table {
    fn branches(&self) -> MutexGuard<'_, HashMap<BranchId, Held>> {
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, branch: &BranchId) {
        let held =
            || Held { stage: Stage::Working, since: Instant::now(), session: Arc::default() };
        self.branches().entry(*branch).or_insert_with(held);
    }

    pub(super) fn held(&self, branch: &BranchId) -> Option<Held> {
        self.branches().get(branch).cloned()
    }

    /// The session of a branch that takes work.
    pub(super) fn working(&self, branch: &BranchId) -> Option<Arc<Session>> {
        let held = self.held(branch).filter(|held| held.stage == Stage::Working)?;
        Some(held.session)
    }

    pub(super) fn enter(&self, branch: &BranchId, stage: Stage) {
        if let Some(held) = self.branches().get_mut(branch) {
            if (held.stage, stage) != (Stage::Preparing, Stage::Prepared) {
                held.since = Instant::now();
            }
            held.stage = stage;
        }
    }

    /// Takes the connection of a branch that has been in doubt for a while.
    pub(super) fn take_of_doubtful(&self) -> Option<Conn> {
        let branches = self.branches();
        let doubtful =
            |held: &&Held| held.stage == Stage::Prepared && held.since.elapsed() >= IN_DOUBT_MIN;
        let lines = branches.values().filter(doubtful).map(|held| held.session.line.try_lock());
        lines.flatten().find_map(|mut line| line.conn.take())
    }

    pub(super) fn remove(&self, branch: &BranchId) {
        self.branches().remove(branch);
    }

    /// The branch changed nothing and was ended in one phase.
    pub(super) fn note_read(&self, branch: &BranchId) {
        let mut read = self.read();
        if read.known.insert(*branch) {
            read.oldest.push_back(*branch);
        }
        if read.oldest.len() > READ_MAX
            && let Some(oldest) = read.oldest.pop_front()
        {
            read.known.remove(&oldest);
        }
    }

    pub(super) fn was_read(&self, branch: &BranchId) -> bool {
        self.read().known.contains(branch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{Bqual, Gtrid, LogId, Owner};

    fn branch(sequence: usize) -> BranchId {
        let log = LogId { cluster: 1, slot: 1, incarnation: 1 };
        let owner = Owner { log, epoch: 1 };
        let gtrid = Gtrid::new(owner, u64::try_from(sequence).unwrap(), 0);
        BranchId { gtrid, bqual: Bqual::new(1, 1, owner) }
    }

    #[test]
    fn only_a_branch_that_is_worked_on_takes_work() {
        let (table, branch) = (Table::default(), branch(1));
        assert!(table.working(&branch).is_none());
        table.note(&branch);
        assert!(table.working(&branch).is_some());
        for stage in [Stage::Preparing, Stage::OnePhase, Stage::Prepared] {
            table.enter(&branch, stage);
            assert!(table.working(&branch).is_none(), "{stage:?}");
            table.note(&branch);
            assert_eq!(
                table.held(&branch).unwrap().stage,
                stage,
                "a repeated note changes nothing"
            );
        }
        table.remove(&branch);
        table.enter(&branch, Stage::Prepared);
        assert!(table.held(&branch).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_branch_is_in_doubt_from_before_its_prepare_was_sent() {
        let (table, branch) = (Table::default(), branch(1));
        let may_be_on_record = || table.held(&branch).unwrap().may_be_on_record();
        table.note(&branch);
        tokio::time::advance(ALONE_MIN).await;
        table.enter(&branch, Stage::Preparing);
        assert!(!may_be_on_record());
        tokio::time::advance(ALONE_MIN / 2).await;
        table.enter(&branch, Stage::Prepared);
        assert!(!may_be_on_record());
        tokio::time::advance(ALONE_MIN / 2).await;
        assert!(may_be_on_record());
    }

    #[test]
    fn as_many_read_branches_are_remembered_as_there_may_be() {
        let table = Table::default();
        for sequence in 0..=READ_MAX {
            table.note_read(&branch(sequence));
            table.note_read(&branch(sequence));
        }
        assert!(!table.was_read(&branch(0)));
        assert!(table.was_read(&branch(1)) && table.was_read(&branch(READ_MAX)));
    }
}
