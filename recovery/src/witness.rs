//! The highest frame known to be durable, kept beside the log: the file `witness`.
//!
//! Two slots of 4096 bytes each (no disk tears both with one write), written in turn and synced;
//! the valid one with the highest sequence counts. It also names the generation that is the log, so
//! that writing it is the commit point of an open. Little endian: magic 8, format version u16,
//! clean u8, alone u8, sequence u64, cluster u32, slot u16, incarnation u32, generation u64, frame
//! number u64, frame crc u32, zeros, crc32c u32 at the end of the slot.

use crate::damage::{At, Finding, Found, OpenError};
use crate::frame::{u32_at, u64_at};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use unanimous_core::LogId;

pub(crate) const FILE: &str = "witness";
const MAGIC: [u8; 8] = *b"UNWITNS\n";
const VERSION: u16 = 1;
const SLOT_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) sequence: u64,
    pub(crate) id: LogId,
    pub(crate) generation: u64,
    pub(crate) frame: u64,
    pub(crate) frame_crc: u32,
    pub(crate) clean: bool,
    /// Of a pair: the other directory was given up, whatever its frames say.
    pub(crate) alone: bool,
}

enum Slot {
    Valid(Witness),
    Newer(u16),
    Bad,
}

impl Witness {
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend([u8::from(self.clean), u8::from(self.alone)]);
        out.extend(self.sequence.to_le_bytes());
        out.extend(self.id.cluster.to_le_bytes());
        out.extend(self.id.slot.to_le_bytes());
        out.extend(self.id.incarnation.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.frame.to_le_bytes());
        out.extend(self.frame_crc.to_le_bytes());
        out.resize(SLOT_BYTES - 4, 0);
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Slot {
        let (content, stored) = bytes.split_at(SLOT_BYTES - 4);
        if !content.starts_with(&MAGIC) || crc32c::crc32c(content) != u32_at(stored, 0) {
            return Slot::Bad;
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Slot::Newer(version);
        }
        Slot::Valid(Self {
            clean: bytes[10] == 1,
            alone: bytes[11] == 1,
            sequence: u64_at(bytes, 12),
            id: LogId {
                cluster: u32_at(bytes, 20),
                slot: u16::from_le_bytes([bytes[24], bytes[25]]),
                incarnation: u32_at(bytes, 26),
            },
            generation: u64_at(bytes, 30),
            frame: u64_at(bytes, 38),
            frame_crc: u32_at(bytes, 46),
        })
    }

    /// Reads the file: the valid slot with the highest sequence.
    pub(crate) fn read(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let finding = |found, detail: String| {
            Finding::new(found, At::File(path.clone(), 0), detail).refuse(dir)
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(finding(Found::WitnessMissing, String::new()));
            }
            opened => opened.map_err(OpenError::io("reading", &path))?,
        };
        let mut best: Option<Self> = None;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
                read => read.map_err(OpenError::io("reading", &path))?,
            }
            match Self::decode(&bytes) {
                Slot::Valid(witness) if best.is_none_or(|b| b.sequence < witness.sequence) => {
                    best = Some(witness);
                }
                Slot::Newer(version) => {
                    let detail =
                        format!("it has version {version}, this program reads up to {VERSION}");
                    return Err(finding(Found::WitnessNewer, detail));
                }
                Slot::Valid(_) | Slot::Bad => {}
            }
        }
        best.ok_or_else(|| finding(Found::WitnessBad, String::new()))
    }
}

/// The open file. After an error it must not be written again.
pub(crate) struct WitnessFile {
    file: File,
    last: Witness,
}

impl WitnessFile {
    /// Opens the file (made if `create`) to continue after `last`.
    pub(crate) fn open(dir: &Path, last: Witness, create: bool) -> io::Result<Self> {
        let file =
            File::options().write(true).create(create).truncate(false).open(dir.join(FILE))?;
        Ok(Self { file, last })
    }

    pub(crate) fn last(&self) -> &Witness {
        &self.last
    }

    /// Writes the slot whose turn it is; durable on `Ok`, and until then the other slot stands.
    pub(crate) fn write(&mut self, next: Witness) -> io::Result<()> {
        let next = Witness { sequence: self.last.sequence + 1, ..next };
        let slot = next.sequence % 2;
        self.file.write_all_at(&next.encode(), slot * SLOT_BYTES as u64)?;
        self.file.sync_data()?;
        self.last = next;
        Ok(())
    }

    /// Writes both slots, one after the other; durable on `Ok`. After the first, a crash already
    /// finds `next`.
    pub(crate) fn write_both(&mut self, next: Witness, between: impl FnOnce()) -> io::Result<()> {
        self.write(next)?;
        between();
        self.write(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = LogId { cluster: 1, slot: 2, incarnation: 3 };

    fn witness(frame: u64) -> Witness {
        let (frame_crc, clean, alone) = (5, false, true);
        Witness { sequence: 0, id: ID, generation: 4, frame, frame_crc, clean, alone }
    }

    #[test]
    fn the_highest_valid_slot_counts_and_every_flip_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = WitnessFile::open(dir.path(), witness(0), true).unwrap();
        for frame in 1..=3 {
            file.write(witness(frame)).unwrap();
        }
        assert_eq!(Witness::read(dir.path()), Ok(Witness { sequence: 3, ..witness(3) }));
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        assert_eq!(whole.len(), 2 * SLOT_BYTES);
        for at in (0..whole.len()).filter(|at| at % SLOT_BYTES < 60 || at % 97 == 0) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(dir.path().join(FILE), flipped).unwrap();
            let frame = if at < SLOT_BYTES { 3 } else { 2 };
            assert_eq!(Witness::read(dir.path()).unwrap().frame, frame, "byte {at}");
        }
    }

    /// Missing is damage, which the other directory of a pair mends; what the disk refuses is not.
    #[test]
    fn a_witness_that_is_missing_and_one_that_cannot_be_read_are_told_apart() {
        use crate::damage::ErrorClass;
        let dir = tempfile::tempdir().unwrap();
        let missing = Witness::read(dir.path()).unwrap_err();
        assert_eq!(missing.found(), Some(Found::WitnessMissing), "{missing}");
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        let unreadable = Witness::read(dir.path()).unwrap_err();
        assert_eq!(unreadable.class(), ErrorClass::Io, "{unreadable}");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let unreachable = Witness::read(&file).unwrap_err();
        assert_eq!(unreachable.class(), ErrorClass::Io, "{unreachable}");
    }

    /// A kill while the file is made leaves its first slot.
    #[test]
    fn a_file_with_one_slot_is_read_and_of_two_alike_the_first_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let first = Witness { sequence: 2, ..witness(7) };
        let bytes = first.encode();
        for length in [SLOT_BYTES, SLOT_BYTES + 1, 2 * SLOT_BYTES - 1] {
            let cut = [&bytes[..], &bytes].concat()[..length].to_vec();
            std::fs::write(&path, cut).unwrap();
            assert_eq!(Witness::read(dir.path()), Ok(first), "{length} bytes");
        }
        std::fs::write(&path, &bytes[..SLOT_BYTES - 1]).unwrap();
        let bad = Witness::read(dir.path()).unwrap_err();
        assert_eq!(bad.found(), Some(Found::WitnessBad), "{bad}");
        let second = Witness { frame: 8, ..first };
        std::fs::write(&path, [bytes, second.encode()].concat()).unwrap();
        assert_eq!(Witness::read(dir.path()), Ok(first));
    }
}
