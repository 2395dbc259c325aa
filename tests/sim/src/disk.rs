//! A simulated disk of three levels: what a process holds back, the page cache, the platter.
//!
//! Items are appended and synced in order, as a log does. What is not yet appended is the process's
//! own buffer and dies with it. A killed process leaves the page cache; a power loss keeps the
//! platter and any prefix of the rest.

use super::random::Random;

/// One append-only file of items.
#[derive(Clone, Debug)]
pub(super) struct Disk<T> {
    items: Vec<T>,
    /// How many of them are on the platter.
    durable: usize,
}

impl<T> Disk<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), durable: 0 }
    }

    /// Into the page cache: readable, not durable.
    pub(super) fn write(&mut self, item: T) {
        self.items.push(item);
    }

    /// How many items a sync that starts now covers.
    pub(super) fn written(&self) -> usize {
        self.items.len()
    }

    /// How many items are on the platter.
    pub(super) fn durable(&self) -> usize {
        self.durable
    }

    /// A sync has returned. Hands out what it has made durable.
    pub(super) fn synced(&mut self, upto: usize) -> &[T] {
        let before = self.durable;
        self.durable = before.max(upto.min(self.items.len()));
        &self.items[before..self.durable]
    }

    /// What a reader sees.
    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// The end of what a reader sees turns out to be no item.
    pub(super) fn cut(&mut self, items: usize) {
        self.items.truncate(items.max(self.durable));
    }

    /// The process was killed: what it was about to write may or may not have reached the page
    /// cache.
    pub(super) fn killed(&mut self, random: &mut Random) {
        if self.items.len() > self.durable && random.chance(500) {
            self.items.truncate(self.items.len() - 1);
        }
    }

    /// The machine lost power. `tear` spoils the first item that did not wholly reach the platter,
    /// if it is read.
    pub(super) fn power_lost(
        &mut self,
        random: &mut Random,
        tear: impl FnOnce(&mut T, &mut Random),
    ) {
        let unsynced = self.items.len() - self.durable;
        let kept = random.below(unsynced as u64 + 1);
        let whole = self.durable + usize::try_from(kept).unwrap_or(0);
        let torn = whole < self.items.len() && random.chance(300);
        self.items.truncate(whole + usize::from(torn));
        if torn && let Some(item) = self.items.last_mut() {
            tear(item, random);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_loss_keeps_the_platter_and_a_prefix_of_the_rest() {
        let mut lengths = std::collections::BTreeSet::new();
        let mut torn = 0;
        for seed in 0..200 {
            let mut disk = Disk::new();
            (0..3).for_each(|item| disk.write(item));
            assert_eq!(disk.synced(1), [0]);
            (3..5).for_each(|item| disk.write(item));
            disk.power_lost(&mut Random::new(seed), |item, _| *item = 99);
            let whole: Vec<_> = disk.items().iter().copied().filter(|item| *item != 99).collect();
            torn += disk.items().len() - whole.len();
            assert_eq!(whole, [0, 1, 2, 3, 4][..whole.len()], "seed {seed}");
            lengths.insert(whole.len());
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(torn > 10);
    }

    #[test]
    fn a_kill_keeps_all_but_perhaps_the_item_under_way() {
        let lengths: std::collections::BTreeSet<usize> = (0..50)
            .map(|seed| {
                let mut disk = Disk::new();
                (0..3).for_each(|item| disk.write(item));
                disk.killed(&mut Random::new(seed));
                disk.items().len()
            })
            .collect();
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3]);
    }
}
