//! What a loss of power leaves: the shim sees every call that the log makes, and what it notes
//! becomes what POSIX promises (`real/power`).
#![allow(clippy::unwrap_used, reason = "a test")]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use unanimous_sdk::Client;
use unanimous_tests::real::memory::{Ended, Member, transact};
use unanimous_tests::real::power::{Disk, Noted};
use unanimous_tests::real::{Coordinator, shim, wait_until};

/// Set for the process that writes and is killed.
const WRITES_IN: &str = "POWER_TEST_WRITES_IN";
const SECTOR: usize = 512;
/// Nothing here takes so long.
const HANG: Duration = Duration::from_secs(60);

/// Not a test by itself: what the next one starts with the shim.
#[test]
fn writes_and_is_killed() {
    let Some(dir) = std::env::var_os(WRITES_IN) else { return };
    let dir = Path::new(&dir);
    let sync_dir = || File::open(dir).unwrap().sync_all().unwrap();
    let synced = File::create(dir.join("synced")).unwrap();
    synced.write_all_at(&[1; 2 * SECTOR], 0).unwrap();
    fs::write(dir.join("replaced"), "old").unwrap();
    File::open(dir.join("replaced")).unwrap().sync_all().unwrap();
    synced.sync_data().unwrap();
    fs::create_dir(dir.join("inner")).unwrap();
    sync_dir();
    synced.write_all_at(&[2; 2 * SECTOR], 0).unwrap();
    let nameless = File::create(dir.join("inner/nameless")).unwrap();
    nameless.write_all_at(b"synced, and its name is not", 0).unwrap();
    nameless.sync_all().unwrap();
    fs::write(dir.join("draft"), "new").unwrap();
    File::open(dir.join("draft")).unwrap().sync_all().unwrap();
    fs::rename(dir.join("draft"), dir.join("replaced")).unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn what_was_synced_stays_and_of_the_rest_anything() {
    let (mut sectors, mut names) = (BTreeSet::new(), BTreeSet::new());
    let compiled = tempfile::tempdir().unwrap();
    let shim = shim::compile("power", compiled.path()).unwrap();
    for seed in 0..40 {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("dir");
        let mut disk = Disk::new(&shim, &dir, &home.path().join("aside")).unwrap();
        let mut killed = Command::new(std::env::current_exe().unwrap());
        killed.args(["--exact", "writes_and_is_killed", "--test-threads", "1"]);
        killed.env(WRITES_IN, &dir).envs(disk.env());
        assert!(killed.output().unwrap().status.code().is_none(), "it was not killed");
        disk.ended().unwrap();
        disk.lose_power(&mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        let synced = fs::read(dir.join("synced")).unwrap();
        assert_eq!(synced.len(), 2 * SECTOR);
        sectors.insert((synced[0], synced[SECTOR]));
        let replaced = fs::read_to_string(dir.join("replaced")).unwrap();
        let draft = dir.join("draft").exists();
        assert!(!draft || replaced == "old", "a rename happens whole");
        names.insert((replaced, draft, dir.join("inner/nameless").exists()));
    }
    assert_eq!(sectors.len(), 4, "{sectors:?}");
    // Not renamed, with or without the draft, or renamed; and the name in `inner` by itself.
    assert_eq!(names.len(), 6, "{names:?}");
}

/// The system calls on files below a directory that succeeded, by name, as strace saw them.
fn calls(trace: &str, dir: &Path) -> BTreeMap<String, u64> {
    let (below, itself) = (format!("{}/", dir.display()), format!("{}>", dir.display()));
    let (mut calls, mut open) = (BTreeMap::new(), BTreeMap::new());
    for line in trace.lines() {
        let (thread, line) = line.split_once(' ').unwrap();
        let line = line.trim_start();
        let whole = if let Some(begun) = line.strip_suffix(" <unfinished ...>") {
            open.insert(thread.to_owned(), begun.to_owned());
            continue;
        } else if line.starts_with("<...") {
            let (_, rest) = line.split_once("resumed>").unwrap();
            format!("{}{rest}", open.remove(thread).unwrap_or_default())
        } else {
            line.to_owned()
        };
        let failed = whole.contains(" = -1 ") || !whole.contains(" = ");
        if let Some((name, arguments)) = whole.split_once('(')
            && !failed
            && (arguments.contains(&below) || arguments.contains(&itself))
        {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

#[tokio::test]
async fn nothing_that_the_log_relies_on_escapes_the_shim() {
    /// All that can change a file, a name or what is durable. The shim turns `open` into `openat`,
    /// and links what loses its name.
    const TRACED: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,\
        fallocate,copy_file_range,sendfile,splice,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,\
        renameat,renameat2,symlink,symlinkat,fsync,fdatasync,msync,sync,syncfs,io_uring_setup";
    let home = tempfile::tempdir().unwrap();
    let (dir, trace) = (home.path().join("log"), home.path().join("trace"));
    let shim = shim::compile("power", home.path()).unwrap();
    let mut disk = Disk::new(&shim, &dir, &home.path().join("aside")).unwrap();
    let mut coordinator = Coordinator::new(home.path(), &dir).unwrap();
    let preload = disk.env().map(|(name, value)| format!("--env={name}={}", value.display()));
    // Behind the process (-D), so that signals meet the process.
    let strace = ["strace", "-D", "-f", "-y", "-q", "-s", "0", "-e", "signal=none", "-e", TRACED];
    let strace = strace.map(str::to_owned).into_iter().chain(preload);
    let output = ["-o".to_owned(), trace.display().to_string()];
    coordinator.wrapper(strace.chain(output));
    // The second life opens what the first has left.
    for _ in 0..2 {
        coordinator.start().await.unwrap();
        let members = Member::start_all(&coordinator.url(), &["one", "two"]).await.unwrap();
        let client = Client::builder(coordinator.url(), "power").connect().unwrap();
        for _ in 0..20 {
            let ended = transact(&client, &members.iter().collect::<Vec<_>>()).await;
            assert_eq!(ended, Ended::Committed);
        }
        let ended = coordinator.process().unwrap().id().to_string();
        coordinator.stop().unwrap();
        let mut traced = String::new();
        wait_until("the end of the trace", HANG, || {
            traced = fs::read_to_string(&trace)?;
            let mut exits = traced.lines().filter_map(|line| line.split_once(" +++ exited"));
            Ok(exits.any(|(thread, _)| thread.trim() == ended))
        })
        .unwrap();
        let noted = disk.noted().unwrap();
        let mut seen = calls(&traced, &dir);
        let mut take = |names: &[&str]| names.iter().filter_map(|name| seen.remove(*name)).sum();
        let expected = Noted {
            written: take(&["write", "writev", "pwrite64", "ftruncate"]),
            synced: take(&["fsync", "fdatasync"]),
            removed: take(&["rmdir", "unlink", "unlinkat"]),
            renamed: take(&["rename"]),
        };
        assert_eq!(noted, expected);
        assert!(noted.written >= 20 && noted.synced >= 20 && noted.renamed > 0, "{noted:?}");
        // `Disk::ended` compares the names that were made with those that are there.
        take(&["mkdir"]);
        // By a raw system call: the reserve, whose bytes mean nothing, and zeros given back.
        take(&["fallocate"]);
        assert_eq!(seen, BTreeMap::new(), "calls that the shim does not know");
        disk.ended().unwrap();
    }
}
