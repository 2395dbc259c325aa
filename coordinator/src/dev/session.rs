//! What every run of `dev` has: a directory, ports, three processes, and questions to them.

use super::books::{Broken, Database, Kind};
use super::control::Control;
use super::load::Load;
use super::supervise::{Spec, Supervisor};
use super::wire::DescribeRequest;
use super::wire::bank_service_client::BankServiceClient;
use super::{BANKS, COORDINATOR, interactive, timed};
use crate::cli::{DevArgs, LogFormat};
use crate::codes::Code;
use crate::errors::{Exit, Failure};
use crate::output::{Output, talk};
use crate::{connect, process, runtime};
use rand::RngExt;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::LocalSet;
use unanimous_proto::v1;
use unanimous_sdk::Credentials;

/// Processes that are not ready by then never will be.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two questions whether they are.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// The ports that `serve` takes by itself, so that other commands need no address.
const USUAL_PORTS: [u16; 2] = [7450, 7451];

/// Where a run keeps what.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Of a run that was made before.
    pub(crate) fn made(root: &Path) -> Result<Self, Failure> {
        let layout = Self { root: root.to_owned() };
        if layout.store(COORDINATOR).is_dir() {
            return Ok(layout);
        }
        let what = format!("{} was not made by `unanimous dev --keep`", root.display());
        let why = format!("there is no directory {}", layout.store(COORDINATOR).display());
        let next = format!("unanimous dev --run-for 20s --keep {}", root.display());
        Err(Failure::new(Code::NoDevRun, what, why, next))
    }

    /// The whole.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The data directory of a process.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What a process has said.
    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }

    /// Says in which database a bank keeps its accounts, if it does.
    pub(crate) fn database(&self, bank: &str) -> PathBuf {
        self.root.join(format!("{bank}.database"))
    }

    /// The databases of this run's banks.
    pub(crate) fn databases(&self) -> Result<Vec<(&'static str, Database)>, Failure> {
        let files = BANKS.map(|bank| (bank, self.database(bank)));
        let there = files.into_iter().filter(|(_, file)| file.exists());
        let read = |(bank, file): (_, PathBuf)| {
            Ok((bank, Database::read(&file).map_err(|error| database_failed(bank, &*error))?))
        };
        there.map(read).collect()
    }

    /// What clients were told.
    pub(crate) fn answers(&self) -> PathBuf {
        self.root.join("answers")
    }
}

pub(crate) fn database_failed(bank: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let what = format!("the database of {bank} cannot be used");
    let next = "look at the server, and at the address that was given";
    Failure::new(Code::BankStore, what, connect::causes(error), next)
}

/// Makes the tables of the banks that have a database, with names of their own: several runs do not
/// meet.
async fn make_databases(args: &DevArgs, layout: &Layout) -> Result<(), Failure> {
    let tables = format!("unanimous_dev_{:08x}", rand::rng().random::<u32>());
    let wanted = [(&args.postgres, Kind::Postgres), (&args.mysql, Kind::Mysql)];
    for (bank, (url, kind)) in BANKS.into_iter().zip(wanted) {
        let Some(url) = url else { continue };
        let failed = |error: Broken| database_failed(bank, &*error);
        let database = Database::new(url, &tables);
        if database.kind().map_err(failed)? != kind {
            let why = format!("it is the address of another server than {kind:?}");
            return Err(Failure::new(Code::Usage, "the address is of the wrong kind", why, {
                "unanimous dev --postgres postgres://user@host/database"
            }));
        }
        database.create().await.map_err(failed)?;
        database.write(&layout.database(bank)).map_err(failed)?;
    }
    Ok(())
}

/// Nothing of a run that is not kept stays in a database.
async fn remove_databases(layout: &Layout) -> Result<(), Failure> {
    for (bank, database) in layout.databases()? {
        database.remove().await.map_err(|error| database_failed(bank, &*error))?;
    }
    Ok(())
}

/// The ports of a run, kept over restarts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    sessions: u16,
    admin: u16,
    banks: [u16; 2],
}

impl Ports {
    /// The usual ones for the coordinator if they are free and `usual`, others otherwise.
    fn choose(usual: bool) -> Result<Self, Failure> {
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let mut rng = rand::rng();
        // Below the range from which the system takes ports for outgoing connections: a client that
        // dials a process that is down cannot be given that very port.
        let mut draws = std::iter::repeat_with(|| rng.random_range(20_000..32_000)).take(1_000);
        let mut chosen: Vec<u16> = Vec::new();
        while chosen.len() < 4 {
            let Some(port) = draws.find(|port| free(port) && !chosen.contains(port)) else {
                let why = "none of 1000 ports tried is free";
                let next = "ss -ltn, to see who has them";
                return Err(Failure::new(Code::NoPorts, "no free ports", why, next));
            };
            chosen.push(port);
        }
        let usual = usual && USUAL_PORTS.iter().all(free);
        let [sessions, admin] = if usual { USUAL_PORTS } else { [chosen[0], chosen[1]] };
        Ok(Self { sessions, admin, banks: [chosen[2], chosen[3]] })
    }

    /// Where clients and participants connect.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.sessions)
    }

    /// Where operators connect.
    pub(crate) fn admin_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// Where a bank takes calls.
    pub(crate) fn bank_address(&self, bank: usize) -> String {
        format!("http://127.0.0.1:{}", self.banks[bank])
    }

    /// What other commands need to find this coordinator; nothing if it is where they look.
    pub(crate) fn options(&self) -> String {
        if [self.sessions, self.admin] == USUAL_PORTS {
            return String::new();
        }
        format!(" --admin-address {} --address {}", self.admin_address(), self.address())
    }
}

/// A run that has been started.
pub(crate) struct Session {
    pub(crate) executable: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) ports: Ports,
    pub(crate) supervisor: Rc<Supervisor>,
    pub(crate) load: Rc<Load>,
    pub(crate) control: Control,
    /// Drives the choices of load and chaos.
    pub(crate) seed: u64,
    /// True once somebody asked to stop.
    pub(crate) interrupted: watch::Receiver<bool>,
}

/// Sets everything up, runs it, and takes it down, whatever happens.
pub(crate) fn run(args: &DevArgs, output: Output) -> Result<(), Failure> {
    process::start_logging(LogFormat::Human, "error")?;
    let home = Home::make(args.keep.as_deref())?;
    let layout = Layout { root: home.path().to_owned() };
    let (interrupt, interrupted) = watch::channel(false);
    process::on_signals(move |_, count| {
        interrupt.send_replace(true);
        if count > 1 {
            // The others end with their stdin.
            std::process::exit(Exit::Failed.code().into());
        }
    })?;
    let ran = LocalSet::new().block_on(&runtime()?, async {
        let mut session = Session::start(args, layout.clone(), interrupted).await?;
        let ran = match args.run_for {
            None => interactive::run(&mut session).await,
            Some(run_for) => timed::run(&mut session, run_for.into(), args.chaos, output).await,
        };
        // Whatever went wrong, nothing is left running; a process that does not stop is a failure
        // of its own.
        let stopped = session.supervisor.stop_all().await;
        ran.and(stopped)?;
        if args.keep.is_none() { remove_databases(&layout).await } else { Ok(()) }
    });
    match &ran {
        Err(_) => home.keep(),
        Ok(()) => home.leave(),
    }
    ran
}

impl Session {
    async fn start(
        args: &DevArgs,
        layout: Layout,
        interrupted: watch::Receiver<bool>,
    ) -> Result<Self, Failure> {
        let executable = std::env::current_exe()
            .map_err(|error| Failure::io("finding this executable", error, "unanimous version"))?;
        make_databases(args, &layout).await?;
        let ports = Ports::choose(args.run_for.is_none())?;
        let supervisor = Supervisor::new(executable.clone(), specs(&layout, &ports));
        let seed = args.seed.unwrap_or_else(|| rand::rng().random());
        let session = Self {
            executable,
            control: Control::listen()?,
            supervisor: Rc::new(supervisor),
            load: Rc::new(Load::new(&layout, &ports)?),
            layout,
            ports,
            seed,
            interrupted,
        };
        session.supervisor.start_all().await?;
        if !session.wait_until(READY_MAX, async || session.connected().await).await? {
            let why = format!("the banks have not joined it within {} s", READY_MAX.as_secs());
            let next = format!("less {}", session.layout.log_file(COORDINATOR).display());
            let what = "the coordinator is not ready";
            return Err(Failure::new(Code::NotReady, what, why, next));
        }
        Ok(session)
    }

    /// Asks again and again, until the answer is yes (true), or time or patience ends (false).
    ///
    /// # Errors
    /// A process was lost meanwhile.
    pub(crate) async fn wait_until(
        &self,
        at_most: Duration,
        yes: impl AsyncFn() -> bool,
    ) -> Result<bool, Failure> {
        let started = Instant::now();
        while started.elapsed() < at_most {
            if yes().await {
                return Ok(true);
            }
            if let Some(failure) = self.supervisor.lost().await {
                return Err(failure);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(false)
    }

    /// Both banks are connected to the coordinator.
    async fn connected(&self) -> bool {
        let status = self.status().await;
        status.is_some_and(|status| status.participants_connected as usize >= BANKS.len())
    }

    /// Nothing is in doubt at the coordinator or a bank.
    pub(crate) async fn settled(&self) -> bool {
        let Some(status) = self.status().await else { return false };
        if status.transactions > status.transactions_heuristic {
            return false;
        }
        for bank in 0..BANKS.len() {
            if self.bank_in_doubt(bank).await != Some(0) {
                return false;
            }
        }
        true
    }

    async fn status(&self) -> Option<v1::GetStatusResponse> {
        let mut admin =
            connect::admin_at(&self.ports.admin_address(), &Credentials::new()).await.ok()?;
        Some(admin.get_status(v1::GetStatusRequest {}).await.ok()?.into_inner())
    }

    async fn bank_in_doubt(&self, bank: usize) -> Option<u32> {
        let endpoint = connect::endpoint(&self.ports.bank_address(bank)).ok()?;
        let mut bank = BankServiceClient::new(endpoint.connect().await.ok()?);
        Some(bank.describe(DescribeRequest {}).await.ok()?.into_inner().in_doubt)
    }
}

fn specs(layout: &Layout, ports: &Ports) -> Vec<Spec> {
    let spec = |name: &'static str, args: &[&str], more: Vec<String>| {
        let mut all: Vec<OsString> = args.iter().map(Into::into).collect();
        all.extend(["--exit-with-stdin", "--log-level", "info", "--data-dir"].map(Into::into));
        all.push(layout.store(name).into());
        all.extend(more.into_iter().map(Into::into));
        Spec { name, args: all, log: layout.log_file(name) }
    };
    let local = |port: u16| format!("127.0.0.1:{port}");
    let coordinator = [
        vec!["--listen".to_owned(), local(ports.sessions)],
        vec!["--admin-listen".to_owned(), local(ports.admin)],
    ]
    .concat();
    let mut specs = vec![spec(COORDINATOR, &["serve", "--init"], coordinator)];
    for (name, port) in BANKS.into_iter().zip(ports.banks) {
        let more = ["--name", name, "--listen", &local(port), "--address", &ports.address()];
        let mut more = more.map(ToOwned::to_owned).to_vec();
        let database = layout.database(name);
        if database.exists() {
            more.extend(["--database".to_owned(), database.display().to_string()]);
        }
        specs.push(spec(name, &["dev", "bank"], more));
    }
    specs
}

/// The directory of a run.
enum Home {
    Kept(PathBuf),
    ThrownAway(TempDir),
}

impl Home {
    fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::io("making a directory", error, "unanimous dev --keep ANOTHER_DIRECTORY")
        };
        let Some(dir) = keep else {
            let dir = tempfile::Builder::new().prefix("unanimous-dev-").tempdir();
            return dir.map(Self::ThrownAway).map_err(failed);
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
            let what = format!("{} is not empty", dir.display());
            let why = "a run is kept in a directory of its own";
            let next = "unanimous dev --keep ANOTHER_DIRECTORY";
            return Err(Failure::new(Code::NotEmpty, what, why, next)
                .or(format!("unanimous dev verify {}", dir.display())));
        }
        // Absolute: it is shown to be copied into other terminals.
        std::path::absolute(dir).map(Self::Kept).map_err(failed)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(dir) => dir,
            Self::ThrownAway(dir) => dir.path(),
        }
    }

    /// What went wrong can be looked at.
    fn keep(self) {
        let dir = match self {
            Self::Kept(dir) => dir,
            Self::ThrownAway(dir) => dir.keep(),
        };
        talk(format_args!("the stores and the processes' logs are kept in {}", dir.display()));
    }

    fn leave(self) {
        if let Self::Kept(dir) = self {
            talk(format_args!("kept in {0}; unanimous dev verify {0}", dir.display()));
        }
    }
}
