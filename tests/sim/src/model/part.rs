//! A part of a state that many states share.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Shared until it is edited, with its hash computed once: two states that differ in one part share
/// the others, and a state's hash costs a few words.
#[derive(Clone, Debug)]
pub(super) struct Part<T> {
    /// `None` while it is being edited.
    hash: Option<u64>,
    value: Arc<T>,
}

impl<T: Clone + Hash> Part<T> {
    pub(super) fn new(value: T) -> Self {
        let mut part = Self { hash: None, value: Arc::new(value) };
        part.seal();
        part
    }

    /// A copy of its own to change. [`Part::seal`] must follow.
    pub(super) fn edit(&mut self) -> &mut T {
        self.hash = None;
        Arc::make_mut(&mut self.value)
    }

    pub(super) fn seal(&mut self) {
        if self.hash.is_none() {
            let mut hasher = DefaultHasher::new();
            self.value.hash(&mut hasher);
            self.hash = Some(hasher.finish());
        }
    }

    /// For an order that depends on nothing but the value.
    pub(super) fn key(&self) -> Option<u64> {
        debug_assert!(self.hash.is_some(), "sealed before it is compared");
        self.hash
    }
}

impl<T> std::ops::Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        debug_assert!(self.hash.is_some(), "sealed before it is compared");
        self.hash.hash(state);
    }
}

impl<T: PartialEq> PartialEq for Part<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.value == other.value
    }
}

impl<T: Eq> Eq for Part<T> {}
