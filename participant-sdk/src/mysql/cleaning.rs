//! Deleting the markers of transactions that have ended durably.

use super::Mysql;
use super::errors::Trouble;
use super::markers::{BATCH_MAX, Marker};
use super::outside::{connection, within};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;
use unanimous_core::LogId;
use unanimous_core::coordinator::EndedMark;

/// Between two rounds: marks come with nearly every message.
const PAUSE: Duration = Duration::from_millis(500);

/// What is to be deleted.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    wanted: Mutex<Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// The last mark of each log that was not cleaned up to.
    marks: BTreeMap<LogId, EndedMark>,
    /// A task is at it.
    runs: bool,
}

impl Cleaning {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a mark; `true`: a task has to be started for it.
    fn note(&self, mark: &EndedMark) -> bool {
        let mut wanted = self.wanted();
        wanted.marks.insert(mark.log, mark.clone());
        !std::mem::replace(&mut wanted.runs, true)
    }

    /// The marks to clean up to; `None`: there are none, and the task ends.
    fn take(&self) -> Option<BTreeMap<LogId, EndedMark>> {
        let mut wanted = self.wanted();
        wanted.runs = !wanted.marks.is_empty();
        wanted.runs.then(|| std::mem::take(&mut wanted.marks))
    }
}

impl Mysql {
    pub(super) fn clean_up_to(&self, mark: &EndedMark) {
        if self.inner.cleaning.note(mark) {
            let mysql = self.clone();
            tokio::spawn(async move { mysql.clean().await });
        }
    }

    /// Rounds until no mark is left. What fails is left over for a later mark.
    async fn clean(&self) {
        while let Some(marks) = self.inner.cleaning.take() {
            for mark in marks.values() {
                if let Err(error) = self.clean_log(mark).await {
                    tracing::debug!(%error, "markers were not deleted: later");
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn clean_log(&self, mark: &EndedMark) -> Result<(), Trouble> {
        let mut conn = connection(&self.inner.finishing).await?;
        loop {
            let ended = self.inner.markers.ended(mark, self.inner.alone.known());
            let ended: Vec<Marker> = match within(conn.query(ended)).await {
                // The table was dropped; without it, next time.
                Err(trouble) if self.inner.alone.is_missing(&trouble) => return Err(trouble),
                ended => ended?,
            };
            if ended.is_empty() {
                return Ok(());
            }
            if let Err(trouble) = self.delete(&mut conn, &ended).await {
                // Its transaction may be open.
                super::session::discard(conn);
                return Err(trouble);
            }
            if ended.len() < BATCH_MAX {
                return Ok(());
            }
        }
    }

    async fn delete(&self, conn: &mut Conn, ended: &[Marker]) -> Result<(), Trouble> {
        within(conn.query_drop(self.inner.markers.delete(ended))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_runs_until_no_mark_is_left_and_the_last_mark_of_each_log_counts() {
        let cleaning = Cleaning::default();
        let mark = |slot, sequence| EndedMark {
            log: LogId { cluster: 1, slot, incarnation: 1 },
            epoch: 1,
            sequence,
            exceptions: Vec::new(),
        };
        assert!(cleaning.note(&mark(1, 5)));
        assert!(!cleaning.note(&mark(1, 6)), "it runs");
        assert!(!cleaning.note(&mark(2, 1)));
        let taken: Vec<EndedMark> = cleaning.take().unwrap().into_values().collect();
        assert_eq!(taken, [mark(1, 6), mark(2, 1)]);
        assert!(!cleaning.note(&mark(1, 7)), "it still runs");
        assert!(cleaning.take().is_some() && cleaning.take().is_none());
        assert!(cleaning.note(&mark(1, 8)), "the task has ended");
    }
}
