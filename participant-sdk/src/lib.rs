//! Participants and clients of the Unanimous transaction coordinator.
//!
//! ```text
//!  application: Client::begin -> Transaction -- request() --> work call, `unanimous-transaction`
//!               Client::run   -> Handle -- calls through a ClientLayer --+
//!                                  |                                     |
//!                               commit()            service: ServerLayer -> Context
//!                                  |                                     |
//!                                  |                  Attached::enlist -> Branch::end
//!                                  |                                     |
//!                            the coordinator <-- one session -- the runner --> Resource
//! ```
//! An application:
//! ```no_run
//! # mod bank {
//! #     pub struct Move { pub account: u32, pub cents: i64 }
//! #     #[derive(Clone)]
//! #     pub struct BankClient<S>(S);
//! #     impl<S> BankClient<S> {
//! #         pub fn new(channel: S) -> Self { Self(channel) }
//! #         pub async fn debit(&mut self, _: impl tonic::IntoRequest<Move>)
//! #             -> Result<tonic::Response<()>, tonic::Status> { Ok(tonic::Response::new(())) }
//! #         pub async fn credit(&mut self, _: impl tonic::IntoRequest<Move>)
//! #             -> Result<tonic::Response<()>, tonic::Status> { Ok(tonic::Response::new(())) }
//! #     }
//! # }
//! # use bank::{BankClient, Move};
//! use std::time::Duration;
//! use unanimous_sdk::{Client, ClientLayer};
//!
//! # async fn transfer(
//! #     at_a: tonic::transport::Channel,
//! #     at_b: tonic::transport::Channel,
//! #     cents: i64,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let unanimous = Client::builder("http://127.0.0.1:7450", "shop").connect()?;
//! let mut bank_a = BankClient::new(ClientLayer.layer(at_a));
//! let mut bank_b = BankClient::new(ClientLayer.layer(at_b));
//!
//! let tx = unanimous.begin("transfer").timeout(Duration::from_secs(5)).label("order", "4711");
//! let tx = tx.await?;
//! bank_a.debit(tx.request(Move { account: 1, cents })).await?; // `?` drops tx: rolled back
//! bank_b.credit(tx.request(Move { account: 2, cents })).await?;
//! tx.commit().await?;
//!
//! // Or as one piece of work, whose calls carry the transaction by themselves:
//! let transfer = unanimous.run("transfer", async move |_| {
//!     bank_a.debit(Move { account: 1, cents }).await?;
//!     bank_b.credit(Move { account: 2, cents }).await
//! });
//! tokio::spawn(transfer).await??;
//! # Ok(())
//! # }
//! ```
//! Reading order: [`resource`] (what the owner of data implements), [`participant`] (joining
//! transactions), then [`client`] and [`transaction`] (beginning and ending them), [`context`] and
//! [`layer`] (how calls carry a transaction).
//!
//! Features: `postgres` (branches of a PostgreSQL database), `embedded-resource` (a complete
//! durable resource: `embedded`), `axum` ([`Context`] as an extractor), `in-process` (a coordinator
//! inside of a test: `InProcess`).
//!
//! What this crate is *not*: the protocol of a branch is `unanimous_core::participant`, run here by
//! one task; no decision is made here, unless a [`HeuristicPolicy`] was asked for. It prints
//! nothing and reads no configuration.

#[cfg(feature = "axum")]
mod axum;
pub mod client;
pub mod context;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod database;
#[cfg(feature = "embedded-resource")]
pub mod embedded;
#[cfg(feature = "in-process")]
pub mod in_process;
pub mod layer;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod participant;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod resource;
pub mod transaction;

mod crash;
mod credentials;
mod deadline;
mod endpoint;
mod finding;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
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
pub use credentials::{Authorization, BadCredentials, Credentials};
pub use endpoint::BadAddress;
pub use finding::{Finding, Severity};
#[cfg(feature = "in-process")]
pub use in_process::{InProcess, InProcessError};
pub use layer::{ClientLayer, ServerLayer};
pub use participant::{
    Attached, Branch, JoinError, NotConnected, Participant, ParticipantBuilder, ParticipantState,
    StartError,
};
pub use resource::{EndedAlone, Prepared, Resource, Retry, Unfit};
pub use transaction::{
    CommitError, Committed, Completion, Handle, Rollback, RollbackReason, RunError, Transaction,
};

pub use unanimous_core::coordinator::EndedMark;
pub use unanimous_core::message::{Done, Vote, Wait};
pub use unanimous_core::participant::{HeuristicPolicy, Times};
pub use unanimous_core::{BranchId, BranchResult, Decision, Evidence, Gtrid, Outcome, ResourceId};

/// The header of a work call that names the transaction: 48 hexadecimal digits.
pub const HEADER_TRANSACTION: &str = "unanimous-transaction";

/// The header of a work reply that tells how many branches the call enlisted anew, in decimal.
pub const HEADER_BRANCHES: &str = "unanimous-branches";

/// What sessions say about this library, for people.
const SDK: &str = concat!("unanimous-sdk ", env!("CARGO_PKG_VERSION"), " (rust)");

/// The version of the protocol that sessions speak.
const PROTOCOL_VERSION: u32 = 1;
