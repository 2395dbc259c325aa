//! The three processes of `dev`: started, killed, frozen, healed and stopped by name.
//!
//! Each runs this very executable in a process group of its own (Ctrl-C reaches only `dev`), and
//! ends when its stdin closes, which happens however `dev` ends.

use crate::codes::Code;
use crate::config;
use crate::errors::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

/// A process that does not stop within this time is killed, and the run has failed.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What can be done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGKILL; it stays down.
    Kill,
    /// SIGSTOP.
    Freeze,
    /// Started again, or let go on.
    Start,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acted {
    /// Done.
    Yes,
    /// It was in that state already, or is down.
    NoNeed,
}

/// A process as it is to be started.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its name for people.
    pub(crate) name: &'static str,
    /// Arguments of this executable.
    pub(crate) args: Vec<OsString>,
    /// Where its stderr goes, appended.
    pub(crate) log: PathBuf,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Held, so that it closes with this process and not with a wait for the child.
    _stdin: Option<ChildStdin>,
    frozen: bool,
}

#[derive(Debug)]
struct Process {
    spec: Spec,
    running: Mutex<Option<Running>>,
}

/// Starts and stops processes. Each is acted on by one caller at a time.
#[derive(Debug)]
pub(crate) struct Supervisor {
    executable: PathBuf,
    processes: Vec<Process>,
}

impl Supervisor {
    /// Nothing is started yet.
    pub(crate) fn new(executable: PathBuf, specs: Vec<Spec>) -> Self {
        let process = |spec| Process { spec, running: Mutex::new(None) };
        Self { executable, processes: specs.into_iter().map(process).collect() }
    }

    /// Does one thing to one process, at once.
    ///
    /// # Errors
    /// No process of that name, or the system refuses.
    pub(crate) async fn act(&self, name: &str, act: Act) -> Result<Acted, Failure> {
        let process = self.processes.iter().find(|process| process.spec.name == name);
        let process = process.ok_or_else(|| {
            let names: Vec<_> = self.processes.iter().map(|process| process.spec.name).collect();
            let why = format!("there are {}", names.join(", "));
            let next = format!("unanimous dev chaos kill {}", names[names.len() - 1]);
            Failure::new(Code::NoSuchProcess, format!("no {name:?}"), why, next)
        })?;
        match act {
            Act::Kill => process.kill().await,
            Act::Freeze => process.freeze().await,
            Act::Start => process.start(&self.executable).await,
        }
    }

    /// Every process runs after this, whatever was done to it.
    pub(crate) async fn start_all(&self) -> Result<(), Failure> {
        for process in &self.processes {
            process.start(&self.executable).await?;
        }
        Ok(())
    }

    /// Asks all processes to stop and waits for their clean end, the first in the list last.
    ///
    /// # Errors
    /// One that ended otherwise, or had to be killed.
    pub(crate) async fn stop_all(&self) -> Result<(), Failure> {
        let mut result = Ok(());
        for process in self.processes.iter().rev() {
            let stopped = process.stop().await;
            result = result.and(stopped);
        }
        result
    }

    /// A process that has ended although nobody killed it.
    pub(crate) async fn lost(&self) -> Option<Failure> {
        for process in &self.processes {
            let mut running = process.running.lock().await;
            let ended =
                running.as_mut().and_then(|running| running.child.try_wait().ok().flatten());
            if let Some(status) = ended {
                *running = None;
                return Some(process.spec.ended(status));
            }
        }
        None
    }

    /// Names and process ids, for people; no id: it is down.
    pub(crate) async fn pids(&self) -> Vec<(&'static str, Option<u32>)> {
        let mut pids = Vec::new();
        for process in &self.processes {
            let running = process.running.lock().await;
            pids.push((process.spec.name, running.as_ref().and_then(|r| r.child.id())));
        }
        pids
    }
}

impl Process {
    async fn start(&self, executable: &PathBuf) -> Result<Acted, Failure> {
        let mut running = self.running.lock().await;
        match running.as_mut() {
            Some(running) if running.frozen => {
                self.signal(&running.child, Signal::CONT)?;
                running.frozen = false;
                Ok(Acted::Yes)
            }
            Some(_) => Ok(Acted::NoNeed),
            None => {
                *running = Some(self.spec.spawn(executable)?);
                Ok(Acted::Yes)
            }
        }
    }

    async fn kill(&self) -> Result<Acted, Failure> {
        let mut running = self.running.lock().await;
        let Some(mut killed) = running.take() else { return Ok(Acted::NoNeed) };
        self.signal(&killed.child, Signal::KILL)?;
        self.wait(&mut killed.child).await?;
        Ok(Acted::Yes)
    }

    async fn freeze(&self) -> Result<Acted, Failure> {
        let mut running = self.running.lock().await;
        match running.as_mut() {
            Some(running) if !running.frozen => {
                self.signal(&running.child, Signal::STOP)?;
                running.frozen = true;
                Ok(Acted::Yes)
            }
            _ => Ok(Acted::NoNeed),
        }
    }

    async fn stop(&self) -> Result<(), Failure> {
        let mut running = self.running.lock().await;
        let Some(mut stopped) = running.take() else { return Ok(()) };
        self.signal(&stopped.child, Signal::TERM)?;
        if stopped.frozen {
            self.signal(&stopped.child, Signal::CONT)?;
        }
        match tokio::time::timeout(STOP_MAX, self.wait(&mut stopped.child)).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => Err(self.spec.ended(ended?)),
            Err(_) => {
                self.signal(&stopped.child, Signal::KILL)?;
                self.wait(&mut stopped.child).await?;
                let what = format!("{} did not stop", self.spec.name);
                let why = format!("it was killed after {} s", STOP_MAX.as_secs());
                Err(Failure::new(Code::NoStop, what, why, self.spec.see_log()))
            }
        }
    }

    /// A child that has ended and was not waited for has no id any more: no other process can be
    /// hit.
    fn signal(&self, child: &Child, signal: Signal) -> Result<(), Failure> {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else { return Ok(()) };
        kill_process(id, signal)
            .map_err(|error| Failure::io("sending a signal", error, self.spec.see_log()))
    }

    async fn wait(&self, child: &mut Child) -> Result<ExitStatus, Failure> {
        let waited = child.wait().await;
        waited.map_err(|error| Failure::io("waiting for a process", error, self.spec.see_log()))
    }
}

/// So much of the log is kept: a few hundred thousand transactions.
const LOG_BYTES_COMPACT: &str = "64MiB";

impl Spec {
    fn spawn(&self, executable: &PathBuf) -> Result<Running, Failure> {
        let failed = |doing: String| {
            move |error| Failure::io(&doing, error, "unanimous dev, with space and files left")
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(failed(format!("opening {}", self.log.display())))?;
        let mut command = Command::new(executable);
        // What somebody has set for a coordinator of their own is not for this one.
        config::variables().for_each(|name| {
            command.env_remove(name);
        });
        // What became of each transaction is read from the log at the end.
        command.env("UNANIMOUS_LOG_BYTES_COMPACT", LOG_BYTES_COMPACT);
        command.env("UNANIMOUS_LISTEN_REFLECTION", "true");
        let mut child = command
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed(format!("starting {}", self.name)))?;
        let stdin = child.stdin.take();
        Ok(Running { child, _stdin: stdin, frozen: false })
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let what = format!("{} ended by itself", self.name);
        let last = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut last: Vec<&str> = last.lines().rev().take(5).collect();
        last.reverse();
        let why = format!("{status}; it said:\n{}", last.join("\n"));
        Failure::new(Code::ProcessLost, what, why, self.see_log())
    }

    fn see_log(&self) -> String {
        format!("less {}", self.log.display())
    }
}
