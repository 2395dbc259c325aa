//! `unanimous serve`: the coordinator.

use crate::access;
use crate::cli::{ProcessArgs, ServeArgs};
use crate::codes::Code;
use crate::config::{self, Resolved, Settings};
use crate::errors::{Exit, Failure};
use crate::process;
use serde_json::json;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use unanimous_recovery::codec::CodecError;
use unanimous_recovery::{DirectoryReport, DirectoryState, LogKind, OpenOptions, OpenedLog, Space};
use unanimous_server::{Config, Listeners, ServeError};

/// Serves until a signal stops it. Everything answered by then is durable, whatever the exit code.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let Resolved { settings, unknown_variables, .. } = config::load(&args.settings)?;
    let dir = settings.data_dir.as_deref().ok_or_else(no_data_dir)?;
    check_pair_words(args, &settings, dir)?;
    process::begin(&ProcessArgs {
        log_format: settings.log_format,
        log_level: settings.log_level.clone(),
        exit_with_stdin: args.exit_with_stdin,
    })?;
    for name in unknown_variables {
        tracing::warn!(name, "nobody reads this variable");
    }
    let access = access::load(&settings)?;
    access::warn_of_insecure(&settings);
    // Before anything that takes long: a stop that is asked for meanwhile is a clean one.
    let (handle, shutdown) = unanimous_server::shutdown();
    let reloaded = access.clone();
    process::on_hangup(move || access::reload(&reloaded))?;
    process::on_signals(move |name, count| {
        match count {
            1 => tracing::info!(signal = name, "stopping; a second signal stops at once"),
            2 => tracing::warn!(signal = name, "stopping at once; a third signal ends the process"),
            // As a kill -9: nothing that was acknowledged is lost.
            _ => std::process::exit(Exit::Failed.code().into()),
        }
        handle.request();
    })?;
    let listeners = Listeners {
        sessions: listen("--listen", settings.listen)?,
        admin: listen("--admin-listen", settings.admin_listen)?,
        access,
    };
    let again = again(args, &settings, dir);
    let log = open(args, &settings, dir, &again)?;
    if let Some(file) = &args.port_file {
        write_port_file(file, &listeners)?;
    }
    let config = Config {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_dir: dir.to_owned(),
        ..settings.server
    };
    unanimous_server::run(config, listeners, log, shutdown)
        .map_err(|error| failed(&error, dir, &again))
}

fn no_data_dir() -> Failure {
    let why = "the log has to be somewhere, and neither the command line nor the environment nor \
               a configuration file says where";
    let next = "unanimous serve --data-dir DIR --init";
    Failure::new(Code::Usage, "no directory was given", why, next)
        .or("unanimous serve --config FILE, with log.data_dir in it")
}

/// The operator's word about a pair means something only where there is one.
fn check_pair_words(args: &ServeArgs, settings: &Settings, dir: &Path) -> Result<(), Failure> {
    if settings.second_dir.is_some() || !(args.degraded || args.rebuild) {
        return Ok(());
    }
    let what = "--degraded and --rebuild are about a log in two directories";
    let why = "only one directory is named";
    let dir = dir.display();
    let next = format!("unanimous serve --data-dir {dir} --second-dir OTHER_DIR");
    Err(Failure::new(Code::Usage, what, why, next))
}

/// The command that was run, as far as it names the log.
fn again(args: &ServeArgs, settings: &Settings, dir: &Path) -> String {
    match (&args.settings.config, &settings.second_dir) {
        (Some(file), _) => format!("unanimous serve --config {}", file.display()),
        (None, None) => format!("unanimous serve --data-dir {}", dir.display()),
        (None, Some(second)) => {
            let (dir, second) = (dir.display(), second.display());
            format!("unanimous serve --data-dir {dir} --second-dir {second}")
        }
    }
}

fn open(
    args: &ServeArgs,
    settings: &Settings,
    dir: &Path,
    again: &str,
) -> Result<OpenedLog, Failure> {
    let options = OpenOptions {
        init: args.init,
        cluster: settings.cluster,
        slot: settings.slot,
        moved: args.moved,
        copied: args.copied,
        space: Space {
            reserve_bytes: settings.reserve_bytes,
            free_bytes_min: settings.free_bytes_min,
        },
        degraded: args.degraded,
        rebuild: args.rebuild,
        ..OpenOptions::new(LogKind::Coordinator)
    };
    let opened = match &settings.second_dir {
        Some(second) => options.open_pair(dir, second),
        None => options.open(dir),
    };
    let log = opened.map_err(|error| Failure::from_open(&error, dir, again))?;
    let report = log.report();
    for directory in &report.directories {
        let DirectoryReport { dir, state, detail } = directory;
        match state {
            DirectoryState::Good => {}
            DirectoryState::Rebuilt => {
                tracing::warn!(dir = %dir.display(), detail, "made anew from the other directory");
            }
            DirectoryState::GivenUp => {
                tracing::error!(dir = %dir.display(), detail, "goes on without this directory");
            }
        }
    }
    tracing::info!(
        dir = %dir.display(),
        clean = report.clean,
        frames = report.frames,
        records = report.records,
        unwitnessed = report.unwitnessed,
        elapsed_ms = report.elapsed.as_millis(),
        "the log is open"
    );
    Ok(log)
}

fn failed(error: &ServeError, dir: &Path, again: &str) -> Failure {
    let (code, what) = match error {
        ServeError::Open(error) => return Failure::from_open(error, dir, again),
        ServeError::Record { error: CodecError::UnknownTag(_), .. } => {
            (Code::LogNewer, "the log is of a newer version")
        }
        ServeError::Record { .. } => (Code::LogDamaged, "the log is damaged"),
        ServeError::Append(_) | ServeError::Close(_) => {
            (Code::LogFailed, "the log could not be written")
        }
        _ => (Code::ServeFailed, "the coordinator stopped"),
    };
    let verify = format!("unanimous log verify --data-dir {}", dir.display());
    Failure::new(code, what, crate::connect::causes(error), verify)
}

/// Binds a port, with what to do when that fails.
pub(crate) fn listen(option: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        let (code, what) = match error.kind() {
            ErrorKind::AddrInUse => (Code::PortInUse, format!("{address} is in use")),
            _ => (Code::ListenFailed, format!("cannot listen on {address}")),
        };
        let other = format!("the same command with {option} {}:0", address.ip());
        Failure::new(code, what, error.to_string(), other)
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
