//! The frames that a log holds, and how many of them may go at once.

use crate::frame::Frame;
use crate::store::ChainStart;
use std::collections::VecDeque;

/// Frames dropped at once, at most: a record that comes meanwhile waits for the slice.
const SLICE_FRAMES_MAX: usize = 256;
/// Bytes of frames dropped at once, at most (one frame always may): less than a volume, so that a
/// slice removes one or two.
const SLICE_BYTES_MAX: u64 = 1 << 20;

/// What is to be known of a frame to drop it, and to begin the chain at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedFrame {
    start: ChainStart,
    bytes: u64,
}

impl RetainedFrame {
    pub(crate) fn of(frame: &Frame, bytes: usize) -> Self {
        let (number, previous_crc, first_lsn) = (frame.number, frame.previous_crc, frame.first_lsn);
        Self { start: ChainStart { number, previous_crc, first_lsn }, bytes: bytes as u64 }
    }
}

/// The durable frames from the chain's start on.
#[derive(Debug)]
pub(crate) struct Retained {
    frames: VecDeque<RetainedFrame>,
    bytes: u64,
    /// Records below are not needed any more.
    floor_lsn: u64,
    start: ChainStart,
    /// Below the chain's start there are frames that an interrupted slice left.
    remains: bool,
}

impl From<ChainStart> for Retained {
    fn from(start: ChainStart) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, floor_lsn: 0, start, remains: false }
    }
}

impl Retained {
    pub(crate) fn push(&mut self, frame: RetainedFrame) {
        self.bytes += frame.bytes;
        self.frames.push_back(frame);
    }

    pub(crate) fn remains_below(&mut self) {
        self.remains = true;
    }

    /// The same frames in a second store: what remains there goes, too.
    pub(crate) fn join(&mut self, other: &Self) {
        self.remains |= other.remains;
    }

    pub(crate) fn raise_floor(&mut self, lsn: u64) {
        self.floor_lsn = self.floor_lsn.max(lsn);
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The start of the chain after the next slice; `None` if nothing may go. What an interrupted
    /// slice left is a slice of its own, so that two never add up.
    pub(crate) fn slice(&self) -> Option<ChainStart> {
        if self.remains {
            return Some(self.start);
        }
        let mut bytes = 0;
        let mut start = None;
        // A frame may go if the one after it begins at or below the floor: never the newest.
        let pairs = self.frames.iter().zip(self.frames.iter().skip(1));
        for (frame, next) in pairs.take(SLICE_FRAMES_MAX) {
            bytes += frame.bytes;
            if next.start.first_lsn > self.floor_lsn || (start.is_some() && bytes > SLICE_BYTES_MAX)
            {
                break;
            }
            start = Some(next.start);
        }
        start
    }

    /// The slice is done, durably.
    pub(crate) fn dropped(&mut self, start: ChainStart) {
        (self.start, self.remains) = (start, false);
        while let Some(frame) = self.frames.pop_front_if(|frame| frame.start.number < start.number)
        {
            self.bytes -= frame.bytes;
        }
    }
}

#[cfg(test)]
mod tests;
