//! What processes that run until they are stopped have in common: logs, signals, and an end with
//! their parent.

use crate::cli::{LogFormat, ProcessArgs};
use crate::codes::Code;
use crate::errors::{Exit, Failure};
use std::io::{IsTerminal, Read};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr, and watches stdin if asked to.
pub(crate) fn begin(args: &ProcessArgs) -> Result<(), Failure> {
    start_logging(args.log_format, &args.log_level)?;
    if args.exit_with_stdin {
        end_with_stdin()?;
    }
    Ok(())
}

/// Logs to stderr from here on.
pub(crate) fn start_logging(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        let what = format!("not a log level: {level}");
        Failure::new(Code::BadLogLevel, what, error.to_string(), "--log-level info")
    })?;
    let colour = crate::output::stderr_colour() && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // It would be told on stderr, where writing has just failed, and panic: with nobody reading
        // the log lines, not even a signal would stop the process any more.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(colour);
    match format {
        LogFormat::Human => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Whoever started this process holds the other end of stdin. When it is gone, so is this process,
/// at once: its stores are made for that.
fn end_with_stdin() -> Result<(), Failure> {
    let watch = || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(stdin.read(&mut ignored), Ok(1..)) {}
        std::process::exit(Exit::Failed.code().into());
    };
    spawn("stdin", watch)
}

/// Calls `stop` for each SIGINT or SIGTERM, with the signal's name and how many came, on a thread
/// of its own.
pub(crate) fn on_signals(
    mut stop: impl FnMut(&'static str, u32) + Send + 'static,
) -> Result<(), Failure> {
    let runtime = crate::runtime()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        let catch = |kind| {
            signal(kind).map_err(|error| Failure::io("catching signals", error, "ulimit -a"))
        };
        (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?)
    };
    spawn("signals", move || {
        runtime.block_on(async {
            for count in 1.. {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                stop(name, count);
            }
        });
    })
}

/// Calls `reload` for each SIGHUP, on a thread of its own.
pub(crate) fn on_hangup(mut reload: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    let runtime = crate::runtime()?;
    let mut hangup = {
        let _context = runtime.enter();
        signal(SignalKind::hangup())
            .map_err(|error| Failure::io("catching signals", error, "ulimit -a"))?
    };
    spawn("hangup", move || {
        runtime.block_on(async {
            while hangup.recv().await.is_some() {
                reload();
            }
        });
    })
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| Failure::io("starting a thread", error, "ulimit -u"))
}
