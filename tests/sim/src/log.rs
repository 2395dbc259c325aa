//! The coordinator's log: its thread, frames as they ship on a simulated disk, and their drops.

use super::coordinator::CoordinatorStep;
use super::disk::Disk;
use super::random::Random;
use super::world::World;
use crate::invariants::Fact;
use unanimous_core::coordinator::Recovered;
use unanimous_core::museum::{Bug, on};
use unanimous_core::{Event, FrameNumber, Lsn, Record};
use unanimous_recovery::Chain;
use unanimous_recovery::codec::{decode_record, encode_record};
use unanimous_recovery::frame::Frame;
use unanimous_recovery::store::ChainStart;

/// What the wall clock shows when it is right.
pub(super) const UNIX_SECONDS: u64 = 1_790_000_000;
/// How long a lazy record waits for company.
const LAZY_MS: u64 = 50;

/// What a disk writes at once, or not at all.
const SECTOR_BYTES: usize = 512;

/// Where an empty log starts.
const START: ChainStart = ChainStart { number: 1, previous_crc: 0, first_lsn: 1 };

/// The log's thread.
pub(super) struct LogQueue {
    /// Submitted, not in a frame yet; `true`: somebody waits for it.
    queued: Vec<(Lsn, Record, bool)>,
    /// In the frame whose sync is under way.
    under_way: Vec<Record>,
    /// The place of that frame.
    under_way_at: ChainStart,
    syncing: bool,
    flush_at_ms: Option<u64>,
    end: Chain,
    /// The places of the durable frames from the chain's start on.
    places: Vec<ChainStart>,
}

/// What a reader finds.
pub(super) struct Read {
    pub(super) recovered: Recovered,
    pub(super) end: Chain,
    places: Vec<ChainStart>,
}

/// The log's files. Frames that were dropped stay for the one who judges; a reader sees them no
/// more.
pub(super) struct LogDisk {
    frames: Disk<Vec<u8>>,
    /// The place of the first frame that counts: as a reader sees it, and on the platter.
    start: ChainStart,
    start_durable: ChainStart,
    /// By frame: removed. A power loss may bring back those whose removal was not synced.
    removed: Vec<bool>,
    removed_unsynced: Vec<u64>,
    /// Flipped bits: the frame's index, the byte, the bits.
    rotted: Vec<(usize, usize, u8)>,
}

impl LogQueue {
    pub(super) fn new() -> Self {
        Self {
            queued: Vec::new(),
            under_way: Vec::new(),
            under_way_at: START,
            syncing: false,
            flush_at_ms: None,
            end: Chain::at(START),
            places: Vec::new(),
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.queued.is_empty() && !self.syncing
    }

    /// A life begins on what was read.
    pub(super) fn begin(&mut self, end: Chain, places: Vec<ChainStart>) {
        self.end = end;
        self.places = places;
    }

    /// From the first retained record to the last durable one.
    pub(super) fn durable(&self) -> (Lsn, Lsn) {
        let end = self.end.next_lsn();
        let first = self.places.first().map_or(end, |place| place.first_lsn);
        let next = if self.syncing { self.under_way_at.first_lsn } else { end };
        (Lsn(first), Lsn(next - 1))
    }
}

/// Takes the next frame; `None`: that is none.
fn accept(chain: &mut Chain, number: u64, bytes: &[u8]) -> Option<Vec<(Lsn, Record)>> {
    let frame = chain.accept(Some(number), bytes).ok()?;
    let records = frame.records.iter().map(|record| decode_record(record).ok());
    (frame.first_lsn..).map(Lsn).zip(records).map(|(lsn, record)| Some((lsn, record?))).collect()
}

/// The place of the chain's next frame.
fn place(chain: &Chain) -> ChainStart {
    ChainStart {
        number: chain.last_frame() + 1,
        previous_crc: chain.last_crc(),
        first_lsn: chain.next_lsn(),
    }
}

/// Of each sector of a frame that was not synced: what was written, nothing, or what was there
/// before. The file may also be shorter.
fn tear(frame: &mut Vec<u8>, old: &[u8], random: &mut Random) {
    let mut end = usize::try_from(random.below(SECTOR_BYTES as u64)).unwrap_or(0);
    let mut begin = 0;
    while begin < frame.len() {
        end = end.min(frame.len());
        match random.below(5) {
            0 | 1 => {}
            2 | 3 => frame[begin..end].fill(0),
            _ => {
                let before = old.iter().skip(begin).chain(std::iter::repeat(&0));
                frame[begin..end].iter_mut().zip(before).for_each(|(byte, old)| *byte = *old);
            }
        }
        if random.chance(100) {
            return frame.truncate(begin);
        }
        (begin, end) = (end, end + SECTOR_BYTES);
    }
}

impl LogDisk {
    pub(super) fn new() -> Self {
        Self {
            frames: Disk::new(),
            start: START,
            start_durable: START,
            removed: Vec::new(),
            removed_unsynced: Vec::new(),
            rotted: Vec::new(),
        }
    }

    pub(super) fn killed(&mut self, random: &mut Random) {
        self.frames.killed(random);
    }

    pub(super) fn power_lost(&mut self, random: &mut Random) {
        let frames = self.frames.written() as u64;
        let old = usize::try_from(random.below(frames)).ok();
        let old = old.and_then(|at| self.frames.items().get(at)).cloned().unwrap_or_default();
        self.frames.power_lost(random, |frame, random| tear(frame, &old, random));
        for number in std::mem::take(&mut self.removed_unsynced) {
            if random.chance(500) {
                self.set_removed(number, false);
            }
        }
        if self.start != self.start_durable && random.chance(500) {
            self.start = self.start_durable;
        }
        self.start_durable = self.start;
    }

    /// Flips a few bits of a durable frame that a reader needs. Tells which frame.
    pub(super) fn rot(&mut self, random: &mut Random) -> Option<u64> {
        let durable = self.frames.durable() as u64;
        let first = self.start.number.max(self.start_durable.number);
        let number = (first <= durable).then(|| random.between(first, durable))?;
        let index = usize::try_from(number - 1).ok()?;
        let length = self.frames.items().get(index)?.len() as u64;
        for _ in 0..random.between(1, 3) {
            let byte = usize::try_from(random.below(length)).unwrap_or(0);
            let bits = 1_u8 << random.below(8);
            if !self.rotted.contains(&(index, byte, bits)) {
                self.rotted.push((index, byte, bits));
                self.flip(index, byte, bits);
            }
        }
        Some(number)
    }

    fn flip(&mut self, index: usize, byte: usize, bits: u8) {
        let frame = self.frames.items_mut().get_mut(index);
        if let Some(byte) = frame.and_then(|frame| frame.get_mut(byte)) {
            *byte ^= bits;
        }
    }

    /// Undoes all flips.
    fn restore(&mut self) {
        for (index, byte, bits) in std::mem::take(&mut self.rotted) {
            self.flip(index, byte, bits);
        }
    }

    /// From the chain's start up to the first that is no frame, as the recovery scan does; frames
    /// below the start are skipped.
    fn read(&self) -> Read {
        self.read_from(self.start, self.frames.written() as u64)
    }

    fn read_from(&self, start: ChainStart, last: u64) -> Read {
        self.read_onto(Recovered::default(), start, last)
    }

    fn read_onto(&self, recovered: Recovered, start: ChainStart, last: u64) -> Read {
        let mut read = Read { recovered, end: Chain::at(start), places: Vec::new() };
        for number in start.number..=last {
            let mut end = read.end;
            let frame = if self.is_removed(number) { None } else { self.frame(number) };
            let records = frame.and_then(|bytes| accept(&mut end, number, bytes));
            let Some(records) = records else { break };
            records.into_iter().for_each(|(lsn, record)| read.recovered.fold(lsn, record));
            read.places.push(place(&read.end));
            read.end = end;
        }
        read
    }

    fn frame(&self, number: u64) -> Option<&[u8]> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.frames.items().get(index).map(Vec::as_slice)
    }

    fn is_removed(&self, number: u64) -> bool {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        self.removed.get(index).copied().unwrap_or(false)
    }

    fn set_removed(&mut self, number: u64, removed: bool) {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        if self.removed.len() <= index {
            self.removed.resize(index + 1, false);
        }
        self.removed[index] = removed;
    }

    /// The frames below `start` that are still there.
    fn leftovers(&self, start: ChainStart) -> impl Iterator<Item = u64> {
        (1..start.number).filter(|number| !self.is_removed(*number))
    }
}

impl World {
    /// Reads the log. Only what was never synced may be no frame.
    pub(super) fn read_log(&mut self) {
        let read = self.coordinator.disk.read();
        let disk = &mut self.coordinator.disk;
        let whole = usize::try_from(read.end.last_frame()).unwrap_or(usize::MAX);
        if whole < disk.frames.durable() {
            // The start is refused, until its operator has mended the disk.
            let delay_ms = self.random.between(10, 1_000);
            self.coordinator_later(delay_ms, CoordinatorStep::Restore);
            return self.fact(&Fact::Unreadable(whole as u64 + 1));
        }
        disk.frames.cut(whole);
        self.coordinator.read = Some(read);
        let delay_ms = self.random.between(0, 4 * self.swarm.sync_ms);
        self.coordinator_later(delay_ms, CoordinatorStep::Begin);
        // Recovery is killed like everything else.
        if self.fault(4 * self.swarm.kill_coordinator) {
            self.kill_coordinator();
        }
    }

    /// The frames are again what was written.
    pub(super) fn restore_log(&mut self) {
        self.coordinator.disk.restore();
        self.fact(&Fact::Restored);
        self.start_coordinator(1);
    }

    /// Bits flip while the process is down.
    pub(super) fn maybe_rot(&mut self) {
        if self.coordinator.disk.rotted.is_empty() && self.fault(self.swarm.rot) {
            let disk = &mut self.coordinator.disk;
            if let Some(number) = disk.rot(&mut self.random) {
                self.fact(&Fact::Rotted(number));
            }
        }
    }

    /// The log's directory is lost with the process: its operator gives it a new, empty one.
    pub(super) fn maybe_new_log(&mut self) {
        if self.fault(self.swarm.new_log) {
            self.coordinator.disk = LogDisk::new();
            self.coordinator.log_id.incarnation += 1;
            let log = self.coordinator.log_id;
            self.fact(&Fact::Restored);
            self.fact(&Fact::NewLog(log));
        }
    }

    /// Shows what the log says, folded once and folded twice over.
    pub(super) fn show_replay(&mut self) {
        let disk = &self.coordinator.disk;
        let last = disk.frames.written() as u64;
        let once = disk.read_from(disk.start, last).recovered;
        let twice = disk.read_onto(once.clone(), disk.start, last).recovered;
        self.fact(&Fact::Replayed(&once, &twice));
    }

    /// Makes what was read durable, and goes on removing what lies below the chain's start.
    pub(super) fn sync_recovered(&mut self) {
        let disk = &mut self.coordinator.disk;
        disk.start_durable = disk.start;
        let items = disk.frames.written();
        let frames = disk.frames.synced(items).to_vec();
        for bytes in frames {
            let records = Frame::decode(&bytes).map(|frame| frame.records).unwrap_or_default();
            for record in records.iter().filter_map(|record| decode_record(record).ok()) {
                self.fact(&Fact::Durable(&record));
            }
        }
    }

    pub(super) fn begin_log(&mut self, read: Read) -> Recovered {
        self.coordinator.log.begin(read.end, read.places);
        let disk = &self.coordinator.disk;
        if disk.leftovers(disk.start_durable).next().is_some() {
            self.coordinator_later(1, CoordinatorStep::Remove);
        }
        read.recovered
    }

    pub(super) fn append(&mut self, lsn: Lsn, record: Record, force: bool) {
        self.coordinator.log.queued.push((lsn, record, force));
        self.flush_soon();
    }

    /// Appends, syncs, tells: at most one frame is not yet durable.
    pub(super) fn flush(&mut self) {
        let log = &mut self.coordinator.log;
        log.flush_at_ms = None;
        let (Some((first, ..)), Some((last, ..))) = (log.queued.first(), log.queued.last()) else {
            return;
        };
        if log.syncing {
            return;
        }
        let (first_lsn, upto) = (first.0, *last);
        let records = log.queued.iter().map(|(_, record, _)| encode_record(record)).collect();
        let frame = Frame {
            number: log.end.last_frame() + 1,
            first_lsn,
            unix_ms: 1_000 * UNIX_SECONDS + self.now_ms,
            previous_crc: log.end.last_crc(),
            records,
        };
        let bytes = frame.encode();
        log.under_way_at = place(&log.end);
        log.end.accept(Some(frame.number), &bytes).expect("the chain's next frame");
        log.under_way = log.queued.drain(..).map(|(_, record, _)| record).collect();
        log.syncing = true;
        self.coordinator.disk.frames.write(bytes);
        let items = self.coordinator.disk.frames.written();
        let frame = FrameNumber(frame.number);
        let delay_ms = self.random.between(0, self.swarm.sync_ms);
        self.coordinator_later(delay_ms, CoordinatorStep::Synced { upto, frame, items });
        if on(Bug::FlushedBeforeSync) {
            self.coordinate(Event::Flushed { upto, frame });
        }
    }

    pub(super) fn log_synced(&mut self, upto: Lsn, frame: FrameNumber, items: usize) {
        let records = std::mem::take(&mut self.coordinator.log.under_way);
        if self.fault(self.swarm.fail_sync) {
            self.trace.line(|| "the log's sync fails".to_owned());
            // The pages are clean now and on no platter: a second sync would succeed and prove
            // nothing.
            if !on(Bug::SyncTriedAgain) {
                return self.kill_coordinator();
            }
        } else {
            self.coordinator.disk.frames.synced(items);
            self.coordinator.disk.removed_unsynced.clear();
            records.iter().for_each(|record| self.fact(&Fact::Durable(record)));
        }
        let log = &mut self.coordinator.log;
        log.syncing = false;
        log.places.push(log.under_way_at);
        let appended = self.coordinator.log.queued.last().map(|(lsn, ..)| *lsn);
        let upto = appended.filter(|_| on(Bug::FlushedTellsTooMuch)).unwrap_or(upto);
        self.flush_soon();
        if !on(Bug::FlushedBeforeSync) {
            self.coordinate(Event::Flushed { upto, frame });
        }
    }

    fn flush_soon(&mut self) {
        let log = &self.coordinator.log;
        if log.syncing || log.queued.is_empty() {
            return;
        }
        let forced = log.queued.iter().any(|(_, _, force)| *force);
        let delay_ms = if forced { self.random.below(2) } else { LAZY_MS };
        let at = self.now_ms + delay_ms;
        if log.flush_at_ms.is_none_or(|earlier| at < earlier) {
            self.coordinator.log.flush_at_ms = Some(at);
            self.coordinator_later(delay_ms, CoordinatorStep::Flush);
        }
    }

    /// The chain is to start at the frame that holds `below`, or at the newest one. What a reader
    /// would find then is judged now: a crash may come at any time.
    pub(super) fn drop_below(&mut self, below: Lsn) {
        let log = &mut self.coordinator.log;
        let needless = log.places.partition_point(|place| place.first_lsn <= below.0);
        let mut first = needless.saturating_sub(1);
        if on(Bug::DropsOneFrameTooMany) {
            first += 1;
        }
        if first == 0 || first >= log.places.len() {
            return;
        }
        log.places.drain(..first);
        let start = log.places[0];
        self.drops += 1;
        self.trace.line(|| format!("the log starts at frame {}", start.number));
        let disk = &mut self.coordinator.disk;
        disk.start = start;
        let retained = disk.read_from(start, disk.frames.durable() as u64);
        self.fact(&Fact::Retained(&retained.recovered));
        let delay_ms = self.random.between(0, self.swarm.sync_ms);
        self.coordinator_later(delay_ms, CoordinatorStep::Started { frame: start.number });
        if on(Bug::RemovesBeforeStart) {
            self.coordinator_later(0, CoordinatorStep::Remove);
        }
    }

    /// The chain's start is durable, unless a later one has been written since.
    pub(super) fn chain_started(&mut self, frame: u64) {
        let disk = &mut self.coordinator.disk;
        if disk.start.number == frame {
            disk.start_durable = disk.start;
            self.remove_slice();
        }
    }

    /// Removes a few frames below the chain's start, oldest first.
    pub(super) fn remove_slice(&mut self) {
        let disk = &mut self.coordinator.disk;
        let start = if on(Bug::RemovesBeforeStart) { disk.start } else { disk.start_durable };
        let count = usize::try_from(self.random.between(1, 4)).unwrap_or(1);
        let slice: Vec<u64> = disk.leftovers(start).take(count).collect();
        for number in &slice {
            disk.set_removed(*number, true);
        }
        disk.removed_unsynced.extend(&slice);
        if !slice.is_empty() {
            let delay_ms = self.random.between(0, 20);
            self.coordinator_later(delay_ms, CoordinatorStep::Remove);
        }
    }
}
