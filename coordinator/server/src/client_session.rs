//! Clients' sessions and the checks of their requests, which unary calls share.

use crate::participant_session::PROTOCOL_VERSION;
use crate::refusal::Refusal;
use crate::session::{
    Call, ClientOpened, Gate, Hello, Inbound, Opening, Outgoing, SessionId, first_message, link,
    read,
};
use tonic::{Request, Response, Status, Streaming};
use unanimous_core::message::Wait;
use unanimous_core::{Gtrid, InstanceId, Labels, Request as CoreRequest, TransactionName};
use unanimous_proto::v1;
use unanimous_proto::v1::transact_request::Body;
use unanimous_proto::v1::transact_response::Body as Said;

const CLIENT_BYTES_MAX: usize = 64;
const SDK_BYTES_MAX: usize = 128;

/// `ClientService`.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    gate: Gate,
}

impl Clients {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl v1::client_service_server::ClientService for Clients {
    type TransactStream = Outgoing<v1::TransactResponse>;

    async fn transact(
        &self,
        request: Request<Streaming<v1::TransactRequest>>,
    ) -> Result<Response<Self::TransactStream>, Status> {
        let (opening, outgoing) = self.gate.open(request);
        tokio::spawn(transact(self.gate.clone(), opening));
        Ok(Response::new(outgoing))
    }
}

async fn transact(gate: Gate, opening: Opening<v1::TransactRequest, v1::TransactResponse>) {
    let Opening { session, mut inbound, queue, kill, place, .. } = opening;
    let closing = |detail: &str| {
        tracing::debug!(?session, detail, "client refused");
        // A new queue has room; a peer that is gone needs no words.
        let _ = queue.try_send(Ok(closing(detail)));
    };
    if place.is_none() {
        return closing("there are as many sessions as may be");
    }
    let (call, hello) = match first_message(&gate, &mut inbound).await {
        Hello::Said(v1::TransactRequest { call, body: Some(Body::Hello(hello)) }) => (call, hello),
        Hello::Said(_) => return closing("the first message is not a hello"),
        Hello::Not(detail) => return closing(detail),
        Hello::Gone => return,
    };
    if let Err(detail) = check_hello(&hello) {
        return closing(detail);
    }
    let (outbound, ended) = link(queue, kill);
    let opened = ClientOpened { session, call, client: hello.client.clone(), outbound };
    if gate.tell(Inbound::ClientOpened(opened)).await {
        read(&gate, session, inbound, ended, |message| {
            hear(&gate, session, &hello.client, message)
        })
        .await;
    }
}

pub(crate) fn closing(detail: &str) -> v1::TransactResponse {
    let body = Said::Closing(v1::Closing { detail: detail.to_owned() });
    v1::TransactResponse { call: 0, body: Some(body) }
}

pub(crate) fn check_hello(hello: &v1::ClientHello) -> Result<(), &'static str> {
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err("the protocol version is not known; 1 is");
    }
    if hello.client.len() > CLIENT_BYTES_MAX || hello.client.chars().any(char::is_control) {
        return Err("the client's name has more than 64 bytes or a control character");
    }
    if InstanceId::from_bytes(&hello.instance).is_none() {
        return Err("an instance has 16 bytes");
    }
    if hello.sdk.len() > SDK_BYTES_MAX {
        return Err("`sdk` has more than 128 bytes");
    }
    Ok(())
}

fn hear(
    gate: &Gate,
    session: SessionId,
    client: &str,
    message: v1::TransactRequest,
) -> Option<Inbound> {
    let called: Call = match message.body {
        Some(Body::Hello(_)) => return Some(Inbound::Broke(session, "a second hello")),
        Some(Body::Begin(wire)) => begin(&wire),
        Some(Body::Commit(wire)) => check_request_id(&wire.request_id)
            .and_then(|()| commit(gtrid(&wire.gtrid)?, wire.expected_branches, wire.wait)),
        Some(Body::Rollback(wire)) => check_request_id(&wire.request_id)
            .and_then(|()| Ok(CoreRequest::Rollback { gtrid: gtrid(&wire.gtrid)? })),
        Some(Body::Resolve(wire)) => gtrid(&wire.gtrid).map(|gtrid| CoreRequest::Resolve {
            gtrid,
            expected_branches: wire.expected_branches,
            wait: wire.wait,
        }),
        None => {
            gate.ignore(session, client, "an unknown message");
            Err(Refusal::unsupported("body"))
        }
    };
    Some(Inbound::Called(session, message.call, called))
}

pub(crate) fn gtrid(bytes: &[u8]) -> Result<Gtrid, Refusal> {
    Gtrid::from_bytes(bytes).map_err(|error| Refusal::invalid("gtrid", error.to_string()))
}

pub(crate) fn check_request_id(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.len() {
        0 | 16 => Ok(()),
        _ => Err(Refusal::invalid("request_id", "a request id has 16 bytes, or none")),
    }
}

pub(crate) fn begin(wire: &v1::Begin) -> Call {
    let foreseen = [
        ("parent", wire.parent.is_empty()),
        ("superior", wire.superior.is_none()),
        ("owner", wire.owner.is_empty()),
        ("lease_ms", wire.lease_ms == 0),
    ];
    if let Some((field, _)) = foreseen.into_iter().find(|(_, absent)| !absent) {
        return Err(Refusal::unsupported(field));
    }
    check_request_id(&wire.request_id)?;
    begin_named(&wire.name, wire.timeout_ms, &wire.labels)
}

/// Begin, after the check of its name and labels.
pub(crate) fn begin_named(name: &str, timeout_ms: u64, labels: &[v1::Label]) -> Call {
    let name =
        TransactionName::new(name).map_err(|error| Refusal::invalid("name", error.to_string()))?;
    let labels = Labels::new(labels.iter().map(|label| (&*label.key, &*label.value)))
        .map_err(|error| Refusal::invalid("labels", error.to_string()))?;
    Ok(CoreRequest::Begin { name, labels, timeout_ms })
}

/// Commit. A way to wait that is not known is refused before anything happens.
pub(crate) fn commit(gtrid: Gtrid, expected_branches: Option<u32>, wait: i32) -> Call {
    let wait = match v1::Wait::try_from(wait) {
        Ok(v1::Wait::Unspecified | v1::Wait::Decided) => Wait::Decided,
        Ok(v1::Wait::Completed) => Wait::Completed,
        Err(_) => return Err(Refusal::invalid("wait", "a way to wait that is not known")),
    };
    Ok(CoreRequest::Commit { gtrid, expected_branches, wait })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(call: Call) -> String {
        call.err().unwrap().wire().reason
    }

    #[test]
    fn fields_of_later_versions_are_refused_by_name() {
        type Change = fn(&mut v1::Begin);
        let with: [(&str, Change); 4] = [
            ("parent", |begin| begin.parent = vec![1; 24]),
            ("superior", |begin| begin.superior = Some(v1::Superior::default())),
            ("owner", |begin| begin.owner = "me".to_owned()),
            ("lease_ms", |begin| begin.lease_ms = 5),
        ];
        for (field, change) in with {
            let mut wire = v1::Begin::default();
            change(&mut wire);
            let refused = begin(&wire).err().unwrap().wire();
            assert_eq!(refused.reason, "UNSUPPORTED_FIELD");
            assert!(refused.detail.contains(field));
        }
        assert!(begin(&v1::Begin::default()).is_ok());
    }

    #[test]
    fn hostile_requests_are_invalid_arguments() {
        for name in ["a\0b", "a\nb", "\u{1b}[31m", &"x".repeat(65)] {
            assert_eq!(reason(begin_named(name, 0, &[])), "INVALID_ARGUMENT", "{name:?}");
        }
        let label = |key: &str| v1::Label { key: key.into(), value: "4711".into() };
        assert!(begin_named("o'hara \"quoted\"", 0, &[label("order")]).is_ok());
        for labels in [vec![label("Order")], vec![label("order"), label("order")]] {
            assert_eq!(reason(begin_named("", 0, &labels)), "INVALID_ARGUMENT", "{labels:?}");
        }
        assert!(gtrid(&[1; 23]).is_err() && gtrid(&[9; 24]).is_err() && gtrid(&[]).is_err());
        let id = Gtrid::from_bytes(&[1; 24]).unwrap();
        assert_eq!(reason(commit(id, None, 17)), "INVALID_ARGUMENT");
        assert!(check_request_id(&[0; 15]).is_err());
    }

    #[test]
    fn a_bad_hello_is_refused() {
        let good = v1::ClientHello {
            protocol_version: 1,
            client: "app".to_owned(),
            instance: vec![0; 16],
            sdk: String::new(),
        };
        assert_eq!(check_hello(&good), Ok(()));
        for bad in [
            v1::ClientHello { protocol_version: 2, ..good.clone() },
            v1::ClientHello { client: "a\u{7}".to_owned(), ..good.clone() },
            v1::ClientHello { instance: vec![], ..good.clone() },
            v1::ClientHello { sdk: "s".repeat(129), ..good },
        ] {
            assert!(check_hello(&bad).is_err());
        }
    }
}
