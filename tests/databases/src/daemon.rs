//! What every server has in common: a directory, a port, a process that does not outlive the test.

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Whom the servers run as where the tests run as root, which they refuse.
const ORDINARY_USER: &str = "nobody";
/// A server that takes longer to start or to stop is stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether something has come true.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Below the ports that the system gives to outgoing connections: one that is free for a moment
/// while the server is down stays free.
const PORTS: std::ops::Range<u32> = 20_000..32_000;
/// What the name of a server's folder begins with; the id of the test's process follows.
const PREFIX: &str = "unanimous-db-";
/// How much of a log is shown when a test fails.
const LINES_SHOWN: usize = 40;

/// Waits until it is true.
///
/// # Errors
/// Not in time, or `is_true` fails.
pub fn wait_until(
    what: &str,
    at_most: Duration,
    mut is_true: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_true()? {
        ensure!(begun.elapsed() < at_most, "{what}: not within {at_most:?}");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// The folder of a server, owned by whom the server runs as. It is removed with this.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    port: u16,
}

impl Home {
    /// A new one, with a port that nobody has.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> anyhow::Result<Self> {
        sweep();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        if let Some((uid, gid)) = ordinary_user()? {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        Ok(Self { folder, port: free_port()? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn log(&self) -> PathBuf {
        self.path().join("server.log")
    }

    /// What the server has said, in all its lives.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Runs a program as the server's user, to its end.
    ///
    /// # Errors
    /// It fails, with its words.
    pub fn run(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<()> {
        let mut command = as_ordinary_user(program)?;
        let output = command.args(args).current_dir(self.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{} failed: {said}", program.display());
        Ok(())
    }

    /// A file in the folder that only the server's user may read: where it is.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let (given, kept) = (self.path().join(format!("{name}.given")), self.path().join(name));
        std::fs::write(&given, text)?;
        let arguments = [Path::new("-m"), Path::new("600"), &given, &kept];
        self.run(Path::new("/usr/bin/install"), arguments)?;
        Ok(kept)
    }

    /// Starts the server. What it says goes to its log.
    ///
    /// # Errors
    /// The system refuses.
    pub fn spawn(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Daemon> {
        let mut command = as_ordinary_user(program)?;
        let log = File::options().create(true).append(true).open(self.log())?;
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = spawn_for_good(command)?;
        show_when_a_test_fails(child.id(), self.log());
        Ok(Daemon { child })
    }
}

/// A running server. It is killed when this goes.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The system refuses.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        signal_to(self.child.id(), signal)
    }

    /// Kills it and every process that it has started, at one moment as far as they can see.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let children = children(self.child.id())?;
        for id in &children {
            // It may have ended by itself.
            let _ = signal_to(*id, Signal::KILL);
        }
        self.child.kill()?;
        self.child.wait()?;
        wait_until("the end of the server's processes", PATIENCE, || {
            Ok(children.iter().all(|id| has_ended(*id)))
        })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait(&mut self) -> anyhow::Result<()> {
        let child = &mut self.child;
        wait_until("the end of the server", PATIENCE, || Ok(child.try_wait()?.is_some()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.kill9();
        }
        logs().remove(&self.child.id());
    }
}

/// Stops one process of a server where it stands, or lets it go on.
///
/// # Errors
/// The system refuses.
pub fn freeze(id: u32, frozen: bool) -> anyhow::Result<()> {
    signal_to(id, if frozen { Signal::STOP } else { Signal::CONT })
}

/// Removes the folders of test processes that are gone: a server that several tests share is in no
/// hand when the process ends.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let named = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let Some((id, _)) = named.and_then(|rest| rest.split_once('-')) else { continue };
        if id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists() {
            // Another process may be sweeping as well.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn signal_to(id: u32, signal: Signal) -> anyhow::Result<()> {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    Ok(kill_process(id.context("a process id")?, signal)?)
}

/// Gone, or dead and not yet buried by whoever has inherited it.
fn has_ended(id: u32) -> bool {
    matches!(status(id).first().map(String::as_str), None | Some("Z"))
}

/// State and parent, first of all.
fn status(id: u32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // After the command, which may hold anything, in brackets.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().map(str::to_owned).collect()
}

fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if status(id).get(1) == Some(&parent.to_string()) {
            children.push(id);
        }
    }
    Ok(children)
}

/// The program, so that it dies with this process and runs as an ordinary user.
fn as_ordinary_user(program: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some((uid, gid)) = ordinary_user()? {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}")]).arg("--clear-groups");
    }
    command.arg("--").arg(program).env_remove("LC_ALL").env("LANG", "C");
    Ok(command)
}

/// Only where this process is root.
fn ordinary_user() -> anyhow::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut named = fields.filter(|fields| fields.first() == Some(&ORDINARY_USER));
    match named.next().as_deref() {
        Some([_, _, uid, gid, ..]) => Ok(Some((uid.parse()?, gid.parse()?))),
        _ => bail!("there is no user {ORDINARY_USER}, and the servers refuse to run as root"),
    }
}

fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let len = PORTS.end - PORTS.start;
    for _ in 0..len {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(37).wrapping_add(step) % len;
        let port = u16::try_from(PORTS.start + offset)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

type Spawned = std::io::Result<Child>;

/// A child dies with the *thread* that has started it, so one thread that lives as long as the
/// process starts them all.
fn spawn_for_good(command: Command) -> anyhow::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<(Command, mpsc::Sender<Spawned>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<(Command, mpsc::Sender<Spawned>)>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).ok().context("the spawner is gone")?;
    answer.recv()?.context("starting a server (setpriv is in Debian's package util-linux)")
}

fn logs() -> std::sync::MutexGuard<'static, BTreeMap<u32, PathBuf>> {
    static LOGS: Mutex<BTreeMap<u32, PathBuf>> = Mutex::new(BTreeMap::new());
    LOGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the servers said last, under the message of whatever panics.
fn show_when_a_test_fails(id: u32, log: PathBuf) {
    static HOOKED: OnceLock<()> = OnceLock::new();
    HOOKED.get_or_init(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            for (id, log) in logs().iter() {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let skipped = text.lines().count().saturating_sub(LINES_SHOWN);
                let last: Vec<&str> = text.lines().skip(skipped).collect();
                let mut stderr = std::io::stderr().lock();
                let _ = writeln!(stderr, "-- server {id}:\n{}", last.join("\n"));
            }
        }));
    });
    logs().insert(id, log);
}
