//! A process that kills itself at every named point, and again during the recovery that follows.
//! Whatever was told as durable is there afterwards.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{OPTIONS, append, record, records};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use unanimous_core::Lsn;
use unanimous_recovery::{CRASH_POINTS, OpenError, OpenOptions, OpenedLog, Writer};

const DIR: &str = "UNANIMOUS_TEST_DIR";
const PAIR: &str = "UNANIMOUS_TEST_PAIR";
const PER_LIFE: u64 = 12;
/// Where the lives after a kill are killed again.
const AGAIN: [&str; 6] = [
    "open.copied",
    "open.half",
    "open.switched",
    "log.after_insert",
    "drop.start_stored",
    "drop.renamed",
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
    append(open(dir).unwrap(), PER_LIFE, |writer, lsn| {
        told.write_all(format!("{lsn}\n").as_bytes()).unwrap();
        if lsn % 4 == 0 {
            drop_old(writer, lsn);
        }
    })
    .close()
    .unwrap();
}

/// One directory, or two if the environment says so.
fn open(dir: &Path) -> Result<OpenedLog, OpenError> {
    if std::env::var_os(PAIR).is_some() { open_pair(dir) } else { OPTIONS.open(dir) }
}

fn open_pair(dir: &Path) -> Result<OpenedLog, OpenError> {
    OPTIONS.open_pair(dir, &dir.with_extension("second"))
}

fn live(dir: &Path, point: Option<&str>) -> ExitStatus {
    live_in(dir, point, false)
}

fn live_in(dir: &Path, point: Option<&str>, pair: bool) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "life", "--nocapture"]).env(DIR, dir);
    command.env_remove("UNANIMOUS_CRASH_POINT").env("UNANIMOUS_VOLUME_BYTES", "600");
    if pair {
        command.env(PAIR, "1");
    }
    if let Some(point) = point {
        command.env("UNANIMOUS_CRASH_POINT", point);
    }
    let output = command.output().unwrap();
    if output.status.code().is_some_and(|code| code != 0) {
        println!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status
}

/// What a fresh process finds holds everything told and needed, and nothing that was not appended.
fn check(dir: &Path, what: &str) {
    check_opened(dir, OPTIONS.open(dir), what);
}

fn check_opened(dir: &Path, opened: Result<OpenedLog, OpenError>, what: &str) {
    let told = std::fs::read_to_string(dir.with_extension("told")).unwrap();
    let told: u64 = told.lines().last().map_or(0, |line| line.parse().unwrap());
    let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let (found, next) = (records(&opened), opened.next_lsn().0);
    let first = next - found.len() as u64;
    assert!(next > told, "{what}: {told} were told, the next is {next}");
    assert!(first <= needed(told), "{what}: {told} were told, the first is {first}");
    let expected: Vec<_> = (first..next).map(record).collect();
    assert_eq!(found, expected, "{what}");
}

/// How often each point is passed before the kill, at most: `UNANIMOUS_PASSES`, or once.
fn passes() -> u32 {
    std::env::var("UNANIMOUS_PASSES").map_or(1, |text| text.parse().unwrap())
}

/// One sweep at a time: a child that the other one forks holds, until it executes its program, the
/// locks on directories that are open here.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn what_was_told_survives_a_kill_at_every_point_and_one_in_the_recovery() {
    let _alone = ONE_AT_A_TIME.lock();
    let mut kills = 0;
    for point in CRASH_POINTS.iter().filter(|point| !point.starts_with("pair.")) {
        for pass in 1..=passes() {
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

/// The second directory as it was before the first one went on alone, or damaged.
fn make_stale(dir: &Path, damaged: bool) {
    let (second, kept) = (dir.with_extension("second"), dir.with_extension("kept"));
    if damaged {
        return std::fs::write(second.join("witness"), [7; 8192]).unwrap();
    }
    std::fs::rename(&second, &kept).unwrap();
    let alone = OpenOptions { degraded: true, init: false, ..OPTIONS };
    alone.open_pair(dir, &second).unwrap();
    std::fs::rename(&kept, &second).unwrap();
}

/// The points of a pair: while it is made, while its second directory is made anew, and every point
/// of a single one while there are two. `pair.alone_marked` takes a disk that fails: see
/// `exhausted.rs`.
#[test]
fn a_pair_survives_a_kill_at_every_point_and_one_in_the_recovery() {
    let _alone = ONE_AT_A_TIME.lock();
    let mut kills = 0;
    for point in CRASH_POINTS.iter().filter(|point| **point != "pair.alone_marked") {
        let stale = [(1, false), (1, true), (2, true), (3, false)];
        for (pass, damaged) in stale.into_iter().filter(|(pass, _)| *pass <= passes()) {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("log");
            let what = format!("{point}:{pass}");
            if !point.starts_with("init.") || pass > 2 {
                assert!(live_in(&dir, None, true).success(), "{what}");
                make_stale(&dir, damaged);
            }
            let status = live_in(&dir, Some(&what), true);
            let killed = status.signal() == Some(9);
            let rare = pass > 1 || (damaged && *point == "pair.rejoined");
            assert!(killed || (status.success() && rare), "{what} {damaged}: {status}");
            kills += u32::from(killed);
            for again in ["init.witnessed", "pair.first_done", "open.half", "log.after_sync"] {
                let status = live_in(&dir, Some(again), true);
                assert!(status.success() || status.signal() == Some(9), "{what} {again}: {status}");
                kills += u32::from(status.signal() == Some(9));
            }
            check_opened(&dir, open_pair(&dir), &what);
            assert!(live_in(&dir, None, true).success(), "{what}");
            check_opened(&dir, open_pair(&dir), &what);
        }
    }
    println!("a pair: {} points, {kills} kills", CRASH_POINTS.len() - 1);
}
