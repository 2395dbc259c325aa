//! Processes on an address of their own, each with a folder.

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use unanimous_core::coordinator::Recovered;
use unanimous_core::{Gtrid, Outcome};
use unanimous_tests::real::power::Disk;

pub(crate) const ACCOUNTS: u32 = 1_000;
pub(crate) const OPENING_CENTS: i64 = 100_000;
/// What each process listens on, below the ports that outgoing connections are given.
const PORTS: [(&str, u16); 6] = [
    ("claim", 27_450),
    ("coordinator", 27_451),
    ("admin", 27_452),
    ("bank-a", 27_453),
    ("bank-b", 27_454),
    ("bank-c", 27_455),
];
/// Small, so that every coordinator compacts its log again and again.
const LOG_BYTES_COMPACT: &str = "1KiB";
/// And a bank's: its snapshot alone has some 10 kB.
const BANK_LOG_BYTES: &str = "1000";
/// A few frames fill a volume.
const VOLUME_BYTES: &str = "600";
/// A bank says so when it takes calls.
const BANK_IS_OPEN: &str = r#""message":"open""#;
/// Everybody says so when it was asked to stop.
const STOPS: &str = r#""message":"stopping"#;
/// Of what each process said, when something is wrong.
const LAST_WORDS_LINES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Coordinator,
    BankA,
    BankB,
    BankC,
}

/// A world has the first two, three or four of them.
pub(crate) const ROLES: [Role; 4] = [Role::Coordinator, Role::BankA, Role::BankB, Role::BankC];

/// What becomes of the disk of a process that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Kill,
    Power,
}

/// In parts of its sum, what a transfer between so many banks moves at each of them. Within one it
/// goes from one account to the next.
pub(crate) fn shares(banks: usize) -> &'static [&'static [i64]] {
    match banks {
        1 => &[&[-1, 1]],
        2 => &[&[-1], &[1]],
        _ => &[&[-2], &[1], &[1]],
    }
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::BankA => "bank-a",
            Self::BankB => "bank-b",
            Self::BankC => "bank-c",
        }
    }
}

/// What a client was told about a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) committed: bool,
    pub(crate) cents: i64,
}

/// A process, and its stdin, which it lives by: waiting for a child closes what it still holds.
struct Process {
    child: Child,
    _stdin: Option<ChildStdin>,
    /// Ends with the last line.
    listening: JoinHandle<()>,
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    address: Ipv4Addr,
    /// Held as long as the world lives.
    _claim: TcpListener,
    /// The coordinator first.
    roles: &'static [Role],
    /// Empty where processes are only killed.
    disks: BTreeMap<Role, Disk>,
    rng: ChaCha8Rng,
    processes: BTreeMap<Role, Process>,
    words: BTreeMap<Role, Rc<RefCell<Vec<String>>>>,
    /// Whether a bank takes calls.
    open: BTreeMap<Role, watch::Sender<bool>>,
    /// Whether a process was asked to stop, and says so.
    stopping: BTreeMap<Role, watch::Sender<bool>>,
}

impl World {
    /// With so many banks. `seed` decides what a loss of power leaves.
    pub(crate) fn new(banks: usize, loss: Loss, seed: u64) -> Result<Self> {
        let (address, claim) = claim()?;
        let (dir, roles) = (tempfile::tempdir()?, &ROLES[..=banks]);
        let mut disks = BTreeMap::new();
        for role in roles.iter().filter(|_| loss == Loss::Power) {
            let (own, aside) = (role.name(), format!("{}-aside", role.name()));
            let disk = Disk::new(shim()?, &dir.path().join(own), &dir.path().join(aside))?;
            disks.insert(*role, disk);
        }
        let watches = || roles.iter().map(|role| (*role, watch::Sender::new(false))).collect();
        Ok(Self {
            dir,
            address,
            _claim: claim,
            roles,
            disks,
            rng: ChaCha8Rng::seed_from_u64(seed),
            processes: BTreeMap::new(),
            words: roles.iter().map(|role| (*role, Rc::default())).collect(),
            open: watches(),
            stopping: watches(),
        })
    }

    pub(crate) fn banks(&self) -> &'static [Role] {
        &self.roles[1..]
    }

    /// Waits until the process was asked to stop.
    pub(crate) async fn stops(&self, role: Role) -> Result<()> {
        let mut stopping = self.stopping[&role].subscribe();
        stopping.wait_for(|stopping| *stopping).await?;
        Ok(())
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}", socket(self.address, name))
    }

    /// Whether the bank takes calls.
    pub(crate) fn is_open(&self, bank: Role) -> watch::Receiver<bool> {
        self.open[&bank].subscribe()
    }

    fn folder(&self, role: Role) -> PathBuf {
        self.dir.path().join(role.name())
    }

    /// Starts the process unless it runs, to die at the crash point if one is given.
    pub(crate) fn start(&mut self, role: Role, crash_point: Option<&str>) -> Result<()> {
        let env = crash_point.map(|point| ("UNANIMOUS_CRASH_POINT", point));
        self.start_with(role, env.as_slice())
    }

    /// The same; it asks itself to stop there, and goes on.
    pub(crate) fn start_to_stop(&mut self, role: Role, crash_point: &str) -> Result<()> {
        let signal = ("UNANIMOUS_CRASH_SIGNAL", "TERM");
        self.start_with(role, &[("UNANIMOUS_CRASH_POINT", crash_point), signal])
    }

    fn start_with(&mut self, role: Role, env: &[(&str, &str)]) -> Result<()> {
        if self.processes.contains_key(&role) {
            return Ok(());
        }
        let (name, listen) = (role.name(), |name| socket(self.address, name).to_string());
        let mut command = Command::new(unanimous_tests::real::binary()?);
        match role {
            Role::Coordinator => {
                command.args(["serve", "--init", "--listen", &listen(name)]);
                command.args(["--admin-listen", &listen("admin")]);
            }
            Role::BankA | Role::BankB | Role::BankC => {
                command.args(["dev", "bank", "--name", name, "--listen", &listen(name)]);
                command.args(["--address", &self.url("coordinator")]);
            }
        }
        command.arg("--data-dir").arg(self.folder(role));
        command.args(["--exit-with-stdin", "--log-format", "json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env_remove("UNANIMOUS_CRASH_POINT");
        command.env("UNANIMOUS_LOG_BYTES_COMPACT", LOG_BYTES_COMPACT);
        command.env("UNANIMOUS_BANK_LOG_BYTES", BANK_LOG_BYTES);
        command.env("UNANIMOUS_VOLUME_BYTES", VOLUME_BYTES);
        command.env_remove("UNANIMOUS_CRASH_SIGNAL").envs(env.iter().copied());
        if let Some(disk) = self.disks.get(&role) {
            command.envs(disk.env());
        }
        let mut child = command.kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take();
        let stderr = child.stderr.take().context("no stderr")?;
        self.words[&role].borrow_mut().push(format!("-- started with {env:?}"));
        let tell = [&self.open[&role], &self.stopping[&role]].map(Clone::clone);
        let listening = listen_to(stderr, Rc::clone(&self.words[&role]), tell);
        self.processes.insert(role, Process { child, _stdin: stdin, listening });
        Ok(())
    }

    /// Starts what does not run.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        self.roles.iter().try_for_each(|role| self.start(*role, None))
    }

    /// Waits for the end of the process. Nothing is lost when the future is dropped.
    pub(crate) async fn ended(&mut self, role: Role) -> Result<ExitStatus> {
        let process = self.processes.get_mut(&role).context("it does not run")?;
        let status = process.child.wait().await?;
        // Before it is started again: what it said last must not follow what it says first.
        (&mut process.listening).await?;
        self.processes.remove(&role);
        if let Some(disk) = self.disks.get_mut(&role) {
            disk.ended()?;
            if !status.success() {
                disk.lose_power(&mut self.rng)?;
            }
        }
        Ok(status)
    }

    /// Waits for the end of one of the processes.
    pub(crate) async fn any_ended(&mut self) -> Result<(Role, ExitStatus)> {
        let mut waiting = self
            .processes
            .iter_mut()
            .map(|(role, process)| Box::pin(async move { (*role, process.child.wait().await) }));
        let mut next = || waiting.next();
        let [one, two, three, four] = [next(), next(), next(), next()];
        let wait = async |ended: Option<_>| match ended {
            Some(ended) => ended.await,
            None => std::future::pending().await,
        };
        let (role, _) = tokio::select! {
            ended = wait(one) => ended,
            ended = wait(two) => ended,
            ended = wait(three) => ended,
            ended = wait(four) => ended,
        };
        Ok((role, self.ended(role).await?))
    }

    /// Sends a signal and waits for the end.
    pub(crate) async fn end(&mut self, role: Role, signal: Signal) -> Result<ExitStatus> {
        let process = self.processes.get(&role).context("it does not run")?;
        if let Some(pid) = process.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // Gone meanwhile: then its status tells.
            let _ = kill_process(pid, signal);
        }
        self.ended(role).await
    }

    /// All stop by themselves: the coordinator first, which finishes what it has decided.
    pub(crate) async fn stop_all(&mut self) -> Result<()> {
        for role in self.roles.iter().copied() {
            let status = self.end(role, Signal::TERM).await?;
            ensure!(status.success(), "{} did not stop cleanly: {status}", role.name());
        }
        Ok(())
    }

    /// All have stopped: nothing is in doubt or unfinished, no cent is missing, each bank
    /// has exactly what was told as committed, and what was told is what the log says.
    pub(crate) fn verify(&self, told: &BTreeMap<Gtrid, Told>) -> Result<()> {
        let committed = told.values().filter(|told| told.committed);
        let moved: i64 = committed.clone().map(|told| told.cents).sum();
        ensure!(committed.count() > 0, "nothing was committed");
        let banks = self.banks();
        for (bank, shares) in banks.iter().zip(shares(banks.len())) {
            let summary = unanimous_sdk::embedded::inspect(&self.folder(*bank))?;
            let name = bank.name();
            ensure!(summary.in_doubt.is_empty(), "{name}: in doubt: {:?}", summary.in_doubt);
            let expected = i64::from(ACCOUNTS) * OPENING_CENTS + shares.iter().sum::<i64>() * moved;
            let actual = summary.sum_actual;
            ensure!(actual == expected, "{name}: {actual} cents, told were {expected}");
        }
        let recovered = recovered(&self.folder(Role::Coordinator))?;
        let unfinished = recovered.transactions().count();
        ensure!(unfinished == 0, "{unfinished} transactions are unfinished or heuristic");
        // A one-phase commit leaves no record.
        for (gtrid, told) in told.iter().filter(|_| banks.len() > 1) {
            let outcome = recovered.outcome(gtrid);
            let committed = outcome == Some(Outcome::Committed);
            ensure!(committed == told.committed, "{gtrid}: told {told:?}, the log: {outcome:?}");
        }
        Ok(())
    }

    /// How much a process that is dead has left behind: transactions that are decided and not
    /// finished, branches that are in doubt.
    pub(crate) fn unfinished(&self, role: Role) -> Result<usize> {
        let folder = self.folder(role);
        Ok(match role {
            Role::Coordinator => recovered(&folder)?.transactions().count(),
            Role::BankA | Role::BankB | Role::BankC => {
                unanimous_sdk::embedded::inspect(&folder)?.in_doubt.len()
            }
        })
    }

    /// What the processes said last.
    pub(crate) fn last_words(&self) -> String {
        let mut text = String::new();
        for (role, words) in &self.words {
            let words = words.borrow();
            for line in &words[words.len().saturating_sub(LAST_WORDS_LINES)..] {
                text.push_str(&format!("    {}: {line}\n", role.name()));
            }
        }
        text
    }
}

/// A loopback address that no other world has. It is claimed by listening on one port of it, so
/// that the other ports are free whenever a process is started again.
fn claim() -> Result<(Ipv4Addr, TcpListener)> {
    loop {
        let [_, b, c, d] = rand::random::<u32>().to_be_bytes();
        // Neither what people use nor the ends of the block.
        let address = Ipv4Addr::new(127, b | 1, c, d.clamp(1, 254));
        match TcpListener::bind(socket(address, "claim")) {
            Ok(claim) => return Ok((address, claim)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).context(address),
        }
    }
}

fn socket(address: Ipv4Addr, name: &str) -> SocketAddr {
    let port = PORTS.into_iter().find(|(of, _)| *of == name).map_or(0, |(_, port)| port);
    SocketAddr::from((address, port))
}

/// Keeps what the process says, and tells when a bank takes calls and when it does not any more,
/// and when it stops.
fn listen_to(
    stderr: ChildStderr,
    words: Rc<RefCell<Vec<String>>>,
    [open, stopping]: [watch::Sender<bool>; 2],
) -> JoinHandle<()> {
    spawn_local(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains(BANK_IS_OPEN) {
                open.send_replace(true);
            }
            if line.contains(STOPS) {
                stopping.send_replace(true);
            }
            words.borrow_mut().push(line);
        }
        open.send_replace(false);
        stopping.send_replace(false);
    })
}

/// Compiled once.
fn shim() -> Result<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let compiled = SHIM.get_or_init(|| unanimous_tests::real::shim::compile("power", dir).ok());
    compiled.as_deref().context("the power shim cannot be compiled")
}

fn recovered(dir: &Path) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    for stored in unanimous_recovery::read_records(dir)? {
        recovered.fold(stored.lsn, unanimous_recovery::codec::decode_record(&stored.bytes)?);
    }
    Ok(recovered)
}
