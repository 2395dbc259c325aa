//! `restart_scale`: a start on a log of a million records with 100,000 unfinished transactions, and
//! the two participants that all of them wait for coming back (catalogue S-19 and O-05). While they
//! are away an operator looks at the list.

use clap::Parser;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use unanimous_core::id::resource_manager;
use unanimous_core::record::{BranchKind, BranchRecord};
use unanimous_core::{
    Bqual, Gtrid, Lsn, Owner, ParticipantName, Record, ResourceId, TransactionName,
};
use unanimous_recovery::codec::encode_record;
use unanimous_recovery::{Flushed, LogKind, OpenOptions};
use unanimous_sdk::{BranchId, Client, Prepared};
use unanimous_tests::real::memory::{Agreeable, Counts, Loop, Member};
use unanimous_tests::real::report::{mib, ms};
use unanimous_tests::real::{Coordinator, LOOK, Report, binary};

const AWAY: [&str; 2] = ["one", "two"];
const OTHERS: [&str; 2] = ["three", "four"];
/// S-19.
const SERVING_MS_MAX: u64 = 2_000;
const RSS_BYTES_MAX: u64 = 512 << 20;
/// O-05: after a restart with all participants up.
const RESOLVED_MS_MAX: u64 = 10_000;
/// What an operator's list may take, the process included.
const LIST_MS_MAX: u64 = 1_000;
const HANG: Duration = Duration::from_secs(120);
/// The others' work: light, so that its latency is what is seen.
const CLIENTS: usize = 16;
const THINK: Duration = Duration::from_millis(10);
const BASELINE: Duration = Duration::from_secs(3);
/// Of eleven transactions two are unfinished, one record each; the others have two records.
const OF_TRANSACTIONS: u64 = 11;
const UNFINISHED: u64 = 2;

#[derive(Parser)]
struct Arguments {
    /// Records in the log; a tenth are unfinished transactions.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// 100,000 records.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("log");
    let records = if arguments.quick { 100_000 } else { arguments.records };
    let unfinished = write_log(&dir, records)?;
    let count = unfinished.len() as u64;
    report.say(format!("a log of {records} records, {count} transactions unfinished"));

    let mut coordinator = Coordinator::new(home.path(), &dir)?;
    let serving_ms = ms(coordinator.start().await?);
    let memory = coordinator.memory()?;
    report.say(format!("serving after {serving_ms} ms, {}", mib(memory.rss_bytes_peak)));

    list(&coordinator, report)?;
    let counts = Arc::new(Counts::default());
    let others = Member::start_all(&coordinator.url(), &OTHERS).await?;
    let load = Loop { clients: CLIENTS, transactions: u64::MAX, pause: THINK };
    let session = Client::connect(coordinator.url(), "others").await?;
    let load = tokio::spawn(load.run(vec![session], others.clone(), Arc::clone(&counts)));
    tokio::time::sleep(BASELINE).await;
    let before = counts.take_window();

    let back = Instant::now();
    let mut members = Vec::new();
    for name in AWAY {
        let prepared: anyhow::Result<_> =
            unfinished.iter().map(|gtrid| prepared(*gtrid, name)).collect();
        let resource = Agreeable::holding(prepared?);
        members.push(Member::start(&coordinator.url(), name, resource).await?);
    }
    while coordinator.status().await?.recovered_finished_total < count {
        anyhow::ensure!(back.elapsed() < HANG, "they are not resolved");
        tokio::time::sleep(LOOK).await;
    }
    let resolved_ms = ms(back.elapsed());
    let during = counts.take_window();
    counts.stop();
    load.await??;
    coordinator.settled(HANG).await?;
    // Until here they had branches to acknowledge.
    drop((members, others));
    let memory = coordinator.memory()?;
    report.row(&["others", "transactions", "p50 ms", "p99 ms", "max ms"].map(str::to_owned));
    for (name, window) in [("before", &before), ("meanwhile", &during)] {
        let quantiles = [0.5, 0.99, 1.0].map(|share| format!("{:.2}", window.quantile_ms(share)));
        let [p50, p99, max] = quantiles;
        report.row(&[name.to_owned(), window.len().to_string(), p50, p99, max]);
    }
    report.say(format!("all resolved after {resolved_ms} ms, {}", mib(memory.rss_bytes_peak)));
    report.must(serving_ms <= SERVING_MS_MAX, || format!("serving only after {serving_ms} ms"));
    let peak = memory.rss_bytes_peak;
    report.must(peak <= RSS_BYTES_MAX, || format!("{} of memory", mib(peak)));
    report.must(resolved_ms <= RESOLVED_MS_MAX, || format!("resolved after {resolved_ms} ms"));
    report.field("records", records);
    report.field("unfinished", count);
    report.field("serving_ms", serving_ms);
    report.field("rss_bytes_peak", peak);
    report.field("resolved_ms", resolved_ms);
    report.field("others_p99_ms_before", before.quantile_ms(0.99));
    report.field("others_p99_ms_meanwhile", during.quantile_ms(0.99));
    report.field("others_meanwhile", during.len());
    coordinator.stop()
}

/// Times the lists of an operator, with everything in doubt.
fn list(coordinator: &Coordinator, report: &mut Report) -> anyhow::Result<()> {
    let lists: [(&str, &[&str]); 4] = [
        ("list_ms", &[]),
        ("list_filtered_ms", &["--filter", "age>1h or participant=\"two\" and name~\"lie\""]),
        ("list_longest_locked_ms", &["--order", "locked"]),
        ("list_divergent_ms", &["--divergent"]),
    ];
    for (name, arguments) in lists {
        let begun_at = Instant::now();
        let listed = Command::new(binary()?)
            .args(["tx", "list", "--admin-address", &coordinator.admin_url()])
            .args(arguments)
            .output()?;
        let took_ms = ms(begun_at.elapsed());
        let said = String::from_utf8_lossy(&listed.stderr).into_owned();
        anyhow::ensure!(listed.status.success(), "tx list {arguments:?}: {said}");
        report.say(format!("tx list {} after {took_ms} ms", arguments.join(" ")));
        report.must(took_ms <= LIST_MS_MAX, || format!("tx list {arguments:?}: {took_ms} ms"));
        report.field(name, took_ms);
    }
    Ok(())
}

/// Makes the log of an earlier life. Returns its unfinished transactions.
fn write_log(dir: &Path, records: u64) -> anyhow::Result<Vec<Gtrid>> {
    let options = OpenOptions { init: true, ..OpenOptions::new(LogKind::Coordinator) };
    let opened = options.open(dir)?;
    let owner = Owner { log: opened.id(), epoch: 1 };
    let (told, flushed) = channel();
    let failed = |error| panic!("the log cannot be made: {error}");
    let on_flushed = move |flushed: Flushed| {
        let _ = told.send(flushed.upto);
    };
    let writer = opened.start(on_flushed, failed)?;
    let mut lsn = 0;
    let mut append = |record: &Record| {
        lsn += 1;
        writer.append(Lsn(lsn), encode_record(record), false).map(|()| lsn)
    };
    append(&Record::Boot { epoch: owner.epoch })?;
    let mut unfinished = Vec::new();
    let (mut last, mut sequence) = (1, 0);
    while last < records {
        let gtrid = Gtrid::new(owner, sequence, 0);
        let branches = AWAY.iter().map(|name| branch(gtrid, name)).collect::<Result<_, _>>()?;
        let name = TransactionName::new("earlier")?;
        last = append(&Record::Commit { gtrid, name, branches })?;
        if sequence % OF_TRANSACTIONS < UNFINISHED {
            unfinished.push(gtrid);
        } else {
            last = append(&Record::End { gtrid })?;
        }
        sequence += 1;
    }
    while flushed.recv()? < Lsn(last) {}
    writer.close()?;
    Ok(unfinished)
}

fn branch(gtrid: Gtrid, name: &str) -> anyhow::Result<BranchRecord> {
    Ok(BranchRecord {
        bqual: bqual(gtrid, name)?,
        participant: ParticipantName::new(name)?,
        resource: ResourceId::new(name)?,
        kind: BranchKind::TwoPhase,
        inquires: true,
        evidence: None,
        result: None,
        detail: String::new(),
    })
}

fn bqual(gtrid: Gtrid, name: &str) -> anyhow::Result<Bqual> {
    let manager = resource_manager(&ParticipantName::new(name)?, &ResourceId::new(name)?);
    Ok(Bqual::new(manager, 1, gtrid.owner()))
}

fn prepared(gtrid: Gtrid, name: &str) -> anyhow::Result<Prepared> {
    let branch = BranchId { gtrid, bqual: bqual(gtrid, name)? };
    Ok(Prepared { branch, evidence: None })
}
