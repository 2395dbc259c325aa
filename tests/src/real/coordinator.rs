//! `unanimous serve` in a process of its own, on the same ports in every life.

use super::process::{Memory, Process};
use super::wait_until;
use anyhow::Context as _;
use rand::RngExt;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use unanimous_proto::v1;
use unanimous_proto::v1::admin_service_client::AdminServiceClient;

/// What takes longer hangs.
const HANG: Duration = Duration::from_secs(120);
/// One question takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How to start it, and the process while it runs.
#[derive(Debug)]
pub struct Coordinator {
    binary: PathBuf,
    home: PathBuf,
    data_dir: PathBuf,
    /// In front of the binary: `prlimit`, for one.
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    sessions: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

impl Coordinator {
    /// Not started yet. Its log is in `data_dir`; what it says goes to `home/coordinator.log`.
    ///
    /// # Errors
    /// There are no ports, or no binary.
    pub fn new(home: &Path, data_dir: &Path) -> anyhow::Result<Self> {
        let (sessions, admin) = (free_port()?, free_port()?);
        Ok(Self {
            binary: super::binary()?,
            home: home.to_owned(),
            data_dir: data_dir.to_owned(),
            wrapper: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            sessions,
            admin,
            process: None,
        })
    }

    /// More arguments of `serve`, from the next start on.
    pub fn args<A: Into<OsString>>(&mut self, args: impl IntoIterator<Item = A>) {
        self.args.extend(args.into_iter().map(Into::into));
    }

    /// Gives back what [`Coordinator::args`] was given, and forgets it.
    pub fn take_args(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.args)
    }

    /// Environment, from the next start on.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.env.push((name.into(), value.into()));
    }

    /// A command that runs `serve`, from the next start on.
    pub fn wrapper<A: Into<OsString>>(&mut self, wrapper: impl IntoIterator<Item = A>) {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
    }

    /// Starts it and waits until it serves. Returns how long that took.
    ///
    /// # Errors
    /// It ends before that, or does not serve in time.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let started = self.start_at_once()?;
        loop {
            self.process()?.check_runs()?;
            if self.serves().await {
                return Ok(started.elapsed());
            }
            anyhow::ensure!(started.elapsed() < HANG, "the coordinator does not serve");
            tokio::time::sleep(super::LOOK).await;
        }
    }

    /// Starts it. Returns when.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start_at_once(&mut self) -> anyhow::Result<Instant> {
        let mut words = self.wrapper.iter().cloned().chain([self.binary.clone().into()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(["serve", "--init", "--exit-with-stdin", "--log-level", "info"]);
        command.arg("--listen").arg(self.sessions.to_string());
        command.arg("--admin-listen").arg(self.admin.to_string());
        command.arg("--data-dir").arg(&self.data_dir).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        self.process = Some(Process::start("the coordinator", command, &self.log())?);
        Ok(started)
    }

    /// Whether it says that it serves.
    pub async fn serves(&self) -> bool {
        let asked = async {
            let mut health = HealthClient::new(channel(self.sessions).await.ok()?);
            let answer = health.check(HealthCheckRequest::default()).await.ok()?;
            Some(answer.into_inner().status() == ServingStatus::Serving)
        };
        let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
        answer.ok().flatten().unwrap_or(false)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the coordinator does not run")?.kill()
    }

    /// SIGTERM, and its clean end.
    ///
    /// # Errors
    /// It does not run, or does not end cleanly.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the coordinator does not run")?.stop()
    }

    /// The process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().context("the coordinator does not run")
    }

    /// What it occupies.
    ///
    /// # Errors
    /// It does not run.
    pub fn memory(&mut self) -> anyhow::Result<Memory> {
        self.process()?.memory()
    }

    /// Where clients and participants connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.sessions)
    }

    /// The same, as an address.
    #[must_use]
    pub fn sessions(&self) -> SocketAddr {
        self.sessions
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// What it has said in all its lives.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.join("coordinator.log")
    }

    /// How it is.
    ///
    /// # Errors
    /// No answer.
    pub async fn status(&self) -> anyhow::Result<v1::GetStatusResponse> {
        let asked = async {
            let mut admin = AdminServiceClient::new(channel(self.admin).await?);
            anyhow::Ok(admin.get_status(v1::GetStatusRequest {}).await?.into_inner())
        };
        tokio::time::timeout(ANSWER_MAX, asked).await.context("no status in time")?
    }

    /// Waits until so many participants have a session.
    ///
    /// # Errors
    /// Not within `at_most`, or it does not answer.
    pub async fn connected(&self, participants: u32, at_most: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.status().await?.participants_connected < participants {
            anyhow::ensure!(started.elapsed() < at_most, "a participant has no session");
            tokio::time::sleep(super::LOOK).await;
        }
        Ok(())
    }

    /// Waits until nothing but heuristic outcomes is in its table.
    ///
    /// # Errors
    /// Not within `at_most`.
    pub async fn settled(&self, at_most: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        loop {
            if let Ok(status) = self.status().await
                && status.transactions == status.transactions_heuristic
            {
                return Ok(started.elapsed());
            }
            anyhow::ensure!(started.elapsed() < at_most, "not settled within {at_most:?}");
            tokio::time::sleep(super::LOOK).await;
        }
    }
}

async fn channel(to: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    Ok(endpoint.connect_timeout(ANSWER_MAX).connect().await?)
}

/// A port that is free now, below the range from which the system takes ports for outgoing
/// connections: a client that dials a process that is down cannot be given that very port.
///
/// # Errors
/// None is found.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    let mut rng = rand::rng();
    let draws = std::iter::repeat_with(|| rng.random_range(20_000..32_000)).take(1_000);
    let mut addresses = draws.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).context("no port is free")
}

/// Waits until somebody listens.
///
/// # Errors
/// Not in time.
pub fn wait_for_port(address: SocketAddr, at_most: Duration) -> anyhow::Result<()> {
    let listens = || Ok(TcpStream::connect(address).is_ok());
    wait_until(&format!("a listener at {address}"), at_most, listens).map(drop)
}
