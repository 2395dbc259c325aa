//! The transaction that a call belongs to, as it travels with calls: its name, its deadline, and
//! how many branches were enlisted on its behalf.

use crate::participant::JoinError;
use crate::tally::{COUNTED, Pending, Running, Tally, Ticket, UnderWay, branches_in};
use crate::{HEADER_BRANCHES, HEADER_TRANSACTION, deadline};
use http::{Extensions, HeaderMap, HeaderValue};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use unanimous_core::{Gtrid, IdError};

const HEADER_TRACEPARENT: &str = "traceparent";

tokio::task_local! {
    static CURRENT: Context;
}

/// The transaction that a call belongs to. Clones count together.
///
/// A service gets it from its [`crate::ServerLayer`], an application from
/// [`crate::Handle::context`]. Calls made inside of [`Context::scope`] through a
/// [`crate::ClientLayer`] belong to it by themselves; [`Context::request`] says so explicitly.
#[derive(Clone, Debug)]
pub struct Context {
    gtrid: Gtrid,
    ends_at: Option<Instant>,
    traceparent: Option<HeaderValue>,
    tally: Tally,
}

impl Context {
    /// A context of which nothing is counted yet. `ends_at`: when the transaction is rolled back,
    /// if that is known.
    #[must_use]
    pub fn new(gtrid: Gtrid, ends_at: Option<Instant>) -> Self {
        Self { gtrid, ends_at, traceparent: None, tally: Tally::default() }
    }

    /// The same context, whose calls carry this W3C `traceparent`. One that breaks the standard's
    /// form is left out, as the standard wants it.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = HeaderValue::from_str(traceparent).ok().filter(is_traceparent);
        self
    }

    /// The context of the code that runs now: inside of [`Context::scope`].
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs the future as part of the transaction. A task that it spawns is not part of it, unless
    /// it is given a scope of its own.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    pub(crate) fn sync_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// The transaction's name.
    #[must_use]
    pub fn gtrid(&self) -> Gtrid {
        self.gtrid
    }

    /// Time until the coordinator rolls it back, or until nobody waits for this call any more;
    /// [`Duration::MAX`]: not known.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.ends_at.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Branches counted so far.
    #[must_use]
    pub fn branches(&self) -> u32 {
        self.tally.branches()
    }

    /// Counts branches that were enlisted on its behalf.
    pub fn count(&self, branches: u32) {
        self.tally.add(branches);
    }

    /// The number of branches, if it is known what every request has brought.
    pub(crate) fn branches_complete(&self) -> Option<u32> {
        self.tally.complete()
    }

    /// What its commit may claim.
    pub(crate) fn branches_at_end(&self) -> Result<Option<u32>, UnderWay> {
        self.tally.at_end()
    }

    /// What the reply to this call tells.
    pub(crate) fn branches_announced(&self) -> u32 {
        self.tally.announced()
    }

    /// A work request that carries the transaction and its remaining time. Its reply is counted by
    /// a [`crate::ClientLayer`] on the way, by [`Context::call`], or by [`Context::count_reply`].
    pub fn request<M>(&self, message: M) -> Request<M> {
        self.ticketed(message).0
    }

    /// Makes a work call: `send` gets the request to send, the reply is counted.
    ///
    /// # Errors
    /// The call's own.
    pub async fn call<M, R, F>(
        &self,
        message: M,
        send: impl FnOnce(Request<M>) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let (request, ticket) = self.ticketed(message);
        let call = Call { _running: ticket.running(), ticket };
        let reply = send(request).await?;
        if let Some(pending) = call.ticket.claim() {
            pending.settle(branches_in(reply.metadata().as_ref()));
        }
        Ok(reply)
    }

    /// Counts the branches that the reply of a [`Context::request`] tells, where no layer and no
    /// [`Context::call`] has done so.
    pub fn count_reply(&self, reply: &MetadataMap) {
        if reply.as_ref().get(HEADER_BRANCHES) != Some(&COUNTED) {
            self.tally.settle_any(branches_in(reply.as_ref()));
        }
    }

    fn ticketed<M>(&self, message: M) -> (Request<M>, Ticket) {
        let ticket = self.tally.ticket();
        let mut headers = HeaderMap::new();
        self.write(&mut headers);
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions.insert(ticket.clone());
        (Request::from_parts(MetadataMap::from_headers(headers), extensions, message), ticket)
    }

    /// A call that goes out through a layer: what accounts for it, if it belongs to a transaction.
    pub(crate) fn depart(extensions: &Extensions, headers: &mut HeaderMap) -> Option<Pending> {
        let context = extensions.get::<Self>().cloned().or_else(Self::current)?;
        // Whoever wrote another transaction by hand has to count by hand as well.
        if headers.get(HEADER_TRANSACTION).is_some_and(|header| !context.is_named(header)) {
            return None;
        }
        context.write(headers);
        // Sent again by a layer above: another request.
        let pending = extensions.get::<Ticket>().and_then(Ticket::claim);
        pending.or_else(|| context.tally.ticket().claim())
    }

    /// The call has come in.
    pub(crate) fn arrive(&self, extensions: &mut Extensions) {
        extensions.insert(self.clone());
        extensions.remove::<Ticket>();
    }

    fn is_named(&self, header: &HeaderValue) -> bool {
        header.to_str().is_ok_and(|text| text.parse() == Ok(self.gtrid))
    }

    fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.gtrid.to_string()) {
            headers.insert(HEADER_TRANSACTION, value);
        }
        deadline::limit(headers, self.remaining());
        if let Some(traceparent) = &self.traceparent {
            headers.entry(HEADER_TRACEPARENT).or_insert_with(|| traceparent.clone());
        }
    }

    /// Reads the headers of a call; `None`: it belongs to no transaction.
    ///
    /// # Errors
    /// [`JoinError::BadTransaction`].
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, JoinError> {
        let bad = |why: String| JoinError::BadTransaction(why);
        let mut named = headers.get_all(HEADER_TRANSACTION).iter();
        let Some(header) = named.next() else { return Ok(None) };
        if named.next().is_some() {
            return Err(bad("it comes more than once".to_owned()));
        }
        let text = header.to_str().map_err(|error| bad(error.to_string()))?;
        let gtrid = text.parse().map_err(|error: IdError| bad(error.to_string()))?;
        let ends_at = deadline::of(headers).and_then(|time| Instant::now().checked_add(time));
        let traceparent = headers.get(HEADER_TRACEPARENT).filter(|value| is_traceparent(value));
        Ok(Some(Self { traceparent: traceparent.cloned(), ..Self::new(gtrid, ends_at) }))
    }
}

/// A call under way. Dropped, the request has brought nothing, unless a layer has followed it.
struct Call {
    ticket: Ticket,
    _running: Running,
}

impl Drop for Call {
    fn drop(&mut self) {
        drop(self.ticket.claim());
    }
}

/// W3C Trace Context, level 1: version, trace, parent and flags, in hexadecimal.
fn is_traceparent(value: &HeaderValue) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&[u8]> = value.as_bytes().split(|byte| *byte == b'-').collect();
    let lengths = parts.iter().map(|part| part.len());
    lengths.eq([2, 32, 16, 2]) && parts.iter().all(|part| hex(part))
}

/// Whatever tells which transaction a call belongs to.
pub trait Carrier {
    /// The call's context.
    ///
    /// # Errors
    /// [`JoinError::NoTransaction`], [`JoinError::BadTransaction`].
    fn context(&self) -> Result<Context, JoinError>;
}

impl Carrier for Context {
    fn context(&self) -> Result<Context, JoinError> {
        Ok(self.clone())
    }
}

impl Carrier for HeaderMap {
    fn context(&self) -> Result<Context, JoinError> {
        Context::from_headers(self)?.ok_or(JoinError::NoTransaction)
    }
}

/// The one that the server layer has put there, whose count goes into the reply by itself;
/// otherwise the headers'. So does a request that was only made yet, and handed to a handler of the
/// same process: its reply is still to be counted.
fn of(extensions: &Extensions, headers: &HeaderMap) -> Result<Context, JoinError> {
    match extensions.get::<Context>() {
        Some(context) if extensions.get::<Ticket>().is_none() => Ok(context.clone()),
        _ => headers.context(),
    }
}

impl<T> Carrier for http::Request<T> {
    fn context(&self) -> Result<Context, JoinError> {
        of(self.extensions(), self.headers())
    }
}

impl Carrier for http::request::Parts {
    fn context(&self) -> Result<Context, JoinError> {
        of(&self.extensions, &self.headers)
    }
}

impl Carrier for MetadataMap {
    fn context(&self) -> Result<Context, JoinError> {
        self.as_ref().context()
    }
}

impl<T> Carrier for Request<T> {
    fn context(&self) -> Result<Context, JoinError> {
        of(self.extensions(), self.metadata().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{LogId, Owner};

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context() -> Context {
        let log = LogId { cluster: 1, slot: 1, incarnation: 1 };
        let ends_at = Instant::now() + Duration::from_secs(5);
        Context::new(Gtrid::new(Owner { log, epoch: 1 }, 1, 0), Some(ends_at))
    }

    #[tokio::test]
    async fn a_request_carries_name_deadline_and_trace_and_is_read_again() {
        let context = context().with_traceparent(TRACE);
        let request = context.request(());
        let headers = request.metadata().as_ref();
        let read = Context::from_headers(headers).unwrap().unwrap();
        assert_eq!(read.gtrid(), context.gtrid());
        assert!(read.remaining() > Duration::from_secs(4), "{:?}", read.remaining());
        assert!(read.remaining() <= Duration::from_secs(5), "{:?}", read.remaining());
        assert_eq!(read.traceparent, Some(HeaderValue::from_static(TRACE)));
        read.count(1);
        assert_eq!((read.branches(), context.branches()), (1, 0), "another process");
    }

    /// As if it had come over a wire: the reply tells the branch, and is counted.
    #[tokio::test]
    async fn a_request_that_a_handler_of_this_process_gets_is_counted_by_its_reply() {
        let context = context();
        let worked = context.call((), async |mut request| {
            let enlisted_for = request.context().unwrap();
            assert_eq!(enlisted_for.gtrid(), context.gtrid());
            enlisted_for.count(1);
            assert_eq!(context.branches(), 0);
            // Behind a server layer it is the layer's context.
            enlisted_for.arrive(request.extensions_mut());
            request.context().unwrap().count(1);
            assert_eq!(enlisted_for.branches(), 2);
            let mut reply = Response::new(());
            reply.metadata_mut().insert(HEADER_BRANCHES, "2".parse().unwrap());
            Ok(reply)
        });
        worked.await.unwrap();
        assert_eq!(context.branches_complete(), Some(2));
    }

    #[test]
    fn headers_that_are_no_transaction_are_refused() {
        let named = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER_TRANSACTION, value.parse().unwrap());
            }
            Context::from_headers(&headers).map(|context| context.is_some())
        };
        let gtrid = context().gtrid().to_string();
        assert_eq!(named(&[]), Ok(false));
        assert_eq!(named(&[&gtrid]), Ok(true));
        for bad in [&["nonsense"][..], &[&gtrid, &gtrid], &[&gtrid[1..]], &[""]] {
            assert!(matches!(named(bad), Err(JoinError::BadTransaction(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_traceparent_has_the_form_of_the_standard() {
        let kept = |text: &str| context().with_traceparent(text).traceparent.is_some();
        assert!(kept(TRACE));
        for bad in ["", "00", &TRACE.to_uppercase(), &TRACE[1..], &format!("{TRACE}-x"), "\n"] {
            assert!(!kept(bad), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_fails_or_is_dropped_brings_nothing_and_is_accounted_for() {
        let context = context();
        let failed = context.call((), async |_| Err::<Response<()>, _>(Status::internal("")));
        assert!(failed.await.is_err());
        assert_eq!(context.branches_complete(), Some(0));
        let mut dropped = Box::pin(context.call((), async |_| std::future::pending().await));
        let never: Option<Result<Response<()>, Status>> =
            futures_util::FutureExt::now_or_never(dropped.as_mut());
        assert!(never.is_none());
        assert_eq!(context.branches_complete(), None, "under way");
        drop(dropped);
        assert_eq!(context.branches_complete(), Some(0));
    }

    #[tokio::test]
    async fn the_scope_is_seen_inside_and_by_nobody_else() {
        let (outer, gtrid) = (context(), context().gtrid());
        let inside = async {
            let seen = Context::current().map(|context| context.gtrid());
            let spawned = tokio::spawn(async { Context::current().is_some() });
            (seen, spawned.await.unwrap())
        };
        assert_eq!(outer.scope(inside).await, (Some(gtrid), false));
        assert!(Context::current().is_none());
    }
}
