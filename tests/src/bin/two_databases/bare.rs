//! The loop without a coordinator, and the statements that the loops beside it send.

use super::{UPDATE, draw};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;

/// What [`Manner::Guarded`] asks: whether the block is still the one that was marked, and which
/// transaction it is, for the evidence of a vote.
const GUARD: &str = "PREPARE guard(text) AS SELECT \
     1/(coalesce(pg_catalog.current_setting('loop.branch', true), '') = $1)::int, \
     pg_catalog.pg_current_xact_id_if_assigned()::text";

/// How a block is begun and prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// BEGIN waits for its answer, and nothing is guarded.
    Plain,
    /// BEGIN goes with the first statement, as in ours.
    AtOnce,
    /// The same with the mark and the guard of a block, without which PREPARE TRANSACTION can
    /// "succeed" and roll back.
    Guarded,
}

/// A client of the loops: a connection to each database.
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
            client.batch_execute(GUARD).await?;
            let update = client.prepare(UPDATE).await?;
            anyhow::Ok((client, update))
        };
        let sides = [side(&urls[0]).await?, side(&urls[1]).await?];
        Ok(Self { client: i64::try_from(client)?, sides, next: AtomicU64::new(0) })
    }

    pub(super) async fn transact(&self) -> anyhow::Result<()> {
        let gid = self.prepare_both(Manner::Plain).await?;
        self.commit_both(&gid).await
    }

    /// Work and PREPARE TRANSACTION in both databases: under which name.
    pub(super) async fn prepare_both(&self, manner: Manner) -> anyhow::Result<String> {
        let (gid, account) = (self.name(), self.account());
        let one = async |at: usize| {
            self.work(at, &gid, account, manner).await?;
            self.prepare(at, &gid, manner).await
        };
        tokio::try_join!(one(0), one(1))?;
        Ok(gid)
    }

    pub(super) async fn commit_both(&self, gid: &str) -> anyhow::Result<()> {
        tokio::try_join!(self.commit(0, gid), self.commit(1, gid))?;
        Ok(())
    }

    pub(super) fn name(&self) -> String {
        format!("bare.{}.{}", self.client, self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn account(&self) -> i64 {
        draw(self.client)
    }

    pub(super) async fn work(
        &self,
        at: usize,
        gid: &str,
        account: i64,
        manner: Manner,
    ) -> anyhow::Result<()> {
        let (client, update) = &self.sides[at];
        let marked;
        let begin = match manner {
            Manner::Guarded => {
                marked = format!("BEGIN; SET LOCAL loop.branch = '{gid}.{at}'");
                &marked
            }
            Manner::Plain | Manner::AtOnce => "BEGIN",
        };
        let begin = client.batch_execute(begin);
        let parameters: [&(dyn ToSql + Sync); 1] = [&account];
        let work = client.execute(update, &parameters);
        if manner == Manner::Plain {
            begin.await?;
            work.await?;
        } else {
            tokio::try_join!(begin, work)?;
        }
        Ok(())
    }

    pub(super) async fn prepare(&self, at: usize, gid: &str, manner: Manner) -> anyhow::Result<()> {
        let guard = match manner {
            Manner::Guarded => format!("EXECUTE guard('{gid}.{at}'); "),
            Manner::Plain | Manner::AtOnce => String::new(),
        };
        let sql = format!("{guard}PREPARE TRANSACTION '{gid}.{at}'");
        Ok(self.sides[at].0.batch_execute(&sql).await?)
    }

    pub(super) async fn commit(&self, at: usize, gid: &str) -> anyhow::Result<()> {
        Ok(self.sides[at].0.batch_execute(&format!("COMMIT PREPARED '{gid}.{at}'")).await?)
    }
}
