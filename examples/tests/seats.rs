//! The theatre is killed between its vote and what is decided, and finishes.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_proto::v1::{BranchState, GetTransactionRequest};
use unanimous_sdk::{
    BranchId, BranchResult, ClientLayer, CommitError, Done, Evidence, Gtrid, InProcess, Prepared,
    Resource, Retry, Vote, Wait,
};
use wire::theatre_client::TheatreClient;
use wire::{BookRequest, SoldRequest};

mod wire {
    tonic::include_proto!("theatre");
}

/// A hang guard, not a measurement.
const PATIENCE: Duration = Duration::from_secs(30);

/// Killed when it is dropped, as a machine that loses power would.
struct Theatre {
    process: Child,
    address: String,
}

impl Theatre {
    fn command(file: &Path, coordinator: &InProcess) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seats"));
        command
            .args(["theatre", file.to_str().unwrap(), "0"])
            .env("UNANIMOUS_ADDRESS", coordinator.address());
        command
    }

    fn open(file: &Path, coordinator: &InProcess) -> Self {
        let mut command = Self::command(file, coordinator);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("the theatre is open at ").unwrap().to_owned();
        Self { process, address }
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.address.clone()).unwrap().connect_lazy()
    }

    async fn sold(&self) -> Vec<(u32, String)> {
        let sold = TheatreClient::new(self.channel()).sold(SoldRequest {}).await.unwrap();
        let mut sold: Vec<_> = sold.into_inner().guests.into_iter().collect();
        sold.sort();
        sold
    }
}

impl Drop for Theatre {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Votes what the test says, when it says so.
#[derive(Default)]
struct Till {
    told: Mutex<Option<oneshot::Receiver<bool>>>,
    joined: Mutex<BTreeSet<BranchId>>,
}

impl Resource for Till {
    fn joined(&self, branch: &BranchId) {
        self.joined.lock().unwrap().insert(*branch);
    }

    async fn prepare(&self, _: &BranchId) -> Result<Vote, Retry> {
        let told = self.told.lock().unwrap().take();
        let pays = match told {
            Some(told) => told.await?,
            None => false,
        };
        let reason = "no money".to_owned();
        Ok(if pays { Vote::Commit { evidence: None } } else { Vote::Rollback { reason } })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        let joined = self.joined.lock().unwrap().contains(branch);
        Ok(if joined { Done::Done } else { Done::Heuristic(BranchResult::Hazard) })
    }

    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }
}

/// Waits until the coordinator has the theatre's vote.
async fn until_prepared(coordinator: &InProcess, gtrid: Gtrid) {
    let mut admin = AdminServiceClient::connect(coordinator.admin_address()).await.unwrap();
    let prepared = async {
        loop {
            let request = GetTransactionRequest { gtrid: gtrid.to_string() };
            let found = admin.get_transaction(request).await.unwrap().into_inner();
            let mut branches = found.transaction.unwrap().branches.into_iter();
            let theatre = branches.find(|branch| branch.participant == "theatre").unwrap();
            if theatre.state() == BranchState::Prepared {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, prepared).await.expect("the vote");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_theatre_killed_after_its_vote_does_what_is_decided() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seats");
    let coordinator = InProcess::start().await.unwrap();
    let unanimous = coordinator.client("test").connect().unwrap();
    let mut builder = coordinator.participant("till");
    let till = builder.attach("till", Till::default());
    let _running = builder.start().await.unwrap();

    for (seat, pays) in [(1, true), (2, false)] {
        let theatre = Theatre::open(&file, &coordinator);
        let tx = unanimous.begin("book").await.unwrap().wait(Wait::Completed);
        let (gtrid, book) = (tx.gtrid(), BookRequest { seat, guest: "ada".to_owned() });
        let mut client = TheatreClient::new(ClientLayer.layer(theatre.channel()));
        client.book(tx.request(book)).await.unwrap();
        till.enlist(&tx.context()).await.unwrap().end();
        let (tell, told) = oneshot::channel();
        *till.told.lock().unwrap() = Some(told);
        let committed = tokio::spawn(tx.commit());
        until_prepared(&coordinator, gtrid).await;
        drop(theatre);
        tell.send(pays).unwrap();

        let theatre = Theatre::open(&file, &coordinator);
        let ended = timeout(PATIENCE, committed).await.expect("an end").unwrap();
        match ended {
            Ok(committed) => assert!(pays && committed.completed),
            Err(CommitError::RolledBack { .. }) => assert!(!pays),
            Err(error) => unreachable!("{error}"),
        }
        assert_eq!(theatre.sold().await, [(1, "ada".to_owned())]);
    }

    // A line that was torn by a kill is as if it had never been begun.
    let whole = std::fs::read(&file).unwrap();
    let torn = [&whole[..], b"0123 kept"].concat();
    std::fs::write(&file, torn).unwrap();
    let theatre = Theatre::open(&file, &coordinator);
    assert_eq!(theatre.sold().await, [(1, "ada".to_owned())]);
    let tx = unanimous.begin("book").await.unwrap();
    let mut client = TheatreClient::new(ClientLayer.layer(theatre.channel()));
    let taken = client.book(tx.request(BookRequest { seat: 1, guest: "bob".to_owned() })).await;
    assert_eq!(taken.unwrap_err().code(), tonic::Code::AlreadyExists);
    client.book(tx.request(BookRequest { seat: 2, guest: "bob".to_owned() })).await.unwrap();
    assert!(tx.commit().await.is_err(), "all or nothing");
    drop(theatre);

    // One that is whole and wrong was answered for.
    let mut damaged = whole;
    let last = damaged.len() - 2;
    damaged[last] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let mut command = Theatre::command(&file, &coordinator);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut refused = piped.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(refused.stdout.take().unwrap()).read_line(&mut line).unwrap();
    refused.kill().unwrap();
    let words = String::from_utf8(refused.wait_with_output().unwrap().stderr).unwrap();
    assert!(line.is_empty() && words.contains("the file is damaged"), "{line}{words}");
}
