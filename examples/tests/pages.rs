//! The code of docs/client.md and docs/participant.md, run against a coordinator in this process.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_sdk::layer::Outbound;
use unanimous_sdk::{
    Attached, Client, ClientLayer, CommitError, InProcess, Participant, RunError, ServerLayer,
};

tonic::include_proto!("bank");
use bank_client::BankClient;
use bank_server::BankServer;

type RemoteBank = BankClient<Outbound<Channel>>;

struct Bank(Attached<Accounts>);

#[tonic::async_trait]
impl bank_server::Bank for Bank {
    async fn change(&self, call: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let work = self.0.join(&call).await?;
        work.credit(call.get_ref().account, call.get_ref().cents)?;
        work.end();
        Ok(Response::new(ChangeReply {}))
    }
}

/// A bank that serves until the test ends.
struct Served {
    client: RemoteBank,
    accounts: Attached<Accounts>,
    participant: Participant,
    /// The last one to go: a store that cannot be written ends the process.
    _dir: tempfile::TempDir,
}

impl Served {
    async fn stop(self) {
        self.participant.stop().await;
        self.accounts.close().unwrap();
    }
}

async fn bank(coordinator: &InProcess, name: &str) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening { init: Some((100, 800)), ..Opening::default() };
    let mut builder = coordinator.participant(name);
    let accounts = builder.attach("accounts", Accounts::open(dir.path(), opening).unwrap());
    let participant = builder.start().await.unwrap();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = format!("http://{}", incoming.local_addr().unwrap());
    let service = BankServer::new(Bank(accounts.clone()));
    let server = Server::builder().layer(ServerLayer).add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = Endpoint::from_shared(at).unwrap().connect_lazy();
    let client = BankClient::new(ClientLayer.layer(channel));
    Served { client, accounts, participant, _dir: dir }
}

async fn transfer(
    unanimous: &Client,
    mut bank_a: RemoteBank,
    mut bank_b: RemoteBank,
    cents: i64,
) -> Result<(), RunError<Status>> {
    let transfer =
        unanimous.begin("transfer").timeout(Duration::from_secs(5)).label("order", "4711");
    transfer
        .run(async move |tx| {
            bank_a.change(ChangeRequest { account: 7, cents: -cents }).await?;
            if cents > 900 {
                tx.set_rollback_only("more than may be moved at once");
            }
            bank_b.change(ChangeRequest { account: 8, cents }).await?;
            Ok(())
        })
        .await
}

/// What an application does about each end.
fn what_to_do(error: &CommitError) -> String {
    match error {
        // It did not happen, anywhere. Do it once more from the start, in a new transaction.
        error if error.is_retryable() => "try again".to_owned(),
        // It did not happen, and would not the next time either: a participant said no.
        CommitError::RolledBack { rollback, .. } => format!("tell the customer: {rollback}"),
        // It may have happened. Keep both and ask; never do it again before there is an answer.
        CommitError::Unknown { gtrid, branches } => format!("ask later: {gtrid} {branches:?}"),
        // It happened by halves. Somebody at a participant decided alone: a person has to look.
        CommitError::Heuristic { gtrid, .. } => format!("call the operator: {gtrid}"),
        // A rollback that came too late: it happened.
        CommitError::CommittedBefore { .. } => "go on".to_owned(),
        // Not carried out, nothing changed; the time-out rolls it back.
        CommitError::Refused { reason, .. } => format!("the coordinator is busy: {reason}"),
        // What later versions may add says nothing that is certain.
        other => format!("ask later: {}", other.gtrid()),
    }
}

/// A transfer between new banks, whose accounts hold 800 cents each.
async fn transferred(cents: i64) -> Result<(), RunError<Status>> {
    let coordinator = InProcess::start().await.unwrap();
    let unanimous = coordinator.client("shop").connect().unwrap();
    let (bank_a, bank_b) = (bank(&coordinator, "bank-a").await, bank(&coordinator, "bank-b").await);
    let ended = transfer(&unanimous, bank_a.client.clone(), bank_b.client.clone(), cents).await;
    bank_a.stop().await;
    bank_b.stop().await;
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_committed() {
    transferred(250).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_says_no() {
    let Err(RunError::Commit(error)) = transferred(850).await else { panic!("it is committed") };
    let words = what_to_do(&error);
    assert!(words.starts_with("tell the customer: bank-a voted no"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_says_no() {
    let Err(RunError::Commit(error)) = transferred(901).await else { panic!("it is committed") };
    assert!(what_to_do(&error).ends_with("more than may be moved at once"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronizations_run_before_the_commit_and_after_the_end() {
    let coordinator = InProcess::start().await.unwrap();
    let unanimous = coordinator.client("shop").connect().unwrap();
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let before = said.clone();

    let tx = unanimous.begin("transfer").await.unwrap();
    tx.before_commit(move || async move { before.send("written out".to_owned()) });
    tx.after_completion(move |completion| drop(said.send(format!("{completion:?}"))));
    tx.commit().await.unwrap();

    assert_eq!(heard.recv().await.unwrap(), "written out");
    assert!(heard.recv().await.unwrap().starts_with("Committed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_decided_is_rolled_back_by_a_restart() {
    let mut coordinator = InProcess::start().await.unwrap();
    let unanimous = coordinator.client("shop").connect().unwrap();
    let bank_a = bank(&coordinator, "bank-a").await;

    let tx = unanimous.begin("transfer").await.unwrap();
    let mut remote = bank_a.client.clone();
    remote.change(tx.request(ChangeRequest { account: 7, cents: 250 })).await.unwrap();
    coordinator.restart().await.unwrap();
    assert!(tx.commit().await.is_err());
    assert_eq!(bank_a.accounts.sum_cents(), 100 * 800);
    bank_a.stop().await;
}
