//! The loop without a coordinator.

use super::{UPDATE, draw};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;

/// A client of the bare loop: a connection to each database.
pub(super) struct Bare {
    client: i64,
    sides: [(tokio_postgres::Client, tokio_postgres::Statement); 2],
    next: AtomicU64,
}

impl Bare {
    pub(super) async fn connect(urls: &[String; 2], client: usize) -> anyhow::Result<Self> {
        let side = async |url: &str| {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            let update = client.prepare(UPDATE).await?;
            anyhow::Ok((client, update))
        };
        let sides = [side(&urls[0]).await?, side(&urls[1]).await?];
        Ok(Self { client: i64::try_from(client)?, sides, next: AtomicU64::new(0) })
    }

    pub(super) async fn transact(&self) -> anyhow::Result<()> {
        let gid = self.prepare(false).await?;
        self.commit(&gid).await
    }

    /// Work and PREPARE TRANSACTION in both databases: under which name. `at_once`: BEGIN does not
    /// wait for its answer, as in ours.
    pub(super) async fn prepare(&self, at_once: bool) -> anyhow::Result<String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let account = draw(self.client);
        let gid = format!("bare.{}.{number}", self.client);
        let prepared = self.both(async |at| {
            let (client, update) = &self.sides[at];
            let begin = client.batch_execute("BEGIN");
            let parameters: [&(dyn ToSql + Sync); 1] = [&account];
            let work = client.execute(update, &parameters);
            if at_once {
                tokio::try_join!(begin, work)?;
            } else {
                begin.await?;
                work.await?;
            }
            client.batch_execute(&format!("PREPARE TRANSACTION '{gid}.{at}'")).await
        });
        prepared.await?;
        Ok(gid)
    }

    pub(super) async fn commit(&self, gid: &str) -> anyhow::Result<()> {
        let committed = self.both(async |at| {
            self.sides[at].0.batch_execute(&format!("COMMIT PREPARED '{gid}.{at}'")).await
        });
        committed.await
    }

    async fn both<W>(&self, side: impl Fn(usize) -> W) -> anyhow::Result<()>
    where
        W: Future<Output = Result<(), tokio_postgres::Error>>,
    {
        tokio::try_join!(side(0), side(1))?;
        Ok(())
    }
}
