//! The driver's clients: their sessions, their calls and what they are told.

use super::{Caller, Client, Driver};
use crate::convert;
use crate::refusal::Refusal;
use crate::session::{Call, ClientOpened, Offered, SessionId};
use unanimous_core::{Gtrid, Millis, Request, Response};
use unanimous_proto::v1;
use unanimous_proto::v1::transact_response::Body as ClientBody;

impl Driver {
    pub(super) fn on_client(&mut self, opened: ClientOpened) {
        let ClientOpened { session, call, client, outbound } = opened;
        tracing::debug!(?session, ?client, "client connected");
        let welcome = ClientBody::Welcome(v1::ClientWelcome {
            coordinator: Some(convert::owner(self.gate.owner())),
            timeout_ms_max: self.coordinator.limits().timeout_ms_max,
        });
        outbound.offer(v1::TransactResponse { call, body: Some(welcome) });
        self.clients.insert(session, Client { name: client, outbound, open_calls: 0 });
    }

    pub(super) fn on_called(&mut self, now: Millis, session: SessionId, call: u64, request: Call) {
        let calls_max = self.gate.config().calls_per_client_max;
        let Some(client) = self.clients.get(&session) else { return };
        let request = if client.open_calls >= calls_max {
            Err(Refusal::too_many_calls(calls_max))
        } else {
            request.and_then(|request| self.admit(&request).map(|()| request))
        };
        match request {
            Ok(request) => {
                if let Some(client) = self.clients.get_mut(&session) {
                    client.open_calls += 1;
                }
                let gtrid = match &request {
                    Request::Commit { gtrid, .. }
                    | Request::Rollback { gtrid }
                    | Request::Resolve { gtrid, .. } => Some(*gtrid),
                    _ => None,
                };
                self.request(now, Caller::Client { session, call, gtrid }, request);
            }
            Err(refusal) => self.tell_client(session, call, ClientBody::Refused(refusal.wire())),
        }
    }

    pub(super) fn tell_client(&mut self, session: SessionId, call: u64, body: ClientBody) {
        let Some(client) = self.clients.get(&session) else { return };
        let message = v1::TransactResponse { call, body: Some(body) };
        if client.outbound.offer(message) == Offered::Full
            && let Some(client) = self.clients.remove(&session)
        {
            tracing::warn!(?session, client = ?client.name, "client does not read: disconnected");
            client.outbound.disconnect();
        }
    }
}

pub(super) fn client_body(gtrid: Option<Gtrid>, response: Response) -> ClientBody {
    match (gtrid, response) {
        (_, Response::Refused(refusal)) => ClientBody::Refused(Refusal::from(refusal).wire()),
        (_, Response::Begun { gtrid, timeout_ms }) => {
            ClientBody::Begun(v1::Begun { gtrid: gtrid.as_bytes().to_vec(), timeout_ms })
        }
        (Some(gtrid), response) => match convert::result(response) {
            Some(result) => ClientBody::Ended(v1::Ended {
                gtrid: gtrid.as_bytes().to_vec(),
                result: Some(result),
            }),
            None => ClientBody::Refused(Refusal::internal().wire()),
        },
        (None, _) => ClientBody::Refused(Refusal::internal().wire()),
    }
}
