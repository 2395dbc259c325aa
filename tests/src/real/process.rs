//! One child process: started, signalled, measured, stopped.

use super::wait_until;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A process that does not stop within this time is stuck.
const STOP_MAX: Duration = Duration::from_secs(60);

/// A running child. It is killed when this goes, and ends by itself when this process does if it
/// was started with `--exit-with-stdin`.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    _stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it says goes to `log`, appended.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let said = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, _stdin: stdin, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// It has, with its last words.
    pub fn check_runs(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended by itself ({status}): {}", self.name, self.last_words())
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("a process id")?, signal)?;
        Ok(())
    }

    /// SIGKILL, and its end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and its clean end.
    ///
    /// # Errors
    /// It ends otherwise, or not in time.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(STOP_MAX)?;
        if status.success() {
            return Ok(());
        }
        bail!("{} stopped with {status}: {}", self.name, self.last_words())
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait(&mut self, at_most: Duration) -> anyhow::Result<ExitStatus> {
        let mut status = None;
        let what = format!("the end of {}", self.name);
        wait_until(&what, at_most, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("it has ended")
    }

    /// Its resident memory now and at its highest, in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            Ok(kib.with_context(|| format!("{name} of {}", self.name))?.parse::<u64>()? * 1024)
        };
        Ok(Memory { rss_bytes: field("VmRSS:")?, rss_bytes_peak: field("VmHWM:")? })
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut last: Vec<&str> = said.lines().rev().take(5).collect();
        last.reverse();
        last.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process occupies.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub rss_bytes: u64,
    /// At its highest since the start of the process.
    pub rss_bytes_peak: u64,
}
