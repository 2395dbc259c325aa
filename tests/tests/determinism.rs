//! The same seeds are the same schedules in another process, on another number of threads.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

fn hashes(threads: &str) -> String {
    let mut sim = Command::new(env!("CARGO_BIN_EXE_sim"));
    let output =
        sim.args(["hashes", "--schedules", "1000", "--threads", threads]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_thousand_seeds_in_two_processes() {
    let one = hashes("1");
    assert_eq!(one, hashes("3"));
    let distinct: BTreeSet<&str> =
        one.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(one.lines().count(), 1_000);
    assert!(distinct.len() >= 990, "only {} distinct", distinct.len());
}
