//! Finds decisions in what the coordinator writes to its sockets: HTTP/2 DATA frames, gRPC
//! messages, ours.

use prost::Message as _;
use std::collections::BTreeMap;
use unanimous_proto::v1::{
    Decision, Outcome, ParticipateResponse, TransactResponse, Verdict, participate_response,
    transact_response,
};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Participant,
}

/// The coordinator's half of one connection.
#[derive(Default)]
pub(crate) struct Connection {
    unread: Vec<u8>,
    streams: BTreeMap<u32, Vec<u8>>,
}

/// What was told about a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) gtrid: Vec<u8>,
    /// To a client as its outcome, or to a participant as its order.
    pub(crate) to_client: bool,
}

impl Connection {
    /// Takes what was written and gives every decision commit that is complete in it.
    pub(crate) fn write(&mut self, peer: Peer, bytes: &[u8]) -> Vec<Told> {
        self.unread.extend_from_slice(bytes);
        let mut told = Vec::new();
        while let Some((kind, flags, stream, payload)) = self.next_frame() {
            const DATA: u8 = 0;
            const PADDED: u8 = 8;
            if kind == DATA {
                assert_eq!(flags & PADDED, 0, "padding is not expected");
                self.streams.entry(stream).or_default().extend(payload);
                told.extend(self.messages(peer, stream));
            }
        }
        told
    }

    fn next_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let header: [u8; 9] = self.unread.get(..9)?.try_into().ok()?;
        let length =
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        Some((header[3], header[4], stream, payload))
    }

    fn messages(&mut self, peer: Peer, stream: u32) -> Vec<Told> {
        let mut told = Vec::new();
        let Some(bytes) = self.streams.get_mut(&stream) else { return told };
        while let Some(header) = bytes.get(..5) {
            assert_eq!(header[0], 0, "compression is not expected");
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            let end = 5 + usize::try_from(length).unwrap_or(usize::MAX - 5);
            let Some(message) = bytes.get(5..end) else { break };
            told.extend(match peer {
                Peer::Client => told_client(message),
                Peer::Participant => told_participant(message),
            });
            bytes.drain(..end);
        }
        told
    }
}

fn told_client(message: &[u8]) -> Option<Told> {
    let response = TransactResponse::decode(message).ok()?;
    let transact_response::Body::Ended(ended) = response.body? else { return None };
    let committed = ended.result?.outcome == i32::from(Outcome::Committed);
    committed.then_some(Told { gtrid: ended.gtrid, to_client: true })
}

fn told_participant(message: &[u8]) -> Option<Told> {
    let response = ParticipateResponse::decode(message).ok()?;
    let branch = match response.body? {
        participate_response::Body::Decide(decide)
            if decide.decision == i32::from(Decision::Commit) =>
        {
            decide.branch
        }
        participate_response::Body::Answer(answer)
            if answer.verdict == i32::from(Verdict::Commit) =>
        {
            answer.branch
        }
        _ => None,
    };
    Some(Told { gtrid: branch?.gtrid, to_client: false })
}
