//! Proof from the system calls: each transaction that a client was told is committed, and each
//! commit that a participant was told, stands in a write to the log that a completed fdatasync
//! followed before the telling began.
//!
//! `sync_proof --binary target/release/unanimous` runs that coordinator under strace with load and
//! checks the trace. The last line on stdout is one JSON object; exit 0 means at least `--answers`
//! checked and no violation.

mod load;
mod trace;
mod wire;

use anyhow::{Context as _, ensure};
use clap::Parser;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use trace::{Call, Line, Reader};
use wire::{Connection, Peer};

/// The system calls that write, sync, and say which descriptor is what.
const TRACED: &str =
    "openat,pwrite64,pwritev,write,writev,sendto,sendmsg,fdatasync,fsync,accept4,close";
/// Between two looks for the port file.
const POLL: Duration = Duration::from_millis(20);

#[derive(Parser)]
struct Arguments {
    /// The binary to trace.
    #[arg(long)]
    binary: PathBuf,
    /// How many committed answers to check at the least.
    #[arg(long, default_value_t = 1000)]
    answers: u64,
    /// Environment of the coordinator, NAME=VALUE: for proving that the check can fail.
    #[arg(long)]
    env: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let trace = dir.path().join("trace");
    let mut coordinator = start(&arguments, dir.path(), &trace)?;
    let address = wait_for_address(&mut coordinator, &dir.path().join("ports"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let committed = runtime.block_on(load::run(&address, arguments.answers));
    drop(coordinator.stdin.take());
    coordinator.wait()?;
    let committed = committed?;
    let proof = check(&trace)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{{\"committed\":{committed},\"answers\":{},\"orders\":{},\"syncs\":{},\"violations\":{}}}",
        proof.answers,
        proof.orders,
        proof.syncs,
        proof.violations.len()
    )?;
    if let Some(first) = proof.violations.first() {
        anyhow::bail!("first violation: {first}");
    }
    ensure!(
        proof.answers >= arguments.answers,
        "only {} answers were checked, {} are asked for",
        proof.answers,
        arguments.answers
    );
    Ok(())
}

fn start(arguments: &Arguments, dir: &Path, trace: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-xx", "-s", "4000000", "-e", "signal=none", "-e"])
        .arg(format!("trace={TRACED}"))
        .arg("-o")
        .arg(trace)
        .arg(&arguments.binary)
        .args(["serve", "--init", "--cluster", "1", "--slot", "1"])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(dir.join("log"))
        .arg("--port-file")
        .arg(dir.join("ports"))
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped());
    for pair in &arguments.env {
        let (name, value) = pair.split_once('=').context("--env takes NAME=VALUE")?;
        command.env(name, value);
    }
    command.spawn().context("starting strace (apt-get install strace)")
}

/// The address of the sessions, once the coordinator has written where it listens.
fn wait_for_address(coordinator: &mut Child, ports: &Path) -> anyhow::Result<String> {
    loop {
        if let Some(status) = coordinator.try_wait()? {
            anyhow::bail!("the coordinator ended before it served: {status}");
        }
        match std::fs::read(ports) {
            Ok(text) => {
                let ports: serde_json::Value = serde_json::from_slice(&text)?;
                let sessions = ports["sessions"].as_str();
                return Ok(sessions
                    .context("the port file names the sessions' address")?
                    .to_owned());
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[derive(Default)]
struct Proof {
    answers: u64,
    orders: u64,
    syncs: u64,
    violations: Vec<String>,
}

/// Where each gtrid is on its way to the disk.
#[derive(Default)]
struct Checker {
    proof: Proof,
    log_files: BTreeSet<i32>,
    written: BTreeSet<Vec<u8>>,
    synced: BTreeSet<Vec<u8>>,
    /// What each fdatasync under way covers: written before it began.
    syncing: BTreeMap<u32, Vec<Vec<u8>>>,
    connections: BTreeMap<i32, (Peer, Connection)>,
    accepted: u64,
}

fn check(trace: &Path) -> anyhow::Result<Proof> {
    let mut checker = Checker::default();
    let mut reader = Reader::default();
    for line in BufReader::new(File::open(trace)?).lines() {
        for event in reader.read(&line?) {
            match event {
                Line::Entered { thread, call } => checker.entered(thread, &call),
                Line::Returned { thread, call, result } => checker.returned(thread, &call, result),
            }
        }
    }
    Ok(checker.proof)
}

impl Checker {
    fn entered(&mut self, thread: u32, call: &Call) {
        let Some(descriptor) = call.descriptor() else { return };
        match call.name.as_str() {
            "fdatasync" | "fsync" if self.log_files.contains(&descriptor) => {
                self.syncing.insert(thread, self.written.iter().cloned().collect());
            }
            "write" | "writev" | "sendto" | "sendmsg" => {
                let Some((peer, connection)) = self.connections.get_mut(&descriptor) else {
                    return;
                };
                for told in connection.write(*peer, &call.bytes()) {
                    let count = if told.to_client {
                        &mut self.proof.answers
                    } else {
                        &mut self.proof.orders
                    };
                    *count += 1;
                    if !self.synced.contains(&told.gtrid) {
                        let written = self.written.contains(&told.gtrid);
                        self.proof.violations.push(format!(
                            "{:02x?} told (client: {}) before it was durable (written: {written})",
                            told.gtrid, told.to_client
                        ));
                    }
                }
            }
            _ => {}
        }
    }

    fn returned(&mut self, thread: u32, call: &Call, result: i64) {
        match call.name.as_str() {
            "openat" if result >= 0 => {
                let path = call.bytes();
                let descriptor = i32::try_from(result).unwrap_or(-1);
                if path.ends_with(b"/db") {
                    self.log_files.insert(descriptor);
                } else {
                    self.log_files.remove(&descriptor);
                }
            }
            // The load connects its client first, its participants after that.
            "accept4" if result >= 0 => {
                let peer = if self.accepted == 0 { Peer::Client } else { Peer::Participant };
                self.accepted += 1;
                let descriptor = i32::try_from(result).unwrap_or(-1);
                self.connections.insert(descriptor, (peer, Connection::default()));
            }
            "close" => {
                if let Some(descriptor) = call.descriptor() {
                    self.connections.remove(&descriptor);
                    self.log_files.remove(&descriptor);
                }
            }
            "pwrite64" | "pwritev" | "write"
                if call.descriptor().is_some_and(|fd| self.log_files.contains(&fd)) =>
            {
                self.written.extend(gtrids(&call.bytes()));
            }
            "fdatasync" | "fsync" => {
                if let Some(covered) = self.syncing.remove(&thread)
                    && result == 0
                {
                    self.proof.syncs += 1;
                    for gtrid in covered {
                        self.written.remove(&gtrid);
                        self.synced.insert(gtrid);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Everything in a log write that may be a gtrid: 24 bytes that begin with the version, and the
/// cluster and slot. A false one does no harm: only gtrids that are told are looked up.
fn gtrids(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const PREFIX: [u8; 7] = [1, 0, 0, 0, 1, 0, 1];
    bytes.windows(24).filter(|window| window.starts_with(&PREFIX)).map(<[u8]>::to_vec)
}
