//! `dev --run-for`: load for a while, faults meanwhile, then everything is stopped and checked.

use super::chaos::{self, Done};
use super::session::Session;
use super::verify::{self, Verified};
use super::{BANKS, COORDINATOR, NAMES};
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Document, Output, talk};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Time for everything to finish after the last fault.
const SETTLE_MAX: Duration = Duration::from_secs(90);
const PROGRESS: Duration = Duration::from_secs(2);
/// How often it is looked whether a process was lost.
const LOOK: Duration = Duration::from_millis(100);

/// What the load saw.
struct Seen {
    elapsed: Duration,
    chaos: Done,
    committed_in_time: u64,
    unknown: u64,
}

/// Runs, stops, checks and reports.
pub(crate) async fn run(
    session: &mut Session,
    run_for: Duration,
    chaos: bool,
    output: Output,
) -> Result<(), Failure> {
    talk(format_args!(
        "coordinator {}, stores and logs in {}, --seed {}",
        session.ports.address(),
        session.layout.root().display(),
        session.seed
    ));
    let seen = load(session, run_for, chaos).await?;
    session.load.flush_answers()?;
    session.supervisor.stop_all().await?;
    talk("stopped; reading the stores");
    let verified = verify_afresh(session).await?;
    let report = report(session, &seen, &verified);
    output.show_line(&report)?;
    let mut wrong: Vec<String> = verified.complaint().into_iter().collect();
    if seen.unknown > 0 {
        wrong.push(format!("{} outcomes are still unknown", seen.unknown));
    }
    match session.load.counts().heuristic.get() {
        0 => {}
        told => wrong.push(format!("{told} heuristic outcomes were told to clients")),
    }
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(verify::complain(&wrong.join("\n"), &session.layout)),
    }
}

async fn load(session: &mut Session, run_for: Duration, chaos: bool) -> Result<Seen, Failure> {
    let started = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let control = tokio::task::spawn_local(
        session.control.serve(Rc::clone(&session.supervisor), session.ports),
    );
    let mut clients = tokio::task::spawn_local(Rc::clone(&session.load).run(session.seed, stopped));
    let done = RefCell::new(Done::default());
    let steps = match chaos {
        true => chaos::plan(run_for, &mut ChaCha8Rng::seed_from_u64(session.seed)),
        false => Vec::new(),
    };
    let committed = || session.load.counts().committed.get();
    let faults = async {
        chaos::carry_out(&steps, started, &session.supervisor, &done, committed).await?;
        std::future::pending().await
    };
    let mut interrupted = session.interrupted.clone();
    let ended: Result<(), Failure> = tokio::select! {
        failed = faults => failed,
        failed = watch_processes(session, started) => failed,
        () = tokio::time::sleep_until((started + run_for).into()) => Ok(()),
        _ = interrupted.wait_for(|interrupted| *interrupted) => Ok(()),
    };
    control.abort();
    let elapsed = started.elapsed();
    let committed_in_time = committed();
    stop.send_replace(true);
    ended?;
    session.supervisor.start_all().await?;
    talk("load stopped; waiting until nothing is in doubt");
    let finish = session.wait_until(SETTLE_MAX, async || clients.is_finished()).await?;
    if !finish {
        clients.abort();
    }
    let _ = (&mut clients).await;
    let unknown = session.load.resolve().await;
    if !session.wait_until(SETTLE_MAX, async || session.settled().await).await? {
        talk(format_args!("not everything has finished after {} s", SETTLE_MAX.as_secs()));
    }
    Ok(Seen { elapsed, chaos: done.into_inner(), committed_in_time, unknown })
}

/// Shows how it goes; ends only when a process is lost.
async fn watch_processes(session: &Session, started: Instant) -> Result<(), Failure> {
    let mut look = tokio::time::interval(LOOK);
    let mut shown = started;
    loop {
        look.tick().await;
        if let Some(failure) = session.supervisor.lost().await {
            return Err(failure);
        }
        if shown.elapsed() >= PROGRESS {
            shown = Instant::now();
            let (counts, seconds) = (session.load.counts(), started.elapsed().as_secs_f64());
            let (committed, rolled_back) = (counts.committed.get(), counts.rolled_back.get());
            talk(format_args!("{seconds:>6.1}s  {committed} committed, {rolled_back} rolled back"));
        }
    }
}

/// The check is made by a process that has seen nothing of the run.
async fn verify_afresh(session: &Session) -> Result<Verified, Failure> {
    let failed = |why: String| {
        let next = format!("unanimous dev verify {}", session.layout.root().display());
        Failure::new(Code::CheckFailed, "the stores were not checked", why, next)
    };
    let ran = tokio::process::Command::new(&session.executable)
        .args(["dev", "verify", "--output", "json"])
        .arg(session.layout.root())
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let stdout = String::from_utf8_lossy(&ran.stdout);
    // What is wrong with the stores is in the report; only a check that could not be made has none.
    serde_json::from_str(stdout.trim())
        .map_err(|_| failed(String::from_utf8_lossy(&ran.stderr).into_owned()))
}

fn report(session: &Session, seen: &Seen, verified: &Verified) -> Document {
    let counts = session.load.counts();
    let kills_of = |name: &str| seen.chaos.kills.get(name).copied().unwrap_or_default();
    let kills: u64 = NAMES.iter().map(|name| kills_of(name)).sum();
    let heuristic = verified.heuristic.max(counts.heuristic.get());
    let elapsed_ms = u64::try_from(seen.elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let per_second = seen.committed_in_time.saturating_mul(1_000) / elapsed_ms;
    let after_last_kill = match kills {
        0 => 0,
        _ => seen.committed_in_time - seen.chaos.committed_at_last_kill,
    };
    let [a, b] = BANKS;
    let report = json!({
        "committed": counts.committed.get(),
        "rolled_back": counts.rolled_back.get(),
        "unknown": seen.unknown,
        "in_doubt": verified.in_doubt,
        "heuristic": heuristic,
        "sum_expected": verified.sum_expected,
        "sum_actual": verified.sum_actual,
        "seconds": (seen.elapsed.as_secs_f64() * 10.0).round() / 10.0,
        "kills": kills,
        "freezes": seen.chaos.freezes,
        "kills_by_process": {
            COORDINATOR: kills_of(COORDINATOR),
            a: kills_of(a),
            b: kills_of(b),
        },
        "finished_by_recovery": verified.finished_by_recovery,
        "committed_after_last_kill": after_last_kill,
        "commits_logged": verified.commits_logged,
        "acknowledged_missing": verified.acknowledged_missing,
        "rolled_back_but_committed": verified.rolled_back_but_committed,
        "not_begun": counts.not_begun.get(),
        "throughput_per_second": per_second,
        "seed": session.seed.to_string(),
    });
    let rows = report.as_object().into_iter().flatten();
    let rows = rows.map(|(name, value)| vec![name.replace('_', " "), plain(value)]).collect();
    Document { rows, whole: report, ..Document::default() }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {value}"));
            fields.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
