//! The records of a store, for the fuzzing targets.

use super::compaction::Snapshot;
use super::fold::Fold;
use super::record::Record;
use super::state::State;
use unanimous_core::Lsn;
use unanimous_recovery::codec::{decode, encode};

/// More balances than these are not carried: they would be carried like the others.
const BALANCES_MAX: usize = 1_000;
/// Small, so that there are many pieces.
const PIECE_BYTES: usize = 100;

/// The records of a store, each behind a byte with its length. Whether a store could hold them.
///
/// # Panics
/// If a record is another one when it is written again, or a snapshot of what they mean means
/// something else.
#[must_use]
pub fn accounts(bytes: &[u8]) -> bool {
    let (mut rest, mut next, mut fold) = (bytes, Lsn(1), Fold::default());
    while let Some((length, behind)) = rest.split_first() {
        let Some((bytes, behind)) = behind.split_at_checked(usize::from(*length)) else {
            return false;
        };
        let Ok(record) = decode::<Record>(bytes) else { return false };
        let written = encode(&record).expect("every record has bytes");
        assert!(written.len() <= bytes.len(), "{record:?} is written longer than it was");
        assert_eq!(decode(&written).as_ref(), Ok(&record), "a record is another one");
        if fold.take(next, &record).is_err() {
            return false;
        }
        (rest, next) = (behind, Lsn(next.0 + 1));
    }
    fold.finish().is_ok_and(|(state, _)| {
        if state.balances.len() <= BALANCES_MAX {
            assert_eq!(carried(&state, next), state, "a snapshot of something else");
        }
        next > Lsn(1)
    })
}

/// What is read from a log that holds nothing but a snapshot of this.
fn carried(state: &State, begun: Lsn) -> State {
    let (mut snapshot, mut fold) = (Snapshot::new(begun, PIECE_BYTES), Fold::default());
    let mut next = begun;
    while !snapshot.is_over() {
        let Some(record) = snapshot.step(state) else { continue };
        fold.take(next, &record).expect("a snapshot contradicts itself");
        next = Lsn(next.0 + 1);
    }
    fold.finish().expect("a snapshot is not whole").0
}
