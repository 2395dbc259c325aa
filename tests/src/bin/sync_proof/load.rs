//! Sixteen clients in a closed loop over two participants that keep their branches in memory: as
//! many decisions as the coordinator's log takes.

use anyhow::{Context as _, ensure};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use unanimous_sdk::Client;
use unanimous_tests::real::memory::{Counts, Loop, Member};

const CLIENTS: usize = 16;

/// Commits transactions until `answers` were told to be; gives how many were.
pub(crate) async fn run(address: &str, answers: u64) -> anyhow::Result<u64> {
    let coordinator = format!("http://{address}");
    // The client's connection is the first one: the checker tells it from the participants' by
    // that.
    let client = Client::connect(&coordinator, "sync-proof").await?;
    client.begin("first").await?.rollback().await.context("the first transaction")?;
    let members = Member::start_all(&coordinator, &["one", "two"]).await?;
    let counts = Arc::new(Counts::default());
    let load = Loop { clients: CLIENTS, transactions: answers, pause: Duration::ZERO };
    load.run(vec![client], members, Arc::clone(&counts)).await?;
    let committed = counts.committed.load(Ordering::Relaxed);
    ensure!(committed >= answers, "only {committed} transactions committed");
    Ok(committed)
}
