//! A server in this process, and peers that speak the generated protocol by hand.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use unanimous_core::id::resource_manager;
use unanimous_core::{Bqual, Gtrid, LogId, Owner, ParticipantName, ResourceId};
use unanimous_proto::v1;
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_proto::v1::client_service_client::ClientServiceClient;
use unanimous_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimous_proto::v1::transaction_service_client::TransactionServiceClient;
use unanimous_recovery::{LogKind, OpenOptions};
use unanimous_server::{Access, Config, Listeners, ServeError, ShutdownHandle, shutdown};

pub use v1::participate_request::Body as Tell;
pub use v1::participate_response::Body as Told;
pub use v1::transact_request::Body as Ask;
pub use v1::transact_response::Body as Answer;

/// A hang guard: nothing here takes this long unless it is stuck.
pub const GUARD: Duration = Duration::from_secs(20);

pub struct Running {
    pub sessions: SocketAddr,
    pub admin: SocketAddr,
    pub shutdown: ShutdownHandle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// Nothing is sent again within a test: what arrives was sent for a reason, and only once.
pub fn once() -> Config {
    let mut config = Config::default();
    config.limits.retry_ms_min = 600_000;
    config.limits.retry_ms_max = 600_000;
    config.drain_ms = 500;
    config
}

/// Starts a server on the log in `dir`, which is made if there is none, and waits until it says
/// that it serves.
pub async fn start(dir: &Path, config: Config) -> Running {
    let running = start_at_once(dir, config);
    for address in [running.sessions, running.admin] {
        let mut watch = watch_health(connect(address).await).await;
        while next(&mut watch).await.unwrap().unwrap().status() != ServingStatus::Serving {}
    }
    running
}

pub async fn watch_health(channel: Channel) -> Streaming<HealthCheckResponse> {
    let mut health = HealthClient::new(channel);
    health.watch(HealthCheckRequest::default()).await.unwrap().into_inner()
}

pub fn start_at_once(dir: &Path, config: Config) -> Running {
    start_guarded(dir, config, Access::everybody())
}

pub fn start_guarded(dir: &Path, config: Config, access: Access) -> Running {
    let options =
        OpenOptions { init: true, cluster: 1, slot: 1, ..OpenOptions::new(LogKind::Coordinator) };
    let log = options.open(dir).unwrap();
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { sessions: bind(), admin: bind(), access };
    let sessions = listeners.sessions.local_addr().unwrap();
    let admin = listeners.admin.local_addr().unwrap();
    let (handle, asked) = shutdown();
    let thread = std::thread::spawn(move || unanimous_server::run(config, listeners, log, asked));
    Running { sessions, admin, shutdown: handle, thread: Some(thread) }
}

impl Running {
    pub async fn channel(&self) -> Channel {
        connect(self.sessions).await
    }

    pub async fn unary(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel().await)
    }

    pub async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(connect(self.admin).await)
    }

    pub async fn client(&self) -> Client {
        self.client_over(self.channel().await).await
    }

    pub async fn client_over(&self, channel: Channel) -> Client {
        let mut client = Client::over(channel).await;
        client.ask(0, Ask::Hello(client_hello())).await;
        match client.hear().await {
            (0, Answer::Welcome(_)) => client,
            other => panic!("{other:?}"),
        }
    }

    pub async fn participant(&self, name: &str) -> Participant {
        let mut participant = Participant::dial(self, name).await;
        participant.hello(Vec::new()).await;
        participant
    }

    /// Waits until a branch is seen in a state.
    pub async fn until(&self, gtrid: Gtrid, branch: &v1::BranchRef, state: v1::BranchState) {
        let admin = self.admin().await;
        let bqual = Bqual::from_bytes(&branch.bqual).unwrap().to_string();
        eventually(|| {
            let mut admin = admin.clone();
            let request = v1::GetTransactionRequest { gtrid: gtrid.to_string() };
            let bqual = bqual.clone();
            async move {
                let found = admin.get_transaction(request).await.unwrap().into_inner();
                let branches = found.transaction.unwrap().branches;
                let branch = branches.into_iter().find(|branch| branch.bqual == bqual).unwrap();
                (branch.state() == state).then_some(())
            }
        })
        .await;
    }

    /// Waits for the server to end by itself.
    pub async fn ended(mut self) -> Result<(), ServeError> {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
    }

    pub async fn stop(self) {
        self.shutdown.request();
        self.shutdown.request();
        self.ended().await.unwrap();
    }
}

/// Also after a failed assertion: the log's directory goes right after, and a log that cannot be
/// written ends the process.
impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Its own h2 must not take many small unread messages for an attack: hence the wide window.
pub async fn connect(to: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{to}"))
        .unwrap()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 29)
        .connect()
        .await
        .unwrap()
}

pub fn client_hello() -> v1::ClientHello {
    v1::ClientHello {
        protocol_version: 1,
        client: "test".to_owned(),
        instance: vec![1; 16],
        sdk: "by hand".to_owned(),
    }
}

/// What is heard next, or that the stream has ended.
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Code> {
    let heard = tokio::time::timeout(GUARD, stream.message()).await.expect("nothing was heard");
    heard.map_err(|status| status.code())
}

pub struct Client {
    pub to: mpsc::Sender<v1::TransactRequest>,
    pub from: Streaming<v1::TransactResponse>,
}

impl Client {
    pub async fn dial(server: &Running) -> Self {
        Self::over(server.channel().await).await
    }

    async fn over(channel: Channel) -> Self {
        let (to, requests) = mpsc::channel(64);
        let mut service = ClientServiceClient::new(channel);
        let from = service.transact(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { to, from }
    }

    pub async fn ask(&mut self, call: u64, body: Ask) {
        let request = v1::TransactRequest { call, body: Some(body) };
        self.to.send(request).await.unwrap();
    }

    /// False when the session has ended.
    pub async fn offer(&mut self, call: u64, body: Ask) -> bool {
        self.to.send(v1::TransactRequest { call, body: Some(body) }).await.is_ok()
    }

    pub async fn hear(&mut self) -> (u64, Answer) {
        let response = next(&mut self.from).await.unwrap().expect("the session has ended");
        (response.call, response.body.unwrap())
    }

    pub async fn call(&mut self, call: u64, body: Ask) -> Answer {
        self.ask(call, body).await;
        let (answered, answer) = self.hear().await;
        assert_eq!(answered, call);
        answer
    }

    pub async fn begin(&mut self) -> Gtrid {
        let begin = v1::Begin { name: "transfer".to_owned(), ..v1::Begin::default() };
        match self.call(1_000, Ask::Begin(begin)).await {
            Answer::Begun(begun) => Gtrid::from_bytes(&begun.gtrid).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn ended(&mut self) -> v1::Result {
        match self.hear().await {
            (_, Answer::Ended(ended)) => ended.result.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

pub fn commit(gtrid: Gtrid, expected_branches: Option<u32>, wait: v1::Wait) -> Ask {
    Ask::Commit(v1::Commit {
        gtrid: gtrid.as_bytes().to_vec(),
        request_id: Vec::new(),
        expected_branches,
        wait: wait.into(),
    })
}

pub fn resolve(gtrid: Gtrid, expected_branches: Option<u32>, wait: bool) -> Ask {
    Ask::Resolve(v1::Resolve { gtrid: gtrid.as_bytes().to_vec(), expected_branches, wait })
}

pub struct Participant {
    pub name: String,
    pub instance: Vec<u8>,
    to: mpsc::Sender<v1::ParticipateRequest>,
    pub from: Streaming<v1::ParticipateResponse>,
    pub owner: Option<Owner>,
}

static INSTANCES: AtomicU8 = AtomicU8::new(1);

impl Participant {
    pub async fn dial(server: &Running, name: &str) -> Self {
        Self::dial_over(server.channel().await, name).await
    }

    pub async fn dial_over(channel: Channel, name: &str) -> Self {
        let (to, requests) = mpsc::channel(64);
        let mut service = ParticipantServiceClient::new(channel);
        let from = service.participate(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let instance = vec![INSTANCES.fetch_add(1, Ordering::Relaxed); 16];
        Self { name: name.to_owned(), instance, to, from, owner: None }
    }

    pub fn a_hello(&self) -> v1::Hello {
        v1::Hello {
            protocol_version: 1,
            participant: self.name.clone(),
            instance: self.instance.clone(),
            sdk: "by hand".to_owned(),
            capabilities: vec![v1::Capability::Inquires.into()],
            resources: vec![v1::Resource {
                resource_id: resource_id(&self.name),
                kind: "test".to_owned(),
            }],
            in_doubt: Vec::new(),
            seen_frames: Vec::new(),
        }
    }

    pub async fn hello(&mut self, in_doubt: Vec<v1::BranchRef>) {
        let hello = v1::Hello { in_doubt, ..self.a_hello() };
        self.tell(Tell::Hello(hello)).await;
        match self.hear().await {
            Told::Welcome(welcome) => self.owner = welcome.coordinator.map(owner),
            other => panic!("{other:?}"),
        }
    }

    pub async fn tell(&mut self, body: Tell) {
        self.to.send(v1::ParticipateRequest { body: Some(body) }).await.unwrap();
    }

    pub async fn tell_nothing(&mut self) {
        self.to.send(v1::ParticipateRequest { body: None }).await.unwrap();
    }

    /// The next message with a body.
    pub async fn hear(&mut self) -> Told {
        loop {
            let heard = next(&mut self.from).await.unwrap().expect("the session has ended");
            if let Some(body) = heard.body {
                return body;
            }
        }
    }

    pub fn branch(&self, gtrid: Gtrid, number: u32) -> v1::BranchRef {
        branch(&self.name, gtrid, number, self.owner.unwrap())
    }

    pub async fn enlist(&mut self, gtrid: Gtrid) -> v1::BranchRef {
        let branch = self.branch(gtrid, 1);
        let enlisted = self.try_enlist(branch.clone()).await;
        assert_eq!(enlisted.status(), v1::EnlistStatus::Enlisted);
        assert!(enlisted.remaining_ms > 0);
        branch
    }

    pub async fn try_enlist(&mut self, branch: v1::BranchRef) -> v1::Enlisted {
        let enlist =
            v1::Enlist { branch: Some(branch), resource_id: resource_id(&self.name), vote: None };
        self.tell(Tell::Enlist(enlist)).await;
        match self.hear().await {
            Told::Enlisted(enlisted) => enlisted,
            other => panic!("{other:?}"),
        }
    }

    pub async fn prepare(&mut self) -> v1::BranchRef {
        match self.hear().await {
            Told::Prepare(prepare) => prepare.branch.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn vote(&mut self, branch: v1::BranchRef, ballot: v1::Ballot) {
        self.tell(Tell::Vote(a_vote(branch, ballot))).await;
    }

    /// The next decision about a branch; repeated questions for the vote are passed over.
    pub async fn decide(&mut self) -> v1::Decide {
        loop {
            match self.hear().await {
                Told::Decide(decide) => return decide,
                Told::Prepare(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn acknowledge(&mut self, branch: v1::BranchRef, done: v1::Done) {
        let detail = String::new();
        let acknowledged = v1::Acknowledged { branch: Some(branch), done: done.into(), detail };
        self.tell(Tell::Acknowledged(acknowledged)).await;
    }

    /// Votes commit when it is asked.
    pub async fn say_yes(&mut self) -> v1::BranchRef {
        let branch = self.prepare().await;
        self.vote(branch.clone(), v1::Ballot::Commit).await;
        branch
    }

    /// The goodbye, after which the stream has ended.
    pub async fn goodbye(mut self) -> v1::Goodbye {
        let goodbye = loop {
            match self.hear().await {
                Told::Goodbye(goodbye) => break goodbye,
                _ => continue,
            }
        };
        assert!(matches!(next(&mut self.from).await, Ok(None)));
        goodbye
    }
}

pub fn a_vote(branch: v1::BranchRef, ballot: v1::Ballot) -> v1::Vote {
    let evidence = (ballot == v1::Ballot::Commit)
        .then(|| v1::Evidence { kind: "test".to_owned(), data: vec![1, 2, 3] });
    v1::Vote {
        branch: Some(branch),
        ballot: ballot.into(),
        evidence,
        reason: "no \"money\"\n\u{1b}[31m".to_owned(),
    }
}

pub fn resource_id(name: &str) -> String {
    format!("{name}/accounts")
}

pub fn branch(name: &str, gtrid: Gtrid, number: u32, owner: Owner) -> v1::BranchRef {
    let participant = ParticipantName::new(name).unwrap();
    let resource = ResourceId::new(&resource_id(name)).unwrap();
    let bqual = Bqual::new(resource_manager(&participant, &resource), number, owner);
    v1::BranchRef { gtrid: gtrid.as_bytes().to_vec(), bqual: bqual.as_bytes().to_vec() }
}

pub fn owner(wire: v1::Owner) -> Owner {
    let log = LogId {
        cluster: wire.cluster,
        slot: u16::try_from(wire.slot).unwrap(),
        incarnation: wire.incarnation,
    };
    Owner { log, epoch: wire.epoch }
}

/// Asks until it is as wanted.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, asking).await.expect("it did not come to that")
}
