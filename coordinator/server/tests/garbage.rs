//! reliability.md B-03: bytes that are no message, or nearly one, on every call. No panic;
//! everybody else goes on.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::*;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use unanimous_core::{Gtrid, Owner};
use unanimous_proto::v1;

/// Sends bytes as they are.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// xorshift: the same bytes in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Either noise, or a good message with some bytes changed, doubled or cut off.
    fn spoil(&mut self, good: &[u8]) -> Vec<u8> {
        if good.is_empty() || self.below(4) == 0 {
            return (0..self.below(200)).map(|_| self.byte()).collect();
        }
        let mut bytes = good.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            bytes[at] = self.byte();
        }
        if self.below(3) == 0 {
            bytes.truncate(self.below(bytes.len()) + 1);
        }
        if self.below(3) == 0 {
            let copy = bytes.clone();
            bytes.extend(copy);
        }
        bytes
    }
}

fn said_by_participants(gtrid: Gtrid, owner: Owner) -> [Tell; 4] {
    let branch = branch("bank-x", gtrid, 1, owner);
    let vote = a_vote(branch.clone(), v1::Ballot::Commit);
    [
        Tell::Enlist(v1::Enlist {
            branch: Some(branch.clone()),
            resource_id: resource_id("bank-x"),
            vote: Some(vote.clone()),
        }),
        Tell::Vote(vote),
        Tell::Acknowledged(v1::Acknowledged {
            branch: Some(branch.clone()),
            done: v1::Done::HeuristicMixed.into(),
            detail: "words".to_owned(),
        }),
        Tell::Inquire(v1::Inquire { branches: vec![branch; 3] }),
    ]
}

#[tokio::test]
async fn b_03_no_bytes_on_any_call_hurt_anybody_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut random = Random(0x5eed);
    let mut client = server.client().await;
    let mut witness = server.participant("witness").await;
    let gtrid = client.begin().await;
    let branch = witness.enlist(gtrid).await;
    let abused = client.begin().await;
    let owner = witness.owner.unwrap();

    let hello = Participant::dial(&server, "bank-x").await.a_hello();
    let participant = |body| v1::ParticipateRequest { body: Some(body) }.encode_to_vec();
    let client_says = |body| v1::TransactRequest { call: 9, body: Some(body) }.encode_to_vec();
    let participant_hello = participant(Tell::Hello(hello));
    let client_hello = client_says(Ask::Hello(client_hello()));
    let id = abused.as_bytes().to_vec();
    let asked = [
        client_says(Ask::Begin(v1::Begin { name: "n".to_owned(), ..Default::default() })),
        client_says(Ask::Resolve(v1::Resolve { gtrid: id, ..Default::default() })),
    ];
    let text = v1::CommitRequest { gtrid: "ab".repeat(24), ..Default::default() }.encode_to_vec();
    for round in 0..300 {
        let told = participant(said_by_participants(abused, owner)[round % 4].clone());
        let session = |hello: &[u8], good: &[u8], random: &mut Random| {
            let mut messages = vec![hello.to_vec()];
            if random.below(4) == 0 {
                messages[0] = random.spoil(hello);
            }
            messages.extend((0..5).map(|_| random.spoil(good)));
            messages
        };
        let calls = [
            ("ParticipantService/Participate", session(&participant_hello, &told, &mut random)),
            ("ClientService/Transact", session(&client_hello, &asked[round % 2], &mut random)),
            ("TransactionService/Begin", vec![random.spoil(&text)]),
            ("TransactionService/Commit", vec![random.spoil(&text)]),
            ("TransactionService/GetOutcome", vec![random.spoil(&text)]),
        ];
        for (path, messages) in calls {
            send(&server, path, messages).await;
        }
    }
    client.ask(1, commit(gtrid, Some(1), v1::Wait::Decided)).await;
    assert_eq!(witness.decide().await.decision(), v1::Decision::CommitOnePhase);
    witness.acknowledge(branch, v1::Done::Done).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    let status = server.admin().await.get_status(v1::GetStatusRequest {}).await.unwrap();
    assert!(status.into_inner().unexpected_messages_total > 50, "hardly anything got so far");
    server.stop().await;
}

/// Every call with one request and one answer, as `Service/Method`.
fn unary_calls() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/unanimous/v1");
    let mut calls = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.trim_end_matches(" {");
            }
            if let Some((method, _)) =
                line.strip_prefix("rpc ").and_then(|rest| rest.split_once('('))
                && !line.contains("stream")
            {
                calls.push(format!("{service}/{method}"));
            }
        }
    }
    calls
}

/// The connection lives, and the coordinator does not call it an error of its own.
#[tokio::test]
async fn b_03_what_cannot_be_read_is_an_invalid_argument_of_every_call() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let calls = unary_calls();
    assert!(calls.len() >= 11, "{calls:?}");
    for call in calls {
        let of_admin = call.starts_with("AdminService/");
        let port = if of_admin { server.admin } else { server.sessions };
        let channel = connect(port).await;
        for unreadable in [&b"\xff\xff\xff"[..], b"\x0a\x7f", &[0x0f; 500]] {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let path: PathAndQuery = format!("/unanimous.v1.{call}").parse().unwrap();
            let refused =
                grpc.unary(Request::new(unreadable.to_vec()), path, Raw).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{call}: {refused}");
            assert_eq!(refused.get_details_error_info().unwrap().reason, "INVALID_ARGUMENT");
        }
        let mut watch = watch_health(channel).await;
        assert!(next(&mut watch).await.unwrap().is_some(), "{call}: its connection has ended");
    }
    server.stop().await;
}

/// Sends the messages on one call and reads it to its end, whatever that is.
async fn send(server: &Running, path: &str, messages: Vec<Vec<u8>>) {
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.unwrap();
    let path: PathAndQuery = format!("/unanimous.v1.{path}").parse().unwrap();
    let request = Request::new(tokio_stream::iter(messages));
    let reading = async {
        if let Ok(response) = grpc.streaming(request, path, Raw).await {
            let mut answers = response.into_inner();
            while let Ok(Some(_)) = answers.message().await {}
        }
    };
    tokio::time::timeout(GUARD, reading).await.expect("the call has no end");
}
