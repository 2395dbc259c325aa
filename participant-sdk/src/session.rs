//! One stream to the coordinator, dialled again whenever it ends. Messages are delivered or
//! dropped, never kept.

use crate::credentials::{Authorization, BadCredentials};
use crate::endpoint::{DIAL_TIMEOUT, Dial};
use futures_util::future::BoxFuture;
use std::future::pending;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use unanimous_core::{Owner, backoff};

/// Delays between two dials, in milliseconds. Many sessions are lost at the same moment, and must
/// not come back at the same moment: each waits between nothing and the whole of its delay.
const REDIAL_MS_MIN: u64 = 100;
const REDIAL_MS_MAX: u64 = 2_000;
/// Dials that were given up and may still come to the coordinator; older ones are gone.
const GHOSTS_MAX: u32 = 3;
/// A session that lived as long as this was a good one: the next dial is soon.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// What tells the two kinds of session apart.
pub(crate) trait Wire: 'static {
    type Out: Send + 'static;
    type In: Send + 'static;

    /// Opens the stream.
    fn call(
        channel: Channel,
        outbound: Request<ReceiverStream<Self::Out>>,
    ) -> BoxFuture<'static, Result<Streaming<Self::In>, Status>>;

    /// Reads the coordinator from its first message, or says why that is no welcome.
    fn welcome(first: Self::In) -> Result<Owner, String>;
}

/// What happened to the session.
pub(crate) enum SessionEvent<In> {
    /// It is time to dial: call [`Session::dial`].
    Due,
    /// The coordinator said welcome.
    Opened,
    /// A message.
    Message(In),
    /// The stream ended, or could not be opened.
    Lost(String),
}

struct Open<W: Wire> {
    outbound: mpsc::Sender<W::Out>,
    inbound: Streaming<W::In>,
    coordinator: Owner,
    since: Instant,
}

enum State<W: Wire> {
    Waiting(Instant),
    Dialling(BoxFuture<'static, Result<Box<Open<W>>, DialFailed>>),
    Open(Box<Open<W>>),
    Ended,
}

struct DialFailed {
    why: String,
    /// The hello may still be on its way.
    ghost: bool,
}

pub(crate) struct Session<W: Wire> {
    dial: Dial,
    queue_max: usize,
    /// Jitter's seed.
    seed: u64,
    failures: u32,
    /// Dials of our own that may yet replace a later session.
    ghosts: u32,
    state: State<W>,
}

impl<W: Wire> Session<W> {
    /// A session that is due to be dialled at once. Messages beyond `queue_max` that the transport
    /// has not taken are dropped.
    pub(crate) fn new(dial: Dial, queue_max: usize, seed: u64) -> Self {
        let state = State::Waiting(Instant::now());
        Self { dial, queue_max, seed, failures: 0, ghosts: 0, state }
    }

    /// The coordinator's life that said welcome, while the session is open.
    pub(crate) fn coordinator(&self) -> Option<Owner> {
        match &self.state {
            State::Open(open) => Some(open.coordinator),
            _ => None,
        }
    }

    /// Begins to dial; `hello` is the first message.
    pub(crate) fn dial(&mut self, hello: W::Out) {
        let (dial, queue_max) = (self.dial.clone(), self.queue_max);
        self.state = State::Dialling(Box::pin(async move {
            let deadline = Instant::now() + DIAL_TIMEOUT;
            let late = |ghost| move |_| DialFailed { why: "no answer in time".to_owned(), ghost };
            let not_ready =
                |error: BadCredentials| DialFailed { why: error.to_string(), ghost: false };
            let (endpoint, authorization) = dial.prepare().map_err(not_ready)?;
            let channel = timeout_at(deadline, endpoint.connect()).await.map_err(late(false))?;
            let channel =
                channel.map_err(|error| DialFailed { why: chain(&error), ghost: false })?;
            let greeted = greet::<W>(channel, &authorization, queue_max, hello);
            timeout_at(deadline, greeted).await.map_err(late(true))?
        }));
    }

    /// Hands a message to the transport, or gives it back: no session, or one that does not take
    /// what is sent.
    pub(crate) fn send(&mut self, message: W::Out) -> Result<(), W::Out> {
        match &self.state {
            State::Open(open) => {
                open.outbound.try_send(message).map_err(mpsc::error::TrySendError::into_inner)
            }
            _ => Err(message),
        }
    }

    /// Gives the stream up and dials again after a pause.
    pub(crate) fn hang_up(&mut self) {
        if let State::Open(open) = &self.state
            && open.since.elapsed() >= GOOD_AFTER
        {
            self.failures = 0;
        }
        let delay_ms = redial_ms(self.seed, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting(Instant::now() + Duration::from_millis(delay_ms));
    }

    /// Another session says the same hello, so that the coordinator has ended this one. `false`: it
    /// may be one of our own that was given up; it is dialled again. `true`: it is another
    /// process's. The two would replace each other for ever, so this one ends.
    pub(crate) fn on_replaced(&mut self) -> bool {
        if self.ghosts > 0 {
            self.ghosts -= 1;
            self.hang_up();
            return false;
        }
        self.state = State::Ended;
        true
    }

    /// Says nothing more and lets the transport deliver what was said: waits for the coordinator to
    /// end the stream.
    pub(crate) async fn finish(&mut self, patience: Duration) {
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Ended) {
            let Open { outbound, mut inbound, .. } = *open;
            drop(outbound);
            let _ = timeout(patience, async { while let Ok(Some(_)) = inbound.message().await {} })
                .await;
        }
    }

    /// The next event. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> SessionEvent<W::In> {
        match &mut self.state {
            State::Waiting(until) => {
                sleep_until(*until).await;
                SessionEvent::Due
            }
            State::Dialling(dialling) => match dialling.await {
                Ok(open) => {
                    self.state = State::Open(open);
                    SessionEvent::Opened
                }
                Err(DialFailed { why, ghost }) => {
                    self.ghosts = (self.ghosts + u32::from(ghost)).min(GHOSTS_MAX);
                    self.hang_up();
                    SessionEvent::Lost(why)
                }
            },
            State::Open(open) => {
                let why = match open.inbound.message().await {
                    Ok(Some(message)) => return SessionEvent::Message(message),
                    Ok(None) => "the coordinator ended the session".to_owned(),
                    Err(status) => status_words(&status),
                };
                self.hang_up();
                SessionEvent::Lost(why)
            }
            State::Ended => pending().await,
        }
    }
}

fn redial_ms(seed: u64, failures: u32) -> u64 {
    backoff::spread_ms(seed, b"dial", failures, REDIAL_MS_MIN, REDIAL_MS_MAX)
}

async fn greet<W: Wire>(
    channel: Channel,
    authorization: &Authorization,
    queue_max: usize,
    hello: W::Out,
) -> Result<Box<Open<W>>, DialFailed> {
    let refused = |why: &str| DialFailed { why: why.to_owned(), ghost: false };
    let broken = |status: Status| DialFailed { why: status_words(&status), ghost: true };
    let (outbound, queue) = mpsc::channel(queue_max);
    outbound.try_send(hello).map_err(|_| refused("the session's queue has no room"))?;
    let mut request = Request::new(ReceiverStream::new(queue));
    authorization.put(&mut request);
    let mut inbound = W::call(channel, request).await.map_err(broken)?;
    let first = inbound.message().await.map_err(broken)?;
    let first =
        first.ok_or_else(|| refused("the coordinator ended the session without a welcome"))?;
    let coordinator = W::welcome(first).map_err(|why| refused(&why))?;
    Ok(Box::new(Open { outbound, inbound, coordinator, since: Instant::now() }))
}

/// What ended a stream: the connection's own words say more than the status made of them.
fn status_words(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => format!("{}: {}", status.message(), chain(cause)),
        None => status.to_string(),
    }
}

/// tonic's transport error says only "transport error" by itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A coordinator comes back after a while: the dials of a thousand sessions that were lost at
    /// the same moment, each after those that failed before.
    #[test]
    fn a_thousand_sessions_lost_at_one_moment_come_back_spread() {
        const AWAY_MS: u64 = 10_000;
        let comes_back = |seed: u64| {
            let mut at_ms = 0;
            for failures in 0.. {
                at_ms += redial_ms(seed, failures);
                if at_ms >= AWAY_MS {
                    break;
                }
            }
            at_ms - AWAY_MS
        };
        let mut tenths = [0u32; 10];
        for seed in 0..1_000 {
            let waited_ms = comes_back(seed);
            assert!(waited_ms <= REDIAL_MS_MAX, "{waited_ms}");
            tenths[usize::try_from(waited_ms * 10 / (REDIAL_MS_MAX + 1)).unwrap()] += 1;
        }
        // Of delays that are evenly spread, the shorter rests are the likelier ones.
        assert!(tenths.iter().all(|tenth| *tenth < 300), "{tenths:?}");
        assert!(tenths[..8].iter().all(|tenth| *tenth > 10), "{tenths:?}");
    }
}
