//! A service that takes part in transactions: resources under a name, and branches joined for work
//! calls.
//!
//! ```no_run
//! use tonic::{Request, Response, Status};
//! use unanimous_sdk::{Attached, Participant, Resource};
//!
//! struct Office<R>(Attached<R>);
//!
//! impl<R: Resource> Office<R> {
//!     async fn book(&self, call: Request<u32>) -> Result<Response<()>, Status> {
//!         let branch = self.0.enlist(&call).await?; // dropped before its end, it votes rollback
//!         // The work, under branch.id(), with `?` wherever it may fail.
//!         branch.end();
//!         Ok(Response::new(()))
//!     }
//! }
//!
//! # async fn serve(seats: impl Resource) -> Result<(), unanimous_sdk::StartError> {
//! let mut builder = Participant::builder("theatre").coordinator("http://127.0.0.1:7450");
//! let office = Office(builder.attach("theatre/seats", seats));
//! let participant = builder.start().await?; // its resources are examined first
//! # drop((office, participant));
//! # Ok(())
//! # }
//! ```

mod attached;
mod builder;
mod join_error;
mod probe;

pub(crate) use attached::branch_span;
pub use attached::{Attached, Branch};
pub use builder::{ParticipantBuilder, StartError};
pub use join_error::JoinError;

use crate::runner::{Command, Joining};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use unanimous_core::Gtrid;

/// What a participant is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParticipantState {
    /// There is no session; the coordinator is dialled. Joining waits.
    Connecting,
    /// It takes part in transactions.
    Connected,
    /// Another process has said hello with this one's instance id, as after a copy of a running
    /// machine. Two that reconnect in turn would end each other's sessions for ever, so this one
    /// stays away: joining fails, branches without a vote are undone by their time-out, prepared
    /// ones are left to the other process and to the next start. It does not end by itself.
    Replaced,
    /// It was stopped.
    Stopped,
}

/// The state, and why the last session or dial ended.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) state: ParticipantState,
    pub(crate) lost: Option<String>,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotConnected {
    /// The time is over.
    #[error("no session with the coordinator within {patience:?}: {why}")]
    TimedOut {
        /// What was given.
        patience: Duration,
        /// Why the last dial or session ended, escaped.
        why: String,
    },
    /// See [`ParticipantState::Replaced`].
    #[error("the participant was replaced by another process with the same instance id")]
    Replaced,
    /// The participant was stopped.
    #[error("the participant is stopped")]
    Stopped,
}

/// The way to the participant's task. It is there before the task is.
#[derive(Clone, Debug)]
struct Line {
    commands: mpsc::Sender<Command>,
    join_timeout_ms: Arc<AtomicU64>,
}

impl Line {
    /// A branch of the resource with this index, enlisted anew or not.
    async fn join(
        &self,
        gtrid: Gtrid,
        resource: usize,
        patience: Duration,
    ) -> Result<Branch, JoinError> {
        let timeout_ms = self.join_timeout_ms.load(Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let joining = Joining { gtrid, resource, reply };
            self.commands.send(Command::Join(joining)).await.map_err(|_| JoinError::Stopped)?;
            answer.await.map_err(|_| JoinError::Stopped)?
        };
        let answered = timeout(patience.min(Duration::from_millis(timeout_ms)), asked).await;
        answered.map_err(|_| JoinError::TimedOut)?
    }
}

/// A running participant. Clones are the same participant; it ends with [`Participant::stop`], or
/// when the last one and everything [`Attached`] to it are dropped.
#[derive(Clone, Debug)]
pub struct Participant {
    line: Line,
    standings: watch::Receiver<Standing>,
}

impl Participant {
    /// A participant of this name: 1 to 64 of `a-z 0-9 - _ .`, the first a letter or digit. All
    /// instances of a service share it.
    pub fn builder(name: impl Into<String>) -> ParticipantBuilder {
        ParticipantBuilder::new(name.into())
    }

    /// What it is able to do now.
    #[must_use]
    pub fn state(&self) -> ParticipantState {
        self.standings.borrow().state
    }

    /// Waits until the state is another one than `state`, and returns it. A state that lasts only a
    /// moment may be missed.
    pub async fn changed_from(&self, state: ParticipantState) -> ParticipantState {
        let mut standings = self.standings.clone();
        let changed = standings.wait_for(|now| now.state != state).await;
        changed.map_or(ParticipantState::Stopped, |now| now.state)
    }

    /// Waits until there is a session with the coordinator. [`ParticipantBuilder::start`] does not
    /// wait for it, so that a service comes up whichever of the two is started first.
    ///
    /// # Errors
    /// See [`NotConnected`]. The participant goes on dialling.
    pub async fn connected(&self, patience: Duration) -> Result<(), NotConnected> {
        let mut standings = self.standings.clone();
        let settled = standings.wait_for(|now| now.state != ParticipantState::Connecting);
        let state = match timeout(patience, settled).await {
            Ok(settled) => settled.map_or(ParticipantState::Stopped, |now| now.state),
            Err(_) => ParticipantState::Connecting,
        };
        match state {
            ParticipantState::Connected => Ok(()),
            ParticipantState::Replaced => Err(NotConnected::Replaced),
            ParticipantState::Stopped => Err(NotConnected::Stopped),
            ParticipantState::Connecting => {
                let lost = self.standings.borrow().lost.clone();
                let why = lost.map_or_else(
                    || "the first dial has no answer yet".to_owned(),
                    |why| why.escape_debug().to_string(),
                );
                Err(NotConnected::TimedOut { patience, why })
            }
        }
    }

    /// Ends the participant: calls of the resources under way return first (a few seconds at most),
    /// then the session is closed. Branches that have not voted are undone by the coordinator's
    /// time-out; prepared ones stay so.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.line.commands.send(Command::Stop(reply)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}
