//! The durable log of Unanimous: what was told to anybody can be read again after any crash.
//!
//! ```text
//!  OpenOptions::open ---> OpenedLog ---records()---> the caller folds them in
//!                             |
//!                           start()
//!                             |
//!  Writer::append ---> queue ---> thread "log": one frame, one store append ---> on_flushed(group)
//!                                      |
//!                                      +---> thread "witness": last durable frame, each 100 ms
//! ```
//! With [`OpenOptions::open_pair`] the same frames go to two directories.
//! [`Writer::drop_below`] lets the log thread drop old frames, a bounded slice at a time.
//!
//! Reading order: [`frame`] (bytes of one group commit), [`codec`] (bytes of one record), [`store`]
//! (what a store promises), [`chain`] (what makes frames a log), [`damage`] (what everything found
//! on open means), [`open`], `pair` (two directories), [`writer`], [`space`] (a full disk),
//! [`inspect`] (offline).
//!
//! Words: a record is *submitted* once [`Writer::append`] has taken it, *flushed* once `on_flushed`
//! named an LSN at or above it. Only flushed is durable. A frame is one group commit; at most one
//! frame is not yet durable.
//!
//! What this crate is *not*: it knows no protocol (it stores bytes and counts them), retries no
//! failed write or sync, and repairs nothing: it makes a damaged directory anew from a second one
//! that holds the same log, or refuses.

pub mod chain;
pub mod codec;
pub mod crash_point;
pub mod damage;
mod files;
pub mod frame;
mod home;
mod identity;
pub mod inspect;
pub mod museum;
pub mod open;
mod packed;
mod pair;
mod retained;
mod sled_store;
pub mod space;
pub mod store;
#[cfg(test)]
mod testing;
mod volumes;
mod witness;
pub mod writer;

pub use chain::Chain;
pub use crash_point::{CRASH_POINTS, crash_point};
pub use damage::{ErrorClass, Found, OpenError};
pub use identity::LogKind;
pub use inspect::{VerifyReport, read_records, read_records_lenient, verify};
pub use open::{DirectoryReport, DirectoryState, OpenOptions, OpenReport, OpenedLog, StoredRecord};
pub use space::Space;
pub use writer::{AppendError, Flushed, LogFailed, Stats, Writer};
