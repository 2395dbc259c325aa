//! The one retry rule: capped exponential delay with jitter that is a pure function of its inputs.
//! Two widths of jitter: half of the delay, and the whole of it for many that start at one moment.

/// The delay before try `attempt` (from 0), in milliseconds: between half and the whole of
/// `min(max_ms, min_ms * 2^attempt)`, chosen by (seed, key, attempt).
#[must_use]
pub fn delay_ms(seed: u64, key: &[u8], attempt: u32, min_ms: u64, max_ms: u64) -> u64 {
    let whole = whole_ms(attempt, min_ms, max_ms);
    let half = whole / 2;
    half + mix(seed, key, attempt) % (whole - half + 1)
}

/// As [`delay_ms`], but between 0 and the whole: those who lost something at the same moment come
/// back spread over all of it.
#[must_use]
pub fn spread_ms(seed: u64, key: &[u8], attempt: u32, min_ms: u64, max_ms: u64) -> u64 {
    mix(seed, key, attempt) % (whole_ms(attempt, min_ms, max_ms).saturating_add(1))
}

fn whole_ms(attempt: u32, min_ms: u64, max_ms: u64) -> u64 {
    let doubled = min_ms.saturating_mul(1u64.checked_shl(attempt).unwrap_or(u64::MAX));
    doubled.min(max_ms).max(1)
}

/// FNV-1a over the key, then a finalizer (splitmix64), so that neighbouring keys and attempts
/// spread.
fn mix(seed: u64, key: &[u8], attempt: u32) -> u64 {
    let start =
        seed ^ 0xcbf2_9ce4_8422_2325 ^ u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = key
        .iter()
        .fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_within_half_and_whole() {
        for attempt in 0..100 {
            let whole = 100u64.saturating_mul(1 << attempt.min(20)).min(30_000);
            let delay = delay_ms(7, b"key", attempt, 100, 30_000);
            assert!((whole / 2..=whole).contains(&delay), "attempt {attempt}: {delay} of {whole}");
        }
    }

    #[test]
    fn spread_delays_fill_the_whole_and_no_part_of_it_is_crowded() {
        for (attempt, whole) in [(0, 100), (3, 800), (9, 30_000), (u32::MAX, 30_000)] {
            let mut tenths = [0u32; 10];
            for seed in 0..1_000 {
                let delay = spread_ms(seed, b"key", attempt, 100, 30_000);
                assert!(delay <= whole, "attempt {attempt}: {delay} of {whole}");
                tenths[usize::try_from(delay * 10 / (whole + 1)).unwrap()] += 1;
            }
            assert!(tenths.iter().all(|tenth| (50..200).contains(tenth)), "{tenths:?}");
        }
    }

    #[test]
    fn equal_inputs_give_equal_delays_and_keys_spread() {
        assert_eq!(delay_ms(1, b"a", 3, 100, 9_000), delay_ms(1, b"a", 3, 100, 9_000));
        let distinct: std::collections::BTreeSet<_> =
            (0..100u8).map(|key| delay_ms(1, &[key], 3, 1_000, 90_000)).collect();
        assert!(distinct.len() > 90, "only {} distinct delays", distinct.len());
    }
}
