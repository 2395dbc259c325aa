//! `dev chaos`: a running `dev` takes one line a connection on a Unix socket of this user, and
//! answers with one.

use super::moment;
use super::session::Ports;
use super::supervise::{Act, Acted, Supervisor};
use crate::cli::ChaosAct;
use crate::codes::Code;
use crate::errors::{Exit, Failure};
use crate::output::talk;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Longest line taken.
const LINE_BYTES_MAX: u64 = 256;
/// A caller that says nothing for so long is sent away.
const LINE_MAX: Duration = Duration::from_secs(2);

/// The socket, removed in the end.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Control {
    /// Makes the socket. Sockets of runs that are gone are removed.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let make = || {
            let dir = own_dir()?;
            drop(live_sockets(&dir)?);
            let path = dir.join(format!("{}.sock", std::process::id()));
            let listener = UnixListener::bind(&path)?;
            Ok(Self { path, listener: Some(listener) })
        };
        make().map_err(|error: io::Error| {
            let next = "unanimous dev, with XDG_RUNTIME_DIR set to a short path";
            Failure::io("making the control socket", error, next)
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers callers, one after the other, for ever.
    pub(crate) fn serve(
        &mut self,
        supervisor: Rc<Supervisor>,
        ports: Ports,
    ) -> impl Future<Output = ()> + use<> {
        let listener = self.listener.take();
        async move {
            let Some(listener) = listener else { return };
            while let Ok((stream, _)) = listener.accept().await {
                // A caller that goes away has only itself to blame.
                let _ = answer(stream, &supervisor, &ports).await;
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, supervisor: &Supervisor, ports: &Ports) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    let mut from = BufReader::new(from.take(LINE_BYTES_MAX));
    tokio::time::timeout(LINE_MAX, from.read_line(&mut line)).await??;
    let line = line.trim().split_once(' ');
    let in_doubt = match line {
        Some(("kill", name)) => moment::freeze_in_doubt(ports, supervisor, name).await,
        _ => Ok(false),
    };
    let in_doubt = in_doubt.unwrap_or(false);
    let reply = match line.map(|(word, name)| (act(word, in_doubt), name)) {
        Some((Some((act, words)), name)) => match supervisor.act(name, act).await {
            Ok(Acted::Yes) => {
                talk(format_args!("{name} {words}, by hand"));
                format!("ok {name} {words}")
            }
            Ok(Acted::NoNeed) => format!("ok nothing to do: {name} is so already"),
            Err(failure) if failure.exit() == Exit::NotFound => format!("none {name}"),
            Err(failure) => format!("failed {failure}"),
        },
        _ => "failed not understood".to_owned(),
    };
    to.write_all(format!("{reply}\n").as_bytes()).await
}

fn act(word: &str, in_doubt: bool) -> Option<(Act, &'static str)> {
    match word {
        "kill" if in_doubt => {
            Some((Act::Kill, "killed after its vote, before it knew the decision; it stays down"))
        }
        "kill" => Some((Act::Kill, "killed; it stays down until it is started")),
        "stop" => Some((Act::Freeze, "frozen; it hangs until it is started")),
        "start" => Some((Act::Start, "runs")),
        _ => None,
    }
}

/// Asks a running `dev`.
pub(crate) async fn ask(act: ChaosAct, name: &str, at: Option<&Path>) -> Result<(), Failure> {
    let word = match act {
        ChaosAct::Kill => "kill",
        ChaosAct::Stop => "stop",
        ChaosAct::Start => "start",
    };
    let path = match at {
        Some(path) => path.to_owned(),
        None => the_only_one(word, name)?,
    };
    let ask = async {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(format!("{word} {name}\n").as_bytes()).await?;
        let mut reply = String::new();
        stream.take(4_096).read_to_string(&mut reply).await?;
        Ok::<_, io::Error>(reply)
    };
    let reply = ask.await.map_err(|error| nobody(&error.to_string()))?;
    let failed = |code, why: &str, next: &str| {
        Err(Failure::new(code, format!("{word} {name} was not done"), why, next))
    };
    match reply.trim_end().split_once(' ') {
        Some(("ok", words)) => {
            talk(crate::output::escape(words));
            Ok(())
        }
        Some(("none", _)) => {
            let names = super::NAMES.join(", ");
            let next = format!("unanimous dev chaos {word} bank-b");
            failed(Code::NoSuchProcess, &format!("there are {names}"), &next)
        }
        Some((_, why)) => failed(Code::Failed, why, "unanimous status"),
        None => failed(Code::Failed, "dev did not answer", "unanimous status"),
    }
}

fn nobody(why: &str) -> Failure {
    let what = "no `unanimous dev` runs for this user";
    Failure::new(Code::NoDev, what, why, "unanimous dev")
}

fn the_only_one(word: &str, name: &str) -> Result<PathBuf, Failure> {
    let dir = own_dir().map_err(|error| nobody(&error.to_string()))?;
    let mut live = live_sockets(&dir).map_err(|error| nobody(&error.to_string()))?;
    match (live.pop(), live.len()) {
        (None, _) => Err(nobody(&format!("there is no socket in {}", dir.display()))),
        (Some(path), 0) => Ok(path),
        (Some(path), more) => {
            let what = format!("{} `unanimous dev` run", more + 1);
            let why = "say which one by its socket; each printed it at its start";
            let line = |path: &Path| {
                format!("unanimous dev chaos {word} {name} --control {}", path.display())
            };
            let failure = Failure::new(Code::SeveralDevs, what, why, line(&path));
            Err(live.iter().fold(failure, |failure, path| failure.or(line(path))))
        }
    }
}

/// A directory that only this user may enter: in the run-time directory, or else in the temporary
/// one.
fn own_dir() -> io::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
    let dir = base.unwrap_or_else(std::env::temp_dir).join(format!("unanimous-dev-{uid}"));
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(&dir)?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
        let text = format!("{} is not a directory of this user alone", dir.display());
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(dir)
}

/// Sockets that somebody listens on; the others are removed.
fn live_sockets(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut live = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(_) => live.push(path),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    live.sort();
    Ok(live)
}
