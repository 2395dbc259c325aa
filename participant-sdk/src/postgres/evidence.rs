//! What a vote carries so that "no such branch" can be judged later (section 4 of the contract).

use std::fmt;
use std::str::FromStr;
use unanimous_core::Evidence;

/// What the evidence in a vote is called.
const KIND: &str = "postgresql";

/// A transaction of a cluster: xids of another cluster, or of another timeline of the same, name
/// other transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Xact {
    pub(super) system: u64,
    pub(super) timeline: u32,
    /// With its epoch: never used again.
    pub(super) xid: u64,
}

/// What the server can prove about a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Committed,
    RolledBack,
    /// It is being finished just now.
    Running,
    /// Nothing: too old, in the future, or of another cluster or timeline.
    Nothing,
}

impl Xact {
    pub(super) fn evidence(self) -> Evidence {
        let mut data = Vec::with_capacity(20);
        data.extend(self.system.to_be_bytes());
        data.extend(self.timeline.to_be_bytes());
        data.extend(self.xid.to_be_bytes());
        Evidence { kind: KIND.to_owned(), data }
    }

    /// `None`: not of this kind.
    pub(super) fn of(evidence: &Evidence) -> Option<Self> {
        let (system, rest) = evidence.data.split_first_chunk()?;
        let (timeline, rest) = rest.split_first_chunk()?;
        let xid = rest.try_into().ok()?;
        (evidence.kind == KIND).then_some(Self {
            system: u64::from_be_bytes(*system),
            timeline: u32::from_be_bytes(*timeline),
            xid: u64::from_be_bytes(xid),
        })
    }

    /// What the status proves that a server at this place in history has given; `None`: it has
    /// none.
    pub(super) fn proof(self, system: u64, timeline: u32, status: Option<&str>) -> Proof {
        if (system, timeline) != (self.system, self.timeline) {
            return Proof::Nothing;
        }
        match status {
            Some("committed") => Proof::Committed,
            Some("aborted") => Proof::RolledBack,
            Some("in progress") => Proof::Running,
            Some(_) | None => Proof::Nothing,
        }
    }
}

/// As a record has it.
impl fmt::Display for Xact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.system, self.timeline, self.xid)
    }
}

impl FromStr for Xact {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut part = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or(());
        let (system, timeline, xid) = (part()?, part()?, part()?);
        let timeline = u32::try_from(timeline).map_err(|_| ())?;
        let xact = Self { system, timeline, xid };
        if xact.to_string() == text { Ok(xact) } else { Err(()) }
    }
}

/// The timeline in a WAL file's name: its first eight digits, hexadecimal. The control file still
/// has the old one right after a promotion.
pub(super) fn timeline_of(wal_file: &str) -> Option<u32> {
    u32::from_str_radix(wal_file.get(..8)?, 16).ok()
}

/// The whole id of a transaction that is not finished: its low half, and an id of about the same
/// time. No two that are in use are further apart than half of what the low half can count.
pub(super) fn widened(low: u32, near: u64) -> u64 {
    let low_near = u32::try_from(near & 0xFFFF_FFFF).unwrap_or(u32::MAX);
    let apart = low.wrapping_sub(low_near).cast_signed();
    near.saturating_add_signed(i64::from(apart))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XACT: Xact = Xact { system: 0x0102_0304_0506_0708, timeline: 9, xid: 0xA_0000_000B };

    #[test]
    fn evidence_is_read_as_it_was_written_and_nothing_else_is() {
        let evidence = XACT.evidence();
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 0, 11];
        assert_eq!((evidence.kind.as_str(), &evidence.data[..]), ("postgresql", &bytes[..]));
        assert_eq!(Xact::of(&evidence), Some(XACT));
        for data in [&bytes[..19], &[&bytes[..], &[0]].concat(), &[]] {
            let evidence = Evidence { kind: KIND.to_owned(), data: data.to_vec() };
            assert_eq!(Xact::of(&evidence), None, "{data:?}");
        }
        assert_eq!(Xact::of(&Evidence { kind: "embedded".to_owned(), ..evidence }), None);
    }

    #[test]
    fn the_transaction_in_a_record_is_read_as_it_was_written_and_nothing_else_is() {
        let text = "72623859790382856.9.42949672971";
        assert_eq!((XACT.to_string().as_str(), text.parse()), (text, Ok(XACT)));
        for text in ["", "1.2", "1.2.3.4", "1.4294967296.3", "+1.2.3", "01.2.3", "1.2.x", "1,2,3"] {
            assert_eq!(text.parse::<Xact>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_status_proves_something_on_the_same_timeline_of_the_same_cluster_only() {
        let (system, timeline) = (XACT.system, XACT.timeline);
        for (status, expected) in [
            (Some("committed"), Proof::Committed),
            (Some("aborted"), Proof::RolledBack),
            (Some("in progress"), Proof::Running),
            (Some("something new"), Proof::Nothing),
            (None, Proof::Nothing),
        ] {
            assert_eq!(XACT.proof(system, timeline, status), expected);
            assert_eq!(XACT.proof(system, timeline + 1, status), Proof::Nothing);
            assert_eq!(XACT.proof(system + 1, timeline, status), Proof::Nothing);
        }
    }

    #[test]
    fn a_timeline_is_read_from_a_wal_file_and_an_xid_gets_its_epoch() {
        assert_eq!(timeline_of("0000000A00000002000000C4"), Some(10));
        assert_eq!((timeline_of("0000"), timeline_of("zzzzzzzz0")), (None, None));
        for (low, near, expected) in [
            (7, 8, 7),
            (8, 8, 8),
            (9, 8, 9),
            (7, 0x1_0000_0008, 0x1_0000_0007),
            (9, 0x1_0000_0008, 0x1_0000_0009),
            (0xFFFF_FFF0, 0x1_0000_0008, 0xFFFF_FFF0),
            (0xFFFF_FFF0, 0x3_0000_0008, 0x2_FFFF_FFF0),
            (8, 0x2_FFFF_FFF0, 0x3_0000_0008),
        ] {
            assert_eq!(widened(low, near), expected, "{low:x} near {near:x}");
        }
    }
}
