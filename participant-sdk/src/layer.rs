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
use crate::tally::branches_in;
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
            // Taken out: nobody may count it again.
            let branches = branches_in(response.headers());
            response.headers_mut().remove(HEADER_BRANCHES);
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
/// a [`ClientLayer`] included, are told in the reply's header `unanimous-branches`. A call without
/// the header `unanimous-transaction` passes as it is; one with a header that cannot be read is
/// refused: INVALID_ARGUMENT to gRPC, otherwise status 400.
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
        request.extensions_mut().insert(context.clone());
        let call = context.sync_scope(|| self.inner.call(request));
        let counted = context.clone();
        let answered = async move {
            let mut response = call.await?;
            announce(response.headers_mut(), counted.branches());
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
    if branches > branches_in(headers) {
        headers.insert(HEADER_BRANCHES, HeaderValue::from(branches));
    }
}
