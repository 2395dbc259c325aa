//! The only source of chance in a schedule.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Chance drawn from a seed: the same seed, the same draws.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// All draws of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number below `end`, 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of a product instead of a remainder: no division, and no visible bias at
        // these sizes.
        let product = u128::from(self.0.next_u64()) * u128::from(end);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True `permille` times in a thousand. Draws nothing for 0, so that a fault that is off costs
    /// nothing.
    pub fn chance(&mut self, permille: u64) -> bool {
        permille > 0 && self.below(1_000) < permille
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).unwrap_or(0)]
    }
}
