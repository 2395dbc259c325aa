//! Sixteen clients in a closed loop over two participants that keep their branches in memory: as
//! many decisions as the coordinator's log takes.

use anyhow::{Context as _, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;
use unanimous_sdk::{
    BranchId, Client, Committed, Done, Evidence, Participant, Resource, Retry, Vote,
};

const CLIENTS: u64 = 16;

/// Votes yes and remembers nothing: what is proved here is the coordinator's order of things.
struct Agreeable;

impl Resource for Agreeable {
    async fn prepare(&self, _: &BranchId) -> Result<Vote, Retry> {
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, _: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<unanimous_sdk::Prepared>, Retry> {
        Ok(Vec::new())
    }
}

/// Commits transactions until `answers` were told to be; gives how many were.
pub(crate) async fn run(address: &str, answers: u64) -> anyhow::Result<u64> {
    let coordinator = format!("http://{address}");
    // The client's connection is the first one: the checker tells it from the participants' by
    // that.
    let client = Client::connect(&coordinator, "sync-proof").await?;
    client.begin("first").await?.rollback().await.context("the first transaction")?;
    let mut participants = Vec::new();
    for name in ["one", "two"] {
        let participant = Participant::builder(name)
            .coordinator(&coordinator)
            .resource(name, "memory", Agreeable)
            .start()
            .await?;
        participants.push((name, participant));
    }
    let participants = Arc::new(participants);
    let committed = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, participants) = (client.clone(), Arc::clone(&participants));
        let committed = Arc::clone(&committed);
        clients.spawn(async move {
            while committed.load(Ordering::Relaxed) < answers {
                transfer(&client, &participants).await?;
                committed.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let committed = committed.load(Ordering::Relaxed);
    ensure!(committed >= answers, "only {committed} transactions committed");
    Ok(committed)
}

async fn transfer(
    client: &Client,
    participants: &[(&str, Participant)],
) -> anyhow::Result<Committed> {
    let transaction = client.begin("proof").await?;
    for (name, participant) in participants {
        let request = transaction.request(());
        let branch = participant.join(request.metadata(), name).await?;
        let mut reply = tonic::Response::new(());
        branch.announce(reply.metadata_mut());
        branch.end();
        transaction.count(reply.metadata());
    }
    Ok(transaction.commit().await?)
}
