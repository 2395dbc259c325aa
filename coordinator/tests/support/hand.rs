//! An application and a participant that do by hand, on the wire, what a test wants, and nothing
//! else.

use super::{PATIENCE, Served};
use futures_util::stream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;
use unanimous_core::id::resource_manager;
use unanimous_core::{Bqual, Gtrid, LogId, Owner, ParticipantName, ResourceId};
use unanimous_proto::v1;
use v1::participant_service_client::ParticipantServiceClient;
use v1::participate_request::Body as Tell;
use v1::participate_response::Body as Told;
use v1::transaction_service_client::TransactionServiceClient;

/// Longer than any test.
const TIMEOUT_MS: u64 = 600_000;

pub(crate) struct Hand {
    name: String,
    owner: Owner,
    to: mpsc::Sender<v1::ParticipateRequest>,
    from: Streaming<v1::ParticipateResponse>,
    transactions: TransactionServiceClient<Channel>,
    runtime: Runtime,
}

impl Hand {
    /// A participant of this name has a session. It asks about what it holds prepared.
    pub(crate) fn connect(served: &Served, name: &str) -> Self {
        Self::connect_as(served, name, v1::Capability::Inquires)
    }

    /// What it is told is repeated for ever, if it does not ask.
    pub(crate) fn connect_as(served: &Served, name: &str, can: v1::Capability) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let address = served.sessions.clone();
        let (to, requests) = mpsc::channel(64);
        let (from, transactions) = runtime.block_on(async {
            let transactions = TransactionServiceClient::connect(address.clone()).await.unwrap();
            let mut service = ParticipantServiceClient::connect(address).await.unwrap();
            let requests =
                stream::unfold(requests, async |mut from| Some((from.recv().await?, from)));
            (service.participate(requests).await.unwrap().into_inner(), transactions)
        });
        let log = LogId { cluster: 0, slot: 0, incarnation: 0 };
        let owner = Owner { log, epoch: 0 };
        let mut hand = Self { name: name.to_owned(), owner, to, from, transactions, runtime };
        hand.tell(Tell::Hello(v1::Hello {
            protocol_version: 1,
            participant: name.to_owned(),
            instance: vec![7; 16],
            sdk: "by hand \u{1b}[31m".to_owned(),
            capabilities: vec![can.into()],
            resources: vec![v1::Resource { resource_id: hand.resource(), kind: "test".to_owned() }],
            ..v1::Hello::default()
        }));
        let Told::Welcome(welcome) = hand.hear() else { panic!("no welcome") };
        let v1::Owner { cluster, slot, incarnation, epoch } = welcome.coordinator.unwrap();
        let log = LogId { cluster, slot: slot.try_into().unwrap(), incarnation };
        hand.owner = Owner { log, epoch };
        hand
    }

    /// Its branches are those that it had before the coordinator's last start.
    pub(crate) fn with_branches_of(&mut self, before: &Self) {
        self.owner = before.owner;
    }

    fn resource(&self) -> String {
        format!("{}/data", self.name)
    }

    fn tell(&self, body: Tell) {
        let request = v1::ParticipateRequest { body: Some(body) };
        self.runtime.block_on(self.to.send(request)).unwrap();
    }

    fn hear(&mut self) -> Told {
        loop {
            let heard = async { tokio::time::timeout(PATIENCE, self.from.message()).await };
            let heard = self.runtime.block_on(heard).expect("nothing is said");
            if let Some(body) = heard.unwrap().unwrap().body {
                return body;
            }
        }
    }

    /// Whatever else it is told before: a forget, a repeated decision.
    fn hear_until<T>(&mut self, wanted: impl Fn(Told) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear()) {
                return found;
            }
        }
    }

    fn hear_decide(&mut self) -> v1::Decide {
        self.hear_until(|told| match told {
            Told::Decide(decide) => Some(decide),
            _ => None,
        })
    }

    /// A new transaction with so many branches.
    pub(crate) fn begin(&mut self, name: &str, branches: u32) -> String {
        let label = v1::Label { key: "order".to_owned(), value: "4711".to_owned() };
        let request = v1::BeginRequest {
            name: name.to_owned(),
            timeout_ms: TIMEOUT_MS,
            labels: vec![label],
            ..v1::BeginRequest::default()
        };
        let begun = self.runtime.block_on(self.transactions.begin(request)).unwrap();
        let gtrid = begun.into_inner().gtrid;
        (1..=branches).for_each(|number| self.enlist(&gtrid, number));
        gtrid
    }

    /// A branch of anybody's transaction.
    pub(crate) fn enlist(&mut self, gtrid: &str, number: u32) {
        let branch = Some(self.branch(gtrid, number));
        let resource_id = self.resource();
        self.tell(Tell::Enlist(v1::Enlist { branch, resource_id, vote: None }));
        let Told::Enlisted(enlisted) = self.hear() else { panic!("not enlisted") };
        assert_eq!(enlisted.status(), v1::EnlistStatus::Enlisted, "{}", enlisted.detail);
    }

    /// Votes rollback before it is asked.
    pub(crate) fn vote_rollback(&mut self, gtrid: &str, number: u32) {
        self.tell(Tell::Vote(v1::Vote {
            branch: Some(self.branch(gtrid, number)),
            ballot: v1::Ballot::Rollback.into(),
            ..v1::Vote::default()
        }));
    }

    /// Asks for the rollback, and does not wait for it.
    pub(crate) fn roll_back(&mut self, gtrid: &str) {
        let request =
            v1::RollbackRequest { gtrid: gtrid.to_owned(), ..v1::RollbackRequest::default() };
        let mut transactions = self.transactions.clone();
        self.runtime.spawn(async move { transactions.rollback(request).await });
    }

    /// The next decision that it is told, whatever it is told before.
    pub(crate) fn decision(&mut self) -> v1::Decision {
        self.hear_decide().decision()
    }

    /// Says unasked how a branch has ended.
    pub(crate) fn say(&mut self, gtrid: &str, number: u32, done: v1::Done) {
        self.tell(Tell::Acknowledged(v1::Acknowledged {
            branch: Some(self.branch(gtrid, number)),
            done: done.into(),
            detail: String::new(),
        }));
    }

    /// Asks what became of a branch that it holds prepared.
    pub(crate) fn inquire(&mut self, gtrid: &str, number: u32) -> v1::Verdict {
        let branch = self.branch(gtrid, number);
        self.tell(Tell::Inquire(v1::Inquire { branches: vec![branch] }));
        let answer = self.hear_until(|told| match told {
            Told::Answer(answer) => Some(answer),
            _ => None,
        });
        answer.verdict()
    }

    /// The full id of a branch.
    pub(crate) fn bqual(&self, gtrid: &str, number: u32) -> String {
        let bqual = self.branch(gtrid, number).bqual;
        bqual.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Asks about a prepared branch that another incarnation of the log has begun; its ids.
    pub(crate) fn inquire_as_of_another_log(&mut self) -> (String, String) {
        self.of_another_log(|hand, gtrid| {
            let branch = hand.branch(gtrid, 1);
            hand.tell(Tell::Inquire(v1::Inquire { branches: vec![branch] }));
            (gtrid.to_owned(), hand.bqual(gtrid, 1))
        })
    }

    /// Asks about the same branch again, and waits for an answer other than to leave it alone.
    pub(crate) fn inquire_again_as_of_another_log(&mut self) -> v1::Verdict {
        self.of_another_log(|hand, gtrid| {
            let verdicts = std::iter::repeat_with(|| hand.inquire(gtrid, 1));
            verdicts.into_iter().find(|verdict| *verdict != v1::Verdict::LeaveAlone).unwrap()
        })
    }

    fn of_another_log<T>(&mut self, does: impl FnOnce(&mut Self, &str) -> T) -> T {
        let own = self.owner;
        self.owner.log.incarnation ^= 1;
        let gtrid = Gtrid::new(self.owner, 7, 0).to_string();
        let done = does(self, &gtrid);
        self.owner = own;
        done
    }

    fn branch(&self, gtrid: &str, number: u32) -> v1::BranchRef {
        let participant = ParticipantName::new(&self.name).unwrap();
        let resource = ResourceId::new(&self.resource()).unwrap();
        let manager = resource_manager(&participant, &resource);
        let gtrid: Gtrid = gtrid.parse().unwrap();
        let bqual = Bqual::new(manager, number, self.owner);
        v1::BranchRef { gtrid: gtrid.as_bytes().to_vec(), bqual: bqual.as_bytes().to_vec() }
    }

    /// Asks for the commit, and does not wait for it.
    pub(crate) fn commit(&mut self, gtrid: &str) {
        let request = v1::CommitRequest { gtrid: gtrid.to_owned(), ..v1::CommitRequest::default() };
        let mut transactions = self.transactions.clone();
        self.runtime.spawn(async move { transactions.commit(request).await });
    }

    /// Waits for so many prepares, and votes commit.
    pub(crate) fn vote_commit(&mut self, branches: u32) {
        for _ in 0..branches {
            let prepare = self.hear_until(|told| match told {
                Told::Prepare(prepare) => Some(prepare),
                _ => None,
            });
            let vote = v1::Vote {
                branch: prepare.branch,
                ballot: v1::Ballot::Commit.into(),
                ..v1::Vote::default()
            };
            self.tell(Tell::Vote(vote));
        }
    }

    /// Waits for so many decisions to commit, and says so about each.
    pub(crate) fn acknowledge(&mut self, branches: u32, done: v1::Done, detail: &str) {
        for _ in 0..branches {
            let decide = self.hear_decide();
            self.tell(Tell::Acknowledged(v1::Acknowledged {
                branch: decide.branch,
                done: done.into(),
                detail: detail.to_owned(),
            }));
        }
    }
}
