//! What a power loss leaves of one file.

use super::journal::Overwritten;
use rand::{Rng, RngExt};
use std::collections::BTreeMap;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// How much of what was not synced survives: nothing, everything, or each sector and size with
/// this chance. One draw for each file and loss, so that the extremes occur.
pub(super) fn draw_survival(rng: &mut impl Rng) -> f64 {
    [0.0, 0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..6)]
}

/// What became of the sectors that were written and not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// They stand as they were written last.
    pub sectors_kept: u64,
    /// They stand as they were at some time before, or are zero.
    pub sectors_lost: u64,
    /// Files that are longer or shorter than their process last saw them.
    pub sizes_undone: u64,
    /// Changes of names that did not happen.
    pub names_undone: u64,
}

/// A file whose last content is `last`, after a power loss: `pending` is what has been overwritten
/// since it was synced, oldest first. Each sector is as it was after one of the writes or before
/// all of them, and so is the size, whatever became of the others.
pub(super) fn settle(
    last: Vec<u8>,
    pending: &[Overwritten],
    survival: f64,
    rng: &mut impl Rng,
    lost: &mut Lost,
) -> Vec<u8> {
    let size = last.len();
    let mut bytes = last;
    let longest = pending.iter().map(|o| o.old_size.max(o.at + o.length)).max().unwrap_or(0);
    bytes.resize(longest.max(size).next_multiple_of(SECTOR_BYTES), 0);
    // Newest first. What stands when all is undone is the oldest of each.
    let mut versions = BTreeMap::<usize, Vec<Sector>>::new();
    let mut sizes = vec![size];
    for overwritten in pending.iter().rev() {
        let Overwritten { old_size, at, length, old } = overwritten;
        for sector in at / SECTOR_BYTES..(at + length).div_ceil(SECTOR_BYTES) {
            versions.entry(sector).or_default().push(sector_of(&bytes, sector));
        }
        bytes[*at..at + length].fill(0);
        bytes[*at..at + old.len()].copy_from_slice(old);
        sizes.push(*old_size);
    }
    for (sector, mut versions) in versions {
        versions.push(sector_of(&bytes, sector));
        let (newest, changed) = (versions[0], versions.iter().any(|v| *v != versions[0]));
        let chosen = versions[choose(versions.len(), survival, rng)];
        bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(&chosen);
        if changed {
            let count =
                if chosen == newest { &mut lost.sectors_kept } else { &mut lost.sectors_lost };
            *count += 1;
        }
    }
    let chosen = sizes[choose(sizes.len(), survival, rng)];
    lost.sizes_undone += u64::from(chosen != size);
    bytes.truncate(chosen);
    bytes
}

/// The newest, 0, with the chance `survival`; otherwise one of the older ones.
pub(super) fn choose(versions: usize, survival: f64, rng: &mut impl Rng) -> usize {
    if versions < 2 || rng.random_bool(survival) { 0 } else { rng.random_range(1..versions) }
}

fn sector_of(bytes: &[u8], sector: usize) -> Sector {
    bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES].try_into().unwrap_or([0; SECTOR_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    /// Applies writes to a file that is durable, and notes them as the shim does.
    fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) -> Overwritten {
        let old_size = file.len();
        let old = file.get(at..(at + bytes.len()).min(old_size)).unwrap_or_default().to_vec();
        file.resize(old_size.max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Overwritten { old_size, at, length: bytes.len(), old }
    }

    fn settled(survival: f64, seed: u64, last: &[u8], pending: &[Overwritten]) -> Vec<u8> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        settle(last.to_vec(), pending, survival, &mut rng, &mut Lost::default())
    }

    #[test]
    fn nothing_or_everything_survives() {
        let durable = vec![1; 700];
        let mut file = durable.clone();
        let first = write(&mut file, 600, &[2; 900]);
        let second = write(&mut file, 0, &[3; 10]);
        let pending = [first, second];
        assert_eq!(settled(1.0, 1, &file, &pending), file);
        let oldest = (0..200).filter(|seed| settled(0.0, *seed, &file, &pending) == durable);
        assert!(oldest.count() > 0);
    }

    #[test]
    fn each_sector_is_of_one_moment_and_any_of_them_occurs() {
        let mut file = vec![1; 2 * SECTOR_BYTES];
        let pending =
            [write(&mut file, 0, &[2; 2 * SECTOR_BYTES]), write(&mut file, 0, &[3; SECTOR_BYTES])];
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let left = settled(0.4, seed, &file, &pending);
            let (head, tail) = left.split_at(SECTOR_BYTES);
            assert!(head.iter().all(|byte| *byte == head[0]), "a sector is torn");
            assert!(tail.iter().all(|byte| *byte == tail[0]), "a sector is torn");
            seen.insert((head[0], tail[0]));
        }
        let all: BTreeSet<_> = [1, 2, 3].into_iter().flat_map(|a| [(a, 1), (a, 2)]).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_cut_may_be_undone_with_what_was_cut_off() {
        let durable: Vec<u8> = (0..100).collect();
        let cut = Overwritten { old_size: 100, at: 40, length: 60, old: durable[40..].to_vec() };
        let left: BTreeSet<_> = (0..50)
            .map(|seed| settled(0.5, seed, &durable[..40], std::slice::from_ref(&cut)))
            .collect();
        assert!(left.contains(&durable[..40]) && left.contains(&durable[..]));
    }
}
