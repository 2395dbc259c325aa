//! `TransactionService`: the same events as a client's session, one call each, for people and
//! scripts.
//!
//! A handler sends the event and waits for the reply. If its caller goes, the work goes on: the
//! driver finds nobody.

use crate::client_session::{begin_named, commit};
use crate::convert;
use crate::refusal::Refusal;
use crate::session::{Call, Gate, Inbound};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use unanimous_core::{Gtrid, Request as CoreRequest, Response as CoreResponse};
use unanimous_proto::v1;

/// `TransactionService`.
#[derive(Clone, Debug)]
pub(crate) struct Transactions {
    gate: Gate,
}

impl Transactions {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate }
    }

    async fn ask(&self, call: Call) -> Result<CoreResponse, Status> {
        let (reply, replied) = oneshot::channel();
        let request = call.map_err(Refusal::status)?;
        if !self.gate.tell(Inbound::Unary(request, reply)).await {
            return Err(Refusal::stopping().status());
        }
        match replied.await {
            Ok(Ok(CoreResponse::Refused(refusal))) => Err(Refusal::from(refusal).status()),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(refusal)) => Err(refusal.status()),
            Err(_) => Err(Refusal::stopping().status()),
        }
    }

    async fn end(&self, call: Call) -> Result<Option<v1::Result>, Status> {
        let response = self.ask(call).await?;
        convert::result(response).map(Some).ok_or_else(|| Refusal::internal().status())
    }
}

pub(crate) fn gtrid(text: &str) -> Result<Gtrid, Refusal> {
    text.parse()
        .map_err(|error: unanimous_core::IdError| Refusal::invalid("gtrid", error.to_string()))
}

/// Hexadecimal digits of 16 bytes, or nothing.
pub(crate) fn check_request_id(text: &str) -> Result<(), Refusal> {
    let hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if text.is_empty() || hex {
        return Ok(());
    }
    Err(Refusal::invalid("request_id", "a request id is 32 hexadecimal digits, or empty"))
}

#[tonic::async_trait]
impl v1::transaction_service_server::TransactionService for Transactions {
    async fn begin(
        &self,
        request: Request<v1::BeginRequest>,
    ) -> Result<Response<v1::BeginResponse>, Status> {
        let wire = request.into_inner();
        let call = check_request_id(&wire.request_id)
            .and_then(|()| begin_named(&wire.name, wire.timeout_ms, &wire.labels));
        match self.ask(call).await? {
            CoreResponse::Begun { gtrid, timeout_ms } => {
                Ok(Response::new(v1::BeginResponse { gtrid: gtrid.to_string(), timeout_ms }))
            }
            _ => Err(Refusal::internal().status()),
        }
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let wire = request.into_inner();
        let call = check_request_id(&wire.request_id)
            .and_then(|()| commit(gtrid(&wire.gtrid)?, wire.expected_branches, wire.wait));
        let result = self.end(call).await?;
        Ok(Response::new(v1::CommitResponse { gtrid: wire.gtrid.to_ascii_lowercase(), result }))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackResponse>, Status> {
        let wire = request.into_inner();
        let call = check_request_id(&wire.request_id)
            .and_then(|()| Ok(CoreRequest::Rollback { gtrid: gtrid(&wire.gtrid)? }));
        let result = self.end(call).await?;
        Ok(Response::new(v1::RollbackResponse { gtrid: wire.gtrid.to_ascii_lowercase(), result }))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        let wire = request.into_inner();
        let call = gtrid(&wire.gtrid).map(|gtrid| CoreRequest::Resolve {
            gtrid,
            expected_branches: wire.expected_branches,
            wait: false,
        });
        let result = self.end(call).await?;
        Ok(Response::new(v1::GetOutcomeResponse { gtrid: wire.gtrid.to_ascii_lowercase(), result }))
    }
}
