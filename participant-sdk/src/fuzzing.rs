//! What comes from outside, for the fuzzing targets: each function takes bytes that a coordinator
//! may send, that come with a call, or that are in a store. Nothing that ships has it.

use crate::client::resolution;
use crate::transaction::CommitError;
use crate::{Context, deadline, tally, wire};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use std::time::Duration;
use unanimous_core::message::Verdict;
use unanimous_core::participant::Order;
use unanimous_core::{BranchId, Decision, Evidence, Gtrid};
use unanimous_proto::v1;
use v1::participate_response::Body as Orders;
use v1::transact_response::Body as Tells;

pub use crate::embedded::fuzzing::accounts;

/// A message of the coordinator to a participant. Whether it has a meaning.
///
/// # Panics
/// If what the participant understands is not what was said.
#[must_use]
pub fn order(bytes: &[u8]) -> bool {
    let Ok(message) = v1::ParticipateResponse::decode(bytes) else { return false };
    let again = v1::ParticipateResponse::decode(&message.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&message), "a message is another one");
    let mark = message.ended.as_ref().and_then(wire::ended_mark);
    if let (Some(mark), Some(wire)) = (&mark, &message.ended) {
        assert_eq!(mark.exceptions.len(), wire.exceptions.len(), "an exception is lost");
    }
    let understood = match &message.body {
        Some(Orders::Welcome(wire)) => wire::owner(wire.coordinator.as_ref()).is_some(),
        Some(Orders::Enlisted(wire)) => wire::branch_id(wire.branch.as_ref()).is_some(),
        Some(body) => wire::order(body).is_some_and(|(branch, order)| {
            assert!(says(body, &branch, &order), "{body:?} is understood as {order:?}");
            true
        }),
        None => false,
    };
    understood || mark.is_some()
}

/// Whether the message says this, and nothing else.
fn says(body: &Orders, branch: &BranchId, order: &Order) -> bool {
    let same = |wire: &Option<v1::BranchRef>| *wire == Some(wire::branch_ref(branch));
    let evidence = |wire: &Option<v1::Evidence>, evidence: &Option<Evidence>| match (wire, evidence)
    {
        (Some(wire), Some(evidence)) => wire.kind == evidence.kind && wire.data == evidence.data,
        (wire, evidence) => wire.is_none() && evidence.is_none(),
    };
    match (body, order) {
        (Orders::Prepare(wire), Order::Prepare) => same(&wire.branch),
        (Orders::Forget(wire), Order::Forget) => same(&wire.branch),
        (Orders::Decide(wire), Order::CommitOnePhase) => {
            same(&wire.branch) && wire.decision() == v1::Decision::CommitOnePhase
        }
        (Orders::Decide(wire), Order::Decide { decision, frame, evidence: kept }) => {
            let (said, kept) = match decision {
                Decision::Commit => (v1::Decision::Commit, evidence(&wire.evidence, kept)),
                Decision::Rollback => (v1::Decision::Rollback, kept.is_none()),
            };
            same(&wire.branch) && wire.decision() == said && wire.frame == frame.0 && kept
        }
        (Orders::Answer(wire), Order::Answer(verdict)) => {
            let (said, kept) = match verdict {
                Verdict::Commit { frame, evidence: kept } => {
                    let kept = wire.frame == frame.0 && evidence(&wire.evidence, kept);
                    (v1::Verdict::Commit, kept)
                }
                Verdict::Rollback => (v1::Verdict::Rollback, true),
                Verdict::Wait => (v1::Verdict::Wait, true),
                Verdict::LeaveAlone => (v1::Verdict::LeaveAlone, true),
            };
            same(&wire.branch) && wire.verdict() == said && kept
        }
        _ => false,
    }
}

/// A message of the coordinator to a client. Whether it has a meaning.
///
/// # Panics
/// If what the client understands is not what was said, or could command a terminal.
#[must_use]
pub fn told(bytes: &[u8]) -> bool {
    let Ok(message) = v1::TransactResponse::decode(bytes) else { return false };
    let again = v1::TransactResponse::decode(&message.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&message), "a message is another one");
    match &message.body {
        Some(Tells::Welcome(wire)) => wire::owner(wire.coordinator.as_ref()).is_some(),
        Some(Tells::Begun(wire)) => Gtrid::from_bytes(&wire.gtrid).is_ok(),
        Some(Tells::Ended(wire)) => {
            let Some(known) = resolution(wire.result.as_ref()) else { return false };
            let Ok(gtrid) = Gtrid::from_bytes(&[1; 24]) else { return false };
            let error = CommitError::of_commit(gtrid, None, known).err();
            let words = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!words.contains(char::is_control), "{words:?}");
            let outcome = wire.result.as_ref().map(v1::Result::outcome);
            assert_eq!(outcome == Some(v1::Outcome::Committed), words.is_empty());
            true
        }
        Some(_) => true,
        None => false,
    }
}

/// The headers of a call, a line each. Whether it belongs to a transaction.
///
/// # Panics
/// If a call that is made on its behalf belongs to another one, or may take longer.
#[must_use]
pub fn headers(bytes: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 1..])) {
            headers.append(name, value);
        }
    }
    let _ = tally::branches_in(&headers);
    let Ok(Some(context)) = Context::from_headers(&headers) else { return false };
    let remaining = context.remaining();
    let sent = context.request(()).into_parts().0.into_headers();
    let there = Context::from_headers(&sent).ok().flatten().expect("it belongs to a transaction");
    assert_eq!(there.gtrid(), context.gtrid());
    assert_eq!(deadline::of(&sent).is_some(), remaining != Duration::MAX);
    // A time that has passed is written as a millisecond.
    assert!(there.remaining() <= remaining.saturating_add(Duration::from_millis(1)));
    let sent_on = there.request(()).into_parts().0.into_headers();
    assert_eq!(sent_on.get("traceparent"), sent.get("traceparent"));
    true
}
