//! The hash of each schedule's trace, in the order of seeds: two processes that print the same have
//! simulated the same.

use super::run::simulate;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// (seed, hash) of so many schedules from a seed on.
#[must_use]
pub fn hashes(schedules: u64, seed: u64, threads: usize) -> Vec<(u64, u64)> {
    let next = AtomicU64::new(0);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= schedules {
                        break;
                    }
                    let seed = seed.wrapping_add(offset);
                    let hash = simulate(seed, false).trace_hash;
                    let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    all.push((offset, seed, hash));
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.sort_unstable();
    all.into_iter().map(|(_, seed, hash)| (seed, hash)).collect()
}
