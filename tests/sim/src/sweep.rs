//! A death at every point: of the coordinator and of each participant, killed and with a power
//! loss, in schedules in which nothing else fails.

use super::run::simulate_points;
use super::script::{Death, Quiet, Script};
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Failures that are kept with their words; all are counted.
const FAILURES_KEPT_MAX: usize = 20;

/// What to sweep over.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Schedules of each kind.
    pub bases: u64,
    /// The first seed; the others follow it.
    pub seed: u64,
    /// A second death at every so-many-th point of what follows; 0: none.
    pub pairs: u64,
    /// Threads; no schedule depends on their number.
    pub threads: usize,
}

/// What a sweep came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Swept {
    /// Schedules without a death.
    pub bases: u64,
    /// Schedules with one, or with two.
    pub cases: u64,
    /// Processes that died, power losses included.
    pub crashes: u64,
    /// Machines that lost power.
    pub power_losses: u64,
    /// Schedules that broke an invariant.
    pub failures: u64,
    /// The first of them, for people.
    pub first_failures: Vec<String>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Swept {
    fn join(&mut self, other: Self) {
        self.bases += other.bases;
        self.cases += other.cases;
        self.crashes += other.crashes;
        self.power_losses += other.power_losses;
        self.failures += other.failures;
        self.first_failures.extend(other.first_failures);
        self.first_failures.truncate(FAILURES_KEPT_MAX);
    }

    /// Runs one case, and tells how far each node's life went: until the first death, and in all.
    fn case(&mut self, seed: u64, script: &Script) -> (Vec<u64>, Vec<u64>) {
        let (schedule, points) = simulate_points(seed, script);
        match script.deaths.len() {
            0 => self.bases += 1,
            _ => self.cases += 1,
        }
        self.crashes += schedule.crashes;
        self.power_losses += schedule.power_losses;
        if let Some(violation) = schedule.violation {
            self.failures += 1;
            if self.first_failures.len() < FAILURES_KEPT_MAX {
                self.first_failures.push(format!("seed {seed}, {script:?}: {violation}"));
            }
        }
        let from = points.at_first_death.unwrap_or_else(|| vec![0; points.passed.len()]);
        (from, points.passed)
    }
}

/// Every kind of schedule: one to three participants, committed, rolled back, read-only. One
/// participant alone commits in one phase.
fn kinds() -> Vec<Script> {
    let quiet = [(false, false), (true, false), (false, true)]
        .map(|(rolls_back, read_only)| Quiet { rolls_back, read_only });
    (1..=3)
        .flat_map(|participants| {
            quiet.map(|quiet| Script {
                participants: Some(participants),
                clients: Some(1),
                transactions: Some(2),
                quiet: Some(quiet),
                ..Script::default()
            })
        })
        .collect()
}

/// Runs the whole sweep.
#[must_use]
pub fn sweep(options: Sweep) -> Swept {
    let started = Instant::now();
    let kinds = kinds();
    let next = AtomicUsize::new(0);
    let bases = kinds.len() * usize::try_from(options.bases).unwrap_or(usize::MAX);
    let all = Mutex::new(Swept::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                let mut swept = Swept::default();
                loop {
                    let base = next.fetch_add(1, Ordering::Relaxed);
                    if base >= bases {
                        break;
                    }
                    let seed = options.seed.wrapping_add((base / kinds.len()) as u64);
                    sweep_base(&mut swept, seed, &kinds[base % kinds.len()], options.pairs);
                }
                all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).join(swept);
            });
        }
    });
    let mut swept = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    swept.seconds = started.elapsed().as_secs_f64();
    swept
}

fn sweep_base(swept: &mut Swept, seed: u64, kind: &Script, pairs: u64) {
    let (from, upto) = swept.case(seed, kind);
    for first in deaths(&from, &upto, 1) {
        let script = Script { deaths: vec![first], ..kind.clone() };
        let (from, upto) = swept.case(seed, &script);
        for second in deaths(&from, &upto, pairs) {
            let script = Script { deaths: vec![first, second], ..kind.clone() };
            let _ = swept.case(seed, &script);
        }
    }
}

/// Both kinds of death of each node at every so-many-th of these points.
fn deaths(from: &[u64], upto: &[u64], stride: u64) -> Vec<Death> {
    let mut deaths = Vec::new();
    for (node, upto) in upto.iter().enumerate().filter(|_| stride > 0) {
        let first = from.get(node).copied().unwrap_or(0) + 1;
        let stride = usize::try_from(stride).unwrap_or(usize::MAX);
        for point in (first..=*upto).step_by(stride) {
            deaths.extend([false, true].map(|power| Death { node, point, power }));
        }
    }
    deaths
}
