//! kill -9 of the coordinator and of a bank at every named point of one transaction's life, of a
//! start and of a stop (catalogue 3.2 and 3.3). Built with the feature `crash-points` in a target
//! folder of its own.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use rustix::process::{Pid, Signal, kill_process};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use unanimous_core::Record;
use unanimous_core::coordinator::Recovered;
use unanimous_sdk::{Client, CommitError, Gtrid};

mod bank {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    tonic::include_proto!("unanimous.dev.v1");
}
use bank::bank_service_client::BankServiceClient;
use bank::{DescribeRequest, MoveRequest};

/// Nothing here takes so long; what does, hangs.
const HANG: Duration = Duration::from_secs(120);
/// Transfers until the victim is asked to stop, so that the points of a stop are passed as well.
const TRANSFERS: u32 = 12;
const ACCOUNTS: u32 = 1_000;
const OPENING_CENTS: i64 = 100_000;

/// The binary beside this test, built with the same features.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().unwrap().parent().unwrap().join("unanimous");
    assert!(binary.exists(), "{} is built together with this test", binary.display());
    binary
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Coordinator,
    BankA,
    BankB,
}

const ROLES: [Role; 3] = [Role::Coordinator, Role::BankA, Role::BankB];

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::BankA => "bank-a",
            Self::BankB => "bank-b",
        }
    }
}

/// Three processes on fixed ports, each with a folder.
struct World {
    dir: tempfile::TempDir,
    ports: BTreeMap<&'static str, u16>,
}

impl World {
    fn new() -> Self {
        // Held together, so that all are different.
        let names = ["coordinator", "admin", "bank-a", "bank-b"];
        let held = names.map(|name| (name, TcpListener::bind("127.0.0.1:0").unwrap()));
        let ports = held.iter().map(|(name, held)| (*name, held.local_addr().unwrap().port()));
        Self { dir: tempfile::tempdir().unwrap(), ports: ports.collect() }
    }

    fn address(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports[name])
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}", self.address(name))
    }

    fn folder(&self, role: Role) -> PathBuf {
        self.dir.path().join(role.name())
    }

    fn start(&self, role: Role, crash_point: Option<&str>) -> Process {
        let mut command = Command::new(binary());
        match role {
            Role::Coordinator => {
                command.args(["serve", "--init", "--listen", &self.address("coordinator")]);
                command.args(["--admin-listen", &self.address("admin")]);
            }
            Role::BankA | Role::BankB => {
                let name = role.name();
                command.args(["dev", "bank", "--name", name, "--listen", &self.address(name)]);
                command.args(["--address", &self.url("coordinator")]);
            }
        }
        command.arg("--data-dir").arg(self.folder(role)).arg("--exit-with-stdin");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(point) = crash_point {
            command.env("UNANIMOUS_CRASH_POINT", point);
        }
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let stdin = child.stdin.take();
        Process { child, _stdin: stdin }
    }

    /// All three have stopped: nothing is in doubt, no cent is missing, and what was told is what
    /// the log says.
    fn verify(&self, told: &BTreeMap<Gtrid, bool>) {
        let mut sum = 0;
        for role in [Role::BankA, Role::BankB] {
            let summary = unanimous_sdk::embedded::inspect(&self.folder(role)).unwrap();
            assert_eq!(summary.in_doubt, [], "{role:?}");
            sum += summary.sum_actual;
        }
        assert_eq!(sum, 2 * i64::from(ACCOUNTS) * OPENING_CENTS);
        let committed = committed(&self.folder(Role::Coordinator));
        for (gtrid, told_committed) in told {
            assert_eq!(committed.contains(gtrid), *told_committed, "{gtrid}");
        }
        assert!(told.values().any(|committed| *committed), "nothing was committed");
    }
}

/// The transactions with a commit record in a stopped coordinator's log; none of them is
/// unfinished.
fn committed(dir: &Path) -> BTreeSet<Gtrid> {
    let mut committed = BTreeSet::new();
    let mut recovered = Recovered::default();
    for stored in unanimous_recovery::read_records(dir).unwrap() {
        let record = unanimous_recovery::codec::decode_record(&stored.bytes).unwrap();
        if let Record::Commit { gtrid, .. } = &record {
            committed.insert(*gtrid);
        }
        recovered.fold(stored.lsn, record);
    }
    assert_eq!(recovered.transactions().count(), 0, "unfinished or heuristic");
    committed
}

/// One client with one transfer at a time.
struct Load {
    client: Client,
    banks: [BankServiceClient<Channel>; 2],
    number: Cell<u32>,
    told: RefCell<BTreeMap<Gtrid, bool>>,
}

impl Load {
    fn new(world: &World) -> Self {
        let bank = |name| {
            let endpoint = Endpoint::from_shared(world.url(name)).unwrap();
            let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
            BankServiceClient::new(endpoint.connect_lazy())
        };
        let client = Client::builder(world.url("coordinator"), "kills")
            .begin_within(HANG)
            .resolve_within(HANG)
            .connect()
            .unwrap();
        let banks = [bank("bank-a"), bank("bank-b")];
        Self { client, banks, number: Cell::new(0), told: RefCell::default() }
    }

    /// As far as it gets. A commit that has begun waits until the coordinator is back and tells.
    async fn transfer(&self, cents: i64) -> Result<(), String> {
        let number = self.number.get();
        self.number.set(number + 1);
        let begin = self.client.begin("kill").timeout(Duration::from_secs(3));
        let transaction = begin.await.map_err(|error| error.to_string())?;
        for (bank, cents) in self.banks.iter().zip([-cents, cents]) {
            let mut bank = bank.clone();
            let message = MoveRequest { account: number % ACCOUNTS + 1, cents };
            let send = |request| async move { bank.r#move(request).await };
            transaction.call(message, send).await.map_err(|status| status.to_string())?;
        }
        let gtrid = transaction.gtrid();
        let (committed, result) = match transaction.commit().await {
            Ok(_) => (true, Ok(())),
            Err(CommitError::RolledBack { rollback, .. }) => {
                (false, Err(format!("rolled back: {rollback:?}")))
            }
            Err(error) => panic!("{gtrid} has no outcome: {error}"),
        };
        self.told.borrow_mut().insert(gtrid, committed);
        result
    }

    /// Every third transfer takes more than there is: a rollback passes the points as well.
    async fn run(&self) {
        for number in 1..=TRANSFERS {
            let cents = if number % 3 == 0 { OPENING_CENTS * 10 } else { 7 };
            // Many fail while the victim is down.
            let _ = self.transfer(cents).await;
        }
    }

    /// New work goes through, and nothing is in doubt.
    async fn heal(&self) {
        while self.transfer(5).await.is_err() {}
        for bank in &self.banks {
            let described = async || bank.clone().describe(DescribeRequest {}).await;
            while described().await.map_or(1, |reply| reply.get_ref().in_doubt) > 0 {}
        }
    }
}

/// A process, and its stdin, which it lives by: waiting for a child closes what it still holds.
struct Process {
    child: Child,
    _stdin: Option<ChildStdin>,
}

async fn terminate(process: &mut Process) -> ExitStatus {
    if let Some(pid) = process.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // Gone meanwhile: then its status tells.
        let _ = kill_process(pid, Signal::TERM);
    }
    process.child.wait().await.unwrap()
}

/// One victim, one point: killed there, started again, and everything is as if nothing had been.
async fn kill_at(victim: Role, point: &str) {
    let world = World::new();
    if point.starts_with("open.") {
        // Passed when there is a log to open.
        let mut first = world.start(victim, None);
        while !world.folder(victim).join("identity").exists() {
            tokio::task::yield_now().await;
        }
        terminate(&mut first).await;
    }
    let mut processes = Vec::new();
    for role in ROLES {
        processes.push(world.start(role, (role == victim).then_some(point)));
    }
    let at = ROLES.iter().position(|role| *role == victim).unwrap();
    let load = Load::new(&world);
    let mut running = Box::pin(load.run());
    let (status, all_ran) = tokio::select! {
        status = processes[at].child.wait() => (status.unwrap(), false),
        () = &mut running => (terminate(&mut processes[at]).await, true),
    };
    assert_eq!(status.signal(), Some(9), "{victim:?} is not killed at {point}: {status}");
    processes[at] = world.start(victim, None);
    if !all_ran {
        running.await;
    }
    load.heal().await;
    for process in processes.iter_mut().rev() {
        let status = terminate(process).await;
        assert!(status.success(), "after {victim:?} at {point}: {status}");
    }
    world.verify(&load.told.borrow());
}

fn sweep(victim: Role, points: &[&[&'static str]]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let points: Vec<&str> = points.concat();
    for point in &points {
        println!("{victim:?} {point}");
        let ended = runtime.block_on(async { timeout(HANG, kill_at(victim, point)).await });
        assert!(ended.is_ok(), "{victim:?} at {point}: hangs");
    }
    println!("{victim:?}: {} points", points.len());
}

/// Catalogue 3.2, C-00 to C-19: kill -9 of the coordinator.
#[test]
fn coordinator_killed_at_every_point() {
    sweep(Role::Coordinator, &[unanimous_recovery::CRASH_POINTS, unanimous_server::CRASH_POINTS]);
}

/// Catalogue 3.3, CP-0 to CP-7: kill -9 of a participant, the one that is told first and the one
/// told last.
#[test]
fn banks_killed_at_every_point() {
    for bank in [Role::BankA, Role::BankB] {
        sweep(bank, &[unanimous_recovery::CRASH_POINTS, unanimous_sdk::CRASH_POINTS]);
    }
}
