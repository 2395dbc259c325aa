//! The same transactions through the coordinator.

use super::{Arguments, UPDATE, draw};
use anyhow::Context as _;
use std::time::Duration;
use unanimous_sdk::postgres::Postgres;
use unanimous_sdk::{Attached, Client, Participant, ParticipantBuilder};
use unanimous_tests::real::Coordinator;

const CONNECTED_MAX: Duration = Duration::from_secs(30);

/// The coordinator, and the databases' participants with their handlers in this process.
pub(super) struct Ours {
    client: Client,
    sides: [Attached<Postgres>; 2],
    participants: Vec<Participant>,
    /// Work ends with its vote.
    pub(super) early: bool,
}

impl Ours {
    pub(super) async fn start(
        coordinator: &Coordinator,
        urls: &[String; 2],
        clients_max: usize,
        arguments: &Arguments,
    ) -> anyhow::Result<Self> {
        let client = Client::builder(coordinator.url(), "two-databases").connect()?;
        let builder = |name: &str| Participant::builder(name).coordinator(coordinator.url());
        let attach = |builder: &mut ParticipantBuilder, resource: &str, url: &str| {
            let postgres = Postgres::url(url)?.work_pool_max(clients_max + 16).build();
            anyhow::Ok(builder.attach(resource, postgres))
        };
        let mut first = builder("bank");
        let mut second = arguments.apart.then(|| builder("other-bank"));
        let here = attach(&mut first, "accounts/a", &urls[0])?;
        let there = attach(second.as_mut().unwrap_or(&mut first), "accounts/b", &urls[1])?;
        let mut participants = Vec::new();
        for builder in [Some(first), second].into_iter().flatten() {
            let participant = builder.start().await?;
            participant.connected(CONNECTED_MAX).await?;
            participants.push(participant);
        }
        Ok(Self { client, sides: [here, there], participants, early: arguments.early })
    }

    pub(super) async fn transact(&self, client: usize) -> anyhow::Result<()> {
        let account = draw(i64::try_from(client)?);
        let tx = self.client.begin("transfer").await?;
        let context = tx.context();
        let work = async |at: usize| {
            let work = self.sides[at].join(&context).await?;
            let update = work.prepare_cached(UPDATE).await.context("a statement")?;
            work.execute(&update, &[&account]).await.context("the work")?;
            if self.early {
                work.vote();
            } else {
                work.end();
            }
            anyhow::Ok(())
        };
        tokio::try_join!(work(0), work(1))?;
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn stop(&self) {
        for participant in &self.participants {
            participant.stop().await;
        }
    }
}
