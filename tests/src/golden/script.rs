//! What is recorded of a release: an application and two participants, spoken by hand as their
//! SDK speaks.

use super::conversation::{Call, Conversation, Entry, Life};
use super::raw::Line;
use anyhow::{Context as _, bail};
use prost::Message;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use unanimous_core::id::resource_manager;
use unanimous_core::{Bqual, Gtrid, LogId, Owner, ParticipantName, ResourceId};
use unanimous_proto::v1;
use unanimous_recovery::{LogKind, OpenOptions};
use unanimous_server::{Access, Config, Listeners, ServeError, ShutdownHandle, shutdown};
use v1::participate_request::Body as Tell;
use v1::participate_response::Body as Told;
use v1::transact_request::Body as Ask;
use v1::transact_response::Body as Answer;

const TRANSACT: &str = "/unanimous.v1.ClientService/Transact";
const PARTICIPATE: &str = "/unanimous.v1.ParticipantService/Participate";
/// Nothing is said twice because of the time: a conversation is the same on a slow machine.
const NEVER_AGAIN_MS: u64 = 600_000;

/// A coordinator in this process, on a log of its own.
#[derive(Debug)]
pub struct Running {
    /// Where sessions connect.
    pub sessions: SocketAddr,
    stop: ShutdownHandle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    /// Starts it and waits until it says that it serves.
    ///
    /// # Errors
    /// The log or the ports.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let options = OpenOptions {
            init: true,
            cluster: 1,
            slot: 1,
            ..OpenOptions::new(LogKind::Coordinator)
        };
        let log = options.open(dir)?;
        let bind = || TcpListener::bind("127.0.0.1:0");
        let listeners =
            Listeners { sessions: bind()?, admin: bind()?, access: Access::everybody() };
        let sessions = listeners.sessions.local_addr()?;
        let mut config = Config { drain_ms: 500, ..Config::default() };
        config.limits.retry_ms_min = NEVER_AGAIN_MS;
        config.limits.retry_ms_max = NEVER_AGAIN_MS;
        let (stop, asked) = shutdown();
        let run = move || unanimous_server::run(config, listeners, log, asked);
        let running = Self { sessions, stop, thread: Some(std::thread::spawn(run)) };
        let mut health = HealthClient::new(connect(sessions).await?);
        let mut watch = health.watch(HealthCheckRequest::default()).await?.into_inner();
        while let Some(health) = watch.message().await? {
            if health.status() == ServingStatus::Serving {
                return Ok(running);
            }
        }
        bail!("it ended before it served")
    }

    /// Tells it to stop.
    pub fn stop(&self) {
        self.stop.request();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection to a coordinator.
///
/// # Errors
/// It does not answer.
pub async fn connect(to: SocketAddr) -> anyhow::Result<Channel> {
    Ok(Channel::from_shared(format!("http://{to}"))?.connect().await?)
}

/// Speaks, and keeps what was said.
#[derive(Debug)]
pub struct Recorder {
    channel: Channel,
    lines: Vec<Line>,
    recorded: Conversation,
}

impl Recorder {
    /// Nothing is said yet.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel, lines: Vec::new(), recorded: Conversation::default() }
    }

    /// What was said.
    #[must_use]
    pub fn finish(self) -> Conversation {
        self.recorded
    }

    async fn open(&mut self, name: &str, path: &str, streams: bool) -> anyhow::Result<u32> {
        self.lines.push(Line::open(&self.channel, path, streams).await?);
        self.recorded.calls.push(Call { name: name.to_owned(), path: path.to_owned() });
        Ok(u32::try_from(self.lines.len())? - 1)
    }

    async fn say(&mut self, call: u32, message: &impl Message) -> anyhow::Result<()> {
        let bytes = message.encode_to_vec();
        self.lines[call as usize].say(bytes.clone()).await?;
        self.recorded.entries.push(Entry { call, bytes, ..Entry::default() });
        Ok(())
    }

    async fn hear<M: Message + Default>(&mut self, call: u32) -> anyhow::Result<M> {
        let bytes = self.lines[call as usize].hear().await?;
        let message = M::decode(bytes.as_slice())?;
        self.recorded.entries.push(Entry { call, from_coordinator: true, bytes, stop: false });
        Ok(message)
    }

    async fn ask(&mut self, app: u32, call: u64, body: Ask) -> anyhow::Result<()> {
        self.say(app, &v1::TransactRequest { call, body: Some(body) }).await
    }

    async fn answer(&mut self, app: u32) -> anyhow::Result<Answer> {
        let response: v1::TransactResponse = self.hear(app).await?;
        response.body.context("an answer without a body")
    }

    async fn tell(&mut self, participant: u32, body: Tell) -> anyhow::Result<()> {
        self.say(participant, &v1::ParticipateRequest { body: Some(body) }).await
    }

    async fn told(&mut self, participant: u32) -> anyhow::Result<Told> {
        let response: v1::ParticipateResponse = self.hear(participant).await?;
        response.body.context("a message without a body")
    }
}

/// An application and two participants that have said hello.
#[derive(Debug)]
pub struct Scene {
    recorder: Recorder,
    app: u32,
    banks: [u32; 2],
    owner: Owner,
    call: u64,
}

const BANKS: [&str; 2] = ["bank-a", "bank-b"];

impl Scene {
    /// Everybody says hello.
    ///
    /// # Errors
    /// The coordinator does not answer as it should.
    pub async fn open(channel: Channel) -> anyhow::Result<Self> {
        let mut recorder = Recorder::new(channel);
        let app = recorder.open("shop", TRANSACT, true).await?;
        let hello = v1::ClientHello {
            protocol_version: 1,
            client: "shop".to_owned(),
            instance: vec![1; 16],
            sdk: format!("unanimous-sdk {} (rust)", super::VERSION),
        };
        recorder.ask(app, 0, Ask::Hello(hello)).await?;
        let Answer::Welcome(welcome) = recorder.answer(app).await? else { bail!("no welcome") };
        let owner = owner(&welcome.coordinator.context("a welcome by nobody")?)?;
        let log = owner.log;
        recorder.recorded.life = Some(Life { incarnation: log.incarnation, epoch: owner.epoch });
        let mut banks = [0; 2];
        for (bank, name) in banks.iter_mut().zip(BANKS) {
            *bank = recorder.open(name, PARTICIPATE, true).await?;
            recorder.tell(*bank, Tell::Hello(hello_of(name))).await?;
            let Told::Welcome(_) = recorder.told(*bank).await? else { bail!("no welcome") };
        }
        Ok(Self { recorder, app, banks, owner, call: 0 })
    }

    /// What was said.
    #[must_use]
    pub fn finish(self) -> Conversation {
        self.recorder.finish()
    }

    /// Begins a transaction and enlists a branch of each of these banks.
    ///
    /// # Errors
    /// It is refused.
    pub async fn begin(&mut self, banks: &[usize]) -> anyhow::Result<Gtrid> {
        self.call += 1;
        let label = |key: &str, value: &str| v1::Label { key: key.into(), value: value.into() };
        let begin = v1::Begin {
            name: "transfer".to_owned(),
            timeout_ms: 60_000,
            request_id: vec![7; 16],
            labels: vec![label("order", "4711"), label("region", "north")],
            ..v1::Begin::default()
        };
        self.recorder.ask(self.app, self.call, Ask::Begin(begin)).await?;
        let Answer::Begun(begun) = self.recorder.answer(self.app).await? else { bail!("no id") };
        let gtrid = Gtrid::from_bytes(&begun.gtrid)?;
        for bank in banks {
            let enlist = v1::Enlist {
                branch: Some(self.branch(gtrid, *bank)?),
                resource_id: resource_id(BANKS[*bank]),
                vote: None,
            };
            self.recorder.tell(self.banks[*bank], Tell::Enlist(enlist)).await?;
            match self.recorder.told(self.banks[*bank]).await? {
                Told::Enlisted(e) if e.status() == v1::EnlistStatus::Enlisted => {}
                other => bail!("not enlisted: {other:?}"),
            }
        }
        Ok(gtrid)
    }

    /// Asks for the commit; the answer is heard with [`Scene::ended`].
    ///
    /// # Errors
    /// The session has ended.
    pub async fn commit(
        &mut self,
        gtrid: Gtrid,
        branches: u32,
        wait: v1::Wait,
    ) -> anyhow::Result<()> {
        self.call += 1;
        let commit = v1::Commit {
            gtrid: gtrid.as_bytes().to_vec(),
            request_id: vec![8; 16],
            expected_branches: Some(branches),
            wait: wait.into(),
        };
        self.recorder.ask(self.app, self.call, Ask::Commit(commit)).await
    }

    /// Hears what became of it.
    ///
    /// # Errors
    /// It is something else than that.
    pub async fn ended(&mut self, expected: v1::Outcome) -> anyhow::Result<()> {
        match self.recorder.answer(self.app).await? {
            Answer::Ended(v1::Ended { result: Some(r), .. }) if r.outcome() == expected => Ok(()),
            other => bail!("{expected:?} was expected, heard {other:?}"),
        }
    }

    /// A bank is asked for its vote, and gives it.
    ///
    /// # Errors
    /// It is not asked.
    pub async fn vote(&mut self, bank: usize, ballot: v1::Ballot) -> anyhow::Result<()> {
        let Told::Prepare(v1::Prepare { branch }) = self.recorder.told(self.banks[bank]).await?
        else {
            bail!("{} is not asked for a vote", BANKS[bank])
        };
        let commit = ballot == v1::Ballot::Commit;
        let evidence = v1::Evidence { kind: "embedded".to_owned(), data: vec![1, 2, 3] };
        let vote = v1::Vote {
            branch,
            ballot: ballot.into(),
            evidence: commit.then_some(evidence),
            reason: if ballot == v1::Ballot::Rollback { "account 7 has 3 cents" } else { "" }
                .into(),
        };
        self.recorder.tell(self.banks[bank], Tell::Vote(vote)).await
    }

    /// A bank is told a decision.
    ///
    /// # Errors
    /// It is told something else.
    pub async fn decided(
        &mut self,
        bank: usize,
        expected: v1::Decision,
    ) -> anyhow::Result<Option<v1::BranchRef>> {
        match self.recorder.told(self.banks[bank]).await? {
            Told::Decide(decide) if decide.decision() == expected => Ok(decide.branch),
            other => bail!("{expected:?} was expected, heard {other:?}"),
        }
    }

    /// A bank is told a decision, and answers.
    ///
    /// # Errors
    /// It is told something else.
    pub async fn acknowledge(
        &mut self,
        bank: usize,
        expected: v1::Decision,
        done: v1::Done,
    ) -> anyhow::Result<()> {
        let branch = self.decided(bank, expected).await?;
        self.answer_order(bank, branch, done).await
    }

    async fn answer_order(
        &mut self,
        bank: usize,
        branch: Option<v1::BranchRef>,
        done: v1::Done,
    ) -> anyhow::Result<()> {
        let detail = if done == v1::Done::Done { "" } else { "by hand" }.to_owned();
        let acknowledged = v1::Acknowledged { branch, done: done.into(), detail };
        self.recorder.tell(self.banks[bank], Tell::Acknowledged(acknowledged)).await
    }

    fn branch(&self, gtrid: Gtrid, bank: usize) -> anyhow::Result<v1::BranchRef> {
        let participant = ParticipantName::new(BANKS[bank])?;
        let resource = ResourceId::new(&resource_id(BANKS[bank]))?;
        let bqual = Bqual::new(resource_manager(&participant, &resource), 1, self.owner);
        Ok(v1::BranchRef { gtrid: gtrid.as_bytes().to_vec(), bqual: bqual.as_bytes().to_vec() })
    }

    /// Both vote commit, and it is decided.
    ///
    /// # Errors
    /// It goes another way.
    pub async fn committed(&mut self) -> anyhow::Result<Gtrid> {
        let gtrid = self.begin(&[0, 1]).await?;
        self.commit(gtrid, 2, v1::Wait::Decided).await?;
        self.vote(0, v1::Ballot::Commit).await?;
        self.vote(1, v1::Ballot::Commit).await?;
        self.ended(v1::Outcome::Committed).await?;
        Ok(gtrid)
    }

    async fn resolve(&mut self, gtrid: Gtrid, expected: v1::Outcome) -> anyhow::Result<()> {
        self.call += 1;
        let resolve = v1::Resolve {
            gtrid: gtrid.as_bytes().to_vec(),
            expected_branches: Some(2),
            wait: false,
        };
        self.recorder.ask(self.app, self.call, Ask::Resolve(resolve)).await?;
        self.ended(expected).await
    }
}

fn hello_of(name: &str) -> v1::Hello {
    let resource = v1::Resource { resource_id: resource_id(name), kind: "embedded".to_owned() };
    v1::Hello {
        protocol_version: 1,
        participant: name.to_owned(),
        instance: vec![name.bytes().last().unwrap_or_default(); 16],
        sdk: format!("unanimous-sdk {} (rust)", super::VERSION),
        capabilities: vec![
            v1::Capability::Inquires.into(),
            v1::Capability::RemembersCommitted.into(),
            v1::Capability::OnePhase.into(),
        ],
        resources: vec![resource],
        in_doubt: Vec::new(),
        seen_frames: Vec::new(),
    }
}

fn resource_id(name: &str) -> String {
    format!("{name}/accounts")
}

fn owner(wire: &v1::Owner) -> anyhow::Result<Owner> {
    let slot = u16::try_from(wire.slot)?;
    let log = LogId { cluster: wire.cluster, slot, incarnation: wire.incarnation };
    Ok(Owner { log, epoch: wire.epoch })
}

/// Every way in which a transaction ends, every question, and the end of the sessions.
///
/// # Errors
/// The coordinator does not do its part.
pub async fn sessions(scene: &mut Scene, running: &Running) -> anyhow::Result<()> {
    use v1::{Ballot, Decision, Done, Outcome, Wait};
    let committed = scene.committed().await?;
    scene.acknowledge(0, Decision::Commit, Done::Done).await?;
    scene.acknowledge(1, Decision::Commit, Done::Done).await?;

    let refused = scene.begin(&[0, 1]).await?;
    scene.commit(refused, 2, Wait::Decided).await?;
    scene.vote(0, Ballot::Commit).await?;
    scene.vote(1, Ballot::Rollback).await?;
    scene.ended(Outcome::RolledBack).await?;
    scene.acknowledge(0, Decision::Rollback, Done::Done).await?;

    let given_up = scene.begin(&[0]).await?;
    scene.call += 1;
    let rollback = v1::Rollback { gtrid: given_up.as_bytes().to_vec(), request_id: Vec::new() };
    scene.recorder.ask(scene.app, scene.call, Ask::Rollback(rollback)).await?;
    scene.ended(Outcome::RolledBack).await?;
    scene.acknowledge(0, Decision::Rollback, Done::Done).await?;

    let alone = scene.begin(&[1]).await?;
    scene.commit(alone, 1, Wait::Decided).await?;
    scene.acknowledge(1, Decision::CommitOnePhase, Done::Done).await?;
    scene.ended(Outcome::Committed).await?;

    let reads = scene.begin(&[0, 1]).await?;
    scene.commit(reads, 2, Wait::Decided).await?;
    scene.vote(0, Ballot::ReadOnly).await?;
    scene.vote(1, Ballot::Commit).await?;
    scene.ended(Outcome::Committed).await?;
    scene.acknowledge(1, Decision::Commit, Done::Done).await?;

    let miscounted = scene.begin(&[0, 1]).await?;
    scene.commit(miscounted, 3, Wait::Decided).await?;
    scene.ended(Outcome::RolledBack).await?;
    scene.acknowledge(0, Decision::Rollback, Done::Done).await?;
    scene.acknowledge(1, Decision::Rollback, Done::Done).await?;

    heuristic(scene, Wait::Completed).await?;
    scene.ended(Outcome::HeuristicMixed).await?;

    scene.resolve(committed, Outcome::Committed).await?;
    questions(scene, committed, refused).await?;
    unary(scene).await?;
    running.stop();
    scene.recorder.recorded.entries.push(Entry { stop: true, ..Entry::default() });
    for bank in scene.banks {
        let Told::Goodbye(_) = scene.recorder.told(bank).await? else { bail!("no goodbye") };
    }
    let Answer::Closing(_) = scene.recorder.answer(scene.app).await? else { bail!("no closing") };
    Ok(())
}

/// A bank has rolled back alone what was decided to commit, and may forget it.
///
/// # Errors
/// The coordinator does not do its part.
pub async fn heuristic(scene: &mut Scene, wait: v1::Wait) -> anyhow::Result<Gtrid> {
    let gtrid = scene.begin(&[0, 1]).await?;
    scene.commit(gtrid, 2, wait).await?;
    scene.vote(0, v1::Ballot::Commit).await?;
    scene.vote(1, v1::Ballot::Commit).await?;
    if wait == v1::Wait::Decided {
        scene.ended(v1::Outcome::Committed).await?;
    }
    scene.acknowledge(1, v1::Decision::Commit, v1::Done::HeuristicRollback).await?;
    let Told::Forget(forget) = scene.recorder.told(scene.banks[1]).await? else {
        bail!("not told to forget")
    };
    scene.answer_order(1, forget.branch, v1::Done::Forgotten).await?;
    scene.acknowledge(0, v1::Decision::Commit, v1::Done::Done).await?;
    Ok(gtrid)
}

/// A participant asks about branches of transactions that were committed and rolled back, and about
/// ones of another log and of an id that was never given.
async fn questions(scene: &mut Scene, committed: Gtrid, rolled_back: Gtrid) -> anyhow::Result<()> {
    let known = scene.branch(committed, 0)?;
    let mut foreign = known.clone();
    // Another incarnation, in the gtrid and in the owner.
    foreign.gtrid[7..11].fill(0xee);
    foreign.bqual[14..18].fill(0xee);
    let mut never = known.clone();
    never.gtrid[22] = 0xff;
    for branch in [known, scene.branch(rolled_back, 0)?, foreign, never] {
        let inquire = v1::Inquire { branches: vec![branch] };
        scene.recorder.tell(scene.banks[0], Tell::Inquire(inquire)).await?;
        let Told::Answer(_) = scene.recorder.told(scene.banks[0]).await? else {
            bail!("no answer")
        };
    }
    Ok(())
}

/// The calls for people and scripts.
async fn unary(scene: &mut Scene) -> anyhow::Result<()> {
    const SERVICE: &str = "/unanimous.v1.TransactionService";
    let recorder = &mut scene.recorder;
    let begin = recorder.open("script", &format!("{SERVICE}/Begin"), false).await?;
    let request = v1::BeginRequest {
        name: "by hand".to_owned(),
        timeout_ms: 60_000,
        request_id: String::new(),
        labels: vec![v1::Label { key: "order".to_owned(), value: "4712".to_owned() }],
    };
    recorder.say(begin, &request).await?;
    let begun: v1::BeginResponse = recorder.hear(begin).await?;
    let gtrid = begun.gtrid;
    let ask = recorder.open("script", &format!("{SERVICE}/GetOutcome"), false).await?;
    let request = v1::GetOutcomeRequest { gtrid: gtrid.clone(), expected_branches: None };
    recorder.say(ask, &request).await?;
    recorder.hear::<v1::GetOutcomeResponse>(ask).await?;
    let commit = recorder.open("script", &format!("{SERVICE}/Commit"), false).await?;
    let request = v1::CommitRequest { gtrid: gtrid.clone(), ..v1::CommitRequest::default() };
    recorder.say(commit, &request).await?;
    recorder.hear::<v1::CommitResponse>(commit).await?;
    let rollback = recorder.open("script", &format!("{SERVICE}/Rollback"), false).await?;
    let request = v1::RollbackRequest { gtrid, request_id: String::new() };
    recorder.say(rollback, &request).await?;
    recorder.hear::<v1::RollbackResponse>(rollback).await?;
    Ok(())
}
