//! What will happen, in order of simulated time. Equal times keep the order in which they were
//! asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of timed happenings.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// (time and nonce, slot): small keys keep the heap's moves cheap.
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    nonce: u32,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::with_capacity(64),
            slots: Vec::with_capacity(64),
            free: Vec::with_capacity(64),
            nonce: 0,
        }
    }

    pub(super) fn push(&mut self, at: u64, happening: T) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 things happen")
            }
        };
        self.slots[slot as usize] = Some(happening);
        self.heap.push(Reverse((at, self.nonce, slot)));
        self.nonce += 1;
    }

    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot as usize].take().map(|happening| (at, happening))
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    #[test]
    fn equal_times_keep_their_order_and_slots_are_used_again() {
        let mut queue = Queue::new();
        for (at, what) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b')] {
            queue.push(at, what);
        }
        assert_eq!(queue.next_at(), Some(3));
        assert_eq!(queue.pop(), Some((3, 'a')));
        queue.push(5, 'e');
        let rest: String = std::iter::from_fn(|| queue.pop().map(|(_, what)| what)).collect();
        assert_eq!(rest, "bcde");
        assert_eq!(queue.slots.len(), 4);
    }
}
