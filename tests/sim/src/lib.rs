//! A deterministic simulator: the cores that ship, with the record codec and the frames that ship,
//! over a simulated network, simulated clocks and simulated disks. One seed decides everything.
//!
//! ```text
//!  Swarm::draw(seed)        how many nodes, which faults, how often
//!        |
//!  World::run               safety phase: faults; heal; then all must come to rest within a bound
//!    queue -> happen -> { coordinator, participant + bank, client } -> network, disks -> queue
//!        |                                    |
//!        |                                  fact()  ->  invariants, after every event
//!        |
//!  Schedule                 counts, hash of the trace, the invariant that broke
//! ```
//!
//! Reading order: `swarm` (what a seed draws), `world` (the loop), `coordinator` with its `log` and
//! `compaction`, `participant` with its `store` and `bank`, `client` (the nodes), `network`,
//! `disk`, `faults`, `misbehave`, [`run`] (many seeds on many threads). [`invariants`] watches
//! every step.
//!
//! A [`Script`] changes what a seed draws: `shrink` looks for a smaller schedule that fails alike,
//! `sweep` lets each node die at each point of its life.
//!
//! What it is *not*: it simulates neither gRPC nor the log's store, and no scheduler inside a
//! process. Those are tried with real processes.
//!
//! To reproduce and shrink a failure, to add an invariant or a fault: docs/testing.md.

mod bank;
mod client;
pub mod command;
mod compaction;
mod coordinator;
mod coverage;
mod disk;
mod faults;
mod hashes;
pub mod invariants;
mod log;
mod misbehave;
pub mod model;
pub mod museum;
mod network;
mod participant;
mod queue;
mod random;
mod run;
mod script;
mod shrink;
mod store;
mod subcommands;
mod swarm;
mod sweep;
mod trace;
mod world;

pub use coverage::{Coverage, CoverageTable, Impossible, Pair};
pub use hashes::hashes;
pub use random::Random;
pub use run::{Failure, Options, Stop, Totals, run, simulate, simulate_with};
pub use script::{Death, Quiet, Script};
pub use shrink::{Shrunk, shrink};
pub use swarm::{Delivery, Swarm};
pub use sweep::{Sweep, Swept, sweep};
pub use world::Schedule;
