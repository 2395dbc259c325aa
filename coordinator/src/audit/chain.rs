//! Whether entries follow each other without a gap, each as it was written. Pure.
//!
//! Every entry names the hash of the one before, so whoever changes, removes or moves one has to
//! write all later ones anew. What is cut off at the end leaves no trace in the rest: a head that
//! somebody has noted elsewhere finds it.

use std::fmt;
use std::str::FromStr;
use unanimous_proto::v1;
use unanimous_server::audit_hash;

/// The number and the hash of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(super) number: u64,
    pub(super) hash: [u8; 32],
}

/// Where the chain is broken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Break {
    #[error("entry {number} was changed")]
    Changed { number: u64 },
    /// Its number may be what was changed.
    #[error("the entry after {after}, now number {number}, was changed")]
    ChangedNumber { after: u64, number: u64 },
    #[error("between {after} and {number}: {} missing", entries(.number - .after - 1))]
    Missing { after: u64, number: u64 },
    #[error("entry {number} does not follow {after}")]
    NotFollowing { after: u64, number: u64 },
    #[error("entry {number} is not the one that was noted")]
    NotNoted { number: u64 },
    #[error("after {last}: {} missing, up to the one that was noted", entries(.noted - .last))]
    Cut { last: u64, noted: u64 },
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry is".to_owned() } else { format!("{count} entries are") }
}

/// A chain as far as it was looked at.
#[derive(Debug)]
pub(super) struct Chain {
    last: Head,
    noted: Option<Head>,
}

impl Chain {
    /// Nothing yet; `noted` is an entry that has to be in it.
    pub(super) fn new(noted: Option<Head>) -> Self {
        Self { last: Head { number: 0, hash: [0; 32] }, noted }
    }

    /// The next entry.
    pub(super) fn push(&mut self, entry: &v1::AuditEntry) -> Result<(), Break> {
        let (after, number, hash) = (self.last.number, entry.number, audit_hash(entry));
        let expected = after.saturating_add(1);
        if entry.hash != hash {
            return Err(match number == expected {
                true => Break::Changed { number },
                false => Break::ChangedNumber { after, number },
            });
        }
        if number > expected {
            return Err(Break::Missing { after, number });
        }
        if number < expected || entry.previous != self.last.hash {
            return Err(Break::NotFollowing { after, number });
        }
        if self.noted.is_some_and(|noted| noted.number == number && noted.hash != hash) {
            return Err(Break::NotNoted { number });
        }
        self.last = Head { number, hash };
        Ok(())
    }

    /// The last entry; number 0 of an empty chain.
    pub(super) fn end(&self) -> Result<Head, Break> {
        match self.noted {
            Some(noted) if noted.number > self.last.number => {
                Err(Break::Cut { last: self.last.number, noted: noted.number })
            }
            _ => Ok(self.last),
        }
    }
}

/// As [`Head`] is shown and read back: "17:760ba045..".
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.number)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it has the form NUMBER:HASH, as `audit verify` shows it".to_owned();
        let (number, digits) = text.split_once(':').ok_or_else(wrong)?;
        let number = number.parse().map_err(|_| wrong())?;
        let mut hash = [0; 32];
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self { number, hash })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn linked(mut entries: Vec<v1::AuditEntry>) -> Vec<v1::AuditEntry> {
        let mut previous = vec![0; 32];
        for (number, entry) in (1..).zip(&mut entries) {
            entry.number = number;
            entry.previous = std::mem::take(&mut previous);
            entry.hash = audit_hash(entry).to_vec();
            previous.clone_from(&entry.hash);
        }
        entries
    }

    /// The index of the first entry that does not fit, and why.
    fn broken(entries: &[v1::AuditEntry], noted: Option<Head>) -> Option<(usize, Break)> {
        let mut chain = Chain::new(noted);
        let first = entries.iter().position(|entry| chain.push(entry).is_err());
        match first {
            // The chain stays as it was before: the same entry fails again.
            Some(at) => Some((at, chain.push(&entries[at]).unwrap_err())),
            None => chain.end().err().map(|end| (entries.len(), end)),
        }
    }

    fn entry() -> impl Strategy<Value = v1::AuditEntry> {
        let words = || proptest::string::string_regex("[a-zé\n]{0,6}").unwrap();
        (any::<u64>(), words(), words(), 0..8_i32, words(), words(), words()).prop_map(
            |(at_ms, who, gtrid, kind, plan, reason, evidence)| v1::AuditEntry {
                at_ms,
                who,
                gtrid,
                kind,
                plan,
                reason,
                evidence,
                ..v1::AuditEntry::default()
            },
        )
    }

    fn chain() -> impl Strategy<Value = Vec<v1::AuditEntry>> {
        proptest::collection::vec(entry(), 2..9).prop_map(linked)
    }

    /// One field of the seventeen is another one.
    fn change(entry: &mut v1::AuditEntry, field: u8) {
        let text = |text: &mut String| text.push('x');
        let v1::AuditEntry {
            number,
            at_ms,
            who,
            from,
            kind,
            result,
            gtrid,
            bqual,
            end,
            before,
            after,
            plan,
            reason,
            evidence,
            concerns,
            previous,
            hash,
        } = entry;
        match field {
            0 => *number = number.wrapping_add(1),
            1 => *at_ms = at_ms.wrapping_add(1),
            2 => text(who),
            3 => text(from),
            4 => *kind = kind.wrapping_add(1),
            5 => *result = result.wrapping_sub(1),
            6 => text(gtrid),
            7 => text(bqual),
            8 => *end = end.wrapping_sub(1),
            9 => text(before),
            10 => text(after),
            11 => text(plan),
            12 => text(reason),
            13 => text(evidence),
            14 => *concerns = concerns.wrapping_sub(1),
            15 => previous[31] ^= 1,
            16 => hash[0] ^= 0x80,
            _ => panic!("there is no field {field}"),
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_unbroken_and_ends_with_its_head(entries in chain()) {
            prop_assert_eq!(broken(&entries, None), None);
            for entry in &entries {
                let hash = entry.hash.clone().try_into().unwrap();
                let noted = Head { number: entry.number, hash };
                prop_assert_eq!(broken(&entries, Some(noted)), None);
                prop_assert_eq!(noted.to_string().parse(), Ok(noted));
            }
        }

        #[test]
        fn a_change_of_any_field_is_found_at_its_entry(
            mut entries in chain(),
            at in any::<prop::sample::Index>(),
            field in 0..17_u8,
        ) {
            let at = at.index(entries.len());
            change(&mut entries[at], field);
            let (place, why) = broken(&entries, None).unwrap();
            prop_assert_eq!(place, at);
            let number = at as u64 + 1;
            let expected = match field {
                0 => Break::ChangedNumber { after: number - 1, number: number + 1 },
                _ => Break::Changed { number },
            };
            prop_assert_eq!(why, expected);
        }

        /// By somebody who knows how hashes are made, and does not write the whole rest anew.
        #[test]
        fn a_change_with_a_hash_of_its_own_is_found_at_the_next_entry(
            mut entries in chain(),
            at in any::<prop::sample::Index>(),
            field in 1..15_u8,
        ) {
            let at = at.index(entries.len() - 1);
            change(&mut entries[at], field);
            entries[at].hash = audit_hash(&entries[at]).to_vec();
            let number = at as u64 + 2;
            let why = Break::NotFollowing { after: number - 1, number };
            prop_assert_eq!(broken(&entries, None), Some((at + 1, why)));
        }

        #[test]
        fn z_10_a_removal_but_of_the_end_is_found_at_its_place(
            mut entries in chain(),
            at in any::<prop::sample::Index>(),
            count in 1..4_usize,
        ) {
            let at = at.index(entries.len() - 1);
            let end = (at + count).min(entries.len() - 1);
            entries.drain(at..end);
            let why = Break::Missing { after: at as u64, number: end as u64 + 1 };
            prop_assert_eq!(broken(&entries, None), Some((at, why)));
        }

        #[test]
        fn a_swap_is_found_at_its_first_place(
            mut entries in chain(),
            one in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
        ) {
            let (one, other) = (one.index(entries.len()), other.index(entries.len()));
            prop_assume!(one != other);
            entries.swap(one, other);
            prop_assert_eq!(broken(&entries, None).unwrap().0, one.min(other));
        }

        #[test]
        fn a_repeated_entry_does_not_follow_itself(
            mut entries in chain(),
            at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(entries.len());
            entries.insert(at + 1, entries[at].clone());
            let number = at as u64 + 1;
            let why = Break::NotFollowing { after: number, number };
            prop_assert_eq!(broken(&entries, None), Some((at + 1, why)));
        }

        /// Cut off, or written anew: only what was noted elsewhere tells.
        #[test]
        fn an_end_that_was_noted_is_missed(
            entries in chain(),
            cut in any::<prop::sample::Index>(),
        ) {
            let last = entries.last().unwrap();
            let noted = Head { number: last.number, hash: last.hash.clone().try_into().unwrap() };
            let kept = &entries[..cut.index(entries.len())];
            prop_assert_eq!(broken(kept, None), None);
            let why = Break::Cut { last: kept.len() as u64, noted: noted.number };
            prop_assert_eq!(broken(kept, Some(noted)), Some((kept.len(), why)));
            let mut forged = entries.clone();
            forged[0].reason.push('x');
            let forged = linked(forged);
            prop_assert_eq!(broken(&forged, None), None);
            let why = Break::NotNoted { number: noted.number };
            prop_assert_eq!(broken(&forged, Some(noted)), Some((entries.len() - 1, why)));
        }
    }

    #[test]
    fn the_place_is_told_in_words() {
        let table = [
            (Break::Changed { number: 17 }, "entry 17 was changed"),
            (Break::Missing { after: 16, number: 18 }, "between 16 and 18: 1 entry is missing"),
            (Break::Missing { after: 0, number: 3 }, "between 0 and 3: 2 entries are missing"),
            (Break::NotFollowing { after: 16, number: 17 }, "entry 17 does not follow 16"),
            (Break::NotNoted { number: 17 }, "entry 17 is not the one that was noted"),
            (
                Break::Cut { last: 15, noted: 17 },
                "after 15: 2 entries are missing, up to the one that was noted",
            ),
            (
                Break::ChangedNumber { after: 16, number: 99 },
                "the entry after 16, now number 99, was changed",
            ),
        ];
        for (broken, words) in table {
            assert_eq!(broken.to_string(), words);
        }
    }

    #[test]
    fn a_head_is_read_as_it_is_shown() {
        let digits = "ab".repeat(32);
        assert!(format!("17:{digits}").parse::<Head>().is_ok());
        for bad in ["", "17", "17:", "17:ab", ":ab", &format!("x:{digits}"), &digits] {
            assert!(bad.parse::<Head>().is_err(), "{bad:?}");
        }
        assert!(format!("17:{}", "é".repeat(32)).parse::<Head>().is_err());
    }
}
