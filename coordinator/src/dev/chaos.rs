//! When which process is killed or frozen: a plan drawn from a seed, then carried out.

use super::NAMES;
use super::supervise::{Act, Acted, Supervisor};
use crate::errors::Failure;
use crate::output::talk;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Chaos ends at this part of the run, so that there is time to commit after it.
const PART_OF_RUN: f64 = 0.8;

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// Counted from the start of the load.
    at: Duration,
    name: &'static str,
    act: Act,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// SIGKILLs by process.
    pub(crate) kills: BTreeMap<&'static str, u64>,
    /// SIGSTOPs.
    pub(crate) freezes: u64,
    /// Commits told to clients when the last SIGKILL was sent.
    pub(crate) committed_at_last_kill: u64,
}

/// Draws what happens in a run of this length.
///
/// About one event a second, from bags that hold each process killed and frozen once: no process is
/// forgotten. Two processes may be down at the same time; one process is not hit again before it
/// runs.
pub(crate) fn plan(run_for: Duration, rng: &mut impl Rng) -> Vec<Step> {
    let end = run_for.as_secs_f64() * PART_OF_RUN;
    let mut free_at = BTreeMap::new();
    let mut bag: Vec<(&'static str, Act)> = Vec::new();
    let mut steps = Vec::new();
    let mut at = 0.0;
    loop {
        if bag.is_empty() {
            bag =
                NAMES.iter().flat_map(|name| [(*name, Act::Kill), (*name, Act::Freeze)]).collect();
            bag.shuffle(rng);
        }
        at += rng.random_range(0.4..1.6);
        let Some((name, act)) = bag.pop() else { break };
        let start = free_at.get(name).copied().unwrap_or(0.0_f64).max(at);
        let down = match act {
            Act::Freeze => rng.random_range(0.2..2.0),
            Act::Kill | Act::Start => rng.random_range(0.0..1.0),
        };
        if start + down > end {
            break;
        }
        steps.push(Step { at: Duration::from_secs_f64(start), name, act });
        steps.push(Step { at: Duration::from_secs_f64(start + down), name, act: Act::Start });
        // Some of its life is spent recovering; a process must also get some work done.
        free_at.insert(name, start + down + rng.random_range(0.3..1.0));
    }
    steps.sort_by_key(|step| step.at);
    steps
}

/// Carries out a plan. What was done so far stands in `done`, also when this is stopped half-way.
/// `committed` counts the commits told to clients.
pub(crate) async fn carry_out(
    steps: &[Step],
    started: Instant,
    supervisor: &Supervisor,
    done: &RefCell<Done>,
    committed: impl Fn() -> u64,
) -> Result<(), Failure> {
    for step in steps {
        tokio::time::sleep_until((started + step.at).into()).await;
        let acted = supervisor.act(step.name, step.act).await?;
        if acted == Acted::NoNeed {
            continue;
        }
        let word = match step.act {
            Act::Kill => "killed",
            Act::Freeze => "frozen",
            Act::Start => "goes on",
        };
        let seconds = started.elapsed().as_secs_f64();
        talk(format_args!("{seconds:>6.1}s  {} {word}", step.name));
        let mut done = done.borrow_mut();
        match step.act {
            Act::Kill => {
                *done.kills.entry(step.name).or_default() += 1;
                done.committed_at_last_kill = committed();
            }
            Act::Freeze => done.freezes += 1,
            Act::Start => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Issue 2, "Must show": at least 20 events and 3 kills of each process in 60 s, and time to
    /// commit after them.
    #[test]
    fn every_plan_for_a_minute_has_enough_of_everything() {
        for seed in 0..500 {
            let steps = plan(Duration::from_secs(60), &mut ChaCha8Rng::seed_from_u64(seed));
            let events = steps.iter().filter(|step| step.act != Act::Start).count();
            assert!(events >= 20, "seed {seed}: {events} events");
            for name in NAMES {
                let kills = |step: &&Step| step.name == name && step.act == Act::Kill;
                let kills = steps.iter().filter(kills).count();
                assert!(kills >= 3, "seed {seed}: {kills} kills of {name}");
            }
            assert!(steps.iter().all(|step| step.at <= Duration::from_secs(48)), "seed {seed}");
        }
    }

    #[test]
    fn what_is_hit_runs_again_before_it_is_hit_again() {
        for seed in 0..100 {
            let steps = plan(Duration::from_secs(60), &mut ChaCha8Rng::seed_from_u64(seed));
            for name in NAMES {
                let acts = steps.iter().filter(|step| step.name == name).map(|step| step.act);
                for (index, act) in acts.enumerate() {
                    assert_eq!(act == Act::Start, index % 2 == 1, "seed {seed}: {name}");
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let draw = |seed| plan(Duration::from_secs(20), &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
