//! Where every request of both ports comes in: who makes it, whether they may, and what is told of
//! those who may not. Nothing of a request is decoded before.

use crate::access::Access;
use crate::acts::Operator;
use crate::connection::{Proof, Via};
use crate::identity::{Caller, How, operators_call};
use crate::refusal::Refusal;
use crate::view::Query;
use futures_util::future::Either;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::body::Body;
use tower::{Layer, Service};
use unanimous_core::record::cut;

/// Refused calls that wait to be told of. At the limit further ones are only counted.
const REFUSED_QUEUE: usize = 1_024;
/// What stands for the method where there was no call yet.
const HANDSHAKE: &str = "TLS handshake";
/// Lines of the log in a second about refused calls. Further ones are only counted: whoever is not
/// let in shall not fill the disk.
const LINES_PER_SECOND_MAX: u32 = 10;
const BEARER: &[u8] = b"Bearer ";
/// The most that is kept of a method's path: it is the caller's word.
const METHOD_BYTES_MAX: usize = 128;

/// A call that was not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedCall {
    /// As far as it was proven.
    pub(crate) caller: String,
    pub(crate) verified: bool,
    pub(crate) from: String,
    /// Its path, which may be anything.
    pub(crate) method: String,
    pub(crate) reason: &'static str,
    /// The refusal's words.
    pub(crate) detail: String,
}

/// Counts calls that were not allowed, and hands them to whoever tells of them.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    told: mpsc::Sender<RefusedCall>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    refused: AtomicU64,
    untold: AtomicU64,
}

impl Refusals {
    pub(crate) fn new() -> (Self, mpsc::Receiver<RefusedCall>) {
        let (told, refused) = mpsc::channel(REFUSED_QUEUE);
        (Self { told, counts: Arc::default() }, refused)
    }

    pub(crate) fn refuse(&self, caller: &Caller, method: &str, refusal: &Refusal) {
        self.tell(caller, method, refusal.reason(), refusal.detail());
    }

    /// Nobody has called yet, and nobody will.
    pub(crate) fn no_handshake(&self, caller: &Caller, why: &str) {
        self.tell(caller, HANDSHAKE, "NOT_AUTHENTICATED", why);
    }

    fn tell(&self, caller: &Caller, method: &str, reason: &'static str, detail: &str) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let call = RefusedCall {
            caller: caller.name.clone(),
            verified: caller.how != How::Unverified,
            from: caller.from.clone(),
            method: cut(method, METHOD_BYTES_MAX).to_owned(),
            reason,
            detail: detail.to_owned(),
        };
        if self.told.try_send(call).is_err() {
            self.counts.untold.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls that were not allowed since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// How many of them nobody was told of, because too many came at once.
    pub(crate) fn untold(&self) -> u64 {
        self.counts.untold.load(Ordering::Relaxed)
    }
}

/// Writes refused calls to the log, and those that only operators may make to the audit.
pub(crate) async fn tell_of(
    refusals: Refusals,
    mut refused: mpsc::Receiver<RefusedCall>,
    queries: mpsc::Sender<Query>,
) {
    let (mut second, mut lines) = (Instant::now(), 0);
    while let Some(call) = refused.recv().await {
        if let Some(operators) = operators_call(&call.method) {
            let RefusedCall { caller, verified, from, .. } = &call;
            let by = Operator { name: caller.clone(), from: from.clone(), verified: *verified };
            // A driver that is gone writes nothing any more.
            let _ = queries.send(Query::RefusedCall(by, operators, call.reason)).await;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, lines) = (Instant::now(), 0);
        }
        lines += 1;
        if lines > LINES_PER_SECOND_MAX {
            refusals.counts.untold.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let RefusedCall { caller, from, method, reason, detail, .. } = call;
        let untold = refusals.untold();
        tracing::warn!(?caller, %from, ?method, reason, ?detail, untold, "a call was refused");
    }
}

/// The layer in front of both ports' services.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) access: Access,
    pub(crate) refusals: Refusals,
}

impl Door {
    pub(crate) fn new(access: Access, refusals: Refusals) -> Self {
        Self { access, refusals }
    }

    fn admit<B>(&self, request: &Request<B>) -> Result<Caller, Refusal> {
        let via = request.extensions().get::<Via>();
        let from = via.map_or_else(|| "unknown".to_owned(), |via| via.peer.to_string());
        let method = request.uri().path();
        let known = match via {
            Some(via) => self.identify(request.headers(), &via.proof, &from),
            None => Err(Refusal::not_authenticated("it came over no connection of ours")),
        };
        let admitted = match known {
            Ok(caller) => caller.may(method).map(|()| caller.clone()).map_err(|no| (caller, no)),
            Err(refusal) => Err((Caller::nobody(from), refusal)),
        };
        admitted.map_err(|(caller, refusal)| {
            self.refusals.refuse(&caller, method, &refusal);
            refusal
        })
    }

    /// A token counts alone: whoever sends one does not want to be whom the certificate says.
    fn identify(&self, headers: &HeaderMap, proof: &Proof, from: &str) -> Result<Caller, Refusal> {
        let token = headers.get(AUTHORIZATION);
        let from = from.to_owned();
        let (rules, certificate) = match (proof, self.access.rules()) {
            (Proof::Plain, None) if token.is_none() => return Ok(Caller::unverified(from)),
            (Proof::Plain, _) => return Err(Refusal::token_in_plaintext()),
            (Proof::Encrypted, Some(rules)) => (rules, None),
            (Proof::Certificate(certificate), Some(rules)) => (rules, Some(certificate)),
            (_, None) => return Err(Refusal::not_authenticated("nobody is known here")),
        };
        match (token, certificate) {
            (Some(token), _) => match bearer(token.as_bytes()) {
                Some(token) => rules.by_token(token, from),
                None => Err(Refusal::not_authenticated("the authorization is no bearer token")),
            },
            (None, Some(certificate)) => Ok(rules.by_certificate(certificate, from)),
            (None, None) => {
                Err(Refusal::not_authenticated("neither a certificate nor a token came with it"))
            }
        }
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
}

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { door: self.clone(), inner }
    }
}

/// A service behind the door.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    door: Door,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.door.admit(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(refusal) => Either::Right(ready(Ok(refusal.status().into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> Request<()> {
        let via = Via {
            kill: Default::default(),
            peer: ([192, 0, 2, 7], 4711).into(),
            proof: Proof::Plain,
        };
        let mut request = Request::builder().uri(path).body(()).unwrap();
        request.extensions_mut().insert(via);
        request
    }

    const STATUS: &str = "/unanimous.v1.AdminService/GetStatus";

    #[test]
    fn without_tls_the_name_is_never_what_the_caller_says() {
        let (refusals, _told) = Refusals::new();
        let mut request = request(STATUS);
        for header in ["x-forwarded-for", "x-forwarded-client-cert", "user-agent", "from"] {
            request.headers_mut().insert(header, "alice".parse().unwrap());
        }
        let caller = Door::new(Access::everybody(), refusals).admit(&request).unwrap();
        assert_eq!((caller.name.as_str(), caller.how), ("unverified", How::Unverified));
        assert_eq!(caller.from, "192.0.2.7:4711");
    }

    #[test]
    fn what_is_refused_is_counted_and_told_and_what_cannot_be_told_is_counted_too() {
        let (refusals, mut told) = Refusals::new();
        let door = Door::new(Access::everybody(), refusals.clone());
        let mut plain = request(STATUS);
        plain.headers_mut().insert(AUTHORIZATION, "Bearer secret".parse().unwrap());
        assert_eq!(door.admit(&plain).unwrap_err().reason(), "TOKEN_IN_PLAINTEXT");
        let refused = told.try_recv().unwrap();
        assert_eq!((refused.method.as_str(), refused.reason), (STATUS, "TOKEN_IN_PLAINTEXT"));
        assert!(!format!("{refused:?}").contains("secret"));

        let nowhere = Request::builder().uri(STATUS).body(()).unwrap();
        assert_eq!(door.admit(&nowhere).unwrap_err().reason(), "NOT_AUTHENTICATED");
        let unknown = request(&format!("/unanimous.v1.AdminService/{}", "x".repeat(1_000)));
        assert_eq!(door.admit(&unknown).unwrap_err().reason(), "UNSUPPORTED");
        assert_eq!(told.try_recv().unwrap().from, "unknown");
        assert_eq!(told.try_recv().unwrap().method.len(), METHOD_BYTES_MAX);

        for _ in 0..=REFUSED_QUEUE {
            door.admit(&plain).unwrap_err();
        }
        let queue = u64::try_from(REFUSED_QUEUE).unwrap();
        assert_eq!((refusals.refused(), refusals.untold()), (queue + 4, 1));
    }
}
