//! Who may make which call: every call there is, and every way of not being allowed to.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/authority.rs"]
mod tls;

use common::*;
use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use tls::{Authority, Signed, trust, write_secret};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tower::{Service, ServiceExt};
use unanimous_proto::v1;
use unanimous_server::{Access, AccessFiles, CALLS, Config, Role};

/// Everything that a guarded server is tried with.
struct World {
    authority: Authority,
    server: Running,
    /// Goes last: without its directory the log ends the process.
    dir: tempfile::TempDir,
}

const TOKENS: [(&str, &str); 6] = [
    ("token-of-carla", "client"),
    ("token-of-paul", "participant:bank-a"),
    ("token-of-rosa", "reader"),
    ("token-of-otto", "operator"),
    ("token-of-ada", "admin"),
    ("token-of-nobody", "reader"),
];

fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files(dir: &Path, authority: &Authority) -> AccessFiles {
    let (cert, key) = authority.server("localhost").write(dir, "server");
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    AccessFiles { cert, key, client_ca: Some(ca), ..AccessFiles::default() }
}

fn tokens_file(dir: &Path) -> std::path::PathBuf {
    let mut lines = String::from("# name roles digest end\n\n");
    for (token, role) in TOKENS {
        let end = if token == "token-of-nobody" { "2001-02-03" } else { "" };
        lines += &format!("{} {role} {} {end} # a comment\n", &token[9..], sha256(token));
    }
    let path = dir.join("tokens");
    write_secret(&path, &lines);
    path
}

impl World {
    async fn start(change: impl FnOnce(&Path, &mut AccessFiles)) -> Self {
        let config = Config { reflection: true, ..once() };
        Self::start_with(config, change).await
    }

    async fn start_with(config: Config, change: impl FnOnce(&Path, &mut AccessFiles)) -> Self {
        let (authority, dir) = (Authority::new("ours"), tempfile::tempdir().unwrap());
        let mut files = files(dir.path(), &authority);
        change(dir.path(), &mut files);
        let access = Access::load(files).unwrap();
        let server = start_guarded(&dir.path().join("log"), config, access);
        let world = Self { authority, server, dir };
        let anybody = world.authority.client(&["unanimous:role/reader"]);
        for at in [world.server.sessions, world.server.admin] {
            let mut watch = watch_health(world.channel(at, Some(&anybody)).await).await;
            while next(&mut watch).await.unwrap().unwrap().status() != ServingStatus::Serving {}
        }
        world
    }

    async fn channel(&self, to: SocketAddr, as_whom: Option<&Signed>) -> Channel {
        let tls = trust(&self.authority, as_whom);
        let address = format!("https://localhost:{}", to.port());
        let endpoint = Channel::from_shared(address).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn refused(&self) -> u64 {
        let admin = self.authority.client(&["unanimous:role/reader"]);
        let channel = self.channel(self.server.admin, Some(&admin)).await;
        let mut admin = v1::admin_service_client::AdminServiceClient::new(channel);
        let status = admin.get_status(v1::GetStatusRequest::default()).await.unwrap();
        status.into_inner().refused_calls_total
    }
}

/// The path of every call that there is.
fn methods() -> BTreeSet<String> {
    let sets = [
        unanimous_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeSet::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                }));
            }
        }
    }
    methods
}

/// What comes back for an empty call.
async fn call(channel: &Channel, method: &str, token: Option<&str>) -> Code {
    let mut request = http::Request::post(method)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut channel = channel.clone();
    let ready = channel.ready().await.unwrap();
    let response = ready.call(request.body(Body::empty()).unwrap()).await.unwrap();
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

#[test]
fn the_table_has_every_call_of_the_descriptors_and_no_other() {
    let table: BTreeSet<String> = CALLS.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(table, methods());
}

/// What the table may say, said again by what calls are called.
#[test]
fn a_reader_changes_nothing_and_only_participants_take_part() {
    for (method, roles) in CALLS {
        let (service, name) = method.rsplit_once('/').unwrap();
        let looks = ["Get", "List", "Plan", "Diagnose", "Check", "Watch", "ServerReflection"];
        let looks = looks.iter().any(|word| name.starts_with(word));
        let reads = Role::ALL.iter().filter(|role| role.is_also(Role::Reader));
        if !looks {
            assert!(!roles.contains(&Role::Reader), "{method} changes something");
        } else {
            assert!(reads.clone().count() == 3 && roles.contains(&Role::Reader), "{method}");
        }
        match service {
            "/unanimous.v1.ParticipantService" => assert_eq!(*roles, [Role::Participant]),
            "/unanimous.v1.ClientService" => assert_eq!(*roles, [Role::Client]),
            "/unanimous.v1.TransactionService" => assert!(roles.contains(&Role::Client)),
            "/unanimous.v1.AdminService" => {
                assert!(!roles.contains(&Role::Client) && !roles.contains(&Role::Participant));
            }
            _ => assert_eq!(roles.len(), Role::ALL.len(), "{method}"),
        }
    }
}

/// Every call, on both ports, as everybody: by certificate and by token.
#[tokio::test]
async fn z_01_every_call_is_refused_to_nobody_and_to_the_wrong_role() {
    let world = World::start(|dir, files| files.tokens_file = Some(tokens_file(dir))).await;
    let mut refused = world.refused().await;
    let mut checked = 0;
    for at in [world.server.sessions, world.server.admin] {
        let nobody = world.channel(at, None).await;
        for method in methods() {
            for token in [None, Some("wrong"), Some(""), Some("token-of-nobody")] {
                let code = call(&nobody, &method, token).await;
                assert_eq!(code, Code::Unauthenticated, "{method} with {token:?}");
                refused += 1;
            }
        }
        for (role, (token, _)) in Role::ALL.into_iter().zip(TOKENS) {
            let uri = match role {
                Role::Participant => "unanimous:participant/bank-a".to_owned(),
                role => format!("unanimous:role/{role}"),
            };
            let signed = world.authority.client(&["unanimous:name/somebody", &uri]);
            let by_certificate = world.channel(at, Some(&signed)).await;
            for (method, roles) in CALLS {
                let may = roles.iter().any(|wanted| role.is_also(*wanted));
                let codes = [
                    call(&by_certificate, method, None).await,
                    call(&nobody, method, Some(token)).await,
                ];
                for code in codes {
                    let denied = [Code::PermissionDenied, Code::Unauthenticated].contains(&code);
                    assert_eq!(denied, !may, "{role} calls {method}: {code:?}");
                    refused += u64::from(denied);
                    checked += 1;
                }
            }
            // A token that is not known is not made good by a certificate.
            let code = call(&by_certificate, CALLS[0].0, Some("wrong")).await;
            assert_eq!(code, Code::Unauthenticated);
            // And what nobody knows is nobody's.
            let code = call(&by_certificate, "/unanimous.v1.AdminService/Explode", None).await;
            assert_eq!(code, Code::Unimplemented);
            refused += 2;
        }
    }
    assert_eq!(checked, 2 * 2 * Role::ALL.len() * CALLS.len());
    assert_eq!(world.refused().await, refused, "each refusal is counted");
    world.server.stop().await;
}

/// reliability.md Z-04.
#[tokio::test]
async fn z_04_a_reader_that_would_act_is_refused_and_in_the_audit() {
    let world = World::start(|_, _| {}).await;
    let rosa = world.authority.client(&["unanimous:name/rosa", "unanimous:role/reader"]);
    let channel = world.channel(world.server.admin, Some(&rosa)).await;
    let force = "/unanimous.v1.AdminService/ForceTransaction";
    assert_eq!(call(&channel, force, None).await, Code::PermissionDenied);
    let admin = v1::admin_service_client::AdminServiceClient::new(channel);
    let entry = eventually(|| {
        let mut admin = admin.clone();
        async move {
            let all = v1::ListAuditRequest::default();
            admin.list_audit(all).await.unwrap().into_inner().entries.pop()
        }
    });
    let entry = entry.await;
    assert_eq!((entry.who.as_str(), entry.result()), ("rosa", v1::AuditResult::Refused));
    assert!(entry.from.starts_with("127.0.0.1:"), "{entry:?}");
    let told = format!("{entry:?}");
    assert!(told.contains("ForceTransaction") && told.contains("ROLE_MISSING"), "{told}");
    world.server.stop().await;
}

async fn dial(world: &World, uris: &[&str], name: &str) -> Participant {
    let signed = world.authority.client(uris);
    let channel = world.channel(world.server.sessions, Some(&signed)).await;
    Participant::dial_over(channel, name).await
}

async fn client(world: &World) -> Client {
    let signed = world.authority.client(&["unanimous:role/client"]);
    world.server.client_over(world.channel(world.server.sessions, Some(&signed)).await).await
}

/// A participant's name is its certificate's.
#[tokio::test]
async fn a_participant_takes_no_other_name_than_its_certificates() {
    let world = World::start(|_, _| {}).await;
    let before = world.refused().await;
    let bank_a = ["unanimous:name/whatever", "unanimous:participant/bank-a"];
    let mut own = dial(&world, &bank_a, "bank-a").await;
    own.hello(Vec::new()).await;
    let mut other = dial(&world, &bank_a, "bank-b").await;
    let hello = other.a_hello();
    other.tell(Tell::Hello(hello)).await;
    assert_eq!(next(&mut other.from).await, Err(Code::PermissionDenied));
    assert_eq!(world.refused().await, before + 1);
    world.server.stop().await;
}

/// Says `body` about a branch of bank-a's, as bank-b.
async fn meddle(world: &World, bank_b: &mut Participant, body: Tell, ignored: u64) {
    bank_b.tell(body).await;
    eventually(|| async {
        let signed = world.authority.client(&["unanimous:role/reader"]);
        let channel = world.channel(world.server.admin, Some(&signed)).await;
        let mut admin = v1::admin_service_client::AdminServiceClient::new(channel);
        let status = admin.get_status(v1::GetStatusRequest::default()).await.unwrap();
        (status.into_inner().unexpected_messages_total >= ignored).then_some(())
    })
    .await;
}

/// Whatever one participant says of another's branch changes nothing.
#[tokio::test]
async fn a_participant_cannot_enlist_vote_ask_or_acknowledge_for_another() {
    let world = World::start(|_, _| {}).await;
    let mut bank_a = dial(&world, &["unanimous:participant/bank-a"], "bank-a").await;
    bank_a.hello(Vec::new()).await;
    let mut bank_b = dial(&world, &["unanimous:participant/bank-b"], "bank-b").await;
    bank_b.hello(Vec::new()).await;
    let mut client = client(&world).await;
    let gtrid = client.begin().await;
    let branch = bank_a.enlist(gtrid).await;
    bank_b.enlist(gtrid).await;

    // Enlisted again by somebody else, it is not somebody else's.
    let stolen = bank_b.try_enlist(branch.clone()).await;
    assert_eq!(stolen.status(), v1::EnlistStatus::BadResource);
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Completed)).await;
    assert_eq!(bank_a.prepare().await, branch);
    let own = bank_b.prepare().await;
    for (number, ballot) in
        [(1, v1::Ballot::Rollback), (2, v1::Ballot::ReadOnly), (3, v1::Ballot::Commit)]
    {
        let vote = Tell::Vote(a_vote(branch.clone(), ballot));
        meddle(&world, &mut bank_b, vote, number).await;
    }
    let inquire = Tell::Inquire(v1::Inquire { branches: vec![branch.clone()] });
    meddle(&world, &mut bank_b, inquire, 4).await;
    bank_b.vote(own.clone(), v1::Ballot::Commit).await;
    bank_a.vote(branch.clone(), v1::Ballot::Commit).await;
    assert_eq!(bank_a.decide().await.branch, Some(branch.clone()));
    bank_b.decide().await;

    let done = Tell::Acknowledged(v1::Acknowledged {
        branch: Some(branch.clone()),
        done: v1::Done::RolledBack.into(),
        detail: String::new(),
    });
    meddle(&world, &mut bank_b, done, 5).await;
    // What it asked has no answer: the next that it hears is about its own branch.
    bank_b.tell(Tell::Inquire(v1::Inquire { branches: vec![own.clone()] })).await;
    match bank_b.hear().await {
        Told::Answer(answer) => assert_eq!(answer.branch, Some(own.clone())),
        other => panic!("{other:?}"),
    }
    bank_b.acknowledge(own, v1::Done::Done).await;
    bank_a.acknowledge(branch, v1::Done::Done).await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    world.server.stop().await;
    drop(world.dir);
}

/// A peer that is slow to say hello, or says something else, keeps nobody else waiting.
#[tokio::test]
async fn a_peer_without_a_handshake_is_closed_in_time_and_is_in_nobodys_way() {
    use std::io::{Read, Write};
    let config = Config { hello_ms_max: 3_000, connections_max: 5, ..once() };
    let world = World::start_with(config, |_, _| {}).await;
    let dial = |words: &[u8]| {
        let mut stream = std::net::TcpStream::connect(world.server.sessions).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.write_all(words).unwrap();
        stream
    };
    let mut silent = [dial(b""), dial(b"\x16\x03\x01"), dial(b"\x16")];
    // In the last places, while the others say nothing.
    client(&world).await.begin().await;
    silent[0].set_nonblocking(true).unwrap();
    let waits = silent[0].read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(waits, Err(std::io::ErrorKind::WouldBlock), "it was served after them");
    silent[0].set_nonblocking(false).unwrap();
    let mut plain = dial(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut told = Vec::new();
    plain.read_to_end(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told).contains("this port speaks only TLS"), "{told:?}");
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "it is closed");
    }
    assert!(world.refused().await >= 4);
    world.server.stop().await;
    drop(world.dir);
}

/// The table of docs/security.md, between its two marks. `UNANIMOUS_BLESS=1` writes it.
#[test]
fn the_page_has_the_table_of_calls() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once("<!-- calls -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- end of calls -->\n").unwrap();
    let mut made = "\n| call | one of |\n| --- | --- |\n".to_owned();
    for (method, roles) in CALLS {
        let words: Vec<String> = roles.iter().map(|role| format!("`{role}`")).collect();
        let any = roles.len() == Role::ALL.len();
        let words = if any { "any role".to_owned() } else { words.join(", ") };
        made += &format!("| `{}` | {words} |\n", &method[1..]);
    }
    made += "\n";
    if std::env::var_os("UNANIMOUS_BLESS").is_some() {
        std::fs::write(
            path,
            format!("{before}<!-- calls -->\n{made}<!-- end of calls -->\n{after}"),
        )
        .unwrap();
        return;
    }
    assert_eq!(table, made, "UNANIMOUS_BLESS=1 writes it");
}
