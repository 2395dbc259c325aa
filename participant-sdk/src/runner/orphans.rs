//! The scan for orphans (section 6 of the contract): the resources are asked for their prepared
//! branches again and again, because a slow prepare may arrive after its rollback, and a branch
//! may be left by an instance that is gone.

use crate::resource::{EndedAlone, Prepared};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use unanimous_core::{BranchId, backoff};

/// See the module's page. One for each resource.
pub(super) struct Scan {
    every_ms: u64,
    /// Jitter's seed.
    seed: u64,
    turns: u32,
    /// `None` while the resource is being asked.
    due: Option<Instant>,
    /// Branches with which the resource was busy since it was asked: what the list says of them is
    /// old.
    touched: BTreeSet<BranchId>,
    /// On the last list, and not in memory.
    strangers: BTreeSet<BranchId>,
}

impl Scan {
    pub(super) fn new(every: Duration, seed: u64) -> Self {
        let every_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        let mut scan = Self {
            every_ms,
            seed,
            turns: 0,
            due: None,
            touched: BTreeSet::new(),
            strangers: BTreeSet::new(),
        };
        scan.pause();
        scan
    }

    /// When the resource is to be asked; `None` while it is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The resource is asked now.
    pub(super) fn begin(&mut self) {
        self.due = None;
        self.touched.clear();
    }

    /// A call of the resource for the branch begins or returns.
    pub(super) fn touch(&mut self, branch: &BranchId) {
        if self.due.is_none() {
            self.touched.insert(*branch);
        }
    }

    /// The resource could not list its branches.
    pub(super) fn fail(&mut self) {
        self.touched.clear();
        self.pause();
    }

    /// Without the branches of which the list is old: they may be forgotten by now.
    pub(super) fn untouched(&self, mut alone: Vec<EndedAlone>) -> Vec<EndedAlone> {
        alone.retain(|one| !self.touched.contains(&one.branch));
        alone
    }

    /// Takes a list in. Those that nobody here has in memory, now or since it was asked for, twice
    /// in a row, are found: once would also find what another instance is busy with.
    pub(super) fn found(
        &mut self,
        listed: Vec<Prepared>,
        in_memory: impl Fn(&BranchId) -> bool,
    ) -> Vec<Prepared> {
        let touched = std::mem::take(&mut self.touched);
        let before = std::mem::take(&mut self.strangers);
        let mut found = Vec::new();
        for prepared in listed {
            let branch = prepared.branch;
            if touched.contains(&branch) || in_memory(&branch) {
                continue;
            }
            if before.contains(&branch) {
                found.push(prepared);
            } else {
                self.strangers.insert(branch);
            }
        }
        self.pause();
        found
    }

    /// Between half of the period and the whole.
    fn pause(&mut self) {
        let pause_ms =
            backoff::delay_ms(self.seed, b"scan", self.turns, self.every_ms, self.every_ms);
        self.turns = self.turns.wrapping_add(1);
        self.due = Some(Instant::now() + Duration::from_millis(pause_ms));
    }
}
