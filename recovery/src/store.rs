//! What the log needs of a store, and how durable each call is.

use crate::frame::{u32_at, u64_at};
use unanimous_core::FrameNumber;

/// Why a store did not do what it was asked. After any of these the store must not be written
/// again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        error: String,
    },
    /// The store says that its files are damaged.
    #[error("{doing}: {error}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The store's words.
        error: String,
    },
    /// The store panicked.
    #[error("{doing}: the store panicked: {message}")]
    Panicked {
        /// What was being done.
        doing: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// Where the chain of frames begins: frames below `number` were dropped or never were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainStart {
    /// The first frame that counts.
    pub number: u64,
    /// What that frame must carry as the checksum of the frame before. A new log draws it at
    /// random.
    pub previous_crc: u32,
    /// The LSN of that frame's first record.
    pub first_lsn: u64,
}

const START_MAGIC: [u8; 4] = *b"UNCS";
const START_BYTES: usize = 28;

impl ChainStart {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = START_MAGIC.to_vec();
        out.extend(self.number.to_le_bytes());
        out.extend(self.previous_crc.to_le_bytes());
        out.extend(self.first_lsn.to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let right = bytes.len() == START_BYTES
            && bytes[..4] == START_MAGIC
            && u32_at(bytes, 24) == crc32c::crc32c(&bytes[..24]);
        right.then(|| Self {
            number: u64_at(bytes, 4),
            previous_crc: u32_at(bytes, 12),
            first_lsn: u64_at(bytes, 16),
        })
    }
}

/// A frame as it comes out of a store: key, or `None` for a key that is no frame number, and value.
pub type StoredFrame = (Option<FrameNumber>, Vec<u8>);

/// All of them, in the order of their keys.
pub type StoredFrames<'a> = Box<dyn Iterator<Item = Result<StoredFrame, StoreError>> + 'a>;

/// An ordered set of frames with the place where its chain begins. One thread owns it and makes
/// every call.
pub trait FrameStore: Send {
    /// Adds a frame. On `Ok` it is durable: it survives the loss of power. On `Err` it may or may
    /// not be there.
    ///
    /// # Errors
    /// Nothing may be written to the store after an error.
    fn append(&mut self, number: FrameNumber, frame: &[u8]) -> Result<(), StoreError>;

    /// All frames in the order of their numbers. What is read need not be durable yet.
    fn frames(&self) -> StoredFrames<'_>;

    /// The bytes of the chain's start; `None` if the store has none. What is read need not be
    /// durable yet.
    ///
    /// # Errors
    /// The store cannot be read.
    fn chain_start(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Drops the frames below `start.number` and stores `start`. `start` is durable before the
    /// first frame goes, the drops are durable on `Ok`; a crash between leaves frames below the
    /// start, which a reader skips.
    ///
    /// # Errors
    /// Nothing may be written to the store after an error.
    fn drop_below(&mut self, start: ChainStart) -> Result<(), StoreError>;

    /// Bytes that the store occupies on disk. Cheap enough for every frame.
    fn bytes_on_disk(&self) -> u64;

    /// Ends the store. On `Ok` everything is durable and its files change no more.
    ///
    /// # Errors
    /// Its last writes failed.
    fn close(self: Box<Self>) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain that begins at the wrong place is a log with decisions lost.
    #[test]
    fn a_chains_start_is_read_only_if_all_of_it_is_right() {
        let start = ChainStart { number: 3, previous_crc: 4, first_lsn: 5 };
        let right = start.encode();
        assert_eq!(ChainStart::decode(&right), Some(start));
        let sealed = |mut bytes: Vec<u8>| {
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            bytes
        };
        let magic = sealed([b"UNCX", &right[4..24]].concat());
        let checksum = [&right[..27], &[right[27] ^ 1]].concat();
        let longer = [&right[..], &[0]].concat();
        let shorter = sealed(right[..20].to_vec());
        for wrong in [magic, checksum, longer, shorter, Vec::new()] {
            assert_eq!(ChainStart::decode(&wrong), None, "{wrong:?}");
        }
        for at in 0..right.len() {
            let mut flipped = right.clone();
            flipped[at] ^= 1;
            assert_eq!(ChainStart::decode(&flipped), None, "byte {at}");
        }
    }
}
