//! The simulator holds what it promises: the same seed is the same schedule, every invariant holds
//! over the shipping cores, and each known mistake in their surroundings is found by the invariant
//! that is there for it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use unanimous_tests::invariants;
use unanimous_tests::sim::{Mistake, Options, Totals, run, simulate};

const QUICK: Options =
    Options { schedules: 4_000, seed: 1, threads: 2, mistake: None, stop_at_failure: false };

fn ratio(totals: &Totals, count: u64) -> f64 {
    count as f64 / totals.schedules as f64
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    let mut distinct = BTreeSet::new();
    for seed in 1_000..1_200 {
        let (first, second) = (simulate(seed, None, false), simulate(seed, None, true));
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
    let totals = run(QUICK);
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

/// A mistake counts as found only by an invariant that names its cause.
fn finds(mistake: Mistake, by: &[&str]) {
    let options = Options { schedules: 20_000, stop_at_failure: true, ..QUICK };
    let totals = run(Options { mistake: Some(mistake), ..options });
    let found = totals.first_failures.first();
    let invariant = found.map(|failure| failure.invariant).unwrap_or("none");
    assert!(by.contains(&invariant), "{mistake:?} after {}: {found:?}", totals.schedules);
}

#[test]
fn a_vote_before_its_sync_is_found() {
    finds(Mistake::VoteBeforeSync, &["L2"]);
}

#[test]
fn an_acknowledgement_before_its_sync_is_found() {
    finds(Mistake::AcknowledgeBeforeSync, &["L3", "L1"]);
}

#[test]
fn a_frame_that_counts_as_durable_before_its_sync_is_found() {
    finds(Mistake::FlushedBeforeSync, &["L1", "L8", "L9", "H1"]);
}

#[test]
fn acting_on_a_recovered_tail_without_a_sync_is_found() {
    finds(Mistake::RecoveredTailUnsynced, &["L1", "L8", "EM", "H1"]);
    finds(Mistake::RecoveredBranchesUnsynced, &["L1", "L2", "L3", "R1", "H1", "H2"]);
}

#[test]
fn trying_a_failed_sync_again_is_found() {
    finds(Mistake::SyncTriedAgain, &["L1", "L8", "L9", "EM", "H1"]);
}

#[test]
fn a_late_prepare_that_creates_a_branch_is_found() {
    finds(Mistake::LatePrepareCreates, &["AC1", "AC2"]);
}

#[test]
fn a_restart_that_forgets_prepared_branches_is_found() {
    finds(Mistake::RestartForgetsPrepared, &["AC1", "AC2", "H2"]);
}

#[test]
fn an_undone_branch_that_works_on_is_found() {
    finds(Mistake::UndoneBranchJoins, &["AC2"]);
}

#[test]
fn a_drop_before_what_carries_is_durable_is_found() {
    finds(Mistake::DropsBeforeCarried, &["L8"]);
}

#[test]
fn one_dropped_frame_too_many_is_found() {
    finds(Mistake::DropsOneFrameTooMany, &["L8"]);
}

#[test]
fn a_removal_before_the_chains_start_is_durable_is_found() {
    finds(Mistake::RemovesBeforeStart, &["L7"]);
}

#[test]
fn a_compaction_that_leaves_something_out_is_found() {
    finds(Mistake::CompactionSkipsItem, &["L8"]);
    finds(Mistake::OutcomeWithoutBranches, &["L8"]);
    finds(Mistake::CarriedWithoutResults, &["L8"]);
}

#[test]
fn invariants_have_names_of_their_own_and_a_source() {
    let names: BTreeSet<_> = invariants::ALL.iter().map(|invariant| invariant.name).collect();
    assert_eq!(names.len(), invariants::ALL.len());
    assert!(invariants::ALL.iter().all(|invariant| !invariant.source.is_empty()));
}
