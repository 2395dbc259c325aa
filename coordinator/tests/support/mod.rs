//! The binary under test, run as people run it.
#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod disk;
pub(crate) mod guarded;
pub(crate) mod hand;
pub(crate) mod rows;
pub(crate) mod standing;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, with nothing of this machine's settings.
pub(crate) fn unanimous(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("unanimous"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UNANIMOUS_") {
            command.env_remove(name);
        }
    }
    command.env_remove("COLUMNS").args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// What a finished run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code();
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Said {
    /// stdout as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn run(args: &[&str]) -> Said {
    unanimous(args).output().unwrap().into()
}

/// Fails with this exit code and the three lines of every error, this code in the first.
#[track_caller]
pub(crate) fn assert_fails(said: &Said, exit: i32, code: &str) {
    assert_eq!(said.code, Some(exit), "{said:?}");
    let at = said.stderr.find(&format!("error[{code}]: "));
    let at = at.unwrap_or_else(|| panic!("no error[{code}] in {said:?}"));
    let mut lines = said.stderr[at..].lines().peekable();
    assert!(lines.next().unwrap().len() > format!("error[{code}]: ").len(), "{said:?}");
    for (head, more) in [("  why:  ", "        "), ("  next: ", "        or ")] {
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with(head) && line.len() > head.len(), "{head:?} in {said:?}");
        while lines.next_if(|line| line.starts_with(more)).is_some() {}
    }
    assert_eq!(lines.next(), None, "more than an error: {said:?}");
    assert!(said.stderr.ends_with(&format!("        or unanimous explain {code}\n")), "{said:?}");
}

/// Every command that the help shows, by the words after `unanimous`; groups of commands too.
pub(crate) fn commands() -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut at = 0;
    while let Some(command) = commands.get(at).cloned() {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["-h"]).collect();
        commands.extend(
            inner(&run(&words).stdout).map(|name| {
                command.iter().cloned().chain([name.to_owned()]).collect::<Vec<String>>()
            }),
        );
        at += 1;
    }
    assert!(commands.len() > 20, "{commands:?}");
    commands
}

/// The names below `Commands:` in a help.
fn inner(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
}

/// Asks again until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// A coordinator in a directory of its own. It ends with this value.
pub(crate) struct Served {
    pub(crate) home: TempDir,
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) sessions: String,
    pub(crate) admin: String,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[], &[])
    }

    /// In a directory that may have a log, with more options and variables.
    pub(crate) fn start_in(home: TempDir, more: &[&str], variables: &[(&str, PathBuf)]) -> Self {
        let ports = home.path().join("ports");
        let mut child = unanimous(&["serve", "--init", "--exit-with-stdin", "--data-dir"])
            .arg(data_dir(&home))
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--port-file"])
            .arg(&ports)
            .args(more)
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let written = eventually("the port file", || std::fs::read_to_string(&ports).ok());
        let ports: Value = serde_json::from_str(&written).unwrap();
        let url = |name: &str| format!("http://{}", ports[name].as_str().unwrap());
        let stdin = child.stdin.take();
        Self { home, child, stdin, sessions: url("sessions"), admin: url("admin") }
    }

    /// Until it takes new transactions: it answers operators before that.
    pub(crate) fn until_serving(&self) {
        eventually("serving", || {
            self.ask(&["status"]).stdout.starts_with("Serving;").then_some(())
        });
    }

    /// A command to this coordinator.
    pub(crate) fn ask(&self, args: &[&str]) -> Said {
        let addresses = ["--admin-address", &self.admin, "--address", &self.sessions];
        run(&[args, &addresses].concat())
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        data_dir(&self.home)
    }

    /// SIGKILL, and a new life on the same log.
    pub(crate) fn kill_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().unwrap());
        std::fs::remove_file(home.path().join("ports")).unwrap();
        Self::start_in(home, &[], &[])
    }

    /// SIGTERM, and its end.
    pub(crate) fn terminate(&mut self) -> Said {
        signal(self.child.id(), rustix::process::Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> Said {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Said { code: self.child.wait().unwrap().code(), stdout: String::new(), stderr }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(id: u32, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

fn data_dir(home: &TempDir) -> PathBuf {
    home.path().join("data")
}

/// All files below, with their bytes.
pub(crate) fn bytes_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}
