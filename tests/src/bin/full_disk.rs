//! `full_disk`: the coordinator's log on a file system of 64 MiB that fills up under load, twice;
//! the second time the coordinator is killed and started again while it is full.
//!
//! While it is full begins are refused with a reason and a hint, what has begun ends, and `serve`
//! goes on; when there is space again, so does everything. In the end no cent is missing.

use anyhow::Context as _;
use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic_types::StatusExt as _;
use unanimous_proto::v1;
use unanimous_proto::v1::transaction_service_client::TransactionServiceClient;
use unanimous_tests::real::report::{mib, ms};
use unanimous_tests::real::space::{FileSystem, Filler, Mount, own_mounts};
use unanimous_tests::real::{Banks, Coordinator, LOOK, Report, Transfers};

const DISK_BYTES: u64 = 64 << 20;
const CLIENTS: usize = 16;
/// A begin that is refused is given up after this time.
const BEGIN_WITHIN: Duration = Duration::from_millis(500);
/// What takes longer does not happen.
const HANG: Duration = Duration::from_secs(60);
/// A start that does not serve by then waits for room.
const START_MAX: Duration = Duration::from_secs(10);
/// Work before and between the full times.
const COMMITS: u64 = 200;

#[derive(Parser)]
struct Arguments {
    /// On which kind of file system.
    #[arg(long, value_enum, default_value_t = FileSystem::Tmpfs)]
    fs: FileSystem,
    /// Full for 3 s instead of 20 s each time.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = own_mounts().and_then(|()| run(&arguments, &mut report));
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let mount = Mount::new(arguments.fs, DISK_BYTES, &home.path().join("disk"))?;
    let full_for = Duration::from_secs(if arguments.quick { 3 } else { 20 });
    let mut coordinator = Coordinator::new(home.path(), &mount.dir().join("log"))?;
    coordinator.start().await?;
    let banks = Banks::start(home.path(), &coordinator.url())?;
    let transfers = Transfers::new(&coordinator.url(), &banks, BEGIN_WITHIN)?;
    let clients = transfers.run(CLIENTS);
    let mut world = World { coordinator, banks, transfers, mount };

    world.works("before", report).await?;
    let mut filler = world.fill("full", report).await?;
    filler.finish();
    world.is_full("full", full_for, report).await?;
    drop(filler);
    world.works("space again", report).await?;

    let mut filler = world.fill("full again", report).await?;
    world.coordinator.kill()?;
    filler.finish();
    report.say(format!("killed; {} free", mib(world.mount.free_bytes()?)));
    world.start_while_full(report).await?;
    drop(filler);
    world.works("after", report).await?;

    let World { mut coordinator, banks, transfers, .. } = world;
    transfers.counts.stop();
    clients.join_all().await;
    transfers.resolve(report).await;
    coordinator.settled(HANG).await?;
    let status = coordinator.status().await?;
    report.must(status.transactions == 0, || format!("{} unfinished", status.transactions));
    banks.settled(HANG).await?;
    banks.verify(&transfers, report)?;
    coordinator.stop()
}

struct World {
    coordinator: Coordinator,
    banks: Banks,
    transfers: std::sync::Arc<Transfers>,
    mount: Mount,
}

impl World {
    /// Transfers commit.
    async fn works(&mut self, phase: &str, report: &mut Report) -> anyhow::Result<()> {
        if self.coordinator.process()?.ended()?.is_some() {
            self.coordinator.start().await?;
        }
        let committed = || self.transfers.counts.committed.load(Ordering::Relaxed);
        let (before, started) = (committed(), Instant::now());
        while committed() < before + COMMITS && started.elapsed() < HANG {
            self.coordinator.process()?.check_runs()?;
            tokio::time::sleep(LOOK).await;
        }
        let (now, took) = (committed() - before, ms(started.elapsed()));
        report.must(now >= COMMITS, || format!("{phase}: only {now} transfers committed"));
        report.say(format!("{phase}: {now} committed in {took} ms"));
        report.field(&format!("{}_ms", phase.replace(' ', "_")), took);
        Ok(())
    }

    /// Fills the disk, until a begin is refused.
    async fn fill(&mut self, phase: &str, report: &mut Report) -> anyhow::Result<Filler> {
        let filler = Filler::start(&self.mount)?;
        let started = Instant::now();
        loop {
            self.coordinator.process()?.check_runs()?;
            if let Some(refusal) = self.refusal().await? {
                report.must(refusal.hint, || format!("{phase}: no retry hint: {refusal:?}"));
                report.must(refusal.reason == "LOG_FULL", || format!("{phase}: {refusal:?}"));
                let free = mib(self.mount.free_bytes()?);
                report.say(format!("{phase}: refused with {}; {free} free", refusal.reason));
                return Ok(filler);
            }
            anyhow::ensure!(started.elapsed() < HANG, "{phase}: begins are still taken");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nothing begins, what has begun ends, and nobody exits.
    async fn is_full(
        &mut self,
        phase: &str,
        full_for: Duration,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let settled = self.coordinator.settled(HANG).await;
        report.must(settled.is_ok(), || format!("{phase}: what was decided does not finish"));
        let counts = &self.transfers.counts;
        let (committed, refused) = (&counts.committed, &counts.not_begun);
        let before = (committed.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        let started = Instant::now();
        while started.elapsed() < full_for {
            self.coordinator.process()?.check_runs()?;
            self.banks.check_run()?;
            tokio::time::sleep(LOOK).await;
        }
        let committed = committed.load(Ordering::Relaxed) - before.0;
        let refused = refused.load(Ordering::Relaxed) - before.1;
        // Each client may still have been waiting for one answer.
        report.must(committed <= CLIENTS as u64, || {
            format!("{phase}: {committed} committed although begins are refused")
        });
        report.must(refused > 0, || format!("{phase}: no client was refused"));
        let status = self.coordinator.status().await?;
        report.say(format!(
            "{phase}: {refused} refused, {} unfinished, for {} s; clients hear: {}",
            status.transactions,
            full_for.as_secs(),
            self.transfers.last_refusal()
        ));
        report.field("refused_while_full", refused);
        Ok(())
    }

    /// A start makes a copy of the log and begins with a record. With room for both it serves, and
    /// refuses begins; without it ends with an error that says so, or waits for room and says that.
    async fn start_while_full(&mut self, report: &mut Report) -> anyhow::Result<()> {
        let started = self.coordinator.start_at_once()?;
        let outcome = loop {
            if self.coordinator.process()?.ended()?.is_some() {
                let words = self.coordinator.process()?.last_words();
                report.must(words.contains("make room"), || format!("it said: {words}"));
                break "refused";
            }
            if self.coordinator.serves().await {
                let refusal = self.refusal().await?;
                report.must(refusal.is_some(), || "begins are taken after the start".to_owned());
                let settled = self.coordinator.settled(HANG).await;
                report.must(settled.is_ok(), || "nothing finishes after the start".to_owned());
                break "serves";
            }
            if started.elapsed() > START_MAX {
                let status = self.coordinator.status().await?;
                report.must(status.log_space_low, || format!("not said: {}", status.summary));
                break "waits";
            }
            tokio::time::sleep(LOOK).await;
        };
        report.say(format!("started while full: {outcome} after {} ms", ms(started.elapsed())));
        report.field("start_while_full", outcome);
        Ok(())
    }

    /// How a begin is refused; `None`: it is not.
    async fn refusal(&self) -> anyhow::Result<Option<Refusal>> {
        let mut unary = TransactionServiceClient::connect(self.coordinator.url()).await?;
        let request = v1::BeginRequest { name: "probe".to_owned(), ..Default::default() };
        let status = match unary.begin(request).await {
            Ok(begun) => {
                let gtrid = begun.into_inner().gtrid;
                let rollback = v1::RollbackRequest { gtrid, ..Default::default() };
                unary.rollback(rollback).await.context("rolling the probe back")?;
                return Ok(None);
            }
            Err(status) => status,
        };
        anyhow::ensure!(status.code() == Code::ResourceExhausted, "a begin failed: {status}");
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
        let hint = details.retry_info().is_some_and(|info| info.retry_delay.is_some());
        Ok(Some(Refusal { reason, hint }))
    }
}

#[derive(Debug)]
struct Refusal {
    reason: String,
    hint: bool,
}
