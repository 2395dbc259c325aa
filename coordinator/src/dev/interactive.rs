//! `dev` without `--run-for`: one transfer a second, and what to try meanwhile.

use super::load::{Ended, Transfer};
use super::session::Session;
use super::{BANKS, COORDINATOR};
use crate::errors::Failure;
use crate::output::{escape, talk};
use crate::tx::short_id;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const PAUSE: Duration = Duration::from_secs(1);

/// Until somebody asks to stop.
pub(crate) async fn run(session: &mut Session) -> Result<(), Failure> {
    introduce(session).await;
    let supervisor = Rc::clone(&session.supervisor);
    let control =
        tokio::task::spawn_local(session.control.serve(Rc::clone(&supervisor), session.ports));
    let mut rng = ChaCha8Rng::seed_from_u64(session.seed);
    let mut interrupted = session.interrupted.clone();
    let mut every = tokio::time::interval(PAUSE);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = interrupted.wait_for(|interrupted| *interrupted) => break,
            _ = every.tick() => {}
        }
        if let Some(failure) = supervisor.lost().await {
            // Somebody may have killed it from another terminal: it can be started again.
            talk(failure.lines(crate::output::stderr_colour()).trim_end());
        }
        let (load, transfer) = (Rc::clone(&session.load), Transfer::draw(&mut rng));
        // A task for each: one that hangs does not hold up the next. Each ends within its time-out.
        tokio::task::spawn_local(async move {
            let ended = load.transfer(transfer).await;
            talk(format_args!("{transfer}  {}", escape(&words(&ended))));
        });
    }
    talk("stopping");
    control.abort();
    Ok(())
}

fn words(ended: &Ended) -> String {
    let short = |gtrid: &unanimous_sdk::Gtrid| short_id(&gtrid.to_string()).to_owned();
    match ended {
        Ended::Committed(gtrid) => format!("{} committed", short(gtrid)),
        Ended::RolledBack(gtrid, why) => format!("{} rolled back: {why}", short(gtrid)),
        Ended::NotBegun(why) => format!("not begun: {why}"),
        Ended::GivenUp(why) => format!("rolled back: {why}"),
        Ended::Unknown(gtrid) => {
            format!("not known: unanimous tx outcome {gtrid} --expected-branches 2")
        }
        Ended::Heuristic(gtrid, outcome) => format!("{} HEURISTIC: {outcome}", short(gtrid)),
    }
}

async fn introduce(session: &Session) {
    let ports = &session.ports;
    let places = [ports.address(), ports.bank_address(0), ports.bank_address(1)];
    talk("A coordinator and two banks, one transfer a second. Ctrl-C stops them.");
    for ((name, pid), place) in session.supervisor.pids().await.into_iter().zip(places) {
        talk(format_args!("  {name:<12} {place}  pid {}", pid.unwrap_or_default()));
    }
    let admin = "operators";
    talk(format_args!("  {admin:<12} {}", ports.admin_address()));
    talk(format_args!("  stores       {}", session.layout.root().display()));
    talk(format_args!("  logs         {}", session.layout.log_file(COORDINATOR).display()));
    talk(format_args!("  control      {}", session.control.path().display()));
    let (executable, options) = (session.executable.display(), ports.options());
    talk("Try in another terminal:");
    for (command, what) in [
        (format!("tx watch{options}"), "transactions as they come, change and go; q ends it"),
        (format!("dev chaos kill {}", BANKS[1]), "kill -9: it stays down, transfers roll back"),
        (format!("tx list{options}"), "what is not finished, and for whom it waits"),
        (format!("dev chaos start {}", BANKS[1]), "and it heals"),
        (format!("status{options}"), "how it is, in one sentence and in numbers"),
        (format!("dev chaos kill {COORDINATOR}"), "nothing is lost"),
        (format!("dev chaos start {COORDINATOR}"), "and it goes on where it was"),
    ] {
        talk(format_args!("  {executable} {command}\n      {what}"));
    }
}
