//! Participants and clients of the Unanimous transaction coordinator.
//!
//! ```text
//!  application: Client::begin -> Transaction - tx.call() -> work call with `unanimous-transaction`
//!                                    |                                 |
//!                                 commit()               service: Participant::join -> Branch::end
//!                                    |                                 |
//!                              the coordinator <-- one session -- the runner --> Resource
//! ```
//! Reading order: [`resource`] (what the owner of data implements), [`participant`] (joining
//! transactions), then [`client`] and [`transaction`] (beginning and ending them). With the feature
//! `embedded-resource`, `embedded` is a complete durable resource.
//!
//! What this crate is *not*: the protocol of a branch is `unanimous_core::participant`, run here by
//! one task; no decision is ever made here. It prints nothing and reads no configuration.

#[cfg(feature = "axum")]
mod axum;
pub mod client;
pub mod context;
#[cfg(feature = "embedded-resource")]
pub mod embedded;
#[cfg(feature = "in-process")]
pub mod in_process;
pub mod layer;
pub mod participant;
pub mod resource;
pub mod transaction;

mod crash;
mod deadline;
mod endpoint;
mod mark;
mod runner;
mod session;
mod tally;
mod wire;

pub use client::{
    Begin, BeginError, Client, ClientBuilder, ConnectError, Resolution, ResolveError,
};
pub use context::{Carrier, Context};
pub use crash::CRASH_POINTS;
pub use endpoint::BadAddress;
#[cfg(feature = "in-process")]
pub use in_process::{InProcess, InProcessError};
pub use layer::{ClientLayer, ServerLayer};
pub use participant::{
    Branch, JoinError, Participant, ParticipantBuilder, ParticipantState, StartError,
};
pub use resource::{Prepared, Resource, Retry};
pub use transaction::{
    CommitError, Committed, Completion, Handle, Rollback, RollbackReason, RunError, Transaction,
};

pub use unanimous_core::coordinator::EndedMark;
pub use unanimous_core::message::{Done, Vote, Wait};
pub use unanimous_core::participant::Times;
pub use unanimous_core::{BranchId, BranchResult, Evidence, Gtrid, Outcome, ResourceId};

/// The header of a work call that names the transaction: 48 hexadecimal digits.
pub const HEADER_TRANSACTION: &str = "unanimous-transaction";

/// The header of a work reply that tells how many branches the call enlisted anew, in decimal.
pub const HEADER_BRANCHES: &str = "unanimous-branches";

/// What sessions say about this library, for people.
const SDK: &str = concat!("unanimous-sdk ", env!("CARGO_PKG_VERSION"), " (rust)");

/// The version of the protocol that sessions speak.
const PROTOCOL_VERSION: u32 = 1;
