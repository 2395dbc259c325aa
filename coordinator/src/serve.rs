//! `unanimous serve`: the coordinator.

use crate::cli::ServeArgs;
use crate::errors::{Exit, Failure};
use crate::process;
use serde_json::json;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use unanimous_recovery::codec::CodecError;
use unanimous_recovery::{LogKind, OpenOptions};
use unanimous_server::{Config, Listeners, ServeError};

/// Serves until a signal stops it. Everything answered by then is durable, whatever the exit code.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    process::begin(&args.process)?;
    // Before anything that takes long: a stop that is asked for meanwhile is a clean one.
    let (handle, shutdown) = unanimous_server::shutdown();
    process::on_signals(move |name, count| {
        match count {
            1 => tracing::info!(signal = name, "stopping; a second signal stops at once"),
            2 => tracing::warn!(signal = name, "stopping at once; a third signal ends the process"),
            // As a kill -9: nothing that was acknowledged is lost.
            _ => std::process::exit(Exit::Failed.code().into()),
        }
        handle.request();
    })?;
    for (option, address) in [("--listen", args.listen), ("--admin-listen", args.admin_listen)] {
        check_loopback(args, option, address)?;
    }
    let listeners = Listeners {
        sessions: listen("--listen", args.listen)?,
        admin: listen("--admin-listen", args.admin_listen)?,
    };
    let options = OpenOptions {
        kind: LogKind::Coordinator,
        init: args.init,
        cluster: args.cluster,
        slot: args.slot,
        moved: args.moved,
        copied: args.copied,
    };
    let dir = &args.data_dir;
    let again = format!("unanimous serve --data-dir {}", dir.display());
    let log = options.open(dir).map_err(|error| Failure::from_open(&error, dir, &again))?;
    let report = log.report();
    tracing::info!(
        dir = %dir.display(),
        clean = report.clean,
        frames = report.frames,
        records = report.records,
        unwitnessed = report.unwitnessed,
        elapsed_ms = report.elapsed.as_millis(),
        "the log is open"
    );
    if let Some(file) = &args.port_file {
        write_port_file(file, &listeners)?;
    }
    let config = Config {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_dir: dir.clone(),
        ..Config::default()
    };
    unanimous_server::run(config, listeners, log, shutdown)
        .map_err(|error| failed(&error, dir, &again))
}

fn failed(error: &ServeError, dir: &Path, again: &str) -> Failure {
    let (exit, code, what) = match error {
        ServeError::Open(error) => return Failure::from_open(error, dir, again),
        ServeError::Record { error: CodecError::UnknownTag(_), .. } => {
            (Exit::Refused, "LOG_NEWER", "the log is of a newer version")
        }
        ServeError::Record { .. } => (Exit::LogDamaged, "LOG_DAMAGED", "the log is damaged"),
        ServeError::Append(_) | ServeError::Close(_) => {
            (Exit::LogFailed, "LOG_FAILED", "the log could not be written")
        }
        _ => (Exit::Failed, "SERVE_FAILED", "the coordinator stopped"),
    };
    let verify = format!("unanimous log verify --data-dir {}", dir.display());
    Failure::new(exit, code, what, crate::connect::causes(error), verify)
}

/// Nobody is authenticated yet: whoever reaches the port may end any transaction.
fn check_loopback(args: &ServeArgs, option: &str, address: SocketAddr) -> Result<(), Failure> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    if args.insecure {
        tracing::warn!(%address, "listening without authentication: whoever connects is trusted");
        return Ok(());
    }
    let dir = args.data_dir.display();
    Err(Failure::new(
        Exit::NotAllowed,
        "INSECURE_LISTEN",
        format!("{option} {address} can be reached from other machines"),
        "this version authenticates nobody: whoever reaches the port is trusted",
        format!("unanimous serve --data-dir {dir} {option} 127.0.0.1:{}", address.port()),
    )
    .or(format!("unanimous serve --data-dir {dir} {option} {address} --insecure")))
}

/// Binds a port, with what to do when that fails.
pub(crate) fn listen(option: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        let (code, what) = match error.kind() {
            ErrorKind::AddrInUse => ("PORT_IN_USE", format!("{address} is in use")),
            _ => ("LISTEN_FAILED", format!("cannot listen on {address}")),
        };
        let other = format!("the same command with {option} {}:0", address.ip());
        Failure::new(Exit::Failed, code, what, error.to_string(), other)
            .or(format!("ss -ltnp 'sport = :{}', to see who has it", address.port()))
    })
}

/// Written aside and renamed: whoever waits for the file never sees half of it.
fn write_port_file(file: &Path, listeners: &Listeners) -> Result<(), Failure> {
    let write = || {
        let sessions = listeners.sessions.local_addr()?;
        let admin = listeners.admin.local_addr()?;
        let text = json!({ "sessions": sessions, "admin": admin }).to_string();
        let aside = file.with_extension("part");
        std::fs::write(&aside, text)?;
        std::fs::rename(&aside, file)
    };
    write().map_err(|error| {
        let doing = format!("writing {}", file.display());
        Failure::io(&doing, error, format!("ls -la {}", file.display()))
    })
}
