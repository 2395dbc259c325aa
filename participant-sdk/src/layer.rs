//! Propagation by itself: tower layers for the calls that go out and for the calls that come in.
//!
//! They fit whatever is a [`Service`] of HTTP requests: tonic channels and servers, axum routers,
//! hyper.
//!
//! ```no_run
//! # mod bank {
//! #     pub struct BankClient<S>(pub S);
//! #     impl<S> BankClient<S> {
//! #         pub async fn debit(&mut self, _: u64) -> Result<(), tonic::Status> { Ok(()) }
//! #     }
//! # }
//! # use bank::BankClient;
//! # use unanimous_sdk::Client;
//! use unanimous_sdk::{ClientLayer, ServerLayer};
//!
//! # async fn application(unanimous: Client) -> Result<(), Box<dyn std::error::Error>> {
//! // An application, or a service that calls others:
//! let channel = tonic::transport::Endpoint::from_static("http://bank-a:7000").connect_lazy();
//! let mut bank_a = BankClient(ClientLayer.layer(channel));
//! unanimous.run("transfer", async move |_| { bank_a.debit(5).await }).await?;
//!
//! // A service:
//! let server = tonic::transport::Server::builder().layer(ServerLayer);
//! # drop(server);
//! # Ok(())
//! # }
//! ```

use crate::HEADER_BRANCHES;
use crate::context::Context;
use crate::tally::{COUNTED, branches_in};
use futures_util::future::{BoxFuture, FutureExt, ready};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use std::task::Poll;
use tonic::Status;
use tower_layer::Layer;
use tower_service::Service;

/// For the calling side: every call through it belongs to a transaction if it was made by
/// [`Context::request`], or inside of [`Context::scope`] (a handler behind a [`ServerLayer`], the
/// work of [`crate::Client::run`]).
///
/// It writes the headers `unanimous-transaction` and `traceparent`, keeps `grpc-timeout` within the
/// transaction's time, and counts the branches that the reply tells; a call that fails counts none.
/// A call that belongs to no transaction passes as it is, and so does one with the header of
/// another transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLayer;

impl ClientLayer {
    /// Wraps a channel, as [`Layer::layer`] does.
    pub fn layer<S>(&self, inner: S) -> Outbound<S> {
        Outbound { inner }
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = Outbound<S>;

    fn layer(&self, inner: S) -> Outbound<S> {
        Outbound { inner }
    }
}

/// What [`ClientLayer`] makes of a channel.
#[derive(Clone, Debug)]
pub struct Outbound<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Outbound<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let pending = Context::depart(&parts.extensions, &mut parts.headers);
        let call = self.inner.call(Request::from_parts(parts, body));
        let Some(pending) = pending else { return call.boxed() };
        async move {
            let mut response = call.await?;
            let branches = branches_in(response.headers());
            response.headers_mut().insert(HEADER_BRANCHES, COUNTED);
            pending.settle(if succeeded(&response) { branches } else { 0 });
            Ok(response)
        }
        .boxed()
    }
}

/// As far as the headers tell. gRPC servers tell the failure of a call without a stream there.
fn succeeded<R>(response: &Response<R>) -> bool {
    let status = response.headers().get(Status::GRPC_STATUS);
    response.status().is_success() && status.is_none_or(|status| status.as_bytes() == b"0")
}

/// For the serving side: reads which transaction a call belongs to, and runs its handler in that
/// [`Context`], which is in the request's extensions as well.
///
/// The branches that were counted there until the reply's headers are sent, those of calls through
/// a [`ClientLayer`] included, are told in the reply's header `unanimous-branches`. If one of these
/// calls still runs then, the transaction will roll back: what it does could be lost. A call
/// without the header `unanimous-transaction` passes as it is; one with a header that cannot be
/// read is refused: INVALID_ARGUMENT to gRPC, otherwise status 400.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerLayer;

impl ServerLayer {
    /// Wraps a service, as [`Layer::layer`] does.
    pub fn layer<S>(&self, inner: S) -> Inbound<S> {
        Inbound { inner }
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = Inbound<S>;

    fn layer(&self, inner: S) -> Inbound<S> {
        Inbound { inner }
    }
}

/// What [`ServerLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Inbound<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Inbound<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let context = match Context::from_headers(request.headers()) {
            Ok(Some(context)) => context,
            Ok(None) => return self.inner.call(request).boxed(),
            Err(error) => {
                tracing::debug!(error = ?error.to_string(), "a call was refused");
                return ready(Ok(refused(request.headers(), error.into()))).boxed();
            }
        };
        context.arrive(request.extensions_mut());
        let call = context.sync_scope(|| self.inner.call(request));
        let counted = context.clone();
        let answered = async move {
            let mut response = call.await?;
            announce(response.headers_mut(), counted.branches_announced());
            Ok(response)
        };
        context.scope(answered).boxed()
    }
}

fn refused<R: Default>(headers: &HeaderMap, status: Status) -> Response<R> {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if kind.starts_with(b"application/grpc") {
        return status.into_http();
    }
    let mut response = Response::new(R::default());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// What a handler has announced by hand is counted as well, so it is not added.
fn announce(headers: &mut HeaderMap, branches: u32) {
    // A reply that is handed on: counted here, and not by whoever gets it.
    if headers.get(HEADER_BRANCHES) == Some(&COUNTED) {
        headers.remove(HEADER_BRANCHES);
    }
    if branches > branches_in(headers) {
        headers.insert(HEADER_BRANCHES, HeaderValue::from(branches));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HEADER_TRANSACTION;
    use std::convert::Infallible;
    use std::time::Duration;
    use tokio::time::Instant;
    use tonic::metadata::MetadataMap;
    use unanimous_core::{Gtrid, LogId, Owner};

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Answers with what it is given: the request's headers in the body, the reply's as they are.
    #[derive(Clone)]
    struct Mirror(Vec<(&'static str, &'static str)>);

    impl Service<Request<()>> for Mirror {
        type Response = Response<HeaderMap>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            // Work that is done before the future is polled is part of the transaction as well.
            if let Some(context) = Context::current().filter(|_| self.0.is_empty()) {
                context.count(2);
            }
            let mut response = Response::new(request.headers().clone());
            for (name, value) in &self.0 {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            std::future::ready(Ok(response))
        }
    }

    /// Never answers.
    struct Silent;

    impl Service<Request<()>> for Silent {
        type Response = Response<HeaderMap>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::pending()
        }
    }

    /// Makes a call to [`Silent`], keeps it, and answers.
    #[derive(Default)]
    struct Careless(Option<BoxFuture<'static, Result<Response<HeaderMap>, Infallible>>>);

    impl Service<Request<()>> for Careless {
        type Response = Response<HeaderMap>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            self.0 = Some(ClientLayer.layer(Silent).call(request(&[])));
            std::future::ready(Ok(Response::new(HeaderMap::new())))
        }
    }

    fn context(sequence: u64) -> Context {
        let log = LogId { cluster: 1, slot: 1, incarnation: 1 };
        let ends_at = Instant::now() + Duration::from_secs(5);
        let gtrid = Gtrid::new(Owner { log, epoch: 1 }, sequence, 0);
        Context::new(gtrid, Some(ends_at)).with_traceparent(TRACE)
    }

    fn request(headers: &[(&'static str, String)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    }

    async fn out(
        reply: &[(&'static str, &'static str)],
        request: Request<()>,
    ) -> Response<HeaderMap> {
        let Ok(response) = ClientLayer.layer(Mirror(reply.to_vec())).call(request).await;
        response
    }

    #[tokio::test]
    async fn a_call_in_the_scope_carries_name_deadline_and_trace() {
        let context = context(1);
        let late = request(&[("grpc-timeout", "60S".to_owned())]);
        let sent = context.clone().scope(out(&[], late)).await.into_body();
        assert_eq!(sent[HEADER_TRANSACTION], context.gtrid().to_string().as_str());
        assert_eq!(sent["traceparent"], TRACE);
        let timeout = crate::deadline::of(&sent).unwrap();
        assert!(timeout <= Duration::from_secs(5) && timeout > Duration::ZERO, "{timeout:?}");

        let own = [("grpc-timeout", "1S".to_owned()), ("traceparent", "own".to_owned())];
        let sent = context.scope(out(&[], request(&own))).await.into_body();
        assert_eq!(
            (sent["grpc-timeout"].as_bytes(), sent["traceparent"].as_bytes()),
            (&b"1S"[..], &b"own"[..])
        );
    }

    #[tokio::test]
    async fn a_call_that_belongs_to_no_or_another_transaction_passes_as_it_is() {
        assert!(out(&[], request(&[])).await.into_body().is_empty());
        let (ours, other) = (context(1), context(2).gtrid().to_string());
        let named = request(&[(HEADER_TRANSACTION, other.clone())]);
        let reply = ours.clone().scope(out(&[(HEADER_BRANCHES, "1")], named)).await;
        assert_eq!(reply.headers()[HEADER_BRANCHES], "1", "for whoever wrote the header");
        let sent = reply.into_body();
        assert_eq!((sent.len(), &sent[HEADER_TRANSACTION]), (1, &other.parse().unwrap()));
        assert_eq!((ours.branches(), ours.branches_complete()), (0, None));
    }

    #[tokio::test]
    async fn only_the_branches_of_calls_that_succeed_are_counted_and_each_once() {
        let one = (HEADER_BRANCHES, "1");
        for (reply, counted) in [
            (&[one][..], 1),
            (&[one, ("grpc-status", "0")], 1),
            (&[one, ("grpc-status", "13")], 0),
            (&[(HEADER_BRANCHES, "many")], 0),
        ] {
            let context = context(1);
            let reply = context.clone().scope(out(reply, request(&[]))).await;
            assert_eq!(reply.headers()[HEADER_BRANCHES], COUNTED);
            assert_eq!(context.branches_complete(), Some(counted));
        }
    }

    #[tokio::test]
    async fn a_reply_that_a_layer_has_counted_accounts_for_no_other_request() {
        let context = context(1);
        let _unanswered = context.request(());
        let reply = context.clone().scope(out(&[(HEADER_BRANCHES, "1")], request(&[]))).await;
        context.count_reply(&MetadataMap::from_headers(reply.headers().clone()));
        assert_eq!((context.branches(), context.branches_complete()), (1, None));
    }

    /// A layer above sends it again: the second reply is another one.
    #[tokio::test]
    async fn a_request_that_is_sent_twice_is_counted_twice() {
        let context = context(1);
        let (_, extensions, ()) = context.request(()).into_parts();
        for _ in 0..2 {
            let mut request = request(&[]);
            *request.extensions_mut() = extensions.clone();
            out(&[(HEADER_BRANCHES, "1")], request).await;
        }
        assert_eq!(context.branches_complete(), Some(2));
    }

    #[tokio::test]
    async fn what_was_counted_is_announced_once_whoever_does_it() {
        let named = || request(&[(HEADER_TRANSACTION, context(1).gtrid().to_string())]);
        for (reply, announced) in [
            (&[][..], Some("2")),
            (&[(HEADER_BRANCHES, "3")], Some("3")),
            (&[(HEADER_BRANCHES, "counted")], None),
            (&[("x", "y")], None),
        ] {
            let Ok(response) = ServerLayer.layer(Mirror(reply.to_vec())).call(named()).await;
            let told = response.headers().get(HEADER_BRANCHES).map(|told| told.to_str().unwrap());
            assert_eq!(told, announced);
        }
        let Ok(response) = ServerLayer.layer(Mirror(vec![])).call(request(&[])).await;
        assert!(response.headers().is_empty(), "no transaction");
    }

    /// The caller's commit claims a number that is never right.
    #[tokio::test]
    async fn a_handler_that_leaves_a_call_behind_announces_what_cannot_be_committed() {
        let named = request(&[(HEADER_TRANSACTION, context(1).gtrid().to_string())]);
        let mut service = ServerLayer.layer(Careless::default());
        let Ok(response) = service.call(named).await;
        assert_eq!(branches_in(response.headers()), u32::MAX);
    }

    #[tokio::test]
    async fn a_bad_header_is_refused_in_the_callers_language() {
        let bad = (HEADER_TRANSACTION, "nonsense".to_owned());
        let grpc = request(&[bad.clone(), ("content-type", "application/grpc+proto".to_owned())]);
        let Ok(response) = ServerLayer.layer(Mirror(vec![])).call(grpc).await;
        assert_eq!(
            (response.status(), &response.headers()["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from_static("3"))
        );
        let Ok(response) = ServerLayer.layer(Mirror(vec![])).call(request(&[bad])).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }
}
