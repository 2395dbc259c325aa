//! Setting a participant up.

use super::{Attached, Line, Participant, ParticipantState, Standing, probe};
use crate::credentials::{BadCredentials, Credentials};
use crate::endpoint::{BadAddress, Dial, endpoint};
use crate::resource::{AnyResource, Resource, Unfit};
use crate::runner::{Command, Registered, Runner, Setup};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use unanimous_core::id::resource_manager;
use unanimous_core::participant::{HeuristicPolicy, Times};
use unanimous_core::{IdError, ParticipantName, ResourceId};

/// Joins that wait to be taken by the runner; beyond it joining waits.
const JOINS_QUEUED_MAX: usize = 1_024;
/// Bounds of the period of the scan for orphans.
const SCAN_EVERY_MIN: Duration = Duration::from_millis(10);
const SCAN_EVERY_MAX: Duration = Duration::from_secs(3_600);
/// Orders that are on their way get so much time before a branch may end alone.
const POLICY_AFTER_MS_MIN: u64 = 1_000;
/// The longest kind of a resource, in bytes.
const KIND_BYTES_MAX: usize = 32;

/// Why a participant did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The participant's name or a resource id breaks its rule.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The coordinator's address cannot be used, or none was given.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// No resource was given.
    #[error("a participant needs at least one resource")]
    NoResource,
    /// A resource id, or its number in branch ids, comes twice.
    #[error("the resource {0} clashes with another one of this participant")]
    ResourceClash(ResourceId),
    /// The kind of a resource is longer than 32 bytes.
    #[error("the kind of resource {0} is longer than {KIND_BYTES_MAX} bytes")]
    KindTooLong(ResourceId),
    /// The heuristic policy would decide after less than a second.
    #[error(
        "the heuristic policy decides after {after_ms} ms\n  \
         why:  orders on their way would be overtaken: {POLICY_AFTER_MS_MIN} ms at least\n  \
         next: give it the time for which you could bear the locks, in minutes rather than seconds"
    )]
    PolicyTooShort {
        /// What was asked for.
        after_ms: u64,
    },
    /// A resource could not list its prepared branches.
    #[error("resource {resource} cannot list its prepared branches: {why}")]
    Recover {
        /// Which.
        resource: ResourceId,
        /// Its words.
        why: String,
    },
    /// A resource said that it cannot do its work as it is set up.
    #[error("resource {resource} is not fit: {unfit}")]
    Unfit {
        /// Which.
        resource: ResourceId,
        /// Its words.
        unfit: Unfit,
    },
    /// A resource was asked about a branch that nobody has, and answered what it may not.
    #[error("resource {resource}: {what}\n  why:  {why}\n  next: {next}")]
    Contract {
        /// Which.
        resource: ResourceId,
        /// What it did.
        what: String,
        /// What that would lead to.
        why: &'static str,
        /// What to do about it.
        next: &'static str,
    },
    /// A resource did not answer within 30 s.
    #[error("resource {resource} does not answer {call}")]
    Silent {
        /// Which.
        resource: ResourceId,
        /// What it was asked.
        call: &'static str,
    },
}

/// How a participant is set up. Made by [`Participant::builder`].
#[must_use]
pub struct ParticipantBuilder {
    name: String,
    address: String,
    credentials: Credentials,
    resources: Vec<(String, Arc<dyn AnyResource>)>,
    times: Times,
    policy: Option<HeuristicPolicy>,
    line: Line,
    inbox: mpsc::Receiver<Command>,
    branches_max: usize,
    session_queue_max: usize,
    scan_every: Duration,
}

impl ParticipantBuilder {
    pub(super) fn new(name: String) -> Self {
        let (commands, inbox) = mpsc::channel(JOINS_QUEUED_MAX);
        let line = Line { commands, join_timeout_ms: Arc::new(AtomicU64::new(10_000)) };
        Self {
            name,
            address: String::new(),
            credentials: Credentials::new(),
            resources: Vec::new(),
            times: Times::default(),
            policy: None,
            line,
            inbox,
            branches_max: 10_000,
            session_queue_max: 8_192,
            scan_every: Duration::from_secs(30),
        }
    }

    /// Where the coordinator is: `http://host:port` or `https://host:port`. The name is resolved
    /// again with each dial.
    pub fn coordinator(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// What proves who this is, for an address that begins with `https://`. None by itself. A
    /// coordinator that asks for it takes a participant only under its certificate's name.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Adds a resource. `id` names its data wherever they are reached from: 1 to 128 bytes of
    /// printable ASCII; phase two of a branch may come to any participant of the same name that
    /// declares it.
    ///
    /// What is returned joins transactions: give it to the service's handlers. It may be used at
    /// once; joining waits until the participant runs.
    pub fn attach<R: Resource>(&mut self, id: impl Into<String>, resource: R) -> Attached<R> {
        let (id, resource) = (id.into(), Arc::new(resource));
        let attached = Attached::new(Arc::clone(&resource), self.resources.len(), &self.line);
        self.resources.push((id, resource));
        attached
    }

    /// Time-outs and delays of branches.
    pub fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// Lets branches end without their coordinator when it is silent for too long: what is locked
    /// is free again, and atomicity is given up. Off by itself, and best left so.
    ///
    /// The decision is on record in the resource before it has any effect, is reported until the
    /// coordinator has it on its own list, and stays there, as a heuristic outcome, until an
    /// operator resolves it if the others ended otherwise. Every resource must be able to keep such
    /// records ([`Resource::check_alone`]): those of this library are.
    ///
    /// The silence is at least one second, for orders that are on their way, also to another
    /// process of this participant: less is [`StartError::PolicyTooShort`].
    pub fn heuristic_policy(mut self, policy: HeuristicPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// How long joining waits for the coordinator. 10 s by itself; less if the call's own time is
    /// over before.
    pub fn join_timeout(self, timeout: Duration) -> Self {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.line.join_timeout_ms.store(timeout_ms, Ordering::Relaxed);
        self
    }

    /// At most this many branches that were joined and are not finished; beyond it joining fails
    /// with [`crate::JoinError::Overloaded`]. 10,000 by itself.
    pub fn branches_max(mut self, max: usize) -> Self {
        self.branches_max = max;
        self
    }

    /// At most this many messages that the connection has not taken; beyond it messages are
    /// dropped, and sent again when the coordinator repeats its own. 8,192 by itself.
    pub fn session_queue_max(mut self, max: usize) -> Self {
        self.session_queue_max = max.max(1);
        self
    }

    /// The resources are asked for their prepared branches again and again, with this period or up
    /// to half of it less: a prepare may have arrived after its rollback. A branch that nobody here
    /// works on is asked about once it was listed twice. 30 s by itself; 10 ms to an hour.
    pub fn scan_every(mut self, period: Duration) -> Self {
        self.scan_every = period.clamp(SCAN_EVERY_MIN, SCAN_EVERY_MAX);
        self
    }

    /// Checks every resource, then starts the task that keeps the session. Does not wait for the
    /// coordinator: see [`Participant::connected`].
    ///
    /// A resource is asked whether it is fit ([`Resource::check`]), about a branch that nobody has,
    /// which shows whether it would vote for lost work, and for its prepared branches. One that
    /// says later ([`crate::Retry`]) is asked again for 30 s, and comes up then all the same, with
    /// a warning: it may have branches in doubt.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing runs then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(self) -> Result<Participant, StartError> {
        let name = ParticipantName::new(&self.name)?;
        let dial = Dial::new(endpoint(&self.address)?, self.credentials)?;
        let mut resources: Vec<Registered> = Vec::new();
        for (id, resource) in self.resources {
            let kind = resource.kind();
            let id = ResourceId::new(&id)?;
            let number = resource_manager(&name, &id);
            if resources.iter().any(|other| other.number == number || other.id == id) {
                return Err(StartError::ResourceClash(id));
            }
            if kind.len() > KIND_BYTES_MAX {
                return Err(StartError::KindTooLong(id));
            }
            resources.push(Registered { id, kind, number, resource });
        }
        if resources.is_empty() {
            return Err(StartError::NoResource);
        }
        if let Some(policy) = &self.policy {
            if policy.after_ms < POLICY_AFTER_MS_MIN {
                return Err(StartError::PolicyTooShort { after_ms: policy.after_ms });
            }
            tracing::warn!(
                participant = %name, after_ms = policy.after_ms, decision = ?policy.decision,
                "branches in doubt end alone if the coordinator is silent for so long"
            );
        }
        let mut held = Vec::new();
        for registered in &resources {
            held.push(probe::examine(registered, self.policy.is_some()).await?);
        }
        crate::crash::crash_point("participant.recover.listed");
        let (left, lefts) = mpsc::unbounded_channel();
        let connecting = Standing { state: ParticipantState::Connecting, lost: None };
        let (standing, standings) = watch::channel(connecting);
        let setup = Setup {
            name,
            resources,
            times: self.times,
            policy: self.policy,
            branches_max: self.branches_max,
            session_queue_max: self.session_queue_max,
            scan_every: self.scan_every,
            dial,
            left,
            standing,
        };
        tokio::spawn(Runner::new(setup, held, self.inbox, lefts).run());
        Ok(Participant { line: self.line, standings })
    }
}
