//! The coordinator, the two banks and their database servers: killed, and started again on the same
//! ports and data.

use anyhow::Context as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use unanimous_databases::mariadb::Mariadb;
use unanimous_databases::postgres::Postgres;
use unanimous_tests::real::banks::bank_settled;
use unanimous_tests::real::coordinator::free_port;
use unanimous_tests::real::{Coordinator, Process, binary};

/// In both servers.
pub(crate) const DATABASE: &str = "bank";
/// What the names of the banks' tables begin with.
pub(crate) const TABLES: &str = "bank";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The bank on PostgreSQL.
    BankA,
    /// The bank on MariaDB.
    BankB,
    Coordinator,
    Postgres,
    Mariadb,
}

impl Victim {
    pub(crate) const ALL: [Self; 5] =
        [Self::BankA, Self::BankB, Self::Coordinator, Self::Postgres, Self::Mariadb];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BankA => "bank-a",
            Self::BankB => "bank-b",
            Self::Coordinator => "coordinator",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadbd",
        }
    }
}

/// The servers, with so many accounts in each.
#[derive(Debug)]
pub(crate) struct Databases {
    pub(crate) accounts: u32,
    pub(crate) postgres: Postgres,
    pub(crate) mariadb: Mariadb,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    home: PathBuf,
    pub(crate) databases: Databases,
    pub(crate) coordinator: Coordinator,
    /// In the order of [`Victim::ALL`].
    runs: [bool; 5],
    banks: [Option<Process>; 2],
    addresses: [SocketAddr; 2],
    kills: [u32; 5],
}

impl Fleet {
    pub(crate) async fn start(home: &Path, accounts: u32) -> anyhow::Result<Self> {
        let postgres =
            Postgres::start(&[("max_connections", "300"), ("max_prepared_transactions", "300")])?;
        postgres.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        let mariadb = Mariadb::start(&[("max_connections", "300")])?;
        mariadb.sql("", &format!("CREATE DATABASE {DATABASE}"))?;
        let databases = Databases { postgres, mariadb, accounts };
        let mut fleet = Self {
            home: home.to_owned(),
            coordinator: Coordinator::new(home, &home.join("log"))?,
            runs: [false, false, false, true, true],
            banks: [None, None],
            addresses: [free_port()?, free_port()?],
            kills: [0; 5],
            databases,
        };
        super::books::create(&fleet.databases)?;
        let urls = [fleet.databases.postgres.url(DATABASE), fleet.databases.mariadb.url(DATABASE)];
        for (bank, url) in [Victim::BankA, Victim::BankB].into_iter().zip(urls) {
            let named = serde_json::json!({ "url": url, "tables": TABLES });
            std::fs::write(fleet.file(bank), named.to_string())?;
        }
        fleet.start_all().await?;
        Ok(fleet)
    }

    /// Starts what is down. A bank needs its server to start.
    pub(crate) async fn start_all(&mut self) -> anyhow::Result<()> {
        if !self.runs[Victim::Postgres as usize] {
            self.databases.postgres.run()?;
        }
        if !self.runs[Victim::Mariadb as usize] {
            self.databases.mariadb.run()?;
        }
        for bank in [Victim::BankA, Victim::BankB] {
            if self.banks[bank as usize].is_none() {
                let log = self.home.join(format!("{}.log", bank.name()));
                let process = Process::start(bank.name(), self.command(bank)?, &log)?;
                self.banks[bank as usize] = Some(process);
            }
        }
        if !self.runs[Victim::Coordinator as usize] {
            self.coordinator.start().await?;
        }
        self.runs = [true; 5];
        Ok(())
    }

    fn command(&self, bank: Victim) -> anyhow::Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(["dev", "bank", "--exit-with-stdin", "--name", bank.name()]);
        command.args(["--address", &self.coordinator.url()]);
        command.args(["--listen", &self.address(bank).to_string()]);
        command.arg("--data-dir").arg(self.home.join(bank.name()));
        command.arg("--database").arg(self.file(bank));
        Ok(command)
    }

    fn file(&self, bank: Victim) -> PathBuf {
        self.home.join(format!("{}.database", bank.name()))
    }

    /// Where a bank takes calls.
    pub(crate) fn address(&self, bank: Victim) -> SocketAddr {
        self.addresses[bank as usize]
    }

    /// SIGKILL, if it is up.
    pub(crate) fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        self.check_run()?;
        if !std::mem::take(&mut self.runs[victim as usize]) {
            return Ok(());
        }
        match victim {
            Victim::BankA | Victim::BankB => {
                self.banks[victim as usize].take().context("it runs")?.kill()?;
            }
            Victim::Coordinator => self.coordinator.kill()?,
            Victim::Postgres => self.databases.postgres.kill9()?,
            Victim::Mariadb => self.databases.mariadb.kill9()?,
        }
        self.kills[victim as usize] += 1;
        Ok(())
    }

    pub(crate) fn kills(&self, victim: Victim) -> u32 {
        self.kills[victim as usize]
    }

    /// Fails if one that was not killed has ended.
    pub(crate) fn check_run(&mut self) -> anyhow::Result<()> {
        if self.runs[Victim::Coordinator as usize] {
            self.coordinator.process()?.check_runs()?;
        }
        self.banks.iter_mut().flatten().try_for_each(Process::check_runs)
    }

    /// Waits until nothing is unfinished, at the coordinator and at the banks.
    pub(crate) async fn settled(&self, at_most: Duration) -> anyhow::Result<()> {
        self.coordinator.settled(at_most).await?;
        for bank in [Victim::BankA, Victim::BankB] {
            bank_settled(self.address(bank), at_most).await?;
        }
        Ok(())
    }

    /// Stops coordinator and banks; the databases are read next.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        for bank in &mut self.banks {
            bank.take().context("it runs")?.stop()?;
        }
        self.coordinator.stop()
    }
}
