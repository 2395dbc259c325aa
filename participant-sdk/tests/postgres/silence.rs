//! A coordinator that cannot be reached, and a participant that does not wait for ever.

use crate::alone::grant;
use crate::bank::{Bank, soon};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use unanimous_proto::v1;
use unanimous_sdk::{CommitError, Gtrid, HeuristicPolicy, InProcess, Outcome, Participant, Wait};
use v1::admin_service_client::AdminServiceClient;

/// A wire to the coordinator. While it is shut nobody comes through, and who is there is cut off.
struct Gate {
    address: String,
    shut: watch::Sender<bool>,
}

impl Gate {
    async fn open(to: &str) -> Self {
        let to = to.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (shut, is_shut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (to, mut is_shut) = (to.clone(), is_shut.clone());
                tokio::spawn(async move {
                    let relaying = async {
                        let mut server = TcpStream::connect(to).await.unwrap();
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    };
                    tokio::select! {
                        biased;
                        _ = is_shut.wait_for(|is_shut| *is_shut) => {}
                        () = relaying => {}
                    }
                });
            }
        });
        Self { address, shut }
    }
}

async fn found(coordinator: &InProcess, gtrid: Gtrid) -> v1::Transaction {
    let mut admin = AdminServiceClient::connect(coordinator.admin_address()).await.unwrap();
    let request = v1::GetTransactionRequest { gtrid: gtrid.to_string() };
    admin.get_transaction(request).await.unwrap().into_inner().transaction.unwrap()
}

#[tokio::test]
async fn a_branch_whose_coordinator_is_silent_ends_by_policy_and_is_reported_when_it_is_back() {
    let coordinator = InProcess::start().await.unwrap();
    let gate = Gate::open(&coordinator.address()).await;
    let client = coordinator.client("shop").connect().unwrap();
    let (a, b) = (Bank::open(), Bank::open());
    grant(&a);
    let mut silenced = Participant::builder("a")
        .coordinator(&gate.address)
        .heuristic_policy(HeuristicPolicy::rollback_after(Duration::from_secs(1)));
    let mut told = coordinator.participant("b");
    let (in_a, in_b) =
        (silenced.attach("accounts", a.another()), told.attach("accounts", b.another()));
    let (_silenced, _told) = (silenced.start().await.unwrap(), told.start().await.unwrap());

    let tx = client.begin("transfer").await.unwrap().wait(Wait::Completed);
    let gtrid = tx.gtrid();
    let work = in_a.join(&tx.context()).await.unwrap();
    work.execute("UPDATE account SET cents = cents - 10 WHERE id = 1", &[]).await.unwrap();
    work.vote();
    let voted = async {
        let is_prepared = |branch: &v1::Branch| branch.state() == v1::BranchState::Prepared;
        while !found(&coordinator, gtrid).await.branches.iter().any(is_prepared) {
            tokio::task::yield_now().await;
        }
    };
    soon("an early vote", voted).await;
    gate.shut.send_replace(true);
    let work = in_b.join(&tx.context()).await.unwrap();
    work.execute("UPDATE account SET cents = cents + 10 WHERE id = 1", &[]).await.unwrap();
    work.end();
    let committing = tokio::spawn(tx.commit());
    let ended = async {
        while !a.listed().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("it ends alone", ended).await;
    a.assert_clean();
    assert_eq!(a.cents(1), 100);
    assert_eq!(a.sql("SELECT committed, why FROM unanimous_alone"), format!("f|{WHY}"));

    gate.shut.send_replace(false);
    let error = soon("an end", committing).await.unwrap().unwrap_err();
    assert_eq!(error, CommitError::Heuristic { gtrid, outcome: Outcome::Mixed });
    assert_eq!((a.cents(1), b.cents(1)), (100, 110));
    let transaction = found(&coordinator, gtrid).await;
    assert_eq!(transaction.state(), v1::TransactionState::Heuristic);
    let forgotten = async {
        while a.sql("SELECT count(*) FROM unanimous_alone") != "0" {
            tokio::task::yield_now().await;
        }
    };
    soon("it is on the coordinator's list", forgotten).await;
}

const WHY: &str = "decided alone by policy: no word of its coordinator for 1 s";
