//! Data directories that a release wrote: killed, stopped, and two that hold one log.

use super::script::{Scene, connect, heuristic};
use super::{VERSION, folder};
use crate::real::Coordinator;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use unanimous_core::Gtrid;
use unanimous_proto::v1;
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_proto::v1::transaction_service_client::TransactionServiceClient;
use v1::{Ballot, Decision, Done, Wait};

/// How the coordinator that wrote the log ended, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL.
    Killed,
    /// SIGTERM.
    Stopped,
    /// SIGKILL, with the log in two directories.
    Pair,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Killed, Self::Stopped, Self::Pair];

    /// In file names.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
            Self::Pair => "pair",
        }
    }
}

/// A file of a release's log.
#[must_use]
pub fn file(release: &str, kind: Kind, extension: &str) -> PathBuf {
    folder("logs").join(release).join(format!("{}.{extension}", kind.word()))
}

/// Writes this version's.
///
/// # Errors
/// The coordinator or the disk.
pub async fn bless() -> anyhow::Result<()> {
    std::fs::create_dir_all(folder("logs").join(VERSION))?;
    for kind in Kind::ALL {
        let home = tempfile::tempdir()?;
        write_log(home.path(), kind).await?;
        let archive = file(VERSION, kind, "tar.gz");
        tar(home.path(), &["-czf".as_ref(), archive.as_os_str()], &directories(kind))?;
        let unpacked = unpack(VERSION, kind)?;
        std::fs::write(file(VERSION, kind, "jsonl"), dump(unpacked.path())?)?;
        let found = found(unpacked.path(), kind).await?;
        std::fs::write(file(VERSION, kind, "txt"), found)?;
    }
    Ok(())
}

fn directories(kind: Kind) -> Vec<&'static str> {
    if kind == Kind::Pair { vec!["log", "second"] } else { vec!["log"] }
}

fn coordinator(home: &Path, kind: Kind) -> anyhow::Result<Coordinator> {
    let mut coordinator = Coordinator::new(home, &home.join("log"))?;
    if kind == Kind::Pair {
        coordinator.args(["--second-dir".into(), home.join("second").into_os_string()]);
    }
    // Nothing is said twice, nothing is waited for, and no space is held back in what is kept.
    for (name, value) in [
        ("UNANIMOUS_RETRIES_RETRY_MIN", "10m"),
        ("UNANIMOUS_RETRIES_RETRY_MAX", "10m"),
        ("UNANIMOUS_TIMEOUTS_DRAIN", "100ms"),
        ("UNANIMOUS_LOG_RESERVE_BYTES", "0B"),
    ] {
        coordinator.env(name, value);
    }
    Ok(coordinator)
}

async fn write_log(home: &Path, kind: Kind) -> anyhow::Result<()> {
    let mut coordinator = coordinator(home, kind)?;
    coordinator.start().await?;
    let mut scene = Scene::open(connect(coordinator.sessions()).await?).await?;
    // Ended.
    scene.committed().await?;
    scene.acknowledge(0, Decision::Commit, Done::Done).await?;
    scene.acknowledge(1, Decision::Commit, Done::Done).await?;
    // Heuristic, and nothing is waited for.
    heuristic(&mut scene, Wait::Decided).await?;
    // Decided; one branch has confirmed, then none.
    scene.committed().await?;
    scene.acknowledge(0, Decision::Commit, Done::Done).await?;
    scene.decided(1, Decision::Commit).await?;
    scene.committed().await?;
    scene.decided(0, Decision::Commit).await?;
    scene.decided(1, Decision::Commit).await?;
    // Not decided: prepared, and still at work.
    let undecided = scene.begin(&[0, 1]).await?;
    scene.commit(undecided, 2, Wait::Decided).await?;
    scene.vote(0, Ballot::Commit).await?;
    scene.begin(&[0]).await?;
    if kind == Kind::Stopped { coordinator.stop() } else { coordinator.kill() }
}

/// Runs `tar` in a folder.
fn tar(dir: &Path, args: &[&std::ffi::OsStr], names: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("tar").arg("-C").arg(dir).args(args).args(names).status();
    ensure!(status.context("starting tar")?.success(), "tar has failed");
    Ok(())
}

/// A release's log, in a directory of its own.
///
/// # Errors
/// There is none.
pub fn unpack(release: &str, kind: Kind) -> anyhow::Result<tempfile::TempDir> {
    let home = tempfile::tempdir()?;
    tar(home.path(), &["-xzf".as_ref(), file(release, kind, "tar.gz").as_os_str()], &[])?;
    Ok(home)
}

/// `log dump` of an unpacked log: a JSON object a line.
///
/// # Errors
/// It cannot be read.
pub fn dump(home: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(crate::real::binary()?);
    let output = command.args(["log", "dump", "-o", "jsonl"]).arg(home.join("log")).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "log dump has failed: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What today's coordinator finds in an unpacked log: a line for each transaction that is not
/// finished, and one for the outcome of each that a record names.
///
/// # Errors
/// It does not start on it.
pub async fn found(home: &Path, kind: Kind) -> anyhow::Result<String> {
    let mut gtrids = BTreeSet::new();
    for line in dump(home)?.lines() {
        let record: Value = serde_json::from_str(line)?;
        gtrids.extend(record["gtrid"].as_str().map(ToOwned::to_owned));
    }
    // The one that was not decided left no record; its id is the one after the last.
    let last = gtrids.last().context("no record of a transaction")?.parse::<Gtrid>()?;
    let mut next = last.as_bytes().to_vec();
    next[22] += 1;
    gtrids.insert(Gtrid::from_bytes(&next)?.to_string());

    let mut coordinator = coordinator(home, kind)?;
    coordinator.args(["--moved"]);
    coordinator.start().await?;
    let mut admin = AdminServiceClient::connect(coordinator.admin_url()).await?;
    let listed = admin.list_transactions(v1::ListTransactionsRequest::default()).await?;
    let mut text = String::new();
    for t in listed.into_inner().transactions {
        let labels: Vec<String> =
            t.labels.iter().map(|l| format!("{}={}", l.key, l.value)).collect();
        let (state, outcome) = (t.state().as_str_name(), t.outcome().as_str_name());
        writeln!(text, "{} {} {} {state} {outcome}", t.gtrid, t.name, labels.join(" "))?;
        for branch in &t.branches {
            let state = branch.state().as_str_name();
            let v1::Branch { bqual, participant, resource_id, detail, .. } = branch;
            writeln!(text, "  {bqual} {participant} {resource_id} {state} {detail:?}")?;
        }
    }
    let mut transactions = TransactionServiceClient::connect(coordinator.url()).await?;
    for gtrid in gtrids {
        let ask = v1::GetOutcomeRequest { gtrid: gtrid.clone(), expected_branches: Some(2) };
        let result = transactions.get_outcome(ask).await?.into_inner().result.unwrap_or_default();
        let reason = result.rollback_reason().as_str_name();
        writeln!(text, "{gtrid} {} {reason}", result.outcome().as_str_name())?;
    }
    coordinator.kill()?;
    Ok(text)
}
