//! What comes from outside, for the fuzzing targets: each function takes bytes that anybody may
//! send, and what the server makes of them must say the same again. Nothing that ships has it.

use crate::participant_session::{PROTOCOL_VERSION, Peer};
use crate::session::SessionId;
use crate::{admin, client_session, convert, filter, unary};
use prost::Message;
use unanimous_core::{BranchId, Gtrid, Request};
use unanimous_proto::v1;
use v1::participate_request::Body as Participates;
use v1::transact_request::Body as Transacts;

/// A filter's normal form, if the text is a filter.
///
/// # Panics
/// If the normal form is another filter, or none.
#[must_use]
pub fn filter(text: &str) -> Option<String> {
    let read = filter::parse(text).ok()?;
    let printed = read.to_string();
    // A normal form may be longer than any text that is read.
    if printed.len() <= 1_024 {
        assert_eq!(filter::parse(&printed), Ok(read), "{printed}");
    }
    Some(printed)
}

fn says_again(branch: &BranchId, wire: Option<&v1::BranchRef>) {
    assert_eq!(Some(&convert::branch_ref(branch)), wire, "a branch is another one");
}

/// A message of a participant. Whether it has a meaning.
///
/// # Panics
/// If what the server understands is not what was said.
#[must_use]
pub fn participate(bytes: &[u8]) -> bool {
    let Ok(message) = v1::ParticipateRequest::decode(bytes) else { return false };
    let again = v1::ParticipateRequest::decode(&message.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&message), "a message is another one");
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        participant: "bank".to_owned(),
        instance: vec![1; 16],
        resources: vec![v1::Resource { resource_id: "accounts".to_owned(), kind: String::new() }],
        ..v1::Hello::default()
    };
    let peer = Peer::meet(&hello).expect("a good hello");
    let id = SessionId(1);
    match &message.body {
        Some(Participates::Hello(hello)) => Peer::meet(hello).is_ok(),
        Some(Participates::Enlist(wire)) => peer.enlist(id, wire).is_ok(),
        Some(Participates::Vote(wire)) => peer.vote(id, wire).is_ok(),
        Some(Participates::Acknowledged(wire)) => peer.acknowledged(id, wire).is_ok(),
        Some(Participates::Inquire(wire)) => {
            let ids = wire.branches.iter().map(|branch| (convert::branch_id(Some(branch)), branch));
            ids.filter_map(|(id, wire)| Some((id.ok()?, wire)))
                .map(|(id, wire)| says_again(&id, Some(wire)))
                .count()
                > 0
        }
        Some(Participates::Examined(wire)) => peer.examined(wire).is_ok(),
        None => false,
    }
}

/// A message of a client's session. Whether it has a meaning.
///
/// # Panics
/// If what the server understands is not what was said.
#[must_use]
pub fn transact(bytes: &[u8]) -> bool {
    let Ok(message) = v1::TransactRequest::decode(bytes) else { return false };
    let again = v1::TransactRequest::decode(&message.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&message), "a message is another one");
    match &message.body {
        Some(Transacts::Hello(hello)) => client_session::check_hello(hello).is_ok(),
        Some(Transacts::Begin(wire)) => {
            let begun = client_session::begin(wire);
            if let Ok(Request::Begin { name, .. }) = &begun {
                assert_eq!(name.as_str(), wire.name);
            }
            begun.is_ok()
        }
        Some(Transacts::Commit(wire)) => {
            let id = client_session::gtrid(&wire.gtrid);
            let called =
                id.and_then(|id| client_session::commit(id, wire.expected_branches, wire.wait));
            if let Ok(Request::Commit { gtrid, .. }) = &called {
                assert_eq!(gtrid.as_bytes()[..], wire.gtrid);
            }
            called.is_ok() && client_session::check_request_id(&wire.request_id).is_ok()
        }
        Some(Transacts::Rollback(wire)) => client_session::gtrid(&wire.gtrid).is_ok(),
        Some(Transacts::Resolve(wire)) => client_session::gtrid(&wire.gtrid).is_ok(),
        None => false,
    }
}

/// A single call of a client or an operator; the first byte says which. Whether it has a meaning.
/// Calls that name a participant, or nothing, are not among them: nothing of them is read.
///
/// # Panics
/// If what the server understands is not what was said.
#[must_use]
pub fn call(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    match which {
        0 => v1::BeginRequest::decode(bytes).is_ok_and(|wire| {
            client_session::begin_named(&wire.name, wire.timeout_ms, &wire.labels).is_ok()
                && unary::check_request_id(&wire.request_id).is_ok()
        }),
        1 => v1::CommitRequest::decode(bytes).is_ok_and(|wire| {
            gtrid(&wire.gtrid).is_some_and(|id| {
                client_session::commit(id, wire.expected_branches, wire.wait).is_ok()
            })
        }),
        2 => v1::ListTransactionsRequest::decode(bytes).is_ok_and(|wire| {
            if let Ok(Some(place)) = admin::page_token(&wire.page_token) {
                assert_eq!(place.to_string(), wire.page_token.to_ascii_lowercase());
            }
            admin::filter(&wire.filter).is_ok()
        }),
        3 => v1::GetTransactionRequest::decode(bytes).is_ok_and(|wire| is_name(&wire.gtrid)),
        4 => v1::RollbackRequest::decode(bytes).is_ok_and(|wire| {
            gtrid(&wire.gtrid).is_some() && unary::check_request_id(&wire.request_id).is_ok()
        }),
        5 => v1::GetOutcomeRequest::decode(bytes).is_ok_and(|wire| gtrid(&wire.gtrid).is_some()),
        6 => v1::RetryTransactionRequest::decode(bytes).is_ok_and(|wire| is_name(&wire.gtrid)),
        _ => false,
    }
}

fn gtrid(text: &str) -> Option<Gtrid> {
    let read = unary::gtrid(text).ok();
    read.inspect(|id| assert_eq!(id.to_string(), text.to_ascii_lowercase()))
}

fn is_name(text: &str) -> bool {
    admin::name(text).is_ok_and(|name| {
        let again = match name {
            admin::Name::Full(id) => id.to_string(),
            admin::Name::Suffix(digits) => digits.to_ascii_lowercase(),
        };
        assert_eq!(again, text.to_ascii_lowercase(), "a name is another one");
        true
    })
}
