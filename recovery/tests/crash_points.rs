//! A process that kills itself at every named point, three times each, and again during the
//! recovery that follows. Whatever was told as durable is there afterwards.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{OPTIONS, append, record, records};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use unanimous_core::Lsn;
use unanimous_recovery::{CRASH_POINTS, Writer};

const DIR: &str = "UNANIMOUS_TEST_DIR";
const PER_LIFE: u64 = 12;
/// Where the lives after a kill are killed again.
const AGAIN: [&str; 6] = [
    "open.copied",
    "open.half",
    "open.switched",
    "log.after_insert",
    "drop.start_stored",
    "drop.removed",
];

/// The first record that is needed once this many were told.
fn needed(told: u64) -> u64 {
    (told / 4 * 4).saturating_sub(2).max(1)
}

/// Says what is needed no more, and waits until it is gone.
fn drop_old(writer: &Writer, last: u64) {
    writer.drop_below(Lsn(needed(last)));
    let deadline = Instant::now() + Duration::from_secs(30);
    while writer.stats().retained_frames != last + 1 - needed(last) {
        assert!(Instant::now() < deadline, "{:?}", writer.stats());
        std::thread::yield_now();
    }
}

/// One life: open, append, tell each durable LSN by a file that outlives the kill, drop what is old
/// now and then, close. Does nothing by itself.
#[test]
fn life() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = Path::new(&dir);
    // One line a write, only ever added to: the kill may come from another thread in between.
    let told = dir.with_extension("told");
    let mut told = File::options().create(true).append(true).open(told).unwrap();
    append(OPTIONS.open(dir).unwrap(), PER_LIFE, |writer, lsn| {
        told.write_all(format!("{lsn}\n").as_bytes()).unwrap();
        if lsn % 4 == 0 {
            drop_old(writer, lsn);
        }
    })
    .close()
    .unwrap();
}

fn live(dir: &Path, point: Option<&str>) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "life", "--nocapture"]).env(DIR, dir);
    command.env_remove("UNANIMOUS_CRASH_POINT");
    if let Some(point) = point {
        command.env("UNANIMOUS_CRASH_POINT", point);
    }
    command.output().unwrap().status
}

/// What a fresh process finds holds everything told and needed, and nothing that was not appended.
fn check(dir: &Path, what: &str) {
    let told = std::fs::read_to_string(dir.with_extension("told")).unwrap();
    let told: u64 = told.lines().last().map_or(0, |line| line.parse().unwrap());
    let opened = OPTIONS.open(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (found, next) = (records(&opened), opened.next_lsn().0);
    let first = next - found.len() as u64;
    assert!(next > told, "{what}: {told} were told, the next is {next}");
    assert!(first <= needed(told), "{what}: {told} were told, the first is {first}");
    let expected: Vec<_> = (first..next).map(record).collect();
    assert_eq!(found, expected, "{what}");
}

#[test]
fn what_was_told_survives_a_kill_at_every_point_and_one_in_the_recovery() {
    let mut kills = 0;
    for point in CRASH_POINTS {
        for pass in 1..=3 {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("log");
            let what = format!("{point}:{pass}");
            if !point.starts_with("init.") {
                assert!(live(&dir, None).success(), "{what}");
            }
            let status = live(&dir, Some(&what));
            let killed = status.signal() == Some(9);
            assert!(killed || (status.success() && pass > 1), "{what}: {status}");
            kills += u32::from(killed);
            for again in AGAIN {
                let status = live(&dir, Some(again));
                assert!(status.signal() == Some(9) || point.starts_with("init."), "{what} {again}");
                kills += u32::from(status.signal() == Some(9));
            }
            check(&dir, &what);
            assert!(live(&dir, None).success(), "{what}");
            check(&dir, &what);
        }
    }
    println!("{} points, {kills} kills", CRASH_POINTS.len());
}
