//! For handlers of axum: the context as an extractor, and joins that fail as answers.

use crate::context::{Carrier, Context};
use crate::participant::JoinError;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use tonic::{Code, Status};

/// The transaction that a call belongs to; a call without one is answered with status 400. Behind a
/// [`crate::ServerLayer`], what the handler counts in it is told to the caller.
impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = JoinError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, JoinError> {
        parts.context()
    }
}

/// `None`: the call belongs to no transaction. One that cannot be read is answered with status 400.
impl<S: Sync> OptionalFromRequestParts<S> for Context {
    type Rejection = JoinError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, JoinError> {
        match parts.context() {
            Err(JoinError::NoTransaction) => Ok(None),
            context => context.map(Some),
        }
    }
}

/// A status as near to the gRPC one as there is, and the error's words.
impl IntoResponse for JoinError {
    fn into_response(self) -> Response {
        let words = format!("{self}\n");
        let status = match Status::from(self).code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, words).into_response()
    }
}
