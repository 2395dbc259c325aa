//! The thread that owns the store: gathers what is queued, writes it as one frame, tells of it, and
//! drops old frames in between.

use super::{Command, Ended, Flushed, Gauges, LogFailed, Queued, Shared, locked};
use crate::crash_point::crash_point;
use crate::frame::{
    FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES, Frame, RECORD_OVERHEAD_BYTES, frame_crc,
};
use crate::retained::{Retained, RetainedFrame};
use crate::sled_store::panic_message;
use crate::space::Spaces;
use crate::store::StoreError;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use unanimous_core::{FrameNumber, Lsn};

/// How long a group without a forced record waits for company.
const LAZY_WAIT: Duration = Duration::from_millis(50);
/// How often the disk is looked at while nothing is written.
const SPACE_PAUSE: Duration = Duration::from_millis(250);
/// How often it is looked at while a frame waits for room.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct LogThread<F> {
    pub(super) ended: Ended,
    pub(super) retained: Retained,
    pub(super) space: Spaces,
    pub(super) queue: Receiver<Command>,
    /// Received, not yet written: what did not fit into the last frame, or waits for room.
    pub(super) carried: VecDeque<Queued>,
    pub(super) ending: bool,
    pub(super) gauges: Arc<Gauges>,
    pub(super) durable: Shared,
    pub(super) on_flushed: F,
}

/// What becomes one frame.
#[derive(Default)]
struct Group {
    records: Vec<Vec<u8>>,
    record_bytes: u64,
    /// When the last of them was submitted.
    last_at_ms: u64,
}

impl<F: FnMut(Flushed)> LogThread<F> {
    pub(super) fn run_to_the_end(mut self, on_failed: impl FnOnce(LogFailed)) -> Option<Ended> {
        let failed = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(Ok(())) => return Some(self.ended),
            Ok(Err(failed)) => failed,
            Err(panic) => LogFailed { what: format!("a panic: {}", panic_message(&*panic)) },
        };
        // The end of a store writes; after a failure nothing may.
        std::mem::forget(self.ended);
        drop(self.queue);
        on_failed(failed);
        None
    }

    fn run(&mut self) -> Result<(), LogFailed> {
        while let Some(first) = self.first()? {
            let group = self.gather(first)?;
            self.write(group)?;
            self.drop_slice()?;
        }
        Ok(())
    }

    /// Waits for the first record of the next group, dropping old frames meanwhile; `None` at the
    /// end.
    fn first(&mut self) -> Result<Option<Queued>, LogFailed> {
        while self.carried.is_empty() && !self.ending {
            let received = match self.queue.try_recv() {
                Err(TryRecvError::Empty) if self.drop_slice()? => continue,
                Err(TryRecvError::Empty) => match self.queue.recv_timeout(SPACE_PAUSE) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.look_at_space()?;
                        continue;
                    }
                    received => received.ok(),
                },
                received => received.ok(),
            };
            self.take(received)?;
        }
        Ok(self.carried.pop_front())
    }

    /// The group that begins with this record: what is queued, up to the longest frame.
    fn gather(&mut self, first: Queued) -> Result<Group, LogFailed> {
        self.gauges.oldest_queued_at_ms.store(first.at_ms, Ordering::Relaxed);
        let deadline = Instant::now() + LAZY_WAIT;
        let mut group = Group::default();
        let mut bytes = FRAME_OVERHEAD_BYTES;
        let mut forced = false;
        let mut next = Some(first);
        while let Some(queued) = next {
            bytes += RECORD_OVERHEAD_BYTES + queued.record.len();
            if bytes > FRAME_BYTES_MAX {
                self.carried.push_front(queued);
                break;
            }
            forced |= queued.force;
            group.last_at_ms = queued.at_ms;
            group.record_bytes += queued.record.len() as u64;
            group.records.push(queued.record);
            next = self.company(forced, deadline)?;
        }
        Ok(group)
    }

    /// The next record for a group, or that it is complete.
    fn company(&mut self, forced: bool, deadline: Instant) -> Result<Option<Queued>, LogFailed> {
        while self.carried.is_empty() && !self.ending {
            let left = deadline.saturating_duration_since(Instant::now());
            let received = if forced {
                self.queue.try_recv().map_err(|error| error == TryRecvError::Empty)
            } else {
                let received = self.queue.recv_timeout(left);
                received.map_err(|error| error == RecvTimeoutError::Timeout)
            };
            if received.as_ref().is_err_and(|nothing_yet| *nothing_yet) {
                break;
            }
            self.take(received.ok())?;
        }
        Ok(self.carried.pop_front())
    }

    fn take(&mut self, received: Option<Command>) -> Result<(), LogFailed> {
        match received {
            Some(Command::Append(queued)) => self.carried.push_back(queued),
            Some(Command::DropBelow(lsn)) => {
                self.retained.raise_floor(lsn.0);
                self.measure();
            }
            Some(Command::Fail(failed)) => return Err(failed),
            Some(Command::End) | None => self.ending = true,
        }
        Ok(())
    }

    fn look_at_space(&mut self) -> Result<(), LogFailed> {
        self.space.check(&self.ended.legs.used()).map_err(space_failed)?;
        self.publish_space();
        Ok(())
    }

    fn has_room(&mut self) -> Result<bool, LogFailed> {
        self.space.make_room(&self.ended.legs.used()).map_err(space_failed)?;
        self.publish_space();
        Ok(!self.space.seen().full)
    }

    fn publish_space(&self) {
        let (gauges, seen) = (&*self.gauges, self.space.seen());
        gauges.free_bytes.store(seen.free_bytes, Ordering::Relaxed);
        gauges.reserve_bytes.store(seen.reserve_bytes, Ordering::Relaxed);
        gauges.space_low.store(seen.low, Ordering::Relaxed);
        gauges.waiting_for_space.store(seen.full, Ordering::Relaxed);
    }

    /// Waits while the disk is full: ENOSPC out of the write would end the log. The end does not
    /// wait.
    fn wait_for_room(&mut self, group: &Group) -> Result<(), LogFailed> {
        while !self.has_room()? {
            if self.ending {
                let count = group.records.len() + self.carried.len();
                let what = format!("the disk is full: {count} queued records were not written");
                return Err(LogFailed { what });
            }
            match self.queue.recv_timeout(ROOM_PAUSE) {
                Err(RecvTimeoutError::Timeout) => {}
                received => self.take(received.ok())?,
            }
        }
        Ok(())
    }

    /// Writes one frame, durably, and tells of it. The only place where frames come from: one at a
    /// time.
    fn write(&mut self, group: Group) -> Result<(), LogFailed> {
        self.wait_for_room(&group)?;
        crash_point("log.before_append");
        let Group { records, record_bytes, last_at_ms } = group;
        let count = records.len() as u64;
        let chain = &mut self.ended.chain;
        let frame = Frame {
            number: chain.next_number,
            first_lsn: chain.next_lsn,
            unix_ms: unix_ms(),
            previous_crc: chain.last_crc,
            records,
        };
        let bytes = frame.encode();
        let begun_at = Instant::now();
        self.ended.legs.append(FrameNumber(frame.number), &bytes).map_err(failed)?;
        self.gauges.count_durable(begun_at.elapsed());
        chain.next_number += 1;
        chain.last_crc = frame_crc(&bytes);
        chain.next_lsn += count;
        chain.records += count;
        self.retained.push(RetainedFrame::of(&frame, bytes.len()));
        let flushed = Flushed {
            upto: Lsn(chain.next_lsn - 1),
            frame: FrameNumber(frame.number),
            records: u32::try_from(count).unwrap_or(u32::MAX),
        };
        self.count(flushed, record_bytes, last_at_ms);
        let (state, wake) = &*self.durable;
        let mut state = locked(state);
        (state.frame, state.frame_crc) = (frame.number, self.ended.chain.last_crc);
        if std::mem::take(&mut state.idle) {
            wake.notify_one();
        }
        drop(state);
        (self.on_flushed)(flushed);
        crash_point("log.after_told");
        Ok(())
    }

    fn count(&self, flushed: Flushed, record_bytes: u64, last_at_ms: u64) {
        let gauges = &*self.gauges;
        gauges.durable_frame.store(flushed.frame.0, Ordering::Relaxed);
        gauges.frames.fetch_add(1, Ordering::Relaxed);
        gauges.records.fetch_add(u64::from(flushed.records), Ordering::Relaxed);
        self.measure();
        // Before the subtraction: from zero queued records on, the time is the appender's to set.
        gauges.oldest_queued_at_ms.store(last_at_ms, Ordering::Relaxed);
        gauges.queued_records.fetch_sub(u64::from(flushed.records), Ordering::Relaxed);
        gauges.queued_bytes.fetch_sub(record_bytes, Ordering::Relaxed);
    }

    fn measure(&self) {
        let gauges = &*self.gauges;
        gauges.bytes_on_disk.store(self.ended.legs.bytes_on_disk(), Ordering::Relaxed);
        gauges.retained_frames.store(self.retained.frames(), Ordering::Relaxed);
        gauges.retained_bytes.store(self.retained.bytes(), Ordering::Relaxed);
        gauges.dropping.store(self.retained.slice().is_some(), Ordering::Relaxed);
    }

    /// Drops one slice of old frames, durably, if there are any to drop and the disk has room for
    /// the writes that it takes.
    fn drop_slice(&mut self) -> Result<bool, LogFailed> {
        let Some(start) = self.retained.slice() else { return Ok(false) };
        if !self.has_room()? {
            return Ok(false);
        }
        self.ended.legs.drop_below(start).map_err(failed)?;
        self.retained.dropped(start);
        self.measure();
        Ok(true)
    }
}

fn failed(error: StoreError) -> LogFailed {
    LogFailed { what: error.to_string() }
}

fn space_failed(error: std::io::Error) -> LogFailed {
    LogFailed { what: format!("looking for room on the disk: {error}") }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
