//! A simulated disk of three levels: what a process holds back, the page cache, the platter.
//!
//! Items are appended and synced in order, as a log does. What is not yet appended is the process's
//! own buffer and dies with it. A killed process leaves the page cache; a power loss keeps the
//! platter and of the rest what it likes: any prefix whole, and of what follows any sectors, down
//! to a later item behind one that is lost.

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

    /// The machine lost power. `tear` spoils an item that did not wholly reach the platter.
    pub(super) fn power_lost(
        &mut self,
        random: &mut Random,
        mut tear: impl FnMut(&mut T, &mut Random),
    ) {
        let unsynced = self.items.len() - self.durable;
        let kept = random.below(unsynced as u64 + 1);
        let whole = self.durable + usize::try_from(kept).unwrap_or(0);
        let rest = self.items.len() - whole;
        if rest == 0 || random.chance(500) {
            return self.items.truncate(whole);
        }
        // The file is as long as if they had been written.
        let found = 1 + usize::try_from(random.below(rest as u64)).unwrap_or(0);
        self.items.truncate(whole + found);
        for (at, item) in self.items[whole..].iter_mut().enumerate() {
            if at == 0 || random.chance(500) {
                tear(item, random);
            }
        }
    }

    /// All of them, to be spoilt or mended where they lie.
    pub(super) fn items_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_loss_keeps_the_platter_and_some_of_the_rest() {
        let mut lengths = std::collections::BTreeSet::new();
        let (mut torn, mut behind) = (0, 0);
        for seed in 0..200 {
            let mut disk = Disk::new();
            (0..3).for_each(|item| disk.write(item));
            assert_eq!(disk.synced(1), [0]);
            (3..5).for_each(|item| disk.write(item));
            disk.power_lost(&mut Random::new(seed), |item, _| *item = 99);
            let read = disk.items();
            let whole: Vec<_> = read.iter().copied().take_while(|item| *item != 99).collect();
            torn += usize::from(whole.len() < read.len());
            behind += read[whole.len()..].iter().filter(|item| **item != 99).count();
            assert_eq!(whole, [0, 1, 2, 3, 4][..whole.len()], "seed {seed}");
            lengths.insert(whole.len());
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(torn > 10 && behind > 10, "{torn} torn, {behind} behind them");
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
