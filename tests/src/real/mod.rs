//! Real processes under load: what the experiments (`tests/src/bin`) have in common.
//!
//! An experiment starts `unanimous serve` and participants, does something to them or to the disk
//! below them while clients work, and reports: a table for people on stderr, one JSON object as the
//! last line of stdout, exit code 1 if something that must hold did not.
//!
//! Files: `process` (start, signal, measure), `coordinator` (`serve`, and questions to it),
//! `memory` (participants that keep nothing), `banks` (durable participants and transfers between
//! them), `latency`, `space` (small file systems, what a directory holds), `shim` and `power` (what
//! a loss of power leaves), `report`.

pub mod banks;
pub mod coordinator;
pub mod latency;
pub mod memory;
pub mod power;
pub mod process;
pub mod proxy;
pub mod report;
pub mod shim;
pub mod space;

/// Messages and service of the demo banks.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::too_many_lines)]
pub mod wire {
    tonic::include_proto!("unanimous.dev.v1");
}

pub use banks::{Banks, Transfers};
pub use coordinator::Coordinator;
pub use latency::Window;
pub use process::Process;
pub use report::Report;

use anyhow::{Context as _, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two looks at something that has no way to tell.
pub const LOOK: Duration = Duration::from_millis(20);

/// The binary `unanimous` that stands beside this one.
///
/// # Errors
/// It was not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().context("an executable lies in a folder")?;
    // Tests lie one folder deeper.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = folder.join("unanimous");
    ensure!(binary.exists(), "{} is missing: build `-p unanimous` too", binary.display());
    Ok(binary)
}

/// Looks until the answer is yes.
///
/// # Errors
/// Not within `at_most`, or the look fails.
pub fn wait_until(
    what: &str,
    at_most: Duration,
    mut yes: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while !yes()? {
        ensure!(started.elapsed() < at_most, "{what}: not within {at_most:?}");
        std::thread::sleep(LOOK);
    }
    Ok(started.elapsed())
}
