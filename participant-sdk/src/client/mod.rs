//! An application that begins and ends transactions: one session, any number of transactions at the
//! same time.

mod error;
mod link;

pub use error::{BeginError, ConnectError, ResolveError};
pub(crate) use link::{Ask, Unanswered};

use crate::context::Context;
use crate::credentials::Credentials;
use crate::endpoint::{Dial, endpoint};
use crate::transaction::{Handle, Rollback, RollbackReason, RunError, Transaction};
use error::NAME_BYTES_MAX;
use link::Link;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use unanimous_core::{Gtrid, Outcome};
use unanimous_proto::v1;
use v1::transact_request::Body as Say;
use v1::transact_response::Body as Heard;

/// Before an answer that tells nothing is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The reason of a refusal after which the outcome is not known.
const INTERNAL: &str = "INTERNAL";
/// How long one last question may take, when the time for an answer is over.
const LAST_QUESTION_MAX: Duration = Duration::from_secs(1);
/// Whoever wants to wait for longer waits for ever.
const PATIENCE_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It is committed, durably.
    Committed {
        /// Every branch is known to have finished.
        completed: bool,
    },
    /// It is rolled back.
    RolledBack(Rollback),
    /// Branches ended otherwise than decided.
    Heuristic(Outcome),
    /// The coordinator has no record and may not presume a rollback.
    Unknown,
}

/// How a client is set up. Made by [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    address: String,
    name: String,
    credentials: Credentials,
    begin_within: Duration,
    resolve_within: Duration,
    calls_max: usize,
}

impl ClientBuilder {
    /// How long a begin is tried, while the coordinator is not reached or is full. 30 s by itself.
    pub fn begin_within(mut self, patience: Duration) -> Self {
        self.begin_within = patience;
        self
    }

    /// How long an outcome is asked for before it is called unknown. 30 s by itself.
    pub fn resolve_within(mut self, patience: Duration) -> Self {
        self.resolve_within = patience;
        self
    }

    /// What proves who this is, for an address that begins with `https://`. None by itself.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// At most this many calls without an answer; beyond it calls wait. 4,096 by itself.
    pub fn calls_max(mut self, max: usize) -> Self {
        self.calls_max = max.max(1);
        self
    }

    /// Starts the task that keeps the session. Does not wait for the coordinator. The client is
    /// over when the runtime that this is called in is shut down, also for other runtimes.
    ///
    /// # Errors
    /// The address, the name or the credentials cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(self) -> Result<Client, ConnectError> {
        if self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(ConnectError::Name);
        }
        let dial = Dial::new(endpoint(&self.address)?, self.credentials)?;
        let (asks, inbox) = mpsc::channel(self.calls_max);
        tokio::spawn(Link::new(dial, self.name, self.calls_max, inbox).run());
        let (begin_within, resolve_within) = (self.begin_within, self.resolve_within);
        Ok(Client { asks, begin_within, resolve_within })
    }
}

/// The handle to one session. Clones share it; it ends with the last of them and their
/// transactions.
#[derive(Clone, Debug)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    begin_within: Duration,
    resolve_within: Duration,
}

impl Client {
    /// A client of the coordinator at `http://host:port` or `https://host:port`; `name` is for people, at most 64 bytes.
    pub fn builder(address: impl Into<String>, name: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            address: address.into(),
            name: name.into(),
            credentials: Credentials::new(),
            begin_within: Duration::from_secs(30),
            resolve_within: Duration::from_secs(30),
            calls_max: 4_096,
        }
    }

    /// A client with the builder's defaults. The session is opened in the background, and again
    /// whenever it ends.
    ///
    /// # Errors
    /// The address or the name cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(
        address: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<Self, ConnectError> {
        Self::builder(address, name).connect()
    }

    /// Begins a transaction when awaited. `name` says what kind of business act it is, at most 64
    /// bytes.
    pub fn begin(&self, name: impl Into<String>) -> Begin {
        Begin {
            client: self.clone(),
            name: name.into(),
            timeout: None,
            labels: Vec::new(),
            traceparent: String::new(),
        }
    }

    /// As [`Begin::run`], without time-out and labels of its own. The future borrows neither the
    /// client nor the name, so that it may be spawned.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run<T, E, F, Fut>(
        &self,
        name: &str,
        work: F,
    ) -> impl Future<Output = Result<T, RunError<E>>> + use<T, E, F, Fut>
    where
        F: FnOnce(Handle) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.begin(name).run(work)
    }

    /// Asks what became of a transaction and waits for its decision, at most as long as the builder
    /// says.
    ///
    /// `branches` is how many branches its work replies told (`None`: not counted). Only with two
    /// or more can a missing record mean rolled back: a one-phase commit leaves none.
    ///
    /// # Errors
    /// No answer in time, or the question was refused.
    pub async fn resolve(
        &self,
        gtrid: Gtrid,
        branches: Option<u32>,
    ) -> Result<Resolution, ResolveError> {
        let resolve = v1::Resolve {
            gtrid: gtrid.as_bytes().to_vec(),
            expected_branches: branches,
            wait: true,
        };
        self.ask_outcome(Say::Resolve(resolve)).await
    }

    /// Asks until there is an answer that tells something. All calls that have an outcome may be
    /// repeated after a lost session.
    ///
    /// A commit that is refused has changed nothing, and is asked for again if the coordinator
    /// wants that. A refusal is no such news when the commit may have been heard before: then its
    /// outcome is asked for. Nor is a missing record: only who has sent no commit before, and
    /// nobody else sends one, knows that there was none.
    pub(crate) async fn ask_outcome(&self, mut say: Say) -> Result<Resolution, ResolveError> {
        let deadline = end_of(self.resolve_within);
        let question = matches!(say, Say::Resolve(_));
        let mut heard = false;
        loop {
            let mut gave_up = ResolveError::NoAnswer;
            let answer = timeout_at(deadline, self.ask(say.clone())).await;
            let pause = match answer.map_err(|_| ResolveError::NoAnswer)? {
                Ok(Heard::Ended(ended)) => match resolution(ended.result.as_ref()) {
                    Some(Resolution::Unknown) if !heard && !question => {
                        return Ok(Resolution::RolledBack(presumed()));
                    }
                    Some(resolution) => return Ok(resolution),
                    None => {
                        heard |= !question;
                        ASK_AGAIN_AFTER
                    }
                },
                Ok(Heard::Refused(v1::Refused { reason, detail, retry_after_ms })) => {
                    heard |= !question && reason == INTERNAL;
                    say = match say {
                        Say::Commit(commit) if heard => Say::Resolve(outcome_of(commit)),
                        say if retry_after_ms > 0 => say,
                        _ if heard => return Err(ResolveError::NoAnswer),
                        _ => return Err(ResolveError::Refused { reason, detail }),
                    };
                    if !heard && !question {
                        gave_up = ResolveError::Refused { reason, detail };
                    }
                    refusal_pause(retry_after_ms, rand::random()).max(ASK_AGAIN_AFTER)
                }
                Ok(_) => ASK_AGAIN_AFTER,
                // Asked again as soon as there is a session.
                Err(Unanswered::Lost) => {
                    heard |= !question;
                    Duration::ZERO
                }
                Err(Unanswered::Over) if heard => return Err(ResolveError::NoAnswer),
                Err(Unanswered::Over) => return Err(ResolveError::ClientOver),
            };
            rest(pause, deadline).await.ok_or(gave_up)?;
        }
    }

    /// What is decided by now, if that can be learned soon.
    pub(crate) async fn outcome_now(
        &self,
        gtrid: Gtrid,
        branches: Option<u32>,
    ) -> Option<Resolution> {
        let resolve = v1::Resolve {
            gtrid: gtrid.as_bytes().to_vec(),
            expected_branches: branches,
            wait: false,
        };
        match timeout(LAST_QUESTION_MAX, self.ask(Say::Resolve(resolve))).await {
            Ok(Ok(Heard::Ended(ended))) => resolution(ended.result.as_ref()),
            _ => None,
        }
    }

    /// One call.
    async fn ask(&self, say: Say) -> Result<Heard, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask { say, reply: Some(reply) }).await.map_err(|_| Unanswered::Over)?;
        answer.await.map_err(|_| Unanswered::Lost)
    }

    /// A call whose answer nobody waits for; dropped when there is no room.
    pub(crate) fn tell(&self, say: Say) {
        if self.asks.try_send(Ask { say, reply: None }).is_err() {
            tracing::debug!("a rollback was not sent: the transaction will time out");
        }
    }
}

/// A transaction about to begin: await it.
#[derive(Debug)]
#[must_use = "nothing begins until it is awaited"]
pub struct Begin {
    client: Client,
    name: String,
    timeout: Option<Duration>,
    labels: Vec<v1::Label>,
    traceparent: String,
}

impl Begin {
    /// After this time without a decision the coordinator rolls the transaction back. Without it:
    /// the coordinator's default. The shortest one is 1 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Says what the business act is about: for people, filters of lists and the log. At most 8, a
    /// key once: 1 to 32 of `a-z 0-9 - _ .`; a value has at most 128 bytes without control
    /// characters. Otherwise the coordinator refuses the begin.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(v1::Label { key: key.into(), value: value.into() });
        self
    }

    /// Calls of the transaction carry this W3C `traceparent`, unless they have one.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = traceparent.into();
        self
    }

    /// Begins the transaction, does the work in it and commits. Work that fails or panics rolls
    /// back. Nothing is done twice: whether to try again is said by [`RunError`].
    ///
    /// The future is `Send` if the work's is, so that it may be spawned. Calls of the work through
    /// a [`crate::ClientLayer`] carry the transaction by themselves:
    /// ```no_run
    /// # mod bank {
    /// #     #[derive(Clone)]
    /// #     pub struct Bank;
    /// #     impl Bank {
    /// #         pub async fn debit(&mut self, _: u64) -> Result<u64, tonic::Status> { Ok(0) }
    /// #         pub async fn credit(&mut self, _: u64) -> Result<u64, tonic::Status> { Ok(0) }
    /// #     }
    /// # }
    /// # use bank::Bank;
    /// # use unanimous_sdk::{Client, RunError};
    /// # async fn transfer(unanimous: Client, mut bank_a: Bank, mut bank_b: Bank)
    /// #     -> Result<u64, RunError<tonic::Status>> {
    /// let transfer = unanimous.begin("transfer").label("order", "4711");
    /// let receipt = transfer.run(async move |tx| {
    ///     let left = bank_a.debit(5).await?;
    ///     if left == 0 {
    ///         tx.set_rollback_only("the account would be empty");
    ///     }
    ///     bank_b.credit(5).await
    /// });
    /// receipt.await
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run<T, E, F, Fut>(self, work: F) -> Result<T, RunError<E>>
    where
        F: FnOnce(Handle) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.begin().await?.run(work).await
    }

    async fn begin(self) -> Result<Transaction, BeginError> {
        let Self { client, name, timeout, labels, traceparent } = self;
        let timeout_ms = timeout.map_or(0, wire_ms);
        let deadline = end_of(client.begin_within);
        let mut refusal = None;
        loop {
            let request_id: [u8; 16] = rand::random();
            let begin = v1::Begin {
                name: name.clone(),
                timeout_ms,
                request_id: request_id.to_vec(),
                labels: labels.clone(),
                ..v1::Begin::default()
            };
            // Not later than the coordinator's own count begins.
            let begun_at = Instant::now();
            let gave_up = || refusal.clone().unwrap_or(BeginError::Unreachable);
            let answer = timeout_at(deadline, client.ask(Say::Begin(begin))).await;
            let pause = match answer.map_err(|_| gave_up())? {
                Ok(Heard::Begun(begun)) => {
                    let gtrid =
                        Gtrid::from_bytes(&begun.gtrid).map_err(|_| BeginError::BadAnswer)?;
                    let ends_at = begun_at.checked_add(Duration::from_millis(begun.timeout_ms));
                    let context = Context::new(gtrid, ends_at).with_traceparent(&traceparent);
                    return Ok(Transaction::new(client, context, &name));
                }
                Ok(Heard::Refused(v1::Refused { reason, detail, retry_after_ms })) => {
                    let refused = BeginError::Refused { reason, detail };
                    if retry_after_ms == 0 {
                        return Err(refused);
                    }
                    refusal = Some(refused);
                    refusal_pause(retry_after_ms, rand::random())
                }
                Ok(_) => return Err(BeginError::BadAnswer),
                Err(Unanswered::Lost) => Duration::ZERO,
                Err(Unanswered::Over) => return Err(BeginError::ClientOver),
            };
            let gave_up = || refusal.clone().unwrap_or(BeginError::Unreachable);
            rest(pause, deadline).await.ok_or_else(gave_up)?;
        }
    }
}

impl IntoFuture for Begin {
    type Output = Result<Transaction, BeginError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

/// On the wire 0 is the coordinator's default.
fn wire_ms(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn end_of(patience: Duration) -> Instant {
    Instant::now() + patience.min(PATIENCE_MAX)
}

/// Not earlier than the coordinator wishes, and up to twice as late: those who are refused together
/// must not come back together.
fn refusal_pause(retry_after_ms: u64, random: u64) -> Duration {
    let more_ms = random % retry_after_ms.saturating_add(1);
    Duration::from_millis(retry_after_ms.saturating_add(more_ms))
}

/// `None`, at once: the pause ends too late.
async fn rest(pause: Duration, deadline: Instant) -> Option<()> {
    let until = Instant::now().checked_add(pause).filter(|until| *until < deadline)?;
    sleep_until(until).await;
    Some(())
}

fn outcome_of(commit: v1::Commit) -> v1::Resolve {
    let v1::Commit { gtrid, expected_branches, .. } = commit;
    v1::Resolve { gtrid, expected_branches, wait: true }
}

/// The coordinator has forgotten it, and nobody has asked for its commit.
fn presumed() -> Rollback {
    let (participant, detail) = (String::new(), String::new());
    Rollback { reason: RollbackReason::Presumed, participant, detail }
}

/// `None`: not decided yet, or a value of a newer version: ask again.
pub(crate) fn resolution(result: Option<&v1::Result>) -> Option<Resolution> {
    let result = result?;
    match v1::Outcome::try_from(result.outcome).ok()? {
        v1::Outcome::Unspecified | v1::Outcome::Pending => None,
        v1::Outcome::Committed => Some(Resolution::Committed { completed: result.completed }),
        v1::Outcome::RolledBack => Some(Resolution::RolledBack(Rollback {
            reason: result.rollback_reason.into(),
            participant: result.participant.clone(),
            detail: result.detail.clone(),
        })),
        v1::Outcome::HeuristicCommit => Some(Resolution::Heuristic(Outcome::HeuristicCommit)),
        v1::Outcome::HeuristicRollback => Some(Resolution::Heuristic(Outcome::HeuristicRollback)),
        v1::Outcome::HeuristicMixed => Some(Resolution::Heuristic(Outcome::Mixed)),
        v1::Outcome::HeuristicHazard => Some(Resolution::Heuristic(Outcome::Hazard)),
        v1::Outcome::Unknown => Some(Resolution::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_come_back_when_they_may_and_not_together() {
        let pauses: std::collections::BTreeSet<_> =
            (0..1_000).map(|_| refusal_pause(1_000, rand::random()).as_millis()).collect();
        assert!(pauses.iter().all(|pause| (1_000..=2_000).contains(pause)), "{pauses:?}");
        assert!(pauses.len() > 400, "only {} distinct pauses", pauses.len());
        assert_eq!(refusal_pause(0, 7), Duration::ZERO);
        assert_eq!(refusal_pause(u64::MAX, 7), Duration::from_millis(u64::MAX));
    }

    #[test]
    fn only_an_outcome_is_an_answer() {
        let result = |outcome| v1::Result { outcome, ..v1::Result::default() };
        assert_eq!(resolution(None), None);
        for hold in [v1::Outcome::Unspecified.into(), v1::Outcome::Pending.into(), 9, -1] {
            assert_eq!(resolution(Some(&result(hold))), None, "{hold}");
        }
        let unknown = result(v1::Outcome::Unknown.into());
        assert_eq!(resolution(Some(&unknown)), Some(Resolution::Unknown));
        let committed = result(v1::Outcome::Committed.into());
        let expected = Resolution::Committed { completed: false };
        assert_eq!(resolution(Some(&committed)), Some(expected));
    }
}
