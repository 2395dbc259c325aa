//! How long things took.

use std::time::Duration;

/// The durations of one stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Window {
    micros: Vec<u64>,
}

impl Window {
    /// Takes one.
    pub fn add(&mut self, took: Duration) {
        self.micros.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Takes all of another.
    pub fn merge(&mut self, other: &Self) {
        self.micros.extend_from_slice(&other.micros);
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// None yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.micros.is_empty()
    }

    /// The duration that this share of them (0 to 1) did not exceed, in milliseconds; 0 if there
    /// are none.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        #[allow(clippy::cast_possible_truncation, reason = "an index, below the length")]
        let at = ((sorted.len() as f64 * share).ceil() as usize).max(1) - 1;
        sorted.get(at).map_or(0.0, |micros| *micros as f64 / 1_000.0)
    }
}

/// The middle one; 0 if there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut window = Window::default();
        assert_eq!(window.quantile_ms(0.5), 0.0);
        for ms in (1..=100).rev() {
            window.add(Duration::from_millis(ms));
        }
        let found = [0.0, 0.5, 0.99, 1.0].map(|share| window.quantile_ms(share));
        assert_eq!(found, [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
