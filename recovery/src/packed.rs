//! Remembered outcomes in few bytes: they are most of what a log carries on.
//!
//! Ids of one life share their owner, sequences and branch numbers run on, and few resource
//! managers take part: all that is written once, and differences otherwise.

use serde::{Deserialize, Serialize};
use unanimous_core::record::OutcomeRecord;
use unanimous_core::{Bqual, Gtrid, Owner};

/// What stands for outcomes in a record.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// Resource managers, by number below.
    managers: Vec<u32>,
    groups: Vec<Group>,
    /// Those that do not fit: written as they are.
    odd: Vec<OutcomeRecord>,
}

/// Outcomes of one life.
#[derive(Debug, Serialize, Deserialize)]
struct Group {
    owner: Owner,
    kind: u8,
    /// In the order of their sequences.
    outcomes: Vec<PackedOutcome>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PackedOutcome {
    /// Above the one before.
    sequence_step: u64,
    /// Which resource manager, and how far the branch number is above its last one, modulo 2^32.
    branches: Vec<(u32, u32)>,
    /// By their place among the branches.
    unforgotten: Vec<u32>,
}

/// A number for each resource manager, and the last branch number seen of it.
#[derive(Default)]
struct Managers {
    known: Vec<u32>,
    last: Vec<u32>,
}

impl Managers {
    /// The same for packing and unpacking: a step from the manager's last branch number.
    fn step(&mut self, manager: u32, branch: u32) -> (u32, u32) {
        let at = self.known.iter().position(|known| *known == manager).unwrap_or_else(|| {
            self.known.push(manager);
            self.last.push(0);
            self.known.len() - 1
        });
        let step = branch.wrapping_sub(std::mem::replace(&mut self.last[at], branch));
        (u32::try_from(at).unwrap_or(u32::MAX), step)
    }
}

fn branch_number(bqual: &Bqual) -> u32 {
    let bytes = bqual.as_bytes();
    u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// Whether the parts that are kept tell everything.
fn fits(outcome: &OutcomeRecord) -> bool {
    let owner = outcome.gtrid.owner();
    let whole =
        |bqual: &Bqual| *bqual == Bqual::new(bqual.resource_manager(), branch_number(bqual), owner);
    outcome.gtrid == Gtrid::new(owner, outcome.gtrid.sequence(), outcome.gtrid.kind())
        && outcome.branches.iter().all(whole)
        && outcome.unforgotten.iter().all(|bqual| outcome.branches.contains(bqual))
}

impl Packed {
    /// `outcomes` in the order of their ids.
    pub(crate) fn pack(outcomes: &[OutcomeRecord]) -> Self {
        let mut packed = Self::default();
        let mut managers = Managers::default();
        let mut last_sequence = 0;
        for outcome in outcomes {
            if !fits(outcome) {
                packed.odd.push(outcome.clone());
                continue;
            }
            let (owner, kind) = (outcome.gtrid.owner(), outcome.gtrid.kind());
            if packed.groups.last().is_none_or(|last| (last.owner, last.kind) != (owner, kind)) {
                packed.groups.push(Group { owner, kind, outcomes: Vec::new() });
                last_sequence = 0;
            }
            let sequence = outcome.gtrid.sequence();
            let place = |bqual| {
                let at = outcome.branches.iter().position(|branch| branch == bqual);
                at.and_then(|at| u32::try_from(at).ok())
            };
            let one = PackedOutcome {
                sequence_step: sequence.wrapping_sub(last_sequence),
                branches: outcome
                    .branches
                    .iter()
                    .map(|bqual| managers.step(bqual.resource_manager(), branch_number(bqual)))
                    .collect(),
                unforgotten: outcome.unforgotten.iter().filter_map(place).collect(),
            };
            last_sequence = sequence;
            if let Some(group) = packed.groups.last_mut() {
                group.outcomes.push(one);
            }
        }
        packed.managers = managers.known;
        packed
    }

    /// The outcomes in the order of their ids; `None` if a number points to nothing.
    pub(crate) fn unpack(self) -> Option<Vec<OutcomeRecord>> {
        let mut last = vec![0_u32; self.managers.len()];
        let mut outcomes = self.odd;
        for Group { owner, kind, outcomes: packed } in self.groups {
            let mut sequence = 0_u64;
            for one in packed {
                sequence = sequence.wrapping_add(one.sequence_step);
                let mut branches = Vec::with_capacity(one.branches.len());
                for (at, step) in one.branches {
                    let at = usize::try_from(at).ok()?;
                    let last = last.get_mut(at)?;
                    *last = last.wrapping_add(step);
                    branches.push(Bqual::new(self.managers[at], *last, owner));
                }
                let unforgotten = one
                    .unforgotten
                    .into_iter()
                    .map(|at| branches.get(usize::try_from(at).ok()?).copied())
                    .collect::<Option<_>>()?;
                let gtrid = Gtrid::new(owner, sequence, kind);
                outcomes.push(OutcomeRecord { gtrid, branches, unforgotten });
            }
        }
        outcomes.sort_by_key(|outcome| outcome.gtrid);
        Some(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use proptest::prelude::*;
    use unanimous_core::LogId;

    fn owner(number: u32) -> Owner {
        Owner { log: LogId { cluster: 1, slot: 1, incarnation: number }, epoch: 1_790_000_000 }
    }

    fn sorted(mut outcomes: Vec<OutcomeRecord>) -> Vec<OutcomeRecord> {
        outcomes.sort_by_key(|outcome| outcome.gtrid);
        outcomes.dedup_by_key(|outcome| outcome.gtrid);
        outcomes
    }

    #[test]
    fn a_thousand_outcomes_of_two_branches_take_less_than_ten_bytes_each() {
        let branch = |manager, sequence: u32| Bqual::new(manager, 0x9e37_79b9 + sequence, owner(1));
        let outcome = |sequence: u32| OutcomeRecord {
            gtrid: Gtrid::new(owner(1), 5_000_000 + u64::from(sequence), 0),
            branches: vec![branch(0xdead_beef, sequence), branch(0xfeed_face, sequence)],
            unforgotten: Vec::new(),
        };
        let outcomes: Vec<_> = (0..1_000).map(outcome).collect();
        let bytes = codec::encode(&Packed::pack(&outcomes)).unwrap();
        assert!(bytes.len() < 10_000, "{}", bytes.len());
        assert_eq!(codec::decode::<Packed>(&bytes).unwrap().unpack(), Some(outcomes));
    }

    prop_compose! {
        fn any_outcome()(
            owners in (0..3_u32, 0..3_u32),
            sequence in prop_oneof![0..20_u64, any::<u64>()],
            kind in 0..2_u8,
            branches in prop::collection::vec((0..3_u32, any::<u32>(), 0..8_u8), 0..4),
            forgotten in 0..6_usize,
        ) -> OutcomeRecord {
            let bqual = |(manager, branch, odd): (u32, u32, u8)| {
                // Now and then one of another coordinator's, or with flags.
                let owner = owner(if odd == 0 { owners.1 } else { owners.0 });
                let mut bytes = *Bqual::new(manager, branch, owner).as_bytes();
                bytes[23] = u8::from(odd == 1);
                Bqual::from_bytes(&bytes).unwrap()
            };
            let branches: Vec<_> = branches.into_iter().map(bqual).collect();
            let unforgotten = branches.iter().skip(forgotten).copied().collect();
            let gtrid = Gtrid::new(owner(owners.0), sequence, kind);
            OutcomeRecord { gtrid, branches, unforgotten }
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            outcomes in prop::collection::vec(any_outcome(), 0..40)
        ) {
            let outcomes = sorted(outcomes);
            let bytes = codec::encode(&Packed::pack(&outcomes)).unwrap();
            let unpacked = codec::decode::<Packed>(&bytes).unwrap().unpack();
            let distinct = |o: &OutcomeRecord| {
                // A branch named twice is found at its first place.
                let mut seen = o.unforgotten.clone();
                seen.sort();
                (o.gtrid, o.branches.clone(), seen)
            };
            let unpacked: Vec<_> = unpacked.unwrap().iter().map(distinct).collect();
            prop_assert_eq!(unpacked, outcomes.iter().map(distinct).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(packed) = codec::decode::<Packed>(&bytes) {
                let _ = packed.unpack();
            }
        }
    }
}
