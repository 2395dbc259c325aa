//! Many schedules on many threads, each schedule on one.

use super::coverage::{Coverage, CoverageTable};
use super::script::{Points, Script};
use super::world::{Schedule, World};
use crate::invariants::Violation;
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds that a thread takes at once.
const SEEDS_AT_ONCE: u64 = 64;
/// Failures that are kept with their words; all are counted.
const FAILURES_KEPT_MAX: usize = 20;

/// Which schedules to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many.
    pub schedules: u64,
    /// The first seed; the others follow it.
    pub seed: u64,
    /// Threads. They share the seeds out; no schedule depends on their number.
    pub threads: usize,
    /// When to end before all have run.
    pub stop: Stop,
}

/// When a run ends before all its schedules have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Never.
    Never,
    /// When an invariant is broken.
    Broken,
    /// When one of these is broken.
    BrokenOneOf(&'static [&'static str]),
}

impl Stop {
    fn applies(self, violation: Option<&Violation>) -> bool {
        violation.is_some_and(|violation| match self {
            Self::Never => false,
            Self::Broken => true,
            Self::BrokenOneOf(names) => names.contains(&violation.invariant),
        })
    }
}

/// A schedule that broke an invariant.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Repeats it.
    pub seed: u64,
    /// At which step.
    pub step: u64,
    /// Which invariant.
    pub invariant: &'static str,
    /// What was wrong.
    pub detail: String,
}

/// What many schedules came to.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Schedules run.
    pub schedules: u64,
    /// Things that happened in them.
    pub events: u64,
    /// Processes that died, power losses included.
    pub crashes: u64,
    /// Machines that lost power.
    pub power_losses: u64,
    /// Participants, summed over the schedules.
    pub participants: u64,
    /// Their processes, summed over the schedules.
    pub processes: u64,
    /// Transactions begun.
    pub transactions: u64,
    /// Those committed.
    pub committed: u64,
    /// Those about which a client was told rolled back.
    pub rolled_back: u64,
    /// Branches that their operators ended.
    pub decided_alone: u64,
    /// Times that older frames of a log were dropped.
    pub drops: u64,
    /// Schedules that broke an invariant.
    pub failures: u64,
    /// The first of them, in the order of seeds.
    pub first_failures: Vec<Failure>,
    /// How many failures each invariant found.
    pub found_by: std::collections::BTreeMap<&'static str, u64>,
    /// The first seed that each of them found.
    pub first_seeds: std::collections::BTreeMap<&'static str, u64>,
    /// Exclusive or of all trace hashes: equal for equal sets of schedules, in any order.
    pub trace_hash: String,
    /// Wall-clock time.
    pub seconds: f64,
    /// By one core in one minute.
    pub schedules_per_minute_and_core: u64,
    /// Which events met which states.
    pub coverage: CoverageTable,
}

/// Schedules in which every pair of state and event must come up.
const REACHES_ALL: u64 = 1_000_000;

impl Totals {
    /// Every invariant held, no impossible pair was reached, and in a long run every other one was.
    #[must_use]
    pub fn passed(&self) -> bool {
        let reached = self.coverage.unreached.is_empty() || !self.must_reach_all();
        self.failures == 0 && self.coverage.contradicted.is_empty() && reached
    }

    /// The run is so long that it must reach every pair.
    #[must_use]
    pub fn must_reach_all(&self) -> bool {
        self.schedules >= REACHES_ALL
    }
}

/// Runs the schedule of one seed. `text`: with its trace.
#[must_use]
pub fn simulate(seed: u64, text: bool) -> Schedule {
    simulate_with(seed, &Script::default(), text)
}

/// As [`simulate`], changed by a script.
#[must_use]
pub fn simulate_with(seed: u64, script: &Script, text: bool) -> Schedule {
    one(seed, script, text).0
}

/// As [`simulate_with`], with the points that the nodes' lives have passed.
pub(super) fn simulate_points(seed: u64, script: &Script) -> (Schedule, Points) {
    let (schedule, _, points) = one(seed, script, false);
    (schedule, points)
}

/// An assertion of the cores counts as a broken invariant like any other.
fn one(seed: u64, script: &Script, text: bool) -> (Schedule, Coverage, Points) {
    let mut world = World::new(seed, script, text);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = ended {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no words");
        world.violation = None;
        world.violate("assertion", words.to_owned());
    }
    let points = std::mem::take(&mut world.points);
    let (schedule, coverage) = world.finish(seed);
    (schedule, coverage, points)
}

/// What one thread has counted.
#[derive(Default)]
struct Share {
    totals: Schedule,
    schedules: u64,
    failures: Vec<(u64, u64, Violation)>,
    coverage: Coverage,
}

impl Share {
    fn add(&mut self, schedule: Schedule, coverage: &Coverage) {
        let totals = &mut self.totals;
        self.schedules += 1;
        totals.events += schedule.events;
        totals.crashes += schedule.crashes;
        totals.power_losses += schedule.power_losses;
        totals.participants += schedule.participants;
        totals.processes += schedule.processes;
        totals.transactions += schedule.transactions;
        totals.committed += schedule.committed;
        totals.rolled_back += schedule.rolled_back;
        totals.decided_alone += schedule.decided_alone;
        totals.drops += schedule.drops;
        totals.trace_hash ^= schedule.trace_hash;
        self.coverage.add(coverage);
        if let Some(violation) = schedule.violation {
            self.failures.push((schedule.seed, schedule.step, violation));
        }
    }

    fn join(&mut self, other: Self) {
        let (totals, more) = (&mut self.totals, other.totals);
        self.schedules += other.schedules;
        totals.events += more.events;
        totals.crashes += more.crashes;
        totals.power_losses += more.power_losses;
        totals.participants += more.participants;
        totals.processes += more.processes;
        totals.transactions += more.transactions;
        totals.committed += more.committed;
        totals.rolled_back += more.rolled_back;
        totals.decided_alone += more.decided_alone;
        totals.drops += more.drops;
        totals.trace_hash ^= more.trace_hash;
        self.coverage.add(&other.coverage);
        self.failures.extend(other.failures);
    }
}

/// Runs all schedules. When it stops early, those that other threads have begun still end.
#[must_use]
pub fn run(options: Options) -> Totals {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let all = Mutex::new(Share::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                let share = run_share(options, &next);
                all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).join(share);
            });
        }
    });
    let share = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    totals(share, started.elapsed().as_secs_f64(), options.threads.max(1))
}

fn run_share(options: Options, next: &AtomicU64) -> Share {
    let (mut share, script) = (Share::default(), Script::default());
    loop {
        let first = next.fetch_add(SEEDS_AT_ONCE, Ordering::Relaxed);
        if first >= options.schedules {
            return share;
        }
        for offset in first..(first + SEEDS_AT_ONCE).min(options.schedules) {
            let seed = options.seed.wrapping_add(offset);
            let (schedule, coverage, _) = one(seed, &script, false);
            let stop = options.stop.applies(schedule.violation.as_ref());
            share.add(schedule, &coverage);
            if stop {
                next.store(options.schedules, Ordering::Relaxed);
                return share;
            }
        }
    }
}

fn totals(mut share: Share, seconds: f64, threads: usize) -> Totals {
    share.failures.sort_by_key(|(seed, ..)| *seed);
    let mut found_by = std::collections::BTreeMap::new();
    let mut first_seeds = std::collections::BTreeMap::new();
    for (seed, _, violation) in &share.failures {
        *found_by.entry(violation.invariant).or_default() += 1;
        first_seeds.entry(violation.invariant).or_insert(*seed);
    }
    let per_core = share.schedules as f64 / seconds.max(1e-9) * 60.0 / threads as f64;
    Totals {
        schedules: share.schedules,
        events: share.totals.events,
        crashes: share.totals.crashes,
        power_losses: share.totals.power_losses,
        participants: share.totals.participants,
        processes: share.totals.processes,
        transactions: share.totals.transactions,
        committed: share.totals.committed,
        rolled_back: share.totals.rolled_back,
        decided_alone: share.totals.decided_alone,
        drops: share.totals.drops,
        failures: share.failures.len() as u64,
        first_failures: share
            .failures
            .into_iter()
            .take(FAILURES_KEPT_MAX)
            .map(|(seed, step, Violation { invariant, detail })| Failure {
                seed,
                step,
                invariant,
                detail,
            })
            .collect(),
        found_by,
        first_seeds,
        trace_hash: format!("{:016x}", share.totals.trace_hash),
        seconds,
        schedules_per_minute_and_core: whole(per_core),
        coverage: share.coverage.table(),
    }
}

/// The nearest whole number of a count that is far below 2^53.
fn whole(count: f64) -> u64 {
    format!("{count:.0}").parse().unwrap_or(0)
}
