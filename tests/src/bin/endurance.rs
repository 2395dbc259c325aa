//! `endurance`: many transactions through one log. Disk and memory must stay flat, whatever the
//! history is.
//!
//! Two participants without a disk and 1,024 clients work in this process; `serve` is killed in the
//! middle and stopped at the end, and both starts are timed.

use anyhow::ensure;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use unanimous_sdk::Client;
use unanimous_tests::real::latency::median;
use unanimous_tests::real::memory::{Counts, Loop, Member};
use unanimous_tests::real::report::{mib, ms};
use unanimous_tests::real::space::{Sampler, bytes_in};
use unanimous_tests::real::{Coordinator, LOOK, Report};

/// What the log may occupy at any time, whatever has gone through it.
const DISK_BYTES_MAX: u64 = 64 << 20;
/// Memory at the end against memory at a fifth of the run, each the median of `RSS_ROWS` rows: one
/// look falls anywhere between two compactions, and those alone differ by more than this.
const RSS_GROWTH_MAX: f64 = 1.25;
const RSS_ROWS: usize = 5;
const QUICK_TRANSACTIONS: u64 = 300_000;
/// Remembered outcomes are most of the memory; a short run has to fill their table early too.
const QUICK_OUTCOMES_MAX: &str = "20000";
const CLIENTS: usize = 1_024;
const SESSIONS: usize = 4;
/// Without progress for so long it hangs.
const HANG: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Arguments {
    /// How many.
    #[arg(long, default_value_t = 10_000_000)]
    transactions: u64,
    /// A short run: 300,000.
    #[arg(long)]
    quick: bool,
    /// Where the log is made; removed at the end.
    #[arg(long)]
    home: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let home = match &arguments.home {
        Some(home) => tempfile::tempdir_in(home)?,
        None => tempfile::tempdir()?,
    };
    let transactions = if arguments.quick { QUICK_TRANSACTIONS } else { arguments.transactions };
    let dir = home.path().join("log");
    let mut coordinator = Coordinator::new(home.path(), &dir)?;
    if arguments.quick {
        coordinator.env("UNANIMOUS_LIMITS_OUTCOMES_MAX", QUICK_OUTCOMES_MAX);
    }
    coordinator.start().await?;
    let sampler = Sampler::start(&dir);
    let counts = Arc::new(Counts::default());
    let members = Member::start_all(&coordinator.url(), &["one", "two"]).await?;
    let pause = Duration::ZERO;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(Client::connect(coordinator.url(), "endurance").await?);
    }
    let load = Loop { clients: CLIENTS, transactions, pause };
    let load = tokio::spawn(load.run(sessions, members.clone(), Arc::clone(&counts)));

    let started = Instant::now();
    let seen = watch(&mut coordinator, &counts, &sampler, transactions, report).await?;
    load.await??;
    let seconds = started.elapsed().as_secs_f64();
    coordinator.settled(HANG).await?;
    // Until here they had branches to acknowledge.
    drop(members);
    let peak = sampler.take_peak_bytes().max(seen.disk_bytes_peak);
    report.must(peak <= DISK_BYTES_MAX, || format!("{} on disk", mib(peak)));
    let reserve_bytes = std::fs::metadata(dir.join("reserve")).map_or(0, |found| found.len());
    let restart_ms = restart(&mut coordinator, report).await?;
    let start_peak = sampler.take_peak_bytes().max(seen.start_bytes_peak);
    report.say(format!("disk at most {}, in a start {}", mib(peak), mib(start_peak)));
    let (first, last) = seen.rss_bytes_around();
    let growth = last / first;
    report.must(growth <= RSS_GROWTH_MAX, || format!("memory grew to {growth:.2} times"));
    report.field("transactions", counts.ended());
    report.field("seconds", (seconds * 10.0).round() / 10.0);
    report.field("disk_bytes_peak", peak);
    report.field("disk_bytes_peak_in_a_start", start_peak);
    report.field("reserve_bytes", reserve_bytes);
    report.field("rss_bytes_first", first);
    report.field("rss_bytes_last", last);
    report.field("restart_ms", restart_ms);
    report.field("restart_after_kill_ms", seen.restart_after_kill_ms);
    Ok(())
}

#[derive(Default)]
struct Seen {
    /// In each row.
    rss_bytes: Vec<f64>,
    restart_after_kill_ms: u64,
    /// While it served.
    disk_bytes_peak: u64,
    /// While it started: a start verifies a copy of the log.
    start_bytes_peak: u64,
}

impl Seen {
    /// Around a fifth of the run, and at its end.
    fn rss_bytes_around(&self) -> (f64, f64) {
        let first = self.rss_bytes.iter().skip(1).take(RSS_ROWS);
        let last = self.rss_bytes.iter().rev().take(RSS_ROWS);
        let median_of = |rows: Vec<f64>| median(&rows);
        (median_of(first.copied().collect()), median_of(last.copied().collect()))
    }
}

/// A row each twentieth of the run, and the kill in its middle.
async fn watch(
    coordinator: &mut Coordinator,
    counts: &Counts,
    sampler: &Sampler,
    transactions: u64,
    report: &Report,
) -> anyhow::Result<Seen> {
    let names = [
        "transactions",
        "tx/s",
        "disk",
        "disk peak",
        "serve RSS",
        "log kept",
        "frames",
        "rolled b.",
    ];
    report.row(&names.map(str::to_owned));
    let mut seen = Seen::default();
    let (mut last, mut last_at) = (0, Instant::now());
    for row in 1..=20 {
        let until = transactions / 20 * row;
        let (mut before, mut moved_at) = (counts.ended(), Instant::now());
        while counts.ended() < until {
            tokio::time::sleep(LOOK).await;
            coordinator.process()?.check_runs()?;
            if counts.ended() > before {
                (before, moved_at) = (counts.ended(), Instant::now());
            }
            ensure!(moved_at.elapsed() < HANG, "no transaction ends any more");
        }
        let now = counts.ended();
        let per_second = (now - last) as f64 / last_at.elapsed().as_secs_f64();
        (last, last_at) = (now, Instant::now());
        seen.disk_bytes_peak = seen.disk_bytes_peak.max(sampler.take_peak_bytes());
        let rss_bytes = coordinator.memory()?.rss_bytes;
        let status = coordinator.status().await?;
        report.row(&[
            now.to_string(),
            format!("{per_second:.0}"),
            mib(bytes_in(std::path::Path::new(&status.data_dir))),
            mib(seen.disk_bytes_peak),
            mib(rss_bytes),
            mib(status.log_retained_bytes),
            status.durable_frame.to_string(),
            counts.rolled_back.load(std::sync::atomic::Ordering::Relaxed).to_string(),
        ]);
        seen.rss_bytes.push(rss_bytes as f64);
        if row == 10 {
            coordinator.kill()?;
            seen.restart_after_kill_ms = ms(coordinator.start().await?);
            seen.start_bytes_peak = sampler.take_peak_bytes();
            report.say(format!("kill -9, serving after {} ms", seen.restart_after_kill_ms));
        }
    }
    Ok(seen)
}

/// A clean stop, and how long the next start takes.
async fn restart(coordinator: &mut Coordinator, report: &Report) -> anyhow::Result<u64> {
    coordinator.stop()?;
    let restart_ms = ms(coordinator.start().await?);
    report.say(format!("clean stop, serving after {restart_ms} ms"));
    coordinator.stop()?;
    Ok(restart_ms)
}
