//! Makes a failing schedule small: fewer of everything, then only the faults that it needs.
//!
//! Delta debugging (Zeller, Hildebrandt 2002) over the faults, each known by its ordinal: a fault
//! that is masked does not happen. But what follows a masked fault is drawn anew, so that most of
//! the gain comes from other courses of the same swarm in smaller worlds. What comes out is the
//! smallest schedule found that breaks the same invariant, not the smallest there is.

use super::run::simulate_with;
use super::script::Script;
use super::world::Schedule;
use serde::Serialize;
use std::collections::BTreeSet;

/// How a failing schedule was made smaller.
#[derive(Clone, Debug, Serialize)]
pub struct Shrunk {
    /// Decides everything that the script does not.
    pub seed: u64,
    /// What it breaks, before and after.
    pub invariant: &'static str,
    /// What is wrong in the small one.
    pub detail: String,
    /// Steps until the violation, before.
    pub steps_before: u64,
    /// And after.
    pub steps: u64,
    /// Faults that happened, before.
    pub faults_before: u32,
    /// And after.
    pub faults: u32,
    /// Schedules run.
    pub runs: u64,
    /// The options of `sim` that repeat the small one.
    pub options: String,
    #[serde(skip)]
    script: Script,
}

/// The search: what has been found, and how much more may be tried.
struct Search {
    seed: u64,
    invariant: &'static str,
    script: Script,
    best: Schedule,
    runs: u64,
    runs_max: u64,
}

/// What a reader has to follow: a fault takes more thought than a step.
fn length(schedule: &Schedule) -> u64 {
    schedule.step + 10 * u64::from(schedule.faults_happened)
}

impl Search {
    /// Takes the script if it breaks the same invariant in less.
    fn attempt(&mut self, script: Script) -> bool {
        if self.runs >= self.runs_max || script == self.script {
            return false;
        }
        self.runs += 1;
        let schedule = simulate_with(self.seed, &script, false);
        let same = schedule.violation.as_ref().is_some_and(|v| v.invariant == self.invariant);
        let smaller = same && length(&schedule) < length(&self.best);
        if smaller {
            (self.script, self.best) = (script, schedule);
        }
        smaller
    }

    /// One course after the other, in smaller and smaller worlds. A course that is taken is freed
    /// of the faults that it does not need at once.
    fn shrink_courses(&mut self) {
        self.shrink_faults();
        for salt in 1.. {
            if self.runs >= self.runs_max {
                return;
            }
            let mut script = Script { salt, keep_faults: None, ..self.script.clone() };
            match salt % 6 {
                0 => script.clients = Some(1),
                1 => script.transactions = Some(1),
                2 => {
                    script.participants =
                        script.participants.map_or(Some(3), |n| Some(1.max(n - 1)))
                }
                3 => script.accounts = Some(2),
                4 => script.deaths_max = script.deaths_max.map_or(Some(2), |n| n.checked_sub(1)),
                _ => {}
            }
            if self.attempt(script) {
                self.shrink_faults();
            }
        }
    }

    /// Halves, then quarters, and so on are left out, as long as it still fails.
    fn shrink_faults(&mut self) {
        let mut kept: Vec<u32> = (0..self.best.faults).collect();
        let mut parts = 2;
        while !kept.is_empty() && self.runs < self.runs_max {
            let length = kept.len().div_ceil(parts);
            let without =
                kept.chunks(length).enumerate().map(|(at, part)| (at * length, part.len()));
            let without: Vec<(usize, usize)> = without.collect();
            let found = without.into_iter().rev().find_map(|(at, count)| {
                let rest: Vec<u32> = [&kept[..at], &kept[at + count..]].concat();
                self.keep(&rest).then_some(rest)
            });
            match found {
                Some(rest) => {
                    kept = rest;
                    parts = (parts - 1).max(2);
                }
                None if length == 1 => break,
                None => parts = (2 * parts).min(kept.len()),
            }
        }
    }

    fn keep(&mut self, faults: &[u32]) -> bool {
        let kept: BTreeSet<u32> = faults.iter().copied().collect();
        self.attempt(Script { keep_faults: Some(kept), ..self.script.clone() })
    }
}

/// Shrinks the schedule of a seed in at most so many runs; `None`: it does not fail.
#[must_use]
pub fn shrink(seed: u64, script: &Script, runs_max: u64) -> Option<Shrunk> {
    let first = simulate_with(seed, script, false);
    let invariant = first.violation.as_ref()?.invariant;
    let (steps_before, faults_before) = (first.step, first.faults_happened);
    let script = script.clone();
    let mut search = Search { seed, invariant, script, best: first, runs: 1, runs_max };
    search.shrink_courses();
    let Search { script, best, runs, .. } = search;
    Some(Shrunk {
        seed,
        invariant,
        detail: best.violation.map(|violation| violation.detail).unwrap_or_default(),
        steps_before,
        steps: best.step,
        faults_before,
        faults: best.faults_happened,
        runs,
        options: options(seed, &script),
        script,
    })
}

impl Shrunk {
    /// The changes that make it small.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }
}

/// The options of `sim` that repeat it.
fn options(seed: u64, script: &Script) -> String {
    let mut options = format!("--seed {seed} --trace");
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            options.push_str(&format!(" --{name} {value}"));
        }
    };
    add("salt", (script.salt > 0).then(|| script.salt.to_string()));
    add("participants", script.participants.map(|n| n.to_string()));
    add("clients", script.clients.map(|n| n.to_string()));
    add("transactions", script.transactions.map(|n| n.to_string()));
    add("accounts", script.accounts.map(|n| n.to_string()));
    add("deaths-max", script.deaths_max.map(|n| n.to_string()));
    let faults = script.keep_faults.as_ref().map(|kept| {
        let kept: Vec<String> = kept.iter().map(u32::to_string).collect();
        if kept.is_empty() { "none".to_owned() } else { kept.join(",") }
    });
    add("keep-faults", faults);
    options
}
