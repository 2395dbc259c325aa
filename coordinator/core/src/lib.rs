//! The two-phase commit protocol of Unanimous as pure state machines.
//!
//! ```text
//!  Event::Requested  clients, participants' enlistments and inquiries
//!  Event::Answered   votes and acknowledgements
//!  Event::Flushed    every record up to here is durable
//!  Event::Ticked     the deadline asked for has come
//!         |
//!  Coordinator::handle(now, event)          ... then poll() until it gives no more
//!         |
//!  Action::Append    one record for the log, forced or lazy
//!  Action::Send      one message for one branch
//!  Action::Reply     one answer for one waiting caller
//! ```
//!
//! The coordinator waits for the flush itself: an action may be carried out the moment it is
//! polled, in any order relative to other actions, and nothing that shows a decision is given out
//! before its record is durable. [`participant`] is the other side, in the same shape.
//!
//! What this crate is *not*: it reads no clock and no entropy, opens no file and no socket, spawns
//! nothing, and has no unordered map; its `clippy.toml` bans them. The same inputs give the same
//! outputs, so a simulator or a model checker runs the very code that ships. How records are stored
//! is `unanimous-recovery`'s, how messages travel `unanimous-server`'s and `unanimous-sdk`'s
//! business.
//!
//! Rules cite the contract by section: "section 3" is the coordinator's table, "section 6" says who
//! may be told "rolled back".

pub mod audit;
pub mod backoff;
pub mod coordinator;
pub mod id;
pub mod message;
pub mod museum;
pub mod outcome;
pub mod participant;
pub mod presume;
pub mod record;
pub mod tally;

pub use audit::{Act, ActRefusal, AuditEntry, AuditKind, AuditResult};
pub use coordinator::{Coordinator, Limits};
pub use id::{
    Bqual, BranchId, Gtrid, IdError, InstanceId, Labels, LogId, Owner, ParticipantName, ResourceId,
    TransactionName,
};
pub use message::{Action, Answer, CallerId, Event, Message, Request, Response, Route};
pub use outcome::{BranchResult, Decision, Outcome};
pub use record::{Evidence, Record};

use serde::{Deserialize, Serialize};

/// Milliseconds of a clock that never goes back, counted from any fixed point. The machines only
/// compare and add.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// This time plus a duration in milliseconds; stops at the end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, duration_ms: u64) -> Self {
        Self(self.0.saturating_add(duration_ms))
    }

    /// Milliseconds from `earlier` to this time, 0 if it lies before.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The number of a record in the log, counted from 1 over all lives of the log without a gap.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Lsn(pub u64);

/// The number of a frame (one group commit) in the log, counted from 1 without a gap.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct FrameNumber(pub u64);
