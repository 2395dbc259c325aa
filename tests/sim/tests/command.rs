//! What `sim` does besides running schedules.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use unanimous_sim::{
    Death, Options, Quiet, Script, Stop, Sweep, hashes, run, simulate, simulate_with, sweep,
};

#[test]
fn hashes_come_in_the_order_of_seeds_whatever_the_threads() {
    let one = hashes(200, 7_000, 1);
    assert_eq!(one, hashes(200, 7_000, 3));
    assert_eq!(one[5], (7_005, simulate(7_005, false).trace_hash));
    let distinct: BTreeSet<u64> = one.iter().map(|(_, hash)| *hash).collect();
    assert!(one.len() == 200 && distinct.len() >= 198, "{} distinct", distinct.len());
}

#[test]
fn a_death_at_each_point_of_quiet_schedules_harms_nobody() {
    let swept = sweep(Sweep { bases: 1, seed: 1, pairs: 0, threads: 2 });
    assert_eq!(swept.failures, 0, "{:?}", swept.first_failures);
    assert_eq!(swept.bases, 9);
    assert_eq!((swept.crashes, swept.power_losses * 2), (swept.cases, swept.cases));
    assert!(swept.cases > 1_000, "{swept:?}");
}

#[test]
fn a_quiet_schedule_fails_only_where_its_script_says() {
    let quiet = Script { quiet: Some(Quiet::default()), ..Script::default() };
    let whole = simulate_with(3, &quiet, false);
    assert_eq!((whole.crashes, whole.faults), (0, 0), "{whole:?}");
    let death = Death { node: 0, point: 9, power: true };
    let cut = simulate_with(3, &Script { deaths: vec![death], ..quiet }, false);
    assert_eq!((cut.crashes, cut.power_losses), (1, 1), "{cut:?}");
    assert_ne!(whole.trace_hash, cut.trace_hash);
}

#[test]
fn a_script_makes_a_schedule_smaller_and_masks_its_faults() {
    let seed = (1..).find(|seed| simulate(*seed, false).faults_happened > 5).unwrap();
    let before = simulate(seed, false);
    let all = Script { keep_faults: Some((0..before.faults).collect()), ..Script::default() };
    assert_eq!(simulate_with(seed, &all, false).trace_hash, before.trace_hash);
    let none = Script {
        keep_faults: Some(BTreeSet::new()),
        participants: Some(1),
        clients: Some(1),
        transactions: Some(1),
        ..Script::default()
    };
    let small = simulate_with(seed, &none, false);
    assert_eq!((small.faults_happened, small.crashes, small.participants), (0, 0, 1));
    assert!(small.events < before.events, "{small:?}");
    assert_eq!(small.violation, None);
}

#[test]
fn what_is_listed_as_impossible_does_not_happen() {
    let totals = run(Options { schedules: 4_000, seed: 1, threads: 2, stop: Stop::Never });
    assert_eq!(totals.coverage.contradicted, []);
    assert!(totals.coverage.impossible.iter().all(|pair| !pair.reason.is_empty()));
    assert!(totals.coverage.unreached.len() < 60, "{:?}", totals.coverage.unreached);
}
