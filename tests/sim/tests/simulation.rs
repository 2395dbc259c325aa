//! The simulator holds what it promises: the same seed is the same schedule, every invariant holds
//! over the shipping cores. That the invariants find what they are there for is the museum's
//! business.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use unanimous_core::id::KIND_TRANSACTION;
use unanimous_core::message::Done;
use unanimous_core::{Bqual, BranchId, Gtrid, LogId, Owner};
use unanimous_sim::invariants::{Fact, Ledger};
use unanimous_sim::{Options, Stop, Totals, invariants, run, simulate};

const QUICK: Options = Options { schedules: 4_000, seed: 1, threads: 2, stop: Stop::Never };

/// `UNANIMOUS_SCHEDULES`: another number, for the mutation tests.
fn schedules() -> u64 {
    let given = std::env::var("UNANIMOUS_SCHEDULES").ok();
    given.map_or(QUICK.schedules, |text| text.parse().unwrap())
}

fn ratio(totals: &Totals, count: u64) -> f64 {
    count as f64 / totals.schedules as f64
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    let mut distinct = BTreeSet::new();
    for seed in 1_000..1_200 {
        let (first, second) = (simulate(seed, false), simulate(seed, true));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!((first.events, first.crashes), (second.events, second.crashes), "seed {seed}");
        distinct.insert(first.trace_hash);
    }
    assert!(distinct.len() > 198, "only {} distinct schedules", distinct.len());
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let options = Options { schedules: 500, ..QUICK };
    let [one, three] = [1, 3].map(|threads| run(Options { threads, ..options }));
    assert_eq!(one.trace_hash, three.trace_hash);
    assert_eq!((one.schedules, one.events), (500, three.events));
}

#[test]
fn every_invariant_holds_in_schedules_worth_running() {
    let totals = run(Options { schedules: schedules(), ..QUICK });
    assert_eq!(totals.failures, 0, "{:?}", totals.first_failures);
    assert!(ratio(&totals, totals.events) >= 100.0, "{totals:?}");
    assert!(ratio(&totals, totals.transactions) >= 2.0, "{totals:?}");
    assert!(ratio(&totals, totals.participants) >= 2.0, "{totals:?}");
    assert!(totals.processes > totals.participants, "{totals:?}");
    assert!(ratio(&totals, totals.crashes) >= 1.0, "{totals:?}");
    assert!(totals.power_losses > 0 && totals.decided_alone > 0, "{totals:?}");
    assert!(ratio(&totals, totals.drops) >= 1.0, "{totals:?}");
    assert!(totals.committed > totals.transactions / 10, "{totals:?}");
}

#[test]
fn invariants_have_names_of_their_own_and_a_source() {
    let names: BTreeSet<_> = invariants::ALL.iter().map(|invariant| invariant.name).collect();
    assert_eq!(names.len(), invariants::ALL.len());
    assert!(invariants::ALL.iter().all(|invariant| !invariant.source.is_empty()));
}

/// Seed 2859181: of two processes that share a resource, one was told to roll a branch back that
/// the other one was working in, stood still, and acknowledged when the other one had prepared.
/// That one asks, and is told the same; a process that has the resource to itself has no such
/// excuse.
#[test]
fn regression_one_of_two_processes_acknowledges_after_the_other_prepared() {
    assert_eq!(simulate(2_859_181, false).violation, None);

    let owner = Owner { log: LogId { cluster: 1, slot: 1, incarnation: 1 }, epoch: 1 };
    let gtrid = Gtrid::new(owner, 1, KIND_TRANSACTION);
    let branch = BranchId { gtrid, bqual: Bqual::new(1, 1, owner) };
    let judge = |found_nothing: bool| {
        let mut ledger = Ledger::default();
        let found = found_nothing.then_some(Fact::FoundNothing(branch));
        let before = [Fact::Begun(gtrid), Fact::Enlisted(branch), Fact::Worked(branch, 1)];
        let after = [Fact::Prepared(branch), Fact::Acknowledged(branch, Done::Done)];
        let mut facts = before.into_iter().chain(found).chain(after);
        facts.try_for_each(|fact| ledger.take(&fact)).err().map(|broken| broken.invariant)
    };
    assert_eq!(judge(false), Some("L3"));
    assert_eq!(judge(true), None);
}
