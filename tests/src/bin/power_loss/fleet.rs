//! A coordinator and three banks that lose power, and start again on the same ports and stores.

use anyhow::{Context as _, ensure};
use rand::Rng;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;
use unanimous_tests::real::coordinator::free_port;
use unanimous_tests::real::power::{Disk, Lost};
use unanimous_tests::real::wire::bank_service_client::BankServiceClient;
use unanimous_tests::real::wire::{DescribeRequest, DescribeResponse};
use unanimous_tests::real::{Coordinator, LOOK, Process, binary, shim};

/// Transfers are within one of them, or between two or three.
pub(crate) const BANKS: usize = 3;
/// By their place among the victims: the coordinator comes first.
pub(crate) const COORDINATOR: usize = 0;
pub(crate) const PROCESSES: usize = 1 + BANKS;
/// A bank answers by then.
const ANSWERS_MAX: Duration = Duration::from_secs(60);
/// Small, so that each compacts its log, and goes on to the next volume, again and again; only a
/// binary with crash points knows the last one.
const SMALL: [(&str, &str); 3] = [
    ("UNANIMOUS_LOG_BYTES_COMPACT", "64KiB"),
    ("UNANIMOUS_BANK_LOG_BYTES", "64000"),
    ("UNANIMOUS_VOLUME_BYTES", "20000"),
];

pub(crate) struct Fleet {
    home: PathBuf,
    pub(crate) coordinator: Coordinator,
    banks: [Option<Process>; BANKS],
    addresses: [SocketAddr; BANKS],
    disks: [Disk; PROCESSES],
}

impl Fleet {
    /// Not started yet; everything is below `home`.
    pub(crate) fn new(home: &Path) -> anyhow::Result<Self> {
        let shim = shim::compile("power", home)?;
        let disk = |process| {
            let name = name(process);
            Disk::new(&shim, &home.join(&name), &home.join(format!("{name}-aside")))
        };
        let disks = [disk(0)?, disk(1)?, disk(2)?, disk(3)?];
        let mut coordinator = Coordinator::new(home, &home.join(name(COORDINATOR)))?;
        for (name, value) in disks[COORDINATOR].env() {
            coordinator.env(name, value);
        }
        for (name, value) in SMALL {
            coordinator.env(name, value);
        }
        let addresses = [free_port()?, free_port()?, free_port()?];
        Ok(Self { home: home.to_owned(), coordinator, banks: Default::default(), addresses, disks })
    }

    /// Starts it, and does not wait.
    pub(crate) fn start(&mut self, process: usize) -> anyhow::Result<()> {
        if process == COORDINATOR {
            self.coordinator.start_at_once()?;
            return Ok(());
        }
        let (bank, name) = (process - 1, name(process));
        let mut command = Command::new(binary()?);
        command.args(["dev", "bank", "--exit-with-stdin", "--name", &name]);
        command.args(["--address", &self.coordinator.url()]);
        command.args(["--listen", &self.addresses[bank].to_string()]);
        command.arg("--data-dir").arg(self.dir(process));
        command.envs(self.disks[process].env()).envs(SMALL);
        let log = self.home.join(format!("{name}.log"));
        self.banks[bank] = Some(Process::start(&name, command, &log)?);
        Ok(())
    }

    pub(crate) fn dir(&self, process: usize) -> PathBuf {
        self.home.join(name(process))
    }

    pub(crate) fn address(&self, bank: usize) -> SocketAddr {
        self.addresses[bank]
    }

    fn process(&mut self, process: usize) -> anyhow::Result<&mut Process> {
        if process == COORDINATOR {
            return self.coordinator.process();
        }
        self.banks[process - 1].as_mut().context("the bank does not run")
    }

    /// Fails if one has ended by itself.
    pub(crate) fn check_run(&mut self) -> anyhow::Result<()> {
        (0..PROCESSES).try_for_each(|process| self.process(process)?.check_runs())
    }

    /// SIGKILL of all these before any of them starts again; with `power` each leaves of its
    /// directory what a loss of power leaves.
    pub(crate) fn take_down(
        &mut self,
        victims: &[usize],
        power: bool,
        rng: &mut impl Rng,
    ) -> anyhow::Result<Vec<Lost>> {
        for victim in victims {
            self.process(*victim)?.check_runs()?;
            if *victim == COORDINATOR {
                self.coordinator.kill()?;
            } else if let Some(bank) = self.banks[victim - 1].take() {
                bank.kill()?;
            }
        }
        let mut lost = Vec::new();
        for victim in victims {
            self.disks[*victim].ended()?;
            if power {
                lost.push(self.disks[*victim].lose_power(rng)?);
            }
        }
        Ok(lost)
    }

    /// Waits until the coordinator serves and each bank answers with nothing in doubt, then what
    /// each bank says. Fails at once if a process ends.
    pub(crate) async fn settled(&mut self) -> anyhow::Result<[DescribeResponse; BANKS]> {
        let started = Instant::now();
        let mut said: [Option<DescribeResponse>; BANKS] = Default::default();
        loop {
            self.check_run()?;
            let status = self.coordinator.status().await.ok();
            let finished = status.is_some_and(|s| s.transactions == s.transactions_heuristic);
            for (bank, said) in said.iter_mut().enumerate() {
                let answer = describe(self.addresses[bank]).await.ok();
                *said = answer.filter(|answer| answer.in_doubt == 0);
            }
            if let (true, [Some(a), Some(b), Some(c)]) = (finished, &said) {
                return Ok([*a, *b, *c]);
            }
            ensure!(started.elapsed() < ANSWERS_MAX, "not finished within {ANSWERS_MAX:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All stop cleanly, the coordinator first.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.coordinator.stop()?;
        for bank in &mut self.banks {
            bank.take().context("it runs")?.stop()?;
        }
        self.disks.iter_mut().try_for_each(Disk::ended)
    }
}

pub(crate) fn name(process: usize) -> String {
    if process == COORDINATOR { "coordinator".to_owned() } else { format!("bank-{process}") }
}

async fn describe(address: SocketAddr) -> anyhow::Result<DescribeResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let mut bank = BankServiceClient::new(endpoint.connect_timeout(ANSWERS_MAX).connect().await?);
    Ok(bank.describe(DescribeRequest {}).await?.into_inner())
}
