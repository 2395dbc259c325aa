//! `dual_damage`: a coordinator with its log in two directories, under load; again and again it is
//! killed or stopped, one of the directories, drawn at random, is damaged, sometimes while it runs,
//! and it is started again.
//!
//! Each start must succeed, show what it found and rebuild what was damaged; in the end no cent is
//! missing and both directories are whole.

use anyhow::{Context as _, ensure};
use clap::Parser;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::Ordering;
use std::time::Duration;
use unanimous_tests::real::{Banks, Coordinator, LOOK, Report, Transfers, binary, wait_until};

const CLIENTS: usize = 8;
/// Commits between two damages.
const COMMITS: u64 = 20;
const HANG: Duration = Duration::from_secs(60);
/// The most bytes that one damage overwrites.
const DAMAGE_BYTES_MAX: usize = 64 << 10;
/// So much at the begin of a file has something in it, more often than not.
const USED_BYTES: u64 = 256 << 10;

#[derive(Parser)]
struct Arguments {
    /// How often.
    #[arg(long, default_value_t = 200)]
    times: u32,
    /// 20 times.
    #[arg(long)]
    quick: bool,
    /// Repeats the choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    report.say(format!("seed {seed}"));
    report.field("seed", seed.to_string());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let home = tempfile::tempdir()?;
    let dirs = ["first", "second"].map(|name| home.path().join(name));
    let mut coordinator = Coordinator::new(home.path(), &dirs[0])?;
    coordinator.args(["--second-dir".as_ref(), dirs[1].as_os_str()]);
    coordinator.start().await?;
    let banks = Banks::start(home.path(), &coordinator.url())?;
    let transfers = Transfers::new(&coordinator.url(), &banks, HANG)?;
    let clients = transfers.run(CLIENTS);
    let times = if arguments.quick { 20 } else { arguments.times };
    let mut world = World { coordinator, dirs, shown: 0, by_hand: 0 };
    let (mut kills, mut while_running) = (0, 0);
    for round in 1..=times {
        commit_some(&mut world.coordinator, &transfers).await?;
        let dir = rng.random_range(0..2);
        let damage_first = rng.random_ratio(1, 3);
        let mut done = String::new();
        if damage_first {
            done = damage(&world.dirs[dir], &mut rng)?;
            while_running += 1;
            // What is written after the damage must survive it as well.
            commit_some(&mut world.coordinator, &transfers).await?;
        }
        let kill = rng.random_bool(0.5);
        if kill {
            world.coordinator.kill()?;
            kills += 1;
        } else {
            world.coordinator.stop()?;
        }
        if !damage_first {
            done = damage(&world.dirs[dir], &mut rng)?;
        }
        let words = world.start_again(dir, report).await?;
        let ended = if kill { "killed" } else { "stopped" };
        let when = if damage_first { ", damaged while it ran" } else { "" };
        report.say(format!("{round:>4}  {ended}{when}: {done}; {words}"));
    }
    let World { mut coordinator, dirs, shown, by_hand } = world;
    commit_some(&mut coordinator, &transfers).await?;
    transfers.counts.stop();
    clients.join_all().await;
    transfers.resolve(report).await;
    coordinator.settled(HANG).await?;
    banks.settled(HANG).await?;
    banks.verify(&transfers, report)?;
    coordinator.stop()?;
    for dir in &dirs {
        let verified = unanimous(["log".as_ref(), "verify".as_ref(), dir.as_os_str()])?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        report
            .must(verified.status.success(), || format!("log verify of {}: {said}", dir.display()));
    }
    report.must(shown > 0, || "no damage was shown by status".to_owned());
    report.field("times", times);
    report.field("kills", kills);
    report.field("while_running", while_running);
    report.field("shown", shown);
    report.field("rebuilt_by_operator", by_hand);
    Ok(())
}

/// Commits go on.
async fn commit_some(coordinator: &mut Coordinator, transfers: &Transfers) -> anyhow::Result<()> {
    let committed = || transfers.counts.committed.load(Ordering::Relaxed);
    let until = committed() + COMMITS;
    let started = std::time::Instant::now();
    while committed() < until {
        coordinator.process()?.check_runs()?;
        ensure!(started.elapsed() < HANG, "nothing commits any more");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

struct World {
    coordinator: Coordinator,
    dirs: [PathBuf; 2],
    /// Starts after which `status` named what was found.
    shown: u32,
    /// Starts that an operator had to allow.
    by_hand: u32,
}

impl World {
    /// Starts it after one directory was damaged. Returns what the start made of it.
    async fn start_again(&mut self, damaged: usize, report: &mut Report) -> anyhow::Result<String> {
        let mut by_hand = false;
        if self.coordinator.start().await.is_err() {
            // The directory cannot be told from one that was never part of this log: a person says
            // that it may be made anew.
            let words = self.coordinator.process()?.last_words();
            report.must(words.contains("--rebuild"), || format!("no way out is shown: {words}"));
            fs::remove_dir_all(&self.dirs[damaged])?;
            let mut args = self.coordinator.take_args();
            self.coordinator.args(args.iter().cloned().chain(["--rebuild".into()]));
            self.coordinator.start().await?;
            self.coordinator.take_args();
            self.coordinator.args(args.drain(..));
            self.by_hand += 1;
            by_hand = true;
        }
        let url = self.coordinator.admin_url();
        let said = unanimous(["status", "-o", "json", "--admin-address", &url])?;
        let status: serde_json::Value = serde_json::from_slice(&said.stdout)
            .with_context(|| String::from_utf8_lossy(&said.stderr).into_owned())?;
        let directories = status["logDirectories"].as_array().cloned().unwrap_or_default();
        report.must(directories.len() == 2, || format!("status names {directories:?}"));
        let found = directories.iter().find(|directory| {
            directory["dir"].as_str().map(Path::new) == Some(&*self.dirs[damaged])
        });
        let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or("");
        let (state, detail) = (text("state"), text("detail"));
        let rebuilt = state.ends_with("REBUILT");
        self.shown += u32::from(rebuilt);
        // Bytes that nobody reads can be damaged without a finding; the end's check reads all.
        report.must(rebuilt || state.ends_with("GOOD"), || format!("state {state:?}: {detail}"));
        report.must(!by_hand || rebuilt, || format!("made anew and not shown: {state:?}"));
        Ok(format!("{state} {detail}"))
    }
}

/// Damages one file below a directory, however it comes. Returns what was done.
fn damage(dir: &Path, rng: &mut ChaCha8Rng) -> anyhow::Result<String> {
    let mut done = None;
    // A file may be gone between the list and the damage: the process may still run.
    wait_until("a file to damage", HANG, || {
        let files = files_below(dir);
        let Some(path) = files.choose(rng) else { return Ok(false) };
        done = hurt(path, rng)?.map(|how| format!("{} {how}", path.display()));
        Ok(done.is_some())
    })?;
    done.context("something was damaged")
}

/// `None`: the file is not there any more, or has no bytes.
fn hurt(path: &Path, rng: &mut ChaCha8Rng) -> anyhow::Result<Option<String>> {
    let Ok(file) = File::options().write(true).open(path) else { return Ok(None) };
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    // The store's files are made long and filled from their begin.
    let within = if rng.random_bool(0.5) { length.min(USED_BYTES) } else { length };
    let at = rng.random_range(0..within);
    let most = usize::try_from(length - at).unwrap_or(usize::MAX).min(DAMAGE_BYTES_MAX);
    let bytes = rng.random_range(1..=most);
    Ok(Some(match rng.random_range(0..5) {
        0 => {
            file.write_all_at(&[rng.random()], at)?;
            format!("one byte at {at} of {length}")
        }
        1 => {
            let noise: Vec<u8> = std::iter::repeat_with(|| rng.random()).take(bytes).collect();
            file.write_all_at(&noise, at)?;
            format!("{bytes} random bytes at {at} of {length}")
        }
        2 => {
            file.write_all_at(&vec![0; bytes], at)?;
            format!("{bytes} zeros at {at} of {length}")
        }
        3 => {
            file.set_len(at)?;
            format!("cut from {length} to {at}")
        }
        _ => {
            fs::remove_file(path)?;
            "removed".to_owned()
        }
    }))
}

/// What the log is made of.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "reserve" || name.starts_with("damaged-") {
            // Nothing reads them.
        } else if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn unanimous<A: AsRef<std::ffi::OsStr>>(
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<Output> {
    Ok(Command::new(binary()?).args(args).output()?)
}
