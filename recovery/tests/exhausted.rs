//! A log without file descriptors, and one on a full disk: it goes on, waits, or says what it
//! needs; it never fails and loses nothing. Each test runs itself in a process of its own: the
//! limit on descriptors is one process's, and so is the small file system.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{OPTIONS, copy, records, tree};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use unanimous_core::Lsn;
use unanimous_recovery::{
    DirectoryState, ErrorClass, Flushed, LogFailed, OpenError, OpenOptions, Space, Stats, Writer,
};

/// Long enough never to pass in a good run, short enough for a bad one to end.
const PATIENCE: Duration = Duration::from_secs(60);
const DIR: &str = "UNANIMOUS_TEST_DIR";

fn wait_for(writer: &Writer, what: &str, reached: impl Fn(&Stats) -> bool) -> Stats {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = writer.stats();
        if reached(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "{what}: {stats:?}");
        std::thread::yield_now();
    }
}

/// One test of this file in another process.
fn run(mut command: Command, dir: &Path) {
    let output = command.env(DIR, dir).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// The same on a file system of 64 MiB, which goes with the process.
fn run_on_64_mib(test: &str) {
    let root = tempfile::tempdir().unwrap();
    let disk = root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size=64m none \"${DIR}\"");
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", script]).env(DIR, &disk);
        command.arg(std::env::current_exe().unwrap());
        command
    };
    let probed = unshared(&mount).output();
    assert!(
        probed.as_ref().is_ok_and(|output| output.status.success()),
        "this test mounts a file system of its own, which needs `unshare -Urm` (util-linux) and \
         either user namespaces or root: {probed:?}"
    );
    let script = format!("{mount} && exec \"$0\" --exact {test} --nocapture");
    run(unshared(&script), &disk);
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// Catalogue O-08.
#[test]
fn o_08_without_file_descriptors_the_log_goes_on() {
    let Some(dir) = child_dir() else {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "o_08_without_file_descriptors_the_log_goes_on", "--nocapture"]);
        return run(command, root.path());
    };
    const LAST: u64 = 500;
    let dir = dir.join("log");
    let log = Log::open(&dir);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(fs::read_dir(&dir).is_err(), "there is a descriptor left");
    for lsn in 1..=LAST {
        log.submit(lsn);
        log.flushed_upto(lsn);
        if lsn % 100 == 0 {
            log.writer.drop_below(Lsn(lsn - 20));
        }
    }
    wait_for(&log.writer, "dropping", |stats| stats.retained_frames == 21);
    log.writer.close().unwrap();
    drop(taken);
    let found = records(&OPTIONS.open(&dir).unwrap());
    assert!(found == (LAST - 20..=LAST).map(long).collect::<Vec<_>>(), "{} records", found.len());
}

struct Filler(PathBuf);

impl Filler {
    /// Another process takes all there is, down to the last page.
    fn fill(dir: &Path) -> Self {
        let path = dir.join("filler");
        let of = format!("of={}", path.display());
        let filled = Command::new("dd")
            .args(["if=/dev/zero", &of, "bs=4k", "oflag=append", "conv=notrunc"])
            .output()
            .unwrap();
        assert!(!filled.status.success(), "the disk has no end");
        Self(path)
    }

    fn empty(self) {
        fs::remove_file(self.0).unwrap();
    }
}

fn long(lsn: u64) -> Vec<u8> {
    let mut state = lsn + 1;
    let mut byte = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..60 << 10).map(|_| byte()).collect()
}

struct Log {
    writer: Writer,
    flushed: Receiver<Lsn>,
    failed: Receiver<String>,
}

impl Log {
    fn open(dir: &Path) -> Self {
        let ((told, flushed), (fails, failed)) = (channel(), channel());
        let on_flushed = move |group: Flushed| told.send(group.upto).unwrap();
        let on_failed = move |failure: LogFailed| fails.send(failure.what).unwrap();
        let writer = USUAL.open(dir).unwrap().start(on_flushed, on_failed).unwrap();
        Self { writer, flushed, failed }
    }

    fn submit(&self, lsn: u64) {
        self.writer.append(Lsn(lsn), long(lsn), true).unwrap();
    }

    fn flushed_upto(&self, lsn: u64) {
        while self.flushed.recv_timeout(PATIENCE).unwrap() != Lsn(lsn) {}
    }

    /// Submits one record after the other until the first one waits for room; gives its LSN.
    fn submit_until_full(&self, first: u64) -> u64 {
        (first..)
            .find(|lsn| {
                self.submit(*lsn);
                let done = |s: &Stats| s.queued_records == 0 || s.waiting_for_space;
                wait_for(&self.writer, "written or waiting", done).waiting_for_space
            })
            .unwrap()
    }
}

const MIB: u64 = 1 << 20;
const USUAL: OpenOptions =
    OpenOptions { space: Space { reserve_bytes: 32 * MIB, free_bytes_min: 64 * MIB }, ..OPTIONS };

/// Catalogue S-05: low is seen while idle, the reserve carries what is decided, then the log waits,
/// and when there is room again nothing was lost.
#[test]
fn s_05_a_full_disk_is_waited_for() {
    let Some(disk) = child_dir() else { return run_on_64_mib("s_05_a_full_disk_is_waited_for") };
    let dir = disk.join("log");
    let log = Log::open(&dir);
    log.submit(1);
    log.flushed_upto(1);
    let stats = log.writer.stats();
    assert_eq!((stats.reserve_bytes, stats.space_low), (16 * MIB, false), "{stats:?}");

    let filler = Filler::fill(&disk);
    let stats = wait_for(&log.writer, "seen while idle", |stats| stats.space_low);
    assert_eq!((stats.reserve_bytes, stats.waiting_for_space), (16 * MIB, false));
    log.submit(2);
    log.flushed_upto(2);
    let stats = log.writer.stats();
    assert!(stats.reserve_bytes < 16 * MIB && stats.space_low, "{stats:?}");
    let waiting = log.submit_until_full(3);
    let stats = log.writer.stats();
    println!("record {waiting} of 60 KiB waits: {stats:?}");
    assert!(waiting > 30, "{waiting}");
    assert_eq!((stats.reserve_bytes, stats.queued_records), (0, 1));
    (waiting + 1..=waiting + 50).for_each(|lsn| log.submit(lsn));

    filler.empty();
    log.flushed_upto(waiting + 50);
    let whole = |stats: &Stats| !stats.space_low && stats.reserve_bytes == 16 * MIB;
    wait_for(&log.writer, "ample again while idle", whole);

    let filler = Filler::fill(&disk);
    let last = log.submit_until_full(waiting + 51);
    log.submit(last + 1);
    assert!(log.writer.close().is_err());
    let failed = log.failed.recv_timeout(PATIENCE).unwrap();
    assert!(failed.contains("the disk is full: 2 queued records were not written"), "{failed}");
    filler.empty();
    let told = log.flushed.iter().last().unwrap();
    assert_eq!(told, Lsn(last - 1));
    // The lock of a failed log is held until its process ends.
    let elsewhere = tempfile::tempdir().unwrap();
    let copied = elsewhere.path().join("copied");
    copy(&dir, &copied);
    let found = records(&USUAL.open(&copied).unwrap());
    assert!(found == (1..last).map(long).collect::<Vec<_>>(), "{} records", found.len());
}

/// Opening copies the log: out of the reserve if need be, and otherwise it says what it needs.
#[test]
fn s_05_an_open_on_a_full_disk_uses_the_reserve_or_changes_nothing() {
    let test = "s_05_an_open_on_a_full_disk_uses_the_reserve_or_changes_nothing";
    let Some(disk) = child_dir() else { return run_on_64_mib(test) };
    let dir = disk.join("log");
    let log = Log::open(&dir);
    (1..=30).for_each(|lsn| log.submit(lsn));
    log.flushed_upto(30);
    log.writer.close().unwrap();

    let filler = Filler::fill(&disk);
    let log = Log::open(&dir);
    let stats = log.writer.stats();
    assert!(stats.space_low && stats.reserve_bytes == 0, "{stats:?}");
    log.writer.close().unwrap();
    filler.empty();

    fs::remove_file(dir.join("reserve")).unwrap();
    let filler = Filler::fill(&disk);
    let before = tree(&dir);
    for _ in 0..2 {
        let error = USUAL.open(&dir).unwrap_err();
        let OpenError::NoSpace { needed_bytes, free_bytes, .. } = error else { panic!("{error}") };
        assert_eq!((error.class(), free_bytes), (ErrorClass::Io, 0));
        assert!(needed_bytes >= 10 * MIB, "{error}");
        assert!(tree(&dir) == before, "{error}");
    }
    filler.empty();

    // A file longer than it looks: the copy itself runs out of room, and leaves nothing behind.
    let log = disk.join("log/log-00000002/volume-00000001/db");
    let length = fs::metadata(&log).unwrap().len();
    let file = File::options().write(true).open(&log).unwrap();
    file.set_len(256 * MIB).unwrap();
    let names = || tree_names(&dir);
    let before = names();
    let error = USUAL.open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Io { kind: ErrorKind::StorageFull, .. }), "{error:?}");
    assert_eq!(names(), before);
    file.set_len(length).unwrap();
    let found = records(&USUAL.open(&dir).unwrap());
    assert!(found == (1..=30).map(long).collect::<Vec<_>>(), "{} records", found.len());
}

fn tree_names(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(tree_names(&path));
        }
        names.push(path);
    }
    names.sort();
    names
}

const LIFE: &str = "UNANIMOUS_TEST_LIFE";

/// Writes to a pair whose second disk fills up. Does nothing by itself.
#[test]
fn life_of_a_pair() {
    let (Some(_), Some(disk)) = (std::env::var_os(LIFE), child_dir()) else { return };
    let (first, second) = (disk.with_extension("first"), disk.join("second"));
    let mut told = File::create(disk.with_extension("told")).unwrap();
    let ((tells, flushed), (fails, _failed)) = (channel(), channel());
    let on_flushed = move |group: Flushed| tells.send(group.upto.0).unwrap();
    let on_failed = move |failure: LogFailed| fails.send(failure.what).unwrap();
    let opened = OPTIONS.open_pair(&first, &second).unwrap();
    let writer = opened.start(on_flushed, on_failed).unwrap();
    let mut lsn = 0;
    while writer.directories()[1].state == DirectoryState::Good {
        if lsn == 5 {
            Filler::fill(&disk);
        }
        lsn += 1;
        writer.append(Lsn(lsn), long(lsn), true).unwrap();
        assert_eq!(flushed.recv_timeout(PATIENCE), Ok(lsn));
        told.write_all(format!("{lsn}\n").as_bytes()).unwrap();
    }
    writer.close().unwrap();
}

/// Without a look at the space the second disk runs full, and its directory is given up. With crash
/// points the process is killed right then (`pair.alone_marked`); either way the first directory
/// has everything, and the second one is made anew from it.
#[test]
fn a_disk_that_fails_is_given_up_and_the_other_one_knows() {
    let test = "a_disk_that_fails_is_given_up_and_the_other_one_knows";
    let Some(disk) = child_dir() else { return run_on_64_mib(test) };
    let mut life = Command::new(std::env::current_exe().unwrap());
    life.args(["--exact", "life_of_a_pair"]).env(LIFE, "1");
    life.env("UNANIMOUS_CRASH_POINT", "pair.alone_marked");
    let output = life.output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert_eq!(killed, cfg!(feature = "crash-points"), "{output:?}");
    let told = fs::read_to_string(disk.with_extension("told")).unwrap();
    let told: usize = told.lines().last().unwrap().parse().unwrap();
    fs::remove_file(disk.join("filler")).unwrap();
    let (first, second) = (disk.with_extension("first"), disk.join("second"));
    let opened = OPTIONS.open_pair(&first, &second).unwrap();
    let states = opened.report().directories.iter().map(|report| report.state);
    assert_eq!(states.collect::<Vec<_>>(), [DirectoryState::Good, DirectoryState::Rebuilt]);
    let found = records(&opened);
    assert!(found.len() >= told, "{told} were told, {} are there", found.len());
    assert!(found == (1..=found.len() as u64).map(long).collect::<Vec<_>>());
    drop(opened);
}
