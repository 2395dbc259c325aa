//! Bytes of one frame: one group commit, one value in the store.
//!
//! Little endian: magic 4, format version u16, flags u16, number u64, first LSN u64, unix ms u64,
//! crc of the frame before u32, record count u32, payload length u32, payload (each record: length
//! u32, bytes), crc32c u32 over all before it. Every later version keeps magic and version in front
//! and the checksum at the end, so that a newer frame and a damaged one can be told apart.

use unanimous_core::museum::{Bug, on};

/// What every frame starts with.
pub const FRAME_MAGIC: [u8; 4] = *b"UNFR";
/// The version this code writes and the highest it reads.
pub const FRAME_VERSION: u16 = 1;
/// The longest frame. sled writes a leaf (up to 17 values, a few more while it merges) as one item,
/// and an item above a quarter of its segment as a blob file that nobody ever syncs: 21 of these
/// stay below 2 MiB.
pub const FRAME_BYTES_MAX: usize = 96 << 10;
/// The longest record.
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a frame around its payload.
pub const FRAME_OVERHEAD_BYTES: usize = HEADER_BYTES + 4;
/// Bytes in front of each record in the payload.
pub const RECORD_OVERHEAD_BYTES: usize = 4;
const HEADER_BYTES: usize = 44;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short, too long, or without the magic number.
    #[error("the value is not a frame ({0} bytes)")]
    NotAFrame(usize),
    /// Some byte is not what was written.
    #[error("the frame's checksum is {found:08x}, its bytes give {expected:08x}")]
    Checksum {
        /// As stored.
        found: u32,
        /// As computed.
        expected: u32,
    },
    /// Written by a newer version.
    #[error("the frame has format {0}, this version reads up to {FRAME_VERSION}")]
    Newer(u16),
    /// The checksum is right and the lengths inside contradict each other.
    #[error("the frame's lengths contradict each other")]
    Lengths,
}

/// One frame, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 1 without a gap.
    pub number: u64,
    /// The LSN of its first record.
    pub first_lsn: u64,
    /// When it was written, for people.
    pub unix_ms: u64,
    /// The checksum of the frame before.
    pub previous_crc: u32,
    /// The records, at least one in a log that this crate wrote.
    pub records: Vec<Vec<u8>>,
}

impl Frame {
    /// The frame's bytes.
    ///
    /// # Panics
    /// Above 4 GiB; callers keep to [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size = |length: usize| u32::try_from(length).expect("lengths are far below 4 GiB");
        let payload: usize =
            self.records.iter().map(|record| RECORD_OVERHEAD_BYTES + record.len()).sum();
        let mut out = Vec::with_capacity(FRAME_OVERHEAD_BYTES + payload);
        out.extend(FRAME_MAGIC);
        out.extend(FRAME_VERSION.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.first_lsn.to_le_bytes());
        out.extend(self.unix_ms.to_le_bytes());
        out.extend(self.previous_crc.to_le_bytes());
        out.extend(size(self.records.len()).to_le_bytes());
        out.extend(size(payload).to_le_bytes());
        for record in &self.records {
            out.extend(size(record.len()).to_le_bytes());
            out.extend(record);
        }
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads a frame. Allocates a small multiple of the bytes given, whatever they say.
    ///
    /// # Errors
    /// See [`FrameError`]. Never panics on any bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let not_a_frame = FrameError::NotAFrame(bytes.len());
        if bytes.len() < FRAME_OVERHEAD_BYTES || bytes[..4] != FRAME_MAGIC {
            return Err(not_a_frame);
        }
        let (content, stored) = bytes.split_at(bytes.len() - 4);
        let (found, expected) = (u32_at(stored, 0), crc32c::crc32c(content));
        if found != expected && !on(Bug::ChecksumIgnored) {
            return Err(FrameError::Checksum { found, expected });
        }
        let version = u16::from_le_bytes([content[4], content[5]]);
        if version > FRAME_VERSION {
            return Err(FrameError::Newer(version));
        }
        let flags = u16::from_le_bytes([content[6], content[7]]);
        let (count, payload) = (u32_at(content, 36), &content[HEADER_BYTES..]);
        let fits = usize::try_from(count).is_ok_and(|n| n <= payload.len() / RECORD_OVERHEAD_BYTES);
        let length = usize::try_from(u32_at(content, 40));
        if version == 0 || flags != 0 || length != Ok(payload.len()) || !fits {
            return Err(FrameError::Lengths);
        }
        Ok(Self {
            number: u64_at(content, 8),
            first_lsn: u64_at(content, 16),
            unix_ms: u64_at(content, 24),
            previous_crc: u32_at(content, 32),
            records: split_records(payload, count)?,
        })
    }
}

/// The checksum at the end of a frame's bytes, which the next frame carries.
#[must_use]
pub fn frame_crc(bytes: &[u8]) -> u32 {
    bytes.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc))
}

fn split_records(mut payload: &[u8], count: u32) -> Result<Vec<Vec<u8>>, FrameError> {
    let mut records = Vec::new();
    for _ in 0..count {
        let (length, rest) = payload.split_first_chunk().ok_or(FrameError::Lengths)?;
        let length =
            usize::try_from(u32::from_le_bytes(*length)).map_err(|_| FrameError::Lengths)?;
        let (record, rest) = rest.split_at_checked(length).ok_or(FrameError::Lengths)?;
        records.push(record.to_vec());
        payload = rest;
    }
    if payload.is_empty() { Ok(records) } else { Err(FrameError::Lengths) }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> Frame {
        let records = vec![b"one".to_vec(), vec![], vec![7; 40]];
        Frame { number: 9, first_lsn: 70, unix_ms: 1_790_000_000_123, previous_crc: 5, records }
    }

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        bytes
    }

    #[test]
    fn a_frame_has_the_documented_bytes() {
        let small = Frame {
            number: 1,
            first_lsn: 2,
            unix_ms: 3,
            previous_crc: 4,
            records: vec![vec![0xaa]],
        };
        let expected = "554e465201000000010000000000000002000000000000000300000000000000\
                        04000000010000000500000001000000aa";
        let hex: String = small.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[..hex.len() - 8], expected);
        assert_eq!(&hex[hex.len() - 8..], "fe8141cb");
    }

    /// The writer fills a frame up to [`FRAME_BYTES_MAX`] by these numbers.
    #[test]
    fn a_frame_is_as_long_as_reckoned_and_its_checksum_is_that_of_all_before() {
        let none = Frame { records: Vec::new(), ..frame() };
        assert_eq!(none.encode().len(), FRAME_OVERHEAD_BYTES);
        let bytes = frame().encode();
        assert_eq!(bytes.len(), FRAME_OVERHEAD_BYTES + 3 * RECORD_OVERHEAD_BYTES + 43);
        assert_eq!(frame_crc(&bytes), crc32c::crc32c(&bytes[..bytes.len() - 4]));
    }

    #[test]
    fn s_02_every_flipped_byte_is_found() {
        let bytes = frame().encode();
        assert_eq!(Frame::decode(&bytes), Ok(frame()));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(Frame::decode(&flipped).is_err(), "byte {at} bit {bit}");
            }
        }
        for end in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn s_12_a_newer_frame_is_told_from_a_damaged_one() {
        let mut bytes = frame().encode();
        bytes[4] = 2;
        assert!(matches!(Frame::decode(&bytes), Err(FrameError::Checksum { .. })));
        assert_eq!(Frame::decode(&sealed(bytes)), Err(FrameError::Newer(2)));
    }

    #[test]
    fn lengths_that_lie_under_a_right_checksum_are_refused() {
        for (at, value) in
            [(36, 0xff), (36, 2), (40, 1), (43, 0xff), (44, 0), (47, 0x7f), (6, 1), (4, 0)]
        {
            let mut bytes = frame().encode();
            bytes[at] = value;
            assert_eq!(Frame::decode(&sealed(bytes)), Err(FrameError::Lengths), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn frames_read_back(number: u64, first_lsn: u64, unix_ms: u64, previous_crc: u32,
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let frame = Frame { number, first_lsn, unix_ms, previous_crc, records };
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), seal: bool) {
            if seal && bytes.len() >= FRAME_OVERHEAD_BYTES {
                bytes[..4].copy_from_slice(&FRAME_MAGIC);
                bytes[4..8].copy_from_slice(&[1, 0, 0, 0]);
                bytes[37..40].fill(0);
                bytes = sealed(bytes);
            }
            let _ = Frame::decode(&bytes);
        }
    }
}
