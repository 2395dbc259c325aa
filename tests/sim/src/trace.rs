//! The hash of everything that happened, and its text on demand.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A trace: always its hash, and its lines if they were asked for.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: WordHasher,
    lines: Option<Vec<String>>,
    pub(super) now_ms: u64,
    pub(super) step: u64,
}

impl Trace {
    pub(super) fn new(text: bool) -> Self {
        Self { lines: text.then(Vec::new), ..Self::default() }
    }

    /// Takes what happened into the hash.
    pub(super) fn note(&mut self, what: &impl Hash) {
        what.hash(&mut self.hash);
    }

    /// Adds a line, if somebody wants to read it.
    pub(super) fn line(&mut self, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>6} {:>8} ms  {}", self.step, self.now_ms, text()));
        }
    }

    /// The hash so far, and the lines.
    pub(super) fn finish(self) -> (u64, Vec<String>) {
        (self.hash.finish(), self.lines.unwrap_or_default())
    }
}

/// A hasher for a million schedules a minute: multiply and rotate, a word at a time. The same on
/// every machine, which the standard library's does not promise.
#[derive(Clone, Default)]
struct WordHasher(u64);

impl WordHasher {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl fmt::Debug for WordHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.finish())
    }
}

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        let hash = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    fn write_u8(&mut self, word: u8) {
        self.word(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.word(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.word(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.word(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.word(word as u64);
    }
}
