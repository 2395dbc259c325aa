//! Where the commands of a page run: one shell a page, in a directory of its own.

use anyhow::{Context as _, ensure};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The line that ends what a command said; its exit code follows.
const END: &str = "-- end of what the command said --";
/// What was told to stop takes no longer.
const STOP_MAX: Duration = Duration::from_secs(30);
/// The addresses that the pages assume.
const USUAL: [&str; 2] = ["127.0.0.1:7450", "127.0.0.1:7451"];

/// What all pages have in common.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) root: PathBuf,
    pub(crate) binary: PathBuf,
    /// In front of a page's shell: gives it a network of its own.
    network: Vec<&'static str>,
}

impl World {
    /// Looks what this system allows.
    ///
    /// # Errors
    /// `unanimous` was not built, or the addresses that the pages assume are taken.
    pub(crate) fn find(root: &Path) -> anyhow::Result<Self> {
        let ways: [&[&str]; 2] = [&["unshare", "--net"], &["unshare", "--map-root-user", "--net"]];
        let network = ways.into_iter().find(|way| {
            let mut probe = Command::new(way[0]);
            probe.args(&way[1..]).args(["ip", "link", "set", "lo", "up"]);
            probe.stdout(Stdio::null()).stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        });
        if network.is_none() {
            for address in USUAL {
                std::net::TcpListener::bind(address).with_context(|| {
                    format!("no network of its own for a page (unshare), and {address} is taken")
                })?;
            }
        }
        Ok(Self {
            root: root.to_owned(),
            binary: unanimous_tests::real::binary()?,
            network: network.unwrap_or_default().to_vec(),
        })
    }

    /// A command with nothing of this machine's settings, in a network of its own.
    fn command(&self, home: &Path) -> Command {
        let bash = ["bash", "--norc", "--noprofile"];
        let mut words = self.network.iter().chain(&bash);
        let mut command = Command::new(words.next().unwrap_or(&bash[0]));
        command.args(words);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("UNANIMOUS_") {
                command.env_remove(name);
            }
        }
        let folder = self.binary.parent().unwrap_or(Path::new("."));
        let folders = [home.join("installed/bin"), folder.to_owned()];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = folders.into_iter().chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(path).unwrap_or_default())
            .env("CARGO_INSTALL_ROOT", home.join("installed"))
            .env("TMPDIR", home.join("tmp"))
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("NO_COLOR", "1")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("COLUMNS")
            .env_remove("RUST_BACKTRACE")
            .env_remove("CARGO");
        command
    }

    /// Runs the binary once, apart from any page.
    pub(crate) fn unanimous(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        Ok(Command::new(&self.binary).args(args).env("NO_COLOR", "1").output()?)
    }
}

/// The shell of a page. Everything it started ends with it.
pub(crate) struct Shell {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
    home: TempDir,
    terminals: usize,
    /// What runs in the other terminal.
    goes_on: Option<String>,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) lines: Vec<String>,
    pub(crate) code: i32,
}

impl Shell {
    pub(crate) fn start(world: &World) -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        for folder in ["work", "tmp", "run"] {
            std::fs::create_dir(home.path().join(folder))?;
        }
        let mut command = world.command(home.path());
        command.current_dir(home.path().join("work")).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("starting bash")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut shell = Self { child, stdin, said, home, terminals: 0, goes_on: None };
        if !world.network.is_empty() {
            shell.run("ip link set lo up", Duration::from_secs(10))?;
        }
        Ok(shell)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// It takes longer than `at_most`, or ended the shell.
    pub(crate) fn run(&mut self, command: &str, at_most: Duration) -> anyhow::Result<Said> {
        writeln!(self.stdin, "{{\n{command}\n}} </dev/null 2>&1")?;
        // `$?` stays what it was, for a page that shows it.
        writeln!(self.stdin, "docs_code=$?; printf '\\n%s %s\\n' '{END}' $docs_code")?;
        writeln!(self.stdin, "(exit $docs_code)")?;
        let until = Instant::now() + at_most;
        let mut lines = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = match self.said.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => anyhow::bail!(
                    "not done within {at_most:?}; it said so far:\n{}",
                    lines.join("\n")
                ),
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("it ended the shell"),
            };
            if let Some(code) = line.strip_prefix(END) {
                // The line break in front of the end's line, or of the command's last one.
                if lines.last().is_some_and(String::is_empty) {
                    lines.pop();
                }
                return Ok(Said { lines, code: code.trim().parse()? });
            }
            lines.push(line);
        }
    }

    /// Starts a command that goes on, and ends the one before. Returns where it writes.
    ///
    /// # Errors
    /// The one before does not end well.
    pub(crate) fn go_on(&mut self, command: &str) -> anyhow::Result<PathBuf> {
        self.press_ctrl_c()?;
        self.terminals += 1;
        let file = self.home.path().join(format!("terminal-{}", self.terminals));
        File::create(&file)?;
        let shown = file.display();
        // Several at once are a group; one alone gets its Ctrl-C itself, not a shell around it.
        let command_line = match command.contains(" & ") {
            true => format!("{{ {command}; }}"),
            false => command.to_owned(),
        };
        writeln!(self.stdin, "{command_line} </dev/null >{shown} 2>&1 &")?;
        self.goes_on = Some(command.to_owned());
        Ok(file)
    }

    /// Ends what goes on, if anything does.
    ///
    /// # Errors
    /// It does not end, or not with exit code 0.
    pub(crate) fn press_ctrl_c(&mut self) -> anyhow::Result<()> {
        let Some(command) = self.goes_on.take() else { return Ok(()) };
        let said = self.run("kill -INT $!; wait $!", STOP_MAX)?;
        ensure!(said.code == 0, "after Ctrl-C, `{command}` ended with {}", said.code);
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // All that the page started is in this group; what `dev` starts ends with its stdin.
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
