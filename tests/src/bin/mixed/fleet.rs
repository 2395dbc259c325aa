//! The three processes: killed, and started again on the same ports and stores.

use anyhow::Context as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use unanimous_tests::real::banks::bank_settled;
use unanimous_tests::real::coordinator::free_port;
use unanimous_tests::real::{Coordinator, Process, binary, wait_until};

const LISTENS_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Rust,
    Python,
    Coordinator,
}

impl Victim {
    pub(crate) const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Coordinator];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rust => "bank-rust",
            Self::Python => "bank-python",
            Self::Coordinator => "coordinator",
        }
    }
}

/// What the bank in Python is started with.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) python: PathBuf,
    pub(crate) bank: PathBuf,
}

/// Where the stores are, the Rust bank's first.
pub(crate) type Dirs = [PathBuf; 2];

#[derive(Debug)]
pub(crate) struct Fleet {
    home: PathBuf,
    paths: Paths,
    pub(crate) coordinator: Coordinator,
    runs: bool,
    /// The Rust bank first.
    banks: [Option<Process>; 2],
    addresses: [SocketAddr; 2],
    kills: [u32; 3],
}

impl Fleet {
    pub(crate) async fn start(home: &Path, paths: Paths) -> anyhow::Result<Self> {
        let coordinator = Coordinator::new(home, &home.join("log"))?;
        let mut fleet = Self {
            home: home.to_owned(),
            paths,
            coordinator,
            runs: false,
            banks: [None, None],
            addresses: [free_port()?, free_port()?],
            kills: [0; 3],
        };
        fleet.start_all().await?;
        for (bank, address) in fleet.banks.iter_mut().zip(fleet.addresses) {
            let bank = bank.as_mut().context("it was started")?;
            wait_until("a bank that listens", LISTENS_MAX, || {
                bank.check_runs()?;
                Ok(TcpStream::connect(address).is_ok())
            })?;
        }
        Ok(fleet)
    }

    /// Starts what is down.
    pub(crate) async fn start_all(&mut self) -> anyhow::Result<()> {
        for bank in [Victim::Rust, Victim::Python] {
            if self.banks[bank as usize].is_none() {
                let log = self.home.join(format!("{}.log", bank.name()));
                let process = Process::start(bank.name(), self.command(bank)?, &log)?;
                self.banks[bank as usize] = Some(process);
            }
        }
        if !self.runs {
            self.coordinator.start().await?;
            self.runs = true;
        }
        Ok(())
    }

    fn command(&self, bank: Victim) -> anyhow::Result<Command> {
        let mut command = if bank == Victim::Rust {
            let mut command = Command::new(binary()?);
            command.args(["dev", "bank", "--address", &self.coordinator.url()]);
            command
        } else {
            let mut command = Command::new(&self.paths.python);
            command.arg(&self.paths.bank);
            command.args(["--coordinator", &self.coordinator.sessions().to_string()]);
            command
        };
        command.args(["--name", bank.name(), "--exit-with-stdin"]);
        command.args(["--listen", &self.address(bank).to_string()]);
        command.arg("--data-dir").arg(self.dir(bank));
        Ok(command)
    }

    fn dir(&self, bank: Victim) -> PathBuf {
        self.home.join(bank.name())
    }

    /// Where a bank takes calls.
    pub(crate) fn address(&self, bank: Victim) -> SocketAddr {
        self.addresses[bank as usize]
    }

    /// SIGKILL, if it is up.
    pub(crate) fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        self.check_run()?;
        if victim == Victim::Coordinator {
            self.coordinator.kill()?;
            self.runs = false;
        } else {
            self.banks[victim as usize].take().context("each is killed once")?.kill()?;
        }
        self.kills[victim as usize] += 1;
        Ok(())
    }

    pub(crate) fn kills(&self, victim: Victim) -> u32 {
        self.kills[victim as usize]
    }

    /// Fails if one that was not killed has ended.
    pub(crate) fn check_run(&mut self) -> anyhow::Result<()> {
        if self.runs {
            self.coordinator.process()?.check_runs()?;
        }
        self.banks.iter_mut().flatten().try_for_each(Process::check_runs)
    }

    /// Waits until nothing is unfinished, at the coordinator and at the banks.
    pub(crate) async fn settled(&self, at_most: Duration) -> anyhow::Result<()> {
        self.coordinator.settled(at_most).await?;
        for bank in [Victim::Rust, Victim::Python] {
            bank_settled(self.address(bank), at_most).await?;
        }
        Ok(())
    }

    /// Stops all; where their stores are.
    pub(crate) fn stop(mut self) -> anyhow::Result<Dirs> {
        for bank in &mut self.banks {
            bank.take().context("it runs")?.stop()?;
        }
        self.coordinator.stop()?;
        Ok([self.dir(Victim::Rust), self.dir(Victim::Python)])
    }
}
