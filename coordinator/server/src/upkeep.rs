//! What the driver does about the log itself: compaction, and what is refused while its disk is
//! full, slow or behind.

use crate::driver::Driver;
use crate::refusal::Refusal;
use unanimous_core::{CallerId, Event, Lsn, Millis, Request};
use unanimous_recovery::{Stats, crash_point};

/// Transactions and outcomes that one step of a compaction moves: a millisecond's work. With fewer,
/// the log grows by more than is live until all are moved.
const COMPACT_ITEMS_MAX: usize = 1_024;

/// Who asks where nobody gets a reply.
const NOBODY: CallerId = CallerId(0);

/// The log as the driver sees it.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The last record handed over.
    pub(crate) appended: Lsn,
    /// The last durable record.
    pub(crate) durable: Lsn,
    /// Too much waits to be written.
    pub(crate) log_busy: bool,
    /// For how long, if that is too long.
    slow_ms: Option<u64>,
    space_low: bool,
    compaction: Option<Compaction>,
    /// Bytes of the records that the last one moved: what was live.
    live_bytes: u64,
    /// The same of the one under way.
    pub(crate) carried_bytes: u64,
    pub(crate) compactions: u64,
}

/// A compaction under way.
#[derive(Debug)]
struct Compaction {
    upto: Lsn,
    /// The last record of the last step: the next step follows when it is durable.
    step: Lsn,
}

impl Upkeep {
    /// Whether a transaction may begin, as far as the log is concerned.
    pub(crate) fn admit_begin(&self) -> Result<(), Refusal> {
        match (self.slow_ms, self.log_busy) {
            (Some(waiting_ms), _) => Err(Refusal::log_slow(waiting_ms)),
            (None, true) => Err(Refusal::log_busy()),
            (None, false) => Ok(()),
        }
    }
}

impl Driver {
    /// Looks at the log and does what it needs; a bounded step each time.
    pub(crate) fn on_log(&mut self, now: Millis) {
        let stats = self.writer.stats();
        let config = self.gate.config();
        let slow = stats.oldest_queued_ms >= config.log_slow_ms;
        self.upkeep.log_busy = stats.queued_bytes >= config.log_queue_bytes_max;
        self.upkeep.slow_ms = slow.then_some(stats.oldest_queued_ms);
        if stats.space_low != self.upkeep.space_low {
            self.on_space(now, &stats);
        }
        if !self.upkeep.log_busy {
            self.release_held_back(now);
        }
        self.compact(now, &stats);
    }

    fn on_space(&mut self, now: Millis, stats: &Stats) {
        let low = stats.space_low;
        self.upkeep.space_low = low;
        let free_bytes = stats.free_bytes;
        if low {
            let words =
                "the log's file system is nearly full: nothing begins, nothing new is decided";
            tracing::error!(free_bytes, "{words}");
        } else {
            tracing::info!(free_bytes, "the log's file system has space again");
        }
        self.handle(now, Event::Requested { by: NOBODY, request: Request::Storage { low } });
    }

    fn compact(&mut self, now: Millis, stats: &Stats) {
        let bytes_max = self.gate.config().log_bytes_compact.max(2 * self.upkeep.live_bytes);
        let durable = self.upkeep.durable;
        let appended = self.upkeep.appended;
        let upto = match &mut self.upkeep.compaction {
            Some(compaction) if compaction.step <= durable => compaction.upto,
            Some(_) => return,
            None if stats.dropping || stats.retained_bytes <= bytes_max => return,
            None => {
                tracing::debug!(upto = durable.0, bytes = stats.retained_bytes, "compacting");
                self.upkeep.compaction = Some(Compaction { upto: durable, step: appended });
                self.upkeep.carried_bytes = 0;
                durable
            }
        };
        let request = Request::Compact { upto, items_max: COMPACT_ITEMS_MAX };
        self.handle(now, Event::Requested { by: NOBODY, request });
        let appended = self.upkeep.appended;
        if let Some(compaction) = &mut self.upkeep.compaction {
            compaction.step = appended;
        }
    }

    /// Everything live is durable at or above `below`.
    pub(crate) fn drop_below(&mut self, below: Lsn) {
        crash_point("serve.compact.before_drop");
        self.writer.drop_below(below);
        self.upkeep.compaction = None;
        self.upkeep.live_bytes = self.upkeep.carried_bytes;
        self.upkeep.compactions += 1;
        let live_bytes = self.upkeep.live_bytes;
        tracing::debug!(below = below.0, live_bytes, "compacted: older frames go");
    }
}
