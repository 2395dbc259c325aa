//! The Unanimous coordinator as a library: [`run`] is the whole of it.
//!
//! ```text
//!  participants ==stream==> participant_session --+              +--> recovery::Writer (a thread)
//!  clients ======stream==> client_session --------+--> driver ---+--> registry --> participants
//!  people, scripts =call=> unary -----------------+   (the core) +--> replies
//!  operators =====call==> admin (a thread) ------- view ---^
//! ```
//! Reading order: [`Config`] (what bounds it), `serve` (start and stop), `access`, `door` and
//! `identity` (who may come in), `session` (what sessions share), `participant_session`,
//! `client_session`, `unary`, `driver` (the loop), `registry` (who gets a message), `view`,
//! `filter` and `admin` (what operators see), `acts` (what they do), `convert` and `refusal` (the
//! wire).
//!
//! What this crate is *not*: it decides nothing (that is `unanimous-core`), stores nothing
//! (`unanimous-recovery`), and holds no lock on a transaction: sessions deliver or drop, the core
//! sends again.

mod access;
mod acts;
mod admin;
mod audit_hash;
mod client_session;
mod config;
mod connection;
mod convert;
mod crash;
mod doctor;
mod door;
mod driver;
mod examination;
mod filter;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod identity;
mod orphans;
mod participant_session;
mod refusal;
mod registry;
mod serve;
mod session;
mod shutdown;
mod unary;
mod upkeep;
mod view;
mod words;

pub use access::{Access, AccessError, AccessFiles, Shown, show_certificates, token_line};
pub use access::{NAME_URI, PARTICIPANT_URI, ROLE_URI};
pub use audit_hash::audit_hash;
pub use config::{Config, ConfigError};
pub use crash::CRASH_POINTS;
pub use identity::{CALLS, Role};
pub use serve::{Listeners, ServeError, run};
pub use shutdown::{Shutdown, ShutdownHandle, shutdown};

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// This life's first record is not durable yet.
    Starting,
    /// Takes new transactions.
    Serving,
    /// Lets what has begun end.
    Stopping,
    /// The sessions are ended.
    Stopped,
}
