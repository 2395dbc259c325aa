//! The check of a store's frames: numbers, checksums, chain, LSNs, and the witness.

use crate::damage::{At, Finding, Found, OpenError, Verdict};
use crate::frame::{Frame, FrameError, frame_crc};
use crate::home::log_dir;
use crate::retained::{Retained, RetainedFrame};
use crate::store::{ChainStart, FrameStore, StoreError};
use crate::volumes;
use crate::witness::Witness;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// The end of a checked chain, where the next frame goes. Says nothing of durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    pub(crate) first: u64,
    pub(crate) next_number: u64,
    pub(crate) last_crc: u32,
    pub(crate) next_lsn: u64,
    pub(crate) records: u64,
}

impl Chain {
    /// A chain without a frame yet: the next one is the first that counts.
    #[must_use]
    pub fn at(start: ChainStart) -> Self {
        Self {
            first: start.number,
            next_number: start.number,
            last_crc: start.previous_crc,
            next_lsn: start.first_lsn,
            records: 0,
        }
    }

    /// The number of the last frame, or the one before the chain's start.
    #[must_use]
    pub fn last_frame(&self) -> u64 {
        self.next_number.saturating_sub(1)
    }

    /// The checksum of that frame, which the next one must carry.
    #[must_use]
    pub fn last_crc(&self) -> u32 {
        self.last_crc
    }

    /// The LSN that the next frame's first record must have.
    #[must_use]
    pub fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    pub(crate) fn frames(&self) -> u64 {
        self.next_number - self.first
    }

    /// Checks that these bytes, stored under this number (`None`: under a key that is no number),
    /// are the chain's next frame, and takes them. Frames below the chain's start are the caller's
    /// to skip.
    ///
    /// # Errors
    /// What is wrong; the chain is as it was.
    pub fn accept(&mut self, number: Option<u64>, bytes: &[u8]) -> Result<Frame, Finding> {
        let expected = self.next_number;
        let finding = |found, detail: String| Finding::new(found, At::Frame(expected), detail);
        let number = number
            .ok_or_else(|| finding(Found::NotAFrame, "a key is not a frame's number".to_owned()))?;
        if number != expected {
            return Err(finding(Found::FrameMissing, format!("the next one is {number}")));
        }
        let frame = Frame::decode(bytes).map_err(|error| {
            let found = match error {
                FrameError::NotAFrame(_) | FrameError::Lengths => Found::NotAFrame,
                FrameError::Checksum { .. } => Found::FrameChecksum,
                FrameError::Newer(_) => Found::FrameNewer,
            };
            finding(found, error.to_string())
        })?;
        if frame.number != expected {
            return Err(finding(
                Found::FrameMissing,
                format!("frame {} in its place", frame.number),
            ));
        }
        if frame.previous_crc != self.last_crc {
            let (is, should) = (frame.previous_crc, self.last_crc);
            return Err(finding(Found::ChainBroken, format!("{is:08x} instead of {should:08x}")));
        }
        if frame.first_lsn != self.next_lsn {
            let (is, should) = (frame.first_lsn, self.next_lsn);
            return Err(finding(Found::LsnBroken, format!("LSN {is} instead of {should}")));
        }
        self.next_number += 1;
        self.last_crc = frame_crc(bytes);
        self.next_lsn += frame.records.len() as u64;
        self.records += frame.records.len() as u64;
        Ok(frame)
    }
}

/// What a check found in order.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) start: ChainStart,
    pub(crate) chain: Chain,
    pub(crate) retained: Retained,
    pub(crate) unwitnessed: u64,
}

/// Reads the chain's start.
pub(crate) fn read_start(dir: &Path, store: &dyn FrameStore) -> Result<ChainStart, OpenError> {
    let stored = store.chain_start().map_err(|error| store_error(dir, error))?;
    let start = stored.as_deref().and_then(ChainStart::decode);
    start.ok_or_else(|| Finding::new(Found::ChainStartBad, At::Directory, "").refuse(dir))
}

/// Checks every frame against its neighbours and the witness; hands each to `take` in order.
pub(crate) fn check(
    dir: &Path,
    store: &dyn FrameStore,
    witness: &Witness,
    mut take: impl FnMut(Frame) -> Result<(), Finding>,
) -> Result<Checked, OpenError> {
    let judge = |finding: Finding| finding.judge(dir, witness.clean);
    let mut last_frame = Vec::new();
    let start = read_start(dir, store)?;
    let mut chain = Chain::at(start);
    let mut retained = Retained::from(start);
    let differs = |chain: &Chain| {
        let detail = format!("{:08x}, witnessed {:08x}", chain.last_crc, witness.frame_crc);
        let at = At::Frame(witness.frame);
        let wrong = chain.last_frame() == witness.frame && chain.last_crc != witness.frame_crc;
        wrong.then(|| Finding::new(Found::WitnessedFrameDiffers, at, detail))
    };
    if let Some(finding) = differs(&chain) {
        judge(finding)?;
    }
    for stored in store.frames() {
        let (number, bytes) = stored.map_err(|error| store_error(dir, error))?;
        let number = number.map(|number| number.0);
        if number.is_some_and(|number| number < start.number) {
            // A crash between storing the start and dropping the frames below it.
            retained.remains_below();
            continue;
        }
        let frame = match chain.accept(number, &bytes) {
            Ok(frame) => frame,
            Err(finding) => {
                judge(finding)?;
                continue;
            }
        };
        retained.push(RetainedFrame::of(&frame, bytes.len()));
        last_frame = bytes;
        if let Some(finding) = differs(&chain) {
            judge(finding)?;
        }
        if let Err(finding) = take(frame) {
            judge(finding)?;
        }
    }
    let (last, at) = (chain.last_frame(), At::Frame(chain.last_frame()));
    let found = match last.cmp(&witness.frame) {
        std::cmp::Ordering::Less => Found::EndsBeforeWitness,
        std::cmp::Ordering::Equal => Found::EndsAtWitness,
        std::cmp::Ordering::Greater => Found::FramesBeyondWitness,
    };
    let mut detail = format!("the log ends at frame {last}, its witness says {}", witness.frame);
    if found == Found::EndsBeforeWitness {
        let (path, offset) = readable_end(&log_dir(dir, witness.generation), &last_frame);
        let (lsn, path) = (chain.next_lsn, path.display());
        detail += &format!("; LSN {lsn} cannot be read, after file {path} offset {offset}");
    }
    let counted = judge(Finding::new(found, at, detail))? == Verdict::Counted;
    let beyond = last.saturating_sub(witness.frame).min(chain.frames());
    Ok(Checked { start, chain, retained, unwitnessed: if counted { beyond } else { 0 } })
}

/// Where in which file the last frame that could be read ends: what is wrong comes after it. For
/// people, so what cannot be read does not matter.
fn readable_end(log: &Path, last_frame: &[u8]) -> (PathBuf, usize) {
    let mut files: Vec<PathBuf> =
        volumes::list(log).unwrap_or_default().into_iter().map(|(_, dir)| dir.join("db")).collect();
    for file in files.iter().rev().filter(|_| !last_frame.is_empty()) {
        let bytes = std::fs::read(file).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut end = None;
        while rest.skip_until(last_frame[0]).is_ok_and(|skipped| skipped > 0) {
            if rest.starts_with(&last_frame[1..]) {
                end = Some(bytes.len() - rest.len() + last_frame.len() - 1);
            }
        }
        if let Some(end) = end {
            return (file.clone(), end);
        }
    }
    files.truncate(1);
    (files.pop().unwrap_or_else(|| log.to_owned()), 0)
}

/// A store's error while a log is opened.
pub(crate) fn store_error(dir: &Path, error: StoreError) -> OpenError {
    let detail = error.to_string();
    let found = match error {
        StoreError::Io { .. } => Found::ReadFailed,
        StoreError::Refused { .. } => Found::StoreRefused,
        StoreError::Panicked { .. } => Found::StorePanicked,
    };
    Finding::new(found, At::File(dir.to_owned(), 0), detail).refuse(dir)
}

#[cfg(test)]
mod tests;
